/*
 * saga.h: the orchestrated sagas: events in, effects out. See saga.c for the diagram and the table of moves.
 *
 * Pure, like engine.h, and beside it: the engine runs transactions, this machine runs sagas, and every attempt at a
 * step is a one-participant transaction of the engine that the host submits when it is told SAGA_FX_SEND. The
 * participant's barrier row makes an attempt that is repeated, comes late or races with its own cancellation harmless,
 * so this machine may repeat whatever it is not sure of. What it must never do is act on what is not durable:
 *   - no step is sent before the begin record is durable;
 *   - no step behind the point of no return before the passing is;
 *   - no compensation before the turn is;
 *   - nobody hears of an end before the end is;
 *   - an operator's word acts only once it is.
 *
 * The host's duties for every step: carry out the effects in the order given; hand in SAGA_EV_DURABLE with a record's
 * ticket once it is durable; hand in SAGA_EV_ANSWER once for every SAGA_FX_SEND, with its attempt; hand in SAGA_EV_TICK
 * when saga_next_timer() has passed. Effects stay valid until the next saga_step().
 *
 * A saga is named like a transaction, (epoch, sequence); a participant is its registry number; times are microseconds
 * of a monotonic clock.
 */
#ifndef LOCKSTEP_SAGA_H
#define LOCKSTEP_SAGA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "coordinator/core/saga_policy.h"
#include "lockstep/ids.h"
#include "lockstep/limits.h"

#define SAGA_NEVER UINT64_MAX
#define SAGA_REASON_MAX 255u
#define SAGA_HISTORY_MAX 16u /* failed attempts remembered of one saga, the newest */

enum saga_state {
    SAGA_BEGUN,        /* the begin record is not durable: nothing was sent */
    SAGA_RUNNING,      /* forward; everything sent can still be undone */
    SAGA_PASSED,       /* THE POINT OF NO RETURN IS DURABLE: forward to the end */
    SAGA_COMPENSATING, /* THE TURN IS DURABLE: back to the beginning */
    SAGA_STUCK,        /* in the dead-letter queue: nothing is sent until an operator says what */
    SAGA_COMPLETED,    /* the end is durable */
    SAGA_COMPENSATED,
    SAGA_STATE_COUNT
};

enum saga_kind { SAGA_COMPENSATABLE, SAGA_PIVOT, SAGA_RETRIABLE };
enum saga_op { SAGA_OP_NONE, SAGA_OP_DO, SAGA_OP_UNDO, SAGA_OP_CANCEL };

/* What is known of a step's barrier row. */
enum saga_known {
    SAGA_UNSENT,    /* nothing was ever sent: there is no row */
    SAGA_SENT,      /* the forward action was sent, or may have been by an earlier life: anything may be there */
    SAGA_DONE,      /* done */
    SAGA_UNDONE,    /* done, then undone */
    SAGA_CANCELLED, /* never done, and never will be */
    SAGA_KNOWN_COUNT
};

/* ---- what a document asks for; indexes are the document's */
struct saga_step_spec {
    uint32_t participant;
    enum saga_kind kind;
    uint32_t attempts; /* of the forward action; 0: the policy's */
    uint16_t after_count;
    const uint16_t *after; /* earlier steps */
    bool referenced;       /* a later step, or a compensation, uses what it returned */
    bool undo_refers;      /* its compensation uses what other steps returned */
    bool call;             /* at an HTTP service: no barrier row that could be cancelled, see saga.c */
};

struct saga_spec {
    const struct saga_step_spec *steps; /* copied */
    uint32_t step_count;
    uint64_t deadline_us; /* how long it may take to the point of no return */
};

struct saga_step {
    uint32_t participant, attempts_max;
    enum saga_kind kind;
    uint16_t after_count;
    const uint16_t *after;
    bool referenced, undo_refers, call;
    /* state */
    enum saga_known known;
    enum saga_op op;         /* in flight */
    uint32_t attempt;        /* number of the newest attempt; answers to others are late */
    uint32_t tries, unbegun; /* of what is being tried, failed so far */
    uint64_t due_us;
    bool skip_do, skip_undo; /* an operator's word: counts as done, as undone */
    bool doubted;            /* a pivot that is a call: an attempt may have come there, and its end is not known */
    /* for display */
    uint32_t attempts;
    uint64_t first_unix_ms, settled_unix_ms;
};

struct saga_failure {
    uint32_t step, attempt;
    enum saga_op op;
    uint64_t unix_ms;
    char sqlstate[LS_SQLSTATE_LEN + 1];
    char reason[128];
};

struct saga {
    uint32_t epoch;
    uint64_t sequence;
    enum saga_state state;
    enum saga_state to;   /* while ticket != 0: what the state will be once the record is durable */
    uint64_t ticket;      /* of the record being waited for, 0 none */
    enum saga_state from; /* SAGA_STUCK (or on the way there): where it got stuck */
    bool turning;         /* it must turn as soon as it is certain that the pivot has not happened */
    bool pivot_sent;      /* durably: the pivot, a call, may have left */
    bool alerted;         /* about the deadline, behind the point of no return */
    bool was_recovered;
    uint32_t cause_step; /* UINT32_MAX: none */
    enum saga_error cause_class;
    char sqlstate[LS_SQLSTATE_LEN + 1];
    char reason[SAGA_REASON_MAX + 1]; /* why it turned or got stuck */
    uint64_t begun_unix_ms, deadline_us, deadline_span_us;
    uint64_t deadline_from_unix_ms; /* an operator has given it its time anew; 0: nobody has */
    void *host;                     /* the host's; untouched */
    struct saga_failure *history;   /* ring of SAGA_HISTORY_MAX, NULL before the first failure */
    uint32_t failures;
    uint32_t step_count;
    struct saga_step *steps;
    uint16_t *after;
    /* machine's own */
    struct saga *hash_next, *order_next, *order_prev, *log_next;
    uint64_t due_us;
    size_t heap_index; /* SIZE_MAX: in no heap */
    bool ended;        /* freed at the next step */
};

/* ------------------------------------------------------------------ events */

enum saga_event_kind {
    SAGA_EV_BEGIN,   /* a new saga, made by saga_new() */
    SAGA_EV_RECOVER, /* one found in the log without its end, made by saga_new(); before anything else */
    SAGA_EV_DURABLE, /* every record with a ticket <= this is durable */
    SAGA_EV_ANSWER,  /* what became of an attempt */
    SAGA_EV_CANCEL,  /* its client does not want it any more; without effect behind the point of no return */
    SAGA_EV_OPERATE, /* an operator's word about a stuck one; saga_may() has allowed it */
    SAGA_EV_UP,      /* a participant has come back: what waits for it need not wait longer */
    SAGA_EV_TICK
};

enum saga_answer {
    SAGA_ANSWER_DONE, /* the barrier row, after the attempt or instead of it */
    SAGA_ANSWER_UNDONE,
    SAGA_ANSWER_CANCELLED,
    SAGA_ANSWER_NO_ROW,  /* an undo found no row */
    SAGA_ANSWER_ERROR,   /* rolled back: sqlstate, mismatch, reason */
    SAGA_ANSWER_UNBEGUN, /* nothing was sent */
    SAGA_ANSWER_UNKNOWN, /* it is over, and how is not known: asked again by the next attempt */
    SAGA_ANSWER_BROKEN   /* a hazard, or an undo whose reference is not there: no attempt can do more */
};

/* REFUSE: a pivot that is a call and does not answer has not happened, and will not. SKIP of it: it has. */
enum saga_act { SAGA_ACT_RETRY, SAGA_ACT_SKIP, SAGA_ACT_COMPENSATE, SAGA_ACT_REFUSE };

struct saga_event {
    enum saga_event_kind kind;
    uint64_t now_us;
    uint64_t unix_ms;  /* for display, never for a decision */
    struct saga *saga; /* BEGIN, RECOVER: taken over */
    uint32_t epoch;    /* ANSWER, CANCEL, OPERATE */
    uint64_t sequence;
    union {
        struct {
            enum saga_state state; /* of the newest phase record: RUNNING when there is none */
            enum saga_state from;  /* SAGA_STUCK */
            bool turning, pivot_sent;
            uint64_t deadline_left_us;
        } recover; /* skips, cause and history were put into the saga by the host */
        uint64_t ticket;
        struct {
            uint32_t step, attempt;
            enum saga_answer answer;
            const char *sqlstate, *reason; /* may be NULL */
            bool mismatch;
            bool local; /* of ours: this attempt at a call never left, so it says nothing about earlier ones */
            bool final; /* a service's no that speaks for every attempt under its key */
        } answer;
        const char *reason; /* CANCEL */
        struct {
            enum saga_act act;
            const char *reason;
        } operate;
        uint32_t participant; /* UP */
    };
};

/* ----------------------------------------------------------------- effects */

enum saga_effect_kind {
    SAGA_FX_LOG_BEGIN, /* append, forced; ticket */
    SAGA_FX_LOG_PHASE, /* append, forced: saga->to with cause, skips and history; ticket */
    SAGA_FX_LOG_END,   /* append, forced: saga->to; ticket */
    SAGA_FX_SEND,      /* attempt `attempt` at `op` of `step` */
    SAGA_FX_ABANDON,   /* nobody waits for attempt `attempt` of `step` any more: stop it if that is easy */
    SAGA_FX_STATE,     /* the state has changed to saga->state, durably (BEGUN -> the first one included) */
    SAGA_FX_ENDED,     /* the same for an end; the saga is gone at the next step */
    SAGA_FX_ALERT      /* a human should know: text */
};

struct saga_effect {
    enum saga_effect_kind kind;
    struct saga *saga;
    uint64_t ticket;
    uint32_t step, attempt;
    enum saga_op op;
    const char *text;
};

struct saga_effects {
    struct saga_effect *list;
    size_t count, capacity;
};

struct sagas; /* the machine with all of them: m */

/* `seed`: of the jitter. NULL when memory is short. */
struct sagas *sagas_new(uint32_t epoch, uint64_t seed);
void sagas_free(struct sagas *m);

/* A saga ready for SAGA_EV_BEGIN or SAGA_EV_RECOVER, which then cannot fail. NULL when memory is short. */
struct saga *saga_new(struct sagas *m, uint32_t epoch, uint64_t sequence, const struct saga_spec *spec);
/* Of one that was not handed in. NULL is fine. */
void saga_free(struct saga *saga);
/* Remembers a failed attempt, also when the host fills in what the log kept. */
void saga_remember(struct saga *saga, const struct saga_failure *failure);

void saga_step(struct sagas *m, const struct saga_event *event, struct saga_effects *effects);
void saga_effects_free(struct saga_effects *effects);
uint64_t saga_next_timer(const struct sagas *m);

/* NULL when it is not open. */
struct saga *saga_find(const struct sagas *m, uint32_t epoch, uint64_t sequence);
/* The open ones in order of arrival: pass NULL first. */
const struct saga *saga_next(const struct sagas *m, const struct saga *previous);
size_t saga_count(const struct sagas *m);

/* NULL: an operator may do this now. Otherwise the words why not. */
const char *saga_may(const struct saga *saga, enum saga_act act);
/* May its client still cancel it? */
bool saga_may_cancel(const struct saga *saga);

const char *saga_state_name(enum saga_state state);
const char *saga_known_name(enum saga_known known);
const char *saga_kind_name(enum saga_kind kind);
const char *saga_op_name(enum saga_op op);
const char *saga_act_name(enum saga_act act);
/* The reason a move is legal, NULL when it is not. */
const char *saga_transition(enum saga_state from, enum saga_state to);
const char *saga_known_transition(enum saga_known from, enum saga_known to);

/* Asserts every invariant. For tests and the simulator. */
void saga_check(const struct sagas *m);

#endif
