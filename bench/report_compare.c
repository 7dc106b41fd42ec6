/* report_compare.c: what comparisons came to: what you pay, what you get; figures against clients, contention,
 * participants. */
#include <string.h>

#include "bench/report.h"
#include "bench/subject.h"

/* What could be varied; a comparison is drawn against each that was. */
static const struct dimension {
    const char *key, *words;
    bool log;
} dimensions[] = {
    {"clients", "clients", true},
    {"hot_percent", "percent of the transactions that meet in one row", false},
    {"participants", "databases that take part", false},
};
#define DIMENSION_COUNT (sizeof dimensions / sizeof dimensions[0])

static const struct figure {
    const char *key, *words;
    bool log;
} figures[] = {
    {"per_second", "committed transactions a second", true},
    {"p50_ms", "latency, median, ms", true},
    {"p99_ms", "latency, 99 %, ms", true},
    {"lock_hold_ms", "rows held, ms per transaction (all branches)", true},
    {"cpu_us", "CPU of all processes, us per transaction", false},
    {"visible_p50_ms", "all effects visible after, median, ms", true},
};
#define FIGURE_COUNT (sizeof figures / sizeof figures[0])

static const char *subject_name(const json_t *compare, const json_t *cell, char *buffer, size_t size) {
    (void)snprintf(buffer, size, "%s%s", report_text(cell, "subject"),
                   json_is_true(json_object_get(compare, "in_order")) ? ", in order" : "");
    return buffer;
}

static uint32_t color_of(const char *subject) {
    for (uint32_t i = 0; subject_at(i) != NULL; i++)
        if (strcmp(subject_at(i)->name, subject) == 0) return i;
    return 9;
}

static const json_t *cells_of(const json_t *compare) {
    return json_object_get(compare, "cells");
}

/* How many different values, and the most usual choice of one: the middle of those there are. */
static uint32_t values_of(const json_t *compare, const char *key, double *values, uint32_t max) {
    const json_t *cells = cells_of(compare);
    uint32_t count = 0;

    for (size_t i = 0; i < json_array_size(cells); i++) {
        double value = report_number(json_array_get(cells, i), key);
        uint32_t at = 0;
        while (at < count && values[at] < value) at++;
        if (at < count && !(values[at] > value)) continue;
        if (count == max) break;
        memmove(&values[at + 1], &values[at], (count - at) * sizeof *values);
        values[at] = value;
        count++;
    }
    return count;
}

/* ---------------------------------------------------------------------- what you pay */

/* The point at which everybody is compared: some load, no extreme. */
static void usual_point(const json_t *compare, double *point) {
    double values[32];

    for (size_t d = 0; d < DIMENSION_COUNT; d++) {
        uint32_t count = values_of(compare, dimensions[d].key, values, 32);
        point[d] = count == 0 ? 0 : d == 0 ? values[count / 2] : values[0];
    }
}

static bool is_at(const json_t *cell, const double *point) {
    for (size_t d = 0; d < DIMENSION_COUNT; d++) {
        double value = report_number(cell, dimensions[d].key);
        if (value < point[d] || value > point[d]) return false;
    }
    return true;
}

static void pay_row(struct page *page, const json_t *compare, const json_t *cell) {
    const json_t *median = json_object_get(cell, "median"), *reader = json_object_get(cell, "reader");
    double seen = report_number(reader, "seen"),
           all = report_number(cell, "committed") + report_number(cell, "aborted");
    char name[64];

    page_cell(page, "%s", subject_name(compare, cell, name, sizeof name));
    page_cell(page, "%.0f", report_number(median, "per_second"));
    page_cell(page, "%.1f", report_number(median, "p50_ms"));
    page_cell(page, "%.1f", report_number(median, "p99_ms"));
    page_cell(page, "%.1f", report_number(median, "visible_p50_ms"));
    page_cell(page, "%.1f", report_number(median, "lock_hold_ms"));
    page_cell(page, "%.2f + %.2f", report_number(median, "forced_writes_databases"),
              report_number(median, "forced_writes_log"));
    page_cell(page, "%.1f", report_number(median, "messages"));
    page_cell(page, "%.1f", report_number(median, "round_trips"));
    page_cell(page, "%.0f", report_number(median, "cpu_us"));
    page_cell(page, "%.0f + %.0f", report_number(median, "wal_bytes"), report_number(median, "log_bytes"));
    page_cell(page, "%.1f %%", all > 0 ? report_number(cell, "aborted") / all * 100 : 0);
    page_cell(page, "%.0f", report_number(cell, "half"));
    page_cell(page, "%.1f", seen > 0 ? report_number(reader, "torn") / seen * 1000 : 0);
    page_cell(page, "%.0f", report_number(reader, "dirty"));
    page_cell(page, "%.0f", report_number(reader, "negative"));
}

static void pay_table(struct page *page, const json_t *compare) {
    static const char *const heads[] = {"subject",     "tx/s",          "p50 ms",          "p99 ms",
                                        "visible ms",  "rows held ms",  "forced writes",   "messages",
                                        "round trips", "CPU us",        "WAL + log bytes", "aborted",
                                        "half done",   "torn per 1000", "dirty",           "negative"};
    const json_t *cells = cells_of(compare);
    double point[DIMENSION_COUNT];

    usual_point(compare, point);
    page_heading(page, 3, "%s: %g clients, %g databases, %g %% on one row", report_text(compare, "workload"), point[0],
                 point[2], point[1]);
    page_table_begin(page, sizeof heads / sizeof heads[0]);
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) page_cell(page, "%s", heads[i]);
    for (size_t i = 0; i < json_array_size(cells); i++)
        if (is_at(json_array_get(cells, i), point)) pay_row(page, compare, json_array_get(cells, i));
    page_table_end(page);
}

/* ----------------------------------------------------------------------- what you get */

static void get_table(struct page *page) {
    static const char *const rows[][5] = {
        {"", "all or nothing", "after a crash of any process", "while it is under way", "asked of the application"},
        {"none", "no", "halves stay for ever", "others see what is there so far", "nothing"},
        {"bare, limit", "yes, until something crashes", "prepared branches stay, locked, until a human comes",
         "rows stay locked", "a program that never dies"},
        {"2pc", "yes", "settled by itself, committed everywhere or nowhere",
         "rows stay locked until the decision reaches them; a dead coordinator holds them",
         "max_prepared_transactions"},
        {"orchestrated", "in the end", "goes on by itself, forward or back",
         "others see steps that may be undone; no lock is held between steps",
         "an undo for each step that others do not break"},
        {"choreographed", "in the end", "goes on by itself, without a coordinator",
         "the same, and nobody knows the whole but the events' path", "handlers, and events for each refusal"},
    };

    page_heading(page, 3, "What you get");
    page_table_begin(page, 5);
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++)
        for (size_t c = 0; c < 5; c++) page_cell(page, "%s", rows[r][c]);
    page_table_end(page);
}

/* ------------------------------------------------------------------------------ plots */

/* Another comparison of the same kind belongs into the same plot: the same work, in order. */
static bool belongs(const json_t *first, const json_t *other) {
    return strcmp(report_text(first, "workload"), report_text(other, "workload")) == 0 &&
           json_equal(json_object_get(first, "rate"), json_object_get(other, "rate")) &&
           json_equal(json_object_get(first, "payload_bytes"), json_object_get(other, "payload_bytes"));
}

static void add_cells(struct svg_plot *plot, const json_t *compare, const struct dimension *dimension,
                      const struct figure *figure) {
    const json_t *cells = cells_of(compare);
    double point[DIMENSION_COUNT], values[32];
    char name[64];

    if (values_of(compare, dimension->key, values, 32) < 2) return;
    usual_point(compare, point);
    for (size_t i = 0; i < json_array_size(cells); i++) {
        const json_t *cell = json_array_get(cells, i), *median = json_object_get(cell, "median");
        double at[DIMENSION_COUNT];
        memcpy(at, point, sizeof at);
        at[dimension - dimensions] = report_number(cell, dimension->key);
        if (!is_at(cell, at) || json_object_get(median, figure->key) == NULL) continue;
        uint32_t color =
            color_of(report_text(cell, "subject")) + (json_is_true(json_object_get(compare, "in_order")) ? 6 : 0);
        svg_add(svg_series_of(plot, subject_name(compare, cell, name, sizeof name), color),
                report_number(cell, dimension->key), report_number(median, figure->key));
    }
}

static void plots_of(struct page *page, const struct report *report, uint32_t first,
                     const struct dimension *dimension) {
    static struct svg_plot plot;

    page_plots_begin(page);
    for (size_t f = 0; f < FIGURE_COUNT; f++) {
        plot = (struct svg_plot){.title = figures[f].words,
                                 .x_label = dimension->words,
                                 .y_label = "",
                                 .log_x = dimension->log,
                                 .log_y = figures[f].log,
                                 .marks = true};
        for (uint32_t i = first; i < report->compare_count; i++)
            if (belongs(report->compares[first], report->compares[i]))
                add_cells(&plot, report->compares[i], dimension, &figures[f]);
        page_plot(page, &plot);
    }
    page_plots_end(page);
}

static void table_of(struct page *page, const struct report *report, uint32_t first,
                     const struct dimension *dimension) {
    page_table_begin(page, 3 + FIGURE_COUNT);
    page_cell(page, "subject");
    page_cell(page, "%s", dimension->key);
    for (size_t f = 0; f < FIGURE_COUNT; f++) page_cell(page, "%s", figures[f].key);
    page_cell(page, "aborted");
    for (uint32_t c = first; c < report->compare_count; c++) {
        const json_t *compare = report->compares[c], *cells = cells_of(compare);
        double values[32];
        char name[64];
        if (!belongs(report->compares[first], compare) || values_of(compare, dimension->key, values, 32) < 2) continue;
        for (size_t i = 0; i < json_array_size(cells); i++) {
            const json_t *cell = json_array_get(cells, i), *median = json_object_get(cell, "median");
            page_cell(page, "%s", subject_name(compare, cell, name, sizeof name));
            page_cell(page, "%g", report_number(cell, dimension->key));
            for (size_t f = 0; f < FIGURE_COUNT; f++) page_cell(page, "%.4g", report_number(median, figures[f].key));
            page_cell(page, "%.0f", report_number(cell, "aborted"));
        }
    }
    page_table_end(page);
}

static bool varies(const struct report *report, uint32_t first, const struct dimension *dimension) {
    double values[32];

    for (uint32_t i = 0; i < first; i++) /* told with an earlier one */
        if (belongs(report->compares[i], report->compares[first]) &&
            values_of(report->compares[i], dimension->key, values, 32) > 1)
            return false;
    return values_of(report->compares[first], dimension->key, values, 32) > 1;
}

void report_compares(struct page *page, const struct report *report) {
    page_heading(page, 2, "What you pay, what you get");
    page_text(page, "Per committed transaction. Visible: until all effects can be seen everywhere. Rows held: how long "
                    "the rows it has written stay "
                    "locked, all branches added up. Forced writes: of the databases, shared by transactions that "
                    "commit together, plus those of the "
                    "decision log. Messages: between coordinator and agents, or agent and agent. Half done, torn, "
                    "dirty and negative are counts of what "
                    "happened and what a reader saw of it: torn is an account (or order) seen in different states in "
                    "different databases, dirty a "
                    "transaction seen and undone afterwards.");
    for (uint32_t i = 0; i < report->compare_count; i++) {
        bool told = false;
        for (uint32_t j = 0; j < i; j++)
            told = told || strcmp(report_text(report->compares[j], "workload"),
                                  report_text(report->compares[i], "workload")) == 0;
        if (!told) pay_table(page, report->compares[i]);
    }
    get_table(page);
    for (uint32_t i = 0; i < report->compare_count; i++) {
        for (size_t d = 0; d < DIMENSION_COUNT; d++) {
            if (!varies(report, i, &dimensions[d])) continue;
            page_heading(page, 2, "%s against %s%s", report_text(report->compares[i], "workload"), dimensions[d].key,
                         report_number(report->compares[i], "rate") > 0 ? ", open loop" : "");
            plots_of(page, report, i, &dimensions[d]);
            table_of(page, report, i, &dimensions[d]);
        }
    }
}
