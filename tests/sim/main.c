/*
 * main.c: lockstep-sim: runs seeds, one after the other, and says what to type to see a failure again.
 *
 *   lockstep-sim [--seeds N] [--seed K] [--set NAME=VALUE]... [--verbose] [--no-shorten] [--keep-going] [--options]
 *
 * A seed that fails is shortened: faults are switched off and counts made smaller as long as it still fails in the same
 * way. Exit status: 0 all passed, 2 usage, 10 the code under test crashed (an assert), 11 a promise was broken, 12
 * something never ended. docs/simulator.md explains the trace.
 */
#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "lockstep/status.h"
#include "tests/sim/check.h"
#include "tests/sim/world.h"

#define SETTINGS_MAX 128u
#define SEED_CPU_SECONDS 60 /* most take some milliseconds: an endless loop is a finding, too */

struct setting {
    char name[32];
    uint64_t value;
};

struct arguments {
    uint64_t seeds, seed;
    bool verbose, no_shorten, keep_going, list_options;
    struct setting settings[SETTINGS_MAX];
    size_t setting_count;
};

/* The world that is being run, for the handler of crashes. */
static struct world *running;

/* An assert of the code under test has failed, or worse. What it was doing is lost; the world's books and trace are
 * not. */
static void on_crash(int signal_number) {
    if (running == NULL) _exit(128 + signal_number);
    running->result = signal_number == SIGVTALRM ? SIM_STUCK : SIM_CRASH;
    snprintf(running->why, sizeof running->why, "%s",
             signal_number == SIGABRT     ? "an assertion failed (see above)"
             : signal_number == SIGVTALRM ? "does not come back from one step"
                                          : "a bad pointer");
    longjmp(running->escape, 1);
}

static void catch_crashes(void) {
    struct sigaction action = {.sa_handler = on_crash, .sa_flags = SA_NODEFER};
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGABRT, &action, NULL) != 0 || sigaction(SIGSEGV, &action, NULL) != 0 ||
        sigaction(SIGVTALRM, &action, NULL) != 0) {
        perror("sigaction");
        exit(LS_EXIT_ERROR);
    }
}

static void draw(const struct arguments *args, uint64_t seed, struct sim_options *options) {
    sim_options_draw(options, seed);
    for (size_t i = 0; i < args->setting_count; i++) {
        (void)sim_option_set(options, args->settings[i].name, args->settings[i].value);
    }
}

static const char *result_name(enum sim_result result) {
    switch (result) {
    case SIM_PASSED:
        return "passed";
    case SIM_CRASH:
        return "CRASH";
    case SIM_WRONG:
        return "WRONG";
    case SIM_STUCK:
        return "STUCK";
    }
    return "?";
}

static void print_command(const struct arguments *args, uint64_t seed) {
    printf("again: lockstep-sim --seed %" PRIu64, seed);
    for (size_t i = 0; i < args->setting_count; i++) {
        printf(" --set %s=%" PRIu64, args->settings[i].name, args->settings[i].value);
    }
    printf(" --verbose\n");
}

static enum sim_result run_seed(struct world *world, uint64_t seed, const struct sim_options *options, bool verbose) {
    const struct itimerval limit = {.it_value = {.tv_sec = SEED_CPU_SECONDS}}, none = {{0}, {0}};
    running = world;
    (void)setitimer(ITIMER_VIRTUAL, &limit, NULL);
    enum sim_result result = world_run(world, seed, options, verbose);
    (void)setitimer(ITIMER_VIRTUAL, &none, NULL);
    running = NULL;
    return result;
}

/* In a process of its own: a bug that has overwritten memory must not disturb the next try. */
static enum sim_result run_apart(struct world *world, uint64_t seed, const struct sim_options *options) {
    (void)fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        if (freopen("/dev/null", "w", stderr) == NULL) _exit(SIM_CRASH);
        _exit((int)run_seed(world, seed, options, false));
    }
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child) {
        return SIM_PASSED;
    }
    return WIFEXITED(status) ? (enum sim_result)WEXITSTATUS(status) : SIM_CRASH;
}

/* What a smaller world would have here; the same value: nothing to be tried. */
static uint64_t smaller_value(const char *name, uint64_t had) {
    static const char *const faults[] = {"reset_ms",   "silence_ms", "partition_ms", "failover_ms",
                                         "outside_ms", "clone_ms",   "stranger_ms",  "pause_ms",
                                         "drain_ms",   "twin_ms",    "lost_ms"};
    if (strcmp(name, "participants") == 0) {
        return had > 2 ? had - 1 : had;
    }
    if (strcmp(name, "clients") == 0 || strcmp(name, "transactions") == 0) {
        return had > 1 ? had - 1 : had;
    }
    if (strcmp(name, "chaos_ms") == 0) {
        return had > 200 ? had * 3 / 4 : had;
    }
    bool fault = strstr(name, "_pm") != NULL || strstr(name, "crash_ms") != NULL;
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        fault = fault || strcmp(name, faults[i]) == 0;
    }
    return fault ? 0 : had;
}

static void keep_setting(struct arguments *args, const char *name, uint64_t value) {
    size_t at = 0;
    while (at < args->setting_count && strcmp(args->settings[at].name, name) != 0) {
        at++;
    }
    snprintf(args->settings[at].name, sizeof args->settings[at].name, "%s", name);
    args->settings[at].value = value;
    args->setting_count += at == args->setting_count ? 1 : 0;
}

static void shorten(struct world *world, struct arguments *args, uint64_t seed, enum sim_result wanted) {
    bool smaller = true;
    for (int round = 0; round < 8 && smaller; round++) {
        smaller = false;
        struct sim_options base;
        draw(args, seed, &base);
        uint64_t *slot;
        const char *what, *name;
        for (size_t i = 0; (name = sim_option_at(&base, i, &slot, &what)) != NULL; i++) {
            uint64_t had = *slot, next = smaller_value(name, had);
            if (next == had || args->setting_count == SETTINGS_MAX) {
                continue;
            }
            *slot = next;
            if (run_apart(world, seed, &base) == wanted) {
                keep_setting(args, name, next);
                smaller = true;
            } else {
                *slot = had;
            }
        }
    }
    struct sim_options options;
    draw(args, seed, &options);
    (void)run_seed(world, seed, &options, false);
}

static void report(struct world *world, struct arguments *args, uint64_t seed) {
    printf("\nseed %" PRIu64 ": %s: %s\n", seed, result_name(world->result), world->why);
    size_t asked = args->setting_count;
    if (!args->no_shorten && !args->verbose) {
        print_command(args, seed);
        shorten(world, args, seed, world->result);
        printf("shortened: %s: %s\n", result_name(world->result), world->why);
    }
    sim_options_print(stdout, &world->options);
    if (!args->verbose) {
        world_print_tail(world, stdout);
    }
    printf("seed %" PRIu64 ": %s: %s\n", seed, result_name(world->result), world->why);
    print_command(args, seed);
    args->setting_count = asked;
    fflush(stdout);
}

static void print_coverage(void) {
    const struct {
        const char *name;
        uint64_t value;
    } rows[] = {
#define X(name) {#name, sim_coverage.name},
        SIM_COVERAGE(X)
#undef X
    };
    size_t count = sizeof rows / sizeof rows[0];
    for (size_t i = 0; i < count; i++) {
        printf("%s%s %" PRIu64, i % 8 == 0 ? "  " : ", ", rows[i].name, rows[i].value);
        if (i % 8 == 7 || i + 1 == count) {
            printf("\n");
        }
    }
}

static bool parse_number(const char *text, uint64_t *ret_value) {
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno != 0 || *text == '\0' || *text == '-' || *end != '\0') {
        return false;
    }
    *ret_value = value;
    return true;
}

static bool parse_setting(struct arguments *args, const char *text) {
    const char *equals = strchr(text, '=');
    if (equals == NULL || args->setting_count == SETTINGS_MAX ||
        (size_t)(equals - text) >= sizeof args->settings[0].name) {
        return false;
    }
    struct setting *setting = &args->settings[args->setting_count];
    memcpy(setting->name, text, (size_t)(equals - text));
    setting->name[equals - text] = '\0';
    struct sim_options scratch;
    if (!parse_number(equals + 1, &setting->value) || !sim_option_set(&scratch, setting->name, 0)) {
        return false;
    }
    args->setting_count++;
    return true;
}

static bool parse(struct arguments *args, int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--verbose") == 0) {
            args->verbose = true;
        } else if (strcmp(argv[i], "--no-shorten") == 0) {
            args->no_shorten = true;
        } else if (strcmp(argv[i], "--keep-going") == 0) {
            args->keep_going = true;
        } else if (strcmp(argv[i], "--options") == 0) {
            args->list_options = true;
        } else if (value != NULL && strcmp(argv[i], "--seeds") == 0 && parse_number(value, &args->seeds)) {
            i++;
        } else if (value != NULL && strcmp(argv[i], "--seed") == 0 && parse_number(value, &args->seed)) {
            i++;
        } else if (value != NULL && strcmp(argv[i], "--set") == 0 && parse_setting(args, value)) {
            i++;
        } else {
            fprintf(stderr, "lockstep-sim: what is \"%s\"?\n", argv[i]);
            return false;
        }
    }
    return true;
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
    static struct arguments args = {.seeds = 1, .seed = 1};
    static struct world world;
    if (!parse(&args, argc, argv)) {
        fprintf(stderr, "usage: lockstep-sim [--seeds N] [--seed K] [--set NAME=VALUE]... [--verbose] [--no-shorten] "
                        "[--keep-going] [--options]\n");
        return LS_EXIT_USAGE;
    }
    /* Memory stays ours between seeds: the kernel's clean pages cost more than everything else. */
    (void)mallopt(M_MMAP_THRESHOLD, 900 << 10); /* but for what is large and hardly touched */
    (void)mallopt(M_TRIM_THRESHOLD, 512 << 20);
    (void)mallopt(M_TOP_PAD, 16 << 20);
    catch_crashes();
    struct sim_options options;
    if (args.list_options) {
        draw(&args, args.seed, &options);
        sim_options_print(stdout, &options);
        return LS_EXIT_OK;
    }
    uint64_t passed = 0, failed = 0, steps = 0, all_traces = 0;
    enum sim_result worst = SIM_PASSED;
    double began = seconds();
    clock_t worked = clock();
    for (uint64_t seed = args.seed; seed < args.seed + args.seeds; seed++) {
        draw(&args, seed, &options);
        enum sim_result result = run_seed(&world, seed, &options, args.verbose);
        steps += world.steps;
        all_traces = all_traces * 31 + world.trace_hash;
        if (result == SIM_PASSED) {
            passed++;
            if (args.seeds == 1) {
                printf("seed %" PRIu64 ": passed, trace %016" PRIx64 ", %" PRIu64 " lines, %" PRIu64 " steps\n", seed,
                       world.trace_hash, world.trace_lines, world.steps);
            }
            continue;
        }
        failed++;
        worst = result;
        report(&world, &args, seed);
        if (!args.keep_going) {
            break;
        }
    }
    double took = seconds() - began;
    print_coverage();
    double cpu = (double)(clock() - worked) / CLOCKS_PER_SEC;
    printf("%.0f seeds/s (%.0f per second of CPU), %.2f M steps/s, traces %016" PRIx64 "\n",
           (double)(passed + failed) / took, (double)(passed + failed) / cpu, (double)steps / took / 1e6, all_traces);
    printf("%" PRIu64 " passed, %" PRIu64 " failed\n", passed, failed);
    if (worst == SIM_PASSED) {
        world_free(&world);
    }
    return (int)worst;
}
