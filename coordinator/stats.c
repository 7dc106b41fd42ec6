/* stats.c: see stats.h. */
#include "coordinator/stats.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "common/acceptor.h"

#define BODY_KINDS 32u /* above the highest field number of Frame's oneof */
static const int http_codes[] = {200, 202, 400, 401, 403, 404, 405, 409, 413, 415, 422, 429, 500, 503};
#define HTTP_CODES (sizeof http_codes / sizeof http_codes[0])

static struct metric *phases[STATS_PHASE_COUNT];
static struct metric *messages[2][BODY_KINDS];
static struct metric *http[HTTP_CODES];
static struct metric *marks;
static struct metric *saga_states[SAGA_STATE_COUNT], *saga_oldest, *saga_seconds, *saga_step_seconds;

/* A counter that somebody else counts: what was added so far. */
struct followed {
    struct metric *metric;
    uint64_t seen;
};
static struct followed begun, committed, aborted, hazards, read_only, one_participant, refused, strangers;
static struct followed sagas_begun, sagas_completed, sagas_compensated, sagas_stuck, saga_alerts, saga_attempts,
    saga_retries;
static struct followed alerts_raised[ALERT_CAUSE_COUNT], alerts_delivered, alerts_failed, alerts_dropped,
    alerts_refused;
static struct metric *alerts_queued;
static struct followed accept_failures, log_writes, log_syncs, log_idle_syncs, log_batches, log_bytes;
static struct metric *in_flight, *in_doubt, *waiting, *keys, *log_unsynced, *log_room, *log_reserved, *log_open,
    *log_size, *log_window, *agents_linked, *connections_open, *uptime;

static void follow(struct followed *counter, uint64_t now) {
    if (now > counter->seen) {
        metric_add(counter->metric, now - counter->seen);
        counter->seen = now;
    }
}

static struct metric *counter(const char *name, const char *help, const char *label) {
    return metric_new(METRIC_COUNTER, name, help, label);
}
static struct metric *gauge(const char *name, const char *help) {
    return metric_new(METRIC_GAUGE, name, help, NULL);
}

static void setup_messages(void) {
    static const char *const names[2] = {"lockstepd_messages_sent_total", "lockstepd_messages_received_total"};
    static const char *const helps[2] = {"Frames sent to agents.", "Frames received from agents."};
    const ProtobufCMessageDescriptor *frame = &lockstep__frame__descriptor;
    for (unsigned direction = 0; direction < 2; direction++) {
        for (unsigned i = 0; i < frame->n_fields; i++) {
            const ProtobufCFieldDescriptor *field = &frame->fields[i];
            if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) == 0) {
                continue;
            }
            assert(field->id < BODY_KINDS);
            char label[64];
            (void)snprintf(label, sizeof label, "kind=\"%s\"", field->name);
            messages[direction][field->id] = counter(names[direction], helps[direction], label);
        }
    }
}

static void setup_sagas(void) {
    const char *help = "Sagas that ended, by outcome.";
    sagas_begun.metric = counter("lockstepd_sagas_begun_total", "Sagas that were given a name.", NULL);
    sagas_completed.metric = counter("lockstepd_sagas_total", help, "outcome=\"completed\"");
    sagas_compensated.metric = counter("lockstepd_sagas_total", help, "outcome=\"compensated\"");
    sagas_stuck.metric =
        counter("lockstepd_saga_dead_letters_total", "Times a saga came into the dead-letter queue.", NULL);
    saga_alerts.metric = counter("lockstepd_saga_alerts_total", "Times a human was called.", NULL);
    saga_attempts.metric = counter("lockstepd_saga_attempts_total", "Attempts at steps of sagas.", NULL);
    saga_retries.metric = counter("lockstepd_saga_repeats_total", "Of these, not the first at their step.", NULL);
    saga_oldest = gauge("lockstepd_saga_oldest_seconds", "Age of the oldest saga that has not ended.");
    saga_seconds = metric_new(METRIC_HISTOGRAM, "lockstepd_saga_seconds", "From the begin of a saga to its end.", NULL);
    saga_step_seconds = metric_new(METRIC_HISTOGRAM, "lockstepd_saga_step_seconds",
                                   "From sending an attempt at a step of a saga to its answer.", NULL);
    for (int i = SAGA_BEGUN; i <= SAGA_STUCK; i++) {
        char label[48];
        (void)snprintf(label, sizeof label, "state=\"%s\"", saga_state_name((enum saga_state)i));
        saga_states[i] =
            metric_new(METRIC_GAUGE, "lockstepd_sagas_open", "Sagas that have not ended, by state.", label);
    }
}

void stats_saga_step(uint64_t us) {
    metric_observe_us(saga_step_seconds, us);
}

void stats_saga(uint64_t us) {
    metric_observe_us(saga_seconds, us);
}

static void render_sagas(const struct saga_host_stats *s) {
    follow(&sagas_begun, s->begun);
    follow(&sagas_completed, s->completed);
    follow(&sagas_compensated, s->compensated);
    follow(&sagas_stuck, s->stuck_ever);
    follow(&saga_alerts, s->alerts);
    follow(&saga_attempts, s->attempts);
    follow(&saga_retries, s->retries);
    metric_set(saga_oldest, s->oldest_s);
    for (int i = SAGA_BEGUN; i <= SAGA_STUCK; i++) {
        metric_set(saga_states[i], (double)s->by_state[i]);
    }
}

static void setup_alerts(void) {
    for (int i = 0; i < ALERT_CAUSE_COUNT; i++) {
        char label[48];
        (void)snprintf(label, sizeof label, "cause=\"%s\"", alert_cause_name((enum alert_cause)i));
        alerts_raised[i].metric = counter("lockstepd_alerts_total", "Times a human was called, by cause.", label);
    }
    const char *help = "Attempts at delivering an alert, by result.";
    alerts_delivered.metric = counter("lockstepd_alert_deliveries_total", help, "result=\"delivered\"");
    alerts_failed.metric = counter("lockstepd_alert_deliveries_total", help, "result=\"failed\"");
    alerts_dropped.metric = counter("lockstepd_alerts_dropped_total", "Alerts that found the queue full.", NULL);
    alerts_refused.metric =
        counter("lockstepd_alerts_refused_total", "Alerts that the receiver refused for good.", NULL);
    alerts_queued = gauge("lockstepd_alerts_queued", "Alerts that wait for their receiver.");
}

static void render_alerts(const struct alert_stats *a) {
    for (int i = 0; i < ALERT_CAUSE_COUNT; i++) {
        follow(&alerts_raised[i], a->raised[i]);
    }
    follow(&alerts_delivered, a->delivered);
    follow(&alerts_failed, a->failed);
    follow(&alerts_dropped, a->dropped);
    follow(&alerts_refused, a->refused);
    metric_set(alerts_queued, a->queued);
}

void stats_setup(void) {
    setup_sagas();
    setup_alerts();
    const char *help =
        "Transactions by outcome. One that turns from committed or aborted into a hazard is counted again as that.";
    committed.metric = counter("lockstepd_transactions_total", help, "outcome=\"committed\"");
    aborted.metric = counter("lockstepd_transactions_total", help, "outcome=\"aborted\"");
    hazards.metric = counter("lockstepd_transactions_total", help, "outcome=\"hazard\"");
    begun.metric = counter("lockstepd_transactions_begun_total", "Transactions that were given a gtid.", NULL);
    read_only.metric =
        counter("lockstepd_transactions_read_only_total", "Committed transactions that wrote nothing.", NULL);
    one_participant.metric =
        counter("lockstepd_transactions_one_participant_total", "Transactions on one participant only.", NULL);
    refused.metric = counter("lockstepd_transactions_refused_total",
                             "Runs refused before anything was begun (422, 429, 503).", NULL);
    strangers.metric = counter("lockstepd_strangers_total",
                               "Prepared transactions that bore a gid of ours and that no decision lists.", NULL);
    in_flight = gauge("lockstepd_transactions_in_flight", "Transactions admitted and unfinished.");
    in_doubt = gauge("lockstepd_transactions_in_doubt",
                     "Transactions voted and undecided, or decided and not applied everywhere.");
    waiting = gauge("lockstepd_transactions_waiting", "Transactions queued for a free branch at their participants.");
    keys = gauge("lockstepd_idempotency_keys", "Idempotency-Keys remembered.");

    phases[STATS_PREPARE] =
        metric_new(METRIC_HISTOGRAM, "lockstepd_prepare_seconds", "From acceptance to the last vote.", NULL);
    phases[STATS_LOG] = metric_new(METRIC_HISTOGRAM, "lockstepd_decision_log_seconds",
                                   "From the last vote to the durable decision.", NULL);
    phases[STATS_COMMIT] = metric_new(METRIC_HISTOGRAM, "lockstepd_commit_seconds",
                                      "From the durable decision until every branch is committed.", NULL);
    phases[STATS_TOTAL] =
        metric_new(METRIC_HISTOGRAM, "lockstepd_transaction_seconds", "From acceptance to the outcome.", NULL);

    log_writes.metric = counter("lockstepd_log_writes_total", "Writes to the decision log.", NULL);
    log_syncs.metric = counter("lockstepd_log_syncs_total", "Forced writes (fdatasync) of the decision log.", NULL);
    log_batches.metric = counter("lockstepd_log_batches_total", "Batches written to the decision log.", NULL);
    log_bytes.metric = counter("lockstepd_log_appended_bytes_total", "Bytes appended to the decision log.", NULL);
    log_idle_syncs.metric = counter("lockstepd_log_idle_syncs_total",
                                    "Of these, of nothing but ends and marks: no transaction waited for them.", NULL);
    marks = counter("lockstepd_log_marks_total", "Marks appended when idle.", NULL);
    log_unsynced = gauge("lockstepd_log_unsynced_bytes", "Bytes appended to the decision log and not yet durable.");
    log_room = gauge("lockstepd_log_room_bytes", "Bytes that can still be appended into preallocated space.");
    log_reserved = gauge("lockstepd_log_reserved_bytes", "Bytes of that promised to transactions under way.");
    log_open = gauge("lockstepd_open_decisions", "Decisions in the log that are not proved applied everywhere.");
    log_size = gauge("lockstepd_log_size_bytes", "Bytes of the decision log on disk.");
    log_window = gauge("lockstepd_log_horizon_position", "Log position before which decisions are no longer kept.");

    agents_linked = gauge("lockstepd_agents_linked", "Agents with a link.");
    connections_open = gauge("lockstepd_http_connections", "HTTP connections open.");
    accept_failures.metric =
        counter("lockstepd_accept_failures_total", "Times a connection could not be accepted and had to wait.", NULL);
    uptime = gauge("lockstepd_uptime_seconds", "Running time of this life.");
    setup_messages();
    for (size_t i = 0; i < HTTP_CODES; i++) {
        char label[32];
        (void)snprintf(label, sizeof label, "code=\"%d\"", http_codes[i]);
        http[i] = counter("lockstepd_http_responses_total", "HTTP responses by status code.", label);
    }
}

void stats_phase(enum stats_phase phase, uint64_t us) {
    metric_observe_us(phases[phase], us);
}

void stats_message(enum stats_direction direction, Lockstep__Frame__BodyCase kind) {
    if ((unsigned)kind < BODY_KINDS && messages[direction][kind] != NULL) {
        metric_add(messages[direction][kind], 1);
    }
}

void stats_http(int code) {
    for (size_t i = 0; i < HTTP_CODES; i++) {
        if (http_codes[i] == code) {
            metric_add(http[i], 1);
            return;
        }
    }
    assert(!"a status code that is not in the list");
}

void stats_mark(void) {
    metric_add(marks, 1);
}

char *stats_render(const struct engine *engine, const struct dlog *log, unsigned agents, unsigned connections,
                   unsigned long long uptime_ms, const struct saga_host_stats *sagas, const struct alert_stats *alerts,
                   size_t *ret_length) {
    render_sagas(sagas);
    render_alerts(alerts);
    struct engine_stats e;
    engine_stats(engine, &e);
    follow(&begun, e.begun);
    follow(&committed, e.committed);
    follow(&aborted, e.aborted);
    follow(&hazards, e.hazards);
    follow(&read_only, e.read_only);
    follow(&one_participant, e.one_participant);
    follow(&refused, e.refused);
    follow(&strangers, e.strangers);
    metric_set(in_flight, e.in_flight);
    metric_set(in_doubt, e.in_doubt);
    metric_set(waiting, e.waiting);
    metric_set(keys, e.keys);
    struct dlog_stats l;
    dlog_get_stats(log, &l);
    follow(&log_writes, l.writes);
    follow(&log_syncs, l.syncs);
    follow(&log_idle_syncs, l.idle_syncs);
    follow(&log_batches, l.batches);
    follow(&log_bytes, l.appended_bytes);
    metric_set(log_unsynced, (double)(l.append_position - l.durable_position));
    metric_set(log_room, (double)dlog_room(log));
    metric_set(log_reserved, (double)e.log_reserved_bytes);
    metric_set(log_open, (double)l.open_decisions);
    metric_set(log_size, (double)l.bytes);
    metric_set(log_window, (double)l.horizon_position);
    metric_set(agents_linked, agents);
    metric_set(connections_open, connections);
    follow(&accept_failures, acceptor_failures());
    metric_set(uptime, (double)uptime_ms / 1000.0);
    return metrics_render(ret_length);
}
