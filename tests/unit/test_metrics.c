/*
 * test_metrics.c: the exposition, byte for byte, since a scraper that cannot read it shows nothing at all.
 */
#include "tests/unit/unit.h"

#include <math.h>

#include "common/metrics.h"

static void exposition(void **state) {
    size_t length;
    (void)state;
    char *text = metrics_render(&length);
    assert_string_equal(text, "");
    assert_int_equal(length, 0);
    free(text);

    struct metric *orders =
        metric_new(METRIC_COUNTER, "votes_total", "Votes, \\ and a\nline.", "participant=\"orders\"");
    struct metric *gauge = metric_new(METRIC_GAUGE, "in_flight", "Now.", NULL);
    struct metric *stock = metric_new(METRIC_COUNTER, "votes_total", "ignored", "participant=\"stock\"");
    struct metric *time = metric_new(METRIC_HISTOGRAM, "sync_seconds", "Syncs.", NULL);
    struct metric *labelled = metric_new(METRIC_HISTOGRAM, "run_seconds", "Runs.", "mode=\"2pc\"");
    metric_add(orders, 3);
    metric_add(orders, UINT32_MAX);
    metric_add(stock, 0);
    metric_set(gauge, 2.5);
    metric_observe_us(time, 0);
    metric_observe_us(time, 500); /* the edge belongs to its bucket */
    metric_observe_us(time, 501);
    metric_observe_us(time, 30000000);
    metric_observe_us(time, 30000001);
    metric_observe_us(labelled, 1);
    text = metrics_render(&length);
    assert_int_equal(strlen(text), length);
    static const char head[] = "# HELP votes_total Votes, \\\\ and a\\nline.\n# TYPE votes_total counter\n"
                               "votes_total{participant=\"orders\"} 4294967298\n"
                               "votes_total{participant=\"stock\"} 0\n"
                               "# HELP in_flight Now.\n# TYPE in_flight gauge\n"
                               "in_flight 2.5\n"
                               "# HELP sync_seconds Syncs.\n# TYPE sync_seconds histogram\n"
                               "sync_seconds_bucket{le=\"0.0005\"} 2\n"
                               "sync_seconds_bucket{le=\"0.001\"} 3\n"
                               "sync_seconds_bucket{le=\"0.0025\"} 3\n";
    assert_int_equal(strncmp(text, head, sizeof head - 1), 0);
    assert_non_null(strstr(text, "sync_seconds_bucket{le=\"10\"} 3\n"
                                 "sync_seconds_bucket{le=\"30\"} 4\n"
                                 "sync_seconds_bucket{le=\"+Inf\"} 5\n"
                                 "sync_seconds_sum 60.001002\n"
                                 "sync_seconds_count 5\n"));
    assert_non_null(strstr(text, "run_seconds_bucket{mode=\"2pc\",le=\"0.0005\"} 1\n"));
    assert_non_null(strstr(text, "run_seconds_sum{mode=\"2pc\"} 0.000001\nrun_seconds_count{mode=\"2pc\"} 1\n"));
    free(text);

    static const struct {
        double value;
        const char *shown;
    } rows[] = {{0, "in_flight 0\n"},     {-1, "in_flight -1\n"},         {1e9, "in_flight 1000000000\n"},
                {NAN, "in_flight NaN\n"}, {INFINITY, "in_flight +Inf\n"}, {-INFINITY, "in_flight -Inf\n"},
                {0.1, "in_flight 0.1\n"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        metric_set(gauge, rows[i].value);
        text = metrics_render(&length);
        assert_non_null(strstr(text, rows[i].shown));
        free(text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(exposition)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
