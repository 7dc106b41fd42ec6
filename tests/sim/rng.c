/* rng.c: see rng.h. */
#include "tests/sim/rng.h"

#include <assert.h>

static uint64_t splitmix(uint64_t *state) {
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static uint64_t rotate_left(uint64_t x, unsigned by) {
    return (x << by) | (x >> (64 - by));
}

void rng_seed(struct rng *rng, uint64_t seed) {
    uint64_t state = seed;
    for (int i = 0; i < 4; i++) rng->s[i] = splitmix(&state);
}

uint64_t rng_next(struct rng *rng) {
    uint64_t *s = rng->s;
    uint64_t result = rotate_left(s[1] * 5, 7) * 9;
    uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate_left(s[3], 45);
    return result;
}

uint64_t rng_below(struct rng *rng, uint64_t bound) {
    assert(bound > 0);
    return (uint64_t)(((unsigned __int128)rng_next(rng) * bound) >> 64);
}

uint64_t rng_between(struct rng *rng, uint64_t min, uint64_t max) {
    assert(min <= max);
    return min + rng_below(rng, max - min + 1);
}

bool rng_permille(struct rng *rng, uint64_t permille) {
    return permille > 0 && rng_below(rng, 1000) < permille;
}

uint64_t rng_delay(struct rng *rng, uint64_t mean) {
    if (mean == 0) return 0;
    uint64_t stretch = rng_below(rng, 32) == 0 ? 8 : 1;
    return (rng_below(rng, mean + 1) / 2 + rng_below(rng, mean + 1)) * stretch + 1;
}
