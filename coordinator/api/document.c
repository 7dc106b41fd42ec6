/* document.c: see document.h. The walk goes key by key over the tree, so that an unknown key is met like any other. */
#include "coordinator/api/document.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/statement.h"

#define ROW_REF_MAX 1000000u
#define CALL_PATH_MAX 1024u

struct walk {
    const struct document_limits *limits;
    struct document *document;
    struct document_error *error;
    /* what is being looked at, for paths */
    size_t step;
    const char *part; /* "do", "undo" */
    /* allocation cursors */
    struct document_arg *arg_next;
    uint16_t *after_next;
    uint16_t *after_seen; /* per step: the step (plus one) that listed it last */
    json_t *names;        /* name -> index of the earlier steps that have one; made with the first name */
    bool is_undo, is_call;
    const char *field;      /* of a call's body, NULL elsewhere */
    const json_t *own_name; /* of the step being looked at; NULL when it has none */
    bool any_after;         /* some step says `after` */
};

static enum ls_status fail(struct walk *walk, enum ls_status status, const char *code, const char *path,
                           const char *fmt, ...) LS_PRINTF(5, 6);
static enum ls_status fail(struct walk *walk, enum ls_status status, const char *code, const char *path,
                           const char *fmt, ...) {
    walk->error->code = code;
    (void)snprintf(walk->error->path, sizeof walk->error->path, "%s", path);
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(walk->error->message, sizeof walk->error->message, fmt, args); /* cut is fine: it is for a human */
    va_end(args);
    return status;
}

/* Paths are only built once something is wrong. */
struct path {
    char text[DOCUMENT_PATH_MAX];
};
static struct path step_path(const struct walk *walk, const char *key) {
    struct path path;
    (void)snprintf(path.text, sizeof path.text, "steps[%zu]%s%s", walk->step, key == NULL ? "" : ".",
                   key == NULL ? "" : key);
    return path;
}
static struct path part_path(const struct walk *walk, const char *key) {
    struct path path;
    (void)snprintf(path.text, sizeof path.text, "steps[%zu].%s.%s", walk->step, walk->part, key);
    return path;
}
static struct path arg_path(const struct walk *walk, size_t index) {
    struct path path;
    if (walk->field != NULL) {
        (void)snprintf(path.text, sizeof path.text, "steps[%zu].%s.body.%.64s", walk->step, walk->part, walk->field);
    } else {
        (void)snprintf(path.text, sizeof path.text, "steps[%zu].%s.args[%zu]", walk->step, walk->part, index);
    }
    return path;
}

static const char *type_name(const json_t *value) {
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a number with a fraction or exponent";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    case JSON_NULL:
        return "null";
    }
    return "something else";
}

static enum ls_status wrong_type(struct walk *walk, const char *path, const char *expected, const json_t *value) {
    return fail(walk, LS_ERR_INVALID, "wrong_type", path, "expected %s, found %s", expected, type_name(value));
}
static enum ls_status unknown_field(struct walk *walk, const char *path, const char *key) {
    return fail(walk, LS_ERR_INVALID, "unknown_field", path, "there is no field \"%.64s\" here", key);
}
static enum ls_status missing(struct walk *walk, const char *path, const char *key) {
    return fail(walk, LS_ERR_INVALID, "missing_field", path, "\"%s\" is required", key);
}

enum ls_status document_duration(const char *text, uint64_t *ret_ms) {
    static const struct {
        const char *unit;
        uint64_t ms;
    } units[] = {{"ms", 1}, {"s", 1000}, {"min", 60000}, {"h", 3600000}};
    uint64_t value = 0;
    const char *at = text;
    for (; *at >= '0' && *at <= '9'; at++) {
        if (value > 1000000000000u) {
            return LS_ERR_INVALID;
        }
        value = value * 10 + (uint64_t)(*at - '0');
    }
    if (at == text) {
        return LS_ERR_INVALID;
    }
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcmp(at, units[i].unit) == 0 && value <= UINT64_MAX / units[i].ms) {
            *ret_ms = value * units[i].ms;
            return LS_OK;
        }
    }
    return LS_ERR_INVALID;
}

/* ---- arguments ---- */

/* Index of an earlier step, or UINT32_MAX. */
static uint32_t find_step(const struct walk *walk, const char *name, size_t length) {
    const json_t *found = walk->names == NULL ? NULL : json_object_getn(walk->names, name, length);
    return found == NULL ? UINT32_MAX : (uint32_t)json_integer_value(found);
}

/* "rows.0.id", "rows_affected", or of a call "result.id" */
static bool ref_rest(const char *at, bool of_call, struct document_arg *arg) {
    if (of_call) {
        bool whole = strcmp(at, "result") == 0;
        if (!whole && (strncmp(at, "result.", 7) != 0 || at[7] == '\0')) {
            return false;
        }
        arg->ref_kind = DOCUMENT_REF_RESULT;
        arg->text = at + (whole ? 6 : 7);
        return true;
    }
    if (strcmp(at, "rows_affected") == 0) {
        arg->ref_kind = DOCUMENT_REF_ROWS_AFFECTED;
        return true;
    }
    if (strncmp(at, "rows.", 5) != 0) {
        return false;
    }
    at += 5;
    const char *digits = at;
    for (; *at >= '0' && *at <= '9' && arg->ref_row <= ROW_REF_MAX; at++) {
        arg->ref_row = arg->ref_row * 10 + (uint32_t)(*at - '0');
    }
    arg->ref_kind = DOCUMENT_REF_CELL;
    arg->text = at + 1;
    return at != digits && *at == '.' && at[1] != '\0' && arg->ref_row <= ROW_REF_MAX;
}

/* "order.rows.0.id", "order.rows_affected", "payment.result.id" */
static enum ls_status walk_ref(struct walk *walk, const json_t *value, struct document_arg *arg, size_t index) {
    if (walk->is_undo && !walk->document->saga) {
        return fail(walk, LS_ERR_INVALID, "invalid_value", arg_path(walk, index).text,
                    "\"ref\" cannot be used in \"undo\"");
    }
    if (!json_is_string(value)) {
        return wrong_type(walk, arg_path(walk, index).text, "a string such as \"order.rows.0.id\"", value);
    }
    const char *text = json_string_value(value);
    const char *dot = strchr(text, '.');
    const char *form = "a reference reads NAME.rows.ROW.COLUMN or NAME.rows_affected, or of a call NAME.result.FIELD, "
                       "where NAME is the "
                       "name of an earlier step";
    if (dot == NULL) {
        return fail(walk, LS_ERR_INVALID, "invalid_value", arg_path(walk, index).text, "%s", form);
    }
    uint32_t step = find_step(walk, text, (size_t)(dot - text));
    const char *own = walk->is_undo ? json_string_value(walk->own_name) : NULL;
    if (own != NULL && strlen(own) == (size_t)(dot - text) && strncmp(own, text, strlen(own)) == 0) {
        step = (uint32_t)walk->step;
    }
    if (step == UINT32_MAX) {
        return fail(walk, LS_ERR_INVALID, "invalid_value", arg_path(walk, index).text,
                    "no earlier step is named \"%.*s\"",
                    dot - text > LS_PARTICIPANT_MAX ? LS_PARTICIPANT_MAX : (int)(dot - text), text);
    }
    arg->kind = DOCUMENT_ARG_REF;
    arg->ref_step = step;
    walk->document->steps[step].referenced = true;
    walk->document->steps[walk->step].has_ref = true;
    if (walk->is_undo && step != walk->step) {
        walk->document->saga_steps[walk->step].undo_refers = true;
    }
    bool of_call = step == walk->step ? walk->is_call : walk->document->saga_steps[step].service != NULL;
    if (of_call && walk->is_undo && !walk->is_call) {
        return fail(
            walk, LS_ERR_INVALID, "invalid_value", arg_path(walk, index).text,
            "what a call answered may be lost when this is undone: only the \"undo\" of a call can refer to it");
    }
    return ref_rest(dot + 1, of_call, arg)
               ? LS_OK
               : fail(walk, LS_ERR_INVALID, "invalid_value", arg_path(walk, index).text, "%s", form);
}

bool document_has_real(const json_t *value) {
    bool found = json_is_real(value);
    const char *key;
    json_t *inner;
    size_t index;
    json_array_foreach(value, index, inner) {
        found = found || document_has_real(inner);
    }
    json_object_foreach((json_t *)(uintptr_t)value, key, inner) {
        found = found || document_has_real(inner);
    }
    return found;
}

static enum ls_status refuse_real(struct walk *walk, size_t index) {
    return fail(walk, LS_ERR_INVALID, "wrong_type", arg_path(walk, index).text,
                "numbers in args are integers; send decimals as strings (\"30.10\"), so that nothing is rounded");
}

static enum ls_status walk_arg_object(struct walk *walk, const json_t *value, struct document_arg *arg, size_t index) {
    const char *key;
    json_t *inner;
    enum ls_status status = LS_OK;
    if (json_object_size(value) != 1) {
        return fail(walk, LS_ERR_INVALID, "invalid_value", arg_path(walk, index).text,
                    "an object argument has exactly one field, \"json\" or \"ref\"");
    }
    json_object_foreach((json_t *)(uintptr_t)value, key, inner) {
        if (strcmp(key, "ref") == 0) {
            status = walk_ref(walk, inner, arg, index);
        } else if (strcmp(key, "json") == 0) {
            arg->kind = DOCUMENT_ARG_TEXT;
            arg->json = inner;
            arg->owned = json_dumps(inner, JSON_COMPACT | JSON_ENCODE_ANY);
            arg->text = arg->owned;
            if (document_has_real(inner) && !walk->limits->from_log) {
                status = refuse_real(walk, index);
            } else if (arg->owned == NULL) {
                status = fail(walk, LS_ERR_NOMEM, "no_memory", arg_path(walk, index).text, "out of memory");
            }
        } else {
            status = fail(walk, LS_ERR_INVALID, "unknown_field", arg_path(walk, index).text,
                          "an object argument is {\"json\": ...} or {\"ref\": ...}, not {\"%.64s\": ...}", key);
        }
    }
    return status;
}

static enum ls_status walk_arg(struct walk *walk, const json_t *value, struct document_arg *arg, size_t index) {
    *arg = (struct document_arg){.kind = DOCUMENT_ARG_TEXT, .field = walk->field, .json = value};
    switch (json_typeof(value)) {
    case JSON_STRING:
        arg->text = json_string_value(value);
        return LS_OK;
    case JSON_INTEGER:
        (void)snprintf(arg->number, sizeof arg->number, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        arg->text = arg->number;
        return LS_OK;
    case JSON_TRUE:
    case JSON_FALSE:
        arg->text = json_is_true(value) ? "true" : "false";
        return LS_OK;
    case JSON_NULL:
        arg->kind = DOCUMENT_ARG_NULL;
        return LS_OK;
    case JSON_REAL:
        return refuse_real(walk, index);
    case JSON_ARRAY:
        return fail(walk, LS_ERR_INVALID, "wrong_type", arg_path(walk, index).text,
                    "an argument is a string, integer, boolean, null or {\"json\": ...}; send an array as text "
                    "(\"{1,2}\") or as json");
    case JSON_OBJECT:
        return walk_arg_object(walk, value, arg, index);
    }
    return wrong_type(walk, arg_path(walk, index).text, "a string, integer, boolean, null or object", value);
}

static enum ls_status walk_args(struct walk *walk, const json_t *value, struct document_step *step) {
    if (!json_is_array(value)) {
        return wrong_type(walk, part_path(walk, "args").text, "an array", value);
    }
    size_t count = json_array_size(value);
    if (count > UINT16_MAX) { /* the protocol of PostgreSQL counts parameters in 16 bits */
        return fail(walk, LS_ERR_TOO_LARGE, "too_large", part_path(walk, "args").text, "at most %u arguments",
                    UINT16_MAX);
    }
    step->args = walk->arg_next;
    step->arg_count = (uint32_t)count;
    for (size_t i = 0; i < count; i++) {
        struct document_arg *arg = walk->arg_next++;
        enum ls_status status = walk_arg(walk, json_array_get(value, i), arg, i);
        if (status != LS_OK) {
            return status;
        }
    }
    return LS_OK;
}

/* The fields of a call's body are arguments with names. */
static enum ls_status walk_body(struct walk *walk, const json_t *value, struct document_step *step) {
    if (!json_is_object(value)) {
        return wrong_type(walk, part_path(walk, "body").text, "an object", value);
    }
    const char *key;
    json_t *inner;
    enum ls_status status = LS_OK;
    step->args = walk->arg_next;
    json_object_foreach((json_t *)(uintptr_t)value, key, inner) {
        walk->field = key;
        step->arg_count++;
        status = status == LS_OK ? walk_arg(walk, inner, walk->arg_next++, 0) : status;
    }
    walk->field = NULL;
    return status;
}

/* Segments of letters, digits and "-._~": nothing that a proxy or a service could read as another path. */
static bool is_path(const char *text, size_t length) {
    if (length == 0 || length > CALL_PATH_MAX || strlen(text) != length) {
        return false;
    }
    while (*text == '/') {
        size_t segment = strspn(++text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~");
        if (segment == strspn(text, ".")) {
            return false; /* empty, "." or ".." */
        }
        text += segment;
    }
    return *text == '\0';
}

/* ---- steps ---- */

/* "do" or "undo" of a call: {"path": ..., "body": {...}} */
static enum ls_status walk_call_action(struct walk *walk, const json_t *value, struct document_step *step) {
    const char *key;
    json_t *inner;
    enum ls_status status = LS_OK;
    json_object_foreach((json_t *)(uintptr_t)value, key, inner) {
        if (status != LS_OK) {
            break;
        }
        if (strcmp(key, "body") == 0) {
            status = walk_body(walk, inner, step);
        } else if (strcmp(key, "path") != 0) {
            status = unknown_field(walk, part_path(walk, key).text, key);
        } else if (!json_is_string(inner)) {
            status = wrong_type(walk, part_path(walk, "path").text, "a string", inner);
        } else if (!is_path(json_string_value(inner), json_string_length(inner))) {
            status = fail(walk, LS_ERR_INVALID, "invalid_value", part_path(walk, "path").text,
                          "expected a path such as \"/charges\", of letters, digits and \"-._~\", at most %u bytes",
                          CALL_PATH_MAX);
        } else {
            step->path = json_string_value(inner);
        }
    }
    return status == LS_OK && step->path == NULL ? missing(walk, part_path(walk, "path").text, "path") : status;
}

/* "do" or "undo": {"sql": ..., "args": [...], "expect_rows": n} */
static enum ls_status walk_action(struct walk *walk, const json_t *value, const char *part,
                                  struct document_step *step) {
    walk->part = part;
    walk->is_undo = strcmp(part, "undo") == 0;
    if (!json_is_object(value)) {
        return wrong_type(walk, step_path(walk, part).text, "an object", value);
    }
    if (walk->is_call) {
        return walk_call_action(walk, value, step);
    }
    const char *key;
    json_t *inner;
    json_object_foreach((json_t *)(uintptr_t)value, key, inner) {
        if (strcmp(key, "sql") == 0) {
            if (!json_is_string(inner)) {
                return wrong_type(walk, part_path(walk, "sql").text, "a string", inner);
            }
            struct ls_error error;
            step->sql = json_string_value(inner);
            if (statement_check(step->sql, json_string_length(inner), &error) != LS_OK) {
                return fail(walk, LS_ERR_INVALID, "statement_not_allowed", part_path(walk, "sql").text, "%s",
                            error.text);
            }
        } else if (strcmp(key, "args") == 0) {
            enum ls_status status = walk_args(walk, inner, step);
            if (status != LS_OK) {
                return status;
            }
        } else if (strcmp(key, "expect_rows") == 0) {
            if (!json_is_integer(inner)) {
                return wrong_type(walk, part_path(walk, "expect_rows").text, "an integer", inner);
            }
            if (json_integer_value(inner) < 0 || json_integer_value(inner) > INT32_MAX) {
                return fail(walk, LS_ERR_INVALID, "invalid_value", part_path(walk, "expect_rows").text,
                            "expected 0 to %d", INT32_MAX);
            }
            step->expect_rows = (uint32_t)json_integer_value(inner);
            step->has_expect_rows = true;
        } else {
            return unknown_field(walk, part_path(walk, key).text, key);
        }
    }
    if (step->sql == NULL) {
        return missing(walk, part_path(walk, "sql").text, "sql");
    }
    return LS_OK;
}

static void add_after(struct walk *walk, struct engine_step_spec *spec, uint32_t step) {
    if (walk->after_seen[step] == walk->step + 1) {
        return;
    }
    walk->after_seen[step] = (uint16_t)(walk->step + 1);
    *walk->after_next++ = (uint16_t)step;
    spec->after_count++;
}

static enum ls_status walk_after_one(struct walk *walk, const json_t *value, struct engine_step_spec *spec) {
    uint32_t step = UINT32_MAX;
    if (json_is_string(value)) {
        step = find_step(walk, json_string_value(value), json_string_length(value));
        if (step == UINT32_MAX) {
            return fail(walk, LS_ERR_INVALID, "invalid_value", step_path(walk, "after").text,
                        "no earlier step is named \"%.64s\"", json_string_value(value));
        }
    } else if (json_is_integer(value)) {
        json_int_t index = json_integer_value(value);
        if (index < 0 || (size_t)index >= walk->step) {
            return fail(walk, LS_ERR_INVALID, "invalid_value", step_path(walk, "after").text,
                        "%" JSON_INTEGER_FORMAT " is not the index of an earlier step", index);
        }
        step = (uint32_t)index;
    } else {
        return wrong_type(walk, step_path(walk, "after").text,
                          "the name or index of an earlier step, or an array of them", value);
    }
    add_after(walk, spec, step);
    return LS_OK;
}

/* What `after` says, and what the references imply. Runs when names of all earlier steps are known. */
static enum ls_status walk_after(struct walk *walk, const json_t *value, struct engine_step_spec *spec) {
    spec->after = walk->after_next;
    enum ls_status status = LS_OK;
    if (value != NULL && json_is_array(value)) {
        for (size_t i = 0; i < json_array_size(value) && status == LS_OK; i++) {
            status = walk_after_one(walk, json_array_get(value, i), spec);
        }
    } else if (value != NULL) {
        status = walk_after_one(walk, value, spec);
    }
    if (walk->document->saga && !walk->any_after && walk->step > 0 && status == LS_OK) {
        add_after(walk, spec, (uint32_t)walk->step - 1);
    }
    const struct document_step *step = &walk->document->steps[walk->step];
    for (uint32_t i = 0; i < step->arg_count && status == LS_OK; i++) {
        if (step->args[i].kind == DOCUMENT_ARG_REF) {
            add_after(walk, spec, step->args[i].ref_step);
        }
    }
    return status;
}

static enum ls_status walk_on(struct walk *walk, const json_t *value, struct engine_step_spec *spec) {
    struct document *document = walk->document;
    if (!json_is_string(value)) {
        return wrong_type(walk, step_path(walk, "on").text, "a string", value);
    }
    const char *name = json_string_value(value);
    uint32_t number =
        ls_name_valid(name, LS_PARTICIPANT_MAX) ? walk->limits->participant(walk->limits->context, name) : 0;
    if (number == 0) {
        return fail(walk, LS_ERR_INVALID, "unknown_participant", step_path(walk, "on").text,
                    "no participant named \"%.64s\" has ever joined", name);
    }
    uint32_t branch = 0;
    while (branch < document->participant_count && document->participants[branch] != number) {
        branch++;
    }
    if (branch == document->participant_count) {
        if (branch >= walk->limits->participants) {
            return fail(walk, LS_ERR_TOO_LARGE, "too_large", step_path(walk, "on").text,
                        "more than %u participants in one transaction", walk->limits->participants);
        }
        document->participants[document->participant_count++] = number;
    }
    spec->branch = (uint16_t)branch;
    return LS_OK;
}

static enum ls_status walk_call(struct walk *walk, const json_t *value) {
    const struct document_limits *limits = walk->limits;
    if (!json_is_string(value)) {
        return wrong_type(walk, step_path(walk, "call").text, "the name of a service", value);
    }
    const char *name = json_string_value(value);
    if (!walk->document->saga) {
        return fail(walk, LS_ERR_INVALID, "invalid_value", step_path(walk, "call").text,
                    "a service cannot take part in a transaction: only a step of a saga can be a call");
    }
    if (!ls_name_valid(name, LS_PARTICIPANT_MAX) || limits->service == NULL ||
        !limits->service(limits->service_context, name)) {
        return fail(walk, LS_ERR_INVALID, "unknown_service", step_path(walk, "call").text,
                    "no service named \"%.64s\" is configured (calls.services)", name);
    }
    walk->document->saga_steps[walk->step].service = name;
    return LS_OK;
}

static enum ls_status walk_name(struct walk *walk, const json_t *value, struct document_step *step) {
    if (!json_is_string(value)) {
        return wrong_type(walk, step_path(walk, "name").text, "a string", value);
    }
    const char *name = json_string_value(value);
    if (!ls_name_valid(name, LS_PARTICIPANT_MAX)) {
        return fail(walk, LS_ERR_INVALID, "invalid_value", step_path(walk, "name").text,
                    "a name has 1 to %d letters, digits, '_' and '-'", LS_PARTICIPANT_MAX);
    }
    if (strspn(name, "0123456789") == strlen(name)) {
        return fail(walk, LS_ERR_INVALID, "invalid_value", step_path(walk, "name").text,
                    "\"%s\" is a number: so are steps called that have no name", name);
    }
    if (find_step(walk, name, strlen(name)) != UINT32_MAX) {
        return fail(walk, LS_ERR_INVALID, "invalid_value", step_path(walk, "name").text,
                    "an earlier step is named \"%s\" too", name);
    }
    step->name = name;
    return LS_OK;
}

static enum ls_status walk_duration(struct walk *walk, const char *key, const json_t *value, uint64_t min, uint64_t max,
                                    uint64_t *ret_ms);

static enum ls_status walk_attempts(struct walk *walk, const json_t *value, uint32_t *ret_attempts) {
    if (!json_is_integer(value)) {
        return wrong_type(walk, step_path(walk, "attempts").text, "an integer", value);
    }
    if (json_integer_value(value) < 1 || json_integer_value(value) > LS_SAGA_ATTEMPTS_MAX) {
        return fail(walk, LS_ERR_INVALID, "invalid_value", step_path(walk, "attempts").text, "expected 1 to %u",
                    LS_SAGA_ATTEMPTS_MAX);
    }
    *ret_attempts = (uint32_t)json_integer_value(value);
    return LS_OK;
}

static enum ls_status walk_kind(struct walk *walk, const json_t *value) {
    static const enum saga_kind kinds[] = {SAGA_COMPENSATABLE, SAGA_PIVOT, SAGA_RETRIABLE};
    if (!json_is_string(value)) {
        return wrong_type(walk, step_path(walk, "kind").text, "a string", value);
    }
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(json_string_value(value), saga_kind_name(kinds[i])) == 0) {
            walk->document->saga_steps[walk->step].kind = kinds[i];
            walk->document->saga_steps[walk->step].has_kind = true;
            return LS_OK;
        }
    }
    return fail(walk, LS_ERR_INVALID, "invalid_value", step_path(walk, "kind").text,
                "expected \"compensatable\", \"pivot\" or \"retriable\"");
}

/* Only now, so that a step is not found by itself. */
static enum ls_status remember_name(struct walk *walk, const struct document_step *step) {
    if (step->name == NULL) {
        return LS_OK;
    }
    if (walk->names == NULL) {
        walk->names = json_object();
    }
    if (json_object_set_new(walk->names, step->name, json_integer((json_int_t)walk->step)) != 0) {
        return fail(walk, LS_ERR_NOMEM, "no_memory", step_path(walk, "name").text, "out of memory");
    }
    return LS_OK;
}

static enum ls_status walk_step(struct walk *walk, const json_t *value) {
    struct document_step *step = &walk->document->steps[walk->step];
    struct engine_step_spec *spec = &walk->document->specs[walk->step];
    struct document_saga_step *saga = &walk->document->saga_steps[walk->step];
    saga->deadline_ms = walk->limits->deadline_ms;
    if (!json_is_object(value)) {
        return wrong_type(walk, step_path(walk, NULL).text, "an object", value);
    }
    bool has_on = false, has_do = false;
    walk->is_call = json_object_get(value, "call") != NULL;
    const json_t *after = NULL;
    walk->own_name = json_object_get(value, "name");
    const char *key;
    json_t *inner;
    json_object_foreach((json_t *)(uintptr_t)value, key, inner) {
        enum ls_status status = LS_OK;
        if (strcmp(key, "on") == 0) {
            has_on = true;
            status = walk_on(walk, inner, spec);
        } else if (strcmp(key, "do") == 0) {
            has_do = true;
            status = walk_action(walk, inner, "do", step);
        } else if (strcmp(key, "undo") == 0) {
            status = walk_action(walk, inner, "undo", &saga->undo);
        } else if (strcmp(key, "name") == 0) {
            status = walk_name(walk, inner, step);
        } else if (strcmp(key, "after") == 0) {
            after = inner;
        } else if (strcmp(key, "kind") == 0) {
            status = walk_kind(walk, inner);
        } else if (strcmp(key, "attempts") == 0) {
            status = walk_attempts(walk, inner, &saga->attempts);
        } else if (strcmp(key, "deadline") == 0) {
            status = walk_duration(walk, step_path(walk, key).text, inner, LS_DEADLINE_MS_MIN, LS_DEADLINE_MS_MAX,
                                   &saga->deadline_ms);
        } else if (strcmp(key, "call") == 0) {
            status = walk_call(walk, inner);
        } else {
            status = unknown_field(walk, step_path(walk, key).text, key);
        }
        if (status != LS_OK) {
            return status;
        }
    }
    if (has_on == walk->is_call) {
        return has_on ? fail(walk, LS_ERR_INVALID, "invalid_value", step_path(walk, "on").text,
                             "a step is at a participant (\"on\") or at a service (\"call\")")
                      : missing(walk, step_path(walk, "on").text, "on");
    }
    if (!has_do) {
        return missing(walk, step_path(walk, "do").text, "do");
    }
    enum ls_status status = walk_after(walk, after, spec);
    return status == LS_OK ? remember_name(walk, step) : status;
}

static size_t count_args(const json_t *action) {
    return json_array_size(json_object_get(action, "args")) + json_object_size(json_object_get(action, "body"));
}

/* Counts what the steps will need, so that each kind of memory is one allocation. Types are checked by the walk that
 * follows. */
static void count_memory(const json_t *steps, size_t *ret_args, size_t *ret_after) {
    size_t args = 0, after = 0;
    for (size_t i = 0; i < json_array_size(steps); i++) {
        const json_t *step = json_array_get(steps, i);
        size_t of_do = count_args(json_object_get(step, "do"));
        args += of_do + count_args(json_object_get(step, "undo"));
        after += of_do + json_array_size(json_object_get(step, "after")) + 1;
    }
    *ret_args = args;
    *ret_after = after;
}

static enum ls_status walk_steps(struct walk *walk, const json_t *value) {
    struct document *document = walk->document;
    if (!json_is_array(value)) {
        return wrong_type(walk, "steps", "an array", value);
    }
    size_t count = json_array_size(value);
    if (count == 0) {
        return fail(walk, LS_ERR_INVALID, "invalid_value", "steps", "at least one step is required");
    }
    if (document->saga && count > LS_DEFAULT_STATEMENTS_MAX) {
        return fail(walk, LS_ERR_TOO_LARGE, "too_large", "steps", "%zu steps, a saga has at most %u", count,
                    LS_DEFAULT_STATEMENTS_MAX);
    }
    if (count > walk->limits->statements) {
        return fail(walk, LS_ERR_TOO_LARGE, "too_large", "steps", "%zu steps, at most %u are allowed", count,
                    walk->limits->statements);
    }
    size_t args, after;
    count_memory(value, &args, &after);
    document->steps = calloc(count, sizeof *document->steps);
    document->specs = calloc(count, sizeof *document->specs);
    document->args = calloc(args + 1, sizeof *document->args);
    document->saga_steps = calloc(count, sizeof *document->saga_steps);
    document->after = calloc(after + 1, sizeof *document->after);
    walk->after_seen = calloc(count, sizeof *walk->after_seen);
    for (size_t i = 0; i < count; i++) {
        walk->any_after = walk->any_after || json_object_get(json_array_get(value, i), "after") != NULL;
    }
    if (document->saga_steps == NULL || document->steps == NULL || document->specs == NULL || document->args == NULL ||
        document->after == NULL || walk->after_seen == NULL) {
        free(walk->after_seen);
        return fail(walk, LS_ERR_NOMEM, "no_memory", "steps", "out of memory");
    }
    walk->arg_next = document->args;
    walk->after_next = document->after;
    document->step_count = (uint32_t)count;
    enum ls_status status = LS_OK;
    for (size_t i = 0; i < count && status == LS_OK; i++) {
        walk->step = i;
        status = walk_step(walk, json_array_get(value, i));
    }
    document->arg_count = (size_t)(walk->arg_next - document->args);
    assert(document->arg_count <= args && walk->after_next <= document->after + after);
    free(walk->after_seen);
    json_decref(walk->names);
    return status;
}

/* ---- a saga as a whole ---- */

/* Which steps come before which: a bit for each. */
struct order {
    uint8_t *bits;
    size_t row;
};
static bool is_before(const struct order *order, uint32_t before, uint32_t step) {
    return ((unsigned)order->bits[step * order->row + before / 8] >> (before % 8) & 1u) != 0;
}

static bool find_order(const struct document *document, struct order *ret_order) {
    *ret_order = (struct order){.row = (document->step_count + 7u) / 8u};
    ret_order->bits = calloc(document->step_count, ret_order->row);
    if (ret_order->bits == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < document->step_count; i++) {
        uint8_t *row = &ret_order->bits[i * ret_order->row];
        for (uint32_t a = 0; a < document->specs[i].after_count; a++) {
            uint32_t before = document->specs[i].after[a];
            row[before / 8] |= (uint8_t)(1u << (before % 8));
            for (size_t b = 0; b < ret_order->row; b++) {
                row[b] |= ret_order->bits[before * ret_order->row + b];
            }
        }
    }
    return true;
}

/* `other`: the step that is in the way, UINT32_MAX for none. */
static enum ls_status fail_step(struct walk *walk, uint32_t step, const char *code, const char *key, const char *what,
                                uint32_t other) {
    walk->step = step;
    struct path path = step_path(walk, key);
    return other == UINT32_MAX ? fail(walk, LS_ERR_INVALID, code, path.text, "%s", what)
                               : fail(walk, LS_ERR_INVALID, code, path.text, "%s steps[%u]", what, other);
}

static enum ls_status find_pivot(struct walk *walk, uint32_t *ret_pivot) {
    const struct document *document = walk->document;
    *ret_pivot = UINT32_MAX;
    for (uint32_t i = 0; i < document->step_count; i++) {
        const struct document_saga_step *step = &document->saga_steps[i];
        if (!step->has_kind || step->kind != SAGA_PIVOT) {
            continue;
        }
        if (*ret_pivot != UINT32_MAX) {
            return fail_step(walk, i, "invalid_value", "kind", "a saga has one pivot at most: there is one already",
                             *ret_pivot);
        }
        *ret_pivot = i;
    }
    return LS_OK;
}

static bool can_be_undone(const struct document_saga_step *step) {
    return step->undo.sql != NULL || step->undo.path != NULL;
}

/* Kinds that the document leaves open: with undo it can be undone, without it must not fail. */
static void settle_kinds(struct document *document) {
    for (uint32_t i = 0; i < document->step_count; i++) {
        struct document_saga_step *step = &document->saga_steps[i];
        if (!step->has_kind) {
            step->kind = can_be_undone(step) ? SAGA_COMPENSATABLE : SAGA_RETRIABLE;
        }
    }
}

static enum ls_status check_kind(struct walk *walk, const struct order *order, uint32_t index, uint32_t pivot) {
    const struct document *document = walk->document;
    const struct document_saga_step *step = &document->saga_steps[index];
    if (step->kind == SAGA_COMPENSATABLE && !can_be_undone(step)) {
        return fail_step(walk, index, "missing_field", "undo", "a compensatable step needs \"undo\"", UINT32_MAX);
    }
    if (pivot != UINT32_MAX && index != pivot && !is_before(order, index, pivot) && !is_before(order, pivot, index)) {
        return fail_step(walk, index, "invalid_value", "after",
                         "a step comes before the pivot or after it, not beside it: the pivot is", pivot);
    }
    for (uint32_t i = 0; i < document->step_count; i++) {
        const struct document_saga_step *other = &document->saga_steps[i];
        if (step->kind == SAGA_RETRIABLE && is_before(order, index, i) && other->kind != SAGA_RETRIABLE) {
            return fail_step(walk, index, step->has_kind ? "invalid_value" : "missing_field",
                             step->has_kind ? "kind" : "undo",
                             "a step that cannot be undone comes before one that may still be refused", i);
        }
        if (step->kind == SAGA_COMPENSATABLE && i == pivot && is_before(order, i, index)) {
            return fail_step(walk, index, "invalid_value", "kind",
                             "behind the pivot nothing is undone: the step has to be retriable, the pivot is", pivot);
        }
    }
    for (uint32_t a = 0; a < step->undo.arg_count; a++) {
        const struct document_arg *arg = &step->undo.args[a];
        if (arg->kind == DOCUMENT_ARG_REF && arg->ref_step != index && !is_before(order, arg->ref_step, index)) {
            walk->step = index;
            walk->part = "undo";
            walk->field = arg->field;
            return fail(walk, LS_ERR_INVALID, "invalid_value", arg_path(walk, a).text,
                        "\"undo\" can refer to its own step and to steps that come before it");
        }
    }
    return LS_OK;
}

static enum ls_status check_saga(struct walk *walk) {
    struct order order;
    uint32_t pivot;
    enum ls_status status = find_pivot(walk, &pivot);
    if (status != LS_OK) {
        return status;
    }
    if (!find_order(walk->document, &order)) {
        return fail(walk, LS_ERR_NOMEM, "no_memory", "steps", "out of memory");
    }
    settle_kinds(walk->document);
    for (uint32_t i = 0; i < walk->document->step_count && status == LS_OK; i++) {
        status = check_kind(walk, &order, i, pivot);
    }
    free(order.bits);
    return status;
}

/* ---- the document ---- */

static enum ls_status walk_mode(struct walk *walk, const json_t *value) {
    if (!json_is_string(value)) {
        return wrong_type(walk, "mode", "a string", value);
    }
    if (strcmp(json_string_value(value), "2pc") != 0 && strcmp(json_string_value(value), "saga") != 0) {
        return fail(walk, LS_ERR_INVALID, "invalid_value", "mode", "expected \"2pc\" or \"saga\"");
    }
    return LS_OK;
}

/* Index of a word in a NULL-terminated list, or an error that names them all. */
static enum ls_status walk_word(struct walk *walk, const char *key, const json_t *value, const char *const words[],
                                unsigned *ret_index) {
    if (!json_is_string(value)) {
        return wrong_type(walk, key, "a string", value);
    }
    char expected[160] = "";
    size_t used = 0;
    for (unsigned i = 0; words[i] != NULL; i++) {
        if (strcmp(words[i], json_string_value(value)) == 0) {
            *ret_index = i;
            return LS_OK;
        }
        int added = snprintf(expected + used, sizeof expected - used, "%s\"%s\"", i == 0 ? "" : ", ", words[i]);
        used += added > 0 && (size_t)added < sizeof expected - used ? (size_t)added : 0;
    }
    return fail(walk, LS_ERR_INVALID, "invalid_value", key, "expected one of %s", expected);
}

static enum ls_status walk_duration(struct walk *walk, const char *key, const json_t *value, uint64_t min, uint64_t max,
                                    uint64_t *ret_ms) {
    if (!json_is_string(value)) {
        return wrong_type(walk, key, "a string such as \"30s\"", value);
    }
    uint64_t ms = 0;
    if (document_duration(json_string_value(value), &ms) != LS_OK) {
        return fail(walk, LS_ERR_INVALID, "invalid_value", key,
                    "expected digits and a unit (ms, s, min, h), such as \"30s\"");
    }
    if (ms < min || ms > max) {
        return fail(walk, LS_ERR_INVALID, "invalid_value", key, "expected %" PRIu64 "ms to %" PRIu64 "ms", min, max);
    }
    *ret_ms = ms;
    return LS_OK;
}

static enum ls_status walk_document(struct walk *walk, const json_t *root) {
    static const char *const isolations[] = {"read committed", "repeatable read", "serializable", NULL};
    static const char *const gid_forms[] = {"readable", "xa", NULL};
    struct document *document = walk->document;
    if (!json_is_object(root)) {
        return wrong_type(walk, "", "an object", root);
    }
    bool has_mode = false;
    const char *key;
    json_t *value;
    const char *mode = json_string_value(json_object_get(root, "mode")); /* first: it may stand behind the steps */
    document->saga = mode != NULL && strcmp(mode, "saga") == 0;
    document->deadline_ms = document->saga ? walk->limits->saga_deadline_ms : walk->limits->deadline_ms;
    json_object_foreach((json_t *)(uintptr_t)root, key, value) {
        enum ls_status status = LS_OK;
        unsigned word = 0;
        if (strcmp(key, "mode") == 0) {
            has_mode = true;
            status = walk_mode(walk, value);
        } else if (strcmp(key, "steps") == 0) {
            status = walk_steps(walk, value);
        } else if (strcmp(key, "isolation") == 0) {
            status = walk_word(walk, key, value, isolations, &word);
            document->isolation = (enum document_isolation)word;
        } else if (strcmp(key, "gid_form") == 0) {
            status = walk_word(walk, key, value, gid_forms, &word);
            document->gid_form = word == 0 ? LS_GID_READABLE : LS_GID_XA;
        } else if (strcmp(key, "deadline") == 0) {
            status =
                walk_duration(walk, key, value, LS_DEADLINE_MS_MIN,
                              document->saga ? LS_SAGA_DEADLINE_MS_MAX : LS_DEADLINE_MS_MAX, &document->deadline_ms);
        } else if (strcmp(key, "lock_timeout") == 0) {
            status = walk_duration(walk, key, value, LS_LOCK_TIMEOUT_MS_MIN, LS_LOCK_TIMEOUT_MS_MAX,
                                   &document->lock_timeout_ms);
        } else {
            char path[DOCUMENT_PATH_MAX];
            (void)snprintf(path, sizeof path, "%.64s", key);
            status = unknown_field(walk, path, key);
        }
        if (status != LS_OK) {
            return status;
        }
    }
    if (!has_mode) {
        return missing(walk, "mode", "mode");
    }
    if (document->step_count == 0) {
        return missing(walk, "steps", "steps");
    }
    return document->saga ? check_saga(walk) : LS_OK;
}

/* When memory is short jansson may say nothing, or call the text an invalid token. */
static bool json_exhausted;

static void *json_alloc(size_t size) {
    void *memory = malloc(size);
    json_exhausted |= memory == NULL;
    return memory;
}

json_t *document_json(const char *text, size_t length, size_t flags, json_error_t *error, bool *ret_exhausted) {
    json_set_alloc_funcs(json_alloc, free);
    json_exhausted = false;
    json_t *root = json_loadb(text, length, flags, error);
    *ret_exhausted = root == NULL && json_exhausted;
    return root;
}

enum ls_status document_parse(const char *body, size_t length, const struct document_limits *limits,
                              struct document **ret_document, struct document_error *error) {
    assert(limits->statements <= UINT16_MAX && limits->participants <= LS_PARTICIPANTS_PER_TXN_CEILING);
    struct walk walk = {.limits = limits, .error = error};
    json_error_t json_error;
    bool exhausted;
    json_t *root = document_json(body, length, JSON_REJECT_DUPLICATES, &json_error, &exhausted);
    if (root == NULL) {
        if (exhausted) {
            return fail(&walk, LS_ERR_NOMEM, "no_memory", "", "out of memory");
        }
        return fail(&walk, LS_ERR_INVALID, "invalid_json", "", "line %d column %d: %s", json_error.line,
                    json_error.column, json_error.text);
    }
    struct document *document = calloc(1, sizeof *document);
    if (document == NULL) {
        json_decref(root);
        return fail(&walk, LS_ERR_NOMEM, "no_memory", "", "out of memory");
    }
    document->root = root;
    document->lock_timeout_ms = limits->lock_timeout_ms;
    walk.document = document;
    enum ls_status status = walk_document(&walk, root);
    if (status != LS_OK) {
        document_free(document);
        return status;
    }
    *ret_document = document;
    return LS_OK;
}

void document_free(struct document *document) {
    if (document == NULL) {
        return;
    }
    for (size_t i = 0; i < document->arg_count; i++) {
        free(document->args[i].owned);
    }
    free(document->steps);
    free(document->specs);
    free(document->saga_steps);
    free(document->args);
    free(document->after);
    json_decref(document->root);
    free(document);
}
