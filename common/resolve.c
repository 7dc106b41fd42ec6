/*
 * resolve.c: the thread owns the look-up, the loop owns the event; what they share (`job`) is freed by whichever lets
 * go last, since getaddrinfo() cannot be interrupted and may take many seconds.
 */
#include "common/resolve.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct job {
    atomic_int holders;
    char *host, *port;
    int wake; /* eventfd: written once when `found` and `failed` are set */
    struct addrinfo *found;
    int failed; /* of getaddrinfo() */
};

struct resolve {
    struct job *job;
    struct event *event;
    void (*done)(void *context, struct addrinfo *found, const char *why);
    void *context;
};

static void let_go(struct job *job) {
    if (atomic_fetch_sub(&job->holders, 1) != 1) return;
    if (job->found) freeaddrinfo(job->found);
    if (job->wake >= 0) (void)close(job->wake);
    free(job->host);
    free(job->port);
    free(job);
}

static void *look_up(void *arg) {
    struct job *job = arg;
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    const uint64_t one = 1;
    job->failed = getaddrinfo(job->host, job->port, &hints, &job->found);
    if (job->failed) job->found = NULL;
    ssize_t written = write(job->wake, &one, sizeof one); /* an eventfd at 0 takes it */
    (void)written;
    let_go(job);
    return NULL;
}

static void woken(evutil_socket_t fd, short what, void *arg) {
    struct resolve *resolve = arg;
    struct job *job = resolve->job;
    uint64_t count;
    (void)what;
    if (read(fd, &count, sizeof count) != (ssize_t)sizeof count) return; /* not ours yet */
    struct addrinfo *found = job->found;
    const char *why = job->failed ? gai_strerror(job->failed) : "";
    job->found = NULL;
    void (*done)(void *context, struct addrinfo *addresses, const char *why) = resolve->done;
    void *context = resolve->context;
    resolve_cancel(resolve);
    done(context, found, why);
}

/* Signals stay with the loop's thread. */
static int start_thread(struct job *job) {
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;
    if (pthread_attr_init(&attributes) != 0) return -1;
    (void)pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&thread, &attributes, look_up, job);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    (void)pthread_attr_destroy(&attributes);
    return failed;
}

enum ls_status resolve_start(struct event_base *base, const char *host, const char *port,
                             void (*done)(void *context, struct addrinfo *found, const char *why), void *context,
                             struct resolve **ret_resolve, struct ls_error *err) {
    struct resolve *resolve = calloc(1, sizeof *resolve);
    struct job *job = calloc(1, sizeof *job);
    if (!resolve || !job) {
        free(resolve);
        free(job);
        return ls_fail(err, LS_ERR_NOMEM, "out of memory");
    }
    atomic_init(&job->holders, 1);
    job->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    job->host = strdup(host);
    job->port = strdup(port);
    resolve->job = job;
    resolve->done = done;
    resolve->context = context;
    resolve->event = job->wake >= 0 ? event_new(base, job->wake, EV_READ | EV_PERSIST, woken, resolve) : NULL;
    if (!job->host || !job->port || !resolve->event || event_add(resolve->event, NULL) != 0) {
        resolve_cancel(resolve);
        return ls_fail(err, LS_ERR_NOMEM, "no resources to look up %s", host);
    }
    atomic_fetch_add(&job->holders, 1);
    if (start_thread(job) != 0) {
        let_go(job);
        resolve_cancel(resolve);
        return ls_fail(err, LS_ERR_NOMEM, "no thread to look up %s", host);
    }
    *ret_resolve = resolve;
    return LS_OK;
}

void resolve_cancel(struct resolve *resolve) {
    if (!resolve) return;
    if (resolve->event) event_free(resolve->event);
    let_go(resolve->job);
    free(resolve);
}
