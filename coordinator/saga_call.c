/* saga_call.c: see saga_call.h. */
#include "coordinator/saga_call.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/text.h"
#include "coordinator/saga_host.h"

#define URL_MAX 8192u
#define SHOWN_MAX 120 /* of an answer, in a reason */

/* A forward action needs every reference: what earlier steps returned does not change. A compensation is sent whatever
 * is known: the answer it refers to may have been lost, or there never was one; it is null then. */
static enum ls_status add_field(const struct run_attempt *attempt, const struct document_arg *arg, json_t *body,
                                struct ls_error *err) {
    json_t *value = NULL;
    if (arg->kind != DOCUMENT_ARG_REF) {
        value = json_incref((json_t *)(uintptr_t)arg->json);
    } else {
        enum ls_status status = run_resolve_json(attempt->saga->run, arg, &value, err);
        if (status != LS_OK && (attempt->op == SAGA_OP_DO || status != LS_ERR_NOT_FOUND)) {
            return status;
        }
        value = status == LS_OK ? value : json_null();
    }
    return json_object_set_new(body, arg->field, value) == 0 ? LS_OK : ls_fail(err, LS_ERR_NOMEM, "out of memory");
}

struct body {
    char *text;
    size_t length, capacity, most;
    bool too_large;
};

static int take_piece(const char *piece, size_t length, void *context) {
    struct body *body = context;
    size_t needed = body->length + length + 1;
    body->too_large = body->too_large || needed > body->most + 1;
    if (body->too_large) {
        return -1;
    }
    if (needed > body->capacity) {
        size_t capacity = needed < 512 ? 512 : 2 * needed;
        char *grown = realloc(body->text, capacity);
        if (grown == NULL) {
            return -1;
        }
        body->text = grown;
        body->capacity = capacity;
    }
    memcpy(body->text + body->length, piece, length);
    body->length += length;
    body->text[body->length] = '\0';
    return 0;
}

/* References repeat what services answered: a small document can ask for a body of any size. */
static enum ls_status make_body(const struct run_attempt *attempt, size_t most, struct body *ret_body,
                                struct ls_error *err) {
    const struct document_step *action = saga_host_action(attempt);
    json_t *fields = json_object();
    enum ls_status status = fields == NULL ? ls_fail(err, LS_ERR_NOMEM, "out of memory") : LS_OK;
    *ret_body = (struct body){.most = most};
    for (uint32_t i = 0; i < action->arg_count && status == LS_OK; i++) {
        status = add_field(attempt, &action->args[i], fields, err);
    }
    if (status == LS_OK && json_dump_callback(fields, take_piece, ret_body, JSON_COMPACT) != 0) {
        status = ret_body->too_large ? ls_fail(err, LS_ERR_TOO_LARGE,
                                               "the body of the call is larger than %zu bytes (limits.body)", most)
                                     : ls_fail(err, LS_ERR_NOMEM, "out of memory");
    }
    json_decref(fields);
    return status;
}

static const char *or_null(const char *text) {
    return text == NULL || text[0] == '\0' ? NULL : text;
}

/* Where it goes: the configured address, and the document's path. */
static enum ls_status make_url(const struct coordinator_conf *conf, const struct run_attempt *attempt,
                               char url[URL_MAX], struct ls_error *err) {
    const char *service = attempt->saga->run->document->saga_steps[attempt->step].service;
    const char *base = coordinator_conf_service(conf, service);
    if (base == NULL) {
        return ls_fail(err, LS_ERR_NOT_FOUND, "no service named \"%s\" is configured any more (calls.services)",
                       service);
    }
    size_t length = strlen(base);
    while (length > 0 && base[length - 1] == '/') {
        length--;
    }
    int used = snprintf(url, URL_MAX, "%.*s%s", (int)length, base, saga_host_action(attempt)->path);
    return used >= 0 && (size_t)used < URL_MAX
               ? LS_OK
               : ls_fail(err, LS_ERR_NOT_FOUND, "the address of service \"%s\" is too long", service);
}

static enum ls_status post(struct web *web, const struct coordinator_conf *conf, const char *app,
                           struct run_attempt *attempt, web_done *done, const char *url, const struct body *body) {
    const struct document_saga_step *step = &attempt->saga->run->document->saga_steps[attempt->step];
    const char *name = saga_host_step_name(attempt), *op = saga_op_name(attempt->op);
    char key[192], saga[96], step_header[96], op_header[32], timeout[64], app_header[LS_IDENTITY_MAX + 32];
    (void)snprintf(key, sizeof key, "Idempotency-Key: %s:%s:%s", attempt->saga->gtid, name, op);
    (void)snprintf(saga, sizeof saga, "Lockstep-Saga: %s", attempt->saga->gtid);
    (void)snprintf(step_header, sizeof step_header, "Lockstep-Step: %s", name);
    (void)snprintf(op_header, sizeof op_header, "Lockstep-Op: %s", op);
    (void)snprintf(app_header, sizeof app_header, "Lockstep-App: %s", app);
    (void)snprintf(timeout, sizeof timeout, "Lockstep-Timeout-Ms: %" PRIu64, step->deadline_ms);
    struct web_request request = {
        .url = url,
        .headers = {key, saga, step_header, op_header, app_header, timeout},
        .body = body->text,
        .length = body->length,
        .answer_max = (size_t)conf->call_answer_max,
        .timeout_ms = step->deadline_ms,
        .ca = or_null(conf->calls_ca),
        .certificate = or_null(conf->calls_certificate),
        .key = or_null(conf->calls_key),
        .fresh = step->kind == SAGA_PIVOT, /* whether it came there before is what its answer is judged by */
    };
    attempt->call = web_post(web, &request, done, attempt);
    return attempt->call != NULL ? LS_OK : LS_ERR_NOMEM;
}

/* It did not leave. */
static void judge_failure(enum ls_status status, bool addressed, enum saga_op op, const struct ls_error *err,
                          struct saga_call_verdict *ret_verdict) {
    *ret_verdict = (struct saga_call_verdict){.answer = SAGA_ANSWER_ERROR, .local = true};
    (void)snprintf(ret_verdict->reason, sizeof ret_verdict->reason, "%s", err->text);
    if (status == LS_ERR_NOMEM) {
        ret_verdict->answer = SAGA_ANSWER_UNBEGUN;
        (void)snprintf(ret_verdict->reason, sizeof ret_verdict->reason, "out of memory");
    } else if (addressed && op == SAGA_OP_UNDO) {
        ret_verdict->answer = SAGA_ANSWER_BROKEN; /* what it refers to will not change */
    } else {
        ret_verdict->business = addressed; /* else: configured again, it can be called */
    }
}

bool saga_call_send(struct web *web, const struct coordinator_conf *conf, const char *app, struct run_attempt *attempt,
                    web_done *done, struct saga_call_verdict *ret_verdict) {
    struct ls_error err = {.text = ""};
    struct body body = {0};
    char url[URL_MAX];
    bool addressed = make_url(conf, attempt, url, &err) == LS_OK;
    enum ls_status status = addressed ? make_body(attempt, (size_t)conf->body_max, &body, &err) : LS_ERR_NOT_FOUND;
    if (status == LS_OK) {
        status = post(web, conf, app, attempt, done, url, &body);
    }
    free(body.text);
    if (status != LS_OK) {
        judge_failure(status, addressed, attempt->op, &err, ret_verdict);
    }
    return status == LS_OK;
}

/* ------------------------------------------------------------------ answers */

/* One readable line of what the service said. */
static void add_shown(const struct web_answer *answer, char *reason, size_t size) {
    char shown[SHOWN_MAX + 1];
    size_t used = strlen(reason);
    if (answer->length > 0 && text_utf8_valid(answer->body, answer->length)) {
        text_copy_line(shown, sizeof shown, answer->body);
        (void)snprintf(reason + used, size - used, ": %s", shown);
    }
}

/* The body as one JSON value, or NULL. */
static char *take_json(const struct web_answer *answer) {
    json_error_t error;
    json_t *value = answer->whole ? json_loadb(answer->body, answer->length, JSON_DECODE_ANY, &error) : NULL;
    char *text = value == NULL ? NULL : json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    json_decref(value);
    return text;
}

void saga_call_judge(const struct web_answer *answer, enum saga_op op, const char *service, bool referenced,
                     struct saga_call_verdict *ret_verdict) {
    struct saga_call_verdict *v = ret_verdict;
    *v = (struct saga_call_verdict){.answer = SAGA_ANSWER_ERROR};
    bool heard = answer->status >= 100 && (answer->whole || answer->too_large);
    if (!heard) {
        v->answer = answer->unreached ? SAGA_ANSWER_UNBEGUN : SAGA_ANSWER_ERROR;
        (void)snprintf(v->reason, sizeof v->reason, "%s did not answer: %s", service, answer->error);
        return;
    }
    if (answer->status >= 200 && answer->status < 300) {
        v->result = op == SAGA_OP_DO ? take_json(answer) : NULL;
        if (op == SAGA_OP_DO && referenced && v->result == NULL) {
            (void)snprintf(v->reason, sizeof v->reason, "%s answered %d without the JSON that others refer to%s",
                           service, answer->status,
                           answer->too_large ? ": the answer is too large (limits.call_answer)" : "");
            return;
        }
        v->answer = op == SAGA_OP_UNDO ? SAGA_ANSWER_UNDONE : SAGA_ANSWER_DONE;
        return;
    }
    bool redirect = answer->status >= 300 && answer->status < 400;
    v->final = answer->status == 409 && op == SAGA_OP_DO && answer->refused;
    v->business = v->final || (answer->status == 409 && op == SAGA_OP_DO && !answer->retry);
    (void)snprintf(v->reason, sizeof v->reason, "%s answered %d%s", service, answer->status,
                   redirect                                ? " (redirects are not followed)"
                   : answer->status == 409 && !v->business ? " (to be tried again)"
                                                           : "");
    add_shown(answer, v->reason, sizeof v->reason);
}
