/*
 * write.c: dlog_write(), the only place that puts records on disk.
 *
 * For each stretch of a batch, in this order, and what recovery finds after a crash at each point:
 *   1. [dlog_roll_before_header] a new segment's header is written
 *      into the spare and synced [dlog_roll_header_synced]              the spare is not part of the log: it is filled
 * with zeros again
 *   2. the spare gets its name [dlog_roll_renamed], the directory is
 *      synced [dlog_roll_done]                                          an empty segment at the end of the log
 *   3. [dlog_before_write] the records are written                      a torn tail, or all of them, or none: nobody
 * has been told
 *   4. [dlog_after_write] fdatasync                                     as 3
 *   5. [dlog_after_sync] the new durable position is published          all of them: the decisions stand, though nobody
 * has been told Step 1 of a segment comes after step 5 of the one before: a header is the proof that everything in
 * front of it is durable (except for the first one of a life, which says in `durable` how far that is known). Killed at
 * each point by tests/unit/test_dlog_crash.c and tests/crash.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "common/failpoint.h"
#include "coordinator/dlog/dlog_internal.h"

static enum ls_status write_all(struct dlog *log, int file, const uint8_t *data, size_t length, uint64_t offset,
                                struct ls_error *err) {
    ssize_t wrote;
    do {
        wrote = log->io->pwrite(log->io->context, file, data, length, offset);
    } while (wrote == -EINTR); /* interrupted before the first byte */
    if (wrote < 0) {
        return dlog_fail(log, err, "cannot write the log: %s", strerror((int)-wrote));
    }
    if ((size_t)wrote != length) {
        return dlog_fail(log, err, "cannot write the log: %zd of %zu bytes written", wrote, length);
    }
    return LS_OK;
}

static enum ls_status sync_file(struct dlog *log, int file, struct ls_error *err) {
    int synced = log->io->fdatasync(log->io->context, file);
    if (synced != 0) { /* EINTR too: what was written is in doubt, and asking again would not say (hazards D2) */
        return dlog_fail(log, err, "cannot sync the log: %s", strerror(-synced));
    }
    return LS_OK;
}

static void close_current(struct dlog *log) {
    if (log->write_file >= 0) {
        (void)log->io->close(log->io->context, log->write_file); /* synced up to its end */
        log->write_file = -1;
    }
}

/* Turns a spare into segment piece->number. */
static enum ls_status begin_segment(struct dlog *log, const struct piece *piece, struct ls_error *err) {
    const struct dlog_io *io = log->io;
    char spare[SEGMENT_NAME_BYTES], name[SEGMENT_NAME_BYTES];
    segment_spare_name(piece->spare, spare);
    segment_name(piece->number, name);
    close_current(log);
    int file = io->open(io->context, log->dir, spare, false, true);
    if (file < 0) {
        return dlog_fail(log, err, "cannot open %s/%s: %s", log->dir, spare, strerror(-file));
    }
    log->write_file = file;
    struct format_header header = {.previous = log->write_chain,
                                   .position = piece->start,
                                   .sequence = log->write_sequence,
                                   .durable = log->write_durable,
                                   .number = piece->number,
                                   .segment_bytes = log->segment_bytes,
                                   .first_segment = piece->first_segment,
                                   .running_ms = piece->running_ms};
    memcpy(header.incarnation, log->incarnation, sizeof header.incarnation);
    memcpy(header.coordinator, log->coordinator, sizeof header.coordinator);
    uint8_t block[FORMAT_BLOCK];
    uint64_t checksum;
    format_encode_header(&header, block, &checksum);
    /* Crash: a spare is a spare. */
    (void)failpoint_hit(FP_dlog_roll_before_header);
    enum ls_status status = write_all(log, file, block, sizeof block, 0, err);
    if (status == LS_OK) {
        status = sync_file(log, file, err);
    }
    if (status != LS_OK) {
        return status;
    }
    /* Crash: a header under a spare's name is no segment. The next start fills the file with zeros again. */
    (void)failpoint_hit(FP_dlog_roll_header_synced);
    int moved = io->rename(io->context, log->dir, spare, name);
    if (moved == 0) {
        /* Crash: the name may be lost; either way there is no record in the file. */
        (void)failpoint_hit(FP_dlog_roll_renamed);
        moved = io->sync_dir(io->context, log->dir);
    }
    if (moved != 0) {
        return dlog_fail(log, err, "cannot rename %s to %s in %s: %s", spare, name, log->dir, strerror(-moved));
    }
    log->write_seed = format_seed(log->incarnation, piece->number);
    log->write_chain = checksum;
    dlog_lock(log);
    log->writes++;
    log->syncs += 2;
    dlog_unlock(log);
    /* Crash: an empty segment ends the log, and proves everything in front of it. */
    (void)failpoint_hit(FP_dlog_roll_done);
    return LS_OK;
}

/* Stamps whole records from `at` on, at most batch_max bytes (one record is never more); returns where they end. */
static size_t seal(struct dlog *log, const struct piece *piece, size_t at) {
    struct batch *batch = &log->writing;
    size_t begin = at;
    while (at < piece->to) {
        size_t size = format_record_size(format_peek_length(batch->data + at));
        if (at - begin + size > log->batch_max) {
            break;
        }
        log->write_chain =
            format_seal_record(batch->data + at, log->write_seed, log->write_chain,
                               piece->position + (at - piece->from), log->write_sequence++, log->write_durable);
        at += size;
    }
    assert(at > begin && at <= piece->to);
    return at;
}

/* Does somebody wait for one of these records? For ends and marks nobody does. */
static bool anybody_waits(const struct dlog *log, size_t from, size_t to) {
    for (size_t at = from; at < to;) {
        const uint8_t *record = log->writing.data + at;
        uint32_t type = format_peek_type(record);
        if (type != DLOG_END && type != DLOG_MARK) {
            return true;
        }
        at += format_record_size(format_peek_length(record));
    }
    return false;
}

static enum ls_status write_piece(struct dlog *log, const struct piece *piece, struct ls_error *err) {
    if (piece->begins) {
        enum ls_status status = begin_segment(log, piece, err);
        if (status != LS_OK) {
            return status;
        }
    }
    for (size_t at = piece->from; at < piece->to;) {
        size_t next = seal(log, piece, at);
        uint64_t position = piece->position + (at - piece->from), end = piece->position + (next - piece->from);
        bool awaited = anybody_waits(log, at, next);
        bool first = log->batches == 0; /* of this life: the epoch record and what is logged again */
        /* Crash here: no record. */
        if (failpoint_hit(FP_dlog_before_write)) {
            return dlog_fail(log, err, "failpoint dlog_before_write");
        }
        enum ls_status status =
            write_all(log, log->write_file, log->writing.data + at, next - at, position - piece->start, err);
        if (status != LS_OK) {
            return status;
        }
        /* Crash here: the records, some of them or none. Of the first batch none is missed: the records it copies are
         * still where they were, and an epoch that nobody has seen may be handed out again. */
        if (failpoint_hit(FP_dlog_after_write) || (first && failpoint_hit(FP_dlog_relog_written))) {
            return dlog_fail(log, err, "failpoint dlog_after_write");
        }
        status = sync_file(log, log->write_file, err);
        if (status != LS_OK) {
            return status;
        }
        /* Crash here: the decisions stand, though nobody has been told; the next start drives them. */
        if (failpoint_hit(FP_dlog_after_sync) || (first && failpoint_hit(FP_dlog_relog_synced))) {
            return dlog_fail(log, err, "failpoint dlog_after_sync");
        }
        dlog_lock(log);
        log->proven = log->write_durable;
        log->durable_position = end;
        log->durable_chain = log->write_chain;
        log->writes++;
        log->syncs++;
        log->batches++;
        log->idle_syncs += awaited ? 0u : 1u;
        log->written_bytes += next - at;
        dlog_unlock(log);
        log->write_durable = end;
        at = next;
    }
    return LS_OK;
}

enum ls_status dlog_write(struct dlog *log, struct ls_error *err) {
    if (dlog_failed(log, err)) {
        return LS_ERR_IO;
    }
    dlog_lock(log);
    assert(!log->busy);
    bool work = log->filling.piece_count > 0;
    if (work) {
        struct batch empty = log->writing;
        log->writing = log->filling;
        log->filling = empty;
        log->busy = true;
    }
    dlog_unlock(log);
    if (!work) {
        return LS_OK;
    }
    enum ls_status status = LS_OK;
    for (size_t i = 0; i < log->writing.piece_count && status == LS_OK; i++) {
        status = write_piece(log, &log->writing.pieces[i], err);
    }
    log->writing.length = 0;
    log->writing.piece_count = 0;
    dlog_lock(log);
    log->busy = false;
    dlog_unlock(log);
    return status;
}
