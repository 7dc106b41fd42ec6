/*
 * bench.h: what the subcommands of lockstep-bench share.
 */
#ifndef BENCH_BENCH_H
#define BENCH_BENCH_H

#include <stddef.h>
#include <stdint.h>

/* One line here and one in bench/main.c per subcommand. Each takes argv from its own name on and returns an enum
 * ls_exit. */
int bench_order_flow(int argc, char **argv);
int bench_voter(int argc, char **argv);
int bench_decisions(int argc, char **argv);
int bench_transfer(int argc, char **argv);
int bench_compare(int argc, char **argv);
int bench_report(int argc, char **argv);

/* "lockstep-bench NAME: text" on stderr; returns `exit_status`. */
int bench_fail(const char *name, int exit_status, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Microseconds of the monotonic clock. */
uint64_t bench_now_us(void);

/* splitmix64: the same seed gives the same load. */
struct bench_random {
    uint64_t state;
};
uint64_t bench_random_next(struct bench_random *random);
/* 0 .. bound-1; bound >= 1. */
uint32_t bench_random_below(struct bench_random *random, uint32_t bound);

/* Latencies, all of them, so that percentiles are exact. Stops the program when memory is short. */
struct bench_samples {
    uint32_t *us;
    size_t count, capacity;
};
void bench_samples_add(struct bench_samples *samples, uint64_t us);
/* `part` in 0..1: 0.5 is the median. Sorts. 0 when there are none. */
uint32_t bench_samples_percentile(struct bench_samples *samples, double part);
void bench_samples_free(struct bench_samples *samples);

#endif
