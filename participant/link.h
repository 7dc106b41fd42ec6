/*
 * link.h: the agent's link to its coordinator: dials over mutual TLS, turns frames into the core's events and its effects into frames. When to dial
 * again is the core's to say.
 */
#ifndef LOCKSTEP_AGENT_UPLINK_H
#define LOCKSTEP_AGENT_UPLINK_H

#include <openssl/ssl.h>

#include "lockstep.pb-c.h"
#include "lockstep/status.h"
#include "participant/core/agent.h"

struct agenthost;
struct uplink;

/* The context is held. */
enum ls_status uplink_new(struct agenthost *host, SSL_CTX *tls, struct uplink **ret_uplink, struct ls_error *err) LS_MUST_CHECK;
void uplink_free(struct uplink *uplink);
/* The next dial uses this context. */
void uplink_set_tls(struct uplink *uplink, SSL_CTX *tls);
/* AEF_DIAL, AEF_CLOSE, AEF_SEND_*. */
void uplink_carry_out(struct uplink *uplink, const struct agent_effect *effect);
/* A frame of the relay's; dropped while there is no link to a coordinator that knows events. */
void uplink_send(struct uplink *uplink, const Lockstep__Frame *frame);
/* Says good-bye and calls the host back through `done` when the link is gone (from the loop). */
void uplink_leave(struct uplink *uplink, void (*done)(struct agenthost *host));

#endif
