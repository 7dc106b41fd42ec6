/*
 * Hazard: a saga that makes a move nobody thought of, gives up too early or never, or acts before its record is
 * durable. Method: every pair of states is compared with the moves written down here by hand; then stories, one event
 * at a time, with the effects as a line of text. If the code were wrong: a pair would be legal that is not in the list,
 * or a line would read differently.
 */

#include "coordinator/core/saga.h"
#include "coordinator/core/saga_log.h"
#include "unit.h"

static const char *expected_states[] = {
    "begun: running passed",
    "running: running passed compensating stuck completed",
    "passed: stuck completed",
    "compensating: stuck compensated",
    "stuck: running passed compensating",
    "completed:",
    "compensated:",
};
static const char *expected_known[] = {
    "unsent: sent", "sent: done undone cancelled", "done: sent undone cancelled", "undone:", "cancelled:",
};

static void every_pair_of_states(void **state) {
    (void)state;
    for (int from = 0; from < SAGA_STATE_COUNT; from++) {
        char line[256];
        int used = snprintf(line, sizeof line, "%s:", saga_state_name((enum saga_state)from));
        for (int to = 0; to < SAGA_STATE_COUNT; to++) {
            const char *reason = saga_transition((enum saga_state)from, (enum saga_state)to);
            if (reason != NULL) {
                assert_true(strlen(reason) > 10);
                used += snprintf(line + used, sizeof line - (size_t)used, " %s", saga_state_name((enum saga_state)to));
            }
        }
        assert_string_equal(line, expected_states[from]);
    }
}

static void every_pair_of_what_is_known(void **state) {
    (void)state;
    for (int from = 0; from < SAGA_KNOWN_COUNT; from++) {
        char line[256];
        int used = snprintf(line, sizeof line, "%s:", saga_known_name((enum saga_known)from));
        for (int to = 0; to < SAGA_KNOWN_COUNT; to++) {
            if (saga_known_transition((enum saga_known)from, (enum saga_known)to) != NULL) {
                used += snprintf(line + used, sizeof line - (size_t)used, " %s", saga_known_name((enum saga_known)to));
            }
        }
        assert_string_equal(line, expected_known[from]);
    }
}

/* ----------------------------------------------------------------- stories */

static struct sagas *machine;
static struct saga_effects effects;
static uint64_t now_us, ticket;
static char told[1024];

/* "c" compensatable, "p" pivot, "r" retriable; large ones are calls; each after the one before. */
static struct saga *make(const char *kinds) {
    static const uint16_t before[] = {0, 1, 2, 3, 4, 5, 6, 7, 8};
    struct saga_step_spec steps[8];
    uint32_t count = (uint32_t)strlen(kinds);
    for (uint32_t i = 0; i < count; i++) {
        steps[i] = (struct saga_step_spec){.participant = i + 1,
                                           .kind = strchr("cC", kinds[i])   ? SAGA_COMPENSATABLE
                                                   : strchr("pP", kinds[i]) ? SAGA_PIVOT
                                                                            : SAGA_RETRIABLE,
                                           .call = strchr("CPR", kinds[i]) != NULL,
                                           .after_count = i > 0,
                                           .after = i > 0 ? &before[i - 1] : NULL};
    }
    struct saga_spec spec = {.steps = steps, .step_count = count, .deadline_us = 1000000};
    return saga_new(machine, 1, 1, &spec);
}

static void tell(void) {
    int used = 0;
    told[0] = '\0';
    for (size_t i = 0; i < effects.count; i++) {
        const struct saga_effect *e = &effects.list[i];
        char *at = told + used;
        size_t left = sizeof told - (size_t)used;
        const char *gap = used > 0 ? " " : "";
        switch (e->kind) {
        case SAGA_FX_LOG_BEGIN:
        case SAGA_FX_LOG_PHASE:
        case SAGA_FX_LOG_END:
            assert_true(e->ticket > ticket);
            ticket = e->ticket;
            used += snprintf(at, left, "%slog:%s", gap, saga_state_name(e->saga->to));
            break;
        case SAGA_FX_SEND:
            used += snprintf(at, left, "%s%s:%u", gap, saga_op_name(e->op), e->step);
            break;
        case SAGA_FX_ABANDON:
            used += snprintf(at, left, "%sabandon:%u", gap, e->step);
            break;
        case SAGA_FX_STATE:
            used += snprintf(at, left, "%s%s", gap, saga_state_name(e->saga->state));
            break;
        case SAGA_FX_ENDED:
            used += snprintf(at, left, "%sended:%s", gap, saga_state_name(e->saga->state));
            break;
        case SAGA_FX_ALERT:
            used += snprintf(at, left, "%salert", gap);
            break;
        }
    }
}

static void hand_in(struct saga_event *event, const char *expected) {
    event->now_us = now_us;
    saga_step(machine, event, &effects);
    tell();
    saga_check(machine);
    assert_string_equal(told, expected);
}

static void begin(const char *kinds) {
    struct saga_event event = {.kind = SAGA_EV_BEGIN, .saga = make(kinds)};
    hand_in(&event, strspn(kinds, "rR") == strlen(kinds) ? "log:passed" : "log:running");
}
static void recover(const char *kinds, enum saga_state saved, enum saga_state from) {
    struct saga_event event = {.kind = SAGA_EV_RECOVER, .saga = make(kinds)};
    event.recover.state = saved;
    event.recover.from = from;
    event.recover.deadline_left_us = 1000000;
    hand_in(&event, "");
}
static void durable(const char *expected) {
    struct saga_event event = {.kind = SAGA_EV_DURABLE, .ticket = ticket};
    hand_in(&event, expected);
}
static void tick(const char *expected) {
    struct saga_event event = {.kind = SAGA_EV_TICK};
    hand_in(&event, expected);
}
static void answer_as(uint32_t step, enum saga_answer answer, const char *sqlstate, const char *expected) {
    const struct saga *s = saga_find(machine, 1, 1);
    struct saga_event event = {.kind = SAGA_EV_ANSWER, .epoch = 1, .sequence = 1};
    event.answer.step = step;
    event.answer.attempt = s == NULL ? 1 : s->steps[step].attempt;
    event.answer.answer = answer;
    event.answer.sqlstate = sqlstate;
    event.answer.reason = "why";
    hand_in(&event, expected);
}
static void answer(uint32_t step, enum saga_answer what, const char *expected) {
    answer_as(step, what, what == SAGA_ANSWER_ERROR ? "23514" : NULL, expected);
}
static void operate(enum saga_act act, const char *expected) {
    assert_null(saga_may(saga_find(machine, 1, 1), act));
    struct saga_event event = {.kind = SAGA_EV_OPERATE, .epoch = 1, .sequence = 1};
    event.operate.act = act;
    hand_in(&event, expected);
}
static void cancel(const char *expected) {
    struct saga_event event = {.kind = SAGA_EV_CANCEL, .epoch = 1, .sequence = 1};
    event.reason = "not wanted";
    hand_in(&event, expected);
}

static int set_up(void **state) {
    (void)state;
    machine = sagas_new(1, 42);
    now_us = 1000;
    ticket = 0;
    return machine == NULL;
}
static int tear_down(void **state) {
    (void)state;
    sagas_free(machine);
    saga_effects_free(&effects);
    return 0;
}

static void a_saga_runs_in_order_and_passes_durably(void **state) {
    (void)state;
    begin("cpr");
    durable("running do:0");
    answer(0, SAGA_ANSWER_DONE, "do:1");
    answer(1, SAGA_ANSWER_DONE, "log:passed"); /* nothing behind it leaves before this is durable */
    durable("passed do:2");
    answer(2, SAGA_ANSWER_DONE, "log:completed");
    durable("ended:completed");
}

static void a_business_error_turns_durably_and_undoes_in_reverse(void **state) {
    (void)state;
    begin("ccc");
    durable("running do:0");
    answer(0, SAGA_ANSWER_DONE, "do:1");
    answer(1, SAGA_ANSWER_DONE, "do:2");
    answer(2, SAGA_ANSWER_ERROR, "log:compensating");
    durable("compensating cancel:2"); /* also the step that said no gets its row */
    answer(2, SAGA_ANSWER_CANCELLED, "undo:1");
    answer(1, SAGA_ANSWER_UNDONE, "undo:0");
    answer(0, SAGA_ANSWER_UNDONE, "log:compensated");
    durable("ended:compensated");
}

static void a_cancel_that_finds_it_done_is_followed_by_the_undo(void **state) {
    (void)state;
    begin("c");
    durable("running do:0");
    cancel("abandon:0 log:compensating");
    durable("compensating cancel:0");
    answer(0, SAGA_ANSWER_DONE, "undo:0");
    answer(0, SAGA_ANSWER_NO_ROW, "cancel:0");
    answer(0, SAGA_ANSWER_CANCELLED, "log:compensated");
}

static void an_unknown_pivot_is_asked_before_the_turn(void **state) {
    (void)state;
    begin("cpr");
    durable("running do:0");
    answer(0, SAGA_ANSWER_DONE, "do:1");
    now_us += 2000000; /* the deadline */
    tick("abandon:1 cancel:1");
    answer(1, SAGA_ANSWER_DONE, "log:passed"); /* it had happened */
    durable("passed do:2");
    cancel(""); /* too late */
}

static void a_cancelled_pivot_lets_it_turn(void **state) {
    (void)state;
    begin("cp");
    durable("running do:0");
    answer(0, SAGA_ANSWER_DONE, "do:1");
    cancel("abandon:1 cancel:1");
    answer(1, SAGA_ANSWER_CANCELLED, "log:compensating");
    durable("compensating undo:0");
}

static void a_late_answer_of_an_abandoned_attempt_is_not_heard(void **state) {
    (void)state;
    begin("c");
    durable("running do:0");
    cancel("abandon:0 log:compensating");
    durable("compensating cancel:0");
    struct saga_event event = {.kind = SAGA_EV_ANSWER, .epoch = 1, .sequence = 1};
    event.answer.attempt = 1;
    event.answer.answer = SAGA_ANSWER_DONE;
    hand_in(&event, "");
    answer(0, SAGA_ANSWER_CANCELLED, "log:compensated");
}

static void a_call_is_undone_whatever_is_known_and_in_its_place(void **state) {
    (void)state;
    recover("cCCp", SAGA_COMPENSATING, SAGA_COMPENSATING);
    tick("cancel:0 undo:2"); /* no row to ask, and an undo has an effect: one behind the other */
    answer(0, SAGA_ANSWER_DONE, "");
    answer(2, SAGA_ANSWER_UNDONE, "undo:1");
    answer(1, SAGA_ANSWER_UNDONE, "undo:0");
    answer(0, SAGA_ANSWER_UNDONE, "log:compensated");
}

static void a_call_that_said_no_is_undone_too(void **state) {
    (void)state;
    begin("cC");
    durable("running do:0");
    answer(0, SAGA_ANSWER_DONE, "do:1");
    answer(1, SAGA_ANSWER_ERROR, "log:compensating");
    durable("compensating undo:1");
    answer(1, SAGA_ANSWER_UNDONE, "undo:0");
}

static void an_unknown_call_pivot_is_asked_by_the_same_call(void **state) {
    (void)state;
    begin("cPr");
    durable("running do:0");
    answer(0, SAGA_ANSWER_DONE, "log:running"); /* that it may have left is durable before it does */
    durable("do:1");
    cancel(""); /* the answer that is on its way decides */
    answer_as(1, SAGA_ANSWER_ERROR, "40001", "");
    now_us = saga_next_timer(machine);
    tick("do:1");
    answer(1, SAGA_ANSWER_DONE, "log:passed");
    durable("passed do:2");
}

static void a_call_pivot_that_says_no_has_not_happened(void **state) {
    (void)state;
    begin("cP");
    durable("running do:0");
    answer(0, SAGA_ANSWER_DONE, "log:running");
    durable("do:1");
    answer(1, SAGA_ANSWER_ERROR, "log:compensating");
    durable("compensating undo:0");
}

static void answer_call(uint32_t step, bool local, bool final, const char *expected) {
    struct saga_event event = {.kind = SAGA_EV_ANSWER, .epoch = 1, .sequence = 1};
    event.answer.step = step;
    event.answer.attempt = saga_find(machine, 1, 1)->steps[step].attempt;
    event.answer.answer = SAGA_ANSWER_ERROR;
    event.answer.mismatch = true;
    event.answer.local = local;
    event.answer.final = final;
    event.answer.reason = "no";
    hand_in(&event, expected);
}

/* To `do:1` on its way at a pivot that is a call. */
static void begin_at_the_pivot(void) {
    begin("cPr");
    durable("running do:0");
    answer(0, SAGA_ANSWER_DONE, "log:running");
    durable("do:1");
}

static void ask_again(const char *expected) {
    now_us = saga_next_timer(machine);
    tick(expected);
}

/* "In progress" is a no as well: behind an attempt without an answer only one that speaks for all of them counts. */
static void a_later_no_of_a_call_pivot_must_speak_for_the_earlier_ones(void **state) {
    (void)state;
    begin_at_the_pivot();
    answer_as(1, SAGA_ANSWER_ERROR, "", ""); /* no answer in time */
    ask_again("do:1");
    answer_call(1, false, false, "");
    ask_again("do:1");
    answer(1, SAGA_ANSWER_UNBEGUN, "");
    ask_again("do:1");
    answer_call(1, false, false, "");
    ask_again("do:1");
    answer_call(1, false, true, "log:compensating");
}

static void a_no_counts_when_nothing_came_there_before(void **state) {
    (void)state;
    begin_at_the_pivot();
    answer(1, SAGA_ANSWER_UNBEGUN, "");
    ask_again("do:1");
    answer_call(1, false, false, "log:compensating");
}

static void a_failure_of_ours_is_no_answer_of_a_pivot_that_was_sent(void **state) {
    (void)state;
    struct saga_event event = {.kind = SAGA_EV_RECOVER, .saga = make("cP")};
    event.recover.state = event.recover.from = SAGA_RUNNING;
    event.recover.pivot_sent = true;
    event.recover.deadline_left_us = 1000000;
    hand_in(&event, "");
    tick("do:0");
    answer(0, SAGA_ANSWER_DONE, "do:1");
    answer_call(1, true, false, "log:stuck"); /* what it refers to is not there any more */
    durable("stuck alert");
    assert_int_equal(saga_find(machine, 1, 1)->steps[1].known, SAGA_SENT);
}

static void a_failure_of_ours_before_the_pivot_was_sent_turns(void **state) {
    (void)state;
    begin_at_the_pivot();
    answer_call(1, true, false, "log:compensating");
}

static void stick_at_the_pivot(void) {
    begin_at_the_pivot();
    cancel("");
    saga_find(machine, 1, 1)->steps[1].attempts_max = 1;
    answer_as(1, SAGA_ANSWER_ERROR, "", "log:stuck");
    durable("stuck alert");
}

static void an_operator_says_that_the_pivot_has_happened(void **state) {
    (void)state;
    stick_at_the_pivot();
    operate(SAGA_ACT_SKIP, "log:running");
    durable("running log:passed");
    durable("passed do:2");
    answer(2, SAGA_ANSWER_DONE, "log:completed");
}

static void an_operator_says_that_the_pivot_has_not_happened(void **state) {
    (void)state;
    stick_at_the_pivot();
    operate(SAGA_ACT_REFUSE, "log:compensating");
    durable("compensating undo:0");
    assert_non_null(saga_may(saga_find(machine, 1, 1), SAGA_ACT_REFUSE));
}

static void only_an_unsettled_call_pivot_can_be_refused(void **state) {
    (void)state;
    begin("cp");
    durable("running do:0");
    answer(0, SAGA_ANSWER_DONE, "do:1");
    cancel("abandon:1 cancel:1");
    answer(1, SAGA_ANSWER_BROKEN, "log:stuck");
    durable("stuck alert");
    assert_non_null(saga_may(saga_find(machine, 1, 1), SAGA_ACT_REFUSE)); /* its row can be asked */
    assert_non_null(saga_may(saga_find(machine, 1, 1), SAGA_ACT_SKIP));
}

static void after_a_start_a_call_pivot_is_asked_only_if_it_may_have_left(void **state) {
    (void)state;
    recover("cP", SAGA_RUNNING, SAGA_RUNNING);
    tick("do:0");
    cancel("abandon:0 log:compensating"); /* asking would make it happen */
    durable("compensating cancel:0");
    tear_down(state);
    assert_int_equal(set_up(state), 0);
    struct saga_event event = {.kind = SAGA_EV_RECOVER, .saga = make("cP")};
    event.recover.state = event.recover.from = SAGA_RUNNING;
    event.recover.pivot_sent = event.recover.turning = true;
    event.recover.deadline_left_us = 1000000;
    hand_in(&event, "");
    tick("do:0"); /* it is done: only what it returned is asked for */
    answer(0, SAGA_ANSWER_DONE, "do:1");
    answer_call(1, false, true, "log:compensating"); /* the same no as before */
    durable("compensating undo:0");
}

/* Fails `count` times with backoff; the last one says `last`. */
static void fail_times(uint32_t step, unsigned count, const char *again, const char *last) {
    for (unsigned i = 1; i <= count; i++) {
        struct saga_event event = {.kind = SAGA_EV_ANSWER, .epoch = 1, .sequence = 1, .now_us = now_us};
        event.answer.step = step;
        event.answer.attempt = saga_find(machine, 1, 1)->steps[step].attempt;
        event.answer.answer = SAGA_ANSWER_ERROR;
        event.answer.sqlstate = "40001";
        event.answer.reason = "why";
        saga_step(machine, &event, &effects);
        tell();
        if (i < count && told[0] == '\0') {
            uint64_t due_us = saga_next_timer(machine);
            assert_true(due_us > now_us && due_us <= now_us + 30000000);
            now_us = due_us;
            event.kind = SAGA_EV_TICK;
            event.now_us = now_us;
            saga_step(machine, &event, &effects);
            tell();
        }
        assert_string_equal(told, i < count ? again : last);
    }
}

static void attempts_end_in_the_dead_letter_queue(void **state) {
    (void)state;
    begin("r");
    durable("passed do:0");
    saga_find(machine, 1, 1)->alerted = true; /* the deadline is another story */
    fail_times(0, 10, "do:0", "log:stuck");
    durable("stuck alert");
    assert_int_equal(saga_next_timer(machine), SAGA_NEVER);
    const struct saga *s = saga_find(machine, 1, 1);
    assert_int_equal(s->failures, 10);
    assert_string_equal(s->reason, "why");
    assert_non_null(saga_may(s, SAGA_ACT_COMPENSATE)); /* behind the point of no return */
    operate(SAGA_ACT_RETRY, "log:passed");             /* durable before it acts */
    durable("passed do:0");
    saga_find(machine, 1, 1)->alerted = true;
    fail_times(0, 10, "do:0", "log:stuck");
    durable("stuck alert");
    operate(SAGA_ACT_SKIP, "log:passed");
    durable("passed log:completed");
    durable("ended:completed");
}

static void a_compensation_is_tried_longer_then_stuck(void **state) {
    (void)state;
    begin("cc");
    durable("running do:0");
    answer(0, SAGA_ANSWER_DONE, "do:1");
    answer(1, SAGA_ANSWER_ERROR, "log:compensating");
    durable("compensating cancel:1");
    answer(1, SAGA_ANSWER_CANCELLED, "undo:0");
    fail_times(0, 20, "undo:0", "log:stuck");
    durable("stuck alert");
    assert_non_null(saga_may(saga_find(machine, 1, 1), SAGA_ACT_COMPENSATE));
    operate(SAGA_ACT_SKIP, "log:compensating");
    durable("compensating log:compensated");
}

static void a_stuck_step_before_the_pivot_can_be_compensated(void **state) {
    (void)state;
    begin("cp");
    durable("running do:0");
    answer(0, SAGA_ANSWER_DONE, "do:1");
    answer(1, SAGA_ANSWER_BROKEN, "log:stuck");
    durable("stuck alert");
    operate(SAGA_ACT_COMPENSATE, "log:running"); /* the pivot is asked first, and the turn is not forgotten */
    durable("running cancel:1");
    answer(1, SAGA_ANSWER_CANCELLED, "log:compensating");
    durable("compensating undo:0");
}

static void after_a_start_every_step_counts_as_sent(void **state) {
    (void)state;
    recover("ccp", SAGA_RUNNING, SAGA_RUNNING);
    tick("do:0");
    answer(0, SAGA_ANSWER_DONE, "do:1");
    answer(1, SAGA_ANSWER_ERROR, "cancel:2"); /* the pivot may have been sent by the life before */
    answer(2, SAGA_ANSWER_CANCELLED, "log:compensating");
    durable("compensating cancel:1"); /* the first one only once that is settled */
}

static void after_a_start_behind_the_turn_all_are_cancelled_first(void **state) {
    (void)state;
    recover("ccp", SAGA_COMPENSATING, SAGA_RUNNING);
    tick("cancel:0 cancel:1");
    answer(0, SAGA_ANSWER_DONE, ""); /* not before what depends on it is settled */
    answer(1, SAGA_ANSWER_DONE, "undo:1");
    answer(1, SAGA_ANSWER_UNDONE, "undo:0");
    answer(0, SAGA_ANSWER_UNDONE, "log:compensated");
}

static void after_a_start_behind_the_pivot_it_goes_on(void **state) {
    (void)state;
    recover("cpr", SAGA_PASSED, SAGA_RUNNING);
    tick("do:2");
    cancel("");
    now_us += 2000000;
    tick("alert");
    answer(2, SAGA_ANSWER_DONE, "log:completed");
}

static void a_stuck_one_stays_stuck_over_a_start(void **state) {
    (void)state;
    recover("cc", SAGA_STUCK, SAGA_COMPENSATING);
    now_us += 100000000;
    tick("");
    operate(SAGA_ACT_RETRY, "log:compensating");
    durable("compensating cancel:0 cancel:1");
}

static void who_comes_back_is_asked_at_once(void **state) {
    (void)state;
    begin("c");
    durable("running do:0");
    for (int i = 0; i < 5; i++) {
        answer(0, SAGA_ANSWER_UNBEGUN, "");
        assert_true(saga_next_timer(machine) > now_us);
        struct saga_event event = {.kind = SAGA_EV_UP};
        event.participant = 1;
        hand_in(&event, "do:0");
    }
    assert_int_equal(saga_find(machine, 1, 1)->steps[0].tries, 0); /* what did not begin used up no attempt */
}

static void a_lost_answer_uses_up_no_attempt(void **state) {
    (void)state;
    begin("r");
    durable("passed do:0");
    saga_find(machine, 1, 1)->steps[0].attempts_max = 1;
    answer(0, SAGA_ANSWER_UNKNOWN, "");
    now_us = saga_next_timer(machine);
    tick("do:0");
    answer(0, SAGA_ANSWER_DONE, "log:completed");
}

static void a_cancel_before_the_begin_is_durable_waits_for_it(void **state) {
    (void)state;
    begin("cp");
    cancel("");
    durable("running log:compensating");
    durable("compensating log:compensated");
    durable("ended:compensated");
}

/* Two branches: one gets stuck while the other is on its way; the cancel comes while the retry's record is. */
static void a_cancel_during_a_retry_abandons_what_is_on_its_way(void **state) {
    (void)state;
    struct saga_step_spec steps[2] = {{.participant = 1}, {.participant = 2}};
    struct saga_spec spec = {.steps = steps, .step_count = 2, .deadline_us = 1000000};
    struct saga_event event = {.kind = SAGA_EV_BEGIN, .saga = saga_new(machine, 1, 1, &spec)};
    hand_in(&event, "log:running");
    durable("running do:0 do:1");
    answer(0, SAGA_ANSWER_BROKEN, "log:stuck");
    durable("stuck alert");
    operate(SAGA_ACT_RETRY, "log:running");
    cancel("");
    durable("running abandon:1 log:compensating");
    durable("compensating cancel:0 cancel:1");
}

static void five_classes_have_their_policies(void **state) {
    (void)state;
    for (int i = 0; i < SAGA_ERROR_COUNT; i++) {
        assert_true(strlen(saga_policy((enum saga_error)i)->reason) > 10);
    }
    static const char *const no[] = {"22003", "23505", "23514", "42P01", "P0001", "54000"};
    static const char *const later[] = {"40001", "40P01", "53300", "55P03", "57014",
                                        "08006", "58030", "XX000", "",      NULL};
    for (size_t i = 0; i < sizeof no / sizeof no[0]; i++) {
        assert_int_equal(saga_classify(no[i], false), SAGA_ERROR_BUSINESS);
    }
    for (size_t i = 0; i < sizeof later / sizeof later[0]; i++) {
        assert_int_equal(saga_classify(later[i], false), SAGA_ERROR_TIMEOUT);
    }
    assert_int_equal(saga_classify(NULL, true), SAGA_ERROR_BUSINESS); /* expect_rows */
    const struct saga_policy *p = saga_policy(SAGA_ERROR_TIMEOUT);
    assert_int_equal(saga_backoff_us(p, 1, 100000), 100000);
    assert_int_equal(saga_backoff_us(p, 1, 100001), 0); /* full jitter: from 0 on */
    assert_int_equal(saga_backoff_us(p, 3, 400000), 400000);
    assert_int_equal(saga_backoff_us(p, 500, 30000000), 30000000);
    assert_int_equal(saga_backoff_us(p, 500, 30000001), 0);
}

static struct saga *stuck_with(uint32_t count, bool call) {
    struct saga_step_spec *steps = calloc(count, sizeof *steps);
    assert_non_null(steps);
    steps[count - 1].kind = SAGA_PIVOT;
    steps[count - 1].call = call;
    struct saga_spec spec = {.steps = steps, .step_count = count, .deadline_us = 1};
    struct saga *s = saga_new(machine, 1, 1, &spec);
    free(steps);
    assert_non_null(s);
    s->state = SAGA_STUCK;
    s->from = SAGA_RUNNING;
    return s;
}

/* A log full of dead letters must be worked off: an operator's word needs no room beyond what is reserved already, and
 * words do not add up. */
static void a_dead_letter_has_room_for_an_operators_word(void **state) {
    (void)state;
    uint64_t begin_fixed = saga_log_record_max(50000, 1) - 50000, phase_of_one = saga_log_record_max(0, 1);
    for (uint32_t steps = 1; steps <= 1000; steps += 37) {
        size_t document = 200 + 20 * steps;
        uint64_t begin = begin_fixed + document, stuck = phase_of_one + 8 * (steps - 1);
        for (int call = 0; call < 2; call++) { /* the last step is a pivot, perhaps one at a service */
            uint64_t need = saga_log_need(document, steps) + (call ? saga_log_pivot_need(steps) : 0);
            struct saga *s = stuck_with(steps, call);
            assert_int_equal(saga_log_missing(need - begin - stuck, s), 0);
            uint64_t missing = saga_log_missing(100, s);
            assert_true(missing > 0);
            assert_int_equal(saga_log_missing(100 + missing, s), 0);
            assert_int_equal(saga_log_missing(100 + missing - 1, s), 1);
            saga_free(s);
        }
    }
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(a_dead_letter_has_room_for_an_operators_word),
        T(every_pair_of_states),
        T(every_pair_of_what_is_known),
        T(a_saga_runs_in_order_and_passes_durably),
        T(a_business_error_turns_durably_and_undoes_in_reverse),
        T(a_cancel_that_finds_it_done_is_followed_by_the_undo),
        T(an_unknown_pivot_is_asked_before_the_turn),
        T(a_cancelled_pivot_lets_it_turn),
        T(a_call_is_undone_whatever_is_known_and_in_its_place),
        T(a_call_that_said_no_is_undone_too),
        T(an_unknown_call_pivot_is_asked_by_the_same_call),
        T(a_call_pivot_that_says_no_has_not_happened),
        T(after_a_start_a_call_pivot_is_asked_only_if_it_may_have_left),
        T(a_later_no_of_a_call_pivot_must_speak_for_the_earlier_ones),
        T(a_no_counts_when_nothing_came_there_before),
        T(a_failure_of_ours_is_no_answer_of_a_pivot_that_was_sent),
        T(a_failure_of_ours_before_the_pivot_was_sent_turns),
        T(an_operator_says_that_the_pivot_has_happened),
        T(an_operator_says_that_the_pivot_has_not_happened),
        T(only_an_unsettled_call_pivot_can_be_refused),
        T(a_late_answer_of_an_abandoned_attempt_is_not_heard),
        T(attempts_end_in_the_dead_letter_queue),
        T(a_compensation_is_tried_longer_then_stuck),
        T(a_stuck_step_before_the_pivot_can_be_compensated),
        T(after_a_start_every_step_counts_as_sent),
        T(after_a_start_behind_the_turn_all_are_cancelled_first),
        T(after_a_start_behind_the_pivot_it_goes_on),
        T(a_stuck_one_stays_stuck_over_a_start),
        T(who_comes_back_is_asked_at_once),
        T(a_lost_answer_uses_up_no_attempt),
        T(a_cancel_before_the_begin_is_durable_waits_for_it),
        T(a_cancel_during_a_retry_abandons_what_is_on_its_way),
        T(five_classes_have_their_policies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
