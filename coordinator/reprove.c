/* reprove.c: see reprove.h. */
#include "coordinator/reprove.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "coordinator/dlog/dlog.h"

#define ATTEMPTS_MAX \
    3 /* a segment may be recycled under the reader's feet: then from the start, behind what was handed over */

struct reprove {
    const char *data_dir;
    uint32_t participant;
    struct reprove_history history;
    void (*on_ready)(void *context);
    void *context;
    struct event *event;
    int event_fd;
    pthread_t thread;
    bool thread_runs;

    pthread_mutex_t mutex;
    pthread_cond_t room;
    /* under the mutex */
    struct reprove_item queue[REPROVE_QUEUE_MAX];
    size_t first, count;
    enum reprove_state state;
    bool cancelled;
    struct ls_error failure;

    uint64_t handed_over; /* thread: position behind the last decision looked at */
};

bool reprove_needed(const struct reprove_history *history, uint64_t system_id, uint32_t timeline, uint64_t lsn) {
    if (system_id != history->system_id) {
        return true;
    }
    if (timeline == history->timeline) {
        return false;
    }
    for (size_t i = 0; i < history->switch_count; i++) {
        if (history->switches[i].timeline == timeline) {
            return lsn > history->switches[i].lsn;
        }
    }
    return true; /* a timeline that the server does not know of */
}

static void wake_owner(struct reprove *reprove) {
    uint64_t one = 1;
    while (write(reprove->event_fd, &one, sizeof one) < 0 && errno == EINTR) {
    }
}

/* Waits for room. False: cancelled. */
static bool push(struct reprove *reprove, const Lockstep__LogCommit *commit, const Lockstep__LogBranch *branch) {
    (void)pthread_mutex_lock(&reprove->mutex);
    while (reprove->count == REPROVE_QUEUE_MAX && !reprove->cancelled) {
        (void)pthread_cond_wait(&reprove->room, &reprove->mutex);
    }
    bool go_on = !reprove->cancelled;
    if (go_on) {
        struct reprove_item *item = &reprove->queue[(reprove->first + reprove->count++) % REPROVE_QUEUE_MAX];
        *item = (struct reprove_item){.epoch = commit->epoch,
                                      .sequence = commit->sequence,
                                      .timeline = branch->timeline,
                                      .system_id = branch->system_id,
                                      .xid = branch->xid,
                                      .lsn = branch->lsn};
        (void)snprintf(item->gid, sizeof item->gid, "%s", branch->gid);
        (void)snprintf(item->owner, sizeof item->owner, "%s", branch->owner);
    }
    (void)pthread_mutex_unlock(&reprove->mutex);
    wake_owner(reprove);
    return go_on;
}

static bool is_cancelled(struct reprove *reprove) {
    (void)pthread_mutex_lock(&reprove->mutex);
    bool cancelled = reprove->cancelled;
    (void)pthread_mutex_unlock(&reprove->mutex);
    return cancelled;
}

static enum ls_status on_record(void *context, const struct dlog_record *record) {
    struct reprove *reprove = context;
    if (is_cancelled(reprove)) {
        return LS_ERR_BUSY;
    }
    if (record->type != DLOG_COMMIT || record->position < reprove->handed_over) {
        return LS_OK;
    }
    Lockstep__LogCommit *commit = lockstep__log_commit__unpack(NULL, record->length, record->payload);
    if (commit == NULL) {
        return LS_ERR_CORRUPT;
    }
    bool go_on = true;
    for (size_t i = 0; i < commit->n_branches && go_on; i++) {
        const Lockstep__LogBranch *branch = commit->branches[i];
        if (branch->participant == reprove->participant &&
            reprove_needed(&reprove->history, branch->system_id, branch->timeline, branch->lsn)) {
            go_on = push(reprove, commit, branch);
        }
    }
    lockstep__log_commit__free_unpacked(commit, NULL);
    reprove->handed_over = record->end;
    return go_on ? LS_OK : LS_ERR_BUSY;
}

static void *read_log(void *context) {
    struct reprove *reprove = context;
    enum ls_status status = LS_OK;
    struct ls_error err = {0};
    for (int attempt = 0; attempt < ATTEMPTS_MAX && !is_cancelled(reprove); attempt++) {
        struct dlog_report report;
        status = dlog_scan(reprove->data_dir, dlog_io_posix(), on_record, reprove, &report, &err);
        if (status == LS_OK && report.verdict == DLOG_CORRUPT) {
            status = ls_fail(&err, LS_ERR_CORRUPT, "%s: %s", report.bad_segment, report.why);
        }
        if (status == LS_OK) {
            break;
        }
    }
    (void)pthread_mutex_lock(&reprove->mutex);
    reprove->state = status == LS_OK ? REPROVE_DONE : REPROVE_FAILED;
    reprove->failure = err;
    (void)pthread_mutex_unlock(&reprove->mutex);
    wake_owner(reprove);
    return NULL;
}

static void on_event(evutil_socket_t fd, short what, void *context) {
    (void)what;
    struct reprove *reprove = context;
    uint64_t ignored;
    while (read(fd, &ignored, sizeof ignored) < 0 && errno == EINTR) {
    }
    reprove->on_ready(reprove->context);
}

static enum ls_status start_thread(struct reprove *reprove, struct ls_error *err) {
    sigset_t all, before;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before); /* signals belong to the loop */
    int failed = pthread_create(&reprove->thread, NULL, read_log, reprove);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    reprove->thread_runs = failed == 0;
    return failed == 0 ? LS_OK : ls_fail(err, LS_ERR_NOMEM, "a thread cannot be made: %s", strerror(failed));
}

enum ls_status reprove_start(struct event_base *base, const char *data_dir, uint32_t participant,
                             const Lockstep__Hello *hello, void (*on_ready)(void *context), void *context,
                             struct reprove **ret_reprove, struct ls_error *err) {
    struct reprove *reprove = calloc(1, sizeof *reprove);
    if (reprove == NULL) {
        return ls_fail(err, LS_ERR_NOMEM, "out of memory");
    }
    reprove->data_dir = data_dir;
    reprove->participant = participant;
    reprove->on_ready = on_ready;
    reprove->context = context;
    (void)pthread_mutex_init(&reprove->mutex, NULL);
    (void)pthread_cond_init(&reprove->room, NULL);
    reprove->history = (struct reprove_history){
        .system_id = hello->system_id, .timeline = hello->timeline, .switch_count = hello->n_history};
    reprove->history.switches = calloc(hello->n_history + 1, sizeof *reprove->history.switches);
    reprove->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    reprove->event =
        reprove->event_fd < 0 ? NULL : event_new(base, reprove->event_fd, EV_READ | EV_PERSIST, on_event, reprove);
    enum ls_status status = LS_OK;
    if (reprove->history.switches == NULL || reprove->event == NULL || event_add(reprove->event, NULL) != 0) {
        status = ls_fail(err, LS_ERR_NOMEM, "out of memory or descriptors");
    } else {
        for (size_t i = 0; i < hello->n_history; i++) {
            reprove->history.switches[i] = *hello->history[i];
        }
        status = start_thread(reprove, err);
    }
    if (status != LS_OK) {
        reprove_free(reprove);
        return status;
    }
    *ret_reprove = reprove;
    return LS_OK;
}

size_t reprove_take(struct reprove *reprove, struct reprove_item *ret_items, size_t max,
                    enum reprove_state *ret_state) {
    size_t taken = 0;
    (void)pthread_mutex_lock(&reprove->mutex);
    while (taken < max && reprove->count > 0) {
        ret_items[taken++] = reprove->queue[reprove->first];
        reprove->first = (reprove->first + 1) % REPROVE_QUEUE_MAX;
        reprove->count--;
    }
    *ret_state = reprove->count > 0 ? REPROVE_RUNNING : reprove->state;
    (void)pthread_cond_signal(&reprove->room);
    (void)pthread_mutex_unlock(&reprove->mutex);
    return taken;
}

const char *reprove_failure(const struct reprove *reprove) {
    return reprove->failure.text;
}

void reprove_free(struct reprove *reprove) {
    if (reprove == NULL) {
        return;
    }
    (void)pthread_mutex_lock(&reprove->mutex);
    reprove->cancelled = true;
    (void)pthread_cond_signal(&reprove->room);
    (void)pthread_mutex_unlock(&reprove->mutex);
    if (reprove->thread_runs) {
        (void)pthread_join(reprove->thread, NULL);
    }
    if (reprove->event != NULL) {
        event_free(reprove->event);
    }
    if (reprove->event_fd >= 0) {
        (void)close(reprove->event_fd);
    }
    (void)pthread_mutex_destroy(&reprove->mutex);
    (void)pthread_cond_destroy(&reprove->room);
    free(reprove->history.switches);
    free(reprove);
}
