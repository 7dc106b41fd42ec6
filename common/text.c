/*
 * text.c: one decoder step, used by everything here. The well-formed sequences are those of Unicode, table 3-7.
 */
#include "common/text.h"

#include <stdint.h>
#include <string.h>

/* Bytes of the character at `s` (of `left` bytes), 0 if it is none. */
static size_t utf8_step(const uint8_t *s, size_t left) {
    uint8_t low = 0x80, high = 0xBF;
    size_t need;
    if (s[0] == 0) return 0;
    if (s[0] < 0x80) return 1;
    if (s[0] >= 0xC2 && s[0] <= 0xDF) {
        need = 2;
    } else if (s[0] >= 0xE0 && s[0] <= 0xEF) {
        need = 3;
        if (s[0] == 0xE0) low = 0xA0;  /* overlong below */
        if (s[0] == 0xED) high = 0x9F; /* surrogates above */
    } else if (s[0] >= 0xF0 && s[0] <= 0xF4) {
        need = 4;
        if (s[0] == 0xF0) low = 0x90;
        if (s[0] == 0xF4) high = 0x8F;
    } else {
        return 0;
    }
    if (left < need || s[1] < low || s[1] > high) return 0;
    for (size_t i = 2; i < need; i++) {
        if (s[i] < 0x80 || s[i] > 0xBF) return 0;
    }
    return need;
}

bool text_utf8_valid(const char *text, size_t length) {
    const uint8_t *s = (const uint8_t *)text;
    size_t at = 0;
    while (at < length) {
        size_t step = utf8_step(s + at, length - at);
        if (step == 0) return false;
        at += step;
    }
    return true;
}

void text_copy_line(char *out, size_t size, const char *text) {
    const uint8_t *s = (const uint8_t *)(text ? text : "");
    size_t left = strlen((const char *)s), at = 0;
    if (size == 0) return;
    while (left > 0) {
        size_t step = utf8_step(s, left);
        size_t width = step ? step : 1;
        if (at + width >= size) break;
        if (step == 0) {
            out[at] = '?';
        } else if (step == 1 && (s[0] < 0x20 || s[0] == 0x7F)) {
            out[at] = ' ';
        } else {
            memcpy(out + at, s, step);
        }
        at += width;
        s += width;
        left -= width;
    }
    out[at] = '\0';
}

size_t text_cut(const char *text, size_t length, size_t max) {
    if (length <= max) return length;
    while (max > 0 && ((uint8_t)text[max] & 0xC0) == 0x80) max--;
    return max;
}
