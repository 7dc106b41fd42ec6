/*
 * relay_sql.c: the functions of lockstep's schema (participant/pg/schema_events.c, schema_relay.c), statement for
 * statement as far as the relay sees them. Who changes one of those changes it here.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/agent_host.h"
#include "tests/sim/check.h"
#include "tests/sim/relay_internal.h"

#define SQL_CHANGES_MAX 4096u

/* What one statement changes. */
struct batch {
    struct change list[SQL_CHANGES_MAX];
    uint32_t count;
};
static struct batch batch; /* one at a time */

static void add(struct change change) {
    assert(batch.count < SQL_CHANGES_MAX);
    batch.list[batch.count++] = change;
}

static void commit(struct world *world, uint32_t db) {
    db_commit(world, db, batch.list, batch.count, true);
    batch.count = 0;
}

static bool is_terminal(uint8_t type) {
    return relay_kind_of(type) == FLOW_ENDED;
}

static bool is_wanted(const struct relay_db *db, uint8_t type) {
    for (uint32_t p = 0; p < SIM_PARTICIPANTS_MAX; p++)
        if (db->route[type][p] >= 0) return true;
    return false;
}

/* ------------------------------------------------------------- the sender's */

/* relay_claim() */
uint32_t sql_claim(struct world *world, uint32_t number, uint32_t rows_max) {
    struct relay_db *db = &world->relay->dbs[number];
    uint32_t given = 0, id = db->unclaimed_from;
    if (db->unclaimed == 0) return 0;
    batch.count = 0;
    for (; id <= db->event_count && given < rows_max; id++) {
        const struct relay_row *row = &db->events[id - 1];
        if (!row->there || row->position != 0) continue;
        given++;
        add((struct change){.kind = CHANGE_POSITION, .id = id, .number = db->last + given});
        if (!is_wanted(db, row->what.type) && !is_terminal(row->what.type)) {
            sim_coverage.events_unwanted++;
            add((struct change){.kind = CHANGE_LETTER, .id = id, .is = true});
        }
    }
    add((struct change){.kind = CHANGE_LAST, .number = db->last + given});
    commit(world, number);
    db->unclaimed_from = id; /* what becomes visible below brings it back */
    return given;
}

static void page_text(const struct relay_what *what, struct page_event *event, char key[8], char saga[8],
                      char payload[32]) {
    snprintf(key, 8, "k%u", what->key);
    snprintf(saga, 8, "f%u", what->flow);
    snprintf(payload, 32, "%u %u", what->book, what->step);
    event->version = what->version;
    event->type = (char *)(uintptr_t)relay_type_name(what->type);
    event->key = key;
    event->saga = saga;
    event->payload = payload;
}

static void page_row(struct page *page, int64_t position, const struct relay_what *what) {
    char key[8], saga[8], payload[32];
    struct page_event event = {.position = position};
    page_text(what, &event, key, saga, payload);
    page_add(page, &event);
}

/* relay_page(): events are small here, so now and then a page is taken for full of bytes. */
void sql_page(struct world *world, uint32_t number, struct relay_request *request) {
    const struct relay_db *db = &world->relay->dbs[number];
    uint32_t bytes = rng_below(&world->rng, 8) == 0 ? (uint32_t)rng_between(&world->rng, 1, 3) : UINT32_MAX;
    uint32_t total = 0;
    if (db->has_forward[request->peer] && db->forward[request->peer] > request->position)
        request->position = db->forward[request->peer];
    request->page = page_new(request->limit);
    request->upto = db->last > request->position ? db->last : request->position;
    for (int64_t at = request->position + 1; at <= db->last && total < request->limit; at++) {
        uint32_t id = db->by_position[at - 1];
        const struct relay_row *row = id == 0 ? NULL : &db->events[id - 1];
        if (row == NULL || db->route[row->what.type][request->peer] < 0 ||
            db->route[row->what.type][request->peer] >= at)
            continue;
        total++;
        if (request->page->count < bytes) page_row(request->page, at, &row->what);
    }
    request->more = total > request->page->count || total >= request->limit;
    if (request->more) request->upto = request->page->events[request->page->count - 1].position;
}

/* relay_acknowledge() */
void sql_acknowledge(struct world *world, uint32_t number, uint32_t participant, int64_t position) {
    const struct relay_db *db = &world->relay->dbs[number];
    batch.count = 0;
    if (!db->has_forward[participant] || db->forward[participant] < position)
        add((struct change){.kind = CHANGE_FORWARD, .id = participant, .number = position});
    commit(world, number);
}

/* route_store() */
void sql_route_store(struct world *world, uint32_t number, uint32_t participant, uint32_t types) {
    const struct relay_db *db = &world->relay->dbs[number];
    uint32_t wanted = 0;
    batch.count = 0;
    if (!db->peer[participant]) add((struct change){.kind = CHANGE_PEER, .id = participant});
    for (uint8_t t = 0; t < RELAY_TYPES; t++) {
        bool has = db->route[t][participant] >= 0, is = (types >> t & 1) != 0;
        if (has == is) continue;
        wanted |= is ? UINT32_C(1) << t : 0;
        add((struct change){.kind = CHANGE_ROUTE, .type = t, .id = participant, .number = is ? db->last : -1});
    }
    if (!db->has_forward[participant])
        add((struct change){.kind = CHANGE_FORWARD, .id = participant, .number = db->last});
    for (uint32_t id = 1; id <= db->event_count && wanted != 0; id++) {
        const struct relay_row *row = &db->events[id - 1];
        if (!row->letter || (wanted >> row->what.type & 1) == 0) continue;
        add((struct change){.kind = CHANGE_LETTER, .id = id, .is = false});
        add((struct change){.kind = CHANGE_POSITION, .id = id, .number = 0});
    }
    commit(world, number);
}

/* letter_act() of an event that nobody wanted */
bool sql_letter_act(struct world *world, uint32_t number, uint32_t event, bool retry) {
    const struct relay_db *db = &world->relay->dbs[number];
    const struct relay_row *one = &db->events[event - 1];
    if (!one->letter) return false;
    batch.count = 0;
    for (uint32_t id = 1; id <= db->event_count; id++) {
        const struct relay_row *row = &db->events[id - 1];
        if (!row->letter || row->what.key != one->what.key ||
            (row->what.version != one->what.version && !(retry && row->what.version < one->what.version)))
            continue;
        add((struct change){.kind = CHANGE_LETTER, .id = id, .is = false});
        if (retry) add((struct change){.kind = CHANGE_POSITION, .id = id, .number = 0});
    }
    commit(world, number);
    return true;
}

/* ----------------------------------------------------------- the receiver's */

static void write_event(struct world *world, uint32_t number, struct relay_what what, struct change *ret_event,
                        struct change *ret_stream);

static bool has_open(const struct relay_db *db, const struct inbox_at *at, const struct relay_what *what,
                     bool any_version) {
    for (uint32_t i = 0; i < db->open_count; i++) {
        const struct inbox_at *open = &db->open[i];
        const struct relay_inbox *row = &db->inbox[open->source][open->handler].rows[open->position - 1];
        if (open->source == at->source && open->handler == at->handler && row->what.key == what->key &&
            (any_version || row->what.version < what->version))
            return true;
    }
    return false;
}

/* inbox_take() */
enum sql_taken sql_take(struct world *world, struct relay_tx *tx) {
    struct relay_db *db = &world->relay->dbs[tx->db];
    const struct inbox_at *at = &tx->inbox;
    const struct relay_inbox *was = db_inbox(db, at->source, at->handler, at->position);
    struct relay_inbox row = {.state = INBOX_DONE, .at_us = world->now_us, .what = tx->what};
    if (was != NULL) {
        if (was->state != INBOX_WAITING || has_open(db, at, &was->what, false))
            return was->state == INBOX_WAITING ? TAKEN_QUEUED : TAKEN_DUPLICATE;
        row.attempts = was->attempts;
    } else if (has_open(db, at, &tx->what, true)) {
        row.state = INBOX_WAITING;
        row.retry_us = world->now_us;
        check_relay_queued(world, tx->db, at->handler, &tx->what);
    }
    tx_change(tx, (struct change){.kind = CHANGE_INBOX, .at = *at, .inbox = row});
    return row.state == INBOX_DONE ? TAKEN_RUN : TAKEN_QUEUED;
}

/* inbox_park() */
enum relay_parked sql_park(struct world *world, uint32_t number, const struct relay_request *request) {
    struct relay_db *db = &world->relay->dbs[number];
    const struct inbox_at at = {(uint8_t)request->peer, (uint8_t)request->handler, request->position};
    const struct relay_inbox *was = db_inbox(db, at.source, at.handler, at.position);
    if (was != NULL && was->state != INBOX_WAITING) return RELAY_THROUGH;
    uint32_t attempts = (was != NULL ? was->attempts : 0) + 1;
    struct relay_inbox row = {.state = attempts >= request->attempts_max ? INBOX_DEAD : INBOX_WAITING,
                              .attempts = attempts,
                              .at_us = world->now_us,
                              .retry_us = world->now_us + request->wait_ms * MS,
                              .what = request->what};
    batch.count = 0;
    add((struct change){.kind = CHANGE_INBOX, .at = at, .inbox = row});
    commit(world, number);
    check_relay_attempts(world, number, &at);
    sim_coverage.events_parked++;
    sim_coverage.events_dead += row.state == INBOX_DEAD ? 1u : 0u;
    return row.state == INBOX_DEAD ? RELAY_DEAD : RELAY_WAITING;
}

/* inbox_due() */
void sql_due(struct world *world, uint32_t number, struct relay_request *request) {
    struct relay_db *db = &world->relay->dbs[number];
    static const char *const handlers[] = {"main", "back", "audit"};
    request->page = page_new(request->limit);
    uint64_t after = 0;
    bool first = true;
    while (request->page->count < request->limit) {
        const struct inbox_at *best = NULL;
        uint64_t best_order = 0;
        for (uint32_t i = 0; i < db->open_count; i++) {
            const struct inbox_at *at = &db->open[i];
            const struct relay_inbox *row = &db->inbox[at->source][at->handler].rows[at->position - 1];
            /* by retry_at, made unique */
            uint64_t order = row->retry_us << 20 | (uint64_t)at->position << 6 | at->source * HANDLERS | at->handler;
            if (row->state != INBOX_WAITING || row->retry_us > world->now_us || (!first && order <= after) ||
                (best != NULL && order >= best_order) || (db->subscriptions[at->handler] >> row->what.type & 1) == 0 ||
                has_open(db, at, &row->what, false))
                continue;
            best = at;
            best_order = order;
        }
        if (best == NULL) return;
        const struct relay_inbox *row = &db->inbox[best->source][best->handler].rows[best->position - 1];
        char key[8], saga[8], payload[32], source[8];
        sim_participant_name(best->source, source);
        struct page_event event = {.position = best->position,
                                   .source = source,
                                   .handler = (char *)(uintptr_t)handlers[best->handler],
                                   .attempts = row->attempts};
        page_text(&row->what, &event, key, saga, payload);
        page_add(request->page, &event);
        after = best_order;
        first = false;
    }
}

/* inbox_act() */
bool sql_inbox_act(struct world *world, uint32_t number, const struct inbox_at *at, enum letter_act act) {
    struct relay_db *db = &world->relay->dbs[number];
    const struct relay_inbox *was = db_inbox(db, at->source, at->handler, at->position);
    if (was == NULL || was->state != INBOX_DEAD) return false;
    if (act == LETTER_COMPENSATE && db_key_is_locked(db, was->what.key, NULL)) return false;
    struct relay_inbox row = *was;
    row.state = act == LETTER_RETRY ? INBOX_WAITING : INBOX_SKIPPED;
    row.attempts = 0;
    row.retry_us = row.at_us = world->now_us;
    batch.count = 0;
    add((struct change){.kind = CHANGE_INBOX, .at = *at, .inbox = row, .is = act == LETTER_COMPENSATE});
    if (act == LETTER_COMPENSATE) { /* event_failed() */
        struct relay_what what = was->what;
        struct change event, stream;
        what.type = flow_failed_type(world, &what);
        what.step--;
        what.version = db->stream[what.key];
        write_event(world, number, what, &event, &stream);
        add(stream);
        add(event);
    }
    commit(world, number);
    return true;
}

/* inbox_prune() */
void sql_prune(struct world *world, uint32_t number, uint32_t source, int64_t stored) {
    struct relay_db *db = &world->relay->dbs[number];
    uint64_t keep = world->options.relay_keep_ms * MS;
    batch.count = 0;
    for (uint32_t h = 0; h < HANDLERS; h++) {
        for (int64_t at = 1; at <= stored && at <= (int64_t)db->inbox[source][h].count; at++) {
            const struct relay_inbox *row = db_inbox(db, source, h, at);
            if (row == NULL || (row->state != INBOX_DONE && row->state != INBOX_SKIPPED) ||
                row->at_us + keep >= world->now_us || batch.count == SQL_CHANGES_MAX)
                continue;
            add((struct change){.kind = CHANGE_INBOX, .at = {(uint8_t)source, (uint8_t)h, at}});
        }
    }
    sim_coverage.events_pruned += batch.count;
    commit(world, number);
}

/* ------------------------------------------------------------------ writing */

/* event_write() */
static void write_event(struct world *world, uint32_t number, struct relay_what what, struct change *ret_event,
                        struct change *ret_stream) {
    struct relay_db *db = &world->relay->dbs[number];
    what.version++;
    what.book = check_relay_emitted(world, number, &what);
    *ret_stream = (struct change){.kind = CHANGE_STREAM, .id = what.key, .number = what.version};
    *ret_event = (struct change){.kind = CHANGE_EVENT, .id = ++db->next_event, .what = what};
}

void sql_emit(struct world *world, struct relay_tx *tx, uint8_t type, uint16_t flow, uint8_t step) {
    struct relay_what what = {.flow = flow, .type = type, .key = flow_key(world, flow), .step = step};
    struct change event, stream;
    assert((tx->keys >> what.key & 1) != 0);
    what.version = world->relay->dbs[tx->db].stream[what.key];
    for (uint32_t i = 0; i < tx->count; i++) /* its own writes */
        if (tx->changes[i].kind == CHANGE_STREAM && tx->changes[i].id == what.key) what.version = tx->changes[i].number;
    write_event(world, tx->db, what, &event, &stream);
    tx_change(tx, stream);
    tx_change(tx, event);
}

/* relay_later() */
void sql_later(struct world *world, uint32_t number) {
    struct relay_db *db = &world->relay->dbs[number];
    for (uint32_t i = 0; i < db->late_count; i++) {
        struct relay_late late = db->late[i];
        if (!late.there || late.due_us > world->now_us) continue;
        batch.count = 0;
        if (db_key_is_locked(db, late.key, NULL)) {
            late.due_us = world->now_us + SECOND;
        } else {
            struct relay_what what = {
                .flow = late.flow, .type = late.type, .key = late.key, .version = db->stream[late.key]};
            struct change event, stream;
            write_event(world, number, what, &event, &stream);
            add(stream);
            add(event);
            late.there = false;
            sim_coverage.events_late++;
        }
        add((struct change){.kind = CHANGE_LATER, .id = i, .late = late});
        commit(world, number);
    }
}
