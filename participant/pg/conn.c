/*
 * conn.c: see conn.h.
 *
 * The order of answers is libpq's: for each item its results, then NULL; for the Sync one PGRES_PIPELINE_SYNC. Notices are handed
 * over while the answers of their own item are parsed, so the head batch's current item is the one they belong to (tried on libpq 15).
 */
#include "participant/pg/conn.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define REASON_MAX 256

struct conn {
    struct event_base *base;
    struct conn_callbacks callbacks;
    void *context;
    PGconn *pg;
    int fd;                  /* the events below are for this one */
    struct event *readable, *writable, *timer, *kick;
    bool connected, writing; /* writing: EV_WRITE is armed */
    bool in_loop;            /* a handler of ours is on the stack: freeing waits */
    bool dead, freed;
    char reason[REASON_MAX];
    struct conn_batch *head, *tail;
    struct conn_batch *building;
    uint32_t queued;
};

static void on_socket(evutil_socket_t fd, short what, void *arg);
static void on_kick(evutil_socket_t fd, short what, void *arg);
static void on_timeout(evutil_socket_t fd, short what, void *arg);

/* ---- small helpers */

static void batch_free(struct conn_batch *batch)
{
    for (uint32_t i = 0; i < batch->count; i++)
        PQclear(batch->items[i].result);
    free(batch);
}

static void one_line(const char *text, char out[REASON_MAX])
{
    size_t n = 0;
    for (; *text != '\0' && n < REASON_MAX - 1; text++)
        out[n++] = *text == '\n' || *text == '\t' ? ' ' : *text;
    while (n > 0 && out[n - 1] == ' ')
        n--;
    out[n] = '\0';
}

/* Remembers the first reason; the end itself comes from the loop. */
static void fail(struct conn *conn, const char *reason)
{
    if (conn->dead)
        return;
    conn->dead = true;
    one_line(reason, conn->reason);
    event_active(conn->kick, EV_TIMEOUT, 0);
}

static void destroy(struct conn *conn)
{
    while (conn->head != NULL) {
        struct conn_batch *batch = conn->head;
        conn->head = batch->next;
        batch_free(batch);
    }
    if (conn->building != NULL)
        batch_free(conn->building);
    struct event *const events[] = {conn->readable, conn->writable, conn->timer, conn->kick};
    for (size_t i = 0; i < sizeof(events) / sizeof(events[0]); i++)
        if (events[i] != NULL)
            event_free(events[i]);
    PQfinish(conn->pg);
    free(conn);
}

/* Ends every queued batch as lost, in order, then says on_closed. */
static void finish_dead(struct conn *conn)
{
    assert(conn->dead);
    conn->in_loop = true;
    while (conn->head != NULL && !conn->freed) {
        struct conn_batch *batch = conn->head;
        conn->head = batch->next;
        if (conn->head == NULL)
            conn->tail = NULL; /* done may queue another, which then ends the same way */
        conn->queued--;
        batch->lost = true;
        batch->done(batch->context, conn, batch);
        batch_free(batch);
    }
    if (!conn->freed)
        conn->callbacks.on_closed(conn->context, conn, conn->reason);
    destroy(conn);
}

/* Leaves a handler: what was put off while it ran happens now. False: the connection is gone. */
static bool leave_loop(struct conn *conn)
{
    conn->in_loop = false;
    if (conn->freed) {
        destroy(conn);
        return false;
    }
    return true;
}

/* ---- socket events */

static bool watch(struct conn *conn)
{
    int fd = PQsocket(conn->pg);
    if (fd < 0)
        return false;
    if (fd == conn->fd)
        return true;
    /* libpq opens another socket for the next address or after refused TLS. */
    if (conn->readable != NULL) {
        event_free(conn->readable);
        event_free(conn->writable);
    }
    conn->fd = fd;
    conn->writing = false;
    conn->readable = event_new(conn->base, fd, EV_READ | EV_PERSIST, on_socket, conn);
    conn->writable = event_new(conn->base, fd, EV_WRITE | EV_PERSIST, on_socket, conn);
    return conn->readable != NULL && conn->writable != NULL;
}

static void want_write(struct conn *conn, bool want)
{
    if (want == conn->writing)
        return;
    conn->writing = want;
    if (want)
        event_add(conn->writable, NULL);
    else
        event_del(conn->writable);
}

static void flush(struct conn *conn)
{
    int rc = PQflush(conn->pg);
    if (rc < 0)
        fail(conn, PQerrorMessage(conn->pg));
    else
        want_write(conn, rc == 1);
}

static void on_notice(void *arg, const PGresult *result)
{
    struct conn *conn = arg;
    const char *severity = PQresultErrorField(result, PG_DIAG_SEVERITY_NONLOCALIZED);
    struct conn_batch *batch = conn->head;
    /* What comes behind the last item is about its commit, which the Sync brings: a standby that was not waited for. */
    if (severity != NULL && strcmp(severity, "WARNING") == 0 && batch != NULL && batch->count > 0)
        batch->items[batch->current < batch->count ? batch->current : batch->count - 1].warned = true;
}

/* ---- connecting */

static void connect_step(struct conn *conn)
{
    PostgresPollingStatusType status = PQconnectPoll(conn->pg);
    if (status == PGRES_POLLING_FAILED) {
        fail(conn, PQerrorMessage(conn->pg));
        return;
    }
    if (!watch(conn)) {
        fail(conn, "no socket");
        return;
    }
    if (status != PGRES_POLLING_OK) {
        bool reading = status == PGRES_POLLING_READING;
        if (reading)
            event_add(conn->readable, NULL);
        else
            event_del(conn->readable);
        want_write(conn, !reading);
        return;
    }
    if (PQsetnonblocking(conn->pg, 1) != 0 || PQenterPipelineMode(conn->pg) != 1) {
        fail(conn, "cannot enter pipeline mode");
        return;
    }
    event_del(conn->timer);
    event_add(conn->readable, NULL);
    want_write(conn, false);
    conn->connected = true;
    conn->callbacks.on_ready(conn->context, conn);
}

enum ls_status conn_open(struct event_base *base, const char *const *keywords, const char *const *values, unsigned timeout_ms,
                         const struct conn_callbacks *callbacks, void *context, struct conn **ret_conn, struct ls_error *err)
{
    struct conn *conn = calloc(1, sizeof(*conn));
    if (conn == NULL)
        return ls_fail(err, LS_ERR_NOMEM, "no memory for a connection");
    conn->base = base;
    conn->callbacks = *callbacks;
    conn->context = context;
    conn->fd = -1;
    conn->kick = event_new(base, -1, 0, on_kick, conn);
    conn->timer = event_new(base, -1, 0, on_timeout, conn);
    conn->pg = PQconnectStartParams(keywords, values, 0);
    if (conn->pg == NULL || conn->kick == NULL || conn->timer == NULL) {
        destroy(conn);
        return ls_fail(err, LS_ERR_NOMEM, "no memory for a connection");
    }
    PQsetNoticeReceiver(conn->pg, on_notice, conn);
    if (PQstatus(conn->pg) == CONNECTION_BAD || !watch(conn)) {
        char text[REASON_MAX];
        one_line(PQerrorMessage(conn->pg), text);
        destroy(conn);
        return ls_fail(err, LS_ERR_UNREACHABLE, "%s", text);
    }
    /* PQconnectPoll's first call must wait until the socket can be written. */
    want_write(conn, true);
    struct timeval timeout = {.tv_sec = timeout_ms / 1000, .tv_usec = (suseconds_t)(timeout_ms % 1000) * 1000};
    event_add(conn->timer, &timeout);
    *ret_conn = conn;
    return LS_OK;
}

void conn_free(struct conn *conn)
{
    if (conn == NULL)
        return;
    if (conn->in_loop)
        conn->freed = true;
    else
        destroy(conn);
}

void conn_close(struct conn *conn, const char *reason)
{
    fail(conn, reason);
}

/* ---- answers */

static void sync_answered(struct conn *conn)
{
    struct conn_batch *batch = conn->head;
    conn->head = batch->next;
    if (conn->head == NULL)
        conn->tail = NULL;
    conn->queued--;
    batch->done(batch->context, conn, batch);
    batch_free(batch);
}

static void stream_rows(struct conn_batch *batch, const PGresult *result)
{
    int rows = PQntuples(result);
    for (int i = 0; i < rows; i++)
        batch->row(batch->context, batch, batch->current, result, i);
    if (rows == 0)
        batch->row(batch->context, batch, batch->current, result, -1);
}

/* One result of the head batch's current item. */
static void item_answered(struct conn *conn, PGresult *result)
{
    struct conn_batch *batch = conn->head;
    if (batch->current >= batch->count) {
        PQclear(result);
        fail(conn, "an answer too many");
        return;
    }
    struct conn_item *item = &batch->items[batch->current];
    ExecStatusType status = PQresultStatus(result);
    if (item->stream && (status == PGRES_SINGLE_TUPLE || status == PGRES_TUPLES_OK))
        stream_rows(batch, result);
    if (status == PGRES_SINGLE_TUPLE) {
        PQclear(result);
        return;
    }
    PQclear(item->result);
    item->result = result;
    item->status = status;
    batch->has_result = true;
    if (status == PGRES_FATAL_ERROR && batch->failed > batch->current)
        batch->failed = batch->current;
}

static void item_ended(struct conn_batch *batch)
{
    batch->has_result = false;
    batch->single = false;
    batch->current++;
}

static void read_answers(struct conn *conn)
{
    unsigned nulls = 0; /* libpq puts one before the first item of a batch; a second one in a row is no news */
    while (conn->head != NULL && !conn->dead && !conn->freed && nulls < 2) {
        struct conn_batch *batch = conn->head;
        bool streams = batch->current < batch->count && batch->items[batch->current].stream;
        if (streams && !batch->single && !batch->has_result)
            batch->single = PQsetSingleRowMode(conn->pg) == 1;
        if (PQisBusy(conn->pg))
            return;
        PGresult *result = PQgetResult(conn->pg);
        if (result == NULL && batch->has_result)
            item_ended(batch);
        nulls = result == NULL ? nulls + 1 : 0;
        if (result == NULL)
            continue;
        if (PQresultStatus(result) != PGRES_PIPELINE_SYNC) {
            item_answered(conn, result);
            if (PQstatus(conn->pg) == CONNECTION_BAD)
                return; /* a FATAL: what libpq hands out from here on did not come from the server */
            continue;
        }
        PQclear(result);
        if (batch->current != batch->count)
            fail(conn, "an answer is missing");
        else
            sync_answered(conn);
    }
}

static void on_socket(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    struct conn *conn = arg;
    if (conn->dead)
        return;
    conn->in_loop = true;
    if (!conn->connected) {
        connect_step(conn);
    } else {
        bool gone = (what & EV_READ) != 0 && PQconsumeInput(conn->pg) == 0;
        read_answers(conn); /* what came before the end counts */
        if (!conn->freed && !conn->dead) {
            if (gone || PQstatus(conn->pg) == CONNECTION_BAD)
                fail(conn, PQerrorMessage(conn->pg));
            else
                flush(conn);
        }
    }
    (void)leave_loop(conn);
}

static void on_kick(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    finish_dead(arg);
}

static void on_timeout(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    fail(arg, "timed out while connecting");
}

/* ---- sending */

struct conn_batch *conn_begin(struct conn *conn, uint32_t capacity, conn_done_fn *done, void *context)
{
    assert(conn->building == NULL);
    assert(conn->connected);
    struct conn_batch *batch = calloc(1, sizeof(*batch) + capacity * sizeof(batch->items[0]));
    if (batch == NULL)
        abort(); /* small; without memory for it a crash is the shorter way to recovery */
    batch->capacity = capacity;
    batch->done = done;
    batch->context = context;
    conn->building = batch;
    return batch;
}

static void added(struct conn *conn, struct conn_batch *batch, int sent)
{
    assert(conn->building == batch);
    assert(batch->count < batch->capacity);
    batch->items[batch->count++].status = PGRES_EMPTY_QUERY;
    if (sent == 0)
        fail(conn, PQerrorMessage(conn->pg));
}

void conn_add(struct conn *conn, struct conn_batch *batch, const char *sql, int count, const char *const *values)
{
    added(conn, batch, conn->dead ? 1 : PQsendQueryParams(conn->pg, sql, count, NULL, values, NULL, NULL, 0));
}

void conn_add_named(struct conn *conn, struct conn_batch *batch, const char *name, int count, const char *const *values)
{
    added(conn, batch, conn->dead ? 1 : PQsendQueryPrepared(conn->pg, name, count, values, NULL, NULL, 0));
}

void conn_add_prepare(struct conn *conn, struct conn_batch *batch, const char *name, const char *sql)
{
    added(conn, batch, conn->dead ? 1 : PQsendPrepare(conn->pg, name, sql, 0, NULL));
}

void conn_end(struct conn *conn, struct conn_batch *batch)
{
    assert(conn->building == batch);
    conn->building = NULL;
    batch->failed = batch->count;
    if (conn->tail != NULL)
        conn->tail->next = batch;
    else
        conn->head = batch;
    conn->tail = batch;
    conn->queued++;
    if (conn->dead)
        return;
    if (PQpipelineSync(conn->pg) != 1)
        fail(conn, PQerrorMessage(conn->pg));
    else
        flush(conn);
}

/* ---- reading */

uint32_t conn_queued(const struct conn *conn)
{
    return conn->queued;
}

bool conn_is_ready(const struct conn *conn)
{
    return conn->connected && !conn->dead;
}

PGTransactionStatusType conn_transaction(const struct conn *conn)
{
    return PQtransactionStatus(conn->pg);
}

int conn_backend_pid(const struct conn *conn)
{
    return PQbackendPID(conn->pg);
}

const char *conn_sqlstate(const struct conn_item *item)
{
    const char *state = item->result != NULL ? PQresultErrorField(item->result, PG_DIAG_SQLSTATE) : NULL;
    return state != NULL ? state : "";
}

const char *conn_message(const struct conn_item *item)
{
    if (item->result == NULL)
        return "";
    const char *text = PQresultErrorField(item->result, PG_DIAG_MESSAGE_PRIMARY);
    return text != NULL ? text : PQresultErrorMessage(item->result);
}

const char *conn_value(const struct conn_item *item, int row, int column)
{
    const PGresult *result = item->result;
    if (result == NULL || item->status != PGRES_TUPLES_OK || row >= PQntuples(result) || column >= PQnfields(result) ||
        PQgetisnull(result, row, column))
        return NULL;
    return PQgetvalue(result, row, column);
}
