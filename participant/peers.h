/*
 * peers.h: the links between agents, over mutual TLS: this agent listens for those that send events to it, and dials
 * those that it sends to.
 *
 * Both ends say Greet first, and must be what their certificates say: an agent, of that participant. Events travel from
 * the agent that dialled, acknowledgements (Stored) back. One link per participant and direction; a newer one takes an
 * older one's place. No coordinator is asked.
 */
#ifndef LOCKSTEP_AGENT_PEERS_H
#define LOCKSTEP_AGENT_PEERS_H

#include <event2/event.h>
#include <openssl/ssl.h>
#include <stdint.h>

#include "lockstep.pb-c.h"
#include "lockstep/status.h"

struct peers;

/* From the loop only. */
struct peers_callbacks {
    void (*up)(void *context, const char *participant); /* a link that we dialled: it can be sent to */
    void (*down)(void *context, const char *participant);
    void (*events)(void *context, const char *from, const Lockstep__Events *events); /* borrowed */
    void (*stored)(void *context, const char *participant, int64_t upto);
};

/* Listens on `listen`. */
enum ls_status peers_new(struct event_base *base, const char *self, const char *listen,
                         const struct peers_callbacks *callbacks, void *context, struct peers **ret_peers,
                         struct ls_error *err) LS_MUST_CHECK;
void peers_free(struct peers *peers);
/* Held; new links use them. Before the first call nobody is dialled or accepted. */
void peers_set_tls(struct peers *peers, SSL_CTX *server, SSL_CTX *client);
/* Accepts from now on: before, what arrives could not be taken. */
void peers_open(struct peers *peers);
/* Where it listens really. */
const char *peers_address(const struct peers *peers);
/* Keeps a link to this participant from now on, at this address; "": no longer. */
void peers_dial(struct peers *peers, const char *participant, const char *address);
/* Down: dropped, the relay knows or is told. LS_ERR_TOO_LARGE: not sent. */
enum ls_status peers_send(struct peers *peers, const char *participant, Lockstep__Events *events) LS_MUST_CHECK;
/* To the participant whose link brought the page. */
void peers_acknowledge(struct peers *peers, const char *participant, int64_t upto);
unsigned peers_up(const struct peers *peers);

#endif
