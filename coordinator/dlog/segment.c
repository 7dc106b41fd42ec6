/* segment.c: see segment.h. */
#include "coordinator/dlog/segment.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(LS_LOG_RECORD_MAX <= SEGMENT_WINDOW && FORMAT_BLOCK <= SEGMENT_WINDOW,
               "the window holds the largest thing asked for");

/* ----------------------------------------------------------------- names */

void segment_name(uint64_t number, char name[SEGMENT_NAME_BYTES]) {
    (void)snprintf(name, SEGMENT_NAME_BYTES, "%016" PRIx64 ".seg", number);
}

void segment_spare_name(uint32_t id, char name[SEGMENT_NAME_BYTES]) {
    (void)snprintf(name, SEGMENT_NAME_BYTES, "free-%08" PRIx32 ".seg", id);
}

void segment_unready_name(uint32_t id, char name[SEGMENT_NAME_BYTES]) {
    (void)snprintf(name, SEGMENT_NAME_BYTES, "new-%08" PRIx32 ".tmp", id);
}

enum segment_kind segment_parse_name(const char *name, uint64_t *ret_number) {
    static const struct {
        const char *prefix, *suffix;
        size_t digits;
        enum segment_kind kind;
    } forms[] = {
        {"", ".seg", 16, SEGMENT_LOG}, {"free-", ".seg", 8, SEGMENT_SPARE}, {"new-", ".tmp", 8, SEGMENT_UNREADY}};
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        size_t prefix = strlen(forms[i].prefix);
        if (strlen(name) != prefix + forms[i].digits + strlen(forms[i].suffix) ||
            memcmp(name, forms[i].prefix, prefix) != 0 ||
            strspn(name + prefix, "0123456789abcdef") != forms[i].digits ||
            strcmp(name + prefix + forms[i].digits, forms[i].suffix) != 0) {
            continue;
        }
        *ret_number = strtoull(name + prefix, NULL, 16);
        return forms[i].kind;
    }
    return SEGMENT_OTHER;
}

char *segment_directory(const char *data_dir) {
    char *dir = NULL;
    return asprintf(&dir, "%s/log", data_dir) < 0 ? NULL : dir;
}

/* ------------------------------------------------------------------ file */

enum ls_status segment_open(struct segment_file *s, const struct dlog_io *io, const char *dir, const char *name,
                            struct ls_error *err) {
    if (s->window == NULL) {
        s->capacity = SEGMENT_WINDOW;
        s->window = malloc(s->capacity);
        if (s->window == NULL) {
            return ls_fail(err, LS_ERR_NOMEM, "no memory to read the log");
        }
    }
    int file = io->open(io->context, dir, name, false, false);
    if (file < 0) {
        return ls_fail(err, file == -ENOENT ? LS_ERR_NOT_FOUND : LS_ERR_IO, "cannot open %s/%s: %s", dir, name,
                       strerror(-file));
    }
    int64_t bytes = io->size(io->context, file);
    if (bytes < 0) {
        (void)io->close(io->context, file);
        return ls_fail(err, LS_ERR_IO, "cannot learn the size of %s/%s: %s", dir, name, strerror((int)-bytes));
    }
    s->io = io;
    s->file = file;
    s->bytes = (uint64_t)bytes;
    s->from = 0;
    s->filled = 0;
    return LS_OK;
}

void segment_close(struct segment_file *s) {
    if (s->io != NULL && s->file >= 0) {
        (void)s->io->close(s->io->context, s->file); /* only read from: nothing can be lost */
        s->file = -1;
    }
}

void segment_free(struct segment_file *s) {
    segment_close(s);
    free(s->window);
    memset(s, 0, sizeof *s);
    s->file = -1;
}

enum ls_status segment_bytes(struct segment_file *s, uint64_t offset, size_t length, const uint8_t **ret_bytes,
                             struct ls_error *err) {
    assert(length <= s->capacity && offset <= s->bytes && length <= s->bytes - offset);
    if (offset < s->from || offset - s->from > s->filled || length > s->filled - (offset - s->from)) {
        s->from = offset;
        s->filled = 0;
        size_t want = s->bytes - offset < s->capacity ? (size_t)(s->bytes - offset) : s->capacity;
        while (s->filled < want) {
            ssize_t got =
                s->io->pread(s->io->context, s->file, s->window + s->filled, want - s->filled, offset + s->filled);
            if (got == -EINTR) {
                continue;
            }
            if (got <= 0) {
                s->filled = 0;
                return ls_fail(err, LS_ERR_IO, "cannot read the log: %s",
                               got == 0 ? "file became shorter" : strerror((int)-got));
            }
            s->filled += (size_t)got;
        }
    }
    *ret_bytes = s->window + (offset - s->from);
    return LS_OK;
}

enum ls_status segment_header(struct segment_file *s, struct format_header *ret_header, enum format_answer *ret_answer,
                              struct ls_error *err) {
    if (s->bytes < FORMAT_BLOCK) {
        *ret_answer = FORMAT_BAD;
        return LS_OK;
    }
    const uint8_t *block;
    enum ls_status status = segment_bytes(s, 0, FORMAT_BLOCK, &block, err);
    if (status == LS_OK) {
        *ret_answer = format_decode_header(block, ret_header);
    }
    return status;
}

/* ------------------------------------------------------------------ walk */

void segment_walk_begin(struct segment_walk *walk, const struct format_header *header) {
    walk->position = header->position + FORMAT_BLOCK;
    walk->sequence = header->sequence;
    walk->chain = header->checksum;
    walk->proven = header->durable > walk->proven ? header->durable : walk->proven;
}

/* A self-valid record at `position`, or none (ret_record->checksum 0 and LS_OK). */
static enum ls_status record_at(struct segment_file *s, const struct format_header *h, uint64_t seed, uint64_t position,
                                uint64_t end, struct format_record *ret_record, const uint8_t **ret_payload,
                                bool *ret_found, struct ls_error *err) {
    *ret_found = false;
    uint64_t offset = position - h->position;
    if (end - position < FORMAT_RECORD_HEADER) {
        return LS_OK;
    }
    const uint8_t *bytes;
    enum ls_status status = segment_bytes(s, offset, FORMAT_RECORD_HEADER, &bytes, err);
    if (status != LS_OK) {
        return status;
    }
    uint32_t length = format_peek_length(bytes);
    if (length > LS_LOG_RECORD_MAX - FORMAT_RECORD_HEADER || format_record_size(length) > end - position) {
        return LS_OK;
    }
    status = segment_bytes(s, offset, format_record_size(length), &bytes, err);
    if (status == LS_OK && format_check_record(bytes, end - position, seed, position, ret_record)) {
        *ret_payload = bytes + FORMAT_RECORD_HEADER;
        *ret_found = true;
    }
    return status;
}

static uint64_t stream_end(const struct segment_file *s, const struct format_header *h) {
    return h->position + (s->bytes < h->segment_bytes ? s->bytes : h->segment_bytes);
}

enum ls_status segment_walk(struct segment_file *s, const struct format_header *h, uint64_t limit,
                            struct segment_walk *walk, dlog_visit visit, void *context, struct ls_error *err) {
    uint64_t seed = format_seed(h->incarnation, h->number);
    uint64_t end = stream_end(s, h) < limit ? stream_end(s, h) : limit;
    while (walk->position < end) {
        struct format_record r;
        const uint8_t *payload = NULL;
        bool found;
        enum ls_status status = record_at(s, h, seed, walk->position, end, &r, &payload, &found, err);
        if (status != LS_OK) {
            return status;
        }
        if (!found || r.previous != walk->chain || r.sequence != walk->sequence) {
            return LS_OK;
        }
        if (r.type < DLOG_EPOCH || r.type > DLOG_TYPE_LAST || r.flags != 0) {
            return ls_fail(err, LS_ERR_CORRUPT,
                           "record at %" PRIu64 " has type %u, flags %u: written by a newer lockstep", r.position,
                           r.type, r.flags);
        }
        struct dlog_record record = {.type = (enum dlog_type)r.type,
                                     .position = r.position,
                                     .sequence = r.sequence,
                                     .end = r.position + format_record_size(r.length),
                                     .durable = r.durable,
                                     .chain = r.checksum,
                                     .payload = payload,
                                     .length = r.length};
        walk->position = record.end;
        walk->sequence++;
        walk->chain = r.checksum;
        walk->proven = r.durable > walk->proven ? r.durable : walk->proven;
        walk->records++;
        if (visit != NULL && (status = visit(context, &record)) != LS_OK) {
            return status;
        }
    }
    return LS_OK;
}

enum ls_status segment_inspect_rest(struct segment_file *s, const struct format_header *h, struct segment_walk *walk,
                                    uint64_t *ret_end, struct ls_error *err) {
    uint64_t seed = format_seed(h->incarnation, h->number), end = stream_end(s, h), last = walk->position;
    for (uint64_t position = walk->position; position + 8 <= end; position += 8) {
        const uint8_t *bytes;
        enum ls_status status = segment_bytes(s, position - h->position, 8, &bytes, err);
        if (status != LS_OK) {
            return status;
        }
        uint64_t word;
        memcpy(&word, bytes, sizeof word);
        if (word == 0) {
            continue;
        }
        last = position + 8;
        struct format_record r;
        const uint8_t *payload;
        bool found;
        status = record_at(s, h, seed, position, end, &r, &payload, &found, err);
        if (status != LS_OK) {
            return status;
        }
        if (found && r.durable > walk->proven) {
            walk->proven = r.durable;
        }
    }
    *ret_end = last;
    return LS_OK;
}
