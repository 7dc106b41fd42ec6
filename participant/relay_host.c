/*
 * relay_host.c: see relay_host.h.
 *
 * Who wants what is kept in the database (lockstep.route, lockstep.peer), in three steps, one at a time: this
 * database's own subscriptions are read; what is new, its own or said by the coordinator, is stored; the whole is read
 * back and given to the core. A look every second finds subscriptions that were made meanwhile. Events for this
 * participant itself take no link, and the same way otherwise.
 *
 * One participant sends the events of a database, for ever: the first whose agent has asked (lockstep.relay_take). To a
 * receiver an event is the same only under the same name and position. The agent of another one rests, and says so.
 *
 * `sure`: up to there positions were given out for certain, a synchronous standby's word included. Nothing beyond it is
 * sent. A database that has less has lost WAL: a human is told, and the core begins again where the database says.
 */
#include "participant/relay_host.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/daemon.h"
#include "common/diag.h"
#include "common/failpoint.h"
#include "common/hash.h"
#include "common/memory.h"
#include "participant/host.h"
#include "participant/link.h"
#include "participant/page.h"
#include "participant/peers.h"
#include "participant/pg/conn.h"
#include "participant/pg/sql.h"

#define LOOK_MS 1000u
#define PRUNE_LOOKS_MAX 30u /* between two prunings, when the one before found little */
#define PRUNE_BATCH 1000
#define PRUNE_LOOKED_MAX 5000 /* own events looked at in one statement */
#define REST_LOOKS 5u         /* between two attempts to be the one that relays */
#define LATER_BATCH "100"
#define TELL_MAX (LS_FRAME_MAX - 1024u)
#define TELL_ROWS_MAX 1000u

struct subscription {
    char *type, *handler, *role;
};
struct subscriptions {
    struct subscription *list;
    uint32_t count;
};

/* Something that the database is to remember of one participant. */
struct news {
    Lockstep__Route *route;
    struct news *next;
};

/* How far each source has stored our acknowledgements: what the inbox may let go. */
struct watermark {
    char source[LS_PARTICIPANT_MAX + 1];
    int64_t stored;
    struct watermark *next;
};

/* A delivery that waits for its turn or runs. */
struct job {
    struct relayhost *relay;
    uint64_t op;
    bool park;
    char *handler, *role, *source;
    struct pg_delivery what;
    struct job *next;
};

/* What this participant sends to itself. */
struct own {
    struct page *page; /* NULL: an acknowledgement */
    int64_t position;
    struct own *next;
};

struct relayhost {
    struct agenthost *host;
    struct relay *core;
    struct relay_effects effects;
    struct peers *peers;
    struct event *timer, *look_timer, *own_event;
    uint64_t timer_us;
    bool started, stepping;
    /* whose relay it is */
    bool wanted, taking, resting;
    int64_t sure, back_to;
    bool unsure; /* what the last claim gave out may not have reached the standby */
    bool back;   /* positions have gone back, and the core has not been told */
    /* who wants what */
    struct subscriptions subscriptions;
    bool known;                           /* subscriptions were read */
    bool told;                            /* the core has those, and others may hear of them */
    bool busy;                            /* one of the three steps is under way */
    bool look;                            /* the database's tables are to be read back at the next turn */
    bool look_wanted, look_asked, looked; /* by the core: not yet, being read, read and to be told */
    struct news *news;
    bool self_up;
    /* deliveries */
    struct job *waiting, **waiting_last;
    uint32_t running;
    struct own *own, **own_last;
    struct watermark *watermarks;
    uint32_t looks;
    bool pruning, prune_more, stating, late_busy;
    int64_t prune_after;
    uint64_t letters_told; /* how many dead letters the coordinator knows of */
    struct relayhost_stats stats;
};

static void step(struct relayhost *relay, struct relay_event *event);
static void turn(struct relayhost *relay);
static void take_relay(struct relayhost *relay);
static void look_at_subscriptions(struct relayhost *relay);

static void ask_db(struct relayhost *relay, const char *sql, int count, const char *const *values, bool exclusive,
                   pg_query_fn *done, void *context) {
    pg_query(relay->host->pg, sql, count, values, exclusive, done, context);
}

static const char *i64_text(int64_t value, char text[24]) {
    snprintf(text, 24, "%" PRId64, value);
    return text;
}

/* A value that must be a number: 0 if it is none. */
static int64_t number_at(const struct conn_item *item, int row, int column) {
    const char *text = conn_value(item, row, column);
    return text != NULL ? strtoll(text, NULL, 10) : 0;
}

/* A database that has lost WAL is no longer the one whose positions the core knows. */
static void gone_back(struct relayhost *relay, const char *why) {
    if (relay->back) return;
    diag(DIAG_ERROR, "needs a human", "what",
         "positions of events have gone back: this database has lost WAL. Subscribers "
         "may have what is not there any more; events that bear a position they know will be dead letters there",
         "why", why, "known", diag_u64((uint64_t)relay->sure), NULL);
    relay->back = true;
    relay->back_to = -1; /* until it is known */
    take_relay(relay);
}

static bool is_gone_back(enum pg_query_result result, const struct conn_item *item) {
    return result == PG_QUERY_FAILED && strcmp(conn_sqlstate(item), "LS005") == 0;
}

static void complain(const char *what, enum pg_query_result result, const struct conn_item *item) {
    if (result == PG_QUERY_FAILED)
        diag(DIAG_ERROR, what, "sqlstate", conn_sqlstate(item), "error", conn_message(item), NULL);
}

/* ---- answers of the database to the core. The context is relay and op. */

struct asked {
    struct relayhost *relay;
    uint64_t op;
    char peer[LS_PARTICIPANT_MAX + 1];
    int64_t after;
};

static struct asked *asked_new(struct relayhost *relay, const struct relay_effect *effect) {
    struct asked *asked = memory_new(sizeof(*asked));
    asked->relay = relay;
    asked->op = effect->op;
    asked->after = effect->position;
    if (effect->peer != NULL) snprintf(asked->peer, sizeof(asked->peer), "%s", effect->peer);
    return asked;
}

static void claim_done(void *context, enum pg_query_result result, const struct conn_item *item) {
    struct asked asked = *(struct asked *)context;
    struct relay_event event = {.kind = REV_DB_CLAIM, .op = asked.op};
    free(context);
    if (is_gone_back(result, item))
        gone_back(asked.relay, conn_message(item));
    else
        complain("events cannot be given positions", result, item);
    event.claim.ok = result == PG_QUERY_OK;
    if (!event.claim.ok) asked.relay->unsure = true; /* it may have given out some */
    event.claim.given = event.claim.ok ? (uint32_t)number_at(item, 0, 0) : 0;
    if (event.claim.given > 0 && item->warned) { /* a standby that is waited for may not have them */
        diag(DIAG_WARN, "positions were given out, replication unknown: their events wait", NULL);
        asked.relay->unsure = true;
        event.claim.ok = false;
    } else if (event.claim.given > 0) {
        asked.relay->sure = number_at(item, 0, 1);
    }
    if (event.claim.given > 0) /* Crash: they have positions and were sent to nobody: read by the next life. */
        (void)failpoint_hit(FP_relay_claimed);
    step(asked.relay, &event);
}

static void read_done(void *context, enum pg_query_result result, const struct conn_item *item) {
    struct asked asked = *(struct asked *)context;
    struct relay_event event = {.kind = REV_DB_READ, .op = asked.op};
    free(context);
    complain("events cannot be read", result, item);
    event.read.ok = result == PG_QUERY_OK;
    if (event.read.ok) {
        int rows = PQntuples(item->result);
        struct page *page = page_new((uint32_t)rows);
        for (int i = 0; i < rows && conn_value(item, i, PAGE_POSITION) != NULL; i++) {
            const struct page_event found = {.position = number_at(item, i, PAGE_POSITION),
                                             .version = number_at(item, i, PAGE_VERSION),
                                             .type = PQgetvalue(item->result, i, PAGE_TYPE),
                                             .key = PQgetvalue(item->result, i, PAGE_KEY),
                                             .saga = PQgetvalue(item->result, i, PAGE_SAGA),
                                             .payload = PQgetvalue(item->result, i, PAGE_PAYLOAD)};
            page_add(page, &found);
        }
        int64_t looked = number_at(item, 0, PAGE_LOOKED), total = number_at(item, 0, PAGE_TOTAL);
        event.read.ok = looked >= asked.after;
        if (!event.read.ok) gone_back(asked.relay, "a subscriber has acknowledged more than was ever given out");
        event.read.page = page;
        event.read.count = page->count;
        event.read.more = total > (int64_t)page->count || total >= (int64_t)LS_EVENT_PAGE_MAX;
        event.read.upto = event.read.more ? page->events[page->count - 1].position : looked;
        if (page->count > 0) /* Crash: read again. */
            (void)failpoint_hit(FP_relay_page_read);
    }
    step(asked.relay, &event);
}

static void store_done(void *context, enum pg_query_result result, const struct conn_item *item) {
    struct asked asked = *(struct asked *)context;
    struct relay_event event = {.kind = REV_DB_STORE, .op = asked.op};
    free(context);
    if (is_gone_back(result, item))
        gone_back(asked.relay, conn_message(item));
    else
        complain("an acknowledgement cannot be stored", result, item);
    event.store.ok = result == PG_QUERY_OK;
    step(asked.relay, &event);
}

static void due_done(void *context, enum pg_query_result result, const struct conn_item *item) {
    struct asked asked = *(struct asked *)context;
    struct relay_event event = {.kind = REV_DB_DUE, .op = asked.op};
    free(context);
    complain("parked events cannot be read", result, item);
    event.page.ok = result == PG_QUERY_OK;
    if (event.page.ok) {
        int rows = PQntuples(item->result);
        struct page *page = page_new((uint32_t)rows);
        for (int i = 0; i < rows; i++) {
            const struct page_event found = {.position = number_at(item, i, DUE_POSITION),
                                             .version = number_at(item, i, DUE_VERSION),
                                             .type = PQgetvalue(item->result, i, DUE_TYPE),
                                             .key = PQgetvalue(item->result, i, DUE_KEY),
                                             .saga = PQgetvalue(item->result, i, DUE_SAGA),
                                             .payload = PQgetvalue(item->result, i, DUE_PAYLOAD),
                                             .source = PQgetvalue(item->result, i, DUE_SOURCE),
                                             .handler = PQgetvalue(item->result, i, DUE_HANDLER),
                                             .attempts = (uint32_t)number_at(item, i, DUE_ATTEMPTS)};
            page_add(page, &found);
        }
        event.page.page = page;
        event.page.items = page->items;
        event.page.count = page->count;
    }
    step(asked.relay, &event);
}

/* ---- deliveries */

static void job_free(struct job *job) {
    free(job->handler);
    free(job->role);
    free(job->source);
    free(job);
}

static void run_jobs(struct relayhost *relay);

static void delivered(void *context, enum relay_handled result, const char *sqlstate, const char *reason) {
    struct job *job = context;
    struct relayhost *relay = job->relay;
    struct relay_event event = {.kind = REV_DB_HANDLE, .op = job->op};
    event.handle.result = result;
    event.handle.sqlstate = sqlstate;
    event.handle.reason = reason;
    relay->running--;
    if (result == RELAY_FAILED || result == RELAY_UNKNOWN)
        diag(DIAG_WARN, result == RELAY_FAILED ? "a handler has failed" : "what became of a delivery is not known",
             "handler", job->handler, "source", job->source, "position", diag_u64((uint64_t)job->what.position), "key",
             job->what.key, "sqlstate", sqlstate, "reason", reason, NULL);
    job_free(job);
    step(relay, &event);
    run_jobs(relay);
}

static void run_jobs(struct relayhost *relay) {
    while (relay->waiting != NULL && relay->running < relay->host->conf.relay_sessions) {
        struct job *job = relay->waiting;
        relay->waiting = job->next;
        if (relay->waiting == NULL) relay->waiting_last = &relay->waiting;
        relay->running++;
        pg_deliver(relay->host->pg, &job->what, (uint32_t)relay->host->conf.handler_ms, delivered, job);
    }
}

/* "": nobody has subscribed it any more; refused then. */
static const char *role_of(const struct relayhost *relay, const char *type, const char *handler) {
    for (uint32_t i = 0; i < relay->subscriptions.count; i++) {
        const struct subscription *at = &relay->subscriptions.list[i];
        if (strcmp(at->type, type) == 0 && strcmp(at->handler, handler) == 0) return at->role;
    }
    return "";
}

static struct job *job_new(struct relayhost *relay, const struct relay_effect *effect) {
    const struct page *page = effect->page;
    const struct page_event *of = &page->events[effect->index];
    struct job *job = memory_new(sizeof(*job));
    job->relay = relay;
    job->op = effect->op;
    job->handler = memory_copy(effect->handler);
    job->role = memory_copy(role_of(relay, of->type, effect->handler));
    job->source = memory_copy(effect->peer);
    job->what = (struct pg_delivery){.role = job->role,
                                     .handler = job->handler,
                                     .source = job->source,
                                     .position = of->position,
                                     .type = of->type,
                                     .key = of->key,
                                     .version = of->version,
                                     .saga = of->saga,
                                     .payload = of->payload};
    return job;
}

static void start_handling(struct relayhost *relay, const struct relay_effect *effect) {
    struct job *job = job_new(relay, effect);
    *relay->waiting_last = job;
    relay->waiting_last = &job->next;
    run_jobs(relay);
}

static void park_done(void *context, enum relay_parked result) {
    struct job *job = context;
    struct relayhost *relay = job->relay;
    struct relay_event event = {.kind = REV_DB_PARK, .op = job->op};
    event.park.result = result;
    if (result == RELAY_DEAD) {
        relay->letters_told = 0; /* another may have gone meanwhile */
        diag(DIAG_ERROR, "needs a human", "what", "an event is a dead letter", "handler", job->handler, "source",
             job->source, "position", diag_u64((uint64_t)job->what.position), "key", job->what.key, "saga",
             job->what.saga, NULL);
    }
    job_free(job);
    step(relay, &event);
}

static void start_parking(struct relayhost *relay, const struct relay_effect *effect) {
    struct job *job = job_new(relay, effect);
    pg_park(relay->host->pg, &job->what, effect->sqlstate, effect->reason, effect->attempts_max, effect->wait_ms,
            park_done, job);
}

/* ---- pages on their way */

static bool is_self(const struct relayhost *relay, const char *participant) {
    return strcmp(participant, relay->host->conf.name) == 0;
}

static void to_self(struct relayhost *relay, struct page *page, int64_t position) {
    struct own *own = memory_new(sizeof(*own));
    own->page = page;
    own->position = position;
    *relay->own_last = own;
    relay->own_last = &own->next;
    event_active(relay->own_event, EV_TIMEOUT, 0);
}

static void note_stored(struct relayhost *relay, const char *source, int64_t stored) {
    struct watermark *mark = relay->watermarks;
    while (mark != NULL && strcmp(mark->source, source) != 0) mark = mark->next;
    if (mark == NULL) {
        mark = memory_new(sizeof(*mark));
        snprintf(mark->source, sizeof(mark->source), "%s", source);
        mark->next = relay->watermarks;
        relay->watermarks = mark;
    }
    mark->stored = stored;
}

static void page_arrived(struct relayhost *relay, const char *source, struct page *page, int64_t upto) {
    struct relay_event event = {.kind = REV_PAGE, .peer = source};
    event.page.page = page;
    event.page.items = page->items;
    event.page.count = page->count;
    event.page.upto = upto;
    step(relay, &event);
}

static void on_own(evutil_socket_t fd, short what, void *arg) {
    (void)fd;
    (void)what;
    struct relayhost *relay = arg;
    struct own *own = relay->own;
    relay->own = NULL;
    relay->own_last = &relay->own;
    while (own != NULL) {
        struct own *next = own->next;
        if (own->page != NULL) {
            page_arrived(relay, relay->host->conf.name, own->page, own->position);
        } else {
            struct relay_event event = {.kind = REV_ACK, .peer = relay->host->conf.name, .position = own->position};
            step(relay, &event);
        }
        free(own);
        own = next;
    }
}

static void send_page(struct relayhost *relay, const struct relay_effect *effect) {
    struct page *page = effect->page;
    Lockstep__Events events;
    void *list;
    if (is_self(relay, effect->peer)) {
        note_stored(relay, effect->peer, effect->stored);
        to_self(relay, page, effect->position);
        return;
    }
    page_to_frame(page, &events, &list);
    events.upto = (uint64_t)effect->position;
    events.stored = (uint64_t)effect->stored;
    if (peers_send(relay->peers, effect->peer, &events) != LS_OK) /* its bounds are those of the frame */
        diag(DIAG_ERROR, "a page of events cannot be sent", "peer", effect->peer, NULL);
    free(list);
    page_free(page);
}

static void send_acknowledgement(struct relayhost *relay, const struct relay_effect *effect) {
    /* Crash: all of it is stored; it comes again, and all of it is found. */
    (void)failpoint_hit(FP_relay_before_ack);
    if (is_self(relay, effect->peer))
        to_self(relay, NULL, effect->position);
    else
        peers_acknowledge(relay->peers, effect->peer, effect->position);
}

/* ---- effects */

static void carry_out(struct relayhost *relay, const struct relay_effect *effect) {
    char position[24], limit[24], bytes[24], sure[24];
    switch (effect->kind) {
    case REF_REPORT:
        diag(DIAG_WARN, "relay", "what", effect->text, NULL);
        return;
    case REF_SEND_PAGE:
        send_page(relay, effect);
        return;
    case REF_SEND_ACK:
        send_acknowledgement(relay, effect);
        return;
    case REF_FREE_PAGE:
        page_free(effect->page);
        return;
    case REF_DB_CLAIM:
        ask_db(relay, SQL_RELAY_CLAIM, 2,
               (const char *[]){i64_text(effect->limit, limit), i64_text(relay->sure, position)}, true, claim_done,
               asked_new(relay, effect));
        return;
    case REF_DB_READ:
        ask_db(relay, SQL_RELAY_PAGE, 5,
               (const char *[]){effect->peer, i64_text(effect->position, position), i64_text(relay->sure, sure),
                                i64_text(effect->limit, limit), i64_text(LS_EVENT_PAGE_BYTES, bytes)},
               false, read_done, asked_new(relay, effect));
        return;
    case REF_DB_STORE:
        ask_db(relay, SQL_RELAY_STORE, 2, (const char *[]){effect->peer, i64_text(effect->position, position)}, false,
               store_done, asked_new(relay, effect));
        return;
    case REF_DB_HANDLE:
        start_handling(relay, effect);
        return;
    case REF_DB_PARK:
        start_parking(relay, effect);
        return;
    case REF_DB_DUE:
        ask_db(relay, SQL_RELAY_DUE, 1, (const char *[]){i64_text(effect->limit, limit)}, true, due_done,
               asked_new(relay, effect));
        return;
    case REF_LOOK:
        relay->look_wanted = true;
        look_at_subscriptions(relay);
        return;
    }
    assert(false && "an effect that does not exist");
}

static void set_timer(struct relayhost *relay) {
    uint64_t due = relay_next_timer(relay->core);
    if (due == relay->timer_us || due == RELAY_NEVER) return;
    uint64_t now = daemon_now_us(), us = due > now ? due - now : 0;
    const struct timeval wait = {.tv_sec = (time_t)(us / 1000000), .tv_usec = (suseconds_t)(us % 1000000)};
    relay->timer_us = due;
    event_add(relay->timer, &wait);
}

static void step(struct relayhost *relay, struct relay_event *event) {
    assert(!relay->stepping);
    relay->stepping = true;
    event->now_us = daemon_now_us();
    relay_step(relay->core, event, &relay->effects);
    for (size_t i = 0; i < relay->effects.count; i++) carry_out(relay, &relay->effects.list[i]);
    relay->stepping = false;
    set_timer(relay);
}

static void on_timer(evutil_socket_t fd, short what, void *arg) {
    (void)fd;
    (void)what;
    struct relayhost *relay = arg;
    struct relay_event event = {.kind = REV_TICK};
    relay->timer_us = 0;
    step(relay, &event);
}

/* ---- peers */

static void peer_is_up(void *context, const char *participant) {
    struct relay_event event = {.kind = REV_PEER_UP, .peer = participant};
    step(context, &event);
}

static void peer_is_down(void *context, const char *participant) {
    struct relay_event event = {.kind = REV_PEER_DOWN, .peer = participant};
    step(context, &event);
}

static void peer_events(void *context, const char *from, const Lockstep__Events *events) {
    struct relayhost *relay = context;
    if (is_self(relay, from)) return; /* nobody else may have our certificate */
    note_stored(relay, from, (int64_t)events->stored);
    page_arrived(relay, from, page_of_frame(events), (int64_t)events->upto);
}

static void peer_stored(void *context, const char *participant, int64_t upto) {
    struct relay_event event = {.kind = REV_ACK, .peer = participant, .position = upto};
    step(context, &event);
}

/* ---- who wants what: read back */

static void subscriptions_free(struct subscriptions *subscriptions) {
    for (uint32_t i = 0; i < subscriptions->count; i++) {
        free(subscriptions->list[i].type);
        free(subscriptions->list[i].handler);
        free(subscriptions->list[i].role);
    }
    free(subscriptions->list);
    *subscriptions = (struct subscriptions){0};
}

/* The core's table: of everybody who wants something, and of this database's handlers. */
static void tell_core(struct relayhost *relay, const struct conn_item *item) {
    int rows = PQntuples(item->result);
    struct relay_subscriber *who = memory_new((size_t)rows * sizeof(*who));
    struct relay_handler *handlers = memory_new(relay->subscriptions.count * sizeof(*handlers));
    struct relay_event event = {.kind = REV_ROUTES};
    for (int i = 0; i < rows; i++)
        if (conn_value(item, i, 2) != NULL)
            who[event.routes.subscriber_count++] =
                (struct relay_subscriber){PQgetvalue(item->result, i, 0), number_at(item, i, 2)};
    for (uint32_t i = 0; i < relay->subscriptions.count; i++)
        handlers[i] = (struct relay_handler){relay->subscriptions.list[i].type, relay->subscriptions.list[i].handler};
    event.routes.subscribers = who;
    event.routes.handlers = handlers;
    event.routes.handler_count = relay->subscriptions.count;
    event.routes.back = relay->back && relay->back_to >= 0;
    if (event.routes.back) { /* from here on positions are given out again */
        relay->sure = relay->back_to;
        relay->back = false;
    }
    event.routes.looked = relay->looked;
    relay->looked = false;
    step(relay, &event);
    peers_open(relay->peers);
    free(who);
    free(handlers);
}

static void routes_done(void *context, enum pg_query_result result, const struct conn_item *item) {
    struct relayhost *relay = context;
    relay->busy = false;
    complain("who wants what cannot be read", result, item);
    if (result != PG_QUERY_OK) return; /* at the next look */
    relay->look = false;
    tell_core(relay, item);
    if (!relay->told) { /* not before the core knows its handlers: it would acknowledge what it has no use for */
        relay->told = true;
        relayhost_announce(relay);
    }
    for (int i = 0; i < PQntuples(item->result); i++) {
        const char *name = PQgetvalue(item->result, i, 0);
        if (!is_self(relay, name))
            peers_dial(relay->peers, name, conn_value(item, i, 2) != NULL ? PQgetvalue(item->result, i, 1) : "");
    }
    if (!relay->self_up) {
        relay->self_up = true;
        peer_is_up(relay, relay->host->conf.name);
    }
    turn(relay);
}

static void read_routes(struct relayhost *relay) {
    relay->busy = true;
    ask_db(relay, SQL_RELAY_ROUTES, 0, NULL, false, routes_done, relay);
}

/* ---- who wants what: stored */

/* Types need no escape. */
static char *array_of(char *const *types, size_t count) {
    size_t size = count * (LS_EVENT_TYPE_MAX + 3) + 3, n = 1;
    char *text = memory_new(size);
    text[0] = '{';
    for (size_t i = 0; i < count; i++)
        n += (size_t)snprintf(text + n, size - n, "%s\"%s\"", i == 0 ? "" : ",", types[i]);
    memcpy(text + n, "}", 2);
    return text;
}

static void news_free(struct news *news) {
    lockstep__route__free_unpacked(news->route, NULL);
    free(news);
}

static void drop_news(struct relayhost *relay) {
    struct news *first = relay->news;
    relay->news = first->next;
    news_free(first);
}

/* What cannot be stored now does not hold up the others, and never comes behind what its participant has said since. */
static void news_to_the_end(struct relayhost *relay) {
    struct news *first = relay->news, **at = &relay->news;
    if (first == NULL) return;
    relay->news = first->next;
    first->next = NULL;
    while (*at != NULL && strcmp((*at)->route->participant, first->route->participant) != 0) at = &(*at)->next;
    if (*at == NULL)
        *at = first;
    else
        news_free(first);
}

static void stored_done(void *context, enum pg_query_result result, const struct conn_item *item) {
    struct relayhost *relay = context;
    relay->busy = false;
    complain("who wants what cannot be stored", result, item);
    if (result != PG_QUERY_OK || item->warned) { /* at the next look. Warned: the standby may not have it */
        news_to_the_end(relay);
        return;
    }
    if (relay->news != NULL) drop_news(relay);
    relay->look = true;
    turn(relay);
}

static void store_news(struct relayhost *relay) {
    const Lockstep__Route *route = relay->news->route;
    char *types = array_of(route->types, route->n_types);
    const char *values[] = {route->participant, route->address, types};
    relay->busy = true;
    pg_query_locked(relay->host->pg, SQL_ROUTE_STORE, 3, values, stored_done, relay);
    free(types);
}

/* Takes the route over. Each is a whole: the newer of one participant takes the older one's place, unless that is being
 * stored. */
static void add_news(struct relayhost *relay, Lockstep__Route *route) {
    struct news **at = &relay->news;
    if (*at != NULL && relay->busy) at = &(*at)->next;
    while (*at != NULL && strcmp((*at)->route->participant, route->participant) != 0) at = &(*at)->next;
    if (*at != NULL)
        lockstep__route__free_unpacked((*at)->route, NULL);
    else
        *at = memory_new(sizeof(**at));
    (*at)->route = route;
}

/* ---- who wants what: this database */

/* Each type once, as a message that borrows. *ret_list is to be freed. */
static void own_route(const struct relayhost *relay, Lockstep__Route *ret_route, char ***ret_list) {
    const struct agent_conf *conf = &relay->host->conf;
    char **list = memory_new(relay->subscriptions.count * sizeof(*list));
    lockstep__route__init(ret_route);
    for (uint32_t i = 0; i < relay->subscriptions.count; i++) {
        char *type = relay->subscriptions.list[i].type;
        if (ret_route->n_types == 0 || strcmp(list[ret_route->n_types - 1], type) != 0) /* in order of types */
            list[ret_route->n_types++] = type;
    }
    ret_route->participant = conf->name;
    ret_route->address = conf->peers_address != NULL && conf->peers_address[0] != '\0'
                             ? conf->peers_address
                             : (char *)(uintptr_t)peers_address(relay->peers);
    ret_route->types = list;
    *ret_list = list;
}

static Lockstep__Route *copy_route(const Lockstep__Route *route) {
    size_t size = lockstep__route__get_packed_size(route);
    uint8_t *bytes = memory_new(size);
    (void)lockstep__route__pack(route, bytes);
    Lockstep__Route *copied = lockstep__route__unpack(NULL, size, bytes);
    free(bytes);
    if (copied == NULL) abort();
    return copied;
}

void relayhost_announce(struct relayhost *relay) {
    Lockstep__Route route;
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    char **list;
    relay->letters_told = 0;  /* a new life of the coordinator knows of none */
    if (!relay->told) return; /* as soon as it is */
    own_route(relay, &route, &list);
    frame.body_case = LOCKSTEP__FRAME__BODY_ROUTE;
    frame.route = &route;
    uplink_send(relay->host->uplink, &frame);
    free(list);
}

static bool same(const struct subscriptions *a, const struct subscriptions *b) {
    if (a->count != b->count) return false;
    for (uint32_t i = 0; i < a->count; i++)
        if (strcmp(a->list[i].type, b->list[i].type) != 0 || strcmp(a->list[i].handler, b->list[i].handler) != 0 ||
            strcmp(a->list[i].role, b->list[i].role) != 0)
            return false;
    return true;
}

static struct subscriptions read_subscriptions(const struct conn_item *item) {
    int rows = PQntuples(item->result);
    struct subscriptions found = {.list = memory_new((size_t)rows * sizeof(*found.list))};
    if (rows > (int)LS_SUBSCRIPTIONS_MAX) {
        diag(DIAG_ERROR, "more subscriptions than can be served: the last ones get nothing", "most",
             diag_u64(LS_SUBSCRIPTIONS_MAX), NULL);
        rows = (int)LS_SUBSCRIPTIONS_MAX;
    }
    for (int i = 0; i < rows; i++) {
        struct subscription *to = &found.list[found.count++];
        to->type = memory_copy(PQgetvalue(item->result, i, 0));
        to->handler = memory_copy(PQgetvalue(item->result, i, 1));
        to->role = memory_copy(PQgetvalue(item->result, i, 2));
    }
    return found;
}

static void subscriptions_done(void *context, enum pg_query_result result, const struct conn_item *item) {
    struct relayhost *relay = context;
    relay->busy = false;
    complain("subscriptions cannot be read", result, item);
    if (result != PG_QUERY_OK) {
        relay->look_wanted = relay->look_wanted || relay->look_asked;
        return;
    }
    relay->looked = relay->looked || relay->look_asked;
    relay->look = relay->look || relay->look_asked;
    struct subscriptions found = read_subscriptions(item);
    if (relay->known && same(&found, &relay->subscriptions)) {
        subscriptions_free(&found);
    } else {
        Lockstep__Route route;
        char **list;
        subscriptions_free(&relay->subscriptions);
        relay->subscriptions = found;
        relay->known = true;
        relay->told = false;
        own_route(relay, &route, &list);
        add_news(relay, copy_route(&route));
        free(list);
        relay->look = true;
    }
    turn(relay);
}

/* The next of the three steps, if there is one to do. */
/* Another agent of this participant may serve meanwhile, and have heard newer news. */
static bool has_lock(const struct relayhost *relay) {
    struct agent_stats stats;
    agent_stats(relay->host->core, &stats);
    return stats.state > AGENT_CLEANING;
}

static void turn(struct relayhost *relay) {
    if (relay->busy || !relay->started) return;
    if (relay->news != NULL && !has_lock(relay)) return; /* at the first look with it */
    if (relay->news != NULL)
        store_news(relay);
    else if (relay->look && relay->known) /* without its handlers the core would acknowledge everything */
        read_routes(relay);
}

static void look_at_subscriptions(struct relayhost *relay) {
    if (relay->busy) return;
    if (relay->news != NULL && relay->known) { /* a step that has failed comes again */
        turn(relay);
        return;
    }
    relay->busy = true;
    relay->look_asked = relay->look_wanted;
    relay->look_wanted = false;
    ask_db(relay, SQL_SUBSCRIPTIONS, 0, NULL, false, subscriptions_done, relay);
}

void relayhost_route(struct relayhost *relay, const Lockstep__Route *route) {
    if (is_self(relay, route->participant)) return; /* the database knows better */
    /* Crash: said again at the next link. */
    (void)failpoint_hit(FP_relay_route_received);
    add_news(relay, copy_route(route));
    turn(relay);
}

/* ---- once a second */

static void write_later(struct relayhost *relay);

static void later_done(void *context, enum pg_query_result result, const struct conn_item *item) {
    struct relayhost *relay = context;
    relay->late_busy = false;
    complain("events of later cannot be written", result, item);
    if (result != PG_QUERY_OK) return;
    if (number_at(item, 0, 1) > 0)
        diag(DIAG_ERROR, "needs a human", "what", "events of later cannot be written; tried again in a minute",
             "events", diag_u64((uint64_t)number_at(item, 0, 1)), "last", conn_value(item, 0, 2), NULL);
    if (number_at(item, 0, 0) > 0) relayhost_fresh(relay);
    const char *more = conn_value(item, 0, 3);
    if (more != NULL && more[0] == 't') write_later(relay);
}

static void write_later(struct relayhost *relay) {
    if (relay->late_busy) return;
    relay->late_busy = true;
    ask_db(relay, SQL_RELAY_LATER, 1, (const char *[]){LATER_BATCH}, true, later_done, relay);
}

static void tell(struct relayhost *relay, uint64_t token, const char *json, const char *sqlstate, const char *reason);

/* The coordinator has the webhook. Said when there are more than it knows of. */
static void tell_letters(struct relayhost *relay) {
    uint64_t letters = relay->stats.dead + relay->stats.unwanted;
    char reason[96];
    if (letters > relay->letters_told) {
        (void)snprintf(reason, sizeof(reason), "%" PRIu64 " that a handler has refused, %" PRIu64 " that nobody wants",
                       relay->stats.dead, relay->stats.unwanted);
        tell(relay, 0, NULL, NULL, reason);
    }
    relay->letters_told = letters;
}

static void state_done(void *context, enum pg_query_result result, const struct conn_item *item) {
    struct relayhost *relay = context;
    relay->stating = false;
    if (result != PG_QUERY_OK) return;
    relay->stats.unclaimed = (uint64_t)number_at(item, 0, 0);
    relay->stats.behind = (uint64_t)number_at(item, 0, 1);
    relay->stats.behind_ms = (uint64_t)number_at(item, 0, 2);
    relay->stats.waiting = (uint64_t)number_at(item, 0, 3);
    relay->stats.dead = (uint64_t)number_at(item, 0, 4);
    relay->stats.unwanted = (uint64_t)number_at(item, 0, 5);
    tell_letters(relay);
}

static void pruned(void *context, enum pg_query_result result, const struct conn_item *item) {
    struct relayhost *relay = context;
    relay->pruning = false;
    complain("old events cannot be taken away", result, item);
    if (result != PG_QUERY_OK) return;
    int64_t gone = number_at(item, 0, 0);
    relay->stats.pruned += (uint64_t)gone;
    relay->prune_more = relay->prune_more || gone >= PRUNE_BATCH;
}

static void events_pruned(void *context, enum pg_query_result result, const struct conn_item *item) {
    struct relayhost *relay = context;
    pruned(context, result, item);
    if (result != PG_QUERY_OK) return;
    relay->prune_after = number_at(item, 0, 1); /* 0: from the beginning */
    relay->prune_more = relay->prune_more || (number_at(item, 0, 0) > 0 && relay->prune_after > 0);
}

/* One batch of each source's inbox rows, and one of own events. */
static void prune(struct relayhost *relay) {
    const struct agent_conf *conf = &relay->host->conf;
    char stored[24], keep[24], batch[24];
    relay->prune_more = false;
    i64_text(PRUNE_BATCH, batch);
    i64_text((int64_t)(conf->keep_inbox_ms / 1000), keep);
    for (const struct watermark *mark = relay->watermarks; mark != NULL; mark = mark->next) {
        relay->pruning = true;
        i64_text(relay_may_prune(relay->core, mark->source, mark->stored), stored);
        ask_db(relay, SQL_INBOX_PRUNE, 4, (const char *[]){mark->source, stored, keep, batch}, true, pruned, relay);
    }
    if (conf->keep_events_ms > 0) {
        relay->pruning = true;
        i64_text((int64_t)(conf->keep_events_ms / 1000), keep);
        i64_text(PRUNE_LOOKED_MAX, batch);
        ask_db(relay, SQL_EVENT_PRUNE, 3, (const char *[]){keep, i64_text(relay->prune_after, stored), batch}, true,
               events_pruned, relay);
    }
}

static void on_look(evutil_socket_t fd, short what, void *arg) {
    (void)fd;
    (void)what;
    struct relayhost *relay = arg;
    if (!relay->started) {
        if (!relay->resting || ++relay->looks % REST_LOOKS == 0) take_relay(relay);
        return;
    }
    if (relay->unsure || relay->back) take_relay(relay);
    look_at_subscriptions(relay);
    write_later(relay);
    if (!relay->stating) {
        relay->stating = true;
        ask_db(relay, SQL_RELAY_STATE, 0, NULL, false, state_done, relay);
    }
    uint64_t keep_s = relay->host->conf.keep_inbox_ms / 1000;
    uint32_t often = keep_s < PRUNE_LOOKS_MAX ? (uint32_t)keep_s : PRUNE_LOOKS_MAX;
    if (!relay->pruning && (relay->prune_more || ++relay->looks % often == 0)) prune(relay);
}

/* ---- whose relay it is */

static void not_ours(struct relayhost *relay, const char *holder) {
    if (relay->started) /* somebody has changed lockstep.relay by hand: the next life rests */
        diag_fatal(LS_EXIT_ERROR, "another participant's agent relays the events of this database now", "relay", holder,
                   NULL);
    if (!relay->resting)
        diag(DIAG_ERROR, "another participant's agent relays the events of this database: this one's relay rests",
             "relay", holder, "mend",
             "one agent for each database; or, once everything is acknowledged and that one is stopped: update "
             "lockstep.relay set participant = null",
             NULL);
    relay->resting = true;
}

static void relay_taken(void *context, enum pg_query_result result, const struct conn_item *item) {
    struct relayhost *relay = context;
    relay->taking = false;
    complain("whose relay it is cannot be read", result, item);
    if (result != PG_QUERY_OK) return; /* at the next look */
    const char *holder = conn_value(item, 0, 0);
    if (holder == NULL || !is_self(relay, holder)) {
        not_ours(relay, holder != NULL ? holder : "");
        return;
    }
    if (item->warned) return; /* nobody knows whether the standby has it: at the next look */
    if (relay->back)
        relay->back_to = number_at(item, 0, 1);
    else if (number_at(item, 0, 1) > relay->sure)
        relay->sure = number_at(item, 0, 1);
    if (!relay->started) {
        if (relay->resting) diag(DIAG_INFO, "the relay begins", NULL);
        relay->resting = false;
        relay->started = true;
        look_at_subscriptions(relay);
    } else if (relay->back || relay->unsure) {
        relay->look = true; /* the core is told again, and reads again */
        turn(relay);
    }
    relay->unsure = false;
}

static void take_relay(struct relayhost *relay) {
    if (relay->taking) return;
    relay->taking = true;
    ask_db(relay, SQL_RELAY_TAKE, 1, (const char *[]){relay->host->conf.name}, true, relay_taken, relay);
}

void relayhost_start(struct relayhost *relay) {
    const struct timeval often = {.tv_sec = LOOK_MS / 1000, .tv_usec = (suseconds_t)(LOOK_MS % 1000) * 1000};
    if (relay->wanted) return;
    relay->wanted = true;
    event_add(relay->look_timer, &often);
    take_relay(relay);
}

void relayhost_fresh(struct relayhost *relay) {
    struct relay_event event = {.kind = REV_FRESH};
    if (relay->started) step(relay, &event);
}

/* ---- what somebody asks */

struct question {
    struct relayhost *relay;
    uint64_t token;
};

static void tell(struct relayhost *relay, uint64_t token, const char *json, const char *sqlstate, const char *reason) {
    Lockstep__Tell body = LOCKSTEP__TELL__INIT;
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    body.token = token;
    body.json = (char *)(uintptr_t)json;
    body.sqlstate = (char *)(uintptr_t)sqlstate;
    body.reason = (char *)(uintptr_t)reason;
    frame.body_case = LOCKSTEP__FRAME__BODY_TELL;
    frame.tell = &body;
    uplink_send(relay->host->uplink, &frame);
}

static void answered(void *context, enum pg_query_result result, const struct conn_item *item) {
    struct question question = *(struct question *)context;
    free(context);
    const char *text = result == PG_QUERY_OK ? conn_value(item, 0, 0) : NULL;
    if (text != NULL && strcmp(text, "t") == 0) relayhost_fresh(question.relay);
    if (result == PG_QUERY_LOST)
        tell(question.relay, question.token, NULL, "08006", "the database cannot be reached");
    else if (result == PG_QUERY_FAILED)
        tell(question.relay, question.token, NULL, conn_sqlstate(item)[0] != '\0' ? conn_sqlstate(item) : NULL,
             conn_message(item));
    else if (text == NULL)
        tell(question.relay, question.token, "null", NULL, NULL);
    else if (strlen(text) > TELL_MAX)
        tell(question.relay, question.token, NULL, "54000", "the answer is too large: ask for less at once");
    else /* of an act: t or f */
        tell(question.relay, question.token,
             strcmp(text, "t") == 0   ? "true"
             : strcmp(text, "f") == 0 ? "false"
                                      : text,
             NULL, NULL);
}

static void act_on_letter(struct relayhost *relay, const Lockstep__Ask *ask, const char *act,
                          struct question *question) {
    diag(DIAG_INFO, "a dead letter is acted upon", "letter", ask->letter != NULL ? ask->letter : "", "act", act, "by",
         ask->who, NULL);
    ask_db(relay, SQL_LETTER_ACT, 3, (const char *[]){ask->letter, act, ask->who}, true, answered, question);
}

void relayhost_ask(struct relayhost *relay, const Lockstep__Ask *ask) {
    char offset[24], limit[24], bytes[24], letters[24];
    bool admin = strncmp(ask->who, "admin/", 6) == 0;
    const char *role = admin ? NULL : agent_conf_role(&relay->host->conf, ask->who);
    uint32_t rows = ask->has_limit && ask->limit < TELL_ROWS_MAX ? ask->limit : TELL_ROWS_MAX;
    if (!admin && (role == NULL || ask->kind != LOCKSTEP__ASK_KIND__ASK_EVENTS)) {
        tell(relay, ask->token, NULL, "42501", "the caller has no database role at this participant");
        return;
    }
    if (!relay->started) {
        bool elsewhere = relay->resting && ask->kind != LOCKSTEP__ASK_KIND__ASK_EVENTS;
        tell(relay, ask->token, NULL, elsewhere ? "55000" : "57P03",
             elsewhere ? "another participant's agent relays the events of this database: ask that one"
                       : "the agent has not begun to serve");
        return;
    }
    struct question *question = memory_new(sizeof(*question));
    *question = (struct question){relay, ask->token};
    switch (ask->kind) {
    case LOCKSTEP__ASK_KIND__ASK_EVENTS:
        ask_db(relay, SQL_SHOW_EVENTS, 6,
               (const char *[]){role, ask->type, ask->key, i64_text((int64_t)ask->offset, offset),
                                i64_text(rows, limit), i64_text(LS_EVENT_PAGE_BYTES, bytes)},
               false, answered, question);
        return;
    case LOCKSTEP__ASK_KIND__ASK_FLOW:
        ask_db(relay, SQL_SHOW_FLOW, 1, (const char *[]){ask->saga}, false, answered, question);
        return;
    case LOCKSTEP__ASK_KIND__ASK_FLOWS:
        ask_db(relay, SQL_SHOW_FLOWS, 1,
               (const char *[]){i64_text(rows < LS_FLOWS_LISTED_MAX ? rows : LS_FLOWS_LISTED_MAX, limit)}, false,
               answered, question);
        return;
    case LOCKSTEP__ASK_KIND__ASK_LETTERS:
        ask_db(relay, SQL_SHOW_LETTERS, 2,
               (const char *[]){ask->letter,
                                i64_text(rows < LS_LETTERS_LISTED_MAX ? rows : LS_LETTERS_LISTED_MAX, letters)},
               false, answered, question);
        return;
    case LOCKSTEP__ASK_KIND__ASK_RETRY:
        act_on_letter(relay, ask, "retry", question);
        return;
    case LOCKSTEP__ASK_KIND__ASK_SKIP:
        act_on_letter(relay, ask, "skip", question);
        return;
    case LOCKSTEP__ASK_KIND__ASK_COMPENSATE:
        act_on_letter(relay, ask, "compensate", question);
        return;
    case LOCKSTEP__ASK_KIND__ASK_BLOCKING: /* not on a finisher: the lock table may be long, and COMMIT PREPARED must
                                              not wait for it */
        pg_look(relay->host->pg, SQL_SHOW_BLOCKING, 2,
                (const char *[]){ask->gid, i64_text(LS_BLOCKING_LISTED_MAX, limit)}, answered, question);
        return;
    case _LOCKSTEP__ASK_KIND_IS_INT_SIZE:
        break;
    }
    free(question);
    tell(relay, ask->token, NULL, "0A000", "this agent does not know the question");
}

/* ---- life */

enum ls_status relayhost_new(struct agenthost *host, struct relayhost **ret_relay, struct ls_error *err) {
    static const struct peers_callbacks callbacks = {peer_is_up, peer_is_down, peer_events, peer_stored};
    struct relay_config config;
    struct relayhost *relay = calloc(1, sizeof(*relay));
    if (relay == NULL) return ls_fail(err, LS_ERR_NOMEM, "out of memory");
    relay->host = host;
    relay->waiting_last = &relay->waiting;
    relay->own_last = &relay->own;
    relay_config_defaults(&config);
    config.page_max = LS_EVENT_PAGE_MAX;
    config.peers_max = LS_PEERS_MAX;
    config.handlers_max = LS_SUBSCRIPTIONS_MAX;
    config.attempts_max = host->conf.relay_attempts;
    config.seed = random_u64();
    relay->core = relay_new(&config);
    relay->timer = event_new(host->base, -1, 0, on_timer, relay);
    relay->look_timer = event_new(host->base, -1, EV_PERSIST, on_look, relay);
    relay->own_event = event_new(host->base, -1, 0, on_own, relay);
    enum ls_status status = LS_OK;
    if (relay->core == NULL || relay->timer == NULL || relay->look_timer == NULL || relay->own_event == NULL)
        status = ls_fail(err, LS_ERR_NOMEM, "out of memory");
    if (status == LS_OK)
        status = peers_new(host->base, host->conf.name, host->conf.peers_listen, &callbacks, relay, &relay->peers, err);
    if (status != LS_OK) {
        relayhost_free(relay);
        return status;
    }
    *ret_relay = relay;
    return LS_OK;
}

void relayhost_set_tls(struct relayhost *relay, SSL_CTX *server, SSL_CTX *client) {
    peers_set_tls(relay->peers, server, client);
}

void relayhost_stats(const struct relayhost *relay, struct relayhost_stats *ret_stats) {
    *ret_stats = relay->stats;
    relay_stats(relay->core, &ret_stats->core);
    ret_stats->peers_up = peers_up(relay->peers);
    ret_stats->subscriptions = relay->subscriptions.count;
    ret_stats->resting = relay->resting;
}

/* Pages and jobs that are under way go with the process. */
void relayhost_free(struct relayhost *relay) {
    if (relay == NULL) return;
    peers_free(relay->peers);
    relay_free(relay->core);
    relay_effects_free(&relay->effects);
    subscriptions_free(&relay->subscriptions);
    while (relay->news != NULL) drop_news(relay);
    while (relay->waiting != NULL) {
        struct job *job = relay->waiting;
        relay->waiting = job->next;
        job_free(job);
    }
    while (relay->watermarks != NULL) {
        struct watermark *mark = relay->watermarks;
        relay->watermarks = mark->next;
        free(mark);
    }
    while (relay->own != NULL) {
        struct own *own = relay->own;
        relay->own = own->next;
        page_free(own->page);
        free(own);
    }
    struct event *const events[] = {relay->timer, relay->look_timer, relay->own_event};
    for (size_t i = 0; i < sizeof(events) / sizeof(events[0]); i++)
        if (events[i] != NULL) event_free(events[i]);
    free(relay);
}
