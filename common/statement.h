/*
 * statement.h: may this SQL stand in a transaction? Looks at the first word (after white space, comments and
 * parentheses): SELECT, INSERT, UPDATE, DELETE, MERGE, WITH, VALUES, CALL, ... may; transaction control, SET ROLE,
 * RESET, DISCARD, COPY, LISTEN may not. The list is in statement.c and nowhere else; coordinator (400) and agent (NO)
 * both ask here. Pure.
 */
#ifndef LOCKSTEP_STATEMENT_H
#define LOCKSTEP_STATEMENT_H

#include <stdbool.h>
#include <stddef.h>

#include "lockstep/status.h"

enum ls_status statement_check(const char *sql, size_t length, struct ls_error *err) LS_MUST_CHECK;
/* Of one that may: does it begin with INSERT, UPDATE, DELETE or MERGE? It then holds a lock above AccessShare, whatever rows it finds. */
bool statement_changes_rows(const char *sql, size_t length);

#endif
