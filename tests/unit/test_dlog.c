/* test_dlog.c: the decision log when nothing goes wrong: round trip, group commit, segments, index, chain, reserve. */
#include "tests/unit/unit.h"

#include <xxhash.h>

#include "coordinator/dlog/format.h"
#include "coordinator/dlog/index.h"
#include "coordinator/dlog/segment.h"
#include "tests/unit/dlog_disk.h"

static struct ls_error err;

struct fixture {
    struct disk *disk;
    struct dlog_options options;
    struct dlog *log;
    uint32_t epoch;
};

static int setup(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    f->disk = disk_new(1);
    f->options = test_options(f->disk);
    if (test_start(&f->options, &f->log, &f->epoch, &err) != LS_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    assert_ok(dlog_maintain(f->log, 0, &err));
    *state = f;
    return 0;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    dlog_close(f->log);
    assert_int_equal(disk_open_files(f->disk), 0);
    disk_free(f->disk);
    free(f);
    return 0;
}

static void commit(struct fixture *f, uint64_t sequence) {
    uint8_t payload[TEST_PAYLOAD];
    uint64_t position, end;
    assert_ok(dlog_append_commit(f->log, f->epoch, sequence, payload, test_commit(f->epoch, sequence, 2, payload),
                                 &position, &end));
}

static void write_log(struct fixture *f) {
    assert_ok(dlog_write(f->log, &err));
    assert_ok(dlog_maintain(f->log, 0, &err)); /* tops up the spares */
}

static void reopen(struct fixture *f, enum disk_crash crash) {
    dlog_close(f->log);
    f->log = NULL;
    disk_crash(f->disk, crash);
    assert_ok(test_start(&f->options, &f->log, &f->epoch, &err));
}

/* ------------------------------------------------------------------ format */

static void test_varint_fields(void **state) {
    (void)state;
    struct format_fields fields;
    uint8_t payload[TEST_PAYLOAD];
    size_t length = test_commit(7, 123456789, 3, payload);
    assert_true(format_read_fields(payload, length, &fields));
    assert_int_equal(fields.value[1], 7);
    assert_int_equal(fields.value[2], 123456789);
    assert_int_equal(fields.value[FORMAT_FIELD_RELOGGED], 0);
    memcpy(payload + length, format_relogged, sizeof format_relogged);
    assert_true(format_read_fields(payload, length + 2, &fields));
    assert_int_equal(fields.value[FORMAT_FIELD_RELOGGED], 1);
    for (size_t cut = 1; cut < 4; cut++) {
        assert_false(format_read_fields(payload, length + 2 - cut * 2 + (cut == 1 ? 1 : 0), &fields) && cut == 1);
    }
    static const uint8_t group[] = {0x0b}, endless[] = {0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1},
                         beyond[] = {0x0a, 5, 1};
    assert_false(format_read_fields(group, sizeof group, &fields));
    assert_false(format_read_fields(endless, sizeof endless, &fields));
    assert_false(format_read_fields(beyond, sizeof beyond, &fields));
}

static void test_record_bytes(void **state) {
    (void)state;
    /* the layout that docs/log-format.md promises, byte by byte */
    uint8_t record[64];
    format_begin_record(record, DLOG_END, "\x08\x01\x10\x02", 4, NULL, 0);
    uint64_t seed = format_seed(TEST_INCARNATION, 3);
    uint64_t checksum = format_seal_record(record, seed, 0x1122334455667788, 4096, 9, 4000);
    assert_int_equal(format_record_size(4), 56);
    static const uint8_t wanted[] = {0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0,    0x10, 0,  0, 0, 0, 0, 0,
                                     9,    0,    0,    0,    0,    0,    0,    0,    0xa0, 0x0f, 0,  0, 0, 0, 0, 0,
                                     4,    0,    0,    0,    3,    0,    0,    0,    8,    1,    16, 2, 0, 0, 0, 0};
    assert_memory_equal(record + 8, wanted, sizeof wanted);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(record[i], checksum >> (8 * i) & 0xff);
    }
    struct format_record r;
    assert_true(format_check_record(record, 56, seed, 4096, &r));
    assert_int_equal(r.sequence, 9);
    assert_int_equal(r.durable, 4000);
    assert_false(format_check_record(record, 55, seed, 4096, &r));
    assert_false(format_check_record(record, 56, seed, 4104, &r));
    assert_false(
        format_check_record(record, 56, format_seed(TEST_INCARNATION, 4), 4096, &r)); /* the same file, recycled */
    for (size_t i = 0; i < 56; i++) {
        for (int bit = 0; bit < 8; bit++) {
            record[i] ^= (uint8_t)(1 << bit);
            assert_false(format_check_record(record, 56, seed, 4096, &r));
            record[i] ^= (uint8_t)(1 << bit);
        }
    }
}

static void test_names(void **state) {
    (void)state;
    char name[SEGMENT_NAME_BYTES];
    uint64_t number;
    segment_name(42, name);
    assert_string_equal(name, "000000000000002a.seg");
    assert_int_equal(segment_parse_name(name, &number), SEGMENT_LOG);
    assert_int_equal(number, 42);
    segment_spare_name(7, name);
    assert_int_equal(segment_parse_name(name, &number), SEGMENT_SPARE);
    segment_unready_name(7, name);
    assert_int_equal(segment_parse_name(name, &number), SEGMENT_UNREADY);
    static const char *const others[] = {"",       "lost+found", "000000000000002A.seg", "000000000000002a.seg~",
                                         "2a.seg", "free-.seg",  "000000000000002g.seg"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        assert_int_equal(segment_parse_name(others[i], &number), SEGMENT_OTHER);
    }
}

/* ------------------------------------------------------------------- index */

static void test_index(void **state) {
    (void)state;
    struct index index = {.slots = NULL};
    struct open_set open = {.slots = NULL};
    uint64_t random = 7, position = 8;
    enum { KEYS = 20000 };
    static uint64_t where[3][KEYS];
    memset(where, 0, sizeof where);
    for (int i = 0; i < 60000; i++) {
        struct dlog_key key = {.epoch = 1 + (uint32_t)(unit_random(&random) >> 20) % 3,
                               .sequence = 1 + (unit_random(&random) >> 20) % (KEYS - 1)};
        position += 8;
        assert_ok(index_reserve(&index, key));
        index_set(&index, key, position);
        assert_ok(open_reserve(&open));
        open_put(&open, key, position);
        where[key.epoch - 1][key.sequence] = position;
    }
    /* nothing below the middle stays, the horizon is the highest that went */
    uint64_t below = position / 2, kept = 0;
    struct dlog_key horizon = {0, 0}, wanted = {0, 0};
    index_drop_below(&index, below, &horizon);
    for (uint32_t e = 0; e < 3; e++) {
        for (uint64_t s = 0; s < KEYS; s++) {
            struct dlog_key key = {.epoch = e + 1, .sequence = s};
            uint64_t at = where[e][s];
            if (at != 0 && at < below) {
                wanted = key;
            }
            kept += at >= below && at != 0;
            assert_int_equal(index_get(&index, key), at >= below ? at : 0);
            assert_int_equal(open_has(&open, key), at != 0);
            assert_int_equal(open_remove(&open, key), at != 0);
            assert_false(open_has(&open, key));
        }
    }
    assert_int_equal(dlog_key_compare(horizon, wanted), 0);
    assert_int_equal(index.entries, kept);
    assert_int_equal(open.count, 0);
    index_drop_below(&index, UINT64_MAX, &horizon);
    assert_int_equal(index.count, 0); /* memory follows what is kept */
    index_free(&index);
    open_free(&open);
}

/* ---------------------------------------------------------------- the log */

static void test_group_commit(void **state) {
    struct fixture *f = *state;
    struct dlog_stats before, after;
    dlog_get_stats(f->log, &before);
    uint64_t syncs = disk_syncs(f->disk);
    for (uint64_t s = 1; s <= 50; s++) {
        commit(f, s);
    }
    assert_true(dlog_dirty(f->log));
    uint64_t durable, chain, later;
    dlog_durable(f->log, &durable, &chain);
    assert_int_equal(durable, before.durable_position); /* nothing is durable before dlog_write */
    assert_ok(dlog_write(f->log, &err));
    assert_false(dlog_dirty(f->log));
    dlog_get_stats(f->log, &after);
    assert_int_equal(disk_syncs(f->disk) - syncs, 1); /* 50 decisions, one forced write */
    assert_int_equal(after.syncs - before.syncs, 1);
    assert_int_equal(after.batches - before.batches, 1);
    dlog_durable(f->log, &later, &chain);
    assert_int_equal(later, after.append_position);
    assert_ok(dlog_write(f->log, &err)); /* nothing to do, nothing done */
    assert_int_equal(disk_syncs(f->disk) - syncs, 1);
}

struct seen {
    uint64_t commits, ends, epochs, marks, records, last_sequence, relogged;
};

static enum ls_status on_seen(void *context, const struct dlog_record *record) {
    struct seen *seen = context;
    struct format_fields fields;
    assert_true(format_read_fields(record->payload, record->length, &fields));
    assert_true(record->sequence > seen->last_sequence);
    assert_true(record->durable <= record->position && record->end > record->position);
    seen->last_sequence = record->sequence;
    seen->records++;
    seen->commits += record->type == DLOG_COMMIT;
    seen->relogged += record->type == DLOG_COMMIT && fields.value[FORMAT_FIELD_RELOGGED] == 1;
    seen->ends += record->type == DLOG_END;
    seen->epochs += record->type == DLOG_EPOCH;
    seen->marks += record->type == DLOG_MARK;
    return LS_OK;
}

static void test_round_trip(void **state) {
    struct fixture *f = *state;
    uint8_t payload[TEST_PAYLOAD];
    uint64_t position, end, previous_end = 0;
    struct dlog_record record;
    for (uint64_t s = 1; s <= 700; s++) { /* several segments of 64 KiB */
        size_t length = test_commit(f->epoch, s, 1 + s % 3, payload);
        assert_ok(dlog_append_commit(f->log, f->epoch, s, payload, length, &position, &end));
        assert_true(position >= previous_end && end > position);
        previous_end = end;
        assert_int_equal(dlog_read(f->log, position, &record, &err),
                         LS_ERR_BUSY); /* known, and not to be answered from */
        if (s % 3 == 0) {
            assert_ok(dlog_append_end(f->log, f->epoch, s, &end));
        }
        if (s % 7 == 0) {
            write_log(f);
        }
    }
    write_log(f);
    struct dlog_stats stats;
    dlog_get_stats(f->log, &stats);
    assert_true(stats.segments >= 3);
    assert_int_equal(stats.open_decisions, 700 - 233);
    for (int life = 0; life < 2; life++) {
        for (uint64_t s = 1; s <= 700; s++) {
            assert_int_equal(dlog_find(f->log, 1, s, &position), DLOG_FOUND);
            assert_ok(dlog_read(f->log, position, &record, &err));
            assert_int_equal(record.type, DLOG_COMMIT);
            assert_int_equal(record.position, position);
            size_t length = test_commit(1, s, 1 + s % 3, payload);
            assert_memory_equal(record.payload, payload, length);
            if (record.length != length) { /* a copy, of the last batch */
                assert_int_equal(record.length, length + 2);
            }
        }
        assert_int_equal(dlog_find(f->log, 1, 701, &position), DLOG_ABSENT);
        assert_int_equal(dlog_find(f->log, 3, 1, &position), DLOG_NEVER_ISSUED);
        assert_int_equal(dlog_find(f->log, 0, 1, &position), DLOG_NEVER_ISSUED);
        struct seen seen = {0}, kept = {0}, open = {0};
        struct dlog_report report;
        assert_ok(dlog_scan("/data", disk_io(f->disk), on_seen, &seen, &report, &err));
        assert_int_equal(report.verdict, DLOG_VALID);
        assert_string_equal(report.coordinator, "shop");
        assert_string_equal(report.incarnation, TEST_INCARNATION);
        assert_int_equal(report.last_epoch, life + 1);
        assert_int_equal(seen.commits - seen.relogged, 700);
        assert_ok(dlog_each_commit(f->log, on_seen, &kept, &err));
        assert_int_equal(kept.commits, 700);
        assert_int_equal(kept.records, 700);
        assert_ok(dlog_each_open(f->log, on_seen, &open, &err));
        assert_int_equal(open.records, 700 - 233);
        reopen(f, life == 0 ? DISK_LOSES : DISK_KEEPS);
        dlog_get_stats(f->log, &stats);
        assert_int_equal(stats.open_decisions, 700 - 233);
        assert_int_equal(stats.cut_bytes, 0);
    }
}

static void test_roll(void **state) {
    struct fixture *f = *state;
    struct dlog_stats before, after;
    dlog_get_stats(f->log, &before);
    for (uint64_t s = 1; s <= 400; s++) { /* one batch over several segments */
        commit(f, s);
    }
    /* 2 spares + the one kept for a start; the current segment was the third: all are used, and appending stops */
    uint64_t position, end;
    uint8_t payload[TEST_PAYLOAD];
    enum ls_status status = LS_OK;
    uint64_t s = 401;
    for (; status == LS_OK; s++) {
        status =
            dlog_append_commit(f->log, f->epoch, s, payload, test_commit(f->epoch, s, 2, payload), &position, &end);
    }
    assert_int_equal(status, LS_ERR_FULL);
    assert_int_equal(dlog_room(f->log), 0);
    assert_int_equal(dlog_find(f->log, f->epoch, s - 1, &position), DLOG_ABSENT); /* what was refused is nowhere */
    assert_ok(dlog_write(f->log, &err));
    dlog_get_stats(f->log, &after);
    assert_int_equal(after.segments, before.segments + 3);
    assert_int_equal(after.spares, 0);
    assert_ok(dlog_maintain(f->log, 0, &err));
    dlog_get_stats(f->log, &after);
    assert_int_equal(after.spares, 3);
    assert_true(dlog_room(f->log) > 0);
    commit(f, s);
    reopen(f, DISK_LOSES);
    for (uint64_t i = 1; i < s - 1; i++) {
        assert_int_equal(dlog_find(f->log, 1, i, &position), DLOG_FOUND);
    }
    assert_int_equal(dlog_find(f->log, 1, s, &position), DLOG_ABSENT); /* never written */
}

static void test_chain_at(void **state) {
    struct fixture *f = *state;
    enum { BATCHES = 150 };
    uint64_t positions[BATCHES], chains[BATCHES], chain;
    for (uint64_t s = 0; s < BATCHES; s++) {
        commit(f, 2 * s + 1);
        commit(f, 2 * s + 2);
        write_log(f);
        dlog_durable(f->log, &positions[s], &chains[s]);
    }
    for (int life = 0; life < 3; life++) {
        for (int i = 0; i < BATCHES; i++) {
            assert_ok(dlog_chain_at(f->log, positions[i], &chain));
            assert_int_equal(chain, chains[i]);
            assert_int_equal(dlog_chain_at(f->log, positions[i] - 4, &chain), LS_ERR_NOT_FOUND);
            assert_int_equal(dlog_chain_at(f->log, positions[i] - 8, &chain), LS_ERR_NOT_FOUND);
        }
        assert_ok(dlog_chain_at(f->log, 0, &chain));
        assert_int_equal(chain, 0);
        assert_int_equal(dlog_chain_at(f->log, positions[BATCHES - 1] + (1u << 20), &chain), LS_ERR_NOT_FOUND);
        reopen(f, DISK_LOSES);
    }
    /* a log with another history has other checksums at the same positions */
    struct disk *disk = disk_new(2);
    struct dlog_options options = test_options(disk);
    struct fixture other = {.disk = disk, .options = options};
    assert_ok(test_start(&options, &other.log, &other.epoch, &err));
    commit(&other, 2);
    commit(&other, 1);
    write_log(&other);
    assert_ok(dlog_chain_at(other.log, positions[0], &chain));
    assert_int_not_equal(chain, chains[0]);
    dlog_close(other.log);
    disk_free(disk);
}

static void test_mark(void **state) {
    struct fixture *f = *state;
    uint64_t end;
    assert_true(dlog_wants_mark(f->log)); /* the first batch stands without proof */
    assert_ok(dlog_mark(f->log, 1000, &end));
    assert_false(dlog_wants_mark(f->log)); /* not idle */
    assert_ok(dlog_write(f->log, &err));
    assert_false(dlog_wants_mark(f->log));
    commit(f, 1);
    assert_ok(dlog_write(f->log, &err));
    assert_true(dlog_wants_mark(f->log));
    assert_ok(dlog_mark(f->log, 2000, &end));
    assert_ok(dlog_write(f->log, &err));
    assert_false(dlog_wants_mark(f->log));
    reopen(f, DISK_LOSES);
    struct dlog_stats stats;
    dlog_get_stats(f->log, &stats);
    assert_int_equal(stats.running_ms, 2000);
    assert_ok(dlog_mark(f->log, 500, &end));
    assert_ok(dlog_write(f->log, &err));
    reopen(f, DISK_LOSES);
    dlog_get_stats(f->log, &stats);
    assert_int_equal(stats.running_ms, 2500); /* of all lives */
    assert_int_equal(stats.settled_epoch, 0);
    assert_ok(dlog_mark_settled(f->log, 600, 1, 7, &end)); /* and every later mark says it again */
    assert_ok(dlog_mark(f->log, 700, &end));
    assert_ok(dlog_write(f->log, &err));
    reopen(f, DISK_LOSES);
    dlog_get_stats(f->log, &stats);
    assert_int_equal(stats.settled_epoch, 1);
    assert_int_equal(stats.settled_sequence, 7);
    assert_ok(dlog_mark(f->log, 100, &end));
    assert_ok(dlog_write(f->log, &err));
    reopen(f, DISK_LOSES);
    dlog_get_stats(f->log, &stats);
    assert_int_equal(stats.settled_sequence, 7);
}

/* In order of names, over arrays and epochs, without what has gone. */
static void test_index_in_order(void **state) {
    (void)state;
    static const struct dlog_key keys[] = {{2, 600}, {1, 5}, {2, 1}, {1, 100000}, {1, 512}, {3, 7}, {1, 511}};
    static const struct dlog_key expected[] = {{1, 5}, {1, 511}, {1, 512}, {1, 100000}, {2, 1}, {2, 600}};
    struct index index = {0};
    struct dlog_key at = {0, 0}, horizon = {0, 0};
    assert_false(index_next(&index, at, &at));
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        assert_ok(index_reserve(&index, keys[i]));
        index_set(&index, keys[i], keys[i].epoch == 3 ? 10 : 100 + i);
    }
    index_drop_below(&index, 50, &horizon);
    at = (struct dlog_key){0, 0};
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        assert_true(index_next(&index, at, &at));
        assert_int_equal(dlog_key_compare(at, expected[i]), 0);
    }
    assert_false(index_next(&index, at, &at));
    index_free(&index);
}

/* A restart writes again what stands without proof, and only that. */
static void test_relog(void **state) {
    struct fixture *f = *state;
    for (uint64_t s = 1; s <= 300; s++) {
        commit(f, s);
        if (s % 100 == 0) {
            write_log(f);
        }
    }
    uint64_t end;
    assert_ok(dlog_append_end(f->log, f->epoch, 250, &end));
    write_log(f); /* the last batch: one end, which proves the decisions */
    reopen(f, DISK_LOSES);
    struct seen seen = {0};
    struct dlog_report report;
    assert_ok(dlog_scan("/data", disk_io(f->disk), on_seen, &seen, &report, &err));
    assert_int_equal(seen.relogged, 0);
    commit(f, 1);
    commit(f, 2);
    assert_ok(dlog_append_end(f->log, f->epoch, 2, &end));
    write_log(f);
    reopen(f, DISK_LOSES);
    seen = (struct seen){0};
    assert_ok(dlog_scan("/data", disk_io(f->disk), on_seen, &seen, &report, &err));
    assert_int_equal(seen.relogged, 2);
    assert_int_equal(seen.ends, 3); /* 250, 2, and 2 again behind its copy */
    struct dlog_stats stats;
    dlog_get_stats(f->log, &stats);
    assert_int_equal(stats.open_decisions, 299 + 1);
}

static void test_identity(void **state) {
    struct fixture *f = *state;
    dlog_close(f->log);
    f->log = NULL;
    struct dlog_options other = f->options;
    other.coordinator = "bank";
    struct dlog *log;
    assert_fails(dlog_open(&other, NULL, NULL, &log, &err), LS_ERR_MISMATCH,
                 "/data/log is the log of coordinator shop, not of bank");
    other = f->options;
    other.incarnation = "ffffffffffff"; /* ignored: the log has one */
    assert_ok(dlog_open(&other, NULL, NULL, &log, &err));
    assert_string_equal(dlog_incarnation(log), TEST_INCARNATION);
    dlog_close(log);
    struct dlog_options bad[] = {f->options, f->options, f->options, f->options, f->options};
    bad[0].spares = 1;
    bad[1].segment_bytes = (64u << 10) - 4096;
    bad[2].segment_bytes = (64u << 10) + 8;
    bad[3].coordinator = "a.b";
    bad[4].incarnation = "XYZ";
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(dlog_open(&bad[i], NULL, NULL, &log, &err), LS_ERR_CONFIG);
    }
}

static void test_too_large(void **state) {
    struct fixture *f = *state;
    uint8_t payload[TEST_PAYLOAD];
    uint64_t position, end;
    size_t length = test_commit(f->epoch, 1, 64, payload); /* the most branches there can be */
    assert_ok(dlog_append_commit(f->log, f->epoch, 1, payload, length, &position, &end));
    memset(payload, 0, sizeof payload);
    payload[0] = 0x7a;                                       /* field 15, bytes */
    payload[1] = 0xfc, payload[2] = 0xff, payload[3] = 0x01; /* 32764 of them */
    assert_int_equal(dlog_append(f->log, DLOG_AUDIT, payload, sizeof payload, &position, &end), LS_ERR_TOO_LARGE);
    assert_int_equal(
        dlog_append_commit(f->log, f->epoch, 3, payload, test_commit(f->epoch, 2, 1, payload), &position, &end),
        LS_ERR_INVALID);
    assert_int_equal(dlog_append(f->log, DLOG_PARTICIPANT, payload, 0, &position, &end), LS_ERR_INVALID);
}

/* What is promised by dlog_room() can be appended, in pieces of any size, in this life; and what remains of it after a
 * crash, in the next, on a disk that stays full. */
static void test_reserve(void **state) {
    struct fixture *f = *state;
    uint8_t payload[TEST_PAYLOAD];
    uint64_t random = 11, position, end, sequence = 0;
    for (int round = 0; round < 20; round++) {
        disk_set_full(f->disk, false);
        assert_ok(dlog_maintain(f->log, 0, &err));
        disk_set_full(f->disk, true);
        uint64_t promised = dlog_room(f->log), used = 0, after_crash = 0;
        assert_true(promised > 32u << 10);
        bool crash = round % 2 == 1;
        for (;;) {
            size_t branches = 1 + (size_t)(unit_random(&random) >> 30) % 64;
            size_t length = test_commit(f->epoch, ++sequence, branches, payload);
            uint64_t need = format_record_size(length) + (crash ? 2 * format_record_size(16) : 0);
            if (used + after_crash + need > promised) {
                break;
            }
            used += format_record_size(length);
            after_crash += crash ? 2 * format_record_size(16)
                                 : 0; /* an end, of which more than one may be written after a restart */
            assert_ok(dlog_append_commit(f->log, f->epoch, sequence, payload, length, &position, &end));
            if (unit_random(&random) >> 30 & 1) {
                assert_ok(dlog_write(f->log, &err));
            }
        }
        if (crash) {
            uint32_t epoch = f->epoch;
            disk_set_full(f->disk, true);
            dlog_close(f->log);
            disk_crash(f->disk, DISK_PARTS);
            assert_ok(test_start(&f->options, &f->log, &f->epoch, &err));
            for (uint64_t s = 1; s <= sequence; s++) {
                if (dlog_find(f->log, epoch, s, &position) == DLOG_FOUND) {
                    assert_ok(dlog_append_end(f->log, epoch, s, &end));
                }
            }
            sequence = 0;
        }
        assert_ok(dlog_write(f->log, &err));
    }
    disk_set_full(f->disk, false);
}

/* Starting again and again on a full disk is refused in words once no segment is left, and nothing is lost by it. */
static void test_full_disk(void **state) {
    struct fixture *f = *state;
    commit(f, 1);
    write_log(f);
    disk_set_full(f->disk, true);
    int starts = 0;
    enum ls_status status;
    do {
        dlog_close(f->log);
        f->log = NULL;
        disk_crash(f->disk, DISK_KEEPS);
        status = test_start(&f->options, &f->log, &f->epoch, &err);
        starts += status == LS_OK;
    } while (status == LS_OK && starts < 10);
    assert_int_equal(status, LS_ERR_FULL);
    assert_non_null(strstr(err.text, "No space left"));
    assert_int_equal(starts, 3); /* spares + 1 */
    disk_set_full(f->disk, false);
    assert_ok(test_start(&f->options, &f->log, &f->epoch, &err));
    uint64_t position;
    assert_int_equal(dlog_find(f->log, 1, 1, &position), DLOG_FOUND);
    struct dlog_stats stats;
    dlog_get_stats(f->log, &stats);
    assert_int_equal(stats.open_decisions, 1);
    /* segments left early give back what they do not use */
    assert_ok(dlog_maintain(f->log, 0, &err));
    dlog_get_stats(f->log, &stats);
    assert_true(stats.bytes < 2 * f->options.segment_bytes);
    reopen(f, DISK_LOSES);
    assert_int_equal(dlog_find(f->log, 1, 1, &position), DLOG_FOUND);
}

/* The configuration changed: old segments keep their size, spares are made again. */
static void test_other_sizes(void **state) {
    struct fixture *f = *state;
    static const uint32_t sizes[] = {128u << 10, 64u << 10, 96u << 10};
    uint64_t position;
    for (uint64_t s = 1; s <= 400; s++) {
        commit(f, s);
        if (s % 20 == 0) {
            write_log(f);
        }
    }
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        f->options.segment_bytes = sizes[i];
        f->options.spares = 2 + (uint32_t)i * 2 % 3;
        reopen(f, DISK_LOSES);
        for (uint64_t s = 1; s <= 400; s++) {
            commit(f, s);
            if (s % 20 == 0) {
                write_log(f);
            }
        }
        struct dlog_stats stats;
        dlog_get_stats(f->log, &stats);
        assert_int_equal(stats.spares, f->options.spares + 1);
    }
    reopen(f, DISK_LOSES);
    for (uint32_t epoch = 1; epoch <= 4; epoch++) {
        for (uint64_t s = 1; s <= 400; s++) {
            assert_int_equal(dlog_find(f->log, epoch, s, &position), DLOG_FOUND);
        }
    }
}

/* Intact, but of a program to come: refused, since it may be a decision; not called damage. */
static void test_newer_program(void **state) {
    struct fixture *f = *state;
    struct format_record last;
    uint64_t size, at = FORMAT_BLOCK, chain;
    commit(f, 1);
    commit(f, 2);
    assert_ok(dlog_write(f->log, &err));
    dlog_close(f->log);
    f->log = NULL;
    char names[4][64];
    assert_int_equal(disk_list(f->disk, ".seg", names, 4), 1);
    uint8_t *bytes = disk_bytes(f->disk, names[0], &size);
    uint64_t seed = format_seed(TEST_INCARNATION, 1);
    while (format_check_record(bytes + at, size - at, seed, at, &last)) at += format_record_size(last.length);
    at -= format_record_size(last.length);
    uint8_t *kept = malloc(size);
    memcpy(kept, bytes, size);
    for (int flag = 0; flag < 2; flag++) {
        bytes[at + (flag ? 46 : 44)] = 200;
        format_seal_record(bytes + at, seed, last.previous, at, last.sequence, last.durable);
        struct dlog *log;
        assert_int_equal(dlog_open(&f->options, NULL, NULL, &log, &err), LS_ERR_CORRUPT);
        assert_non_null(strstr(err.text, "written by a newer lockstep"));
        memcpy(bytes, kept, size);
    }
    /* the same in a segment that is not the last */
    assert_ok(test_start(&f->options, &f->log, &f->epoch, &err));
    commit(f, 3);
    assert_ok(dlog_write(f->log, &err));
    dlog_close(f->log);
    f->log = NULL;
    bytes[at + 44] = 200;
    format_seal_record(bytes + at, seed, last.previous, at, last.sequence, last.durable);
    struct dlog_report report;
    assert_ok(dlog_scan("/data", disk_io(f->disk), NULL, NULL, &report, &err));
    assert_int_equal(report.verdict, DLOG_CORRUPT);
    assert_non_null(strstr(report.why, "written by a newer lockstep"));
    memcpy(bytes, kept, size);
    /* a header of a later format */
    struct format_header header;
    assert_int_equal(format_decode_header(bytes, &header), FORMAT_GOOD);
    bytes[48] = 2;
    chain = XXH3_64bits(bytes + 16, FORMAT_BLOCK - 16);
    memcpy(bytes + 8, &chain, sizeof chain);
    assert_int_equal(format_decode_header(bytes, &header), FORMAT_NEWER);
    assert_ok(dlog_scan("/data", disk_io(f->disk), NULL, NULL, &report, &err));
    assert_int_equal(report.verdict, DLOG_CORRUPT);
    assert_string_equal(report.why, "header is of a format version this program does not know");
    memcpy(bytes, kept, size);
    assert_ok(test_start(&f->options, &f->log, &f->epoch, &err));
    free(kept);
}

/* More segments, audits and open decisions than the first arrays hold; what is open and not durable is not shown. */
static void test_long_log(void **state) {
    struct fixture *f = *state;
    uint8_t payload[TEST_PAYLOAD];
    uint64_t position, end, sequence = 0;
    struct dlog_stats stats;
    for (uint64_t n = 1; n <= 1100; n++) {
        char subject[32];
        snprintf(subject, sizeof subject, "p%llu", (unsigned long long)n);
        assert_ok(dlog_append(f->log, DLOG_AUDIT, payload, test_audit(subject, payload), &position, &end));
        if (n % 100 == 0) write_log(f);
    }
    do {
        for (int n = 0; n < 100; n++) {
            commit(f, ++sequence);
        }
        write_log(f);
        dlog_get_stats(f->log, &stats);
    } while (stats.segments < 75);
    struct seen open = {0};
    commit(f, ++sequence);
    assert_ok(dlog_each_open(f->log, on_seen, &open, &err));
    assert_int_equal(open.records,
                     sequence - 1); /* the last one is the owner's to know: nobody may be told of it yet */
    write_log(f);
    for (size_t n = 0; n < 75; n += 20) { /* the boundary behind a header */
        char names[160][64];
        uint64_t size, chain;
        struct format_header header;
        assert_true(disk_list(f->disk, ".seg", names, 160) >= stats.segments);
        assert_int_equal(format_decode_header(disk_bytes(f->disk, names[n], &size), &header), FORMAT_GOOD);
        assert_ok(dlog_chain_at(f->log, header.position + FORMAT_BLOCK, &chain));
        assert_int_equal(chain, header.checksum);
        assert_ok(dlog_chain_at(f->log, header.position, &chain));
        assert_int_equal(chain, header.previous);
    }
    reopen(f, DISK_LOSES);
    struct seen seen = {0};
    struct dlog_report report;
    assert_ok(dlog_scan("/data", disk_io(f->disk), on_seen, &seen, &report, &err));
    assert_int_equal(report.verdict, DLOG_VALID);
    dlog_get_stats(f->log, &stats);
    assert_int_equal(stats.open_decisions, sequence);
    for (uint64_t s = 1; s <= sequence; s++) {
        assert_int_equal(dlog_find(f->log, 1, s, &position), DLOG_FOUND);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_varint_fields),
        cmocka_unit_test(test_record_bytes),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_index),
        cmocka_unit_test_setup_teardown(test_group_commit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_round_trip, setup, teardown),
        cmocka_unit_test_setup_teardown(test_roll, setup, teardown),
        cmocka_unit_test_setup_teardown(test_chain_at, setup, teardown),
        cmocka_unit_test_setup_teardown(test_mark, setup, teardown),
        cmocka_unit_test(test_index_in_order),
        cmocka_unit_test_setup_teardown(test_relog, setup, teardown),
        cmocka_unit_test_setup_teardown(test_identity, setup, teardown),
        cmocka_unit_test_setup_teardown(test_too_large, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reserve, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_sizes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_full_disk, setup, teardown),
        cmocka_unit_test_setup_teardown(test_newer_program, setup, teardown),
        cmocka_unit_test_setup_teardown(test_long_log, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
