/*
 * stats.h: the counters of lockstepd, in Prometheus' form at GET /metrics. Tests count forced writes and messages with
 * them.
 */
#ifndef LOCKSTEP_STATS_H
#define LOCKSTEP_STATS_H

#include <stddef.h>
#include <stdint.h>

#include "common/metrics.h"
#include "coordinator/alert.h"
#include "coordinator/core/engine.h"
#include "coordinator/dlog/dlog.h"
#include "coordinator/saga_host.h"
#include "lockstep.pb-c.h"

enum stats_phase {
    STATS_PREPARE, /* from acceptance to the last vote */
    STATS_LOG,     /* from the last vote to the durable decision */
    STATS_COMMIT,  /* from the durable decision until every branch is proved committed */
    STATS_TOTAL,   /* from acceptance to the outcome */
    STATS_PHASE_COUNT
};

enum stats_direction { STATS_SENT, STATS_RECEIVED };

/* Registers everything; once per process. */
void stats_setup(void);
void stats_phase(enum stats_phase phase, uint64_t us);
void stats_message(enum stats_direction direction, Lockstep__Frame__BodyCase kind);
void stats_http(int code);
void stats_mark(void);
/* A saga has ended, so long after it began. */
void stats_saga(uint64_t us);
/* An attempt at a step was answered, so long after it was sent. */
void stats_saga_step(uint64_t us);
/* Brings counters and gauges that others keep up to date and renders. Heap, caller frees. */
char *stats_render(const struct engine *engine, const struct dlog *log, unsigned agents, unsigned connections,
                   unsigned long long uptime_ms, const struct saga_host_stats *sagas, const struct alert_stats *alerts,
                   size_t *ret_length);

#endif
