/* claim.c: see claim.h. */
#include "coordinator/claim.h"

#include <assert.h>
#include <time.h>

#include "common/failpoint.h"
#include "lockstep.pb-c.h"

uint64_t claim_unix_ms(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

enum ls_status claim_write_all(struct dlog *log, struct ls_error *err) {
    while (dlog_dirty(log)) {
        enum ls_status status = dlog_write(log, err);
        if (status != LS_OK) {
            return status;
        }
    }
    return LS_OK;
}

enum ls_status claim_log(struct dlog *log, const char *coordinator, uint64_t unix_ms, uint32_t *ret_epoch,
                         struct ls_error *err) {
    Lockstep__LogEpoch record = LOCKSTEP__LOG_EPOCH__INIT;
    uint8_t payload[256];
    if (dlog_last_epoch(log) == UINT32_MAX) {
        return ls_fail(err, LS_ERR_FULL, "this log has had its last epoch");
    }
    record.coordinator = (char *)(uintptr_t)coordinator;
    record.incarnation = (char *)(uintptr_t)dlog_incarnation(log);
    record.epoch = dlog_last_epoch(log) + 1;
    record.started_unix_ms = unix_ms;
    record.version = (char *)(uintptr_t)LOCKSTEP_VERSION;
    assert(lockstep__log_epoch__get_packed_size(&record) <= sizeof payload);
    size_t length = lockstep__log_epoch__pack(&record, payload);
    uint64_t position, end;
    enum ls_status status = dlog_append(log, DLOG_EPOCH, payload, length, &position, &end);
    if (status == LS_OK) {
        status = dlog_relog(log, &end);
    }
    if (status != LS_OK) {
        return ls_fail(err, status, "the decision log cannot be claimed: %s", ls_status_text(status));
    }
    /* Crash: the log is as the life before has left it. */
    (void)failpoint_hit(FP_coord_claim_appended);
    status = claim_write_all(log, err);
    if (status == LS_OK) {
        *ret_epoch = record.epoch;
    }
    return status;
}
