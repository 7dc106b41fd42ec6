/*
 * lockstep_internal.h: the pure parts of liblockstep, apart so that unit tests can call them. Nothing here is exported.
 */
#ifndef CLIENT_LOCKSTEP_INTERNAL_H
#define CLIENT_LOCKSTEP_INTERNAL_H

#include "lockstep/lockstep.h"

#pragma GCC visibility push(hidden)

#define LOCKSTEP_HOST_MAX 255
#define LOCKSTEP_SOCKET_PATH_MAX 107 /* sun_path without its NUL */
#define LOCKSTEP_DEFAULT_PORT 7443

struct lockstep_url {
    bool local;                              /* a Unix socket */
    char path[LOCKSTEP_SOCKET_PATH_MAX + 1]; /* local: the socket */
    char
        base[LOCKSTEP_HOST_MAX + 32]; /* what request paths are appended to: "https://host:port" or "http://lockstep" */
};

/* Takes "https://host[:port][/]" or "unix:/path". LOCKSTEP_INVALID with a text that names the offending part. Pure. */
enum lockstep_status lockstep_url_parse(const char *text, struct lockstep_url *ret_url, char error[LOCKSTEP_TEXT_MAX]);

/* The pause before repetition number `repetition` (1, 2, ...): between half and all of base * 2^(repetition-1), at most
 * max. Pure. */
uint32_t lockstep_backoff_ms(uint32_t repetition, uint32_t base_ms, uint32_t max_ms, uint32_t random);

enum lockstep_op {
    LOCKSTEP_OP_RUN,
    LOCKSTEP_OP_GET,
    LOCKSTEP_OP_LIST,
    LOCKSTEP_OP_PARTICIPANTS,
    LOCKSTEP_OP_ABORT,
    LOCKSTEP_OP_ACT,
    LOCKSTEP_OP_TEXT
};

/* What an HTTP answer means for the call that waits for it. */
enum lockstep_judgement {
    LOCKSTEP_SETTLED,     /* result->status is final */
    LOCKSTEP_TRY_LATER,   /* nothing was begun; result->status says what to report if there is no other try */
    LOCKSTEP_FOLLOW,      /* not known yet: result->gtid */
    LOCKSTEP_FOLLOW_SAGA, /* the same, and it is a saga */
    LOCKSTEP_AMBIGUOUS    /* a run may have begun, and this answer does not tell its outcome */
};
/* Reads an answer into status, outcome, applied, gtid, sqlstate, participant, reason of *result; leaves the rest alone.
 * Pure. */
enum lockstep_judgement lockstep_answer_read(enum lockstep_op op, int http_status, const char *body, size_t length,
                                             struct lockstep_result *result);

bool lockstep_gtid_plausible(const char *gtid);
bool lockstep_key_valid(const char *key);

#pragma GCC visibility pop

#endif
