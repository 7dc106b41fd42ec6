/*
 * saga_call.h: a saga's step at an HTTP service: what is sent, and what its answer means. The services are those of the
 * configuration (calls.services); a document can only add a path.
 *
 * Every attempt at the same thing carries the same Idempotency-Key, "<saga>:<step>:<do or undo>", so that a service can
 * make it run once. What a service has to promise is in docs/sagas.md.
 */
#ifndef LOCKSTEP_SAGA_CALL_H
#define LOCKSTEP_SAGA_CALL_H

#include "coordinator/conf.h"
#include "coordinator/core/saga.h"
#include "coordinator/run.h"
#include "coordinator/web.h"

/* What the machine is told (saga.h). */
struct saga_call_verdict {
    enum saga_answer answer;
    bool business, final, local;
    char *result; /* what the service returned, as JSON: the caller's; NULL for none */
    char reason[LS_REASON_MAX + 1];
};

/* Sends the attempt, in the name of `app`; `done` gets the attempt as its context. False: it did not leave, and never
 * will, and *ret_verdict says why: no such service, a reference that names nothing, a body above limits.body, no
 * memory.
 */
bool saga_call_send(struct web *web, const struct coordinator_conf *conf, const char *app, struct run_attempt *attempt,
                    web_done *done, struct saga_call_verdict *ret_verdict) LS_MUST_CHECK;

/* `referenced`: others need the result, so that an answer without one is none. */
void saga_call_judge(const struct web_answer *answer, enum saga_op op, const char *service, bool referenced,
                     struct saga_call_verdict *ret_verdict);

#endif
