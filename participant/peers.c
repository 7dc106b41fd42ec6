/*
 * peers.c: see peers.h.
 *
 *   a target (dialled)   WAITING -> DIALLING -> GREETING -> UP      whatever ends it: WAITING, with growing pauses and
 * jitter a source (accepted)  handshake -> Greet -> known
 */
#include "participant/peers.h"

#include <event2/listener.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/acceptor.h"
#include "common/daemon.h"
#include "common/diag.h"
#include "common/failpoint.h"
#include "common/hash.h"
#include "common/peer.h"
#include "lockstep/limits.h"

#define SOURCES_MAX (2 * LS_PEERS_MAX) /* accepted links, those that have not said who they are included */
#define FULL_LOG_MS 60000u             /* between two lines that more wanted to be accepted */
#define SILENT "it has not said who it is"

static const struct timeval greet_time = {.tv_sec = LS_LINK_ANSWER_MS / 1000};

struct target {
    struct peers *peers;
    char participant[LS_PARTICIPANT_MAX + 1];
    char address[DAEMON_ADDRESS_MAX];
    struct peer *peer;
    bool up;
    uint32_t failures;
    struct event *timer;
    struct target *next;
};

struct source {
    struct peers *peers;
    struct peer *peer;
    char participant[LS_PARTICIPANT_MAX + 1]; /* "" before its Greet */
    struct event *greet_timer;
    struct source *next;
};

struct peers {
    struct event_base *base;
    char self[LS_PARTICIPANT_MAX + 1], address[DAEMON_ADDRESS_MAX];
    struct peers_callbacks callbacks;
    void *context;
    SSL_CTX *server, *client;
    struct evconnlistener *listener;
    struct acceptor *acceptor;
    struct target *targets;
    struct source *sources;
    unsigned source_count;
    uint64_t full_said_us; /* 0: never */
};

static void greet(struct peers *peers, struct peer *peer) {
    Lockstep__Greet body = LOCKSTEP__GREET__INIT;
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    body.version = LS_PROTOCOL_VERSION;
    body.version_min = LS_PROTOCOL_VERSION_EVENT;
    body.participant = peers->self;
    frame.body_case = LOCKSTEP__FRAME__BODY_GREET;
    frame.greet = &body;
    if (peer_send(peer, &frame) != LS_OK) peer_close(peer, "a frame cannot be sent", false);
}

/* What is wrong with a greeting; NULL: nothing. */
static const char *judge(const struct peer *peer, const Lockstep__Greet *said) {
    const struct tls_identity *identity = peer_identity(peer);
    if (identity->role != TLS_ROLE_AGENT || strcmp(identity->name, said->participant) != 0)
        return "the certificate is not that of the participant's agent";
    if (said->version < LS_PROTOCOL_VERSION_EVENT || said->version_min > LS_PROTOCOL_VERSION)
        return "no common protocol version";
    return NULL;
}

/* ---- those we send to */

static void dial(struct target *target);

/* Time to dial again, or to give up one that does not greet. */
static void on_target_timer(evutil_socket_t fd, short what, void *arg) {
    (void)fd;
    (void)what;
    struct target *target = arg;
    if (target->peer == NULL)
        dial(target);
    else if (!target->up)
        peer_close(target->peer, SILENT, true);
}

static void retry(struct target *target) {
    uint64_t ms = LS_DIAL_BACKOFF_MS_MIN;
    for (uint32_t i = 0; i < target->failures && ms < LS_DIAL_BACKOFF_MS_MAX; i++) ms *= 2;
    if (ms > LS_DIAL_BACKOFF_MS_MAX) ms = LS_DIAL_BACKOFF_MS_MAX;
    ms = ms / 2 + random_u64() % (ms / 2 + 1);
    const struct timeval wait = {.tv_sec = (time_t)(ms / 1000), .tv_usec = (suseconds_t)(ms % 1000) * 1000};
    target->failures++;
    event_add(target->timer, &wait);
}

static void target_open(void *context, struct peer *peer, const struct tls_identity *identity) {
    struct target *target = context;
    if (identity->role != TLS_ROLE_AGENT || strcmp(identity->name, target->participant) != 0) {
        diag(DIAG_ERROR, "somebody else answers at a peer's address", "peer", target->participant, "role",
             tls_role_name(identity->role), "name", identity->name, NULL);
        peer_close(peer, "not the agent that is looked for", true);
        return;
    }
    greet(target->peers, peer);
    event_add(target->timer, &greet_time);
}

static void target_frame(void *context, struct peer *peer, const Lockstep__Frame *frame) {
    struct target *target = context;
    struct peers *peers = target->peers;
    if (frame->body_case == LOCKSTEP__FRAME__BODY_PING || frame->body_case == LOCKSTEP__FRAME__BODY_PONG) return;
    if (frame->body_case == LOCKSTEP__FRAME__BODY_GREET && !target->up) {
        const char *wrong = judge(peer, frame->greet);
        if (wrong != NULL) {
            peer_close(peer, wrong, true);
            return;
        }
        event_del(target->timer);
        target->up = true;
        target->failures = 0;
        diag(DIAG_INFO, "peer up", "peer", target->participant, "address", target->address, NULL);
        peers->callbacks.up(peers->context, target->participant);
        return;
    }
    if (frame->body_case == LOCKSTEP__FRAME__BODY_STORED && target->up) {
        /* Crash: acknowledged, and that is not stored: the page is sent again. */
        if (failpoint_hit(FP_relay_ack_received)) {
            peer_close(peer, "fault asked for", false);
            return;
        }
        peers->callbacks.stored(peers->context, target->participant, (int64_t)frame->stored->upto);
        return;
    }
    peer_close(peer, "a frame that a subscriber's agent does not send", true);
}

static void tell_down(struct target *target) {
    struct peers *peers = target->peers;
    if (!target->up) return;
    target->up = false;
    peers->callbacks.down(peers->context, target->participant);
}

static void target_closed(void *context, struct peer *peer, const char *reason) {
    struct target *target = context;
    (void)peer;
    target->peer = NULL;
    /* A peer that is away for long is said once, not every few seconds. */
    diag(target->up              ? DIAG_WARN
         : target->failures == 0 ? DIAG_INFO
                                 : DIAG_DEBUG,
         target->up ? "peer down" : "a peer cannot be reached", "peer", target->participant, "address", target->address,
         "reason", reason, NULL);
    tell_down(target);
    retry(target);
}

static void dial(struct target *target) {
    static const struct peer_callbacks callbacks = {target_open, target_frame, target_closed, NULL};
    struct ls_error err;
    if (target->peer != NULL || target->address[0] == '\0' || target->peers->client == NULL) return;
    if (peer_dial(target->peers->base, target->peers->client, target->address, &callbacks, target, &target->peer,
                  &err) == LS_OK)
        return;
    target->peer = NULL;
    diag(DIAG_WARN, "a peer cannot be dialled", "peer", target->participant, "address", target->address, "error",
         err.text, NULL);
    retry(target);
}

static struct target *find_target(const struct peers *peers, const char *participant) {
    struct target *target = peers->targets;
    while (target != NULL && strcmp(target->participant, participant) != 0) target = target->next;
    return target;
}

void peers_dial(struct peers *peers, const char *participant, const char *address) {
    struct target *target = find_target(peers, participant);
    if (target == NULL) {
        if (address[0] == '\0' || (target = calloc(1, sizeof(*target))) == NULL) return;
        target->peers = peers;
        target->timer = event_new(peers->base, -1, 0, on_target_timer, target);
        if (target->timer == NULL) {
            free(target);
            return;
        }
        snprintf(target->participant, sizeof(target->participant), "%s", participant);
        target->next = peers->targets;
        peers->targets = target;
    }
    if (strcmp(target->address, address) == 0) return;
    snprintf(target->address, sizeof(target->address), "%s", address);
    target->failures = 0;
    if (target->peer != NULL) {
        peer_close(target->peer, "it is to be found elsewhere", false); /* then dialled anew */
    } else {
        event_del(target->timer);
        dial(target);
    }
}

enum ls_status peers_send(struct peers *peers, const char *participant, Lockstep__Events *events) {
    struct target *target = find_target(peers, participant);
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    if (target == NULL || !target->up) return LS_OK;
    frame.body_case = LOCKSTEP__FRAME__BODY_EVENTS;
    frame.events = events;
    enum ls_status status = peer_send(target->peer, &frame);
    if (status == LS_OK) {
        peer_flush(target->peer);
        /* Crash: perhaps it arrives: sent again, and found in the inbox. */
        if (failpoint_hit(FP_relay_page_sent)) peer_close(target->peer, "fault asked for", false);
    }
    return status;
}

unsigned peers_up(const struct peers *peers) {
    unsigned count = 0;
    for (const struct target *target = peers->targets; target != NULL; target = target->next) count += target->up;
    return count;
}

/* ---- those that send to us */

static void source_free(struct source *source) {
    struct source **at = &source->peers->sources;
    while (*at != source) at = &(*at)->next;
    *at = source->next;
    source->peers->source_count--;
    if (source->greet_timer != NULL) event_free(source->greet_timer);
    free(source);
}

static struct source *find_source(const struct peers *peers, const char *participant) {
    struct source *source = peers->sources;
    while (source != NULL && strcmp(source->participant, participant) != 0) source = source->next;
    return source;
}

static void source_open(void *context, struct peer *peer, const struct tls_identity *identity) {
    (void)context;
    if (identity->role == TLS_ROLE_AGENT) return;
    diag(DIAG_WARN, "link refused", "role", tls_role_name(identity->role), "name", identity->name, "address",
         peer_address(peer), NULL);
    peer_close(peer, "only agents are served here", true);
}

static void source_greeted(struct source *source, const Lockstep__Greet *said) {
    struct peers *peers = source->peers;
    const char *wrong = judge(source->peer, said);
    struct source *older = find_source(peers, said->participant);
    if (wrong != NULL) {
        diag(DIAG_WARN, "link refused", "peer", said->participant, "address", peer_address(source->peer), "reason",
             wrong, NULL);
        peer_close(source->peer, wrong, true);
        return;
    }
    if (older != NULL) {
        older->participant[0] = '\0';
        peer_close(older->peer, "a newer link of this participant has taken its place", true);
    }
    snprintf(source->participant, sizeof(source->participant), "%s", said->participant);
    event_del(source->greet_timer);
    greet(peers, source->peer);
}

static void source_frame(void *context, struct peer *peer, const Lockstep__Frame *frame) {
    struct source *source = context;
    struct peers *peers = source->peers;
    if (frame->body_case == LOCKSTEP__FRAME__BODY_PING || frame->body_case == LOCKSTEP__FRAME__BODY_PONG) return;
    if (frame->body_case == LOCKSTEP__FRAME__BODY_GREET && source->participant[0] == '\0') {
        source_greeted(source, frame->greet);
        return;
    }
    if (frame->body_case == LOCKSTEP__FRAME__BODY_EVENTS && source->participant[0] != '\0') {
        /* Crash: nothing of it is stored; it comes again. */
        if (failpoint_hit(FP_relay_page_received)) {
            peer_close(peer, "fault asked for", false);
            return;
        }
        peers->callbacks.events(peers->context, source->participant, frame->events);
        return;
    }
    peer_close(peer, "a frame that a publisher's agent does not send", true);
}

static void source_closed(void *context, struct peer *peer, const char *reason) {
    struct source *source = context;
    diag(DIAG_DEBUG, "publisher's link closed", "peer", source->participant, "address", peer_address(peer), "reason",
         reason, NULL);
    source_free(source);
}

static void on_no_greet(evutil_socket_t fd, short what, void *arg) {
    (void)fd;
    (void)what;
    struct source *source = arg;
    diag(DIAG_WARN, "link closed", "address", peer_address(source->peer), "reason", SILENT, NULL);
    peer_close(source->peer, SILENT, true);
}

static void say_full(struct peers *peers) {
    uint64_t now_us = daemon_now_us();
    if (peers->full_said_us != 0 && now_us - peers->full_said_us < UINT64_C(1000) * FULL_LOG_MS) return;
    peers->full_said_us = now_us;
    diag(DIAG_ERROR, "more agents want to send events here than can be accepted: some are closed at once", "most",
         diag_u64(UINT64_C(2) * LS_PEERS_MAX), NULL);
}

static void on_accept(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *address, int length,
                      void *context) {
    static const struct peer_callbacks callbacks = {source_open, source_frame, source_closed, NULL};
    (void)listener;
    (void)address;
    (void)length;
    struct peers *peers = context;
    struct ls_error err;
    struct source *source =
        peers->server != NULL && peers->source_count < SOURCES_MAX ? calloc(1, sizeof(*source)) : NULL;
    if (peers->source_count >= SOURCES_MAX) say_full(peers);
    if (source != NULL && (source->greet_timer = event_new(peers->base, -1, 0, on_no_greet, source)) == NULL) {
        free(source);
        source = NULL;
    }
    if (source == NULL) {
        (void)close(fd); /* it dials again, with backoff */
        return;
    }
    event_add(source->greet_timer, &greet_time);
    source->peers = peers;
    source->next = peers->sources;
    peers->sources = source;
    peers->source_count++;
    if (peer_accept(peers->base, peers->server, fd, &callbacks, source, &source->peer, &err) != LS_OK) {
        diag(DIAG_WARN, "a link cannot be accepted", "error", err.text, NULL);
        source_free(source);
    }
}

void peers_acknowledge(struct peers *peers, const char *participant, int64_t upto) {
    struct source *source = find_source(peers, participant);
    Lockstep__Stored body = LOCKSTEP__STORED__INIT;
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    if (source == NULL) return; /* its link is gone: the page comes again, and all of it is there */
    body.upto = (uint64_t)upto;
    frame.body_case = LOCKSTEP__FRAME__BODY_STORED;
    frame.stored = &body;
    if (peer_send(source->peer, &frame) != LS_OK) peer_close(source->peer, "a frame cannot be sent", false);
}

/* ---- life */

enum ls_status peers_new(struct event_base *base, const char *self, const char *listen,
                         const struct peers_callbacks *callbacks, void *context, struct peers **ret_peers,
                         struct ls_error *err) {
    int fd = -1;
    struct peers *peers = calloc(1, sizeof(*peers));
    if (peers == NULL) return ls_fail(err, LS_ERR_NOMEM, "out of memory");
    peers->base = base;
    peers->callbacks = *callbacks;
    peers->context = context;
    snprintf(peers->self, sizeof(peers->self), "%s", self);
    enum ls_status status = daemon_listen_tcp(listen, &fd, peers->address, err);
    if (status == LS_OK) {
        peers->listener =
            evconnlistener_new(base, on_accept, peers, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 0, fd);
        if (peers->listener == NULL) {
            (void)close(fd);
            status = ls_fail(err, LS_ERR_NOMEM, "the peers' listener cannot be made");
        } else {
            status = acceptor_new(base, peers->listener, "peers", &peers->acceptor, err);
        }
    }
    if (status != LS_OK) {
        peers_free(peers);
        return status;
    }
    acceptor_hold(peers->acceptor, true);
    *ret_peers = peers;
    return LS_OK;
}

void peers_set_tls(struct peers *peers, SSL_CTX *server, SSL_CTX *client) {
    (void)SSL_CTX_up_ref(server);
    (void)SSL_CTX_up_ref(client);
    SSL_CTX_free(peers->server);
    SSL_CTX_free(peers->client);
    peers->server = server;
    peers->client = client;
}

void peers_open(struct peers *peers) {
    acceptor_hold(peers->acceptor, false);
}

const char *peers_address(const struct peers *peers) {
    return peers->address;
}

void peers_free(struct peers *peers) {
    if (peers == NULL) return;
    acceptor_free(peers->acceptor);
    if (peers->listener != NULL) evconnlistener_free(peers->listener);
    while (peers->targets != NULL) {
        struct target *target = peers->targets;
        peers->targets = target->next;
        peer_free(target->peer);
        event_free(target->timer);
        free(target);
    }
    while (peers->sources != NULL) {
        peer_free(peers->sources->peer);
        source_free(peers->sources);
    }
    SSL_CTX_free(peers->server);
    SSL_CTX_free(peers->client);
    free(peers);
}
