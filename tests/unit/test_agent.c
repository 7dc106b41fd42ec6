/*
 * Hazards: a branch that says more than it knows. A vote for what was not prepared, "aborted" while a zombie may still
 * prepare or commit (1.5, 1.15), "does not exist" taken for done (1.1), a decision carried out on another transaction
 * of the same name (1.19). Method: scripts. Each step is an event, and the lines that follow are all effects of that
 * step; agent_check() runs after each.
 */
#include "unit.h"

#include "agent_rig.h"

static enum agent_branch_state state_of(struct rig *rig, uint64_t sequence) {
    const struct agent_branch *b = agent_find(rig->agent, rig_gtid(sequence, 0));
    return b == NULL ? AGB_ENDED : b->state;
}

static void prove_again(struct rig *rig, uint64_t sequence, uint64_t xid) {
    struct agent_event event = rig_event(AEV_PROVE);
    event.decide = (struct agent_decide){.gtid = rig_gtid(sequence, 0),
                                         .commit = true,
                                         .gid = rig_gid(sequence),
                                         .identity = {.system_id = RIG_SYSTEM, .timeline = 1, .xid = xid, .lsn = 4000},
                                         .owner = "app"};
    rig_frame(rig, event);
}

/* A new link, served, with nothing found by its scan. */
static void link_again(struct rig *rig) {
    while (strstr(rig->trace, "dial\n") == NULL) rig_next_timer(rig);
    rig_link_up(rig);
    rig_identity(rig);
    rig_welcome(rig, true, rig->fence.chain, NULL);
    assert_non_null(strstr(rig->trace, "scan\n"));
    struct agent_event event = rig_event(AEV_DB_SCAN);
    event.scan.ok = true;
    event.scan.server = rig->server;
    rig_answer(rig, AEV_DB_SCAN, event);
    if (strstr(rig->trace, "inquiry") != NULL) rig_verdict(rig, AGENT_VERDICT_PENDING);
    assert_non_null(strstr(rig->trace, "ready\n"));
}

static void rolled_back(struct rig *rig, enum agent_session session) {
    struct agent_event event = rig_event(AEV_DB_ROLLBACK);
    event.rollback.session = session;
    rig_answer(rig, AEV_DB_ROLLBACK, event);
}

/* ------------------------------------------------------------------- the plain ways */

static void prepare_and_commit(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    rig_work(&rig, 1, 0, true);
    rig_expect(&rig, "run 1 part=0 first last\n");
    assert_string_equal(rig.gid, rig_gid(1));
    rig_ran(&rig, rig_run_prepared(11));
    rig_expect(&rig, "vote yes 1 xid=11 owner=app results\nrelease 1\n");
    assert_int_equal(rig.works, 0);
    rig_commit(&rig, 1, 11);
    rig_expect(&rig, "finish commit 1 xid=11\n");
    rig_finished(&rig, NULL);
    rig_expect(&rig, "done committed 1\nforget 1\n");
    /* Told again: answered from memory. Work again: never run twice. */
    rig_commit(&rig, 1, 11);
    rig_expect(&rig, "done committed 1\n");
    rig_work(&rig, 1, 0, true);
    rig_expect(&rig, "");
    assert_int_equal(rig.works, 0);
    rig_free(&rig);
}

static void prepare_and_abort(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    rig_prepare(&rig, 1, 11);
    rig_abort(&rig, 1);
    rig_expect(&rig, "finish rollback 1 xid=11\n");
    rig_abort(&rig, 1);
    rig_expect(&rig, "");
    rig_finished(&rig, NULL);
    rig_expect(&rig, "done aborted 1\nforget 1\n");
    rig_abort(&rig, 1);
    rig_expect(&rig, "done aborted 1\n");
    rig_free(&rig);
}

static void statements_in_parts(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    rig_work(&rig, 1, 0, false);
    rig_expect(&rig, "run 1 part=0 first\n");
    rig_ran(&rig, (struct agent_run){.session = AGENT_SESSION_OPEN});
    rig_expect(&rig, "vote continue 1 part=0 results\n");
    rig_work(&rig, 1, 0, false); /* a duplicate */
    rig_expect(&rig, "");
    rig_work(&rig, 1, 1, false);
    rig_expect(&rig, "run 1 part=1\n");
    rig_ran(&rig, (struct agent_run){.session = AGENT_SESSION_OPEN});
    rig_expect(&rig, "vote continue 1 part=1 results\n");
    rig_work(&rig, 1, 2, true);
    rig_expect(&rig, "run 1 part=2 last\n");
    rig_ran(&rig, rig_run_prepared(11));
    rig_expect(&rig, "vote yes 1 xid=11 owner=app results\nrelease 1\n");
    rig_free(&rig);
}

static void read_only(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    rig_work(&rig, 1, 0, true);
    rig_ran(&rig, (struct agent_run){.session = AGENT_SESSION_IDLE,
                                     .failed = AGENT_ITEM_GUARD,
                                     .sqlstate = "22012",
                                     .guard = AGENT_GUARD_READ_ONLY});
    rig_expect(&rig, "vote read-only 1 results\nrelease 1\nforget 1\n");
    rig_abort(&rig, 1);
    rig_expect(&rig, "done aborted 1\n");
    rig_free(&rig);
}

static void no_by_the_server(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    rig_work(&rig, 1, 0, true);
    struct agent_run run = rig_run_failed("23514", AGENT_ITEM_STATEMENT);
    run.failed_step = 4;
    rig_ran(&rig, run);
    rig_expect(&rig, "vote no 1 23514 step=4\nrelease 1\nforget 1\n");
    rig_work(&rig, 2, 0, true);
    rig_ran(&rig, rig_run_failed("40001", AGENT_ITEM_PREPARE));
    rig_expect(&rig, "vote no 2 40001 retryable\nrelease 2\nforget 2\n");
    rig_work(&rig, 3, 0, true);
    rig_ran(&rig, (struct agent_run){.nothing_sent = true, .session = AGENT_SESSION_LOST, .sqlstate = "53300"});
    rig_expect(&rig, "vote no 3 53300 retryable\nforget 3\n");
    rig_work(&rig, 4, 0, false);
    rig_ran(&rig, rig_run_failed("22012", AGENT_ITEM_STATEMENT));
    rig_expect(&rig, "vote no 4 22012 step=0\nrelease 4\nforget 4\n");
    rig_work(&rig, 4, 1, true); /* crossed the NO */
    rig_expect(&rig, "");
    assert_int_equal(rig.works, 0);
    rig_free(&rig);
}

static void no_although_prepared(void **state) {
    (void)state;
    struct rig rig;
    struct agent_step_rows rows = {.step = 2, .rows_affected = 0, .has_expect = true, .expect_rows = 1};
    rig_serve(&rig, NULL);
    rig_work(&rig, 1, 0, true);
    struct agent_run run = rig_run_prepared(11);
    run.rows = &rows;
    run.row_count = 1;
    rig_ran(&rig, run);
    rig_expect(&rig, "vote no 1 step=2\nrelease 1\nfinish rollback 1 xid=11\n");
    rig_finished(&rig, NULL);
    rig_expect(&rig, "forget 1\n");
    /* A cancelled standby wait; and a server that changed under the branch. */
    rig_work(&rig, 2, 0, true);
    run = rig_run_prepared(12);
    run.prepare_warning = true;
    rig_ran(&rig, run);
    rig_expect(&rig, "vote no 2 retryable\nrelease 2\nfinish rollback 2 xid=12\n");
    rig_finished(&rig, NULL);
    rig_work(&rig, 3, 0, true);
    run = rig_run_prepared(13);
    run.identity.timeline = 2;
    rig_ran(&rig, run);
    rig_expect(&rig, "vote no 3 retryable\nrelease 3\nfinish rollback 3 xid=13\n");
    /* Its xid could not be read: looked up in the list. */
    rig_work(&rig, 4, 0, true);
    run = rig_run_prepared(0);
    run.session = AGENT_SESSION_LOST;
    rig_ran(&rig, run);
    assert_non_null(strstr(rig.trace, "vote no 4 retryable\nkill 4\n"));
    rig_stopped(&rig, true);
    assert_non_null(strstr(rig.trace, "prove 4 xid=0\n"));
    rig_proved(&rig, true, 14, AGENT_XACT_UNKNOWN);
    assert_non_null(strstr(rig.trace, "finish rollback 4 xid=14\n"));
    rig_free(&rig);
}

static void broken(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    rig_work(&rig, 1, 0, true);
    rig_ran(&rig, (struct agent_run){
                      .session = AGENT_SESSION_IDLE, .failed = AGENT_ITEM_GUARD, .guard = AGENT_GUARD_MARKER_LOST});
    rig_expect(&rig, "alarm\nvote broken 1\nrelease 1\nforget 1\n");
    rig_abort(&rig, 1);
    rig_expect(&rig, "done hazard 1\n");
    rig_work(&rig, 2, 0, false);
    rig_ran(&rig, (struct agent_run){.session = AGENT_SESSION_OPEN, .guard = AGENT_GUARD_MARKER_LOST});
    rig_expect(&rig, "alarm\nvote broken 2\nrollback 2\n");
    rolled_back(&rig, AGENT_SESSION_IDLE);
    rig_expect(&rig, "release 2\nalarm\nforget 2\n");
    /* Lost: it might be prepared on top of it. */
    rig_work(&rig, 3, 0, true);
    rig_ran(&rig, (struct agent_run){.session = AGENT_SESSION_LOST, .guard = AGENT_GUARD_MARKER_LOST});
    assert_non_null(strstr(rig.trace, "vote broken 3\nkill 3\n"));
    rig_stopped(&rig, true);
    rig_proved(&rig, false, 0, AGENT_XACT_UNKNOWN);
    assert_non_null(strstr(rig.trace, "forget 3\n"));
    rig_free(&rig);
}

/* ------------------------------------------------------------- before the vote: abort, time, loss */

static void the_zombie_prepare(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    rig_work(&rig, 1, 0, true);
    uint64_t run_op = rig.op;
    rig_abort(&rig, 1);
    rig_expect(&rig, "kill 1\n"); /* no Done: its statement may wait for a lock, run on and prepare */
    rig_stopped(&rig, false);
    rig_expect(&rig, "");
    rig_next_timer(&rig);
    rig_expect(&rig, "kill 1\n");
    rig_stopped(&rig, true);
    rig_expect(&rig, ""); /* the run itself has not been answered yet */
    rig_ran_op(&rig, run_op, rig_run_lost());
    assert_non_null(strstr(rig.trace, "prove 1 xid=0\n"));
    rig_proved(&rig, true, 11, AGENT_XACT_UNKNOWN); /* it did prepare */
    rig_expect(&rig, "finish rollback 1 xid=11\n");
    rig_finished(&rig, NULL);
    assert_non_null(strstr(rig.trace, "done aborted 1\nforget 1\n"));
    rig_free(&rig);
}

static void an_abort_that_meets_the_answer_of_prepare(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    rig_work(&rig, 1, 0, true);
    uint64_t run_op = rig.op;
    rig_abort(&rig, 1);
    rig_ran_op(&rig, run_op, rig_run_prepared(11));
    assert_null(strstr(rig.trace, "vote"));
    rig_stopped(&rig, true);
    assert_non_null(strstr(rig.trace, "prove 1 xid=11\n"));
    rig_proved(&rig, true, 11, AGENT_XACT_IN_PROGRESS);
    rig_finished(&rig, NULL);
    assert_non_null(strstr(rig.trace, "done aborted 1\n"));
    rig_free(&rig);
}

static void an_abort_before_prepare_was_sent_needs_no_proof(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    rig_work(&rig, 1, 0, false);
    uint64_t run_op = rig.op;
    rig_abort(&rig, 1);
    rig_stopped(&rig, true);
    rig_ran_op(&rig, run_op, rig_run_lost());
    assert_non_null(strstr(rig.trace, "done aborted 1\nforget 1\n"));
    /* Open between two parts: its session is idle and can be asked. */
    rig_work(&rig, 2, 0, false);
    rig_ran(&rig, rig_run_open());
    rig_abort(&rig, 2);
    rig_expect(&rig, "rollback 2\n");
    rolled_back(&rig, AGENT_SESSION_IDLE);
    rig_expect(&rig, "release 2\ndone aborted 2\nforget 2\n");
    rig_work(&rig, 3, 0, false);
    rig_ran(&rig, rig_run_open());
    rig_abort(&rig, 3);
    rolled_back(&rig, AGENT_SESSION_LOST);
    assert_non_null(strstr(rig.trace, "kill 3\n"));
    rig_stopped(&rig, true);
    assert_non_null(strstr(rig.trace, "done aborted 3\n"));
    rig_free(&rig);
}

static void a_lost_answer_of_prepare(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    rig_work(&rig, 1, 0, true);
    rig_ran(&rig, rig_run_lost());
    rig_expect(&rig, "vote no 1 retryable\nkill 1\ncredit 63\n");
    rig_stopped(&rig, true);
    rig_proved(&rig, true, 11, AGENT_XACT_UNKNOWN);
    assert_non_null(strstr(rig.trace, "finish rollback 1 xid=11\n"));
    rig_finished(&rig, NULL);
    assert_null(strstr(rig.trace, "done"));
    assert_non_null(strstr(rig.trace, "forget 1\n"));
    rig_free(&rig);
}

static void the_agents_own_timer_bounds_prepare(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    struct agent_event event = rig_work_event(1, 0, 0, true);
    event.work.deadline_ms = 100;
    rig_frame(&rig, event);
    rig_tick(&rig, 1099999);
    rig_expect(&rig, "");
    rig_tick(&rig, 1);
    rig_expect(&rig, "vote no 1 57014 retryable\nkill 1\ncredit 63\n");
    rig_free(&rig);
}

static void an_open_branch_does_not_wait_for_ever(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    struct agent_event event = rig_work_event(1, 0, 0, false);
    event.work.deadline_ms = 100;
    rig_frame(&rig, event);
    rig_ran(&rig, rig_run_open());
    rig_tick(&rig, 1100000);
    rig_expect(&rig, "vote no 1 57014 retryable\nrollback 1\n");
    rig_free(&rig);
}

static void a_lost_link_before_the_vote(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    rig_work(&rig, 1, 0, true);
    uint64_t run_op = rig.op;
    rig_work(&rig, 2, 0, false);
    rig_ran(&rig, rig_run_open());
    rig_prepare(&rig, 3, 13);
    rig_link_down(&rig);
    rig_expect(&rig, "close\nkill 1\nrollback 2\n");
    rolled_back(&rig, AGENT_SESSION_IDLE);
    rig_expect(&rig, "release 2\nforget 2\n");
    rig_ran_op(&rig, run_op, rig_run_prepared(11));
    rig_expect(&rig, ""); /* a vote nobody would hear, and nobody waits for */
    rig_stopped(&rig, true);
    rig_proved(&rig, true, 11, AGENT_XACT_IN_PROGRESS);
    rig_expect(&rig, "finish rollback 1 xid=11\n");
    rig_finished(&rig, NULL);
    rig_expect(&rig, "forget 1\n");
    assert_int_equal(state_of(&rig, 3), AGB_PREPARED);
    link_again(&rig);
    rig_abort(&rig, 1);
    rig_expect(&rig, "done aborted 1\n");
    rig_commit(&rig, 3, 13);
    rig_expect(&rig, "finish commit 3 xid=13\n");
    rig_free(&rig);
}

/* --------------------------------------------------------------------- finishing and proof */

static void does_not_exist_is_a_question(void **state) {
    (void)state;
    static const struct {
        enum agent_xact_status status;
        const char *want;
    } cases[] = {
        {AGENT_XACT_COMMITTED, "done committed 1\nforget 1\n"},
        {AGENT_XACT_ABORTED, "alarm\ndone hazard 1\nforget 1\n"},
        {AGENT_XACT_TOO_OLD, "alarm\ndone hazard 1\nforget 1\n"},
        {AGENT_XACT_FUTURE, "alarm\ndone hazard 1\nforget 1\n"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct rig rig;
        rig_serve(&rig, NULL);
        rig_prepare(&rig, 1, 11);
        rig_commit(&rig, 1, 11);
        rig_finished(&rig, "42704");
        rig_expect(&rig, "prove 1 xid=11\n");
        rig_proved(&rig, false, 0, cases[i].status);
        rig_expect(&rig, cases[i].want);
        rig_free(&rig);
    }
}

static void does_not_exist_at_rollback(void **state) {
    (void)state;
    static const struct {
        enum agent_xact_status status;
        const char *want;
    } cases[] = {
        {AGENT_XACT_COMMITTED, "alarm\ndone hazard 1\nforget 1\n"},
        {AGENT_XACT_ABORTED, "done aborted 1\nforget 1\n"},
        {AGENT_XACT_FUTURE, "done aborted 1\nforget 1\n"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct rig rig;
        rig_serve(&rig, NULL);
        rig_prepare(&rig, 1, 11);
        rig_abort(&rig, 1);
        rig_finished(&rig, "42704");
        rig_expect(&rig, "prove 1 xid=11\n");
        rig_proved(&rig, false, 0, cases[i].status);
        rig_expect(&rig, cases[i].want);
        rig_free(&rig);
    }
}

static void unclear_answers_are_tried_again_through_proof(void **state) {
    (void)state;
    static const char *const codes[] = {"57P01", "57P03", "08006", "55000", "57014", "53200", "XX000", "ZZZZZ"};
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        struct rig rig;
        rig_serve(&rig, NULL);
        rig_prepare(&rig, 1, 11);
        rig_commit(&rig, 1, 11);
        rig_finished(&rig, codes[i]);
        rig_expect(&rig, strcmp(codes[i], "XX000") == 0 ? "alarm\n" : "");
        rig_commit(&rig, 1, 11); /* repeated by the coordinator: nothing new */
        rig_expect(&rig, "");
        rig_next_timer(&rig);
        rig_expect(&rig, "prove 1 xid=11\n");
        struct agent_event event = rig_event(AEV_DB_PROVE); /* could not be read */
        rig_answer(&rig, AEV_DB_PROVE, event);
        rig_expect(&rig, "");
        rig_next_timer(&rig);
        rig_expect(&rig, "prove 1 xid=11\n");
        rig_proved(&rig, true, 11, AGENT_XACT_IN_PROGRESS);
        rig_expect(&rig, "finish commit 1 xid=11\n");
        rig_finished(&rig, NULL);
        rig_expect(&rig, "done committed 1\nforget 1\n");
        rig_free(&rig);
    }
}

static void an_internal_error_behind_the_commit(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    rig_prepare(&rig, 1, 11);
    rig_commit(&rig, 1, 11);
    rig_finished(&rig, "XX000");
    rig_expect(&rig, "alarm\n");
    rig_next_timer(&rig);
    rig_proved(&rig, false, 0, AGENT_XACT_COMMITTED);
    rig_expect(&rig, "alarm\ndone committed 1\nforget 1\n"); /* its locks may have stayed: an operator must know */
    rig_prepare(&rig, 2, 12);
    rig_commit(&rig, 2, 12);
    rig_finished(&rig, "42501");
    rig_next_timer(&rig);
    rig_proved(&rig, false, 0, AGENT_XACT_COMMITTED);
    rig_expect(&rig, "done committed 2\nforget 2\n"); /* refused before it was begun: somebody else has finished it */
    rig_free(&rig);
}

static void a_lost_answer_of_commit_prepared(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    rig_prepare(&rig, 1, 11);
    rig_commit(&rig, 1, 11);
    struct agent_event event = rig_event(AEV_DB_FINISH);
    event.finish.answer.lost = true;
    rig_answer(&rig, AEV_DB_FINISH, event);
    rig_expect(&rig, "");
    rig_next_timer(&rig);
    rig_proved(&rig, false, 0, AGENT_XACT_IN_PROGRESS); /* between its two steps, or the old backend is still at it */
    rig_expect(&rig, "");
    rig_next_timer(&rig);
    rig_expect(&rig, "prove 1 xid=11\n");
    rig_proved(&rig, false, 0, AGENT_XACT_COMMITTED);
    rig_expect(&rig, "done committed 1\nforget 1\n");
    rig_free(&rig);
}

static void missing_rights_are_reported_and_tried_again(void **state) {
    (void)state;
    struct rig rig;
    int alarms = 0;
    rig_serve(&rig, NULL);
    rig_prepare(&rig, 1, 11);
    rig_commit(&rig, 1, 11);
    for (int i = 0; i < 20; i++) {
        rig_finished(&rig, "42501");
        alarms += strcmp(rig.trace, "alarm\n") == 0;
        while (strstr(rig.trace, "prove 1") == NULL) {
            struct agent_event event = rig_event(AEV_PING);
            rig_frame(&rig, event);
            rig_next_timer(&rig);
        }
        rig_proved(&rig, true, 11, AGENT_XACT_IN_PROGRESS);
        rig_expect(&rig, "finish commit 1 xid=11\n");
    }
    assert_in_range(alarms, 2, 6); /* seen, and not drowned in */
    rig_finished(&rig, NULL);
    rig_expect(&rig, "done committed 1\nforget 1\n");
    rig_free(&rig);
}

static void a_warning_at_commit_prepared_is_committed(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    rig_prepare(&rig, 1, 11);
    rig_commit(&rig, 1, 11);
    struct agent_event event = rig_event(AEV_DB_FINISH);
    event.finish.answer.warning = true;
    rig_answer(&rig, AEV_DB_FINISH, event);
    rig_expect(&rig, "report\ndone committed 1\nforget 1\n");
    rig_free(&rig);
}

static void a_decision_about_an_earlier_life(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    rig_commit(&rig, 1, 11);
    rig_expect(&rig, "prove 1 xid=11\n");
    rig_proved(&rig, true, 11, AGENT_XACT_IN_PROGRESS);
    rig_expect(&rig, "finish commit 1 xid=11\n");
    rig_finished(&rig, NULL);
    rig_expect(&rig, "done committed 1\nforget 1\n");
    rig_commit(&rig, 2, 12);
    rig_proved(&rig, false, 0, AGENT_XACT_COMMITTED);
    rig_expect(&rig, "done committed 2\nforget 2\n");
    rig_abort(&rig, 3); /* prepared in one form of the gid, in the other, or not at all */
    rig_expect(&rig, "prove 3 xid=0\n");
    assert_string_equal(rig.gid, rig_gid(3));
    rig_proved(&rig, false, 0, AGENT_XACT_UNKNOWN);
    rig_expect(&rig, "prove 3 xid=0\n");
    assert_memory_equal(rig.gid, "1280004948_", 11);
    rig_proved(&rig, false, 0, AGENT_XACT_UNKNOWN);
    rig_expect(&rig, "done aborted 3\nforget 3\n");
    rig_abort(&rig, 4);
    rig_proved(&rig, true, 14, AGENT_XACT_UNKNOWN);
    rig_expect(&rig, "finish rollback 4 xid=14\n");
    rig_finished(&rig, "57P01");
    rig_next_timer(&rig);
    rig_expect(&rig, "prove 4 xid=14\n");
    rig_proved(&rig, false, 0, AGENT_XACT_ABORTED);
    rig_expect(&rig, "done aborted 4\nforget 4\n");
    rig_free(&rig);
}

static void another_transaction_bears_the_gid(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    rig_commit(&rig, 1, 11);
    rig_proved(&rig, true, 99, AGENT_XACT_COMMITTED);
    rig_expect(&rig, "alarm\nfinish rollback 1 xid=99\n");
    rig_finished(&rig, NULL);
    rig_expect(&rig, "prove 1 xid=11\n"); /* and how did the real one end? */
    rig_proved(&rig, false, 0, AGENT_XACT_COMMITTED);
    rig_expect(&rig, "done committed 1 stranger\nforget 1\n");
    /* What is prepared in this very life is not what was decided. */
    rig_prepare(&rig, 2, 12);
    rig_commit(&rig, 2, 55);
    rig_expect(&rig, "prove 2 xid=55\n");
    rig_proved(&rig, true, 12, AGENT_XACT_ABORTED);
    rig_expect(&rig, "alarm\nfinish rollback 2 xid=12\n");
    rig_finished(&rig, "42704");
    rig_expect(&rig, "prove 2 xid=55\n");
    rig_proved(&rig, false, 0, AGENT_XACT_ABORTED);
    rig_expect(&rig, "alarm\ndone hazard 2 stranger\nforget 2\n");
    rig_free(&rig);
}

/* Our branch was finished by an outside hand and its gid prepared again, before the word came. */
static void a_word_that_comes_late_looks_at_the_list(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    rig_prepare(&rig, 1, 11);
    rig_tick(&rig, 100000);
    rig_commit(&rig, 1, 11); /* the answer to PREPARE is as young as a look at the list would be */
    rig_expect(&rig, "finish commit 1 xid=11\n");
    rig_finished(&rig, NULL);
    rig_prepare(&rig, 2, 12);
    rig_tick(&rig, 100001);
    rig_commit(&rig, 2, 12);
    rig_expect(&rig, "prove 2 xid=12\n");
    rig_proved(&rig, true, 12, AGENT_XACT_IN_PROGRESS);
    rig_expect(&rig, "finish commit 2 xid=12\n");
    rig_finished(&rig, NULL);
    rig_prepare(&rig, 3, 13);
    rig_tick(&rig, 100001);
    rig_commit(&rig, 3, 13);
    rig_proved(&rig, true, 99, AGENT_XACT_COMMITTED);
    rig_expect(&rig, "alarm\nfinish rollback 3 xid=99\n");
    rig_finished(&rig, NULL);
    rig_proved(&rig, false, 0, AGENT_XACT_COMMITTED);
    rig_expect(&rig, "done committed 3 stranger\nforget 3\n");
    rig_prepare(&rig, 4, 14);
    rig_tick(&rig, 100001);
    rig_abort(&rig, 4); /* rolling back whatever bears the name would have hidden it */
    rig_proved(&rig, true, 99, AGENT_XACT_COMMITTED);
    rig_expect(&rig, "alarm\nfinish rollback 4 xid=99\n");
    rig_finished(&rig, NULL);
    rig_proved(&rig, false, 0, AGENT_XACT_COMMITTED);
    rig_expect(&rig, "alarm\ndone hazard 4 stranger\nforget 4\n");
    rig_free(&rig);
}

static void committed_once_but_another_is_named(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    rig_prepare(&rig, 1, 11);
    rig_commit(&rig, 1, 11);
    rig_finished(&rig, NULL);
    rig_commit(&rig, 1, 12); /* memory holds 11 */
    rig_expect(&rig, "prove 1 xid=12\n");
    rig_free(&rig);
}

static void proved_again_after_a_failover(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    rig_prepare(&rig, 1, 11);
    rig_commit(&rig, 1, 11);
    rig_finished(&rig, NULL);
    prove_again(&rig, 1, 11); /* memory is not proof */
    rig_expect(&rig, "prove 1 xid=11\n");
    rig_proved(&rig, false, 0, AGENT_XACT_COMMITTED);
    rig_expect(&rig, "done committed 1\nforget 1\n");
    /* Prepared there, though by its position it could not be: not finished on this word, but asked about. */
    struct agent_switch history[] = {{1, 3999}};
    prove_again(&rig, 1, 11);
    struct agent_event event = rig_event(AEV_DB_PROVE);
    event.prove.ok = true;
    event.prove.seen = (struct agent_proof_seen){.listed = true,
                                                 .listed_xid = 11,
                                                 .listed_owner = "app",
                                                 .status = AGENT_XACT_IN_PROGRESS,
                                                 .server = {RIG_SYSTEM, 2, 4500, 4500},
                                                 .history = history,
                                                 .history_count = 1};
    rig_answer(&rig, AEV_DB_PROVE, event);
    rig_expect(&rig, "forget 1\n");
    /* In front of the switch: committed, and from then on bound to where it was seen. */
    history[0].lsn = 4000;
    prove_again(&rig, 1, 11);
    rig_answer(&rig, AEV_DB_PROVE, event);
    rig_expect(&rig, "finish commit 1 xid=11\n");
    history[0].lsn = 3999;
    rig_finished(&rig, "57P01");
    rig_next_timer(&rig);
    event.prove.seen.listed = false;
    event.prove.seen.status = AGENT_XACT_COMMITTED;
    rig_answer(&rig, AEV_DB_PROVE, event);
    rig_expect(&rig, "done committed 1\nforget 1\n");
    /* Lost with the old primary's WAL. */
    prove_again(&rig, 1, 11);
    rig_answer(&rig, AEV_DB_PROVE, event);
    rig_expect(&rig, "alarm\ndone hazard 1\nforget 1\n");
    rig_free(&rig);
}

/* A branch that has voted YES is not listed any more on the next link: asked about all the same. The scan's answer. */
static struct agent_event vanish(struct rig *rig) {
    rig_serve(rig, NULL);
    rig_prepare(rig, 1, 11);
    rig_link_down(rig);
    rig_next_timer(rig);
    rig_link_up(rig);
    rig_identity(rig);
    rig_welcome(rig, true, rig->fence.chain, NULL);
    struct agent_event event = rig_event(AEV_DB_SCAN);
    event.scan.ok = true;
    event.scan.server = rig->server;
    rig_answer(rig, AEV_DB_SCAN, event);
    rig_expect(rig, "inquiry 1 xid=11\n");
    assert_true(rig->asked[0].vanished);
    return event;
}

static void an_outside_hand_is_noticed_before_anybody_asks(void **state) {
    (void)state;
    static const struct {
        enum agent_verdict verdict;
        enum agent_xact_status status;
        const char *want;
    } cases[] = {
        {AGENT_VERDICT_ABORT, AGENT_XACT_COMMITTED, "alarm\ndone hazard 1\nforget 1\n"},
        {AGENT_VERDICT_ABORT, AGENT_XACT_ABORTED, "forget 1\n"},
        {AGENT_VERDICT_COMMIT, AGENT_XACT_COMMITTED, "done committed 1\nforget 1\n"},
        {AGENT_VERDICT_COMMIT, AGENT_XACT_ABORTED, "alarm\ndone hazard 1\nforget 1\n"},
        /* This agent was away, another finished the branch, and the log has let go of the decision: nobody's alarm. */
        {AGENT_VERDICT_FORGOTTEN, AGENT_XACT_COMMITTED, "forget 1\n"},
        {AGENT_VERDICT_FORGOTTEN, AGENT_XACT_ABORTED, "forget 1\n"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct rig rig;
        struct agent_event event = vanish(&rig);
        rig_verdict(&rig, cases[i].verdict);
        rig_expect(&rig, "scan\n");
        rig_answer(&rig, AEV_DB_SCAN, event);
        rig_expect(&rig, "prove 1 xid=11\nready\n");
        rig_proved(&rig, false, 0, cases[i].status);
        rig_expect(&rig, cases[i].want);
        rig_free(&rig);
    }
}

/* Asked about since it was not listed any more, it ended before the verdict came: what bears its transaction id by now
 * may be another. */
static void a_verdict_about_what_has_vanished_and_ended_is_dropped(void **state) {
    (void)state;
    struct rig rig;
    (void)vanish(&rig);
    rig_commit(&rig, 1, 11);
    rig_expect(&rig, "finish commit 1 xid=11\n");
    rig_finished(&rig, "42704");
    rig_expect(&rig, "prove 1 xid=11\n");
    rig_proved(&rig, false, 0, AGENT_XACT_ABORTED);
    rig_expect(&rig, "alarm\ndone hazard 1\nforget 1\n");
    rig_verdict(&rig, AGENT_VERDICT_COMMIT);
    rig_expect(&rig, "ready\n");
    rig_free(&rig);
}

/* What was remembered on the old primary is no proof on the new one. */
static void memory_ends_with_the_servers_history(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    rig_prepare(&rig, 1, 11);
    rig_commit(&rig, 1, 11);
    rig_finished(&rig, NULL);
    rig_prepare(&rig, 2, 12);
    rig_abort(&rig, 2);
    rig_finished(&rig, NULL);
    rig_work_one(&rig, 3, 0, true);
    rig_ran(&rig, rig_run_open());
    struct agent_event event = rig_event(AEV_DB_COMMIT1);
    event.commit1.session = AGENT_SESSION_IDLE;
    rig_answer(&rig, AEV_DB_COMMIT1, event);
    rig_link_down(&rig);
    rig.server.timeline = 2;
    link_again(&rig);
    rig_commit(&rig, 1, 11);
    rig_expect(&rig, "prove 1 xid=11\n");
    rig_proved(&rig, false, 0,
               AGENT_XACT_COMMITTED); /* of a reused xid: the switch is not in the history that was read */
    rig_expect(&rig, "alarm\ndone hazard 1\nforget 1\n");
    rig_abort(&rig, 2);
    rig_expect(&rig, "prove 2 xid=0\n");
    rig_settle(&rig, 3);
    rig_expect(&rig, "settle 3/2\n");
    rig_settled(&rig, AGENT_SETTLE_ABORTED);
    rig_expect(&rig, "alarm\ndone hazard 3/2\nforget 3/2\n");
    rig_work(&rig, 1, 0, true); /* and it is still never run twice */
    rig_expect(&rig, "");
    rig_free(&rig);
}

static void contradictions_are_refused(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    rig_work(&rig, 1, 0, true);
    rig_commit(&rig, 1, 11);
    rig_expect(&rig, "alarm\nclose: told to commit a branch that has not voted yes\nkill 1\n");
    rig_free(&rig);

    rig_serve(&rig, NULL);
    rig_prepare(&rig, 1, 11);
    rig_abort(&rig, 1);
    rig_commit(&rig, 1, 11);
    rig_expect(&rig, "alarm\nclose: told to commit a branch that was aborted\n");
    rig_free(&rig);

    rig_serve(&rig, NULL);
    rig_prepare(&rig, 1, 11);
    rig_commit(&rig, 1, 11);
    rig_abort(&rig, 1);
    rig_expect(&rig, "alarm\nclose: told to abort a branch that it was told to commit\n");
    rig_finished(&rig, NULL); /* the first word stands */
    rig_expect(&rig, "forget 1\n");
    link_again(&rig);
    rig_abort(&rig, 1);
    rig_expect(&rig, "done hazard 1\nalarm\n");
    rig_free(&rig);

    /* Rolled back here, then told to commit: proof, and the evidence is a hazard. */
    rig_serve(&rig, NULL);
    rig_prepare(&rig, 1, 11);
    rig_abort(&rig, 1);
    rig_finished(&rig, NULL);
    rig_commit(&rig, 1, 11);
    rig_expect(&rig, "prove 1 xid=11\n");
    rig_proved(&rig, false, 0, AGENT_XACT_ABORTED);
    rig_expect(&rig, "alarm\ndone hazard 1\nforget 1\n");
    rig_free(&rig);
}

static void decisions_that_are_not_bound(void **state) {
    (void)state;
    for (int i = 0; i < 8; i++) {
        struct rig rig;
        struct agent_event event = rig_event(AEV_DECIDE);
        char xa[LS_GID_MAX + 1];
        rig_serve(&rig, NULL);
        rig_prepare(&rig, 1, 11);
        event.decide =
            (struct agent_decide){.gtid = rig_gtid(1, 0),
                                  .commit = true,
                                  .gid = rig_gid(1),
                                  .identity = {.system_id = RIG_SYSTEM, .timeline = 1, .xid = 11, .lsn = 4000}};
        switch (i) {
        case 0:
            event.decide.gid = NULL;
            break;
        case 1:
            event.decide.gid = rig_gid(2);
            break;
        case 2:
            event.decide.identity.xid = 0;
            break;
        case 3:
            event.decide.identity.system_id = 0;
            break;
        case 4:
            event.decide.gtid = "shop.ffffffffffff.3.1";
            break;
        case 5:
            event.decide.gtid = "store.0a1b2c3d4e5f.3.1";
            break;
        case 6:
            event.decide.one_phase = true;
            break;
        default:
            ls_gid_format(LS_GID_XA, rig_gtid(1, 0), "orders", xa);
            event.decide.gid = xa; /* the other form: not what was prepared, but a name of ours */
            break;
        }
        rig_frame(&rig, event);
        if (i < 7)
            assert_memory_equal(rig.trace, "close: ", 7);
        else
            rig_expect(&rig, "prove 1 xid=11\n");
        rig_free(&rig);
    }
}

/* -------------------------------------------------------------------- duplicates, refusals */

static void tiny_memory(struct agent_config *config) {
    config->finished_max = 2;
}

static void a_name_is_never_run_twice(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, tiny_memory);
    for (uint64_t i = 1; i <= 5; i++) {
        rig_prepare(&rig, i, 10 + i);
        rig_work(&rig, i, 0, true); /* while it is in the table */
        rig_expect(&rig, "");
        rig_commit(&rig, i, 10 + i);
        rig_finished(&rig, NULL);
    }
    rig_work(&rig, 5, 0, true); /* while it is remembered */
    rig_expect(&rig, "");
    rig_work(&rig, 3, 0, true); /* and when it is forgotten */
    rig_expect(&rig, "vote no 3 57014 retryable\n");
    rig_work(&rig, 1, 0, true);
    rig_expect(&rig, "vote no 1 57014 retryable\n");
    rig_work(&rig, 6, 0, true);
    rig_expect(&rig, "run 6 part=0 first last\n");
    assert_int_equal(rig.works, 1);
    rig_commit(&rig, 1, 11); /* a forgotten commit is proved */
    rig_expect(&rig, "prove 1 xid=11\n");
    rig_ran_op(&rig, 0, rig_run_lost()); /* an answer nobody waits for */
    rig_expect(&rig, "");
    rig_link_down(&rig);
    rig_free(&rig);
}

static void work_that_may_not_run(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    struct agent_event event = rig_work_event(1, 0, 0, true);
    event.work.refused = "statement 3 begins with COMMIT";
    event.work.refused_sqlstate = "0A000";
    event.work.has_refused_step = true;
    event.work.refused_step = 3;
    rig_frame(&rig, event);
    rig_expect(&rig, "vote no 1 0A000 step=3\n");
    event = rig_work_event(2, 0, 0, true);
    event.work.deadline_ms = 0;
    rig_frame(&rig, event);
    rig_expect(&rig, "vote no 2 57014 retryable\n");
    rig_work(&rig, 3, 0, false);
    rig_ran(&rig, rig_run_open());
    event = rig_work_event(3, 0, 1, true);
    event.work.refused = "statement 9 begins with RESET";
    rig_frame(&rig, event);
    rig_expect(&rig, "vote no 3\nrollback 3\n");
    assert_int_equal(rig.works, 0);
    rig_free(&rig);
}

static void work_that_breaks_the_protocol(void **state) {
    (void)state;
    for (int i = 0; i < 7; i++) {
        struct rig rig;
        struct agent_event event = rig_work_event(1, 0, 0, true);
        const char *want = "close: Work for a transaction that is not of this life of the coordinator\n";
        rig_serve(&rig, NULL);
        switch (i) {
        case 0:
            event.work.gtid = "shop.0a1b2c3d4e5f.2.1"; /* an earlier epoch */
            break;
        case 1:
            event.work.gtid = "shop.ffffffffffff.3.1";
            break;
        case 2:
            event.work.gtid = "nonsense";
            break;
        case 3:
            event.work.one_phase = true;
            want = "close: Work whose gtid does not fit its participants\n";
            break;
        case 4:
            event = rig_work_event(1, RIG_NUMBER + 1, 0, true);
            want = "close: Work whose gtid does not fit its participants\n";
            break;
        case 5:
            event.work.lock_timeout_ms = 0;
            want = "close: Work without a lock timeout\n";
            break;
        default:
            rig_work(&rig, 1, 0, false);
            event.work.part = 1; /* before CONTINUE */
            want = "close: Work out of order\nkill 1\n";
            break;
        }
        rig_frame(&rig, event);
        rig_expect(&rig, want);
        assert_int_equal(rig.works, i == 6 ? 1 : 0);
        if (i == 6) {
            rig_ran(&rig, rig_run_lost());
            assert_int_equal(rig.works, 0);
        }
        rig_free(&rig);
    }
}

/* ------------------------------------------------------------------------- one participant */

static void commit1(struct rig *rig, struct agent_answer answer, enum agent_session session) {
    struct agent_event event = rig_event(AEV_DB_COMMIT1);
    event.commit1.answer = answer;
    event.commit1.session = session;
    rig_answer(rig, AEV_DB_COMMIT1, event);
}

/* Statements done, COMMIT on its way. */
static void committing(struct rig *rig) {
    rig_serve(rig, NULL);
    rig_work_one(rig, 1, 0, true);
    rig_expect(rig, "run 1/2 part=0 first last one-phase\n");
    rig_ran(rig, rig_run_open());
    rig_expect(rig, "commit1 1/2\n");
}

static void one_participant_commits_by_itself(void **state) {
    (void)state;
    struct rig rig;
    committing(&rig);
    commit1(&rig, (struct agent_answer){0}, AGENT_SESSION_IDLE);
    rig_expect(&rig, "release 1/2\nvote committed 1/2 results\nforget 1/2\n");
    assert_int_equal(rig.works, 0);
    rig_settle(&rig, 1); /* remembered, and read all the same: the row says whose it is */
    rig_expect(&rig, "settle 1/2\n");
    rig_settled(&rig, AGENT_SETTLE_COMMITTED);
    rig_expect(&rig, "done committed 1/2\nforget 1/2\n");
    rig_work_one(&rig, 1, 0, true);
    rig_expect(&rig, "");
    rig_free(&rig);

    committing(&rig);
    commit1(&rig, (struct agent_answer){.warning = true}, AGENT_SESSION_IDLE);
    rig_expect(&rig, "report\nrelease 1/2\nvote committed 1/2 results\nforget 1/2\n");
    rig_free(&rig);
}

static void one_participant_says_no(void **state) {
    (void)state;
    struct rig rig;
    committing(&rig); /* a deferred constraint */
    commit1(&rig, (struct agent_answer){.sqlstate = "23503", .message = "no such row"}, AGENT_SESSION_IDLE);
    rig_expect(&rig, "release 1/2\nvote no 1/2 23503\nforget 1/2\n");
    rig_free(&rig);

    committing(&rig);
    commit1(&rig, (struct agent_answer){.rolled_back = true}, AGENT_SESSION_IDLE);
    rig_expect(&rig, "release 1/2\nvote no 1/2 25P02\nforget 1/2\n");
    rig_free(&rig);

    rig_serve(&rig, NULL); /* COMMIT was never sent and the session has rolled back: no tombstone is needed */
    rig_work_one(&rig, 1, 0, true);
    rig_ran(&rig, rig_run_failed("40001", AGENT_ITEM_STATEMENT));
    rig_expect(&rig, "vote no 1/2 40001 step=0 retryable\nrelease 1/2\nforget 1/2\n");
    rig_settle(&rig, 1);
    rig_expect(&rig, "done aborted 1/2\n");
    rig_free(&rig);

    rig_serve(&rig, NULL);
    rig_work_one(&rig, 1, 0, true);
    struct agent_run run = rig_run_open();
    run.guard = AGENT_GUARD_MARKER_LOST;
    rig_ran(&rig, run);
    rig_expect(&rig, "alarm\nvote broken 1/2\nrollback 1/2\n");
    rig_free(&rig);
}

static void an_unanswered_commit_is_settled_by_its_row(void **state) {
    (void)state;
    static const struct {
        enum agent_settle_result result;
        const char *want;
    } cases[] = {
        {AGENT_SETTLE_COMMITTED, "vote committed 1/2 results\nforget 1/2\n"},
        {AGENT_SETTLE_ABORTED, "vote no 1/2 retryable\nforget 1/2\n"},
    };
    for (size_t i = 0; i < 2; i++) {
        struct rig rig;
        committing(&rig);
        commit1(&rig, (struct agent_answer){.lost = true}, AGENT_SESSION_LOST);
        assert_memory_equal(rig.trace, "kill 1/2\n", 9);
        assert_null(strstr(rig.trace, "vote"));
        rig_stopped(&rig, true);
        rig_expect(&rig, "settle 1/2\n");
        rig_settled(&rig, AGENT_SETTLE_BUSY); /* the zombie holds the key */
        rig_expect(&rig, "");
        rig_next_timer(&rig);
        rig_expect(&rig, "settle 1/2\n");
        rig_settled(&rig, AGENT_SETTLE_FAILED);
        rig_next_timer(&rig);
        rig_settled(&rig, cases[i].result);
        rig_expect(&rig, cases[i].want);
        rig_free(&rig);
    }
    /* A code that tells nothing, on a living session. */
    struct rig rig;
    committing(&rig);
    commit1(&rig, (struct agent_answer){.sqlstate = "57P01"}, AGENT_SESSION_IDLE);
    assert_memory_equal(rig.trace, "kill 1/2\n", 9);
    rig_free(&rig);
}

static void the_zombie_commit(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    rig_work_one(&rig, 1, 0, true);
    uint64_t run_op = rig.op;
    rig_settle(&rig, 1); /* the client has gone */
    rig_expect(&rig, "kill 1/2\n");
    rig_ran_op(&rig, run_op, rig_run_open()); /* statements done after all: COMMIT is not sent any more */
    assert_null(strstr(rig.trace, "commit1"));
    rig_stopped(&rig, true);
    assert_non_null(strstr(rig.trace, "settle 1/2\n"));
    rig_settled(&rig, AGENT_SETTLE_ABORTED);
    rig_expect(&rig, "done aborted 1/2\nforget 1/2\n"); /* only now */
    rig_free(&rig);
}

static void an_abort_that_comes_behind_the_commit(void **state) {
    (void)state;
    struct rig rig;
    committing(&rig);
    struct agent_event event = rig_event(AEV_DECIDE);
    event.decide = (struct agent_decide){.gtid = rig_gtid(1, RIG_NUMBER), .one_phase = true};
    rig_frame(&rig, event);
    rig_expect(&rig, "");
    commit1(&rig, (struct agent_answer){0}, AGENT_SESSION_IDLE);
    rig_expect(&rig, "release 1/2\ndone committed 1/2\nforget 1/2\n");
    rig_frame(&rig, event);
    rig_expect(&rig, "done committed 1/2\n"); /* an abort of such a transaction is a question */
    rig_free(&rig);
}

static void a_transaction_of_an_earlier_life_is_settled(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    rig_settle(&rig, 1);
    rig_expect(&rig, "settle 1/2\n");
    rig_settle(&rig, 1);
    rig_expect(&rig, "");
    rig_settled(&rig, AGENT_SETTLE_COMMITTED);
    rig_expect(&rig, "done committed 1/2\nforget 1/2\n");
    struct agent_event event = rig_event(AEV_DECIDE);
    event.decide = (struct agent_decide){.gtid = rig_gtid(2, RIG_NUMBER), .one_phase = true};
    rig_frame(&rig, event);
    rig_expect(&rig, "settle 2/2\n");
    rig_settled(&rig, AGENT_SETTLE_ABORTED);
    rig_expect(&rig, "done aborted 2/2\nforget 2/2\n");
    event = rig_event(AEV_SETTLE);
    event.settle.gtid = rig_gtid(3, 0);
    rig_frame(&rig, event);
    rig_expect(&rig, "close: told to settle a transaction that is not this participant's alone\n");
    rig_free(&rig);
}

static void a_used_key(void **state) {
    (void)state;
    struct rig rig;
    static const uint8_t hash[2] = {1, 2};
    struct agent_event event;
    rig_serve(&rig, NULL);
    rig_work_one(&rig, 5, 0, true);
    rig_ran(&rig, rig_run_failed("23505", AGENT_ITEM_OUTCOME_ROW));
    rig_expect(&rig, "release 5/2\nreadkey 5/2\n");
    event = rig_event(AEV_DB_READ_KEY);
    rig_answer(&rig, AEV_DB_READ_KEY, event); /* could not be read */
    rig_next_timer(&rig);
    rig_expect(&rig, "readkey 5/2\n");
    event.key.ok = event.key.found = true;
    event.key.gtid = rig_gtid(4, RIG_NUMBER);
    event.key.hash = hash;
    event.key.hash_length = 2;
    rig_answer(&rig, AEV_DB_READ_KEY, event);
    rig_expect(&rig, "vote exists 5/2 existing=4/2\nforget 5/2\n");
    assert_int_equal(rig.works, 0);
    /* It was not the key but the name: a tombstone stands there. */
    rig_work_one(&rig, 6, 0, true);
    rig_ran(&rig, rig_run_failed("23505", AGENT_ITEM_OUTCOME_ROW));
    event = rig_event(AEV_DB_READ_KEY);
    event.key.ok = true;
    rig_answer(&rig, AEV_DB_READ_KEY, event);
    rig_expect(&rig, "settle 6/2\n");
    rig_settled(&rig, AGENT_SETTLE_ABORTED);
    rig_expect(&rig, "vote no 6/2 23505\nforget 6/2\n");
    rig_free(&rig);
}

static void one_participant_and_a_lost_link(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    rig_work_one(&rig, 1, 0, true);
    uint64_t run_op = rig.op;
    rig_work_one(&rig, 2, 0, false);
    rig_ran(&rig, rig_run_open());
    rig_link_down(&rig);
    rig_expect(&rig, "close\nkill 1/2\nrollback 2/2\n");
    rolled_back(&rig, AGENT_SESSION_IDLE);
    rig_expect(&rig, "release 2/2\nforget 2/2\n");
    rig_ran_op(&rig, run_op, rig_run_lost());
    rig_stopped(&rig, true);
    rig_settled(&rig, AGENT_SETTLE_ABORTED);
    rig_expect(&rig, "forget 1/2\n");
    link_again(&rig);
    rig_settle(&rig, 1);
    rig_expect(&rig, "done aborted 1/2\n");
    rig_settle(&rig, 2);
    rig_expect(&rig, "done aborted 2/2\n");
    rig_free(&rig);
    /* COMMIT was on its way: it stays on its way. */
    committing(&rig);
    rig_link_down(&rig);
    rig_expect(&rig, "close\n");
    commit1(&rig, (struct agent_answer){0}, AGENT_SESSION_IDLE);
    rig_expect(&rig, "release 1/2\nforget 1/2\n");
    link_again(&rig);
    rig_settle(&rig, 1);
    rig_expect(&rig, "settle 1/2\n");
    rig_settled(&rig, AGENT_SETTLE_COMMITTED);
    rig_expect(&rig, "done committed 1/2\nforget 1/2\n");
    rig_free(&rig);
}

static void a_commit_that_waits_for_ever(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    struct agent_event event = rig_work_event(1, RIG_NUMBER, 0, true);
    event.work.deadline_ms = 100;
    rig_frame(&rig, event);
    rig_ran(&rig, rig_run_open());
    uint64_t commit_op = rig.op;
    rig_tick(&rig, 1100000);
    assert_memory_equal(rig.trace, "kill 1/2\n", 9);
    rig_stopped(&rig, true);
    event = rig_event(AEV_DB_COMMIT1);
    event.op = commit_op;
    event.commit1.answer.lost = true;
    event.commit1.session = AGENT_SESSION_LOST;
    rig_step(&rig, &event);
    assert_non_null(strstr(rig.trace, "settle 1/2\n"));
    rig_settled(&rig, AGENT_SETTLE_COMMITTED); /* locally committed, the standby did not answer */
    rig_expect(&rig, "vote committed 1/2 results\nforget 1/2\n");
    rig_free(&rig);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prepare_and_commit),
        cmocka_unit_test(prepare_and_abort),
        cmocka_unit_test(statements_in_parts),
        cmocka_unit_test(read_only),
        cmocka_unit_test(no_by_the_server),
        cmocka_unit_test(no_although_prepared),
        cmocka_unit_test(broken),
        cmocka_unit_test(the_zombie_prepare),
        cmocka_unit_test(an_abort_that_meets_the_answer_of_prepare),
        cmocka_unit_test(an_abort_before_prepare_was_sent_needs_no_proof),
        cmocka_unit_test(a_lost_answer_of_prepare),
        cmocka_unit_test(the_agents_own_timer_bounds_prepare),
        cmocka_unit_test(an_open_branch_does_not_wait_for_ever),
        cmocka_unit_test(a_lost_link_before_the_vote),
        cmocka_unit_test(does_not_exist_is_a_question),
        cmocka_unit_test(does_not_exist_at_rollback),
        cmocka_unit_test(unclear_answers_are_tried_again_through_proof),
        cmocka_unit_test(an_internal_error_behind_the_commit),
        cmocka_unit_test(a_lost_answer_of_commit_prepared),
        cmocka_unit_test(missing_rights_are_reported_and_tried_again),
        cmocka_unit_test(a_warning_at_commit_prepared_is_committed),
        cmocka_unit_test(a_decision_about_an_earlier_life),
        cmocka_unit_test(another_transaction_bears_the_gid),
        cmocka_unit_test(a_word_that_comes_late_looks_at_the_list),
        cmocka_unit_test(committed_once_but_another_is_named),
        cmocka_unit_test(proved_again_after_a_failover),
        cmocka_unit_test(an_outside_hand_is_noticed_before_anybody_asks),
        cmocka_unit_test(a_verdict_about_what_has_vanished_and_ended_is_dropped),
        cmocka_unit_test(memory_ends_with_the_servers_history),
        cmocka_unit_test(contradictions_are_refused),
        cmocka_unit_test(decisions_that_are_not_bound),
        cmocka_unit_test(a_name_is_never_run_twice),
        cmocka_unit_test(work_that_may_not_run),
        cmocka_unit_test(work_that_breaks_the_protocol),
        cmocka_unit_test(one_participant_commits_by_itself),
        cmocka_unit_test(one_participant_says_no),
        cmocka_unit_test(an_unanswered_commit_is_settled_by_its_row),
        cmocka_unit_test(the_zombie_commit),
        cmocka_unit_test(an_abort_that_comes_behind_the_commit),
        cmocka_unit_test(a_transaction_of_an_earlier_life_is_settled),
        cmocka_unit_test(a_used_key),
        cmocka_unit_test(one_participant_and_a_lost_link),
        cmocka_unit_test(a_commit_that_waits_for_ever),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
