/*
 * web.h: HTTP requests that lockstepd itself makes: calls of sagas (saga_call.h) and alerts (alert.h). libcurl's multi
 * interface on the host's event loop: nothing blocks, and one service that hangs holds up no other.
 *
 * web_renew() makes a new set of connections, which read their certificates' files anew; what is under way ends on the
 * old one.
 *
 * What is never done: waiting for a name that is being looked up when its request is over, following a redirect, using
 * a proxy of the environment, speaking anything but HTTP(S), accepting a certificate that does not verify, keeping more
 * of an answer than `answer_max`, waiting longer than `timeout_ms`.
 */
#ifndef LOCKSTEP_WEB_H
#define LOCKSTEP_WEB_H

#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lockstep/status.h"

#define WEB_HEADERS_MAX 8u
#define WEB_HEAD_BYTES_MAX (64u << 10) /* of all headers of an answer */

struct web;
struct web_call;

struct web_request {
    const char *url;
    const char *headers[WEB_HEADERS_MAX]; /* "Name: value"; the first NULL ends them */
    const char *body;
    size_t length, answer_max;
    uint64_t timeout_ms;
    const char *ca, *certificate, *key; /* PEM files; NULL: the system's authorities, no certificate */
    bool fresh; /* on a connection of its own: on a kept one that is just being closed libcurl may send it twice */
};

struct web_answer {
    int status;     /* 0: there is none */
    bool whole;     /* all of the body came, and `body` has it */
    bool too_large; /* of body or headers */
    bool unreached; /* nobody was there: nothing was sent */
    bool retry;     /* headers: Retry-After, or Lockstep-Retry: 1 */
    bool refused;   /* Lockstep-Refused: 1 */
    const char *body;
    size_t length;
    const char *error; /* why it is not whole */
};

/* Valid during the call only. From the event loop, never from inside of web_post() or web_cancel(). */
typedef void web_done(void *context, const struct web_answer *answer);

/* `connections`: to one host and port at once; more requests wait, and their time runs. */
enum ls_status web_new(struct event_base *base, uint32_t connections, struct web **ret_web,
                       struct ls_error *err) LS_MUST_CHECK;
/* From now on files are read anew and connections made anew. LS_ERR_NOMEM: everything stays as it was. */
enum ls_status web_renew(struct web *web, struct ls_error *err) LS_MUST_CHECK;
/* Requests under way are dropped; nobody hears of them. */
void web_free(struct web *web);
/* A POST. Everything is copied. NULL when memory is short. */
struct web_call *web_post(struct web *web, const struct web_request *request, web_done *done, void *context);
/* `done` is not called any more. */
void web_cancel(struct web_call *call);

/* Is this an address that we would call: http or https, a host, no user, no fragment, a query only if that is allowed?
 */
bool web_url_valid(const char *url, bool query);

#endif
