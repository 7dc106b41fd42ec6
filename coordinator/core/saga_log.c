/* saga_log.c: see saga_log.h. */
#include "coordinator/core/saga_log.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BEGIN_FIXED (LS_IDENTITY_MAX + 160u) /* application, digests, times, header */
#define PHASE_FIXED (256u + SAGA_REASON_MAX + SAGA_HISTORY_MAX * 192u)
#define PHASE_PER_STEP 8u /* both skips, at most 4 bytes each */
#define END_FIXED (192u + SAGA_REASON_MAX)
#define END_PER_STEP 40u
_Static_assert(LS_DEFAULT_STATEMENTS_MAX *END_PER_STEP + END_FIXED <= LS_LOG_RECORD_MAX, "an end must fit one record");
_Static_assert(LS_SAGA_BODY_CEILING + BEGIN_FIXED <= LS_LOG_RECORD_MAX, "a begin must fit one record");

_Static_assert(PHASE_FIXED >= SAGA_LOG_AUDIT_MAX, "saga_log_need() counts the first audit as a phase");

static uint64_t phase_most(uint32_t step_count) {
    return PHASE_FIXED + (uint64_t)step_count * PHASE_PER_STEP;
}

uint64_t saga_log_pivot_need(uint32_t step_count) {
    return phase_most(step_count);
}

static uint64_t end_most(uint32_t step_count) {
    return END_FIXED + (uint64_t)step_count * END_PER_STEP;
}

size_t saga_log_record_max(size_t document, uint32_t step_count) {
    size_t begin = BEGIN_FIXED + document, phase = (size_t)phase_most(step_count);
    size_t end = END_FIXED + (size_t)step_count * END_PER_STEP;
    size_t most = begin > phase ? begin : phase;
    return most > end ? most : end;
}

uint64_t saga_log_need(size_t document, uint32_t step_count) {
    uint64_t begin = BEGIN_FIXED + document;
    /* The point of no return or the turn, a dead letter, an operator's word with its audit, another dead letter. */
    return 2 * begin + 5 * phase_most(step_count) + end_most(step_count);
}

static bool pivot_may_leave(const struct saga *s) {
    bool may = false;
    for (uint32_t i = 0; i < s->step_count; i++) {
        may = may || (s->steps[i].call && s->steps[i].kind == SAGA_PIVOT);
    }
    return may && s->from == SAGA_RUNNING && !s->pivot_sent;
}

uint64_t saga_log_missing(uint64_t reserved, const struct saga *s) {
    unsigned phases = 2u + (s->from == SAGA_RUNNING) + pivot_may_leave(s); /* its move, and one more dead letter */
    uint64_t wanted = SAGA_LOG_AUDIT_MAX + phases * phase_most(s->step_count) + end_most(s->step_count);
    return reserved < wanted ? wanted - reserved : 0;
}

/* ---------------------------------------------------------------- writing */

static uint64_t newest_failures(const struct saga *s) {
    return s->failures < SAGA_HISTORY_MAX ? s->failures : SAGA_HISTORY_MAX;
}

size_t saga_log_phase(const struct saga *s, uint64_t unix_ms, uint8_t *out) {
    Lockstep__LogSagaPhase record = LOCKSTEP__LOG_SAGA_PHASE__INIT;
    Lockstep__LogSagaFailure failures[SAGA_HISTORY_MAX], *list[SAGA_HISTORY_MAX];
    static uint32_t skip_do[UINT16_MAX], skip_undo[UINT16_MAX];
    record.epoch = s->epoch;
    record.sequence = s->sequence;
    record.state = (uint32_t)s->to;
    record.unix_ms = unix_ms;
    record.has_from = s->to == SAGA_STUCK;
    record.from = (uint32_t)s->from;
    record.has_turning = record.turning = s->turning;
    record.has_pivot_sent = record.pivot_sent = s->pivot_sent || (s->state == SAGA_RUNNING && s->to == SAGA_RUNNING);
    record.has_deadline_from_unix_ms = s->deadline_from_unix_ms != 0;
    record.deadline_from_unix_ms = s->deadline_from_unix_ms;
    record.has_cause_step = s->cause_step != UINT32_MAX;
    record.cause_step = s->cause_step;
    record.has_cause_class = s->reason[0] != '\0';
    record.cause_class = (uint32_t)s->cause_class;
    record.sqlstate = s->sqlstate[0] == '\0' ? NULL : (char *)(uintptr_t)s->sqlstate;
    record.reason = s->reason[0] == '\0' ? NULL : (char *)(uintptr_t)s->reason;
    for (uint64_t i = s->failures - newest_failures(s); i < s->failures; i++) {
        const struct saga_failure *from = &s->history[i % SAGA_HISTORY_MAX];
        Lockstep__LogSagaFailure *to = &failures[record.n_failures];
        lockstep__log_saga_failure__init(to);
        to->step = from->step;
        to->attempt = from->attempt;
        to->op = (uint32_t)from->op;
        to->unix_ms = from->unix_ms;
        to->sqlstate = (char *)(uintptr_t)from->sqlstate;
        to->reason = (char *)(uintptr_t)from->reason;
        list[record.n_failures++] = to;
    }
    record.failures = list;
    for (uint32_t i = 0; i < s->step_count; i++) {
        if (s->steps[i].skip_do) {
            skip_do[record.n_skip_do++] = i;
        }
        if (s->steps[i].skip_undo) {
            skip_undo[record.n_skip_undo++] = i;
        }
    }
    record.skip_do = skip_do;
    record.skip_undo = skip_undo;
    assert(lockstep__log_saga_phase__get_packed_size(&record) <= LS_LOG_RECORD_MAX);
    return lockstep__log_saga_phase__pack(&record, out);
}

size_t saga_log_end(const struct saga *s, uint64_t unix_ms, uint8_t *out) {
    Lockstep__LogSagaEnd record = LOCKSTEP__LOG_SAGA_END__INIT;
    Lockstep__LogSagaStep *steps = calloc(s->step_count, sizeof *steps);
    Lockstep__LogSagaStep **list = calloc(s->step_count, sizeof(Lockstep__LogSagaStep *));
    record.epoch = s->epoch;
    record.sequence = s->sequence;
    record.state = (uint32_t)s->to;
    record.unix_ms = unix_ms;
    record.has_cause_step = s->cause_step != UINT32_MAX;
    record.cause_step = s->cause_step;
    record.sqlstate = s->sqlstate[0] == '\0' ? NULL : (char *)(uintptr_t)s->sqlstate;
    record.reason = s->reason[0] == '\0' ? NULL : (char *)(uintptr_t)s->reason;
    /* Without memory the steps are left out: they are for display. */
    for (uint32_t i = 0; steps != NULL && list != NULL && i < s->step_count; i++) {
        const struct saga_step *from = &s->steps[i];
        lockstep__log_saga_step__init(&steps[i]);
        steps[i].known = (uint32_t)from->known;
        steps[i].attempts = from->attempts;
        steps[i].has_first_unix_ms = from->first_unix_ms != 0;
        steps[i].first_unix_ms = from->first_unix_ms;
        steps[i].has_settled_unix_ms = from->settled_unix_ms != 0;
        steps[i].settled_unix_ms = from->settled_unix_ms;
        steps[i].has_skipped = steps[i].skipped = from->skip_do || from->skip_undo;
        list[record.n_steps++] = &steps[i];
    }
    record.steps = list;
    assert(lockstep__log_saga_end__get_packed_size(&record) <= LS_LOG_RECORD_MAX);
    size_t length = lockstep__log_saga_end__pack(&record, out);
    free(list);
    free(steps);
    return length;
}

/* --------------------------------------------------------------- recovery */

struct saga_fold {
    struct saga_found **buckets;
    size_t bucket_count, count;
    struct saga_found **list; /* in order of first sight */
    size_t capacity;
};

struct saga_fold *saga_fold_new(void) {
    struct saga_fold *fold = calloc(1, sizeof *fold);
    if (fold == NULL) {
        return NULL;
    }
    fold->bucket_count = 1024;
    fold->buckets = calloc(fold->bucket_count, sizeof(struct saga_found *));
    if (fold->buckets == NULL) {
        free(fold);
        return NULL;
    }
    return fold;
}

static void found_empty(struct saga_found *found) {
    if (found->begin != NULL) {
        lockstep__log_saga_begin__free_unpacked(found->begin, NULL);
    }
    if (found->phase != NULL) {
        lockstep__log_saga_phase__free_unpacked(found->phase, NULL);
    }
    found->begin = NULL;
    found->phase = NULL;
}

void saga_fold_free(struct saga_fold *fold) {
    if (fold == NULL) {
        return;
    }
    for (size_t i = 0; i < fold->count; i++) {
        found_empty(fold->list[i]);
        free(fold->list[i]);
    }
    free(fold->list);
    free(fold->buckets);
    free(fold);
}

/* Open addressing; the slot where the saga is or belongs. */
static struct saga_found **slot_of(const struct saga_fold *fold, uint32_t epoch, uint64_t sequence) {
    uint64_t mixed = (sequence ^ ((uint64_t)epoch << 40)) * UINT64_C(0x9e3779b97f4a7c15);
    size_t at = (size_t)(mixed >> 32) & (fold->bucket_count - 1);
    while (fold->buckets[at] != NULL &&
           (fold->buckets[at]->epoch != epoch || fold->buckets[at]->sequence != sequence)) {
        at = (at + 1) & (fold->bucket_count - 1);
    }
    return &fold->buckets[at];
}

static bool grow(struct saga_fold *fold) {
    if (fold->count == fold->capacity) {
        size_t capacity = fold->capacity == 0 ? 256 : 2 * fold->capacity;
        struct saga_found **list = realloc(fold->list, capacity * sizeof(struct saga_found *));
        if (list == NULL) {
            return false;
        }
        fold->list = list;
        fold->capacity = capacity;
    }
    if (2 * (fold->count + 1) > fold->bucket_count) {
        struct saga_found **buckets = calloc(2 * fold->bucket_count, sizeof(struct saga_found *));
        if (buckets == NULL) {
            return false;
        }
        free(fold->buckets);
        fold->buckets = buckets;
        fold->bucket_count *= 2;
        for (size_t i = 0; i < fold->count; i++) {
            *slot_of(fold, fold->list[i]->epoch, fold->list[i]->sequence) = fold->list[i];
        }
    }
    return true;
}

static struct saga_found *find_or_add(struct saga_fold *fold, uint32_t epoch, uint64_t sequence) {
    struct saga_found **slot = slot_of(fold, epoch, sequence);
    if (*slot != NULL) {
        return *slot;
    }
    struct saga_found *found = grow(fold) ? calloc(1, sizeof *found) : NULL;
    if (found == NULL) {
        return NULL;
    }
    found->epoch = epoch;
    found->sequence = sequence;
    *slot_of(fold, epoch, sequence) = found;
    fold->list[fold->count++] = found;
    return found;
}

static enum ls_status senseless(uint64_t position, struct ls_error *err) {
    return ls_fail(err, LS_ERR_CORRUPT, "saga record at %llu makes no sense", (unsigned long long)position);
}
static enum ls_status no_memory(struct ls_error *err) {
    return ls_fail(err, LS_ERR_NOMEM, "replaying the log");
}

static enum ls_status on_begin(struct saga_fold *fold, uint64_t position, const uint8_t *payload, size_t length,
                               struct ls_error *err) {
    Lockstep__LogSagaBegin *m = lockstep__log_saga_begin__unpack(NULL, length, payload);
    if (m == NULL || m->epoch == 0 || m->sequence == 0) {
        lockstep__log_saga_begin__free_unpacked(m, NULL);
        return senseless(position, err);
    }
    struct saga_found *found = find_or_add(fold, m->epoch, m->sequence);
    if (found == NULL || found->ended ||
        found->begin != NULL) { /* a copy says the same; behind the end nothing counts */
        lockstep__log_saga_begin__free_unpacked(m, NULL);
        return found == NULL ? no_memory(err) : LS_OK;
    }
    found->begin = m;
    return LS_OK;
}

static enum ls_status on_phase(struct saga_fold *fold, uint64_t position, const uint8_t *payload, size_t length,
                               struct ls_error *err) {
    Lockstep__LogSagaPhase *m = lockstep__log_saga_phase__unpack(NULL, length, payload);
    bool sound = m != NULL && m->epoch != 0 && m->sequence != 0 &&
                 (m->state == SAGA_RUNNING || m->state == SAGA_PASSED || m->state == SAGA_COMPENSATING ||
                  (m->state == SAGA_STUCK && m->has_from &&
                   (m->from == SAGA_RUNNING || m->from == SAGA_PASSED || m->from == SAGA_COMPENSATING)));
    struct saga_found *found = sound ? find_or_add(fold, m->epoch, m->sequence) : NULL;
    if (found == NULL || found->ended) {
        lockstep__log_saga_phase__free_unpacked(m, NULL);
        return !sound ? senseless(position, err) : found == NULL ? no_memory(err) : LS_OK;
    }
    if (found->phase != NULL) {
        lockstep__log_saga_phase__free_unpacked(found->phase, NULL);
    }
    found->phase = m;
    return LS_OK;
}

static enum ls_status on_end(struct saga_fold *fold, uint64_t position, const uint8_t *payload, size_t length,
                             struct ls_error *err) {
    Lockstep__LogSagaEnd *m = lockstep__log_saga_end__unpack(NULL, length, payload);
    bool sound =
        m != NULL && m->epoch != 0 && m->sequence != 0 && (m->state == SAGA_COMPLETED || m->state == SAGA_COMPENSATED);
    struct saga_found *found = sound ? find_or_add(fold, m->epoch, m->sequence) : NULL;
    lockstep__log_saga_end__free_unpacked(m, NULL);
    if (found == NULL) {
        return sound ? no_memory(err) : senseless(position, err);
    }
    found->ended = true;
    found_empty(found);
    return LS_OK;
}

enum ls_status saga_fold_record(struct saga_fold *fold, enum dlog_type type, uint64_t position, const uint8_t *payload,
                                size_t length, struct ls_error *err) {
    switch (type) {
    case DLOG_SAGA_BEGIN:
        return on_begin(fold, position, payload, length, err);
    case DLOG_SAGA_PHASE:
        return on_phase(fold, position, payload, length, err);
    case DLOG_SAGA_END:
        return on_end(fold, position, payload, length, err);
    case DLOG_EPOCH:
    case DLOG_COMMIT:
    case DLOG_END:
    case DLOG_PARTICIPANT:
    case DLOG_HAZARD:
    case DLOG_MARK:
    case DLOG_AUDIT:
        break;
    }
    return LS_OK;
}

static int compare_found(const void *left, const void *right) {
    const struct saga_found *a = *(const struct saga_found *const *)left, *b = *(const struct saga_found *const *)right;
    if (a->epoch != b->epoch) {
        return a->epoch < b->epoch ? -1 : 1;
    }
    return (a->sequence > b->sequence) - (a->sequence < b->sequence);
}

enum ls_status saga_fold_open(const struct saga_fold *fold, const struct saga_found ***ret_list, size_t *ret_count,
                              struct ls_error *err) {
    const struct saga_found **list = calloc(fold->count + 1, sizeof(struct saga_found *));
    if (list == NULL) {
        return no_memory(err);
    }
    size_t count = 0;
    for (size_t i = 0; i < fold->count; i++) {
        const struct saga_found *found = fold->list[i];
        if (found->ended) {
            continue;
        }
        if (found->begin == NULL) { /* its begin is carried along as long as it is open */
            free(list);
            return ls_fail(err, LS_ERR_CORRUPT, "saga %u.%llu has a phase record and no begin", found->epoch,
                           (unsigned long long)found->sequence);
        }
        list[count++] = found;
    }
    qsort(list, count, sizeof(struct saga_found *), compare_found);
    *ret_list = list;
    *ret_count = count;
    return LS_OK;
}

void saga_log_restore(struct saga *s, const Lockstep__LogSagaPhase *phase, struct saga_event *event) {
    event->kind = SAGA_EV_RECOVER;
    event->saga = s;
    event->recover.state = event->recover.from = SAGA_RUNNING;
    event->recover.turning = event->recover.pivot_sent = false;
    if (phase == NULL) {
        return;
    }
    event->recover.state = (enum saga_state)phase->state;
    event->recover.from = phase->has_from ? (enum saga_state)phase->from : SAGA_RUNNING;
    event->recover.turning = phase->has_turning && phase->turning;
    event->recover.pivot_sent = phase->has_pivot_sent && phase->pivot_sent;
    s->deadline_from_unix_ms = phase->has_deadline_from_unix_ms ? phase->deadline_from_unix_ms : 0;
    s->cause_step = phase->has_cause_step && phase->cause_step < s->step_count ? phase->cause_step : UINT32_MAX;
    s->cause_class = phase->has_cause_class && phase->cause_class < SAGA_ERROR_COUNT
                         ? (enum saga_error)phase->cause_class
                         : SAGA_ERROR_TIMEOUT;
    (void)snprintf(s->sqlstate, sizeof s->sqlstate, "%s", phase->sqlstate == NULL ? "" : phase->sqlstate);
    (void)snprintf(s->reason, sizeof s->reason, "%s", phase->reason == NULL ? "" : phase->reason);
    for (size_t i = 0; i < phase->n_failures; i++) {
        const Lockstep__LogSagaFailure *from = phase->failures[i];
        struct saga_failure failure = {.step = from->step,
                                       .attempt = from->attempt,
                                       .op = from->op <= SAGA_OP_CANCEL ? (enum saga_op)from->op : SAGA_OP_NONE,
                                       .unix_ms = from->unix_ms};
        (void)snprintf(failure.sqlstate, sizeof failure.sqlstate, "%s", from->sqlstate == NULL ? "" : from->sqlstate);
        (void)snprintf(failure.reason, sizeof failure.reason, "%s", from->reason == NULL ? "" : from->reason);
        saga_remember(s, &failure);
    }
    for (size_t i = 0; i < phase->n_skip_do; i++) {
        if (phase->skip_do[i] < s->step_count) {
            s->steps[phase->skip_do[i]].skip_do = true;
        }
    }
    for (size_t i = 0; i < phase->n_skip_undo; i++) {
        if (phase->skip_undo[i] < s->step_count) {
            s->steps[phase->skip_undo[i]].skip_undo = true;
        }
    }
}
