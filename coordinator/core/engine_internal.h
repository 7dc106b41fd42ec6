/*
 * engine_internal.h: the engine's memory, shared by engine.c (events, admission), decide.c (votes, decisions, ends),
 * inquire.c (questions about prepared transactions) and the tables beneath (keys.c, table.c). Nobody else includes
 * this.
 */
#ifndef LOCKSTEP_ENGINE_INTERNAL_H
#define LOCKSTEP_ENGINE_INTERNAL_H

#include "coordinator/core/engine.h"
#include "coordinator/core/keys.h"
#include "coordinator/core/table.h"

/* Decisions sent to one participant and not yet answered; the rest of a long list waits its turn, so that a participant
 * that comes back to 100,000 open decisions does not get them in one breath. Many, since what an agent was told already
 * when it lists what is prepared it need not ask about and list again. */
#define DECIDES_IN_FLIGHT_MAX 8192u

struct participant {
    uint32_t number;
    char name[LS_PARTICIPANT_MAX + 1];
    bool linked; /* Hello accepted */
    bool joined; /* was ready at least once in this life: its agent has accepted this log, not only said Hello */
    bool ready;  /* Work may be sent */
    uint64_t link;
    uint64_t system_id;
    uint32_t timeline;
    uint32_t credits; /* branches the agent can hold */
    uint32_t used;    /* branches that hold one */
    uint32_t decides_in_flight;
    bool claimed;                                  /* scratch of admit(): somebody older in the queue waits for it */
    struct txn_branch *open_first, *open_last;     /* branches not finished */
    struct txn_branch *unsent_first, *unsent_last; /* of these, decided and not sent yet */
    uint32_t open_count;
};

struct engine {
    struct engine_config config;
    uint64_t now_us;
    uint64_t next_sequence;
    uint64_t next_ticket;
    uint64_t next_resend_us;
    uint64_t log_room, log_reserved, log_position_last;
    uint64_t saga_reserved; /* of log_reserved */
    uint32_t settled_epoch; /* see engine_set_settled() */
    uint64_t settled_sequence;
    bool draining;
    bool started;        /* started_us is set */
    bool presumed_early; /* said that presumption began before all had joined */
    uint64_t started_us;
    uint32_t joined_count;

    struct participant *participants[LS_PARTICIPANT_NUMBER_MAX + 1]; /* by registry number */
    uint16_t numbers[LS_PARTICIPANT_NUMBER_MAX];                     /* those in use */
    uint32_t participant_count;
    bool admit_due;        /* a credit or a place became free: look at the queue */
    struct txn_table txns; /* unfinished and hazards, by (epoch, sequence) */
    struct finished_table finished;
    struct key_table keys;
    struct deadline_heap heap; /* transactions that a deadline can still abort */

    struct txn *order_first, *order_last;         /* unfinished, in order of arrival */
    struct txn *wait_first, *wait_last;           /* TXN_WAITING */
    struct txn *log_first, *log_last;             /* TXN_LOGGING, by ticket */
    struct txn *dead;                             /* finished in the last step: effects still point at them */
    uint32_t in_flight, waiting, hazards, driven; /* driven: committing, aborting or settling: the resend timer is on */

    struct engine_effects *out; /* of the step being made */
    struct engine_text *texts;  /* of the last step's effects */
    struct engine_stats stats;
};

/* A text that an effect points to; freed at the next step. */
struct engine_text {
    struct engine_text *next;
    char text[];
};

/* engine.c */
/* Is it of a one-participant transaction that nobody can be asked about any more? */
bool engine_is_gone(const struct engine *e, uint32_t epoch, uint64_t sequence);
const char *engine_text(struct engine *e, const char *fmt, ...) LS_PRINTF(2, 3);
struct engine_effect *engine_emit(struct engine *e, enum effect_kind kind, const struct txn *txn);
void engine_report(struct engine *e, const struct txn *txn, const char *fmt, ...) LS_PRINTF(3, 4);
struct participant *engine_participant(struct engine *e, uint32_t number);
void engine_list_branch(struct engine *e, struct txn_branch *branch, enum branch_list list);
void engine_release_credit(struct engine *e, struct txn_branch *branch);
void engine_send_work(struct engine *e, struct txn *txn);
void engine_finish(struct engine *e, struct txn *txn);
struct txn *engine_txn_new(struct engine *e, uint32_t epoch, uint64_t sequence, bool one_participant,
                           const uint32_t *participants, uint32_t branch_count);
void engine_txn_free(struct txn *txn);
void engine_adopt(struct engine *e, struct txn *txn);

/* decide.c */
void decide_abort(struct engine *e, struct txn *txn, const struct txn_cause *cause);
void decide_on_vote(struct engine *e, const struct engine_event *event);
void decide_on_done(struct engine *e, const struct engine_event *event);
void decide_on_durable(struct engine *e, uint64_t ticket);
void decide_on_link_lost(struct engine *e, struct participant *p);
void decide_on_link_up(struct engine *e, struct participant *p);
void decide_on_cancel(struct engine *e, struct txn *txn, const char *reason, bool retryable);
void decide_resend(struct engine *e);
void decide_settle(struct engine *e, struct txn *txn);

/* inquire.c */
void inquire_on_item(struct engine *e, const struct engine_event *event);

void cause_set(struct txn_cause *cause, uint32_t participant, const char *sqlstate, const char *fmt, ...)
    LS_PRINTF(4, 5);
bool branch_is_finished(const struct txn_branch *branch);

/* Which steps wait for which others; only for documents with `after`. */
struct txn_steps {
    uint16_t *waiting;          /* per step: others not done yet */
    uint32_t *dependents_start; /* per step: index into dependents; one more at the end */
    uint16_t *dependents;
};

#endif
