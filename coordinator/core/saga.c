/*
 * saga.c: the machine of orchestrated sagas.
 *
 *   BEGUN --> RUNNING --> PASSED -----> COMPLETED
 *     |        |  |  \______|________/
 *     |        |  |         |
 *     |        |  +--> COMPENSATING --> COMPENSATED
 *     |        |            |
 *     |        +----+-------+
 *     |             v
 *     |           STUCK --> where it got stuck, or RUNNING -> COMPENSATING
 *     +--> PASSED (every step is retriable: there is nothing to undo)
 *
 * Every arrow is one forced record (the first ones: the begin record), written before anything that depends on it is
 * sent; log_move() hands the record out, on_durable() is the only caller of become(). While a record is on its way
 * (ticket != 0) answers are noted and nothing is sent.
 *
 * What may be trusted in each state, also after a crash:
 *   BEGUN         nothing was sent. A crash forgets it.
 *   RUNNING       compensatable steps and the pivot may have been sent, any of them; no retriable one. All can still be
 *                 undone, unless the pivot has happened: that has to be asked first (a cancel at the pivot).
 *   PASSED        every compensatable step and the pivot are done. Nothing will ever be undone.
 *   COMPENSATING  the pivot has not happened and never will (cancelled, or never sent). Nothing goes forward any more.
 *   STUCK         as in `from`, and nothing is on its way but attempts that were sent before.
 *   COMPLETED     every step is done, once.
 *   COMPENSATED   the barrier row of every step that was ever sent says undone or cancelled, so that no forward action
 *                 that comes late can run.
 *
 * After a start every step that the state allows to have been sent counts as sent. Forward means asking again: the
 * barrier answers `done` with the kept result and runs nothing. Backward means `cancel` first, whose answer says
 * whether there is something to undo.
 *
 * Compensation runs against the order of dependencies: a step is undone when every step that depends on it is settled.
 * Cancels have no effect of their own and go out at once.
 *
 * A call to an HTTP service has no barrier row that we could read or cancel. What is different for it:
 *   - backward, its `undo` is sent whatever is known of it, in its place in the order; the service undoes if it has
 *     done, and remembers if it has not;
 *   - a pivot that is a call and did not answer is asked by the same `do` again, whose key makes it run once. If it
 *     happens now, the saga goes on. A no to its first attempt is one; a no to a later one may only mean that an
 * earlier one is being worked on, so it counts when the service says that it speaks for all of them (answer.final), and
 * is a failure like another otherwise. A failure of ours never counts: the service was not asked;
 *   - one that never answers is for an operator, who finds out: `skip`, it has happened; `refuse`, it has not;
 *   - asking makes it happen, so a later life must know whether it may have left at all: one record more, RUNNING ->
 *     RUNNING, stands before it leaves. All steps before it are done then.
 */
#include "coordinator/core/saga.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lockstep/status.h"

#define FIRST_BUCKETS 1024u

struct sagas {
    uint32_t epoch;
    uint64_t now_us, unix_ms, next_ticket, random;
    struct saga **buckets;
    size_t bucket_count, count;
    struct saga *order_first, *order_last;
    struct saga **heap; /* by due_us */
    size_t heap_count, heap_capacity;
    struct saga *log_first, *log_last; /* a record is on its way, by ticket */
    struct saga *ended;                /* in the last step: effects still point at them */
    struct saga_effects *out;
};

/* ------------------------------------------------------------------ tables */

struct move {
    int from, to;
    const char *reason;
};

static const struct move moves[] = {
    {SAGA_BEGUN, SAGA_RUNNING, "the begin record is durable"},
    {SAGA_BEGUN, SAGA_PASSED, "the begin record is durable and no step can be undone"},
    {SAGA_RUNNING, SAGA_RUNNING, "the pivot is a call, and is about to leave"},
    {SAGA_RUNNING, SAGA_PASSED, "every compensatable step and the pivot are done"},
    {SAGA_RUNNING, SAGA_COMPENSATING, "an expected error, the deadline or a cancel, and the pivot has not happened"},
    {SAGA_RUNNING, SAGA_STUCK, "a step used up its attempts"},
    {SAGA_RUNNING, SAGA_COMPLETED, "every step is done and none was retriable"},
    {SAGA_PASSED, SAGA_COMPLETED, "every step is done"},
    {SAGA_PASSED, SAGA_STUCK, "a step used up its attempts"},
    {SAGA_COMPENSATING, SAGA_COMPENSATED, "every step that was sent is undone or cancelled"},
    {SAGA_COMPENSATING, SAGA_STUCK, "a compensation used up its attempts"},
    {SAGA_STUCK, SAGA_RUNNING, "an operator: retry or skip, or compensate once the pivot is settled"},
    {SAGA_STUCK, SAGA_PASSED, "an operator: retry or skip"},
    {SAGA_STUCK, SAGA_COMPENSATING, "an operator: retry, skip, compensate or refuse"},
};

static const struct move known_moves[] = {
    {SAGA_UNSENT, SAGA_SENT, "the forward action is on its way"},
    {SAGA_SENT, SAGA_DONE, "its barrier row says done"},
    {SAGA_SENT, SAGA_UNDONE, "its barrier row says undone: by an earlier attempt, or another hand"},
    {SAGA_SENT, SAGA_CANCELLED, "its barrier row says cancelled"},
    {SAGA_DONE, SAGA_UNDONE, "the compensation ran"},
    {SAGA_DONE, SAGA_CANCELLED, "the compensation found a cancelled step: another hand"},
    {SAGA_DONE, SAGA_SENT, "the compensation found no row: it is cancelled first"},
};

static const char *find_move(const struct move *list, size_t count, int from, int to) {
    for (size_t i = 0; i < count; i++) {
        if (list[i].from == from && list[i].to == to) {
            return list[i].reason;
        }
    }
    return NULL;
}

const char *saga_transition(enum saga_state from, enum saga_state to) {
    return find_move(moves, sizeof moves / sizeof moves[0], (int)from, (int)to);
}
const char *saga_known_transition(enum saga_known from, enum saga_known to) {
    return find_move(known_moves, sizeof known_moves / sizeof known_moves[0], (int)from, (int)to);
}

const char *saga_state_name(enum saga_state state) {
    static const char *const names[SAGA_STATE_COUNT] = {"begun", "running",   "passed",     "compensating",
                                                        "stuck", "completed", "compensated"};
    assert(state < SAGA_STATE_COUNT);
    return names[state];
}
const char *saga_known_name(enum saga_known known) {
    static const char *const names[SAGA_KNOWN_COUNT] = {"unsent", "sent", "done", "undone", "cancelled"};
    assert(known < SAGA_KNOWN_COUNT);
    return names[known];
}
const char *saga_kind_name(enum saga_kind kind) {
    static const char *const names[] = {"compensatable", "pivot", "retriable"};
    return names[kind];
}
const char *saga_op_name(enum saga_op op) {
    static const char *const names[] = {"none", "do", "undo", "cancel"};
    return names[op];
}
const char *saga_act_name(enum saga_act act) {
    static const char *const names[] = {"retry", "skip", "compensate", "refuse"};
    return names[act];
}

/* ------------------------------------------------------------------ memory */

struct sagas *sagas_new(uint32_t epoch, uint64_t seed) {
    struct sagas *m = calloc(1, sizeof *m);
    if (m == NULL) {
        return NULL;
    }
    m->epoch = epoch;
    m->next_ticket = 1;
    m->random = seed | 1; /* never 0 */
    m->bucket_count = FIRST_BUCKETS;
    m->buckets = calloc(m->bucket_count, sizeof(struct saga *));
    if (m->buckets == NULL) {
        free(m);
        return NULL;
    }
    return m;
}

void saga_free(struct saga *s) {
    if (s != NULL) {
        free(s->history);
        free(s->steps);
        free(s->after);
        free(s);
    }
}

static void bury_ended(struct sagas *m) {
    while (m->ended != NULL) {
        struct saga *s = m->ended;
        m->ended = s->hash_next;
        saga_free(s);
    }
}

void sagas_free(struct sagas *m) {
    if (m == NULL) {
        return;
    }
    bury_ended(m);
    while (m->order_first != NULL) {
        struct saga *s = m->order_first;
        m->order_first = s->order_next;
        saga_free(s);
    }
    free(m->buckets);
    free(m->heap);
    free(m);
}

static bool reserve_heap(struct sagas *m) {
    if (m->count < m->heap_capacity) {
        return true;
    }
    size_t capacity = m->heap_capacity == 0 ? 64 : 2 * m->heap_capacity;
    struct saga **heap = realloc(m->heap, capacity * sizeof(struct saga *));
    if (heap == NULL) {
        return false;
    }
    m->heap = heap;
    m->heap_capacity = capacity;
    return true;
}

static bool copy_steps(struct saga *s, const struct saga_spec *spec) {
    size_t edges = 0;
    for (uint32_t i = 0; i < spec->step_count; i++) {
        edges += spec->steps[i].after_count;
    }
    s->steps = calloc(spec->step_count, sizeof *s->steps);
    s->after = calloc(edges + 1, sizeof *s->after);
    if (s->steps == NULL || s->after == NULL) {
        return false;
    }
    uint16_t *next = s->after;
    for (uint32_t i = 0; i < spec->step_count; i++) {
        const struct saga_step_spec *from = &spec->steps[i];
        struct saga_step *to = &s->steps[i];
        to->participant = from->participant;
        to->kind = from->kind;
        to->attempts_max = from->attempts;
        to->referenced = from->referenced;
        to->undo_refers = from->undo_refers;
        to->call = from->call;
        to->after = next;
        to->after_count = from->after_count;
        for (uint32_t a = 0; a < from->after_count; a++) {
            assert(from->after[a] < i); /* edges go back only: there is no cycle */
            *next++ = from->after[a];
        }
    }
    return true;
}

struct saga *saga_new(struct sagas *m, uint32_t epoch, uint64_t sequence, const struct saga_spec *spec) {
    assert(spec->step_count >= 1 && spec->step_count <= UINT16_MAX);
    struct saga *s = reserve_heap(m) ? calloc(1, sizeof *s) : NULL;
    if (s == NULL || !copy_steps(s, spec)) {
        saga_free(s);
        return NULL;
    }
    s->epoch = epoch;
    s->sequence = sequence;
    s->step_count = spec->step_count;
    s->deadline_span_us = spec->deadline_us;
    s->cause_step = UINT32_MAX;
    s->heap_index = SIZE_MAX;
    s->due_us = SAGA_NEVER;
    return s;
}

/* ------------------------------------------------------------ table, timer */

static size_t bucket_of(const struct sagas *m, uint32_t epoch, uint64_t sequence) {
    uint64_t mixed = (sequence ^ ((uint64_t)epoch << 40)) * UINT64_C(0x9e3779b97f4a7c15);
    return (size_t)(mixed >> 32) & (m->bucket_count - 1);
}

struct saga *saga_find(const struct sagas *m, uint32_t epoch, uint64_t sequence) {
    struct saga *s = m->buckets[bucket_of(m, epoch, sequence)];
    while (s != NULL && (s->epoch != epoch || s->sequence != sequence)) {
        s = s->hash_next;
    }
    return s;
}

const struct saga *saga_next(const struct sagas *m, const struct saga *previous) {
    return previous == NULL ? m->order_first : previous->order_next;
}
size_t saga_count(const struct sagas *m) {
    return m->count;
}

static void grow_buckets(struct sagas *m) {
    size_t count = m->bucket_count * 2;
    struct saga **grown = calloc(count, sizeof(struct saga *));
    if (grown == NULL) {
        return; /* longer chains */
    }
    free(m->buckets);
    m->buckets = grown;
    m->bucket_count = count;
    for (struct saga *s = m->order_first; s != NULL; s = s->order_next) {
        size_t at = bucket_of(m, s->epoch, s->sequence);
        s->hash_next = grown[at];
        grown[at] = s;
    }
}

static void enter(struct sagas *m, struct saga *s) {
    assert(saga_find(m, s->epoch, s->sequence) == NULL);
    if (m->count >= m->bucket_count) {
        grow_buckets(m);
    }
    size_t at = bucket_of(m, s->epoch, s->sequence);
    s->hash_next = m->buckets[at];
    m->buckets[at] = s;
    s->order_prev = m->order_last;
    *(m->order_last == NULL ? &m->order_first : &m->order_last->order_next) = s;
    m->order_last = s;
    m->count++;
    assert(m->count <= m->heap_capacity); /* saga_new() has seen to it */
}

static void heap_place(struct sagas *m, struct saga *s, size_t at) {
    m->heap[at] = s;
    s->heap_index = at;
}

static void heap_up(struct sagas *m, size_t at) {
    struct saga *s = m->heap[at];
    while (at > 0 && m->heap[(at - 1) / 2]->due_us > s->due_us) {
        heap_place(m, m->heap[(at - 1) / 2], at);
        at = (at - 1) / 2;
    }
    heap_place(m, s, at);
}

static void heap_down(struct sagas *m, size_t at) {
    struct saga *s = m->heap[at];
    for (;;) {
        size_t child = 2 * at + 1;
        if (child + 1 < m->heap_count && m->heap[child + 1]->due_us < m->heap[child]->due_us) {
            child++;
        }
        if (child >= m->heap_count || m->heap[child]->due_us >= s->due_us) {
            break;
        }
        heap_place(m, m->heap[child], at);
        at = child;
    }
    heap_place(m, s, at);
}

static void set_timer(struct sagas *m, struct saga *s, uint64_t due_us) {
    if (s->due_us == due_us) {
        return;
    }
    if (s->heap_index != SIZE_MAX) { /* out */
        size_t at = s->heap_index;
        struct saga *last = m->heap[--m->heap_count];
        s->heap_index = SIZE_MAX;
        if (last != s) {
            heap_place(m, last, at);
            heap_up(m, at);
            heap_down(m, last->heap_index);
        }
    }
    s->due_us = due_us;
    if (due_us != SAGA_NEVER) {
        assert(m->heap_count < m->heap_capacity);
        heap_place(m, s, m->heap_count++);
        heap_up(m, s->heap_index);
    }
}

uint64_t saga_next_timer(const struct sagas *m) {
    return m->heap_count > 0 ? m->heap[0]->due_us : SAGA_NEVER;
}

static void leave(struct sagas *m, struct saga *s) {
    set_timer(m, s, SAGA_NEVER);
    struct saga **link = &m->buckets[bucket_of(m, s->epoch, s->sequence)];
    while (*link != s) {
        link = &(*link)->hash_next;
    }
    *link = s->hash_next;
    *(s->order_prev == NULL ? &m->order_first : &s->order_prev->order_next) = s->order_next;
    *(s->order_next == NULL ? &m->order_last : &s->order_next->order_prev) = s->order_prev;
    m->count--;
    s->ended = true;
    s->hash_next = m->ended;
    m->ended = s;
}

/* ----------------------------------------------------------------- effects */

static struct saga_effect *emit(struct sagas *m, enum saga_effect_kind kind, struct saga *s) {
    struct saga_effects *out = m->out;
    if (out->count == out->capacity) {
        size_t capacity = out->capacity == 0 ? 64 : out->capacity * 2;
        struct saga_effect *list = realloc(out->list, capacity * sizeof *list);
        if (list == NULL) {
            abort(); /* a half-made step must not be acted on: die and recover */
        }
        out->list = list;
        out->capacity = capacity;
    }
    struct saga_effect *effect = &out->list[out->count++];
    memset(effect, 0, sizeof *effect);
    effect->kind = kind;
    effect->saga = s;
    return effect;
}

void saga_effects_free(struct saga_effects *effects) {
    free(effects->list);
    *effects = (struct saga_effects){0};
}

static uint64_t draw(struct sagas *m) {
    m->random ^= m->random >> 12;
    m->random ^= m->random << 25;
    m->random ^= m->random >> 27;
    return m->random * UINT64_C(2685821657736338717);
}

/* ------------------------------------------------------------------- steps */

static bool is_done(const struct saga_step *step) {
    return step->known == SAGA_DONE || step->skip_do;
}

/* Backward there is nothing left to do about it. */
static bool is_settled(const struct saga_step *step) {
    switch (step->known) {
    case SAGA_UNSENT:
    case SAGA_UNDONE:
    case SAGA_CANCELLED:
        return true;
    case SAGA_SENT:
    case SAGA_DONE:
    case SAGA_KNOWN_COUNT:
        break;
    }
    return step->kind != SAGA_COMPENSATABLE || step->skip_undo;
}

static void set_known(struct sagas *m, struct saga_step *step, enum saga_known known) {
    if (step->known == known) {
        return;
    }
    assert(saga_known_transition(step->known, known) != NULL);
    step->known = known;
    step->settled_unix_ms = m->unix_ms;
}

static struct saga_step *pivot_of(struct saga *s) {
    for (uint32_t i = 0; i < s->step_count; i++) {
        if (s->steps[i].kind == SAGA_PIVOT) {
            return &s->steps[i];
        }
    }
    return NULL;
}

static bool pivot_has_happened(const struct saga *s) {
    for (uint32_t i = 0; i < s->step_count; i++) {
        if (s->steps[i].kind == SAGA_PIVOT && is_done(&s->steps[i])) {
            return true;
        }
    }
    return false;
}

static bool is_call_pivot(const struct saga_step *step) {
    return step->call && step->kind == SAGA_PIVOT;
}

static bool is_unsettled_pivot(const struct saga_step *step) {
    return step->kind == SAGA_PIVOT && step->known == SAGA_SENT && !step->skip_do;
}

/* Was the pivot sent, and is its answer not known? Then nobody may turn yet. */
static struct saga_step *unsettled_pivot(struct saga *s) {
    struct saga_step *pivot = pivot_of(s);
    return pivot != NULL && is_unsettled_pivot(pivot) ? pivot : NULL;
}

/* Is it for a human to find out whether the pivot has happened? */
static bool is_call_pivot_unsettled(const struct saga *s) {
    for (uint32_t i = 0; i < s->step_count; i++) {
        if (is_call_pivot(&s->steps[i]) && is_unsettled_pivot(&s->steps[i])) {
            return true;
        }
    }
    return false;
}

static bool has_kind(const struct saga *s, enum saga_kind kind) {
    for (uint32_t i = 0; i < s->step_count; i++) {
        if (s->steps[i].kind == kind) {
            return true;
        }
    }
    return false;
}

static void send(struct sagas *m, struct saga *s, struct saga_step *step, enum saga_op op) {
    assert(s->ticket == 0 && step->op == SAGA_OP_NONE);
    if (op == SAGA_OP_DO && step->known == SAGA_UNSENT) {
        set_known(m, step, SAGA_SENT);
    }
    step->op = op;
    step->attempt++;
    step->attempts++;
    if (step->first_unix_ms == 0) {
        step->first_unix_ms = m->unix_ms;
    }
    struct saga_effect *effect = emit(m, SAGA_FX_SEND, s);
    effect->step = (uint32_t)(step - s->steps);
    effect->attempt = step->attempt;
    effect->op = op;
}

static void try_afresh(struct saga *s, uint64_t now_us) {
    for (uint32_t i = 0; i < s->step_count; i++) {
        s->steps[i].tries = s->steps[i].unbegun = 0;
        s->steps[i].due_us = now_us;
    }
}

void saga_remember(struct saga *s, const struct saga_failure *failure) {
    if (s->history == NULL) {
        s->history = calloc(SAGA_HISTORY_MAX, sizeof *s->history);
        if (s->history == NULL) {
            return; /* it is for a human only */
        }
    }
    s->history[s->failures++ % SAGA_HISTORY_MAX] = *failure;
}

/* ------------------------------------------------------------------- moves */

static void set_cause(struct saga *s, uint32_t step, enum saga_error class, const char *sqlstate, const char *fmt, ...)
    LS_PRINTF(5, 6);
static void set_cause(struct saga *s, uint32_t step, enum saga_error class, const char *sqlstate, const char *fmt,
                      ...) {
    s->cause_step = step;
    s->cause_class = class;
    (void)snprintf(s->sqlstate, sizeof s->sqlstate, "%s", sqlstate == NULL ? "" : sqlstate);
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(s->reason, sizeof s->reason, fmt, args); /* cut is fine: it is for a human */
    va_end(args);
}

/* Hands the record of a move to the log; the move is made by on_durable(). */
static void log_move(struct sagas *m, struct saga *s, enum saga_state to) {
    assert(s->ticket == 0 && saga_transition(s->state, to) != NULL);
    bool end = to == SAGA_COMPLETED || to == SAGA_COMPENSATED;
    s->to = to;
    s->ticket = m->next_ticket++;
    s->log_next = NULL;
    *(m->log_last == NULL ? &m->log_first : &m->log_last->log_next) = s;
    m->log_last = s;
    emit(m,
         s->state == SAGA_BEGUN ? SAGA_FX_LOG_BEGIN
         : end                  ? SAGA_FX_LOG_END
                                : SAGA_FX_LOG_PHASE,
         s)
        ->ticket = s->ticket;
}

static void become(struct sagas *m, struct saga *s, enum saga_state to) {
    assert(saga_transition(s->state, to) != NULL);
    if (s->state == SAGA_RUNNING && to == SAGA_RUNNING) {
        s->pivot_sent = true;
        return; /* nobody else need know */
    }
    s->state = to;
    if (to == SAGA_COMPENSATING || to == SAGA_PASSED) {
        s->turning = false;
    }
    if (to == SAGA_COMPLETED || to == SAGA_COMPENSATED) {
        emit(m, SAGA_FX_ENDED, s);
        leave(m, s);
        return;
    }
    emit(m, SAGA_FX_STATE, s);
    if (to == SAGA_STUCK) {
        emit(m, SAGA_FX_ALERT, s)->text = s->reason;
    }
}

static void stick(struct sagas *m, struct saga *s) {
    s->from = s->state;
    log_move(m, s, SAGA_STUCK);
}

/* Attempts on their way are left to the barrier: whoever is first there, forward action or cancel, decides. */
static void abandon_forward(struct sagas *m, struct saga *s) {
    for (uint32_t i = 0; i < s->step_count; i++) {
        struct saga_step *step = &s->steps[i];
        bool asked = is_call_pivot(step); /* its answer is what everybody waits for */
        if (step->op == SAGA_OP_DO && !asked) {
            struct saga_effect *effect = emit(m, SAGA_FX_ABANDON, s);
            effect->step = i;
            effect->attempt = step->attempt;
            step->op = SAGA_OP_NONE;
        }
    }
}

/* From now on it goes back, unless the pivot turns out to have happened. */
static void want_turn(struct sagas *m, struct saga *s) {
    assert(s->state == SAGA_RUNNING && s->ticket == 0);
    s->turning = true;
    abandon_forward(m, s);
    try_afresh(s, m->now_us);
}

/* ---------------------------------------------------------------- progress */

static bool is_due(const struct sagas *m, const struct saga_step *step, uint64_t *next_us) {
    if (step->due_us > m->now_us) {
        *next_us = step->due_us < *next_us ? step->due_us : *next_us;
        return false;
    }
    return true;
}

static bool all_before_are_done(const struct saga *s, const struct saga_step *step) {
    for (uint32_t a = 0; a < step->after_count; a++) {
        if (!is_done(&s->steps[step->after[a]])) {
            return false;
        }
    }
    return true;
}

static bool done_up_to(const struct saga *s, bool retriable_too) {
    for (uint32_t i = 0; i < s->step_count; i++) {
        if ((retriable_too || s->steps[i].kind != SAGA_RETRIABLE) && !is_done(&s->steps[i])) {
            return false;
        }
    }
    return true;
}

/* Somebody else has cancelled a step that is still wanted. */
static bool step_is_refused(const struct saga_step *step) {
    return (step->known == SAGA_CANCELLED || step->known == SAGA_UNDONE) && !step->skip_do;
}

/* The point of no return: the pivot has happened; without a pivot, everything that could be undone is done. That the
 * pivot is done says that every step before it is. */
static bool is_past(struct saga *s) {
    const struct saga_step *pivot = pivot_of(s);
    return pivot != NULL ? is_done(pivot) : !s->turning && done_up_to(s, false);
}

/* Before anything else is looked at: behind this point neither deadline nor cancel turns it. */
static void check_past(struct sagas *m, struct saga *s) {
    if ((s->state == SAGA_PASSED || is_past(s)) && done_up_to(s, true)) {
        log_move(m, s, SAGA_COMPLETED);
    } else if (s->state == SAGA_RUNNING && is_past(s)) {
        log_move(m, s, SAGA_PASSED);
    }
}

static void go_forward(struct sagas *m, struct saga *s, uint64_t *next_us) {
    for (uint32_t i = 0; i < s->step_count; i++) {
        struct saga_step *step = &s->steps[i];
        bool allowed = s->state == SAGA_PASSED || step->kind != SAGA_RETRIABLE;
        if (is_done(step) || step->op != SAGA_OP_NONE || !allowed || !all_before_are_done(s, step) ||
            !is_due(m, step, next_us)) {
            continue;
        }
        if (is_call_pivot(step) && !s->pivot_sent) {
            log_move(m, s, SAGA_RUNNING);
            return; /* every other step is done, or comes after it */
        }
        send(m, s, step, SAGA_OP_DO);
    }
}

/* It wants to turn, and its pivot is a call that may have left. What comes before the pivot is done: asked again, when
 * this life does not know what it returned, it answers and does nothing. */
static void ask_call_pivot(struct sagas *m, struct saga *s, uint64_t *next_us) {
    for (uint32_t i = 0; i < s->step_count; i++) {
        if (step_is_refused(&s->steps[i])) { /* another hand: whether the pivot has happened cannot be asked any more */
            set_cause(s, i, SAGA_ERROR_BUSINESS, NULL,
                      "the step is %s at its participant, and the pivot may have happened",
                      saga_known_name(s->steps[i].known));
            stick(m, s);
            return;
        }
    }
    go_forward(m, s, next_us);
}

/* Asks the pivot, if it must be asked, before the turn. */
static void go_turn(struct sagas *m, struct saga *s, uint64_t *next_us) {
    struct saga_step *pivot = unsettled_pivot(s);
    assert(!pivot_has_happened(s));
    if (pivot != NULL && pivot->call) {
        ask_call_pivot(m, s, next_us);
        return;
    }
    abandon_forward(m, s); /* what was sent before it got stuck, when the cancel came during the retry's record */
    if (pivot == NULL) {
        log_move(m, s, SAGA_COMPENSATING);
    } else if (pivot->op == SAGA_OP_NONE && is_due(m, pivot, next_us)) {
        send(m, s, pivot, SAGA_OP_CANCEL);
    }
}

/* May step `index` be undone now? */
static bool may_undo(const struct saga *s, uint32_t index) {
    for (uint32_t i = 0; i < s->step_count; i++) {
        const struct saga_step *other = &s->steps[i];
        if (s->steps[index].undo_refers && other->kind == SAGA_COMPENSATABLE && other->known == SAGA_SENT &&
            !other->skip_undo && !other->call) {
            return false; /* its compensation needs what others returned, and the answer to their cancel brings that */
        }
        for (uint32_t a = 0; a < other->after_count && i > index; a++) {
            if (other->after[a] == index && !is_settled(other)) {
                return false;
            }
        }
    }
    return true;
}

static void go_back(struct sagas *m, struct saga *s, uint64_t *next_us) {
    bool all = true;
    for (uint32_t i = 0; i < s->step_count; i++) {
        struct saga_step *step = &s->steps[i];
        if (is_settled(step)) {
            continue;
        }
        all = false;
        bool undo = step->known == SAGA_DONE || step->call;
        if (step->op != SAGA_OP_NONE || (undo && !may_undo(s, i)) || !is_due(m, step, next_us)) {
            continue;
        }
        send(m, s, step, undo ? SAGA_OP_UNDO : SAGA_OP_CANCEL);
    }
    if (all) {
        log_move(m, s, SAGA_COMPENSATED);
    }
}

static void check_refused(struct sagas *m, struct saga *s) {
    for (uint32_t i = 0; i < s->step_count; i++) {
        if (!step_is_refused(&s->steps[i]) || (s->state == SAGA_RUNNING && s->turning)) {
            continue;
        }
        set_cause(s, i, SAGA_ERROR_BUSINESS, NULL, "the step is %s at its participant",
                  saga_known_name(s->steps[i].known));
        if (s->state == SAGA_RUNNING) {
            want_turn(m, s);
        } else {
            stick(m, s);
            return;
        }
    }
}

static void check_deadline(struct sagas *m, struct saga *s) {
    if (s->deadline_us > m->now_us) {
        return;
    }
    if (s->state == SAGA_RUNNING && !s->turning) {
        set_cause(s, UINT32_MAX, SAGA_ERROR_TIMEOUT, NULL, "the deadline passed before the point of no return");
        want_turn(m, s);
    } else if (s->state == SAGA_PASSED && !s->alerted) {
        s->alerted = true;
        emit(m, SAGA_FX_ALERT, s)->text = "the deadline passed behind the point of no return: it goes on";
    }
}

/* Does whatever can be done now, and sets the timer for the rest. */
static void advance(struct sagas *m, struct saga *s) {
    uint64_t next_us = SAGA_NEVER;
    if (s->ended) {
        return;
    }
    bool forward = s->state == SAGA_RUNNING || s->state == SAGA_PASSED;
    if (forward && s->ticket == 0) {
        check_past(m, s);
    }
    if (forward && s->ticket == 0) {
        check_deadline(m, s);
        check_refused(m, s);
    }
    if (s->ticket == 0) {
        switch (s->state) {
        case SAGA_RUNNING:
            if (s->turning) {
                go_turn(m, s, &next_us);
            } else {
                go_forward(m, s, &next_us);
            }
            break;
        case SAGA_PASSED:
            go_forward(m, s, &next_us);
            break;
        case SAGA_COMPENSATING:
            go_back(m, s, &next_us);
            break;
        case SAGA_BEGUN:
        case SAGA_STUCK:
        case SAGA_COMPLETED:
        case SAGA_COMPENSATED:
        case SAGA_STATE_COUNT:
            break;
        }
    }
    bool deadline =
        s->ticket == 0 && ((s->state == SAGA_RUNNING && !s->turning) || (s->state == SAGA_PASSED && !s->alerted));
    if (deadline && s->deadline_us < next_us) {
        next_us = s->deadline_us;
    }
    set_timer(m, s, s->ticket == 0 ? next_us : SAGA_NEVER);
}

/* ------------------------------------------------------------------ events */

static void on_begin(struct sagas *m, struct saga *s) {
    s->state = SAGA_BEGUN;
    s->begun_unix_ms = m->unix_ms;
    s->deadline_us = m->now_us + s->deadline_span_us;
    enter(m, s);
    bool undoable = has_kind(s, SAGA_COMPENSATABLE) || has_kind(s, SAGA_PIVOT);
    log_move(m, s, undoable ? SAGA_RUNNING : SAGA_PASSED);
}

/* What an earlier life may have done to a step, by the newest durable state. */
static enum saga_known known_after_start(const struct saga *s, const struct saga_step *step, enum saga_state state) {
    bool retriable = step->kind == SAGA_RETRIABLE, call_pivot = is_call_pivot(step);
    switch (state) {
    case SAGA_RUNNING:
        return retriable || (call_pivot && !s->pivot_sent) ? SAGA_UNSENT : SAGA_SENT;
    case SAGA_PASSED:
        return retriable || step->referenced ? SAGA_SENT : SAGA_DONE; /* asked again only for what it returned */
    case SAGA_COMPENSATING:
        return step->kind == SAGA_COMPENSATABLE ? SAGA_SENT : SAGA_UNSENT;
    case SAGA_BEGUN:
    case SAGA_STUCK:
    case SAGA_COMPLETED:
    case SAGA_COMPENSATED:
    case SAGA_STATE_COUNT:
        break;
    }
    assert(!"a state that nothing is recovered in");
    return SAGA_SENT;
}

static void on_recover(struct sagas *m, const struct saga_event *event) {
    struct saga *s = event->saga;
    bool undoable = has_kind(s, SAGA_COMPENSATABLE) || has_kind(s, SAGA_PIVOT);
    enum saga_state state = event->recover.state, from = event->recover.from;
    if (!undoable) {
        state = state == SAGA_RUNNING ? SAGA_PASSED : state;
        from = from == SAGA_RUNNING ? SAGA_PASSED : from;
    }
    s->was_recovered = true;
    s->state = state;
    s->from = from;
    s->turning = event->recover.turning;
    s->pivot_sent = event->recover.pivot_sent;
    s->deadline_us = m->now_us + event->recover.deadline_left_us;
    for (uint32_t i = 0; i < s->step_count; i++) {
        s->steps[i].known = known_after_start(s, &s->steps[i], state == SAGA_STUCK ? from : state);
        s->steps[i].doubted = is_call_pivot(&s->steps[i]) && s->pivot_sent;
    }
    enter(m, s);
    if (state != SAGA_STUCK) {
        set_timer(m, s, m->now_us); /* sends come with the first tick: the host is still starting */
    }
}

static void on_durable(struct sagas *m, uint64_t ticket) {
    while (m->log_first != NULL && m->log_first->ticket <= ticket) {
        struct saga *s = m->log_first;
        m->log_first = s->log_next;
        if (m->log_first == NULL) {
            m->log_last = NULL;
        }
        s->ticket = 0;
        become(m, s, s->to);
        advance(m, s);
    }
}

static const struct saga_policy *policy_of(const struct saga *s, enum saga_op op, enum saga_error error) {
    if (op == SAGA_OP_UNDO || s->state == SAGA_COMPENSATING) {
        return saga_policy(SAGA_ERROR_COMPENSATION);
    }
    return saga_policy(error == SAGA_ERROR_BUSINESS ? SAGA_ERROR_TIMEOUT : error);
}

/* Would every later attempt fail like this one? */
static bool is_hopeless(const struct saga_step *step, const struct saga_event *event) {
    bool unasked = event->answer.local && is_call_pivot(step) && step->doubted;
    return event->answer.answer == SAGA_ANSWER_BROKEN || unasked;
}

/* An attempt has failed: again later, or never. */
static void attempt_failed(struct sagas *m, struct saga *s, struct saga_step *step, enum saga_op op,
                           enum saga_error error, const struct saga_event *event) {
    const char *reason = event->answer.reason == NULL ? "no reason was given" : event->answer.reason;
    const char *sqlstate = event->answer.sqlstate == NULL ? "" : event->answer.sqlstate;
    const struct saga_policy *policy = policy_of(s, op, error);
    /* What did not begin, and what committed and could not say so, has used up no attempt. */
    bool unbegun = event->answer.answer == SAGA_ANSWER_UNBEGUN || event->answer.answer == SAGA_ANSWER_UNKNOWN;
    uint32_t index = (uint32_t)(step - s->steps), most = policy->attempts;
    if (policy->error == SAGA_ERROR_TIMEOUT && step->attempts_max != 0) {
        most = step->attempts_max;
    }
    uint32_t failed = unbegun ? ++step->unbegun : ++step->tries;
    step->due_us = m->now_us + saga_backoff_us(policy, failed, draw(m));
    if (!unbegun || step->unbegun == 1) {
        struct saga_failure failure = {
            .step = index, .attempt = event->answer.attempt, .op = op, .unix_ms = m->unix_ms};
        (void)snprintf(failure.sqlstate, sizeof failure.sqlstate, "%s", sqlstate);
        (void)snprintf(failure.reason, sizeof failure.reason, "%s", reason);
        saga_remember(s, &failure);
    }
    bool over = is_hopeless(step, event) || step->tries >= most || step->unbegun >= SAGA_UNBEGUN_MAX;
    if (over && s->ticket == 0 && s->state != SAGA_STUCK) {
        set_cause(s, index, policy->error, sqlstate, "%s", reason);
        stick(m, s);
    }
}

/* The forward action was refused for good. */
static void business_error(struct sagas *m, struct saga *s, struct saga_step *step, const struct saga_event *event) {
    uint32_t index = (uint32_t)(step - s->steps);
    bool forward = s->state == SAGA_RUNNING && s->ticket == 0 && !s->turning;
    enum saga_state state = s->state == SAGA_STUCK ? s->from : s->state;
    bool unsettled = is_call_pivot(step) && state == SAGA_RUNNING;
    if (unsettled && step->doubted && !(event->answer.final && !event->answer.local)) {
        forward = false; /* not its no to what was asked before */
    } else if (unsettled) {
        set_known(m, step, SAGA_CANCELLED); /* no row can say so later */
        if (s->turning) {
            return; /* what it turned for stays the cause */
        }
    }
    if (!forward) {
        attempt_failed(m, s, step, SAGA_OP_DO, SAGA_ERROR_BUSINESS, event); /* behind the pivot there is no way back */
        return;
    }
    struct saga_failure failure = {
        .step = index, .attempt = event->answer.attempt, .op = SAGA_OP_DO, .unix_ms = m->unix_ms};
    const char *reason = event->answer.reason == NULL ? "the step was refused" : event->answer.reason;
    (void)snprintf(failure.sqlstate, sizeof failure.sqlstate, "%s",
                   event->answer.sqlstate == NULL ? "" : event->answer.sqlstate);
    (void)snprintf(failure.reason, sizeof failure.reason, "%s", reason);
    saga_remember(s, &failure);
    set_cause(s, index, SAGA_ERROR_BUSINESS, failure.sqlstate, "%s", reason);
    want_turn(m, s);
}

/* It goes on. What it wanted to turn for is forgotten: there is no way back. */
static void stop_turning(struct saga *s, uint64_t now_us) {
    s->turning = false;
    s->deadline_us = now_us + s->deadline_span_us;
    s->cause_step = UINT32_MAX;
    s->sqlstate[0] = s->reason[0] = '\0';
}

/* The barrier row has been read. */
static void row_is(struct sagas *m, struct saga *s, struct saga_step *step, enum saga_op op, enum saga_known row,
                   const struct saga_event *event) {
    if (op == SAGA_OP_UNDO && row == SAGA_DONE) { /* an undo cannot leave it so: not understood, asked again */
        attempt_failed(m, s, step, op, SAGA_ERROR_COMPENSATION, event);
        return;
    }
    set_known(m, step, row);
    step->tries = step->unbegun = 0;
    step->due_us = m->now_us;
    if (step->kind == SAGA_PIVOT && row == SAGA_DONE && s->turning) {
        stop_turning(s, m->now_us); /* it has happened */
    }
}

/* Did this attempt come to the service, as far as can be told, and leave open what it did there? */
static bool leaves_doubt(const struct saga_step *step, enum saga_op op, const struct saga_event *event) {
    return is_call_pivot(step) && op == SAGA_OP_DO && step->known == SAGA_SENT && !event->answer.local &&
           event->answer.answer != SAGA_ANSWER_UNBEGUN;
}

static void on_answer(struct sagas *m, const struct saga_event *event) {
    struct saga *s = saga_find(m, event->epoch, event->sequence);
    if (s == NULL || event->answer.step >= s->step_count) {
        return;
    }
    struct saga_step *step = &s->steps[event->answer.step];
    if (step->op == SAGA_OP_NONE || step->attempt != event->answer.attempt) {
        return; /* abandoned: the attempt behind it will be told the same by the barrier */
    }
    enum saga_op op = step->op;
    step->op = SAGA_OP_NONE;
    switch (event->answer.answer) {
    case SAGA_ANSWER_DONE:
        row_is(m, s, step, op, SAGA_DONE, event);
        break;
    case SAGA_ANSWER_UNDONE:
        row_is(m, s, step, op, SAGA_UNDONE, event);
        break;
    case SAGA_ANSWER_CANCELLED:
        row_is(m, s, step, op, SAGA_CANCELLED, event);
        break;
    case SAGA_ANSWER_NO_ROW:
        if (op == SAGA_OP_UNDO) {
            set_known(m, step, SAGA_SENT);
            step->due_us = m->now_us;
            break;
        }
        attempt_failed(m, s, step, op, SAGA_ERROR_TIMEOUT, event);
        break;
    case SAGA_ANSWER_ERROR:
        if (op == SAGA_OP_DO && saga_classify(event->answer.sqlstate, event->answer.mismatch) == SAGA_ERROR_BUSINESS) {
            business_error(m, s, step, event);
            break;
        }
        attempt_failed(m, s, step, op, SAGA_ERROR_TIMEOUT, event);
        break;
    case SAGA_ANSWER_UNBEGUN:
    case SAGA_ANSWER_UNKNOWN:
    case SAGA_ANSWER_BROKEN:
        attempt_failed(m, s, step, op, SAGA_ERROR_TIMEOUT, event);
        break;
    }
    step->doubted = step->doubted || leaves_doubt(step, op, event);
    advance(m, s);
}

bool saga_may_cancel(const struct saga *s) {
    enum saga_state state = s->state == SAGA_STUCK ? s->from : s->state;
    if (s->ticket != 0 && s->to != SAGA_RUNNING) {
        return false;
    }
    return (state == SAGA_RUNNING || state == SAGA_BEGUN) && !pivot_has_happened(s);
}

static void on_cancel(struct sagas *m, const struct saga_event *event) {
    struct saga *s = saga_find(m, event->epoch, event->sequence);
    if (s == NULL || !saga_may_cancel(s) || s->turning) {
        return;
    }
    set_cause(s, UINT32_MAX, SAGA_ERROR_BUSINESS, NULL, "%s", event->reason);
    if (s->ticket != 0) {
        s->turning = true; /* acted on when the record on its way is durable; a crash before that forgets the cancel */
    } else if (s->state == SAGA_STUCK) {
        s->turning = true;
        abandon_forward(m, s);
        try_afresh(s, m->now_us);
        log_move(m, s, unsettled_pivot(s) == NULL ? SAGA_COMPENSATING : SAGA_RUNNING);
    } else {
        want_turn(m, s);
    }
    advance(m, s);
}

const char *saga_may(const struct saga *s, enum saga_act act) {
    if (s->state != SAGA_STUCK || s->ticket != 0) {
        return "it is not in the dead-letter queue";
    }
    switch (act) {
    case SAGA_ACT_RETRY:
        return NULL;
    case SAGA_ACT_SKIP:
        if (s->from == SAGA_RUNNING && s->turning && is_call_pivot_unsettled(s)) {
            return NULL; /* the pivot's, whatever is the cause */
        }
        if (s->cause_step == UINT32_MAX) {
            return "no step is the cause: retry or compensate";
        }
        return s->from == SAGA_RUNNING && s->turning
                   ? "whether the pivot has happened is not known, and everything depends on it: retry"
                   : NULL;
    case SAGA_ACT_COMPENSATE:
        if (s->from == SAGA_PASSED || pivot_has_happened(s)) {
            return "the point of no return has been passed: retry or skip";
        }
        return s->from == SAGA_COMPENSATING ? "it is being compensated already: retry or skip" : NULL;
    case SAGA_ACT_REFUSE:
        return s->from == SAGA_RUNNING && is_call_pivot_unsettled(s)
                   ? NULL
                   : "no pivot at a service was sent and has not answered";
    }
    assert(!"act");
    return "unknown act";
}

static void skip(struct saga *s, uint64_t now_us) {
    if (s->from == SAGA_COMPENSATING) {
        s->steps[s->cause_step].skip_undo = true;
    } else if (s->turning) { /* saga_may(): the pivot, a call, has happened */
        pivot_of(s)->skip_do = true;
        stop_turning(s, now_us);
    } else {
        s->steps[s->cause_step].skip_do = true;
    }
}

/* The pivot, a call, has not happened. An attempt that is on its way still is not listened to any more. */
static void refuse(struct sagas *m, struct saga *s) {
    struct saga_step *pivot = pivot_of(s);
    if (pivot->op == SAGA_OP_DO) {
        struct saga_effect *effect = emit(m, SAGA_FX_ABANDON, s);
        effect->step = (uint32_t)(pivot - s->steps);
        effect->attempt = pivot->attempt;
        pivot->op = SAGA_OP_NONE;
    }
    set_known(m, pivot, SAGA_CANCELLED);
    s->turning = true;
    abandon_forward(m, s);
}

static void on_operate(struct sagas *m, const struct saga_event *event) {
    struct saga *s = saga_find(m, event->epoch, event->sequence);
    if (s == NULL || saga_may(s, event->operate.act) != NULL) {
        return;
    }
    enum saga_state to = s->from;
    switch (event->operate.act) {
    case SAGA_ACT_RETRY:
        break;
    case SAGA_ACT_SKIP:
        skip(s, m->now_us);
        break;
    case SAGA_ACT_COMPENSATE:
        s->turning = true;
        abandon_forward(m, s);
        to = unsettled_pivot(s) == NULL ? SAGA_COMPENSATING : SAGA_RUNNING;
        break;
    case SAGA_ACT_REFUSE:
        refuse(m, s);
        to = SAGA_COMPENSATING;
        break;
    }
    s->deadline_us = m->now_us + s->deadline_span_us;
    s->deadline_from_unix_ms = m->unix_ms;
    s->alerted = false;
    try_afresh(s, m->now_us);
    log_move(m, s, to);
}

static void on_up(struct sagas *m, uint32_t participant) {
    for (struct saga *s = m->order_first, *next; s != NULL; s = next) {
        next = s->order_next;
        bool waits = false;
        for (uint32_t i = 0; i < s->step_count; i++) {
            struct saga_step *step = &s->steps[i];
            if (step->participant == participant && step->due_us > m->now_us) {
                step->due_us = m->now_us;
                waits = true;
            }
        }
        if (waits) {
            advance(m, s);
        }
    }
}

static void on_tick(struct sagas *m) {
    while (m->heap_count > 0 && m->heap[0]->due_us <= m->now_us) {
        struct saga *s = m->heap[0];
        advance(m, s);
        assert(s->due_us > m->now_us); /* or the loop would not end */
    }
}

void saga_step(struct sagas *m, const struct saga_event *event, struct saga_effects *effects) {
    assert(event->now_us >= m->now_us);
    m->now_us = event->now_us;
    m->unix_ms = event->unix_ms;
    effects->count = 0;
    m->out = effects;
    bury_ended(m);
    switch (event->kind) {
    case SAGA_EV_BEGIN:
        on_begin(m, event->saga);
        break;
    case SAGA_EV_RECOVER:
        on_recover(m, event);
        break;
    case SAGA_EV_DURABLE:
        on_durable(m, event->ticket);
        break;
    case SAGA_EV_ANSWER:
        on_answer(m, event);
        break;
    case SAGA_EV_CANCEL:
        on_cancel(m, event);
        break;
    case SAGA_EV_OPERATE:
        on_operate(m, event);
        break;
    case SAGA_EV_UP:
        on_up(m, event->participant);
        break;
    case SAGA_EV_TICK:
        break;
    }
    if (event->kind != SAGA_EV_RECOVER) {
        on_tick(m); /* whatever is due is done at every event */
    }
    m->out = NULL;
}

/* ------------------------------------------------------------------- check */

static void check_one(const struct saga *s) {
    assert(!s->ended && s->state != SAGA_COMPLETED && s->state != SAGA_COMPENSATED);
    assert(s->ticket == 0 || saga_transition(s->state, s->to) != NULL);
    for (uint32_t i = 0; i < s->step_count; i++) {
        const struct saga_step *step = &s->steps[i];
        enum saga_state state = s->state == SAGA_STUCK ? s->from : s->state;
        bool retriable = step->kind == SAGA_RETRIABLE;
        assert(state != SAGA_BEGUN || step->known == SAGA_UNSENT);
        assert(!retriable || state == SAGA_PASSED || step->known == SAGA_UNSENT); /* behind the point of no return */
        assert(step->op != SAGA_OP_DO || state == SAGA_RUNNING || state == SAGA_PASSED);
        assert(step->op != SAGA_OP_UNDO || (state == SAGA_COMPENSATING && step->kind == SAGA_COMPENSATABLE));
        assert(step->op != SAGA_OP_CANCEL || state == SAGA_COMPENSATING ||
               (state == SAGA_RUNNING && step->kind == SAGA_PIVOT));
    }
}

void saga_check(const struct sagas *m) {
    size_t count = 0;
    for (const struct saga *s = m->order_first; s != NULL; s = s->order_next) {
        assert(saga_find(m, s->epoch, s->sequence) == s);
        assert(s->heap_index == SIZE_MAX ? s->due_us == SAGA_NEVER : m->heap[s->heap_index] == s);
        check_one(s);
        count++;
    }
    assert(count == m->count);
    for (size_t i = 1; i < m->heap_count; i++) {
        assert(m->heap[(i - 1) / 2]->due_us <= m->heap[i]->due_us);
    }
}
