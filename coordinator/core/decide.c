/*
 * decide.c: where outcomes are made: votes, the decision, its durability, proofs of the end.
 *
 * Presumed abort (Mohan, Lindsay, Obermarck 1986): a commit is one forced record, an abort is none.
 *
 *   all votes in   -> EF_LOG_COMMIT. Nobody is told anything yet.
 *        crash here: the record may or may not be found. Found: commit. Not found: abort. Nobody knew better.
 *   EV_LOG_DURABLE -> EF_SEND_DECIDE(commit), EF_OUTCOME(committed).
 *        crash here: the record is found by the next start, which drives every branch again.
 *   all EV_DONE    -> EF_LOG_END, unforced.
 *        crash here: driven once more; the agents prove that it is done.
 *
 * The rule that matters most is one line in decide_on_durable(): it is the only caller of commit_everywhere().
 * tests/scenarios: decision-not-durable, decision-durable-crash; failpoints coord_before_log_append ..
 * coord_done_received.
 */
#include <assert.h>
#include <string.h>

#include "coordinator/core/engine_internal.h"

static void drive(struct engine *e, bool on) {
    if (on) {
        if (e->driven++ == 0) {
            e->next_resend_us = e->now_us + e->config.resend_us;
        }
    } else {
        assert(e->driven >= 1);
        e->driven--;
    }
}

static struct txn_branch *find_branch(struct txn *txn, uint32_t participant) {
    for (uint32_t i = 0; i < txn->branch_count; i++) {
        if (txn->branches[i].participant == participant) {
            return &txn->branches[i];
        }
    }
    return NULL;
}

static uint32_t branch_index(const struct txn_branch *branch) {
    assert(branch != NULL && branch->txn != NULL);
    return (uint32_t)(branch - branch->txn->branches);
}

static bool all_finished(const struct txn *txn) {
    for (uint32_t i = 0; i < txn->branch_count; i++) {
        if (!branch_is_finished(&txn->branches[i])) {
            return false;
        }
    }
    return true;
}

static bool any_in(const struct txn *txn, enum branch_state state) {
    for (uint32_t i = 0; i < txn->branch_count; i++) {
        if (txn->branches[i].state == state) {
            return true;
        }
    }
    return false;
}

/* The branch is finished: it holds nothing at its participant any more. */
static void let_go(struct engine *e, struct txn_branch *branch) {
    assert(branch_is_finished(branch));
    engine_list_branch(e, branch, BRANCH_UNLISTED);
    engine_release_credit(e, branch);
}

/* ------------------------------------------------------- sending decisions */

static void emit_decide(struct engine *e, struct txn_branch *branch, bool commit) {
    struct engine_effect *effect = engine_emit(e, EF_SEND_DECIDE, branch->txn);
    effect->branch = branch_index(branch);
    effect->decide.commit = commit;
    branch->sent_us = e->now_us;
}

/* COMMIT for one branch, now or when its turn comes. */
static void send_commit(struct engine *e, struct txn_branch *branch) {
    struct participant *p = engine_participant(e, branch->participant);
    assert(branch->state == BR_COMMITTING);
    if (!p->linked || p->decides_in_flight >= DECIDES_IN_FLIGHT_MAX) {
        engine_list_branch(e, branch, BRANCH_UNSENT_LIST);
        return;
    }
    engine_list_branch(e, branch, BRANCH_OPEN_LIST);
    p->decides_in_flight++;
    emit_decide(e, branch, true);
}

static void send_unsent(struct engine *e, struct participant *p) {
    while (p->linked && p->unsent_first != NULL && p->decides_in_flight < DECIDES_IN_FLIGHT_MAX) {
        send_commit(e, p->unsent_first);
    }
}

/* A decision sent to `branch` was answered. */
static void decide_answered(struct engine *e, struct txn_branch *branch) {
    if (branch->list == BRANCH_OPEN_LIST) {
        struct participant *p = engine_participant(e, branch->participant);
        if (p->decides_in_flight > 0) {
            p->decides_in_flight--;
        }
    }
}

void decide_settle(struct engine *e, struct txn *txn) {
    struct txn_branch *branch = &txn->branches[0];
    assert(txn->state == TXN_SETTLING && txn->one_participant);
    if (!engine_participant(e, branch->participant)->linked) {
        engine_emit(e, EF_PENDING, txn);
        return;
    }
    branch->sent_us = e->now_us;
    if (branch->state == BR_ABORTING) {
        emit_decide(e, branch, false);
    } else {
        engine_emit(e, EF_SEND_SETTLE, txn);
    }
}

static void resend_to(struct engine *e, struct participant *p) {
    for (struct txn_branch *branch = p->open_first; branch != NULL; branch = branch->next) {
        if (branch->sent_us + e->config.resend_us > e->now_us) {
            continue;
        }
        if (branch->state == BR_COMMITTING) {
            emit_decide(e, branch, true);
        } else if (branch->txn->state == TXN_SETTLING) {
            decide_settle(e, branch->txn);
        } else if (branch->state == BR_ABORTING) {
            emit_decide(e, branch, false);
        }
    }
}

/* Links do not lose messages, agents might: an unanswered decision is repeated. */
void decide_resend(struct engine *e) {
    for (uint32_t i = 0; i < e->participant_count; i++) {
        struct participant *p = e->participants[e->numbers[i]];
        if (p->linked) {
            resend_to(e, p);
        }
    }
}

/* ------------------------------------------------------------------- abort */

static void check_abort_finished(struct engine *e, struct txn *txn) {
    if (txn->state != TXN_ABORTING || !all_finished(txn)) {
        return;
    }
    drive(e, false);
    if (any_in(txn, BR_HAZARD)) {
        txn_become(txn, TXN_HAZARD);
    } else {
        txn_become(txn, TXN_ABORTED);
        txn->applied = true;
        engine_emit(e, EF_APPLIED, txn);
    }
    engine_finish(e, txn);
}

static void abort_branch(struct engine *e, struct txn_branch *branch) {
    switch (branch->state) {
    case BR_IDLE:
        branch_become(branch, BR_ABORTED);
        let_go(e, branch);
        return;
    case BR_WORKING:
    case BR_OPEN:
    case BR_PREPARING:
    case BR_YES:
        if (engine_participant(e, branch->participant)->linked) {
            branch_become(branch, BR_ABORTING);
            emit_decide(e, branch, false);
        } else {
            branch_become(branch, BR_LOST); /* its agent rolls back what is not prepared and asks about what is */
            let_go(e, branch);
        }
        return;
    case BR_READ_ONLY:
    case BR_NO:
    case BR_LOST:
    case BR_ABORTED:
    case BR_HAZARD:
        return;
    case BR_COMMITTING:
    case BR_COMMITTED:
    case BR_ABORTING:
    case BR_STATE_COUNT:
        break;
    }
    assert(!"a branch that nobody may abort");
}

/* Nothing is logged: no record means aborted. From here on this transaction can never be handed to the log. */
void decide_abort(struct engine *e, struct txn *txn, const struct txn_cause *cause) {
    assert(!txn->one_participant && (txn->state == TXN_ACTIVE || txn->state == TXN_PREPARING));
    bool begun = txn->cause.begun;
    txn->cause = *cause;
    txn->cause.begun = begun;
    deadline_heap_remove(&e->heap, txn);
    txn_become(txn, TXN_ABORTING);
    drive(e, true);
    for (uint32_t i = 0; i < txn->branch_count; i++) {
        abort_branch(e, &txn->branches[i]);
    }
    txn->outcome = any_in(txn, BR_HAZARD) ? OUTCOME_HAZARD : OUTCOME_ABORTED;
    txn->decided_us = e->now_us;
    e->stats.aborted += txn->outcome == OUTCOME_ABORTED ? 1u : 0u;
    if (txn->has_key && txn->outcome == OUTCOME_ABORTED) {
        key_table_give_back(&e->keys, txn->key_digest, txn->epoch, txn->sequence);
    }
    engine_emit(e, EF_OUTCOME, txn);
    check_abort_finished(e, txn);
}

/* ------------------------------------------------------------------ hazard */

/* Somebody else finished the branch, or a server lost it: said loudly, logged, kept, never guessed. */
static void log_hazard(struct engine *e, struct txn *txn, uint32_t epoch, uint64_t sequence, uint32_t participant,
                       const char *reason) {
    e->stats.hazards++;
    struct engine_effect *effect = engine_emit(e, EF_LOG_HAZARD, txn);
    effect->ticket = e->next_ticket++;
    effect->hazard.epoch = epoch;
    effect->hazard.sequence = sequence;
    effect->hazard.participant = participant;
    effect->text = engine_text(e, "%s", reason);
    if (txn != NULL) {
        effect->branch = branch_index(find_branch(txn, participant));
    }
    engine_report(e, txn, "hazard at participant %s: %s", engine_participant(e, participant)->name, reason);
}

static void branch_hazard(struct engine *e, struct txn_branch *branch, const char *reason) {
    struct txn *txn = branch->txn;
    branch_become(branch, BR_HAZARD);
    let_go(e, branch);
    bool begun = txn->cause.begun;
    cause_set(&txn->cause, branch->participant, NULL, "%s", reason);
    txn->cause.begun = begun;
    log_hazard(e, txn, txn->epoch, txn->sequence, branch->participant, reason);
}

/* ------------------------------------------------------------------ commit */

static void check_commit_finished(struct engine *e, struct txn *txn) {
    if (txn->state != TXN_COMMITTING || !all_finished(txn)) {
        return;
    }
    drive(e, false);
    if (any_in(txn, BR_HAZARD)) {
        txn_become(txn, TXN_HAZARD); /* no end record: the next start shows it again */
    } else {
        txn_become(txn, TXN_COMMITTED);
        txn->applied = true;
        engine_emit(e, EF_LOG_END, txn)->ticket = e->next_ticket++;
        engine_emit(e, EF_APPLIED, txn);
    }
    engine_finish(e, txn);
}

/* Only after the decision is durable. */
static void commit_everywhere(struct engine *e, struct txn *txn) {
    txn_become(txn, TXN_COMMITTING);
    txn->outcome = OUTCOME_COMMITTED;
    txn->decided_us = e->now_us;
    e->stats.committed++;
    drive(e, true);
    for (uint32_t i = 0; i < txn->branch_count; i++) {
        struct txn_branch *branch = &txn->branches[i];
        if (branch->state == BR_YES) {
            branch_become(branch, BR_COMMITTING);
            send_commit(e, branch);
        }
    }
    if (txn->has_key) {
        const struct key_entry *entry = key_table_find(&e->keys, txn->key_digest);
        assert(entry != NULL);
        key_table_done(&e->keys, txn->key_digest, entry->log_position);
    }
    engine_emit(e, EF_OUTCOME, txn);
}

void decide_on_durable(struct engine *e, uint64_t ticket) {
    while (e->log_first != NULL && e->log_first->ticket <= ticket) {
        struct txn *txn = e->log_first;
        e->log_first = txn->log_next;
        if (e->log_first == NULL) {
            e->log_last = NULL;
        }
        txn->log_next = NULL;
        commit_everywhere(e, txn);
    }
}

static void finish_read_only(struct engine *e, struct txn *txn) {
    txn_become(txn, TXN_COMMITTED);
    txn->outcome = OUTCOME_COMMITTED;
    txn->applied = txn->fully_read_only = true;
    txn->decided_us = e->now_us;
    e->stats.committed++;
    e->stats.read_only++;
    if (txn->has_key) {
        key_table_done(&e->keys, txn->key_digest, e->log_position_last);
    }
    engine_emit(e, EF_OUTCOME, txn);
    engine_emit(e, EF_APPLIED, txn);
    engine_finish(e, txn);
}

/* The last vote: hand the decision to the log. Half of the reservation becomes the record itself. */
static void check_votes(struct engine *e, struct txn *txn) {
    if (txn->state != TXN_PREPARING) {
        return;
    }
    uint32_t yes = 0;
    for (uint32_t i = 0; i < txn->branch_count; i++) {
        enum branch_state state = txn->branches[i].state;
        if (state != BR_YES && state != BR_READ_ONLY) {
            return;
        }
        yes += state == BR_YES ? 1u : 0u;
    }
    deadline_heap_remove(&e->heap, txn); /* deadlines abort before the decision; after it nothing does */
    if (yes == 0) {
        finish_read_only(e, txn);
        return;
    }
    txn_become(txn, TXN_LOGGING);
    txn->ticket = e->next_ticket++;
    *(e->log_last == NULL ? &e->log_first : &e->log_last->log_next) = txn;
    e->log_last = txn;
    uint64_t written = txn->log_reserved / 2;
    txn->log_reserved -= written;
    e->log_reserved -= written;
    engine_emit(e, EF_LOG_COMMIT, txn)->ticket = txn->ticket;
}

/* ------------------------------------------------------------------- votes */

static void vote_cause(struct txn_cause *cause, const struct engine_event *event, const char *otherwise) {
    cause_set(cause, event->vote.participant, event->vote.sqlstate, "%s",
              event->vote.reason != NULL ? event->vote.reason : otherwise);
    cause->step = event->vote.step;
    cause->has_step = event->vote.has_step;
    cause->retryable = event->vote.retryable;
    cause->key_free = event->vote.key_free;
}

/* What was sent to the branch is done: steps that waited for it may go. */
static void steps_are_done(struct engine *e, struct txn_branch *branch) {
    struct txn_steps *steps = branch->txn->steps;
    for (uint32_t i = branch->steps_done; steps != NULL && i < branch->steps_next; i++) {
        uint32_t step = branch->steps[i];
        for (uint32_t d = steps->dependents_start[step]; d < steps->dependents_start[step + 1]; d++) {
            assert(steps->waiting[steps->dependents[d]] >= 1);
            steps->waiting[steps->dependents[d]]--;
        }
    }
    branch->steps_done = branch->steps_next;
    if (steps != NULL) {
        engine_send_work(e, branch->txn);
    }
}

static void vote_continue(struct engine *e, struct txn_branch *branch, uint32_t part) {
    if (branch->state != BR_WORKING || part + 1 != branch->part) {
        return; /* late, or aborted meanwhile */
    }
    branch_become(branch, BR_OPEN);
    steps_are_done(e, branch);
}

/* The vote must name the gid that PREPARE was told, or the decision would be bound to something else. */
static bool vote_names_our_gid(struct engine *e, const struct txn_branch *branch, const struct txn_branch_id *id) {
    char gid[LS_GID_MAX + 1];
    ls_gid_format(branch->txn->gid_form, branch->txn->gtid, engine_participant(e, branch->participant)->name, gid);
    return id->gid != NULL && strcmp(gid, id->gid) == 0 && id->xid != 0 && id->system_id != 0 && id->owner != NULL &&
           id->owner[0] != '\0' && strlen(id->owner) <= LS_ROLE_MAX;
}

static void vote_yes(struct engine *e, struct txn_branch *branch, const struct engine_event *event) {
    if (branch->state != BR_PREPARING) {
        return; /* aborting: the abort is on its way behind this vote */
    }
    const struct txn_branch_id *id = &event->vote.id;
    if (!vote_names_our_gid(e, branch, id)) {
        struct txn_cause cause;
        cause_set(&cause, branch->participant, NULL, "the vote does not name the branch that was sent (gid %s)",
                  id->gid != NULL ? id->gid : "missing");
        decide_abort(e, branch->txn, &cause);
        return;
    }
    branch_become(branch, BR_YES);
    memcpy(branch->gid, id->gid, strlen(id->gid) + 1);
    memcpy(branch->owner, id->owner, strlen(id->owner) + 1);
    branch->id = *id;
    branch->id.participant = branch->participant;
    branch->id.gid = branch->gid;
    branch->id.owner = branch->owner;
    steps_are_done(e, branch);
    check_votes(e, branch->txn);
}

static void vote_read_only(struct engine *e, struct txn_branch *branch) {
    struct txn *txn = branch->txn;
    if (branch->state != BR_PREPARING && branch->state != BR_ABORTING) {
        return;
    }
    branch_become(branch, BR_READ_ONLY);
    branch->read_only = true;
    let_go(e, branch);
    if (txn->state != TXN_ABORTING) {
        steps_are_done(e, branch);
    }
    check_votes(e, txn);
    check_abort_finished(e, txn);
}

static void vote_no(struct engine *e, struct txn_branch *branch, const struct engine_event *event) {
    struct txn *txn = branch->txn;
    if (branch->state == BR_ABORTING) {
        branch_become(branch, BR_NO);
        let_go(e, branch);
        check_abort_finished(e, txn);
        return;
    }
    if (branch->state != BR_WORKING && branch->state != BR_OPEN && branch->state != BR_PREPARING) {
        return;
    }
    branch_become(branch, BR_NO);
    let_go(e, branch);
    struct txn_cause cause;
    vote_cause(&cause, event, "the participant voted no");
    decide_abort(e, txn, &cause);
}

/* A statement ended the transaction, or an outside hand did: part of it may be committed already. */
static void vote_broken(struct engine *e, struct txn_branch *branch, const char *reason) {
    struct txn *txn = branch->txn;
    if (branch->state != BR_WORKING && branch->state != BR_PREPARING && branch->state != BR_ABORTING) {
        return;
    }
    branch_hazard(e, branch, reason);
    if (txn->state == TXN_ABORTING) {
        txn->outcome = OUTCOME_HAZARD;
        engine_emit(e, EF_OUTCOME, txn);
        check_abort_finished(e, txn);
    } else {
        struct txn_cause cause = txn->cause;
        decide_abort(e, txn, &cause);
    }
}

/* -------------------------------------------------- one participant: delegated */

static void finish_delegated(struct engine *e, struct txn *txn, enum branch_state branch_to, enum txn_state to,
                             enum txn_outcome outcome) {
    struct txn_branch *branch = &txn->branches[0];
    if (txn->state == TXN_SETTLING) {
        drive(e, false);
    }
    if (branch->state != branch_to) {
        branch_become(branch, branch_to);
    }
    let_go(e, branch);
    deadline_heap_remove(&e->heap, txn);
    txn_become(txn, to);
    txn->outcome = outcome;
    txn->decided_us = e->now_us;
    txn->applied = outcome != OUTCOME_HAZARD;
    e->stats.committed += outcome == OUTCOME_COMMITTED ? 1u : 0u;
    e->stats.aborted += outcome == OUTCOME_ABORTED ? 1u : 0u;
    if (txn->has_key && outcome == OUTCOME_COMMITTED) {
        key_table_done(&e->keys, txn->key_digest, e->log_position_last);
    } else if (txn->has_key && outcome == OUTCOME_ABORTED) {
        key_table_give_back(&e->keys, txn->key_digest, txn->epoch, txn->sequence);
    }
    engine_emit(e, EF_OUTCOME, txn);
    if (txn->applied) {
        engine_emit(e, EF_APPLIED, txn);
    }
    engine_finish(e, txn);
}

static void begin_settling(struct engine *e, struct txn *txn) {
    deadline_heap_remove(&e->heap, txn);
    txn_become(txn, TXN_SETTLING);
    drive(e, true);
}

/* The key was used by an earlier run, which this life of the coordinator did not know: its outcome row says so. */
static void delegated_exists(struct engine *e, struct txn *txn, const struct engine_event *event) {
    txn->existing = true;
    txn->existing_epoch = event->vote.existing_epoch;
    txn->existing_sequence = event->vote.existing_sequence;
    txn->existing_same_document = event->vote.existing_same_document;
    bool begun = txn->cause.begun;
    cause_set(&txn->cause, event->vote.participant, NULL, "the Idempotency-Key was used before");
    txn->cause.begun = begun;
    bool same = txn->has_key && txn->existing_same_document;
    uint8_t key[16], document[16];
    memcpy(key, txn->key_digest, sizeof key);
    memcpy(document, txn->document_digest, sizeof document);
    uint32_t epoch = txn->existing_epoch;
    uint64_t sequence = txn->existing_sequence;
    finish_delegated(e, txn, BR_NO, TXN_ABORTED, OUTCOME_ABORTED); /* gives the key back */
    if (same && !engine_is_gone(e, epoch, sequence) &&
        key_table_take(&e->keys, key, document, epoch, sequence) == LS_OK) {
        key_table_done(&e->keys, key, e->log_position_last);
    }
}

static void delegated_hazard(struct engine *e, struct txn *txn, const char *reason) {
    bool begun = txn->cause.begun;
    cause_set(&txn->cause, txn->branches[0].participant, NULL, "%s", reason);
    txn->cause.begun = begun;
    log_hazard(e, txn, txn->epoch, txn->sequence, txn->branches[0].participant, reason);
    finish_delegated(e, txn, BR_HAZARD, TXN_HAZARD, OUTCOME_HAZARD);
}

static void delegated_vote(struct engine *e, struct txn *txn, const struct engine_event *event) {
    struct txn_branch *branch = &txn->branches[0];
    assert(txn->state == TXN_DELEGATED || txn->state == TXN_SETTLING);
    switch (event->vote.kind) {
    case VOTE_CONTINUE:
        vote_continue(e, branch, event->vote.part);
        return;
    case VOTE_COMMITTED:
    case VOTE_READ_ONLY:
        if (branch->steps_next == branch->steps_total || txn->recovered) {
            txn->fully_read_only = event->vote.kind == VOTE_READ_ONLY;
            finish_delegated(e, txn, BR_COMMITTED, TXN_COMMITTED, OUTCOME_COMMITTED);
        }
        return;
    case VOTE_NO: {
        bool begun = txn->cause.begun;
        if (txn->state == TXN_DELEGATED) {
            vote_cause(&txn->cause, event, "the participant rolled back");
            txn->cause.begun = begun;
        }
        finish_delegated(e, txn, BR_NO, TXN_ABORTED, OUTCOME_ABORTED);
        return;
    }
    case VOTE_EXISTS:
        delegated_exists(e, txn, event);
        return;
    case VOTE_BROKEN:
        delegated_hazard(e, txn, event->vote.reason != NULL ? event->vote.reason : "a statement ended the transaction");
        return;
    case VOTE_YES:
        engine_report(e, txn, "participant %s prepared a one-participant transaction; ignored, its sweep will ask",
                      engine_participant(e, branch->participant)->name);
        return;
    }
    assert(!"vote kind");
}

static void delegated_done(struct engine *e, struct txn *txn, const struct engine_event *event) {
    struct txn_branch *branch = &txn->branches[0];
    if (txn->state != TXN_DELEGATED && txn->state != TXN_SETTLING) {
        return;
    }
    switch (event->done.kind) {
    case DONE_IS_COMMITTED:
        if (txn->app == 0) {
            txn->app = event->done.app; /* of an earlier life: only the row knows whose it is */
        }
        finish_delegated(e, txn, BR_COMMITTED, TXN_COMMITTED, OUTCOME_COMMITTED);
        return;
    case DONE_IS_ABORTED:
        if (txn->cause.reason[0] == '\0') {
            bool begun = txn->cause.begun;
            cause_set(&txn->cause, branch->participant, NULL,
                      "not committed when its participant was asked; a tombstone keeps it so");
            txn->cause.begun = begun || txn->recovered;
        }
        if (branch->state == BR_WORKING || branch->state == BR_OPEN) {
            branch_become(branch, BR_LOST);
        }
        finish_delegated(e, txn, BR_ABORTED, TXN_ABORTED, OUTCOME_ABORTED);
        return;
    case DONE_IS_HAZARD:
        delegated_hazard(e, txn, event->done.reason != NULL ? event->done.reason : "broken from outside");
        return;
    }
    assert(!"done kind");
}

/* ------------------------------------------------------------------ events */

void decide_on_vote(struct engine *e, const struct engine_event *event) {
    struct txn *txn = txn_table_find(&e->txns, event->vote.epoch, event->vote.sequence);
    struct txn_branch *branch = txn != NULL ? find_branch(txn, event->vote.participant) : NULL;
    if (branch == NULL || txn->state == TXN_HAZARD) {
        return; /* finished meanwhile, or never ours: whatever is prepared there will be asked about */
    }
    if (txn->one_participant) {
        delegated_vote(e, txn, event);
        return;
    }
    switch (event->vote.kind) {
    case VOTE_YES:
        vote_yes(e, branch, event);
        return;
    case VOTE_NO:
        vote_no(e, branch, event);
        return;
    case VOTE_READ_ONLY:
        vote_read_only(e, branch);
        return;
    case VOTE_CONTINUE:
        vote_continue(e, branch, event->vote.part);
        return;
    case VOTE_BROKEN:
        vote_broken(e, branch, event->vote.reason != NULL ? event->vote.reason : "a statement ended the transaction");
        return;
    case VOTE_COMMITTED:
    case VOTE_EXISTS:
        vote_broken(e, branch, "the agent answered as if it were the only participant");
        return;
    }
    assert(!"vote kind");
}

static const char *done_reason(const struct engine_event *event) {
    if (event->done.reason != NULL && event->done.reason[0] != '\0') {
        return event->done.reason;
    }
    switch (event->done.kind) {
    case DONE_IS_COMMITTED:
        return "the branch is committed although the transaction was aborted";
    case DONE_IS_ABORTED:
        return "the branch is rolled back although the transaction is committed";
    case DONE_IS_HAZARD:
        break;
    }
    return "the branch was broken from outside";
}

static void outcome_is_hazard(struct engine *e, struct txn *txn) {
    if (txn->outcome == OUTCOME_ABORTED) {
        assert(e->stats.aborted >= 1);
        e->stats.aborted--;
    }
    txn->outcome = OUTCOME_HAZARD;
    engine_emit(e, EF_OUTCOME, txn);
}

static void done_committing(struct engine *e, struct txn_branch *branch, const struct engine_event *event) {
    struct txn *txn = branch->txn;
    struct participant *p = engine_participant(e, branch->participant);
    decide_answered(e, branch);
    if (event->done.kind == DONE_IS_COMMITTED) {
        branch_become(branch, BR_COMMITTED);
        let_go(e, branch);
    } else {
        branch_hazard(e, branch, done_reason(event));
        outcome_is_hazard(e, txn);
    }
    check_commit_finished(e, txn);
    send_unsent(e, p);
}

static void done_aborting(struct engine *e, struct txn_branch *branch, const struct engine_event *event) {
    struct txn *txn = branch->txn;
    if (event->done.kind == DONE_IS_ABORTED) {
        if (branch->state == BR_ABORTING) {
            branch_become(branch, BR_ABORTED);
            let_go(e, branch);
        }
    } else {
        branch_hazard(e, branch, done_reason(event));
        outcome_is_hazard(e, txn);
    }
    check_abort_finished(e, txn);
}

/*
 * A finished transaction was proved again after a change of the server's history, and is not what the log says. It
 * comes back into the table as a hazard, so that it is listed and shown until it is resolved.
 */
static void done_of_finished(struct engine *e, const struct engine_event *event) {
    if (event->done.kind != DONE_IS_HAZARD) {
        return;
    }
    const char *reason = done_reason(event);
    log_hazard(e, NULL, event->done.epoch, event->done.sequence, event->done.participant, reason);
    if (txn_table_find(&e->txns, event->done.epoch, event->done.sequence) != NULL) {
        return; /* shown already: another branch of it was lost, too */
    }
    struct txn *txn = engine_txn_new(e, event->done.epoch, event->done.sequence, false, &event->done.participant, 1);
    if (txn == NULL) {
        return; /* it is in the log and was reported */
    }
    txn->recovered = txn->cause.begun = true;
    txn->state = TXN_HAZARD;
    txn->outcome = OUTCOME_HAZARD;
    txn->branches[0].state = BR_HAZARD;
    cause_set(&txn->cause, event->done.participant, NULL, "%s", reason);
    engine_adopt(e, txn);
    e->in_flight++; /* engine_finish counts it out again */
    engine_emit(e, EF_OUTCOME, txn);
    engine_finish(e, txn);
}

void decide_on_done(struct engine *e, const struct engine_event *event) {
    struct txn *txn = txn_table_find(&e->txns, event->done.epoch, event->done.sequence);
    if (event->done.stranger) {
        e->stats.strangers++;
        engine_report(e, txn, "another transaction bore the gid of a branch at participant %s; it was rolled back",
                      engine_participant(e, event->done.participant)->name);
    }
    struct txn_branch *branch = txn != NULL ? find_branch(txn, event->done.participant) : NULL;
    if (branch == NULL) {
        done_of_finished(e, event);
        return;
    }
    if (txn->one_participant) {
        delegated_done(e, txn, event);
        return;
    }
    switch (branch->state) {
    case BR_COMMITTING:
        done_committing(e, branch, event);
        return;
    case BR_ABORTING:
    case BR_LOST:
        done_aborting(e, branch, event);
        return;
    case BR_COMMITTED:
        if (event->done.kind != DONE_IS_COMMITTED) {
            branch_hazard(e, branch, done_reason(event));
            outcome_is_hazard(e, txn);
        }
        return;
    case BR_IDLE:
    case BR_WORKING:
    case BR_OPEN:
    case BR_PREPARING:
    case BR_YES:
    case BR_READ_ONLY:
    case BR_NO:
    case BR_ABORTED:
    case BR_HAZARD:
        return; /* nobody asked: the answer to a question that no longer stands */
    case BR_STATE_COUNT:
        break;
    }
    assert(!"branch state");
}

/* ------------------------------------------------------------------- links */

static void lost_delegated(struct engine *e, struct txn *txn) {
    struct txn_branch *branch = &txn->branches[0];
    if (branch->state != BR_LOST) {
        branch_become(branch, BR_LOST);
        engine_release_credit(e, branch); /* still listed: it is to be settled when the link is back */
    }
    if (txn->state == TXN_DELEGATED) {
        begin_settling(e, txn);
    }
    engine_emit(e, EF_PENDING, txn);
}

static void lost_branch(struct engine *e, struct participant *p, struct txn_branch *branch) {
    struct txn *txn = branch->txn;
    if (txn->one_participant) {
        lost_delegated(e, txn);
        return;
    }
    switch (branch->state) {
    case BR_IDLE:
    case BR_WORKING:
    case BR_OPEN:
    case BR_PREPARING: {
        struct txn_cause cause;
        cause_set(&cause, p->number, NULL, "the link to participant %s was lost before its vote", p->name);
        cause.retryable = true;
        decide_abort(e, txn, &cause); /* PREPARE is sent at most once per gid */
        return;
    }
    case BR_YES:
        return; /* prepared: the vote stands */
    case BR_COMMITTING:
        engine_list_branch(e, branch, BRANCH_UNSENT_LIST); /* sent again on the next link */
        return;
    case BR_ABORTING:
        branch_become(branch, BR_LOST);
        let_go(e, branch);
        check_abort_finished(e, txn);
        return;
    case BR_READ_ONLY:
    case BR_NO:
    case BR_LOST:
    case BR_COMMITTED:
    case BR_ABORTED:
    case BR_HAZARD:
    case BR_STATE_COUNT:
        break;
    }
    assert(!"a finished branch is not listed");
}

void decide_on_link_lost(struct engine *e, struct participant *p) {
    for (struct txn_branch *branch = p->open_first; branch != NULL;) {
        struct txn_branch *next = branch->next; /* a transaction has one branch here: the others stay where they are */
        lost_branch(e, p, branch);
        branch = next;
    }
}

void decide_on_link_up(struct engine *e, struct participant *p) {
    p->decides_in_flight = 0;
    for (struct txn_branch *branch = p->open_first; branch != NULL; branch = branch->next) {
        if (branch->txn->state == TXN_SETTLING) {
            decide_settle(e, branch->txn);
        }
    }
    send_unsent(e, p);
}

/* Client, operator or deadline: stops what is not decided. After the decision nothing aborts. */
void decide_on_cancel(struct engine *e, struct txn *txn, const char *reason, bool retryable) {
    struct txn_cause cause;
    cause_set(&cause, 0, NULL, "%s", reason);
    cause.retryable = retryable;
    if (txn->state == TXN_ACTIVE || txn->state == TXN_PREPARING) {
        decide_abort(e, txn, &cause);
    } else if (txn->state == TXN_DELEGATED) {
        /* Its COMMIT may be on its way to the server: only the outcome row or a tombstone can say. */
        cause.begun = txn->cause.begun;
        txn->cause = cause;
        begin_settling(e, txn);
        branch_become(&txn->branches[0], BR_ABORTING);
        decide_settle(e, txn);
        engine_emit(e, EF_PENDING, txn);
    }
}
