/*
 * events.c: what only the agents know: events, the path of a choreographed saga, their dead letters, and what a
 * prepared branch blocks. The coordinator asks one of them or all, waits, and puts the answers together. Nothing here
 * is in the way of an event or a decision.
 */

#include <event2/buffer.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/daemon.h"
#include "common/diag.h"
#include "coordinator/api/internal.h"

#define JSON "application/json"
#define ASK_WAIT_MS 10000u

/* What one participant said. */
struct part {
    uint32_t participant;
    bool answered;
    const char *gid; /* ASK_BLOCKING, while it is asked */
    char *json;      /* NULL: it could not */
    char sqlstate[LS_SQLSTATE_LEN + 1], reason[LS_REASON_MAX + 1];
};

struct inquiry {
    uint64_t token;
    Lockstep__AskKind kind;
    struct request *request;
    struct part *parts;
    uint32_t count, outstanding, limit;
    char word[LS_REASON_MAX + 1]; /* the saga, or the letter's whole id */
    struct inquiry *next;
};

/* ---- answers */

static const char *name_of(const struct inquiry *inquiry, const struct part *part) {
    return registry_by_number(inquiry->request->api->host->registry, part->participant)->name;
}

static void add_missing(struct out *out, const struct inquiry *inquiry) {
    out_open(out, "missing", '[');
    for (uint32_t i = 0; i < inquiry->count; i++) {
        const struct part *part = &inquiry->parts[i];
        if (part->json != NULL) {
            continue;
        }
        out_open(out, NULL, '{');
        out_string(out, "participant", name_of(inquiry, part));
        out_string(out, "reason", part->reason);
        out_close(out, '}');
    }
    out_close(out, ']');
}

static const char *act_word(Lockstep__AskKind act) {
    return act == LOCKSTEP__ASK_KIND__ASK_RETRY ? "retry" : act == LOCKSTEP__ASK_KIND__ASK_SKIP ? "skip" : "compensate";
}

/* One participant's answer as it is, or why there is none. */
static int answer_one(struct inquiry *inquiry) {
    struct api *api = inquiry->request->api;
    const struct part *part = &inquiry->parts[0];
    const char *name = name_of(inquiry, part);
    if (part->json == NULL && strcmp(part->sqlstate, "42501") == 0) {
        answer_error(api, "not_allowed", NULL, true, "participant %s: %s", name, part->reason);
        return 403;
    }
    if (part->json == NULL) {
        /* Of an act nobody knows whether it was done: done twice it is refused, with 404. */
        answer_error(api, strcmp(part->sqlstate, "54000") == 0 ? "too_large" : "no_answer", NULL,
                     inquiry->kind == LOCKSTEP__ASK_KIND__ASK_EVENTS, "participant %s: %s", name, part->reason);
        return 503;
    }
    out_reset(&api->out);
    if (inquiry->kind == LOCKSTEP__ASK_KIND__ASK_EVENTS) {
        out_json(&api->out, NULL, part->json, strlen(part->json));
        return 200;
    }
    if (strcmp(part->json, "true") != 0) {
        answer_error(api, "no_such_letter", NULL, true, "%s is not a dead letter", inquiry->word);
        return 404;
    }
    out_open(&api->out, NULL, '{');
    out_string(&api->out, "id", inquiry->word);
    out_string(&api->out, "act", act_word(inquiry->kind));
    out_close(&api->out, '}');
    return 200;
}

/* Each participant's part under its name; the reader joins events and deliveries by source and position. */
static int answer_flow(struct inquiry *inquiry) {
    struct out *out = &inquiry->request->api->out;
    bool found = false, missing = false;
    out_reset(out);
    out_open(out, NULL, '{');
    out_string(out, "flow", inquiry->word);
    out_open(out, "participants", '[');
    for (uint32_t i = 0; i < inquiry->count; i++) {
        const struct part *part = &inquiry->parts[i];
        static const char nothing[] = "{\"events\" : [], \"deliveries\" : [], \"later\" : []}";
        missing = missing || part->json == NULL;
        if (part->json == NULL || strcmp(part->json, nothing) == 0) {
            continue;
        }
        found = true;
        out_open(out, NULL, '{');
        out_string(out, "participant", name_of(inquiry, part));
        out_json(out, "seen", part->json, strlen(part->json));
        out_close(out, '}');
    }
    out_close(out, ']');
    add_missing(out, inquiry);
    out_close(out, '}');
    if (!found && !missing) {
        answer_error(inquiry->request->api, "no_record", NULL, false, "no participant knows anything of %s",
                     inquiry->word);
        return 404;
    }
    return 200;
}

static int answer_letters(struct inquiry *inquiry) {
    struct out *out = &inquiry->request->api->out;
    out_reset(out);
    out_open(out, NULL, '{');
    out_open(out, "dead_letters", '[');
    for (uint32_t i = 0; i < inquiry->count; i++) {
        const struct part *part = &inquiry->parts[i];
        json_error_t error;
        json_t *list = part->json == NULL ? NULL : json_loads(part->json, 0, &error), *letter;
        size_t index;
        json_array_foreach(list, index, letter) {
            const char *id = json_string_value(json_object_get(letter, "id"));
            (void)json_object_set_new(letter, "participant", json_string(name_of(inquiry, part)));
            (void)json_object_set_new(letter, "id",
                                      json_sprintf("%s/%s", name_of(inquiry, part), id == NULL ? "" : id));
            char *text = json_dumps(letter, JSON_COMPACT);
            if (text != NULL) {
                out_json(out, NULL, text, strlen(text));
            }
            free(text);
        }
        json_decref(list);
    }
    out_close(out, ']');
    add_missing(out, inquiry);
    out_close(out, '}');
    return 200;
}

static int answer_flows(struct inquiry *inquiry) {
    struct out *out = &inquiry->request->api->out;
    json_t *flows = json_object();
    for (uint32_t i = 0; i < inquiry->count; i++) {
        const struct part *part = &inquiry->parts[i];
        json_error_t error;
        json_t *list = part->json == NULL ? NULL : json_loads(part->json, 0, &error);
        flows_add(flows, name_of(inquiry, part), list);
        json_decref(list);
    }
    out_reset(out);
    out_open(out, NULL, '{');
    out_open(out, "flows", '[');
    flows_write(out, flows, inquiry->limit);
    out_close(out, ']');
    add_missing(out, inquiry);
    out_close(out, '}');
    json_decref(flows);
    return 200;
}

static void inquiry_free(struct api *api, struct inquiry *inquiry) {
    struct inquiry **at = &api->inquiries;
    while (*at != inquiry) {
        at = &(*at)->next;
    }
    *at = inquiry->next;
    for (uint32_t i = 0; i < inquiry->count; i++) {
        free(inquiry->parts[i].json);
    }
    free(inquiry->parts);
    free(inquiry);
}

/* With what is there by now. */
static void finish(struct inquiry *inquiry) {
    struct request *request = inquiry->request;
    int code = 500;
    switch (inquiry->kind) {
    case LOCKSTEP__ASK_KIND__ASK_EVENTS:
    case LOCKSTEP__ASK_KIND__ASK_RETRY:
    case LOCKSTEP__ASK_KIND__ASK_SKIP:
    case LOCKSTEP__ASK_KIND__ASK_COMPENSATE:
        code = answer_one(inquiry);
        break;
    case LOCKSTEP__ASK_KIND__ASK_FLOW:
        code = answer_flow(inquiry);
        break;
    case LOCKSTEP__ASK_KIND__ASK_FLOWS:
        code = answer_flows(inquiry);
        break;
    case LOCKSTEP__ASK_KIND__ASK_LETTERS:
        code = answer_letters(inquiry);
        break;
    case LOCKSTEP__ASK_KIND__ASK_BLOCKING:
        request_blocking_known(request);
        return;
    case _LOCKSTEP__ASK_KIND_IS_INT_SIZE:
        break;
    }
    struct api *api = request->api;
    request->inquiry = NULL;
    inquiry_free(api, inquiry);
    server_reply(request->conn, request->http, code, JSON, NULL);
    request_free(request);
}

void request_inquiry_late(struct request *request) {
    finish(request->inquiry);
}

void request_inquiry_gone(struct request *request) {
    if (request->inquiry != NULL) {
        inquiry_free(request->api, request->inquiry);
        request->inquiry = NULL;
    }
}

static void part_answered(struct inquiry *inquiry, struct part *part) {
    part->answered = true;
    if (--inquiry->outstanding == 0) {
        finish(inquiry);
    }
}

void api_on_told(struct api *api, uint32_t participant, const Lockstep__Tell *tell) {
    struct inquiry *inquiry = api->inquiries;
    while (inquiry != NULL && inquiry->token != tell->token) {
        inquiry = inquiry->next;
    }
    for (uint32_t i = 0; inquiry != NULL && i < inquiry->count; i++) {
        struct part *part = &inquiry->parts[i];
        if (part->participant != participant || part->answered) {
            continue;
        }
        part->json = tell->json != NULL ? strdup(tell->json) : NULL;
        (void)snprintf(part->sqlstate, sizeof part->sqlstate, "%s", tell->sqlstate != NULL ? tell->sqlstate : "");
        (void)snprintf(part->reason, sizeof part->reason, "%s", tell->reason != NULL ? tell->reason : "it has failed");
        part_answered(inquiry, part);
        return;
    }
}

void api_on_agent_down(struct api *api, uint32_t participant) {
    if (api == NULL) {
        return; /* the process ends */
    }
    for (struct inquiry *inquiry = api->inquiries, *next; inquiry != NULL; inquiry = next) {
        next = inquiry->next;
        for (uint32_t i = 0; i < inquiry->count; i++) {
            struct part *part = &inquiry->parts[i];
            if (part->participant == participant && !part->answered) {
                (void)snprintf(part->reason, sizeof part->reason, "its link was lost");
                part_answered(inquiry, part);
                break;
            }
        }
    }
}

/* ---- questions */

static void reply_error(struct conn *conn, struct evhttp_request *http, int status, const char *code,
                        const char *message) {
    answer_error(conn->listener->api, code, NULL, true, "%s", message);
    server_reply(conn, http, status, JSON, NULL);
}

/* With room for `count` parts; NULL: 429 has been said. */
static struct inquiry *inquiry_new(struct conn *conn, struct evhttp_request *http, uint32_t count, const char *word) {
    struct api *api = conn->listener->api;
    struct request *request = request_new(conn, http, REQUEST_INQUIRY);
    struct inquiry *inquiry = calloc(1, sizeof *inquiry);
    struct part *parts = calloc(count + 1, sizeof *parts);
    if (request == NULL || inquiry == NULL || parts == NULL) {
        free(inquiry);
        free(parts);
        if (request != NULL) {
            request_free(request);
        }
        reply_error(conn, http, 429, "no_memory", "out of memory");
        return NULL;
    }
    inquiry->token = ++api->inquiry_token;
    inquiry->request = request;
    inquiry->parts = parts;
    (void)snprintf(inquiry->word, sizeof inquiry->word, "%s", word);
    inquiry->next = api->inquiries;
    api->inquiries = inquiry;
    request->inquiry = inquiry;
    return inquiry;
}

static struct part *add_part(struct inquiry *inquiry, uint32_t participant) {
    struct part *part = &inquiry->parts[inquiry->count++];
    part->participant = participant;
    return part;
}

/* Asks the participants of its parts. It may be answered, and gone, when this returns. */
static void ask_parts(struct inquiry *inquiry, Lockstep__Ask *body) {
    struct request *request = inquiry->request;
    struct api *api = request->api;
    inquiry->kind = body->kind;
    inquiry->limit = body->has_limit ? body->limit : 0;
    body->token = inquiry->token;
    body->who = request->conn->identity;
    for (uint32_t i = 0; i < inquiry->count; i++) {
        struct part *part = &inquiry->parts[i];
        (void)snprintf(part->reason, sizeof part->reason, "it has not answered");
        body->gid = (char *)(uintptr_t)part->gid;
        if (agents_ask(api->host->agents, part->participant, body)) {
            inquiry->outstanding++;
        } else {
            part->answered = true;
            (void)snprintf(part->reason, sizeof part->reason, "its agent is not linked");
        }
    }
    if (inquiry->outstanding == 0) {
        finish(inquiry);
    } else {
        request_wait(request, ASK_WAIT_MS); /* in a bucket of its own: nothing but its timer and the answers finds it */
    }
}

/* Asks one participant, or (0) every one that ever joined. `word` is remembered for the answer. */
static void ask(struct conn *conn, struct evhttp_request *http, uint32_t participant, Lockstep__Ask *body,
                const char *word) {
    struct registry *registry = conn->listener->api->host->registry;
    struct inquiry *inquiry = inquiry_new(conn, http, participant != 0 ? 1 : registry_highest(registry), word);
    if (inquiry == NULL) {
        return;
    }
    if (participant != 0) {
        (void)add_part(inquiry, participant);
    }
    for (uint32_t number = 1; participant == 0 && number <= registry_highest(registry); number++) {
        if (registry_by_number(registry, number) != NULL) {
            (void)add_part(inquiry, number);
        }
    }
    ask_parts(inquiry, body);
}

static uint32_t number_of(struct api *api, const char *name) {
    const struct registry_participant *found = name == NULL ? NULL : registry_by_name(api->host->registry, name);
    return found == NULL ? 0 : found->number;
}

void handle_events(struct conn *conn, struct evhttp_request *http, const struct events_query *query) {
    struct api *api = conn->listener->api;
    uint32_t participant = number_of(api, query->participant);
    if (participant == 0) {
        reply_error(conn, http, query->participant == NULL ? 400 : 404,
                    query->participant == NULL ? "bad_query" : "unknown_participant",
                    query->participant == NULL ? "participant: whose events?"
                                               : "no participant of that name ever joined");
        return;
    }
    Lockstep__Ask body = LOCKSTEP__ASK__INIT;
    body.kind = LOCKSTEP__ASK_KIND__ASK_EVENTS;
    body.type = (char *)(uintptr_t)query->type;
    body.key = (char *)(uintptr_t)query->key;
    body.has_offset = body.has_limit = true;
    body.offset = query->offset;
    body.limit = query->limit;
    ask(conn, http, participant, &body, "");
}

void handle_flow(struct conn *conn, struct evhttp_request *http, const char *saga) {
    Lockstep__Ask body = LOCKSTEP__ASK__INIT;
    body.kind = LOCKSTEP__ASK_KIND__ASK_FLOW;
    body.saga = (char *)(uintptr_t)saga;
    ask(conn, http, 0, &body, saga);
}

void handle_flows(struct conn *conn, struct evhttp_request *http, uint32_t limit) {
    Lockstep__Ask body = LOCKSTEP__ASK__INIT;
    body.kind = LOCKSTEP__ASK_KIND__ASK_FLOWS;
    body.has_limit = true;
    body.limit = limit;
    ask(conn, http, 0, &body, "");
}

/* `id` "participant/rest": only that one, with payload and history. */
void handle_event_letters(struct conn *conn, struct evhttp_request *http, const char *id, uint32_t limit) {
    Lockstep__Ask body = LOCKSTEP__ASK__INIT;
    char name[LS_PARTICIPANT_MAX + 1];
    uint32_t participant = 0;
    body.kind = LOCKSTEP__ASK_KIND__ASK_LETTERS;
    body.has_limit = true;
    body.limit = limit;
    if (id != NULL) {
        size_t length = strcspn(id, "/");
        (void)snprintf(name, sizeof name, "%.*s", (int)(length < sizeof name ? length : 0), id);
        participant = number_of(conn->listener->api, name);
        body.letter = (char *)(uintptr_t)(id + length + (id[length] == '/' ? 1 : 0));
        if (participant == 0 || body.letter[0] == '\0') {
            reply_error(conn, http, 404, "no_such_letter", "no dead letter has that id");
            return;
        }
    }
    ask(conn, http, participant, &body, id != NULL ? id : "");
}

/* {"id": "...", "reason": "..."} */
void handle_event_act(struct conn *conn, struct evhttp_request *http, Lockstep__AskKind act) {
    struct evbuffer *input = evhttp_request_get_input_buffer(http);
    size_t length = evbuffer_get_length(input);
    const char *text = length <= 4096 ? (const char *)evbuffer_pullup(input, -1) : NULL;
    json_error_t error;
    json_t *root = text == NULL ? NULL : json_loadb(text, length, JSON_REJECT_DUPLICATES, &error);
    const char *id = json_string_value(json_object_get(root, "id"));
    const char *reason = json_string_value(json_object_get(root, "reason"));
    size_t fields = (id != NULL ? 1u : 0u) + (reason != NULL ? 1u : 0u);
    size_t name_length = id == NULL ? 0 : strcspn(id, "/");
    char name[LS_PARTICIPANT_MAX + 1];
    if (id == NULL || json_object_size(root) != fields || strlen(id) > LS_REASON_MAX ||
        name_length > LS_PARTICIPANT_MAX) {
        reply_error(conn, http, 400, "invalid_value", "expected {\"id\": \"participant/...\", \"reason\": \"...\"}");
        json_decref(root);
        return;
    }
    (void)snprintf(name, sizeof name, "%.*s", (int)name_length, id);
    uint32_t participant = number_of(conn->listener->api, name);
    if (participant == 0 || id[name_length] != '/' || id[name_length + 1] == '\0') {
        reply_error(conn, http, 404, "no_such_letter", "no dead letter has that id");
    } else {
        Lockstep__Ask body = LOCKSTEP__ASK__INIT;
        body.kind = act;
        body.letter = (char *)(uintptr_t)(id + name_length + 1);
        diag(DIAG_INFO, "dead letter", "id", id, "act", act_word(act), "by", conn->identity, "reason",
             reason != NULL ? reason : "", NULL);
        ask(conn, http, participant, &body, id);
    }
    json_decref(root);
}

/* ---- what the prepared branches of a transaction block */

bool branch_may_block(const struct txn_branch *branch) {
    return branch->id.xid != 0 && branch->state != BR_READ_ONLY && branch->state != BR_NO &&
           branch->state != BR_COMMITTED && branch->state != BR_ABORTED;
}

void handle_blocking(struct conn *conn, struct evhttp_request *http, const struct txn *txn) {
    Lockstep__Ask body = LOCKSTEP__ASK__INIT;
    struct inquiry *inquiry = inquiry_new(conn, http, txn->branch_count, "");
    if (inquiry == NULL) {
        return;
    }
    struct request *request = inquiry->request;
    request->epoch = txn->epoch;
    request->sequence = txn->sequence;
    request->wait = ROUTE_WAIT_DECIDED;
    for (uint32_t i = 0; i < txn->branch_count; i++) {
        if (branch_may_block(&txn->branches[i])) {
            add_part(inquiry, txn->branches[i].participant)->gid = txn->branches[i].gid;
        }
    }
    body.kind = LOCKSTEP__ASK_KIND__ASK_BLOCKING;
    ask_parts(inquiry, &body);
}

void inquiry_add_blocking(struct out *out, const struct inquiry *inquiry, uint32_t participant) {
    for (uint32_t i = 0; inquiry != NULL && i < inquiry->count; i++) {
        const struct part *part = &inquiry->parts[i];
        if (part->participant != participant) {
            continue;
        }
        if (part->json != NULL) {
            out_json(out, "blocking", part->json, strlen(part->json));
        } else {
            out_open(out, "blocking", '{');
            out_string(out, "unknown", part->reason);
            out_close(out, '}');
        }
    }
}
