/* report.c: see report.h. */
#include "bench/report.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/bench.h"
#include "client/opt.h"
#include "lockstep/status.h"

#define NAME "report"
#define COMMAND_MAX 4096u

const char *report_text(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    return text != NULL ? text : "";
}

double report_number(const json_t *object, const char *key) {
    return json_number_value(json_object_get(object, key));
}

static int read_file(struct report *report, const char *path) {
    json_error_t error;
    json_t *object = json_load_file(path, 0, &error);

    if (object == NULL) return bench_fail(NAME, LS_EXIT_ERROR, "%s:%d: %s", path, error.line, error.text);
    if (report->compare_count == REPORT_FILES_MAX || report->timeline_count == REPORT_FILES_MAX) {
        json_decref(object);
        return bench_fail(NAME, LS_EXIT_USAGE, "more than %u files", REPORT_FILES_MAX);
    }
    if (strcmp(report_text(object, "format"), "lockstep-bench compare 1") == 0) {
        report->compares[report->compare_count++] = object;
    } else if (json_is_string(json_object_get(object, "experiment")) &&
               json_is_array(json_object_get(object, "samples"))) {
        report->timelines[report->timeline_count++] = object;
    } else {
        json_decref(object);
        return bench_fail(NAME, LS_EXIT_ERROR, "%s: neither results of compare nor a timeline of the laboratory", path);
    }
    return LS_EXIT_OK;
}

/* ------------------------------------------------------------------------- the page */

/* The words of a call that can be typed again; what names servers and sockets was left out when it was noted. */
static void write_command(struct page *page, const json_t *object, const char *program) {
    const json_t *words = json_object_get(object, "command");
    char line[COMMAND_MAX];
    int used = snprintf(line, sizeof line, "%s", program);

    for (size_t w = 0; w < json_array_size(words) && used >= 0 && (size_t)used < sizeof line; w++) {
        const char *word = json_string_value(json_array_get(words, w));
        if (word != NULL) used += snprintf(line + used, sizeof line - (size_t)used, " %s", word);
    }
    page_code(page, line);
}

static void write_origin(struct page *page, const struct report *report) {
    page_heading(page, 2, "Where the figures come from");
    if (report->compare_count > 0) {
        const json_t *first = report->compares[0], *machine = json_object_get(first, "machine");
        page_text(page, "%s, %g cores, %.1f GiB of memory, Linux %s, PostgreSQL %s, lockstep %s; begun %s.",
                  report_text(machine, "processor"), report_number(machine, "cores"),
                  strtod(report_text(machine, "memory"), NULL) / 1048576, report_text(machine, "kernel"),
                  report_text(first, "postgresql"), report_text(first, "version"), report_text(first, "date"));
        page_text(
            page,
            "Servers, coordinator, agents and the load share these cores and one file system; fsync is on, every TCP "
            "hop "
            "is mutual TLS, coordinator and agents are processes of their own. Subjects ran in turn, in as many rounds "
            "as --rounds says; figures are medians over them. Ratios travel to other machines, single times do not.");
    }
    page_text(page, "Commands (servers and sockets left out; all of them: make report):");
    for (uint32_t i = 0; i < report->compare_count; i++) write_command(page, report->compares[i], "lockstep-bench");
    for (uint32_t i = 0; i < report->timeline_count; i++) write_command(page, report->timelines[i], "lockstep lab run");
}

static void write_page(const struct report *report, FILE *out, bool html) {
    struct page page;

    page_begin(&page, out, html, "Two-phase commit and the saga, in figures");
    page_text(&page, "The same work, committed in several ways on the same servers: independent commits (none), "
                     "two-phase commit by hand as "
                     "the yardsticks (bare, limit), lockstep's two-phase commit answered when applied everywhere (2pc) "
                     "or when decided "
                     "(2pc-decided), and the saga, driven by the coordinator (orchestrated) or by events "
                     "(choreographed). Then what happens "
                     "when something dies.");
    if (report->compare_count > 0) report_compares(&page, report);
    if (report->timeline_count > 0) report_timelines(&page, report);
    write_origin(&page, report);
    page_end(&page);
}

/* Under another name first: a file that is there is complete. */
static int write_file(const struct report *report, const char *path, bool html) {
    char unfinished[4096];

    (void)snprintf(unfinished, sizeof unfinished, "%s.part", path);
    FILE *out = fopen(unfinished, "we");
    if (out == NULL) return bench_fail(NAME, LS_EXIT_ERROR, "%s: %s", unfinished, strerror(errno));
    write_page(report, out, html);
    bool ok = ferror(out) == 0;
    if (fclose(out) == 0 && ok && rename(unfinished, path) == 0) return LS_EXIT_OK;
    int error = errno;
    (void)unlink(unfinished);
    return bench_fail(NAME, LS_EXIT_ERROR, "%s: %s", path, strerror(error));
}

int bench_report(int argc, char **argv) {
    const char *html = NULL, *text = NULL;
    bool help = false;
    const struct opt opts[] = {
        {"html", 'o', OPT_TEXT, &html, "FILE", "the page, self-contained", 0, 0},
        {"text", 't', OPT_TEXT, &text, "FILE", "the same as text (- or nothing given: on standard output)", 0, 0},
        {"help", 'h', OPT_FLAG, &help, NULL, "this text", 0, 0},
    };
    const size_t count = sizeof opts / sizeof opts[0];
    static struct report report;
    struct opt_operands operands;
    struct ls_error err;

    if (opt_parse(opts, count, argc, argv, false, &operands, &err) != LS_OK)
        return bench_fail(NAME, LS_EXIT_USAGE, "%s", err.text);
    if (help) {
        (void)printf("usage: lockstep-bench report [--html FILE] [--text FILE] RESULT.json...\n\nOne page of what "
                     "`lockstep-bench compare "
                     "--json` and `lockstep lab run --out` have written.\n\n");
        opt_help(stdout, opts, count);
        return LS_EXIT_OK;
    }
    if (operands.count == 0) return bench_fail(NAME, LS_EXIT_USAGE, "no results given");
    int exit_status = LS_EXIT_OK;
    for (size_t i = 0; i < operands.count && exit_status == LS_EXIT_OK; i++)
        exit_status = read_file(&report, operands.items[i]);
    if (exit_status == LS_EXIT_OK && html != NULL) exit_status = write_file(&report, html, true);
    if (exit_status == LS_EXIT_OK && text != NULL && strcmp(text, "-") != 0)
        exit_status = write_file(&report, text, false);
    if (exit_status == LS_EXIT_OK && ((html == NULL && text == NULL) || (text != NULL && strcmp(text, "-") == 0)))
        write_page(&report, stdout, false);
    for (uint32_t i = 0; i < report.compare_count; i++) json_decref(report.compares[i]);
    for (uint32_t i = 0; i < report.timeline_count; i++) json_decref(report.timelines[i]);
    return exit_status;
}
