/*
 * fuzz.h: what every fuzz target includes first. A target is one file fuzz_<name>.c with LLVMFuzzerTestOneInput(); what
 * must hold for every input is said with REQUIRE, and a crash is a finding.
 */
#ifndef LOCKSTEP_TESTS_FUZZ_H
#define LOCKSTEP_TESTS_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lockstep/status.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define REQUIRE(condition)                                                                       \
    do {                                                                                         \
        if (!(condition)) {                                                                      \
            (void)fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                             \
        }                                                                                        \
    } while (0)

/* A copy of exactly that size with a NUL behind it, so that the sanitizer sees each byte read too far. */
static inline char *fuzz_text(const uint8_t *data, size_t size) {
    char *text = malloc(size + 1);
    REQUIRE(text != NULL);
    if (size > 0) memcpy(text, data, size);
    text[size] = '\0';
    return text;
}

/* Cuts the next line off: what stands before the next '\n', or everything. */
static inline char *fuzz_line(const uint8_t **data, size_t *size) {
    const uint8_t *end = *size > 0 ? memchr(*data, '\n', *size) : NULL;
    size_t length = end != NULL ? (size_t)(end - *data) : *size;
    char *line = fuzz_text(*data, length);
    size_t used = end != NULL ? length + 1 : length;
    *data += used;
    *size -= used;
    return line;
}

/* Every refusal says why, in one line. */
static inline void fuzz_refused(enum ls_status status, const struct ls_error *err) {
    REQUIRE(status != LS_OK && err->status == status && err->text[0] != '\0');
}

#endif
