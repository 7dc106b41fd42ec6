/*
 * outcome.c: outcome rows of one-participant transactions, from the agent's side: tombstones and keys. (The row itself is inserted by the
 * transaction, see execute.c.)
 *
 * A tombstone is committed before anybody is told "aborted": the backend of a dead agent may still wait for a lock and commit later (hazards
 * 1.15); with the tombstone there its row violates the primary key. If that backend got its row in first, the insert waits for it, at most
 * settle_lock_ms.
 */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/failpoint.h"
#include "lockstep/ids.h"
#include "participant/pg/driver.h"
#include "participant/pg/sql.h"

struct settle {
    struct task task;
    struct lane *lane;
    char gtid[LS_GTID_MAX + 1];
    enum agent_settle_result result;
    char app[LS_IDENTITY_MAX + 1]; /* of a committed row */
};
/* begin, timeout, insert, read, commit */
enum { SETTLE_READ = 3, SETTLE_COMMIT = 4, SETTLE_ITEMS = 5 };

static enum agent_settle_result settle_read(struct pg *pg, const struct conn_batch *batch, char app[LS_IDENTITY_MAX + 1])
{
    if (batch->failed < batch->count) {
        const struct conn_item *item = &batch->items[batch->failed];
        if (strcmp(conn_sqlstate(item), "55P03") == 0)
            return AGENT_SETTLE_BUSY;
        pg_report(pg, DIAG_ERROR, "an outcome row cannot be settled now", conn_message(item));
        return AGENT_SETTLE_FAILED;
    }
    const struct conn_item *commit = &batch->items[SETTLE_COMMIT];
    const char *state = conn_value(&batch->items[SETTLE_READ], 0, 0);
    if (state == NULL || strcmp(PQcmdStatus(commit->result), "COMMIT") != 0)
        return AGENT_SETTLE_FAILED;
    if (strcmp(state, "committed") == 0) {
        const char *owner = conn_value(&batch->items[SETTLE_READ], 0, 1);
        snprintf(app, LS_IDENTITY_MAX + 1, "%s", owner != NULL ? owner : "");
        return AGENT_SETTLE_COMMITTED;
    }
    const char *beyond = conn_value(&batch->items[SETTLE_READ], 0, 2);
    if (beyond == NULL || beyond[0] != 'f')
        return AGENT_SETTLE_FORGOTTEN; /* the tombstone says nothing: a row may have been pruned from its place */
    /* A tombstone that the standby may not have is none yet. The row stays; the next try waits for the standby again. */
    return commit->warned ? AGENT_SETTLE_FAILED : AGENT_SETTLE_ABORTED;
}

static void settle_answered(void *context, struct conn *conn, struct conn_batch *batch)
{
    (void)conn;
    struct settle *settle = context;
    settle->result = batch->lost ? AGENT_SETTLE_FAILED : settle_read(settle->task.pg, batch, settle->app);
}

/* The transaction is over, or was rolled back: only now may the lane serve others. */
static void settle_ended(void *context, struct conn *conn, struct conn_batch *batch)
{
    (void)conn;
    struct settle *settle = context;
    struct pg *pg = settle->task.pg;
    struct lane *lane = settle->lane;
    struct agent_event event = {.kind = AEV_DB_SETTLE, .op = settle->task.op};
    bool lost = batch->lost;
    char app[LS_IDENTITY_MAX + 1];
    memcpy(app, settle->app, sizeof(app));
    event.settled.result = settle->result;
    event.settled.app = app[0] != '\0' ? app : NULL;
    free(settle);
    /* Crash: the tombstone or the row is there; whoever asks next reads it. */
    if (failpoint_hit(FP_agent_after_tombstone))
        event.settled.result = AGENT_SETTLE_FAILED;
    pg_answer(pg, &event);
    if (!lost)
        lane_batch_done(lane);
}

static void settle_send(struct task *task, struct lane *lane)
{
    struct settle *settle = (struct settle *)task;
    struct pg *pg = task->pg;
    char timeout[16];
    const char *values[] = {settle->gtid, pg->participant}, *timeouts[] = {timeout, "0", "0"};
    snprintf(timeout, sizeof(timeout), "%" PRIu32, pg->settle_lock_ms);
    settle->lane = lane;
    struct conn_batch *batch = conn_begin(lane->conn, SETTLE_ITEMS, settle_answered, settle);
    /* Crash: nothing was said; a later life settles it. */
    if (failpoint_hit(FP_agent_before_tombstone))
        conn_close(lane->conn, "fault asked for");
    conn_add(lane->conn, batch, "begin", 0, NULL);
    conn_add(lane->conn, batch, SQL_AGAIN, 3, timeouts);
    conn_add(lane->conn, batch, SQL_TOMBSTONE, 2, values);
    conn_add(lane->conn, batch, SQL_READ_OUTCOME, 2, values);
    conn_add(lane->conn, batch, "commit", 0, NULL);
    conn_end(lane->conn, batch);
    batch = conn_begin(lane->conn, 1, settle_ended, settle);
    conn_add(lane->conn, batch, "rollback", 0, NULL);
    conn_end(lane->conn, batch);
}

static void settle_failed(struct task *task, const char *reason)
{
    (void)reason;
    pg_answer_late(task->pg, AEV_DB_SETTLE, task->op)->event.settled.result = AGENT_SETTLE_FAILED;
    free(task);
}

void outcome_settle(struct pg *pg, const struct agent_effect *effect)
{
    struct settle *settle = memory_new(sizeof(*settle));
    settle->task.op = effect->op;
    settle->task.exclusive = true;
    settle->task.send = settle_send;
    settle->task.fail = settle_failed;
    snprintf(settle->gtid, sizeof(settle->gtid), "%s", effect->gtid);
    lane_submit(pg, &settle->task);
}

/* ---- keys */

struct read_key {
    struct task task;
    struct lane *lane;
    char app[LS_IDENTITY_MAX + 1], key[LS_KEY_MAX + 1];
};

static int nibble(char c)
{
    return c >= 'a' ? c - 'a' + 10 : c - '0';
}

static void key_done(void *context, struct conn *conn, struct conn_batch *batch)
{
    (void)conn;
    struct read_key *read = context;
    struct pg *pg = read->task.pg;
    struct lane *lane = read->lane;
    struct agent_event event = {.kind = AEV_DB_READ_KEY, .op = read->task.op};
    uint8_t hash[64];
    bool lost = batch->lost;
    free(read);
    /* Crash: the key's first transaction stands, this one was rolled back. */
    (void)failpoint_hit(FP_agent_key_read);
    if (!lost && batch->failed == batch->count) {
        const char *hex = conn_value(&batch->items[0], 0, 1);
        event.key.ok = true;
        event.key.gtid = conn_value(&batch->items[0], 0, 0);
        event.key.found = event.key.gtid != NULL;
        for (; hex != NULL && hex[0] != '\0' && hex[1] != '\0' && event.key.hash_length < sizeof(hash); hex += 2)
            hash[event.key.hash_length++] = (uint8_t)(nibble(hex[0]) << 4 | nibble(hex[1]));
        event.key.hash = hash;
    } else if (!lost) {
        pg_report(pg, DIAG_ERROR, "an outcome row cannot be read now", conn_message(&batch->items[batch->failed]));
    }
    pg_answer(pg, &event);
    if (!lost)
        lane_batch_done(lane);
}

static void key_send(struct task *task, struct lane *lane)
{
    struct read_key *read = (struct read_key *)task;
    const char *values[] = {task->pg->participant, read->app, read->key};
    read->lane = lane;
    struct conn_batch *batch = conn_begin(lane->conn, 1, key_done, read);
    conn_add(lane->conn, batch, SQL_READ_KEY, 3, values);
    conn_end(lane->conn, batch);
}

static void key_failed(struct task *task, const char *reason)
{
    (void)reason;
    pg_answer_late(task->pg, AEV_DB_READ_KEY, task->op)->event.key.ok = false;
    free(task);
}

void outcome_read_key(struct pg *pg, const struct agent_effect *effect)
{
    const Lockstep__Work *work = effect->read_key.work;
    struct read_key *read = memory_new(sizeof(*read));
    read->task.op = effect->op;
    read->task.send = key_send;
    read->task.fail = key_failed;
    snprintf(read->app, sizeof(read->app), "%s", work->app);
    snprintf(read->key, sizeof(read->key), "%s", work->key != NULL ? work->key : "");
    lane_submit(pg, &read->task);
}
