/*
 * segment.h: one segment file, read: its names, its header, and the walk over its records. Never writes.
 */
#ifndef LOCKSTEP_DLOG_SEGMENT_H
#define LOCKSTEP_DLOG_SEGMENT_H

#include "coordinator/dlog/dlog.h"
#include "coordinator/dlog/format.h"

/* ---- names inside <data>/log */
#define SEGMENT_NAME_BYTES 32u
void segment_name(uint64_t number, char name[SEGMENT_NAME_BYTES]);     /* 000000000000002a.seg */
void segment_spare_name(uint32_t id, char name[SEGMENT_NAME_BYTES]);   /* free-0000002a.seg: zeros, ready to be used */
void segment_unready_name(uint32_t id, char name[SEGMENT_NAME_BYTES]); /* new-0000002a.tmp: being filled with zeros */
enum segment_kind { SEGMENT_OTHER, SEGMENT_LOG, SEGMENT_SPARE, SEGMENT_UNREADY };
enum segment_kind segment_parse_name(const char *name, uint64_t *ret_number);

/* "<dir>/log" of a data directory; heap. */
char *segment_directory(const char *data_dir);

/* ---- a file read through a window, so that the walk is a few large reads */
struct segment_file {
    const struct dlog_io *io;
    int file;       /* -1: not open */
    uint64_t bytes; /* size of the file */
    uint8_t *window;
    size_t capacity;
    uint64_t from; /* file offset of window[0] */
    size_t filled;
};
#ifndef SEGMENT_WINDOW /* the fuzzer takes a smaller one */
#define SEGMENT_WINDOW (1u << 20)
#endif

enum ls_status segment_open(struct segment_file *segment, const struct dlog_io *io, const char *dir, const char *name,
                            struct ls_error *err) LS_MUST_CHECK;
/* Closes the file, keeps the window's memory for the next segment_open(). */
void segment_close(struct segment_file *segment);
void segment_free(struct segment_file *segment);
/* `length` bytes at `offset`; both inside the file, length <= SEGMENT_WINDOW. Valid until the next call. */
enum ls_status segment_bytes(struct segment_file *segment, uint64_t offset, size_t length, const uint8_t **ret_bytes,
                             struct ls_error *err) LS_MUST_CHECK;
enum ls_status segment_header(struct segment_file *segment, struct format_header *ret_header,
                              enum format_answer *ret_answer, struct ls_error *err) LS_MUST_CHECK;

/* ---- the walk */
struct segment_walk {
    uint64_t position, sequence, chain; /* where the walk stands: of the next record, and the checksum before it */
    uint64_t proven;                    /* highest `durable` seen in headers and records */
    uint64_t records;
};
/* Where a walk stands at the beginning of a segment, behind its header. */
void segment_walk_begin(struct segment_walk *walk, const struct format_header *header);
/*
 * Goes from record to record, up to the stream position `limit`, as long as each is self-valid, chained and in
 * sequence. Stops in front of the first that is not (walk->position < limit). Each record is handed to `visit` (may be
 * NULL). LS_ERR_IO: could not be read. LS_ERR_CORRUPT: an intact record of a type or with flags that this version does
 * not know.
 */
enum ls_status segment_walk(struct segment_file *segment, const struct format_header *header, uint64_t limit,
                            struct segment_walk *walk, dlog_visit visit, void *context,
                            struct ls_error *err) LS_MUST_CHECK;
/*
 * Looks at what lies behind a walk that stopped: *ret_end is the stream position behind the last byte that is not zero
 * (walk->position when all are), and the proofs in self-valid records there raise walk->proven.
 */
enum ls_status segment_inspect_rest(struct segment_file *segment, const struct format_header *header,
                                    struct segment_walk *walk, uint64_t *ret_end, struct ls_error *err) LS_MUST_CHECK;

#endif
