/*
 * pg.h: a model of PostgreSQL servers, as far as the protocol can see them.
 *
 * A cluster has databases, a WAL with LSNs, transaction ids, a list of prepared transactions and a history of
 * timelines. What is modelled because it has broken others:
 *   - a gid is unique per cluster, a prepared transaction can be finished only in its own database; a finished gid may
 * be prepared again by anybody;
 *   - xids and LSNs that were assigned but not flushed (crash) or not replicated (failover) are handed out again;
 *   - a backend whose client died runs its pipeline to the end: it waits for the lock, goes on and PREPAREs
 * (hazards 1.5), or commits what a COMMIT was sent for (1.15), unless client_connection_check_interval notices or
 * somebody terminates it;
 *   - PREPARE of a failed transaction says ROLLBACK; a cancelled wait for the standby is a WARNING; deferred
 * constraints fail late;
 *   - answers get lost before or after the command acted; a crash keeps what was flushed; a failover may lose a suffix
 * of the WAL;
 *   - an outside hand finishes a branch; a stranger prepares a finished gid again, or a gid that only looks like ours.
 * Not modelled: isolation levels, row values, dead-locks other than through lock_timeout, standby servers as such.
 *
 * Statements are text (see client.h) so that they travel through the frames like real SQL.
 */
#ifndef SIM_PG_H
#define SIM_PG_H

#include "coordinator/core/saga.h"
#include "lockstep.pb-c.h"
#include "participant/core/agent.h"
#include "tests/sim/world.h"

#define PG_ROWS_MAX 64u
#define PG_STATEMENTS_MAX 16u
#define PG_HISTORY_MAX 32u
#define PG_SCAN_MAX 64u
#define PG_OWNER "shop"

enum pg_op_kind {
    PG_LOCK,
    PG_CLEAN,
    PG_IDENTITY,
    PG_FENCE,
    PG_SCAN,
    PG_RUN,
    PG_COMMIT1,
    PG_ROLLBACK,
    PG_STOP,
    PG_RELEASE,
    PG_FINISH,
    PG_PROVE,
    PG_READ_KEY,
    PG_SETTLE,
    PG_KEPT,
    PG_FORGET
};

enum pg_statement_kind { PG_WRITE, PG_READ, PG_FAIL, PG_DEFER, PG_END };
enum pg_barrier { PG_NO_ROW, PG_DONE, PG_UNDONE, PG_CANCELLED };
struct pg_statement {
    enum pg_statement_kind kind;
    uint32_t row, step;
};

/* One attempt at a step of a saga. */
struct pg_saga {
    char name[LS_GTID_MAX + 1]; /* the saga's, "": this is no attempt */
    uint32_t epoch, step, log;  /* number of its incarnation */
    uint64_t sequence;
    enum saga_op op;
};

/* One request of an agent. What the effect said goes in; the answer comes back as an agent event. */
struct pg_op {
    enum pg_op_kind kind;
    uint32_t participant;
    uint64_t life; /* of the agent process */
    uint64_t op, branch;
    char gtid[LS_GTID_MAX + 1], gid[LS_GID_MAX + 1], owner[LS_ROLE_MAX + 1];
    uint64_t xid;
    bool commit;              /* PG_FINISH */
    struct agent_fence fence; /* PG_FENCE */
    bool durable;
    char after[LS_GID_MAX + 1]; /* PG_SCAN */
    uint32_t limit;
    bool first, last, one_phase; /* PG_RUN */
    uint32_t lock_timeout_ms, deadline_ms;
    struct pg_statement statements[PG_STATEMENTS_MAX];
    uint32_t statement_count;
    char key[LS_IDENTITY_MAX + LS_KEY_MAX + 2]; /* PG_RUN, PG_READ_KEY: app and key, "" if none */
    uint8_t hash[16];
    struct pg_saga saga;             /* PG_RUN */
    char (*forget)[LS_GTID_MAX + 1]; /* PG_FORGET: sagas whose barrier rows may go */
    uint32_t forget_count;

    /* the server's own */
    bool acted;      /* the server has done it */
    bool orphan;     /* nobody waits for the answer any more */
    bool lost_after; /* the answer gets lost on its way */
    uint32_t slot;
    uint64_t serial, boot, after_fence, wait_until_us;
    struct agent_event event; /* the answer; points into the members below */
    char text[LS_REASON_MAX + 1], sqlstate[LS_SQLSTATE_LEN + 1], text_gtid[LS_GTID_MAX + 1],
        text_owner[LS_ROLE_MAX + 1];
    uint8_t answer_hash[16];
    struct agent_step_rows rows[PG_STATEMENTS_MAX];
    struct agent_switch history[PG_HISTORY_MAX];
    struct pg_scan *scan;
    struct pg_kept *kept;
};
struct pg_kept {
    const char *list[LS_KEPT_PAGE_MAX];
    char name[LS_KEPT_PAGE_MAX][LS_GTID_MAX + 1];
};
struct pg_scan {
    struct agent_prepared rows[PG_SCAN_MAX];
    char gid[PG_SCAN_MAX][LS_GID_MAX + 1];
};

void pg_start(struct world *world);
void pg_stop(struct world *world);
const char *pg_unfinished(struct world *world);

/* A zeroed request to fill in, then to submit. The answer goes to agent_host_answer(). */
struct pg_op *pg_new_op(struct world *world, enum pg_op_kind kind, uint32_t participant, uint64_t life);
/* An operator deletes the row with the fence. False: the server is down. */
bool pg_forget_fence(struct world *world, uint32_t participant);
void pg_submit(struct world *world, struct pg_op *op);
/* The process of an agent is gone: its sessions lose their client. */
/* The fence that the database holds; false: none. */
bool pg_stored_fence(const struct world *world, uint32_t participant, struct agent_fence *ret_fence);
/* How many backends of other lives that were there when this one took the lock, or cleaned up, are still there. */
uint32_t pg_leftovers(const struct world *world, uint32_t participant, uint64_t life);
void pg_client_gone(struct world *world, uint32_t participant, uint64_t life);

/* Everything goes down at once (power failure), and comes back by itself. */
void pg_crash_all(struct world *world);

/* What became of the branch of `gtid` at `participant`, as the server has it now. */
enum pg_fate { PG_NOTHING, PG_RUNNING, PG_PREPARED, PG_COMMITTED, PG_ABORTED };
enum pg_fate pg_branch_fate(const struct world *world, const char *gtid, uint32_t participant);

#endif
