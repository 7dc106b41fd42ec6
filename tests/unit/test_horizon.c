/*
 * Hazard: a transaction is called forgotten that somebody may still ask about, or nothing ever is. Method: names handed
 * out at known running times, starts in between, more of both than the ring holds. If the code were wrong: a name
 * younger than the window would be at or below the horizon.
 */
#include "coordinator/horizon.h"
#include "unit.h"

static struct horizon_name at(struct horizon *h, uint64_t running_ms) {
    return horizon_of(h, running_ms);
}

static void nothing_inside_the_window(void **state) {
    (void)state;
    struct horizon h = {.retention_ms = 1000};
    assert_int_equal(at(&h, 5000).epoch, 0);
    horizon_sample(&h, 10, (struct horizon_name){1, 5});
    assert_int_equal(at(&h, 1009).epoch, 0);
    assert_int_equal(at(&h, 1010).sequence, 5);
    horizon_sample(&h, 500, (struct horizon_name){1, 90});
    assert_int_equal(at(&h, 1499).sequence, 5);
    assert_int_equal(at(&h, 1500).sequence, 90);
}

static void a_start_closes_what_came_before(void **state) {
    (void)state;
    struct horizon h = {.retention_ms = 1000};
    horizon_sample(&h, 0, (struct horizon_name){1, 0});
    horizon_sample(&h, 400, (struct horizon_name){2, 0}); /* every name of the first epoch is older */
    horizon_sample(&h, 401, (struct horizon_name){3, 0}); /* another one at once */
    struct horizon_name found = at(&h, 1400);
    assert_int_equal(found.epoch, 2);
    assert_int_equal(found.sequence, 0);
    assert_int_equal(at(&h, 1401).epoch, 3);
}

/* Against the list of everything that was ever said. */
static void never_early_and_hardly_late(void **state) {
    (void)state;
    static uint64_t when[20001];
    uint64_t random = 7, running_ms = 0;
    struct horizon h = {.retention_ms = 10000};
    for (uint64_t sequence = 1; sequence <= 20000; sequence++) {
        running_ms += unit_random(&random) % 20;
        when[sequence] = running_ms;
        horizon_sample(&h, running_ms, (struct horizon_name){1, sequence});
        struct horizon_name found = at(&h, running_ms);
        assert_true(found.sequence == 0 || when[found.sequence] + 10000 <= running_ms);
        if (running_ms > 10200 && found.sequence < sequence) {
            assert_true(when[found.sequence + 1] + 10000 + 10000 / 100 + 40 >= running_ms);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_inside_the_window),
        cmocka_unit_test(a_start_closes_what_came_before),
        cmocka_unit_test(never_early_and_hardly_late),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
