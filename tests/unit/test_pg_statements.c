/*
 * test_pg_statements.c: statements that a session keeps prepared. If a name stood for another text, a branch would do something else than it says;
 * if one that fails were prepared again and again, an app would be refused for ever.
 */
#include "tests/unit/unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "participant/pg/statements.h"

static struct statements list;
static struct statements_refused refused;

static int begin(void **state) {
    (void)state;
    memset(&refused, 0, sizeof(refused));
    statements_init(&list, 3);
    return 0;
}

static int end(void **state) {
    (void)state;
    statements_free(&list);
    return 0;
}

static void note(const char *sql) {
    statements_note(&list, &refused, sql, "UPDATE 1");
}

static void prepare(const char *sql) {
    note(sql);
    note(sql);
    statements_prepared(&list, &refused, statements_wanted(&list), true);
}

static void the_second_time(void **state) {
    (void)state;
    note("update a");
    assert_int_equal(statements_wanted(&list), 0);
    note("update a");
    assert_int_equal(statements_wanted(&list), 1);
    assert_null(statements_name(&list, "update a"));
    statements_prepared(&list, &refused, 1, true);
    assert_string_equal(statements_name(&list, "update a"), "ls_1");
    assert_null(statements_name(&list, "update b"));
}

static void only_what_changes_rows(void **state) {
    (void)state;
    static const char *const tags[] = {"SELECT 1", "CALL", "SAVEPOINT", "", "UPDATED 1"};
    for (size_t i = 0; i < sizeof tags / sizeof *tags; i++)
        for (int times = 0; times < 3; times++) statements_note(&list, &refused, "x", tags[i]);
    assert_int_equal(statements_wanted(&list), 0);
    char *longest = calloc(1, STATEMENT_BYTES_MAX + 2);
    memset(longest, 'x', STATEMENT_BYTES_MAX + 1);
    note(longest);
    note(longest);
    assert_int_equal(statements_wanted(&list), 0);
    longest[STATEMENT_BYTES_MAX] = '\0';
    note(longest);
    note(longest);
    assert_int_equal(statements_wanted(&list), 1);
    free(longest);
}

static void what_is_seen_once_drives_out_nothing(void **state) {
    (void)state;
    prepare("update a");
    prepare("update b");
    for (int i = 0; i < 20; i++) {
        char sql[32];
        snprintf(sql, sizeof(sql), "update %d", i);
        note(sql);
    }
    assert_string_equal(list.evicted, "");
    assert_non_null(statements_name(&list, "update a"));
    assert_non_null(statements_name(&list, "update b"));
}

static void the_oldest_goes(void **state) {
    (void)state;
    prepare("update a");
    prepare("update b");
    prepare("update c");
    assert_non_null(statements_name(&list, "update a"));
    note("update d");
    assert_string_equal(list.evicted, "ls_2");
    assert_null(statements_name(&list, "update b"));
    note("update d");
    statements_prepared(&list, &refused, 1, true);
    /* b's name is still to be deallocated: nothing else goes before it is */
    note("update e");
    assert_non_null(statements_name(&list, "update a"));
    assert_non_null(statements_name(&list, "update c"));
    list.evicted[0] = '\0';
    note("update e");
    assert_string_equal(list.evicted, "ls_4");
}

static void one_that_the_server_refuses(void **state) {
    (void)state;
    note("update a");
    note("update b");
    note("update a");
    note("update b");
    assert_int_equal(statements_wanted(&list), 2);
    statements_prepared(&list, &refused, 0, true);
    assert_int_equal(statements_wanted(&list), 1);
    statements_prepared(&list, &refused, 1, true);
    assert_non_null(statements_name(&list, "update b"));
    note("update a");
    assert_int_equal(statements_wanted(&list), 0);
}

static void one_that_meets_a_lock(void **state) {
    (void)state;
    note("update a");
    note("update a");
    statements_prepared(&list, &refused, 0, false);
    assert_int_equal(statements_wanted(&list), 0);
    note("update a");
    assert_int_equal(statements_wanted(&list), 1);
}

static void blamed(void **state) {
    (void)state;
    prepare("update a");
    assert_false(statements_blame(&list, &refused, "update a", "23505"));
    assert_false(statements_blame(&list, &refused, "update b", "22003"));
    assert_true(statements_blame(&list, &refused, "update a", "22003"));
    /* in the next session */
    statements_free(&list);
    statements_init(&list, 3);
    note("update a");
    note("update a");
    note("update a");
    assert_int_equal(statements_wanted(&list), 0);
}

static void switched_off(void **state) {
    (void)state;
    statements_free(&list);
    statements_init(&list, 0);
    note("update a");
    note("update a");
    assert_int_equal(statements_wanted(&list), 0);
    assert_null(statements_name(&list, "update a"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_second_time, begin, end),
        cmocka_unit_test_setup_teardown(only_what_changes_rows, begin, end),
        cmocka_unit_test_setup_teardown(what_is_seen_once_drives_out_nothing, begin, end),
        cmocka_unit_test_setup_teardown(the_oldest_goes, begin, end),
        cmocka_unit_test_setup_teardown(one_that_the_server_refuses, begin, end),
        cmocka_unit_test_setup_teardown(one_that_meets_a_lock, begin, end),
        cmocka_unit_test_setup_teardown(blamed, begin, end),
        cmocka_unit_test_setup_teardown(switched_off, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
