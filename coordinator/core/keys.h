/*
 * keys.h: Idempotency-Keys: (identity, key) -> the transaction that used it and the document it was used with.
 *
 * A key is taken when its run is accepted, kept as long as the log keeps the decision, and given back when the run
 * aborts (a key whose run was aborted may run again). It is never dropped inside the window: a full table refuses new
 * keyed requests instead. Pure.
 */
#ifndef LOCKSTEP_KEYS_H
#define LOCKSTEP_KEYS_H

#include <stdbool.h>
#include <stdint.h>

#include "lockstep/status.h"

#define KEY_NEVER UINT64_MAX /* log_position of a key whose transaction is not finished */

struct key_entry {
    uint8_t key_digest[16], document_digest[16];
    uint32_t epoch;
    uint32_t next; /* same bucket, or free list */
    uint64_t sequence;
    uint64_t log_position; /* dropped when the horizon passes it */
    uint32_t newer, older; /* in order of completion */
    bool used, done;
};

struct key_table {
    struct key_entry *entries;
    uint32_t *buckets;
    uint32_t capacity, limit, bucket_count, count, free_first;
    uint32_t oldest, newest; /* of the done ones */
};

enum ls_status key_table_init(struct key_table *table, uint32_t limit) LS_MUST_CHECK;
void key_table_free(struct key_table *table);
struct key_entry *key_table_find(const struct key_table *table, const uint8_t key_digest[16]);
/* LS_ERR_FULL at the limit, LS_ERR_NOMEM. The key must not be there (assert). */
enum ls_status key_table_take(struct key_table *table, const uint8_t key_digest[16], const uint8_t document_digest[16],
                              uint32_t epoch, uint64_t sequence) LS_MUST_CHECK;
/* The run aborted: the key may run again. Only if it is still this transaction's. */
void key_table_give_back(struct key_table *table, const uint8_t key_digest[16], uint32_t epoch, uint64_t sequence);
/* The run is finished: the key is kept until the horizon passes `log_position`. */
void key_table_done(struct key_table *table, const uint8_t key_digest[16], uint64_t log_position);
/* A newer copy of the finished run's decision stands at `log_position`: the key is kept until the horizon passes that.
 */
void key_table_move(struct key_table *table, const uint8_t key_digest[16], uint64_t log_position);
/* Drops what lies before the horizon, except keys of transactions that `still_open` says are not applied everywhere:
 * their decisions are carried on by the log, and so are they (to `log_end`). */
void key_table_expire(struct key_table *table, uint64_t log_position, uint64_t log_end,
                      bool (*still_open)(const void *context, uint32_t epoch, uint64_t sequence), const void *context);

#endif
