/*
 * fuzz_dlog.c: the reader of the decision log on damaged images. Once, the log itself writes an image of three
 * segments: three lives, each ending in a batch that nothing proves, with little room behind the last record, so that
 * one run is short. The input is a script that damages a copy of it: bytes, sectors, lengths, whole files.
 *
 * First byte, bit 0 clear: only damage. Then whatever is reported is a record of the image, at its place; and unless
 * the verdict is "corrupt", every decision and every end is there that stood before a position which an untouched
 * header or record proves durable. Bit 0 set: checksums and chain are mended after the damage (as far as bits 1 and 2
 * say), so that what they guard is read, too. Then the answer must be consistent in itself. Bit 3: the file system
 * gives short reads; the answer may not depend on that.
 */
#include "tests/fuzz/fuzz.h"

#include <errno.h>
#include <xxhash.h>

#include "coordinator/dlog/format.h"
#include "coordinator/dlog/segment.h"
#include "lockstep.pb-c.h"
#include "tests/unit/dlog_disk.h"

enum { FILES_MAX = 6, RECORDS_MAX = 128, SEGMENT_BYTES = 64 << 10, FILLER_BYTES = 17 << 10 };
enum { MODE_MEND = 1, MODE_MEND_CHAIN = 2, MODE_KEEP_HEADERS = 4, MODE_SHORT_READS = 8 };

struct file {
    bool there, changed;
    char name[SEGMENT_NAME_BYTES];
    uint64_t size;
    uint8_t bytes[SEGMENT_BYTES];
};

/* A record of the image as it was written. */
struct original {
    struct dlog_record record;
    size_t file, offset, size;
    uint32_t epoch;
    uint64_t sequence; /* of the decision that it is about */
};

static struct file image[FILES_MAX], disk[FILES_MAX];
static size_t image_files;
static struct original originals[RECORDS_MAX];
static size_t original_count;
static uint64_t header_durable[FILES_MAX], header_position[FILES_MAX];
static bool short_reads;

/* ---- the disk: read only */

static int fs_open(void *context, const char *dir, const char *name, bool create, bool writable) {
    (void)context, (void)dir;
    REQUIRE(!create && !writable);
    for (int i = 0; i < FILES_MAX; i++)
        if (disk[i].there && strcmp(disk[i].name, name) == 0) return i;
    return -ENOENT;
}

static ssize_t fs_pread(void *context, int file, void *buffer, size_t length, uint64_t offset) {
    (void)context;
    if (offset >= disk[file].size) return 0;
    if (length > disk[file].size - offset) length = disk[file].size - offset;
    if (short_reads && length > 1000) length = 1000 + length % 7;
    memcpy(buffer, disk[file].bytes + offset, length);
    return (ssize_t)length;
}

static int64_t fs_size(void *context, int file) {
    (void)context;
    return (int64_t)disk[file].size;
}

static int fs_close(void *context, int file) {
    (void)context, (void)file;
    return 0;
}

static int fs_list(void *context, const char *dir, void (*entry)(void *arg, const char *name), void *arg) {
    (void)context, (void)dir;
    for (int i = 0; i < FILES_MAX; i++)
        if (disk[i].there) entry(arg, disk[i].name);
    return 0;
}

static const struct dlog_io io = {
    .open = fs_open, .pread = fs_pread, .size = fs_size, .close = fs_close, .list = fs_list};

/* ---- the image */

static void commits(struct dlog *log, uint32_t epoch, uint64_t from, uint64_t to) {
    uint8_t payload[TEST_PAYLOAD];
    uint64_t position, end;
    struct ls_error err;
    for (uint64_t s = from; s <= to; s++) {
        size_t length = test_commit(epoch, s, 1 + s % 2, payload);
        REQUIRE(dlog_append_commit(log, epoch, s, payload, length, &position, &end) == LS_OK);
        if (s % 4 == 0) REQUIRE(dlog_append_end(log, epoch, s - 1, &end) == LS_OK);
        if (s % 3 == 0) REQUIRE(dlog_write(log, &err) == LS_OK);
    }
    REQUIRE(dlog_write(log, &err) == LS_OK);
}

static void append(struct dlog *log, enum dlog_type type, const uint8_t *payload, size_t length) {
    uint64_t position, end;
    struct ls_error err;
    REQUIRE(dlog_append(log, type, payload, length, &position, &end) == LS_OK && dlog_write(log, &err) == LS_OK);
}

/* Most of the last segment is audits with a long reason. */
static void fill(struct dlog *log) {
    static char who[] = "admin/kim", act[] = "resolve", subject[] = "orders", reason[FILLER_BYTES];
    static uint8_t payload[FILLER_BYTES + 256];
    Lockstep__LogAudit audit = LOCKSTEP__LOG_AUDIT__INIT;
    memset(reason, 'x', sizeof reason - 1);
    audit.who = who;
    audit.act = act;
    audit.subject = subject;
    audit.reason = reason;
    append(log, DLOG_AUDIT, payload, lockstep__log_audit__pack(&audit, payload));
}

static enum ls_status on_original(void *context, const struct dlog_record *record) {
    (void)context;
    REQUIRE(original_count < RECORDS_MAX);
    struct original *o = &originals[original_count++];
    struct format_fields fields;
    *o = (struct original){.record = *record, .size = (size_t)(record->end - record->position)};
    while (o->file + 1 < image_files && header_position[o->file + 1] <= record->position) o->file++;
    o->offset = (size_t)(record->position - header_position[o->file]);
    o->record.payload = image[o->file].bytes + o->offset + FORMAT_RECORD_HEADER;
    REQUIRE(format_read_fields(record->payload, record->length, &fields));
    o->epoch = (uint32_t)fields.value[1];
    o->sequence = fields.value[2];
    return LS_OK;
}

static void take_image(struct disk *from) {
    char names[32][64];
    size_t count = disk_list(from, ".seg", names, 32);
    for (size_t i = 0; i < count; i++) {
        uint64_t number;
        if (segment_parse_name(names[i], &number) != SEGMENT_LOG) continue;
        struct file *file = &image[image_files];
        const uint8_t *bytes = disk_bytes(from, names[i], &file->size);
        REQUIRE(file->size <= SEGMENT_BYTES && image_files < FILES_MAX - 1);
        file->there = true;
        memcpy(file->name, names[i], sizeof file->name);
        memcpy(file->bytes, bytes, file->size);
        struct format_header header;
        REQUIRE(format_decode_header(bytes, &header) == FORMAT_GOOD);
        header_durable[image_files] = header.durable;
        header_position[image_files++] = header.position;
    }
}

/* NOLINTNEXTLINE(readability-non-const-parameter): libFuzzer's type of it */
int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    struct disk *made = disk_new(1);
    struct dlog_options options = test_options(made);
    struct dlog *log;
    struct ls_error err;
    uint32_t epoch;
    uint8_t payload[TEST_PAYLOAD];
    for (int life = 1; life <= 3; life++) {
        REQUIRE(test_start(&options, &log, &epoch, &err) == LS_OK);
        append(log, DLOG_PARTICIPANT, payload, test_participant((uint32_t)life, "orders", payload));
        commits(log, epoch, 1, life == 2 ? 14 : 7);
        append(log, DLOG_HAZARD, payload, test_hazard(epoch, 2, 1, payload));
        for (int i = 0; life == 3 && i < 3; i++) fill(log);
        commits(log, epoch, 21, life == 3 ? 26 : 22);
        dlog_close(log);
    }
    take_image(made);
    disk_free(made);
    REQUIRE(image_files == 3);
    for (size_t i = 0; i + 1 < image_files; i++) /* as the log itself does in time: the unused end is given back */
        image[i].size = (header_position[i + 1] - header_position[i] + FORMAT_BLOCK - 1) / FORMAT_BLOCK * FORMAT_BLOCK;
    memcpy(disk, image, sizeof disk);
    struct dlog_report report;
    REQUIRE(dlog_scan("", &io, on_original, NULL, &report, &err) == LS_OK);
    REQUIRE(report.verdict == DLOG_VALID && report.records == original_count);
    return 0;
}

/* ---- damage */

struct script {
    const uint8_t *at;
    size_t left;
};

static unsigned byte(struct script *script) {
    if (script->left == 0) return 0;
    script->left--;
    return *script->at++;
}

static unsigned word(struct script *script) {
    unsigned low = byte(script);
    return low | byte(script) << 8;
}

static struct file *changed(struct file *file) {
    file->changed = true;
    return file;
}

static void put(struct file *file, size_t offset, const uint8_t *bytes, size_t length) {
    if (offset >= file->size) return;
    if (length > file->size - offset) length = file->size - offset;
    memmove(file->bytes + offset, bytes, length);
}

static void flip(struct file *file, size_t offset, unsigned mask) {
    if (offset < file->size) file->bytes[offset] ^= (uint8_t)mask;
}

static void set(struct file *file, size_t offset, struct script *script, size_t length) {
    uint8_t bytes[8];
    for (size_t i = 0; i < length; i++) bytes[i] = (uint8_t)byte(script);
    put(file, offset, bytes, length);
}

static void add(struct file *file, size_t offset, size_t length, int difference) {
    uint64_t value = 0;
    if (offset + length > file->size) return;
    memcpy(&value, file->bytes + offset, length);
    value += (uint64_t)(int64_t)difference;
    memcpy(file->bytes + offset, &value, length);
}

static void cut(struct file *file, unsigned size) {
    if (size < file->size) file->size = size;
}

static void clear_from(const struct original *o) {
    struct file *file = changed(&disk[o->file]);
    if (o->offset < file->size) memset(file->bytes + o->offset, 0, file->size - o->offset);
}

/* Where a header or a record has its fields, see docs/log-format.md. */
static const struct field {
    uint8_t offset, length;
} header_fields[] = {{16, 8}, {24, 8}, {32, 8}, {40, 8}, {48, 4}, {52, 4},
                     {56, 8}, {64, 8}, {72, 8}, {80, 8}, {88, 8}, {104, 8}},
  record_fields[] = {{8, 8}, {16, 8}, {24, 8}, {32, 8}, {40, 4}, {44, 2}, {46, 2}, {48, 8}, {56, 8}};
#define HEADER_FIELDS (sizeof header_fields / sizeof *header_fields)
#define RECORD_FIELDS (sizeof record_fields / sizeof *record_fields)

static void damage_one(struct script *script) {
    static const uint8_t zeros[4096];
    unsigned what = byte(script) % 12;
    struct file *file = changed(&disk[byte(script) % FILES_MAX]);
    if (!file->there && what != 6) return;
    switch (what) {
    case 0:
        flip(file, word(script), byte(script));
        return;
    case 1: /* sectors never written */
        put(file, word(script) & ~511u, zeros, (size_t)512 * (1 + byte(script) % 8));
        return;
    case 2: /* bytes of somewhere else */
        put(file, word(script), image[byte(script) % image_files].bytes + (word(script) & 0xf000),
            1 + word(script) % 4096);
        return;
    case 3:
        cut(file, word(script));
        return;
    case 4:
        file->there = false;
        return;
    case 5: /* an earlier state of this file: nothing behind one of its records */
        clear_from(&originals[byte(script) % original_count]);
        return;
    case 6: /* a copy under another name */
        if (disk[FILES_MAX - 1].there) return;
        disk[FILES_MAX - 1] = image[byte(script) % image_files];
        disk[FILES_MAX - 1].changed = true;
        segment_name(byte(script) % 8, disk[FILES_MAX - 1].name);
        for (int i = 0; i < FILES_MAX - 1; i++) disk[i].there &= strcmp(disk[i].name, disk[FILES_MAX - 1].name) != 0;
        return;
    case 7:
    case 8: { /* a field of a record */
        const struct original *o = &originals[byte(script) % original_count];
        const struct field *field = &record_fields[byte(script) % RECORD_FIELDS];
        file = changed(&disk[o->file]);
        if (what == 7) set(file, o->offset + field->offset, script, field->length);
        if (what == 8) add(file, o->offset + field->offset, field->length, (int8_t)byte(script) * 8);
        return;
    }
    case 9:
    case 10: { /* a field of the header */
        const struct field *field = &header_fields[byte(script) % HEADER_FIELDS];
        if (what == 9) set(file, field->offset, script, field->length);
        if (what == 10) add(file, field->offset, field->length, (int8_t)byte(script));
        return;
    }
    case 11:
        file->size = SEGMENT_BYTES; /* longer again, with what it held */
        return;
    }
}

static uint64_t get(const uint8_t *at, size_t length) {
    uint64_t value = 0;
    memcpy(&value, at, length);
    return value;
}

static void set_u64(uint8_t *at, uint64_t value) {
    memcpy(at, &value, sizeof value);
}

/* Makes every header and record of the file self-valid again, and chained if asked for. */
static void mend(struct file *file, unsigned mode, uint64_t *chain) {
    struct format_header header;
    if (file->size < FORMAT_BLOCK) return;
    file->changed = true;
    if ((mode & MODE_KEEP_HEADERS) == 0) {
        if (mode & MODE_MEND_CHAIN) set_u64(file->bytes + 16, *chain);
        set_u64(file->bytes + 8, XXH3_64bits(file->bytes + 16, FORMAT_BLOCK - 16));
    }
    if (format_decode_header(file->bytes, &header) != FORMAT_GOOD) return;
    uint64_t seed = format_seed(header.incarnation, header.number);
    *chain = header.checksum;
    for (size_t at = FORMAT_BLOCK; at + FORMAT_RECORD_HEADER <= file->size;) {
        uint8_t *record = file->bytes + at;
        size_t size = format_record_size((size_t)get(record + 40, 4));
        if (get(record + 16, 8) == 0 || size > file->size - at) break;
        if (mode & MODE_MEND_CHAIN) set_u64(record + 8, *chain);
        *chain = XXH3_64bits_withSeed(record + 8, size - 8, seed);
        set_u64(record, *chain);
        at += size;
    }
}

/* ---- the answer */

struct answer {
    enum ls_status status;
    struct dlog_report report;
    uint64_t records, last_end, digest;
    bool seen[RECORDS_MAX]; /* which of the originals */
    bool damage_only;
};

static enum ls_status on_record(void *context, const struct dlog_record *record) {
    struct answer *answer = context;
    REQUIRE(record->type >= DLOG_EPOCH && record->type <= DLOG_TYPE_LAST);
    REQUIRE(record->position >= answer->last_end && record->end > record->position &&
            record->durable <= record->position);
    REQUIRE(record->end - record->position == format_record_size(record->length));
    answer->records++;
    answer->last_end = record->end;
    answer->digest =
        XXH3_64bits_withSeed(record->payload, record->length, answer->digest ^ record->position ^ record->chain);
    if (answer->damage_only) {
        size_t i = 0;
        while (i < original_count && originals[i].record.position != record->position) i++;
        REQUIRE(i < original_count && originals[i].record.type == record->type &&
                originals[i].record.length == record->length);
        REQUIRE(memcmp(originals[i].record.payload, record->payload, record->length) == 0);
        answer->seen[i] = true;
    }
    return LS_OK;
}

static void scan(struct answer *answer, bool damage_only) {
    struct ls_error err;
    memset(answer, 0, sizeof *answer);
    answer->damage_only = damage_only;
    answer->status = dlog_scan("", &io, on_record, answer, &answer->report, &err);
    REQUIRE(answer->status == LS_OK); /* this disk never fails */
    const struct dlog_report *report = &answer->report;
    REQUIRE(report->verdict == DLOG_VALID || (report->why[0] != '\0' && report->bad_segment[0] != '\0'));
    REQUIRE(report->verdict == DLOG_CORRUPT || report->segments == 0 ||
            (report->records == answer->records && report->end_position >= report->durable_position));
}

static bool untouched(const struct original *o) {
    return disk[o->file].there && o->offset + o->size <= disk[o->file].size &&
           memcmp(disk[o->file].bytes, image[o->file].bytes, FORMAT_BLOCK) == 0 &&
           memcmp(disk[o->file].bytes + o->offset, image[o->file].bytes + o->offset, o->size) == 0;
}

/* The highest position that something untouched proves durable. */
static uint64_t proven(void) {
    uint64_t position = 0;
    for (size_t i = 0; i < image_files; i++)
        if (disk[i].there && disk[i].size >= FORMAT_BLOCK && header_durable[i] > position &&
            memcmp(disk[i].bytes, image[i].bytes, FORMAT_BLOCK) == 0)
            position = header_durable[i];
    for (size_t i = 0; i < original_count; i++)
        if (originals[i].record.durable > position && untouched(&originals[i])) position = originals[i].record.durable;
    return position;
}

/* Has a record that says the same been seen? Copies say it, too. */
static bool said(const struct answer *answer, const struct original *o) {
    for (size_t i = 0; i < original_count; i++)
        if (answer->seen[i] && originals[i].record.type == o->record.type && originals[i].epoch == o->epoch &&
            originals[i].sequence == o->sequence)
            return true;
    return false;
}

static void judge_damage(const struct answer *answer) {
    if (answer->report.verdict == DLOG_CORRUPT) return;
    uint64_t position = proven();
    for (size_t i = 0; i < original_count; i++) {
        const struct original *o = &originals[i];
        bool matters = o->record.type == DLOG_COMMIT || o->record.type == DLOG_END;
        REQUIRE(!matters || o->record.end > position || said(answer, o));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct script script = {data, size};
    unsigned mode = byte(&script);
    for (size_t i = 0; i < FILES_MAX; i++)
        if (disk[i].changed) disk[i] = image[i];
    while (script.left > 0) damage_one(&script);
    uint64_t chain = 0;
    for (size_t i = 0; (mode & MODE_MEND) != 0 && i < FILES_MAX; i++)
        if (disk[i].there) mend(&disk[i], mode, &chain);
    struct answer answer, again;
    short_reads = false;
    scan(&answer, (mode & MODE_MEND) == 0);
    if ((mode & MODE_MEND) == 0) judge_damage(&answer);
    if (mode & MODE_SHORT_READS) {
        short_reads = true;
        scan(&again, (mode & MODE_MEND) == 0);
        REQUIRE(again.digest == answer.digest && again.records == answer.records);
        REQUIRE(again.report.verdict == answer.report.verdict &&
                again.report.end_position == answer.report.end_position &&
                again.report.bad_position == answer.report.bad_position);
    }
    return 0;
}
