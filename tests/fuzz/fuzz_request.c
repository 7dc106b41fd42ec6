/*
 * fuzz_request.c: the rest of an HTTP request, one per line: method, path, query, Idempotency-Key, Content-Type.
 */
#include "tests/fuzz/fuzz.h"

#include <errno.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <sys/queue.h>

#include "coordinator/api/document.h"
#include "coordinator/api/route.h"

static void quiet(int severity, const char *message) {
    (void)severity, (void)message;
}

/* NOLINTNEXTLINE(readability-non-const-parameter): libFuzzer's type of it */
int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    event_set_log_callback(quiet);
    return 0;
}

/* In front of the name, where a route has one. */
static const char *prefix_of(enum route route) {
    if (route == ROUTE_TX_GET || route == ROUTE_TX_ABORT) return "/v1/tx/";
    if (route == ROUTE_SAGA_GET || route == ROUTE_SAGA_CANCEL) return "/v1/sagas/";
    if (route == ROUTE_DLQ_RETRY || route == ROUTE_DLQ_SKIP || route == ROUTE_DLQ_COMPENSATE ||
        route == ROUTE_DLQ_REFUSE)
        return "/v1/dlq/";
    return NULL;
}

static void route(const char *method, const char *path) {
    struct route_match match;
    struct ls_gtid gtid;
    char printed[LS_GTID_MAX + 1];
    route_find(method, path, &match);
    REQUIRE(match.route != ROUTE_COUNT && match.route <= ROUTE_NONE);
    REQUIRE((match.route == ROUTE_BAD_METHOD) == (match.allow != NULL) || match.route != ROUTE_BAD_METHOD);
    const char *prefix = prefix_of(match.route);
    if (prefix != NULL) {
        size_t length = strlen(prefix);
        REQUIRE(strncmp(path, prefix, length) == 0 && match.gtid[0] != '\0' && strchr(match.gtid, '/') == NULL);
        if (ls_gtid_parse(match.gtid, &gtid) == LS_OK) {
            ls_gtid_format(&gtid, printed);
            REQUIRE(strncmp(path + length, printed, strlen(printed)) == 0);
            char behind = path[length + strlen(printed)];
            REQUIRE(behind == '\0' || behind == '/');
        }
    }
}

static void check_u32(const char *text) {
    uint32_t value = 0;
    bool taken = route_parse_u32(text, 1, 10000, &value) == LS_OK;
    errno = 0;
    char *end;
    unsigned long long expected = strtoull(text, &end, 10);
    bool plain = text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0 && expected >= 1 && expected <= 10000;
    REQUIRE(taken == plain && (!taken || value == expected));
}

static void check_duration(const char *text) {
    uint64_t ms = 0;
    if (document_duration(text, &ms) != LS_OK) return;
    unsigned long long number = strtoull(text, NULL, 10);
    const char *unit = text + strspn(text, "0123456789");
    uint64_t of_unit = strcmp(unit, "ms") == 0    ? 1
                       : strcmp(unit, "s") == 0   ? 1000
                       : strcmp(unit, "min") == 0 ? 60000
                                                  : 3600000;
    REQUIRE(unit > text && ms == number * of_unit && ms / of_unit == number);
}

static void query(const char *text) {
    static const char *const waits[] = {
        [ROUTE_WAIT_APPLIED] = "applied", [ROUTE_WAIT_DECIDED] = "decided", [ROUTE_WAIT_END] = "end"};
    struct evkeyvalq query;
    TAILQ_INIT(&query);
    if (evhttp_parse_query_str(text, &query) != 0) {
        evhttp_clear_headers(&query);
        return;
    }
    const struct evkeyval *pair;
    TAILQ_FOREACH(pair, &query, next) {
        enum route_wait wait;
        struct ls_gtid gtid;
        check_u32(pair->value);
        check_duration(pair->value);
        if (route_parse_wait(pair->value, &wait) == LS_OK)
            REQUIRE(wait <= ROUTE_WAIT_END && strcmp(pair->value, waits[wait]) == 0);
        (void)!ls_gtid_parse(pair->value, &gtid);
    }
    evhttp_clear_headers(&query);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *method = fuzz_line(&data, &size), *path = fuzz_line(&data, &size), *text = fuzz_line(&data, &size);
    char *key = fuzz_line(&data, &size), *type = fuzz_text(data, size);
    route(method, path);
    query(text);
    if (route_key_valid(key)) {
        REQUIRE(key[0] != '\0' && strlen(key) <= LS_KEY_MAX);
        for (const char *c = key; *c != '\0'; c++) REQUIRE(*c >= ' ' && *c <= '~');
    }
    if (route_is_json(type)) REQUIRE(strlen(type) >= strlen("application/json"));
    free(method);
    free(path);
    free(text);
    free(key);
    free(type);
    return 0;
}
