/*
 * engine.h: the coordinator's protocol engine: events in, effects out.
 *
 * Pure. engine_step() reads one event (which carries the time), changes memory, and appends effects: what to send, what
 * to log, whom to answer. It has no clock, no socket, no file, no randomness. The daemon (coordinator/main.c) and the
 * simulator (tests/sim) are its two hosts and run the same code.
 *
 * The host's duties, in this order, for every step:
 *   1. carry out the effects in the order given (EF_LOG_* are appended to the log in that order);
 *   2. when the log says that ticket T is durable, hand in EV_LOG_DURABLE with T: only its handler emits COMMIT
 *      (design 2.3; Mohan & Lindsay 1986, presumed abort);
 *   3. when engine_next_timer() has passed, hand in EV_TICK.
 * Effects point into the engine and stay valid until the next engine_step().
 *
 * Names: a transaction of this coordinator's own incarnation is (epoch, sequence); a participant is its registry
 * number. Times are microseconds of a monotonic clock.
 */
#ifndef LOCKSTEP_ENGINE_H
#define LOCKSTEP_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "coordinator/core/txn.h"
#include "lockstep/ids.h"
#include "lockstep/limits.h"
#include "lockstep/status.h"

#define ENGINE_NEVER UINT64_MAX

struct sagas; /* saga.h */

struct engine_config {
    char coordinator[LS_COORDINATOR_MAX + 1];
    char incarnation[LS_INCARNATION_LEN + 1];
    uint32_t epoch;         /* of this life; durable before the engine is made */
    uint32_t in_flight_max; /* transactions admitted and unfinished */
    uint32_t waiting_max;   /* transactions queued for credits */
    uint32_t finished_max;  /* outcomes remembered */
    uint32_t keys_max;      /* Idempotency-Keys remembered */
    uint64_t resend_us;     /* open decisions are sent again this often */
    /* A start presumes nothing about earlier epochs before every participant of the registry has accepted its log, or
     * so much time has passed: a stale copy of the log is refused by an agent that knows better, and until then it must
     * not have aborted anything elsewhere (tests/model, guard WAIT). */
    uint64_t presume_wait_us;
};

/* ------------------------------------------------------------------ events */

enum event_kind {
    EV_PARTICIPANT, /* registry: a participant that ever joined (at start and when a new one joins) */
    EV_RECOVER_TXN, /* recovery: an open decision found in the log, before any link is up */
    EV_RECOVER_KEY, /* recovery: an Idempotency-Key of a committed transaction inside the window */
    EV_AGENT_UP,    /* Hello accepted: a new link; an older one of the same participant is down by that */
    EV_AGENT_READY, /* the agent has cleaned up its earlier life: Work may be sent */
    EV_AGENT_DOWN,  /* the link is gone */
    EV_CREDIT,      /* the agent can hold this many branches */
    EV_RUN,         /* a client submits a transaction */
    EV_CANCEL,      /* abort before the decision (client, operator, result limit); after it: no effect */
    EV_VOTE,        /* a Vote from an agent */
    EV_DONE,        /* a Done from an agent */
    EV_INQUIRY,     /* an agent found one of our gids prepared */
    EV_SETTLE,      /* somebody asks for a one-participant transaction that is not in memory */
    EV_LOG_DURABLE, /* every log effect with a ticket <= this one is durable */
    EV_HORIZON,     /* the log's window moved: keys before it are dropped */
    EV_DRAIN,       /* refuse new transactions from now on */
    EV_TICK         /* time passed */
};

/* One step of a document, as far as the engine must know it. */
struct engine_step_spec {
    uint16_t branch; /* index into event.run.participants */
    uint16_t after_count;
    const uint16_t *after; /* indexes of earlier steps (any branch) that must be done before this one is sent */
};

struct engine_run {
    uint64_t ref;                 /* the host's; comes back in EF_ACCEPTED, EF_JOINED, EF_REFUSED */
    void *document;               /* the host's; given back once by EF_RELEASE unless the run is refused or joined */
    uint32_t app;                 /* the host's number for the certificate identity */
    const uint32_t *participants; /* registry numbers, distinct; one branch each */
    uint32_t participant_count;   /* 1 .. LS_PARTICIPANTS_PER_TXN_CEILING */
    const struct engine_step_spec *steps;
    uint32_t step_count;  /* >= 1; every branch has at least one */
    uint64_t deadline_us; /* absolute, monotonic */
    enum ls_gid_form gid_form;
    bool has_key;
    uint8_t key_digest[16]; /* of identity and Idempotency-Key */
    uint8_t document_digest[16];
};

/* What an inquiry's gtid was found to be in the log, looked up by the host before the event. */
enum kept_kind {
    KEPT_NONE,           /* inside the index, no decision record */
    KEPT_COMMIT,         /* a decision record */
    KEPT_BEYOND_HORIZON, /* the log no longer goes back that far */
    KEPT_FUTURE,         /* an epoch or sequence this log has never handed out */
    KEPT_NOT_YET         /* a record, or a copy of one, that is not durable yet: nothing may be said from it */
};

struct engine_event {
    enum event_kind kind;
    uint64_t now_us;
    union {
        struct {
            uint32_t number;
            const char *name;
        } participant;
        struct {
            uint32_t epoch;
            uint64_t sequence;
            uint32_t app;
            const struct txn_branch_id *branches;
            uint32_t branch_count;
            const uint32_t *hazard_branches; /* registry numbers with a hazard record, or NULL */
            uint32_t hazard_count;
            uint64_t log_position;
            bool has_key;
            uint8_t key_digest[16];
            uint8_t document_digest[16];
        } recover_txn;
        struct {
            uint32_t epoch;
            uint64_t sequence;
            uint64_t log_position;
            uint8_t key_digest[16];
            uint8_t document_digest[16];
        } recover_key;
        struct {
            uint32_t participant;
            uint64_t link;
            uint32_t credits;
            uint64_t system_id;
            uint32_t timeline;
        } agent_up;
        struct {
            uint32_t participant;
            uint64_t link;
        } agent; /* READY, DOWN */
        struct {
            uint32_t participant;
            uint64_t link;
            uint32_t credits;
        } credit;
        struct engine_run run;
        struct {
            uint32_t epoch;
            uint64_t sequence;
            const char *reason;
        } cancel;
        struct {
            uint32_t participant;
            uint64_t link;
            uint32_t epoch;
            uint64_t sequence;
            enum vote_kind kind;
            uint32_t part;           /* VOTE_CONTINUE */
            struct txn_branch_id id; /* VOTE_YES; strings borrowed */
            const char *sqlstate;    /* VOTE_NO; may be NULL */
            const char *reason;      /* may be NULL */
            uint32_t step;
            bool has_step;
            bool retryable;
            bool key_free; /* VOTE_NO of the only participant: nobody has committed under the key */
            uint32_t existing_epoch;
            uint64_t existing_sequence; /* VOTE_EXISTS */
            bool existing_same_document;
        } vote;
        struct {
            uint32_t participant;
            uint64_t link;
            uint32_t epoch;
            uint64_t sequence;
            enum done_kind kind;
            bool stranger;
            const char *reason;
            uint32_t app; /* settled as committed: whose outcome row it is, 0 if it was not said */
        } done;
        struct {
            uint64_t token;
            uint32_t item;
            uint32_t participant;
            uint64_t link;
            uint32_t epoch;
            uint64_t sequence;
            bool one_participant_form;
            const char *gid;
            uint64_t xid;
            uint64_t system_id;
            uint32_t timeline;
            enum kept_kind kept;
            const struct txn_branch_id *kept_branches;
            uint32_t kept_branch_count; /* KEPT_COMMIT */
            bool history_changed;       /* the server's timeline or system id is not what this log last saw there */
            bool vanished;              /* remembered by the agent, and prepared there no more */
        } inquiry;
        struct {
            uint32_t epoch;
            uint64_t sequence;
            uint32_t participant;
            uint32_t app;
        } settle;
        struct {
            uint64_t ticket;
        } log_durable;
        struct {
            uint64_t log_position;
            const struct sagas *sagas; /* that are open: their keys stay. NULL: none */
        } horizon;
    };
};

/* ----------------------------------------------------------------- effects */

enum refuse_why {
    REFUSE_BUSY,        /* 429: the queue is full */
    REFUSE_KEYS_FULL,   /* 429 */
    REFUSE_NOMEM,       /* 429 */
    REFUSE_OFFLINE,     /* 503: `participant` is known but has no link */
    REFUSE_DRAINING,    /* 503 */
    REFUSE_LOG_FULL,    /* 503: no log space can be reserved */
    REFUSE_KEY_MISMATCH /* 422: the key was used with another document */
};

enum verdict {
    VERDICT_IS_PENDING,
    VERDICT_IS_COMMIT,
    VERDICT_IS_ABORT,
    VERDICT_IS_STRANGER,
    VERDICT_IS_FOREIGN,
    VERDICT_IS_HUMAN,
    VERDICT_IS_FORGOTTEN
};

enum effect_kind {
    EF_ACCEPTED,    /* run `ref` is transaction `txn` (waiting or active) */
    EF_JOINED,      /* run `ref` repeats a key: answer with the outcome of (epoch, sequence) */
    EF_REFUSED,     /* run `ref` was not begun: `why`, `participant` */
    EF_SEND_WORK,   /* to branch `branch` of `txn`: part, the steps listed, last */
    EF_SEND_DECIDE, /* to branch `branch` of `txn`: commit or abort */
    EF_SEND_SETTLE, /* to branch 0 of `txn` (one participant) */
    EF_VERDICT,     /* answer to inquiry (token, item) on `link` */
    EF_LOG_COMMIT,  /* append the decision of `txn` (its BR_YES branches); ticket */
    EF_LOG_END,     /* append, unforced: all branches of `txn` are proved finished; ticket */
    EF_LOG_HAZARD,  /* append, forced: `branch` of `txn` is a hazard: reason; ticket */
    EF_OUTCOME,     /* the outcome of `txn` is known (txn->outcome): once, and once more if it turns into a hazard */
    EF_APPLIED,     /* every branch of `txn` is finished */
    EF_PENDING,     /* one participant: the outcome cannot be asked just now; the client may be told 202 */
    EF_REPORT,      /* something an operator should read: text; `txn` may be NULL */
    EF_RELEASE,     /* the host's document is no longer needed */
    EF_STOP         /* stop the process with exit status `exit_status`: text */
};

struct engine_effect {
    enum effect_kind kind;
    const struct txn *txn;
    uint32_t branch;
    uint64_t ref;
    uint64_t ticket;
    union {
        struct {
            uint32_t epoch;
            uint64_t sequence;
        } joined;
        struct {
            enum refuse_why why;
            uint32_t participant;
        } refused;
        struct {
            uint32_t part;
            const uint16_t *steps;
            uint32_t step_count;
            bool last;
        } work;
        struct {
            bool commit;
        } decide;
        struct {
            uint64_t token;
            uint32_t item;
            uint32_t participant;
            uint64_t link;
            enum verdict verdict;
            const char *reason;
        } verdict;
        struct {
            void *document;
        } release;
        struct {
            int exit_status;
        } stop;
        struct {
            uint32_t epoch;
            uint64_t sequence;
            uint32_t participant;
        } hazard; /* EF_LOG_HAZARD; txn may be NULL */
    };
    const char *text; /* EF_REPORT, EF_STOP, EF_LOG_HAZARD */
};

struct engine_effects {
    struct engine_effect *list;
    size_t count;
    size_t capacity;
};

struct engine;

/* NULL when memory is short. */
struct engine *engine_new(const struct engine_config *config);
void engine_free(struct engine *engine);

/* Replaces *effects' contents. Memory of the event is borrowed for the call only. */
void engine_step(struct engine *engine, const struct engine_event *event, struct engine_effects *effects);
void engine_effects_free(struct engine_effects *effects);

/* When EV_TICK is due, ENGINE_NEVER if not at all. */
uint64_t engine_next_timer(const struct engine *engine);

/* Bytes the log can still take beyond what is written; the engine subtracts its own reservations. Set after every
 * append. */
void engine_set_log_room(struct engine *engine, uint64_t bytes);
/* Where the host put the decision of EF_LOG_COMMIT: keys are kept as long as the log keeps their decision. Call after
 * the append. */
void engine_set_log_position(struct engine *engine, uint32_t epoch, uint64_t sequence, uint64_t position);
/* What one transaction with so many branches may come to write: its decision, one copy of it, its end. */
uint64_t engine_log_need(uint32_t branch_count);

/* One-participant transactions up to this one are settled, and their participants must not be asked about them any
 * more: their outcome rows may be gone. None in memory may be unsettled. Never goes back. */
void engine_set_settled(struct engine *engine, uint32_t epoch, uint64_t sequence);
/* The oldest one-participant transaction in memory whose end is not known. False: there is none. */
bool engine_oldest_unsettled(const struct engine *engine, uint32_t *ret_epoch, uint64_t *ret_sequence);

/* May what this log does not know of that epoch be called ended? Every participant has accepted this log since the
 * start, or limits.presume_wait has passed: one who has seen a newer log would have refused it. */
bool engine_has_heard(const struct engine *engine, uint32_t epoch);

/* ---- for sagas (engine_saga.c); not from inside of a step */
enum engine_saga_answer { ENGINE_SAGA_BEGUN, ENGINE_SAGA_JOINED, ENGINE_SAGA_REFUSED };
struct engine_saga {
    const uint32_t *participants; /* registry numbers */
    uint32_t participant_count;
    uint64_t log_need; /* reserved; given back by engine_saga_release() */
    bool has_key;
    uint8_t key_digest[16], document_digest[16];
    /* answers */
    uint32_t epoch; /* BEGUN: its name; JOINED: of the saga that has used the key */
    uint64_t sequence;
    enum refuse_why why; /* REFUSED */
    uint32_t participant;
};
/* True when its key answers by itself: it has been begun, or another document has. Comes before whatever else would
 * refuse it. */
bool engine_saga_key_answers(struct engine *engine, struct engine_saga *saga, enum engine_saga_answer *ret_answer);
enum engine_saga_answer engine_saga_begin(struct engine *engine, struct engine_saga *saga);
/* The begin record at `log_position` is durable: the key is kept as long as the log keeps it. */
void engine_saga_key_durable(struct engine *engine, const uint8_t key_digest[16], uint64_t log_position);
/* False: there is no room. What needs no more than it has is never refused. */
bool engine_saga_reserve(struct engine *engine, uint64_t bytes);
/* The same for a saga found in the log: it has to have room. */
void engine_saga_adopt(struct engine *engine, uint64_t bytes);
void engine_saga_release(struct engine *engine, uint64_t bytes);

/* Transactions in memory: unfinished ones; NULL if not there. */
const struct txn *engine_find(const struct engine *engine, uint32_t epoch, uint64_t sequence);
/* Finished ones still remembered. */
const struct txn_finished *engine_find_finished(const struct engine *engine, uint32_t epoch, uint64_t sequence);
/* Iterates the unfinished in order of admission: pass NULL first. */
const struct txn *engine_next(const struct engine *engine, const struct txn *previous);

struct engine_participant_info {
    uint32_t number;
    const char *name;
    bool linked, ready;
    uint64_t link, system_id;
    uint32_t timeline, credits, used, open_branches;
};
bool engine_participant_info(const struct engine *engine, uint32_t number, struct engine_participant_info *ret_info);

struct engine_stats {
    uint64_t begun, committed, aborted, read_only, one_participant, hazards, refused, strangers;
    uint32_t waiting, in_flight, in_doubt; /* in_doubt: voted and undecided, or decided and not applied everywhere */
    uint32_t keys;
    uint64_t log_reserved_bytes;
    uint64_t last_sequence; /* handed out in this epoch: dense from 1 */
};
void engine_stats(const struct engine *engine, struct engine_stats *ret_stats);

/* Checks every invariant of the engine's memory; asserts. For tests and the simulator. */
void engine_check(const struct engine *engine);

#endif
