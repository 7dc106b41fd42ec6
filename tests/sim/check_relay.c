/*
 * check_relay.c: what must be true of choreography, seen from above: each event that a transaction has written has a
 * book, which its payload names, and it is the changes that servers commit which are looked at, whatever the relays
 * think.
 *
 *   if and only if   what is delivered was committed, as it was written, under the position it has
 *   once             a handler acts once on each event
 *   order            what came before it on its key, from there, and for that handler, is through
 *   not lost         in the end everything that somebody wants is through, or a dead letter, or behind one of its key
 *   durable          nothing is acknowledged, nor stored as acknowledged, that does not stand durably in the inbox
 *   at once          a claim takes all that is visible, whatever else is open or prepared
 *   parked           only what has failed, or stands behind such a one of its key; within the bounds of its policy
 *   unwanted         what nobody wants is a dead letter, until somebody does
 *   deadline         an event of later is written before it is forgotten
 *   ends             each saga is completed, compensated, or has a dead letter
 * A failover that has lost what was flushed excuses what was under way, and what that source sends from then on.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/agent_host.h"
#include "tests/sim/check.h"
#include "tests/sim/relay_internal.h"

enum book_state { BOOK_WRITTEN, BOOK_COMMITTED, BOOK_GONE };
enum handled { HANDLED_NOT, HANDLED_DONE, HANDLED_SKIPPED };
struct relay_book {
    struct relay_what what;
    uint8_t source;
    enum book_state state;
    bool excused, letter;
    uint8_t handled[SIM_PARTICIPANTS_MAX][HANDLERS];
    bool seen[SIM_PARTICIPANTS_MAX][HANDLERS];
    int before; /* the one before it on its key, -1: none */
    int64_t position;
};

struct flow_book {
    bool excused, dead, skipped, overdue;
    uint8_t done[RELAY_STEPS_MAX], undone[RELAY_STEPS_MAX];
};

struct relay_checks {
    int last[SIM_PARTICIPANTS_MAX][RELAY_KEYS_MAX];
    int64_t acknowledged[SIM_PARTICIPANTS_MAX][SIM_PARTICIPANTS_MAX]; /* by, to: looked at up to here */
    struct flow_book flows[RELAY_FLOWS_MAX];
};

static struct relay_checks *checks(struct world *world) {
    return world->relay->checks;
}

static struct relay_book *book_of(struct world *world, uint32_t number) {
    if (number >= world->relay->book_count) world_wrong(world, "an event %u that nobody has written", number);
    return &world->relay->books[number];
}

static const char *book_name(const struct relay_book *book) {
    static char names[2][96];
    static unsigned turn;
    char *name = names[turn++ % 2];
    snprintf(name, sizeof names[0], "p%u/%lld %s of f%u step %u, k%u version %lld", book->source + 1u,
             (long long)book->position, relay_type_name(book->what.type), book->what.flow, book->what.step,
             book->what.key, (long long)book->what.version);
    return name;
}

void check_relay_start(struct world *world) {
    struct relay_checks *all = calloc(1, sizeof *all);
    assert(all != NULL);
    memset(all->last, 0xff, sizeof all->last);
    world->relay->checks = all;
}

void check_relay_stop(struct world *world) {
    free(world->relay->checks);
    free(world->relay->books);
}

uint32_t check_relay_emitted(struct world *world, uint32_t db, const struct relay_what *what) {
    struct sim_relay *relay = world->relay;
    if (relay->book_count == relay->book_capacity) {
        relay->book_capacity = relay->book_capacity == 0 ? 128 : relay->book_capacity * 2;
        relay->books = realloc(relay->books, relay->book_capacity * sizeof *relay->books);
        assert(relay->books != NULL);
    }
    struct relay_book *book = &relay->books[relay->book_count];
    *book = (struct relay_book){.what = *what, .source = (uint8_t)db, .before = -1};
    book->what.book = relay->book_count;
    book->excused = relay->lost[db] || checks(world)->flows[what->flow].excused;
    if (book->excused) checks(world)->flows[what->flow].excused = true;
    return relay->book_count++;
}

/* Does this handler of `db` get the event, by what its source knows? */
static bool wants(const struct world *world, const struct relay_book *book, uint32_t db, uint32_t handler) {
    int64_t start = world->relay->dbs[book->source].route[book->what.type][db];
    return (world->relay->wants[db][handler] >> book->what.type & 1) != 0 && start >= 0 && start < book->position;
}

/* ---------------------------------------------------------------- deliveries */

void check_relay_delivered(struct world *world, uint32_t db, uint32_t source, int64_t position,
                           const struct relay_what *what) {
    const struct relay_book *book = book_of(world, what->book);
    const struct relay_what *was = &book->what;
    if (what->flow != was->flow || what->type != was->type || what->key != was->key || what->step != was->step ||
        what->version != was->version || source != book->source)
        world_wrong(world, "p%u is given %s as something else", db + 1, book_name(book));
    if (book->excused) return;
    if (book->state != BOOK_COMMITTED)
        world_wrong(world, "p%u is given %s, which was never committed", db + 1, book_name(book));
    if (position != book->position)
        world_wrong(world, "p%u is given %s under position %lld", db + 1, book_name(book), (long long)position);
}

static void check_order(struct world *world, const struct relay_book *book, uint32_t db, uint32_t handler) {
    for (int b = book->before; b >= 0; b = world->relay->books[b].before) {
        const struct relay_book *other = &world->relay->books[b];
        if (other->excused || !wants(world, other, db, handler)) continue;
        if (other->handled[db][handler] == HANDLED_NOT) {
            const char *first = book_name(book), *second = book_name(other);
            world_wrong(world, "p%u acts on %s before %s", db + 1, first, second);
        }
        return; /* what was before that was looked at then */
    }
}

/* Something of its key before it is not through. */
static bool stands_behind(struct world *world, const struct relay_book *book, uint32_t db, uint32_t handler) {
    for (int b = book->before; b >= 0; b = world->relay->books[b].before) {
        const struct relay_book *other = &world->relay->books[b];
        if (other->excused || (other->handled[db][handler] == HANDLED_NOT && other->seen[db][handler])) return true;
    }
    return false;
}

void check_relay_queued(struct world *world, uint32_t db, uint32_t handler, const struct relay_what *what) {
    const struct relay_book *book = book_of(world, what->book);
    if (!book->excused && !stands_behind(world, book, db, handler))
        world_wrong(world, "p%u parks %s behind nothing", db + 1, book_name(book));
}

static void trace(struct world *world, uint32_t db, const char *word, const struct relay_book *book,
                  const char *detail) {
    char actor[8];
    snprintf(actor, sizeof actor, "db%u", db);
    world_trace(world, actor, word, "%s%s", book_name(book), detail);
}

/* The handler has run, and commits. */
void check_relay_acts(struct world *world, uint32_t db, uint32_t handler, const struct relay_what *what) {
    const struct relay_book *book = book_of(world, what->book);
    if (!book->excused && book->handled[db][handler] != HANDLED_NOT)
        world_wrong(world, "p%u acts twice on %s", db + 1, book_name(book));
}

static void inbox_changed(struct world *world, uint32_t db, const struct change *c) {
    static const char *const words[] = {"", "handles", "parks", "dead", "skipped"};
    static const char *const handlers[] = {"", ", back", ", audit"};
    if (c->inbox.state == INBOX_NOTHING) return;
    struct relay_book *book = book_of(world, c->inbox.what.book);
    trace(world, db, words[c->inbox.state], book, handlers[c->at.handler]);
    struct flow_book *flow = &checks(world)->flows[book->what.flow];
    uint8_t *handled = &book->handled[db][c->at.handler];
    book->seen[db][c->at.handler] = true;
    if (c->inbox.state == INBOX_DEAD) flow->dead = true;
    if (c->inbox.state == INBOX_SKIPPED) {
        flow->dead = true;
        flow->skipped = flow->skipped || !c->is;
        *handled = HANDLED_SKIPPED;
    }
    if (book->excused) {
        if (c->inbox.state == INBOX_DONE) *handled = HANDLED_DONE;
        return;
    }
    if (c->inbox.state != INBOX_DONE) return;
    check_order(world, book, db, c->at.handler);
    *handled = HANDLED_DONE;
    sim_coverage.events_handled++;
}

static void step_changed(struct world *world, const struct change *c) {
    struct flow_book *flow = &checks(world)->flows[c->id];
    uint8_t *count = c->state == FLOW_DOING ? flow->done : c->state == FLOW_UNDONE ? flow->undone : NULL;
    if (count != NULL && ++count[c->step] > 1 && !flow->excused)
        world_wrong(world, "step %u of f%u takes effect twice", c->step, c->id);
    sim_coverage.flows += c->step == 0 && c->state == FLOW_DOING ? 1u : 0u;
}

void check_relay_committed(struct world *world, uint32_t db, const struct change *c) {
    struct relay_book *book;
    switch (c->kind) {
    case CHANGE_EVENT:
        book = book_of(world, c->what.book);
        book->state = BOOK_COMMITTED;
        book->before = checks(world)->last[db][c->what.key];
        checks(world)->last[db][c->what.key] = (int)c->what.book;
        trace(world, db, "emits", book, "");
        if (relay_kind_of(c->what.type) == FLOW_OVERDUE) checks(world)->flows[c->what.flow].overdue = true;
        return;
    case CHANGE_POSITION:
        book = book_of(world, world->relay->dbs[db].events[c->id - 1].what.book);
        book->position = c->number;
        if (c->number == 0 && book->what.book < world->relay->first_open) /* a letter that somebody wants after all */
            world->relay->first_open = book->what.book;
        trace(world, db, "position", book, "");
        return;
    case CHANGE_LETTER:
        book = book_of(world, world->relay->dbs[db].events[c->id - 1].what.book);
        book->letter = book->letter || c->is;
        if (c->is && relay_kind_of(book->what.type) != FLOW_NOTE) checks(world)->flows[book->what.flow].dead = true;
        return;
    case CHANGE_INBOX:
        inbox_changed(world, db, c);
        return;
    case CHANGE_APP:
        step_changed(world, c);
        return;
    case CHANGE_LATER:
        if (!c->late.there && !checks(world)->flows[c->id].overdue && !checks(world)->flows[c->id].excused)
            world_wrong(world, "the deadline of f%u has passed, and nothing was written", c->id);
        return;
    case CHANGE_STREAM:
    case CHANGE_LAST:
    case CHANGE_ROUTE:
    case CHANGE_PEER:
    case CHANGE_FORWARD:
    case CHANGE_SUBSCRIBE:
    case CHANGE_LIFE:
        return;
    }
}

void check_relay_undone(struct world *world, uint32_t db, const struct change *c, bool was_committed) {
    struct relay_book *book = c->kind == CHANGE_EVENT ? book_of(world, c->what.book) : NULL;
    if (book != NULL) {
        if (was_committed && book->position != 0 && !book->excused)
            world_wrong(world, "%s has a position, and its transaction was not durable", book_name(book));
        book->state = BOOK_GONE;
    }
    if (!was_committed) return;
    if (book != NULL) checks(world)->last[db][c->what.key] = book->before;
    if (c->kind == CHANGE_INBOX && c->inbox.state == INBOX_DONE)
        book_of(world, c->inbox.what.book)->handled[db][c->at.handler] = HANDLED_NOT;
    if (c->kind == CHANGE_APP && c->state == FLOW_DOING) checks(world)->flows[c->id].done[c->step]--;
    if (c->kind == CHANGE_APP && c->state == FLOW_UNDONE) checks(world)->flows[c->id].undone[c->step]--;
}

void check_relay_lost(struct world *world, uint32_t db) {
    struct sim_relay *relay = world->relay;
    sim_coverage.events_lost++;
    relay->lost[db] = true;
    for (uint32_t b = 0; b < relay->book_count; b++) {
        relay->books[b].excused = true;
        checks(world)->flows[relay->books[b].what.flow].excused = true;
    }
}

void check_relay_reported(struct world *world, uint32_t db) {
    (void)world;
    (void)db;
}

/* --------------------------------------------------------- acknowledgements */

static void check_stored(struct world *world, uint32_t db, uint32_t source, int64_t from, int64_t upto,
                         const char *says) {
    const struct relay_db *at = &world->relay->dbs[source];
    if (upto > at->last && !world->relay->lost[source])
        world_wrong(world, "p%u %s %lld of p%u, which has given out %lld", db + 1, says, (long long)upto, source + 1,
                    (long long)at->last);
    for (int64_t position = from + 1; position <= upto && position <= at->last; position++) {
        uint32_t id = at->by_position[position - 1];
        const struct relay_book *book = id == 0 ? NULL : book_of(world, at->events[id - 1].what.book);
        for (uint32_t h = 0; book != NULL && !book->excused && h < HANDLERS; h++) {
            if (!wants(world, book, db, h)) continue;
            const struct relay_inbox *row = db_inbox(&world->relay->dbs[db], source, h, position);
            if (row == NULL ? book->handled[db][h] == HANDLED_NOT : !db_is_durable(&world->relay->dbs[db], row))
                world_wrong(world, "p%u %s %s, which it has not stored", db + 1, says, book_name(book));
        }
    }
}

void check_relay_acknowledges(struct world *world, uint32_t db, uint32_t source, int64_t upto) {
    int64_t *looked = &checks(world)->acknowledged[db][source];
    if (world->relay->lost[db] || world->relay->lost[source]) return;
    check_stored(world, db, source, *looked, upto, "acknowledges");
    if (upto > *looked) *looked = upto;
}

void check_relay_stores(struct world *world, uint32_t db, uint32_t subscriber, int64_t upto) {
    const struct relay_db *at = &world->relay->dbs[db];
    if (world->relay->lost[db] || world->relay->lost[subscriber]) return;
    check_stored(world, subscriber, db, at->forward[subscriber], upto, "is taken to have stored");
}

/* -------------------------------------------------------------------- parking */

void check_relay_parks(struct world *world, uint32_t db, const struct relay_request *request, uint64_t bound_ms) {
    if (request->wait_ms > bound_ms)
        world_wrong(world, "p%u lets p%u/%lld wait for %u ms, more than ever", db + 1, request->peer + 1,
                    (long long)request->position, request->wait_ms);
}

void check_relay_attempts(struct world *world, uint32_t db, const struct inbox_at *at) {
    const struct relay_inbox *row = db_inbox(&world->relay->dbs[db], at->source, at->handler, at->position);
    uint32_t most = (uint32_t)world->options.relay_attempts;
    if (row != NULL && row->attempts >= most && row->state == INBOX_WAITING)
        world_wrong(world, "p%u/%lld has failed %u times at p%u and is to be tried again", at->source + 1u,
                    (long long)at->position, row->attempts, db + 1);
}

/* ---------------------------------------------------------------------- ends */

static bool dead_before(struct world *world, const struct relay_book *book, uint32_t db, uint32_t handler) {
    for (int b = book->before; b >= 0; b = world->relay->books[b].before) {
        const struct relay_book *other = &world->relay->books[b];
        const struct relay_inbox *row = db_inbox(&world->relay->dbs[db], book->source, handler, other->position);
        if (row != NULL && row->state == INBOX_DEAD && row->what.book == other->what.book) return true;
    }
    return false;
}

/* It is where it will stay. */
static bool is_through(struct world *world, const struct relay_book *book, uint32_t db, uint32_t handler) {
    if (book->handled[db][handler] != HANDLED_NOT) return true;
    const struct relay_inbox *row = db_inbox(&world->relay->dbs[db], book->source, handler, book->position);
    if (world->options.relay_leave == 0 || row == NULL) return false;
    if (row->state == INBOX_DEAD) return true;
    if (!dead_before(world, book, db, handler)) return false;
    checks(world)->flows[book->what.flow].dead = true;
    return true;
}

static const char *why_open(struct world *world, const struct relay_book *book) {
    static char why[160];
    if (book->state != BOOK_COMMITTED || book->excused) return NULL;
    if (book->position == 0) {
        snprintf(why, sizeof why, "%s has no position", book_name(book));
        return why;
    }
    for (uint32_t p = 0; p < world->options.participants; p++) {
        for (uint32_t h = 0; h < HANDLERS; h++) {
            if (!wants(world, book, p, h) || is_through(world, book, p, h)) continue;
            snprintf(why, sizeof why, "%s is not through at p%u", book_name(book), p + 1);
            return why;
        }
    }
    return NULL;
}

static const char *acknowledgement_missing(struct world *world) {
    static char why[96];
    for (uint32_t p = 0; p < world->options.participants; p++) {
        const struct relay_db *db = &world->relay->dbs[p];
        for (int64_t at = db->last; at > 0 && !world->relay->lost[p]; at--) {
            uint32_t id = db->by_position[at - 1];
            for (uint32_t q = 0; id != 0 && q < world->options.participants; q++) {
                int64_t start = db->route[db->events[id - 1].what.type][q];
                if (start < 0 || start >= at || db->forward[q] >= at || world->relay->lost[q]) continue;
                snprintf(why, sizeof why, "p%u has not stored that p%u has acknowledged %lld", p + 1, q + 1,
                         (long long)at);
                return why;
            }
            if (at + 64 < db->last) break; /* the last ones tell */
        }
    }
    return NULL;
}

/* NULL: it has an end. */
static const char *why_no_end(struct world *world, uint16_t number) {
    static char why[64];
    uint32_t home = flow_place(world, number, 0);
    enum flow_state state = (enum flow_state)world->relay->dbs[home].app[number][0];
    const struct flow_book *flow = &checks(world)->flows[number];
    if (flow->excused || flow->dead || state == FLOW_NONE || state == FLOW_COMPLETED || state == FLOW_UNDONE)
        return NULL;
    snprintf(why, sizeof why, "saga f%u has no end, its row says %d", number, (int)state);
    return why;
}

const char *check_relay_unfinished(struct world *world) {
    struct sim_relay *relay = world->relay;
    for (; relay->first_open < relay->book_count; relay->first_open++) {
        const char *why = why_open(world, &relay->books[relay->first_open]);
        if (why != NULL) return why;
    }
    for (uint16_t f = 0; f < relay->flow_count; f++) {
        const char *why = why_no_end(world, f);
        if (why != NULL) return why;
    }
    return acknowledgement_missing(world);
}

static void check_flow(struct world *world, uint16_t number) {
    const struct flow_book *flow = &checks(world)->flows[number];
    uint32_t steps = flow_steps(world, number);
    enum flow_state home = (enum flow_state)world->relay->dbs[flow_place(world, number, 0)].app[number][0];
    sim_coverage.flows_completed += home == FLOW_COMPLETED ? 1u : 0u;
    sim_coverage.flows_compensated += home == FLOW_UNDONE ? 1u : 0u;
    sim_coverage.flows_dead += flow->dead && home != FLOW_COMPLETED && home != FLOW_UNDONE ? 1u : 0u;
    if (flow->excused || flow->skipped) return;
    for (uint32_t s = 1; s < steps; s++) {
        enum flow_state state = (enum flow_state)world->relay->dbs[flow_place(world, number, s)].app[number][s];
        if (home == FLOW_COMPLETED && state != FLOW_DOING)
            world_wrong(world, "saga f%u is completed, and its step %u is not done but %d", number, s, (int)state);
        if (home == FLOW_UNDONE && state == FLOW_DOING)
            world_wrong(world, "saga f%u is compensated, and its step %u is in force", number, s);
    }
}

static bool somebody_wants(const struct world *world, const struct relay_book *book) {
    for (uint32_t p = 0; p < world->options.participants; p++)
        if (world->relay->dbs[book->source].route[book->what.type][p] >= 0) return true;
    return false;
}

static void check_wanted(struct world *world, const struct relay_book *book) {
    bool wanted = somebody_wants(world, book), terminal = relay_kind_of(book->what.type) == FLOW_ENDED;
    const struct relay_db *db = &world->relay->dbs[book->source];
    if (!wanted && !terminal && !book->letter)
        world_wrong(world, "nobody wants %s, and it is no dead letter", book_name(book));
    if (wanted && db->events[db->by_position[book->position - 1] - 1].letter)
        world_wrong(world, "somebody wants %s, and it is a dead letter", book_name(book));
}

/* A claim takes all that can be seen, whatever else is open. */
void check_relay_claimed(struct world *world, uint32_t db, uint32_t given, uint32_t most) {
    if (given < most && world->relay->dbs[db].unclaimed > 0)
        world_wrong(world, "a claim at p%u leaves %u events without a position", db + 1,
                    world->relay->dbs[db].unclaimed);
}

void check_relay_end(struct world *world) {
    for (uint32_t b = 0; b < world->relay->book_count; b++) {
        const struct relay_book *book = &world->relay->books[b];
        if (book->state == BOOK_COMMITTED && !book->excused) check_wanted(world, book);
    }
    for (uint16_t f = 0; f < world->relay->flow_count; f++) check_flow(world, f);
}
