/*
 * rng.h: the simulator's only source of chance: xoshiro256** seeded by splitmix64 (both public domain algorithms by
 * Blackman and Vigna, written anew). The same seed gives the same numbers on every machine.
 */
#ifndef SIM_RNG_H
#define SIM_RNG_H

#include <stdbool.h>
#include <stdint.h>

struct rng {
    uint64_t s[4];
};

void rng_seed(struct rng *rng, uint64_t seed);
uint64_t rng_next(struct rng *rng);
/* 0 .. bound-1; bound > 0. The bias of the multiplication method is below 2^-32 for the small bounds used here. */
uint64_t rng_below(struct rng *rng, uint64_t bound);
/* min .. max, both included. */
uint64_t rng_between(struct rng *rng, uint64_t min, uint64_t max);
/* True in `permille` of 1000 cases. */
bool rng_permille(struct rng *rng, uint64_t permille);
/* A time with the given mean: mostly short, sometimes long (sum of two uniform draws, one of them rarely stretched). */
uint64_t rng_delay(struct rng *rng, uint64_t mean);

#endif
