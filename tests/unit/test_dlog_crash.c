/*
 * test_dlog_crash.c: hazards D1 to D6: a process or machine that dies at any operation on the disk, a disk that fails,
 * and both again during recovery.
 *
 * Method: a model of what the log was told runs beside it, over many lives on one simulated disk. After each successful
 * start (everything that dlog_open() and dlog_relog() ask for is durable, so that the coordinator may act) it is asked
 * about every decision ever appended:
 *   - one that was reported durable, or that an earlier start found, is found, with the same payload, and open unless
 * an end was appended (later it may be beyond the horizon, if it had ended);
 *   - one that a start did not find stays away for ever: an agent was told that it is aborted;
 *   - every durable position that was ever shown is still a boundary of the log, with the same checksum.
 * If the code were wrong, a decision would vanish, come back from the dead, or the log would refuse itself as corrupt.
 */
#include "tests/unit/unit.h"

#include <errno.h>

#include "coordinator/dlog/format.h"
#include "tests/unit/dlog_disk.h"

static struct ls_error err;

enum { EPOCHS = 600, SEQUENCES = 160, SHOWN = 8192 };
enum fate { UNUSED, APPENDED, DURABLE, DEAD };

/*
 * A port in front of the disk that counts all calls and lets one of them fail, once or from then on. It also watches
 * what no error may bring about: a second sync of a descriptor whose sync has failed, a write behind it.
 */
enum call {
    CALL_OPEN,
    CALL_CREATE,
    CALL_PREAD,
    CALL_PWRITE,
    CALL_ALLOCATE,
    CALL_SYNC,
    CALL_SIZE,
    CALL_CLOSE,
    CALL_RENAME,
    CALL_UNLINK,
    CALL_MKDIR,
    CALL_SYNC_DIR,
    CALL_LIST,
    CALL_TRUNCATE,
    CALLS
};
enum { SHORT_COUNT = -1, INTERRUPTED_MAX = 50 };
static struct {
    const struct dlog_io *inner;
    struct disk *disk;
    uint64_t count, at; /* the at-th call fails, 0: none */
    int error;
    bool forever, passed;
    int interrupted;
    enum call kind;          /* of that call */
    bool sync_failed[64];    /* by descriptor */
    uint8_t kinds[1u << 16]; /* of each call, in the run without failures */
    bool recording;
} port;

struct model {
    struct disk *disk;
    struct dlog_options options;
    struct dlog *log;
    uint32_t epoch;
    uint64_t next, running_ms, random;
    uint8_t fate[EPOCHS][SEQUENCES], ended[EPOCHS][SEQUENCES], open[EPOCHS][SEQUENCES];
    struct {
        uint64_t position, chain;
    } shown[SHOWN];
    size_t shown_count;
    uint64_t read_every; /* judge() reads every so manieth decision back */
    const char *what;    /* for the message */
    uint64_t seed;
};

#define check(m, condition, ...)                                                          \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            fprintf(stderr, "%s, seed %llu: ", (m)->what, (unsigned long long)(m)->seed); \
            fprintf(stderr, __VA_ARGS__);                                                 \
            fprintf(stderr, "\n");                                                        \
            fail();                                                                       \
        }                                                                                 \
    } while (0)

static struct model *model_new(const char *what, uint64_t seed) {
    struct model *m = calloc(1, sizeof *m);
    m->disk = disk_new(seed);
    m->options = test_options(m->disk);
    m->read_every = 1;
    m->what = what;
    m->seed = seed;
    m->random = seed * 0x9e3779b97f4a7c15u + 1;
    return m;
}

static void model_free(struct model *m) {
    dlog_close(m->log);
    disk_free(m->disk);
    free(m);
}

static uint64_t below(struct model *m, uint64_t bound) {
    return (unit_random(&m->random) >> 20) % bound;
}

static void show(struct model *m) {
    uint64_t position, chain;
    dlog_durable(m->log, &position, &chain);
    if (m->shown_count < SHOWN) {
        m->shown[m->shown_count].position = position;
        m->shown[m->shown_count++].chain = chain;
    }
}

static bool append(struct model *m) {
    uint8_t payload[TEST_PAYLOAD];
    uint64_t position, end, s = m->next;
    if (s >= SEQUENCES) {
        return true;
    }
    size_t length = test_commit(m->epoch, s, 1 + s % 5, payload);
    enum ls_status status = dlog_append_commit(m->log, m->epoch, s, payload, length, &position, &end);
    if (status == LS_OK) {
        m->fate[m->epoch][s] = APPENDED;
        m->next++;
    }
    return status != LS_ERR_IO;
}

static bool finish(struct model *m, uint32_t epoch, uint64_t s) {
    uint64_t end;
    if (m->fate[epoch][s] != DURABLE || m->ended[epoch][s]) {
        return true;
    }
    enum ls_status status = dlog_append_end(m->log, epoch, s, &end);
    m->ended[epoch][s] |= status == LS_OK;
    return status != LS_ERR_IO;
}

static bool write_out(struct model *m) {
    if (dlog_write(m->log, &err) != LS_OK) {
        uint64_t position, end;
        uint8_t payload[256];
        check(m, err.status == LS_ERR_IO, "write failed with %s", err.text);
        /* for ever: nothing is appended or written after a failure */
        check(m, dlog_append(m->log, DLOG_EPOCH, payload, test_epoch(1, payload), &position, &end) == LS_ERR_IO,
              "append after failure");
        check(m, dlog_write(m->log, NULL) == LS_ERR_IO, "write after failure");
        check(m, dlog_room(m->log) == 0, "room after failure");
        return false;
    }
    check(m, !dlog_dirty(m->log), "dirty after write");
    for (uint64_t s = 1; s < m->next; s++) {
        m->fate[m->epoch][s] = m->fate[m->epoch][s] == APPENDED ? DURABLE : m->fate[m->epoch][s];
    }
    show(m);
    return true;
}

static enum ls_status on_open(void *context, const struct dlog_record *record) {
    struct model *m = context;
    struct format_fields f;
    check(m, record->type == DLOG_COMMIT && format_read_fields(record->payload, record->length, &f),
          "open decision is no decision");
    m->open[f.value[1]][f.value[2]] = 1;
    return LS_OK;
}

/* Reading back met the failure that a test has set: the daemon stops with 74 then. */
static bool read_failed(enum ls_status status) {
    return status == LS_ERR_IO && port.passed;
}

/* What an agent or the engine would be told after this start. False: it could not be read. */
static bool judge(struct model *m) {
    uint8_t payload[TEST_PAYLOAD];
    memset(m->open, 0, sizeof m->open);
    enum ls_status status = dlog_each_open(m->log, on_open, m, &err);
    if (read_failed(status)) return false;
    check(m, status == LS_OK, "open decisions: %s", err.text);
    for (uint32_t e = 1; e < m->epoch; e++) {
        for (uint64_t s = 1; s < SEQUENCES; s++) {
            if (m->fate[e][s] == UNUSED) {
                continue;
            }
            uint64_t position;
            enum dlog_found found = dlog_find(m->log, e, s, &position);
            if (found == DLOG_FOUND) {
                struct dlog_record record;
                check(m, m->fate[e][s] != DEAD, "decision %u.%llu came back from the dead", e, (unsigned long long)s);
                m->fate[e][s] = DURABLE;
                check(m, m->ended[e][s] || m->open[e][s], "decision %u.%llu is no longer open", e,
                      (unsigned long long)s);
                if (s % m->read_every != 0) continue;
                status = dlog_read(m->log, position, &record, &err);
                if (read_failed(status)) return false;
                check(m, status == LS_OK, "decision %u.%llu: %s", e, (unsigned long long)s, err.text);
                size_t length = test_commit(e, s, 1 + s % 5, payload);
                check(m, record.length >= length && memcmp(record.payload, payload, length) == 0,
                      "decision %u.%llu changed", e, (unsigned long long)s);
            } else {
                check(m, m->fate[e][s] != DURABLE || (found == DLOG_BEYOND_HORIZON && m->ended[e][s]),
                      "decision %u.%llu is lost (%d)", e, (unsigned long long)s, (int)found);
                m->fate[e][s] = m->fate[e][s] == APPENDED ? DEAD : m->fate[e][s];
            }
        }
    }
    struct dlog_stats stats;
    dlog_get_stats(m->log, &stats);
    for (size_t i = 0; i < m->shown_count; i++) {
        uint64_t chain;
        if (m->shown[i].position < stats.oldest_position) {
            continue;
        }
        status = dlog_chain_at(m->log, m->shown[i].position, &chain);
        if (read_failed(status)) return false;
        check(m, status == LS_OK, "position %llu was shown and is gone", (unsigned long long)m->shown[i].position);
        check(m, chain == m->shown[i].chain, "checksum at %llu changed", (unsigned long long)m->shown[i].position);
    }
    return true;
}

/* One start. False: it failed, which only a fault set by the test may cause. */
static bool start(struct model *m, bool may_fail) {
    enum ls_status status = test_start(&m->options, &m->log, &m->epoch, &err);
    check(m, status != LS_ERR_CORRUPT, "%s", err.text);
    check(m, status == LS_OK || may_fail, "start: %s", err.text);
    if (status != LS_OK) {
        m->log = NULL;
        return false;
    }
    check(m, m->epoch < EPOCHS, "too many lives");
    m->next = 1;
    if (disk_dead(m->disk)) { /* with its last operation: nobody was told anything */
        return false;
    }
    show(m);
    if (!judge(m)) {
        err.status = LS_ERR_IO;
        return false;
    }
    return true;
}

static void die(struct model *m, enum disk_crash crash) {
    dlog_close(m->log);
    m->log = NULL;
    check(m, disk_open_files(m->disk) == 0, "%d files left open", disk_open_files(m->disk));
    disk_crash(m->disk, crash);
}

static bool maintain(struct model *m) {
    m->running_ms += 1000;
    return dlog_maintain(m->log, m->running_ms, &err) != LS_ERR_IO;
}

/* A short life: group commit, ends, a mark, enough bytes for a new segment. False: the disk failed. */
static bool live(struct model *m) {
    for (int round = 0; round < 6; round++) {
        for (int i = 0; i < 22; i++) {
            if (!append(m)) {
                return false;
            }
        }
        if (!write_out(m)) {
            return false;
        }
        for (uint64_t s = 1; s < m->next; s += 2) {
            if (!finish(m, m->epoch, s)) {
                return false;
            }
        }
        uint64_t end;
        if (!maintain(m) ||
            (round == 3 && dlog_wants_mark(m->log) && dlog_mark(m->log, m->running_ms, &end) == LS_ERR_IO)) {
            return false;
        }
    }
    return write_out(m);
}

static const enum disk_fault faults[] = {DISK_DIES, DISK_DIES_AFTER, DISK_EIO, DISK_ENOSPC, DISK_SHORT};
enum { FAULTS = sizeof faults / sizeof faults[0] };

/* Every operation of two lives (creation included), each fault, each kind of crash. */
static void test_every_operation(void **state) {
    (void)state;
    struct model *reference = model_new("reference", 1);
    assert_true(start(reference, false) && live(reference));
    die(reference, DISK_LOSES);
    assert_true(start(reference, false) && live(reference));
    uint64_t operations = disk_operations(reference->disk);
    model_free(reference);
    assert_true(operations > 60);
    int failed_lives = 0;
    for (uint64_t at = 1; at <= operations; at += TEST_STEP / 2 + 1) {
        for (int f = 0; f < FAULTS; f++) {
            enum disk_crash crash = (enum disk_crash)((at + (uint64_t)f) % DISK_CRASHES);
            for (int twice = 0; twice < (getenv("DLOG_ALL") != NULL ? DISK_CRASHES : 1);
                 twice++, crash = (crash + 1) % DISK_CRASHES) {
                struct model *m = model_new("every operation", at * 100 + (uint64_t)f * 10 + crash);
                disk_set_fault(m->disk, faults[f], at);
                bool alive = start(m, true) && live(m);
                if (alive) {
                    die(m, DISK_LOSES == crash ? DISK_KEEPS
                                               : DISK_LOSES); /* the fault, if still ahead, is cleared by that */
                    disk_set_fault(m->disk, faults[f], at > operations / 2 ? at - operations / 2 : operations);
                    alive = start(m, true) && live(m);
                }
                failed_lives += !alive;
                die(m, crash);
                (void)start(m, false); /* acts on what it finds ... */
                die(m, DISK_LOSES);
                (void)start(m, false); /* ... which must then be there whatever the disk had lost before */
                check(m, live(m), "a life without faults failed");
                die(m, DISK_LOSES);
                (void)start(m, false);
                model_free(m);
            }
        }
    }
    assert_true(failed_lives > 50);
}

/* Faults during recovery, several times in a row, at each of its operations. */
static void test_crash_during_recovery(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 200 / TEST_STEP; seed++) {
        struct model *m = model_new("crash during recovery", seed);
        assert_true(start(m, false));
        disk_set_fault(m->disk, faults[seed % FAULTS], 20 + below(m, 40));
        (void)live(m);
        enum disk_crash crash = (enum disk_crash)below(m, DISK_CRASHES);
        for (uint64_t at = 1; at <= 25; at++) {
            die(m, crash);
            disk_set_fault(m->disk, faults[below(m, FAULTS)], at);
            (void)start(m, true);
            crash = (enum disk_crash)below(m, DISK_CRASHES);
        }
        die(m, crash);
        (void)start(m, false);
        die(m, DISK_LOSES);
        (void)start(m, false);
        model_free(m);
    }
}

/* Long histories: everything at random, with retention, a disk that is full at times, and decisions that stay open for
 * long. */
static void wander(uint64_t seed) {
    struct model *m = model_new("wander", seed);
    m->options.retention_ms = 5000 + below(m, 60000);
    m->options.bytes_max = (64u << 10) * (2 + below(m, 8));
    m->options.spares = 2 + (uint32_t)below(m, 3);
    for (int life = 0; life < 25; life++) {
        if (below(m, 3) == 0) {
            disk_set_fault(m->disk, faults[below(m, FAULTS)], 1 + below(m, 30));
        }
        bool alive = start(m, disk_fault_passed(m->disk) || true);
        if (!alive) {
            check(m, disk_fault_passed(m->disk), "start without a fault: %s", err.text);
        }
        if (alive && below(m, 2) == 0) {
            disk_set_fault(m->disk, faults[below(m, FAULTS)], 1 + below(m, 80));
        }
        int actions = (int)below(m, 120);
        for (int i = 0; alive && i < actions; i++) {
            switch (below(m, 8)) {
            case 0:
            case 1:
            case 2:
                for (uint64_t n = below(m, 12); alive && n > 0; n--) {
                    alive = append(m);
                }
                break;
            case 3:
            case 4:
                for (int n = 0; alive && n < 60; n++) {
                    alive = finish(m, 1 + (uint32_t)below(m, m->epoch), 1 + below(m, SEQUENCES - 1));
                }
                break;
            case 5:
                alive = maintain(m);
                break;
            default:
                alive = write_out(m);
                break;
            }
        }
        die(m, (enum disk_crash)below(m, DISK_CRASHES));
    }
    (void)start(m, false);
    die(m, DISK_LOSES);
    (void)start(m, false);
    model_free(m);
}

/* Each read of a start, a scan, and of housekeeping fails once: said, never guessed, and the next try finds everything.
 */
static void test_every_read(void **state) {
    (void)state;
    for (uint64_t at = 1;; at += at < 40 ? 1 : 13) {
        struct model *m = model_new("every read", at);
        m->options.bytes_max = 1; /* every full segment leaves */
        assert_true(start(m, false) && live(m));
        die(m, DISK_LOSES);
        struct dlog_report report;
        disk_set_read_fault(m->disk, at);
        enum ls_status status = dlog_scan("/data", disk_io(m->disk), NULL, NULL, &report, &err);
        check(m, disk_read_fault_passed(m->disk) == (status == LS_ERR_IO), "scan: %s", ls_status_name(status));
        check(m, status != LS_OK || report.verdict != DLOG_CORRUPT, "a read error is not damage: %s", report.why);
        disk_set_read_fault(m->disk, at);
        status = test_start(&m->options, &m->log, &m->epoch, &err);
        bool passed = disk_read_fault_passed(m->disk);
        check(m, status == LS_OK || (passed && status == LS_ERR_IO), "start: %s: %s", ls_status_name(status), err.text);
        if (status != LS_OK) {
            m->log = NULL;
            disk_crash(m->disk, DISK_KEEPS);
            check(m, disk_open_files(m->disk) == 0, "files left open");
            (void)start(m, false);
        }
        disk_set_read_fault(m->disk, 0);
        m->next = 1;
        assert_true(judge(m));
        /* carrying reads, too: then nothing goes until it can be read */
        disk_set_read_fault(m->disk, at);
        for (int i = 0; i < 40; i++) {
            for (int n = 0; n < 20; n++) {
                (void)append(m);
            }
            if (!write_out(m)) { /* the spare that was to be the next segment could not be opened */
                check(m, disk_read_fault_passed(m->disk), "write failed: %s", err.text);
                break;
            }
            status = dlog_maintain(m->log, m->running_ms += 1000, &err);
            check(m, status == LS_OK || disk_read_fault_passed(m->disk), "maintain: %s", err.text);
        }
        passed |= disk_read_fault_passed(m->disk);
        disk_set_read_fault(m->disk, 0);
        die(m, DISK_LOSES);
        (void)start(m, false);
        model_free(m);
        if (!passed) {
            assert_true(at > 100); /* all copies that are carried, one by one */
            return;
        }
    }
}

/* ------------------------------------------------------ every call, every error */

static const struct {
    const char *name;
    int errors[6]; /* what the call can answer; 0 ends */
} calls[CALLS] = {{"open", {EIO, EMFILE, ENFILE, EINTR, 0}},
                  {"create", {EIO, ENOSPC, EDQUOT, EMFILE, EINTR, 0}},
                  {"pread", {EIO, EINTR, SHORT_COUNT, 0}},
                  {"pwrite", {EIO, ENOSPC, EDQUOT, EINTR, SHORT_COUNT, 0}},
                  {"allocate", {EIO, ENOSPC, EDQUOT, EINTR, 0}},
                  {"fdatasync", {EIO, ENOSPC, EDQUOT, EINTR, 0}},
                  {"size", {EIO, 0}},
                  {"close", {EIO, EINTR, 0}},
                  {"rename", {EIO, ENOSPC, EDQUOT, EINTR, 0}},
                  {"unlink", {EIO, EINTR, 0}},
                  {"mkdir", {EIO, ENOSPC, EDQUOT, 0}},
                  {"sync of a directory", {EIO, EINTR, EMFILE, 0}},
                  {"list", {EIO, EMFILE, 0}},
                  {"truncate", {EIO, EINTR, 0}}};

/* 0, an errno, or SHORT_COUNT. */
static int failing(enum call kind) {
    port.count++;
    if (port.recording && port.count < sizeof port.kinds) port.kinds[port.count] = (uint8_t)kind;
    bool now = port.count == port.at || (port.forever && port.passed && kind == port.kind);
    if (!now) return 0;
    port.passed = true;
    port.kind = kind;
    /* signals come to an end */
    return port.error == EINTR && ++port.interrupted > INTERRUPTED_MAX ? 0 : port.error;
}

#define FAIL_FIRST(kind)                 \
    int error = failing(kind);           \
    if (error == SHORT_COUNT) error = 0; \
    if (error != 0) return -error

static int port_open(void *context, const char *dir, const char *name, bool create, bool writable) {
    FAIL_FIRST(create ? CALL_CREATE : CALL_OPEN);
    int file = port.inner->open(context, dir, name, create, writable);
    if (file >= 0) port.sync_failed[file] = false;
    return file;
}
static ssize_t port_pread(void *context, int file, void *buffer, size_t length, uint64_t offset) {
    int error = failing(CALL_PREAD);
    if (error > 0) return -error;
    return port.inner->pread(context, file, buffer, error == SHORT_COUNT ? (length + 1) / 2 : length, offset);
}
static ssize_t port_pwrite(void *context, int file, const void *buffer, size_t length, uint64_t offset) {
    assert_false(port.sync_failed[file]); /* else: written on after a failed sync */
    int error = failing(CALL_PWRITE);
    if (error == 0) return port.inner->pwrite(context, file, buffer, length, offset);
    if (error == EINTR) return -EINTR; /* before the first byte */
    ssize_t wrote = port.inner->pwrite(context, file, buffer, length / 3 + 1, offset);
    return error == SHORT_COUNT ? wrote : -error;
}
static int port_allocate(void *context, int file, uint64_t length) {
    int error = failing(CALL_ALLOCATE);
    if (error == 0) return port.inner->allocate(context, file, length);
    (void)!port.inner->allocate(context, file, length / 2 / 4096 * 4096);
    return -error;
}
static int port_fdatasync(void *context, int file) {
    assert_false(port.sync_failed[file]); /* else: a failed sync was tried again */
    int error = failing(CALL_SYNC);
    if (error == 0) return port.inner->fdatasync(context, file);
    port.sync_failed[file] = true;
    disk_set_fault(port.disk, DISK_EIO, 1); /* pages are clean now, and some of them are nowhere */
    (void)!port.inner->fdatasync(context, file);
    return -error;
}
static int64_t port_size(void *context, int file) {
    FAIL_FIRST(CALL_SIZE);
    return port.inner->size(context, file);
}
static int port_close(void *context, int file) {
    int error = failing(CALL_CLOSE), closed = port.inner->close(context, file); /* it is gone in any case */
    return error > 0 ? -error : closed;
}
static int port_rename(void *context, const char *dir, const char *from, const char *to) {
    FAIL_FIRST(CALL_RENAME);
    return port.inner->rename(context, dir, from, to);
}
static int port_unlink(void *context, const char *dir, const char *name) {
    FAIL_FIRST(CALL_UNLINK);
    return port.inner->unlink(context, dir, name);
}
static int port_mkdir(void *context, const char *dir) {
    FAIL_FIRST(CALL_MKDIR);
    return port.inner->mkdir(context, dir);
}
static int port_sync_dir(void *context, const char *dir) {
    FAIL_FIRST(CALL_SYNC_DIR);
    return port.inner->sync_dir(context, dir);
}
static int port_list(void *context, const char *dir, void (*entry)(void *arg, const char *name), void *arg) {
    FAIL_FIRST(CALL_LIST);
    return port.inner->list(context, dir, entry, arg);
}
static int port_truncate(void *context, int file, uint64_t length) {
    FAIL_FIRST(CALL_TRUNCATE);
    return port.inner->truncate(context, file, length);
}

static void port_set(struct disk *disk, uint64_t at, int error, bool forever) {
    port.inner = disk_io(disk);
    port.disk = disk;
    port.count = 0;
    port.at = at;
    port.error = error;
    port.forever = forever;
    port.passed = false;
    port.interrupted = 0;
    memset(port.sync_failed, 0, sizeof port.sync_failed);
}

/* Three lives with decisions, ends, marks, new segments, carrying and removal; false when the log gave up in one of
 * them, as the daemon would with 74 (or with a start that is refused). */
static bool lives(struct model *m) {
    for (int life = 0; life < 3; life++) {
        if (!start(m, true)) {
            check(m, port.passed, "start without a failure: %s", err.text);
            check(m, err.status == LS_ERR_IO || err.status == LS_ERR_FULL, "start: %s: %s", ls_status_name(err.status),
                  err.text);
            return false;
        }
        /* the second life is short: the segment it leaves is cut */
        if (life == 1 ? !(append(m) && write_out(m)) : !(live(m) && live(m))) {
            check(m, port.passed, "a life without a failure failed: %s", err.text);
            return false;
        }
        if (life < 2) die(m, life == 0 ? DISK_KEEPS : DISK_LOSES);
    }
    return true;
}

static struct model *model_behind_port(const char *what, uint64_t seed, struct dlog_io *io) {
    struct model *m = model_new(what, seed);
    *io = *disk_io(m->disk);
    io->open = port_open, io->pread = port_pread, io->pwrite = port_pwrite, io->allocate = port_allocate;
    io->fdatasync = port_fdatasync, io->size = port_size, io->close = port_close, io->rename = port_rename;
    io->unlink = port_unlink, io->mkdir = port_mkdir, io->sync_dir = port_sync_dir, io->list = port_list;
    io->truncate = port_truncate;
    m->options.io = io;
    m->read_every = 16;
    m->options.bytes_max = 2 * m->options.segment_bytes;
    return m;
}

/* One call fails; then everything is well again, and what was acknowledged must be there. True: the log gave up. */
static bool one_failure(uint64_t at, int error, bool forever) {
    char what[96];
    struct dlog_io io;
    (void)snprintf(what, sizeof what, "call %llu (%s) answers %s, %s", (unsigned long long)at,
                   calls[port.kinds[at]].name, error == SHORT_COUNT ? "short" : strerror(error),
                   forever ? "for ever" : "once");
    struct model *m = model_behind_port(what, at * 100 + (uint64_t)(error + 1), &io);
    port_set(m->disk, at, error, forever);
    bool gave_up = !lives(m);
    check(m, port.passed, "was not reached");
    port_set(m->disk, 0, 0, false);
    for (int crash = 0; crash < 3; crash++) {
        static const enum disk_crash crashes[] = {DISK_KEEPS, DISK_LOSES, DISK_PARTS};
        die(m, crashes[(at + (uint64_t)crash) % 3]);
        (void)start(m, false);
    }
    m->options.bytes_max = 1u << 30;
    check(m, live(m), "a life after the failure failed: %s", err.text);
    die(m, DISK_LOSES);
    (void)start(m, false);
    m->read_every = 1;
    die(m, DISK_LOSES);
    (void)start(m, false);
    model_free(m);
    return gave_up;
}

static void test_every_call(void **state) {
    (void)state;
    struct dlog_io io;
    struct model *reference = model_behind_port("reference", 1, &io);
    port_set(reference->disk, 0, 0, false);
    port.recording = true;
    assert_true(lives(reference));
    port.recording = false;
    uint64_t count = port.count, tried[CALLS] = {0}, gave_up[CALLS] = {0}, sites[CALLS] = {0};
    model_free(reference);
    assert_true(count < sizeof port.kinds);
    uint64_t step = getenv("DLOG_ALL") != NULL ? 1 : 23 * TEST_STEP;
    for (uint64_t at = 1; at <= count; at++) {
        enum call kind = (enum call)port.kinds[at];
        if (sites[kind]++ >= (TEST_STEP == 1u ? 4u : 1u) && at % step != 0)
            continue; /* the first of each kind always */
        for (size_t e = 0; calls[kind].errors[e] != 0; e++) {
            for (int forever = 0; forever < 2; forever++) {
                tried[kind]++;
                gave_up[kind] += one_failure(at, calls[kind].errors[e], forever == 1);
            }
        }
    }
    for (int kind = 0; kind < CALLS; kind++) {
        assert_true(tried[kind] > 0); /* the lives reach every call there is */
        printf("%-20s %5llu sites, %6llu failures, in %6llu the log gave up\n", calls[kind].name,
               (unsigned long long)sites[kind], (unsigned long long)tried[kind], (unsigned long long)gave_up[kind]);
    }
}

static void test_wander(void **state) {
    (void)state;
    const char *from = getenv("DLOG_SEED"), *count = getenv("DLOG_SEEDS");
    uint64_t seed = from == NULL ? 1 : strtoull(from, NULL, 10),
             end = seed + (count == NULL ? 60 / TEST_STEP : strtoull(count, NULL, 10));
    for (; seed < end; seed++) {
        wander(seed);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_operation), cmocka_unit_test(test_crash_during_recovery),
        cmocka_unit_test(test_every_read),      cmocka_unit_test(test_every_call),
        cmocka_unit_test(test_wander),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
