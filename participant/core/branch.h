/*
 * branch.h: one branch as the agent sees it, and its state machine. See branch.c for diagram and table.
 */
#ifndef LOCKSTEP_AGENT_BRANCH_H
#define LOCKSTEP_AGENT_BRANCH_H

#include "participant/core/agent.h"
#include "participant/core/vote.h"

enum agent_branch_state {
    AGB_NEW,
    AGB_RUNNING,      /* statements run; no PREPARE and no COMMIT behind them */
    AGB_OPEN,         /* its transaction is open and waits for more Work */
    AGB_PREPARING,    /* the last statements and PREPARE run in one pipeline */
    AGB_PREPARED,     /* voted YES: only the coordinator's word ends it */
    AGB_ROLLING_BACK, /* ROLLBACK on an idle session */
    AGB_STOPPING,     /* never voted YES; its backend is being ended, and its answer awaited */
    AGB_PROVING,      /* a proof is being read, or will be after a pause */
    AGB_FINISHING,    /* COMMIT PREPARED or ROLLBACK PREPARED is on its way */
    AGB_COMMITTING,   /* one phase: COMMIT is on its way */
    AGB_READING_KEY,  /* one phase: the key's outcome row is being read */
    AGB_SETTLING,     /* one phase: outcome row or tombstone decides */
    AGB_ENDED,        /* leaves the table in this step */
    AGB_STATE_COUNT
};

/* What a branch that has no vote to give any more is to become. */
enum agent_goal { AGENT_GOAL_NONE, AGENT_GOAL_COMMIT, AGENT_GOAL_ABORT };

struct agent_branch {
    enum agent_branch_state state;
    enum agent_goal goal;
    uint64_t number; /* low bits: its slot in the table */
    struct ls_gtid id;
    char gtid[LS_GTID_MAX + 1];
    char gid[LS_GID_MAX + 1];    /* two-phase */
    char owner[LS_ROLE_MAX + 1]; /* "" if not known */
    struct agent_identity bound; /* what the branch, then its decision, is bound to; xid 0: not known */
    uint64_t link;               /* the link its Work came on; 0: known from a decision or a scan only */
    uint32_t part;               /* of the run that is on its way, or was last */
    bool one_phase;
    bool last_sent;     /* the run with PREPARE was handed out (one phase: the last statements) */
    bool commit_sent;   /* one phase */
    bool bound_session; /* a worker session may be bound to it */
    bool voted;         /* the last word of a vote was said: nothing more is owed to the coordinator but what it asks */
    bool holds_credit;
    bool recovered;    /* no live Work stands behind it */
    bool tell;         /* Done is wanted when it has ended */
    bool from_verdict; /* a verdict is about one listed transaction; another under the gid is none of its business */
    uint32_t verdict_timeline;       /* from_verdict: where it was listed */
    bool forgotten;                  /* the log no longer knows how it ended: that it committed is no hazard */
    bool nameless;                   /* the coordinator called it a stranger: its end says nothing about its name */
    bool other_form;                 /* abort of an unknown gtid: the XA form of the gid is to be looked up too */
    bool finish_broke;               /* the last finish was answered by an internal error of the server */
    bool finish_stranger;            /* FINISHING rolls back a stranger, then the proof goes on */
    bool stranger;                   /* one was rolled back */
    bool broken;                     /* its transaction was ended from inside or outside */
    bool was_committed;              /* one phase: on an earlier history of the server */
    bool parked;                     /* PROVING: waits for a page of the sweep instead of reading a proof of its own */
    bool stopped;                    /* STOPPING: the backend is gone */
    bool retried;                    /* something had to be tried again */
    bool counts_worker, counts_slot; /* against the credits, see table_count() */
    uint64_t prepared_us;
    uint32_t asked_cycle; /* of the sweep that last asked about it */
    uint64_t deadline_us; /* RUNNING, OPEN, PREPARING, COMMITTING */
    uint64_t op, stop_op; /* outstanding; 0: none */
    uint32_t attempts;
    void *work;                /* of the run that is on its way */
    void *first_work;          /* one phase: part 0, which names the key */
    struct agent_judged cause; /* why NO */
    bool has_barrier;          /* a saga's step: what the last run said of its row */
    enum agent_barrier barrier;
    uint64_t timer_us;   /* AGENT_NEVER: none */
    uint32_t heap_index; /* UINT32_MAX: not in the heap */
    struct agent_branch *hash_next, *order_next, *order_prev;
};

const char *agent_branch_state_name(enum agent_branch_state state);
/* The reason a move is legal, or NULL when it is not. */
const char *agent_branch_transition(enum agent_branch_state from, enum agent_branch_state to);
/* Moves; asserts legality. The only writer of `state`. */
void agent_branch_become(struct agent_branch *branch, enum agent_branch_state to);
/* True while a worker session may be busy or open on its behalf. */
bool agent_branch_uses_worker(const struct agent_branch *branch);
/* True when it may hold a slot of max_prepared_transactions. */
bool agent_branch_uses_slot(const struct agent_branch *branch);

#endif
