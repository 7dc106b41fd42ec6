/*
 * order_flow.c: `lockstep-bench order-flow`: the shop. Each order touches four databases: create the order, take the
 * stock, take the money, use a coupon (and publish it to the data platform). Some fail for lack of one of them, and
 * then none of it may be there in the end. Three forms, the same orders:
 *
 *   2pc             one transaction
 *   orchestrated    the very same document as a saga: its `undo`s compensate
 *   choreographed   a transaction in "orders" alone, whose event the others follow up (order_events.c)
 *
 * One thread, N orders under way. In the first two forms each has an idempotency key; an outcome that is not known is
 * asked for with the same key until it is, so that the journal can say of every order what the coordinator
 * acknowledged:
 *
 *     <order> TAB committed|aborted|unknown TAB <gtid> TAB <microseconds> TAB <sqlstate> TAB <participant> TAB <reason>
 *
 * The audit (scripts/lib/audit.py) holds the databases against that. A line is written in the moment the outcome is
 * known, in one write(2). Statements: work.c; tables and rows: scripts/lib/shop; the counts must be the same as there.
 */
#include "bench/order_flow.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench/document.h"
#include "bench/work.h"
#include "client/opt.h"
#include "lockstep/status.h"

#define NAME ORDER_FLOW_NAME
#define CLIENTS_MAX 1024u
#define QUANTITY_MAX 3u
#define PROGRESS_MS 500
#define BACKOFF_MS_MAX 250u /* a killed coordinator is back within a second: look often */

volatile sig_atomic_t order_flow_interrupted;

static void on_signal(int signal) {
    (void)signal;
    order_flow_interrupted = 1;
}

/* ------------------------------------------------------------------ documents */

void flow_draw(struct flow *flow, struct order *order) {
    const struct flow_options *options = flow->options;

    order->flow = flow;
    order->id = flow->next_id++;
    order->begun_us = bench_now_us();
    order->sku = bench_random_below(&flow->random, options->skus);
    order->customer = bench_random_below(&flow->random, options->customers);
    order->coupon = bench_random_below(&flow->random, options->coupons);
    order->quantity = 1 + bench_random_below(&flow->random, QUANTITY_MAX);
    order->amount = work_price(order->sku) * order->quantity;
}

static void build_document(struct order *order) {
    static const char *const participants[] = {"orders", "products", "balance", "coupons"};
    const struct flow_options *options = order->flow->options;
    const bool atomic = options->form == FORM_2PC;
    struct work work;
    char publish[256] = "";

    work_order(&work, order->id, order->sku, order->customer, order->coupon, order->quantity, order->amount);
    if (options->platform)
        (void)snprintf(
            publish, sizeof publish,
            ",{\"name\":\"publish\",\"on\":\"orders\",\"do\":{\"sql\":\"select lockstep.emit('order.placed', "
            "$1, jsonb_build_object('id', $2::bigint))\",\"args\":[\"%" PRIu64 "\",%" PRIu64 "]}}",
            order->id, order->id);
    order->length = document_write(order->document, sizeof order->document, atomic ? "2pc" : "saga", true, false, &work,
                                   participants, atomic ? "\"lock_timeout\":\"2s\"," : "", publish);
    assert(order->length > 0);
}

/* -------------------------------------------------------------------- journal */

static void write_journal(struct flow *flow, const struct order *order, const char *outcome,
                          const struct lockstep_result *result) {
    char line[1024];

    if (flow->journal < 0) return;
    int length =
        snprintf(line, sizeof line, "%" PRIu64 "\t%s\t%s\t%" PRIu64 "\t%s\t%s\t%s\n", order->id, outcome, result->gtid,
                 bench_now_us() - order->begun_us, result->sqlstate, result->participant, result->reason);
    if (length >= (int)sizeof line) line[sizeof line - 2] = '\n', length = (int)sizeof line - 1;
    if (write(flow->journal, line, (size_t)length) == length) return;
    /* An order whose outcome is not on record would make the audit accuse the wrong one. */
    flow->failed = true;
    (void)bench_fail(NAME, LS_EXIT_ERROR, "the journal cannot be written: %s", strerror(errno));
}

/* --------------------------------------------------------------------- orders */

static void on_done(void *context, struct lockstep_result *result);

static void submit(struct order *order) {
    struct flow *flow = order->flow;
    struct lockstep_run_options options;

    lockstep_run_options_init(&options);
    options.key = order->key;
    options.wait = flow->wait;
    uint64_t now = bench_now_us();
    options.timeout_ms = flow->settle_us > now ? (uint32_t)((flow->settle_us - now) / 1000u) + 1u : 1u;
    enum lockstep_status status =
        lockstep_run_start(flow->client, order->document, order->length, &options, on_done, order, NULL);
    if (status == LOCKSTEP_OK) {
        flow->under_way++;
        order->under_way = true;
        return;
    }
    flow->failed = true;
    (void)bench_fail(NAME, LS_EXIT_ERROR, "an order cannot be started: %s", lockstep_status_text(status));
}

static void begin_order(struct flow *flow, struct order *order) {
    flow_draw(flow, order);
    (void)snprintf(order->key, sizeof order->key, "order-%" PRIu64, order->id);
    build_document(order);
    submit(order);
}

void flow_count(struct flow *flow, const struct order *order, const struct lockstep_result *result) {
    if (result->status == LOCKSTEP_OK && result->outcome == LOCKSTEP_COMMITTED) {
        flow->committed++;
        bench_samples_add(&flow->samples, bench_now_us() - order->begun_us);
        write_journal(flow, order, "committed", result);
    } else if (result->status == LOCKSTEP_OK && result->outcome == LOCKSTEP_ABORTED) {
        flow->aborted++;
        write_journal(flow, order, "aborted", result);
    } else {
        if (result->outcome == LOCKSTEP_HAZARD) flow->hazards++;
        flow->unknown++;
        write_journal(flow, order, "unknown", result);
    }
}

/* Nothing was begun and nothing is in doubt, but there was no outcome either. */
static bool worth_repeating(const struct lockstep_result *result) {
    return result->status == LOCKSTEP_BUSY || result->status == LOCKSTEP_UNREACHABLE ||
           result->status == LOCKSTEP_UNKNOWN || (result->status == LOCKSTEP_OK && result->outcome == LOCKSTEP_PENDING);
}

static void on_done(void *context, struct lockstep_result *result) {
    struct order *order = context;
    struct flow *flow = order->flow;
    uint64_t now = bench_now_us();

    flow->under_way--;
    order->under_way = false;
    flow->repeated += result->attempts - 1;
    if (worth_repeating(result) && now < flow->settle_us && !order_flow_interrupted) {
        submit(order); /* the same key until it is known */
        return;
    }
    if (result->status == LOCKSTEP_REFUSED || result->status == LOCKSTEP_DENIED) {
        flow->failed = true;
        (void)bench_fail(NAME, LS_EXIT_ERROR, "order %" PRIu64 ": %s: %s", order->id,
                         lockstep_status_text(result->status), result->reason);
    }
    flow_count(flow, order, result);
    if (now < flow->end_us && !flow->failed && !order_flow_interrupted) begin_order(flow, order);
}

/* ------------------------------------------------------------------- progress */

void flow_progress(struct flow *flow) {
    uint64_t now = bench_now_us(), since_us = now - flow->shown_us;
    uint64_t done = flow->committed + flow->aborted + flow->unknown;
    bool terminal = isatty(STDOUT_FILENO) == 1;

    if (flow->options->quiet || since_us < (uint64_t)PROGRESS_MS * 1000) return;
    (void)printf("%s  %5.1f s  %7" PRIu64 " orders: %7" PRIu64 " committed %6" PRIu64 " refused %4" PRIu64
                 " waiting  %6.0f/s%s",
                 terminal ? "\r" : "", (double)(now - flow->begin_us) / 1e6, done, flow->committed, flow->aborted,
                 flow->under_way, (double)(done - flow->shown_done) * 1e6 / (double)since_us, terminal ? "  " : "\n");
    (void)fflush(stdout);
    flow->shown_us = now;
    flow->shown_done = done;
}

static void run_loop(struct flow *flow) {
    struct pollfd descriptor = {.fd = lockstep_fd(flow->client), .events = POLLIN};

    for (uint32_t i = 0; i < flow->options->clients && !flow->failed; i++) begin_order(flow, &flow->orders[i]);
    while (lockstep_dispatch(flow->client), flow->under_way > 0 && !flow->failed && !order_flow_interrupted) {
        (void)poll(&descriptor, 1, PROGRESS_MS / 5); /* EINTR: look again */
        flow_progress(flow);
    }
}

/* We end before their outcome: on record as unknown, so that nobody takes them for refused. */
static void abandon(struct flow *flow) {
    const struct lockstep_result nothing = {.status = LOCKSTEP_UNKNOWN};

    for (uint32_t i = 0; i < flow->options->clients; i++) {
        if (!flow->orders[i].under_way) continue;
        flow->unknown++;
        write_journal(flow, &flow->orders[i], "unknown", &nothing);
    }
}

static void print_summary(struct flow *flow) {
    double seconds = (double)(bench_now_us() - flow->begin_us) / 1e6;

    (void)printf("%" PRIu64 " committed, %" PRIu64 " refused, %" PRIu64 " unknown in %.1f s; %" PRIu64 " repetitions; "
                 "latency of committed ones: median %.1f ms, 99%% %.1f ms\n",
                 flow->committed, flow->aborted, flow->unknown, seconds, flow->repeated,
                 bench_samples_percentile(&flow->samples, 0.5) / 1000.0,
                 bench_samples_percentile(&flow->samples, 0.99) / 1000.0);
}

/* ----------------------------------------------------------------------- start */

static int open_client(const struct flow_options *options, struct lockstep **ret_client) {
    struct lockstep_options client_options;
    char text[LOCKSTEP_TEXT_MAX];

    lockstep_options_init(&client_options);
    client_options.url = options->url;
    client_options.ca_file = options->ca;
    client_options.cert_file = options->certificate;
    client_options.key_file = options->key;
    client_options.connections_max = options->clients;
    client_options.attempts_max = UINT32_MAX;
    client_options.backoff_ms_max = BACKOFF_MS_MAX;
    if (lockstep_open(&client_options, ret_client, text) == LOCKSTEP_OK) return LS_EXIT_OK;
    return bench_fail(NAME, LS_EXIT_CONFIG, "%s", text);
}

static void run_form(struct flow *flow) {
    flow->begin_us = flow->shown_us = bench_now_us();
    flow->end_us = flow->begin_us + (uint64_t)flow->options->seconds * 1000000u;
    flow->settle_us = flow->end_us + (uint64_t)flow->options->settle_s * 1000000u;
    if (flow->options->form == FORM_CHOREOGRAPHED)
        order_events_run(flow);
    else
        run_loop(flow);
    if (isatty(STDOUT_FILENO) == 1 && !flow->options->quiet) (void)fputc('\n', stdout);
    abandon(flow);
    if (!flow->options->quiet) print_summary(flow);
}

static int exit_status_of(const struct flow *flow) {
    if (flow->failed) return LS_EXIT_ERROR;
    if (flow->hazards > 0) return LS_EXIT_HAZARD;
    return flow->unknown > 0 || flow->under_way > 0 ? LS_EXIT_UNKNOWN : LS_EXIT_OK;
}

static int run(const struct flow_options *options) {
    struct flow flow = {.options = options, .journal = -1, .random = {options->seed}, .next_id = options->first};
    struct sigaction action = {.sa_handler = on_signal};
    int exit_status = LS_EXIT_OK;

    if (options->journal != NULL) {
        flow.journal = open(options->journal, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        if (flow.journal < 0) return bench_fail(NAME, LS_EXIT_ERROR, "%s: %s", options->journal, strerror(errno));
    }
    flow.wait = strcmp(options->wait, "decided") == 0 ? LOCKSTEP_WAIT_DECIDED : LOCKSTEP_WAIT_APPLIED;
    flow.orders = calloc(options->clients, sizeof *flow.orders);
    if (flow.orders == NULL)
        exit_status = bench_fail(NAME, LS_EXIT_ERROR, "out of memory");
    else if (options->form != FORM_CHOREOGRAPHED)
        exit_status = open_client(options, &flow.client);
    if (exit_status == LS_EXIT_OK) {
        (void)sigaction(SIGINT, &action, NULL);
        (void)sigaction(SIGTERM, &action, NULL);
        run_form(&flow);
        exit_status = exit_status_of(&flow);
    }
    lockstep_close(flow.client);
    if (flow.journal >= 0 && close(flow.journal) != 0)
        exit_status = bench_fail(NAME, LS_EXIT_ERROR, "%s: %s", options->journal, strerror(errno));
    bench_samples_free(&flow.samples);
    free(flow.orders);
    return exit_status;
}

static int parse_form(struct flow_options *options) {
    static const char *const names[] = {
        [FORM_2PC] = "2pc", [FORM_ORCHESTRATED] = "orchestrated", [FORM_CHOREOGRAPHED] = "choreographed"};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(options->form_name, names[i]) != 0) continue;
        options->form = (enum order_form)i;
        if (options->form == FORM_CHOREOGRAPHED && options->orders == NULL)
            return bench_fail(
                NAME, LS_EXIT_USAGE,
                "--form choreographed needs --orders: no coordinator stands between us and that database");
        return LS_EXIT_OK;
    }
    return bench_fail(NAME, LS_EXIT_USAGE, "--form: `%s` is neither 2pc nor orchestrated nor choreographed",
                      options->form_name);
}

static int parse_first(const char *text, uint64_t *ret_first) {
    char *end = NULL;

    if (text == NULL) { /* no two runs on the same tables share an order: microseconds since 1970 */
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        *ret_first = (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
        return LS_EXIT_OK;
    }
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || value > INT64_MAX / 2)
        return bench_fail(NAME, LS_EXIT_USAGE, "--first: `%s` is no order number", text);
    *ret_first = value;
    return LS_EXIT_OK;
}

int bench_order_flow(int argc, char **argv) {
    struct flow_options options = {.url = getenv("LOCKSTEP_URL"),
                                   .ca = getenv("LOCKSTEP_TLS_CA"),
                                   .certificate = getenv("LOCKSTEP_TLS_CERTIFICATE"),
                                   .key = getenv("LOCKSTEP_TLS_KEY"),
                                   .wait = "applied",
                                   .form_name = "2pc",
                                   .clients = 16,
                                   .seconds = 10,
                                   .settle_s = 30,
                                   .skus = 200,
                                   .customers = 1000,
                                   .coupons = 500,
                                   .seed = 1};
    const char *first = NULL;
    const struct opt opts[] = {
        {"url", 'u', OPT_TEXT, &options.url, "URL", "https://host:port or unix:/path ($LOCKSTEP_URL)", 0, 0},
        {"ca", 0, OPT_TEXT, &options.ca, "FILE", "certificate authority ($LOCKSTEP_TLS_CA)", 0, 0},
        {"cert", 0, OPT_TEXT, &options.certificate, "FILE", "our certificate ($LOCKSTEP_TLS_CERTIFICATE)", 0, 0},
        {"cert-key", 0, OPT_TEXT, &options.key, "FILE", "its private key ($LOCKSTEP_TLS_KEY)", 0, 0},
        {"form", 'f', OPT_TEXT, &options.form_name, "FORM", "2pc (default), orchestrated or choreographed", 0, 0},
        {"orders", 0, OPT_TEXT, &options.orders, "CONNINFO", "choreographed: the database of the orders", 0, 0},
        {"platform", 0, OPT_FLAG, &options.platform, NULL, "publish each order to the data platform, too", 0, 0},
        {"clients", 'n', OPT_U32, &options.clients, "N", "orders under way (16)", 1, CLIENTS_MAX},
        {"seconds", 's', OPT_U32, &options.seconds, "N", "how long new orders are begun (10)", 0, 1000000},
        {"settle", 0, OPT_U32, &options.settle_s, "N", "seconds after that to find out what is not known (30)", 1,
         1000000},
        {"wait", 'w', OPT_TEXT, &options.wait, "WHAT", "applied (default) or decided", 0, 0},
        {"journal", 'j', OPT_TEXT, &options.journal, "FILE", "append one line per finished order", 0, 0},
        {"first", 0, OPT_TEXT, &first, "ID", "number of the first order (the time in microseconds)", 0, 0},
        {"skus", 0, OPT_U32, &options.skus, "N", "rows of product (200)", 1, 1000000},
        {"customers", 0, OPT_U32, &options.customers, "N", "rows of account (1000)", 1, 10000000},
        {"coupons", 0, OPT_U32, &options.coupons, "N", "rows of coupon (500)", 1, 10000000},
        {"seed", 0, OPT_U32, &options.seed, "N", "of the random choices (1)", 0, 0},
        {"quiet", 'q', OPT_FLAG, &options.quiet, NULL, "no progress, no summary", 0, 0},
        {"help", 'h', OPT_FLAG, &options.help, NULL, "this text", 0, 0},
    };
    struct opt_operands operands;
    struct ls_error err;

    if (opt_parse(opts, sizeof opts / sizeof opts[0], argc, argv, false, &operands, &err) != LS_OK)
        return bench_fail(NAME, LS_EXIT_USAGE, "%s", err.text);
    if (options.help) {
        (void)printf("usage: lockstep-bench order-flow [options]\n\n");
        opt_help(stdout, opts, sizeof opts / sizeof opts[0]);
        return LS_EXIT_OK;
    }
    if (operands.count > 0) return bench_fail(NAME, LS_EXIT_USAGE, "what is `%s`?", operands.items[0]);
    if (strcmp(options.wait, "applied") != 0 && strcmp(options.wait, "decided") != 0)
        return bench_fail(NAME, LS_EXIT_USAGE, "--wait: `%s` is neither applied nor decided", options.wait);
    int exit_status = parse_form(&options);
    if (exit_status == LS_EXIT_OK) exit_status = parse_first(first, &options.first);
    return exit_status == LS_EXIT_OK ? run(&options) : exit_status;
}
