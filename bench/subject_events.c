/*
 * subject_events.c: the subject `choreographed`: the work as a flow of events. A client makes one local transaction in
 * the first database, which writes its own part and the event that the others follow up; nobody answers for the whole.
 * The row of the flow in the first database says how it ended, so a second session looks for all flows under way.
 *
 * The functions that are called and subscribed: scripts/lib/shop/events for the order flow,
 * scripts/lib/bench_events.sql for the others.
 */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "bench/subject.h"
#include "lockstep/status.h"

#define LOOK_NS 5000000L
#define LIST_ITEM 24u

struct flow_client {
    struct load_source source;
    struct events *events;
    struct load_client *base;
    PGconn *session;
    bool accepted; /* its local transaction is committed: the flow is under way */
};

struct events {
    struct load *load;
    struct load_loop loop;
    struct flow_client *clients;
    struct load_source look_source;
    PGconn *watch;
    int look_timer;
    char *list;
};

static void broken(struct events *events, const char *what) {
    if (events->load->broken) return;
    events->load->broken = true;
    (void)bench_fail(events->load->options->name, LS_EXIT_ERROR, "choreographed: %s", what);
}

static int send_order(PGconn *session, const struct work *work) {
    const struct work_values *order = &work->parts[0].values;

    return PQsendQueryPrepared(session, "begin", (int)order->count, order->items, NULL, NULL, 0);
}

/* bench_begin(number, row, changes, payload) */
static int send_moves(PGconn *session, const struct work *work, const char *payload) {
    char changes[WORK_DATABASES_MAX * LIST_ITEM];
    size_t used = 0;

    for (uint32_t i = 0; i < work->part_count; i++)
        used += (size_t)snprintf(changes + used, sizeof changes - used, "%s%s", i == 0 ? "{" : ",",
                                 work->parts[i].values.items[0]);
    (void)snprintf(changes + used, sizeof changes - used, "}");
    const char *values[] = {work->parts[0].values.items[2], work->parts[0].values.items[1], changes, payload};
    return PQsendQueryPrepared(session, "begin", 4, values, NULL, NULL, 0);
}

static void begin(void *context, struct load_client *base) {
    struct events *events = context;
    struct flow_client *client = &events->clients[base->number];
    const struct workload *workload = events->load->workload;

    atomic_fetch_add_explicit(&events->load->trips, 1, memory_order_relaxed);
    if ((workload->kind->shop ? send_order(client->session, &base->work)
                              : send_moves(client->session, &base->work, workload->payload)) != 1)
        broken(events, PQerrorMessage(client->session));
}

/* A local transaction that failed has begun nothing. */
static void on_answer(void *context) {
    struct flow_client *client = context;
    struct events *events = client->events;
    PGresult *result;

    if (PQconsumeInput(client->session) != 1) {
        broken(events, PQerrorMessage(client->session));
        return;
    }
    while (PQisBusy(client->session) == 0 && (result = PQgetResult(client->session)) != NULL) {
        char cause[LOAD_CAUSE_TEXT] = "";
        client->accepted = subject_result_ok(result, cause);
        PQclear(result);
        if (client->accepted) continue;
        load_aborted(events->load, &client->base->work, cause);
        while ((result = PQgetResult(client->session)) != NULL) PQclear(result);
        load_loop_free(&events->loop, client->base);
        return;
    }
}

static void ended(struct events *events, struct flow_client *client, bool complete) {
    uint64_t now_us = bench_now_us();

    client->accepted = false;
    if (complete) {
        load_committed(events->load, client->base->since_us, now_us, now_us);
    } else {
        load_aborted(events->load, &client->base->work, "refused");
    }
    load_loop_free(&events->loop, client->base);
}

static const char *list_accepted(const struct events *events) {
    size_t used = 0, size = 2 + (size_t)events->load->clients * LIST_ITEM;

    for (uint32_t i = 0; i < events->load->clients; i++)
        if (events->clients[i].accepted)
            used += (size_t)snprintf(events->list + used, size - used, "%s%" PRIu64, used == 0 ? "{" : ",",
                                     events->clients[i].base->work.number);
    if (used == 0) return NULL;
    (void)snprintf(events->list + used, size - used, "}");
    return events->list;
}

/* Those under way, in the order of the clients: still pending, complete, or withdrawn. */
static void look(void *context) {
    struct events *events = context;
    uint64_t count;
    const char *list = list_accepted(events);

    if (read(events->look_timer, &count, sizeof count) < 0 || list == NULL) return;
    PGresult *result = PQexecPrepared(events->watch, "look", 1, &list, NULL, NULL, 0);
    if (PQresultStatus(result) != PGRES_TUPLES_OK) broken(events, PQerrorMessage(events->watch));
    int row = 0, rows = PQntuples(result);
    for (uint32_t i = 0; i < events->load->clients && row < rows; i++) {
        struct flow_client *client = &events->clients[i];
        if (!client->accepted || strtoull(PQgetvalue(result, row, 0), NULL, 10) != client->base->work.number) continue;
        bool gone = PQgetisnull(result, row, 1) == 1;
        bool complete = strcmp(PQgetvalue(result, row, 1), "complete") == 0;
        row++;
        if (gone || complete) ended(events, client, complete);
    }
    PQclear(result);
}

/* -------------------------------------------------------------------- sessions */

static PGconn *open_session(const struct events *events, const char *name, const char *sql) {
    PGconn *session = work_connect(events->load->options->name, events->load->options->databases[0]);

    if (session == NULL) return NULL;
    PGresult *result = PQprepare(session, name, sql, 0, NULL);
    bool ok = PQresultStatus(result) == PGRES_COMMAND_OK;
    PQclear(result);
    if (ok) return session;
    (void)bench_fail(events->load->options->name, LS_EXIT_ERROR, "%s", PQerrorMessage(session));
    PQfinish(session);
    return NULL;
}

static int open_sessions(struct events *events) {
    const bool shop = events->load->workload->kind->shop;
    const char *begin_sql = shop ? "select shop_order($1, $2, $3, $4, $5, $6)" : "select bench_begin($1, $2, $3, $4)";
    const char *look_sql = shop ? "select w.id, o.state from unnest($1::bigint[]) with ordinality w(id, n) "
                                  "left join orders o using (id) order by n"
                                : "select w.id, f.state from unnest($1::bigint[]) with ordinality w(id, n) "
                                  "left join bench_flow f on f.tx = w.id order by n";

    for (uint32_t i = 0; i < events->load->clients; i++) {
        struct flow_client *client = &events->clients[i];
        client->events = events;
        client->base = &events->loop.clients[i];
        client->source = (struct load_source){on_answer, client};
        client->session = open_session(events, "begin", begin_sql);
        if (client->session == NULL) return LS_EXIT_UNREACHABLE;
        if (!load_loop_watch(&events->loop, PQsocket(client->session), &client->source)) return LS_EXIT_ERROR;
    }
    const struct itimerspec period = {{0, LOOK_NS}, {0, LOOK_NS}};
    events->watch = open_session(events, "look", look_sql);
    events->look_timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    events->look_source = (struct load_source){look, events};
    if (events->watch == NULL) return LS_EXIT_UNREACHABLE;
    return events->look_timer >= 0 && timerfd_settime(events->look_timer, 0, &period, NULL) == 0 &&
                   load_loop_watch(&events->loop, events->look_timer, &events->look_source)
               ? LS_EXIT_OK
               : LS_EXIT_ERROR;
}

int subject_choreographed(struct load *load) {
    struct events events = {.load = load, .look_timer = -1};

    if (load->workload->kind->reads_percent > 0)
        return bench_fail(load->options->name, LS_EXIT_USAGE, "choreographed: %s has no such form",
                          load->workload->kind->name);
    events.loop = (struct load_loop){.load = load, .begin = begin, .context = &events};
    events.clients = calloc(load->clients, sizeof *events.clients);
    events.list = malloc(2 + (size_t)load->clients * LIST_ITEM);
    if (events.clients == NULL || events.list == NULL) exit(bench_fail(NULL, LS_EXIT_ERROR, "out of memory"));
    int exit_status = load_loop_open(&events.loop);
    if (exit_status == LS_EXIT_OK) exit_status = open_sessions(&events);
    if (exit_status == LS_EXIT_OK) exit_status = load_loop_run(&events.loop);
    for (uint32_t i = 0; i < load->clients; i++) PQfinish(events.clients[i].session);
    PQfinish(events.watch);
    if (events.look_timer >= 0) (void)close(events.look_timer);
    free(events.list);
    free(events.clients);
    load_loop_close(&events.loop);
    return exit_status;
}
