/*
 * test_dlog_nomem.c: every allocation of the log fails once. Allowed: LS_ERR_NOMEM (or less housekeeping), with nothing
 * half done: what was refused is nowhere, what was accepted is there after a restart, and the log goes on.
 */
#include "tests/unit/nomem.h"

static struct ls_error err;

/* The simulated disk's own memory does not count. */
static const struct dlog_io *inner;
static int quiet_allocate(void *context, int file, uint64_t length) {
    bool saved = nomem_on;
    nomem_on = false;
    int result = inner->allocate(context, file, length);
    nomem_on = saved;
    return result;
}
static ssize_t quiet_pwrite(void *context, int file, const void *buffer, size_t length, uint64_t offset) {
    bool saved = nomem_on;
    nomem_on = false;
    ssize_t result = inner->pwrite(context, file, buffer, length, offset);
    nomem_on = saved;
    return result;
}

enum { DECISIONS = 900 };
static uint8_t accepted[3][DECISIONS + 1];

static enum ls_status open_log(const struct dlog_options *options, struct dlog **ret_log, uint32_t *ret_epoch) {
    nomem_begin();
    enum ls_status status = test_start(options, ret_log, ret_epoch, &err);
    nomem_end();
    return status;
}

static void life(const struct dlog_options *options) {
    struct dlog *log;
    uint32_t epoch;
    uint8_t payload[TEST_PAYLOAD];
    uint64_t position, end;
    enum ls_status status = open_log(options, &log, &epoch);
    if (status != LS_OK) {
        assert_int_equal(status, LS_ERR_NOMEM);
        assert_ok(open_log(options, &log, &epoch)); /* only one fails */
    }
    for (uint64_t s = 1; s <= DECISIONS;
         s += 1 + (s % 40 == 0) * 700 * (s < 100)) { /* with a gap: new chunks of the index */
        size_t length = test_commit(epoch, s, 2, payload);
        nomem_begin();
        status = dlog_append_commit(log, epoch, s, payload, length, &position, &end);
        if (s % 9 == 0) {
            enum ls_status more = dlog_append(log, DLOG_PARTICIPANT, payload,
                                              test_participant((uint32_t)s, "p", payload), &position, &end);
            assert_true(more == LS_OK || more == LS_ERR_NOMEM);
        }
        if (s % 10 == 0) {
            enum ls_status wrote = dlog_write(log, &err), maintained = dlog_maintain(log, s * 1000, &err);
            assert_int_equal(wrote, LS_OK); /* a write needs no memory: it cannot fail for lack of it */
            assert_true(maintained == LS_OK || maintained == LS_ERR_NOMEM);
        }
        nomem_end();
        assert_true(status == LS_OK || status == LS_ERR_NOMEM);
        accepted[epoch][s] = status == LS_OK;
        assert_int_equal(dlog_find(log, epoch, s, &position), status == LS_OK ? DLOG_FOUND : DLOG_ABSENT);
    }
    assert_ok(dlog_write(log, &err));
    dlog_close(log);
}

static void test_every_allocation(void **state) {
    (void)state;
    for (uint64_t at = 1;; at += nomem_step()) {
        nomem_fail_at = at;
        int64_t before = nomem_live;
        struct disk *disk = disk_new(at);
        struct dlog_options options = test_options(disk);
        inner = disk_io(disk);
        struct dlog_io io = *inner;
        io.allocate = quiet_allocate;
        io.pwrite = quiet_pwrite;
        options.io = &io;
        options.bytes_max = 2 * options.segment_bytes; /* segments leave and decisions are carried */
        memset(accepted, 0, sizeof accepted);
        nomem_count = 0;
        life(&options);
        life(&options);
        bool passed = nomem_count >= at;
        disk_crash(disk, DISK_LOSES);
        struct dlog *log;
        uint32_t epoch;
        uint64_t position;
        assert_ok(test_start(&options, &log, &epoch, &err));
        for (uint32_t e = 1; e <= 2; e++) {
            for (uint64_t s = 1; s <= DECISIONS; s++) {
                assert_int_equal(dlog_find(log, e, s, &position) == DLOG_FOUND,
                                 accepted[e][s] == 1); /* all of them are open */
            }
        }
        dlog_close(log);
        assert_int_equal(disk_open_files(disk), 0);
        nomem_fail_at = 0;
        disk_free(disk);
        assert_int_equal(nomem_leaked(before), 0);
        if (!passed) {
            printf("%d allocations\n", (int)nomem_count);
            assert_true(nomem_count > 40);
            return;
        }
    }
}
int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
