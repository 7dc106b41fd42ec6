/*
 * test_document.c: the document of POST /v1/run. Every mistake is refused before anything begins, with a code and the
 * path of the offending value; what is accepted reaches the engine as steps, branches and waits. If the parser let
 * something through, a transaction would begin and fail halfway, or (a silently rounded number, an ignored field)
 * commit something else than was meant.
 */
#include "tests/unit/unit.h"

#include "coordinator/api/document.h"

static uint32_t participant(void *context, const char *name) {
    static const char *const names[] = {"orders", "balance", "coupons"};
    (void)context;
    for (uint32_t i = 0; i < 3; i++) {
        if (strcmp(names[i], name) == 0) return i + 1;
    }
    return 0;
}

static bool service(void *context, const char *name) {
    (void)context;
    return strcmp(name, "pay") == 0;
}

static const struct document_limits limits = {.statements = 4,
                                              .participants = 2,
                                              .deadline_ms = 30000,
                                              .lock_timeout_ms = 5000,
                                              .participant = participant,
                                              .service = service};
static struct document_error error;

static enum ls_status parse(const char *text, struct document **document) {
    memset(&error, 0, sizeof error);
    return document_parse(text, strlen(text), &limits, document, &error);
}

static struct document *parse_good(const char *text) {
    struct document *document = NULL;
    if (parse(text, &document) != LS_OK) fail_msg("%s: %s: %s: %s", text, error.code, error.path, error.message);
    return document;
}

static void the_design_document_is_understood(void **state) {
    (void)state;
    struct document *d = parse_good(
        "{ \"mode\": \"2pc\", \"steps\": ["
        "{ \"on\": \"orders\", \"do\": {\"sql\": \"insert into orders(id,sku,amount) values($1,$2,$3)\", \"args\": "
        "[17,\"tea\",30]}, \"undo\": {\"sql\": \"update orders set state='cancelled' where id=$1\", \"args\": [17]} },"
        "{ \"on\": \"balance\", \"do\": {\"sql\": \"update balance set amount=amount-$1 where owner=$2\", \"args\": "
        "[30,\"kim\"], \"expect_rows\": 1}, \"undo\": {\"sql\": \"update balance set amount=amount+$1\", \"args\": "
        "[30,{\"json\":[1]}]} } ] }");
    assert_int_equal(d->step_count, 2);
    assert_int_equal(d->participant_count, 2);
    assert_int_equal(d->participants[0], 1);
    assert_int_equal(d->participants[1], 2);
    assert_int_equal(d->deadline_ms, 30000);
    assert_int_equal(d->lock_timeout_ms, 5000);
    assert_int_equal(d->isolation, DOCUMENT_READ_COMMITTED);
    assert_int_equal(d->gid_form, LS_GID_READABLE);
    assert_int_equal(d->steps[0].arg_count, 3);
    assert_string_equal(d->steps[0].args[0].text, "17");
    assert_string_equal(d->steps[0].args[1].text, "tea");
    assert_false(d->steps[0].has_expect_rows);
    assert_true(d->steps[1].has_expect_rows);
    assert_int_equal(d->steps[1].expect_rows, 1);
    assert_int_equal(d->specs[1].branch, 1);
    assert_int_equal(d->specs[1].after_count, 0);
    document_free(d);
}

static void values_become_text(void **state) {
    (void)state;
    struct document *d = parse_good(
        "{\"mode\":\"2pc\",\"steps\":[{\"on\":\"orders\",\"do\":{\"sql\":\"select 1\",\"args\":[9223372036854775807,"
        "-9223372036854775808,true,false,null,{\"json\":{\"b\":[1,\"x\"],\"a\":null}},{\"json\":7},\"30.10\",\"\"]}}]"
        "}");
    static const char *const texts[] = {"9223372036854775807",
                                        "-9223372036854775808",
                                        "true",
                                        "false",
                                        NULL,
                                        "{\"b\":[1,\"x\"],\"a\":null}",
                                        "7",
                                        "30.10",
                                        ""};
    assert_int_equal(d->steps[0].arg_count, 9);
    for (uint32_t i = 0; i < 9; i++) {
        if (texts[i] == NULL) {
            assert_int_equal(d->steps[0].args[i].kind, DOCUMENT_ARG_NULL);
        } else {
            assert_int_equal(d->steps[0].args[i].kind, DOCUMENT_ARG_TEXT);
            assert_string_equal(d->steps[0].args[i].text, texts[i]);
        }
    }
    document_free(d);
}

static void options_are_understood(void **state) {
    (void)state;
    struct document *d = parse_good(
        "{\"steps\":[{\"do\":{\"sql\":\"select 1\"},\"on\":\"coupons\",\"kind\":\"pivot\"}],\"deadline\":\"2min\","
        "\"lock_timeout\":\"50ms\",\"isolation\":\"serializable\",\"gid_form\":\"xa\",\"mode\":\"2pc\"}");
    assert_int_equal(d->deadline_ms, 120000);
    assert_int_equal(d->lock_timeout_ms, 50);
    assert_int_equal(d->isolation, DOCUMENT_SERIALIZABLE);
    assert_int_equal(d->gid_form, LS_GID_XA);
    document_free(d);
}

#define STEP(more) "{\"on\":\"orders\",\"do\":{\"sql\":\"select 1\"}" more "}"
#define STEPS(list) "{\"mode\":\"2pc\",\"steps\":[" list "]}"

static void after_and_references_become_waits(void **state) {
    (void)state;
    struct document *d = parse_good(STEPS(STEP(",\"name\":\"a\"") "," STEP(
        ",\"name\":\"b\",\"after\":\"a\"") ","
                                           "{\"on\":\"balance\",\"do\":{\"sql\":\"select "
                                           "$1,$2\",\"args\":[{\"ref\":\"a.rows.0.id\"},"
                                           "{\"ref\":\"b.rows_affected\"}]},\"after\":[\"a\",0,1]},"
                                           "{\"on\":\"balance\",\"do\":{\"sql\":\"select 1\"},\"after\":2}"));
    assert_int_equal(d->specs[0].after_count, 0);
    assert_int_equal(d->specs[1].after_count, 1);
    assert_int_equal(d->specs[1].after[0], 0);
    assert_int_equal(d->specs[2].after_count, 2); /* each named twice, waited for once */
    assert_int_equal(d->specs[2].after[0], 0);
    assert_int_equal(d->specs[2].after[1], 1);
    assert_int_equal(d->specs[3].after[0], 2);
    const struct document_arg *cell = &d->steps[2].args[0], *count = &d->steps[2].args[1];
    assert_int_equal(cell->kind, DOCUMENT_ARG_REF);
    assert_int_equal(cell->ref_kind, DOCUMENT_REF_CELL);
    assert_int_equal(cell->ref_step, 0);
    assert_int_equal(cell->ref_row, 0);
    assert_string_equal(cell->text, "id");
    assert_int_equal(count->ref_kind, DOCUMENT_REF_ROWS_AFFECTED);
    assert_int_equal(count->ref_step, 1);
    assert_true(d->steps[0].referenced);
    document_free(d);
}

/* A column's name is whatever stands behind the row, dots included. */
static void a_column_may_have_dots(void **state) {
    (void)state;
    struct document *d = parse_good(
        STEPS(STEP(",\"name\":\"a\"") ",{\"on\":\"balance\",\"do\":{\"sql\":\"select $1\",\"args\":[{\"ref\":"
                                      "\"a.rows.12.b.c\"}]}}"));
    assert_int_equal(d->steps[1].args[0].ref_row, 12);
    assert_string_equal(d->steps[1].args[0].text, "b.c");
    document_free(d);
}

#define DO(action) STEPS("{\"on\":\"orders\",\"do\":" action "}")
#define ARG(value) DO("{\"sql\":\"select $1\",\"args\":[1," value "]}")

static const struct {
    const char *text, *code, *path;
} mistakes[] = {
    /* the document */
    {"", "invalid_json", ""},
    {"{", "invalid_json", ""},
    {"[]", "wrong_type", ""},
    {"{\"mode\":\"2pc\",\"mode\":\"2pc\"}", "invalid_json", ""},
    {"{\"mode\":\"2pc\\u0000\"}", "invalid_json", ""},
    {"{}", "missing_field", "mode"},
    {"{\"steps\":[" STEP("") "]}", "missing_field", "mode"},
    {"{\"mode\":\"2pc\"}", "missing_field", "steps"},
    {"{\"mode\":2}", "wrong_type", "mode"},
    {"{\"mode\":\"3pc\"}", "invalid_value", "mode"},
    {"{\"mode\":\"2pc\",\"colour\":1}", "unknown_field", "colour"},
    {"{\"mode\":\"2pc\",\"isolation\":\"snapshot\"}", "invalid_value", "isolation"},
    {"{\"mode\":\"2pc\",\"isolation\":3}", "wrong_type", "isolation"},
    {"{\"mode\":\"2pc\",\"gid_form\":\"short\"}", "invalid_value", "gid_form"},
    {"{\"mode\":\"2pc\",\"deadline\":30}", "wrong_type", "deadline"},
    {"{\"mode\":\"2pc\",\"deadline\":\"30\"}", "invalid_value", "deadline"},
    {"{\"mode\":\"2pc\",\"deadline\":\"9ms\"}", "invalid_value", "deadline"},
    {"{\"mode\":\"2pc\",\"deadline\":\"2h\"}", "invalid_value", "deadline"},
    {"{\"mode\":\"2pc\",\"lock_timeout\":\"0ms\"}", "invalid_value", "lock_timeout"},
    {"{\"mode\":\"2pc\",\"lock_timeout\":\"-1s\"}", "invalid_value", "lock_timeout"},
    {"{\"mode\":\"2pc\",\"steps\":{}}", "wrong_type", "steps"},
    {"{\"mode\":\"2pc\",\"steps\":[]}", "invalid_value", "steps"},
    {STEPS(STEP("") "," STEP("") "," STEP("") "," STEP("") "," STEP("")), "too_large", "steps"},
    /* a step */
    {STEPS("1"), "wrong_type", "steps[0]"},
    {STEPS("{}"), "missing_field", "steps[0].on"},
    {STEPS("{\"on\":\"orders\"}"), "missing_field", "steps[0].do"},
    {STEPS(STEP(",\"when\":1")), "unknown_field", "steps[0].when"},
    {STEPS("{\"on\":7,\"do\":{\"sql\":\"select 1\"}}"), "wrong_type", "steps[0].on"},
    {STEPS(STEP("") ",{\"on\":\"nobody\",\"do\":{\"sql\":\"select 1\"}}"), "unknown_participant", "steps[1].on"},
    {STEPS("{\"on\":\"bad name\",\"do\":{\"sql\":\"select 1\"}}"), "unknown_participant", "steps[0].on"},
    {STEPS(STEP(
         "") ",{\"on\":\"balance\",\"do\":{\"sql\":\"select 1\"}},{\"on\":\"coupons\",\"do\":{\"sql\":\"select 1\"}}"),
     "too_large", "steps[2].on"},
    {STEPS(STEP(",\"name\":\"\"")), "invalid_value", "steps[0].name"},
    {STEPS(STEP(",\"name\":\"a b\"")), "invalid_value", "steps[0].name"},
    {STEPS(STEP(",\"name\":1")), "wrong_type", "steps[0].name"},
    {STEPS(STEP(",\"name\":\"a\"") "," STEP(",\"name\":\"a\"")), "invalid_value", "steps[1].name"},
    {STEPS(STEP(",\"kind\":\"final\"")), "invalid_value", "steps[0].kind"},
    {STEPS(STEP(",\"kind\":1")), "wrong_type", "steps[0].kind"},
    {STEPS(STEP(",\"after\":0")), "invalid_value", "steps[0].after"},
    {STEPS(STEP(",\"name\":\"a\",\"after\":\"a\"")), "invalid_value", "steps[0].after"},
    {STEPS(STEP("") "," STEP(",\"after\":-1")), "invalid_value", "steps[1].after"},
    {STEPS(STEP("") "," STEP(",\"after\":[true]")), "wrong_type", "steps[1].after"},
    {STEPS(STEP("") "," STEP(",\"after\":[[0]]")), "wrong_type", "steps[1].after"},
    /* an action */
    {DO("1"), "wrong_type", "steps[0].do"},
    {DO("{}"), "missing_field", "steps[0].do.sql"},
    {DO("{\"sql\":1}"), "wrong_type", "steps[0].do.sql"},
    {DO("{\"sql\":\"\"}"), "statement_not_allowed", "steps[0].do.sql"},
    {DO("{\"sql\":\"commit\"}"), "statement_not_allowed", "steps[0].do.sql"},
    {DO("{\"sql\":\"/* x */ ROLLBACK\"}"), "statement_not_allowed", "steps[0].do.sql"},
    {DO("{\"sql\":\"copy t from stdin\"}"), "statement_not_allowed", "steps[0].do.sql"},
    {DO("{\"sql\":\"select 1\",\"wait\":1}"), "unknown_field", "steps[0].do.wait"},
    {DO("{\"sql\":\"select 1\",\"args\":{}}"), "wrong_type", "steps[0].do.args"},
    {DO("{\"sql\":\"select 1\",\"expect_rows\":\"1\"}"), "wrong_type", "steps[0].do.expect_rows"},
    {DO("{\"sql\":\"select 1\",\"expect_rows\":-1}"), "invalid_value", "steps[0].do.expect_rows"},
    {DO("{\"sql\":\"select 1\",\"expect_rows\":3000000000}"), "invalid_value", "steps[0].do.expect_rows"},
    {STEPS(STEP(",\"undo\":{\"sql\":\"commit\"}")), "statement_not_allowed", "steps[0].undo.sql"},
    {STEPS(STEP(",\"undo\":{\"sql\":\"select 1\",\"args\":[1.5]}")), "wrong_type", "steps[0].undo.args[0]"},
    {STEPS(STEP(",\"undo\":{\"sql\":\"select 1\",\"args\":[{\"ref\":\"a.rows.0.b\"}]}")), "invalid_value",
     "steps[0].undo.args[0]"},
    /* an argument */
    {ARG("1.5"), "wrong_type", "steps[0].do.args[1]"},
    {ARG("1e3"), "wrong_type", "steps[0].do.args[1]"},
    {ARG("30.0"), "wrong_type", "steps[0].do.args[1]"},
    {ARG("9223372036854775808"), "invalid_json", ""},
    {ARG("[1]"), "wrong_type", "steps[0].do.args[1]"},
    {ARG("{}"), "invalid_value", "steps[0].do.args[1]"},
    {ARG("{\"jsno\":1}"), "unknown_field", "steps[0].do.args[1]"},
    {ARG("{\"json\":1,\"ref\":\"a.rows.0.b\"}"), "invalid_value", "steps[0].do.args[1]"},
    {ARG("{\"ref\":1}"), "wrong_type", "steps[0].do.args[1]"},
    {ARG("{\"ref\":\"a.rows.0.b\"}"), "invalid_value", "steps[0].do.args[1]"},
    {ARG("{\"ref\":\"a\"}"), "invalid_value", "steps[0].do.args[1]"},
    {STEPS(STEP(
         ",\"name\":\"a\"") ",{\"on\":\"orders\",\"do\":{\"sql\":\"select $1\",\"args\":[{\"ref\":\"a.rows.x.b\"}]}}"),
     "invalid_value", "steps[1].do.args[0]"},
    {STEPS(STEP(
         ",\"name\":\"a\"") ",{\"on\":\"orders\",\"do\":{\"sql\":\"select $1\",\"args\":[{\"ref\":\"a.rows.0.\"}]}}"),
     "invalid_value", "steps[1].do.args[0]"},
    {STEPS(STEP(
         ",\"name\":\"a\"") ",{\"on\":\"orders\",\"do\":{\"sql\":\"select $1\",\"args\":[{\"ref\":\"a.cols.0.b\"}]}}"),
     "invalid_value", "steps[1].do.args[0]"},
    {STEPS(STEP(",\"name\":\"a\"") ",{\"on\":\"orders\",\"do\":{\"sql\":\"select "
                                   "$1\",\"args\":[{\"ref\":\"a.rows.99999999999.b\"}"
                                   "]}}"),
     "invalid_value", "steps[1].do.args[0]"},
};

static void every_mistake_has_code_and_path(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof mistakes / sizeof mistakes[0]; i++) {
        struct document *document = NULL;
        enum ls_status status = parse(mistakes[i].text, &document);
        if (status == LS_OK) fail_msg("accepted: %s", mistakes[i].text);
        assert_null(document);
        if (strcmp(error.code, mistakes[i].code) != 0 || strcmp(error.path, mistakes[i].path) != 0) {
            fail_msg("%s\n  found    %s at \"%s\": %s\n  expected %s at \"%s\"", mistakes[i].text, error.code,
                     error.path, error.message, mistakes[i].code, mistakes[i].path);
        }
        assert_true(error.message[0] != '\0');
        assert_null(strchr(error.message, '\n'));
    }
}

static void a_number_with_a_fraction_comes_with_advice(void **state) {
    struct document *document;
    (void)state;
    assert_int_equal(parse(ARG("30.10"), &document), LS_ERR_INVALID);
    assert_non_null(strstr(error.message, "send decimals as strings"));
}

/* ------------------------------------------------------------------- sagas */

#define SAGA(steps) "{\"steps\":[" steps "],\"mode\":\"saga\"}" /* the mode is known before it is met */
#define BACK ",\"undo\":{\"sql\":\"select 1\"}"
#define NAMED(name, more) STEP(",\"name\":\"" name "\"" more)
#define KIND(kind) ",\"kind\":\"" kind "\""

static void a_saga_runs_in_order_unless_it_says_after(void **state) {
    struct document *document;
    (void)state;
    assert_int_equal(parse(SAGA(STEP(BACK) "," STEP(BACK) "," STEP("")), &document), LS_OK);
    assert_true(document->saga);
    assert_int_equal(document->specs[0].after_count, 0);
    assert_int_equal(document->specs[2].after_count, 1);
    assert_int_equal(document->specs[2].after[0], 1);
    assert_int_equal(document->saga_steps[0].kind, SAGA_COMPENSATABLE);
    assert_int_equal(document->saga_steps[2].kind, SAGA_RETRIABLE);
    document_free(document);
    assert_int_equal(parse(SAGA(NAMED("a", BACK) "," STEP(BACK) "," STEP(",\"after\":[\"a\",1]")), &document), LS_OK);
    assert_int_equal(document->specs[1].after_count, 0);
    assert_int_equal(document->specs[2].after_count, 2);
    document_free(document);
}

static void a_saga_has_its_own_limits(void **state) {
    struct document *document;
    (void)state;
    assert_int_equal(parse("{\"mode\":\"saga\",\"deadline\":\"48h\",\"steps\":["
                           "{\"on\":\"orders\",\"do\":{\"sql\":\"select 1\"},\"attempts\":3,\"deadline\":\"2s\"}]}",
                           &document),
                     LS_OK);
    assert_int_equal(document->deadline_ms, 48u * 3600000u);
    assert_int_equal(document->saga_steps[0].attempts, 3);
    assert_int_equal(document->saga_steps[0].deadline_ms, 2000);
    document_free(document);
}

static void an_undo_refers_to_its_own_step_and_to_earlier_ones(void **state) {
    struct document *document;
    (void)state;
    assert_int_equal(
        parse(SAGA(NAMED("a", BACK) "," NAMED("b", ",\"undo\":{\"sql\":\"select $1, $2\",\"args\":[{\"ref\":\"b."
                                                   "rows.0.id\"},{\"ref\":\"a.rows_affected\"}]}")),
              &document),
        LS_OK);
    assert_true(document->steps[0].referenced && document->steps[1].referenced);
    assert_true(document->saga_steps[1].undo_refers && !document->saga_steps[0].undo_refers);
    assert_int_equal(document->saga_steps[1].undo.args[0].ref_step, 1);
    document_free(document);
}

static void a_saga_without_a_way_is_refused(void **state) {
    static const struct {
        const char *text, *code, *path;
    } cases[] = {
        {SAGA(STEP("") "," STEP(BACK)), "missing_field", "steps[0].undo"},
        {SAGA(STEP(KIND("compensatable"))), "missing_field", "steps[0].undo"},
        {SAGA(STEP(KIND("retriable")) "," STEP(KIND("pivot"))), "invalid_value", "steps[0].kind"},
        {SAGA(STEP(KIND("pivot")) "," STEP(KIND("pivot"))), "invalid_value", "steps[1].kind"},
        {SAGA(STEP(KIND("pivot")) "," STEP(BACK)), "invalid_value", "steps[1].kind"},
        {SAGA(NAMED("a", BACK) "," STEP(KIND("pivot") ",\"after\":\"a\"") "," STEP(BACK)), "invalid_value",
         "steps[2].after"},
        {SAGA(NAMED("a", BACK) "," NAMED("b",
                                         BACK ",\"after\":[]") "," STEP(",\"after\":\"a\",\"undo\":{\"sql\":\"select "
                                                                        "$1\",\"args\":[{\"ref\":\"b.rows_"
                                                                        "affected\"}]}")),
         "invalid_value", "steps[2].undo.args[0]"},
        {SAGA(STEP(",\"after\":1") "," STEP("")), "invalid_value", "steps[0].after"},
        {SAGA(STEP(",\"attempts\":0")), "invalid_value", "steps[0].attempts"},
        {SAGA(STEP(",\"deadline\":\"0ms\"")), "invalid_value", "steps[0].deadline"},
        {SAGA("{\"call\":{},\"do\":{\"path\":\"/a\"}}"), "wrong_type", "steps[0].call"},
        {SAGA("{\"call\":\"nobody\",\"do\":{\"path\":\"/a\"}}"), "unknown_service", "steps[0].call"},
        {SAGA("{\"call\":\"pay\",\"do\":{\"path\":\"/a/..\"}}"), "invalid_value", "steps[0].do.path"},
        {SAGA("{\"call\":\"pay\",\"do\":{\"path\":\"/a\",\"body\":{\"x\":0.5}}}"), "wrong_type", "steps[0].do.body.x"},
        {SAGA("{\"call\":\"pay\",\"do\":{\"sql\":\"select 1\"}}"), "unknown_field", "steps[0].do.sql"},
        {SAGA("{\"call\":\"pay\",\"name\":\"p\",\"do\":{\"path\":\"/a\"},\"undo\":{\"path\":\"/"
              "b\"}},{\"on\":\"orders\",\"do\":{"
              "\"sql\":\"select 1\"},\"undo\":{\"sql\":\"select $1\",\"args\":[{\"ref\":\"p.result.id\"}]}}"),
         "invalid_value", "steps[1].undo.args[0]"},
        {SAGA("{\"call\":\"pay\",\"name\":\"p\",\"do\":{\"path\":\"/a\"},\"undo\":{\"path\":\"/"
              "b\",\"body\":{\"x\":{\"ref\":\"p.rows.0."
              "id\"}}}}"),
         "invalid_value", "steps[0].undo.body.x"},
        {SAGA("{\"call\":\"pay\",\"name\":\"p\",\"do\":{\"path\":\"/a\"},\"undo\":{\"path\":\"/"
              "b\",\"body\":{\"x\":{\"ref\":\"p.resul\"}}}}"),
         "invalid_value", "steps[0].undo.body.x"},
        {STEPS("{\"call\":\"pay\",\"do\":{\"path\":\"/a\"}}"), "invalid_value", "steps[0].call"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct document *document = NULL;
        if (parse(cases[i].text, &document) != LS_ERR_INVALID || strcmp(error.code, cases[i].code) != 0 ||
            strcmp(error.path, cases[i].path) != 0) {
            fail_msg("%s: %s at %s: %s", cases[i].text, error.code, error.path, error.message);
        }
    }
}

/* Whatever is cut or flipped: refused or parsed, never a crash (run under ASan), and a path that fits. */
static void mutations_do_not_crash(void **state) {
    static const char good[] = STEPS(
        STEP(",\"name\":\"a\",\"undo\":{\"sql\":\"select 1\",\"args\":[{\"json\":{}}]}") ",{\"on\":\"balance\",\"do\":{"
                                                                                         "\"sql\":"
                                                                                         "\"select $1\",\"args\":["
                                                                                         "{\"ref\":\"a.rows.0.id\"},1,"
                                                                                         "null,{\"json\":[1,{}]}]},"
                                                                                         "\"after\":[0]}");
    uint64_t seed = 20260131;
    (void)state;
    for (int round = 0; round < 20000; round++) {
        char text[sizeof good];
        memcpy(text, good, sizeof good);
        size_t length = sizeof good - 1;
        if (round % 3 == 0) length = unit_random(&seed) % length;
        for (int flips = (int)(unit_random(&seed) % 3); flips >= 0; flips--) {
            text[unit_random(&seed) % (sizeof good - 1)] = "{}[]\",:0a1.-\\\x80 "[unit_random(&seed) % 16];
        }
        struct document *document = NULL;
        if (document_parse(text, length, &limits, &document, &error) == LS_OK) document_free(document);
        assert_true(memchr(error.path, '\0', sizeof error.path) != NULL);
    }
}

static void durations(void **state) {
    uint64_t ms = 7;
    (void)state;
    assert_int_equal(document_duration("0ms", &ms), LS_OK);
    assert_int_equal(ms, 0);
    assert_int_equal(document_duration("500ms", &ms), LS_OK);
    assert_int_equal(ms, 500);
    assert_int_equal(document_duration("30s", &ms), LS_OK);
    assert_int_equal(ms, 30000);
    assert_int_equal(document_duration("1h", &ms), LS_OK);
    assert_int_equal(ms, 3600000);
    static const char *const bad[] = {"",
                                      "s",
                                      "30",
                                      "30 s",
                                      "-1s",
                                      "1.5s",
                                      "0x1s",
                                      "1S",
                                      "99999999999999999999s",
                                      "1ss",
                                      "5124095576031h"}; /* the last is half an hour modulo 2^64 ms */
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(document_duration(bad[i], &ms), LS_ERR_INVALID);
    assert_int_equal(ms, 3600000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_design_document_is_understood),
        cmocka_unit_test(values_become_text),
        cmocka_unit_test(options_are_understood),
        cmocka_unit_test(after_and_references_become_waits),
        cmocka_unit_test(a_column_may_have_dots),
        cmocka_unit_test(every_mistake_has_code_and_path),
        cmocka_unit_test(a_number_with_a_fraction_comes_with_advice),
        cmocka_unit_test(a_saga_runs_in_order_unless_it_says_after),
        cmocka_unit_test(a_saga_has_its_own_limits),
        cmocka_unit_test(an_undo_refers_to_its_own_step_and_to_earlier_ones),
        cmocka_unit_test(a_saga_without_a_way_is_refused),
        cmocka_unit_test(mutations_do_not_crash),
        cmocka_unit_test(durations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
