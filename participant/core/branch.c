/*
 * branch.c: the state machine of one branch at its participant.
 *
 * A branch that will be prepared:
 *
 *   NEW -> RUNNING <-> OPEN                          (statements in several parts)
 *    |        |          |
 *    +--------+--> PREPARING --YES--> PREPARED --decision--> FINISHING --> ENDED
 *                     |                   |                   |    ^
 *                     | NO, read-only     +---> PROVING <-----+    |
 *                     v                            |  +------------+
 *                   ENDED <------------------------+
 *
 * A branch whose transaction commits by itself (one participant):
 *
 *   NEW -> RUNNING <-> OPEN
 *             |-----> COMMITTING --> ENDED
 *             +-----> READING_KEY -> ENDED | SETTLING -> ENDED
 *
 * Ways out of both, before a YES or an answered COMMIT:
 *   ROLLING_BACK  the session is idle in its transaction: ROLLBACK ends it, certainly
 *   STOPPING      the session is busy or lost: end its backend, wait until it is gone, and only then look
 *                 (PROVING: is the gid prepared?  SETTLING: outcome row or tombstone)
 *
 * What may be trusted in each state, also after a crash of the agent:
 *   RUNNING       nothing is prepared. A crash: the next life ends the backend; the coordinator aborts with the link.
 *   OPEN          the same; the server rolls back as soon as it notices the dead session.
 *   PREPARING     PREPARE may or may not have happened, and may still happen (hazards 1.5). A crash: the next life ends
 * the backend, waits until it is gone, then scans and asks. No vote was given, so the answer is abort. PREPARED durable
 * on the server, YES was or will be said. A crash changes nothing; the next life asks. FINISHING     the decision is
 * known; whether the server has carried it out is not. A crash: asked and proved again. PROVING       as FINISHING, or
 * a decision about a branch of an earlier life. STOPPING      never voted YES, so rolling back is always right. The
 * same for ROLLING_BACK. COMMITTING    the outcome row, committed with the effects, is the only truth. A crash: Settle
 * asks for it. SETTLING      the same; if the row is not there, a tombstone takes its place before "aborted" is said.
 *
 * The table below is the only list of legal moves; agent_branch_become() is the only writer of `state`.
 * tests/unit/test_agent_branch.c walks all pairs and prints the table.
 */
#include "participant/core/branch.h"

#include <assert.h>
#include <stddef.h>

static const struct move {
    enum agent_branch_state from, to;
    const char *reason;
} moves[] = {
    {AGB_NEW, AGB_RUNNING, "first Work, without PREPARE"},
    {AGB_NEW, AGB_PREPARING, "first and last Work"},
    {AGB_NEW, AGB_PROVING, "a decision about a branch of an earlier life"},
    {AGB_NEW, AGB_SETTLING, "one phase: asked about a transaction of an earlier life"},
    {AGB_RUNNING, AGB_OPEN, "statements done, more Work to come"},
    {AGB_RUNNING, AGB_COMMITTING, "one phase: everything holds, COMMIT goes alone"},
    {AGB_RUNNING, AGB_READING_KEY, "one phase: the outcome row was there already"},
    {AGB_RUNNING, AGB_ROLLING_BACK, "NO while the transaction is still open"},
    {AGB_RUNNING, AGB_STOPPING, "abort, deadline, lost link or lost session"},
    {AGB_RUNNING, AGB_ENDED, "rolled back by the server"},
    {AGB_OPEN, AGB_RUNNING, "more Work, not the last"},
    {AGB_OPEN, AGB_PREPARING, "the last Work"},
    {AGB_OPEN, AGB_ROLLING_BACK, "abort, deadline or lost link"},
    {AGB_PREPARING, AGB_PREPARED, "YES: the server has prepared it"},
    {AGB_PREPARING, AGB_FINISHING, "prepared, but NO for another reason: ROLLBACK PREPARED"},
    {AGB_PREPARING, AGB_ROLLING_BACK, "NO while the transaction is still open"},
    {AGB_PREPARING, AGB_STOPPING, "abort, deadline, lost link or lost session"},
    {AGB_PREPARING, AGB_ENDED, "NO or read-only: rolled back by the server"},
    {AGB_PREPARED, AGB_FINISHING, "the coordinator's word about this very transaction, just prepared"},
    {AGB_PREPARED, AGB_PROVING, "the coordinator's word: is it still listed, and with the xid that the word names?"},
    {AGB_ROLLING_BACK, AGB_STOPPING, "the session was lost over it: free its locks at once"},
    {AGB_ROLLING_BACK, AGB_ENDED, "rolled back"},
    {AGB_STOPPING, AGB_PROVING, "the backend is gone: did it prepare before?"},
    {AGB_STOPPING, AGB_SETTLING, "the backend is gone: did it commit before?"},
    {AGB_STOPPING, AGB_ENDED, "the backend is gone, and PREPARE was never sent"},
    {AGB_PROVING, AGB_FINISHING, "still prepared"},
    {AGB_PROVING, AGB_ENDED, "proved"},
    {AGB_FINISHING, AGB_PROVING, "no clear answer, does not exist, or a stranger is out of the way"},
    {AGB_FINISHING, AGB_ENDED, "the server has carried it out"},
    {AGB_COMMITTING, AGB_STOPPING, "no clear answer: end the backend, then settle"},
    {AGB_COMMITTING, AGB_ENDED, "the server answered COMMIT"},
    {AGB_READING_KEY, AGB_SETTLING, "it is our own row or none: the transaction's name settles it"},
    {AGB_READING_KEY, AGB_ENDED, "the key belongs to an earlier transaction"},
    {AGB_SETTLING, AGB_ENDED, "outcome row or tombstone is committed"},
};

const char *agent_branch_state_name(enum agent_branch_state state) {
    static const char *const names[AGB_STATE_COUNT] = {
        [AGB_NEW] = "new",
        [AGB_RUNNING] = "running",
        [AGB_OPEN] = "open",
        [AGB_PREPARING] = "preparing",
        [AGB_PREPARED] = "prepared",
        [AGB_ROLLING_BACK] = "rolling back",
        [AGB_STOPPING] = "stopping",
        [AGB_PROVING] = "proving",
        [AGB_FINISHING] = "finishing",
        [AGB_COMMITTING] = "committing",
        [AGB_READING_KEY] = "reading key",
        [AGB_SETTLING] = "settling",
        [AGB_ENDED] = "ended",
    };
    assert(state < AGB_STATE_COUNT);
    return names[state];
}

const char *agent_branch_transition(enum agent_branch_state from, enum agent_branch_state to) {
    for (size_t i = 0; i < sizeof(moves) / sizeof(moves[0]); i++)
        if (moves[i].from == from && moves[i].to == to) return moves[i].reason;
    return NULL;
}

void agent_branch_become(struct agent_branch *branch, enum agent_branch_state to) {
    assert(agent_branch_transition(branch->state, to) != NULL);
    branch->state = to;
}

bool agent_branch_uses_worker(const struct agent_branch *branch) {
    switch (branch->state) {
    case AGB_RUNNING:
    case AGB_OPEN:
    case AGB_PREPARING:
    case AGB_ROLLING_BACK:
    case AGB_STOPPING:
    case AGB_COMMITTING:
        return true;
    case AGB_NEW:
    case AGB_PREPARED:
    case AGB_PROVING:
    case AGB_FINISHING:
    case AGB_READING_KEY:
    case AGB_SETTLING:
    case AGB_ENDED:
    case AGB_STATE_COUNT:
        break;
    }
    return false;
}

bool agent_branch_uses_slot(const struct agent_branch *branch) {
    switch (branch->state) {
    case AGB_PREPARING:
    case AGB_PREPARED:
    case AGB_PROVING:
    case AGB_FINISHING:
    case AGB_STOPPING:
        return !branch->one_phase;
    case AGB_NEW:
    case AGB_RUNNING:
    case AGB_OPEN:
    case AGB_ROLLING_BACK:
    case AGB_COMMITTING:
    case AGB_READING_KEY:
    case AGB_SETTLING:
    case AGB_ENDED:
    case AGB_STATE_COUNT:
        break;
    }
    return false;
}
