/*
 * lockstep.h: liblockstep, the C client of lockstepd.
 *
 * A document (JSON text, docs/openapi.yaml) goes in, an outcome comes out: committed on every participant, or aborted
 * on every participant, or not known yet. The library keeps the third answer apart from the first two and never
 * guesses:
 *
 *     struct lockstep_options options;
 *     lockstep_options_init(&options);
 *     options.url = "https://coordinator.example:7443";
 *     options.ca_file = "ca.crt", options.cert_file = "app.crt", options.key_file = "app.key";
 *     struct lockstep *client;
 *     char text[LOCKSTEP_TEXT_MAX];
 *     if (lockstep_open(&options, &client, text) != LOCKSTEP_OK) ...
 *     struct lockstep_run_options run;
 *     lockstep_run_options_init(&run);
 *     run.key = "order-17";
 *     struct lockstep_result result;
 *     lockstep_run(client, document, strlen(document), &run, &result);
 *     if (result.status == LOCKSTEP_OK && result.outcome == LOCKSTEP_COMMITTED) ...
 *     lockstep_result_clear(&result);
 *     lockstep_close(client);
 *
 * Repeating. A request that was never sent, or that the coordinator answered with "busy, nothing begun", is repeated by
 * the library with growing, jittered pauses until `attempts_max` or `timeout_ms` is used up. A run whose connection
 * broke after it was sent may have committed: it is repeated only with an idempotency key, where the coordinator knows
 * it again; without one the answer is LOCKSTEP_UNKNOWN at once.
 *
 * Asynchronous form. Each call has a `_start` twin that returns at once. Poll lockstep_fd() for reading and call
 * lockstep_dispatch(), which never blocks and calls the completions of the calls that have ended. The descriptor needs
 * no timer of the caller's.
 *
 * Threads: a client belongs to one thread at a time; different clients are independent. No signal is raised, no global
 * state is touched but libcurl's own initialisation.
 *
 * Ownership: every string passed in is copied where it must outlive the call. Results own their `body`;
 * lockstep_result_clear() frees it.
 *
 * TLS 1.3, the server's certificate verified against `ca_file`, its host name and its lockstep://coordinator/ URI.
 * There is no switch for less.
 */
#ifndef LOCKSTEP_LOCKSTEP_H
#define LOCKSTEP_LOCKSTEP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The version of this interface: functions and fields are added within a major version, never changed. */
#define LOCKSTEP_API_MAJOR 1
#define LOCKSTEP_API_MINOR 2

/* Limits. Lengths are bytes without the terminating NUL, except LOCKSTEP_TEXT_MAX. */
#define LOCKSTEP_GTID_MAX 64
#define LOCKSTEP_PARTICIPANT_MAX 64
#define LOCKSTEP_KEY_MAX 255
#define LOCKSTEP_REASON_MAX 512
#define LOCKSTEP_TEXT_MAX 512 /* size of the text buffers of lockstep_open() */
#define LOCKSTEP_URL_MAX 1024
#define LOCKSTEP_DOCUMENT_MAX (64u << 20) /* the coordinator's own bound is lower (1 MiB unless configured) */
#define LOCKSTEP_ANSWER_MAX (64u << 20)   /* a longer answer is LOCKSTEP_PROTOCOL */
#define LOCKSTEP_CALLS_MAX 4096u          /* calls under way in one client; one more is LOCKSTEP_BUSY */
#define LOCKSTEP_TIMEOUT_MS_MAX 86400000u
#define LOCKSTEP_LIST_MAX 10000u /* largest `limit` of a listing */
#define LOCKSTEP_SAGA_WAIT_MS_MAX 300000u

/* Defaults of the options. */
#define LOCKSTEP_DEFAULT_TIMEOUT_MS 60000u
#define LOCKSTEP_DEFAULT_CONNECT_TIMEOUT_MS 5000u
#define LOCKSTEP_DEFAULT_ATTEMPTS 1000u
#define LOCKSTEP_DEFAULT_CONNECTIONS 64u
#define LOCKSTEP_DEFAULT_BACKOFF_MS 50u /* pause before the first repetition; doubles */
#define LOCKSTEP_DEFAULT_BACKOFF_MS_MAX 2000u

/* What became of a call. */
enum lockstep_status {
    LOCKSTEP_OK = 0,  /* the coordinator answered; for a transaction see `outcome` (which may be LOCKSTEP_PENDING) */
    LOCKSTEP_INVALID, /* an argument is wrong; nothing was sent */
    LOCKSTEP_NOMEM,   /* nothing was sent */
    LOCKSTEP_UNREACHABLE, /* no connection, or not to a coordinator; nothing was begun */
    LOCKSTEP_BUSY,        /* the coordinator (or a participant) takes nothing just now; nothing was begun */
    LOCKSTEP_REFUSED,     /* the document or the request is wrong (400, 404, 413, 422); nothing was begun */
    LOCKSTEP_DENIED,      /* this certificate may not do that (401, 403); nothing was begun */
    LOCKSTEP_UNKNOWN,     /* sent, and no answer that settles it: it may have committed, or still commit */
    LOCKSTEP_PROTOCOL /* an answer that no coordinator gives (nothing that was sent could have begun a transaction) */
};

enum lockstep_outcome {
    LOCKSTEP_NO_OUTCOME = 0, /* the call was not about one transaction, or failed */
    LOCKSTEP_COMMITTED,      /* a saga: completed */
    LOCKSTEP_ABORTED,        /* a saga: compensated */
    LOCKSTEP_PENDING,        /* not known yet: ask again with the gtid */
    LOCKSTEP_HAZARD          /* a branch was broken from outside; an operator must look */
};

/* How long the coordinator holds an answer back. */
enum lockstep_wait {
    LOCKSTEP_WAIT_APPLIED = 0, /* until every branch is committed (read your writes) */
    LOCKSTEP_WAIT_DECIDED      /* until the decision is durable */
};

struct lockstep; /* a client: connections to one coordinator */
/* What an operator can say about a stuck saga. */
enum lockstep_act { LOCKSTEP_ACT_RETRY = 0, LOCKSTEP_ACT_SKIP, LOCKSTEP_ACT_COMPENSATE, LOCKSTEP_ACT_REFUSE };

struct lockstep_call; /* an asynchronous call under way */

/* Fill with lockstep_options_init() first; it sets `size` and the defaults. Strings are borrowed during lockstep_open()
 * only. */
struct lockstep_options {
    size_t size;
    const char *url;     /* "https://host[:port]" or "unix:/path"; default port 7443 */
    const char *ca_file; /* https: PEM files; ca and certificate and key are required */
    const char *cert_file;
    const char *key_file;
    const char *crl_file;    /* or NULL */
    const char *coordinator; /* https: refuse a coordinator of another name; NULL: any */
    uint32_t timeout_ms;     /* of a whole call, repetitions included */
    uint32_t connect_timeout_ms;
    uint32_t attempts_max; /* >= 1 */
    uint32_t connections_max;
    uint32_t backoff_ms;
    uint32_t backoff_ms_max;
};
void lockstep_options_init(struct lockstep_options *options);

struct lockstep_run_options {
    size_t size;
    const char *key; /* idempotency key, printable ASCII, or NULL */
    enum lockstep_wait wait;
    uint32_t timeout_ms; /* 0: the client's */
};
void lockstep_run_options_init(struct lockstep_run_options *options);

struct lockstep_result {
    enum lockstep_status status;
    enum lockstep_outcome outcome;
    bool applied;                                   /* every branch is finished */
    char gtid[LOCKSTEP_GTID_MAX + 1];               /* "" while not known */
    char sqlstate[6];                               /* of the branch that refused, or "" */
    char participant[LOCKSTEP_PARTICIPANT_MAX + 1]; /* that branch, or "" */
    char reason[LOCKSTEP_REASON_MAX + 1];           /* one line for people, or "" */
    int http_status;                                /* of the last answer, 0 if there was none */
    uint32_t attempts;                              /* requests sent or tried */
    char *body; /* last answer, JSON text with a NUL behind it; NULL if there was none; owned by the result */
    size_t body_length;
};
/* Frees what the result owns and empties it. NULL and a zeroed result are fine. */
void lockstep_result_clear(struct lockstep_result *result);

/* The version of the library that is linked: major * 1000 + minor. */
int lockstep_api_version(void);
/* Constant texts; never NULL. */
const char *lockstep_status_text(enum lockstep_status status);
const char *lockstep_outcome_text(enum lockstep_outcome outcome);

/*
 * Makes a client. Reads no file and connects to nothing yet, except that it checks that the TLS files can be opened.
 * On failure (LOCKSTEP_INVALID, LOCKSTEP_NOMEM) *ret_client is untouched and `text` says in one line what is wrong
 * (text may be NULL).
 */
enum lockstep_status lockstep_open(const struct lockstep_options *options, struct lockstep **ret_client,
                                   char text[LOCKSTEP_TEXT_MAX]);
/* Drops calls under way without calling their completions (their outcome is unknown), closes connections. NULL is fine.
 */
void lockstep_close(struct lockstep *client);

/*
 * Blocking calls. Each fills *result (whatever was in it is overwritten, not freed) and returns result->status.
 * Completions of asynchronous calls of the same client may run meanwhile.
 */

/* Runs a document. `options` may be NULL. An answer 202 is followed by asking for the gtid until the timeout. */
enum lockstep_status lockstep_run(struct lockstep *client, const char *document, size_t length,
                                  const struct lockstep_run_options *options, struct lockstep_result *result);
/* Asks for a transaction; waits up to `wait_ms` for what `wait` says, 0: answer at once. */
enum lockstep_status lockstep_get(struct lockstep *client, const char *gtid, enum lockstep_wait wait, uint32_t wait_ms,
                                  struct lockstep_result *result);
/* The same without waiting, and with what its prepared branches block in result->body (admin only). */
enum lockstep_status lockstep_blocking(struct lockstep *client, const char *gtid, struct lockstep_result *result);
/* The coordinator's metrics, in Prometheus' text form, in result->body (admin and monitor). */
enum lockstep_status lockstep_metrics(struct lockstep *client, struct lockstep_result *result);
/* Lists transactions as JSON in result->body. `state` NULL: all that are remembered; `limit` 0: the coordinator's
 * default. */
enum lockstep_status lockstep_list(struct lockstep *client, const char *state, uint32_t limit,
                                   struct lockstep_result *result);
/* Lists participants as JSON in result->body. */
enum lockstep_status lockstep_participants(struct lockstep *client, struct lockstep_result *result);
/* Aborts a transaction that is not decided yet. The outcome tells what it is now: a decided one stays committed. */
enum lockstep_status lockstep_abort(struct lockstep *client, const char *gtid, struct lockstep_result *result);

/*
 * Sagas (from 1.1). A document with "mode": "saga" is submitted with lockstep_run(): LOCKSTEP_WAIT_APPLIED waits for
 * its end (LOCKSTEP_PENDING when it is stuck or the timeout is over), LOCKSTEP_WAIT_DECIDED until it has begun. Its
 * name is in result->gtid, everything else about it as JSON in result->body.
 */
/* Asks for a saga; waits up to `wait_ms` for its end, 0: answer at once. */
enum lockstep_status lockstep_saga(struct lockstep *client, const char *saga, uint32_t wait_ms,
                                   struct lockstep_result *result);
/* Lists sagas that have not ended. `state` NULL: all. */
enum lockstep_status lockstep_sagas(struct lockstep *client, const char *state, uint32_t limit,
                                    struct lockstep_result *result);
/* Turns it to compensation; LOCKSTEP_REFUSED behind its point of no return. */
enum lockstep_status lockstep_saga_cancel(struct lockstep *client, const char *saga, struct lockstep_result *result);
/* Lists stuck sagas. */
enum lockstep_status lockstep_dead_letters(struct lockstep *client, uint32_t limit, struct lockstep_result *result);
/* An operator's word about one (admin only). `reason` may be NULL; it stands in the audit record. */
enum lockstep_status lockstep_dead_letter(struct lockstep *client, const char *saga, enum lockstep_act act,
                                          const char *reason, struct lockstep_result *result);

/*
 * Choreography (from 1.2). What is asked of the participants' agents is in result->body as JSON (docs/openapi.yaml).
 */
/* Events of one participant behind `offset`; `type` and `key` may be NULL. */
enum lockstep_status lockstep_events(struct lockstep *client, const char *participant, const char *type,
                                     const char *key, uint64_t offset, uint32_t limit, struct lockstep_result *result);
/* The newest choreographed sagas, and those that are open (admin only). */
enum lockstep_status lockstep_flows(struct lockstep *client, uint32_t limit, struct lockstep_result *result);
/* The path of a choreographed saga (admin only). */
enum lockstep_status lockstep_flow(struct lockstep *client, const char *saga, struct lockstep_result *result);
/* Dead letters of all participants (admin only); `id` not NULL: only that one, with its payload and history. */
enum lockstep_status lockstep_event_letters(struct lockstep *client, const char *id, uint32_t limit,
                                            struct lockstep_result *result);
/* An operator's word about one (admin only). LOCKSTEP_ACT_COMPENSATE skips it and emits TYPE.failed. `reason` may be
 * NULL. */
enum lockstep_status lockstep_event_letter(struct lockstep *client, const char *id, enum lockstep_act act,
                                           const char *reason, struct lockstep_result *result);

/*
 * Asynchronous calls. `done` is called once, from lockstep_dispatch() or from a blocking call, never from `_start`
 * itself. It owns *result during the call only: to keep the body, take it (set result->body to NULL and free() it
 * later). It may start and cancel calls; it may not call lockstep_dispatch(), a blocking function or lockstep_close().
 * *ret_call (ret_call may be NULL) is valid until `done` is called or the call is cancelled.
 * Returns LOCKSTEP_OK, or LOCKSTEP_INVALID, LOCKSTEP_NOMEM, LOCKSTEP_BUSY (LOCKSTEP_CALLS_MAX), and then `done` is
 * never called.
 */
typedef void (*lockstep_done)(void *context, struct lockstep_result *result);

enum lockstep_status lockstep_run_start(struct lockstep *client, const char *document, size_t length,
                                        const struct lockstep_run_options *options, lockstep_done done, void *context,
                                        struct lockstep_call **ret_call);
enum lockstep_status lockstep_get_start(struct lockstep *client, const char *gtid, enum lockstep_wait wait,
                                        uint32_t wait_ms, lockstep_done done, void *context,
                                        struct lockstep_call **ret_call);
enum lockstep_status lockstep_list_start(struct lockstep *client, const char *state, uint32_t limit, lockstep_done done,
                                         void *context, struct lockstep_call **ret_call);
enum lockstep_status lockstep_participants_start(struct lockstep *client, lockstep_done done, void *context,
                                                 struct lockstep_call **ret_call);
enum lockstep_status lockstep_abort_start(struct lockstep *client, const char *gtid, lockstep_done done, void *context,
                                          struct lockstep_call **ret_call);
enum lockstep_status lockstep_saga_start(struct lockstep *client, const char *saga, uint32_t wait_ms,
                                         lockstep_done done, void *context, struct lockstep_call **ret_call);
enum lockstep_status lockstep_sagas_start(struct lockstep *client, const char *state, uint32_t limit,
                                          lockstep_done done, void *context, struct lockstep_call **ret_call);
enum lockstep_status lockstep_saga_cancel_start(struct lockstep *client, const char *saga, lockstep_done done,
                                                void *context, struct lockstep_call **ret_call);
enum lockstep_status lockstep_dead_letters_start(struct lockstep *client, uint32_t limit, lockstep_done done,
                                                 void *context, struct lockstep_call **ret_call);
enum lockstep_status lockstep_dead_letter_start(struct lockstep *client, const char *saga, enum lockstep_act act,
                                                const char *reason, lockstep_done done, void *context,
                                                struct lockstep_call **ret_call);
/* Forgets a call: `done` is not called. What was sent stays sent. */
void lockstep_cancel(struct lockstep_call *call);

/* One descriptor for poll, select, epoll: readable when lockstep_dispatch() has something to do. Owned by the client.
 */
int lockstep_fd(const struct lockstep *client);
/* Does what can be done without blocking; returns the number of calls still under way. */
size_t lockstep_dispatch(struct lockstep *client);

#ifdef __cplusplus
}
#endif

#endif
