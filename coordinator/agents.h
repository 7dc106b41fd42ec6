/*
 * agents.h: the links to the agents: who may be on one, what is said on it, and to which participant it belongs.
 *
 * A link is welcomed when its certificate has the role agent and the participant's name, it asks for this coordinator,
 * the versions overlap, and the participant's number is durable in the log. Frames that break the protocol end the
 * link; a Refuse ends the process (78).
 */
#ifndef LOCKSTEP_AGENTS_H
#define LOCKSTEP_AGENTS_H

#include <openssl/ssl.h>
#include <stdint.h>

#include "coordinator/core/engine.h"
#include "lockstep.pb-c.h"
#include "lockstep/status.h"

struct host;
struct agents;

/* Listens on `fd` (taken over). The context is held. */
enum ls_status agents_new(struct host *host, int fd, SSL_CTX *tls, struct agents **ret_agents,
                          struct ls_error *err) LS_MUST_CHECK;
void agents_free(struct agents *agents);
/* New links use this context from now on. */
void agents_set_tls(struct agents *agents, SSL_CTX *tls);
unsigned agents_linked(const struct agents *agents);
/* Called now and then: proofs that nobody answered are asked for again, links that say no Hello are closed. */
void agents_tick(struct agents *agents, uint64_t now_us);
/* The log is durable up to `position`: new participants that waited for it are welcomed. */
void agents_log_durable(struct agents *agents, uint64_t position);

/* Effects. A participant without a link is not sent anything; the engine knows and sends again. */
void agents_send_work(struct agents *agents, const struct engine_effect *effect);
void agents_send_decide(struct agents *agents, const struct engine_effect *effect);
void agents_send_settle(struct agents *agents, const struct engine_effect *effect);
/* Is there a link, of an agent that knows sagas? */
bool agents_knows_sagas(const struct agents *agents, uint32_t participant);
/* The saga has ended: its barrier rows may go. Who is not there asks later. */
void agents_send_forget(struct agents *agents, uint32_t participant, const char *saga);
/* Asks the participant's agent; false: it is not there, or knows no events. api_on_told() or api_on_agent_down()
 * follows. */
bool agents_ask(struct agents *agents, uint32_t participant, Lockstep__Ask *ask);
void agents_on_verdict(struct agents *agents, const struct engine_effect *effect);

#endif
