/*
 * fuzz_document.c: the document of POST /v1/run. What is taken holds together (no reference to a later step, no step at
 * a participant that is not listed); what is refused is refused with a code and a path that can be written into JSON.
 */
#include "tests/fuzz/fuzz.h"

#include "common/statement.h"
#include "coordinator/api/document.h"
#include "coordinator/api/out.h"

static uint32_t participant(void *context, const char *name) {
    (void)context;
    static const char *const known[] = {"orders", "balance", "stock", "a", "b"};
    for (uint32_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i], name) == 0) return i + 1;
    return 0;
}

static bool service(void *context, const char *name) {
    (void)context;
    return strcmp(name, "pay") == 0;
}

static const struct document_limits limits = {.statements = 16,
                                              .participants = 4,
                                              .deadline_ms = 30000,
                                              .saga_deadline_ms = 600000,
                                              .lock_timeout_ms = 5000,
                                              .participant = participant,
                                              .service = service};

static void check_arg(const struct document *document, uint32_t step, const struct document_arg *arg) {
    switch (arg->kind) {
    case DOCUMENT_ARG_NULL:
        return;
    case DOCUMENT_ARG_TEXT:
        REQUIRE(arg->text != NULL);
        return;
    case DOCUMENT_ARG_REF:
        REQUIRE(arg->ref_step < step && document->steps[arg->ref_step].referenced && document->steps[step].has_ref);
        REQUIRE(arg->ref_kind == DOCUMENT_REF_ROWS_AFFECTED || arg->ref_kind == DOCUMENT_REF_RESULT ||
                (arg->text != NULL && arg->text[0] != '\0'));
        return;
    }
    REQUIRE(false);
}

static void check_step(const struct document *document, uint32_t i) {
    const struct document_step *step = &document->steps[i];
    const struct engine_step_spec *spec = &document->specs[i];
    struct ls_error err;
    bool call = document->saga_steps[i].service != NULL;
    REQUIRE(call ? step->sql == NULL && step->path[0] == '/'
                 : statement_check(step->sql, strlen(step->sql), &err) == LS_OK);
    REQUIRE((call || spec->branch < document->participant_count) && spec->after_count <= i);
    for (uint32_t n = 0; n < spec->after_count; n++) REQUIRE(spec->after[n] < i);
    for (uint32_t n = 0; n < step->arg_count; n++) check_arg(document, i, &step->args[n]);
}

static void check(const struct document *document) {
    REQUIRE(document->step_count >= 1 && document->step_count <= limits.statements);
    REQUIRE((document->participant_count >= 1 || document->saga_steps[0].service != NULL) &&
            document->participant_count <= limits.participants);
    REQUIRE(document->deadline_ms >= LS_DEADLINE_MS_MIN &&
            document->deadline_ms <= (document->saga ? LS_SAGA_DEADLINE_MS_MAX : LS_DEADLINE_MS_MAX));
    REQUIRE(document->lock_timeout_ms >= LS_LOCK_TIMEOUT_MS_MIN && document->lock_timeout_ms <= LS_LOCK_TIMEOUT_MS_MAX);
    for (uint32_t i = 0; i < document->step_count; i++) check_step(document, i);
}

static void check_refusal(enum ls_status status, const struct document_error *error) {
    static struct out out; /* keeps its memory from one run to the next */
    REQUIRE(status == LS_ERR_INVALID || status == LS_ERR_TOO_LARGE);
    REQUIRE(error->code != NULL && error->message[0] != '\0');
    out_reset(&out);
    out_open(&out, NULL, '{');
    out_string(&out, "code", error->code);
    out_string(&out, "message", error->message);
    out_string(&out, "path", error->path);
    out_close(&out, '}');
    json_error_t why;
    json_t *json = json_loadb(out.data, out.length, JSON_REJECT_DUPLICATES, &why);
    REQUIRE(json != NULL);
    json_decref(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct document *document = NULL;
    struct document_error error = {0};
    char *body = malloc(size + (size == 0)); /* no NUL behind it; gone before the document is looked at */
    REQUIRE(body != NULL);
    if (size > 0) memcpy(body, data, size);
    enum ls_status status = document_parse(body, size, &limits, &document, &error);
    free(body);
    if (status == LS_OK) {
        check(document);
        document_free(document);
    } else {
        check_refusal(status, &error);
    }
    return 0;
}
