/*
 * test_pg_values.c: numbers as PostgreSQL writes them, quoting, the session's name. If an epoch were guessed wrong, a decision would be held
 * against another transaction than the one it was bound to (hazards 1.19); if two participants shared a name, one agent would end the
 * other's sessions.
 */
#include "tests/unit/unit.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "participant/pg/driver.h"
#include "participant/pg/schema.h"
#include "participant/pg/xid.h"

static void full_xid(void **state)
{
    (void)state;
    const uint64_t epoch = (uint64_t)1 << 32;
    assert_int_equal(pg_full_xid(700, 701), 700);
    assert_int_equal(pg_full_xid(700, 700), 700); /* xmax is not above a running xid */
    assert_int_equal(pg_full_xid(705, 700), 705);
    assert_int_equal(pg_full_xid(700, 3 * epoch + 900), 3 * epoch + 700);
    /* just after a wrap the prepared one is of the epoch before */
    assert_int_equal(pg_full_xid(UINT32_MAX - 5, 3 * epoch + 10), 3 * epoch - 6);
    /* just before a wrap a newer one is of the next */
    assert_int_equal(pg_full_xid(5, 3 * epoch - 10), 3 * epoch + 5);
    /* nothing is older than the first epoch */
    assert_int_equal(pg_full_xid(UINT32_MAX - 5, 10), 0);
    /* the widest distance that can be told */
    assert_int_equal(pg_full_xid(0, (uint64_t)1 << 31), 0);
    assert_int_equal(pg_full_xid(3, epoch + ((uint64_t)1 << 31)), epoch + 3);
}

static void numbers(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "-1", "+1", " 1", "1 ", "1.0", "0x1", "18446744073709551616", "99999999999999999999"};
    uint64_t value = 42;
    assert_true(pg_parse_u64("0", &value) && value == 0);
    assert_true(pg_parse_u64("18446744073709551615", &value) && value == UINT64_MAX);
    value = 42;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(pg_parse_u64(bad[i], &value));
    assert_false(pg_parse_u64(NULL, &value));
    assert_int_equal(value, 42);
}

static void lsns(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "/", "1/", "/1", "1", "1/2/3", "123456789/0", "0/123456789", "1/2 ", "g/0", "0/-1", "a/0"};
    uint64_t lsn = 42;
    assert_true(pg_parse_lsn("0/0", &lsn) && lsn == 0);
    assert_true(pg_parse_lsn("16/B374D848", &lsn) && lsn == UINT64_C(0x16B374D848));
    assert_true(pg_parse_lsn("FFFFFFFF/FFFFFFFF", &lsn) && lsn == UINT64_MAX);
    lsn = 42;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(pg_parse_lsn(bad[i], &lsn));
    assert_false(pg_parse_lsn(NULL, &lsn));
    assert_int_equal(lsn, 42);
}

static void wal_files(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "00000001", "00000000000000010000000A", "0000000100000001000000010", "0000000100000000000000G1",
                                      "00000001000000000000 001"};
    uint32_t timeline = 42;
    assert_true(pg_parse_walfile("000000010000000000000001", &timeline) && timeline == 1);
    assert_true(pg_parse_walfile("0000001A00000003000000FF", &timeline) && timeline == 26);
    timeline = 42;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(pg_parse_walfile(bad[i], &timeline));
    assert_false(pg_parse_walfile(NULL, &timeline));
    assert_int_equal(timeline, 42);
}

static void histories(void **state)
{
    (void)state;
    struct agent_switch list[3];
    uint32_t count = 9;
    assert_true(pg_parse_history("", list, 3, &count) && count == 0);
    assert_true(pg_parse_history("1\t0/3000000\tno recovery target specified\n", list, 3, &count));
    assert_int_equal(count, 1);
    assert_int_equal(list[0].timeline, 1);
    assert_int_equal(list[0].lsn, 0x3000000);
    assert_true(pg_parse_history("# a comment\n\n1\t0/3000000\tx\n\n3\t1/A0\ty", list, 3, &count));
    assert_int_equal(count, 2);
    assert_int_equal(list[1].timeline, 3);
    assert_int_equal(list[1].lsn, UINT64_C(0x1000000A0));
    /* the newest are kept */
    assert_true(pg_parse_history("1\t0/1\n2\t0/2\n3\t0/3\n4\t0/4\n5\t0/5\n", list, 3, &count));
    assert_int_equal(count, 3);
    assert_int_equal(list[0].timeline, 3);
    assert_int_equal(list[2].lsn, 5);
    static const char *const bad[] = {"x", "1", "1\t", "1\tx", "0\t0/1\n", "2\t0/1\n1\t0/2\n", "1\t0/1\n1\t0/2\n", "4294967296\t0/1\n", "1 0/1x\n"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(pg_parse_history(bad[i], list, 3, &count));
}

static void quoting(void **state)
{
    (void)state;
    char out[16];
    assert_true(pg_quote('"', "a", out, sizeof(out)));
    assert_string_equal(out, "\"a\"");
    assert_true(pg_quote('"', "a\"b", out, sizeof(out)));
    assert_string_equal(out, "\"a\"\"b\"");
    assert_true(pg_quote('\'', "a'b\\", out, sizeof(out)));
    assert_string_equal(out, "'a''b\\'");
    assert_true(pg_quote('"', "1234567890123", out, sizeof(out)));
    assert_false(pg_quote('"', "12345678901234", out, sizeof(out)));
    assert_false(pg_quote('"', "123456789012\"", out, sizeof(out)));
    assert_false(pg_quote('"', "", out, 2));
}

static void schema_names(void **state)
{
    (void)state;
    const char *apps[] = {"checkout", "we\"ird"};
    char longest[LS_ROLE_MAX + 2];
    struct ls_error err;
    char *sql = NULL;
    memset(longest, 'x', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    assert_int_equal(pg_schema_sql("the agent's", apps, 2, &sql, &err), LS_OK);
    assert_non_null(strstr(sql, "rolname = 'the agent''s'"));
    assert_non_null(strstr(sql, "create role \"the agent's\" login"));
    assert_non_null(strstr(sql, "grant \"we\"\"ird\" to \"the agent's\""));
    free(sql);
    assert_int_equal(pg_schema_sql("", apps, 2, &sql, &err), LS_ERR_INVALID);
    assert_int_equal(pg_schema_sql(longest, apps, 2, &sql, &err), LS_ERR_INVALID);
    apps[1] = longest;
    assert_int_equal(pg_schema_sql("a", apps, 2, &sql, &err), LS_ERR_INVALID);
    apps[1] = "\xff";
    assert_int_equal(pg_schema_sql("a", apps, 2, &sql, &err), LS_ERR_INVALID);
}

static void session_names(void **state)
{
    (void)state;
    const char *nonce = "0123456789ab";
    char prefix[PG_APPLICATION_NAME_MAX + 1], name[PG_APPLICATION_NAME_MAX + 1], other[PG_APPLICATION_NAME_MAX + 1];
    char participant[LS_PARTICIPANT_MAX + 1];
    pg_fill_application_name("orders", nonce, prefix, name);
    assert_string_equal(prefix, "lockstep/orders/");
    assert_string_equal(name, "lockstep/orders/0123456789ab");
    for (size_t length = 1; length <= LS_PARTICIPANT_MAX; length++) {
        memset(participant, 'p', length);
        participant[length] = '\0';
        pg_fill_application_name(participant, nonce, prefix, name);
        assert_int_equal(strncmp(name, prefix, strlen(prefix)), 0);
        assert_string_equal(name + strlen(prefix), nonce);
        /* differs only in its last byte, perhaps beyond the cut */
        participant[length - 1] = 'q';
        pg_fill_application_name(participant, nonce, other, name);
        assert_string_not_equal(prefix, other);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(full_xid),  cmocka_unit_test(numbers), cmocka_unit_test(lsns),         cmocka_unit_test(wal_files),
        cmocka_unit_test(histories), cmocka_unit_test(quoting), cmocka_unit_test(schema_names), cmocka_unit_test(session_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
