/*
 * decisions.c: `lockstep-bench decisions`: how many durable decisions a second the coordinator alone makes, through
 * /v1/run on its Unix socket, with voters (voter.c) as participants.
 *
 * One thread, one epoll loop, N connections with one request under way on each. The HTTP is the least that is correct
 * (requests made once, answers recognised by their length), because the load shares its processors with what is
 * measured. Counts committed transactions only; anything else ends the run with the answer on stderr.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "bench/bench.h"
#include "bench/http.h"
#include "client/opt.h"
#include "lockstep/status.h"

#define NAME "decisions"
#define REQUEST_MAX 8192
#define EVENTS_MAX 256

struct decisions {
    const char *socket, *wait;
    struct opt_list participants;
    uint32_t connections, seconds, warm_up_s;
    char request[REQUEST_MAX];
    size_t request_length;
    int epoll;
    struct http_connection *list;
    uint64_t begin_us, end_us, committed;
    struct bench_samples latencies;
};

static int make_request(struct decisions *d) {
    char body[REQUEST_MAX / 2];
    size_t used = (size_t)snprintf(body, sizeof body, "{\"mode\":\"2pc\",\"steps\":[");
    for (size_t i = 0; i < d->participants.count && used < sizeof body; i++) {
        used +=
            (size_t)snprintf(body + used, sizeof body - used,
                             "%s{\"on\":\"%s\",\"do\":{\"sql\":\"update balance set amount=amount-$1 where owner=$2\","
                             "\"args\":[30,\"kim\"],\"expect_rows\":1}}",
                             i == 0 ? "" : ",", d->participants.items[i]);
    }
    if (used < sizeof body) used += (size_t)snprintf(body + used, sizeof body - used, "]}");
    if (used >= sizeof body) return bench_fail(NAME, LS_EXIT_USAGE, "too many participants");
    d->request_length = (size_t)snprintf(d->request, sizeof d->request,
                                         "POST /v1/run?wait=%s HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                                         "application/json\r\nContent-Length: %zu\r\n\r\n%s",
                                         d->wait, used, body);
    return LS_EXIT_OK;
}

static int on_answer(struct decisions *d, struct http_connection *connection) {
    enum http_got got = http_receive(connection);
    if (got == HTTP_LOST) return bench_fail(NAME, LS_EXIT_ERROR, "the connection is gone");
    if (got == HTTP_NOT_YET) return LS_EXIT_OK;
    if (strncmp(connection->answer, "HTTP/1.1 200 ", 13) != 0 ||
        strstr(connection->answer, "\"state\":\"committed\"") == NULL) {
        return bench_fail(NAME, LS_EXIT_ERROR, "not committed: %s", connection->answer);
    }
    uint64_t now_us = bench_now_us();
    if (now_us >= d->begin_us && now_us < d->end_us) {
        d->committed++;
        bench_samples_add(&d->latencies, now_us - connection->sent_us);
    }
    return now_us < d->end_us ? http_send(NAME, connection, d->request, d->request_length, now_us) : LS_EXIT_OK;
}

static int load(struct decisions *d) {
    int exit_status = LS_EXIT_OK;
    for (uint32_t i = 0; i < d->connections && exit_status == LS_EXIT_OK; i++) {
        exit_status = http_connect(NAME, d->socket, d->epoll, &d->list[i], &d->list[i]);
        if (exit_status == LS_EXIT_OK)
            exit_status = http_send(NAME, &d->list[i], d->request, d->request_length, bench_now_us());
    }
    d->begin_us = bench_now_us() + (uint64_t)d->warm_up_s * 1000000;
    d->end_us = d->begin_us + (uint64_t)d->seconds * 1000000;
    while (exit_status == LS_EXIT_OK && bench_now_us() < d->end_us) {
        struct epoll_event events[EVENTS_MAX];
        int count = epoll_wait(d->epoll, events, EVENTS_MAX, 100);
        for (int i = 0; i < count && exit_status == LS_EXIT_OK; i++) exit_status = on_answer(d, events[i].data.ptr);
    }
    return exit_status;
}

static int run(struct decisions *d) {
    int exit_status = make_request(d);
    if (exit_status != LS_EXIT_OK) return exit_status;
    d->epoll = epoll_create1(EPOLL_CLOEXEC);
    d->list = calloc(d->connections, sizeof *d->list);
    if (d->epoll < 0 || d->list == NULL) {
        free(d->list);
        if (d->epoll >= 0) (void)close(d->epoll);
        return bench_fail(NAME, LS_EXIT_ERROR, "out of memory or descriptors");
    }
    for (uint32_t i = 0; i < d->connections; i++) d->list[i].fd = -1;
    exit_status = load(d);
    if (exit_status == LS_EXIT_OK) {
        (void)printf("decisions=%" PRIu64 " per_second=%.0f p50_us=%" PRIu32 " p99_us=%" PRIu32 " connections=%" PRIu32
                     "\n",
                     d->committed, (double)d->committed / d->seconds, bench_samples_percentile(&d->latencies, 0.5),
                     bench_samples_percentile(&d->latencies, 0.99), d->connections);
    }
    for (uint32_t i = 0; i < d->connections; i++)
        if (d->list[i].fd >= 0) (void)close(d->list[i].fd);
    free(d->list);
    (void)close(d->epoll);
    bench_samples_free(&d->latencies);
    return exit_status;
}

int bench_decisions(int argc, char **argv) {
    struct decisions d = {.wait = "applied", .connections = 64, .seconds = 5, .warm_up_s = 1};
    bool help = false;
    const struct opt opts[] = {
        {"socket", 's', OPT_TEXT, &d.socket, "PATH", "the coordinator's Unix socket", 0, 0},
        {"participant", 'p', OPT_LIST, &d.participants, "NAME", "two or more, voters", 0, 0},
        {"wait", 'w', OPT_TEXT, &d.wait, "WHAT", "applied (default) or decided", 0, 0},
        {"connections", 'c', OPT_U32, &d.connections, "N", "requests under way (64)", 1, 10000},
        {"seconds", 't', OPT_U32, &d.seconds, "N", "how long to count (5)", 1, 3600},
        {"warm-up", 0, OPT_U32, &d.warm_up_s, "N", "seconds before counting (1)", 0, 600},
        {"help", 'h', OPT_FLAG, &help, NULL, "this text", 0, 0},
    };
    const size_t count = sizeof opts / sizeof opts[0];
    struct opt_operands operands;
    struct ls_error err;
    if (opt_parse(opts, count, argc, argv, false, &operands, &err) != LS_OK)
        return bench_fail(NAME, LS_EXIT_USAGE, "%s", err.text);
    if (help) {
        (void)printf(
            "usage: lockstep-bench decisions OPTIONS\n\nDurable decisions a second of the coordinator alone.\n\n");
        opt_help(stdout, opts, count);
        return LS_EXIT_OK;
    }
    if (operands.count > 0) return bench_fail(NAME, LS_EXIT_USAGE, "what is `%s`?", operands.items[0]);
    if (d.socket == NULL || d.participants.count < 2) {
        return bench_fail(NAME, LS_EXIT_USAGE, "--socket and at least two of --participant are needed");
    }
    if (strcmp(d.wait, "applied") != 0 && strcmp(d.wait, "decided") != 0) {
        return bench_fail(NAME, LS_EXIT_USAGE, "--wait: `%s` is neither applied nor decided", d.wait);
    }
    return run(&d);
}
