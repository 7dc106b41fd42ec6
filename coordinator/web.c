/* web.c: see web.h. libcurl says which sockets and which timeout it waits for; each is an event of the loop. */
#include "coordinator/web.h"

#include <assert.h>
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/time.h>

/* A set of connections, with what libcurl keeps of the files they were made from. */
struct pool {
    struct web *web;
    struct pool *next;
    CURLM *multi;
    struct event *timer;
    unsigned calls;
};

struct web {
    struct event_base *base;
    uint32_t connections;
    struct pool *pools; /* the first is in use; of the others calls are left */
    struct web_call *calls;
};

struct web_call {
    struct web *web;
    struct pool *pool;
    struct web_call *next, *prev;
    CURL *easy;
    struct curl_slist *headers;
    web_done *done;
    void *context;
    char *body; /* of the answer */
    size_t length, capacity, answer_max, head_bytes;
    bool too_large, retry, refused;
    char error[CURL_ERROR_SIZE];
};

/* ------------------------------------------------------------ libcurl's callbacks */

static void on_socket_ready(evutil_socket_t fd, short what, void *context);

static int on_socket(CURL *easy, curl_socket_t socket, int what, void *context, void *socket_context) {
    (void)easy;
    struct pool *pool = context;
    struct event *event = socket_context;
    if (event != NULL) {
        event_free(event);
    }
    event = NULL;
    if (what != CURL_POLL_REMOVE) {
        short wanted = (short)(EV_PERSIST | ((what & CURL_POLL_IN) != 0 ? EV_READ : 0) |
                               ((what & CURL_POLL_OUT) != 0 ? EV_WRITE : 0));
        event = event_new(pool->web->base, socket, wanted, on_socket_ready, pool);
        if (event == NULL || event_add(event, NULL) != 0) {
            return -1;
        }
    }
    return curl_multi_assign(pool->multi, socket, event) == CURLM_OK ? 0 : -1;
}

static int on_timer(CURLM *multi, long timeout_ms, void *context) {
    (void)multi;
    struct pool *pool = context;
    struct timeval delay = {.tv_sec = timeout_ms / 1000, .tv_usec = (suseconds_t)(timeout_ms % 1000 * 1000)};
    return (timeout_ms < 0 ? event_del(pool->timer) : event_add(pool->timer, &delay)) == 0 ? 0 : -1;
}

/* Is it the header `name`, and does it say `value` (NULL: anything)? A line of libcurl's ends with its line break. */
static bool says(const char *line, size_t length, const char *name, const char *value) {
    size_t used = strlen(name);
    if (length <= used || strncasecmp(line, name, used) != 0 || line[used] != ':') {
        return false;
    }
    for (used++; used < length && (line[used] == ' ' || line[used] == '\t');) {
        used++;
    }
    while (length > used && strchr(" \t\r\n", line[length - 1]) != NULL) {
        length--;
    }
    return value == NULL || (length - used == strlen(value) && memcmp(line + used, value, length - used) == 0);
}

/* NOLINTNEXTLINE(readability-non-const-parameter): libcurl's type of it */
static size_t on_header(char *data, size_t size, size_t count, void *context) {
    struct web_call *call = context;
    size_t length = size * count;
    if (length > 5 && memcmp(data, "HTTP/", 5) == 0) { /* another answer: that before it was a 100 */
        call->retry = call->refused = false;
    }
    call->retry = call->retry || says(data, length, "Retry-After", NULL) || says(data, length, "Lockstep-Retry", "1");
    call->refused = call->refused || says(data, length, "Lockstep-Refused", "1");
    call->head_bytes += length;
    call->too_large = call->too_large || call->head_bytes > WEB_HEAD_BYTES_MAX;
    return call->too_large ? 0 : length;
}

static size_t on_body(char *data, size_t size, size_t count, void *context) {
    struct web_call *call = context;
    size_t bytes = size * count, needed = call->length + bytes + 1;
    if (needed > call->answer_max + 1) {
        call->too_large = true;
        return 0;
    }
    if (needed > call->capacity) {
        size_t capacity = needed < 1024 ? 1024 : 2 * needed;
        char *grown = realloc(call->body, capacity);
        if (grown == NULL) {
            return 0;
        }
        call->body = grown;
        call->capacity = capacity;
    }
    memcpy(call->body + call->length, data, bytes);
    call->length += bytes;
    call->body[call->length] = '\0';
    return bytes;
}

static void sweep(struct web *web);

/* ------------------------------------------------------------------ one call */

static void call_free(struct web_call *call) {
    *(call->prev == NULL ? &call->web->calls : &call->prev->next) = call->next;
    if (call->next != NULL) {
        call->next->prev = call->prev;
    }
    if (call->easy != NULL) {
        (void)curl_multi_remove_handle(call->pool->multi, call->easy);
        curl_easy_cleanup(call->easy);
    }
    call->pool->calls--;
    curl_slist_free_all(call->headers);
    free(call->body);
    free(call);
}

static bool add_header(struct web_call *call, const char *header) {
    struct curl_slist *list = curl_slist_append(call->headers, header);
    if (list != NULL) {
        call->headers = list;
    }
    return list != NULL;
}

#define SET(option, value)                                                             \
    do {                                                                               \
        if (curl_easy_setopt(call->easy, (option), (value)) != CURLE_OK) return false; \
    } while (0)

static bool set_up(struct web_call *call, const struct web_request *request) {
    SET(CURLOPT_URL, request->url);
    SET(CURLOPT_POST, 1L);
    SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->length);
    SET(CURLOPT_COPYPOSTFIELDS, request->body);
    SET(CURLOPT_HTTPHEADER, call->headers);
    SET(CURLOPT_TIMEOUT_MS, (long)request->timeout_ms);
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_QUICK_EXIT, 1L); /* or the end of a request waits for the thread that looks its name up */
    SET(CURLOPT_FRESH_CONNECT, request->fresh ? 1L : 0L);
    SET(CURLOPT_PROXY, ""); /* not even one of the environment */
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_FOLLOWLOCATION, 0L);
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(CURLOPT_TCP_NODELAY, 1L);
    SET(CURLOPT_SSL_VERIFYPEER, 1L);
    SET(CURLOPT_SSL_VERIFYHOST, 2L);
    SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    const char *ca = request->ca != NULL ? request->ca : curl_version_info(CURLVERSION_NOW)->cainfo;
    if (ca != NULL) {
        SET(CURLOPT_CAINFO, ca);
        SET(CURLOPT_CAPATH,
            NULL); /* all of /etc/ssl/certs would be trusted as well, and CAINFO read for each connection */
    }
    if (request->certificate != NULL) {
        SET(CURLOPT_SSLCERT, request->certificate);
        SET(CURLOPT_SSLKEY, request->key);
    }
    SET(CURLOPT_HEADERFUNCTION, on_header);
    SET(CURLOPT_HEADERDATA, call);
    SET(CURLOPT_WRITEFUNCTION, on_body);
    SET(CURLOPT_WRITEDATA, call);
    SET(CURLOPT_ERRORBUFFER, call->error);
    SET(CURLOPT_PRIVATE, call);
    return true;
}

struct web_call *web_post(struct web *web, const struct web_request *request, web_done *done, void *context) {
    struct web_call *call = calloc(1, sizeof *call);
    if (call == NULL) {
        return NULL;
    }
    sweep(web);
    *call = (struct web_call){.web = web, .pool = web->pools, .next = web->calls, .done = done, .context = context};
    call->pool->calls++;
    call->answer_max = request->answer_max;
    if (web->calls != NULL) {
        web->calls->prev = call;
    }
    web->calls = call;
    /* "Expect:" keeps libcurl from asking for leave before larger bodies. */
    bool good = add_header(call, "Content-Type: application/json") && add_header(call, "Expect:");
    for (size_t i = 0; good && i < WEB_HEADERS_MAX && request->headers[i] != NULL; i++) {
        good = add_header(call, request->headers[i]);
    }
    call->easy = good ? curl_easy_init() : NULL;
    good = call->easy != NULL && set_up(call, request);
    if (!good || curl_multi_add_handle(call->pool->multi, call->easy) != CURLM_OK) {
        call_free(call);
        return NULL;
    }
    return call;
}

void web_cancel(struct web_call *call) {
    call_free(call);
}

static void finish(struct web_call *call, CURLcode code) {
    long status = 0;
    (void)curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
    struct web_answer answer = {.status = (int)status, .too_large = call->too_large};
    answer.retry = call->retry;
    answer.refused = call->refused;
    answer.whole = code == CURLE_OK;
    answer.unreached = status == 0 && (code == CURLE_COULDNT_CONNECT || code == CURLE_COULDNT_RESOLVE_HOST);
    answer.body = call->body == NULL ? "" : call->body;
    answer.length = call->length;
    answer.error = call->too_large       ? "the answer is too large"
                   : call->error[0] != 0 ? call->error
                                         : curl_easy_strerror(code);
    call->done(call->context, &answer);
    call_free(call);
}

static void look(struct pool *pool) {
    int left;
    for (const CURLMsg *message; (message = curl_multi_info_read(pool->multi, &left)) != NULL;) {
        if (message->msg != CURLMSG_DONE) {
            continue;
        }
        struct web_call *call = NULL;
        (void)curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &call);
        finish(call, message->data.result); /* `message` is gone behind this */
    }
}

static void on_socket_ready(evutil_socket_t fd, short what, void *context) {
    struct pool *pool = context;
    int ready = ((what & EV_READ) != 0 ? CURL_CSELECT_IN : 0) | ((what & EV_WRITE) != 0 ? CURL_CSELECT_OUT : 0);
    int running;
    (void)curl_multi_socket_action(pool->multi, fd, ready, &running);
    look(pool);
}

static void on_timer_due(evutil_socket_t fd, short what, void *context) {
    (void)fd;
    (void)what;
    struct pool *pool = context;
    int running;
    (void)curl_multi_socket_action(pool->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    look(pool);
}

/* ---------------------------------------------------------------- connections */

static void pool_free(struct pool *pool) {
    if (pool->multi != NULL) {
        (void)curl_multi_cleanup(pool->multi); /* takes its sockets' events with it, through on_socket() */
    }
    if (pool->timer != NULL) {
        event_free(pool->timer);
    }
    free(pool);
}

static bool pool_add(struct web *web) {
    struct pool *pool = calloc(1, sizeof *pool);
    if (pool == NULL) {
        return false;
    }
    pool->web = web;
    pool->timer = evtimer_new(web->base, on_timer_due, pool);
    CURLM *multi = pool->multi = pool->timer == NULL ? NULL : curl_multi_init();
    if (multi == NULL || curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket) != CURLM_OK ||
        curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, pool) != CURLM_OK ||
        curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_timer) != CURLM_OK ||
        curl_multi_setopt(multi, CURLMOPT_TIMERDATA, pool) != CURLM_OK ||
        curl_multi_setopt(multi, CURLMOPT_PIPELINING, (long)CURLPIPE_NOTHING) != CURLM_OK ||
        curl_multi_setopt(multi, CURLMOPT_MAX_HOST_CONNECTIONS, (long)web->connections) != CURLM_OK) {
        pool_free(pool);
        return false;
    }
    pool->next = web->pools;
    web->pools = pool;
    return true;
}

/* Old ones that nothing is under way on go. Not from inside of one of libcurl's callbacks. */
static void sweep(struct web *web) {
    for (struct pool **link = &web->pools->next; *link != NULL;) {
        struct pool *pool = *link;
        if (pool->calls > 0) {
            link = &pool->next;
        } else {
            *link = pool->next;
            pool_free(pool);
        }
    }
}

/* ---------------------------------------------------------------------- all */

enum ls_status web_new(struct event_base *base, uint32_t connections, struct web **ret_web, struct ls_error *err) {
    struct web *web = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK ? calloc(1, sizeof *web) : NULL;
    if (web == NULL) {
        return ls_fail(err, LS_ERR_NOMEM, "libcurl cannot be initialised");
    }
    web->base = base;
    web->connections = connections;
    if (!pool_add(web)) {
        web_free(web);
        return ls_fail(err, LS_ERR_NOMEM, "libcurl cannot be set up");
    }
    *ret_web = web;
    return LS_OK;
}

enum ls_status web_renew(struct web *web, struct ls_error *err) {
    if (!pool_add(web)) {
        return ls_fail(err, LS_ERR_NOMEM, "libcurl cannot be set up");
    }
    sweep(web);
    return LS_OK;
}

void web_free(struct web *web) {
    if (web == NULL) {
        return;
    }
    while (web->calls != NULL) {
        call_free(web->calls);
    }
    while (web->pools != NULL) {
        struct pool *pool = web->pools;
        web->pools = pool->next;
        pool_free(pool);
    }
    free(web);
    curl_global_cleanup();
}

static bool has_part(CURLU *url, CURLUPart part) {
    char *text = NULL;
    bool there = curl_url_get(url, part, &text, 0) == CURLUE_OK && text != NULL;
    curl_free(text);
    return there;
}

bool web_url_valid(const char *text, bool query) {
    CURLU *url = curl_url();
    bool good = (strncmp(text, "https://", 8) == 0 || strncmp(text, "http://", 7) == 0) && url != NULL &&
                curl_url_set(url, CURLUPART_URL, text, 0) == CURLUE_OK && has_part(url, CURLUPART_HOST) &&
                !has_part(url, CURLUPART_USER) && !has_part(url, CURLUPART_PASSWORD) &&
                (query || !has_part(url, CURLUPART_QUERY)) && !has_part(url, CURLUPART_FRAGMENT);
    curl_url_cleanup(url);
    return good;
}
