/* table.c: see table.h. */
#include "coordinator/core/table.h"

#include <assert.h>
#include <stdlib.h>

#define FIRST_BUCKETS 1024u
#define NO_ENTRY UINT32_MAX
#define NOT_IN_HEAP UINT32_MAX

/* Sequences are dense, so the low bits spread by themselves; the epoch is mixed in (Fibonacci hashing). */
static uint32_t hash_id(uint32_t epoch, uint64_t sequence) {
    uint64_t mixed = (sequence ^ ((uint64_t)epoch << 40)) * UINT64_C(0x9e3779b97f4a7c15);
    return (uint32_t)(mixed >> 32);
}

/* ------------------------------------------------------------ transactions */

enum ls_status txn_table_init(struct txn_table *table) {
    table->buckets = calloc(FIRST_BUCKETS, sizeof *table->buckets);
    if (table->buckets == NULL) {
        return LS_ERR_NOMEM;
    }
    table->bucket_count = FIRST_BUCKETS;
    table->count = 0;
    return LS_OK;
}

void txn_table_free(struct txn_table *table) {
    free(table->buckets);
    table->buckets = NULL;
}

static struct txn **bucket_of(const struct txn_table *table, uint32_t epoch, uint64_t sequence) {
    return &table->buckets[hash_id(epoch, sequence) & (table->bucket_count - 1)];
}

struct txn *txn_table_find(const struct txn_table *table, uint32_t epoch, uint64_t sequence) {
    for (struct txn *txn = *bucket_of(table, epoch, sequence); txn != NULL; txn = txn->hash_next) {
        if (txn->epoch == epoch && txn->sequence == sequence) {
            return txn;
        }
    }
    return NULL;
}

static void txn_table_grow(struct txn_table *table) {
    uint32_t old_count = table->bucket_count;
    struct txn **old = table->buckets;
    struct txn **grown = old_count <= UINT32_MAX / 4 ? calloc((size_t)old_count * 2, sizeof *grown) : NULL;
    if (grown == NULL) {
        return; /* longer chains until memory is there again */
    }
    table->buckets = grown;
    table->bucket_count = old_count * 2;
    for (uint32_t i = 0; i < old_count; i++) {
        struct txn *txn = old[i];
        while (txn != NULL) {
            struct txn *next = txn->hash_next;
            struct txn **bucket = bucket_of(table, txn->epoch, txn->sequence);
            txn->hash_next = *bucket;
            *bucket = txn;
            txn = next;
        }
    }
    free(old);
}

void txn_table_insert(struct txn_table *table, struct txn *txn) {
    assert(txn_table_find(table, txn->epoch, txn->sequence) == NULL);
    if (table->count >= table->bucket_count) {
        txn_table_grow(table);
    }
    struct txn **bucket = bucket_of(table, txn->epoch, txn->sequence);
    txn->hash_next = *bucket;
    *bucket = txn;
    table->count++;
}

void txn_table_remove(struct txn_table *table, struct txn *txn) {
    struct txn **link = bucket_of(table, txn->epoch, txn->sequence);
    while (*link != txn) {
        assert(*link != NULL);
        link = &(*link)->hash_next;
    }
    *link = txn->hash_next;
    txn->hash_next = NULL;
    table->count--;
}

/* ---------------------------------------------------------------- outcomes */

enum ls_status finished_table_init(struct finished_table *table, uint32_t capacity) {
    assert(capacity >= 1 && capacity < NO_ENTRY / 2);
    uint32_t buckets = 1;
    while (buckets < capacity) {
        buckets *= 2;
    }
    *table = (struct finished_table){
        .ring = calloc(capacity, sizeof *table->ring),
        .next = calloc(capacity, sizeof *table->next),
        .buckets = malloc(buckets * sizeof *table->buckets),
        .capacity = capacity,
        .bucket_count = buckets,
    };
    if (table->ring == NULL || table->next == NULL || table->buckets == NULL) {
        finished_table_free(table);
        return LS_ERR_NOMEM;
    }
    for (uint32_t i = 0; i < buckets; i++) {
        table->buckets[i] = NO_ENTRY;
    }
    return LS_OK;
}

void finished_table_free(struct finished_table *table) {
    for (uint32_t i = 0; table->ring != NULL && i < table->capacity; i++) {
        free(table->ring[i].cause);
    }
    free(table->ring);
    free(table->next);
    free(table->buckets);
    *table = (struct finished_table){0};
}

static uint32_t *finished_bucket(const struct finished_table *table, uint32_t epoch, uint64_t sequence) {
    return &table->buckets[hash_id(epoch, sequence) & (table->bucket_count - 1)];
}

struct txn_finished *finished_table_find(const struct finished_table *table, uint32_t epoch, uint64_t sequence) {
    uint32_t at = *finished_bucket(table, epoch, sequence);
    while (at != NO_ENTRY) {
        struct txn_finished *found = &table->ring[at];
        if (found->epoch == epoch && found->sequence == sequence) {
            return found;
        }
        at = table->next[at];
    }
    return NULL;
}

static void finished_evict(struct finished_table *table, uint32_t at) {
    struct txn_finished *old = &table->ring[at];
    uint32_t *link = finished_bucket(table, old->epoch, old->sequence);
    while (*link != at) {
        assert(*link != NO_ENTRY);
        link = &table->next[*link];
    }
    *link = table->next[at];
    free(old->cause);
    old->cause = NULL;
}

void finished_table_put(struct finished_table *table, const struct txn_finished *outcome) {
    struct txn_finished *same = finished_table_find(table, outcome->epoch, outcome->sequence);
    if (same != NULL) {
        free(same->cause);
        *same = *outcome;
        return;
    }
    uint32_t at = table->head;
    table->head = (table->head + 1) % table->capacity;
    if (table->count == table->capacity) {
        finished_evict(table, at);
    } else {
        table->count++;
    }
    table->ring[at] = *outcome;
    uint32_t *bucket = finished_bucket(table, outcome->epoch, outcome->sequence);
    table->next[at] = *bucket;
    *bucket = at;
}

/* --------------------------------------------------------------- deadlines */

enum ls_status deadline_heap_reserve(struct deadline_heap *heap, uint32_t count) {
    if (count <= heap->capacity) {
        return LS_OK;
    }
    uint32_t capacity = heap->capacity == 0 ? 256 : heap->capacity * 2;
    if (capacity < count) {
        capacity = count;
    }
    struct txn **items = realloc(heap->items, capacity * sizeof(struct txn *));
    if (items == NULL) {
        return LS_ERR_NOMEM;
    }
    heap->items = items;
    heap->capacity = capacity;
    return LS_OK;
}

static void heap_place(struct deadline_heap *heap, uint32_t at, struct txn *txn) {
    heap->items[at] = txn;
    txn->heap_index = at;
}

static void heap_up(struct deadline_heap *heap, uint32_t at) {
    struct txn *txn = heap->items[at];
    while (at > 0) {
        uint32_t parent = (at - 1) / 2;
        if (heap->items[parent]->deadline_us <= txn->deadline_us) {
            break;
        }
        heap_place(heap, at, heap->items[parent]);
        at = parent;
    }
    heap_place(heap, at, txn);
}

static void heap_down(struct deadline_heap *heap, uint32_t at) {
    struct txn *txn = heap->items[at];
    for (;;) {
        uint32_t child = at * 2 + 1;
        if (child >= heap->count) {
            break;
        }
        if (child + 1 < heap->count && heap->items[child + 1]->deadline_us < heap->items[child]->deadline_us) {
            child++;
        }
        if (txn->deadline_us <= heap->items[child]->deadline_us) {
            break;
        }
        heap_place(heap, at, heap->items[child]);
        at = child;
    }
    heap_place(heap, at, txn);
}

void deadline_heap_push(struct deadline_heap *heap, struct txn *txn) {
    assert(heap->count < heap->capacity && txn->heap_index == NOT_IN_HEAP);
    heap->items[heap->count] = txn;
    heap_up(heap, heap->count++);
}

void deadline_heap_remove(struct deadline_heap *heap, struct txn *txn) {
    uint32_t at = txn->heap_index;
    if (at == NOT_IN_HEAP) {
        return;
    }
    assert(at < heap->count && heap->items[at] == txn);
    txn->heap_index = NOT_IN_HEAP;
    struct txn *last = heap->items[--heap->count];
    if (last != txn) {
        heap_place(heap, at, last);
        heap_up(heap, at);
        heap_down(heap, last->heap_index);
    }
}

void deadline_heap_free(struct deadline_heap *heap) {
    free(heap->items);
    *heap = (struct deadline_heap){0};
}
