/*
 * subject_hand.c: two subjects in one event loop over non-blocking libpq.
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
#include "bench/subject.h"
#include "lockstep/status.h"

#define RECORD_BYTES 192

struct hand;
struct client;

/* What became of a batch. */
struct verdict {
    bool failed; /* something in it did */
    bool done;   /* its PREPARE TRANSACTION; without one, its statement */
    char cause[LOAD_CAUSE_TEXT];
};

/* One batch under way on a session, up to its Sync. */
struct batch {
    struct client *client;
    uint32_t part;
    void (*done)(struct hand *hand, struct client *client, uint32_t part, const struct verdict *verdict);
};

struct session {
    struct load_source source;
    struct hand *hand;
    PGconn *conn;
    struct batch *queue; /* ring */
    uint32_t first, count, capacity;
    struct verdict verdict; /* on the first batch, so far */
    bool unsent;            /* libpq holds bytes back: wait for writability */
    bool watched;           /* ... and epoll does */
};

struct client {
    struct load_client *base;
    uint64_t position;
    uint32_t pending, sent; /* branches */
    bool ok, prepared[WORK_DATABASES_MAX];
    char cause[LOAD_CAUSE_TEXT];
    struct session sessions[WORK_DATABASES_MAX];
    struct client *log_next;
};

struct hand {
    struct load *load;
    struct load_loop loop;
    struct load_source log_source;
    bool atomic;
    uint32_t databases, finisher_count, next_finisher;
    struct client *clients;
    struct session *finishers;          /* per database: finisher_count */
    struct client *log_head, *log_tail; /* in the order of their positions */
};

static void expect(struct hand *hand, struct session *session, struct batch batch) {
    if (session->count == session->capacity) {
        uint32_t capacity = session->capacity == 0 ? 4 : 2 * session->capacity;
        struct batch *queue = calloc(capacity, sizeof *queue);
        if (queue == NULL) exit(bench_fail(NULL, LS_EXIT_ERROR, "out of memory"));
        for (uint32_t i = 0; i < session->count; i++)
            queue[i] = session->queue[(session->first + i) % session->capacity];
        free(session->queue);
        session->queue = queue;
        session->first = 0;
        session->capacity = capacity;
    }
    session->queue[(session->first + session->count++) % session->capacity] = batch;
    if (PQpipelineSync(session->conn) != 1) hand->load->broken = true;
    atomic_fetch_add_explicit(&hand->load->trips, 1, memory_order_relaxed);
}

/* `gid` NULL: a command without one. */
static void command(struct hand *hand, struct session *session, const char *verb, const char *gid) {
    char sql[SUBJECT_GID_MAX + 64];
    (void)snprintf(sql, sizeof sql, "%s%s%s%s", verb, gid ? " '" : "", gid ? gid : "", gid ? "'" : "");
    if (PQsendQueryParams(session->conn, sql, 0, NULL, NULL, NULL, NULL, 0) != 1) hand->load->broken = true;
}

static void statement(struct hand *hand, struct session *session, const struct work_part *part) {
    if (PQsendQueryPrepared(session->conn, part->statement->name, (int)part->values.count, part->values.items, NULL,
                            NULL, 0) != 1)
        hand->load->broken = true;
}

static void flush(struct hand *hand, struct session *session) {
    int left = PQflush(session->conn);
    if (left < 0) hand->load->broken = true;
    session->unsent = left == 1;
    if (session->unsent == session->watched) return;
    struct epoll_event event = {.events = EPOLLIN | (session->unsent ? EPOLLOUT : 0), .data.ptr = &session->source};
    if (epoll_ctl(hand->loop.epoll, EPOLL_CTL_MOD, PQsocket(session->conn), &event) != 0) hand->load->broken = true;
    session->watched = session->unsent;
}

/* ------------------------------------------------------------ a transaction */

static void ended(struct hand *hand, struct client *client) {
    const struct work *work = &client->base->work;
    bool any = false;

    for (uint32_t i = 0; i < work->part_count; i++) any = any || client->prepared[i];
    if (client->ok) {
        uint64_t now_us = bench_now_us();
        load_committed(hand->load, client->base->since_us, now_us, now_us);
    } else if (!hand->atomic && any) {
        load_half(hand->load, work, client->cause);
    } else {
        load_aborted(hand->load, work, client->cause);
    }
    load_loop_free(&hand->loop, client->base);
}

static void on_finished(struct hand *hand, struct client *client, uint32_t part, const struct verdict *verdict) {
    (void)part;
    if (verdict->failed) hand->load->broken = true; /* nothing may fail in phase two */
    if (--client->pending == 0) ended(hand, client);
}

static void commit_branches(struct hand *hand, struct client *client) {
    const struct work *work = &client->base->work;
    char gid[SUBJECT_GID_MAX];

    client->pending = work->part_count;
    for (uint32_t i = 0; i < work->part_count; i++) {
        struct session *finisher =
            &hand->finishers[work->parts[i].database * hand->finisher_count + hand->next_finisher];
        subject_gid(work, i, gid);
        command(hand, finisher, "COMMIT PREPARED", gid);
        expect(hand, finisher, (struct batch){client, i, on_finished});
        flush(hand, finisher);
    }
    hand->next_finisher = (hand->next_finisher + 1) % hand->finisher_count;
}

static void abort_branches(struct hand *hand, struct client *client) {
    const struct work *work = &client->base->work;
    char gid[SUBJECT_GID_MAX];

    client->pending = client->sent;
    for (uint32_t i = 0; i < client->sent; i++) {
        struct session *session = &client->sessions[work->parts[i].database];
        subject_gid(work, i, gid);
        command(hand, session, client->prepared[i] ? "ROLLBACK PREPARED" : "ROLLBACK",
                client->prepared[i] ? gid : NULL);
        expect(hand, session, (struct batch){client, i, on_finished});
        flush(hand, session);
    }
}

static void on_branch(struct hand *hand, struct client *client, uint32_t part, const struct verdict *verdict);

/* What touches no row is a no, too; PREPARE goes behind it all the same, in the one round trip. */
static void send_branch(struct hand *hand, struct client *client) {
    const struct work *work = &client->base->work;
    const struct work_part *part = &work->parts[client->sent];
    struct session *session = &client->sessions[part->database];
    char gid[SUBJECT_GID_MAX];

    subject_gid(work, client->sent, gid);
    if (hand->atomic) command(hand, session, "BEGIN", NULL);
    statement(hand, session, part);
    if (hand->atomic) command(hand, session, "PREPARE TRANSACTION", gid);
    expect(hand, session, (struct batch){client, client->sent, on_branch});
    flush(hand, session);
    client->sent++;
    client->pending++;
}

static void decide(struct hand *hand, struct client *client) {
    char record[RECORD_BYTES] = {0};

    (void)snprintf(record, sizeof record, "commit %" PRIu64, client->base->work.number);
    client->position = decision_file_append(hand->load->log, record, sizeof record);
    client->log_next = NULL;
    *(hand->log_tail == NULL ? &hand->log_head : &hand->log_tail->log_next) = client;
    hand->log_tail = client;
}

static void on_branch(struct hand *hand, struct client *client, uint32_t part, const struct verdict *verdict) {
    client->prepared[part] = verdict->done;
    if (verdict->failed && client->ok) {
        client->ok = false;
        memcpy(client->cause, verdict->cause, sizeof client->cause);
    }
    if (--client->pending > 0) return;
    if (client->ok && client->sent < client->base->work.part_count) {
        send_branch(hand, client);
    } else if (!hand->atomic) {
        ended(hand, client);
    } else if (!client->ok) {
        abort_branches(hand, client);
    } else {
        decide(hand, client);
    }
}

static void begin_transaction(void *context, struct load_client *base) {
    struct hand *hand = context;
    struct client *client = &hand->clients[base->number];

    client->ok = true;
    client->cause[0] = '\0';
    client->sent = client->pending = 0;
    memset(client->prepared, 0, sizeof client->prepared);
    do send_branch(hand, client);
    while (client->sent < base->work.part_count && !hand->load->options->in_order);
}

static void on_durable(void *context) {
    struct hand *hand = context;
    uint64_t count;

    if (read(decision_file_fd(hand->load->log), &count, sizeof count) != sizeof count) return;
    uint64_t durable = decision_file_durable(hand->load->log);
    while (hand->log_head != NULL && hand->log_head->position <= durable) {
        struct client *client = hand->log_head;
        hand->log_head = client->log_next;
        if (hand->log_head == NULL) hand->log_tail = NULL;
        commit_branches(hand, client);
    }
}

/* ------------------------------------------------------------------ the loop */

static void take_result(const struct hand *hand, struct session *session, PGresult *result) {
    bool ok = subject_result_ok(result, session->verdict.cause);

    if (!ok) session->verdict.failed = true;
    if (ok && (!hand->atomic || strncmp(PQcmdStatus(result), "PREPARE", 7) == 0)) session->verdict.done = true;
}

static void on_session(void *context) {
    struct session *session = context;
    struct hand *hand = session->hand;

    if (PQconsumeInput(session->conn) != 1) {
        hand->load->broken = true;
        return;
    }
    if (session->unsent) flush(hand, session);
    while (session->count > 0 && !PQisBusy(session->conn)) {
        PGresult *result = PQgetResult(session->conn);
        if (result == NULL) continue; /* between two commands of a batch */
        if (PQresultStatus(result) != PGRES_PIPELINE_SYNC) {
            take_result(hand, session, result);
            PQclear(result);
            continue;
        }
        PQclear(result);
        struct batch batch = session->queue[session->first];
        session->first = (session->first + 1) % session->capacity;
        session->count--;
        struct verdict verdict = session->verdict;
        session->verdict = (struct verdict){0};
        batch.done(hand, batch.client, batch.part, &verdict);
    }
}

static int open_session(struct hand *hand, struct session *session, uint32_t database) {
    session->hand = hand;
    session->source = (struct load_source){on_session, session};
    session->conn = subject_session(hand->load, database);
    if (session->conn == NULL) return LS_EXIT_UNREACHABLE;
    return PQsetnonblocking(session->conn, 1) == 0 &&
                   load_loop_watch(&hand->loop, PQsocket(session->conn), &session->source)
               ? LS_EXIT_OK
               : LS_EXIT_ERROR;
}

static int open_sessions(struct hand *hand) {
    int exit_status = LS_EXIT_OK;

    for (uint32_t i = 0; i < hand->load->clients; i++) {
        hand->clients[i].base = &hand->loop.clients[i];
        for (uint32_t d = 0; d < hand->databases && exit_status == LS_EXIT_OK; d++)
            exit_status = open_session(hand, &hand->clients[i].sessions[d], d);
    }
    for (uint32_t i = 0; hand->atomic && i < hand->databases * hand->finisher_count && exit_status == LS_EXIT_OK; i++)
        exit_status = open_session(hand, &hand->finishers[i], i / hand->finisher_count);
    hand->log_source = (struct load_source){on_durable, hand};
    if (exit_status == LS_EXIT_OK && hand->atomic &&
        !load_loop_watch(&hand->loop, decision_file_fd(hand->load->log), &hand->log_source))
        exit_status = LS_EXIT_ERROR;
    return exit_status;
}

static void close_session(struct session *session) {
    PQfinish(session->conn);
    free(session->queue);
}

static int run(struct load *load, bool atomic) {
    const uint32_t finishers = load->options->finishers;
    struct hand hand = {.load = load,
                        .atomic = atomic,
                        .databases = load->workload->databases,
                        .finisher_count = finishers < load->clients ? finishers : load->clients};
    hand.loop = (struct load_loop){.load = load, .begin = begin_transaction, .context = &hand};
    hand.clients = calloc(load->clients, sizeof *hand.clients);
    hand.finishers = calloc((size_t)hand.databases * hand.finisher_count, sizeof *hand.finishers);
    if (hand.clients == NULL || hand.finishers == NULL) exit(bench_fail(NULL, LS_EXIT_ERROR, "out of memory"));
    int exit_status = load_loop_open(&hand.loop);
    if (exit_status == LS_EXIT_OK) exit_status = open_sessions(&hand);
    if (exit_status == LS_EXIT_OK) exit_status = load_loop_run(&hand.loop);
    for (uint32_t i = 0; i < load->clients; i++)
        for (uint32_t d = 0; d < hand.databases; d++) close_session(&hand.clients[i].sessions[d]);
    for (uint32_t i = 0; i < hand.databases * hand.finisher_count; i++) close_session(&hand.finishers[i]);
    free(hand.finishers);
    free(hand.clients);
    load_loop_close(&hand.loop);
    return exit_status;
}

int subject_none(struct load *load) {
    return run(load, false);
}

int subject_limit(struct load *load) {
    return run(load, true);
}
