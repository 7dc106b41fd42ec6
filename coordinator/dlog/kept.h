/*
 * kept.h: what the log remembers of its own records, in memory: the index of decisions, which are open, and where the
 * newest copy of everything stands that must be carried along when old segments go. Built by replay, kept up by every
 * append. No file, no thread.
 */
#ifndef LOCKSTEP_DLOG_KEPT_H
#define LOCKSTEP_DLOG_KEPT_H

#include "coordinator/dlog/format.h"
#include "coordinator/dlog/index.h"
#include "lockstep/log_types.h"

#define KEPT_AUDITS_MAX \
    1024u /* newer ones push out older ones: those are no longer carried and leave with their segment */

struct kept_hazard {
    struct dlog_key key;
    uint64_t participant;
    uint64_t position;
};
struct kept_audit {
    uint64_t hash; /* of the payload: a copy is the same act */
    uint64_t position;
};

struct kept {
    struct index index;
    struct open_set open;
    uint64_t *participants; /* by registry number: position of the newest record, 0 none */
    size_t participant_count;
    struct kept_hazard *hazards; /* of transactions without an end */
    size_t hazard_count, hazard_capacity;
    struct kept_audit audits[KEPT_AUDITS_MAX]; /* oldest first */
    size_t audit_count;
    /* sagas: where begin, newest phase and end stand; of the open ones (no end seen) all of it is carried along */
    struct index saga_begins, saga_phases, saga_ends;
    struct open_set open_sagas, open_phases;
    uint32_t last_epoch;
    uint64_t epoch_position; /* of the newest DLOG_EPOCH, 0 none */
    uint64_t running_ms;     /* highest a mark told */
    /* of the newest mark that told them */
    uint64_t mark_first_segment;
    struct dlog_key mark_horizon, mark_settled;
    uint64_t mark_horizon_running_ms;
};

/* A record understood, with all memory ready that remembering it will take. */
struct kept_change {
    enum dlog_type type;
    struct dlog_key key;
    struct format_fields fields;
    uint64_t hash;
};

/* LS_ERR_NOMEM; LS_ERR_INVALID: the payload is not what the type says. */
enum ls_status kept_prepare(struct kept *kept, enum dlog_type type, const void *payload, size_t length,
                            struct kept_change *ret_change, struct ls_error *err) LS_MUST_CHECK;
/* Remembers it at `position`; at once after kept_prepare(). */
void kept_apply(struct kept *kept, const struct kept_change *change, uint64_t position);
/* Forgets what stands below `below`; raises *horizon to the highest decision dropped. */
void kept_drop_below(struct kept *kept, uint64_t below, struct dlog_key *horizon);
bool kept_saga_ended(const struct kept *kept, struct dlog_key key);
void kept_free(struct kept *kept);

#endif
