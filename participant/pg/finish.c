/*
 * finish.c: COMMIT PREPARED and ROLLBACK PREPARED, each with a Sync of its own (hazards 1.11), and the fence ahead of them.
 *
 * Crash window: once COMMIT PREPARED was sent and not answered the branch is finished or it is not; the next life finds it in its scan or the
 * coordinator asks again, and proof settles it. What the server answered is passed on as it is: "does not exist" is a question.
 */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/failpoint.h"
#include "common/text.h"
#include "participant/pg/driver.h"
#include "participant/pg/schema.h"
#include "participant/pg/sql.h"

struct finish {
    struct task task; /* first: the task is the finish */
    bool commit;
    char gid[LS_GID_MAX + 1];
    struct lane *lane;
};

static void answer_lost(struct finish *finish, const char *reason)
{
    struct late *late = pg_answer_late(finish->task.pg, AEV_DB_FINISH, finish->task.op);
    late->event.finish.answer.lost = true;
    text_copy_line(late->message, sizeof(late->message), reason);
    free(finish);
}

static void finish_failed(struct task *task, const char *reason)
{
    answer_lost((struct finish *)task, reason);
}

static void finish_done(void *context, struct conn *conn, struct conn_batch *batch)
{
    (void)conn;
    struct finish *finish = context;
    struct lane *lane = finish->lane;
    struct agent_event event = {.kind = AEV_DB_FINISH, .op = finish->task.op};
    pg_item_answer(batch, 0, finish->commit ? "COMMIT PREPARED" : "ROLLBACK PREPARED", &event.finish.answer);
    struct pg *pg = finish->task.pg;
    bool lost = batch->lost;
    bool commit = finish->commit;
    free(finish);
    /* Crash: finished, and nobody was told: the coordinator says it again, the proof says done. */
    if (failpoint_hit(FP_agent_before_done) || (!commit && failpoint_hit(FP_agent_rolled_back)))
        event.finish.answer = (struct agent_answer){.lost = true};
    pg_answer(pg, &event);
    if (!lost)
        lane_batch_done(lane);
}

static void finish_send(struct task *task, struct lane *lane)
{
    struct finish *finish = (struct finish *)task;
    char literal[2 * LS_GID_MAX + 3], sql[2 * LS_GID_MAX + 40];
    int fits = pg_quote('\'', finish->gid, literal, sizeof(literal));
    assert(fits);
    (void)fits;
    snprintf(sql, sizeof(sql), "%s prepared %s", finish->commit ? "commit" : "rollback", literal);
    finish->lane = lane;
    struct conn_batch *batch = conn_begin(lane->conn, 1, finish_done, finish);
    /* Crash: still prepared: listed and asked about by the next life. */
    if (failpoint_hit(FP_agent_before_finish) || (!finish->commit && failpoint_hit(FP_agent_before_rollback_prepared)))
        conn_close(lane->conn, "fault asked for");
    conn_add(lane->conn, batch, sql, 0, NULL);
    conn_end(lane->conn, batch);
    /* Crash: finished or not; the server does it whole or not at all, and proof tells which. */
    if (failpoint_hit(FP_agent_after_finish_sent))
        conn_close(lane->conn, "fault asked for");
}

/* ---- who owns it, when nobody has said */

static void owner_done(void *context, struct conn *conn, struct conn_batch *batch)
{
    (void)conn;
    struct finish *finish = context;
    struct lane *lane = finish->lane;
    bool lost = batch->lost;
    if (lost || batch->failed < batch->count) {
        answer_lost(finish, lost ? "connection lost" : conn_message(&batch->items[batch->failed]));
    } else {
        /* Not listed: the agent's own role will do to hear the server say so. */
        const char *owner = conn_value(&batch->items[0], 0, 0);
        snprintf(finish->task.role, sizeof(finish->task.role), "%s", owner != NULL ? owner : "");
        finish->task.send = finish_send;
        finish->task.fenced = finish->commit;
        lane_submit(finish->task.pg, &finish->task);
    }
    if (!lost)
        lane_batch_done(lane);
}

static void owner_send(struct task *task, struct lane *lane)
{
    struct finish *finish = (struct finish *)task;
    const char *values[] = {finish->gid};
    finish->lane = lane;
    struct conn_batch *batch = conn_begin(lane->conn, 1, owner_done, finish);
    conn_add(lane->conn, batch, SQL_LISTED " select l.owner from listed l", 1, values);
    conn_end(lane->conn, batch);
}

void finish_start(struct pg *pg, const struct agent_effect *effect)
{
    struct finish *finish = memory_new(sizeof(*finish));
    const char *owner = effect->finish.owner;
    finish->task.op = effect->op;
    finish->task.fail = finish_failed;
    finish->commit = effect->finish.commit;
    snprintf(finish->gid, sizeof(finish->gid), "%s", effect->finish.gid);
    if (owner != NULL && owner[0] != '\0') {
        /* The agent's own role owns a branch when an app is mapped to it: no SET ROLE then. */
        snprintf(finish->task.role, sizeof(finish->task.role), "%s", strcmp(owner, pg->target->user) == 0 ? "" : owner);
        finish->task.send = finish_send;
        finish->task.fenced = finish->commit;
    } else {
        finish->task.send = owner_send;
    }
    lane_submit(pg, &finish->task);
}

/* ---- the fence */

struct fence_text {
    char epoch[16], position[24], chain[24];
    const char *values[6];
};

static void fill_fence(const struct pg *pg, const struct agent_fence *fence, struct fence_text *text)
{
    /* int8 has a sign, the numbers have none: the bits travel. Positions are bytes of a log and stay below 2^63. */
    snprintf(text->epoch, sizeof(text->epoch), "%" PRIu32, fence->epoch);
    snprintf(text->position, sizeof(text->position), "%" PRId64, (int64_t)fence->position);
    snprintf(text->chain, sizeof(text->chain), "%" PRId64, (int64_t)fence->chain);
    text->values[0] = pg->participant;
    text->values[1] = pg->coordinator;
    text->values[2] = fence->incarnation;
    text->values[3] = text->epoch;
    text->values[4] = text->position;
    text->values[5] = text->chain;
}

static void answer_waiters(struct pg *pg, uint64_t version, bool ok)
{
    struct fence_waiter *ready = NULL, **end = &ready, **at = &pg->fence_waiters;
    while (*at != NULL) {
        struct fence_waiter *waiter = *at;
        if (waiter->version > version) {
            at = &waiter->next;
            continue;
        }
        *at = waiter->next;
        waiter->next = NULL;
        *end = waiter;
        end = &waiter->next;
    }
    while (ready != NULL) {
        struct fence_waiter *next = ready->next;
        struct agent_event event = {.kind = AEV_DB_FENCE, .op = ready->op};
        event.fence_stored.ok = ok;
        free(ready);
        pg_answer(pg, &event);
        ready = next;
    }
}

struct fence_ahead {
    struct lane *lane;
    uint64_t version;
};

static void ahead_done(void *context, struct conn *conn, struct conn_batch *batch)
{
    (void)conn;
    struct fence_ahead *ahead = context;
    struct lane *lane = ahead->lane;
    struct pg *pg = lane->pg;
    bool lost = batch->lost;
    uint64_t version = ahead->version;
    bool ok = !batch->lost && batch->failed == batch->count;
    free(ahead);
    assert(pg->fence_flying == version);
    pg->fence_flying = 0;
    pg->fence_lane = NULL;
    /* Refused by the server (its row is locked): those that wait go without it, as what stood behind it in the pipeline did. A lost connection
     * says nothing: the next one sends it again. */
    if (!lost)
        pg->fence_settled = version;
    if (!ok && !lost)
        pg_report(pg, DIAG_ERROR, "the fence cannot be stored", conn_message(&batch->items[batch->failed]));
    answer_waiters(pg, version, ok);
    if (!lost)
        lane_batch_done(lane);
    execute_fence_settled(pg);
    lane_fence_settled(pg);
}

static void send_fence(struct lane *lane, conn_done_fn *done, void *context)
{
    struct fence_text text;
    fill_fence(lane->pg, &lane->pg->fence, &text);
    struct conn_batch *batch = conn_begin(lane->conn, 1, done, context);
    /* Crash: the commit behind it has not left either: what this fence covers, nobody has acted upon. */
    if (failpoint_hit(FP_agent_fence_before_store))
        conn_close(lane->conn, "fault asked for");
    conn_add_named(lane->conn, batch, "ls_fence", 6, text.values);
    conn_end(lane->conn, batch);
}

static void along_done(void *context, struct conn *conn, struct conn_batch *batch)
{
    (void)conn;
    if (!batch->lost && batch->failed < batch->count)
        pg_report(context, DIAG_ERROR, "the fence cannot be stored", conn_message(&batch->items[batch->failed]));
}

void fence_send_along(struct lane *lane)
{
    if (lane->pg->fence_version > lane->pg->fence_settled)
        send_fence(lane, along_done, lane->pg);
}

void fence_send_ahead(struct lane *lane)
{
    struct pg *pg = lane->pg;
    struct fence_ahead *ahead = memory_new(sizeof(*ahead));
    ahead->lane = lane;
    ahead->version = pg->fence_flying = pg->fence_version;
    pg->fence_lane = lane;
    send_fence(lane, ahead_done, ahead);
}

/* No finish took the fence along. */
static void alone_send(struct task *task, struct lane *lane)
{
    lane->pg->fence_alone = false;
    if (lane->pg->fence_flying == 0 && lane->pg->fence_version > lane->pg->fence_settled)
        fence_send_ahead(lane);
    free(task);
}

static void alone_failed(struct task *task, const char *reason)
{
    struct pg *pg = task->pg;
    pg->fence_alone = false;
    free(task);
    lane_fail_fenced(pg, reason);
    execute_fail_held(pg, reason);
    /* From the loop, like every answer. */
    while (pg->fence_waiters != NULL) {
        struct fence_waiter *waiter = pg->fence_waiters;
        pg->fence_waiters = waiter->next;
        pg_answer_late(pg, AEV_DB_FENCE, waiter->op)->event.fence_stored.ok = false;
        free(waiter);
    }
}

void fence_send_alone(struct pg *pg)
{
    struct task *task = memory_new(sizeof(*task));
    task->send = alone_send;
    task->fail = alone_failed;
    pg->fence_alone = true;
    lane_submit(pg, task);
}

/* Durable: a new link's first fence, before the coordinator is served. */
struct fence_durable {
    struct task task;
    struct agent_fence fence;
    struct lane *lane;
};

static void durable_done(void *context, struct conn *conn, struct conn_batch *batch)
{
    (void)conn;
    struct fence_durable *durable = context;
    struct pg *pg = durable->task.pg;
    struct lane *lane = durable->lane;
    struct agent_event event = {.kind = AEV_DB_FENCE, .op = durable->task.op};
    bool lost = batch->lost;
    event.fence_stored.ok = !lost && batch->failed == batch->count;
    /* Crash: stored; from here on another log is refused, also by the next life. */
    (void)failpoint_hit(FP_agent_fence_stored);
    if (!lost && batch->failed < batch->count)
        pg_report(pg, DIAG_ERROR, "the fence cannot be stored", conn_message(&batch->items[batch->failed]));
    free(durable);
    pg_answer(pg, &event);
    if (!lost)
        lane_batch_done(lane);
}

static void durable_send(struct task *task, struct lane *lane)
{
    struct fence_durable *durable = (struct fence_durable *)task;
    struct fence_text text;
    fill_fence(task->pg, &durable->fence, &text);
    durable->lane = lane;
    struct conn_batch *batch = conn_begin(lane->conn, 1, durable_done, durable);
    /* Crash: this coordinator was not served yet. */
    if (failpoint_hit(FP_agent_fence_before_store))
        conn_close(lane->conn, "fault asked for");
    conn_add(lane->conn, batch, SQL_FENCE_DURABLE, 6, text.values);
    conn_end(lane->conn, batch);
}

static void durable_failed(struct task *task, const char *reason)
{
    (void)reason;
    pg_answer_late(task->pg, AEV_DB_FENCE, task->op)->event.fence_stored.ok = false;
    free(task);
}

void fence_store(struct pg *pg, const struct agent_effect *effect)
{
    if (effect->fence.durable) {
        struct fence_durable *durable = memory_new(sizeof(*durable));
        durable->task.op = effect->op;
        durable->task.send = durable_send;
        durable->task.fail = durable_failed;
        durable->fence = effect->fence.fence;
        lane_submit(pg, &durable->task);
        return;
    }
    struct fence_waiter *waiter = memory_new(sizeof(*waiter));
    pg->fence = effect->fence.fence;
    pg->fence_version++;
    waiter->op = effect->op;
    waiter->version = pg->fence_version;
    waiter->next = pg->fence_waiters;
    pg->fence_waiters = waiter;
}
