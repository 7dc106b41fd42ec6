/* host.c: see host.h. */
#include "coordinator/host.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/daemon.h"
#include "common/diag.h"
#include "common/failpoint.h"
#include "common/hash.h"
#include "coordinator/agents.h"
#include "coordinator/alert.h"
#include "coordinator/api/api.h"
#include "coordinator/claim.h"
#include "coordinator/coordmsg.h"
#include "coordinator/core/recover.h"
#include "coordinator/dlog/writer.h"
#include "coordinator/run.h"
#include "coordinator/saga_host.h"
#include "coordinator/stats.h"
#include "coordinator/web.h"

#define HOUSEKEEPING_MS                                                          \
    300u /* idleness is seen after one to two of these; ends and their mark need \
            two looks */
#define MAINTAIN_MS 1000u
_Static_assert(3 * HOUSEKEEPING_MS < LS_MARK_IDLE_MS, "a mark follows within LS_MARK_IDLE_MS of idleness");

void host_log_failed(const char *what, const struct ls_error *err) {
    diag_fatal(LS_EXIT_IO, "the decision log has failed: stopping at once, nothing more is decided", "while", what,
               "error", err->text, NULL);
}

/* ---------------------------------------------------------------- the log */

static void push_ticket(struct host *host, uint64_t ticket, uint64_t end, bool decision) {
    if (host->ticket_count == host->ticket_capacity) {
        size_t capacity = host->ticket_capacity == 0 ? 1024 : 2 * host->ticket_capacity;
        struct host_ticket *grown = malloc(capacity * sizeof *grown);
        if (grown == NULL) {
            diag_fatal(LS_EXIT_ERROR,
                       "out of memory with a decision in hand: stopping, the next "
                       "start recovers it",
                       NULL);
        }
        for (size_t i = 0; i < host->ticket_count; i++) {
            grown[i] = host->tickets[(host->ticket_first + i) % host->ticket_capacity];
        }
        free(host->tickets);
        host->tickets = grown;
        host->ticket_first = 0;
        host->ticket_capacity = capacity;
    }
    host->tickets[(host->ticket_first + host->ticket_count++) % host->ticket_capacity] =
        (struct host_ticket){.ticket = ticket, .end = end, .appended_us = daemon_now_us(), .decision = decision};
}

void host_force(struct host *host) {
    host->kick = true;
}

/* A record that was reserved for does not fit, or the log has failed: either
 * way nothing may be decided any more. */
static void must_append(enum ls_status status, const char *what) {
    if (status != LS_OK) {
        struct ls_error err;
        (void)ls_fail(&err, status, "%s", ls_status_text(status));
        host_log_failed(what, &err);
    }
}

static void log_commit(struct host *host, const struct engine_effect *effect) {
    const struct txn *txn = effect->txn;
    static uint8_t payload[LS_LOG_RECORD_MAX];
    size_t length = coordmsg_pack_decision(txn, apps_identity(host->apps, txn->app), claim_unix_ms(), payload);
    /* Crash: every branch is prepared, no record: the agents ask, and are told to roll back. */
    if (failpoint_hit(FP_coord_before_log_append)) {
        must_append(LS_ERR_IO, "failpoint coord_before_log_append");
    }
    uint64_t position, end;
    must_append(dlog_append_commit(host->log, txn->epoch, txn->sequence, payload, length, &position, &end),
                "appending a decision");
    engine_set_log_position(host->engine, txn->epoch, txn->sequence, position);
    engine_set_log_room(host->engine, dlog_room(host->log));
    push_ticket(host, effect->ticket, end, true);
    host_force(host);
    stats_phase(STATS_PREPARE, daemon_now_us() - txn->begun_us);
    /* Crash: a record in memory only is no record. */
    (void)failpoint_hit(FP_coord_after_log_append);
}

static void log_end(struct host *host, const struct engine_effect *effect) {
    /* Crash: proved everywhere, but the log does not say so: driven once more, and proved again. */
    (void)failpoint_hit(FP_coord_before_end_append);
    uint64_t end;
    must_append(dlog_append_end(host->log, effect->txn->epoch, effect->txn->sequence, &end), "appending an end");
    engine_set_log_room(host->engine, dlog_room(host->log));
    push_ticket(host, effect->ticket, end, false); /* unforced: written with whatever comes next, at the
                                                      latest with the mark */
}

static void log_hazard(struct host *host, const struct engine_effect *effect) {
    uint8_t payload[COORDMSG_HAZARD_MAX];
    size_t length = coordmsg_pack_hazard(effect, payload);
    uint64_t position, end;
    must_append(dlog_append(host->log, DLOG_HAZARD, payload, length, &position, &end), "appending a hazard");
    struct ls_gtid gtid = {.epoch = effect->hazard.epoch, .sequence = effect->hazard.sequence};
    char name[LS_GTID_MAX + 1];
    (void)snprintf(gtid.coordinator, sizeof gtid.coordinator, "%s", host->conf.name);
    (void)snprintf(gtid.incarnation, sizeof gtid.incarnation, "%s", host->incarnation);
    ls_gtid_format(&gtid, name);
    struct alert alert = {.cause = ALERT_HAZARD,
                          .text = "a branch was finished against the decision, or was lost",
                          .reason = effect->text};
    alert.gtid = effect->txn != NULL ? effect->txn->gtid : name;
    (void)alerts_raise(host->alerts, &alert); /* the log line is the engine's report */
    engine_set_log_room(host->engine, dlog_room(host->log));
    push_ticket(host, effect->ticket, end, false);
    host_force(host);
}

/* Room that is promised to transactions is not for newcomers. */
uint64_t host_log_room(struct host *host) {
    struct engine_stats stats;
    engine_stats(host->engine, &stats);
    uint64_t room = dlog_room(host->log);
    return room > stats.log_reserved_bytes ? room - stats.log_reserved_bytes : 0;
}

enum ls_status host_log_participant(struct host *host, const struct registry_participant *participant,
                                    uint64_t *ret_end, struct ls_error *err) {
    uint8_t payload[COORDMSG_PARTICIPANT_MAX];
    size_t length = coordmsg_pack_participant(participant, payload);
    if (host_log_room(host) < length + 64) {
        return ls_fail(err, LS_ERR_FULL, "no room in the decision log for participant %s", participant->name);
    }
    uint64_t position;
    must_append(dlog_append(host->log, DLOG_PARTICIPANT, payload, length, &position, ret_end),
                "appending a participant");
    engine_set_log_room(host->engine, dlog_room(host->log));
    host_force(host);
    return LS_OK;
}

static void refresh_fence(struct host *host) {
    uint64_t position, chain;
    dlog_durable(host->log, &position, &chain);
    host->fence.position = position;
    host->fence.chain = chain;
}

enum kept_kind host_find_decision(struct host *host, uint32_t epoch, uint64_t sequence,
                                  Lockstep__LogCommit **ret_record) {
    uint64_t position;
    enum dlog_found found = dlog_find(host->log, epoch, sequence, &position);
    if (found != DLOG_FOUND) {
        return coordmsg_kept(found);
    }
    struct dlog_record record;
    struct ls_error err;
    enum ls_status status = dlog_read(host->log, position, &record, &err);
    if (status == LS_ERR_BUSY) {
        return KEPT_NOT_YET; /* a decision being logged, or the copy of a hazard's
                                that is being carried out of an old segment */
    }
    if (status != LS_OK) {
        host_log_failed("reading a decision back", &err); /* guessing an answer would be worse than stopping */
    }
    *ret_record = lockstep__log_commit__unpack(NULL, record.length, record.payload);
    if (record.type != DLOG_COMMIT || *ret_record == NULL) {
        (void)ls_fail(&err, LS_ERR_CORRUPT, "position %" PRIu64 " does not hold a decision", position);
        host_log_failed("reading a decision back", &err);
    }
    return KEPT_COMMIT;
}

/* The writer has synced something, or failed. Nothing else in lockstepd makes
 * EV_LOG_DURABLE. */
static void on_settled_durable(struct host *host);
static void on_log_durable(evutil_socket_t fd, short what, void *context) {
    (void)fd;
    (void)what;
    struct host *host = context;
    struct ls_error err;
    if (dlog_writer_check(host->writer, &err) != LS_OK) {
        host_log_failed("writing", &err);
    }
    refresh_fence(host); /* first: a COMMIT must carry a position that covers its
                            decision */
    uint64_t now_us = daemon_now_us(), ticket = 0;
    bool some = false;
    while (host->ticket_count > 0 && host->tickets[host->ticket_first].end <= host->fence.position) {
        const struct host_ticket *first = &host->tickets[host->ticket_first];
        assert(!some || first->ticket > ticket);
        ticket = first->ticket;
        some = true;
        if (first->decision) {
            stats_phase(STATS_LOG, now_us - first->appended_us);
        }
        host->ticket_first = (host->ticket_first + 1) % host->ticket_capacity;
        host->ticket_count--;
    }
    on_settled_durable(host);
    agents_log_durable(host->agents, host->fence.position);
    saga_host_durable(host->sagas, host->fence.position);
    if (some) {
        struct engine_event event = {.kind = EV_LOG_DURABLE};
        event.log_durable.ticket = ticket;
        host_step(host, &event);
    }
}

/* -------------------------------------------------------------- the engine */

static void report(const struct engine_effect *effect) {
    if (effect->txn != NULL) {
        diag(DIAG_WARN, effect->text, "gtid", effect->txn->gtid, NULL);
    } else {
        diag(DIAG_WARN, effect->text, NULL);
    }
}

static void on_outcome(struct host *host, const struct txn *txn) {
    (void)saga_host_on_outcome(host->sagas, txn); /* an attempt may have somebody who asks for it, too */
    if (txn->outcome == OUTCOME_COMMITTED || txn->outcome == OUTCOME_ABORTED) {
        stats_phase(STATS_TOTAL, daemon_now_us() - txn->begun_us);
    }
    if (diag_enabled(DIAG_DEBUG)) {
        diag(DIAG_DEBUG, "outcome", "gtid", txn->gtid, "outcome", txn_outcome_name(txn->outcome), "reason",
             txn->cause.reason, NULL);
    }
    api_on_outcome(host->api, txn);
}

static void on_applied(struct host *host, const struct txn *txn) {
    if (txn->outcome == OUTCOME_COMMITTED && !txn->one_participant && !txn->fully_read_only) {
        stats_phase(STATS_COMMIT, daemon_now_us() - txn->decided_us);
    }
    if (diag_enabled(DIAG_DEBUG)) {
        diag(DIAG_DEBUG, "applied", "gtid", txn->gtid, "outcome", txn_outcome_name(txn->outcome), NULL);
    }
    api_on_applied(host->api, txn);
}

static void carry_out(struct host *host, const struct engine_effect *effect) {
    switch (effect->kind) {
    case EF_ACCEPTED:
        /* Crash: nothing has happened anywhere. */
        (void)failpoint_hit(FP_coord_run_accepted);
        if (saga_host_owns(host->sagas, effect->ref)) {
            saga_host_on_accepted(host->sagas, effect);
        } else {
            api_on_accepted(host->api, effect);
        }
        return;
    case EF_JOINED:
        /* Crash: the key is in its transaction's decision record, or in its outcome row, or nothing was decided. */
        (void)failpoint_hit(FP_coord_key_joined);
        api_on_joined(host->api, effect);
        return;
    case EF_REFUSED:
        if (saga_host_owns(host->sagas, effect->ref)) {
            saga_host_on_refused(host->sagas, effect);
        } else {
            api_on_refused(host->api, effect);
        }
        return;
    case EF_SEND_WORK:
        agents_send_work(host->agents, effect);
        return;
    case EF_SEND_DECIDE:
        agents_send_decide(host->agents, effect);
        return;
    case EF_SEND_SETTLE:
        agents_send_settle(host->agents, effect);
        return;
    case EF_VERDICT:
        agents_on_verdict(host->agents, effect);
        return;
    case EF_LOG_COMMIT:
        log_commit(host, effect);
        return;
    case EF_LOG_END:
        log_end(host, effect);
        return;
    case EF_LOG_HAZARD:
        log_hazard(host, effect);
        return;
    case EF_OUTCOME:
        on_outcome(host, effect->txn);
        return;
    case EF_APPLIED:
        on_applied(host, effect->txn);
        return;
    case EF_PENDING:
        api_on_pending(host->api, effect->txn);
        return;
    case EF_REPORT:
        report(effect);
        return;
    case EF_RELEASE:
        run_drop(effect->release.document);
        return;
    case EF_STOP:
        diag_fatal(effect->stop.exit_status, effect->text, NULL);
    }
    assert(!"effect kind");
}

static void step_once(struct host *host, struct engine_event *event) {
    event->now_us = daemon_now_us();
    host->in_step = true;
    engine_step(host->engine, event, &host->effects);
    if (event->kind == EV_LOG_DURABLE && host->effects.count > 0) {
        /* Crash: durable and not told to anybody: the next start drives it. */
        (void)failpoint_hit(FP_coord_decision_durable);
    }
    for (size_t i = 0; i < host->effects.count; i++) {
        carry_out(host, &host->effects.list[i]);
    }
    host->in_step = false;
}

void host_step(struct host *host, struct engine_event *event) {
    assert(!host->in_step); /* effects point into the engine: the next step would
                               pull the ground from under them */
    step_once(host, event);
    while (host->cancel_first != NULL) {
        struct host_cancel *cancel = host->cancel_first;
        host->cancel_first = cancel->next;
        if (host->cancel_first == NULL) {
            host->cancel_last = &host->cancel_first;
        }
        struct engine_event follow = {.kind = EV_CANCEL};
        follow.cancel.epoch = cancel->epoch;
        follow.cancel.sequence = cancel->sequence;
        follow.cancel.reason = cancel->reason;
        step_once(host, &follow);
        free(cancel);
    }
}

void host_cancel(struct host *host, uint32_t epoch, uint64_t sequence, const char *reason) {
    if (!host->in_step) {
        struct engine_event event = {.kind = EV_CANCEL};
        event.cancel.epoch = epoch;
        event.cancel.sequence = sequence;
        event.cancel.reason = reason;
        host_step(host, &event);
        return;
    }
    struct host_cancel *cancel = calloc(1, sizeof *cancel);
    if (cancel == NULL) {
        return; /* its deadline ends it */
    }
    cancel->epoch = epoch;
    cancel->sequence = sequence;
    (void)snprintf(cancel->reason, sizeof cancel->reason, "%s", reason);
    *host->cancel_last = cancel;
    host->cancel_last = &cancel->next;
}

/* ------------------------------------------------------------ housekeeping */

uint64_t host_running_ms(const struct host *host) {
    return (daemon_now_us() - host->started_us) / 1000;
}

/* The last batch's own durability is only known to whoever reads a later
 * record: said once nothing else says it. */
static void append_mark(struct host *host) {
    uint64_t end;
    enum ls_status status = dlog_mark(host->log, host_running_ms(host), &end);
    if (status == LS_ERR_FULL) {
        return; /* the room left is promised to decisions; a later batch says it as
                   well */
    }
    must_append(status, "appending a mark");
    /* Crash: a last batch without its mark: logged again by the next start. */
    (void)failpoint_hit(FP_coord_mark_appended);
    engine_set_log_room(host->engine, dlog_room(host->log));
    host_force(host);
    stats_mark();
}

/* Idle: nothing was appended since the last look. */
static void mark_when_idle(struct host *host) {
    struct dlog_stats stats;
    dlog_get_stats(host->log, &stats);
    bool idle = stats.append_position == host->append_seen;
    host->append_seen = stats.append_position;
    if (idle && dlog_dirty(host->log)) {
        host_force(host); /* ends that wait for company */
    } else if (idle && dlog_wants_mark(host->log)) {
        append_mark(host);
    }
}

/* Moves on the horizon of one-participant transactions: behind the window, and below what is not settled. */
static void move_settled(struct host *host) {
    struct engine_stats engine;
    struct dlog_stats log;
    engine_stats(host->engine, &engine);
    dlog_get_stats(host->log, &log);
    uint64_t running_ms = log.running_ms + host_running_ms(host), end;
    struct horizon_name all = {host->epoch, engine.last_sequence}, oldest;
    bool some = engine_oldest_unsettled(host->engine, &oldest.epoch, &oldest.sequence);
    if (some) { /* its window begins with its end, however long it takes */
        all = (struct horizon_name){oldest.epoch, oldest.sequence - 1};
    }
    horizon_sample(&host->horizon, running_ms, all);
    if (host->settling_end != 0) {
        return;
    }
    struct horizon_name to = horizon_of(&host->horizon, running_ms);
    if (some && !horizon_name_below(to, oldest)) { /* of an earlier life */
        to = all;
    }
    if (!horizon_name_below(host->settled, to)) {
        return;
    }
    enum ls_status status = dlog_mark_settled(host->log, host_running_ms(host), to.epoch, to.sequence, &end);
    if (status != LS_ERR_FULL) { /* or later */
        must_append(status, "appending a mark");
        engine_set_log_room(host->engine, dlog_room(host->log));
        host->settling = to;
        engine_set_settled(host->engine, to.epoch, to.sequence); /* from here on nobody is asked */
        host->settling_end = end;
        host_force(host);
    }
}

/* No participant is told before it is durable: a start that knew less would ask about what is gone, and take "not
 * there" for aborted. */
static void on_settled_durable(struct host *host) {
    if (host->settling_end == 0 || host->settling_end > host->fence.position) {
        return;
    }
    /* Crash: no participant has heard of it. */
    (void)failpoint_hit(FP_coord_settled_durable);
    host->settling_end = 0;
    host->settled = host->settling;
}

bool host_is_gone(const struct host *host, uint32_t epoch, uint64_t sequence) {
    return !horizon_name_below(host->settling, (struct horizon_name){epoch, sequence});
}

/* What is in doubt holds locks: a human should know when it does not end by itself. */
static void look_for_doubt(struct host *host, uint64_t now_us) {
    const struct txn *oldest = NULL;
    uint64_t since_us = now_us;
    if (host->doubt_told_us != 0 && now_us - host->doubt_told_us < host->conf.alerts_window_ms * 1000) {
        return;
    }
    for (const struct txn *txn = engine_next(host->engine, NULL); txn != NULL; txn = engine_next(host->engine, txn)) {
        bool in_doubt = txn->state == TXN_LOGGING || txn->state == TXN_COMMITTING || txn->state == TXN_SETTLING;
        uint64_t began_us = txn->decided_us > txn->begun_us ? txn->decided_us : txn->begun_us;
        if (in_doubt && began_us < since_us) {
            oldest = txn;
            since_us = began_us;
        }
    }
    if (oldest == NULL || now_us - since_us < host->conf.alerts_in_doubt_ms * 1000) {
        return;
    }
    struct alert alert = {
        .cause = ALERT_IN_DOUBT, .text = "a transaction is in doubt for too long", .gtid = oldest->gtid};
    alert.reason = "see `lockstep tx show`";
    host->doubt_told_us = now_us;
    (void)alerts_raise(host->alerts, &alert);
    diag(DIAG_WARN, alert.text, "gtid", oldest->gtid, "seconds", diag_u64((now_us - since_us) / 1000000), NULL);
}

static void maintain(struct host *host, uint64_t now_us) {
    look_for_doubt(host, now_us);
    move_settled(host);
    host->maintained_us = now_us;
    struct ls_error err;
    enum ls_status status = dlog_maintain(host->log, host_running_ms(host), &err);
    if (status == LS_ERR_FULL) {
        if (!host->log_starved) {
            diag(DIAG_WARN,
                 "the decision log cannot grow: new transactions are refused once "
                 "its room is used up",
                 "error", err.text, NULL);
        }
        host->log_starved = true;
    } else if (status != LS_OK) {
        host_log_failed("maintaining", &err);
    } else if (host->log_starved) {
        diag(DIAG_INFO, "the decision log can grow again", NULL);
        host->log_starved = false;
    }
    if (dlog_dirty(host->log)) {
        host_force(host); /* copies of open decisions must be durable before their
                             segment goes */
    }
    engine_set_log_room(host->engine, dlog_room(host->log));
    struct dlog_stats stats;
    dlog_get_stats(host->log, &stats);
    if (stats.horizon_position > host->horizon_seen) {
        host->horizon_seen = stats.horizon_position;
        struct engine_event event = {.kind = EV_HORIZON};
        event.horizon.log_position = stats.horizon_position;
        event.horizon.sagas = saga_host_machine(host->sagas);
        host_step(host, &event);
    }
}

static void on_housekeeping(evutil_socket_t fd, short what, void *context) {
    (void)fd;
    (void)what;
    struct host *host = context;
    uint64_t now_us = daemon_now_us();
    mark_when_idle(host);
    agents_tick(host->agents, now_us);
    if (now_us - host->maintained_us >= (uint64_t)MAINTAIN_MS * 1000) {
        maintain(host, now_us);
    }
}

/* ------------------------------------------------------------------ turns */

static void on_engine_timer(evutil_socket_t fd, short what, void *context) {
    (void)fd;
    (void)what;
    struct host *host = context;
    host->armed_us = ENGINE_NEVER;
    struct engine_event event = {.kind = EV_TICK};
    host_step(host, &event);
}

static struct timeval timeval_of_us(uint64_t us) {
    return (struct timeval){.tv_sec = (time_t)(us / 1000000), .tv_usec = (suseconds_t)(us % 1000000)};
}

static void arm_engine_timer(struct host *host) {
    uint64_t due_us = engine_next_timer(host->engine);
    /* Deadlines move on with every transaction; a timer that rings too early
     * costs less than one that is set again each turn. */
    if (due_us == ENGINE_NEVER || due_us >= host->armed_us) {
        return;
    }
    uint64_t now_us = daemon_now_us();
    struct timeval delay = timeval_of_us(due_us > now_us ? due_us - now_us : 0);
    if (event_add(host->engine_timer, &delay) == 0) {
        host->armed_us = due_us;
    }
}

static void check_drained(struct host *host) {
    if (!host->draining || host->stop) {
        return;
    }
    struct engine_stats stats;
    engine_stats(host->engine, &stats);
    bool done = stats.in_flight == 0 && stats.waiting == 0 && api_busy(host->api) == 0;
    if (!done && daemon_now_us() < host->drain_until_us) {
        return;
    }
    if (!done) {
        diag(DIAG_WARN, "drain time is over: the next start drives what is decided", "in_flight",
             diag_u64(stats.in_flight), NULL);
    }
    host->stop = true;
}

static void end_turn(struct host *host) {
    saga_host_turn(host->sagas);
    if (host->kick) {
        host->kick = false;
        dlog_writer_kick(host->writer);
    }
    arm_engine_timer(host);
    check_drained(host);
}

static void on_drain_timer(evutil_socket_t fd, short what, void *context) {
    (void)fd;
    (void)what;
    (void)context; /* the turn that it makes is all that is needed */
}

static void on_stop(void *context, int signal) {
    struct host *host = context;
    if (host->draining) { /* somebody is in a hurry: what is decided is in the log */
        diag(DIAG_WARN, "stopping at once", NULL);
        host->stop = true;
        return;
    }
    daemon_notify("STOPPING=1");
    diag(DIAG_INFO, "draining", "signal", signal == SIGINT ? "SIGINT" : "SIGTERM", NULL);
    /* Crash: as without the signal. */
    (void)failpoint_hit(FP_coord_drain_started);
    host->draining = true;
    host->drain_until_us = daemon_now_us() + host->conf.drain_ms * 1000;
    struct engine_event event = {.kind = EV_DRAIN};
    host_step(host, &event);
    saga_host_drain(host->sagas);
    struct timeval tick = timeval_of_us(50000);
    (void)event_add(host->drain_timer, &tick); /* without it the next event ends the wait */
}

/* ----------------------------------------------------------------- reload */

static void on_reload(void *context) {
    struct host *host = context;
    struct coordinator_conf next;
    struct ls_error err;
    SSL_CTX *tls = NULL;
    char notice[64];
    (void)snprintf(notice, sizeof notice, "RELOADING=1\nMONOTONIC_USEC=%llu", daemon_now_us());
    daemon_notify(notice);
    if (coordinator_conf_load(host->conf_file, &next, &err) != LS_OK) {
        diag(DIAG_ERROR, "not reloaded, everything stays as it was", "error", err.text, NULL);
    } else if (coordinator_conf_load_tls(&next, &tls, &err) != LS_OK) {
        diag(DIAG_ERROR, "not reloaded, everything stays as it was", "error", err.text, NULL);
        coordinator_conf_free(&next);
    } else {
        const char *fixed = coordinator_conf_take(&host->conf, &next);
        coordinator_conf_free(&next);
        agents_set_tls(host->agents, tls);
        api_set_tls(host->api, tls);
        api_limits_changed(host->api);
        SSL_CTX_free(tls);
        diag(DIAG_INFO, "certificates and limits reloaded", NULL);
        if (web_renew(host->web, &err) != LS_OK) {
            diag(DIAG_ERROR, "services are called with certificates as they were", "error", err.text, NULL);
        }
        if (alerts_reload(host->alerts, &err) != LS_OK) {
            diag(DIAG_ERROR, "alerts are signed with the secret as before", "error", err.text, NULL);
        }
        if (fixed != NULL) {
            diag(DIAG_WARN, "a changed key takes effect at the next start only", "key", fixed, NULL);
        }
    }
    daemon_notify("READY=1");
}

/* ------------------------------------------------------------------- start */

struct replay {
    struct recovery *recovery;
    struct saga_fold *sagas;
    struct horizon *horizon;
    struct ls_error *err;
};

/* Everything of earlier epochs was handed out before this one began. */
static void note_epoch(struct replay *replay, const struct dlog_record *record) {
    Lockstep__LogEpoch *epoch = lockstep__log_epoch__unpack(NULL, record->length, record->payload);
    if (epoch != NULL) { /* judged by recovery_record() */
        horizon_sample(replay->horizon, recovery_running_ms(replay->recovery), (struct horizon_name){epoch->epoch, 0});
        lockstep__log_epoch__free_unpacked(epoch, NULL);
    }
}

static enum ls_status on_replay(void *context, const struct dlog_record *record) {
    struct replay *replay = context;
    if (record->type == DLOG_EPOCH) {
        note_epoch(replay, record);
    }
    enum ls_status status =
        saga_fold_record(replay->sagas, record->type, record->position, record->payload, record->length, replay->err);
    return status != LS_OK ? status
                           : recovery_record(replay->recovery, record->type, record->position, record->payload,
                                             record->length, replay->err);
}

static uint32_t app_number(void *context, const char *app) {
    return apps_number(context, app);
}

static enum ls_status fill_registry(struct host *host, const struct recovery *recovery, struct ls_error *err) {
    for (size_t i = 0; i < recovery_participant_count(recovery); i++) {
        const struct recovery_participant *from = recovery_participant(recovery, i);
        struct registry_participant *to;
        enum ls_status status = registry_add(host->registry, from->number, from->name, &to, err);
        if (status != LS_OK) {
            return status;
        }
        to->system_id = from->system_id;
        to->timeline = from->timeline;
        to->changed_epoch = from->changed_epoch;
        for (size_t s = 0; s < from->sighting_count; s++) {
            const struct recovery_sighting *seen = &from->sightings[s];
            if (registry_sight(to, seen->epoch, seen->sequence, seen->lsn, 0) != LS_OK) {
                return ls_fail(err, LS_ERR_NOMEM, "out of memory");
            }
        }
    }
    for (size_t i = 0; i < recovery_acceptance_count(recovery); i++) {
        if (registry_accept(host->registry, recovery_acceptance(recovery, i)) != LS_OK) {
            return ls_fail(err, LS_ERR_NOMEM, "out of memory");
        }
    }
    return LS_OK;
}

static enum ls_status start_engine(struct host *host, const struct recovery *recovery, struct ls_error *err) {
    struct engine_config config = {
        .epoch = host->epoch,
        .in_flight_max = host->conf.in_flight_max,
        .waiting_max = host->conf.waiting_max,
        .finished_max = host->conf.finished_max,
        .keys_max = host->conf.keys_max,
        .resend_us = host->conf.resend_ms * 1000,
        .presume_wait_us = host->conf.presume_wait_ms * 1000,
    };
    (void)snprintf(config.coordinator, sizeof config.coordinator, "%s", host->conf.name);
    (void)snprintf(config.incarnation, sizeof config.incarnation, "%s", host->incarnation);
    host->engine = engine_new(&config);
    if (host->engine == NULL) {
        return ls_fail(err, LS_ERR_NOMEM, "out of memory");
    }
    engine_set_log_room(host->engine, dlog_room(host->log));
    struct dlog_stats stats;
    dlog_get_stats(host->log, &stats);
    host->settled = host->settling = (struct horizon_name){stats.settled_epoch, stats.settled_sequence};
    engine_set_settled(host->engine, stats.settled_epoch, stats.settled_sequence);
    recovery_apply(recovery, host->engine, app_number, host->apps, daemon_now_us(), &host->effects);
    engine_set_log_room(host->engine, dlog_room(host->log));
    return LS_OK;
}

static enum ls_status open_log(struct host *host, struct recovery *recovery, struct saga_fold *sagas,
                               struct ls_error *err) {
    char incarnation[LS_INCARNATION_LEN + 1];
    random_hex(LS_INCARNATION_LEN, incarnation); /* used only if the log is new */
    struct dlog_options options = {
        .dir = host->conf.data,
        .coordinator = host->conf.name,
        .incarnation = incarnation,
        .segment_bytes = (uint32_t)host->conf.segment_bytes,
        .bytes_max = host->conf.log_bytes_max,
        .retention_ms = host->conf.retention_ms,
        .spares = host->conf.spares,
        .io = dlog_io_posix(),
    };
    host->horizon.retention_ms = host->conf.retention_ms;
    struct replay replay = {.recovery = recovery, .sagas = sagas, .horizon = &host->horizon, .err = err};
    uint64_t began_us = daemon_now_us();
    enum ls_status status = dlog_open(&options, on_replay, &replay, &host->log, err);
    if (status != LS_OK) {
        return status;
    }
    /* Crash: the log was read, and nothing of it was changed but spares. */
    (void)failpoint_hit(FP_coord_start_replayed);
    (void)snprintf(host->incarnation, sizeof host->incarnation, "%s", dlog_incarnation(host->log));
    status = claim_log(host->log, host->conf.name, claim_unix_ms(), &host->epoch, err);
    if (status != LS_OK) {
        return status;
    }
    /* Crash: an epoch was used up; what is open is still open. */
    (void)failpoint_hit(FP_coord_start_claimed);
    struct dlog_stats stats;
    dlog_get_stats(host->log, &stats);
    if (stats.cut_bytes > 0) {
        diag(DIAG_WARN, "the log ended in a write that was never confirmed to anybody: cut", "bytes",
             diag_u64(stats.cut_bytes), NULL);
    }
    diag(DIAG_INFO, "decision log ready", "incarnation", host->incarnation, "epoch", diag_u64(host->epoch),
         "open_decisions", diag_u64(recovery_open_count(recovery)), "records", diag_u64(stats.records), "ms",
         diag_u64((daemon_now_us() - began_us) / 1000), NULL);
    return LS_OK;
}

static enum ls_status recover_sagas(struct host *host, const struct saga_fold *fold, struct ls_error *err) {
    host->sagas = saga_host_new(host);
    return host->sagas == NULL ? ls_fail(err, LS_ERR_NOMEM, "out of memory")
                               : saga_host_recover(host->sagas, fold, err);
}

static enum ls_status recover(struct host *host, struct ls_error *err) {
    struct recovery *recovery = recovery_new();
    struct saga_fold *sagas = saga_fold_new();
    if (recovery == NULL || sagas == NULL) {
        recovery_free(recovery);
        saga_fold_free(sagas);
        return ls_fail(err, LS_ERR_NOMEM, "out of memory");
    }
    enum ls_status status = open_log(host, recovery, sagas, err);
    if (status == LS_OK) {
        status = fill_registry(host, recovery, err);
    }
    if (status == LS_OK) {
        status = start_engine(host, recovery, err);
    }
    if (status == LS_OK) {
        status = recover_sagas(host, sagas, err);
    }
    saga_fold_free(sagas);
    recovery_free(recovery);
    return status;
}

static enum ls_status make_loop(struct host *host, struct ls_error *err) {
    struct event_config *config = event_config_new();
    if (config != NULL) {
        /* No precise timers: they set a timerfd in every turn, and a deadline that rings a few milliseconds early is
         * measured by daemon_now_us() and set again. */
        (void)event_config_set_flag(config, EVENT_BASE_FLAG_EPOLL_USE_CHANGELIST);
        host->base = event_base_new_with_config(config);
        event_config_free(config);
    }
    return host->base != NULL ? LS_OK : ls_fail(err, LS_ERR_NOMEM, "the event loop cannot be made");
}

static enum ls_status make_events(struct host *host, struct ls_error *err) {
    host->log_event = event_new(host->base, dlog_writer_fd(host->writer), EV_READ | EV_PERSIST, on_log_durable, host);
    host->engine_timer = evtimer_new(host->base, on_engine_timer, host);
    host->housekeeping_timer = event_new(host->base, -1, EV_PERSIST, on_housekeeping, host);
    host->drain_timer = event_new(host->base, -1, EV_PERSIST, on_drain_timer, host);
    struct timeval housekeeping = timeval_of_us((uint64_t)HOUSEKEEPING_MS * 1000);
    if (host->log_event == NULL || host->engine_timer == NULL || host->housekeeping_timer == NULL ||
        host->drain_timer == NULL || event_add(host->log_event, NULL) != 0 ||
        event_add(host->housekeeping_timer, &housekeeping) != 0) {
        return ls_fail(err, LS_ERR_NOMEM, "the event loop's events cannot be made");
    }
    return daemon_signals_new(host->base, on_stop, on_reload, host, &host->signals, err);
}

static enum ls_status open_listeners(struct host *host, SSL_CTX *tls, struct ls_error *err) {
    char api_address[DAEMON_ADDRESS_MAX], agents_address[DAEMON_ADDRESS_MAX];
    int api_fd, unix_fd, agents_fd;
    enum ls_status status = daemon_listen_tcp(host->conf.agents_listen, &agents_fd, agents_address, err);
    if (status != LS_OK) {
        return status;
    }
    status = agents_new(host, agents_fd, tls, &host->agents, err);
    if (status != LS_OK) {
        return status;
    }
    status = daemon_listen_tcp(host->conf.api_listen, &api_fd, api_address, err);
    if (status != LS_OK) {
        return status;
    }
    status = daemon_listen_unix(host->conf.api_socket, 0600, &unix_fd, err);
    if (status != LS_OK) {
        (void)close(api_fd);
        return status;
    }
    status = api_new(host, api_fd, tls, unix_fd, &host->api, err);
    if (status != LS_OK) {
        return status;
    }
    const struct daemon_port ports[] = {
        {"api", api_address}, {"agents", agents_address}, {"socket", host->conf.api_socket}};
    status = daemon_write_ports(host->conf.data, ports, sizeof ports / sizeof ports[0], err);
    if (status == LS_OK) {
        diag(DIAG_INFO, "listening", "api", api_address, "agents", agents_address, "socket", host->conf.api_socket,
             NULL);
    }
    return status;
}

enum ls_status host_start(struct host *host, struct coordinator_conf *conf, const char *conf_file,
                          struct ls_error *err) {
    *host = (struct host){.conf = *conf, .conf_file = conf_file, .lock_fd = -1, .armed_us = ENGINE_NEVER};
    *conf = (struct coordinator_conf){0};
    host->cancel_last = &host->cancel_first;
    host->started_us = daemon_now_us();
    SSL_CTX *tls = NULL;
    enum ls_status status =
        coordinator_conf_load_tls(&host->conf, &tls, err); /* what can fail cheaply comes before the log is touched */
    if (status != LS_OK) {
        return status;
    }
    host->registry = registry_new();
    host->apps = apps_new();
    status = host->registry == NULL || host->apps == NULL ? ls_fail(err, LS_ERR_NOMEM, "out of memory")
                                                          : make_loop(host, err);
    if (status == LS_OK) {
        status = web_new(host->base, host->conf.calls_connections, &host->web, err);
    }
    if (status == LS_OK) {
        status = alerts_new(host->base, host->web, &host->conf, &host->alerts, err);
    }
    if (status == LS_OK) {
        status = daemon_lock_directory(host->conf.data, &host->lock_fd, err);
    }
    if (status == LS_OK) {
        /* Crash: the lock goes with the process. */
        (void)failpoint_hit(FP_coord_start_locked);
        status = recover(host, err);
    }
    if (status == LS_OK) {
        lockstep__fence__init(&host->fence);
        host->fence.incarnation = host->incarnation;
        host->fence.epoch = host->epoch;
        refresh_fence(host);
        host->maintained_us = daemon_now_us();
        status = dlog_writer_start(host->log, &host->writer, err);
    }
    if (status == LS_OK) {
        status = make_events(host, err);
    }
    if (status == LS_OK) {
        stats_setup();
        status = open_listeners(host, tls, err);
    }
    SSL_CTX_free(tls);
    return status;
}

int host_run(struct host *host) {
    /* Crash: agents and clients may have connected; nobody was accepted. */
    (void)failpoint_hit(FP_coord_start_listening);
    daemon_notify("READY=1");
    diag(DIAG_INFO, "ready", "coordinator", host->conf.name, NULL);
    end_turn(host);
    while (!host->stop) {
        if (event_base_loop(host->base, EVLOOP_ONCE) < 0) {
            diag_fatal(LS_EXIT_ERROR, "the event loop has failed", "error", diag_errno(errno), NULL);
        }
        end_turn(host);
    }
    /* Crash: everything is finished, but ends may be missing in the log: driven once more. */
    (void)failpoint_hit(FP_coord_drained);
    append_mark(host); /* ends and running time of this life */
    struct ls_error err;
    if (dlog_writer_stop(host->writer, &err) != LS_OK) {
        host_log_failed("stopping", &err);
    }
    host->writer = NULL;
    diag(DIAG_INFO, "stopped", NULL);
    return LS_EXIT_OK;
}

static void event_drop(struct event **event) {
    if (*event != NULL) {
        event_free(*event);
        *event = NULL;
    }
}

void host_free(struct host *host) {
    struct ls_error err;
    api_free(host->api);
    agents_free(host->agents);
    daemon_signals_free(host->signals);
    event_drop(&host->log_event);
    event_drop(&host->engine_timer);
    event_drop(&host->housekeeping_timer);
    event_drop(&host->drain_timer);
    if (dlog_writer_stop(host->writer, &err) != LS_OK) { /* after a start that failed */
        diag(DIAG_ERROR, "the decision log has failed", "error", err.text, NULL);
    }
    /* Runs that the engine still holds are freed with it. */
    for (const struct txn *txn = host->engine == NULL ? NULL : engine_next(host->engine, NULL); txn != NULL;
         txn = engine_next(host->engine, txn)) {
        if (txn->document != NULL) {
            run_drop(txn->document);
        }
    }
    saga_host_free(host->sagas); /* its calls go before what carries them */
    alerts_free(host->alerts);
    web_free(host->web);
    if (host->engine != NULL) {
        engine_free(host->engine);
    }
    engine_effects_free(&host->effects);
    dlog_close(host->log);
    while (host->cancel_first != NULL) {
        struct host_cancel *cancel = host->cancel_first;
        host->cancel_first = cancel->next;
        free(cancel);
    }
    free(host->tickets);
    registry_free(host->registry);
    apps_free(host->apps);
    if (host->base != NULL) {
        event_base_free(host->base);
    }
    coordinator_conf_free(&host->conf);
    if (host->lock_fd >= 0) {
        (void)close(host->lock_fd);
    }
}

bool host_gtid_is_ours(const struct host *host, const struct ls_gtid *gtid) {
    return strcmp(gtid->coordinator, host->conf.name) == 0 && strcmp(gtid->incarnation, host->incarnation) == 0;
}

unsigned host_agents_linked(const struct host *host) {
    return agents_linked(host->agents);
}
