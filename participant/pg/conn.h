/*
 * conn.h: one asynchronous libpq connection in a libevent loop, always in pipeline mode.
 *
 * Owns the PGconn, its socket events and the queue of batches that were sent and not answered yet. A batch is what lies between two
 * Syncs: its items are answered in order, and an item that fails skips the rest of its batch only. It knows nothing of branches,
 * roles or gids; it never blocks, never retries, and says nothing about a batch that it cannot know: a batch whose answers did not all
 * arrive ends `lost`, and what the server does with it is for others to prove.
 *
 * Life:  conn_open -> on_ready -> batches ... -> on_closed (exactly once; every batch still queued ends before it, `lost`).
 * Callbacks come from the loop only, never from inside a function of this header. From any of them every function may be called.
 *
 * Failure modes: no memory inside libpq, a full socket that breaks, a FATAL from the server: all of them end in on_closed.
 */
#ifndef LOCKSTEP_PG_CONN_H
#define LOCKSTEP_PG_CONN_H

#include <event2/event.h>
#include <libpq-fe.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lockstep/status.h"

struct conn;
struct conn_batch;

/* What became of one item. */
struct conn_item {
    ExecStatusType status; /* PGRES_EMPTY_QUERY: not answered */
    bool stream;           /* rows are handed to on_row as they come, and not kept */
    bool warned;           /* a WARNING came while the item was the current one */
    PGresult *result;      /* the batch's; NULL when not answered */
};

typedef void conn_done_fn(void *context, struct conn *conn, struct conn_batch *batch);
/* One row, or the description of a result without rows, of a streamed item; borrowed. */
typedef void conn_row_fn(void *context, struct conn_batch *batch, uint32_t item, const PGresult *result, int row);

struct conn_batch {
    conn_done_fn *done; /* called once; the batch and its results are freed when it returns */
    conn_row_fn *row;   /* for streamed items */
    void *context;
    bool lost;          /* not every item and the Sync were answered; the connection closes next */
    uint32_t failed;    /* the first item answered with an error; == count: none */
    uint32_t count;     /* items added */
    /* conn.c's own */
    uint32_t capacity, current;
    bool has_result, single;
    struct conn_batch *next;
    struct conn_item items[];
};

struct conn_callbacks {
    void (*on_ready)(void *context, struct conn *conn);
    /* `reason`: one line, without any secret. The connection is freed when this returns. */
    void (*on_closed)(void *context, struct conn *conn, const char *reason);
};

/* Starts to connect with libpq's keywords and values (copied by libpq). Whatever goes wrong later comes as on_closed; so does a
 * connection that is not there after timeout_ms. LS_ERR_NOMEM, LS_ERR_UNREACHABLE (at once; no on_closed follows). */
enum ls_status conn_open(struct event_base *base, const char *const *keywords, const char *const *values, unsigned timeout_ms,
                         const struct conn_callbacks *callbacks, void *context, struct conn **ret_conn,
                         struct ls_error *err) LS_MUST_CHECK;
/* Ends the connection without on_closed and without any batch's done. NULL is fine. */
void conn_free(struct conn *conn);
/* Ends it from the loop: queued batches end lost, on_closed(reason) follows. */
void conn_close(struct conn *conn, const char *reason);

/* A batch of at most `capacity` items. What cannot be sent makes the connection close; the batch then ends lost. Exactly one batch
 * is built at a time: conn_begin, conn_add_*, conn_end. */
struct conn_batch *conn_begin(struct conn *conn, uint32_t capacity, conn_done_fn *done, void *context);
/* Unnamed statement, text parameters of unspecified type (NULL entries are SQL nulls). */
void conn_add(struct conn *conn, struct conn_batch *batch, const char *sql, int count, const char *const *values);
/* A statement named by conn_add_prepare. */
void conn_add_named(struct conn *conn, struct conn_batch *batch, const char *name, int count, const char *const *values);
void conn_add_prepare(struct conn *conn, struct conn_batch *batch, const char *name, const char *sql);
/* Sync; everything leaves in one write. */
void conn_end(struct conn *conn, struct conn_batch *batch);

/* Batches not answered yet. */
uint32_t conn_queued(const struct conn *conn);
bool conn_is_ready(const struct conn *conn);
/* Once ready, while nothing is queued: PQTRANS_IDLE, PQTRANS_INTRANS or PQTRANS_INERROR. */
PGTransactionStatusType conn_transaction(const struct conn *conn);
/* As the server told libpq; a pooler tells another one than pg_backend_pid(). */
int conn_backend_pid(const struct conn *conn);

/* SQLSTATE of a failed item, "" if it has none (client-side errors, items not answered). Valid until the batch is freed. */
const char *conn_sqlstate(const struct conn_item *item);
/* Primary message, one line; "" if none. */
const char *conn_message(const struct conn_item *item);
/* A value as text; NULL for SQL null or when there is no such row. */
const char *conn_value(const struct conn_item *item, int row, int column);

#endif
