/*
 * relay_host.h: the host of the relay's core in the agent: events from the database to the peers that want them, what
 * arrives to its handlers, and who wants what. Starts once this life's lock is held and earlier backends are gone; no
 * coordinator is needed for anything but news about others.
 */
#ifndef LOCKSTEP_AGENT_RELAY_HOST_H
#define LOCKSTEP_AGENT_RELAY_HOST_H

#include <openssl/ssl.h>

#include "lockstep.pb-c.h"
#include "lockstep/status.h"
#include "participant/core/relay.h"

struct agenthost;
struct relayhost;

enum ls_status relayhost_new(struct agenthost *host, struct relayhost **ret_relay, struct ls_error *err) LS_MUST_CHECK;
void relayhost_free(struct relayhost *relay);
void relayhost_set_tls(struct relayhost *relay, SSL_CTX *server, SSL_CTX *client);
/* The database is ours. Once; again changes nothing. */
void relayhost_start(struct relayhost *relay);
/* A transaction has committed here that may have written events: they need not wait for the next look. */
void relayhost_fresh(struct relayhost *relay);
/* The coordinator takes work: it is told what this participant wants. */
void relayhost_announce(struct relayhost *relay);
/* Frames of the coordinator; borrowed. */
void relayhost_route(struct relayhost *relay, const Lockstep__Route *route);
void relayhost_ask(struct relayhost *relay, const Lockstep__Ask *ask);

struct relayhost_stats {
    struct relay_stats core;
    unsigned peers_up, subscriptions;
    bool resting; /* another participant's agent relays the events of this database */
    /* as the database last said: events without a position, behind the slowest subscriber in positions and in time,
     * inbox rows, letters */
    uint64_t unclaimed, behind, behind_ms, waiting, dead, unwanted;
    uint64_t pruned;
};
void relayhost_stats(const struct relayhost *relay, struct relayhost_stats *ret_stats);

#endif
