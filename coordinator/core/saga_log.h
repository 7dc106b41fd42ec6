/*
 * saga_log.h: sagas as records of the decision log, both ways: what a saga's records hold, and from the records that
 * are found at a start back to the sagas that have not ended. Pure; the host appends and reads.
 */
#ifndef LOCKSTEP_SAGA_LOG_H
#define LOCKSTEP_SAGA_LOG_H

#include <stddef.h>
#include <stdint.h>

#include "coordinator/core/saga.h"
#include "lockstep.pb-c.h"
#include "lockstep/log_types.h"
#include "lockstep/status.h"

/* The payload of the record on its way to saga->to: DLOG_SAGA_PHASE, DLOG_SAGA_END. Returns its length; `out` has room
 * for LS_LOG_RECORD_MAX bytes. */
size_t saga_log_phase(const struct saga *saga, uint64_t unix_ms, uint8_t *out);
size_t saga_log_end(const struct saga *saga, uint64_t unix_ms, uint8_t *out);

/* The longest payload that a record of a saga with so many steps and so long a document can have. */
size_t saga_log_record_max(size_t document, uint32_t step_count);
/* Bytes that may have to be written for a saga: begin, phases, end, and copies of what is open. `document`: its bytes.
 */
uint64_t saga_log_need(size_t document, uint32_t step_count);
/* And for a pivot that is a call: what stands before it leaves. */
uint64_t saga_log_pivot_need(uint32_t step_count);
/* What must be reserved in addition before an operator's word about a stuck saga that has `reserved` bytes left: enough
 * for its audit, its move, that its pivot leaves, the point of no return or the turn, one more dead letter and the end.
 * What was reserved at the begin covers the first word, so that a log full of dead letters can be worked off. */
#define SAGA_LOG_AUDIT_MAX 2048u
uint64_t saga_log_missing(uint64_t reserved, const struct saga *saga);

/* ---- recovery */
struct saga_found {
    uint32_t epoch;
    uint64_t sequence;
    Lockstep__LogSagaBegin *begin;
    Lockstep__LogSagaPhase *phase; /* the newest, NULL when there is none */
    bool ended;
};
struct saga_fold;

struct saga_fold *saga_fold_new(void); /* NULL when memory is short */
void saga_fold_free(struct saga_fold *fold);
/* Folds one record in; other types than those of sagas are skipped. LS_ERR_CORRUPT, LS_ERR_NOMEM. */
enum ls_status saga_fold_record(struct saga_fold *fold, enum dlog_type type, uint64_t position, const uint8_t *payload,
                                size_t length, struct ls_error *err) LS_MUST_CHECK;
/* The sagas without an end, in the order of their names. *ret_list is freed with free(); what it points to belongs to
 * the fold. */
enum ls_status saga_fold_open(const struct saga_fold *fold, const struct saga_found ***ret_list, size_t *ret_count,
                              struct ls_error *err) LS_MUST_CHECK;
/* Puts what the log says into a saga made by saga_new() and into the event that hands it in. `phase` may be NULL. */
void saga_log_restore(struct saga *saga, const Lockstep__LogSagaPhase *phase, struct saga_event *event);

#endif
