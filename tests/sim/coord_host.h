/*
 * coord_host.h: the coordinator process: engine and decision log, held together as lockstepd does it, with the disk,
 * the network and the clients of the model on the other side.
 */
#ifndef SIM_COORD_HOST_H
#define SIM_COORD_HOST_H

#include "tests/sim/client.h"
#include "tests/sim/world.h"

void coord_start(struct world *world);
void coord_stop(struct world *world);
const char *coord_unfinished(struct world *world);
/* kill -9, or the whole machine. Comes back by itself. */
void coord_crash(struct world *world, bool machine);
/* All machines lose power. */
void coord_crash_all(struct world *world);
/* Faults are off: the stale copy is taken away. */
void coord_heal(struct world *world);

/* ---- from the network */
/* A paused process takes nothing before this time. */
uint64_t coord_paused_until(const struct world *world);
bool coord_listens(const struct world *world);
/* Whom an agent that dials the coordinator's address reaches now. */
uint32_t coord_reached(struct world *world);
/* Where the log ended of which the stale copy was taken; 0: there is none. */
uint64_t coord_stale_position(const struct world *world);
void coord_link_open(struct world *world, uint64_t link, uint32_t participant);
/* It has sent nothing on this link for a while. */
void coord_ping(struct world *world, uint64_t link);
void coord_frame(struct world *world, uint64_t link, const uint8_t *bytes, size_t length);
void coord_link_down(struct world *world, uint64_t link);

/* ---- from the clients; answered by client_response(), or not at all when the process dies */
/* (Clients always reach the coordinator, never a stale copy: what one begins there, nobody can promise anything about.)
 */
void coord_submit(struct world *world, uint32_t client, uint64_t token, const struct sim_doc *doc);
void coord_get(struct world *world, uint32_t client, uint64_t token, const struct sim_response *what,
               bool wait_applied);
void coord_cancel(struct world *world, uint32_t client, uint64_t token);
/* The client no longer waits. */
void coord_hang_up(struct world *world, uint32_t client, uint64_t token);

/* Is the decision still in the window of the log that is open now? False also when the coordinator is down. */
enum coord_kept { COORD_DOWN, COORD_KEPT, COORD_ABSENT, COORD_BEYOND };
/* How far the log's window has moved: keys of earlier decisions may be forgotten. */
uint64_t coord_horizon(const struct world *world);
/* May a decision that was logged then and there have left the log's window? */
bool coord_window_over(const struct world *world, uint32_t epoch, uint64_t position, uint64_t logged_us);
enum coord_kept coord_keeps(struct world *world, uint32_t epoch, uint64_t sequence);

#endif
