/*
 * document.h: a work as the document of POST /v1/run.
 */
#ifndef BENCH_DOCUMENT_H
#define BENCH_DOCUMENT_H

#include <stdbool.h>
#include <stddef.h>

#include "bench/work.h"

/* `mode`: "2pc" or "saga"; `undo`: with what takes it back; `in_order`: each
 * step after the one before it. `participants`: their names, by database. `head`: more
 * members of the document, each followed by a comma; `more`: more steps, each preceded by one. Values are numbers and
 * words that need no escaping. Returns the length, 0 when `size` is too small. */
size_t document_write(char *out, size_t size, const char *mode, bool undo, bool in_order, const struct work *work,
                      const char *const *participants, const char *head, const char *more);

#endif
