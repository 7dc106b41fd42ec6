/*
 * statements.h: an app's statements that come again in one session. What has gone through once without rows is prepared by name when the session is
 * free, and sent by that name from then on: the server parses and plans it once and not each time, half of what a small branch costs it.
 *
 * Only INSERT, UPDATE, DELETE and MERGE without RETURNING: a plan whose result changes its type would be refused. The types of the parameters
 * stay those of the first time; where they no longer fit (another search_path, an altered table), the server refuses the statement and it is
 * not prepared again. PostgreSQL documentation: PREPARE, "Notes".
 *
 * The texts are copied. Nothing here talks to a server.
 */
#ifndef LOCKSTEP_PG_STATEMENTS_H
#define LOCKSTEP_PG_STATEMENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STATEMENT_NAME_MAX 15
#define STATEMENT_BYTES_MAX 8192u /* longer ones are sent as they are */

struct statement {
    char *sql;
    char name[STATEMENT_NAME_MAX + 1];
    enum statement_state { STATEMENT_SEEN, STATEMENT_WANTED, STATEMENT_PREPARED } state;
    uint64_t used;
};

/* Of one session. Zeroed is empty. */
struct statements {
    struct statement *list;
    uint32_t count, most; /* most: 0 keeps nothing */
    uint64_t clock;
    uint32_t named;
    char evicted[STATEMENT_NAME_MAX + 1]; /* to be deallocated; "": nothing */
};

/* Statements that their prepared form has failed, of all sessions of an agent. Bounded: old ones are forgotten. */
#define STATEMENTS_REFUSED 256u
struct statements_refused {
    uint64_t digests[STATEMENTS_REFUSED];
    uint32_t next;
};

void statements_init(struct statements *statements, uint32_t most);
void statements_free(struct statements *statements);
/* Its name, if it is prepared; else NULL. Borrowed until the next call that changes the list. */
const char *statements_name(struct statements *statements, const char *sql);
/* It went through, with this command tag and without rows. */
void statements_note(struct statements *statements, const struct statements_refused *refused, const char *sql, const char *tag);
/* Its prepared form has failed with this SQLSTATE. True: the form may be the reason; the session is to be closed. */
bool statements_blame(struct statements *statements, struct statements_refused *refused, const char *sql, const char *sqlstate);

/* How many wait to be prepared. */
uint32_t statements_wanted(const struct statements *statements);
/* The server has taken the first `done` of them; the next, if any, it has refused: for good, or in this moment. */
void statements_prepared(struct statements *statements, struct statements_refused *refused, uint32_t done, bool for_good);

#endif
