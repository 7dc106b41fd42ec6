/*
 * Hazard: a service's name that is being looked up when its request is over (or the daemon stops) holds up the whole
 * loop, since libcurl waits for the thread that looks. Method: getaddrinfo() of this program hangs for one name until
 * it is let go, which is done only behind the end of the request. If the code were wrong: the request would end with
 * the look-up, and the test would find it let go by its watchdog.
 */
#include "coordinator/web.h"
#include "unit.h"

#include <netdb.h>
#include <pthread.h>
#include <time.h>

#define WATCHDOG_S 20

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static bool looking, may_go, gave_up;
static unsigned left;

/* Instead of the C library's, also for libcurl. */
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **result) {
    (void)node, (void)service, (void)hints, (void)result;
    struct timespec until;
    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += WATCHDOG_S;
    (void)pthread_mutex_lock(&lock);
    looking = true;
    (void)pthread_cond_broadcast(&changed);
    while (!may_go && !gave_up) {
        gave_up = pthread_cond_timedwait(&changed, &lock, &until) != 0;
    }
    left++;
    (void)pthread_cond_broadcast(&changed);
    (void)pthread_mutex_unlock(&lock);
    return EAI_AGAIN;
}

static void on_done(void *context, const struct web_answer *answer) {
    assert_int_equal(answer->status, 0);
    assert_false(answer->whole);
    *(bool *)context = true;
}

static void let_go_and_wait(unsigned count) {
    (void)pthread_mutex_lock(&lock);
    assert_true(looking); /* it did hang there */
    assert_false(gave_up);
    may_go = true;
    (void)pthread_cond_broadcast(&changed);
    while (left < count) {
        (void)pthread_cond_wait(&changed, &lock);
    }
    looking = may_go = false;
    (void)pthread_mutex_unlock(&lock);
}

static void wait_until_it_looks(struct event_base *base) {
    for (bool there = false; !there;) {
        assert_true(event_base_loop(base, EVLOOP_NONBLOCK) >= 0);
        (void)pthread_mutex_lock(&lock);
        there = looking;
        (void)pthread_mutex_unlock(&lock);
    }
}

static void nobody_waits_for_a_look_up(void **state) {
    (void)state;
    struct event_base *base = event_base_new();
    struct web *web;
    struct ls_error err;
    bool done = false;
    assert_int_equal(web_new(base, 4, &web, &err), LS_OK);
    struct web_request request = {
        .url = "http://slow.invalid/", .body = "{}", .length = 2, .answer_max = 10, .timeout_ms = 200};
    assert_non_null(web_post(web, &request, on_done, &done));
    wait_until_it_looks(base);
    while (!done) {
        assert_int_equal(event_base_loop(base, EVLOOP_ONCE), 0);
    }
    let_go_and_wait(1);

    /* nor at the end */
    request.timeout_ms = 60000;
    done = false;
    assert_non_null(web_post(web, &request, on_done, &done));
    wait_until_it_looks(base);
    web_free(web);
    assert_false(done);
    let_go_and_wait(2);
    event_base_free(base);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(nobody_waits_for_a_look_up)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
