/*
 * test_ids.c: gtids and gids at every edge. If parsing took more than formatting writes, one transaction could have two
 * names: two transactions to PostgreSQL, one to the coordinator.
 */
#include "tests/unit/unit.h"

#include "lockstep/ids.h"

static const char full_participant[] = "pppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppp"; /* 64 */

static struct ls_gtid sample(void) {
    struct ls_gtid gtid = {.coordinator = "shop", .incarnation = "0a1b2c3d4e5f", .epoch = 3, .sequence = 17};
    return gtid;
}

static struct ls_gtid largest(void) {
    struct ls_gtid gtid = {.coordinator = "ABCDEFGHIJ_-abcdef",
                           .incarnation = "ffffffffffff",
                           .epoch = UINT32_MAX,
                           .sequence = LS_SEQUENCE_MAX,
                           .participant = LS_PARTICIPANT_NUMBER_MAX};
    return gtid;
}

static void names(void **state) {
    (void)state;
    assert_true(ls_name_valid("a", 1));
    assert_true(ls_name_valid("azAZ09_-", 8));
    assert_false(ls_name_valid("azAZ09_-x", 8));
    assert_false(ls_name_valid("", 8));
    assert_false(ls_name_valid(NULL, 8));
    for (int c = 1; c < 256; c++) {
        char text[2] = {(char)c, 0};
        bool good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
        assert_int_equal(ls_name_valid(text, 4), good);
    }
}

static void gtid_text(void **state) {
    char text[LS_GTID_MAX + 1];
    struct ls_gtid gtid = sample(), back;
    (void)state;
    ls_gtid_format(&gtid, text);
    assert_string_equal(text, "shop.0a1b2c3d4e5f.3.17");
    assert_int_equal(ls_gtid_parse(text, &back), LS_OK);
    assert_true(ls_gtid_equal(&gtid, &back));
    gtid.participant = 2;
    assert_false(ls_gtid_equal(&gtid, &back));
    ls_gtid_format(&gtid, text);
    assert_string_equal(text, "shop.0a1b2c3d4e5f.3.17-2");
    assert_int_equal(ls_gtid_parse(text, &back), LS_OK);
    assert_true(ls_gtid_equal(&gtid, &back));
    gtid = largest();
    ls_gtid_format(&gtid, text);
    assert_int_equal(strlen(text), LS_GTID_MAX);
    assert_int_equal(ls_gtid_parse(text, &back), LS_OK);
    assert_true(ls_gtid_equal(&gtid, &back));
}

static void gtid_refused(void **state) {
    static const char *const bad[] = {
        "",
        ".",
        "shop",
        "shop.0a1b2c3d4e5f",
        "shop.0a1b2c3d4e5f.3",
        "shop.0a1b2c3d4e5f.3.",
        "shop.0a1b2c3d4e5f..17",
        "shop.0a1b2c3d4e5f.3.17.1",
        ".0a1b2c3d4e5f.3.17",
        "shop..3.17",
        "sh op.0a1b2c3d4e5f.3.17",
        "sh:op.0a1b2c3d4e5f.3.17",
        "shop.0a1b2c3d4e5.3.17",
        "shop.0a1b2c3d4e5f0.3.17",
        "shop.0A1b2c3d4e5f.3.17",
        "shop.0a1b2c3d4e5g.3.17", /* incarnation */
        "shop.0a1b2c3d4e5f.0.17",
        "shop.0a1b2c3d4e5f.03.17",
        "shop.0a1b2c3d4e5f.+3.17",
        "shop.0a1b2c3d4e5f.-3.17",
        "shop.0a1b2c3d4e5f.3x.17",
        "shop.0a1b2c3d4e5f.4294967296.17",
        "shop.0a1b2c3d4e5f.99999999999.17",
        "shop.0a1b2c3d4e5f. 3.17", /* epoch */
        "shop.0a1b2c3d4e5f.3.0",
        "shop.0a1b2c3d4e5f.3.017",
        "shop.0a1b2c3d4e5f.3.10000000000000000",
        "shop.0a1b2c3d4e5f.3.18446744073709551616",
        "shop.0a1b2c3d4e5f.3.17 ",
        "shop.0a1b2c3d4e5f.3.17\n",
        "shop.0a1b2c3d4e5f.3.1 7", /* sequence */
        "shop.0a1b2c3d4e5f.3.17-",
        "shop.0a1b2c3d4e5f.3.17-0",
        "shop.0a1b2c3d4e5f.3.17-02",
        "shop.0a1b2c3d4e5f.3.17-10000",
        "shop.0a1b2c3d4e5f.3.17--2",
        "shop.0a1b2c3d4e5f.3.17-2-2",
        "shop.0a1b2c3d4e5f.3.-2",                /* participant */
        "abcdefghijklmnopqrs.0a1b2c3d4e5f.3.17", /* a coordinator of 19 */
    };
    struct ls_gtid untouched = sample(), gtid = untouched;
    (void)state;
    assert_int_equal(ls_gtid_parse(NULL, &gtid), LS_ERR_INVALID);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (ls_gtid_parse(bad[i], &gtid) != LS_ERR_INVALID) fail_msg("taken: %s", bad[i]);
    }
    assert_true(ls_gtid_equal(&gtid, &untouched));
}

static void gid_text(void **state) {
    char gid[LS_GID_MAX + 1], participant[LS_PARTICIPANT_MAX + 1];
    struct ls_gtid gtid, wanted = sample();
    enum ls_gid_form form;
    (void)state;
    ls_gid_format(LS_GID_READABLE, "shop.0a1b2c3d4e5f.3.17", "orders", gid);
    assert_string_equal(gid, "lockstep:shop.0a1b2c3d4e5f.3.17:orders");
    assert_int_equal(ls_gid_parse(gid, &form, &gtid, participant), LS_OK);
    assert_int_equal(form, LS_GID_READABLE);
    assert_true(ls_gtid_equal(&gtid, &wanted));
    assert_string_equal(participant, "orders");

    /* base64 checked against coreutils: printf %s shop.0a1b2c3d4e5f.3.17 | base64 */
    ls_gid_format(LS_GID_XA, "shop.0a1b2c3d4e5f.3.17", "orders", gid);
    assert_string_equal(gid, "1280004948_c2hvcC4wYTFiMmMzZDRlNWYuMy4xNw==_b3JkZXJz");
    assert_int_equal(ls_gid_parse(gid, &form, &gtid, participant), LS_OK);
    assert_int_equal(form, LS_GID_XA);
    assert_true(ls_gtid_equal(&gtid, &wanted));
    assert_string_equal(participant, "orders");
}

static void gid_edges(void **state) {
    char text[LS_GTID_MAX + 1], gid[LS_GID_MAX + 1], participant[LS_PARTICIPANT_MAX + 1], name[LS_PARTICIPANT_MAX + 1];
    struct ls_gtid gtid, wanted = largest();
    enum ls_gid_form form;
    (void)state;
    /* Every length of both parts, so that all paddings of base64 occur. */
    for (size_t length = 1; length <= LS_PARTICIPANT_MAX; length++) {
        memcpy(name, full_participant, length);
        name[length] = '\0';
        if (length <= LS_COORDINATOR_MAX) {
            memset(wanted.coordinator, 'c', length);
            wanted.coordinator[length] = '\0';
        }
        ls_gtid_format(&wanted, text);
        for (int f = LS_GID_READABLE; f <= LS_GID_XA; f++) {
            ls_gid_format((enum ls_gid_form)f, text, name, gid);
            assert_true(strlen(gid) <= LS_GID_MAX);
            assert_int_equal(strspn(gid, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.:+/="),
                             strlen(gid));
            assert_int_equal(ls_gid_parse(gid, &form, &gtid, participant), LS_OK);
            assert_int_equal(form, f);
            assert_true(ls_gtid_equal(&gtid, &wanted));
            assert_string_equal(participant, name);
        }
    }
}

static void gid_refused(void **state) {
    static const char *const bad[] = {
        "",
        "lockstep:",
        "lockstep",
        "lockstep::",
        "lockstep:shop.0a1b2c3d4e5f.3.17",
        "lockstep:shop.0a1b2c3d4e5f.3.17:",
        "Lockstep:shop.0a1b2c3d4e5f.3.17:orders",
        "lockstep:shop.0a1b2c3d4e5f.3.17:ord ers",
        "lockstep:shop.0a1b2c3d4e5f.3.17:orders:x",
        "lockstep:shop.0a1b2c3d4e5f.3.017:orders",
        "lockstep: shop.0a1b2c3d4e5f.3.17:orders",
        "xlockstep:shop.0a1b2c3d4e5f.3.17:orders",
        "citus_0_12_3_1",
        "_tm_1",
        "1280004948_",
        "1280004948__",
        "1280004948_c2hvcC4wYTFiMmMzZDRlNWYuMy4xNw==_",
        "1280004947_c2hvcC4wYTFiMmMzZDRlNWYuMy4xNw==_b3JkZXJz", /* another format id */
        "1280004948_c2hvcC4wYTFiMmMzZDRlNWYuMy4xNw_b3JkZXJz",   /* padding left out */
        "1280004948_c2hvcC4wYTFiMmMzZDRlNWYuMy4xNw=_b3JkZXJz",  /* half of it */
        "1280004948_c2hvcC4wYTFiMmMzZDRlNWYuMy4xNx==_b3JkZXJz", /* stray bits: decodes to the same, was never built */
        "1280004948_c2hvcC4wYTFiMmMzZDRlNWYuMy4xNw==_b3JkZXJz_",
        "1280004948_c2hvcC4wYTFiMmMzZDRlNWYuMy4xNw==_b3Jk ZXJz",
        "1280004948_c2hvcC4wYTFiMmMzZDRlNWYuMy4xNw==_b3JkZXJ=z",
        "1280004948_====_b3JkZXJz",
        "1280004948_AA==_b3JkZXJz", /* a NUL byte */
    };
    char participant[LS_PARTICIPANT_MAX + 1] = "untouched";
    struct ls_gtid untouched = sample(), gtid = untouched;
    enum ls_gid_form form = LS_GID_XA;
    char large[1024];
    (void)state;
    assert_int_equal(ls_gid_parse(NULL, &form, &gtid, participant), LS_ERR_INVALID);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (ls_gid_parse(bad[i], &form, &gtid, participant) != LS_ERR_INVALID) fail_msg("taken: %s", bad[i]);
    }
    for (size_t i = 0; i < 2; i++) { /* far too long, in both forms */
        memset(large, i ? 'A' : 'a', sizeof large - 1);
        large[sizeof large - 1] = '\0';
        memcpy(large, i ? "1280004948_" : "lockstep:", i ? 11 : 9);
        large[300] = i ? '_' : ':';
        assert_int_equal(ls_gid_parse(large, &form, &gtid, participant), LS_ERR_INVALID);
        large[180] = '\0';
        assert_int_equal(ls_gid_parse(large, &form, &gtid, participant), LS_ERR_INVALID);
    }
    assert_int_equal(form, LS_GID_XA);
    assert_true(ls_gtid_equal(&gtid, &untouched));
    assert_string_equal(participant, "untouched");
}

/* Whatever is taken was written by ls_gid_format: mutations of good gids are either refused or format back to
 * themselves. */
static void gid_mutations(void **state) {
    uint64_t seed = 20260101;
    char good[2][LS_GID_MAX + 1], gid[LS_GID_MAX + 1], again[LS_GID_MAX + 1], text[LS_GTID_MAX + 1],
        participant[LS_PARTICIPANT_MAX + 1];
    unsigned taken = 0;
    (void)state;
    ls_gid_format(LS_GID_READABLE, "shop.0a1b2c3d4e5f.3.17", "orders", good[0]);
    ls_gid_format(LS_GID_XA, "shop.0a1b2c3d4e5f.3.17", "orders", good[1]);
    for (int i = 0; i < 200000; i++) {
        struct ls_gtid gtid;
        enum ls_gid_form form;
        memcpy(gid, good[i & 1], sizeof gid);
        size_t length = strlen(gid);
        for (uint64_t n = 1 + unit_random(&seed) % 3; n > 0; n--) {
            static const char bytes[] = "0123456789abcdef.:-_=ABCxyz+/ '\\\n";
            gid[unit_random(&seed) % length] = bytes[unit_random(&seed) % (sizeof bytes - 1)];
        }
        if (unit_random(&seed) % 8 == 0) gid[unit_random(&seed) % length] = '\0';
        if (ls_gid_parse(gid, &form, &gtid, participant) != LS_OK) continue;
        taken++;
        ls_gtid_format(&gtid, text);
        ls_gid_format(form, text, participant, again);
        if (strcmp(gid, again) != 0) fail_msg("`%s` was taken and is `%s`", gid, again);
    }
    assert_true(taken > 1000);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(names),        cmocka_unit_test(gtid_text),
                                       cmocka_unit_test(gtid_refused), cmocka_unit_test(gid_text),
                                       cmocka_unit_test(gid_edges),    cmocka_unit_test(gid_refused),
                                       cmocka_unit_test(gid_mutations)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
