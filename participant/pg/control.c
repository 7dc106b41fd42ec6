/*
 * control.c: the control session. It holds the session advisory lock that makes this agent the only one of its name in this database; it checks
 * that the server can be used; it ends backends: those of earlier lives of this agent before anything else is done (hazards 1.5: they would
 * prepare late), and single ones whose run has overstayed. It never waits for a lock, so it always answers soon.
 *
 * States: none -> opening -> checking -> ready (connected, the lock is another's) <-> locked. Its loss from locked is AEV_CONTROL_LOST: another
 * agent may hold the lock by now.
 */
#include <arpa/inet.h>
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/failpoint.h"
#include "common/resolve.h"
#include "participant/pg/driver.h"
#include "participant/pg/schema.h"
#include "participant/pg/sql.h"
#include "participant/pg/xid.h"

#define VERSION_MIN 140000
#define POLL_US 20000L
#define ROUNDS_MAX 500    /* of POLL_US: ten seconds */
#define LOOKUP_ROOM 1024u /* beyond twice the names */

struct stop {
    uint64_t op;
    char pid[12], started[40];
    uint32_t rounds;
    bool sent;
    struct stop *next;
};

static void send_lock(struct pg *pg);
static void send_clean(struct pg *pg);
static void send_stops(struct pg *pg);

/* ---- the end of it */

static void end_stops(struct pg *pg)
{
    while (pg->stops != NULL) {
        struct stop *stop = pg->stops;
        struct agent_event event = {.kind = AEV_DB_STOP, .op = stop->op};
        pg->stops = stop->next;
        free(stop);
        pg_answer(pg, &event);
    }
}

static void answer_lock(struct pg *pg, enum agent_lock_result result)
{
    struct agent_event event = {.kind = AEV_DB_LOCK, .op = pg->lock_op};
    if (pg->lock_op == 0)
        return;
    pg->lock_op = 0;
    event.lock.result = result;
    pg_answer(pg, &event);
}

static void answer_clean(struct pg *pg, bool ok)
{
    struct agent_event event = {.kind = AEV_DB_CLEAN, .op = pg->clean_op};
    if (pg->clean_op == 0)
        return;
    pg->clean_op = 0;
    event.clean.ok = ok;
    pg_answer(pg, &event);
}

static void refuse(struct pg *pg, const char *what, const char *mend)
{
    pg->callbacks.refused(pg->context, what, mend);
    conn_close(pg->control, what);
}

/* Words of a login that never came to SQL. */
static void explain_login(struct pg *pg, const char *reason)
{
    if (strstr(reason, "unsupported startup parameter") != NULL)
        pg->callbacks.refused(pg->context, "a pooler stands between the agent and PostgreSQL",
                              "give the server's own address in database.conninfo");
    else if (strstr(reason, "client_connection_check_interval") != NULL)
        pg->callbacks.refused(pg->context, "the server is older than PostgreSQL 14", "upgrade it");
}

static void on_closed(void *context, struct conn *conn, const char *reason)
{
    (void)conn;
    struct pg *pg = context;
    enum control_state before = pg->control_state;
    pg->control = NULL;
    pg->control_state = CONTROL_NONE;
    if (before == CONTROL_OPENING)
        explain_login(pg, reason);
    pg_report(pg, DIAG_WARN, before == CONTROL_LOCKED ? "control session lost" : "no control session", reason);
    end_stops(pg);
    answer_clean(pg, false);
    answer_lock(pg, AGENT_LOCK_FAILED);
    if (before == CONTROL_LOCKED) {
        struct agent_event event = {.kind = AEV_CONTROL_LOST};
        pg_answer(pg, &event);
    }
}

/* True: go on. */
static bool ok(struct pg *pg, struct conn *conn, const struct conn_batch *batch)
{
    (void)pg;
    if (batch->lost)
        return false;
    if (batch->failed < batch->count)
        conn_close(conn, conn_message(&batch->items[batch->failed]));
    return batch->failed == batch->count;
}

/* ---- the lock */

static void life_done(void *context, struct conn *conn, struct conn_batch *batch)
{
    struct pg *pg = context;
    if (!ok(pg, conn, batch))
        return;
    pg->control_state = CONTROL_LOCKED;
    pg->holder_told = false;
    pg->lived = true;
    answer_lock(pg, AGENT_LOCK_TAKEN);
}

static void holder_done(void *context, struct conn *conn, struct conn_batch *batch)
{
    struct pg *pg = context;
    char text[160];
    if (!ok(pg, conn, batch))
        return;
    const char *pid = conn_value(&batch->items[0], 0, 0), *name = conn_value(&batch->items[0], 0, 1);
    if (!pg->holder_told && PQntuples(batch->items[0].result) > 0) {
        if (pid != NULL)
            snprintf(text, sizeof(text), "backend %s (%s)", pid, name != NULL ? name : "unknown");
        else
            snprintf(text, sizeof(text), "a prepared transaction, see pg_prepared_xacts");
        pg_report(pg, DIAG_WARN, "another session holds this agent's advisory lock", text);
        pg->holder_told = true;
    }
    answer_lock(pg, AGENT_LOCK_HELD);
}

/* Another agent of this participant has lived since we did: what is in our memory is old (branches, pages of events, what subscribers have
 * acknowledged), and our secret must not be good again. */
static bool superseded(const struct pg *pg, const char *last)
{
    return pg->lived && last != NULL && strcmp(last, pg->nonce) != 0;
}

static void lock_done(void *context, struct conn *conn, struct conn_batch *batch)
{
    struct pg *pg = context;
    if (!ok(pg, conn, batch))
        return;
    const char *taken = conn_value(&batch->items[0], 0, 0);
    pg->control_state = CONTROL_READY;
    if (taken != NULL && taken[0] == 't' && superseded(pg, conn_value(&batch->items[1], 0, 0))) {
        pg->callbacks.superseded(pg->context);
        conn_close(conn, "another agent has served this participant since");
        return;
    }
    if (taken == NULL || taken[0] != 't') {
        const char *values[] = {pg->lock_key};
        batch = conn_begin(conn, 1, holder_done, pg);
        conn_add(conn, batch, SQL_LOCK_HOLDER, 1, values);
    } else {
        const char *values[] = {pg->participant, pg->nonce, pg->secret};
        /* Crash: the server frees the lock when it notices; backends of the life before are still there. */
        (void)failpoint_hit(FP_agent_lock_taken);
        batch = conn_begin(conn, 1, life_done, pg);
        conn_add(conn, batch, SQL_LIFE, 3, values);
    }
    conn_end(conn, batch);
}

static void send_lock(struct pg *pg)
{
    const char *values[] = {pg->lock_key}, *who[] = {pg->participant};
    struct conn_batch *batch = conn_begin(pg->control, 2, lock_done, pg);
    conn_add(pg->control, batch, SQL_TRY_LOCK, 1, values);
    conn_add(pg->control, batch, SQL_LIFE_LAST, 1, who); /* behind the lock: nobody else changes it any more */
    conn_end(pg->control, batch);
}

/* ---- checks */

static void rights_done(void *context, struct conn *conn, struct conn_batch *batch)
{
    struct pg *pg = context;
    if (!ok(pg, conn, batch))
        return;
    const char *version = conn_value(&batch->items[0], 0, 0);
    const char *what = conn_value(&batch->items[1], 0, 0), *mend = conn_value(&batch->items[1], 0, 1);
    if (version == NULL || strcmp(version, PG_SCHEMA_VERSION_TEXT) != 0)
        refuse(pg, "schema lockstep of this database is of another version", "run lockstep init-participant again");
    else if (what != NULL)
        refuse(pg, what, mend);
    else
        send_lock(pg);
}

/* {"a","b"} */
static char *array_literal(const char *const *items, size_t count)
{
    size_t size = 3;
    for (size_t i = 0; i < count; i++)
        size += 2 * strlen(items[i]) + 3;
    char *text = memory_new(size), *out = text;
    *out++ = '{';
    for (size_t i = 0; i < count; i++) {
        if (i > 0)
            *out++ = ',';
        *out++ = '"';
        for (const char *at = items[i]; *at != '\0'; at++) {
            if (*at == '"' || *at == '\\')
                *out++ = '\\';
            *out++ = *at;
        }
        *out++ = '"';
    }
    *out = '}';
    return text;
}

static void schema_done(void *context, struct conn *conn, struct conn_batch *batch)
{
    struct pg *pg = context;
    if (!ok(pg, conn, batch))
        return;
    const char *there = conn_value(&batch->items[0], 0, 0), *usable = conn_value(&batch->items[0], 0, 1);
    if (there == NULL || there[0] != 't') {
        refuse(pg, "this database has no schema lockstep", "lockstep init-participant --apply CONNINFO");
        return;
    }
    if (usable == NULL || usable[0] != 't') {
        refuse(pg, "the agent's role may not use schema lockstep", conn_value(&batch->items[0], 0, 2));
        return;
    }
    char *roles = array_literal(pg->roles, pg->role_count);
    const char *values[] = {roles};
    batch = conn_begin(conn, 2, rights_done, pg);
    conn_add(conn, batch, SQL_CHECK_VERSION, 0, NULL);
    conn_add(conn, batch, SQL_CHECK_RIGHTS, 1, values);
    conn_end(conn, batch);
    free(roles);
}

struct refusal {
    const char *what, *mend;
};

static struct refusal check_login(const struct pg *pg, const struct conn *conn, const struct conn_item *item)
{
    const char *version = conn_value(item, 0, LOGIN_VERSION), *standby = conn_value(item, 0, LOGIN_IN_RECOVERY);
    const char *name = conn_value(item, 0, LOGIN_APPLICATION_NAME), *interval = conn_value(item, 0, LOGIN_CHECK_INTERVAL);
    const char *encoding = conn_value(item, 0, LOGIN_ENCODING), *prepared = conn_value(item, 0, LOGIN_MAX_PREPARED);
    const char *superuser = conn_value(item, 0, LOGIN_SUPERUSER);
    uint64_t version_number, slots;
    if (!pg_parse_u64(version, &version_number) || version_number < VERSION_MIN)
        return (struct refusal){"the server is older than PostgreSQL 14", "upgrade it"};
    if (!pg_is_own_session(&pg->control_login, conn) || name == NULL || strcmp(name, pg->application_name) != 0 ||
        interval == NULL || strcmp(interval, "1s") != 0)
        return (struct refusal){"a pooler stands between the agent and PostgreSQL: sessions do not keep what they were started with",
                                "give the server's own address in database.conninfo"};
    if (standby == NULL || standby[0] != 'f')
        return (struct refusal){"the server is a standby", "give the primary in database.conninfo, or promote it: SELECT pg_promote()"};
    if (encoding == NULL || strcmp(encoding, "UTF8") != 0)
        return (struct refusal){"the database's encoding is not UTF8", "CREATE DATABASE ... TEMPLATE template0 ENCODING 'UTF8'"};
    if (!pg_parse_u64(prepared, &slots) || slots == 0)
        return (struct refusal){"max_prepared_transactions is 0", "ALTER SYSTEM SET max_prepared_transactions = 200; then restart the server"};
    if (superuser != NULL && strcmp(superuser, "on") == 0)
        return (struct refusal){"the agent's database role is a superuser", "ALTER ROLE ... NOSUPERUSER, or give another user in database.conninfo"};
    return (struct refusal){NULL, NULL};
}

/* Not refused: the sessions are opened on demand, and others may need none. */
static void check_connections(struct pg *pg, const struct conn_item *item)
{
    char text[160];
    uint64_t there = 0, wanted = (uint64_t)pg->workers_max + (pg->role_count + 1) * pg->finishers_max + 1;
    if (!pg_parse_u64(conn_value(item, 0, LOGIN_CONNECTIONS), &there) || wanted <= there)
        return;
    snprintf(text, sizeof(text), "up to %" PRIu64 " sessions wanted, max_connections leaves %" PRIu64 ": lower pool.workers or raise max_connections",
             wanted, there);
    pg_report(pg, DIAG_WARN, "the server may have too few connections", text);
}

static void login_done(void *context, struct conn *conn, struct conn_batch *batch)
{
    struct pg *pg = context;
    if (!ok(pg, conn, batch))
        return;
    const struct conn_item *item = &batch->items[0];
    uint64_t max_prepared = 0;
    if (!pg_read_login(item, &pg->control_login)) {
        conn_close(conn, "the session's identity cannot be read");
        return;
    }
    struct refusal refusal = check_login(pg, conn, item);
    if (refusal.what != NULL) {
        refuse(pg, refusal.what, refusal.mend);
        return;
    }
    (void)pg_parse_u64(conn_value(item, 0, LOGIN_MAX_PREPARED), &max_prepared);
    pg->max_prepared = (uint32_t)max_prepared;
    snprintf(pg->server_version, sizeof(pg->server_version), "%s", conn_value(item, 0, LOGIN_VERSION));
    snprintf(pg->database, sizeof(pg->database), "%s", conn_value(item, 0, LOGIN_DATABASE));
    check_connections(pg, item);
    pg->control_state = CONTROL_CHECKING;
    batch = conn_begin(conn, 1, schema_done, pg);
    conn_add(conn, batch, SQL_CHECK_SCHEMA, 0, NULL);
    conn_end(conn, batch);
}

static void on_ready(void *context, struct conn *conn)
{
    struct pg *pg = context;
    struct conn_batch *batch = conn_begin(conn, 2, login_done, pg);
    conn_add(conn, batch, SQL_LOGIN, 0, NULL);
    conn_add(conn, batch, SQL_RAISE_SYNC, 0, NULL);
    conn_end(conn, batch);
}

/* ---- opening */

static void open_control(struct pg *pg)
{
    static const struct conn_callbacks callbacks = {on_ready, on_closed};
    struct ls_error err;
    pg->control_state = CONTROL_OPENING;
    if (pg_connect(pg, PG_PURPOSE_CONTROL, pg->target->user, &callbacks, pg, &pg->control, &err) == LS_OK)
        return;
    pg->control = NULL;
    pg->control_state = CONTROL_NONE;
    pg_report(pg, DIAG_WARN, "no control session", err.text);
    pg_answer_late(pg, AEV_DB_LOCK, pg->lock_op)->event.lock.result = AGENT_LOCK_FAILED;
    pg->lock_op = 0;
}

/* Host names, one after another: libpq would block on them. Resolved again for every new control session, since a failover may have moved
 * the name. */
struct lookup {
    struct pg *pg;
    char *rest;  /* names still to be resolved */
    char *done;  /* addresses so far */
    size_t size;
    unsigned added;
    char *all;
};

static void lookup_next(struct lookup *lookup);

static void lookup_end(struct lookup *lookup, const char *error)
{
    struct pg *pg = lookup->pg;
    free(lookup->all);
    if (error == NULL) {
        free(pg->hostaddr);
        pg->hostaddr = lookup->done;
    } else {
        free(lookup->done);
    }
    free(lookup);
    if (error == NULL) {
        open_control(pg);
        return;
    }
    pg->control_state = CONTROL_NONE;
    pg_report(pg, DIAG_WARN, "the database's host cannot be found", error);
    pg_answer_late(pg, AEV_DB_LOCK, pg->lock_op)->event.lock.result = AGENT_LOCK_FAILED;
    pg->lock_op = 0;
}

static void lookup_add(struct lookup *lookup, const char *address)
{
    size_t length = strlen(lookup->done);
    snprintf(lookup->done + length, lookup->size - length, "%s%s", lookup->added++ > 0 ? "," : "", address);
    lookup_next(lookup);
}

static void on_address(void *context, struct addrinfo *found, const char *why)
{
    struct lookup *lookup = context;
    char address[64] = "";
    lookup->pg->resolve = NULL;
    if (found != NULL)
        (void)getnameinfo(found->ai_addr, found->ai_addrlen, address, sizeof(address), NULL, 0, NI_NUMERICHOST);
    if (found != NULL)
        freeaddrinfo(found);
    if (address[0] == '\0')
        lookup_end(lookup, why != NULL ? why : "no address");
    else
        lookup_add(lookup, address);
}

static void lookup_next(struct lookup *lookup)
{
    struct pg *pg = lookup->pg;
    struct ls_error err;
    char *name = strsep(&lookup->rest, ",");
    if (name == NULL)
        lookup_end(lookup, NULL);
    else if (name[0] == '/' || name[strspn(name, "0123456789.")] == '\0' || strchr(name, ':') != NULL)
        lookup_add(lookup, name[0] == '/' ? "" : name);
    else if (resolve_start(pg->base, name, "0", on_address, lookup, &pg->resolve, &err) != LS_OK)
        lookup_end(lookup, err.text);
}

static void look_up(struct pg *pg)
{
    struct lookup *lookup = memory_new(sizeof(*lookup));
    lookup->pg = pg;
    lookup->all = strdup(pg->target->hosts);
    lookup->size = strlen(pg->target->hosts) * 2 + LOOKUP_ROOM;
    lookup->done = memory_new(lookup->size);
    if (lookup->all == NULL)
        abort();
    lookup->rest = lookup->all;
    pg->control_state = CONTROL_OPENING;
    lookup_next(lookup);
}

void control_lock(struct pg *pg, uint64_t op)
{
    assert(pg->lock_op == 0);
    if (pg->control_state == CONTROL_LOCKED) {
        pg_answer_late(pg, AEV_DB_LOCK, op)->event.lock.result = AGENT_LOCK_TAKEN;
        return;
    }
    pg->lock_op = op;
    if (pg->control_state == CONTROL_READY)
        send_lock(pg);
    else if (pg->control_state == CONTROL_NONE && pg->target->hosts != NULL)
        look_up(pg);
    else if (pg->control_state == CONTROL_NONE)
        open_control(pg);
    /* opening or checking: answered when that is done */
}

/* ---- backends of earlier lives */

static void arm(struct pg *pg, struct event **timer, void (*handler)(evutil_socket_t, short, void *))
{
    const struct timeval pause = {.tv_usec = POLL_US};
    if (*timer == NULL && (*timer = event_new(pg->base, -1, 0, handler, pg)) == NULL)
        abort();
    event_add(*timer, &pause);
}

static void on_clean_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct pg *pg = arg;
    if (pg->clean_op != 0 && pg->control != NULL)
        send_clean(pg);
}

static void clean_done(void *context, struct conn *conn, struct conn_batch *batch)
{
    (void)conn;
    struct pg *pg = context;
    const struct conn_item *item = &batch->items[0];
    if (batch->lost)
        return;
    if (batch->failed < batch->count) {
        pg_report(pg, DIAG_ERROR, "a backend of an earlier life of this agent cannot be ended", conn_message(item));
        answer_clean(pg, false);
        return;
    }
    const char *pid = conn_value(item, 0, 0);
    if (pid == NULL) {
        /* Crash: nothing of earlier lives can prepare any more; the next life looks again. */
        (void)failpoint_hit(FP_agent_cleanup_done);
        answer_clean(pg, true);
    } else if (++pg->clean_rounds >= ROUNDS_MAX) {
        pg_report(pg, DIAG_ERROR, "a backend of an earlier life of this agent does not end", pid);
        answer_clean(pg, false);
    } else {
        arm(pg, &pg->clean_timer, on_clean_timer);
    }
}

static void send_clean(struct pg *pg)
{
    const char *values[] = {pg->name_prefix, pg->application_name};
    struct conn_batch *batch = conn_begin(pg->control, 1, clean_done, pg);
    conn_add(pg->control, batch, SQL_CLEAN, 2, values);
    conn_end(pg->control, batch);
}

void control_clean(struct pg *pg, uint64_t op)
{
    assert(pg->clean_op == 0);
    /* Crash: backends of earlier lives may still prepare; the next life ends them before it lists anything. */
    if (failpoint_hit(FP_agent_cleanup_started) || pg->control_state != CONTROL_LOCKED) {
        pg_answer_late(pg, AEV_DB_CLEAN, op)->event.clean.ok = false;
        return;
    }
    pg->clean_op = op;
    pg->clean_rounds = 0;
    send_clean(pg);
}

/* ---- one backend */

static void on_stop_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct pg *pg = arg;
    if (pg->control != NULL)
        send_stops(pg);
}

static void end_stop(struct pg *pg, struct stop *stop, bool gone)
{
    struct agent_event event = {.kind = AEV_DB_STOP, .op = stop->op};
    struct stop **at = &pg->stops;
    while (*at != stop)
        at = &(*at)->next;
    *at = stop->next;
    free(stop);
    event.stop.gone = gone;
    pg_answer(pg, &event);
}

static struct stop *find_stop(struct pg *pg, uint64_t op)
{
    struct stop *stop = pg->stops;
    while (stop != NULL && stop->op != op)
        stop = stop->next;
    return stop;
}

/* The context of a batch: the stop may be gone when it is answered. */
struct stop_sent {
    struct pg *pg;
    uint64_t op;
};

static void stop_done(void *context, struct conn *conn, struct conn_batch *batch)
{
    (void)conn;
    struct stop_sent sent = *(struct stop_sent *)context;
    free(context);
    struct stop *stop = batch->lost ? NULL : find_stop(sent.pg, sent.op);
    if (stop == NULL)
        return;
    stop->sent = false;
    if (batch->failed < batch->count) {
        pg_report(sent.pg, DIAG_ERROR, "a backend cannot be ended", conn_message(&batch->items[batch->failed]));
        end_stop(sent.pg, stop, false);
    } else if (PQntuples(batch->items[0].result) == 0) {
        /* Crash: what that backend prepared or committed before its end, the next life finds. */
        (void)failpoint_hit(FP_agent_backend_ended);
        end_stop(sent.pg, stop, true);
    } else if (++stop->rounds >= ROUNDS_MAX) {
        pg_report(sent.pg, DIAG_ERROR, "a backend does not end", stop->pid);
        end_stop(sent.pg, stop, false);
    } else {
        arm(sent.pg, &sent.pg->stop_timer, on_stop_timer);
    }
}

static void send_stops(struct pg *pg)
{
    for (struct stop *stop = pg->stops; stop != NULL; stop = stop->next) {
        if (stop->sent)
            continue;
        const char *values[] = {stop->pid, stop->started};
        struct stop_sent *sent = memory_new(sizeof(*sent));
        sent->pg = pg;
        sent->op = stop->op;
        stop->sent = true;
        struct conn_batch *batch = conn_begin(pg->control, 1, stop_done, sent);
        conn_add(pg->control, batch, SQL_STOP, 2, values);
        conn_end(pg->control, batch);
    }
}

void control_stop(struct pg *pg, uint64_t op, const char *pid, const char *started)
{
    if (pid[0] == '\0' || pg->control == NULL || !conn_is_ready(pg->control)) {
        /* No backend ever worked for it, or nobody can say. */
        pg_answer_late(pg, AEV_DB_STOP, op)->event.stop.gone = pid[0] == '\0';
        return;
    }
    struct stop *stop = memory_new(sizeof(*stop));
    stop->op = op;
    snprintf(stop->pid, sizeof(stop->pid), "%s", pid);
    snprintf(stop->started, sizeof(stop->started), "%s", started);
    stop->next = pg->stops;
    pg->stops = stop;
    send_stops(pg);
}

void control_close(struct pg *pg)
{
    resolve_cancel(pg->resolve);
    conn_free(pg->control);
    pg->control = NULL;
    while (pg->stops != NULL) {
        struct stop *stop = pg->stops;
        pg->stops = stop->next;
        free(stop);
    }
    if (pg->clean_timer != NULL)
        event_free(pg->clean_timer);
    if (pg->stop_timer != NULL)
        event_free(pg->stop_timer);
    pg->clean_timer = pg->stop_timer = NULL;
}
