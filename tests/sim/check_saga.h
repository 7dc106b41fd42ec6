/*
 * check_saga.h: what must be true of sagas, seen from above like check.h: the effects on the servers, the medium of the
 * log's disk, what the coordinator sends, and what clients are told.
 *
 *   once         a step's action is in force at most once, is undone only if it was, and runs never again after that
 *   order        an action runs when all it waits for are in force; it is undone when nothing that waits for it is
 *   durable      nothing is sent before the begin, the passing or the turn it depends on is on the medium
 *   no return    nothing is undone once the pivot has happened or a step behind the point of no return was sent
 *   ends         an end is called one when it is on the medium and true on every server; nothing happens behind it
 *   results      what a duplicate returns is what the action returned
 *   attempts     what has failed as often as its policy allows is not tried again before a human has said so
 *   pruning      barrier rows go when the saga has ended, durably
 * A failover that lost WAL, and a copy of the log that was obeyed, excuse the sagas they hit.
 */
#ifndef SIM_CHECK_SAGA_H
#define SIM_CHECK_SAGA_H

#include "tests/sim/client.h"
#include "tests/sim/pg.h"
#include "tests/sim/world.h"

/* ---- from the coordinator's host */
void check_saga_begun(struct world *world, uint32_t epoch, uint64_t sequence, const struct sim_doc *doc);
/* This record, by which the saga gets into `state`, goes into the log. */
void check_saga_logged(struct world *world, const struct saga *saga, enum saga_state state, const uint8_t *record,
                       size_t length);
void check_saga_sent(struct world *world, const struct saga *saga, uint32_t step, enum saga_op op);
/* An attempt has brought this result of the step. */
void check_saga_result(struct world *world, const struct saga *saga, uint32_t step, bool there, uint64_t result);
/* An attempt has failed that counts; an answer, an operator's word and a new state begin the count afresh. */
void check_saga_failed(struct world *world, const struct saga *saga, uint32_t step, enum saga_op op);
void check_saga_afresh(struct world *world, uint32_t epoch, uint64_t sequence);
void check_saga_ended(struct world *world, const struct saga *saga);
/* An operator says that the step counts as done, or as undone. */
void check_saga_skipped(struct world *world, const struct saga *saga, uint32_t step);

/* ---- from the servers */
void check_saga_effect(struct world *world, const struct pg_saga *saga, uint32_t participant, uint64_t kept);
void check_saga_lost(struct world *world, const struct pg_saga *saga);
void check_saga_pruned(struct world *world, const struct pg_saga *saga, uint32_t participant);

/* ---- from the clients */
void check_saga_told(struct world *world, uint32_t epoch, uint64_t sequence);
void check_saga_acknowledged(struct world *world, uint32_t epoch, uint64_t sequence, bool completed);

/* ---- from check.c */
void check_saga_medium(struct world *world, const uint8_t *bytes, size_t length);
void check_saga_end(struct world *world);
void check_saga_log_lost(struct world *world);
void check_saga_stop(struct world *world);

#endif
