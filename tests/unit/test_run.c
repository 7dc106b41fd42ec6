/*
 * test_run.c: what the host keeps of a run (results, references) and of participants and applications (registry), and
 * which kept branches are proved again after a failover. A result taken from the wrong participant, a reference to the
 * wrong cell, or a branch that is thought safe on a history where it is not, would each end in different data in two
 * databases.
 */
#include "tests/unit/unit.h"

#include "coordinator/coordmsg.h"
#include "coordinator/registry.h"
#include "coordinator/reprove.h"
#include "coordinator/run.h"

static struct ls_error err;

static uint32_t participant(void *context, const char *name) {
    (void)context;
    return strcmp(name, "a") == 0 ? 7 : strcmp(name, "b") == 0 ? 9 : 0;
}

/* a: first; b: uses what it returned; a: last */
static struct run *make_run(void) {
    static const char text[] =
        "{\"mode\":\"2pc\",\"steps\":["
        "{\"on\":\"a\",\"name\":\"first\",\"do\":{\"sql\":\"select 1\"}},"
        "{\"on\":\"b\",\"do\":{\"sql\":\"select "
        "$1\",\"args\":[{\"ref\":\"first.rows.0.id\"},{\"ref\":\"first.rows.1.id\"},"
        "{\"ref\":\"first.rows.0.name\"},{\"ref\":\"first.rows.0.on\"},{\"ref\":\"first.rows.0.doc\"},"
        "{\"ref\":\"first.rows.0.nothing\"},{\"ref\":\"first.rows_affected\"},{\"ref\":\"first.rows.0.none\"}]}},"
        "{\"on\":\"a\",\"do\":{\"sql\":\"select 1\"}}]}";
    const struct document_limits limits = {
        .statements = 10, .participants = 4, .deadline_ms = 1000, .lock_timeout_ms = 1000, .participant = participant};
    struct document *document;
    struct document_error error;
    assert_int_equal(document_parse(text, sizeof text - 1, &limits, &document, &error), LS_OK);
    struct run *run = run_new(document, "key", 3);
    assert_non_null(run);
    return run;
}

static enum ls_status take(struct run *run, uint32_t from, uint32_t step, uint64_t affected, const char *rows,
                           uint64_t rows_max, uint64_t bytes_max) {
    Lockstep__StepResult result = LOCKSTEP__STEP_RESULT__INIT;
    Lockstep__StepResult *list[] = {&result};
    Lockstep__Vote vote = LOCKSTEP__VOTE__INIT;
    result.step = step;
    result.rows_affected = affected;
    result.rows_json = (char *)(uintptr_t)rows;
    vote.n_results = 1;
    vote.results = list;
    return run_take_results(run, &vote, from, rows_max, bytes_max, &err);
}

static void references_find_their_cells(void **state) {
    struct run *run = make_run();
    (void)state;
    const struct document_arg *args = run->document->steps[1].args;
    const char *text;
    char *owned;
    assert_int_equal(run_resolve(run, &args[0], &text, &owned, &err), LS_ERR_NOT_FOUND); /* nothing returned yet */
    assert_ok(take(
        run, 7, 0, 2,
        "[{\"id\":41,\"name\":\"kim\",\"on\":true,\"doc\":{\"k\":[1]},\"nothing\":null},{\"id\":9223372036854775807}]",
        10, 1000));
    static const char *const wanted[] = {"41", "9223372036854775807", "kim", "true", "{\"k\":[1]}", NULL, "2"};
    for (int i = 0; i < 7; i++) {
        assert_ok(run_resolve(run, &args[i], &text, &owned, &err));
        if (wanted[i] == NULL) {
            assert_null(text);
        } else {
            assert_string_equal(text, wanted[i]);
        }
        free(owned);
    }
    assert_int_equal(run_resolve(run, &args[7], &text, &owned, &err), LS_ERR_NOT_FOUND);
    assert_non_null(strstr(err.text, "no column \"none\""));
    run_drop(run);
}

static void a_missing_row_is_said(void **state) {
    struct run *run = make_run();
    const char *text;
    char *owned;
    (void)state;
    assert_ok(take(run, 7, 0, 0, "[]", 10, 1000));
    assert_int_equal(run_resolve(run, &run->document->steps[1].args[0], &text, &owned, &err), LS_ERR_NOT_FOUND);
    assert_non_null(strstr(err.text, "no row 0"));
    run_drop(run);
    run = make_run();
    assert_ok(take(run, 7, 0, 0, "{not json", 10, 1000));
    assert_int_equal(run_resolve(run, &run->document->steps[1].args[0], &text, &owned, &err), LS_ERR_INVALID);
    run_drop(run);
}

static void results_are_counted_over_the_whole_transaction(void **state) {
    struct run *run = make_run();
    (void)state;
    assert_ok(take(run, 7, 0, 3, "[1,2,3]", 5, 100));
    assert_ok(take(run, 9, 1, 1000, NULL, 5, 100)); /* no rows returned: not counted */
    assert_int_equal(take(run, 7, 2, 3, "[1,2,3]", 5, 100), LS_ERR_TOO_LARGE);
    assert_non_null(strstr(err.text, "limits.result_rows"));
    run_drop(run);
    run = make_run();
    assert_ok(take(run, 7, 0, 1, "[123456]", 5, 8)); /* at the edge */
    assert_int_equal(take(run, 7, 2, 0, "[]", 5, 8), LS_ERR_TOO_LARGE);
    assert_non_null(strstr(err.text, "limits.result_bytes"));
    run_drop(run);
}

static void a_result_belongs_to_its_participant(void **state) {
    struct run *run = make_run();
    (void)state;
    assert_int_equal(take(run, 9, 0, 1, NULL, 5, 100), LS_ERR_PROTOCOL); /* a's step */
    assert_int_equal(take(run, 7, 3, 1, NULL, 5, 100), LS_ERR_PROTOCOL); /* no such step */
    assert_ok(take(run, 7, 0, 1, NULL, 5, 100));
    assert_int_equal(take(run, 7, 0, 2, NULL, 5, 100), LS_ERR_PROTOCOL); /* again */
    assert_int_equal(run->results[0].affected, 1);
    run_drop(run);
}

static void a_run_lives_as_long_as_somebody_holds_it(void **state) {
    struct run *run = make_run();
    (void)state;
    run_hold(run);
    run_drop(run);
    assert_string_equal(run->key, "key");
    assert_int_equal(run->app, 3);
    run_drop(run);
}

/* ---- registry */

static void numbers_are_never_given_twice(void **state) {
    struct registry *registry = registry_new();
    struct registry_participant *p, *q;
    (void)state;
    assert_int_equal(registry_next_number(registry), 1);
    assert_ok(registry_add(registry, 1, "orders", &p, &err));
    assert_ok(registry_add(registry, 5, "balance", &q, &err));
    assert_int_equal(registry_next_number(registry), 6); /* 2 to 4 may be in a log that lost a record */
    assert_ok(registry_add(registry, 1, "orders", &q, &err));
    assert_ptr_equal(p, q);
    assert_int_equal(registry_add(registry, 1, "other", &q, &err), LS_ERR_MISMATCH);
    assert_int_equal(registry_add(registry, 2, "orders", &q, &err), LS_ERR_MISMATCH);
    assert_int_equal(registry_add(registry, 0, "zero", &q, &err), LS_ERR_FULL);
    assert_int_equal(registry_add(registry, LS_PARTICIPANT_NUMBER_MAX + 1, "many", &q, &err), LS_ERR_FULL);
    assert_ptr_equal(registry_by_name(registry, "orders"), p);
    assert_null(registry_by_name(registry, "order"));
    assert_null(registry_by_number(registry, 2));
    assert_null(registry_by_number(registry, 70000));
    registry_free(registry);
}

static void it_holds_as_many_as_there_are_numbers(void **state) {
    struct registry *registry = registry_new();
    struct registry_participant *p;
    char name[32];
    (void)state;
    for (uint32_t i = 1; i <= LS_PARTICIPANT_NUMBER_MAX; i++) {
        (void)snprintf(name, sizeof name, "p%u", i);
        assert_ok(registry_add(registry, i, name, &p, &err));
    }
    assert_int_equal(registry_next_number(registry), 0);
    assert_int_equal(registry_by_name(registry, "p9999")->number, 9999);
    assert_int_equal(registry_by_name(registry, "p1")->number, 1);
    registry_free(registry);
}

static void an_acceptance_waits_for_its_participant(void **state) {
    struct registry *registry = registry_new();
    struct registry_participant *p;
    (void)state;
    assert_ok(registry_accept(registry, "orders 0a1b2c3d4e5f"));
    assert_ok(registry_accept(registry, "order 000000000000"));
    assert_ok(registry_add(registry, 1, "orders", &p, &err));
    assert_string_equal(p->accepted_incarnation, "0a1b2c3d4e5f");
    assert_ok(registry_accept(registry, "orders 111111111111"));
    assert_string_equal(p->accepted_incarnation, "111111111111");
    assert_ok(registry_accept(registry, "orders short"));
    assert_string_equal(p->accepted_incarnation, "111111111111");
    registry_free(registry);
}

/* Hazard: what was seen on a new timeline is taken for durable before it is, or crowds out what matters. */
static void sightings_are_remembered(void **state) {
    struct registry *registry = registry_new();
    struct registry_participant *p;
    (void)state;
    assert_ok(registry_add(registry, 1, "orders", &p, &err));
    assert_null(registry_sighting(p, 1, 7));
    assert_false(registry_sightings_new(p));
    assert_ok(registry_sight(p, 1, 7, 100, 0));
    assert_ok(registry_sight(p, 1, 8, 100, REGISTRY_NOT_LOGGED));
    assert_true(registry_sightings_new(p));
    registry_sightings_logged(p, 4096);
    assert_false(registry_sightings_new(p));
    assert_int_equal(registry_sighting(p, 1, 8)->end, 4096);
    assert_int_equal(registry_sighting(p, 1, 7)->end, 0);
    /* seen again, farther in front, and that cannot be logged: what was known is given up, not made up */
    assert_ok(registry_sight(p, 1, 7, 50, REGISTRY_NOT_LOGGED));
    assert_int_equal(p->sighting_count, 2);
    registry_sightings_logged(p, 0);
    assert_null(registry_sighting(p, 1, 7));
    assert_non_null(registry_sighting(p, 1, 8));
    for (uint64_t sequence = 1; sequence <= LS_SIGHTINGS_MAX; sequence++) {
        assert_ok(registry_sight(p, 2, sequence, UINT64_MAX, 0));
    }
    assert_int_equal(p->sighting_count, LS_SIGHTINGS_MAX);
    assert_null(registry_sighting(p, 1, 8)); /* the oldest gives way */
    assert_non_null(registry_sighting(p, 2, 1));
    static uint8_t payload[COORDMSG_PARTICIPANT_MAX];
    for (uint32_t i = 0; i < p->sighting_count; i++) {
        p->sightings[i].epoch = UINT32_MAX;
        p->sightings[i].sequence = LS_SEQUENCE_MAX;
    }
    p->number = LS_PARTICIPANT_NUMBER_MAX;
    p->system_id = UINT64_MAX;
    p->timeline = p->changed_epoch = UINT32_MAX;
    memset(p->name, 'n', LS_PARTICIPANT_MAX);
    size_t length = coordmsg_pack_participant(p, payload); /* asserts that it fits */
    Lockstep__LogParticipant *record = lockstep__log_participant__unpack(NULL, length, payload);
    assert_int_equal(record->n_sightings, LS_SIGHTINGS_MAX);
    lockstep__log_participant__free_unpacked(record, NULL);
    p->number = 1;
    registry_free(registry);
}

/*
 * Hazard: a branch that may be lost is taken for one that was seen. Method: one branch voted at 200 on timeline 1, and
 * what an agent lists, on which server, with which history; seen if wrong: a sighting where there is none.
 */
static void only_what_is_listed_behind_its_switch_is_a_sighting(void **state) {
    Lockstep__TimelineSwitch first = LOCKSTEP__TIMELINE_SWITCH__INIT, *history[] = {&first};
    Lockstep__Hello hello = LOCKSTEP__HELLO__INIT;
    Lockstep__InquiryItem item = LOCKSTEP__INQUIRY_ITEM__INIT;
    struct txn_branch_id id = {.participant = 1, .timeline = 1, .system_id = 7, .xid = 700, .lsn = 200};
    struct ls_gtid gtid = {.epoch = 1, .sequence = 3};
    struct registry *registry = registry_new();
    struct registry_participant *p;
    (void)state;
    assert_ok(registry_add(registry, 1, "orders", &p, &err));
    first.timeline = 1;
    first.lsn = 150;
    hello.system_id = item.system_id = 7;
    hello.timeline = item.timeline = 2;
    hello.n_history = 1;
    hello.history = history;
    item.xid = 700;
#define SIGHT() coordmsg_sight(&hello, &id, &item, &gtid, 1000, 1 << 20, p)
    first.lsn = 200; /* in front of the switch: its position says so itself */
    assert_int_equal(SIGHT(), VERDICT_IS_COMMIT);
    first.lsn = 150;
    id.timeline = item.timeline; /* voted there */
    assert_int_equal(SIGHT(), VERDICT_IS_COMMIT);
    id.timeline = 5; /* a timeline this server does not know */
    assert_int_equal(SIGHT(), VERDICT_IS_COMMIT);
    id.timeline = 1;
    item.timeline = 3; /* listed by another server than the one that was greeted for */
    assert_int_equal(SIGHT(), VERDICT_IS_COMMIT);
    item.timeline = 2;
    item.system_id = 8;
    assert_int_equal(SIGHT(), VERDICT_IS_COMMIT);
    item.system_id = 7;
    item.has_vanished = item.vanished = 1; /* not listed at all */
    assert_int_equal(SIGHT(), VERDICT_IS_COMMIT);
    item.vanished = 0;
    assert_int_equal(coordmsg_sight(&hello, &id, &item, &gtid, 1000, 16, p), VERDICT_IS_COMMIT); /* no room */
    assert_int_equal(p->sighting_count, 0);

    assert_int_equal(SIGHT(), VERDICT_IS_PENDING);
    assert_int_equal(SIGHT(), VERDICT_IS_PENDING); /* not logged */
    assert_int_equal(coordmsg_lsn(p, 1, 3, 200, 1000), 200);
    registry_sightings_logged(p, 1001);
    assert_int_equal(SIGHT(), VERDICT_IS_PENDING); /* not durable */
    assert_int_equal(coordmsg_lsn(p, 1, 3, 200, 1000), 200);
    p->sightings[0].end = 1000;
    assert_int_equal(SIGHT(), VERDICT_IS_COMMIT);
    assert_int_equal(coordmsg_lsn(p, 1, 3, 200, 1000), 150);
    assert_int_equal(coordmsg_lsn(p, 1, 4, 200, 1000), 200); /* another one */
    first.lsn = 120;                                         /* on a timeline that left still earlier, and there, too */
    assert_int_equal(SIGHT(), VERDICT_IS_PENDING);
    assert_int_equal(p->sighting_count, 1);
    assert_int_equal(p->sightings[0].lsn, 120);
#undef SIGHT
    registry_free(registry);
}

static void applications_keep_their_numbers(void **state) {
    struct apps *apps = apps_new();
    char name[32];
    (void)state;
    assert_int_equal(apps_number(apps, ""), 0);
    assert_string_equal(apps_identity(apps, 0), "");
    for (uint32_t i = 1; i < REGISTRY_APPS_MAX; i++) {
        (void)snprintf(name, sizeof name, "app/%u", i);
        if (apps_number(apps, name) != i) fail_msg("%s is not %u", name, i);
    }
    assert_int_equal(apps_number(apps, "app/one-too-many"), 0);
    assert_int_equal(apps_number(apps, "app/65535"), 65535);
    assert_string_equal(apps_identity(apps, 17), "app/17");
    apps_free(apps);
}

/* ---- which kept branches a changed history puts in doubt */

static void only_what_surely_lies_in_the_history_is_safe(void **state) {
    Lockstep__TimelineSwitch switches[2] = {LOCKSTEP__TIMELINE_SWITCH__INIT, LOCKSTEP__TIMELINE_SWITCH__INIT};
    switches[0].timeline = 1;
    switches[0].lsn = 1000;
    switches[1].timeline = 2;
    switches[1].lsn = 2000;
    const struct reprove_history history = {.system_id = 77, .timeline = 3, .switches = switches, .switch_count = 2};
    (void)state;
    assert_false(reprove_needed(&history, 77, 3, 999999)); /* made on this very timeline */
    assert_false(reprove_needed(&history, 77, 1, 1000));   /* ends where the timeline was left */
    assert_true(reprove_needed(&history, 77, 1, 1001));
    assert_false(reprove_needed(&history, 77, 2, 1500));
    assert_true(reprove_needed(&history, 77, 2, 2001));
    assert_true(reprove_needed(&history, 77, 4, 1)); /* a timeline that this server has never been on */
    assert_true(reprove_needed(&history, 78, 3, 1)); /* another cluster */
    const struct reprove_history cut = {.system_id = 77, .timeline = 3, .switches = &switches[1], .switch_count = 1};
    assert_true(reprove_needed(&cut, 77, 1, 1)); /* its history does not say where that one ended */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(references_find_their_cells),
        cmocka_unit_test(a_missing_row_is_said),
        cmocka_unit_test(results_are_counted_over_the_whole_transaction),
        cmocka_unit_test(a_result_belongs_to_its_participant),
        cmocka_unit_test(a_run_lives_as_long_as_somebody_holds_it),
        cmocka_unit_test(numbers_are_never_given_twice),
        cmocka_unit_test(it_holds_as_many_as_there_are_numbers),
        cmocka_unit_test(an_acceptance_waits_for_its_participant),
        cmocka_unit_test(sightings_are_remembered),
        cmocka_unit_test(only_what_is_listed_behind_its_switch_is_a_sighting),
        cmocka_unit_test(applications_keep_their_numbers),
        cmocka_unit_test(only_what_surely_lies_in_the_history_is_safe),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
