/*
 * subject_run.c: the subjects that lockstep's coordinator commits, through POST /v1/run on its Unix socket: `2pc`,
 * answered when applied everywhere, `2pc-decided`, answered as soon as decided, and `orchestrated`, the same work as a
 * saga, answered when it has ended. Coordinator and agents are processes of their own.
 *
 * Every 32nd transaction of `2pc-decided` waits until it is applied: so much later are all effects there. It counts as
 * committed, and not among the latencies.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/document.h"
#include "bench/http.h"
#include "bench/subject.h"
#include "lockstep/status.h"

#define HEAD_MAX 256u
#define PROBE_EVERY 32u

struct run_mode {
    const char *mode, *wait;
    bool undo, decided;
};

struct run_client {
    struct load_source source;
    struct runner *runner;
    struct load_client *base;
    struct http_connection connection;
    char *body, *request;
    uint32_t count;
    bool probe;
};

struct runner {
    struct load *load;
    struct load_loop loop;
    const struct run_mode *mode;
    struct run_client *clients;
    size_t body_max;
};

static void broken(struct runner *runner, const char *what) {
    if (runner->load->broken) return;
    runner->load->broken = true;
    (void)bench_fail(runner->load->options->name, LS_EXIT_ERROR, "%s", what);
}

static void begin(void *context, struct load_client *base) {
    struct runner *runner = context;
    struct run_client *client = &runner->clients[base->number];
    char head[64];

    (void)snprintf(head, sizeof head, "\"lock_timeout\":\"%" PRIu32 "ms\",", runner->load->options->lock_timeout_ms);
    size_t length = document_write(client->body, runner->body_max, runner->mode->mode, runner->mode->undo,
                                   runner->load->options->in_order && !runner->mode->undo, &base->work,
                                   runner->load->options->participants, runner->mode->undo ? "" : head, "");
    if (length == 0) {
        broken(runner, "the names of the participants are too long");
        return;
    }
    client->probe = runner->mode->decided && client->count++ % PROBE_EVERY == PROBE_EVERY - 1;
    int used = snprintf(client->request, HEAD_MAX + runner->body_max,
                        "POST /v1/run?wait=%s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                        "Content-Length: %zu\r\n\r\n%s",
                        client->probe ? "applied" : runner->mode->wait, length, client->body);
    if (http_send(runner->load->options->name, &client->connection, client->request, (size_t)used, 0) != LS_EXIT_OK)
        runner->load->broken = true;
}

static void on_committed(struct runner *runner, struct run_client *client) {
    uint64_t now_us = bench_now_us();

    if (client->probe) {
        load_visible(runner->load, client->base->since_us, now_us);
    } else {
        load_committed(runner->load, client->base->since_us, now_us, runner->mode->decided ? 0 : now_us);
    }
}

/* The SQLSTATE; without one the statement touched no row, or somebody's time was up. */
static void on_aborted(struct runner *runner, const struct run_client *client) {
    char cause[LOAD_CAUSE_TEXT] = "refused";
    const char *state = strstr(client->connection.answer, "\"sqlstate\":\"");
    const char *reason = strstr(client->connection.answer, "\"reason\":\"");

    if (state != NULL) {
        (void)snprintf(cause, sizeof cause, "%.5s", state + sizeof "\"sqlstate\":\"" - 1);
    } else if (reason != NULL && strstr(reason, " rows") == NULL) {
        reason += sizeof "\"reason\":\"" - 1;
        (void)snprintf(cause, sizeof cause, "%.*s", (int)strcspn(reason, "\""), reason);
    }
    load_aborted(runner->load, &client->base->work, cause);
}

static void on_answer(void *context) {
    struct run_client *client = context;
    struct runner *runner = client->runner;
    const char *answer = client->connection.answer;

    enum http_got got = http_receive(&client->connection);
    if (got == HTTP_NOT_YET) return;
    if (got == HTTP_LOST) {
        broken(runner, "the coordinator has closed the connection");
        return;
    }
    if (strncmp(answer, "HTTP/1.1 200 ", 13) == 0) {
        on_committed(runner, client);
    } else if (strncmp(answer, "HTTP/1.1 409 ", 13) == 0) {
        on_aborted(runner, client);
    } else {
        const char *body = strstr(answer, "\r\n\r\n");
        broken(runner, body != NULL ? body + 4 : answer);
        return;
    }
    load_loop_free(&runner->loop, client->base);
}

static int open_client(struct runner *runner, struct run_client *client, struct load_client *base) {
    client->runner = runner;
    client->base = base;
    client->source = (struct load_source){on_answer, client};
    client->body = malloc(runner->body_max);
    client->request = malloc(HEAD_MAX + runner->body_max);
    if (client->body == NULL || client->request == NULL) exit(bench_fail(NULL, LS_EXIT_ERROR, "out of memory"));
    return http_connect(runner->load->options->name, runner->load->options->socket, runner->loop.epoll, &client->source,
                        &client->connection);
}

static int run(struct load *load, const struct run_mode *mode) {
    struct runner runner = {.load = load,
                            .mode = mode,
                            .body_max =
                                4096 + load->workload->databases * (size_t)(1024 + strlen(load->workload->payload))};
    runner.loop = (struct load_loop){.load = load, .begin = begin, .context = &runner};
    runner.clients = calloc(load->clients, sizeof *runner.clients);
    if (runner.clients == NULL) exit(bench_fail(NULL, LS_EXIT_ERROR, "out of memory"));
    for (uint32_t i = 0; i < load->clients; i++) runner.clients[i].connection.fd = -1;
    int exit_status = load_loop_open(&runner.loop);
    for (uint32_t i = 0; i < load->clients && exit_status == LS_EXIT_OK; i++)
        exit_status = open_client(&runner, &runner.clients[i], &runner.loop.clients[i]);
    if (exit_status == LS_EXIT_OK) exit_status = load_loop_run(&runner.loop);
    for (uint32_t i = 0; i < load->clients; i++) {
        if (runner.clients[i].connection.fd >= 0) (void)close(runner.clients[i].connection.fd);
        free(runner.clients[i].body);
        free(runner.clients[i].request);
    }
    free(runner.clients);
    load_loop_close(&runner.loop);
    return exit_status;
}

int subject_2pc(struct load *load) {
    return run(load, &(struct run_mode){"2pc", "applied", false, false});
}

int subject_2pc_decided(struct load *load) {
    return run(load, &(struct run_mode){"2pc", "decided", false, true});
}

int subject_orchestrated(struct load *load) {
    return run(load, &(struct run_mode){"saga", "end", true, false});
}
