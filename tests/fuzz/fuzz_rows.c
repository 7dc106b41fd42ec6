/*
 * fuzz_rows.c: rows of a server as JSON. Input: budget, columns, then values; lengths are single bytes. Whatever the
 * columns are called and hold, the text is JSON with as many rows as it says, no name twice, and no larger than it may
 * be.
 */
#include "tests/fuzz/fuzz.h"

#include <jansson.h>

#include "common/text.h"
#include "participant/pg/rows.h"

enum { COLUMNS_MAX = 6, ROWS_MAX = 5 };

struct input {
    const uint8_t *at;
    size_t left;
};

static unsigned byte(struct input *in) {
    if (in->left == 0) return 0;
    in->left--;
    return *in->at++;
}

static char *string(struct input *in, size_t *ret_length) {
    size_t length = byte(in);
    if (length > in->left) length = in->left;
    char *text = fuzz_text(in->at, length);
    in->at += length;
    in->left -= length;
    *ret_length = length;
    return text;
}

static PGresult *columns(struct input *in, int *ret_count) {
    static const Oid types[] = {16, 20, 21, 23, 25, 25, 114, 1700};
    PGresAttDesc list[COLUMNS_MAX] = {0};
    int count = (int)(byte(in) % (COLUMNS_MAX + 1));
    for (int i = 0; i < count; i++) {
        size_t length;
        list[i].typid = types[byte(in) % 8];
        list[i].name = string(in, &length);
    }
    PGresult *result = PQmakeEmptyPGresult(NULL, PGRES_TUPLES_OK);
    REQUIRE(result != NULL && PQsetResultAttrs(result, count, list));
    for (int i = 0; i < count; i++) free(list[i].name);
    *ret_count = count;
    return result;
}

/* A boolean and an integer look as a server writes them. */
static void value(struct input *in, PGresult *result, int row, int column) {
    char number[16], yes[] = "t", no[] = "f";
    size_t length;
    unsigned kind = byte(in);
    if (kind == 0) {
        REQUIRE(PQsetvalue(result, row, column, NULL, -1));
    } else if (PQftype(result, column) == 16) {
        REQUIRE(PQsetvalue(result, row, column, kind % 2 ? yes : no, 1));
    } else if (PQftype(result, column) <= 23) {
        int written = snprintf(number, sizeof number, "%d", (int)kind - 128);
        REQUIRE(PQsetvalue(result, row, column, number, written));
    } else {
        char *text = string(in, &length);
        REQUIRE(PQsetvalue(result, row, column, text, (int)strlen(text)));
        free(text);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input in = {data, size};
    struct rows_budget budget = {.rows_max = byte(&in) % ROWS_MAX, .bytes_max = byte(&in) * 4};
    struct rows_text text = {0};
    int count;
    PGresult *result = columns(&in, &count);
    int rows = (int)(byte(&in) % (ROWS_MAX + 1));
    for (int row = 0; row < rows && count > 0; row++)
        for (int i = 0; i < count; i++) value(&in, result, row, i);
    rows_add(&text, &budget, result, -1);
    for (int row = 0; row < PQntuples(result); row++) rows_add(&text, &budget, result, row);
    const char *json = rows_close(&text);
    REQUIRE(json != NULL || budget.garbled);
    if (json != NULL) {
        json_error_t error;
        json_t *array = json_loads(json, JSON_REJECT_DUPLICATES, &error);
        REQUIRE(array != NULL && json_array_size(array) == text.rows);
        REQUIRE(text.rows <= budget.rows_max && (budget.exceeded || budget.bytes <= budget.bytes_max));
        REQUIRE(text_utf8_valid(json, strlen(json)));
        json_decref(array);
    }
    rows_free(&text);
    PQclear(result);
    return 0;
}
