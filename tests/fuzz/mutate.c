/* mutate.c: see mutate.h. */
#include "tests/fuzz/mutate.h"

#include <stdbool.h>
#include <string.h>

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);

enum { ITEMS_MAX = 64, DEPTH_MAX = 12, BYTES_MAX = 16384 };

struct item {
    const uint8_t *begin, *content, *end; /* tag and length, then the content */
    size_t tag;                           /* bytes of the tag alone */
    bool measured;                        /* has a length; else a varint */
};

struct encoding {
    bool (*take)(const uint8_t *at, const uint8_t *end, struct item *ret_item);
    size_t (*put_length)(size_t length, uint8_t out[10]);
};

static unsigned draw(unsigned *seed, unsigned below) {
    *seed = *seed * 1103515245u + 12345u;
    return (*seed >> 16) % below;
}

static size_t put_varint(uint64_t value, uint8_t out[10]) {
    size_t n = 0;
    for (; value >= 0x80; value >>= 7) out[n++] = (uint8_t)(value | 0x80);
    out[n++] = (uint8_t)value;
    return n;
}

static size_t varint_length(size_t length, uint8_t out[10]) {
    return put_varint(length, out);
}

static bool take_varint(const uint8_t **at, const uint8_t *end, uint64_t *ret_value) {
    *ret_value = 0;
    for (unsigned shift = 0; shift < 64 && *at < end; shift += 7) {
        uint8_t byte = *(*at)++;
        *ret_value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) return true;
    }
    return false;
}

static bool take_field(const uint8_t *at, const uint8_t *end, struct item *item) {
    uint64_t key, length = 0;
    item->begin = at;
    if (!take_varint(&at, end, &key) || key >> 3 == 0) return false;
    item->tag = (size_t)(at - item->begin);
    item->content = at;
    item->measured = (key & 7) == 2;
    switch (key & 7) {
    case 0:
        if (!take_varint(&at, end, &length)) return false;
        item->end = at;
        return true;
    case 1:
    case 5:
        length = (key & 7) == 1 ? 8 : 4;
        break;
    case 2:
        if (!take_varint(&at, end, &length)) return false;
        item->content = at;
        break;
    default:
        return false;
    }
    if (length > (uint64_t)(end - at)) return false;
    item->end = at + length;
    return true;
}

static size_t der_length(size_t length, uint8_t out[10]) {
    if (length < 0x80) {
        out[0] = (uint8_t)length;
        return 1;
    }
    size_t bytes = length < 0x100 ? 1 : length < 0x10000 ? 2 : 3;
    out[0] = (uint8_t)(0x80 | bytes);
    for (size_t i = 0; i < bytes; i++) out[1 + i] = (uint8_t)(length >> (8 * (bytes - 1 - i)));
    return bytes + 1;
}

static bool take_tlv(const uint8_t *at, const uint8_t *end, struct item *item) {
    item->begin = at;
    item->tag = 1;
    item->measured = true;
    if (end - at < 2 || (at[0] & 0x1f) == 0x1f) return false;
    size_t length = at[1];
    at += 2;
    if (length >= 0x80) {
        size_t bytes = length & 0x7f;
        if (bytes == 0 || bytes > 3 || (size_t)(end - at) < bytes) return false;
        for (length = 0; bytes > 0; bytes--) length = length << 8 | *at++;
    }
    if (length > (size_t)(end - at)) return false;
    item->content = at;
    item->end = at + length;
    return true;
}

struct output {
    uint8_t *at, *end;
    bool full;
};

static void put(struct output *out, const uint8_t *bytes, size_t length) {
    if (out->full || length > (size_t)(out->end - out->at)) {
        out->full = true;
    } else if (length > 0) {
        memcpy(out->at, bytes, length);
        out->at += length;
    }
}

static size_t split(const struct encoding *encoding, const uint8_t *data, size_t size, struct item items[ITEMS_MAX]) {
    size_t count = 0;
    for (const uint8_t *at = data, *end = data + size; at < end; at = items[count - 1].end) {
        if (count == ITEMS_MAX || !encoding->take(at, end, &items[count++])) return 0;
    }
    return count;
}

static void change(const struct encoding *encoding, const uint8_t *data, size_t size, struct output *out,
                   unsigned depth, unsigned *seed);

static void change_item(const struct encoding *encoding, const struct item *item, struct output *out, unsigned depth,
                        unsigned *seed) {
    static const uint64_t numbers[] = {0, 1, 2, 3, 127, 128, 9999, 10000, UINT32_MAX, (uint64_t)1 << 32, UINT64_MAX};
    uint8_t inner[BYTES_MAX], length[10];
    put(out, item->begin, item->tag);
    if (item->measured) {
        struct output content = {inner, inner + sizeof inner, false};
        change(encoding, item->content, (size_t)(item->end - item->content), &content, depth + 1, seed);
        out->full |= content.full;
        put(out, length, encoding->put_length((size_t)(content.at - inner), length));
        put(out, inner, (size_t)(content.at - inner));
    } else if (encoding->take == take_field && item->end - item->content <= 10 && draw(seed, 2) == 0) {
        put(out, length, put_varint(numbers[draw(seed, sizeof numbers / sizeof *numbers)], length));
    } else {
        size_t n = (size_t)(item->end - item->content);
        memcpy(inner, item->content, n);
        put(out, inner, LLVMFuzzerMutate(inner, n, n));
    }
}

static void change(const struct encoding *encoding, const uint8_t *data, size_t size, struct output *out,
                   unsigned depth, unsigned *seed) {
    struct item items[ITEMS_MAX];
    size_t count = depth < DEPTH_MAX ? split(encoding, data, size, items) : 0;
    if (count == 0 || draw(seed, 12) == 0) {
        size_t room = (size_t)(out->end - out->at);
        if (out->full || size > room) {
            out->full = true;
            return;
        }
        if (size > 0) memcpy(out->at, data, size);
        out->at += LLVMFuzzerMutate(out->at, size, room);
        return;
    }
    size_t chosen = draw(seed, (unsigned)count);
    unsigned act = draw(seed, 16); /* 0: leave out; 1: twice; 2: swap with the first; else change */
    for (size_t i = 0; i < count; i++) {
        const struct item *item = &items[act == 2 && i == chosen ? 0 : act == 2 && i == 0 ? chosen : i];
        if (i == chosen && act > 2) {
            change_item(encoding, item, out, depth, seed);
            continue;
        }
        for (unsigned n = i == chosen ? (act == 0 ? 0 : act == 1 ? 2 : 1) : 1; n > 0; n--)
            put(out, item->begin, (size_t)(item->end - item->begin));
    }
}

static size_t mutate(const struct encoding *encoding, uint8_t *data, size_t size, size_t max, unsigned seed) {
    static uint8_t bytes[BYTES_MAX];
    struct output out = {bytes, bytes + (max < BYTES_MAX ? max : BYTES_MAX), false};
    change(encoding, data, size, &out, 0, &seed);
    if (out.full) return LLVMFuzzerMutate(data, size, max);
    size_t length = (size_t)(out.at - bytes);
    if (length > 0) memcpy(data, bytes, length);
    return length;
}

size_t mutate_protobuf(uint8_t *data, size_t size, size_t max, unsigned seed) {
    static const struct encoding protobuf = {take_field, varint_length};
    return mutate(&protobuf, data, size, max, seed);
}

size_t mutate_der(uint8_t *data, size_t size, size_t max, unsigned seed) {
    static const struct encoding der = {take_tlv, der_length};
    return mutate(&der, data, size, max, seed);
}
