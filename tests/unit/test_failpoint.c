/*
 * test_failpoint.c: crash points do what LOCKSTEP_FAIL says, at the passing it says, and nothing at all when nobody
 * asked. The acts that end or stop a process happen in a child.
 */
#include "tests/unit/unit.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/failpoint.h"

static struct ls_error err;

static enum ls_status setup(const char *text, bool enabled) {
    if (text) {
        assert_int_equal(setenv("LOCKSTEP_FAIL", text, 1), 0);
    } else {
        assert_int_equal(unsetenv("LOCKSTEP_FAIL"), 0);
    }
    return failpoint_setup(enabled, &err);
}

static void nothing_asked(void **state) {
    (void)state;
    assert_ok(setup(NULL, false));
    assert_ok(setup(NULL, true));
    assert_ok(setup("", false));
    for (int i = 0; i < FP_COUNT; i++) assert_false(failpoint_hit((enum failpoint)i));
}

static void refused(void **state) {
    static const struct {
        const char *text, *why;
    } rows[] = {
        {"nonsense=kill", "LOCKSTEP_FAIL: no fail point is called `nonsense`"},
        {"dlog_after_sync", "LOCKSTEP_FAIL: `dlog_after_sync` is not name=action"},
        {"dlog_after_sync=explode", "LOCKSTEP_FAIL: `explode` is no action (kill, stop, error, delay:MS)"},
        {"dlog_after_sync=", "LOCKSTEP_FAIL: `` is no action (kill, stop, error, delay:MS)"},
        {"dlog_after_sync=kill@0", "LOCKSTEP_FAIL: `0` is no count"},
        {"dlog_after_sync=kill@", "LOCKSTEP_FAIL: `` is no count"},
        {"dlog_after_sync=kill@x", "LOCKSTEP_FAIL: `x` is no count"},
        {"dlog_after_sync=kill@01", "LOCKSTEP_FAIL: `01` is no count"},
        {"dlog_after_sync=kill@99999999999999999999", "LOCKSTEP_FAIL: `99999999999999999999` is no count"},
        {"dlog_after_sync=delay", "LOCKSTEP_FAIL: `delay` is no action (kill, stop, error, delay:MS)"},
        {"dlog_after_sync=delay:", "LOCKSTEP_FAIL: `` is no delay in ms"},
        {"dlog_after_sync=delay:600001", "LOCKSTEP_FAIL: `600001` is no delay in ms"},
        {"dlog_after_sync=delay:5s", "LOCKSTEP_FAIL: `5s` is no delay in ms"},
        {"dlog_after_sync=error,dlog_after_sync=kill", "LOCKSTEP_FAIL: `dlog_after_sync` is named twice"},
        {"dlog_after_sync=error,", "LOCKSTEP_FAIL: `` is not name=action"},
        {"FP_dlog_after_sync=error", "LOCKSTEP_FAIL: no fail point is called `FP_dlog_after_sync`"},
    };
    (void)state;
    assert_fails(setup("dlog_after_sync=kill", false), LS_ERR_CONFIG,
                 "LOCKSTEP_FAIL is set, but faults are not enabled in the configuration");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_fails(setup(rows[i].text, true), LS_ERR_CONFIG, rows[i].why);
    assert_false(failpoint_hit(FP_dlog_after_sync)); /* the first half of a refused list does not act */
}

static void counts(void **state) {
    (void)state;
    assert_ok(setup("dlog_after_sync=error@3,agent_before_vote=error", true));
    assert_false(failpoint_hit(FP_dlog_after_sync));
    assert_false(failpoint_hit(FP_dlog_before_write)); /* another point does not count */
    assert_false(failpoint_hit(FP_dlog_after_sync));
    assert_true(failpoint_hit(FP_dlog_after_sync));
    assert_false(failpoint_hit(FP_dlog_after_sync)); /* once */
    assert_true(failpoint_hit(FP_agent_before_vote));
    assert_false(failpoint_hit(FP_agent_before_vote));
    assert_ok(setup("dlog_after_sync=error", true)); /* counts begin anew */
    assert_true(failpoint_hit(FP_dlog_after_sync));
}

static uint64_t now_ms(void) {
    struct timespec now;
    assert_int_equal(clock_gettime(CLOCK_MONOTONIC, &now), 0);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void delays(void **state) {
    (void)state;
    assert_ok(setup("dlog_after_sync=delay:50@2", true));
    uint64_t begin = now_ms();
    assert_false(failpoint_hit(FP_dlog_after_sync));
    assert_true(now_ms() - begin < 50);
    begin = now_ms();
    assert_false(failpoint_hit(FP_dlog_after_sync));
    assert_true(now_ms() - begin >= 50);
}

static pid_t child_passing(const char *text) {
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (setenv("LOCKSTEP_FAIL", text, 1) != 0 || failpoint_setup(true, &err) != LS_OK) _exit(3);
        _exit(failpoint_hit(FP_dlog_after_sync) ? 4 : 5);
    }
    return child;
}

static void kills(void **state) {
    int status;
    (void)state;
    pid_t child = child_passing("dlog_after_sync=kill");
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGKILL);
}

static void stops(void **state) {
    int status;
    (void)state;
    pid_t child = child_passing("dlog_after_sync=stop");
    assert_int_equal(waitpid(child, &status, WUNTRACED), child);
    assert_true(WIFSTOPPED(status));
    assert_int_equal(kill(child, SIGCONT), 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 5); /* goes on, no error */
}

static void lists(void **state) {
    char *text = NULL;
    size_t length = 0;
    (void)state;
    FILE *out = open_memstream(&text, &length);
    failpoint_list(out, "lockstepd");
    assert_int_equal(fclose(out), 0);
    assert_non_null(strstr(text, "dlog_after_sync "));
    assert_null(strstr(text, "agent_before_vote"));
    free(text);
    text = NULL;
    out = open_memstream(&text, &length);
    failpoint_list(out, NULL);
    assert_int_equal(fclose(out), 0);
    unsigned lines = 0;
    for (const char *c = text; *c; c++) lines += *c == '\n';
    assert_int_equal(lines, FP_COUNT);
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_asked), cmocka_unit_test(refused), cmocka_unit_test(counts), cmocka_unit_test(delays),
        cmocka_unit_test(kills),         cmocka_unit_test(stops),   cmocka_unit_test(lists)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
