/*
 * frame.h: u32 big-endian length, then one protobuf Frame. Decoding checks what protobuf-c does not: required sizes,
 * UTF-8, no NUL, name alphabets, bounds. Pure.
 */
#ifndef LOCKSTEP_FRAME_H
#define LOCKSTEP_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lockstep.pb-c.h"
#include "lockstep/limits.h"
#include "lockstep/status.h"

#define FRAME_HEADER 4u

/* Bytes that frame_encode will write, header included. */
size_t frame_size(const Lockstep__Frame *frame);
/* Encodes into `out` of frame_size() bytes. LS_ERR_TOO_LARGE above LS_FRAME_MAX. */
enum ls_status frame_encode(const Lockstep__Frame *frame, uint8_t *out, size_t size,
                            struct ls_error *err) LS_MUST_CHECK;
/*
 * Looks at the first bytes of a stream. LS_ERR_RETRY is not used: *ret_need is the number of bytes the whole frame
 * takes once the header is there (0 while it is not). LS_ERR_TOO_LARGE as soon as the header says so.
 */
enum ls_status frame_peek(const uint8_t *data, size_t length, size_t *ret_need, struct ls_error *err) LS_MUST_CHECK;
/* Decodes and checks one whole frame (header included). Free with lockstep__frame__free_unpacked(frame, NULL).
 * LS_ERR_NOMEM; LS_ERR_PROTOCOL: anything else that is wrong with it. */
enum ls_status frame_decode(const uint8_t *data, size_t length, Lockstep__Frame **ret_frame,
                            struct ls_error *err) LS_MUST_CHECK;
/* Takes the Work out of a decoded frame, which then has no body; for a receiver that was lent the frame and must keep
 * its statements. Free with lockstep__work__free_unpacked(work, NULL). The frame must have come from frame_decode() and
 * be a Work. */
Lockstep__Work *frame_take_work(const Lockstep__Frame *frame);

/*
 * An allocator for protobuf-c's unpack functions that remembers whether memory was short: they answer NULL to that as
 * they do to bytes that are no message, and a log or a link must not be called damaged for it. What they return is
 * ordinary memory: free it with NULL for the allocator.
 */
struct frame_memory {
    ProtobufCAllocator allocator;
    bool exhausted;
};
void frame_memory_init(struct frame_memory *memory);

#endif
