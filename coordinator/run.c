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

enum ls_status run_resolve(struct run *run, const struct document_arg *arg, const char **ret_text, char **ret_owned,
                           struct ls_error *err) {
    assert(arg->kind == DOCUMENT_ARG_REF && arg->ref_step < run->document->step_count);
    const char *name = run->document->steps[arg->ref_step].name;
    struct run_result *result = run->results == NULL ? NULL : &run->results[arg->ref_step];
    *ret_owned = NULL;
    if (result == NULL || !result->there) {
        return ls_fail(err, LS_ERR_NOT_FOUND, "step \"%s\" has returned nothing", name);
    }
    if (arg->ref_kind == DOCUMENT_REF_ROWS_AFFECTED) {
        char *text = malloc(24);
        if (text == NULL) {
            return ls_fail(err, LS_ERR_NOMEM, "out of memory");
        }
        (void)snprintf(text, 24, "%" PRIu64, result->affected);
        *ret_text = *ret_owned = text;
        return LS_OK;
    }
    if (result->rows == NULL && result->rows_json != NULL) {
        json_error_t error;
        bool exhausted;
        result->rows = document_json(result->rows_json, strlen(result->rows_json), 0, &error, &exhausted);
        if (exhausted) {
            return ls_fail(err, LS_ERR_NOMEM, "out of memory");
        }
        if (!json_is_array(result->rows)) {
            return ls_fail(err, LS_ERR_INVALID, "the rows of step \"%s\" cannot be read: %s", name, error.text);
        }
    }
    const json_t *row = json_array_get(result->rows, arg->ref_row);
    if (row == NULL) {
        return ls_fail(err, LS_ERR_NOT_FOUND, "step \"%s\" has returned no row %u", name, arg->ref_row);
    }
    const json_t *cell = json_object_get(row, arg->text);
    if (cell == NULL) {
        return ls_fail(err, LS_ERR_NOT_FOUND, "the rows of step \"%s\" have no column \"%.64s\"", name, arg->text);
    }
    return cell_text(cell, ret_text, ret_owned, err);
}
