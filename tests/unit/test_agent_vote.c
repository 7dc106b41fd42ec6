/*
 * Hazard: a vote that says what the call returned instead of what the server did: PREPARE of a failed transaction
 * "succeeds" (hazards 1.2), a cancelled standby wait "succeeds" (1.3), a dead socket "fails" (1.4). Method: one test
 * per row of the SQLSTATE table, in both columns, against a list written here by hand; then the runs, one per rule;
 * then every combination of what a run can say, held against what must never happen.
 */
#include "unit.h"

#include "participant/core/sqlstate.h"
#include "participant/core/vote.h"

/* ------------------------------------------------------------------ SQLSTATE */

static const struct {
    const char *code;
    enum agent_sql_build build;
    enum agent_sql_finish finish;
} codes[] = {
    {"", AGENT_SQL_UNKNOWN, AGENT_SQL_RETRY},           {"08000", AGENT_SQL_UNKNOWN, AGENT_SQL_RETRY},
    {"08003", AGENT_SQL_UNKNOWN, AGENT_SQL_RETRY},      {"08006", AGENT_SQL_UNKNOWN, AGENT_SQL_RETRY},
    {"08P01", AGENT_SQL_UNKNOWN, AGENT_SQL_RETRY},      {"0A000", AGENT_SQL_NO, AGENT_SQL_REPORT},
    {"22012", AGENT_SQL_NO, AGENT_SQL_RETRY},           {"22P02", AGENT_SQL_NO, AGENT_SQL_RETRY},
    {"23503", AGENT_SQL_NO, AGENT_SQL_RETRY},           {"23505", AGENT_SQL_NO, AGENT_SQL_RETRY},
    {"23514", AGENT_SQL_NO, AGENT_SQL_RETRY},           {"25001", AGENT_SQL_NO, AGENT_SQL_REPORT},
    {"25006", AGENT_SQL_NO_RETRYABLE, AGENT_SQL_RETRY}, {"25P01", AGENT_SQL_NO, AGENT_SQL_RETRY},
    {"25P02", AGENT_SQL_NO, AGENT_SQL_RETRY},           {"25P03", AGENT_SQL_UNKNOWN, AGENT_SQL_RETRY},
    {"25P04", AGENT_SQL_UNKNOWN, AGENT_SQL_RETRY},      {"28000", AGENT_SQL_NO_REPORT, AGENT_SQL_DENIED},
    {"28P01", AGENT_SQL_NO_REPORT, AGENT_SQL_DENIED},   {"2D000", AGENT_SQL_NO, AGENT_SQL_RETRY},
    {"3D000", AGENT_SQL_NO_REPORT, AGENT_SQL_REPORT},   {"40000", AGENT_SQL_NO_RETRYABLE, AGENT_SQL_RETRY},
    {"40001", AGENT_SQL_NO_RETRYABLE, AGENT_SQL_RETRY}, {"40003", AGENT_SQL_UNKNOWN, AGENT_SQL_RETRY},
    {"40P01", AGENT_SQL_NO_RETRYABLE, AGENT_SQL_RETRY}, {"42501", AGENT_SQL_NO, AGENT_SQL_DENIED},
    {"42601", AGENT_SQL_NO, AGENT_SQL_REPORT},          {"42703", AGENT_SQL_NO, AGENT_SQL_RETRY},
    {"42704", AGENT_SQL_NO, AGENT_SQL_PROVE},           {"42710", AGENT_SQL_NO_REPORT, AGENT_SQL_RETRY},
    {"53100", AGENT_SQL_NO_RETRYABLE, AGENT_SQL_RETRY}, {"53200", AGENT_SQL_NO_RETRYABLE, AGENT_SQL_RETRY},
    {"53300", AGENT_SQL_NO_RETRYABLE, AGENT_SQL_RETRY}, {"54000", AGENT_SQL_NO, AGENT_SQL_RETRY},
    {"55000", AGENT_SQL_NO_REPORT, AGENT_SQL_RETRY},    {"55006", AGENT_SQL_NO_RETRYABLE, AGENT_SQL_RETRY},
    {"55P03", AGENT_SQL_NO_RETRYABLE, AGENT_SQL_RETRY}, {"57014", AGENT_SQL_NO_RETRYABLE, AGENT_SQL_RETRY},
    {"57P01", AGENT_SQL_UNKNOWN, AGENT_SQL_RETRY},      {"57P02", AGENT_SQL_UNKNOWN, AGENT_SQL_RETRY},
    {"57P03", AGENT_SQL_UNKNOWN, AGENT_SQL_RETRY},      {"57P04", AGENT_SQL_UNKNOWN, AGENT_SQL_RETRY},
    {"57P05", AGENT_SQL_UNKNOWN, AGENT_SQL_RETRY},      {"58030", AGENT_SQL_NO_REPORT, AGENT_SQL_REPORT},
    {"72000", AGENT_SQL_NO_RETRYABLE, AGENT_SQL_RETRY}, {"F0000", AGENT_SQL_NO_REPORT, AGENT_SQL_REPORT},
    {"LS001", AGENT_SQL_NO, AGENT_SQL_RETRY},           {"LS002", AGENT_SQL_NO, AGENT_SQL_RETRY},
    {"LS003", AGENT_SQL_NO_REPORT, AGENT_SQL_RETRY},    {"P0001", AGENT_SQL_NO, AGENT_SQL_RETRY},
    {"XX000", AGENT_SQL_NO_REPORT, AGENT_SQL_REPORT},   {"XX001", AGENT_SQL_NO_REPORT, AGENT_SQL_REPORT},
    {"ZZZZZ", AGENT_SQL_NO, AGENT_SQL_RETRY},
};
#define CODE_COUNT (sizeof(codes) / sizeof(codes[0]))

static void each_code_means_what_is_written_here(void **state) {
    (void)state;
    for (size_t i = 0; i < CODE_COUNT; i++) {
        const struct agent_sqlstate_row *row = agent_sqlstate(codes[i].code);
        if (row->build != codes[i].build || row->finish != codes[i].finish)
            fail_msg("%s: row %s", codes[i].code, row->code);
    }
    assert_ptr_equal(agent_sqlstate(NULL), agent_sqlstate(""));
}

static void each_row_is_reached_by_some_code_here(void **state) {
    (void)state;
    size_t count;
    const struct agent_sqlstate_row *table = agent_sqlstate_table(&count);
    for (size_t r = 0; r < count; r++) {
        bool reached = false;
        for (size_t i = 0; i < CODE_COUNT; i++) reached = reached || agent_sqlstate(codes[i].code) == &table[r];
        if (!reached)
            fail_msg("no code here reaches the row %s: it has no test, or another row hides it", table[r].code);
        assert_true(strlen(table[r].why) > 0);
    }
}

static void only_one_code_asks_for_proof_at_once(void **state) {
    (void)state;
    /* And none is success: finishing has no such answer in its enum. */
    size_t count;
    const struct agent_sqlstate_row *table = agent_sqlstate_table(&count);
    for (size_t r = 0; r < count; r++)
        assert_true((table[r].finish == AGENT_SQL_PROVE) == (strcmp(table[r].code, "42704") == 0));
}

/* ---------------------------------------------------------------------- runs */

static struct agent_run prepared(void) {
    return (struct agent_run){.session = AGENT_SESSION_IDLE,
                              .guard = AGENT_GUARD_OK,
                              .prepare_tag = "PREPARE TRANSACTION",
                              .identity = {.system_id = 7, .timeline = 1, .xid = 9, .lsn = 100},
                              .owner = "app"};
}

static struct agent_judged judge(struct agent_run run, bool last, bool one_phase) {
    struct agent_judged judged;
    agent_vote_judge(&run, last, one_phase, &judged);
    return judged;
}
#define assert_judged(run, last, one_phase, wanted)                                                 \
    do {                                                                                            \
        struct agent_judged judged_ = judge(run, last, one_phase);                                  \
        assert_string_equal(agent_judgement_name(judged_.judgement), agent_judgement_name(wanted)); \
    } while (0)

static void yes_needs_everything(void **state) {
    (void)state;
    struct agent_run run = prepared();
    assert_judged(run, true, false, AGENT_JUDGE_YES);
    run.session = AGENT_SESSION_LOST; /* after the last answer: what was said was said */
    assert_judged(run, true, false, AGENT_JUDGE_YES);
    run = prepared();
    run.identity.xid = 0;
    assert_judged(run, true, false, AGENT_JUDGE_NO_PREPARED);
    run = prepared();
    run.identity.lsn = 0;
    assert_judged(run, true, false, AGENT_JUDGE_NO_PREPARED);
    run = prepared();
    run.identity.system_id = 0;
    assert_judged(run, true, false, AGENT_JUDGE_NO_PREPARED);
    run = prepared();
    run.identity.timeline = 0;
    assert_judged(run, true, false, AGENT_JUDGE_NO_PREPARED);
    run = prepared();
    run.owner = NULL;
    assert_judged(run, true, false, AGENT_JUDGE_NO_PREPARED);
    run = prepared();
    run.guard = AGENT_GUARD_NONE;
    assert_judged(run, true, false, AGENT_JUDGE_NO_PREPARED);
    assert_true(judge(run, true, false).report);
    run = prepared();
    run.failed = AGENT_ITEM_LSN;
    run.sqlstate = "57P01";
    assert_judged(run, true, false, AGENT_JUDGE_NO_PREPARED);
}

static void the_tag_rollback_is_no(void **state) {
    (void)state;
    struct agent_run run = prepared();
    run.prepare_tag = "ROLLBACK";
    assert_judged(run, true, false, AGENT_JUDGE_NO);
    assert_string_equal(judge(run, true, false).sqlstate, "25P02");
}

static void a_warning_at_prepare_is_no_and_rolled_back(void **state) {
    (void)state;
    struct agent_run run = prepared();
    run.prepare_warning = true;
    assert_judged(run, true, false, AGENT_JUDGE_NO_PREPARED);
    assert_true(judge(run, true, false).retryable);
}

static void a_wrong_row_count_is_no(void **state) {
    (void)state;
    struct agent_step_rows rows[2] = {{.step = 3, .rows_affected = 1, .has_expect = true, .expect_rows = 1},
                                      {.step = 5, .rows_affected = 0, .has_expect = true, .expect_rows = 1}};
    struct agent_run run = prepared();
    run.rows = rows;
    run.row_count = 2;
    assert_judged(run, true, false, AGENT_JUDGE_NO_PREPARED);
    assert_true(judge(run, true, false).has_step);
    assert_int_equal(judge(run, true, false).step, 5);
    assert_string_equal(judge(run, true, false).reason, "expected 1 rows, the statement touched 0");
    rows[1].has_expect = false;
    assert_judged(run, true, false, AGENT_JUDGE_YES);
    rows[1].has_expect = true;
    /* found while the transaction is still open: by ROLLBACK; in a read-only one: it is gone already */
    run = (struct agent_run){.session = AGENT_SESSION_OPEN, .rows = rows, .row_count = 2};
    assert_judged(run, false, false, AGENT_JUDGE_NO_OPEN);
    run.guard = AGENT_GUARD_OK;
    assert_judged(run, true, true, AGENT_JUDGE_NO_OPEN);
    run = (struct agent_run){.session = AGENT_SESSION_IDLE,
                             .guard = AGENT_GUARD_READ_ONLY,
                             .failed = AGENT_ITEM_GUARD,
                             .sqlstate = "22012",
                             .rows = rows,
                             .row_count = 2};
    assert_judged(run, true, false, AGENT_JUDGE_NO);
}

static void guards(void **state) {
    (void)state;
    struct agent_run run = {.session = AGENT_SESSION_IDLE, .failed = AGENT_ITEM_GUARD, .sqlstate = "22012"};
    run.guard = AGENT_GUARD_READ_ONLY;
    assert_judged(run, true, false, AGENT_JUDGE_READ_ONLY);
    run.guard = AGENT_GUARD_MARKER_LOST;
    assert_judged(run, true, false, AGENT_JUDGE_BROKEN);
    assert_judged(run, true, true, AGENT_JUDGE_BROKEN);
    run.guard = AGENT_GUARD_FOREIGN_OWNER;
    assert_judged(run, true, false, AGENT_JUDGE_NO);
    run.session = AGENT_SESSION_OPEN;
    assert_judged(run, true, true, AGENT_JUDGE_NO_OPEN);
    run = prepared();
    run.guard = AGENT_GUARD_FOREIGN_OWNER;
    assert_judged(run, true, false, AGENT_JUDGE_NO_PREPARED);
    run.guard = AGENT_GUARD_MARKER_LOST; /* whatever else succeeded */
    assert_judged(run, true, false, AGENT_JUDGE_BROKEN);
    run.session = AGENT_SESSION_LOST;
    assert_judged(run, true, false, AGENT_JUDGE_BROKEN);
}

static void errors_by_item(void **state) {
    (void)state;
    struct agent_run run = {.session = AGENT_SESSION_IDLE,
                            .failed = AGENT_ITEM_STATEMENT,
                            .failed_step = 4,
                            .sqlstate = "40001",
                            .message = "could not serialize"};
    struct agent_judged judged = judge(run, true, false);
    assert_int_equal(judged.judgement, AGENT_JUDGE_NO);
    assert_true(judged.retryable && judged.has_step && judged.step == 4);
    assert_string_equal(judged.reason, "could not serialize");
    run.sqlstate = "23514";
    assert_false(judge(run, true, false).retryable);
    for (int item = AGENT_ITEM_BEGIN; item <= AGENT_ITEM_LSN; item++) {
        run.failed = (enum agent_item)item;
        run.message = NULL;
        judged = judge(run, true, false);
        assert_int_equal(judged.judgement, AGENT_JUDGE_NO);
        assert_true(judged.reason[0] != '\0');
        assert_true(judged.has_step == (item == AGENT_ITEM_STATEMENT));
    }
    /* Not preparable: temporary table, NOTIFY. The failed PREPARE has rolled back. */
    run = (struct agent_run){
        .session = AGENT_SESSION_IDLE, .guard = AGENT_GUARD_OK, .failed = AGENT_ITEM_PREPARE, .sqlstate = "0A000"};
    assert_judged(run, true, false, AGENT_JUDGE_NO);
    /* Too many rows: the server is content. */
    run = prepared();
    run.failed = AGENT_ITEM_RESULTS;
    run.sqlstate = "54000";
    assert_judged(run, true, false, AGENT_JUDGE_NO_PREPARED);
    run = (struct agent_run){.session = AGENT_SESSION_OPEN, .failed = AGENT_ITEM_RESULTS};
    assert_judged(run, false, false, AGENT_JUDGE_NO_OPEN);
    assert_false(judge(run, false, false).retryable);
}

static void unknown_is_not_no(void **state) {
    (void)state;
    struct agent_run run = {.session = AGENT_SESSION_LOST};
    assert_judged(run, true, false, AGENT_JUDGE_NO_UNKNOWN);
    assert_judged(run, true, true, AGENT_JUDGE_NO_UNKNOWN);
    assert_judged(run, false, false, AGENT_JUDGE_NO_UNKNOWN);
    /* A code that tells nothing is believed as little when the session lives: anybody can RAISE 57P01. */
    run = (struct agent_run){.session = AGENT_SESSION_IDLE, .failed = AGENT_ITEM_STATEMENT, .sqlstate = "57P01"};
    assert_judged(run, true, false, AGENT_JUDGE_NO_UNKNOWN);
    run = (struct agent_run){.session = AGENT_SESSION_IDLE};
    assert_judged(run, true, false, AGENT_JUDGE_NO_UNKNOWN);
    /* Only this one is certain: nothing left the agent. */
    run = (struct agent_run){
        .nothing_sent = true, .session = AGENT_SESSION_LOST, .sqlstate = "53300", .message = "too many clients"};
    assert_judged(run, true, false, AGENT_JUDGE_NO);
    assert_true(judge(run, true, false).retryable);
}

static void one_phase(void **state) {
    (void)state;
    struct agent_run run = {.session = AGENT_SESSION_OPEN, .guard = AGENT_GUARD_OK};
    assert_judged(run, true, true, AGENT_JUDGE_COMMIT);
    run.guard = AGENT_GUARD_NONE;
    assert_judged(run, true, true, AGENT_JUDGE_NO_OPEN);
    assert_judged(run, false, true, AGENT_JUDGE_CONTINUE);
    run = (struct agent_run){.session = AGENT_SESSION_IDLE};
    assert_judged(run, false, true, AGENT_JUDGE_BROKEN); /* no error, yet no transaction */
    assert_judged(run, true, true, AGENT_JUDGE_BROKEN);
    run = (struct agent_run){.session = AGENT_SESSION_IDLE, .failed = AGENT_ITEM_OUTCOME_ROW, .sqlstate = "23505"};
    assert_judged(run, true, true, AGENT_JUDGE_KEY_TAKEN);
    run.failed = AGENT_ITEM_STATEMENT; /* a duplicate key of the application's own */
    assert_judged(run, true, true, AGENT_JUDGE_NO);
    run.failed = AGENT_ITEM_OUTCOME_ROW;
    run.sqlstate = "42501";
    assert_judged(run, true, true, AGENT_JUDGE_NO);
}

/* Every combination of what a run can say: YES and COMMIT only with all their conditions, and certainty only where
 * there is certainty. */
static void nothing_forbidden_in_any_combination(void **state) {
    (void)state;
    static const char *const sqlstates[] = {NULL, "", "40001", "23505", "57P01", "0A000"}, *const tags[] = {
                                                                                               NULL,
                                                                                               "PREPARE TRANSACTION",
                                                                                               "ROLLBACK"};
    unsigned cases = 0;
    for (int session = AGENT_SESSION_IDLE; session <= AGENT_SESSION_LOST; session++)
        for (int item = AGENT_ITEM_NONE; item <= AGENT_ITEM_LSN; item++)
            for (int guard = AGENT_GUARD_NONE; guard <= AGENT_GUARD_FOREIGN_OWNER; guard++)
                for (unsigned s = 0; s < 6; s++)
                    for (unsigned t = 0; t < 3; t++)
                        for (unsigned flags = 0; flags < 32; flags++, cases++) {
                            struct agent_run run = prepared();
                            run.session = (enum agent_session)session;
                            run.failed = (enum agent_item)item;
                            run.guard = (enum agent_guard)guard;
                            run.sqlstate = sqlstates[s];
                            run.prepare_tag = tags[t];
                            run.prepare_warning = flags & 1;
                            run.nothing_sent = flags & 2;
                            bool last = flags & 4, one = flags & 8;
                            if (flags & 16) run.identity.xid = 0;
                            if (t != 0 && (!last || one))
                                continue; /* PREPARE is in the last part only, and not in one phase */
                            struct agent_judged judged = judge(run, last, one);
                            enum agent_judgement j = judged.judgement;
                            if (j == AGENT_JUDGE_YES)
                                assert_true(last && !one && t == 1 && item == AGENT_ITEM_NONE &&
                                            guard == AGENT_GUARD_OK && !(flags & 19));
                            if (j == AGENT_JUDGE_COMMIT)
                                assert_true(last && one && session == AGENT_SESSION_OPEN && item == AGENT_ITEM_NONE &&
                                            guard == AGENT_GUARD_OK && !(flags & 2));
                            if (j == AGENT_JUDGE_NO)
                                assert_true((run.nothing_sent || session != AGENT_SESSION_LOST) &&
                                            (t != 0 || session != AGENT_SESSION_OPEN));
                            if (j == AGENT_JUDGE_NO_OPEN) assert_true(session == AGENT_SESSION_OPEN);
                            if (t == 1 && guard != AGENT_GUARD_MARKER_LOST && !run.nothing_sent)
                                assert_true(j == AGENT_JUDGE_YES || j == AGENT_JUDGE_NO_PREPARED);
                            if (guard == AGENT_GUARD_MARKER_LOST && !run.nothing_sent)
                                assert_int_equal(j, AGENT_JUDGE_BROKEN);
                            if (j != AGENT_JUDGE_YES && j != AGENT_JUDGE_CONTINUE && j != AGENT_JUDGE_READ_ONLY &&
                                j != AGENT_JUDGE_COMMIT)
                                assert_true(judged.reason[0] != '\0');
                        }
    assert_int_equal(cases, 3 * 11 * 5 * 6 * 3 * 32);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_code_means_what_is_written_here),
        cmocka_unit_test(each_row_is_reached_by_some_code_here),
        cmocka_unit_test(only_one_code_asks_for_proof_at_once),
        cmocka_unit_test(yes_needs_everything),
        cmocka_unit_test(the_tag_rollback_is_no),
        cmocka_unit_test(a_warning_at_prepare_is_no_and_rolled_back),
        cmocka_unit_test(a_wrong_row_count_is_no),
        cmocka_unit_test(guards),
        cmocka_unit_test(errors_by_item),
        cmocka_unit_test(unknown_is_not_no),
        cmocka_unit_test(one_phase),
        cmocka_unit_test(nothing_forbidden_in_any_combination),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
