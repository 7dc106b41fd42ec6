/*
 * diag.h: the daemons' log lines. Libraries and pure cores do not log; they return, and the daemon layer says it once.
 *
 * Text form:  2026-01-31T12:00:00.123Z INFO  txn committed gtid=shop.0a1b2c3d4e5f.3.17 branches=2
 * JSON form:  {"time":"...","level":"info","program":"lockstepd","message":"txn committed","gtid":"...","branches":2}
 * One write(2) per line; a line is cut at DIAG_LINE_MAX.
 * SQL text, arguments, keys, passwords and connection strings are never written.
 */
#ifndef LOCKSTEP_DIAG_H
#define LOCKSTEP_DIAG_H

#include <stdbool.h>

#include "lockstep/status.h"

#define DIAG_LINE_MAX 4096

enum diag_level { DIAG_DEBUG, DIAG_INFO, DIAG_WARN, DIAG_ERROR };
enum diag_format { DIAG_TEXT, DIAG_JSON };

/* To stderr. Returns false for an unknown word. */
bool diag_parse_level(const char *word, enum diag_level *ret_level);
bool diag_parse_format(const char *word, enum diag_format *ret_format);
void diag_setup(const char *program, enum diag_level level, enum diag_format format);
bool diag_enabled(enum diag_level level);

/*
 * One line: a constant message, then key and value pairs ending with NULL. A value comes as a string:
 *     diag(DIAG_INFO, "agent joined", "participant", name, "server", version, NULL);
 * Numbers go through diag_u64() (a small ring of buffers, good for the one call).
 */
void diag(enum diag_level level, const char *message, ...) __attribute__((sentinel));
const char *diag_u64(unsigned long long value);
/* strerror of a saved errno, from a ring of its own. */
const char *diag_errno(int error);
/* Logs at ERROR and ends the process at once (no atexit handlers). */
void diag_fatal(int exit_status, const char *message, ...) __attribute__((sentinel, noreturn));

#endif
