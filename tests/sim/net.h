/*
 * net.h: links between agents and the coordinator.
 *
 * A link is two ordered streams of frames. Inside a link nothing is lost, doubled or reordered, as with TCP; but a link
 * may be reset at any time, which loses a suffix of what was under way in either direction, and the two ends notice at
 * different times. One direction may fall silent: what is sent there waits, until the receiver's dead timer
 * (LS_PEER_DEAD_MS) ends the link. A partition does so to all links of some participants, in one direction or in both,
 * and lets nobody dial meanwhile; it may end before anybody has noticed. A frame may come twice, the second time after
 * later ones, as if it had been sent again. Frames of an old link may still be handed to a process after it has
 * accepted a new one; it has to tell them by the link's number.
 *
 * Frames travel as bytes through common/frame.c.
 */
#ifndef SIM_NET_H
#define SIM_NET_H

#include "lockstep.pb-c.h"
#include "tests/sim/world.h"

void net_start(struct world *world);
void net_stop(struct world *world);
/* Faults are off: silent directions speak again, or their links end. */
void net_heal(struct world *world);

/* An agent dials. Answered by agent_host_link_up() on success, then the coordinator hears coord_link_open(); on failure
 * by agent_host_link_down(0). */
void net_dial(struct world *world, uint32_t participant, uint64_t life);
void net_send_to_coord(struct world *world, uint64_t link, const Lockstep__Frame *frame);
void net_send_to_agent(struct world *world, uint64_t link, const Lockstep__Frame *frame);
/* An agent dials another one. Answered by relay_link_up(), whose link is 0 if nobody could be reached; then the other
 * hears relay_link_open(). */
void net_dial_peer(struct world *world, uint32_t from, uint64_t life, uint32_t to);
void net_send_to_peer(struct world *world, uint64_t link, bool by_acceptor, const Lockstep__Frame *frame);
/* Closes one end in order: what was sent before still goes out. Of a link between agents, the acceptor is by_coord. */
void net_close(struct world *world, uint64_t link, bool by_coord);
/* A process died: its ends of all links are gone. */
void net_coord_gone(struct world *world);
void net_agent_gone(struct world *world, uint32_t participant, uint64_t life);
/* A link to the stale copy of the coordinator? */
bool net_leads_to_stale(const struct world *world, uint64_t link);

#endif
