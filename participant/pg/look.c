/*
 * look.c: statements that only look, on a session of their own: it is opened when there is something to look at and
 * closed when nothing is left. So a long look delays no COMMIT PREPARED, and a server without a free connection costs
 * the answer and nothing else.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "participant/pg/driver.h"

struct look {
    pg_query_fn *done;
    void *context;
    const char *sql;
    int count;
    char *values[PG_QUERY_VALUES_MAX];
    struct look *next;
};

struct look_out {
    struct conn *conn;
    struct look *first, **last; /* the first one is with the server once the session is ready */
    uint32_t count;
    struct event *late; /* none of it can be asked */
};

static void look_free(struct look *look) {
    for (int i = 0; i < look->count; i++) free(look->values[i]);
    free(look);
}

static struct look *take_first(struct look_out *out) {
    struct look *look = out->first;
    out->first = look->next;
    out->count--;
    if (out->first == NULL) out->last = &out->first;
    return look;
}

static void fail_all(struct look_out *out) {
    struct look *look = out->first;
    out->first = NULL;
    out->last = &out->first;
    out->count = 0;
    while (look != NULL) {
        struct look *next = look->next;
        look->done(look->context, PG_QUERY_LOST, NULL);
        look_free(look);
        look = next;
    }
}

static void on_late(evutil_socket_t fd, short what, void *arg) {
    (void)fd;
    (void)what;
    fail_all(arg);
}

static void send_first(struct look_out *out);

static void looked(void *context, struct conn *conn, struct conn_batch *batch) {
    struct look_out *out = context;
    if (batch->lost) return; /* on_closed follows */
    struct look *look = take_first(out);
    bool failed = batch->failed < batch->count;
    look->done(look->context, failed ? PG_QUERY_FAILED : PG_QUERY_OK, &batch->items[failed ? batch->failed : 1]);
    look_free(look);
    if (out->first != NULL) {
        send_first(out);
        return;
    }
    out->conn = NULL;
    conn_free(conn);
}

static void send_first(struct look_out *out) {
    char timeout[16];
    const struct look *look = out->first;
    snprintf(timeout, sizeof(timeout), "%d", PG_LOOK_MS);
    struct conn_batch *batch = conn_begin(out->conn, 2, looked, out);
    conn_add(out->conn, batch, "select pg_catalog.set_config('statement_timeout', $1, false)", 1,
             (const char *[]){timeout});
    conn_add(out->conn, batch, look->sql, look->count, (const char *const *)look->values);
    conn_end(out->conn, batch);
}

static void on_ready(void *context, struct conn *conn) {
    (void)conn;
    send_first(context);
}

static void on_closed(void *context, struct conn *conn, const char *reason) {
    (void)conn;
    (void)reason;
    struct look_out *out = context;
    out->conn = NULL;
    fail_all(out);
}

static void open_session(struct pg *pg) {
    static const struct conn_callbacks callbacks = {on_ready, on_closed};
    struct look_out *out = pg->look_out;
    struct ls_error err;
    if (pg_connect(pg, PG_PURPOSE_CONTROL, pg->target->user, &callbacks, out, &out->conn, &err) != LS_OK) {
        out->conn = NULL;
        event_active(out->late, EV_TIMEOUT, 0);
    }
}

void pg_look(struct pg *pg, const char *sql, int count, const char *const *values, pg_query_fn *done, void *context) {
    struct look_out *out = pg->look_out;
    if (out == NULL) {
        out = pg->look_out = memory_new(sizeof(*out));
        out->last = &out->first;
        out->late = event_new(pg->base, -1, 0, on_late, out);
        if (out->late == NULL) abort();
    }
    if (out->count == PG_LOOKS_MAX) {
        done(context, PG_QUERY_LOST, NULL);
        return;
    }
    struct look *look = memory_new(sizeof(*look));
    look->done = done;
    look->context = context;
    look->sql = sql;
    look->count = count;
    for (int i = 0; i < count; i++)
        if (values[i] != NULL && (look->values[i] = strdup(values[i])) == NULL) abort();
    *out->last = look;
    out->last = &look->next;
    out->count++;
    if (out->conn == NULL) open_session(pg);
}

void look_close_all(struct pg *pg) {
    struct look_out *out = pg->look_out;
    if (out == NULL) return;
    conn_free(out->conn);
    while (out->first != NULL) look_free(take_first(out));
    event_free(out->late);
    free(out);
}
