/*
 * txn.c: the two state machines of the coordinator: a transaction, and one branch of it.
 *
 * A transaction on several participants:
 *
 *   WAITING -> ACTIVE -> PREPARING -> LOGGING -> COMMITTING -> COMMITTED
 *      |          |          |                       |
 *      |          |          +-> COMMITTED           +-> HAZARD
 *      |          |          |   (all read-only)
 *      |          +----------+--> ABORTING -> ABORTED
 *      +--> ABORTED                    |
 *                                      +-> HAZARD
 *
 * A transaction on one participant (no decision record; the participant's own COMMIT decides):
 *
 *   WAITING -> DELEGATED -> COMMITTED | ABORTED | HAZARD
 *                  |
 *                  +-> SETTLING -> COMMITTED | ABORTED | HAZARD
 *
 * What may be trusted in each state, also after a crash of the coordinator:
 *   WAITING     nothing was sent. A crash forgets it.
 *   ACTIVE      Work was sent; nothing is logged. A crash means abort: the agents roll back what is not prepared, and
 * ask about what is. The same holds in PREPARING. LOGGING     every branch is prepared or released. The record may or
 * may not reach the disk; nobody has been told anything. A crash ends in commit (record found) or abort (not found);
 * both are right. COMMITTING  the record is durable. It will be committed everywhere, whatever crashes. Nothing aborts
 * it. ABORTING    no record was ever handed to the log, and none will be. DELEGATED   the participant's outcome row,
 * committed with the effects, is the only truth. SETTLING    the same; it is being asked, and if it is not there a
 * tombstone takes its place before "aborted" is said. HAZARD      somebody else finished a branch against the decision.
 * Kept until an operator resolves it.
 *
 * The tables below are the only list of legal moves; txn_become() and branch_become() are the only writers of `state`.
 * tests/unit/test_txn.c walks all pairs.
 */
#include "coordinator/core/txn.h"

#include <assert.h>
#include <stddef.h>

struct move {
    int from, to;
    const char *reason;
};

static const struct move txn_moves[] = {
    {TXN_WAITING, TXN_ACTIVE, "credits of every participant taken"},
    {TXN_WAITING, TXN_DELEGATED, "credit of the only participant taken"},
    {TXN_WAITING, TXN_ABORTED, "deadline, cancel or lost link before anything was sent"},
    {TXN_ACTIVE, TXN_PREPARING, "the last Work of every branch was sent"},
    {TXN_ACTIVE, TXN_ABORTING, "a no, a lost link, the deadline or a cancel"},
    {TXN_PREPARING, TXN_LOGGING, "every vote is in and at least one is yes"},
    {TXN_PREPARING, TXN_COMMITTED, "every branch was read-only: nothing to decide"},
    {TXN_PREPARING, TXN_ABORTING, "a no, a lost link before a vote, the deadline or a cancel"},
    {TXN_LOGGING, TXN_COMMITTING, "the log said that the decision is durable"},
    {TXN_COMMITTING, TXN_COMMITTED, "every branch is proved committed"},
    {TXN_COMMITTING, TXN_HAZARD, "every branch is finished, one against the decision"},
    {TXN_ABORTING, TXN_ABORTED, "every branch is released, or its link is lost and it will ask"},
    {TXN_ABORTING, TXN_HAZARD, "every branch is finished, one of them not by us"},
    {TXN_DELEGATED, TXN_COMMITTED, "the participant committed"},
    {TXN_DELEGATED, TXN_ABORTED, "the participant rolled back before its COMMIT was sent"},
    {TXN_DELEGATED, TXN_SETTLING, "link or time lost: the outcome row is asked"},
    {TXN_DELEGATED, TXN_HAZARD, "a statement ended the transaction"},
    {TXN_SETTLING, TXN_COMMITTED, "the outcome row is there"},
    {TXN_SETTLING, TXN_ABORTED, "a tombstone is there, or the participant rolled back"},
    {TXN_SETTLING, TXN_HAZARD, "a statement ended the transaction"},
};

/*
 * A branch:
 *
 *   IDLE -> WORKING <-> OPEN         YES -> COMMITTING -> COMMITTED
 *     |        |          |           ^          |
 *     |        v          v           |          +------> HAZARD
 *     +----------> PREPARING ---------+--> READ_ONLY
 *                      |
 *                      +--> NO
 *   anything before the decision -> ABORTING -> ABORTED, or -> LOST when there is no link to say it on
 */
static const struct move branch_moves[] = {
    {BR_IDLE, BR_WORKING, "first Work sent, more to come"},
    {BR_IDLE, BR_PREPARING, "first and last Work sent"},
    {BR_IDLE, BR_ABORTED, "aborted before anything was sent"},
    {BR_WORKING, BR_OPEN, "its statements are done, more Work to come"},
    {BR_WORKING, BR_NO, "a statement failed; rolled back"},
    {BR_WORKING, BR_HAZARD, "a statement ended the transaction"},
    {BR_WORKING, BR_ABORTING, "abort sent"},
    {BR_WORKING, BR_LOST, "link lost before the vote"},
    {BR_OPEN, BR_WORKING, "more Work sent, and more to come"},
    {BR_OPEN, BR_PREPARING, "the last Work sent"},
    {BR_OPEN, BR_NO, "the server ended the session"},
    {BR_OPEN, BR_HAZARD, "an outside hand"},
    {BR_OPEN, BR_ABORTING, "abort sent"},
    {BR_OPEN, BR_LOST, "link lost before the vote"},
    {BR_PREPARING, BR_YES, "vote yes: prepared"},
    {BR_PREPARING, BR_READ_ONLY, "vote read-only: released"},
    {BR_PREPARING, BR_NO, "vote no: rolled back"},
    {BR_PREPARING, BR_COMMITTED, "one participant: it committed"},
    {BR_PREPARING, BR_ABORTED, "one participant: settled as aborted"},
    {BR_PREPARING, BR_HAZARD, "a statement ended the transaction, or an outside hand"},
    {BR_PREPARING, BR_ABORTING, "abort sent"},
    {BR_PREPARING, BR_LOST, "link lost before the vote"},
    {BR_YES, BR_COMMITTING, "the decision is durable"},
    {BR_YES, BR_ABORTING, "abort sent"},
    {BR_YES, BR_LOST, "abort with no link to say it on: the agent will ask"},
    {BR_COMMITTING, BR_COMMITTED, "proved committed"},
    {BR_COMMITTING, BR_HAZARD, "proved not committed, against the decision"},
    {BR_ABORTING, BR_ABORTED, "released"},
    {BR_ABORTING, BR_COMMITTED, "one participant: its COMMIT came before the abort"},
    {BR_ABORTING, BR_NO, "its own no crossed the abort"},
    {BR_ABORTING, BR_READ_ONLY, "its read-only vote crossed the abort"},
    {BR_ABORTING, BR_LOST, "link lost: the agent will ask"},
    {BR_ABORTING, BR_HAZARD, "proved committed although aborted"},
    {BR_LOST, BR_COMMITTED, "one participant: settled as committed"},
    {BR_LOST, BR_ABORTED, "one participant: settled as aborted"},
    {BR_LOST, BR_NO, "one participant: its no crossed the loss"},
    {BR_LOST, BR_HAZARD, "proved committed although aborted"},
    {BR_COMMITTED, BR_HAZARD, "proved lost after a change of the server's history"},
};

static const char *find_move(const struct move *moves, size_t count, int from, int to) {
    for (size_t i = 0; i < count; i++) {
        if (moves[i].from == from && moves[i].to == to) {
            return moves[i].reason;
        }
    }
    return NULL;
}

const char *txn_transition(enum txn_state from, enum txn_state to) {
    return find_move(txn_moves, sizeof txn_moves / sizeof txn_moves[0], (int)from, (int)to);
}

const char *branch_transition(enum branch_state from, enum branch_state to) {
    return find_move(branch_moves, sizeof branch_moves / sizeof branch_moves[0], (int)from, (int)to);
}

void txn_become(struct txn *txn, enum txn_state to) {
    assert(txn_transition(txn->state, to) != NULL);
    txn->state = to;
}

void branch_become(struct txn_branch *branch, enum branch_state to) {
    assert(branch_transition(branch->state, to) != NULL);
    branch->state = to;
}

const char *txn_state_name(enum txn_state state) {
    switch (state) {
    case TXN_WAITING:
        return "waiting";
    case TXN_ACTIVE:
        return "active";
    case TXN_PREPARING:
        return "preparing";
    case TXN_LOGGING:
        return "logging";
    case TXN_COMMITTING:
        return "committing";
    case TXN_COMMITTED:
        return "committed";
    case TXN_ABORTING:
        return "aborting";
    case TXN_ABORTED:
        return "aborted";
    case TXN_DELEGATED:
        return "delegated";
    case TXN_SETTLING:
        return "settling";
    case TXN_HAZARD:
        return "hazard";
    case TXN_STATE_COUNT:
        break;
    }
    assert(!"transaction state");
    return "";
}

const char *branch_state_name(enum branch_state state) {
    switch (state) {
    case BR_IDLE:
        return "idle";
    case BR_WORKING:
        return "working";
    case BR_OPEN:
        return "open";
    case BR_PREPARING:
        return "preparing";
    case BR_YES:
        return "yes";
    case BR_READ_ONLY:
        return "read-only";
    case BR_NO:
        return "no";
    case BR_LOST:
        return "lost";
    case BR_COMMITTING:
        return "committing";
    case BR_COMMITTED:
        return "committed";
    case BR_ABORTING:
        return "aborting";
    case BR_ABORTED:
        return "aborted";
    case BR_HAZARD:
        return "hazard";
    case BR_STATE_COUNT:
        break;
    }
    assert(!"branch state");
    return "";
}

const char *txn_outcome_name(enum txn_outcome outcome) {
    switch (outcome) {
    case OUTCOME_PENDING:
        return "pending";
    case OUTCOME_COMMITTED:
        return "committed";
    case OUTCOME_ABORTED:
        return "aborted";
    case OUTCOME_HAZARD:
        return "hazard";
    }
    assert(!"outcome");
    return "";
}
