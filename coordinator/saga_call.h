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

/* Sends the attempt; `done` gets the attempt as its context. LS_ERR_NOT_FOUND: there is no such service, or a reference
 * names nothing (err says what, *ret_reference whether it is that); LS_ERR_NOMEM. */
enum ls_status saga_call_send(struct web *web, const struct coordinator_conf *conf, struct run_attempt *attempt,
                              web_done *done, bool *ret_reference, struct ls_error *err) LS_MUST_CHECK;

/* What the machine is told. `reason` holds at least LS_REASON_MAX + 1 bytes. */
struct saga_call_verdict {
    enum saga_answer answer;
    bool business;
    char *result; /* what the service returned, as JSON: the caller's; NULL for none */
    char reason[LS_REASON_MAX + 1];
};
/* `referenced`: others need the result, so that an answer without one is none. */
void saga_call_judge(const struct web_answer *answer, enum saga_op op, const char *service, bool referenced,
                     struct saga_call_verdict *ret_verdict);

#endif
