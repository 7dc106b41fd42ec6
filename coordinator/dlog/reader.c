/* reader.c: see reader.h. */
#include "coordinator/dlog/reader.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- verdict */

static void corrupt(struct reader *r, uint64_t number, uint64_t position, const char *fmt, ...) LS_PRINTF(4, 5);
static void corrupt(struct reader *r, uint64_t number, uint64_t position, const char *fmt, ...) {
    struct dlog_report *report = &r->report;
    report->verdict = DLOG_CORRUPT;
    report->bad_position = position;
    segment_name(number, report->bad_segment);
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(report->why, sizeof report->why, fmt, args);
    va_end(args);
}

static bool is_corrupt(const struct reader *r) {
    return r->report.verdict == DLOG_CORRUPT;
}

/* ---------------------------------------------------------------- listing */

struct listing {
    struct reader *reader;
    bool no_memory;
};

static bool add_id(struct reader_ids *ids, uint32_t id) {
    if (ids->count == ids->capacity) {
        size_t capacity = ids->capacity == 0 ? 16 : ids->capacity * 2;
        uint32_t *list = realloc(ids->list, capacity * sizeof *list);
        if (list == NULL) {
            return false;
        }
        ids->list = list;
        ids->capacity = capacity;
    }
    ids->list[ids->count++] = id;
    return true;
}

static bool add_segment(struct reader *r, uint64_t number) {
    if (r->count == r->capacity) {
        size_t capacity = r->capacity == 0 ? 64 : r->capacity * 2;
        struct reader_segment *segments = realloc(r->segments, capacity * sizeof *segments);
        if (segments == NULL) {
            return false;
        }
        r->segments = segments;
        r->capacity = capacity;
    }
    r->segments[r->count++] = (struct reader_segment){.number = number, .answer = FORMAT_BAD};
    return true;
}

static void on_name(void *arg, const char *name) {
    struct listing *listing = arg;
    struct reader *r = listing->reader;
    uint64_t number = 0;
    bool ok = true;
    switch (segment_parse_name(name, &number)) {
    case SEGMENT_LOG:
        ok = add_segment(r, number);
        break;
    case SEGMENT_SPARE:
        ok = add_id(&r->spares, (uint32_t)number);
        break;
    case SEGMENT_UNREADY:
        ok = add_id(&r->unready, (uint32_t)number);
        break;
    case SEGMENT_OTHER:
        break;
    }
    listing->no_memory |= !ok;
}

static int compare_segments(const void *left, const void *right) {
    uint64_t a = ((const struct reader_segment *)left)->number, b = ((const struct reader_segment *)right)->number;
    return (a > b) - (a < b);
}

static int compare_ids(const void *left, const void *right) {
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

static void sort(void *list, size_t count, size_t size, int (*compare)(const void *, const void *)) {
    if (count > 1) {
        qsort(list, count, size, compare);
    }
}

/* The directory, and the header of every segment in it. */
static enum ls_status list_files(struct reader *r, const char *dir, const struct dlog_io *io, struct ls_error *err) {
    struct listing listing = {.reader = r};
    int listed = io->list(io->context, dir, on_name, &listing);
    if (listed < 0) {
        return ls_fail(err, listed == -ENOENT ? LS_ERR_NOT_FOUND : LS_ERR_IO, "cannot list %s: %s", dir,
                       strerror(-listed));
    }
    if (listing.no_memory) {
        return ls_fail(err, LS_ERR_NOMEM, "no memory for the list of segments");
    }
    sort(r->segments, r->count, sizeof *r->segments, compare_segments);
    sort(r->spares.list, r->spares.count, sizeof *r->spares.list, compare_ids);
    sort(r->unready.list, r->unready.count, sizeof *r->unready.list, compare_ids);
    for (size_t i = 0; i < r->count; i++) {
        struct reader_segment *segment = &r->segments[i];
        char name[SEGMENT_NAME_BYTES];
        segment_name(segment->number, name);
        enum ls_status status = segment_open(&r->file, io, dir, name, err);
        if (status == LS_OK) {
            segment->file_bytes = r->file.bytes;
            status = segment_header(&r->file, &segment->header, &segment->answer, err);
        }
        segment_close(&r->file);
        if (status != LS_OK) {
            return status;
        }
    }
    return LS_OK;
}

/* ------------------------------------------------- which segments are the log */

static bool header_usable(struct reader *r, const struct reader_segment *segment, const struct format_header *newest) {
    const struct format_header *h = &segment->header;
    if (segment->answer == FORMAT_NEWER) {
        corrupt(r, segment->number, 0, "header is of a format version this program does not know");
    } else if (segment->answer != FORMAT_GOOD) {
        corrupt(r, segment->number, 0, "header is %s", segment->answer == FORMAT_BLANK ? "blank" : "bad");
    } else if (h->number != segment->number) {
        corrupt(r, segment->number, h->position, "header belongs to segment %" PRIu64 ": a copy of that file?",
                h->number);
    } else if (strcmp(h->incarnation, newest->incarnation) != 0 || strcmp(h->coordinator, newest->coordinator) != 0) {
        corrupt(r, segment->number, h->position,
                "segment belongs to coordinator %s, incarnation %s; the newest one to %s, %s", h->coordinator,
                h->incarnation, newest->coordinator, newest->incarnation);
    } else {
        return true;
    }
    return false;
}

/* Marks that allow removal count once a later record proves that they were durable: removal waits for that proof, too.
 */
struct removal {
    uint64_t allowed, pending, pending_end;
};

static enum ls_status on_removal(void *context, const struct dlog_record *record) {
    struct removal *removal = context;
    if (removal->pending > removal->allowed && record->durable >= removal->pending_end) {
        removal->allowed = removal->pending;
    }
    struct format_fields fields;
    if (record->type == DLOG_MARK && format_read_fields(record->payload, record->length, &fields)) {
        removal->pending = fields.value[2];
        removal->pending_end = record->end;
    }
    return LS_OK;
}

static enum ls_status open_number(struct reader *r, const char *dir, const struct dlog_io *io, uint64_t number,
                                  struct ls_error *err) {
    char name[SEGMENT_NAME_BYTES];
    segment_name(number, name);
    return segment_open(&r->file, io, dir, name, err);
}

/* Sets r->first. */
static enum ls_status find_first(struct reader *r, const char *dir, const struct dlog_io *io, struct ls_error *err) {
    const struct reader_segment *newest = &r->segments[r->count - 1];
    if (!header_usable(r, newest, &newest->header)) {
        return LS_OK;
    }
    if (newest->file_bytes != newest->header.segment_bytes) {
        /* Files are made in full length before they are used, and shortened only after the next one has begun. */
        corrupt(r, newest->number, newest->header.position, "file has %" PRIu64 " bytes, its header says %" PRIu64 "%s",
                newest->file_bytes, newest->header.segment_bytes,
                newest->file_bytes < newest->header.segment_bytes ? ": cut, or newer segments are missing" : "");
        return LS_OK;
    }
    struct removal removal = {.allowed = newest->header.first_segment};
    enum ls_status status = open_number(r, dir, io, newest->number, err);
    if (status == LS_OK) {
        struct segment_walk walk = {0};
        segment_walk_begin(&walk, &newest->header);
        status = segment_walk(&r->file, &newest->header, UINT64_MAX, &walk, on_removal, &removal, err);
    }
    segment_close(&r->file);
    if (status == LS_ERR_CORRUPT && err != NULL) {
        corrupt(r, newest->number, newest->header.position, "%.200s", err->text);
        return LS_OK;
    }
    while (status == LS_OK && r->first < r->count && r->segments[r->first].number < removal.allowed) {
        r->first++;
    }
    if (status == LS_OK && r->segments[r->first].number != removal.allowed) {
        corrupt(r, removal.allowed, 0, "segment is missing: it is the first one still needed");
    }
    return status;
}

/* ------------------------------------------------------------------- walk */

struct visiting {
    struct reader *reader;
    dlog_visit visit;
    void *context;
    bool refused;
};

static enum ls_status on_record(void *context, const struct dlog_record *record) {
    struct visiting *visiting = context;
    struct format_fields fields;
    if (record->type == DLOG_EPOCH && format_read_fields(record->payload, record->length, &fields) &&
        fields.value[3] > visiting->reader->report.last_epoch) {
        visiting->reader->report.last_epoch = (uint32_t)fields.value[3];
    }
    enum ls_status status = visiting->visit == NULL ? LS_OK : visiting->visit(visiting->context, record);
    visiting->refused = status != LS_OK;
    return status;
}

/* The walk stands where the segment before `next` ended. Is that where `next` begins, or is the difference a hole that
 * may be? */
static bool may_follow(struct reader *r, const struct reader_segment *segment, const struct reader_segment *next) {
    const struct segment_walk *walk = &r->walk;
    const struct format_header *h = &next->header;
    if (walk->position == h->position && walk->sequence == h->sequence && walk->chain == h->previous) {
        return true;
    }
    if (walk->position < h->position && walk->position >= h->durable) {
        return true; /* what is missing was not proven durable, and what was needed of it was written again */
    }
    if (walk->position >= h->position) {
        corrupt(r, next->number, h->position, "segment does not continue the one before it");
    } else if (next->number != segment->number + 1) {
        corrupt(r, segment->number + 1, walk->position, "segment is missing");
    } else {
        corrupt(r, segment->number, walk->position,
                "bad record at %" PRIu64 " (offset %" PRIu64 "), but the log was durable up to %" PRIu64,
                walk->position, walk->position - segment->header.position, h->durable);
    }
    return false;
}

static enum ls_status walk_segment(struct reader *r, const char *dir, const struct dlog_io *io, size_t i,
                                   struct visiting *visiting, struct ls_error *err) {
    const struct reader_segment *segment = &r->segments[i];
    bool last = i + 1 == r->count;
    segment_walk_begin(&r->walk, &segment->header);
    if (!last && r->segments[i + 1].header.position < r->walk.position) {
        corrupt(r, segment->number, segment->header.position, "segment overlaps the next one");
        return LS_OK;
    }
    enum ls_status status = open_number(r, dir, io, segment->number, err);
    if (status == LS_OK) {
        uint64_t limit = last ? UINT64_MAX : r->segments[i + 1].header.position;
        status = segment_walk(&r->file, &segment->header, limit, &r->walk, on_record, visiting, err);
    }
    if (status == LS_ERR_CORRUPT && !visiting->refused) {
        corrupt(r, segment->number, r->walk.position, "%.200s",
                err == NULL ? "written by a newer lockstep" : err->text);
        status = LS_OK;
    }
    if (status == LS_OK && last && !is_corrupt(r)) {
        status = segment_inspect_rest(&r->file, &segment->header, &r->walk, &r->tail_end, err);
    }
    segment_close(&r->file);
    return status;
}

/* The walk has gone through the last segment: how did it end? */
static void judge_end(struct reader *r) {
    const struct reader_segment *last = &r->segments[r->count - 1];
    struct dlog_report *report = &r->report;
    uint64_t offset = r->walk.position - last->header.position;
    if (r->walk.proven > r->walk.position) {
        corrupt(r, last->number, r->walk.position,
                "bad record at %" PRIu64 " (offset %" PRIu64 "), but the log was durable up to %" PRIu64,
                r->walk.position, offset, r->walk.proven);
    } else if (r->tail_end > r->walk.position) {
        report->verdict = DLOG_TORN_TAIL;
        report->bad_position = r->walk.position;
        segment_name(last->number, report->bad_segment);
        (void)snprintf(report->why, sizeof report->why,
                       "unfinished write of %" PRIu64 " bytes at %" PRIu64 " (offset %" PRIu64
                       "), never known to be durable",
                       r->tail_end - r->walk.position, r->walk.position, offset);
    }
}

static enum ls_status walk_log(struct reader *r, const char *dir, const struct dlog_io *io, struct visiting *visiting,
                               struct ls_error *err) {
    const struct format_header *newest = &r->segments[r->count - 1].header;
    for (size_t i = r->first; i < r->count; i++) {
        if (!header_usable(r, &r->segments[i], newest)) {
            return LS_OK;
        }
    }
    for (size_t i = r->first; i < r->count && !is_corrupt(r); i++) {
        enum ls_status status = walk_segment(r, dir, io, i, visiting, err);
        if (status != LS_OK) {
            return status;
        }
        if (!is_corrupt(r) && i + 1 < r->count && !may_follow(r, &r->segments[i], &r->segments[i + 1])) {
            return LS_OK;
        }
    }
    if (!is_corrupt(r)) {
        judge_end(r);
    }
    return LS_OK;
}

/* ------------------------------------------------------------------ entry */

enum ls_status reader_run(struct reader *r, const char *log_dir, const struct dlog_io *io, dlog_visit visit,
                          void *context, struct ls_error *err) {
    memset(r, 0, sizeof *r);
    struct ls_error local;
    if (err == NULL) {
        err = &local;
    }
    enum ls_status status = list_files(r, log_dir, io, err);
    if (status != LS_OK || r->count == 0) {
        return status;
    }
    status = find_first(r, log_dir, io, err);
    if (status == LS_OK && !is_corrupt(r)) {
        struct visiting visiting = {.reader = r, .visit = visit, .context = context};
        status = walk_log(r, log_dir, io, &visiting, err);
    }
    struct dlog_report *report = &r->report;
    report->segments = r->count - r->first;
    report->records = r->walk.records;
    report->end_position = r->walk.position;
    report->durable_position = r->walk.proven;
    const struct reader_segment *newest = &r->segments[r->count - 1];
    if (newest->answer == FORMAT_GOOD) {
        memcpy(report->coordinator, newest->header.coordinator, sizeof report->coordinator);
        memcpy(report->incarnation, newest->header.incarnation, sizeof report->incarnation);
        report->first_position = r->first < r->count ? r->segments[r->first].header.position : 0;
    }
    return status;
}

void reader_free(struct reader *r) {
    segment_free(&r->file);
    free(r->segments);
    free(r->spares.list);
    free(r->unready.list);
    memset(r, 0, sizeof *r);
}

enum ls_status dlog_scan(const char *dir, const struct dlog_io *io, dlog_visit visit, void *context,
                         struct dlog_report *ret_report, struct ls_error *err) {
    char *log_dir = segment_directory(dir);
    if (log_dir == NULL) {
        return ls_fail(err, LS_ERR_NOMEM, "no memory");
    }
    struct reader reader;
    enum ls_status status = reader_run(&reader, log_dir, io, visit, context, err);
    if (status == LS_OK) {
        *ret_report = reader.report;
    }
    reader_free(&reader);
    free(log_dir);
    return status;
}
