/*
 * top_view.c: see top_view.h.
 */
#include "client/top_view.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DOUBT_LISTED 8

/* ---- the exposition */

/* The sum of all samples of one name whose labels contain `label` ("" for all). NaN: there is none. */
static double value_of(const char *text, const char *name, const char *label) {
    size_t length = strlen(name);
    double sum = 0;
    bool found = false;

    for (const char *line = text; line != NULL && *line != '\0';) {
        const char *end = strchr(line, '\n'), *labels = line + length;
        if (strncmp(line, name, length) == 0 && (*labels == ' ' || *labels == '{')) {
            const char *close = *labels == '{' ? strchr(labels, '}') : labels - 1;
            const char *at = label[0] != '\0' ? strstr(labels, label) : labels;
            if (close != NULL && at != NULL && at <= close + 1 && (label[0] == '\0' || at < close)) {
                sum += strtod(close + 1, NULL);
                found = true;
            }
        }
        line = end != NULL ? end + 1 : NULL;
    }
    return found ? sum : NAN;
}

/* What was counted since the frame before; over all time in the first one. */
static double grown(const struct top_frame *now, const struct top_frame *before, const char *name, const char *label) {
    double value = value_of(now->metrics, name, label);
    double old = before != NULL ? value_of(before->metrics, name, label) : 0;

    if (isnan(value)) return 0;
    return isnan(old) || old > value ? value : value - old; /* less than before: it was started again */
}

/* The upper bound in which the part of the observations since the frame before lies, in ms; NaN: none, or above all
 * bounds. */
static double quantile_ms(const struct top_frame *now, const struct top_frame *before, const char *name, double part) {
    char bucket[128], count[128];

    (void)snprintf(bucket, sizeof bucket, "%s_bucket", name);
    (void)snprintf(count, sizeof count, "%s_count", name);
    double wanted = part * grown(now, before, count, "");
    if (wanted <= 0) return NAN;
    size_t length = strlen(bucket);
    for (const char *line = now->metrics; line != NULL && *line != '\0';) {
        const char *end = strchr(line, '\n'),
                   *bound = strncmp(line, bucket, length) == 0 ? strstr(line, "le=\"") : NULL;
        if (bound != NULL && (end == NULL || bound < end)) {
            char label[64];
            (void)snprintf(label, sizeof label, "le=\"%.*s\"", (int)strcspn(bound + 4, "\""), bound + 4);
            if (grown(now, before, bucket, label) >= wanted) {
                double ms = strtod(bound + 4, NULL) * 1000;
                return isinf(ms) ? NAN : ms;
            }
        }
        line = end != NULL ? end + 1 : NULL;
    }
    return NAN;
}

/* ---- the page */

static void line(FILE *out, const struct top_page *page, const char *fmt, ...) LS_PRINTF(3, 4);

/* One line, cut to the width in characters, control characters made harmless: what a database says must not drive the
 * terminal. */
static void line(FILE *out, const struct top_page *page, const char *fmt, ...) {
    char text[1024];
    va_list args;
    unsigned columns = 0;

    if (*page->lines_left == 0) return;
    (*page->lines_left)--;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (page->screen)
        (void)fputs("\x1b[K", out); /* before the text: behind a full line it would take its last character */
    for (const char *c = text; *c != '\0'; c++) {
        bool continues = ((unsigned char)*c & 0xC0) == 0x80;
        if (!continues && columns++ == page->columns) break;
        (void)fputc((unsigned char)*c < ' ' || *c == 0x7f ? '?' : *c, out);
    }
    (void)fputc('\n', out);
}

static void print_phase(FILE *out, const struct top_page *page, const struct top_frame *now,
                        const struct top_frame *before, const char *what, const char *name) {
    char sum[128], count[128];

    (void)snprintf(sum, sizeof sum, "%s_sum", name);
    (void)snprintf(count, sizeof count, "%s_count", name);
    double n = grown(now, before, count, ""), mean = n > 0 ? grown(now, before, sum, "") / n * 1000 : NAN;
    double half = quantile_ms(now, before, name, 0.5), most = quantile_ms(now, before, name, 0.99);
    if (n <= 0)
        line(out, page, "  %-14s %10s", what, "-");
    else
        line(out, page, "  %-14s %10.1f %10.1f %10.1f", what, mean, half, most);
}

static json_int_t number(const json_t *object, const char *name) {
    return json_integer_value(json_object_get(object, name));
}

static void print_doubt(FILE *out, const struct top_page *page, const json_t *transactions) {
    const json_t *entry;
    size_t index, shown = 0;

    line(out, page, "In doubt or not applied everywhere: %zu%s", json_array_size(transactions),
         json_array_size(transactions) > DOUBT_LISTED ? ", the oldest:" : "");
    json_array_foreach(transactions, index, entry) {
        char names[256] = "";
        size_t used = 0, at;
        const json_t *name, *blocked = json_object_get(entry, "blocked");
        if (shown++ == DOUBT_LISTED) return;
        json_array_foreach(json_object_get(entry, "outstanding"), at, name) {
            if (used < sizeof names)
                used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", at > 0 ? ", " : "",
                                         json_string_value(name));
        }
        line(out, page, "  %-40s %-10s %7.1f s   blocked sessions: %-6s %s",
             json_string_value(json_object_get(entry, "gtid")), json_string_value(json_object_get(entry, "phase")),
             (double)number(entry, "age_ms") / 1000, json_is_string(blocked) ? json_string_value(blocked) : "-", names);
    }
}

static void print_participants(FILE *out, const struct top_page *page, const json_t *participants) {
    const json_t *entry;
    size_t index;

    line(out, page, "  %-24s %-10s %13s %10s", "PARTICIPANT", "STATE", "OPEN BRANCHES", "CREDITS");
    json_array_foreach(participants, index, entry) {
        line(out, page, "  %-24s %-10s %13lld %10lld", json_string_value(json_object_get(entry, "name")),
             json_string_value(json_object_get(entry, "state")), (long long)number(entry, "open_branches"),
             (long long)number(entry, "credits"));
    }
}

static double known(double value) {
    return isnan(value) ? 0 : value;
}

void top_render(FILE *out, const struct top_page *page, const struct top_frame *now, const struct top_frame *before) {
    const char *m = now->metrics;
    double seconds = before != NULL ? now->at - before->at : value_of(m, "lockstepd_uptime_seconds", "");
    const char *since = before != NULL ? "" : " (since the start)";

    if (now->error[0] != '\0') {
        line(out, page, "lockstep top   %s", now->error);
        return;
    }
    if (isnan(seconds) || seconds <= 0) seconds = 1;
    line(out, page, "lockstep top   up %.0f s   agents linked %.0f of %zu   http connections %.0f",
         known(value_of(m, "lockstepd_uptime_seconds", "")), known(value_of(m, "lockstepd_agents_linked", "")),
         json_array_size(now->participants), known(value_of(m, "lockstepd_http_connections", "")));
    line(out, page, "%s", "");
    line(out, page, "Transactions   in flight %.0f   in doubt %.0f   waiting for a branch %.0f   hazards %.0f",
         known(value_of(m, "lockstepd_transactions_in_flight", "")),
         known(value_of(m, "lockstepd_transactions_in_doubt", "")),
         known(value_of(m, "lockstepd_transactions_waiting", "")),
         known(value_of(m, "lockstepd_transactions_total", "outcome=\"hazard\"")));
    line(out, page, "per second%s   committed %.1f   aborted %.1f   refused %.1f", since,
         grown(now, before, "lockstepd_transactions_total", "outcome=\"committed\"") / seconds,
         grown(now, before, "lockstepd_transactions_total", "outcome=\"aborted\"") / seconds,
         grown(now, before, "lockstepd_transactions_refused_total", "") / seconds);
    line(out, page, "  %-14s %10s %10s %10s", "ms", "mean", "50 % <=", "99 % <=");
    print_phase(out, page, now, before, "prepare", "lockstepd_prepare_seconds");
    print_phase(out, page, now, before, "decision log", "lockstepd_decision_log_seconds");
    print_phase(out, page, now, before, "commit", "lockstepd_commit_seconds");
    print_phase(out, page, now, before, "whole", "lockstepd_transaction_seconds");
    line(out, page, "%s", "");
    line(out, page,
         "Sagas   open %.0f (running %.0f, compensating %.0f)   dead letters %.0f   oldest %.0f s   ended per second "
         "%.1f",
         known(value_of(m, "lockstepd_sagas_open", "")),
         known(value_of(m, "lockstepd_sagas_open", "state=\"running\"")),
         known(value_of(m, "lockstepd_sagas_open", "state=\"compensating\"")),
         known(value_of(m, "lockstepd_sagas_open", "state=\"stuck\"")),
         known(value_of(m, "lockstepd_saga_oldest_seconds", "")),
         grown(now, before, "lockstepd_sagas_total", "") / seconds);
    line(out, page, "%s", "");
    print_participants(out, page, now->participants);
    line(out, page, "%s", "");
    print_doubt(out, page, now->transactions);
}
