/*
 * transfer_2pc.c: the subjects `2pc` and `2pc-decided`: the transaction through POST /v1/run on the coordinator's Unix
 * socket, answered when applied everywhere or as soon as decided. Coordinator and agents are processes of their own.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "bench/http.h"
#include "bench/transfer.h"
#include "lockstep/status.h"

#define REQUEST_MAX 4096
#define EVENTS_MAX 256

struct load {
    const struct transfer *transfer;
    struct transfer_run *run;
    struct bench_random random;
    const char *wait;
    int epoll;
    uint32_t active;
};

static int submit(struct load *load, struct http_connection *connection) {
    char body[REQUEST_MAX / 2], request[REQUEST_MAX];
    int used = snprintf(body, sizeof body, "{\"mode\":\"2pc\",\"steps\":[");
    for (size_t i = 0; i < load->transfer->participants.count && used < (int)sizeof body; i++) {
        used += snprintf(body + used, sizeof body - (size_t)used,
                         "%s{\"on\":\"%s\",\"do\":{\"sql\":\"" TRANSFER_UPDATE "\",\"args\":[1,%" PRIu32 "]}}",
                         i == 0 ? "" : ",", load->transfer->participants.items[i],
                         transfer_row(load->transfer, &load->random));
    }
    if (used < (int)sizeof body) used += snprintf(body + used, sizeof body - (size_t)used, "]}");
    if (used >= (int)sizeof body)
        return bench_fail(TRANSFER_NAME, LS_EXIT_USAGE, "the names of the participants are too long");
    int length = snprintf(request, sizeof request,
                          "POST /v1/run?wait=%s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                          "Content-Length: %d\r\n\r\n%s",
                          load->wait, used, body);
    return http_send(TRANSFER_NAME, connection, request, (size_t)length, bench_now_us());
}

static int on_answer(struct load *load, struct http_connection *connection) {
    enum http_got got = http_receive(connection);
    if (got == HTTP_NOT_YET) return LS_EXIT_OK;
    if (got == HTTP_LOST) return bench_fail(TRANSFER_NAME, LS_EXIT_ERROR, "the coordinator has closed the connection");
    uint64_t now_us = bench_now_us();
    if (strncmp(connection->answer, "HTTP/1.1 200 ", 13) == 0 &&
        strstr(connection->answer, "\"state\":\"committed\"") != NULL) {
        transfer_committed(load->run, connection->sent_us, now_us);
    } else if (strncmp(connection->answer, "HTTP/1.1 409 ", 13) == 0) {
        load->run->aborted++;
    } else {
        return bench_fail(TRANSFER_NAME, LS_EXIT_ERROR, "neither committed nor aborted: %s", connection->answer);
    }
    if (now_us < load->run->end_us) return submit(load, connection);
    load->active--;
    return LS_EXIT_OK;
}

static int run_subject(const struct transfer *transfer, struct transfer_run *run, const char *wait) {
    struct load load = {.transfer = transfer,
                        .run = run,
                        .random = {transfer->seed},
                        .wait = wait,
                        .epoll = epoll_create1(EPOLL_CLOEXEC)};
    struct http_connection *list = calloc(run->clients, sizeof *list);
    if (load.epoll < 0 || list == NULL) exit(bench_fail(TRANSFER_NAME, LS_EXIT_ERROR, "out of memory or descriptors"));
    int exit_status = LS_EXIT_OK;
    for (uint32_t i = 0; i < run->clients; i++) list[i].fd = -1;
    for (uint32_t i = 0; i < run->clients && exit_status == LS_EXIT_OK; i++)
        exit_status = http_connect(TRANSFER_NAME, transfer->socket, load.epoll, &list[i]);
    transfer_begin(transfer, run);
    for (uint32_t i = 0; i < run->clients && exit_status == LS_EXIT_OK; i++) {
        exit_status = submit(&load, &list[i]);
        load.active++;
    }
    while (exit_status == LS_EXIT_OK && load.active > 0) {
        struct epoll_event events[EVENTS_MAX];
        int count = epoll_wait(load.epoll, events, EVENTS_MAX, 1000);
        for (int i = 0; i < count && exit_status == LS_EXIT_OK; i++) exit_status = on_answer(&load, events[i].data.ptr);
    }
    for (uint32_t i = 0; i < run->clients; i++)
        if (list[i].fd >= 0) (void)close(list[i].fd);
    free(list);
    (void)close(load.epoll);
    return exit_status;
}

int transfer_2pc(const struct transfer *transfer, struct transfer_run *run) {
    return run_subject(transfer, run, "applied");
}

int transfer_2pc_decided(const struct transfer *transfer, struct transfer_run *run) {
    return run_subject(transfer, run, "decided");
}
