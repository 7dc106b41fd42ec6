/*
 * api.h: the HTTP interface (docs/openapi.yaml) on two listeners: HTTPS with client certificates, and a Unix socket
 * whose peer credentials speak for the local administrator.
 *
 * A request that has to wait holds no thread: it is a `struct request` in a table by (epoch, sequence), answered by the
 * effect it waits for or by its own timer. A client that goes away ends its request, never its transaction.
 */
#ifndef LOCKSTEP_API_H
#define LOCKSTEP_API_H

#include <openssl/ssl.h>

#include "coordinator/core/engine.h"
#include "lockstep.pb-c.h"
#include "lockstep/status.h"

struct host;
struct api;

/* Serves the two listening sockets (taken over, also on failure). The context is held. */
enum ls_status api_new(struct host *host, int tls_fd, SSL_CTX *tls, int unix_fd, struct api **ret_api,
                       struct ls_error *err) LS_MUST_CHECK;
void api_free(struct api *api);
/* New connections use this context from now on. */
void api_set_tls(struct api *api, SSL_CTX *tls);
/* The limits of the configuration have changed. */
void api_limits_changed(struct api *api);

/* Effects of a step. */
void api_on_accepted(struct api *api, const struct engine_effect *effect);
void api_on_joined(struct api *api, const struct engine_effect *effect);
void api_on_refused(struct api *api, const struct engine_effect *effect);
void api_on_outcome(struct api *api, const struct txn *txn);
void api_on_applied(struct api *api, const struct txn *txn);
void api_on_pending(struct api *api, const struct txn *txn);

/* The state of a saga has changed, durably. */
struct saga;
void api_on_saga(struct api *api, const struct saga *saga);

/* An agent's answer to agents_ask(); it will not answer any more. */
void api_on_told(struct api *api, uint32_t participant, const Lockstep__Tell *tell);
void api_on_agent_down(struct api *api, uint32_t participant);

/* Requests that have not been answered, or whose answer has not left yet. */
unsigned api_busy(const struct api *api);

#endif
