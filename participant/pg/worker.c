/*
 * worker.c: worker sessions. Each logs in as a database role (SET ROLE would be no boundary: the branch's own SQL could reset it) and serves one
 * branch at a time. All roles together have at most workers_max; where that is reached, an idle session of another role makes room.
 *
 * Session states:  opening -> idle <-> busy -> closed. A session that may be dirty in a way that cannot be cleaned is closed at release.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "participant/pg/driver.h"
#include "participant/pg/sql.h"

static void pump(struct pg *pg);

/* ---- branches */

static struct branch **bucket_of(struct pg *pg, uint64_t number)
{
    return &pg->branches[number % PG_BRANCH_BUCKETS];
}

struct branch *branch_find(struct pg *pg, uint64_t number)
{
    struct branch *branch = *bucket_of(pg, number);
    while (branch != NULL && branch->number != number)
        branch = branch->hash_next;
    return branch;
}

static bool unwait(struct pg *pg, struct branch *branch)
{
    struct branch *before = NULL;
    if (!branch->waiting)
        return false;
    for (struct branch *at = pg->waiting; at != branch; at = at->wait_next)
        before = at;
    if (before != NULL)
        before->wait_next = branch->wait_next;
    else
        pg->waiting = branch->wait_next;
    if (pg->waiting_tail == branch)
        pg->waiting_tail = before;
    branch->waiting = false;
    return true;
}

static void branch_free(struct pg *pg, struct branch *branch)
{
    struct branch **at = bucket_of(pg, branch->number);
    while (*at != branch)
        at = &(*at)->hash_next;
    *at = branch->hash_next;
    execute_forget_results(branch);
    free(branch);
}

void branch_forget(struct pg *pg, uint64_t number)
{
    struct branch *branch = branch_find(pg, number);
    if (branch == NULL)
        return;
    (void)unwait(pg, branch);
    if (branch->session != NULL) {
        /* Whatever is open there, or not answered: it ends with the session, and nobody waits for it. */
        branch->session->dirt = DIRT_BAD;
        worker_release(pg, branch);
    }
    branch_free(pg, branch);
}

/* ---- sessions */

static void unlink_session(struct session *session)
{
    struct pg *pg = session->pg;
    if (session->prev != NULL)
        session->prev->next = session->next;
    else
        pg->sessions = session->next;
    if (session->next != NULL)
        session->next->prev = session->prev;
    pg->session_count--;
}

static void session_drop(struct session *session)
{
    unlink_session(session);
    conn_free(session->conn);
    statements_free(&session->statements);
    free(session);
}

static void link_session(struct pg *pg, struct session *session)
{
    session->prev = NULL;
    session->next = pg->sessions;
    if (pg->sessions != NULL)
        pg->sessions->prev = session;
    pg->sessions = session;
    pg->session_count++;
}

/* A branch's SQL can leave things in its session that nothing takes back but its end: it may replace the very statements that we have prepared
 * there. Apps may share a role; they never share a session. */
static bool serves(const struct session *session, const struct branch *branch)
{
    return strcmp(session->role, branch->role) == 0 && strcmp(session->app, branch->app) == 0;
}

static struct branch *first_waiting(struct pg *pg, const struct session *session)
{
    struct branch *branch = pg->waiting;
    while (branch != NULL && !serves(session, branch))
        branch = branch->wait_next;
    return branch;
}

static void on_closed(void *context, struct conn *conn, const char *reason)
{
    (void)conn;
    struct session *session = context;
    struct pg *pg = session->pg;
    unlink_session(session);
    if (session->branch != NULL)
        session->branch->session = NULL;
    if (session->state == SESSION_OPENING) {
        struct branch *branch = first_waiting(pg, session);
        pg_report_away(pg, PG_AWAY_WORKER, reason);
        if (branch != NULL && unwait(pg, branch))
            branch->no_session(pg, branch, reason);
    }
    statements_free(&session->statements);
    free(session);
    pump(pg);
}

static void login_done(void *context, struct conn *conn, struct conn_batch *batch)
{
    struct session *session = context;
    if (batch->lost)
        return;
    if (batch->failed < batch->count) {
        conn_close(conn, conn_message(&batch->items[batch->failed]));
    } else if (!pg_read_login(&batch->items[0], &session->login)) {
        conn_close(conn, "the session's identity cannot be read");
    } else if (!pg_is_own_session(&session->login, conn)) {
        conn_close(conn, "a pooler stands between the agent and PostgreSQL");
    } else {
        session->state = SESSION_IDLE;
        pg_report_there(session->pg, PG_AWAY_WORKER);
        pump(session->pg);
    }
}

static void on_ready(void *context, struct conn *conn)
{
    static const struct {
        const char *name, *sql;
    } statements[] = {{"ls_mark", SQL_MARK},
                      {"ls_again", SQL_AGAIN},
                      {"ls_guard", SQL_GUARD},
                      {"ls_guard_writer", SQL_GUARD_WRITER},
                      {"ls_lsn", SQL_LSN},
                      {"ls_unlock", SQL_UNLOCK}};
    enum { COUNT = sizeof(statements) / sizeof(statements[0]) };
    struct session *session = context;
    struct conn_batch *batch = conn_begin(conn, COUNT + 1, login_done, session);
    conn_add(conn, batch, SQL_LOGIN, 0, NULL);
    for (size_t i = 0; i < COUNT; i++)
        conn_add_prepare(conn, batch, statements[i].name, statements[i].sql);
    conn_end(conn, batch);
}

/* False: it failed at once; *reason says why. */
static bool open_session(struct pg *pg, const struct branch *branch, struct ls_error *err)
{
    static const struct conn_callbacks callbacks = {on_ready, on_closed};
    struct session *session = memory_new(sizeof(*session));
    const char *role = branch->role;
    lane_warm(pg, role);
    session->pg = pg;
    session->state = SESSION_OPENING;
    statements_init(&session->statements, pg->statements_max);
    snprintf(session->role, sizeof(session->role), "%s", role);
    snprintf(session->app, sizeof(session->app), "%s", branch->app);
    if (pg_connect(pg, PG_PURPOSE_WORKER, role, &callbacks, session, &session->conn, err) != LS_OK) {
        statements_free(&session->statements);
        free(session);
        return false;
    }
    link_session(pg, session);
    return true;
}

/* ---- matching */

static struct session *find_idle(struct pg *pg, const struct branch *branch)
{
    for (struct session *session = pg->sessions; session != NULL; session = session->next)
        if (session->state == SESSION_IDLE && conn_is_ready(session->conn) && serves(session, branch))
            return session;
    return NULL;
}

/* An idle session that no waiting branch could use. */
static struct session *find_spare(struct pg *pg)
{
    for (struct session *session = pg->sessions; session != NULL; session = session->next)
        if (session->state == SESSION_IDLE && first_waiting(pg, session) == NULL)
            return session;
    return NULL;
}

static uint32_t count_opening(const struct pg *pg, const struct branch *branch)
{
    uint32_t count = 0;
    for (const struct session *session = pg->sessions; session != NULL; session = session->next)
        count += session->state == SESSION_OPENING && serves(session, branch);
    return count;
}

static void assign(struct pg *pg, struct branch *branch, struct session *session)
{
    session->state = SESSION_BUSY;
    session->branch = branch;
    branch->session = session;
    memcpy(branch->pid, session->login.pid, sizeof(branch->pid));
    memcpy(branch->started, session->login.started, sizeof(branch->started));
    branch->send(pg, branch);
}

/* How many branches stand before `branch` for the same role and app; each of them has an opening session to hope for. */
static uint32_t rank(const struct pg *pg, const struct branch *branch)
{
    uint32_t n = 0;
    for (const struct branch *at = pg->waiting; at != branch; at = at->wait_next)
        n += strcmp(at->role, branch->role) == 0 && strcmp(at->app, branch->app) == 0;
    return n;
}

static void open_for(struct pg *pg, struct branch *branch)
{
    struct ls_error err;
    struct session *spare;
    if (rank(pg, branch) < count_opening(pg, branch))
        return;
    if (pg->session_count >= pg->workers_max) {
        if ((spare = find_spare(pg)) == NULL)
            return; /* the first release comes back here */
        session_drop(spare);
    }
    if (!open_session(pg, branch, &err) && unwait(pg, branch))
        branch->no_session(pg, branch, err.text);
}

static void pump(struct pg *pg)
{
    struct branch *next;
    for (struct branch *branch = pg->waiting; branch != NULL; branch = next) {
        next = branch->wait_next;
        struct session *session = find_idle(pg, branch);
        if (session != NULL && unwait(pg, branch))
            assign(pg, branch, session);
        else
            open_for(pg, branch);
    }
}

void worker_acquire(struct branch *branch, struct pg *pg)
{
    assert(branch->session == NULL && !branch->waiting);
    struct session *session = find_idle(pg, branch);
    if (session != NULL) {
        assign(pg, branch, session);
        return;
    }
    branch->waiting = true;
    branch->wait_next = NULL;
    if (pg->waiting_tail != NULL)
        pg->waiting_tail->wait_next = branch;
    else
        pg->waiting = branch;
    pg->waiting_tail = branch;
    open_for(pg, branch);
}

/* ---- release */

static void cleaned(void *context, struct conn *conn, struct conn_batch *batch)
{
    (void)context;
    if (!batch->lost && batch->failed < batch->count)
        conn_close(conn, "a session could not be cleaned");
}

/* Its Sync stands ahead of the next branch's pipeline: nobody waits for it. */
static void clean(struct session *session)
{
    struct conn_batch *batch = conn_begin(session->conn, 5, cleaned, session);
    conn_add(session->conn, batch, SQL_RESET, 0, NULL);
    conn_add_named(session->conn, batch, "ls_unlock", 0, NULL);
    conn_add(session->conn, batch, SQL_UNLISTEN, 0, NULL);
    conn_add(session->conn, batch, SQL_CLOSE, 0, NULL);
    conn_add(session->conn, batch, SQL_DISCARD_TEMP, 0, NULL);
    conn_end(session->conn, batch);
}

/* What could not be prepared is sent as text; a lock in the way says nothing of the statement. */
static void prepared(void *context, struct conn *conn, struct conn_batch *batch)
{
    struct session *session = context;
    if (batch->lost)
        return;
    uint32_t wanted = statements_wanted(&session->statements), first = batch->count - wanted;
    if (batch->failed < first) {
        conn_close(conn, "a session could not be cleaned");
        return;
    }
    const char *state = batch->failed < batch->count ? conn_sqlstate(&batch->items[batch->failed]) : "";
    statements_prepared(&session->statements, &session->pg->refused, batch->failed - first, strcmp(state, "55P03") != 0);
}

/* Nobody waits for its Sync either, and no lock that the server wants for parsing holds up the next branch for long. */
static void prepare(struct session *session)
{
    struct statements *statements = &session->statements;
    uint32_t wanted = statements_wanted(statements);
    if (wanted == 0 && statements->evicted[0] == '\0')
        return;
    struct conn_batch *batch = conn_begin(session->conn, wanted + 3, prepared, session);
    conn_add(session->conn, batch, SQL_RESET, 0, NULL);
    conn_add(session->conn, batch, SQL_PARSE_SOON, 0, NULL);
    if (statements->evicted[0] != '\0') {
        char sql[32 + STATEMENT_NAME_MAX];
        snprintf(sql, sizeof(sql), "deallocate %s", statements->evicted);
        statements->evicted[0] = '\0';
        conn_add(session->conn, batch, sql, 0, NULL);
    }
    for (uint32_t i = 0; i < statements->count; i++)
        if (statements->list[i].state == STATEMENT_WANTED)
            conn_add_prepare(session->conn, batch, statements->list[i].name, statements->list[i].sql);
    conn_end(session->conn, batch);
    session->dirt = DIRT_NONE;
}

void worker_release(struct pg *pg, struct branch *branch)
{
    struct session *session = branch->session;
    if (session == NULL)
        return;
    branch->session = NULL;
    session->branch = NULL;
    if (session->dirt == DIRT_BAD || !conn_is_ready(session->conn) || conn_queued(session->conn) > 0 ||
        conn_transaction(session->conn) != PQTRANS_IDLE) {
        session_drop(session);
    } else {
        if (session->dirt == DIRT_MUCH) {
            clean(session);
            session->dirt = DIRT_NONE;
        }
        prepare(session);
        session->state = SESSION_IDLE;
    }
    pump(pg);
}

void worker_stop(struct pg *pg, const struct agent_effect *effect)
{
    struct branch *branch = branch_find(pg, effect->branch);
    if (branch == NULL) {
        control_stop(pg, effect->op, "", "");
        return;
    }
    if (unwait(pg, branch))
        branch->no_session(pg, branch, "stopped before a session was free");
    if (branch->session != NULL)
        branch->session->dirt = DIRT_BAD;
    control_stop(pg, effect->op, branch->pid, branch->started);
}

void worker_close_all(struct pg *pg)
{
    deliver_close_all(pg);
    while (pg->sessions != NULL)
        session_drop(pg->sessions);
    for (size_t i = 0; i < PG_BRANCH_BUCKETS; i++)
        while (pg->branches[i] != NULL)
            branch_free(pg, pg->branches[i]);
}
