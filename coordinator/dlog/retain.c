/*
 * retain.c: what must be written again, and what may go.
 *
 * After a start (dlog_relog): the last batch of the life before. Each batch proves the ones before it; the last one
 * stands without proof, and the page cache may show it though the disk lost it. Its decisions are appended again; the
 * new segment's header says from where to where the old bytes may be missing (reader.h). Only then may they be acted
 * on.
 *
 * When segments leave the window (dlog_maintain): (1) what is still needed of them is appended again, (2) a mark
 * follows that names the first segment still needed, (3) when a later durable record proves that mark, the files may
 * go. A crash before (3) leaves everything in place; a crash while files are being removed leaves some of them: the
 * reader sees the proven mark and does not look at them. Waiting for the proof, not only for the mark to be durable,
 * lets the reader tell a removed segment from a lost one by what it can prove. For the same reason a start does not go
 * on with an interrupted removal before its own header, which repeats the first segment, is durable: the proof it has
 * read may be in the page cache only.
 */
#include <assert.h>
#include <string.h>

#include "common/failpoint.h"
#include "coordinator/dlog/dlog_internal.h"

enum ls_status dlog_append_copy(struct dlog *log, const struct dlog_record *record, struct ls_error *err) {
    const void *extra = NULL;
    size_t extra_length = 0;
    struct format_fields fields;
    if (record->type == DLOG_COMMIT && format_read_fields(record->payload, record->length, &fields) &&
        fields.value[FORMAT_FIELD_RELOGGED] == 0) {
        extra = format_relogged;
        extra_length = sizeof format_relogged;
    }
    return dlog_append_any(log, record->type, record->payload, record->length, extra, extra_length, NULL, NULL, err);
}

static enum ls_status copy_at(struct dlog *log, uint64_t position, struct ls_error *err) {
    struct dlog_record record;
    enum ls_status status = dlog_read(log, position, &record, err);
    if (status == LS_ERR_NOT_FOUND) { /* it was there when it was replayed or written */
        return ls_fail(err, LS_ERR_CORRUPT, "the log record at %llu can no longer be read",
                       (unsigned long long)position);
    }
    return status == LS_OK ? dlog_append_copy(log, &record, err) : status;
}

/* Copies registry, hazards and audits that stand in [from, below). */
static enum ls_status copy_tables(struct dlog *log, uint64_t from, uint64_t below, struct ls_error *err) {
    struct kept *kept = &log->kept;
    enum ls_status status = LS_OK;
    for (size_t i = 0; i < kept->participant_count && status == LS_OK; i++) {
        if (kept->participants[i] != 0 && kept->participants[i] >= from && kept->participants[i] < below) {
            status = copy_at(log, kept->participants[i], err);
        }
    }
    for (size_t i = 0; i < kept->hazard_count && status == LS_OK; i++) {
        if (kept->hazards[i].position >= from && kept->hazards[i].position < below) {
            status = copy_at(log, kept->hazards[i].position, err);
        }
    }
    for (size_t i = 0; i < kept->audit_count && status == LS_OK; i++) {
        if (kept->audits[i].position >= from && kept->audits[i].position < below) {
            status = copy_at(log, kept->audits[i].position, err);
        }
    }
    return status;
}

/* ------------------------------------------------------------------ re-log */

struct relogging {
    struct dlog *log;
    struct ls_error *err;
};

/* Of a saga that has ended only the end is written again: a begin behind it would be nothing but a danger. */
static enum ls_status copy_saga(struct dlog *log, const struct dlog_record *record, struct ls_error *err) {
    struct format_fields fields;
    if (!format_read_fields(record->payload, record->length, &fields)) {
        return LS_OK;
    }
    struct dlog_key key = {.epoch = (uint32_t)fields.value[1], .sequence = fields.value[2]};
    const struct index *index = record->type == DLOG_SAGA_BEGIN   ? &log->kept.saga_begins
                                : record->type == DLOG_SAGA_PHASE ? &log->kept.saga_phases
                                                                  : &log->kept.saga_ends;
    bool wanted = record->type == DLOG_SAGA_END || !kept_saga_ended(&log->kept, key);
    return wanted && index_get(index, key) == record->position ? dlog_append_copy(log, record, err) : LS_OK;
}

static enum ls_status on_unproven(void *context, const struct dlog_record *record) {
    const struct relogging *relogging = context;
    struct dlog *log = relogging->log;
    struct format_fields fields;
    if (record->type == DLOG_SAGA_BEGIN || record->type == DLOG_SAGA_PHASE || record->type == DLOG_SAGA_END) {
        return copy_saga(log, record, relogging->err);
    }
    if (record->type != DLOG_COMMIT || !format_read_fields(record->payload, record->length, &fields)) {
        return LS_OK;
    }
    struct dlog_key key = {.epoch = (uint32_t)fields.value[1], .sequence = fields.value[2]};
    if (index_get(&log->kept.index, key) != record->position) {
        return LS_OK; /* a newer copy follows */
    }
    bool open = open_has(&log->kept.open, key);
    enum ls_status status = dlog_append_copy(log, record, relogging->err);
    if (status == LS_OK && !open) { /* kept for the window, but finished */
        status = dlog_append_end(log, key.epoch, key.sequence, NULL);
    }
    return status;
}

enum ls_status dlog_relog(struct dlog *log, uint64_t *ret_end) {
    assert(!log->relogged);
    struct relogging relogging = {.log = log};
    uint64_t from = log->reopened_proven, to = log->reopened_end;
    enum ls_status status = from < to ? dlog_walk(log, from, to, on_unproven, &relogging, NULL) : LS_OK;
    if (status == LS_OK) {
        status = copy_tables(log, from, to, NULL);
    }
    if (status == LS_OK) {
        status = dlog_append_mark(log, log->first_segment, NULL);
    }
    if (status != LS_OK) {
        return status;
    }
    log->relogged = true;
    log->relog_end = log->append_position;
    if (ret_end != NULL) {
        *ret_end = log->append_position;
    }
    return LS_OK;
}

/* --------------------------------------------------------------- retention */

/* Which of the oldest segments have left the window? Never one that is not durable to its end, never the last. */
static size_t count_leaving(const struct dlog *log, uint64_t durable) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < log->segment_count; i++) {
        bytes += log->segments[i].file_bytes;
    }
    size_t count = 0;
    for (; count + 1 < log->segment_count; count++) {
        const struct log_segment *segment = &log->segments[count];
        bool old = log->running_ms >= log->retention_ms && segment->running_ms <= log->running_ms - log->retention_ms;
        if (segment->end > durable || (!old && bytes <= log->bytes_max)) {
            break;
        }
        bytes -= segment->file_bytes;
    }
    return count;
}

/* Copies what is open and stands below the new beginning, at most about a batch per call. */
static enum ls_status carry_open(struct dlog *log, const struct open_set *set, uint64_t below, bool *ret_more,
                                 struct ls_error *err) {
    uint64_t positions[256], begin = log->append_position;
    for (;;) {
        size_t count = open_list(set, below, positions, sizeof positions / sizeof positions[0]);
        for (size_t i = 0; i < count; i++) {
            enum ls_status status = copy_at(log, positions[i], err);
            if (status != LS_OK) {
                return status;
            }
        }
        if (count == 0 || log->append_position - begin >= log->batch_max) {
            *ret_more = count > 0;
            return LS_OK;
        }
    }
}

static enum ls_status carry(struct dlog *log, struct ls_error *err) {
    struct retirement *r = &log->retirement;
    const struct open_set *sets[] = {&log->kept.open, &log->kept.open_sagas, &log->kept.open_phases};
    enum ls_status status = LS_OK;
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++) {
        bool more = false;
        status = carry_open(log, sets[i], r->below, &more, err);
        if (status != LS_OK || more) {
            return status;
        }
    }
    status = copy_tables(log, 0, r->below, err);
    if (status == LS_OK && log->kept.epoch_position != 0 && log->kept.epoch_position < r->below) {
        status = copy_at(log, log->kept.epoch_position, err);
    }
    if (status != LS_OK) {
        return status;
    }
    /* From here on the answer about what goes is "beyond the horizon", a little before it is gone. */
    kept_drop_below(&log->kept, r->below, &log->horizon);
    log->dropped_below = r->below;
    log->horizon_running_ms = r->horizon_running_ms;
    /* Crash: copies of what is still open may be in the log, the originals are. */
    (void)failpoint_hit(FP_dlog_horizon_before_mark);
    status = dlog_append_mark(log, log->segments[r->count].number, err);
    if (status != LS_OK) {
        return status;
    }
    r->marked = true;
    r->mark_end = log->append_position;
    return LS_OK;
}

static enum ls_status let_go(struct dlog *log) {
    struct retirement *r = &log->retirement;
    enum ls_status status = LS_OK;
    /* Crash: everything is in place, and the proven mark says what may go. */
    (void)failpoint_hit(FP_dlog_before_let_go);
    for (size_t i = 0; i < r->count && status == LS_OK; i++) {
        if (log->read_file >= 0 && log->read_number == log->segments[i].number) {
            (void)log->io->close(log->io->context, log->read_file);
            log->read_file = -1;
        }
        status = dlog_add_job(
            log, (struct job){.kind = JOB_RECYCLE,
                              .number = log->segments[i].number}); /* no memory: the next start removes it */
    }
    log->segment_count -= r->count;
    memmove(log->segments, log->segments + r->count, log->segment_count * sizeof *log->segments);
    *r = (struct retirement){.active = false};
    return status;
}

static enum ls_status retire(struct dlog *log, uint64_t durable, uint64_t proven, struct ls_error *err) {
    struct retirement *r = &log->retirement;
    if (!r->active) {
        size_t count = count_leaving(log, durable);
        if (count == 0) {
            return LS_OK;
        }
        *r = (struct retirement){.active = true,
                                 .count = count,
                                 .below = log->segments[count].start,
                                 .horizon_running_ms = log->segments[count - 1].running_ms};
    }
    if (!r->marked) {
        return carry(log, err);
    }
    if (proven >= r->mark_end) {
        return let_go(log);
    }
    return durable >= r->mark_end && !dlog_dirty(log) ? dlog_append_mark(log, log->first_segment, err)
                                                      : LS_OK; /* idle: nothing else will bring the proof */
}

/* Files of segments that were left early keep only what is used. */
static enum ls_status trim_segments(struct dlog *log) {
    if (log->io->truncate == NULL) {
        return LS_OK;
    }
    for (size_t i = 0; i + 1 < log->segment_count; i++) {
        struct log_segment *segment = &log->segments[i];
        uint64_t used = (segment->end - segment->start + FORMAT_BLOCK - 1) / FORMAT_BLOCK * FORMAT_BLOCK;
        if (segment->trimmed || segment->file_bytes < used + log->record_max) {
            segment->trimmed = true;
            continue;
        }
        enum ls_status status =
            dlog_add_job(log, (struct job){.kind = JOB_TRIM, .number = segment->number, .length = used});
        if (status != LS_OK) {
            return status;
        }
        segment->trimmed = true;
        segment->file_bytes = used;
    }
    return LS_OK;
}

static enum ls_status remove_leftovers(struct dlog *log) {
    enum ls_status status = LS_OK;
    while (log->leftover_count > 0 && status == LS_OK) {
        status =
            dlog_add_job(log, (struct job){.kind = JOB_RECYCLE, .number = log->leftovers[log->leftover_count - 1]});
        log->leftover_count -= status == LS_OK ? 1u : 0u;
    }
    return status;
}

static enum ls_status prepare(struct dlog *log, struct ls_error *err) {
    if (log->wake_prepare == NULL) {
        return dlog_prepare(log, err);
    }
    if (dlog_wants_prepare(log)) {
        log->wake_prepare(log->wake_context);
    }
    dlog_lock(log);
    enum ls_status status = log->prepared;
    if (status != LS_OK) {
        (void)ls_fail(err, status, "%s", log->prepared_why);
    }
    dlog_unlock(log);
    return status;
}

enum ls_status dlog_maintain(struct dlog *log, uint64_t running_ms, struct ls_error *err) {
    if (dlog_failed(log, err)) {
        return LS_ERR_IO;
    }
    if (log->running_before_ms + running_ms > log->running_ms) {
        log->running_ms = log->running_before_ms + running_ms;
    }
    dlog_lock(log);
    uint64_t durable = log->durable_position, proven = log->proven;
    dlog_unlock(log);
    enum ls_status status = LS_OK;
    if (log->relogged && durable >= log->relog_end) { /* before that, old bytes may be all there is */
        status = retire(log, durable, proven, err);
        if (status == LS_OK) {
            status = remove_leftovers(log);
        }
        if (status == LS_OK) {
            status = trim_segments(log);
        }
        /* The time of an idle log need not be recorded: what is not counted is kept longer. So this never costs a sync
         * of its own. */
        if (status == LS_OK && log->running_ms - log->marked_running_ms >= DLOG_MARK_EVERY_MS && dlog_dirty(log) &&
            dlog_room(log) > 0) {
            status = dlog_append_mark(log, log->first_segment, err);
        }
    }
    enum ls_status prepared = prepare(log, status == LS_OK ? err : NULL);
    return status == LS_OK ? prepared : status;
}
