/* report_compare.c: what comparisons came to: what you pay, what you get; figures against clients, contention,
 * participants. */
#include <math.h>
#include <stdlib.h>
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
    const char *key, *words, *unit;
    bool log;
} figures[] = {
    {"per_second", "throughput", "committed transactions per second", true},
    {"p50_ms", "latency, median", "ms", true},
    {"p99_ms", "latency, 99 %", "ms", true},
    {"lock_hold_ms", "rows held, all branches added up", "ms per transaction", true},
    {"cpu_us", "CPU of all processes", "us per transaction", true},
    {"visible_p50_ms", "until all effects are visible, median", "ms", true},
};
#define FIGURE_COUNT (sizeof figures / sizeof figures[0])
#define ROUNDS_MAX 64u

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

/* Enough digits to compare by, no more; "-" where nothing was committed and there is nothing to say. */
static void cell_figure(struct page *page, const json_t *cell, const char *key) {
    double value = report_number(json_object_get(cell, "median"), key);

    if (strcmp(key, "per_second") != 0 && report_number(cell, "committed") < 1) {
        page_cell(page, "-");
    } else {
        page_cell(page, "%.*f", value >= 100 ? 0 : value >= 10 ? 1 : 2, value);
    }
}

static int by_size(const void *a, const void *b) {
    const double *left = a, *right = b;

    return (*left > *right) - (*left < *right);
}

/* The subject's cell at the same point. */
static const json_t *beside(const json_t *compare, const json_t *cell, const char *subject) {
    const json_t *cells = cells_of(compare);
    double point[DIMENSION_COUNT];

    for (size_t d = 0; d < DIMENSION_COUNT; d++) point[d] = report_number(cell, dimensions[d].key);
    for (size_t i = 0; i < json_array_size(cells); i++) {
        const json_t *other = json_array_get(cells, i);
        if (strcmp(report_text(other, "subject"), subject) == 0 && is_at(other, point)) return other;
    }
    return NULL;
}

/* What a cell came to in units of another: of each round, where both ran shortly after one another, the median. NAN: it
 * cannot be told. */
static double ratio_of(const json_t *cell, const json_t *other, const char *key) {
    const json_t *mine = json_object_get(json_object_get(cell, "rounds"), key),
                 *theirs = json_object_get(json_object_get(other, "rounds"), key);
    double ratios[ROUNDS_MAX];
    size_t count = 0;

    for (size_t i = 0; i < json_array_size(mine) && i < json_array_size(theirs) && count < ROUNDS_MAX; i++) {
        double above = json_number_value(json_array_get(mine, i)), below = json_number_value(json_array_get(theirs, i));
        if (above > 0 && below > 0) ratios[count++] = above / below;
    }
    if (count == 0) return NAN;
    qsort(ratios, count, sizeof *ratios, by_size);
    return (ratios[(count - 1) / 2] + ratios[count / 2]) / 2;
}

static void cell_ratio(struct page *page, const json_t *cell, const json_t *other, const char *key) {
    double ratio = other != NULL ? ratio_of(cell, other, key) : NAN;

    if (isnan(ratio)) {
        page_cell(page, "-");
    } else {
        page_cell(page, "%.2f", ratio);
    }
}

static void pay_row(struct page *page, const json_t *compare, const json_t *cell) {
    const json_t *median = json_object_get(cell, "median"), *reader = json_object_get(cell, "reader");
    double seen = report_number(reader, "seen"),
           all = report_number(cell, "committed") + report_number(cell, "aborted");
    char name[64];

    page_cell(page, "%s", subject_name(compare, cell, name, sizeof name));
    cell_figure(page, cell, "per_second");
    cell_ratio(page, cell, beside(compare, cell, "bare"), "per_second");
    cell_figure(page, cell, "p50_ms");
    cell_ratio(page, cell, beside(compare, cell, "bare"), "p50_ms");
    cell_figure(page, cell, "p99_ms");
    cell_figure(page, cell, "visible_p50_ms");
    cell_figure(page, cell, "lock_hold_ms");
    page_cell(page, "%.2f + %.2f", report_number(median, "forced_writes_databases"),
              report_number(median, "forced_writes_log"));
    page_cell(page, "%.1f", report_number(median, "messages"));
    page_cell(page, "%.1f", report_number(median, "round_trips"));
    cell_figure(page, cell, "cpu_us");
    page_cell(page, "%.0f + %.0f", report_number(median, "wal_bytes"), report_number(median, "log_bytes"));
    page_cell(page, "%.1f %%", all > 0 ? report_number(cell, "aborted") / all * 100 : 0);
    page_cell(page, "%.0f", report_number(cell, "half"));
    page_cell(page, "%.1f", seen > 0 ? report_number(reader, "torn") / seen * 1000 : 0);
    page_cell(page, "%.0f", report_number(reader, "dirty"));
    page_cell(page, "%.0f", report_number(reader, "negative"));
    page_cell(page, "%.0f", report_number(cell, "unserved"));
}

/* What tells a comparison from others of the same work. */
static void write_kind(const json_t *compare, char *text, size_t size) {
    char rate[64] = "", refused[64] = "";

    if (report_number(compare, "rate") > 0)
        (void)snprintf(rate, sizeof rate, ", open loop, %g begin a second", report_number(compare, "rate"));
    if (report_number(compare, "refused_percent") > 0)
        (void)snprintf(refused, sizeof refused, ", %g %% ask for what is not there",
                       report_number(compare, "refused_percent"));
    (void)snprintf(text, size, "%s%s", rate, refused);
}

static bool same_kind(const json_t *compare, const json_t *other) {
    return strcmp(report_text(compare, "workload"), report_text(other, "workload")) == 0 &&
           json_equal(json_object_get(compare, "rate"), json_object_get(other, "rate")) &&
           json_equal(json_object_get(compare, "refused_percent"), json_object_get(other, "refused_percent"));
}

static void pay_table(struct page *page, const json_t *compare) {
    static const char *const heads[] = {"subject",       "tx/s",       "of bare's",       "p50 ms",        "of bare's",
                                        "p99 ms",        "visible ms", "rows held ms",    "forced writes", "messages",
                                        "round trips",   "CPU us",     "WAL + log bytes", "aborted",       "half done",
                                        "torn per 1000", "dirty",      "negative",        "unserved"};
    char kind[160];
    const json_t *cells = cells_of(compare);
    double point[DIMENSION_COUNT];

    usual_point(compare, point);
    write_kind(compare, kind, sizeof kind);
    page_heading(page, 3, "%s: %g clients, %g databases, %g %% on one row%s", report_text(compare, "workload"),
                 point[0], point[2], point[1], kind);
    page_table_begin(page, sizeof heads / sizeof heads[0]);
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) page_cell(page, "%s", heads[i]);
    for (size_t i = 0; i < json_array_size(cells); i++)
        if (is_at(json_array_get(cells, i), point)) pay_row(page, compare, json_array_get(cells, i));
    page_table_end(page);
}

/* ----------------------------------------------------------------------- what you get */

static void get_table(struct page *page) {
    static const char *const rows[][6] = {
        {"", "all or nothing", "after a crash of any process", "while it is under way", "when a human is needed",
         "asked of the application"},
        {"none", "no", "halves stay for ever", "others see what is there so far", "after each half, if it is found",
         "nothing"},
        {"bare, limit", "yes, until something crashes", "prepared branches stay, locked, until a human comes",
         "rows stay locked; a reader may see one commit before the other", "after each crash",
         "a program that never dies"},
        {"2pc", "yes", "settled by itself, committed everywhere or nowhere",
         "rows stay locked until they hear the decision, also with a dead coordinator; a reader may see half",
         "where a server or the decision log lost what it had flushed, or somebody else ended a branch",
         "max_prepared_transactions, a coordinator, an agent beside each database"},
        {"orchestrated", "in the end", "goes on by itself, forward or back; stands still without its coordinator",
         "others see steps that may be undone; no lock is held between steps",
         "where an undo or a step behind the pivot fails for good: a dead letter",
         "an undo for each step that others do not break; coordinator and agents"},
        {"choreographed", "in the end", "goes on by itself, without a coordinator",
         "others see steps that may be undone; no lock is held between steps; only its events show the whole",
         "where a handler fails for good, or nobody takes an event: a dead letter",
         "handlers, and events for each refusal; agents"},
    };

    page_heading(page, 3, "What you get");
    if (!page->html) { /* sentences have no place in columns of a text */
        for (size_t r = 1; r < sizeof rows / sizeof rows[0]; r++)
            page_text(page,
                      "%s. All or nothing: %s. After a crash of any process: %s. While it is under way: %s. When a "
                      "human is needed: %s. Asked of the application: %s.",
                      rows[r][0], rows[r][1], rows[r][2], rows[r][3], rows[r][4], rows[r][5]);
        return;
    }
    page_table_begin(page, 6);
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++)
        for (size_t c = 0; c < 6; c++) page_cell(page, "%s", rows[r][c]);
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
        if (report_number(cell, "committed") < 1) continue; /* of no transaction there is no latency */
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
                                 .y_label = figures[f].unit,
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
    page_table_begin(page, 5 + FIGURE_COUNT);
    page_cell(page, "subject");
    page_cell(page, "%s", dimension->key);
    page_cell(page, "tx/s of bare's");
    page_cell(page, "p50 of bare's");
    for (size_t f = 0; f < FIGURE_COUNT; f++) page_cell(page, "%s", figures[f].key);
    page_cell(page, "aborted");
    for (uint32_t c = first; c < report->compare_count; c++) {
        const json_t *compare = report->compares[c], *cells = cells_of(compare);
        double values[32];
        char name[64];
        if (!belongs(report->compares[first], compare) || values_of(compare, dimension->key, values, 32) < 2) continue;
        for (size_t i = 0; i < json_array_size(cells); i++) {
            const json_t *cell = json_array_get(cells, i), *bare = beside(compare, cell, "bare");
            page_cell(page, "%s", subject_name(compare, cell, name, sizeof name));
            page_cell(page, "%g", report_number(cell, dimension->key));
            cell_ratio(page, cell, bare, "per_second");
            cell_ratio(page, cell, bare, "p50_ms");
            for (size_t f = 0; f < FIGURE_COUNT; f++) cell_figure(page, cell, figures[f].key);
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

/* What a critic or a defender of either side would otherwise have to ask. */
static void write_how_to_quote(struct page *page, const struct report *report) {
    size_t rounds = ROUNDS_MAX;
    double seconds = 1e9;

    for (uint32_t i = 0; i < report->compare_count; i++) {
        const json_t *compare = report->compares[i];
        if (report_number(compare, "seconds") < seconds) seconds = report_number(compare, "seconds");
        for (size_t c = 0; c < json_array_size(cells_of(compare)); c++) {
            const json_t *cell = json_array_get(cells_of(compare), c);
            size_t count = json_array_size(json_object_get(json_object_get(cell, "rounds"), "per_second"));
            if (count < rounds) rounds = count;
        }
    }
    page_text(page,
              "Each figure comes of %zu or more rounds of %g s or more.%s The price of two-phase commit itself is bare "
              "against none; what 2pc costs beyond bare is the price of surviving a crash without a human: processes "
              "of their own, TLS between them, proofs and fences. bare and limit have nothing of that.",
              rounds, seconds,
              rounds < 3 ? " So few show that it works, and the order of things; not what to quote." : "");
    page_text(page, "Everything here is on one machine: a round trip costs next to nothing. Between machines two-phase "
                    "commit waits for two in a row, however many databases take part; a saga for one for each step or "
                    "event. Branches of two-phase commit run side by side, a saga's steps one after the other. Side by "
                    "side two transactions can each hold what the other waits for, in two databases that do not know "
                    "of each other, until lock_timeout ends it: that is what a hot row shows, more than what the "
                    "protocol costs. In order, each branch is sent when the one before is prepared, and nobody waits "
                    "in a circle. A saga holds a row for its own step only: it is ahead where many want one row, and "
                    "what it gives for that stands under dirty and negative.");
    page_text(page, "The client of a choreographed flow learns its end by looking every 5 ms, and each of its events "
                    "waits for a relay. In the order flow this form alone publishes to a fifth database.");
}

void report_compares(struct page *page, const struct report *report) {
    page_heading(page, 2, "What you pay, what you get");
    page_text(page, "Figures are medians over the rounds, per committed transaction; what refused ones cost is in it. "
                    "\"Of bare's\" is the ratio to two-phase commit by hand in the same round, where both ran within a "
                    "minute, and of these ratios the median. Visible: until all effects can be seen everywhere. Rows "
                    "held: how long the rows it has written stay locked, all branches added up. Forced writes: of the "
                    "databases, shared by transactions that commit together, plus those of the decision log. "
                    "Messages: between coordinator and agents, or agent and agent.");
    write_how_to_quote(page, report);
    page_text(page, "Counts of what happened, and of what a reader saw who asked all databases at once: half done, "
                    "parts of it are there for ever (nothing died here: only a refusal does that, and only to none); "
                    "torn, an account or order seen in different states in different databases; dirty, a transaction "
                    "seen and undone afterwards; negative, a balance below 0; unserved, due in the open loop and never "
                    "begun.");
    for (uint32_t i = 0; i < report->compare_count; i++) {
        bool told = false;
        for (uint32_t j = 0; j < i; j++) told = told || same_kind(report->compares[j], report->compares[i]);
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
