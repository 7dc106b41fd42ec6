/* client.c: see client.h. */
#include "tests/sim/client.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/check.h"
#include "tests/sim/check_saga.h"
#include "tests/sim/coord_host.h"

#define PATIENCE_US (15 * SECOND) /* of an HTTP client with nobody answering */

enum asking { IDLE, SUBMITTED, GETTING };

struct client {
    struct sim_doc docs[SIM_DOCS_MAX];
    uint32_t doc_count, next;
    enum asking asking;
    uint64_t token;            /* of the request under way */
    struct sim_response known; /* gtid of the document under way, if it is known */
    uint32_t attempts;
    bool done;
};

struct sim_clients {
    struct client list[SIM_CLIENTS_MAX];
};

static void turn(struct world *world, uint64_t number, uint64_t token);
static void impatient(struct world *world, uint64_t number, uint64_t token);

/* -------------------------------------------------------------- statements */

void statement_text(const struct pg_statement *s, char text[96]) {
    switch (s->kind) {
    case PG_WRITE:
        snprintf(text, 96, "update account set amount = amount + 1 where id = %u", s->row);
        return;
    case PG_READ:
        snprintf(text, 96, "select amount from account where id = %u", s->row);
        return;
    case PG_FAIL:
        snprintf(text, 96, "insert into refused(id) values (%u)", s->row);
        return;
    case PG_DEFER:
        snprintf(text, 96, "delete from parent where id = %u", s->row);
        return;
    case PG_END:
        snprintf(text, 96, "call commit_and_chain(%u)", s->row);
        return;
    }
    assert(!"statement");
}

bool statement_parse(const char *text, struct pg_statement *ret_statement) {
    const char *digits = strpbrk(text, "=(");
    switch (text[0]) {
    case 'u':
        ret_statement->kind = PG_WRITE;
        digits = strrchr(text, '=');
        break;
    case 's':
        ret_statement->kind = PG_READ;
        break;
    case 'i':
        ret_statement->kind = PG_FAIL;
        digits = strrchr(text, '(');
        break;
    case 'c':
        ret_statement->kind = PG_END;
        digits = strrchr(text, '(');
        break;
    case 'd':
        ret_statement->kind = PG_DEFER;
        break;
    default:
        return false;
    }
    if (digits == NULL) {
        return false;
    }
    ret_statement->row = (uint32_t)strtoul(digits + 1, NULL, 10);
    return ret_statement->row < PG_ROWS_MAX;
}

bool doc_writes(const struct sim_doc *doc, uint32_t index) {
    for (uint32_t i = 0; i < doc->step_count; i++) {
        enum pg_statement_kind kind = doc->steps[i].statement.kind;
        if (doc->steps[i].branch == index && kind != PG_READ && kind != PG_END) {
            return true;
        }
    }
    return false;
}

/* --------------------------------------------------------------- documents */

static void draw_step(struct world *world, struct sim_doc *doc, uint32_t branch) {
    const struct sim_options *o = &world->options;
    struct rng *r = &world->rng;
    struct sim_step *step = &doc->steps[doc->step_count];
    memset(step, 0, sizeof *step);
    step->branch = (uint16_t)branch;
    step->statement.row = (uint32_t)rng_below(r, o->rows);
    step->statement.kind = PG_WRITE;
    if (rng_permille(r, o->read_pm)) {
        step->statement.kind = PG_READ;
    } else if (rng_permille(r, o->fail_pm)) {
        step->statement.kind = PG_FAIL;
    } else if (rng_permille(r, o->defer_pm)) {
        step->statement.kind = PG_DEFER;
    } else if (rng_permille(r, o->break_pm)) {
        step->statement.kind = PG_END;
    }
    for (uint32_t i = 0; i < 2 && doc->step_count > 0; i++) {
        uint16_t other = (uint16_t)rng_below(r, doc->step_count);
        bool twice = step->after_count == 1 && step->after[0] == other;
        if (rng_permille(r, o->after_pm) && doc->steps[other].branch != branch && !twice) {
            step->after[step->after_count++] = other;
        }
    }
    doc->step_count++;
}

static void draw_saga_step(struct world *world, struct sim_doc *doc, enum saga_kind kind) {
    const struct sim_options *o = &world->options;
    struct rng *r = &world->rng;
    struct sim_step *step = &doc->steps[doc->step_count];
    memset(step, 0, sizeof *step);
    step->branch = (uint16_t)rng_below(r, doc->participant_count);
    step->statement.row = (uint32_t)rng_below(r, o->rows);
    step->statement.kind = PG_WRITE;
    step->kind = kind;
    if (kind != SAGA_RETRIABLE && rng_permille(r, o->fail_pm)) {
        step->statement.kind = PG_FAIL;
    } else if (kind != SAGA_RETRIABLE && rng_permille(r, o->defer_pm)) {
        step->statement.kind = PG_DEFER;
    }
    step->do_refers = step->undo_refers = -1;
    doc->step_count++;
}

static void add_after(struct sim_doc *doc, uint32_t index, uint32_t other) {
    struct sim_step *step = &doc->steps[index];
    for (uint32_t i = 0; i < step->after_count; i++) {
        if (step->after[i] == other) {
            return;
        }
    }
    step->after[step->after_count++] = (uint16_t)other;
}

/* Compensatable steps, a pivot behind them, retriable ones behind everything; in the document's order or in parallel.
 */
static void draw_saga(struct world *world, struct sim_doc *doc) {
    struct rng *r = &world->rng;
    bool pivot = rng_permille(r, world->options.pivot_pm), in_order = rng_below(r, 2) == 0;
    uint32_t undoable = (uint32_t)rng_below(r, 4), retriable = (uint32_t)rng_below(r, 3);
    for (uint32_t i = 0; i < undoable; i++) {
        draw_saga_step(world, doc, SAGA_COMPENSATABLE);
    }
    if (pivot) {
        draw_saga_step(world, doc, SAGA_PIVOT);
    }
    for (uint32_t i = 0; i < retriable || doc->step_count == 0; i++) {
        draw_saga_step(world, doc, SAGA_RETRIABLE);
    }
    for (uint32_t i = 1; i < doc->step_count; i++) {
        for (uint32_t other = 0; other < i; other++) {
            bool must = doc->steps[i].kind != doc->steps[other].kind || doc->steps[i].kind == SAGA_PIVOT;
            if (must || (in_order && other + 1 == i) || (!in_order && rng_below(r, 4) == 0)) {
                add_after(doc, i, other);
            }
        }
        struct sim_step *step = &doc->steps[i];
        if (step->after_count > 0 && rng_below(r, 4) == 0) {
            step->do_refers = step->after[rng_below(r, step->after_count)];
            doc->steps[step->do_refers].referenced = true;
        }
        if (step->after_count > 0 && step->kind == SAGA_COMPENSATABLE && rng_below(r, 4) == 0) {
            step->undo_refers = step->after[rng_below(r, step->after_count)];
            doc->steps[step->undo_refers].referenced = true;
        }
    }
    doc->attempts = (uint32_t)world->options.attempts;
    doc->body_length = (uint32_t)rng_between(r, 100, rng_below(r, 10) == 0 ? 8000 : 1000);
}

static void draw_doc(struct world *world, struct client *client, uint32_t number) {
    const struct sim_options *o = &world->options;
    struct rng *r = &world->rng;
    struct sim_doc *doc = &client->docs[client->doc_count++];
    memset(doc, 0, sizeof *doc);
    doc->client = number;
    doc->number = client->doc_count - 1;
    uint32_t order[SIM_PARTICIPANTS_MAX];
    for (uint32_t p = 0; p < o->participants; p++) {
        uint32_t at = (uint32_t)rng_below(r, p + 1);
        order[p] = order[at];
        order[at] = p;
    }
    doc->participant_count = rng_permille(r, o->single_pm) ? 1 : (uint32_t)rng_between(r, 2, o->participants);
    memcpy(doc->participants, order, sizeof order);
    doc->saga = rng_permille(r, o->saga_pm);
    for (uint32_t b = 0; b < doc->participant_count && !doc->saga; b++) {
        draw_step(world, doc, b);
    }
    uint32_t more = doc->saga ? 0 : (uint32_t)rng_below(r, 4);
    for (uint32_t i = 0; i < more; i++) {
        draw_step(world, doc, (uint32_t)rng_below(r, doc->participant_count));
    }
    if (doc->saga) {
        draw_saga(world, doc);
    }
    doc->has_key = rng_permille(r, o->keyed_pm);
    doc->xa = rng_permille(r, o->xa_pm);
    doc->wait_applied = rng_below(r, 3) != 0;
    snprintf(doc->key, sizeof doc->key, "c%u-d%u", number, doc->number);
    if (doc->has_key && doc->number > 0 && client->docs[doc->number - 1].has_key && rng_permille(r, 60)) {
        memcpy(doc->key, client->docs[doc->number - 1].key, sizeof doc->key);
        doc->other_document = true;
    }
    for (size_t i = 0; i < sizeof doc->hash; i++) {
        doc->hash[i] = (uint8_t)(number * 40 + doc->number * 7 + i);
    }
}

/* ------------------------------------------------------------------- doing */

static struct client *client_at(struct world *world, uint64_t number) {
    return &world->clients->list[number];
}

static void trace(struct world *world, uint64_t number, const char *word, const char *detail) {
    char actor[16];
    snprintf(actor, sizeof actor, "c%u", (unsigned)number);
    world_trace(world, actor, word, "%s", detail);
}

static void later(struct world *world, uint64_t number, uint64_t mean_us) {
    struct client *c = client_at(world, number);
    c->asking = IDLE;
    world_after(world, rng_delay(&world->rng, world->healed && mean_us > SECOND ? SECOND : mean_us), turn, number,
                ++c->token);
}

static void next_document(struct world *world, uint64_t number) {
    struct client *c = client_at(world, number);
    c->next++;
    c->attempts = 0;
    memset(&c->known, 0, sizeof c->known);
    if (c->next == c->doc_count) {
        c->done = true;
        c->asking = IDLE;
        c->token++;
        return;
    }
    later(world, number, world->options.think_us);
}

/* The document's fate is not known to its client. */
static void in_doubt(struct world *world, uint64_t number) {
    struct client *c = client_at(world, number);
    const struct sim_doc *doc = &c->docs[c->next];
    if (doc->has_key || c->known.has_gtid) {
        c->attempts++;
        later(world, number, 300 * MS);
    } else {
        trace(world, number, "gives up", "neither key nor gtid");
        next_document(world, number);
    }
}

static void acknowledge(struct world *world, const struct sim_response *response) {
    enum check_ack ack = CHECK_ACK_HAZARD;
    if (response->status == SIM_COMMITTED) {
        ack = CHECK_ACK_COMMITTED;
    } else if (response->status == SIM_APPLIED) {
        ack = CHECK_ACK_APPLIED;
    } else if (response->status == SIM_ABORTED) {
        ack = CHECK_ACK_ABORTED;
    }
    assert(response->has_gtid);
    if (response->incarnation != world->incarnation) {
        return; /* said by a log that is lost */
    }
    if (response->saga) {
        check_saga_acknowledged(world, response->epoch, response->sequence, response->status == SIM_APPLIED);
        return;
    }
    check_acknowledged(world, response->epoch, response->sequence, ack);
}

void client_response(struct world *world, uint32_t number, uint64_t token, const struct sim_response *response) {
    static const char *const names[] = {"committed", "applied",  "aborted", "pending", "hazard",
                                        "not begun", "mismatch", "unknown", "gone"};
    struct client *c = client_at(world, number);
    if (c->token != token || c->asking == IDLE) {
        return;
    }
    char detail[64];
    snprintf(detail, sizeof detail, "%s%s %u.%llu", names[response->status], response->has_gtid ? "" : " -",
             response->epoch, (unsigned long long)response->sequence);
    trace(world, number, "hears", detail);
    c->token++;
    switch (response->status) {
    case SIM_COMMITTED:
    case SIM_APPLIED:
    case SIM_ABORTED:
    case SIM_HAZARD:
        acknowledge(world, response);
        next_document(world, number);
        return;
    case SIM_PENDING:
        if (response->has_gtid) {
            if (response->saga && response->incarnation == world->incarnation) {
                check_saga_told(world, response->epoch, response->sequence);
            }
            c->known = *response;
        }
        in_doubt(world, number);
        return;
    case SIM_GONE:
        in_doubt(world, number);
        return;
    case SIM_NOT_BEGUN:
        sim_coverage.refused++;
        c->attempts++;
        later(world, number, (100 * MS) << (c->attempts < 5 ? c->attempts : 5));
        return;
    case SIM_MISMATCH:
        if (!c->docs[c->next].other_document) {
            world_wrong(world, "client %u: 422 for a key that was used for this document only", number);
        }
        next_document(world, number);
        return;
    case SIM_UNKNOWN:
        c->known.has_gtid = false;
        in_doubt(world, number);
        return;
    }
}

static void impatient(struct world *world, uint64_t number, uint64_t token) {
    struct client *c = client_at(world, number);
    if (c->token != token || c->asking == IDLE) {
        return;
    }
    trace(world, number, "hangs up", "");
    coord_hang_up(world, (uint32_t)number, token);
    c->token++;
    in_doubt(world, number);
}

static void cancels(struct world *world, uint64_t number, uint64_t token) {
    struct client *c = client_at(world, number);
    if (c->token == token && c->asking == SUBMITTED) {
        coord_cancel(world, (uint32_t)number, token);
    }
}

static void turn(struct world *world, uint64_t number, uint64_t token) {
    struct client *c = client_at(world, number);
    if (c->token != token || c->done) {
        return;
    }
    const struct sim_doc *doc = &c->docs[c->next];
    uint64_t request = ++c->token;
    uint64_t patience = PATIENCE_US;
    if (world_fault(world, world->options.impatient_pm)) {
        patience = rng_delay(&world->rng, 500 * MS);
    }
    world_after(world, patience, impatient, number, request);
    char detail[96];
    if (c->known.has_gtid) {
        c->asking = GETTING;
        snprintf(detail, sizeof detail, "%u.%llu", c->known.epoch, (unsigned long long)c->known.sequence);
        trace(world, number, "gets", detail);
        coord_get(world, (uint32_t)number, request, &c->known, doc->wait_applied);
        return;
    }
    c->asking = SUBMITTED;
    int length = snprintf(detail, sizeof detail, "%s %u on", doc->saga ? "saga" : "document", doc->number);
    for (uint32_t i = 0; i < doc->participant_count; i++) {
        length += snprintf(detail + length, sizeof detail - (size_t)length, " p%u%s", doc->participants[i] + 1,
                           doc_writes(doc, i) ? "" : "r");
    }
    snprintf(detail + length, sizeof detail - (size_t)length, "%s%s", doc->has_key ? " key " : "",
             doc->has_key ? doc->key : "");
    trace(world, number, "submits", detail);
    if (world_fault(world, world->options.cancel_pm)) {
        world_after(world, rng_delay(&world->rng, 50 * MS), cancels, number, request);
    }
    coord_submit(world, (uint32_t)number, request, doc);
}

/* --------------------------------------------------------------------- life */

const struct sim_doc *client_doc(const struct world *world, uint32_t client, uint32_t number) {
    assert(client < world->options.clients && number < world->clients->list[client].doc_count);
    return &world->clients->list[client].docs[number];
}

void clients_start(struct world *world) {
    world->clients = calloc(1, sizeof *world->clients);
    assert(world->clients != NULL);
    for (uint32_t i = 0; i < world->options.clients; i++) {
        struct client *c = &world->clients->list[i];
        assert(world->options.transactions >= 1 && world->options.transactions <= SIM_DOCS_MAX);
        for (uint32_t d = 0; d < world->options.transactions; d++) {
            draw_doc(world, c, i);
        }
        later(world, i, world->options.think_us);
    }
}

void clients_stop(struct world *world) {
    free(world->clients);
    world->clients = NULL;
}

const char *clients_unfinished(struct world *world) {
    for (uint32_t i = 0; i < world->options.clients; i++) {
        if (!world->clients->list[i].done) {
            return "a client waits for an answer";
        }
    }
    return NULL;
}
