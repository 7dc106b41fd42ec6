/*
 * relay.h: choreography in the simulator: sagas that nobody drives (docs/choreography.md).
 *
 * Beside each agent's core runs the shipped core of its relay (participant/core/relay.c), held together as
 * participant/relay_host.c does it, with pages and frames as bytes through participant/page.c and common/frame.c. What
 * lies in the databases is a model of the SQL in participant/pg/schema_events.c and schema_relay.c. Servers and agents
 * crash together with what pg.c and agent_host.c have of them; links between agents are those of net.c.
 *
 *   relay_agent.c   the relay's host: who wants what, peers, deliveries
 *   relay_db.c      tables, transactions, WAL; requests on their way to a server and back
 *   relay_sql.c     the functions of the schema
 *   relay_flow.c    applications: sagas, their handlers, events of later, poison, the operator of dead letters
 *   check_relay.c   what must be true
 *
 * All of it does nothing in a world without choreographed sagas (option `flows`).
 */
#ifndef SIM_RELAY_H
#define SIM_RELAY_H

#include "lockstep.pb-c.h"
#include "tests/sim/world.h"

void relay_start(struct world *world);
void relay_stop(struct world *world);
void relay_heal(struct world *world);
const char *relay_unfinished(struct world *world);
void relay_end(struct world *world);

/* ---- from the agent's host */
/* It has the lock of its database. False: so had another agent since this one had it last; it is to end. */
bool relay_agent_lives(struct world *world, uint32_t participant, uint64_t life);
/* The database is this life's: backends of earlier ones are gone. */
void relay_agent_serves(struct world *world, uint32_t participant, uint64_t life);
void relay_agent_ready(struct world *world, uint32_t participant, uint64_t life);
void relay_agent_gone(struct world *world, uint32_t participant, uint64_t life);
void relay_route_received(struct world *world, uint32_t participant, uint64_t life, const Lockstep__Route *route);

/* ---- from the servers */
void relay_server_crash(struct world *world, uint32_t participant);
void relay_server_up(struct world *world, uint32_t participant);
/* A failover to a standby that lags: what was flushed is lost, too. */
void relay_server_loses(struct world *world, uint32_t participant);

/* ---- from the network */
/* The life that accepts links of other agents, 0: nobody does. */
uint64_t relay_listens(const struct world *world, uint32_t participant);
void relay_link_open(struct world *world, uint32_t participant, uint64_t life, uint64_t link);
/* link 0: nobody could be reached */
void relay_link_up(struct world *world, uint32_t participant, uint64_t life, uint32_t to, uint64_t link);
void relay_link_down(struct world *world, uint32_t participant, uint64_t life, uint64_t link);
void relay_frame(struct world *world, uint32_t participant, uint64_t life, uint64_t link, const uint8_t *bytes,
                 size_t length);

#endif
