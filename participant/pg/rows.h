/*
 * rows.h: rows as JSON text. Integers up to int64 and booleans as JSON, null as null, everything else as a string in PostgreSQL's own text: decimals,
 * times and json lose nothing that way. Column names that occur twice get "_2", "_3" ... behind them.
 */
#ifndef LOCKSTEP_PG_ROWS_H
#define LOCKSTEP_PG_ROWS_H

#include <libpq-fe.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What one run may still return; shared by its statements. */
struct rows_budget {
    uint32_t rows_max, bytes_max;
    uint32_t rows;
    size_t bytes;
    bool exceeded;
    bool garbled; /* something was not UTF-8, and not kept */
};

struct rows_text {
    char *data;      /* "[{...},{...}"; closed by rows_close */
    size_t length, capacity;
    uint32_t rows;
    char **keys;     /* "\"name\":" of each column, made at the first row */
    int key_count;
    bool described;  /* the statement returned rows or could have */
};

/* Adds row `row` of `result` (row -1: only that the statement returns rows). Beyond the budget nothing is kept and `exceeded` is set. */
void rows_add(struct rows_text *text, struct rows_budget *budget, const PGresult *result, int row);
/* The finished array; NULL when the statement returns no rows. The text's until rows_free. */
const char *rows_close(struct rows_text *text);
/* An array that is finished already, as the only content. */
void rows_copy(struct rows_text *text, const char *json);
void rows_free(struct rows_text *text);

/* A JSON string, quotes included, appended to a growing buffer. Exposed for its test. */
void rows_put_string(struct rows_text *text, const char *value, size_t length);

#endif
