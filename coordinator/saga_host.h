/*
 * saga_host.h: the host of the saga machine (coordinator/core/saga.h) inside lockstepd: its effects become log records,
 * attempts (one-participant transactions of the engine), answers to clients and words to the agents.
 *
 * What an attempt came to is queued by the engine's effects and handed to the machine at the end of the turn, since
 * neither may be stepped from inside of the other. An end is told to the participants (Forget) only when it is durable
 * and no attempt of this life is unsettled: a barrier row that is gone refuses nobody.
 */
#ifndef LOCKSTEP_SAGA_HOST_H
#define LOCKSTEP_SAGA_HOST_H

#include "coordinator/api/document.h"
#include "coordinator/core/engine.h"
#include "coordinator/core/saga_log.h"
#include "coordinator/run.h"

struct host;
struct saga_calls;
struct saga_host;

/* What the host keeps of one saga: saga->host. */
struct saga_run {
    unsigned references; /* the machine's, and one of each attempt */
    struct saga_host *sagas;
    struct run *run; /* document, results, key, application */
    char gtid[LS_GTID_MAX + 1];
    uint32_t epoch;
    uint64_t sequence;
    uint64_t begun_us;  /* monotonic; of one that was recovered: by the wall clock of its begin, as well as that goes */
    struct saga *saga;  /* NULL once it has ended */
    uint32_t unsettled; /* attempts whose transaction has no outcome yet */
    uint64_t log_reserved;
    struct run_attempt *calls; /* at services, on their way or waiting (saga_calls.h) */
    const char *body;          /* while it begins: what goes into the log */
    size_t body_length;
    uint64_t begin_position;
    struct saga_run *next, *prev; /* all of them */
};

struct saga_host *saga_host_new(struct host *host); /* NULL when memory is short */
void saga_host_free(struct saga_host *h);
/* Brings back what the log holds; before the loop runs. */
enum ls_status saga_host_recover(struct saga_host *h, const struct saga_fold *fold, struct ls_error *err) LS_MUST_CHECK;
struct sagas *saga_host_machine(struct saga_host *h);
struct saga_calls *saga_host_calls(struct saga_host *h);

/* Begins one: `run` holds a saga's document (a reference is taken), `body` its text. */
enum engine_saga_answer saga_host_begin(struct saga_host *h, struct run *run, const char *body, size_t length,
                                        struct engine_saga *saga);
/* Its client does not want it any more. Not from inside of a step. */
void saga_host_cancel(struct saga_host *h, const struct saga *saga, const char *who);
/* An operator's word that saga_may() allows: audited, then done. LS_ERR_FULL: the log has no room. */
enum ls_status saga_host_operate(struct saga_host *h, const struct saga *saga, enum saga_act act, const char *who,
                                 const char *reason) LS_MUST_CHECK;

/* Effects of the engine. True when the transaction is an attempt. */
bool saga_host_owns(const struct saga_host *h, uint64_t ref);
void saga_host_on_accepted(struct saga_host *h, const struct engine_effect *effect);
void saga_host_on_refused(struct saga_host *h, const struct engine_effect *effect);
bool saga_host_on_outcome(struct saga_host *h, const struct txn *txn);
/* The log is durable up to there. */
void saga_host_durable(struct saga_host *h, uint64_t position);
/* The daemon is about to stop: whoever waits for the end of a saga is told where it stands. */
void saga_host_drain(struct saga_host *h);
/* A participant is ready. */
void saga_host_up(struct saga_host *h, uint32_t participant);
/* Has this saga of ours ended, durably, and is nothing of it on its way any more? */
bool saga_host_forgotten(const struct saga_host *h, const struct ls_gtid *gtid);
/* The end of a turn of the loop: what came of it, and the timer. */
void saga_host_turn(struct saga_host *h);

/* What an attempt sends. */
const struct document_step *saga_host_action(const struct run_attempt *attempt);
/* The name of its step in the barrier table: as the document says, else its index. Valid until the next call. */
const char *saga_host_step_name(const struct run_attempt *attempt);
/* An attempt's run goes (run.c). */
void saga_host_attempt_free(struct run_attempt *attempt);

struct saga_host_stats {
    uint64_t begun, completed, compensated, stuck_ever, alerts, attempts, retries;
    uint64_t by_state[SAGA_STATE_COUNT]; /* now */
    double oldest_s;                     /* age of the oldest open one */
};
void saga_host_stats(const struct saga_host *h, struct saga_host_stats *ret_stats);

#endif
