/*
 * document.h: the JSON document of POST /v1/run, parsed and checked as a whole before anything begins.
 *
 *   {"mode": "2pc",
 *    "steps": [{"on": "orders", "do": {"sql": "...", "args": [17, "tea", null, true, {"json": {...}}, {"ref":
 * "order.rows.0.id"}], "expect_rows": 1}, "undo": {...}, "name": "order", "after": ["other", 0], "kind":
 * "compensatable", "attempts": 10, "deadline": "30s"}], "isolation": "read committed", "deadline": "30s",
 * "lock_timeout": "5s", "gid_form": "readable"}
 *
 * Whatever is not known, of the wrong type, too large or not allowed is refused with a code, one line of text and the
 * path of the offending value ("steps[1].do.args[0]"). `undo`, `kind` and a step's own `attempts` and
 * `deadline` are checked like `do` and have no effect in a 2pc transaction.
 *
 * "mode": "saga": steps run in the order of the document unless one says `after`; kinds are settled here, and what
 * would leave a saga without a way forward or back is refused: a step that cannot be undone before one that may still
 * say no, a second pivot, a step beside the pivot. `undo` may refer to its own step and to steps before it.
 *
 * A saga's step may be at an HTTP service instead of a participant: {"call": "payments", "do": {"path": "/charges",
 * "body":
 * {"amount": 30, "order": {"ref": "order.rows.0.id"}}}, "undo": {"path": "/charges/undo"}}. A field of `body` reads
 * like an argument of `args`; what the service answered is referred to as NAME.result.FIELD.FIELD.
 *
 * Pure but for memory: no file, socket, clock or log. The parsed document owns the JSON tree; SQL and string arguments
 * point into it, so that nothing is copied between the request's body and the frame to the agent.
 */
#ifndef LOCKSTEP_API_DOCUMENT_H
#define LOCKSTEP_API_DOCUMENT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "coordinator/core/engine.h"
#include "coordinator/core/saga.h"
#include "lockstep/limits.h"
#include "lockstep/status.h"

enum document_arg_kind { DOCUMENT_ARG_NULL, DOCUMENT_ARG_TEXT, DOCUMENT_ARG_REF };
enum document_ref_kind { DOCUMENT_REF_CELL, DOCUMENT_REF_ROWS_AFFECTED, DOCUMENT_REF_RESULT };

struct document_arg {
    enum document_arg_kind kind;
    enum document_ref_kind ref_kind;
    const char *text;   /* TEXT: what the parameter holds; REF: the column of a CELL, the fields of a RESULT */
    char *owned;        /* text of {"json": ...}, freed with the document */
    uint32_t ref_step;  /* REF: an earlier step */
    uint32_t ref_row;   /* CELL */
    char number[24];    /* text of an integer */
    const char *field;  /* of a call's body: its name, and */
    const json_t *json; /* unless it is a REF, its value */
};

struct document_step {
    const char *name; /* NULL when it has none */
    const char *sql;  /* NULL: a call, or no "undo" */
    const char *path; /* of a call */
    struct document_arg *args;
    uint32_t arg_count;
    uint32_t expect_rows;
    bool has_expect_rows;
    bool has_ref;    /* one of its args is a reference */
    bool referenced; /* a later step uses what it returns */
};

/* What a saga needs beside that; kinds are always settled. */
struct document_saga_step {
    const char *service;       /* NULL: a participant's; of a call, then its spec's branch says nothing */
    struct document_step undo; /* sql and path NULL: it has none */
    enum saga_kind kind;
    bool has_kind;
    uint32_t attempts;    /* 0: the policy's */
    uint64_t deadline_ms; /* of one attempt */
    bool undo_refers;     /* to another step than its own */
};

enum document_isolation { DOCUMENT_READ_COMMITTED, DOCUMENT_REPEATABLE_READ, DOCUMENT_SERIALIZABLE };

struct document {
    struct document_step *steps;
    struct engine_step_spec *specs; /* the same steps, as the engine wants them */
    struct document_saga_step *saga_steps;
    bool saga;
    uint32_t step_count;
    uint32_t participants[LS_PARTICIPANTS_PER_TXN_CEILING]; /* registry numbers, in order of first use */
    uint32_t participant_count;
    enum document_isolation isolation;
    enum ls_gid_form gid_form;
    uint64_t deadline_ms, lock_timeout_ms;
    /* memory */
    json_t *root;
    struct document_arg *args; /* of all steps, "undo" included */
    size_t arg_count;
    uint16_t *after;
};

struct document_limits {
    uint32_t statements, participants;     /* per transaction */
    uint64_t deadline_ms, lock_timeout_ms; /* defaults */
    uint64_t saga_deadline_ms;
    /* Registry number of a participant, 0 when nobody of that name ever joined. */
    uint32_t (*participant)(void *context, const char *name);
    void *context;
    /* Is there a service of this name? NULL: none. */
    bool (*service)(void *service_context, const char *name);
    void *service_context;
    bool from_log; /* it was taken once: what only later versions refuse is let through */
};

#define DOCUMENT_PATH_MAX 192
struct document_error {
    const char *code; /* constant: "invalid_json", "unknown_field", "missing_field", "wrong_type", "invalid_value",
                         "too_large", "unknown_participant", "unknown_service", "statement_not_allowed", "no_memory" */
    char message[LS_ERROR_TEXT_MAX];
    char path[DOCUMENT_PATH_MAX]; /* "" for the document itself */
};

/* On success *ret_document is to be freed with document_free(). Otherwise *error is filled and LS_ERR_INVALID,
 * LS_ERR_TOO_LARGE or LS_ERR_NOMEM returned. `body` need not outlive the call. */
enum ls_status document_parse(const char *body, size_t length, const struct document_limits *limits,
                              struct document **ret_document, struct document_error *error) LS_MUST_CHECK;
/* NULL is fine. */
void document_free(struct document *document);

/* json_loadb() that tells bad text from short memory. Main thread only. */
json_t *document_json(const char *text, size_t length, size_t flags, json_error_t *error, bool *ret_exhausted);

/* Does it hold a number with a fraction or an exponent? Those are read as doubles: 30.10 would leave as
 * 30.100000000000001. */
bool document_has_real(const json_t *value);

/* "500ms", "30s", "5min", "1h": digits and a unit. LS_ERR_INVALID leaves *ret_ms alone. */
enum ls_status document_duration(const char *text, uint64_t *ret_ms) LS_MUST_CHECK;

#endif
