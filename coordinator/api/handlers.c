/*
 * handlers.c: from one HTTP request to an event for the engine or to an answer. Who may do what:
 *
 *   app       runs; sees and ends its own transactions; lists participants
 *   admin     all of that, of all applications; metrics (the local administrator of the Unix socket is one)
 *   monitor   livez, readyz, metrics
 *   agent, coordinator, nobody   nothing here
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
#include "common/text.h"
#include "coordinator/api/internal.h"
#include "coordinator/stats.h"

#define JSON "application/json"
#define LIST_LIMIT_DEFAULT 100u
#define LIST_LIMIT_MAX 10000u
#define EVENTS_LIMIT_MAX 1000u
#define POLL_MS_MAX 300000u

static void error_reply(struct conn *conn, struct evhttp_request *http, int http_code, const char *code,
                        const char *message) {
    answer_error(conn->listener->api, code, NULL, true, "%s", message);
    server_reply(conn, http, http_code, JSON, NULL);
}

/* ------------------------------------------------------------ parameters */

/* The query, decoded; each name of `allowed` (NULL-terminated) at most once. False: 400 has been said. */
static bool parse_query(struct conn *conn, struct evhttp_request *http, const char *const allowed[],
                        struct evkeyvalq *ret_query) {
    const char *text = evhttp_uri_get_query(evhttp_request_get_evhttp_uri(http));
    TAILQ_INIT(ret_query);
    if (text == NULL || text[0] == '\0') {
        return true;
    }
    const char *wrong = NULL;
    if (evhttp_parse_query_str(text, ret_query) != 0) {
        wrong = "the query cannot be read";
    }
    const struct evkeyval *pair, *other;
    TAILQ_FOREACH(pair, ret_query, next) {
        size_t i = 0;
        while (allowed[i] != NULL && strcmp(allowed[i], pair->key) != 0) {
            i++;
        }
        if (allowed[i] == NULL) {
            wrong = "unknown query parameter";
        }
        TAILQ_FOREACH(other, ret_query, next) {
            if (other != pair && strcmp(other->key, pair->key) == 0) {
                wrong = "a query parameter is given twice";
            }
        }
    }
    if (wrong != NULL) {
        evhttp_clear_headers(ret_query);
        error_reply(conn, http, 400, "bad_query", wrong);
        return false;
    }
    return true;
}

static bool bad_parameter(struct conn *conn, struct evhttp_request *http, struct evkeyvalq *query,
                          const char *message) {
    evhttp_clear_headers(query);
    error_reply(conn, http, 400, "bad_query", message);
    return false;
}

/* ------------------------------------------------------------- POST run */

static uint32_t participant_number(void *context, const char *name) {
    const struct registry_participant *participant = registry_by_name(context, name);
    return participant == NULL ? 0 : participant->number;
}

static bool is_service(void *context, const char *name) {
    return coordinator_conf_service(context, name) != NULL;
}

static void reply_document_error(struct conn *conn, struct evhttp_request *http, enum ls_status status,
                                 const struct document_error *error) {
    answer_error(conn->listener->api, error->code, error->path, true, "%s", error->message);
    server_reply(conn, http, status == LS_ERR_NOMEM ? 429 : 400, JSON, NULL);
}

/* False: an answer has been sent. */
static bool check_run_headers(struct conn *conn, struct evhttp_request *http, const char **ret_key) {
    struct evkeyvalq *headers = evhttp_request_get_input_headers(http);
    const char *type = evhttp_find_header(headers, "Content-Type");
    const char *key = evhttp_find_header(headers, "Idempotency-Key");
    if (type != NULL && !route_is_json(type)) {
        error_reply(conn, http, 415, "unsupported_media_type", "send the document as Content-Type: application/json");
        return false;
    }
    if (key != NULL && !route_key_valid(key)) {
        error_reply(conn, http, 400, "bad_key", "an Idempotency-Key has 1 to 255 bytes of printable ASCII");
        return false;
    }
    *ret_key = key;
    return true;
}

static bool parse_run_query(struct conn *conn, struct evhttp_request *http, enum route_wait *ret_wait,
                            bool *ret_given) {
    static const char *const allowed[] = {"wait", NULL};
    struct evkeyvalq query;
    if (!parse_query(conn, http, allowed, &query)) {
        return false;
    }
    const char *wait = evhttp_find_header(&query, "wait");
    if (wait != NULL && route_parse_wait(wait, ret_wait) != LS_OK) {
        return bad_parameter(conn, http, &query, "wait: expected applied, decided or end");
    }
    *ret_given = wait != NULL;
    evhttp_clear_headers(&query);
    return true;
}

/* The body in one piece; NULL after an answer has been sent. */
static const char *take_body(struct conn *conn, struct evhttp_request *http, size_t *ret_length) {
    struct evbuffer *input = evhttp_request_get_input_buffer(http);
    uint64_t limit = conn->listener->api->host->conf.body_max;
    *ret_length = evbuffer_get_length(input);
    if (*ret_length > limit) {
        char message[96];
        (void)snprintf(message, sizeof message, "the body is larger than %" PRIu64 " bytes (limits.body)", limit);
        error_reply(conn, http, 413, "too_large", message);
        return NULL;
    }
    const char *body = (const char *)evbuffer_pullup(input, -1);
    return body == NULL ? "" : body;
}

static void submit(struct request *request, const char *body, size_t length) {
    struct api *api = request->api;
    struct run *run = request->run;
    const struct document *document = run->document;
    struct engine_event event = {.kind = EV_RUN};
    event.run.ref = (uint64_t)(uintptr_t)request;
    event.run.document = run;
    event.run.app = run->app;
    event.run.participants = document->participants;
    event.run.participant_count = document->participant_count;
    event.run.steps = document->specs;
    event.run.step_count = document->step_count;
    event.run.deadline_us = daemon_now_us() + document->deadline_ms * 1000;
    event.run.gid_form = document->gid_form;
    if (run->key != NULL) {
        struct hash *hash = hash_begin();
        hash_add(hash, body, length);
        hash_end(hash, run->document_digest);
        hash_pair(request->conn->identity, run->key, run->key_digest);
        event.run.has_key = true;
        memcpy(event.run.key_digest, run->key_digest, sizeof event.run.key_digest);
        memcpy(event.run.document_digest, run->document_digest, sizeof event.run.document_digest);
    }
    /* Once accepted, the request may be answered and gone when the step returns: only its own fate before that is
     * looked at. */
    uint64_t before = api->accepted;
    host_step(api->host, &event);
    if (api->accepted != before) {
        return;
    }
    if (request->submit == SUBMIT_JOINED) {
        request->participant = document->participant_count == 1 ? document->participants[0] : 0;
        request_answer_or_wait(request, document->deadline_ms + api->host->conf.apply_wait_ms);
        return;
    }
    assert(request->submit == SUBMIT_REFUSED);
    server_reply(request->conn, request->http, answer_refused(request), JSON, NULL);
    request_free(request);
}

static void handle_run(struct conn *conn, struct evhttp_request *http) {
    struct api *api = conn->listener->api;
    const struct coordinator_conf *conf = &api->host->conf;
    enum route_wait wait = ROUTE_WAIT_APPLIED;
    const char *key = NULL, *body;
    size_t length;
    bool wait_given = false;
    if (!check_run_headers(conn, http, &key) || !parse_run_query(conn, http, &wait, &wait_given)) {
        return;
    }
    body = take_body(conn, http, &length);
    if (body == NULL) {
        return;
    }
    if (conn->app == 0) {
        error_reply(conn, http, 429, "too_many_applications", "too many different applications have called");
        return;
    }
    struct document_limits limits = {
        .statements = conf->statements_max,
        .participants = conf->participants_max,
        .deadline_ms = conf->deadline_ms,
        .lock_timeout_ms = conf->lock_timeout_ms,
        .saga_deadline_ms = conf->saga_deadline_ms,
        .participant = participant_number,
        .context = api->host->registry,
        .service = is_service,
        .service_context = &api->host->conf,
    };
    struct document *document;
    struct document_error error;
    enum ls_status status = document_parse(body, length, &limits, &document, &error);
    if (status != LS_OK) {
        reply_document_error(conn, http, status, &error);
        return;
    }
    struct run *run = run_new(document, key, conn->app);
    struct request *request =
        run == NULL ? NULL : request_new(conn, http, document->saga ? REQUEST_SAGA_RUN : REQUEST_RUN);
    if (request == NULL) {
        if (run != NULL) {
            run_drop(run);
        } else {
            document_free(document);
        }
        error_reply(conn, http, 429, "no_memory", "out of memory");
        return;
    }
    request->run = run;
    /* A transaction ends when it is applied; a saga is answered as soon as it has begun, unless the caller waits. */
    if (!document->saga) {
        request->wait = wait == ROUTE_WAIT_END ? ROUTE_WAIT_APPLIED : wait;
        submit(request, body, length);
    } else {
        request->wait = wait_given && wait != ROUTE_WAIT_DECIDED ? ROUTE_WAIT_END : ROUTE_WAIT_DECIDED;
        saga_submit(request, body, length);
    }
}

/* ----------------------------------------------------------- /v1/tx/... */

/* Takes the gtid of the path apart. False: 404 has been said. */
static bool take_gtid(struct conn *conn, struct evhttp_request *http, const char *text, struct ls_gtid *ret_gtid) {
    struct api *api = conn->listener->api;
    struct host *host = api->host;
    if (ls_gtid_parse(text, ret_gtid) != LS_OK) {
        answer_error(api, "bad_gtid", NULL, false, "\"%.64s\" is not the name of a transaction", text);
    } else if (strcmp(ret_gtid->coordinator, host->conf.name) != 0) {
        answer_error(api, "foreign_gtid", NULL, false, "transaction %s is coordinator %s's, this is %s", text,
                     ret_gtid->coordinator, host->conf.name);
    } else if (strcmp(ret_gtid->incarnation, host->incarnation) != 0) {
        answer_error(api, "foreign_gtid", NULL, false,
                     "transaction %s is of another incarnation of this coordinator (%s, now %s): its log is not here, "
                     "nothing can be said about it",
                     text, ret_gtid->incarnation, host->incarnation);
    } else {
        return true;
    }
    server_reply(conn, http, 404, JSON, NULL);
    return false;
}

static struct request *request_about(struct conn *conn, struct evhttp_request *http, enum request_kind kind,
                                     const struct ls_gtid *gtid) {
    struct request *request = request_new(conn, http, kind);
    if (request == NULL) {
        error_reply(conn, http, 429, "no_memory", "out of memory");
        return NULL;
    }
    request->epoch = gtid->epoch;
    request->sequence = gtid->sequence;
    request->participant = gtid->participant;
    return request;
}

static void handle_get(struct conn *conn, struct evhttp_request *http, const char *text) {
    static const char *const allowed[] = {"for", "timeout", "blocking", NULL};
    struct ls_gtid gtid;
    struct evkeyvalq query;
    enum route_wait wait = ROUTE_WAIT_DECIDED;
    uint64_t timeout_ms = 0;
    if (!parse_query(conn, http, allowed, &query)) {
        return;
    }
    const char *wait_text = evhttp_find_header(&query, "for"), *timeout_text = evhttp_find_header(&query, "timeout");
    if (wait_text != NULL && (route_parse_wait(wait_text, &wait) != LS_OK || wait == ROUTE_WAIT_END)) {
        (void)bad_parameter(conn, http, &query, "for: expected applied or decided");
        return;
    }
    if (timeout_text != NULL && (document_duration(timeout_text, &timeout_ms) != LS_OK || timeout_ms > POLL_MS_MAX)) {
        (void)bad_parameter(conn, http, &query, "timeout: expected digits and a unit (ms, s, min), at most 5min");
        return;
    }
    const char *blocking_text = evhttp_find_header(&query, "blocking");
    if (blocking_text != NULL && (strcmp(blocking_text, "true") != 0 || wait_text != NULL || timeout_text != NULL)) {
        (void)bad_parameter(conn, http, &query, "blocking: expected true, and nothing to wait for");
        return;
    }
    bool blocking = blocking_text != NULL;
    evhttp_clear_headers(&query);
    if (blocking && !conn_is_admin(conn)) {
        error_reply(conn, http, 403, "role_not_allowed", "what a transaction blocks is shown to an administrator only");
        return;
    }
    if (!take_gtid(conn, http, text, &gtid)) {
        return;
    }
    const struct txn *txn = blocking ? engine_find(conn->listener->api->host->engine, gtid.epoch, gtid.sequence) : NULL;
    if (txn != NULL && gtid.participant == 0 && !txn->one_participant) {
        handle_blocking(conn, http, txn);
        return;
    }
    struct request *request = request_about(conn, http, REQUEST_GET, &gtid);
    if (request != NULL) {
        request->wait = wait;
        request_answer_or_wait(request, timeout_ms);
    }
}

static void handle_abort(struct conn *conn, struct evhttp_request *http, const char *text) {
    static const char *const allowed[] = {NULL};
    struct host *host = conn->listener->api->host;
    struct ls_gtid gtid;
    struct evkeyvalq query;
    if (!parse_query(conn, http, allowed, &query)) {
        return;
    }
    evhttp_clear_headers(&query);
    struct request *request =
        take_gtid(conn, http, text, &gtid) ? request_about(conn, http, REQUEST_ABORT, &gtid) : NULL;
    if (request == NULL) {
        return;
    }
    request->wait = ROUTE_WAIT_DECIDED;
    const struct txn *txn = engine_find(host->engine, gtid.epoch, gtid.sequence);
    if (txn != NULL && txn->outcome == OUTCOME_PENDING && txn->one_participant == (gtid.participant != 0) &&
        answer_may_see(conn, txn->app)) {
        char reason[LS_REASON_MAX + 1];
        (void)snprintf(reason, sizeof reason, "aborted by %s", conn->identity);
        diag(DIAG_INFO, "abort asked for", "gtid", txn->gtid, "by", conn->identity, NULL);
        host_cancel(host, gtid.epoch, gtid.sequence, reason); /* before the decision; after it no effect */
    }
    request_answer_or_wait(request, host->conf.apply_wait_ms);
}

static void handle_list(struct conn *conn, struct evhttp_request *http) {
    static const char *const allowed[] = {"state", "limit", "after", NULL};
    static const char *const states[] = {"pending", "committed", "aborted", "hazard"};
    struct evkeyvalq query;
    uint32_t limit = LIST_LIMIT_DEFAULT;
    struct ls_gtid after;
    if (!parse_query(conn, http, allowed, &query)) {
        return;
    }
    const char *state = evhttp_find_header(&query, "state"), *limit_text = evhttp_find_header(&query, "limit"),
               *after_text = evhttp_find_header(&query, "after");
    bool known = state == NULL;
    for (size_t i = 0; i < sizeof states / sizeof states[0]; i++) {
        known = known || strcmp(states[i], state) == 0;
    }
    if (!known) {
        (void)bad_parameter(conn, http, &query, "state: expected pending, committed, aborted or hazard");
        return;
    }
    if (limit_text != NULL && route_parse_u32(limit_text, 1, LIST_LIMIT_MAX, &limit) != LS_OK) {
        (void)bad_parameter(conn, http, &query, "limit: expected 1 to 10000");
        return;
    }
    if (after_text != NULL && ls_gtid_parse(after_text, &after) != LS_OK) {
        (void)bad_parameter(conn, http, &query, "after: expected a gtid, the `next` of the page before");
        return;
    }
    answer_list(conn->listener->api, conn, state, limit, after_text == NULL ? NULL : &after);
    evhttp_clear_headers(&query);
    server_reply(conn, http, 200, JSON, NULL);
}

/* ----------------------------------------------------------------- sagas */

static void handle_get_saga(struct conn *conn, struct evhttp_request *http, const char *text) {
    static const char *const allowed[] = {"timeout", NULL};
    struct evkeyvalq query;
    uint64_t timeout_ms = 0;
    if (!parse_query(conn, http, allowed, &query)) {
        return;
    }
    const char *timeout = evhttp_find_header(&query, "timeout");
    if (timeout != NULL && (document_duration(timeout, &timeout_ms) != LS_OK || timeout_ms > POLL_MS_MAX)) {
        (void)bad_parameter(conn, http, &query, "timeout: expected digits and a unit (ms, s, min), at most 5min");
        return;
    }
    evhttp_clear_headers(&query);
    handle_saga_get(conn, http, text, timeout_ms);
}

static void handle_list_sagas(struct conn *conn, struct evhttp_request *http, bool dead_letters) {
    static const char *const of_sagas[] = {"state", "limit", "after", NULL};
    struct evkeyvalq query;
    uint32_t limit = LIST_LIMIT_DEFAULT;
    struct ls_gtid after;
    if (!parse_query(conn, http, dead_letters ? of_sagas + 1 : of_sagas, &query)) {
        return;
    }
    const char *state = evhttp_find_header(&query, "state"), *limit_text = evhttp_find_header(&query, "limit"),
               *after_text = evhttp_find_header(&query, "after");
    bool known = state == NULL;
    bool ended = state != NULL && (strcmp(state, "completed") == 0 || strcmp(state, "compensated") == 0);
    for (int i = SAGA_BEGUN; i < SAGA_STATE_COUNT && !known; i++) {
        known = strcmp(saga_state_name((enum saga_state)i), state) == 0;
    }
    if (!known) {
        (void)bad_parameter(conn, http, &query,
                            "state: expected begun, running, passed, compensating, stuck, completed or compensated");
        return;
    }
    if (limit_text != NULL && route_parse_u32(limit_text, 1, LIST_LIMIT_MAX, &limit) != LS_OK) {
        (void)bad_parameter(conn, http, &query, "limit: expected 1 to 10000");
        return;
    }
    if (after_text != NULL && ls_gtid_parse(after_text, &after) != LS_OK) {
        (void)bad_parameter(conn, http, &query, "after: expected a saga's name, the `next` of the page before");
        return;
    }
    const struct ls_gtid *from = after_text == NULL ? NULL : &after;
    if (ended) {
        answer_ended_sagas(conn->listener->api, conn, state, limit, from);
    } else {
        answer_saga_list(conn->listener->api, conn, state, limit, from, dead_letters);
    }
    evhttp_clear_headers(&query);
    server_reply(conn, http, 200, JSON, NULL);
}

/* ---------------------------------------------------------------- events */

static bool parse_u64(const char *text, uint64_t *ret_value) {
    char *end;
    if (text[0] < '0' || text[0] > '9' || strlen(text) > 18) {
        return false;
    }
    *ret_value = strtoull(text, &end, 10);
    return *end == '\0';
}

static void handle_get_events(struct conn *conn, struct evhttp_request *http) {
    static const char *const allowed[] = {"participant", "type", "key", "offset", "limit", NULL};
    struct evkeyvalq query;
    struct events_query wanted = {.limit = LIST_LIMIT_DEFAULT};
    if (!parse_query(conn, http, allowed, &query)) {
        return;
    }
    const char *offset = evhttp_find_header(&query, "offset"), *limit = evhttp_find_header(&query, "limit");
    wanted.participant = evhttp_find_header(&query, "participant");
    wanted.type = evhttp_find_header(&query, "type");
    wanted.key = evhttp_find_header(&query, "key");
    if ((wanted.type != NULL && (wanted.type[0] == '\0' || strlen(wanted.type) > LS_EVENT_TYPE_MAX)) ||
        (wanted.key != NULL && (wanted.key[0] == '\0' || strlen(wanted.key) > LS_EVENT_KEY_MAX ||
                                !text_utf8_valid(wanted.key, strlen(wanted.key))))) {
        (void)bad_parameter(conn, http, &query, "type: 1 to 64 bytes; key: 1 to 200 bytes of UTF-8");
        return;
    }
    if (wanted.type != NULL &&
        wanted.type[strspn(wanted.type, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")] != '\0') {
        (void)bad_parameter(conn, http, &query, "type: letters, digits, '_', '.' and '-'");
        return;
    }
    if (offset != NULL && !parse_u64(offset, &wanted.offset)) {
        (void)bad_parameter(conn, http, &query, "offset: expected the `next` of the page before, or 0");
        return;
    }
    if (limit != NULL && route_parse_u32(limit, 1, EVENTS_LIMIT_MAX, &wanted.limit) != LS_OK) {
        (void)bad_parameter(conn, http, &query, "limit: expected 1 to 1000");
        return;
    }
    handle_events(conn, http, &wanted);
    evhttp_clear_headers(&query);
}

static void handle_list_flows(struct conn *conn, struct evhttp_request *http) {
    static const char *const allowed[] = {"limit", NULL};
    struct evkeyvalq query;
    uint32_t limit = LIST_LIMIT_DEFAULT;
    if (!parse_query(conn, http, allowed, &query)) {
        return;
    }
    const char *text = evhttp_find_header(&query, "limit");
    if (text != NULL && route_parse_u32(text, 1, LS_FLOWS_LISTED_MAX, &limit) != LS_OK) {
        (void)bad_parameter(conn, http, &query, "limit: expected 1 to 500");
        return;
    }
    handle_flows(conn, http, limit);
    evhttp_clear_headers(&query);
}

static void handle_list_letters(struct conn *conn, struct evhttp_request *http) {
    static const char *const allowed[] = {"id", "limit", NULL};
    struct evkeyvalq query;
    uint32_t limit = LIST_LIMIT_DEFAULT;
    if (!parse_query(conn, http, allowed, &query)) {
        return;
    }
    const char *id = evhttp_find_header(&query, "id"), *text = evhttp_find_header(&query, "limit");
    if ((text != NULL && route_parse_u32(text, 1, LS_LETTERS_LISTED_MAX, &limit) != LS_OK) ||
        (id != NULL && (strlen(id) > LS_REASON_MAX || !text_utf8_valid(id, strlen(id))))) {
        (void)bad_parameter(conn, http, &query, "limit: expected 1 to 500; id: that of a dead letter");
        return;
    }
    handle_event_letters(conn, http, id, limit);
    evhttp_clear_headers(&query);
}

/* No query at all. False: 400 has been said. */
static bool no_query(struct conn *conn, struct evhttp_request *http) {
    static const char *const allowed[] = {NULL};
    struct evkeyvalq query;
    if (!parse_query(conn, http, allowed, &query)) {
        return false;
    }
    evhttp_clear_headers(&query);
    return true;
}

/* ---------------------------------------------------------- small routes */

static void handle_participants(struct conn *conn, struct evhttp_request *http) {
    answer_participants(conn->listener->api);
    server_reply(conn, http, 200, JSON, NULL);
}

static void handle_livez(struct conn *conn, struct evhttp_request *http) {
    struct out *out = &conn->listener->api->out;
    out_reset(out);
    out_open(out, NULL, '{');
    out_bool(out, "live", true);
    out_close(out, '}');
    server_reply(conn, http, 200, JSON, NULL);
}

static void handle_readyz(struct conn *conn, struct evhttp_request *http) {
    struct host *host = conn->listener->api->host;
    struct out *out = &conn->listener->api->out;
    if (host->draining) {
        error_reply(conn, http, 503, "draining", "the coordinator is stopping");
        return;
    }
    if (dlog_room(host->log) < engine_log_need(LS_PARTICIPANTS_PER_TXN_CEILING)) {
        error_reply(conn, http, 503, "log_full", "the decision log has no room for a transaction");
        return;
    }
    out_reset(out);
    out_open(out, NULL, '{');
    out_bool(out, "ready", true);
    out_close(out, '}');
    server_reply(conn, http, 200, JSON, NULL);
}

static void handle_metrics(struct conn *conn, struct evhttp_request *http) {
    struct api *api = conn->listener->api;
    struct host *host = api->host;
    size_t length;
    struct saga_host_stats sagas;
    struct alert_stats alerts;
    saga_host_stats(host->sagas, &sagas);
    alerts_stats(host->alerts, &alerts);
    char *text =
        stats_render(host->engine, host->log, host_agents_linked(host), api->https.connections + api->local.connections,
                     host_running_ms(host), &sagas, &alerts, &length);
    out_reset(&api->out);
    out_json(&api->out, NULL, text, length);
    free(text);
    server_reply(conn, http, 200, "text/plain; version=0.0.4; charset=utf-8", NULL);
}

/* --------------------------------------------------------------- dispatch */

static const char *method_name(enum evhttp_cmd_type type) {
    switch (type) {
    case EVHTTP_REQ_GET:
        return "GET";
    case EVHTTP_REQ_POST:
        return "POST";
    case EVHTTP_REQ_HEAD:
        return "HEAD";
    case EVHTTP_REQ_PUT:
        return "PUT";
    case EVHTTP_REQ_DELETE:
        return "DELETE";
    case EVHTTP_REQ_OPTIONS:
        return "OPTIONS";
    case EVHTTP_REQ_TRACE:
        return "TRACE";
    case EVHTTP_REQ_CONNECT:
        return "CONNECT";
    case EVHTTP_REQ_PATCH:
        return "PATCH";
    }
    return "unknown";
}

static bool role_may(enum tls_role role, enum route route) {
    bool health = route == ROUTE_LIVEZ || route == ROUTE_READYZ;
    switch (role) {
    case TLS_ROLE_ADMIN:
        return true;
    case TLS_ROLE_APP:
        return route != ROUTE_METRICS && route != ROUTE_DLQ_RETRY && route != ROUTE_DLQ_SKIP &&
               route != ROUTE_DLQ_COMPENSATE && route != ROUTE_FLOWS && route != ROUTE_FLOW &&
               route != ROUTE_EVENT_LETTERS && route != ROUTE_EVENT_RETRY && route != ROUTE_EVENT_SKIP &&
               route != ROUTE_EVENT_COMPENSATE;
    case TLS_ROLE_MONITOR:
        return health || route == ROUTE_METRICS;
    case TLS_ROLE_AGENT:
    case TLS_ROLE_COORDINATOR:
    case TLS_ROLE_NONE:
        return false;
    }
    assert(!"role");
    return false;
}

static void handle_other(struct conn *conn, struct evhttp_request *http, const struct route_match *match) {
    struct api *api = conn->listener->api;
    switch (match->route) {
    case ROUTE_BAD_METHOD:
        answer_error(api, "method_not_allowed", NULL, true, "the method here is %s", match->allow);
        server_reply_allow(conn, http, match->allow);
        return;
    case ROUTE_LATER:
        error_reply(conn, http, 404, "not_available", "this part of the interface is not available in this version");
        return;
    case ROUTE_NONE:
        error_reply(conn, http, 404, "no_such_path", "there is nothing at this path");
        return;
    case ROUTE_RUN:
    case ROUTE_TX_LIST:
    case ROUTE_TX_GET:
    case ROUTE_TX_ABORT:
    case ROUTE_SAGA_LIST:
    case ROUTE_SAGA_GET:
    case ROUTE_SAGA_CANCEL:
    case ROUTE_DLQ_LIST:
    case ROUTE_DLQ_RETRY:
    case ROUTE_DLQ_SKIP:
    case ROUTE_DLQ_COMPENSATE:
    case ROUTE_DLQ_REFUSE:
    case ROUTE_EVENTS:
    case ROUTE_FLOWS:
    case ROUTE_FLOW:
    case ROUTE_EVENT_LETTERS:
    case ROUTE_EVENT_RETRY:
    case ROUTE_EVENT_SKIP:
    case ROUTE_EVENT_COMPENSATE:
    case ROUTE_PARTICIPANTS:
    case ROUTE_LIVEZ:
    case ROUTE_READYZ:
    case ROUTE_METRICS:
    case ROUTE_COUNT:
        break;
    }
    assert(!"route");
}

static void handle_route(struct conn *conn, struct evhttp_request *http, const struct route_match *match) {
    switch (match->route) {
    case ROUTE_RUN:
        handle_run(conn, http);
        return;
    case ROUTE_TX_LIST:
        handle_list(conn, http);
        return;
    case ROUTE_TX_GET:
        handle_get(conn, http, match->gtid);
        return;
    case ROUTE_TX_ABORT:
        handle_abort(conn, http, match->gtid);
        return;
    case ROUTE_SAGA_LIST:
        handle_list_sagas(conn, http, false);
        return;
    case ROUTE_DLQ_LIST:
        handle_list_sagas(conn, http, true);
        return;
    case ROUTE_SAGA_GET:
        handle_get_saga(conn, http, match->gtid);
        return;
    case ROUTE_SAGA_CANCEL:
        if (no_query(conn, http)) {
            handle_saga_cancel(conn, http, match->gtid);
        }
        return;
    case ROUTE_DLQ_RETRY:
    case ROUTE_DLQ_SKIP:
    case ROUTE_DLQ_COMPENSATE:
    case ROUTE_DLQ_REFUSE:
        if (no_query(conn, http)) {
            handle_dlq_act(conn, http, match->gtid,
                           match->route == ROUTE_DLQ_RETRY    ? SAGA_ACT_RETRY
                           : match->route == ROUTE_DLQ_SKIP   ? SAGA_ACT_SKIP
                           : match->route == ROUTE_DLQ_REFUSE ? SAGA_ACT_REFUSE
                                                              : SAGA_ACT_COMPENSATE);
        }
        return;
    case ROUTE_EVENTS:
        handle_get_events(conn, http);
        return;
    case ROUTE_FLOWS:
        handle_list_flows(conn, http);
        return;
    case ROUTE_FLOW:
        if (strlen(match->gtid) > LS_GTID_MAX) {
            error_reply(conn, http, 404, "bad_saga", "a saga's name has 1 to 64 bytes");
        } else if (no_query(conn, http)) {
            handle_flow(conn, http, match->gtid);
        }
        return;
    case ROUTE_EVENT_LETTERS:
        handle_list_letters(conn, http);
        return;
    case ROUTE_EVENT_RETRY:
    case ROUTE_EVENT_SKIP:
    case ROUTE_EVENT_COMPENSATE:
        if (no_query(conn, http)) {
            handle_event_act(conn, http,
                             match->route == ROUTE_EVENT_RETRY  ? LOCKSTEP__ASK_KIND__ASK_RETRY
                             : match->route == ROUTE_EVENT_SKIP ? LOCKSTEP__ASK_KIND__ASK_SKIP
                                                                : LOCKSTEP__ASK_KIND__ASK_COMPENSATE);
        }
        return;
    case ROUTE_PARTICIPANTS:
        handle_participants(conn, http);
        return;
    case ROUTE_LIVEZ:
        handle_livez(conn, http);
        return;
    case ROUTE_READYZ:
        handle_readyz(conn, http);
        return;
    case ROUTE_METRICS:
        handle_metrics(conn, http);
        return;
    case ROUTE_BAD_METHOD:
    case ROUTE_LATER:
    case ROUTE_NONE:
    case ROUTE_COUNT:
        handle_other(conn, http, match);
        return;
    }
    assert(!"route");
}

void handle_request(struct conn *conn, struct evhttp_request *http) {
    if (conn->role == TLS_ROLE_NONE) {
        bool local = !conn->listener->tls;
        error_reply(conn, http, local ? 403 : 401, local ? "not_allowed" : "certificate", conn->refusal);
        return;
    }
    const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(http);
    const char *path = uri == NULL ? NULL : evhttp_uri_get_path(uri);
    struct route_match match = {.route = ROUTE_NONE};
    if (path != NULL) {
        route_find(method_name(evhttp_request_get_command(http)), path, &match);
    }
    if (!role_may(conn->role, match.route)) {
        char message[LS_ERROR_TEXT_MAX];
        (void)snprintf(message, sizeof message, "%s may not do this", conn->identity);
        error_reply(conn, http, 403, "role_not_allowed", message);
        return;
    }
    handle_route(conn, http, &match);
}
