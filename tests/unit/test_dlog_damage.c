/*
 * test_dlog_damage.c: hazard D4: a lost COMMIT record silently means ABORT. Every bit that matters of a log is changed,
 * every length cut, sectors and files are lost, doubled, or taken from another history. Allowed are: the same
 * decisions; a refusal that says where; and the loss of the last batch, as long as nothing proved it durable.
 */
#include "tests/unit/unit.h"

#include "coordinator/dlog/format.h"
#include "coordinator/dlog/segment.h"
#include "tests/unit/dlog_disk.h"

static struct ls_error err;

enum { DECISIONS = 400 };

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

struct fixture {
    struct disk *disk;
    struct decisions whole;
    uint64_t proven; /* everything before it is known to be durable */
    char names[32][64];
    size_t count;
};

static void commit(struct dlog *log, uint32_t epoch, uint64_t s) {
    uint8_t payload[TEST_PAYLOAD];
    uint64_t position, end;
    assert_ok(dlog_append_commit(log, epoch, s, payload, test_commit(epoch, s, 2, payload), &position, &end));
}

/*
 * Three segments and an unproven last batch: life 1 fills more than a segment, ends in a batch without proof, and dies;
 * life 2 writes that again, goes on, and ends in two decisions that no mark follows.
 */
static void build(struct disk *disk, uint64_t *ret_proven) {
    struct dlog_options options = test_options(disk);
    struct dlog *log;
    uint32_t epoch;
    uint64_t end;
    assert_ok(test_start(&options, &log, &epoch, &err));
    for (uint64_t s = 1; s <= 330; s++) {
        commit(log, epoch, s);
        if (s % 4 == 0) {
            assert_ok(dlog_append_end(log, epoch, s, &end));
        }
        if (s % 6 == 0) {
            assert_ok(dlog_write(log, &err));
        }
    }
    dlog_close(log);
    assert_ok(test_start(&options, &log, &epoch, &err));
    for (uint64_t s = 1; s <= 20; s++) {
        commit(log, epoch, s);
        if (s % 5 == 0) {
            assert_ok(dlog_write(log, &err));
        }
    }
    uint64_t chain;
    dlog_durable(log, ret_proven, &chain);
    commit(log, epoch, 21);
    commit(log, epoch, 22);
    assert_ok(dlog_write(log, &err));
    dlog_close(log);
    disk_crash(disk, DISK_LOSES);
}

static int setup(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    f->disk = disk_new(1);
    build(f->disk, &f->proven);
    scan(f->disk, &f->whole);
    assert_int_equal(f->whole.verdict, DLOG_VALID);
    f->count = disk_list(f->disk, ".seg", f->names, 32);
    assert_int_equal(f->count, 3);
    *state = f;
    return 0;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    disk_free(f->disk);
    free(f);
    return 0;
}

/* Refused, or nothing lost but the two decisions that nothing proves. */
static void judge(struct fixture *f, const char *what, uint64_t at) {
    struct decisions now;
    scan(f->disk, &now);
    if (now.verdict == DLOG_CORRUPT) {
        return;
    }
    for (uint32_t e = 1; e < 4; e++) {
        for (uint64_t s = 1; s <= DECISIONS; s++) {
            bool may_go = e == 2 && s > 20;
            if (now.committed[e][s] != f->whole.committed[e][s] &&
                !(may_go && now.verdict == DLOG_TORN_TAIL && now.bad_position >= f->proven)) {
                fail_msg("%s at %llu: decision %u.%llu is gone, and the log is called %s", what, (unsigned long long)at,
                         e, (unsigned long long)s, now.verdict == DLOG_VALID ? "valid" : "torn");
            }
        }
    }
}

static void test_every_byte(void **state) {
    struct fixture *f = *state;
    int refused = 0, torn = 0, same = 0;
    for (size_t n = 0; n < f->count; n++) {
        uint64_t size;
        uint8_t *bytes = disk_bytes(f->disk, f->names[n], &size);
        uint64_t used = size;
        while (used > 0 && bytes[used - 1] == 0) {
            used--;
        }
        used = used + 600 < size ? used + 600 : size; /* and some of the zeros behind */
        bool all = getenv("DLOG_ALL") !=
                   NULL; /* else the middle of a full segment, which looks the same everywhere, in steps */
        for (uint64_t i = 0; i < used; i += all ? 1 : i < 8192 || i + 4096 > used ? TEST_STEP : 11 * TEST_STEP) {
            uint8_t before = bytes[i];
            bytes[i] ^= (uint8_t)(1u << (i % 8));
            judge(f, f->names[n], i);
            struct decisions now;
            if (i % 16 == 0) {
                scan(f->disk, &now);
                refused += now.verdict == DLOG_CORRUPT;
                torn += now.verdict == DLOG_TORN_TAIL;
                same += now.verdict == DLOG_VALID;
                bytes[i] = before == 0 ? 0xff : 0;
                judge(f, f->names[n], i);
            }
            bytes[i] = before;
        }
    }
    assert_true(refused > 400 && torn > 5 && same > 0);
}

static void test_every_length(void **state) {
    struct fixture *f = *state;
    for (size_t n = 0; n < f->count; n++) {
        uint64_t size;
        disk_bytes(f->disk, f->names[n], &size);
        for (uint64_t cut = 0; cut < size; cut += getenv("DLOG_ALL") != NULL ? 1 : (cut < 4200 ? 1 : 29) * TEST_STEP) {
            disk_cut(f->disk, f->names[n], cut);
            judge(f, f->names[n], cut);
        }
        disk_cut(f->disk, f->names[n], size);
        judge(f, "whole", 0);
    }
}

/* A run of sectors that reads as zeros: what a disk returns that lost writes it had confirmed. */
static void test_lost_sectors(void **state) {
    struct fixture *f = *state;
    uint8_t saved[16 * 512];
    for (size_t n = 0; n < f->count; n++) {
        uint64_t size;
        uint8_t *bytes = disk_bytes(f->disk, f->names[n], &size);
        uint64_t used = size;
        while (bytes[used - 1] == 0) {
            used--;
        }
        for (uint64_t at = 0; at + sizeof saved <= size; at += 512 * TEST_STEP) {
            for (size_t sectors = 1; sectors <= 16; sectors *= 4) {
                if (n + 1 == f->count && at < used && at + sectors * 512 > used - 240) {
                    continue; /* the last proof goes with what it proved: only the agents, who were shown the position,
                                 can tell */
                }
                memcpy(saved, bytes + at, sectors * 512);
                memset(bytes + at, 0, sectors * 512);
                judge(f, f->names[n], at);
                memcpy(bytes + at, saved, sectors * 512);
            }
        }
    }
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
        cmocka_unit_test_setup_teardown(test_every_byte, setup, teardown),
        cmocka_unit_test_setup_teardown(test_every_length, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lost_sectors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_files, setup, teardown),
        cmocka_unit_test(test_other_history),
        cmocka_unit_test_setup_teardown(test_three_answers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fuzz, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
