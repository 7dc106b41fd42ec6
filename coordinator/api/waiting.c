/*
 * waiting.c: requests that wait for a transaction, by (epoch, sequence), and what answers them: the effects of the
 * engine, their timer, or what is known already (memory, then the log).
 *
 * A request is freed when it is answered or its client is gone; the transaction goes on in either case.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/daemon.h"
#include "common/failpoint.h"
#include "coordinator/api/internal.h"

#define SETTLE_WAIT_MS 2000u /* asking a participant takes a moment: also who does not want to wait gives it that */

static struct request_list *bucket_of(struct api *api, uint32_t epoch, uint64_t sequence) {
    uint64_t mixed = (sequence ^ ((uint64_t)epoch << 40)) * UINT64_C(0x9e3779b97f4a7c15);
    return &api->waiting[(mixed >> 40) % WAITING_BUCKETS];
}

struct request *request_new(struct conn *conn, struct evhttp_request *http, enum request_kind kind) {
    struct request *request = calloc(1, sizeof *request);
    if (request == NULL) {
        return NULL;
    }
    request->api = conn->listener->api;
    request->conn = conn;
    request->http = http;
    request->kind = kind;
    conn->request = request;
    request->api->requests++;
    return request;
}

static void stop_timer(struct request *request) {
    if (request->has_timer) {
        (void)event_del(&request->timer);
        request->has_timer = false;
    }
}

void request_free(struct request *request) {
    stop_timer(request);
    request_inquiry_gone(request);
    if (request->is_waiting) {
        LIST_REMOVE(request, waiting);
    }
    if (request->conn != NULL) {
        request->conn->request = NULL;
    }
    if (request->run != NULL) {
        run_drop(request->run);
    }
    request->api->requests--;
    free(request);
}

void request_client_gone(struct request *request) {
    /* evhttp has let go of a request that nobody answered: then it is ours to free. */
    if (evhttp_request_get_connection(request->http) == NULL) {
        evhttp_request_free(request->http);
    }
    request->conn->request = NULL;
    request->conn = NULL;
    request_free(request);
}

/* Sends api->out. */
static void reply(struct request *request, int code) {
    char location[LS_GTID_MAX + 32];
    (void)snprintf(location, sizeof location, "/v1/tx/%s?for=decided", request->gtid);
    struct conn *conn = request->conn;
    struct evhttp_request *http = request->http;
    if (request->kind == REQUEST_RUN) {
        /* Crash: the client knows nothing; a repeat under its key finds the decision, without a record nothing ran. */
        (void)failpoint_hit(FP_coord_before_reply);
    }
    server_reply(conn, http, code, "application/json", code == 202 ? location : NULL);
    request_free(request);
}

/* The name a joined or finished transaction goes by. */
static void name_request(struct request *request) {
    struct ls_gtid gtid = {.epoch = request->epoch, .sequence = request->sequence, .participant = request->participant};
    (void)snprintf(gtid.coordinator, sizeof gtid.coordinator, "%s", request->api->host->conf.name);
    (void)snprintf(gtid.incarnation, sizeof gtid.incarnation, "%s", request->api->host->incarnation);
    ls_gtid_format(&gtid, request->gtid);
}

static void reply_forbidden(struct request *request) {
    answer_error(request->api, "not_yours", NULL, false, "transaction %s belongs to another application",
                 request->gtid);
    reply(request, 403);
}

/* Of a hazard that came to light behind the end, or was found in the log by itself, memory does not know whose it is;
 * the decision does. */
static bool owns_decision(const struct request *request) {
    struct host *host = request->api->host;
    Lockstep__LogCommit *record = NULL;
    if (request->participant != 0 ||
        host_find_decision(host, request->epoch, request->sequence, &record) != KEPT_COMMIT) {
        return false;
    }
    bool owns = answer_may_see(request->conn, apps_number(host->apps, record->app == NULL ? "" : record->app));
    lockstep__log_commit__free_unpacked(record, NULL);
    return owns;
}

static bool may_see(const struct request *request, uint32_t app, enum txn_outcome outcome) {
    return request->joined || answer_may_see_outcome(request->conn, app, outcome) ||
           (app == 0 && owns_decision(request));
}

static void reply_txn(struct request *request, const struct txn *txn) {
    if (request->kind != REQUEST_RUN && !may_see(request, txn->app, txn->outcome)) {
        reply_forbidden(request); /* only the answer of its participant said whose it is */
        return;
    }
    if (answer_key_is_unsettled(request, txn)) {
        reply(request, answer_key_unsettled(request, &txn->cause));
        return;
    }
    if (txn->existing && request->kind == REQUEST_RUN) {
        reply(request, answer_existing(request, txn));
        return;
    }
    reply(request, answer_txn(request, txn));
}

/* ------------------------------------------------------------- waiting */

static void on_timer(evutil_socket_t fd, short what, void *context) {
    (void)fd;
    (void)what;
    struct request *request = context;
    request->has_timer = false;
    if (request->kind == REQUEST_INQUIRY) {
        request_inquiry_late(request);
        return;
    }
    if (request->kind >= REQUEST_SAGA_RUN) {
        request_saga_now(request);
        return;
    }
    const struct txn *txn = engine_find(request->api->host->engine, request->epoch, request->sequence);
    /* Only a transaction in memory is waited for; answers what is true now. */
    reply(request, txn != NULL ? answer_txn(request, txn) : answer_pending(request));
}

static void set_timer(struct request *request, uint64_t ms) {
    struct timeval delay = {.tv_sec = (time_t)(ms / 1000), .tv_usec = (suseconds_t)(ms % 1000 * 1000)};
    if (!request->has_timer) {
        event_assign(&request->timer, request->api->host->base, -1, 0, on_timer, request);
        request->has_timer = true;
    }
    (void)event_add(&request->timer, &delay);
}

void request_wait(struct request *request, uint64_t timeout_ms) {
    assert(!request->is_waiting);
    LIST_INSERT_HEAD(bucket_of(request->api, request->epoch, request->sequence), request, waiting);
    request->is_waiting = true;
    set_timer(request, timeout_ms);
}

/* Is there nothing more to wait for? */
static bool is_enough(const struct request *request, const struct txn *txn) {
    switch (txn->outcome) {
    case OUTCOME_PENDING:
        return false;
    case OUTCOME_COMMITTED:
        return txn->applied || request->wait == ROUTE_WAIT_DECIDED;
    case OUTCOME_ABORTED:
    case OUTCOME_HAZARD:
        return true;
    }
    assert(!"outcome");
    return true;
}

static void answer_from_memory_or_wait(struct request *request, const struct txn *txn, uint64_t timeout_ms) {
    (void)snprintf(request->gtid, sizeof request->gtid, "%s", txn->gtid);
    if (!may_see(request, txn->app, txn->outcome)) {
        reply_forbidden(request);
    } else if (timeout_ms == 0 || is_enough(request, txn)) {
        reply_txn(request, txn);
    } else {
        request_wait(request, timeout_ms);
    }
}

static void reply_no_record(struct request *request, const char *why) {
    answer_error(request->api, "no_record", NULL, false, "there is no record of transaction %s: %s", request->gtid,
                 why);
    reply(request, 404);
}

static void answer_from_log(struct request *request) {
    struct host *host = request->api->host;
    Lockstep__LogCommit *record = NULL;
    switch (host_find_decision(host, request->epoch, request->sequence, &record)) {
    case KEPT_COMMIT:
        if (!request->joined &&
            !answer_may_see(request->conn, apps_number(host->apps, record->app == NULL ? "" : record->app))) {
            reply_forbidden(request);
        } else {
            reply(request, answer_committed_record(request, record));
        }
        lockstep__log_commit__free_unpacked(record, NULL);
        return;
    case KEPT_NONE: {
        struct dlog_saga saga;
        if (dlog_find_saga(host->log, request->epoch, request->sequence, &saga)) {
            reply_no_record(request, "it is the name of a saga, see /v1/sagas");
            return;
        }
        /* Presumed abort is an answer to an agent about a prepared branch, never to a client (design 2.2): nothing says
         * that it ever ran. */
        reply_no_record(request, "it was aborted, or wrote nothing, or never ran");
        return;
    }
    case KEPT_BEYOND_HORIZON:
        reply_no_record(request, "the log no longer goes back that far");
        return;
    case KEPT_FUTURE:
        reply_no_record(request, "this coordinator has never handed out that name");
        return;
    case KEPT_NOT_YET:
        reply_no_record(request, "its record is not durable yet");
        return;
    }
    assert(!"kept_kind");
}

/* Was the name handed out? Asking about one that was not would leave a tombstone where a later transaction belongs. */
static bool was_handed_out(const struct request *request) {
    const struct host *host = request->api->host;
    if (request->epoch != host->epoch) {
        return request->epoch < host->epoch;
    }
    struct engine_stats stats;
    engine_stats(host->engine, &stats);
    return request->sequence <= stats.last_sequence;
}

/* Its participant knows: the engine asks it, and the answer comes as an effect. */
static void ask_participant(struct request *request, uint64_t timeout_ms) {
    struct host *host = request->api->host;
    if (registry_by_number(host->registry, request->participant) == NULL) {
        reply_no_record(request, "no participant has that number");
        return;
    }
    if (!was_handed_out(request)) {
        reply_no_record(request, "this coordinator has never handed out that name");
        return;
    }
    if (host_is_gone(host, request->epoch, request->sequence)) {
        reply_no_record(
            request, "it is older than what its participant remembers (log.retention): whether it was committed is not "
                     "known here any more");
        return;
    }
    struct engine_event event = {.kind = EV_SETTLE};
    event.settle.epoch = request->epoch;
    event.settle.sequence = request->sequence;
    event.settle.participant = request->participant;
    event.settle.app = 0; /* the outcome row says whose it is */
    host_step(host, &event);
    const struct txn *txn = engine_find(host->engine, request->epoch, request->sequence);
    if (txn == NULL) {
        reply(request, answer_pending(request)); /* too much is being asked already */
    } else {
        request_wait(request, timeout_ms < SETTLE_WAIT_MS ? SETTLE_WAIT_MS : timeout_ms);
    }
}

void request_answer_or_wait(struct request *request, uint64_t timeout_ms) {
    struct host *host = request->api->host;
    name_request(request);
    const struct txn *txn = engine_find(host->engine, request->epoch, request->sequence);
    if (txn != NULL && txn->one_participant == (request->participant != 0)) {
        answer_from_memory_or_wait(request, txn, timeout_ms);
        return;
    }
    const struct txn_finished *finished = engine_find_finished(host->engine, request->epoch, request->sequence);
    if (txn == NULL && finished != NULL && finished->participant == request->participant) {
        if (!may_see(request, finished->app, finished->outcome)) {
            reply_forbidden(request);
        } else {
            reply(request, answer_finished(request, finished));
        }
        return;
    }
    if (txn != NULL || finished != NULL) {
        reply_no_record(
            request,
            "the number behind the dash is not that of its participant"); /* a name that was never handed out */
    } else if (request->participant != 0) {
        ask_participant(request, timeout_ms);
    } else {
        answer_from_log(request);
    }
}

void request_blocking_known(struct request *request) {
    stop_timer(request);
    if (request->is_waiting) {
        LIST_REMOVE(request, waiting);
        request->is_waiting = false;
    }
    request->kind = REQUEST_GET;
    request_answer_or_wait(request, 0);
}

/* -------------------------------------------------------------- effects */

void api_on_accepted(struct api *api, const struct engine_effect *effect) {
    struct request *request = (struct request *)(uintptr_t)effect->ref;
    const struct txn *txn = effect->txn;
    run_hold(request->run); /* the engine's, until EF_RELEASE */
    api->accepted++;
    request->epoch = txn->epoch;
    request->sequence = txn->sequence;
    (void)snprintf(request->gtid, sizeof request->gtid, "%s", txn->gtid);
    uint64_t now_us = daemon_now_us();
    uint64_t deadline_ms = txn->deadline_us > now_us ? (txn->deadline_us - now_us) / 1000 : 0;
    /* By then there is an outcome, or it is 202: the disk or the only participant does not answer. */
    request_wait(request, deadline_ms + api->host->conf.apply_wait_ms + 1000);
}

void api_on_joined(struct api *api, const struct engine_effect *effect) {
    (void)api;
    struct request *request = (struct request *)(uintptr_t)effect->ref;
    request->submit = SUBMIT_JOINED;
    request->joined = true;
    request->epoch = effect->joined.epoch;
    request->sequence = effect->joined.sequence;
}

void api_on_refused(struct api *api, const struct engine_effect *effect) {
    (void)api;
    struct request *request = (struct request *)(uintptr_t)effect->ref;
    request->submit = SUBMIT_REFUSED;
    request->why = effect->refused.why;
    request->refused_participant = effect->refused.participant;
}

static void for_each_waiting(struct api *api, const struct txn *txn,
                             void (*act)(struct request *request, const struct txn *txn)) {
    struct request_list *bucket = bucket_of(api, txn->epoch, txn->sequence);
    for (struct request *request = LIST_FIRST(bucket), *next; request != NULL; request = next) {
        next = LIST_NEXT(request, waiting);
        if (request->epoch == txn->epoch && request->sequence == txn->sequence && request->kind != REQUEST_INQUIRY) {
            act(request, txn);
        }
    }
}

static void outcome_known(struct request *request, const struct txn *txn) {
    if (is_enough(request, txn)) {
        reply_txn(request, txn);
    } else if (request->kind == REQUEST_RUN) {
        set_timer(request, request->api->host->conf
                               .apply_wait_ms); /* committed: from here on it waits for its writes to be readable */
    }
}

static void all_applied(struct request *request, const struct txn *txn) {
    reply_txn(request, txn);
}

/* The outcome cannot be asked just now. Who submitted it is told 202 soon; who asks has said how long to wait. */
static void outcome_out_of_reach(struct request *request, const struct txn *txn) {
    (void)txn;
    if (request->kind == REQUEST_RUN) {
        set_timer(request, request->api->host->conf.apply_wait_ms);
    }
}

void api_on_saga(struct api *api, const struct saga *saga) {
    struct request_list *bucket = bucket_of(api, saga->epoch, saga->sequence);
    for (struct request *request = LIST_FIRST(bucket), *next; request != NULL; request = next) {
        next = LIST_NEXT(request, waiting);
        if (request->epoch == saga->epoch && request->sequence == saga->sequence && request->kind >= REQUEST_SAGA_RUN) {
            request_saga_heard(request, saga);
        }
    }
}

void api_on_outcome(struct api *api, const struct txn *txn) {
    for_each_waiting(api, txn, outcome_known);
}
void api_on_applied(struct api *api, const struct txn *txn) {
    for_each_waiting(api, txn, all_applied);
}
void api_on_pending(struct api *api, const struct txn *txn) {
    for_each_waiting(api, txn, outcome_out_of_reach);
}
