/*
 * Hazard: figures that are not what they are called.
 * Method: samples whose percentiles are known; the random numbers' bounds and their repetition. Wrong code shows as
 * another number.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "bench/bench.h"

static void test_percentiles(void **state) {
    struct bench_samples samples = {0};

    (void)state;
    assert_int_equal(bench_samples_percentile(&samples, 0.5), 0);
    for (uint32_t i = 0; i < 10000; i++) bench_samples_add(&samples, (i * 7919u) % 10000u); /* 0..9999 in some order */
    assert_int_equal(bench_samples_percentile(&samples, 0), 0);
    assert_int_equal(bench_samples_percentile(&samples, 0.5), 5000);
    assert_int_equal(bench_samples_percentile(&samples, 0.99), 9900);
    assert_int_equal(bench_samples_percentile(&samples, 1), 9999);
    bench_samples_add(&samples, UINT64_MAX);
    assert_int_equal(bench_samples_percentile(&samples, 1), UINT32_MAX);
    bench_samples_free(&samples);
    assert_int_equal(samples.count, 0);
}

static void test_random(void **state) {
    struct bench_random a = {42}, b = {42}, c = {43};
    uint32_t seen = 0;
    int same = 0;

    (void)state;
    for (int i = 0; i < 1000; i++) {
        uint64_t next = bench_random_next(&a);
        assert_int_equal(next, bench_random_next(&b));
        same += next == bench_random_next(&c);
        seen |= 1u << bench_random_below(&a, 7);
        (void)bench_random_below(&b, 7);
        assert_int_equal(bench_random_below(&c, 1), 0);
    }
    assert_int_equal(seen, 0x7f); /* all of 0..6, and nothing else */
    assert_int_equal(same, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_percentiles), cmocka_unit_test(test_random)};

    return cmocka_run_group_tests_name("bench", tests, NULL, NULL);
}
