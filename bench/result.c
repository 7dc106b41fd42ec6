/* result.c: see result.h. */
#include "bench/result.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lockstep/status.h"

static const char *const names[MEASURES] = {
    [PER_SECOND] = "per_second",
    [P50_MS] = "p50_ms",
    [P95_MS] = "p95_ms",
    [P99_MS] = "p99_ms",
    [MAX_MS] = "max_ms",
    [VISIBLE_P50_MS] = "visible_p50_ms",
    [VISIBLE_P99_MS] = "visible_p99_ms",
    [LOCK_HOLD_MS] = "lock_hold_ms",
    [WAL_SYNCS] = "forced_writes_databases",
    [LOG_SYNCS] = "forced_writes_log",
    [MESSAGES] = "messages",
    [ROUND_TRIPS] = "round_trips",
    [DB_COMMITS] = "database_commits",
    [WAL_BYTES] = "wal_bytes",
    [LOG_BYTES] = "log_bytes",
    [CPU_US] = "cpu_us",
    [PREPARE_MS] = "prepare_ms",
    [LOGGING_MS] = "logging_ms",
    [COMMIT_MS] = "commit_ms",
    [SAGA_MS] = "saga_ms",
};

const char *measure_name(enum measure measure) {
    return names[measure];
}

/* ------------------------------------------------------------------- one run */

static void add_causes(struct cell *cell, const struct load *load) {
    for (uint32_t i = 0; i < load->cause_count; i++) {
        uint32_t at = 0;
        while (at < cell->cause_count && strcmp(cell->causes[at].text, load->causes[i].text) != 0) at++;
        if (at == LOAD_CAUSES_MAX) at--;
        if (at == cell->cause_count) cell->causes[cell->cause_count++] = (struct load_cause){.count = 0};
        memcpy(cell->causes[at].text, load->causes[i].text, LOAD_CAUSE_TEXT);
        cell->causes[at].count += load->causes[i].count;
    }
}

static double mean_ms(double seconds, double count) {
    return count > 0 ? seconds / count * 1000 : 0;
}

static void add_sampled(struct cell *cell, const struct sampler_options *processes,
                        const struct sampler_result *sampled) {
    const uint32_t round = cell->rounds;
    const double committed = sampled->committed > 0 ? sampled->committed : 1;
    double all_us = cell->cpu_us[processes->process_count][round] = sampled->load_cpu_s * 1e6 / committed;

    for (uint32_t i = 0; i < processes->process_count; i++)
        all_us += cell->cpu_us[i][round] = sampled->cpu_s[i] * 1e6 / committed;
    const double values[MEASURES] = {
        [LOCK_HOLD_MS] = sampled->locks / committed * sampled->seconds * 1000,
        [WAL_SYNCS] = sampled->wal_syncs / committed,
        [LOG_SYNCS] = sampled->log_syncs / committed,
        [MESSAGES] = sampled->messages / committed,
        [ROUND_TRIPS] = sampled->trips / committed,
        [DB_COMMITS] = sampled->commits / committed,
        [WAL_BYTES] = sampled->wal_bytes / committed,
        [LOG_BYTES] = sampled->log_bytes / committed,
        [CPU_US] = all_us,
        [PREPARE_MS] = mean_ms(sampled->phase_s[0], sampled->phase_count[0]),
        [LOGGING_MS] = mean_ms(sampled->phase_s[1], sampled->phase_count[1]),
        [COMMIT_MS] = mean_ms(sampled->phase_s[2], sampled->phase_count[2]),
        [SAGA_MS] = mean_ms(sampled->saga_s, sampled->saga_count),
    };
    for (uint32_t m = LOCK_HOLD_MS; m < MEASURES; m++) cell->values[m][round] = values[m];
    cell->measured = true;
    cell->measured_committed += (uint64_t)sampled->committed;
}

void result_add(struct cell *cell, struct load *load, const struct sampler_options *processes,
                const struct sampler_result *sampled, const struct reader_result *seen) {
    static const struct {
        enum measure measure;
        double part;
        bool visible;
    } percentiles[] = {{P50_MS, 0.5, false}, {P95_MS, 0.95, false},       {P99_MS, 0.99, false},
                       {MAX_MS, 1.0, false}, {VISIBLE_P50_MS, 0.5, true}, {VISIBLE_P99_MS, 0.99, true}};

    cell->values[PER_SECOND][cell->rounds] = (double)load->committed / load->options->seconds;
    for (size_t i = 0; i < sizeof percentiles / sizeof percentiles[0]; i++)
        cell->values[percentiles[i].measure][cell->rounds] =
            bench_samples_percentile(percentiles[i].visible ? &load->visible : &load->latencies, percentiles[i].part) /
            1000.0;
    if (sampled != NULL) add_sampled(cell, processes, sampled);
    cell->committed += load->committed;
    cell->aborted += load->aborted;
    cell->half += load->half;
    cell->unserved += load->unserved;
    add_causes(cell, load);
    cell->seen.seen += seen->seen;
    cell->seen.torn += seen->torn;
    cell->seen.dirty += seen->dirty;
    cell->seen.negative += seen->negative;
    cell->rounds++;
}

/* --------------------------------------------------------------- over the rounds */

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

double result_median(const struct cell *cell, enum measure measure) {
    return median(cell->values[measure], cell->rounds);
}

double result_cpu_us(const struct cell *cell, uint32_t process) {
    return median(cell->cpu_us[process], cell->rounds);
}

/* ------------------------------------------------------------------------- tables */

static bool same_point(const struct cell *a, const struct cell *b) {
    return a->hot_percent == b->hot_percent && a->participants == b->participants;
}

static const struct cell *bare_of(const struct results *results, const struct cell *cell) {
    for (uint32_t i = 0; i < results->cell_count; i++) {
        const struct cell *other = &results->cells[i];
        if (other->clients == cell->clients && same_point(other, cell) && strcmp(other->subject->name, "bare") == 0)
            return other;
    }
    return NULL;
}

/* The ratio is the median of the rounds' ratios: what the machine did to a round it did to both. */
static double ratio(const struct cell *cell, const struct cell *bare, enum measure measure) {
    double ratios[ROUNDS_MAX] = {0};
    uint32_t rounds = cell->rounds < bare->rounds ? cell->rounds : bare->rounds;
    for (uint32_t i = 0; i < rounds; i++)
        ratios[i] = bare->values[measure][i] > 0 ? cell->values[measure][i] / bare->values[measure][i] : 0;
    return median(ratios, rounds);
}

static void print_point(const struct results *results, uint32_t i) {
    const struct cell *cell = &results->cells[i];
    if (i > 0 && same_point(cell, cell - 1)) return;
    if (i == 0 && results->cell_count > 0 && same_point(cell, &results->cells[results->cell_count - 1])) return;
    (void)printf("-- %" PRIu32 " databases, %" PRIu32 " %% on one row\n", cell->participants, cell->hot_percent);
}

static void print_speed(const struct results *results) {
    (void)printf("%-13s %7s %10s %8s %8s %8s %8s %9s %9s   %s\n", "subject", "clients", "tx/s", "p50 ms", "p95 ms",
                 "p99 ms", "max ms", "committed", "aborted", "to bare: tx/s, p50");
    for (uint32_t i = 0; i < results->cell_count; i++) {
        const struct cell *cell = &results->cells[i], *bare = bare_of(results, cell);
        print_point(results, i);
        (void)printf("%-13s %7" PRIu32 " %10.0f %8.2f %8.2f %8.2f %8.2f %9" PRIu64 " %9" PRIu64, cell->subject->name,
                     cell->clients, result_median(cell, PER_SECOND), result_median(cell, P50_MS),
                     result_median(cell, P95_MS), result_median(cell, P99_MS), result_median(cell, MAX_MS),
                     cell->committed, cell->aborted);
        if (bare != NULL) (void)printf("   %.2f  %.2f", ratio(cell, bare, PER_SECOND), ratio(cell, bare, P50_MS));
        if (cell->half > 0) (void)printf("   %" PRIu64 " half done for ever", cell->half);
        if (cell->unserved > 0) (void)printf("   %" PRIu64 " not served", cell->unserved);
        (void)printf("\n");
    }
}

static void print_costs(const struct results *results) {
    (void)printf("\nper committed transaction\n%-13s %7s %9s %9s %9s %8s %7s %7s %8s %8s %8s\n", "subject", "clients",
                 "visible", "locks ms", "CPU us", "messages", "trips", "syncs", "log sync", "WAL B", "log B");
    for (uint32_t i = 0; i < results->cell_count; i++) {
        const struct cell *cell = &results->cells[i];
        if (!cell->measured) continue;
        print_point(results, i);
        (void)printf("%-13s %7" PRIu32 " %9.2f %9.2f %9.0f %8.1f %7.1f %7.2f %8.2f %8.0f %8.0f\n", cell->subject->name,
                     cell->clients, result_median(cell, VISIBLE_P50_MS), result_median(cell, LOCK_HOLD_MS),
                     result_median(cell, CPU_US), result_median(cell, MESSAGES), result_median(cell, ROUND_TRIPS),
                     result_median(cell, WAL_SYNCS), result_median(cell, LOG_SYNCS), result_median(cell, WAL_BYTES),
                     result_median(cell, LOG_BYTES));
    }
}

static void print_seen(const struct results *results) {
    (void)printf("\nwhat a reader saw, and why transactions were aborted\n%-13s %7s %9s %7s %7s %8s   %s\n", "subject",
                 "clients", "seen", "torn", "dirty", "negative", "aborted because");
    for (uint32_t i = 0; i < results->cell_count; i++) {
        const struct cell *cell = &results->cells[i];
        if (cell->seen.seen == 0 && cell->cause_count == 0) continue;
        print_point(results, i);
        (void)printf("%-13s %7" PRIu32 " %9" PRIu64 " %7" PRIu64 " %7" PRIu64 " %8" PRIu64 "  ", cell->subject->name,
                     cell->clients, cell->seen.seen, cell->seen.torn, cell->seen.dirty, cell->seen.negative);
        for (uint32_t c = 0; c < cell->cause_count; c++)
            (void)printf(" %s: %" PRIu64 "%s", cell->causes[c].text, cell->causes[c].count,
                         c + 1 < cell->cause_count ? "," : "");
        (void)printf("\n");
    }
}

void result_print_table(const struct results *results) {
    bool measured = false, seen = false;

    for (uint32_t i = 0; i < results->cell_count; i++) {
        measured = measured || results->cells[i].measured;
        seen = seen || results->cells[i].seen.seen > 0 || results->cells[i].cause_count > 0;
    }
    print_speed(results);
    if (measured) print_costs(results);
    if (seen) print_seen(results);
}

static void print_cpu(const struct results *results, const struct cell *cell) {
    const struct sampler_options *processes = results->processes;
    double all_us = result_median(cell, CPU_US);

    for (uint32_t p = 0; p <= processes->process_count; p++) {
        double us = result_cpu_us(cell, p);
        const char *name = p < processes->process_count ? processes->processes[p].name : "load";
        (void)printf("    %-18s %8.1f us of CPU %5.1f %%\n", name, us, all_us > 0 ? us / all_us * 100 : 0);
    }
}

void result_print_profile(const struct results *results) {
    (void)printf("\nwhere the time goes, per committed transaction\n");
    for (uint32_t i = 0; i < results->cell_count; i++) {
        const struct cell *cell = &results->cells[i];
        if (!cell->measured) continue;
        print_point(results, i);
        (void)printf("%s, %" PRIu32 " clients: answered after %.2f ms (median)\n", cell->subject->name, cell->clients,
                     result_median(cell, P50_MS));
        double prepare = result_median(cell, PREPARE_MS), logging = result_median(cell, LOGGING_MS);
        double commit = result_median(cell, COMMIT_MS), saga = result_median(cell, SAGA_MS);
        if (prepare + logging + commit > 0)
            (void)printf("    until the last vote %.2f ms, decision durable %.2f ms, applied everywhere %.2f ms\n",
                         prepare, logging, commit);
        if (saga > 0) (void)printf("    from begin to end of a saga %.2f ms\n", saga);
        print_cpu(results, cell);
    }
}
