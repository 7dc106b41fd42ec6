/* horizon.c: see horizon.h. */
#include "coordinator/horizon.h"

bool horizon_name_below(struct horizon_name a, struct horizon_name b) {
    return a.epoch < b.epoch || (a.epoch == b.epoch && a.sequence < b.sequence);
}

void horizon_sample(struct horizon *h, uint64_t running_ms, struct horizon_name newest) {
    if (h->count > 0) {
        uint32_t last = (h->first + h->count - 1) % HORIZON_SAMPLES;
        bool soon = running_ms < h->samples[last].running_ms + h->retention_ms / 100;
        if (soon && h->samples[last].newest.epoch == newest.epoch) {
            return;
        }
    }
    if (h->count == HORIZON_SAMPLES) { /* many starts in one window: the oldest says least */
        h->first = (h->first + 1) % HORIZON_SAMPLES;
        h->count--;
    }
    uint32_t at = (h->first + h->count++) % HORIZON_SAMPLES;
    h->samples[at].running_ms = running_ms;
    h->samples[at].newest = newest;
}

struct horizon_name horizon_of(const struct horizon *h, uint64_t running_ms) {
    struct horizon_name found = {0, 0};
    for (uint32_t i = 0; i < h->count; i++) {
        uint32_t at = (h->first + i) % HORIZON_SAMPLES;
        if (running_ms >= h->retention_ms && h->samples[at].running_ms <= running_ms - h->retention_ms &&
            horizon_name_below(found, h->samples[at].newest)) {
            found = h->samples[at].newest;
        }
    }
    return found;
}
