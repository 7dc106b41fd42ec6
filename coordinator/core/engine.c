/*
 * engine.c: the coordinator's engine: dispatch of events, admission of transactions, sending of Work, finishing.
 *
 * The life of a commit, and where each part of it is:
 *   EV_RUN           take_run()          keys, offline participants, log space; a gtid; into the queue or straight on
 *                    admit()             one credit of each participant, all at once, before the first BEGIN
 *                    engine_send_work()  statements leave, the last ones with PREPARE in the same message
 *   EV_VOTE          decide_on_vote()    the last vote hands the decision to the log (EF_LOG_COMMIT)
 *   EV_LOG_DURABLE   decide_on_durable() THE TRANSACTION IS COMMITTED; only here COMMIT is sent
 *   EV_DONE          decide_on_done()    the last proof ends it (EF_LOG_END)
 *
 * This file never decides an outcome; decide.c does.
 */
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/core/engine_internal.h"
#include "coordinator/core/saga.h"

/* Sizes of the log's records; the generated code computes the true size, these are upper bounds (see engine_log_need).
 */
#define LOG_COMMIT_FIXED 512u
#define LOG_COMMIT_PER_BRANCH (LS_GID_MAX + LS_ROLE_MAX + 80u)
#define LOG_END_SIZE 96u
_Static_assert(LOG_COMMIT_FIXED + LS_PARTICIPANTS_PER_TXN_CEILING * LOG_COMMIT_PER_BRANCH <= LS_LOG_RECORD_MAX,
               "the largest decision must fit one record");

/* --------------------------------------------------------------- helpers */

struct engine_effect *engine_emit(struct engine *e, enum effect_kind kind, const struct txn *txn) {
    struct engine_effects *out = e->out;
    if (out->count == out->capacity) {
        size_t capacity = out->capacity == 0 ? 64 : out->capacity * 2;
        struct engine_effect *list = realloc(out->list, capacity * sizeof *list);
        if (list == NULL) {
            abort(); /* a half-made step must not be acted on: die and recover */
        }
        out->list = list;
        out->capacity = capacity;
    }
    struct engine_effect *effect = &out->list[out->count++];
    memset(effect, 0, sizeof *effect);
    effect->kind = kind;
    effect->txn = txn;
    return effect;
}

const char *engine_text(struct engine *e, const char *fmt, ...) {
    char buffer[2 * LS_REASON_MAX];
    va_list args;
    va_start(args, fmt);
    int length = vsnprintf(buffer, sizeof buffer, fmt, args);
    va_end(args);
    assert(length >= 0);
    size_t size = strlen(buffer) + 1;
    struct engine_text *text = malloc(sizeof *text + size);
    if (text == NULL) {
        abort(); /* as in engine_emit */
    }
    memcpy(text->text, buffer, size);
    text->next = e->texts;
    e->texts = text;
    return text->text;
}

void engine_report(struct engine *e, const struct txn *txn, const char *fmt, ...) {
    char buffer[2 * LS_REASON_MAX];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(buffer, sizeof buffer, fmt, args); /* cut is fine: it is for a human */
    va_end(args);
    engine_emit(e, EF_REPORT, txn)->text = engine_text(e, "%s", buffer);
}

void cause_set(struct txn_cause *cause, uint32_t participant, const char *sqlstate, const char *fmt, ...) {
    *cause = (struct txn_cause){.participant = participant};
    if (sqlstate != NULL) {
        (void)snprintf(cause->sqlstate, sizeof cause->sqlstate, "%s", sqlstate);
    }
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(cause->reason, sizeof cause->reason, fmt, args); /* cut at LS_REASON_MAX */
    va_end(args);
}

struct participant *engine_participant(struct engine *e, uint32_t number) {
    assert(number >= 1 && number <= LS_PARTICIPANT_NUMBER_MAX);
    struct participant *p = e->participants[number];
    assert(p != NULL);
    return p;
}

bool branch_is_finished(const struct txn_branch *branch) {
    switch (branch->state) {
    case BR_READ_ONLY:
    case BR_NO:
    case BR_LOST:
    case BR_COMMITTED:
    case BR_ABORTED:
    case BR_HAZARD:
        return true;
    case BR_IDLE:
    case BR_WORKING:
    case BR_OPEN:
    case BR_PREPARING:
    case BR_YES:
    case BR_COMMITTING:
    case BR_ABORTING:
    case BR_STATE_COUNT:
        break;
    }
    return false;
}

/* The one place where a branch enters, leaves or changes its participant's lists. */
void engine_list_branch(struct engine *e, struct txn_branch *branch, enum branch_list list) {
    struct participant *p = engine_participant(e, branch->participant);
    if (branch->list == list) {
        return;
    }
    if (branch->list != BRANCH_UNLISTED) {
        bool open = branch->list == BRANCH_OPEN_LIST;
        struct txn_branch **first = open ? &p->open_first : &p->unsent_first;
        struct txn_branch **last = open ? &p->open_last : &p->unsent_last;
        *(branch->prev == NULL ? first : &branch->prev->next) = branch->next;
        *(branch->next == NULL ? last : &branch->next->prev) = branch->prev;
        p->open_count--;
    }
    branch->prev = branch->next = NULL;
    branch->list = list;
    if (list != BRANCH_UNLISTED) {
        bool open = list == BRANCH_OPEN_LIST;
        struct txn_branch **first = open ? &p->open_first : &p->unsent_first;
        struct txn_branch **last = open ? &p->open_last : &p->unsent_last;
        branch->prev = *last;
        *(*last == NULL ? first : &(*last)->next) = branch;
        *last = branch;
        p->open_count++;
    }
}

void engine_release_credit(struct engine *e, struct txn_branch *branch) {
    if (branch->holds_credit) {
        struct participant *p = engine_participant(e, branch->participant);
        assert(p->used >= 1);
        p->used--;
        branch->holds_credit = false;
        e->admit_due = true;
    }
}

uint64_t engine_log_need(uint32_t branch_count) {
    uint64_t decision = LOG_COMMIT_FIXED + (uint64_t)branch_count * LOG_COMMIT_PER_BRANCH;
    return 2 * decision + LOG_END_SIZE; /* the decision, a copy of it after a crash or when its segment goes, its end */
}

/* ------------------------------------------------------------ life of a txn */

static void txn_name(struct engine *e, struct txn *txn, uint32_t only_participant) {
    struct ls_gtid gtid = {.epoch = txn->epoch, .sequence = txn->sequence, .participant = only_participant};
    memcpy(gtid.coordinator, e->config.coordinator, sizeof gtid.coordinator);
    memcpy(gtid.incarnation, e->config.incarnation, sizeof gtid.incarnation);
    ls_gtid_format(&gtid, txn->gtid);
}

/* NULL when memory is short. Not yet in any table. */
struct txn *engine_txn_new(struct engine *e, uint32_t epoch, uint64_t sequence, bool one_participant,
                           const uint32_t *participants, uint32_t branch_count) {
    assert(branch_count >= 1 && branch_count <= LS_PARTICIPANTS_PER_TXN_CEILING);
    struct txn *txn = calloc(1, sizeof *txn);
    if (txn == NULL) {
        return NULL;
    }
    txn->branches = calloc(branch_count, sizeof *txn->branches);
    if (txn->branches == NULL) {
        free(txn);
        return NULL;
    }
    txn->epoch = epoch;
    txn->sequence = sequence;
    txn->one_participant = one_participant;
    txn->branch_count = branch_count;
    txn->heap_index = UINT32_MAX;
    txn->deadline_us = ENGINE_NEVER;
    for (uint32_t i = 0; i < branch_count; i++) {
        txn->branches[i].participant = participants[i];
        txn->branches[i].txn = txn;
    }
    txn_name(e, txn, one_participant ? participants[0] : 0);
    return txn;
}

static void steps_free(struct txn_steps *steps) {
    if (steps != NULL) {
        free(steps->waiting);
        free(steps->dependents_start);
        free(steps->dependents);
        free(steps);
    }
}

void engine_txn_free(struct txn *txn) {
    if (txn != NULL) {
        if (txn->branches != NULL) {
            free(txn->branches[0].steps); /* one block for all branches */
        }
        free(txn->branches);
        steps_free(txn->steps);
        free(txn);
    }
}

/* Into the table and the order of arrival. */
void engine_adopt(struct engine *e, struct txn *txn) {
    txn_table_insert(&e->txns, txn);
    txn->order_prev = e->order_last;
    *(e->order_last == NULL ? &e->order_first : &e->order_last->order_next) = txn;
    e->order_last = txn;
}

static void leave_order(struct engine *e, struct txn *txn) {
    *(txn->order_prev == NULL ? &e->order_first : &txn->order_prev->order_next) = txn->order_next;
    *(txn->order_next == NULL ? &e->order_last : &txn->order_next->order_prev) = txn->order_prev;
    txn->order_next = txn->order_prev = NULL;
}

static void leave_waiting(struct engine *e, struct txn *txn) {
    *(txn->wait_prev == NULL ? &e->wait_first : &txn->wait_prev->wait_next) = txn->wait_next;
    *(txn->wait_next == NULL ? &e->wait_last : &txn->wait_next->wait_prev) = txn->wait_prev;
    txn->wait_next = txn->wait_prev = NULL;
    assert(e->waiting >= 1);
    e->waiting--;
    e->admit_due = true; /* whoever it stood in front of */
}

static void remember(struct engine *e, struct txn *txn) {
    struct txn_finished outcome = {
        .epoch = txn->epoch,
        .sequence = txn->sequence,
        .app = txn->app,
        .participant = txn->one_participant ? txn->branches[0].participant : 0,
        .outcome = txn->outcome,
        .read_only = txn->fully_read_only,
    };
    if (txn->outcome != OUTCOME_COMMITTED) {
        outcome.cause = malloc(sizeof *outcome.cause); /* without memory the reason is lost, not the outcome */
        if (outcome.cause != NULL) {
            *outcome.cause = txn->cause;
            outcome.cause->key_unsettled =
                txn->one_participant && txn->has_key && txn->outcome == OUTCOME_ABORTED && !txn->cause.key_free;
        }
    }
    finished_table_put(&e->finished, &outcome);
}

/* The transaction has reached TXN_COMMITTED, TXN_ABORTED or TXN_HAZARD: give everything back. Effects of this step may
 * still point at it, so its memory goes at the next step. A hazard stays in the table until there are too many. */
void engine_finish(struct engine *e, struct txn *txn) {
    assert(txn->state == TXN_COMMITTED || txn->state == TXN_ABORTED || txn->state == TXN_HAZARD);
    deadline_heap_remove(&e->heap, txn);
    for (uint32_t i = 0; i < txn->branch_count; i++) {
        struct txn_branch *branch = &txn->branches[i];
        assert(branch_is_finished(branch));
        engine_list_branch(e, branch, BRANCH_UNLISTED);
        engine_release_credit(e, branch);
    }
    assert(e->log_reserved >= txn->log_reserved);
    e->log_reserved -= txn->log_reserved;
    txn->log_reserved = 0;
    assert(e->in_flight >= 1);
    e->in_flight--;
    e->admit_due = true;
    if (txn->document != NULL) {
        engine_emit(e, EF_RELEASE, txn)->release.document = txn->document;
        txn->document = NULL;
    }
    if (txn->state == TXN_HAZARD) {
        e->hazards++;
        return;
    }
    remember(e, txn);
    txn_table_remove(&e->txns, txn);
    leave_order(e, txn);
    txn->dead = true;
    txn->hash_next = e->dead;
    e->dead = txn;
}

static void bury_dead(struct engine *e) {
    while (e->dead != NULL) {
        struct txn *txn = e->dead;
        e->dead = txn->hash_next;
        engine_txn_free(txn);
    }
    while (e->texts != NULL) {
        struct engine_text *text = e->texts;
        e->texts = text->next;
        free(text);
    }
}

/* Hazards stay for an operator, but not more of them than transactions may be in flight; the log keeps them all. */
static void bound_hazards(struct engine *e) {
    for (struct txn *txn = e->order_first; txn != NULL && e->hazards > e->config.in_flight_max;) {
        struct txn *next = txn->order_next;
        if (txn->state == TXN_HAZARD) {
            remember(e, txn);
            txn_table_remove(&e->txns, txn);
            leave_order(e, txn);
            txn->hash_next = e->dead;
            e->dead = txn;
            e->hazards--;
        }
        txn = next;
    }
}

/* ---------------------------------------------------------------- sending */

/* Sends what is ready of one branch: the longest run of its steps that waits for nobody. */
static void send_branch_work(struct engine *e, struct txn *txn, uint32_t index) {
    struct txn_branch *branch = &txn->branches[index];
    if (branch->state != BR_IDLE && branch->state != BR_OPEN) {
        return;
    }
    uint32_t from = branch->steps_next, to = from;
    while (to < branch->steps_total && (txn->steps == NULL || txn->steps->waiting[branch->steps[to]] == 0)) {
        to++;
    }
    if (to == from) {
        return;
    }
    bool last = to == branch->steps_total;
    branch_become(branch, last ? BR_PREPARING : BR_WORKING);
    branch->steps_next = to;
    struct engine_effect *effect = engine_emit(e, EF_SEND_WORK, txn);
    effect->branch = index;
    effect->work.part = branch->part++;
    effect->work.steps = &branch->steps[from];
    effect->work.step_count = to - from;
    effect->work.last = last;
    txn->cause.begun = true;
}

void engine_send_work(struct engine *e, struct txn *txn) {
    bool all_sent = true;
    for (uint32_t i = 0; i < txn->branch_count; i++) {
        send_branch_work(e, txn, i);
        all_sent = all_sent && txn->branches[i].steps_next == txn->branches[i].steps_total;
    }
    if (all_sent && txn->state == TXN_ACTIVE) {
        txn_become(txn, TXN_PREPARING);
    }
}

/* -------------------------------------------------------------- admission */

/* A participant that cannot take one more branch now, or that an older transaction in the queue waits for. */
static bool participant_blocked(const struct participant *p) {
    return p->claimed || !p->linked || !p->ready || p->used >= p->credits;
}

/* Takes one credit of each participant, or none. */
static bool admit(struct engine *e, struct txn *txn) {
    for (uint32_t i = 0; i < txn->branch_count; i++) {
        if (participant_blocked(engine_participant(e, txn->branches[i].participant))) {
            return false;
        }
    }
    for (uint32_t i = 0; i < txn->branch_count; i++) {
        struct txn_branch *branch = &txn->branches[i];
        engine_participant(e, branch->participant)->used++;
        branch->holds_credit = true;
        engine_list_branch(e, branch, BRANCH_OPEN_LIST);
    }
    txn_become(txn, txn->one_participant ? TXN_DELEGATED : TXN_ACTIVE);
    e->in_flight++;
    engine_send_work(e, txn);
    return true;
}

static void claim(struct engine *e, const struct txn *txn, bool claimed) {
    for (uint32_t i = 0; i < txn->branch_count; i++) {
        engine_participant(e, txn->branches[i].participant)->claimed = claimed;
    }
}

/* How many participants could take one more branch. */
static uint32_t count_unblocked(const struct engine *e) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < e->participant_count; i++) {
        count += participant_blocked(e->participants[e->numbers[i]]) ? 0u : 1u;
    }
    return count;
}

/*
 * First come, first served for each participant: whoever is passed over claims all its participants, so that nobody
 * younger takes the credit it waits for, while transactions on other participants go on. Ends as soon as no participant
 * is left that could take one: with few participants that is after a few steps, however long the queue.
 */
static void admit_waiting(struct engine *e) {
    e->admit_due = false;
    struct txn *txn = e->wait_first;
    while (txn != NULL && e->in_flight < e->config.in_flight_max && count_unblocked(e) > 0) {
        struct txn *next = txn->wait_next;
        if (admit(e, txn)) {
            leave_waiting(e, txn);
        } else {
            claim(e, txn, true);
        }
        txn = next;
    }
    for (struct txn *passed = e->wait_first; passed != txn; passed = passed->wait_next) {
        assert(passed != NULL); /* `txn` is in the list, or the end of it */
        claim(e, passed, false);
    }
}

/* Builds the lists of steps per branch, and who waits for whom. */
static enum ls_status take_steps(struct txn *txn, const struct engine_run *run) {
    uint16_t *indexes = malloc(run->step_count * sizeof *indexes);
    if (indexes == NULL) {
        return LS_ERR_NOMEM;
    }
    txn->step_count = run->step_count;
    uint32_t edges = 0;
    for (uint32_t s = 0; s < run->step_count; s++) {
        assert(run->steps[s].branch < txn->branch_count);
        txn->branches[run->steps[s].branch].steps_total++;
        edges += run->steps[s].after_count;
    }
    uint16_t *place = indexes;
    for (uint32_t i = 0; i < txn->branch_count; i++) {
        struct txn_branch *branch = &txn->branches[i];
        assert(branch->steps_total >= 1);
        branch->steps = place;
        place += branch->steps_total;
        branch->steps_total = 0;
    }
    for (uint32_t s = 0; s < run->step_count; s++) {
        struct txn_branch *branch = &txn->branches[run->steps[s].branch];
        branch->steps[branch->steps_total++] = (uint16_t)s;
    }
    if (edges == 0) {
        return LS_OK;
    }
    struct txn_steps *steps = calloc(1, sizeof *steps);
    if (steps == NULL) {
        return LS_ERR_NOMEM; /* the caller frees txn and with it what is there */
    }
    txn->steps = steps;
    steps->waiting = calloc(run->step_count, sizeof *steps->waiting);
    steps->dependents_start = calloc((size_t)run->step_count + 2, sizeof *steps->dependents_start);
    steps->dependents = calloc(edges, sizeof *steps->dependents);
    if (steps->waiting == NULL || steps->dependents_start == NULL || steps->dependents == NULL) {
        return LS_ERR_NOMEM;
    }
    for (uint32_t s = 0; s < run->step_count; s++) {
        steps->waiting[s] = run->steps[s].after_count;
        for (uint32_t a = 0; a < run->steps[s].after_count; a++) {
            assert(run->steps[s].after[a] < s); /* edges go forward only: there is no cycle */
            steps->dependents_start[run->steps[s].after[a] + 2]++;
        }
    }
    for (uint32_t s = 2; s < run->step_count + 2; s++) {
        steps->dependents_start[s] += steps->dependents_start[s - 1];
    }
    for (uint32_t s = 0; s < run->step_count; s++) {
        for (uint32_t a = 0; a < run->steps[s].after_count; a++) {
            steps->dependents[steps->dependents_start[run->steps[s].after[a] + 1]++] = (uint16_t)s;
        }
    }
    return LS_OK;
}

static struct txn *build_txn(struct engine *e, const struct engine_run *run) {
    bool one = run->participant_count == 1;
    struct txn *txn =
        engine_txn_new(e, e->config.epoch, e->next_sequence, one, run->participants, run->participant_count);
    if (txn == NULL) {
        return NULL;
    }
    if (take_steps(txn, run) != LS_OK || deadline_heap_reserve(&e->heap, e->heap.count + 1) != LS_OK) {
        engine_txn_free(txn);
        return NULL;
    }
    txn->app = run->app;
    txn->gid_form = run->gid_form;
    txn->begun_us = e->now_us;
    txn->deadline_us = run->deadline_us;
    txn->has_key = run->has_key;
    if (run->has_key) {
        memcpy(txn->key_digest, run->key_digest, sizeof txn->key_digest);
        memcpy(txn->document_digest, run->document_digest, sizeof txn->document_digest);
    }
    return txn;
}

static void refuse(struct engine *e, const struct engine_run *run, enum refuse_why why, uint32_t participant) {
    struct engine_effect *effect = engine_emit(e, EF_REFUSED, NULL);
    effect->ref = run->ref;
    effect->refused.why = why;
    effect->refused.participant = participant;
    e->stats.refused++;
}

bool engine_is_gone(const struct engine *e, uint32_t epoch, uint64_t sequence) {
    bool below = epoch < e->settled_epoch || (epoch == e->settled_epoch && sequence <= e->settled_sequence);
    return below && txn_table_find(&e->txns, epoch, sequence) == NULL &&
           finished_table_find(&e->finished, epoch, sequence) == NULL;
}

void engine_set_settled(struct engine *e, uint32_t epoch, uint64_t sequence) {
    assert(epoch > e->settled_epoch || (epoch == e->settled_epoch && sequence >= e->settled_sequence));
    e->settled_epoch = epoch;
    e->settled_sequence = sequence;
}

bool engine_oldest_unsettled(const struct engine *e, uint32_t *ret_epoch, uint64_t *ret_sequence) {
    const struct txn *oldest = NULL;
    for (const struct txn *txn = e->order_first; txn != NULL; txn = txn->order_next) {
        bool older = oldest == NULL || txn->epoch < oldest->epoch ||
                     (txn->epoch == oldest->epoch && txn->sequence < oldest->sequence);
        if (txn->one_participant && txn->state != TXN_HAZARD && older) {
            oldest = txn;
        }
    }
    if (oldest == NULL) {
        return false;
    }
    *ret_epoch = oldest->epoch;
    *ret_sequence = oldest->sequence;
    return true;
}

/* True when the key answers the run by itself. */
static bool key_answers(struct engine *e, const struct engine_run *run) {
    const struct key_entry *entry = run->has_key ? key_table_find(&e->keys, run->key_digest) : NULL;
    if (entry == NULL) {
        return false;
    }
    if (memcmp(entry->document_digest, run->document_digest, sizeof entry->document_digest) != 0) {
        refuse(e, run, REFUSE_KEY_MISMATCH, 0);
        return true;
    }
    if (run->participant_count == 1 && engine_is_gone(e, entry->epoch, entry->sequence)) {
        /* The window has passed: the outcome row answers, as long as it is there; then the key is free. */
        key_table_give_back(&e->keys, run->key_digest, entry->epoch, entry->sequence);
        return false;
    }
    struct engine_effect *effect = engine_emit(e, EF_JOINED, NULL);
    effect->ref = run->ref;
    effect->joined.epoch = entry->epoch;
    effect->joined.sequence = entry->sequence;
    return true;
}

/* Everything that can be refused is refused here, before a gtid exists: 429 and 503 mean that nothing was begun. */
static void take_run(struct engine *e, const struct engine_run *run) {
    assert(run->participant_count >= 1 && run->step_count >= 1);
    if (key_answers(e, run)) {
        return;
    }
    if (e->draining) {
        refuse(e, run, REFUSE_DRAINING, 0);
        return;
    }
    for (uint32_t i = 0; i < run->participant_count; i++) {
        if (!engine_participant(e, run->participants[i])->linked) {
            refuse(e, run, REFUSE_OFFLINE, run->participants[i]);
            return;
        }
    }
    /* A participant's own COMMIT decides for one: no record, no reservation. */
    uint64_t need = run->participant_count == 1 ? 0 : engine_log_need(run->participant_count);
    if (need > 0 && (e->log_room < need || e->log_room - need < e->log_reserved)) {
        refuse(e, run, REFUSE_LOG_FULL, 0);
        return;
    }
    if (e->waiting >= e->config.waiting_max || e->next_sequence > LS_SEQUENCE_MAX) {
        refuse(e, run, REFUSE_BUSY, 0);
        return;
    }
    struct txn *txn = build_txn(e, run);
    if (txn == NULL) {
        refuse(e, run, REFUSE_NOMEM, 0);
        return;
    }
    if (run->has_key) {
        enum ls_status status =
            key_table_take(&e->keys, run->key_digest, run->document_digest, txn->epoch, txn->sequence);
        if (status != LS_OK) {
            engine_txn_free(txn);
            refuse(e, run, status == LS_ERR_FULL ? REFUSE_KEYS_FULL : REFUSE_NOMEM, 0);
            return;
        }
    }
    e->next_sequence++;
    e->stats.begun++;
    e->stats.one_participant += txn->one_participant ? 1u : 0u;
    txn->document = run->document;
    txn->log_reserved = need;
    e->log_reserved += need;
    engine_adopt(e, txn);
    deadline_heap_push(&e->heap, txn);
    engine_emit(e, EF_ACCEPTED, txn)->ref = run->ref;

    txn->wait_prev = e->wait_last;
    *(e->wait_last == NULL ? &e->wait_first : &e->wait_last->wait_next) = txn;
    e->wait_last = txn;
    e->waiting++;
    admit_waiting(e);
}

/* A waiting transaction ends without having begun. */
static void abort_waiting(struct engine *e, struct txn *txn, const char *reason, bool retryable) {
    leave_waiting(e, txn);
    cause_set(&txn->cause, 0, NULL, "%s; nothing was begun", reason);
    txn->cause.retryable = retryable;
    for (uint32_t i = 0; i < txn->branch_count; i++) {
        branch_become(&txn->branches[i], BR_ABORTED);
    }
    txn_become(txn, TXN_ABORTED);
    txn->outcome = OUTCOME_ABORTED;
    txn->applied = true;
    e->stats.aborted++;
    if (txn->has_key) {
        key_table_give_back(&e->keys, txn->key_digest, txn->epoch, txn->sequence);
    }
    e->in_flight++; /* engine_finish counts it out again */
    engine_emit(e, EF_OUTCOME, txn);
    engine_emit(e, EF_APPLIED, txn);
    engine_finish(e, txn);
}

static void stop_before_decision(struct engine *e, struct txn *txn, const char *reason, bool retryable) {
    if (txn->state == TXN_WAITING) {
        abort_waiting(e, txn, reason, retryable);
    } else {
        decide_on_cancel(e, txn, reason, retryable);
    }
}

static void on_tick(struct engine *e) {
    while (e->heap.count > 0 && e->heap.items[0]->deadline_us <= e->now_us) {
        struct txn *txn = e->heap.items[0];
        deadline_heap_remove(&e->heap, txn);
        if (txn->state == TXN_WAITING) {
            stop_before_decision(e, txn, "the deadline passed while waiting for a free branch at its participants",
                                 true);
        } else {
            stop_before_decision(e, txn, "the deadline passed before the decision", true);
        }
    }
    if (e->driven > 0 && e->next_resend_us <= e->now_us) {
        e->next_resend_us = e->now_us + e->config.resend_us;
        decide_resend(e);
    }
}

/* --------------------------------------------------------------- recovery */

static void on_participant(struct engine *e, uint32_t number, const char *name) {
    assert(number >= 1 && number <= LS_PARTICIPANT_NUMBER_MAX && ls_name_valid(name, LS_PARTICIPANT_MAX));
    if (e->participants[number] != NULL) {
        assert(strcmp(e->participants[number]->name, name) == 0); /* a number is never given to another */
        return;
    }
    struct participant *p = calloc(1, sizeof *p);
    if (p == NULL) {
        abort(); /* at start or when a database joins: nothing depends on it yet, the next start tries again */
    }
    p->number = number;
    (void)snprintf(p->name, sizeof p->name, "%s", name);
    e->participants[number] = p;
    e->numbers[e->participant_count++] = (uint16_t)number;
}

static void copy_branch_id(struct txn_branch *branch, const struct txn_branch_id *id) {
    (void)snprintf(branch->gid, sizeof branch->gid, "%s", id->gid);
    (void)snprintf(branch->owner, sizeof branch->owner, "%s", id->owner);
    branch->id = *id;
    branch->id.gid = branch->gid;
    branch->id.owner = branch->owner;
}

/* An open decision found in the log (and re-logged by the host): driven to its end as soon as links are up. */
static void on_recover_txn(struct engine *e, const struct engine_event *event) {
    uint32_t count = event->recover_txn.branch_count;
    assert(event->recover_txn.epoch < e->config.epoch);
    uint32_t numbers[LS_PARTICIPANTS_PER_TXN_CEILING];
    for (uint32_t i = 0; i < count; i++) {
        numbers[i] = event->recover_txn.branches[i].participant;
    }
    struct txn *txn = engine_txn_new(e, event->recover_txn.epoch, event->recover_txn.sequence, false, numbers, count);
    if (txn == NULL) {
        abort(); /* starting without a decision would be worse than not starting */
    }
    txn->state = TXN_COMMITTING;
    txn->outcome = OUTCOME_COMMITTED;
    txn->recovered = true;
    txn->app = event->recover_txn.app;
    txn->decided_us = txn->begun_us = e->now_us;
    txn->log_reserved = engine_log_need(count) / 2; /* a copy and its end may still be written */
    e->log_reserved += txn->log_reserved;
    engine_adopt(e, txn);
    e->in_flight++;
    e->driven++;
    bool broken = false, open = false;
    for (uint32_t i = 0; i < count; i++) {
        struct txn_branch *branch = &txn->branches[i];
        copy_branch_id(branch, &event->recover_txn.branches[i]);
        branch->state = BR_COMMITTING;
        for (uint32_t h = 0; h < event->recover_txn.hazard_count; h++) {
            if (event->recover_txn.hazard_branches[h] == branch->participant) {
                branch->state = BR_HAZARD;
            }
        }
        if (branch->state == BR_HAZARD) {
            broken = true;
            continue;
        }
        open = true;
        branch->holds_credit = true;
        engine_participant(e, branch->participant)->used++;
        engine_list_branch(e, branch, BRANCH_UNSENT_LIST);
    }
    if (event->recover_txn.has_key) {
        txn->has_key = true;
        memcpy(txn->key_digest, event->recover_txn.key_digest, sizeof txn->key_digest);
        memcpy(txn->document_digest, event->recover_txn.document_digest, sizeof txn->document_digest);
    }
    if (broken) {
        txn->outcome = OUTCOME_HAZARD;
        cause_set(&txn->cause, 0, NULL,
                  "a branch was finished against the decision before this start; see the hazard record");
    }
    if (!open) {
        e->driven--;
        txn_become(txn, TXN_HAZARD);
        engine_finish(e, txn);
    }
}

static void on_recover_key(struct engine *e, const struct engine_event *event) {
    uint64_t position = event->recover_key.log_position;
    if (position > e->log_position_last) {
        e->log_position_last = position;
    }
    const struct key_entry *known = key_table_find(&e->keys, event->recover_key.key_digest);
    if (known != NULL && known->epoch == event->recover_key.epoch && known->sequence == event->recover_key.sequence) {
        key_table_move(&e->keys, event->recover_key.key_digest, position); /* a copy of the decision */
        return;
    }
    if (known != NULL) {
        key_table_give_back(&e->keys, event->recover_key.key_digest, known->epoch,
                            known->sequence); /* it had left the window and was used again */
    }
    enum ls_status status = key_table_take(&e->keys, event->recover_key.key_digest, event->recover_key.document_digest,
                                           event->recover_key.epoch, event->recover_key.sequence);
    if (status == LS_OK) {
        key_table_done(&e->keys, event->recover_key.key_digest, position);
    } else if (status == LS_ERR_NOMEM) {
        abort(); /* a forgotten key would run twice */
    } else {
        engine_report(
            e, NULL,
            "more Idempotency-Keys in the log's window than limits.keys (%u): raise it; the oldest are not known",
            e->config.keys_max);
    }
}

/* ------------------------------------------------------------------ agents */

static bool link_is_current(struct engine *e, uint32_t number, uint64_t link) {
    struct participant *p = engine_participant(e, number);
    return p->linked && p->link == link;
}

static void on_agent_down(struct engine *e, struct participant *p) {
    p->linked = p->ready = false;
    p->decides_in_flight = 0;
    decide_on_link_lost(e, p);
    for (struct txn *txn = e->wait_first; txn != NULL;) {
        struct txn *next = txn->wait_next;
        for (uint32_t i = 0; i < txn->branch_count; i++) {
            if (txn->branches[i].participant == p->number) {
                char reason[LS_PARTICIPANT_MAX + 64];
                (void)snprintf(reason, sizeof reason, "participant %s went offline", p->name);
                abort_waiting(e, txn, reason, true);
                break;
            }
        }
        txn = next;
    }
}

static void on_agent_up(struct engine *e, const struct engine_event *event) {
    struct participant *p = engine_participant(e, event->agent_up.participant);
    if (p->linked) {
        on_agent_down(e, p);
    }
    p->linked = true;
    p->ready = false;
    p->link = event->agent_up.link;
    p->credits = event->agent_up.credits;
    p->system_id = event->agent_up.system_id;
    p->timeline = event->agent_up.timeline;
    decide_on_link_up(e, p);
}

/* Whoever is ready has compared what it has seen with this log (Welcome) and found it there. */
static void on_agent_ready(struct engine *e, const struct engine_event *event) {
    struct participant *p = engine_participant(e, event->agent.participant);
    if (!link_is_current(e, event->agent.participant, event->agent.link)) {
        return;
    }
    p->ready = true;
    e->admit_due = true;
    e->joined_count += p->joined ? 0u : 1u;
    p->joined = true;
}

/* Somebody asks for a one-participant transaction of an earlier life: its participant knows. */
static void on_settle(struct engine *e, const struct engine_event *event) {
    uint32_t number = event->settle.participant;
    if (txn_table_find(&e->txns, event->settle.epoch, event->settle.sequence) != NULL ||
        finished_table_find(&e->finished, event->settle.epoch, event->settle.sequence) != NULL ||
        e->in_flight >= e->config.in_flight_max || e->participants[number] == NULL ||
        engine_is_gone(e, event->settle.epoch, event->settle.sequence)) {
        return; /* known, being asked, gone, or too much is being asked: the answer stays pending */
    }
    struct txn *txn = engine_txn_new(e, event->settle.epoch, event->settle.sequence, true, &number, 1);
    if (txn == NULL) {
        return;
    }
    txn->state = TXN_SETTLING;
    txn->branches[0].state = BR_LOST;
    txn->recovered = true;
    txn->app = event->settle.app;
    txn->begun_us = e->now_us;
    engine_adopt(e, txn);
    e->in_flight++;
    e->driven++;
    engine_list_branch(e, &txn->branches[0], BRANCH_OPEN_LIST);
    decide_settle(e, txn);
}

/* ---------------------------------------------------------------- dispatch */

struct unfinished {
    const struct engine *engine;
    const struct sagas *sagas;
};

static bool is_unfinished(const void *context, uint32_t epoch, uint64_t sequence) {
    const struct unfinished *u = context;
    return txn_table_find(&u->engine->txns, epoch, sequence) != NULL ||
           (u->sagas != NULL && saga_find(u->sagas, epoch, sequence) != NULL);
}

static void on_horizon(struct engine *e, const struct engine_event *event) {
    struct unfinished unfinished = {.engine = e, .sagas = event->horizon.sagas};
    if (event->horizon.log_position > e->log_position_last) {
        e->log_position_last = event->horizon.log_position; /* nothing that is kept lies before it */
    }
    key_table_expire(&e->keys, event->horizon.log_position, e->log_position_last, is_unfinished, &unfinished);
}

static void on_cancel(struct engine *e, const struct engine_event *event) {
    struct txn *txn = txn_table_find(&e->txns, event->cancel.epoch, event->cancel.sequence);
    if (txn != NULL) {
        stop_before_decision(e, txn, event->cancel.reason, false);
    }
}

void engine_step(struct engine *e, const struct engine_event *event, struct engine_effects *effects) {
    assert(event->now_us >= e->now_us);
    e->now_us = event->now_us;
    if (!e->started) {
        e->started = true;
        e->started_us = event->now_us;
    }
    effects->count = 0;
    e->out = effects;
    bury_dead(e);
    switch (event->kind) {
    case EV_PARTICIPANT:
        on_participant(e, event->participant.number, event->participant.name);
        break;
    case EV_RECOVER_TXN:
        on_recover_txn(e, event);
        break;
    case EV_RECOVER_KEY:
        on_recover_key(e, event);
        break;
    case EV_AGENT_UP:
        on_agent_up(e, event);
        break;
    case EV_AGENT_READY:
        on_agent_ready(e, event);
        break;
    case EV_AGENT_DOWN:
        if (link_is_current(e, event->agent.participant, event->agent.link)) {
            on_agent_down(e, engine_participant(e, event->agent.participant));
        }
        break;
    case EV_CREDIT:
        if (link_is_current(e, event->credit.participant, event->credit.link)) {
            engine_participant(e, event->credit.participant)->credits = event->credit.credits;
            e->admit_due = true;
        }
        break;
    case EV_RUN:
        take_run(e, &event->run);
        break;
    case EV_CANCEL:
        on_cancel(e, event);
        break;
    case EV_VOTE:
        if (link_is_current(e, event->vote.participant, event->vote.link)) {
            decide_on_vote(e, event);
        }
        break;
    case EV_DONE:
        if (link_is_current(e, event->done.participant, event->done.link)) {
            decide_on_done(e, event);
        }
        break;
    case EV_INQUIRY:
        inquire_on_item(e, event);
        break;
    case EV_SETTLE:
        on_settle(e, event);
        break;
    case EV_LOG_DURABLE:
        decide_on_durable(e, event->log_durable.ticket);
        break;
    case EV_HORIZON:
        on_horizon(e, event);
        break;
    case EV_DRAIN:
        e->draining = true;
        break;
    case EV_TICK:
        break; /* below: whatever is due is done at every event */
    }
    on_tick(e);
    if (e->admit_due && e->wait_first != NULL) {
        admit_waiting(e);
    }
    bound_hazards(e);
    e->out = NULL;
}

/* ----------------------------------------------------------- construction */

struct engine *engine_new(const struct engine_config *config) {
    assert(config->epoch >= 1 && config->in_flight_max >= 1 && config->finished_max >= 1 && config->resend_us >= 1);
    assert(ls_name_valid(config->coordinator, LS_COORDINATOR_MAX));
    struct engine *e = calloc(1, sizeof *e);
    if (e == NULL) {
        return NULL;
    }
    e->config = *config;
    e->next_sequence = 1;
    e->next_ticket = 1;
    if (txn_table_init(&e->txns) != LS_OK || finished_table_init(&e->finished, config->finished_max) != LS_OK ||
        key_table_init(&e->keys, config->keys_max) != LS_OK) {
        engine_free(e);
        return NULL;
    }
    return e;
}

void engine_free(struct engine *e) {
    if (e == NULL) {
        return;
    }
    bury_dead(e);
    while (e->order_first != NULL) {
        struct txn *txn = e->order_first;
        e->order_first = txn->order_next;
        engine_txn_free(txn);
    }
    for (size_t i = 0; i <= LS_PARTICIPANT_NUMBER_MAX; i++) {
        free(e->participants[i]);
    }
    txn_table_free(&e->txns);
    finished_table_free(&e->finished);
    key_table_free(&e->keys);
    deadline_heap_free(&e->heap);
    free(e);
}

void engine_effects_free(struct engine_effects *effects) {
    free(effects->list);
    *effects = (struct engine_effects){0};
}

uint64_t engine_next_timer(const struct engine *e) {
    uint64_t due = e->heap.count > 0 ? e->heap.items[0]->deadline_us : ENGINE_NEVER;
    if (e->driven > 0 && e->next_resend_us < due) {
        due = e->next_resend_us;
    }
    return due;
}

void engine_set_log_room(struct engine *e, uint64_t bytes) {
    e->log_room = bytes;
}

void engine_set_log_position(struct engine *e, uint32_t epoch, uint64_t sequence, uint64_t position) {
    if (position > e->log_position_last) {
        e->log_position_last = position;
    }
    const struct txn *txn = txn_table_find(&e->txns, epoch, sequence);
    struct key_entry *entry = txn != NULL && txn->has_key ? key_table_find(&e->keys, txn->key_digest) : NULL;
    if (entry != NULL && !entry->done) {
        entry->log_position = position;
    }
}

/* ---------------------------------------------------------------- reading */

const struct txn *engine_find(const struct engine *e, uint32_t epoch, uint64_t sequence) {
    return txn_table_find(&e->txns, epoch, sequence);
}

const struct txn_finished *engine_find_finished(const struct engine *e, uint32_t epoch, uint64_t sequence) {
    return finished_table_find(&e->finished, epoch, sequence);
}

const struct txn *engine_next(const struct engine *e, const struct txn *previous) {
    return previous == NULL ? e->order_first : previous->order_next;
}

bool engine_participant_info(const struct engine *e, uint32_t number, struct engine_participant_info *ret_info) {
    if (number < 1 || number > LS_PARTICIPANT_NUMBER_MAX || e->participants[number] == NULL) {
        return false;
    }
    const struct participant *p = e->participants[number];
    *ret_info = (struct engine_participant_info){
        .number = number,
        .name = p->name,
        .linked = p->linked,
        .ready = p->ready,
        .link = p->link,
        .system_id = p->system_id,
        .timeline = p->timeline,
        .credits = p->credits,
        .used = p->used,
        .open_branches = p->open_count,
    };
    return true;
}

void engine_stats(const struct engine *e, struct engine_stats *ret_stats) {
    *ret_stats = e->stats;
    ret_stats->waiting = e->waiting;
    ret_stats->in_flight = e->in_flight;
    ret_stats->keys = e->keys.count;
    ret_stats->log_reserved_bytes = e->log_reserved;
    ret_stats->last_sequence = e->next_sequence - 1;
    uint32_t in_doubt = 0;
    for (const struct txn *txn = e->order_first; txn != NULL; txn = txn->order_next) {
        bool waits = txn->state == TXN_LOGGING || txn->state == TXN_COMMITTING || txn->state == TXN_SETTLING;
        in_doubt += waits ? 1u : 0u;
    }
    ret_stats->in_doubt = in_doubt;
}
