/* out.c: see out.h. */
#include "coordinator/api/out.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/text.h"

void out_reset(struct out *out) {
    out->length = 0;
    out->comma = out->failed = false;
}

void out_free(struct out *out) {
    free(out->data);
    *out = (struct out){0};
}

static bool reserve(struct out *out, size_t more) {
    if (out->failed) {
        return false;
    }
    if (out->capacity - out->length >= more) {
        return true;
    }
    size_t capacity = out->capacity == 0 ? 1024 : out->capacity;
    while (capacity - out->length < more) {
        capacity *= 2;
    }
    char *grown = realloc(out->data, capacity);
    if (grown == NULL) {
        out->failed = true;
        return false;
    }
    out->data = grown;
    out->capacity = capacity;
    return true;
}

static void add(struct out *out, const char *text, size_t length) {
    if (length > 0 && reserve(out, length)) {
        memcpy(out->data + out->length, text, length);
        out->length += length;
    }
}

/* Comma and key in front of a value. */
static void begin_value(struct out *out, const char *key) {
    if (out->comma) {
        add(out, ",", 1);
    }
    if (key != NULL) {
        add(out, "\"", 1);
        add(out, key, strlen(key));
        add(out, "\":", 2);
    }
    out->comma = true;
}

void out_open(struct out *out, const char *key, char bracket) {
    begin_value(out, key);
    add(out, &bracket, 1);
    out->comma = false;
}

void out_close(struct out *out, char bracket) {
    add(out, &bracket, 1);
    out->comma = true;
}

static void add_escaped(struct out *out, const char *value, size_t length) {
    static const char hex[] = "0123456789abcdef";
    size_t plain = 0;
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)value[i];
        if (c >= 0x20 && c != '"' && c != '\\') {
            continue;
        }
        add(out, value + plain, i - plain);
        plain = i + 1;
        const char escape[2] = {'\\', (char)c}, code[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
        if (c >= 0x20) {
            add(out, escape, sizeof escape);
        } else {
            add(out, code, sizeof code);
        }
    }
    add(out, value + plain, length - plain);
}

void out_string(struct out *out, const char *key, const char *value) {
    begin_value(out, key);
    if (value == NULL) {
        add(out, "null", 4);
        return;
    }
    size_t length = strlen(value);
    add(out, "\"", 1);
    if (text_utf8_valid(value, length)) {
        add_escaped(out, value, length);
    } else {
        char *clean = malloc(length + 1);
        if (clean == NULL) {
            out->failed = true;
            return;
        }
        text_copy_line(clean, length + 1, value);
        add_escaped(out, clean, strlen(clean));
        free(clean);
    }
    add(out, "\"", 1);
}

void out_u64(struct out *out, const char *key, uint64_t value) {
    char text[24];
    int length = snprintf(text, sizeof text, "%" PRIu64, value);
    begin_value(out, key);
    add(out, text, (size_t)length);
}

void out_bool(struct out *out, const char *key, bool value) {
    begin_value(out, key);
    add(out, value ? "true" : "false", value ? 4 : 5);
}

void out_json(struct out *out, const char *key, const char *json, size_t length) {
    begin_value(out, key);
    add(out, json, length);
}
