/*
 * route.h: from method and path to what is asked for. Pure: one table, also the list that docs/openapi.yaml is compared
 * with.
 */
#ifndef LOCKSTEP_API_ROUTE_H
#define LOCKSTEP_API_ROUTE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lockstep/ids.h"
#include "lockstep/status.h"

enum route {
    ROUTE_RUN,
    ROUTE_TX_LIST,
    ROUTE_TX_GET,
    ROUTE_TX_ABORT,
    ROUTE_SAGA_LIST,
    ROUTE_SAGA_GET,
    ROUTE_SAGA_CANCEL,
    ROUTE_DLQ_LIST,
    ROUTE_DLQ_RETRY,
    ROUTE_DLQ_SKIP,
    ROUTE_DLQ_COMPENSATE,
    ROUTE_DLQ_REFUSE,
    ROUTE_EVENTS,
    ROUTE_FLOWS,
    ROUTE_FLOW,
    ROUTE_EVENT_LETTERS,
    ROUTE_EVENT_RETRY,
    ROUTE_EVENT_SKIP,
    ROUTE_EVENT_COMPENSATE,
    ROUTE_PARTICIPANTS,
    ROUTE_LIVEZ,
    ROUTE_READYZ,
    ROUTE_METRICS,
    ROUTE_COUNT,
    ROUTE_BAD_METHOD, /* 405: `allow` says which */
    ROUTE_LATER,      /* 404: part of the interface, not of this version */
    ROUTE_NONE        /* 404 */
};

struct route_match {
    enum route route;
    const char *allow; /* ROUTE_BAD_METHOD: for the Allow header */
    char gtid[LS_GTID_MAX +
              2]; /* ROUTE_TX_GET, ROUTE_TX_ABORT; one byte more than a gtid has means: cut, hence invalid */
};

/* `path` without the query. `method` in capitals. */
void route_find(const char *method, const char *path, struct route_match *ret_match);

/* ---- query parameters, after decoding ---- */
enum route_wait { ROUTE_WAIT_APPLIED, ROUTE_WAIT_DECIDED, ROUTE_WAIT_END };
/* "applied", "decided" or "end" (of a saga). */
enum ls_status route_parse_wait(const char *text, enum route_wait *ret_wait) LS_MUST_CHECK;
/* Decimal digits, min..max. */
enum ls_status route_parse_u32(const char *text, uint32_t min, uint32_t max, uint32_t *ret_value) LS_MUST_CHECK;

/* An Idempotency-Key: 1 to LS_KEY_MAX bytes of printable ASCII. */
bool route_key_valid(const char *key);
/* True for application/json, with or without parameters. */
bool route_is_json(const char *content_type);

#endif
