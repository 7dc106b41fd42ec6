/* index.c: see index.h. Both tables: open addressing, linear probing, at most three quarters full, removal by shifting
 * back. */
#include "coordinator/dlog/index.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int dlog_key_compare(struct dlog_key a, struct dlog_key b) {
    if (a.epoch != b.epoch) {
        return a.epoch < b.epoch ? -1 : 1;
    }
    return (a.sequence > b.sequence) - (a.sequence < b.sequence);
}

static size_t hash(uint32_t epoch, uint64_t number, size_t capacity) {
    uint64_t h = (number + (uint64_t)epoch * 0x9e3779b97f4a7c15u) * 0xd6e8feb86659fd93u;
    return (size_t)(h ^ h >> 32) & (capacity - 1);
}

static bool must_grow(size_t count, size_t capacity) {
    return (count + 1) * 4 > capacity * 3;
}

/* May the entry at `at`, whose home is `home`, move into the hole? Only if its home does not lie between them. */
static bool may_move(size_t hole, size_t home, size_t at, size_t capacity) {
    return ((at - home) & (capacity - 1)) >= ((at - hole) & (capacity - 1));
}

/* ------------------------------------------------------- all kept decisions */

static struct index_slot *index_slot(const struct index *index, uint32_t epoch, uint64_t chunk) {
    size_t i = hash(epoch, chunk, index->capacity);
    while (index->slots[i].positions != NULL && (index->slots[i].epoch != epoch || index->slots[i].chunk != chunk)) {
        i = (i + 1) & (index->capacity - 1);
    }
    return &index->slots[i];
}

static enum ls_status index_grow(struct index *index) {
    struct index bigger = {
        .capacity = index->capacity == 0 ? 64 : index->capacity * 2, .count = index->count, .entries = index->entries};
    bigger.slots = calloc(bigger.capacity, sizeof *bigger.slots);
    if (bigger.slots == NULL) {
        return LS_ERR_NOMEM;
    }
    for (size_t i = 0; i < index->capacity; i++) {
        if (index->slots[i].positions != NULL) {
            *index_slot(&bigger, index->slots[i].epoch, index->slots[i].chunk) = index->slots[i];
        }
    }
    free(index->slots);
    *index = bigger;
    return LS_OK;
}

enum ls_status index_reserve(struct index *index, struct dlog_key key) {
    if (must_grow(index->count, index->capacity) && index_grow(index) != LS_OK) {
        return LS_ERR_NOMEM;
    }
    struct index_slot *slot = index_slot(index, key.epoch, key.sequence / INDEX_CHUNK);
    if (slot->positions == NULL) {
        uint64_t *positions = calloc(INDEX_CHUNK, sizeof *positions);
        if (positions == NULL) {
            return LS_ERR_NOMEM;
        }
        *slot = (struct index_slot){
            .chunk = key.sequence / INDEX_CHUNK, .epoch = key.epoch, .lowest = UINT64_MAX, .positions = positions};
        index->count++;
    }
    return LS_OK;
}

void index_set(struct index *index, struct dlog_key key, uint64_t position) {
    assert(position != 0 && index->capacity > 0);
    struct index_slot *slot = index_slot(index, key.epoch, key.sequence / INDEX_CHUNK);
    assert(slot->positions != NULL);
    uint64_t *entry = &slot->positions[key.sequence % INDEX_CHUNK];
    if (*entry == 0) {
        slot->used++;
        index->entries++;
    }
    assert(*entry < position);
    *entry = position;
    if (position < slot->lowest) {
        slot->lowest = position;
    }
}

uint64_t index_get(const struct index *index, struct dlog_key key) {
    if (index->capacity == 0) {
        return 0;
    }
    const struct index_slot *slot = index_slot(index, key.epoch, key.sequence / INDEX_CHUNK);
    return slot->positions == NULL ? 0 : slot->positions[key.sequence % INDEX_CHUNK];
}

bool index_next(const struct index *index, struct dlog_key after, struct dlog_key *ret_key) {
    struct dlog_key best = {0, 0};
    for (size_t s = 0; s < index->capacity; s++) {
        const struct index_slot *slot = &index->slots[s];
        struct dlog_key last = {slot->epoch, slot->chunk * INDEX_CHUNK + INDEX_CHUNK - 1};
        struct dlog_key first = {slot->epoch, slot->chunk * INDEX_CHUNK};
        if (slot->positions == NULL || slot->used == 0 || dlog_key_compare(last, after) <= 0 ||
            (best.epoch != 0 && dlog_key_compare(first, best) > 0)) {
            continue;
        }
        for (uint32_t i = 0; i < INDEX_CHUNK; i++) {
            struct dlog_key key = {slot->epoch, slot->chunk * INDEX_CHUNK + i};
            if (slot->positions[i] != 0 && dlog_key_compare(key, after) > 0) {
                best = best.epoch == 0 || dlog_key_compare(key, best) < 0 ? key : best;
                break;
            }
        }
    }
    *ret_key = best;
    return best.epoch != 0;
}

static void drop_in_slot(struct index *index, struct index_slot *slot, uint64_t position, struct dlog_key *horizon) {
    slot->lowest = UINT64_MAX;
    for (uint32_t i = 0; i < INDEX_CHUNK; i++) {
        uint64_t *entry = &slot->positions[i];
        if (*entry == 0) {
            continue;
        }
        if (*entry >= position) {
            slot->lowest = *entry < slot->lowest ? *entry : slot->lowest;
            continue;
        }
        struct dlog_key key = {.epoch = slot->epoch, .sequence = slot->chunk * INDEX_CHUNK + i};
        if (dlog_key_compare(key, *horizon) > 0) {
            *horizon = key;
        }
        *entry = 0;
        slot->used--;
        index->entries--;
    }
}

static void index_remove_slot(struct index *index, size_t hole) {
    free(index->slots[hole].positions);
    size_t mask = index->capacity - 1;
    for (size_t at = (hole + 1) & mask; index->slots[at].positions != NULL; at = (at + 1) & mask) {
        if (may_move(hole, hash(index->slots[at].epoch, index->slots[at].chunk, index->capacity), at,
                     index->capacity)) {
            index->slots[hole] = index->slots[at];
            hole = at;
        }
    }
    memset(&index->slots[hole], 0, sizeof index->slots[hole]);
    index->count--;
}

void index_drop_below(struct index *index, uint64_t position, struct dlog_key *horizon) {
    /* A removal may shift a slot from behind into place `i` (looked at again) or, around the end of the table, from
     * before it to the end (looked at twice). None is skipped. */
    for (size_t i = 0; i < index->capacity;) {
        struct index_slot *slot = &index->slots[i];
        if (slot->positions != NULL && slot->lowest < position) {
            drop_in_slot(index, slot, position, horizon);
        }
        if (slot->positions != NULL && slot->used == 0) {
            index_remove_slot(index, i);
        } else {
            i++;
        }
    }
}

void index_free(struct index *index) {
    for (size_t i = 0; i < index->capacity; i++) {
        free(index->slots[i].positions);
    }
    free(index->slots);
    memset(index, 0, sizeof *index);
}

/* ------------------------------------------------------------ the open ones */

static struct open_slot *open_slot(const struct open_set *set, struct dlog_key key) {
    size_t i = hash(key.epoch, key.sequence, set->capacity);
    while (set->slots[i].key.sequence != 0 && dlog_key_compare(set->slots[i].key, key) != 0) {
        i = (i + 1) & (set->capacity - 1);
    }
    return &set->slots[i];
}

enum ls_status open_reserve(struct open_set *set) {
    if (!must_grow(set->count, set->capacity)) {
        return LS_OK;
    }
    struct open_set bigger = {.capacity = set->capacity == 0 ? 64 : set->capacity * 2, .count = set->count};
    bigger.slots = calloc(bigger.capacity, sizeof *bigger.slots);
    if (bigger.slots == NULL) {
        return LS_ERR_NOMEM;
    }
    for (size_t i = 0; i < set->capacity; i++) {
        if (set->slots[i].key.sequence != 0) {
            *open_slot(&bigger, set->slots[i].key) = set->slots[i];
        }
    }
    free(set->slots);
    *set = bigger;
    return LS_OK;
}

void open_put(struct open_set *set, struct dlog_key key, uint64_t position) {
    assert(key.sequence != 0 && set->capacity > set->count);
    struct open_slot *slot = open_slot(set, key);
    if (slot->key.sequence == 0) {
        slot->key = key;
        set->count++;
    }
    slot->position = position;
}

bool open_has(const struct open_set *set, struct dlog_key key) {
    return set->capacity > 0 && open_slot(set, key)->key.sequence != 0;
}

bool open_remove(struct open_set *set, struct dlog_key key) {
    if (!open_has(set, key)) {
        return false;
    }
    size_t mask = set->capacity - 1, hole = (size_t)(open_slot(set, key) - set->slots);
    for (size_t at = (hole + 1) & mask; set->slots[at].key.sequence != 0; at = (at + 1) & mask) {
        if (may_move(hole, hash(set->slots[at].key.epoch, set->slots[at].key.sequence, set->capacity), at,
                     set->capacity)) {
            set->slots[hole] = set->slots[at];
            hole = at;
        }
    }
    memset(&set->slots[hole], 0, sizeof set->slots[hole]);
    set->count--;
    return true;
}

static int compare_positions(const void *left, const void *right) {
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

size_t open_list(const struct open_set *set, uint64_t below, uint64_t *ret_positions, size_t max) {
    size_t count = 0;
    for (size_t i = 0; i < set->capacity && count < max; i++) {
        if (set->slots[i].key.sequence != 0 && set->slots[i].position < below) {
            ret_positions[count++] = set->slots[i].position;
        }
    }
    if (count > 1) {
        qsort(ret_positions, count, sizeof *ret_positions, compare_positions);
    }
    return count;
}

void open_free(struct open_set *set) {
    free(set->slots);
    memset(set, 0, sizeof *set);
}
