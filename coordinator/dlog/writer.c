/* writer.c: see writer.h. */
#include "coordinator/dlog/writer.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct dlog_writer {
    struct dlog *log;
    pthread_t write_thread, prepare_thread;
    int event_fd;

    pthread_mutex_t mutex; /* for all below; never held while the log is called */
    pthread_cond_t write_wanted, prepare_wanted;
    bool write, prepare, stop;
    enum ls_status status; /* of the log, LS_OK until it fails */
    struct ls_error error;
};

static void notify(struct dlog_writer *w) {
    static const uint64_t one = 1;
    ssize_t wrote;
    do {
        wrote = write(w->event_fd, &one, sizeof one);
    } while (wrote < 0 && errno == EINTR);
    assert(wrote == (ssize_t)sizeof one ||
           errno == EAGAIN); /* EAGAIN: 2^64 - 2 unread batches; it is readable in any case */
}

/* Waits until `flag` is set or the end has come; takes the flag. False: the end, and nothing left to do. */
static bool wait_for(struct dlog_writer *w, bool *flag, pthread_cond_t *wanted) {
    (void)pthread_mutex_lock(&w->mutex);
    while (!*flag && !w->stop) {
        (void)pthread_cond_wait(wanted, &w->mutex);
    }
    bool work = *flag;
    *flag = false;
    (void)pthread_mutex_unlock(&w->mutex);
    return work;
}

static void *write_main(void *arg) {
    struct dlog_writer *w = arg;
    while (wait_for(w, &w->write, &w->write_wanted)) {
        enum ls_status status = LS_OK;
        struct ls_error err;
        while (status == LS_OK && dlog_dirty(w->log)) {
            status = dlog_write(w->log, &err);
            if (status != LS_OK) {
                (void)pthread_mutex_lock(&w->mutex);
                w->status = status;
                w->error = err;
                (void)pthread_mutex_unlock(&w->mutex);
            }
            notify(w);
        }
    }
    return NULL;
}

static void *prepare_main(void *arg) {
    struct dlog_writer *w = arg;
    while (wait_for(w, &w->prepare, &w->prepare_wanted)) {
        enum ls_status status = dlog_prepare(w->log, NULL);
        (void)status; /* dlog_maintain() tells the owner how it went, and asks again */
    }
    return NULL;
}

static void wake_preparer(void *context) {
    struct dlog_writer *w = context;
    (void)pthread_mutex_lock(&w->mutex);
    w->prepare = true;
    (void)pthread_cond_signal(&w->prepare_wanted);
    (void)pthread_mutex_unlock(&w->mutex);
}

static void end_thread(struct dlog_writer *w, pthread_t thread, pthread_cond_t *wanted) {
    (void)pthread_mutex_lock(&w->mutex);
    w->stop = true;
    (void)pthread_cond_broadcast(wanted);
    (void)pthread_mutex_unlock(&w->mutex);
    (void)pthread_join(thread, NULL);
}

static void free_writer(struct dlog_writer *w) {
    (void)close(w->event_fd);
    (void)pthread_cond_destroy(&w->write_wanted);
    (void)pthread_cond_destroy(&w->prepare_wanted);
    (void)pthread_mutex_destroy(&w->mutex);
    free(w);
}

enum ls_status dlog_writer_start(struct dlog *log, struct dlog_writer **ret_writer, struct ls_error *err) {
    struct dlog_writer *w = calloc(1, sizeof *w);
    if (w == NULL) {
        return ls_fail(err, LS_ERR_NOMEM, "no memory for the log's writer");
    }
    w->log = log;
    w->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (w->event_fd < 0) {
        int error = errno;
        free(w);
        return ls_fail(err, LS_ERR_NOMEM, "no descriptor for the log's writer: %s", strerror(error));
    }
    (void)pthread_mutex_init(&w->mutex, NULL);
    (void)pthread_cond_init(&w->write_wanted, NULL);
    (void)pthread_cond_init(&w->prepare_wanted, NULL);
    sigset_t all, before;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before); /* threads inherit it: signals are the event loop's */
    int created = pthread_create(&w->write_thread, NULL, write_main, w);
    if (created == 0) {
        created = pthread_create(&w->prepare_thread, NULL, prepare_main, w);
        if (created != 0) {
            end_thread(w, w->write_thread, &w->write_wanted);
        }
    }
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (created != 0) {
        free_writer(w);
        return ls_fail(err, LS_ERR_NOMEM, "cannot start the log's writer: %s", strerror(created));
    }
    dlog_prepare_elsewhere(log, wake_preparer, w);
    *ret_writer = w;
    return LS_OK;
}

enum ls_status dlog_writer_stop(struct dlog_writer *w, struct ls_error *err) {
    if (w == NULL) {
        return LS_OK;
    }
    dlog_writer_kick(w);
    end_thread(w, w->write_thread, &w->write_wanted);
    end_thread(w, w->prepare_thread, &w->prepare_wanted);
    dlog_prepare_elsewhere(w->log, NULL, NULL);
    enum ls_status status = w->status;
    if (status != LS_OK && err != NULL) {
        *err = w->error;
    }
    free_writer(w);
    return status;
}

void dlog_writer_kick(struct dlog_writer *w) {
    (void)pthread_mutex_lock(&w->mutex);
    bool asked = w->write;
    w->write = true;
    (void)pthread_mutex_unlock(&w->mutex);
    if (!asked) { /* with the mutex free: who wakes up would only wait for it */
        (void)pthread_cond_signal(&w->write_wanted);
    }
}

int dlog_writer_fd(const struct dlog_writer *w) {
    return w->event_fd;
}

enum ls_status dlog_writer_check(struct dlog_writer *w, struct ls_error *err) {
    uint64_t batches;
    ssize_t got;
    do {
        got = read(w->event_fd, &batches, sizeof batches);
    } while (got < 0 && errno == EINTR); /* EAGAIN: nothing new */
    (void)pthread_mutex_lock(&w->mutex);
    enum ls_status status = w->status;
    if (status != LS_OK && err != NULL) {
        *err = w->error;
    }
    (void)pthread_mutex_unlock(&w->mutex);
    return status;
}
