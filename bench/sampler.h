/*
 * sampler.h: what a run costs, seen from outside: CPU of processes from /proc, forced writes and WAL from the servers'
 * statistics, messages, phases and forced writes from the daemons' /metrics, all as differences between begin and end
 * of what is counted; and locks, looked at again and again. It also shows how far the run is.
 *
 * Lock-hold time: each transaction that has written holds a lock on its own xid until it ends, prepared or not. Their
 * average number divided by the transactions a second is how long one of them holds its rows (Little's law); the same
 * for all subjects, however many branches they have.
 */
#ifndef BENCH_SAMPLER_H
#define BENCH_SAMPLER_H

#include <stdbool.h>
#include <stdint.h>

#include "bench/load.h"

#define SAMPLER_PROCESSES_MAX 24u
#define SAMPLER_AGENTS_MAX 8u

/* What there is to look at. */
struct sampler_options {
    struct {
        const char *name;
        int pid; /* with its children: a server is its postmaster */
    } processes[SAMPLER_PROCESSES_MAX];
    uint32_t process_count;
    const char *agents[SAMPLER_AGENTS_MAX]; /* sockets that answer GET /metrics */
    uint32_t agent_count;
    uint32_t period_ms; /* of looking at locks; 0: never */
    bool quiet;         /* no progress line */
};

/* Differences between two moments, near the begin and the end of what is counted; on a busy machine they come late, so
 * they bring along how many were committed between them. */
struct sampler_result {
    double committed, seconds;
    double cpu_s[SAMPLER_PROCESSES_MAX], load_cpu_s; /* load: this program */
    double wal_syncs, wal_bytes, commits;            /* of all servers */
    double log_syncs, log_bytes;                     /* of the coordinator, or of the yardsticks' log */
    double messages, trips;                          /* frames; round trips to databases */
    double phase_s[3], phase_count[3];               /* prepare, decision log, commit */
    double saga_s, saga_count;
    double locks; /* average of what held rows */
    uint32_t lock_samples;
};

struct sampler;
/* `what` stands in the progress line. Begins when the load begins. NULL: the reason on stderr. */
struct sampler *sampler_start(const struct sampler_options *options, struct load *load, const char *what);
/* Waits for the end of what is counted, or stops now when the load is broken or interrupted. False: nothing was
 * measured. */
bool sampler_stop(struct sampler *sampler, struct sampler_result *ret_result);

#endif
