/*
 * test_api_pure.c: the parts of the HTTP interface that need no socket: routes, parameters, JSON out. A wrong route
 * would let one method do another's work; a wrong escape would let a database's text break out of its string.
 */
#include "tests/unit/unit.h"

#include <jansson.h>

#include "coordinator/api/out.h"
#include "coordinator/api/route.h"

static void routes(void **state) {
    static const struct {
        const char *method, *path;
        enum route route;
        const char *allow, *gtid;
    } cases[] = {
        {"POST", "/v1/run", ROUTE_RUN, NULL, ""},
        {"GET", "/v1/run", ROUTE_BAD_METHOD, "POST", ""},
        {"GET", "/v1/tx", ROUTE_TX_LIST, NULL, ""},
        {"POST", "/v1/tx", ROUTE_LATER, NULL, ""},
        {"PUT", "/v1/tx", ROUTE_BAD_METHOD, "GET", ""},
        {"GET", "/v1/tx/shop.0a1b2c3d4e5f.3.17-2", ROUTE_TX_GET, NULL, "shop.0a1b2c3d4e5f.3.17-2"},
        {"DELETE", "/v1/tx/x", ROUTE_BAD_METHOD, "GET", "x"},
        {"POST", "/v1/tx/x/abort", ROUTE_TX_ABORT, NULL, "x"},
        {"GET", "/v1/tx/x/abort", ROUTE_BAD_METHOD, "POST", "x"},
        {"POST", "/v1/tx/x/commit", ROUTE_LATER, NULL, "x"},
        {"POST", "/v1/tx/x/resolve", ROUTE_LATER, NULL, "x"},
        {"GET", "/v1/tx/x/y", ROUTE_NONE, NULL, ""},
        {"GET", "/v1/tx/", ROUTE_NONE, NULL, ""},
        {"GET", "/v1/tx//abort", ROUTE_NONE, NULL, ""},
        {"GET", "/v1/participants", ROUTE_PARTICIPANTS, NULL, ""},
        {"GET", "/livez", ROUTE_LIVEZ, NULL, ""},
        {"HEAD", "/livez", ROUTE_BAD_METHOD, "GET", ""},
        {"GET", "/livez/", ROUTE_NONE, NULL, ""},
        {"GET", "/readyz", ROUTE_READYZ, NULL, ""},
        {"GET", "/metrics", ROUTE_METRICS, NULL, ""},
        {"GET", "/v1/sagas", ROUTE_SAGA_LIST, NULL, ""},
        {"GET", "/v1/sagas/7", ROUTE_SAGA_GET, NULL, "7"},
        {"POST", "/v1/sagas/7/cancel", ROUTE_SAGA_CANCEL, NULL, "7"},
        {"GET", "/v1/dlq", ROUTE_DLQ_LIST, NULL, ""},
        {"GET", "/v1/dlq/7", ROUTE_NONE, NULL, ""},
        {"POST", "/v1/dlq/7/retry", ROUTE_DLQ_RETRY, NULL, "7"},
        {"POST", "/v1/dlq/7/skip", ROUTE_DLQ_SKIP, NULL, "7"},
        {"POST", "/v1/dlq/7/compensate", ROUTE_DLQ_COMPENSATE, NULL, "7"},
        {"POST", "/v1/dlq/7/refuse", ROUTE_DLQ_REFUSE, NULL, "7"},
        {"GET", "/v1/dlq/7/skip", ROUTE_BAD_METHOD, "POST", "7"},
        {"GET", "/v1/events", ROUTE_EVENTS, NULL, ""},
        {"GET", "/v1/flows/7", ROUTE_FLOW, NULL, "7"},
        {"GET", "/v1/flows", ROUTE_FLOWS, NULL, ""},
        {"GET", "/v1/dlq/events", ROUTE_EVENT_LETTERS, NULL, ""},
        {"POST", "/v1/dlq/events", ROUTE_BAD_METHOD, "GET", ""},
        {"POST", "/v1/dlq/events/retry", ROUTE_EVENT_RETRY, NULL, ""},
        {"POST", "/v1/dlq/events/skip", ROUTE_EVENT_SKIP, NULL, ""},
        {"POST", "/v1/dlq/events/compensate", ROUTE_EVENT_COMPENSATE, NULL, ""},
        {"GET", "/", ROUTE_NONE, NULL, ""},
        {"GET", "", ROUTE_NONE, NULL, ""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct route_match match;
        route_find(cases[i].method, cases[i].path, &match);
        if (match.route != cases[i].route) fail_msg("%s %s: %d", cases[i].method, cases[i].path, (int)match.route);
        if (match.route == ROUTE_BAD_METHOD) assert_string_equal(match.allow, cases[i].allow);
        assert_string_equal(match.gtid, cases[i].gtid);
    }
}

/* A name too long to be a gtid is cut to one that is too long, so that it cannot be taken for another. */
static void a_long_name_stays_too_long(void **state) {
    char path[400] = "/v1/tx/";
    struct route_match match;
    struct ls_gtid gtid;
    (void)state;
    memset(path + 7, 'a', 300);
    route_find("GET", path, &match);
    assert_int_equal(match.route, ROUTE_TX_GET);
    assert_int_equal(strlen(match.gtid), LS_GTID_MAX + 1);
    assert_int_not_equal(ls_gtid_parse(match.gtid, &gtid), LS_OK);
}

static void parameters(void **state) {
    enum route_wait wait = ROUTE_WAIT_APPLIED;
    uint32_t value = 7;
    (void)state;
    assert_int_equal(route_parse_wait("decided", &wait), LS_OK);
    assert_int_equal(wait, ROUTE_WAIT_DECIDED);
    assert_int_equal(route_parse_wait("applied", &wait), LS_OK);
    assert_int_equal(wait, ROUTE_WAIT_APPLIED);
    assert_int_equal(route_parse_wait("Decided", &wait), LS_ERR_INVALID);
    assert_int_equal(route_parse_wait("", &wait), LS_ERR_INVALID);
    static const char *const bad[] = {"", "-1", "+1", "1 ", " 1", "0x1", "1.0", "99999999999", "11", "0"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(route_parse_u32(bad[i], 1, 10, &value), LS_ERR_INVALID);
    assert_int_equal(value, 7);
    assert_int_equal(route_parse_u32("10", 1, 10, &value), LS_OK);
    assert_int_equal(value, 10);
    assert_true(route_is_json("application/json"));
    assert_true(route_is_json("Application/JSON; charset=utf-8"));
    assert_false(route_is_json("application/jsonp"));
    assert_false(route_is_json("text/json"));
    assert_false(route_is_json(""));
    char key[LS_KEY_MAX + 2];
    memset(key, 'k', sizeof key - 1);
    key[sizeof key - 1] = '\0';
    assert_false(route_key_valid(key));
    key[LS_KEY_MAX] = '\0';
    assert_true(route_key_valid(key));
    assert_false(route_key_valid(""));
    assert_false(route_key_valid("a\tb"));
    assert_false(route_key_valid("\xc3\xa4"));
    assert_true(route_key_valid("order 17 ~!"));
}

static json_t *parse(const struct out *out) {
    json_error_t error;
    json_t *root = json_loadb(out->data, out->length, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
    if (root == NULL) fail_msg("%s: %.*s", error.text, (int)out->length, out->data);
    return root;
}

static void commas_and_brackets(void **state) {
    struct out out = {0};
    (void)state;
    out_open(&out, NULL, '{');
    out_string(&out, "a", "x");
    out_open(&out, "list", '[');
    out_close(&out, ']');
    out_open(&out, "more", '[');
    out_u64(&out, NULL, UINT64_MAX / 2);
    out_open(&out, NULL, '{');
    out_bool(&out, "t", true);
    out_bool(&out, "f", false);
    out_close(&out, '}');
    out_string(&out, NULL, NULL);
    out_close(&out, ']');
    out_json(&out, "raw", "[1,2]", 5);
    out_close(&out, '}');
    static const char wanted[] =
        "{\"a\":\"x\",\"list\":[],\"more\":[9223372036854775807,{\"t\":true,\"f\":false},null],\"raw\":[1,2]}";
    assert_int_equal(out.length, sizeof wanted - 1);
    assert_memory_equal(out.data, wanted, sizeof wanted - 1);
    json_decref(parse(&out));
    out_reset(&out);
    out_open(&out, NULL, '{');
    out_close(&out, '}');
    assert_int_equal(out.length, 2);
    out_free(&out);
}

/* Every byte value, alone and in company, comes back as it was, or as '?' where it is no UTF-8. */
static void strings_come_back(void **state) {
    struct out out = {0};
    (void)state;
    for (int byte = 1; byte < 256; byte++) {
        char text[4] = {'a', (char)byte, '"', 0};
        out_reset(&out);
        out_open(&out, NULL, '[');
        out_string(&out, NULL, text);
        out_close(&out, ']');
        json_t *root = parse(&out);
        const char *back = json_string_value(json_array_get(root, 0));
        if (byte < 0x80) {
            assert_string_equal(back, text);
        } else {
            assert_string_equal(back, "a?\"");
        }
        json_decref(root);
    }
    out_reset(&out);
    out_open(&out, NULL, '[');
    out_string(&out, NULL, "h\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\\\n\r\t\b");
    out_close(&out, ']');
    json_t *root = parse(&out);
    assert_string_equal(json_string_value(json_array_get(root, 0)), "h\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\\\n\r\t\b");
    json_decref(root);
    out_free(&out);
}

static void it_grows(void **state) {
    struct out out = {0};
    (void)state;
    out_open(&out, NULL, '[');
    for (int i = 0; i < 20000; i++) out_u64(&out, NULL, (uint64_t)i);
    out_close(&out, ']');
    assert_false(out.failed);
    json_t *root = parse(&out);
    assert_int_equal(json_array_size(root), 20000);
    assert_int_equal(json_integer_value(json_array_get(root, 19999)), 19999);
    json_decref(root);
    out_free(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(routes),
        cmocka_unit_test(a_long_name_stays_too_long),
        cmocka_unit_test(parameters),
        cmocka_unit_test(commas_and_brackets),
        cmocka_unit_test(strings_come_back),
        cmocka_unit_test(it_grows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
