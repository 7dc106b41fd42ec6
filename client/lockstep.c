/*
 * lockstep.c: liblockstep: calls over libcurl's multi interface behind one epoll descriptor.
 *
 * The multi handle has no single descriptor, so its sockets and one timerfd (for libcurl's timeouts and for our own
 * pauses) hang on an epoll descriptor; that one is lockstep_fd(). Everything else follows from lockstep_dispatch().
 *
 * Life of a call:
 *
 *     WAITING --start_attempt--> SENT --answer settles it--> ENDED --completion called--> freed
 *        ^                        |
 *        +---- pause, jittered ---+   busy, unreachable, 202, or ambiguous with a key
 *
 * What it must never do: send a run twice that has no idempotency key. Two places keep that: `ambiguous` ends a keyless
 * run at once, and read_body/seek_body refuse to hand out the body a second time, because libcurl by itself repeats a
 * request whose reused connection died before the first byte of the answer (lib/transfer.c, Curl_retry_request): the
 * coordinator may have executed it by then.
 *
 * Failure modes: no memory before something is sent is LOCKSTEP_NOMEM; an answer longer than LOCKSTEP_ANSWER_MAX, or
 * one that memory cannot hold, counts as no answer, so that a run is ambiguous.
 */
#include "client/lockstep_internal.h"

#include <assert.h>
#include <ctype.h>
#include <curl/curl.h>
#include <errno.h>
#include <jansson.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "common/tls.h"

_Static_assert(LOCKSTEP_GTID_MAX == LS_GTID_MAX && LOCKSTEP_PARTICIPANT_MAX == LS_PARTICIPANT_MAX &&
                   LOCKSTEP_KEY_MAX == LS_KEY_MAX && LOCKSTEP_REASON_MAX == LS_REASON_MAX,
               "the public header repeats the bounds of limits.h");

#define EVENTS_PER_DISPATCH 64
#define NEVER UINT64_MAX
#define FOLLOW_WAIT_MS_MAX 10000u /* one question for a pending transaction waits at most this long */

enum call_state { CALL_WAITING, CALL_SENT, CALL_ENDED };

struct lockstep_call {
    struct lockstep *client;
    struct lockstep_call *next, *prev; /* in the list of its state: waiting, sent or ended */
    enum lockstep_op op;
    enum call_state state;
    lockstep_done done;
    void *context;
    char path[2048]; /* what a query names is at most a few hundred bytes, three times as long when it is escaped */
    char key[LOCKSTEP_KEY_MAX + 1];
    enum lockstep_wait wait;
    char *document; /* the body of a run; heap */
    size_t document_length;
    size_t document_given; /* handed to libcurl in this attempt */
    bool body_sent;        /* libcurl took the whole body in this attempt: only then can it have been run */
    bool ambiguous;        /* some attempt may have begun a transaction whose outcome nobody has told us */
    bool follow;           /* ask for result.gtid instead of running again */
    bool saga;             /* what result.gtid names */
    uint32_t pauses;
    uint64_t start_us; /* WAITING: when the next attempt is due */
    uint64_t deadline_us;
    CURL *easy; /* SENT */
    struct curl_slist *headers;
    char error[CURL_ERROR_SIZE];
    char *answer; /* heap, NUL-terminated */
    size_t answer_length, answer_size;
    struct lockstep_result result;
};

struct call_list {
    struct lockstep_call *head, *tail;
};

struct lockstep {
    CURLM *multi;
    int epoll, timer;
    struct lockstep_url url;
    char *ca_file, *cert_file, *key_file, *crl_file;
    char coordinator[LOCKSTEP_PARTICIPANT_MAX + 1];
    uint32_t timeout_ms, connect_timeout_ms, attempts_max, connections_max, backoff_ms, backoff_ms_max;
    struct call_list waiting, sent, ended;
    size_t calls;
    CURL **idle; /* easy handles kept for reuse, at most connections_max */
    size_t idle_count;
    uint64_t curl_timer_us, armed_us;
    uint64_t random;
    bool dispatching;
};

static uint64_t now_us(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

/* xorshift64*: spreads pauses; nothing secret hangs on it. */
static uint32_t next_random(struct lockstep *client) {
    client->random ^= client->random >> 12;
    client->random ^= client->random << 25;
    client->random ^= client->random >> 27;
    return (uint32_t)((client->random * 0x2545F4914F6CDD1Du) >> 32);
}

/* ---------------------------------------------------------------------- lists */

static struct call_list *list_of(struct lockstep *client, enum call_state state) {
    switch (state) {
    case CALL_WAITING:
        return &client->waiting;
    case CALL_SENT:
        return &client->sent;
    case CALL_ENDED:
        return &client->ended;
    }
    abort();
}

static void list_remove(struct lockstep_call *call) {
    struct call_list *list = list_of(call->client, call->state);

    *(call->prev != NULL ? &call->prev->next : &list->head) = call->next;
    *(call->next != NULL ? &call->next->prev : &list->tail) = call->prev;
    call->next = call->prev = NULL;
}

static void list_append(struct lockstep_call *call, enum call_state state) {
    struct call_list *list = list_of(call->client, state);

    call->state = state;
    call->prev = list->tail;
    *(list->tail != NULL ? &list->tail->next : &list->head) = call;
    list->tail = call;
}

static void call_become(struct lockstep_call *call, enum call_state state) {
    list_remove(call);
    list_append(call, state);
}

/* ---------------------------------------------------------------------- timer */

static void arm_timer(struct lockstep *client) {
    uint64_t due = client->curl_timer_us;
    struct itimerspec spec = {0};

    for (const struct lockstep_call *call = client->waiting.head; call != NULL; call = call->next)
        if (call->start_us < due) due = call->start_us;
    if (client->ended.head != NULL) due = 1; /* completions are owed: readable at once */
    if (due == client->armed_us) return;
    client->armed_us = due;
    if (due != NEVER) {
        if (due == 0) due = 1; /* zero would disarm */
        spec.it_value.tv_sec = (time_t)(due / 1000000u);
        spec.it_value.tv_nsec = (long)(due % 1000000u * 1000u);
    }
    int failed = timerfd_settime(client->timer, TFD_TIMER_ABSTIME, &spec, NULL);
    assert(failed == 0); /* cannot fail with valid arguments */
}

/* ------------------------------------------------------------ libcurl callbacks */

static int on_timer(CURLM *multi, long timeout_ms, void *context) {
    struct lockstep *client = context;

    (void)multi;
    client->curl_timer_us = timeout_ms < 0 ? NEVER : now_us() + (uint64_t)timeout_ms * 1000u;
    return 0;
}

static int on_socket(CURL *easy, curl_socket_t socket, int what, void *context, void *socket_context) {
    struct lockstep *client = context;
    struct epoll_event event = {.data.fd = socket};

    (void)easy, (void)socket_context;
    if (what == CURL_POLL_REMOVE) {
        (void)epoll_ctl(client->epoll, EPOLL_CTL_DEL, socket, NULL); /* a socket closed already is gone from the set */
        return 0;
    }
    if (what & CURL_POLL_IN) event.events |= EPOLLIN;
    if (what & CURL_POLL_OUT) event.events |= EPOLLOUT;
    if (epoll_ctl(client->epoll, EPOLL_CTL_MOD, socket, &event) == 0) return 0;
    return epoll_ctl(client->epoll, EPOLL_CTL_ADD, socket, &event) == 0 ? 0 : -1;
}

static size_t read_body(char *buffer, size_t size, size_t count, void *context) {
    struct lockstep_call *call = context;
    size_t left = call->document_length - call->document_given;
    size_t take = size * count < left ? size * count : left;

    memcpy(buffer, call->document + call->document_given, take);
    call->document_given += take;
    if (call->document_given == call->document_length) call->body_sent = true;
    return take;
}

static bool repeatable(const struct lockstep_call *call) {
    return call->op != LOCKSTEP_OP_RUN || call->follow || call->key[0] != '\0';
}

/* libcurl wants the body again, on a new connection. Without a key that could run the document twice: see the top. */
static int seek_body(void *context, curl_off_t offset, int origin) {
    struct lockstep_call *call = context;

    if (!repeatable(call) || origin != SEEK_SET || offset < 0 || (uint64_t)offset > call->document_length)
        return CURL_SEEKFUNC_FAIL;
    call->document_given = (size_t)offset;
    return CURL_SEEKFUNC_OK;
}

static size_t write_answer(char *data, size_t size, size_t count, void *context) {
    struct lockstep_call *call = context;
    size_t length = size * count;

    if (length > LOCKSTEP_ANSWER_MAX - call->answer_length) return 0;
    if (call->answer_length + length + 1 > call->answer_size) {
        size_t grown = (call->answer_length + length + 1) * 2;
        char *memory = realloc(call->answer, grown);
        if (memory == NULL) return 0;
        call->answer = memory;
        call->answer_size = grown;
    }
    memcpy(call->answer + call->answer_length, data, length);
    call->answer_length += length;
    call->answer[call->answer_length] = '\0';
    return length;
}

/* The chain is good (OpenSSL and libcurl see to that, and to the host name); is the peer a coordinator, too? */
static bool is_coordinator(X509 *certificate, const char *name) {
    GENERAL_NAMES *names = X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
    bool found = false;

    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *entry = sk_GENERAL_NAME_value(names, i);
        struct tls_identity identity;
        if (entry->type != GEN_URI) continue;
        const ASN1_IA5STRING *uri = entry->d.uniformResourceIdentifier;
        if (tls_parse_uri((const char *)ASN1_STRING_get0_data(uri), (size_t)ASN1_STRING_length(uri), &identity, NULL) !=
            LS_OK)
            continue;
        if (identity.role == TLS_ROLE_COORDINATOR && (name[0] == '\0' || strcmp(identity.name, name) == 0))
            found = true;
    }
    GENERAL_NAMES_free(names);
    return found;
}

static int client_index = -1;

static int on_verify(int good, X509_STORE_CTX *store) {
    const SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
    const struct lockstep *client = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), client_index);

    if (!good || X509_STORE_CTX_get_error_depth(store) > 0) return good;
    if (is_coordinator(X509_STORE_CTX_get_current_cert(store), client->coordinator)) return 1;
    X509_STORE_CTX_set_error(store, X509_V_ERR_APPLICATION_VERIFICATION);
    return 0;
}

static CURLcode on_ssl_context(CURL *easy, void *ssl_context, void *context) {
    (void)easy;
    if (SSL_CTX_set_ex_data(ssl_context, client_index, context) != 1) return CURLE_OUT_OF_MEMORY;
    SSL_CTX_set_verify(ssl_context, SSL_VERIFY_PEER, on_verify);
    return CURLE_OK;
}

/* --------------------------------------------------------------- easy handles */

#define SET(option, value)                                                       \
    do {                                                                         \
        if (curl_easy_setopt(easy, (option), (value)) != CURLE_OK) return false; \
    } while (0)

static bool configure_tls(struct lockstep *client, CURL *easy) {
    SET(CURLOPT_SSL_VERIFYPEER, 1L);
    SET(CURLOPT_SSL_VERIFYHOST, 2L);
    SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_3);
    SET(CURLOPT_CAINFO, client->ca_file);
    SET(CURLOPT_CAPATH, NULL); /* Debian's libcurl would trust all of /etc/ssl/certs as well */
    SET(CURLOPT_SSLCERT, client->cert_file);
    SET(CURLOPT_SSLKEY, client->key_file);
    if (client->crl_file != NULL) SET(CURLOPT_CRLFILE, client->crl_file);
    SET(CURLOPT_SSL_CTX_FUNCTION, on_ssl_context);
    SET(CURLOPT_SSL_CTX_DATA, client);
    return true;
}

/* What is the same for all requests of the client. */
static bool configure_easy(struct lockstep *client, CURL *easy) {
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_PROXY, ""); /* not even one from the environment */
    SET(CURLOPT_PROTOCOLS_STR, client->url.local ? "http" : "https");
    SET(CURLOPT_FOLLOWLOCATION, 0L);
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(CURLOPT_TCP_NODELAY, 1L);
    SET(CURLOPT_TCP_KEEPALIVE, 1L); /* a host that vanished while we wait for its answer */
    SET(CURLOPT_TCP_KEEPIDLE, 5L);
    SET(CURLOPT_TCP_KEEPINTVL, 2L);
    SET(CURLOPT_CONNECTTIMEOUT_MS, (long)client->connect_timeout_ms);
    SET(CURLOPT_READFUNCTION, read_body);
    SET(CURLOPT_SEEKFUNCTION, seek_body);
    SET(CURLOPT_WRITEFUNCTION, write_answer);
    if (client->url.local) {
        SET(CURLOPT_UNIX_SOCKET_PATH, client->url.path);
        return true;
    }
    return configure_tls(client, easy);
}

static CURL *easy_take(struct lockstep *client) {
    if (client->idle_count > 0) return client->idle[--client->idle_count];
    CURL *easy = curl_easy_init();
    if (easy != NULL && !configure_easy(client, easy)) {
        curl_easy_cleanup(easy);
        easy = NULL;
    }
    return easy;
}

static void easy_return(struct lockstep *client, CURL *easy) {
    (void)curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, NULL); /* both belong to the call, which goes */
    (void)curl_easy_setopt(easy, CURLOPT_HTTPHEADER, NULL);
    if (client->idle_count < client->connections_max)
        client->idle[client->idle_count++] = easy;
    else
        curl_easy_cleanup(easy);
}

static bool configure_request(struct lockstep_call *call, CURL *easy, const char *url, bool post, uint64_t now) {
    long left_ms = call->deadline_us > now ? (long)((call->deadline_us - now + 999) / 1000) : 1;

    SET(CURLOPT_URL, url);
    SET(CURLOPT_HTTPHEADER, call->headers);
    SET(CURLOPT_PRIVATE, call);
    SET(CURLOPT_READDATA, call);
    SET(CURLOPT_SEEKDATA, call);
    SET(CURLOPT_WRITEDATA, call);
    SET(CURLOPT_ERRORBUFFER, call->error);
    SET(CURLOPT_TIMEOUT_MS, left_ms);
    if (post) {
        SET(CURLOPT_POST, 1L);
        SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)call->document_length);
    } else {
        SET(CURLOPT_HTTPGET, 1L);
    }
    return true;
}

#undef SET

static bool add_header(struct lockstep_call *call, const char *header) {
    struct curl_slist *list = curl_slist_append(call->headers, header);

    if (list == NULL) return false;
    call->headers = list;
    return true;
}

/* ------------------------------------------------------------------- attempts */

static void call_free(struct lockstep_call *call) {
    struct lockstep *client = call->client;

    if (call->easy != NULL) {
        (void)curl_multi_remove_handle(client->multi, call->easy); /* it is there: added in start_attempt */
        easy_return(client, call->easy);
    }
    list_remove(call);
    client->calls--;
    curl_slist_free_all(call->headers);
    lockstep_result_clear(&call->result);
    free(call->answer);
    free(call->document);
    free(call);
}

/* The last word on a call. A run that may have begun is never reported as anything less than unknown. */
static void call_end(struct lockstep_call *call, enum lockstep_status status) {
    struct lockstep_result *result = &call->result;

    if (call->ambiguous && call->op == LOCKSTEP_OP_RUN) status = LOCKSTEP_UNKNOWN;
    result->status = status;
    if (status != LOCKSTEP_OK) result->outcome = LOCKSTEP_NO_OUTCOME;
    if (result->reason[0] == '\0' && status != LOCKSTEP_OK)
        (void)snprintf(result->reason, sizeof result->reason, "%s", lockstep_status_text(status));
    call_become(call, CALL_ENDED);
}

/* Another try after a pause, if attempts and time allow; else the call ends with `status`. */
static void call_again(struct lockstep_call *call, enum lockstep_status status) {
    struct lockstep *client = call->client;
    uint64_t now = now_us();
    uint64_t pause_us =
        (uint64_t)lockstep_backoff_ms(++call->pauses, client->backoff_ms, client->backoff_ms_max, next_random(client)) *
        1000u;

    if (call->result.attempts >= client->attempts_max || now + pause_us >= call->deadline_us) {
        call_end(call, status);
        return;
    }
    call->start_us = now + pause_us;
    call_become(call, CALL_WAITING);
}

static void build_url(struct lockstep_call *call, char *url, size_t size, bool *ret_post, uint64_t now) {
    const char *base = call->client->url.base;

    *ret_post =
        (call->op == LOCKSTEP_OP_RUN && !call->follow) || call->op == LOCKSTEP_OP_ABORT || call->op == LOCKSTEP_OP_ACT;
    if (!call->follow) {
        (void)snprintf(url, size, "%s%s", base, call->path);
        return;
    }
    uint64_t left_ms = call->deadline_us > now ? (call->deadline_us - now) / 1000u : 0;
    uint64_t wait_ms =
        left_ms > FOLLOW_WAIT_MS_MAX ? FOLLOW_WAIT_MS_MAX : left_ms * 9 / 10; /* leave time for the answer */
    if (call->saga) {
        (void)snprintf(url, size, "%s/v1/sagas/%s?timeout=%llums", base, call->result.gtid,
                       (unsigned long long)wait_ms);
        return;
    }
    (void)snprintf(url, size, "%s/v1/tx/%s?for=%s&timeout=%llums", base, call->result.gtid,
                   call->wait == LOCKSTEP_WAIT_DECIDED ? "decided" : "applied", (unsigned long long)wait_ms);
}

static bool build_headers(struct lockstep_call *call, bool post) {
    char key[LOCKSTEP_KEY_MAX + 32];

    curl_slist_free_all(call->headers);
    call->headers = NULL;
    if (!add_header(call, "Accept: application/json")) return false;
    if (!post) return true;
    /* "Expect:" keeps libcurl from waiting for 100 Continue before larger bodies */
    if (!add_header(call, "Content-Type: application/json") || !add_header(call, "Expect:")) return false;
    if (call->key[0] == '\0') return true;
    (void)snprintf(key, sizeof key, "Idempotency-Key: %s", call->key);
    return add_header(call, key);
}

static void start_attempt(struct lockstep_call *call) {
    struct lockstep *client = call->client;
    uint64_t now = now_us();
    char url[LOCKSTEP_HOST_MAX + 512 + sizeof call->path];
    bool post;

    assert(call->state == CALL_WAITING && call->easy == NULL);
    call->answer_length = call->document_given = 0;
    call->body_sent = false;
    call->error[0] = '\0';
    build_url(call, url, sizeof url, &post, now);
    CURL *easy = easy_take(client);
    if (easy == NULL || !build_headers(call, post) || !configure_request(call, easy, url, post, now) ||
        curl_multi_add_handle(client->multi, easy) != CURLM_OK) {
        if (easy != NULL) curl_easy_cleanup(easy);
        call_end(call, LOCKSTEP_NOMEM);
        return;
    }
    call->easy = easy;
    call->result.attempts++;
    call_become(call, CALL_SENT);
}

static void take_answer(struct lockstep_call *call, int http_status) {
    struct lockstep_result *result = &call->result;

    free(result->body);
    result->body = call->answer;
    result->body_length = call->answer_length;
    result->http_status = http_status;
    call->answer = NULL;
    call->answer_length = call->answer_size = 0;
}

/* 202 of a run: with a key the document itself is the best question, since it is also right after a restart of the
 * coordinator. */
static void follow_pending(struct lockstep_call *call) {
    if (call->op != LOCKSTEP_OP_RUN || (call->saga && call->wait == LOCKSTEP_WAIT_DECIDED)) {
        call->ambiguous = false;
        call_end(call, LOCKSTEP_OK); /* of a saga that it has begun is all that was asked for */
        return;
    }
    call->ambiguous = false; /* the answer is definite: pending, under this gtid */
    if (call->key[0] == '\0' && lockstep_gtid_plausible(call->result.gtid)) call->follow = true;
    if (!repeatable(call)) {
        call_end(call, LOCKSTEP_OK);
        return;
    }
    call_again(call, LOCKSTEP_OK);
}

static void on_answer(struct lockstep_call *call, int http_status) {
    struct lockstep_result *result = &call->result;
    enum lockstep_outcome before = result->outcome;

    take_answer(call, http_status);
    enum lockstep_op op = call->follow ? LOCKSTEP_OP_GET : call->op;
    switch (lockstep_answer_read(op, http_status, result->body, result->body_length, result)) {
    case LOCKSTEP_SETTLED:
        /* What a second try is refused for says nothing about the first. */
        if (result->outcome != LOCKSTEP_NO_OUTCOME)
            call->ambiguous = false;
        else if (call->follow || before == LOCKSTEP_PENDING)
            call->ambiguous = true;
        call_end(call, result->status);
        return;
    case LOCKSTEP_TRY_LATER:
        if (before == LOCKSTEP_PENDING) call->ambiguous = true; /* it was under way when last heard of */
        call_again(call, result->status);
        return;
    case LOCKSTEP_FOLLOW_SAGA:
        call->saga = true;
        follow_pending(call);
        return;
    case LOCKSTEP_FOLLOW:
        follow_pending(call);
        return;
    case LOCKSTEP_AMBIGUOUS:
        call->ambiguous = true;
        if (repeatable(call))
            call_again(call, LOCKSTEP_UNKNOWN);
        else
            call_end(call, LOCKSTEP_UNKNOWN);
        return;
    }
    abort();
}

/* Trying again cannot mend these. */
static bool hopeless(CURLcode code) {
    return code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CERTPROBLEM ||
           code == CURLE_SSL_CACERT_BADFILE || code == CURLE_SSL_CRL_BADFILE || code == CURLE_SSL_ISSUER_ERROR ||
           code == CURLE_SSL_CIPHER;
}

/* No answer. Whether the request can have had an effect depends only on whether its body had begun to leave. */
static void on_failure(struct lockstep_call *call, CURLcode code) {
    struct lockstep_result *result = &call->result;

    if (code == CURLE_COULDNT_CONNECT && call->client->url.local) /* libcurl would talk of host and port */
        (void)snprintf(result->reason, sizeof result->reason, "nobody listens on %s", call->client->url.path);
    else
        (void)snprintf(result->reason, sizeof result->reason, "%s",
                       call->error[0] != '\0' ? call->error : curl_easy_strerror(code));
    if (call->op == LOCKSTEP_OP_RUN && (call->body_sent || call->follow || result->outcome == LOCKSTEP_PENDING))
        call->ambiguous = true;
    result->outcome = LOCKSTEP_NO_OUTCOME;
    if (hopeless(code) || (call->ambiguous && !repeatable(call)))
        call_end(call, LOCKSTEP_UNREACHABLE);
    else
        call_again(call, LOCKSTEP_UNREACHABLE);
}

static void collect_answers(struct lockstep *client) {
    CURLMsg *message;
    int left;

    while ((message = curl_multi_info_read(client->multi, &left)) != NULL) {
        struct lockstep_call *call = NULL;
        long http_status = 0;
        if (message->msg != CURLMSG_DONE) continue;
        CURLcode code = message->data.result;
        CURL *easy = message->easy_handle;
        (void)curl_easy_getinfo(easy, CURLINFO_PRIVATE, &call);
        (void)curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &http_status);
        assert(call != NULL && call->easy == easy && call->state == CALL_SENT);
        (void)curl_multi_remove_handle(client->multi, easy); /* `message` is gone from here on */
        call->easy = NULL;
        easy_return(client, easy);
        if (code == CURLE_OK)
            on_answer(call, (int)http_status);
        else
            on_failure(call, code);
    }
}

/* ------------------------------------------------------------------- dispatch */

static void drive_sockets(struct lockstep *client) {
    struct epoll_event events[EVENTS_PER_DISPATCH];
    int running, count = epoll_wait(client->epoll, events, EVENTS_PER_DISPATCH, 0);

    for (int i = 0; i < count; i++) {
        int what = 0;
        if (events[i].data.fd == client->timer) {
            uint64_t expirations;
            if (read(client->timer, &expirations, sizeof expirations) == (ssize_t)sizeof expirations)
                client->armed_us = NEVER;
            continue;
        }
        if (events[i].events & (EPOLLIN | EPOLLRDHUP)) what |= CURL_CSELECT_IN;
        if (events[i].events & EPOLLOUT) what |= CURL_CSELECT_OUT;
        if (events[i].events & (EPOLLERR | EPOLLHUP)) what |= CURL_CSELECT_ERR;
        (void)curl_multi_socket_action(client->multi, events[i].data.fd, what,
                                       &running); /* failures come as messages */
    }
}

static void drive_timeouts(struct lockstep *client) {
    int running;

    if (client->curl_timer_us > now_us()) return;
    client->curl_timer_us = NEVER;
    (void)curl_multi_socket_action(client->multi, CURL_SOCKET_TIMEOUT, 0, &running);
}

static void start_due(struct lockstep *client) {
    uint64_t now = now_us();

    for (struct lockstep_call *call = client->waiting.head, *next; call != NULL; call = next) {
        next = call->next;
        if (call->start_us <= now) start_attempt(call);
    }
}

static void complete_ended(struct lockstep *client) {
    struct lockstep_call *call;

    /* Ends: calls that a completion starts have no answer before the next dispatch. */
    while ((call = client->ended.head) != NULL) {
        struct lockstep_result result = call->result;
        lockstep_done done = call->done;
        void *context = call->context;
        memset(&call->result, 0, sizeof call->result);
        call_free(call);
        done(context, &result);
        lockstep_result_clear(&result);
    }
}

size_t lockstep_dispatch(struct lockstep *client) {
    assert(!client->dispatching);
    client->dispatching = true;
    drive_sockets(client);
    start_due(client);
    drive_timeouts(client);
    collect_answers(client);
    complete_ended(client);
    start_due(client); /* what the completions began leaves now, not after another poll */
    drive_timeouts(client);
    collect_answers(client); /* that may have ended others: owed, so that arm_timer() makes us readable */
    client->dispatching = false;
    arm_timer(client);
    return client->calls;
}

int lockstep_fd(const struct lockstep *client) {
    return client->epoll;
}

void lockstep_cancel(struct lockstep_call *call) {
    struct lockstep *client = call->client;

    call_free(call);
    if (!client->dispatching) arm_timer(client);
}

/* -------------------------------------------------------------- starting calls */

static enum lockstep_status call_new(struct lockstep *client, enum lockstep_op op, uint32_t timeout_ms,
                                     lockstep_done done, void *context, struct lockstep_call **ret_call) {
    if (done == NULL || timeout_ms > LOCKSTEP_TIMEOUT_MS_MAX) return LOCKSTEP_INVALID;
    if (client->calls >= LOCKSTEP_CALLS_MAX) return LOCKSTEP_BUSY;
    struct lockstep_call *call = calloc(1, sizeof *call);
    if (call == NULL) return LOCKSTEP_NOMEM;
    call->client = client;
    call->op = op;
    call->done = done;
    call->context = context;
    call->start_us = now_us();
    call->deadline_us = call->start_us + (uint64_t)(timeout_ms > 0 ? timeout_ms : client->timeout_ms) * 1000u;
    client->calls++;
    list_append(call, CALL_WAITING);
    *ret_call = call;
    return LOCKSTEP_OK;
}

/* The first attempt starts in the next dispatch, so that nothing of libcurl runs inside a completion of ours. */
static enum lockstep_status call_ready(struct lockstep *client, struct lockstep_call *call,
                                       struct lockstep_call **ret_call) {
    if (!client->dispatching) arm_timer(client);
    if (ret_call != NULL) *ret_call = call;
    return LOCKSTEP_OK;
}

enum lockstep_status lockstep_run_start(struct lockstep *client, const char *document, size_t length,
                                        const struct lockstep_run_options *options, lockstep_done done, void *context,
                                        struct lockstep_call **ret_call) {
    struct lockstep_run_options defaults;
    struct lockstep_call *call;

    lockstep_run_options_init(&defaults);
    if (options == NULL) options = &defaults;
    if (document == NULL || length == 0 || length > LOCKSTEP_DOCUMENT_MAX || options->size < sizeof *options ||
        (options->key != NULL && !lockstep_key_valid(options->key)))
        return LOCKSTEP_INVALID;
    char *copy = malloc(length);
    if (copy == NULL) return LOCKSTEP_NOMEM;
    memcpy(copy, document, length);
    enum lockstep_status status = call_new(client, LOCKSTEP_OP_RUN, options->timeout_ms, done, context, &call);
    if (status != LOCKSTEP_OK) {
        free(copy);
        return status;
    }
    call->document = copy;
    call->document_length = length;
    call->wait = options->wait;
    if (options->key != NULL) (void)snprintf(call->key, sizeof call->key, "%s", options->key);
    (void)snprintf(call->path, sizeof call->path, "/v1/run?wait=%s",
                   options->wait == LOCKSTEP_WAIT_DECIDED ? "decided" : "applied");
    return call_ready(client, call, ret_call);
}

enum lockstep_status lockstep_get_start(struct lockstep *client, const char *gtid, enum lockstep_wait wait,
                                        uint32_t wait_ms, lockstep_done done, void *context,
                                        struct lockstep_call **ret_call) {
    struct lockstep_call *call;

    if (!lockstep_gtid_plausible(gtid) || wait_ms > LOCKSTEP_TIMEOUT_MS_MAX / 2) return LOCKSTEP_INVALID;
    enum lockstep_status status =
        call_new(client, LOCKSTEP_OP_GET, wait_ms > 0 ? wait_ms + client->timeout_ms : 0, done, context, &call);
    if (status != LOCKSTEP_OK) return status;
    if (wait_ms > 0)
        (void)snprintf(call->path, sizeof call->path, "/v1/tx/%s?for=%s&timeout=%ums", gtid,
                       wait == LOCKSTEP_WAIT_DECIDED ? "decided" : "applied", wait_ms);
    else
        (void)snprintf(call->path, sizeof call->path, "/v1/tx/%s", gtid);
    return call_ready(client, call, ret_call);
}

enum lockstep_status lockstep_list_start(struct lockstep *client, const char *state, uint32_t limit, lockstep_done done,
                                         void *context, struct lockstep_call **ret_call) {
    struct lockstep_call *call;

    if ((state != NULL && !lockstep_gtid_plausible(state)) || limit > LOCKSTEP_LIST_MAX) return LOCKSTEP_INVALID;
    enum lockstep_status status = call_new(client, LOCKSTEP_OP_LIST, 0, done, context, &call);
    if (status != LOCKSTEP_OK) return status;
    char limit_text[32] = "";
    if (limit > 0) (void)snprintf(limit_text, sizeof limit_text, "%climit=%u", state != NULL ? '&' : '?', limit);
    (void)snprintf(call->path, sizeof call->path, "/v1/tx%s%s%s", state != NULL ? "?state=" : "",
                   state != NULL ? state : "", limit_text);
    return call_ready(client, call, ret_call);
}

enum lockstep_status lockstep_participants_start(struct lockstep *client, lockstep_done done, void *context,
                                                 struct lockstep_call **ret_call) {
    struct lockstep_call *call;
    enum lockstep_status status = call_new(client, LOCKSTEP_OP_PARTICIPANTS, 0, done, context, &call);

    if (status != LOCKSTEP_OK) return status;
    (void)snprintf(call->path, sizeof call->path, "/v1/participants");
    return call_ready(client, call, ret_call);
}

enum lockstep_status lockstep_abort_start(struct lockstep *client, const char *gtid, lockstep_done done, void *context,
                                          struct lockstep_call **ret_call) {
    struct lockstep_call *call;

    if (!lockstep_gtid_plausible(gtid)) return LOCKSTEP_INVALID;
    enum lockstep_status status = call_new(client, LOCKSTEP_OP_ABORT, 0, done, context, &call);
    if (status != LOCKSTEP_OK) return status;
    (void)snprintf(call->path, sizeof call->path, "/v1/tx/%s/abort", gtid);
    return call_ready(client, call, ret_call);
}

/* ------------------------------------------------------------------- sagas */

static enum lockstep_status start_path(struct lockstep *client, enum lockstep_op op, uint32_t wait_ms,
                                       lockstep_done done, void *context, struct lockstep_call **ret_call,
                                       const char *fmt, ...) __attribute__((format(printf, 7, 8)));
static enum lockstep_status start_path(struct lockstep *client, enum lockstep_op op, uint32_t wait_ms,
                                       lockstep_done done, void *context, struct lockstep_call **ret_call,
                                       const char *fmt, ...) {
    struct lockstep_call *call;
    enum lockstep_status status =
        call_new(client, op, wait_ms > 0 ? wait_ms + client->timeout_ms : 0, done, context, &call);
    va_list args;

    if (status != LOCKSTEP_OK) return status;
    va_start(args, fmt);
    (void)vsnprintf(call->path, sizeof call->path, fmt, args);
    va_end(args);
    return call_ready(client, call, ret_call);
}

enum lockstep_status lockstep_saga_start(struct lockstep *client, const char *saga, uint32_t wait_ms,
                                         lockstep_done done, void *context, struct lockstep_call **ret_call) {
    if (!lockstep_gtid_plausible(saga) || wait_ms > LOCKSTEP_SAGA_WAIT_MS_MAX) return LOCKSTEP_INVALID;
    return start_path(client, LOCKSTEP_OP_GET, wait_ms, done, context, ret_call, "/v1/sagas/%s?timeout=%ums", saga,
                      wait_ms);
}

enum lockstep_status lockstep_sagas_start(struct lockstep *client, const char *state, uint32_t limit,
                                          lockstep_done done, void *context, struct lockstep_call **ret_call) {
    if ((state != NULL && !lockstep_gtid_plausible(state)) || limit > LOCKSTEP_LIST_MAX) return LOCKSTEP_INVALID;
    return start_path(client, LOCKSTEP_OP_LIST, 0, done, context, ret_call, "/v1/sagas?limit=%u%s%s",
                      limit > 0 ? limit : 100, state != NULL ? "&state=" : "", state != NULL ? state : "");
}

enum lockstep_status lockstep_saga_cancel_start(struct lockstep *client, const char *saga, lockstep_done done,
                                                void *context, struct lockstep_call **ret_call) {
    if (!lockstep_gtid_plausible(saga)) return LOCKSTEP_INVALID;
    return start_path(client, LOCKSTEP_OP_ABORT, 0, done, context, ret_call, "/v1/sagas/%s/cancel", saga);
}

enum lockstep_status lockstep_dead_letters_start(struct lockstep *client, uint32_t limit, lockstep_done done,
                                                 void *context, struct lockstep_call **ret_call) {
    if (limit > LOCKSTEP_LIST_MAX) return LOCKSTEP_INVALID;
    return start_path(client, LOCKSTEP_OP_LIST, 0, done, context, ret_call, "/v1/dlq?limit=%u",
                      limit > 0 ? limit : 100);
}

enum lockstep_status lockstep_dead_letter_start(struct lockstep *client, const char *saga, enum lockstep_act act,
                                                const char *reason, lockstep_done done, void *context,
                                                struct lockstep_call **ret_call) {
    static const char *const words[] = {"retry", "skip", "compensate", "refuse"};
    struct lockstep_call *call;

    if (!lockstep_gtid_plausible(saga) || (unsigned)act >= sizeof words / sizeof words[0]) return LOCKSTEP_INVALID;
    json_t *body = reason != NULL ? json_pack("{s:s}", "reason", reason) : NULL;
    char *text = body != NULL ? json_dumps(body, JSON_COMPACT) : NULL;
    json_decref(body);
    if (reason != NULL && text == NULL) return LOCKSTEP_INVALID; /* not UTF-8 */
    enum lockstep_status status = call_new(client, LOCKSTEP_OP_ABORT, 0, done, context, &call);
    if (status != LOCKSTEP_OK) {
        free(text);
        return status;
    }
    call->document = text;
    call->document_length = text != NULL ? strlen(text) : 0;
    (void)snprintf(call->path, sizeof call->path, "/v1/dlq/%s/%s", saga, words[act]);
    return call_ready(client, call, ret_call);
}

/* ------------------------------------------------------------ choreography */

#define QUERY_MAX 640

/* For a query. False: too long. */
static bool escaped(const char *text, char out[3 * QUERY_MAX + 1]) {
    size_t n = 0, length = strlen(text);

    if (length > QUERY_MAX) return false;
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        if (isalnum(c) || strchr("-_.", c) != NULL)
            out[n++] = (char)c;
        else
            n += (size_t)snprintf(out + n, 4, "%%%02X", c);
    }
    out[n] = '\0';
    return true;
}

/* A GET whose answer is a list. */
static enum lockstep_status ask_list(struct lockstep *client, struct lockstep_result *result, const char *path);

static enum lockstep_status act_start(struct lockstep *client, const char *path, json_t *body, lockstep_done done,
                                      void *context) {
    struct lockstep_call *call;
    char *text = body != NULL ? json_dumps(body, JSON_COMPACT) : NULL;

    json_decref(body);
    if (text == NULL) return LOCKSTEP_INVALID; /* not UTF-8 */
    enum lockstep_status status = call_new(client, LOCKSTEP_OP_ACT, 0, done, context, &call);
    if (status != LOCKSTEP_OK) {
        free(text);
        return status;
    }
    call->document = text;
    call->document_length = strlen(text);
    (void)snprintf(call->path, sizeof call->path, "%s", path);
    return call_ready(client, call, NULL);
}

/* -------------------------------------------------------------- blocking calls */

struct blocked {
    struct lockstep_result *result;
    bool ended;
};

static void on_blocked_done(void *context, struct lockstep_result *result) {
    struct blocked *blocked = context;

    *blocked->result = *result;
    memset(result, 0, sizeof *result); /* the body has a new owner */
    blocked->ended = true;
}

static enum lockstep_status block_until_done(struct lockstep *client, enum lockstep_status started,
                                             struct blocked *blocked) {
    struct pollfd descriptor = {.fd = client->epoll, .events = POLLIN};

    if (started != LOCKSTEP_OK) {
        memset(blocked->result, 0, sizeof *blocked->result);
        blocked->result->status = started;
        (void)snprintf(blocked->result->reason, sizeof blocked->result->reason, "%s", lockstep_status_text(started));
        return started;
    }
    while (lockstep_dispatch(client), !blocked->ended) (void)poll(&descriptor, 1, -1); /* EINTR: just look again */
    return blocked->result->status;
}

enum lockstep_status lockstep_run(struct lockstep *client, const char *document, size_t length,
                                  const struct lockstep_run_options *options, struct lockstep_result *result) {
    struct blocked blocked = {.result = result};

    return block_until_done(
        client, lockstep_run_start(client, document, length, options, on_blocked_done, &blocked, NULL), &blocked);
}

enum lockstep_status lockstep_get(struct lockstep *client, const char *gtid, enum lockstep_wait wait, uint32_t wait_ms,
                                  struct lockstep_result *result) {
    struct blocked blocked = {.result = result};

    return block_until_done(client, lockstep_get_start(client, gtid, wait, wait_ms, on_blocked_done, &blocked, NULL),
                            &blocked);
}

enum lockstep_status lockstep_blocking(struct lockstep *client, const char *gtid, struct lockstep_result *result) {
    struct blocked blocked = {.result = result};

    if (!lockstep_gtid_plausible(gtid)) return block_until_done(client, LOCKSTEP_INVALID, &blocked);
    return block_until_done(
        client,
        start_path(client, LOCKSTEP_OP_GET, 0, on_blocked_done, &blocked, NULL, "/v1/tx/%s?blocking=true", gtid),
        &blocked);
}

enum lockstep_status lockstep_list(struct lockstep *client, const char *state, uint32_t limit,
                                   struct lockstep_result *result) {
    struct blocked blocked = {.result = result};

    return block_until_done(client, lockstep_list_start(client, state, limit, on_blocked_done, &blocked, NULL),
                            &blocked);
}

enum lockstep_status lockstep_participants(struct lockstep *client, struct lockstep_result *result) {
    struct blocked blocked = {.result = result};

    return block_until_done(client, lockstep_participants_start(client, on_blocked_done, &blocked, NULL), &blocked);
}

enum lockstep_status lockstep_metrics(struct lockstep *client, struct lockstep_result *result) {
    struct blocked blocked = {.result = result};

    return block_until_done(
        client, start_path(client, LOCKSTEP_OP_TEXT, 0, on_blocked_done, &blocked, NULL, "/metrics"), &blocked);
}

enum lockstep_status lockstep_abort(struct lockstep *client, const char *gtid, struct lockstep_result *result) {
    struct blocked blocked = {.result = result};

    return block_until_done(client, lockstep_abort_start(client, gtid, on_blocked_done, &blocked, NULL), &blocked);
}

enum lockstep_status lockstep_saga(struct lockstep *client, const char *saga, uint32_t wait_ms,
                                   struct lockstep_result *result) {
    struct blocked blocked = {.result = result};

    return block_until_done(client, lockstep_saga_start(client, saga, wait_ms, on_blocked_done, &blocked, NULL),
                            &blocked);
}

enum lockstep_status lockstep_sagas(struct lockstep *client, const char *state, uint32_t limit,
                                    struct lockstep_result *result) {
    struct blocked blocked = {.result = result};

    return block_until_done(client, lockstep_sagas_start(client, state, limit, on_blocked_done, &blocked, NULL),
                            &blocked);
}

enum lockstep_status lockstep_saga_cancel(struct lockstep *client, const char *saga, struct lockstep_result *result) {
    struct blocked blocked = {.result = result};

    return block_until_done(client, lockstep_saga_cancel_start(client, saga, on_blocked_done, &blocked, NULL),
                            &blocked);
}

enum lockstep_status lockstep_dead_letters(struct lockstep *client, uint32_t limit, struct lockstep_result *result) {
    struct blocked blocked = {.result = result};

    return block_until_done(client, lockstep_dead_letters_start(client, limit, on_blocked_done, &blocked, NULL),
                            &blocked);
}

enum lockstep_status lockstep_dead_letter(struct lockstep *client, const char *saga, enum lockstep_act act,
                                          const char *reason, struct lockstep_result *result) {
    struct blocked blocked = {.result = result};

    return block_until_done(
        client, lockstep_dead_letter_start(client, saga, act, reason, on_blocked_done, &blocked, NULL), &blocked);
}

static enum lockstep_status ask_list(struct lockstep *client, struct lockstep_result *result, const char *path) {
    struct blocked blocked = {.result = result};

    return block_until_done(
        client, start_path(client, LOCKSTEP_OP_LIST, 0, on_blocked_done, &blocked, NULL, "%s", path), &blocked);
}

static enum lockstep_status refuse_call(struct lockstep *client, struct lockstep_result *result) {
    struct blocked blocked = {.result = result};

    return block_until_done(client, LOCKSTEP_INVALID, &blocked);
}

enum lockstep_status lockstep_events(struct lockstep *client, const char *participant, const char *type,
                                     const char *key, uint64_t offset, uint32_t limit, struct lockstep_result *result) {
    char path[2048], text[3 * QUERY_MAX + 1];

    if (!lockstep_gtid_plausible(participant) || (type != NULL && !lockstep_gtid_plausible(type)) ||
        !escaped(key != NULL ? key : "", text) || (key != NULL && strlen(key) > 200))
        return refuse_call(client, result);
    (void)snprintf(path, sizeof path, "/v1/events?participant=%s&offset=%" PRIu64 "&limit=%u%s%s%s%s", participant,
                   offset, limit > 0 ? limit : 100, type != NULL ? "&type=" : "", type != NULL ? type : "",
                   key != NULL ? "&key=" : "", text);
    return ask_list(client, result, path);
}

enum lockstep_status lockstep_flows(struct lockstep *client, uint32_t limit, struct lockstep_result *result) {
    char path[64];

    (void)snprintf(path, sizeof path, "/v1/flows?limit=%u", limit > 0 ? limit : 100);
    return ask_list(client, result, path);
}

enum lockstep_status lockstep_flow(struct lockstep *client, const char *saga, struct lockstep_result *result) {
    char path[128];

    if (!lockstep_gtid_plausible(saga)) return refuse_call(client, result);
    (void)snprintf(path, sizeof path, "/v1/flows/%s", saga);
    return ask_list(client, result, path);
}

enum lockstep_status lockstep_event_letters(struct lockstep *client, const char *id, uint32_t limit,
                                            struct lockstep_result *result) {
    char path[2048], text[3 * QUERY_MAX + 1];

    if (!escaped(id != NULL ? id : "", text) || strlen(text) > 1800) return refuse_call(client, result);
    (void)snprintf(path, sizeof path, "/v1/dlq/events?limit=%u%s%s", limit > 0 ? limit : 100, id != NULL ? "&id=" : "",
                   text);
    return ask_list(client, result, path);
}

enum lockstep_status lockstep_event_letter(struct lockstep *client, const char *id, enum lockstep_act act,
                                           const char *reason, struct lockstep_result *result) {
    static const char *const paths[] = {"/v1/dlq/events/retry", "/v1/dlq/events/skip", "/v1/dlq/events/compensate"};
    struct blocked blocked = {.result = result};

    if ((unsigned)act >= sizeof paths / sizeof paths[0]) return refuse_call(client, result);
    return block_until_done(
        client,
        act_start(client, paths[act], json_pack("{s:s, s:s*}", "id", id, "reason", reason), on_blocked_done, &blocked),
        &blocked);
}

/* ------------------------------------------------------------- open and close */

void lockstep_options_init(struct lockstep_options *options) {
    *options = (struct lockstep_options){.size = sizeof *options,
                                         .timeout_ms = LOCKSTEP_DEFAULT_TIMEOUT_MS,
                                         .connect_timeout_ms = LOCKSTEP_DEFAULT_CONNECT_TIMEOUT_MS,
                                         .attempts_max = LOCKSTEP_DEFAULT_ATTEMPTS,
                                         .connections_max = LOCKSTEP_DEFAULT_CONNECTIONS,
                                         .backoff_ms = LOCKSTEP_DEFAULT_BACKOFF_MS,
                                         .backoff_ms_max = LOCKSTEP_DEFAULT_BACKOFF_MS_MAX};
}

void lockstep_run_options_init(struct lockstep_run_options *options) {
    *options = (struct lockstep_run_options){.size = sizeof *options, .wait = LOCKSTEP_WAIT_APPLIED};
}

void lockstep_result_clear(struct lockstep_result *result) {
    if (result == NULL) return;
    free(result->body);
    memset(result, 0, sizeof *result);
}

int lockstep_api_version(void) {
    return LOCKSTEP_API_MAJOR * 1000 + LOCKSTEP_API_MINOR;
}

const char *lockstep_status_text(enum lockstep_status status) {
    switch (status) {
    case LOCKSTEP_OK:
        return "ok";
    case LOCKSTEP_INVALID:
        return "invalid argument";
    case LOCKSTEP_NOMEM:
        return "out of memory";
    case LOCKSTEP_UNREACHABLE:
        return "coordinator unreachable";
    case LOCKSTEP_BUSY:
        return "busy";
    case LOCKSTEP_REFUSED:
        return "refused";
    case LOCKSTEP_DENIED:
        return "not allowed";
    case LOCKSTEP_UNKNOWN:
        return "outcome not known";
    case LOCKSTEP_PROTOCOL:
        return "not the answer of a coordinator";
    }
    return "unknown status";
}

const char *lockstep_outcome_text(enum lockstep_outcome outcome) {
    switch (outcome) {
    case LOCKSTEP_NO_OUTCOME:
        return "none";
    case LOCKSTEP_COMMITTED:
        return "committed";
    case LOCKSTEP_ABORTED:
        return "aborted";
    case LOCKSTEP_PENDING:
        return "pending";
    case LOCKSTEP_HAZARD:
        return "hazard";
    }
    return "unknown outcome";
}

static enum lockstep_status open_failed(char *text, enum lockstep_status status, const char *what, const char *name) {
    if (text != NULL)
        (void)snprintf(text, LOCKSTEP_TEXT_MAX, "%s%s%s%s", what, name[0] != '\0' ? " `" : "", name,
                       name[0] != '\0' ? "`" : "");
    return status;
}

static enum lockstep_status check_tls_file(const char *what, const char *file, char *text) {
    char message[64];

    (void)snprintf(message, sizeof message, "%s is needed for https", what);
    if (file == NULL || file[0] == '\0') return open_failed(text, LOCKSTEP_INVALID, message, "");
    (void)snprintf(message, sizeof message, "cannot read the %s", what);
    if (access(file, R_OK) != 0) return open_failed(text, LOCKSTEP_INVALID, message, file);
    return LOCKSTEP_OK;
}

static enum lockstep_status check_options(const struct lockstep_options *options, struct lockstep_url *ret_url,
                                          char *text) {
    char error[LOCKSTEP_TEXT_MAX];

    if (options->size < sizeof *options)
        return open_failed(text, LOCKSTEP_INVALID, "lockstep_options_init() was not called, or by an older program",
                           "");
    if (options->url == NULL || options->url[0] == '\0')
        return open_failed(text, LOCKSTEP_INVALID, "no URL of a coordinator", "");
    if (lockstep_url_parse(options->url, ret_url, error) != LOCKSTEP_OK)
        return open_failed(text, LOCKSTEP_INVALID, error, "");
    if (options->timeout_ms == 0 || options->timeout_ms > LOCKSTEP_TIMEOUT_MS_MAX || options->attempts_max == 0 ||
        options->connections_max == 0 || options->connections_max > LOCKSTEP_CALLS_MAX ||
        options->connect_timeout_ms == 0 || options->connect_timeout_ms > LOCKSTEP_TIMEOUT_MS_MAX ||
        options->backoff_ms_max > LOCKSTEP_TIMEOUT_MS_MAX)
        return open_failed(text, LOCKSTEP_INVALID, "a timeout or count is zero or too large", "");
    if (options->coordinator != NULL && strlen(options->coordinator) > LOCKSTEP_PARTICIPANT_MAX)
        return open_failed(text, LOCKSTEP_INVALID, "no such name of a coordinator", options->coordinator);
    if (ret_url->local) return LOCKSTEP_OK;
    if (check_tls_file("certificate authority", options->ca_file, text) != LOCKSTEP_OK ||
        check_tls_file("certificate", options->cert_file, text) != LOCKSTEP_OK ||
        check_tls_file("private key", options->key_file, text) != LOCKSTEP_OK)
        return LOCKSTEP_INVALID;
    return options->crl_file == NULL ? LOCKSTEP_OK : check_tls_file("revocation list", options->crl_file, text);
}

static bool curl_ready;

static void init_once(void) {
    client_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, NULL);
    curl_ready = client_index >= 0 && curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
}

static bool copy_string(const char *from, char **ret_copy) {
    if (from == NULL) return true;
    *ret_copy = strdup(from);
    return *ret_copy != NULL;
}

static bool open_descriptors(struct lockstep *client) {
    struct epoll_event event = {.events = EPOLLIN};

    client->epoll = epoll_create1(EPOLL_CLOEXEC);
    client->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    event.data.fd = client->timer;
    return client->epoll >= 0 && client->timer >= 0 &&
           epoll_ctl(client->epoll, EPOLL_CTL_ADD, client->timer, &event) == 0;
}

static bool open_multi(struct lockstep *client) {
    CURLM *multi = client->multi = curl_multi_init();

    return multi != NULL && curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket) == CURLM_OK &&
           curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, client) == CURLM_OK &&
           curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_timer) == CURLM_OK &&
           curl_multi_setopt(multi, CURLMOPT_TIMERDATA, client) == CURLM_OK &&
           curl_multi_setopt(multi, CURLMOPT_PIPELINING, (long)CURLPIPE_NOTHING) == CURLM_OK &&
           curl_multi_setopt(multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long)client->connections_max) == CURLM_OK &&
           curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long)client->connections_max) == CURLM_OK;
}

static bool seed_random(struct lockstep *client) {
    if (getrandom(&client->random, sizeof client->random, 0) != (ssize_t)sizeof client->random) return false;
    client->random |= 1; /* never zero */
    return true;
}

enum lockstep_status lockstep_open(const struct lockstep_options *options, struct lockstep **ret_client,
                                   char text[LOCKSTEP_TEXT_MAX]) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct lockstep_url url;

    enum lockstep_status status = check_options(options, &url, text);
    if (status != LOCKSTEP_OK) return status;
    (void)pthread_once(&once, init_once); /* cannot fail with a valid control */
    if (!curl_ready) return open_failed(text, LOCKSTEP_NOMEM, "libcurl cannot be initialised", "");

    struct lockstep *client = calloc(1, sizeof *client);
    if (client == NULL) return open_failed(text, LOCKSTEP_NOMEM, "out of memory", "");
    client->epoll = client->timer = -1;
    client->url = url;
    client->curl_timer_us = client->armed_us = NEVER;
    client->timeout_ms = options->timeout_ms;
    client->connect_timeout_ms = options->connect_timeout_ms;
    client->attempts_max = options->attempts_max;
    client->connections_max = options->connections_max;
    client->backoff_ms = options->backoff_ms;
    client->backoff_ms_max = options->backoff_ms_max;
    if (options->coordinator != NULL)
        (void)snprintf(client->coordinator, sizeof client->coordinator, "%s", options->coordinator);
    client->idle = calloc(client->connections_max, sizeof(CURL *));
    if (client->idle == NULL || !copy_string(options->ca_file, &client->ca_file) ||
        !copy_string(options->cert_file, &client->cert_file) || !copy_string(options->key_file, &client->key_file) ||
        !copy_string(options->crl_file, &client->crl_file) || !open_descriptors(client) || !open_multi(client) ||
        !seed_random(client)) {
        lockstep_close(client);
        return open_failed(text, LOCKSTEP_NOMEM, "out of memory or descriptors", "");
    }
    *ret_client = client;
    return LOCKSTEP_OK;
}

void lockstep_close(struct lockstep *client) {
    if (client == NULL) return;
    assert(!client->dispatching);
    for (enum call_state state = CALL_WAITING; state <= CALL_ENDED; state++)
        while (list_of(client, state)->head != NULL) call_free(list_of(client, state)->head);
    assert(client->idle != NULL || client->idle_count == 0);
    for (size_t i = 0; i < client->idle_count; i++) curl_easy_cleanup(client->idle[i]);
    if (client->multi != NULL) (void)curl_multi_cleanup(client->multi); /* all its handles are out: cannot fail */
    if (client->timer >= 0) (void)close(client->timer);
    if (client->epoll >= 0) (void)close(client->epoll);
    free(client->idle);
    free(client->ca_file);
    free(client->cert_file);
    free(client->key_file);
    free(client->crl_file);
    free(client);
}
