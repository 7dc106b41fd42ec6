/* route.c: see route.h. */
#include "coordinator/api/route.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#define GTID "*" /* a path segment that is any gtid */

struct entry {
    const char *method, *path;
    enum route route;
};

static const struct entry entries[] = {
    {"POST", "/v1/run", ROUTE_RUN},
    {"GET", "/v1/tx", ROUTE_TX_LIST},
    {"GET", "/v1/tx/" GTID, ROUTE_TX_GET},
    {"POST", "/v1/tx/" GTID "/abort", ROUTE_TX_ABORT},
    {"GET", "/v1/participants", ROUTE_PARTICIPANTS},
    {"GET", "/livez", ROUTE_LIVEZ},
    {"GET", "/readyz", ROUTE_READYZ},
    {"GET", "/metrics", ROUTE_METRICS},
    {"POST", "/v1/tx", ROUTE_LATER},
    {"POST", "/v1/tx/" GTID "/commit", ROUTE_LATER},
    {"POST", "/v1/tx/" GTID "/resolve", ROUTE_LATER},
    {"GET", "/v1/sagas", ROUTE_SAGA_LIST},
    {"GET", "/v1/sagas/" GTID, ROUTE_SAGA_GET},
    {"POST", "/v1/sagas/" GTID "/cancel", ROUTE_SAGA_CANCEL},
    {"GET", "/v1/dlq", ROUTE_DLQ_LIST},
    {"GET", "/v1/dlq/events", ROUTE_EVENT_LETTERS},
    {"POST", "/v1/dlq/events/retry", ROUTE_EVENT_RETRY},
    {"POST", "/v1/dlq/events/skip", ROUTE_EVENT_SKIP},
    {"POST", "/v1/dlq/events/compensate", ROUTE_EVENT_COMPENSATE},
    {"POST", "/v1/dlq/" GTID "/retry", ROUTE_DLQ_RETRY},
    {"POST", "/v1/dlq/" GTID "/skip", ROUTE_DLQ_SKIP},
    {"POST", "/v1/dlq/" GTID "/compensate", ROUTE_DLQ_COMPENSATE},
    {"POST", "/v1/dlq/" GTID "/refuse", ROUTE_DLQ_REFUSE},
    {"GET", "/v1/events", ROUTE_EVENTS},
    {"GET", "/v1/flows", ROUTE_FLOWS},
    {"GET", "/v1/flows/" GTID, ROUTE_FLOW},
};

/* Matches the path; the segment that GTID stands for goes to `gtid`. */
static bool path_matches(const char *pattern, const char *path, char *gtid, size_t size) {
    const char *star = strchr(pattern, '*');
    if (star == NULL) {
        return strcmp(pattern, path) == 0;
    }
    size_t before = (size_t)(star - pattern);
    if (strncmp(pattern, path, before) != 0) {
        return false;
    }
    const char *begin = path + before;
    size_t length = strcspn(begin, "/");
    if (length == 0 || strcmp(begin + length, star + 1) != 0) {
        return false;
    }
    (void)snprintf(gtid, size, "%.*s", (int)(length < size ? length : size - 1), begin);
    return true;
}

void route_find(const char *method, const char *path, struct route_match *ret_match) {
    *ret_match = (struct route_match){.route = ROUTE_NONE};
    for (size_t i = 0; i < sizeof entries / sizeof entries[0]; i++) {
        const struct entry *entry = &entries[i];
        if (!path_matches(entry->path, path, ret_match->gtid, sizeof ret_match->gtid)) {
            continue;
        }
        if (strcmp(method, entry->method) == 0) {
            ret_match->route = entry->route;
            return;
        }
        if (entry->route != ROUTE_LATER || ret_match->route == ROUTE_NONE) {
            ret_match->route = ROUTE_BAD_METHOD;
            ret_match->allow = entry->method;
        }
    }
}

enum ls_status route_parse_wait(const char *text, enum route_wait *ret_wait) {
    if (strcmp(text, "applied") == 0) {
        *ret_wait = ROUTE_WAIT_APPLIED;
    } else if (strcmp(text, "decided") == 0) {
        *ret_wait = ROUTE_WAIT_DECIDED;
    } else if (strcmp(text, "end") == 0) {
        *ret_wait = ROUTE_WAIT_END;
    } else {
        return LS_ERR_INVALID;
    }
    return LS_OK;
}

enum ls_status route_parse_u32(const char *text, uint32_t min, uint32_t max, uint32_t *ret_value) {
    uint64_t value = 0;
    if (text[0] == '\0') {
        return LS_ERR_INVALID;
    }
    for (const char *at = text; *at != '\0'; at++) {
        if (*at < '0' || *at > '9') {
            return LS_ERR_INVALID;
        }
        value = value * 10 + (uint64_t)(*at - '0');
        if (value > UINT32_MAX) {
            return LS_ERR_INVALID;
        }
    }
    if (value < min || value > max) {
        return LS_ERR_INVALID;
    }
    *ret_value = (uint32_t)value;
    return LS_OK;
}

bool route_key_valid(const char *key) {
    size_t length = strlen(key);
    if (length < 1 || length > LS_KEY_MAX) {
        return false;
    }
    for (size_t i = 0; i < length; i++) {
        if (key[i] < 0x20 || key[i] > 0x7e) {
            return false;
        }
    }
    return true;
}

bool route_is_json(const char *content_type) {
    static const char json[] = "application/json";
    size_t length = sizeof json - 1;
    return strncasecmp(content_type, json, length) == 0 &&
           (content_type[length] == '\0' || content_type[length] == ';' || content_type[length] == ' ');
}
