/*
 * test_peer.c: the link between coordinator and agent, both ends real, over loopback TCP with TLS. What would be seen
 * if it were wrong: frames out of order or lost, a dead link that nobody notices, a refusal that arrives as "connection
 * reset", memory without bound, a crash when a callback frees its link.
 */
#include "tests/unit/unit.h"

#include <arpa/inet.h>
#include <event2/listener.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/daemon.h"
#include "common/peer.h"
#include "tests/unit/certs.h"

static struct ls_error err;
static struct certs_ca *ca;
static SSL_CTX *server_tls, *client_tls, *expired_tls;

static SSL_CTX *context_for(bool server, const char *name, const struct certs_spec *spec) {
    struct certs_files files;
    SSL_CTX *context;
    certs_issue(ca, name, spec, &files);
    enum ls_status status =
        server ? tls_server_context(&files.files, &context, &err) : tls_client_context(&files.files, &context, &err);
    if (status != LS_OK) {
        (void)fprintf(stderr, "%s\n", err.text);
        abort();
    }
    return context;
}

static int make_all(void **state) {
    (void)state;
    (void)signal(SIGPIPE, SIG_IGN);
    ca = certs_ca_new();
    server_tls = context_for(true, "shop", &(struct certs_spec){.uris = {"lockstep://coordinator/shop"}});
    client_tls = context_for(false, "orders", &(struct certs_spec){.uris = {"lockstep://agent/orders"}});
    expired_tls = context_for(
        false, "expired", &(struct certs_spec){.uris = {"lockstep://agent/orders"}, .begins_s = -7200, .ends_s = -60});
    return 0;
}

static int free_all(void **state) {
    (void)state;
    SSL_CTX_free(server_tls);
    SSL_CTX_free(client_tls);
    SSL_CTX_free(expired_tls);
    certs_ca_free(ca);
    return 0;
}

/* One end and what it has seen. */
struct end {
    struct peer *peer;
    unsigned opens, closes, pings, pongs;
    uint64_t frames, sum;
    uint32_t next_credit; /* Credit frames must come in this order */
    bool disorder;
    char reason[LS_ERROR_TEXT_MAX], identity[LS_IDENTITY_MAX + 1], last_error[64];
    bool free_on_open, free_on_frame, free_on_close, close_on_open;
};

struct world {
    struct event_base *base, *other_base;
    struct evconnlistener *listener;
    int port;
    char address[DAEMON_ADDRESS_MAX];
    struct end server, client;
    bool fenced_pings, fenced_pongs;
};
static struct world w;

static void on_open(void *context, struct peer *peer, const struct tls_identity *identity) {
    struct end *end = context;
    assert_ptr_equal(peer, end->peer);
    end->opens++;
    (void)snprintf(end->identity, sizeof end->identity, "%s", identity->name);
    assert_string_equal(peer_identity(peer)->name, identity->name);
    if (end->close_on_open) peer_close(peer, "not welcome", true);
    if (end->free_on_open) {
        peer_free(peer);
        end->peer = NULL;
    }
}

static void on_frame(void *context, struct peer *peer, const Lockstep__Frame *frame) {
    struct end *end = context;
    assert_ptr_equal(peer, end->peer);
    if (frame->body_case == LOCKSTEP__FRAME__BODY_PING) {
        end->pings++;
        if (frame->fence && frame->fence->position == 4711) w.fenced_pings = true;
        return;
    }
    if (frame->body_case == LOCKSTEP__FRAME__BODY_PONG) {
        end->pongs++;
        if (frame->fence && frame->fence->position == 4711) w.fenced_pongs = true;
        return;
    }
    end->frames++;
    if (frame->body_case == LOCKSTEP__FRAME__BODY_CREDIT) {
        if (frame->credit->credits != end->next_credit++) end->disorder = true;
    } else if (frame->body_case == LOCKSTEP__FRAME__BODY_REFUSE) {
        for (const char *c = frame->refuse->reason; *c; c++) end->sum = end->sum * 31 + (unsigned char)*c;
    }
    if (end->free_on_frame) {
        peer_free(peer);
        end->peer = NULL;
    }
}

static void on_closed(void *context, struct peer *peer, const char *reason) {
    struct end *end = context;
    assert_ptr_equal(peer, end->peer);
    end->closes++;
    (void)snprintf(end->reason, sizeof end->reason, "%s", reason);
    end->peer = NULL;
    if (end->free_on_close) peer_free(peer);
}

static char incarnation[] = "0a1b2c3d4e5f";
static void fence(void *context, Lockstep__Fence *out) {
    (void)context;
    out->incarnation = incarnation;
    out->epoch = 1;
    out->position = 4711;
}

static const struct peer_callbacks server_callbacks = {on_open, on_frame, on_closed, fence};
static const struct peer_callbacks client_callbacks = {on_open, on_frame, on_closed, NULL};

static void on_accept(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *address, int length,
                      void *arg) {
    (void)listener, (void)address, (void)length, (void)arg;
    assert_null(w.server.peer);
    assert_ok(peer_accept(w.base, server_tls, fd, &server_callbacks, &w.server, &w.server.peer, &err));
}

static void world_begin(void) {
    int fd;
    memset(&w, 0, sizeof w);
    w.base = event_base_new();
    w.other_base = event_base_new();
    assert_ok(daemon_listen_tcp("127.0.0.1:0", &fd, w.address, &err));
    w.port = atoi(strchr(w.address, ':') + 1);
    w.listener = evconnlistener_new(w.base, on_accept, NULL, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 0, fd);
    assert_non_null(w.listener);
}

static void world_end(void) {
    peer_free(w.server.peer);
    peer_free(w.client.peer);
    peer_free(NULL);
    evconnlistener_free(w.listener);
    event_base_free(w.base);
    event_base_free(w.other_base);
}

static void dial_on(struct event_base *base, SSL_CTX *tls) {
    assert_ok(peer_dial(base, tls, w.address, &client_callbacks, &w.client, &w.client.peer, &err));
}

/* Runs both loops until the condition holds; fails with its text after 60 s. */
#define run_until(condition)                                                   \
    do {                                                                       \
        uint64_t give_up_ = daemon_now_us() + 60000000;                        \
        while (!(condition)) {                                                 \
            if (daemon_now_us() > give_up_) fail_msg("never: %s", #condition); \
            (void)event_base_loop(w.base, EVLOOP_NONBLOCK);                    \
            (void)event_base_loop(w.other_base, EVLOOP_NONBLOCK);              \
        }                                                                      \
    } while (0)

static void connect_both(void) {
    dial_on(w.base, client_tls);
    run_until(w.server.opens == 1 && w.client.opens == 1);
}

static enum ls_status send_credit(struct end *end, uint32_t number) {
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    Lockstep__Credit credit = LOCKSTEP__CREDIT__INIT;
    credit.credits = number;
    frame.body_case = LOCKSTEP__FRAME__BODY_CREDIT;
    frame.credit = &credit;
    return peer_send(end->peer, &frame);
}

static enum ls_status send_text(struct end *end, char *text) {
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    Lockstep__Refuse refuse = LOCKSTEP__REFUSE__INIT;
    refuse.reason = text;
    frame.body_case = LOCKSTEP__FRAME__BODY_REFUSE;
    frame.refuse = &refuse;
    return peer_send(end->peer, &frame);
}

static void opens(void **state) {
    (void)state;
    world_begin();
    dial_on(w.base, client_tls);
    assert_null(peer_identity(w.client.peer));
    run_until(w.server.opens == 1 && w.client.opens == 1);
    assert_string_equal(w.server.identity, "orders");
    assert_string_equal(w.client.identity, "shop");
    assert_string_equal(peer_address(w.client.peer), w.address);
    assert_int_equal(strncmp(peer_address(w.server.peer), "127.0.0.1:", 10), 0);
    world_end();
}

/* 20,000 small frames each way, and large ones of every awkward size among them. */
static void many_frames(void **state) {
    static const size_t sizes[] = {0, 1, 1000, 16383, 16384, 16385, 65535, 65536, 65537, 131072, 500000, 1048000};
    uint64_t sum = 0;
    (void)state;
    world_begin();
    connect_both();
    char *text = malloc(LS_FRAME_MAX + 1);
    assert_non_null(text);
    for (uint32_t i = 0; i < 20000; i++) {
        assert_ok(send_credit(&w.client, i));
        assert_ok(send_credit(&w.server, i));
        if (i % 1000 == 0 && i / 1000 < sizeof sizes / sizeof *sizes) {
            size_t size = sizes[i / 1000];
            for (size_t j = 0; j < size; j++) text[j] = (char)('a' + (i + j) % 26);
            text[size] = '\0';
            for (size_t j = 0; j < size; j++) sum = sum * 31 + (unsigned char)text[j];
            assert_ok(send_text(&w.client, text));
            assert_ok(send_text(&w.server, text));
        }
        if (i % 500 == 0) (void)event_base_loop(w.base, EVLOOP_NONBLOCK);
    }
    const uint64_t frames = 20000 + sizeof sizes / sizeof *sizes;
    run_until(w.server.frames == frames && w.client.frames == frames);
    assert_false(w.server.disorder || w.client.disorder);
    assert_true(w.server.sum == sum && w.client.sum == sum);
    assert_int_equal(peer_pending(w.client.peer), 0);
    assert_int_equal(w.server.closes + w.client.closes, 0);
    free(text);
    world_end();
}

/* What is sent within one batch of events waits for its end, unless peer_flush() says otherwise. */
static void batches(void **state) {
    (void)state;
    world_begin();
    connect_both();
    assert_ok(send_credit(&w.client, 0));
    size_t one = peer_pending(w.client.peer);
    assert_true(one > 0);
    assert_ok(send_credit(&w.client, 1));
    assert_ok(send_credit(&w.client, 2));
    assert_true(peer_pending(w.client.peer) > 2 * one);
    (void)event_base_loop(w.base, EVLOOP_NONBLOCK);
    assert_int_equal(peer_pending(w.client.peer), 0);
    assert_ok(send_credit(&w.client, 3));
    peer_flush(w.client.peer);
    assert_int_equal(peer_pending(w.client.peer), 0);
    run_until(w.server.frames == 4);
    world_end();
}

static void too_large(void **state) {
    (void)state;
    world_begin();
    connect_both();
    char *text = malloc(LS_FRAME_MAX + 1);
    assert_non_null(text);
    memset(text, 'x', LS_FRAME_MAX);
    text[LS_FRAME_MAX] = '\0';
    assert_int_equal(send_text(&w.client, text), LS_ERR_TOO_LARGE);
    assert_ok(send_credit(&w.client, 0)); /* the link goes on */
    run_until(w.server.frames == 1);
    free(text);
    world_end();
}

static void closes_in_order(void **state) {
    (void)state;
    world_begin();
    connect_both();
    for (uint32_t i = 0; i < 100; i++) assert_ok(send_credit(&w.client, i));
    peer_close(w.client.peer, "going\nhome", true);
    assert_int_equal(w.client.closes, 0);   /* from the loop only */
    assert_ok(send_credit(&w.client, 100)); /* dropped */
    peer_close(w.client.peer, "again", true);
    run_until(w.server.closes == 1 && w.client.closes == 1);
    assert_int_equal(w.server.frames, 100); /* what was sent before got across */
    assert_string_equal(w.server.reason, "the other side says: going home");
    assert_string_equal(w.client.reason, "going home");
    world_end();

    world_begin();
    connect_both();
    peer_close(w.server.peer, "quietly", false);
    run_until(w.server.closes == 1 && w.client.closes == 1);
    assert_string_equal(w.client.reason, "closed by the other side");
    assert_string_equal(w.server.reason, "quietly");
    world_end();
}

/* The other side never reads and never closes: the link ends all the same. */
static void closes_alone(void **state) {
    (void)state;
    world_begin();
    dial_on(w.other_base, client_tls);
    run_until(w.server.opens == 1 && w.client.opens == 1);
    uint64_t begin = daemon_now_us();
    peer_close(w.server.peer, "enough", true);
    while (w.server.closes == 0 && daemon_now_us() - begin < 10000000) (void)event_base_loop(w.base, EVLOOP_ONCE);
    assert_int_equal(w.server.closes, 1);
    assert_string_equal(w.server.reason, "enough");
    assert_true(daemon_now_us() - begin >= PEER_LINGER_MS * 1000u - 10000);
    world_end();
}

static void refused_certificate(void **state) {
    (void)state;
    world_begin();
    dial_on(w.base, expired_tls);
    run_until(w.server.closes == 1 && w.client.closes == 1);
    assert_int_equal(w.server.opens, 0);
    assert_string_equal(w.server.reason, "certificate refused: certificate has expired");
    assert_string_equal(w.client.reason, "the other side says: certificate refused: certificate has expired");
    world_end();

    world_begin(); /* good certificate, unwelcome all the same */
    w.server.close_on_open = true;
    dial_on(w.base, client_tls);
    run_until(w.server.closes == 1 && w.client.closes == 1);
    assert_string_equal(w.client.reason, "the other side says: not welcome");
    world_end();
}

static void pings_keep_alive(void **state) {
    (void)state;
    world_begin();
    connect_both();
    peer_set_timing(w.server.peer, 20, 2000, 5000);
    peer_set_timing(w.client.peer, 20, 2000, 5000);
    run_until(w.server.pings >= 150 && w.client.pings >= 150); /* 3 s: longer than the silence that ends a link */
    assert_int_equal(w.server.closes + w.client.closes, 0);
    assert_true(w.fenced_pings);

    /* Only one of them is quiet for so long: what the other hears is Pong. */
    peer_set_timing(w.server.peer, 100000, 2000, 5000);
    unsigned pings = w.client.pings, pongs = w.client.pongs;
    run_until(w.client.pongs >= pongs + 50);
    assert_true(w.client.pings <= pings + 1);
    assert_true(w.fenced_pongs);
    world_end();
}

static void silence_is_death(void **state) {
    (void)state;
    world_begin();
    dial_on(w.other_base, client_tls);
    run_until(w.server.opens == 1 && w.client.opens == 1);
    peer_set_timing(w.server.peer, 20, 150, 5000);
    uint64_t begin = daemon_now_us();
    while (w.server.closes == 0 && daemon_now_us() - begin < 10000000) (void)event_base_loop(w.base, EVLOOP_ONCE);
    assert_int_equal(w.server.closes, 1);
    assert_string_equal(w.server.reason, "nothing heard for 150 ms");
    assert_true(daemon_now_us() - begin >= 100000);
    world_end();
}

/* Our own loop stood still for longer than the limit; what came meanwhile counts. */
static void own_pause_is_not_death(void **state) {
    (void)state;
    world_begin();
    dial_on(w.other_base, client_tls);
    run_until(w.server.opens == 1 && w.client.opens == 1);
    peer_set_timing(w.server.peer, 50, 150, 5000);
    peer_set_timing(w.client.peer, 20, 60000, 5000);
    uint64_t until = daemon_now_us() + 300000;
    while (daemon_now_us() < until)
        (void)event_base_loop(w.other_base, EVLOOP_NONBLOCK); /* the client pings, the server stands */
    uint64_t pings = w.server.pings;
    run_until(w.server.pings > pings + 3);
    assert_int_equal(w.server.closes, 0);
    world_end();
}

static int raw_connect(void) {
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)w.port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

/* Hands over at most `most` bytes of what waits at `from`. */
static void forward(int from, int to, size_t most) {
    char bytes[65536];
    ssize_t got = recv(from, bytes, most < sizeof bytes ? most : sizeof bytes, MSG_DONTWAIT);
    if (got > 0) assert_int_equal(send(to, bytes, (size_t)got, 0), got);
}

/* Over a slow line a TLS record may need longer than a link may be silent; no byte of it can be read before the last
 * has come, and that is no silence. */
static void slow_record(void **state) {
    enum { DEAD_MS = 1000, RECORD_MS = 2500 };
    static char text[16000 + 1];
    char address[DAEMON_ADDRESS_MAX];
    int listener;
    (void)state;
    world_begin();
    assert_ok(daemon_listen_tcp("127.0.0.1:0", &listener, address, &err));
    assert_ok(peer_dial(w.base, client_tls, address, &client_callbacks, &w.client, &w.client.peer, &err));
    struct pollfd arrival = {.fd = listener, .events = POLLIN};
    assert_int_equal(poll(&arrival, 1, 60000), 1);
    int near = accept(listener, NULL, NULL), far = raw_connect();
    uint64_t begin = daemon_now_us(), handed = 0;
    while (w.server.opens == 0 || w.client.opens == 0) {
        assert_true(daemon_now_us() - begin < 60000000);
        forward(near, far, SIZE_MAX);
        forward(far, near, SIZE_MAX);
        (void)event_base_loop(w.base, EVLOOP_NONBLOCK);
    }
    peer_set_timing(w.client.peer, 100, DEAD_MS, 5000);
    peer_set_timing(w.server.peer, 100, 60000, 5000);
    memset(text, 'x', sizeof text - 1);
    assert_ok(send_text(&w.server, text));
    begin = daemon_now_us();
    while (w.client.frames == 0 && w.client.closes == 0) {
        uint64_t due = (daemon_now_us() - begin) * sizeof text / (RECORD_MS * 1000);
        forward(near, far, SIZE_MAX);
        if (due > handed) forward(far, near, due - handed);
        handed = due;
        (void)event_base_loop(w.base, EVLOOP_NONBLOCK);
    }
    assert_string_equal(w.client.reason, "");
    assert_int_equal(w.client.frames, 1);
    world_end();
    (void)close(near);
    (void)close(far);
    (void)close(listener);
}

static void no_handshake(void **state) {
    static const char request[] = "GET / HTTP/1.1\r\n\r\n";
    (void)state;
    world_begin();
    int fd = raw_connect();
    assert_int_equal(send(fd, request, sizeof request - 1, 0), (int)sizeof request - 1);
    run_until(w.server.closes == 1);
    assert_string_equal(w.server.reason, "handshake: TLS: http request");
    close(fd);

    fd = raw_connect(); /* silent */
    run_until(w.server.peer != NULL);
    peer_set_timing(w.server.peer, 1000, 5000, 50);
    run_until(w.server.closes == 2);
    assert_string_equal(w.server.reason, "no TLS handshake after 50 ms");
    close(fd);

    fd = raw_connect();
    close(fd);
    run_until(w.server.closes == 3);
    assert_string_equal(w.server.reason, "closed by the other side during the handshake");
    assert_int_equal(w.server.opens, 0);
    world_end();
}

/* A TLS client that writes what it likes. */
static void raw_bytes(const void *bytes, size_t length, const char *reason) {
    world_begin();
    int fd = raw_connect();
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    SSL *ssl = SSL_new(client_tls);
    assert_int_equal(SSL_set_fd(ssl, fd), 1);
    SSL_set_connect_state(ssl);
    run_until(SSL_do_handshake(ssl) == 1);
    run_until(w.server.opens == 1);
    assert_int_equal(SSL_write(ssl, bytes, (int)length), (int)length);
    /* the refusal is told before the link ends */
    uint8_t answer[512];
    size_t got = 0;
    int n = 0;
    run_until((n = SSL_read(ssl, answer + got, (int)(sizeof answer - got))) > 0 ||
              SSL_get_shutdown(ssl) == SSL_RECEIVED_SHUTDOWN);
    assert_true(n > 0);
    got = (size_t)n;
    Lockstep__Frame *frame;
    assert_ok(frame_decode(answer, got, &frame, &err));
    assert_int_equal(frame->body_case, LOCKSTEP__FRAME__BODY_ERROR);
    assert_string_equal(frame->error->text, reason);
    lockstep__frame__free_unpacked(frame, NULL);
    SSL_free(ssl);
    close(fd);
    run_until(w.server.closes == 1);
    assert_string_equal(w.server.reason, reason);
    world_end();
}

static void garbage(void **state) {
    (void)state;
    raw_bytes("\xff\xff\xff\xff", 4, "frame of 4294967295 bytes, the limit is 1048576");
    raw_bytes("\0\0\0\0", 4, "frame has no body of a kind known here");
    raw_bytes("\0\0\0\x02zz", 6, "frame is no message of this protocol");
}

static void dial_failures(void **state) {
    struct peer *none = NULL;
    (void)state;
    world_begin();
    assert_fails(peer_dial(w.base, client_tls, "nowhere", &client_callbacks, &w.client, &none, &err), LS_ERR_INVALID,
                 "`nowhere` is not host:port");
    assert_null(none);
    evconnlistener_free(w.listener); /* nobody listens there any more */
    w.listener = NULL;
    dial_on(w.base, client_tls);
    assert_int_equal(w.client.closes, 0); /* from the loop only */
    run_until(w.client.closes == 1);
    assert_string_equal(w.client.reason, "cannot connect: Connection refused");
    assert_ok(peer_dial(w.base, client_tls, "host.invalid:1", &client_callbacks, &w.client, &w.client.peer, &err));
    run_until(w.client.closes == 2);
    assert_int_equal(strncmp(w.client.reason, "cannot look up the host: ", 25), 0);
    /* freed while the look-up is under way */
    assert_ok(peer_dial(w.base, client_tls, "host.invalid:1", &client_callbacks, &w.client, &w.client.peer, &err));
    peer_free(w.client.peer);
    w.client.peer = NULL;
    event_base_free(w.base);
    event_base_free(w.other_base);
}

/* By name, which may stand for ::1 first, where nobody listens. */
static void dial_by_name(void **state) {
    char address[64];
    (void)state;
    world_begin();
    (void)snprintf(address, sizeof address, "localhost:%d", w.port);
    assert_ok(peer_dial(w.base, client_tls, address, &client_callbacks, &w.client, &w.client.peer, &err));
    run_until(w.server.opens == 1 && w.client.opens == 1);
    assert_string_equal(peer_address(w.client.peer), w.address);
    world_end();
}

static void frees_in_callbacks(void **state) {
    (void)state;
    world_begin();
    w.server.free_on_open = true;
    dial_on(w.base, client_tls);
    run_until(w.client.closes == 1);
    assert_int_equal(w.server.closes, 0); /* never after peer_free */
    world_end();

    world_begin();
    connect_both();
    w.server.free_on_frame = true;
    for (uint32_t i = 0; i < 100; i++) assert_ok(send_credit(&w.client, i));
    run_until(w.client.closes == 1);
    assert_int_equal(w.server.frames, 1); /* nothing after it */
    assert_int_equal(w.server.closes, 0);
    world_end();

    world_begin();
    connect_both();
    w.server.free_on_close = w.client.free_on_close = true;
    peer_close(w.client.peer, "bye", true);
    run_until(w.client.closes == 1 && w.server.closes == 1);
    world_end();
}

/* A peer that does not read costs PEER_OUTPUT_MAX, then it is closed. */
static void bounded_output(void **state) {
    (void)state;
    world_begin();
    dial_on(w.other_base, client_tls);
    run_until(w.server.opens == 1 && w.client.opens == 1);
    peer_set_timing(w.server.peer, 1000, 60000, 5000); /* however slow the machine is, this is not about silence */
    char *text = malloc(1000001);
    assert_non_null(text);
    memset(text, 'x', 1000000);
    text[1000000] = '\0';
    size_t most = 0;
    for (int i = 0; i < 400 && w.server.closes == 0; i++) {
        assert_ok(send_text(&w.server, text));
        if (peer_pending(w.server.peer) > most) most = peer_pending(w.server.peer);
        (void)event_base_loop(w.base, EVLOOP_NONBLOCK);
    }
    assert_int_equal(w.server.closes, 1);
    assert_string_equal(w.server.reason, "the other side does not read what it is sent");
    assert_true(most <= PEER_OUTPUT_MAX && most > PEER_OUTPUT_MAX - 2000000);
    free(text);
    world_end();
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(opens),
                                       cmocka_unit_test(many_frames),
                                       cmocka_unit_test(batches),
                                       cmocka_unit_test(too_large),
                                       cmocka_unit_test(closes_in_order),
                                       cmocka_unit_test(closes_alone),
                                       cmocka_unit_test(refused_certificate),
                                       cmocka_unit_test(pings_keep_alive),
                                       cmocka_unit_test(silence_is_death),
                                       cmocka_unit_test(own_pause_is_not_death),
                                       cmocka_unit_test(slow_record),
                                       cmocka_unit_test(no_handshake),
                                       cmocka_unit_test(garbage),
                                       cmocka_unit_test(dial_failures),
                                       cmocka_unit_test(dial_by_name),
                                       cmocka_unit_test(frees_in_callbacks),
                                       cmocka_unit_test(bounded_output)};
    return cmocka_run_group_tests(tests, make_all, free_all);
}
