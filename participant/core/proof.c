/*
 * proof.c: the decision table of a proof.
 *
 *   history of the server against the record        listed as xid   not listed: status of the xid
 *   ---------------------------------------------   -------------
 * ------------------------------------------------------ another system id                               LOST LOST
 *   older timeline than recorded                    RETRY           RETRY, quarantine (an old primary; the right server
 * may come back) same timeline, WAL ends before the LSN          LOST            LOST, quarantine (restored to an
 * earlier point) newer timeline, LSN behind the switch           PREPARED        LOST (status may speak of another
 * transaction with a reused xid) same timeline, or LSN before the switch         PREPARED        committed COMMITTED,
 * aborted ABORTED, in progress RETRY, too old LOST, future LOST
 *
 * Why "in progress" is RETRY: PREPARE still on its way, or a finish between its two steps, or a prepared transaction of
 * another database under another gid. Why LSN 0 counts as before the switch only on the same timeline: an unknown bound
 * proves nothing.
 */
#include "participant/core/proof.h"

#include <assert.h>

bool agent_proof_in_history(uint32_t timeline, uint64_t lsn, const struct agent_server *server,
                            const struct agent_switch *history, uint32_t history_count) {
    if (timeline == server->timeline) return lsn <= server->insert_lsn;
    /* Each later switch cuts again: the branch must lie before its own timeline's end, which is never behind a later
     * one. */
    for (uint32_t i = 0; i < history_count; i++)
        if (history[i].timeline == timeline) return lsn != 0 && lsn <= history[i].lsn;
    return false;
}

static struct agent_proven answer(enum agent_proof proof, const char *why) {
    return (struct agent_proven){.proof = proof, .why = why};
}

static struct agent_proven judge_status(enum agent_xact_status status) {
    switch (status) {
    case AGENT_XACT_COMMITTED:
        return answer(AGENT_PROOF_COMMITTED, "its transaction id is committed");
    case AGENT_XACT_ABORTED:
        return answer(AGENT_PROOF_ABORTED, "its transaction id is rolled back");
    case AGENT_XACT_IN_PROGRESS:
        return answer(AGENT_PROOF_RETRY, "its transaction id is in progress, but it is not listed as prepared");
    case AGENT_XACT_TOO_OLD:
        return answer(AGENT_PROOF_LOST, "its transaction id is too old for the server to know how it ended");
    case AGENT_XACT_FUTURE:
        return answer(AGENT_PROOF_LOST, "its transaction id lies in the server's future: the server has lost WAL");
    case AGENT_XACT_UNKNOWN:
        break;
    }
    return answer(AGENT_PROOF_RETRY, "the status of its transaction id was not read");
}

static struct agent_proven judge_history(const struct agent_identity *recorded, const struct agent_proof_seen *seen,
                                         bool listed) {
    const struct agent_server *server = &seen->server;
    struct agent_proven proven;

    if (recorded->system_id != server->system_id)
        return answer(AGENT_PROOF_LOST, "the server is another one (system identifier)");
    if (server->timeline < recorded->timeline) {
        proven = answer(AGENT_PROOF_RETRY, "the server is on an older timeline than the branch was prepared on");
        proven.quarantine = true;
        return proven;
    }
    if (server->timeline == recorded->timeline && server->insert_lsn < recorded->lsn) {
        proven = answer(AGENT_PROOF_LOST, "the server's WAL ends before the point where the branch was prepared");
        proven.quarantine = true;
        return proven;
    }
    bool behind =
        !agent_proof_in_history(recorded->timeline, recorded->lsn, server, seen->history, seen->history_count);
    if (listed) {
        proven = answer(AGENT_PROOF_PREPARED, "listed as prepared");
        proven.behind = behind;
        return proven;
    }
    if (behind) return answer(AGENT_PROOF_LOST, "the server has left the timeline before the branch was prepared");
    return judge_status(seen->status);
}

struct agent_proven agent_proof_judge(const struct agent_identity *recorded, const struct agent_proof_seen *seen) {
    if (recorded->xid == 0)
        return seen->listed ? answer(AGENT_PROOF_PREPARED, "listed as prepared")
                            : answer(AGENT_PROOF_ABSENT, "not listed as prepared");
    bool ours = seen->listed && seen->listed_xid == recorded->xid;
    struct agent_proven proven = judge_history(recorded, seen, ours);
    proven.stranger = seen->listed && !ours;
    assert(proven.why != NULL);
    return proven;
}

const char *agent_proof_name(enum agent_proof proof) {
    switch (proof) {
    case AGENT_PROOF_PREPARED:
        return "prepared";
    case AGENT_PROOF_COMMITTED:
        return "committed";
    case AGENT_PROOF_ABORTED:
        return "aborted";
    case AGENT_PROOF_RETRY:
        return "retry";
    case AGENT_PROOF_LOST:
        return "lost";
    case AGENT_PROOF_ABSENT:
        return "absent";
    }
    assert(false && "a proof that does not exist");
    return "?";
}
