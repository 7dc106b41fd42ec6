/*
 * saga_calls.h: the attempts of sagas at HTTP services: which are on their way, and which wait for a place. At most
 * limits.calls are on their way, at most calls.connections of one service; the others wait, first come first served at
 * each service, and the services take turns, so that one that hangs does not hold up the others. The time of an attempt
 * begins when it leaves; its body is made then, so that one that waits costs next to nothing.
 *
 * Few leave in one turn of the loop, so that thousands hold up nobody else.
 */
#ifndef LOCKSTEP_SAGA_CALLS_H
#define LOCKSTEP_SAGA_CALLS_H

#include <event2/event.h>

#include "coordinator/saga_call.h"

#define SAGA_CALLS_PER_TURN 64u

struct host;
struct saga_calls;

/* What an attempt came to; verdict->result is the callee's. Not from inside of saga_calls_add() or _abandon(). The
 * attempt is dropped behind it. */
typedef void saga_calls_done(void *context, struct run_attempt *attempt, struct saga_call_verdict *verdict);

/* NULL when memory is short. */
struct saga_calls *saga_calls_new(struct host *host, saga_calls_done *done, void *context);
/* Nobody hears of what is under way. NULL is fine. */
void saga_calls_free(struct saga_calls *calls);
/* Takes a reference of the attempt's run. False when memory is short. */
bool saga_calls_add(struct saga_calls *calls, struct run_attempt *attempt) LS_MUST_CHECK;
/* Nobody waits for it any more: it does not leave, or nobody listens. The service may have done it, or do it still. */
void saga_calls_abandon(struct saga_calls *calls, struct run_attempt *attempt);
/* The end of a turn of the loop: some of those that wait leave. */
void saga_calls_turn(struct saga_calls *calls);

struct saga_calls_stats {
    uint32_t on_way, waiting;
};
void saga_calls_stats(const struct saga_calls *calls, struct saga_calls_stats *ret_stats);

#endif
