/* result_file.c: results as JSON and CSV; see result.h. docs/report.md has the format. */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "bench/result.h"
#include "lockstep/status.h"

/* jansson returns NULL only without memory. */
static json_t *made(json_t *value) {
    if (value == NULL) exit(bench_fail(NULL, LS_EXIT_ERROR, "out of memory"));
    return value;
}

static void set(json_t *object, const char *key, json_t *value) {
    if (json_object_set_new(object, key, made(value)) != 0) exit(bench_fail(NULL, LS_EXIT_ERROR, "out of memory"));
}

static json_t *number(double value) {
    return made(json_real(value));
}

static json_t *count(uint64_t value) {
    return made(json_integer((json_int_t)value));
}

/* ---------------------------------------------------------------------- where from */

/* The value of the first line "key : value" of a file of /proc. */
static void read_line(const char *path, const char *key, char *ret_value, size_t size) {
    char line[512];
    FILE *file = fopen(path, "re");

    (void)snprintf(ret_value, size, "unknown");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, key, strlen(key)) != 0 || strchr(line, ':') == NULL) continue;
        const char *value = strchr(line, ':') + 1;
        value += strspn(value, " \t");
        (void)snprintf(ret_value, size, "%.*s", (int)strcspn(value, "\n"), value);
        break;
    }
    if (file != NULL) (void)fclose(file);
}

static json_t *machine(void) {
    char processor[128], memory[64];
    struct utsname system = {0};
    json_t *object = made(json_object());

    read_line("/proc/cpuinfo", "model name", processor, sizeof processor);
    read_line("/proc/meminfo", "MemTotal", memory, sizeof memory);
    (void)uname(&system);
    set(object, "processor", json_string(processor));
    set(object, "cores", json_integer(sysconf(_SC_NPROCESSORS_ONLN)));
    set(object, "memory", json_string(memory));
    set(object, "kernel", json_string(system.release));
    return object;
}

static json_t *server_version(const struct results *results) {
    PGconn *session = work_connect(results->options->name, results->options->databases[0]);
    const char *version = session != NULL ? PQparameterStatus(session, "server_version") : NULL;
    json_t *value = made(json_string(version != NULL ? version : "unknown"));

    PQfinish(session);
    return value;
}

/* Without what says only where the servers of this run were. */
static bool says_where(const char *word) {
    static const char *const options[] = {"--database", "--participant", "--agent-metrics", "--process",
                                          "--socket",   "--log",         "--json",          "--csv"};

    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++)
        if (strcmp(word, options[i]) == 0) return true;
    return false;
}

static json_t *command(const struct results *results) {
    json_t *words = made(json_array());

    for (int i = 0; i < results->argc; i++) {
        if (says_where(results->argv[i])) {
            i++;
        } else {
            (void)json_array_append_new(words, made(json_string(results->argv[i])));
        }
    }
    return words;
}

static json_t *date(void) {
    char text[32];
    struct tm parts;
    time_t now = time(NULL);

    (void)strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S UTC", gmtime_r(&now, &parts));
    return made(json_string(text));
}

/* ----------------------------------------------------------------------------- cells */

static json_t *measures(const struct cell *cell) {
    json_t *object = made(json_object());

    for (uint32_t m = 0; m < MEASURES; m++)
        if (m < LOCK_HOLD_MS || cell->measured) set(object, measure_name(m), number(result_median(cell, m)));
    return object;
}

static json_t *rounds_of(const struct cell *cell, enum measure measure) {
    json_t *list = made(json_array());

    for (uint32_t i = 0; i < cell->rounds; i++) (void)json_array_append_new(list, number(cell->values[measure][i]));
    return list;
}

static json_t *cpu(const struct results *results, const struct cell *cell) {
    const struct sampler_options *processes = results->processes;
    json_t *object = made(json_object());

    for (uint32_t p = 0; cell->measured && p <= processes->process_count; p++)
        set(object, p < processes->process_count ? processes->processes[p].name : "load",
            number(result_cpu_us(cell, p)));
    return object;
}

static json_t *cell_object(const struct results *results, const struct cell *cell) {
    json_t *object = made(json_object()), *causes = made(json_object()), *seen = made(json_object());
    json_t *rounds = made(json_object());

    for (uint32_t i = 0; i < cell->cause_count; i++) set(causes, cell->causes[i].text, count(cell->causes[i].count));
    set(seen, "seen", count(cell->seen.seen));
    set(seen, "torn", count(cell->seen.torn));
    set(seen, "dirty", count(cell->seen.dirty));
    set(seen, "negative", count(cell->seen.negative));
    set(rounds, measure_name(PER_SECOND), rounds_of(cell, PER_SECOND));
    set(rounds, measure_name(P50_MS), rounds_of(cell, P50_MS));
    set(object, "subject", json_string(cell->subject->name));
    set(object, "clients", count(cell->clients));
    set(object, "hot_percent", count(cell->hot_percent));
    set(object, "participants", count(cell->participants));
    set(object, "committed", count(cell->committed));
    set(object, "measured_committed", count(cell->measured_committed));
    set(object, "aborted", count(cell->aborted));
    set(object, "half", count(cell->half));
    set(object, "unserved", count(cell->unserved));
    set(object, "aborted_because", causes);
    set(object, "reader", seen);
    set(object, "median", measures(cell));
    set(object, "cpu_us_of", cpu(results, cell));
    set(object, "rounds", rounds);
    return object;
}

static json_t *whole(const struct results *results) {
    json_t *object = made(json_object()), *cells = made(json_array());

    set(object, "format", json_string("lockstep-bench compare 1"));
    set(object, "date", date());
    set(object, "version", json_string(LOCKSTEP_VERSION));
    set(object, "command", command(results));
    set(object, "machine", machine());
    set(object, "postgresql", server_version(results));
    set(object, "workload", json_string(results->workload->kind->name));
    set(object, "seconds", count(results->options->seconds));
    set(object, "rows", count(results->workload->rows));
    set(object, "payload_bytes", count(results->payload_bytes));
    set(object, "think_ms", count(results->options->think_ms));
    set(object, "rate", count(results->options->rate));
    set(object, "lock_timeout_ms", count(results->options->lock_timeout_ms));
    set(object, "in_order", json_boolean(results->options->in_order));
    set(object, "refused_percent", count(results->workload->refused_percent));
    for (uint32_t i = 0; i < results->cell_count; i++)
        if (results->cells[i].rounds > 0) (void)json_array_append_new(cells, cell_object(results, &results->cells[i]));
    set(object, "cells", cells);
    return object;
}

/* ------------------------------------------------------------------------------ files */

/* Under another name first: a file that is there is complete. */
static int finish_file(const struct results *results, FILE *file, const char *unfinished, const char *path, bool ok) {
    ok = file != NULL && fclose(file) == 0 && ok && rename(unfinished, path) == 0;
    if (ok) return LS_EXIT_OK;
    int error = errno;
    (void)unlink(unfinished);
    return bench_fail(results->options->name, LS_EXIT_ERROR, "%s: %s", path, strerror(error));
}

int result_write_json(const struct results *results, const char *path) {
    char unfinished[4096];
    json_t *object = whole(results);

    (void)snprintf(unfinished, sizeof unfinished, "%s.part", path);
    FILE *file = fopen(unfinished, "we");
    bool ok = file != NULL && json_dumpf(object, file, JSON_INDENT(1) | JSON_REAL_PRECISION(6)) == 0 &&
              fputc('\n', file) != EOF;
    json_decref(object);
    return finish_file(results, file, unfinished, path, ok);
}

bool result_may_write(const struct results *results, const char *path) {
    char unfinished[4096];
    struct stat place;

    (void)snprintf(unfinished, sizeof unfinished, "%s.part", path);
    FILE *file = fopen(unfinished, "we");
    bool ok = file != NULL;
    if (ok) (void)fclose(file), (void)unlink(unfinished);
    if (ok && stat(path, &place) == 0 && S_ISDIR(place.st_mode)) {
        errno = EISDIR;
        ok = false;
    }
    if (!ok) (void)bench_fail(results->options->name, LS_EXIT_ERROR, "%s: %s", path, strerror(errno));
    return ok;
}

/* Names and figures in one field: "40P01: 3; 55P03: 1" */
static void write_named(FILE *file, bool first, const char *name, double value) {
    (void)fputs(first ? "" : "; ", file);
    for (const char *c = name; *c != '\0'; c++) (void)fputs(*c == '"' ? "\"\"" : (char[]){*c, '\0'}, file);
    (void)fprintf(file, ": %.6g", value);
}

static void write_causes_and_cpu(FILE *file, const struct results *results, const struct cell *cell) {
    const struct sampler_options *processes = results->processes;

    (void)fputs(",\"", file);
    for (uint32_t i = 0; i < cell->cause_count; i++)
        write_named(file, i == 0, cell->causes[i].text, (double)cell->causes[i].count);
    (void)fputs("\",\"", file);
    for (uint32_t p = 0; cell->measured && p <= processes->process_count; p++)
        write_named(file, p == 0, p < processes->process_count ? processes->processes[p].name : "load",
                    result_cpu_us(cell, p));
    (void)fputs("\"\n", file);
}

int result_write_csv(const struct results *results, const char *path) {
    char unfinished[4096];

    (void)snprintf(unfinished, sizeof unfinished, "%s.part", path);
    FILE *file = fopen(unfinished, "we");
    bool ok = file != NULL;
    if (ok) {
        (void)fprintf(file,
                      "workload,subject,clients,hot_percent,participants,rounds,committed,aborted,half,unserved,seen,"
                      "torn,dirty,negative");
        for (uint32_t m = 0; m < MEASURES; m++) (void)fprintf(file, ",%s", measure_name(m));
        (void)fputs(",aborted_because,cpu_us_of\n", file);
    }
    for (uint32_t i = 0; ok && i < results->cell_count; i++) {
        const struct cell *cell = &results->cells[i];
        (void)fprintf(file,
                      "%s,%s,%" PRIu32 ",%" PRIu32 ",%" PRIu32 ",%" PRIu32 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64
                      ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64,
                      results->workload->kind->name, cell->subject->name, cell->clients, cell->hot_percent,
                      cell->participants, cell->rounds, cell->committed, cell->aborted, cell->half, cell->unserved,
                      cell->seen.seen, cell->seen.torn, cell->seen.dirty, cell->seen.negative);
        for (uint32_t m = 0; m < MEASURES; m++) /* empty: not measured */
            (void)(m < LOCK_HOLD_MS || cell->measured ? fprintf(file, ",%.4g", result_median(cell, m))
                                                      : fputc(',', file));
        write_causes_and_cpu(file, results, cell);
    }
    return finish_file(results, file, unfinished, path, ok && ferror(file) == 0);
}
