/*
 * table.c: see table.h.
 */
#include "client/table.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct table {
    size_t columns, rows, capacity;
    const char *headings[TABLE_COLUMNS_MAX];
    size_t widths[TABLE_COLUMNS_MAX];
    char **cells; /* rows * columns, heap */
};

static void *must(void *memory) {
    if (memory != NULL) return memory;
    (void)fputs("lockstep: out of memory\n", stderr);
    exit(EXIT_FAILURE);
}

/* Characters, not bytes: UTF-8 continuation bytes do not count. */
static size_t width(const char *text) {
    size_t count = 0;

    for (; *text != '\0'; text++)
        if (((unsigned char)*text & 0xC0) != 0x80) count++;
    return count;
}

struct table *cmd_table_new(const char *const *headings) {
    struct table *table = must(calloc(1, sizeof *table));

    for (; headings[table->columns] != NULL; table->columns++) {
        assert(table->columns < TABLE_COLUMNS_MAX);
        table->headings[table->columns] = headings[table->columns];
        table->widths[table->columns] = width(headings[table->columns] + (headings[table->columns][0] == '>'));
    }
    return table;
}

void cmd_table_free(struct table *table) {
    if (table == NULL) return;
    for (size_t i = 0; i < table->rows * table->columns; i++) free(table->cells[i]);
    free(table->cells);
    free(table);
}

void cmd_table_add(struct table *table, const char *const *cells) {
    if (table->rows == table->capacity) {
        table->capacity = table->capacity > 0 ? table->capacity * 2 : 16;
        table->cells = must(realloc(table->cells, table->capacity * table->columns * sizeof(char *)));
    }
    for (size_t i = 0; i < table->columns; i++) {
        char *copy = must(strdup(cells[i] != NULL ? cells[i] : ""));
        for (char *c = copy; *c != '\0'; c++)
            if ((unsigned char)*c < ' ' || *c == 0x7f) *c = '?';
        table->cells[table->rows * table->columns + i] = copy;
        if (width(copy) > table->widths[i]) table->widths[i] = width(copy);
    }
    table->rows++;
}

static void print_cell(const struct table *table, size_t column, const char *text, FILE *out) {
    size_t blanks = table->widths[column] - width(text);
    bool right = table->headings[column][0] == '>', last = column + 1 == table->columns;

    if (right) (void)fprintf(out, "%*s", (int)blanks, "");
    (void)fputs(text, out);
    if (!right && !last) (void)fprintf(out, "%*s", (int)blanks, "");
    (void)fputs(last ? "\n" : "  ", out);
}

void cmd_table_print(const struct table *table, FILE *out) {
    for (size_t i = 0; i < table->columns; i++)
        print_cell(table, i, table->headings[i] + (table->headings[i][0] == '>'), out);
    for (size_t i = 0; i < table->rows * table->columns; i++)
        print_cell(table, i % table->columns, table->cells[i], out);
}
