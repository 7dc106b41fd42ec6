/*
 * stats.c: see stats.h. The core counts by itself; its numbers are copied when somebody asks, so that a transaction pays nothing for them.
 */
#include "participant/stats.h"

#include <event2/buffer.h>
#include <event2/http.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/acceptor.h"
#include "common/daemon.h"
#include "common/metrics.h"
#include "participant/host.h"
#include "participant/relay_host.h"

#define REQUEST_TIMEOUT_S 5
#define HEADERS_MAX 8192

struct counter {
    const char *name, *help, *label;
    size_t offset; /* of a uint64_t in struct agent_stats */
};
#define IN_CORE(field) offsetof(struct agent_stats, field)

static const struct counter counters[] = {
    {"lockstep_agent_votes_total", "votes sent", "vote=\"yes\"", IN_CORE(votes_yes)},
    {"lockstep_agent_votes_total", "votes sent", "vote=\"no\"", IN_CORE(votes_no)},
    {"lockstep_agent_votes_total", "votes sent", "vote=\"read_only\"", IN_CORE(votes_read_only)},
    {"lockstep_agent_one_participant_commits_total", "one-participant transactions committed", NULL, IN_CORE(one_phase_committed)},
    {"lockstep_agent_finished_total", "prepared branches finished", "how=\"committed\"", IN_CORE(committed)},
    {"lockstep_agent_finished_total", "prepared branches finished", "how=\"rolled_back\"", IN_CORE(rolled_back)},
    {"lockstep_agent_hazards_total", "branches that were broken from outside", NULL, IN_CORE(hazards)},
    {"lockstep_agent_strangers_total", "other transactions that bore one of our gids", NULL, IN_CORE(strangers)},
    {"lockstep_agent_proofs_total", "questions how a transaction ended", NULL, IN_CORE(proofs)},
    {"lockstep_agent_retries_total", "operations tried again", NULL, IN_CORE(retries)},
    {"lockstep_agent_sweeps_total", "scans for prepared transactions", NULL, IN_CORE(sweeps)},
};

#define IN_RELAY(field) offsetof(struct relay_stats, field)
static const struct counter relay_counters[] = {
    {"lockstep_agent_events_claimed_total", "own events given a position", NULL, IN_RELAY(claimed)},
    {"lockstep_agent_events_sent_total", "events sent to subscribers, repeated ones included", NULL, IN_RELAY(sent)},
    {"lockstep_agent_pages_acknowledged_total", "pages of events that a subscriber has stored", NULL, IN_RELAY(acknowledged)},
    {"lockstep_agent_deliveries_total", "events given to handlers", "how=\"handled\"", IN_RELAY(handled)},
    {"lockstep_agent_deliveries_total", "events given to handlers", "how=\"duplicate\"", IN_RELAY(duplicates)},
    {"lockstep_agent_deliveries_total", "events given to handlers", "how=\"queued\"", IN_RELAY(queued)},
    {"lockstep_agent_deliveries_total", "events given to handlers", "how=\"failed\"", IN_RELAY(parked)},
    {"lockstep_agent_deliveries_total", "events given to handlers", "how=\"dead\"", IN_RELAY(dead)},
};
enum { RELAY_COUNTERS = sizeof(relay_counters) / sizeof(relay_counters[0]) };
enum { COUNTERS = sizeof(counters) / sizeof(counters[0]) };

enum gauge_id { G_STATE, G_LINK, G_BRANCHES, G_PREPARED, G_RUNNING, G_CREDITS, G_QUARANTINED, G_WORKERS, G_IDLE, G_FINISHERS, G_WAITING,
                G_PEERS, G_SUBSCRIPTIONS, G_LAG_EVENTS, G_LAG, G_UNCLAIMED, G_PARKED, G_DEAD, G_UNWANTED, G_RESTING, GAUGES };
static const struct {
    const char *name, *help;
} gauges[GAUGES] = {
    [G_STATE] = {"lockstep_agent_serving", "1 while work is taken"},
    [G_LINK] = {"lockstep_agent_link_up", "1 while the coordinator is linked"},
    [G_BRANCHES] = {"lockstep_agent_branches", "branches in memory"},
    [G_PREPARED] = {"lockstep_agent_branches_prepared", "branches that are prepared and undecided"},
    [G_RUNNING] = {"lockstep_agent_branches_running", "branches whose statements run"},
    [G_CREDITS] = {"lockstep_agent_credits", "branches the coordinator may have here at once"},
    [G_QUARANTINED] = {"lockstep_agent_quarantined", "1 while the server has lost what this agent voted with"},
    [G_WORKERS] = {"lockstep_agent_workers", "worker sessions"},
    [G_IDLE] = {"lockstep_agent_workers_idle", "worker sessions that serve no branch"},
    [G_FINISHERS] = {"lockstep_agent_finishers", "sessions for COMMIT PREPARED, proofs and scans"},
    [G_WAITING] = {"lockstep_agent_branches_waiting", "branches that wait for a session"},
    [G_PEERS] = {"lockstep_agent_peers_up", "subscribers' agents that are linked"},
    [G_SUBSCRIPTIONS] = {"lockstep_agent_subscriptions", "handlers of this database"},
    [G_LAG_EVENTS] = {"lockstep_agent_outbox_lag_events", "events that the slowest subscriber wants and has not acknowledged (10000: or more)"},
    [G_LAG] = {"lockstep_agent_outbox_lag_seconds", "age of the oldest event that somebody wants and has not acknowledged"},
    [G_UNCLAIMED] = {"lockstep_agent_events_unclaimed", "own events without a position (10000: or more)"},
    [G_PARKED] = {"lockstep_agent_events_parked", "events that wait for another attempt, or behind such a one of their key (10000: or more)"},
    [G_DEAD] = {"lockstep_agent_dead_letters", "events that a handler has refused for good (10000: or more)"},
    [G_UNWANTED] = {"lockstep_agent_unwanted_events", "events that nobody subscribes to (10000: or more)"},
    [G_RESTING] = {"lockstep_agent_relay_resting", "1 while another participant's agent relays the events of this database"},
};

struct agentstats {
    struct agenthost *host;
    struct evhttp *http;
    struct acceptor *acceptor;
    struct metric *counter[COUNTERS], *relay_counter[RELAY_COUNTERS], *gauge[GAUGES], *pipelines, *connects, *accept_failures;
    uint64_t seen[COUNTERS], relay_seen[RELAY_COUNTERS], seen_pipelines, seen_connects, seen_accept_failures;
};

static uint64_t at(const void *core, size_t offset)
{
    uint64_t value;
    memcpy(&value, (const char *)core + offset, sizeof(value));
    return value;
}

static void refresh(struct agentstats *stats)
{
    struct agent_stats core;
    struct pg_stats pg;
    struct relayhost_stats relay;
    relayhost_stats(stats->host->relay, &relay);
    for (size_t i = 0; i < RELAY_COUNTERS; i++) {
        uint64_t now = at(&relay.core, relay_counters[i].offset);
        metric_add(stats->relay_counter[i], now - stats->relay_seen[i]);
        stats->relay_seen[i] = now;
    }
    agent_stats(stats->host->core, &core);
    pg_stats(stats->host->pg, &pg);
    for (size_t i = 0; i < COUNTERS; i++) {
        uint64_t now = at(&core, counters[i].offset);
        metric_add(stats->counter[i], now - stats->seen[i]);
        stats->seen[i] = now;
    }
    metric_add(stats->pipelines, pg.pipelines - stats->seen_pipelines);
    metric_add(stats->connects, pg.connects - stats->seen_connects);
    metric_add(stats->accept_failures, acceptor_failures() - stats->seen_accept_failures);
    stats->seen_accept_failures = acceptor_failures();
    stats->seen_pipelines = pg.pipelines;
    stats->seen_connects = pg.connects;
    const double values[GAUGES] = {
        [G_STATE] = core.state == AGENT_SERVING, [G_LINK] = core.link != 0,      [G_BRANCHES] = core.branches,
        [G_PREPARED] = core.prepared,            [G_RUNNING] = core.running,     [G_CREDITS] = core.credits,
        [G_QUARANTINED] = core.quarantined,      [G_WORKERS] = pg.workers,       [G_IDLE] = pg.workers_idle,
        [G_FINISHERS] = pg.finishers,            [G_WAITING] = pg.waiting,
        [G_PEERS] = relay.peers_up,              [G_SUBSCRIPTIONS] = relay.subscriptions,
        [G_LAG_EVENTS] = (double)relay.behind,   [G_LAG] = (double)relay.behind_ms / 1000,
        [G_UNCLAIMED] = (double)relay.unclaimed, [G_PARKED] = (double)relay.waiting,
        [G_DEAD] = (double)relay.dead,           [G_UNWANTED] = (double)relay.unwanted,
        [G_RESTING] = relay.resting,
    };
    for (size_t i = 0; i < GAUGES; i++)
        metric_set(stats->gauge[i], values[i]);
}

static void on_metrics(struct evhttp_request *request, void *context)
{
    struct agentstats *stats = context;
    size_t length;
    if (evhttp_request_get_command(request) != EVHTTP_REQ_GET) {
        evhttp_send_reply(request, 405, NULL, NULL);
        return;
    }
    refresh(stats);
    char *body = metrics_render(&length);
    struct evbuffer *buffer = evbuffer_new();
    if (buffer == NULL)
        abort();
    evbuffer_add(buffer, body, length);
    free(body);
    evhttp_add_header(evhttp_request_get_output_headers(request), "Content-Type", "text/plain; version=0.0.4; charset=utf-8");
    evhttp_send_reply(request, 200, NULL, buffer);
    evbuffer_free(buffer);
}

static void on_other(struct evhttp_request *request, void *context)
{
    (void)context;
    evhttp_send_reply(request, 404, NULL, NULL);
}

static enum ls_status listen_http(struct agentstats *stats, const char *path, struct ls_error *err)
{
    int fd;
    enum ls_status status = daemon_listen_unix(path, 0600, &fd, err);
    if (status != LS_OK)
        return status;
    stats->http = evhttp_new(stats->host->base);
    struct evhttp_bound_socket *bound = stats->http != NULL ? evhttp_accept_socket_with_handle(stats->http, fd) : NULL;
    if (bound == NULL) {
        (void)close(fd);
        return ls_fail(err, LS_ERR_NOMEM, "out of memory");
    }
    /* Without memory libevent makes a listener that never listens; enabling it again tells. */
    struct evconnlistener *listener = evhttp_bound_socket_get_listener(bound);
    if (evconnlistener_enable(listener) != 0)
        return ls_fail(err, LS_ERR_NOMEM, "out of memory");
    evhttp_set_timeout(stats->http, REQUEST_TIMEOUT_S);
    evhttp_set_max_headers_size(stats->http, HEADERS_MAX);
    evhttp_set_max_body_size(stats->http, 0);
    evhttp_set_cb(stats->http, "/metrics", on_metrics, stats);
    evhttp_set_gencb(stats->http, on_other, NULL);
    return acceptor_new(stats->host->base, listener, "metrics", &stats->acceptor, err);
}

enum ls_status agentstats_new(struct agenthost *host, struct agentstats **ret_stats, struct ls_error *err)
{
    struct agentstats *stats = calloc(1, sizeof(*stats));
    enum ls_status status = LS_OK;
    if (stats == NULL)
        return ls_fail(err, LS_ERR_NOMEM, "out of memory");
    stats->host = host;
    for (size_t i = 0; i < COUNTERS; i++)
        stats->counter[i] = metric_new(METRIC_COUNTER, counters[i].name, counters[i].help, counters[i].label);
    for (size_t i = 0; i < RELAY_COUNTERS; i++)
        stats->relay_counter[i] = metric_new(METRIC_COUNTER, relay_counters[i].name, relay_counters[i].help, relay_counters[i].label);
    for (size_t i = 0; i < GAUGES; i++)
        stats->gauge[i] = metric_new(METRIC_GAUGE, gauges[i].name, gauges[i].help, NULL);
    stats->pipelines = metric_new(METRIC_COUNTER, "lockstep_agent_pipelines_total", "round trips made for statements of branches", NULL);
    stats->connects = metric_new(METRIC_COUNTER, "lockstep_agent_connects_total", "connections to the database begun", NULL);
    stats->accept_failures = metric_new(METRIC_COUNTER, "lockstep_agent_accept_failures_total", "connections that could not be accepted at once", NULL);
    if (host->conf.metrics_socket != NULL && host->conf.metrics_socket[0] != '\0')
        status = listen_http(stats, host->conf.metrics_socket, err);
    if (status != LS_OK) {
        agentstats_free(stats);
        return status;
    }
    *ret_stats = stats;
    return LS_OK;
}

void agentstats_free(struct agentstats *stats)
{
    if (stats == NULL)
        return;
    acceptor_free(stats->acceptor);
    if (stats->http != NULL) {
        evhttp_free(stats->http);
        (void)unlink(stats->host->conf.metrics_socket);
    }
    free(stats);
}
