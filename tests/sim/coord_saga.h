/*
 * coord_saga.h: the host of the saga machine inside the simulated coordinator. Mirrors coordinator/saga_host.c, minus
 * JSON, HTTP and timers of libevent: the machine's effects become log records, attempts (one-participant transactions
 * of the engine) and words to the agents; what an attempt came to is queued and handed in at the end of the turn.
 */
#ifndef SIM_COORD_SAGA_H
#define SIM_COORD_SAGA_H

#include "coordinator/core/engine.h"
#include "coordinator/core/saga_log.h"
#include "coordinator/dlog/dlog.h"
#include "tests/sim/client.h"
#include "tests/sim/world.h"

struct sim_sagas;
struct sim_attempt;

/* What it needs of the coordinator's host (coord_host.c). */
uint32_t coord_epoch(const struct world *world);
struct dlog *coord_log(struct world *world);
struct engine *coord_engine(struct world *world);
uint64_t coord_wall_clock_ms(struct world *world);
uint32_t coord_number_of(const struct world *world, uint32_t participant); /* 0: never heard of */
uint32_t coord_participant_of(const struct world *world, uint32_t number);
bool coord_is_linked(const struct world *world, uint32_t number);
void coord_engine_step(struct world *world, struct engine_event *event);
void coord_log_appended(struct world *world);
void coord_send_forget(struct world *world, uint32_t number, const char *saga);
/* The state of a saga has changed, durably. */
void coord_on_saga(struct world *world, const struct saga *saga);
/* True: the process dies here. */
bool coord_dies(struct world *world);

struct sim_sagas *sagas_host_new(struct world *world, uint32_t epoch);
void sagas_host_free(struct sim_sagas *h);
void sagas_host_recover(struct world *world, struct sim_sagas *h, const struct saga_fold *fold);

enum engine_saga_answer sagas_host_begin(struct world *world, struct sim_sagas *h, const struct sim_doc *doc,
                                         struct engine_saga *saga);
void sagas_host_cancel(struct world *world, struct sim_sagas *h, uint32_t epoch, uint64_t sequence);
/* An operator looks at the dead letters. `any`: does whatever is allowed; otherwise they are tried again. */
void sagas_host_operate(struct world *world, struct sim_sagas *h, bool any);
const struct sagas *sagas_host_machine(const struct sim_sagas *h);
const struct saga *sagas_host_find(const struct sim_sagas *h, uint32_t epoch, uint64_t sequence);
size_t sagas_host_count(const struct sim_sagas *h);

bool sagas_host_owns(const struct sim_sagas *h, uint64_t ref);
void sagas_host_on_accepted(struct world *world, struct sim_sagas *h, const struct engine_effect *effect);
void sagas_host_on_refused(struct sim_sagas *h);
void sagas_host_on_vote(struct sim_sagas *h, const struct ls_gtid *gtid, const Lockstep__Vote *vote);
/* True: it was an attempt. */
bool sagas_host_on_outcome(struct world *world, struct sim_sagas *h, const struct txn *txn);
/* What an attempt sends; NULL: the transaction is none. */
const struct pg_statement *sagas_host_work(struct sim_sagas *h, const struct txn *txn, Lockstep__SagaStep *ret_saga,
                                           uint32_t *ret_step, bool *ret_cancel);

void sagas_host_durable(struct sim_sagas *h, uint64_t position);
void sagas_host_up(struct sim_sagas *h, uint32_t number);
bool sagas_host_forgotten(struct world *world, const struct sim_sagas *h, const struct ls_gtid *gtid);
/* The end of a turn. */
void sagas_host_turn(struct world *world, struct sim_sagas *h);
uint64_t sagas_host_next_timer(const struct sim_sagas *h);
void sagas_host_tick(struct sim_sagas *h);

#endif
