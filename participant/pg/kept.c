/*
 * kept.c: barrier rows and outcome rows, from the agent's side: which are there, and taking away what nobody will ask about again.
 *
 * Three transactions, in this order: the barrier rows of ended sagas go; the horizon is stored; one batch of outcome rows below it goes. The horizon is
 * committed before any row below it is deleted: outcome_insert() relies on that order.
 */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "participant/pg/driver.h"
#include "participant/pg/sql.h"
#include "participant/pg/xid.h"

#define PRUNE_BATCH 1000
#define PRUNE_BATCH_TEXT "1000"

struct keeping {
    struct task task;
    struct lane *lane;
    char after[LS_GTID_MAX + 1];
    uint32_t limit;
    char *sagas; /* {"a","b"}; NULL: none */
    bool has_horizon, prune;
    char incarnation[LS_INCARNATION_LEN + 1], epoch[12], sequence[24];
};

static void end(struct keeping *keeping, bool lost, struct agent_event *event)
{
    struct pg *pg = keeping->task.pg;
    struct lane *lane = keeping->lane;
    event->op = keeping->task.op;
    free(keeping->sagas);
    free(keeping);
    pg_answer(pg, event);
    if (!lost)
        lane_batch_done(lane);
}

static struct keeping *keeping_new(const struct agent_effect *effect, void (*send)(struct task *task, struct lane *lane),
                                   void (*fail)(struct task *task, const char *reason))
{
    struct keeping *keeping = memory_new(sizeof(*keeping));
    keeping->task.op = effect->op;
    keeping->task.send = send;
    keeping->task.fail = fail;
    return keeping;
}

/* ---- which are there */

static void page_done(void *context, struct conn *conn, struct conn_batch *batch)
{
    (void)conn;
    struct keeping *keeping = context;
    struct agent_event event = {.kind = AEV_DB_KEPT};
    const char **sagas = NULL;
    bool lost = batch->lost;
    if (!lost && batch->failed == batch->count) {
        const struct conn_item *item = &batch->items[0];
        int count = PQntuples(item->result);
        sagas = memory_new(((size_t)count + 1) * sizeof(*sagas));
        for (int i = 0; i < count; i++)
            sagas[i] = conn_value(item, i, 0);
        event.kept.ok = true;
        event.kept.sagas = sagas;
        event.kept.count = (uint32_t)count;
    } else if (!lost) {
        pg_report(keeping->task.pg, DIAG_ERROR, "barrier rows cannot be listed", conn_message(&batch->items[batch->failed]));
    }
    end(keeping, lost, &event);
    free(sagas);
}

static void page_send(struct task *task, struct lane *lane)
{
    struct keeping *keeping = (struct keeping *)task;
    char limit[12];
    snprintf(limit, sizeof(limit), "%" PRIu32, keeping->limit);
    const char *values[] = {keeping->after, limit};
    keeping->lane = lane;
    struct conn_batch *batch = conn_begin(lane->conn, 1, page_done, keeping);
    conn_add(lane->conn, batch, SQL_KEPT, 2, values);
    conn_end(lane->conn, batch);
}

static void page_failed(struct task *task, const char *reason)
{
    (void)reason;
    pg_answer_late(task->pg, AEV_DB_KEPT, task->op)->event.kept.ok = false;
    free(task);
}

void kept_page(struct pg *pg, const struct agent_effect *effect)
{
    struct keeping *keeping = keeping_new(effect, page_send, page_failed);
    snprintf(keeping->after, sizeof(keeping->after), "%s", effect->kept_page.after);
    keeping->limit = effect->kept_page.limit;
    lane_submit(pg, &keeping->task);
}

/* ---- taking away */

static void forget_done(void *context, struct conn *conn, struct conn_batch *batch)
{
    (void)conn;
    struct keeping *keeping = context;
    struct agent_event event = {.kind = AEV_DB_FORGET};
    bool lost = batch->lost;
    if (!lost && batch->failed == batch->count) {
        uint64_t gone = 0;
        event.forgotten.ok = !keeping->prune || pg_parse_u64(conn_value(&batch->items[0], 0, 0), &gone);
        event.forgotten.more = gone >= PRUNE_BATCH;
    } else if (!lost) {
        pg_report(keeping->task.pg, DIAG_ERROR, keeping->prune ? "outcome rows cannot be pruned" : "a saga cannot be forgotten", conn_message(&batch->items[batch->failed]));
    }
    end(keeping, lost, &event);
}

/* One of the steps ahead of the pruning; the last batch answers for all. */
static void ahead_done(void *context, struct conn *conn, struct conn_batch *batch)
{
    struct pg *pg = context;
    if (batch->lost || batch->failed == batch->count)
        return;
    pg_report(pg, DIAG_ERROR, "what may be forgotten cannot be taken away", conn_message(&batch->items[batch->failed]));
    conn_close(conn, "a horizon that is not stored must not be pruned below");
}

static void send_alone(struct lane *lane, const char *sql, int count, const char *const *values)
{
    struct conn_batch *batch = conn_begin(lane->conn, 1, ahead_done, lane->pg);
    conn_add(lane->conn, batch, sql, count, values);
    conn_end(lane->conn, batch);
}

static void forget_send(struct task *task, struct lane *lane)
{
    struct keeping *keeping = (struct keeping *)task;
    const char *sagas[] = {keeping->sagas};
    const char *horizon[] = {task->pg->participant, keeping->incarnation, keeping->epoch, keeping->sequence};
    const char *prune[] = {task->pg->participant, PRUNE_BATCH_TEXT};
    keeping->lane = lane;
    if (keeping->sagas != NULL || keeping->has_horizon)
        fence_send_along(lane);
    if (keeping->sagas != NULL && keeping->prune)
        send_alone(lane, SQL_FORGET_SAGAS, 1, sagas);
    if (keeping->has_horizon)
        send_alone(lane, SQL_STORE_HORIZON, 4, horizon);
    struct conn_batch *batch = conn_begin(lane->conn, 1, forget_done, keeping);
    if (keeping->prune)
        conn_add(lane->conn, batch, SQL_PRUNE, 2, prune);
    else
        conn_add(lane->conn, batch, SQL_FORGET_SAGAS, 1, sagas);
    conn_end(lane->conn, batch);
}

static void forget_failed(struct task *task, const char *reason)
{
    (void)reason;
    struct keeping *keeping = (struct keeping *)task;
    pg_answer_late(task->pg, AEV_DB_FORGET, task->op)->event.forgotten.ok = false;
    free(keeping->sagas);
    free(keeping);
}

/* Gtids need no escape. */
static char *array_of(char *const *items, uint32_t count)
{
    size_t size = (size_t)count * (LS_GTID_MAX + 3) + 3, n = 0;
    char *text = memory_new(size);
    for (uint32_t i = 0; i < count; i++)
        n += (size_t)snprintf(text + n, size - n, "%c\"%s\"", i == 0 ? '{' : ',', items[i]);
    assert(n + 2 <= size);
    memcpy(text + n, "}", 2);
    return text;
}

void kept_forget(struct pg *pg, const struct agent_effect *effect)
{
    struct keeping *keeping = keeping_new(effect, forget_send, forget_failed);
    keeping->task.exclusive = true;
    if (effect->forget.count > 0)
        keeping->sagas = array_of(effect->forget.sagas, effect->forget.count);
    keeping->has_horizon = effect->forget.has_horizon;
    keeping->prune = effect->forget.prune;
    snprintf(keeping->incarnation, sizeof(keeping->incarnation), "%s", effect->forget.incarnation);
    snprintf(keeping->epoch, sizeof(keeping->epoch), "%" PRIu32, effect->forget.epoch);
    snprintf(keeping->sequence, sizeof(keeping->sequence), "%" PRIu64, effect->forget.sequence);
    lane_submit(pg, &keeping->task);
}
