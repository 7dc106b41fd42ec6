/*
 * test_agent_saga.c: the agent core and sagas: what a vote says of a barrier row, and when barrier rows and outcome
 * rows may go.
 */
#include "tests/unit/agent_rig.h"
#include "tests/unit/unit.h"

static void commit1(struct rig *rig, struct agent_answer answer, enum agent_session session) {
    struct agent_event event = rig_event(AEV_DB_COMMIT1);
    event.commit1.answer = answer;
    event.commit1.session = session;
    rig_answer(rig, AEV_DB_COMMIT1, event);
}

static struct agent_run with_barrier(struct agent_run run, enum agent_barrier barrier) {
    run.has_barrier = true;
    run.barrier = barrier;
    return run;
}

static void a_vote_says_what_the_row_says(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    rig_work_one(&rig, 1, 0, true);
    rig_ran(&rig, with_barrier(rig_run_open(), AGENT_BARRIER_DONE));
    commit1(&rig, (struct agent_answer){0}, AGENT_SESSION_IDLE);
    rig_expect(&rig, "release 1/2\nvote committed 1/2 results done\nforget 1/2\n");

    rig_work_one(&rig, 2, 0,
                 true); /* it had an answer: the truth is that nothing was committed, and which answer it was */
    rig_ran(&rig, with_barrier(rig_run_failed("LS001", AGENT_ITEM_BARRIER), AGENT_BARRIER_DONE));
    rig_expect(&rig, "vote no 2/2 LS001 results done\nrelease 2/2\nforget 2/2\n");
    rig_work_one(&rig, 3, 0, true);
    rig_ran(&rig, with_barrier(rig_run_failed("LS001", AGENT_ITEM_BARRIER), AGENT_BARRIER_UNDONE));
    rig_expect(&rig, "vote no 3/2 LS001 undone\nrelease 3/2\nforget 3/2\n");
    rig_work_one(&rig, 4, 0, true);
    rig_ran(&rig, rig_run_failed("LS002", AGENT_ITEM_BARRIER));
    rig_expect(&rig, "vote no 4/2 LS002\nrelease 4/2\nforget 4/2\n");
    rig_free(&rig);
}

static void what_was_rolled_back_says_nothing_of_its_row(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    rig_work_one(&rig, 1, 0, true);
    rig_ran(&rig, with_barrier(rig_run_open(), AGENT_BARRIER_DONE));
    commit1(&rig, (struct agent_answer){.sqlstate = "54000", .message = "too large to be kept"}, AGENT_SESSION_IDLE);
    rig_expect(&rig, "release 1/2\nvote no 1/2 54000\nforget 1/2\n");

    rig_work_one(&rig, 2, 0, true); /* nobody knows whether COMMIT came through; then the tombstone is there */
    rig_ran(&rig, with_barrier(rig_run_open(), AGENT_BARRIER_DONE));
    commit1(&rig, (struct agent_answer){.lost = true}, AGENT_SESSION_LOST);
    rig_stopped(&rig, true);
    rig_settled(&rig, AGENT_SETTLE_ABORTED);
    rig_expect(&rig, "vote no 2/2 retryable\nforget 2/2\n");

    rig_work_one(&rig, 3, 0, true); /* or it did come through: then what the row says was committed with it */
    rig_ran(&rig, with_barrier(rig_run_open(), AGENT_BARRIER_UNDONE));
    commit1(&rig, (struct agent_answer){.lost = true}, AGENT_SESSION_LOST);
    rig_stopped(&rig, true);
    rig_settled(&rig, AGENT_SETTLE_COMMITTED);
    rig_expect(&rig, "vote committed 3/2 results undone\nforget 3/2\n");
    rig_free(&rig);
}

/* The saga stands in the log up to 200. A step that commits brings that position along; other work rests on no record. */
static void a_step_brings_the_fence_along(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    rig.fence.position = 200;
    rig_work_one(&rig, 1, 0, true);
    rig_expect(&rig, "run 1/2 part=0 first last one-phase\n");
    struct agent_event work = rig_work_event(2, RIG_NUMBER, 0, true);
    work.work.saga = true;
    rig_frame(&rig, work);
    rig_expect(&rig, "fence 200\nrun 2/2 part=0 first last one-phase\n");
    work = rig_work_event(3, RIG_NUMBER, 0, true);
    work.work.saga = true;
    rig_frame(&rig, work); /* it is on its way */
    rig_expect(&rig, "run 3/2 part=0 first last one-phase\n");
    rig_free(&rig);
}

/* ------------------------------------------------------------------ what may go */

static void slow_sweep(struct agent_config *config) {
    config->sweep_us = UINT64_C(3000000); /* below the silence that drops a link */
}

/* Waits for its cycle: the sweep's scan, answered, and then its first page. */
static void to_page(struct rig *rig) {
    for (int i = 0; i < 8 && strstr(rig->trace, "page") == NULL; i++) {
        if (strstr(rig->trace, "scan") != NULL) {
            uint64_t scan = rig->op;
            struct agent_event event = rig_event(AEV_DB_SCAN);
            event.op = scan;
            event.scan.ok = true;
            event.scan.server = rig->server;
            rig_step(rig, &event);
        }
        rig_next_timer(rig);
    }
    assert_non_null(strstr(rig->trace, "page after ''"));
}

static void page(struct rig *rig, const char *const *sagas, uint32_t count) {
    struct agent_event event = rig_event(AEV_DB_KEPT);
    event.kept.ok = true;
    event.kept.sagas = sagas;
    event.kept.count = count;
    rig_answer(rig, AEV_DB_KEPT, event);
}

static void forgotten(struct rig *rig, bool ok, bool more) {
    struct agent_event event = rig_event(AEV_DB_FORGET);
    event.forgotten.ok = ok;
    event.forgotten.more = more;
    rig_answer(rig, AEV_DB_FORGET, event);
}

static struct agent_event answer(const struct rig *rig, char **sagas, uint32_t count, uint64_t up_to) {
    struct agent_event event = rig_event(AEV_FORGET);
    event.forget.has_token = true;
    event.forget.token = rig->token;
    event.forget.sagas = sagas;
    event.forget.count = count;
    event.forget.has_horizon = up_to != 0;
    event.forget.epoch = 3;
    event.forget.sequence = up_to;
    return event;
}

static void an_old_coordinator_is_asked_nothing(void **state) {
    (void)state;
    struct rig rig;
    rig_version = 1;
    rig_serve(&rig, slow_sweep);
    rig_next_timer(&rig);
    assert_null(strstr(rig.trace, "page"));
    rig_free(&rig);
}

static void only_what_has_ended_goes(void **state) {
    (void)state;
    struct rig rig;
    rig_version = 2;
    rig_serve(&rig, slow_sweep);
    to_page(&rig);
    char *ended[] = {(char *)(uintptr_t)rig_gtid(5, 0)};
    /* a service's own names, another coordinator's and an earlier incarnation's are nobody's to ask about */
    const char *there[] = {"order-17", rig_gtid(5, 0), rig_gtid(6, 0), "shop.ffffffffffff.1.1",
                           "tool.0a1b2c3d4e5f.1.1"};
    page(&rig, there, 5);
    rig_expect(&rig, "kept 2\n");
    rig_forget(&rig, answer(&rig, ended, 1, 40));
    rig_expect(&rig, "prune 1 horizon=3.40\n");
    forgotten(&rig, true, true); /* outcome rows go in batches */
    rig_expect(&rig, "prune 0\n");
    forgotten(&rig, true, false);
    rig_expect(&rig, "");
    rig_forget(&rig, answer(&rig, ended, 1, 41)); /* the same answer once more */
    rig_expect(&rig, "");
    rig_free(&rig);
}

static void pages_follow_each_other(void **state) {
    (void)state;
    struct rig rig;
    static const char *there[LS_KEPT_PAGE_MAX];
    static char names[LS_KEPT_PAGE_MAX][LS_GTID_MAX + 1];
    rig_version = 2;
    rig_serve(&rig, slow_sweep);
    to_page(&rig);
    for (uint32_t i = 0; i < LS_KEPT_PAGE_MAX; i++) {
        snprintf(names[i], sizeof names[i], "%s", rig_gtid(10000 + i, 0));
        there[i] = names[i];
    }
    page(&rig, there, LS_KEPT_PAGE_MAX);
    rig_expect(&rig, "kept 1000\n");
    rig_forget(&rig, answer(&rig, NULL, 0, 0));
    rig_expect(&rig, "prune 0\n");
    forgotten(&rig, true, false);
    assert_non_null(strstr(rig.trace, "page after 'shop."));
    assert_non_null(strstr(rig.trace, ".10999'"));
    page(&rig, NULL, 0);
    rig_expect(&rig, "");
    to_page(&rig); /* and begins again */
    rig_free(&rig);
}

/* With each of them its own round to the server, sagas that end quickly would cost as much in being forgotten as in running. */
static void one_by_one_has_a_rest(void **state) {
    (void)state;
    struct rig rig;
    rig_version = 2;
    rig_serve(&rig, slow_sweep);
    char *ended[] = {(char *)(uintptr_t)rig_gtid(5, 0)};
    struct agent_event event = answer(&rig, ended, 1, 0);
    event.forget.has_token = false;
    rig_forget(&rig, event);
    rig_expect(&rig, "let go of 1\n"); /* and no look for outcome rows */
    forgotten(&rig, true, false);
    rig_expect(&rig, "");
    rig.now_us += AGENT_FORGET_REST_US - 1;
    rig_forget(&rig, event);
    rig_expect(&rig, "");
    rig.now_us += 1;
    rig_forget(&rig, event);
    rig_expect(&rig, "let go of 1\n");
    rig_forget(&rig, event); /* while that is on its way */
    rig_expect(&rig, "");
    rig_free(&rig);
}

static void what_goes_takes_the_fence_along(void **state) {
    (void)state;
    struct rig rig;
    rig_version = 2;
    rig_serve(&rig, slow_sweep);
    char *ended[] = {(char *)(uintptr_t)rig_gtid(5, 0)};
    rig.fence.position = 200;
    struct agent_event event = answer(&rig, ended, 1, 0);
    event.forget.has_token = false;
    rig_forget(&rig, event);
    rig_expect(&rig, "fence 200\nlet go of 1\n");
    rig_free(&rig);
}

static void the_horizon_stops_at_what_is_not_settled_here(void **state) {
    (void)state;
    struct rig rig;
    rig_version = 2;
    rig_serve(&rig, slow_sweep);
    rig_work_one(&rig, 7, 0, true);
    rig_ran(&rig, rig_run_open());
    commit1(&rig, (struct agent_answer){.lost = true}, AGENT_SESSION_LOST);
    rig_stopped(&rig, true);
    rig_expect(&rig, "settle 7/2\n");
    struct agent_event event = answer(&rig, NULL, 0, 7);
    event.forget.has_token = false;
    rig_forget(&rig, event);
    rig_expect(&rig, "prune 0\n");
    forgotten(&rig, true, false);
    event.forget.sequence = 6;
    rig_forget(&rig, event);
    rig_expect(&rig, "prune 0 horizon=3.6\n");
    rig_free(&rig);
}

static void a_row_that_may_have_been_pruned_is_a_hazard(void **state) {
    (void)state;
    struct rig rig;
    rig_version = 2;
    rig_serve(&rig, slow_sweep);
    rig_settle(&rig, 7);
    rig_expect(&rig, "settle 7/2\n");
    rig_settled(&rig, AGENT_SETTLE_FORGOTTEN);
    rig_expect(&rig, "alarm\ndone hazard 7/2\nforget 7/2\n");
    rig_free(&rig);
}

static void what_cannot_be_right_ends_the_link(void **state) {
    (void)state;
    struct rig rig;
    char *foreign[] = {(char[]){"shop.ffffffffffff.1.1"}};
    rig_version = 2;
    for (int i = 0; i < 2; i++) {
        rig_serve(&rig, slow_sweep);
        struct agent_event event = answer(&rig, foreign, i == 0 ? 1 : 0, 9);
        event.forget.has_token = false;
        if (i == 1) event.forget.epoch = 4; /* of the future */
        rig_forget(&rig, event);
        assert_memory_equal(rig.trace, "close: a Forget about", 21);
        rig_free(&rig);
    }
}

static void a_lost_link_takes_the_question_with_it(void **state) {
    (void)state;
    struct rig rig;
    rig_version = 2;
    rig_serve(&rig, slow_sweep);
    to_page(&rig);
    page(&rig, NULL, 0);
    rig_expect(&rig, "kept 0\n");
    rig_link_down(&rig);
    rig_next_timer(&rig);
    assert_null(strstr(rig.trace, "page"));
    rig_free(&rig);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_vote_says_what_the_row_says),
        cmocka_unit_test(what_was_rolled_back_says_nothing_of_its_row),
        cmocka_unit_test(a_step_brings_the_fence_along),
        cmocka_unit_test(an_old_coordinator_is_asked_nothing),
        cmocka_unit_test(only_what_has_ended_goes),
        cmocka_unit_test(pages_follow_each_other),
        cmocka_unit_test(one_by_one_has_a_rest),
        cmocka_unit_test(what_goes_takes_the_fence_along),
        cmocka_unit_test(the_horizon_stops_at_what_is_not_settled_here),
        cmocka_unit_test(a_row_that_may_have_been_pruned_is_a_hazard),
        cmocka_unit_test(what_cannot_be_right_ends_the_link),
        cmocka_unit_test(a_lost_link_takes_the_question_with_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
