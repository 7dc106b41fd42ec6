/*
 * Hazard: a branch that is talked into a move nobody thought of: a YES forgotten, a COMMIT without a vote.
 * Method: every pair of states is compared with the moves written down here by hand; the table is printed as it is, so
 * that the diagram in branch.c can be held against it. Illegal moves must kill the process.
 */
#include "unit.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "participant/core/branch.h"

static const char *const expected[AGB_STATE_COUNT] = {
    [AGB_NEW] = "new: running preparing proving settling",
    [AGB_RUNNING] = "running: open rolling-back stopping committing reading-key ended",
    [AGB_OPEN] = "open: running preparing rolling-back",
    [AGB_PREPARING] = "preparing: prepared rolling-back stopping finishing ended",
    [AGB_PREPARED] = "prepared: proving finishing",
    [AGB_ROLLING_BACK] = "rolling-back: stopping ended",
    [AGB_STOPPING] = "stopping: proving settling ended",
    [AGB_PROVING] = "proving: finishing ended",
    [AGB_FINISHING] = "finishing: proving ended",
    [AGB_COMMITTING] = "committing: stopping ended",
    [AGB_READING_KEY] = "reading-key: settling ended",
    [AGB_SETTLING] = "settling: ended",
    [AGB_ENDED] = "ended:",
};

static const char *word(enum agent_branch_state state) {
    static char text[4][32];
    static unsigned at;
    char *out = text[at++ % 4];
    snprintf(out, 32, "%s", agent_branch_state_name(state));
    for (char *c = out; *c != '\0'; c++)
        if (*c == ' ') *c = '-';
    return out;
}

static void every_pair_is_as_written_here(void **state) {
    (void)state;
    for (int from = 0; from < AGB_STATE_COUNT; from++) {
        char line[512];
        int used = snprintf(line, sizeof(line), "%s:", word((enum agent_branch_state)from));
        for (int to = 0; to < AGB_STATE_COUNT; to++) {
            const char *reason = agent_branch_transition((enum agent_branch_state)from, (enum agent_branch_state)to);
            if (reason == NULL) continue;
            used += snprintf(line + used, sizeof(line) - (size_t)used, " %s", word((enum agent_branch_state)to));
            printf("%-13s -> %-13s %s\n", word((enum agent_branch_state)from), word((enum agent_branch_state)to),
                   reason);
        }
        assert_string_equal(line, expected[from]);
    }
}

static bool dies(enum agent_branch_state from, enum agent_branch_state to) {
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct rlimit none = {0, 0};
        struct agent_branch branch;
        setrlimit(RLIMIT_CORE, &none);
        signal(SIGABRT, SIG_DFL);
        if (freopen("/dev/null", "w", stderr) == NULL) _exit(3);
        memset(&branch, 0, sizeof(branch));
        branch.state = from;
        agent_branch_become(&branch, to);
        _exit(branch.state == to ? 0 : 2);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFSIGNALED(status)) return true;
    assert_int_equal(WEXITSTATUS(status), 0);
    return false;
}

static void an_illegal_move_stops_the_process(void **state) {
    (void)state;
    for (int from = 0; from < AGB_STATE_COUNT; from++)
        for (int to = 0; to < AGB_STATE_COUNT; to++)
            assert_true(dies((enum agent_branch_state)from, (enum agent_branch_state)to) ==
                        (agent_branch_transition((enum agent_branch_state)from, (enum agent_branch_state)to) == NULL));
}

static void a_yes_is_left_by_a_decision_only(void **state) {
    (void)state;
    /* Neither a lost link nor a timer nor a stop can move a prepared branch. */
    for (int to = 0; to < AGB_STATE_COUNT; to++)
        if (to != AGB_FINISHING && to != AGB_PROVING)
            assert_null(agent_branch_transition(AGB_PREPARED, (enum agent_branch_state)to));
}

static void what_holds_a_worker_and_what_a_slot(void **state) {
    (void)state;
    for (int s = 0; s < AGB_STATE_COUNT; s++) {
        struct agent_branch branch = {.state = (enum agent_branch_state)s};
        bool worker = s == AGB_RUNNING || s == AGB_OPEN || s == AGB_PREPARING || s == AGB_ROLLING_BACK ||
                      s == AGB_STOPPING || s == AGB_COMMITTING;
        bool slot =
            s == AGB_PREPARING || s == AGB_PREPARED || s == AGB_PROVING || s == AGB_FINISHING || s == AGB_STOPPING;
        assert_true(agent_branch_uses_worker(&branch) == worker);
        assert_true(agent_branch_uses_slot(&branch) == slot);
        branch.one_phase = true;
        assert_false(agent_branch_uses_slot(&branch));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pair_is_as_written_here),
        cmocka_unit_test(an_illegal_move_stops_the_process),
        cmocka_unit_test(a_yes_is_left_by_a_decision_only),
        cmocka_unit_test(what_holds_a_worker_and_what_a_slot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
