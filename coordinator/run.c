/* run.c: see run.h. */
#include "coordinator/run.h"
#include "coordinator/saga_host.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct run *run_new(struct document *document, const char *key, uint32_t app) {
    struct run *run = calloc(1, sizeof *run);
    if (run == NULL) {
        return NULL;
    }
    if (key != NULL) {
        run->key = strdup(key);
        if (run->key == NULL) {
            free(run);
            return NULL;
        }
    }
    run->references = 1;
    run->document = document;
    run->app = app;
    return run;
}

void run_hold(struct run *run) {
    assert(run->references >= 1);
    run->references++;
}

void run_drop(struct run *run) {
    assert(run->references >= 1);
    if (--run->references > 0) {
        return;
    }
    if (run->results != NULL) {
        for (uint32_t i = 0; i < run->document->step_count; i++) {
            free(run->results[i].rows_json);
            json_decref(run->results[i].rows);
        }
        free(run->results);
    }
    if (run->attempt != NULL) {
        saga_host_attempt_free(run->attempt);
    }
    document_free(run->document);
    free(run->key);
    free(run);
}

void run_take_attempt(struct run_attempt *attempt, const Lockstep__Vote *vote) {
    struct run_result *result = &attempt->result;
    if (vote->has_barrier) {
        attempt->has_barrier = true;
        attempt->barrier = vote->barrier;
    }
    if (vote->n_results == 0 || result->there) {
        return;
    }
    const Lockstep__StepResult *from = vote->results[0];
    result->rows_json = from->rows_json == NULL ? NULL : strdup(from->rows_json);
    result->affected = from->rows_affected;
    result->there = from->rows_json == NULL || result->rows_json != NULL; /* without memory: asked again when needed */
}

static bool is_step_of(const struct document *document, uint32_t step, uint32_t participant) {
    return step < document->step_count && document->participants[document->specs[step].branch] == participant;
}

enum ls_status run_take_results(struct run *run, const Lockstep__Vote *vote, uint32_t participant, uint64_t rows_max,
                                uint64_t bytes_max, struct ls_error *err) {
    if (vote->n_results == 0) {
        return LS_OK;
    }
    if (run->results == NULL) {
        run->results = calloc(run->document->step_count, sizeof *run->results);
        if (run->results == NULL) {
            return ls_fail(err, LS_ERR_NOMEM, "out of memory");
        }
    }
    for (size_t i = 0; i < vote->n_results; i++) {
        const Lockstep__StepResult *from = vote->results[i];
        if (!is_step_of(run->document, from->step, participant)) {
            return ls_fail(err, LS_ERR_PROTOCOL, "a result for step %u, which is not the participant's", from->step);
        }
        struct run_result *result = &run->results[from->step];
        if (result->there) {
            return ls_fail(err, LS_ERR_PROTOCOL, "a second result for step %u", from->step);
        }
        result->there = true;
        result->affected = from->rows_affected;
        if (from->rows_json == NULL) {
            continue;
        }
        run->rows += from->rows_affected; /* of a statement that returns rows this is their number */
        run->bytes += strlen(from->rows_json);
        if (run->rows > rows_max) {
            return ls_fail(err, LS_ERR_TOO_LARGE,
                           "the transaction returned more than %" PRIu64 " rows (limits.result_rows)", rows_max);
        }
        if (run->bytes > bytes_max) {
            return ls_fail(err, LS_ERR_TOO_LARGE,
                           "the transaction returned more than %" PRIu64 " bytes of rows (limits.result_bytes)",
                           bytes_max);
        }
        result->rows_json = strdup(from->rows_json);
        if (result->rows_json == NULL) {
            return ls_fail(err, LS_ERR_NOMEM, "out of memory");
        }
    }
    return LS_OK;
}

/* The text that a cell's JSON value has as a parameter. */
static enum ls_status cell_text(const json_t *cell, const char **ret_text, char **ret_owned, struct ls_error *err) {
    switch (json_typeof(cell)) {
    case JSON_NULL:
        *ret_text = NULL;
        return LS_OK;
    case JSON_STRING:
        *ret_text = json_string_value(cell);
        return LS_OK;
    case JSON_TRUE:
    case JSON_FALSE:
        *ret_text = json_is_true(cell) ? "true" : "false";
        return LS_OK;
    case JSON_INTEGER:
    case JSON_REAL:
    case JSON_OBJECT:
    case JSON_ARRAY:
        *ret_owned = json_dumps(cell, JSON_COMPACT | JSON_ENCODE_ANY);
        *ret_text = *ret_owned;
        return *ret_owned == NULL ? ls_fail(err, LS_ERR_NOMEM, "out of memory") : LS_OK;
    }
    assert(!"JSON type");
    return LS_ERR_BUG;
}

/* What a call answered, field by field: "charge.items.0.id". */
static const json_t *find_field(const json_t *value, const char *path) {
    while (value != NULL && *path != '\0') {
        size_t length = strcspn(path, ".");
        if (json_is_array(value)) {
            bool number = length > 0 && length < 7 && strspn(path, "0123456789") >= length;
            value = number ? json_array_get(value, strtoul(path, NULL, 10)) : NULL;
        } else {
            value = json_object_getn(value, path, length);
        }
        path += length + (path[length] == '.');
    }
    return value;
}

/* A double has lost what the sender wrote. */
static enum ls_status refuse_real(const struct document_arg *arg, const char *name, const json_t *value,
                                  struct ls_error *err) {
    return document_has_real(value)
               ? ls_fail(err, LS_ERR_INVALID,
                         "\"%.64s\" of step \"%s\" is or holds a number that is no integer, which would be rounded: "
                         "decimals have to come as strings",
                         arg->text, name)
               : LS_OK;
}

/* What a reference to rows or to an answer names: *ret_value lives as long as the run. */
static enum ls_status find_value(struct run *run, const struct document_arg *arg, const json_t **ret_value,
                                 struct ls_error *err) {
    assert(arg->kind == DOCUMENT_ARG_REF && arg->ref_step < run->document->step_count);
    const char *name = run->document->steps[arg->ref_step].name;
    struct run_result *result = run->results == NULL ? NULL : &run->results[arg->ref_step];
    if (result == NULL || !result->there) {
        return ls_fail(err, LS_ERR_NOT_FOUND, "step \"%s\" has returned nothing", name);
    }
    if (arg->ref_kind == DOCUMENT_REF_ROWS_AFFECTED) {
        *ret_value = NULL;
        return LS_OK;
    }
    bool rows = arg->ref_kind == DOCUMENT_REF_CELL;
    if (result->rows == NULL && result->rows_json != NULL) {
        json_error_t error;
        bool exhausted;
        result->rows =
            document_json(result->rows_json, strlen(result->rows_json), rows ? 0 : JSON_DECODE_ANY, &error, &exhausted);
        if (exhausted) {
            return ls_fail(err, LS_ERR_NOMEM, "out of memory");
        }
        if (rows && !json_is_array(result->rows)) {
            return ls_fail(err, LS_ERR_INVALID, "the rows of step \"%s\" cannot be read: %s", name, error.text);
        }
    }
    if (!rows) {
        *ret_value = find_field(result->rows, arg->text);
        return *ret_value != NULL
                   ? refuse_real(arg, name, *ret_value, err)
                   : ls_fail(err, LS_ERR_NOT_FOUND, "the answer of step \"%s\" has no \"%.64s\"", name, arg->text);
    }
    const json_t *row = json_array_get(result->rows, arg->ref_row);
    if (row == NULL) {
        return ls_fail(err, LS_ERR_NOT_FOUND, "step \"%s\" has returned no row %u", name, arg->ref_row);
    }
    *ret_value = json_object_get(row, arg->text);
    return *ret_value != NULL
               ? refuse_real(arg, name, *ret_value, err)
               : ls_fail(err, LS_ERR_NOT_FOUND, "the rows of step \"%s\" have no column \"%.64s\"", name, arg->text);
}

enum ls_status run_resolve(struct run *run, const struct document_arg *arg, const char **ret_text, char **ret_owned,
                           struct ls_error *err) {
    const json_t *value;
    *ret_owned = NULL;
    enum ls_status status = find_value(run, arg, &value, err);
    if (status != LS_OK || value != NULL) {
        return status != LS_OK ? status : cell_text(value, ret_text, ret_owned, err);
    }
    char *text = malloc(24);
    if (text == NULL) {
        return ls_fail(err, LS_ERR_NOMEM, "out of memory");
    }
    (void)snprintf(text, 24, "%" PRIu64, run->results[arg->ref_step].affected);
    *ret_text = *ret_owned = text;
    return LS_OK;
}

enum ls_status run_resolve_json(struct run *run, const struct document_arg *arg, json_t **ret_value,
                                struct ls_error *err) {
    const json_t *value;
    enum ls_status status = find_value(run, arg, &value, err);
    if (status == LS_OK) {
        *ret_value = value != NULL ? json_incref((json_t *)(uintptr_t)value)
                                   : json_integer((json_int_t)run->results[arg->ref_step].affected);
    }
    return status;
}
