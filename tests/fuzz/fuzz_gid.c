/*
 * fuzz_gid.c: names of transactions. What is taken apart must be what is built again, byte for byte, since a gid that
 * reads in two ways would bind a decision to two transactions; and what was built must be taken apart.
 */
#include "tests/fuzz/fuzz.h"

#include "lockstep/ids.h"

static void parse_gtid(const char *text) {
    struct ls_gtid gtid, again;
    char printed[LS_GTID_MAX + 1];
    if (ls_gtid_parse(text, &gtid) != LS_OK) return;
    ls_gtid_format(&gtid, printed);
    REQUIRE(strcmp(printed, text) == 0);
    REQUIRE(gtid.epoch >= 1 && gtid.sequence >= 1 && gtid.sequence <= LS_SEQUENCE_MAX);
    REQUIRE(ls_gtid_parse(printed, &again) == LS_OK && ls_gtid_equal(&gtid, &again));
}

static void parse_gid(const char *text) {
    enum ls_gid_form form;
    struct ls_gtid gtid;
    char participant[LS_PARTICIPANT_MAX + 1], printed_gtid[LS_GTID_MAX + 1], printed[LS_GID_MAX + 1];
    if (ls_gid_parse(text, &form, &gtid, participant) != LS_OK) return;
    REQUIRE(ls_name_valid(participant, LS_PARTICIPANT_MAX));
    ls_gtid_format(&gtid, printed_gtid);
    ls_gid_format(form, printed_gtid, participant, printed);
    REQUIRE(strcmp(printed, text) == 0);
}

/* Names made of the input's own letters. */
static void make_name(char *name, size_t max, const uint8_t *data, size_t size) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
    size_t length = size % max + 1;
    for (size_t i = 0; i < length; i++) name[i] = letters[data[i % size] & 63];
    name[length] = '\0';
}

static void build(const uint8_t *data, size_t size) {
    struct ls_gtid gtid = {0}, got;
    enum ls_gid_form form;
    char text[LS_GTID_MAX + 1], gid[LS_GID_MAX + 1], participant[LS_PARTICIPANT_MAX + 1],
        got_name[LS_PARTICIPANT_MAX + 1];
    uint64_t number = 0;
    for (size_t i = 0; i < size; i++) number = number * 257 + data[i];
    make_name(gtid.coordinator, LS_COORDINATOR_MAX, data, size);
    make_name(participant, LS_PARTICIPANT_MAX, data, size);
    for (unsigned i = 0; i < LS_INCARNATION_LEN; i++)
        gtid.incarnation[i] = "0123456789abcdef"[(number >> (4 * i)) & 15];
    gtid.epoch = (uint32_t)(number >> 13) | 1;
    gtid.sequence = number % LS_SEQUENCE_MAX + 1;
    gtid.participant = data[0] % 2 == 0 ? 0 : (uint32_t)(number % LS_PARTICIPANT_NUMBER_MAX + 1);
    ls_gtid_format(&gtid, text);
    REQUIRE(ls_gtid_parse(text, &got) == LS_OK && ls_gtid_equal(&gtid, &got));
    for (int i = LS_GID_READABLE; i <= LS_GID_XA; i++) {
        ls_gid_format((enum ls_gid_form)i, text, participant, gid);
        REQUIRE(ls_gid_parse(gid, &form, &got, got_name) == LS_OK);
        REQUIRE((int)form == i && ls_gtid_equal(&gtid, &got) && strcmp(got_name, participant) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *text = fuzz_text(data, size);
    parse_gtid(text);
    parse_gid(text);
    free(text);
    if (size > 0) build(data, size);
    return 0;
}
