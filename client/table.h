/*
 * table.h: rows for eyes: a heading, columns as wide as their widest cell, two blanks between. Numbers stand to the
 * right.
 *
 * Cells are UTF-8 and printed as they are, except that control characters become '?': what a database says must not
 * drive the terminal.
 */
#ifndef CLIENT_TABLE_H
#define CLIENT_TABLE_H

#include <stdio.h>

#define TABLE_COLUMNS_MAX 12

struct table;

/* `headings` ends with NULL; one that begins with '>' makes a column of numbers. Stops the program when memory is
 * short. */
struct table *cmd_table_new(const char *const *headings);
void cmd_table_free(struct table *table);
/* Cells are copied, as many as there are columns; NULL counts as "". */
void cmd_table_add(struct table *table, const char *const *cells);
/* Prints heading and rows; nothing but the heading when there are no rows. */
void cmd_table_print(const struct table *table, FILE *out);

#endif
