/*
 * alert.h: calls a human: a metric always, and a webhook where `alerts.webhook` is configured. The log line is the
 * caller's.
 *
 * One alert per cause and window leaves; what comes within it is counted, and told with the next one when the window
 * ends. Alerts wait in a bounded queue and are sent one after another, again and again with backoff, until the receiver
 * has said 2xx; one that it refuses for good (4xx) is dropped after LS_ALERT_REFUSALS_MAX attempts. Nothing waits for
 * them: a receiver that is down, slow or mad costs memory for LS_ALERT_QUEUE_MAX texts. The queue goes with the
 * process; what is still wrong after a start is said again.
 *
 * Body: {"text": "...", "id", "cause", "coordinator", "gtid", "reason", "sqlstate", "step", "more", "unix_ms"};
 * receivers of Slack's kind need `text` only. With a secret: Lockstep-Timestamp: <unix seconds> and Lockstep-Signature:
 * v1=<hex of HMAC-SHA256(secret, timestamp "." body)>.
 */
#ifndef LOCKSTEP_ALERT_H
#define LOCKSTEP_ALERT_H

#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>

#include "coordinator/conf.h"
#include "coordinator/web.h"
#include "lockstep/status.h"

enum alert_cause {
    ALERT_DEAD_LETTER,   /* a saga is stuck */
    ALERT_SAGA_DEADLINE, /* one is late, and goes on since it has passed its point of no return */
    ALERT_HAZARD,        /* an outside hand, or lost WAL */
    ALERT_DEAD_EVENT,    /* a participant has dead letters of choreography */
    ALERT_IN_DOUBT,      /* decided and not applied everywhere, or not to be settled, for too long */
    ALERT_CAUSE_COUNT
};

struct alert {
    enum alert_cause cause;
    const char *text;                            /* one line for a human */
    const char *gtid, *reason, *sqlstate, *step; /* NULL or "": left out */
};

struct alerts;

/* `conf` is looked at for every alert, so that it may change. LS_ERR_CONFIG: the secret cannot be read. */
enum ls_status alerts_new(struct event_base *base, struct web *web, const struct coordinator_conf *conf,
                          struct alerts **ret_alerts, struct ls_error *err) LS_MUST_CHECK;
void alerts_free(struct alerts *alerts);
/* The configuration has changed: reads the secret again, and what waits is tried at once. */
enum ls_status alerts_reload(struct alerts *alerts, struct ls_error *err) LS_MUST_CHECK;
/* True: the first of its cause in this window. */
bool alerts_raise(struct alerts *alerts, const struct alert *alert);

struct alert_stats {
    uint64_t raised[ALERT_CAUSE_COUNT], delivered, failed, dropped, refused;
    unsigned queued;
};
void alerts_stats(const struct alerts *alerts, struct alert_stats *ret_stats);
const char *alert_cause_name(enum alert_cause cause);

#endif
