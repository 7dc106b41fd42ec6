/*
 * execute.c: one part of a branch as one libpq pipeline: one Sync, one write, one round trip.
 *
 *   first part   [reset] BEGIN, marker and timeouts, [outcome row], [barrier row], statements
 *   later part   timeouts, statements
 *   last part    ... SET CONSTRAINTS ALL IMMEDIATE, guard, PREPARE TRANSACTION, position
 *   one-phase    ... SET CONSTRAINTS ALL IMMEDIATE, guard;  COMMIT comes alone, later (hazards 1.15), or right behind the result that the barrier
 *                row keeps: if that is refused, the server skips COMMIT
 *
 * A failed item skips the rest, PREPARE included. What came of it is reported as it was; vote.c judges. Where the transaction has failed and
 * the session lives, ROLLBACK is sent first and the report follows its answer.
 *
 * Crash window: from the write on, the backend may prepare at any time, even long after we are dead (it may wait for a lock). The next life
 * ends such backends before it scans (control.c).
 */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/failpoint.h"
#include "common/statement.h"
#include "common/text.h"
#include "participant/pg/driver.h"
#include "participant/pg/schema.h"
#include "participant/pg/sql.h"
#include "participant/pg/xid.h"

#define IDLE_GRACE_MS 5000u       /* beyond the deadline, before the server itself ends an open transaction of a frozen agent */
#define FIXED_ITEMS 9u            /* of a pipeline, besides the statements */
#define FRAME_SLACK (16u << 10)   /* bytes of a Vote that are not rows */
#define STEP_SLACK 32u            /* and per statement */
#define VALUES_ON_STACK 64

static void run_done(void *context, struct conn *conn, struct conn_batch *batch);
static void on_row(void *context, struct conn_batch *batch, uint32_t item, const PGresult *result, int row);

/* ---- results */

void execute_forget_results(struct branch *branch)
{
    for (uint32_t i = 0; i < branch->result_count; i++)
        rows_free(&branch->texts[i]);
    free(branch->rows);
    free(branch->texts);
    free(branch->results);
    branch->rows = NULL;
    branch->texts = NULL;
    branch->results = NULL;
    branch->result_count = 0;
}

static void make_results(struct branch *branch)
{
    const Lockstep__Work *work = branch->work;
    uint32_t count = (uint32_t)work->n_statements;
    uint32_t frame = LS_FRAME_MAX - FRAME_SLACK - count * STEP_SLACK;
    execute_forget_results(branch);
    branch->rows = memory_new((count + 1) * sizeof(*branch->rows));
    branch->texts = memory_new((count + 1) * sizeof(*branch->texts));
    branch->results = memory_new((count + 1) * sizeof(*branch->results));
    branch->result_count = count;
    branch->budget = (struct rows_budget){.rows_max = work->has_rows_max ? work->rows_max : LS_DEFAULT_RESULT_ROWS_MAX,
                                          .bytes_max = work->has_bytes_max ? work->bytes_max : LS_DEFAULT_RESULT_BYTES_MAX};
    if (branch->budget.bytes_max > frame)
        branch->budget.bytes_max = frame; /* one Vote carries them all */
    for (uint32_t i = 0; i < count; i++) {
        const Lockstep__Statement *statement = work->statements[i];
        branch->rows[i] = (struct agent_step_rows){
            .step = statement->step, .has_expect = statement->has_expect_rows, .expect_rows = statement->expect_rows};
        branch->results[i].step = statement->step;
    }
}

static void on_row(void *context, struct conn_batch *batch, uint32_t item, const PGresult *result, int row)
{
    (void)batch;
    struct branch *branch = context;
    uint32_t index = item - branch->layout.first_statement;
    assert(index < branch->result_count);
    rows_add(&branch->texts[index], &branch->budget, result, row);
}

/* Where the barrier row answers instead of the statements: what it has kept of them. */
static void read_kept(struct branch *branch, const struct conn_item *item)
{
    uint32_t count = (uint32_t)PQntuples(item->result);
    execute_forget_results(branch);
    branch->texts = memory_new((count + 1) * sizeof(*branch->texts));
    branch->results = memory_new((count + 1) * sizeof(*branch->results));
    for (uint32_t i = 0; i < count; i++) {
        uint64_t at = 0, touched = 0;
        const char *rows = conn_value(item, (int)i, ATTEMPT_ROWS);
        if (!pg_parse_u64(conn_value(item, (int)i, ATTEMPT_AT), &at) || !pg_parse_u64(conn_value(item, (int)i, ATTEMPT_TOUCHED), &touched))
            break; /* nothing was kept */
        struct pg_step_result *result = &branch->results[branch->result_count];
        struct rows_text *text = &branch->texts[branch->result_count++];
        *result = (struct pg_step_result){.step = (uint32_t)at, .rows_affected = touched, .has_rows = rows != NULL};
        if (rows != NULL)
            rows_copy(text, rows);
        result->json = text->data;
    }
}

/* One that failed under its name may fail because of it. */
static void note_statement(struct branch *branch, const struct conn_item *item, const char *sql)
{
    struct session *session = branch->session;
    struct statements_refused *refused = &session->pg->refused;
    if (item->status == PGRES_COMMAND_OK)
        statements_note(&session->statements, refused, sql, PQcmdStatus(item->result));
    else if (item->status == PGRES_FATAL_ERROR && statements_blame(&session->statements, refused, sql, conn_sqlstate(item)))
        session->dirt = DIRT_BAD;
}

static void read_results(struct branch *branch, const struct conn_batch *batch)
{
    for (uint32_t i = 0; i < branch->result_count; i++) {
        const struct conn_item *item = &batch->items[branch->layout.first_statement + i];
        uint64_t touched = 0;
        note_statement(branch, item, branch->work->statements[i]->sql);
        if (item->status != PGRES_COMMAND_OK && item->status != PGRES_TUPLES_OK)
            continue;
        (void)pg_parse_u64(PQcmdTuples(item->result), &touched);
        branch->rows[i].rows_affected = touched;
        branch->results[i].rows_affected = touched;
        branch->results[i].json = rows_close(&branch->texts[i]);
        branch->results[i].has_rows = branch->results[i].json != NULL;
    }
}

/* ---- sending */

static void add_statement(struct branch *branch, struct conn_batch *batch, const Lockstep__Statement *statement)
{
    struct session *session = branch->session;
    const char *name = statements_name(&session->statements, statement->sql);
    const char *few[VALUES_ON_STACK] = {NULL}, **values = few;
    if (statement->n_args > VALUES_ON_STACK)
        values = memory_new(statement->n_args * sizeof(*values));
    for (size_t i = 0; i < statement->n_args; i++)
        values[i] = statement->args[i]->text;
    batch->items[batch->count].stream = true;
    branch->changes_rows = branch->changes_rows || statement_changes_rows(statement->sql, strlen(statement->sql));
    if (name != NULL)
        conn_add_named(session->conn, batch, name, (int)statement->n_args, values);
    else
        conn_add(session->conn, batch, statement->sql, (int)statement->n_args, values);
    if (values != few)
        free(values);
}

static bool is_saga(const struct branch *branch)
{
    return branch->saga[0] != '\0';
}

static const char *const saga_ops[] = {
    [LOCKSTEP__SAGA_OP__SAGA_DO] = "do", [LOCKSTEP__SAGA_OP__SAGA_UNDO] = "undo", [LOCKSTEP__SAGA_OP__SAGA_CANCEL] = "cancel"};

static void add_attempt(struct pg *pg, struct branch *branch, struct conn_batch *batch, const char *op)
{
    const char *values[] = {pg->secret, branch->app, branch->saga, branch->step, op};
    conn_add(branch->session->conn, batch, SQL_ATTEMPT, 5, values);
}

static void add_begin(struct pg *pg, struct branch *branch, struct conn_batch *batch)
{
    /* Not prepared once per session, as the others are: a branch's SQL may replace what is, and without a BEGIN everything after it would commit. */
    static const char *const begins[] = {SQL_BEGIN_READ_COMMITTED, SQL_BEGIN_REPEATABLE_READ, SQL_BEGIN_SERIALIZABLE};
    struct session *session = branch->session;
    struct run_layout *layout = &branch->layout;
    const Lockstep__Work *work = branch->work;
    char lock[16], statement[16], idle[16], hash[2 * 64 + 3] = "";
    snprintf(lock, sizeof(lock), "%" PRIu32, branch->lock_timeout_ms);
    snprintf(statement, sizeof(statement), "%" PRIu32, branch->deadline_ms);
    snprintf(idle, sizeof(idle), "%" PRIu32, branch->deadline_ms + IDLE_GRACE_MS);
    if (!branch->first) {
        const char *values[] = {lock, statement, idle};
        layout->marker = batch->count;
        conn_add_named(session->conn, batch, "ls_again", 3, values);
        return;
    }
    if (session->dirt != DIRT_NONE)
        conn_add(session->conn, batch, SQL_RESET, 0, NULL);
    layout->begin = batch->count;
    conn_add(session->conn, batch, begins[work->isolation], 0, NULL);
    const char *values[] = {branch->gtid, lock, statement, idle};
    layout->marker = batch->count;
    conn_add_named(session->conn, batch, "ls_mark", 4, values);
    if (!branch->one_phase)
        return;
    if (work->has_document_hash && work->document_hash.len <= 64) {
        memcpy(hash, "\\x", sizeof "\\x");
        for (size_t i = 0; i < work->document_hash.len; i++)
            snprintf(hash + 2 + 2 * i, 3, "%02x", work->document_hash.data[i]);
    }
    const char *row[] = {pg->secret, branch->gtid, work->app, work->key, hash[0] != '\0' ? hash : NULL};
    layout->outcome = batch->count;
    conn_add(session->conn, batch, SQL_OUTCOME_INSERT, 5, row); /* nor this: whoever replaced it would be given the secret */
    if (is_saga(branch)) {
        layout->barrier = batch->count;
        add_attempt(pg, branch, batch, saga_ops[branch->saga_op]);
    }
}

static void add_end(struct branch *branch, struct conn_batch *batch)
{
    struct session *session = branch->session;
    struct run_layout *layout = &branch->layout;
    char literal[2 * LS_GID_MAX + 3], sql[2 * LS_GID_MAX + 32];
    const char *values[] = {branch->gtid, session->login.sync_floor};
    layout->constraints = batch->count;
    conn_add(session->conn, batch, SQL_CONSTRAINTS, 0, NULL);
    layout->guard = batch->count;
    conn_add_named(session->conn, batch, branch->changes_rows ? "ls_guard_writer" : "ls_guard", 2, values);
    if (branch->one_phase)
        return;
    int fits = pg_quote('\'', branch->gid, literal, sizeof(literal));
    assert(fits);
    (void)fits;
    snprintf(sql, sizeof(sql), "prepare transaction %s", literal);
    layout->prepare = batch->count;
    conn_add(session->conn, batch, sql, 0, NULL);
    layout->lsn = batch->count;
    conn_add_named(session->conn, batch, "ls_lsn", 0, NULL);
}

void execute_send(struct pg *pg, struct branch *branch)
{
    struct session *session = branch->session;
    const Lockstep__Work *work = branch->work;
    branch->layout = (struct run_layout){RUN_NONE, RUN_NONE, RUN_NONE, RUN_NONE, RUN_NONE,
                                         RUN_NONE, RUN_NONE, RUN_NONE, RUN_NONE};
    make_results(branch);
    struct conn_batch *batch = conn_begin(session->conn, (uint32_t)work->n_statements + FIXED_ITEMS, run_done, branch);
    batch->row = on_row;
    /* Crash: nothing was sent; the lost link aborts it. */
    if (failpoint_hit(FP_agent_before_pipeline))
        conn_close(session->conn, "fault asked for");
    add_begin(pg, branch, batch);
    branch->layout.first_statement = batch->count;
    for (size_t i = 0; i < work->n_statements; i++)
        add_statement(branch, batch, work->statements[i]);
    if (branch->last)
        add_end(branch, batch);
    conn_end(session->conn, batch);
    branch->reset_ahead = branch->first && session->dirt != DIRT_NONE;
    session->dirt = DIRT_MUCH; /* until the answer says better */
    pg->stats.pipelines++;
    /* Crash: the backend goes on by itself and may prepare late: the next life ends it before it lists (hazards 1.5). */
    if (failpoint_hit(FP_agent_after_pipeline_sent))
        conn_close(session->conn, "fault asked for");
}

/* ---- what came of it */

static void answer_run(struct pg *pg, struct branch *branch)
{
    struct agent_event event = {.kind = AEV_DB_RUN, .op = branch->op};
    assert(branch->op != 0);
    branch->op = 0;
    branch->work = NULL;
    event.run = branch->run;
    pg_answer(pg, &event);
}

static enum agent_item item_at(const struct branch *branch, uint32_t index)
{
    const struct run_layout *layout = &branch->layout;
    if (index >= layout->first_statement && index - layout->first_statement < branch->result_count)
        return AGENT_ITEM_STATEMENT;
    if (index == layout->marker)
        return AGENT_ITEM_MARKER;
    if (index == layout->outcome)
        return AGENT_ITEM_OUTCOME_ROW;
    if (index == layout->barrier)
        return AGENT_ITEM_BARRIER;
    if (index == layout->constraints)
        return AGENT_ITEM_CONSTRAINTS;
    if (index == layout->guard)
        return AGENT_ITEM_GUARD;
    if (index == layout->prepare)
        return AGENT_ITEM_PREPARE;
    if (index == layout->lsn)
        return AGENT_ITEM_LSN;
    return AGENT_ITEM_BEGIN; /* itself, or the reset ahead of it */
}

static enum agent_guard read_guard(const struct conn_item *item)
{
    if (item->status == PGRES_TUPLES_OK)
        return AGENT_GUARD_OK;
    if (strcmp(conn_sqlstate(item), "22P02") != 0)
        return AGENT_GUARD_NONE;
    const char *message = conn_message(item);
    if (strstr(message, GUARD_MARKER) != NULL)
        return AGENT_GUARD_MARKER_LOST;
    if (strstr(message, GUARD_OWNER) != NULL)
        return AGENT_GUARD_FOREIGN_OWNER;
    return strstr(message, GUARD_READ_ONLY) != NULL ? AGENT_GUARD_READ_ONLY : AGENT_GUARD_NONE;
}

/* A read-only guard "fails" too, and says nothing about the results. */
static bool read_results_failure(struct branch *branch, const struct conn_batch *batch)
{
    struct agent_run *run = &branch->run;
    bool content = batch->failed == batch->count || run->guard == AGENT_GUARD_READ_ONLY;
    if (!content || (!branch->budget.exceeded && !branch->budget.garbled))
        return false;
    run->failed = AGENT_ITEM_RESULTS;
    if (branch->budget.garbled)
        snprintf(branch->message, sizeof(branch->message), "results are not UTF-8: a statement has changed client_encoding");
    else
        snprintf(branch->message, sizeof(branch->message), "results exceed %" PRIu32 " rows or %" PRIu32 " bytes", branch->budget.rows_max,
                 branch->budget.bytes_max);
    run->message = branch->message;
    return true;
}

static void read_failure(struct branch *branch, const struct conn_batch *batch)
{
    struct agent_run *run = &branch->run;
    if (read_results_failure(branch, batch) || batch->failed == batch->count)
        return;
    const struct conn_item *item = &batch->items[batch->failed];
    run->failed = item_at(branch, batch->failed);
    if (run->failed == AGENT_ITEM_STATEMENT)
        run->failed_step = branch->rows[batch->failed - branch->layout.first_statement].step;
    snprintf(branch->sqlstate, sizeof(branch->sqlstate), "%s", conn_sqlstate(item));
    text_copy_line(branch->message, sizeof(branch->message), conn_message(item));
    run->sqlstate = branch->sqlstate[0] != '\0' ? branch->sqlstate : NULL;
    run->message = branch->message;
}

/* xid and owner from the guard ahead of PREPARE, history and position from behind it. */
static void read_identity(struct branch *branch, const struct login *login, const struct conn_batch *batch)
{
    struct agent_run *run = &branch->run;
    const struct run_layout *layout = &branch->layout;
    if (layout->guard == RUN_NONE)
        return;
    const struct conn_item *guard = &batch->items[layout->guard];
    run->guard = read_guard(guard);
    if (run->guard == AGENT_GUARD_OK) {
        const char *owner = conn_value(guard, 0, 1);
        (void)pg_parse_u64(conn_value(guard, 0, 0), &run->identity.xid);
        snprintf(branch->owner, sizeof(branch->owner), "%s", owner != NULL ? owner : "");
        run->owner = branch->owner;
    }
    if (layout->prepare == RUN_NONE)
        return;
    const struct conn_item *prepare = &batch->items[layout->prepare], *lsn = &batch->items[layout->lsn];
    if (prepare->status == PGRES_COMMAND_OK) {
        snprintf(branch->tag, sizeof(branch->tag), "%s", PQcmdStatus(prepare->result));
        run->prepare_tag = branch->tag;
    }
    run->prepare_warning = prepare->warned;
    run->identity.system_id = login->system_id;
    if (!pg_parse_lsn(conn_value(lsn, 0, LSN_LSN), &run->identity.lsn) ||
        !pg_parse_walfile(conn_value(lsn, 0, LSN_WALFILE), &run->identity.timeline))
        run->identity.lsn = 0;
}

/* What the run has left behind in its session. */
static enum session_dirt judge_dirt(const struct branch *branch)
{
    const struct agent_run *run = &branch->run;
    bool went_through = run->failed == AGENT_ITEM_NONE || run->failed == AGENT_ITEM_LSN;
    bool odd = run->guard == AGENT_GUARD_NONE || (!branch->one_phase && run->identity.lsn == 0);
    if (branch->last && went_through && odd)
        return DIRT_BAD; /* our prepared statements do not say what we prepared: a branch has replaced them */
    if (branch->budget.exceeded)
        return DIRT_BAD; /* libpq never gives back the memory that a large row has taken */
    if (run->guard == AGENT_GUARD_MARKER_LOST || run->guard == AGENT_GUARD_FOREIGN_OWNER ||
        (run->sqlstate != NULL && strcmp(run->sqlstate, "26000") == 0))
        return DIRT_BAD; /* settings that RESET ALL leaves alone may be gone; our prepared statements are */
    if (run->prepare_tag != NULL)
        return DIRT_SETTINGS;
    if (run->guard == AGENT_GUARD_READ_ONLY)
        return branch->reset_ahead ? DIRT_SETTINGS : DIRT_NONE; /* no session locks; ROLLBACK undoes the rest, the reset too */
    return DIRT_MUCH;
}

/* What the barrier row says, of an answer to SQL_ATTEMPT; false: it says nothing. */
static bool read_barrier(struct branch *branch, const struct conn_item *item)
{
    const char *state = item->status == PGRES_TUPLES_OK ? conn_value(item, 0, ATTEMPT_STATE) : NULL;
    if (state == NULL)
        return false;
    if (strcmp(state, "run") == 0)
        branch->run.barrier = branch->saga_op == LOCKSTEP__SAGA_OP__SAGA_DO ? AGENT_BARRIER_DONE : AGENT_BARRIER_UNDONE;
    else if (strcmp(state, "done") == 0)
        branch->run.barrier = AGENT_BARRIER_DONE;
    else
        branch->run.barrier = strcmp(state, "undone") == 0 ? AGENT_BARRIER_UNDONE : AGENT_BARRIER_CANCELLED;
    branch->run.has_barrier = true;
    if (strcmp(state, "run") != 0)
        read_kept(branch, item);
    return true;
}

/* The transaction was rolled back because the row had an answer; this is it, as committed now. */
static void answer_read(void *context, struct conn *conn, struct conn_batch *batch)
{
    struct branch *branch = context;
    struct pg *pg = branch->session->pg;
    bool idle = !batch->lost && conn_transaction(conn) == PQTRANS_IDLE;
    branch->run.session = idle ? AGENT_SESSION_IDLE : AGENT_SESSION_LOST;
    if (!idle && !batch->lost)
        conn_close(conn, "ROLLBACK failed");
    if (!idle || !read_barrier(branch, &batch->items[0])) {
        /* No row any more, or it cannot be read: not an answer. The same attempt may find out the next time. */
        snprintf(branch->sqlstate, sizeof(branch->sqlstate), "40001");
        snprintf(branch->message, sizeof(branch->message), "what the barrier row says could not be read");
    }
    branch->run.rows = branch->rows;
    branch->run.row_count = branch->rows != NULL ? branch->result_count : 0;
    answer_run(pg, branch);
}

static void read_answer(struct branch *branch)
{
    struct conn *conn = branch->session->conn;
    struct conn_batch *batch = conn_begin(conn, 1, answer_read, branch);
    add_attempt(branch->session->pg, branch, batch, "look");
    conn_end(conn, batch);
}

static void rolled_back(void *context, struct conn *conn, struct conn_batch *batch)
{
    struct branch *branch = context;
    struct pg *pg = branch->session->pg;
    bool idle = !batch->lost && batch->failed == batch->count && conn_transaction(conn) == PQTRANS_IDLE;
    branch->run.session = idle ? AGENT_SESSION_IDLE : AGENT_SESSION_LOST;
    if (!idle && !batch->lost)
        conn_close(conn, "ROLLBACK failed");
    if (idle && branch->run.failed == AGENT_ITEM_BARRIER && strcmp(branch->sqlstate, "LS001") == 0)
        read_answer(branch);
    else
        answer_run(pg, branch);
}

static void run_done(void *context, struct conn *conn, struct conn_batch *batch)
{
    struct branch *branch = context;
    struct session *session = branch->session;
    struct pg *pg = session->pg;
    memset(&branch->run, 0, sizeof(branch->run));
    read_results(branch, batch);
    read_identity(branch, &session->login, batch);
    read_failure(branch, batch);
    if (is_saga(branch) && branch->run.failed == AGENT_ITEM_NONE)
        (void)read_barrier(branch, &batch->items[branch->layout.barrier]);
    branch->run.rows = branch->rows;
    branch->run.row_count = branch->rows != NULL ? branch->result_count : 0;
    if (session->dirt != DIRT_BAD)
        session->dirt = judge_dirt(branch);
    PGTransactionStatusType state = batch->lost ? PQTRANS_UNKNOWN : conn_transaction(conn);
    if (state == PQTRANS_INERROR) {
        /* Crash: nothing is prepared, and the backend rolls back when it notices or is ended. */
        (void)failpoint_hit(branch->run.guard == AGENT_GUARD_READ_ONLY ? FP_agent_before_read_only_release : FP_agent_before_rollback);
        struct conn_batch *rollback = conn_begin(conn, 1, rolled_back, branch);
        conn_add(conn, rollback, "rollback", 0, NULL);
        conn_end(conn, rollback);
        return;
    }
    if (state == PQTRANS_IDLE)
        branch->run.session = AGENT_SESSION_IDLE;
    else
        branch->run.session = state == PQTRANS_INTRANS ? AGENT_SESSION_OPEN : AGENT_SESSION_LOST;
    answer_run(pg, branch);
}

/* ---- effects */

static struct branch *branch_get(struct pg *pg, const struct agent_effect *effect)
{
    struct branch *branch = branch_find(pg, effect->branch);
    if (branch != NULL)
        return branch;
    branch = memory_new(sizeof(*branch));
    branch->number = effect->branch;
    branch->send = execute_send;
    branch->no_session = execute_no_session;
    snprintf(branch->gtid, sizeof(branch->gtid), "%s", effect->gtid);
    struct branch **bucket = &pg->branches[branch->number % PG_BRANCH_BUCKETS];
    branch->hash_next = *bucket;
    *bucket = branch;
    return branch;
}

void execute_no_session(struct pg *pg, struct branch *branch, const char *reason)
{
    struct late *late = pg_answer_late(pg, AEV_DB_RUN, branch->op);
    late->event.run.nothing_sent = true;
    late->event.run.session = AGENT_SESSION_LOST;
    text_copy_line(late->message, sizeof(late->message), reason);
    branch->op = 0;
    branch->work = NULL;
}

static void take_saga(struct branch *branch, const Lockstep__SagaStep *saga)
{
    if (saga == NULL)
        return;
    snprintf(branch->saga, sizeof(branch->saga), "%s", saga->saga);
    snprintf(branch->step, sizeof(branch->step), "%s", saga->step);
    branch->saga_op = saga->op;
    branch->result_max = saga->has_result_max ? saga->result_max : LS_STEP_RESULT_MAX;
}

void execute_run(struct pg *pg, const struct agent_effect *effect, const char *role)
{
    struct branch *branch = branch_get(pg, effect);
    assert(branch->op == 0);
    branch->op = effect->op;
    branch->work = effect->run.work;
    branch->first = effect->run.first;
    branch->last = effect->run.last;
    branch->one_phase = effect->run.one_phase;
    branch->lock_timeout_ms = effect->run.lock_timeout_ms;
    branch->deadline_ms = effect->run.deadline_ms;
    snprintf(branch->gid, sizeof(branch->gid), "%s", effect->run.gid != NULL ? effect->run.gid : "");
    snprintf(branch->role, sizeof(branch->role), "%s", role);
    snprintf(branch->app, sizeof(branch->app), "%s", branch->work->app);
    take_saga(branch, branch->work->saga);
    branch->fence = is_saga(branch) ? pg->fence_version : 0;
    if (branch->session != NULL && conn_is_ready(branch->session->conn)) {
        execute_send(pg, branch);
    } else if (branch->first) {
        worker_acquire(branch, pg);
    } else {
        /* Its open transaction went with the session; the backend may not have noticed yet. */
        struct late *late = pg_answer_late(pg, AEV_DB_RUN, branch->op);
        late->event.run.session = AGENT_SESSION_LOST;
        branch->op = 0;
        branch->work = NULL;
    }
}

static void keep_refused(void *context, struct conn *conn, struct conn_batch *batch)
{
    struct branch *branch = context;
    struct pg *pg = branch->session->pg;
    struct agent_event event = {.kind = AEV_DB_COMMIT1, .op = branch->op};
    bool idle = !batch->lost && batch->failed == batch->count && conn_transaction(conn) == PQTRANS_IDLE;
    branch->op = 0;
    if (!idle && !batch->lost)
        conn_close(conn, "ROLLBACK failed");
    event.commit1.answer.sqlstate = branch->sqlstate;
    event.commit1.answer.message = branch->message;
    event.commit1.session = idle ? AGENT_SESSION_IDLE : AGENT_SESSION_LOST;
    pg_answer(pg, &event);
}

/* The result could not be kept: the server has skipped COMMIT, and the transaction is to be rolled back. */
static bool keep_failed(struct branch *branch, struct conn *conn, const struct conn_batch *batch)
{
    const struct conn_item *keep = &batch->items[0];
    if (batch->lost || batch->count < 2 || batch->failed != 0 || conn_transaction(conn) != PQTRANS_INERROR)
        return false;
    snprintf(branch->sqlstate, sizeof(branch->sqlstate), "%s", conn_sqlstate(keep));
    text_copy_line(branch->message, sizeof(branch->message), conn_message(keep));
    struct conn_batch *rollback = conn_begin(conn, 1, keep_refused, branch);
    conn_add(conn, rollback, "rollback", 0, NULL);
    conn_end(conn, rollback);
    return true;
}

/* COMMIT or ROLLBACK was answered. */
static void ending_done(void *context, struct conn *conn, struct conn_batch *batch)
{
    struct branch *branch = context;
    struct pg *pg = branch->session->pg;
    struct agent_event event = {.kind = branch->committing ? AEV_DB_COMMIT1 : AEV_DB_ROLLBACK, .op = branch->op};
    bool idle = !batch->lost && conn_transaction(conn) == PQTRANS_IDLE;
    enum agent_session session = idle ? AGENT_SESSION_IDLE : AGENT_SESSION_LOST;
    if (branch->committing && keep_failed(branch, conn, batch))
        return;
    branch->op = 0;
    if (!idle && !batch->lost)
        conn_close(conn, "the transaction did not end");
    if (branch->committing) {
        pg_item_answer(batch, batch->count - 1, "COMMIT", &event.commit1.answer);
        event.commit1.session = session;
    } else {
        event.rollback.session = session;
    }
    pg_answer(pg, &event);
}

/* [{"at":step,"touched":n,"rows":[...]},...] */
static char *kept_json(const struct branch *branch)
{
    char *json = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&json, &size);
    if (out == NULL)
        abort(); /* bounded by the results of the branches at work */
    fputc('[', out);
    for (uint32_t i = 0; i < branch->result_count; i++) {
        const struct pg_step_result *result = &branch->results[i];
        fprintf(out, "%s{\"at\":%" PRIu32 ",\"touched\":%" PRIu64, i == 0 ? "" : ",", result->step, result->rows_affected);
        if (result->has_rows)
            fprintf(out, ",\"rows\":%s", result->json);
        fputc('}', out);
    }
    fputc(']', out);
    bool failed = ferror(out) != 0;
    if (fclose(out) != 0 || failed)
        abort();
    return json;
}

static bool keeps_result(const struct branch *branch)
{
    return is_saga(branch) && branch->saga_op == LOCKSTEP__SAGA_OP__SAGA_DO;
}

static void add_keep(struct pg *pg, struct branch *branch, struct conn_batch *batch)
{
    char bytes[12], *json = kept_json(branch);
    snprintf(bytes, sizeof(bytes), "%" PRIu32, branch->result_max);
    const char *values[] = {pg->secret, branch->saga, branch->step, json, bytes};
    conn_add(branch->session->conn, batch, SQL_KEEP, 5, values);
    free(json);
}

/* False: there is no session. */
static bool send_ending(struct pg *pg, uint64_t number, uint64_t op, bool commit)
{
    struct branch *branch = branch_find(pg, number);
    if (branch == NULL || branch->session == NULL || !conn_is_ready(branch->session->conn))
        return false;
    struct conn *conn = branch->session->conn;
    assert(branch->op == 0 && conn_queued(conn) == 0);
    branch->op = op;
    branch->committing = commit;
    bool keep = commit && keeps_result(branch);
    struct conn_batch *batch = conn_begin(conn, keep ? 2 : 1, ending_done, branch);
    /* Crash: no COMMIT was sent, no outcome row is committed: a tombstone settles it. */
    if (commit && failpoint_hit(FP_agent_before_one_phase_commit))
        conn_close(conn, "fault asked for");
    if (keep)
        add_keep(pg, branch, batch);
    conn_add(conn, batch, commit ? "commit" : "rollback", 0, NULL);
    conn_end(conn, batch);
    /* Crash: COMMIT acts or does not (hazards 1.15): the outcome row tells, and a tombstone waits for it. */
    if (commit && failpoint_hit(FP_agent_after_one_phase_commit))
        conn_close(conn, "fault asked for");
    return true;
}

static void send_commit(struct pg *pg, uint64_t number, uint64_t op)
{
    if (send_ending(pg, number, op, true))
        return;
    struct late *late = pg_answer_late(pg, AEV_DB_COMMIT1, op);
    late->event.commit1.answer.lost = true;
    late->event.commit1.session = AGENT_SESSION_LOST;
}

void execute_commit(struct pg *pg, const struct agent_effect *effect)
{
    const struct branch *branch = branch_find(pg, effect->branch);
    if (branch == NULL || branch->fence <= pg->fence_settled) {
        send_commit(pg, effect->branch, effect->op);
        return;
    }
    struct held_commit *held = memory_new(sizeof(*held));
    *held = (struct held_commit){effect->branch, effect->op, branch->fence, pg->held_commits};
    pg->held_commits = held;
}

void execute_fence_settled(struct pg *pg)
{
    for (struct held_commit **at = &pg->held_commits; *at != NULL;) {
        struct held_commit *held = *at;
        if (held->fence > pg->fence_settled) {
            at = &held->next;
            continue;
        }
        *at = held->next;
        send_commit(pg, held->branch, held->op);
        free(held);
    }
}

void execute_fail_held(struct pg *pg, const char *reason)
{
    while (pg->held_commits != NULL) {
        struct held_commit *held = pg->held_commits;
        const struct branch *branch = branch_find(pg, held->branch);
        pg->held_commits = held->next;
        if (branch != NULL && branch->session != NULL)
            conn_close(branch->session->conn, reason);
        send_commit(pg, held->branch, held->op); /* into nothing: it is told that the session is lost */
        free(held);
    }
}

void execute_rollback(struct pg *pg, const struct agent_effect *effect)
{
    if (!send_ending(pg, effect->branch, effect->op, false))
        pg_answer_late(pg, AEV_DB_ROLLBACK, effect->op)->event.rollback.session = AGENT_SESSION_LOST;
}
