/*
 * relay.c: see relay.h.
 *
 * A subscriber:   IDLE -> READING -> SENT -> STORING -> IDLE      anything that fails: PAUSED -> IDLE, and what is not
 * stored is sent again A page at work: HANDLING -> (PARKING ->) HANDLING ... -> done   what cannot be
 * parked: PAUSED -> HANDLING of the same item
 *
 * There is one page at work for each source, and one of parked events that are due. Retries run beside the source they
 * came from: the database keeps the order of a key, since whatever has one of its key waiting before it is queued
 * there.
 */
#include "participant/core/relay.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* So much may be looked over in vain before it is worth a write that it need not be looked over again. */
#define LOOKED_MAX 1000
/* The database is not asked for what is new for more than about a tenth of the time: behind an old snapshot a look
 * walks over all that was new since. */
#define CLAIM_REST 10

enum sub_state { SUB_IDLE, SUB_READING, SUB_SENT, SUB_STORING, SUB_PAUSED };
struct subscriber {
    char name[LS_PARTICIPANT_MAX + 1];
    enum sub_state state;
    bool known;     /* somebody there still wants something */
    bool up, more;  /* more: there may be events behind `after` */
    bool stale;     /* READING, STORING: asked before positions went back */
    int64_t stored; /* acknowledged, and stored here */
    int64_t after;  /* the next page begins behind it */
    int64_t upto;   /* SENT, STORING */
    uint64_t op, timer_us;
    uint32_t failures;
};

/* LOOKING: for a handler, see relay.h */
enum work_state { WORK_IDLE, WORK_HANDLING, WORK_PARKING, WORK_PAUSED, WORK_LOOKING };
struct work {
    char source[LS_PARTICIPANT_MAX + 1]; /* "": parked events */
    enum work_state state;
    void *page;
    const struct relay_item *items;
    uint32_t count, index, handler; /* handler: how many of the item's are through */
    int64_t upto;
    bool again; /* the subscriptions have changed: this item from its first handler on */
    bool moved; /* something is through */
    bool fresh; /* the subscriptions were read after it had come */
    uint64_t op, timer_us;
    uint32_t failures, wait_ms;
    char sqlstate[LS_SQLSTATE_LEN + 1], reason[RELAY_REASON_MAX + 1];
};

struct handler {
    char type[RELAY_TYPE_MAX + 1], name[RELAY_HANDLER_MAX + 1];
};

struct relay {
    struct relay_config config;
    uint64_t now_us, serial, random;
    struct relay_effects *out;
    bool routed;
    struct subscriber *subscribers;
    uint32_t subscriber_count;
    struct work *works; /* peers_max of sources, and one behind them of what is due */
    uint32_t work_count;
    struct work *due;
    struct handler *handlers;
    uint32_t handler_count;
    uint64_t claim_op, claim_us, due_op, due_us;
    uint64_t claim_began_us, claim_least_us; /* the last one; the next one not before */
    uint64_t claim_pause_us;                 /* while nothing is found */
    bool fresh;                              /* something was written while it ran */
    uint64_t due_soon_us;                    /* the first of those parked since the last look */
    char text[RELAY_REASON_MAX + 256];       /* of the last report in this step */
    struct relay_stats stats;
};

/* ------------------------------------------------------------------- helpers */

static struct relay_effect *emit(struct relay *r, enum relay_effect_kind kind) {
    struct relay_effects *out = r->out;
    if (out->count == out->capacity) {
        size_t capacity = out->capacity != 0 ? 2 * out->capacity : 16;
        struct relay_effect *list = realloc(out->list, capacity * sizeof(*list));
        if (list == NULL) abort(); /* a crash is what recovery is for */
        out->list = list;
        out->capacity = capacity;
    }
    struct relay_effect *effect = &out->list[out->count++];
    *effect = (struct relay_effect){.kind = kind};
    return effect;
}

static struct relay_effect *emit_op(struct relay *r, enum relay_effect_kind kind, uint64_t *op) {
    assert(*op == 0);
    struct relay_effect *effect = emit(r, kind);
    effect->op = *op = ++r->serial;
    return effect;
}

/* splitmix64 */
static uint64_t next_random(struct relay *r) {
    uint64_t z = r->random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* Doubles with each attempt up to the most; the jitter takes at most half of it. */
static uint64_t backoff_us(struct relay *r, uint32_t attempts) {
    uint64_t us = r->config.backoff_min_us;
    for (uint32_t i = 1; i < attempts && us < r->config.backoff_max_us; i++) us *= 2;
    if (us > r->config.backoff_max_us) us = r->config.backoff_max_us;
    return us / 2 + next_random(r) % (us / 2 + 1);
}

static void free_page(struct relay *r, void *page) {
    if (page != NULL) emit(r, REF_FREE_PAGE)->page = page;
}

static void min_us(uint64_t *least, uint64_t at_us) {
    if (at_us < *least) *least = at_us;
}
static uint64_t max_us(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

/* ------------------------------------------------------------------- sending */

static struct subscriber *find_subscriber(const struct relay *r, const char *name) {
    for (uint32_t i = 0; i < r->subscriber_count; i++)
        if (strcmp(r->subscribers[i].name, name) == 0) return &r->subscribers[i];
    return NULL;
}

static struct subscriber *subscriber(struct relay *r, const char *name) {
    struct subscriber *s = find_subscriber(r, name);
    if (s != NULL) return s;
    if (r->subscriber_count == r->config.peers_max) {
        (void)snprintf(r->text, sizeof(r->text), "more than %" PRIu32 " subscribers: %.*s gets nothing",
                       r->config.peers_max, LS_PARTICIPANT_MAX, name);
        emit(r, REF_REPORT)->text = r->text;
        return NULL;
    }
    s = &r->subscribers[r->subscriber_count++];
    *s = (struct subscriber){.timer_us = RELAY_NEVER};
    (void)snprintf(s->name, sizeof(s->name), "%s", name);
    return s;
}

static void read_next(struct relay *r, struct subscriber *s) {
    if (s->state != SUB_IDLE || !s->known || !s->up || !s->more) return;
    s->state = SUB_READING;
    s->more = false; /* from here on: what a claim finds after this read */
    struct relay_effect *effect = emit_op(r, REF_DB_READ, &s->op);
    effect->peer = s->name;
    effect->position = s->after;
    effect->limit = r->config.page_max;
}

/* Whatever was on its way may be lost: from what is stored on, again. */
static void start_over(struct relay *r, struct subscriber *s, bool pause) {
    s->after = s->stored;
    s->more = true;
    s->stale = false;
    s->timer_us = RELAY_NEVER;
    s->state = SUB_IDLE;
    if (!pause) return;
    s->failures++;
    s->state = SUB_PAUSED;
    s->timer_us = r->now_us + backoff_us(r, s->failures);
}

static void store(struct relay *r, struct subscriber *s, int64_t position) {
    s->state = SUB_STORING;
    s->upto = position;
    s->timer_us = RELAY_NEVER;
    struct relay_effect *effect = emit_op(r, REF_DB_STORE, &s->op);
    effect->peer = s->name;
    effect->position = position;
}

static void on_read(struct relay *r, struct subscriber *s, const struct relay_event *event) {
    assert(s->state == SUB_READING);
    s->op = 0;
    if (!event->read.ok || !s->up || s->stale) {
        free_page(r, event->read.page);
        start_over(r, s, !event->read.ok);
        return;
    }
    assert(event->read.upto >= s->after && event->read.count <= r->config.page_max);
    s->more = s->more || event->read.more || event->read.count == r->config.page_max;
    if (event->read.count > 0) {
        s->state = SUB_SENT;
        s->upto = event->read.upto;
        s->timer_us = r->now_us + r->config.ack_wait_us;
        r->stats.sent += event->read.count;
        struct relay_effect *effect = emit(r, REF_SEND_PAGE);
        effect->peer = s->name;
        effect->page = event->read.page;
        effect->position = s->upto;
        effect->stored = s->stored;
        return;
    }
    free_page(r, event->read.page);
    s->after = event->read.upto;
    s->state = SUB_IDLE;
    if (s->after - s->stored >= LOOKED_MAX) store(r, s, s->after);
}

static void on_ack(struct relay *r, const struct relay_event *event) {
    struct subscriber *s = find_subscriber(r, event->peer);
    if (s == NULL || s->state != SUB_SENT || event->position > s->upto || event->position <= s->stored) return;
    /* Less than was sent: an earlier, shorter page was still at work there, and this one was dropped for it. */
    if (event->position < s->upto) s->more = true;
    r->stats.acknowledged++;
    store(r, s, event->position);
}

static void on_stored(struct relay *r, struct subscriber *s, bool ok) {
    assert(s->state == SUB_STORING);
    s->op = 0;
    if (!ok || s->stale) {
        start_over(r, s, !ok);
        return;
    }
    assert(s->upto >= s->stored);
    s->stored = s->after = s->upto;
    s->failures = 0;
    s->state = SUB_IDLE;
}

static void on_peer(struct relay *r, const char *peer, bool up) {
    struct subscriber *s = up ? subscriber(r, peer) : find_subscriber(r, peer);
    if (s == NULL) return;
    s->up = up;
    if (up) s->more = true;
    if (!up && (s->state == SUB_SENT || s->state == SUB_PAUSED)) start_over(r, s, false);
}

/* Something may want a position: not to be waited for until the next look. */
static void fresh(struct relay *r, uint64_t wait_us) {
    r->fresh = r->claim_op != 0;
    if (r->fresh || !r->routed) return;
    r->claim_pause_us = r->config.claim_us;
    min_us(&r->claim_us, max_us(r->now_us, r->claim_least_us + wait_us));
}

/* What looks like a slow look may be an agent that stood still, or a database that did not answer. */
static uint64_t claim_rest_us(const struct relay *r) {
    uint64_t rest_us = CLAIM_REST * (r->now_us - r->claim_began_us);
    return rest_us < r->config.claim_slow_us ? rest_us : r->config.claim_slow_us;
}

static void on_claim(struct relay *r, const struct relay_event *event) {
    r->claim_op = 0;
    bool found = event->claim.ok && event->claim.given > 0;
    bool full = found && event->claim.given >= r->config.claim_max;
    r->claim_least_us = r->now_us + claim_rest_us(r);
    r->claim_pause_us = found ? r->config.claim_us : 2 * r->claim_pause_us;
    if (r->claim_pause_us > r->config.claim_rest_us)
        r->claim_pause_us = max_us(r->config.claim_rest_us, r->config.claim_us);
    r->claim_us = full ? r->now_us : max_us(r->claim_least_us, r->now_us + r->claim_pause_us);
    if (r->fresh) fresh(r, 0);
    if (event->claim.ok && !found) return; /* an answer that is lost may have given some */
    r->stats.claimed += event->claim.given;
    for (uint32_t i = 0; i < r->subscriber_count; i++) r->subscribers[i].more = true;
}

static void go_back(struct relay *r, struct subscriber *s, int64_t position) {
    s->stored = s->after = position;
    s->stale = s->state == SUB_READING || s->state == SUB_STORING;
    if (!s->stale) start_over(r, s, false);
}

static void on_subscribers(struct relay *r, const struct relay_event *event) {
    for (uint32_t i = 0; i < r->subscriber_count; i++) r->subscribers[i].known = false;
    for (uint32_t i = 0; i < event->routes.subscriber_count; i++) {
        const struct relay_subscriber *from = &event->routes.subscribers[i];
        struct subscriber *s = subscriber(r, from->participant);
        if (s == NULL) continue;
        s->known = s->more = true;
        if (event->routes.back) go_back(r, s, from->position);
        if (s->state != SUB_IDLE || from->position <= s->stored) continue;
        s->stored = s->after = from->position;
    }
}

/* ----------------------------------------------------------------- receiving */

/* The item's n-th handler here; NULL: no more. */
static const char *nth_handler(const struct relay *r, const char *type, uint32_t n) {
    for (uint32_t i = 0; i < r->handler_count; i++)
        if (strcmp(r->handlers[i].type, type) == 0 && n-- == 0) return r->handlers[i].name;
    return NULL;
}

static const char *next_handler(const struct relay *r, const struct work *w) {
    const struct relay_item *item = &w->items[w->index];
    if (w != r->due) return nth_handler(r, item->type, w->handler);
    return w->handler == 0 ? item->handler : NULL;
}

static void finish(struct relay *r, struct work *w) {
    if (w != r->due) {
        struct relay_effect *effect = emit(r, REF_SEND_ACK);
        effect->peer = w->source;
        effect->position = w->upto;
    } else {
        r->due_us = w->moved ? r->now_us : r->now_us + r->config.due_us; /* what stood behind it may be due now */
        min_us(&r->due_us, max_us(r->now_us, r->due_soon_us));
    }
    free_page(r, w->page);
    w->page = NULL;
    w->state = WORK_IDLE;
}

static void handle(struct relay *r, struct work *w, const char *handler) {
    w->state = WORK_HANDLING;
    w->timer_us = RELAY_NEVER;
    struct relay_effect *effect = emit_op(r, REF_DB_HANDLE, &w->op);
    effect->page = w->page;
    effect->index = w->index;
    effect->handler = handler;
    effect->peer = w == r->due ? w->items[w->index].source : w->source;
}

/* The next thing to do for this page. */
static void go_on(struct relay *r, struct work *w) {
    for (; w->index < w->count; w->index++, w->handler = 0) {
        const char *handler = next_handler(r, w);
        if (handler != NULL) {
            handle(r, w, handler);
            return;
        }
        if (w == r->due || w->handler > 0 || w->fresh) continue;
        w->state = WORK_LOOKING;
        w->timer_us = RELAY_NEVER;
        emit(r, REF_LOOK);
        return;
    }
    finish(r, w);
}

static void through(struct relay *r, struct work *w) {
    w->failures = 0;
    w->handler = w->again ? 0 : w->handler + 1;
    w->again = false;
    go_on(r, w);
}

/* It may not even be parked: the same again, and nothing behind it before. The unique inbox row makes that harmless. */
static void again_later(struct relay *r, struct work *w) {
    w->failures++;
    w->state = WORK_PAUSED;
    w->timer_us = r->now_us + backoff_us(r, w->failures);
}

static void park(struct relay *r, struct work *w, const struct relay_event *event) {
    const char *handler = next_handler(r, w);
    if (handler == NULL) { /* unsubscribed meanwhile */
        through(r, w);
        return;
    }
    (void)snprintf(w->sqlstate, sizeof(w->sqlstate), "%s",
                   event->handle.sqlstate != NULL ? event->handle.sqlstate : "");
    (void)snprintf(w->reason, sizeof(w->reason), "%s", event->handle.reason != NULL ? event->handle.reason : "");
    uint32_t attempts = w->items[w->index].attempts + 1;
    w->state = WORK_PARKING;
    struct relay_effect *effect = emit_op(r, REF_DB_PARK, &w->op);
    effect->page = w->page;
    effect->index = w->index;
    effect->handler = handler;
    effect->peer = w == r->due ? w->items[w->index].source : w->source;
    effect->sqlstate = w->sqlstate;
    effect->reason = w->reason;
    effect->wait_ms = w->wait_ms = (uint32_t)(backoff_us(r, attempts) / 1000);
    effect->attempts_max = r->config.attempts_max;
}

static void on_handled(struct relay *r, struct work *w, const struct relay_event *event) {
    assert(w->state == WORK_HANDLING);
    w->op = 0;
    if (w->again && (event->handle.result == RELAY_FAILED || event->handle.result == RELAY_UNKNOWN)) {
        w->handler = 0; /* which of the handlers it was is no longer said by its number */
        w->again = false;
        again_later(r, w);
        return;
    }
    switch (event->handle.result) {
    case RELAY_DONE:
        r->stats.handled++;
        r->stats.retried += w == r->due ? 1u : 0u;
        w->moved = true;
        fresh(r, 0); /* what its handler has emitted */
        through(r, w);
        return;
    case RELAY_DUPLICATE:
        r->stats.duplicates++;
        through(r, w);
        return;
    case RELAY_QUEUED:
        r->stats.queued++;
        through(r, w);
        return;
    case RELAY_FAILED:
    case RELAY_UNKNOWN: /* a transaction that still runs is waited for there */
        park(r, w, event);
        return;
    }
    assert(false && "handled");
}

static void on_parked(struct relay *r, struct work *w, enum relay_parked result) {
    assert(w->state == WORK_PARKING);
    w->op = 0;
    switch (result) {
    case RELAY_WAITING:
        r->stats.parked++;
        min_us(&r->due_soon_us, r->now_us + 1000 * (uint64_t)w->wait_ms);
        if (r->due_us != RELAY_NEVER) min_us(&r->due_us, r->due_soon_us);
        through(r, w);
        return;
    case RELAY_DEAD:
        r->stats.dead++;
        (void)snprintf(r->text, sizeof(r->text), "dead letter: event %" PRId64 " of %.*s: %s %s",
                       w->items[w->index].position, LS_PARTICIPANT_MAX,
                       w == r->due ? w->items[w->index].source : w->source, w->sqlstate, w->reason);
        emit(r, REF_REPORT)->text = r->text;
        through(r, w);
        return;
    case RELAY_THROUGH:
        through(r, w);
        return;
    case RELAY_NOT_PARKED:
        again_later(r, w);
        return;
    }
    assert(false && "parked");
}

/* The work of this source; NULL: no room. */
static struct work *work_of(struct relay *r, const char *source) {
    for (uint32_t i = 0; i < r->work_count; i++)
        if (strcmp(r->works[i].source, source) == 0) return &r->works[i];
    if (r->work_count == r->config.peers_max) return NULL;
    struct work *w = &r->works[r->work_count++];
    *w = (struct work){.timer_us = RELAY_NEVER};
    (void)snprintf(w->source, sizeof(w->source), "%s", source);
    return w;
}

static void begin(struct relay *r, struct work *w, const struct relay_event *event) {
    assert(w->state == WORK_IDLE && w->page == NULL && w->op == 0);
    w->page = event->page.page;
    w->items = event->page.items;
    w->count = event->page.count;
    w->upto = event->page.upto;
    w->index = w->handler = w->failures = 0;
    w->again = w->moved = w->fresh = false;
    go_on(r, w);
}

static void on_page(struct relay *r, const struct relay_event *event) {
    struct work *w = r->routed ? work_of(r, event->peer) : NULL;
    if (w == NULL && r->routed) {
        (void)snprintf(r->text, sizeof(r->text), "more than %" PRIu32 " sources: nothing is taken from %.*s",
                       r->config.peers_max, LS_PARTICIPANT_MAX, event->peer);
        emit(r, REF_REPORT)->text = r->text;
    }
    if (w == NULL || w->state != WORK_IDLE)
        free_page(r, event->page.page); /* it comes again; and the one at work will be acknowledged */
    else
        begin(r, w, event);
}

static void on_due(struct relay *r, const struct relay_event *event) {
    r->due_op = 0;
    r->due_us = r->now_us + r->config.due_us;
    if (!event->page.ok || event->page.count == 0) {
        free_page(r, event->page.page);
        return;
    }
    r->due_us = RELAY_NEVER;
    begin(r, r->due, event);
}

static void on_handlers(struct relay *r, const struct relay_event *event) {
    uint32_t count = event->routes.handler_count;
    if (count > r->config.handlers_max) {
        (void)snprintf(r->text, sizeof(r->text), "more than %" PRIu32 " subscriptions: some get nothing",
                       r->config.handlers_max);
        emit(r, REF_REPORT)->text = r->text;
        count = r->config.handlers_max;
    }
    for (uint32_t i = 0; i < count; i++) {
        (void)snprintf(r->handlers[i].type, sizeof(r->handlers[i].type), "%s", event->routes.handlers[i].type);
        (void)snprintf(r->handlers[i].name, sizeof(r->handlers[i].name), "%s", event->routes.handlers[i].handler);
    }
    r->handler_count = count;
    for (uint32_t i = 0; i < r->work_count; i++) {
        struct work *w = &r->works[i];
        w->again = w->state != WORK_IDLE && w->state != WORK_LOOKING;
        if (w->state != WORK_LOOKING || !event->routes.looked) continue;
        w->fresh = true;
        go_on(r, w);
    }
}

/* ------------------------------------------------------------------ the step */

uint64_t relay_next_timer(const struct relay *r) {
    uint64_t least = RELAY_NEVER;
    min_us(&least, r->claim_us);
    min_us(&least, r->due_us);
    for (uint32_t i = 0; i < r->subscriber_count; i++) min_us(&least, r->subscribers[i].timer_us);
    for (uint32_t i = 0; i < r->work_count; i++) min_us(&least, r->works[i].timer_us);
    min_us(&least, r->due->timer_us);
    return least;
}

static void wake(struct relay *r, struct work *w) {
    if (w->timer_us > r->now_us) return;
    w->timer_us = RELAY_NEVER;
    if (w->again) w->handler = 0;
    w->again = false;
    go_on(r, w);
}

static void on_tick(struct relay *r) {
    for (uint32_t i = 0; i < r->subscriber_count; i++) {
        struct subscriber *s = &r->subscribers[i];
        if (s->timer_us <= r->now_us) start_over(r, s, s->state == SUB_SENT);
    }
    for (uint32_t i = 0; i < r->work_count; i++) wake(r, &r->works[i]);
    wake(r, r->due);
}

/* What is idle and has something to do. */
static void pump(struct relay *r) {
    if (!r->routed) return;
    if (r->claim_op == 0 && r->claim_us <= r->now_us) {
        r->claim_us = RELAY_NEVER;
        r->claim_began_us = r->now_us;
        emit_op(r, REF_DB_CLAIM, &r->claim_op)->limit = r->config.claim_max;
    }
    if (r->due_op == 0 && r->due->state == WORK_IDLE && r->due_us <= r->now_us) {
        r->due_us = r->due_soon_us = RELAY_NEVER;
        emit_op(r, REF_DB_DUE, &r->due_op)->limit = r->config.page_max;
    }
    for (uint32_t i = 0; i < r->subscriber_count; i++) read_next(r, &r->subscribers[i]);
}

static struct subscriber *waiting_subscriber(const struct relay *r, uint64_t op) {
    for (uint32_t i = 0; i < r->subscriber_count; i++)
        if (r->subscribers[i].op == op) return &r->subscribers[i];
    assert(false && "an answer that no subscriber waits for");
    return NULL;
}

static struct work *waiting_work(const struct relay *r, uint64_t op) {
    for (uint32_t i = 0; i < r->work_count; i++)
        if (r->works[i].op == op) return &r->works[i];
    assert(r->due->op == op);
    return r->due;
}

static void dispatch(struct relay *r, const struct relay_event *event) {
    switch (event->kind) {
    case REV_TICK:
        on_tick(r);
        return;
    case REV_ROUTES:
        if (!r->routed) r->claim_us = r->due_us = r->now_us;
        r->routed = true;
        on_subscribers(r, event);
        on_handlers(r, event);
        return;
    case REV_FRESH:
        fresh(r, r->config.claim_us); /* it comes with every commit */
        return;
    case REV_PEER_UP:
    case REV_PEER_DOWN:
        on_peer(r, event->peer, event->kind == REV_PEER_UP);
        return;
    case REV_ACK:
        on_ack(r, event);
        return;
    case REV_PAGE:
        on_page(r, event);
        return;
    case REV_DB_CLAIM:
        assert(event->op == r->claim_op);
        on_claim(r, event);
        return;
    case REV_DB_READ:
        on_read(r, waiting_subscriber(r, event->op), event);
        return;
    case REV_DB_STORE:
        on_stored(r, waiting_subscriber(r, event->op), event->store.ok);
        return;
    case REV_DB_HANDLE:
        on_handled(r, waiting_work(r, event->op), event);
        return;
    case REV_DB_PARK:
        on_parked(r, waiting_work(r, event->op), event->park.result);
        return;
    case REV_DB_DUE:
        assert(event->op == r->due_op);
        on_due(r, event);
        return;
    }
    assert(false && "event kind");
}

void relay_step(struct relay *r, const struct relay_event *event, struct relay_effects *effects) {
    assert(event->now_us >= r->now_us);
    effects->count = 0;
    r->out = effects;
    r->now_us = event->now_us;
    dispatch(r, event);
    pump(r);
    r->out = NULL;
}

/* ------------------------------------------------------------- life and views */

void relay_config_defaults(struct relay_config *config) {
    *config = (struct relay_config){.page_max = 100,
                                    .claim_max = 1000,
                                    .peers_max = 64,
                                    .handlers_max = 256,
                                    .attempts_max = LS_DEFAULT_RELAY_ATTEMPTS,
                                    .claim_us = UINT64_C(50000),
                                    .claim_rest_us = UINT64_C(1000000),
                                    .claim_slow_us = UINT64_C(10000000),
                                    .due_us = UINT64_C(1000000),
                                    .ack_wait_us = UINT64_C(30000000),
                                    .backoff_min_us = UINT64_C(1000) * LS_RETRY_MS_MIN,
                                    .backoff_max_us = UINT64_C(1000) * LS_RETRY_MS_MAX};
}

struct relay *relay_new(const struct relay_config *config) {
    assert(config->page_max >= 1 && config->claim_max >= 1 && config->peers_max >= 1 && config->attempts_max >= 1);
    assert(config->backoff_min_us >= 2 && config->backoff_max_us >= config->backoff_min_us);
    struct relay *r = calloc(1, sizeof(*r));
    if (r == NULL) return NULL;
    r->config = *config;
    r->random = config->seed;
    r->claim_us = r->due_us = r->due_soon_us = RELAY_NEVER;
    r->claim_pause_us = config->claim_us;
    r->subscribers = calloc(config->peers_max, sizeof(*r->subscribers));
    r->works = calloc(config->peers_max + 1, sizeof(*r->works));
    r->handlers = calloc(config->handlers_max + 1, sizeof(*r->handlers));
    if (r->subscribers == NULL || r->works == NULL || r->handlers == NULL) {
        relay_free(r);
        return NULL;
    }
    r->due = &r->works[config->peers_max];
    r->due->timer_us = RELAY_NEVER;
    return r;
}

void relay_free(struct relay *r) {
    if (r == NULL) return;
    free(r->subscribers);
    free(r->works);
    free(r->handlers);
    free(r);
}

void relay_effects_free(struct relay_effects *effects) {
    free(effects->list);
    memset(effects, 0, sizeof(*effects));
}

void relay_stats(const struct relay *r, struct relay_stats *ret_stats) {
    *ret_stats = r->stats;
}

int64_t relay_may_prune(const struct relay *r, const char *source, int64_t stored) {
    if (r->due_op != 0) return INT64_MIN; /* nobody knows yet of which events the answer will be */
    for (uint32_t i = 0; i <= r->config.peers_max; i++) {
        const struct work *w = &r->works[i]; /* what is due is the last */
        for (uint32_t n = w->index; w->state != WORK_IDLE && n < w->count; n++) {
            const char *from = w == r->due ? w->items[n].source : w->source;
            if (strcmp(from, source) == 0 && w->items[n].position <= stored) stored = w->items[n].position - 1;
        }
    }
    return stored;
}

static void check_work(const struct relay *r, const struct work *w) {
    bool busy = w->state == WORK_HANDLING || w->state == WORK_PARKING;
    assert(busy == (w->op != 0) && (w->state == WORK_PAUSED) == (w->timer_us != RELAY_NEVER));
    assert(w->state == WORK_IDLE || w->index < w->count);
    assert(w->state != WORK_LOOKING || (w->handler == 0 && !w->fresh));
    assert((w == r->due) == (w->source[0] == '\0'));
}

void relay_check(const struct relay *r) {
    for (uint32_t i = 0; i < r->subscriber_count; i++) {
        const struct subscriber *s = &r->subscribers[i];
        bool asked = s->state == SUB_READING || s->state == SUB_STORING,
             timed = s->state == SUB_SENT || s->state == SUB_PAUSED;
        assert(asked == (s->op != 0) && timed == (s->timer_us != RELAY_NEVER));
        assert(s->after >= s->stored && (s->state != SUB_SENT || s->upto > s->stored));
        assert(s->state != SUB_SENT || s->up);
        /* something moves it on, or it has nothing to do */
        assert(s->state != SUB_IDLE || !s->known || !s->up || !s->more || !r->routed);
    }
    for (uint32_t i = 0; i < r->work_count; i++) check_work(r, &r->works[i]);
    check_work(r, r->due);
    assert(!r->routed || (r->claim_op != 0) != (r->claim_us != RELAY_NEVER));
    assert(!r->routed || (r->due_op != 0) + (r->due_us != RELAY_NEVER) + (r->due->state != WORK_IDLE) == 1);
}
