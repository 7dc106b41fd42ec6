/*
 * functions.h: may this SQL run for an application that is confined to named functions? Pure.
 *
 * The whole statement must be one call whose arguments are parameters:
 *     select pay.reserve($1, $2)      select * from pay.reserve($1)      call pay.cancel($1)
 * with a name from the list, written as it is there (case does not matter, quotes are not known). Anything else is refused: an expression could
 * call what is not in the list.
 */
#ifndef LOCKSTEP_FUNCTIONS_H
#define LOCKSTEP_FUNCTIONS_H

#include <stdbool.h>

/* `allowed`: comma-separated names. */
bool functions_allowed(const char *sql, const char *allowed);
/* Is the list itself well formed: names of letters, digits, '_', '$' and one '.' at most, separated by commas? */
bool functions_list_valid(const char *allowed);

#endif
