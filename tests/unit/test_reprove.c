/*
 * Hazard: the thread that reads the log again after a failover misses a decision whose branch may be prepared there
 * again, hands one over twice, or stands in the way of whoever ends it. Method: a log on the real file system, longer
 * than the queue, read while decisions are appended to it by the log's own threads; slow and hasty takers. Run under
 * ThreadSanitizer, too (.ci/run). If the code were wrong: a sequence would be missing, or the test would hang.
 */
#include "tests/unit/unit.h"

#include <dirent.h>
#include <unistd.h>

#include "coordinator/dlog/writer.h"
#include "coordinator/reprove.h"
#include "tests/unit/dlog_disk.h"

enum { DECISIONS = 3 * REPROVE_QUEUE_MAX, SWITCHED = 1000 };
#define LSN_OF(sequence) (UINT64_C(0x16b374d848) + (sequence)*200) /* as test_commit() has it */
#define SYSTEM UINT64_C(7123456789012345678)

static struct ls_error err;
static char dir[] = "/tmp/test_reprove.XXXXXX";
static struct dlog *log_;
static uint32_t epoch;
static struct event_base *base;

static void append(uint64_t sequence) {
    uint8_t payload[TEST_PAYLOAD];
    uint64_t position, end;
    assert_ok(
        dlog_append_commit(log_, epoch, sequence, payload, test_commit(epoch, sequence, 2, payload), &position, &end));
}

static int begin(void **state) {
    (void)state;
    assert_non_null(mkdtemp(dir));
    struct dlog_options options = {.dir = dir,
                                   .coordinator = "shop",
                                   .incarnation = TEST_INCARNATION,
                                   .segment_bytes = 1u << 20,
                                   .bytes_max = UINT64_C(1) << 32,
                                   .retention_ms = 3600000,
                                   .spares = 4,
                                   .io = dlog_io_posix()};
    assert_ok(test_start(&options, &log_, &epoch, &err));
    for (uint64_t i = 1; i <= DECISIONS; i++) append(i);
    while (dlog_dirty(log_)) assert_ok(dlog_write(log_, &err));
    base = event_base_new();
    return base == NULL;
}

static int end(void **state) {
    (void)state;
    char path[512], file[1024];
    dlog_close(log_);
    event_base_free(base);
    snprintf(path, sizeof path, "%s/log", dir);
    DIR *list = opendir(path);
    const struct dirent *entry;
    while (list != NULL && (entry = readdir(list)) != NULL) {
        snprintf(file, sizeof file, "%s/%s", path, entry->d_name);
        unlink(file);
    }
    if (list != NULL) closedir(list);
    rmdir(path);
    return rmdir(dir);
}

/* ------------------------------------------------------------------ a taker */

struct taker {
    struct reprove *reprove;
    uint64_t next; /* sequence expected */
    enum reprove_state state;
    size_t batch;
};

static void on_ready(void *context) {
    struct taker *taker = context;
    struct reprove_item items[64];
    size_t count;
    do {
        count = reprove_take(taker->reprove, items, taker->batch, &taker->state);
        for (size_t i = 0; i < count; i++) {
            assert_true(items[i].epoch == epoch && items[i].sequence == taker->next);
            assert_true(items[i].lsn == LSN_OF(taker->next) && items[i].timeline == 1 && items[i].system_id == SYSTEM);
            assert_non_null(strstr(items[i].gid, ":participant1"));
            taker->next++;
        }
    } while (count == taker->batch && taker->state == REPROVE_RUNNING);
    if (taker->state != REPROVE_RUNNING) (void)event_base_loopbreak(base);
}

static void start(struct taker *taker, const char *data, uint64_t system_id, uint64_t switch_lsn, size_t batch) {
    static Lockstep__TimelineSwitch ended;
    static Lockstep__TimelineSwitch *history[] = {&ended};
    Lockstep__Hello hello = LOCKSTEP__HELLO__INIT;
    lockstep__timeline_switch__init(&ended);
    ended.timeline = 1;
    ended.lsn = switch_lsn;
    hello.system_id = system_id;
    hello.timeline = 2;
    hello.n_history = 1;
    hello.history = history;
    *taker = (struct taker){.next = 1, .batch = batch};
    assert_ok(reprove_start(base, data, 2, &hello, on_ready, taker, &taker->reprove, &err));
}

/* ------------------------------------------------------------------- tests */

/* Everything behind the switch, once, in order; what surely lies before it is not asked for. */
static void what_is_behind_the_switch(void **state) {
    (void)state;
    struct taker taker;
    start(&taker, dir, SYSTEM, LSN_OF(SWITCHED), 64);
    taker.next = SWITCHED + 1;
    (void)event_base_dispatch(base);
    assert_int_equal(taker.state, REPROVE_DONE);
    assert_int_equal(taker.next, DECISIONS + 1);
    reprove_free(taker.reprove);
}

/* Another server: everything. The queue is full most of the time, since it is emptied one by one; meanwhile the log's
 * own threads write on. */
static void another_server_while_the_log_grows(void **state) {
    (void)state;
    struct dlog_writer *writer;
    struct taker taker;
    assert_ok(dlog_writer_start(log_, &writer, &err));
    start(&taker, dir, SYSTEM + 1, 0, 1);
    for (uint64_t i = 1; i <= 200; i++) {
        append(DECISIONS + i);
        dlog_writer_kick(writer);
        (void)event_base_loop(base, EVLOOP_NONBLOCK);
    }
    if (taker.state == REPROVE_RUNNING) (void)event_base_dispatch(base);
    assert_ok(dlog_writer_stop(writer, &err));
    assert_int_equal(taker.state, REPROVE_DONE);
    assert_true(taker.next > DECISIONS); /* what was appended since may be there or not: it needs no proof */
    reprove_free(taker.reprove);
}

/* Nobody takes: the thread waits for room, and ends when it is told to. */
static void ended_while_it_waits(void **state) {
    (void)state;
    struct taker taker;
    start(&taker, dir, SYSTEM + 1, 0, 64);
    struct reprove_item items[REPROVE_QUEUE_MAX];
    enum reprove_state now;
    size_t count = 0;
    while (count < 64) count += reprove_take(taker.reprove, items, 64 - count, &now); /* it is at work */
    assert_int_equal(now, REPROVE_RUNNING);
    reprove_free(taker.reprove);
    start(&taker, dir, SYSTEM + 1, 0, 64);
    reprove_free(taker.reprove); /* at once */
    reprove_free(NULL);
}

static void a_log_that_cannot_be_read(void **state) {
    (void)state;
    struct taker taker;
    start(&taker, "/nonexistent", SYSTEM + 1, 0, 64);
    (void)event_base_dispatch(base);
    assert_int_equal(taker.state, REPROVE_FAILED);
    assert_true(strlen(reprove_failure(taker.reprove)) > 0);
    reprove_free(taker.reprove);
}

static void what_needs_a_proof(void **state) {
    (void)state;
    Lockstep__TimelineSwitch switches[] = {LOCKSTEP__TIMELINE_SWITCH__INIT, LOCKSTEP__TIMELINE_SWITCH__INIT};
    switches[0].timeline = 3;
    switches[0].lsn = 500;
    switches[1].timeline = 4;
    switches[1].lsn = 900;
    struct reprove_history history = {.system_id = 7, .timeline = 5, .switches = switches, .switch_count = 2};
    assert_false(reprove_needed(&history, 7, 5, 10000));
    assert_false(reprove_needed(&history, 7, 3, 500));
    assert_true(reprove_needed(&history, 7, 3, 501));
    assert_false(reprove_needed(&history, 7, 4, 900));
    assert_true(reprove_needed(&history, 7, 4, 901));
    assert_true(reprove_needed(&history, 7, 2, 1)); /* a timeline that it does not know */
    assert_true(reprove_needed(&history, 8, 5, 1)); /* another server */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_needs_a_proof),
        cmocka_unit_test(what_is_behind_the_switch),
        cmocka_unit_test(ended_while_it_waits),
        cmocka_unit_test(a_log_that_cannot_be_read),
        cmocka_unit_test(another_server_while_the_log_grows),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
