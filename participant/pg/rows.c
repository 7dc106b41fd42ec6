/*
 * rows.c: see rows.h. The text is built by hand because it is built for every row of every statement, from values that should be UTF-8: a statement may
 * have changed client_encoding, so each is looked at. Memory stays below bytes_max: a row is measured before it is kept.
 */
#include "participant/pg/rows.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/text.h"

/* Type oids are fixed for ever (catalog/pg_type.dat). */
enum { OID_BOOL = 16, OID_INT8 = 20, OID_INT2 = 21, OID_INT4 = 23, OID_OID = 26 };

static void reserve(struct rows_text *text, size_t more)
{
    if (text->length + more <= text->capacity)
        return;
    size_t capacity = text->capacity != 0 ? text->capacity * 2 : 256;
    while (capacity < text->length + more)
        capacity *= 2;
    char *data = realloc(text->data, capacity);
    if (data == NULL)
        abort(); /* bounded by bytes_max of the branches at work */
    text->data = data;
    text->capacity = capacity;
}

static void put(struct rows_text *text, const char *data, size_t length)
{
    reserve(text, length);
    memcpy(text->data + text->length, data, length);
    text->length += length;
}

void rows_put_string(struct rows_text *text, const char *value, size_t length)
{
    static const char digits[] = "0123456789abcdef";
    reserve(text, length * 6 + 2);
    assert(text->data != NULL);
    char *out = text->data + text->length;
    *out++ = '"';
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)value[i];
        if (c == '"' || c == '\\') {
            *out++ = '\\';
            *out++ = (char)c;
        } else if (c >= 0x20) {
            *out++ = (char)c;
        } else {
            const char *const escape = c == '\n' ? "\\n" : c == '\t' ? "\\t" : c == '\r' ? "\\r" : NULL;
            if (escape != NULL) {
                memcpy(out, escape, 2);
                out += 2;
            } else {
                const char code[6] = {'\\', 'u', '0', '0', digits[c >> 4], digits[c & 15]};
                memcpy(out, code, sizeof(code));
                out += sizeof(code);
            }
        }
    }
    *out++ = '"';
    text->length = (size_t)(out - text->data);
}

/* Is `name` the own name of one of these columns? */
static bool is_column(const PGresult *result, const char *name, int from, int to)
{
    for (int i = from; i < to; i++)
        if (strcmp(PQfname(result, i), name) == 0)
            return true;
    return false;
}

static bool key_taken(const struct rows_text *text, const char *key, int before)
{
    for (int i = 0; i < before; i++)
        if (strcmp(text->keys[i], key) == 0)
            return true;
    return false;
}

static char *make_key(const char *name)
{
    struct rows_text key = {0};
    rows_put_string(&key, name, strlen(name));
    put(&key, ":", 2); /* with its NUL */
    return key.data;
}

/* The column's own name if it is the first of that name; else with the first number behind it that no other column has. */
static char *column_key(const struct rows_text *text, const PGresult *result, int column)
{
    const char *name = PQfname(result, column);
    if (!is_column(result, name, 0, column))
        return make_key(name);
    size_t size = strlen(name) + sizeof("_4294967295");
    char *numbered = malloc(size);
    if (numbered == NULL)
        abort();
    for (unsigned n = 2;; n++) {
        snprintf(numbered, size, "%s_%u", name, n);
        char *key = make_key(numbered);
        if (!is_column(result, numbered, 0, text->key_count) && !key_taken(text, key, column)) {
            free(numbered);
            return key;
        }
        free(key);
    }
}

static void describe(struct rows_text *text, const PGresult *result)
{
    text->described = true;
    text->key_count = PQnfields(result);
    if (text->key_count == 0)
        return;
    text->keys = calloc((size_t)text->key_count, sizeof(*text->keys));
    if (text->keys == NULL)
        abort();
    for (int i = 0; i < text->key_count; i++)
        text->keys[i] = column_key(text, result, i);
}

static void put_value(struct rows_text *text, const PGresult *result, int row, int column)
{
    const char *value = PQgetvalue(result, row, column);
    if (PQgetisnull(result, row, column)) {
        put(text, "null", 4);
        return;
    }
    switch (PQftype(result, column)) {
    case OID_BOOL:
        if (value[0] == 't')
            put(text, "true", 4);
        else
            put(text, "false", 5);
        return;
    case OID_INT8:
    case OID_INT2:
    case OID_INT4:
    case OID_OID:
        put(text, value, strlen(value));
        return;
    default:
        rows_put_string(text, value, (size_t)PQgetlength(result, row, column));
    }
}

/* An upper bound is too much for a column of control characters, a lower one lets nothing through that is far too large. */
static size_t row_bytes(const PGresult *result, int row)
{
    size_t bytes = 2;
    for (int i = 0; i < PQnfields(result); i++)
        bytes += (size_t)PQgetlength(result, row, i) + strlen(PQfname(result, i)) + 6;
    return bytes;
}

static bool row_is_utf8(const PGresult *result, int row)
{
    for (int i = 0; i < PQnfields(result); i++)
        if (!text_utf8_valid(PQfname(result, i), strlen(PQfname(result, i))) ||
            (row >= 0 && !text_utf8_valid(PQgetvalue(result, row, i), (size_t)PQgetlength(result, row, i))))
            return false;
    return true;
}

void rows_add(struct rows_text *text, struct rows_budget *budget, const PGresult *result, int row)
{
    if (!row_is_utf8(result, row)) {
        budget->garbled = true;
        return;
    }
    if (!text->described)
        describe(text, result);
    if (row < 0 || budget->exceeded)
        return;
    if (budget->rows >= budget->rows_max || budget->bytes + row_bytes(result, row) > budget->bytes_max) {
        budget->exceeded = true;
        return;
    }
    size_t start = text->length;
    put(text, text->rows == 0 ? "[{" : ",{", 2);
    for (int i = 0; i < text->key_count; i++) {
        if (i > 0)
            put(text, ",", 1);
        put(text, text->keys[i], strlen(text->keys[i]));
        put_value(text, result, row, i);
    }
    put(text, "}", 1);
    text->rows++;
    budget->rows++;
    budget->bytes += text->length - start;
    if (budget->bytes > budget->bytes_max)
        budget->exceeded = true;
}

const char *rows_close(struct rows_text *text)
{
    if (!text->described)
        return NULL;
    if (text->rows == 0)
        put(text, "[", 1);
    put(text, "]", 2); /* with its NUL */
    return text->data;
}

void rows_copy(struct rows_text *text, const char *json)
{
    put(text, json, strlen(json) + 1);
}

void rows_free(struct rows_text *text)
{
    for (int i = 0; i < text->key_count && text->keys != NULL; i++)
        free(text->keys[i]);
    free(text->keys);
    free(text->data);
    memset(text, 0, sizeof(*text));
}
