/*
 * transfer_loop.c: two subjects in one event loop over non-blocking libpq.
 *   none   plain commits, each database for itself: fast, and not atomic
 *   limit  the yardstick `limit`: two-phase commit with a session per client and database for the branches, and COMMIT
 *          PREPARED in the pipelines of a few sessions of their own; one decision record with a shared sync. As far as
 *          a program can go that promises nothing after a crash.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "bench/decision_file.h"
#include "bench/transfer.h"
#include "lockstep/status.h"

#define GID_MAX 64
#define EVENTS_MAX 256

struct loop;
struct client;

/* One batch under way on a session, up to its Sync. */
struct batch {
    struct client *client;
    uint32_t database;
    void (*done)(struct loop *loop, struct client *client, uint32_t database, bool ok);
};

struct session {
    PGconn *conn;
    struct batch *queue; /* ring */
    uint32_t first, count, capacity;
    bool failed;  /* something in the first batch did */
    bool unsent;  /* libpq holds bytes back: wait for writability */
    bool watched; /* ... and epoll does */
};

struct client {
    uint32_t number;
    uint64_t transaction, since_us, position;
    uint32_t pending;
    bool ok, prepared[TRANSFER_DATABASES_MAX];
    char gid[GID_MAX];
    struct session sessions[TRANSFER_DATABASES_MAX];
    struct client *log_next;
};

struct loop {
    const struct transfer *transfer;
    struct transfer_run *run;
    struct decision_file *log; /* NULL: subject none */
    struct bench_random random;
    int epoll;
    uint32_t database_count, active, finisher_count, next_finisher;
    struct client *clients;
    struct session *finishers;          /* per database: finisher_count */
    struct client *log_head, *log_tail; /* in the order of their positions */
    bool broken;
};

static void begin_transaction(struct loop *loop, struct client *client);

static void expect(struct loop *loop, struct session *session, struct batch batch) {
    if (session->count == session->capacity) {
        uint32_t capacity = session->capacity == 0 ? 4 : 2 * session->capacity;
        struct batch *queue = calloc(capacity, sizeof *queue);
        if (queue == NULL) exit(bench_fail(TRANSFER_NAME, LS_EXIT_ERROR, "out of memory"));
        for (uint32_t i = 0; i < session->count; i++)
            queue[i] = session->queue[(session->first + i) % session->capacity];
        free(session->queue);
        session->queue = queue;
        session->first = 0;
        session->capacity = capacity;
    }
    session->queue[(session->first + session->count++) % session->capacity] = batch;
    if (PQpipelineSync(session->conn) != 1) loop->broken = true;
}

/* `gid` NULL: a command without one. */
static void command(struct loop *loop, struct session *session, const char *verb, const char *gid) {
    char sql[GID_MAX + 64];
    (void)snprintf(sql, sizeof sql, "%s%s%s%s", verb, gid ? " '" : "", gid ? gid : "", gid ? "'" : "");
    if (PQsendQueryParams(session->conn, sql, 0, NULL, NULL, NULL, NULL, 0) != 1) loop->broken = true;
}

static void update(struct loop *loop, struct session *session) {
    char row[12];
    const char *values[] = {"1", row};
    (void)snprintf(row, sizeof row, "%" PRIu32, transfer_row(loop->transfer, &loop->random));
    if (PQsendQueryPrepared(session->conn, "update", 2, values, NULL, NULL, 0) != 1) loop->broken = true;
}

static void flush(struct loop *loop, struct session *session) {
    int left = PQflush(session->conn);
    if (left < 0) loop->broken = true;
    session->unsent = left == 1;
    if (session->unsent == session->watched) return;
    struct epoll_event event = {.events = EPOLLIN | (session->unsent ? EPOLLOUT : 0), .data.ptr = session};
    if (epoll_ctl(loop->epoll, EPOLL_CTL_MOD, PQsocket(session->conn), &event) != 0) loop->broken = true;
    session->watched = session->unsent;
}

/* ------------------------------------------------------------ a transaction */

static void ended(struct loop *loop, struct client *client) {
    uint64_t now_us = bench_now_us();
    if (client->ok) {
        transfer_committed(loop->run, client->since_us, now_us);
    } else {
        loop->run->aborted++;
    }
    if (now_us < loop->run->end_us && !loop->broken) {
        begin_transaction(loop, client);
    } else {
        loop->active--;
    }
}

static void on_finished(struct loop *loop, struct client *client, uint32_t database, bool ok) {
    (void)database;
    if (!ok) loop->broken = true; /* nothing may fail in phase two */
    if (--client->pending == 0) ended(loop, client);
}

static void commit_branches(struct loop *loop, struct client *client) {
    client->pending = loop->database_count;
    for (uint32_t d = 0; d < loop->database_count; d++) {
        struct session *finisher = &loop->finishers[d * loop->finisher_count + loop->next_finisher];
        command(loop, finisher, "COMMIT PREPARED", client->gid);
        expect(loop, finisher, (struct batch){client, d, on_finished});
        flush(loop, finisher);
    }
    loop->next_finisher = (loop->next_finisher + 1) % loop->finisher_count;
}

static void abort_branches(struct loop *loop, struct client *client) {
    client->pending = loop->database_count;
    for (uint32_t d = 0; d < loop->database_count; d++) {
        struct session *session = &client->sessions[d];
        command(loop, session, client->prepared[d] ? "ROLLBACK PREPARED" : "ROLLBACK",
                client->prepared[d] ? client->gid : NULL);
        expect(loop, session, (struct batch){client, d, on_finished});
        flush(loop, session);
    }
}

static void on_branch(struct loop *loop, struct client *client, uint32_t database, bool ok) {
    client->prepared[database] = ok;
    client->ok = client->ok && ok;
    if (--client->pending > 0) return;
    if (loop->log == NULL) {
        ended(loop, client);
    } else if (!client->ok) {
        abort_branches(loop, client);
    } else {
        char record[192] = {0};
        (void)snprintf(record, sizeof record, "commit %s", client->gid);
        client->position = decision_file_append(loop->log, record, sizeof record);
        client->log_next = NULL;
        *(loop->log_tail == NULL ? &loop->log_head : &loop->log_tail->log_next) = client;
        loop->log_tail = client;
    }
}

static void begin_transaction(struct loop *loop, struct client *client) {
    client->since_us = bench_now_us();
    client->ok = true;
    client->pending = loop->database_count;
    (void)snprintf(client->gid, sizeof client->gid, "bench-%d-%" PRIu32 "-%" PRIu64, (int)getpid(), client->number,
                   client->transaction++);
    for (uint32_t d = 0; d < loop->database_count; d++) {
        struct session *session = &client->sessions[d];
        if (loop->log != NULL) command(loop, session, "BEGIN", NULL);
        update(loop, session);
        if (loop->log != NULL) command(loop, session, "PREPARE TRANSACTION", client->gid);
        expect(loop, session, (struct batch){client, d, on_branch});
        flush(loop, session);
    }
}

static void on_durable(struct loop *loop) {
    uint64_t count;
    if (read(decision_file_fd(loop->log), &count, sizeof count) != sizeof count) return;
    uint64_t durable = decision_file_durable(loop->log);
    while (loop->log_head != NULL && loop->log_head->position <= durable) {
        struct client *client = loop->log_head;
        loop->log_head = client->log_next;
        if (loop->log_head == NULL) loop->log_tail = NULL;
        commit_branches(loop, client);
    }
}

/* ------------------------------------------------------------------ the loop */

static void on_session(struct loop *loop, struct session *session) {
    if (PQconsumeInput(session->conn) != 1) {
        loop->broken = true;
        return;
    }
    if (session->unsent) flush(loop, session);
    while (session->count > 0 && !PQisBusy(session->conn)) {
        PGresult *result = PQgetResult(session->conn);
        if (result == NULL) continue; /* between two commands of a batch */
        ExecStatusType status = PQresultStatus(result);
        PQclear(result);
        if (status != PGRES_PIPELINE_SYNC) {
            session->failed = session->failed || (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK);
            continue;
        }
        struct batch batch = session->queue[session->first];
        session->first = (session->first + 1) % session->capacity;
        session->count--;
        bool ok = !session->failed;
        session->failed = false;
        batch.done(loop, batch.client, batch.database, ok);
    }
}

static int open_session(struct loop *loop, struct session *session, uint32_t database) {
    session->conn = transfer_connect(loop->transfer->databases.items[database]);
    if (session->conn == NULL) return LS_EXIT_UNREACHABLE;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = session};
    if (PQsetnonblocking(session->conn, 1) != 0 ||
        epoll_ctl(loop->epoll, EPOLL_CTL_ADD, PQsocket(session->conn), &event) != 0)
        return bench_fail(TRANSFER_NAME, LS_EXIT_ERROR, "a session cannot be watched");
    return LS_EXIT_OK;
}

static int open_sessions(struct loop *loop) {
    int exit_status = LS_EXIT_OK;
    for (uint32_t i = 0; i < loop->run->clients; i++) {
        loop->clients[i].number = i;
        for (uint32_t d = 0; d < loop->database_count && exit_status == LS_EXIT_OK; d++)
            exit_status = open_session(loop, &loop->clients[i].sessions[d], d);
    }
    for (uint32_t i = 0;
         loop->log != NULL && i < loop->database_count * loop->finisher_count && exit_status == LS_EXIT_OK; i++)
        exit_status = open_session(loop, &loop->finishers[i], i / loop->finisher_count);
    return exit_status;
}

static void close_session(struct session *session) {
    PQfinish(session->conn);
    free(session->queue);
}

static int run_loop(struct loop *loop) {
    struct epoll_event log_event = {.events = EPOLLIN, .data.ptr = NULL};
    if (loop->log != NULL && epoll_ctl(loop->epoll, EPOLL_CTL_ADD, decision_file_fd(loop->log), &log_event) != 0)
        return bench_fail(TRANSFER_NAME, LS_EXIT_ERROR, "the log cannot be watched");
    transfer_begin(loop->transfer, loop->run);
    loop->active = loop->run->clients;
    for (uint32_t i = 0; i < loop->run->clients; i++) begin_transaction(loop, &loop->clients[i]);
    while (loop->active > 0 && !loop->broken) {
        struct epoll_event events[EVENTS_MAX];
        int count = epoll_wait(loop->epoll, events, EVENTS_MAX, 1000);
        for (int i = 0; i < count && !loop->broken; i++) {
            if (events[i].data.ptr == NULL) {
                on_durable(loop);
            } else {
                on_session(loop, events[i].data.ptr);
            }
        }
    }
    return loop->broken ? bench_fail(TRANSFER_NAME, LS_EXIT_ERROR, "a session or its COMMIT PREPARED failed")
                        : LS_EXIT_OK;
}

static int run_subject(const struct transfer *transfer, struct transfer_run *run, bool atomic) {
    struct loop loop = {.transfer = transfer,
                        .run = run,
                        .random = {transfer->seed},
                        .database_count = (uint32_t)transfer->databases.count,
                        .finisher_count = transfer->finishers < run->clients ? transfer->finishers : run->clients,
                        .epoll = epoll_create1(EPOLL_CLOEXEC)};
    if (atomic && (loop.log = decision_file_open(transfer->log_folder)) == NULL) return LS_EXIT_ERROR;
    loop.clients = calloc(run->clients, sizeof *loop.clients);
    loop.finishers = calloc((size_t)loop.database_count * loop.finisher_count, sizeof *loop.finishers);
    if (loop.epoll < 0 || loop.clients == NULL || loop.finishers == NULL)
        exit(bench_fail(TRANSFER_NAME, LS_EXIT_ERROR, "out of memory or descriptors"));
    int exit_status = open_sessions(&loop);
    if (exit_status == LS_EXIT_OK) exit_status = run_loop(&loop);
    for (uint32_t i = 0; i < run->clients; i++)
        for (uint32_t d = 0; d < loop.database_count; d++) close_session(&loop.clients[i].sessions[d]);
    for (uint32_t i = 0; i < loop.database_count * loop.finisher_count; i++) close_session(&loop.finishers[i]);
    if (loop.log != NULL) run->syncs = decision_file_syncs(loop.log);
    decision_file_close(loop.log);
    free(loop.finishers);
    free(loop.clients);
    (void)close(loop.epoll);
    return exit_status;
}

int transfer_none(const struct transfer *transfer, struct transfer_run *run) {
    return run_subject(transfer, run, false);
}

int transfer_limit(const struct transfer *transfer, struct transfer_run *run) {
    return run_subject(transfer, run, true);
}
