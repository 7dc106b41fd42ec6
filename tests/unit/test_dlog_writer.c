/*
 * test_dlog_writer.c: the log's threads on the real file system: group commit while appending goes on, spares made and
 * segments recycled at the same time, a sync that fails, the end. Run under TSan by `make tsan`. Prints its rates;
 * asserts only what is far below them.
 */
#include "tests/unit/unit.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "coordinator/dlog/writer.h"
#include "tests/unit/dlog_disk.h"

static struct ls_error err;

struct fixture {
    char dir[64];
    struct dlog_options options;
    struct dlog *log;
    struct dlog_writer *writer;
    uint32_t epoch;
};

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Of this process: what other programs of the machine take does not count. */
static double cpu_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int setup(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    snprintf(f->dir, sizeof f->dir, "/tmp/test_dlog.XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    f->options = (struct dlog_options){.dir = f->dir,
                                       .coordinator = "shop",
                                       .incarnation = TEST_INCARNATION,
                                       .segment_bytes = 1u << 20,
                                       .bytes_max = 1u << 30,
                                       .retention_ms = 3600000,
                                       .spares = 2,
                                       .io = dlog_io_posix()};
    *state = f;
    return 0;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    (void)!dlog_writer_stop(f->writer, NULL); /* a test that failed left it running */
    dlog_close(f->log);
    char path[512];
    snprintf(path, sizeof path, "%s/log", f->dir);
    DIR *dir = opendir(path);
    const struct dirent *entry;
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        char file[1024];
        snprintf(file, sizeof file, "%s/%s", path, entry->d_name);
        unlink(file);
    }
    closedir(dir);
    rmdir(path);
    assert_int_equal(rmdir(f->dir), 0);
    free(f);
    return 0;
}

static void start(struct fixture *f) {
    assert_ok(test_start(&f->options, &f->log, &f->epoch, &err));
    assert_ok(dlog_writer_start(f->log, &f->writer, &err));
}

static void stop(struct fixture *f) {
    assert_ok(dlog_writer_stop(f->writer, &err));
    f->writer = NULL;
    dlog_close(f->log);
    f->log = NULL;
}

static void wait_event(struct fixture *f) {
    struct pollfd p = {.fd = dlog_writer_fd(f->writer), .events = POLLIN};
    assert_int_equal(poll(&p, 1, 60000), 1); /* else: the writer did not report a batch within 60 s */
}

/* No spare segment is ready: lets the log remove what it may and the preparer work, which has no event of its own (the
 * daemon looks once a second, and has reserved the room before). False after 60 s, which no disk explains. */
static bool wait_for_room(struct fixture *f, uint64_t sequence, double since) {
    enum ls_status status = dlog_maintain(f->log, sequence, &err);
    assert_true(status == LS_OK || status == LS_ERR_FULL);
    dlog_writer_kick(f->writer);
    poll(NULL, 0, 1);
    return now_s() < since + 60;
}

static void append(struct fixture *f, uint64_t sequence, uint64_t *ret_end) {
    uint8_t payload[TEST_PAYLOAD];
    uint64_t position;
    size_t length = test_commit(f->epoch, sequence, 2, payload);
    enum ls_status status;
    double since = now_s();
    while ((status = dlog_append_commit(f->log, f->epoch, sequence, payload, length, &position, ret_end)) ==
           LS_ERR_FULL) {
        assert_true(wait_for_room(f, sequence, since));
    }
    assert_int_equal(status, LS_OK);
}

static void append_end(struct fixture *f, uint64_t sequence, uint64_t *ret_end) {
    enum ls_status status;
    double since = now_s();
    while ((status = dlog_append_end(f->log, f->epoch, sequence, ret_end)) == LS_ERR_FULL) {
        assert_true(wait_for_room(f, sequence, since));
    }
    assert_int_equal(status, LS_OK);
}

/* 64 clients, each with one decision under way: the load of the benchmark, without PostgreSQL. */
static void test_group_commit(void **state) {
    struct fixture *f = *state;
    f->options.segment_bytes = 4u << 20;
    start(f);
    enum { CLIENTS = 64, DECISIONS = 20000 };
    uint64_t ends[CLIENTS] = {0}, next = 1, done = 0, durable, chain;
    bool waiting[CLIENTS] = {false};
    struct dlog_stats before, after;
    dlog_get_stats(f->log, &before);
    double begin = now_s();
    while (done < DECISIONS) {
        bool appended = false;
        for (int c = 0; c < CLIENTS && next <= DECISIONS; c++) {
            if (!waiting[c]) {
                append(f, next++, &ends[c]);
                waiting[c] = appended = true;
            }
        }
        if (appended) {
            dlog_writer_kick(f->writer);
        }
        wait_event(f);
        assert_ok(dlog_writer_check(f->writer, &err));
        dlog_durable(f->log, &durable, &chain);
        for (int c = 0; c < CLIENTS; c++) {
            if (waiting[c] && ends[c] <= durable) {
                waiting[c] = false;
                done++;
            }
        }
    }
    double took = now_s() - begin;
    dlog_get_stats(f->log, &after);
    printf("%d decisions in %.2f s: %.0f/s, %.1f per sync\n", DECISIONS, took, DECISIONS / took,
           DECISIONS / (double)(after.syncs - before.syncs));
    assert_true((after.syncs - before.syncs) * 4 < DECISIONS);
    stop(f);
    struct dlog_report report;
    assert_ok(dlog_scan(f->dir, dlog_io_posix(), NULL, NULL, &report, &err));
    assert_int_equal(report.verdict, DLOG_VALID);
    assert_true(report.records >= DECISIONS);
    assert_ok(test_start(&f->options, &f->log, &f->epoch, &err));
    uint64_t position;
    for (uint64_t s = 1; s <= DECISIONS; s++) {
        assert_int_equal(dlog_find(f->log, 1, s, &position), DLOG_FOUND);
    }
}

/* Segments fill, leave the window and come back, while decisions stay open and are carried; the owner reads all the
 * time. */
static void test_recycling(void **state) {
    struct fixture *f = *state;
    f->options.segment_bytes = 64u << 10;
    f->options.bytes_max = 6 * (64u << 10);
    start(f);
    enum { DECISIONS = 6000 };
    uint64_t end, position;
    struct dlog_record record;
    for (uint64_t s = 1; s <= DECISIONS; s++) {
        append(f, s, &end);
        if (s % 50 != 0) { /* every fiftieth stays open */
            append_end(f, s, &end);
        }
        dlog_writer_kick(f->writer);
        if (s % 20 == 0) {
            assert_ok(dlog_writer_check(f->writer, &err));
            enum ls_status status = dlog_maintain(f->log, s, &err);
            assert_true(status == LS_OK || status == LS_ERR_FULL);
        }
        uint64_t some = 1 + s * 7919 % s;
        enum dlog_found found = dlog_find(f->log, f->epoch, some, &position);
        if (some % 50 == 0) {
            assert_int_equal(found, DLOG_FOUND);
        }
        if (found == DLOG_FOUND) {
            enum ls_status status = dlog_read(f->log, position, &record, &err);
            assert_true(status == LS_OK || status == LS_ERR_BUSY);
        } else {
            assert_int_equal(found, DLOG_BEYOND_HORIZON);
        }
    }
    struct dlog_stats stats;
    double deadline = now_s() + 60;
    do {
        assert_true(now_s() < deadline); /* else: the log did not shrink to its bound within 60 s */
        dlog_writer_kick(f->writer);
        enum ls_status status = dlog_maintain(f->log, DECISIONS, &err);
        assert_true(status == LS_OK || status == LS_ERR_FULL);
        dlog_get_stats(f->log, &stats);
        poll(NULL, 0, 1);
    } while (stats.segments > 6);
    assert_int_equal(stats.open_decisions, DECISIONS / 50);
    assert_true(stats.oldest_position > 0);
    stop(f);
    struct dlog_report report;
    assert_ok(dlog_scan(f->dir, dlog_io_posix(), NULL, NULL, &report, &err));
    assert_int_equal(report.verdict, DLOG_VALID);
    assert_ok(test_start(&f->options, &f->log, &f->epoch, &err));
    for (uint64_t s = 50; s <= DECISIONS; s += 50) {
        assert_int_equal(dlog_find(f->log, 1, s, &position), DLOG_FOUND);
    }
    dlog_get_stats(f->log, &stats);
    assert_true(stats.open_decisions >= DECISIONS / 50);
}

static atomic_int syncs_left;

static int failing_sync(void *context, int file) {
    if (atomic_fetch_sub(&syncs_left, 1) <= 0) {
        return -EIO;
    }
    return dlog_io_posix()->fdatasync(context, file);
}

static void test_failed_sync(void **state) {
    struct fixture *f = *state;
    struct dlog_io io = *dlog_io_posix();
    io.fdatasync = failing_sync;
    f->options.io = &io;
    atomic_store(&syncs_left, 1000);
    start(f);
    uint64_t end, durable, chain;
    append(f, 1, &end);
    dlog_writer_kick(f->writer);
    wait_event(f);
    assert_ok(dlog_writer_check(f->writer, &err));
    dlog_durable(f->log, &durable, &chain);
    assert_int_equal(durable, end);
    atomic_store(&syncs_left, 0);
    append(f, 2, &end);
    dlog_writer_kick(f->writer);
    wait_event(f);
    assert_int_equal(dlog_writer_check(f->writer, &err), LS_ERR_IO);
    assert_non_null(strstr(err.text, "cannot sync the log: Input/output error"));
    dlog_durable(f->log, &durable, &chain);
    assert_true(durable < end);
    atomic_store(&syncs_left, 1000); /* the disk is well again: too late, for ever */
    uint8_t payload[TEST_PAYLOAD];
    uint64_t position;
    assert_int_equal(
        dlog_append_commit(f->log, f->epoch, 3, payload, test_commit(f->epoch, 3, 1, payload), &position, &end),
        LS_ERR_IO);
    dlog_writer_kick(f->writer);
    assert_int_equal(dlog_writer_stop(f->writer, &err), LS_ERR_IO);
    dlog_durable(f->log, &durable, &chain);
    assert_true(durable < end);
    f->writer = NULL;
    dlog_close(f->log);
    f->log = NULL;
    f->options.io = dlog_io_posix();
    assert_ok(test_start(&f->options, &f->log, &f->epoch, &err)); /* recovery reads what there is */
    assert_int_equal(dlog_find(f->log, 1, 1, &position), DLOG_FOUND);
}

/* Stopping writes what was appended. */
static void test_stop(void **state) {
    struct fixture *f = *state;
    start(f);
    uint64_t end, position;
    for (uint64_t s = 1; s <= 100; s++) {
        append(f, s, &end);
    }
    stop(f);
    assert_ok(test_start(&f->options, &f->log, &f->epoch, &err));
    assert_int_equal(dlog_find(f->log, 1, 100, &position), DLOG_FOUND);
    assert_ok(dlog_writer_stop(NULL, &err));
}

static enum ls_status on_count(void *context, const struct dlog_record *record) {
    (void)record;
    ++*(uint64_t *)context;
    return LS_OK;
}

/* 100,000 decided and unfinished: replayed in less than 2 s. */
static void test_replay_speed(void **state) {
    struct fixture *f = *state;
    f->options.segment_bytes = LS_DEFAULT_SEGMENT_BYTES;
    start(f);
    enum { DECISIONS = 100000 };
    uint64_t end, opened = 0;
    for (uint64_t s = 1; s <= DECISIONS; s++) {
        append(f, s, &end);
        if (s % 1000 == 0) {
            dlog_writer_kick(f->writer);
        }
    }
    stop(f);
    double begin = now_s(), cpu = cpu_s();
    assert_ok(test_start(&f->options, &f->log, &f->epoch, &err));
    double replayed = now_s() - begin;
    assert_ok(dlog_each_open(f->log, on_count, &opened, &err));
    double took = now_s() - begin;
    printf("%d open decisions: replayed and relogged in %.3f s, read back in %.3f s\n", DECISIONS, replayed,
           took - replayed);
    assert_int_equal(opened, DECISIONS);
    struct dlog_stats stats;
    dlog_get_stats(f->log, &stats);
    assert_true(stats.appended_bytes < (2u << 20)); /* only the last batch was written again */
    assert_true(cpu_s() - cpu < 2 * TEST_STEP);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_group_commit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_recycling, setup, teardown),
        cmocka_unit_test_setup_teardown(test_failed_sync, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stop, setup, teardown),
        cmocka_unit_test_setup_teardown(test_replay_speed, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
