/*
 * table.h: the engine's containers: transactions by (epoch, sequence), outcomes remembered, and the deadline heap.
 * Pure; cost per operation does not depend on how much is in them (the heap: its logarithm).
 */
#ifndef LOCKSTEP_TABLE_H
#define LOCKSTEP_TABLE_H

#include "coordinator/core/txn.h"
#include "lockstep/status.h"

struct txn_table {
    struct txn **buckets;
    uint32_t bucket_count; /* a power of two */
    uint32_t count;
};
enum ls_status txn_table_init(struct txn_table *table) LS_MUST_CHECK;
void txn_table_free(struct txn_table *table); /* not the transactions */
struct txn *txn_table_find(const struct txn_table *table, uint32_t epoch, uint64_t sequence);
/* Not there before (assert). Growing is an optimisation: without memory the chains get longer. */
void txn_table_insert(struct txn_table *table, struct txn *txn);
void txn_table_remove(struct txn_table *table, struct txn *txn);

/* The last `capacity` outcomes; the oldest is forgotten for the newest. */
struct finished_table {
    struct txn_finished *ring;
    uint32_t *next; /* chain of the same bucket */
    uint32_t *buckets;
    uint32_t capacity, count, head, bucket_count;
};
enum ls_status finished_table_init(struct finished_table *table, uint32_t capacity) LS_MUST_CHECK;
void finished_table_free(struct finished_table *table);
/* Takes over outcome->cause. An older entry of the same transaction is replaced. */
void finished_table_put(struct finished_table *table, const struct txn_finished *outcome);
struct txn_finished *finished_table_find(const struct finished_table *table, uint32_t epoch, uint64_t sequence);

/* Binary heap on deadline_us; txn->heap_index is its place. */
struct deadline_heap {
    struct txn **items;
    uint32_t count, capacity;
};
/* Room for one more; call before deadline_heap_push. */
enum ls_status deadline_heap_reserve(struct deadline_heap *heap, uint32_t count) LS_MUST_CHECK;
void deadline_heap_push(struct deadline_heap *heap, struct txn *txn);
void deadline_heap_remove(struct deadline_heap *heap, struct txn *txn); /* fine if it is not in it */
void deadline_heap_free(struct deadline_heap *heap);

#endif
