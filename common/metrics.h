/*
 * metrics.h: counters, gauges and histograms in Prometheus' text form. Registered once at start; no gtid as a label.
 */
#ifndef LOCKSTEP_METRICS_H
#define LOCKSTEP_METRICS_H

#include <stddef.h>
#include <stdint.h>

struct metric;
enum metric_type { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };

/* `label` is NULL or a fixed pair such as participant="orders"; the same name may be registered with several labels.
 * Counters end in _total; times are histograms in _seconds (fixed buckets 0.0005 .. 30). Never fails (aborts without
 * memory). */
struct metric *metric_new(enum metric_type type, const char *name, const char *help, const char *label);
void metric_add(struct metric *metric, uint64_t amount);
void metric_set(struct metric *metric, double value);
void metric_observe_us(struct metric *metric, uint64_t us);
/* The whole exposition; heap, caller frees. */
char *metrics_render(size_t *ret_length);

#endif
