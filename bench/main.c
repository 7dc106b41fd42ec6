/*
 * main.c: lockstep-bench: loads and yardsticks, one subcommand each.
 */
#include <stdio.h>
#include <string.h>

#include "bench/bench.h"
#include "lockstep/status.h"

static const struct subcommand {
    const char *name, *what;
    int (*run)(int argc, char **argv);
} subcommands[] = {
    {"order-flow", "the shop: orders over four databases, with a journal for the audit", bench_order_flow},
    {"compare", "the same work, committed in seven ways: what each costs, and what a reader sees", bench_compare},
    {"transfer", "compare, one UPDATE in each of two databases, and nobody who watches: the yardsticks",
     bench_transfer},
    {"report", "one page, HTML or text, of comparisons and the laboratory's timelines", bench_report},
    {"decisions", "durable decisions a second of the coordinator alone, with voters", bench_decisions},
    {"voter", "an agent without a database that votes at once", bench_voter},
};
#define SUBCOMMAND_COUNT (sizeof subcommands / sizeof subcommands[0])

static void print_help(FILE *out) {
    (void)fprintf(out, "usage: lockstep-bench SUBCOMMAND [options]\n\n");
    for (size_t i = 0; i < SUBCOMMAND_COUNT; i++)
        (void)fprintf(out, "  %-14s %s\n", subcommands[i].name, subcommands[i].what);
    (void)fprintf(out, "\n`lockstep-bench SUBCOMMAND --help` says more.\n");
}

int main(int argc, char **argv) {
    if (argc < 2) {
        print_help(stderr);
        return LS_EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        print_help(stdout);
        return LS_EXIT_OK;
    }
    for (size_t i = 0; i < SUBCOMMAND_COUNT; i++)
        if (strcmp(subcommands[i].name, argv[1]) == 0) return subcommands[i].run(argc - 1, argv + 1);
    return bench_fail(NULL, LS_EXIT_USAGE, "unknown subcommand `%s`", argv[1]);
}
