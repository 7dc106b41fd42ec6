/*
 * acceptor.h: a listener whose accept() fails. Without a free file descriptor (EMFILE, ENFILE) or memory the connection
 * stays in the backlog and the socket stays readable: a listener that tried again at once would do nothing else any
 * more. It rests for LS_ACCEPT_REST_MS and tries again. Each failure is counted; one per listener and LS_ACCEPT_LOG_MS
 * is logged, since nobody above hears of it.
 */
#ifndef LOCKSTEP_ACCEPTOR_H
#define LOCKSTEP_ACCEPTOR_H

#include <event2/event.h>
#include <event2/listener.h>
#include <stdbool.h>
#include <stdint.h>

#include "lockstep/status.h"

struct acceptor;

/* Takes over the error callback of `listener`, which must be enabled and must live longer. `name` is for the log and
 * must live as long. */
enum ls_status acceptor_new(struct event_base *base, struct evconnlistener *listener, const char *name,
                            struct acceptor **ret_acceptor, struct ls_error *err) LS_MUST_CHECK;
/* NULL is fine. The listener stays as it is. */
void acceptor_free(struct acceptor *acceptor);
/* Its owner's own pause: it listens while neither this nor a rest holds it. */
void acceptor_hold(struct acceptor *acceptor, bool held);
/* Failures of all listeners of this process, so far. */
uint64_t acceptor_failures(void);

#endif
