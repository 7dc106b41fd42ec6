/*
 * test_pg_rows.c: rows as JSON. If a decimal or a large integer lost a digit on its way, money would; if a bound were not kept, one SELECT would
 * take the agent's memory.
 */
#include "tests/unit/unit.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "participant/pg/rows.h"

enum { BOOL = 16, BYTEA = 17, INT8 = 20, INT2 = 21, INT4 = 23, TEXT = 25, JSON = 114, FLOAT8 = 701, NUMERIC = 1700 };

struct column {
    const char *name;
    Oid type;
    const char *value; /* NULL: SQL null */
};

static PGresult *make(const struct column *columns, int count)
{
    PGresAttDesc attributes[8];
    PGresult *result = PQmakeEmptyPGresult(NULL, PGRES_TUPLES_OK);
    memset(attributes, 0, sizeof(attributes));
    for (int i = 0; i < count; i++) {
        attributes[i].name = (char *)columns[i].name;
        attributes[i].typid = columns[i].type;
    }
    assert_true(PQsetResultAttrs(result, count, attributes));
    for (int i = 0; i < count; i++) {
        const char *value = columns[i].value;
        assert_true(PQsetvalue(result, 0, i, (char *)value, value != NULL ? (int)strlen(value) : -1));
    }
    return result;
}

static struct rows_budget wide(void)
{
    return (struct rows_budget){.rows_max = 1000, .bytes_max = 1 << 20};
}

static void values(void **state)
{
    (void)state;
    const struct column columns[] = {{"i", INT8, "-9223372036854775808"}, {"b", BOOL, "t"},      {"n", TEXT, NULL},
                                     {"d", NUMERIC, "30.10"},             {"f", FLOAT8, "1e+300"}, {"j", JSON, "{\"a\": 1.10}"},
                                     {"t", TEXT, "q\"\\\n\t\x01é"},       {"x", BYTEA, "\\x00ff"}};
    struct rows_budget budget = wide();
    struct rows_text text = {0};
    PGresult *result = make(columns, 8);
    rows_add(&text, &budget, result, 0);
    assert_string_equal(rows_close(&text), "[{\"i\":-9223372036854775808,\"b\":true,\"n\":null,\"d\":\"30.10\",\"f\":\"1e+300\","
                                           "\"j\":\"{\\\"a\\\": 1.10}\",\"t\":\"q\\\"\\\\\\n\\t\\u0001é\",\"x\":\"\\\\x00ff\"}]");
    json_error_t error;
    json_t *json = json_loads(text.data, JSON_REJECT_DUPLICATES, &error);
    assert_non_null(json);
    assert_string_equal(json_string_value(json_object_get(json_array_get(json, 0), "t")), "q\"\\\n\t\x01é");
    json_decref(json);
    rows_free(&text);
    PQclear(result);
}

static void names_that_repeat(void **state)
{
    (void)state;
    const struct column columns[] = {{"a", INT4, "1"}, {"a_2", INT4, "2"}, {"a", INT4, "3"}, {"?column?", INT4, "4"}, {"a", INT4, "5"}, {"q\"", INT4, "6"}};
    struct rows_budget budget = wide();
    struct rows_text text = {0};
    PGresult *result = make(columns, 6);
    rows_add(&text, &budget, result, 0);
    json_error_t error;
    json_t *json = json_loads(rows_close(&text), JSON_REJECT_DUPLICATES, &error);
    assert_non_null(json);
    assert_int_equal(json_object_size(json_array_get(json, 0)), 6);
    assert_int_equal(json_integer_value(json_object_get(json_array_get(json, 0), "a")), 1);
    assert_int_equal(json_integer_value(json_object_get(json_array_get(json, 0), "a_2")), 2);
    assert_int_equal(json_integer_value(json_object_get(json_array_get(json, 0), "a_3")), 3);
    assert_int_equal(json_integer_value(json_object_get(json_array_get(json, 0), "a_4")), 5);
    json_decref(json);
    rows_free(&text);
    PQclear(result);
}

/* PostgreSQL as it is shipped cuts names at 63 bytes; a server may have been built otherwise. */
static void long_names_that_repeat(void **state)
{
    (void)state;
    char name[201];
    memset(name, 'n', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    const struct column columns[] = {{name, INT4, "1"}, {name, INT4, "2"}, {name, INT4, "3"}};
    struct rows_budget budget = wide();
    struct rows_text text = {0};
    PGresult *result = make(columns, 3);
    rows_add(&text, &budget, result, 0);
    json_error_t error;
    json_t *json = json_loads(rows_close(&text), JSON_REJECT_DUPLICATES, &error);
    assert_non_null(json);
    assert_int_equal(json_object_size(json_array_get(json, 0)), 3);
    json_decref(json);
    rows_free(&text);
    PQclear(result);
}

static void none(void **state)
{
    (void)state;
    const struct column columns[] = {{"a", INT4, "1"}};
    struct rows_budget budget = wide();
    struct rows_text text = {0};
    assert_null(rows_close(&text)); /* an UPDATE */
    PGresult *result = make(columns, 1);
    rows_add(&text, &budget, result, -1);
    assert_string_equal(rows_close(&text), "[]"); /* a SELECT that found nothing */
    rows_free(&text);
    PQclear(result);
}

static void bounds(void **state)
{
    (void)state;
    const struct column columns[] = {{"a", TEXT, "0123456789"}};
    PGresult *result = make(columns, 1);
    /* rows */
    struct rows_budget budget = {.rows_max = 2, .bytes_max = 1000};
    struct rows_text text = {0};
    rows_add(&text, &budget, result, 0);
    rows_add(&text, &budget, result, 0);
    assert_false(budget.exceeded);
    rows_add(&text, &budget, result, 0);
    assert_true(budget.exceeded);
    assert_int_equal(text.rows, 2);
    rows_free(&text);
    /* no row at all */
    budget = (struct rows_budget){.rows_max = 0, .bytes_max = 1000};
    rows_add(&text, &budget, result, -1);
    assert_false(budget.exceeded);
    rows_add(&text, &budget, result, 0);
    assert_true(budget.exceeded);
    rows_free(&text);
    /* bytes: what is kept never passes the bound by more than one row */
    for (uint32_t max = 0; max < 100; max++) {
        budget = (struct rows_budget){.rows_max = 1000, .bytes_max = max};
        for (int i = 0; i < 10; i++)
            rows_add(&text, &budget, result, 0);
        assert_true(budget.exceeded);
        assert_true(text.length <= max + 24);
        rows_free(&text);
    }
    PQclear(result);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(values), cmocka_unit_test(names_that_repeat), cmocka_unit_test(long_names_that_repeat),
                                       cmocka_unit_test(none),
                                       cmocka_unit_test(bounds)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
