/*
 * pg.h: what the agent does on its PostgreSQL server: it carries out the core's AEF_DB_* effects with asynchronous libpq in one libevent
 * loop and answers each with its AEV_DB_* event.
 *
 * Owns every connection to the database:
 *   control    one, as the agent's own role: holds the session advisory lock, ends other backends
 *   finishers  per database role, and a few as the agent's own role: COMMIT PREPARED, ROLLBACK PREPARED, the fence, proofs, outcome rows, scans
 *   workers    one branch each at a time, logged in as the app's database role (SET ROLE would be no boundary)
 * It decides nothing: no vote, no outcome, no retry of anything that could have been done already.
 *
 * It never calls back from inside pg_carry_out() or pg_flush().
 */
#ifndef LOCKSTEP_PG_H
#define LOCKSTEP_PG_H

#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "participant/core/agent.h"
#include "participant/core/relay.h"

/* Where the server is: libpq's keywords and values, without user (but with the agent's own in `user`). */
#define PG_TARGET_MAX 48
struct pg_target {
    char *keywords[PG_TARGET_MAX];
    char *values[PG_TARGET_MAX];
    size_t count;
    char *hosts;    /* names to be resolved, comma-separated; NULL when there is nothing to resolve */
    char *user;     /* the agent's login role */
    char *options;  /* the operator's own `options`, or NULL */
    char *database; /* for logs; NULL: libpq's default */
};
/*
 * Reads a connection string (a service is expanded). LS_ERR_CONFIG with the keyword: syntax; a password in it (use passfile); a user is
 * missing; what lockstep sets itself (application_name, replication, client_encoding other than UTF8).
 */
enum ls_status pg_target_parse(const char *conninfo, struct pg_target *ret_target, struct ls_error *err) LS_MUST_CHECK;
void pg_target_free(struct pg_target *target);

struct pg_config {
    const struct pg_target *target;
    const char *participant;
    const char *coordinator;
    uint32_t workers_max;
    uint32_t finishers_max;   /* per role */
    uint32_t statements_max;  /* prepared by name, per worker session; 0: none */
    uint32_t connect_ms;      /* bound of one attempt to connect */
    uint32_t settle_lock_ms;  /* lock_timeout of a tombstone */
    const char *const *roles; /* database roles that apps are mapped to, for the checks at start */
    size_t role_count;
};

struct pg_callbacks {
    /* An AEV_DB_* or AEV_CONTROL_LOST; now_us is not set. From the loop only; memory is valid during the call. */
    void (*event)(void *context, struct agent_event *event);
    /* The server cannot be used as it is, found when the control session came up: what is wrong, and the statement or setting that mends it.
     * AEV_DB_LOCK with AGENT_LOCK_FAILED follows. */
    void (*refused)(void *context, const char *what, const char *mend);
    /* The lock is ours again, and another agent of this participant has had it meanwhile: this process is to end. From the loop only. */
    void (*superseded)(void *context);
    /* A line for the log; level is enum diag_level. */
    void (*report)(void *context, int level, const char *what, const char *detail);
};

struct pg;

enum ls_status pg_new(struct event_base *base, const struct pg_config *config, const struct pg_callbacks *callbacks, void *context,
                      struct pg **ret_pg, struct ls_error *err) LS_MUST_CHECK;
/* Closes everything; the server rolls back what is open, keeps what is prepared. NULL is fine. */
void pg_free(struct pg *pg);

/* Any AEF_DB_* effect, and AEF_FORGET. For AEF_DB_RUN the work's app must have been mapped: `role` is the database role. */
void pg_carry_out(struct pg *pg, const struct agent_effect *effect, const char *role);
/* After all effects of a step. */
void pg_flush(struct pg *pg);

/* Results of the branch's last run; NULL when there are none. Valid until its next run or AEF_FORGET. */
struct pg_step_result {
    uint32_t step;
    uint64_t rows_affected;
    bool has_rows;
    const char *json; /* array of objects; NUL-terminated; only if has_rows */
};
const struct pg_step_result *pg_results(struct pg *pg, uint64_t branch, uint32_t *ret_count);

/* ---- for the relay (participant/relay_host.c). Answers come from the loop, each exactly once, unless pg_free() comes before. */
enum pg_query_result { PG_QUERY_OK, PG_QUERY_FAILED, PG_QUERY_LOST };
struct conn_item;
/* `item` is NULL or not answered when the result is LOST. */
typedef void pg_query_fn(void *context, enum pg_query_result result, const struct conn_item *item);
#define PG_QUERY_VALUES_MAX 16
/* One statement on a session of the agent's own role; `sql` is a constant. `exclusive`: it may wait for a lock. */
void pg_query(struct pg *pg, const char *sql, int count, const char *const *values, bool exclusive, pg_query_fn *done, void *context);
/* The same, exclusive, and LOST if the agent has lost its lock before the statement's turn comes: another agent may serve, and know better. What is on
 * its way by then ends with its backend. */
void pg_query_locked(struct pg *pg, const char *sql, int count, const char *const *values, pg_query_fn *done, void *context);

/* One statement on a session of its own that is opened for it and bounded by a statement_timeout of PG_LOOK_MS; one at a time, what does not
 * fit into its queue of PG_LOOKS_MAX is LOST. */
void pg_look(struct pg *pg, const char *sql, int count, const char *const *values, pg_query_fn *done, void *context);
#define PG_LOOK_MS 5000
#define PG_LOOKS_MAX 64u

/* One event for one handler. Borrowed until it is answered. */
struct pg_delivery {
    const char *role, *handler; /* the role that has subscribed; the function, quoted as the database has it */
    const char *source;
    int64_t position;
    const char *type, *key;
    int64_t version;
    const char *saga, *payload;
};
typedef void pg_delivered_fn(void *context, enum relay_handled result, const char *sqlstate, const char *reason);
/* Inbox row, handler, what it emits: one transaction, on a worker session of the role. */
void pg_deliver(struct pg *pg, const struct pg_delivery *what, uint32_t statement_ms, pg_delivered_fn *done, void *context);
typedef void pg_parked_fn(void *context, enum relay_parked result);
/* It has failed: kept for another try, or, after attempts_max, for a human. */
void pg_park(struct pg *pg, const struct pg_delivery *what, const char *sqlstate, const char *reason, uint32_t attempts_max, uint32_t wait_ms,
             pg_parked_fn *done, void *context);

struct pg_stats {
    uint32_t workers, workers_idle, finishers, waiting;
    uint64_t pipelines, connects;
    bool control;
    const char *server_version; /* "150018"; "" before the first login */
    const char *database;
};
void pg_stats(const struct pg *pg, struct pg_stats *ret_stats);

#endif
