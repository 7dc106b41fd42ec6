/*
 * peer.c: the link drives OpenSSL on the socket itself, without a bufferevent: frames are encoded straight into one
 * output buffer that leaves in whole TLS records, input is decoded in place, and a read call takes in several records
 * (read-ahead, which a bufferevent cannot have). At the loads of design section 5 the system calls saved here are a
 * good part of what the CPU has left.
 *
 * State:
 *   RESOLVING -> CONNECTING -> HANDSHAKE -> OPEN -> DRAINING -> LINGERING -> FAILED -> (on_closed, freed)
 *   peer_accept() begins at HANDSHAKE. Any state may go to FAILED: link_failed() is the only way, and it only notes the
 * reason; on_closed is called by the `turn` event, from the loop, with nothing of the link on the stack. DRAINING sends
 * what is buffered; LINGERING has sent close_notify and reads until the other side has closed too: closing a socket
 * with unread input would send a reset, which may overtake the Error frame.
 */
#include "common/peer.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/address.h"
#include "common/daemon.h"
#include "common/resolve.h"
#include "common/text.h"

#define INPUT_START (64u << 10)
#define OUTPUT_START (64u << 10)
#define KEEP_MAX (256u << 10)   /* an empty buffer above this is given back */
#define READS_PER_TURN 32       /* then other events have their turn */
#define EAGER_OUTPUT (1u << 20) /* above this peer_send() does not wait for the end of the turn */
#define READ_AHEAD (64u << 10)
#define READ_ROOM (16u << 10) /* at least so much per call: one TLS record */

enum peer_state { RESOLVING, CONNECTING, HANDSHAKE, OPEN, DRAINING, LINGERING, FAILED };

/* Bytes [start, end) of `data` are in use. */
struct buffer {
    uint8_t *data;
    size_t start, end, size;
};

struct peer {
    struct event_base *base;
    SSL_CTX *tls;
    SSL *ssl;
    evutil_socket_t fd;
    enum peer_state state;
    const struct peer_callbacks *callbacks;
    void *context;
    struct resolve *resolve;
    struct addrinfo *addresses, *address; /* dialling: all, and the one being tried */
    struct event *readable, *writable, *turn, *timer;
    struct buffer in, out;
    struct tls_identity identity;
    bool identified, dialled;
    bool freed; /* peer_free() inside a callback */
    unsigned callback_depth;
    uint64_t heard_us, sent_us;
    uint64_t received; /* bytes, of whatever kind */
    uint32_t ping_ms, dead_ms, handshake_ms;
    uint64_t token;
    char address_text[DAEMON_ADDRESS_MAX];
    char reason[LS_ERROR_TEXT_MAX];
};

/* ------------------------------------------------------------------ buffers */

static size_t buffer_used(const struct buffer *buffer) {
    return buffer->end - buffer->start;
}

/* Room for `more` bytes at the end. False without memory. */
static bool buffer_reserve(struct buffer *buffer, size_t more, size_t start_size) {
    if (buffer->size - buffer->end >= more) return true;
    size_t used = buffer_used(buffer);
    if (buffer->start > 0) {
        memmove(buffer->data, buffer->data + buffer->start, used);
        buffer->start = 0;
        buffer->end = used;
        if (buffer->size - used >= more) return true;
    }
    size_t size = buffer->size ? buffer->size : start_size;
    while (size - used < more) size *= 2;
    uint8_t *data = realloc(buffer->data, size);
    if (!data) return false;
    buffer->data = data;
    buffer->size = size;
    return true;
}

static void buffer_take(struct buffer *buffer, size_t bytes) {
    assert(bytes <= buffer_used(buffer));
    buffer->start += bytes;
    if (buffer->start < buffer->end) return;
    buffer->start = buffer->end = 0;
    if (buffer->size > KEEP_MAX) {
        free(buffer->data);
        *buffer = (struct buffer){0};
    }
}

/* ------------------------------------------------------------------ end of a link */

static void destroy(struct peer *peer) {
    resolve_cancel(peer->resolve);
    if (peer->addresses) freeaddrinfo(peer->addresses);
    struct event *events[] = {peer->readable, peer->writable, peer->turn, peer->timer};
    for (size_t i = 0; i < sizeof events / sizeof *events; i++) {
        if (events[i]) event_free(events[i]);
    }
    SSL_free(peer->ssl);
    if (peer->fd >= 0) (void)close(peer->fd);
    free(peer->in.data);
    free(peer->out.data);
    free(peer);
}

static void stop_io(struct peer *peer) {
    if (peer->readable) (void)event_del(peer->readable);
    if (peer->writable) (void)event_del(peer->writable);
}

/* The link is gone. on_closed follows from the loop. The first reason stays. */
static void link_failed(struct peer *peer, const char *reason) {
    if (peer->state == FAILED) return;
    if (!peer->reason[0]) text_copy_line(peer->reason, sizeof peer->reason, reason);
    peer->state = FAILED;
    stop_io(peer);
    (void)event_del(peer->timer);
    event_active(peer->turn, EV_TIMEOUT, 0);
}

static void link_failed_os(struct peer *peer, const char *what, int error) {
    char text[LS_ERROR_TEXT_MAX];
    (void)snprintf(text, sizeof text, "%s: %s", what, strerror(error));
    link_failed(peer, text);
}

static void arm_timer(struct peer *peer, uint64_t ms) {
    struct timeval wait = {.tv_sec = (time_t)(ms / 1000), .tv_usec = (suseconds_t)(ms % 1000 * 1000)};
    if (event_add(peer->timer, &wait) != 0) link_failed(peer, "no memory for a timer");
}

/* After an OpenSSL call returned `result` <= 0. True: try again when the socket says so. */
static bool wait_for_socket(struct peer *peer, int result, const char *doing) {
    int system_error = errno;
    switch (SSL_get_error(peer->ssl, result)) {
    case SSL_ERROR_WANT_READ:
        return true; /* `readable` is always armed */
    case SSL_ERROR_WANT_WRITE:
        if (event_add(peer->writable, NULL) != 0) link_failed(peer, "no memory for an event");
        return true;
    case SSL_ERROR_ZERO_RETURN:
        link_failed(peer, peer->state == HANDSHAKE ? "closed by the other side during the handshake"
                                                   : "closed by the other side");
        return false;
    case SSL_ERROR_SYSCALL:
        if (system_error == 0) {
            link_failed(peer, "closed by the other side");
        } else {
            link_failed_os(peer, doing, system_error);
        }
        return false;
    default: {
        char text[LS_ERROR_TEXT_MAX];
        const char *why = ERR_reason_error_string(ERR_peek_last_error());
        (void)snprintf(text, sizeof text, "%s: TLS: %s", doing, why ? why : "failed");
        ERR_clear_error();
        link_failed(peer, text);
        return false;
    }
    }
}

/* ------------------------------------------------------------------ output */

/* As much as the socket takes. */
static void flush_output(struct peer *peer) {
    while (buffer_used(&peer->out) > 0) {
        ERR_clear_error();
        errno = 0;
        int written = SSL_write(peer->ssl, peer->out.data + peer->out.start, (int)buffer_used(&peer->out));
        if (written <= 0) {
            (void)wait_for_socket(peer, written, "write");
            return;
        }
        peer->sent_us = daemon_now_us();
        buffer_take(&peer->out, (size_t)written);
    }
}

static enum ls_status append_frame(struct peer *peer, const Lockstep__Frame *frame) {
    size_t size = frame_size(frame);
    if (size > FRAME_HEADER + LS_FRAME_MAX) return LS_ERR_TOO_LARGE;
    if (buffer_used(&peer->out) + size > PEER_OUTPUT_MAX) {
        link_failed(peer, "the other side does not read what it is sent");
        return LS_OK;
    }
    if (!buffer_reserve(&peer->out, size, OUTPUT_START)) {
        link_failed(peer, "no memory for output");
        return LS_OK;
    }
    enum ls_status status = frame_encode(frame, peer->out.data + peer->out.end, size, NULL);
    if (status == LS_OK) peer->out.end += size;
    return status;
}

/* A frame of the link's own; it is small, so it always fits. */
static void send_own(struct peer *peer, Lockstep__Frame *frame) {
    Lockstep__Fence fence = LOCKSTEP__FENCE__INIT;
    if (peer->callbacks->fence) {
        peer->callbacks->fence(peer->context, &fence);
        frame->fence = &fence;
    }
    enum ls_status status = append_frame(peer, frame);
    assert(status == LS_OK);
    (void)status;
    frame->fence = NULL; /* that one is ours */
    event_active(peer->turn, EV_TIMEOUT, 0);
}

static void send_ping(struct peer *peer) {
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    Lockstep__Ping ping = LOCKSTEP__PING__INIT;
    ping.token = ++peer->token;
    frame.body_case = LOCKSTEP__FRAME__BODY_PING;
    frame.ping = &ping;
    send_own(peer, &frame);
}

static void send_pong(struct peer *peer, uint64_t token) {
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    Lockstep__Pong pong = LOCKSTEP__PONG__INIT;
    pong.token = token;
    frame.body_case = LOCKSTEP__FRAME__BODY_PONG;
    frame.pong = &pong;
    send_own(peer, &frame);
}

static void send_error(struct peer *peer, char *text) {
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    Lockstep__Error error = LOCKSTEP__ERROR__INIT;
    error.text = text;
    frame.body_case = LOCKSTEP__FRAME__BODY_ERROR;
    frame.error = &error;
    send_own(peer, &frame);
}

enum ls_status peer_send(struct peer *peer, const Lockstep__Frame *frame) {
    assert(!peer->freed);
    assert(peer->state != RESOLVING && peer->state != CONNECTING && peer->state != HANDSHAKE && "send after on_open");
    if (peer->state != OPEN) return LS_OK;
    enum ls_status status = append_frame(peer, frame);
    if (status != LS_OK || peer->state != OPEN) return status;
    if (buffer_used(&peer->out) >= EAGER_OUTPUT) flush_output(peer);
    if (buffer_used(&peer->out) > 0 && peer->state == OPEN) event_active(peer->turn, EV_TIMEOUT, 0);
    return LS_OK;
}

void peer_flush(struct peer *peer) {
    if (peer->state == OPEN) flush_output(peer);
}

/* ------------------------------------------------------------------ closing in order */

void peer_close(struct peer *peer, const char *reason, bool tell) {
    if (peer->freed || peer->state == FAILED || peer->state == DRAINING || peer->state == LINGERING) return;
    if (peer->state != OPEN && !(peer->state == HANDSHAKE && SSL_is_init_finished(peer->ssl))) {
        link_failed(peer, reason);
        return;
    }
    text_copy_line(peer->reason, sizeof peer->reason, reason);
    peer->state = DRAINING;
    arm_timer(peer, PEER_LINGER_MS);
    if (tell) send_error(peer, peer->reason);
    event_active(peer->turn, EV_TIMEOUT, 0);
}

/* Everything is out: say so, then wait for the other side. */
static void begin_linger(struct peer *peer) {
    ERR_clear_error();
    (void)SSL_shutdown(peer->ssl); /* sends close_notify; whether it is answered does not matter */
    (void)shutdown(peer->fd, SHUT_WR);
    if (peer->state == DRAINING) peer->state = LINGERING;
    event_active(peer->readable, EV_READ, 0);
}

/* While DRAINING: TLS may need its input to go on writing, and unread input would wake the loop for ever. */
static void skip_records(struct peer *peer) {
    uint8_t waste[4096];
    for (int i = 0; i < READS_PER_TURN && peer->state == DRAINING; i++) {
        ERR_clear_error();
        errno = 0;
        int got = SSL_read(peer->ssl, waste, sizeof waste);
        if (got > 0) continue;
        (void)wait_for_socket(peer, got, "read");
        return;
    }
}

/* While LINGERING. */
static void discard_input(struct peer *peer) {
    uint8_t waste[4096];
    for (int i = 0; i < READS_PER_TURN; i++) {
        ssize_t n = recv(peer->fd, waste, sizeof waste, 0); /* past TLS: nothing of it is used */
        if (n > 0) continue;
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
        link_failed(peer, "closed");
        return;
    }
}

static void drain(struct peer *peer) {
    if (peer->state == DRAINING) flush_output(peer);
    if (peer->state == DRAINING && buffer_used(&peer->out) == 0) begin_linger(peer);
}

/* ------------------------------------------------------------------ input */

/* Runs a callback's aftermath: true when the link may go on being used by the caller. */
static bool left_callback(struct peer *peer) {
    assert(peer->callback_depth > 0);
    peer->callback_depth--;
    return !peer->freed;
}

static void handle_frame(struct peer *peer, const Lockstep__Frame *frame) {
    if (frame->body_case == LOCKSTEP__FRAME__BODY_ERROR) {
        char text[LS_ERROR_TEXT_MAX];
        (void)snprintf(text, sizeof text, "the other side says: %s", frame->error->text);
        link_failed(peer, text);
        return;
    }
    if (frame->body_case == LOCKSTEP__FRAME__BODY_PING) send_pong(peer, frame->ping->token);
    peer->callback_depth++;
    peer->callbacks->on_frame(peer->context, peer, frame);
    (void)left_callback(peer);
}

/* Every whole frame that is in the buffer. */
static void handle_frames(struct peer *peer) {
    struct ls_error err;
    while (peer->state == OPEN && !peer->freed) {
        Lockstep__Frame *frame;
        const uint8_t *data = peer->in.data + peer->in.start;
        size_t need = 0, used = buffer_used(&peer->in);
        if (used == 0) return;
        enum ls_status status = frame_peek(data, used, &need, &err);
        if (status == LS_OK && (need == 0 || need > used)) {
            if (need > used && !buffer_reserve(&peer->in, need - used, INPUT_START))
                link_failed(peer, "no memory for input");
            return;
        }
        if (status == LS_OK) status = frame_decode(data, need, &frame, &err);
        if (status != LS_OK) {
            peer_close(peer, err.text, true);
            return;
        }
        buffer_take(&peer->in, need);
        handle_frame(peer, frame);
        lockstep__frame__free_unpacked(frame, NULL);
    }
}

/* On a slow line a record may need longer than silence may last; TLS shows nothing of it before it is whole. */
static void note_received(struct peer *peer) {
    uint64_t received = BIO_number_read(SSL_get_rbio(peer->ssl));
    if (received != peer->received) peer->heard_us = daemon_now_us();
    peer->received = received;
}

/* Reads and handles until the socket is empty or others should have their turn. */
static void read_input(struct peer *peer) {
    for (int i = 0; i < READS_PER_TURN && peer->state == OPEN && !peer->freed; i++) {
        if (!buffer_reserve(&peer->in, READ_ROOM, INPUT_START)) {
            link_failed(peer, "no memory for input");
            return;
        }
        ERR_clear_error();
        errno = 0;
        size_t room = peer->in.size - peer->in.end;
        int got = SSL_read(peer->ssl, peer->in.data + peer->in.end, (int)room);
        note_received(peer);
        if (got <= 0) {
            (void)wait_for_socket(peer, got, "read");
            return;
        }
        peer->in.end += (size_t)got;
        handle_frames(peer);
        /* Read-ahead has taken what the socket held. To hear "nothing more" from a second call would double the calls
         * of a link that carries one message at a time; what has come meanwhile is announced again. */
        if (peer->freed || !SSL_has_pending(peer->ssl)) return;
    }
    /* Read-ahead may hold records that the socket will not announce again. */
    if (!peer->freed && peer->state == OPEN && SSL_has_pending(peer->ssl)) event_active(peer->readable, EV_READ, 0);
}

/* ------------------------------------------------------------------ beginning */

static void describe_address(struct peer *peer) {
    struct sockaddr_storage address = {0};
    socklen_t length = sizeof address;
    char host[NI_MAXHOST], port[NI_MAXSERV];
    if (getpeername(peer->fd, (struct sockaddr *)&address, &length) != 0) return;
    if (getnameinfo((struct sockaddr *)&address, length, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return;
    char text[NI_MAXHOST + NI_MAXSERV + 4];
    (void)snprintf(text, sizeof text, address.ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
    text_copy_line(peer->address_text, sizeof peer->address_text, text);
}

static void on_readable(evutil_socket_t fd, short what, void *arg);
static void on_writable(evutil_socket_t fd, short what, void *arg);

/* The socket is there: events, TLS session. */
static bool begin_socket(struct peer *peer) {
    const int one = 1;
    /* Fails on a Unix socket pair, as tests use: there is no delay to switch off. */
    (void)setsockopt(peer->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    peer->readable = event_new(peer->base, peer->fd, EV_READ | EV_PERSIST, on_readable, peer);
    peer->writable = event_new(peer->base, peer->fd, EV_WRITE, on_writable, peer);
    return peer->readable && peer->writable;
}

static void begin_handshake(struct peer *peer) {
    describe_address(peer);
    peer->ssl = SSL_new(peer->tls);
    if (!peer->ssl || SSL_set_fd(peer->ssl, (int)peer->fd) != 1) {
        link_failed(peer, "no memory for a TLS session");
        return;
    }
    (void)SSL_set_mode(peer->ssl, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_set_read_ahead(peer->ssl, 1);
    SSL_set_default_read_buffer_len(peer->ssl, READ_AHEAD);
    if (peer->dialled) {
        SSL_set_connect_state(peer->ssl);
    } else {
        SSL_set_accept_state(peer->ssl);
    }
    peer->state = HANDSHAKE;
    if (event_add(peer->readable, NULL) != 0) link_failed(peer, "no memory for an event");
}

static void handshake_done(struct peer *peer) {
    struct ls_error err;
    peer->heard_us = peer->sent_us = daemon_now_us();
    if (tls_peer_identity(peer->ssl, &peer->identity, &err) != LS_OK) {
        peer_close(peer, err.text, true);
        return;
    }
    peer->identified = true;
    peer->state = OPEN;
    arm_timer(peer, peer->ping_ms);
    peer->callback_depth++;
    peer->callbacks->on_open(peer->context, peer, &peer->identity);
    if (!left_callback(peer)) return;
    if (peer->state == OPEN)
        event_active(peer->readable, EV_READ, 0); /* input may have come along with the handshake */
}

static void continue_handshake(struct peer *peer) {
    ERR_clear_error();
    errno = 0;
    int result = SSL_do_handshake(peer->ssl);
    if (result == 1) {
        handshake_done(peer);
    } else {
        (void)wait_for_socket(peer, result, "handshake");
    }
}

static void try_next_address(struct peer *peer, int error);

/* Starts to connect to peer->address. */
static int try_address(struct peer *peer) {
    peer->fd = socket(peer->address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (peer->fd < 0) return errno;
    if (!begin_socket(peer)) return ENOMEM;
    if (connect(peer->fd, peer->address->ai_addr, peer->address->ai_addrlen) != 0 && errno != EINPROGRESS) return errno;
    return event_add(peer->writable, NULL) == 0 ? 0 : ENOMEM;
}

static void try_next_address(struct peer *peer, int error) {
    do {
        if (peer->readable) event_free(peer->readable);
        if (peer->writable) event_free(peer->writable);
        peer->readable = peer->writable = NULL;
        if (peer->fd >= 0) (void)close(peer->fd);
        peer->fd = -1;
        peer->address = error ? peer->address->ai_next : peer->addresses;
        if (!peer->address) {
            link_failed_os(peer, "cannot connect", error);
            return;
        }
        error = try_address(peer);
    } while (error);
}

static void connect_done(struct peer *peer) {
    int error = 0;
    socklen_t length = sizeof error;
    if (getsockopt(peer->fd, SOL_SOCKET, SO_ERROR, &error, &length) != 0) error = errno;
    if (error) {
        try_next_address(peer, error);
        return;
    }
    freeaddrinfo(peer->addresses);
    peer->addresses = peer->address = NULL;
    begin_handshake(peer);
    if (peer->state == HANDSHAKE) continue_handshake(peer);
}

static void resolve_done(void *context, struct addrinfo *found, const char *why) {
    struct peer *peer = context;
    peer->resolve = NULL;
    if (!found) {
        char text[LS_ERROR_TEXT_MAX];
        (void)snprintf(text, sizeof text, "cannot look up the host: %s", why);
        link_failed(peer, text);
        return;
    }
    peer->addresses = found;
    peer->state = CONNECTING;
    try_next_address(peer, 0);
}

/* ------------------------------------------------------------------ events */

/* Every event handler ends here: a peer that was freed inside a callback goes now. */
static void leave(struct peer *peer) {
    if (peer->freed && peer->callback_depth == 0) destroy(peer);
}

static void on_readable(evutil_socket_t fd, short what, void *arg) {
    struct peer *peer = arg;
    (void)fd, (void)what;
    if (peer->state == HANDSHAKE) {
        continue_handshake(peer);
    } else if (peer->state == OPEN) {
        read_input(peer);
        /* A write may have waited for input (a key update). */
        if (peer->state == OPEN && !peer->freed) flush_output(peer);
    } else if (peer->state == DRAINING) {
        skip_records(peer);
        drain(peer);
    } else if (peer->state == LINGERING) {
        discard_input(peer);
    }
    leave(peer);
}

static void on_writable(evutil_socket_t fd, short what, void *arg) {
    struct peer *peer = arg;
    (void)fd, (void)what;
    if (peer->state == CONNECTING) {
        connect_done(peer);
    } else if (peer->state == HANDSHAKE) {
        continue_handshake(peer);
    } else if (peer->state == OPEN) {
        flush_output(peer);
    } else if (peer->state == DRAINING) {
        drain(peer);
    }
    leave(peer);
}

/* The end of a turn of the loop: what was sent meanwhile leaves together; or the link has failed and that is said now.
 */
static void on_turn(evutil_socket_t fd, short what, void *arg) {
    struct peer *peer = arg;
    (void)fd, (void)what;
    if (peer->state == OPEN) {
        flush_output(peer);
    } else if (peer->state == DRAINING) {
        drain(peer);
    } else if (peer->state == FAILED) {
        peer->callback_depth++;
        peer->callbacks->on_closed(peer->context, peer, peer->reason);
        peer->callback_depth--;
        peer->freed = true;
    }
    leave(peer);
}

static void on_timer(evutil_socket_t fd, short what, void *arg) {
    struct peer *peer = arg;
    (void)fd, (void)what;
    if (peer->state != OPEN) {
        char text[64];
        (void)snprintf(text, sizeof text, "%s after %u ms",
                       peer->state == HANDSHAKE ? "no TLS handshake" : "no connection", peer->handshake_ms);
        link_failed(peer, text); /* keeps an earlier reason: that of peer_close() */
        leave(peer);
        return;
    }
    /* Whoever was stopped for a while (a debugger, a suspended machine) first reads what came meanwhile. */
    read_input(peer);
    if (!peer->freed && peer->state == OPEN) {
        uint64_t now = daemon_now_us();
        if (now - peer->heard_us >= (uint64_t)peer->dead_ms * 1000) {
            char text[64];
            (void)snprintf(text, sizeof text, "nothing heard for %u ms", peer->dead_ms);
            link_failed(peer, text);
        } else {
            uint64_t quiet_ms = (now - peer->sent_us) / 1000;
            if (quiet_ms >= peer->ping_ms) send_ping(peer);
            if (peer->state == OPEN)
                arm_timer(peer, quiet_ms >= peer->ping_ms ? peer->ping_ms : peer->ping_ms - quiet_ms);
        }
    }
    leave(peer);
}

/* ------------------------------------------------------------------ making one */

static struct peer *new_peer(struct event_base *base, SSL_CTX *tls, evutil_socket_t fd,
                             const struct peer_callbacks *callbacks, void *context) {
    struct peer *peer = calloc(1, sizeof *peer);
    if (!peer) return NULL;
    peer->base = base;
    peer->tls = tls;
    peer->fd = fd;
    peer->callbacks = callbacks;
    peer->context = context;
    peer->ping_ms = LS_PING_INTERVAL_MS;
    peer->dead_ms = LS_PEER_DEAD_MS;
    peer->handshake_ms = PEER_HANDSHAKE_MS;
    peer->turn = event_new(base, -1, 0, on_turn, peer);
    peer->timer = evtimer_new(base, on_timer, peer);
    if (!peer->turn || !peer->timer) {
        destroy(peer);
        return NULL;
    }
    arm_timer(peer, PEER_HANDSHAKE_MS);
    return peer;
}

enum ls_status peer_accept(struct event_base *base, SSL_CTX *tls, evutil_socket_t fd,
                           const struct peer_callbacks *callbacks, void *context, struct peer **ret_peer,
                           struct ls_error *err) {
    struct peer *peer = evutil_make_socket_nonblocking(fd) == 0 ? new_peer(base, tls, fd, callbacks, context) : NULL;
    if (!peer) {
        (void)close(fd);
        return ls_fail(err, LS_ERR_NOMEM, "out of memory for a link");
    }
    if (!begin_socket(peer)) {
        destroy(peer);
        return ls_fail(err, LS_ERR_NOMEM, "out of memory for a link");
    }
    begin_handshake(peer);
    *ret_peer = peer;
    return LS_OK;
}

enum ls_status peer_dial(struct event_base *base, SSL_CTX *tls, const char *address,
                         const struct peer_callbacks *callbacks, void *context, struct peer **ret_peer,
                         struct ls_error *err) {
    char host[ADDRESS_HOST_MAX + 1], port[ADDRESS_PORT_MAX + 1];
    const struct addrinfo numeric = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    if (address_split(address, host, port) != LS_OK)
        return ls_fail(err, LS_ERR_INVALID, "`%s` is not host:port", address);
    struct peer *peer = new_peer(base, tls, -1, callbacks, context);
    if (!peer) return ls_fail(err, LS_ERR_NOMEM, "out of memory for a link");
    peer->dialled = true;
    struct addrinfo *found;
    if (getaddrinfo(host, port, &numeric, &found) == 0) {
        resolve_done(peer, found, "");
    } else {
        enum ls_status status = resolve_start(base, host, port, resolve_done, peer, &peer->resolve, err);
        if (status != LS_OK) {
            destroy(peer);
            return status;
        }
    }
    *ret_peer = peer;
    return LS_OK;
}

void peer_free(struct peer *peer) {
    if (!peer || peer->freed) return;
    peer->freed = true;
    stop_io(peer);
    leave(peer);
}

void peer_set_timing(struct peer *peer, uint32_t ping_ms, uint32_t dead_ms, uint32_t handshake_ms) {
    peer->ping_ms = ping_ms;
    peer->dead_ms = dead_ms;
    peer->handshake_ms = handshake_ms;
    if (peer->state == OPEN) arm_timer(peer, ping_ms);
    if (peer->state < OPEN) arm_timer(peer, handshake_ms);
}

const struct tls_identity *peer_identity(const struct peer *peer) {
    return peer->identified ? &peer->identity : NULL;
}

const char *peer_address(const struct peer *peer) {
    return peer->address_text;
}

size_t peer_pending(const struct peer *peer) {
    return buffer_used(&peer->out);
}
