/* alert.c: see alert.h. */
#include "coordinator/alert.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/daemon.h"
#include "common/diag.h"
#include "common/hash.h"
#include "common/text.h"
#include "coordinator/claim.h"

#define SECRET_MAX 4096u
#define TEXT_MAX 1024u /* of each text in a body */
#define BACKOFF_MS_MIN 500u
#define BACKOFF_MS_MAX 60000u

/* Waits for the receiver. */
struct letter {
    struct letter *next;
    char *body;
    unsigned refusals;
};

struct window {
    uint64_t ends_us; /* 0: none is open */
    uint64_t more;    /* came within it, and were not told */
    json_t *last;     /* the newest of these */
};

struct alerts {
    struct web *web;
    const struct coordinator_conf *conf;
    uint8_t secret[SECRET_MAX];
    size_t secret_length;
    struct window windows[ALERT_CAUSE_COUNT];
    struct letter *first, **last;
    struct web_call *call;
    struct event *retry, *window_timer;
    uint32_t failures; /* in a row */
    bool said_full;    /* since the last delivery */
    struct alert_stats stats;
};

const char *alert_cause_name(enum alert_cause cause) {
    static const char *const names[ALERT_CAUSE_COUNT] = {"dead_letter", "saga_deadline", "hazard", "dead_event",
                                                         "in_doubt"};
    assert(cause < ALERT_CAUSE_COUNT);
    return names[cause];
}

static bool is_set(const char *text) {
    return text != NULL && text[0] != '\0';
}

static void arm(struct event *timer, uint64_t delay_us) {
    struct timeval delay = {.tv_sec = (time_t)(delay_us / 1000000), .tv_usec = (suseconds_t)(delay_us % 1000000)};
    (void)event_add(timer, &delay); /* without memory: with the next alert */
}

/* ------------------------------------------------------------------ secret */

static enum ls_status read_secret(const char *file, uint8_t secret[SECRET_MAX], size_t *ret_length,
                                  struct ls_error *err) {
    struct stat info;
    int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* of a pipe, nothing is waited for */
    if (fd < 0) {
        return ls_fail(err, LS_ERR_CONFIG, "alerts.secret_file %s: %s", file, diag_errno(errno));
    }
    bool known = fstat(fd, &info) == 0, regular = known && S_ISREG(info.st_mode);
    ssize_t got = regular ? read(fd, secret, SECRET_MAX) : -1;
    int saved = errno;
    (void)close(fd);
    if (got < 0) {
        return ls_fail(err, LS_ERR_CONFIG, "alerts.secret_file %s: %s", file,
                       known && !regular ? "not a file" : diag_errno(saved));
    }
    if ((info.st_mode & (info.st_uid == 0 ? 0037u : 0077u)) != 0) { /* as of a private key */
        return ls_fail(err, LS_ERR_CONFIG, "alerts.secret_file %s: others may read it (chmod 0600)", file);
    }
    while (got > 0 && (secret[got - 1] == '\n' || secret[got - 1] == '\r')) {
        got--;
    }
    if (got < 16 || got == SECRET_MAX) {
        return ls_fail(err, LS_ERR_CONFIG, "alerts.secret_file %s: expected one line of at least 16 bytes", file);
    }
    *ret_length = (size_t)got;
    return LS_OK;
}

static enum ls_status take_secret(struct alerts *alerts, struct ls_error *err) {
    uint8_t secret[SECRET_MAX];
    size_t length = 0;
    enum ls_status status =
        is_set(alerts->conf->alerts_secret) ? read_secret(alerts->conf->alerts_secret, secret, &length, err) : LS_OK;
    if (status == LS_OK) {
        memcpy(alerts->secret, secret, length);
        alerts->secret_length = length;
    }
    explicit_bzero(secret, sizeof secret);
    return status;
}

/* ---------------------------------------------------------------- delivery */

static void send_first(struct alerts *alerts);

static void drop_first(struct alerts *alerts) {
    struct letter *letter = alerts->first;
    alerts->first = letter->next;
    if (alerts->first == NULL) {
        alerts->last = &alerts->first;
    }
    free(letter->body);
    free(letter);
    alerts->stats.queued--;
    if (alerts->first != NULL) {
        arm(alerts->retry, 0); /* from the loop, not from inside of an answer */
    }
}

/* Does the receiver say that this letter is wrong, rather than that it is not its hour? */
static bool is_refusal(int status) {
    return status >= 400 && status < 500 && status != 408 && status != 425 && status != 429;
}

static void on_answer(void *context, const struct web_answer *answer) {
    struct alerts *alerts = context;
    alerts->call = NULL;
    bool taken = answer->status >= 200 && answer->status < 300;
    if (taken) {
        alerts->stats.delivered++;
        if (alerts->failures > 0) {
            diag(DIAG_INFO, "alerts are delivered again", NULL);
        }
        alerts->failures = 0;
        alerts->said_full = false;
        drop_first(alerts);
        return;
    }
    alerts->stats.failed++;
    if (is_refusal(answer->status) && ++alerts->first->refusals >= LS_ALERT_REFUSALS_MAX) {
        diag(DIAG_ERROR, "an alert is dropped: the receiver refuses it", "status", diag_u64((unsigned)answer->status),
             "alert", alerts->first->body, NULL);
        alerts->stats.refused++;
        alerts->failures = 0;
        drop_first(alerts);
        return;
    }
    if (alerts->failures++ == 0) {
        diag(DIAG_WARN, "an alert could not be delivered: tried again until it is", "status",
             diag_u64((unsigned)answer->status), "error", answer->status == 0 ? answer->error : "", NULL);
    }
    uint64_t most_ms = BACKOFF_MS_MIN;
    for (uint32_t i = 1; i < alerts->failures && most_ms < BACKOFF_MS_MAX; i++) {
        most_ms *= 2;
    }
    most_ms = most_ms < BACKOFF_MS_MAX ? most_ms : BACKOFF_MS_MAX;
    arm(alerts->retry, (most_ms / 2 + random_u64() % (most_ms / 2 + 1)) * 1000);
}

/* The time is signed, too, so that a letter that was listened to cannot be sent again later. */
static void sign(const struct alerts *alerts, const char *body, char timestamp[64], char signature[128]) {
    char seconds[24];
    uint8_t digest[EVP_MAX_MD_SIZE];
    unsigned length = 0;
    (void)snprintf(seconds, sizeof seconds, "%" PRIu64, claim_unix_ms() / 1000);
    (void)snprintf(timestamp, 64, "Lockstep-Timestamp: %s", seconds);
    size_t size = strlen(seconds) + 1 + strlen(body);
    char *text = malloc(size + 1);
    signature[0] = '\0';
    if (text != NULL) {
        (void)snprintf(text, size + 1, "%s.%s", seconds, body);
        (void)HMAC(EVP_sha256(), alerts->secret, (int)alerts->secret_length, (const uint8_t *)text, size, digest,
                   &length);
        free(text);
    }
    int used = snprintf(signature, 128, "Lockstep-Signature: v1=");
    for (unsigned i = 0; i < length; i++) {
        used += snprintf(signature + used, 128 - (size_t)used, "%02x", digest[i]);
    }
}

static void send_first(struct alerts *alerts) {
    if (alerts->call != NULL || alerts->first == NULL || !is_set(alerts->conf->alerts_webhook)) {
        return;
    }
    char timestamp[64], signature[128];
    const char *body = alerts->first->body, *ca = alerts->conf->alerts_ca;
    struct web_request request = {.url = alerts->conf->alerts_webhook,
                                  .body = body,
                                  .length = strlen(body),
                                  .answer_max = 4096,
                                  .timeout_ms = alerts->conf->alerts_timeout_ms,
                                  .ca = is_set(ca) ? ca : NULL};
    if (alerts->secret_length > 0) {
        sign(alerts, body, timestamp, signature);
        request.headers[0] = timestamp;
        request.headers[1] = signature;
    }
    alerts->call = web_post(alerts->web, &request, on_answer, alerts);
    if (alerts->call == NULL) {
        arm(alerts->retry, (uint64_t)BACKOFF_MS_MAX * 1000);
    }
}

enum ls_status alerts_reload(struct alerts *alerts, struct ls_error *err) {
    enum ls_status status = take_secret(alerts, err);
    alerts->failures = 0; /* the receiver may be another one */
    send_first(alerts);
    return status;
}

static void on_retry(evutil_socket_t fd, short what, void *context) {
    (void)fd;
    (void)what;
    send_first(context);
}

static void queue_letter(struct alerts *alerts, const json_t *body) {
    if (!is_set(alerts->conf->alerts_webhook)) {
        return;
    }
    bool full = alerts->stats.queued >= LS_ALERT_QUEUE_MAX;
    struct letter *letter = full ? NULL : calloc(1, sizeof *letter);
    char *text = letter == NULL ? NULL : json_dumps(body, JSON_COMPACT);
    if (text == NULL) {
        free(letter);
        alerts->stats.dropped++;
        if (!alerts->said_full) {
            alerts->said_full = true;
            diag(DIAG_WARN, "an alert is dropped: too many wait for the receiver", NULL);
        }
        return;
    }
    letter->body = text;
    *alerts->last = letter;
    alerts->last = &letter->next;
    alerts->stats.queued++;
    if (alerts->failures == 0) {
        send_first(alerts); /* otherwise the timer does */
    }
}

/* ------------------------------------------------------------------ windows */

static void add_text(json_t *body, const char *key, const char *value) {
    char line[TEXT_MAX];
    if (is_set(value)) {
        text_copy_line(line, sizeof line, value);
        (void)json_object_set_new(body, key, json_string(line));
    }
}

static json_t *make_body(const struct alerts *alerts, const struct alert *alert) {
    char text[TEXT_MAX], id[17];
    bool known = is_set(alert->gtid), reason = is_set(alert->reason);
    json_t *body = json_object();
    (void)snprintf(text, sizeof text, "lockstep %s: %s%s%s%s%s", alerts->conf->name, alert->text, known ? " " : "",
                   known ? alert->gtid : "", reason ? ": " : "", reason ? alert->reason : "");
    random_hex(16, id);
    add_text(body, "text", text);
    add_text(body, "id", id);
    add_text(body, "cause", alert_cause_name(alert->cause));
    add_text(body, "coordinator", alerts->conf->name);
    add_text(body, "gtid", alert->gtid);
    add_text(body, "reason", alert->reason);
    add_text(body, "sqlstate", alert->sqlstate);
    add_text(body, "step", alert->step);
    (void)json_object_set_new(body, "unix_ms", json_integer((json_int_t)claim_unix_ms()));
    return body;
}

static void arm_windows(struct alerts *alerts) {
    uint64_t now_us = daemon_now_us(), first_us = UINT64_MAX;
    for (int i = 0; i < ALERT_CAUSE_COUNT; i++) {
        const struct window *window = &alerts->windows[i];
        first_us = window->ends_us != 0 && window->ends_us < first_us ? window->ends_us : first_us;
    }
    if (first_us != UINT64_MAX) {
        arm(alerts->window_timer, first_us > now_us ? first_us - now_us : 0);
    }
}

/* Ends windows; one that swallowed something tells the newest of it, with the number, and opens anew. */
static void on_window(evutil_socket_t fd, short what, void *context) {
    (void)fd;
    (void)what;
    struct alerts *alerts = context;
    uint64_t now_us = daemon_now_us();
    for (int i = 0; i < ALERT_CAUSE_COUNT; i++) {
        struct window *window = &alerts->windows[i];
        if (window->ends_us == 0 || window->ends_us > now_us) {
            continue;
        }
        window->ends_us = 0;
        if (window->more > 0) {
            window->ends_us = now_us + alerts->conf->alerts_window_ms * 1000;
            (void)json_object_set_new(window->last, "more", json_integer((json_int_t)window->more - 1));
            queue_letter(alerts, window->last);
            json_decref(window->last);
            window->last = NULL;
            window->more = 0;
        }
    }
    arm_windows(alerts);
}

bool alerts_raise(struct alerts *alerts, const struct alert *alert) {
    struct window *window = &alerts->windows[alert->cause];
    alerts->stats.raised[alert->cause]++;
    json_t *body = make_body(alerts, alert);
    bool first = window->ends_us == 0;
    if (first) {
        window->ends_us = daemon_now_us() + alerts->conf->alerts_window_ms * 1000;
        queue_letter(alerts, body);
        json_decref(body);
        arm_windows(alerts);
    } else {
        json_decref(window->last);
        window->last = body;
        window->more++;
    }
    return first;
}

/* ---------------------------------------------------------------------- all */

enum ls_status alerts_new(struct event_base *base, struct web *web, const struct coordinator_conf *conf,
                          struct alerts **ret_alerts, struct ls_error *err) {
    struct alerts *alerts = calloc(1, sizeof *alerts);
    if (alerts == NULL) {
        return ls_fail(err, LS_ERR_NOMEM, "out of memory");
    }
    *ret_alerts = alerts;
    alerts->web = web;
    alerts->conf = conf;
    alerts->last = &alerts->first;
    alerts->retry = evtimer_new(base, on_retry, alerts);
    alerts->window_timer = evtimer_new(base, on_window, alerts);
    return alerts->retry == NULL || alerts->window_timer == NULL ? ls_fail(err, LS_ERR_NOMEM, "out of memory")
                                                                 : take_secret(alerts, err);
}

void alerts_free(struct alerts *alerts) {
    if (alerts == NULL) {
        return;
    }
    if (alerts->call != NULL) {
        web_cancel(alerts->call);
    }
    if (alerts->first != NULL) {
        diag(DIAG_WARN, "alerts were not delivered", "count", diag_u64(alerts->stats.queued), NULL);
    }
    while (alerts->first != NULL) {
        struct letter *letter = alerts->first;
        alerts->first = letter->next;
        free(letter->body);
        free(letter);
    }
    for (int i = 0; i < ALERT_CAUSE_COUNT; i++) {
        json_decref(alerts->windows[i].last);
    }
    if (alerts->retry != NULL) {
        event_free(alerts->retry);
    }
    if (alerts->window_timer != NULL) {
        event_free(alerts->window_timer);
    }
    explicit_bzero(alerts->secret, sizeof alerts->secret);
    free(alerts);
}

void alerts_stats(const struct alerts *alerts, struct alert_stats *ret_stats) {
    *ret_stats = alerts->stats;
}
