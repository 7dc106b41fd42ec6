/* acceptor.c: see acceptor.h. Used from the loop only. */
#include "common/acceptor.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/queue.h>

#include "common/daemon.h"
#include "common/diag.h"
#include "lockstep/limits.h"

struct acceptor {
    struct evconnlistener *listener;
    const char *name;
    struct event *timer;
    bool held, resting, listening;
    uint64_t logged_us; /* 0: never */
    LIST_ENTRY(acceptor) all;
};

/* libevent hands its error callback the listener and what belongs to evhttp: ours is found by the former. */
static LIST_HEAD(acceptor_list, acceptor) acceptors = LIST_HEAD_INITIALIZER(acceptors);
static uint64_t failures;

/* Without memory libevent cannot enable a listener: false, and it is tried again after a rest. */
static bool apply(struct acceptor *acceptor) {
    bool listen = !acceptor->held && !acceptor->resting;
    if (listen == acceptor->listening) return true;
    int failed = listen ? evconnlistener_enable(acceptor->listener) : evconnlistener_disable(acceptor->listener);
    if (failed == 0) acceptor->listening = listen;
    return failed == 0;
}

static void rest(struct acceptor *acceptor) {
    const struct timeval pause = {.tv_sec = LS_ACCEPT_REST_MS / 1000, .tv_usec = LS_ACCEPT_REST_MS % 1000 * 1000L};
    acceptor->resting = event_add(acceptor->timer, &pause) == 0;
    (void)apply(acceptor);
}

static void on_rested(evutil_socket_t fd, short what, void *context) {
    struct acceptor *acceptor = context;
    (void)fd, (void)what;
    acceptor->resting = false;
    if (!apply(acceptor)) rest(acceptor);
}

static void on_error(struct evconnlistener *listener, void *context) {
    int error = errno;
    struct acceptor *acceptor;
    (void)context;
    LIST_FOREACH(acceptor, &acceptors, all) {
        /* cppcheck-suppress uninitvar ; the loop macro sets it */
        if (acceptor->listener == listener) break;
    }
    if (acceptor == NULL) return;
    failures++;
    uint64_t now_us = daemon_now_us();
    if (acceptor->logged_us == 0 || now_us - acceptor->logged_us >= UINT64_C(1000) * LS_ACCEPT_LOG_MS) {
        acceptor->logged_us = now_us;
        diag(DIAG_WARN, "a connection cannot be accepted and waits", "listener", acceptor->name, "error",
             diag_errno(error), NULL);
    }
    rest(acceptor);
}

enum ls_status acceptor_new(struct event_base *base, struct evconnlistener *listener, const char *name,
                            struct acceptor **ret_acceptor, struct ls_error *err) {
    struct acceptor *acceptor = calloc(1, sizeof *acceptor);
    if (acceptor != NULL) acceptor->timer = event_new(base, -1, 0, on_rested, acceptor);
    if (acceptor == NULL || acceptor->timer == NULL) {
        free(acceptor);
        return ls_fail(err, LS_ERR_NOMEM, "out of memory for a listener");
    }
    acceptor->listener = listener;
    acceptor->name = name;
    acceptor->listening = true;
    LIST_INSERT_HEAD(&acceptors, acceptor, all);
    evconnlistener_set_error_cb(listener, on_error);
    *ret_acceptor = acceptor;
    return LS_OK;
}

void acceptor_free(struct acceptor *acceptor) {
    if (acceptor == NULL) return;
    evconnlistener_set_error_cb(acceptor->listener, NULL);
    LIST_REMOVE(acceptor, all);
    event_free(acceptor->timer);
    free(acceptor);
}

void acceptor_hold(struct acceptor *acceptor, bool held) {
    acceptor->held = held;
    if (!apply(acceptor)) rest(acceptor);
}

uint64_t acceptor_failures(void) {
    return failures;
}
