/* reader.c: see reader.h. */
#include "bench/reader.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/work.h"
#include "lockstep/status.h"

#define WINDOW 100u         /* accounts, or the latest orders, in one look */
#define SETTLE_US 10000000u /* for what earlier runs left under way */

static const char *const accounts_sql =
    "select id, amount, tx from bench where id = 1 or id between $1 and $2 order by id";
static const char *const orders_sql[] = {
    "select id, 0, id from orders where id between $1 and $2 order by id",
    "select order_id, 0, order_id from taken where order_id between $1 and $2 order by order_id",
    "select order_id, 0, order_id from payment where order_id between $1 and $2 order by order_id",
    "select order_id, 0, order_id from used where order_id between $1 and $2 order by order_id",
};

struct reader {
    struct load *load;
    pthread_t thread;
    uint32_t databases, period_ms;
    PGconn *sessions[WORK_DATABASES_MAX];
    int64_t *sums; /* of accounts, by row: what all databases hold together */
    struct bench_random random;
    struct load_numbers seen; /* whose effects were seen */
    struct reader_result result;
    atomic_bool stop, broken;
};

/* What the databases say about one account or order. */
struct view {
    uint64_t id, tx[WORK_DATABASES_MAX];
    int64_t sum;
    uint32_t count;
    bool negative;
};

static void remember(struct load_numbers *numbers, uint64_t number) {
    if (number == 0) return;
    if (numbers->count == numbers->capacity) {
        numbers->capacity = numbers->capacity > 0 ? 2 * numbers->capacity : 4096;
        numbers->items = realloc(numbers->items, numbers->capacity * sizeof *numbers->items);
        if (numbers->items == NULL) exit(bench_fail(NULL, LS_EXIT_ERROR, "out of memory"));
    }
    numbers->items[numbers->count++] = number;
}

/* ------------------------------------------------------------------------ a look */

static uint64_t number_at(const PGresult *result, int row, int column) {
    return strtoull(PQgetvalue(result, row, column), NULL, 10);
}

static void add_rows(struct view *views, uint32_t *count, uint32_t max, const PGresult *result) {
    uint32_t at = 0;

    for (int row = 0; row < PQntuples(result); row++) { /* both in the order of ids */
        uint64_t id = number_at(result, row, 0);
        while (at < *count && views[at].id < id) at++;
        if (at == *count || views[at].id != id) {
            if (*count == max) return;
            memmove(&views[at + 1], &views[at], (*count - at) * sizeof *views);
            views[at] = (struct view){.id = id};
            ++*count;
        }
        int64_t amount = strtoll(PQgetvalue(result, row, 1), NULL, 10);
        views[at].sum += amount;
        views[at].negative = views[at].negative || amount < 0;
        views[at].tx[views[at].count++] = number_at(result, row, 2);
    }
}

static void judge(struct reader *reader, const struct view *view) {
    bool shop = reader->load->workload->kind->shop;

    reader->result.seen++;
    if (shop ? view->count < reader->databases : view->sum != reader->sums[view->id - 1]) reader->result.torn++;
    if (view->negative) reader->result.negative++;
    for (uint32_t i = 0; i < view->count; i++)
        if (i == 0 || view->tx[i] != view->tx[i - 1]) remember(&reader->seen, view->tx[i]);
}

/* All queries leave before the first answer is read. False: a session failed. */
static bool read_all(struct reader *reader, const char *from, const char *to, struct view *views, uint32_t *count) {
    const char *values[] = {from, to};
    bool ok = true;

    for (uint32_t d = 0; d < reader->databases; d++)
        if (PQsendQueryPrepared(reader->sessions[d], "look", 2, values, NULL, NULL, 0) != 1) return false;
    for (uint32_t d = 0; d < reader->databases; d++) {
        PGresult *result;
        while ((result = PQgetResult(reader->sessions[d])) != NULL) {
            if (PQresultStatus(result) == PGRES_TUPLES_OK) {
                add_rows(views, count, 4 * WINDOW, result);
            } else {
                ok = false;
            }
            PQclear(result);
        }
    }
    return ok;
}

static bool look(struct reader *reader) {
    const struct workload *workload = reader->load->workload;
    struct view views[4 * WINDOW];
    char from[24], to[24];
    uint32_t count = 0;

    if (workload->kind->shop) {
        uint64_t last = work_last_number();
        (void)snprintf(from, sizeof from, "%" PRIu64, last - WINDOW + 1);
        (void)snprintf(to, sizeof to, "%" PRIu64, last);
    } else {
        uint32_t first = 1 + bench_random_below(&reader->random, workload->rows);
        (void)snprintf(from, sizeof from, "%" PRIu32, first);
        (void)snprintf(to, sizeof to, "%" PRIu32, first + WINDOW - 2);
    }
    if (!read_all(reader, from, to, views, &count)) return false;
    for (uint32_t i = 0; i < count; i++) judge(reader, &views[i]);
    return true;
}

/* -------------------------------------------------------------------- the thread */

static void *run_reader(void *context) {
    struct reader *reader = context;
    const struct load *load = reader->load;
    const struct timespec pause = {reader->period_ms / 1000, (long)(reader->period_ms % 1000) * 1000000};

    while (!reader->stop) {
        (void)nanosleep(&pause, NULL);
        uint64_t now_us = bench_now_us();
        if (!atomic_load(&load->started) || now_us < load->begin_us) continue;
        if (now_us >= load->end_us) break;
        if (look(reader)) continue;
        reader->broken = true;
        break;
    }
    return NULL;
}

static int64_t ask(PGconn *session, const char *sql) {
    PGresult *result = PQexec(session, sql);
    int64_t value = PQntuples(result) == 1 ? strtoll(PQgetvalue(result, 0, 0), NULL, 10) : -1;

    PQclear(result);
    return value;
}

/* What was answered early is applied a little later. */
static void wait_settled(const struct reader *reader) {
    uint64_t latest_us = bench_now_us() + SETTLE_US;
    const struct timespec pause = {0, 10000000};

    for (uint32_t d = 0; d < reader->databases; d++)
        while (ask(reader->sessions[d], "select count(*) from pg_prepared_xacts where database = current_database()") >
                   0 &&
               bench_now_us() < latest_us)
            (void)nanosleep(&pause, NULL);
}

static bool remember_sums(struct reader *reader) {
    if (reader->load->workload->kind->shop) return true;
    reader->sums = calloc(reader->load->workload->rows, sizeof *reader->sums);
    if (reader->sums == NULL) exit(bench_fail(NULL, LS_EXIT_ERROR, "out of memory"));
    for (uint32_t d = 0; d < reader->databases; d++) {
        PGresult *result = PQexec(reader->sessions[d], "select id, amount from bench");
        for (int row = 0; row < PQntuples(result); row++) {
            uint64_t id = number_at(result, row, 0);
            if (id >= 1 && id <= reader->load->workload->rows)
                reader->sums[id - 1] += strtoll(PQgetvalue(result, row, 1), NULL, 10);
        }
        bool ok = PQresultStatus(result) == PGRES_TUPLES_OK;
        if (!ok)
            (void)bench_fail(reader->load->options->name, LS_EXIT_ERROR, "%s", PQerrorMessage(reader->sessions[d]));
        PQclear(result);
        if (!ok) return false;
    }
    return true;
}

static bool open_sessions(struct reader *reader) {
    for (uint32_t d = 0; d < reader->databases; d++) {
        reader->sessions[d] = work_connect(reader->load->options->name, reader->load->options->databases[d]);
        if (reader->sessions[d] == NULL) return false;
        const char *sql = reader->load->workload->kind->shop ? orders_sql[d] : accounts_sql;
        PGresult *result = PQprepare(reader->sessions[d], "look", sql, 0, NULL);
        bool ok = PQresultStatus(result) == PGRES_COMMAND_OK;
        if (!ok)
            (void)bench_fail(reader->load->options->name, LS_EXIT_ERROR, "%s", PQerrorMessage(reader->sessions[d]));
        PQclear(result);
        if (!ok) return false;
    }
    return true;
}

static void free_reader(struct reader *reader) {
    for (uint32_t d = 0; d < reader->databases; d++) PQfinish(reader->sessions[d]);
    free(reader->sums);
    free(reader->seen.items);
    free(reader);
}

struct reader *reader_start(struct load *load, uint32_t period_ms) {
    struct reader *reader = calloc(1, sizeof *reader);

    if (reader == NULL) exit(bench_fail(NULL, LS_EXIT_ERROR, "out of memory"));
    reader->load = load;
    reader->databases = load->workload->databases;
    reader->period_ms = period_ms;
    reader->random.state = load->options->seed + 7;
    bool ok = open_sessions(reader);
    if (ok) wait_settled(reader);
    if (ok && remember_sums(reader) && pthread_create(&reader->thread, NULL, run_reader, reader) == 0) return reader;
    free_reader(reader);
    return NULL;
}

static int compare_numbers(const void *a, const void *b) {
    const uint64_t *left = a, *right = b;

    return *left < *right ? -1 : *left > *right;
}

/* Each transaction counts once, however often it was seen. */
static uint64_t count_dirty(const struct load_numbers *seen, const struct load_numbers *undone) {
    uint64_t dirty = 0, last = 0;

    if (seen->count == 0 || undone->count == 0) return 0;
    qsort(seen->items, seen->count, sizeof *seen->items, compare_numbers);
    qsort(undone->items, undone->count, sizeof *undone->items, compare_numbers);
    for (size_t i = 0; i < seen->count; i++) {
        if (seen->items[i] == last) continue;
        last = seen->items[i];
        if (bsearch(&last, undone->items, undone->count, sizeof last, compare_numbers) != NULL) dirty++;
    }
    return dirty;
}

void reader_stop(struct reader *reader, struct reader_result *ret_result) {
    reader->stop = true;
    (void)pthread_join(reader->thread, NULL);
    if (reader->broken)
        (void)bench_fail(reader->load->options->name, LS_EXIT_ERROR,
                         "the reader's session failed: it saw nothing more");
    *ret_result = reader->result;
    ret_result->dirty = count_dirty(&reader->seen, &reader->load->undone);
    free_reader(reader);
}
