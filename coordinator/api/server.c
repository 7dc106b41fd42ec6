/*
 * server.c: the two evhttp servers, their connections and the limits that evhttp does not have.
 *
 * What evhttp 2.1 leaves to us: a bound on connections (the listener pauses, the backlog waits), a bound on the time a
 * client takes (its own timeouts start again with every byte), words instead of HTML for 405 and 413, close_notify at
 * the end of a TLS connection, and pipelined requests (the second would never be answered, so the first answer says
 * Connection: close).
 */
#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent_ssl.h>
#include <event2/listener.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/acceptor.h"
#include "common/daemon.h"
#include "common/diag.h"
#include "coordinator/api/internal.h"
#include "coordinator/stats.h"

#define HEADERS_MAX 16384
#define IDLE_CHECK_MS 250u

/* ------------------------------------------------------------ connections */

static struct conn_bucket *bucket_of(struct api *api, const struct bufferevent *bev) {
    return &api->by_bev[((uintptr_t)bev >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> 53];
}
_Static_assert(CONN_BUCKETS == 1u << (64 - 53), "the hash yields bucket numbers");

static struct conn *conn_of(struct api *api, struct evhttp_request *http) {
    const struct bufferevent *bev = evhttp_connection_get_bufferevent(evhttp_request_get_connection(http));
    struct conn *conn;
    LIST_FOREACH(conn, bucket_of(api, bev), same_bucket) {
        /* cppcheck-suppress uninitvar ; the loop macro sets it */
        if (conn->bev == bev) {
            return conn;
        }
    }
    return NULL;
}

static void idle_remove(struct conn *conn) {
    if (conn->in_idle) {
        TAILQ_REMOVE(&conn->listener->api->idle, conn, idle);
        conn->in_idle = false;
    }
}

static void idle_add(struct conn *conn) {
    idle_remove(conn);
    conn->in_idle = true;
    conn->idle_since_us = daemon_now_us();
    TAILQ_INSERT_TAIL(&conn->listener->api->idle, conn, idle); /* the list stays in order: all wait equally long */
}

static void pause_or_resume(struct listener *listener) {
    if (listener->acceptor != NULL) {
        acceptor_hold(listener->acceptor, listener->connections >= listener->api->host->conf.connections_max);
    }
}

/* Takes over one reference to `bev`. */
static bool conn_new(struct listener *listener, struct bufferevent *bev) {
    struct api *api = listener->api;
    struct conn *conn = calloc(1, sizeof *conn);
    if (conn == NULL) {
        return false;
    }
    conn->listener = listener;
    conn->bev = bev;
    LIST_INSERT_HEAD(bucket_of(api, bev), conn, same_bucket);
    TAILQ_INSERT_TAIL(&api->conns, conn, all);
    TAILQ_INSERT_TAIL(&api->unknown, conn, unknown);
    idle_add(conn);
    listener->connections++;
    pause_or_resume(listener);
    return true;
}

static void conn_free(struct conn *conn) {
    struct api *api = conn->listener->api;
    idle_remove(conn);
    if (conn->request != NULL) {
        request_client_gone(conn->request);
    }
    if (!conn->known) {
        TAILQ_REMOVE(&api->unknown, conn, unknown);
    }
    TAILQ_REMOVE(&api->conns, conn, all);
    LIST_REMOVE(conn, same_bucket);
    conn->listener->connections--;
    pause_or_resume(conn->listener);
    (void)bufferevent_decref(conn->bev);
    free(conn);
}

static void on_conn_closed(struct evhttp_connection *http, void *context) {
    (void)http;
    struct conn *conn = context;
    SSL *ssl = conn->listener->tls ? bufferevent_openssl_get_ssl(conn->bev) : NULL;
    if (ssl != NULL && SSL_is_init_finished(ssl)) {
        (void)SSL_shutdown(ssl); /* close_notify: without it OpenSSL 3 clients report an error */
    }
    conn_free(conn);
}

static void conn_known(struct conn *conn, struct evhttp_request *http) {
    conn->known = true;
    TAILQ_REMOVE(&conn->listener->api->unknown, conn, unknown);
    evhttp_connection_set_closecb(evhttp_request_get_connection(http), on_conn_closed, conn);
}

/* evhttp takes its callbacks off when it lets go of a bufferevent. */
static bool evhttp_has_let_go(struct bufferevent *bev) {
    bufferevent_event_cb on_event = NULL;
    bufferevent_getcb(bev, NULL, NULL, &on_event, NULL);
    return on_event == NULL;
}

/* Connections that went before their first request, and those that take too long. */
static void on_idle_timer(evutil_socket_t fd, short what, void *context) {
    (void)fd;
    (void)what;
    struct api *api = context;
    uint64_t now_us = daemon_now_us(), limit_us = api->host->conf.http_idle_ms * 1000;
    for (struct conn *conn = TAILQ_FIRST(&api->unknown), *next; conn != NULL; conn = next) {
        next = TAILQ_NEXT(conn, unknown);
        if (evhttp_has_let_go(conn->bev)) {
            conn_free(conn);
        }
    }
    for (struct conn *conn; (conn = TAILQ_FIRST(&api->idle)) != NULL && now_us - conn->idle_since_us >= limit_us;) {
        idle_remove(conn);
        (void)shutdown((int)bufferevent_getfd(conn->bev),
                       SHUT_RDWR); /* evhttp finds the end of the stream and closes */
    }
}

/* --------------------------------------------------------------- identity */

bool conn_is_admin(const struct conn *conn) {
    return conn->role == TLS_ROLE_ADMIN;
}

static void refuse_identity(struct conn *conn, const char *text) {
    conn->role = TLS_ROLE_NONE;
    (void)snprintf(conn->refusal, sizeof conn->refusal, "%s", text);
}

static void identify_tls(struct conn *conn) {
    SSL *ssl = bufferevent_openssl_get_ssl(conn->bev);
    struct tls_identity identity;
    struct ls_error err;
    if (ssl == NULL) { /* on_accepted could not make one, and evhttp has fallen back to plain HTTP */
        refuse_identity(conn, "the connection is not encrypted");
    } else if (tls_peer_identity(ssl, &identity, &err) != LS_OK) {
        refuse_identity(conn, err.text);
    } else {
        conn->role = identity.role;
        (void)snprintf(conn->identity, sizeof conn->identity, "%s/%s", tls_role_name(identity.role), identity.name);
    }
}

/* Root and our own user are the local administrator; the socket's mode keeps others out, this is the second lock. */
static void identify_local(struct conn *conn) {
    struct ucred peer;
    socklen_t length = sizeof peer;
    if (getsockopt((int)bufferevent_getfd(conn->bev), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) {
        refuse_identity(conn, "the peer's credentials cannot be read");
    } else if (peer.uid != 0 && peer.uid != geteuid()) {
        refuse_identity(conn, "this socket serves root and the daemon's own user");
    } else {
        conn->role = TLS_ROLE_ADMIN;
        (void)snprintf(conn->identity, sizeof conn->identity, "admin/local");
    }
}

static void identify(struct conn *conn) {
    if (conn->listener->tls) {
        identify_tls(conn);
    } else {
        identify_local(conn);
    }
    conn->app = conn->role == TLS_ROLE_NONE ? 0 : apps_number(conn->listener->api->host->apps, conn->identity);
    conn->identified = true;
}

/* ---------------------------------------------------------------- replies */

static void add_header(struct evhttp_request *http, const char *key, const char *value) {
    (void)evhttp_add_header(evhttp_request_get_output_headers(http), key,
                            value); /* without memory the answer goes out without it */
}

void server_reply(struct conn *conn, struct evhttp_request *http, int code, const char *content_type,
                  const char *location) {
    struct api *api = conn->listener->api;
    struct evbuffer *body = evbuffer_new();
    if (api->out.failed) {
        out_reset(&api->out);
        if (code < 300) {
            code = 500; /* what it was about may have happened: 5xx never means aborted */
        }
    }
    if (body != NULL && api->out.length > 0) {
        (void)evbuffer_add(body, api->out.data, api->out.length);
    }
    add_header(http, "Content-Type", content_type);
    if (location != NULL) {
        add_header(http, "Location", location);
    }
    bool pipelined = evbuffer_get_length(bufferevent_get_input(conn->bev)) > 0;
    if (pipelined || api->host->draining) {
        add_header(http, "Connection", "close");
    }
    stats_http(code);
    idle_add(conn); /* now it has to take the answer */
    evhttp_send_reply(http, code, NULL, body);
    if (body != NULL) {
        evbuffer_free(body);
    }
}

void server_reply_allow(struct conn *conn, struct evhttp_request *http, const char *allow) {
    add_header(http, "Allow", allow);
    server_reply(conn, http, 405, "application/json", NULL);
}

static void on_request(struct evhttp_request *http, void *context) {
    struct listener *listener = context;
    struct conn *conn = conn_of(listener->api, http);
    if (conn == NULL) { /* no memory when it was accepted */
        evhttp_send_error(http, 503, NULL);
        return;
    }
    assert(conn->listener == listener && conn->request == NULL);
    if (!conn->known) {
        conn_known(conn, http);
    }
    idle_remove(conn); /* whole: from here on it is we who take the time */
    if (!conn->identified) {
        identify(conn);
    }
    handle_request(conn, http);
}

/* -------------------------------------------------------------- listeners */

static struct bufferevent *tls_bufferevent(struct api *api, struct event_base *base) {
    SSL *ssl = SSL_new(api->tls);
    struct bufferevent *bev =
        ssl == NULL ? NULL
                    : bufferevent_openssl_socket_new(base, -1, ssl, BUFFEREVENT_SSL_ACCEPTING, BEV_OPT_CLOSE_ON_FREE);
    if (bev == NULL) {
        SSL_free(ssl);
        return NULL;
    }
    bufferevent_openssl_set_allow_dirty_shutdown(bev, 1); /* a client that just goes is a client that is gone */
    return bev;
}

/* A connection was accepted. On NULL evhttp makes a plain one of its own, which on_request() meets without a conn. */
static struct bufferevent *on_accepted(struct event_base *base, void *context) {
    struct listener *listener = context;
    struct bufferevent *bev =
        listener->tls ? tls_bufferevent(listener->api, base) : bufferevent_socket_new(base, -1, BEV_OPT_CLOSE_ON_FREE);
    if (bev == NULL) {
        return NULL;
    }
    bufferevent_incref(bev);
    if (!conn_new(listener, bev)) {
        (void)bufferevent_decref(bev);
        bufferevent_free(bev);
        return NULL;
    }
    return bev;
}

static void set_limits(struct listener *listener) {
    const struct coordinator_conf *conf = &listener->api->host->conf;
    struct timeval timeout = {.tv_sec = (time_t)(conf->http_idle_ms / 1000),
                              .tv_usec = (suseconds_t)(conf->http_idle_ms % 1000 * 1000)};
    evhttp_set_max_headers_size(listener->http, HEADERS_MAX);
    evhttp_set_max_body_size(
        listener->http, (ev_ssize_t)(2 * conf->body_max)); /* above the limit by enough that the handler can answer */
    evhttp_set_timeout_tv(listener->http, &timeout);
}

static enum ls_status listener_start(struct api *api, struct listener *listener, bool tls, int fd,
                                     struct ls_error *err) {
    listener->api = api;
    listener->tls = tls;
    listener->http = evhttp_new(api->host->base);
    if (listener->http == NULL) {
        (void)close(fd);
        return ls_fail(err, LS_ERR_NOMEM, "the HTTP server cannot be made");
    }
    evhttp_set_allowed_methods(listener->http, UINT16_MAX); /* 405 is said in our own words */
    set_limits(listener);
    evhttp_set_bevcb(listener->http, on_accepted, listener);
    evhttp_set_gencb(listener->http, on_request, listener);
    struct evhttp_bound_socket *bound = evhttp_accept_socket_with_handle(listener->http, fd);
    if (bound == NULL) {
        (void)close(fd);
        return ls_fail(err, LS_ERR_NOMEM, "the HTTP server cannot listen");
    }
    /* Without memory libevent makes a listener that never listens; enabling it again tells. */
    struct evconnlistener *socket = evhttp_bound_socket_get_listener(bound);
    if (evconnlistener_enable(socket) != 0) {
        return ls_fail(err, LS_ERR_NOMEM, "the HTTP server's listener cannot be enabled");
    }
    return acceptor_new(api->host->base, socket, tls ? "api" : "api socket", &listener->acceptor, err);
}

enum ls_status api_new(struct host *host, int tls_fd, SSL_CTX *tls, int unix_fd, struct api **ret_api,
                       struct ls_error *err) {
    struct api *api = calloc(1, sizeof *api);
    if (api == NULL) {
        (void)close(tls_fd);
        (void)close(unix_fd);
        return ls_fail(err, LS_ERR_NOMEM, "out of memory");
    }
    api->host = host;
    TAILQ_INIT(&api->conns);
    TAILQ_INIT(&api->unknown);
    TAILQ_INIT(&api->idle);
    api_set_tls(api, tls);
    enum ls_status status = listener_start(api, &api->https, true, tls_fd, err);
    enum ls_status local = listener_start(api, &api->local, false, unix_fd, status == LS_OK ? err : NULL);
    status = status == LS_OK ? local : status;
    api->idle_timer = event_new(host->base, -1, EV_PERSIST, on_idle_timer, api);
    struct timeval interval = {.tv_usec = (suseconds_t)IDLE_CHECK_MS * 1000};
    if (status == LS_OK && (api->idle_timer == NULL || event_add(api->idle_timer, &interval) != 0)) {
        status = ls_fail(err, LS_ERR_NOMEM, "the HTTP server's timer cannot be made");
    }
    if (status != LS_OK) {
        api_free(api);
        return status;
    }
    *ret_api = api;
    return LS_OK;
}

void api_free(struct api *api) {
    if (api == NULL) {
        return;
    }
    if (api->idle_timer != NULL) {
        event_free(api->idle_timer);
    }
    struct listener *listeners[] = {&api->https, &api->local};
    for (size_t i = 0; i < 2; i++) {
        acceptor_free(listeners[i]->acceptor);
        listeners[i]->acceptor = NULL; /* nothing is to be held any more */
        if (listeners[i]->http != NULL) {
            evhttp_free(listeners[i]->http); /* closes every connection */
        }
    }
    while (!TAILQ_EMPTY(&api->conns)) {
        conn_free(TAILQ_FIRST(&api->conns)); /* those that evhttp never showed */
    }
    assert(api->requests == 0);
    out_free(&api->out);
    SSL_CTX_free(api->tls);
    free(api);
}

void api_set_tls(struct api *api, SSL_CTX *tls) {
    (void)SSL_CTX_up_ref(tls);
    SSL_CTX_free(api->tls);
    api->tls = tls;
}

void api_limits_changed(struct api *api) {
    set_limits(&api->https);
    set_limits(&api->local);
    pause_or_resume(&api->https);
    pause_or_resume(&api->local);
}

unsigned api_busy(const struct api *api) {
    unsigned busy = api->requests;
    const struct conn *conn;
    TAILQ_FOREACH(conn, &api->conns, all) {
        busy += evbuffer_get_length(bufferevent_get_output(conn->bev)) > 0 ? 1u : 0u;
    }
    return busy;
}
