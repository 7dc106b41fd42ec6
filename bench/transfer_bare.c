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
#include <unistd.h>

#include "bench/decision_file.h"
#include "bench/transfer.h"
#include "lockstep/status.h"

#define GID_MAX 64

struct bare;

struct bare_client {
    struct bare *bare;
    uint32_t number;
    pthread_t thread;
    PGconn *sessions[TRANSFER_DATABASES_MAX];
    struct transfer_run run;
    int exit_status;
};

struct bare {
    const struct transfer *transfer;
    struct decision_file *log;
    uint64_t begin_us, end_us;
};

/* Reads to the end of a batch; false when something in it failed. */
static bool batch_ok(PGconn *session) {
    bool ok = true;
    for (uint32_t idle = 0; idle < 2;) {
        PGresult *result = PQgetResult(session);
        if (result == NULL) {
            idle++; /* one behind each command; two in a row: the connection is gone */
            continue;
        }
        idle = 0;
        ExecStatusType status = PQresultStatus(result);
        PQclear(result);
        if (status == PGRES_PIPELINE_SYNC) return ok;
        ok = ok && (status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK);
    }
    return false;
}

/* `gid` NULL: a command without one. */
static bool send_command(PGconn *session, const char *verb, const char *gid) {
    char sql[GID_MAX + 64];
    (void)snprintf(sql, sizeof sql, "%s%s%s%s", verb, gid ? " '" : "", gid ? gid : "", gid ? "'" : "");
    return PQsendQueryParams(session, sql, 0, NULL, NULL, NULL, NULL, 0) == 1;
}

static bool send_branch(const struct bare_client *client, PGconn *session, const char *gid,
                        struct bench_random *random) {
    char row[12];
    const char *values[] = {"1", row};
    (void)snprintf(row, sizeof row, "%" PRIu32, transfer_row(client->bare->transfer, random));
    return send_command(session, "BEGIN", NULL) &&
           PQsendQueryPrepared(session, "update", 2, values, NULL, NULL, 0) == 1 &&
           send_command(session, "PREPARE TRANSACTION", gid) && PQpipelineSync(session) == 1 && PQflush(session) >= 0;
}

/* Ends what a failed branch left: its own open transaction, and the branches that are prepared. */
static bool undo(const struct bare_client *client, const char *gid, const bool *prepared) {
    bool ok = true;
    for (size_t i = 0; i < client->bare->transfer->databases.count; i++) {
        PGconn *session = client->sessions[i];
        ok = ok && send_command(session, prepared[i] ? "ROLLBACK PREPARED" : "ROLLBACK", prepared[i] ? gid : NULL) &&
             PQpipelineSync(session) == 1 && batch_ok(session);
    }
    return ok;
}

/* False: a session is broken. */
static bool transact(struct bare_client *client, struct bench_random *random, const char *gid) {
    const size_t count = client->bare->transfer->databases.count;
    bool prepared[TRANSFER_DATABASES_MAX], all = true;
    uint64_t since_us = bench_now_us();
    for (size_t i = 0; i < count; i++)
        if (!send_branch(client, client->sessions[i], gid, random)) return false;
    for (size_t i = 0; i < count; i++) {
        prepared[i] = batch_ok(client->sessions[i]);
        all = all && prepared[i];
    }
    if (!all) {
        client->run.aborted++;
        return undo(client, gid, prepared);
    }
    char record[192] = {0};
    (void)snprintf(record, sizeof record, "commit %s", gid);
    decision_file_wait(client->bare->log, decision_file_append(client->bare->log, record, sizeof record));
    for (size_t i = 0; i < count; i++) {
        if (!send_command(client->sessions[i], "COMMIT PREPARED", gid) || PQpipelineSync(client->sessions[i]) != 1 ||
            PQflush(client->sessions[i]) < 0)
            return false;
    }
    for (size_t i = 0; i < count; i++)
        if (!batch_ok(client->sessions[i])) return false;
    transfer_committed(&client->run, since_us, bench_now_us());
    return true;
}

static void *run_client(void *context) {
    struct bare_client *client = context;
    struct bench_random random = {client->bare->transfer->seed + client->number};
    char gid[GID_MAX];
    for (uint64_t n = 0; bench_now_us() < client->bare->end_us; n++) {
        (void)snprintf(gid, sizeof gid, "bench-%d-%" PRIu32 "-%" PRIu64, (int)getpid(), client->number, n);
        if (!transact(client, &random, gid)) {
            client->exit_status = bench_fail(TRANSFER_NAME, LS_EXIT_ERROR, "bare: a session failed at %s", gid);
            break;
        }
    }
    return NULL;
}

static int connect_client(struct bare_client *client) {
    for (size_t i = 0; i < client->bare->transfer->databases.count; i++) {
        client->sessions[i] = transfer_connect(client->bare->transfer->databases.items[i]);
        if (client->sessions[i] == NULL) return LS_EXIT_UNREACHABLE;
    }
    return LS_EXIT_OK;
}

static void take_over(struct transfer_run *run, const struct transfer_run *part) {
    run->committed += part->committed;
    run->aborted += part->aborted;
    for (size_t i = 0; i < part->latencies.count; i++) bench_samples_add(&run->latencies, part->latencies.us[i]);
}

int transfer_bare(const struct transfer *transfer, struct transfer_run *run) {
    struct bare bare = {.transfer = transfer, .log = decision_file_open(transfer->log_folder)};
    if (bare.log == NULL) return LS_EXIT_ERROR;
    struct bare_client *clients = calloc(run->clients, sizeof *clients);
    if (clients == NULL) exit(bench_fail(TRANSFER_NAME, LS_EXIT_ERROR, "out of memory"));
    int exit_status = LS_EXIT_OK;
    for (uint32_t i = 0; i < run->clients && exit_status == LS_EXIT_OK; i++) {
        clients[i].bare = &bare;
        clients[i].number = i;
        exit_status = connect_client(&clients[i]);
    }
    transfer_begin(transfer, run);
    bare.begin_us = run->begin_us;
    bare.end_us = run->end_us;
    uint32_t started = 0;
    for (; started < run->clients && exit_status == LS_EXIT_OK; started++) {
        clients[started].run.begin_us = run->begin_us;
        clients[started].run.end_us = run->end_us;
        if (pthread_create(&clients[started].thread, NULL, run_client, &clients[started]) != 0) {
            exit_status = bench_fail(TRANSFER_NAME, LS_EXIT_ERROR, "bare: no thread for client %" PRIu32, started);
            break;
        }
    }
    for (uint32_t i = 0; i < started; i++) {
        (void)pthread_join(clients[i].thread, NULL);
        if (clients[i].exit_status != LS_EXIT_OK) exit_status = clients[i].exit_status;
        take_over(run, &clients[i].run);
        bench_samples_free(&clients[i].run.latencies);
    }
    for (uint32_t i = 0; i < run->clients; i++)
        for (size_t d = 0; d < TRANSFER_DATABASES_MAX; d++) PQfinish(clients[i].sessions[d]);
    run->syncs = decision_file_syncs(bare.log);
    decision_file_close(bare.log);
    free(clients);
    return exit_status;
}
