/* kept.c: see kept.h. */
#include "coordinator/dlog/kept.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* Field numbers of the Log* messages in lockstep.proto. */
enum {
    F_EPOCH = 1,
    F_SEQUENCE = 2,
    F_HAZARD_PARTICIPANT = 3,
    F_EPOCH_EPOCH = 3,
    F_NUMBER = 1,
    F_RUNNING = 1,
    F_FIRST_SEGMENT = 2,
    F_HORIZON_EPOCH = 3,
    F_HORIZON_SEQUENCE = 4,
    F_HORIZON_RUNNING = 5,
    F_SETTLED_EPOCH = 6,
    F_SETTLED_SEQUENCE = 7
};

static enum ls_status reserve_participant(struct kept *kept, uint64_t number) {
    if (number < kept->participant_count) {
        return LS_OK;
    }
    size_t count = (size_t)number + 64;
    uint64_t *participants = realloc(kept->participants, count * sizeof *participants);
    if (participants == NULL) {
        return LS_ERR_NOMEM;
    }
    memset(participants + kept->participant_count, 0, (count - kept->participant_count) * sizeof *participants);
    kept->participants = participants;
    kept->participant_count = count;
    return LS_OK;
}

static enum ls_status reserve_hazard(struct kept *kept) {
    if (kept->hazard_count < kept->hazard_capacity) {
        return LS_OK;
    }
    size_t capacity = kept->hazard_capacity == 0 ? 16 : kept->hazard_capacity * 2;
    struct kept_hazard *hazards = realloc(kept->hazards, capacity * sizeof *hazards);
    if (hazards == NULL) {
        return LS_ERR_NOMEM;
    }
    kept->hazards = hazards;
    kept->hazard_capacity = capacity;
    return LS_OK;
}

static bool fields_valid(enum dlog_type type, const struct format_fields *f) {
    switch (type) {
    case DLOG_COMMIT:
    case DLOG_END:
    case DLOG_HAZARD:
    case DLOG_SAGA_BEGIN:
    case DLOG_SAGA_PHASE:
    case DLOG_SAGA_END:
        return f->value[F_EPOCH] >= 1 && f->value[F_EPOCH] <= UINT32_MAX && f->value[F_SEQUENCE] >= 1 &&
               f->value[F_SEQUENCE] <= LS_SEQUENCE_MAX;
    case DLOG_EPOCH:
        return f->value[F_EPOCH_EPOCH] >= 1 && f->value[F_EPOCH_EPOCH] <= UINT32_MAX;
    case DLOG_PARTICIPANT:
        return f->value[F_NUMBER] >= 1 && f->value[F_NUMBER] <= LS_PARTICIPANT_NUMBER_MAX;
    case DLOG_MARK:
        return f->present[F_RUNNING] && f->value[F_HORIZON_EPOCH] <= UINT32_MAX &&
               f->value[F_SETTLED_EPOCH] <= UINT32_MAX;
    case DLOG_AUDIT:
        return true;
    }
    return false;
}

enum ls_status kept_prepare(struct kept *kept, enum dlog_type type, const void *payload, size_t length,
                            struct kept_change *ret_change, struct ls_error *err) {
    struct kept_change change = {.type = type};
    if (!format_read_fields(payload, length, &change.fields) || !fields_valid(type, &change.fields)) {
        return ls_fail(err, LS_ERR_INVALID, "payload of a record of type %d makes no sense", (int)type);
    }
    change.key =
        (struct dlog_key){.epoch = (uint32_t)change.fields.value[F_EPOCH], .sequence = change.fields.value[F_SEQUENCE]};
    enum ls_status status = LS_OK;
    switch (type) {
    case DLOG_COMMIT:
        status = index_reserve(&kept->index, change.key);
        status = status == LS_OK ? open_reserve(&kept->open) : status;
        break;
    case DLOG_PARTICIPANT:
        status = reserve_participant(kept, change.fields.value[F_NUMBER]);
        break;
    case DLOG_HAZARD:
        status = reserve_hazard(kept);
        break;
    case DLOG_AUDIT:
        change.hash = XXH3_64bits(payload, length);
        break;
    case DLOG_SAGA_BEGIN:
        status = index_reserve(&kept->saga_begins, change.key);
        status = status == LS_OK ? open_reserve(&kept->open_sagas) : status;
        break;
    case DLOG_SAGA_PHASE:
        status = index_reserve(&kept->saga_phases, change.key);
        status = status == LS_OK ? open_reserve(&kept->open_phases) : status;
        break;
    case DLOG_SAGA_END:
        status = index_reserve(&kept->saga_ends, change.key);
        break;
    case DLOG_EPOCH:
    case DLOG_END:
    case DLOG_MARK:
        break;
    }
    if (status != LS_OK) {
        return ls_fail(err, status, "no memory for the log's index");
    }
    *ret_change = change;
    return LS_OK;
}

static void apply_hazard(struct kept *kept, const struct kept_change *change, uint64_t position) {
    uint64_t participant = change->fields.value[F_HAZARD_PARTICIPANT];
    for (size_t i = 0; i < kept->hazard_count; i++) {
        struct kept_hazard *hazard = &kept->hazards[i];
        if (hazard->participant == participant && dlog_key_compare(hazard->key, change->key) == 0) {
            hazard->position = position;
            return;
        }
    }
    assert(kept->hazard_count < kept->hazard_capacity);
    kept->hazards[kept->hazard_count++] =
        (struct kept_hazard){.key = change->key, .participant = participant, .position = position};
}

static void apply_end(struct kept *kept, const struct kept_change *change) {
    (void)open_remove(&kept->open,
                      change->key); /* a transaction with a hazard and no decision ends, too: it was never in the set */
    size_t left = 0;
    for (size_t i = 0; i < kept->hazard_count; i++) {
        if (dlog_key_compare(kept->hazards[i].key, change->key) != 0) {
            kept->hazards[left++] = kept->hazards[i];
        }
    }
    kept->hazard_count = left;
}

static void apply_audit(struct kept *kept, const struct kept_change *change, uint64_t position) {
    for (size_t i = 0; i < kept->audit_count; i++) {
        if (kept->audits[i].hash == change->hash) {
            kept->audits[i].position = position;
            return;
        }
    }
    if (kept->audit_count == KEPT_AUDITS_MAX) {
        memmove(kept->audits, kept->audits + 1, (KEPT_AUDITS_MAX - 1) * sizeof kept->audits[0]);
        kept->audit_count--;
    }
    kept->audits[kept->audit_count++] = (struct kept_audit){.hash = change->hash, .position = position};
}

static void apply_mark(struct kept *kept, const struct format_fields *f) {
    if (f->value[F_RUNNING] > kept->running_ms) {
        kept->running_ms = f->value[F_RUNNING];
    }
    struct dlog_key settled = {.epoch = (uint32_t)f->value[F_SETTLED_EPOCH], .sequence = f->value[F_SETTLED_SEQUENCE]};
    bool further = settled.epoch > kept->mark_settled.epoch ||
                   (settled.epoch == kept->mark_settled.epoch && settled.sequence > kept->mark_settled.sequence);
    if (further) {
        kept->mark_settled = settled;
    }
    if (f->present[F_FIRST_SEGMENT]) {
        kept->mark_first_segment = f->value[F_FIRST_SEGMENT];
        kept->mark_horizon =
            (struct dlog_key){.epoch = (uint32_t)f->value[F_HORIZON_EPOCH], .sequence = f->value[F_HORIZON_SEQUENCE]};
        kept->mark_horizon_running_ms = f->value[F_HORIZON_RUNNING];
    }
}

bool kept_saga_ended(const struct kept *kept, struct dlog_key key) {
    return index_get(&kept->saga_ends, key) != 0;
}

/* The end is final: its barrier rows may be gone, so a saga must not come back to life, whatever is read behind it. */
static void apply_saga(struct kept *kept, const struct kept_change *change, uint64_t position) {
    bool ended = kept_saga_ended(kept, change->key);
    if (change->type == DLOG_SAGA_END) {
        index_set(&kept->saga_ends, change->key, position);
        (void)open_remove(&kept->open_sagas, change->key);
        (void)open_remove(&kept->open_phases, change->key);
        return;
    }
    bool begin = change->type == DLOG_SAGA_BEGIN;
    index_set(begin ? &kept->saga_begins : &kept->saga_phases, change->key, position);
    if (!ended) {
        open_put(begin ? &kept->open_sagas : &kept->open_phases, change->key, position);
    }
}

void kept_apply(struct kept *kept, const struct kept_change *change, uint64_t position) {
    switch (change->type) {
    case DLOG_EPOCH:
        kept->epoch_position = position;
        if (change->fields.value[F_EPOCH_EPOCH] > kept->last_epoch) {
            kept->last_epoch = (uint32_t)change->fields.value[F_EPOCH_EPOCH];
        }
        break;
    case DLOG_COMMIT:
        index_set(&kept->index, change->key, position);
        open_put(&kept->open, change->key, position);
        break;
    case DLOG_END:
        apply_end(kept, change);
        break;
    case DLOG_PARTICIPANT:
        kept->participants[change->fields.value[F_NUMBER]] = position;
        break;
    case DLOG_HAZARD:
        apply_hazard(kept, change, position);
        break;
    case DLOG_MARK:
        apply_mark(kept, &change->fields);
        break;
    case DLOG_AUDIT:
        apply_audit(kept, change, position);
        break;
    case DLOG_SAGA_BEGIN:
    case DLOG_SAGA_PHASE:
    case DLOG_SAGA_END:
        apply_saga(kept, change, position);
        break;
    }
}

void kept_drop_below(struct kept *kept, uint64_t below, struct dlog_key *horizon) {
    struct dlog_key sagas = {0}; /* open ones were carried out: nobody asks for the others */
    index_drop_below(&kept->index, below, horizon);
    index_drop_below(&kept->saga_begins, below, &sagas);
    index_drop_below(&kept->saga_phases, below, &sagas);
    index_drop_below(&kept->saga_ends, below, &sagas);
}

void kept_free(struct kept *kept) {
    index_free(&kept->index);
    open_free(&kept->open);
    index_free(&kept->saga_begins);
    index_free(&kept->saga_phases);
    index_free(&kept->saga_ends);
    open_free(&kept->open_sagas);
    open_free(&kept->open_phases);
    free(kept->participants);
    free(kept->hazards);
    memset(kept, 0, sizeof *kept);
}
