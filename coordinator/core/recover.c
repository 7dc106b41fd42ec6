/*
 * recover.c: see recover.h. Folds the log's records into tables; last writer wins where a record is a newer state of
 * the same thing.
 */
#include "coordinator/core/recover.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/frame.h"
#include "lockstep.pb-c.h"

#define FIRST_BUCKETS 1024u

struct decision {
    struct decision *next; /* same bucket */
    uint32_t epoch;
    uint64_t sequence;
    uint64_t position;
    bool committed; /* a decision record was seen; a hazard may come without one */
    Lockstep__LogCommit *record;
    uint32_t *hazards;
    uint32_t hazard_count;
};

struct key {
    uint32_t epoch;
    uint64_t sequence, position;
    uint8_t key_digest[16], document_digest[16];
};

struct recovery {
    uint32_t last_epoch;
    uint64_t running_ms;
    struct recovery_participant *participants;
    size_t participant_count, participant_capacity;
    struct decision **buckets;
    size_t bucket_count, decision_count, open_count;
    struct key *keys;
    size_t key_count, key_capacity;
    char **acceptances; /* subjects, in log order: the participant's own record may come later */
    size_t acceptance_count;
};

struct recovery *recovery_new(void) {
    struct recovery *r = calloc(1, sizeof *r);
    if (r == NULL) {
        return NULL;
    }
    r->bucket_count = FIRST_BUCKETS;
    r->buckets = calloc(r->bucket_count, sizeof(struct decision *));
    if (r->buckets == NULL) {
        free(r);
        return NULL;
    }
    return r;
}

static void decision_free(struct decision *d) {
    if (d->record != NULL) {
        lockstep__log_commit__free_unpacked(d->record, NULL);
    }
    free(d->hazards);
    free(d);
}

void recovery_free(struct recovery *r) {
    if (r == NULL) {
        return;
    }
    for (size_t i = 0; i < r->bucket_count; i++) {
        struct decision *d = r->buckets[i];
        while (d != NULL) {
            struct decision *next = d->next;
            decision_free(d);
            d = next;
        }
    }
    for (size_t i = 0; i < r->acceptance_count; i++) {
        free(r->acceptances[i]);
    }
    free(r->acceptances);
    for (size_t i = 0; i < r->participant_count; i++) {
        free(r->participants[i].sightings);
    }
    free(r->buckets);
    free(r->participants);
    free(r->keys);
    free(r);
}

/* A payload that could not be unpacked, or says what cannot be. */
static enum ls_status senseless(const struct frame_memory *memory, const char *what, uint64_t position,
                                struct ls_error *err) {
    if (memory->exhausted) {
        return ls_fail(err, LS_ERR_NOMEM, "replaying the log");
    }
    return ls_fail(err, LS_ERR_CORRUPT, "%s record at %llu makes no sense", what, (unsigned long long)position);
}

/* ------------------------------------------------------------- decisions */

static size_t bucket_of(const struct recovery *r, uint32_t epoch, uint64_t sequence) {
    uint64_t mixed = (sequence ^ ((uint64_t)epoch << 40)) * UINT64_C(0x9e3779b97f4a7c15);
    return (size_t)(mixed >> 32) & (r->bucket_count - 1);
}

static struct decision *find_decision(const struct recovery *r, uint32_t epoch, uint64_t sequence) {
    struct decision *d = r->buckets[bucket_of(r, epoch, sequence)];
    while (d != NULL && (d->epoch != epoch || d->sequence != sequence)) {
        d = d->next;
    }
    return d;
}

static void grow_buckets(struct recovery *r) {
    size_t count = r->bucket_count * 2;
    struct decision **grown = calloc(count, sizeof(struct decision *));
    if (grown == NULL) {
        return; /* longer chains */
    }
    struct decision **old = r->buckets;
    size_t old_count = r->bucket_count;
    r->buckets = grown;
    r->bucket_count = count;
    for (size_t i = 0; i < old_count; i++) {
        struct decision *d = old[i];
        while (d != NULL) {
            struct decision *next = d->next;
            size_t at = bucket_of(r, d->epoch, d->sequence);
            d->next = grown[at];
            grown[at] = d;
            d = next;
        }
    }
    free(old);
}

static struct decision *find_or_add(struct recovery *r, uint32_t epoch, uint64_t sequence) {
    struct decision *d = find_decision(r, epoch, sequence);
    if (d != NULL) {
        return d;
    }
    if (r->decision_count >= r->bucket_count) {
        grow_buckets(r);
    }
    d = calloc(1, sizeof *d);
    if (d == NULL) {
        return NULL;
    }
    d->epoch = epoch;
    d->sequence = sequence;
    size_t at = bucket_of(r, epoch, sequence);
    d->next = r->buckets[at];
    r->buckets[at] = d;
    r->decision_count++;
    return d;
}

static void drop_decision(struct recovery *r, struct decision *d) {
    struct decision **link = &r->buckets[bucket_of(r, d->epoch, d->sequence)];
    while (*link != d) {
        link = &(*link)->next;
    }
    *link = d->next;
    r->decision_count--;
    decision_free(d);
}

static bool branch_is_sound(const Lockstep__LogBranch *b) {
    return b->participant >= 1 && b->participant <= LS_PARTICIPANT_NUMBER_MAX && b->xid != 0 && b->system_id != 0 &&
           strlen(b->gid) >= 1 && strlen(b->gid) <= LS_GID_MAX && strlen(b->owner) >= 1 &&
           strlen(b->owner) <= LS_ROLE_MAX;
}

static bool commit_is_sound(const Lockstep__LogCommit *c) {
    if (c->epoch == 0 || c->sequence == 0 || c->n_branches == 0 || c->n_branches > LS_PARTICIPANTS_PER_TXN_CEILING) {
        return false;
    }
    for (size_t i = 0; i < c->n_branches; i++) {
        if (!branch_is_sound(c->branches[i])) {
            return false;
        }
    }
    bool digests = c->has_key_digest == c->has_document_digest;
    return digests && (!c->has_key_digest || (c->key_digest.len == 16 && c->document_digest.len == 16));
}

static enum ls_status take_key(struct recovery *r, uint32_t epoch, uint64_t sequence, const uint8_t *key_digest,
                               const uint8_t *document_digest, uint64_t position) {
    if (r->key_count == r->key_capacity) {
        size_t capacity = r->key_capacity == 0 ? 1024 : r->key_capacity * 2;
        struct key *keys = realloc(r->keys, capacity * sizeof *keys);
        if (keys == NULL) {
            return LS_ERR_NOMEM;
        }
        r->keys = keys;
        r->key_capacity = capacity;
    }
    struct key *key = &r->keys[r->key_count++];
    *key = (struct key){.epoch = epoch, .sequence = sequence, .position = position};
    memcpy(key->key_digest, key_digest, 16);
    memcpy(key->document_digest, document_digest, 16);
    return LS_OK;
}

static enum ls_status on_commit(struct recovery *r, uint64_t position, const uint8_t *payload, size_t length,
                                struct ls_error *err) {
    struct frame_memory memory;
    frame_memory_init(&memory);
    Lockstep__LogCommit *c = lockstep__log_commit__unpack(&memory.allocator, length, payload);
    if (c == NULL || !commit_is_sound(c)) {
        if (c != NULL) {
            lockstep__log_commit__free_unpacked(c, NULL);
        }
        return senseless(&memory, "decision", position, err);
    }
    struct decision *d = find_or_add(r, c->epoch, c->sequence);
    enum ls_status status = d == NULL ? LS_ERR_NOMEM : LS_OK;
    if (status == LS_OK && c->has_key_digest) {
        status = take_key(r, c->epoch, c->sequence, c->key_digest.data, c->document_digest.data, position);
    }
    if (status != LS_OK) {
        lockstep__log_commit__free_unpacked(c, NULL);
        return ls_fail(err, status, "replaying the log");
    }
    if (!d->committed) {
        r->open_count++;
    }
    if (d->record != NULL) {
        lockstep__log_commit__free_unpacked(d->record, NULL); /* a copy says the same */
    }
    d->committed = true;
    d->record = c;
    d->position = position;
    return LS_OK;
}

static enum ls_status on_end(struct recovery *r, uint64_t position, const uint8_t *payload, size_t length,
                             struct ls_error *err) {
    struct frame_memory memory;
    frame_memory_init(&memory);
    Lockstep__LogEnd *end = lockstep__log_end__unpack(&memory.allocator, length, payload);
    if (end == NULL) {
        return senseless(&memory, "end", position, err);
    }
    struct decision *d = find_decision(r, end->epoch, end->sequence);
    if (d != NULL && d->committed) {
        r->open_count--;
    }
    if (d != NULL) {
        drop_decision(r, d); /* a copy never follows an end: only open decisions are copied */
    }
    lockstep__log_end__free_unpacked(end, NULL);
    return LS_OK;
}

static enum ls_status on_hazard(struct recovery *r, uint64_t position, const uint8_t *payload, size_t length,
                                struct ls_error *err) {
    struct frame_memory memory;
    frame_memory_init(&memory);
    Lockstep__LogHazard *h = lockstep__log_hazard__unpack(&memory.allocator, length, payload);
    if (h == NULL || h->participant < 1 || h->participant > LS_PARTICIPANT_NUMBER_MAX) {
        if (h != NULL) {
            lockstep__log_hazard__free_unpacked(h, NULL);
        }
        return senseless(&memory, "hazard", position, err);
    }
    enum ls_status status = LS_OK;
    struct decision *d = find_or_add(r, h->epoch, h->sequence);
    uint32_t *grown = d == NULL ? NULL : realloc(d->hazards, (d->hazard_count + 1) * sizeof *grown);
    if (grown == NULL) {
        status = ls_fail(err, LS_ERR_NOMEM, "replaying the log");
    } else {
        d->hazards = grown;
        d->hazards[d->hazard_count++] = h->participant;
    }
    lockstep__log_hazard__free_unpacked(h, NULL);
    return status;
}

/* ------------------------------------------------------------- registry */

static struct recovery_participant *participant_by_number(struct recovery *r, uint32_t number) {
    for (size_t i = 0; i < r->participant_count; i++) {
        if (r->participants[i].number == number) {
            return &r->participants[i];
        }
    }
    if (r->participant_count == r->participant_capacity) {
        size_t capacity = r->participant_capacity == 0 ? 16 : r->participant_capacity * 2;
        struct recovery_participant *grown = realloc(r->participants, capacity * sizeof *grown);
        if (grown == NULL) {
            return NULL;
        }
        r->participants = grown;
        r->participant_capacity = capacity;
    }
    struct recovery_participant *p = &r->participants[r->participant_count++];
    *p = (struct recovery_participant){.number = number};
    return p;
}

/* Is `subject` an acceptance for this participant? Then it is its newest. */
static void apply_acceptance(struct recovery_participant *p, const char *subject) {
    size_t length = strlen(p->name);
    if (length > 0 && strncmp(subject, p->name, length) == 0 && subject[length] == ' ' &&
        strlen(subject + length + 1) == LS_INCARNATION_LEN) {
        memcpy(p->accepted_incarnation, subject + length + 1, LS_INCARNATION_LEN + 1);
    }
}

static enum ls_status take_acceptance(struct recovery *r, const char *subject, struct ls_error *err) {
    char *copy = strdup(subject);
    char **grown = copy == NULL ? NULL : realloc(r->acceptances, (r->acceptance_count + 1) * sizeof(char *));
    if (grown == NULL) {
        free(copy);
        return ls_fail(err, LS_ERR_NOMEM, "replaying the log");
    }
    r->acceptances = grown;
    r->acceptances[r->acceptance_count++] = copy;
    for (size_t i = 0; i < r->participant_count; i++) {
        apply_acceptance(&r->participants[i], subject);
    }
    return LS_OK;
}

/* The newest record holds the whole list. */
static enum ls_status take_sightings(struct recovery_participant *p, const Lockstep__LogParticipant *record) {
    struct recovery_sighting *list = calloc(record->n_sightings + 1, sizeof *list);
    if (list == NULL) {
        return LS_ERR_NOMEM;
    }
    for (size_t i = 0; i < record->n_sightings; i++) {
        const Lockstep__LogSighting *from = record->sightings[i];
        list[i] = (struct recovery_sighting){.epoch = from->epoch, .sequence = from->sequence, .lsn = from->lsn};
    }
    free(p->sightings);
    p->sightings = list;
    p->sighting_count = record->n_sightings;
    return LS_OK;
}

static enum ls_status on_participant(struct recovery *r, uint64_t position, const uint8_t *payload, size_t length,
                                     struct ls_error *err) {
    struct frame_memory memory;
    frame_memory_init(&memory);
    Lockstep__LogParticipant *record = lockstep__log_participant__unpack(&memory.allocator, length, payload);
    bool sound = record != NULL && record->number >= 1 && record->number <= LS_PARTICIPANT_NUMBER_MAX &&
                 ls_name_valid(record->name, LS_PARTICIPANT_MAX);
    struct recovery_participant *p = sound ? participant_by_number(r, record->number) : NULL;
    enum ls_status status = LS_OK;
    if (!sound || (p != NULL && p->name[0] != '\0' && strcmp(p->name, record->name) != 0)) {
        status = senseless(&memory, "participant", position, err);
    } else if (p == NULL || take_sightings(p, record) != LS_OK) {
        status = ls_fail(err, LS_ERR_NOMEM, "replaying the log");
    } else {
        bool new = p->name[0] == '\0';
        (void)snprintf(p->name, sizeof p->name, "%s", record->name);
        for (size_t i = 0; new &&i < r->acceptance_count; i++) {
            apply_acceptance(p, r->acceptances[i]);
        }
        if (record->has_system_id) {
            p->system_id = record->system_id;
        }
        if (record->has_timeline) {
            p->timeline = record->timeline;
        }
        if (record->has_changed_epoch) {
            p->changed_epoch = record->changed_epoch;
        }
    }
    if (record != NULL) {
        lockstep__log_participant__free_unpacked(record, NULL);
    }
    return status;
}

void recovery_accept_subject(const char *participant, const char *incarnation, char *ret_subject) {
    assert(ls_name_valid(participant, LS_PARTICIPANT_MAX) && strlen(incarnation) == LS_INCARNATION_LEN);
    (void)snprintf(ret_subject, LS_PARTICIPANT_MAX + 1 + LS_INCARNATION_LEN + 1, "%s %s", participant, incarnation);
}

static enum ls_status on_audit(struct recovery *r, uint64_t position, const uint8_t *payload, size_t length,
                               struct ls_error *err) {
    struct frame_memory memory;
    frame_memory_init(&memory);
    Lockstep__LogAudit *audit = lockstep__log_audit__unpack(&memory.allocator, length, payload);
    if (audit == NULL) {
        return senseless(&memory, "audit", position, err);
    }
    enum ls_status status = strcmp(audit->act, "accept") == 0 ? take_acceptance(r, audit->subject, err) : LS_OK;
    lockstep__log_audit__free_unpacked(audit, NULL);
    return status;
}

/* The saga itself is saga_recover.c's; its key stands in the same table as those of transactions. */
static enum ls_status on_saga_begin(struct recovery *r, uint64_t position, const uint8_t *payload, size_t length,
                                    struct ls_error *err) {
    Lockstep__LogSagaBegin *b = lockstep__log_saga_begin__unpack(NULL, length, payload);
    bool keyed = b != NULL && b->has_key_digest && b->has_document_digest;
    enum ls_status status = LS_OK;
    if (b == NULL || (keyed && (b->key_digest.len != 16 || b->document_digest.len != 16))) {
        status = ls_fail(err, LS_ERR_CORRUPT, "saga record at %llu makes no sense", (unsigned long long)position);
    } else if (keyed &&
               take_key(r, b->epoch, b->sequence, b->key_digest.data, b->document_digest.data, position) != LS_OK) {
        status = ls_fail(err, LS_ERR_NOMEM, "replaying the log");
    }
    if (b != NULL) {
        lockstep__log_saga_begin__free_unpacked(b, NULL);
    }
    return status;
}

static enum ls_status on_epoch(struct recovery *r, uint64_t position, const uint8_t *payload, size_t length,
                               struct ls_error *err) {
    struct frame_memory memory;
    frame_memory_init(&memory);
    Lockstep__LogEpoch *epoch = lockstep__log_epoch__unpack(&memory.allocator, length, payload);
    if (epoch == NULL || epoch->epoch == 0) {
        if (epoch != NULL) {
            lockstep__log_epoch__free_unpacked(epoch, NULL);
        }
        return senseless(&memory, "epoch", position, err);
    }
    if (epoch->epoch > r->last_epoch) {
        r->last_epoch = epoch->epoch;
    }
    lockstep__log_epoch__free_unpacked(epoch, NULL);
    return LS_OK;
}

static enum ls_status on_mark(struct recovery *r, uint64_t position, const uint8_t *payload, size_t length,
                              struct ls_error *err) {
    struct frame_memory memory;
    frame_memory_init(&memory);
    Lockstep__LogMark *mark = lockstep__log_mark__unpack(&memory.allocator, length, payload);
    if (mark == NULL) {
        return senseless(&memory, "mark", position, err);
    }
    if (mark->running_ms > r->running_ms) {
        r->running_ms = mark->running_ms;
    }
    lockstep__log_mark__free_unpacked(mark, NULL);
    return LS_OK;
}

enum ls_status recovery_record(struct recovery *r, enum dlog_type type, uint64_t position, const uint8_t *payload,
                               size_t length, struct ls_error *err) {
    switch (type) {
    case DLOG_EPOCH:
        return on_epoch(r, position, payload, length, err);
    case DLOG_COMMIT:
        return on_commit(r, position, payload, length, err);
    case DLOG_END:
        return on_end(r, position, payload, length, err);
    case DLOG_PARTICIPANT:
        return on_participant(r, position, payload, length, err);
    case DLOG_HAZARD:
        return on_hazard(r, position, payload, length, err);
    case DLOG_MARK:
        return on_mark(r, position, payload, length, err);
    case DLOG_AUDIT:
        return on_audit(r, position, payload, length, err);
    case DLOG_SAGA_BEGIN:
        return on_saga_begin(r, position, payload, length, err);
    case DLOG_SAGA_PHASE:
    case DLOG_SAGA_END:
        return LS_OK;
    }
    return ls_fail(err, LS_ERR_CORRUPT, "record of unknown type %d at %llu", (int)type, (unsigned long long)position);
}

/* --------------------------------------------------------------- result */

uint32_t recovery_last_epoch(const struct recovery *r) {
    return r->last_epoch;
}
uint64_t recovery_running_ms(const struct recovery *r) {
    return r->running_ms;
}
size_t recovery_participant_count(const struct recovery *r) {
    return r->participant_count;
}
size_t recovery_open_count(const struct recovery *r) {
    return r->open_count;
}
size_t recovery_acceptance_count(const struct recovery *r) {
    return r->acceptance_count;
}

const char *recovery_acceptance(const struct recovery *r, size_t index) {
    assert(index < r->acceptance_count);
    return r->acceptances[index];
}

const struct recovery_participant *recovery_participant(const struct recovery *r, size_t index) {
    assert(index < r->participant_count);
    return &r->participants[index];
}

static void apply_decision(const struct decision *d, struct engine *engine, recovery_app app, void *context,
                           uint64_t now_us, struct engine_effects *effects) {
    struct txn_branch_id ids[LS_PARTICIPANTS_PER_TXN_CEILING];
    const Lockstep__LogCommit *c = d->record;
    for (size_t i = 0; i < c->n_branches; i++) {
        const Lockstep__LogBranch *b = c->branches[i];
        ids[i] = (struct txn_branch_id){.participant = b->participant,
                                        .timeline = b->timeline,
                                        .system_id = b->system_id,
                                        .xid = b->xid,
                                        .lsn = b->lsn,
                                        .gid = b->gid,
                                        .owner = b->owner};
    }
    struct engine_event event = {.kind = EV_RECOVER_TXN, .now_us = now_us};
    event.recover_txn.epoch = d->epoch;
    event.recover_txn.sequence = d->sequence;
    event.recover_txn.app = app(context, c->app != NULL ? c->app : "");
    event.recover_txn.branches = ids;
    event.recover_txn.branch_count = (uint32_t)c->n_branches;
    event.recover_txn.hazard_branches = d->hazards;
    event.recover_txn.hazard_count = d->hazard_count;
    event.recover_txn.log_position = d->position;
    event.recover_txn.has_key = c->has_key_digest;
    if (c->has_key_digest) {
        memcpy(event.recover_txn.key_digest, c->key_digest.data, 16);
        memcpy(event.recover_txn.document_digest, c->document_digest.data, 16);
    }
    engine_step(engine, &event, effects);
}

/* A hazard without an open decision: of an abort, or of a transaction that had ended before its branch was found
 * broken. What else it did is not in this record; the hazard itself is shown until it is resolved. */
static void apply_hazard(const struct decision *d, struct engine *engine, uint64_t now_us,
                         struct engine_effects *effects) {
    struct txn_branch_id ids[LS_PARTICIPANTS_PER_TXN_CEILING];
    uint32_t count = 0;
    for (uint32_t i = 0; i < d->hazard_count && count < LS_PARTICIPANTS_PER_TXN_CEILING; i++) {
        bool seen = false;
        for (uint32_t k = 0; k < count; k++) {
            seen = seen || ids[k].participant == d->hazards[i];
        }
        if (!seen) {
            ids[count++] = (struct txn_branch_id){.participant = d->hazards[i], .gid = "", .owner = ""};
        }
    }
    struct engine_event event = {.kind = EV_RECOVER_TXN, .now_us = now_us};
    event.recover_txn.epoch = d->epoch;
    event.recover_txn.sequence = d->sequence;
    event.recover_txn.branches = ids;
    event.recover_txn.branch_count = count;
    event.recover_txn.hazard_branches = d->hazards;
    event.recover_txn.hazard_count = d->hazard_count;
    engine_step(engine, &event, effects);
}

static int compare_decisions(const void *left, const void *right) {
    const struct decision *a = *(const struct decision *const *)left, *b = *(const struct decision *const *)right;
    if (a->epoch != b->epoch) {
        return a->epoch < b->epoch ? -1 : 1;
    }
    return (a->sequence > b->sequence) - (a->sequence < b->sequence);
}

void recovery_apply(const struct recovery *r, struct engine *engine, recovery_app app, void *context, uint64_t now_us,
                    struct engine_effects *effects) {
    for (size_t i = 0; i < r->participant_count; i++) {
        struct engine_event event = {.kind = EV_PARTICIPANT, .now_us = now_us};
        event.participant.number = r->participants[i].number;
        event.participant.name = r->participants[i].name;
        engine_step(engine, &event, effects);
    }
    for (size_t i = 0; i < r->key_count; i++) {
        struct engine_event event = {.kind = EV_RECOVER_KEY, .now_us = now_us};
        event.recover_key.epoch = r->keys[i].epoch;
        event.recover_key.sequence = r->keys[i].sequence;
        event.recover_key.log_position = r->keys[i].position;
        memcpy(event.recover_key.key_digest, r->keys[i].key_digest, 16);
        memcpy(event.recover_key.document_digest, r->keys[i].document_digest, 16);
        engine_step(engine, &event, effects);
    }
    /* Oldest first, so that lists and resends do not depend on how the table hashes. */
    const struct decision **kept = r->decision_count > 0 ? malloc(r->decision_count * sizeof(struct decision *)) : NULL;
    if (kept == NULL && r->decision_count > 0) {
        abort(); /* starting without a decision would be worse than not starting */
    }
    size_t count = 0;
    for (size_t i = 0; i < r->bucket_count; i++) {
        for (const struct decision *d = r->buckets[i]; d != NULL; d = d->next) {
            assert(count < r->decision_count);
            kept[count++] = d;
        }
    }
    assert(count == r->decision_count);
    if (count > 0) {
        qsort(kept, count, sizeof(struct decision *), compare_decisions);
    }
    for (size_t i = 0; i < count; i++) {
        if (kept[i]->committed) {
            apply_decision(kept[i], engine, app, context, now_us, effects);
        } else {
            apply_hazard(kept[i], engine, now_us, effects);
        }
    }
    free(kept);
}
