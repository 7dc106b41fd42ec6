/*
 * Hazard: an address that is taken for another one, pauses without bound, an answer read as more than it says.
 * Method: tables of inputs through the pure parts of liblockstep. Wrong code shows as a row that differs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "client/lockstep_internal.h"

static void test_urls(void **state) {
    static const struct {
        const char *text, *base, *path; /* base NULL: refused */
    } rows[] = {
        {"https://coordinator.example:7443", "https://coordinator.example:7443", ""},
        {"https://coordinator.example", "https://coordinator.example:7443", ""},
        {"https://127.0.0.1:1/", "https://127.0.0.1:1", ""},
        {"https://[::1]:65535", "https://[::1]:65535", ""},
        {"unix:/run/lockstep/api", "http://lockstep", "/run/lockstep/api"},
        {"http://coordinator.example:7443", NULL, NULL}, /* never in the clear */
        {"https://", NULL, NULL},
        {"https://user@host:1", NULL, NULL},
        {"https://host:0", NULL, NULL},
        {"https://host:65536", NULL, NULL},
        {"https://host:-1", NULL, NULL},
        {"https://host: 1", NULL, NULL},
        {"https://host:1/v1", NULL, NULL},
        {"https://host:1?x", NULL, NULL},
        {"https://[::1", NULL, NULL},
        {"https://[]:1", NULL, NULL},
        {"unix:run/lockstep", NULL, NULL},
        {"unix:", NULL, NULL},
        {"", NULL, NULL},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct lockstep_url url = {0};
        char error[LOCKSTEP_TEXT_MAX] = "";
        enum lockstep_status status = lockstep_url_parse(rows[i].text, &url, error);
        if (rows[i].base == NULL) {
            assert_int_equal(status, LOCKSTEP_INVALID);
            assert_true(error[0] != '\0');
            assert_true(url.base[0] == '\0');
            continue;
        }
        assert_int_equal(status, LOCKSTEP_OK);
        assert_string_equal(url.base, rows[i].base);
        assert_string_equal(url.path, rows[i].path);
        assert_int_equal(url.local, rows[i].path[0] != '\0');
    }
}

static void test_socket_path_edge(void **state) {
    char text[5 + LOCKSTEP_SOCKET_PATH_MAX + 2] = "unix:/", error[LOCKSTEP_TEXT_MAX];
    struct lockstep_url url;

    (void)state;
    memset(text + 6, 'x', sizeof text - 7);
    text[sizeof text - 1] = '\0';
    assert_int_equal(lockstep_url_parse(text, &url, error), LOCKSTEP_INVALID);
    text[sizeof text - 2] = '\0';
    assert_int_equal(lockstep_url_parse(text, &url, error), LOCKSTEP_OK);
    assert_int_equal(strlen(url.path), LOCKSTEP_SOCKET_PATH_MAX);
}

static void test_backoff(void **state) {
    (void)state;
    for (uint32_t repetition = 1; repetition < 100; repetition++) {
        uint64_t ceiling = repetition > 6 ? 2000 : 50u << (repetition - 1);
        if (ceiling > 2000) ceiling = 2000;
        for (uint32_t random = 0; random < 4000; random += 7) {
            uint32_t pause = lockstep_backoff_ms(repetition, 50, 2000, random);
            assert_true(pause >= ceiling / 2 && pause <= ceiling);
        }
    }
    assert_int_not_equal(lockstep_backoff_ms(5, 50, 2000, 1), lockstep_backoff_ms(5, 50, 2000, 2)); /* jitter */
    assert_true(lockstep_backoff_ms(4000000000u, 50, 2000, UINT32_MAX) <= 2000);
    assert_true(lockstep_backoff_ms(1, 0, 0, 0) <= 1); /* no division by zero */
}

static void test_answers(void **state) {
    static const struct {
        enum lockstep_op op;
        int http;
        const char *body;
        enum lockstep_judgement judgement;
        enum lockstep_status status;
        enum lockstep_outcome outcome;
    } rows[] = {
        {LOCKSTEP_OP_RUN, 200, "{\"state\":\"committed\"}", LOCKSTEP_SETTLED, LOCKSTEP_OK, LOCKSTEP_COMMITTED},
        {LOCKSTEP_OP_RUN, 200, "{\"state\":\"hazard\"}", LOCKSTEP_SETTLED, LOCKSTEP_OK, LOCKSTEP_HAZARD},
        {LOCKSTEP_OP_RUN, 202, "{\"state\":\"pending\"}", LOCKSTEP_FOLLOW, LOCKSTEP_OK, LOCKSTEP_PENDING},
        {LOCKSTEP_OP_RUN, 409, "{\"state\":\"aborted\"}", LOCKSTEP_SETTLED, LOCKSTEP_OK, LOCKSTEP_ABORTED},
        {LOCKSTEP_OP_RUN, 200, "{}", LOCKSTEP_AMBIGUOUS, LOCKSTEP_UNKNOWN, LOCKSTEP_NO_OUTCOME},
        {LOCKSTEP_OP_RUN, 200, "", LOCKSTEP_AMBIGUOUS, LOCKSTEP_UNKNOWN, LOCKSTEP_NO_OUTCOME},
        {LOCKSTEP_OP_RUN, 200, "{\"state\":\"committed\",\"state\":\"committed\"}", LOCKSTEP_AMBIGUOUS,
         LOCKSTEP_UNKNOWN, LOCKSTEP_NO_OUTCOME},
        {LOCKSTEP_OP_RUN, 400, "{\"error\":\"x\"}", LOCKSTEP_SETTLED, LOCKSTEP_REFUSED, LOCKSTEP_NO_OUTCOME},
        {LOCKSTEP_OP_RUN, 422, "<html>", LOCKSTEP_SETTLED, LOCKSTEP_REFUSED, LOCKSTEP_NO_OUTCOME},
        {LOCKSTEP_OP_RUN, 401, "{}", LOCKSTEP_SETTLED, LOCKSTEP_DENIED, LOCKSTEP_NO_OUTCOME},
        {LOCKSTEP_OP_RUN, 408, "{}", LOCKSTEP_AMBIGUOUS, LOCKSTEP_UNKNOWN, LOCKSTEP_NO_OUTCOME},
        {LOCKSTEP_OP_RUN, 429, "{}", LOCKSTEP_TRY_LATER, LOCKSTEP_BUSY, LOCKSTEP_NO_OUTCOME},
        {LOCKSTEP_OP_RUN, 503, "{\"begun\":false}", LOCKSTEP_TRY_LATER, LOCKSTEP_BUSY, LOCKSTEP_NO_OUTCOME},
        {LOCKSTEP_OP_RUN, 503, "{\"begun\":true}", LOCKSTEP_AMBIGUOUS, LOCKSTEP_UNKNOWN, LOCKSTEP_NO_OUTCOME},
        {LOCKSTEP_OP_RUN, 503, "{\"begun\":\"false\"}", LOCKSTEP_AMBIGUOUS, LOCKSTEP_UNKNOWN, LOCKSTEP_NO_OUTCOME},
        {LOCKSTEP_OP_RUN, 500, "{}", LOCKSTEP_AMBIGUOUS, LOCKSTEP_UNKNOWN, LOCKSTEP_NO_OUTCOME},
        {LOCKSTEP_OP_GET, 200, "{\"state\":\"committed\"}", LOCKSTEP_SETTLED, LOCKSTEP_OK, LOCKSTEP_COMMITTED},
        {LOCKSTEP_OP_GET, 200, "{\"state\":\"aborted\"}", LOCKSTEP_SETTLED, LOCKSTEP_OK, LOCKSTEP_ABORTED},
        {LOCKSTEP_OP_GET, 200, "{\"state\":\"sideways\"}", LOCKSTEP_SETTLED, LOCKSTEP_PROTOCOL, LOCKSTEP_NO_OUTCOME},
        {LOCKSTEP_OP_GET, 404, "{}", LOCKSTEP_SETTLED, LOCKSTEP_REFUSED, LOCKSTEP_NO_OUTCOME},
        {LOCKSTEP_OP_GET, 503, "{}", LOCKSTEP_TRY_LATER, LOCKSTEP_BUSY, LOCKSTEP_NO_OUTCOME},
        {LOCKSTEP_OP_LIST, 200, "[]", LOCKSTEP_SETTLED, LOCKSTEP_OK, LOCKSTEP_NO_OUTCOME},
        {LOCKSTEP_OP_LIST, 200, "<html>", LOCKSTEP_SETTLED, LOCKSTEP_PROTOCOL, LOCKSTEP_NO_OUTCOME},
        {LOCKSTEP_OP_ABORT, 500, "{}", LOCKSTEP_AMBIGUOUS, LOCKSTEP_UNKNOWN, LOCKSTEP_NO_OUTCOME},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct lockstep_result result = {0};
        enum lockstep_judgement judgement =
            lockstep_answer_read(rows[i].op, rows[i].http, rows[i].body, strlen(rows[i].body), &result);
        if (judgement != rows[i].judgement || result.status != rows[i].status || result.outcome != rows[i].outcome)
            fail_msg("row %zu: HTTP %d %s", i, rows[i].http, rows[i].body);
        if (result.status != LOCKSTEP_OK) assert_true(result.reason[0] != '\0');
    }
}

static void test_reason_is_one_clean_line(void **state) {
    static const char body[] = "{\"state\":\"aborted\",\"sqlstate\":\"23505\",\"reason\":\"two\\nlines\\u001b[31m\"}";
    struct lockstep_result result = {0};

    (void)state;
    assert_int_equal(lockstep_answer_read(LOCKSTEP_OP_RUN, 409, body, sizeof body - 1, &result), LOCKSTEP_SETTLED);
    assert_string_equal(result.reason, "two lines [31m");
    assert_string_equal(result.sqlstate, "23505");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_urls), cmocka_unit_test(test_socket_path_edge),
                                       cmocka_unit_test(test_backoff), cmocka_unit_test(test_answers),
                                       cmocka_unit_test(test_reason_is_one_clean_line)};

    return cmocka_run_group_tests_name("client_pure", tests, NULL, NULL);
}
