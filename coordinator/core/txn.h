/*
 * txn.h: one transaction as the coordinator sees it, and its two state machines. See txn.c for diagram and table.
 */
#ifndef LOCKSTEP_TXN_H
#define LOCKSTEP_TXN_H

#include <stdbool.h>
#include <stdint.h>

#include "lockstep/ids.h"
#include "lockstep/limits.h"

enum txn_state {
    TXN_WAITING,    /* queued for credits; nothing begun */
    TXN_ACTIVE,     /* Work was sent, and more is to come */
    TXN_PREPARING,  /* all Work was sent; votes are outstanding */
    TXN_LOGGING,    /* all votes are in; the decision is with the log, not yet durable */
    TXN_COMMITTING, /* THE DECISION IS DURABLE; COMMIT was sent */
    TXN_COMMITTED,  /* every branch is proved committed, or was read-only */
    TXN_ABORTING,   /* will never commit; branches are being released */
    TXN_ABORTED,
    TXN_DELEGATED, /* one participant: it decides by its own COMMIT */
    TXN_SETTLING,  /* one participant: the outcome is asked of its outcome row */
    TXN_HAZARD,    /* every other branch is finished, one was broken from outside; kept until resolved */
    TXN_STATE_COUNT
};

enum branch_state {
    BR_IDLE,      /* nothing sent */
    BR_WORKING,   /* Work sent, not the last */
    BR_OPEN,      /* its transaction is open and waits for more Work */
    BR_PREPARING, /* the last Work sent: no vote yet */
    BR_YES,       /* prepared, bound to txn_branch_id */
    BR_READ_ONLY, /* released */
    BR_NO,        /* rolled back by the agent */
    BR_LOST,      /* link lost before the vote, or while aborting: the agent's sweep will ask */
    BR_COMMITTING,
    BR_COMMITTED,
    BR_ABORTING,
    BR_ABORTED,
    BR_HAZARD,
    BR_STATE_COUNT
};

enum vote_kind { VOTE_YES, VOTE_NO, VOTE_READ_ONLY, VOTE_CONTINUE, VOTE_COMMITTED, VOTE_EXISTS, VOTE_BROKEN };
enum done_kind { DONE_IS_COMMITTED, DONE_IS_ABORTED, DONE_IS_HAZARD };

enum txn_outcome { OUTCOME_PENDING = 0, OUTCOME_COMMITTED, OUTCOME_ABORTED, OUTCOME_HAZARD };

/* What a decision is bound to (design 2.7): not a name but one transaction of one server. */
struct txn_branch_id {
    uint32_t participant;
    uint32_t timeline;
    uint64_t system_id;
    uint64_t xid;
    uint64_t lsn;
    const char *gid; /* in events: borrowed; in a txn: points into the txn's own memory */
    const char *owner;
};

struct txn;

/* Where a branch stands at its participant. */
enum branch_list {
    BRANCH_UNLISTED = 0,
    BRANCH_OPEN_LIST,  /* not finished */
    BRANCH_UNSENT_LIST /* not finished, and its decision waits for a link or for its turn */
};

struct txn_branch {
    enum branch_state state;
    uint32_t participant;
    uint32_t part;       /* Works sent so far */
    uint32_t steps_next; /* index into its own step list: the first one not sent */
    uint32_t steps_done; /* the first one not known done */
    uint32_t steps_total;
    uint16_t *steps; /* document indexes of its steps, in order */
    bool holds_credit;
    bool read_only;          /* voted read-only (kept when the state moves on) */
    struct txn_branch_id id; /* valid from BR_YES on */
    char owner[LS_ROLE_MAX + 1];
    char gid[LS_GID_MAX + 1];
    uint64_t sent_us; /* when the decision was last sent */
    /* open branches of one participant */
    struct txn *txn;
    struct txn_branch *next, *prev;
    enum branch_list list;
};

/* Why a transaction aborted or is a hazard. */
struct txn_cause {
    char sqlstate[LS_SQLSTATE_LEN + 1]; /* "" if there is none */
    char reason[LS_REASON_MAX + 1];
    uint32_t participant; /* 0 if none */
    uint32_t step;
    bool has_step, retryable;
    bool begun;         /* some Work was sent */
    bool key_free;      /* one participant: it has looked, and nobody has committed under the key */
    bool key_unsettled; /* of what has finished: aborted under a key before that */
};

struct txn {
    uint32_t epoch;
    uint64_t sequence;
    char gtid[LS_GTID_MAX + 1];
    enum txn_state state;
    enum txn_outcome outcome;
    bool applied, one_participant, recovered, has_key;
    bool fully_read_only;
    uint32_t app;
    enum ls_gid_form gid_form;
    uint8_t key_digest[16], document_digest[16];
    void *document;
    uint64_t begun_us, deadline_us, decided_us;
    uint64_t ticket; /* of the decision */
    uint64_t log_reserved;
    uint32_t branch_count, step_count;
    struct txn_branch *branches;
    struct txn_cause cause;
    /* VOTE_EXISTS: the transaction that used the key first */
    uint32_t existing_epoch;
    uint64_t existing_sequence;
    bool existing, existing_same_document;
    struct txn_steps *steps; /* NULL when no step waits for another */
    /* engine's own links */
    struct txn *hash_next, *order_next, *order_prev, *wait_next, *wait_prev, *log_next;
    uint32_t heap_index; /* in the deadline heap, UINT32_MAX if not */
    bool dead;           /* finished: freed at the next step */
};

/* What is remembered of a finished transaction. */
struct txn_finished {
    uint32_t epoch;
    uint64_t sequence;
    uint32_t app;
    uint32_t participant; /* of a one-participant transaction, else 0 */
    enum txn_outcome outcome;
    bool read_only;
    struct txn_cause *cause; /* NULL when there is nothing to say (committed) */
};

const char *txn_state_name(enum txn_state state);
const char *branch_state_name(enum branch_state state);
const char *txn_outcome_name(enum txn_outcome outcome);

/* The transition tables: the reason a move is legal, or NULL when it is not. */
const char *txn_transition(enum txn_state from, enum txn_state to);
const char *branch_transition(enum branch_state from, enum branch_state to);

/* Move; assert legality. The only writers of `state`. */
void txn_become(struct txn *txn, enum txn_state to);
void branch_become(struct txn_branch *branch, enum branch_state to);

#endif
