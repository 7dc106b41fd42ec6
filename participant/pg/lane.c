/*
 * lane.c: finishers. A lane is one connection as the agent's login role that may carry many batches at once; a group is the lanes of one database
 * role (SET ROLE once per connection, in a Sync of its own: behind another statement COMMIT PREPARED is refused, 25001), or, with role "", the
 * agent's own. Finishing never waits for workers, so it can never queue behind a statement that waits for the very locks which the finish
 * would release.
 *
 * A task waits in its group until a lane is ready. Lanes are opened on demand up to finishers_max; those that idle are closed but the first.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "participant/pg/driver.h"
#include "participant/pg/schema.h"
#include "participant/pg/sql.h"

#define IDLE_SCAN_S 30
#define LANE_DEPTH 16 /* enough to keep a session busy; what waits beyond it waits for any lane, also for one that is being opened */

static void dispatch(struct lane_group *group);

static struct lane_group *group_of(struct pg *pg, const char *role)
{
    for (struct lane_group *group = pg->groups; group != NULL; group = group->next)
        if (strcmp(group->role, role) == 0)
            return group;
    struct lane_group *group = memory_new(sizeof(*group));
    group->pg = pg;
    snprintf(group->role, sizeof(group->role), "%s", role);
    group->next = pg->groups;
    pg->groups = group;
    return group;
}

static void unlink_lane(struct lane *lane)
{
    struct lane **at = &lane->group->lanes;
    while (*at != lane)
        at = &(*at)->next;
    *at = lane->next;
    lane->group->count--;
}

/* ---- life of a lane */

static void fail_queue(struct task_queue *queue, const char *reason)
{
    struct task *task = queue->head;
    queue->head = queue->tail = NULL;
    while (task != NULL) {
        struct task *next = task->next;
        task->fail(task, reason);
        task = next;
    }
}

static void fail_waiting(struct lane_group *group, const char *reason)
{
    fail_queue(&group->free, reason);
    fail_queue(&group->fenced, reason);
}

static void on_closed(void *context, struct conn *conn, const char *reason)
{
    (void)conn;
    struct lane *lane = context;
    struct lane_group *group = lane->group;
    bool ready = lane->ready;
    unlink_lane(lane);
    free(lane);
    if (!ready)
        pg_report_away(group->pg, PG_AWAY_FINISHER, reason);
    if (!ready && group->lanes == NULL)
        fail_waiting(group, reason);
    else if (ready)
        dispatch(group);
    /* else: it was one more than the server wants to give. The lanes that are there go on with their next answer; to try again at once would be
     * a storm of logins. */
}

static void login_done(void *context, struct conn *conn, struct conn_batch *batch)
{
    struct lane *lane = context;
    if (batch->lost)
        return;
    if (batch->failed < batch->count) {
        conn_close(conn, conn_message(&batch->items[batch->failed]));
        return;
    }
    if (!pg_read_login(&batch->items[0], &lane->login))
        conn_close(conn, "the session's identity cannot be read");
}

static void role_done(void *context, struct conn *conn, struct conn_batch *batch)
{
    struct lane *lane = context;
    if (batch->lost)
        return;
    if (batch->failed < batch->count) {
        conn_close(conn, conn_message(&batch->items[batch->failed]));
        return;
    }
    lane->ready = true;
    pg_report_there(lane->pg, PG_AWAY_FINISHER);
    dispatch(lane->group);
}

static void on_ready(void *context, struct conn *conn)
{
    struct lane *lane = context;
    char role[2 * LS_ROLE_MAX + 3], sql[2 * LS_ROLE_MAX + 32];
    struct conn_batch *batch = conn_begin(conn, 3, login_done, lane);
    conn_add(conn, batch, SQL_LOGIN, 0, NULL);
    conn_add(conn, batch, SQL_RAISE_SYNC, 0, NULL);
    conn_add(conn, batch, SQL_LOCK_TIMEOUT, 0, NULL);
    conn_end(conn, batch);
    batch = conn_begin(conn, 2, role_done, lane);
    if (lane->group->role[0] != '\0') {
        int fits = pg_quote('"', lane->group->role, role, sizeof(role));
        assert(fits);
        (void)fits;
        snprintf(sql, sizeof(sql), "set role %s", role);
        conn_add(conn, batch, sql, 0, NULL);
    }
    conn_add_prepare(conn, batch, "ls_fence", SQL_FENCE_AHEAD);
    conn_end(conn, batch);
}

static void on_idle(evutil_socket_t fd, short what, void *arg);

static void open_lane(struct lane_group *group)
{
    static const struct conn_callbacks callbacks = {on_ready, on_closed};
    struct pg *pg = group->pg;
    struct lane *lane = memory_new(sizeof(*lane));
    struct ls_error err;
    lane->pg = pg;
    lane->group = group;
    lane->next = group->lanes;
    group->lanes = lane;
    group->count++;
    if (pg_connect(pg, PG_PURPOSE_FINISHER, pg->target->user, &callbacks, lane, &lane->conn, &err) != LS_OK) {
        unlink_lane(lane);
        free(lane);
        pg_report_away(pg, PG_AWAY_FINISHER, err.text);
        if (group->lanes == NULL)
            fail_waiting(group, err.text);
        return;
    }
    if (pg->idle_timer == NULL) {
        struct timeval interval = {.tv_sec = IDLE_SCAN_S};
        pg->idle_timer = event_new(pg->base, -1, EV_PERSIST, on_idle, pg);
        if (pg->idle_timer != NULL)
            event_add(pg->idle_timer, &interval);
    }
}

/* Closes lanes that carried nothing since the last look, but the last one of its group. */
static void on_idle(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct pg *pg = arg;
    for (struct lane_group *group = pg->groups; group != NULL; group = group->next) {
        struct lane *next;
        for (struct lane *lane = group->lanes; lane != NULL && group->count > 1; lane = next) {
            next = lane->next;
            if (!lane->used && lane->ready && conn_queued(lane->conn) == 0) {
                unlink_lane(lane);
                conn_free(lane->conn);
                free(lane);
            } else {
                lane->used = false;
            }
        }
    }
}

/* ---- tasks */

/* The lane with the shortest queue that may take the task. */
static struct lane *pick(struct lane_group *group, const struct task *task)
{
    struct lane *best = NULL;
    uint32_t exclusive = 0;
    for (struct lane *lane = group->lanes; lane != NULL; lane = lane->next) {
        exclusive += lane->exclusive;
        if (!lane->ready || lane->exclusive || !conn_is_ready(lane->conn))
            continue;
        if (best == NULL || conn_queued(lane->conn) < conn_queued(best->conn))
            best = lane;
    }
    if (best == NULL || !task->exclusive)
        return best;
    /* One lane stays free of what may wait for a lock, so that proofs and finishes go on. */
    bool last_one = group->pg->finishers_max > 1 && exclusive + 1 >= group->pg->finishers_max;
    return conn_queued(best->conn) == 0 && !last_one ? best : NULL;
}

static bool any_opening(const struct lane_group *group)
{
    for (const struct lane *lane = group->lanes; lane != NULL; lane = lane->next)
        if (!lane->ready)
            return true;
    return false;
}

/*
 * One fence at a time. Every decision moves it, so that with many commits in flight each would carry a fence of its own, and all of them write
 * the same row; a fence that is in flight is waited for instead (it is not synced), and the next one covers whoever came meanwhile. It goes on
 * a lane of its own then: behind commits it would wait for their syncs. A commit that finds an idle lane and no fence in flight takes its own
 * along and waits for nothing.
 */
static bool fence_allows(struct lane *lane, const struct task *task)
{
    struct pg *pg = lane->pg;
    if (!task->fenced || task->fence <= pg->fence_settled)
        return true;
    if (pg->fence_flying == 0) {
        if (conn_queued(lane->conn) > 0) {
            lane_flush(pg);
            return false; /* not looked at again: it may be on its way by now */
        }
        fence_send_ahead(lane);
    }
    return pg->fence_lane == lane && pg->fence_flying >= task->fence;
}

/* False: nothing more can be sent from this queue now. */
static bool send_next(struct lane_group *group, struct task_queue *queue)
{
    struct task *task = queue->head;
    if (task == NULL)
        return false;
    struct lane *lane = pick(group, task);
    bool crowded = lane == NULL || conn_queued(lane->conn) > 0;
    if (crowded && group->count < group->pg->finishers_max && !any_opening(group))
        open_lane(group);
    if (lane == NULL || conn_queued(lane->conn) >= LANE_DEPTH || queue->head != task)
        return false; /* later; or the attempt to open failed at once and took the tasks with it */
    if (!fence_allows(lane, task))
        return false;
    queue->head = task->next;
    if (queue->head == NULL)
        queue->tail = NULL;
    lane->used = true;
    lane->exclusive = task->exclusive;
    task->send(task, lane);
    return true;
}

/* Commits that wait for their fence hold up nothing else. */
static void dispatch(struct lane_group *group)
{
    while (send_next(group, &group->free) || send_next(group, &group->fenced))
        ;
}

void lane_submit(struct pg *pg, struct task *task)
{
    struct lane_group *group = group_of(pg, task->role);
    struct task_queue *queue = task->fenced ? &group->fenced : &group->free;
    task->pg = pg;
    task->next = NULL;
    task->fence = pg->fence_version;
    if (queue->tail != NULL)
        queue->tail->next = task;
    else
        queue->head = task;
    queue->tail = task;
    dispatch(group);
}

void lane_warm(struct pg *pg, const char *role)
{
    struct lane_group *group = group_of(pg, strcmp(role, pg->target->user) == 0 ? "" : role);
    if (group->count == 0)
        open_lane(group);
}

void lane_batch_done(struct lane *lane)
{
    if (conn_queued(lane->conn) == 0)
        lane->exclusive = false;
    dispatch(lane->group);
}

void lane_fence_settled(struct pg *pg)
{
    for (struct lane_group *group = pg->groups; group != NULL; group = group->next)
        dispatch(group);
    lane_flush(pg);
}

void lane_fail_fenced(struct pg *pg, const char *reason)
{
    for (struct lane_group *group = pg->groups; group != NULL; group = group->next)
        fail_queue(&group->fenced, reason);
}

void lane_flush(struct pg *pg)
{
    if (pg->fence_version > pg->fence_settled && pg->fence_flying == 0 && !pg->fence_alone)
        fence_send_alone(pg);
}

void lane_close_all(struct pg *pg)
{
    if (pg->idle_timer != NULL)
        event_free(pg->idle_timer);
    pg->idle_timer = NULL;
    while (pg->groups != NULL) {
        struct lane_group *group = pg->groups;
        pg->groups = group->next;
        while (group->lanes != NULL) {
            struct lane *lane = group->lanes;
            group->lanes = lane->next;
            conn_free(lane->conn);
            free(lane);
        }
        free(group);
    }
}
