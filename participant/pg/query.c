/*
 * query.c: one statement of the agent's own on a finisher, answered by a callback: for the relay, whose statements want
 * no more than that.
 */
#include <stdlib.h>
#include <string.h>

#include "participant/pg/driver.h"

struct query {
    struct task task;
    struct lane *lane;
    bool locked;
    pg_query_fn *done;
    void *context;
    struct event *late; /* when no connection could be had */
    const char *sql;
    int count;
    char *values[PG_QUERY_VALUES_MAX];
};

static void query_free(struct query *query) {
    for (int i = 0; i < query->count; i++) free(query->values[i]);
    if (query->late != NULL) event_free(query->late);
    free(query);
}

static void query_done(void *context, struct conn *conn, struct conn_batch *batch) {
    (void)conn;
    struct query *query = context;
    struct lane *lane = query->lane;
    bool lost = batch->lost;
    enum pg_query_result result = lost ? PG_QUERY_LOST : batch->failed < batch->count ? PG_QUERY_FAILED : PG_QUERY_OK;
    query->done(query->context, result, &batch->items[0]);
    query_free(query);
    if (!lost) lane_batch_done(lane);
}

static void on_late(evutil_socket_t fd, short what, void *arg) {
    (void)fd;
    (void)what;
    struct query *query = arg;
    query->done(query->context, PG_QUERY_LOST, NULL);
    query_free(query);
}

static void query_failed(struct task *task, const char *reason) {
    (void)reason;
    struct query *query = (struct query *)task;
    query->late = event_new(task->pg->base, -1, 0, on_late, query);
    if (query->late == NULL) abort();
    event_active(query->late, EV_TIMEOUT, 0);
}

static void query_send(struct task *task, struct lane *lane) {
    struct query *query = (struct query *)task;
    if (query->locked && task->pg->control_state != CONTROL_LOCKED) { /* lost while it waited for its turn */
        lane->exclusive = false;
        query_failed(task, "without the lock");
        return;
    }
    query->lane = lane;
    struct conn_batch *batch = conn_begin(lane->conn, 1, query_done, query);
    conn_add(lane->conn, batch, query->sql, query->count, (const char *const *)query->values);
    conn_end(lane->conn, batch);
}

static struct query *query_new(const char *sql, int count, const char *const *values, pg_query_fn *done,
                               void *context) {
    struct query *query = memory_new(sizeof(*query));
    query->task.send = query_send;
    query->task.fail = query_failed;
    query->done = done;
    query->context = context;
    query->sql = sql;
    query->count = count;
    for (int i = 0; i < count; i++)
        if (values[i] != NULL && (query->values[i] = strdup(values[i])) == NULL) abort();
    return query;
}

void pg_query(struct pg *pg, const char *sql, int count, const char *const *values, bool exclusive, pg_query_fn *done,
              void *context) {
    struct query *query = query_new(sql, count, values, done, context);
    query->task.exclusive = exclusive;
    lane_submit(pg, &query->task);
}

void pg_query_locked(struct pg *pg, const char *sql, int count, const char *const *values, pg_query_fn *done,
                     void *context) {
    struct query *query = query_new(sql, count, values, done, context);
    query->task.exclusive = query->locked = true;
    lane_submit(pg, &query->task);
}
