/*
 * transfer.c: `lockstep-bench transfer`: the same small transaction through several subjects, in turn, in one run,
 * since machines wobble: round by round and, in a round, subject by subject for each number of clients. Says medians
 * over the rounds and their ratio to `bare`.
 *
 * The databases need `create table bench(id int primary key, amount bigint not null)` with rows 1 .. --rows;
 * `--prepare` makes it.
 */
#include "bench/transfer.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lockstep/status.h"

#define CELLS_MAX 64u
#define ROUNDS_MAX 99u

static const struct subject {
    const char *name, *what;
    int (*run)(const struct transfer *transfer, struct transfer_run *run);
    bool coordinator;
} subjects[] = {
    {"none", "independent commits: not atomic", transfer_none, false},
    {"bare", "two-phase commit by hand, a thread per client, blocking libpq", transfer_bare, false},
    {"limit", "two-phase commit by hand, one event loop, pipelined second phase", transfer_limit, false},
    {"2pc", "lockstep, answered when applied everywhere", transfer_2pc, true},
    {"2pc-decided", "lockstep, answered when decided", transfer_2pc_decided, true},
};
#define SUBJECT_COUNT (sizeof subjects / sizeof subjects[0])

/* One subject with one number of clients, over all rounds. */
struct cell {
    const struct subject *subject;
    uint32_t clients, rounds;
    double per_second[ROUNDS_MAX], p50_us[ROUNDS_MAX], p99_us[ROUNDS_MAX];
    uint64_t committed, aborted;
};

uint32_t transfer_row(const struct transfer *transfer, struct bench_random *random) {
    if (transfer->hot_percent > 0 && bench_random_below(random, 100) < transfer->hot_percent) return 1;
    return 1 + bench_random_below(random, transfer->rows);
}

void transfer_begin(const struct transfer *transfer, struct transfer_run *run) {
    run->begin_us = bench_now_us() + (uint64_t)transfer->warm_up_s * 1000000u;
    run->end_us = run->begin_us + (uint64_t)transfer->seconds * 1000000u;
}

void transfer_committed(struct transfer_run *run, uint64_t since_us, uint64_t now_us) {
    if (now_us < run->begin_us || now_us >= run->end_us) return;
    run->committed++;
    bench_samples_add(&run->latencies, now_us - since_us);
}

static PGconn *connect_to(const char *conninfo) {
    PGconn *conn = PQconnectdb(conninfo);
    if (PQstatus(conn) == CONNECTION_OK) return conn;
    (void)bench_fail(TRANSFER_NAME, LS_EXIT_UNREACHABLE, "%s", PQerrorMessage(conn));
    PQfinish(conn);
    return NULL;
}

static bool execute(PGconn *conn, const char *sql) {
    PGresult *result = PQexec(conn, sql);
    ExecStatusType status = PQresultStatus(result);
    bool ok = status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK;
    if (!ok) (void)bench_fail(TRANSFER_NAME, LS_EXIT_ERROR, "%s", PQerrorMessage(conn));
    PQclear(result);
    return ok;
}

PGconn *transfer_connect(const char *conninfo) {
    PGconn *conn = connect_to(conninfo);
    if (conn == NULL) return NULL;
    bool ok = execute(conn, "set lock_timeout = '5s'");
    PGresult *result = PQprepare(conn, "update", TRANSFER_UPDATE, 2, NULL);
    if (ok && PQresultStatus(result) != PGRES_COMMAND_OK) {
        ok = false;
        (void)bench_fail(TRANSFER_NAME, LS_EXIT_ERROR, "%s", PQerrorMessage(conn));
    }
    PQclear(result);
    if (ok && PQenterPipelineMode(conn) == 1) return conn;
    PQfinish(conn);
    return NULL;
}

static int prepare(const struct transfer *transfer) {
    char sql[256];
    for (size_t i = 0; i < transfer->databases.count; i++) {
        PGconn *conn = connect_to(transfer->databases.items[i]);
        if (conn == NULL) return LS_EXIT_UNREACHABLE;
        (void)snprintf(sql, sizeof sql,
                       "drop table if exists bench; create table bench(id int primary key, amount bigint not null);"
                       " insert into bench select g, 0 from generate_series(1, %" PRIu32
                       ") g; grant all on bench to public;",
                       transfer->rows);
        bool ok = execute(conn, sql) && execute(conn, "vacuum analyze bench") && execute(conn, "checkpoint");
        PQfinish(conn);
        if (!ok) return LS_EXIT_ERROR;
    }
    return LS_EXIT_OK;
}

/* ------------------------------------------------------------------- choices */

static const struct subject *find_subject(const char *name) {
    for (size_t i = 0; i < SUBJECT_COUNT; i++)
        if (strcmp(subjects[i].name, name) == 0) return &subjects[i];
    return NULL;
}

/* "bare,2pc" x "1,32": a cell for each pair. The words are cut out of `text` in place. */
static int make_cells(char *names, char *clients, struct cell *cells, uint32_t *ret_count) {
    *ret_count = 0;
    char *rest_clients = NULL;
    for (char *number = strtok_r(clients, ",", &rest_clients); number != NULL;
         number = strtok_r(NULL, ",", &rest_clients)) {
        char *end = NULL, copy[256], *rest = NULL;
        unsigned long value = strtoul(number, &end, 10);
        if (*number < '0' || *number > '9' || *end != '\0' || value < 1 || value > 1024)
            return bench_fail(TRANSFER_NAME, LS_EXIT_USAGE, "--clients: `%s` is not a number from 1 to 1024", number);
        if (strlen(names) >= sizeof copy) return bench_fail(TRANSFER_NAME, LS_EXIT_USAGE, "--subjects: too long");
        (void)snprintf(copy, sizeof copy, "%s", names);
        for (char *name = strtok_r(copy, ",", &rest); name != NULL; name = strtok_r(NULL, ",", &rest)) {
            const struct subject *subject = find_subject(name);
            if (subject == NULL) return bench_fail(TRANSFER_NAME, LS_EXIT_USAGE, "--subjects: `%s` is unknown", name);
            if (*ret_count == CELLS_MAX)
                return bench_fail(TRANSFER_NAME, LS_EXIT_USAGE, "more than %u cells", CELLS_MAX);
            cells[(*ret_count)++] = (struct cell){.subject = subject, .clients = (uint32_t)value};
        }
    }
    if (*ret_count == 0) return bench_fail(TRANSFER_NAME, LS_EXIT_USAGE, "no subject or no number of clients");
    return LS_EXIT_OK;
}

/* -------------------------------------------------------------------- results */

static int compare_double(const void *a, const void *b) {
    double left = *(const double *)a, right = *(const double *)b;
    return left < right ? -1 : left > right;
}

static double median(const double *values, uint32_t count) {
    double sorted[ROUNDS_MAX];
    if (count == 0) return 0; /* interrupted before the first round ended */
    memcpy(sorted, values, count * sizeof *values);
    qsort(sorted, count, sizeof *sorted, compare_double);
    return count % 2 == 1 ? sorted[count / 2] : (sorted[count / 2 - 1] + sorted[count / 2]) / 2;
}

static const struct cell *bare_of(const struct cell *cells, uint32_t count, uint32_t clients) {
    for (uint32_t i = 0; i < count; i++)
        if (cells[i].clients == clients && strcmp(cells[i].subject->name, "bare") == 0) return &cells[i];
    return NULL;
}

/* The ratio is the median of the rounds' ratios: what the machine did to a round it did to both. */
static double ratio(const struct cell *cell, const struct cell *bare, const double *of, const double *to) {
    double ratios[ROUNDS_MAX] = {0};
    uint32_t rounds = cell->rounds < bare->rounds ? cell->rounds : bare->rounds;
    for (uint32_t i = 0; i < rounds; i++) ratios[i] = to[i] > 0 ? of[i] / to[i] : 0;
    return median(ratios, rounds);
}

static void print_table(const struct cell *cells, uint32_t count) {
    (void)printf("%-12s %7s %10s %8s %8s %9s %9s   %s\n", "subject", "clients", "tx/s", "p50 ms", "p99 ms", "committed",
                 "aborted", "to bare: tx/s, p50");
    for (uint32_t i = 0; i < count; i++) {
        const struct cell *cell = &cells[i], *bare = bare_of(cells, count, cell->clients);
        (void)printf("%-12s %7" PRIu32 " %10.0f %8.2f %8.2f %9" PRIu64 " %9" PRIu64, cell->subject->name, cell->clients,
                     median(cell->per_second, cell->rounds), median(cell->p50_us, cell->rounds) / 1000,
                     median(cell->p99_us, cell->rounds) / 1000, cell->committed, cell->aborted);
        if (bare != NULL)
            (void)printf("   %.2f  %.2f", ratio(cell, bare, cell->per_second, bare->per_second),
                         ratio(cell, bare, cell->p50_us, bare->p50_us));
        (void)printf("\n");
    }
}

static int run_cell(const struct transfer *transfer, struct cell *cell, uint32_t round) {
    struct transfer_run run = {.clients = cell->clients};
    int exit_status = cell->subject->run(transfer, &run);
    if (exit_status == LS_EXIT_OK) {
        cell->per_second[cell->rounds] = (double)run.committed / transfer->seconds;
        cell->p50_us[cell->rounds] = bench_samples_percentile(&run.latencies, 0.5);
        cell->p99_us[cell->rounds] = bench_samples_percentile(&run.latencies, 0.99);
        cell->rounds++;
        cell->committed += run.committed;
        cell->aborted += run.aborted;
        (void)fprintf(stderr, "round %" PRIu32 ": %-12s %4" PRIu32 " clients %8.0f tx/s\n", round + 1,
                      cell->subject->name, cell->clients, (double)run.committed / transfer->seconds);
    }
    bench_samples_free(&run.latencies);
    return exit_status;
}

int bench_transfer(int argc, char **argv) {
    struct transfer transfer = {
        .log_folder = "/tmp", .rows = 10000, .seconds = 5, .warm_up_s = 1, .finishers = 8, .seed = 1};
    char default_subjects[] = "bare,2pc", default_clients[] = "1,32";
    const char *names = default_subjects, *clients = default_clients;
    uint32_t rounds = 3;
    bool help = false, make_tables = false;
    const struct opt opts[] = {
        {"database", 'd', OPT_LIST, &transfer.databases, "CONNINFO", "two to eight, libpq's words", 0, 0},
        {"participant", 'p', OPT_LIST, &transfer.participants, "NAME", "of each database, in the same order", 0, 0},
        {"socket", 's', OPT_TEXT, &transfer.socket, "PATH", "the coordinator's Unix socket", 0, 0},
        {"subjects", 0, OPT_TEXT, &names, "LIST", "of none, bare, limit, 2pc, 2pc-decided (bare,2pc)", 0, 0},
        {"clients", 'c', OPT_TEXT, &clients, "LIST", "numbers of clients (1,32)", 0, 0},
        {"rounds", 'r', OPT_U32, &rounds, "N", "of all of them (3)", 1, ROUNDS_MAX},
        {"seconds", 't', OPT_U32, &transfer.seconds, "N", "counted in each run (5)", 1, 3600},
        {"warm-up", 0, OPT_U32, &transfer.warm_up_s, "N", "seconds before counting (1)", 0, 600},
        {"rows", 0, OPT_U32, &transfer.rows, "N", "of each table (10000)", 1, 100000000},
        {"hot", 0, OPT_U32, &transfer.hot_percent, "PERCENT", "of the updates go to one row (0)", 0, 100},
        {"finishers", 0, OPT_U32, &transfer.finishers, "N", "of `limit`, per database (8)", 1, 100},
        {"log", 0, OPT_TEXT, &transfer.log_folder, "FOLDER",
         "of the yardsticks' decision log; put it beside the coordinator's (/tmp)", 0, 0},
        {"seed", 0, OPT_U32, &transfer.seed, "N", "of the rows (1)", 0, 0},
        {"prepare", 0, OPT_FLAG, &make_tables, NULL, "make the tables first", 0, 0},
        {"help", 'h', OPT_FLAG, &help, NULL, "this text", 0, 0},
    };
    const size_t count = sizeof opts / sizeof opts[0];
    struct opt_operands operands;
    struct ls_error err;
    if (opt_parse(opts, count, argc, argv, false, &operands, &err) != LS_OK)
        return bench_fail(TRANSFER_NAME, LS_EXIT_USAGE, "%s", err.text);
    if (help) {
        (void)printf(
            "usage: lockstep-bench transfer OPTIONS\n\nOne UPDATE of a random row in each database. Subjects:\n");
        for (size_t i = 0; i < SUBJECT_COUNT; i++) (void)printf("  %-12s %s\n", subjects[i].name, subjects[i].what);
        (void)printf("\n");
        opt_help(stdout, opts, count);
        return LS_EXIT_OK;
    }
    if (operands.count > 0) return bench_fail(TRANSFER_NAME, LS_EXIT_USAGE, "what is `%s`?", operands.items[0]);
    if (transfer.databases.count < 2 || transfer.databases.count > TRANSFER_DATABASES_MAX)
        return bench_fail(TRANSFER_NAME, LS_EXIT_USAGE, "--database: %zu given, 2 to %u are needed",
                          transfer.databases.count, TRANSFER_DATABASES_MAX);
    static struct cell cells[CELLS_MAX];
    uint32_t cell_count;
    char names_copy[256], clients_copy[256];
    (void)snprintf(names_copy, sizeof names_copy, "%s", names);
    (void)snprintf(clients_copy, sizeof clients_copy, "%s", clients);
    int exit_status = make_cells(names_copy, clients_copy, cells, &cell_count);
    for (uint32_t i = 0; exit_status == LS_EXIT_OK && i < cell_count; i++) {
        if (cells[i].subject->coordinator &&
            (transfer.socket == NULL || transfer.participants.count != transfer.databases.count))
            exit_status =
                bench_fail(TRANSFER_NAME, LS_EXIT_USAGE, "%s needs --socket and one --participant for each --database",
                           cells[i].subject->name);
    }
    if (exit_status == LS_EXIT_OK && make_tables) exit_status = prepare(&transfer);
    for (uint32_t round = 0; exit_status == LS_EXIT_OK && round < rounds; round++)
        for (uint32_t i = 0; exit_status == LS_EXIT_OK && i < cell_count; i++)
            exit_status = run_cell(&transfer, &cells[i], round);
    if (exit_status == LS_EXIT_OK) print_table(cells, cell_count);
    return exit_status;
}
