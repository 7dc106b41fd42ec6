/*
 * Hazard: a look-up on its thread answers when nobody waits any more, twice or never. Method: names that the system
 * knows and does not know, many at once, and look-ups that are given up. Run under ThreadSanitizer, too (.ci/run). If
 * the code were wrong: an answer too many, or a report of a sanitizer.
 */
#include "tests/unit/unit.h"

#include "common/resolve.h"

static struct ls_error err;
static struct event_base *base;
static unsigned found_count, failed_count, waiting;

static void on_done(void *context, struct addrinfo *found, const char *why) {
    unsigned *calls = context;
    (*calls)++;
    if (found != NULL) {
        found_count++;
        freeaddrinfo(found);
    } else {
        assert_true(strlen(why) > 0);
        failed_count++;
    }
    if (--waiting == 0) (void)event_base_loopbreak(base);
}

static void start(const char *host, unsigned *calls, struct resolve **ret) {
    assert_ok(resolve_start(base, host, "5432", on_done, calls, ret, &err));
    waiting++;
}

static void found_and_not_found(void **state) {
    (void)state;
    enum { AT_ONCE = 20 };
    unsigned calls[AT_ONCE] = {0};
    struct resolve *resolve;
    found_count = failed_count = 0;
    for (unsigned i = 0; i < AT_ONCE; i++) start(i % 2 == 0 ? "127.0.0.1" : "no such name", &calls[i], &resolve);
    (void)event_base_dispatch(base);
    for (unsigned i = 0; i < AT_ONCE; i++) assert_int_equal(calls[i], 1);
    assert_true(found_count == AT_ONCE / 2 && failed_count == AT_ONCE / 2);
}

/* Given up at any time: its callback never comes, and the thread's memory goes when the thread ends. */
static void given_up(void **state) {
    (void)state;
    for (unsigned i = 0; i < 50; i++) {
        unsigned never = 0, once = 0, answered = 0;
        struct resolve *given, *kept;
        start("localhost", &never, &given);
        start("127.0.0.1", &once, &kept);
        waiting--;
        if (i % 2 == 0) {
            resolve_cancel(given);
            (void)event_base_dispatch(base);
        } else {
            waiting++; /* the other one first; then this, too, if it has not answered yet */
            while (once == 0) (void)event_base_loop(base, EVLOOP_ONCE);
            answered = never;
            if (answered == 0) resolve_cancel(given);
            (void)event_base_loop(base, EVLOOP_NONBLOCK);
            waiting = 0;
        }
        assert_int_equal(once, 1);
        assert_int_equal(never, answered);
    }
    resolve_cancel(NULL);
}

static int begin(void **state) {
    (void)state;
    base = event_base_new();
    return base == NULL;
}
static int end(void **state) {
    (void)state;
    event_base_free(base);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(found_and_not_found), cmocka_unit_test(given_up)};
    return cmocka_run_group_tests(tests, begin, end);
}
