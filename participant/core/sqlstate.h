/*
 * sqlstate.h: what a SQLSTATE means to the agent, in one table (sqlstate.c). Pure.
 *
 * The same code means different things in different places: 42704 from a statement is a misspelt type, from COMMIT
 * PREPARED it is the question this whole project is about. Hence two columns: while a branch is being built
 * (statements, PREPARE, plain COMMIT), and while it is being finished (COMMIT PREPARED, ROLLBACK PREPARED).
 */
#ifndef LOCKSTEP_AGENT_SQLSTATE_H
#define LOCKSTEP_AGENT_SQLSTATE_H

#include <stddef.h>

enum agent_sql_build {
    AGENT_SQL_NO,           /* rolled back; the same again would fail the same way */
    AGENT_SQL_NO_RETRYABLE, /* rolled back; the same again may succeed */
    AGENT_SQL_UNKNOWN,      /* says nothing about what the server did or will do */
    AGENT_SQL_NO_REPORT     /* rolled back, and an operator should read it: broken server or wrong set-up */
};

enum agent_sql_finish {
    AGENT_SQL_PROVE,  /* "does not exist": never an answer; proof decides at once */
    AGENT_SQL_RETRY,  /* wait, prove, try again */
    AGENT_SQL_DENIED, /* like RETRY, and report: somebody must grant something */
    AGENT_SQL_REPORT  /* like RETRY, and report: lockstep or the server is wrong */
};

struct agent_sqlstate_row {
    const char *code; /* five characters, or a class of two; "" is an error without code */
    enum agent_sql_build build;
    enum agent_sql_finish finish;
    const char *why;
};

/* The row for a code: its own, else its class's, else the last one ("*"). NULL is treated as "". Never NULL. */
const struct agent_sqlstate_row *agent_sqlstate(const char *code);
/* The table, for tests and documents. */
const struct agent_sqlstate_row *agent_sqlstate_table(size_t *ret_count);

#endif
