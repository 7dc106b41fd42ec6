/* saga_calls.c: see saga_calls.h. */
#include "coordinator/saga_calls.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/daemon.h"
#include "common/diag.h"
#include "common/failpoint.h"
#include "coordinator/host.h"
#include "coordinator/saga_host.h"

/* Of one service; goes with its last attempt. */
struct saga_calls_queue {
    struct saga_calls_queue *next;
    struct run_attempt *on_way, *first, *last; /* first, last: of those that wait */
    uint32_t on_way_count;
    char name[]; /* of the service */
};

struct saga_calls {
    struct host *host;
    saga_calls_done *done;
    void *context;
    struct saga_calls_queue *queues; /* the first one's turn is next */
    struct event *again;
    struct saga_calls_stats stats;
};

static void on_again(evutil_socket_t fd, short what, void *context) {
    (void)fd;
    (void)what;
    (void)context; /* the turn that it makes is all that is needed */
}

struct saga_calls *saga_calls_new(struct host *host, saga_calls_done *done, void *context) {
    struct saga_calls *c = calloc(1, sizeof *c);
    if (c == NULL) {
        return NULL;
    }
    *c = (struct saga_calls){.host = host, .done = done, .context = context};
    c->again = evtimer_new(host->base, on_again, c);
    if (c->again == NULL) {
        free(c);
        return NULL;
    }
    return c;
}

/* ------------------------------------------------------------------ queues */

static const char *service_of(const struct run_attempt *attempt) {
    return attempt->saga->run->document->saga_steps[attempt->step].service;
}

static struct saga_calls_queue *queue_of(struct saga_calls *c, const char *name) {
    struct saga_calls_queue **link = &c->queues;
    while (*link != NULL && strcmp((*link)->name, name) != 0) {
        link = &(*link)->next;
    }
    if (*link == NULL) {
        size_t size = strlen(name) + 1;
        *link = calloc(1, sizeof **link + size);
        if (*link != NULL) {
            memcpy((*link)->name, name, size);
        }
    }
    return *link;
}

static void drop_if_empty(struct saga_calls *c, struct saga_calls_queue *queue) {
    if (queue->first != NULL || queue->on_way != NULL) {
        return;
    }
    struct saga_calls_queue **link = &c->queues;
    while (*link != queue) {
        assert(*link != NULL); /* it is in the list */
        link = &(*link)->next;
    }
    *link = queue->next;
    free(queue);
}

/* Out of the list that it is in. */
static void unlink_attempt(struct saga_calls *c, struct run_attempt *attempt) {
    struct saga_calls_queue *queue = attempt->queue;
    bool waits = attempt->call == NULL;
    assert(queue != NULL);
    if (attempt->queue_next != NULL) {
        attempt->queue_next->queue_prev = attempt->queue_prev;
    } else if (waits) {
        queue->last = attempt->queue_prev;
    }
    if (attempt->queue_prev != NULL) {
        attempt->queue_prev->queue_next = attempt->queue_next;
    } else if (waits) {
        queue->first = attempt->queue_next;
    } else {
        queue->on_way = attempt->queue_next;
    }
    attempt->queue_next = attempt->queue_prev = NULL;
    queue->on_way_count -= !waits;
    c->stats.on_way -= !waits;
    c->stats.waiting -= waits;
}

static void link_to_saga(struct run_attempt *attempt) {
    struct saga_run *r = attempt->saga;
    attempt->saga_next = r->calls;
    if (r->calls != NULL) {
        r->calls->saga_prev = attempt;
    }
    r->calls = attempt;
}

static void unlink_from_saga(struct run_attempt *attempt) {
    *(attempt->saga_prev == NULL ? &attempt->saga->calls : &attempt->saga_prev->saga_next) = attempt->saga_next;
    if (attempt->saga_next != NULL) {
        attempt->saga_next->saga_prev = attempt->saga_prev;
    }
}

bool saga_calls_add(struct saga_calls *c, struct run_attempt *attempt) {
    struct saga_calls_queue *queue = queue_of(c, service_of(attempt));
    if (queue == NULL) {
        return false;
    }
    run_hold(attempt->run);
    attempt->queue = queue;
    attempt->queue_prev = queue->last;
    *(queue->last == NULL ? &queue->first : &queue->last->queue_next) = attempt;
    queue->last = attempt;
    c->stats.waiting++;
    link_to_saga(attempt);
    return true;
}

/* It is in no list any more. */
static void drop(struct saga_calls *c, struct run_attempt *attempt) {
    struct saga_calls_queue *queue = attempt->queue;
    attempt->queue = NULL;
    attempt->call = NULL;
    unlink_from_saga(attempt);
    run_drop(attempt->run);
    drop_if_empty(c, queue);
}

void saga_calls_abandon(struct saga_calls *c, struct run_attempt *attempt) {
    unlink_attempt(c, attempt);
    if (attempt->call != NULL) {
        web_cancel(attempt->call);
    }
    drop(c, attempt);
}

void saga_calls_free(struct saga_calls *c) {
    if (c == NULL) {
        return;
    }
    while (c->queues != NULL) {
        struct saga_calls_queue *queue = c->queues;
        saga_calls_abandon(c, queue->first != NULL ? queue->first : queue->on_way);
    }
    event_free(c->again);
    free(c);
}

/* ------------------------------------------------------------------- calls */

/* A service has answered, or not in time. */
static void on_done(void *context, const struct web_answer *answer) {
    struct run_attempt *attempt = context;
    struct saga_calls *c = saga_host_calls(attempt->saga->sagas);
    const struct document *document = attempt->saga->run->document;
    struct saga_call_verdict verdict;
    /* Crash: called again with the same key: the service knows. */
    (void)failpoint_hit(FP_saga_call_answered);
    saga_call_judge(answer, attempt->op, service_of(attempt), document->steps[attempt->step].referenced, &verdict);
    unlink_attempt(c, attempt); /* the call goes by itself */
    c->done(c->context, attempt, &verdict);
    drop(c, attempt);
}

/* The first one that waits leaves. */
static void send_first(struct saga_calls *c, struct saga_calls_queue *queue) {
    struct run_attempt *attempt = queue->first;
    const char *app = apps_identity(c->host->apps, attempt->saga->run->app);
    struct saga_call_verdict verdict;
    unlink_attempt(c, attempt);
    attempt->sent_us = daemon_now_us();
    if (!saga_call_send(c->host->web, &c->host->conf, app, attempt, on_done, &verdict)) {
        c->done(c->context, attempt, &verdict);
        drop(c, attempt);
        return;
    }
    attempt->queue_next = queue->on_way;
    if (queue->on_way != NULL) {
        queue->on_way->queue_prev = attempt;
    }
    queue->on_way = attempt;
    queue->on_way_count++;
    c->stats.on_way++;
    if (diag_enabled(DIAG_DEBUG)) {
        diag(DIAG_DEBUG, "saga call", "gtid", attempt->saga->gtid, "step", diag_u64(attempt->step), "op",
             saga_op_name(attempt->op), NULL);
    }
    /* Crash: it may have left or not; called again with the same key. */
    (void)failpoint_hit(FP_saga_call_sent);
}

/* The next service in turn of which one may leave. It goes to the end. */
static struct saga_calls_queue *next_queue(struct saga_calls *c) {
    struct saga_calls_queue **link = &c->queues, *found;
    uint32_t most = c->host->conf.calls_connections;
    while (*link != NULL && ((*link)->first == NULL || (*link)->on_way_count >= most)) {
        link = &(*link)->next;
    }
    found = *link;
    if (found == NULL || c->stats.on_way >= c->host->conf.calls_max) {
        return NULL;
    }
    *link = found->next;
    while (*link != NULL) {
        link = &(*link)->next;
    }
    found->next = NULL;
    *link = found;
    return found;
}

void saga_calls_turn(struct saga_calls *c) {
    struct saga_calls_queue *queue = next_queue(c);
    for (unsigned i = 0; i < SAGA_CALLS_PER_TURN && queue != NULL; i++) {
        send_first(c, queue);
        queue = next_queue(c);
    }
    if (queue != NULL) {
        struct timeval now = {0};
        (void)event_add(c->again, &now); /* without memory: with whatever comes next */
    }
}

void saga_calls_stats(const struct saga_calls *c, struct saga_calls_stats *ret_stats) {
    *ret_stats = c->stats;
}
