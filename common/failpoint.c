/*
 * failpoint.c: the table of crash points and what was asked of them. A process without LOCKSTEP_FAIL pays one load and
 * one branch per point. Counters are atomic because the decision log's writer passes its points on a thread of its own.
 */
#include "common/failpoint.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum action { NOTHING = 0, KILL, STOP, ERROR, DELAY };

static const struct {
    const char *name, *program, *what;
} points[FP_COUNT] = {
#define FAILPOINT(id, program, what) [FP_##id] = {#id, program, what},
#include "common/failpoints.def"
#undef FAILPOINT
};

static struct {
    enum action action;
    uint32_t delay_ms;
    uint32_t at; /* the passing that acts */
    atomic_uint passed;
} asked[FP_COUNT];

static bool any_asked;

#define DELAY_MS_MAX 600000u
#define COUNT_MAX 1000000000u

/* Decimal, 1 .. max; 0 when it is none. */
static uint32_t parse_count(const char *text, uint32_t max) {
    char *end;
    if (*text < '1' || *text > '9') return 0;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    return errno == 0 && *end == '\0' && value <= max ? (uint32_t)value : 0;
}

/* One "name=action[@count]"; modifies it. */
static enum ls_status setup_one(char *item, struct ls_error *err) {
    char *action = strchr(item, '=');
    if (!action) return ls_fail(err, LS_ERR_CONFIG, "LOCKSTEP_FAIL: `%s` is not name=action", item);
    *action++ = '\0';
    char *at = strchr(action, '@');
    if (at) *at++ = '\0';

    size_t point = 0;
    while (point < FP_COUNT && strcmp(points[point].name, item) != 0) point++;
    if (point == FP_COUNT) return ls_fail(err, LS_ERR_CONFIG, "LOCKSTEP_FAIL: no fail point is called `%s`", item);
    if (asked[point].action != NOTHING) return ls_fail(err, LS_ERR_CONFIG, "LOCKSTEP_FAIL: `%s` is named twice", item);

    asked[point].at = at ? parse_count(at, COUNT_MAX) : 1;
    if (asked[point].at == 0) return ls_fail(err, LS_ERR_CONFIG, "LOCKSTEP_FAIL: `%s` is no count", at);
    if (strcmp(action, "kill") == 0) {
        asked[point].action = KILL;
    } else if (strcmp(action, "stop") == 0) {
        asked[point].action = STOP;
    } else if (strcmp(action, "error") == 0) {
        asked[point].action = ERROR;
    } else if (strncmp(action, "delay:", 6) == 0) {
        asked[point].delay_ms = parse_count(action + 6, DELAY_MS_MAX);
        if (asked[point].delay_ms == 0)
            return ls_fail(err, LS_ERR_CONFIG, "LOCKSTEP_FAIL: `%s` is no delay in ms", action + 6);
        asked[point].action = DELAY;
    } else {
        return ls_fail(err, LS_ERR_CONFIG, "LOCKSTEP_FAIL: `%s` is no action (kill, stop, error, delay:MS)", action);
    }
    return LS_OK;
}

enum ls_status failpoint_setup(bool enabled, struct ls_error *err) {
    const char *text = getenv("LOCKSTEP_FAIL");
    for (size_t i = 0; i < FP_COUNT; i++) {
        asked[i].action = NOTHING;
        atomic_store(&asked[i].passed, 0);
    }
    any_asked = false;
    if (!text || !*text) return LS_OK;
    if (!enabled)
        return ls_fail(err, LS_ERR_CONFIG, "LOCKSTEP_FAIL is set, but faults are not enabled in the configuration");
    char *copy = strdup(text), *rest = copy;
    if (!copy) return ls_fail(err, LS_ERR_NOMEM, "out of memory");
    enum ls_status status = LS_OK;
    for (char *item; status == LS_OK && (item = strsep(&rest, ",")) != NULL;) status = setup_one(item, err);
    free(copy);
    any_asked = status == LS_OK;
    return status;
}

static void wait_ms(uint32_t ms) {
    struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

bool failpoint_hit(enum failpoint point) {
    assert((unsigned)point < FP_COUNT);
    if (!any_asked || asked[point].action == NOTHING) return false;
    if (atomic_fetch_add(&asked[point].passed, 1) + 1 != asked[point].at) return false;
    switch (asked[point].action) {
    case KILL:
        (void)kill(getpid(), SIGKILL);
        abort(); /* not reached: nobody survives SIGKILL */
    case STOP:
        (void)raise(SIGSTOP);
        return false;
    case DELAY:
        wait_ms(asked[point].delay_ms);
        return false;
    case ERROR:
        return true;
    case NOTHING:
        break;
    }
    return false;
}

void failpoint_list(FILE *out, const char *program) {
    for (size_t i = 0; i < FP_COUNT; i++) {
        if (program && strcmp(points[i].program, program) != 0) continue;
        (void)fprintf(out, "%-32s %s\n", points[i].name, points[i].what);
    }
}
