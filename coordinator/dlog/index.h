/*
 * index.h: where each kept decision stands in the log, and which of them are open. Memory only; no file, no thread.
 *
 * Sequences are handed out densely, so positions lie in small arrays of INDEX_CHUNK consecutive sequences; a hash table
 * finds the array by (epoch, sequence / INDEX_CHUNK). Finding is O(1), a kept decision costs about 8 bytes, and memory
 * follows what is kept, not what was ever handed out (aborted and read-only transactions use up sequences without a
 * record).
 */
#ifndef LOCKSTEP_DLOG_INDEX_H
#define LOCKSTEP_DLOG_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lockstep/status.h"

struct dlog_key {
    uint32_t epoch;
    uint64_t sequence;
};
/* Order of handing out: <0, 0, >0. */
int dlog_key_compare(struct dlog_key a, struct dlog_key b);

/* ---- all kept decisions */
#define INDEX_CHUNK 512u

struct index_slot {
    uint64_t chunk; /* sequence / INDEX_CHUNK */
    uint32_t epoch;
    uint32_t used;       /* positions that are not 0 */
    uint64_t lowest;     /* no position in it is lower (UINT64_MAX when there is none) */
    uint64_t *positions; /* NULL: slot is free */
};
struct index {
    struct index_slot *slots;
    size_t capacity, count;
    uint64_t entries;
};

/* Makes sure that index_set() of this key needs no memory. */
enum ls_status index_reserve(struct index *index, struct dlog_key key) LS_MUST_CHECK;
/* After index_reserve(). A later position replaces an earlier one. */
void index_set(struct index *index, struct dlog_key key, uint64_t position);
/* 0: not there (no record stands at position 0, a header does). */
uint64_t index_get(const struct index *index, struct dlog_key key);
/* The lowest key above `after` that is there. False: there is none. */
bool index_next(const struct index *index, struct dlog_key after, struct dlog_key *ret_key);
/* Drops every position below `position`; raises *horizon to the highest key dropped. */
void index_drop_below(struct index *index, uint64_t position, struct dlog_key *horizon);
void index_free(struct index *index);

/* ---- the open ones among them */
struct open_slot {
    struct dlog_key key; /* sequence 0: slot is free */
    uint64_t position;   /* of its newest copy */
};
struct open_set {
    struct open_slot *slots;
    size_t capacity, count;
};
enum ls_status open_reserve(struct open_set *set) LS_MUST_CHECK; /* for one more */
void open_put(struct open_set *set, struct dlog_key key, uint64_t position);
bool open_has(const struct open_set *set, struct dlog_key key);
bool open_remove(struct open_set *set, struct dlog_key key);
/* The positions of all open decisions that lie below `below`, ascending, at most `max`; returns how many. */
size_t open_list(const struct open_set *set, uint64_t below, uint64_t *ret_positions, size_t max);
void open_free(struct open_set *set);

#endif
