/*
 * agents.c: see agents.h.
 *
 *   LINK_NEW          accepted; only Hello may come
 *   LINK_REGISTERING  the participant is new: its record is with the log (struct newcomer), nobody was told its number
 *   LINK_UP           welcomed; the engine knows the link
 *   LINK_CLOSING      an error was said, or a newer link took its place; what still comes is dropped
 */
#include "coordinator/agents.h"

#include <assert.h>
#include <event2/listener.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/acceptor.h"
#include "common/daemon.h"
#include "common/diag.h"
#include "common/failpoint.h"
#include "common/peer.h"
#include "coordinator/alert.h"
#include "coordinator/api/api.h"
#include "coordinator/coordmsg.h"
#include "coordinator/host.h"
#include "coordinator/reprove.h"
#include "coordinator/run.h"
#include "coordinator/saga_host.h"
#include "coordinator/stats.h"

#define PROVE_BATCH 64u           /* items of one Prove */
#define REPROVE_WAIT_MS_MIN 1000u /* before proving that has failed is tried again, doubled each time up to */
#define REPROVE_WAIT_MS_MAX 60000u
#define PROVE_OUTSTANDING_MAX 256u /* unanswered proofs per link, so that they do not crowd out work */

enum link_state { LINK_NEW, LINK_REGISTERING, LINK_UP, LINK_CLOSING };

struct link {
    struct agents *agents;
    struct link *next, **place; /* all links */
    struct peer *peer;
    enum link_state state;
    uint64_t opened_us; /* 0: still in its handshake, which has a deadline of its own */
    uint64_t id;
    struct registry_participant *participant; /* from LINK_UP on */
    Lockstep__Hello *hello;                   /* a copy */
    bool ready;
    bool has_chain;
    uint64_t chain;
    /* its history differs from what the registry says */
    bool history_changed;
    struct reprove *reprove;
    enum reprove_state reprove_state;
    uint64_t reprove_due_us; /* after a failure: when it is tried again */
    uint32_t reprove_failures;
    struct proof {
        uint32_t epoch;
        uint64_t sequence;
    } proofs[PROVE_OUTSTANDING_MAX]; /* asked for and not answered */
    uint32_t proofs_outstanding;
    uint64_t proof_us; /* when one was last sent or answered */
};

/* A name whose record is with the log and not durable yet. It outlives the link that brought it: what the log may hold
 * is never taken back, and its number is nobody else's. */
struct newcomer {
    struct newcomer *next;
    uint32_t number, timeline;
    uint64_t system_id, logged_at;
    char name[LS_PARTICIPANT_MAX + 1];
};

/* Memory for the parts of one outgoing frame; grows to the largest and is used again. */
struct scratch {
    Lockstep__Statement *statements;
    Lockstep__Statement **statement_list;
    size_t statement_capacity;
    Lockstep__Value *values;
    Lockstep__Value **value_list;
    size_t value_capacity;
    char **owned;
    size_t owned_count, owned_capacity;
};

struct agents {
    struct host *host;
    struct evconnlistener *listener;
    struct acceptor *acceptor;
    SSL_CTX *tls;
    struct link *links;
    struct newcomer *newcomers;
    unsigned link_count, linked;
    uint64_t next_link_id;
    struct link *by_number[LS_PARTICIPANT_NUMBER_MAX + 1];
    Lockstep__Route
        *routes[LS_PARTICIPANT_NUMBER_MAX + 1]; /* what each participant has last said it wants, in this life */
    struct scratch scratch;
    /* verdict of the inquiry item being asked */
    bool verdict_there;
    enum verdict verdict;
    char verdict_reason[LS_REASON_MAX + 1];
};

static void on_open(void *context, struct peer *peer, const struct tls_identity *identity);
static void on_frame(void *context, struct peer *peer, const Lockstep__Frame *frame);
static void on_closed(void *context, struct peer *peer, const char *reason);
static void fill_fence(void *context, Lockstep__Fence *fence);
static const struct peer_callbacks callbacks = {
    .on_open = on_open, .on_frame = on_frame, .on_closed = on_closed, .fence = fill_fence};

static const char *link_name(const struct link *link) {
    return link->hello != NULL ? link->hello->participant : link->participant != NULL ? link->participant->name : "?";
}

/* -------------------------------------------------------------- closing */

static void forget_current(struct link *link) {
    struct agents *agents = link->agents;
    if (link->participant == NULL || agents->by_number[link->participant->number] != link) {
        return;
    }
    agents->by_number[link->participant->number] = NULL;
    agents->linked--;
    struct engine_event event = {.kind = EV_AGENT_DOWN};
    event.agent.participant = link->participant->number;
    event.agent.link = link->id;
    host_step(agents->host, &event);
    api_on_agent_down(agents->host->api, link->participant->number);
}

static void link_free(struct link *link) {
    reprove_free(link->reprove);
    if (link->hello != NULL) {
        lockstep__hello__free_unpacked(link->hello, NULL);
    }
    *link->place = link->next;
    if (link->next != NULL) {
        link->next->place = link->place;
    }
    link->agents->link_count--;
    free(link);
}

static void on_closed(void *context, struct peer *peer, const char *reason) {
    struct link *link = context;
    if (link->state == LINK_UP) {
        diag(DIAG_WARN, "agent link lost", "participant", link_name(link), "address", peer_address(peer), "reason",
             reason, NULL);
    } else {
        diag(DIAG_DEBUG, "link closed", "address", peer_address(peer), "reason", reason, NULL);
    }
    link->peer = NULL;
    forget_current(link);
    link_free(link);
}

/* Tells the other side why, logs it once, and hears nothing more from it. */
static void reject(struct link *link, const char *fmt, ...) LS_PRINTF(2, 3);
static void reject(struct link *link, const char *fmt, ...) {
    char reason[LS_REASON_MAX + 1];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(reason, sizeof reason, fmt, args);
    va_end(args);
    diag(DIAG_WARN, "link refused", "participant", link_name(link), "address", peer_address(link->peer), "reason",
         reason, NULL);
    link->state = LINK_CLOSING;
    forget_current(link);
    peer_close(link->peer, reason, true);
}

/* --------------------------------------------------------------- sending */

static void fill_fence(void *context, Lockstep__Fence *fence) {
    const struct link *link = context;
    *fence = link->agents->host->fence;
}

static enum ls_status send_frame(struct link *link, Lockstep__Frame *frame) {
    frame->fence = &link->agents->host->fence;
    stats_message(STATS_SENT, frame->body_case);
    return peer_send(link->peer, frame);
}

/* With crash points enabled, what a point says has left has really left. */
static void pass_sent_point(struct link *link, enum failpoint point) {
    if (link->agents->host->conf.faults) {
        peer_flush(link->peer);
        (void)failpoint_hit(point);
    }
}

static struct link *link_of_branch(struct agents *agents, const struct txn_branch *branch) {
    struct link *link = agents->by_number[branch->participant];
    return link != NULL && link->state == LINK_UP ? link : NULL;
}

/* The list with room for `need` items, or NULL (and then the list is as it was). */
static void *grown(void *list, size_t item, size_t *capacity, size_t need) {
    if (list != NULL && need <= *capacity) {
        return list;
    }
    size_t wanted = *capacity == 0 ? 64 : *capacity;
    while (wanted < need) {
        wanted *= 2;
    }
    void *larger = realloc(list, wanted * item);
    if (larger != NULL) {
        *capacity = wanted;
    }
    return larger;
}

static bool reserve_statements(struct scratch *scratch, size_t need) {
    size_t capacity = scratch->statement_capacity;
    Lockstep__Statement **list = grown(scratch->statement_list, sizeof *list, &capacity, need);
    scratch->statement_list = list != NULL ? list : scratch->statement_list;
    Lockstep__Statement *statements =
        grown(scratch->statements, sizeof *statements, &scratch->statement_capacity, need);
    scratch->statements = statements != NULL ? statements : scratch->statements;
    return list != NULL && statements != NULL;
}

static bool reserve_values(struct scratch *scratch, size_t need) {
    size_t capacity = scratch->value_capacity;
    Lockstep__Value **list = grown(scratch->value_list, sizeof *list, &capacity, need);
    scratch->value_list = list != NULL ? list : scratch->value_list;
    Lockstep__Value *values = grown(scratch->values, sizeof *values, &scratch->value_capacity, need);
    scratch->values = values != NULL ? values : scratch->values;
    return list != NULL && values != NULL;
}

/* Takes over the text, also on failure. */
static bool own_text(struct scratch *scratch, char *text) {
    char **list = grown(scratch->owned, sizeof *list, &scratch->owned_capacity, scratch->owned_count + 1);
    if (list == NULL) {
        free(text);
        return false;
    }
    scratch->owned = list;
    scratch->owned[scratch->owned_count++] = text;
    return true;
}

static void scratch_release(struct scratch *scratch) {
    for (size_t i = 0; i < scratch->owned_count; i++) {
        free(scratch->owned[i]);
    }
    scratch->owned_count = 0;
}

static void scratch_free(struct scratch *scratch) {
    scratch_release(scratch);
    free(scratch->statements);
    free(scratch->statement_list);
    free(scratch->values);
    free(scratch->value_list);
    free(scratch->owned);
}

static enum ls_status fill_value(struct scratch *scratch, struct run *run, const struct document_arg *arg,
                                 Lockstep__Value *value, struct ls_error *err) {
    lockstep__value__init(value);
    switch (arg->kind) {
    case DOCUMENT_ARG_NULL:
        return LS_OK;
    case DOCUMENT_ARG_TEXT:
        value->text = (char *)(uintptr_t)arg->text;
        return LS_OK;
    case DOCUMENT_ARG_REF: {
        const char *text;
        char *owned;
        enum ls_status status = run_resolve(run, arg, &text, &owned, err);
        if (status != LS_OK) {
            return status;
        }
        if (owned != NULL && !own_text(scratch, owned)) {
            return ls_fail(err, LS_ERR_NOMEM, "out of memory");
        }
        value->text = (char *)(uintptr_t)text;
        return LS_OK;
    }
    }
    assert(!"argument kind");
    return LS_ERR_BUG;
}

static enum ls_status fill_statement(struct scratch *scratch, struct run *run, const struct document_step *step,
                                     uint32_t index, size_t at, size_t *next, struct ls_error *err) {
    Lockstep__Statement *statement = scratch->statement_list[at] = &scratch->statements[at];
    lockstep__statement__init(statement);
    statement->step = index;
    statement->sql = (char *)(uintptr_t)step->sql;
    statement->has_expect_rows = step->has_expect_rows;
    statement->expect_rows = step->expect_rows;
    statement->n_args = step->arg_count;
    statement->args = &scratch->value_list[*next];
    for (uint32_t a = 0; a < step->arg_count; a++, (*next)++) {
        scratch->value_list[*next] = &scratch->values[*next];
        enum ls_status status = fill_value(scratch, run, &step->args[a], &scratch->values[*next], err);
        if (status != LS_OK) {
            return status;
        }
    }
    return LS_OK;
}

static Lockstep__Isolation isolation_of(enum document_isolation isolation) {
    switch (isolation) {
    case DOCUMENT_READ_COMMITTED:
        return LOCKSTEP__ISOLATION__READ_COMMITTED;
    case DOCUMENT_REPEATABLE_READ:
        return LOCKSTEP__ISOLATION__REPEATABLE_READ;
    case DOCUMENT_SERIALIZABLE:
        return LOCKSTEP__ISOLATION__SERIALIZABLE;
    }
    assert(!"isolation");
    return LOCKSTEP__ISOLATION__SERIALIZABLE;
}

/* The one statement of an attempt at a saga's step; a cancel has none. */
static enum ls_status fill_attempt(struct scratch *scratch, const struct run_attempt *attempt, Lockstep__Work *work,
                                   Lockstep__SagaStep *saga, struct ls_error *err) {
    struct saga_run *of = attempt->saga;
    const struct document *document = of->run->document;
    const struct document_step *action = saga_host_action(attempt);
    size_t next = 0;
    saga->saga = of->gtid;
    saga->step = (char *)(uintptr_t)saga_host_step_name(attempt);
    saga->op = attempt->op == SAGA_OP_DO     ? LOCKSTEP__SAGA_OP__SAGA_DO
               : attempt->op == SAGA_OP_UNDO ? LOCKSTEP__SAGA_OP__SAGA_UNDO
                                             : LOCKSTEP__SAGA_OP__SAGA_CANCEL;
    work->saga = saga;
    work->has_isolation = document->isolation != DOCUMENT_READ_COMMITTED;
    work->isolation = isolation_of(document->isolation);
    work->lock_timeout_ms = (uint32_t)document->lock_timeout_ms;
    if (attempt->op == SAGA_OP_CANCEL) {
        return LS_OK;
    }
    if (!reserve_statements(scratch, 1) || !reserve_values(scratch, action->arg_count)) {
        return ls_fail(err, LS_ERR_NOMEM, "out of memory");
    }
    work->n_statements = 1;
    work->statements = scratch->statement_list;
    return fill_statement(scratch, of->run, action, attempt->step, 0, &next, err);
}

/* The statements of one Work, in the scratch memory. */
static enum ls_status fill_statements(struct scratch *scratch, struct run *run, const uint16_t *steps, uint32_t count,
                                      struct ls_error *err) {
    const struct document *document = run->document;
    size_t values = 0;
    for (uint32_t i = 0; i < count; i++) {
        values += document->steps[steps[i]].arg_count;
    }
    if (!reserve_statements(scratch, count) || !reserve_values(scratch, values)) {
        return ls_fail(err, LS_ERR_NOMEM, "out of memory");
    }
    size_t next = 0;
    for (uint32_t i = 0; i < count; i++) {
        enum ls_status status = fill_statement(scratch, run, &document->steps[steps[i]], steps[i], i, &next, err);
        if (status != LS_OK) {
            return status;
        }
    }
    return LS_OK;
}

static uint32_t remaining(uint64_t limit, uint64_t used) {
    uint64_t left = limit > used ? limit - used : 0;
    return left > UINT32_MAX ? UINT32_MAX : (uint32_t)left;
}

static uint32_t deadline_left_ms(const struct txn *txn) {
    uint64_t now_us = daemon_now_us();
    uint64_t left_ms = txn->deadline_us > now_us ? (txn->deadline_us - now_us) / 1000 : 0;
    return left_ms == 0 ? 1 : (uint32_t)left_ms;
}

void agents_send_work(struct agents *agents, const struct engine_effect *effect) {
    const struct txn *txn = effect->txn;
    struct link *link = link_of_branch(agents, &txn->branches[effect->branch]);
    if (link == NULL) {
        return; /* being closed: the engine hears of it next and aborts */
    }
    struct host *host = agents->host;
    struct run *run = txn->document;
    const struct document *document = run->document;
    struct ls_error err;
    Lockstep__Work work = LOCKSTEP__WORK__INIT;
    Lockstep__SagaStep saga = LOCKSTEP__SAGA_STEP__INIT;
    enum ls_status status = run->attempt != NULL ? fill_attempt(&agents->scratch, run->attempt, &work, &saga, &err)
                                                 : fill_statements(&agents->scratch, run, effect->work.steps,
                                                                   effect->work.step_count, &err);
    if (status == LS_OK) {
        work.gtid = (char *)(uintptr_t)txn->gtid;
        work.part = effect->work.part;
        work.last = effect->work.last;
        work.has_one_phase = work.one_phase = txn->one_participant;
        work.app = (char *)(uintptr_t)apps_identity(host->apps, run->app);
        work.deadline_ms = deadline_left_ms(txn);
        if (run->attempt == NULL) {
            work.has_isolation = document->isolation != DOCUMENT_READ_COMMITTED;
            work.isolation = isolation_of(document->isolation);
            work.lock_timeout_ms = (uint32_t)document->lock_timeout_ms;
            work.n_statements = effect->work.step_count;
            work.statements = agents->scratch.statement_list;
        }
        if (txn->one_participant && run->key != NULL) {
            work.key = run->key;
            work.has_document_hash = true;
            work.document_hash =
                (ProtobufCBinaryData){.len = sizeof run->document_digest, .data = run->document_digest};
        }
        work.has_rows_max = work.has_bytes_max = true;
        work.rows_max = remaining(host->conf.result_rows_max, run->rows);
        work.bytes_max = remaining(host->conf.result_bytes_max, run->bytes);
        work.has_gid_form = txn->gid_form != LS_GID_READABLE;
        work.gid_form = txn->gid_form == LS_GID_XA ? LOCKSTEP__GID_FORM__XA : LOCKSTEP__GID_FORM__READABLE;
        Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
        frame.body_case = LOCKSTEP__FRAME__BODY_WORK;
        frame.work = &work;
        status = send_frame(link, &frame);
        if (status == LS_ERR_TOO_LARGE) {
            (void)ls_fail(&err, status, "the statements for participant %s do not fit into one frame of %u bytes",
                          link_name(link), LS_FRAME_MAX);
        } else if (status != LS_OK) {
            (void)ls_fail(&err, status, "sending to participant %s: %s", link_name(link), ls_status_text(status));
        }
    }
    scratch_release(&agents->scratch);
    if (status != LS_OK) {
        host_cancel(host, txn->epoch, txn->sequence,
                    err.text); /* nothing left for this branch: its abort finds nothing */
        return;
    }
    /* Crash: perhaps prepared there; no record: the agent asks and rolls back. */
    pass_sent_point(link, FP_coord_work_sent);
}

static uint64_t log_durable(const struct host *host) {
    uint64_t position, chain;
    dlog_durable(host->log, &position, &chain);
    return position;
}

void agents_send_decide(struct agents *agents, const struct engine_effect *effect) {
    const struct txn *txn = effect->txn;
    const struct txn_branch *branch = &txn->branches[effect->branch];
    struct link *link = link_of_branch(agents, branch);
    if (link == NULL) {
        return;
    }
    Lockstep__Decide decide;
    coordmsg_build_decide(effect, &decide);
    if (decide.commit && link->participant->sighting_count > 0) {
        decide.lsn = coordmsg_lsn(link->participant, txn->epoch, txn->sequence, decide.lsn, log_durable(agents->host));
    }
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    frame.body_case = LOCKSTEP__FRAME__BODY_DECIDE;
    frame.decide = &decide;
    if (send_frame(link, &frame) == LS_OK) {
        /* Crash: a commit is in the log and is sent again; of an abort there is no record, which says the same. */
        pass_sent_point(link, effect->decide.commit ? FP_coord_commit_sent : FP_coord_abort_sent);
    }
}

void agents_send_settle(struct agents *agents, const struct engine_effect *effect) {
    struct link *link = link_of_branch(agents, &effect->txn->branches[0]);
    if (link == NULL) {
        return;
    }
    Lockstep__Settle settle = LOCKSTEP__SETTLE__INIT;
    settle.gtid = (char *)(uintptr_t)effect->txn->gtid;
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    frame.body_case = LOCKSTEP__FRAME__BODY_SETTLE;
    frame.settle = &settle;
    (void)send_frame(link, &frame); /* asked again by the engine until it is answered */
    /* Crash: row or tombstone is the truth, whoever asks next. */
    pass_sent_point(link, FP_coord_settle_sent);
}

/* ------------------------------------------------------- proving again */

/* A log that cannot be read now, or no memory: again after a while, twice as long each time. */
static void proving_failed(struct link *link, const char *why) {
    uint64_t wait_us = (uint64_t)REPROVE_WAIT_MS_MIN * 1000;
    for (uint32_t i = 0; i < link->reprove_failures && wait_us < (uint64_t)REPROVE_WAIT_MS_MAX * 1000; i++) {
        wait_us *= 2;
    }
    link->reprove_failures++;
    link->reprove_due_us = daemon_now_us() + wait_us;
    diag(DIAG_ERROR, "kept decisions cannot be proved on the server's new history: tried again", "participant",
         link->participant->name, "seconds", diag_u64(wait_us / 1000000), "error", why, NULL);
}

static void prove_more(struct link *link);
static void on_reprove_ready(void *context) {
    prove_more(context);
}

/* The whole window is proved on the new history: from now on this is the one we know. */
static void history_proved(struct link *link) {
    struct registry_participant *participant = link->participant;
    reprove_free(link->reprove);
    link->reprove = NULL;
    link->history_changed = false;
    participant->system_id = link->hello->system_id;
    participant->timeline = link->hello->timeline;
    participant->changed_epoch = link->agents->host->epoch;
    /* Crash: proved, but not recorded: proved again at the next link. */
    (void)failpoint_hit(FP_coord_history_proved);
    struct ls_error err;
    uint64_t end;
    if (host_log_participant(link->agents->host, participant, &end, &err) != LS_OK) {
        diag(DIAG_WARN, "the new history is proved but not recorded: it is proved again at the next link",
             "participant", participant->name, "error", err.text, NULL);
        return;
    }
    diag(DIAG_INFO, "kept decisions are proved on the server's new history", "participant", participant->name,
         "system_id", diag_u64(participant->system_id), "timeline", diag_u64(participant->timeline), NULL);
}

/* The log holds copies of decisions: one question for each is enough. */
static bool is_asked(const struct link *link, uint32_t epoch, uint64_t sequence) {
    for (uint32_t i = 0; i < link->proofs_outstanding; i++) {
        if (link->proofs[i].epoch == epoch && link->proofs[i].sequence == sequence) {
            return true;
        }
    }
    return false;
}

static void send_proofs(struct link *link, const struct reprove_item *items, size_t count) {
    struct host *host = link->agents->host;
    Lockstep__Decide decides[PROVE_BATCH];
    Lockstep__Decide *list[PROVE_BATCH];
    char gtids[PROVE_BATCH][LS_GTID_MAX + 1];
    Lockstep__Prove prove = LOCKSTEP__PROVE__INIT;
    uint64_t durable = log_durable(host);
    for (size_t i = 0; i < count; i++) {
        if (coordmsg_is_driven(host->engine, link->participant->number, items[i].epoch, items[i].sequence) ||
            is_asked(link, items[i].epoch, items[i].sequence)) {
            continue; /* open: driven to its end anyway */
        }
        link->proofs[link->proofs_outstanding++] = (struct proof){items[i].epoch, items[i].sequence};
        const struct registry_sighting *sighting =
            registry_sighting(link->participant, items[i].epoch, items[i].sequence);
        if (sighting != NULL && sighting->end > durable) {
            link->proof_us = daemon_now_us();
            continue; /* it is about to be finished, behind which its position would prove nothing: asked next time */
        }
        struct ls_gtid gtid = {.epoch = items[i].epoch, .sequence = items[i].sequence};
        (void)snprintf(gtid.coordinator, sizeof gtid.coordinator, "%s", host->conf.name);
        (void)snprintf(gtid.incarnation, sizeof gtid.incarnation, "%s", host->incarnation);
        ls_gtid_format(&gtid, gtids[prove.n_items]);
        Lockstep__Decide *decide = list[prove.n_items] = &decides[prove.n_items];
        lockstep__decide__init(decide);
        decide->gtid = gtids[prove.n_items];
        struct txn_branch_id id = {
            .timeline = items[i].timeline,
            .system_id = items[i].system_id,
            .xid = items[i].xid,
            .lsn = coordmsg_lsn(link->participant, items[i].epoch, items[i].sequence, items[i].lsn, durable),
            .gid = items[i].gid,
            .owner = items[i].owner};
        coordmsg_build_commit(&id, decide);
        prove.n_items++;
    }
    if (prove.n_items == 0) {
        return;
    }
    prove.items = list;
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    frame.body_case = LOCKSTEP__FRAME__BODY_PROVE;
    frame.prove = &prove;
    if (send_frame(link, &frame) == LS_OK) {
        link->proof_us = daemon_now_us();
    }
}

/* True when this was one of the proofs asked for; a late answer to an earlier question is none. */
static bool take_proof(struct link *link, const struct ls_gtid *gtid) {
    for (uint32_t i = 0; i < link->proofs_outstanding; i++) {
        if (link->proofs[i].epoch == gtid->epoch && link->proofs[i].sequence == gtid->sequence) {
            link->proofs[i] = link->proofs[--link->proofs_outstanding];
            link->proof_us = daemon_now_us();
            return true;
        }
    }
    return false;
}

static void prove_more(struct link *link) {
    if (link->reprove == NULL || link->state != LINK_UP) {
        return;
    }
    struct reprove_item items[PROVE_BATCH];
    size_t count = PROVE_BATCH;
    while (link->reprove_state == REPROVE_RUNNING && count == PROVE_BATCH &&
           link->proofs_outstanding + PROVE_BATCH <= PROVE_OUTSTANDING_MAX) {
        count = reprove_take(link->reprove, items, PROVE_BATCH, &link->reprove_state);
        send_proofs(link, items, count);
    }
    if (link->reprove_state == REPROVE_FAILED) {
        proving_failed(link, reprove_failure(link->reprove));
        reprove_free(link->reprove);
        link->reprove = NULL;
    } else if (link->reprove_state == REPROVE_DONE && link->proofs_outstanding == 0) {
        history_proved(link);
    }
}

static void begin_proving(struct link *link) {
    if (!link->history_changed || link->reprove != NULL) {
        return;
    }
    struct ls_error err;
    link->reprove_state = REPROVE_RUNNING;
    if (reprove_start(link->agents->host->base, link->agents->host->conf.data, link->participant->number, link->hello,
                      on_reprove_ready, link, &link->reprove, &err) != LS_OK) {
        proving_failed(link, err.text);
    }
}

/* A proof may go unanswered, as a decision may: an agent that is rolling back a stranger under the gid does not take
 * it. All over again then. So it is when it has failed. */
void agents_tick(struct agents *agents, uint64_t now_us) {
    for (struct link *link = agents->links; link != NULL; link = link->next) {
        if (link->state == LINK_NEW && link->opened_us != 0 &&
            now_us - link->opened_us >= (uint64_t)LS_LINK_ANSWER_MS * 1000) {
            reject(link, "no Hello for %u ms", LS_LINK_ANSWER_MS); /* it would keep its place for ever */
        } else if (link->state == LINK_UP && link->reprove != NULL && link->proofs_outstanding > 0 &&
                   now_us - link->proof_us >= 2000 * agents->host->conf.resend_ms) {
            reprove_free(link->reprove);
            link->reprove = NULL;
            link->proofs_outstanding = 0;
            begin_proving(link);
        } else if (link->state == LINK_UP && link->reprove_failures > 0 && now_us >= link->reprove_due_us) {
            begin_proving(link); /* unless it is at it, or through */
        }
    }
}

/* ---------------------------------------------------------------- Hello */

static void welcome(struct link *link) {
    struct agents *agents = link->agents;
    struct registry_participant *participant = link->participant;
    struct link *older = agents->by_number[participant->number];
    if (older != NULL) {
        older->state = LINK_CLOSING;
        peer_close(older->peer, "a newer link of this participant has taken its place", true);
    } else {
        agents->linked++;
    }
    agents->by_number[participant->number] = link;
    link->state = LINK_UP;
    (void)snprintf(participant->server_version, sizeof participant->server_version, "%s", link->hello->server_version);
    (void)snprintf(participant->database, sizeof participant->database, "%s", link->hello->database);

    Lockstep__Welcome welcome = LOCKSTEP__WELCOME__INIT;
    welcome.version = link->hello->version < LS_PROTOCOL_VERSION ? link->hello->version : LS_PROTOCOL_VERSION;
    welcome.coordinator = agents->host->conf.name;
    welcome.number = participant->number;
    welcome.has_chain_at = link->has_chain;
    welcome.chain_at = link->chain;
    welcome.accepted_incarnation =
        participant->accepted_incarnation[0] == '\0' ? NULL : participant->accepted_incarnation;
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    frame.body_case = LOCKSTEP__FRAME__BODY_WELCOME;
    frame.welcome = &welcome;
    (void)send_frame(link, &frame);
    /* Crash: the agent may have stored this epoch's fence; the log has that epoch. */
    pass_sent_point(link, FP_coord_welcome_sent);
    diag(DIAG_INFO, "agent joined", "participant", participant->name, "address", peer_address(link->peer), "server",
         participant->server_version, "database", participant->database, "timeline", diag_u64(link->hello->timeline),
         "credits", diag_u64(link->hello->credits), NULL);

    struct engine_event event = {.kind = EV_AGENT_UP};
    event.agent_up.participant = participant->number;
    event.agent_up.link = link->id;
    event.agent_up.credits = link->hello->credits;
    event.agent_up.system_id = link->hello->system_id;
    event.agent_up.timeline = link->hello->timeline;
    host_step(agents->host, &event);
}

/* The number is durable: from here on it may be part of gtids. False: no memory; tried again. */
static bool registered(struct host *host, const struct newcomer *newcomer) {
    struct ls_error err;
    struct registry_participant *participant;
    /* Crash: the agent comes again and finds its number in the log. */
    (void)failpoint_hit(FP_coord_participant_durable);
    if (registry_add(host->registry, newcomer->number, newcomer->name, &participant, &err) != LS_OK) {
        diag(DIAG_ERROR, "a new participant cannot be taken up yet", "participant", newcomer->name, "error", err.text,
             NULL);
        return false;
    }
    participant->system_id = newcomer->system_id;
    participant->timeline = newcomer->timeline;
    struct engine_event event = {.kind = EV_PARTICIPANT};
    event.participant.number = newcomer->number;
    event.participant.name = participant->name;
    host_step(host, &event);
    return true;
}

static void greet(struct link *link, struct registry_participant *known) {
    link->participant = known;
    link->history_changed = coordmsg_history_changed(known, link->hello);
    if (link->history_changed) {
        diag(DIAG_WARN, "the server's history has changed: kept decisions are proved again", "participant", known->name,
             "system_id_before", diag_u64(known->system_id), "system_id", diag_u64(link->hello->system_id),
             "timeline_before", diag_u64(known->timeline), "timeline", diag_u64(link->hello->timeline), NULL);
    }
    welcome(link);
}

void agents_log_durable(struct agents *agents, uint64_t position) {
    bool some = false;
    for (struct newcomer **place = &agents->newcomers; *place != NULL;) {
        struct newcomer *newcomer = *place;
        if (newcomer->logged_at > position || !registered(agents->host, newcomer)) {
            place = &newcomer->next;
            continue;
        }
        *place = newcomer->next;
        free(newcomer);
        some = true;
    }
    for (struct link *link = agents->links, *next; some && link != NULL; link = next) {
        next = link->next;
        struct registry_participant *known =
            link->state == LINK_REGISTERING ? registry_by_name(agents->host->registry, link->hello->participant) : NULL;
        if (known != NULL) {
            greet(link, known);
        }
    }
}

static const struct newcomer *find_newcomer(const struct agents *agents, const char *name) {
    const struct newcomer *newcomer = agents->newcomers;
    while (newcomer != NULL && strcmp(newcomer->name, name) != 0) {
        newcomer = newcomer->next;
    }
    return newcomer;
}

/* A number that no participant has and no newcomer will have; 0: none is left. */
static uint32_t free_number(const struct agents *agents) {
    uint32_t number = registry_next_number(agents->host->registry);
    for (const struct newcomer *newcomer = agents->newcomers; newcomer != NULL && number != 0;
         newcomer = newcomer->next) {
        if (newcomer->number >= number) {
            number = newcomer->number < LS_PARTICIPANT_NUMBER_MAX ? newcomer->number + 1 : 0;
        }
    }
    return number;
}

/* Its record goes to the log. False: refused. */
static bool add_newcomer(struct link *link) {
    struct agents *agents = link->agents;
    struct registry_participant record = {
        .number = free_number(agents), .system_id = link->hello->system_id, .timeline = link->hello->timeline};
    if (record.number == 0) {
        reject(link, "the registry holds %d participants already", LS_PARTICIPANT_NUMBER_MAX);
        return false;
    }
    struct newcomer *newcomer = calloc(1, sizeof *newcomer);
    if (newcomer == NULL) {
        reject(link, "out of memory");
        return false;
    }
    (void)snprintf(record.name, sizeof record.name, "%s", link->hello->participant);
    struct ls_error err;
    if (host_log_participant(agents->host, &record, &newcomer->logged_at, &err) != LS_OK) {
        free(newcomer);
        reject(link, "%s", err.text);
        return false;
    }
    newcomer->number = record.number;
    newcomer->timeline = record.timeline;
    newcomer->system_id = record.system_id;
    memcpy(newcomer->name, record.name, sizeof newcomer->name);
    newcomer->next = agents->newcomers;
    agents->newcomers = newcomer;
    /* Crash: the record is there or not, and no gtid has the number in it yet. */
    (void)failpoint_hit(FP_coord_participant_appended);
    diag(DIAG_INFO, "new participant", "participant", newcomer->name, "number", diag_u64(newcomer->number), NULL);
    return true;
}

static void begin_registering(struct link *link) {
    struct agents *agents = link->agents;
    for (const struct link *other = agents->links; other != NULL; other = other->next) {
        if (other->state == LINK_REGISTERING && strcmp(other->hello->participant, link->hello->participant) == 0) {
            reject(link, "another link of participant %s is being registered", link->hello->participant);
            return;
        }
    }
    /* Perhaps an earlier link has brought the name, and is gone. */
    if (find_newcomer(agents, link->hello->participant) != NULL || add_newcomer(link)) {
        link->state = LINK_REGISTERING;
    }
}

/* What Hello must say before anything else is looked at. False: refused. */
static bool hello_is_for_us(struct link *link, const Lockstep__Hello *hello) {
    const struct tls_identity *identity = peer_identity(link->peer);
    char reason[LS_REASON_MAX + 1];
    if (identity->role != TLS_ROLE_AGENT || strcmp(identity->name, hello->participant) != 0) {
        reject(link, "the certificate is %s/%s: it may not speak for participant %s", tls_role_name(identity->role),
               identity->name, hello->participant);
    } else if (!coordmsg_hello_is_for(hello, link->agents->host->conf.name, reason)) {
        reject(link, "%s", reason);
    } else {
        return true;
    }
    return false;
}

/* False: refused. */
static bool within_window(struct link *link, const Lockstep__Fence *remembered) {
    struct host *host = link->agents->host;
    struct dlog_stats stats;
    dlog_get_stats(host->log, &stats);
    if (coordmsg_within_window(remembered, host->incarnation, host->epoch, stats.oldest_position)) {
        return true;
    }
    reject(link,
           "participant %s remembers position %" PRIu64 " of this log, which now begins at %" PRIu64
           ": it was away for longer than the log's window; if it is certain that this is the same log, delete its row "
           "from lockstep.fence and restart the agent",
           link->hello->participant, remembered->position, stats.oldest_position);
    return false;
}

static Lockstep__Hello *copy_hello(const Lockstep__Hello *hello) {
    size_t size = lockstep__hello__get_packed_size(hello);
    uint8_t *bytes = malloc(size + 1);
    if (bytes == NULL) {
        return NULL;
    }
    (void)lockstep__hello__pack(hello, bytes);
    Lockstep__Hello *copy = lockstep__hello__unpack(NULL, size, bytes);
    free(bytes);
    return copy;
}

static void on_hello(struct link *link, const Lockstep__Frame *frame) {
    struct host *host = link->agents->host;
    /* Crash: nothing was said. */
    (void)failpoint_hit(FP_coord_hello_received);
    if (!hello_is_for_us(link, frame->hello)) {
        return;
    }
    link->hello = copy_hello(frame->hello);
    if (link->hello == NULL) {
        reject(link, "out of memory");
        return;
    }
    if (!within_window(link, frame->fence)) {
        return;
    }
    if (coordmsg_chain_at(frame->fence, host->log, host->epoch, &link->has_chain, &link->chain) != LS_OK) {
        reject(link, "the decision log cannot be read just now at position %" PRIu64, frame->fence->position);
        return; /* it dials again */
    }
    struct registry_participant *known = registry_by_name(host->registry, link->hello->participant);
    if (known == NULL) {
        begin_registering(link);
        return;
    }
    greet(link, known);
}

/* ----------------------------------------------------------- Vote, Done */

/* False: not a transaction of this log, which an agent may well ask or tell about after a log was lost. */
static bool parse_ours(const struct link *link, const char *text, struct ls_gtid *ret_gtid) {
    return ls_gtid_parse(text, ret_gtid) == LS_OK && host_gtid_is_ours(link->agents->host, ret_gtid);
}

/* What the statements returned has to be here before the engine answers or sends what depends on it. */
static void take_results(struct link *link, const struct txn *txn, const Lockstep__Vote *vote) {
    struct host *host = link->agents->host;
    struct run *run = txn->document;
    struct ls_error err;
    if (run != NULL && run->attempt != NULL) {
        run_take_attempt(run->attempt, vote);
        return;
    }
    if (run == NULL || run_take_results(run, vote, link->participant->number, host->conf.result_rows_max,
                                        host->conf.result_bytes_max, &err) == LS_OK) {
        return;
    }
    diag(DIAG_DEBUG, "results refused", "gtid", txn->gtid, "participant", link->participant->name, "reason", err.text,
         NULL);
    host_cancel(host, txn->epoch, txn->sequence, err.text); /* after a decision it has no effect */
}

static void note_existing(struct link *link, const struct txn *txn, const Lockstep__Vote *vote,
                          struct engine_event *event) {
    struct run *run = txn->document;
    struct ls_gtid existing;
    if (run == NULL || run->attempt != NULL || vote->existing_gtid == NULL ||
        ls_gtid_parse(vote->existing_gtid, &existing) != LS_OK) {
        return;
    }
    (void)snprintf(run->existing_gtid, sizeof run->existing_gtid, "%s", vote->existing_gtid);
    run->existing_same_document =
        vote->has_existing_hash && vote->existing_hash.len == sizeof run->document_digest &&
        memcmp(vote->existing_hash.data, run->document_digest, sizeof run->document_digest) == 0;
    /* The engine's table of keys names transactions of this log only. */
    if (host_gtid_is_ours(link->agents->host, &existing)) {
        event->vote.existing_epoch = existing.epoch;
        event->vote.existing_sequence = existing.sequence;
        event->vote.existing_same_document = run->existing_same_document;
    }
}

static void on_vote(struct link *link, const Lockstep__Vote *vote) {
    struct host *host = link->agents->host;
    struct ls_gtid gtid;
    /* Crash: a vote in memory is none; no record: abort. */
    (void)failpoint_hit(FP_coord_vote_received);
    if (!parse_ours(link, vote->gtid, &gtid)) {
        diag(DIAG_DEBUG, "vote for a transaction that is not ours", "gtid", vote->gtid, "participant",
             link->participant->name, NULL);
        return;
    }
    const struct txn *txn = engine_find(host->engine, gtid.epoch, gtid.sequence);
    if (txn == NULL || txn->one_participant != (gtid.participant != 0)) {
        return; /* finished meanwhile, or of an earlier life: whatever is prepared will be asked about */
    }
    take_results(link, txn, vote);
    txn = engine_find(host->engine, gtid.epoch, gtid.sequence);
    if (txn == NULL) {
        return; /* too many rows, and this was the last branch */
    }
    struct engine_event event = {0};
    coordmsg_read_vote(vote, link->participant->number, link->id, &gtid, &event);
    if (event.vote.kind == VOTE_EXISTS) {
        note_existing(link, txn, vote, &event);
    }
    host_step(host, &event);
}

static void on_done(struct link *link, const Lockstep__Done *done) {
    struct host *host = link->agents->host;
    struct ls_gtid gtid;
    /* Crash: one branch is committed and the record is there: the others are driven, this one is proved again. */
    (void)failpoint_hit(FP_coord_done_received);
    if (!parse_ours(link, done->gtid, &gtid)) {
        diag(DIAG_DEBUG, "end of a transaction that is not ours", "gtid", done->gtid, "participant",
             link->participant->name, NULL);
        return;
    }
    struct engine_event event = {0};
    coordmsg_read_done(done, link->participant->number, link->id, &gtid, &event);
    if (done->app != NULL && strlen(done->app) <= LS_IDENTITY_MAX) {
        event.done.app = apps_number(host->apps, done->app);
    }
    host_step(host, &event);
    if (take_proof(link, &gtid)) {
        prove_more(link);
    }
}

/* ------------------------------------------------------------- inquiries */

void agents_on_verdict(struct agents *agents, const struct engine_effect *effect) {
    assert(!agents->verdict_there);
    agents->verdict_there = true;
    agents->verdict = effect->verdict.verdict;
    (void)snprintf(agents->verdict_reason, sizeof agents->verdict_reason, "%s",
                   effect->verdict.reason == NULL ? "" : effect->verdict.reason);
}

static void ask_engine(struct link *link, uint64_t token, uint32_t index, const Lockstep__InquiryItem *item,
                       const struct ls_gtid *gtid) {
    struct agents *agents = link->agents;
    struct host *host = agents->host;
    struct txn_branch_id ids[LS_PARTICIPANTS_PER_TXN_CEILING];
    Lockstep__LogCommit *record = NULL;
    struct engine_event event = {0};
    coordmsg_read_inquiry(item, link->participant, link->id, link->history_changed, gtid, &event);
    event.inquiry.token = token;
    event.inquiry.item = index;
    const struct txn *txn = engine_find(host->engine, gtid->epoch, gtid->sequence);
    if (coordmsg_ask_log(txn)) {
        event.inquiry.kept = host_find_decision(host, gtid->epoch, gtid->sequence, &record);
    }
    if (record != NULL) {
        event.inquiry.kept_branches = ids;
        event.inquiry.kept_branch_count = coordmsg_branches(record, ids);
    }
    const struct txn_branch_id *asked = coordmsg_branch_asked(txn, &event);
    host_step(host, &event);
    if (agents->verdict_there && agents->verdict == VERDICT_IS_COMMIT && asked != NULL) {
        agents->verdict =
            coordmsg_sight(link->hello, asked, item, gtid, log_durable(host), host_log_room(host), link->participant);
    }
    if (txn == NULL && link->agents->verdict == VERDICT_IS_PENDING) {
        /* Crash: not everybody has joined, nothing was presumed: the next life waits as long again. */
        (void)failpoint_hit(FP_coord_presume_waits);
    }
    if (record != NULL) {
        lockstep__log_commit__free_unpacked(record, NULL);
    }
}

/* Only gids of our form, coordinator and incarnation, and of the participant that asks, are ours to answer
 * (design 2.9). */
static enum verdict judge_item(struct link *link, uint64_t token, uint32_t index, const Lockstep__InquiryItem *item) {
    struct agents *agents = link->agents;
    enum ls_gid_form form;
    struct ls_gtid gtid;
    char participant[LS_PARTICIPANT_MAX + 1];
    if (ls_gid_parse(item->gid, &form, &gtid, participant) != LS_OK || !host_gtid_is_ours(agents->host, &gtid) ||
        strcmp(participant, link->participant->name) != 0) {
        return VERDICT_IS_FOREIGN;
    }
    agents->verdict_there = false;
    ask_engine(link, token, index, item, &gtid);
    assert(agents->verdict_there); /* the engine answers within the step, or stops the process */
    return agents->verdict;
}

/* What this inquiry has shown to be prepared on a later timeline than its vote's goes into the log; the sweep asks
 * again. */
static void log_sightings(struct link *link) {
    struct ls_error err;
    uint64_t end = 0;
    if (!registry_sightings_new(link->participant)) {
        return;
    }
    if (host_log_participant(link->agents->host, link->participant, &end, &err) != LS_OK) {
        diag(DIAG_WARN, "what is prepared on a new timeline cannot be recorded yet", "participant",
             link->participant->name, "error", err.text, NULL);
        end = 0;
    } else {
        /* Crash: the branch is prepared still, since nothing was answered: asked about again, and noted again. */
        (void)failpoint_hit(FP_coord_sighting_appended);
    }
    registry_sightings_logged(link->participant, end);
}

static void on_inquiry(struct link *link, const Lockstep__Inquiry *inquiry) {
    /* Crash: it will be asked again, and the log answers the same. */
    (void)failpoint_hit(FP_coord_inquiry_received);
    Lockstep__AnswerItem *items = calloc(inquiry->n_items + 1, sizeof *items);
    Lockstep__AnswerItem **list = calloc(inquiry->n_items + 1, sizeof *list);
    if (items == NULL || list == NULL) {
        free(items);
        free(list);
        reject(link, "out of memory for an inquiry of %zu items", inquiry->n_items);
        return;
    }
    for (size_t i = 0; i < inquiry->n_items; i++) {
        const Lockstep__InquiryItem *item = inquiry->items[i];
        list[i] = &items[i];
        lockstep__answer_item__init(&items[i]);
        items[i].gid = item->gid;
        items[i].xid = item->xid;
        items[i].verdict = coordmsg_verdict(judge_item(link, inquiry->token, (uint32_t)i, item));
    }
    log_sightings(link);
    Lockstep__Answer answer = LOCKSTEP__ANSWER__INIT;
    answer.token = inquiry->token;
    answer.n_items = inquiry->n_items;
    answer.items = list;
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    frame.body_case = LOCKSTEP__FRAME__BODY_ANSWER;
    frame.answer = &answer;
    if (send_frame(link, &frame) != LS_OK) {
        reject(link, "the answer to an inquiry of %zu items does not fit into a frame", inquiry->n_items);
    } else {
        /* Crash: what was answered "abort" has no record, and will never have one. */
        pass_sent_point(link, FP_coord_answer_sent);
    }
    free(items);
    free(list);
}

/* ---------------------------------------------------------------- sagas */

bool agents_knows_sagas(const struct agents *agents, uint32_t participant) {
    const struct link *link = agents->by_number[participant];
    return link != NULL && link->state == LINK_UP && link->hello->version >= LS_PROTOCOL_VERSION_SAGA;
}

void agents_send_forget(struct agents *agents, uint32_t participant, const char *saga) {
    if (!agents_knows_sagas(agents, participant)) {
        return;
    }
    char *list[1] = {(char *)(uintptr_t)saga};
    Lockstep__Forget forget = LOCKSTEP__FORGET__INIT;
    forget.n_sagas = 1;
    forget.sagas = list;
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    frame.body_case = LOCKSTEP__FRAME__BODY_FORGET;
    frame.forget = &forget;
    (void)send_frame(agents->by_number[participant], &frame); /* lost: the agent asks */
}

/* Which of the sagas that a database keeps may it forget? */
static void on_kept(struct link *link, const Lockstep__Kept *kept) {
    if (!link->ready) {
        /* It serves, and waits for work that will never come. */
        reject(link, "Kept before Ready");
        return;
    }
    char **list = calloc(kept->n_sagas + 1, sizeof(char *));
    if (list == NULL) {
        return; /* it asks again */
    }
    Lockstep__Forget forget = LOCKSTEP__FORGET__INIT;
    forget.has_token = true;
    forget.token = kept->token;
    forget.sagas = list;
    if (link->agents->host->settled.epoch != 0) {
        forget.has_outcome_epoch = forget.has_outcome_sequence = true;
        forget.outcome_epoch = link->agents->host->settled.epoch;
        forget.outcome_sequence = link->agents->host->settled.sequence;
    }
    for (size_t i = 0; i < kept->n_sagas; i++) {
        struct ls_gtid gtid;
        if (parse_ours(link, kept->sagas[i], &gtid) && gtid.participant == 0 &&
            saga_host_forgotten(link->agents->host->sagas, &gtid)) {
            list[forget.n_sagas++] = kept->sagas[i];
        }
    }
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    frame.body_case = LOCKSTEP__FRAME__BODY_FORGET;
    frame.forget = &forget;
    (void)send_frame(link, &frame);
    free(list);
}

/* --------------------------------------------------------------- events */

static bool knows_events(const struct link *link) {
    return link != NULL && link->state == LINK_UP && link->hello->version >= LS_PROTOCOL_VERSION_EVENT;
}

static void send_route(struct link *link, Lockstep__Route *route) {
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    frame.body_case = LOCKSTEP__FRAME__BODY_ROUTE;
    frame.route = route;
    if (send_frame(link, &frame) != LS_OK) { /* said again when it is back */
        reject(link, "out of memory: what %s wants cannot be sent", route->participant);
    }
}

static Lockstep__Route *copy_route(const Lockstep__Route *route) {
    size_t size = lockstep__route__get_packed_size(route);
    uint8_t *bytes = malloc(size + 1);
    if (bytes == NULL) {
        return NULL;
    }
    (void)lockstep__route__pack(route, bytes);
    Lockstep__Route *copy = lockstep__route__unpack(NULL, size, bytes);
    free(bytes);
    return copy;
}

/* Everybody hears it and keeps it durably: from then on nobody needs us for it. What this life has not heard is not
 * mentioned, so it stays as they have it. */
static void on_route(struct link *link, const Lockstep__Route *route) {
    struct agents *agents = link->agents;
    uint32_t number = link->participant->number;
    if (strcmp(route->participant, link->participant->name) != 0) {
        reject(link, "%s speaks for %s", link->participant->name, route->participant);
        return;
    }
    Lockstep__Route *copy = copy_route(route);
    if (copy == NULL) {
        reject(link, "out of memory: its subscriptions"); /* said again at its next Ready */
        return;
    }
    if (agents->routes[number] != NULL) {
        lockstep__route__free_unpacked(agents->routes[number], NULL);
    }
    agents->routes[number] = copy;
    diag(DIAG_INFO, "subscriptions announced", "participant", route->participant, "address", route->address, "types",
         diag_u64(route->n_types), NULL);
    for (struct link *other = agents->links, *next; other != NULL; other = next) {
        next = other->next;
        if (other != link && knows_events(other)) {
            send_route(other, copy);
        }
    }
}

/* It has dead letters of choreography that nobody was told of. */
static void on_letters(struct link *link, const Lockstep__Tell *tell) {
    const char *reason = tell->reason != NULL ? tell->reason : "";
    char text[LS_PARTICIPANT_MAX + 96];
    (void)snprintf(text, sizeof text, "events at %s are dead letters, see `lockstep dlq list`",
                   link->participant->name);
    struct alert alert = {.cause = ALERT_DEAD_EVENT, .text = text, .reason = reason};
    if (alerts_raise(link->agents->host->alerts, &alert)) {
        diag(DIAG_ERROR, "events are dead letters: see `lockstep dlq list`", "participant", link->participant->name,
             "reason", reason, NULL);
    }
}

static void send_routes(struct link *link) {
    struct agents *agents = link->agents;
    for (uint32_t number = 1; number <= registry_highest(agents->host->registry) && knows_events(link); number++) {
        if (agents->routes[number] != NULL && number != link->participant->number) {
            send_route(link, agents->routes[number]);
        }
    }
}

bool agents_ask(struct agents *agents, uint32_t participant, Lockstep__Ask *ask) {
    struct link *link = agents->by_number[participant];
    if (!knows_events(link)) {
        return false;
    }
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    frame.body_case = LOCKSTEP__FRAME__BODY_ASK;
    frame.ask = ask;
    return send_frame(link, &frame) == LS_OK;
}

/* --------------------------------------------------------------- frames */

static void on_ready(struct link *link) {
    link->ready = true;
    struct engine_event event = {.kind = EV_AGENT_READY};
    event.agent.participant = link->participant->number;
    event.agent.link = link->id;
    host_step(link->agents->host, &event);
    diag(DIAG_INFO, "agent ready", "participant", link->participant->name, NULL);
    saga_host_up(link->agents->host->sagas, link->participant->number);
    send_routes(link);
    begin_proving(link);
}

static void on_credit(struct link *link, const Lockstep__Credit *credit) {
    struct engine_event event = {.kind = EV_CREDIT};
    event.credit.participant = link->participant->number;
    event.credit.link = link->id;
    event.credit.credits = credit->credits;
    host_step(link->agents->host, &event);
}

/* One refusal stops the coordinator (design 2.9): it may be a restored copy, and a copy must not decide anything. */
static void on_refuse(struct link *link, const Lockstep__Refuse *refuse) {
    diag_fatal(LS_EXIT_CONFIG,
               "an agent refuses this coordinator: its log does not contain what the agent has seen. If the log was "
               "lost for good, see "
               "`lockstep participants accept`",
               "participant", link_name(link), "reason", refuse->reason, "remembered_incarnation",
               refuse->remembered == NULL ? "" : refuse->remembered->incarnation, "remembered_epoch",
               refuse->remembered == NULL ? "" : diag_u64(refuse->remembered->epoch), "remembered_position",
               refuse->remembered == NULL ? "" : diag_u64(refuse->remembered->position), NULL);
}

static void on_frame_up(struct link *link, const Lockstep__Frame *frame) {
    switch (frame->body_case) {
    case LOCKSTEP__FRAME__BODY_READY:
        on_ready(link);
        return;
    case LOCKSTEP__FRAME__BODY_VOTE:
        on_vote(link, frame->vote);
        return;
    case LOCKSTEP__FRAME__BODY_DONE:
        on_done(link, frame->done);
        return;
    case LOCKSTEP__FRAME__BODY_INQUIRY:
        on_inquiry(link, frame->inquiry);
        return;
    case LOCKSTEP__FRAME__BODY_CREDIT:
        on_credit(link, frame->credit);
        return;
    case LOCKSTEP__FRAME__BODY_REFUSE:
        on_refuse(link, frame->refuse);
        return;
    case LOCKSTEP__FRAME__BODY_KEPT:
        on_kept(link, frame->kept);
        return;
    case LOCKSTEP__FRAME__BODY_ROUTE:
        on_route(link, frame->route);
        return;
    case LOCKSTEP__FRAME__BODY_TELL:
        if (frame->tell->token == 0) {
            on_letters(link, frame->tell);
            return;
        }
        api_on_told(link->agents->host->api, link->participant->number, frame->tell);
        return;
    case LOCKSTEP__FRAME__BODY_PING:
    case LOCKSTEP__FRAME__BODY_PONG:
        return;
    case LOCKSTEP__FRAME__BODY__NOT_SET:
    case LOCKSTEP__FRAME__BODY_HELLO:
    case LOCKSTEP__FRAME__BODY_WELCOME:
    case LOCKSTEP__FRAME__BODY_WORK:
    case LOCKSTEP__FRAME__BODY_DECIDE:
    case LOCKSTEP__FRAME__BODY_ANSWER:
    case LOCKSTEP__FRAME__BODY_SETTLE:
    case LOCKSTEP__FRAME__BODY_ERROR:
    case LOCKSTEP__FRAME__BODY_PROVE:
    case LOCKSTEP__FRAME__BODY_FORGET:
    case LOCKSTEP__FRAME__BODY_ASK:
    case LOCKSTEP__FRAME__BODY_GREET:
    case LOCKSTEP__FRAME__BODY_EVENTS:
    case LOCKSTEP__FRAME__BODY_STORED:
    case _LOCKSTEP__FRAME__BODY__CASE_IS_INT_SIZE:
        break;
    }
    reject(link, "a frame that an agent does not send (%d)", (int)frame->body_case);
}

static void on_frame(void *context, struct peer *peer, const Lockstep__Frame *frame) {
    (void)peer;
    struct link *link = context;
    bool ping = frame->body_case == LOCKSTEP__FRAME__BODY_PING || frame->body_case == LOCKSTEP__FRAME__BODY_PONG;
    stats_message(STATS_RECEIVED, frame->body_case);
    switch (link->state) {
    case LINK_NEW:
        if (frame->body_case == LOCKSTEP__FRAME__BODY_HELLO) {
            on_hello(link, frame);
        } else if (!ping) {
            reject(link, "the first frame of a link is Hello");
        }
        return;
    case LINK_REGISTERING:
        if (!ping) {
            reject(link, "a frame before Welcome");
        }
        return;
    case LINK_UP:
        on_frame_up(link, frame);
        return;
    case LINK_CLOSING:
        return;
    }
    assert(!"link state");
}

static void on_open(void *context, struct peer *peer, const struct tls_identity *identity) {
    struct link *link = context;
    link->opened_us = daemon_now_us();
    if (identity->role != TLS_ROLE_AGENT) {
        reject(link, "the certificate is %s/%s: only agents are served here", tls_role_name(identity->role),
               identity->name);
        return;
    }
    diag(DIAG_DEBUG, "link opened", "participant", identity->name, "address", peer_address(peer), NULL);
}

/* ------------------------------------------------------------- listener */

static void on_accept(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *address, int length,
                      void *context) {
    (void)listener;
    (void)address;
    (void)length;
    struct agents *agents = context;
    struct link *link = agents->link_count < agents->host->conf.agents_connections ? calloc(1, sizeof *link) : NULL;
    if (link == NULL) {
        (void)close(fd); /* it dials again, with backoff */
        return;
    }
    link->agents = agents;
    link->id = ++agents->next_link_id;
    link->next = agents->links;
    if (link->next != NULL) {
        link->next->place = &link->next;
    }
    link->place = &agents->links;
    agents->links = link;
    agents->link_count++;
    struct ls_error err;
    if (peer_accept(agents->host->base, agents->tls, fd, &callbacks, link, &link->peer, &err) != LS_OK) {
        diag(DIAG_WARN, "a link cannot be accepted", "error", err.text, NULL);
        link_free(link);
    }
}

enum ls_status agents_new(struct host *host, int fd, SSL_CTX *tls, struct agents **ret_agents, struct ls_error *err) {
    struct agents *agents = calloc(1, sizeof *agents);
    if (agents == NULL) {
        (void)close(fd);
        return ls_fail(err, LS_ERR_NOMEM, "out of memory");
    }
    agents->host = host;
    agents_set_tls(agents, tls);
    agents->listener =
        evconnlistener_new(host->base, on_accept, agents, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 0, fd);
    /* Without memory libevent makes a listener that never listens; enabling it again tells. */
    if (agents->listener != NULL && evconnlistener_enable(agents->listener) != 0) {
        agents_free(agents);
        return ls_fail(err, LS_ERR_NOMEM, "the agents' listener cannot be enabled");
    }
    if (agents->listener == NULL) {
        (void)close(fd);
        agents_free(agents);
        return ls_fail(err, LS_ERR_NOMEM, "the agents' listener cannot be made");
    }
    enum ls_status status = acceptor_new(host->base, agents->listener, "agents", &agents->acceptor, err);
    if (status != LS_OK) {
        agents_free(agents);
        return status;
    }
    *ret_agents = agents;
    return LS_OK;
}

void agents_free(struct agents *agents) {
    if (agents == NULL) {
        return;
    }
    acceptor_free(agents->acceptor);
    if (agents->listener != NULL) {
        evconnlistener_free(agents->listener);
    }
    while (agents->links != NULL) {
        peer_free(agents->links->peer);
        link_free(agents->links);
    }
    while (agents->newcomers != NULL) {
        struct newcomer *newcomer = agents->newcomers;
        agents->newcomers = newcomer->next;
        free(newcomer);
    }
    for (uint32_t number = 0; number <= LS_PARTICIPANT_NUMBER_MAX; number++) {
        if (agents->routes[number] != NULL) {
            lockstep__route__free_unpacked(agents->routes[number], NULL);
        }
    }
    scratch_free(&agents->scratch);
    SSL_CTX_free(agents->tls);
    free(agents);
}

void agents_set_tls(struct agents *agents, SSL_CTX *tls) {
    (void)SSL_CTX_up_ref(tls);
    SSL_CTX_free(agents->tls);
    agents->tls = tls;
}

unsigned agents_linked(const struct agents *agents) {
    return agents->linked;
}
