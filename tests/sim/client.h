/*
 * client.h: client programs: documents, and what they make of the answers.
 *
 * A client works through its documents one after the other. An answer may be final, or leave it in doubt (the
 * coordinator died, the client went away, 202): then it asks again, with the same key if the document has one, by gtid
 * if it knows it. It gives up only where the design has no answer to give (no key, no gtid).
 */
#ifndef SIM_CLIENT_H
#define SIM_CLIENT_H

#include "coordinator/core/saga.h"
#include "tests/sim/pg.h"
#include "tests/sim/world.h"

#define SIM_STEPS_MAX 12u
#define SIM_DOCS_MAX 16u

struct sim_step {
    uint16_t branch; /* index into the document's participants */
    struct pg_statement statement;
    uint16_t after[SIM_STEPS_MAX];
    uint16_t after_count;
    /* of a saga */
    enum saga_kind kind;
    bool referenced;            /* somebody uses what it returned */
    int do_refers, undo_refers; /* step whose result the action uses, -1: none */
};

struct sim_doc {
    uint32_t client, number;
    uint32_t participants[SIM_PARTICIPANTS_MAX];
    uint32_t participant_count;
    struct sim_step steps[SIM_STEPS_MAX];
    uint32_t step_count;
    bool has_key;
    char key[32];
    uint8_t hash[16];
    bool wait_applied, xa;
    bool saga;
    uint32_t attempts, body_length; /* of a saga: of each step, bytes of the document in the log */
    bool other_document;            /* carries the key of an earlier, different document */
};

/* What comes back over HTTP. */
enum sim_status {
    SIM_COMMITTED,
    SIM_APPLIED,
    SIM_ABORTED,
    SIM_PENDING,
    SIM_HAZARD,
    SIM_NOT_BEGUN, /* 429, 503: nothing was begun */
    SIM_MISMATCH,  /* 422 */
    SIM_UNKNOWN,   /* no such transaction is known (any more) */
    SIM_GONE       /* the connection broke */
};
struct sim_response {
    enum sim_status status;
    bool has_gtid;
    uint32_t epoch;
    uint64_t sequence;
    uint32_t only_participant; /* registry number in the gtid of a one-participant transaction */
    bool saga;                 /* the name is a saga's */
    uint32_t incarnation;      /* of the log that it is a name of */
};

/* Document `number` of a client. */
const struct sim_doc *client_doc(const struct world *world, uint32_t client, uint32_t number);

void clients_start(struct world *world);
void clients_stop(struct world *world);
const char *clients_unfinished(struct world *world);

/* The answer to request `token` of a client. */
void client_response(struct world *world, uint32_t client, uint64_t token, const struct sim_response *response);

/* Does the document write at its participant number `index`? */
bool doc_writes(const struct sim_doc *doc, uint32_t index);
/* Statements as text, and back. */
void statement_text(const struct pg_statement *statement, char text[96]);
bool statement_parse(const char *text, struct pg_statement *ret_statement);

#endif
