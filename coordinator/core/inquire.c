/*
 * inquire.c: what an agent is told about a prepared transaction that it found.
 *
 * The question comes from a starting agent and from the sweep: gid, xid, system identifier. The rules, in this order:
 *   1. A transaction that lives here is answered from memory: undecided means "pending", always (hazards 1.12: recovery
 * must not race live transactions); committing means commit, but only for the branch that the decision lists.
 *   2. A decision record found in the log: the same.
 *   3. No record, inside the index: aborted (presumed abort). This is an answer to an agent, never to a client. About
 * an earlier epoch it is given only when every participant has accepted this log, or presume_wait has passed; until
 * then: pending, ask again.
 *   4. No record because the log no longer goes back that far: aborted while the server's history is the one this log
 * knows; on a changed history an old branch may have risen from the dead: a human looks. What is not prepared any more
 * (an agent that was away remembers its vote; another has finished the branch since) is neither: forgotten.
 *   5. An epoch or sequence that this log has never handed out: this log is not the newest. Stop, 78.
 */
#include <assert.h>

#include "coordinator/core/engine_internal.h"

static bool is_listed_branch(const struct txn_branch_id *id, const struct engine_event *event) {
    return id->participant == event->inquiry.participant && id->xid == event->inquiry.xid &&
           id->system_id == event->inquiry.system_id;
}

static enum verdict verdict_for_listed(const struct txn_branch_id *ids, uint32_t count,
                                       const struct engine_event *event) {
    for (uint32_t i = 0; i < count; i++) {
        if (is_listed_branch(&ids[i], event)) {
            return VERDICT_IS_COMMIT;
        }
    }
    return VERDICT_IS_STRANGER;
}

static enum verdict verdict_for_decided(const struct txn *txn, const struct engine_event *event) {
    for (uint32_t i = 0; i < txn->branch_count; i++) {
        const struct txn_branch *branch = &txn->branches[i];
        bool decided = branch->state == BR_COMMITTING || branch->state == BR_COMMITTED || branch->state == BR_HAZARD;
        if (decided && is_listed_branch(&branch->id, event)) {
            return VERDICT_IS_COMMIT;
        }
    }
    return VERDICT_IS_STRANGER;
}

static enum verdict verdict_from_log(const struct engine_event *event) {
    switch (event->inquiry.kept) {
    case KEPT_COMMIT:
        return verdict_for_listed(event->inquiry.kept_branches, event->inquiry.kept_branch_count, event);
    case KEPT_NONE:
        return VERDICT_IS_ABORT;
    case KEPT_BEYOND_HORIZON:
        if (event->inquiry.history_changed) {
            return VERDICT_IS_HUMAN;
        }
        return event->inquiry.vanished ? VERDICT_IS_FORGOTTEN : VERDICT_IS_ABORT;
    case KEPT_NOT_YET:
        return VERDICT_IS_PENDING; /* the sweep asks again */
    case KEPT_FUTURE:
        break;
    }
    assert(!"kept kind");
    return VERDICT_IS_PENDING;
}

static enum verdict verdict_from_memory(const struct txn *txn, const struct engine_event *event) {
    if (txn->one_participant) {
        return VERDICT_IS_STRANGER; /* such a transaction is never prepared */
    }
    switch (txn->state) {
    case TXN_WAITING:
    case TXN_ACTIVE:
    case TXN_PREPARING:
    case TXN_LOGGING:
        return VERDICT_IS_PENDING;
    case TXN_COMMITTING:
    case TXN_COMMITTED:
        return verdict_for_decided(txn, event);
    case TXN_HAZARD:
        /* Decided in this life: what it lists. Otherwise the log knows whether there was a decision: memory may hold
         * the hazard only. */
        return txn->ticket != 0 ? verdict_for_decided(txn, event) : verdict_from_log(event);
    case TXN_ABORTING:
    case TXN_ABORTED:
        return VERDICT_IS_ABORT;
    case TXN_DELEGATED:
    case TXN_SETTLING:
    case TXN_STATE_COUNT:
        break;
    }
    assert(!"transaction state");
    return VERDICT_IS_PENDING;
}

static bool everybody_was_heard(const struct engine *e, uint32_t epoch) {
    return epoch == e->config.epoch || e->joined_count == e->participant_count;
}

bool engine_has_heard(const struct engine *e, uint32_t epoch) {
    return everybody_was_heard(e, epoch) || e->now_us - e->started_us >= e->config.presume_wait_us;
}

/* A stale copy of the log looks like one without the record. Whoever has seen a later position refuses it; so first
 * hear everybody. */
static bool may_presume(struct engine *e, uint32_t epoch) {
    if (!engine_has_heard(e, epoch)) {
        return false;
    }
    if (!everybody_was_heard(e, epoch) && !e->presumed_early && e->config.presume_wait_us > 0) {
        e->presumed_early = true;
        engine_report(e, NULL, "%u of %u participants have not joined since the start; presuming abort without them",
                      e->participant_count - e->joined_count, e->participant_count);
    }
    return true;
}

static bool never_issued(const struct engine *e, const struct engine_event *event) {
    return event->inquiry.kept == KEPT_FUTURE || event->inquiry.epoch > e->config.epoch ||
           (event->inquiry.epoch == e->config.epoch && event->inquiry.sequence >= e->next_sequence);
}

void inquire_on_item(struct engine *e, const struct engine_event *event) {
    const struct txn *txn = txn_table_find(&e->txns, event->inquiry.epoch, event->inquiry.sequence);
    enum verdict verdict;
    if (txn != NULL) {
        verdict = verdict_from_memory(txn, event);
    } else if (never_issued(e, event)) {
        struct engine_effect *stop = engine_emit(e, EF_STOP, NULL);
        stop->stop.exit_status = LS_EXIT_CONFIG;
        stop->text = engine_text(
            e, "participant %s holds %s, which this log has never handed out: this is not the newest copy of the log",
            engine_participant(e, event->inquiry.participant)->name, event->inquiry.gid);
        return;
    } else if (event->inquiry.one_participant_form) {
        verdict = VERDICT_IS_STRANGER;
    } else {
        verdict = verdict_from_log(event);
    }
    if (verdict == VERDICT_IS_ABORT && txn == NULL && !may_presume(e, event->inquiry.epoch)) {
        verdict = VERDICT_IS_PENDING;
    }
    if (verdict == VERDICT_IS_STRANGER) {
        e->stats.strangers++;
        engine_report(e, txn, "participant %s holds %s as transaction %llu, which no decision lists: it is rolled back",
                      engine_participant(e, event->inquiry.participant)->name, event->inquiry.gid,
                      (unsigned long long)event->inquiry.xid);
    } else if (verdict == VERDICT_IS_HUMAN) {
        engine_report(
            e, txn, "participant %s holds %s, older than the log's horizon, on a changed history: left for an operator",
            engine_participant(e, event->inquiry.participant)->name, event->inquiry.gid);
    }
    struct engine_effect *answer = engine_emit(e, EF_VERDICT, txn);
    answer->verdict.token = event->inquiry.token;
    answer->verdict.item = event->inquiry.item;
    answer->verdict.participant = event->inquiry.participant;
    answer->verdict.link = event->inquiry.link;
    answer->verdict.verdict = verdict;
}
