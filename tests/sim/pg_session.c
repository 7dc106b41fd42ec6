/*
 * pg_session.c: requests of agents, and the backends that work on them. See pg.h.
 *
 * A request travels (op_arrive), acts, and its answer travels back (op_deliver). Runs are pipelines: the backend works
 * on item after item, each taking time, whether or not its client still lives; session_step() is the one place where a
 * backend does something.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "lockstep/ids.h"
#include "tests/sim/agent_host.h"
#include "tests/sim/check.h"
#include "tests/sim/check_saga.h"
#include "tests/sim/pg_internal.h"
#include "tests/sim/relay.h"

#define NOT_DROPPED UINT32_MAX
#define POLL_US (5 * MS)          /* how often a wait that has no queue is looked at */
#define SETTLE_LOCK_US (500 * MS) /* lock_timeout of a tombstone */
#define EOF_NOTICED_US (2 * MS)   /* an idle backend notices its client's death about this fast */

static void op_arrive(struct world *world, uint64_t slot, uint64_t serial);
static void session_step(struct world *world, uint64_t slot, uint64_t turn);

/* ---------------------------------------------------------------- requests */

struct pg_op *pg_new_op(struct world *world, enum pg_op_kind kind, uint32_t participant, uint64_t life) {
    struct sim_pg *pg = world->pg;
    struct pg_op *op = calloc(1, sizeof *op);
    assert(op != NULL);
    op->kind = kind;
    op->participant = participant;
    op->life = life;
    op->serial = ++pg->next_serial;
    for (uint32_t i = 0; i < OPS_MAX; i++) {
        op->slot = (uint32_t)((op->serial + i) % OPS_MAX);
        if (pg->ops[op->slot] == NULL) {
            pg->ops[op->slot] = op;
            return op;
        }
    }
    world_wrong(world, "an agent has more than %u requests under way", OPS_MAX);
}

static struct pg_op *op_find(struct world *world, uint64_t slot, uint64_t serial) {
    struct pg_op *op = world->pg->ops[slot];
    return op != NULL && op->serial == serial ? op : NULL;
}

void pg_op_free(struct pg_op *op) {
    free(op->scan);
    free(op->kept);
    free(op->forget);
    free(op);
}

static void op_free(struct world *world, struct pg_op *op) {
    assert(world->pg->ops[op->slot] == op);
    world->pg->ops[op->slot] = NULL;
    pg_op_free(op);
}

static uint64_t way(struct world *world) {
    return rng_delay(&world->rng, world->healed ? 50 : world->options.finish_us / 4);
}
static uint64_t work(struct world *world, uint64_t mean) {
    return rng_delay(&world->rng, world->healed && mean > MS ? MS : mean);
}

static void op_deliver(struct world *world, uint64_t slot, uint64_t serial) {
    struct pg_op *op = op_find(world, slot, serial);
    if (op == NULL) {
        return;
    }
    uint64_t paused = op->orphan ? 0 : agent_host_paused_until(world, op->participant, op->life);
    if (paused > world->now_us) {
        world_after(world, paused - world->now_us, op_deliver, slot, serial);
        return;
    }
    if (!op->orphan) {
        agent_host_answer(world, op->participant, op->life, op->branch, &op->event);
    }
    op_free(world, op);
}

/* What the agent's host reports when it gets no answer. */
static void op_set_failed(struct pg_op *op) {
    struct agent_event *e = &op->event;
    memset(e, 0, sizeof *e);
    switch (op->kind) {
    case PG_LOCK:
        e->kind = AEV_DB_LOCK;
        e->lock.result = AGENT_LOCK_FAILED;
        break;
    case PG_CLEAN:
        e->kind = AEV_DB_CLEAN;
        break;
    case PG_IDENTITY:
        e->kind = AEV_DB_IDENTITY;
        break;
    case PG_FENCE:
        e->kind = AEV_DB_FENCE;
        break;
    case PG_SCAN:
        e->kind = AEV_DB_SCAN;
        break;
    case PG_RUN:
        e->kind = AEV_DB_RUN;
        e->run.session = AGENT_SESSION_LOST;
        break;
    case PG_COMMIT1:
        e->kind = AEV_DB_COMMIT1;
        e->commit1.answer.lost = true;
        e->commit1.session = AGENT_SESSION_LOST;
        break;
    case PG_ROLLBACK:
        e->kind = AEV_DB_ROLLBACK;
        e->rollback.session = AGENT_SESSION_LOST;
        break;
    case PG_STOP:
        e->kind = AEV_DB_STOP;
        break;
    case PG_FINISH:
        e->kind = AEV_DB_FINISH;
        e->finish.answer.lost = true;
        break;
    case PG_PROVE:
        e->kind = AEV_DB_PROVE;
        break;
    case PG_READ_KEY:
        e->kind = AEV_DB_READ_KEY;
        break;
    case PG_SETTLE:
        e->kind = AEV_DB_SETTLE;
        e->settled.result = AGENT_SETTLE_FAILED;
        break;
    case PG_KEPT:
        e->kind = AEV_DB_KEPT;
        break;
    case PG_FORGET:
        e->kind = AEV_DB_FORGET;
        break;
    case PG_RELEASE:
        assert(!"a release has no answer");
        break;
    }
}

static void op_answer(struct world *world, struct pg_op *op) {
    op->acted = true;
    if (op->lost_after) {
        op_set_failed(op);
    }
    op->event.op = op->op;
    world_after(world, way(world), op_deliver, op->slot, op->serial);
}

static void op_fail(struct world *world, struct pg_op *op) {
    op_set_failed(op);
    op_answer(world, op);
}

/* Answers LOST now, while the backend works on: its later answer has no reader. */
static void op_detach(struct world *world, struct pg_op *op) {
    struct pg_op *copy = pg_new_op(world, op->kind, op->participant, op->life);
    copy->op = op->op;
    copy->branch = op->branch;
    copy->orphan = op->orphan;
    op->orphan = true;
    op_fail(world, copy);
}

/* ---------------------------------------------------------------- sessions */

static int session_slot(struct world *world, const struct session *s) {
    return (int)(s - world->pg->sessions);
}

static struct session *session_find(struct world *world, uint32_t participant, uint64_t life, uint64_t branch,
                                    bool control) {
    for (uint32_t i = 0; i < SESSIONS_MAX; i++) {
        struct session *s = &world->pg->sessions[i];
        if (s->used && !s->client_gone && s->participant == participant && s->life == life && s->control == control &&
            s->branch == branch) {
            return s;
        }
    }
    return NULL;
}

static struct session *session_new(struct world *world, uint32_t participant, uint64_t life, uint64_t branch,
                                   bool control) {
    for (uint32_t i = 0; i < SESSIONS_MAX; i++) {
        struct session *s = &world->pg->sessions[i];
        if (!s->used) {
            uint64_t turn = s->turn + 1;
            memset(s, 0, sizeof *s);
            s->used = true;
            s->control = control;
            s->participant = participant;
            s->life = life;
            s->branch = branch;
            s->serial = ++world->pg->next_serial;
            s->turn = turn;
            s->xact = NO_XACT;
            s->waits_for = -1;
            s->drop_at = NOT_DROPPED;
            return s;
        }
    }
    world_wrong(world, "more than %u sessions on the servers", SESSIONS_MAX);
}

/* The backend exits: its open transaction is rolled back. */
static void session_end(struct world *world, struct session *s, const char *how) {
    int slot = session_slot(world, s);
    if (s->waits_for >= 0) {
        row_leave_queue(world, s->participant, s->waits_for, slot);
        s->waits_for = -1;
    }
    struct database *db = &world->pg->databases[s->participant];
    if (db->advisory == slot) {
        db->advisory = -1;
    }
    struct pg_op *run = s->run;
    int xact = s->xact;
    s->used = false;
    s->turn++;
    s->run = NULL;
    s->xact = NO_XACT;
    if (xact != NO_XACT) {
        xact_abort(world, s->participant, xact, how);
    }
    if (run != NULL) {
        op_fail(world, run);
    }
}

static void session_notices_eof(struct world *world, uint64_t slot, uint64_t serial) {
    struct session *s = &world->pg->sessions[slot];
    if (s->used && s->serial == serial && s->client_gone && s->run == NULL) {
        session_end(world, s, "client gone");
    }
}

/* client_connection_check_interval: looks at the socket while it works. */
static void session_checks_client(struct world *world, uint64_t slot, uint64_t serial) {
    struct session *s = &world->pg->sessions[slot];
    if (s->used && s->serial == serial && s->client_gone && s->run != NULL &&
        (s->at >= s->item_count || s->items[s->at].kind != AGENT_ITEM_PREPARE)) {
        session_end(world, s, "client gone");
    }
}

static void session_lose_client(struct world *world, struct session *s) {
    if (s->client_gone) {
        return;
    }
    s->client_gone = true;
    uint64_t slot = (uint64_t)session_slot(world, s);
    if (s->run == NULL) {
        world_after(world, rng_delay(&world->rng, EOF_NOTICED_US), session_notices_eof, slot, s->serial);
    } else if (world->options.check_interval_ms > 0) {
        world_after(world, world->options.check_interval_ms * MS, session_checks_client, slot, s->serial);
    }
}

void pg_client_gone(struct world *world, uint32_t participant, uint64_t life) {
    for (uint32_t i = 0; i < SESSIONS_MAX; i++) {
        struct session *s = &world->pg->sessions[i];
        if (s->used && s->participant == participant && s->life == life) {
            session_lose_client(world, s);
        }
    }
    for (uint32_t i = 0; i < OPS_MAX; i++) {
        struct pg_op *op = world->pg->ops[i];
        if (op != NULL && op->participant == participant && op->life == life) {
            op->orphan = true;
        }
    }
}

uint32_t pg_leftovers(const struct world *world, uint32_t participant, uint64_t life) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < SESSIONS_MAX; i++) {
        const struct session *s = &world->pg->sessions[i];
        count += s->used && s->participant == participant && s->life != life &&
                         s->serial <= world->pg->databases[participant].inherited
                     ? 1u
                     : 0u;
    }
    return count;
}

static void control_lost(struct world *world, uint64_t participant, uint64_t life) {
    uint64_t paused = agent_host_paused_until(world, (uint32_t)participant, life);
    if (paused > world->now_us) {
        world_after(world, paused - world->now_us, control_lost, participant, life);
        return;
    }
    agent_host_control_lost(world, (uint32_t)participant, life);
}

void sessions_server_gone(struct world *world, uint32_t participant) {
    struct sim_pg *pg = world->pg;
    for (uint32_t i = 0; i < SESSIONS_MAX; i++) {
        struct session *s = &pg->sessions[i];
        if (!s->used || s->participant != participant) {
            continue;
        }
        if (s->waits_for >= 0) {
            row_leave_queue(world, participant, s->waits_for, (int)i);
        }
        s->used = false;
        s->turn++;
        if (s->run != NULL) {
            op_fail(world, s->run);
            s->run = NULL;
        }
        if (s->control && !s->client_gone) {
            world_after(world, way(world), control_lost, participant, s->life);
        }
    }
    pg->databases[participant].advisory = -1;
    for (uint32_t i = 0; i < OPS_MAX; i++) {
        struct pg_op *op = pg->ops[i];
        if (op != NULL && op->participant == participant && op->acted && rng_below(&world->rng, 2) == 0) {
            uint64_t number = op->op;
            op_set_failed(op); /* the answer did not get out */
            op->event.op = number;
        }
    }
}

/* The control session breaks while the server lives. The backend stays until it notices. */
static void control_drops(struct world *world, uint64_t slot, uint64_t serial) {
    struct session *s = &world->pg->sessions[slot];
    if (!s->used || s->serial != serial || s->client_gone || world->healed) {
        return;
    }
    session_lose_client(world, s);
    world_after(world, way(world), control_lost, s->participant, s->life);
}

/* ------------------------------------------------------------ the pipeline */

static void plan(struct session *s, const struct pg_op *op) {
    s->item_count = 0;
    s->at = 0;
#define ADD(what, which)                        \
    s->items[s->item_count++] = (struct item) { \
        what, which                             \
    }
    if (op->first) {
        ADD(AGENT_ITEM_BEGIN, 0);
        ADD(AGENT_ITEM_MARKER, 0);
        if (op->one_phase) {
            ADD(AGENT_ITEM_OUTCOME_ROW, 0);
        }
        if (op->saga.name[0] != '\0') {
            ADD(AGENT_ITEM_BARRIER, 0);
        }
    }
    for (uint32_t i = 0; i < op->statement_count; i++) {
        ADD(AGENT_ITEM_STATEMENT, i);
    }
    if (op->last) {
        ADD(AGENT_ITEM_CONSTRAINTS, 0);
        ADD(AGENT_ITEM_GUARD, 0);
        if (!op->one_phase) {
            ADD(AGENT_ITEM_PREPARE, 0);
            ADD(AGENT_ITEM_LSN, 0);
        }
    }
#undef ADD
    assert(s->item_count <= ITEMS_MAX);
}

static void session_next(struct world *world, struct session *s) {
    uint64_t mean = world->options.statement_us;
    if (s->at < s->item_count && s->items[s->at].kind == AGENT_ITEM_PREPARE) {
        mean = world->options.finish_us;
    } else if (s->at < s->item_count && s->items[s->at].kind == AGENT_ITEM_LSN) {
        mean = world->options.position_us;
    } else if (s->at < s->item_count && s->items[s->at].kind != AGENT_ITEM_STATEMENT) {
        mean = 20;
    }
    uint64_t delay = work(world, mean);
    if (world_fault(world, world->options.stall_pm)) {
        delay += rng_delay(&world->rng, SECOND);
        s->stalled_until_us = world->now_us + delay;
        sim_coverage.stalls++;
    }
    world_after(world, delay, session_step, (uint64_t)session_slot(world, s), ++s->turn);
}

static void run_ends(struct world *world, struct session *s) {
    struct pg_op *op = s->run;
    s->run = NULL;
    s->turn++;
    op->event.kind = AEV_DB_RUN;
    op->event.run.session = s->tx == TX_OPEN ? AGENT_SESSION_OPEN : AGENT_SESSION_IDLE;
    op->event.run.rows = op->rows;
    op_answer(world, op);
    if (s->client_gone) {
        session_end(world, s, "client gone");
    }
}

/* An item failed: the rest of the pipeline is skipped and the host sends ROLLBACK. */
static void run_fails(struct world *world, struct session *s, const char *sqlstate, const char *message) {
    struct pg_op *op = s->run;
    struct agent_run *run = &op->event.run;
    run->failed = s->items[s->at].kind;
    if (run->failed == AGENT_ITEM_STATEMENT) {
        run->failed_step = op->statements[s->items[s->at].statement].step;
    }
    run->sqlstate = sqlstate;
    run->message = message;
    run->has_barrier = run->has_barrier && run->failed == AGENT_ITEM_BARRIER;
    s->tx = TX_IDLE;
    if (s->xact != NO_XACT) {
        int xact = s->xact;
        s->xact = NO_XACT;
        xact_abort(world, s->participant, xact, sqlstate);
    }
    run_ends(world, s);
}

static void lock_times_out(struct world *world, uint64_t slot, uint64_t turn) {
    struct session *s = &world->pg->sessions[slot];
    if (s->used && s->turn == turn && s->waits_for >= 0) {
        int holder = world->pg->databases[s->participant].holder[s->waits_for];
        if (holder != NO_XACT && xact_at(world, s->participant, holder)->state == XACT_PREPARED) {
            check_waited_for(world, xact_at(world, s->participant, holder)->gtid, s->participant);
        }
        row_leave_queue(world, s->participant, s->waits_for, (int)slot);
        s->waits_for = -1;
        run_fails(world, s, "55P03", "canceling statement due to lock timeout");
    }
}

static void statement_times_out(struct world *world, uint64_t slot, uint64_t op_serial) {
    struct session *s = &world->pg->sessions[slot];
    if (!s->used || s->run == NULL || s->run->serial != op_serial || s->at >= s->item_count) {
        return;
    }
    enum agent_item kind = s->items[s->at].kind;
    if (kind != AGENT_ITEM_STATEMENT && kind != AGENT_ITEM_OUTCOME_ROW && kind != AGENT_ITEM_BARRIER &&
        kind != AGENT_ITEM_CONSTRAINTS) {
        return; /* it bounds neither PREPARE nor what follows */
    }
    if (s->waits_for >= 0) {
        row_leave_queue(world, s->participant, s->waits_for, (int)slot);
        s->waits_for = -1;
    }
    run_fails(world, s, "57014", "canceling statement due to statement timeout");
}

static void need_xact(struct world *world, struct session *s) {
    if (s->xact == NO_XACT) {
        s->xact = xact_begin(world, s->participant, s->run->gtid, true);
    }
}

void session_row_granted(struct world *world, int slot, uint32_t row) {
    struct session *s = &world->pg->sessions[slot];
    assert(s->used && s->run != NULL && s->waits_for == (int)row);
    s->waits_for = -1;
    s->at++;
    session_next(world, s);
}

static void report_rows(struct session *s) {
    struct pg_op *op = s->run;
    const struct pg_statement *statement = &op->statements[s->items[s->at].statement];
    op->rows[op->event.run.row_count++] = (struct agent_step_rows){.step = statement->step, .rows_affected = 1};
}

/* What the step returns, and what its row keeps of that: a number that no other transaction has. */
static void run_effect(struct world *world, struct session *s) {
    struct pg_op *op = s->run;
    struct xact *x = xact_at(world, s->participant, s->xact);
    x->effect = true;
    x->saga = op->saga;
    if (op->saga.op == SAGA_OP_DO) {
        x->kept = ++world->pg->next_barrier;
        op->rows[op->event.run.row_count - 1].rows_affected = (int64_t)x->kept;
    }
}

/* `commit and chain` inside a procedure: what was done so far is committed, a new transaction goes on without the
 * marker. */
static void end_from_inside(struct world *world, struct session *s) {
    int xact = s->xact;
    report_rows(s);
    s->unmarked = true;
    s->xact = NO_XACT;
    check_ended_inside(world, s->run->gtid, s->participant);
    if (xact != NO_XACT) {
        xact_commit(world, s->participant, xact, "inside");
    }
}

/* True: the item is done. False: it waits, or the run has ended. */
static bool do_statement(struct world *world, struct session *s) {
    const struct pg_statement *statement = &s->run->statements[s->items[s->at].statement];
    switch (statement->kind) {
    case PG_READ:
        report_rows(s);
        return true;
    case PG_FAIL:
        run_fails(world, s, "23514", "violates check constraint");
        return false;
    case PG_DEFER:
        s->deferred = true;
        break;
    case PG_END:
        end_from_inside(world, s);
        return true;
    case PG_WRITE:
        break;
    }
    need_xact(world, s);
    report_rows(s);
    if (s->run->saga.name[0] != '\0') {
        run_effect(world, s);
    }
    int slot = session_slot(world, s);
    if (row_lock(world, s->participant, statement->row, s->xact, slot)) {
        return true;
    }
    s->waits_for = (int)statement->row;
    world_after(world, (uint64_t)s->run->lock_timeout_ms * MS, lock_times_out, (uint64_t)slot, ++s->turn);
    return false;
}

/* Whose outcome row stands in the way of one for `gtid` (and `key`)? */
static int outcome_find(struct world *world, uint32_t participant, const char *gtid, const char *key) {
    struct cluster *c = cluster_for(world, participant);
    int found = NO_XACT;
    for (int i = 0; i < c->xact_count; i++) {
        const struct xact *x = &c->xacts[i];
        if (x->participant == participant && x->has_outcome && x->state != XACT_ABORTED &&
            ((gtid != NULL && strcmp(x->gtid, gtid) == 0) ||
             (key != NULL && key[0] != '\0' && strcmp(x->key, key) == 0))) {
            found = i;
            if (x->state == XACT_COMMITTED) {
                return i;
            }
        }
    }
    return found;
}

/* Somebody else's row, not yet committed: looked at again until lock_timeout. */
static void wait_for_row(struct world *world, struct session *s) {
    if (s->waits_until_us == 0) {
        s->waits_until_us = world->now_us + (uint64_t)s->run->lock_timeout_ms * MS;
    }
    if (world->now_us >= s->waits_until_us) {
        run_fails(world, s, "55P03", "canceling statement due to lock timeout");
    } else {
        world_after(world, POLL_US, session_step, (uint64_t)session_slot(world, s), ++s->turn);
    }
}

static bool do_outcome_row(struct world *world, struct session *s) {
    struct pg_op *op = s->run;
    int other = outcome_find(world, s->participant, op->gtid, op->key);
    if (other != NO_XACT && xact_at(world, s->participant, other)->state == XACT_COMMITTED) {
        run_fails(world, s, "23505", "duplicate key value violates unique constraint");
        return false;
    }
    if (other != NO_XACT) {
        wait_for_row(world, s);
        return false;
    }
    need_xact(world, s);
    struct xact *xact = xact_at(world, s->participant, s->xact);
    xact->has_outcome = true;
    snprintf(xact->key, sizeof xact->key, "%s", op->key);
    memcpy(xact->hash, op->hash, sizeof xact->hash);
    return true;
}

/* The answer of a row that was there before: with what it has kept. */
static void answer_from_row(struct pg_op *op, enum pg_barrier row, uint64_t kept) {
    static const enum agent_barrier names[] = {
        [PG_DONE] = AGENT_BARRIER_DONE, [PG_UNDONE] = AGENT_BARRIER_UNDONE, [PG_CANCELLED] = AGENT_BARRIER_CANCELLED};
    struct agent_run *run = &op->event.run;
    run->has_barrier = true;
    run->barrier = names[row];
    if (row == PG_DONE) {
        op->rows[run->row_count++] = (struct agent_step_rows){.step = op->saga.step, .rows_affected = (int64_t)kept};
    }
}

static void write_barrier(struct world *world, struct session *s, enum pg_barrier row) {
    struct xact *x = xact_at(world, s->participant, s->xact);
    x->barrier = row;
    x->barrier_order = ++world->pg->next_barrier;
}

/* lockstep.saga_attempt(): the unique insert decides every race; who comes second waits for the first. */
static bool do_barrier(struct world *world, struct session *s) {
    struct pg_op *op = s->run;
    struct agent_run *run = &op->event.run;
    uint64_t kept;
    bool busy;
    enum pg_barrier row = barrier_look(world, s->participant, &op->saga, s->xact, &kept, &busy);
    if (busy && (row == PG_NO_ROW || (row == PG_DONE && op->saga.op == SAGA_OP_UNDO))) {
        wait_for_row(world, s);
        return false;
    }
    s->waits_until_us = 0;
    xact_at(world, s->participant, s->xact)->saga = op->saga;
    if (row == PG_NO_ROW && op->saga.op == SAGA_OP_UNDO) {
        run_fails(world, s, "LS002", "nothing was done that could be undone");
        return false;
    }
    if (row == PG_NO_ROW || (row == PG_DONE && op->saga.op == SAGA_OP_UNDO)) {
        row = op->saga.op == SAGA_OP_DO ? PG_DONE : op->saga.op == SAGA_OP_UNDO ? PG_UNDONE : PG_CANCELLED;
        write_barrier(world, s, row);
        run->has_barrier = true;
        run->barrier = row == PG_DONE     ? AGENT_BARRIER_DONE
                       : row == PG_UNDONE ? AGENT_BARRIER_UNDONE
                                          : AGENT_BARRIER_CANCELLED;
        return true;
    }
    answer_from_row(op, row, kept);
    sim_coverage.barrier_answers++;
    if (op->saga.op != SAGA_OP_CANCEL) {
        run_fails(world, s, "LS001", "the step has an answer already");
        return false;
    }
    return true;
}

static bool do_guard(struct world *world, struct session *s) {
    struct agent_run *run = &s->run->event.run;
    run->guard = AGENT_GUARD_OK;
    if (s->unmarked) {
        run->guard = AGENT_GUARD_MARKER_LOST;
        run_fails(world, s, "22012", "division by zero");
        return false;
    }
    if (s->xact == NO_XACT) {
        run->guard = AGENT_GUARD_READ_ONLY;
        run->failed = AGENT_ITEM_GUARD;
        run->sqlstate = "22012";
        s->tx = TX_IDLE;
        run_ends(world, s);
        return false;
    }
    run->identity.xid = xact_xid(s->xact);
    return true;
}

static bool do_prepare(struct world *world, struct session *s) {
    struct pg_op *op = s->run;
    struct agent_run *run = &op->event.run;
    int xact = s->xact;
    if (xact_find_prepared(world, s->participant, op->gid) != NO_XACT) {
        run_fails(world, s, "42710", "transaction identifier is already in use");
        return false;
    }
    if (cluster_prepared(world, s->participant) >= cluster_for(world, s->participant)->max_prepared) {
        run_fails(world, s, "53200", "maximum number of prepared transactions reached");
        return false;
    }
    uint64_t luck = world_fault(world, world->options.prepare_fail_pm) ? rng_below(&world->rng, 3) : 3;
    s->tx = TX_IDLE;
    s->xact = NO_XACT;
    if (luck == 0) {
        run->prepare_tag = "ROLLBACK";
        xact_abort(world, s->participant, xact, "failed before PREPARE");
    } else if (luck == 1) {
        s->xact = xact;
        run_fails(world, s, "23503", "violates foreign key constraint");
        return false;
    } else {
        run->prepare_tag = "PREPARE TRANSACTION";
        run->prepare_warning = luck == 2;
        sim_coverage.zombie_prepares += s->client_gone ? 1u : 0u;
        xact_prepare(world, s->participant, xact, op->gid);
    }
    return true;
}

static void do_lsn(struct world *world, struct session *s) {
    struct cluster *c = cluster_for(world, s->participant);
    struct agent_run *run = &s->run->event.run;
    run->identity.system_id = c->system_id;
    run->identity.timeline = c->timeline;
    run->identity.lsn = wal_flushed_lsn(c);
    run->owner = PG_OWNER;
}

/* The connection breaks under the backend, which works on. */
static void drop_here(struct world *world, struct session *s) {
    s->drop_at = NOT_DROPPED;
    sim_coverage.drops++;
    op_detach(world, s->run);
    session_lose_client(world, s);
}

static void session_step(struct world *world, uint64_t slot, uint64_t turn) {
    struct session *s = &world->pg->sessions[slot];
    if (!s->used || s->turn != turn) {
        return;
    }
    assert(s->run != NULL);
    if (s->doomed) {
        session_end(world, s, "terminated");
        return;
    }
    if (s->at == s->drop_at) {
        drop_here(world, s);
    }
    if (s->at == s->item_count) {
        run_ends(world, s);
        return;
    }
    bool done = true;
    switch (s->items[s->at].kind) {
    case AGENT_ITEM_BEGIN:
        s->tx = TX_OPEN;
        break;
    case AGENT_ITEM_OUTCOME_ROW:
        done = do_outcome_row(world, s);
        break;
    case AGENT_ITEM_BARRIER:
        done = do_barrier(world, s);
        break;
    case AGENT_ITEM_STATEMENT:
        done = do_statement(world, s);
        break;
    case AGENT_ITEM_CONSTRAINTS:
        done = !s->deferred;
        if (s->deferred) {
            run_fails(world, s, "23503", "violates foreign key constraint");
        }
        break;
    case AGENT_ITEM_GUARD:
        done = do_guard(world, s);
        break;
    case AGENT_ITEM_PREPARE:
        done = do_prepare(world, s);
        break;
    case AGENT_ITEM_LSN:
        do_lsn(world, s);
        break;
    case AGENT_ITEM_MARKER:
    case AGENT_ITEM_RESULTS:
    case AGENT_ITEM_NONE:
        break;
    }
    if (done) {
        s->at++;
        session_next(world, s);
    }
}

static void arrive_run(struct world *world, struct pg_op *op) {
    struct session *s = NULL;
    for (uint32_t i = 0; i < SESSIONS_MAX && s == NULL;
         i++) { /* also one whose client has died: the bytes were under way */
        struct session *each = &world->pg->sessions[i];
        if (each->used && each->participant == op->participant && each->life == op->life && !each->control &&
            each->branch == op->branch && each->run == NULL) {
            s = each;
        }
    }
    if (s == NULL) {
        op_fail(world, op);
        return;
    }
    assert(s->tx == (op->first ? TX_IDLE : TX_OPEN));
    s->run = op;
    s->waits_until_us = 0;
    plan(s, op);
    if (world_fault(world, world->options.session_drop_pm)) {
        s->drop_at = (uint32_t)rng_below(&world->rng, s->item_count + 1);
    }
    if (op->deadline_ms > 0) {
        world_after(world, (uint64_t)op->deadline_ms * MS, statement_times_out, (uint64_t)session_slot(world, s),
                    op->serial);
    }
    session_next(world, s);
}

/* --------------------------------------------------- one command, one answer */

static void arrive_commit1(struct world *world, struct pg_op *op, struct session *s) {
    struct agent_answer *answer = &op->event.commit1.answer;
    op->event.kind = AEV_DB_COMMIT1;
    op->event.commit1.session = AGENT_SESSION_IDLE;
    assert(s->tx == TX_OPEN && s->xact != NO_XACT);
    int xact = s->xact;
    s->tx = TX_IDLE;
    s->xact = NO_XACT;
    uint64_t luck = world_fault(world, world->options.prepare_fail_pm) ? rng_below(&world->rng, 3) : 3;
    if (luck == 0) {
        answer->rolled_back = true;
        xact_abort(world, s->participant, xact, "COMMIT said ROLLBACK");
    } else if (luck == 1) {
        answer->sqlstate = "40001";
        answer->message = "could not serialize access";
        xact_abort(world, s->participant, xact, "COMMIT failed");
    } else {
        answer->warning = luck == 2;
        sim_coverage.zombie_commits += s->client_gone ? 1u : 0u;
        xact_commit(world, s->participant, xact, "COMMIT");
    }
    op_answer(world, op);
}

static void arrive_finish(struct world *world, struct pg_op *op) {
    struct agent_answer *answer = &op->event.finish.answer;
    op->event.kind = AEV_DB_FINISH;
    int xact = xact_find_prepared(world, op->participant, op->gid);
    if (xact == NO_XACT) {
        answer->sqlstate = "42704";
        answer->message = "prepared transaction does not exist";
    } else if (xact_at(world, op->participant, xact)->participant != op->participant) {
        answer->sqlstate = "0A000";
        answer->message = "prepared transaction belongs to another database";
    } else if (world_fault(world, world->options.prepare_fail_pm)) {
        answer->sqlstate = "55000";
        answer->message = "prepared transaction is busy";
    } else if (op->commit) {
        answer->warning = world_fault(world, world->options.prepare_fail_pm);
        xact_commit(world, op->participant, xact, "COMMIT PREPARED");
    } else {
        xact_abort(world, op->participant, xact, "ROLLBACK PREPARED");
    }
    op_answer(world, op);
}

static void read_server(const struct cluster *c, struct agent_server *server) {
    server->system_id = c->system_id;
    server->timeline = c->timeline;
    server->insert_lsn = c->lsn;
    server->flush_lsn = wal_flushed_lsn(c);
}

static void copy_history(struct pg_op *op, const struct cluster *c) {
    memcpy(op->history, c->history, c->history_count * sizeof c->history[0]);
}

static void arrive_prove(struct world *world, struct pg_op *op) {
    struct cluster *c = cluster_for(world, op->participant);
    struct agent_proof_seen *seen = &op->event.prove.seen;
    op->event.kind = AEV_DB_PROVE;
    op->event.prove.ok = true;
    read_server(c, &seen->server);
    copy_history(op, c);
    seen->history = op->history;
    seen->history_count = c->history_count;
    int listed = xact_find_prepared(world, op->participant, op->gid);
    if (listed != NO_XACT && c->xacts[listed].participant == op->participant) {
        seen->listed = true;
        seen->listed_xid = xact_xid(listed);
        seen->listed_owner = PG_OWNER;
    }
    if (op->xid >= XID_FIRST + (uint64_t)c->xact_count) {
        seen->status = AGENT_XACT_FUTURE;
    } else if (op->xid >= XID_FIRST) {
        switch (c->xacts[op->xid - XID_FIRST].state) {
        case XACT_RUNNING:
        case XACT_PREPARED:
            seen->status = AGENT_XACT_IN_PROGRESS;
            break;
        case XACT_COMMITTED:
            seen->status = AGENT_XACT_COMMITTED;
            break;
        case XACT_ABORTED:
            seen->status = AGENT_XACT_ABORTED;
            break;
        }
    }
    op_answer(world, op);
}

static int by_gid(const void *a, const void *b) {
    return strcmp(((const struct agent_prepared *)a)->gid, ((const struct agent_prepared *)b)->gid);
}

/* By the server's clock, which may have jumped meanwhile. */
static uint64_t age_ms(struct world *world, const struct xact *x) {
    uint64_t age = (world->now_us - x->prepared_us) / MS;
    return world_fault(world, world->options.clock_pm) ? rng_below(&world->rng, UINT64_C(3000000000000)) : age;
}

static void arrive_scan(struct world *world, struct pg_op *op) {
    struct cluster *c = cluster_for(world, op->participant);
    op->scan = calloc(1, sizeof *op->scan);
    assert(op->scan != NULL);
    op->event.kind = AEV_DB_SCAN;
    op->event.scan.ok = true;
    read_server(c, &op->event.scan.server);
    uint32_t count = 0;
    for (int i = 0; i < c->xact_count; i++) {
        const struct xact *x = &c->xacts[i];
        if (x->state == XACT_PREPARED && x->participant == op->participant && strcmp(x->gid, op->after) > 0 &&
            agent_host_lists(world, op->participant, x->gid)) {
            assert(count < PG_SCAN_MAX);
            snprintf(op->scan->gid[count], LS_GID_MAX + 1, "%s", x->gid);
            op->scan->rows[count] = (struct agent_prepared){
                .gid = op->scan->gid[count], .xid = xact_xid(i), .owner = PG_OWNER, .age_ms = age_ms(world, x)};
            count++;
        }
    }
    qsort(op->scan->rows, count, sizeof op->scan->rows[0], by_gid);
    op->event.scan.more = count > op->limit;
    op->event.scan.count = count > op->limit ? op->limit : count;
    op->event.scan.rows = op->scan->rows;
    op_answer(world, op);
}

static void arrive_identity(struct world *world, struct pg_op *op) {
    struct cluster *c = cluster_for(world, op->participant);
    struct database *db = &world->pg->databases[op->participant];
    op->event.kind = AEV_DB_IDENTITY;
    op->event.identity.ok = true;
    read_server(c, &op->event.identity.server);
    copy_history(op, c);
    op->event.identity.history = op->history;
    op->event.identity.history_count = c->history_count;
    op->event.identity.max_prepared = c->max_prepared;
    op->event.identity.has_fence = db->has_fence;
    op->event.identity.fence = db->fence;
    op_answer(world, op);
}

static void arrive_lock(struct world *world, struct pg_op *op) {
    struct database *db = &world->pg->databases[op->participant];
    op->event.kind = AEV_DB_LOCK;
    struct session *old = session_find(world, op->participant, op->life, 0, true);
    if (old != NULL) { /* the host opens a new control session: the old one is closed first */
        session_end(world, old, "replaced");
    }
    if (db->advisory >= 0) {
        op->event.lock.result = AGENT_LOCK_HELD;
        op_answer(world, op);
        return;
    }
    struct session *s = session_new(world, op->participant, op->life, 0, true);
    if (op->orphan) {
        session_lose_client(world, s);
    }
    db->advisory = session_slot(world, s);
    db->inherited = world->pg->next_serial;
    op->event.lock.result = AGENT_LOCK_TAKEN;
    if (!op->orphan && !relay_agent_lives(world, op->participant, op->life)) {
        sim_coverage.superseded++;
        agent_host_falls(world, op->participant, op->life);
    }
    if (world_fault(world, world->options.session_drop_pm * 4)) {
        world_after(world, rng_delay(&world->rng, 3 * SECOND), control_drops, (uint64_t)db->advisory, s->serial);
    }
    op_answer(world, op);
}

/* pg_terminate_backend(). False: it has not gone yet. */
static bool terminate(struct world *world, struct session *s, const char *how) {
    if (s->run != NULL && s->stalled_until_us > world->now_us) {
        s->doomed = true;
        return false;
    }
    session_end(world, s, how);
    return true;
}

static void arrive_clean(struct world *world, struct pg_op *op) {
    bool ok = !world_fault(world, world->options.session_drop_pm);
    op->event.kind = AEV_DB_CLEAN;
    op->event.clean.ok = ok;
    world->pg->databases[op->participant].inherited = world->pg->next_serial;
    for (uint32_t i = 0; i < SESSIONS_MAX; i++) {
        struct session *s = &world->pg->sessions[i];
        if (s->used && s->participant == op->participant && s->life != op->life &&
            (ok || rng_below(&world->rng, 2) == 0)) {
            ok = terminate(world, s, "terminated") && ok;
        }
    }
    op->event.clean.ok = ok;
    for (uint32_t i = 0; i < OPS_MAX; i++) { /* requests under way stand for sessions of their own */
        struct pg_op *other = world->pg->ops[i];
        if (other != NULL && other->kind != PG_RUN && other->participant == op->participant &&
            other->life != op->life && !other->acted && (ok || rng_below(&world->rng, 2) == 0)) {
            if (other->orphan) {
                op_free(world, other);
            } else {
                op_fail(world, other); /* a second agent's session is terminated */
            }
        }
    }
    op_answer(world, op);
}

static void arrive_settle(struct world *world, struct pg_op *op) {
    op->event.kind = AEV_DB_SETTLE;
    int other = outcome_find(world, op->participant, op->gtid, NULL);
    if (other == NO_XACT) {
        int xact = xact_begin(world, op->participant, op->gtid, true);
        struct xact *x = xact_at(world, op->participant, xact);
        x->tombstone = x->has_outcome = true;
        xact_commit(world, op->participant, xact, "tombstone");
        op->event.settled.result = AGENT_SETTLE_ABORTED;
    } else if (xact_at(world, op->participant, other)->state == XACT_COMMITTED) {
        op->event.settled.result =
            xact_at(world, op->participant, other)->tombstone ? AGENT_SETTLE_ABORTED : AGENT_SETTLE_COMMITTED;
    } else if (op->wait_until_us == 0 || world->now_us < op->wait_until_us) {
        if (op->wait_until_us == 0) {
            op->wait_until_us = world->now_us + SETTLE_LOCK_US;
        }
        world_after(world, POLL_US, op_arrive, op->slot, op->serial);
        return;
    } else {
        op->event.settled.result = AGENT_SETTLE_BUSY;
    }
    op_answer(world, op);
}

static void arrive_read_key(struct world *world, struct pg_op *op) {
    op->event.kind = AEV_DB_READ_KEY;
    op->event.key.ok = true;
    int other = outcome_find(world, op->participant, NULL, op->key);
    if (other != NO_XACT && xact_at(world, op->participant, other)->state == XACT_COMMITTED) {
        const struct xact *x = xact_at(world, op->participant, other);
        op->event.key.found = true;
        snprintf(op->text_gtid, sizeof op->text_gtid, "%s", x->gtid);
        memcpy(op->answer_hash, x->hash, sizeof op->answer_hash);
        op->event.key.gtid = op->text_gtid;
        op->event.key.hash = op->answer_hash;
        op->event.key.hash_length = sizeof op->answer_hash;
    }
    op_answer(world, op);
}

static void arrive_stop(struct world *world, struct pg_op *op) {
    op->event.kind = AEV_DB_STOP;
    op->event.stop.gone = true;
    for (uint32_t i = 0; i < SESSIONS_MAX; i++) { /* found by pid: whether or not its client is still connected */
        struct session *s = &world->pg->sessions[i];
        if (s->used && s->participant == op->participant && s->life == op->life && !s->control &&
            s->branch == op->branch) {
            op->event.stop.gone = terminate(world, s, "stopped") && op->event.stop.gone;
        }
    }
    op_answer(world, op);
}

static void arrive_fence(struct world *world, struct pg_op *op) {
    op->event.kind = AEV_DB_FENCE;
    op->event.fence_stored.ok = true;
    wal_append_fence(world, op->participant, &op->fence, op->durable);
    world->pg->fence_stored[op->participant] = op->serial;
    op_answer(world, op);
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void arrive_kept(struct world *world, struct pg_op *op) {
    struct cluster *c = cluster_for(world, op->participant);
    struct pg_kept *kept = op->kept = calloc(1, sizeof *kept);
    assert(kept != NULL);
    uint32_t count = 0;
    for (int i = 0; i < c->xact_count; i++) {
        const struct xact *x = &c->xacts[i];
        uint64_t unused;
        bool busy, known = false;
        if (x->participant != op->participant || x->barrier == PG_NO_ROW || strcmp(x->saga.name, op->after) <= 0 ||
            barrier_look(world, op->participant, &x->saga, NO_XACT, &unused, &busy) == PG_NO_ROW) {
            continue;
        }
        for (uint32_t k = 0; k < count && !known; k++) {
            known = strcmp(kept->list[k], x->saga.name) == 0;
        }
        if (!known) {
            assert(count < LS_KEPT_PAGE_MAX);
            snprintf(kept->name[count], sizeof kept->name[count], "%s", x->saga.name);
            kept->list[count] = kept->name[count];
            count++;
        }
    }
    qsort(kept->list, count, sizeof kept->list[0], by_name);
    op->event.kind = AEV_DB_KEPT;
    op->event.kept.ok = true;
    op->event.kept.sagas = kept->list;
    op->event.kept.count = count < op->limit ? count : op->limit;
    op_answer(world, op);
}

static void arrive_forget(struct world *world, struct pg_op *op) {
    for (uint32_t i = 0; i < op->forget_count; i++) {
        struct ls_gtid gtid;
        enum ls_status status = ls_gtid_parse(op->forget[i], &gtid);
        assert(status == LS_OK);
        struct pg_saga saga = {
            .epoch = gtid.epoch, .sequence = gtid.sequence, .log = sim_incarnation_number(gtid.incarnation)};
        check_saga_pruned(world, &saga, op->participant);
        int xact = xact_begin(world, op->participant, "", false);
        struct xact *x = xact_at(world, op->participant, xact);
        x->saga = saga;
        x->prunes = true;
        x->barrier_order = ++world->pg->next_barrier;
        xact_commit(world, op->participant, xact, "pruned");
        sim_coverage.pruned++;
    }
    op->event.kind = AEV_DB_FORGET;
    op->event.forgotten.ok = true;
    op_answer(world, op);
}

/* What stands behind the fence that came before it. True: not yet, or never. */
static bool waits_for_fence(struct world *world, struct pg_op *op) {
    if (op->after_fence == 0 || world->pg->fence_stored[op->participant] >= op->after_fence) {
        return false;
    }
    for (uint32_t i = 0; i < OPS_MAX; i++) {
        struct pg_op *other = world->pg->ops[i];
        if (other != NULL && other->serial == op->after_fence && !other->acted) {
            world_after(world, POLL_US / 10, op_arrive, op->slot, op->serial);
            return true;
        }
    }
    struct session *s =
        op->kind == PG_COMMIT1 ? session_find(world, op->participant, op->life, op->branch, false) : NULL;
    if (s != NULL) session_lose_client(world, s); /* its agent gives it up */
    op_fail(world, op);                           /* the fence failed, and the pipeline with it */
    return true;
}

static bool needs_control(enum pg_op_kind kind) {
    return kind == PG_CLEAN || kind == PG_IDENTITY || kind == PG_FENCE || kind == PG_SCAN || kind == PG_SETTLE ||
           kind == PG_STOP || kind == PG_KEPT || kind == PG_FORGET;
}

static void act(struct world *world, struct pg_op *op) {
    struct session *s = NULL;
    switch (op->kind) {
    case PG_LOCK:
        arrive_lock(world, op);
        break;
    case PG_CLEAN:
        arrive_clean(world, op);
        break;
    case PG_IDENTITY:
        arrive_identity(world, op);
        break;
    case PG_FENCE:
        arrive_fence(world, op);
        break;
    case PG_SCAN:
        arrive_scan(world, op);
        break;
    case PG_RUN:
        arrive_run(world, op);
        break;
    case PG_COMMIT1:
    case PG_ROLLBACK:
        for (uint32_t i = 0; i < SESSIONS_MAX && s == NULL; i++) {
            struct session *each = &world->pg->sessions[i];
            s = each->used && each->participant == op->participant && each->life == op->life && !each->control &&
                        each->branch == op->branch
                    ? each
                    : NULL;
        }
        if (s == NULL) {
            op_fail(world, op);
        } else if (op->kind == PG_COMMIT1) {
            if (!waits_for_fence(world, op)) arrive_commit1(world, op, s);
        } else {
            op->event.kind = AEV_DB_ROLLBACK;
            op->event.rollback.session = AGENT_SESSION_IDLE;
            s->tx = TX_IDLE;
            if (s->xact != NO_XACT) {
                int xact = s->xact;
                s->xact = NO_XACT;
                xact_abort(world, s->participant, xact, "ROLLBACK");
            }
            op_answer(world, op);
        }
        break;
    case PG_STOP:
        arrive_stop(world, op);
        break;
    case PG_FINISH:
        if (!waits_for_fence(world, op)) {
            arrive_finish(world, op);
        }
        break;
    case PG_PROVE:
        arrive_prove(world, op);
        break;
    case PG_READ_KEY:
        arrive_read_key(world, op);
        break;
    case PG_SETTLE:
        arrive_settle(world, op);
        break;
    case PG_KEPT:
        arrive_kept(world, op);
        break;
    case PG_FORGET:
        if (!waits_for_fence(world, op)) arrive_forget(world, op);
        break;
    case PG_RELEASE:
        assert(!"released at once");
        break;
    }
}

static bool control_lives(const struct world *world, uint32_t participant, uint64_t life) {
    for (uint32_t i = 0; i < SESSIONS_MAX; i++) {
        const struct session *s = &world->pg->sessions[i];
        if (s->used && s->control && s->participant == participant && s->life == life) {
            return true;
        }
    }
    return false;
}

static void op_arrive(struct world *world, uint64_t slot, uint64_t serial) {
    struct pg_op *op = op_find(world, slot, serial);
    if (op == NULL) {
        return;
    }
    const struct cluster *c = cluster_for(world, op->participant);
    if (op->orphan && needs_control(op->kind) && !control_lives(world, op->participant, op->life)) {
        op_free(world, op); /* its backend has gone with its client */
        return;
    }
    bool no_session =
        needs_control(op->kind) && !op->orphan && session_find(world, op->participant, op->life, 0, true) == NULL;
    if (!c->up || c->boot != op->boot || no_session) {
        op_fail(world, op);
        return;
    }
    act(world, op);
}

/* What one agent has on its way when its client dies: it may have left the machine or not. */
static bool never_left(struct world *world, const struct pg_op *op) {
    return op->orphan && op->kind != PG_RUN && rng_below(&world->rng, 2) == 0;
}

static void op_leaves(struct world *world, uint64_t slot, uint64_t serial) {
    struct pg_op *op = op_find(world, slot, serial);
    if (op == NULL) {
        return;
    }
    if (never_left(world, op)) {
        op_free(world, op);
        return;
    }
    op_arrive(world, slot, serial);
}

static void release(struct world *world, struct pg_op *op) {
    struct session *s = session_find(world, op->participant, op->life, op->branch, false);
    if (s != NULL) {
        if (s->run != NULL || s->xact != NO_XACT || s->tx == TX_OPEN) {
            world_wrong(world, "p%u gave a session back to the pool in the middle of a transaction", op->participant);
        }
        s->used = false;
        s->turn++;
    }
    op_free(world, op);
}

/* Of those that its agent has asked for and the server has not stored; 0: none. */
static uint64_t newest_fence(const struct world *world, const struct pg_op *op) {
    uint64_t newest = 0;
    for (uint32_t i = 0; i < OPS_MAX; i++) {
        const struct pg_op *other = world->pg->ops[i];
        if (other != NULL && other->kind == PG_FENCE && other->participant == op->participant &&
            other->life == op->life && !other->acted && other->serial > newest) {
            newest = other->serial;
        }
    }
    return newest;
}

/* What the agent has asked for so far comes first; a step's COMMIT waits for what came before its run. */
static void stand_behind_fence(struct world *world, struct pg_op *op) {
    if (op->kind == PG_FINISH || op->kind == PG_FORGET) {
        op->after_fence = newest_fence(world, op);
        return;
    }
    if (op->kind != PG_COMMIT1 && (op->kind != PG_RUN || op->saga.name[0] == '\0')) return;
    struct session *s = session_find(world, op->participant, op->life, op->branch, false);
    if (s == NULL) return;
    if (op->kind == PG_RUN)
        s->after_fence = newest_fence(world, op);
    else
        op->after_fence = s->after_fence;
}

void pg_submit(struct world *world, struct pg_op *op) {
    const struct cluster *c = cluster_for(world, op->participant);
    op->boot = c->boot;
    if (op->kind == PG_RELEASE) {
        release(world, op);
        return;
    }
    if (op->kind == PG_RUN && op->first) {
        if (!c->up || world_fault(world, world->options.session_drop_pm)) {
            op_set_failed(op);
            op->event.run.nothing_sent = true;
            op_answer(world, op);
            return;
        }
        session_new(world, op->participant, op->life, op->branch, false);
    }
    bool one_command = op->kind != PG_RUN && op->kind != PG_LOCK;
    if (one_command && world_fault(world, world->options.session_drop_pm)) {
        if (op->kind == PG_COMMIT1 || op->kind == PG_ROLLBACK) {
            struct session *s = session_find(world, op->participant, op->life, op->branch, false);
            if (s != NULL) {
                session_lose_client(world, s);
            }
        }
        if (rng_below(&world->rng, 2) == 0) {
            op_fail(world, op);
            return;
        }
        op->lost_after = true;
    }
    uint64_t at = world->now_us + way(world);
    if (op->kind == PG_FENCE) {
        at = at > world->pg->fence_at_us[op->participant] ? at : world->pg->fence_at_us[op->participant];
        world->pg->fence_at_us[op->participant] = at;
    }
    stand_behind_fence(world, op);
    if (op->kind == PG_FINISH) at += work(world, world->options.finish_us);
    world_after(world, at - world->now_us, op_leaves, op->slot, op->serial);
}
