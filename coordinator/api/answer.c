/*
 * answer.c: bodies of answers. One rule for status codes wherever a transaction is answered: 200 committed and durable,
 * 409 aborted, 202 not known yet; a hazard keeps the code of its decision (200 when the decision was to commit, 409
 * otherwise) and says so in `state`. POST .../abort turns it round for aborted (200) and committed (409), because there
 * an abort is what was asked for.
 */
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/daemon.h"
#include "coordinator/api/internal.h"

#define HTTP_OK_ 200
#define HTTP_ACCEPTED_ 202
#define HTTP_CONFLICT_ 409

/* One participant's outcome row says whose it is; where there is none (app 0), nothing was done and nothing is given
 * away. */
bool answer_may_see_outcome(const struct conn *conn, uint32_t app, enum txn_outcome outcome) {
    bool nobodys = app == 0 && (outcome == OUTCOME_PENDING || outcome == OUTCOME_ABORTED);
    return nobodys || answer_may_see(conn, app);
}

bool answer_may_see(const struct conn *conn, uint32_t app) {
    return conn_is_admin(conn) || (app != 0 && app == conn->app);
}

void answer_error(struct api *api, const char *code, const char *path, bool not_begun, const char *fmt, ...) {
    char message[LS_ERROR_TEXT_MAX];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    struct out *out = &api->out;
    out_reset(out);
    out_open(out, NULL, '{');
    out_open(out, "error", '{');
    out_string(out, "code", code);
    out_string(out, "message", message);
    if (path != NULL) {
        out_string(out, "path", path);
    }
    out_close(out, '}');
    if (not_begun) {
        out_bool(out, "begun", false);
    }
    out_close(out, '}');
}

static const char *participant_name(const struct api *api, uint32_t number) {
    const struct registry_participant *participant = registry_by_number(api->host->registry, number);
    return participant == NULL ? NULL : participant->name;
}

static int status_code(const struct request *request, enum txn_outcome outcome, bool decided_commit) {
    bool abort_asked = request->kind == REQUEST_ABORT;
    switch (outcome) {
    case OUTCOME_PENDING:
        return HTTP_ACCEPTED_;
    case OUTCOME_COMMITTED:
        return abort_asked ? HTTP_CONFLICT_ : HTTP_OK_;
    case OUTCOME_ABORTED:
        return abort_asked ? HTTP_OK_ : HTTP_CONFLICT_;
    case OUTCOME_HAZARD:
        return decided_commit ? HTTP_OK_ : HTTP_CONFLICT_;
    }
    assert(!"outcome");
    return HTTP_ACCEPTED_;
}

static void begin_outcome(struct request *request, const char *gtid, enum txn_outcome outcome, bool applied) {
    struct out *out = &request->api->out;
    out_reset(out);
    out_open(out, NULL, '{');
    out_string(out, "gtid", gtid);
    out_string(out, "state", txn_outcome_name(outcome));
    out_bool(out, "applied", applied);
    if (request->joined) {
        out_bool(out, "replayed", true);
    }
    if (outcome == OUTCOME_PENDING) {
        char address[LS_GTID_MAX + 32];
        (void)snprintf(address, sizeof address, "/v1/tx/%s?for=decided", gtid);
        out_string(out, "ask", address);
    }
}

static void add_cause(struct request *request, const struct txn_cause *cause) {
    struct out *out = &request->api->out;
    const char *participant = cause->participant == 0 ? NULL : participant_name(request->api, cause->participant);
    out_string(out, "reason", cause->reason);
    if (cause->sqlstate[0] != '\0') {
        out_string(out, "sqlstate", cause->sqlstate);
    }
    if (participant != NULL) {
        out_string(out, "participant", participant);
    }
    if (cause->has_step) {
        out_u64(out, "step", cause->step);
    }
    out_bool(out, "retryable", cause->retryable);
    out_bool(out, "begun", cause->begun);
}

void answer_add_results(struct out *out, const struct run *run) {
    out_open(out, "results", '[');
    for (uint32_t i = 0; run->results != NULL && i < run->document->step_count; i++) {
        const struct run_result *result = &run->results[i];
        if (!result->there) {
            continue;
        }
        out_open(out, NULL, '{');
        out_u64(out, "step", i);
        if (run->document->steps[i].name != NULL) {
            out_string(out, "name", run->document->steps[i].name);
        }
        if (run->document->saga_steps[i].service != NULL) {
            if (result->rows_json != NULL) {
                out_json(out, "result", result->rows_json, strlen(result->rows_json));
            }
            out_close(out, '}');
            continue;
        }
        out_u64(out, "rows_affected", result->affected);
        if (result->rows_json != NULL) {
            out_json(out, "rows", result->rows_json, strlen(result->rows_json));
        }
        out_close(out, '}');
    }
    out_close(out, ']');
}

static bool branch_is_applied(const struct txn_branch *branch) {
    return branch->state == BR_COMMITTED || branch->state == BR_READ_ONLY;
}

static void add_outstanding(struct out *out, const struct api *api, const struct txn *txn) {
    out_open(out, "outstanding", '[');
    for (uint32_t i = 0; i < txn->branch_count; i++) {
        if (!branch_is_applied(&txn->branches[i])) {
            out_string(out, NULL, participant_name(api, txn->branches[i].participant));
        }
    }
    out_close(out, ']');
}

/* What a human may do about a prepared branch, for one who has no time to think. */
static const char *what_is_safe(const struct txn *txn, const struct txn_branch *branch) {
    if (branch->state == BR_HAZARD) {
        return "compare the databases before anything is done: this branch was broken from outside";
    }
    switch (txn->state) {
    case TXN_COMMITTING:
    case TXN_COMMITTED:
        return "decided: it will be committed as soon as its participant can be reached. COMMIT PREPARED by hand is "
               "safe, "
               "ROLLBACK PREPARED breaks the transaction";
    case TXN_ABORTING:
    case TXN_ABORTED:
        return "decided: it will be rolled back as soon as its participant can be reached. ROLLBACK PREPARED by hand "
               "is "
               "safe, COMMIT PREPARED breaks the transaction";
    case TXN_LOGGING:
        return "nothing by hand: its decision is being written. Look at the disk of the decision log";
    case TXN_HAZARD:
        return "compare the databases before anything is done: another branch was broken from outside";
    case TXN_WAITING:
    case TXN_ACTIVE:
    case TXN_PREPARING:
    case TXN_DELEGATED:
    case TXN_SETTLING:
    case TXN_STATE_COUNT:
        break;
    }
    return "wait for its deadline, or `lockstep tx abort`. ROLLBACK PREPARED by hand breaks it if it is decided "
           "meanwhile";
}

static void add_branches(struct out *out, const struct request *request, const struct txn *txn) {
    const struct api *api = request->api;
    out_open(out, "branches", '[');
    for (uint32_t i = 0; i < txn->branch_count; i++) {
        const struct txn_branch *branch = &txn->branches[i];
        out_open(out, NULL, '{');
        out_string(out, "participant", participant_name(api, branch->participant));
        out_string(out, "state", branch_state_name(branch->state));
        if (branch->id.xid != 0) {
            char xid[24];
            (void)snprintf(xid, sizeof xid, "%llu", (unsigned long long)branch->id.xid);
            out_string(out, "xid", xid);
            out_string(out, "gid", branch->gid);
        }
        if (request->inquiry != NULL && branch_may_block(branch)) {
            out_string(out, "safe", what_is_safe(txn, branch));
            inquiry_add_blocking(out, request->inquiry, branch->participant);
        }
        out_close(out, '}');
    }
    out_close(out, ']');
}

/* Was the decision to commit? Only then can a hazard hold branches that are committed by us. */
static bool decided_commit(const struct txn *txn) {
    return txn->ticket != 0 || (txn->recovered && !txn->one_participant);
}

int answer_txn(struct request *request, const struct txn *txn) {
    struct out *out = &request->api->out;
    begin_outcome(request, txn->gtid, txn->outcome, txn->applied);
    bool own_run = request->kind == REQUEST_RUN && !request->joined;
    if (txn->outcome == OUTCOME_PENDING || !own_run) {
        out_string(out, "phase", txn_state_name(txn->state));
    }
    if (txn->outcome == OUTCOME_COMMITTED && !txn->applied) {
        add_outstanding(out, request->api, txn);
    }
    if (txn->fully_read_only) {
        out_bool(out, "read_only", true);
    }
    if (txn->outcome == OUTCOME_ABORTED || txn->outcome == OUTCOME_HAZARD) {
        add_cause(request, &txn->cause);
    }
    if (txn->outcome == OUTCOME_HAZARD || (request->kind == REQUEST_GET && txn->outcome != OUTCOME_ABORTED) ||
        request->inquiry != NULL) {
        add_branches(out, request, txn);
    }
    if (own_run && txn->outcome == OUTCOME_COMMITTED) {
        answer_add_results(out, request->run);
    }
    out_close(out, '}');
    return status_code(request, txn->outcome, decided_commit(txn));
}

/* Whoever was answered 202 follows the address and takes what it says for the end of what he asked for under the key.
 * An administrator asks what became of this very transaction. */
static bool asks_for_its_run(const struct request *request) {
    return request->kind == REQUEST_GET && !conn_is_admin(request->conn);
}

/* One participant: only its outcome rows know what an earlier life of the coordinator has run under a key. An abort of
 * this run, told before the participant has looked, would be taken for the end of the earlier one. */
bool answer_key_is_unsettled(const struct request *request, const struct txn *txn) {
    if (request->kind == REQUEST_RUN && txn->existing) {
        return false; /* it is told which run that was */
    }
    return txn->one_participant && txn->has_key && txn->outcome == OUTCOME_ABORTED && !txn->cause.key_free &&
           (request->kind == REQUEST_RUN || asks_for_its_run(request));
}

int answer_key_unsettled(struct request *request, const struct txn_cause *cause) {
    answer_error(request->api, "key_unsettled", NULL, true,
                 "%s; whether an earlier run under this Idempotency-Key has committed is not known: repeat the request",
                 cause->reason);
    return 503;
}

/* Needs the log only for a hazard: whether the decision was to commit. */
static bool log_has_decision(struct request *request) {
    Lockstep__LogCommit *record = NULL;
    if (host_find_decision(request->api->host, request->epoch, request->sequence, &record) != KEPT_COMMIT) {
        return false;
    }
    lockstep__log_commit__free_unpacked(record, NULL);
    return true;
}

int answer_finished(struct request *request, const struct txn_finished *finished) {
    if (finished->cause != NULL && finished->cause->key_unsettled && asks_for_its_run(request)) {
        return answer_key_unsettled(request, finished->cause);
    }
    bool applied = finished->outcome == OUTCOME_COMMITTED || finished->outcome == OUTCOME_ABORTED;
    begin_outcome(request, request->gtid, finished->outcome, applied);
    if (finished->read_only) {
        out_bool(&request->api->out, "read_only", true);
    }
    if (finished->cause != NULL) {
        add_cause(request, finished->cause);
    }
    out_close(&request->api->out, '}');
    return status_code(request, finished->outcome, finished->outcome == OUTCOME_HAZARD && log_has_decision(request));
}

int answer_committed_record(struct request *request, const Lockstep__LogCommit *record) {
    struct out *out = &request->api->out;
    begin_outcome(request, request->gtid, OUTCOME_COMMITTED, true);
    out_open(out, "branches", '[');
    for (size_t i = 0; i < record->n_branches; i++) {
        char xid[24];
        (void)snprintf(xid, sizeof xid, "%llu", (unsigned long long)record->branches[i]->xid);
        out_open(out, NULL, '{');
        out_string(out, "participant", participant_name(request->api, record->branches[i]->participant));
        out_string(out, "state", branch_state_name(BR_COMMITTED));
        out_string(out, "xid", xid);
        out_string(out, "gid", record->branches[i]->gid);
        out_close(out, '}');
    }
    out_close(out, ']');
    out_close(out, '}');
    return status_code(request, OUTCOME_COMMITTED, true);
}

int answer_pending(struct request *request) {
    begin_outcome(request, request->gtid, OUTCOME_PENDING, false);
    out_close(&request->api->out, '}');
    return HTTP_ACCEPTED_;
}

/* One participant, and the key was used by a run that this life of the coordinator did not know. */
int answer_existing(struct request *request, const struct txn *txn) {
    const struct run *run = request->run;
    char gtid[LS_GTID_MAX + 1] = "";
    bool same = txn->existing_same_document;
    if (run->existing_gtid[0] != '\0') {
        (void)snprintf(gtid, sizeof gtid, "%s", run->existing_gtid); /* may be of an incarnation before ours */
        same = run->existing_same_document;
    } else if (txn->existing_epoch == 0) {
        return answer_txn(request, txn); /* a repeat that had joined, told to run again: then it meets the row itself */
    } else {
        struct ls_gtid parts = {.epoch = txn->existing_epoch,
                                .sequence = txn->existing_sequence,
                                .participant = txn->branches[0].participant};
        (void)snprintf(parts.coordinator, sizeof parts.coordinator, "%s", request->api->host->conf.name);
        (void)snprintf(parts.incarnation, sizeof parts.incarnation, "%s", request->api->host->incarnation);
        ls_gtid_format(&parts, gtid);
    }
    if (!same) {
        answer_error(request->api, "key_mismatch", NULL, true, "this Idempotency-Key was used with another document");
        return 422;
    }
    request->joined = true;
    begin_outcome(request, gtid, OUTCOME_COMMITTED, true);
    out_close(&request->api->out, '}');
    return HTTP_OK_;
}

int answer_refused(struct request *request) {
    struct api *api = request->api;
    switch (request->why) {
    case REFUSE_BUSY:
        answer_error(api, "busy", NULL, true,
                     "too many transactions are waiting for their participants (limits.waiting)");
        return 429;
    case REFUSE_KEYS_FULL:
        answer_error(api, "keys_full", NULL, true, "no more Idempotency-Keys can be remembered (limits.keys)");
        return 429;
    case REFUSE_NOMEM:
        answer_error(api, "no_memory", NULL, true, "out of memory");
        return 429;
    case REFUSE_OFFLINE:
        answer_error(api, "participant_offline", NULL, true, "participant %s is offline",
                     participant_name(api, request->refused_participant));
        return 503;
    case REFUSE_DRAINING:
        answer_error(api, "draining", NULL, true, "the coordinator is stopping");
        return 503;
    case REFUSE_LOG_FULL:
        answer_error(api, "log_full", NULL, true, "no space can be reserved in the decision log");
        return 503;
    case REFUSE_KEY_MISMATCH:
        answer_error(api, "key_mismatch", NULL, true, "this Idempotency-Key was used with another document");
        return 422;
    }
    assert(!"refuse_why");
    return 503;
}

/* ---------------------------------------------------------------- lists */

/* Transactions come in order of admission: those found in the log at start, then those of this life, each with growing
 * names. */
static bool is_behind(const struct txn *txn, const struct ls_gtid *after) {
    return txn->epoch > after->epoch || (txn->epoch == after->epoch && txn->sequence > after->sequence);
}

static void add_listed(struct out *out, const struct api *api, const struct txn *txn, uint64_t now_us) {
    out_open(out, NULL, '{');
    out_string(out, "gtid", txn->gtid);
    out_string(out, "state", txn_outcome_name(txn->outcome));
    out_string(out, "phase", txn_state_name(txn->state));
    out_bool(out, "applied", txn->applied);
    out_string(out, "app", apps_identity(api->host->apps, txn->app));
    out_u64(out, "age_ms", (now_us - txn->begun_us) / 1000);
    add_outstanding(out, api, txn);
    out_close(out, '}');
}

void answer_list(struct api *api, const struct conn *conn, const char *state, uint32_t limit,
                 const struct ls_gtid *after) {
    struct out *out = &api->out;
    uint64_t now_us = daemon_now_us();
    const char *last = NULL;
    uint32_t count = 0;
    bool more = false;
    out_reset(out);
    out_open(out, NULL, '{');
    out_open(out, "transactions", '[');
    for (const struct txn *txn = engine_next(api->host->engine, NULL); txn != NULL;
         txn = engine_next(api->host->engine, txn)) {
        if (!answer_may_see(conn, txn->app) || (after != NULL && !is_behind(txn, after)) ||
            (state != NULL && strcmp(state, txn_outcome_name(txn->outcome)) != 0)) {
            continue;
        }
        if (count == limit) {
            more = true;
            break;
        }
        add_listed(out, api, txn, now_us);
        last = txn->gtid;
        count++;
    }
    out_close(out, ']');
    out_string(out, "next", more ? last : NULL);
    out_close(out, '}');
}

static const char *participant_state(const struct engine_participant_info *info) {
    return !info->linked ? "offline" : info->ready ? "ready" : "starting";
}

static void add_participant(struct api *api, const struct registry_participant *participant) {
    struct out *out = &api->out;
    struct engine_participant_info info;
    if (!engine_participant_info(api->host->engine, participant->number, &info)) {
        return;
    }
    char system_id[24];
    (void)snprintf(system_id, sizeof system_id, "%llu",
                   (unsigned long long)(info.linked ? info.system_id : participant->system_id));
    out_open(out, NULL, '{');
    out_string(out, "name", participant->name);
    out_u64(out, "number", participant->number);
    out_string(out, "state", participant_state(&info));
    out_bool(out, "linked", info.linked);
    out_bool(out, "ready", info.linked && info.ready);
    out_u64(out, "credits", info.linked ? info.credits : 0);
    out_u64(out, "used", info.used);
    out_u64(out, "open_branches", info.open_branches);
    out_string(out, "system_id", system_id);
    out_u64(out, "timeline", info.linked ? info.timeline : participant->timeline);
    out_string(out, "server_version", participant->server_version);
    out_string(out, "database", participant->database);
    out_close(out, '}');
}

void answer_participants(struct api *api) {
    struct out *out = &api->out;
    out_reset(out);
    out_open(out, NULL, '{');
    out_open(out, "participants", '[');
    for (uint32_t number = 1; number <= registry_highest(api->host->registry); number++) {
        const struct registry_participant *participant = registry_by_number(api->host->registry, number);
        if (participant != NULL) {
            add_participant(api, participant);
        }
    }
    out_close(out, ']');
    out_close(out, '}');
}
