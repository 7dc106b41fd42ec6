/*
 * deliver.c: one event to one handler, exactly once: inbox row, handler and whatever it emits are one transaction, on a
 * worker session logged in as the role that has subscribed.
 *
 *   first pipeline    BEGIN, timeouts, inbox row: `run`, or what is there already
 *   second pipeline   the handler, deferred constraints, synchronous_commit again, COMMIT
 *
 * A backend that does not end in time is ended. An answer that is lost, or a commit that its standby may not have, is
 * RELAY_UNKNOWN: whoever parks or delivers it next waits for the inbox row, and for the standby.
 *
 * COMMIT may stand in one pipeline with the handler: the backend of a dead agent may commit late, but then the inbox
 * row is there with the effect, and whoever delivers the event again waits for it and finds it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/failpoint.h"
#include "common/text.h"
#include "participant/pg/driver.h"
#include "participant/pg/sql.h"

#define RELAY_APP "relay" /* its sessions are nobody else's; no identity has this form */
#define LOCK_MS "5000"
#define IDLE_GRACE_MS 5000u
#define END_GRACE_MS 10000u /* beyond the handler's own time: who catches query_canceled does not end by it */

struct delivery {
    struct branch branch; /* what a worker session is given to; first, and in no table */
    struct pg *pg;
    struct pg_delivery what;
    uint32_t statement_ms;
    pg_delivered_fn *done;
    void *context;
    enum relay_handled result;
    bool overstayed;
    char sqlstate[LS_SQLSTATE_LEN + 1], reason[PG_MESSAGE_MAX + 1];
    struct event *late, *overstay;
    struct delivery *next, **place;
};

static void free_events(struct delivery *delivery) {
    if (delivery->late != NULL) event_free(delivery->late);
    if (delivery->overstay != NULL) event_free(delivery->overstay);
}

static void finish(struct delivery *delivery) {
    struct pg *pg = delivery->pg;
    worker_release(pg, &delivery->branch);
    delivery->done(delivery->context, delivery->result, delivery->sqlstate, delivery->reason);
    *delivery->place = delivery->next;
    if (delivery->next != NULL) delivery->next->place = delivery->place;
    free_events(delivery);
    free(delivery);
}

static void on_late(evutil_socket_t fd, short what, void *arg) {
    (void)fd;
    (void)what;
    finish(arg);
}

static void finish_late(struct delivery *delivery, enum relay_handled result, const char *sqlstate,
                        const char *reason) {
    delivery->result = result;
    snprintf(delivery->sqlstate, sizeof(delivery->sqlstate), "%s", sqlstate);
    text_copy_line(delivery->reason, sizeof(delivery->reason), reason);
    delivery->late = event_new(delivery->pg->base, -1, 0, on_late, delivery);
    if (delivery->late == NULL) abort();
    event_active(delivery->late, EV_TIMEOUT, 0);
}

static void unknown(struct delivery *delivery, const char *sqlstate, const char *reason) {
    delivery->result = RELAY_UNKNOWN;
    snprintf(delivery->sqlstate, sizeof(delivery->sqlstate), "%s", sqlstate);
    text_copy_line(delivery->reason, sizeof(delivery->reason), reason);
}

/* A session is only handed on when nothing is open there. The server's last word says more than that it was the last.
 */
static void lost(struct delivery *delivery, const struct conn_batch *batch) {
    const struct conn_item *last = batch->failed < batch->count ? &batch->items[batch->failed] : NULL;
    if (delivery->branch.session != NULL) delivery->branch.session->dirt = DIRT_BAD;
    if (delivery->overstayed)
        unknown(delivery, "57014", "the handler did not end in time, its backend was ended");
    else if (last != NULL && conn_sqlstate(last)[0] != '\0')
        unknown(delivery, conn_sqlstate(last), conn_message(last));
    else
        unknown(delivery, "08006", "the handler's session was lost before its answer");
    finish(delivery);
}

static void ended_backend(void *context, enum pg_query_result result, const struct conn_item *item) {
    (void)context;
    (void)result;
    (void)item;
}

static void on_overstay(evutil_socket_t fd, short what, void *arg) {
    (void)fd;
    (void)what;
    struct delivery *delivery = arg;
    struct session *session = delivery->branch.session;
    const char *values[] = {delivery->branch.pid, delivery->branch.started};
    delivery->overstayed = true;
    pg_query(delivery->pg, SQL_STOP, 2, values, false, ended_backend, NULL);
    if (session != NULL) conn_close(session->conn, "a handler did not end in time");
}

static void rolled_back(void *context, struct conn *conn, struct conn_batch *batch) {
    struct delivery *delivery = context;
    if (batch->lost || batch->failed < batch->count || conn_transaction(conn) != PQTRANS_IDLE) {
        delivery->branch.session->dirt =
            DIRT_BAD; /* the backend rolls back with its session: it has failed all the same */
    }
    finish(delivery);
}

/* Says why, rolls back what is open, then answers. */
static void failed(struct delivery *delivery, struct conn *conn, const struct conn_item *item) {
    delivery->result = RELAY_FAILED;
    snprintf(delivery->sqlstate, sizeof(delivery->sqlstate), "%s", conn_sqlstate(item));
    text_copy_line(delivery->reason, sizeof(delivery->reason), conn_message(item));
    if (conn_transaction(conn) == PQTRANS_IDLE) { /* COMMIT itself was refused */
        finish(delivery);
        return;
    }
    struct conn_batch *batch = conn_begin(conn, 1, rolled_back, delivery);
    conn_add(conn, batch, "rollback", 0, NULL);
    conn_end(conn, batch);
}

static void ended(void *context, struct conn *conn, struct conn_batch *batch) {
    struct delivery *delivery = context;
    const struct conn_item *commit = &batch->items[batch->count - 1];
    bool committed = commit->status == PGRES_COMMAND_OK && strcmp(PQcmdStatus(commit->result), "COMMIT") == 0;
    if (!committed && batch->lost) {
        lost(delivery, batch);
    } else if (batch->failed < batch->count) {
        failed(delivery, conn, &batch->items[batch->failed]);
    } else {
        if (!committed) unknown(delivery, "25000", "COMMIT has rolled back without an error");
        if (committed && commit->warned) unknown(delivery, "01000", "committed, the standby may not have it");
        /* Crash: inbox row and effect are committed, nobody has been told: it comes again, and finds its row. */
        (void)failpoint_hit(FP_relay_handled);
        finish(delivery);
    }
}

static void send_handler(struct delivery *delivery, struct conn *conn) {
    const struct pg_delivery *what = &delivery->what;
    char sql[512 + RELAY_HANDLER_MAX], position[24], version[24];
    snprintf(sql, sizeof(sql), SQL_HANDLE, what->handler);
    snprintf(position, sizeof(position), "%" PRId64, what->position);
    snprintf(version, sizeof(version), "%" PRId64, what->version);
    const char *values[] = {what->source, position, what->type, what->key, version, what->saga, what->payload};
    const char *floor[] = {delivery->branch.session->login.sync_floor};
    delivery->result = RELAY_DONE;
    struct conn_batch *batch = conn_begin(conn, 4, ended, delivery);
    conn_add(conn, batch, sql, 7, values);
    conn_add(conn, batch, SQL_CONSTRAINTS, 0, NULL);
    conn_add(conn, batch, SQL_SYNC_AGAIN, 1, floor);
    conn_add(conn, batch, "commit", 0, NULL);
    conn_end(conn, batch);
    /* Crash: the backend goes on by itself; the inbox row is there with the effect, or neither is. */
    if (failpoint_hit(FP_relay_handler_sent)) conn_close(conn, "fault asked for");
}

static void taken(void *context, struct conn *conn, struct conn_batch *batch) {
    struct delivery *delivery = context;
    if (batch->lost) {
        lost(delivery, batch);
        return;
    }
    if (batch->failed < batch->count) {
        failed(delivery, conn, &batch->items[batch->failed]);
        return;
    }
    const char *answer = conn_value(&batch->items[batch->count - 1], 0, 0);
    if (answer != NULL && strcmp(answer, "run") == 0) {
        /* Crash: the inbox row stands in an open transaction that falls with its backend. */
        if (failpoint_hit(FP_relay_before_handler)) conn_close(conn, "fault asked for");
        send_handler(delivery, conn);
        return;
    }
    delivery->result = answer != NULL && strcmp(answer, "queued") == 0 ? RELAY_QUEUED : RELAY_DUPLICATE;
    /* It is acknowledged for what stands in the inbox, so that has to be on disk, whatever the role's
     * synchronous_commit says. */
    const char *floor[] = {delivery->branch.session->login.sync_floor};
    batch = conn_begin(conn, 2, ended, delivery);
    conn_add(conn, batch, SQL_SYNC_AGAIN, 1, floor);
    conn_add(conn, batch, "commit", 0, NULL);
    conn_end(conn, batch);
}

static void deliver_send(struct pg *pg, struct branch *branch) {
    struct delivery *delivery = (struct delivery *)branch;
    const struct pg_delivery *what = &delivery->what;
    struct session *session = branch->session;
    char position[24], version[24], statement[16], idle[16];
    snprintf(position, sizeof(position), "%" PRId64, what->position);
    snprintf(version, sizeof(version), "%" PRId64, what->version);
    snprintf(statement, sizeof(statement), "%" PRIu32, delivery->statement_ms);
    snprintf(idle, sizeof(idle), "%" PRIu32, delivery->statement_ms + IDLE_GRACE_MS);
    const char *times[] = {LOCK_MS, statement, idle};
    const char *values[] = {pg->secret, what->source, position,   what->handler, what->type,
                            what->key,  version,      what->saga, what->payload};
    struct conn_batch *batch = conn_begin(session->conn, 4, taken, delivery);
    if (session->dirt != DIRT_NONE) conn_add(session->conn, batch, SQL_RESET, 0, NULL);
    conn_add(session->conn, batch, SQL_BEGIN_READ_COMMITTED, 0, NULL);
    conn_add(session->conn, batch, SQL_AGAIN, 3, times);
    conn_add(session->conn, batch, SQL_INBOX_TAKE, 9, values);
    conn_end(session->conn, batch);
    session->dirt = DIRT_MUCH;
    const uint64_t ms = delivery->statement_ms + END_GRACE_MS;
    const struct timeval wait = {.tv_sec = (time_t)(ms / 1000), .tv_usec = (suseconds_t)(ms % 1000) * 1000};
    delivery->overstay = event_new(pg->base, -1, 0, on_overstay, delivery);
    if (delivery->overstay == NULL) abort();
    event_add(delivery->overstay, &wait);
}

static void deliver_no_session(struct pg *pg, struct branch *branch, const char *reason) {
    (void)pg;
    finish_late((struct delivery *)branch, RELAY_UNKNOWN, "08001", reason);
}

void pg_deliver(struct pg *pg, const struct pg_delivery *what, uint32_t statement_ms, pg_delivered_fn *done,
                void *context) {
    struct delivery *delivery = memory_new(sizeof(*delivery));
    struct branch *branch = &delivery->branch;
    delivery->pg = pg;
    delivery->what = *what;
    delivery->statement_ms = statement_ms;
    delivery->done = done;
    delivery->context = context;
    delivery->next = pg->deliveries;
    if (delivery->next != NULL) delivery->next->place = &delivery->next;
    delivery->place = &pg->deliveries;
    pg->deliveries = delivery;
    branch->send = deliver_send;
    branch->no_session = deliver_no_session;
    snprintf(branch->app, sizeof(branch->app), "%s", RELAY_APP);
    snprintf(branch->role, sizeof(branch->role), "%s", what->role);
    for (size_t i = 0; i < pg->role_count; i++)
        if (strcmp(pg->roles[i], what->role) == 0) {
            worker_acquire(branch, pg);
            return;
        }
    snprintf(delivery->reason, sizeof(delivery->reason), "database role %s is not one of this agent's `roles`",
             what->role);
    finish_late(delivery, RELAY_FAILED, "42501", delivery->reason);
}

/* ---- what has failed */

struct parking {
    pg_parked_fn *done;
    void *context;
};

static void parked(void *context, enum pg_query_result result, const struct conn_item *item) {
    struct parking parking = *(struct parking *)context;
    free(context);
    const char *state = result == PG_QUERY_OK ? conn_value(item, 0, 0) : NULL;
    if (result != PG_QUERY_OK ||
        item->warned) /* warned: it, or what it has found done, may not have reached the standby */
        parking.done(parking.context, RELAY_NOT_PARKED);
    else if (state == NULL)
        parking.done(parking.context, RELAY_THROUGH);
    else
        parking.done(parking.context, strcmp(state, "dead") == 0 ? RELAY_DEAD : RELAY_WAITING);
}

void pg_park(struct pg *pg, const struct pg_delivery *what, const char *sqlstate, const char *reason,
             uint32_t attempts_max, uint32_t wait_ms, pg_parked_fn *done, void *context) {
    struct parking *parking = memory_new(sizeof(*parking));
    char position[24], version[24], attempts[12], wait[12];
    snprintf(position, sizeof(position), "%" PRId64, what->position);
    snprintf(version, sizeof(version), "%" PRId64, what->version);
    snprintf(attempts, sizeof(attempts), "%" PRIu32, attempts_max);
    snprintf(wait, sizeof(wait), "%" PRIu32, wait_ms);
    const char *values[] = {pg->secret, what->source,  position, what->handler, what->type, what->key, version,
                            what->saga, what->payload, sqlstate, reason,        attempts,   wait};
    *parking = (struct parking){done, context};
    /* Crash: nothing is stored of its failure; it comes again. */
    (void)failpoint_hit(FP_relay_before_park);
    pg_query(pg, SQL_INBOX_PARK, 13, values, true, parked, parking);
}

void deliver_close_all(struct pg *pg) {
    while (pg->deliveries != NULL) {
        struct delivery *delivery = pg->deliveries;
        pg->deliveries = delivery->next;
        free_events(delivery);
        free(delivery);
    }
}
