/*
 * relay.h: the pure core of the relay: events of one participant to the agents that subscribe to them, and what arrives
 * here to its handlers.
 *
 * Like the agent's core: relay_step() reads one event, which carries the time, and appends effects. It knows positions
 * and names; what an event says is the host's, lent by pointer.
 *
 * Sending.   claim (the database gives positions to what has become visible), then per subscriber, one page at a time:
 * read behind what it has acknowledged, send, wait for its acknowledgement, store that. What was sent and not
 * acknowledged is sent again: the receiver's inbox makes it harmless. An acknowledgement that is not stored is repeated
 * by the same way. Receiving. one page of each source at a time, in order: inbox row, handler and follow-up events are
 * one transaction of the host. A handler that fails is parked, with its key behind it, and the page goes on. So is one
 * whose answer is lost: parking waits for that transaction's inbox row, so it finds what was done after all, and counts
 * what was not. What cannot even be parked is tried again before anything behind it. Acknowledged is what stands in the
 * inbox, whatever became of it. Retrying.  parked events, the first of each key, when they are due; after attempts_max
 * they are dead letters and wait for a human. An event without a handler here is passed over when the subscriptions were
 * read after it has come: those that are known may be older than what its source has been told, by another agent of
 * this participant.
 *
 * It must never: acknowledge what is not stored; store a position that the subscriber has not said; send page n+1
 * before page n is acknowledged; claim before it knows who subscribes (events would be called unwanted).
 *
 * The host's duties: effects in order; every REF_DB_* answered exactly once by the event of the same name with its op,
 * never from inside relay_step(); memory of an event stays until its step's effects are carried out; a page handed in
 * by REV_PAGE or REV_DUE stays until REF_FREE_PAGE gives it back.
 */
#ifndef LOCKSTEP_RELAY_H
#define LOCKSTEP_RELAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lockstep/limits.h"

#define RELAY_NEVER UINT64_MAX
#define RELAY_HANDLER_MAX 200 /* bytes of a handler's name, as the database quotes it */
#define RELAY_TYPE_MAX 64
#define RELAY_REASON_MAX LS_REASON_MAX

struct relay_config {
    uint32_t page_max;       /* events in one page */
    uint32_t claim_max;      /* events given positions in one transaction */
    uint32_t peers_max;      /* subscribers and sources */
    uint32_t handlers_max;   /* subscriptions of this database */
    uint32_t attempts_max;   /* of a handler, then it is a dead letter */
    uint64_t claim_us;       /* how often the database is looked at when nothing is known to be new, at first */
    uint64_t claim_rest_us;  /* and after doubling while nothing was */
    uint64_t claim_slow_us;  /* the longest rest after a look that was slow */
    uint64_t due_us;         /* the same for parked events */
    uint64_t ack_wait_us;    /* for an acknowledgement; then the page is sent again */
    uint64_t backoff_min_us; /* between attempts, doubling */
    uint64_t backoff_max_us;
    uint64_t seed; /* of the jitter */
};
void relay_config_defaults(struct relay_config *config);

/* One event as it travels. Borrowed. */
struct relay_item {
    int64_t position;
    const char *type;
    const char *handler; /* REV_DUE: the one that failed; else NULL */
    const char *source;  /* REV_DUE */
    uint32_t attempts;   /* REV_DUE: so far */
};

enum relay_handled {
    RELAY_DONE,      /* inbox row and effect are committed */
    RELAY_DUPLICATE, /* they were before */
    RELAY_QUEUED,    /* committed as waiting behind an earlier one of its key */
    RELAY_FAILED,    /* rolled back for certain; sqlstate and reason say why */
    RELAY_UNKNOWN    /* the answer is lost: done, or not, or later; sqlstate and reason say what is known */
};
enum relay_parked {
    RELAY_WAITING,
    RELAY_DEAD,
    RELAY_THROUGH /* it was done, or a human acted, in between */,
    RELAY_NOT_PARKED
};

enum relay_event_kind {
    REV_TICK,
    REV_ROUTES,    /* who subscribes to what is known, or has changed */
    REV_FRESH,     /* something was written here that may want a position */
    REV_PEER_UP,   /* the agent of this participant can be sent to */
    REV_PEER_DOWN, /* what was sent to it may be lost */
    REV_ACK,  /* it says that it has stored everything up to `position`: the page's end, or that of one before it */
    REV_PAGE, /* events from the agent of `peer` */
    /* answers of the database */
    REV_DB_CLAIM,
    REV_DB_READ,
    REV_DB_STORE,
    REV_DB_HANDLE,
    REV_DB_PARK,
    REV_DB_DUE
};

struct relay_subscriber {
    const char *participant;
    int64_t position; /* acknowledged, as stored */
};
struct relay_handler {
    const char *type, *handler;
};

struct relay_event {
    enum relay_event_kind kind;
    uint64_t now_us;
    uint64_t op;      /* REV_DB_* */
    const char *peer; /* REV_PEER_*, REV_ACK, REV_PAGE */
    union {
        struct {
            const struct relay_subscriber *subscribers;
            uint32_t subscriber_count;
            const struct relay_handler *handlers; /* of this database */
            uint32_t handler_count;
            bool looked; /* read after the last REF_LOOK */
            bool back; /* positions have gone back, the database has lost WAL: all begin where it says */
        } routes;
        int64_t position; /* REV_ACK */
        struct {
            void *page;
            const struct relay_item *items;
            uint32_t count;
            int64_t
                upto; /* REV_PAGE: what the sender wants acknowledged: it has looked so far, not all may be for us */
            bool ok;  /* REV_DUE */
        } page;
        struct {
            bool ok;
            uint32_t given;
        } claim;
        struct {
            bool ok;
            void *page; /* handed on with REF_SEND_PAGE, or given back */
            uint32_t count;
            int64_t upto; /* the last one's position, or, when there are no more, as far as was looked */
            bool more;    /* there are more, though the page is not full (its bytes are bounded too) */
        } read;
        struct {
            bool ok;
        } store;
        struct {
            enum relay_handled result;
            const char *sqlstate, *reason; /* RELAY_FAILED, RELAY_UNKNOWN */
        } handle;
        struct {
            enum relay_parked result;
        } park;
    };
};

enum relay_effect_kind {
    REF_REPORT,    /* a human must look: text */
    REF_SEND_PAGE, /* to `peer`: page, up to `position`; the page is the host's again when it is sent */
    REF_SEND_ACK,  /* to `peer`: `position` */
    REF_FREE_PAGE,
    REF_DB_CLAIM,  /* limit */
    REF_DB_READ,   /* events for `peer` behind `position`, at most limit */
    REF_DB_STORE,  /* `peer` has acknowledged `position` */
    REF_DB_HANDLE, /* inbox row, handler, follow-up events: item `index` of page, `handler` */
    REF_DB_PARK,   /* the same one has failed with sqlstate, reason; try again in wait_ms */
    REF_DB_DUE,    /* parked events that are due, at most limit */
    REF_LOOK       /* REV_ROUTES is wanted, of what is read from now on */
};

struct relay_effect {
    enum relay_effect_kind kind;
    uint64_t op;
    const char *peer;
    int64_t position;
    int64_t stored; /* REF_SEND_PAGE: acknowledged so far */
    uint32_t limit;
    void *page;
    uint32_t index;
    const char *handler;
    const char *sqlstate, *reason, *text;
    uint32_t wait_ms;
    uint32_t attempts_max;
};

struct relay_effects {
    struct relay_effect *list;
    size_t count, capacity;
};

struct relay_stats {
    uint64_t claimed, sent, acknowledged, handled, duplicates, queued, parked, dead, retried;
};

struct relay;
/* NULL when memory is short. */
struct relay *relay_new(const struct relay_config *config);
/* Gives no page back: the host frees what it still holds. */
void relay_free(struct relay *relay);
/* Replaces *effects' contents. */
void relay_step(struct relay *relay, const struct relay_event *event, struct relay_effects *effects);
void relay_effects_free(struct relay_effects *effects);
uint64_t relay_next_timer(const struct relay *relay);
void relay_stats(const struct relay *relay, struct relay_stats *ret_stats);
/* Up to which position inbox rows of what came from `source` may go, which has stored our acknowledgements up to
 * `stored`. Less than that while a page that has come twice is still at work: whoever finds no row there handles the
 * event again. */
int64_t relay_may_prune(const struct relay *relay, const char *source, int64_t stored);
/* Every invariant of its memory; asserts. */
void relay_check(const struct relay *relay);

#endif
