/*
 * bench.c: see bench.h.
 */
#include "bench/bench.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int bench_fail(const char *name, int exit_status, const char *format, ...) {
    va_list args;

    va_start(args, format);
    (void)fprintf(stderr, "lockstep-bench%s%s: ", name != NULL ? " " : "", name != NULL ? name : "");
    (void)vfprintf(stderr, format, args);
    (void)fputc('\n', stderr);
    va_end(args);
    return exit_status;
}

uint64_t bench_now_us(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

uint64_t bench_random_next(struct bench_random *random) {
    uint64_t z = random->state += 0x9E3779B97F4A7C15u;

    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

uint32_t bench_random_below(struct bench_random *random, uint32_t bound) {
    return (uint32_t)(((bench_random_next(random) >> 32) * bound) >> 32);
}

void bench_samples_add(struct bench_samples *samples, uint64_t us) {
    if (samples->count == samples->capacity) {
        samples->capacity = samples->capacity > 0 ? samples->capacity * 2 : 4096;
        samples->us = realloc(samples->us, samples->capacity * sizeof *samples->us);
        if (samples->us == NULL) exit(bench_fail(NULL, EXIT_FAILURE, "out of memory"));
    }
    samples->us[samples->count++] = us > UINT32_MAX ? UINT32_MAX : (uint32_t)us;
}

static int compare_u32(const void *a, const void *b) {
    const uint32_t *left = a, *right = b;

    return *left < *right ? -1 : *left > *right;
}

uint32_t bench_samples_percentile(struct bench_samples *samples, double part) {
    if (samples->count == 0) return 0;
    qsort(samples->us, samples->count, sizeof *samples->us, compare_u32);
    size_t index = (size_t)(part * (double)samples->count);
    return samples->us[index < samples->count ? index : samples->count - 1];
}

void bench_samples_free(struct bench_samples *samples) {
    free(samples->us);
    *samples = (struct bench_samples){0};
}
