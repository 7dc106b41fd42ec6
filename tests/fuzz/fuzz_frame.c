/*
 * fuzz_frame.c: everything that a peer can send. The input is a frame's payload. A frame that is taken must survive
 * being written and read again, and everything else must be refused with a reason.
 */
#include "tests/fuzz/fuzz.h"

#include "common/frame.h"
#include "tests/fuzz/mutate.h"

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed) {
    return mutate_protobuf(data, size, max, seed);
}

static uint8_t *encode(const Lockstep__Frame *frame, size_t *ret_size) {
    struct ls_error err;
    *ret_size = frame_size(frame);
    uint8_t *bytes = malloc(*ret_size);
    REQUIRE(bytes != NULL && frame_encode(frame, bytes, *ret_size, &err) == LS_OK);
    return bytes;
}

static void check_again(Lockstep__Frame *frame, size_t expected) {
    struct ls_error err;
    size_t size, again_size;
    uint8_t *bytes = encode(frame, &size);
    Lockstep__Frame *again = NULL;
    REQUIRE(size == expected);
    REQUIRE(frame_decode(bytes, size, &again, &err) == LS_OK);
    uint8_t *again_bytes = encode(again, &again_size);
    REQUIRE(again_size == size && memcmp(bytes, again_bytes, size) == 0);
    if (again->body_case == LOCKSTEP__FRAME__BODY_WORK) lockstep__work__free_unpacked(frame_take_work(again), NULL);
    lockstep__frame__free_unpacked(again, NULL);
    free(again_bytes);
    free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct ls_error err = {0};
    uint8_t *bytes = malloc(size + FRAME_HEADER);
    REQUIRE(bytes != NULL);
    for (unsigned i = 0; i < FRAME_HEADER; i++) bytes[i] = (uint8_t)(size >> (8 * (FRAME_HEADER - 1 - i)));
    if (size > 0) memcpy(bytes + FRAME_HEADER, data, size);
    size_t need = 1;
    REQUIRE(frame_peek(bytes, FRAME_HEADER - 1, &need, &err) == LS_OK && need == 0);
    REQUIRE(frame_peek(bytes, FRAME_HEADER, &need, &err) == LS_OK && need == size + FRAME_HEADER);
    Lockstep__Frame *frame = NULL;
    enum ls_status status = frame_decode(bytes, size + FRAME_HEADER, &frame, &err);
    free(bytes); /* a decoded frame is memory of its own */
    if (status == LS_OK) {
        check_again(frame, size + FRAME_HEADER);
        lockstep__frame__free_unpacked(frame, NULL);
    } else {
        fuzz_refused(status, &err);
        REQUIRE(frame == NULL);
    }
    return 0;
}
