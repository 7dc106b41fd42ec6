/* keys.c: see keys.h. Chained hash over a growing array; the chains hold indexes, so growing moves nothing but memory.
 */
#include "coordinator/core/keys.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define NONE UINT32_MAX
#define FIRST_CAPACITY 1024u

enum ls_status key_table_init(struct key_table *table, uint32_t limit) {
    assert(limit < NONE / 4);
    *table = (struct key_table){.limit = limit, .free_first = NONE, .oldest = NONE, .newest = NONE};
    return LS_OK;
}

void key_table_free(struct key_table *table) {
    free(table->entries);
    free(table->buckets);
    *table = (struct key_table){.free_first = NONE, .oldest = NONE, .newest = NONE};
}

/* The digest is a cut cryptographic hash: any part of it is a hash. */
static uint32_t *key_bucket(const struct key_table *table, const uint8_t key_digest[16]) {
    uint32_t hash;
    memcpy(&hash, key_digest, sizeof hash);
    return &table->buckets[hash & (table->bucket_count - 1)];
}

struct key_entry *key_table_find(const struct key_table *table, const uint8_t key_digest[16]) {
    if (table->bucket_count == 0) {
        return NULL;
    }
    for (uint32_t at = *key_bucket(table, key_digest); at != NONE; at = table->entries[at].next) {
        if (memcmp(table->entries[at].key_digest, key_digest, 16) == 0) {
            return &table->entries[at];
        }
    }
    return NULL;
}

static enum ls_status key_table_grow(struct key_table *table) {
    uint32_t capacity = table->capacity == 0 ? FIRST_CAPACITY : table->capacity * 2;
    if (capacity > table->limit) {
        capacity = table->limit;
    }
    assert(capacity > table->capacity);
    uint32_t bucket_count = FIRST_CAPACITY;
    while (bucket_count < capacity) {
        bucket_count *= 2;
    }
    struct key_entry *entries = realloc(table->entries, capacity * sizeof *entries);
    if (entries == NULL) {
        return LS_ERR_NOMEM;
    }
    table->entries = entries;
    uint32_t *buckets = malloc(bucket_count * sizeof *buckets);
    if (buckets == NULL) {
        return LS_ERR_NOMEM; /* the larger array is kept for the next try; capacity still says the old size */
    }
    free(table->buckets);
    table->buckets = buckets;
    table->bucket_count = bucket_count;
    for (uint32_t i = 0; i < bucket_count; i++) {
        buckets[i] = NONE;
    }
    for (uint32_t i = 0; i < table->capacity; i++) { /* all in use, or we would not grow */
        uint32_t *bucket = key_bucket(table, entries[i].key_digest);
        entries[i].next = *bucket;
        *bucket = i;
    }
    for (uint32_t i = capacity; i > table->capacity; i--) {
        entries[i - 1] = (struct key_entry){.next = table->free_first};
        table->free_first = i - 1;
    }
    table->capacity = capacity;
    return LS_OK;
}

enum ls_status key_table_take(struct key_table *table, const uint8_t key_digest[16], const uint8_t document_digest[16],
                              uint32_t epoch, uint64_t sequence) {
    assert(key_table_find(table, key_digest) == NULL);
    if (table->count >= table->limit) {
        return LS_ERR_FULL;
    }
    if (table->free_first == NONE) {
        enum ls_status status = key_table_grow(table);
        if (status != LS_OK) {
            return status;
        }
    }
    uint32_t at = table->free_first;
    struct key_entry *entry = &table->entries[at];
    table->free_first = entry->next;
    *entry = (struct key_entry){
        .epoch = epoch, .sequence = sequence, .log_position = KEY_NEVER, .used = true, .newer = NONE, .older = NONE};
    memcpy(entry->key_digest, key_digest, 16);
    memcpy(entry->document_digest, document_digest, 16);
    uint32_t *bucket = key_bucket(table, key_digest);
    entry->next = *bucket;
    *bucket = at;
    table->count++;
    return LS_OK;
}

/* Out of the list of the done ones. */
static void leave_done(struct key_table *table, struct key_entry *entry) {
    *(entry->older == NONE ? &table->oldest : &table->entries[entry->older].newer) = entry->newer;
    *(entry->newer == NONE ? &table->newest : &table->entries[entry->newer].older) = entry->older;
}

/* Into it, as the newest. */
static void enter_done(struct key_table *table, struct key_entry *entry, uint64_t log_position) {
    uint32_t at = (uint32_t)(entry - table->entries);
    entry->log_position = log_position;
    entry->older = table->newest;
    entry->newer = NONE;
    *(table->newest == NONE ? &table->oldest : &table->entries[table->newest].newer) = at;
    table->newest = at;
}

static void key_drop(struct key_table *table, uint32_t at) {
    struct key_entry *entry = &table->entries[at];
    assert(entry->used);
    uint32_t *link = key_bucket(table, entry->key_digest);
    while (*link != at) {
        assert(*link != NONE);
        link = &table->entries[*link].next;
    }
    *link = entry->next;
    if (entry->done) {
        leave_done(table, entry);
    }
    *entry = (struct key_entry){.next = table->free_first};
    table->free_first = at;
    table->count--;
}

void key_table_give_back(struct key_table *table, const uint8_t key_digest[16], uint32_t epoch, uint64_t sequence) {
    struct key_entry *entry = key_table_find(table, key_digest);
    if (entry != NULL && entry->epoch == epoch && entry->sequence == sequence) {
        key_drop(table, (uint32_t)(entry - table->entries));
    }
}

void key_table_done(struct key_table *table, const uint8_t key_digest[16], uint64_t log_position) {
    struct key_entry *entry = key_table_find(table, key_digest);
    if (entry == NULL || entry->done) {
        return;
    }
    entry->done = true;
    enter_done(table, entry, log_position);
}

void key_table_move(struct key_table *table, const uint8_t key_digest[16], uint64_t log_position) {
    struct key_entry *entry = key_table_find(table, key_digest);
    if (entry != NULL && entry->done && entry->log_position < log_position) {
        leave_done(table, entry);
        enter_done(table, entry, log_position);
    }
}

void key_table_expire(struct key_table *table, uint64_t log_position, uint64_t log_end,
                      bool (*still_open)(const void *context, uint32_t epoch, uint64_t sequence), const void *context) {
    /* The list is in order of completion, which is nearly the order of the log; one that completed early and was logged
     * late only stays a little longer. */
    while (table->oldest != NONE && table->entries[table->oldest].log_position < log_position) {
        struct key_entry *entry = &table->entries[table->oldest];
        if (log_end >= log_position && still_open(context, entry->epoch, entry->sequence)) {
            leave_done(table, entry);
            enter_done(table, entry, log_end);
        } else {
            key_drop(table, table->oldest);
        }
    }
}
