/*
 * Hazard: a state machine that can be talked into a move nobody thought of (an unknown result taken for a commit).
 * Method: every pair of states of both machines is compared with the moves written down here by hand.
 * If the code were wrong: a pair would be legal that is not in the list, or the other way round; txn_become would not
 * die.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "coordinator/core/txn.h"

/* "from: to to to"; the states by name. */
static const char *txn_expected[] = {
    "waiting: active aborted delegated",
    "active: preparing aborting",
    "preparing: logging committed aborting",
    "logging: committing",
    "committing: committed hazard",
    "committed:",
    "aborting: aborted hazard",
    "aborted:",
    "delegated: committed aborted settling hazard",
    "settling: committed aborted hazard",
    "hazard:",
};

static const char *branch_expected[] = {
    "idle: working preparing aborted",
    "working: open no lost aborting hazard",
    "open: working preparing no lost aborting hazard",
    "preparing: yes read-only no lost committed aborting aborted hazard",
    "yes: lost committing aborting",
    "read-only:",
    "no:",
    "lost: no committed aborted hazard",
    "committing: committed hazard",
    "committed: hazard",
    "aborting: read-only no lost committed aborted hazard",
    "aborted:",
    "hazard:",
};

static void line_for(char *line, size_t size, int from, int count, const char *(*name)(int),
                     const char *(*move)(int, int)) {
    int used = snprintf(line, size, "%s:", name(from));
    for (int to = 0; to < count; to++) {
        if (move(from, to) != NULL) {
            used += snprintf(line + used, size - (size_t)used, " %s", name(to));
        }
    }
}

static const char *txn_name(int s) {
    return txn_state_name((enum txn_state)s);
}
static const char *txn_move(int a, int b) {
    return txn_transition((enum txn_state)a, (enum txn_state)b);
}
static const char *branch_name(int s) {
    return branch_state_name((enum branch_state)s);
}
static const char *branch_move(int a, int b) {
    return branch_transition((enum branch_state)a, (enum branch_state)b);
}

static void every_pair_of_transaction_states(void **state) {
    (void)state;
    for (int from = 0; from < TXN_STATE_COUNT; from++) {
        char line[512];
        line_for(line, sizeof line, from, TXN_STATE_COUNT, txn_name, txn_move);
        assert_string_equal(line, txn_expected[from]);
    }
}

static void every_pair_of_branch_states(void **state) {
    (void)state;
    for (int from = 0; from < BR_STATE_COUNT; from++) {
        char line[512];
        line_for(line, sizeof line, from, BR_STATE_COUNT, branch_name, branch_move);
        assert_string_equal(line, branch_expected[from]);
    }
}

static void every_move_has_a_reason(void **state) {
    (void)state;
    for (int from = 0; from < TXN_STATE_COUNT; from++) {
        for (int to = 0; to < TXN_STATE_COUNT; to++) {
            const char *reason = txn_move(from, to);
            assert_true(reason == NULL || strlen(reason) > 10);
        }
    }
}

/* An illegal move must end the process: asserts stay on. */
static void an_illegal_move_dies(void **state) {
    (void)state;
    (void)fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (!freopen("/dev/null", "w", stderr)) _exit(3);
        struct txn txn = {.state = TXN_LOGGING};
        txn_become(&txn, TXN_ABORTING); /* a decision handed to the log is never turned back */
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pair_of_transaction_states),
        cmocka_unit_test(every_pair_of_branch_states),
        cmocka_unit_test(every_move_has_a_reason),
        cmocka_unit_test(an_illegal_move_dies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
