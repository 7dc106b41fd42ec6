/* words.c: see words.h. */
#include "tests/scenarios/words.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAMES_MAX 64

struct name {
    char from[96], to[16];
};

struct story_words {
    struct name names[NAMES_MAX];
    size_t name_count;
    char trace[1 << 16], taken[1 << 16];
    size_t length;
    char complaint[256];
};

struct story_words *words_new(void) {
    struct story_words *w = calloc(1, sizeof *w);
    assert(w != NULL);
    return w;
}

void words_free(struct story_words *w) {
    free(w);
}

const char *words_take(struct story_words *w) {
    memcpy(w->taken, w->trace, w->length);
    w->taken[w->length] = '\0';
    w->length = 0;
    return w->taken;
}

const char *words_complaint(const struct story_words *w) {
    return w->complaint;
}

bool words_complain(struct story_words *w, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(w->complaint, sizeof w->complaint, fmt, args);
    va_end(args);
    return false;
}

void words_rename(struct story_words *w, const char *from, const char *to) {
    assert(w->name_count < NAMES_MAX && strlen(from) > strlen(to));
    struct name *name = &w->names[w->name_count++];
    (void)snprintf(name->from, sizeof name->from, "%s", from);
    (void)snprintf(name->to, sizeof name->to, "%s", to);
}

/* Longer names first: "...1.1" is the beginning of "...1.12". */
static void rename_all(const struct story_words *w, char *text) {
    for (size_t i = 0; i < w->name_count; i++) {
        const char *from = w->names[i].from, *to = w->names[i].to;
        char *at = text;
        while ((at = strstr(at, from)) != NULL) {
            char *behind = at + strlen(from);
            if ((*behind >= '0' && *behind <= '9') || *behind == '-') { /* a longer name that begins so */
                at = behind;
                continue;
            }
            memcpy(at, to, strlen(to));
            memmove(at + strlen(to), behind, strlen(behind) + 1);
        }
    }
}

void words_say(struct story_words *w, const char *fmt, ...) {
    char line[2048];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    rename_all(w, line);
    int length = snprintf(w->trace + w->length, sizeof w->trace - w->length, "%s\n", line);
    w->length += (size_t)length;
    assert(w->length < sizeof w->trace);
}

size_t words_length(const struct story_words *w) {
    return w->length;
}

void words_bring_forward(struct story_words *w, size_t to, size_t from) {
    assert(to <= from && from <= w->length);
    size_t moved = w->length - from;
    char *keep = malloc(moved + 1);
    assert(keep != NULL);
    memcpy(keep, w->trace + from, moved);
    memmove(w->trace + to + moved, w->trace + to, from - to);
    memcpy(w->trace + to, keep, moved);
    free(keep);
}

size_t words_split(char *command, char *words[WORDS_MAX]) {
    size_t count = 0;
    for (char *at = command; *at != '\0' && count < WORDS_MAX;) {
        at += strspn(at, " ");
        if (*at == '\0') break;
        bool quoted = *at == '"';
        words[count++] = quoted ? ++at : at;
        at += strcspn(at, quoted ? "\"" : " ");
        if (*at != '\0') *at++ = '\0';
    }
    return count;
}

const char *words_option(char *words[], size_t count, const char *key) {
    size_t length = strlen(key);
    for (size_t i = 0; i < count; i++)
        if (strncmp(words[i], key, length) == 0 && words[i][length] == '=') return words[i] + length + 1;
    return NULL;
}

uint64_t words_number(char *words[], size_t count, const char *key, uint64_t otherwise) {
    const char *value = words_option(words, count, key);
    return value != NULL ? strtoull(value, NULL, 10) : otherwise;
}

uint64_t words_duration(const char *text) {
    char *end;
    uint64_t value = strtoull(text, &end, 10);
    return strcmp(end, "ms") == 0 ? value * 1000 : value * 1000000;
}
