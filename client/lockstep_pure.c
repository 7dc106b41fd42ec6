/*
 * lockstep_pure.c: liblockstep without input and output: addresses, pauses, and what an answer means.
 *
 * The one rule that must not be broken here: an answer that does not say in so many words that nothing was begun, or
 * how the transaction ended, leaves a run ambiguous. 5xx never means aborted, and neither does an answer that cannot be
 * read.
 */
#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/lockstep_internal.h"

static enum lockstep_status invalid(char error[LOCKSTEP_TEXT_MAX], const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static enum lockstep_status invalid(char error[LOCKSTEP_TEXT_MAX], const char *format, ...) {
    va_list args;

    va_start(args, format);
    (void)vsnprintf(error, LOCKSTEP_TEXT_MAX, format, args); /* a cut text is still a text */
    va_end(args);
    return LOCKSTEP_INVALID;
}

/* ------------------------------------------------------------------ addresses */

static enum lockstep_status parse_local(const char *text, const char *path, struct lockstep_url *ret_url,
                                        char error[LOCKSTEP_TEXT_MAX]) {
    size_t length = strlen(path);

    if (path[0] != '/') return invalid(error, "`%s`: the path of a Unix socket must begin with /", text);
    if (length > LOCKSTEP_SOCKET_PATH_MAX)
        return invalid(error, "`%s`: the path of a Unix socket has at most %d bytes", text, LOCKSTEP_SOCKET_PATH_MAX);
    ret_url->local = true;
    memcpy(ret_url->path, path, length + 1);
    (void)snprintf(ret_url->base, sizeof ret_url->base, "http://lockstep"); /* the name only fills the Host header */
    return LOCKSTEP_OK;
}

static bool host_byte(char c) {
    return isalnum((unsigned char)c) || c == '.' || c == '-' || c == '_';
}

/* The length of the host at the start of `text`, brackets of an IPv6 address included; 0 if there is none. */
static size_t host_length(const char *text) {
    size_t length = 0;

    if (text[0] != '[') {
        while (host_byte(text[length])) length++;
        return length;
    }
    length = 1 + strspn(text + 1, "0123456789abcdefABCDEF:.");
    return length > 1 && text[length] == ']' ? length + 1 : 0;
}

enum lockstep_status lockstep_url_parse(const char *text, struct lockstep_url *ret_url, char error[LOCKSTEP_TEXT_MAX]) {
    static const char scheme[] = "https://";
    struct lockstep_url url = {0};
    unsigned long port = LOCKSTEP_DEFAULT_PORT;

    if (strlen(text) > LOCKSTEP_URL_MAX) return invalid(error, "the URL has more than %d bytes", LOCKSTEP_URL_MAX);
    if (strncmp(text, "unix:", 5) == 0) {
        if (parse_local(text, text + 5, &url, error) != LOCKSTEP_OK) return LOCKSTEP_INVALID;
        *ret_url = url;
        return LOCKSTEP_OK;
    }
    if (strncmp(text, scheme, sizeof scheme - 1) != 0)
        return invalid(error, "`%s`: a coordinator's URL is https://host:port or unix:/path", text);

    const char *host = text + sizeof scheme - 1;
    size_t length = host_length(host);
    if (length == 0 || length > LOCKSTEP_HOST_MAX) return invalid(error, "`%s`: no valid host name", text);
    const char *rest = host + length;
    if (*rest == ':') {
        char *end = NULL;
        errno = 0;
        port = isdigit((unsigned char)rest[1]) ? strtoul(rest + 1, &end, 10) : 0;
        if (errno != 0 || port == 0 || port > 65535) return invalid(error, "`%s`: the port must be 1 to 65535", text);
        rest = end;
    }
    if (strcmp(rest, "") != 0 && strcmp(rest, "/") != 0)
        return invalid(error, "`%s`: `%s` has no place behind host and port", text, rest);
    (void)snprintf(url.base, sizeof url.base, "https://%.*s:%lu", (int)length, host, port);
    *ret_url = url;
    return LOCKSTEP_OK;
}

bool lockstep_gtid_plausible(const char *gtid) {
    size_t length = gtid != NULL ? strlen(gtid) : 0;

    if (length == 0 || length > LOCKSTEP_GTID_MAX) return false;
    for (size_t i = 0; i < length; i++)
        if (!isalnum((unsigned char)gtid[i]) && strchr("_-.", gtid[i]) == NULL) return false;
    return true;
}

bool lockstep_key_valid(const char *key) {
    size_t length = strlen(key);

    if (length == 0 || length > LOCKSTEP_KEY_MAX) return false;
    for (size_t i = 0; i < length; i++)
        if (key[i] <= ' ' || key[i] > '~')
            return false; /* a header value: no control bytes, no blanks that would be trimmed */
    return true;
}

uint32_t lockstep_backoff_ms(uint32_t repetition, uint32_t base_ms, uint32_t max_ms, uint32_t random) {
    uint64_t ceiling = base_ms > 0 ? base_ms : 1;

    for (uint32_t i = 1; i < repetition && ceiling < max_ms; i++) ceiling *= 2;
    if (ceiling > max_ms) ceiling = max_ms > 0 ? max_ms : 1;
    uint64_t half = ceiling / 2;
    return (uint32_t)(ceiling - half + random % (half + 1));
}

/* -------------------------------------------------------------------- answers */

static void copy_text(const json_t *object, const char *name, char *to, size_t size) {
    const char *text = json_string_value(json_object_get(object, name));

    if (text == NULL) return;
    (void)snprintf(to, size, "%s", text);
    for (char *c = to; *c != '\0'; c++)
        if (iscntrl((unsigned char)*c)) *c = ' '; /* one line, and no terminal escapes out of a database's message */
}

/* A refusal: "steps[1].do.args[0]: what is wrong with it". */
static void copy_message(const json_t *object, char *to, size_t size) {
    size_t used;

    copy_text(object, "path", to, size);
    used = strlen(to);
    if (used > 0 && used + 3 < size) used += (size_t)snprintf(to + used, size - used, ": ");
    copy_text(object, "message", to + used, size - used);
}

static enum lockstep_outcome read_outcome(const json_t *object) {
    static const struct {
        const char *word;
        enum lockstep_outcome outcome;
    } words[] = {{"committed", LOCKSTEP_COMMITTED},
                 {"aborted", LOCKSTEP_ABORTED},
                 {"pending", LOCKSTEP_PENDING},
                 {"hazard", LOCKSTEP_HAZARD},
                 /* sagas */
                 {"completed", LOCKSTEP_COMMITTED},
                 {"compensated", LOCKSTEP_ABORTED},
                 {"begun", LOCKSTEP_PENDING},
                 {"running", LOCKSTEP_PENDING},
                 {"passed", LOCKSTEP_PENDING},
                 {"compensating", LOCKSTEP_PENDING},
                 {"stuck", LOCKSTEP_PENDING}};
    const char *state = json_string_value(json_object_get(object, "state"));

    for (size_t i = 0; state != NULL && i < sizeof words / sizeof words[0]; i++)
        if (strcmp(state, words[i].word) == 0) return words[i].outcome;
    return LOCKSTEP_NO_OUTCOME;
}

/* Does the answer say in so many words that nothing was begun? */
static bool says_not_begun(const json_t *object) {
    return json_is_false(json_object_get(object, "begun"));
}

static enum lockstep_judgement settle(struct lockstep_result *result, enum lockstep_status status) {
    result->status = status;
    return LOCKSTEP_SETTLED;
}

/* An answer in the 2xx range, or 409: it carries a state when it is about a transaction. */
static enum lockstep_judgement judge_state(enum lockstep_op op, int http_status, enum lockstep_outcome outcome,
                                           struct lockstep_result *result) {
    if (op == LOCKSTEP_OP_RUN) {
        bool fits = (http_status == 200 && (outcome == LOCKSTEP_COMMITTED || outcome == LOCKSTEP_HAZARD)) ||
                    (http_status == 202 && (outcome == LOCKSTEP_PENDING || outcome == LOCKSTEP_HAZARD)) ||
                    (http_status == 409 && (outcome == LOCKSTEP_ABORTED || outcome == LOCKSTEP_HAZARD));
        if (!fits) return LOCKSTEP_AMBIGUOUS;
    } else if (outcome == LOCKSTEP_NO_OUTCOME) {
        return settle(result, http_status == 409 ? LOCKSTEP_REFUSED : LOCKSTEP_PROTOCOL);
    }
    result->outcome = outcome;
    if (outcome == LOCKSTEP_PENDING) {
        result->status = LOCKSTEP_OK;
        return LOCKSTEP_FOLLOW;
    }
    return settle(result, LOCKSTEP_OK);
}

static enum lockstep_judgement judge(enum lockstep_op op, int http_status, const json_t *object,
                                     struct lockstep_result *result) {
    bool about_one = op == LOCKSTEP_OP_RUN || op == LOCKSTEP_OP_GET || op == LOCKSTEP_OP_ABORT;

    if (http_status == 200 || http_status == 202 || http_status == 409) {
        if (about_one) return judge_state(op, http_status, read_outcome(object), result);
        return settle(result, http_status == 200 && (object != NULL || op == LOCKSTEP_OP_TEXT) ? LOCKSTEP_OK
                                                                                               : LOCKSTEP_PROTOCOL);
    }
    if (http_status == 429 || (http_status >= 500 && says_not_begun(object))) {
        result->status = LOCKSTEP_BUSY;
        return LOCKSTEP_TRY_LATER;
    }
    if (http_status == 401 || http_status == 403) return settle(result, LOCKSTEP_DENIED);
    if (http_status >= 400 && http_status < 500 && http_status != 408) return settle(result, LOCKSTEP_REFUSED);
    if (op == LOCKSTEP_OP_RUN || op == LOCKSTEP_OP_ABORT || op == LOCKSTEP_OP_ACT) return LOCKSTEP_AMBIGUOUS;
    if (http_status >= 500 || http_status == 408) {
        result->status = LOCKSTEP_BUSY;
        return LOCKSTEP_TRY_LATER;
    }
    return settle(result, LOCKSTEP_PROTOCOL);
}

enum lockstep_judgement lockstep_answer_read(enum lockstep_op op, int http_status, const char *body, size_t length,
                                             struct lockstep_result *result) {
    json_error_t error;
    json_t *root = body != NULL ? json_loadb(body, length, JSON_REJECT_DUPLICATES, &error) : NULL;
    const json_t *cause = json_object_get(root, "error");
    const json_t *details = json_is_object(cause) ? cause : root;

    result->outcome = LOCKSTEP_NO_OUTCOME;
    result->applied = json_is_true(json_object_get(root, "applied"));
    result->sqlstate[0] = result->participant[0] = result->reason[0] = '\0';
    copy_text(root, "gtid", result->gtid, sizeof result->gtid);
    copy_text(root, "saga", result->gtid, sizeof result->gtid);
    const char *state = json_string_value(json_object_get(root, "state"));
    result->applied = result->applied || (state != NULL && strcmp(state, "completed") == 0);
    copy_text(details, "sqlstate", result->sqlstate, sizeof result->sqlstate);
    copy_text(details, "participant", result->participant, sizeof result->participant);
    copy_text(details, "reason", result->reason, sizeof result->reason);
    if (json_is_string(cause)) copy_text(root, "error", result->reason, sizeof result->reason);
    if (result->reason[0] == '\0') copy_message(details, result->reason, sizeof result->reason);

    enum lockstep_judgement judgement = judge(op, http_status, root, result);
    if (judgement == LOCKSTEP_FOLLOW && json_object_get(root, "saga") != NULL)
        judgement = state != NULL && strcmp(state, "stuck") == 0 ? LOCKSTEP_SETTLED /* an operator's to say */
                                                                 : LOCKSTEP_FOLLOW_SAGA;
    if (judgement == LOCKSTEP_AMBIGUOUS) result->status = LOCKSTEP_UNKNOWN;
    if (result->reason[0] == '\0' && result->status != LOCKSTEP_OK)
        (void)snprintf(result->reason, sizeof result->reason, "the answer was HTTP %d", http_status);
    json_decref(root);
    return judgement;
}
