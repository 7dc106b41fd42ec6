/* io_posix.c: the log's port (io.h) over the real file system. No state; every call stands alone. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "coordinator/dlog/io.h"

#define ZEROS (256u << 10)

static int join(char path[PATH_MAX], const char *dir, const char *name) {
    int length = snprintf(path, PATH_MAX, "%s/%s", dir, name);
    return length < 0 || length >= PATH_MAX ? -ENAMETOOLONG : 0;
}

static int posix_open(void *context, const char *dir, const char *name, bool create, bool writable) {
    (void)context;
    char path[PATH_MAX];
    int status = join(path, dir, name);
    if (status != 0) {
        return status;
    }
    int flags = O_CLOEXEC | O_NOFOLLOW | (writable ? O_RDWR : O_RDONLY) | (create ? O_CREAT | O_EXCL : 0);
    int file = open(path, flags, 0600);
    /* cppcheck-suppress resourceLeak ; the descriptor is what is returned */
    return file < 0 ? -errno : file;
}

static ssize_t posix_pread(void *context, int file, void *buffer, size_t length, uint64_t offset) {
    (void)context;
    ssize_t got = pread(file, buffer, length, (off_t)offset);
    return got < 0 ? -errno : got;
}

static ssize_t posix_pwrite(void *context, int file, const void *buffer, size_t length, uint64_t offset) {
    (void)context;
    ssize_t wrote = pwrite(file, buffer, length, (off_t)offset);
    return wrote < 0 ? -errno : wrote;
}

static int posix_allocate(void *context, int file, uint64_t length) {
    (void)context;
    static const unsigned char zeros[ZEROS];
    uint64_t flushed = 0;
    for (uint64_t at = 0; at < length;) {
        size_t want = length - at < ZEROS ? (size_t)(length - at) : ZEROS;
        ssize_t wrote = pwrite(file, zeros, want, (off_t)at);
        if (wrote < 0 && errno == EINTR) {
            continue;
        }
        if (wrote <= 0) {
            return wrote == 0 ? -ENOSPC : -errno;
        }
        at += (uint64_t)wrote;
        if (at - flushed >=
            (uint64_t)4 *
                ZEROS) { /* little by little, so that the next sync of the log does not wait behind all of it */
            (void)sync_file_range(file, (off_t)flushed, (off_t)(at - flushed),
                                  SYNC_FILE_RANGE_WRITE); /* a hint; fdatasync follows */
            flushed = at;
        }
    }
    return ftruncate(file, (off_t)length) != 0 ? -errno : 0; /* the file may have been longer */
}

static int posix_fdatasync(void *context, int file) {
    (void)context;
    return fdatasync(file) != 0 ? -errno : 0;
}

static int64_t posix_size(void *context, int file) {
    (void)context;
    struct stat st;
    return fstat(file, &st) != 0 ? -errno : (int64_t)st.st_size;
}

static int posix_close(void *context, int file) {
    (void)context;
    return close(file) != 0 ? -errno : 0;
}

static int posix_rename(void *context, const char *dir, const char *from, const char *to) {
    (void)context;
    char old[PATH_MAX], new[PATH_MAX];
    int status = join(old, dir, from);
    status = status == 0 ? join(new, dir, to) : status;
    if (status != 0) {
        return status;
    }
    return rename(old, new) != 0 ? -errno : 0;
}

static int posix_unlink(void *context, const char *dir, const char *name) {
    (void)context;
    char path[PATH_MAX];
    int status = join(path, dir, name);
    if (status != 0) {
        return status;
    }
    return unlink(path) != 0 ? -errno : 0;
}

static int posix_mkdir(void *context, const char *dir) {
    (void)context;
    return mkdir(dir, 0700) != 0 ? -errno : 0;
}

static int posix_sync_dir(void *context, const char *dir) {
    (void)context;
    int file = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (file < 0) {
        return -errno;
    }
    int status = fsync(file) != 0 ? -errno : 0;
    (void)close(file);
    return status;
}

static int posix_list(void *context, const char *dir, void (*entry)(void *arg, const char *name), void *arg) {
    (void)context;
    DIR *stream = opendir(dir);
    if (stream == NULL) {
        return -errno;
    }
    int status = 0;
    for (;;) {
        errno = 0;
        const struct dirent *found = readdir(stream);
        if (found == NULL) {
            status = -errno;
            break;
        }
        if (strcmp(found->d_name, ".") != 0 && strcmp(found->d_name, "..") != 0) {
            entry(arg, found->d_name);
        }
    }
    (void)closedir(stream);
    return status;
}

static int posix_truncate(void *context, int file, uint64_t length) {
    (void)context;
    return ftruncate(file, (off_t)length) != 0 ? -errno : 0;
}

const struct dlog_io *dlog_io_posix(void) {
    static const struct dlog_io io = {.open = posix_open,
                                      .pread = posix_pread,
                                      .pwrite = posix_pwrite,
                                      .allocate = posix_allocate,
                                      .fdatasync = posix_fdatasync,
                                      .size = posix_size,
                                      .close = posix_close,
                                      .rename = posix_rename,
                                      .unlink = posix_unlink,
                                      .mkdir = posix_mkdir,
                                      .sync_dir = posix_sync_dir,
                                      .list = posix_list,
                                      .truncate = posix_truncate};
    return &io;
}
