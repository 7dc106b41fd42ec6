/* saga_policy.c: see saga_policy.h. */
#include "coordinator/core/saga_policy.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>

#include "lockstep/limits.h"

#define MS UINT64_C(1000)

static const struct saga_policy policies[SAGA_ERROR_COUNT] = {
    {SAGA_ERROR_BUSINESS, "business", SAGA_THEN_COMPENSATE, 1, 0, 0, "expected: what was done is undone"},
    {SAGA_ERROR_TIMEOUT, "timeout", SAGA_THEN_DEAD_LETTER, 10, LS_RETRY_MS_MIN *MS, LS_RETRY_MS_MAX *MS,
     "the step may have run: the barrier makes the next attempt harmless"},
    /* Carried out by the agents (participant/core/relay.c), whose defaults these are. */
    {SAGA_ERROR_PUBLISH, "publish", SAGA_THEN_DEAD_LETTER, LS_DEFAULT_RELAY_ATTEMPTS, LS_RETRY_MS_MIN *MS,
     LS_RETRY_MS_MAX *MS, "the event is safe in the outbox: it is delivered from there"},
    {SAGA_ERROR_COMPENSATION, "compensation", SAGA_THEN_DEAD_LETTER, 20, LS_RETRY_MS_MIN *MS, LS_RETRY_MS_MAX *MS,
     "a compensation has no way back: it is tried for longer"},
    {SAGA_ERROR_EVERYTHING, "everything", SAGA_THEN_ALERT, 0, 0, 0,
     "nothing more is tried until somebody has looked at it"},
};

const struct saga_policy *saga_policy(enum saga_error error) {
    assert(error < SAGA_ERROR_COUNT && policies[error].error == error);
    return &policies[error];
}

/* Classes of SQLSTATEs that say no about the data or the statement, and would again. Everything else may pass. */
static const char *const business[] = {
    "0A", /* feature not supported */
    "20", /* case not found */
    "21", /* cardinality violation */
    "22", /* data exception */
    "23", /* constraint violated */
    "2F", /* SQL routine exception */
    "38", /* external routine exception */
    "42", /* syntax, unknown object, missing right */
    "44", /* WITH CHECK OPTION */
    "54", /* program limit exceeded */
    "P0", /* PL/pgSQL: RAISE, NO_DATA_FOUND, ASSERT */
};

enum saga_error saga_classify(const char *sqlstate, bool mismatch) {
    if (mismatch) {
        return SAGA_ERROR_BUSINESS;
    }
    for (size_t i = 0; sqlstate != NULL && i < sizeof business / sizeof business[0]; i++) {
        if (strncmp(sqlstate, business[i], 2) == 0) {
            return SAGA_ERROR_BUSINESS;
        }
    }
    return SAGA_ERROR_TIMEOUT;
}

uint64_t saga_backoff_us(const struct saga_policy *policy, uint32_t tries, uint64_t random) {
    assert(tries >= 1);
    uint64_t most = policy->backoff_min_us;
    for (uint32_t i = 1; i < tries && most < policy->backoff_max_us; i++) {
        most *= 2;
    }
    most = most < policy->backoff_max_us ? most : policy->backoff_max_us;
    return most == 0 ? 0 : random % (most + 1);
}
