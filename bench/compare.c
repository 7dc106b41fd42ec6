/*
 * compare.c: `lockstep-bench compare`: the same work through several subjects, in turn, in one call, since machines
 * wobble: round by round and, in a round, point by point and subject by subject. Says medians over the rounds and their
 * ratio to `bare`. `lockstep-bench transfer` is the same without anybody who watches, for the yardsticks' figures.
 */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/result.h"
#include "client/opt.h"
#include "lockstep/status.h"

#define NUMBERS_MAX 16u

struct numbers {
    uint32_t items[NUMBERS_MAX], count;
};

/* As the words of the command line say it. */
struct compare {
    const char *workload, *subjects, *clients, *hot, *participants_text, *json, *csv;
    struct opt_list databases, participants, processes, agents;
    uint32_t rounds, rows, refused, balance, payload, watch_ms;
    bool help, make_tables, profile, quiet;
    struct load_options load;
    struct workload work;
    struct sampler_options sampler;
    char payload_text[WORK_PAYLOAD_MAX + 1];
};

static int interrupted_by;

static void on_signal(int signal) {
    interrupted_by = signal;
    load_interrupted = 1;
}

/* ------------------------------------------------------------------------- choices */

static int usage(const struct compare *compare, const char *what, const char *word) {
    return bench_fail(compare->load.name, LS_EXIT_USAGE, "%s: `%s`", what, word);
}

/* "1,32" */
static int parse_numbers(const struct compare *compare, const char *option, const char *text, uint32_t min,
                         uint32_t max, struct numbers *ret_numbers) {
    char copy[256], *rest = NULL, *end = NULL;

    ret_numbers->count = 0;
    if (strlen(text) >= sizeof copy) return bench_fail(compare->load.name, LS_EXIT_USAGE, "%s: too long", option);
    (void)snprintf(copy, sizeof copy, "%s", text);
    for (const char *word = strtok_r(copy, ",", &rest); word != NULL; word = strtok_r(NULL, ",", &rest)) {
        unsigned long value = strtoul(word, &end, 10);
        if (*word < '0' || *word > '9' || *end != '\0' || value < min || value > max)
            return bench_fail(compare->load.name, LS_EXIT_USAGE, "%s: `%s` is not a number from %u to %u", option, word,
                              min, max);
        if (ret_numbers->count == NUMBERS_MAX)
            return bench_fail(compare->load.name, LS_EXIT_USAGE, "%s: more than %u numbers", option, NUMBERS_MAX);
        ret_numbers->items[ret_numbers->count++] = (uint32_t)value;
    }
    return LS_EXIT_OK;
}

static int parse_subjects(const struct compare *compare, const struct subject **list, uint32_t *ret_count) {
    char copy[256], *rest = NULL;

    *ret_count = 0;
    if (strlen(compare->subjects) >= sizeof copy)
        return bench_fail(compare->load.name, LS_EXIT_USAGE, "--subjects: too long");
    (void)snprintf(copy, sizeof copy, "%s", compare->subjects);
    for (const char *word = strtok_r(copy, ",", &rest); word != NULL; word = strtok_r(NULL, ",", &rest)) {
        const struct subject *subject = subject_find(word);
        if (subject == NULL) return bench_fail(compare->load.name, LS_EXIT_USAGE, "--subjects: `%s` is unknown", word);
        if (*ret_count == NUMBERS_MAX) return bench_fail(compare->load.name, LS_EXIT_USAGE, "--subjects: too many");
        if (subject->coordinator &&
            (compare->load.socket == NULL || compare->participants.count != compare->databases.count))
            return bench_fail(compare->load.name, LS_EXIT_USAGE,
                              "%s needs --socket and one --participant for each --database", subject->name);
        list[(*ret_count)++] = subject;
    }
    return LS_EXIT_OK;
}

/* Subjects stand side by side: what is compared runs one after the other. */
static int make_cells(const struct compare *compare, struct results *results) {
    struct numbers clients, hot, participants;
    const struct subject *list[NUMBERS_MAX];
    uint32_t count = 0, databases = (uint32_t)compare->databases.count;

    int exit_status = parse_subjects(compare, list, &count);
    if (exit_status == LS_EXIT_OK)
        exit_status = parse_numbers(compare, "--clients", compare->clients, 1, LOAD_CLIENTS_MAX, &clients);
    if (exit_status == LS_EXIT_OK) exit_status = parse_numbers(compare, "--hot", compare->hot, 0, 100, &hot);
    if (exit_status == LS_EXIT_OK)
        exit_status = parse_numbers(compare, "--participants", compare->participants_text,
                                    compare->work.kind->databases_min, databases, &participants);
    if (exit_status != LS_EXIT_OK) return exit_status;
    if (participants.count == 0)
        participants = (struct numbers){
            {databases < compare->work.kind->databases_max ? databases : compare->work.kind->databases_max}, 1};
    uint64_t all = (uint64_t)count * clients.count * hot.count * participants.count;
    if (all == 0 || all > CELLS_MAX)
        return bench_fail(compare->load.name, LS_EXIT_USAGE,
                          all == 0 ? "no subject or no number of clients" : "more than %u cells", CELLS_MAX);
    results->cells = calloc(all, sizeof *results->cells);
    if (results->cells == NULL) exit(bench_fail(NULL, LS_EXIT_ERROR, "out of memory"));
    for (uint32_t p = 0; p < participants.count; p++)
        for (uint32_t h = 0; h < hot.count; h++)
            for (uint32_t c = 0; c < clients.count; c++)
                for (uint32_t s = 0; s < count; s++) {
                    struct cell *cell = &results->cells[results->cell_count++];
                    cell->subject = list[s];
                    cell->clients = clients.items[c];
                    cell->hot_percent = hot.items[h];
                    cell->participants = participants.items[p];
                }
    return LS_EXIT_OK;
}

static int parse_workload(struct compare *compare) {
    const struct workload_kind *kind = workload_find(compare->workload);
    const size_t databases = compare->databases.count;

    if (kind == NULL) return usage(compare, "--workload: there is no such one", compare->workload);
    if (databases < kind->databases_min && kind->databases_min == kind->databases_max)
        return bench_fail(compare->load.name, LS_EXIT_USAGE, "--database: %zu given, %s needs %u", databases,
                          kind->name, kind->databases_min);
    if (databases < kind->databases_min || databases > WORK_DATABASES_MAX)
        return bench_fail(compare->load.name, LS_EXIT_USAGE, "--database: %zu given, %s needs %u to %u", databases,
                          kind->name, kind->databases_min, kind->databases_max);
    for (uint32_t i = 0; i < compare->payload; i++) compare->payload_text[i] = (char)('a' + (i * 7 + i / 26) % 26);
    compare->work = (struct workload){.kind = kind,
                                      .rows = compare->rows,
                                      .refused_percent = compare->refused,
                                      .balance = compare->balance,
                                      .payload = compare->payload_text};
    return LS_EXIT_OK;
}

/* "NAME=PID" of programs that are there. */
static int parse_processes(struct compare *compare) {
    if (compare->processes.count > SAMPLER_PROCESSES_MAX || compare->agents.count > SAMPLER_AGENTS_MAX)
        return bench_fail(compare->load.name, LS_EXIT_USAGE, "too many processes or agents to look at");
    for (size_t i = 0; i < compare->processes.count; i++) {
        const char *word = compare->processes.items[i], *equals = strchr(word, '=');
        char *end = NULL, *name = NULL;
        long pid = equals != NULL ? strtol(equals + 1, &end, 10) : 0;
        if (equals == NULL || pid <= 0 || *end != '\0' || kill((pid_t)pid, 0) != 0)
            return usage(compare, "--process: not NAME=PID of a program that runs", word);
        name = strndup(word, (size_t)(equals - word));
        if (name == NULL) exit(bench_fail(NULL, LS_EXIT_ERROR, "out of memory"));
        compare->sampler.processes[i].name = name;
        compare->sampler.processes[i].pid = (int)pid;
    }
    compare->sampler.process_count = (uint32_t)compare->processes.count;
    for (size_t i = 0; i < compare->agents.count; i++) compare->sampler.agents[i] = compare->agents.items[i];
    compare->sampler.agent_count = (uint32_t)compare->agents.count;
    compare->sampler.period_ms = compare->watch_ms;
    compare->sampler.quiet = compare->quiet;
    return LS_EXIT_OK;
}

/* ----------------------------------------------------------------------------- runs */

static int load_once(const struct compare *compare, struct load *load, struct cell *cell, const char *what) {
    struct sampler_result sampled;
    struct reader_result seen = {0};
    struct reader *reader = compare->watch_ms > 0 ? reader_start(load, compare->watch_ms) : NULL;
    struct sampler *sampler = sampler_start(&compare->sampler, load, what);

    int exit_status =
        sampler == NULL || (reader == NULL && compare->watch_ms > 0) ? LS_EXIT_UNREACHABLE : cell->subject->run(load);
    if (reader != NULL) reader_stop(reader, &seen);
    bool measured = sampler != NULL && sampler_stop(sampler, &sampled);
    if (exit_status == LS_EXIT_OK && !load_interrupted)
        result_add(cell, load, &compare->sampler, measured ? &sampled : NULL, &seen);
    return exit_status;
}

static int run_cell(const struct compare *compare, struct cell *cell, uint32_t round) {
    struct workload workload = compare->work;
    workload.databases = cell->participants;
    workload.hot_percent = cell->hot_percent;
    struct load load = {.options = &compare->load,
                        .workload = &workload,
                        .clients = cell->clients,
                        .daemons = cell->subject->coordinator};
    char what[96];

    (void)snprintf(what, sizeof what, "round %" PRIu32 ": %-13s %4" PRIu32 " clients", round + 1, cell->subject->name,
                   cell->clients);
    if (cell->subject->log && (load.log = decision_file_open(compare->load.log_folder)) == NULL) return LS_EXIT_ERROR;
    load_open(&load);
    int exit_status = load_once(compare, &load, cell, what);
    decision_file_close(load.log);
    if (exit_status == LS_EXIT_OK && !load_interrupted && !compare->quiet)
        (void)fprintf(stderr, "%s%s %8.0f tx/s%s\n", isatty(STDERR_FILENO) == 1 ? "\r" : "", what,
                      (double)load.committed / compare->load.seconds,
                      isatty(STDERR_FILENO) == 1 ? "                " : "");
    load_close(&load);
    return exit_status;
}

static int run_all(const struct compare *compare, struct results *results) {
    const struct sigaction action = {.sa_handler = on_signal};
    int exit_status = LS_EXIT_OK;

    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
    for (uint32_t round = 0; round < compare->rounds; round++)
        for (uint32_t i = 0; i < results->cell_count && exit_status == LS_EXIT_OK && !load_interrupted; i++)
            exit_status = run_cell(compare, &results->cells[i], round);
    return exit_status;
}

static bool anything_complete(const struct results *results) {
    for (uint32_t i = 0; i < results->cell_count; i++)
        if (results->cells[i].rounds > 0) return true;
    return false;
}

/* What is complete is told, also of a call that was interrupted, or in which a run failed. */
static int tell(const struct compare *compare, const struct results *results, int of_runs) {
    int exit_status = LS_EXIT_OK;

    if (of_runs != LS_EXIT_OK && !anything_complete(results)) return of_runs;
    result_print_table(results);
    if (compare->profile) result_print_profile(results);
    if (compare->json != NULL) exit_status = result_write_json(results, compare->json);
    if (compare->csv != NULL && exit_status == LS_EXIT_OK) exit_status = result_write_csv(results, compare->csv);
    if (of_runs != LS_EXIT_OK)
        return bench_fail(compare->load.name, of_runs, "a run failed: these are the runs that were complete");
    if (!load_interrupted) return exit_status;
    (void)bench_fail(compare->load.name, LS_EXIT_ERROR, "interrupted: these are the runs that were complete");
    return 128 + interrupted_by;
}

static void print_help(const struct compare *compare, const struct opt *opts, size_t count) {
    (void)printf("usage: lockstep-bench %s OPTIONS\n\nThe same work, committed in several ways. Subjects:\n",
                 compare->load.name);
    for (size_t i = 0; subject_at(i) != NULL; i++)
        (void)printf("  %-13s %s\n", subject_at(i)->name, subject_at(i)->what);
    (void)printf("\nWorkloads:\n");
    for (size_t i = 0; workload_at(i) != NULL; i++)
        (void)printf("  %-13s %s\n", workload_at(i)->name, workload_at(i)->what);
    (void)printf("\n");
    opt_help(stdout, opts, count);
}

static int run(struct compare *compare, int argc, char **argv) {
    struct results results = {.workload = &compare->work,
                              .options = &compare->load,
                              .processes = &compare->sampler,
                              .payload_bytes = compare->payload,
                              .argv = argv,
                              .argc = argc};

    compare->load.databases = compare->databases.items;
    compare->load.participants = compare->participants.items;
    int exit_status = parse_workload(compare);
    if (exit_status == LS_EXIT_OK) exit_status = parse_processes(compare);
    if (exit_status == LS_EXIT_OK) exit_status = make_cells(compare, &results);
    if (exit_status == LS_EXIT_OK && ((compare->json != NULL && !result_may_write(&results, compare->json)) ||
                                      (compare->csv != NULL && !result_may_write(&results, compare->csv))))
        exit_status = LS_EXIT_ERROR;
    for (size_t i = 0; exit_status == LS_EXIT_OK && compare->make_tables && i < compare->databases.count; i++)
        exit_status = work_prepare_tables(compare->load.name, &compare->work, compare->databases.items[i]);
    if (exit_status == LS_EXIT_OK) exit_status = tell(compare, &results, run_all(compare, &results));
    for (uint32_t i = 0; i < compare->sampler.process_count; i++)
        free((char *)(uintptr_t)compare->sampler.processes[i].name);
    free(results.cells);
    return exit_status;
}

static int parse_and_run(struct compare *compare, int argc, char **argv) {
    const struct opt opts[] = {
        {"database", 'd', OPT_LIST, &compare->databases, "CONNINFO", "two to eight, libpq's words", 0, 0},
        {"participant", 'p', OPT_LIST, &compare->participants, "NAME", "of each database, in the same order", 0, 0},
        {"socket", 's', OPT_TEXT, &compare->load.socket, "PATH", "the coordinator's Unix socket", 0, 0},
        {"workload", 'w', OPT_TEXT, &compare->workload, "NAME", "transfer (default), n-way, read-mostly, order-flow", 0,
         0},
        {"subjects", 0, OPT_TEXT, &compare->subjects, "LIST", "see above (bare,2pc)", 0, 0},
        {"clients", 'c', OPT_TEXT, &compare->clients, "LIST", "numbers of clients (1,32)", 0, 0},
        {"hot", 0, OPT_TEXT, &compare->hot, "LIST", "percent of the transactions that meet in one row (0)", 0, 0},
        {"participants", 0, OPT_TEXT, &compare->participants_text, "LIST", "n-way: how many databases (all)", 0, 0},
        {"rounds", 'r', OPT_U32, &compare->rounds, "N", "of all of them (3)", 1, ROUNDS_MAX},
        {"seconds", 't', OPT_U32, &compare->load.seconds, "N", "counted in each run (5)", 1, 86400},
        {"warm-up", 0, OPT_U32, &compare->load.warm_up_ms, "N", "seconds before counting (1)", 0, 600},
        {"rate", 0, OPT_U32, &compare->load.rate, "N", "open loop: so many begin a second; 0: closed loop (0)", 0,
         1000000},
        {"think", 0, OPT_U32, &compare->load.think_ms, "MS", "closed loop: pause of a client (0)", 0, 3600000},
        {"payload", 0, OPT_U32, &compare->payload, "BYTES", "written into each row besides (0)", 0, WORK_PAYLOAD_MAX},
        {"refused", 0, OPT_U32, &compare->refused, "PERCENT", "ask for more than is there (0)", 0, 100},
        {"balance", 0, OPT_U32, &compare->balance, "N", "of each account at first (1000000)", 0, 1000000000},
        {"rows", 0, OPT_U32, &compare->rows, "N", "of each table (10000)", 1, 10000000},
        {"lock-timeout", 0, OPT_MS, &compare->load.lock_timeout_ms, "TIME", "of a branch (5s)", 1, 3600000},
        {"in-order", 0, OPT_FLAG, &compare->load.in_order, NULL,
         "2PC: one database after the other, so that nobody waits in a circle", 0, 0},
        {"finishers", 0, OPT_U32, &compare->load.finishers, "N", "of `limit`, per database (8)", 1, 100},
        {"watch", 0, OPT_U32, &compare->watch_ms, "MS", "a reader, and a look at locks, so often; 0: never", 0, 60000},
        {"process", 0, OPT_LIST, &compare->processes, "NAME=PID", "whose CPU is told, with its children", 0, 0},
        {"agent-metrics", 0, OPT_LIST, &compare->agents, "PATH", "an agent's socket that answers /metrics", 0, 0},
        {"log", 0, OPT_TEXT, &compare->load.log_folder, "FOLDER",
         "of the yardsticks' decision log; put it beside the coordinator's (/tmp)", 0, 0},
        {"seed", 0, OPT_U32, &compare->load.seed, "N", "of the random choices (1)", 0, 0},
        {"prepare", 0, OPT_FLAG, &compare->make_tables, NULL, "make the tables first", 0, 0},
        {"profile", 0, OPT_FLAG, &compare->profile, NULL, "say where the time goes", 0, 0},
        {"json", 0, OPT_TEXT, &compare->json, "FILE", "the results for programs, and for `lockstep-bench report`", 0,
         0},
        {"csv", 0, OPT_TEXT, &compare->csv, "FILE", "the results, a line for each subject and point", 0, 0},
        {"quiet", 'q', OPT_FLAG, &compare->quiet, NULL, "no progress", 0, 0},
        {"help", 'h', OPT_FLAG, &compare->help, NULL, "this text", 0, 0},
    };
    const size_t count = sizeof opts / sizeof opts[0];
    char **words = calloc((size_t)argc + 1, sizeof *words); /* parsing reorders them */
    struct opt_operands operands;
    struct ls_error err;

    if (words == NULL) exit(bench_fail(NULL, LS_EXIT_ERROR, "out of memory"));
    memcpy(words, argv, (size_t)argc * sizeof *words);
    int exit_status = LS_EXIT_OK;
    if (opt_parse(opts, count, argc, argv, false, &operands, &err) != LS_OK) {
        exit_status = bench_fail(compare->load.name, LS_EXIT_USAGE, "%s", err.text);
    } else if (compare->help) {
        print_help(compare, opts, count);
    } else if (operands.count > 0) {
        exit_status = bench_fail(compare->load.name, LS_EXIT_USAGE, "what is `%s`?", operands.items[0]);
    } else {
        compare->load.warm_up_ms *= 1000;
        exit_status = run(compare, argc, words);
    }
    free(words);
    return exit_status;
}

static int run_with(const char *name, uint32_t watch_ms, int argc, char **argv) {
    struct compare *compare = calloc(1, sizeof *compare);

    if (compare == NULL) exit(bench_fail(NULL, LS_EXIT_ERROR, "out of memory"));
    compare->workload = "transfer";
    compare->subjects = "bare,2pc";
    compare->clients = "1,32";
    compare->hot = "0";
    compare->participants_text = "";
    compare->rounds = 3;
    compare->rows = 10000;
    compare->balance = WORK_BALANCE;
    compare->watch_ms = watch_ms;
    compare->load = (struct load_options){.name = name,
                                          .log_folder = "/tmp",
                                          .seconds = 5,
                                          .warm_up_ms = 1,
                                          .finishers = 8,
                                          .seed = 1,
                                          .lock_timeout_ms = 5000};
    int exit_status = parse_and_run(compare, argc, argv);
    free(compare);
    return exit_status;
}

int bench_compare(int argc, char **argv) {
    return run_with("compare", 50, argc, argv);
}

int bench_transfer(int argc, char **argv) {
    return run_with("transfer", 0, argc, argv);
}
