/*
 * disk.c: a disk that is full, slow or broken, for any program that is started with LD_PRELOAD=libfault-disk.so:
 * lockstepd, or a PostgreSQL server.
 *
 * Only files below FAULT_DIR. FAULT_CONTROL is a file with one line, looked at at every call, so that a fault comes
 * and goes while the program runs. Nothing in it, or no such file: the disk is in order. Else one of
 *
 * - full: no file grows (ENOSPC); what lies inside a file can be overwritten, as on a disk with preallocated files
 * - slow MS: every fsync and fdatasync takes MS milliseconds longer
 * - fail: every fsync and fdatasync fails (EIO); the bytes that this process has written since the last good one
 *   become zeros, as on a disk whose dirty pages are dropped and called clean
 *
 * The scripts disk-full, slow-fsync and failed-fsync beside it write that line and take it away.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { DESCRIPTORS = 1024 };

static char dir[4096], control[4096];
static struct { uint64_t from, to; } unsynced[DESCRIPTORS];

__attribute__((constructor)) static void begin(void) {
    const char *below = getenv("FAULT_DIR"), *file = getenv("FAULT_CONTROL");
    if (below == NULL || file == NULL || realpath(below, dir) == NULL) return;
    (void)snprintf(control, sizeof control, "%s", file);
}

static void *next(const char *name) {
    return dlsym(RTLD_NEXT, name);
}

/* The line, or "". */
static void read_control(char *line, size_t size) {
    line[0] = '\0';
    if (control[0] == '\0') return;
    int saved = errno, file = open(control, O_RDONLY | O_CLOEXEC);
    if (file >= 0) {
        ssize_t got = read(file, line, size - 1);
        line[got > 0 ? got : 0] = '\0';
        (void)close(file);
    }
    errno = saved;
}

static bool below(int fd) {
    char link[64], path[4096];
    size_t length = strlen(dir);
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t got = readlink(link, path, sizeof path - 1);
    if (got <= 0 || length == 0) return false;
    path[got] = '\0';
    return strncmp(path, dir, length) == 0 && (path[length] == '/' || path[length] == '\0');
}

static bool is_full(int fd) {
    char line[64];
    read_control(line, sizeof line);
    return strncmp(line, "full", 4) == 0 && below(fd);
}

/* Would a write up to `end` make the file grow? Then there is no space for it. */
static bool no_space(int fd, uint64_t end) {
    struct stat now;
    return is_full(fd) && fstat(fd, &now) == 0 && S_ISREG(now.st_mode) && end > (uint64_t)now.st_size;
}

static void wrote(int fd, uint64_t from, ssize_t length) {
    if (length <= 0 || fd < 0 || fd >= DESCRIPTORS) return;
    uint64_t to = from + (uint64_t)length;
    if (unsynced[fd].to == 0 || from < unsynced[fd].from) unsynced[fd].from = from;
    if (to > unsynced[fd].to) unsynced[fd].to = to;
}

ssize_t pwrite(int fd, const void *buffer, size_t length, off_t offset) {
    ssize_t (*real)(int, const void *, size_t, off_t) = (ssize_t(*)(int, const void *, size_t, off_t))next("pwrite");
    if (no_space(fd, (uint64_t)offset + length)) {
        errno = ENOSPC;
        return -1;
    }
    ssize_t done = real(fd, buffer, length, offset);
    wrote(fd, (uint64_t)offset, done);
    return done;
}
ssize_t pwrite64(int fd, const void *buffer, size_t length, off_t offset) {
    return pwrite(fd, buffer, length, offset);
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    ssize_t (*real)(int, const struct iovec *, int, off_t) =
        (ssize_t(*)(int, const struct iovec *, int, off_t))next("pwritev");
    uint64_t length = 0;
    for (int i = 0; i < count; i++) length += parts[i].iov_len;
    if (no_space(fd, (uint64_t)offset + length)) {
        errno = ENOSPC;
        return -1;
    }
    ssize_t done = real(fd, parts, count, offset);
    wrote(fd, (uint64_t)offset, done);
    return done;
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t offset) {
    return pwritev(fd, parts, count, offset);
}
ssize_t write(int fd, const void *buffer, size_t length) {
    ssize_t (*real)(int, const void *, size_t) = (ssize_t(*)(int, const void *, size_t))next("write");
    off_t at = control[0] != '\0' ? lseek(fd, 0, SEEK_CUR) : -1;
    if (at >= 0 && no_space(fd, (uint64_t)at + length)) {
        errno = ENOSPC;
        return -1;
    }
    return real(fd, buffer, length);
}
int posix_fallocate(int fd, off_t offset, off_t length) {
    int (*real)(int, off_t, off_t) = (int (*)(int, off_t, off_t))next("posix_fallocate");
    return no_space(fd, (uint64_t)(offset + length)) ? ENOSPC : real(fd, offset, length);
}
int posix_fallocate64(int fd, off_t offset, off_t length) {
    return posix_fallocate(fd, offset, length);
}

static void lose(int fd) {
    if (fd < 0 || fd >= DESCRIPTORS) return;
    ssize_t (*real)(int, const void *, size_t, off_t) = (ssize_t(*)(int, const void *, size_t, off_t))next("pwrite");
    static const char zeros[4096];
    for (uint64_t at = unsynced[fd].from; at < unsynced[fd].to; at += sizeof zeros) {
        uint64_t left = unsynced[fd].to - at;
        (void)!real(fd, zeros, left < sizeof zeros ? (size_t)left : sizeof zeros, (off_t)at);
    }
    unsynced[fd].from = unsynced[fd].to = 0;
}

static int sync_file(int fd, const char *name) {
    int (*real)(int) = (int (*)(int))next(name);
    char line[64];
    read_control(line, sizeof line);
    bool slow = strncmp(line, "slow ", 5) == 0, fail = strncmp(line, "fail", 4) == 0;
    if ((slow || fail) && below(fd)) {
        if (fail) {
            lose(fd);
            errno = EIO;
            return -1;
        }
        long ms = strtol(line + 5, NULL, 10);
        struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
        (void)nanosleep(&pause, NULL);
    }
    if (fd >= 0 && fd < DESCRIPTORS) unsynced[fd].from = unsynced[fd].to = 0;
    return real(fd);
}
int fsync(int fd) {
    return sync_file(fd, "fsync");
}
int fdatasync(int fd) {
    return sync_file(fd, "fdatasync");
}
