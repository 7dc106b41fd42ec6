/*
 * pg.c: the life of the driver, its effects handed to the files that carry them out, and answers.
 */
#include "participant/pg/pg.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/daemon.h"
#include "common/hash.h"
#include "participant/pg/driver.h"
#include "participant/pg/xid.h"

/* ---- answers */

void pg_answer(struct pg *pg, struct agent_event *event)
{
    pg->callbacks.event(pg->context, event);
}

static void on_late(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct pg *pg = arg;
    /* Only what is there now: an answer may bring new ones. */
    struct late *late = pg->late_head;
    pg->late_head = pg->late_tail = NULL;
    while (late != NULL) {
        struct late *next = late->next;
        if (late->event.kind == AEV_DB_RUN && late->message[0] != '\0')
            late->event.run.message = late->message;
        if (late->event.kind == AEV_DB_FINISH && late->message[0] != '\0')
            late->event.finish.answer.message = late->message;
        pg_answer(pg, &late->event);
        free(late);
        late = next;
    }
}

struct late *pg_answer_late(struct pg *pg, enum agent_event_kind kind, uint64_t op)
{
    struct late *late = memory_new(sizeof(*late));
    late->event.kind = kind;
    late->event.op = op;
    if (pg->late_tail != NULL)
        pg->late_tail->next = late;
    else
        pg->late_head = late;
    pg->late_tail = late;
    event_active(pg->late_event, EV_TIMEOUT, 0);
    return late;
}

void pg_report(struct pg *pg, int level, const char *what, const char *detail)
{
    pg->callbacks.report(pg->context, level, what, detail);
}

void pg_report_away(struct pg *pg, enum pg_away kind, const char *reason)
{
    static const char *const what[] = {"no finisher session", "no worker session"};
    uint64_t now_us = daemon_now_us();
    if (pg->away_us[kind] != 0 && now_us - pg->away_us[kind] < UINT64_C(1000) * LS_ACCEPT_LOG_MS)
        return;
    pg->away_us[kind] = now_us;
    pg_report(pg, DIAG_WARN, what[kind], reason);
}

void pg_report_there(struct pg *pg, enum pg_away kind)
{
    pg->away_us[kind] = 0;
}

void pg_item_answer(const struct conn_batch *batch, uint32_t index, const char *expected_tag, struct agent_answer *ret_answer)
{
    const struct conn_item *item = &batch->items[index];
    memset(ret_answer, 0, sizeof(*ret_answer));
    ret_answer->sqlstate = conn_sqlstate(item);
    ret_answer->message = conn_message(item);
    if (item->status == PGRES_COMMAND_OK) {
        /* The server's own word about this very command counts even if the connection broke behind it. */
        ret_answer->warning = item->warned;
        ret_answer->rolled_back = strcmp(PQcmdStatus(item->result), expected_tag) != 0;
    } else if (item->status != PGRES_FATAL_ERROR || ret_answer->sqlstate[0] == '\0') {
        ret_answer->lost = true;
        ret_answer->sqlstate = NULL;
    }
}

bool pg_read_server(const struct conn_item *item, int row, int first_column, struct agent_server *ret_server)
{
    struct agent_server server;
    if (!pg_parse_u64(conn_value(item, row, first_column), &server.system_id) ||
        !pg_parse_walfile(conn_value(item, row, first_column + 1), &server.timeline) ||
        !pg_parse_lsn(conn_value(item, row, first_column + 2), &server.insert_lsn) ||
        !pg_parse_lsn(conn_value(item, row, first_column + 3), &server.flush_lsn))
        return false;
    *ret_server = server;
    return true;
}

/* ---- effects */

void pg_carry_out(struct pg *pg, const struct agent_effect *effect, const char *role)
{
    switch (effect->kind) {
    case AEF_FORGET:
        branch_forget(pg, effect->branch);
        return;
    case AEF_DB_LOCK:
        control_lock(pg, effect->op);
        return;
    case AEF_DB_CLEAN:
        control_clean(pg, effect->op);
        return;
    case AEF_DB_IDENTITY:
        proof_identity(pg, effect->op);
        return;
    case AEF_DB_FENCE:
        fence_store(pg, effect);
        return;
    case AEF_DB_SCAN:
        proof_scan(pg, effect);
        return;
    case AEF_DB_KEPT:
        kept_page(pg, effect);
        return;
    case AEF_DB_FORGET:
        kept_forget(pg, effect);
        return;
    case AEF_DB_RUN:
        execute_run(pg, effect, role);
        return;
    case AEF_DB_COMMIT1:
        execute_commit(pg, effect);
        return;
    case AEF_DB_ROLLBACK:
        execute_rollback(pg, effect);
        return;
    case AEF_DB_STOP:
        worker_stop(pg, effect);
        return;
    case AEF_DB_RELEASE: {
        struct branch *branch = branch_find(pg, effect->branch);
        if (branch != NULL)
            worker_release(pg, branch);
        return;
    }
    case AEF_DB_FINISH:
        finish_start(pg, effect);
        return;
    case AEF_DB_PROVE:
        proof_start(pg, effect);
        return;
    case AEF_DB_READ_KEY:
        outcome_read_key(pg, effect);
        return;
    case AEF_DB_SETTLE:
        outcome_settle(pg, effect);
        return;
    case AEF_STOP:
    case AEF_REPORT:
    case AEF_DRAINED:
    case AEF_DIAL:
    case AEF_CLOSE:
    case AEF_SEND_HELLO:
    case AEF_SEND_READY:
    case AEF_SEND_REFUSE:
    case AEF_SEND_PONG:
    case AEF_SEND_CREDIT:
    case AEF_SEND_VOTE:
    case AEF_SEND_DONE:
    case AEF_SEND_INQUIRY:
    case AEF_SEND_KEPT:
    case AEF_FREE_WORK:
        break;
    }
    assert(false && "not an effect on the server");
}

void pg_flush(struct pg *pg)
{
    lane_flush(pg);
}

const struct pg_step_result *pg_results(struct pg *pg, uint64_t branch, uint32_t *ret_count)
{
    const struct branch *found = branch_find(pg, branch);
    *ret_count = found != NULL ? found->result_count : 0;
    return found != NULL ? found->results : NULL;
}

/* ---- life */

enum ls_status pg_new(struct event_base *base, const struct pg_config *config, const struct pg_callbacks *callbacks, void *context,
                      struct pg **ret_pg, struct ls_error *err)
{
    struct pg *pg = calloc(1, sizeof(*pg));
    if (pg == NULL)
        return ls_fail(err, LS_ERR_NOMEM, "no memory for the database driver");
    pg->base = base;
    pg->callbacks = *callbacks;
    pg->context = context;
    pg->target = config->target;
    pg->workers_max = config->workers_max;
    pg->finishers_max = config->finishers_max;
    pg->statements_max = config->statements_max;
    pg->connect_ms = config->connect_ms;
    pg->settle_lock_ms = config->settle_lock_ms;
    pg->roles = config->roles;
    pg->role_count = config->role_count;
    snprintf(pg->participant, sizeof(pg->participant), "%s", config->participant);
    snprintf(pg->coordinator, sizeof(pg->coordinator), "%s", config->coordinator);
    random_hex(PG_NONCE_DIGITS, pg->nonce);
    random_hex(PG_SECRET_DIGITS, pg->secret);
    pg_fill_application_name(pg->participant, pg->nonce, pg->name_prefix, pg->application_name);
    /* Advisory locks belong to one database; the high bits keep clear of the small numbers that people use. */
    snprintf(pg->lock_key, sizeof(pg->lock_key), "%" PRId64, (int64_t)XXH64(pg->participant, strlen(pg->participant), 0x6c6f636b73746570));
    pg->late_event = event_new(base, -1, 0, on_late, pg);
    if (pg->late_event == NULL) {
        pg_free(pg);
        return ls_fail(err, LS_ERR_NOMEM, "no memory for the database driver");
    }
    *ret_pg = pg;
    return LS_OK;
}

void pg_free(struct pg *pg)
{
    if (pg == NULL)
        return;
    worker_close_all(pg);
    lane_close_all(pg);
    control_close(pg);
    look_close_all(pg);
    while (pg->held_commits != NULL) {
        struct held_commit *held = pg->held_commits;
        pg->held_commits = held->next;
        free(held);
    }
    while (pg->late_head != NULL) {
        struct late *late = pg->late_head;
        pg->late_head = late->next;
        free(late);
    }
    if (pg->late_event != NULL)
        event_free(pg->late_event);
    free(pg->hostaddr);
    free(pg);
}

void pg_stats(const struct pg *pg, struct pg_stats *ret_stats)
{
    *ret_stats = pg->stats;
    ret_stats->control = pg->control_state == CONTROL_LOCKED;
    ret_stats->server_version = pg->server_version;
    ret_stats->database = pg->database;
    ret_stats->workers = pg->session_count;
    for (const struct session *session = pg->sessions; session != NULL; session = session->next)
        if (session->state == SESSION_IDLE)
            ret_stats->workers_idle++;
    for (const struct lane_group *group = pg->groups; group != NULL; group = group->next)
        ret_stats->finishers += group->count;
    for (const struct branch *branch = pg->waiting; branch != NULL; branch = branch->wait_next)
        ret_stats->waiting++;
}
