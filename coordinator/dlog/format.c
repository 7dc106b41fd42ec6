/* format.c: see format.h. */
#include "coordinator/dlog/format.h"

#include <assert.h>
#include <string.h>
#include <xxhash.h>

static const char magic[8] = {'L', 'O', 'C', 'K', 'S', 'L', 'O', 'G'};
const uint8_t format_relogged[FORMAT_COMMIT_COPY_EXTRA] = {FORMAT_FIELD_RELOGGED << 3, 1};

enum {
    H_CHECKSUM = 8,
    H_PREVIOUS = 16,
    H_POSITION = 24,
    H_SEQUENCE = 32,
    H_DURABLE = 40,
    H_VERSION = 48,
    H_BLOCK = 52,
    H_NUMBER = 56,
    H_BYTES = 64,
    H_FIRST = 72,
    H_RUNNING = 80,
    H_INCARNATION = 88,
    H_COORDINATOR = 104,
    H_ZEROS = 128
};
enum {
    R_CHECKSUM = 0,
    R_PREVIOUS = 8,
    R_POSITION = 16,
    R_SEQUENCE = 24,
    R_DURABLE = 32,
    R_LENGTH = 40,
    R_TYPE = 44,
    R_FLAGS = 46
};

_Static_assert(LS_INCARNATION_LEN < H_COORDINATOR - H_INCARNATION, "the incarnation fits, with a NUL");
_Static_assert(LS_COORDINATOR_MAX < H_ZEROS - H_COORDINATOR, "the name fits, with a NUL");
_Static_assert(LS_LOG_RECORD_MAX % 8 == 0 && FORMAT_RECORD_HEADER % 8 == 0 && FORMAT_BLOCK % 8 == 0,
               "everything is 8-aligned");

static void put(uint8_t *at, uint64_t value, unsigned bytes) {
    for (unsigned i = 0; i < bytes; i++) {
        at[i] = (uint8_t)(value >> (8 * i));
    }
}

static uint64_t get(const uint8_t *at, unsigned bytes) {
    uint64_t value = 0;
    for (unsigned i = bytes; i-- > 0;) {
        value = value << 8 | at[i];
    }
    return value;
}

static bool all_zero(const uint8_t *bytes, size_t length) {
    return length == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0); /* each equals the next */
}

/* ---------------------------------------------------------------- header */

void format_encode_header(const struct format_header *h, uint8_t block[FORMAT_BLOCK], uint64_t *ret_checksum) {
    memset(block, 0, FORMAT_BLOCK);
    memcpy(block, magic, sizeof magic);
    put(block + H_PREVIOUS, h->previous, 8);
    put(block + H_POSITION, h->position, 8);
    put(block + H_SEQUENCE, h->sequence, 8);
    put(block + H_DURABLE, h->durable, 8);
    put(block + H_VERSION, FORMAT_VERSION, 4);
    put(block + H_BLOCK, FORMAT_BLOCK, 4);
    put(block + H_NUMBER, h->number, 8);
    put(block + H_BYTES, h->segment_bytes, 8);
    put(block + H_FIRST, h->first_segment, 8);
    put(block + H_RUNNING, h->running_ms, 8);
    memcpy(block + H_INCARNATION, h->incarnation, strlen(h->incarnation));
    memcpy(block + H_COORDINATOR, h->coordinator, strlen(h->coordinator));
    uint64_t checksum = XXH3_64bits(block + H_PREVIOUS, FORMAT_BLOCK - H_PREVIOUS);
    put(block + H_CHECKSUM, checksum, 8);
    *ret_checksum = checksum;
}

static bool copy_name(char *to, size_t max, const uint8_t *from, size_t field) {
    size_t length = strnlen((const char *)from, field);
    if (length == 0 || length > max || !all_zero(from + length, field - length)) {
        return false;
    }
    memcpy(to, from, length);
    to[length] = '\0';
    return true;
}

enum format_answer format_decode_header(const uint8_t block[FORMAT_BLOCK], struct format_header *ret_header) {
    if (all_zero(block, FORMAT_BLOCK)) {
        return FORMAT_BLANK;
    }
    struct format_header h = {.checksum = get(block + H_CHECKSUM, 8),
                              .previous = get(block + H_PREVIOUS, 8),
                              .position = get(block + H_POSITION, 8),
                              .sequence = get(block + H_SEQUENCE, 8),
                              .durable = get(block + H_DURABLE, 8),
                              .number = get(block + H_NUMBER, 8),
                              .segment_bytes = get(block + H_BYTES, 8),
                              .first_segment = get(block + H_FIRST, 8),
                              .running_ms = get(block + H_RUNNING, 8)};
    if (memcmp(block, magic, sizeof magic) != 0 ||
        XXH3_64bits(block + H_PREVIOUS, FORMAT_BLOCK - H_PREVIOUS) != h.checksum) {
        return FORMAT_BAD;
    }
    if (get(block + H_VERSION, 4) != FORMAT_VERSION) {
        return FORMAT_NEWER;
    }
    if (get(block + H_BLOCK, 4) != FORMAT_BLOCK || h.number == 0 || h.position % 8 != 0 || h.durable > h.position ||
        h.segment_bytes % FORMAT_BLOCK != 0 || h.segment_bytes < LS_SEGMENT_BYTES_MIN ||
        h.segment_bytes > LS_SEGMENT_BYTES_MAX || h.first_segment == 0 || h.first_segment > h.number ||
        h.sequence == 0 ||
        !copy_name(h.incarnation, LS_INCARNATION_LEN, block + H_INCARNATION, H_COORDINATOR - H_INCARNATION) ||
        !copy_name(h.coordinator, LS_COORDINATOR_MAX, block + H_COORDINATOR, H_ZEROS - H_COORDINATOR) ||
        !all_zero(block + H_ZEROS, FORMAT_BLOCK - H_ZEROS)) {
        return FORMAT_BAD;
    }
    *ret_header = h;
    return FORMAT_GOOD;
}

/* --------------------------------------------------------------- records */

uint64_t format_seed(const char incarnation[LS_INCARNATION_LEN + 1], uint64_t number) {
    uint8_t bytes[LS_INCARNATION_LEN + 8] = {0};
    memcpy(bytes, incarnation, strlen(incarnation)); /* NOLINT(bugprone-not-null-terminated-result): bytes, no text */
    put(bytes + LS_INCARNATION_LEN, number, 8);
    return XXH3_64bits(bytes, sizeof bytes);
}

void format_begin_record(uint8_t *out, uint16_t type, const void *payload, size_t length, const void *extra,
                         size_t extra_length) {
    size_t size = format_record_size(length + extra_length);
    assert(size <= LS_LOG_RECORD_MAX);
    memset(out, 0, FORMAT_RECORD_HEADER);
    put(out + R_LENGTH, length + extra_length, 4);
    put(out + R_TYPE, type, 2);
    uint8_t *at = out + FORMAT_RECORD_HEADER;
    if (length > 0) {
        memcpy(at, payload, length);
        at += length;
    }
    if (extra_length > 0) {
        memcpy(at, extra, extra_length);
        at += extra_length;
    }
    memset(at, 0, (size_t)(out + size - at));
}

uint32_t format_peek_length(const uint8_t *record) {
    return (uint32_t)get(record + R_LENGTH, 4);
}

uint32_t format_peek_type(const uint8_t *record) {
    return (uint32_t)get(record + R_TYPE, 2);
}

uint64_t format_seal_record(uint8_t *record, uint64_t seed, uint64_t previous, uint64_t position, uint64_t sequence,
                            uint64_t durable) {
    assert(durable <= position && position % 8 == 0);
    put(record + R_PREVIOUS, previous, 8);
    put(record + R_POSITION, position, 8);
    put(record + R_SEQUENCE, sequence, 8);
    put(record + R_DURABLE, durable, 8);
    size_t size = format_record_size(format_peek_length(record));
    uint64_t checksum = XXH3_64bits_withSeed(record + R_PREVIOUS, size - R_PREVIOUS, seed);
    put(record + R_CHECKSUM, checksum, 8);
    return checksum;
}

bool format_check_record(const uint8_t *data, uint64_t available, uint64_t seed, uint64_t position,
                         struct format_record *ret_record) {
    if (available < FORMAT_RECORD_HEADER || get(data + R_POSITION, 8) != position) {
        return false;
    }
    uint32_t length = format_peek_length(data);
    size_t size = format_record_size(length);
    if (length > LS_LOG_RECORD_MAX || size > LS_LOG_RECORD_MAX || size > available) {
        return false;
    }
    struct format_record r = {.checksum = get(data + R_CHECKSUM, 8),
                              .previous = get(data + R_PREVIOUS, 8),
                              .position = position,
                              .sequence = get(data + R_SEQUENCE, 8),
                              .durable = get(data + R_DURABLE, 8),
                              .length = length,
                              .type = (uint16_t)get(data + R_TYPE, 2),
                              .flags = (uint16_t)get(data + R_FLAGS, 2)};
    if (r.durable > position || XXH3_64bits_withSeed(data + R_PREVIOUS, size - R_PREVIOUS, seed) != r.checksum) {
        return false;
    }
    *ret_record = r;
    return true;
}

/* -------------------------------------------------------------- payloads */

static bool read_varint(const uint8_t **at, const uint8_t *end, uint64_t *ret_value) {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (*at == end) {
            return false;
        }
        uint8_t byte = *(*at)++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if ((byte & 0x80) == 0) {
            *ret_value = value;
            return true;
        }
    }
    return false;
}

bool format_read_fields(const uint8_t *payload, size_t length, struct format_fields *ret_fields) {
    struct format_fields fields = {.value = {0}};
    const uint8_t *at = payload, *end = payload + length;
    while (at < end) {
        uint64_t key, value = 0;
        if (!read_varint(&at, end, &key)) {
            return false;
        }
        uint64_t field = key >> 3, skip = 0;
        switch (key & 7) {
        case 0: /* varint */
            if (!read_varint(&at, end, &value)) {
                return false;
            }
            if (field < FORMAT_FIELDS) {
                fields.value[field] = value;
                fields.present[field] = true;
            }
            break;
        case 1:
            skip = 8;
            break;
        case 2: /* bytes */
            if (!read_varint(&at, end, &skip)) {
                return false;
            }
            break;
        case 5:
            skip = 4;
            break;
        default:
            return false; /* groups are not used, 6 and 7 do not exist */
        }
        if (field == 0 || skip > (uint64_t)(end - at)) {
            return false;
        }
        at += skip;
    }
    *ret_fields = fields;
    return true;
}
