/*
 * saga_policy.h: what is done about which error of a saga: the five classes of design 3.5, their policies in one table,
 * and from which SQLSTATE an error gets its class. Pure.
 */
#ifndef LOCKSTEP_SAGA_POLICY_H
#define LOCKSTEP_SAGA_POLICY_H

#include <stdbool.h>
#include <stdint.h>

enum saga_error {
    SAGA_ERROR_BUSINESS,     /* the step said no, and would say no again */
    SAGA_ERROR_TIMEOUT,      /* the step did not answer in time, or could not: the same may succeed later */
    SAGA_ERROR_PUBLISH,      /* choreography: an event could not be delivered */
    SAGA_ERROR_COMPENSATION, /* a compensation failed, whatever it said: there is nothing behind it to fall back on */
    SAGA_ERROR_EVERYTHING,   /* every attempt is used up: a human is needed */
    SAGA_ERROR_COUNT
};

enum saga_then {
    SAGA_THEN_COMPENSATE,  /* at once, no attempt more */
    SAGA_THEN_DEAD_LETTER, /* retried with backoff and jitter; when the attempts are used up, the dead-letter queue */
    SAGA_THEN_ALERT        /* dead letter, log line, metric and webhook */
};

struct saga_policy {
    enum saga_error error;
    const char *name;
    enum saga_then then;
    uint32_t attempts; /* default; a step's own `attempts` replaces that of SAGA_ERROR_TIMEOUT */
    uint64_t backoff_min_us, backoff_max_us;
    const char *reason;
};

const struct saga_policy *saga_policy(enum saga_error error);

/* A step that could not even begin (its participant is away, or takes no more), or whose answer was lost, has not used
 * up an attempt. It is tried again when the participant comes back, and so often at most. */
#define SAGA_UNBEGUN_MAX 1000u

/* What the forward action of a step answered. `sqlstate` may be NULL or "" (nobody knows); `mismatch`: the statement
 * worked and touched another number of rows than the document expects. */
enum saga_error saga_classify(const char *sqlstate, bool mismatch);

/* How long to wait before try number `tries` + 1 (tries >= 1 have failed): exponential with full jitter, so that what
 * failed together does not come back together. `random` is data: the simulator repeats it. */
uint64_t saga_backoff_us(const struct saga_policy *policy, uint32_t tries, uint64_t random);

#endif
