/*
 * listing.c: see listing.h.
 */
#include "client/listing.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "client/table.h"

#define CELL_MAX 512

/* "950ms", "12.3s", "4min", "7h", "3d". */
static void time_text(json_int_t ms, char *text, size_t size) {
    if (ms < 1000)
        (void)snprintf(text, size, "%lldms", (long long)ms);
    else if (ms < 120000)
        (void)snprintf(text, size, "%lld.%llds", (long long)(ms / 1000), (long long)(ms % 1000 / 100));
    else if (ms < 7200000)
        (void)snprintf(text, size, "%lldmin", (long long)(ms / 60000));
    else if (ms < 172800000)
        (void)snprintf(text, size, "%lldh", (long long)(ms / 3600000));
    else
        (void)snprintf(text, size, "%lldd", (long long)(ms / 86400000));
}

static bool ends_in_ms(const char *field) {
    size_t length = strlen(field);

    return length > 3 && strcmp(field + length - 3, "_ms") == 0;
}

/* A list of names or numbers becomes "a, b". */
static void array_text(const json_t *array, char *text, size_t size) {
    size_t index, used = 0;
    const json_t *entry;

    text[0] = '\0';
    json_array_foreach(array, index, entry) {
        const char *name =
            json_is_object(entry) ? json_string_value(json_object_get(entry, "participant")) : json_string_value(entry);
        if (used >= size) break;
        if (json_is_integer(entry))
            used += (size_t)snprintf(text + used, size - used, "%s%lld", used > 0 ? ", " : "",
                                     (long long)json_integer_value(entry));
        if (name == NULL || used >= size) continue;
        used += (size_t)snprintf(text + used, size - used, "%s%s", used > 0 ? ", " : "", name);
    }
}

static void cell_text(const json_t *value, const char *field, char text[CELL_MAX]) {
    text[0] = '\0';
    if (json_is_string(value))
        (void)snprintf(text, CELL_MAX, "%s", json_string_value(value));
    else if (json_is_integer(value) && ends_in_ms(field))
        time_text(json_integer_value(value), text, CELL_MAX);
    else if (json_is_integer(value))
        (void)snprintf(text, CELL_MAX, "%lld", (long long)json_integer_value(value));
    else if (json_is_real(value))
        (void)snprintf(text, CELL_MAX, "%g", json_real_value(value));
    else if (json_is_boolean(value))
        (void)snprintf(text, CELL_MAX, "%s", json_is_true(value) ? "yes" : "no");
    else if (json_is_array(value))
        array_text(value, text, CELL_MAX);
}

void listing_print_rows(const json_t *rows, const struct listing_column *columns, size_t count) {
    const char *headings[TABLE_COLUMNS_MAX + 1] = {NULL}, *cells[TABLE_COLUMNS_MAX];
    char texts[TABLE_COLUMNS_MAX][CELL_MAX];
    const json_t *row;
    size_t index;

    assert(count <= TABLE_COLUMNS_MAX);
    for (size_t i = 0; i < count; i++) headings[i] = columns[i].heading, cells[i] = texts[i];
    struct table *table = cmd_table_new(headings);
    json_array_foreach(rows, index, row) {
        for (size_t i = 0; i < count; i++)
            cell_text(json_object_get(row, columns[i].field), columns[i].field, texts[i]);
        cmd_table_add(table, cells);
    }
    cmd_table_print(table, stdout);
    cmd_table_free(table);
}

int listing_print(const char *verb, const struct lockstep_result *result, const char *name,
                  const struct listing_column *columns, size_t count, enum cmd_format format) {
    json_t *body = cmd_body(result);
    const json_t *rows = json_object_get(body, name);
    int exit_status = LS_EXIT_OK;

    if (!json_is_array(rows))
        exit_status = cmd_fail(verb, LS_EXIT_ERROR, "the answer has no list `%s`", name);
    else if (format == CMD_JSON)
        cmd_print_json(body);
    else
        listing_print_rows(rows, columns, count);
    json_decref(body);
    return exit_status;
}
