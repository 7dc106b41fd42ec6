/*
 * resolve.h: getaddrinfo() without stopping the loop: the system's own resolver on a thread of its own, one look-up at
 * a time.
 */
#ifndef LOCKSTEP_RESOLVE_H
#define LOCKSTEP_RESOLVE_H

#include <event2/event.h>
#include <netdb.h>

#include "lockstep/status.h"

struct resolve;

/* `done` comes from the loop, once: with the addresses (freeaddrinfo() is the callee's) or with NULL and a text. The
 * resolve is gone when it returns. */
enum ls_status resolve_start(struct event_base *base, const char *host, const char *port,
                             void (*done)(void *context, struct addrinfo *found, const char *why), void *context,
                             struct resolve **ret_resolve, struct ls_error *err) LS_MUST_CHECK;
/* Before `done` came: it never will. NULL is fine. */
void resolve_cancel(struct resolve *resolve);

#endif
