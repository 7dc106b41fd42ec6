/*
 * order_events.c: the choreographed form of the shop. An order is one local transaction in "orders": the row, pending,
 * and the event that the others follow up. Nobody is asked about the flow and nobody answers for it: the row says how
 * it ended ("complete", or gone again), so a second session looks for all orders under way, a hundred times a second.
 *
 * A session that is lost leaves its order open: `shop_order` is asked again with the same number and does nothing the
 * second time.
 */
#include <assert.h>
#include <inttypes.h>
#include <libpq-fe.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/order_flow.h"

#define LOOK_US 10000u
#define AGAIN_US 250000u

enum step { STEP_IDLE, STEP_SENT, STEP_ACCEPTED, STEP_LOST };

struct placing {
    struct order *order;
    PGconn *session;
    enum step step;
    uint64_t again_us;
};

struct events {
    struct flow *flow;
    struct placing *placings;
    struct pollfd *descriptors;
    PGconn *watch;
    uint64_t look_us;
};

static void lose(struct placing *placing) {
    placing->step = STEP_LOST;
    placing->again_us = bench_now_us() + AGAIN_US;
    placing->order->flow->repeated++;
}

static void send_order(struct placing *placing) {
    const struct order *order = placing->order;
    char id[24], customer[16], sku[16], quantity[16], amount[16], coupon[16];
    const char *values[] = {id, customer, sku, quantity, amount, coupon};

    (void)snprintf(id, sizeof id, "%" PRIu64, order->id);
    (void)snprintf(customer, sizeof customer, "c%u", order->customer);
    (void)snprintf(sku, sizeof sku, "s%u", order->sku);
    (void)snprintf(quantity, sizeof quantity, "%u", order->quantity);
    (void)snprintf(amount, sizeof amount, "%u", order->amount);
    (void)snprintf(coupon, sizeof coupon, "k%u", order->coupon);
    if (PQstatus(placing->session) != CONNECTION_OK) PQreset(placing->session);
    placing->step = STEP_SENT;
    if (PQsendQueryParams(placing->session, "select shop_order($1, $2, $3, $4, $5, $6)", 6, NULL, values, NULL, NULL,
                          0) != 1)
        lose(placing);
}

static void begin(struct placing *placing) {
    struct flow *flow = placing->order->flow;

    flow_draw(flow, placing->order);
    placing->order->under_way = true;
    flow->under_way++;
    send_order(placing);
}

static void refuse(struct placing *placing, const PGresult *result) {
    placing->order->flow->failed = true;
    (void)bench_fail(ORDER_FLOW_NAME, 1, "order %" PRIu64 ": %s", placing->order->id, PQresultErrorMessage(result));
}

/* An answer, or the end of the session. */
static void take_answer(struct placing *placing) {
    PGresult *result;

    if (PQconsumeInput(placing->session) != 1) {
        lose(placing);
        return;
    }
    while (PQisBusy(placing->session) == 0 && (result = PQgetResult(placing->session)) != NULL) {
        const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
        if (PQresultStatus(result) == PGRES_TUPLES_OK)
            placing->step = STEP_ACCEPTED;
        else if (state == NULL || strncmp(state, "57", 2) == 0 || strncmp(state, "40", 2) == 0)
            lose(placing);
        else
            refuse(placing, result);
        PQclear(result);
    }
}

static void ended(struct events *events, struct placing *placing, bool complete) {
    struct flow *flow = events->flow;
    struct lockstep_result result = {.status = LOCKSTEP_OK,
                                     .outcome = complete ? LOCKSTEP_COMMITTED : LOCKSTEP_ABORTED};

    flow_count(flow, placing->order, &result);
    flow->under_way--;
    placing->order->under_way = false;
    placing->step = STEP_IDLE;
    if (bench_now_us() < flow->end_us && !flow->failed && !order_flow_interrupted) begin(placing);
}

/* Those that were accepted: still pending, complete, or withdrawn. */
static void look(struct events *events) {
    uint32_t clients = events->flow->options->clients;
    size_t size = 3 + (size_t)clients * 24, used = 1;
    char *list = malloc(size);

    events->look_us = bench_now_us() + LOOK_US;
    if (list == NULL) abort();
    list[0] = '{';
    for (uint32_t i = 0; i < clients; i++)
        if (events->placings[i].step == STEP_ACCEPTED)
            used += (size_t)snprintf(list + used, size - used, "%s%" PRIu64, used > 1 ? "," : "",
                                     events->placings[i].order->id);
    (void)snprintf(list + used, size - used, "}");
    if (used > 1) {
        const char *values[] = {list};
        if (PQstatus(events->watch) != CONNECTION_OK) PQreset(events->watch);
        PGresult *result = PQexecParams(events->watch,
                                        "select w.id, o.state from unnest($1::bigint[]) with ordinality w(id, n) "
                                        "left join orders o using (id) order by n",
                                        1, NULL, values, NULL, NULL, 0);
        int row = 0, rows = PQresultStatus(result) == PGRES_TUPLES_OK ? PQntuples(result) : 0;
        for (uint32_t i = 0; i < clients && row < rows; i++) {
            struct placing *placing = &events->placings[i];
            if (placing->step != STEP_ACCEPTED) continue;
            assert(strtoull(PQgetvalue(result, row, 0), NULL, 10) == placing->order->id);
            bool gone = PQgetisnull(result, row, 1) == 1;
            if (gone || strcmp(PQgetvalue(result, row, 1), "complete") == 0) ended(events, placing, !gone);
            row++;
        }
        PQclear(result);
    }
    free(list);
}

static void turn(struct events *events) {
    uint32_t clients = events->flow->options->clients;
    uint64_t now = bench_now_us();

    for (uint32_t i = 0; i < clients; i++) {
        struct placing *placing = &events->placings[i];
        if (placing->step == STEP_LOST && placing->again_us <= now) send_order(placing);
        events->descriptors[i] =
            (struct pollfd){.fd = placing->step == STEP_SENT ? PQsocket(placing->session) : -1, .events = POLLIN};
    }
    (void)poll(events->descriptors, clients, (int)(LOOK_US / 1000u)); /* EINTR: look again */
    for (uint32_t i = 0; i < clients; i++)
        if (events->descriptors[i].fd >= 0 && events->descriptors[i].revents != 0) take_answer(&events->placings[i]);
    if (bench_now_us() >= events->look_us) look(events);
    flow_progress(events->flow);
}

static PGconn *open_session(struct flow *flow) {
    PGconn *session = PQconnectdb(flow->options->orders);

    if (PQstatus(session) != CONNECTION_OK && !flow->failed) {
        flow->failed = true;
        (void)bench_fail(ORDER_FLOW_NAME, 1, "--orders: %s", PQerrorMessage(session));
    }
    return session;
}

void order_events_run(struct flow *flow) {
    uint32_t clients = flow->options->clients;
    struct events events = {.flow = flow,
                            .placings = calloc(clients, sizeof *events.placings),
                            .descriptors = calloc(clients, sizeof *events.descriptors)};

    if (events.placings == NULL || events.descriptors == NULL) abort();
    events.watch = open_session(flow);
    for (uint32_t i = 0; i < clients; i++) {
        flow->orders[i].flow = flow;
        events.placings[i].order = &flow->orders[i];
        events.placings[i].session = flow->failed ? NULL : open_session(flow);
    }
    for (uint32_t i = 0; i < clients && !flow->failed; i++) begin(&events.placings[i]);
    while (flow->under_way > 0 && !flow->failed && !order_flow_interrupted && bench_now_us() < flow->settle_us)
        turn(&events);
    for (uint32_t i = 0; i < clients; i++) PQfinish(events.placings[i].session);
    PQfinish(events.watch);
    free(events.placings);
    free(events.descriptors);
}
