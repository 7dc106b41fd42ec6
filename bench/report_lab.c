/* report_lab.c: the laboratory's timelines: what happened, with the moment of the fault. docs/lab.md has their format.
 */
#include <string.h>

#include "bench/report.h"

#define ROWS_MAX 40u /* of a timeline in words */
#define HELD_MAX 5u  /* branches whose rows are told */

static const struct line {
    const char *key, *name;
    uint32_t color;
} speed[] = {{"committed_per_s", "orders a second", 5}, {"bystanders_per_s", "bystanders a second", 0}},
  trouble[] = {{"in_doubt", "branches in doubt", 3},
               {"waiting", "sessions that wait", 7},
               {"half_seen", "orders seen in part", 6}},
  ages[] = {{"oldest_in_doubt_s", "oldest branch in doubt", 3}, {"oldest_wait_s", "longest wait", 7}};

static void add_faults(struct svg_plot *plot, const json_t *timeline) {
    const json_t *faults = json_object_get(timeline, "fault");

    for (size_t i = 0; i < json_array_size(faults) && plot->band_count < SVG_BANDS_MAX; i++) {
        const json_t *fault = json_array_get(faults, i);
        double at = report_number(fault, "at"), until = report_number(fault, "until");
        plot->bands[plot->band_count].from = at;
        plot->bands[plot->band_count].to = until > at ? until : at;
        (void)snprintf(plot->bands[plot->band_count++].label, sizeof plot->bands[0].label, "%.1f s: %s", at,
                       report_text(fault, "what"));
    }
}

static void draw(struct page *page, const json_t *timeline, const char *title, const char *unit,
                 const struct line *lines, size_t count) {
    static struct svg_plot plot;
    const json_t *samples = json_object_get(timeline, "samples");

    plot = (struct svg_plot){.title = title, .x_label = "seconds since the load began", .y_label = unit, .width = 360};
    for (size_t l = 0; l < count; l++) {
        struct svg_series *series = svg_series_of(&plot, lines[l].name, lines[l].color);
        for (size_t i = 0; i < json_array_size(samples); i++) {
            const json_t *sample = json_array_get(samples, i);
            if (json_is_number(json_object_get(sample, lines[l].key)))
                svg_add(series, report_number(sample, "t"), report_number(sample, lines[l].key));
        }
    }
    add_faults(&plot, timeline);
    page_plot(page, &plot);
}

static void write_claims(struct page *page, const json_t *timeline) {
    const json_t *claims = json_object_get(timeline, "claims"), *audit = json_object_get(timeline, "audit");

    if (json_array_size(claims) > 0) {
        page_table_begin(page, 3);
        page_cell(page, "%s", "claim");
        page_cell(page, "%s", "held");
        page_cell(page, "%s", "measured");
        for (size_t i = 0; i < json_array_size(claims); i++) {
            const json_t *claim = json_array_get(claims, i);
            page_cell(page, "%s", report_text(claim, "claim"));
            page_cell(page, "%s", json_is_true(json_object_get(claim, "held")) ? "yes" : "NO");
            page_cell(page, "%s", report_text(claim, "measured"));
        }
        page_table_end(page);
    }
    page_text(page, "Audit afterwards: %s, %zu checks.",
              json_is_true(json_object_get(audit, "good")) ? "clean" : "NOT CLEAN",
              json_array_size(json_object_get(audit, "checks")));
}

static void write_events(struct page *page, const json_t *timeline) {
    const json_t *events = json_object_get(timeline, "events");

    if (json_array_size(events) == 0) return;
    page_table_begin(page, 2);
    page_cell(page, "after s");
    page_cell(page, "what happened");
    for (size_t i = 0; i < json_array_size(events); i++) {
        page_cell(page, "%.1f", report_number(json_array_get(events, i), "t"));
        page_cell(page, "%s", report_text(json_array_get(events, i), "what"));
    }
    page_table_end(page);
}

/* Whose rows were held, where that was looked at. */
static void write_rows(struct page *page, const json_t *timeline) {
    const json_t *rows = json_object_get(timeline, "rows");

    if (json_array_size(rows) == 0) return;
    page_table_begin(page, 4);
    page_cell(page, "in doubt");
    page_cell(page, "at");
    page_cell(page, "rows it holds");
    page_cell(page, "sessions behind it");
    for (size_t i = 0; i < json_array_size(rows) && i < HELD_MAX; i++) {
        const json_t *row = json_array_get(rows, i), *names = json_object_get(row, "rows");
        char text[PAGE_CELL_MAX] = "of other tables";
        int used = 0;
        for (size_t n = 0; n < json_array_size(names) && used >= 0 && (size_t)used < sizeof text; n++)
            used += snprintf(text + used, sizeof text - (size_t)used, "%s%s", n > 0 ? ", " : "",
                             json_string_value(json_array_get(names, n)));
        page_cell(page, "%s", report_text(row, "gtid"));
        page_cell(page, "%s", report_text(row, "participant"));
        page_cell(page, "%s", text);
        page_cell(page, "%.0f", report_number(row, "waiting"));
    }
    page_table_end(page);
    if (json_array_size(rows) > HELD_MAX) page_text(page, "%zu more were in doubt.", json_array_size(rows) - HELD_MAX);
}

/* How long the orders took that the fault met. Timelines of earlier versions do not say. */
static void write_ends(struct page *page, const json_t *timeline) {
    const json_t *ended = json_object_get(timeline, "ended");

    if (!json_is_object(ended)) return;
    page_text(page,
              "Since the fault %.0f orders became complete, the slowest after %.1f s; %.0f ended with nothing left of "
              "them (rolled back, or compensated), the slowest after %.1f s. The longest that a reader saw one "
              "half-way: %.1f s.",
              report_number(ended, "complete"), report_number(ended, "complete_longest_s"),
              report_number(ended, "undone"), report_number(ended, "undone_longest_s"),
              report_number(ended, "half_seen_longest_s"));
}

static void figure(struct page *page, const json_t *sample, const char *key) {
    if (json_is_number(json_object_get(sample, key))) {
        page_cell(page, "%.4g", report_number(sample, key));
    } else {
        page_cell(page, "?");
    }
}

/* For those who read text: the plots in words, every so many samples. */
static void write_samples(struct page *page, const json_t *timeline) {
    static const char *const keys[] = {"t",        "committed_per_s", "in_doubt",         "oldest_in_doubt_s",
                                       "waiting",  "oldest_wait_s",   "bystanders_per_s", "bystander_worst_s",
                                       "xmin_age", "half_seen"};
    const json_t *samples = json_object_get(timeline, "samples");
    size_t step = json_array_size(samples) / ROWS_MAX + 1;

    page_table_begin(page, sizeof keys / sizeof keys[0]);
    for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++) page_cell(page, "%s", keys[k]);
    for (size_t i = 0; i < json_array_size(samples); i += step)
        for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++) figure(page, json_array_get(samples, i), keys[k]);
    page_table_end(page);
}

static void write_timeline(struct page *page, const json_t *timeline) {
    page_heading(page, 3, "%s: the hypothesis %s", report_text(timeline, "mode"),
                 json_is_true(json_object_get(timeline, "held")) ? "held" : "DID NOT HOLD");
    if (report_text(timeline, "hypothesis")[0] != '\0') page_text(page, "%s", report_text(timeline, "hypothesis"));
    page_plots_begin(page);
    draw(page, timeline, "work done", "per second", speed, sizeof speed / sizeof speed[0]);
    draw(page, timeline, "what waits, what is half done", "how many", trouble, sizeof trouble / sizeof trouble[0]);
    draw(page, timeline, "for how long", "seconds", ages, sizeof ages / sizeof ages[0]);
    page_plots_end(page);
    if (!page->html) write_samples(page, timeline);
    write_events(page, timeline);
    write_rows(page, timeline);
    write_ends(page, timeline);
    write_claims(page, timeline);
}

void report_timelines(struct page *page, const struct report *report) {
    bool told[REPORT_FILES_MAX] = {false};

    page_heading(page, 2, "When something dies");
    page_text(page, "Orders over four databases under load, and one fault each (red); bystanders are sessions that "
                    "know nothing of lockstep and want "
                    "the same rows. The same fault was done to each form of the order flow, as far as it has such a "
                    "moment: what was done exactly stands under \"what happened\". How many branches are in doubt "
                    "when somebody dies is chance; how long they stay so is how long it was away, which the laboratory "
                    "chose.");
    for (uint32_t i = 0; i < report->timeline_count; i++) {
        const char *experiment = report_text(report->timelines[i], "experiment");
        if (told[i]) continue;
        page_heading(page, 2, "%s", experiment);
        for (uint32_t j = i; j < report->timeline_count; j++) {
            if (strcmp(report_text(report->timelines[j], "experiment"), experiment) != 0) continue;
            told[j] = true;
            write_timeline(page, report->timelines[j]);
        }
    }
}
