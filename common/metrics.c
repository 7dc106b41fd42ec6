/*
 * metrics.c: the registry is a list in order of registration, with series of one name kept together (the text form
 * wants that). Values are atomic: the decision log's writer counts from its own thread. Metrics live as long as the
 * process.
 */
#include "common/metrics.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    uint64_t us;
    const char *text;
} bounds[] = {{500, "0.0005"},  {1000, "0.001"},  {2500, "0.0025"}, {5000, "0.005"},  {10000, "0.01"},
              {25000, "0.025"}, {50000, "0.05"},  {100000, "0.1"},  {250000, "0.25"}, {500000, "0.5"},
              {1000000, "1"},   {2500000, "2.5"}, {5000000, "5"},   {10000000, "10"}, {30000000, "30"}};
#define BOUNDS (sizeof bounds / sizeof *bounds)

struct metric {
    enum metric_type type;
    char *name, *help, *label;
    atomic_uint_least64_t value;               /* counter; bits of a gauge's double; sum of a histogram in us */
    atomic_uint_least64_t buckets[BOUNDS + 1]; /* histogram: not cumulated; the last is +Inf */
    struct metric *next;
};

static struct metric *first;

static char *copy(const char *text) {
    char *made = strdup(text);
    if (!made) abort();
    return made;
}

static bool ends_with(const char *name, const char *tail) {
    size_t n = strlen(name), t = strlen(tail);
    return n > t && strcmp(name + n - t, tail) == 0;
}

static bool name_valid(const char *name) {
    return name[0] >= 'a' && name[0] <= 'z' && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") == strlen(name);
}

struct metric *metric_new(enum metric_type type, const char *name, const char *help, const char *label) {
    assert(name_valid(name));
    assert((type == METRIC_COUNTER) == ends_with(name, "_total"));
    assert(type != METRIC_HISTOGRAM || ends_with(name, "_seconds"));
    struct metric **at = &first, **place = NULL; /* behind the last series of this name, or at the end */
    for (; *at; at = &(*at)->next) {
        if (strcmp((*at)->name, name) != 0) continue;
        assert((*at)->type == type && "one name, one type");
        assert(label && (*at)->label && strcmp((*at)->label, label) != 0 && "one series, one registration");
        place = &(*at)->next;
    }
    if (!place) place = at;
    struct metric *metric = calloc(1, sizeof *metric);
    if (!metric) abort();
    metric->type = type;
    metric->name = copy(name);
    metric->help = copy(help);
    metric->label = label ? copy(label) : NULL;
    metric->next = *place;
    *place = metric;
    return metric;
}

void metric_add(struct metric *metric, uint64_t amount) {
    assert(metric->type == METRIC_COUNTER);
    atomic_fetch_add_explicit(&metric->value, amount, memory_order_relaxed);
}

void metric_set(struct metric *metric, double value) {
    uint64_t bits;
    assert(metric->type == METRIC_GAUGE);
    memcpy(&bits, &value, sizeof bits);
    atomic_store_explicit(&metric->value, bits, memory_order_relaxed);
}

void metric_observe_us(struct metric *metric, uint64_t us) {
    assert(metric->type == METRIC_HISTOGRAM);
    size_t i = 0;
    while (i < BOUNDS && us > bounds[i].us) i++;
    atomic_fetch_add_explicit(&metric->buckets[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&metric->value, us, memory_order_relaxed);
}

static void print_gauge(FILE *out, double value) {
    if (isnan(value)) {
        (void)fputs("NaN", out);
    } else if (isinf(value)) {
        (void)fputs(value > 0 ? "+Inf" : "-Inf", out);
    } else {
        (void)fprintf(out, "%.15g", value);
    }
}

static void print_histogram(FILE *out, const struct metric *metric) {
    const char *label = metric->label ? metric->label : "", *comma = metric->label ? "," : "";
    const char *open = metric->label ? "{" : "", *close = metric->label ? "}" : "";
    uint64_t count = 0, sum = atomic_load_explicit(&metric->value, memory_order_relaxed);
    for (size_t i = 0; i <= BOUNDS; i++) {
        count += atomic_load_explicit(&metric->buckets[i], memory_order_relaxed);
        (void)fprintf(out, "%s_bucket{%s%sle=\"%s\"} %" PRIu64 "\n", metric->name, label, comma,
                      i < BOUNDS ? bounds[i].text : "+Inf", count);
    }
    (void)fprintf(out, "%s_sum%s%s%s %" PRIu64 ".%06" PRIu64 "\n", metric->name, open, label, close, sum / 1000000,
                  sum % 1000000);
    (void)fprintf(out, "%s_count%s%s%s %" PRIu64 "\n", metric->name, open, label, close, count);
}

static void print_help(FILE *out, const char *help) {
    for (; *help; help++) {
        if (*help == '\n' || *help == '\\') {
            (void)fputs(*help == '\n' ? "\\n" : "\\\\", out);
        } else {
            (void)fputc(*help, out);
        }
    }
}

static void print_metric(FILE *out, const struct metric *metric) {
    if (metric->type == METRIC_HISTOGRAM) {
        print_histogram(out, metric);
        return;
    }
    uint64_t bits = atomic_load_explicit(&metric->value, memory_order_relaxed);
    (void)fputs(metric->name, out);
    if (metric->label) (void)fprintf(out, "{%s}", metric->label);
    (void)fputc(' ', out);
    if (metric->type == METRIC_COUNTER) {
        (void)fprintf(out, "%" PRIu64, bits);
    } else {
        double value;
        memcpy(&value, &bits, sizeof value);
        print_gauge(out, value);
    }
    (void)fputc('\n', out);
}

char *metrics_render(size_t *ret_length) {
    static const char *const types[] = {"counter", "gauge", "histogram"};
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    if (!out) abort();
    const char *last = "";
    for (const struct metric *metric = first; metric; metric = metric->next) {
        if (strcmp(metric->name, last) != 0) {
            (void)fprintf(out, "# HELP %s ", metric->name);
            print_help(out, metric->help);
            (void)fprintf(out, "\n# TYPE %s %s\n", metric->name, types[metric->type]);
            last = metric->name;
        }
        print_metric(out, metric);
    }
    if (ferror(out) || fclose(out) != 0) abort(); /* a memory stream fails for lack of memory only */
    *ret_length = length;
    return text;
}
