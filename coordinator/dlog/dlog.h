/*
 * dlog.h: the decision log: append-only segments, group commit, chained checksums, retention.
 *
 * A position is a byte offset in the log's endless stream; segment n holds the stream from its start position up to the
 * start position of segment n + 1, its header included, so positions only grow and are dense on disk.
 * docs/log-format.md has the bytes.
 *
 * Threads. Every function belongs to the owner's thread, except two that another thread may run at the same time as the
 * owner's calls (and as each other): dlog_write(), and dlog_prepare() once dlog_prepare_elsewhere() was called. Each of
 * the two runs in one thread at a time. writer.h has both threads; tools, tests and the simulator call everything from
 * one thread. No function may run during dlog_open() and dlog_close().
 *
 * Durable means: write and fdatasync returned success. A failed or doubtful write or sync makes the log LS_ERR_IO for
 * ever: nothing more is appended or reported durable, and the owner stops the process with LS_EXIT_IO (never a retry:
 * hazards D2).
 *
 * Space. Records go into preallocated files only. Besides options.spares, one more spare is kept that dlog_room() does
 * not count: a start needs a fresh segment, and room for what it writes again, even when the disk is full. What the
 * owner reserves within dlog_room() can therefore be appended in this life, and its remainder in the next one.
 */
#ifndef LOCKSTEP_DLOG_H
#define LOCKSTEP_DLOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "coordinator/dlog/io.h"
#include "lockstep/limits.h"
#include "lockstep/log_types.h"
#include "lockstep/status.h"

struct dlog;

struct dlog_options {
    const char *dir;          /* data directory; the log lives in <dir>/log */
    const char *coordinator;  /* name; must equal the one in an existing log */
    const char *incarnation;  /* drawn by the caller, used only when the log is new */
    uint32_t segment_bytes;   /* of new segments */
    uint64_t bytes_max;       /* log.max_size */
    uint64_t retention_ms;    /* of running time */
    uint32_t spares;          /* preallocated free segments to keep, >= 2 */
    const struct dlog_io *io; /* dlog_io_posix() in the programs */
};

struct dlog_record {
    enum dlog_type type;
    uint64_t position; /* where it starts */
    uint64_t end;      /* where the next one starts */
    uint64_t sequence;
    uint64_t durable; /* the log was known durable up to here when this record was written */
    uint64_t chain;   /* checksum chained up to and including this record: the checksum "at" `end` */
    const uint8_t *payload;
    size_t length;
};

/* Called for every valid record, oldest first. Non-OK stops and is returned. */
typedef enum ls_status (*dlog_visit)(void *context, const struct dlog_record *record);

/*
 * Opens (or creates, when the directory has no log) and replays. On success the log is positioned behind its last valid
 * record, in a NEW segment taken from the spares (begun by the first dlog_write()), and the caller must, before acting
 * on anything it has read: append DLOG_EPOCH, dlog_relog(), and dlog_write() until all is durable: a page cache can
 * show what the disk never got (hazards D2, ATC'20 "Can applications recover from fsync failures?"). A torn tail is cut
 * (reported in dlog_stats). LS_ERR_CORRUPT: refuses, err says segment, offset and why. LS_ERR_MISMATCH: the log belongs
 * to another coordinator. LS_ERR_FULL: there is no spare segment and none can be made. LS_ERR_CONFIG: an option is out
 * of range. The first start makes spares + 1 files of zeros, which takes as long as the disk takes to write them.
 */
enum ls_status dlog_open(const struct dlog_options *options, dlog_visit visit, void *context, struct dlog **ret_log,
                         struct ls_error *err) LS_MUST_CHECK;
/* Closes without writing; everything appended and not durable is lost, as in a crash. NULL is fine. */
void dlog_close(struct dlog *log);

const char *dlog_incarnation(const struct dlog *log);
uint32_t dlog_last_epoch(const struct dlog *log); /* highest epoch recorded, 0 in a new log */

/* Appends to the buffer. *ret_position: where it starts; *ret_end: it is durable once dlog_durable() >= this.
 * LS_ERR_FULL: no preallocated room (cannot happen for reserved records); LS_ERR_IO: the log has failed. */
enum ls_status dlog_append(struct dlog *log, enum dlog_type type, const void *payload, size_t length,
                           uint64_t *ret_position, uint64_t *ret_end) LS_MUST_CHECK;
/* dlog_append of a decision: also enters it into the index and counts it open. Payload: LogCommit of (epoch, sequence).
 * Decisions and ends must come this way, not through dlog_append(). */
enum ls_status dlog_append_commit(struct dlog *log, uint32_t epoch, uint64_t sequence, const void *payload,
                                  size_t length, uint64_t *ret_position, uint64_t *ret_end) LS_MUST_CHECK;
/* dlog_append of an end: the decision is no longer open. Unforced. */
enum ls_status dlog_append_end(struct dlog *log, uint32_t epoch, uint64_t sequence, uint64_t *ret_end) LS_MUST_CHECK;
/*
 * Appends again what the life before wrote and what nothing proves to be on the disk: its last batch. Copies of its
 * decisions (and their ends, for those that had ended), registry entries, hazards and audits; then a mark. What stands
 * before that batch is proven durable by the batch itself (each says how far the log was durable before it) and is not
 * copied, however many decisions are open there. Call once after dlog_open().
 */
enum ls_status dlog_relog(struct dlog *log, uint64_t *ret_end) LS_MUST_CHECK;

/* True when something appended is not yet durable. */
bool dlog_dirty(const struct dlog *log);
/* True when the log is idle and its last batch stands without proof: the owner calls dlog_mark() within
 * LS_MARK_IDLE_MS. */
bool dlog_wants_mark(const struct dlog *log);
/* Appends a LogMark that says, as every later one, that one-participant transactions up to this one are settled. Never
 * goes back. */
enum ls_status dlog_mark_settled(struct dlog *log, uint64_t running_ms, uint32_t epoch, uint64_t sequence,
                                 uint64_t *ret_end) LS_MUST_CHECK;
/* Appends a LogMark. running_ms: of this life. */
enum ls_status dlog_mark(struct dlog *log, uint64_t running_ms, uint64_t *ret_end) LS_MUST_CHECK;
/* Writes and syncs everything appended before the call, as one batch (several above 1 MiB, two where a segment ends,
 * and a header with its directory before the first batch of each segment). Blocks. */
enum ls_status dlog_write(struct dlog *log, struct ls_error *err) LS_MUST_CHECK;
/* How far the log is durable, and the chained checksum there. */
void dlog_durable(const struct dlog *log, uint64_t *ret_position, uint64_t *ret_chain);
/* The chained checksum at a record boundary of this log, or LS_ERR_NOT_FOUND when there is no boundary (or the log no
 * longer goes back that far: stats.oldest_position). Reads one record; where none begins, the segment up to there. */
enum ls_status dlog_chain_at(struct dlog *log, uint64_t position, uint64_t *ret_chain) LS_MUST_CHECK;

/*
 * Housekeeping between batches, a bounded piece of work per call; call it about once a second and after dlog_durable()
 * moved. Carries what is still needed (open decisions, registry, hazards, audits) out of segments that leave the
 * window, and hands those segments to dlog_prepare() once copies and mark are proven durable; moves the horizon; marks
 * the running time; unless dlog_prepare_elsewhere() was called, runs dlog_prepare() too. What it appends needs a
 * dlog_write() like anything else. running_ms: of this life. LS_ERR_FULL: spares cannot be made (room shrinks, new work
 * is refused) or there is no room to carry: not a failure of the log.
 */
enum ls_status dlog_maintain(struct dlog *log, uint64_t running_ms, struct ls_error *err) LS_MUST_CHECK;
/* The part of it that works on files for long: makes removed segments into spares, tops up the spares. */
enum ls_status dlog_prepare(struct dlog *log, struct ls_error *err) LS_MUST_CHECK;
/* From now on somebody else calls dlog_prepare(), whenever `wake` was called (on the owner's thread; it must not call
 * the log). NULL: nobody does any more. dlog_maintain() then reports how the last dlog_prepare() went. */
void dlog_prepare_elsewhere(struct dlog *log, void (*wake)(void *context), void *context);
/* Bytes that may still be promised: appendable into preallocated space, headers, segment ends and the spare kept for a
 * start left out. */
uint64_t dlog_room(const struct dlog *log);

enum dlog_found { DLOG_FOUND, DLOG_ABSENT, DLOG_BEYOND_HORIZON, DLOG_NEVER_ISSUED };
/* Is there a decision for (epoch, sequence)? ABSENT: the index covers it and there is none. NEVER_ISSUED: a later epoch
 * than this log's. (Sequences of the current epoch not handed out yet are the engine's to know.) O(1). */
enum dlog_found dlog_find(const struct dlog *log, uint32_t epoch, uint64_t sequence, uint64_t *ret_position);
/* Where the records of a saga stand, 0 for those that are not kept. False: none is. A saga record is never found by
 * dlog_find(), nor a decision here. */
struct dlog_saga {
    uint64_t begin, phase, end;
};
bool dlog_find_saga(const struct dlog *log, uint32_t epoch, uint64_t sequence, struct dlog_saga *ret_saga);
/* The longest payload one record of this log can have. */
/* The next saga behind (*epoch, *sequence), in order of their names, that has ended and is kept. False: there is none.
 */
bool dlog_next_ended_saga(const struct dlog *log, uint32_t *epoch, uint64_t *sequence);
size_t dlog_payload_max(const struct dlog *log);
/* Reads one record back; payload is valid until the next call on this log. LS_ERR_BUSY: appended, not durable yet
 * (dlog_find() already knows it: it must not be answered from). LS_ERR_NOT_FOUND: no record begins there. */
enum ls_status dlog_read(struct dlog *log, uint64_t position, struct dlog_record *ret_record,
                         struct ls_error *err) LS_MUST_CHECK;
/* Visits the open decisions, in log order. `visit` must not call functions of this log. */
enum ls_status dlog_each_open(struct dlog *log, dlog_visit visit, void *context, struct ls_error *err) LS_MUST_CHECK;
/* Visits the decisions still kept (open or in the window), oldest first; of copies the newest. */
enum ls_status dlog_each_commit(struct dlog *log, dlog_visit visit, void *context, struct ls_error *err) LS_MUST_CHECK;

struct dlog_stats {
    uint64_t oldest_position, durable_position, append_position;
    uint64_t horizon_position; /* what stood in front of it is not found any more; its files go a little later */
    uint64_t segments, spares, bytes, open_decisions, records;
    uint64_t writes, syncs, batches; /* counted, of this life: the forced writes of the figures */
    uint64_t idle_syncs;             /* of these, of batches with nothing but ends and marks: nobody waited for them */
    uint64_t appended_bytes;
    uint64_t running_ms; /* recorded before this life */
    uint64_t cut_bytes;  /* torn tail cut at open */
    uint64_t horizon_running_ms;
    uint64_t room, spare_target; /* spares below the target: the disk is full, or they are being made */
    uint32_t horizon_epoch;      /* decisions up to (horizon_epoch, horizon_sequence) may be gone */
    uint64_t horizon_sequence;
    uint32_t settled_epoch; /* of the newest mark that has one */
    uint64_t settled_sequence;
};
void dlog_get_stats(const struct dlog *log, struct dlog_stats *ret_stats);

/* ---- offline: never writes, takes no lock ---- */
enum dlog_verdict { DLOG_VALID, DLOG_TORN_TAIL, DLOG_CORRUPT };
struct dlog_report {
    enum dlog_verdict verdict;
    uint64_t records, segments, first_position, end_position, durable_position;
    uint64_t bad_position; /* torn tail or corrupt: where */
    char bad_segment[64];
    char why[256];
    char coordinator[LS_COORDINATOR_MAX + 1], incarnation[LS_INCARNATION_LEN + 1];
    uint32_t last_epoch;
};
/* Reads the whole log. LS_OK also for torn and corrupt logs: the verdict says it. Other statuses: it could not be read.
 */
enum ls_status dlog_scan(const char *dir, const struct dlog_io *io, dlog_visit visit, void *context,
                         struct dlog_report *ret_report, struct ls_error *err) LS_MUST_CHECK;

#endif
