/*
 * diag.c: builds one line in a buffer on the stack and writes it with one write(2), so that lines of the log's writer
 * thread and of the loop do not mix. Never fails and never blocks on anything but stderr itself: a log line is not
 * worth a daemon.
 */
#include "common/diag.h"

#include <assert.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/text.h"

static const char *const level_words[] = {"debug", "info", "warn", "error"};
static const char *const level_shown[] = {"DEBUG", "INFO ", "WARN ", "ERROR"};
static const char *const format_words[] = {"text", "json"};

static enum diag_level level_now = DIAG_INFO;
static enum diag_format format_now = DIAG_TEXT;
static char program_name[32] = "lockstep";

#define RING 8u
static _Thread_local char number_ring[RING][24];
static _Thread_local char errno_ring[RING][128];
static _Thread_local unsigned number_next, errno_next;

static bool find_word(const char *word, const char *const *words, size_t count, unsigned *ret_index) {
    for (unsigned i = 0; i < count; i++) {
        if (strcmp(word, words[i]) == 0) {
            *ret_index = i;
            return true;
        }
    }
    return false;
}

bool diag_parse_level(const char *word, enum diag_level *ret_level) {
    unsigned index;
    if (!find_word(word, level_words, sizeof level_words / sizeof *level_words, &index)) return false;
    *ret_level = (enum diag_level)index;
    return true;
}

bool diag_parse_format(const char *word, enum diag_format *ret_format) {
    unsigned index;
    if (!find_word(word, format_words, sizeof format_words / sizeof *format_words, &index)) return false;
    *ret_format = (enum diag_format)index;
    return true;
}

void diag_setup(const char *program, enum diag_level level, enum diag_format format) {
    text_copy_line(program_name, sizeof program_name, program);
    level_now = level;
    format_now = format;
}

bool diag_enabled(enum diag_level level) {
    return level >= level_now;
}

struct line {
    size_t length;
    char text[DIAG_LINE_MAX];
};

/* Keeps room for what closes a line: quote, brace, newline. */
#define LINE_ROOM (DIAG_LINE_MAX - 4)

static size_t room(const struct line *line) {
    return line->length < LINE_ROOM ? LINE_ROOM - line->length : 0;
}

static void put(struct line *line, const char *text) {
    size_t length = strlen(text);
    if (length > room(line)) length = room(line);
    memcpy(line->text + line->length, text, length);
    line->length += length;
}

static void put_close(struct line *line, const char *text) {
    size_t length = strlen(text);
    assert(line->length + length <= sizeof line->text);
    memcpy(line->text + line->length, text, length);
    line->length += length;
}

/* Between quotes, escaped as JSON wants it; bytes that are no UTF-8 become '?'. The closing quote is always there. */
static void put_quoted(struct line *line, const char *value) {
    put(line, "\"");
    bool whole = text_utf8_valid(value, strlen(value));
    for (const char *s = value; *s; s++) {
        uint8_t c = (uint8_t)*s;
        char piece[8] = {(char)c, 0};
        if (c == '"' || c == '\\') {
            (void)snprintf(piece, sizeof piece, "\\%c", c);
        } else if (c == '\n') {
            (void)snprintf(piece, sizeof piece, "\\n");
        } else if (c < 0x20 || c == 0x7F) {
            (void)snprintf(piece, sizeof piece, "\\u%04x", c);
        } else if (c >= 0x80 && !whole) {
            piece[0] = '?';
        }
        /* Leave out what does not fit whole: an escape or, with its first byte, a character cut in two. */
        size_t need = c >= 0xC0 && whole ? 4 : strlen(piece);
        if (need > room(line)) break;
        put(line, piece);
    }
    put_close(line, "\"");
}

static bool is_plain(const char *value) {
    if (*value == '\0') return false;
    for (const char *s = value; *s; s++) {
        uint8_t c = (uint8_t)*s;
        if (c <= ' ' || c == '"' || c == '=' || c == '\\' || c == 0x7F || c >= 0x80) return false;
    }
    return true;
}

static void put_time(struct line *line) {
    struct timespec now;
    struct tm parts;
    char text[40];
    (void)clock_gettime(CLOCK_REALTIME, &now);
    (void)gmtime_r(&now.tv_sec, &parts);
    size_t n = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
    (void)snprintf(text + n, sizeof text - n, ".%03ldZ", now.tv_nsec / 1000000);
    put(line, text);
}

static bool is_number(const char *value) {
    return value >= number_ring[0] && value < number_ring[0] + sizeof number_ring;
}

static void build_text(struct line *line, enum diag_level level, const char *message, va_list pairs) {
    put_time(line);
    put(line, " ");
    put(line, level_shown[level]);
    put(line, " ");
    put(line, message);
    for (const char *key; (key = va_arg(pairs, const char *)) != NULL;) {
        const char *value = va_arg(pairs, const char *);
        if (room(line) < strlen(key) + 3) break;
        put(line, " ");
        put(line, key);
        put(line, "=");
        if (!value) value = "";
        if (is_plain(value)) {
            put(line, value);
        } else {
            put_quoted(line, value);
        }
    }
}

static void build_json(struct line *line, enum diag_level level, const char *message, va_list pairs) {
    put(line, "{\"time\":\"");
    put_time(line);
    put(line, "\",\"level\":\"");
    put(line, level_words[level]);
    put(line, "\",\"program\":");
    put_quoted(line, program_name);
    put(line, ",\"message\":");
    put_quoted(line, message);
    for (const char *key; (key = va_arg(pairs, const char *)) != NULL;) {
        const char *value = va_arg(pairs, const char *);
        /* A pair goes in whole as far as its key, quotes and a number are concerned; only a text may be cut. */
        if (room(line) < strlen(key) + 32) break;
        put(line, ",");
        put_quoted(line, key);
        put(line, ":");
        if (value && is_number(value)) {
            put(line, value);
        } else {
            put_quoted(line, value ? value : "");
        }
    }
    put_close(line, "}");
}

static void write_line(enum diag_level level, const char *message, va_list pairs) {
    struct line line;
    line.length = 0;
    if (format_now == DIAG_JSON) {
        build_json(&line, level, message, pairs);
    } else {
        build_text(&line, level, message, pairs);
    }
    put_close(&line, "\n");
    ssize_t written = write(STDERR_FILENO, line.text, line.length);
    (void)written; /* there is nobody left to tell */
}

void diag(enum diag_level level, const char *message, ...) {
    if (!diag_enabled(level)) return;
    va_list pairs;
    va_start(pairs, message);
    write_line(level, message, pairs);
    va_end(pairs);
}

void diag_fatal(int exit_status, const char *message, ...) {
    va_list pairs;
    va_start(pairs, message);
    write_line(DIAG_ERROR, message, pairs);
    va_end(pairs);
    _exit(exit_status);
}

const char *diag_u64(unsigned long long value) {
    char *text = number_ring[number_next++ % RING];
    (void)snprintf(text, sizeof number_ring[0], "%llu", value);
    return text;
}

const char *diag_errno(int error) {
    char *text = errno_ring[errno_next++ % RING];
    const char *known = strerror_r(error, text, sizeof errno_ring[0]); /* the GNU one: may return a constant */
    if (known != text) (void)snprintf(text, sizeof errno_ring[0], "%s", known);
    return text;
}
