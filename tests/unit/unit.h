/*
 * unit.h: what every unit test includes first: cmocka with the headers it wants before it.
 */
#ifndef LOCKSTEP_TESTS_UNIT_H
#define LOCKSTEP_TESTS_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* after those */
#include <cmocka.h>

#include "lockstep/status.h"

/* The call fails with this status and this text. */
#define assert_fails(call, wanted_status, wanted_text) \
    do {                                               \
        err.text[0] = '\0';                            \
        assert_int_equal((call), (wanted_status));     \
        assert_string_equal(err.text, (wanted_text));  \
        assert_int_equal(err.status, (wanted_status)); \
    } while (0)
/* The call succeeds; its text is printed if not. */
#define assert_ok(call)                                                                   \
    do {                                                                                  \
        err.text[0] = '\0';                                                               \
        enum ls_status got_ = (call);                                                     \
        if (got_ != LS_OK) fail_msg("%s: %s: %s", #call, ls_status_name(got_), err.text); \
    } while (0)

/* Deterministic random numbers for mutation tests (xorshift64*); the seed is printed by whoever fails. */
static inline uint64_t unit_random(uint64_t *state) {
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * 2685821657736338717ull;
}

#endif
