/*
 * fuzz_record.c: payloads of the log as a start reads them. The input is a message whose fields are the records: field
 * number = type. Nothing that was read may be larger than the log can have said.
 */
#include "tests/fuzz/fuzz.h"

#include "coordinator/core/recover.h"
#include "coordinator/dlog/format.h"
#include "tests/fuzz/mutate.h"

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed) {
    return mutate_protobuf(data, size, max, seed);
}

/* A record in exactly its own memory. False: it was refused, and a start would end here. What the log's index cannot
 * read (a field number 0 in two bytes, which protobuf-c lets pass) it has refused before anybody else looks. */
static bool fold(struct recovery *recovery, uint8_t type, const uint8_t *at, size_t length, uint64_t position) {
    struct ls_error err = {0};
    struct format_fields fields;
    uint8_t *payload = (uint8_t *)fuzz_text(at, length);
    bool readable = format_read_fields(payload, length, &fields);
    enum ls_status status =
        readable ? recovery_record(recovery, (enum dlog_type)type, position, payload, length, &err) : LS_ERR_CORRUPT;
    free(payload);
    if (!readable || status == LS_OK) return readable;
    fuzz_refused(status, &err);
    REQUIRE(status == LS_ERR_CORRUPT);
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct recovery *recovery = recovery_new();
    REQUIRE(recovery != NULL);
    size_t at = 0, commits = 0, participants = 0;
    while (at + 2 <= size) {
        uint8_t type = data[at] >> 3;
        if (type < DLOG_EPOCH || type > DLOG_AUDIT || (data[at] & 7) != 2) break;
        size_t length = data[at + 1] & 0x7f, head = 2;
        if (data[at + 1] >= 0x80 && at + 3 <= size) {
            length |= (size_t)(data[at + 2] & 0x7f) << 7;
            head = 3;
        }
        if (length > size - at - head || !fold(recovery, type, data + at + head, length, at)) break;
        commits += type == DLOG_COMMIT;
        participants += type == DLOG_PARTICIPANT;
        at += head + length;
    }
    REQUIRE(recovery_open_count(recovery) <= commits && recovery_participant_count(recovery) <= participants);
    for (size_t i = 0; i < recovery_participant_count(recovery); i++) {
        const struct recovery_participant *participant = recovery_participant(recovery, i);
        REQUIRE(participant->number >= 1 && participant->number <= LS_PARTICIPANT_NUMBER_MAX);
        REQUIRE(ls_name_valid(participant->name, LS_PARTICIPANT_MAX));
    }
    recovery_free(recovery);
    return 0;
}
