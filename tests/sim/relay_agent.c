/*
 * relay_agent.c: the relay's host: participant/core/relay.c held together as participant/relay_host.c and peers.c do
 * it. See there for who wants what, step by step; the names of functions are the same here.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/frame.h"
#include "tests/sim/agent_host.h"
#include "tests/sim/check.h"
#include "tests/sim/net.h"
#include "tests/sim/relay_internal.h"

#define LOOK_US SECOND
#define JOBS_MAX 16u
#define PAGES_MAX 64u
#define ACCEPTED_MAX 16u
#define NOBODY UINT32_MAX

static const char *const handler_names[HANDLERS] = {"main", "back", "audit"};

struct target {
    bool wanted, up;
    uint64_t link;
    uint32_t failures;
};
struct accepted {
    uint64_t link; /* 0: free */
    uint32_t from; /* NOBODY before its Greet */
};
struct own {
    struct page *page; /* NULL: an acknowledgement */
    int64_t position;
};

struct relay_agent {
    bool started, dying;
    uint32_t participant;
    uint64_t life, armed_us;
    struct relay *core;
    struct relay_effects effects;
    uint64_t backoff_max_ms;
    /* who wants what */
    uint32_t subscriptions[HANDLERS];
    bool known, told, busy, look, self_up, look_wanted, look_asked, looked;
    uint32_t news[SIM_PARTICIPANTS_MAX + 1]; /* whose, in order; the first is being stored while busy */
    uint32_t news_count, types[SIM_PARTICIPANTS_MAX];
    /* deliveries */
    struct relay_request *waiting[JOBS_MAX];
    uint32_t waiting_count, running;
    struct page *pages[PAGES_MAX]; /* that the core holds */
    struct own own[JOBS_MAX];
    uint32_t own_count;
    struct target targets[SIM_PARTICIPANTS_MAX];
    struct accepted accepted[ACCEPTED_MAX];
    bool has_mark[SIM_PARTICIPANTS_MAX], pruning, late_busy;
    int64_t marks[SIM_PARTICIPANTS_MAX];
};

static void step(struct world *world, struct relay_agent *host, struct relay_event *event);
static void turn(struct world *world, struct relay_agent *host);
static void look_at_subscriptions(struct world *world, struct relay_agent *host);

static struct relay_agent *slot_of(const struct world *world, uint32_t participant, uint64_t life) {
    return &world->relay->agents[life % 2 == 1 ? participant : SIM_PARTICIPANTS_MAX + participant];
}

static struct relay_agent *host_of(const struct world *world, uint32_t participant, uint64_t life) {
    if (world->relay == NULL) return NULL;
    struct relay_agent *host = slot_of(world, participant, life);
    return host->started && host->life == life ? host : NULL;
}

static void trace(struct world *world, const struct relay_agent *host, const char *word, const char *detail) {
    char name[16];
    snprintf(name, sizeof name, "p%u%s", host->participant + 1, host->life % 2 == 1 ? "" : "b");
    world_trace(world, name, word, "%s", detail);
}

static uint32_t participant_named(const char *name) {
    return (uint32_t)(name[1] - '1');
}

static uint32_t handler_named(const char *name) {
    uint32_t h = 0;
    while (h < HANDLERS && strcmp(handler_names[h], name) != 0) h++;
    assert(h < HANDLERS);
    return h;
}

/* ------------------------------------------------------------------- pages */

static struct page *hold(struct relay_agent *host, struct page *page) {
    uint32_t i = 0;
    while (i < PAGES_MAX && host->pages[i] != NULL) i++;
    assert(i < PAGES_MAX);
    return host->pages[i] = page;
}

/* The core has given it back. */
static struct page *let_go(struct relay_agent *host, void *page) {
    for (uint32_t i = 0; i < PAGES_MAX; i++) {
        if (host->pages[i] != page) continue;
        host->pages[i] = NULL;
        return page;
    }
    assert(!"a page that nobody holds is given back");
    return NULL;
}

/* -------------------------------------------------------------- to the database */

static struct relay_request *ask(struct world *world, struct relay_agent *host, enum request_kind kind, uint64_t op) {
    return request_new(world, kind, host->participant, host->life, op);
}

static void run_jobs(struct world *world, struct relay_agent *host) {
    while (host->waiting_count > 0 && host->running < world->options.relay_sessions) {
        struct relay_request *job = host->waiting[0];
        memmove(host->waiting, host->waiting + 1, --host->waiting_count * sizeof host->waiting[0]);
        host->running++;
        request_send(world, job);
    }
}

static struct relay_request *job_new(struct world *world, struct relay_agent *host, enum request_kind kind,
                                     const struct relay_effect *effect) {
    const struct page *page = effect->page;
    const struct page_event *of = &page->events[effect->index];
    struct relay_request *job = ask(world, host, kind, effect->op);
    unsigned book = 0, at = 0;
    if (sscanf(of->payload, "%u %u", &book, &at) != 2)
        world_wrong(world, "a payload came out garbled: %s", of->payload);
    job->peer = participant_named(effect->peer);
    job->handler = handler_named(effect->handler);
    job->position = of->position;
    job->what = (struct relay_what){.book = book,
                                    .flow = (uint16_t)strtoul(of->saga + 1, NULL, 10),
                                    .type = relay_type_number(of->type),
                                    .key = (uint8_t)strtoul(of->key + 1, NULL, 10),
                                    .step = (uint8_t)at,
                                    .version = of->version};
    return job;
}

static void start_handling(struct world *world, struct relay_agent *host, const struct relay_effect *effect) {
    assert(host->waiting_count < JOBS_MAX);
    host->waiting[host->waiting_count++] = job_new(world, host, REQUEST_HANDLE, effect);
    run_jobs(world, host);
}

static void start_parking(struct world *world, struct relay_agent *host, const struct relay_effect *effect) {
    struct relay_request *job = job_new(world, host, REQUEST_PARK, effect);
    job->wait_ms = effect->wait_ms;
    job->attempts_max = effect->attempts_max;
    check_relay_parks(world, host->participant, job, host->backoff_max_ms);
    request_send(world, job);
}

/* ------------------------------------------------------------------- peers */

static void send_frame(struct world *world, uint64_t link, bool by_acceptor, Lockstep__Frame *frame) {
    net_send_to_peer(world, link, by_acceptor, frame);
}

static void greet(struct world *world, const struct relay_agent *host, uint64_t link, bool by_acceptor) {
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    Lockstep__Greet body = LOCKSTEP__GREET__INIT;
    char name[8];
    sim_participant_name(host->participant, name);
    body.version = LS_PROTOCOL_VERSION;
    body.version_min = LS_PROTOCOL_VERSION_EVENT;
    body.participant = name;
    frame.body_case = LOCKSTEP__FRAME__BODY_GREET;
    frame.greet = &body;
    send_frame(world, link, by_acceptor, &frame);
}

static void dial(struct world *world, uint64_t participant_to, uint64_t life) {
    uint32_t participant = (uint32_t)(participant_to & 0xff), to = (uint32_t)(participant_to >> 8);
    if (host_of(world, participant, life) != NULL) net_dial_peer(world, participant, life, to);
}

static void retry(struct world *world, struct relay_agent *host, uint32_t to) {
    struct target *target = &host->targets[to];
    uint64_t ms = LS_DIAL_BACKOFF_MS_MIN;
    for (uint32_t i = 0; i < target->failures && ms < LS_DIAL_BACKOFF_MS_MAX; i++) ms *= 2;
    if (ms > LS_DIAL_BACKOFF_MS_MAX) ms = LS_DIAL_BACKOFF_MS_MAX;
    target->failures++;
    world_after(world, (ms / 2 + rng_below(&world->rng, ms / 2 + 1)) * MS, dial, host->participant | (uint64_t)to << 8,
                host->life);
}

static void peer_event(struct world *world, struct relay_agent *host, uint32_t peer, enum relay_event_kind kind) {
    char name[8];
    sim_participant_name(peer, name);
    trace(world, host, kind == REV_PEER_UP ? "peer up" : "peer down", name);
    struct relay_event event = {.kind = kind, .peer = name};
    step(world, host, &event);
}

static void note_stored(struct relay_agent *host, uint32_t source, int64_t stored) {
    host->has_mark[source] = true;
    host->marks[source] = stored;
}

static void page_arrived(struct world *world, struct relay_agent *host, uint32_t source, struct page *page,
                         int64_t upto) {
    char name[8];
    sim_participant_name(source, name);
    struct relay_event event = {.kind = REV_PAGE, .peer = name};
    event.page.page = hold(host, page);
    event.page.items = page->items;
    event.page.count = page->count;
    event.page.upto = upto;
    step(world, host, &event);
}

static void acknowledged(struct world *world, struct relay_agent *host, uint32_t by, int64_t position) {
    char name[8];
    sim_participant_name(by, name);
    struct relay_event event = {.kind = REV_ACK, .peer = name, .position = position};
    step(world, host, &event);
}

/* What this participant sends to itself. */
static void on_own(struct world *world, uint64_t participant, uint64_t life) {
    struct relay_agent *host = host_of(world, (uint32_t)participant, life);
    if (host == NULL || host->own_count == 0) return;
    uint64_t paused = agent_host_paused_until(world, (uint32_t)participant, life);
    if (paused > world->now_us) {
        world_after(world, paused - world->now_us, on_own, participant, life);
        return;
    }
    struct own own = host->own[0];
    memmove(host->own, host->own + 1, --host->own_count * sizeof own);
    if (own.page != NULL)
        page_arrived(world, host, host->participant, own.page, own.position);
    else
        acknowledged(world, host, host->participant, own.position);
}

static void to_self(struct world *world, struct relay_agent *host, struct page *page, int64_t position) {
    assert(host->own_count < JOBS_MAX);
    host->own[host->own_count++] = (struct own){page, position};
    world_after(world, 1, on_own, host->participant, host->life);
}

static void send_page(struct world *world, struct relay_agent *host, const struct relay_effect *effect) {
    struct page *page = let_go(host, effect->page);
    uint32_t to = participant_named(effect->peer);
    char detail[80];
    snprintf(detail, sizeof detail, "%u events up to %lld to p%u", page->count, (long long)effect->position, to + 1);
    trace(world, host, "Events", detail);
    sim_coverage.pages++;
    if (to == host->participant) {
        note_stored(host, to, effect->stored);
        to_self(world, host, page, effect->position);
        return;
    }
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    Lockstep__Events events;
    void *list;
    page_to_frame(page, &events, &list);
    events.upto = (uint64_t)effect->position;
    events.stored = (uint64_t)effect->stored;
    frame.body_case = LOCKSTEP__FRAME__BODY_EVENTS;
    frame.events = &events;
    if (host->targets[to].up) send_frame(world, host->targets[to].link, false, &frame);
    free(list);
    page_free(page);
}

static void send_acknowledgement(struct world *world, struct relay_agent *host, const struct relay_effect *effect) {
    uint32_t to = participant_named(effect->peer);
    char detail[48];
    snprintf(detail, sizeof detail, "up to %lld to p%u", (long long)effect->position, to + 1);
    trace(world, host, "Stored", detail);
    check_relay_acknowledges(world, host->participant, to, effect->position);
    if (to == host->participant) {
        to_self(world, host, NULL, effect->position);
        return;
    }
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    Lockstep__Stored body = LOCKSTEP__STORED__INIT;
    body.upto = (uint64_t)effect->position;
    frame.body_case = LOCKSTEP__FRAME__BODY_STORED;
    frame.stored = &body;
    for (uint32_t i = 0; i < ACCEPTED_MAX; i++)
        if (host->accepted[i].link != 0 && host->accepted[i].from == to) {
            send_frame(world, host->accepted[i].link, true, &frame);
            return;
        }
}

/* ---------------------------------------------------------------- the step */

static void carry_out(struct world *world, struct relay_agent *host, const struct relay_effect *effect) {
    struct relay_request *request = NULL;
    switch (effect->kind) {
    case REF_REPORT:
        trace(world, host, "reports", effect->text);
        check_relay_reported(world, host->participant);
        return;
    case REF_SEND_PAGE:
        send_page(world, host, effect);
        return;
    case REF_SEND_ACK:
        send_acknowledgement(world, host, effect);
        return;
    case REF_FREE_PAGE:
        page_free(let_go(host, effect->page));
        return;
    case REF_DB_CLAIM:
        request = ask(world, host, REQUEST_CLAIM, effect->op);
        break;
    case REF_DB_READ:
        request = ask(world, host, REQUEST_READ, effect->op);
        break;
    case REF_DB_STORE:
        request = ask(world, host, REQUEST_STORE, effect->op);
        check_relay_stores(world, host->participant, participant_named(effect->peer), effect->position);
        break;
    case REF_DB_HANDLE:
        start_handling(world, host, effect);
        return;
    case REF_DB_PARK:
        start_parking(world, host, effect);
        return;
    case REF_DB_DUE:
        request = ask(world, host, REQUEST_DUE, effect->op);
        break;
    case REF_LOOK:
        host->look_wanted = true;
        look_at_subscriptions(world, host);
        return;
    }
    assert(request != NULL);
    request->peer = effect->peer != NULL ? participant_named(effect->peer) : 0;
    request->position = effect->position;
    request->limit = effect->limit;
    request_send(world, request);
}

static void tick(struct world *world, uint64_t participant, uint64_t life) {
    struct relay_agent *host = host_of(world, (uint32_t)participant, life);
    if (host == NULL) return;
    uint64_t paused = agent_host_paused_until(world, (uint32_t)participant, life);
    if (paused > world->now_us) {
        world_after(world, paused - world->now_us, tick, participant, life);
        return;
    }
    host->armed_us = RELAY_NEVER;
    struct relay_event event = {.kind = REV_TICK};
    step(world, host, &event);
}

static void step(struct world *world, struct relay_agent *host, struct relay_event *event) {
    event->now_us = world->now_us;
    if (host->dying) return; /* falls in a moment, with the rest of this event */
    relay_step(host->core, event, &host->effects);
    relay_check(host->core);
    for (size_t i = 0; i < host->effects.count && !host->dying; i++) {
        host->dying = world_fault(world, world->options.agent_cut_pm);
        if (!host->dying) carry_out(world, host, &host->effects.list[i]);
    }
    if (host->dying) {
        agent_host_falls(world, host->participant, host->life);
        return;
    }
    uint64_t due = relay_next_timer(host->core);
    if (due == RELAY_NEVER || due >= host->armed_us) return;
    host->armed_us = due;
    world_after(world, due > world->now_us ? due - world->now_us : 0, tick, host->participant, host->life);
}

/* ---------------------------------------------------------- who wants what */

static uint32_t own_types(const struct relay_agent *host) {
    uint32_t types = 0;
    for (uint32_t h = 0; h < HANDLERS; h++) types |= host->subscriptions[h];
    return types;
}

static void announce(struct world *world, struct relay_agent *host) {
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    Lockstep__Route route = LOCKSTEP__ROUTE__INIT;
    char *list[RELAY_TYPES], name[8], address[] = "fixed:1";
    if (!host->told) return;
    sim_participant_name(host->participant, name);
    route.participant = name;
    route.address = address;
    route.types = list;
    for (uint8_t t = 0; t < RELAY_TYPES; t++)
        if ((own_types(host) >> t & 1) != 0) list[route.n_types++] = (char *)(uintptr_t)relay_type_name(t);
    frame.body_case = LOCKSTEP__FRAME__BODY_ROUTE;
    frame.route = &route;
    trace(world, host, "Route", "");
    agent_host_send(world, host->participant, host->life, &frame);
}

static void add_news(struct relay_agent *host, uint32_t participant, uint32_t types) {
    uint32_t at = host->busy && host->news_count > 0 ? 1 : 0;
    /* the one that is being stored keeps what it says: the newer one stands behind it */
    while (at < host->news_count && host->news[at] != participant) at++;
    if (at == host->news_count) {
        assert(host->news_count <= SIM_PARTICIPANTS_MAX);
        host->news[host->news_count++] = participant;
    }
    host->types[participant] = types;
}

static void drop_news(struct relay_agent *host) {
    memmove(host->news, host->news + 1, --host->news_count * sizeof host->news[0]);
}

static void store_news(struct world *world, struct relay_agent *host) {
    struct relay_request *request = ask(world, host, REQUEST_ROUTE_STORE, 0);
    host->busy = true;
    request->peer = host->news[0];
    request->types = host->types[host->news[0]];
    request_send(world, request);
}

static void turn(struct world *world, struct relay_agent *host) {
    if (host->busy) return;
    if (host->news_count > 0 && !agent_host_has_lock(world, host->participant, host->life)) return;
    if (host->news_count > 0) {
        store_news(world, host);
    } else if (host->look && host->known) {
        host->busy = true;
        request_send(world, ask(world, host, REQUEST_ROUTES, 0));
    }
}

static void look_at_subscriptions(struct world *world, struct relay_agent *host) {
    if (host->busy) return;
    if (host->news_count > 0 && host->known) {
        turn(world, host);
        return;
    }
    host->busy = true;
    host->look_asked = host->look_wanted;
    host->look_wanted = false;
    request_send(world, ask(world, host, REQUEST_SUBSCRIPTIONS, 0));
}

static void subscriptions_done(struct world *world, struct relay_agent *host, const struct relay_request *request) {
    host->busy = false;
    if (request->lost) {
        host->look_wanted = host->look_wanted || host->look_asked;
        return;
    }
    host->looked = host->looked || host->look_asked;
    host->look = host->look || host->look_asked;
    if (!host->known || memcmp(host->subscriptions, request->subscriptions, sizeof host->subscriptions) != 0) {
        memcpy(host->subscriptions, request->subscriptions, sizeof host->subscriptions);
        host->known = true;
        host->told = false;
        add_news(host, host->participant, own_types(host));
        host->look = true;
    }
    turn(world, host);
}

static void stored_done(struct world *world, struct relay_agent *host, const struct relay_request *request) {
    host->busy = false;
    if (request->lost) { /* behind the others, at the next look */
        uint32_t first = host->news[0];
        drop_news(host);
        for (uint32_t i = 0; i < host->news_count; i++)
            if (host->news[i] == first) return;
        host->news[host->news_count++] = first;
        return;
    }
    drop_news(host);
    host->look = true;
    turn(world, host);
}

static void tell_core(struct world *world, struct relay_agent *host, const struct relay_request *request) {
    struct relay_subscriber who[SIM_PARTICIPANTS_MAX];
    struct relay_handler handlers[RELAY_TYPES * HANDLERS];
    char names[SIM_PARTICIPANTS_MAX][8];
    struct relay_event event = {.kind = REV_ROUTES};
    for (uint32_t p = 0; p < world->options.participants; p++) {
        if (!request->peers[p] || request->positions[p] < 0) continue;
        sim_participant_name(p, names[p]);
        who[event.routes.subscriber_count++] =
            (struct relay_subscriber){.participant = names[p], .position = request->positions[p]};
    }
    for (uint8_t t = 0; t < RELAY_TYPES; t++) {
        for (uint32_t h = 0; h < HANDLERS; h++)
            if ((host->subscriptions[h] >> t & 1) != 0)
                handlers[event.routes.handler_count++] =
                    (struct relay_handler){.type = relay_type_name(t), .handler = handler_names[h]};
    }
    event.routes.subscribers = who;
    event.routes.handlers = handlers;
    event.routes.looked = host->looked;
    host->looked = false;
    step(world, host, &event);
}

static void routes_done(struct world *world, struct relay_agent *host, const struct relay_request *request) {
    uint64_t life = host->life;
    uint32_t participant = host->participant;
    host->busy = false;
    if (request->lost) return;
    host->look = false;
    tell_core(world, host, request);
    if (host_of(world, participant, life) == NULL) return; /* it has died of that */
    if (!host->told) {
        host->told = true;
        announce(world, host);
    }
    for (uint32_t p = 0; p < world->options.participants; p++) {
        if (p == participant || !request->peers[p] || request->positions[p] < 0 || host->targets[p].wanted) continue;
        host->targets[p].wanted = true;
        dial(world, participant | (uint64_t)p << 8, life);
    }
    if (!host->self_up) {
        host->self_up = true;
        peer_event(world, host, participant, REV_PEER_UP);
        if (host_of(world, participant, life) == NULL) return;
    }
    turn(world, host);
}

void relay_route_received(struct world *world, uint32_t participant, uint64_t life, const Lockstep__Route *route) {
    struct relay_agent *host = host_of(world, participant, life);
    uint32_t who = participant_named(route->participant), types = 0;
    if (host == NULL || who == participant) return;
    for (size_t i = 0; i < route->n_types; i++) types |= UINT32_C(1) << relay_type_number(route->types[i]);
    add_news(host, who, types);
    turn(world, host);
}

void relay_agent_ready(struct world *world, uint32_t participant, uint64_t life) {
    struct relay_agent *host = host_of(world, participant, life);
    if (host != NULL) announce(world, host);
}

static void on_look(struct world *world, uint64_t participant, uint64_t life) {
    struct relay_agent *host = host_of(world, (uint32_t)participant, life);
    if (host == NULL) return;
    uint64_t paused = agent_host_paused_until(world, (uint32_t)participant, life);
    if (paused > world->now_us) {
        world_after(world, paused - world->now_us, on_look, participant, life);
        return;
    }
    look_at_subscriptions(world, host);
    if (!host->late_busy) {
        host->late_busy = true;
        request_send(world, ask(world, host, REQUEST_LATER, 0));
    }
    for (uint32_t p = 0; world->options.relay_keep_ms > 0 && p < world->options.participants; p++) {
        char name[8];
        if (!host->has_mark[p]) continue;
        struct relay_request *request = ask(world, host, REQUEST_PRUNE, 0);
        sim_participant_name(p, name);
        request->peer = p;
        request->position = relay_may_prune(host->core, name, host->marks[p]);
        request_send(world, request);
    }
    world_after(world, LOOK_US, on_look, participant, life);
}

/* ---------------------------------------------------------------- answers */

static void answer_core(struct world *world, struct relay_agent *host, struct relay_request *request) {
    struct relay_event event = {.op = request->op};
    struct page *page = request->page;
    bool ok = !request->lost;
    request->page = NULL;
    if (page != NULL && !ok) {
        page_free(page);
        page = NULL;
    }
    if (page != NULL) hold(host, page);
    switch (request->kind) {
    case REQUEST_CLAIM:
        event.kind = REV_DB_CLAIM;
        event.claim.ok = ok;
        event.claim.given = ok ? (uint32_t)request->given : 0;
        break;
    case REQUEST_READ:
        event.kind = REV_DB_READ;
        event.read.ok = ok;
        event.read.page = page;
        event.read.count = ok ? page->count : 0;
        event.read.more = request->more;
        event.read.upto = request->upto;
        break;
    case REQUEST_STORE:
        event.kind = REV_DB_STORE;
        event.store.ok = ok;
        break;
    case REQUEST_DUE:
        event.kind = REV_DB_DUE;
        event.page.ok = ok;
        event.page.page = page;
        event.page.items = ok ? page->items : NULL;
        event.page.count = ok ? page->count : 0;
        break;
    case REQUEST_HANDLE:
        event.kind = REV_DB_HANDLE;
        event.handle.result = ok ? request->handled : RELAY_UNKNOWN;
        event.handle.sqlstate = "P0001";
        event.handle.reason = "the handler says no";
        sim_coverage.events_duplicate += event.handle.result == RELAY_DUPLICATE ? 1u : 0u;
        break;
    case REQUEST_PARK:
        event.kind = REV_DB_PARK;
        event.park.result = ok ? request->parked : RELAY_NOT_PARKED;
        break;
    case REQUEST_SUBSCRIPTIONS:
    case REQUEST_ROUTE_STORE:
    case REQUEST_ROUTES:
    case REQUEST_LATER:
    case REQUEST_PRUNE:
        assert(!"not the core's");
        return;
    }
    step(world, host, &event);
}

void relay_answer(struct world *world, struct relay_request *request) {
    uint32_t participant = request->participant;
    uint64_t life = request->life;
    struct relay_agent *host = host_of(world, participant, life);
    if (host == NULL) return;
    switch (request->kind) {
    case REQUEST_CLAIM:
    case REQUEST_READ:
    case REQUEST_STORE:
    case REQUEST_DUE:
    case REQUEST_PARK:
        answer_core(world, host, request);
        return;
    case REQUEST_HANDLE:
        host->running--;
        answer_core(world, host, request);
        host = host_of(world, participant, life);
        if (host != NULL) run_jobs(world, host);
        return;
    case REQUEST_SUBSCRIPTIONS:
        subscriptions_done(world, host, request);
        return;
    case REQUEST_ROUTE_STORE:
        stored_done(world, host, request);
        return;
    case REQUEST_ROUTES:
        routes_done(world, host, request);
        return;
    case REQUEST_LATER:
        host->late_busy = false;
        return;
    case REQUEST_PRUNE:
        return;
    }
}

/* -------------------------------------------------------- from the network */

uint64_t relay_listens(const struct world *world, uint32_t participant) {
    for (uint32_t i = 0; i < 2; i++) {
        const struct relay_agent *host = &world->relay->agents[i * SIM_PARTICIPANTS_MAX + participant];
        if (host->started && host->told) return host->life;
    }
    return 0;
}

void relay_link_open(struct world *world, uint32_t participant, uint64_t life, uint64_t link) {
    struct relay_agent *host = host_of(world, participant, life);
    for (uint32_t i = 0; host != NULL && i < ACCEPTED_MAX; i++) {
        if (host->accepted[i].link != 0) continue;
        host->accepted[i] = (struct accepted){link, NOBODY};
        return;
    }
    net_close(world, link, true);
}

void relay_link_up(struct world *world, uint32_t participant, uint64_t life, uint32_t to, uint64_t link) {
    struct relay_agent *host = host_of(world, participant, life);
    if (host == NULL) {
        if (link != 0) net_close(world, link, false);
    } else if (link == 0) {
        retry(world, host, to);
    } else {
        host->targets[to].link = link;
        greet(world, host, link, false);
    }
}

static void target_closed(struct world *world, struct relay_agent *host, uint32_t to) {
    struct target *target = &host->targets[to];
    bool was = target->up;
    target->up = false;
    target->link = 0;
    retry(world, host, to);
    if (was) peer_event(world, host, to, REV_PEER_DOWN);
}

void relay_link_down(struct world *world, uint32_t participant, uint64_t life, uint64_t link) {
    struct relay_agent *host = host_of(world, participant, life);
    if (host == NULL) return;
    for (uint32_t i = 0; i < ACCEPTED_MAX; i++)
        if (host->accepted[i].link == link) host->accepted[i].link = 0;
    for (uint32_t p = 0; p < SIM_PARTICIPANTS_MAX; p++) {
        if (host->targets[p].link != link) continue;
        target_closed(world, host, p);
        return;
    }
}

static void target_frame(struct world *world, struct relay_agent *host, uint32_t to, const Lockstep__Frame *frame) {
    struct target *target = &host->targets[to];
    if (frame->body_case == LOCKSTEP__FRAME__BODY_GREET && !target->up) {
        target->up = true;
        target->failures = 0;
        peer_event(world, host, to, REV_PEER_UP);
    } else if (frame->body_case == LOCKSTEP__FRAME__BODY_STORED && target->up) {
        acknowledged(world, host, to, (int64_t)frame->stored->upto);
    } else {
        net_close(world, target->link, false);
        target_closed(world, host, to);
    }
}

static void source_greeted(struct world *world, struct relay_agent *host, struct accepted *source, uint32_t from) {
    for (uint32_t i = 0; i < ACCEPTED_MAX; i++) {
        struct accepted *older = &host->accepted[i];
        if (older->link == 0 || older->from != from) continue;
        net_close(world, older->link, true); /* a newer link of this participant has taken its place */
        older->link = 0;
    }
    source->from = from;
    greet(world, host, source->link, true);
}

static void source_frame(struct world *world, struct relay_agent *host, struct accepted *source,
                         const Lockstep__Frame *frame) {
    if (frame->body_case == LOCKSTEP__FRAME__BODY_GREET && source->from == NOBODY) {
        source_greeted(world, host, source, participant_named(frame->greet->participant));
    } else if (frame->body_case == LOCKSTEP__FRAME__BODY_EVENTS && source->from != NOBODY) {
        note_stored(host, source->from, (int64_t)frame->events->stored);
        page_arrived(world, host, source->from, page_of_frame(frame->events), (int64_t)frame->events->upto);
    } else {
        net_close(world, source->link, true);
        source->link = 0;
    }
}

void relay_frame(struct world *world, uint32_t participant, uint64_t life, uint64_t link, const uint8_t *bytes,
                 size_t length) {
    struct relay_agent *host = host_of(world, participant, life);
    Lockstep__Frame *frame;
    struct ls_error err;
    if (host == NULL) return;
    if (frame_decode(bytes, length, &frame, &err) != LS_OK)
        world_wrong(world, "p%u cannot read a frame of another agent: %s", participant + 1, err.text);
    uint32_t at = 0, to = 0;
    while (at < ACCEPTED_MAX && host->accepted[at].link != link) at++;
    while (to < SIM_PARTICIPANTS_MAX && host->targets[to].link != link) to++;
    if (at < ACCEPTED_MAX)
        source_frame(world, host, &host->accepted[at], frame);
    else if (to < SIM_PARTICIPANTS_MAX)
        target_frame(world, host, to, frame);
    lockstep__frame__free_unpacked(frame, NULL);
}

/* -------------------------------------------------------------------- life */

void relay_agent_serves(struct world *world, uint32_t participant, uint64_t life) {
    if (world->relay == NULL) return;
    relay_end_backends(world, participant, life);
    struct relay_agent *host = slot_of(world, participant, life);
    if (host->started) return;
    struct relay_config config;
    relay_config_defaults(&config);
    config.page_max = (uint32_t)world->options.relay_page;
    config.claim_max = (uint32_t)world->options.relay_claim;
    config.peers_max = SIM_PARTICIPANTS_MAX;
    config.handlers_max = RELAY_TYPES * HANDLERS;
    config.attempts_max = (uint32_t)world->options.relay_attempts;
    config.ack_wait_us = world->options.relay_ack_ms * MS;
    config.backoff_max_us = world->options.relay_backoff_ms * MS;
    config.seed = rng_next(&world->rng);
    struct relay_effects effects = host->effects;
    memset(host, 0, sizeof *host);
    host->effects = effects;
    host->started = true;
    host->participant = participant;
    host->life = life;
    host->armed_us = RELAY_NEVER;
    host->backoff_max_ms = world->options.relay_backoff_ms;
    host->core = relay_new(&config);
    assert(host->core != NULL);
    trace(world, host, "relays", "");
    world_after(world, LOOK_US, on_look, participant, life);
    look_at_subscriptions(world, host);
}

static void host_free(struct relay_agent *host) {
    relay_free(host->core);
    host->core = NULL;
    for (uint32_t i = 0; i < PAGES_MAX; i++) page_free(host->pages[i]);
    for (uint32_t i = 0; i < host->own_count; i++) page_free(host->own[i].page);
    memset(host->pages, 0, sizeof host->pages);
    host->own_count = 0;
    host->started = false;
}

void relay_host_gone(struct world *world, uint32_t participant, uint64_t life) {
    struct relay_agent *host = host_of(world, participant, life);
    if (host != NULL) host_free(host);
}

void relay_agents_start(struct world *world) {
    world->relay->agents = calloc(2 * SIM_PARTICIPANTS_MAX, sizeof *world->relay->agents);
    assert(world->relay->agents != NULL);
}

void relay_agents_stop(struct world *world) {
    if (world->relay->agents == NULL) return;
    for (uint32_t i = 0; i < 2 * SIM_PARTICIPANTS_MAX; i++) {
        host_free(&world->relay->agents[i]);
        relay_effects_free(&world->relay->agents[i].effects);
    }
    free(world->relay->agents);
    world->relay->agents = NULL;
}

const char *relay_agents_unfinished(struct world *world) {
    for (uint32_t p = 0; p < world->options.participants; p++)
        if (!world->relay->agents[p].told) return "a relay has not begun";
    return NULL;
}
