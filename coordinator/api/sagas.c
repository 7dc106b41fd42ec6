/*
 * sagas.c: sagas over HTTP: begin, show, list, cancel, and the dead-letter queue.
 *
 * One rule for status codes, as for transactions: 200 completed, 409 compensated, 202 on its way (dead letters
 * included: their end is open). Where a cancel is asked for it is turned round: 200 compensated, 409 completed or too
 * late. Who may do what: an application its own sagas; an administrator everybody's, and the dead-letter queue.
 */
#include <assert.h>
#include <event2/buffer.h>
#include <event2/keyvalq_struct.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/daemon.h"
#include "common/diag.h"
#include "common/hash.h"
#include "coordinator/api/internal.h"

#define JSON "application/json"
#define ENDED_LOOK_MAX 1000u
#define END_WAIT_MS_MAX 300000u /* wait=end: 202 after it */

static void reply_saga(struct request *request, int code) {
    char location[LS_GTID_MAX + 32];
    (void)snprintf(location, sizeof location, "/v1/sagas/%s", request->gtid);
    server_reply(request->conn, request->http, code, JSON, code == 202 ? location : NULL);
    request_free(request);
}

static int status_of(const struct request *request, enum saga_state state) {
    bool cancel = request->kind == REQUEST_SAGA_CANCEL;
    switch (state) {
    case SAGA_COMPLETED:
        return cancel ? 409 : 200;
    case SAGA_COMPENSATED:
        return cancel ? 200 : 409;
    case SAGA_BEGUN:
    case SAGA_RUNNING:
    case SAGA_PASSED:
    case SAGA_COMPENSATING:
    case SAGA_STUCK:
    case SAGA_STATE_COUNT:
        break;
    }
    return 202;
}

/* ----------------------------------------------------------------- bodies */

static void begin_body(struct request *request, enum saga_state state) {
    struct out *out = &request->api->out;
    out_reset(out);
    out_open(out, NULL, '{');
    out_string(out, "saga", request->gtid);
    out_string(out, "state", saga_state_name(state));
    if (request->joined) {
        out_bool(out, "replayed", true);
    }
    if (state != SAGA_COMPLETED && state != SAGA_COMPENSATED) {
        char address[LS_GTID_MAX + 32];
        (void)snprintf(address, sizeof address, "/v1/sagas/%s", request->gtid);
        out_string(out, "ask", address);
    }
}

static void add_cause(struct out *out, const char *reason, const char *sqlstate, bool has_step, uint32_t step) {
    if (reason == NULL || reason[0] == '\0') {
        return;
    }
    out_string(out, "reason", reason);
    if (sqlstate != NULL && sqlstate[0] != '\0') {
        out_string(out, "sqlstate", sqlstate);
    }
    if (has_step) {
        out_u64(out, "step", step);
    }
}

static const char *participant_name(const struct api *api, uint32_t number) {
    const struct registry_participant *participant = registry_by_number(api->host->registry, number);
    return participant == NULL ? NULL : participant->name;
}

static void add_step(struct api *api, const struct document *document, const struct saga *s, uint32_t index) {
    struct out *out = &api->out;
    const struct saga_step *step = &s->steps[index];
    out_open(out, NULL, '{');
    out_u64(out, "step", index);
    if (document->steps[index].name != NULL) {
        out_string(out, "name", document->steps[index].name);
    }
    if (step->call) {
        out_string(out, "call", document->saga_steps[index].service);
    } else {
        out_string(out, "on", participant_name(api, step->participant));
    }
    out_string(out, "kind", saga_kind_name(step->kind));
    out_string(out, "state", saga_known_name(step->known));
    out_u64(out, "attempts", step->attempts);
    if (step->op != SAGA_OP_NONE) {
        out_string(out, "on_its_way", saga_op_name(step->op));
    }
    if (step->skip_do || step->skip_undo) {
        out_bool(out, "skipped", true);
    }
    if (step->first_unix_ms != 0) {
        out_u64(out, "first_unix_ms", step->first_unix_ms);
    }
    if (step->settled_unix_ms != 0) {
        out_u64(out, "settled_unix_ms", step->settled_unix_ms);
    }
    out_close(out, '}');
}

static void add_failures(struct out *out, const struct saga *s) {
    uint32_t count = s->failures < SAGA_HISTORY_MAX ? s->failures : SAGA_HISTORY_MAX;
    out_u64(out, "failed_attempts", s->failures);
    out_open(out, "failures", '[');
    for (uint32_t i = s->failures - count; i < s->failures; i++) {
        const struct saga_failure *failure = &s->history[i % SAGA_HISTORY_MAX];
        out_open(out, NULL, '{');
        out_u64(out, "step", failure->step);
        out_string(out, "op", saga_op_name(failure->op));
        out_u64(out, "attempt", failure->attempt);
        out_u64(out, "unix_ms", failure->unix_ms);
        if (failure->sqlstate[0] != '\0') {
            out_string(out, "sqlstate", failure->sqlstate);
        }
        out_string(out, "reason", failure->reason);
        out_close(out, '}');
    }
    out_close(out, ']');
}

static void add_document(struct out *out, const json_t *root) {
    char *text = json_dumps(root, JSON_COMPACT);
    if (text != NULL) {
        out_json(out, "document", text, strlen(text));
        free(text);
    }
}

/* From memory. */
static void answer_saga(struct request *request, const struct saga *s) {
    struct out *out = &request->api->out;
    const struct saga_run *r = s->host;
    const struct document *document = r->run->document;
    begin_body(request, s->state);
    out_string(out, "app", apps_identity(request->api->host->apps, r->run->app));
    out_u64(out, "begun_unix_ms", s->begun_unix_ms);
    if (s->state == SAGA_STUCK) {
        out_string(out, "stuck_in", saga_state_name(s->from));
        out_string(out, "error_class", saga_policy(s->cause_class)->name);
    }
    if (s->turning) {
        out_bool(out, "turning", true);
    }
    add_cause(out, s->reason, s->sqlstate, s->cause_step != UINT32_MAX, s->cause_step);
    if (request->kind != REQUEST_SAGA_RUN) {
        out_open(out, "steps", '[');
        for (uint32_t i = 0; i < s->step_count; i++) {
            add_step(request->api, document, s, i);
        }
        out_close(out, ']');
        add_failures(out, s);
        add_document(out, document->root);
    } else if (s->state == SAGA_COMPLETED) {
        answer_add_results(out, r->run);
    }
    out_close(out, '}');
    reply_saga(request, status_of(request, s->state));
}

/* -------------------------------------------------------- ended: the log */

static bool read_record(struct host *host, uint64_t position, struct dlog_record *ret_record) {
    struct ls_error err;
    enum ls_status status = dlog_read(host->log, position, ret_record, &err);
    if (status != LS_OK && status != LS_ERR_BUSY && status != LS_ERR_NOT_FOUND) {
        host_log_failed("reading a saga back", &err);
    }
    return status == LS_OK;
}

/* As settle_kinds() in document.c has it. */
static const char *logged_kind(const json_t *step) {
    const char *kind = json_string_value(json_object_get(step, "kind"));
    return kind != NULL ? kind
                        : saga_kind_name(json_object_get(step, "undo") != NULL ? SAGA_COMPENSATABLE : SAGA_RETRIABLE);
}

static void add_logged_steps(struct request *request, const Lockstep__LogSagaEnd *end, const json_t *document) {
    struct out *out = &request->api->out;
    out_open(out, "steps", '[');
    for (size_t i = 0; i < end->n_steps; i++) {
        const Lockstep__LogSagaStep *step = end->steps[i];
        const json_t *of = json_array_get(json_object_get(document, "steps"), i);
        out_open(out, NULL, '{');
        out_u64(out, "step", i);
        if (json_is_string(json_object_get(of, "name"))) {
            out_string(out, "name", json_string_value(json_object_get(of, "name")));
        }
        if (json_is_string(json_object_get(of, "on"))) {
            out_string(out, "on", json_string_value(json_object_get(of, "on")));
        }
        if (json_is_string(json_object_get(of, "call"))) {
            out_string(out, "call", json_string_value(json_object_get(of, "call")));
        }
        if (of != NULL) {
            out_string(out, "kind", logged_kind(of));
        }
        out_string(out, "state",
                   saga_known_name(step->known < SAGA_KNOWN_COUNT ? (enum saga_known)step->known : SAGA_SENT));
        out_u64(out, "attempts", step->attempts);
        if (step->has_skipped && step->skipped) {
            out_bool(out, "skipped", true);
        }
        if (step->has_first_unix_ms) {
            out_u64(out, "first_unix_ms", step->first_unix_ms);
        }
        if (step->has_settled_unix_ms) {
            out_u64(out, "settled_unix_ms", step->settled_unix_ms);
        }
        out_close(out, '}');
    }
    out_close(out, ']');
}

static void answer_ended(struct request *request, const Lockstep__LogSagaEnd *end,
                         const Lockstep__LogSagaBegin *begin) {
    struct out *out = &request->api->out;
    enum saga_state state = end->state == SAGA_COMPLETED ? SAGA_COMPLETED : SAGA_COMPENSATED;
    json_error_t error;
    json_t *document =
        begin == NULL ? NULL : json_loadb((const char *)begin->document.data, begin->document.len, 0, &error);
    begin_body(request, state);
    if (begin != NULL) {
        out_string(out, "app", begin->app);
        out_u64(out, "begun_unix_ms", begin->begun_unix_ms);
    }
    out_u64(out, "ended_unix_ms", end->unix_ms);
    add_cause(out, end->reason, end->sqlstate, end->has_cause_step, end->cause_step);
    if (request->kind != REQUEST_SAGA_RUN) {
        add_logged_steps(request, end, document);
        if (document != NULL) {
            add_document(out, document);
        }
    }
    out_close(out, '}');
    json_decref(document);
    reply_saga(request, status_of(request, state));
}

static void reply_no_saga(struct request *request, const char *why) {
    answer_error(request->api, "no_record", NULL, false, "there is no record of saga %s: %s", request->gtid, why);
    server_reply(request->conn, request->http, 404, JSON, NULL);
    request_free(request);
}

static void reply_not_yours(struct request *request) {
    answer_error(request->api, "not_yours", NULL, false, "saga %s belongs to another application", request->gtid);
    server_reply(request->conn, request->http, 403, JSON, NULL);
    request_free(request);
}

static void answer_from_log(struct request *request) {
    struct host *host = request->api->host;
    struct dlog_saga found;
    struct dlog_record record;
    Lockstep__LogSagaBegin *begin = NULL;
    Lockstep__LogSagaEnd *end = NULL;
    if (!dlog_find_saga(host->log, request->epoch, request->sequence, &found)) {
        reply_no_saga(request, "it never began, or the log no longer goes back that far");
        return;
    }
    if (found.begin != 0 && read_record(host, found.begin, &record)) {
        begin = lockstep__log_saga_begin__unpack(NULL, record.length, record.payload);
    }
    if (found.end != 0 && read_record(host, found.end, &record)) {
        end = lockstep__log_saga_end__unpack(NULL, record.length, record.payload);
    }
    uint32_t app = begin == NULL ? 0 : apps_number(host->apps, begin->app);
    if (!request->joined && !answer_may_see(request->conn, app)) {
        reply_not_yours(request);
    } else if (end == NULL) {
        reply_no_saga(request, "its records are not durable yet");
    } else {
        answer_ended(request, end, begin);
    }
    if (begin != NULL) {
        lockstep__log_saga_begin__free_unpacked(begin, NULL);
    }
    if (end != NULL) {
        lockstep__log_saga_end__free_unpacked(end, NULL);
    }
}

/* ------------------------------------------------------------ waiting */

static bool is_enough(const struct request *request, const struct saga *s) {
    if (s->state == SAGA_COMPLETED || s->state == SAGA_COMPENSATED) {
        return true;
    }
    if (request->kind == REQUEST_SAGA_CANCEL) {
        return s->state == SAGA_STUCK;
    }
    bool begun = s->state != SAGA_BEGUN;
    if (begun && request->api->host->draining) {
        return true; /* it goes on in the next life: nobody need hold up the end of this one */
    }
    return request->wait == ROUTE_WAIT_END ? s->state == SAGA_STUCK : begun;
}

void request_saga_now(struct request *request) {
    const struct saga *s = saga_find(saga_host_machine(request->api->host->sagas), request->epoch, request->sequence);
    if (s == NULL) {
        answer_from_log(request);
    } else if (!request->joined && !answer_may_see(request->conn, ((const struct saga_run *)s->host)->run->app)) {
        reply_not_yours(request);
    } else {
        answer_saga(request, s);
    }
}

void request_saga_heard(struct request *request, const struct saga *s) {
    if (is_enough(request, s)) {
        answer_saga(request, s);
    }
}

static void answer_or_wait(struct request *request, uint64_t timeout_ms) {
    const struct saga *s = saga_find(saga_host_machine(request->api->host->sagas), request->epoch, request->sequence);
    bool allowed = s != NULL && (request->joined || request->kind == REQUEST_SAGA_RUN ||
                                 answer_may_see(request->conn, ((const struct saga_run *)s->host)->run->app));
    if (!allowed || timeout_ms == 0 || is_enough(request, s)) {
        request_saga_now(request);
    } else {
        request_wait(request, timeout_ms);
    }
}

static void name_request(struct request *request, uint32_t epoch, uint64_t sequence) {
    struct ls_gtid gtid = {.epoch = epoch, .sequence = sequence};
    (void)snprintf(gtid.coordinator, sizeof gtid.coordinator, "%s", request->api->host->conf.name);
    (void)snprintf(gtid.incarnation, sizeof gtid.incarnation, "%s", request->api->host->incarnation);
    request->epoch = epoch;
    request->sequence = sequence;
    ls_gtid_format(&gtid, request->gtid);
}

/* ----------------------------------------------------------------- begin */

static bool all_know_sagas(struct request *request) {
    const struct document *document = request->run->document;
    for (uint32_t i = 0; i < document->participant_count; i++) {
        struct engine_participant_info info;
        if (engine_participant_info(request->api->host->engine, document->participants[i], &info) && info.linked &&
            !agents_knows_sagas(request->api->host->agents, document->participants[i])) {
            answer_error(request->api, "participant_too_old", NULL, true, "the agent of participant %s knows no sagas",
                         info.name);
            server_reply(request->conn, request->http, 503, JSON, NULL);
            request_free(request);
            return false;
        }
    }
    return true;
}

static bool fits_the_log(struct request *request, size_t length) {
    struct api *api = request->api;
    size_t most = (size_t)api->host->conf.saga_body_max;
    bool fits = saga_log_record_max(length, request->run->document->step_count) <= dlog_payload_max(api->host->log);
    if (length <= most && fits) {
        return true;
    }
    answer_error(api, "too_large", NULL, true,
                 length > most
                     ? "the document of a saga is larger than %zu bytes (limits.saga_body)"
                     : "the saga does not fit into the records of this log (log.segment_size; limits.saga_body "
                       "is %zu)",
                 most);
    server_reply(request->conn, request->http, 413, JSON, NULL);
    request_free(request);
    return false;
}

static void take_key(const struct request *request, const char *body, size_t length, struct engine_saga *saga) {
    struct run *run = request->run;
    struct hash *hash = hash_begin();
    hash_add(hash, body, length);
    hash_end(hash, run->document_digest);
    hash_pair(request->conn->identity, run->key, run->key_digest);
    saga->has_key = true;
    memcpy(saga->key_digest, run->key_digest, sizeof saga->key_digest);
    memcpy(saga->document_digest, run->document_digest, sizeof saga->document_digest);
}

void saga_submit(struct request *request, const char *body, size_t length) {
    struct api *api = request->api;
    struct run *run = request->run;
    struct engine_saga saga = {.has_key = false};
    enum engine_saga_answer answer;
    if (run->key != NULL) {
        take_key(request, body, length, &saga);
    }
    /* First: of what has begun nobody says that nothing was begun. */
    if (!engine_saga_key_answers(api->host->engine, &saga, &answer)) {
        if (!fits_the_log(request, length) || !all_know_sagas(request)) {
            return;
        }
        answer = saga_host_begin(api->host->sagas, run, body, length, &saga);
    }
    if (answer == ENGINE_SAGA_REFUSED) {
        int code = 429;
        request->why = saga.why;
        request->refused_participant = saga.participant;
        if (saga.why == REFUSE_BUSY) {
            answer_error(api, "busy", NULL, true, "too many sagas have not ended (limits.sagas)");
        } else {
            code = answer_refused(request);
        }
        server_reply(request->conn, request->http, code, JSON, NULL);
        request_free(request);
        return;
    }
    request->joined = answer == ENGINE_SAGA_JOINED;
    name_request(request, saga.epoch, saga.sequence);
    answer_or_wait(request, END_WAIT_MS_MAX);
}

/* ------------------------------------------------------------- one saga */

static struct request *request_about(struct conn *conn, struct evhttp_request *http, const char *text,
                                     enum request_kind kind) {
    struct api *api = conn->listener->api;
    struct ls_gtid gtid;
    if (ls_gtid_parse(text, &gtid) != LS_OK || gtid.participant != 0 || !host_gtid_is_ours(api->host, &gtid)) {
        answer_error(api, "bad_saga", NULL, false, "\"%.64s\" is not the name of a saga of this coordinator", text);
        server_reply(conn, http, 404, JSON, NULL);
        return NULL;
    }
    struct request *request = request_new(conn, http, kind);
    if (request == NULL) {
        answer_error(api, "no_memory", NULL, true, "out of memory");
        server_reply(conn, http, 429, JSON, NULL);
        return NULL;
    }
    name_request(request, gtid.epoch, gtid.sequence);
    return request;
}

void handle_saga_get(struct conn *conn, struct evhttp_request *http, const char *text, uint64_t timeout_ms) {
    struct request *request = request_about(conn, http, text, REQUEST_SAGA);
    if (request != NULL) {
        request->wait = ROUTE_WAIT_END;
        answer_or_wait(request, timeout_ms);
    }
}

void handle_saga_cancel(struct conn *conn, struct evhttp_request *http, const char *text) {
    struct request *request = request_about(conn, http, text, REQUEST_SAGA_CANCEL);
    if (request == NULL) {
        return;
    }
    struct host *host = request->api->host;
    const struct saga *s = saga_find(saga_host_machine(host->sagas), request->epoch, request->sequence);
    if (s != NULL && answer_may_see(conn, ((const struct saga_run *)s->host)->run->app)) {
        if (!saga_may_cancel(s)) {
            answer_error(request->api, "too_late", NULL, false, "saga %s is %s: it cannot be cancelled any more",
                         request->gtid, saga_state_name(s->state));
            server_reply(conn, http, 409, JSON, NULL);
            request_free(request);
            return;
        }
        diag(DIAG_INFO, "saga cancel asked for", "gtid", request->gtid, "by", conn->identity, NULL);
        saga_host_cancel(host->sagas, s, conn->identity);
    }
    answer_or_wait(request, host->conf.apply_wait_ms);
}

/* ----------------------------------------------------------------- lists */

static void add_listed(struct api *api, const struct saga *s, bool dead_letter) {
    struct out *out = &api->out;
    const struct saga_run *r = s->host;
    out_open(out, NULL, '{');
    out_string(out, "saga", r->gtid);
    out_string(out, "state", saga_state_name(s->state));
    out_string(out, "app", apps_identity(api->host->apps, r->run->app));
    out_u64(out, "begun_unix_ms", s->begun_unix_ms);
    if (dead_letter) {
        out_string(out, "stuck_in", saga_state_name(s->from));
        out_string(out, "error_class", saga_policy(s->cause_class)->name);
        out_u64(out, "failed_attempts", s->failures);
    }
    add_cause(out, s->reason, s->sqlstate, s->cause_step != UINT32_MAX, s->cause_step);
    out_close(out, '}');
}

/* One that has ended, out of the log. False: it is not one that was asked for. */
static bool add_ended(struct api *api, const struct conn *conn, const char *state, const struct ls_gtid *gtid) {
    struct host *host = api->host;
    struct out *out = &api->out;
    struct dlog_saga found;
    struct dlog_record record;
    char name[LS_GTID_MAX + 1];
    if (!dlog_find_saga(host->log, gtid->epoch, gtid->sequence, &found) || !read_record(host, found.end, &record)) {
        return false;
    }
    Lockstep__LogSagaEnd *end = lockstep__log_saga_end__unpack(NULL, record.length, record.payload);
    Lockstep__LogSagaBegin *begin = found.begin != 0 && read_record(host, found.begin, &record)
                                        ? lockstep__log_saga_begin__unpack(NULL, record.length, record.payload)
                                        : NULL;
    bool wanted = end != NULL && begin != NULL && answer_may_see(conn, apps_number(host->apps, begin->app)) &&
                  end->state < SAGA_STATE_COUNT && strcmp(state, saga_state_name((enum saga_state)end->state)) == 0;
    if (wanted) {
        ls_gtid_format(gtid, name);
        out_open(out, NULL, '{');
        out_string(out, "saga", name);
        out_string(out, "state", state);
        out_string(out, "app", begin->app);
        out_u64(out, "begun_unix_ms", begin->begun_unix_ms);
        out_u64(out, "ended_unix_ms", end->unix_ms);
        add_cause(out, end->reason, end->sqlstate, end->has_cause_step, end->cause_step);
        out_close(out, '}');
    }
    if (begin != NULL) {
        lockstep__log_saga_begin__free_unpacked(begin, NULL);
    }
    if (end != NULL) {
        lockstep__log_saga_end__free_unpacked(end, NULL);
    }
    return wanted;
}

/* Sagas that have ended, in order of their names. A page looks at ENDED_LOOK_MAX of them at most and may be short, or
 * empty, while there is a next one. */
void answer_ended_sagas(struct api *api, const struct conn *conn, const char *state, uint32_t limit,
                        const struct ls_gtid *after) {
    struct out *out = &api->out;
    struct ls_gtid at = {.epoch = after == NULL ? 0 : after->epoch, .sequence = after == NULL ? 0 : after->sequence};
    char next[LS_GTID_MAX + 1];
    uint32_t count = 0, looked = 0;
    bool more;
    (void)snprintf(at.coordinator, sizeof at.coordinator, "%s", api->host->conf.name);
    (void)snprintf(at.incarnation, sizeof at.incarnation, "%s", api->host->incarnation);
    out_reset(out);
    out_open(out, NULL, '{');
    out_open(out, "sagas", '[');
    while ((more = dlog_next_ended_saga(api->host->log, &at.epoch, &at.sequence)) && count < limit &&
           looked < ENDED_LOOK_MAX) {
        count += add_ended(api, conn, state, &at);
        looked++;
        ls_gtid_format(&at, next);
    }
    out_close(out, ']');
    out_string(out, "next", more && looked > 0 ? next : NULL);
    out_close(out, '}');
}

/* Open sagas, oldest first. */
void answer_saga_list(struct api *api, const struct conn *conn, const char *state, uint32_t limit,
                      const struct ls_gtid *after, bool dead_letters) {
    struct out *out = &api->out;
    struct sagas *machine = saga_host_machine(api->host->sagas);
    const char *last = NULL;
    uint32_t count = 0;
    bool more = false;
    out_reset(out);
    out_open(out, NULL, '{');
    out_open(out, dead_letters ? "dead_letters" : "sagas", '[');
    for (const struct saga *s = saga_next(machine, NULL); s != NULL; s = saga_next(machine, s)) {
        const struct saga_run *r = s->host;
        bool behind =
            after == NULL || s->epoch > after->epoch || (s->epoch == after->epoch && s->sequence > after->sequence);
        if (!behind || !answer_may_see(conn, r->run->app) || (dead_letters && s->state != SAGA_STUCK) ||
            (state != NULL && strcmp(state, saga_state_name(s->state)) != 0)) {
            continue;
        }
        if (count == limit) {
            more = true;
            break;
        }
        add_listed(api, s, dead_letters);
        last = r->gtid;
        count++;
    }
    out_close(out, ']');
    out_string(out, "next", more ? last : NULL);
    out_close(out, '}');
}

/* ------------------------------------------------------ dead-letter queue */

/* {"reason": "..."}, or nothing. False: 400 has been said. */
static bool take_reason(struct request *request, char *reason, size_t size) {
    struct evbuffer *input = evhttp_request_get_input_buffer(request->http);
    size_t length = evbuffer_get_length(input);
    json_error_t error;
    reason[0] = '\0';
    if (length == 0) {
        return true;
    }
    const char *body = length <= 4096 ? (const char *)evbuffer_pullup(input, -1) : NULL;
    json_t *root = body == NULL ? NULL : json_loadb(body, length, JSON_REJECT_DUPLICATES, &error);
    const char *text = json_string_value(json_object_get(root, "reason"));
    bool good = json_is_object(root) && json_object_size(root) == (text != NULL ? 1u : 0u) &&
                (text == NULL || strlen(text) < size);
    if (good && text != NULL) {
        (void)snprintf(reason, size, "%s", text);
    }
    json_decref(root);
    if (!good) {
        answer_error(request->api, "invalid_value", "reason", true,
                     "expected {\"reason\": \"...\"} of at most %zu bytes, or no body", size - 1);
        server_reply(request->conn, request->http, 400, JSON, NULL);
        request_free(request);
    }
    return good;
}

void handle_dlq_act(struct conn *conn, struct evhttp_request *http, const char *text, enum saga_act act) {
    struct request *request = request_about(conn, http, text, REQUEST_SAGA);
    char reason[LS_REASON_MAX + 1];
    if (request == NULL || !take_reason(request, reason, sizeof reason)) {
        return;
    }
    struct host *host = request->api->host;
    const struct saga *s = saga_find(saga_host_machine(host->sagas), request->epoch, request->sequence);
    const char *why = s == NULL ? "it is not open" : saga_may(s, act);
    if (why != NULL) {
        answer_error(request->api, "not_possible", NULL, false, "%s of saga %s: %s", saga_act_name(act), request->gtid,
                     why);
        server_reply(conn, http, s == NULL ? 404 : 409, JSON, NULL);
        request_free(request);
        return;
    }
    if (saga_host_operate(host->sagas, s, act, conn->identity, reason) != LS_OK) {
        answer_error(request->api, "log_full", NULL, false, "no space can be reserved in the decision log");
        server_reply(conn, http, 503, JSON, NULL);
        request_free(request);
        return;
    }
    request->wait = ROUTE_WAIT_DECIDED; /* answered once the word is durable */
    request_wait(request, host->conf.apply_wait_ms);
}
