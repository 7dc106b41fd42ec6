/*
 * proof.c: what the server is (identity), how one transaction ended (proof), what is prepared (scan). Each is one statement, so that what it says
 * belongs together (design 2.4). They change nothing and may be asked as often as one likes.
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
#include "participant/pg/xid.h"

struct question {
    struct task task;
    struct lane *lane;
    char gid[LS_GID_MAX + 1];
    char xid[24];  /* "": not asked */
    bool future;   /* the server said that the xid lies in the future */
    uint32_t limit;
};

static struct question *question_new(struct pg *pg, uint64_t op, void (*send)(struct task *, struct lane *),
                                     void (*fail)(struct task *, const char *))
{
    struct question *question = memory_new(sizeof(*question));
    question->task.pg = pg;
    question->task.op = op;
    question->task.send = send;
    question->task.fail = fail;
    return question;
}

/* Frees the question and hands its answer on. */
static void end(struct question *question, bool lost, struct agent_event *event)
{
    struct pg *pg = question->task.pg;
    struct lane *lane = question->lane;
    event->op = question->task.op;
    free(question);
    pg_answer(pg, event);
    if (!lost)
        lane_batch_done(lane);
}

static bool answered(struct pg *pg, const struct conn_batch *batch, const char *what)
{
    if (batch->lost)
        return false;
    if (batch->failed < batch->count) {
        pg_report(pg, DIAG_ERROR, what, conn_message(&batch->items[batch->failed]));
        return false;
    }
    return true;
}

static bool read_history(const struct conn_item *item, int column, struct agent_switch list[AGENT_HISTORY_MAX], uint32_t *ret_count)
{
    const char *text = conn_value(item, 0, column);
    *ret_count = 0;
    return text != NULL && pg_parse_history(text, list, AGENT_HISTORY_MAX, ret_count);
}

/* ---- identity */

static bool read_fence(const struct conn_item *item, struct agent_event *event)
{
    const char *incarnation = conn_value(item, 0, IDENTITY_FENCE_INCARNATION);
    const char *chain = conn_value(item, 0, IDENTITY_FENCE_CHAIN);
    uint64_t epoch, position;
    if (incarnation == NULL)
        return true; /* none stored yet */
    if (strlen(incarnation) != LS_INCARNATION_LEN || chain == NULL || !pg_parse_u64(conn_value(item, 0, IDENTITY_FENCE_EPOCH), &epoch) ||
        epoch > UINT32_MAX || !pg_parse_u64(conn_value(item, 0, IDENTITY_FENCE_POSITION), &position))
        return false;
    struct agent_fence *fence = &event->identity.fence;
    snprintf(fence->incarnation, sizeof(fence->incarnation), "%s", incarnation);
    fence->epoch = (uint32_t)epoch;
    fence->position = position;
    fence->chain = (uint64_t)strtoll(chain, NULL, 10);
    event->identity.has_fence = true;
    return true;
}

static void identity_done(void *context, struct conn *conn, struct conn_batch *batch)
{
    (void)conn;
    struct question *question = context;
    struct pg *pg = question->task.pg;
    struct agent_switch history[AGENT_HISTORY_MAX];
    struct agent_event event = {.kind = AEV_DB_IDENTITY};
    bool lost = batch->lost;
    if (answered(pg, batch, "the server's identity cannot be read")) {
        const struct conn_item *item = &batch->items[0];
        uint64_t max_prepared = 0;
        event.identity.ok = pg_read_server(item, 0, IDENTITY_SYSTEM_ID, &event.identity.server) &&
                            pg_parse_u64(conn_value(item, 0, IDENTITY_MAX_PREPARED), &max_prepared) && read_fence(item, &event) &&
                            read_history(item, IDENTITY_HISTORY, history, &event.identity.history_count);
        event.identity.max_prepared = (uint32_t)max_prepared;
        event.identity.history = history;
        if (!event.identity.ok)
            pg_report(pg, DIAG_ERROR, "the server's identity cannot be understood", "");
    }
    end(question, lost, &event);
}

static void identity_send(struct task *task, struct lane *lane)
{
    struct question *question = (struct question *)task;
    const char *values[] = {task->pg->participant, task->pg->coordinator};
    question->lane = lane;
    struct conn_batch *batch = conn_begin(lane->conn, 1, identity_done, question);
    conn_add(lane->conn, batch, SQL_IDENTITY, 2, values);
    conn_end(lane->conn, batch);
}

static void identity_failed(struct task *task, const char *reason)
{
    (void)reason;
    pg_answer_late(task->pg, AEV_DB_IDENTITY, task->op)->event.identity.ok = false;
    free(task);
}

void proof_identity(struct pg *pg, uint64_t op)
{
    lane_submit(pg, &question_new(pg, op, identity_send, identity_failed)->task);
}

/* ---- proof */

static enum agent_xact_status read_status(const char *text, bool asked)
{
    if (!asked)
        return AGENT_XACT_UNKNOWN;
    if (text == NULL)
        return AGENT_XACT_TOO_OLD;
    if (strcmp(text, "committed") == 0)
        return AGENT_XACT_COMMITTED;
    if (strcmp(text, "aborted") == 0)
        return AGENT_XACT_ABORTED;
    return AGENT_XACT_IN_PROGRESS;
}

static bool read_listed(const struct conn_item *item, int row, int xid_column, int owner_column, int xmax_column, uint64_t *ret_xid,
                        const char **ret_owner)
{
    uint64_t xid, xmax;
    if (!pg_parse_u64(conn_value(item, row, xid_column), &xid) || xid > UINT32_MAX ||
        !pg_parse_u64(conn_value(item, row, xmax_column), &xmax))
        return false;
    *ret_xid = pg_full_xid((uint32_t)xid, xmax);
    const char *owner = conn_value(item, row, owner_column);
    *ret_owner = owner != NULL ? owner : ""; /* a role may be dropped over the head of what it has prepared */
    return *ret_xid != 0;
}

static void prove_send(struct task *task, struct lane *lane);

static void prove_done(void *context, struct conn *conn, struct conn_batch *batch)
{
    (void)conn;
    struct question *question = context;
    struct agent_switch history[AGENT_HISTORY_MAX];
    struct agent_event event = {.kind = AEV_DB_PROVE};
    struct agent_proof_seen *seen = &event.prove.seen;
    const struct conn_item *item = &batch->items[0];
    bool lost = batch->lost;
    if (!lost && question->xid[0] != '\0' && strcmp(conn_sqlstate(item), "22023") == 0) {
        /* "In the future" is an ERROR and means that the server has lost the transaction. The same statement without the xid says the rest; an
         * xid that has come into use by then belongs to somebody else, so the answer stays. */
        question->future = true;
        question->xid[0] = '\0';
        prove_send(&question->task, question->lane);
        return;
    }
    /* Crash: a proof changes nothing and can be had again. */
    (void)failpoint_hit(FP_agent_proof_answered);
    if (answered(question->task.pg, batch, "a transaction's end cannot be proved now")) {
        seen->listed = conn_value(item, 0, PROOF_LISTED_XID) != NULL;
        event.prove.ok = pg_read_server(item, 0, PROOF_SYSTEM_ID, &seen->server) &&
                         read_history(item, PROOF_HISTORY, history, &seen->history_count) &&
                         (!seen->listed || read_listed(item, 0, PROOF_LISTED_XID, PROOF_LISTED_OWNER, PROOF_XMAX, &seen->listed_xid,
                                                       &seen->listed_owner));
        seen->status =
            question->future ? AGENT_XACT_FUTURE : read_status(conn_value(item, 0, PROOF_STATUS), question->xid[0] != '\0');
        seen->history = history;
    }
    end(question, lost, &event);
}

static void prove_send(struct task *task, struct lane *lane)
{
    struct question *question = (struct question *)task;
    const char *values[] = {question->gid, question->xid[0] != '\0' ? question->xid : NULL};
    question->lane = lane;
    struct conn_batch *batch = conn_begin(lane->conn, 1, prove_done, question);
    conn_add(lane->conn, batch, SQL_PROVE, 2, values);
    conn_end(lane->conn, batch);
}

static void prove_failed(struct task *task, const char *reason)
{
    (void)reason;
    pg_answer_late(task->pg, AEV_DB_PROVE, task->op)->event.prove.ok = false;
    free(task);
}

void proof_start(struct pg *pg, const struct agent_effect *effect)
{
    struct question *question = question_new(pg, effect->op, prove_send, prove_failed);
    snprintf(question->gid, sizeof(question->gid), "%s", effect->prove.gid);
    if (effect->prove.xid != 0)
        snprintf(question->xid, sizeof(question->xid), "%" PRIu64, effect->prove.xid);
    lane_submit(pg, &question->task);
}

/* ---- scan */

/*
 * The bytes that every gid of this coordinator and participant begins and ends with, in both forms. In the base64 form only the characters
 * that the coordinator's name alone determines; the rest is checked by ls_gid_parse.
 */
static void scan_bounds(const struct pg *pg, char prefix[2][LS_GID_MAX + 1], char suffix[2][LS_GID_MAX + 1])
{
    char gtid[LS_GTID_MAX + 1], gid[LS_GID_MAX + 1];
    size_t known = strlen(pg->coordinator) + 1; /* with the dot */
    snprintf(gtid, sizeof(gtid), "%s.000000000000.1.1", pg->coordinator);
    ls_gid_format(LS_GID_READABLE, gtid, pg->participant, gid);
    snprintf(prefix[0], LS_GID_MAX + 1, "%.*s", (int)(strlen("lockstep:") + known), gid);
    snprintf(suffix[0], LS_GID_MAX + 1, "%s", strrchr(gid, ':'));
    ls_gid_format(LS_GID_XA, gtid, pg->participant, gid);
    snprintf(suffix[1], LS_GID_MAX + 1, "%s", strrchr(gid, '_'));
    size_t head = (size_t)(strchr(gid, '_') - gid) + 1;
    snprintf(prefix[1], LS_GID_MAX + 1, "%.*s", (int)(head + known * 8 / 6), gid);
}

/* False: a row that cannot be understood. */
static bool read_scan(const struct conn_item *item, uint32_t limit, struct agent_prepared *rows,
                      struct agent_event *event)
{
    int count = PQntuples(item->result);
    bool none = count == 1 && conn_value(item, 0, SCAN_GID) == NULL;
    if (!pg_read_server(item, 0, SCAN_SYSTEM_ID, &event->scan.server))
        return false;
    for (int i = 0; i < count && !none; i++) {
        struct agent_prepared *row = &rows[event->scan.count];
        row->gid = conn_value(item, i, SCAN_GID);
        if (row->gid == NULL || !read_listed(item, i, SCAN_XID, SCAN_OWNER, SCAN_XMAX, &row->xid, &row->owner) ||
            !pg_parse_u64(conn_value(item, i, SCAN_AGE_MS), &row->age_ms))
            return false;
        const char *ours = conn_value(item, i, SCAN_OURS);
        row->foreign = ours == NULL || ours[0] != 't';
        event->scan.count++; /* whether it is ours byte for byte, the core looks itself: a page of look-alikes is a page too */
    }
    event->scan.more = !none && (uint32_t)count == limit;
    return true;
}

static void scan_done(void *context, struct conn *conn, struct conn_batch *batch)
{
    (void)conn;
    struct question *question = context;
    struct pg *pg = question->task.pg;
    struct agent_event event = {.kind = AEV_DB_SCAN};
    struct agent_prepared *rows = memory_new((question->limit + 1) * sizeof(*rows));
    bool lost = batch->lost;
    /* Crash: a list changes nothing. */
    (void)failpoint_hit(FP_agent_scan_done);
    if (answered(pg, batch, "prepared transactions cannot be listed")) {
        event.scan.rows = rows;
        event.scan.ok = read_scan(&batch->items[0], question->limit, rows, &event);
        if (!event.scan.ok)
            pg_report(pg, DIAG_ERROR, "the list of prepared transactions cannot be understood", "");
    }
    end(question, lost, &event);
    free(rows);
}

static void scan_send(struct task *task, struct lane *lane)
{
    struct question *question = (struct question *)task;
    char prefix[2][LS_GID_MAX + 1], suffix[2][LS_GID_MAX + 1], limit[12];
    scan_bounds(task->pg, prefix, suffix);
    snprintf(limit, sizeof(limit), "%" PRIu32, question->limit);
    const char *values[] = {question->gid, limit, prefix[0], prefix[1], suffix[0], suffix[1]};
    question->lane = lane;
    struct conn_batch *batch = conn_begin(lane->conn, 1, scan_done, question);
    conn_add(lane->conn, batch, SQL_SCAN, 6, values);
    conn_end(lane->conn, batch);
}

static void scan_failed(struct task *task, const char *reason)
{
    (void)reason;
    pg_answer_late(task->pg, AEV_DB_SCAN, task->op)->event.scan.ok = false;
    free(task);
}

void proof_scan(struct pg *pg, const struct agent_effect *effect)
{
    struct question *question = question_new(pg, effect->op, scan_send, scan_failed);
    snprintf(question->gid, sizeof(question->gid), "%s", effect->scan.after);
    question->limit = effect->scan.limit;
    lane_submit(pg, &question->task);
}
