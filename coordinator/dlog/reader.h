/*
 * reader.h: reads a whole log, for dlog_open() and dlog_scan(), and gives one of three answers. Never writes.
 *
 *   DLOG_VALID      every record up to the end is good, and nothing but zeros follows
 *   DLOG_TORN_TAIL  the log ends in something that was being written when the machine stopped, and nothing says that it
 * was ever durable: it may be cut DLOG_CORRUPT    something is bad or missing although the log itself proves that it
 * was durable
 *
 * What proves: every record and every header says how far the log was durable when its batch was written. Such a
 * statement was true when it was made (it was made after fdatasync had returned), so it holds wherever it is found, in
 * later records that survived a torn batch too. A bad record in front of the highest such position is corrupt; behind
 * it, torn. A power failure can keep later sectors of a batch and lose earlier ones: that alone proves nothing.
 *
 * Segments follow each other without a gap: each begins where the one before it ends, with its sequence and chain. One
 * exception: a segment begun by dlog_open() says `durable` < `position` in its header. Between the two lies the last
 * batch of the life before, which the page cache showed and the disk may have lost; what was needed of it is written
 * again behind that header. So a log may have a hole there, and only there, whatever is missing in it: records, a whole
 * segment.
 *
 * Old segments: the newest header, or a mark behind it that is proven durable, names the first segment still needed.
 * Files with lower numbers are left over from a removal that was interrupted; they are not looked at.
 */
#ifndef LOCKSTEP_DLOG_READER_H
#define LOCKSTEP_DLOG_READER_H

#include "coordinator/dlog/dlog.h"
#include "coordinator/dlog/segment.h"

struct reader_segment {
    uint64_t number;
    uint64_t file_bytes;
    enum format_answer answer;
    struct format_header header; /* when the answer is FORMAT_GOOD */
};

struct reader_ids {
    uint32_t *list;
    size_t count, capacity;
};

struct reader {
    struct dlog_report report;
    struct reader_segment *segments; /* all files; those of the log are [first, count) */
    size_t first, count, capacity;
    struct reader_ids spares, unready;
    struct segment_walk walk; /* where the log ends */
    uint64_t tail_end;        /* behind the last byte that is not zero; > walk.position: there is something to cut */
    struct segment_file file;
};

/* Any status but LS_OK: the log could not be read (LS_ERR_IO, LS_ERR_NOMEM, LS_ERR_NOT_FOUND: there is no such
 * directory), or `visit` said so. reader_free() in any case. A log without segments: LS_OK, report.segments == 0. */
enum ls_status reader_run(struct reader *reader, const char *log_dir, const struct dlog_io *io, dlog_visit visit,
                          void *context, struct ls_error *err) LS_MUST_CHECK;
void reader_free(struct reader *reader);

#endif
