/*
 * dlog_internal.h: the log's own structure, shared by dlog.c (open, append, find), write.c (the writer's side),
 * prepare.c (files of zeros) and retain.c (re-log, carrying, removal).
 *
 * Three kinds of members, kept apart by who may touch them:
 *   fixed   written by dlog_open() only
 *   owner   the owner's thread only
 *   writer  dlog_write() only
 *   shared  under `mutex`
 * A record's way: dlog_append() lays it out in `filling` (owner, under the mutex); dlog_write() swaps `filling` and
 * `writing`, stamps, writes and syncs `writing` without the mutex, and publishes how far the log is durable.
 */
#ifndef LOCKSTEP_DLOG_INTERNAL_H
#define LOCKSTEP_DLOG_INTERNAL_H

#include <pthread.h>

#include "coordinator/dlog/dlog.h"
#include "coordinator/dlog/format.h"
#include "coordinator/dlog/kept.h"
#include "coordinator/dlog/segment.h"

#define DLOG_BATCH_MAX (1u << 20) /* bytes written before a sync: what a crash leaves without proof is never more */
#define DLOG_SPARES_MAX 65u
#define DLOG_MARK_EVERY_MS 10000u /* under load the recorded running time is behind by about this much */

/* A stretch of appended bytes inside one segment. */
struct piece {
    uint64_t number, start; /* the segment, and where it starts in the stream */
    uint64_t position;      /* of the first byte here */
    size_t from, to;        /* in the batch's data */
    bool begins;            /* the segment is to be made out of spare `spare` first */
    uint32_t spare;
    uint64_t first_segment, running_ms; /* for its header */
};

struct batch {
    uint8_t *data;
    size_t length, capacity;
    struct piece *pieces;
    size_t piece_count, piece_capacity;
};

/* A segment of the log as the owner knows it. */
struct log_segment {
    uint64_t number, start, end; /* end: UINT64_MAX while it is appended to */
    uint64_t file_bytes;
    uint64_t running_ms; /* when it ended */
    bool trimmed;        /* its unused end was looked at */
};

/* Segments on their way out of the log. */
struct retirement {
    bool active, marked;
    size_t count;      /* the oldest so many */
    uint64_t below;    /* stream position where they end */
    uint64_t mark_end; /* of the mark that lets them go */
    uint64_t horizon_running_ms;
};

enum job_kind { JOB_RECYCLE, JOB_READY, JOB_TRIM };
struct job {
    enum job_kind kind;
    uint64_t number; /* segment; JOB_READY: id of an unready file */
    uint64_t length; /* JOB_TRIM */
};

struct dlog {
    /* fixed */
    const struct dlog_io *io;
    char *dir; /* <data>/log */
    char coordinator[LS_COORDINATOR_MAX + 1], incarnation[LS_INCARNATION_LEN + 1];
    uint32_t segment_bytes;
    uint32_t record_max; /* bytes of one record, header included */
    uint32_t batch_max;
    uint32_t spare_target; /* options.spares and the one for the next start */
    uint64_t bytes_max, retention_ms;
    uint64_t reopened_end, reopened_chain; /* where the life before ended: everything below can be read */
    uint64_t reopened_proven;              /* how far that was proven durable */
    uint64_t cut_bytes, running_before_ms;

    /* owner */
    struct kept kept;
    struct log_segment *segments; /* oldest first */
    size_t segment_count, segment_capacity;
    bool appending; /* the last of them is being appended to */
    uint64_t append_position;
    uint64_t data_end;      /* behind the last record that is not a mark: what wants proof */
    uint64_t first_segment; /* as the newest mark says: lower ones are not needed. Headers repeat it, so it changes
                               after the mark */
    struct dlog_key horizon, settled;
    uint64_t dropped_below; /* what stood in front of it is not in the index any more; the files go a little later */
    uint64_t horizon_running_ms;
    uint64_t running_ms;        /* of all lives, as last told */
    uint64_t marked_running_ms; /* as last recorded */
    bool relogged;
    uint64_t relog_end;
    struct retirement retirement;
    uint64_t *leftovers; /* segments below first_segment found by dlog_open() */
    size_t leftover_count;
    uint64_t records;
    void (*wake_prepare)(void *context); /* NULL: dlog_maintain() prepares */
    void *wake_context;
    int read_file; /* open for reading: segment read_number, -1 none */
    uint64_t read_number;
    uint8_t *read_buffer; /* LS_LOG_RECORD_MAX bytes */

    /* writer */
    struct batch writing;
    int write_file;
    uint64_t write_seed, write_sequence, write_chain, write_durable;

    /* shared */
    pthread_mutex_t *mutex; /* on the heap, so that a const log can lock, too */
    bool failed;
    char failure[LS_ERROR_TEXT_MAX];
    struct batch filling;
    bool busy; /* dlog_write() is at work */
    uint32_t spares[DLOG_SPARES_MAX];
    uint32_t spare_count, next_spare_id;
    struct job *jobs;
    size_t job_count, job_capacity;
    enum ls_status prepared; /* how the last dlog_prepare() went */
    char prepared_why[LS_ERROR_TEXT_MAX];
    uint64_t durable_position, durable_chain;
    uint64_t proven; /* a durable record says that the log is durable up to here */
    uint64_t writes, syncs, batches, idle_syncs, written_bytes;
};

/* Makes the log fail for ever (the first reason is kept); returns LS_ERR_IO with that reason. */
enum ls_status dlog_fail(struct dlog *log, struct ls_error *err, const char *fmt, ...) LS_PRINTF(3, 4);
bool dlog_failed(const struct dlog *log, struct ls_error *err);

/* dlog_append() without its limits on types; `extra` goes behind the payload. */
enum ls_status dlog_append_any(struct dlog *log, enum dlog_type type, const void *payload, size_t length,
                               const void *extra, size_t extra_length, uint64_t *ret_position, uint64_t *ret_end,
                               struct ls_error *err) LS_MUST_CHECK;
/* Appends a copy of the record at `position` (dlog_read); a decision's copy says so. */
enum ls_status dlog_append_copy(struct dlog *log, const struct dlog_record *record, struct ls_error *err) LS_MUST_CHECK;
/* Visits every good record in [from, to), both record boundaries. */
enum ls_status dlog_walk(struct dlog *log, uint64_t from, uint64_t to, dlog_visit visit, void *context,
                         struct ls_error *err) LS_MUST_CHECK;
/* Appends a LogMark saying that segments below `first_segment` are not needed. */
enum ls_status dlog_append_mark(struct dlog *log, uint64_t first_segment, struct ls_error *err) LS_MUST_CHECK;
/* Adds work for dlog_prepare(). */
enum ls_status dlog_add_job(struct dlog *log, struct job job) LS_MUST_CHECK;
/* Puts the oldest spare into use; false when there is none. Under the mutex. */
bool dlog_take_spare(struct dlog *log, uint32_t *ret_id);
/* Is there anything for dlog_prepare() to do? */
bool dlog_wants_prepare(const struct dlog *log);
/* How much of a segment of full size can be used for certain: no header, and the last record may not have fitted. */
static inline uint64_t dlog_usable(const struct dlog *log) {
    return log->segment_bytes - FORMAT_BLOCK - log->record_max;
}

static inline void dlog_lock(const struct dlog *log) {
    (void)pthread_mutex_lock(log->mutex);
}
static inline void dlog_unlock(const struct dlog *log) {
    (void)pthread_mutex_unlock(log->mutex);
}

#endif
