/* check_saga.c: see check_saga.h. */
#include "tests/sim/check_saga.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/check.h"

struct step_book {
    uint32_t done, undone; /* how often the effect was committed, and its compensation */
    uint64_t result;
    bool skipped;
    enum saga_op op; /* tried in vain, so often */
    uint32_t failed;
};

/* A record on its way to the medium. */
struct proof {
    struct proof *next;
    enum saga_state state;
    size_t length;
    uint8_t bytes[];
};

struct saga_book {
    struct saga_book *next;
    uint32_t epoch;
    uint64_t sequence;
    char name[32];
    const struct sim_doc *doc;
    struct proof *proofs;
    bool durable[SAGA_STATE_COUNT]; /* the record of this state was seen on the medium */
    bool past;                      /* something behind the point of no return was sent */
    bool told, excused;
    enum saga_state ended, acknowledged; /* SAGA_BEGUN: not */
    enum saga_state newest_end;          /* on the medium */
    struct step_book steps[SIM_STEPS_MAX];
};

/* ------------------------------------------------------------------- books */

static struct saga_book *find(struct world *world, uint32_t epoch, uint64_t sequence) {
    struct saga_book *b = world->saga_books;
    while (b != NULL && (b->epoch != epoch || b->sequence != sequence)) {
        b = b->next;
    }
    return b;
}

static struct saga_book *need(struct world *world, uint32_t epoch, uint64_t sequence) {
    struct saga_book *b = find(world, epoch, sequence);
    if (b == NULL) {
        world_wrong(world, "saga %u.%llu, which nobody began", epoch, (unsigned long long)sequence);
    }
    return b;
}

void check_saga_begun(struct world *world, uint32_t epoch, uint64_t sequence, const struct sim_doc *doc) {
    if (find(world, epoch, sequence) != NULL) {
        world_wrong(world, "saga %u.%llu was handed out twice", epoch, (unsigned long long)sequence);
    }
    struct saga_book *b = calloc(1, sizeof *b);
    assert(b != NULL);
    b->epoch = epoch;
    b->sequence = sequence;
    b->doc = doc;
    snprintf(b->name, sizeof b->name, "saga %u.%llu", epoch, (unsigned long long)sequence);
    b->next = world->saga_books;
    world->saga_books = b;
    sim_coverage.sagas++;
}

static uint32_t in_force(const struct step_book *step) {
    return step->done - step->undone;
}

/* --------------------------------------------------------------- the log */

void check_saga_logged(struct world *world, const struct saga *saga, enum saga_state state, const uint8_t *record,
                       size_t length) {
    struct saga_book *b = need(world, saga->epoch, saga->sequence);
    struct proof *proof = malloc(sizeof *proof + length);
    assert(proof != NULL);
    proof->state = state;
    proof->length = length;
    memcpy(proof->bytes, record, length);
    proof->next = b->proofs;
    b->proofs = proof;
}

void check_saga_medium(struct world *world, const uint8_t *bytes, size_t length) {
    for (struct saga_book *b = world->saga_books; b != NULL; b = b->next) {
        for (struct proof **link = &b->proofs; *link != NULL;) {
            struct proof *proof = *link;
            if (memmem(bytes, length, proof->bytes, proof->length) == NULL) {
                link = &proof->next;
                continue;
            }
            b->durable[proof->state] = true;
            if (proof->state == SAGA_COMPLETED || proof->state == SAGA_COMPENSATED) {
                b->newest_end = proof->state;
            }
            *link = proof->next;
            free(proof);
        }
    }
}

/* ------------------------------------------------------------- what is sent */

static bool nothing_to_undo(const struct sim_doc *doc) {
    for (uint32_t i = 0; i < doc->step_count; i++) {
        if (doc->steps[i].kind != SAGA_RETRIABLE) {
            return false;
        }
    }
    return true;
}

/* How often may it fail? */
static uint32_t attempts_of(const struct saga_book *b, const struct saga *saga, enum saga_op op) {
    if (op == SAGA_OP_UNDO || saga->state == SAGA_COMPENSATING) {
        return saga_policy(SAGA_ERROR_COMPENSATION)->attempts;
    }
    return b->doc->attempts != 0 ? b->doc->attempts : saga_policy(SAGA_ERROR_TIMEOUT)->attempts;
}

void check_saga_sent(struct world *world, const struct saga *saga, uint32_t step, enum saga_op op) {
    struct saga_book *b = need(world, saga->epoch, saga->sequence);
    enum saga_kind kind = b->doc->steps[step].kind;
    if (b->excused) {
        return;
    }
    if (!b->durable[SAGA_BEGUN]) {
        world_wrong(world, "step %u of %s is sent before the begin is on the medium", step, b->name);
    }
    if (op == SAGA_OP_DO && kind == SAGA_RETRIABLE) {
        if (!b->durable[SAGA_PASSED] && !nothing_to_undo(b->doc)) {
            world_wrong(world, "step %u of %s is sent before the point of no return is on the medium", step, b->name);
        }
        b->past = true;
    }
    if (op != SAGA_OP_DO && kind == SAGA_COMPENSATABLE && !b->durable[SAGA_COMPENSATING]) {
        world_wrong(world, "%s of step %u of %s is sent before the turn is on the medium", saga_op_name(op), step,
                    b->name);
    }
    if (b->ended != SAGA_BEGUN) {
        world_wrong(world, "step %u of %s is sent behind its end", step, b->name);
    }
    const struct step_book *book = &b->steps[step];
    if (book->op == op && book->failed >= attempts_of(b, saga, op)) {
        world_wrong(world, "%s of step %u of %s is tried again after %u attempts", saga_op_name(op), step, b->name,
                    book->failed);
    }
}

void check_saga_failed(struct world *world, const struct saga *saga, uint32_t step, enum saga_op op) {
    struct step_book *book = &need(world, saga->epoch, saga->sequence)->steps[step];
    book->failed = book->op == op ? book->failed + 1 : 1;
    book->op = op;
}

void check_saga_afresh(struct world *world, uint32_t epoch, uint64_t sequence) {
    struct saga_book *b = need(world, epoch, sequence);
    for (uint32_t i = 0; i < SIM_STEPS_MAX; i++) {
        b->steps[i].failed = 0;
    }
}

void check_saga_result(struct world *world, const struct saga *saga, uint32_t step, bool there, uint64_t result) {
    const struct saga_book *b = need(world, saga->epoch, saga->sequence);
    if (b->excused || b->steps[step].undone > 0) {
        return;
    }
    if (!there) {
        world_wrong(world, "step %u of %s is called done, and what it returned is lost", step, b->name);
    }
    if (b->steps[step].result != result) {
        world_wrong(world, "step %u of %s has returned %llu, and %llu is said", step, b->name,
                    (unsigned long long)b->steps[step].result, (unsigned long long)result);
    }
}

void check_saga_skipped(struct world *world, const struct saga *saga, uint32_t step) {
    need(world, saga->epoch, saga->sequence)->steps[step].skipped = true;
}

/* ----------------------------------------------------------------- servers */

static void check_do(struct world *world, const struct saga_book *b, uint32_t index) {
    const struct sim_step *step = &b->doc->steps[index];
    const struct step_book *book = &b->steps[index];
    if (book->undone > 0) {
        world_wrong(world, "step %u of %s runs again after it was undone", index, b->name);
    }
    if (book->done > 0) {
        world_wrong(world, "step %u of %s runs twice", index, b->name);
    }
    for (uint32_t a = 0; a < step->after_count; a++) {
        const struct step_book *before = &b->steps[step->after[a]];
        if (before->done == 0 && !before->skipped) {
            world_wrong(world, "step %u of %s runs before step %u", index, b->name, step->after[a]);
        }
    }
}

static void check_undo(struct world *world, const struct saga_book *b, uint32_t index) {
    if (in_force(&b->steps[index]) != 1) {
        world_wrong(world, "step %u of %s is undone and is not in force", index, b->name);
    }
    for (uint32_t i = 0; i < b->doc->step_count; i++) {
        const struct sim_step *other = &b->doc->steps[i];
        if (in_force(&b->steps[i]) != 0 && other->kind == SAGA_PIVOT) {
            world_wrong(world, "step %u of %s is undone after its pivot", index, b->name);
        }
        for (uint32_t a = 0; a < other->after_count; a++) {
            if (other->after[a] == index && in_force(&b->steps[i]) != 0 && !b->steps[i].skipped) {
                world_wrong(world, "step %u of %s is undone before step %u, which builds on it", index, b->name, i);
            }
        }
    }
    if (b->past) {
        world_wrong(world, "step %u of %s is undone behind the point of no return", index, b->name);
    }
}

void check_saga_effect(struct world *world, const struct pg_saga *saga, uint32_t participant, uint64_t kept) {
    if (saga->log != world->incarnation) {
        return;
    }
    struct saga_book *b = need(world, saga->epoch, saga->sequence);
    struct step_book *step = &b->steps[saga->step];
    world_trace(world, "check", saga->op == SAGA_OP_UNDO ? "undone" : "done", "step %u of %s at p%u", saga->step,
                b->name, participant + 1);
    if (!b->excused && b->ended != SAGA_BEGUN) {
        world_wrong(world, "step %u of %s is %s at p%u behind its end", saga->step, b->name,
                    saga->op == SAGA_OP_UNDO ? "undone" : "done", participant + 1);
    }
    if (!b->excused && saga->op == SAGA_OP_DO) {
        check_do(world, b, saga->step);
    } else if (!b->excused) {
        check_undo(world, b, saga->step);
    }
    step->done += saga->op == SAGA_OP_DO ? 1u : 0u;
    step->undone += saga->op == SAGA_OP_UNDO ? 1u : 0u;
    step->result = saga->op == SAGA_OP_DO ? kept : step->result;
}

void check_saga_lost(struct world *world, const struct pg_saga *saga) {
    if (saga->log == world->incarnation) {
        need(world, saga->epoch, saga->sequence)->excused = true;
    }
}

void check_saga_pruned(struct world *world, const struct pg_saga *saga, uint32_t participant) {
    if (saga->log != world->incarnation) {
        return; /* the word may have been under way when the log was lost */
    }
    const struct saga_book *b = need(world, saga->epoch, saga->sequence);
    if (!b->excused && !b->durable[SAGA_COMPLETED] && !b->durable[SAGA_COMPENSATED]) {
        world_wrong(world, "the barrier rows of %s at p%u go, and it has not ended", b->name, participant + 1);
    }
}

/* -------------------------------------------------------------------- ends */

/* Is it so on the servers? */
static void check_truth(struct world *world, const struct saga_book *b, enum saga_state state) {
    for (uint32_t i = 0; !b->excused && i < b->doc->step_count; i++) {
        const struct step_book *step = &b->steps[i];
        uint32_t wanted = state == SAGA_COMPLETED ? 1 : 0;
        if (in_force(step) != wanted && !step->skipped) {
            world_wrong(world, "%s is called %s, and step %u is in force %u times", b->name, saga_state_name(state), i,
                        in_force(step));
        }
    }
}

void check_saga_ended(struct world *world, const struct saga *saga) {
    struct saga_book *b = need(world, saga->epoch, saga->sequence);
    if (!b->excused && !b->durable[saga->state]) {
        world_wrong(world, "%s is called %s, and that is not on the medium", b->name, saga_state_name(saga->state));
    }
    if (!b->excused && b->ended != SAGA_BEGUN) {
        world_wrong(world, "%s ends twice", b->name);
    }
    b->ended = saga->state;
    sim_coverage.completed += saga->state == SAGA_COMPLETED ? 1u : 0u;
    sim_coverage.compensated += saga->state == SAGA_COMPENSATED ? 1u : 0u;
    check_truth(world, b, saga->state);
}

void check_saga_told(struct world *world, uint32_t epoch, uint64_t sequence) {
    struct saga_book *b = need(world, epoch, sequence);
    if (!b->excused && !b->durable[SAGA_BEGUN]) {
        world_wrong(world, "a client is told of %s, whose begin is not on the medium", b->name);
    }
    b->told = true;
}

void check_saga_acknowledged(struct world *world, uint32_t epoch, uint64_t sequence, bool completed) {
    struct saga_book *b = need(world, epoch, sequence);
    enum saga_state state = completed ? SAGA_COMPLETED : SAGA_COMPENSATED;
    if (!b->excused && (!b->durable[state] || (b->acknowledged != SAGA_BEGUN && b->acknowledged != state))) {
        world_wrong(world, "a client is told that %s is %s, and it is not", b->name, saga_state_name(state));
    }
    b->told = true;
    b->acknowledged = state;
    check_truth(world, b, state);
}

static bool executed(const struct saga_book *b) {
    for (uint32_t i = 0; i < b->doc->step_count; i++) {
        if (b->steps[i].done > 0) {
            return true;
        }
    }
    return false;
}

void check_saga_end(struct world *world) {
    for (const struct saga_book *b = world->saga_books; b != NULL; b = b->next) {
        enum saga_state end = b->ended != SAGA_BEGUN ? b->ended : b->newest_end;
        if (b->excused) {
            continue;
        }
        if (end == SAGA_BEGUN && (b->told || executed(b))) {
            world_wrong(world, "%s has begun and never ended", b->name);
        }
        if (end != SAGA_BEGUN) {
            check_truth(world, b, end);
        }
    }
}

/* Nothing can be said about the sagas of a log that is gone. */
void check_saga_log_lost(struct world *world) {
    assert(world->past_saga_books == NULL);
    world->past_saga_books = world->saga_books;
    world->saga_books = NULL;
}

static void free_books(struct saga_book **list) {
    while (*list != NULL) {
        struct saga_book *b = *list;
        *list = b->next;
        while (b->proofs != NULL) {
            struct proof *proof = b->proofs;
            b->proofs = proof->next;
            free(proof);
        }
        free(b);
    }
}

void check_saga_stop(struct world *world) {
    free_books(&world->saga_books);
    free_books(&world->past_saga_books);
}
