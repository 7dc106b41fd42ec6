/*
 * run.h: what the host keeps of a transaction submitted through /v1/run: the document, whose statements are still to be
 * sent, and what the statements returned. The engine holds one reference (from EF_ACCEPTED to EF_RELEASE), the waiting
 * HTTP request another.
 */
#ifndef LOCKSTEP_RUN_H
#define LOCKSTEP_RUN_H

#include <jansson.h>

#include "coordinator/api/document.h"
#include "lockstep.pb-c.h"
#include "lockstep/ids.h"

struct run_result {
    char *
        rows_json; /* JSON array of objects, or NULL when the statement returned no rows; of a call, what it answered */
    json_t *rows;  /* the same, parsed when the first reference needs it */
    uint64_t affected;
    bool there;
};

struct saga_run;
struct web_call;

/* One attempt at a step of a saga (coordinator/saga_host.h): its run has no document of its own. */
struct run_attempt {
    struct run_attempt *next;       /* same bucket of the table by name */
    struct web_call *call;          /* on its way to a service, else NULL */
    struct saga_calls_queue *queue; /* of the service that it is on its way to, or waits for (saga_calls.h) */
    struct run_attempt *queue_next, *queue_prev, *saga_next, *saga_prev;
    struct run *run;
    struct saga_run *saga;
    uint32_t step, number;
    enum saga_op op;
    uint64_t sent_us;
    uint32_t epoch; /* of its transaction */
    uint64_t sequence;
    bool has_barrier;
    Lockstep__BarrierState barrier; /* as its vote said */
    struct run_result result;
};

struct run {
    unsigned references;
    struct run_attempt *attempt; /* NULL: a transaction */
    struct document *document;
    char *key; /* Idempotency-Key or NULL */
    uint8_t key_digest[16], document_digest[16];
    uint32_t app;                        /* number of the identity */
    struct run_result *results;          /* one per step; made with the first result */
    uint64_t rows, bytes;                /* returned so far, by all branches */
    char existing_gtid[LS_GTID_MAX + 1]; /* one participant: the transaction that used the key first */
    bool existing_same_document;
};

/* Takes over `document` and copies `key` (which may be NULL). NULL when memory is short, and then `document` is the
 * caller's still. */
struct run *run_new(struct document *document, const char *key, uint32_t app);
void run_hold(struct run *run);
void run_drop(struct run *run);

/* Keeps what the vote of an attempt says: the barrier's state, and the step's result. */
void run_take_attempt(struct run_attempt *attempt, const Lockstep__Vote *vote);
/* Keeps what the vote of a participant (its registry number) says its statements returned. LS_ERR_TOO_LARGE: more than
 * the transaction may return (err says what); LS_ERR_PROTOCOL: a result for a step that is not the participant's, or a
 * second one; LS_ERR_NOMEM. */
enum ls_status run_take_results(struct run *run, const Lockstep__Vote *vote, uint32_t participant, uint64_t rows_max,
                                uint64_t bytes_max, struct ls_error *err) LS_MUST_CHECK;

/*
 * The value of a reference, as text. *ret_text NULL: SQL null. *ret_owned: to be freed by the caller, or NULL when the
 * text lives as long as the run. LS_ERR_NOT_FOUND: no such row or column; LS_ERR_INVALID: the rows are not what they
 * should be, or a number there has lost digits already.
 */
enum ls_status run_resolve(struct run *run, const struct document_arg *arg, const char **ret_text, char **ret_owned,
                           struct ls_error *err) LS_MUST_CHECK;
/* The same as JSON, for a call's body; *ret_value is the caller's. */
enum ls_status run_resolve_json(struct run *run, const struct document_arg *arg, json_t **ret_value,
                                struct ls_error *err) LS_MUST_CHECK;

#endif
