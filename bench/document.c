/* document.c: see document.h. */
#include "bench/document.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

struct writer {
    char *out;
    size_t size, used;
    bool full;
};

static void put(struct writer *writer, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void put(struct writer *writer, const char *format, ...) {
    va_list args;

    if (writer->full) return;
    va_start(args, format);
    int length = vsnprintf(writer->out + writer->used, writer->size - writer->used, format, args);
    va_end(args);
    writer->full = length < 0 || (size_t)length >= writer->size - writer->used;
    writer->used += writer->full ? 0 : (size_t)length;
}

static void put_action(struct writer *writer, const char *sql, const struct work_values *values) {
    put(writer, "{\"sql\":\"%s\",\"args\":[", sql);
    for (uint32_t i = 0; i < values->count; i++) {
        const char *quote = (values->quoted & 1u << i) != 0 ? "\"" : "";
        put(writer, "%s%s%s%s", i == 0 ? "" : ",", quote, values->items[i], quote);
    }
    put(writer, "]");
}

size_t document_write(char *out, size_t size, const char *mode, bool undo, bool in_order, const struct work *work,
                      const char *const *participants, const char *head, const char *more) {
    struct writer writer = {.size = size};

    writer.out = out;
    put(&writer, "{\"mode\":\"%s\",%s\"steps\":[", mode, head);
    for (uint32_t i = 0; i < work->part_count; i++) {
        const struct work_part *part = &work->parts[i];
        put(&writer, "%s{\"name\":\"%s\",\"on\":\"%s\",\"do\":", i == 0 ? "" : ",", part->name,
            participants[part->database]);
        put_action(&writer, part->statement->sql, &part->values);
        put(&writer, ",\"expect_rows\":1}");
        if (in_order && i > 0) put(&writer, ",\"after\":\"%s\"", work->parts[i - 1].name);
        if (undo && part->statement->undo != NULL) {
            put(&writer, ",\"undo\":");
            put_action(&writer, part->statement->undo, &part->undo);
            put(&writer, "}");
        }
        put(&writer, "}");
    }
    put(&writer, "%s]}", more);
    return writer.full ? 0 : writer.used;
}
