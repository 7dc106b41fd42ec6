/*
 * dlog.c: open and replay, append, find and read. The owner's side of the log; see dlog.h for the rules.
 *
 * Life of a log in one process:
 *
 *   dlog_open -> [REPLAYED] -> first append takes a spare -> [APPENDING] <-> segment full: next spare
 *       |                                                        |
 *       +-- corrupt, foreign, no spare: refused                  +-- any write, sync or rename fails -> [FAILED], for
 * ever
 *
 *   REPLAYED   what was read may exist in the page cache only. Nothing may be acted on.
 *   APPENDING  once dlog_relog() and what it appended are durable, all that was read may be acted on.
 *   FAILED     memory and disk may disagree. Nothing is appended or called durable; the process stops, recovery reads
 * the disk.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/dlog/dlog_internal.h"
#include "coordinator/dlog/reader.h"
#include "lockstep/ids.h"

/* ---------------------------------------------------------------- failure */

enum ls_status dlog_fail(struct dlog *log, struct ls_error *err, const char *fmt, ...) {
    char text[LS_ERROR_TEXT_MAX];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    dlog_lock(log);
    if (!log->failed) {
        log->failed = true;
        memcpy(log->failure, text, sizeof text);
    }
    memcpy(text, log->failure, sizeof text);
    dlog_unlock(log);
    return ls_fail(err, LS_ERR_IO, "%s", text);
}

bool dlog_failed(const struct dlog *log, struct ls_error *err) {
    dlog_lock(log);
    bool failed = log->failed;
    dlog_unlock(log);
    if (failed) {
        (void)ls_fail(err, LS_ERR_IO, "%s", log->failure); /* never changes once failed is set */
    }
    return failed;
}

/* ------------------------------------------------------------------- open */

static enum ls_status check_options(const struct dlog_options *o, struct ls_error *err) {
    if (!ls_name_valid(o->coordinator, LS_COORDINATOR_MAX)) {
        return ls_fail(err, LS_ERR_CONFIG, "coordinator name is not 1 to %d letters, digits, '_', '-'",
                       LS_COORDINATOR_MAX);
    }
    if (strlen(o->incarnation) != LS_INCARNATION_LEN ||
        strspn(o->incarnation, "0123456789abcdef") != LS_INCARNATION_LEN) {
        return ls_fail(err, LS_ERR_CONFIG, "incarnation is not %d lower-case hex digits", LS_INCARNATION_LEN);
    }
    if (o->segment_bytes < LS_SEGMENT_BYTES_MIN || o->segment_bytes > LS_SEGMENT_BYTES_MAX ||
        o->segment_bytes % FORMAT_BLOCK != 0) {
        return ls_fail(err, LS_ERR_CONFIG, "segment size %u is not a multiple of %u from %u to %u", o->segment_bytes,
                       FORMAT_BLOCK, LS_SEGMENT_BYTES_MIN, LS_SEGMENT_BYTES_MAX);
    }
    if (o->spares < 2 || o->spares >= DLOG_SPARES_MAX) {
        return ls_fail(err, LS_ERR_CONFIG, "spare segments: %u is not 2 to %u", o->spares, DLOG_SPARES_MAX - 1);
    }
    return LS_OK;
}

static struct dlog *new_log(const struct dlog_options *o) {
    struct dlog *log = calloc(1, sizeof *log);
    if (log == NULL) {
        return NULL;
    }
    log->write_file = log->read_file = -1;
    log->mutex = malloc(sizeof *log->mutex);
    if (log->mutex == NULL || pthread_mutex_init(log->mutex, NULL) != 0) {
        free(log->mutex);
        free(log);
        return NULL;
    }
    log->io = o->io;
    log->dir = segment_directory(o->dir);
    log->read_buffer = malloc(LS_LOG_RECORD_MAX);
    memcpy(log->coordinator, o->coordinator, strlen(o->coordinator));
    memcpy(log->incarnation, o->incarnation, LS_INCARNATION_LEN);
    log->segment_bytes = o->segment_bytes;
    /* Small segments (tests) take smaller records, so that not half of a segment is lost when one does not fit. */
    uint32_t third = (o->segment_bytes - FORMAT_BLOCK) / 3 & ~7u;
    log->record_max = third < LS_LOG_RECORD_MAX ? third : LS_LOG_RECORD_MAX;
    uint64_t usable = dlog_usable(log) / 2;
    log->batch_max = usable < DLOG_BATCH_MAX ? (uint32_t)usable : DLOG_BATCH_MAX;
    log->batch_max = log->batch_max < log->record_max ? log->record_max : log->batch_max;
    log->spare_target = o->spares + 1;
    log->bytes_max = o->bytes_max;
    log->retention_ms = o->retention_ms;
    log->next_spare_id = 1;
    log->first_segment = 1;
    if (log->dir == NULL || log->read_buffer == NULL) {
        dlog_close(log);
        return NULL;
    }
    return log;
}

static enum ls_status make_directory(struct dlog *log, const char *data_dir, struct ls_error *err) {
    int made = log->io->mkdir(log->io->context, log->dir);
    if (made != 0 && made != -EEXIST) {
        return ls_fail(err, LS_ERR_IO, "cannot create %s: %s", log->dir, strerror(-made));
    }
    int synced = log->io->sync_dir(log->io->context, data_dir); /* an earlier start may have died before this */
    return synced == 0 ? LS_OK : ls_fail(err, LS_ERR_IO, "cannot sync %s: %s", data_dir, strerror(-synced));
}

struct replay {
    struct dlog *log;
    dlog_visit visit;
    void *context;
    struct ls_error *err;
};

static enum ls_status on_replay(void *context, const struct dlog_record *record) {
    struct replay *replay = context;
    struct kept_change change;
    enum ls_status status =
        kept_prepare(&replay->log->kept, record->type, record->payload, record->length, &change, replay->err);
    if (status == LS_ERR_INVALID) {
        return ls_fail(replay->err, LS_ERR_CORRUPT, "record at %" PRIu64 " of type %d makes no sense", record->position,
                       (int)record->type);
    }
    if (status != LS_OK) {
        return status;
    }
    kept_apply(&replay->log->kept, &change, record->position);
    return replay->visit == NULL ? LS_OK : replay->visit(replay->context, record);
}

/* The segments that were read, as the owner will know them. */
static enum ls_status take_segments(struct dlog *log, const struct reader *reader) {
    size_t count = reader->count - reader->first;
    log->segment_capacity = count + 64;
    log->segments = calloc(log->segment_capacity, sizeof *log->segments);
    if (log->segments == NULL) {
        return LS_ERR_NOMEM;
    }
    log->running_ms = log->kept.running_ms;
    for (size_t i = 0; i < count; i++) {
        const struct reader_segment *from = &reader->segments[reader->first + i];
        log->segments[i] = (struct log_segment){
            .number = from->number, .start = from->header.position, .file_bytes = from->file_bytes};
        if (i > 0) {
            log->segments[i - 1].end = from->header.position;
            log->segments[i - 1].running_ms = from->header.running_ms;
        }
        log->running_ms = from->header.running_ms > log->running_ms ? from->header.running_ms : log->running_ms;
    }
    log->segment_count = count;
    if (count > 0) {
        log->segments[count - 1].end = reader->walk.position;
        log->segments[count - 1].running_ms = log->running_ms;
        log->first_segment = log->segments[0].number;
    }
    log->running_before_ms = log->marked_running_ms = log->running_ms;
    log->leftovers = calloc(reader->first + 1, sizeof *log->leftovers);
    if (log->leftovers == NULL) {
        return LS_ERR_NOMEM;
    }
    for (size_t i = 0; i < reader->first; i++) {
        log->leftovers[log->leftover_count++] = reader->segments[i].number;
    }
    return LS_OK;
}

/* A file found under a spare's name is one if it has the right size and no header: records are written only after it
 * has another name. */
static enum ls_status check_spare(struct dlog *log, uint32_t id, struct segment_file *file, struct ls_error *err) {
    char spare[SEGMENT_NAME_BYTES], unready[SEGMENT_NAME_BYTES];
    segment_spare_name(id, spare);
    segment_unready_name(id, unready);
    struct format_header header;
    enum format_answer answer = FORMAT_BAD;
    enum ls_status status = segment_open(file, log->io, log->dir, spare, err);
    bool fits = status == LS_OK && file->bytes == log->segment_bytes;
    if (fits) {
        status = segment_header(file, &header, &answer, err);
    }
    segment_close(file);
    if (status != LS_OK) {
        return status;
    }
    if (answer == FORMAT_BLANK && log->spare_count < log->spare_target) {
        log->spares[log->spare_count++] = id;
        return LS_OK;
    }
    int moved = log->io->rename(log->io->context, log->dir, spare, unready);
    if (moved != 0) {
        return ls_fail(err, LS_ERR_IO, "cannot rename %s/%s: %s", log->dir, spare, strerror(-moved));
    }
    return dlog_add_job(log, (struct job){.kind = JOB_READY, .number = id});
}

static enum ls_status take_spares(struct dlog *log, const struct reader *reader, struct ls_error *err) {
    enum ls_status status = LS_OK;
    struct segment_file file = {.file = -1};
    for (size_t i = 0; i < reader->spares.count; i++) {
        log->next_spare_id =
            reader->spares.list[i] >= log->next_spare_id ? reader->spares.list[i] + 1 : log->next_spare_id;
    }
    for (size_t i = 0; i < reader->unready.count && status == LS_OK; i++) {
        log->next_spare_id =
            reader->unready.list[i] >= log->next_spare_id ? reader->unready.list[i] + 1 : log->next_spare_id;
        status = dlog_add_job(log, (struct job){.kind = JOB_READY, .number = reader->unready.list[i]});
    }
    for (size_t i = 0; i < reader->spares.count && status == LS_OK; i++) {
        status = check_spare(log, reader->spares.list[i], &file, err);
    }
    segment_free(&file);
    if (status != LS_OK) {
        return status;
    }
    status = dlog_prepare(log, err);
    return status == LS_ERR_FULL && log->spare_count > 0 ? LS_OK
                                                         : status; /* enough to start with; there will be little room */
}

static enum ls_status judge(struct dlog *log, const struct reader *reader, const struct dlog_options *options,
                            struct ls_error *err) {
    const struct dlog_report *report = &reader->report;
    if (report->verdict == DLOG_CORRUPT) {
        return ls_fail(err, LS_ERR_CORRUPT, "%s/%s: %s", log->dir, report->bad_segment, report->why);
    }
    if (reader->count > 0 && strcmp(report->coordinator, options->coordinator) != 0) {
        return ls_fail(err, LS_ERR_MISMATCH, "%s is the log of coordinator %s, not of %s", log->dir,
                       report->coordinator, options->coordinator);
    }
    return LS_OK;
}

static enum ls_status adopt(struct dlog *log, const struct reader *reader, struct ls_error *err) {
    enum ls_status status = take_segments(log, reader);
    if (status != LS_OK) {
        return ls_fail(err, status, "no memory for the list of segments");
    }
    if (reader->count > 0) {
        memcpy(log->incarnation, reader->report.incarnation, sizeof log->incarnation);
    }
    log->append_position = log->data_end = log->reopened_end = reader->walk.position;
    log->write_chain = log->reopened_chain = reader->walk.chain;
    log->write_sequence = reader->count > 0 ? reader->walk.sequence : 1;
    log->write_durable = log->proven = log->durable_position = log->reopened_proven = reader->walk.proven;
    log->cut_bytes = reader->tail_end > reader->walk.position ? reader->tail_end - reader->walk.position : 0;
    log->records = reader->walk.records;
    log->horizon = log->kept.mark_horizon;
    log->settled = log->kept.mark_settled;
    log->horizon_running_ms = log->kept.mark_horizon_running_ms;
    status = dlog_chain_at(log, log->durable_position, &log->durable_chain);
    return status == LS_OK ? LS_OK
                           : ls_fail(err, status, "cannot read the log again at %" PRIu64, log->durable_position);
}

enum ls_status dlog_open(const struct dlog_options *options, dlog_visit visit, void *context, struct dlog **ret_log,
                         struct ls_error *err) {
    struct ls_error local;
    if (err == NULL) {
        err = &local;
    }
    enum ls_status status = check_options(options, err);
    if (status != LS_OK) {
        return status;
    }
    struct dlog *log = new_log(options);
    if (log == NULL) {
        return ls_fail(err, LS_ERR_NOMEM, "no memory for the log");
    }
    struct replay replay = {.log = log, .visit = visit, .context = context, .err = err};
    struct reader reader = {.count = 0};
    status = make_directory(log, options->dir, err);
    if (status == LS_OK) {
        status = reader_run(&reader, log->dir, log->io, on_replay, &replay, err);
    }
    if (status == LS_OK) {
        status = judge(log, &reader, options, err);
    }
    if (status == LS_OK) {
        status = adopt(log, &reader, err);
    }
    if (status == LS_OK) {
        status = take_spares(log, &reader, err);
    }
    reader_free(&reader);
    if (status != LS_OK) {
        dlog_close(log);
        return status;
    }
    *ret_log = log;
    return LS_OK;
}

static void free_batch(struct batch *batch) {
    free(batch->data);
    free(batch->pieces);
}

void dlog_close(struct dlog *log) {
    if (log == NULL) {
        return;
    }
    if (log->write_file >= 0) {
        (void)log->io->close(log->io->context, log->write_file);
    }
    if (log->read_file >= 0) {
        (void)log->io->close(log->io->context, log->read_file);
    }
    kept_free(&log->kept);
    free_batch(&log->filling);
    free_batch(&log->writing);
    free(log->segments);
    free(log->jobs);
    free(log->leftovers);
    free(log->read_buffer);
    free(log->dir);
    (void)pthread_mutex_destroy(log->mutex);
    free(log->mutex);
    free(log);
}

const char *dlog_incarnation(const struct dlog *log) {
    return log->incarnation;
}

uint32_t dlog_last_epoch(const struct dlog *log) {
    return log->kept.last_epoch;
}

/* ----------------------------------------------------------------- append */

/* Room for `bytes` more and one more piece. Under the mutex. */
static bool reserve_batch(struct batch *batch, size_t bytes) {
    if (batch->capacity - batch->length < bytes) {
        size_t capacity = batch->capacity == 0 ? 64u << 10 : batch->capacity * 2;
        while (capacity - batch->length < bytes) {
            capacity *= 2;
        }
        uint8_t *data = realloc(batch->data, capacity);
        if (data == NULL) {
            return false;
        }
        batch->data = data;
        batch->capacity = capacity;
    }
    if (batch->piece_count == batch->piece_capacity) {
        size_t capacity = batch->piece_capacity == 0 ? 4 : batch->piece_capacity * 2;
        struct piece *pieces = realloc(batch->pieces, capacity * sizeof *pieces);
        if (pieces == NULL) {
            return false;
        }
        batch->pieces = pieces;
        batch->piece_capacity = capacity;
    }
    return true;
}

static bool reserve_segment(struct dlog *log) {
    if (log->segment_count < log->segment_capacity) {
        return true;
    }
    size_t capacity = log->segment_capacity * 2;
    struct log_segment *segments = realloc(log->segments, capacity * sizeof *segments);
    if (segments == NULL) {
        return false;
    }
    log->segments = segments;
    log->segment_capacity = capacity;
    return true;
}

static bool fits(const struct dlog *log, size_t size) {
    return log->appending &&
           log->append_position + size - log->segments[log->segment_count - 1].start <= log->segment_bytes;
}

/* The next record opens a new segment. Under the mutex, with everything reserved. */
static void roll(struct dlog *log, uint32_t spare) {
    uint64_t number = log->segment_count == 0 ? 1 : log->segments[log->segment_count - 1].number + 1;
    if (log->appending) {
        log->segments[log->segment_count - 1].end = log->append_position;
        log->segments[log->segment_count - 1].running_ms = log->running_ms;
    }
    struct batch *batch = &log->filling;
    batch->pieces[batch->piece_count++] = (struct piece){.number = number,
                                                         .start = log->append_position,
                                                         .position = log->append_position + FORMAT_BLOCK,
                                                         .from = batch->length,
                                                         .to = batch->length,
                                                         .begins = true,
                                                         .spare = spare,
                                                         .first_segment = log->first_segment,
                                                         .running_ms = log->running_ms};
    log->segments[log->segment_count++] = (struct log_segment){
        .number = number, .start = log->append_position, .end = UINT64_MAX, .file_bytes = log->segment_bytes};
    log->append_position += FORMAT_BLOCK;
    log->appending = true;
}

/* The first record of a batch goes on in the segment that the batch before ended in. Under the mutex. */
static void go_on(struct dlog *log) {
    struct batch *batch = &log->filling;
    const struct log_segment *segment = &log->segments[log->segment_count - 1];
    batch->pieces[batch->piece_count++] = (struct piece){.number = segment->number,
                                                         .start = segment->start,
                                                         .position = log->append_position,
                                                         .from = batch->length,
                                                         .to = batch->length};
}

/* Lays a record out at the end of the buffer. Its checksums are the writer's work. */
static enum ls_status buffer_record(struct dlog *log, enum dlog_type type, const void *payload, size_t length,
                                    const void *extra, size_t extra_length, uint64_t *ret_position,
                                    struct ls_error *err) {
    size_t size = format_record_size(length + extra_length);
    if (!reserve_segment(log)) {
        return ls_fail(err, LS_ERR_NOMEM, "no memory for the list of segments");
    }
    enum ls_status status = LS_OK;
    uint32_t spare = 0;
    dlog_lock(log);
    if (log->failed) {
        status = LS_ERR_IO;
    } else if (!reserve_batch(&log->filling, size)) {
        status = LS_ERR_NOMEM;
    } else if (!fits(log, size)) {
        if (dlog_take_spare(log, &spare)) {
            roll(log, spare);
        } else {
            status = LS_ERR_FULL;
        }
    } else if (log->filling.piece_count == 0) {
        go_on(log);
    }
    if (status == LS_OK) {
        struct batch *batch = &log->filling;
        format_begin_record(batch->data + batch->length, (uint16_t)type, payload, length, extra, extra_length);
        batch->length += size;
        batch->pieces[batch->piece_count - 1].to = batch->length;
        *ret_position = log->append_position;
        log->append_position += size;
    }
    dlog_unlock(log);
    if (spare != 0 && log->wake_prepare != NULL) {
        log->wake_prepare(log->wake_context);
    }
    return status == LS_OK
               ? LS_OK
               : ls_fail(err, status, "%s",
                         status == LS_ERR_FULL ? "no preallocated log segment is left" : ls_status_text(status));
}

enum ls_status dlog_append_any(struct dlog *log, enum dlog_type type, const void *payload, size_t length,
                               const void *extra, size_t extra_length, uint64_t *ret_position, uint64_t *ret_end,
                               struct ls_error *err) {
    if (dlog_failed(log, err)) {
        return LS_ERR_IO;
    }
    /* A decision must leave room for the mark of its copy. */
    size_t most = length + (type == DLOG_COMMIT && extra_length == 0 ? FORMAT_COMMIT_COPY_EXTRA : extra_length);
    if (length > log->record_max || format_record_size(most) > log->record_max) {
        return ls_fail(err, LS_ERR_TOO_LARGE, "a log record of %zu bytes is more than %u", length,
                       log->record_max - FORMAT_RECORD_HEADER);
    }
    struct kept_change change;
    enum ls_status status = kept_prepare(&log->kept, type, payload, length, &change, err);
    if (status != LS_OK) {
        return status;
    }
    uint64_t position = 0;
    status = buffer_record(log, type, payload, length, extra, extra_length, &position, err);
    if (status != LS_OK) {
        return status;
    }
    kept_apply(&log->kept, &change, position);
    log->records++;
    if (type != DLOG_MARK) {
        log->data_end = log->append_position;
    }
    if (ret_position != NULL) {
        *ret_position = position;
    }
    if (ret_end != NULL) {
        *ret_end = log->append_position;
    }
    return LS_OK;
}

enum ls_status dlog_append(struct dlog *log, enum dlog_type type, const void *payload, size_t length,
                           uint64_t *ret_position, uint64_t *ret_end) {
    assert(type != DLOG_COMMIT && type != DLOG_END);
    return dlog_append_any(log, type, payload, length, NULL, 0, ret_position, ret_end, NULL);
}

enum ls_status dlog_append_commit(struct dlog *log, uint32_t epoch, uint64_t sequence, const void *payload,
                                  size_t length, uint64_t *ret_position, uint64_t *ret_end) {
    struct format_fields fields;
    if (!format_read_fields(payload, length, &fields) || fields.value[1] != epoch || fields.value[2] != sequence) {
        return LS_ERR_INVALID; /* replay would find another transaction than the one that is being committed */
    }
    return dlog_append_any(log, DLOG_COMMIT, payload, length, NULL, 0, ret_position, ret_end, NULL);
}

static size_t put_varint_field(uint8_t *out, uint8_t field, uint64_t value) {
    size_t at = 0;
    out[at++] = (uint8_t)(field << 3);
    for (; value >= 0x80; value >>= 7) {
        out[at++] = (uint8_t)(value | 0x80);
    }
    out[at++] = (uint8_t)value;
    return at;
}

enum ls_status dlog_append_end(struct dlog *log, uint32_t epoch, uint64_t sequence, uint64_t *ret_end) {
    uint8_t payload[24]; /* LogEnd */
    size_t length = put_varint_field(payload, 1, epoch);
    length += put_varint_field(payload + length, 2, sequence);
    return dlog_append_any(log, DLOG_END, payload, length, NULL, 0, NULL, ret_end, NULL);
}

enum ls_status dlog_append_mark(struct dlog *log, uint64_t first_segment, struct ls_error *err) {
    uint8_t payload[96]; /* LogMark */
    size_t length = put_varint_field(payload, 1, log->running_ms);
    length += put_varint_field(payload + length, 2, first_segment);
    length += put_varint_field(payload + length, 3, log->horizon.epoch);
    length += put_varint_field(payload + length, 4, log->horizon.sequence);
    length += put_varint_field(payload + length, 5, log->horizon_running_ms);
    if (log->settled.epoch != 0) {
        length += put_varint_field(payload + length, 6, log->settled.epoch);
        length += put_varint_field(payload + length, 7, log->settled.sequence);
    }
    enum ls_status status = dlog_append_any(log, DLOG_MARK, payload, length, NULL, 0, NULL, NULL, err);
    if (status == LS_OK) {
        log->marked_running_ms = log->running_ms;
        log->first_segment = first_segment;
    }
    return status;
}

enum ls_status dlog_mark(struct dlog *log, uint64_t running_ms, uint64_t *ret_end) {
    log->running_ms = log->running_before_ms + running_ms;
    enum ls_status status = dlog_append_mark(log, log->first_segment, NULL);
    if (status == LS_OK && ret_end != NULL) {
        *ret_end = log->append_position;
    }
    return status;
}

enum ls_status dlog_mark_settled(struct dlog *log, uint64_t running_ms, uint32_t epoch, uint64_t sequence,
                                 uint64_t *ret_end) {
    struct dlog_key before = log->settled;
    assert(epoch > before.epoch || (epoch == before.epoch && sequence >= before.sequence));
    log->settled = (struct dlog_key){.epoch = epoch, .sequence = sequence};
    enum ls_status status = dlog_mark(log, running_ms, ret_end);
    log->settled = status == LS_OK ? log->settled : before;
    return status;
}

bool dlog_dirty(const struct dlog *log) {
    dlog_lock(log);
    bool dirty = log->busy || log->filling.piece_count > 0;
    dlog_unlock(log);
    return dirty;
}

bool dlog_wants_mark(const struct dlog *log) {
    dlog_lock(log);
    bool wants =
        !log->failed && !log->busy && log->filling.piece_count == 0 && log->appending && log->proven < log->data_end;
    dlog_unlock(log);
    return wants;
}

void dlog_durable(const struct dlog *log, uint64_t *ret_position, uint64_t *ret_chain) {
    dlog_lock(log);
    *ret_position = log->durable_position;
    if (ret_chain != NULL) {
        *ret_chain = log->durable_chain;
    }
    dlog_unlock(log);
}

/*
 * With k spares: what is left of the current segment and k - 1 whole ones, each without its header and the end a record
 * may not fit in. After a crash the rest of the current segment is lost, and the k-th spare stands in for it; two
 * batches' worth are left out for what dlog_relog() writes then (at most one batch and little more, see
 * DLOG_BATCH_MAX).
 */
uint64_t dlog_room(const struct dlog *log) {
    uint64_t left = 0;
    if (log->appending) {
        left = log->segments[log->segment_count - 1].start + log->segment_bytes - log->append_position;
        left = left > log->record_max ? left - log->record_max : 0;
    }
    dlog_lock(log);
    uint64_t spares = log->spare_count;
    bool failed = log->failed;
    dlog_unlock(log);
    uint64_t room = left + (spares > 1 ? (spares - 1) * dlog_usable(log) : 0);
    uint64_t batches = 2 * (uint64_t)log->batch_max;
    return failed || room < batches ? 0 : room - batches;
}

/* --------------------------------------------------------------- find, read */

enum dlog_found dlog_find(const struct dlog *log, uint32_t epoch, uint64_t sequence, uint64_t *ret_position) {
    struct dlog_key key = {.epoch = epoch, .sequence = sequence};
    uint64_t position = index_get(&log->kept.index, key);
    if (position != 0) {
        *ret_position = position;
        return DLOG_FOUND;
    }
    if (epoch > log->kept.last_epoch || epoch == 0 || sequence == 0) {
        return DLOG_NEVER_ISSUED;
    }
    return dlog_key_compare(key, log->horizon) <= 0 ? DLOG_BEYOND_HORIZON : DLOG_ABSENT;
}

bool dlog_find_saga(const struct dlog *log, uint32_t epoch, uint64_t sequence, struct dlog_saga *ret_saga) {
    struct dlog_key key = {.epoch = epoch, .sequence = sequence};
    ret_saga->begin = index_get(&log->kept.saga_begins, key);
    ret_saga->phase = index_get(&log->kept.saga_phases, key);
    ret_saga->end = index_get(&log->kept.saga_ends, key);
    return ret_saga->begin != 0 || ret_saga->phase != 0 || ret_saga->end != 0;
}

bool dlog_next_ended_saga(const struct dlog *log, uint32_t *epoch, uint64_t *sequence) {
    struct dlog_key after = {.epoch = *epoch, .sequence = *sequence}, next;
    if (!index_next(&log->kept.saga_ends, after, &next)) {
        return false;
    }
    *epoch = next.epoch;
    *sequence = next.sequence;
    return true;
}

size_t dlog_payload_max(const struct dlog *log) {
    return log->record_max - FORMAT_RECORD_HEADER;
}

/* The segment that holds `position`, NULL when the log does not go there. */
static const struct log_segment *segment_at(const struct dlog *log, uint64_t position) {
    size_t low = 0, high = log->segment_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (log->segments[middle].start <= position) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    const struct log_segment *segment = low == 0 ? NULL : &log->segments[low - 1];
    return segment != NULL && position < segment->end ? segment : NULL;
}

/* May bytes below `end` be read from the files? */
static bool readable(const struct dlog *log, uint64_t end) {
    uint64_t durable;
    dlog_durable(log, &durable, NULL);
    return end <= durable || end <= log->reopened_end;
}

/* Up to `length` bytes at a stream position; *ret_got is less at the end of the file. */
static enum ls_status read_at(struct dlog *log, const struct log_segment *segment, uint64_t position, size_t length,
                              size_t *ret_got, struct ls_error *err) {
    const struct dlog_io *io = log->io;
    if (log->read_file < 0 || log->read_number != segment->number) {
        if (log->read_file >= 0) {
            (void)io->close(io->context, log->read_file);
        }
        char name[SEGMENT_NAME_BYTES];
        segment_name(segment->number, name);
        log->read_file = io->open(io->context, log->dir, name, false, false);
        log->read_number = segment->number;
        if (log->read_file < 0) {
            return ls_fail(err, LS_ERR_IO, "cannot open %s/%s: %s", log->dir, name, strerror(-log->read_file));
        }
    }
    size_t got = 0;
    while (got < length) {
        ssize_t more = io->pread(io->context, log->read_file, log->read_buffer + got, length - got,
                                 position - segment->start + got);
        if (more == -EINTR) {
            continue;
        }
        if (more < 0) {
            return ls_fail(err, LS_ERR_IO, "cannot read the log at %" PRIu64 ": %s", position, strerror((int)-more));
        }
        if (more == 0) {
            break;
        }
        got += (size_t)more;
    }
    *ret_got = got;
    return LS_OK;
}

/* The self-valid record at `position`, into the read buffer. */
static enum ls_status read_record(struct dlog *log, const struct log_segment *segment, uint64_t position,
                                  struct format_record *ret_record, struct ls_error *err) {
    size_t got;
    enum ls_status status = read_at(log, segment, position, FORMAT_RECORD_HEADER, &got, err);
    if (status != LS_OK) {
        return status;
    }
    uint32_t length = got < FORMAT_RECORD_HEADER ? UINT32_MAX : format_peek_length(log->read_buffer);
    if (length <= LS_LOG_RECORD_MAX - FORMAT_RECORD_HEADER) {
        status = read_at(log, segment, position, format_record_size(length), &got, err);
        if (status != LS_OK) {
            return status;
        }
        if (format_check_record(log->read_buffer, got, format_seed(log->incarnation, segment->number), position,
                                ret_record)) {
            return LS_OK;
        }
    }
    return ls_fail(err, LS_ERR_NOT_FOUND, "no record begins at %" PRIu64, position);
}

enum ls_status dlog_read(struct dlog *log, uint64_t position, struct dlog_record *ret_record, struct ls_error *err) {
    const struct log_segment *segment = segment_at(log, position);
    if (segment == NULL || position < segment->start + FORMAT_BLOCK || position >= log->append_position) {
        return ls_fail(err, LS_ERR_NOT_FOUND, "no record begins at %" PRIu64, position);
    }
    if (!readable(log, position + 1)) {
        return ls_fail(err, LS_ERR_BUSY, "the record at %" PRIu64 " is not durable yet", position);
    }
    struct format_record record;
    enum ls_status status = read_record(log, segment, position, &record, err);
    if (status != LS_OK) {
        return status;
    }
    *ret_record = (struct dlog_record){.type = (enum dlog_type)record.type,
                                       .position = position,
                                       .end = position + format_record_size(record.length),
                                       .sequence = record.sequence,
                                       .durable = record.durable,
                                       .chain = record.checksum,
                                       .payload = log->read_buffer + FORMAT_RECORD_HEADER,
                                       .length = record.length};
    return LS_OK;
}

/* From the segment's header on: for a boundary behind which nothing can be read, such as the edge of a hole (reader.h).
 */
static enum ls_status walk_to(struct dlog *log, const struct log_segment *segment, uint64_t position,
                              uint64_t *ret_chain) {
    char name[SEGMENT_NAME_BYTES];
    segment_name(segment->number, name);
    struct segment_file file = {.file = -1};
    struct format_header header;
    enum format_answer answer = FORMAT_BAD;
    enum ls_status status = segment_open(&file, log->io, log->dir, name, NULL);
    if (status == LS_OK) {
        status = segment_header(&file, &header, &answer, NULL);
    }
    if (status == LS_OK) {
        status = LS_ERR_NOT_FOUND;
        if (answer == FORMAT_GOOD) {
            struct segment_walk walk = {0};
            segment_walk_begin(&walk, &header);
            status = segment_walk(&file, &header, position, &walk, NULL, NULL, NULL);
            if (status == LS_OK && walk.position == position) {
                *ret_chain = walk.chain;
            } else if (status == LS_OK) {
                status = LS_ERR_NOT_FOUND;
            }
        }
    }
    segment_free(&file);
    return status;
}

enum ls_status dlog_chain_at(struct dlog *log, uint64_t position, uint64_t *ret_chain) {
    if (position == log->reopened_end) {
        *ret_chain = log->reopened_chain;
        return LS_OK;
    }
    uint64_t durable, chain;
    dlog_durable(log, &durable, &chain);
    if (position == durable && durable != log->reopened_proven) {
        *ret_chain = chain;
        return LS_OK;
    }
    const struct log_segment *segment = segment_at(log, position);
    if (segment == NULL || position % 8 != 0 || !readable(log, position + 1)) {
        return LS_ERR_NOT_FOUND;
    }
    if (position <= segment->start + FORMAT_BLOCK) {
        struct format_header header;
        size_t got;
        enum ls_status status = read_at(log, segment, segment->start, FORMAT_BLOCK, &got, NULL);
        if (status != LS_OK) {
            return status;
        }
        if (got == FORMAT_BLOCK && format_decode_header(log->read_buffer, &header) == FORMAT_GOOD) {
            if (position == segment->start) {
                *ret_chain = header.previous;
                return LS_OK;
            }
            if (position == segment->start + FORMAT_BLOCK) {
                *ret_chain = header.checksum;
                return LS_OK;
            }
        }
        return LS_ERR_NOT_FOUND;
    }
    struct format_record record;
    enum ls_status status = read_record(log, segment, position, &record, NULL);
    if (status == LS_ERR_NOT_FOUND) {
        return walk_to(log, segment, position, ret_chain);
    }
    if (status == LS_OK) {
        *ret_chain = record.previous;
    }
    return status;
}

/* ------------------------------------------------------------------- visit */

struct walking {
    uint64_t from;
    dlog_visit visit;
    void *context;
};

static enum ls_status on_walked(void *context, const struct dlog_record *record) {
    const struct walking *walking = context;
    return record->position < walking->from ? LS_OK : walking->visit(walking->context, record);
}

enum ls_status dlog_walk(struct dlog *log, uint64_t from, uint64_t to, dlog_visit visit, void *context,
                         struct ls_error *err) {
    struct walking walking = {.from = from, .visit = visit, .context = context};
    struct segment_file file = {.file = -1};
    enum ls_status status = LS_OK;
    size_t count = log->segment_count; /* `visit` may append, but not below `to` */
    for (size_t i = 0; i < count && status == LS_OK; i++) {
        struct log_segment segment = log->segments[i];
        if (segment.end <= from || segment.start >= to) {
            continue;
        }
        char name[SEGMENT_NAME_BYTES];
        segment_name(segment.number, name);
        struct format_header header;
        enum format_answer answer = FORMAT_BAD;
        status = segment_open(&file, log->io, log->dir, name, err);
        if (status == LS_OK) {
            status = segment_header(&file, &header, &answer, err);
        }
        if (status == LS_OK && answer != FORMAT_GOOD) {
            status = ls_fail(err, LS_ERR_CORRUPT, "%s/%s: header is bad", log->dir, name);
        }
        if (status == LS_OK) {
            struct segment_walk walk = {0};
            segment_walk_begin(&walk, &header);
            status = segment_walk(&file, &header, segment.end < to ? segment.end : to, &walk, on_walked, &walking, err);
        }
        segment_close(&file);
    }
    segment_free(&file);
    return status;
}

struct keeping {
    struct dlog *log;
    dlog_visit visit;
    void *context;
};

static enum ls_status on_kept(void *context, const struct dlog_record *record) {
    const struct keeping *keeping = context;
    struct format_fields fields;
    if (record->type != DLOG_COMMIT || !format_read_fields(record->payload, record->length, &fields)) {
        return LS_OK;
    }
    struct dlog_key key = {.epoch = (uint32_t)fields.value[1], .sequence = fields.value[2]};
    return index_get(&keeping->log->kept.index, key) == record->position ? keeping->visit(keeping->context, record)
                                                                         : LS_OK;
}

enum ls_status dlog_each_commit(struct dlog *log, dlog_visit visit, void *context, struct ls_error *err) {
    struct keeping keeping = {.log = log, .visit = visit, .context = context};
    uint64_t durable;
    dlog_durable(log, &durable, NULL);
    return dlog_walk(log, 0, durable > log->reopened_end ? durable : log->reopened_end, on_kept, &keeping, err);
}

enum ls_status dlog_each_open(struct dlog *log, dlog_visit visit, void *context, struct ls_error *err) {
    size_t max = log->kept.open.count;
    if (max == 0) {
        return LS_OK;
    }
    uint64_t *positions = calloc(max, sizeof *positions);
    if (positions == NULL) {
        return ls_fail(err, LS_ERR_NOMEM, "no memory to list %zu open decisions", max);
    }
    enum ls_status status = LS_OK;
    size_t count = open_list(&log->kept.open, UINT64_MAX, positions, max);
    for (size_t i = 0; i < count && status == LS_OK; i++) {
        struct dlog_record record;
        if (!readable(log, positions[i] + 1)) {
            break; /* ascending: the rest is not durable yet either, and is the owner's to know */
        }
        status = dlog_read(log, positions[i], &record, err);
        if (status == LS_OK) {
            status = visit(context, &record);
        }
    }
    free(positions);
    return status;
}

/* ------------------------------------------------------------------- stats */

void dlog_get_stats(const struct dlog *log, struct dlog_stats *ret_stats) {
    struct dlog_stats s = {.append_position = log->append_position,
                           .segments = log->segment_count,
                           .open_decisions = log->kept.open.count,
                           .records = log->records,
                           .running_ms = log->running_before_ms,
                           .cut_bytes = log->cut_bytes,
                           .horizon_running_ms = log->horizon_running_ms,
                           .room = dlog_room(log),
                           .spare_target = log->spare_target,
                           .horizon_epoch = log->horizon.epoch,
                           .horizon_sequence = log->horizon.sequence,
                           .settled_epoch = log->settled.epoch,
                           .settled_sequence = log->settled.sequence};
    s.oldest_position = log->segment_count > 0 ? log->segments[0].start : 0;
    s.horizon_position = s.oldest_position > log->dropped_below ? s.oldest_position : log->dropped_below;
    for (size_t i = 0; i < log->segment_count; i++) {
        s.bytes += log->segments[i].file_bytes;
    }
    dlog_lock(log);
    s.durable_position = log->durable_position;
    s.spares = log->spare_count;
    s.writes = log->writes;
    s.syncs = log->syncs;
    s.idle_syncs = log->idle_syncs;
    s.batches = log->batches;
    s.appended_bytes = log->written_bytes;
    dlog_unlock(log);
    *ret_stats = s;
}
