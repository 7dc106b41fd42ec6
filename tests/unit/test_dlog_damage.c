/*
 * test_dlog_damage.c: hazard D4: a lost COMMIT record silently means ABORT. Every bit of a log is changed, every length
 * cut, every sector zeroed or put back to what it was before; files are lost, doubled, or taken from another history.
 * Allowed are: the same decisions; a refusal that says where; and the loss of the last batch, as long as nothing proved
 * it durable. One loss no log can see: its very end together with everything that proved it (a sector that a disk had
 * confirmed and forgot). There the log must end exactly where its proofs end; the agents, who were shown a later
 * position, refuse it (counted, and printed apart).
 *
 * Two logs of 64 KiB segments, really filled, with records of every type: one segment; and four, of two lives, with
 * copies and marks. `make check` tries a seeded sample (DLOG_SEED), `make damage` (DLOG_ALL=1) everything.
 */
#include "tests/unit/unit.h"

#include <xxhash.h>

#include "coordinator/dlog/format.h"
#include "coordinator/dlog/segment.h"
#include "tests/unit/dlog_disk.h"

static struct ls_error err;

enum { DECISIONS = 400, RECORDS_MAX = 4000, SNAPSHOTS_MAX = 200, SEGMENTS_MAX = 8 };

/* ------------------------------------------------------------- what a log says */

/* What a reader finds. */
struct decisions {
    enum dlog_verdict verdict;
    uint64_t bad_position;
    char bad_segment[64];
    uint8_t committed[4][DECISIONS + 1], ended[4][DECISIONS + 1];
};

static enum ls_status on_record(void *context, const struct dlog_record *record) {
    struct decisions *d = context;
    struct format_fields f;
    assert_true(format_read_fields(record->payload, record->length, &f));
    if (record->type == DLOG_COMMIT) {
        d->committed[f.value[1]][f.value[2]] = 1;
    } else if (record->type == DLOG_END) {
        d->ended[f.value[1]][f.value[2]] = 1;
    }
    return LS_OK;
}

static void scan(struct disk *disk, struct decisions *d) {
    struct dlog_report report;
    memset(d, 0, sizeof *d);
    assert_ok(dlog_scan("/data", disk_io(disk), on_record, d, &report, &err));
    d->verdict = report.verdict;
    d->bad_position = report.bad_position;
    memcpy(d->bad_segment, report.bad_segment, sizeof d->bad_segment);
    assert_true(report.verdict == DLOG_VALID || report.why[0] != '\0');
}

/* ------------------------------------------------------------------ the logs */

/* A record of the undamaged log, and what it says: a copy of a decision says the same as the decision. */
struct original {
    uint64_t position, end, durable, digest, fact;
    size_t last; /* index of the last record that says this fact */
    uint32_t seen;
};

struct fixture {
    struct disk *disk;
    struct decisions whole;
    uint64_t proven; /* everything before it is known to be durable */
    char names[SEGMENTS_MAX][64];
    uint64_t starts[SEGMENTS_MAX + 1]; /* of each segment in the stream */
    size_t count;
    struct original records[RECORDS_MAX];
    size_t record_count, cursor;
    uint32_t round;
    bool changed;
    uint8_t *snapshots[SNAPSHOTS_MAX][SEGMENTS_MAX]; /* each file as it was after a write; NULL: not there yet */
    size_t snapshot_count;
    uint64_t tried, refused, torn, same, ends_lost; /* for the figures */
};

static void commit(struct dlog *log, uint32_t epoch, uint64_t s) {
    uint8_t payload[TEST_PAYLOAD];
    uint64_t position, end;
    assert_ok(dlog_append_commit(log, epoch, s, payload, test_commit(epoch, s, 1 + s % 3, payload), &position, &end));
}

static void other(struct dlog *log, enum dlog_type type, uint32_t epoch, uint64_t s) {
    uint8_t payload[TEST_PAYLOAD];
    char name[32];
    uint64_t position, end;
    (void)snprintf(name, sizeof name, "p%llu", (unsigned long long)s);
    size_t length = type == DLOG_HAZARD        ? test_hazard(epoch, s, 1, payload)
                    : type == DLOG_PARTICIPANT ? test_participant((uint32_t)s, name, payload)
                                               : test_audit(name, payload);
    assert_ok(dlog_append(log, type, payload, length, &position, &end));
}

static void write_and_keep(struct fixture *f, struct dlog *log) {
    assert_ok(dlog_write(log, &err));
    char names[SEGMENTS_MAX][64];
    size_t count = disk_list(f->disk, ".seg", names, SEGMENTS_MAX);
    assert_true(f->snapshot_count < SNAPSHOTS_MAX && count < SEGMENTS_MAX);
    for (size_t n = 0; n < count; n++) {
        uint64_t size;
        const uint8_t *bytes = disk_bytes(f->disk, names[n], &size);
        f->snapshots[f->snapshot_count][n] = malloc(size);
        memcpy(f->snapshots[f->snapshot_count][n], bytes, size);
    }
    f->snapshot_count++;
}

/* A life that writes decisions from..to with all that comes with them. */
static void live(struct fixture *f, struct dlog *log, uint32_t epoch, uint64_t from, uint64_t to) {
    uint64_t end;
    for (uint64_t s = from; s <= to; s++) {
        commit(log, epoch, s);
        if (s % 4 == 0) assert_ok(dlog_append_end(log, epoch, s, &end));
        if (s % 20 == 5) other(log, DLOG_PARTICIPANT, epoch, s);
        if (s % 30 == 7) other(log, DLOG_HAZARD, epoch, s);
        if (s % 30 == 9) other(log, DLOG_AUDIT, epoch, s);
        if (s % 50 == 11) assert_ok(dlog_mark(log, s * 100, &end));
        if (s % 6 == 0) write_and_keep(f, log);
    }
}

/* Life 1 fills more than a segment, ends in a batch without proof, and dies; life 2 writes that again, goes on, and
 * ends in two decisions that no mark follows. Or one life, and one segment filled to its last record. */
static void build(struct fixture *f, bool one_segment) {
    struct dlog_options options = test_options(f->disk);
    struct dlog *log;
    uint32_t epoch;
    assert_ok(test_start(&options, &log, &epoch, &err));
    live(f, log, epoch, 1, one_segment ? 150 : 330);
    uint64_t last = 150;
    if (!one_segment) {
        dlog_close(log);
        assert_ok(test_start(&options, &log, &epoch, &err));
        live(f, log, epoch, 1, 300);
        last = 300;
    }
    struct dlog_stats stats;
    for (;;) { /* up to the last bytes of the segment */
        dlog_get_stats(log, &stats);
        if (!one_segment || stats.append_position + 1400 > options.segment_bytes) break;
        commit(log, epoch, ++last);
        if (last % 3 == 0) write_and_keep(f, log);
    }
    write_and_keep(f, log);
    commit(log, epoch, ++last);
    write_and_keep(f, log);
    uint64_t chain;
    dlog_durable(log, &f->proven, &chain);
    commit(log, epoch, ++last);
    commit(log, epoch, ++last);
    write_and_keep(f, log); /* the last batch */
    dlog_close(log);
    disk_crash(f->disk, DISK_LOSES);
}

/* Three segments and a last batch without proof, small enough to be looked at byte by byte. */
static void build_small(struct fixture *f) {
    struct dlog_options options = test_options(f->disk);
    struct dlog *log;
    uint32_t epoch;
    uint64_t end, chain;
    assert_ok(test_start(&options, &log, &epoch, &err));
    for (uint64_t s = 1; s <= 330; s++) {
        uint8_t payload[TEST_PAYLOAD];
        uint64_t position;
        assert_ok(dlog_append_commit(log, epoch, s, payload, test_commit(epoch, s, 2, payload), &position, &end));
        if (s % 4 == 0) assert_ok(dlog_append_end(log, epoch, s, &end));
        if (s % 6 == 0) assert_ok(dlog_write(log, &err));
    }
    dlog_close(log);
    assert_ok(test_start(&options, &log, &epoch, &err));
    for (uint64_t s = 1; s <= 20; s++) {
        commit(log, epoch, s);
        if (s % 5 == 0) assert_ok(dlog_write(log, &err));
    }
    dlog_durable(log, &f->proven, &chain);
    commit(log, epoch, 21);
    commit(log, epoch, 22);
    assert_ok(dlog_write(log, &err));
    dlog_close(log);
    disk_crash(f->disk, DISK_LOSES);
}

/* Marks say nothing that is missed; copies say what their decision says. */
static uint64_t fact_of(const struct dlog_record *record) {
    size_t length = record->length;
    if (record->type == DLOG_COMMIT && length > FORMAT_COMMIT_COPY_EXTRA &&
        memcmp(record->payload + length - FORMAT_COMMIT_COPY_EXTRA, format_relogged, FORMAT_COMMIT_COPY_EXTRA) == 0) {
        length -= FORMAT_COMMIT_COPY_EXTRA;
    }
    return record->type == DLOG_MARK ? 0 : XXH3_64bits_withSeed(record->payload, length, (uint64_t)record->type);
}

static enum ls_status on_original(void *context, const struct dlog_record *record) {
    struct fixture *f = context;
    assert_true(f->record_count < RECORDS_MAX);
    f->records[f->record_count] =
        (struct original){.position = record->position,
                          .end = record->end,
                          .durable = record->durable,
                          .digest = XXH3_64bits_withSeed(record->payload, record->length, (uint64_t)record->type),
                          .fact = fact_of(record),
                          .last = f->record_count};
    f->record_count++;
    return LS_OK;
}

static struct fixture *fixture_new(void (*make)(struct fixture *f)) {
    struct fixture *f = calloc(1, sizeof *f);
    f->disk = disk_new(1);
    make(f);
    scan(f->disk, &f->whole);
    assert_int_equal(f->whole.verdict, DLOG_VALID);
    struct dlog_report report;
    assert_ok(dlog_scan("/data", disk_io(f->disk), on_original, f, &report, &err));
    for (size_t i = 0; i < f->record_count; i++) {
        for (size_t k = f->record_count - 1; k > i; k--) {
            if (f->records[k].fact == f->records[i].fact) {
                f->records[i].last = k;
                break;
            }
        }
    }
    f->count = disk_list(f->disk, ".seg", f->names, SEGMENTS_MAX);
    for (size_t n = 0; n < f->count; n++) {
        uint64_t size;
        struct format_header header;
        assert_int_equal(format_decode_header(disk_bytes(f->disk, f->names[n], &size), &header), FORMAT_GOOD);
        f->starts[n] = header.position;
    }
    f->starts[f->count] = UINT64_MAX;
    return f;
}

static void build_one(struct fixture *f) {
    build(f, true);
}

static void build_several(struct fixture *f) {
    build(f, false);
}

static int setup_one(void **state) {
    struct fixture *f = *state = fixture_new(build_one);
    assert_int_equal(f->count, 1);
    assert_true(f->records[f->record_count - 1].end > (64u << 10) - 1400); /* really filled */
    return 0;
}

static int setup_several(void **state) {
    struct fixture *f = *state = fixture_new(build_several);
    assert_true(f->count >= 4);
    return 0;
}

static int setup(void **state) {
    struct fixture *f = *state = fixture_new(build_small);
    assert_int_equal(f->count, 3);
    return 0;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    for (size_t i = 0; i < f->snapshot_count; i++) {
        for (size_t n = 0; n < SEGMENTS_MAX; n++) {
            free(f->snapshots[i][n]);
        }
    }
    disk_free(f->disk);
    free(f);
    return 0;
}

/* ------------------------------------------------------------------ the judge */

static enum ls_status on_found(void *context, const struct dlog_record *record) {
    struct fixture *f = context;
    while (f->cursor < f->record_count && f->records[f->cursor].position < record->position) {
        f->cursor++;
    }
    struct original *o = &f->records[f->cursor];
    if (f->cursor == f->record_count || o->position != record->position || o->end != record->end ||
        o->digest != XXH3_64bits_withSeed(record->payload, record->length, (uint64_t)record->type)) {
        f->changed = true;
        return LS_OK;
    }
    f->records[o->last].seen = f->round;
    return LS_OK;
}

/* How far the log is proved durable by what is still whole of it: bytes [from, to) of segment n are not. */
static uint64_t proved_by_the_rest(const struct fixture *f, size_t n, uint64_t from, uint64_t to, const uint8_t *now,
                                   const uint8_t *before) {
    for (size_t i = f->record_count; i-- > 0;) {
        const struct original *o = &f->records[i];
        bool here = o->position >= f->starts[n] && o->position < f->starts[n + 1];
        uint64_t at = o->position - f->starts[n], end = o->end - f->starts[n];
        if (!here || end <= from || at >= to || (now != NULL && memcmp(now + at, before + at, end - at) == 0)) {
            return o->durable;
        }
    }
    return 0;
}

/* Refused; or every record that is found is as it was written, and what is missing lies behind `floor`. */
static void judge(struct fixture *f, uint64_t floor, const char *what, size_t n, uint64_t at) {
    struct dlog_report report;
    f->round++;
    f->cursor = 0;
    f->changed = false;
    f->tried++;
    assert_ok(dlog_scan("/data", disk_io(f->disk), on_found, f, &report, &err));
    if (report.verdict == DLOG_CORRUPT) {
        assert_true(report.why[0] != '\0');
        f->refused++;
        return;
    }
    if (f->changed) {
        fail_msg("%s at %llu of %s: a record was found that was never written", what, (unsigned long long)at,
                 f->names[n]);
    }
    bool lost = false;
    for (size_t i = 0; i < f->record_count; i++) {
        const struct original *o = &f->records[i];
        if (o->fact == 0 || o->last != i || o->seen == f->round) continue;
        lost = true;
        if (o->position < report.end_position || report.end_position < floor) {
            fail_msg("%s at %llu of %s: the record at %llu is gone, and the log is called %s up to %llu", what,
                     (unsigned long long)at, f->names[n], (unsigned long long)o->position,
                     report.verdict == DLOG_VALID ? "valid" : "torn", (unsigned long long)report.end_position);
        }
    }
    f->torn += lost;
    f->same += !lost;
    f->ends_lost += lost && report.end_position < f->proven;
}

static bool everything(void) {
    return getenv("DLOG_ALL") != NULL;
}

static uint64_t seed(void) {
    const char *text = getenv("DLOG_SEED");
    return text == NULL ? 1 : strtoull(text, NULL, 10) * 2 + 1;
}

static void say(const struct fixture *f, const char *what) {
    printf("%s: %llu tried: %llu refused, %llu read the same, %llu lost the last batch, %llu the end with its proofs\n",
           what, (unsigned long long)f->tried, (unsigned long long)f->refused, (unsigned long long)f->same,
           (unsigned long long)(f->torn - f->ends_lost), (unsigned long long)f->ends_lost);
}

/* ------------------------------------------------------------------ the damage */

static void test_every_bit(void **state) {
    struct fixture *f = *state;
    uint64_t random = seed(), step = everything() ? 1 : 500u * TEST_STEP;
    for (size_t n = 0; n < f->count; n++) {
        uint64_t size;
        uint8_t *bytes = disk_bytes(f->disk, f->names[n], &size);
        for (uint64_t bit = 0; bit < size * 8; bit += step == 1 ? 1 : 1 + (unit_random(&random) >> 20) % (2 * step)) {
            bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
            judge(f, f->proven, "bit", n, bit);
            bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
    }
    say(f, "bits");
    assert_true(f->refused > f->tried / 2 && (f->torn > 0 || !everything()) && f->ends_lost == 0);
}

static void test_every_length(void **state) {
    struct fixture *f = *state;
    uint64_t random = seed(), step = everything() ? 1 : 150u * TEST_STEP;
    for (size_t n = 0; n < f->count; n++) {
        uint64_t size;
        disk_bytes(f->disk, f->names[n], &size);
        for (uint64_t cut = 0; cut < size; cut += step == 1 ? 1 : 1 + (unit_random(&random) >> 20) % (2 * step)) {
            disk_cut(f->disk, f->names[n], cut);
            judge(f, f->proven, "cut", n, cut);
        }
        disk_cut(f->disk, f->names[n], size);
        judge(f, f->proven, "whole", n, 0);
    }
    say(f, "lengths");
    assert_true(f->refused > 0 && f->ends_lost == 0);
}

/* A sector that reads as something else than was confirmed: zeros, or what it held at any earlier time. */
static void replace(struct fixture *f, size_t n, uint64_t at, size_t length, const uint8_t *with, const char *what) {
    uint64_t size;
    uint8_t *bytes = disk_bytes(f->disk, f->names[n], &size);
    const uint8_t *before = f->snapshots[f->snapshot_count - 1][n];
    if (memcmp(bytes + at, with, length) == 0) {
        return;
    }
    memcpy(bytes + at, with, length);
    judge(f, proved_by_the_rest(f, n, at, at + length, bytes, before), what, n, at);
    memcpy(bytes + at, before + at, length);
}

static void test_every_sector(void **state) {
    struct fixture *f = *state;
    static const uint8_t zeros[16 * 512];
    for (size_t n = 0; n < f->count; n++) {
        uint64_t size;
        disk_bytes(f->disk, f->names[n], &size);
        for (size_t length = 512; length <= sizeof zeros; length *= length == 512 ? 8 : 2) { /* 512, 4096, 8192 */
            for (uint64_t at = 0; at + length <= size; at += length * (everything() ? 1 : TEST_STEP)) {
                replace(f, n, at, length, zeros, "sector of zeros");
                const uint8_t *previous = zeros;
                for (size_t i = 0; i < f->snapshot_count; i++) {
                    const uint8_t *old = f->snapshots[i][n] == NULL ? zeros : f->snapshots[i][n] + at;
                    if (memcmp(old, previous, length) != 0) {
                        replace(f, n, at, length, old, "older sector");
                        previous = old;
                    }
                }
            }
        }
    }
    say(f, "sectors");
    assert_true(f->refused > f->tried / 2);
}

static void assert_refused(struct disk *disk, const char *segment) {
    struct decisions now;
    scan(disk, &now);
    assert_int_equal(now.verdict, DLOG_CORRUPT);
    if (segment != NULL) {
        assert_string_equal(now.bad_segment, segment);
    }
    struct dlog_options options = test_options(disk);
    struct dlog *log;
    assert_int_equal(dlog_open(&options, NULL, NULL, &log, &err), LS_ERR_CORRUPT);
    assert_non_null(strstr(err.text, now.bad_segment)); /* says where */
}

static void test_files(void **state) {
    struct fixture *f = *state;
    /* a segment that is missing at the beginning or in the middle */
    for (size_t n = 0; n + 1 < f->count; n++) {
        struct disk *disk = disk_clone(f->disk);
        disk_remove(disk, f->names[n]);
        assert_refused(disk, f->names[n]);
        disk_free(disk);
    }
    /* a copy of a segment under another number */
    struct disk *disk = disk_clone(f->disk);
    disk_copy(disk, f->names[1], "0000000000000009.seg");
    assert_refused(disk, "0000000000000009.seg");
    disk_free(disk);
    disk = disk_clone(f->disk);
    disk_remove(disk, f->names[1]);
    disk_copy(disk, f->names[0], f->names[1]);
    assert_refused(disk, f->names[1]);
    disk_free(disk);
    /* a segment of another incarnation, and of another coordinator */
    for (int other = 0; other < 2; other++) {
        disk = disk_clone(f->disk);
        struct disk *foreign = disk_new(5);
        struct dlog_options options = test_options(foreign);
        if (other == 0) {
            options.incarnation = "ffffffffffff";
        } else {
            options.coordinator = "bank";
        }
        struct dlog *log;
        uint32_t epoch;
        assert_ok(test_start(&options, &log, &epoch, &err));
        dlog_close(log);
        uint64_t size;
        uint8_t *bytes = disk_bytes(foreign, f->names[0], &size);
        disk_remove(disk, f->names[0]);
        disk_put(disk, f->names[0], bytes, size);
        assert_refused(disk, f->names[0]);
        disk_free(disk);
        disk_free(foreign);
    }
    /* a header of a later version is not called damage, and not obeyed */
    disk = disk_clone(f->disk);
    uint64_t size;
    uint8_t *bytes = disk_bytes(disk, f->names[2], &size);
    bytes[48] = 2;
    assert_refused(disk, f->names[2]);
    disk_free(disk);
    /* other files do not matter */
    disk = disk_clone(f->disk);
    disk_copy(disk, f->names[0], "0000000000000001.seg.bak");
    disk_copy(disk, f->names[0], "notes");
    struct decisions now;
    scan(disk, &now);
    assert_int_equal(now.verdict, DLOG_VALID);
    disk_free(disk);
}

/*
 * Two histories that share a beginning: a log was copied, and both copies went on. A sector of one in the other is
 * intact by itself, is of the right incarnation, segment and position: only the chain tells.
 */
static void test_other_history(void **state) {
    (void)state;
    struct disk *disks[2];
    uint64_t proven = 0, chain;
    for (int n = 0; n < 2; n++) {
        disks[n] = disk_new(7);
        struct dlog_options options = test_options(disks[n]);
        struct dlog *log;
        uint32_t epoch;
        assert_ok(test_start(&options, &log, &epoch, &err));
        for (uint64_t s = 1; s <= 100; s++) {
            commit(log, epoch, s == 50 && n == 1 ? 150 : s); /* one decision differs; all records have equal lengths */
            if (s % 10 == 0) {
                dlog_durable(log, &proven, &chain);
                assert_ok(dlog_write(log, &err));
            }
        }
        dlog_close(log);
    }
    uint64_t size;
    uint8_t *here = disk_bytes(disks[0], "0000000000000001.seg", &size),
            *there = disk_bytes(disks[1], "0000000000000001.seg", &size);
    int differ = 0;
    for (uint64_t at = FORMAT_BLOCK; at + 512 <= size; at += 512) {
        if (memcmp(here + at, there + at, 512) == 0) {
            continue;
        }
        uint8_t *saved = malloc(size);
        memcpy(saved, here, size);
        memcpy(here + at, there + at, size - at); /* everything from here on is the other's */
        struct decisions now;
        scan(disks[0], &now);
        if (differ > 0) { /* the sector where they part may hold the whole difference: then this is the other log */
            assert_int_equal(now.committed[1][150], 0);
            assert_true(now.verdict == DLOG_CORRUPT || (now.verdict == DLOG_TORN_TAIL && now.bad_position >= proven));
        }
        memcpy(here, saved, size);
        free(saved);
        differ++;
    }
    assert_true(differ > 20);
    disk_free(disks[0]);
    disk_free(disks[1]);
}

/* The three answers about the same spot: zeros behind the end, a torn batch, a batch that was proven. */
static void test_three_answers(void **state) {
    struct fixture *f = *state;
    uint64_t size;
    uint8_t *bytes = disk_bytes(f->disk, f->names[2], &size);
    uint64_t used = size;
    while (bytes[used - 1] == 0) {
        used--;
    }
    struct decisions now;
    bytes[used + 100] = 1; /* something was being written when the machine stopped */
    scan(f->disk, &now);
    assert_int_equal(now.verdict, DLOG_TORN_TAIL);
    assert_memory_equal(now.committed, f->whole.committed, sizeof now.committed);
    bytes[used + 100] = 0;
    bytes[used - 20] ^= 1; /* in the last record, which nothing proves */
    scan(f->disk, &now);
    assert_int_equal(now.verdict, DLOG_TORN_TAIL);
    assert_true(now.bad_position >= f->proven);
    assert_int_equal(now.committed[2][22], 0);
    assert_int_equal(now.committed[2][21], 1);
    /* a mark proves the rest */
    bytes[used - 20] ^= 1;
    struct dlog_options options = test_options(f->disk);
    struct dlog *log;
    uint32_t epoch;
    uint64_t end;
    assert_ok(test_start(&options, &log, &epoch, &err));
    assert_ok(dlog_mark(log, 10, &end));
    assert_ok(dlog_write(log, &err));
    dlog_close(log);
    char names[8][64];
    assert_int_equal(disk_list(f->disk, ".seg", names, 8), 4);
    bytes = disk_bytes(f->disk, names[3], &size);
    bytes[FORMAT_BLOCK + 60] ^= 1; /* the first record of the new segment */
    assert_refused(f->disk, names[3]);
    bytes[FORMAT_BLOCK + 60] ^= 1;
    bytes = disk_bytes(f->disk, names[2], &size);
    bytes[used - 20] ^= 1; /* the old last batch: written again, so it may be bad now */
    memset(f->whole.ended, 0, sizeof f->whole.ended);
    scan(f->disk, &now);
    assert_int_equal(now.verdict, DLOG_VALID);
    assert_memory_equal(now.committed, f->whole.committed, sizeof now.committed);
    bytes[used - 2000] ^= 1; /* the one before: durable */
    assert_refused(f->disk, names[2]);
}

/* Damage at random, several at once, then opening and going on: never an assertion, never a decision more than there
 * was. */
static void test_fuzz(void **state) {
    struct fixture *f = *state;
    uint64_t random = 99;
    for (int round = 0; round < (int)(500 / TEST_STEP); round++) {
        struct disk *disk = disk_clone(f->disk);
        for (uint64_t n = 1 + (unit_random(&random) >> 20) % 4; n > 0; n--) {
            uint64_t size;
            uint8_t *bytes = disk_bytes(disk, f->names[(unit_random(&random) >> 20) % f->count], &size);
            uint64_t at = (unit_random(&random) >> 20) % size, length = 1 + (unit_random(&random) >> 20) % 64;
            switch ((unit_random(&random) >> 20) % 3) {
            case 0:
                for (uint64_t i = at; i < size && i < at + length; i++) {
                    bytes[i] = (uint8_t)unit_random(&random);
                }
                break;
            case 1: /* moved */
                memmove(bytes + at, bytes + (unit_random(&random) >> 20) % (size - size / 8),
                        size - at < size / 8 ? size - at : size / 8);
                break;
            default:
                memset(bytes + at, 0xff, length < size - at ? length : size - at);
                break;
            }
        }
        struct dlog_options options = test_options(disk);
        struct dlog *log;
        uint32_t epoch;
        enum ls_status status = test_start(&options, &log, &epoch, &err);
        assert_true(status == LS_OK || status == LS_ERR_CORRUPT);
        if (status == LS_OK) {
            for (uint32_t e = 1; e < 4; e++) {
                for (uint64_t s = 1; s <= DECISIONS; s++) {
                    uint64_t position;
                    enum dlog_found found = dlog_find(log, e, s, &position);
                    assert_true(found != DLOG_FOUND || f->whole.committed[e][s] == 1);
                    /* several spots may take the last batch and its copy, or the last batches with all their proofs */
                    assert_true(found == DLOG_FOUND || f->whole.committed[e][s] == 0 || e == 2 || s > 324);
                }
            }
            dlog_close(log);
        }
        disk_free(disk);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_every_bit, setup_one, teardown),
        cmocka_unit_test_setup_teardown(test_every_bit, setup_several, teardown),
        cmocka_unit_test_setup_teardown(test_every_length, setup_one, teardown),
        cmocka_unit_test_setup_teardown(test_every_length, setup_several, teardown),
        cmocka_unit_test_setup_teardown(test_every_sector, setup_one, teardown),
        cmocka_unit_test_setup_teardown(test_every_sector, setup_several, teardown),
        cmocka_unit_test_setup_teardown(test_files, setup, teardown),
        cmocka_unit_test(test_other_history),
        cmocka_unit_test_setup_teardown(test_three_answers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fuzz, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
