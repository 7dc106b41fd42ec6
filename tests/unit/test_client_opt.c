/*
 * Hazard: a misspelt option that is silently ignored, a time without unit, a table that lies about its columns.
 * Method: command lines through client/opt.c, rows through client/table.c. Wrong code shows as another value or text.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "client/opt.h"
#include "client/table.h"

static struct values {
    bool flag;
    const char *text;
    uint32_t number, ms;
    struct opt_list list;
} values;

static const struct opt opts[] = {
    {"flag", 'f', OPT_FLAG, &values.flag, NULL, "a flag", 0, 0},
    {"text", 't', OPT_TEXT, &values.text, "TEXT", "a text", 0, 0},
    {"number", 'n', OPT_U32, &values.number, "N", "a number", 1, 10},
    {"time", 0, OPT_MS, &values.ms, "TIME", "a time", 1, 86400000},
    {"list", 'l', OPT_LIST, &values.list, "ITEM", "a list", 0, 0},
};
#define OPT_COUNT (sizeof opts / sizeof opts[0])

static struct opt_operands operands;
static struct ls_error err;

/* Parses a command line given as words after the program's name. */
static enum ls_status parse(int stop, ...) {
    static char *words[64];
    va_list args;
    int count = 1;

    va_start(args, stop);
    for (const char *word; (word = va_arg(args, const char *)) != NULL;) words[count++] = (char *)word;
    va_end(args);
    words[0] = (char *)"program";
    memset(&values, 0, sizeof values);
    memset(&err, 0, sizeof err);
    return opt_parse(opts, OPT_COUNT, count, words, stop, &operands, &err);
}

static void test_forms(void **state) {
    (void)state;
    assert_int_equal(
        parse(false, "a", "--flag", "--text", "x y", "-n", "3", "--time=5s", "b", "-l1", "--list", "2", "-", NULL),
        LS_OK);
    assert_true(values.flag);
    assert_string_equal(values.text, "x y");
    assert_int_equal(values.number, 3);
    assert_int_equal(values.ms, 5000);
    assert_int_equal(values.list.count, 2);
    assert_string_equal(values.list.items[0], "1");
    assert_int_equal(operands.count, 3);
    assert_string_equal(operands.items[0], "a");
    assert_string_equal(operands.items[1], "b");
    assert_string_equal(operands.items[2], "-");
    assert_int_equal(parse(false, "--text=", "--", "--flag", "-x", NULL), LS_OK);
    assert_string_equal(values.text, "");
    assert_false(values.flag);
    assert_int_equal(operands.count, 2);
    assert_string_equal(operands.items[0], "--flag");
}

static void test_stops_at_the_verb(void **state) {
    (void)state;
    assert_int_equal(parse(true, "--number", "7", "run", "--unknown-here", "-x", NULL), LS_OK);
    assert_int_equal(values.number, 7);
    assert_int_equal(operands.count, 3);
    assert_string_equal(operands.items[0], "run");
    assert_string_equal(operands.items[1], "--unknown-here");
}

static void test_complaints_name_the_word(void **state) {
    static const struct {
        const char *words[3], *named;
    } rows[] = {
        {{"--flog", NULL}, "--flog"},         {{"-x", NULL}, "-x"},
        {{"--fla", NULL}, "--fla"}, /* no abbreviations */
        {{"--flag=yes", NULL}, "--flag=yes"}, {{"--text", NULL}, "--text"},
        {{"--number", "0", NULL}, "0"},       {{"--number", "11", NULL}, "11"},
        {{"--number", "1x", NULL}, "1x"},     {{"--number", "-1", NULL}, "-1"},
        {{"--number", "", NULL}, "--number"}, {{"--number", "4294967297", NULL}, "4294967297"},
        {{"--time", "5", NULL}, "5"},         {{"--time", "5 s", NULL}, "5 s"},
        {{"--time", "s", NULL}, "s"},         {{"--time", "25h", NULL}, "25h"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_int_equal(
            parse(false, rows[i].words[0], rows[i].words[1], rows[i].words[1] != NULL ? rows[i].words[2] : NULL, NULL),
            LS_ERR_INVALID);
        assert_non_null(strstr(err.text, rows[i].named));
        assert_int_equal(values.number, 0);
        assert_int_equal(values.ms, 0);
    }
}

static void test_list_is_bounded(void **state) {
    char *words[2 * OPT_LIST_MAX + 3] = {(char *)"program"};

    (void)state;
    memset(&values, 0, sizeof values);
    for (int i = 0; i <= OPT_LIST_MAX; i++) words[1 + 2 * i] = (char *)"-l", words[2 + 2 * i] = (char *)"x";
    assert_int_equal(opt_parse(opts, OPT_COUNT, 2 * OPT_LIST_MAX + 1, words, false, &operands, &err), LS_OK);
    memset(&values, 0, sizeof values);
    for (int i = 0; i <= OPT_LIST_MAX; i++) words[1 + 2 * i] = (char *)"-l", words[2 + 2 * i] = (char *)"x";
    assert_int_equal(opt_parse(opts, OPT_COUNT, 2 * OPT_LIST_MAX + 3, words, false, &operands, &err), LS_ERR_INVALID);
}

static void test_times(void **state) {
    static const struct {
        const char *text;
        uint32_t ms;
    } good[] = {{"250ms", 250},  {"5s", 5000}, {"2min", 120000},
                {"1h", 3600000}, {"0s", 0},    {"4294967295ms", UINT32_MAX}};
    static const char *const bad[] = {
        "", "5", "ms", "-5s", "5S", "5 s", "5s ", "4294967296ms", "1000000000s", "1.5s", "99999999999999999999s"};
    uint32_t ms;

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_int_equal(opt_parse_ms(good[i].text, &ms), LS_OK);
        assert_int_equal(ms, good[i].ms);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) assert_int_equal(opt_parse_ms(bad[i], &ms), LS_ERR_INVALID);
}

static char *printed(const struct table *table) {
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);

    cmd_table_print(table, out);
    fclose(out);
    return text;
}

static void test_table(void **state) {
    static const char *const headings[] = {"NAME", ">COUNT", "NOTE", NULL};
    static const char *const rows[][3] = {
        {"orders", "7", "ok"}, {"b\xc3\xa9", "12345", NULL}, {"x\x1b[31m", "1", "a\nb"}};

    (void)state;
    struct table *table = cmd_table_new(headings);
    char *text = printed(table);
    assert_string_equal(text, "NAME  COUNT  NOTE\n");
    free(text);
    for (size_t i = 0; i < 3; i++) cmd_table_add(table, rows[i]);
    text = printed(table);
    assert_string_equal(text, "NAME    COUNT  NOTE\n"
                              "orders      7  ok\n"
                              "b\xc3\xa9      12345  \n"
                              "x?[31m      1  a?b\n");
    free(text);
    cmd_table_free(table);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_forms),
                                       cmocka_unit_test(test_stops_at_the_verb),
                                       cmocka_unit_test(test_complaints_name_the_word),
                                       cmocka_unit_test(test_list_is_bounded),
                                       cmocka_unit_test(test_times),
                                       cmocka_unit_test(test_table)};

    return cmocka_run_group_tests_name("client_opt", tests, NULL, NULL);
}
