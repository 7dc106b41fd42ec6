/* disk.c: see disk.h. */
#include "tests/sim/disk.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SECTOR 512u
#define FILES_MAX 512u
#define NAMES_MAX 256u
#define OPEN_MAX 64u
#define CHANGES_MAX 512u
#define PATH_BYTES 96u
#define AROUND 256u /* bytes shown on either side of a durable range */

/* One file. A sector is dirty where hi > 0; [lo, hi) is the part written since it was clean. */
struct extent {
    uint16_t lo, hi;
};
struct file {
    uint8_t *cache, *medium;
    struct extent *dirty;
    uint64_t size, medium_size, capacity;
};

struct name {
    char path[PATH_BYTES];
    int file; /* -1: a directory */
};

enum change_kind { CHANGE_LINK, CHANGE_UNLINK, CHANGE_RENAME };
struct change {
    enum change_kind kind;
    char dir[PATH_BYTES];
    char path[PATH_BYTES], to[PATH_BYTES];
    int file;
};

struct names {
    struct name list[NAMES_MAX];
    size_t count;
};

struct sim_disk {
    struct dlog_io io;
    struct file files[FILES_MAX];
    int file_count;
    int open[OPEN_MAX]; /* descriptor -> file, -1 free */
    struct names cache, medium;
    struct change changes[CHANGES_MAX];
    size_t change_count;
    uint64_t cut_in, fail_in, read_fail_in; /* operations from now, 0: none */
    bool cut, full;
    struct file *damaged;
    uint64_t damaged_at;
    disk_durable_visit visit;
};

static struct sim_disk *disk_of(void *context) {
    return ((struct world *)context)->disk;
}

/* -------------------------------------------------------------- the names */

static void join(char path[PATH_BYTES], const char *dir, const char *name) {
    int length = snprintf(path, PATH_BYTES, "%s/%s", dir, name);
    assert(length > 0 && (size_t)length < PATH_BYTES);
}

static void parent_of(char dir[PATH_BYTES], const char *path) {
    const char *slash = strrchr(path, '/');
    size_t length = slash != NULL ? (size_t)(slash - path) : 0;
    memcpy(dir, path, length);
    dir[length] = '\0';
}

static struct name *names_find(struct names *names, const char *path) {
    for (size_t i = 0; i < names->count; i++)
        if (strcmp(names->list[i].path, path) == 0) return &names->list[i];
    return NULL;
}

static void names_remove(struct names *names, const char *path) {
    struct name *found = names_find(names, path);
    if (found != NULL) *found = names->list[--names->count];
}

static void names_put(struct names *names, const char *path, int file) {
    struct name *found = names_find(names, path);
    if (found == NULL) {
        assert(names->count < NAMES_MAX);
        found = &names->list[names->count++];
        memcpy(found->path, path, strlen(path) + 1);
    }
    found->file = file;
}

static void names_change(struct names *names, const struct change *change) {
    switch (change->kind) {
    case CHANGE_LINK:
        names_put(names, change->path, change->file);
        break;
    case CHANGE_UNLINK:
        names_remove(names, change->path);
        break;
    case CHANGE_RENAME:
        names_remove(names, change->path);
        names_put(names, change->to, change->file);
        break;
    }
}

static void change_name(struct sim_disk *disk, enum change_kind kind, const char *path, const char *to, int file) {
    assert(disk->change_count < CHANGES_MAX);
    struct change *change = &disk->changes[disk->change_count++];
    memset(change, 0, sizeof *change);
    change->kind = kind;
    memcpy(change->path, path, strlen(path) + 1);
    if (to != NULL) memcpy(change->to, to, strlen(to) + 1);
    parent_of(change->dir, path);
    change->file = file;
    names_change(&disk->cache, change);
}

/* -------------------------------------------------------------- operations */

/* Counts the operation. 0: go on; else the negative errno to answer (-EIO also when the process is dead). */
static int begin(struct sim_disk *disk, bool can_fail) {
    if (disk->cut_in > 0 && --disk->cut_in == 0) disk->cut = true;
    if (disk->cut) return -EIO;
    if (can_fail && disk->fail_in > 0 && --disk->fail_in == 0) return -EIO;
    return 0;
}

static int disk_open(void *context, const char *dir, const char *name, bool create, bool writable) {
    struct sim_disk *disk = disk_of(context);
    (void)writable;
    int status = begin(disk, false);
    if (status != 0) return status;
    char path[PATH_BYTES];
    join(path, dir, name);
    struct name *found = names_find(&disk->cache, path);
    if (create && found != NULL) return -EEXIST;
    if (!create && found == NULL) return -ENOENT;
    if (create) {
        assert(disk->file_count < (int)FILES_MAX);
        change_name(disk, CHANGE_LINK, path, NULL, disk->file_count++);
        found = names_find(&disk->cache, path);
    }
    assert(found->file >= 0);
    for (int fd = 0; fd < (int)OPEN_MAX; fd++) {
        if (disk->open[fd] < 0) {
            disk->open[fd] = found->file;
            return fd;
        }
    }
    return -EMFILE;
}

static struct file *file_of(struct sim_disk *disk, int fd) {
    assert(fd >= 0 && fd < (int)OPEN_MAX && disk->open[fd] >= 0);
    return &disk->files[disk->open[fd]];
}

static void file_grow(struct file *file, uint64_t size) {
    if (size > file->capacity) {
        uint64_t capacity = (size + SECTOR - 1) / SECTOR * SECTOR;
        size_t sectors = (size_t)(capacity / SECTOR), had = (size_t)(file->capacity / SECTOR);
        file->cache = realloc(file->cache, (size_t)capacity);
        file->medium = realloc(file->medium, (size_t)capacity);
        file->dirty = realloc(file->dirty, sectors * sizeof *file->dirty);
        assert(file->cache != NULL && file->medium != NULL && file->dirty != NULL);
        memset(file->cache + file->capacity, 0, (size_t)(capacity - file->capacity));
        memset(file->medium + file->capacity, 0, (size_t)(capacity - file->capacity));
        memset(file->dirty + had, 0, (sectors - had) * sizeof *file->dirty);
        file->capacity = capacity;
    }
    if (size > file->size) file->size = size;
}

static void file_write(struct file *file, const void *data, uint64_t length, uint64_t offset) {
    file_grow(file, offset + length);
    if (data != NULL)
        memcpy(file->cache + offset, data, (size_t)length);
    else
        memset(file->cache + offset, 0, (size_t)length);
    for (uint64_t at = offset; at < offset + length;) {
        uint64_t sector = at / SECTOR, end = (sector + 1) * SECTOR;
        if (end > offset + length) end = offset + length;
        struct extent *extent = &file->dirty[sector];
        uint16_t lo = (uint16_t)(at - sector * SECTOR), hi = (uint16_t)(end - sector * SECTOR);
        if (extent->hi == 0 || lo < extent->lo) extent->lo = lo;
        if (hi > extent->hi) extent->hi = hi;
        at = end;
    }
}

static ssize_t disk_pread(void *context, int fd, void *buffer, size_t length, uint64_t offset) {
    struct sim_disk *disk = disk_of(context);
    int status = begin(disk, false);
    if (status != 0) return status;
    if (disk->read_fail_in > 0 && --disk->read_fail_in == 0) return -EIO;
    struct file *file = file_of(disk, fd);
    if (offset >= file->size) return 0;
    if (length > file->size - offset) length = (size_t)(file->size - offset);
    memcpy(buffer, file->cache + offset, length);
    return (ssize_t)length;
}

static ssize_t disk_pwrite(void *context, int fd, const void *buffer, size_t length, uint64_t offset) {
    struct world *world = context;
    struct sim_disk *disk = world->disk;
    int status = begin(disk, true);
    if (status != 0) {
        /* a dying process or a failing disk may have written the beginning */
        uint64_t part = rng_below(&world->rng, length + 1);
        if (part > 0) file_write(file_of(disk, fd), buffer, part, offset);
        return status;
    }
    if (length > 1 && world_fault(world, 5)) /* a short write is legal and no failure */
        length = (size_t)rng_between(&world->rng, 1, length - 1);
    file_write(file_of(disk, fd), buffer, length, offset);
    return (ssize_t)length;
}

static int disk_allocate(void *context, int fd, uint64_t length) {
    struct sim_disk *disk = disk_of(context);
    int status = begin(disk, false);
    if (status != 0) return status;
    if (disk->full) return -ENOSPC;
    file_write(file_of(disk, fd), NULL, length, 0);
    return 0;
}

static int disk_truncate(void *context, int fd, uint64_t length) {
    struct sim_disk *disk = disk_of(context);
    int status = begin(disk, false);
    if (status != 0) return status;
    struct file *file = file_of(disk, fd);
    assert(length <= file->size);
    memset(file->cache + length, 0, (size_t)(file->capacity - length));
    for (uint64_t s = (length + SECTOR - 1) / SECTOR; s < file->capacity / SECTOR; s++)
        file->dirty[s].lo = file->dirty[s].hi = 0;
    file->size = length; /* the medium follows with the next sync */
    return 0;
}

/* Moves one dirty sector to the medium, whole. */
static void sector_keep(struct file *file, uint64_t sector) {
    memcpy(file->medium + sector * SECTOR, file->cache + sector * SECTOR, SECTOR);
}

static void show_durable(struct world *world, const struct file *file, uint64_t from, uint64_t to) {
    if (world->disk->visit == NULL) return;
    uint64_t lo = from > AROUND ? from - AROUND : 0;
    uint64_t hi = to + AROUND < file->capacity ? to + AROUND : file->capacity;
    world->disk->visit(world, file->medium + lo, (size_t)(hi - lo));
}

static int disk_fdatasync(void *context, int fd) {
    struct world *world = context;
    struct sim_disk *disk = world->disk;
    struct file *file = file_of(disk, fd);
    bool was_cut = disk->cut;
    int status = begin(disk, true);
    if (was_cut || (status != 0 && disk->cut)) return status;
    uint64_t sectors = file->capacity / SECTOR, run = UINT64_MAX;
    for (uint64_t s = 0; s <= sectors; s++) {
        bool dirty = s < sectors && file->dirty[s].hi > 0;
        /* a failed sync: some sectors made it, and all are clean from now on */
        bool kept = dirty && (status == 0 || rng_permille(&world->rng, world->options.disk_keep_pm));
        if (kept) sector_keep(file, s);
        if (dirty) file->dirty[s].lo = file->dirty[s].hi = 0;
        if (kept && run == UINT64_MAX) run = s;
        if (!kept && run != UINT64_MAX) {
            show_durable(world, file, run * SECTOR, s * SECTOR);
            run = UINT64_MAX;
        }
    }
    file->medium_size = file->size;
    if (file->size < file->capacity) memset(file->medium + file->size, 0, (size_t)(file->capacity - file->size));
    return status;
}

static int64_t disk_size(void *context, int fd) {
    struct sim_disk *disk = disk_of(context);
    int status = begin(disk, false);
    return status != 0 ? status : (int64_t)file_of(disk, fd)->size;
}

static int disk_close(void *context, int fd) {
    struct sim_disk *disk = disk_of(context);
    (void)file_of(disk, fd);
    disk->open[fd] = -1;
    return 0;
}

static int disk_rename(void *context, const char *dir, const char *from, const char *to) {
    struct sim_disk *disk = disk_of(context);
    int status = begin(disk, false);
    if (status != 0) return status;
    char path[PATH_BYTES], target[PATH_BYTES];
    join(path, dir, from);
    join(target, dir, to);
    struct name *found = names_find(&disk->cache, path);
    if (found == NULL) return -ENOENT;
    change_name(disk, CHANGE_RENAME, path, target, found->file);
    return 0;
}

static int disk_unlink(void *context, const char *dir, const char *name) {
    struct sim_disk *disk = disk_of(context);
    int status = begin(disk, false);
    if (status != 0) return status;
    char path[PATH_BYTES];
    join(path, dir, name);
    if (names_find(&disk->cache, path) == NULL) return -ENOENT;
    change_name(disk, CHANGE_UNLINK, path, NULL, -1);
    return 0;
}

static int disk_mkdir(void *context, const char *dir) {
    struct sim_disk *disk = disk_of(context);
    int status = begin(disk, false);
    if (status != 0) return status;
    if (names_find(&disk->cache, dir) != NULL) return -EEXIST;
    change_name(disk, CHANGE_LINK, dir, NULL, -1);
    return 0;
}

static int disk_sync_dir(void *context, const char *dir) {
    struct sim_disk *disk = disk_of(context);
    int status = begin(disk, true);
    if (status != 0) return status;
    size_t left = 0;
    for (size_t i = 0; i < disk->change_count; i++) {
        if (strcmp(disk->changes[i].dir, dir) == 0)
            names_change(&disk->medium, &disk->changes[i]);
        else
            disk->changes[left++] = disk->changes[i];
    }
    disk->change_count = left;
    return 0;
}

static int disk_list(void *context, const char *dir, void (*entry)(void *arg, const char *name), void *arg) {
    struct sim_disk *disk = disk_of(context);
    int status = begin(disk, false);
    if (status != 0) return status;
    char parent[PATH_BYTES];
    for (size_t i = 0; i < disk->cache.count; i++) {
        parent_of(parent, disk->cache.list[i].path);
        if (strcmp(parent, dir) == 0) entry(arg, strrchr(disk->cache.list[i].path, '/') + 1);
    }
    return 0;
}

/* ----------------------------------------------------------------- the world */

void disk_start(struct world *world) {
    struct sim_disk *disk = calloc(1, sizeof *disk);
    assert(disk != NULL);
    world->disk = world->disks[world->who] = disk;
    for (size_t i = 0; i < OPEN_MAX; i++) disk->open[i] = -1;
    disk->io = (struct dlog_io){.context = world,
                                .open = disk_open,
                                .pread = disk_pread,
                                .pwrite = disk_pwrite,
                                .allocate = disk_allocate,
                                .fdatasync = disk_fdatasync,
                                .size = disk_size,
                                .close = disk_close,
                                .rename = disk_rename,
                                .unlink = disk_unlink,
                                .mkdir = disk_mkdir,
                                .sync_dir = disk_sync_dir,
                                .list = disk_list,
                                .truncate = disk_truncate};
}

static void disk_free(struct sim_disk *disk) {
    if (disk == NULL) return;
    for (int i = 0; i < disk->file_count; i++) {
        free(disk->files[i].cache);
        free(disk->files[i].medium);
        free(disk->files[i].dirty);
    }
    free(disk);
}

void disk_wipe(struct world *world) {
    disk_free(world->disks[world->who]);
    disk_start(world);
}

void disk_stop(struct world *world) {
    for (uint32_t i = 0; i < SIM_COORDS; i++) {
        disk_free(world->disks[i]);
        world->disks[i] = NULL;
    }
    world->disk = NULL;
}

static void *copied(const void *bytes, size_t length) {
    void *copy = malloc(length + 1);
    assert(copy != NULL);
    if (length > 0) memcpy(copy, bytes, length);
    return copy;
}

void disk_clone(struct world *world, uint32_t from, uint32_t to) {
    const struct sim_disk *old = world->disks[from];
    disk_free(world->disks[to]);
    uint32_t was = world_as(world, to);
    disk_start(world);
    struct sim_disk *disk = world->disks[to];
    disk->file_count = old->file_count;
    for (int i = 0; i < old->file_count; i++) {
        const struct file *file = &old->files[i];
        size_t capacity = (size_t)file->capacity, sectors = capacity / SECTOR;
        disk->files[i] = (struct file){.cache = copied(file->medium, capacity),
                                       .medium = copied(file->medium, capacity),
                                       .dirty = calloc(sectors + 1, sizeof *file->dirty),
                                       .size = file->medium_size,
                                       .medium_size = file->medium_size,
                                       .capacity = file->capacity};
        assert(disk->files[i].dirty != NULL);
    }
    disk->medium = disk->cache = old->medium;
    (void)world_as(world, was);
}

bool disk_damage(struct world *world, const void *bytes, size_t length) {
    struct sim_disk *disk = world->disk;
    for (size_t i = 0; i < disk->cache.count; i++) {
        struct file *file = disk->cache.list[i].file < 0 ? NULL : &disk->files[disk->cache.list[i].file];
        uint8_t *found = file == NULL || file->size == 0 ? NULL : memmem(file->medium, file->size, bytes, length);
        uint64_t at = found == NULL ? 0 : (uint64_t)(found - file->medium) + rng_below(&world->rng, length);
        if (found == NULL || file->cache[at] != file->medium[at]) {
            continue;
        }
        disk->damaged = file;
        disk->damaged_at = at;
        file->cache[at] ^= 0x10;
        file->medium[at] ^= 0x10;
        return true;
    }
    return false;
}

void disk_mend(struct world *world) {
    struct sim_disk *disk = world->disk;
    if (disk->damaged != NULL) {
        disk->damaged->cache[disk->damaged_at] ^= 0x10;
        disk->damaged->medium[disk->damaged_at] ^= 0x10;
    }
    disk->damaged = NULL;
}

const struct dlog_io *disk_io(struct world *world) {
    return &world->disk->io;
}

void disk_cut(struct world *world, uint64_t operations) {
    world->disk->cut_in = operations;
}

bool disk_was_cut(const struct world *world) {
    return world->disk->cut;
}

void disk_calm(struct world *world) {
    world->disk->cut_in = world->disk->fail_in = world->disk->read_fail_in = 0;
}

void disk_fail_soon(struct world *world, uint64_t within) {
    world->disk->fail_in = rng_between(&world->rng, 1, within);
}

void disk_fail_read_soon(struct world *world, uint64_t within) {
    world->disk->read_fail_in = rng_between(&world->rng, 1, within);
}

void disk_set_full(struct world *world, bool full) {
    world->disk->full = full;
}

void disk_heal(struct world *world) {
    world->disk->full = false;
    world->disk->fail_in = world->disk->read_fail_in = 0;
}

void disk_process_gone(struct world *world) {
    struct sim_disk *disk = world->disk;
    for (size_t i = 0; i < OPEN_MAX; i++) disk->open[i] = -1;
    disk->cut = false;
    disk->cut_in = disk->fail_in = disk->read_fail_in = 0;
    disk->full = false;
}

/* A dirty sector at the moment of a power failure: old, new, or garbage where it was being written. */
static bool sector_fate(struct world *world, struct file *file, uint64_t sector) {
    const struct extent *extent = &file->dirty[sector];
    uint8_t *medium = file->medium + sector * SECTOR;
    const uint8_t *cache = file->cache + sector * SECTOR;
    if (rng_permille(&world->rng, world->options.disk_keep_pm)) {
        sector_keep(file, sector);
        return true;
    }
    if (rng_permille(&world->rng, world->options.disk_garble_pm)) {
        uint16_t cut = (uint16_t)rng_between(&world->rng, extent->lo, extent->hi);
        memcpy(medium + extent->lo, cache + extent->lo, cut - extent->lo);
        if (rng_below(&world->rng, 2) == 0)
            for (uint16_t i = cut; i < extent->hi; i++) medium[i] = (uint8_t)rng_next(&world->rng);
    }
    return false;
}

/* Names whose directory did not survive are gone with it. */
static void names_drop_lost(struct names *names) {
    char parent[PATH_BYTES];
    for (size_t i = names->count; i-- > 0;) {
        parent_of(parent, names->list[i].path);
        if (strcmp(parent, DISK_ROOT) != 0 && names_find(names, parent) == NULL)
            names->list[i] = names->list[--names->count];
    }
}

void disk_machine_gone(struct world *world) {
    struct sim_disk *disk = world->disk;
    disk_process_gone(world);
    for (int i = 0; i < disk->file_count; i++) {
        struct file *file = &disk->files[i];
        for (uint64_t s = 0; s < file->capacity / SECTOR; s++) {
            if (file->dirty[s].hi == 0) continue;
            if (sector_fate(world, file, s)) show_durable(world, file, s * SECTOR, (s + 1) * SECTOR);
            file->dirty[s].lo = file->dirty[s].hi = 0;
        }
        if (file->size != file->medium_size && rng_below(&world->rng, 2) == 0) file->size = file->medium_size;
        file->medium_size = file->size;
        if (file->size < file->capacity) memset(file->medium + file->size, 0, (size_t)(file->capacity - file->size));
        if (file->capacity > 0) memcpy(file->cache, file->medium, (size_t)file->capacity);
    }
    size_t survive = (size_t)rng_below(&world->rng, disk->change_count + 1);
    for (size_t i = 0; i < survive; i++) names_change(&disk->medium, &disk->changes[i]);
    disk->change_count = 0;
    names_drop_lost(&disk->medium);
    disk->cache = disk->medium;
}

void disk_on_durable(struct world *world, disk_durable_visit visit) {
    world->disk->visit = visit;
}

bool disk_medium_holds(const struct world *world, const void *bytes, size_t length) {
    const struct sim_disk *disk = world->disk;
    for (size_t i = 0; i < disk->medium.count; i++) {
        if (disk->medium.list[i].file < 0) continue;
        const struct file *file = &disk->files[disk->medium.list[i].file];
        if (file->capacity > 0 && memmem(file->medium, (size_t)file->medium_size, bytes, length) != NULL) return true;
    }
    return false;
}
