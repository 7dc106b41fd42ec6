/*
 * test_common.c: the small pieces: statuses, texts, addresses, digests, log lines.
 */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/address.h"
#include "common/diag.h"
#include "common/hash.h"
#include "common/text.h"

static struct ls_error err;

static void status_table(void **state) {
    (void)state;
    for (int i = 0; i < LS_STATUS_COUNT; i++) {
        assert_true(strlen(ls_status_text((enum ls_status)i)) > 0);
        assert_int_equal(strncmp(ls_status_name((enum ls_status)i), i ? "LS_ERR_" : "LS_OK", i ? 7 : 5), 0);
        assert_int_equal(ls_status_class((enum ls_status)i) == LS_CLASS_OK, i == LS_OK);
    }
    assert_int_equal(ls_status_class(LS_ERR_UNKNOWN_OUTCOME), LS_CLASS_IN_DOUBT);
    assert_int_equal(ls_status_class(LS_ERR_BUSY), LS_CLASS_RETRY);
    assert_string_equal(ls_status_name(LS_ERR_BUSY), "LS_ERR_BUSY");
}

static void fail_texts(void **state) {
    char large[2000];
    (void)state;
    assert_int_equal(ls_fail(NULL, LS_ERR_IO, "x"), LS_ERR_IO);
    assert_fails(ls_fail(&err, LS_ERR_IO, "a\nb\tc%d", 5), LS_ERR_IO, "a b c5");
    memset(large, 'x', sizeof large);
    large[sizeof large - 1] = '\0';
    assert_int_equal(ls_fail(&err, LS_ERR_IO, "%s", large), LS_ERR_IO);
    assert_int_equal(strlen(err.text), LS_ERROR_TEXT_MAX - 1);
    /* the arguments may come from the error itself */
    assert_fails(ls_fail(&err, LS_ERR_IO, "first"), LS_ERR_IO, "first");
    (void)ls_fail(&err, LS_ERR_INVALID, "then: %s", err.text);
    assert_string_equal(err.text, "then: first");
    /* cut between characters */
    for (size_t i = 0; i + 1 < sizeof large; i += 2) memcpy(large + i, "\xc3\xa9", 2);
    large[sizeof large - 2] = '\0';
    (void)ls_fail(&err, LS_ERR_IO, "%s", large);
    assert_true(text_utf8_valid(err.text, strlen(err.text)));
    assert_int_equal(strlen(err.text), LS_ERROR_TEXT_MAX - 2);
}

static void utf8(void **state) {
    static const char *const good[] = {"",
                                       "a",
                                       "\x7f",
                                       "\xc2\x80",
                                       "\xdf\xbf",
                                       "\xe0\xa0\x80",
                                       "\xed\x9f\xbf",
                                       "\xee\x80\x80",
                                       "\xef\xbf\xbf",
                                       "\xf0\x90\x80\x80",
                                       "\xf4\x8f\xbf\xbf"};
    static const char *const bad[] = {"\x80",
                                      "\xbf",
                                      "\xc0\x80",
                                      "\xc1\xbf",
                                      "\xc2",
                                      "\xc2 ",
                                      "\xe0\x9f\xbf",
                                      "\xe0\xa0",
                                      "\xed\xa0\x80",
                                      "\xed\xbf\xbf",
                                      "\xf0\x8f\xbf\xbf",
                                      "\xf4\x90\x80\x80",
                                      "\xf5\x80\x80\x80",
                                      "\xff",
                                      "\xfe",
                                      "a\xf0\x90\x80",
                                      "\xe1\x80\xc0"};
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) assert_true(text_utf8_valid(good[i], strlen(good[i])));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char *copy = malloc(strlen(bad[i])); /* exactly: ASan sees a look behind the end */
        assert_non_null(copy);
        memcpy(copy, bad[i], strlen(bad[i]));
        if (text_utf8_valid(copy, strlen(bad[i]))) fail_msg("taken: row %zu", i);
        free(copy);
    }
    assert_false(text_utf8_valid("a\0b", 3));
}

static void copies(void **state) {
    char out[8];
    (void)state;
    text_copy_line(out, sizeof out, NULL);
    assert_string_equal(out, "");
    text_copy_line(out, sizeof out, "a\nb\rc\x7f");
    assert_string_equal(out, "a b c ");
    text_copy_line(out, sizeof out, "1234567");
    assert_string_equal(out, "1234567");
    text_copy_line(out, sizeof out, "12345678");
    assert_string_equal(out, "1234567");
    text_copy_line(out, sizeof out, "123456\xc3\xa9");
    assert_string_equal(out, "123456");
    text_copy_line(out, sizeof out, "12345\xc3\xa9");
    assert_string_equal(out, "12345\xc3\xa9");
    text_copy_line(out, sizeof out, "1\xff\xc3z");
    assert_string_equal(out, "1??z");
    text_copy_line(out, 1, "x");
    assert_string_equal(out, "");
    assert_int_equal(text_cut("abc", 3, 5), 3);
    assert_int_equal(text_cut("ab\xc3\xa9", 4, 3), 2);
    assert_int_equal(text_cut("ab\xc3\xa9", 4, 4), 4);
}

static void addresses(void **state) {
    static const char *const bad[] = {"",           ":",           "host",     "host:",      ":1",      "host:65536",
                                      "host:99999", "host:100000", "host:01",  "host:-1",    "host:1x", "host: 1",
                                      "ho st:1",    "a:b:1",       "[::1]",    "[::1]1",     "[::1",    "[]:1",
                                      "[zz]:1",     "[::1]:",      "host/x:1", "user@host:1"};
    char host[ADDRESS_HOST_MAX + 1], port[ADDRESS_PORT_MAX + 1], large[300];
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (address_split(bad[i], host, port) != LS_ERR_INVALID) fail_msg("taken: %s", bad[i]);
    }
    assert_int_equal(address_split("db-1.example_x.org:65535", host, port), LS_OK);
    assert_string_equal(host, "db-1.example_x.org");
    assert_string_equal(port, "65535");
    assert_int_equal(address_split("[fe80::1]:0", host, port), LS_OK);
    assert_string_equal(host, "fe80::1");
    assert_string_equal(port, "0");
    memset(large, 'h', sizeof large);
    memcpy(large + ADDRESS_HOST_MAX, ":1", 3);
    assert_int_equal(address_split(large, host, port), LS_OK);
    memset(large, 'h', sizeof large);
    memcpy(large + ADDRESS_HOST_MAX + 1, ":1", 3);
    assert_int_equal(address_split(large, host, port), LS_ERR_INVALID);
}

static void digests(void **state) {
    /* printf '\0\0\0\0\0\0\0\002ab\0\0\0\0\0\0\0\001c' | sha256sum, the first 16 bytes */
    static const uint8_t known[HASH_BYTES] = {0x60, 0x1d, 0x54, 0x76, 0xe2, 0xcc, 0xfe, 0x2c,
                                              0x87, 0xa2, 0xbb, 0xa7, 0xa3, 0x22, 0x65, 0x97};
    uint8_t a[HASH_BYTES], b[HASH_BYTES];
    (void)state;
    hash_pair("ab", "c", a);
    assert_memory_equal(a, known, sizeof a);
    hash_pair("a", "bc", b);
    assert_memory_not_equal(a, b, sizeof a);
    struct hash *hash = hash_begin();
    hash_add(hash, "ab", 2);
    hash_add(hash, "c", 1);
    hash_end(hash, b);
    assert_memory_equal(a, b, sizeof a);
}

static void random_bytes(void **state) {
    char text[LS_ERROR_TEXT_MAX], other[LS_ERROR_TEXT_MAX];
    (void)state;
    random_hex(12, text);
    random_hex(12, other);
    assert_int_equal(strlen(text), 12);
    assert_int_equal(strspn(text, "0123456789abcdef"), 12);
    assert_string_not_equal(text, other);
    random_hex(0, text);
    assert_string_equal(text, "");
    assert_true(random_u64() != random_u64());
}

/* Runs one call with stderr in a pipe; returns what was written. */
static const char *logged(enum diag_format format, void (*call)(void)) {
    static char text[2 * DIAG_LINE_MAX];
    int ends[2], saved = dup(STDERR_FILENO);
    assert_int_equal(pipe(ends), 0);
    assert_true(dup2(ends[1], STDERR_FILENO) >= 0);
    diag_setup("lockstepd", DIAG_INFO, format);
    call();
    assert_true(dup2(saved, STDERR_FILENO) >= 0);
    close(saved);
    close(ends[1]);
    size_t length = 0;
    for (ssize_t n; (n = read(ends[0], text + length, sizeof text - 1 - length)) > 0;) length += (size_t)n;
    close(ends[0]);
    text[length] = '\0';
    return text;
}

static void log_one(void) {
    diag(DIAG_INFO, "txn committed", "gtid", "shop.0a1b2c3d4e5f.3.17", "branches", diag_u64(2), "note", "two words",
         "empty", "", NULL);
    diag(DIAG_DEBUG, "not shown", NULL);
}
static void log_odd(void) {
    diag(DIAG_ERROR, "odd", "a", "x\"y\\z\nw\x01", "b", "\xc3\xa9", "c", "\xff\xc3", "d", NULL, "e", "1=2", NULL);
}
static char large_value[3 * DIAG_LINE_MAX];
static void log_large(void) {
    diag(DIAG_WARN, "large", "text", large_value, "after", "x", NULL);
}
static void log_errno(void) {
    diag(DIAG_WARN, "failed", "error", diag_errno(ENOENT), NULL);
}

static void log_lines(void **state) {
    (void)state;
    const char *text = logged(DIAG_TEXT, log_one);
    assert_string_equal(text + 24,
                        " INFO  txn committed gtid=shop.0a1b2c3d4e5f.3.17 branches=2 note=\"two words\" empty=\"\"\n");
    assert_int_equal(text[10], 'T');
    assert_int_equal(text[19], '.');
    assert_int_equal(text[23], 'Z');
    text = logged(DIAG_JSON, log_one);
    assert_string_equal(text + strlen("{\"time\":\"2026-01-31T12:00:00.123Z"),
                        "\",\"level\":\"info\",\"program\":\"lockstepd\",\"message\":\"txn "
                        "committed\",\"gtid\":\"shop.0a1b2c3d4e5f.3.17\",\"branches\":2,"
                        "\"note\":\"two words\",\"empty\":\"\"}\n");
    text = logged(DIAG_TEXT, log_odd);
    assert_string_equal(text + 24,
                        " ERROR odd a=\"x\\\"y\\\\z\\nw\\u0001\" b=\"\xc3\xa9\" c=\"\?\?\" d=\"\" e=\"1=2\"\n");
    text = logged(DIAG_TEXT, log_errno);
    assert_string_equal(text + 24, " WARN  failed error=\"No such file or directory\"\n");
}

static void log_cut(void **state) {
    (void)state;
    for (int shift = 0; shift < 4; shift++) { /* so that the cut meets each byte of a character */
        memset(large_value, 'x', sizeof large_value);
        for (size_t i = (size_t)shift; i + 4 < sizeof large_value; i += 3) memcpy(large_value + i, "\xe2\x82\xac", 3);
        large_value[sizeof large_value - 4] = '\0';
        for (int format = DIAG_TEXT; format <= DIAG_JSON; format++) {
            const char *text = logged((enum diag_format)format, log_large);
            size_t length = strlen(text);
            assert_true(length <= DIAG_LINE_MAX && length > DIAG_LINE_MAX - 64);
            assert_true(text_utf8_valid(text, length));
            assert_string_equal(text + length - (format == DIAG_JSON ? 3 : 2), format == DIAG_JSON ? "\"}\n" : "\"\n");
        }
    }
}

static void log_words(void **state) {
    enum diag_level level = DIAG_WARN;
    enum diag_format format = DIAG_JSON;
    (void)state;
    assert_true(diag_parse_level("debug", &level));
    assert_int_equal(level, DIAG_DEBUG);
    assert_true(diag_parse_format("text", &format));
    assert_int_equal(format, DIAG_TEXT);
    assert_false(diag_parse_level("DEBUG", &level));
    assert_false(diag_parse_format("xml", &format));
    diag_setup("x", DIAG_WARN, DIAG_TEXT);
    assert_false(diag_enabled(DIAG_INFO));
    assert_true(diag_enabled(DIAG_ERROR));
}

static void fatal_exits(void **state) {
    int status;
    (void)state;
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        close(STDERR_FILENO);
        diag_fatal(LS_EXIT_IO, "the log has failed", "where", "segment 3", NULL);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), LS_EXIT_IO);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(status_table), cmocka_unit_test(fail_texts), cmocka_unit_test(utf8),
        cmocka_unit_test(copies),       cmocka_unit_test(addresses),  cmocka_unit_test(digests),
        cmocka_unit_test(random_bytes), cmocka_unit_test(log_lines),  cmocka_unit_test(log_cut),
        cmocka_unit_test(log_words),    cmocka_unit_test(fatal_exits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
