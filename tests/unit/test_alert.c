/*
 * Hazard: a receiver that is away for long fills the coordinator's memory. Method: more alerts than the queue holds, to
 * a port where nobody listens. If the code were wrong: all of them would wait.
 */
#include "coordinator/alert.h"
#include "unit.h"

static void the_queue_is_bounded(void **state) {
    (void)state;
    struct event_base *base = event_base_new();
    struct web *web;
    struct alerts *alerts;
    struct ls_error err;
    struct alert_stats stats;
    /* No window: each is the first of its cause. */
    struct coordinator_conf conf = {
        .name = (char *)"shop", .alerts_webhook = (char *)"http://127.0.0.1:1/", .alerts_timeout_ms = 100};
    assert_int_equal(web_new(base, 4, &web, &err), LS_OK);
    assert_int_equal(alerts_new(base, web, &conf, &alerts, &err), LS_OK);
    for (unsigned i = 0; i < 10 * LS_ALERT_QUEUE_MAX; i++) {
        struct alert alert = {.cause = ALERT_HAZARD, .text = "test", .gtid = "shop.1", .reason = "why"};
        (void)alerts_raise(alerts, &alert);
        assert_int_equal(event_base_loop(base, EVLOOP_NONBLOCK), 0);
    }
    alerts_stats(alerts, &stats);
    assert_int_equal(stats.raised[ALERT_HAZARD], 10 * LS_ALERT_QUEUE_MAX);
    assert_int_equal(stats.queued, LS_ALERT_QUEUE_MAX);
    assert_true(stats.dropped >= LS_ALERT_QUEUE_MAX && stats.delivered == 0);
    alerts_free(alerts);
    web_free(web);
    event_base_free(base);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_queue_is_bounded)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
