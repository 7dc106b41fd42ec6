/* saga_host.c: see saga_host.h. */
#include "coordinator/saga_host.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/daemon.h"
#include "common/diag.h"
#include "common/failpoint.h"
#include "common/hash.h"
#include "coordinator/agents.h"
#include "coordinator/alert.h"
#include "coordinator/api/api.h"
#include "coordinator/claim.h"
#include "coordinator/host.h"
#include "coordinator/saga_calls.h"
#include "coordinator/stats.h"

#define ATTEMPT_BUCKETS 4096u

/* Something for the machine, found while it or the engine was busy. */
struct pending {
    struct pending *next;
    struct saga_event event;
    char sqlstate[LS_SQLSTATE_LEN + 1], reason[LS_REASON_MAX + 1];
};

struct saga_ticket {
    struct saga_ticket *next;
    uint64_t ticket, end;
};

struct saga_host {
    struct host *host;
    struct sagas *machine;
    struct saga_effects effects;
    struct saga_run *runs; /* open ones, and ended ones with attempts unsettled */
    size_t run_count;
    struct run_attempt *attempts[ATTEMPT_BUCKETS];
    struct run_attempt *submitting;
    struct saga_calls *calls;
    struct pending *first, **last;
    struct saga_ticket *tickets, **tickets_last;
    struct event *timer;
    uint64_t armed_us;
    struct saga_host_stats stats;
};

static void fatal_no_memory(void) {
    diag_fatal(LS_EXIT_ERROR, "out of memory in the middle of a saga: stopping, the next start goes on with it", NULL);
}

static void on_call_done(void *context, struct run_attempt *attempt, struct saga_call_verdict *verdict);

/* ------------------------------------------------------------------ memory */

struct saga_host *saga_host_new(struct host *host) {
    struct saga_host *h = calloc(1, sizeof *h);
    if (h == NULL) {
        return NULL;
    }
    h->host = host;
    h->last = &h->first;
    h->tickets_last = &h->tickets;
    h->armed_us = SAGA_NEVER;
    h->machine = sagas_new(host->epoch, random_u64());
    h->calls = h->machine == NULL ? NULL : saga_calls_new(host, on_call_done, h);
    if (h->calls == NULL) {
        sagas_free(h->machine);
        free(h);
        return NULL;
    }
    return h;
}

static void saga_run_drop(struct saga_run *r) {
    assert(r->references >= 1);
    if (--r->references > 0) {
        return;
    }
    r->sagas->run_count--;
    *(r->prev == NULL ? &r->sagas->runs : &r->prev->next) = r->next;
    if (r->next != NULL) {
        r->next->prev = r->prev;
    }
    if (r->run != NULL) {
        run_drop(r->run);
    }
    free(r);
}

void saga_host_free(struct saga_host *h) {
    if (h == NULL) {
        return;
    }
    while (h->first != NULL) {
        struct pending *p = h->first;
        h->first = p->next;
        free(p);
    }
    while (h->tickets != NULL) {
        struct saga_ticket *t = h->tickets;
        h->tickets = t->next;
        free(t);
    }
    for (size_t i = 0; i < ATTEMPT_BUCKETS; i++) {
        while (h->attempts[i] != NULL) {
            struct run_attempt *attempt = h->attempts[i];
            h->attempts[i] = attempt->next;
            run_drop(attempt->run);
        }
    }
    saga_calls_free(h->calls);
    sagas_free(h->machine);
    while (h->runs != NULL) {
        struct saga_run *r = h->runs;
        r->references = 1;
        saga_run_drop(r);
    }
    if (h->timer != NULL) {
        event_free(h->timer);
    }
    saga_effects_free(&h->effects);
    free(h);
}

struct sagas *saga_host_machine(struct saga_host *h) {
    return h->machine;
}
struct saga_calls *saga_host_calls(struct saga_host *h) {
    return h->calls;
}

static struct saga_run *saga_run_new(struct saga_host *h, struct run *run) {
    struct saga_run *r = calloc(1, sizeof *r);
    if (r == NULL) {
        return NULL;
    }
    h->run_count++;
    r->references = 1;
    r->sagas = h;
    r->run = run;
    r->next = h->runs;
    if (r->next != NULL) {
        r->next->prev = r;
    }
    h->runs = r;
    return r;
}

static void name_run(struct saga_run *r, uint32_t epoch, uint64_t sequence) {
    struct ls_gtid gtid = {.epoch = epoch, .sequence = sequence};
    const struct host *host = r->sagas->host;
    (void)snprintf(gtid.coordinator, sizeof gtid.coordinator, "%s", host->conf.name);
    (void)snprintf(gtid.incarnation, sizeof gtid.incarnation, "%s", host->incarnation);
    r->epoch = epoch;
    r->sequence = sequence;
    ls_gtid_format(&gtid, r->gtid);
}

static uint64_t log_need(const struct document *document, size_t length) {
    uint64_t need = saga_log_need(length, document->step_count);
    for (uint32_t i = 0; i < document->step_count; i++) {
        const struct document_saga_step *step = &document->saga_steps[i];
        need += step->service != NULL && step->kind == SAGA_PIVOT ? saga_log_pivot_need(document->step_count) : 0;
    }
    return need;
}

/* The saga as the machine wants it. NULL when memory is short. */
static struct saga *make_saga(struct saga_host *h, const struct document *document, uint32_t epoch, uint64_t sequence) {
    struct saga_step_spec *steps = calloc(document->step_count, sizeof *steps);
    if (steps == NULL) {
        return NULL;
    }
    for (uint32_t i = 0; i < document->step_count; i++) {
        const struct document_saga_step *from = &document->saga_steps[i];
        bool call = from->service != NULL;
        steps[i] = (struct saga_step_spec){.participant = call ? 0 : document->participants[document->specs[i].branch],
                                           .call = call,
                                           .kind = from->kind,
                                           .attempts = from->attempts,
                                           .after_count = document->specs[i].after_count,
                                           .after = document->specs[i].after,
                                           .referenced = document->steps[i].referenced,
                                           .undo_refers = from->undo_refers};
    }
    struct saga_spec spec = {
        .steps = steps, .step_count = document->step_count, .deadline_us = document->deadline_ms * 1000};
    struct saga *saga = saga_new(h->machine, epoch, sequence, &spec);
    free(steps);
    return saga;
}

/* --------------------------------------------------------------------- log */

static void push_ticket(struct saga_host *h, uint64_t ticket, uint64_t end) {
    struct saga_ticket *t = calloc(1, sizeof *t);
    if (t == NULL) {
        fatal_no_memory();
        return;
    }
    *t = (struct saga_ticket){.ticket = ticket, .end = end};
    *h->tickets_last = t;
    h->tickets_last = &t->next;
}

/* A record of the saga was appended: it takes what was reserved for it. */
static void charge(struct saga_run *r, size_t length) {
    struct host *host = r->sagas->host;
    uint64_t used = length + 64 < r->log_reserved ? length + 64 : r->log_reserved;
    r->log_reserved -= used;
    engine_saga_release(host->engine, used);
    engine_set_log_room(host->engine, dlog_room(host->log));
}

static uint64_t append(struct saga_host *h, struct saga_run *r, enum dlog_type type, const uint8_t *payload,
                       size_t length, uint64_t ticket) {
    struct host *host = h->host;
    uint64_t position, end;
    enum ls_status status = dlog_append(host->log, type, payload, length, &position, &end);
    if (status != LS_OK) {
        struct ls_error err;
        (void)ls_fail(&err, status, "%s", ls_status_text(status));
        host_log_failed("appending a saga's record", &err); /* room for it was reserved */
    }
    charge(r, length);
    push_ticket(h, ticket, end);
    host_force(host);
    return position;
}

static void log_begin(struct saga_host *h, const struct saga_effect *effect) {
    static uint8_t payload[LS_LOG_RECORD_MAX];
    struct saga_run *r = effect->saga->host;
    struct run *run = r->run;
    Lockstep__LogSagaBegin record = LOCKSTEP__LOG_SAGA_BEGIN__INIT;
    record.epoch = r->epoch;
    record.sequence = r->sequence;
    record.app = (char *)(uintptr_t)apps_identity(h->host->apps, run->app);
    record.document = (ProtobufCBinaryData){.len = r->body_length, .data = (uint8_t *)(uintptr_t)r->body};
    record.begun_unix_ms = effect->saga->begun_unix_ms;
    if (run->key != NULL) {
        record.has_key_digest = record.has_document_digest = true;
        record.key_digest = (ProtobufCBinaryData){.len = sizeof run->key_digest, .data = run->key_digest};
        record.document_digest =
            (ProtobufCBinaryData){.len = sizeof run->document_digest, .data = run->document_digest};
    }
    assert(lockstep__log_saga_begin__get_packed_size(&record) <= sizeof payload);
    size_t length = lockstep__log_saga_begin__pack(&record, payload);
    /* Crash: it was never begun; nothing was sent, and its key is free. */
    (void)failpoint_hit(FP_saga_before_begin);
    r->begin_position = append(h, r, DLOG_SAGA_BEGIN, payload, length, effect->ticket);
    r->body = NULL;
}

static void log_move(struct saga_host *h, const struct saga_effect *effect) {
    static uint8_t payload[LS_LOG_RECORD_MAX];
    bool end = effect->kind == SAGA_FX_LOG_END;
    size_t length = end ? saga_log_end(effect->saga, claim_unix_ms(), payload)
                        : saga_log_phase(effect->saga, claim_unix_ms(), payload);
    /* Crash: the log has it as it was before; whoever is asked again has a barrier row. */
    (void)failpoint_hit(end ? FP_saga_before_end : FP_saga_before_phase);
    (void)append(h, effect->saga->host, end ? DLOG_SAGA_END : DLOG_SAGA_PHASE, payload, length, effect->ticket);
}

/* ---------------------------------------------------------------- machine */

static struct pending *queue_event(struct saga_host *h, enum saga_event_kind kind) {
    struct pending *p = calloc(1, sizeof *p);
    if (p == NULL) {
        fatal_no_memory();
        abort(); /* not reached */
    }
    p->event.kind = kind;
    *h->last = p;
    h->last = &p->next;
    return p;
}

static struct saga_event *queue_answer(struct saga_host *h, const struct run_attempt *attempt, enum saga_answer answer,
                                       const char *sqlstate, bool mismatch, const char *reason) {
    struct pending *p = queue_event(h, SAGA_EV_ANSWER);
    stats_saga_step(daemon_now_us() - attempt->sent_us);
    (void)snprintf(p->sqlstate, sizeof p->sqlstate, "%s", sqlstate == NULL ? "" : sqlstate);
    (void)snprintf(p->reason, sizeof p->reason, "%s", reason == NULL ? "" : reason);
    p->event.epoch = attempt->saga->epoch;
    p->event.sequence = attempt->saga->sequence;
    p->event.answer.step = attempt->step;
    p->event.answer.attempt = attempt->number;
    p->event.answer.answer = answer;
    p->event.answer.sqlstate = p->sqlstate;
    p->event.answer.reason = p->reason;
    p->event.answer.mismatch = mismatch;
    return &p->event;
}

/* -------------------------------------------------------------- attempts */

static struct run_attempt **bucket_of(struct saga_host *h, uint64_t sequence) {
    return &h->attempts[sequence % ATTEMPT_BUCKETS];
}

const struct document_step *saga_host_action(const struct run_attempt *attempt) {
    const struct document *document = attempt->saga->run->document;
    return attempt->op == SAGA_OP_UNDO ? &document->saga_steps[attempt->step].undo : &document->steps[attempt->step];
}

const char *saga_host_step_name(const struct run_attempt *attempt) {
    static char index[16];
    const char *name = attempt->saga->run->document->steps[attempt->step].name;
    (void)snprintf(index, sizeof index, "%u", attempt->step);
    return name != NULL ? name : index;
}

/* Can every reference be resolved? What earlier steps returned does not change: if not now, never. */
static enum ls_status check_references(const struct run_attempt *attempt, struct ls_error *err) {
    const struct document_step *action = saga_host_action(attempt);
    for (uint32_t i = 0; attempt->op != SAGA_OP_CANCEL && i < action->arg_count; i++) {
        const char *text;
        char *owned = NULL;
        if (action->args[i].kind != DOCUMENT_ARG_REF) {
            continue;
        }
        enum ls_status status = run_resolve(attempt->saga->run, &action->args[i], &text, &owned, err);
        free(owned);
        if (status != LS_OK) {
            return status;
        }
    }
    return LS_OK;
}

static struct run_attempt *attempt_new(struct saga_run *r, const struct saga_effect *effect) {
    struct run *run = run_new(NULL, NULL, r->run->app);
    struct run_attempt *attempt = run == NULL ? NULL : calloc(1, sizeof *attempt);
    if (attempt == NULL) {
        if (run != NULL) {
            run_drop(run);
        }
        return NULL;
    }
    *attempt = (struct run_attempt){.run = run,
                                    .saga = r,
                                    .step = effect->step,
                                    .number = effect->attempt,
                                    .op = effect->op,
                                    .sent_us = daemon_now_us()};
    r->references++;
    run->attempt = attempt; /* freed with it */
    return attempt;
}

void saga_host_attempt_free(struct run_attempt *attempt) {
    free(attempt->result.rows_json);
    json_decref(attempt->result.rows);
    saga_run_drop(attempt->saga);
    free(attempt);
}

static bool keep_result(struct run_attempt *attempt);

/* A service has answered, or not in time, or it could not be called. */
static void on_call_done(void *context, struct run_attempt *attempt, struct saga_call_verdict *verdict) {
    struct saga_host *h = context;
    if (verdict->answer == SAGA_ANSWER_DONE) {
        attempt->result.there = true;
        attempt->result.rows_json = verdict->result;
        if (!keep_result(attempt)) {
            verdict->answer = SAGA_ANSWER_ERROR;
            (void)snprintf(verdict->reason, sizeof verdict->reason,
                           "what the steps of this saga have answered is larger than limits.result_bytes");
        }
    } else {
        free(verdict->result);
    }
    struct saga_event *event = queue_answer(h, attempt, verdict->answer, NULL, verdict->business, verdict->reason);
    event->answer.local = verdict->local;
    event->answer.final = verdict->final;
}

static void send_attempt(struct saga_host *h, const struct saga_effect *effect) {
    static const struct engine_step_spec one_step = {.branch = 0};
    struct saga_run *r = effect->saga->host;
    const struct document *document = r->run->document;
    struct run_attempt *attempt = attempt_new(r, effect);
    if (attempt == NULL) {
        fatal_no_memory();
        return;
    }
    h->stats.attempts++;
    h->stats.retries += effect->attempt > 1;
    if (effect->saga->steps[effect->step].call) {
        if (!saga_calls_add(h->calls, attempt)) {
            fatal_no_memory();
        }
        run_drop(attempt->run); /* the queue holds it now */
        return;
    }
    struct ls_error err;
    uint32_t participant = effect->saga->steps[effect->step].participant;
    enum ls_status status = check_references(attempt, &err);
    if (status != LS_OK && status != LS_ERR_NOMEM) {
        /* Forward that is a business error. Backward nothing helps but a human, now as well as after twenty attempts.
         */
        enum saga_answer answer = attempt->op == SAGA_OP_UNDO ? SAGA_ANSWER_BROKEN : SAGA_ANSWER_ERROR;
        (void)queue_answer(h, attempt, answer, NULL, true, err.text);
    } else if (status != LS_OK || !agents_knows_sagas(h->host->agents, participant)) {
        (void)queue_answer(h, attempt, SAGA_ANSWER_UNBEGUN, NULL, false,
                           status != LS_OK ? err.text : "the participant is away, or its agent is too old for sagas");
    } else {
        struct engine_event event = {.kind = EV_RUN};
        event.run.ref = (uint64_t)(uintptr_t)attempt;
        event.run.document = attempt->run;
        event.run.app = r->run->app;
        event.run.participants = &participant;
        event.run.participant_count = 1;
        event.run.steps = &one_step;
        event.run.step_count = 1;
        event.run.deadline_us = daemon_now_us() + document->saga_steps[effect->step].deadline_ms * 1000;
        event.run.gid_form = LS_GID_READABLE;
        h->submitting = attempt;
        host_step(h->host, &event);
        h->submitting = NULL;
    }
    run_drop(attempt->run); /* the engine, or nobody, holds it now */
}

bool saga_host_owns(const struct saga_host *h, uint64_t ref) {
    return h != NULL && h->submitting != NULL && ref == (uint64_t)(uintptr_t)h->submitting;
}

void saga_host_on_accepted(struct saga_host *h, const struct engine_effect *effect) {
    struct run_attempt *attempt = h->submitting;
    run_hold(attempt->run); /* the engine's, until EF_RELEASE */
    run_hold(attempt->run); /* the table's, until the outcome */
    attempt->epoch = effect->txn->epoch;
    attempt->sequence = effect->txn->sequence;
    struct run_attempt **bucket = bucket_of(h, attempt->sequence);
    attempt->next = *bucket;
    *bucket = attempt;
    attempt->saga->unsettled++;
    if (diag_enabled(DIAG_DEBUG)) {
        diag(DIAG_DEBUG, "saga attempt", "gtid", attempt->saga->gtid, "step", diag_u64(attempt->step), "op",
             saga_op_name(attempt->op), "attempt", effect->txn->gtid, NULL);
    }
}

void saga_host_on_refused(struct saga_host *h, const struct engine_effect *effect) {
    (void)effect;
    (void)queue_answer(h, h->submitting, SAGA_ANSWER_UNBEGUN, NULL, false,
                       "its participant is away, or takes no more just now");
}

/* What the step returned is kept for the references of others, and for its client as long as all of them together stay
 * within limits.result_bytes. False: it is a call's, others need it, and it is too much. */
static bool keep_result(struct run_attempt *attempt) {
    struct run *run = attempt->saga->run;
    if (!attempt->result.there) {
        return true;
    }
    if (run->results == NULL) {
        run->results = calloc(run->document->step_count, sizeof *run->results);
        if (run->results == NULL) {
            fatal_no_memory();
            return true;
        }
    }
    struct run_result *to = &run->results[attempt->step];
    bool call = run->document->saga_steps[attempt->step].service != NULL;
    bool referenced = run->document->steps[attempt->step].referenced;
    size_t old = to->rows_json == NULL ? 0 : strlen(to->rows_json);
    size_t length = attempt->result.rows_json == NULL ? 0 : strlen(attempt->result.rows_json);
    bool fits = run->bytes - old + length <= attempt->saga->sagas->host->conf.result_bytes_max;
    if (!fits && (call || !referenced)) { /* what a participant answers to others is bounded by its barrier rows */
        free(attempt->result.rows_json);
        attempt->result = (struct run_result){.there = attempt->result.there, .affected = attempt->result.affected};
        length = 0;
    }
    if (!fits && call && referenced) {
        attempt->result.there = false;
        return false;
    }
    free(to->rows_json);
    json_decref(to->rows);
    *to = attempt->result;
    run->bytes = run->bytes - old + length;
    attempt->result = (struct run_result){0};
    return true;
}

static enum saga_answer barrier_answer(const struct run_attempt *attempt) {
    switch (attempt->barrier) {
    case LOCKSTEP__BARRIER_STATE__BARRIER_DONE:
        return SAGA_ANSWER_DONE;
    case LOCKSTEP__BARRIER_STATE__BARRIER_UNDONE:
        return SAGA_ANSWER_UNDONE;
    case LOCKSTEP__BARRIER_STATE__BARRIER_CANCELLED:
        return SAGA_ANSWER_CANCELLED;
    case _LOCKSTEP__BARRIER_STATE_IS_INT_SIZE:
        break;
    }
    return SAGA_ANSWER_UNKNOWN;
}

static void answer_attempt(struct saga_host *h, struct run_attempt *attempt, const struct txn *txn) {
    const struct txn_cause *cause = &txn->cause;
    bool answered =
        attempt->has_barrier && (txn->outcome == OUTCOME_COMMITTED || strcmp(cause->sqlstate, "LS001") == 0);
    if (answered) {
        enum saga_answer answer = barrier_answer(attempt);
        if (answer == SAGA_ANSWER_DONE) {
            (void)keep_result(attempt);
        }
        (void)queue_answer(h, attempt, answer, NULL, false, NULL);
    } else if (txn->outcome == OUTCOME_COMMITTED) {
        /* It committed, and what it returned was lost with the link: the next attempt is told. */
        (void)queue_answer(h, attempt, SAGA_ANSWER_UNKNOWN, NULL, false, "the answer was lost; it is asked again");
    } else if (txn->outcome == OUTCOME_HAZARD) {
        (void)queue_answer(h, attempt, SAGA_ANSWER_BROKEN, cause->sqlstate, false, cause->reason);
    } else if (strcmp(cause->sqlstate, "LS002") == 0) {
        (void)queue_answer(h, attempt, SAGA_ANSWER_NO_ROW, cause->sqlstate, false, cause->reason);
    } else if (!cause->begun) {
        (void)queue_answer(h, attempt, SAGA_ANSWER_UNBEGUN, cause->sqlstate, false, cause->reason);
    } else {
        bool mismatch = cause->sqlstate[0] == '\0' && cause->has_step && !cause->retryable; /* expect_rows */
        (void)queue_answer(h, attempt, SAGA_ANSWER_ERROR, cause->sqlstate, mismatch, cause->reason);
    }
}

static void tell_forget(struct saga_run *r) {
    if (r->saga != NULL || r->unsettled > 0) {
        return;
    }
    /* Crash: the barrier rows stay, until the agent asks about them. */
    (void)failpoint_hit(FP_saga_before_forget);
    const struct document *document = r->run->document;
    for (uint32_t i = 0; i < document->participant_count; i++) {
        agents_send_forget(r->sagas->host->agents, document->participants[i], r->gtid);
    }
}

bool saga_host_on_outcome(struct saga_host *h, const struct txn *txn) {
    struct run_attempt **link = bucket_of(h, txn->sequence);
    while (*link != NULL && ((*link)->epoch != txn->epoch || (*link)->sequence != txn->sequence)) {
        link = &(*link)->next;
    }
    struct run_attempt *attempt = *link;
    if (attempt == NULL) {
        return false;
    }
    *link = attempt->next;
    /* Crash: asked again, and the barrier answers the same. */
    (void)failpoint_hit(FP_saga_attempt_answered);
    answer_attempt(h, attempt, txn);
    attempt->saga->unsettled--;
    tell_forget(attempt->saga);
    run_drop(attempt->run);
    return true;
}

bool saga_host_forgotten(const struct saga_host *h, const struct ls_gtid *gtid) {
    const struct host *host = h->host;
    struct engine_stats stats;
    engine_stats(host->engine, &stats);
    if (gtid->epoch > host->epoch || (gtid->epoch == host->epoch && gtid->sequence > stats.last_sequence)) {
        return false; /* never handed out: not ours to forget */
    }
    if (saga_find(h->machine, gtid->epoch, gtid->sequence) != NULL) {
        return false;
    }
    bool some_unsettled = h->run_count > saga_count(h->machine);
    for (const struct saga_run *r = h->runs; some_unsettled && r != NULL; r = r->next) {
        if (r->epoch == gtid->epoch && r->sequence == gtid->sequence) {
            return r->saga == NULL && r->unsettled == 0;
        }
    }
    /* unknown here: ended, or this log is a copy from before it began */
    return engine_has_heard(host->engine, gtid->epoch);
}

/* ---------------------------------------------------------------- effects */

static void abandon(struct saga_host *h, const struct saga_effect *effect) {
    const struct saga_run *r = effect->saga->host;
    for (struct run_attempt *call = r->calls; call != NULL; call = call->saga_next) {
        if (call->step == effect->step && call->number == effect->attempt) {
            saga_calls_abandon(h->calls, call); /* its `undo` follows */
            return;
        }
    }
    for (size_t i = 0; r->unsettled > 0 && i < ATTEMPT_BUCKETS; i++) {
        for (struct run_attempt *attempt = h->attempts[i]; attempt != NULL; attempt = attempt->next) {
            if (attempt->saga == r && attempt->step == effect->step && attempt->number == effect->attempt) {
                host_cancel(h->host, attempt->epoch, attempt->sequence, "its saga does not want it any more");
                return;
            }
        }
    }
}

static const char *step_text(const struct saga_run *r, uint32_t step, char *buffer, size_t size) {
    const char *name = step < r->run->document->step_count ? r->run->document->steps[step].name : NULL;
    if (step == UINT32_MAX) {
        return "";
    }
    (void)snprintf(buffer, size, "%u", step);
    return name != NULL ? name : buffer;
}

static void on_state(struct saga_host *h, struct saga *s) {
    struct saga_run *r = s->host;
    char step[16];
    switch (s->state) {
    case SAGA_RUNNING:
    case SAGA_PASSED:
        /* Crash: the record is durable, nothing behind it was sent: the next life goes forward from there. */
        (void)failpoint_hit(s->state == SAGA_PASSED ? FP_saga_passed_durable : FP_saga_begin_durable);
        break;
    case SAGA_COMPENSATING:
        /* Crash: the turn is durable, nothing undone: the next life compensates. */
        (void)failpoint_hit(FP_saga_turn_durable);
        diag(DIAG_INFO, "saga turns", "gtid", r->gtid, "step", step_text(r, s->cause_step, step, sizeof step),
             "sqlstate", s->sqlstate, "reason", s->reason, NULL);
        break;
    case SAGA_STUCK:
        h->stats.stuck_ever++;
        break;
    case SAGA_BEGUN:
    case SAGA_COMPLETED:
    case SAGA_COMPENSATED:
    case SAGA_STATE_COUNT:
        break;
    }
    if (r->begin_position != 0) { /* the first state: the begin record is durable */
        if (r->run->key != NULL) {
            engine_saga_key_durable(h->host->engine, r->run->key_digest, r->begin_position);
        }
        r->begin_position = 0;
    }
    api_on_saga(h->host->api, s);
}

static void on_ended(struct saga_host *h, struct saga *s) {
    struct saga_run *r = s->host;
    /* Crash: nothing is left to do; who asks is told the same. */
    (void)failpoint_hit(FP_saga_end_durable);
    h->stats.completed += s->state == SAGA_COMPLETED;
    h->stats.compensated += s->state == SAGA_COMPENSATED;
    if (diag_enabled(DIAG_DEBUG)) {
        diag(DIAG_DEBUG, "saga ended", "gtid", r->gtid, "state", saga_state_name(s->state), "reason", s->reason, NULL);
    }
    stats_saga(daemon_now_us() - r->begun_us);
    api_on_saga(h->host->api, s);
    engine_saga_release(h->host->engine, r->log_reserved);
    r->log_reserved = 0;
    r->saga = NULL;
    tell_forget(r);
    saga_run_drop(r);
}

static void on_alert(struct saga_host *h, const struct saga_effect *effect) {
    const struct saga_run *r = effect->saga->host;
    char step[16];
    const char *at = step_text(r, effect->saga->cause_step, step, sizeof step);
    bool stuck = effect->saga->state == SAGA_STUCK;
    struct alert alert = {.cause = stuck ? ALERT_DEAD_LETTER : ALERT_SAGA_DEADLINE};
    alert.text = stuck ? "a saga is stuck, see `lockstep dlq show`:" : "a saga is late:";
    alert.gtid = r->gtid;
    alert.reason = effect->text;
    alert.sqlstate = effect->saga->sqlstate;
    alert.step = at;
    (void)alerts_raise(h->host->alerts, &alert);
    h->stats.alerts++;
    diag(DIAG_ERROR, stuck ? "saga is stuck: see `lockstep dlq show`" : "saga alert", "gtid", r->gtid, "step", at,
         "sqlstate", effect->saga->sqlstate, "reason", effect->text, NULL);
}

static void carry_out(struct saga_host *h, const struct saga_effect *effect) {
    switch (effect->kind) {
    case SAGA_FX_LOG_BEGIN:
        log_begin(h, effect);
        return;
    case SAGA_FX_LOG_PHASE:
    case SAGA_FX_LOG_END:
        log_move(h, effect);
        return;
    case SAGA_FX_SEND:
        send_attempt(h, effect);
        return;
    case SAGA_FX_ABANDON:
        abandon(h, effect);
        return;
    case SAGA_FX_STATE:
        on_state(h, effect->saga);
        return;
    case SAGA_FX_ENDED:
        on_ended(h, effect->saga);
        return;
    case SAGA_FX_ALERT:
        on_alert(h, effect);
        return;
    }
    assert(!"saga effect");
}

static void step(struct saga_host *h, struct saga_event *event) {
    event->now_us = daemon_now_us();
    event->unix_ms = claim_unix_ms();
    saga_step(h->machine, event, &h->effects);
    for (size_t i = 0; i < h->effects.count; i++) {
        carry_out(h, &h->effects.list[i]);
    }
}

void saga_host_durable(struct saga_host *h, uint64_t position) {
    uint64_t ticket = 0;
    while (h->tickets != NULL && h->tickets->end <= position) {
        struct saga_ticket *t = h->tickets;
        ticket = t->ticket;
        h->tickets = t->next;
        if (h->tickets == NULL) {
            h->tickets_last = &h->tickets;
        }
        free(t);
    }
    if (ticket != 0) {
        queue_event(h, SAGA_EV_DURABLE)->event.ticket = ticket;
    }
}

void saga_host_drain(struct saga_host *h) {
    for (const struct saga *s = saga_next(h->machine, NULL); s != NULL; s = saga_next(h->machine, s)) {
        api_on_saga(h->host->api, s);
    }
}

void saga_host_up(struct saga_host *h, uint32_t participant) {
    queue_event(h, SAGA_EV_UP)->event.participant = participant;
}

static void on_timer(evutil_socket_t fd, short what, void *context) {
    (void)fd;
    (void)what;
    struct saga_host *h = context;
    h->armed_us = SAGA_NEVER;
    (void)queue_event(h, SAGA_EV_TICK);
}

static void arm_timer(struct saga_host *h) {
    uint64_t due_us = saga_next_timer(h->machine);
    if (due_us == SAGA_NEVER || due_us >= h->armed_us) {
        return;
    }
    if (h->timer == NULL) {
        h->timer = evtimer_new(h->host->base, on_timer, h);
    }
    uint64_t now_us = daemon_now_us(), delay_us = due_us > now_us ? due_us - now_us : 0;
    struct timeval delay = {.tv_sec = (time_t)(delay_us / 1000000), .tv_usec = (suseconds_t)(delay_us % 1000000)};
    if (h->timer != NULL && event_add(h->timer, &delay) == 0) {
        h->armed_us = due_us;
    }
}

static void step_all(struct saga_host *h) {
    while (h->first != NULL) {
        struct pending *p = h->first;
        h->first = p->next;
        if (h->first == NULL) {
            h->last = &h->first;
        }
        step(h, &p->event);
        free(p);
    }
}

void saga_host_turn(struct saga_host *h) {
    step_all(h);
    saga_calls_turn(h->calls);
    step_all(h); /* what could not leave has failed */
    arm_timer(h);
}

/* ------------------------------------------------------------ begin, words */

enum engine_saga_answer saga_host_begin(struct saga_host *h, struct run *run, const char *body, size_t length,
                                        struct engine_saga *saga) {
    struct host *host = h->host;
    const struct document *document = run->document;
    saga->participants = document->participants;
    saga->participant_count = document->participant_count;
    saga->log_need = log_need(document, length);
    saga->why = REFUSE_NOMEM;
    struct saga_run *r = saga_count(h->machine) < host->conf.sagas_max ? saga_run_new(h, run) : NULL;
    if (r == NULL) {
        saga->why = REFUSE_BUSY;
        return ENGINE_SAGA_REFUSED;
    }
    run_hold(run);
    /* Made before it has a name: what can fail comes before the key is taken. */
    struct saga *s = make_saga(h, document, host->epoch, 1);
    enum engine_saga_answer answer = s == NULL ? ENGINE_SAGA_REFUSED : engine_saga_begin(host->engine, saga);
    if (answer != ENGINE_SAGA_BEGUN) {
        saga_free(s);
        saga_run_drop(r);
        return answer;
    }
    s->sequence = saga->sequence;
    s->host = r;
    name_run(r, saga->epoch, saga->sequence);
    r->saga = s;
    r->begun_us = daemon_now_us();
    r->log_reserved = saga->log_need;
    r->body = body;
    r->body_length = length;
    h->stats.begun++;
    struct saga_event event = {.kind = SAGA_EV_BEGIN, .saga = s};
    step(h, &event);
    return ENGINE_SAGA_BEGUN;
}

void saga_host_cancel(struct saga_host *h, const struct saga *saga, const char *who) {
    char reason[LS_IDENTITY_MAX + 64];
    (void)snprintf(reason, sizeof reason, "cancelled by %s", who);
    struct saga_event event = {.kind = SAGA_EV_CANCEL, .epoch = saga->epoch, .sequence = saga->sequence};
    event.reason = reason;
    step(h, &event);
}

static enum ls_status log_audit(struct saga_host *h, struct saga_run *r, enum saga_act act, const char *who,
                                const char *reason) {
    char text[32];
    uint8_t payload[SAGA_LOG_AUDIT_MAX - 64];
    Lockstep__LogAudit record = LOCKSTEP__LOG_AUDIT__INIT;
    (void)snprintf(text, sizeof text, "saga-%s", saga_act_name(act));
    record.who = (char *)(uintptr_t)who;
    record.act = text;
    record.subject = (char *)(uintptr_t)r->gtid;
    record.reason = (char *)(uintptr_t)reason;
    record.unix_ms = claim_unix_ms();
    size_t length = lockstep__log_audit__get_packed_size(&record);
    if (length > sizeof payload) {
        return LS_ERR_TOO_LARGE;
    }
    (void)lockstep__log_audit__pack(&record, payload);
    uint64_t position, end;
    enum ls_status status = dlog_append(h->host->log, DLOG_AUDIT, payload, length, &position, &end);
    if (status == LS_OK) {
        charge(r, length);
    }
    return status;
}

enum ls_status saga_host_operate(struct saga_host *h, const struct saga *saga, enum saga_act act, const char *who,
                                 const char *reason) {
    struct saga_run *r = saga->host;
    uint64_t need = saga_log_missing(r->log_reserved, saga);
    if (!engine_saga_reserve(h->host->engine, need)) {
        return LS_ERR_FULL;
    }
    r->log_reserved += need;
    /* The audit stands before the machine's own record, and the machine waits for that one to be durable. */
    enum ls_status status = log_audit(h, r, act, who, reason);
    if (status != LS_OK) {
        return status;
    }
    diag(DIAG_WARN, "an operator has decided about a stuck saga", "gtid", r->gtid, "act", saga_act_name(act), "by", who,
         "reason", reason, NULL);
    struct saga_event event = {.kind = SAGA_EV_OPERATE, .epoch = saga->epoch, .sequence = saga->sequence};
    event.operate.act = act;
    event.operate.reason = reason;
    step(h, &event);
    return LS_OK;
}

/* ---------------------------------------------------------------- recovery */

static uint32_t participant_number(void *context, const char *name) {
    const struct registry_participant *participant = registry_by_name(context, name);
    return participant == NULL ? 0 : participant->number;
}

/* One that is configured no more is an error of its attempts, not of the log. */
static bool any_service(void *context, const char *name) {
    (void)context;
    (void)name;
    return true;
}

/* Where the monotonic clock would have stood then; a clock that was set back must not lead behind now, nor before 0. */
static uint64_t monotonic_us(uint64_t now_us, uint64_t then_unix_ms, uint64_t unix_ms) {
    uint64_t age_us = unix_ms > then_unix_ms ? (unix_ms - then_unix_ms) * 1000 : 0;
    return now_us > age_us ? now_us - age_us : 0;
}

static uint64_t deadline_left_us(const struct document *document, uint64_t from_unix_ms, uint64_t unix_ms) {
    uint64_t end_ms = from_unix_ms + document->deadline_ms, left_ms = end_ms > unix_ms ? end_ms - unix_ms : 0;
    return (left_ms < document->deadline_ms ? left_ms : document->deadline_ms) * 1000; /* a clock set back: no longer */
}

static enum ls_status recover_one(struct saga_host *h, const struct saga_found *found, struct ls_error *err) {
    struct host *host = h->host;
    const Lockstep__LogSagaBegin *begin = found->begin;
    /* What was allowed when it began is allowed now. */
    struct document_limits limits = {.statements = LS_DEFAULT_STATEMENTS_MAX,
                                     .participants = LS_PARTICIPANTS_PER_TXN_CEILING,
                                     .deadline_ms = host->conf.deadline_ms,
                                     .lock_timeout_ms = host->conf.lock_timeout_ms,
                                     .saga_deadline_ms = host->conf.saga_deadline_ms,
                                     .participant = participant_number,
                                     .context = host->registry,
                                     .service = any_service,
                                     .from_log = true};
    struct document *document;
    struct document_error error;
    if (document_parse((const char *)begin->document.data, begin->document.len, &limits, &document, &error) != LS_OK ||
        !document->saga) {
        return ls_fail(err, LS_ERR_CORRUPT, "the document of saga %u.%" PRIu64 " in the log is refused: %s",
                       found->epoch, found->sequence, error.message);
    }
    struct run *run = run_new(document, NULL, apps_number(host->apps, begin->app));
    struct saga_run *r = run == NULL ? NULL : saga_run_new(h, run);
    struct saga *s = r == NULL ? NULL : make_saga(h, document, found->epoch, found->sequence);
    if (s == NULL) {
        return ls_fail(err, LS_ERR_NOMEM,
                       "out of memory"); /* the start fails: what is left of it goes with the process */
    }
    name_run(r, found->epoch, found->sequence);
    r->saga = s;
    r->log_reserved = log_need(document, begin->document.len);
    engine_saga_adopt(host->engine, r->log_reserved);
    s->host = r;
    s->begun_unix_ms = begin->begun_unix_ms;
    struct saga_event event = {.now_us = daemon_now_us(), .unix_ms = claim_unix_ms()};
    r->begun_us = monotonic_us(event.now_us, begin->begun_unix_ms, event.unix_ms);
    saga_log_restore(s, found->phase, &event);
    uint64_t from_unix_ms = s->deadline_from_unix_ms != 0 ? s->deadline_from_unix_ms : begin->begun_unix_ms;
    event.recover.deadline_left_us = deadline_left_us(document, from_unix_ms, event.unix_ms);
    saga_step(h->machine, &event, &h->effects);
    assert(h->effects.count == 0);
    return LS_OK;
}

enum ls_status saga_host_recover(struct saga_host *h, const struct saga_fold *fold, struct ls_error *err) {
    const struct saga_found **list;
    size_t count;
    enum ls_status status = saga_fold_open(fold, &list, &count, err);
    if (status != LS_OK) {
        return status;
    }
    for (size_t i = 0; i < count && status == LS_OK; i++) {
        status = recover_one(h, list[i], err);
    }
    free(list);
    size_t stuck = 0;
    for (const struct saga *s = saga_next(h->machine, NULL); s != NULL; s = saga_next(h->machine, s)) {
        stuck += s->state == SAGA_STUCK;
    }
    if (stuck > 0) { /* an alert of the life before may have gone with it */
        struct alert alert = {.cause = ALERT_DEAD_LETTER, .text = "dead letters wait, see `lockstep dlq list`"};
        (void)alerts_raise(h->host->alerts, &alert);
        diag(DIAG_WARN, alert.text, "count", diag_u64(stuck), NULL);
    }
    if (status == LS_OK && count > 0) {
        diag(DIAG_INFO, "sagas go on", "open", diag_u64(count), NULL);
    }
    return status;
}

void saga_host_stats(const struct saga_host *h, struct saga_host_stats *ret_stats) {
    *ret_stats = h->stats;
    uint64_t now_us = daemon_now_us();
    for (const struct saga *s = saga_next(h->machine, NULL); s != NULL; s = saga_next(h->machine, s)) {
        ret_stats->by_state[s->state]++;
        double age_s = (double)(now_us - ((const struct saga_run *)s->host)->begun_us) / 1e6;
        ret_stats->oldest_s = age_s > ret_stats->oldest_s ? age_s : ret_stats->oldest_s;
    }
}
