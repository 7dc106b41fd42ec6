/*
 * internal.h: what the files of the HTTP interface share: server.c (listeners, connections, their limits), handlers.c
 * (from request to event), waiting.c (requests that wait, and their answers), answer.c (bodies). Nobody else includes
 * this.
 */
#ifndef LOCKSTEP_API_INTERNAL_H
#define LOCKSTEP_API_INTERNAL_H

#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/event_struct.h>
#include <event2/http.h>
#include <jansson.h>
#include <stdbool.h>
#include <sys/queue.h>

#include "common/tls.h"
#include "coordinator/agents.h"
#include "coordinator/api/api.h"
#include "coordinator/api/document.h"
#include "coordinator/api/out.h"
#include "coordinator/api/route.h"
#include "coordinator/host.h"
#include "coordinator/run.h"
#include "coordinator/saga_host.h"

struct listener;

/*
 * One HTTP connection, from accept on. evhttp shows its own connection only with the first whole request, and says
 * nothing when one goes before that: until then we know the bufferevent alone (and hold a reference to it).
 */
struct conn {
    struct listener *listener;
    struct bufferevent *bev;
    bool known; /* evhttp has shown it: its close callback is set */
    LIST_ENTRY(conn) same_bucket;
    TAILQ_ENTRY(conn) all;
    TAILQ_ENTRY(conn) unknown; /* while not known */
    TAILQ_ENTRY(conn) idle;    /* while it has to do something soon: send a whole request, or take an answer */
    bool in_idle;
    uint64_t idle_since_us;
    /* who is at the other end; found out with the first request */
    bool identified;
    enum tls_role role;                      /* TLS_ROLE_NONE: refused, `refusal` says why */
    char identity[LS_IDENTITY_MAX + 16 + 1]; /* "app/checkout" */
    uint32_t app;
    char refusal[LS_ERROR_TEXT_MAX];
    struct request *request; /* not answered yet */
};
LIST_HEAD(conn_bucket, conn);
TAILQ_HEAD(conn_list, conn);

struct listener {
    struct api *api;
    bool tls;
    struct evhttp *http;
    unsigned connections;
    struct acceptor *acceptor; /* held at limits.connections: the backlog waits */
};

enum request_kind {
    REQUEST_RUN,
    REQUEST_GET,
    REQUEST_ABORT,
    REQUEST_INQUIRY, /* of agents */
    REQUEST_SAGA_RUN,
    REQUEST_SAGA,
    REQUEST_SAGA_CANCEL
};
struct inquiry;

/* A request that waits for a transaction. */
struct request {
    struct api *api;
    struct conn *conn; /* NULL: the client is gone, or it was answered */
    struct evhttp_request *http;
    enum request_kind kind;
    enum route_wait wait;
    bool joined;     /* a repeated key: outcome and gtid, no rows */
    struct run *run; /* REQUEST_RUN: a reference */
    char gtid[LS_GTID_MAX + 1];
    uint32_t epoch, participant; /* participant: of a one-participant gtid, else 0 */
    uint64_t sequence;
    LIST_ENTRY(request) waiting;
    bool is_waiting;
    struct inquiry *inquiry; /* REQUEST_INQUIRY */
    struct event timer;
    bool has_timer;
    enum request_submit { SUBMIT_OPEN, SUBMIT_JOINED, SUBMIT_REFUSED } submit;
    enum refuse_why why; /* SUBMIT_REFUSED */
    uint32_t refused_participant;
};
LIST_HEAD(request_list, request);

#define WAITING_BUCKETS 16384u
#define CONN_BUCKETS 2048u

struct api {
    struct host *host;
    SSL_CTX *tls;
    struct listener https, local;
    struct conn_list conns, unknown, idle;
    struct conn_bucket by_bev[CONN_BUCKETS];
    struct event *idle_timer;
    struct request_list waiting[WAITING_BUCKETS];
    unsigned requests; /* alive */
    uint64_t accepted; /* runs accepted so far */
    struct inquiry *inquiries;
    uint64_t inquiry_token;
    struct out out; /* body being written */
};

/* ---- server.c */
/* Sends api->out as the answer; the http request is gone afterwards. `location` may be NULL. */
void server_reply(struct conn *conn, struct evhttp_request *http, int code, const char *content_type,
                  const char *location);
void server_reply_allow(struct conn *conn, struct evhttp_request *http, const char *allow);
bool conn_is_admin(const struct conn *conn);

/* ---- handlers.c */
void handle_request(struct conn *conn, struct evhttp_request *http);

/* ---- waiting.c */
struct request *request_new(struct conn *conn, struct evhttp_request *http, enum request_kind kind);
/* Answers from what is known, or waits up to `timeout_ms` for it. Not from inside of a step. */
void request_answer_or_wait(struct request *request, uint64_t timeout_ms);
/* Waits for effects; answered by its timer at the latest. */
void request_wait(struct request *request, uint64_t timeout_ms);
/* The agents have said what they know: answers. */
void request_blocking_known(struct request *request);
/* Frees it; the http request must have been answered or given back. */
void request_free(struct request *request);
/* The connection is closing. */
void request_client_gone(struct request *request);

/* ---- sagas.c */
void saga_submit(struct request *request, const char *body, size_t length);
void handle_saga_get(struct conn *conn, struct evhttp_request *http, const char *text, uint64_t timeout_ms);
void handle_saga_cancel(struct conn *conn, struct evhttp_request *http, const char *text);
void handle_dlq_act(struct conn *conn, struct evhttp_request *http, const char *text, enum saga_act act);
void answer_saga_list(struct api *api, const struct conn *conn, const char *state, uint32_t limit,
                      const struct ls_gtid *after, bool dead_letters);
void answer_ended_sagas(struct api *api, const struct conn *conn, const char *state, uint32_t limit,
                        const struct ls_gtid *after);
/* Answers with what is true now. */
void request_saga_now(struct request *request);
/* The state of its saga has changed. */
void request_saga_heard(struct request *request, const struct saga *saga);

/* ---- events.c */
struct events_query {
    const char *participant, *type, *key;
    uint64_t offset;
    uint32_t limit;
};
void handle_events(struct conn *conn, struct evhttp_request *http, const struct events_query *query);
void handle_flow(struct conn *conn, struct evhttp_request *http, const char *saga);
void handle_flows(struct conn *conn, struct evhttp_request *http, uint32_t limit);
/* Of GET /v1/flows: takes one participant's part, a list, over into `flows`, by name; writes the newest. */
void flows_add(json_t *flows, const char *participant, const json_t *list);
void flows_write(struct out *out, json_t *flows, uint32_t limit);
void handle_event_letters(struct conn *conn, struct evhttp_request *http, const char *id, uint32_t limit);
void handle_event_act(struct conn *conn, struct evhttp_request *http, Lockstep__AskKind act);
/* What becomes of GET /v1/tx/{gtid}?blocking=true: the agents of its prepared branches are asked, then the request is
 * answered as any other, with what they said. */
void handle_blocking(struct conn *conn, struct evhttp_request *http, const struct txn *txn);
bool branch_may_block(const struct txn_branch *branch);
/* "blocking": what the branch's agent said, or why it did not. Nothing if it was not asked; `inquiry` may be NULL. */
void inquiry_add_blocking(struct out *out, const struct inquiry *inquiry, uint32_t participant);
/* Its time is over: answers with what is there. */
void request_inquiry_late(struct request *request);
/* Its request is being freed. */
void request_inquiry_gone(struct request *request);

/* ---- answer.c: each fills api->out and returns the HTTP status */
/* {"error": {"code", "message", "path"?}, "begun": false?}. `path` may be NULL. */
void answer_error(struct api *api, const char *code, const char *path, bool not_begun, const char *fmt, ...)
    LS_PRINTF(5, 6);
/* "results": what the statements returned, by step. */
void answer_add_results(struct out *out, const struct run *run);
int answer_txn(struct request *request, const struct txn *txn);
int answer_finished(struct request *request, const struct txn_finished *finished);
int answer_committed_record(struct request *request, const Lockstep__LogCommit *record);
int answer_pending(struct request *request);
int answer_existing(struct request *request, const struct txn *txn);
/* Aborted before anybody could say whether its key was used: 503, not 409. */
bool answer_key_is_unsettled(const struct request *request, const struct txn *txn);
int answer_key_unsettled(struct request *request, const struct txn_cause *cause);
int answer_refused(struct request *request);
void answer_list(struct api *api, const struct conn *conn, const char *state, uint32_t limit,
                 const struct ls_gtid *after);
void answer_participants(struct api *api);
/* May this client see a transaction of application `app`? */
bool answer_may_see(const struct conn *conn, uint32_t app);
/* The same for one whose owner may not be known (yet): one participant, asked after a restart. */
bool answer_may_see_outcome(const struct conn *conn, uint32_t app, enum txn_outcome outcome);

#endif
