/*
 * test_statement.c: which words may begin a statement. If COMMIT or SET ROLE came through, a branch could end its own
 * transaction or be owned by somebody the finisher is not (hazards 1.16).
 */
#include "tests/unit/unit.h"

#include "common/statement.h"

static struct ls_error err;

static void allowed(void **state) {
    static const char *const good[] = {"select 1",
                                       "SELECT 1",
                                       "SeLeCt 1",
                                       "select",
                                       "select(1)",
                                       "select/**/1",
                                       "select\t1",
                                       "select;",
                                       "  \n\t\f\v\r select 1",
                                       "-- a comment\nselect 1",
                                       "-- a\r\nselect 1",
                                       "/* a */ select 1",
                                       "/* a /* nested */ still */select 1",
                                       "/**/select 1",
                                       "/*/**/*/select 1",
                                       "((select 1) union (select 2))",
                                       "( /* x */ ( -- y\n select 1))",
                                       "insert into t values (1)",
                                       "update t set a=1",
                                       "delete from t",
                                       "merge into t using s on true when matched then delete",
                                       "with a as (select 1) select * from a",
                                       "values (1)",
                                       "table t",
                                       "call p()",
                                       "do 'begin end'",
                                       "savepoint a",
                                       "release savepoint a",
                                       "release a",
                                       "rollback to a",
                                       "rollback to savepoint a",
                                       "ROLLBACK WORK TO a",
                                       "rollback transaction to savepoint a",
                                       "rollback /* x */ to a",
                                       "rollback\nto a",
                                       "set constraints all deferred",
                                       "SET /*x*/ CONSTRAINTS a immediate",
                                       "lock table t",
                                       "explain select 1",
                                       "show x",
                                       "notify a",
                                       "create table t()",
                                       "alter table t add a int",
                                       "drop table t",
                                       "truncate t",
                                       "comment on table t is 'x'",
                                       "grant select on t to u",
                                       "revoke select on t from u",
                                       "refresh materialized view v"};
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        if (statement_check(good[i], strlen(good[i]), &err) != LS_OK) fail_msg("%s: %s", good[i], err.text);
    }
}

static void refused(void **state) {
    static const struct {
        const char *sql, *why;
    } bad[] = {
        {"", "statement is empty"},
        {"  \n", "statement is empty"},
        {"-- only this", "statement is empty"},
        {"/* only */", "statement is empty"},
        {"(", "statement is empty"},
        {"/* no end", "statement has a comment that does not end"},
        {"/* no /* end */ select 1", "statement has a comment that does not end"},
        {"/*/ select 1", "statement has a comment that does not end"},
        {";select 1", "statement does not begin with a word"},
        {"1", "statement does not begin with a word"},
        {"\"select\" 1", "statement does not begin with a word"},
        {"\\c x", "statement does not begin with a word"},
        {"$1", "statement does not begin with a word"},
        {"-1", "statement does not begin with a word"},
        {"commit",
         "statement begins with `commit`, which may not stand in a transaction: it would end the transaction"},
        {"/*x*/ COMMIT AND CHAIN",
         "statement begins with `COMMIT`, which may not stand in a transaction: it would end the transaction"},
        {"end", "statement begins with `end`, which may not stand in a transaction: it would end the transaction"},
        {"abort", "statement begins with `abort`, which may not stand in a transaction: it would end the transaction"},
        {"rollback",
         "statement begins with `rollback`, which may not stand in a transaction: it would end the transaction"},
        {"rollback work",
         "statement begins with `rollback`, which may not stand in a transaction: it would end the transaction"},
        {"rollback and chain",
         "statement begins with `rollback`, which may not stand in a transaction: it would end the transaction"},
        {"rollback prepared 'x'",
         "statement begins with `rollback`, which may not stand in a transaction: it would end the transaction"},
        {"rollback work work to a",
         "statement begins with `rollback`, which may not stand in a transaction: it would end the transaction"},
        {"rollback (to a)",
         "statement begins with `rollback`, which may not stand in a transaction: it would end the transaction"},
        {"rollback tox",
         "statement begins with `rollback`, which may not stand in a transaction: it would end the transaction"},
        {"begin",
         "statement begins with `begin`, which may not stand in a transaction: the transaction is begun by lockstep"},
        {"start transaction",
         "statement begins with `start`, which may not stand in a transaction: the transaction is begun by lockstep"},
        {"prepare transaction 'x'", "statement begins with `prepare`, which may not stand in a transaction: it would "
                                    "end the transaction or outlive it in the session"},
        {"set role admin", "statement begins with `set`, which may not stand in a transaction: settings belong to the "
                           "session; use select set_config(name, value, true)"},
        {"set local synchronous_commit = local",
         "statement begins with `set`, which may not stand in a transaction: settings belong to the session; use "
         "select set_config(name, value, true)"},
        {"set constraintsx", "statement begins with `set`, which may not stand in a transaction: settings belong to "
                             "the session; use select set_config(name, value, true)"},
        {"reset all",
         "statement begins with `reset`, which may not stand in a transaction: settings belong to the session"},
        {"discard all",
         "statement begins with `discard`, which may not stand in a transaction: it would discard the session's state"},
        {"copy t to stdout",
         "statement begins with `copy`, which may not stand in a transaction: it needs a protocol of its own"},
        {"listen a", "statement begins with `listen`, which may not stand in a transaction: it belongs to the session"},
        {"unlisten *",
         "statement begins with `unlisten`, which may not stand in a transaction: it belongs to the session"},
        {"selectx", "statement begins with `selectx`, which is not one of the words allowed"},
        {"select1", "statement begins with `select1`, which is not one of the words allowed"},
        {"select$1", "statement begins with `select$1`, which is not one of the words allowed"},
        {"sel", "statement begins with `sel`, which is not one of the words allowed"},
        {"s\xc3\xa9lect 1", "statement begins with `s\xc3\xa9lect`, which is not one of the words allowed"},
        {"reindex table t", "statement begins with `reindex`, which is not one of the words allowed"},
        {"abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz",
         "statement begins with `abcdefghijklmnopqrstuvwxyzabcdef`, which is not one of the words allowed"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (statement_check(bad[i].sql, strlen(bad[i].sql), &err) != LS_ERR_INVALID) fail_msg("taken: %s", bad[i].sql);
        assert_string_equal(err.text, bad[i].why);
    }
    assert_fails(statement_check("select 1\0; commit", 17, &err), LS_ERR_INVALID, "statement holds a NUL byte");
}

/* The length is believed, not a NUL behind it: every prefix of a statement in memory of exactly that size (ASan
 * watches). */
static void prefixes(void **state) {
    static const char *const texts[] = {"/* a /* b */ c */ -- d\n ((select 1",
                                        "rollback /* x */ work -- y\n to savepoint a",
                                        "set/**/constraints all deferred"};
    (void)state;
    for (size_t t = 0; t < sizeof texts / sizeof *texts; t++) {
        for (size_t length = 0; length <= strlen(texts[t]); length++) {
            char *copy = malloc(length ? length : 1);
            assert_non_null(copy);
            memcpy(copy, texts[t], length);
            enum ls_status status = statement_check(copy, length, &err);
            assert_true(status == LS_OK || status == LS_ERR_INVALID);
            free(copy);
        }
    }
}

/* Random texts of the bytes that matter: never a crash, and what is taken begins with a word of the list. */
static void mutations(void **state) {
    static const char *const pieces[] = {"select", "commit", "rollback", "to", "work", "set", "constraints", "/*",
                                         "*/",     "--",     "\n",       " ",  "(",    ";",   "x",           "\xff"};
    uint64_t seed = 7;
    (void)state;
    for (int i = 0; i < 100000; i++) {
        char text[128] = "";
        for (uint64_t n = unit_random(&seed) % 8; n > 0; n--)
            strcat(text, pieces[unit_random(&seed) % (sizeof pieces / sizeof *pieces)]);
        size_t length = strlen(text);
        char *copy = malloc(length + 1);
        assert_non_null(copy);
        memcpy(copy, text, length);
        enum ls_status status = statement_check(copy, length, &err);
        if (status == LS_OK && !strstr(text, "select") && !(strstr(text, "rollback") && strstr(text, "to")) &&
            !strstr(text, "constraints")) {
            fail_msg("taken: %s", text);
        }
        free(copy);
    }
}

static void changes_rows(void **state) {
    (void)state;
    static const char *const yes[] = {"insert into t values (1)", " /* x */ UPDATE t set a=1", "delete from t", "merge into t"};
    static const char *const no[] = {"select 1", "with a as (delete from t) select 1", "(update", "updates", "", "-- update", "call update()"};
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++) assert_true(statement_changes_rows(yes[i], strlen(yes[i])));
    for (size_t i = 0; i < sizeof no / sizeof *no; i++) assert_false(statement_changes_rows(no[i], strlen(no[i])));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(allowed),
        cmocka_unit_test(changes_rows), cmocka_unit_test(refused), cmocka_unit_test(prefixes),
                                       cmocka_unit_test(mutations)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
