/*
 * format.h: the bytes of the decision log, encoded and checked in one place. docs/log-format.md says the same in prose.
 * Pure: no file, no memory of its own. All numbers are little-endian.
 *
 * A segment file is one header block, then records without gaps, then zeros.
 *
 *   header block, 4096 bytes                              record, a multiple of 8 bytes
 *     0  8  magic "LOCKSLOG"                                0  8  checksum: XXH3 of bytes 8 .. end, seeded
 * (format_seed) 8  8  checksum: XXH3 of bytes 16 .. 4095              8  8  previous: the checksum before this one 16
 * 8  previous: the checksum before this one         16  8  position: where this record starts in the stream 24  8
 * position: where the segment starts             24  8  sequence: 1, 2, 3 ... over the whole log 32  8  sequence: of
 * its first record                  32  8  durable: the log was known durable up to here when the 40  8  durable: the
 * log is intact up to here                 batch of this record was written 48  4  format version 40  4  length of the
 * payload 52  4  size of this block                             44  2  type (enum dlog_type) 56  8  segment number (=
 * file name)                   46  2  flags, 0 64  8  bytes of the whole file                        48  n  payload,
 * then zeros up to a multiple of 8 72  8  first segment still needed 80  8  running time when it was begun, ms 88 16
 * incarnation, NUL-padded 104 24  coordinator, NUL-padded 128     zeros
 *
 * The chain: `previous` of each block or record equals the checksum of the one before it (0 at the start of the log),
 * and its own checksum covers `previous`. So one checksum says both "these bytes are as they were written" (self-valid)
 * and "everything before is, too" (chained). The chained checksum "at" a position is the checksum of whatever ends
 * there.
 */
#ifndef LOCKSTEP_DLOG_FORMAT_H
#define LOCKSTEP_DLOG_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lockstep/limits.h"

#define FORMAT_VERSION 1u
#define FORMAT_BLOCK 4096u /* a segment's header */
#define FORMAT_RECORD_HEADER 48u
#define FORMAT_COMMIT_COPY_EXTRA 2u /* bytes a copy of a decision is longer than the decision */

struct format_header {
    uint64_t checksum, previous, position, sequence, durable;
    uint64_t number;
    uint64_t segment_bytes;
    uint64_t first_segment;
    uint64_t running_ms;
    char incarnation[LS_INCARNATION_LEN + 1];
    char coordinator[LS_COORDINATOR_MAX + 1];
};

struct format_record {
    uint64_t checksum, previous, position, sequence, durable;
    uint32_t length;
    uint16_t type, flags;
};

/* Fills the block; ret_checksum: the chained checksum behind it. */
void format_encode_header(const struct format_header *header, uint8_t block[FORMAT_BLOCK], uint64_t *ret_checksum);

enum format_answer {
    FORMAT_GOOD,
    FORMAT_BLANK, /* all zeros: never written */
    FORMAT_BAD,   /* checksum or a field is wrong */
    FORMAT_NEWER  /* intact, but of a format version this program does not know */
};
enum format_answer format_decode_header(const uint8_t block[FORMAT_BLOCK], struct format_header *ret_header);

/* What makes records of this incarnation and segment different from equal bytes of any other (recycled files). */
uint64_t format_seed(const char incarnation[LS_INCARNATION_LEN + 1], uint64_t number);

/* Bytes on disk of a record with so much payload. */
static inline size_t format_record_size(size_t payload) {
    return (FORMAT_RECORD_HEADER + payload + 7u) & ~(size_t)7u;
}

/* Lays out a record of format_record_size(length + extra_length) bytes: payload, then extra. Not sealed yet. */
void format_begin_record(uint8_t *out, uint16_t type, const void *payload, size_t length, const void *extra,
                         size_t extra_length);
/* The payload length of a record laid out by format_begin_record(). */
uint32_t format_peek_length(const uint8_t *record);
/* Its type, likewise. */
uint32_t format_peek_type(const uint8_t *record);
/* Stamps what is known only when the batch is written. Returns the checksum. */
uint64_t format_seal_record(uint8_t *record, uint64_t seed, uint64_t previous, uint64_t position, uint64_t sequence,
                            uint64_t durable);
/*
 * Is there a self-valid record of the segment `seed` stands for, at `position`? Looks at no more than `available`
 * bytes. Type and flags are not judged. ret_record is filled only when there is.
 */
bool format_check_record(const uint8_t *data, uint64_t available, uint64_t seed, uint64_t position,
                         struct format_record *ret_record);

/* ---- the few numbers the log itself reads from payloads (proto2 wire form), without allocating */
#define FORMAT_FIELDS 9u /* field numbers 1..8 are kept; index = field number */
struct format_fields {
    uint64_t value[FORMAT_FIELDS]; /* varint fields; 0 when absent */
    bool present[FORMAT_FIELDS];
};
/* False when the bytes are not a protobuf message. */
bool format_read_fields(const uint8_t *payload, size_t length, struct format_fields *ret_fields);
/* "relogged = true" as bytes: appended to a LogCommit it makes the copy's payload (in proto2 the last value of a field
 * holds). */
extern const uint8_t format_relogged[FORMAT_COMMIT_COPY_EXTRA];
#define FORMAT_FIELD_RELOGGED 8u

#endif
