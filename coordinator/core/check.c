/* check.c: every invariant of the engine's memory, as asserts. For tests and the simulator; too slow for the daemon. */
#include <assert.h>

#include "coordinator/core/engine_internal.h"

static void check_branch(const struct txn *txn, const struct txn_branch *branch) {
    assert(branch->txn == txn);
    if (branch_is_finished(branch)) {
        /* only a one-participant branch that is to be settled stays listed after its link is lost */
        assert(branch->list == BRANCH_UNLISTED ||
               (txn->one_participant && txn->state == TXN_SETTLING && branch->state == BR_LOST));
        assert(!branch->holds_credit);
    } else if (txn->state != TXN_WAITING) {
        assert(branch->list != BRANCH_UNLISTED);
    }
    if (branch->list == BRANCH_UNSENT_LIST) {
        assert(branch->state == BR_COMMITTING);
    }
    if (branch->state == BR_YES || branch->state == BR_COMMITTING || branch->state == BR_COMMITTED) {
        assert(txn->one_participant || (branch->id.xid != 0 && branch->id.gid == branch->gid));
    }
    assert(branch->steps_done <= branch->steps_next && branch->steps_next <= branch->steps_total);
}

static bool state_is_decided(enum txn_state state) {
    return state == TXN_COMMITTING || state == TXN_COMMITTED;
}

static void check_txn(const struct engine *e, const struct txn *txn) {
    assert(txn_table_find(&e->txns, txn->epoch, txn->sequence) == txn);
    bool waits_for_deadline = txn->state == TXN_WAITING || txn->state == TXN_ACTIVE || txn->state == TXN_PREPARING ||
                              txn->state == TXN_DELEGATED;
    assert((txn->heap_index != UINT32_MAX) == waits_for_deadline);
    for (uint32_t i = 0; i < txn->branch_count; i++) {
        const struct txn_branch *branch = &txn->branches[i];
        check_branch(txn, branch);
        /* nothing is committed before the decision is durable */
        if (branch->state == BR_COMMITTING || branch->state == BR_COMMITTED) {
            assert(state_is_decided(txn->state) || txn->state == TXN_HAZARD);
        }
        if (txn->state == TXN_LOGGING) {
            assert(branch->state == BR_YES || branch->state == BR_READ_ONLY);
        }
    }
    if (txn->outcome == OUTCOME_COMMITTED) {
        assert(state_is_decided(txn->state));
    }
    if (txn->state == TXN_LOGGING) {
        assert(txn->outcome == OUTCOME_PENDING && txn->ticket != 0);
    }
}

static void check_participants(const struct engine *e) {
    for (uint32_t i = 0; i < e->participant_count; i++) {
        const struct participant *p = e->participants[e->numbers[i]];
        assert(p != NULL && p->number == e->numbers[i] && !p->claimed);
        uint32_t open = 0;
        for (const struct txn_branch *branch = p->open_first; branch != NULL; branch = branch->next) {
            assert(branch->list == BRANCH_OPEN_LIST && branch->participant == p->number);
            open++;
        }
        for (const struct txn_branch *branch = p->unsent_first; branch != NULL; branch = branch->next) {
            assert(branch->list == BRANCH_UNSENT_LIST && branch->participant == p->number);
            open++;
        }
        assert(open == p->open_count);
        assert(p->linked || !p->ready);
    }
}

void engine_check(const struct engine *e) {
    uint32_t in_flight = 0, waiting = 0, hazards = 0, driven = 0, logging = 0, total = 0;
    uint64_t reserved = 0;
    for (const struct txn *txn = e->order_first; txn != NULL; txn = txn->order_next) {
        check_txn(e, txn);
        total++;
        waiting += txn->state == TXN_WAITING ? 1u : 0u;
        hazards += txn->state == TXN_HAZARD ? 1u : 0u;
        logging += txn->state == TXN_LOGGING ? 1u : 0u;
        in_flight += txn->state != TXN_WAITING && txn->state != TXN_HAZARD ? 1u : 0u;
        driven += txn->state == TXN_COMMITTING || txn->state == TXN_ABORTING || txn->state == TXN_SETTLING ? 1u : 0u;
        reserved += txn->log_reserved;
    }
    assert(total == e->txns.count);
    assert(in_flight == e->in_flight && waiting == e->waiting && hazards == e->hazards && driven == e->driven);
    assert(reserved + e->saga_reserved == e->log_reserved);
    uint64_t ticket = 0;
    for (const struct txn *txn = e->log_first; txn != NULL; txn = txn->log_next) {
        assert(txn->state == TXN_LOGGING && txn->ticket > ticket);
        ticket = txn->ticket;
        logging--;
    }
    assert(logging == 0);
    uint32_t queued = 0;
    for (const struct txn *txn = e->wait_first; txn != NULL; txn = txn->wait_next) {
        assert(txn->state == TXN_WAITING);
        queued++;
    }
    assert(queued == e->waiting);
    check_participants(e);
    for (uint32_t i = 1; i < e->heap.count; i++) {
        assert(e->heap.items[(i - 1) / 2]->deadline_us <= e->heap.items[i]->deadline_us);
    }
}
