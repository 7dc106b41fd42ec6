/* coordmsg.c: see coordmsg.h. */
#include "coordinator/coordmsg.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

/* protobuf-c wants char *; it only reads. */
static char *text(const char *borrowed) {
    return (char *)(uintptr_t)borrowed;
}

/* ------------------------------------------------------------------ Hello */

bool coordmsg_hello_is_for(const Lockstep__Hello *hello, const char *coordinator, char reason[LS_REASON_MAX + 1]) {
    if (strcmp(hello->coordinator, coordinator) != 0) {
        (void)snprintf(reason, LS_REASON_MAX + 1, "this is coordinator %s, not %s", coordinator, hello->coordinator);
    } else if (hello->version < LS_PROTOCOL_VERSION_MIN || hello->version_min > LS_PROTOCOL_VERSION) {
        (void)snprintf(reason, LS_REASON_MAX + 1, "protocol versions %u to %u are spoken here, %u to %u there",
                       LS_PROTOCOL_VERSION_MIN, LS_PROTOCOL_VERSION, hello->version_min, hello->version);
    } else if (hello->system_id == 0 || hello->timeline == 0) {
        (void)snprintf(reason, LS_REASON_MAX + 1, "Hello names no system id or timeline");
    } else {
        return true;
    }
    return false;
}

bool coordmsg_within_window(const Lockstep__Fence *remembered, const char *incarnation, uint32_t epoch,
                            uint64_t oldest_position) {
    return remembered == NULL || strcmp(remembered->incarnation, incarnation) != 0 || remembered->epoch > epoch ||
           remembered->position >= oldest_position;
}

enum ls_status coordmsg_chain_at(const Lockstep__Fence *remembered, struct dlog *log, uint32_t epoch, bool *ret_there,
                                 uint64_t *ret_chain) {
    *ret_there = false;
    if (remembered == NULL || strcmp(remembered->incarnation, dlog_incarnation(log)) != 0 ||
        remembered->epoch > epoch) {
        return LS_OK;
    }
    enum ls_status status = dlog_chain_at(log, remembered->position, ret_chain);
    *ret_there = status == LS_OK;
    return status == LS_ERR_NOT_FOUND ? LS_OK : status;
}

bool coordmsg_history_changed(const struct registry_participant *known, const Lockstep__Hello *hello) {
    return known->system_id != 0 && (known->system_id != hello->system_id || known->timeline != hello->timeline);
}

/* ------------------------------------------------------------- Vote, Done */

static enum vote_kind vote_kind_of(Lockstep__VoteKind kind) {
    switch (kind) {
    case LOCKSTEP__VOTE_KIND__YES:
        return VOTE_YES;
    case LOCKSTEP__VOTE_KIND__NO:
        return VOTE_NO;
    case LOCKSTEP__VOTE_KIND__READ_ONLY:
        return VOTE_READ_ONLY;
    case LOCKSTEP__VOTE_KIND__CONTINUE:
        return VOTE_CONTINUE;
    case LOCKSTEP__VOTE_KIND__COMMITTED:
        return VOTE_COMMITTED;
    case LOCKSTEP__VOTE_KIND__EXISTS:
        return VOTE_EXISTS;
    case LOCKSTEP__VOTE_KIND__BROKEN:
    case _LOCKSTEP__VOTE_KIND_IS_INT_SIZE:
        break;
    }
    return VOTE_BROKEN;
}

void coordmsg_read_vote(const Lockstep__Vote *vote, uint32_t participant, uint64_t link, const struct ls_gtid *gtid,
                        struct engine_event *event) {
    event->kind = EV_VOTE;
    event->vote.participant = participant;
    event->vote.link = link;
    event->vote.epoch = gtid->epoch;
    event->vote.sequence = gtid->sequence;
    event->vote.kind = vote_kind_of(vote->kind);
    event->vote.part = vote->part;
    event->vote.id = (struct txn_branch_id){.participant = participant,
                                            .timeline = vote->timeline,
                                            .system_id = vote->system_id,
                                            .xid = vote->xid,
                                            .lsn = vote->lsn,
                                            .gid = vote->gid,
                                            .owner = vote->owner};
    event->vote.sqlstate = vote->sqlstate;
    event->vote.reason = vote->reason;
    event->vote.step = vote->step;
    event->vote.has_step = vote->has_step;
    event->vote.retryable = vote->has_retryable && vote->retryable;
    event->vote.key_free = vote->has_key_free && vote->key_free;
}

static enum done_kind done_kind_of(Lockstep__DoneKind kind) {
    switch (kind) {
    case LOCKSTEP__DONE_KIND__DONE_COMMITTED:
        return DONE_IS_COMMITTED;
    case LOCKSTEP__DONE_KIND__DONE_ABORTED:
        return DONE_IS_ABORTED;
    case LOCKSTEP__DONE_KIND__DONE_HAZARD:
    case _LOCKSTEP__DONE_KIND_IS_INT_SIZE:
        break;
    }
    return DONE_IS_HAZARD;
}

void coordmsg_read_done(const Lockstep__Done *done, uint32_t participant, uint64_t link, const struct ls_gtid *gtid,
                        struct engine_event *event) {
    event->kind = EV_DONE;
    event->done.participant = participant;
    event->done.link = link;
    event->done.epoch = gtid->epoch;
    event->done.sequence = gtid->sequence;
    event->done.kind = done_kind_of(done->kind);
    event->done.stranger = done->has_stranger && done->stranger;
    event->done.reason = done->reason;
}

/* -------------------------------------------------------------- inquiries */

void coordmsg_read_inquiry(const Lockstep__InquiryItem *item, const struct registry_participant *participant,
                           uint64_t link, bool history_changed, const struct ls_gtid *gtid,
                           struct engine_event *event) {
    event->kind = EV_INQUIRY;
    event->inquiry.participant = participant->number;
    event->inquiry.link = link;
    event->inquiry.epoch = gtid->epoch;
    event->inquiry.sequence = gtid->sequence;
    event->inquiry.one_participant_form = gtid->participant != 0;
    event->inquiry.gid = item->gid;
    event->inquiry.xid = item->xid;
    event->inquiry.system_id = item->system_id;
    event->inquiry.timeline = item->timeline;
    event->inquiry.vanished = item->vanished;
    event->inquiry.history_changed = history_changed || gtid->epoch <= participant->changed_epoch;
}

bool coordmsg_ask_log(const struct txn *txn) {
    return txn == NULL || txn->state == TXN_HAZARD;
}

enum kept_kind coordmsg_kept(enum dlog_found found) {
    switch (found) {
    case DLOG_FOUND:
        return KEPT_COMMIT;
    case DLOG_ABSENT:
        return KEPT_NONE;
    case DLOG_BEYOND_HORIZON:
        return KEPT_BEYOND_HORIZON;
    case DLOG_NEVER_ISSUED:
        return KEPT_FUTURE;
    }
    assert(!"dlog_found");
    return KEPT_NONE;
}

uint32_t coordmsg_branches(const Lockstep__LogCommit *record,
                           struct txn_branch_id ids[LS_PARTICIPANTS_PER_TXN_CEILING]) {
    assert(record->n_branches <= LS_PARTICIPANTS_PER_TXN_CEILING);
    for (size_t i = 0; i < record->n_branches; i++) {
        const Lockstep__LogBranch *branch = record->branches[i];
        ids[i] = (struct txn_branch_id){.participant = branch->participant,
                                        .timeline = branch->timeline,
                                        .system_id = branch->system_id,
                                        .xid = branch->xid,
                                        .lsn = branch->lsn,
                                        .gid = branch->gid,
                                        .owner = branch->owner};
    }
    return (uint32_t)record->n_branches;
}

Lockstep__Verdict coordmsg_verdict(enum verdict verdict) {
    switch (verdict) {
    case VERDICT_IS_PENDING:
        return LOCKSTEP__VERDICT__VERDICT_PENDING;
    case VERDICT_IS_COMMIT:
        return LOCKSTEP__VERDICT__VERDICT_COMMIT;
    case VERDICT_IS_ABORT:
        return LOCKSTEP__VERDICT__VERDICT_ABORT;
    case VERDICT_IS_STRANGER:
        return LOCKSTEP__VERDICT__VERDICT_STRANGER;
    case VERDICT_IS_FOREIGN:
        return LOCKSTEP__VERDICT__VERDICT_FOREIGN;
    case VERDICT_IS_HUMAN:
        return LOCKSTEP__VERDICT__VERDICT_HUMAN;
    case VERDICT_IS_FORGOTTEN:
        return LOCKSTEP__VERDICT__VERDICT_FORGOTTEN;
    }
    assert(!"verdict");
    return LOCKSTEP__VERDICT__VERDICT_PENDING;
}

/* -------------------------------------------------------------- sightings */

const struct txn_branch_id *coordmsg_branch_asked(const struct txn *txn, const struct engine_event *event) {
    for (uint32_t i = 0; i < event->inquiry.kept_branch_count; i++) {
        const struct txn_branch_id *id = &event->inquiry.kept_branches[i];
        if (id->participant == event->inquiry.participant && id->xid == event->inquiry.xid) {
            return id;
        }
    }
    for (uint32_t i = 0; txn != NULL && i < txn->branch_count; i++) {
        const struct txn_branch_id *id = &txn->branches[i].id;
        if (id->participant == event->inquiry.participant && id->xid == event->inquiry.xid) {
            return id;
        }
    }
    return NULL;
}

/* Where the timeline of its vote ended, if it is listed on a later one and its position lies behind that end. What the
 * agent asks about comes from the history of its Hello: it greets again when that changes. */
static bool is_sighted(const Lockstep__Hello *hello, const struct txn_branch_id *id, const Lockstep__InquiryItem *item,
                       uint64_t *ret_lsn) {
    bool here = id->system_id == item->system_id && item->system_id == hello->system_id &&
                item->timeline == hello->timeline && id->timeline != item->timeline;
    for (size_t i = 0; here && i < hello->n_history; i++) {
        if (hello->history[i]->timeline == id->timeline) {
            *ret_lsn = hello->history[i]->lsn;
            return id->lsn > *ret_lsn;
        }
    }
    return false;
}

uint64_t coordmsg_sight_room(const struct registry_participant *participant) {
    return LS_PARTICIPANT_MAX + 128 + (participant->sighting_count + 1) * (uint64_t)COORDMSG_SIGHTING_MAX;
}

enum verdict coordmsg_sight(const Lockstep__Hello *hello, const struct txn_branch_id *id,
                            const Lockstep__InquiryItem *item, const struct ls_gtid *gtid, uint64_t durable,
                            uint64_t room, struct registry_participant *participant) {
    uint64_t lsn;
    if ((item->has_vanished && item->vanished) || !is_sighted(hello, id, item, &lsn)) {
        return VERDICT_IS_COMMIT;
    }
    const struct registry_sighting *known = registry_sighting(participant, gtid->epoch, gtid->sequence);
    if (known != NULL && known->lsn <= lsn) {
        return known->end <= durable ? VERDICT_IS_COMMIT : VERDICT_IS_PENDING;
    }
    if (room < coordmsg_sight_room(participant) ||
        registry_sight(participant, gtid->epoch, gtid->sequence, lsn, REGISTRY_NOT_LOGGED) != LS_OK) {
        return VERDICT_IS_COMMIT; /* a false alarm later is better than locks that stay */
    }
    return VERDICT_IS_PENDING;
}

uint64_t coordmsg_lsn(const struct registry_participant *participant, uint32_t epoch, uint64_t sequence,
                      uint64_t voted_lsn, uint64_t durable) {
    const struct registry_sighting *known = registry_sighting(participant, epoch, sequence);
    return known != NULL && known->end <= durable && known->lsn < voted_lsn ? known->lsn : voted_lsn;
}

/* ----------------------------------------------------------------- Decide */

void coordmsg_build_commit(const struct txn_branch_id *id, Lockstep__Decide *decide) {
    decide->commit = true;
    decide->gid = text(id->gid);
    decide->owner = text(id->owner);
    decide->has_xid = decide->has_system_id = decide->has_timeline = decide->has_lsn = true;
    decide->xid = id->xid;
    decide->system_id = id->system_id;
    decide->timeline = id->timeline;
    decide->lsn = id->lsn;
}

void coordmsg_build_decide(const struct engine_effect *effect, Lockstep__Decide *decide) {
    const struct txn *txn = effect->txn;
    lockstep__decide__init(decide);
    decide->gtid = text(txn->gtid);
    if (effect->decide.commit) {
        coordmsg_build_commit(&txn->branches[effect->branch].id, decide);
    } else {
        decide->has_one_phase = decide->one_phase = txn->one_participant;
    }
}

bool coordmsg_is_driven(const struct engine *engine, uint32_t participant, uint32_t epoch, uint64_t sequence) {
    const struct txn *txn = engine_find(engine, epoch, sequence);
    for (uint32_t i = 0; txn != NULL && i < txn->branch_count; i++) {
        const struct txn_branch *branch = &txn->branches[i];
        if (branch->participant == participant) {
            return txn->one_participant || branch->state == BR_COMMITTING || branch->state == BR_ABORTING;
        }
    }
    return false;
}

/* ---------------------------------------------------------------- records */

size_t coordmsg_pack_decision(const struct txn *txn, const char *app, uint64_t unix_ms,
                              uint8_t payload[LS_LOG_RECORD_MAX]) {
    Lockstep__LogBranch branches[LS_PARTICIPANTS_PER_TXN_CEILING];
    Lockstep__LogBranch *list[LS_PARTICIPANTS_PER_TXN_CEILING];
    Lockstep__LogCommit record = LOCKSTEP__LOG_COMMIT__INIT;
    for (uint32_t i = 0; i < txn->branch_count; i++) {
        const struct txn_branch *branch = &txn->branches[i];
        if (branch->state != BR_YES) {
            continue;
        }
        Lockstep__LogBranch *to = &branches[record.n_branches];
        lockstep__log_branch__init(to);
        to->participant = branch->id.participant;
        to->system_id = branch->id.system_id;
        to->xid = branch->id.xid;
        to->lsn = branch->id.lsn;
        to->timeline = branch->id.timeline;
        to->owner = text(branch->id.owner);
        to->gid = text(branch->id.gid);
        list[record.n_branches++] = to;
    }
    assert(record.n_branches >= 1);
    record.branches = list;
    record.epoch = txn->epoch;
    record.sequence = txn->sequence;
    record.decided_unix_ms = unix_ms;
    record.app = text(app);
    if (txn->has_key) {
        record.has_key_digest = record.has_document_digest = true;
        record.key_digest =
            (ProtobufCBinaryData){.len = sizeof txn->key_digest, .data = (uint8_t *)(uintptr_t)txn->key_digest};
        record.document_digest = (ProtobufCBinaryData){.len = sizeof txn->document_digest,
                                                       .data = (uint8_t *)(uintptr_t)txn->document_digest};
    }
    assert(lockstep__log_commit__get_packed_size(&record) <= LS_LOG_RECORD_MAX);
    return lockstep__log_commit__pack(&record, payload);
}

size_t coordmsg_pack_hazard(const struct engine_effect *effect, uint8_t payload[COORDMSG_HAZARD_MAX]) {
    Lockstep__LogHazard record = LOCKSTEP__LOG_HAZARD__INIT;
    char reason[LS_REASON_MAX + 1];
    (void)snprintf(reason, sizeof reason, "%s", effect->text == NULL ? "" : effect->text);
    record.epoch = effect->hazard.epoch;
    record.sequence = effect->hazard.sequence;
    record.participant = effect->hazard.participant;
    record.reason = reason;
    assert(lockstep__log_hazard__get_packed_size(&record) <= COORDMSG_HAZARD_MAX);
    return lockstep__log_hazard__pack(&record, payload);
}

size_t coordmsg_pack_participant(const struct registry_participant *participant,
                                 uint8_t payload[COORDMSG_PARTICIPANT_MAX]) {
    Lockstep__LogParticipant record = LOCKSTEP__LOG_PARTICIPANT__INIT;
    record.number = participant->number;
    record.name = text(participant->name);
    record.has_system_id = record.has_timeline = participant->system_id != 0;
    record.system_id = participant->system_id;
    record.timeline = participant->timeline;
    record.has_changed_epoch = participant->changed_epoch != 0;
    record.changed_epoch = participant->changed_epoch;
    Lockstep__LogSighting sightings[LS_SIGHTINGS_MAX], *list[LS_SIGHTINGS_MAX];
    assert(participant->sighting_count <= LS_SIGHTINGS_MAX);
    for (uint32_t i = 0; i < participant->sighting_count; i++) {
        const struct registry_sighting *from = &participant->sightings[i];
        list[i] = &sightings[i];
        lockstep__log_sighting__init(list[i]);
        list[i]->epoch = from->epoch;
        list[i]->sequence = from->sequence;
        list[i]->lsn = from->lsn;
    }
    record.n_sightings = participant->sighting_count;
    record.sightings = list;
    assert(lockstep__log_participant__get_packed_size(&record) <= COORDMSG_PARTICIPANT_MAX);
    return lockstep__log_participant__pack(&record, payload);
}
