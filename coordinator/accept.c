/* accept.c: see accept.h. */
#include "coordinator/accept.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/daemon.h"
#include "common/text.h"
#include "coordinator/claim.h"
#include "coordinator/core/recover.h"
#include "coordinator/dlog/dlog.h"
#include "lockstep.pb-c.h"
#include "lockstep/ids.h"

#define WHO_MAX 128

static enum ls_status check(const struct accept_request *request, struct ls_error *err) {
    if (!ls_name_valid(request->participant, LS_PARTICIPANT_MAX)) {
        return ls_fail(err, LS_ERR_INVALID, "`%s` cannot be the name of a participant", request->participant);
    }
    if (strlen(request->incarnation) != LS_INCARNATION_LEN ||
        strspn(request->incarnation, "0123456789abcdef") != LS_INCARNATION_LEN) {
        return ls_fail(err, LS_ERR_INVALID, "`%s` is not an incarnation: %d lower-case hex digits",
                       request->incarnation, LS_INCARNATION_LEN);
    }
    if (request->reason[0] == '\0' || strlen(request->reason) > LS_REASON_MAX ||
        !text_utf8_valid(request->reason, strlen(request->reason))) {
        return ls_fail(err, LS_ERR_INVALID, "a reason is required, at most %d bytes of text", LS_REASON_MAX);
    }
    if (request->who[0] == '\0' || strlen(request->who) > WHO_MAX ||
        !text_utf8_valid(request->who, strlen(request->who))) {
        return ls_fail(err, LS_ERR_INVALID, "who accepts? at most %d bytes of text", WHO_MAX);
    }
    return LS_OK;
}

static enum ls_status ignore_record(void *context, const struct dlog_record *record) {
    (void)context;
    (void)record;
    return LS_OK;
}

static enum ls_status append_acceptance(struct dlog *log, const struct accept_request *request, struct ls_error *err) {
    char subject[LS_PARTICIPANT_MAX + 1 + LS_INCARNATION_LEN + 1];
    uint8_t payload[LS_REASON_MAX + WHO_MAX + 256];
    recovery_accept_subject(request->participant, request->incarnation, subject);
    Lockstep__LogAudit record = LOCKSTEP__LOG_AUDIT__INIT;
    record.who = (char *)(uintptr_t)request->who;
    record.act = (char *)(uintptr_t) "accept";
    record.subject = subject;
    record.reason = (char *)(uintptr_t)request->reason;
    record.unix_ms = claim_unix_ms();
    assert(lockstep__log_audit__get_packed_size(&record) <= sizeof payload);
    size_t length = lockstep__log_audit__pack(&record, payload);
    uint64_t position, end;
    enum ls_status status = dlog_append(log, DLOG_AUDIT, payload, length, &position, &end);
    return status == LS_OK ? LS_OK
                           : ls_fail(err, status, "the acceptance cannot be appended: %s", ls_status_text(status));
}

static enum ls_status open_and_append(const struct accept_request *request, const struct dlog_report *report,
                                      struct ls_error *err) {
    struct dlog_options options = {
        .dir = request->data_dir,
        .coordinator = report->coordinator,
        .incarnation = report->incarnation,
        .segment_bytes = LS_DEFAULT_SEGMENT_BYTES,
        .bytes_max = LS_DEFAULT_LOG_BYTES_MAX,
        .retention_ms = (uint64_t)LS_DEFAULT_RETENTION_S * 1000,
        .spares = 2,
        .io = dlog_io_posix(),
    };
    struct dlog *log;
    enum ls_status status = dlog_open(&options, ignore_record, NULL, &log, err);
    if (status != LS_OK) {
        return status;
    }
    uint32_t epoch;
    status = claim_log(log, report->coordinator, claim_unix_ms(), &epoch, err);
    if (status == LS_OK) {
        status = append_acceptance(log, request, err);
    }
    if (status == LS_OK) {
        status = claim_write_all(log, err);
    }
    dlog_close(log);
    return status;
}

enum ls_status accept_lost_log(const struct accept_request *request, struct ls_error *err) {
    enum ls_status status = check(request, err);
    if (status != LS_OK) {
        return status;
    }
    if (access(request->data_dir, F_OK) != 0) {
        return ls_fail(err, LS_ERR_INVALID, "there is no data directory %s",
                       request->data_dir); /* daemon_lock_directory would make one */
    }
    int lock_fd;
    status = daemon_lock_directory(request->data_dir, &lock_fd, err);
    if (status != LS_OK) {
        return status;
    }
    struct dlog_report report;
    status = dlog_scan(request->data_dir, dlog_io_posix(), NULL, NULL, &report, err);
    if (status == LS_OK && report.verdict == DLOG_CORRUPT) {
        status = ls_fail(err, LS_ERR_CORRUPT, "%s: %s", report.bad_segment, report.why);
    } else if (status == LS_OK && report.segments == 0) {
        status =
            ls_fail(err, LS_ERR_INVALID, "%s holds no decision log: start lockstepd once first", request->data_dir);
    } else if (status == LS_OK && strcmp(report.incarnation, request->incarnation) == 0) {
        status = ls_fail(err, LS_ERR_MISMATCH,
                         "%s is the incarnation of this very log. A copy of its past cannot be accepted, it would hand "
                         "out the same names again: look for the newest log, or move this one away and start a new one",
                         request->incarnation);
    }
    if (status == LS_OK) {
        status = open_and_append(request, &report, err);
    }
    (void)close(lock_fd);
    return status;
}
