/*
 * driver.h: what the files of participant/pg share and nobody else sees.
 *
 *   pg.c       life of the whole, effects handed to their files, answers that come late
 *   target.c   connection strings and what is added to them
 *   control.c  the control session: checks, lock, life, clean-up of earlier lives, end of one backend
 *   lane.c     finishers: tasks, connections per role, the fence ahead of finishes
 *   finish.c   COMMIT PREPARED, ROLLBACK PREPARED, fence stores
 *   proof.c    identity, proof, scan
 *   outcome.c  outcome rows: tombstones, keys
 *   kept.c     barrier rows and outcome rows that may go
 *   worker.c   worker sessions, one branch each
 *   statements.c  statements of a session that come again
 *   query.c    one statement of the agent's own, for the relay
 *   look.c     statements that only look, on a session opened for them
 *   deliver.c  one event to one handler, on a worker session
 *   execute.c  the pipeline of a branch and what came of it
 *   rows.c     rows as JSON
 */
#ifndef LOCKSTEP_PG_DRIVER_H
#define LOCKSTEP_PG_DRIVER_H

#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/diag.h"
#include "common/memory.h"
#include "lockstep.pb-c.h"
#include "lockstep/limits.h"
#include "participant/pg/conn.h"
#include "participant/pg/pg.h"
#include "participant/pg/rows.h"
#include "participant/pg/statements.h"

#define PG_NONCE_DIGITS 12
#define PG_SECRET_DIGITS 32
#define PG_APPLICATION_NAME_MAX 63 /* NAMEDATALEN - 1: the server cuts what is longer */
#define PG_MESSAGE_MAX LS_REASON_MAX
#define PG_BRANCH_BUCKETS 1024

/* What SQL_LOGIN said of one session. */
struct login {
    char pid[12];
    char started[40]; /* backend_start: pid and this name one backend for ever */
    char user[LS_ROLE_MAX + 1];
    char sync_floor[16];
    uint64_t system_id;
};

/* ---- branches and workers */

struct pg;

enum run_layout_none { RUN_NONE = UINT32_MAX };
/* Where each command stands in the pipeline of a run; RUN_NONE: not in this one. */
struct run_layout {
    uint32_t begin, marker, outcome, barrier, first_statement, constraints, guard, prepare, lsn;
};

struct session;

struct branch {
    uint64_t number;
    char gtid[LS_GTID_MAX + 1];
    struct branch *hash_next;
    /* a session is there for it; none can be had */
    void (*send)(struct pg *pg, struct branch *branch);
    void (*no_session)(struct pg *pg, struct branch *branch, const char *reason);
    struct session *session;
    /* the backend that last worked for it, for AEF_DB_STOP after the session is lost */
    char pid[12], started[40];
    /* the operation asked for or under way on its session; 0: none */
    uint64_t op;
    bool reset_ahead; /* the run's transaction began with RESET ALL, which ROLLBACK undoes */
    bool committing; /* it is COMMIT1, not ROLLBACK */
    const Lockstep__Work *work;
    char gid[LS_GID_MAX + 1];
    bool first, last, one_phase;
    bool changes_rows; /* one of its statements is INSERT, UPDATE, DELETE or MERGE */
    uint32_t lock_timeout_ms, deadline_ms;
    /* a saga's step; saga "": none. result_max: bytes the barrier row may keep */
    char saga[LS_GTID_MAX + 1], step[LS_STEP_MAX + 1];
    Lockstep__SagaOp saga_op;
    uint32_t result_max;
    uint64_t fence; /* a saga's step: the newest that the core had asked for when it was to run. COMMIT waits for it. */
    char role[LS_ROLE_MAX + 1], app[LS_IDENTITY_MAX + 1];
    bool waiting; /* in pg->waiting */
    struct branch *wait_next;
    struct run_layout layout;
    struct agent_run run;
    char sqlstate[LS_SQLSTATE_LEN + 1], message[PG_MESSAGE_MAX + 1], owner[LS_ROLE_MAX + 1], tag[32];
    /* results of the last run */
    struct agent_step_rows *rows;
    struct rows_text *texts; /* one per statement */
    struct pg_step_result *results;
    uint32_t result_count;
    struct rows_budget budget;
};

enum session_state { SESSION_OPENING, SESSION_IDLE, SESSION_BUSY };
enum session_dirt { DIRT_NONE, DIRT_SETTINGS /* reset ahead of the next run */, DIRT_MUCH /* cleaned at release */, DIRT_BAD /* closed at release */ };
struct session {
    struct pg *pg;
    struct conn *conn;
    enum session_state state;
    enum session_dirt dirt;
    char role[LS_ROLE_MAX + 1], app[LS_IDENTITY_MAX + 1]; /* never another app's: what one leaves behind hits nobody else */
    struct login login;
    struct branch *branch;
    struct statements statements;
    struct session *next, *prev;
};

/* ---- finishers */

struct lane;
struct task {
    char role[LS_ROLE_MAX + 1]; /* "": the agent's own */
    bool exclusive;             /* may wait for a lock: nothing else goes on the same connection meanwhile */
    bool fenced;                /* the fence must be committed, or stand ahead of it in its pipeline */
    uint64_t fence;             /* as new as this: the newest when it was submitted */
    void (*send)(struct task *task, struct lane *lane);
    void (*fail)(struct task *task, const char *reason); /* no connection could be had; nothing was sent. Answers late. */
    struct pg *pg;
    uint64_t op;
    struct task *next;
};

struct lane {
    struct pg *pg;
    struct lane_group *group;
    struct conn *conn;
    bool ready, exclusive, used; /* used: since the last look for idle ones */
    struct login login;
    struct lane *next;
};

struct task_queue {
    struct task *head, *tail;
};

struct lane_group {
    struct pg *pg;
    char role[LS_ROLE_MAX + 1];
    struct lane *lanes;
    uint32_t count;
    struct task_queue free, fenced;
    struct lane_group *next;
};

/* ---- the control session */

enum control_state { CONTROL_NONE, CONTROL_OPENING, CONTROL_CHECKING, CONTROL_READY, CONTROL_LOCKED };
struct stop;

struct fence_waiter {
    uint64_t op, version;
    struct fence_waiter *next;
};

/* COMMIT of a saga's step that waits for the fence: on another connection, so there is no other way to be behind it. */
struct held_commit {
    uint64_t branch, op, fence;
    struct held_commit *next;
};

/* An answer that must not be given from inside pg_carry_out(). */
struct late {
    struct agent_event event;
    char message[PG_MESSAGE_MAX + 1];
    struct late *next;
};

struct pg {
    struct event_base *base;
    struct pg_callbacks callbacks;
    void *context;
    const struct pg_target *target;
    char participant[LS_PARTICIPANT_MAX + 1], coordinator[LS_COORDINATOR_MAX + 1];
    uint32_t workers_max, finishers_max, statements_max, connect_ms, settle_lock_ms;
    const char *const *roles;
    size_t role_count;
    /* this life */
    char nonce[PG_NONCE_DIGITS + 1], secret[PG_SECRET_DIGITS + 1];
    char name_prefix[PG_APPLICATION_NAME_MAX + 1], application_name[PG_APPLICATION_NAME_MAX + 1];
    struct resolve *resolve;
    char *hostaddr; /* what target->hosts resolved to; NULL when there is nothing to resolve */
    /* control */
    struct conn *control;
    enum control_state control_state;
    struct login control_login;
    uint64_t lock_op, clean_op;
    char lock_key[24];
    bool holder_told;
    bool lived; /* has had the lock */
    uint32_t max_prepared;
    char server_version[16], database[LS_ROLE_MAX + 1];
    struct event *clean_timer, *stop_timer;
    uint32_t clean_rounds;
    struct stop *stops;
    /* workers */
    struct session *sessions;
    uint32_t session_count;
    struct statements_refused refused;
    struct branch *waiting, *waiting_tail;
    struct branch *branches[PG_BRANCH_BUCKETS];
    struct delivery *deliveries;
    /* finishers */
    struct lane_group *groups;
    struct event *idle_timer;
    /* fence */
    struct agent_fence fence;
    uint64_t fence_version;            /* the newest that the core has asked for */
    uint64_t fence_settled;            /* committed, or given up because somebody holds its row */
    uint64_t fence_flying;             /* sent and not answered; 0: none */
    const struct lane *fence_lane;     /* that carries it */
    bool fence_alone;                  /* a task that carries nothing but the fence is queued */
    struct fence_waiter *fence_waiters;
    struct held_commit *held_commits;
    /* late answers */
    struct look_out *look_out; /* look.c; NULL before the first one */
    struct event *late_event;
    struct late *late_head, *late_tail;
    uint64_t away_us[2]; /* when it was last said that no finisher, no worker is to be had; 0: not since one was */
    struct pg_stats stats;
};

/* pg.c */
void pg_answer(struct pg *pg, struct agent_event *event);
/* A zeroed late answer, queued: fill it in. */
struct late *pg_answer_late(struct pg *pg, enum agent_event_kind kind, uint64_t op);
void pg_report(struct pg *pg, int level, const char *what, const char *detail);
/* No session is to be had. Said at once, and then once a minute: while a database is away many ask for one. `there`: one was had. */
enum pg_away { PG_AWAY_FINISHER, PG_AWAY_WORKER };
void pg_report_away(struct pg *pg, enum pg_away kind, const char *reason);
void pg_report_there(struct pg *pg, enum pg_away kind);
/* Fills an agent_answer from a finished item; strings point into the batch. */
void pg_item_answer(const struct conn_batch *batch, uint32_t index, const char *expected_tag, struct agent_answer *ret_answer);
bool pg_read_server(const struct conn_item *item, int row, int first_column, struct agent_server *ret_server);

/* target.c */
enum pg_purpose { PG_PURPOSE_CONTROL, PG_PURPOSE_FINISHER, PG_PURPOSE_WORKER };
enum ls_status pg_connect(struct pg *pg, enum pg_purpose purpose, const char *user, const struct conn_callbacks *callbacks,
                          void *context, struct conn **ret_conn, struct ls_error *err) LS_MUST_CHECK;
bool pg_read_login(const struct conn_item *item, struct login *ret_login);
/* Is the session that answered the one this connection was given? Not behind a pooler. */
bool pg_is_own_session(const struct login *login, const struct conn *conn);
void pg_fill_application_name(const char *participant, const char *nonce, char prefix[PG_APPLICATION_NAME_MAX + 1],
                              char name[PG_APPLICATION_NAME_MAX + 1]);

/* control.c */
void control_lock(struct pg *pg, uint64_t op);
void control_clean(struct pg *pg, uint64_t op);
void control_stop(struct pg *pg, uint64_t op, const char *pid, const char *started);
void control_close(struct pg *pg);

/* lane.c */
void lane_submit(struct pg *pg, struct task *task);
/* Opens the first finisher of a role before its first worker: workers must not take the last connections that the server has, or what they
 * prepared could not be finished. */
void lane_warm(struct pg *pg, const char *role);
/* What was asked to be stored and has no finish to go ahead of goes by itself. */
void lane_flush(struct pg *pg);
/* The fence in flight was answered: those that waited for it go on. */
void lane_fence_settled(struct pg *pg);
/* No connection can be had for the fence: those that wait for it are told so, and come again. */
void lane_fail_fenced(struct pg *pg, const char *reason);
void lane_close_all(struct pg *pg);
void lane_batch_done(struct lane *lane);

/* finish.c */
void finish_start(struct pg *pg, const struct agent_effect *effect);
void fence_store(struct pg *pg, const struct agent_effect *effect);
void fence_send_ahead(struct lane *lane);
void fence_send_alone(struct pg *pg);
/* Ahead of what this lane sends next, for that alone. */
void fence_send_along(struct lane *lane);

/* proof.c */
void proof_identity(struct pg *pg, uint64_t op);
void proof_start(struct pg *pg, const struct agent_effect *effect);
void proof_scan(struct pg *pg, const struct agent_effect *effect);

/* outcome.c */
void outcome_settle(struct pg *pg, const struct agent_effect *effect);
void outcome_read_key(struct pg *pg, const struct agent_effect *effect);

/* kept.c */
void kept_page(struct pg *pg, const struct agent_effect *effect);
void kept_forget(struct pg *pg, const struct agent_effect *effect);

/* worker.c */
struct branch *branch_find(struct pg *pg, uint64_t number);
void branch_forget(struct pg *pg, uint64_t number);
/* Finds, opens or waits for a session of branch->role; execute_send() or execute_no_session() follows from the loop or at once. */
void worker_acquire(struct branch *branch, struct pg *pg);
void worker_release(struct pg *pg, struct branch *branch);
void worker_stop(struct pg *pg, const struct agent_effect *effect);
void worker_close_all(struct pg *pg);

/* execute.c */
void execute_run(struct pg *pg, const struct agent_effect *effect, const char *role);
void execute_send(struct pg *pg, struct branch *branch);
void execute_no_session(struct pg *pg, struct branch *branch, const char *reason);
void execute_commit(struct pg *pg, const struct agent_effect *effect);
void execute_rollback(struct pg *pg, const struct agent_effect *effect);
/* The fence has come as far as it has: COMMITs that waited for that are sent. */
void execute_fence_settled(struct pg *pg);
/* The fence cannot be stored now: nothing that waits for it commits. */
void execute_fail_held(struct pg *pg, const char *reason);
void execute_forget_results(struct branch *branch);

/* deliver.c */
void deliver_close_all(struct pg *pg);

/* look.c */
void look_close_all(struct pg *pg);

#endif
