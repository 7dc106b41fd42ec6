/*
 * transfer_bare.c: the yardstick `bare`: two-phase commit by hand, as a careful program would do it with blocking
 * libpq: a thread per client, PREPARE on all databases in parallel (BEGIN, statement and PREPARE in one round trip),
 * one decision record with a shared sync, COMMIT PREPARED on all in parallel. No recovery, no proof, no admission: what
 * is left out is what lockstep is for.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench/decision_file.h"
#include "bench/subject.h"
#include "lockstep/status.h"

struct bare_client {
    struct load *load;
    uint32_t number;
    pthread_t thread;
    PGconn *sessions[WORK_DATABASES_MAX];
    struct work work;
    char cause[LOAD_CAUSE_TEXT];
};

/* Reads to the end of a batch; false when something in it failed. `ret_prepared`: its PREPARE did not. */
static bool batch_ok(struct bare_client *client, PGconn *session, bool *ret_prepared) {
    bool ok = true;

    *ret_prepared = false;
    for (uint32_t idle = 0; idle < 2;) {
        PGresult *result = PQgetResult(session);
        if (result == NULL) {
            idle++; /* one behind each command; two in a row: the connection is gone */
            continue;
        }
        idle = 0;
        bool end = PQresultStatus(result) == PGRES_PIPELINE_SYNC;
        bool good = end || subject_result_ok(result, client->cause);
        if (good && strncmp(PQcmdStatus(result), "PREPARE", 7) == 0) *ret_prepared = true;
        PQclear(result);
        if (end) return ok;
        ok = ok && good;
    }
    return false;
}

/* `gid` NULL: a command without one. */
static bool send_command(PGconn *session, const char *verb, const char *gid) {
    char sql[SUBJECT_GID_MAX + 64];
    (void)snprintf(sql, sizeof sql, "%s%s%s%s", verb, gid ? " '" : "", gid ? gid : "", gid ? "'" : "");
    return PQsendQueryParams(session, sql, 0, NULL, NULL, NULL, NULL, 0) == 1;
}

static PGconn *session_of(const struct bare_client *client, uint32_t part) {
    return client->sessions[client->work.parts[part].database];
}

static bool send_sync(struct bare_client *client, uint32_t part) {
    atomic_fetch_add_explicit(&client->load->trips, 1, memory_order_relaxed);
    return PQpipelineSync(session_of(client, part)) == 1 && PQflush(session_of(client, part)) >= 0;
}

static bool send_branch(struct bare_client *client, uint32_t i) {
    const struct work_part *part = &client->work.parts[i];
    PGconn *session = session_of(client, i);
    char gid[SUBJECT_GID_MAX];

    subject_gid(&client->work, i, gid);
    return send_command(session, "BEGIN", NULL) &&
           PQsendQueryPrepared(session, part->statement->name, (int)part->values.count, part->values.items, NULL, NULL,
                               0) == 1 &&
           send_command(session, "PREPARE TRANSACTION", gid) && send_sync(client, i);
}

static bool send_finish(struct bare_client *client, uint32_t part, const char *verb) {
    char gid[SUBJECT_GID_MAX];

    subject_gid(&client->work, part, gid);
    return send_command(session_of(client, part), verb, strcmp(verb, "ROLLBACK") == 0 ? NULL : gid) &&
           send_sync(client, part);
}

/* Ends what the first `sent` branches left: an open transaction of a failed one, or what is prepared. */
static bool undo(struct bare_client *client, uint32_t sent, const bool *prepared) {
    bool ok = true, none;

    for (uint32_t i = 0; i < sent; i++)
        ok = ok && send_finish(client, i, prepared[i] ? "ROLLBACK PREPARED" : "ROLLBACK") &&
             batch_ok(client, session_of(client, i), &none);
    return ok;
}

static bool commit(struct bare_client *client) {
    char record[192] = {0};
    bool none;

    (void)snprintf(record, sizeof record, "commit %" PRIu64, client->work.number);
    decision_file_wait(client->load->log, decision_file_append(client->load->log, record, sizeof record));
    for (uint32_t i = 0; i < client->work.part_count; i++)
        if (!send_finish(client, i, "COMMIT PREPARED")) return false;
    for (uint32_t i = 0; i < client->work.part_count; i++)
        if (!batch_ok(client, session_of(client, i), &none)) return false;
    return true;
}

/* All at once, or one after the other until one says no. False: a session is broken. */
static bool prepare(struct bare_client *client, uint32_t *ret_sent, bool *prepared, bool *ret_all) {
    const bool in_order = client->load->options->in_order;
    uint32_t sent = 0;

    *ret_all = true;
    while (sent < client->work.part_count && *ret_all) {
        if (!send_branch(client, sent)) return false;
        if (in_order) *ret_all = batch_ok(client, session_of(client, sent), &prepared[sent]);
        sent++;
    }
    for (uint32_t i = 0; i < sent && !in_order; i++)
        if (!batch_ok(client, session_of(client, i), &prepared[i])) *ret_all = false;
    *ret_sent = sent;
    return true;
}

/* False: a session is broken. */
static bool transact(struct bare_client *client, uint64_t since_us) {
    bool prepared[WORK_DATABASES_MAX], all;
    uint32_t sent;

    client->cause[0] = '\0';
    if (!prepare(client, &sent, prepared, &all)) return false;
    if (!all) {
        load_aborted(client->load, &client->work, client->cause);
        return undo(client, sent, prepared);
    }
    if (!commit(client)) return false;
    uint64_t now_us = bench_now_us();
    load_committed(client->load, since_us, now_us, now_us);
    return true;
}

/* In pieces, so that an interrupt ends it soon. */
static void sleep_until(uint64_t at_us) {
    uint64_t now_us = bench_now_us();

    while (now_us < at_us && !load_interrupted) {
        uint64_t pause_us = at_us - now_us < 50000 ? at_us - now_us : 50000;
        const struct timespec pause = {0, (long)pause_us * 1000};
        (void)nanosleep(&pause, NULL);
        now_us = bench_now_us();
    }
}

static void *run_client(void *context) {
    struct bare_client *client = context;
    struct bench_random random = {client->load->options->seed + client->number};
    uint64_t since_us;

    while (!client->load->broken && load_next(client->load, bench_now_us(), &since_us)) {
        sleep_until(since_us);
        work_draw(client->load->workload, &random, &client->work);
        if (transact(client, since_us)) continue;
        (void)bench_fail(client->load->options->name, LS_EXIT_ERROR, "bare: a session failed: %s", client->cause);
        client->load->broken = true;
    }
    return NULL;
}

static int connect_client(struct bare_client *client) {
    for (uint32_t d = 0; d < client->load->workload->databases; d++) {
        client->sessions[d] = subject_session(client->load, d);
        if (client->sessions[d] == NULL) return LS_EXIT_UNREACHABLE;
    }
    return LS_EXIT_OK;
}

int subject_bare(struct load *load) {
    struct bare_client *clients = calloc(load->clients, sizeof *clients);
    if (clients == NULL) exit(bench_fail(NULL, LS_EXIT_ERROR, "out of memory"));
    int exit_status = LS_EXIT_OK;
    for (uint32_t i = 0; i < load->clients && exit_status == LS_EXIT_OK; i++) {
        clients[i].load = load;
        clients[i].number = i;
        exit_status = connect_client(&clients[i]);
    }
    load_begin(load);
    uint32_t started = 0;
    for (; started < load->clients && exit_status == LS_EXIT_OK; started++) {
        if (pthread_create(&clients[started].thread, NULL, run_client, &clients[started]) != 0) {
            exit_status =
                bench_fail(load->options->name, LS_EXIT_ERROR, "bare: no thread for client %" PRIu32, started);
            break;
        }
    }
    if (exit_status != LS_EXIT_OK) load->broken = true;
    for (uint32_t i = 0; i < started; i++) (void)pthread_join(clients[i].thread, NULL);
    for (uint32_t i = 0; i < load->clients; i++)
        for (size_t d = 0; d < WORK_DATABASES_MAX; d++) PQfinish(clients[i].sessions[d]);
    free(clients);
    return load->broken && exit_status == LS_EXIT_OK ? LS_EXIT_ERROR : exit_status;
}
