/*
 * vote.c: a vote is what the server did, not what the call returned.
 *
 * Order of the questions, and why:
 *   1. Nothing was sent: NO, and nothing to clean up.
 *   2. The marker is gone: BROKEN before anything else, for part of the branch may be committed and no later success
 * mends that.
 *   3. PREPARE was answered: the command tag decides (PREPARE in a failed transaction succeeds with the tag ROLLBACK).
 * A prepared branch is YES only if nothing at all is wrong with it; otherwise it is NO and must be rolled back by its
 * gid.
 *   4. The session is lost: nobody knows how far the server came or will come.
 *   5. An item failed while the session lives: the transaction is rolled back, unless the code says that it tells
 * nothing.
 *   6. Nothing failed: rows must match, and the session must be where the run should have left it.
 */
#include "participant/core/vote.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "participant/core/sqlstate.h"

static void set(struct agent_judged *judged, enum agent_judgement judgement, const char *sqlstate, const char *reason) {
    judged->judgement = judgement;
    snprintf(judged->sqlstate, sizeof(judged->sqlstate), "%s", sqlstate != NULL ? sqlstate : "");
    snprintf(judged->reason, sizeof(judged->reason), "%s", reason != NULL ? reason : "");
}

static const char *item_name(enum agent_item item) {
    switch (item) {
    case AGENT_ITEM_NONE:
        return "nothing";
    case AGENT_ITEM_BEGIN:
        return "BEGIN";
    case AGENT_ITEM_MARKER:
        return "setting the branch's marker";
    case AGENT_ITEM_OUTCOME_ROW:
        return "inserting the outcome row";
    case AGENT_ITEM_BARRIER:
        return "the barrier row of the step";
    case AGENT_ITEM_STATEMENT:
        return "a statement";
    case AGENT_ITEM_RESULTS:
        return "too many or too large results";
    case AGENT_ITEM_CONSTRAINTS:
        return "deferred constraints or settings before PREPARE";
    case AGENT_ITEM_GUARD:
        return "the guard before PREPARE";
    case AGENT_ITEM_PREPARE:
        return "PREPARE TRANSACTION";
    case AGENT_ITEM_LSN:
        return "reading the position behind PREPARE";
    }
    assert(false && "an item that does not exist");
    return "?";
}

/* The first step whose row count is not what the document expects. */
static const struct agent_step_rows *rows_mismatch(const struct agent_run *run) {
    for (uint32_t i = 0; i < run->row_count; i++)
        if (run->rows[i].has_expect && run->rows[i].rows_affected != run->rows[i].expect_rows) return &run->rows[i];
    return NULL;
}

static void set_mismatch(struct agent_judged *judged, enum agent_judgement judgement,
                         const struct agent_step_rows *rows) {
    set(judged, judgement, NULL, NULL);
    snprintf(judged->reason, sizeof(judged->reason), "expected %" PRIu32 " rows, the statement touched %" PRIu64,
             rows->expect_rows, rows->rows_affected);
    judged->has_step = true;
    judged->step = rows->step;
}

static void set_failed(struct agent_judged *judged, enum agent_judgement judgement, const struct agent_run *run) {
    set(judged, judgement, run->sqlstate, NULL);
    if (run->message != NULL && run->message[0] != '\0')
        snprintf(judged->reason, sizeof(judged->reason), "%s", run->message);
    else if (run->failed == AGENT_ITEM_NONE)
        snprintf(judged->reason, sizeof(judged->reason), "the session with the server was lost");
    else
        snprintf(judged->reason, sizeof(judged->reason), "%s failed", item_name(run->failed));
    const struct agent_sqlstate_row *row = agent_sqlstate(run->sqlstate);
    judged->retryable = row->build == AGENT_SQL_NO_RETRYABLE || row->build == AGENT_SQL_UNKNOWN;
    judged->report = row->build == AGENT_SQL_NO_REPORT;
    if (run->failed == AGENT_ITEM_STATEMENT) {
        judged->has_step = true;
        judged->step = run->failed_step;
    }
}

static void judge_prepared(const struct agent_run *run, struct agent_judged *judged) {
    const struct agent_step_rows *mismatch = rows_mismatch(run);
    const struct agent_identity *id = &run->identity;

    if (mismatch != NULL) {
        set_mismatch(judged, AGENT_JUDGE_NO_PREPARED, mismatch);
    } else if (run->failed == AGENT_ITEM_RESULTS) {
        set_failed(judged, AGENT_JUDGE_NO_PREPARED, run);
    } else if (run->prepare_warning) {
        set(judged, AGENT_JUDGE_NO_PREPARED, NULL,
            "the wait for a synchronous standby was cancelled: prepared here, perhaps not there");
        judged->retryable = true;
    } else if (run->guard == AGENT_GUARD_FOREIGN_OWNER) {
        set(judged, AGENT_JUDGE_NO_PREPARED, "42501", "the branch would belong to another role");
    } else if (run->guard != AGENT_GUARD_OK) {
        set(judged, AGENT_JUDGE_NO_PREPARED, NULL, "prepared although its guard did not pass");
        judged->report = true;
    } else if (run->failed != AGENT_ITEM_NONE || id->xid == 0 || id->lsn == 0 || id->system_id == 0 ||
               id->timeline == 0 || run->owner == NULL || run->owner[0] == '\0') {
        /* Without an identity a decision could be bound to nothing but the name. */
        set(judged, AGENT_JUDGE_NO_PREPARED, run->sqlstate,
            "prepared, but its transaction id or position could not be read");
        judged->retryable = true;
    } else {
        set(judged, AGENT_JUDGE_YES, NULL, NULL);
    }
}

static void judge_failed(const struct agent_run *run, bool one_phase, struct agent_judged *judged) {
    const struct agent_sqlstate_row *row = agent_sqlstate(run->sqlstate);

    if (one_phase && run->failed == AGENT_ITEM_OUTCOME_ROW && run->sqlstate != NULL &&
        strcmp(run->sqlstate, "23505") == 0) {
        set(judged, AGENT_JUDGE_KEY_TAKEN, run->sqlstate,
            "the key or the transaction's name is in the outcome table already");
        return;
    }
    /* RESULTS is the agent's own complaint, the server is content: no code, no doubt. */
    if (run->failed != AGENT_ITEM_RESULTS && row->build == AGENT_SQL_UNKNOWN)
        set_failed(judged, AGENT_JUDGE_NO_UNKNOWN, run);
    else
        set_failed(judged, run->session == AGENT_SESSION_OPEN ? AGENT_JUDGE_NO_OPEN : AGENT_JUDGE_NO, run);
    if (run->failed == AGENT_ITEM_RESULTS) judged->retryable = false;
}

/* Session alive, no item failed, PREPARE not answered. */
static void judge_quiet(const struct agent_run *run, bool last, bool one_phase, struct agent_judged *judged) {
    const struct agent_step_rows *mismatch = rows_mismatch(run);

    if (mismatch != NULL) {
        set_mismatch(judged, run->session == AGENT_SESSION_OPEN ? AGENT_JUDGE_NO_OPEN : AGENT_JUDGE_NO, mismatch);
    } else if (last && !one_phase) {
        set(judged, AGENT_JUDGE_NO_UNKNOWN, NULL, "the server did not answer PREPARE");
        judged->report = true;
    } else if (run->session != AGENT_SESSION_OPEN) {
        set(judged, AGENT_JUDGE_BROKEN, NULL, "the transaction was no longer open after its statements");
        judged->report = true;
    } else if (!last) {
        set(judged, AGENT_JUDGE_CONTINUE, NULL, NULL);
    } else if (run->guard != AGENT_GUARD_OK) {
        set(judged, AGENT_JUDGE_NO_OPEN, NULL, "the guard before COMMIT did not pass");
        judged->report = true;
    } else {
        set(judged, AGENT_JUDGE_COMMIT, NULL, NULL);
    }
}

/* The insert waits for whoever else has the key, and fails if that one commits. Not said of a session that was lost:
 * what it was at is not known. */
static bool had_outcome_row(const struct agent_run *run) {
    bool at_it =
        run->failed == AGENT_ITEM_BEGIN || run->failed == AGENT_ITEM_MARKER || run->failed == AGENT_ITEM_OUTCOME_ROW;
    return !run->nothing_sent && run->session != AGENT_SESSION_LOST && !at_it;
}

void agent_vote_judge(const struct agent_run *run, bool last, bool one_phase, struct agent_judged *ret_judged) {
    const struct agent_step_rows *mismatch;

    memset(ret_judged, 0, sizeof(*ret_judged));
    if (run->nothing_sent) {
        set_failed(ret_judged, run->session == AGENT_SESSION_OPEN ? AGENT_JUDGE_NO_OPEN : AGENT_JUDGE_NO, run);
        if (run->message == NULL || run->message[0] == '\0')
            snprintf(ret_judged->reason, sizeof(ret_judged->reason), "no session with the server");
    } else if (run->guard == AGENT_GUARD_MARKER_LOST) {
        set(ret_judged, AGENT_JUDGE_BROKEN, NULL, "the branch's marker is gone: a statement ended its transaction");
        ret_judged->report = true;
    } else if (run->prepare_tag != NULL && strcmp(run->prepare_tag, "PREPARE TRANSACTION") == 0) {
        judge_prepared(run, ret_judged);
    } else if (run->session == AGENT_SESSION_LOST) {
        set_failed(ret_judged, AGENT_JUDGE_NO_UNKNOWN, run);
        ret_judged->retryable = true;
    } else if (run->prepare_tag != NULL) {
        set(ret_judged, AGENT_JUDGE_NO, run->sqlstate != NULL && run->sqlstate[0] != '\0' ? run->sqlstate : "25P02",
            "the transaction had failed, PREPARE rolled it back");
    } else if (run->guard == AGENT_GUARD_READ_ONLY) {
        if ((mismatch = rows_mismatch(run)) != NULL)
            set_mismatch(ret_judged, AGENT_JUDGE_NO, mismatch);
        else if (run->failed != AGENT_ITEM_NONE && run->failed != AGENT_ITEM_GUARD)
            judge_failed(run, one_phase, ret_judged);
        else
            set(ret_judged, AGENT_JUDGE_READ_ONLY, NULL, NULL);
    } else if (run->guard == AGENT_GUARD_FOREIGN_OWNER) {
        set(ret_judged, run->session == AGENT_SESSION_OPEN ? AGENT_JUDGE_NO_OPEN : AGENT_JUDGE_NO, "42501",
            "the branch would belong to another role");
    } else if (run->failed != AGENT_ITEM_NONE) {
        judge_failed(run, one_phase, ret_judged);
    } else {
        judge_quiet(run, last, one_phase, ret_judged);
    }
    ret_judged->key_free = one_phase && had_outcome_row(run);
    assert(ret_judged->judgement != AGENT_JUDGE_COMMIT || (last && one_phase));
    assert(ret_judged->judgement != AGENT_JUDGE_YES || (last && !one_phase));
}

const char *agent_judgement_name(enum agent_judgement judgement) {
    static const char *const names[AGENT_JUDGE_COUNT] = {
        [AGENT_JUDGE_CONTINUE] = "continue",
        [AGENT_JUDGE_YES] = "yes",
        [AGENT_JUDGE_READ_ONLY] = "read-only",
        [AGENT_JUDGE_COMMIT] = "commit",
        [AGENT_JUDGE_NO] = "no",
        [AGENT_JUDGE_NO_OPEN] = "no, open",
        [AGENT_JUDGE_NO_PREPARED] = "no, prepared",
        [AGENT_JUDGE_NO_UNKNOWN] = "no, unknown",
        [AGENT_JUDGE_KEY_TAKEN] = "key taken",
        [AGENT_JUDGE_BROKEN] = "broken",
    };
    assert(judgement < AGENT_JUDGE_COUNT);
    return names[judgement];
}
