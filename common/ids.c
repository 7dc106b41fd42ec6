/*
 * ids.c: gtids and gids. Parsing accepts exactly what formatting writes, byte for byte: a name that could be written in
 * two ways would be two transactions to PostgreSQL and one to us. gid parsing takes the parts out, formats them again
 * and compares.
 */
#include "lockstep/ids.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define GID_PREFIX "lockstep:"
#define GID_PREFIX_LEN (sizeof GID_PREFIX - 1)
#define XA_PREFIX "1280004948_" /* format id "LKST" */
#define XA_PREFIX_LEN (sizeof XA_PREFIX - 1)

static bool name_byte(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

static bool name_part_valid(const char *name, size_t length, size_t max) {
    if (length == 0 || length > max) return false;
    for (size_t i = 0; i < length; i++) {
        if (!name_byte(name[i])) return false;
    }
    return true;
}

bool ls_name_valid(const char *name, size_t max) {
    return name && name_part_valid(name, strnlen(name, max + 1), max);
}

static bool incarnation_valid(const char *text, size_t length) {
    if (length != LS_INCARNATION_LEN) return false;
    for (size_t i = 0; i < length; i++) {
        if (!((text[i] >= '0' && text[i] <= '9') || (text[i] >= 'a' && text[i] <= 'f'))) return false;
    }
    return true;
}

/* Decimal without sign or leading zero, 1 .. max; 0 when it is none. */
static uint64_t parse_number(const char *text, size_t length, uint64_t max) {
    uint64_t value = 0;
    if (length == 0 || length > 20 || text[0] == '0') return 0;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9') return 0;
        uint64_t digit = (uint64_t)(text[i] - '0');
        if (value > (max - digit) / 10) return 0;
        value = value * 10 + digit;
    }
    return value;
}

void ls_gtid_format(const struct ls_gtid *gtid, char text[LS_GTID_MAX + 1]) {
    assert(ls_name_valid(gtid->coordinator, LS_COORDINATOR_MAX));
    assert(incarnation_valid(gtid->incarnation, strnlen(gtid->incarnation, sizeof gtid->incarnation)));
    assert(gtid->epoch >= 1 && gtid->sequence >= 1 && gtid->sequence <= LS_SEQUENCE_MAX);
    assert(gtid->participant <= LS_PARTICIPANT_NUMBER_MAX);
    int n = snprintf(text, LS_GTID_MAX + 1, "%s.%s.%" PRIu32 ".%" PRIu64, gtid->coordinator, gtid->incarnation,
                     gtid->epoch, gtid->sequence);
    assert(n > 0 && n <= LS_GTID_MAX);
    if (gtid->participant != 0) {
        int more = snprintf(text + n, (size_t)(LS_GTID_MAX + 1 - n), "-%" PRIu32, gtid->participant);
        assert(more > 0 && n + more <= LS_GTID_MAX);
    }
}

static enum ls_status gtid_parse_part(const char *text, size_t length, struct ls_gtid *ret_gtid) {
    struct ls_gtid gtid = {0};
    const char *end = text + length;
    const char *dots[3] = {0};
    size_t found = 0;
    if (length > LS_GTID_MAX) return LS_ERR_INVALID;
    for (const char *p = text; p < end; p++) {
        if (*p != '.') continue;
        if (found == 3) return LS_ERR_INVALID;
        dots[found++] = p;
    }
    if (found != 3) return LS_ERR_INVALID;

    size_t name_length = (size_t)(dots[0] - text);
    if (!name_part_valid(text, name_length, LS_COORDINATOR_MAX)) return LS_ERR_INVALID;
    memcpy(gtid.coordinator, text, name_length);
    if (!incarnation_valid(dots[0] + 1, (size_t)(dots[1] - dots[0] - 1))) return LS_ERR_INVALID;
    memcpy(gtid.incarnation, dots[0] + 1, LS_INCARNATION_LEN);
    gtid.epoch = (uint32_t)parse_number(dots[1] + 1, (size_t)(dots[2] - dots[1] - 1), UINT32_MAX);
    if (gtid.epoch == 0) return LS_ERR_INVALID;

    const char *sequence = dots[2] + 1;
    const char *dash = memchr(sequence, '-', (size_t)(end - sequence));
    gtid.sequence = parse_number(sequence, (size_t)((dash ? dash : end) - sequence), LS_SEQUENCE_MAX);
    if (gtid.sequence == 0) return LS_ERR_INVALID;
    if (dash) {
        gtid.participant = (uint32_t)parse_number(dash + 1, (size_t)(end - dash - 1), LS_PARTICIPANT_NUMBER_MAX);
        if (gtid.participant == 0) return LS_ERR_INVALID;
    }
    *ret_gtid = gtid;
    return LS_OK;
}

enum ls_status ls_gtid_parse(const char *text, struct ls_gtid *ret_gtid) {
    if (!text) return LS_ERR_INVALID;
    return gtid_parse_part(text, strnlen(text, LS_GTID_MAX + 1), ret_gtid);
}

bool ls_gtid_equal(const struct ls_gtid *a, const struct ls_gtid *b) {
    return a->sequence == b->sequence && a->epoch == b->epoch && a->participant == b->participant &&
           strcmp(a->incarnation, b->incarnation) == 0 && strcmp(a->coordinator, b->coordinator) == 0;
}

/* ---- base64 (RFC 4648, with padding), as the XA forms of the JDBC driver use it ---- */

static const char base64_alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* Appends base64 of `text` at `out`; returns its end. */
static char *base64_put(char *out, const char *text) {
    size_t length = strlen(text);
    for (size_t i = 0; i < length; i += 3) {
        uint32_t group = (uint32_t)(uint8_t)text[i] << 16;
        if (i + 1 < length) group |= (uint32_t)(uint8_t)text[i + 1] << 8;
        if (i + 2 < length) group |= (uint8_t)text[i + 2];
        *out++ = base64_alphabet[group >> 18];
        *out++ = base64_alphabet[(group >> 12) & 63];
        *out++ = i + 1 < length ? base64_alphabet[(group >> 6) & 63] : '=';
        *out++ = i + 2 < length ? base64_alphabet[group & 63] : '=';
    }
    *out = '\0';
    return out;
}

/* Decodes into `out` (at most `max` bytes and a NUL). False for anything malformed; stray bits in the last group are
 * left to the caller, who formats again and compares. */
static bool base64_get(const char *text, size_t length, char *out, size_t max) {
    size_t at = 0;
    if (length == 0 || length % 4 != 0) return false;
    for (size_t i = 0; i < length; i += 4) {
        uint32_t group = 0;
        size_t pad = 0;
        for (size_t j = 0; j < 4; j++) {
            char c = text[i + j];
            const char *digit = c ? strchr(base64_alphabet, c) : NULL;
            if (c == '=' && i + 4 == length && j >= 2) {
                pad++;
            } else if (!digit || pad) {
                return false;
            }
            group = group << 6 | (digit ? (uint32_t)(digit - base64_alphabet) : 0);
        }
        for (size_t j = 0; j < 3 - pad; j++) {
            if (at == max) return false;
            out[at++] = (char)(group >> (16 - 8 * j) & 0xFF);
        }
    }
    out[at] = '\0';
    return strlen(out) == at;
}

void ls_gid_format(enum ls_gid_form form, const char *gtid, const char *participant, char gid[LS_GID_MAX + 1]) {
    assert(strnlen(gtid, LS_GTID_MAX + 1) <= LS_GTID_MAX && gtid[0] != '\0');
    assert(ls_name_valid(participant, LS_PARTICIPANT_MAX));
    if (form == LS_GID_XA) {
        memcpy(gid, XA_PREFIX, XA_PREFIX_LEN);
        char *out = base64_put(gid + XA_PREFIX_LEN, gtid);
        *out++ = '_';
        (void)base64_put(out, participant);
        return;
    }
    assert(form == LS_GID_READABLE);
    int n = snprintf(gid, LS_GID_MAX + 1, GID_PREFIX "%s:%s", gtid, participant);
    assert(n > 0 && n <= LS_GID_MAX);
}

enum ls_status ls_gid_parse(const char *gid, enum ls_gid_form *ret_form, struct ls_gtid *ret_gtid,
                            char ret_participant[LS_PARTICIPANT_MAX + 1]) {
    char gtid_text[LS_GTID_MAX + 1], participant[LS_PARTICIPANT_MAX + 1], again[LS_GID_MAX + 1];
    enum ls_gid_form form;
    struct ls_gtid gtid;
    if (!gid || strnlen(gid, LS_GID_MAX + 1) > LS_GID_MAX) return LS_ERR_INVALID;
    if (strncmp(gid, GID_PREFIX, GID_PREFIX_LEN) == 0) {
        const char *text = gid + GID_PREFIX_LEN;
        const char *colon = strchr(text, ':');
        if (!colon || (size_t)(colon - text) > LS_GTID_MAX) return LS_ERR_INVALID;
        if (!ls_name_valid(colon + 1, LS_PARTICIPANT_MAX)) return LS_ERR_INVALID;
        form = LS_GID_READABLE;
        memcpy(gtid_text, text, (size_t)(colon - text));
        gtid_text[colon - text] = '\0';
        memcpy(participant, colon + 1, strlen(colon + 1) + 1);
    } else if (strncmp(gid, XA_PREFIX, XA_PREFIX_LEN) == 0) {
        const char *text = gid + XA_PREFIX_LEN;
        const char *bar = strchr(text, '_'); /* base64 has no underscore */
        if (!bar || !base64_get(text, (size_t)(bar - text), gtid_text, LS_GTID_MAX)) return LS_ERR_INVALID;
        if (!base64_get(bar + 1, strlen(bar + 1), participant, LS_PARTICIPANT_MAX)) return LS_ERR_INVALID;
        form = LS_GID_XA;
    } else {
        return LS_ERR_INVALID;
    }
    if (ls_gtid_parse(gtid_text, &gtid) != LS_OK || !ls_name_valid(participant, LS_PARTICIPANT_MAX))
        return LS_ERR_INVALID;
    ls_gid_format(form, gtid_text, participant, again);
    if (strcmp(again, gid) != 0) return LS_ERR_INVALID;
    *ret_form = form;
    *ret_gtid = gtid;
    memcpy(ret_participant, participant, sizeof participant);
    return LS_OK;
}
