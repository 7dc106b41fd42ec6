/*
 * test_dlog_reorder.c: hazards D4, D5: a power failure at any moment, on a disk that does not keep the order of what
 * was not synced.
 *
 * Method: lives of a log run on a port that writes down every operation. For each moment of that journal a disk is made
 * as a crash there may leave it: all prefixes (everything up to there, the last write torn at each of several sectors);
 * and reorderings: what a sync has confirmed is there; of the rest any sectors, in any order, from any write; of the
 * names, which file systems keep in order, the first few changes. A log starts from that disk, twice, with a power
 * failure between. Seen if wrong: a start that is refused, an acknowledged decision that is gone or differs, one that
 * is there at the first start and not at the second, a position that was shown and is not of this log any more.
 *
 * `make check` takes a few workloads, `make damage` (DLOG_ALL=1) 100 with 100 reorderings each; DLOG_SEED shifts them.
 */
#include "tests/unit/unit.h"

#include "coordinator/dlog/format.h"
#include "tests/unit/dlog_disk.h"

static struct ls_error err;

#define SECTOR 512u
enum { ENTRIES = 8192, FILES = 256, EPOCHS = 32, SEQUENCES = 200, SHOWN = 2048, NEVER = 1 << 30 };

enum entry_kind { WRITE, TRUNCATE, SYNC, CREATE, RENAME, UNLINK, SYNC_NAMES };
struct entry {
    enum entry_kind kind;
    int file; /* not a descriptor: the file itself */
    uint64_t offset, length;
    uint8_t *data; /* NULL: zeros */
    char from[64], to[64];
};

/* What was said to whom, and when: the count of entries then. */
struct story {
    struct entry entries[ENTRIES];
    int count;
    int acknowledged[EPOCHS][SEQUENCES], ended[EPOCHS][SEQUENCES], appended[EPOCHS][SEQUENCES];
    struct {
        int at;
        uint64_t position, chain;
    } shown[SHOWN];
    int shown_count;
    uint32_t epochs;
    uint64_t seed, random;
};

static struct story *story;
static const struct dlog_io *inner;
static int file_of[64]; /* by descriptor */
static struct {
    char name[64];
    int file;
} names[FILES];
static int name_count, file_count;

/* ------------------------------------------------------------ writing it down */

static int named(const char *name) {
    for (int i = 0; i < name_count; i++) {
        if (strcmp(names[i].name, name) == 0) return i;
    }
    return -1;
}

static struct entry *note(enum entry_kind kind) {
    assert_true(story->count < ENTRIES);
    struct entry *entry = &story->entries[story->count++];
    entry->kind = kind;
    return entry;
}

static int journal_open(void *context, const char *dir, const char *name, bool create, bool writable) {
    int fd = inner->open(context, dir, name, create, writable);
    if (fd >= 0 && create) {
        assert_true(name_count < FILES && named(name) < 0);
        snprintf(names[name_count].name, sizeof names[0].name, "%s", name);
        names[name_count++].file = file_count;
        struct entry *entry = note(CREATE);
        entry->file = file_count++;
        snprintf(entry->to, sizeof entry->to, "%s", name);
    }
    if (fd >= 0) file_of[fd] = names[named(name)].file;
    return fd;
}

static void note_write(int fd, const void *data, uint64_t offset, uint64_t length) {
    struct entry *entry = note(WRITE);
    entry->file = file_of[fd];
    entry->offset = offset;
    entry->length = length;
    if (data != NULL) {
        entry->data = malloc(length);
        memcpy(entry->data, data, length);
    }
}

static ssize_t journal_pwrite(void *context, int fd, const void *buffer, size_t length, uint64_t offset) {
    note_write(fd, buffer, offset, length);
    return inner->pwrite(context, fd, buffer, length, offset);
}
static int journal_allocate(void *context, int fd, uint64_t length) {
    note_write(fd, NULL, 0, length);
    return inner->allocate(context, fd, length);
}
static int journal_truncate(void *context, int fd, uint64_t length) {
    struct entry *entry = note(TRUNCATE);
    entry->file = file_of[fd];
    entry->length = length;
    return inner->truncate(context, fd, length);
}
static int journal_fdatasync(void *context, int fd) {
    int status = inner->fdatasync(context, fd);
    note(SYNC)->file = file_of[fd];
    return status;
}
static int journal_rename(void *context, const char *dir, const char *from, const char *to) {
    int at = named(from);
    struct entry *entry = note(RENAME);
    entry->file = names[at].file;
    snprintf(entry->from, sizeof entry->from, "%s", from);
    snprintf(entry->to, sizeof entry->to, "%s", to);
    snprintf(names[at].name, sizeof names[at].name, "%s", to);
    return inner->rename(context, dir, from, to);
}
static int journal_unlink(void *context, const char *dir, const char *name) {
    int at = named(name);
    if (at >= 0) {
        struct entry *entry = note(UNLINK);
        snprintf(entry->from, sizeof entry->from, "%s", name);
        names[at] = names[--name_count];
    }
    return inner->unlink(context, dir, name);
}
static int journal_sync_dir(void *context, const char *dir) {
    int status = inner->sync_dir(context, dir);
    (void)note(SYNC_NAMES);
    return status;
}

/* ------------------------------------------------------------------- the lives */

static uint64_t below(uint64_t bound) {
    return (unit_random(&story->random) >> 20) % bound;
}

static void write_out(struct dlog *log, uint32_t epoch) {
    assert_ok(dlog_write(log, &err));
    for (int s = 1; s < SEQUENCES; s++) {
        if (story->appended[epoch][s] != NEVER && story->acknowledged[epoch][s] == NEVER) {
            story->acknowledged[epoch][s] = story->count;
        }
    }
    assert_true(story->shown_count < SHOWN);
    dlog_durable(log, &story->shown[story->shown_count].position, &story->shown[story->shown_count].chain);
    story->shown[story->shown_count++].at = story->count;
}

static void live(struct dlog *log, uint32_t epoch, int rounds) {
    uint8_t payload[TEST_PAYLOAD];
    uint64_t position, end, running_ms = 0;
    int next = 1;
    for (int round = 0; round < rounds; round++) {
        for (uint64_t n = below(14); n > 0 && next < SEQUENCES; n--) {
            size_t length = test_commit(epoch, (uint64_t)next, 1 + (size_t)next % 5, payload);
            if (dlog_append_commit(log, epoch, (uint64_t)next, payload, length, &position, &end) == LS_OK) {
                story->appended[epoch][next++] = story->count;
            }
        }
        for (uint64_t n = below(12); n > 0; n--) {
            uint32_t e = 1 + (uint32_t)below(epoch);
            int s = 1 + (int)below(SEQUENCES - 1);
            if (story->acknowledged[e][s] != NEVER && story->ended[e][s] == NEVER &&
                dlog_append_end(log, e, (uint64_t)s, &end) == LS_OK) {
                story->ended[e][s] = story->count;
            }
        }
        if (below(3) > 0) write_out(log, epoch);
        if (below(4) == 0 && dlog_wants_mark(log)) assert_ok(dlog_mark(log, running_ms, &end));
        if (below(2) == 0) {
            enum ls_status status = dlog_maintain(log, running_ms += 1000, &err);
            assert_true(status == LS_OK || status == LS_ERR_FULL);
        }
    }
}

static void write_story(uint64_t seed) {
    story = calloc(1, sizeof *story);
    story->seed = seed;
    story->random = seed * 0x9e3779b97f4a7c15u + 1;
    for (int e = 0; e < EPOCHS; e++) {
        for (int s = 0; s < SEQUENCES; s++) {
            story->acknowledged[e][s] = story->ended[e][s] = story->appended[e][s] = NEVER;
        }
    }
    name_count = file_count = 0;
    struct disk *disk = disk_new(seed);
    inner = disk_io(disk);
    struct dlog_io io = *inner;
    io.open = journal_open, io.pwrite = journal_pwrite, io.allocate = journal_allocate, io.truncate = journal_truncate;
    io.fdatasync = journal_fdatasync, io.rename = journal_rename, io.unlink = journal_unlink;
    io.sync_dir = journal_sync_dir;
    struct dlog_options options = test_options(disk);
    options.io = &io;
    options.bytes_max = (64u << 10) * (1 + below(6));
    options.spares = 2 + (uint32_t)below(2);
    for (int lives = 1 + (int)below(4); lives > 0; lives--) {
        struct dlog *log;
        uint32_t epoch;
        assert_ok(test_start(&options, &log, &epoch, &err));
        story->epochs = epoch;
        live(log, epoch, 8 + (int)below(40));
        dlog_close(log); /* the process dies; the page cache stays */
    }
    disk_free(disk);
}

static void free_story(void) {
    for (int i = 0; i < story->count; i++) {
        free(story->entries[i].data);
    }
    free(story);
    story = NULL;
}

/* --------------------------------------------------------- what a crash leaves */

struct image {
    uint8_t *bytes[FILES];
    uint64_t size[FILES], capacity[FILES];
};

static void put(struct image *image, int file, const uint8_t *data, uint64_t offset, uint64_t length) {
    if (offset + length > image->capacity[file]) {
        uint64_t capacity = (offset + length + 4095) / 4096 * 4096;
        image->bytes[file] = realloc(image->bytes[file], capacity);
        memset(image->bytes[file] + image->capacity[file], 0, capacity - image->capacity[file]);
        image->capacity[file] = capacity;
    }
    if (data == NULL) {
        memset(image->bytes[file] + offset, 0, length);
    } else {
        memcpy(image->bytes[file] + offset, data, length);
    }
    if (offset + length > image->size[file]) image->size[file] = offset + length;
}

/* Sectors of one write that reach the disk: all, or each with a chance of one half, the changed bytes of it. */
static void apply(struct image *image, const struct entry *entry, bool all) {
    if (entry->kind == TRUNCATE) {
        if (image->size[entry->file] > entry->length) image->size[entry->file] = entry->length;
        return;
    }
    for (uint64_t at = entry->offset, end = entry->offset + entry->length; at < end;) {
        uint64_t next = (at / SECTOR + 1) * SECTOR < end ? (at / SECTOR + 1) * SECTOR : end;
        if (all || below(2) == 0) {
            put(image, entry->file, entry->data == NULL ? NULL : entry->data + (at - entry->offset), at, next - at);
        }
        at = next;
    }
}

static void apply_name(const struct entry *entry) {
    int at = entry->kind == CREATE ? -1 : named(entry->from);
    if (entry->kind == UNLINK) {
        names[at] = names[--name_count];
    } else if (entry->kind == RENAME) {
        snprintf(names[at].name, sizeof names[at].name, "%s", entry->to);
    } else {
        snprintf(names[name_count].name, sizeof names[0].name, "%s", entry->to);
        names[name_count++].file = entry->file;
    }
}

static bool is_data(const struct entry *entry) {
    return entry->kind == WRITE || entry->kind == TRUNCATE;
}
static bool is_name(const struct entry *entry) {
    return entry->kind == CREATE || entry->kind == RENAME || entry->kind == UNLINK;
}

/* A crash after `count` entries. Ordered: everything as it was issued, of the last write the first `torn` sectors only.
 */
static struct disk *crash_image(int count, bool ordered, int torn) {
    struct image image = {.size = {0}};
    int synced[FILES], names_synced = 0, loose[ENTRIES], loose_count = 0, name_changes = 0, kept = 0;
    memset(synced, 0, sizeof synced);
    name_count = 0;
    for (int i = 0; i < count; i++) {
        if (story->entries[i].kind == SYNC) synced[story->entries[i].file] = i;
        if (story->entries[i].kind == SYNC_NAMES) names_synced = i;
    }
    for (int i = 0; i < count; i++) {
        const struct entry *entry = &story->entries[i];
        if (is_name(entry) && i > names_synced) name_changes++;
        if (!is_data(entry)) continue;
        if (ordered && i + 1 == count && torn >= 0 && entry->kind == WRITE) {
            struct entry part = *entry;
            part.length = entry->length < (uint64_t)torn * SECTOR ? entry->length : (uint64_t)torn * SECTOR;
            apply(&image, &part, true);
        } else if (ordered || i < synced[entry->file]) {
            apply(&image, entry, true);
        } else {
            loose[loose_count++] = i;
        }
    }
    for (int i = 0; i < loose_count; i++) { /* in any order */
        int other = i + (int)below((uint64_t)(loose_count - i)), picked = loose[other];
        loose[other] = loose[i];
        apply(&image, &story->entries[picked], below(4) == 0);
    }
    int keep = ordered ? name_changes : (int)below((uint64_t)name_changes + 1);
    for (int i = 0; i < count; i++) {
        const struct entry *entry = &story->entries[i];
        if (is_name(entry) && (i < names_synced || kept++ < keep)) apply_name(entry);
    }
    struct disk *disk = disk_new(story->random);
    for (int i = 0; i < name_count; i++) {
        static const uint8_t nothing[1];
        int file = names[i].file;
        disk_put(disk, names[i].name, image.bytes[file] == NULL ? nothing : image.bytes[file], image.size[file]);
    }
    for (int i = 0; i < FILES; i++) {
        free(image.bytes[i]);
    }
    return disk;
}

/* ------------------------------------------------------------------- the judge */

#define check(condition, ...)                                                                                     \
    do {                                                                                                          \
        if (!(condition)) {                                                                                       \
            fprintf(stderr, "DLOG_SEED=%llu, crash after %d of %d, %s: ", (unsigned long long)story->seed, count, \
                    story->count, what);                                                                          \
            fprintf(stderr, __VA_ARGS__);                                                                         \
            fprintf(stderr, "\n");                                                                                \
            fail();                                                                                               \
        }                                                                                                         \
    } while (0)

static void judge_decisions(struct dlog *log, const char *what, int count, bool found_before[EPOCHS][SEQUENCES],
                            bool first) {
    uint8_t payload[TEST_PAYLOAD];
    for (uint32_t e = 1; e <= story->epochs; e++) {
        for (int s = 1; s < SEQUENCES; s++) {
            uint64_t position;
            bool found = story->appended[e][s] <= count && dlog_find(log, e, (uint64_t)s, &position) == DLOG_FOUND;
            if (found) {
                struct dlog_record record;
                check(dlog_read(log, position, &record, &err) == LS_OK, "%u.%d: %s", e, s, err.text);
                size_t length = test_commit(e, (uint64_t)s, 1 + (size_t)s % 5, payload);
                check(record.length >= length && memcmp(record.payload, payload, length) == 0, "%u.%d has changed", e,
                      s);
            } else {
                bool gone =
                    story->ended[e][s] <= count && dlog_find(log, e, (uint64_t)s, &position) == DLOG_BEYOND_HORIZON;
                check(story->acknowledged[e][s] > count || gone, "%u.%d was acknowledged and is gone", e, s);
                check(first || !found_before[e][s] || gone, "%u.%d was there at the first start only", e, s);
            }
            check(first || !found || found_before[e][s], "%u.%d was there at the second start only", e, s);
            found_before[e][s] = found;
        }
    }
}

static void judge(struct disk *disk, int count, const char *what) {
    static bool found[EPOCHS][SEQUENCES];
    struct dlog_options options = test_options(disk);
    for (int life = 0; life < 2; life++) {
        struct dlog *log;
        uint32_t epoch;
        enum ls_status status = test_start(&options, &log, &epoch, &err);
        check(status == LS_OK, "the start says %s: %s", ls_status_name(status), err.text);
        judge_decisions(log, what, count, found, life == 0);
        struct dlog_stats stats;
        dlog_get_stats(log, &stats);
        for (int i = 0; i < story->shown_count && story->shown[i].at <= count; i++) {
            uint64_t chain;
            if (story->shown[i].position < stats.oldest_position) continue;
            check(dlog_chain_at(log, story->shown[i].position, &chain) == LS_OK && chain == story->shown[i].chain,
                  "position %llu was shown and is not of this log", (unsigned long long)story->shown[i].position);
        }
        dlog_close(log);
        disk_crash(disk, DISK_LOSES);
    }
    disk_free(disk);
}

static uint64_t first_seed(void) {
    const char *text = getenv("DLOG_SEED");
    return text == NULL ? 1 : strtoull(text, NULL, 10);
}

static void test_crashes(void **state) {
    (void)state;
    bool all = getenv("DLOG_ALL") != NULL;
    uint64_t stories = all ? 100 : TEST_STEP == 1u ? 4 : 1, entries = 0, prefixes = 0, reorderings = 0;
    for (uint64_t seed = first_seed(); stories > 0; stories--, seed++) {
        write_story(seed);
        entries += (uint64_t)story->count;
        for (int count = 0; count <= story->count; count += all ? 1 : 1 + (int)below(16)) {
            judge(crash_image(count, true, -1), count, "prefix");
            judge(crash_image(count, true, (int)below(12)), count, "torn prefix");
            prefixes += 2;
        }
        for (int i = 0; i < (all ? 100 : 25); i++) {
            int count = (int)below((uint64_t)story->count + 1);
            judge(crash_image(count, false, -1), count, "reordered");
            reorderings++;
        }
        free_story();
    }
    printf("%llu operations: %llu prefixes, %llu reorderings\n", (unsigned long long)entries,
           (unsigned long long)prefixes, (unsigned long long)reorderings);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crashes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
