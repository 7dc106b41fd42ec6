/*
 * io.h: the log's port to a file system. The programs use dlog_io_posix(); tests and the simulator bring disks that
 * lose, garble, fill up and fail. Every function returns 0 (or a count) or a negative errno.
 */
#ifndef LOCKSTEP_DLOG_IO_H
#define LOCKSTEP_DLOG_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct dlog_io {
    void *context;
    /* Opens `name` inside `dir` (O_CLOEXEC, O_NOFOLLOW); create: O_CREAT|O_EXCL, mode 0600. Returns a descriptor. */
    int (*open)(void *context, const char *dir, const char *name, bool create, bool writable);
    ssize_t (*pread)(void *context, int file, void *buffer, size_t length, uint64_t offset);
    ssize_t (*pwrite)(void *context, int file, const void *buffer, size_t length, uint64_t offset);
    /* Makes the file `length` bytes of written zeros (not unwritten extents: fdatasync would have to convert them). */
    int (*allocate)(void *context, int file, uint64_t length);
    int (*fdatasync)(void *context, int file);
    int64_t (*size)(void *context, int file);
    int (*close)(void *context, int file);
    int (*rename)(void *context, const char *dir, const char *from, const char *to);
    int (*unlink)(void *context, const char *dir, const char *name);
    int (*mkdir)(void *context, const char *dir);    /* 0700; -EEXIST is passed on */
    int (*sync_dir)(void *context, const char *dir); /* fsync of the directory itself */
    /* Calls `entry` for each name in the directory, in any order. */
    int (*list)(void *context, const char *dir, void (*entry)(void *arg, const char *name), void *arg);
    /* Cuts the file to `length`. May be NULL: then segments that were left early keep their full size. */
    int (*truncate)(void *context, int file, uint64_t length);
};

const struct dlog_io *dlog_io_posix(void);

#endif
