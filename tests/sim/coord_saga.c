/* coord_saga.c: see coord_saga.h. */
#include "tests/sim/coord_saga.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "lockstep/ids.h"
#include "tests/sim/check.h"
#include "tests/sim/check_saga.h"
#include "tests/sim/coord_host.h"

#define ATTEMPTS_MAX 256u
#define TICKETS_MAX 1024u
#define ATTEMPT_REF (UINT64_C(1) << 40) /* apart from the numbers of requests */
#define SAGAS_MAX 64u

struct result {
    bool there;
    uint64_t value;
};

/* What the host keeps of one saga: saga->host. */
struct saga_run {
    bool used;
    const struct sim_doc *doc;
    char gtid[LS_GTID_MAX + 1];
    uint32_t epoch;
    uint64_t sequence;
    struct saga *saga;  /* NULL once it has ended */
    uint32_t unsettled; /* attempts of this life whose transaction has no outcome yet */
    uint64_t log_reserved, begin_position;
    struct result results[SIM_STEPS_MAX];
};

struct sim_attempt {
    bool used;
    struct saga_run *run;
    uint32_t epoch, step, number;
    uint64_t sequence;
    enum saga_op op;
    bool has_barrier;
    enum agent_barrier barrier;
    struct result result;
};

/* Something for the machine, found while it or the engine was busy. */
struct pending {
    struct pending *next;
    struct saga_event event;
    char sqlstate[LS_SQLSTATE_LEN + 1], reason[LS_REASON_MAX + 1];
};

struct sim_sagas {
    struct sagas *machine;
    struct saga_effects effects;
    struct saga_run runs[SAGAS_MAX];
    struct sim_attempt attempts[ATTEMPTS_MAX], *submitting;
    struct pending *first, **last;
    struct {
        uint64_t ticket, end;
    } tickets[TICKETS_MAX];
    size_t ticket_first, ticket_count;
    bool turning;
};

struct sim_sagas *sagas_host_new(struct world *world, uint32_t epoch) {
    struct sim_sagas *h = calloc(1, sizeof *h);
    assert(h != NULL);
    h->last = &h->first;
    h->machine = sagas_new(epoch, rng_next(&world->rng));
    assert(h->machine != NULL);
    return h;
}

void sagas_host_free(struct sim_sagas *h) {
    if (h == NULL) {
        return;
    }
    while (h->first != NULL) {
        struct pending *p = h->first;
        h->first = p->next;
        free(p);
    }
    sagas_free(h->machine);
    saga_effects_free(&h->effects);
    free(h);
}

static struct saga_run *new_run(struct sim_sagas *h, const struct sim_doc *doc) {
    for (size_t i = 0; i < SAGAS_MAX; i++) {
        if (!h->runs[i].used) {
            h->runs[i] = (struct saga_run){.used = true, .doc = doc};
            return &h->runs[i];
        }
    }
    return NULL;
}

static void name_run(const struct world *world, struct saga_run *r, uint32_t epoch, uint64_t sequence) {
    struct ls_gtid gtid = {.epoch = epoch, .sequence = sequence};
    snprintf(gtid.coordinator, sizeof gtid.coordinator, SIM_COORDINATOR);
    snprintf(gtid.incarnation, sizeof gtid.incarnation, "%s", sim_incarnation(world));
    r->epoch = epoch;
    r->sequence = sequence;
    ls_gtid_format(&gtid, r->gtid);
}

/* The one of a saga that has ended goes when nothing of it is on its way any more. */
static void drop_if_over(struct saga_run *r) {
    if (r->saga == NULL && r->unsettled == 0) {
        r->used = false;
    }
}

static struct saga *make_saga(struct world *world, struct sim_sagas *h, const struct sim_doc *doc, uint32_t epoch,
                              uint64_t sequence) {
    struct saga_step_spec steps[SIM_STEPS_MAX];
    for (uint32_t i = 0; i < doc->step_count; i++) {
        const struct sim_step *from = &doc->steps[i];
        steps[i] = (struct saga_step_spec){.participant = coord_number_of(world, doc->participants[from->branch]),
                                           .kind = from->kind,
                                           .attempts = doc->attempts,
                                           .after_count = from->after_count,
                                           .after = from->after,
                                           .referenced = from->referenced,
                                           .undo_refers = from->undo_refers >= 0};
    }
    struct saga_spec spec = {
        .steps = steps, .step_count = doc->step_count, .deadline_us = world->options.saga_deadline_ms * MS};
    struct saga *saga = saga_new(h->machine, epoch, sequence, &spec);
    assert(saga != NULL);
    return saga;
}

/* --------------------------------------------------------------------- log */

static void charge(struct world *world, struct saga_run *r, size_t length) {
    uint64_t used = length + 64 < r->log_reserved ? length + 64 : r->log_reserved;
    r->log_reserved -= used;
    engine_saga_release(coord_engine(world), used);
    coord_log_appended(world);
}

static uint64_t append(struct world *world, struct sim_sagas *h, struct saga_run *r, enum dlog_type type,
                       const uint8_t *payload, size_t length, uint64_t ticket) {
    uint64_t position, end;
    enum ls_status status = dlog_append(coord_log(world), type, payload, length, &position, &end);
    if (status != LS_OK) {
        world_wrong(world, "a record of a saga, for which room was reserved, cannot be appended: %s",
                    ls_status_text(status));
    }
    charge(world, r, length);
    assert(h->ticket_count < TICKETS_MAX);
    size_t at = (h->ticket_first + h->ticket_count++) % TICKETS_MAX;
    h->tickets[at].ticket = ticket;
    h->tickets[at].end = end;
    return position;
}

/* The document as the log keeps it: who finds it knows where it stands, the rest is there for its size. */
static size_t body_of(const struct sim_doc *doc, char *body) {
    size_t length = (size_t)snprintf(body, 32, "%u %u ", doc->client, doc->number);
    memset(body + length, 'x', doc->body_length - length);
    return doc->body_length;
}

static void log_begin(struct world *world, struct sim_sagas *h, const struct saga_effect *e) {
    static uint8_t payload[LS_LOG_RECORD_MAX];
    static char body[LS_LOG_RECORD_MAX];
    struct saga_run *r = e->saga->host;
    uint8_t digest[16];
    Lockstep__LogSagaBegin record = LOCKSTEP__LOG_SAGA_BEGIN__INIT;
    record.epoch = r->epoch;
    record.sequence = r->sequence;
    record.app = (char *)(uintptr_t) "app/sim";
    record.document = (ProtobufCBinaryData){.len = body_of(r->doc, body), .data = (uint8_t *)body};
    record.begun_unix_ms = e->saga->begun_unix_ms;
    if (r->doc->has_key) {
        XXH128_hash_t key = XXH3_128bits(r->doc->key, strlen(r->doc->key));
        memcpy(digest, &key, sizeof digest);
        record.has_key_digest = record.has_document_digest = true;
        record.key_digest = (ProtobufCBinaryData){.len = sizeof digest, .data = digest};
        record.document_digest =
            (ProtobufCBinaryData){.len = sizeof r->doc->hash, .data = (uint8_t *)(uintptr_t)r->doc->hash};
    }
    size_t length = lockstep__log_saga_begin__pack(&record, payload);
    assert(world->who == 0); /* clients do not reach a copy */
    check_saga_logged(world, e->saga, SAGA_BEGUN, payload, length);
    r->begin_position = append(world, h, r, DLOG_SAGA_BEGIN, payload, length, e->ticket);
}

static void log_move(struct world *world, struct sim_sagas *h, const struct saga_effect *e) {
    static uint8_t payload[LS_LOG_RECORD_MAX];
    bool end = e->kind == SAGA_FX_LOG_END;
    uint64_t unix_ms = coord_wall_clock_ms(world);
    size_t length = end ? saga_log_end(e->saga, unix_ms, payload) : saga_log_phase(e->saga, unix_ms, payload);
    if (world->who == 0) {
        check_saga_logged(world, e->saga, e->saga->to, payload, length);
    }
    (void)append(world, h, e->saga->host, end ? DLOG_SAGA_END : DLOG_SAGA_PHASE, payload, length, e->ticket);
}

/* ---------------------------------------------------------------- machine */

static struct pending *queue_event(struct sim_sagas *h, enum saga_event_kind kind) {
    struct pending *p = calloc(1, sizeof *p);
    assert(p != NULL);
    p->event.kind = kind;
    *h->last = p;
    h->last = &p->next;
    return p;
}

static void queue_answer(struct sim_sagas *h, const struct sim_attempt *attempt, enum saga_answer answer,
                         const char *sqlstate, bool mismatch, const char *reason) {
    struct pending *p = queue_event(h, SAGA_EV_ANSWER);
    snprintf(p->sqlstate, sizeof p->sqlstate, "%s", sqlstate);
    snprintf(p->reason, sizeof p->reason, "%s", reason);
    p->event.epoch = attempt->run->epoch;
    p->event.sequence = attempt->run->sequence;
    p->event.answer.step = attempt->step;
    p->event.answer.attempt = attempt->number;
    p->event.answer.answer = answer;
    p->event.answer.sqlstate = p->sqlstate;
    p->event.answer.reason = p->reason;
    p->event.answer.mismatch = mismatch;
}

/* -------------------------------------------------------------- attempts */

static struct sim_attempt *new_attempt(struct sim_sagas *h, const struct saga_effect *e) {
    for (size_t i = 0; i < ATTEMPTS_MAX; i++) {
        if (!h->attempts[i].used) {
            h->attempts[i] = (struct sim_attempt){
                .used = true, .run = e->saga->host, .step = e->step, .number = e->attempt, .op = e->op};
            return &h->attempts[i];
        }
    }
    assert(!"too many attempts under way");
    return NULL;
}

static struct sim_attempt *find_attempt(struct sim_sagas *h, uint32_t epoch, uint64_t sequence) {
    for (size_t i = 0; i < ATTEMPTS_MAX; i++) {
        struct sim_attempt *a = &h->attempts[i];
        if (a->used && a->sequence == sequence && a->epoch == epoch) {
            return a;
        }
    }
    return NULL;
}

/* What earlier steps returned does not change: if it is not there now, it never will be. */
static bool reference_is_there(const struct sim_attempt *attempt) {
    const struct sim_step *step = &attempt->run->doc->steps[attempt->step];
    int refers = attempt->op == SAGA_OP_DO ? step->do_refers : attempt->op == SAGA_OP_UNDO ? step->undo_refers : -1;
    return refers < 0 || attempt->run->results[refers].there;
}

static void send_attempt(struct world *world, struct sim_sagas *h, const struct saga_effect *e) {
    static const struct engine_step_spec one_step = {.branch = 0};
    struct sim_attempt *attempt = new_attempt(h, e);
    uint32_t number = e->saga->steps[e->step].participant;
    world_trace(world, world->who == SIM_STALE ? "stale" : "coord", "sends", "%s step %u %s attempt %u",
                attempt->run->gtid, e->step, saga_op_name(e->op), e->attempt);
    if (world->who == SIM_STALE) { /* its names are those of the coordinator's next life: the books know one of each */
        queue_answer(h, attempt, SAGA_ANSWER_UNBEGUN, "", false, "a copy sends nothing");
        attempt->used = false;
        return;
    }
    check_saga_sent(world, e->saga, e->step, e->op);
    if (!reference_is_there(attempt)) {
        enum saga_answer answer = attempt->op == SAGA_OP_UNDO ? SAGA_ANSWER_BROKEN : SAGA_ANSWER_ERROR;
        queue_answer(h, attempt, answer, "", true, "what it refers to is not there");
        attempt->used = false;
    } else if (!coord_is_linked(world, number)) {
        queue_answer(h, attempt, SAGA_ANSWER_UNBEGUN, "", false, "the participant is away");
        attempt->used = false;
    } else {
        struct engine_event event = {.kind = EV_RUN};
        event.run.ref = ATTEMPT_REF;
        event.run.document = attempt;
        event.run.app = 1;
        event.run.participants = &number;
        event.run.participant_count = 1;
        event.run.steps = &one_step;
        event.run.step_count = 1;
        event.run.deadline_us = world->now_us + world->options.deadline_ms * MS;
        event.run.gid_form = LS_GID_READABLE;
        h->submitting = attempt;
        coord_engine_step(world, &event);
    }
}

bool sagas_host_owns(const struct sim_sagas *h, uint64_t ref) {
    return h->submitting != NULL && ref == ATTEMPT_REF;
}

void sagas_host_on_accepted(struct world *world, struct sim_sagas *h, const struct engine_effect *effect) {
    struct sim_attempt *attempt = h->submitting;
    attempt->epoch = effect->txn->epoch;
    attempt->sequence = effect->txn->sequence;
    attempt->run->unsettled++;
    h->submitting = NULL;
    check_attempt(world, attempt->epoch, attempt->sequence, effect->txn->gtid,
                  coord_participant_of(world, effect->txn->branches[0].participant));
}

void sagas_host_on_refused(struct sim_sagas *h) {
    queue_answer(h, h->submitting, SAGA_ANSWER_UNBEGUN, "", false, "its participant takes no more just now");
    h->submitting->used = false;
    h->submitting = NULL;
}

void sagas_host_on_vote(struct sim_sagas *h, const struct ls_gtid *gtid, const Lockstep__Vote *vote) {
    struct sim_attempt *attempt = find_attempt(h, gtid->epoch, gtid->sequence);
    if (attempt == NULL) {
        return;
    }
    if (vote->has_barrier) {
        attempt->has_barrier = true;
        attempt->barrier = (enum agent_barrier)vote->barrier;
    }
    if (vote->n_results > 0 && !attempt->result.there) {
        attempt->result = (struct result){true, (uint64_t)vote->results[0]->rows_affected};
    }
}

/* Its saga has not sent another one instead. */
static bool is_awaited(const struct sim_attempt *attempt) {
    const struct saga_step *step = &attempt->run->saga->steps[attempt->step];
    return step->op == attempt->op && step->attempt == attempt->number;
}

static void answer_attempt(struct world *world, struct sim_sagas *h, struct sim_attempt *attempt,
                           const struct txn *txn) {
    static const enum saga_answer answers[] = {[AGENT_BARRIER_DONE] = SAGA_ANSWER_DONE,
                                               [AGENT_BARRIER_UNDONE] = SAGA_ANSWER_UNDONE,
                                               [AGENT_BARRIER_CANCELLED] = SAGA_ANSWER_CANCELLED};
    const struct txn_cause *cause = &txn->cause;
    bool answered =
        attempt->has_barrier && (txn->outcome == OUTCOME_COMMITTED || strcmp(cause->sqlstate, "LS001") == 0);
    if (answered) {
        if (attempt->barrier == AGENT_BARRIER_DONE) {
            if (attempt->run->saga != NULL) {
                check_saga_result(world, attempt->run->saga, attempt->step, attempt->result.there,
                                  attempt->result.value);
            }
            attempt->run->results[attempt->step] = attempt->result;
        }
        check_saga_afresh(world, attempt->run->epoch, attempt->run->sequence);
        queue_answer(h, attempt, answers[attempt->barrier], "", false, "");
    } else if (txn->outcome == OUTCOME_COMMITTED) {
        queue_answer(h, attempt, SAGA_ANSWER_UNKNOWN, "", false, "the answer was lost; it is asked again");
    } else if (txn->outcome == OUTCOME_HAZARD) {
        queue_answer(h, attempt, SAGA_ANSWER_BROKEN, cause->sqlstate, false, cause->reason);
    } else if (strcmp(cause->sqlstate, "LS002") == 0) {
        queue_answer(h, attempt, SAGA_ANSWER_NO_ROW, cause->sqlstate, false, cause->reason);
    } else if (!cause->begun) {
        queue_answer(h, attempt, SAGA_ANSWER_UNBEGUN, cause->sqlstate, false, cause->reason);
    } else {
        if (attempt->run->saga != NULL && is_awaited(attempt)) {
            check_saga_failed(world, attempt->run->saga, attempt->step, attempt->op);
        }
        queue_answer(h, attempt, SAGA_ANSWER_ERROR, cause->sqlstate, false, cause->reason);
    }
}

static void tell_forget(struct world *world, struct saga_run *r) {
    if (r->saga != NULL || r->unsettled > 0) {
        return;
    }
    for (uint32_t i = 0; i < r->doc->participant_count; i++) {
        coord_send_forget(world, coord_number_of(world, r->doc->participants[i]), r->gtid);
    }
}

bool sagas_host_on_outcome(struct world *world, struct sim_sagas *h, const struct txn *txn) {
    struct sim_attempt *attempt = find_attempt(h, txn->epoch, txn->sequence);
    if (attempt == NULL) {
        return false;
    }
    answer_attempt(world, h, attempt, txn);
    attempt->run->unsettled--;
    tell_forget(world, attempt->run);
    drop_if_over(attempt->run);
    attempt->used = false;
    return true;
}

const struct pg_statement *sagas_host_work(struct sim_sagas *h, const struct txn *txn, Lockstep__SagaStep *ret_saga,
                                           uint32_t *ret_step, bool *ret_cancel) {
    static const struct pg_statement nothing;
    static struct pg_statement undo;
    static char step[16];
    const struct sim_attempt *attempt = find_attempt(h, txn->epoch, txn->sequence);
    if (attempt == NULL) {
        return NULL;
    }
    snprintf(step, sizeof step, "%u", attempt->step);
    ret_saga->saga = attempt->run->gtid;
    ret_saga->step = step;
    ret_saga->op = attempt->op == SAGA_OP_DO     ? LOCKSTEP__SAGA_OP__SAGA_DO
                   : attempt->op == SAGA_OP_UNDO ? LOCKSTEP__SAGA_OP__SAGA_UNDO
                                                 : LOCKSTEP__SAGA_OP__SAGA_CANCEL;
    *ret_step = attempt->step;
    *ret_cancel = attempt->op == SAGA_OP_CANCEL;
    if (attempt->op == SAGA_OP_UNDO) {
        undo = (struct pg_statement){.kind = PG_WRITE, .row = attempt->run->doc->steps[attempt->step].statement.row};
        return &undo;
    }
    return *ret_cancel ? &nothing : &attempt->run->doc->steps[attempt->step].statement;
}

bool sagas_host_forgotten(struct world *world, const struct sim_sagas *h, const struct ls_gtid *gtid) {
    struct engine_stats stats;
    engine_stats(coord_engine(world), &stats);
    uint32_t epoch = coord_epoch(world);
    if (gtid->epoch > epoch || (gtid->epoch == epoch && gtid->sequence > stats.last_sequence) ||
        saga_find(h->machine, gtid->epoch, gtid->sequence) != NULL) {
        return false;
    }
    for (size_t i = 0; i < SAGAS_MAX; i++) {
        const struct saga_run *r = &h->runs[i];
        if (r->used && r->epoch == gtid->epoch && r->sequence == gtid->sequence) {
            return r->saga == NULL && r->unsettled == 0;
        }
    }
    return engine_has_heard(coord_engine(world), gtid->epoch);
}

/* ---------------------------------------------------------------- effects */

/* "If that is easy": here it often is not, so that forward actions come late. */
static void abandon(struct world *world, struct sim_sagas *h, const struct saga_effect *e) {
    if (world_fault(world, 500)) {
        return;
    }
    for (size_t i = 0; i < ATTEMPTS_MAX; i++) {
        const struct sim_attempt *a = &h->attempts[i];
        if (a->used && a->run == e->saga->host && a->step == e->step && a->number == e->attempt && a->sequence != 0) {
            struct engine_event event = {.kind = EV_CANCEL};
            event.cancel.epoch = a->epoch;
            event.cancel.sequence = a->sequence;
            event.cancel.reason = "its saga does not want it any more";
            coord_engine_step(world, &event);
            return;
        }
    }
}

static void on_state(struct world *world, struct saga *s) {
    struct saga_run *r = s->host;
    world_trace(world, world->who == SIM_STALE ? "stale" : "coord", "saga", "%s is %s %s", r->gtid,
                saga_state_name(s->state), s->reason);
    check_saga_afresh(world, s->epoch, s->sequence);
    sim_coverage.stuck += s->state == SAGA_STUCK ? 1u : 0u;
    sim_coverage.turned += s->state == SAGA_COMPENSATING ? 1u : 0u;
    sim_coverage.passed += s->state == SAGA_PASSED ? 1u : 0u;
    if (r->begin_position != 0 && r->doc->has_key) {
        uint8_t digest[16];
        XXH128_hash_t key = XXH3_128bits(r->doc->key, strlen(r->doc->key));
        memcpy(digest, &key, sizeof digest);
        engine_saga_key_durable(coord_engine(world), digest, r->begin_position);
    }
    r->begin_position = 0;
    coord_on_saga(world, s);
}

static void on_ended(struct world *world, struct saga *s) {
    struct saga_run *r = s->host;
    world_trace(world, world->who == SIM_STALE ? "stale" : "coord", "saga", "%s is %s", r->gtid,
                saga_state_name(s->state));
    if (world->who != SIM_STALE) {
        check_saga_ended(world, s);
    }
    coord_on_saga(world, s);
    engine_saga_release(coord_engine(world), r->log_reserved);
    r->log_reserved = 0;
    r->saga = NULL;
    tell_forget(world, r);
    drop_if_over(r);
}

static void carry_out(struct world *world, struct sim_sagas *h, const struct saga_effect *e) {
    switch (e->kind) {
    case SAGA_FX_LOG_BEGIN:
        log_begin(world, h, e);
        return;
    case SAGA_FX_LOG_PHASE:
    case SAGA_FX_LOG_END:
        log_move(world, h, e);
        return;
    case SAGA_FX_SEND:
        send_attempt(world, h, e);
        return;
    case SAGA_FX_ABANDON:
        abandon(world, h, e);
        return;
    case SAGA_FX_STATE:
        on_state(world, e->saga);
        return;
    case SAGA_FX_ENDED:
        on_ended(world, e->saga);
        return;
    case SAGA_FX_ALERT:
        return;
    }
    assert(!"saga effect");
}

/* False: the process dies of it. */
static bool step(struct world *world, struct sim_sagas *h, struct saga_event *event) {
    event->now_us = world->now_us;
    event->unix_ms = coord_wall_clock_ms(world);
    saga_step(h->machine, event, &h->effects);
    saga_check(h->machine);
    for (size_t i = 0; i < h->effects.count; i++) {
        if (coord_dies(world)) {
            return false;
        }
        carry_out(world, h, &h->effects.list[i]);
    }
    return !coord_dies(world);
}

void sagas_host_durable(struct sim_sagas *h, uint64_t position) {
    uint64_t ticket = 0;
    while (h->ticket_count > 0 && h->tickets[h->ticket_first].end <= position) {
        ticket = h->tickets[h->ticket_first].ticket;
        h->ticket_first = (h->ticket_first + 1) % TICKETS_MAX;
        h->ticket_count--;
    }
    if (ticket != 0) {
        queue_event(h, SAGA_EV_DURABLE)->event.ticket = ticket;
    }
}

void sagas_host_up(struct sim_sagas *h, uint32_t number) {
    queue_event(h, SAGA_EV_UP)->event.participant = number;
}

void sagas_host_tick(struct sim_sagas *h) {
    (void)queue_event(h, SAGA_EV_TICK);
}

uint64_t sagas_host_next_timer(const struct sim_sagas *h) {
    return saga_next_timer(h->machine);
}

void sagas_host_turn(struct world *world, struct sim_sagas *h) {
    if (h->turning) {
        return;
    }
    bool alive = !coord_dies(world);
    h->turning = true;
    while (alive && h->first != NULL) {
        struct pending *p = h->first;
        h->first = p->next;
        if (h->first == NULL) {
            h->last = &h->first;
        }
        alive = step(world, h, &p->event);
        free(p);
    }
    h->turning = false;
}

/* ------------------------------------------------------------ begin, words */

enum engine_saga_answer sagas_host_begin(struct world *world, struct sim_sagas *h, const struct sim_doc *doc,
                                         struct engine_saga *saga) {
    saga->log_need = saga_log_need(doc->body_length, doc->step_count);
    saga->why = REFUSE_BUSY;
    struct saga_run *r = new_run(h, doc);
    if (r == NULL) {
        return ENGINE_SAGA_REFUSED;
    }
    struct saga *s = make_saga(world, h, doc, coord_epoch(world), 1);
    enum engine_saga_answer answer = engine_saga_begin(coord_engine(world), saga);
    if (answer != ENGINE_SAGA_BEGUN) {
        saga_free(s);
        r->used = false;
        return answer;
    }
    s->sequence = saga->sequence;
    s->host = r;
    name_run(world, r, saga->epoch, saga->sequence);
    r->saga = s;
    r->log_reserved = saga->log_need;
    check_saga_begun(world, saga->epoch, saga->sequence, doc);
    h->turning = true;
    struct saga_event event = {.kind = SAGA_EV_BEGIN, .saga = s};
    (void)step(world, h, &event);
    h->turning = false;
    return ENGINE_SAGA_BEGUN;
}

void sagas_host_cancel(struct world *world, struct sim_sagas *h, uint32_t epoch, uint64_t sequence) {
    (void)world;
    struct pending *p = queue_event(h, SAGA_EV_CANCEL);
    p->event.epoch = epoch;
    p->event.sequence = sequence;
    p->event.reason = "cancelled by the client";
}

static void log_audit(struct world *world, struct saga_run *r) {
    uint8_t payload[SAGA_LOG_AUDIT_MAX];
    Lockstep__LogAudit record = LOCKSTEP__LOG_AUDIT__INIT;
    record.who = record.act = record.reason = (char *)(uintptr_t) "operator";
    record.subject = r->gtid;
    record.unix_ms = coord_wall_clock_ms(world);
    size_t length = lockstep__log_audit__pack(&record, payload);
    uint64_t position, end;
    if (dlog_append(coord_log(world), DLOG_AUDIT, payload, length, &position, &end) != LS_OK) {
        world_wrong(world, "an operator's word, for which room was reserved, does not fit into the log");
    }
    charge(world, r, length);
}

static bool may_skip(const struct saga *s) {
    const struct saga_run *r = s->host;
    return saga_may(s, SAGA_ACT_SKIP) == NULL &&
           (s->from == SAGA_COMPENSATING || !r->doc->steps[s->cause_step].referenced);
}

/* What a server has lost with its WAL comes back by no attempt. */
static bool refers_to_nothing(const struct saga *s) {
    const struct saga_run *r = s->host;
    if (s->state != SAGA_STUCK || s->from != SAGA_COMPENSATING) {
        return false;
    }
    int refers = r->doc->steps[s->cause_step].undo_refers;
    return refers >= 0 && !r->results[refers].there;
}

void sagas_host_operate(struct world *world, struct sim_sagas *h, bool any) {
    for (const struct saga *s = saga_next(h->machine, NULL); s != NULL; s = saga_next(h->machine, s)) {
        struct saga_run *r = s->host;
        enum saga_act act = any                    ? (enum saga_act)rng_below(&world->rng, 3)
                            : refers_to_nothing(s) ? SAGA_ACT_SKIP
                                                   : SAGA_ACT_RETRY;
        uint64_t need = saga_log_missing(r->log_reserved, s);
        if (saga_may(s, act) != NULL || (act == SAGA_ACT_SKIP && !may_skip(s)) ||
            !engine_saga_reserve(coord_engine(world), need)) {
            continue;
        }
        r->log_reserved += need;
        sim_coverage.operated++;
        world_trace(world, "coord", "operator", "%s %s", saga_act_name(act), r->gtid);
        log_audit(world, r);
        check_saga_afresh(world, s->epoch, s->sequence);
        if (act == SAGA_ACT_SKIP) {
            check_saga_skipped(world, s, s->cause_step);
        }
        struct pending *p = queue_event(h, SAGA_EV_OPERATE);
        p->event.epoch = s->epoch;
        p->event.sequence = s->sequence;
        p->event.operate.act = act;
        p->event.operate.reason = "an operator";
    }
}

const struct sagas *sagas_host_machine(const struct sim_sagas *h) {
    return h->machine;
}

const struct saga *sagas_host_find(const struct sim_sagas *h, uint32_t epoch, uint64_t sequence) {
    return saga_find(h->machine, epoch, sequence);
}

size_t sagas_host_count(const struct sim_sagas *h) {
    return saga_count(h->machine);
}

/* ---------------------------------------------------------------- recovery */

static uint64_t deadline_left_us(uint64_t deadline_ms, uint64_t begun_unix_ms, uint64_t unix_ms) {
    uint64_t end_ms = begun_unix_ms + deadline_ms, left_ms = end_ms > unix_ms ? end_ms - unix_ms : 0;
    return (left_ms < deadline_ms ? left_ms : deadline_ms) * MS; /* a clock set back: no longer */
}

static void recover_one(struct world *world, struct sim_sagas *h, const struct saga_found *found) {
    const Lockstep__LogSagaBegin *begin = found->begin;
    unsigned client, number;
    char text[32];
    snprintf(text, sizeof text, "%.*s", (int)(begin->document.len < 31 ? begin->document.len : 31),
             (const char *)begin->document.data);
    if (sscanf(text, "%u %u ", &client, &number) != 2) {
        world_wrong(world, "the document of saga %u.%llu has come out garbled", found->epoch,
                    (unsigned long long)found->sequence);
    }
    const struct sim_doc *doc = client_doc(world, client, number);
    struct saga_run *r = new_run(h, doc);
    assert(r != NULL);
    struct saga *s = make_saga(world, h, doc, found->epoch, found->sequence);
    name_run(world, r, found->epoch, found->sequence);
    r->saga = s;
    r->log_reserved = saga_log_need(begin->document.len, doc->step_count);
    engine_saga_adopt(coord_engine(world), r->log_reserved);
    s->host = r;
    s->begun_unix_ms = begin->begun_unix_ms;
    struct saga_event event = {.now_us = world->now_us, .unix_ms = coord_wall_clock_ms(world)};
    saga_log_restore(s, found->phase, &event);
    uint64_t from_unix_ms = s->deadline_from_unix_ms != 0 ? s->deadline_from_unix_ms : begin->begun_unix_ms;
    event.recover.deadline_left_us = deadline_left_us(world->options.saga_deadline_ms, from_unix_ms, event.unix_ms);
    saga_step(h->machine, &event, &h->effects);
    assert(h->effects.count == 0);
    sim_coverage.recovered++;
    check_saga_afresh(world, found->epoch, found->sequence);
}

void sagas_host_recover(struct world *world, struct sim_sagas *h, const struct saga_fold *fold) {
    const struct saga_found **list;
    size_t count;
    struct ls_error err;
    if (saga_fold_open(fold, &list, &count, &err) != LS_OK) {
        world_wrong(world, "recovery: %s", err.text);
    }
    for (size_t i = 0; i < count; i++) {
        recover_one(world, h, list[i]);
    }
    free(list);
}
