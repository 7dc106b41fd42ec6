/*
 * peer.h: one end of a link between coordinator and agent: frames over mutual TLS on a non-blocking socket in a
 * libevent loop.
 *
 * Owns the socket, the TLS session, both buffers and the timers of the link: connecting and handshake
 * (PEER_HANDSHAKE_MS), a ping whenever nothing was sent for LS_PING_INTERVAL_MS, dead after LS_PEER_DEAD_MS of silence.
 * Frames sent while one batch of events is handled leave in one write. It knows nothing of transactions and does not
 * log.
 *
 * Callbacks come from the loop only, never from inside peer_accept(), peer_dial(), peer_send() or peer_close(). From
 * any of them every function of this header may be called, peer_free() included.
 *
 * Life:  peer_accept/peer_dial -> on_open -> on_frame* -> on_closed (exactly once, unless peer_free came before);
 * on_open is left out when the handshake fails or the certificate is refused (which the other side is told by an Error
 * frame).
 *
 * The process must ignore SIGPIPE (daemon_harden does).
 * Memory: input is bounded by one frame, output by PEER_OUTPUT_MAX; a peer that does not read so much is closed.
 */
#ifndef LOCKSTEP_PEER_H
#define LOCKSTEP_PEER_H

#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/frame.h"
#include "common/tls.h"

#define PEER_HANDSHAKE_MS 5000u      /* from accept or dial to the end of the handshake */
#define PEER_LINGER_MS 1000u         /* after peer_close: to get the last frames across */
#define PEER_OUTPUT_MAX (128u << 20) /* bytes encoded and not yet taken by the socket */

struct peer;

struct peer_callbacks {
    /* The handshake is done and the certificate is good. Whether this role and name may talk here is the callback's to
     * say (peer_close with the reason if not). */
    void (*on_open)(void *context, struct peer *peer, const struct tls_identity *identity);
    /* A checked frame, freed when the callback returns. Pings and Pongs come too: they carry the coordinator's fence, and
     * an idle link may carry nothing but the one or the other. Pings are answered already. Errors do not come. */
    void (*on_frame)(void *context, struct peer *peer, const Lockstep__Frame *frame);
    /* The link is gone; the peer is freed when this returns. `reason`: one line for the log. */
    void (*on_closed)(void *context, struct peer *peer, const char *reason);
    /* NULL on the agent's side. Fills the fence of frames that the link sends by itself (Ping, Pong, Error). Strings
     * are borrowed until the next call. */
    void (*fence)(void *context, Lockstep__Fence *fence);
};

/* Takes over an accepted socket (also on failure, when it is closed). The context must outlive the peer. */
enum ls_status peer_accept(struct event_base *base, SSL_CTX *tls, evutil_socket_t fd,
                           const struct peer_callbacks *callbacks, void *context, struct peer **ret_peer,
                           struct ls_error *err) LS_MUST_CHECK;
/* Starts to connect to "host:port". What goes wrong after that comes as on_closed. LS_ERR_INVALID: not host:port. */
enum ls_status peer_dial(struct event_base *base, SSL_CTX *tls, const char *address,
                         const struct peer_callbacks *callbacks, void *context, struct peer **ret_peer,
                         struct ls_error *err) LS_MUST_CHECK;
/* Encodes the frame now and sends it at the end of this batch of events. LS_ERR_TOO_LARGE: not sent, the link goes on.
 * On a link that is closing it is dropped (LS_OK: on_closed says it). */
enum ls_status peer_send(struct peer *peer, const Lockstep__Frame *frame) LS_MUST_CHECK;
/* Sends what is buffered now instead of at the end of the batch, as far as the socket takes it: for crash points that
 * say "sent". */
void peer_flush(struct peer *peer);
/* Ends the link in order: what was sent goes out, then an Error frame with `reason` if `tell`; on_closed(reason)
 * follows. */
void peer_close(struct peer *peer, const char *reason, bool tell);
/* Ends the link at once and without on_closed. NULL is fine. */
void peer_free(struct peer *peer);

/* Other times than LS_PING_INTERVAL_MS, LS_PEER_DEAD_MS and PEER_HANDSHAKE_MS (which begins anew). For tests. */
void peer_set_timing(struct peer *peer, uint32_t ping_ms, uint32_t dead_ms, uint32_t handshake_ms);
/* NULL before on_open. */
const struct tls_identity *peer_identity(const struct peer *peer);
/* "127.0.0.1:4711", for logs; "" while not connected. */
const char *peer_address(const struct peer *peer);
/* Bytes that wait for the socket. */
size_t peer_pending(const struct peer *peer);

#endif
