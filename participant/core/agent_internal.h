/*
 * agent_internal.h: the agent core's memory, shared by its own files only.
 *
 *   agent.c   dispatch, start-up order, credits, timers, checks
 *   link.c    the link: Hello, Welcome, fence, frames' sanity
 *   sweep.c   scan, inquiry, verdicts
 *   kept.c    what the database keeps for others: barrier rows, outcome rows, and when they may go
 *   drive.c   what happens to a branch: Work, runs, decisions, proofs, settling
 *   table.c   where branches and ended names are kept
 */
#ifndef LOCKSTEP_AGENT_INTERNAL_H
#define LOCKSTEP_AGENT_INTERNAL_H

#include "participant/core/agent.h"
#include "participant/core/branch.h"

#define SLOT_BITS 20u
#define SLOT_MASK ((1u << SLOT_BITS) - 1u)
#define SLOT_CONTROL SLOT_MASK /* operations that belong to no branch */
#define FENCE_STORE_INTERVAL_US UINT64_C(1000000)
#define SWEEP_AGAIN_US UINT64_C(500000)
#define SWEEP_AGAIN_MAX_US UINT64_C(1000000) /* a verdict may become known at any time; until then locks are held */
/* So long after PREPARE was answered its gid is taken to be listed with our xid: most decisions come sooner, and a look
 * at the list for each would cost every transaction. */
#define LISTING_FRESH_US UINT64_C(100000)
#define PARK_US UINT64_C(2000000) /* a parked branch is proved by itself after so long, whatever the sweep does */

/* How a transaction that is no longer in the table has ended here. */
enum ended_kind { ENDED_COMMITTED, ENDED_ABORTED, ENDED_READ_ONLY, ENDED_HAZARD };
struct ended {
    struct ls_gtid id;
    uint64_t xid; /* of what was committed, 0 if not known */
    enum ended_kind kind;
    uint32_t history; /* agent.history_serial when it ended: on another history it has to be proved again */
    uint32_t next;    /* index + 1 in its hash chain */
};

struct agent_text {
    struct agent_text *next;
    char text[];
};

struct sweep_item {
    char gid[LS_GID_MAX + 1];
    char owner[LS_ROLE_MAX + 1];
    uint64_t xid;
    bool vanished; /* asked since it is not listed */
};

struct agent {
    struct agent_config config;
    enum agent_state state;
    uint64_t now_us;
    struct agent_effects *out;
    struct agent_text *texts;
    uint64_t random;
    uint64_t serial;         /* of operations and branch numbers */
    const char *settled_app; /* while an answer to a settle is being handled: for its Done */

    /* start-up */
    uint64_t control_op;
    uint64_t retry_us; /* start-up step or dial to be tried again */
    uint32_t attempts;
    uint64_t lock_held_us; /* since when the lock was found held; AGENT_NEVER: not */
    struct agent_server server;
    struct agent_switch *history; /* AGENT_HISTORY_MAX */
    uint32_t history_count;
    uint32_t history_serial; /* grows when the server's system id or timeline changes */
    uint32_t max_prepared;
    bool drained, drain_told;

    /* quarantine */
    uint32_t voted_timeline; /* of the newest YES */
    uint64_t voted_system_id;
    uint64_t voted_lsn;
    uint32_t lost_timeline; /* this timeline was found to lack what was voted; 0: none */
    bool quarantined;

    /* link */
    uint64_t link, link_last;
    uint32_t dials;
    bool dialling;
    bool identified; /* identity was read on this link, Hello is out */
    uint64_t greet_due_us; /* GREETING until then, and no longer */
    uint32_t number; /* in the coordinator's registry */
    uint32_t credits_told, credits_most, credits_held;
    bool has_fence;
    struct agent_fence fence;  /* the newest seen; Hello says it */
    struct agent_fence stored; /* known to be in the database */
    struct agent_fence handed; /* handed to the host to store */
    bool has_stored, has_handed;
    uint64_t fence_op;
    uint64_t fence_us; /* when a newer one is to be stored */

    /* sweep */
    uint64_t scan_op;
    uint64_t sweep_us; /* next scan (SERVING), or its retry; AGENT_NEVER while one is under way */
    bool sweeping;
    uint32_t sweep_cycle;
    char page_after[LS_GID_MAX + 1]; /* the page: gids greater than this */
    char page_last[LS_GID_MAX + 1];  /* its last gid, if there are more */
    bool page_more;
    bool page_again;       /* it is being read a second time, after its answer */
    bool sweep_left;       /* something could not be acted upon for lack of room, or was answered with "pending" */
    uint32_t sweeps_hasty; /* cycles in a row that left something */
    uint32_t scan_attempts;
    uint64_t inquiry_token; /* 0: none out */
    uint64_t inquiry_due_us;
    struct agent_server scan_server;
    uint32_t foreign_count, foreign_told; /* in this cycle, and when it was last reported */
    struct sweep_item *items;             /* AGENT_INQUIRY_ITEMS_MAX */
    struct agent_prepared *item_out;      /* the same, as the effect shows them */
    uint32_t item_count;
    uint32_t human_count;

    /* what may be forgotten */
    bool speaks_saga; /* the coordinator understands Kept */
    uint64_t kept_op, forget_op, kept_token;
    uint64_t kept_us;        /* next page, or the next try if no answer comes */
    uint64_t forget_rest_us; /* no Forget that was not asked for before then */
    char kept_after[LS_GTID_MAX + 1];
    bool kept_more;          /* the page was full */
    bool kept_cycle;         /* forget_op belongs to a page */
    const char **kept_sagas; /* LS_KEPT_PAGE_MAX; of the page that is being handled */

    /* branches */
    struct agent_branch **slots;
    uint32_t slot_count, slot_used;
    uint32_t *free_slots;
    uint32_t free_count;
    struct agent_branch **hash;
    uint32_t hash_size;
    uint32_t branch_count, recovered_count;
    uint32_t lingering_workers, lingering_slots; /* see table_count() */
    struct agent_branch *order_first, *order_last;
    struct agent_branch *dead; /* freed at the next step */
    struct agent_branch **heap;
    uint32_t heap_count;

    /* ended names */
    struct ended *ended;
    uint32_t *ended_hash;
    uint32_t ended_hash_size, ended_count, ended_next;
    struct ls_gtid floor; /* the highest name ever dropped from the ring, of the present incarnation; epoch 0: none */

    struct agent_stats stats;
};

/* agent.c */
struct agent_effect *agent_emit(struct agent *a, enum agent_effect_kind kind);
const char *agent_text(struct agent *a, const char *fmt, ...) LS_PRINTF(2, 3);
void agent_report(struct agent *a, bool alarm, const char *gtid, const char *fmt, ...) LS_PRINTF(4, 5);
uint64_t agent_new_op(struct agent *a, uint32_t slot);
uint64_t agent_backoff_us(struct agent *a, uint32_t attempts, uint64_t min_us, uint64_t max_us);
void agent_stop(struct agent *a, int exit_status, const char *text);
uint32_t agent_credits(const struct agent *a);
void agent_become(struct agent *a, enum agent_state state);
/* Reads the server's identity; answered in GREETING and IDENTIFYING. */
void agent_read_identity(struct agent *a);

/* link.c */
void link_dial(struct agent *a);
void link_on_up(struct agent *a, const struct agent_event *event);
void link_on_down(struct agent *a, const struct agent_event *event);
/* Closes the present link, if any, and does what its loss asks for. `why` NULL: say nothing to the peer. Dials again.
 */
void link_drop(struct agent *a, const char *why);
/* The same without dialling. */
void link_lose(struct agent *a);
void link_say_hello(struct agent *a);
void link_on_welcome(struct agent *a, const struct agent_event *event);
/* False: the frame is not to be looked at. */
void link_tick(struct agent *a);
bool link_take_frame(struct agent *a, const struct agent_event *event);
bool link_welcomed(const struct agent *a);
/* Hands the newest fence to the host unless it has it. */
void link_store_fence(struct agent *a, bool durable);
void link_on_fence_stored(struct agent *a, const struct agent_event *event);

/* sweep.c */
void sweep_begin(struct agent *a);
void sweep_end_of_link(struct agent *a);
void sweep_on_scan(struct agent *a, const struct agent_event *event);
void sweep_on_answer(struct agent *a, const struct agent_event *event);
void sweep_tick(struct agent *a);

/* kept.c */
void kept_begin(struct agent *a);
void kept_end_of_link(struct agent *a);
void kept_on_page(struct agent *a, const struct agent_event *event);
void kept_on_forget(struct agent *a, const struct agent_event *event);
void kept_on_forgotten(struct agent *a, const struct agent_event *event);
void kept_tick(struct agent *a);

/* drive.c */
void drive_on_work(struct agent *a, const struct agent_event *event);
void drive_on_decide(struct agent *a, const struct agent_decide *decide, bool again);
void drive_on_settle(struct agent *a, const char *gtid);
void drive_on_verdict(struct agent *a, const struct sweep_item *item, enum agent_verdict verdict);
void drive_on_run(struct agent *a, struct agent_branch *b, const struct agent_run *run);
void drive_on_commit1(struct agent *a, struct agent_branch *b, const struct agent_event *event);
void drive_on_rollback(struct agent *a, struct agent_branch *b, enum agent_session session);
void drive_on_stop(struct agent *a, struct agent_branch *b, bool gone);
void drive_on_finish(struct agent *a, struct agent_branch *b, const struct agent_answer *answer);
void drive_on_prove(struct agent *a, struct agent_branch *b, const struct agent_event *event);
void drive_on_key(struct agent *a, struct agent_branch *b, const struct agent_event *event);
void drive_on_settled(struct agent *a, struct agent_branch *b, enum agent_settle_result result, const char *app);
/* A parked branch was listed by a scan: as good as a proof of its own. */
bool drive_on_listed(struct agent *a, struct agent_branch *b, const struct agent_prepared *row,
                     const struct agent_server *server);
/* No scan will say more about it. */
void drive_prove_parked(struct agent *a, struct agent_branch *b);
void drive_on_timer(struct agent *a, struct agent_branch *b);
void drive_on_link_lost(struct agent *a);
void drive_on_server_back(struct agent *a);
/* What else a branch's state promises about its fields; asserts. */
void drive_check(const struct agent *a, const struct agent_branch *b);

/* table.c */
bool table_new(struct agent *a);
void table_free(struct agent *a);
/* NULL: no room or no memory. */
struct agent_branch *table_add(struct agent *a, const struct ls_gtid *id, bool recovered);
/* Out of the table; the memory stays until the next step. */
void table_remove(struct agent *a, struct agent_branch *b);
void table_bury(struct agent *a);
struct agent_branch *table_find(const struct agent *a, const struct ls_gtid *id);
/* The branch that waits for this operation, or NULL. */
struct agent_branch *table_find_op(const struct agent *a, uint64_t op);
/* Counts the branch against the credits, or no longer: to be called after every change of state, holds_credit, retried
 * or link. */
void table_count(struct agent *a, struct agent_branch *b);
void table_set_timer(struct agent *a, struct agent_branch *b, uint64_t at_us);
struct agent_branch *table_first_timer(const struct agent *a);
void table_remember(struct agent *a, const struct ls_gtid *id, enum ended_kind kind, uint64_t xid);
const struct ended *table_ended(const struct agent *a, const struct ls_gtid *id);
/* The name may have been dropped from the ring. */
bool table_below_floor(const struct agent *a, const struct ls_gtid *id);
void table_check(const struct agent *a);

#endif
