/* decision_file.c: see decision_file.h. A failed write ends the program: a yardstick has nothing to save. */
#include "bench/decision_file.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "bench/bench.h"
#include "lockstep/status.h"

#define FILE_BYTES (64u << 20) /* written round and round */
#define BATCH_BYTES (4u << 20)

struct decision_file {
    int fd, event;
    pthread_t writer;
    pthread_mutex_t mutex;
    pthread_cond_t appended, durable_moved;
    char *filling, *writing;
    size_t filled;
    uint64_t appended_to, durable, syncs;
    bool stop;
};

static void must(bool good, const char *what) {
    if (!good) exit(bench_fail(NULL, LS_EXIT_IO, "the yardstick's log: %s: %s", what, strerror(errno)));
}

static void write_batch(struct decision_file *file, const char *data, size_t length, uint64_t position) {
    while (length > 0) {
        off_t at = (off_t)(position % FILE_BYTES);
        size_t room = FILE_BYTES - (size_t)at;
        ssize_t done = pwrite(file->fd, data, length < room ? length : room, at);
        must(done > 0, "write");
        data += done;
        length -= (size_t)done;
        position += (uint64_t)done;
    }
    must(fdatasync(file->fd) == 0, "fdatasync");
}

static void *write_batches(void *context) {
    struct decision_file *file = context;
    (void)pthread_mutex_lock(&file->mutex);
    for (;;) {
        while (file->filled == 0 && !file->stop) (void)pthread_cond_wait(&file->appended, &file->mutex);
        if (file->filled == 0) break;
        char *data = file->filling;
        size_t length = file->filled;
        uint64_t position = file->appended_to - length;
        file->filling = file->writing;
        file->writing = data;
        file->filled = 0;
        (void)pthread_mutex_unlock(&file->mutex);
        write_batch(file, data, length, position);
        (void)pthread_mutex_lock(&file->mutex);
        file->durable = position + length;
        file->syncs++;
        (void)pthread_cond_broadcast(&file->durable_moved);
        uint64_t one = 1;
        must(write(file->event, &one, sizeof one) == sizeof one, "eventfd");
    }
    (void)pthread_mutex_unlock(&file->mutex);
    return NULL;
}

struct decision_file *decision_file_open(const char *folder) {
    char path[4096];
    struct decision_file *file = calloc(1, sizeof *file);
    must(file != NULL, "memory");
    file->filling = malloc(BATCH_BYTES);
    file->writing = calloc(1, BATCH_BYTES);
    must(file->filling != NULL && file->writing != NULL, "memory");
    (void)snprintf(path, sizeof path, "%s/yardstick.XXXXXX", folder);
    file->fd = mkostemp(path, O_CLOEXEC);
    if (file->fd < 0) {
        (void)bench_fail(NULL, LS_EXIT_ERROR, "%s: %s", folder, strerror(errno));
        free(file->filling);
        free(file->writing);
        free(file);
        return NULL;
    }
    (void)unlink(path);
    /* Written, not only reserved: the first write to a reserved block costs the file system a journal entry. */
    for (size_t at = 0; at < FILE_BYTES; at += BATCH_BYTES)
        must(pwrite(file->fd, file->writing, BATCH_BYTES, (off_t)at) == (ssize_t)BATCH_BYTES, "write");
    must(fsync(file->fd) == 0, "fsync");
    file->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    must(file->event >= 0, "eventfd");
    (void)pthread_mutex_init(&file->mutex, NULL);
    (void)pthread_cond_init(&file->appended, NULL);
    (void)pthread_cond_init(&file->durable_moved, NULL);
    must((errno = pthread_create(&file->writer, NULL, write_batches, file)) == 0, "thread");
    return file;
}

void decision_file_close(struct decision_file *file) {
    if (file == NULL) return;
    (void)pthread_mutex_lock(&file->mutex);
    file->stop = true;
    (void)pthread_cond_broadcast(&file->appended);
    (void)pthread_mutex_unlock(&file->mutex);
    (void)pthread_join(file->writer, NULL);
    (void)pthread_cond_destroy(&file->durable_moved);
    (void)pthread_cond_destroy(&file->appended);
    (void)pthread_mutex_destroy(&file->mutex);
    (void)close(file->event);
    (void)close(file->fd);
    free(file->filling);
    free(file->writing);
    free(file);
}

uint64_t decision_file_append(struct decision_file *file, const void *record, size_t length) {
    (void)pthread_mutex_lock(&file->mutex);
    while (file->filled + length > BATCH_BYTES) (void)pthread_cond_wait(&file->durable_moved, &file->mutex);
    memcpy(file->filling + file->filled, record, length);
    file->filled += length;
    uint64_t end = file->appended_to += length;
    (void)pthread_cond_signal(&file->appended);
    (void)pthread_mutex_unlock(&file->mutex);
    return end;
}

void decision_file_wait(struct decision_file *file, uint64_t position) {
    (void)pthread_mutex_lock(&file->mutex);
    while (file->durable < position) (void)pthread_cond_wait(&file->durable_moved, &file->mutex);
    (void)pthread_mutex_unlock(&file->mutex);
}

int decision_file_fd(const struct decision_file *file) {
    return file->event;
}

uint64_t decision_file_durable(struct decision_file *file) {
    (void)pthread_mutex_lock(&file->mutex);
    uint64_t durable = file->durable;
    (void)pthread_mutex_unlock(&file->mutex);
    return durable;
}

uint64_t decision_file_syncs(struct decision_file *file) {
    (void)pthread_mutex_lock(&file->mutex);
    uint64_t syncs = file->syncs;
    (void)pthread_mutex_unlock(&file->mutex);
    return syncs;
}

uint64_t decision_file_bytes(struct decision_file *file) {
    (void)pthread_mutex_lock(&file->mutex);
    uint64_t bytes = file->appended_to;
    (void)pthread_mutex_unlock(&file->mutex);
    return bytes;
}
