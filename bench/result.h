/*
 * result.h: what runs came to: cells (a subject at a point) with the figures of each round, as a table, CSV and JSON.
 * Figures of a cell are medians over its rounds.
 */
#ifndef BENCH_RESULT_H
#define BENCH_RESULT_H

#include <stdbool.h>
#include <stdint.h>

#include "bench/load.h"
#include "bench/reader.h"
#include "bench/sampler.h"
#include "bench/subject.h"

#define ROUNDS_MAX 99u
#define CELLS_MAX 512u

enum measure {
    PER_SECOND,
    P50_MS,
    P95_MS,
    P99_MS,
    MAX_MS,
    VISIBLE_P50_MS,
    VISIBLE_P99_MS,
    LOCK_HOLD_MS,
    WAL_SYNCS,
    LOG_SYNCS,
    MESSAGES,
    ROUND_TRIPS,
    DB_COMMITS,
    WAL_BYTES,
    LOG_BYTES,
    CPU_US, /* each per committed one */
    PREPARE_MS,
    LOGGING_MS,
    COMMIT_MS,
    SAGA_MS, /* the coordinator's phases */
    MEASURES
};
/* As in CSV and JSON. */
const char *measure_name(enum measure measure);

struct cell {
    const struct subject *subject;
    uint32_t clients, hot_percent, participants, rounds;
    double values[MEASURES][ROUNDS_MAX];
    double cpu_us[SAMPLER_PROCESSES_MAX + 1][ROUNDS_MAX]; /* per committed transaction; the last is this program */
    bool measured;                                        /* the sampler was there */
    uint64_t measured_committed;                          /* between the sampler's two moments, all rounds */
    uint64_t committed, aborted, half, unserved;
    struct reader_result seen;
    struct load_cause causes[LOAD_CAUSES_MAX];
    uint32_t cause_count;
};

/* Everything that the output says about where the figures come from. */
struct results {
    const struct workload *workload;
    const struct load_options *options;
    const struct sampler_options *processes;
    uint32_t payload_bytes;
    char *const *argv;
    int argc;
    struct cell *cells;
    uint32_t cell_count;
};

void result_add(struct cell *cell, struct load *load, const struct sampler_options *processes,
                const struct sampler_result *sampled, const struct reader_result *seen);
double result_median(const struct cell *cell, enum measure measure);
double result_cpu_us(const struct cell *cell, uint32_t process);

void result_print_table(const struct results *results);
void result_print_profile(const struct results *results);
/* Can a file be written there? Said before a long run, not after it. */
bool result_may_write(const struct results *results, const char *path);
/* Enum ls_exit; the file is complete or not there. */
int result_write_json(const struct results *results, const char *path);
int result_write_csv(const struct results *results, const char *path);

#endif
