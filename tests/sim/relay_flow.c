/*
 * relay_flow.c: applications: choreographed sagas as docs/choreography.md advises to write them, events of later,
 * handlers that fail, and the operator of dead letters.
 *
 * A saga is a chain of places. Its first transaction, committed at once, much later, by a prepared branch or not at
 * all, sends GO to the next place, and perhaps OVERDUE to itself for later. Each place either refuses (CANCELLED, and
 * UNDO to the place before) or does its step and sends GO on; the last one sends DONE home. OVERDUE sends CANCEL along
 * the chain: whoever has not begun is CANCELLED and sends UNDO back, the last one undoes its own. A state per step
 * decides what is left to do, so handlers of their own for both directions need no order between them.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/check.h"
#include "tests/sim/relay_internal.h"

#define FOR_EVER 255u
#define APP_LOCK_US (5 * SECOND)

struct relay_flow {
    uint8_t steps, key, place[RELAY_STEPS_MAX];
    uint8_t refuses; /* this step, 0: none */
    uint8_t fails[RELAY_STEPS_MAX][FLOW_KINDS];
    enum relay_handled ends; /* its first transaction: DONE, QUEUED (prepared), FAILED */
    bool notes, async;
    uint64_t deadline_ms, open_us, since_us;
};

static const char *const kind_names[FLOW_KINDS] = {"go",      "cancel", "undo",  "done",
                                                   "overdue", "failed", "ended", "note"};
static char type_names[RELAY_TYPES][16];

uint32_t relay_kind_of(uint8_t type) {
    return type / SIM_PARTICIPANTS_MAX;
}

uint32_t relay_named_by(uint8_t type) {
    return type % SIM_PARTICIPANTS_MAX;
}

const char *relay_type_name(uint8_t type) {
    if (type_names[0][0] == '\0') {
        for (uint8_t t = 0; t < RELAY_TYPES; t++)
            snprintf(type_names[t], sizeof type_names[t], "p%u.%s", relay_named_by(t) + 1,
                     kind_names[relay_kind_of(t)]);
    }
    return type_names[type];
}

uint8_t relay_type_number(const char *name) {
    uint8_t t = 0;
    while (t < RELAY_TYPES && strcmp(relay_type_name(t), name) != 0) t++;
    assert(t < RELAY_TYPES);
    return t;
}

uint8_t flow_key(const struct world *world, uint16_t flow) {
    return world->relay->flows[flow].key;
}

uint32_t flow_steps(const struct world *world, uint16_t flow) {
    return world->relay->flows[flow].steps;
}

uint32_t flow_place(const struct world *world, uint16_t flow, uint32_t step) {
    return world->relay->flows[flow].place[step];
}

uint8_t flow_failed_type(const struct world *world, const struct relay_what *what) {
    return RELAY_TYPE(FLOW_FAILED, flow_place(world, what->flow, what->step - 1u));
}

void flow_mend(struct world *world, const struct relay_what *what) {
    world->relay->flows[what->flow].fails[what->step][relay_kind_of(what->type)] = 0;
}

static uint32_t row_of(uint16_t flow, uint32_t step) {
    return flow * RELAY_STEPS_MAX + step;
}

static void set(struct relay_tx *tx, uint16_t flow, uint8_t step, enum flow_state state) {
    tx_change(tx, (struct change){.kind = CHANGE_APP, .id = flow, .step = step, .state = (uint8_t)state});
}

static void emit(struct world *world, struct relay_tx *tx, enum flow_kind kind, uint16_t flow, uint32_t step) {
    uint32_t place = kind == FLOW_ENDED || kind == FLOW_NOTE ? tx->db : flow_place(world, flow, step);
    sql_emit(world, tx, RELAY_TYPE(kind, place), flow, (uint8_t)step);
}

/* ---------------------------------------------------------------- handlers */

/* What a handler does with an event of this kind when the step is in this state. */
struct move {
    bool changes, emits;
    enum flow_state state;
    enum flow_kind kind;
    uint32_t step; /* of what is sent */
};

static struct move undo_one(uint32_t step, enum flow_state state) {
    return step == 0 ? (struct move){true, true, state, FLOW_ENDED, 0}
                     : (struct move){true, true, state, FLOW_UNDO, step - 1};
}

static struct move move_for(const struct relay_flow *flow, enum flow_kind kind, uint32_t step, enum flow_state was) {
    const struct move nothing = {0};
    bool last = step + 1 == flow->steps;
    switch (kind) {
    case FLOW_GO:
        if (was != FLOW_NONE) return nothing;
        if (flow->refuses == step) return undo_one(step, FLOW_CANCELLED);
        return last ? (struct move){true, true, FLOW_DOING, FLOW_DONE, 0}
                    : (struct move){true, true, FLOW_DOING, FLOW_GO, step + 1};
    case FLOW_CANCEL:
        if (was == FLOW_NONE) return undo_one(step, FLOW_CANCELLED);
        if (was != FLOW_DOING) return nothing;
        return last ? undo_one(step, FLOW_UNDONE) : (struct move){false, true, was, FLOW_CANCEL, step + 1};
    case FLOW_UNDO:
    case FLOW_FAILED:
        return was == FLOW_DOING || was == FLOW_CANCELLING ? undo_one(step, FLOW_UNDONE) : nothing;
    case FLOW_DONE:
        return was == FLOW_DOING ? (struct move){true, true, FLOW_COMPLETED, FLOW_ENDED, 0} : nothing;
    case FLOW_OVERDUE:
        return was == FLOW_DOING ? (struct move){true, true, FLOW_CANCELLING, FLOW_CANCEL, 1} : nothing;
    case FLOW_ENDED:
    case FLOW_NOTE:
    case FLOW_KINDS:
        break;
    }
    assert(!"nobody has subscribed to this");
    return nothing;
}

static bool says_no(struct world *world, const struct relay_what *what) {
    uint8_t *fails = &world->relay->flows[what->flow].fails[what->step][relay_kind_of(what->type)];
    if (*fails == 0) return false;
    *fails -= *fails != FOR_EVER ? 1 : 0;
    return true;
}

enum handler_ran flow_handle(struct world *world, struct relay_tx *tx) {
    const struct relay_what *what = &tx->what;
    const struct relay_db *db = &world->relay->dbs[tx->db];
    uint32_t row = row_of(what->flow, what->step);
    if (tx->inbox.handler == HANDLER_AUDIT) return world_fault(world, 20) ? HANDLER_FAILED : HANDLER_RAN;
    if (tx->row != row && db_row_is_locked(db, row, tx)) return HANDLER_WAITS;
    tx->row = row;
    struct move move = move_for(&world->relay->flows[what->flow], relay_kind_of(what->type), what->step,
                                (enum flow_state)db->app[what->flow][what->step]);
    if (move.emits && db_key_is_locked(db, what->key, tx)) return HANDLER_WAITS;
    if (move.emits) tx->keys |= UINT32_C(1) << what->key;
    if (says_no(world, what)) return HANDLER_FAILED;
    if (move.changes) set(tx, what->flow, what->step, move.state);
    if (move.emits) emit(world, tx, move.kind, what->flow, move.step);
    return HANDLER_RAN;
}

/* ------------------------------------------------------- first transactions */

void flow_step(struct world *world, struct relay_tx *tx) {
    struct relay_flow *flow = &world->relay->flows[tx->flow];
    const struct relay_db *db = &world->relay->dbs[tx->db];
    if (db_key_is_locked(db, flow->key, tx)) {
        if (flow->since_us == 0) flow->since_us = world->now_us;
        tx->result = RELAY_FAILED;
        bool waits = world->now_us - flow->since_us < APP_LOCK_US;
        tx_after(world, tx, waits ? TX_BEGIN : TX_END, 10 * MS);
        return;
    }
    tx->keys = UINT32_C(1) << flow->key;
    tx->row = row_of(tx->flow, 0);
    tx->async = flow->async;
    tx->result = flow->ends;
    set(tx, tx->flow, 0, FLOW_DOING);
    emit(world, tx, FLOW_GO, tx->flow, 1);
    if (flow->notes) emit(world, tx, FLOW_NOTE, tx->flow, 0);
    if (flow->deadline_ms > 0)
        tx_change(tx, (struct change){.kind = CHANGE_LATER,
                                      .id = tx->flow,
                                      .late = {.there = true,
                                               .type = RELAY_TYPE(FLOW_OVERDUE, tx->db),
                                               .key = flow->key,
                                               .flow = tx->flow,
                                               .due_us = world->now_us + flow->deadline_ms * MS}});
    tx_after(world, tx, TX_END, flow->open_us);
}

static void begin(struct world *world, uint64_t number, uint64_t unused) {
    (void)unused;
    struct relay_flow *flow = &world->relay->flows[number];
    if (world->healed || !world->relay->dbs[flow->place[0]].up) return;
    struct relay_tx *tx = tx_new(world, flow->place[0]);
    tx->flow = (uint16_t)number;
    tx_after(world, tx, TX_BEGIN, 1);
}

/* ---------------------------------------------------------------- operator */

/* A human's word about one dead letter. False: he leaves it alone. */
static bool act(struct world *world, uint32_t number) {
    struct relay_db *db = &world->relay->dbs[number];
    for (uint32_t i = 0; i < db->open_count; i++) {
        const struct inbox_at at = db->open[i];
        const struct relay_inbox *row = db_inbox(db, at.source, at.handler, at.position);
        if (row->state != INBOX_DEAD || (!world->healed && rng_below(&world->rng, 2) == 0)) continue;
        static const char *const words[] = {"retries", "skips", "compensates"};
        enum letter_act what = rng_below(&world->rng, 2) == 0 ? LETTER_RETRY : LETTER_SKIP;
        if (relay_kind_of(row->what.type) == FLOW_GO && rng_below(&world->rng, 2) == 0) what = LETTER_COMPENSATE;
        if (what == LETTER_RETRY && (world->healed || rng_below(&world->rng, 2) == 0)) flow_mend(world, &row->what);
        world_trace(world, "world", "operator", "%s p%u/p%u/%lld", words[what], number + 1, at.source + 1,
                    (long long)at.position);
        sim_coverage.events_operated++;
        return sql_inbox_act(world, number, &at, what);
    }
    for (uint32_t id = 1; id <= db->event_count; id++) {
        if (!db->events[id - 1].letter || (!world->healed && rng_below(&world->rng, 8) != 0)) continue;
        sim_coverage.events_operated++;
        return sql_letter_act(world, number, id, !world->healed && rng_below(&world->rng, 2) == 0);
    }
    return false;
}

static void operate(struct world *world, uint64_t a, uint64_t b) {
    for (uint32_t p = 0; p < world->options.participants; p++) {
        bool leaves = world->healed ? world->options.relay_leave != 0 : rng_below(&world->rng, 2) == 0;
        for (int i = 0; i < 20 && !leaves && world->relay->dbs[p].up; i++) leaves = !act(world, p);
    }
    uint64_t wait = world->healed ? SECOND : rng_delay(&world->rng, world->options.operate_ms * MS);
    world_after(world, wait, operate, a, b);
}

/* -------------------------------------------------------------------- life */

static void subscribe(struct world *world, uint64_t participant, uint64_t unused) {
    struct relay_db *db = &world->relay->dbs[participant];
    struct change changes[HANDLERS];
    if (!db->up) {
        world_after(world, SECOND, subscribe, participant, unused);
        return;
    }
    for (uint32_t h = 0; h < HANDLERS; h++)
        changes[h] = (struct change){.kind = CHANGE_SUBSCRIBE, .id = h, .number = world->relay->wants[participant][h]};
    db_commit(world, (uint32_t)participant, changes, HANDLERS, true);
}

static void draw_handlers(struct world *world, uint32_t p) {
    uint32_t *wants = world->relay->wants[p], back = rng_below(&world->rng, 3) == 0 ? HANDLER_BACK : HANDLER_MAIN;
    bool audits = rng_below(&world->rng, 4) == 0;
    wants[HANDLER_MAIN] = UINT32_C(1) << RELAY_TYPE(FLOW_GO, p) | UINT32_C(1) << RELAY_TYPE(FLOW_DONE, p);
    for (enum flow_kind kind = FLOW_CANCEL; kind <= FLOW_FAILED; kind++)
        wants[kind == FLOW_DONE ? HANDLER_MAIN : back] |= UINT32_C(1) << RELAY_TYPE(kind, p);
    /* a terminal type, since a late subscriber does not get what somebody else was given before */
    for (uint32_t q = 0; q < world->options.participants && audits; q++)
        wants[HANDLER_AUDIT] |= UINT32_C(1) << RELAY_TYPE(FLOW_ENDED, q);
    uint64_t late = world->options.relay_late_ms;
    world_after(world, late > 0 && rng_below(&world->rng, 2) == 0 ? rng_delay(&world->rng, late * MS) : 0, subscribe, p,
                0);
}

static void draw_flow(struct world *world, uint32_t number) {
    const struct sim_options *o = &world->options;
    struct rng *r = &world->rng;
    struct relay_flow *flow = &world->relay->flows[number];
    flow->steps = (uint8_t)rng_between(r, 2, RELAY_STEPS_MAX);
    flow->key = (uint8_t)rng_below(r, o->relay_keys);
    for (uint32_t s = 0; s < flow->steps; s++) flow->place[s] = (uint8_t)rng_below(r, o->participants);
    if (rng_permille(r, o->flow_refuse_pm)) flow->refuses = (uint8_t)rng_between(r, 1, flow->steps - 1u);
    if (rng_permille(r, o->flow_late_pm)) flow->deadline_ms = rng_between(r, 50, 5000);
    for (uint32_t s = 0; s < flow->steps; s++) {
        for (uint32_t k = 0; k < FLOW_KINDS; k++)
            if (rng_permille(r, o->poison_pm))
                flow->fails[s][k] = rng_below(r, 4) == 0 ? FOR_EVER : (uint8_t)rng_between(r, 1, 6);
    }
    uint64_t fate = rng_below(r, 10);
    flow->ends = fate < 7 ? RELAY_DONE : fate < 9 ? RELAY_QUEUED : RELAY_FAILED;
    flow->notes = rng_below(r, 8) == 0;
    flow->async = rng_below(r, 4) == 0;
    flow->open_us = rng_delay(r, rng_below(r, 8) == 0 ? 2 * SECOND : o->statement_us);
    world_after(world, rng_below(r, o->chaos_ms * MS), begin, number, 0);
}

void relay_flows_start(struct world *world) {
    struct sim_relay *relay = world->relay;
    relay->flow_count = (uint32_t)world->options.flows;
    assert(relay->flow_count <= RELAY_FLOWS_MAX);
    relay->flows = calloc(relay->flow_count, sizeof *relay->flows);
    assert(relay->flows != NULL);
    for (uint32_t p = 0; p < world->options.participants; p++) draw_handlers(world, p);
    for (uint32_t f = 0; f < relay->flow_count; f++) draw_flow(world, f);
    world_after(world, rng_delay(&world->rng, world->options.operate_ms * MS), operate, 0, 0);
}

void relay_flows_stop(struct world *world) {
    free(world->relay->flows);
    world->relay->flows = NULL;
}

/* Until a source has heard of a subscription nobody wants its events: nothing shows that they are not through. Where
 * events were lost with a server nothing goes on until an operator speaks. */
static bool has_heard(const struct world *world, uint32_t source, uint32_t subscriber) {
    const struct sim_relay *relay = world->relay;
    const uint32_t *wants = relay->wants[subscriber];
    uint32_t types = wants[HANDLER_MAIN] | wants[HANDLER_BACK] | wants[HANDLER_AUDIT];

    if (relay->lost[source] || relay->lost[subscriber]) return true;
    for (uint32_t type = 0; type < RELAY_TYPES; type++)
        if ((types >> type & 1) != 0 && relay->dbs[source].route[type][subscriber] < 0) return false;
    return true;
}

static const char *not_heard(const struct world *world) {
    static char why[64];

    for (uint32_t p = 0; p < world->options.participants; p++) {
        for (uint32_t source = 0; source < world->options.participants; source++) {
            if (has_heard(world, source, p)) continue;
            snprintf(why, sizeof why, "p%u has not heard of what p%u subscribes", source + 1, p + 1);
            return why;
        }
    }
    return NULL;
}

/* Something that has not been written yet, or not ended. */
const char *relay_flows_unfinished(struct world *world) {
    for (uint32_t p = 0; p < world->options.participants; p++) {
        const struct relay_db *db = &world->relay->dbs[p];
        if (!db->up) return "a server is down";
        if (memcmp(db->subscriptions, world->relay->wants[p], sizeof db->subscriptions) != 0)
            return "somebody has not subscribed";
        for (uint32_t i = 0; i < RELAY_TX_MAX; i++)
            if (db->tx[i].used) return "a transaction with events is open";
        for (uint32_t i = 0; i < db->late_count; i++)
            if (db->late[i].there) return "an event of later is not written";
    }
    return not_heard(world);
}

/* ------------------------------------------------------- choreography at all */

void relay_start(struct world *world) {
    if (world->options.flows == 0) return;
    world->relay = calloc(1, sizeof *world->relay);
    assert(world->relay != NULL);
    check_relay_start(world);
    relay_dbs_start(world);
    relay_agents_start(world);
    relay_flows_start(world);
}

void relay_stop(struct world *world) {
    if (world->relay == NULL) return;
    relay_agents_stop(world);
    relay_dbs_stop(world);
    relay_flows_stop(world);
    check_relay_stop(world);
    free(world->relay);
    world->relay = NULL;
}

const char *relay_unfinished(struct world *world) {
    if (world->relay == NULL) return NULL;
    const char *why = relay_flows_unfinished(world);
    if (why == NULL) why = relay_agents_unfinished(world);
    return why != NULL ? why : check_relay_unfinished(world);
}

void relay_end(struct world *world) {
    if (world->relay != NULL) check_relay_end(world);
}
