/*
 * Hazard: what a saga's record holds is not what a start reads from it: a dead letter comes back as running, a skip or
 * the point of no return is forgotten, a record is larger than the room that was kept for it. Method: sagas with every
 * field set are written, folded and put into new sagas, which must be the same; the largest record that is possible is
 * measured against what was asked for. If the code were wrong: a field would differ, or a size would be exceeded.
 */
#include "coordinator/core/saga_log.h"
#include "unit.h"

#define STEPS 1000u

static struct sagas *machine;
static struct ls_error err;
static uint8_t payload[LS_LOG_RECORD_MAX];

static struct saga *make(uint32_t epoch, uint64_t sequence, uint32_t steps) {
    static struct saga_step_spec list[STEPS];
    for (uint32_t i = 0; i < steps; i++)
        list[i] = (struct saga_step_spec){.participant = 1, .kind = SAGA_COMPENSATABLE};
    struct saga_spec spec = {.steps = list, .step_count = steps, .deadline_us = 1000000};
    return saga_new(machine, epoch, sequence, &spec);
}

static enum ls_status put_begin(struct saga_fold *fold, uint32_t epoch, uint64_t sequence) {
    char app[] = "app/checkout";
    Lockstep__LogSagaBegin m = LOCKSTEP__LOG_SAGA_BEGIN__INIT;
    m.epoch = epoch;
    m.sequence = sequence;
    m.app = app;
    return saga_fold_record(fold, DLOG_SAGA_BEGIN, 1, payload, lockstep__log_saga_begin__pack(&m, payload), &err);
}
static enum ls_status put_phase(struct saga_fold *fold, const struct saga *saga) {
    return saga_fold_record(fold, DLOG_SAGA_PHASE, 2, payload, saga_log_phase(saga, 17, payload), &err);
}
static enum ls_status put_end(struct saga_fold *fold, const struct saga *saga) {
    return saga_fold_record(fold, DLOG_SAGA_END, 3, payload, saga_log_end(saga, 18, payload), &err);
}

static size_t open_of(const struct saga_fold *fold, const struct saga_found ***ret_list) {
    size_t count;
    assert_ok(saga_fold_open(fold, ret_list, &count, &err));
    return count;
}

/* One more failure than are kept, so that the ring has turned. */
static void fail_often(struct saga *saga) {
    for (uint32_t i = 0; i <= SAGA_HISTORY_MAX; i++) {
        struct saga_failure failure = {.step = i % 3, .attempt = i + 1, .op = SAGA_OP_UNDO, .unix_ms = 1000 + i};
        snprintf(failure.sqlstate, sizeof failure.sqlstate, "4000%u", i % 10);
        snprintf(failure.reason, sizeof failure.reason, "failure %u", i);
        saga_remember(saga, &failure);
    }
}

static void a_dead_letter_comes_back_as_it_was(void **state) {
    (void)state;
    struct saga *saga = make(7, 42, 4), *again = make(7, 42, 4);
    saga->to = SAGA_STUCK;
    saga->from = SAGA_COMPENSATING;
    saga->turning = true;
    saga->cause_step = 2;
    saga->cause_class = SAGA_ERROR_TIMEOUT;
    snprintf(saga->sqlstate, sizeof saga->sqlstate, "23514");
    snprintf(saga->reason, sizeof saga->reason, "the account is closed");
    saga->steps[1].skip_do = saga->steps[3].skip_undo = true;
    fail_often(saga);

    struct saga_fold *fold = saga_fold_new();
    const struct saga_found **list;
    assert_ok(put_begin(fold, 7, 42));
    assert_ok(put_phase(fold, saga));
    assert_int_equal(open_of(fold, &list), 1);
    struct saga_event event = {.now_us = 1};
    saga_log_restore(again, list[0]->phase, &event);

    assert_int_equal(event.kind, SAGA_EV_RECOVER);
    assert_ptr_equal(event.saga, again);
    assert_int_equal(event.recover.state, SAGA_STUCK);
    assert_int_equal(event.recover.from, SAGA_COMPENSATING);
    assert_true(event.recover.turning);
    assert_int_equal(again->cause_step, 2);
    assert_int_equal(again->cause_class, SAGA_ERROR_TIMEOUT);
    assert_string_equal(again->sqlstate, "23514");
    assert_string_equal(again->reason, "the account is closed");
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(again->steps[i].skip_do, i == 1);
        assert_int_equal(again->steps[i].skip_undo, i == 3);
    }
    assert_int_equal(again->failures, SAGA_HISTORY_MAX); /* the oldest one is gone */
    for (uint32_t i = 0; i < SAGA_HISTORY_MAX; i++) {
        const struct saga_failure *kept = &again->history[i], *was = &saga->history[(i + 1) % SAGA_HISTORY_MAX];
        assert_true(kept->step == was->step && kept->attempt == was->attempt && kept->op == was->op);
        assert_true(kept->unix_ms == was->unix_ms && strcmp(kept->sqlstate, was->sqlstate) == 0);
        assert_string_equal(kept->reason, was->reason);
    }

    /* and the machine takes it: an operator may decide about it */
    struct saga_effects effects = {0};
    event.recover.deadline_left_us = 1;
    saga_step(machine, &event, &effects);
    saga_check(machine);
    assert_null(saga_may(saga_find(machine, 7, 42), SAGA_ACT_RETRY));
    saga_effects_free(&effects);
    free(list);
    saga_fold_free(fold);
    saga_free(saga);
}

static void without_a_phase_it_runs(void **state) {
    (void)state;
    struct saga *saga = make(1, 1, 2);
    struct saga_event event = {0};
    saga_log_restore(saga, NULL, &event);
    assert_true(event.kind == SAGA_EV_RECOVER && event.saga == saga);
    assert_true(event.recover.state == SAGA_RUNNING && event.recover.from == SAGA_RUNNING && !event.recover.turning);
    saga_free(saga);
}

/* A newer version may write steps and words that this one does not know, or a document may differ: nothing is written
 * behind the end of an array. */
static void what_does_not_fit_is_left_out(void **state) {
    (void)state;
    struct saga *saga = make(1, 1, 2);
    uint32_t far[] = {1, 2, 4000000000u};
    Lockstep__LogSagaFailure failure = LOCKSTEP__LOG_SAGA_FAILURE__INIT, *failures[] = {&failure};
    Lockstep__LogSagaPhase phase = LOCKSTEP__LOG_SAGA_PHASE__INIT;
    failure.op = 77;
    phase.state = SAGA_PASSED;
    phase.has_cause_step = phase.has_cause_class = true;
    phase.cause_step = 2;
    phase.cause_class = 99;
    phase.n_skip_do = phase.n_skip_undo = 3;
    phase.skip_do = phase.skip_undo = far;
    phase.n_failures = 1;
    phase.failures = failures;
    struct saga_event event = {0};
    saga_log_restore(saga, &phase, &event);
    assert_int_equal(event.recover.state, SAGA_PASSED);
    assert_int_equal(saga->cause_step, UINT32_MAX);
    assert_int_equal(saga->cause_class, SAGA_ERROR_TIMEOUT);
    assert_true(saga->sqlstate[0] == '\0' && saga->reason[0] == '\0');
    assert_true(!saga->steps[0].skip_do && saga->steps[1].skip_do && saga->steps[1].skip_undo);
    assert_true(saga->failures == 1 && saga->history[0].op == SAGA_OP_NONE && saga->history[0].reason[0] == '\0');
    saga_free(saga);
}

/* The newest phase counts, a copy of a begin says nothing new, and behind the end nothing counts. */
static void records_in_their_order(void **state) {
    (void)state;
    struct saga *saga = make(2, 5, 1);
    struct saga_fold *fold = saga_fold_new();
    const struct saga_found **list;
    assert_ok(put_begin(fold, 2, 5));
    saga->to = SAGA_RUNNING;
    assert_ok(put_phase(fold, saga));
    saga->to = SAGA_PASSED;
    assert_ok(put_phase(fold, saga));
    assert_ok(put_begin(fold, 2, 5));
    assert_ok(saga_fold_record(fold, DLOG_MARK, 9, payload, 0, &err)); /* not of a saga */
    assert_ok(saga_fold_record(fold, DLOG_COMMIT, 9, payload, 0, &err));
    assert_int_equal(open_of(fold, &list), 1);
    assert_int_equal(list[0]->phase->state, SAGA_PASSED);
    assert_string_equal(list[0]->begin->app, "app/checkout");
    free(list);
    saga->to = SAGA_COMPLETED;
    assert_ok(put_end(fold, saga));
    saga->to = SAGA_RUNNING;
    assert_ok(put_phase(fold, saga));
    assert_ok(put_begin(fold, 2, 5));
    assert_int_equal(open_of(fold, &list), 0);
    free(list);
    saga_fold_free(fold);
    saga_fold_free(NULL);
    saga_free(saga);
}

/* More than the table begins with, of two lives, every third one ended: they come in the order of their names. */
static void many_in_order(void **state) {
    (void)state;
    enum { COUNT = 1500 };
    struct saga_fold *fold = saga_fold_new();
    const struct saga_found **list;
    for (uint64_t i = COUNT; i >= 1; i--) {
        for (uint32_t epoch = 2; epoch >= 1; epoch--) assert_ok(put_begin(fold, epoch, i));
        if (i % 3 == 0) {
            struct saga *saga = make(1, i, 1);
            saga->to = SAGA_COMPENSATED;
            assert_ok(put_end(fold, saga));
            saga_free(saga);
        }
    }
    size_t at = 0, count = open_of(fold, &list);
    assert_int_equal(count, COUNT + COUNT - COUNT / 3);
    for (uint32_t epoch = 1; epoch <= 2; epoch++) {
        for (uint64_t i = 1; i <= COUNT; i++) {
            if (epoch == 1 && i % 3 == 0) continue;
            assert_true(list[at]->epoch == epoch && list[at]->sequence == i);
            at++;
        }
    }
    /* All of them are handed in, as at a start with as many dead letters, and found again. */
    struct saga_effects effects = {0};
    for (at = 0; at < count; at++) {
        struct saga_event event = {.now_us = 1};
        saga_log_restore(make(list[at]->epoch, list[at]->sequence, 1), list[at]->phase, &event);
        event.recover.deadline_left_us = 1000000;
        saga_step(machine, &event, &effects);
    }
    saga_check(machine);
    for (at = 0; at < count; at++) {
        const struct saga *found = saga_find(machine, list[at]->epoch, list[at]->sequence);
        assert_true(found != NULL && found->epoch == list[at]->epoch && found->sequence == list[at]->sequence);
    }
    assert_null(saga_find(machine, 1, 3)); /* ended */
    saga_effects_free(&effects);
    free(list);
    saga_fold_free(fold);
}

/* Room in the log is kept before a saga begins: no record may be larger than was said then. */
static void the_largest_records_fit(void **state) {
    (void)state;
    for (uint32_t steps = 1; steps <= STEPS; steps = steps == 1 ? STEPS : steps + 1) {
        struct saga *saga = make(UINT32_MAX, LS_SEQUENCE_MAX, steps);
        saga->to = SAGA_STUCK;
        saga->from = SAGA_COMPENSATING;
        saga->turning = saga->pivot_sent = true;
        saga->cause_step = steps - 1;
        saga->cause_class = (enum saga_error)(SAGA_ERROR_COUNT - 1);
        memset(saga->sqlstate, 'Z', LS_SQLSTATE_LEN);
        memset(saga->reason, 'x', SAGA_REASON_MAX);
        for (uint32_t i = 0; i < SAGA_HISTORY_MAX; i++) {
            struct saga_failure failure = {
                .step = steps - 1, .attempt = UINT32_MAX, .op = SAGA_OP_CANCEL, .unix_ms = UINT64_MAX};
            memset(failure.sqlstate, 'Z', LS_SQLSTATE_LEN);
            memset(failure.reason, 'y', sizeof failure.reason - 1);
            saga_remember(saga, &failure);
        }
        for (uint32_t i = 0; i < steps; i++) {
            saga->steps[i].skip_do = saga->steps[i].skip_undo = true;
            saga->steps[i].attempts = UINT32_MAX;
            saga->steps[i].first_unix_ms = saga->steps[i].settled_unix_ms = UINT64_MAX >> 16; /* the year 10889 */
        }
        size_t phase = saga_log_phase(saga, UINT64_MAX, payload) + 64; /* with its header */
        saga->to = SAGA_COMPENSATED;
        size_t end = saga_log_end(saga, UINT64_MAX, payload);
        assert_true(phase <= saga_log_record_max(0, steps) && end <= saga_log_record_max(0, steps));
        end += 64;
        /* An operator's word: its audit, the move, that the pivot leaves, the passing, stuck again, an end. */
        assert_true(SAGA_LOG_AUDIT_MAX + 2 * phase + end <= saga_log_missing(0, saga));
        saga->from = SAGA_RUNNING;
        assert_true(SAGA_LOG_AUDIT_MAX + 3 * phase + end <= saga_log_missing(0, saga));
        saga->pivot_sent = false;
        saga->steps[steps - 1].call = true;
        saga->steps[steps - 1].kind = SAGA_PIVOT;
        assert_true(SAGA_LOG_AUDIT_MAX + 4 * phase + end <= saga_log_missing(0, saga));
        assert_true(phase <= saga_log_pivot_need(steps));
        assert_true(4 * phase + end <= saga_log_need(0, steps));
        saga_free(saga);
    }
    assert_int_equal(saga_log_need(5000, 3) - saga_log_need(0, 3), 2 * 5000); /* the begin and its copy */
    assert_true(saga_log_record_max(LS_SAGA_BODY_CEILING, 1) <= LS_LOG_RECORD_MAX);
}

static int begin(void **state) {
    (void)state;
    machine = sagas_new(7, 1);
    return machine == NULL;
}
static int end(void **state) {
    (void)state;
    sagas_free(machine);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_dead_letter_comes_back_as_it_was),
        cmocka_unit_test(without_a_phase_it_runs),
        cmocka_unit_test(what_does_not_fit_is_left_out),
        cmocka_unit_test(records_in_their_order),
        cmocka_unit_test(many_in_order),
        cmocka_unit_test(the_largest_records_fit),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
