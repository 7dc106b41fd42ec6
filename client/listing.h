/*
 * listing.h: lists that the coordinator answers with, as a table or as they are.
 */
#ifndef CLIENT_LISTING_H
#define CLIENT_LISTING_H

#include "client/cmd.h"

struct listing_column {
    const char *heading, *field; /* field of each object; one that ends in _ms is shown as a time */
};

/* Prints the array `name` of the answer; returns the exit status. */
int listing_print(const char *verb, const struct lockstep_result *result, const char *name,
                  const struct listing_column *columns, size_t count, enum cmd_format format);
/* Prints an array of objects as a table. */
void listing_print_rows(const json_t *rows, const struct listing_column *columns, size_t count);

#endif
