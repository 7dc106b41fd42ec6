/*
 * horizon.h: how far back one-participant transactions are remembered. Pure: up to which name all had ended when, in
 * running time of this log, and from that the newest name that is older than the retention window. The window counts
 * from the end of a transaction, for those of earlier lives from the start of this one. In a ring of HORIZON_SAMPLES,
 * so that the answer is late by a hundredth of the window at most, never early.
 */
#ifndef LOCKSTEP_HORIZON_H
#define LOCKSTEP_HORIZON_H

#include <stdbool.h>
#include <stdint.h>

#define HORIZON_SAMPLES 128u

struct horizon_name {
    uint32_t epoch;
    uint64_t sequence;
};

struct horizon {
    uint64_t retention_ms;
    uint32_t first, count;
    struct {
        uint64_t running_ms;
        struct horizon_name newest;
    } samples[HORIZON_SAMPLES];
};

bool horizon_name_below(struct horizon_name a, struct horizon_name b); /* a < b */
/* At this time, all names up to `newest` had been handed out and had ended; the time never goes back. */
void horizon_sample(struct horizon *horizon, uint64_t running_ms, struct horizon_name newest);
/* Everything up to this one had ended before the window began. {0, 0}: nothing. */
struct horizon_name horizon_of(const struct horizon *horizon, uint64_t running_ms);

#endif
