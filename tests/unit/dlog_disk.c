/* dlog_disk.c: see dlog_disk.h. */
#include "tests/unit/dlog_disk.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lockstep.pb-c.h"
#include "tests/unit/unit.h"

#define SECTOR 512u
#define FILES 512
#define NAMES 256
#define CHANGES 4096
#define DESCRIPTORS 64

struct disk_file {
    uint8_t *cache, *medium;
    uint16_t *low, *high; /* per sector, dirty where high > 0: bytes written */
    uint64_t size, medium_size, capacity;
};
struct disk_name {
    char name[64];
    int file;
};
struct disk_names {
    struct disk_name list[NAMES];
    int count;
};
struct disk_change {
    char from[64], to[64]; /* "" from: create; "" to: unlink */
    int file;
};
struct disk {
    struct dlog_io io;
    struct disk_file files[FILES];
    int file_count;
    struct disk_names cache, medium;
    struct disk_change changes[CHANGES];
    int change_count;
    int open[DESCRIPTORS];
    enum disk_fault fault;
    uint64_t fault_at, read_fault_at, operations, syncs, random;
    bool dead, passed, full;
};

static int name_index(const struct disk_names *names, const char *name) {
    for (int i = 0; i < names->count; i++) {
        if (strcmp(names->list[i].name, name) == 0) {
            return i;
        }
    }
    return -1;
}

static void apply(struct disk_names *names, const struct disk_change *change) {
    int at = change->from[0] != '\0' ? name_index(names, change->from) : -1;
    if (at >= 0) {
        names->list[at] = names->list[--names->count];
    }
    if (change->to[0] == '\0') {
        return;
    }
    at = name_index(names, change->to);
    if (at < 0) {
        assert(names->count < NAMES);
        at = names->count++;
    }
    snprintf(names->list[at].name, sizeof names->list[at].name, "%s", change->to);
    names->list[at].file = change->file;
}

static void change(struct disk *d, const char *from, const char *to, int file) {
    assert(d->change_count < CHANGES);
    struct disk_change *c = &d->changes[d->change_count++];
    snprintf(c->from, sizeof c->from, "%s", from);
    snprintf(c->to, sizeof c->to, "%s", to);
    c->file = file;
    apply(&d->cache, c);
}

static void grow(struct disk_file *f, uint64_t size) {
    if (size > f->capacity) {
        uint64_t capacity = (size + SECTOR - 1) / SECTOR * SECTOR, sectors = capacity / SECTOR,
                 had = f->capacity / SECTOR;
        f->cache = realloc(f->cache, capacity);
        f->medium = realloc(f->medium, capacity);
        f->low = realloc(f->low, sectors * sizeof *f->low);
        f->high = realloc(f->high, sectors * sizeof *f->high);
        memset(f->cache + f->capacity, 0, capacity - f->capacity);
        memset(f->medium + f->capacity, 0, capacity - f->capacity);
        memset(f->low + had, 0, (sectors - had) * sizeof *f->low);
        memset(f->high + had, 0, (sectors - had) * sizeof *f->high);
        f->capacity = capacity;
    }
    if (size > f->size) {
        f->size = size;
    }
}

static void file_write(struct disk_file *f, const void *data, uint64_t length, uint64_t offset) {
    if (length == 0) {
        return;
    }
    grow(f, offset + length);
    if (data != NULL) {
        memcpy(f->cache + offset, data, length);
    } else {
        memset(f->cache + offset, 0, length);
    }
    for (uint64_t s = offset / SECTOR; s <= (offset + length - 1) / SECTOR; s++) {
        uint64_t low = offset > s * SECTOR ? offset - s * SECTOR : 0;
        uint64_t high = offset + length < (s + 1) * SECTOR ? offset + length - s * SECTOR : SECTOR;
        if (f->high[s] == 0 || low < f->low[s]) {
            f->low[s] = (uint16_t)low;
        }
        if (high > f->high[s]) {
            f->high[s] = (uint16_t)high;
        }
    }
}

/* 0, or the negative errno with which this operation fails. *ret_after: it is done, but it is the last one. */
static int step(struct disk *d) {
    if (d->dead) {
        return -EIO;
    }
    d->operations++;
    if (d->fault == DISK_FINE || --d->fault_at > 0) {
        return 0;
    }
    enum disk_fault fault = d->fault;
    d->passed = true;
    if (fault == DISK_DIES) {
        d->dead = true;
        return -EIO;
    }
    if (fault == DISK_DIES_AFTER) {
        return 1;
    }
    d->fault = DISK_FINE;
    return fault == DISK_ENOSPC ? -ENOSPC : fault == DISK_SHORT ? -1000 : -EIO;
}

static bool read_fails(struct disk *d) {
    return d->dead || (d->read_fault_at > 0 && --d->read_fault_at == 0);
}

/* After the work of an operation. */
static int finish(struct disk *d, int stepped) {
    if (stepped == 1) {
        d->dead = true;
    }
    return stepped < 0 ? (stepped == -1000 ? -EIO : stepped) : 0;
}

static int open_(void *context, const char *dir, const char *name, bool create, bool writable) {
    struct disk *d = context;
    (void)dir;
    (void)writable;
    int at = name_index(&d->cache, name), stepped = 0;
    if (d->dead || (!create && read_fails(d))) {
        return -EIO;
    }
    if (create) {
        stepped = step(d);
        if (stepped < 0 || d->full) {
            return stepped < 0 ? finish(d, stepped) : -ENOSPC;
        }
        if (at >= 0) {
            return -EEXIST;
        }
        assert(d->file_count < FILES);
        change(d, "", name, d->file_count++);
        at = name_index(&d->cache, name);
    }
    if (at < 0) {
        return -ENOENT;
    }
    for (int fd = 0; fd < DESCRIPTORS; fd++) {
        if (d->open[fd] < 0) {
            d->open[fd] = d->cache.list[at].file;
            (void)finish(d, stepped);
            return fd;
        }
    }
    return -EMFILE;
}

static struct disk_file *file_of(struct disk *d, int fd) {
    assert(fd >= 0 && fd < DESCRIPTORS && d->open[fd] >= 0);
    return &d->files[d->open[fd]];
}

static ssize_t pread_(void *context, int fd, void *buffer, size_t length, uint64_t offset) {
    struct disk *d = context;
    struct disk_file *f = file_of(d, fd);
    if (read_fails(d)) {
        return -EIO;
    }
    if (offset >= f->size) {
        return 0;
    }
    length = length < f->size - offset ? length : (size_t)(f->size - offset);
    memcpy(buffer, f->cache + offset, length);
    return (ssize_t)length;
}

static ssize_t pwrite_(void *context, int fd, const void *buffer, size_t length, uint64_t offset) {
    struct disk *d = context;
    int stepped = step(d);
    if (stepped < 0) { /* the beginning may have been written */
        bool was_short = stepped == -1000;
        size_t part = was_short ? length / 2 : d->dead ? (size_t)(unit_random(&d->random) % (length + 1)) : 0;
        file_write(file_of(d, fd), buffer, part, offset);
        return was_short ? (ssize_t)part : finish(d, stepped);
    }
    file_write(file_of(d, fd), buffer, length, offset);
    (void)finish(d, stepped);
    return (ssize_t)length;
}

static int allocate_(void *context, int fd, uint64_t length) {
    struct disk *d = context;
    int stepped = step(d);
    if (stepped < 0 || d->full) {
        return stepped < 0 ? finish(d, stepped) : -ENOSPC;
    }
    file_write(file_of(d, fd), NULL, length, 0);
    file_of(d, fd)->size = length;
    return finish(d, stepped);
}

static int fdatasync_(void *context, int fd) {
    struct disk *d = context;
    if (d->dead) {
        return -EIO;
    }
    struct disk_file *f = file_of(d, fd);
    int stepped = step(d);
    if (d->dead) {
        return -EIO;
    }
    d->syncs++;
    for (uint64_t s = 0; s < f->capacity / SECTOR; s++) {
        if (f->high[s] > 0 && (stepped >= 0 || unit_random(&d->random) % 2 == 0)) {
            memcpy(f->medium + s * SECTOR, f->cache + s * SECTOR, SECTOR);
        }
        f->low[s] = f->high[s] = 0; /* clean, whether it reached the medium or not */
    }
    f->medium_size = f->size;
    return finish(d, stepped);
}

static int64_t size_(void *context, int fd) {
    struct disk *d = context;
    return read_fails(d) ? -EIO : (int64_t)file_of(d, fd)->size;
}

static int close_(void *context, int fd) {
    struct disk *d = context;
    (void)file_of(d, fd);
    d->open[fd] = -1;
    return 0;
}

static int rename_(void *context, const char *dir, const char *from, const char *to) {
    struct disk *d = context;
    (void)dir;
    int stepped = step(d);
    if (stepped < 0) {
        return finish(d, stepped);
    }
    int at = name_index(&d->cache, from);
    assert(at >= 0 && name_index(&d->cache, to) < 0);
    change(d, from, to, d->cache.list[at].file);
    return finish(d, stepped);
}

static int unlink_(void *context, const char *dir, const char *name) {
    struct disk *d = context;
    (void)dir;
    int stepped = step(d);
    if (stepped < 0) {
        return finish(d, stepped);
    }
    if (name_index(&d->cache, name) < 0) {
        return -ENOENT;
    }
    change(d, name, "", -1);
    return finish(d, stepped);
}

static int mkdir_(void *context, const char *dir) {
    struct disk *d = context;
    (void)dir;
    int stepped = step(d);
    return stepped < 0 ? finish(d, stepped) : (finish(d, stepped), -EEXIST);
}

static int sync_dir_(void *context, const char *dir) {
    struct disk *d = context;
    (void)dir;
    int stepped = step(d);
    if (stepped < 0) {
        return finish(d, stepped);
    }
    for (int i = 0; i < d->change_count; i++) {
        apply(&d->medium, &d->changes[i]);
    }
    d->change_count = 0;
    return finish(d, stepped);
}

static int list_(void *context, const char *dir, void (*entry)(void *arg, const char *name), void *arg) {
    struct disk *d = context;
    (void)dir;
    if (read_fails(d)) {
        return -EIO;
    }
    for (int i = 0; i < d->cache.count; i++) {
        entry(arg, d->cache.list[i].name);
    }
    return 0;
}

static int truncate_(void *context, int fd, uint64_t length) {
    struct disk *d = context;
    int stepped = step(d);
    if (stepped < 0) {
        return finish(d, stepped);
    }
    struct disk_file *f = file_of(d, fd);
    if (length < f->size) {
        f->size = length;
    }
    if (length < f->medium_size) {
        f->medium_size = length;
    }
    return finish(d, stepped);
}

struct disk *disk_new(uint64_t seed) {
    struct disk *d = calloc(1, sizeof *d);
    d->random = seed * 2 + 1;
    for (int i = 0; i < DESCRIPTORS; i++) {
        d->open[i] = -1;
    }
    d->io = (struct dlog_io){.context = d,
                             .open = open_,
                             .pread = pread_,
                             .pwrite = pwrite_,
                             .allocate = allocate_,
                             .fdatasync = fdatasync_,
                             .size = size_,
                             .close = close_,
                             .rename = rename_,
                             .unlink = unlink_,
                             .mkdir = mkdir_,
                             .sync_dir = sync_dir_,
                             .list = list_,
                             .truncate = truncate_};
    return d;
}

void disk_free(struct disk *d) {
    for (int i = 0; i < d->file_count; i++) {
        free(d->files[i].cache);
        free(d->files[i].medium);
        free(d->files[i].low);
        free(d->files[i].high);
    }
    free(d);
}

static void *copy_bytes(const void *bytes, size_t length) {
    void *copy = malloc(length + 1);
    if (length > 0) {
        memcpy(copy, bytes, length);
    }
    return copy;
}

struct disk *disk_clone(const struct disk *d) {
    struct disk *c = copy_bytes(d, sizeof *d);
    c->io.context = c;
    for (int i = 0; i < d->file_count; i++) {
        struct disk_file *f = &c->files[i];
        f->cache = copy_bytes(f->cache, f->capacity);
        f->medium = copy_bytes(f->medium, f->capacity);
        f->low = copy_bytes(f->low, f->capacity / SECTOR * sizeof *f->low);
        f->high = copy_bytes(f->high, f->capacity / SECTOR * sizeof *f->high);
    }
    c->fault = DISK_FINE;
    c->dead = c->passed = c->full = false;
    c->operations = c->syncs = 0;
    return c;
}

const struct dlog_io *disk_io(struct disk *d) {
    return &d->io;
}

void disk_set_fault(struct disk *d, enum disk_fault fault, uint64_t at) {
    d->fault = fault;
    d->fault_at = at;
    d->passed = false;
}

void disk_set_read_fault(struct disk *d, uint64_t at) {
    d->read_fault_at = at;
}

bool disk_read_fault_passed(const struct disk *d) {
    return d->read_fault_at == 0;
}

void disk_set_full(struct disk *d, bool full) {
    d->full = full;
}

bool disk_dead(const struct disk *d) {
    return d->dead;
}

bool disk_fault_passed(const struct disk *d) {
    return d->passed;
}

uint64_t disk_operations(const struct disk *d) {
    return d->operations;
}

uint64_t disk_syncs(const struct disk *d) {
    return d->syncs;
}

int disk_open_files(const struct disk *d) {
    int count = 0;
    for (int i = 0; i < DESCRIPTORS; i++) {
        count += d->open[i] >= 0;
    }
    return count;
}

static void crash_sector(struct disk *d, struct disk_file *f, uint64_t s, enum disk_crash crash) {
    uint64_t choice = unit_random(&d->random) >> 16;
    if (crash == DISK_GARBLES && choice % 4 == 3) {
        for (uint16_t i = f->low[s]; i < f->high[s]; i++) {
            f->medium[s * SECTOR + i] = (uint8_t)unit_random(&d->random);
        }
    } else if (choice % 2 == 0) {
        memcpy(f->medium + s * SECTOR, f->cache + s * SECTOR, SECTOR);
    }
}

void disk_crash(struct disk *d, enum disk_crash crash) {
    d->fault = DISK_FINE;
    d->dead = d->passed = false;
    for (int i = 0; i < DESCRIPTORS; i++) {
        d->open[i] = -1;
    }
    if (crash == DISK_KEEPS) {
        return;
    }
    for (int i = 0; i < d->file_count; i++) {
        struct disk_file *f = &d->files[i];
        for (uint64_t s = 0; s < f->capacity / SECTOR; s++) {
            if (f->high[s] > 0 && crash != DISK_LOSES) {
                crash_sector(d, f, s, crash);
            }
            f->low[s] = f->high[s] = 0;
        }
        if (f->size != f->medium_size && crash != DISK_LOSES && unit_random(&d->random) % 2 == 0) {
            f->medium_size = f->size;
        }
        f->size = f->medium_size;
        if (f->capacity > 0) {
            memcpy(f->cache, f->medium, f->capacity);
        }
    }
    int keep = crash == DISK_LOSES || d->change_count == 0
                   ? 0
                   : (int)(unit_random(&d->random) % (uint64_t)(d->change_count + 1));
    for (int i = 0; i < keep; i++) {
        apply(&d->medium, &d->changes[i]);
    }
    d->change_count = 0;
    d->cache = d->medium;
}

/* ------------------------------------------------------------ what is on it */

static int by_name(const void *a, const void *b) {
    return strcmp(a, b);
}

size_t disk_list(const struct disk *d, const char *suffix, char names[][64], size_t max) {
    size_t count = 0, length = strlen(suffix);
    for (int i = 0; i < d->cache.count && count < max; i++) {
        size_t have = strlen(d->cache.list[i].name);
        if (have >= length && strcmp(d->cache.list[i].name + have - length, suffix) == 0 &&
            strncmp(d->cache.list[i].name, "free", 4) != 0) {
            memcpy(names[count++], d->cache.list[i].name, 64);
        }
    }
    qsort(names, count, 64, by_name);
    return count;
}

static struct disk_file *named(struct disk *d, const char *name) {
    int at = name_index(&d->cache, name);
    assert(at >= 0);
    return &d->files[d->cache.list[at].file];
}

uint8_t *disk_bytes(struct disk *d, const char *name, uint64_t *ret_size) {
    struct disk_file *f = named(d, name);
    *ret_size = f->size;
    return f->cache;
}

void disk_touch(struct disk *d, const char *name) {
    struct disk_file *f = named(d, name);
    if (f->capacity > 0) {
        memcpy(f->medium, f->cache, f->capacity);
    }
    f->medium_size = f->size;
}

void disk_cut(struct disk *d, const char *name, uint64_t size) {
    struct disk_file *f = named(d, name);
    f->size = f->medium_size = size;
}

void disk_remove(struct disk *d, const char *name) {
    struct disk_change c = {.file = -1};
    snprintf(c.from, sizeof c.from, "%s", name);
    apply(&d->cache, &c);
    apply(&d->medium, &c);
}

void disk_put(struct disk *d, const char *name, const uint8_t *bytes, uint64_t size) {
    struct disk_change c = {.file = d->file_count++};
    snprintf(c.to, sizeof c.to, "%s", name);
    apply(&d->cache, &c);
    apply(&d->medium, &c);
    file_write(named(d, name), bytes, size, 0);
    disk_touch(d, name);
}

void disk_copy(struct disk *d, const char *from, const char *to) {
    uint64_t size;
    uint8_t *bytes = disk_bytes(d, from, &size);
    disk_put(d, to, bytes, size);
}

/* ---------------------------------------------------------------- payloads */

size_t test_commit(uint32_t epoch, uint64_t sequence, size_t branches, uint8_t *out) {
    Lockstep__LogBranch list[64];
    Lockstep__LogBranch *pointers[64];
    static char owner[] = "shop", app[] = "app/checkout";
    char gids[64][LS_GID_MAX + 1];
    for (size_t i = 0; i < branches; i++) {
        lockstep__log_branch__init(&list[i]);
        list[i].participant = (uint32_t)i + 1;
        list[i].system_id = 7123456789012345678u;
        list[i].xid = 1000 + sequence;
        list[i].lsn = 0x16b374d848 + sequence * 200;
        list[i].timeline = 1;
        list[i].owner = owner;
        snprintf(gids[i], sizeof gids[i], "lockstep:shop." TEST_INCARNATION ".%u.%llu:participant%zu", epoch,
                 (unsigned long long)sequence, i);
        list[i].gid = gids[i];
        pointers[i] = &list[i];
    }
    Lockstep__LogCommit commit = LOCKSTEP__LOG_COMMIT__INIT;
    commit.epoch = epoch;
    commit.sequence = sequence;
    commit.n_branches = branches;
    commit.branches = pointers;
    commit.decided_unix_ms = 1700000000000;
    commit.app = app;
    return lockstep__log_commit__pack(&commit, out);
}

size_t test_epoch(uint32_t epoch, uint8_t *out) {
    static char coordinator[] = "shop", incarnation[] = TEST_INCARNATION, version[] = "0.1";
    Lockstep__LogEpoch record = LOCKSTEP__LOG_EPOCH__INIT;
    record.coordinator = coordinator;
    record.incarnation = incarnation;
    record.epoch = epoch;
    record.version = version;
    return lockstep__log_epoch__pack(&record, out);
}

size_t test_participant(uint32_t number, const char *name, uint8_t *out) {
    char text[LS_PARTICIPANT_MAX + 1];
    snprintf(text, sizeof text, "%s", name);
    Lockstep__LogParticipant record = LOCKSTEP__LOG_PARTICIPANT__INIT;
    record.number = number;
    record.name = text;
    return lockstep__log_participant__pack(&record, out);
}

size_t test_hazard(uint32_t epoch, uint64_t sequence, uint32_t participant, uint8_t *out) {
    static char reason[] = "vanished";
    Lockstep__LogHazard record = LOCKSTEP__LOG_HAZARD__INIT;
    record.epoch = epoch;
    record.sequence = sequence;
    record.participant = participant;
    record.reason = reason;
    return lockstep__log_hazard__pack(&record, out);
}

size_t test_audit(const char *subject, uint8_t *out) {
    static char who[] = "admin/kim", act[] = "accept", reason[] = "log lost";
    char text[128];
    snprintf(text, sizeof text, "%s", subject);
    Lockstep__LogAudit record = LOCKSTEP__LOG_AUDIT__INIT;
    record.who = who;
    record.act = act;
    record.subject = text;
    record.reason = reason;
    return lockstep__log_audit__pack(&record, out);
}

struct dlog_options test_options(struct disk *disk) {
    return (struct dlog_options){.dir = "/data",
                                 .coordinator = "shop",
                                 .incarnation = TEST_INCARNATION,
                                 .segment_bytes = 64u << 10,
                                 .bytes_max = 1u << 30,
                                 .retention_ms = 3600000,
                                 .spares = 2,
                                 .io = disk_io(disk)};
}

enum ls_status test_start(const struct dlog_options *options, struct dlog **ret_log, uint32_t *ret_epoch,
                          struct ls_error *err) {
    struct dlog *log;
    enum ls_status status = dlog_open(options, NULL, NULL, &log, err);
    if (status != LS_OK) {
        return status;
    }
    uint8_t payload[256];
    uint32_t epoch = dlog_last_epoch(log) + 1;
    uint64_t position, end;
    status = dlog_append(log, DLOG_EPOCH, payload, test_epoch(epoch, payload), &position, &end);
    if (status == LS_OK) {
        status = dlog_relog(log, &end);
    }
    if (status == LS_OK) {
        status = dlog_write(log, err);
    }
    if (status != LS_OK) {
        dlog_close(log);
        return status;
    }
    uint64_t durable;
    dlog_durable(log, &durable, NULL);
    assert(durable >= end);
    *ret_log = log;
    *ret_epoch = epoch;
    return LS_OK;
}
