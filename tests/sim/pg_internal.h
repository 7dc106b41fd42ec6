/*
 * pg_internal.h: what pg.c (clusters: WAL, transactions, locks, crashes) and pg_session.c (requests, backends) share.
 */
#ifndef SIM_PG_INTERNAL_H
#define SIM_PG_INTERNAL_H

#include "tests/sim/pg.h"

#define XID_FIRST 700u
#define SESSIONS_MAX 256u
#define OPS_MAX 512u
#define WAITERS_MAX 64u
#define NO_XACT (-1)

enum xact_state { XACT_RUNNING, XACT_PREPARED, XACT_COMMITTED, XACT_ABORTED };

struct xact {
    enum xact_state state;
    uint32_t participant; /* its database */
    bool branch;          /* began as a branch of ours (not a stranger) */
    bool tombstone;
    bool has_outcome; /* wrote an outcome row */
    char gtid[LS_GTID_MAX + 1];
    char gid[LS_GID_MAX + 1]; /* while and after it was prepared */
    char owner[LS_ROLE_MAX + 1];
    char key[LS_IDENTITY_MAX + LS_KEY_MAX + 2];
    uint8_t hash[16];
    uint64_t rows; /* bit per row it has locked */
    uint64_t prepared_us;
    uint64_t outside_us; /* an outside hand finished it, 0: none */
    /* a saga's step */
    struct pg_saga saga;
    bool effect;             /* its statement has run */
    enum pg_barrier barrier; /* what it has written into the step's row */
    uint64_t barrier_order, kept;
    bool prunes; /* it has deleted all rows of the saga */
};

enum wal_kind { WAL_ASSIGN, WAL_PREPARE, WAL_COMMIT, WAL_ABORT, WAL_FENCE };
struct wal_record {
    enum wal_kind kind;
    uint64_t lsn; /* its end */
    int xact;
    uint32_t participant;
    struct agent_fence fence;
};

struct cluster {
    bool up;
    uint64_t boot; /* grows with each start */
    uint64_t system_id;
    uint32_t timeline;
    struct agent_switch history[PG_HISTORY_MAX];
    uint32_t history_count;
    uint32_t max_prepared;
    struct wal_record *wal;
    size_t wal_count, wal_capacity, wal_flushed;
    uint64_t lsn, first_lsn;
    struct xact *xacts; /* xid = XID_FIRST + index */
    int xact_count, xact_capacity;
};

struct database {
    bool has_fence;
    struct agent_fence fence;
    int advisory;       /* session that holds the advisory lock, -1: none */
    uint64_t inherited; /* sessions with a serial up to this one were there when the lock was taken, or at the clean-up
                           behind it */
    int holder[PG_ROWS_MAX]; /* xact that locks the row, NO_XACT: none */
    int waiters[PG_ROWS_MAX][WAITERS_MAX];
    uint32_t waiter_count[PG_ROWS_MAX];
};

enum session_tx { TX_IDLE, TX_OPEN, TX_FAILED };

#define ITEMS_MAX (PG_STATEMENTS_MAX + 8u)
struct item {
    enum agent_item kind;
    uint32_t statement;
};

struct session {
    bool used;
    bool control;
    uint32_t participant;
    uint64_t life, branch, serial;
    bool client_gone;
    enum session_tx tx;
    int xact;
    int waits_for; /* row, -1: none */
    bool unmarked; /* the marker set after BEGIN is gone */
    bool deferred; /* a deferred constraint will fail */
    uint64_t turn; /* calls that were scheduled for an earlier turn are void */
    /* the pipeline it works on */
    struct pg_op *run; /* NULL: idle */
    struct item items[ITEMS_MAX];
    uint32_t item_count, at, drop_at;
    uint64_t waits_until_us; /* for an outcome row or a barrier row that somebody holds */
    uint64_t stalled_until_us;
    bool doomed;          /* to be terminated when it hears of it */
    uint64_t after_fence; /* the COMMIT of a saga's step stands behind this */
};

struct sim_pg {
    struct cluster clusters[SIM_PARTICIPANTS_MAX];
    struct database databases[SIM_PARTICIPANTS_MAX];
    uint32_t cluster_of[SIM_PARTICIPANTS_MAX];
    struct session sessions[SESSIONS_MAX];
    struct pg_op *ops[OPS_MAX];
    uint64_t next_serial, next_barrier;
    uint64_t fence_stored[SIM_PARTICIPANTS_MAX]; /* serial of the newest fence request that was carried out */
    uint64_t fence_at_us[SIM_PARTICIPANTS_MAX];  /* fence requests of one agent arrive in order */
    uint32_t strangers; /* prepared by strangers under gids that are not ours: must never be touched */
};

/* pg.c */
struct cluster *cluster_for(struct world *world, uint32_t participant);
struct xact *xact_at(struct world *world, uint32_t participant, int xact);
uint64_t xact_xid(int xact);
int xact_begin(struct world *world, uint32_t participant, const char *gtid, bool branch);
void xact_prepare(struct world *world, uint32_t participant, int xact, const char *gid);
void xact_commit(struct world *world, uint32_t participant, int xact, const char *how);
void xact_abort(struct world *world, uint32_t participant, int xact, const char *how);
int xact_find_prepared(struct world *world, uint32_t participant, const char *gid); /* anywhere in its cluster */
/* What the committed row of a step says, PG_NO_ROW: there is none; and what it has kept. *ret_busy: somebody else is
 * about to change it. */
enum pg_barrier barrier_look(struct world *world, uint32_t participant, const struct pg_saga *saga, int own,
                             uint64_t *ret_kept, bool *ret_busy);
uint32_t cluster_prepared(struct world *world, uint32_t participant);
uint64_t wal_flushed_lsn(const struct cluster *c);
void wal_append_fence(struct world *world, uint32_t participant, const struct agent_fence *fence, bool durable);
/* True when the row is the transaction's now; false: somebody holds it and `session` stands in the queue. */
bool row_lock(struct world *world, uint32_t participant, uint32_t row, int xact, int session);
void row_leave_queue(struct world *world, uint32_t participant, int row, int session);

/* pg_session.c */
void pg_op_free(struct pg_op *op);
void session_row_granted(struct world *world, int session, uint32_t row);
void sessions_server_gone(struct world *world, uint32_t participant);

#endif
