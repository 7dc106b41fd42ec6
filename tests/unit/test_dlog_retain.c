/*
 * test_dlog_retain.c: hazards D6 and 1.13: removal never drops an open decision or one inside the window, what replay
 * needs is carried along, the log does not grow without end, and what is gone is called "beyond the horizon", never
 * "absent".
 */
#include "tests/unit/unit.h"

#include "coordinator/core/saga_log.h"
#include "coordinator/dlog/format.h"
#include "lockstep.pb-c.h"
#include "tests/unit/dlog_disk.h"

static struct ls_error err;

struct fixture {
    struct disk *disk;
    struct dlog_options options;
    struct dlog *log;
    uint32_t epoch;
    uint64_t next, running_ms;
};

static int setup(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    f->disk = disk_new(3);
    f->options = test_options(f->disk);
    f->next = 1;
    *state = f;
    return 0;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    dlog_close(f->log);
    disk_free(f->disk);
    free(f);
    return 0;
}

static void start(struct fixture *f) {
    assert_ok(test_start(&f->options, &f->log, &f->epoch, &err));
    assert_ok(dlog_maintain(f->log, 0, &err));
    assert_ok(dlog_write(f->log, &err));
    f->running_ms = 0;
    f->next = 1;
}

static void restart(struct fixture *f) {
    dlog_close(f->log);
    f->log = NULL;
    disk_crash(f->disk, DISK_LOSES);
    start(f);
}

/* `count` decisions, all but every `open_every`-th ended; one second of running time for each ten. */
static void work(struct fixture *f, int count, int open_every) {
    uint8_t payload[TEST_PAYLOAD];
    uint64_t position, end;
    for (int i = 0; i < count; i++) {
        uint64_t s = f->next++;
        assert_ok(
            dlog_append_commit(f->log, f->epoch, s, payload, test_commit(f->epoch, s, 2, payload), &position, &end));
        if (open_every == 0 || s % (uint64_t)open_every != 0) {
            assert_ok(dlog_append_end(f->log, f->epoch, s, &end));
        }
        if (i % 10 == 9) {
            assert_ok(dlog_write(f->log, &err));
            f->running_ms += 1000;
            assert_ok(dlog_maintain(f->log, f->running_ms, &err));
            assert_ok(dlog_write(f->log, &err));
        }
    }
}

static struct dlog_stats stats_of(struct fixture *f) {
    struct dlog_stats stats;
    dlog_get_stats(f->log, &stats);
    return stats;
}

/* Everything after the horizon is found, everything before it is called so; nothing is "absent" that was committed. */
static void check_window(struct fixture *f, uint32_t epoch, uint64_t last, int open_every) {
    struct dlog_stats stats = stats_of(f);
    uint64_t position;
    for (uint64_t s = 1; s <= last; s++) {
        enum dlog_found found = dlog_find(f->log, epoch, s, &position);
        bool before = epoch < stats.horizon_epoch || (epoch == stats.horizon_epoch && s <= stats.horizon_sequence);
        bool open = open_every != 0 && s % (uint64_t)open_every == 0;
        if (open || !before) {
            assert_int_equal(found, DLOG_FOUND);
            struct dlog_record record;
            uint8_t payload[TEST_PAYLOAD];
            assert_ok(dlog_read(f->log, position, &record, &err));
            size_t length = test_commit(epoch, s, 2, payload);
            assert_true(record.length >= length);
            assert_memory_equal(record.payload, payload, length);
        } else {
            assert_int_equal(found, DLOG_BEYOND_HORIZON);
        }
    }
}

/* Whoever keeps something as long as the log does (keys) hears at once that it does not any more. */
static void test_horizon_goes_with_the_index(void **state) {
    enum { COUNT = 3000 };
    struct fixture *f = *state;
    static uint64_t positions[COUNT + 1];
    uint8_t payload[TEST_PAYLOAD];
    uint64_t gone = 0, position, end;
    f->options.bytes_max = 5 * f->options.segment_bytes;
    start(f);
    for (uint64_t s = 1; s <= COUNT; s++) {
        size_t length = test_commit(f->epoch, s, 2, payload);
        assert_ok(dlog_append_commit(f->log, f->epoch, s, payload, length, &positions[s], &end));
        assert_ok(dlog_append_end(f->log, f->epoch, s, &end));
        if (s % 10 == 0) {
            assert_ok(dlog_write(f->log, &err));
            assert_ok(dlog_maintain(f->log, s * 100, &err));
            while (gone < s && dlog_find(f->log, f->epoch, gone + 1, &position) != DLOG_FOUND) {
                gone++;
            }
            assert_true(stats_of(f).horizon_position >= positions[gone]);
            assert_true(stats_of(f).horizon_position <= positions[gone + 1] || gone == s);
        }
    }
    assert_true(gone > COUNT / 2);
}

static void test_by_bytes(void **state) {
    struct fixture *f = *state;
    f->options.bytes_max = 5 * f->options.segment_bytes;
    start(f);
    work(f, 4000, 97);
    struct dlog_stats stats = stats_of(f);
    assert_true(stats.bytes <=
                7 * (uint64_t)f->options.segment_bytes); /* the bound, the one on its way out, the current one */
    assert_true(stats.oldest_position > 0);
    assert_int_equal(stats.horizon_epoch, 1);
    assert_true(stats.horizon_sequence > 2000 && stats.horizon_sequence < 4000);
    assert_int_equal(stats.open_decisions, 4000 / 97);
    assert_int_equal(stats.spares, 3);
    char names[64][64];
    assert_true(disk_list(f->disk, ".seg", names, 64) <= 8);
    check_window(f, 1, 4000, 97);
    restart(f);
    struct dlog_stats again = stats_of(f);
    assert_true(again.horizon_sequence >= stats.horizon_sequence); /* remembered, not computed from what is left */
    assert_int_equal(again.open_decisions, stats.open_decisions);
    check_window(f, 1, 4000, 97);
    /* the next life pushes the rest of the first one out; its open decisions stay */
    work(f, 3000, 0);
    check_window(f, 1, 4000, 97);
    check_window(f, 2, 3000, 0);
    assert_int_equal(stats_of(f).horizon_epoch, 2);
    restart(f);
    check_window(f, 1, 4000, 97);
    /* one by one they end, and go with their segment */
    uint64_t end;
    for (uint64_t s = 97; s <= 4000; s += 97) {
        assert_ok(dlog_append_end(f->log, 1, s, &end));
    }
    assert_int_equal(stats_of(f).open_decisions, 0);
    work(f, 3000, 0);
    uint64_t position;
    assert_int_equal(dlog_find(f->log, 1, 97, &position), DLOG_BEYOND_HORIZON);
    restart(f);
    assert_int_equal(dlog_find(f->log, 1, 97, &position), DLOG_BEYOND_HORIZON);
}

static void test_by_time(void **state) {
    struct fixture *f = *state;
    f->options.retention_ms = 60000; /* 600 decisions, of several lives */
    start(f);
    work(f, 500, 0);
    assert_int_equal(stats_of(f).oldest_position, 0); /* inside the window nothing goes */
    restart(f);
    assert_true(stats_of(f).running_ms >=
                40000); /* the last mark or header; time that was not recorded does not count */
    work(f, 100, 0);
    assert_int_equal(stats_of(f).horizon_epoch, 0);
    check_window(f, 1, 500, 0);
    work(f, 900, 0);
    struct dlog_stats stats = stats_of(f);
    assert_int_equal(stats.horizon_epoch, 2);
    /* what is younger than 60 s is all there */
    uint64_t position;
    for (uint64_t s = 1000 - 600; s <= 1000; s++) {
        assert_int_equal(dlog_find(f->log, 2, s, &position), DLOG_FOUND);
    }
    check_window(f, 1, 500, 0);
    check_window(f, 2, 1000, 0);
    assert_true(stats.horizon_running_ms > 0);
    /* standing still, the log forgets nothing: retention counts running time */
    for (int i = 0; i < 100; i++) {
        assert_ok(dlog_maintain(f->log, f->running_ms, &err));
        assert_ok(dlog_write(f->log, &err));
    }
    assert_int_equal(stats_of(f).horizon_sequence, stats.horizon_sequence);
}

/* An idle log lets go, too: it makes its own proof. */
static void test_idle(void **state) {
    struct fixture *f = *state;
    f->options.retention_ms = 1000;
    start(f);
    work(f, 100, 0);
    struct dlog_stats before = stats_of(f);
    uint8_t payload[TEST_PAYLOAD];
    uint64_t position, end;
    for (int i = 0; i < 200 && stats_of(f).segments == before.segments;
         i++) { /* a new segment, so that there is one to let go */
        uint64_t s = f->next++;
        assert_ok(
            dlog_append_commit(f->log, f->epoch, s, payload, test_commit(f->epoch, s, 2, payload), &position, &end));
        assert_ok(dlog_append_end(f->log, f->epoch, s, &end));
    }
    assert_ok(dlog_write(f->log, &err));
    assert_true(stats_of(f).segments == before.segments + 1);
    for (int second = 1; second <= 5; second++) {
        f->running_ms += 1000;
        assert_ok(dlog_maintain(f->log, f->running_ms, &err));
        assert_ok(dlog_write(f->log, &err));
    }
    assert_int_equal(stats_of(f).segments, 1);
    uint64_t position_before = stats_of(f).append_position;
    for (int second = 1; second <= 5; second++) { /* and then it is quiet */
        assert_ok(dlog_maintain(f->log, f->running_ms, &err));
        assert_false(dlog_dirty(f->log));
    }
    assert_int_equal(stats_of(f).append_position, position_before);
}

struct found {
    uint64_t participants[5], hazards, audits, epochs, last_epoch;
};

static enum ls_status on_record(void *context, const struct dlog_record *record) {
    struct found *found = context;
    struct format_fields fields;
    assert_true(format_read_fields(record->payload, record->length, &fields));
    if (record->type == DLOG_PARTICIPANT) {
        found->participants[fields.value[1]]++;
    }
    found->hazards += record->type == DLOG_HAZARD;
    found->audits += record->type == DLOG_AUDIT;
    found->epochs += record->type == DLOG_EPOCH;
    found->last_epoch = record->type == DLOG_EPOCH ? fields.value[3] : found->last_epoch;
    return LS_OK;
}

/* Registry, hazards, audits and the epoch outlive the segments they were written in, once each. */
static void test_carried(void **state) {
    struct fixture *f = *state;
    f->options.bytes_max = 3 * f->options.segment_bytes;
    start(f);
    restart(f);
    uint8_t payload[256];
    uint64_t position, end;
    for (uint32_t number = 1; number <= 3; number++) {
        assert_ok(dlog_append(f->log, DLOG_PARTICIPANT, payload, test_participant(number, "orders", payload), &position,
                              &end));
    }
    assert_ok(dlog_append(f->log, DLOG_PARTICIPANT, payload, test_participant(2, "renamed", payload), &position, &end));
    assert_ok(dlog_append(f->log, DLOG_HAZARD, payload, test_hazard(1, 5, 1, payload), &position, &end));
    assert_ok(
        dlog_append(f->log, DLOG_HAZARD, payload, test_hazard(2, 700, 1, payload), &position, &end)); /* ends below */
    assert_ok(dlog_append(f->log, DLOG_AUDIT, payload, test_audit("orders 0a1b2c3d4e5f", payload), &position, &end));
    for (int round = 0; round < 3; round++) {
        work(f, 1500, 0);
        assert_true(stats_of(f).oldest_position > position);
        struct found found = {.hazards = 0};
        struct dlog_report report;
        assert_ok(dlog_scan("/data", disk_io(f->disk), on_record, &found, &report, &err));
        assert_int_equal(report.verdict, DLOG_VALID);
        for (int number = 1; number <= 3; number++) {
            assert_true(found.participants[number] >= 1 && found.participants[number] <= 3);
        }
        assert_true(found.hazards >= 1 && found.hazards <= 3);
        assert_true(found.audits >= 1 && found.audits <= 3);
        assert_int_equal(found.last_epoch, f->epoch);
        position = stats_of(f).oldest_position;
        dlog_close(f->log);
        f->log = NULL;
        disk_crash(f->disk, DISK_LOSES);
        uint32_t epoch = f->epoch;
        start(f);
        assert_int_equal(f->epoch, epoch + 1); /* though the record that said so was written in a segment long gone */
    }
}

/* A decision that is open for a long time is carried again and again, and its copy says that it is one. */
static void test_long_open(void **state) {
    struct fixture *f = *state;
    f->options.bytes_max = 3 * f->options.segment_bytes;
    start(f);
    work(f, 500, 1); /* 500 open decisions: more than a segment has room for beside its own records */
    uint64_t position, last = 0;
    for (int round = 0; round < 6; round++) {
        work(f, 800, 0);
        assert_int_equal(stats_of(f).open_decisions, 500);
        assert_int_equal(dlog_find(f->log, 1, 250, &position), DLOG_FOUND);
        assert_true(position > last);
        last = position;
        struct dlog_record record;
        struct format_fields fields;
        assert_ok(dlog_read(f->log, position, &record, &err));
        assert_true(format_read_fields(record.payload, record.length, &fields));
        assert_int_equal(fields.value[FORMAT_FIELD_RELOGGED], 1);
        assert_int_equal(record.length, test_commit(1, 250, 2, (uint8_t[TEST_PAYLOAD]){0}) +
                                            FORMAT_COMMIT_COPY_EXTRA); /* once, not longer each time */
    }
    restart(f);
    assert_int_equal(stats_of(f).open_decisions, 500);
}

/* On a full disk the log works with what it has: old segments come back as spares, nothing inside the window is given
 * up. */
static void test_full_disk(void **state) {
    struct fixture *f = *state;
    f->options.bytes_max = 5 * f->options.segment_bytes;
    start(f);
    work(f, 2000, 0);
    disk_set_full(f->disk, true);
    uint8_t payload[TEST_PAYLOAD];
    uint64_t position, end;
    for (int i = 0; i < 3000; i++) {
        uint64_t s = f->next;
        enum ls_status status =
            dlog_append_commit(f->log, f->epoch, s, payload, test_commit(f->epoch, s, 2, payload), &position, &end);
        if (status == LS_OK) {
            f->next++;
            assert_ok(dlog_append_end(f->log, f->epoch, s, &end));
        } else {
            assert_int_equal(status, LS_ERR_FULL);
            assert_int_equal(dlog_room(f->log), 0);
        }
        if (i % 10 == 0) {
            assert_ok(dlog_write(f->log, &err));
            status = dlog_maintain(f->log, ++f->running_ms, &err);
            assert_true(status == LS_OK || status == LS_ERR_FULL);
            if (status == LS_ERR_FULL) {
                break;
            }
        }
    }
    assert_non_null(strstr(err.text, "No space left on device"));
    disk_set_full(f->disk, false);
    assert_ok(dlog_maintain(f->log, f->running_ms, &err));
    assert_true(dlog_room(f->log) > 0);
    check_window(f, 1, f->next - 1, 0);
}

/* ------------------------------------------------------------------ sagas */

static size_t saga_begin(uint64_t sequence, uint8_t *out) {
    Lockstep__LogSagaBegin m = LOCKSTEP__LOG_SAGA_BEGIN__INIT;
    m.epoch = 1;
    m.sequence = sequence;
    m.app = (char[]){"app/checkout"};
    m.document = (ProtobufCBinaryData){.len = 20, .data = (uint8_t *)(uintptr_t) "{\"mode\":\"saga\",...}"};
    return lockstep__log_saga_begin__pack(&m, out);
}
static size_t saga_phase(uint64_t sequence, enum saga_state phase, uint8_t *out) {
    Lockstep__LogSagaPhase m = LOCKSTEP__LOG_SAGA_PHASE__INIT;
    m.epoch = 1;
    m.sequence = sequence;
    m.state = phase;
    m.has_from = true;
    m.from = SAGA_PASSED;
    return lockstep__log_saga_phase__pack(&m, out);
}
static size_t saga_end(uint64_t sequence, uint8_t *out) {
    Lockstep__LogSagaEnd m = LOCKSTEP__LOG_SAGA_END__INIT;
    m.epoch = 1;
    m.sequence = sequence;
    m.state = SAGA_COMPLETED;
    return lockstep__log_saga_end__pack(&m, out);
}

static void put_saga(struct fixture *f, enum dlog_type type, uint64_t sequence, enum saga_state phase) {
    uint8_t payload[TEST_PAYLOAD];
    size_t length = type == DLOG_SAGA_BEGIN   ? saga_begin(sequence, payload)
                    : type == DLOG_SAGA_PHASE ? saga_phase(sequence, phase, payload)
                                              : saga_end(sequence, payload);
    uint64_t position, end;
    assert_ok(dlog_append(f->log, type, payload, length, &position, &end));
}

static enum ls_status on_fold(void *context, const struct dlog_record *record) {
    return saga_fold_record(context, record->type, record->position, record->payload, record->length, &err);
}

/* The open sagas that a start would find: "sequence:state ...". */
static void open_sagas(struct fixture *f, char *out, size_t size) {
    struct saga_fold *fold = saga_fold_new();
    struct dlog_report report;
    const struct saga_found **list;
    size_t count, used = 0;
    assert_ok(dlog_scan("/data", disk_io(f->disk), on_fold, fold, &report, &err));
    assert_int_equal(report.verdict, DLOG_VALID);
    assert_ok(saga_fold_open(fold, &list, &count, &err));
    out[0] = '\0';
    for (size_t i = 0; i < count; i++) {
        const Lockstep__LogSagaPhase *phase = list[i]->phase;
        used += (size_t)snprintf(out + used, size - used, "%s%llu:%s", i > 0 ? " " : "",
                                 (unsigned long long)list[i]->sequence,
                                 phase == NULL ? "begun" : saga_state_name((enum saga_state)phase->state));
        assert_string_equal(list[i]->begin->app, "app/checkout");
    }
    free(list);
    saga_fold_free(fold);
}

static void assert_open(struct fixture *f, const char *expected) {
    char found[512];
    open_sagas(f, found, sizeof found);
    assert_string_equal(found, expected);
}

/* An open saga, dead letters included, outlives the segments it was written in; one that has ended goes with them, and
 * none is taken for a decision. */
static void test_sagas_carried(void **state) {
    struct fixture *f = *state;
    f->options.bytes_max = 3 * f->options.segment_bytes;
    start(f);
    const uint64_t base = 1000000; /* out of the way of work() */
    put_saga(f, DLOG_SAGA_BEGIN, base + 1, 0);
    put_saga(f, DLOG_SAGA_BEGIN, base + 2, 0);
    put_saga(f, DLOG_SAGA_PHASE, base + 2, SAGA_PASSED);
    put_saga(f, DLOG_SAGA_PHASE, base + 2, SAGA_STUCK);
    put_saga(f, DLOG_SAGA_BEGIN, base + 3, 0);
    put_saga(f, DLOG_SAGA_PHASE, base + 3, SAGA_COMPENSATING);
    put_saga(f, DLOG_SAGA_END, base + 3, 0);
    uint64_t position;
    struct dlog_saga found;
    assert_ok(dlog_write(f->log, &err));
    assert_open(f, "1000001:begun 1000002:stuck");
    assert_true(dlog_find_saga(f->log, 1, base + 3, &found));
    assert_true(found.begin != 0 && found.phase > found.begin && found.end > found.phase);
    assert_int_equal(dlog_find(f->log, 1, base + 1, &position), DLOG_ABSENT);
    for (int round = 0; round < 4; round++) {
        work(f, 1500, 0);
        assert_true(stats_of(f).oldest_position > found.end);
        assert_open(f, "1000001:begun 1000002:stuck");
        assert_false(dlog_find_saga(f->log, 1, base + 3, &(struct dlog_saga){0}));
        assert_true(dlog_find_saga(f->log, 1, base + 2, &found));
        assert_true(found.begin != 0 && found.phase != 0 && found.end == 0);
        f->next += 10; /* restart() begins with 1 in a new epoch */
        restart(f);
        assert_open(f, "1000001:begun 1000002:stuck");
    }
    put_saga(f, DLOG_SAGA_END, base + 2, 0);
    assert_ok(dlog_write(f->log, &err));
    assert_open(f, "1000001:begun");
    work(f, 3000, 0);
    assert_open(f, "1000001:begun");
}

/* The end may be told to a participant, which then forgets its barrier rows: nothing that a start writes again, or a
 * crash in the middle of that, may bring the saga back. */
static void test_saga_end_is_final(void **state) {
    struct fixture *f = *state;
    f->options.bytes_max = 3 * f->options.segment_bytes;
    start(f);
    put_saga(f, DLOG_SAGA_BEGIN, 7, 0);
    put_saga(f, DLOG_SAGA_PHASE, 7, SAGA_PASSED);
    put_saga(f, DLOG_SAGA_END, 7, 0); /* all in the last batch: a start writes it again */
    put_saga(f, DLOG_SAGA_BEGIN, 8, 0);
    assert_ok(dlog_write(f->log, &err));
    for (int round = 0; round < 5; round++) {
        restart(f);
        assert_open(f, "8:begun");
    }
    work(f, 4000, 0);
    assert_open(f, "8:begun");
}

static void test_saga_fold_refuses_nonsense(void **state) {
    (void)state;
    struct saga_fold *fold = saga_fold_new();
    const uint8_t garbage[] = {0xff, 0xff, 0xff};
    uint8_t payload[TEST_PAYLOAD];
    for (int type = DLOG_SAGA_BEGIN; type <= DLOG_SAGA_END; type++) {
        assert_int_equal(saga_fold_record(fold, (enum dlog_type)type, 1, garbage, sizeof garbage, &err),
                         LS_ERR_CORRUPT);
    }
    assert_int_equal(saga_fold_record(fold, DLOG_SAGA_PHASE, 1, payload, saga_phase(1, SAGA_COMPLETED, payload), &err),
                     LS_ERR_CORRUPT);
    assert_ok(saga_fold_record(fold, DLOG_SAGA_PHASE, 1, payload, saga_phase(1, SAGA_PASSED, payload), &err));
    const struct saga_found **list;
    size_t count;
    assert_int_equal(saga_fold_open(fold, &list, &count, &err), LS_ERR_CORRUPT); /* a phase without a begin */
    assert_ok(saga_fold_record(fold, DLOG_SAGA_END, 1, payload, saga_end(1, payload), &err));
    assert_ok(saga_fold_record(fold, DLOG_SAGA_BEGIN, 2, payload, saga_begin(1, payload), &err)); /* behind its end */
    assert_ok(saga_fold_open(fold, &list, &count, &err));
    assert_int_equal(count, 0);
    free(list);
    saga_fold_free(fold);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_horizon_goes_with_the_index, setup, teardown),
        cmocka_unit_test_setup_teardown(test_by_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_by_time, setup, teardown),
        cmocka_unit_test_setup_teardown(test_idle, setup, teardown),
        cmocka_unit_test_setup_teardown(test_carried, setup, teardown),
        cmocka_unit_test_setup_teardown(test_long_open, setup, teardown),
        cmocka_unit_test_setup_teardown(test_full_disk, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sagas_carried, setup, teardown),
        cmocka_unit_test_setup_teardown(test_saga_end_is_final, setup, teardown),
        cmocka_unit_test(test_saga_fold_refuses_nonsense),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
