/*
 * engine_saga.c: what a saga needs of the engine beside its attempts, which are transactions like any other: a name out
 * of the same sequence, its place in the table of Idempotency-Keys, and room in the log that nobody else counts on.
 */
#include <assert.h>
#include <string.h>

#include "coordinator/core/engine_internal.h"

static enum engine_saga_answer refuse(struct engine *e, struct engine_saga *saga, enum refuse_why why,
                                      uint32_t number) {
    saga->why = why;
    saga->participant = number;
    e->stats.refused++;
    return ENGINE_SAGA_REFUSED;
}

bool engine_saga_reserve(struct engine *e, uint64_t bytes) {
    if (bytes > 0 && (e->log_room < bytes || e->log_room - bytes < e->log_reserved)) {
        return false;
    }
    engine_saga_adopt(e, bytes);
    return true;
}

void engine_saga_adopt(struct engine *e, uint64_t bytes) {
    e->log_reserved += bytes;
    e->saga_reserved += bytes;
}

void engine_saga_release(struct engine *e, uint64_t bytes) {
    assert(e->saga_reserved >= bytes && e->log_reserved >= e->saga_reserved);
    e->log_reserved -= bytes;
    e->saga_reserved -= bytes;
}

bool engine_saga_key_answers(struct engine *e, struct engine_saga *saga, enum engine_saga_answer *ret_answer) {
    const struct key_entry *entry = saga->has_key ? key_table_find(&e->keys, saga->key_digest) : NULL;
    if (entry == NULL) {
        return false;
    }
    if (memcmp(entry->document_digest, saga->document_digest, sizeof entry->document_digest) != 0) {
        *ret_answer = refuse(e, saga, REFUSE_KEY_MISMATCH, 0);
        return true;
    }
    saga->epoch = entry->epoch;
    saga->sequence = entry->sequence;
    *ret_answer = ENGINE_SAGA_JOINED;
    return true;
}

enum engine_saga_answer engine_saga_begin(struct engine *e, struct engine_saga *saga) {
    enum engine_saga_answer answer;
    if (engine_saga_key_answers(e, saga, &answer)) {
        return answer;
    }
    if (e->draining) {
        return refuse(e, saga, REFUSE_DRAINING, 0);
    }
    for (uint32_t i = 0; i < saga->participant_count; i++) {
        if (!engine_participant(e, saga->participants[i])->linked) {
            return refuse(e, saga, REFUSE_OFFLINE, saga->participants[i]);
        }
    }
    if (e->next_sequence > LS_SEQUENCE_MAX) {
        return refuse(e, saga, REFUSE_BUSY, 0);
    }
    if (!engine_saga_reserve(e, saga->log_need)) {
        return refuse(e, saga, REFUSE_LOG_FULL, 0);
    }
    if (saga->has_key) {
        enum ls_status status =
            key_table_take(&e->keys, saga->key_digest, saga->document_digest, e->config.epoch, e->next_sequence);
        if (status != LS_OK) {
            engine_saga_release(e, saga->log_need);
            return refuse(e, saga, status == LS_ERR_FULL ? REFUSE_KEYS_FULL : REFUSE_NOMEM, 0);
        }
    }
    saga->epoch = e->config.epoch;
    saga->sequence = e->next_sequence++;
    return ENGINE_SAGA_BEGUN;
}

void engine_saga_key_durable(struct engine *e, const uint8_t key_digest[16], uint64_t log_position) {
    if (key_table_find(&e->keys, key_digest) != NULL) {
        key_table_done(&e->keys, key_digest, log_position);
    }
}
