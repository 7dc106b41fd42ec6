/*
 * agent.h: the pure core of lockstep-agent: events in, effects out.
 *
 * agent_step() reads one event (which carries the time), changes memory, and appends effects: what to send to the
 * coordinator, what to do on the server, whom to tell. No socket, no file, no clock, no libpq, no randomness (jitter
 * comes from config.seed). The daemon (participant/main.c, link.c, pg/) and the simulator (tests/sim) are its two
 * hosts.
 *
 * The core owns: start-up order, the link's state and the fence, the table of branches, credits, inquiries and the
 * sweep. It must never: commit a branch without the coordinator's word for that very (gid, xid, system id); roll back a
 * branch that has voted YES without that word; say "aborted" while something could still prepare or commit; take "does
 * not exist" for an answer.
 *
 * The host's duties:
 *   1. Carry out the effects of a step in the order given. An event's memory (strings, arrays) must stay until the
 *      effects of its step have been carried out: effects may point into it. Whatever else an effect points at belongs
 *      to the core and stays valid until the next agent_step(); copy what an asynchronous operation needs longer.
 *   2. Every AEF_DB_* effect with an `op` is answered exactly once, by the AEV_DB_* event of the same name with the
 *      same op, never from inside agent_step(). Operations of different ops may end in any order. An answer whose op
 *      the core no longer waits for is ignored.
 *   3. When agent_next_timer() has passed, hand in AEV_TICK.
 *   4. AEV_LINK_UP, AEV_LINK_DOWN and every AEV_<frame> carry the number of the link (never 0, never reused in one
 *      life). Frames of another link than the current one are ignored.
 *
 * Life: AEV_START -> DB_LOCK -> DB_CLEAN -> DB_IDENTITY -> DIAL -> (link up) DB_IDENTITY -> Hello -> Welcome -> fence
 * stored -> DB_SCAN, Inquiry, Answer, the same DB_SCAN again, page by page -> Ready -> Work, Decide ... and the sweep
 * repeats for ever. A lost link goes back to DIAL, a lost control session (AEV_CONTROL_LOST) to DB_LOCK; the branches
 * stay.
 *
 * Sessions on the server, as the core sees them:
 *   - The control session holds the advisory lock, and does lock, clean, identity, scan, fence, proof, settle and stop
 *     (the host may use several, and any finisher for proof and fence).
 *   - A worker session is bound to a branch by its first AEF_DB_RUN and unbound by AEF_DB_RELEASE (back to the pool
 *     after a reset) or when it is lost. AEF_DB_STOP ends it: it is never used again, whatever answer it still gives.
 *     Since a lost session may have to be stopped, the host keeps its pid and backend_start until AEF_FORGET.
 *   - Finishers run AEF_DB_FINISH, independent of workers.
 *
 * Times are microseconds of a monotonic clock.
 */
#ifndef LOCKSTEP_AGENT_H
#define LOCKSTEP_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lockstep/ids.h"
#include "lockstep/limits.h"
#include "lockstep/status.h"

#define AGENT_NEVER UINT64_MAX
/* Rows of one scan, items of one Inquiry: about 350 bytes each, so a frame holds them. */
#define AGENT_INQUIRY_ITEMS_MAX 1000u
/* Timeline switches kept; a longer history is cut at its old end by the host. */
#define AGENT_HISTORY_MAX 256u
#define AGENT_DEFAULT_RECOVERED_MAX 8192u
#define AGENT_DEFAULT_FINISHED_MAX 65536u
#define AGENT_FORGET_REST_US 100000u /* between two sagas forgotten one by one */
#define AGENT_DEFAULT_GRACE_MS 1000u
#define AGENT_DEFAULT_LOCK_WAIT_MS 10000u

struct agent_config {
    char participant[LS_PARTICIPANT_MAX + 1];
    char coordinator[LS_COORDINATOR_MAX + 1]; /* the one it serves */
    uint32_t workers_max;                     /* worker sessions: branches that may run at once */
    uint32_t prepared_share;                  /* percent of max_prepared_transactions this agent may fill */
    uint32_t recovered_max;  /* branches acted upon that no live Work stands behind (verdicts, repeated decisions) */
    uint32_t finished_max;   /* ended gtids remembered, so that a duplicate Work is never run again */
    uint64_t sweep_us;       /* interval of the slow scan */
    uint64_t grace_us;       /* beyond Work.deadline_ms before a run is stopped by the agent's own timer */
    uint64_t lock_wait_us;   /* how long a lock held by another session is waited for before giving up */
    uint64_t link_answer_us; /* for Welcome and Answer (LS_LINK_ANSWER_MS); silence is for the link to judge */
    uint64_t backoff_min_us; /* retries on the server: 50 ms ... */
    uint64_t backoff_max_us; /* ... 5 s */
    uint64_t dial_min_us;    /* LS_DIAL_BACKOFF_MS_MIN */
    uint64_t dial_max_us;
    uint64_t seed; /* of the jitter */
};
/* The defaults of everything but the two names and the seed. */
void agent_config_defaults(struct agent_config *config);

/* ------------------------------------------------------------- shared words */

/* Where a coordinator's log stands (Frame.fence). */
struct agent_fence {
    char incarnation[LS_INCARNATION_LEN + 1];
    uint32_t epoch;
    uint64_t position;
    uint64_t chain;
};

/* A timeline that ended, and where. */
struct agent_switch {
    uint32_t timeline;
    uint64_t lsn;
};

/* What one statement read about the server: which history it is in, and how far. */
struct agent_server {
    uint64_t system_id;
    uint32_t timeline;   /* of pg_walfile_name(pg_current_wal_insert_lsn()), not of pg_control_checkpoint() */
    uint64_t insert_lsn; /* pg_current_wal_insert_lsn(): the end of its WAL */
    uint64_t flush_lsn;  /* pg_current_wal_flush_lsn(): what a crash of the server cannot take back */
};

/* What a vote and a decision are bound to (design 2.7). */
struct agent_identity {
    uint64_t system_id;
    uint32_t timeline;
    uint64_t xid; /* full transaction id (xid8); 0: not known */
    /* pg_current_wal_flush_lsn() read after PREPARE: an upper bound of its record's end that no crash takes back (the
     * insert position would cover unflushed records of others, and an honest crash would look like lost WAL). 0: not
     * known. */
    uint64_t lsn;
};

/* The worker session after something was done on it. */
enum agent_session {
    AGENT_SESSION_IDLE, /* alive, no transaction open */
    AGENT_SESSION_OPEN, /* alive, the branch's transaction is open and not failed */
    AGENT_SESSION_LOST  /* no longer usable: what it was doing may still go on in the server */
};

/* How the server answered a command that is not a run. */
struct agent_answer {
    bool lost;            /* no answer, or one that says nothing about the command (socket closed) */
    bool warning;         /* a WARNING came with a success: wait for a standby cancelled */
    bool rolled_back;     /* the command tag was ROLLBACK */
    const char *sqlstate; /* NULL or "": no error, or a client-side error without code when `lost` */
    const char *message;  /* may be NULL */
};

/* Parts of a run's pipeline, in order. */
enum agent_item {
    AGENT_ITEM_NONE, /* nothing failed */
    AGENT_ITEM_BEGIN,
    AGENT_ITEM_MARKER,      /* SET LOCAL of marker, timeouts */
    AGENT_ITEM_OUTCOME_ROW, /* one_phase: the insert of the outcome row */
    AGENT_ITEM_BARRIER,     /* a saga's step: its barrier row. LS001: it had an answer already, `barrier` says which */
    AGENT_ITEM_STATEMENT,   /* failed_step says which */
    AGENT_ITEM_RESULTS,     /* the server was content, but rows_max or bytes_max is exceeded */
    AGENT_ITEM_CONSTRAINTS, /* SET CONSTRAINTS ALL IMMEDIATE, SET LOCAL of what the branch may not change */
    AGENT_ITEM_GUARD,       /* the guard query: `guard` says which guard */
    AGENT_ITEM_PREPARE,
    AGENT_ITEM_LSN /* LSN, system id and timeline behind PREPARE */
};

/* What the guard query said. Whatever is not AGENT_GUARD_OK has kept PREPARE from running. */
enum agent_guard {
    AGENT_GUARD_NONE, /* not reached, or the part has none (not the last) */
    AGENT_GUARD_OK,
    AGENT_GUARD_READ_ONLY,    /* no xid, below SERIALIZABLE, no locks above AccessShare, no advisory locks */
    AGENT_GUARD_MARKER_LOST,  /* a statement ended the transaction */
    AGENT_GUARD_FOREIGN_OWNER /* current role is not the one that was logged in */
};

/* What the barrier row of a saga's step says; numbers of lockstep.proto's BarrierState. */
enum agent_barrier { AGENT_BARRIER_DONE = 0, AGENT_BARRIER_UNDONE = 1, AGENT_BARRIER_CANCELLED = 2 };

struct agent_step_rows {
    uint32_t step;
    uint64_t rows_affected;
    bool has_expect;
    uint32_t expect_rows;
};

/*
 * What came of one AEF_DB_RUN. When the transaction has failed (or a guard stopped it) and the session lives, the host
 * sends ROLLBACK itself and reports after the server has answered it: session is then AGENT_SESSION_IDLE.
 */
struct agent_run {
    bool nothing_sent; /* no session could be had, or nothing of the pipeline left: it certainly did not run */
    enum agent_session session;
    enum agent_item failed; /* the first item answered with an error */
    uint32_t failed_step;
    const char *sqlstate; /* of that error; NULL for client-side errors */
    const char *message;
    enum agent_guard guard;
    const char *prepare_tag;        /* command tag of PREPARE; NULL: not answered, skipped or failed */
    bool prepare_warning;           /* a WARNING came while PREPARE was the current command */
    struct agent_identity identity; /* of the branch: xid read before PREPARE, the rest behind it */
    const char *owner;              /* role that owns the prepared transaction */
    const struct agent_step_rows *rows;
    uint32_t row_count;
    /* A saga's step: what its row says once this run is committed; after LS001, what it says instead of it. */
    bool has_barrier;
    enum agent_barrier barrier;
};

/* One statement's view of one gid (design 2.4): list, status, system id, timeline read together. */
enum agent_xact_status {
    AGENT_XACT_UNKNOWN,     /* not asked (identity.xid is 0) */
    AGENT_XACT_IN_PROGRESS, /* includes prepared */
    AGENT_XACT_COMMITTED,
    AGENT_XACT_ABORTED,
    AGENT_XACT_TOO_OLD, /* NULL */
    AGENT_XACT_FUTURE   /* the ERROR "transaction ID ... is in the future" */
};
struct agent_proof_seen {
    bool listed;         /* in pg_prepared_xacts of this database under this gid */
    uint64_t listed_xid; /* full id */
    const char *listed_owner;
    enum agent_xact_status status;
    struct agent_server server;
    const struct agent_switch *history; /* where older timelines of this server ended, oldest first */
    uint32_t history_count;
};

/* One row of pg_prepared_xacts in this database whose gid is of our form, this coordinator and participant. */
struct agent_prepared {
    const char *gid;
    uint64_t xid;
    const char *owner;
    uint64_t age_ms;
    bool foreign; /* scan: no role that the agent may act as owns it, so it is not from here, whatever its gid says */
    bool vanished; /* inquiry: voted YES here and not listed any more */
};

enum agent_verdict { /* numbers of lockstep.proto's Verdict */
                     AGENT_VERDICT_PENDING = 0,
                     AGENT_VERDICT_COMMIT = 1,
                     AGENT_VERDICT_ABORT = 2,
                     AGENT_VERDICT_STRANGER = 3,
                     AGENT_VERDICT_FOREIGN = 4,
                     AGENT_VERDICT_HUMAN = 5,
                     AGENT_VERDICT_FORGOTTEN = 6
};
struct agent_answer_item {
    const char *gid;
    uint64_t xid;
    enum agent_verdict verdict;
    const char *reason; /* may be NULL */
};

enum agent_vote { /* numbers of lockstep.proto's VoteKind */
                  AGENT_VOTE_YES = 0,
                  AGENT_VOTE_NO = 1,
                  AGENT_VOTE_READ_ONLY = 2,
                  AGENT_VOTE_CONTINUE = 3,
                  AGENT_VOTE_COMMITTED = 4,
                  AGENT_VOTE_EXISTS = 5,
                  AGENT_VOTE_BROKEN = 6
};
enum agent_done { AGENT_DONE_COMMITTED = 0, AGENT_DONE_ABORTED = 1, AGENT_DONE_HAZARD = 2 }; /* DoneKind */

/* ------------------------------------------------------------------ events */

enum agent_event_kind {
    AEV_START,        /* once, first */
    AEV_TICK,         /* time passed */
    AEV_DRAIN,        /* no new branches from now on; AEF_DRAINED follows */
    AEV_CONTROL_LOST, /* the session with the advisory lock is gone: another agent may hold it now */
    /* the link */
    AEV_LINK_UP,   /* dialled, TLS done, the peer is our coordinator */
    AEV_LINK_DOWN, /* the link is gone; with link 0: dialling failed */
    AEV_WELCOME,
    AEV_PING,
    AEV_PONG,
    AEV_RELAYED, /* Route or Ask: the relay's, if the link is still up behind this event */
    AEV_WORK,
    AEV_DECIDE,
    AEV_PROVE, /* one event per item */
    AEV_SETTLE,
    AEV_ANSWER,
    AEV_FORGET,
    /* answers of the server */
    AEV_DB_LOCK,
    AEV_DB_CLEAN,
    AEV_DB_IDENTITY,
    AEV_DB_FENCE,
    AEV_DB_SCAN,
    AEV_DB_KEPT,
    AEV_DB_FORGET,
    AEV_DB_RUN,
    AEV_DB_COMMIT1,
    AEV_DB_ROLLBACK,
    AEV_DB_STOP,
    AEV_DB_FINISH,
    AEV_DB_PROVE,
    AEV_DB_READ_KEY,
    AEV_DB_SETTLE
};

enum agent_lock_result {
    AGENT_LOCK_TAKEN,
    AGENT_LOCK_HELD /* by another session */,
    AGENT_LOCK_FAILED /* no server */
};
enum agent_settle_result {
    AGENT_SETTLE_COMMITTED, /* the outcome row is there and is no tombstone */
    AGENT_SETTLE_ABORTED,   /* a tombstone is there, ours or an earlier one, COMMITTED */
    AGENT_SETTLE_FORGOTTEN, /* no row, below the horizon: it may have been pruned */
    AGENT_SETTLE_BUSY,      /* lock_timeout: somebody holds the key uncommitted */
    AGENT_SETTLE_FAILED     /* anything else, outcome of the insert unknown included */
};

/* Decide and Prove. */
struct agent_decide {
    const char *gtid;
    bool commit; /* true in AEV_PROVE */
    bool one_phase;
    const char *gid;                /* commit: required; abort: may be NULL */
    struct agent_identity identity; /* commit: required */
    const char *owner;              /* may be NULL on abort */
};

struct agent_event {
    enum agent_event_kind kind;
    uint64_t now_us;
    uint64_t link;            /* AEV_LINK_*, frames */
    uint64_t op;              /* AEV_DB_* */
    struct agent_fence fence; /* frames: Frame.fence */
    bool has_fence;           /* a frame without one is a protocol error */
    union {
        struct {
            uint32_t version; /* of the protocol, as chosen */
            uint32_t number;  /* of this participant in the coordinator's registry */
            const char *coordinator;
            bool has_chain_at;
            uint64_t chain_at;
            const char *accepted_incarnation; /* NULL if none */
        } welcome;
        struct {
            uint64_t token;
        } ping;
        struct {
            const char *gtid;
            uint32_t part;
            bool last, one_phase;
            bool saga; /* an attempt at a saga's step */
            enum ls_gid_form gid_form;
            uint32_t lock_timeout_ms, deadline_ms;
            void *work; /* the host's decoded frame; the core's until AEF_FREE_WORK gives it back, exactly once */
            /* The host checks each statement (statement_check) and the app's role first. What may not run at all: */
            const char *refused; /* NULL, or why not: vote NO without a word to the server */
            const char *refused_sqlstate;
            uint32_t refused_step;
            bool has_refused_step;
        } work;
        struct agent_decide decide; /* AEV_DECIDE, AEV_PROVE */
        struct {
            const char *gtid;
        } settle;
        struct {
            uint64_t token;
            const struct agent_answer_item *items;
            uint32_t count;
        } answer;
        struct {
            bool has_token;
            uint64_t token;
            char *const *sagas; /* ended for good */
            uint32_t count;
            bool has_horizon; /* outcome rows up to this transaction of the present incarnation may go */
            uint32_t epoch;
            uint64_t sequence;
        } forget;

        struct {
            enum agent_lock_result result;
        } lock;
        struct {
            bool ok;
        } clean; /* every backend of an earlier life (other nonce, same participant) is gone */
        struct {
            bool ok;
            struct agent_server server;
            const struct agent_switch *history;
            uint32_t history_count;
            uint32_t max_prepared;
            bool has_fence;
            struct agent_fence fence; /* the stored one */
        } identity;
        struct {
            bool ok;
        } fence_stored;
        struct {
            bool ok;
            struct agent_server server; /* read in the same statement */
            const struct agent_prepared *rows;
            uint32_t count;
            bool more; /* the limit cut the list */
        } scan;
        struct {
            bool ok;
            const char *const *sagas; /* in order; fewer than the limit: the last page */
            uint32_t count;
        } kept;
        struct {
            bool ok;
            bool more; /* outcome rows below the horizon are left */
        } forgotten;
        struct agent_run run;
        struct {
            struct agent_answer answer;
            enum agent_session session;
        } commit1;
        struct {
            enum agent_session session;
        } rollback; /* IDLE or LOST */
        struct {
            bool gone;
        } stop; /* true: no backend with that pid and backend_start is left; false: could not tell */
        struct {
            struct agent_answer answer;
        } finish;
        struct {
            bool ok;
            struct agent_proof_seen seen;
        } prove; /* !ok: could not be read */
        struct {
            bool ok;
            bool found;
            const char *gtid; /* the transaction that used the key */
            const uint8_t *hash;
            size_t hash_length;
        } key;
        struct {
            enum agent_settle_result result;
            const char *app; /* COMMITTED: whose outcome row it is; may be NULL */
        } settled;
    };
};

/* ----------------------------------------------------------------- effects */

enum agent_effect_kind {
    AEF_STOP,    /* stop the process with exit_status: text */
    AEF_REPORT,  /* something an operator should read: text; gtid may be NULL; `alarm` for what needs a human */
    AEF_DRAINED, /* nothing runs any more; what is prepared stays prepared */
    AEF_DIAL,    /* dial the coordinator: answered by AEV_LINK_UP or AEV_LINK_DOWN with link 0 */
    AEF_CLOSE, /* close `link` after what was sent; text non-NULL: send Error with it first. No AEV_LINK_DOWN needed. */
    AEF_SEND_HELLO, /* hello */
    AEF_SEND_READY,
    AEF_SEND_REFUSE, /* refuse; AEF_CLOSE follows */
    AEF_SEND_PONG,
    AEF_SEND_CREDIT,
    AEF_SEND_VOTE,
    AEF_SEND_DONE,
    AEF_SEND_INQUIRY,
    AEF_SEND_KEPT,
    AEF_FREE_WORK, /* the host's Work frame is no longer needed */
    AEF_FORGET,    /* the core no longer knows `branch`: results kept for it may go */
    /* on the server */
    AEF_DB_LOCK,     /* connect the control session and try the session advisory lock */
    AEF_DB_CLEAN,    /* terminate backends of earlier lives, wait until they are gone */
    AEF_DB_IDENTITY, /* read server, history, max_prepared_transactions, stored fence */
    AEF_DB_FENCE,    /* store a fence; see below */
    AEF_DB_SCAN,     /* list own gids (every incarnation), gid > after, ordered by gid (bytewise, collate "C"), at most
                        limit */
    AEF_DB_KEPT,     /* list sagas with barrier rows, saga > after, bytewise, at most limit */
    AEF_DB_FORGET,   /* delete the barrier rows of `sagas` and store the horizon, durably; then, if `prune`, delete one
                        batch of outcome rows below the stored horizon */
    AEF_DB_RUN,      /* run one part of a branch in one pipeline */
    AEF_DB_COMMIT1,  /* COMMIT alone on the branch's session */
    AEF_DB_ROLLBACK, /* ROLLBACK on the branch's session, which is idle in its transaction */
    AEF_DB_STOP,     /* end the branch's backend from another session (pg_terminate_backend), answer when it is gone */
    AEF_DB_RELEASE,  /* the branch's session is idle: reset it and give it back. No answer. */
    AEF_DB_FINISH,   /* COMMIT PREPARED or ROLLBACK PREPARED, in a Sync of its own */
    AEF_DB_PROVE,    /* read one agent_proof_seen, by a statement that begins after this effect (several may share one
                        statement) */
    AEF_DB_READ_KEY, /* one_phase: read the outcome row of the Work's (app, key) */
    AEF_DB_SETTLE    /* insert a tombstone for gtid with synchronous commit, on conflict read the existing row; under
                        lock_timeout */
};

/*
 * AEF_DB_FENCE. `durable`: commit it synchronously; the core takes no Work before it is answered. Otherwise with
 * synchronous_commit off; an AEF_DB_FINISH or AEF_DB_FORGET that comes later in the effects must not be sent before
 * this store is committed or stands ahead of it in the same pipeline: the finish flushes the WAL and the fence with it
 * (WAL order). The same for the AEF_DB_COMMIT1 of a saga's step, and a store that came before its AEF_DB_RUN. Of
 * several that were not sent yet the newest will do; answer all. This is what lets an agent refuse a restored log that
 * lacks a decision or a saga carried out here.
 */

struct agent_effect {
    enum agent_effect_kind kind;
    uint64_t link;   /* AEF_SEND_*, AEF_CLOSE */
    uint64_t op;     /* AEF_DB_* */
    uint64_t branch; /* AEF_DB_RUN .. READ_KEY, AEF_SEND_VOTE, AEF_FORGET: number of a branch, never reused in one life;
                        0: none */
    const char *gtid; /* of that branch, or what the report is about; may be NULL */
    const char *text; /* AEF_STOP, AEF_REPORT, AEF_CLOSE */
    union {
        struct {
            int exit_status;
        } stop;
        struct {
            bool alarm;
        } report;
        struct {
            bool has_fence;
            struct agent_fence fence; /* what is remembered */
            struct agent_server server;
            const struct agent_switch *history;
            uint32_t history_count;
            uint32_t credits;
        } hello;
        struct {
            const char *reason;
            bool has_fence;
            struct agent_fence fence;
        } refuse;
        struct {
            uint64_t token;
        } pong;
        struct {
            uint32_t credits;
        } credit;
        struct {
            enum agent_vote kind;
            uint32_t part;
            bool with_results; /* attach the step results of the branch's last AEF_DB_RUN (keep them until then) */
            const char *gid;   /* YES */
            struct agent_identity identity; /* YES */
            const char *owner;              /* YES */
            const char *sqlstate;           /* NO, BROKEN; NULL if none */
            const char *reason;
            uint32_t step;
            bool has_step;
            bool retryable;
            bool key_free; /* NO: nobody has committed under the key */
            const char *existing_gtid; /* EXISTS */
            const uint8_t *existing_hash;
            size_t existing_hash_length;
            bool has_barrier;
            enum agent_barrier barrier;
        } vote;
        struct {
            enum agent_done kind;
            bool stranger;
            const char *reason;
            const char *app; /* settled as committed: whose outcome row it is; NULL otherwise */
        } done;
        struct {
            uint64_t token;
            const struct agent_prepared *items;
            uint32_t count;
            struct agent_server server;
        } inquiry;
        struct {
            uint64_t token;
            const char *const *sagas;
            uint32_t count;
        } kept;
        struct {
            const char *after;
            uint32_t limit;
        } kept_page;
        struct {
            char *const *sagas;
            uint32_t count;
            bool has_horizon, prune;
            const char *incarnation;
            uint32_t epoch;
            uint64_t sequence;
        } forget;
        struct {
            void *work;
        } free_work;
        struct {
            struct agent_fence fence;
            bool durable;
        } fence;
        struct {
            const char *after;
            uint32_t limit;
        } scan; /* after "" at first */
        struct {
            const char *gid; /* two-phase: what PREPARE TRANSACTION is given */
            uint32_t part;
            bool first, last, one_phase;
            void *work;
            uint32_t lock_timeout_ms, deadline_ms; /* deadline: the statement_timeout of this part */
        } run;
        struct {
            const char *gid, *owner; /* owner NULL: not known */
            bool commit;
            uint64_t xid;
        } finish;
        struct {
            const char *gid;
            uint64_t xid;
        } prove; /* xid 0: list only */
        struct {
            void *work;
        } read_key;
    };
};

struct agent_effects {
    struct agent_effect *list;
    size_t count;
    size_t capacity;
};

/* ------------------------------------------------------------------- calls */

struct agent;

/* NULL when memory is short. The configuration must be valid (assert). */
struct agent *agent_new(const struct agent_config *config);
/* Gives no Work back: the host frees what it still holds. NULL is fine. */
void agent_free(struct agent *agent);

/* Replaces *effects' contents. Stops the process when memory for the list is short: a crash is what recovery is for. */
void agent_step(struct agent *agent, const struct agent_event *event, struct agent_effects *effects);
void agent_effects_free(struct agent_effects *effects);

/* When AEV_TICK is due, AGENT_NEVER if not at all. */
uint64_t agent_next_timer(const struct agent *agent);

enum agent_state {
    AGENT_NEW,
    AGENT_LOCKING,     /* wants the advisory lock */
    AGENT_CLEANING,    /* ends backends of earlier lives */
    AGENT_IDENTIFYING, /* reads what the server is */
    AGENT_DIALLING,    /* waits for a link or to dial again */
    AGENT_GREETING,    /* link up; identity read again, Hello sent, Welcome awaited */
    AGENT_ACCEPTING,   /* Welcome is good; its fence is being stored durably */
    AGENT_ASKING,      /* first scan and its inquiries */
    AGENT_SERVING,     /* Ready was sent */
    AGENT_STOPPED,
    AGENT_STATE_COUNT
};

struct agent_stats {
    enum agent_state state;
    uint64_t link;
    bool quarantined, drained;
    uint32_t credits;  /* as last told */
    uint32_t branches; /* in the table */
    uint32_t running, open, prepared, finishing,
        lingering; /* lingering: ended for the coordinator, not yet on the server */
    uint64_t votes_yes, votes_no, votes_read_only, one_phase_committed, committed, rolled_back, hazards, strangers,
        proofs, retries, sweeps;
};
void agent_stats(const struct agent *agent, struct agent_stats *ret_stats);
const char *agent_state_name(enum agent_state state);

/* For tests, tools and the simulator; see branch.h. NULL: not there / no more. */
struct agent_branch;
const struct agent_branch *agent_find(const struct agent *agent, const char *gtid);
const struct agent_branch *agent_next(const struct agent *agent, const struct agent_branch *previous);

/* Checks every invariant of the core's memory; asserts. */
void agent_check(const struct agent *agent);

#endif
