/*
 * proof.h: how did this very transaction end? Pure.
 *
 * "Prepared transaction does not exist" is not an answer (design 2.4). What is recorded of a branch (system id,
 * timeline, xid, an upper bound of its LSN) is held against what one statement saw on the server, and only that
 * decides.
 */
#ifndef LOCKSTEP_AGENT_PROOF_H
#define LOCKSTEP_AGENT_PROOF_H

#include "participant/core/agent.h"

enum agent_proof {
    AGENT_PROOF_PREPARED, /* listed with the recorded xid */
    AGENT_PROOF_COMMITTED,
    AGENT_PROOF_ABORTED,
    AGENT_PROOF_RETRY, /* nothing can be said now */
    AGENT_PROOF_LOST,  /* the server no longer knows what it had promised: lost WAL, another server, too old */
    AGENT_PROOF_ABSENT /* no xid was recorded, and the gid is not listed */
};

struct agent_proven {
    enum agent_proof proof;
    bool stranger;   /* the gid is listed, but for another transaction than the recorded one */
    bool behind;     /* PREPARED, but by its recorded position it would not be there: that is only an upper bound */
    bool quarantine; /* the server's history ends before something it has answered for: it must not get work */
    const char *why; /* constant text */
};

/* With recorded->xid 0 (not known) any listed transaction counts as the branch, and the answer is PREPARED or ABSENT.
 */
struct agent_proven agent_proof_judge(const struct agent_identity *recorded, const struct agent_proof_seen *seen);

/* Is (timeline, lsn) part of the history that `server` is in? A timeline that is in no history entry and not the
 * present one is not. */
bool agent_proof_in_history(uint32_t timeline, uint64_t lsn, const struct agent_server *server,
                            const struct agent_switch *history, uint32_t history_count);

const char *agent_proof_name(enum agent_proof proof);

#endif
