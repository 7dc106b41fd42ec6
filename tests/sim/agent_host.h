/*
 * agent_host.h: the agent processes: the agent core, held together as lockstep-agent does it, with the network and the
 * servers of the model on the other side.
 */
#ifndef SIM_AGENT_HOST_H
#define SIM_AGENT_HOST_H

#include "lockstep.pb-c.h"
#include "participant/core/agent.h"
#include "tests/sim/world.h"

void agents_start(struct world *world);
void agents_stop(struct world *world);
void agents_crash_all(struct world *world);
/* Faults are off: second agents are taken away. */
void agents_heal(struct world *world);
const char *agents_unfinished(struct world *world);

/* It has its database's lock, as far as it knows, and backends of earlier lives are gone. */
bool agent_host_has_lock(const struct world *world, uint32_t participant, uint64_t life);
uint64_t agent_host_paused_until(const struct world *world, uint32_t participant, uint64_t life);
/* An operator deletes the row in lockstep.fence and restarts the agent. */
void agent_host_operator(struct world *world, uint32_t participant);
bool agent_host_alive(const struct world *world, uint32_t participant, uint64_t life);
/* ---- from the network */
void agent_host_link_up(struct world *world, uint32_t participant, uint64_t life, uint64_t link);
void agent_host_link_down(struct world *world, uint32_t participant, uint64_t life, uint64_t link);
/* It has sent nothing on this link for a while. */
void agent_host_ping(struct world *world, uint32_t participant, uint64_t life, uint64_t link);
void agent_host_frame(struct world *world, uint32_t participant, uint64_t life, uint64_t link, const uint8_t *bytes,
                      size_t length);
/* ---- from the servers; ignored when that life is over */
void agent_host_answer(struct world *world, uint32_t participant, uint64_t life, uint64_t branch,
                       struct agent_event *event);
void agent_host_control_lost(struct world *world, uint32_t participant, uint64_t life);
/* Does the agent's scan list this gid? Of our form, this coordinator and participant, any incarnation. */
bool agent_host_lists(const struct world *world, uint32_t participant, const char *gid);

/* The relay beside the core: its process falls, it says something to the coordinator (lost when there is no link). */
void agent_host_falls(struct world *world, uint32_t participant, uint64_t life);
void agent_host_send(struct world *world, uint32_t participant, uint64_t life, const Lockstep__Frame *frame);

void sim_participant_name(uint32_t participant, char name[8]);

#endif
