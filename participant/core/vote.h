/*
 * vote.h: from what the server did in one run to what the branch answers (design 2.5, 2.6). Pure.
 */
#ifndef LOCKSTEP_AGENT_VOTE_H
#define LOCKSTEP_AGENT_VOTE_H

#include "participant/core/agent.h"

enum agent_judgement {
    AGENT_JUDGE_CONTINUE,    /* statements done, transaction open, more to come */
    AGENT_JUDGE_YES,         /* prepared, identity complete */
    AGENT_JUDGE_READ_ONLY,   /* rolled back; there was nothing to keep */
    AGENT_JUDGE_COMMIT,      /* one_phase: everything holds; send COMMIT, alone */
    AGENT_JUDGE_NO,          /* rolled back, certainly */
    AGENT_JUDGE_NO_OPEN,     /* NO, and its transaction is still open: roll it back */
    AGENT_JUDGE_NO_PREPARED, /* NO, although it is prepared: ROLLBACK PREPARED */
    AGENT_JUDGE_NO_UNKNOWN,  /* NO, but the server may still be at it: end the backend, then look */
    AGENT_JUDGE_KEY_TAKEN,   /* one_phase: the outcome row was there already; rolled back */
    AGENT_JUDGE_BROKEN,      /* the transaction was ended by a statement or an outside hand: hazard */
    AGENT_JUDGE_COUNT
};

struct agent_judged {
    enum agent_judgement judgement;
    bool retryable;
    bool has_step;
    bool key_free; /* it had come past its outcome row: the key was nobody else's */
    uint32_t step;
    bool report;                        /* an operator should read the reason */
    char sqlstate[LS_SQLSTATE_LEN + 1]; /* "" if none */
    char reason[LS_REASON_MAX + 1];     /* "" for CONTINUE, YES, READ_ONLY, COMMIT */
};

/* Judges one run: `last` and `one_phase` are those of its AEF_DB_RUN. */
void agent_vote_judge(const struct agent_run *run, bool last, bool one_phase, struct agent_judged *ret_judged);

const char *agent_judgement_name(enum agent_judgement judgement);

#endif
