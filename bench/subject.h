/*
 * subject.h: the ways in which the comparison commits the same work.
 */
#ifndef BENCH_SUBJECT_H
#define BENCH_SUBJECT_H

#include <libpq-fe.h>
#include <stdbool.h>

#include "bench/load.h"

struct subject {
    const char *name, *what;
    int (*run)(struct load *load); /* enum ls_exit, the reason on stderr; nothing of it goes on when it returns */
    bool coordinator;              /* needs one, and the participants' names */
    bool log;                      /* needs the yardsticks' decision log */
};

const struct subject *subject_find(const char *name);
const struct subject *subject_at(size_t index); /* NULL behind the last */

int subject_none(struct load *load);
int subject_bare(struct load *load);
int subject_limit(struct load *load);
int subject_2pc(struct load *load);
int subject_2pc_decided(struct load *load);
int subject_orchestrated(struct load *load);
int subject_choreographed(struct load *load);

/* A session in pipeline mode with everything prepared that the workload says to this database. NULL: said on stderr. */
PGconn *subject_session(const struct load *load, uint32_t database);
/* False when the answer is an error, or a statement that must touch a row has touched none. `cause` (LOAD_CAUSE_TEXT
 * bytes) then says what it was, unless it says something already. */
bool subject_result_ok(PGresult *result, char *cause);

#define SUBJECT_GID_MAX 64
/* The name of a branch: no two of a server are the same, even when two databases of one take part. */
void subject_gid(const struct work *work, uint32_t part, char gid[SUBJECT_GID_MAX]);

#endif
