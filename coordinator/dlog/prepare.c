/*
 * prepare.c: dlog_prepare(): files of zeros for the log to use, made of new files or of segments that have left the
 * log.
 *
 * Nothing here can harm the log: it works on files that are not part of it. Zeros are written and synced before a file
 * is called a spare, so that using it later changes no metadata (an fdatasync of a record is one write) and cannot meet
 * a full disk. A segment is filled with zeros again before its second use; the reader can then take zeros for "nothing
 * was ever written here". Names of spares are not synced: a spare whose name is lost in a crash is made anew. What
 * stops halfway is a new-*.tmp, which the next start finishes.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/failpoint.h"
#include "coordinator/dlog/dlog_internal.h"

enum ls_status dlog_add_job(struct dlog *log, struct job job) {
    dlog_lock(log);
    enum ls_status status = LS_OK;
    if (log->job_count == log->job_capacity) {
        size_t capacity = log->job_capacity == 0 ? 16 : log->job_capacity * 2;
        struct job *jobs = realloc(log->jobs, capacity * sizeof *jobs);
        if (jobs == NULL) {
            status = LS_ERR_NOMEM;
        } else {
            log->jobs = jobs;
            log->job_capacity = capacity;
        }
    }
    if (status == LS_OK) {
        log->jobs[log->job_count++] = job;
    }
    dlog_unlock(log);
    return status;
}

bool dlog_take_spare(struct dlog *log, uint32_t *ret_id) {
    if (log->spare_count == 0) {
        return false;
    }
    *ret_id = log->spares[0];
    log->spare_count--;
    memmove(log->spares, log->spares + 1, log->spare_count * sizeof log->spares[0]);
    return true;
}

/* Fills new-<id>.tmp with zeros and makes it a spare. The file is removed when that fails. */
static enum ls_status make_ready(struct dlog *log, uint32_t id, bool create, struct ls_error *err) {
    const struct dlog_io *io = log->io;
    char unready[SEGMENT_NAME_BYTES], spare[SEGMENT_NAME_BYTES];
    segment_unready_name(id, unready);
    segment_spare_name(id, spare);
    const char *what = "open";
    int result = io->open(io->context, log->dir, unready, create, true);
    if (result >= 0) {
        int file = result;
        /* Crash: an empty or half filled new-*.tmp, which the next start fills. */
        (void)failpoint_hit(FP_dlog_spare_created);
        what = "preallocate";
        result = io->allocate(io->context, file, log->segment_bytes);
        if (result == 0) {
            what = "sync";
            result = io->fdatasync(io->context, file);
        }
        int closed = io->close(io->context, file);
        result = result == 0 ? closed : result;
        if (result == 0) {
            what = "rename";
            /* Crash: zeros on disk under the name of an unready file. */
            (void)failpoint_hit(FP_dlog_spare_filled);
            result = io->rename(io->context, log->dir, unready, spare);
        }
        if (result != 0) {
            (void)io->unlink(io->context, log->dir, unready); /* if it stays, the next start finds it */
        }
    }
    if (result < 0) {
        return ls_fail(err, LS_ERR_FULL, "no new log segment: cannot %s %s/%s of %u bytes: %s", what, log->dir, unready,
                       log->segment_bytes, strerror(-result));
    }
    /* Crash: a spare that this life never used; the next one finds it, or makes another. */
    (void)failpoint_hit(FP_dlog_spare_named);
    dlog_lock(log);
    assert(log->spare_count < DLOG_SPARES_MAX);
    log->spares[log->spare_count++] = id;
    dlog_unlock(log);
    return LS_OK;
}

static enum ls_status recycle(struct dlog *log, uint64_t number, uint32_t id, bool needed, struct ls_error *err) {
    const struct dlog_io *io = log->io;
    char name[SEGMENT_NAME_BYTES], unready[SEGMENT_NAME_BYTES];
    segment_name(number, name);
    segment_unready_name(id, unready);
    /* Crash, here and behind the removal: a proven mark says that the segment is not needed; the next start does not
     * look at it and removes what is left. */
    (void)failpoint_hit(FP_dlog_before_removal);
    if (!needed) {
        int removed = io->unlink(io->context, log->dir, name);
        (void)failpoint_hit(FP_dlog_after_removal);
        return removed == 0 || removed == -ENOENT
                   ? LS_OK
                   : ls_fail(err, LS_ERR_FULL, "cannot remove %s/%s: %s", log->dir, name, strerror(-removed));
    }
    int moved = io->rename(io->context, log->dir, name, unready);
    (void)failpoint_hit(FP_dlog_after_removal);
    if (moved != 0) {
        return ls_fail(err, LS_ERR_FULL, "cannot rename %s/%s: %s", log->dir, name, strerror(-moved));
    }
    return make_ready(log, id, false, err);
}

/* Gives back the unused end of a segment that was left early (every start begins a new one). */
static void trim(struct dlog *log, uint64_t number, uint64_t length) {
    char name[SEGMENT_NAME_BYTES];
    segment_name(number, name);
    /* Crash: the segment keeps its unused end, zeros that the reader passes over. */
    (void)failpoint_hit(FP_dlog_before_trim);
    int file = log->io->open(log->io->context, log->dir, name, false, true);
    if (file >= 0) {
        (void)log->io->truncate(log->io->context, file,
                                length); /* only space: if it fails, the file stays as long as it was */
        (void)log->io->close(log->io->context, file);
    }
}

enum ls_status dlog_prepare(struct dlog *log, struct ls_error *err) {
    enum ls_status result = LS_OK;
    struct ls_error why = {.status = LS_OK};
    for (;;) {
        dlog_lock(log);
        bool needed = log->spare_count<log->spare_target, found = log->job_count> 0;
        struct job job = {.kind = JOB_READY};
        if (found) {
            job = log->jobs[0];
            log->job_count--;
            memmove(log->jobs, log->jobs + 1, log->job_count * sizeof *log->jobs);
        }
        uint32_t id = log->next_spare_id;
        log->next_spare_id += !found || job.kind == JOB_RECYCLE ? 1u : 0u;
        dlog_unlock(log);
        if (!found && (!needed || result != LS_OK)) {
            break;
        }
        enum ls_status status = LS_OK;
        if (!found) {
            status = make_ready(log, id, true, &why);
        } else if (job.kind == JOB_RECYCLE) {
            status = recycle(log, job.number, id, needed, &why);
        } else if (job.kind == JOB_READY && needed) {
            status = make_ready(log, (uint32_t)job.number, false, &why);
        } else if (job.kind == JOB_READY) {
            char unready[SEGMENT_NAME_BYTES];
            segment_unready_name((uint32_t)job.number, unready);
            (void)log->io->unlink(log->io->context, log->dir,
                                  unready); /* one too many; if it stays, the next start finds it */
        } else {
            trim(log, job.number, job.length);
        }
        result = result == LS_OK ? status : result;
    }
    dlog_lock(log);
    log->prepared = result;
    memcpy(log->prepared_why, why.text, sizeof log->prepared_why);
    dlog_unlock(log);
    return result == LS_OK ? LS_OK : ls_fail(err, result, "%s", why.text);
}

void dlog_prepare_elsewhere(struct dlog *log, void (*wake)(void *context), void *context) {
    log->wake_prepare = wake;
    log->wake_context = context;
}

bool dlog_wants_prepare(const struct dlog *log) {
    dlog_lock(log);
    bool wants = log->job_count > 0 || log->spare_count < log->spare_target;
    dlog_unlock(log);
    return wants;
}
