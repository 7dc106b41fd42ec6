/*
 * order_flow.h: what the forms of `lockstep-bench order-flow` share: orders, their journal, progress.
 */
#ifndef BENCH_ORDER_FLOW_H
#define BENCH_ORDER_FLOW_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "bench/bench.h"
#include "lockstep/lockstep.h"

#define ORDER_FLOW_NAME "order-flow"
#define ORDER_DOCUMENT_MAX 4096

enum order_form { FORM_2PC, FORM_ORCHESTRATED, FORM_CHOREOGRAPHED };

struct flow_options {
    const char *url, *ca, *certificate, *key, *journal, *wait, *form_name, *orders;
    enum order_form form;
    uint32_t clients, seconds, settle_s, skus, customers, coupons;
    uint32_t seed;
    uint64_t first;
    bool platform; /* the order is published to the data platform, too */
    bool quiet, help;
};

struct flow;

/* One order under way, drawn from the seed: the same in every form. */
struct order {
    struct flow *flow;
    uint64_t id, begun_us;
    uint32_t sku, customer, coupon, quantity, amount; /* amount in cents */
    bool under_way;
    /* through the coordinator */
    size_t length;
    char key[32];
    char document[ORDER_DOCUMENT_MAX];
};

struct flow {
    const struct flow_options *options;
    struct lockstep *client;
    struct bench_random random;
    struct bench_samples samples;
    struct order *orders; /* options->clients of them */
    int journal;
    enum lockstep_wait wait;
    uint64_t next_id, begin_us, end_us, settle_us;
    uint64_t shown_us, shown_done; /* progress */
    uint64_t under_way, committed, aborted, unknown, repeated, hazards;
    bool failed; /* a refusal that no repetition mends: stop */
};

extern volatile sig_atomic_t order_flow_interrupted;

/* The next order. */
void flow_draw(struct flow *flow, struct order *order);
/* It has ended: counted, and a line in the journal. */
void flow_count(struct flow *flow, const struct order *order, const struct lockstep_result *result);
/* Shows how far it is, twice a second. */
void flow_progress(struct flow *flow);

/* The choreographed form, from the first order to the last (order_events.c). */
void order_events_run(struct flow *flow);

#endif
