/*
 * relay_db.c: databases of relay.h: tables as committed, transactions that are not, the WAL that a crash or a failover
 * cuts, and requests of the relays' hosts on their way there and back.
 *
 * A statement of the relay's own acts at one moment. A delivery is a transaction of its own whose backend takes the
 * inbox row, waits for its client, runs the handler and commits; from the handler on it no longer needs its client. Ids
 * are given when a row is written, so transactions become visible in another order. What is locked is waited for.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/agent_host.h"
#include "tests/sim/check.h"
#include "tests/sim/relay_internal.h"

#define LOCK_US (5 * SECOND) /* lock_timeout of a delivery */
#define POLL_US (5 * MS)
#define LAG_RECORDS 24u

static void request_act(struct world *world, uint64_t slot, uint64_t serial);
static void request_done(struct world *world, struct relay_request *request);

static void *grown(void *list, uint32_t *capacity, uint32_t needed, size_t size) {
    if (needed <= *capacity) return list;
    uint32_t had = *capacity;
    while (*capacity < needed) *capacity = *capacity == 0 ? 64 : *capacity * 2;
    list = realloc(list, *capacity * size);
    assert(list != NULL);
    memset((char *)list + had * size, 0, (*capacity - had) * size);
    return list;
}

/* ------------------------------------------------------------------ tables */

static struct relay_inbox *inbox_slot(struct relay_db *db, const struct inbox_at *at) {
    struct inbox_list *list = &db->inbox[at->source][at->handler];
    list->rows = grown(list->rows, &list->count, (uint32_t)at->position, sizeof *list->rows);
    return &list->rows[at->position - 1];
}

struct relay_inbox *db_inbox(struct relay_db *db, uint32_t source, uint32_t handler, int64_t position) {
    struct inbox_list *list = &db->inbox[source][handler];
    if (position < 1 || position > (int64_t)list->count) return NULL;
    struct relay_inbox *row = &list->rows[position - 1];
    return row->state != INBOX_NOTHING ? row : NULL;
}

bool db_is_durable(const struct relay_db *db, const struct relay_inbox *row) {
    return row->record < db->flushed;
}

static bool same_at(const struct inbox_at *a, const struct inbox_at *b) {
    return a->source == b->source && a->handler == b->handler && a->position == b->position;
}

static void keep_open(struct relay_db *db, const struct inbox_at *at, bool open) {
    for (uint32_t i = 0; i < db->open_count; i++) {
        if (!same_at(&db->open[i], at)) continue;
        if (!open) db->open[i] = db->open[--db->open_count];
        return;
    }
    if (!open) return;
    db->open = grown(db->open, &db->open_capacity, db->open_count + 1, sizeof *db->open);
    db->open[db->open_count++] = *at;
}

static void apply_event(struct relay_db *db, const struct change *c) {
    db->events = grown(db->events, &db->event_capacity, c->id, sizeof *db->events);
    if (c->id > db->event_count) db->event_count = c->id;
    db->events[c->id - 1] = (struct relay_row){.there = true, .what = c->what};
    db->unclaimed++;
    if (c->id < db->unclaimed_from) db->unclaimed_from = c->id;
}

static void apply_position(struct relay_db *db, const struct change *c) {
    struct relay_row *row = &db->events[c->id - 1];
    if (row->position != 0) db->by_position[row->position - 1] = 0;
    db->unclaimed += (row->position != 0 ? 1u : 0u) - (c->number != 0 ? 1u : 0u);
    row->position = c->number;
    if (c->number == 0) {
        if (c->id < db->unclaimed_from) db->unclaimed_from = c->id;
        return;
    }
    db->by_position = grown(db->by_position, &db->position_capacity, (uint32_t)c->number, sizeof *db->by_position);
    db->by_position[c->number - 1] = c->id;
}

static void apply(struct relay_db *db, const struct change *c, size_t record) {
    switch (c->kind) {
    case CHANGE_EVENT:
        apply_event(db, c);
        return;
    case CHANGE_STREAM:
        db->stream[c->id] = c->number;
        return;
    case CHANGE_APP:
        db->app[c->id][c->step] = c->state;
        return;
    case CHANGE_LATER:
        db->late[c->id] = c->late;
        if (c->id >= db->late_count) db->late_count = c->id + 1;
        return;
    case CHANGE_INBOX: {
        struct relay_inbox *row = inbox_slot(db, &c->at);
        *row = c->inbox;
        row->record = record;
        keep_open(db, &c->at, row->state == INBOX_WAITING || row->state == INBOX_DEAD);
        return;
    }
    case CHANGE_POSITION:
        apply_position(db, c);
        return;
    case CHANGE_LAST:
        db->last = c->number;
        return;
    case CHANGE_LETTER:
        db->events[c->id - 1].letter = c->is;
        return;
    case CHANGE_ROUTE:
        db->route[c->type][c->id] = c->number;
        return;
    case CHANGE_PEER:
        db->peer[c->id] = true;
        return;
    case CHANGE_FORWARD:
        db->has_forward[c->id] = true;
        db->forward[c->id] = c->number;
        return;
    case CHANGE_SUBSCRIBE:
        db->subscriptions[c->id] |= (uint32_t)c->number;
        db->set_up = record + 1;
        return;
    case CHANGE_LIFE:
        db->life = (uint64_t)c->number;
        return;
    }
    assert(!"change");
}

static void wipe(void *list, size_t size) {
    if (size > 0) memset(list, 0, size);
}

static void empty_tables(struct relay_db *db) {
    wipe(db->events, db->event_count * sizeof *db->events);
    wipe(db->by_position, db->position_capacity * sizeof *db->by_position);
    db->unclaimed = 0;
    db->unclaimed_from = 1;
    db->last = 0;
    memset(db->stream, 0, sizeof db->stream);
    memset(db->route, 0xff, sizeof db->route);
    memset(db->peer, 0, sizeof db->peer);
    memset(db->has_forward, 0, sizeof db->has_forward);
    memset(db->forward, 0, sizeof db->forward);
    memset(db->late, 0, sizeof db->late);
    memset(db->subscriptions, 0, sizeof db->subscriptions);
    memset(db->app, 0, sizeof db->app);
    db->life = 0;
    for (uint32_t s = 0; s < SIM_PARTICIPANTS_MAX; s++) {
        for (uint32_t h = 0; h < HANDLERS; h++)
            wipe(db->inbox[s][h].rows, db->inbox[s][h].count * sizeof *db->inbox[s][h].rows);
    }
    db->open_count = 0;
}

/* --------------------------------------------------------------------- wal */

static struct record *append(struct relay_db *db, enum record_kind kind, const struct change *changes, uint32_t count) {
    if (db->record_count == db->record_capacity) {
        db->record_capacity = db->record_capacity == 0 ? 128 : db->record_capacity * 2;
        db->records = realloc(db->records, db->record_capacity * sizeof *db->records);
        assert(db->records != NULL);
    }
    db->changes = grown(db->changes, &db->change_capacity, db->change_count + count, sizeof *db->changes);
    if (count > 0) memcpy(&db->changes[db->change_count], changes, count * sizeof *changes);
    struct record *record = &db->records[db->record_count++];
    *record = (struct record){.kind = kind, .first = db->change_count, .count = count};
    db->change_count += count;
    return record;
}

static void commit_as(struct world *world, uint32_t number, enum record_kind kind, uint32_t prepared,
                      const struct change *changes, uint32_t count, bool flush) {
    struct relay_db *db = &world->relay->dbs[number];
    assert(db->up);
    append(db, kind, changes, count)->prepared = prepared;
    for (uint32_t i = 0; i < count; i++) {
        apply(db, &changes[i], db->record_count - 1);
        check_relay_committed(world, number, &changes[i]);
    }
    if (flush) db->flushed = db->record_count;
}

void db_commit(struct world *world, uint32_t number, const struct change *changes, uint32_t count, bool flush) {
    if (count > 0) commit_as(world, number, RECORD_COMMIT, 0, changes, count, flush);
}

bool relay_agent_lives(struct world *world, uint32_t participant, uint64_t life) {
    if (world->relay == NULL) return true;
    const struct relay_db *db = &world->relay->dbs[participant];
    uint64_t *lived = &world->relay->lived[participant][life % 2];
    if (*lived == life && db->life != life && db->life != 0) return false;
    *lived = life;
    const struct change change = {.kind = CHANGE_LIFE, .number = (int64_t)life};
    if (db->life != life) db_commit(world, participant, &change, 1, true);
    return true;
}

/* ------------------------------------------------------------ transactions */

static void tx_call(struct world *world, uint64_t place, uint64_t turn);

struct relay_tx *tx_new(struct world *world, uint32_t number) {
    struct relay_db *db = &world->relay->dbs[number];
    for (uint32_t i = 0; i < RELAY_TX_MAX; i++) {
        struct relay_tx *tx = &db->tx[i];
        if (tx->used) continue;
        tx->used = true;
        tx->db = number;
        tx->slot = i;
        tx->prepared = tx->keys = tx->count = 0;
        tx->life = 0;
        tx->waiting = tx->async = tx->has_inbox = false;
        tx->row = RELAY_NO_ROW;
        tx->request = -1;
        return tx;
    }
    world_wrong(world, "db%u has more than %u transactions", number, RELAY_TX_MAX);
}

static void tx_schedule(struct world *world, struct relay_tx *tx, uint64_t delay_us) {
    tx->turn = ++world->relay->next_turn;
    world_after(world, delay_us, tx_call, tx->db * RELAY_TX_MAX + tx->slot, tx->turn);
}

void tx_after(struct world *world, struct relay_tx *tx, enum tx_step step, uint64_t delay_us) {
    tx->step = step;
    tx->waiting = false;
    tx_schedule(world, tx, delay_us);
}

void tx_change(struct relay_tx *tx, struct change change) {
    assert(tx->count < RELAY_CHANGES_MAX);
    tx->changes[tx->count++] = change;
}

bool db_key_is_locked(const struct relay_db *db, uint32_t key, const struct relay_tx *but) {
    for (uint32_t i = 0; i < RELAY_TX_MAX; i++) {
        const struct relay_tx *tx = &db->tx[i];
        if (tx->used && tx != but && (tx->keys >> key & 1) != 0) return true;
    }
    return false;
}

bool db_row_is_locked(const struct relay_db *db, uint32_t row, const struct relay_tx *but) {
    for (uint32_t i = 0; i < RELAY_TX_MAX; i++) {
        const struct relay_tx *tx = &db->tx[i];
        if (tx->used && tx != but && tx->row == row) return true;
    }
    return false;
}

bool db_inbox_is_locked(const struct relay_db *db, const struct inbox_at *at, const struct relay_tx *but) {
    for (uint32_t i = 0; i < RELAY_TX_MAX; i++) {
        const struct relay_tx *tx = &db->tx[i];
        if (tx->used && tx != but && tx->has_inbox && same_at(&tx->inbox, at)) return true;
    }
    return false;
}

/* Its locks are free: whoever waits looks again. */
static void tx_end(struct world *world, struct relay_tx *tx) {
    struct relay_db *db = &world->relay->dbs[tx->db];
    tx->used = false;
    tx->turn = 0;
    for (uint32_t i = 0; i < RELAY_TX_MAX; i++)
        if (db->tx[i].used && db->tx[i].waiting) tx_schedule(world, &db->tx[i], 1);
}

static void undone(struct world *world, uint32_t db, const struct change *changes, uint32_t count, bool committed) {
    for (uint32_t i = count; i-- > 0;) check_relay_undone(world, db, &changes[i], committed);
}

static void tx_abort(struct world *world, struct relay_tx *tx) {
    undone(world, tx->db, tx->changes, tx->count, false);
    tx_end(world, tx);
}

static void tx_commit(struct world *world, struct relay_tx *tx) {
    if (tx->life != 0 && tx->result == RELAY_DONE) check_relay_acts(world, tx->db, tx->inbox.handler, &tx->what);
    tx->used = false; /* what it has locked is its own */
    db_commit(world, tx->db, tx->changes, tx->count, !tx->async);
    tx->used = true;
    tx_end(world, tx);
}

/* False: it has waited for too long. */
static bool tx_wait(struct world *world, struct relay_tx *tx) {
    if (!tx->waiting) {
        tx->waiting = true;
        tx->waits_until_us = world->now_us + LOCK_US;
    }
    if (world->now_us >= tx->waits_until_us) return false;
    tx_schedule(world, tx, tx->waits_until_us - world->now_us);
    return true;
}

static uint64_t way(struct world *world) {
    return rng_delay(&world->rng, world->healed ? 50 : world->options.finish_us / 4);
}
static uint64_t work(struct world *world, uint64_t mean) {
    return rng_delay(&world->rng, world->healed && mean > MS ? MS : mean);
}

/* -------------------------------------------------------------- deliveries */

static void delivered(struct world *world, struct relay_tx *tx, enum relay_handled result) {
    if (tx->request < 0) return;
    struct relay_request *request = &world->relay->requests[tx->request];
    tx->request = -1;
    request->handled = result;
    request_done(world, request);
}

static void delivery_fails(struct world *world, struct relay_tx *tx, enum relay_handled result) {
    delivered(world, tx, result);
    tx_abort(world, tx);
}

static void take(struct world *world, struct relay_tx *tx) {
    struct relay_db *db = &world->relay->dbs[tx->db];
    if (db_inbox_is_locked(db, &tx->inbox, tx)) {
        if (!tx_wait(world, tx)) delivery_fails(world, tx, RELAY_FAILED);
        return;
    }
    tx->has_inbox = true;
    if (tx->life != db->life) { /* not the agent any more, whose secret is asked for */
        delivery_fails(world, tx, RELAY_FAILED);
        return;
    }
    switch (sql_take(world, tx)) {
    case TAKEN_RUN:
        tx_after(world, tx, TX_SEND, 2 * way(world));
        return;
    case TAKEN_DUPLICATE:
        tx->result = RELAY_DUPLICATE;
        break;
    case TAKEN_QUEUED:
        tx->result = RELAY_QUEUED;
        break;
    }
    tx_after(world, tx, TX_COMMIT, work(world, world->options.finish_us));
}

/* The client has heard that it is to run the handler. */
static void send_handler(struct world *world, struct relay_tx *tx) {
    uint64_t paused = tx->request < 0 ? 0 : agent_host_paused_until(world, tx->db, tx->life);
    if (paused > world->now_us) {
        tx_after(world, tx, TX_SEND, paused - world->now_us);
    } else if (tx->request < 0 || world_fault(world, world->options.session_drop_pm)) {
        delivery_fails(world, tx, RELAY_UNKNOWN);
    } else {
        tx_after(world, tx, TX_HANDLE, work(world, world->options.statement_us));
    }
}

static void handle(struct world *world, struct relay_tx *tx) {
    switch (flow_handle(world, tx)) {
    case HANDLER_WAITS:
        if (!tx_wait(world, tx)) delivery_fails(world, tx, RELAY_FAILED);
        return;
    case HANDLER_FAILED:
        delivery_fails(world, tx, RELAY_FAILED);
        return;
    case HANDLER_RAN:
        tx->result = RELAY_DONE;
        tx_after(world, tx, TX_COMMIT, work(world, world->options.finish_us));
        return;
    }
}

static void commit_delivery(struct world *world, struct relay_tx *tx) {
    bool dropped = world_fault(world, world->options.session_drop_pm);
    if (dropped && rng_below(&world->rng, 2) == 0) {
        delivery_fails(world, tx, RELAY_UNKNOWN);
        return;
    }
    delivered(world, tx, dropped ? RELAY_UNKNOWN : tx->result);
    tx_commit(world, tx);
}

static void prepared_ends(struct world *world, uint64_t place, uint64_t commit);

static void end_prepared_later(struct world *world, const struct relay_tx *tx) {
    uint64_t mean = rng_below(&world->rng, 4) == 0 ? 5 * SECOND : 200 * MS;
    world_after(world, rng_delay(&world->rng, mean), prepared_ends, tx->prepared * SIM_PARTICIPANTS_MAX + tx->db,
                rng_below(&world->rng, 4) != 0);
}

static void prepare(struct world *world, struct relay_tx *tx) {
    struct relay_db *db = &world->relay->dbs[tx->db];
    struct record *record = append(db, RECORD_PREPARE, tx->changes, tx->count);
    record->prepared = tx->prepared = ++db->prepared_count;
    record->keys = tx->keys;
    db->flushed = db->record_count;
    sim_coverage.events_prepared++;
    end_prepared_later(world, tx);
}

static void tx_call(struct world *world, uint64_t place, uint64_t turn) {
    struct relay_tx *tx = &world->relay->dbs[place / RELAY_TX_MAX].tx[place % RELAY_TX_MAX];
    if (!tx->used || tx->turn != turn) return;
    switch (tx->step) {
    case TX_TAKE:
        take(world, tx);
        return;
    case TX_SEND:
        send_handler(world, tx);
        return;
    case TX_HANDLE:
        handle(world, tx);
        return;
    case TX_COMMIT:
        commit_delivery(world, tx);
        return;
    case TX_BEGIN:
        flow_step(world, tx);
        return;
    case TX_END:
        /* an application: commits, gives up, or is a branch that is prepared and stays so for a while */
        switch (tx->result) {
        case RELAY_DONE:
            tx_commit(world, tx);
            return;
        case RELAY_QUEUED:
            prepare(world, tx);
            return;
        case RELAY_DUPLICATE:
        case RELAY_FAILED:
        case RELAY_UNKNOWN:
            tx_abort(world, tx);
            return;
        }
    }
}

/* True: there is no such prepared transaction any more, or it is finished now. */
static bool finish_prepared(struct world *world, uint32_t number, uint32_t prepared, bool commit) {
    struct relay_db *db = &world->relay->dbs[number];
    if (!db->up) return false;
    for (uint32_t i = 0; i < RELAY_TX_MAX; i++) {
        struct relay_tx *tx = &db->tx[i];
        if (!tx->used || tx->prepared != prepared) continue;
        tx->used = false;
        if (commit) {
            commit_as(world, number, RECORD_COMMIT_PREPARED, prepared, tx->changes, tx->count, true);
        } else {
            append(db, RECORD_ROLLBACK_PREPARED, NULL, 0)->prepared = prepared;
            db->flushed = db->record_count;
            undone(world, number, tx->changes, tx->count, false);
        }
        tx->used = true;
        tx_end(world, tx);
        break;
    }
    return true;
}

static void prepared_ends(struct world *world, uint64_t place, uint64_t commit) {
    if (!finish_prepared(world, (uint32_t)(place % SIM_PARTICIPANTS_MAX), (uint32_t)(place / SIM_PARTICIPANTS_MAX),
                         commit != 0))
        world_after(world, 100 * MS, prepared_ends, place, commit);
}

/* ---------------------------------------------------------------- requests */

struct relay_request *request_new(struct world *world, enum request_kind kind, uint32_t participant, uint64_t life,
                                  uint64_t op) {
    struct sim_relay *relay = world->relay;
    uint64_t serial = ++relay->next_serial;
    for (uint32_t i = 0; i < RELAY_REQUESTS_MAX; i++) {
        struct relay_request *request = &relay->requests[(serial + i) % RELAY_REQUESTS_MAX];
        if (request->used) continue;
        memset(request, 0, sizeof *request);
        request->used = true;
        request->kind = kind;
        request->participant = participant;
        request->life = life;
        request->op = op;
        request->serial = serial;
        request->slot = (uint32_t)((serial + i) % RELAY_REQUESTS_MAX);
        return request;
    }
    world_wrong(world, "more than %u requests of relays are under way", RELAY_REQUESTS_MAX);
}

void request_send(struct world *world, struct relay_request *request) {
    request->since_us = world->now_us;
    request->sent = true;
    world_after(world, way(world), request_act, request->slot, request->serial);
}

static struct relay_request *request_at(struct world *world, uint64_t slot, uint64_t serial) {
    struct relay_request *request = &world->relay->requests[slot];
    return request->used && request->serial == serial ? request : NULL;
}

static void request_free(struct relay_request *request) {
    page_free(request->page);
    request->page = NULL;
    request->used = false;
}

static void request_answer(struct world *world, uint64_t slot, uint64_t serial) {
    struct relay_request *request = request_at(world, slot, serial);
    if (request == NULL) return;
    uint64_t paused = request->away ? 0 : agent_host_paused_until(world, request->participant, request->life);
    if (paused > world->now_us) {
        world_after(world, paused - world->now_us, request_answer, slot, serial);
        return;
    }
    if (request->boot != world->relay->dbs[request->participant].boot) request->lost = true;
    if (!request->away) relay_answer(world, request);
    request_free(request);
}

/* It has acted, or never will. */
static void request_done(struct world *world, struct relay_request *request) {
    request->answering = true;
    if (request->away)
        request_free(request);
    else
        world_after(world, way(world), request_answer, request->slot, request->serial);
}

static void start_delivery(struct world *world, struct relay_request *request) {
    struct relay_tx *tx = tx_new(world, request->participant);
    tx->life = request->life;
    tx->request = (int)request->slot;
    tx->what = request->what;
    tx->inbox = (struct inbox_at){(uint8_t)request->peer, (uint8_t)request->handler, request->position};
    check_relay_delivered(world, request->participant, request->peer, request->position, &request->what);
    tx_after(world, tx, TX_TAKE, work(world, world->options.finish_us));
}

/* Park waits for a transaction that has the row. False: it comes again. */
static bool may_park(struct world *world, struct relay_request *request) {
    const struct inbox_at at = {(uint8_t)request->peer, (uint8_t)request->handler, request->position};
    if (!db_inbox_is_locked(&world->relay->dbs[request->participant], &at, NULL)) return true;
    if (world->now_us - request->since_us < LOCK_US) {
        world_after(world, POLL_US, request_act, request->slot, request->serial);
        return false;
    }
    request->lost = true;
    return true;
}

static void routes(struct world *world, struct relay_request *request) {
    const struct relay_db *db = &world->relay->dbs[request->participant];
    for (uint32_t p = 0; p < world->options.participants; p++) {
        request->peers[p] = db->peer[p];
        request->positions[p] = -1;
        for (uint32_t t = 0; t < RELAY_TYPES && db->has_forward[p]; t++)
            if (db->route[t][p] >= 0) request->positions[p] = db->forward[p];
    }
}

static void act(struct world *world, struct relay_request *request) {
    uint32_t db = request->participant;
    switch (request->kind) {
    case REQUEST_CLAIM:
        request->given = sql_claim(world, db, request->limit);
        check_relay_claimed(world, db, (uint32_t)request->given, request->limit);
        return;
    case REQUEST_READ:
        sql_page(world, db, request);
        return;
    case REQUEST_STORE:
        sql_acknowledge(world, db, request->peer, request->position);
        return;
    case REQUEST_PARK:
        request->parked = request->life == world->relay->dbs[db].life ? sql_park(world, db, request) : RELAY_NOT_PARKED;
        return;
    case REQUEST_DUE:
        sql_due(world, db, request);
        return;
    case REQUEST_SUBSCRIPTIONS:
        memcpy(request->subscriptions, world->relay->dbs[db].subscriptions, sizeof request->subscriptions);
        return;
    case REQUEST_ROUTE_STORE:
        sql_route_store(world, db, request->peer, request->types);
        return;
    case REQUEST_ROUTES:
        routes(world, request);
        return;
    case REQUEST_LATER:
        sql_later(world, db);
        return;
    case REQUEST_PRUNE:
        sql_prune(world, db, request->peer, request->position);
        return;
    case REQUEST_HANDLE:
        break;
    }
    assert(!"request");
}

static void request_act(struct world *world, uint64_t slot, uint64_t serial) {
    struct relay_request *request = request_at(world, slot, serial);
    if (request == NULL || request->answering) return;
    const struct relay_db *db = &world->relay->dbs[request->participant];
    if (request->kind == REQUEST_PARK && db->up && !may_park(world, request)) return;
    request->boot = db->boot;
    bool dropped = world_fault(world, world->options.session_drop_pm);
    if (!db->up || request->lost || (dropped && rng_below(&world->rng, 2) == 0)) {
        request->lost = true;
        request->handled = RELAY_UNKNOWN;
    } else if (request->kind == REQUEST_HANDLE) {
        start_delivery(world, request);
        return;
    } else {
        act(world, request);
        request->lost = dropped;
    }
    request_done(world, request);
}

/* ---------------------------------------------------- lives, crash, failover */

void relay_agent_gone(struct world *world, uint32_t participant, uint64_t life) {
    struct sim_relay *relay = world->relay;
    if (relay == NULL) return;
    for (uint32_t i = 0; i < RELAY_REQUESTS_MAX; i++) {
        struct relay_request *request = &relay->requests[i];
        if (!request->used || request->participant != participant || request->life != life) continue;
        request->away = true;
        if (request->answering || !request->sent) request_free(request);
    }
    for (uint32_t i = 0; i < RELAY_TX_MAX; i++) {
        struct relay_tx *tx = &relay->dbs[participant].tx[i];
        if (!tx->used || tx->life != life || tx->request < 0) continue;
        request_free(&relay->requests[tx->request]);
        tx->request = -1;
    }
    relay_host_gone(world, participant, life);
}

void relay_end_backends(struct world *world, uint32_t participant, uint64_t life) {
    struct sim_relay *relay = world->relay;
    for (uint32_t i = 0; i < RELAY_TX_MAX; i++) {
        struct relay_tx *tx = &relay->dbs[participant].tx[i];
        if (tx->used && tx->life != 0 && tx->life != life && tx->prepared == 0)
            delivery_fails(world, tx, RELAY_UNKNOWN);
    }
    for (uint32_t i = 0; i < RELAY_REQUESTS_MAX; i++) {
        struct relay_request *request = &relay->requests[i];
        if (!request->used || !request->sent || request->answering || request->participant != participant ||
            request->life == life)
            continue;
        request->lost = true;
        request->boot = relay->dbs[participant].boot;
        request->handled = RELAY_UNKNOWN;
        request_done(world, request);
    }
}

static void drop_transactions(struct world *world, struct relay_db *db) {
    for (uint32_t i = 0; i < RELAY_TX_MAX; i++) {
        struct relay_tx *tx = &db->tx[i];
        if (!tx->used) continue;
        if (tx->life != 0) delivered(world, tx, RELAY_UNKNOWN);
        if (tx->prepared == 0) undone(world, tx->db, tx->changes, tx->count, false);
        tx->used = false;
        tx->turn = 0;
    }
}

/* What a start finds: the tables that the first `keep` records describe, and what is prepared. */
static void replay(struct world *world, uint32_t number, size_t keep) {
    struct relay_db *db = &world->relay->dbs[number];
    empty_tables(db);
    for (size_t i = 0; i < keep; i++) {
        const struct record *record = &db->records[i];
        bool finishes = record->kind == RECORD_COMMIT_PREPARED || record->kind == RECORD_ROLLBACK_PREPARED;
        if (record->kind == RECORD_PREPARE) {
            struct relay_tx *tx = tx_new(world, number);
            tx->prepared = record->prepared;
            tx->keys = record->keys;
            tx->count = record->count;
            memcpy(tx->changes, &db->changes[record->first], record->count * sizeof *tx->changes);
        }
        for (uint32_t t = 0; finishes && t < RELAY_TX_MAX; t++)
            if (db->tx[t].used && db->tx[t].prepared == record->prepared) db->tx[t].used = false;
        for (uint32_t c = 0; record->kind != RECORD_PREPARE && c < record->count; c++)
            apply(db, &db->changes[record->first + c], i);
    }
    db->record_count = db->flushed = keep;
    db->change_count = keep == 0 ? 0 : db->records[keep - 1].first + db->records[keep - 1].count;
}

void relay_server_crash(struct world *world, uint32_t number) {
    if (world->relay == NULL) return;
    struct relay_db *db = &world->relay->dbs[number];
    assert(db->up);
    db->up = false;
    db->boot++;
    drop_transactions(world, db);
    size_t keep = db->flushed + (size_t)rng_below(&world->rng, db->record_count - db->flushed + 1);
    for (size_t i = db->record_count; i-- > keep;)
        undone(world, number, &db->changes[db->records[i].first], db->records[i].count, true);
    replay(world, number, keep);
}

void relay_server_up(struct world *world, uint32_t number) {
    if (world->relay != NULL) world->relay->dbs[number].up = true;
}

void relay_server_loses(struct world *world, uint32_t number) {
    if (world->relay == NULL) return;
    struct relay_db *db = &world->relay->dbs[number];
    size_t lag = (size_t)rng_below(&world->rng, LAG_RECORDS + 1);
    if (lag > db->record_count) lag = db->record_count;
    size_t keep = db->record_count - lag;
    if (keep < db->set_up) keep = db->set_up;
    if (keep == db->record_count) return;
    drop_transactions(world, db); /* what is prepared */
    replay(world, number, keep);
    for (uint32_t i = 0; i < RELAY_TX_MAX; i++) /* perhaps it was finished, and that is lost */
        if (db->tx[i].used) end_prepared_later(world, &db->tx[i]);
    check_relay_lost(world, number);
}

/* -------------------------------------------------------------------- life */

void relay_dbs_start(struct world *world) {
    for (uint32_t p = 0; p < world->options.participants; p++) {
        struct relay_db *db = &world->relay->dbs[p];
        db->up = true;
        db->boot = 1;
        db->unclaimed_from = 1;
        memset(db->route, 0xff, sizeof db->route);
    }
}

void relay_dbs_stop(struct world *world) {
    for (uint32_t i = 0; i < RELAY_REQUESTS_MAX; i++)
        if (world->relay->requests[i].used) request_free(&world->relay->requests[i]);
    for (uint32_t p = 0; p < SIM_PARTICIPANTS_MAX; p++) {
        struct relay_db *db = &world->relay->dbs[p];
        free(db->events);
        free(db->by_position);
        free(db->open);
        free(db->changes);
        free(db->records);
        for (uint32_t s = 0; s < SIM_PARTICIPANTS_MAX; s++) {
            for (uint32_t h = 0; h < HANDLERS; h++) free(db->inbox[s][h].rows);
        }
    }
}
