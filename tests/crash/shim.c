/*
 * shim.c: loaded into lockstepd with LD_PRELOAD by calls.py: counts system calls on the data directory (and accept,
 * descriptors, threads, memory) and lets the n-th of one kind fail, once or for ever.
 *
 *   SHIM_DIR    the data directory: only files below it count
 *   SHIM_STATE  a file with one u64 per kind (calls so far) and one more (failures so far), kept up to date
 *   SHIM_CALL, SHIM_AT, SHIM_ERROR (an errno; 0: short), SHIM_FOREVER (1)
 *
 *   SHIM_SERVING  counts from the first accept on: what the start does is left out
 *
 * A sync that fails has lost what it was to save: the bytes written since the last good one become zeros, as on a disk
 * that drops dirty pages it could not write and calls them clean. Who acknowledges nevertheless is found out by the
 * next start.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* clang-format off */
enum call { C_OPEN, C_CREATE, C_PREAD, C_PWRITE, C_WRITE, C_FDATASYNC, C_FSYNC, C_RENAME, C_UNLINK, C_FTRUNCATE, C_MKDIR, C_OPENDIR, C_FLOCK, C_FSTAT, C_CLOSE,
            C_ACCEPT, C_EVENTFD, C_THREAD, C_MALLOC, CALLS };
static const char *const names[CALLS] = {"open", "create", "pread", "pwrite", "write", "fdatasync", "fsync", "rename", "unlink", "ftruncate", "mkdir",
            "opendir", "flock", "fstat", "close", "accept", "eventfd", "pthread_create", "malloc"};
/* clang-format on */

enum { DESCRIPTORS = 1024, SHORT = -1 };
static struct { _Atomic uint64_t count[CALLS], failed; } * state, nowhere;
static const char *dir;
static size_t dir_length;
static int wanted = -1, error;
static uint64_t at;
static bool forever;
static _Atomic bool counting;
static _Atomic bool ours[DESCRIPTORS];
static struct { uint64_t from, to; } unsynced[DESCRIPTORS]; /* one thread at a time writes to a file */

#define REAL(name)                 \
    static __typeof__(&name) real; \
    if (real == NULL) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *memory, size_t size);

__attribute__((constructor)) static void begin(void) {
    const char *call = getenv("SHIM_CALL"), *path = getenv("SHIM_STATE");
    dir = getenv("SHIM_DIR");
    dir_length = dir == NULL ? 0 : strlen(dir);
    int file = path == NULL ? -1 : open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0 || ftruncate(file, sizeof nowhere) != 0) _exit(99);
    void *memory = mmap(NULL, sizeof nowhere, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED) _exit(99);
    close(file);
    for (int c = 0; call != NULL && c < CALLS; c++) {
        if (strcmp(call, names[c]) == 0) wanted = c;
    }
    at = strtoull(getenv("SHIM_AT") ? getenv("SHIM_AT") : "0", NULL, 10);
    error = atoi(getenv("SHIM_ERROR") ? getenv("SHIM_ERROR") : "5");
    if (error == 0) error = SHORT;
    forever = getenv("SHIM_FOREVER") != NULL;
    counting = getenv("SHIM_SERVING") == NULL;
    state = memory;
}

/* 0, an errno, or SHORT. */
static int failing(enum call call) {
    if (state == NULL) return 0;
    if (call == C_ACCEPT) counting = true;
    if (!counting) return 0;
    uint64_t n = atomic_fetch_add(&state->count[call], 1) + 1;
    if ((int)call != wanted || at == 0 || (forever ? n < at : n != at)) return 0;
    /* signals come to an end */
    if (atomic_fetch_add(&state->failed, 1) > 50 && error == EINTR) return 0;
    return error;
}

#define FAIL_FIRST(call)            \
    do {                            \
        int fails_ = failing(call); \
        if (fails_ > 0) {           \
            errno = fails_;         \
            return -1;              \
        }                           \
    } while (0)

static bool below_dir(const char *path) {
    return state != NULL && dir_length > 0 && strncmp(path, dir, dir_length) == 0 &&
           (path[dir_length] == '/' || path[dir_length] == '\0');
}
static bool is_ours(int fd) {
    return fd >= 0 && fd < DESCRIPTORS && ours[fd];
}
static int opened(int fd, bool in_dir) {
    if (fd >= 0 && fd < DESCRIPTORS) {
        ours[fd] = in_dir;
        unsynced[fd].from = unsynced[fd].to = 0;
    }
    return fd;
}

/* openat relative to a directory of ours (the lock) is in it. */
static int open_any(int (*real)(int, const char *, int, ...), int where, const char *path, int flags, mode_t mode) {
    bool in_dir = below_dir(path) || (path[0] != '/' && is_ours(where));
    if (in_dir) FAIL_FIRST(flags & O_CREAT ? C_CREATE : C_OPEN);
    return opened(real(where, path, flags, mode), in_dir);
}
#define MODE(flags, mode)                    \
    mode_t mode = 0;                         \
    if ((flags) & (O_CREAT | __O_TMPFILE)) { \
        va_list args;                        \
        va_start(args, flags);               \
        mode = va_arg(args, mode_t);         \
        va_end(args);                        \
    }
static int real_openat(int where, const char *path, int flags, ...) {
    static int (*real)(int, const char *, int, ...);
    if (real == NULL) real = (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, "openat");
    MODE(flags, mode)
    return real(where, path, flags, mode);
}
int open(const char *path, int flags, ...) {
    MODE(flags, mode)
    return open_any(real_openat, AT_FDCWD, path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    MODE(flags, mode)
    return open_any(real_openat, AT_FDCWD, path, flags, mode);
}
int openat(int where, const char *path, int flags, ...) {
    MODE(flags, mode)
    return open_any(real_openat, where, path, flags, mode);
}
int openat64(int where, const char *path, int flags, ...) {
    MODE(flags, mode)
    return open_any(real_openat, where, path, flags, mode);
}
/* The ports file is written through stdio, whose own open is not seen. */
FILE *fopen(const char *path, const char *mode) {
    REAL(fopen);
    if (below_dir(path)) {
        int fails = failing(strchr(mode, 'r') != NULL ? C_OPEN : C_CREATE);
        if (fails > 0) {
            errno = fails;
            return NULL;
        }
    }
    FILE *file = real(path, mode);
    if (file != NULL) (void)opened(fileno(file), below_dir(path));
    return file;
}
FILE *fopen64(const char *path, const char *mode) {
    return fopen(path, mode);
}
int close(int fd) {
    REAL(close);
    bool in_dir = is_ours(fd);
    (void)opened(fd, false);
    int status = real(fd); /* gone in any case */
    if (in_dir) FAIL_FIRST(C_CLOSE);
    return status;
}

ssize_t pread(int fd, void *buffer, size_t length, off_t offset) {
    REAL(pread);
    int fails = is_ours(fd) ? failing(C_PREAD) : 0;
    if (fails > 0) {
        errno = fails;
        return -1;
    }
    return real(fd, buffer, fails == SHORT ? (length + 1) / 2 : length, offset);
}
ssize_t pread64(int fd, void *buffer, size_t length, off_t offset) {
    return pread(fd, buffer, length, offset);
}
static ssize_t real_pwrite(int fd, const void *buffer, size_t length, off_t offset) {
    static ssize_t (*real)(int, const void *, size_t, off_t);
    if (real == NULL) real = (ssize_t(*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite");
    return real(fd, buffer, length, offset);
}
ssize_t pwrite(int fd, const void *buffer, size_t length, off_t offset) {
    int fails = is_ours(fd) ? failing(C_PWRITE) : 0;
    ssize_t wrote = fails == EINTR ? -1 : real_pwrite(fd, buffer, fails == 0 ? length : length / 3 + 1, offset);
    if (wrote > 0 && is_ours(fd)) {
        if (unsynced[fd].to == 0) unsynced[fd].from = (uint64_t)offset;
        unsynced[fd].to = (uint64_t)offset + (uint64_t)wrote;
    }
    if (fails > 0) {
        errno = fails;
        return -1;
    }
    return wrote;
}
ssize_t pwrite64(int fd, const void *buffer, size_t length, off_t offset) {
    return pwrite(fd, buffer, length, offset);
}
ssize_t write(int fd, const void *buffer, size_t length) {
    REAL(write);
    int fails = is_ours(fd) ? failing(C_WRITE) : 0;
    if (fails > 0) {
        errno = fails;
        return -1;
    }
    return real(fd, buffer, fails == SHORT ? length / 2 : length);
}
int fdatasync(int fd) {
    REAL(fdatasync);
    int fails = is_ours(fd) ? failing(C_FDATASYNC) : 0;
    if (fails > 0) {
        static const char zeros[4096];
        for (uint64_t lost = unsynced[fd].from; lost < unsynced[fd].to; lost += sizeof zeros) {
            uint64_t left = unsynced[fd].to - lost;
            (void)!real_pwrite(fd, zeros, left < sizeof zeros ? left : sizeof zeros, (off_t)lost);
        }
        errno = fails;
        return -1;
    }
    if (is_ours(fd)) unsynced[fd].from = unsynced[fd].to = 0;
    return real(fd);
}
int fsync(int fd) {
    REAL(fsync);
    if (is_ours(fd)) FAIL_FIRST(C_FSYNC);
    return real(fd);
}
int rename(const char *from, const char *to) {
    REAL(rename);
    if (below_dir(from)) FAIL_FIRST(C_RENAME);
    return real(from, to);
}
int unlink(const char *path) {
    REAL(unlink);
    if (below_dir(path)) FAIL_FIRST(C_UNLINK);
    return real(path);
}
int ftruncate(int fd, off_t length) {
    REAL(ftruncate);
    if (is_ours(fd)) FAIL_FIRST(C_FTRUNCATE);
    return real(fd, length);
}
int ftruncate64(int fd, off_t length) {
    return ftruncate(fd, length);
}
int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    if (below_dir(path)) FAIL_FIRST(C_MKDIR);
    return real(path, mode);
}
DIR *opendir(const char *path) {
    REAL(opendir);
    int fails = below_dir(path) ? failing(C_OPENDIR) : 0;
    if (fails > 0) {
        errno = fails;
        return NULL;
    }
    return real(path);
}
int flock(int fd, int operation) {
    REAL(flock);
    if (is_ours(fd)) FAIL_FIRST(C_FLOCK);
    return real(fd, operation);
}
int fstat(int fd, struct stat *out) {
    REAL(fstat);
    if (is_ours(fd)) FAIL_FIRST(C_FSTAT);
    return real(fd, out);
}
int fstat64(int fd, struct stat64 *out) {
    REAL(fstat64);
    if (is_ours(fd)) FAIL_FIRST(C_FSTAT);
    return real(fd, out);
}
int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags) {
    REAL(accept4);
    FAIL_FIRST(C_ACCEPT);
    return real(fd, address, length, flags);
}
int accept(int fd, struct sockaddr *address, socklen_t *length) {
    REAL(accept);
    FAIL_FIRST(C_ACCEPT);
    return real(fd, address, length);
}
int eventfd(unsigned count, int flags) {
    static int (*real)(unsigned, int);
    if (real == NULL) real = (int (*)(unsigned, int))dlsym(RTLD_NEXT, "eventfd");
    FAIL_FIRST(C_EVENTFD);
    return real(count, flags);
}
int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument) {
    REAL(pthread_create);
    int fails = failing(C_THREAD);
    return fails > 0 ? fails : real(thread, attributes, run, argument);
}

static bool no_memory(void) {
    if (failing(C_MALLOC) == 0) return false;
    errno = ENOMEM;
    return true;
}
void *malloc(size_t size) {
    return no_memory() ? NULL : __libc_malloc(size);
}
void *calloc(size_t count, size_t size) {
    return no_memory() ? NULL : __libc_calloc(count, size);
}
void *realloc(void *memory, size_t size) {
    return no_memory() ? NULL : __libc_realloc(memory, size);
}
