/* coord_host.c: see coord_host.h. Mirrors coordinator/host.c and agents.c, minus sockets, threads and logging. */
#include "tests/sim/coord_host.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "common/frame.h"
#include "coordinator/claim.h"
#include "coordinator/coordmsg.h"
#include "coordinator/core/engine.h"
#include "coordinator/core/recover.h"
#include "coordinator/dlog/dlog.h"
#include "coordinator/registry.h"
#include "coordinator/reprove.h"
#include "tests/sim/agent_host.h"
#include "tests/sim/check.h"
#include "tests/sim/check_saga.h"
#include "tests/sim/coord_saga.h"
#include "tests/sim/disk.h"
#include "tests/sim/net.h"
#include "tests/sim/relay.h"

#define REQUESTS_MAX 64u
#define LINKS_MAX 64u
#define TICKETS_MAX 1024u
#define RESPONSES_MAX 256u
#define PROOFS_MAX 256u
#define HOUSEKEEPING_US (300 * MS)
#define MAINTAIN_ROUNDS 3u /* every so many housekeeping rounds */
#define APPLY_WAIT_US (5 * SECOND)
#define GET_WAIT_US (5 * SECOND)
#define DRAIN_US (3 * SECOND)

struct request {
    bool used;
    uint32_t client;
    uint64_t token;
    const struct sim_doc *doc; /* NULL: a GET */
    bool wait_applied, travelling;
    bool has_txn, saga;
    uint32_t epoch;
    uint64_t sequence;
    uint32_t only; /* participant number of a one-participant transaction */
    uint32_t incarnation;
};

enum link_state { LINK_FREE, LINK_OPEN, LINK_WAITS_FOR_LOG, LINK_WELCOMED };

struct coord_link {
    enum link_state state;
    uint64_t number;
    uint32_t participant; /* by certificate */
    struct registry_participant *entry;
    uint64_t waits_for; /* log position */
    bool has_chain;
    uint64_t chain_at;
    /* the server as Hello showed it */
    uint64_t system_id;
    uint32_t timeline, credits;
    Lockstep__TimelineSwitch history[32];
    uint32_t history_count;
    bool history_changed; /* proofs are under way */
    struct {
        uint32_t epoch;
        uint64_t sequence;
    } proofs[PROOFS_MAX];
    uint32_t proof_count;
    uint64_t proof_us;  /* when one was last sent or answered */
    bool proofs_failed; /* the log could not be read to its end: all over again later */
};

struct ticket {
    uint64_t ticket, end;
};

struct response_slot {
    bool used;
    uint32_t client;
    uint64_t token;
    struct sim_response response;
};

struct sim_coord {
    bool up, dying;
    bool away;     /* not to be started for now: its machine is gone, or it is a copy that was taken away */
    bool refused;  /* an agent does not know this log: 78, an operator has to do something */
    bool draining; /* SIGTERM came */
    uint64_t drain_until_us;
    uint64_t life, paused_until_us;
    struct dlog *log;
    struct engine *engine;
    struct sim_sagas *sagas;
    uint32_t depth; /* > 0: the turn is not over, something of a saga is being carried out */
    uint64_t saga_armed_us;
    struct engine_effects effects;
    struct registry *registry;
    uint32_t epoch;
    uint64_t fence_position, fence_chain;
    struct ticket tickets[TICKETS_MAX];
    size_t ticket_first, ticket_count;
    bool kick, writing;
    uint64_t armed_us, started_us, rounds, horizon_seen, append_seen;
    uint64_t horizon_most; /* of all lives */
    uint64_t ping_token;
    struct coord_link links[LINKS_MAX];
    Lockstep__Route *routes[SIM_PARTICIPANTS_MAX]; /* what each participant has last said it wants, in this life */
    struct request requests[REQUESTS_MAX];
    struct response_slot responses[RESPONSES_MAX];
    uint64_t documents_held;
    bool reading_fails; /* somewhere in this reading of the log */
    bool damaged;       /* the disk has other bytes than were written */
    /* the verdicts of the inquiry being answered */
    Lockstep__AnswerItem *answer_items;
    size_t answer_count;
};

static void boot(struct world *world, uint64_t life, uint64_t unused);
static void step(struct world *world, struct engine_event *event);
static void end_turn(struct world *world);
static void take_stale_away(struct world *world);
static struct sim_coord *new_coord(void);
static void stale_starts(struct world *world, uint64_t a, uint64_t b);
static void welcome(struct world *world, struct coord_link *link);

/* True: the process is paused, and the call comes again when it goes on. */
static bool still_paused(struct world *world, world_call call, uint64_t a, uint64_t b) {
    uint64_t until = coord_paused_until(world);
    if (until > world->now_us) {
        world_after(world, until - world->now_us, call, a, b);
        return true;
    }
    return false;
}

/* The machine's clock jumps, and nothing may depend on it. */
static uint64_t wall_clock_ms(struct world *world) {
    const uint64_t year = UINT64_C(31556952000);
    uint64_t now = 50 * year + world->now_us / MS;
    return world_fault(world, world->options.clock_pm) ? rng_below(&world->rng, 100 * year) : now;
}

static const char *actor(const struct world *world) {
    return world->who == SIM_STALE ? "stale" : "coord";
}

static void trace(struct world *world, const char *word, const char *detail) {
    world_trace(world, actor(world), word, "%s", detail);
}

static char *text(const char *from) {
    return (char *)(uintptr_t)(from != NULL ? from : "");
}

/* ---------------------------------------------------------------- requests */

static void deliver(struct world *world, uint64_t slot, uint64_t unused) {
    (void)unused;
    struct response_slot *r = &world->coord->responses[slot];
    assert(r->used);
    r->used = false;
    client_response(world, r->client, r->token, &r->response);
}

static void respond_to(struct world *world, uint32_t client, uint64_t token, const struct sim_response *response) {
    struct sim_coord *c = world->coord;
    for (size_t i = 0; i < RESPONSES_MAX; i++) {
        if (!c->responses[i].used) {
            c->responses[i] = (struct response_slot){true, client, token, *response};
            world_after(world, rng_delay(&world->rng, 200), deliver, i, 0);
            return;
        }
    }
    assert(!"too many answers under way");
}

static void respond(struct world *world, struct request *request, enum sim_status status) {
    struct sim_response response = {.status = status,
                                    .has_gtid = request->has_txn,
                                    .epoch = request->epoch,
                                    .sequence = request->sequence,
                                    .only_participant = request->only,
                                    .saga = request->saga,
                                    .incarnation = request->incarnation};
    request->used = false;
    respond_to(world, request->client, request->token, &response);
}

static struct request *new_request(struct world *world, uint32_t client, uint64_t token) {
    for (size_t i = 0; i < REQUESTS_MAX; i++) {
        struct request *request = &world->coord->requests[i];
        if (!request->used) {
            *request =
                (struct request){.used = true, .client = client, .token = token, .incarnation = world->incarnation};
            return request;
        }
    }
    assert(!"too many requests");
    return NULL;
}

static struct request *find_request(struct world *world, uint32_t client, uint64_t token) {
    for (size_t i = 0; i < REQUESTS_MAX; i++) {
        struct request *request = &world->coord->requests[i];
        if (request->used && request->client == client && request->token == token) {
            return request;
        }
    }
    return NULL;
}

static void waited_long_enough(struct world *world, uint64_t client, uint64_t token) {
    if (still_paused(world, waited_long_enough, client, token)) {
        return;
    }
    struct request *request = find_request(world, (uint32_t)client, token);
    if (request == NULL || !request->has_txn || !world->coord->up) {
        return;
    }
    const struct txn *txn = request->saga ? NULL : engine_find(world->coord->engine, request->epoch, request->sequence);
    respond(world, request, txn != NULL && txn->outcome == OUTCOME_COMMITTED ? SIM_COMMITTED : SIM_PENDING);
}

/* The state of a transaction, as far as one request waits for it. True: answered. */
static bool answer_from(struct world *world, struct request *request, const struct txn *txn, bool applied) {
    if (txn->outcome == OUTCOME_ABORTED && txn->existing) {
        request->epoch = txn->existing_epoch;
        request->sequence = txn->existing_sequence;
        if (request->epoch == 0) { /* under a log that is lost */
            request->incarnation = SIM_INCARNATIONS;
            respond(world, request, SIM_APPLIED);
            return true;
        }
        sim_coverage.joined++;
        respond(world, request, txn->existing_same_document ? SIM_APPLIED : SIM_MISMATCH);
        return true;
    }
    switch (txn->outcome) {
    case OUTCOME_PENDING:
        return false;
    case OUTCOME_ABORTED:
        respond(world, request, SIM_ABORTED);
        return true;
    case OUTCOME_HAZARD:
        respond(world, request, SIM_HAZARD);
        return true;
    case OUTCOME_COMMITTED:
        if (applied || txn->applied) {
            respond(world, request, SIM_APPLIED);
            return true;
        }
        if (!request->wait_applied) {
            respond(world, request, SIM_COMMITTED);
            return true;
        }
        return false;
    }
    assert(!"outcome");
    return false;
}

static void answer_requests(struct world *world, const struct txn *txn, bool applied, bool pending) {
    for (size_t i = 0; i < REQUESTS_MAX; i++) {
        struct request *request = &world->coord->requests[i];
        if (!request->used || !request->has_txn || request->saga || request->epoch != txn->epoch ||
            request->sequence != txn->sequence) {
            continue;
        }
        if (pending) {
            respond(world, request, SIM_PENDING);
        } else if (!answer_from(world, request, txn, applied) && txn->outcome == OUTCOME_COMMITTED) {
            world_after(world, APPLY_WAIT_US, waited_long_enough, request->client, request->token);
        }
    }
}

/* ------------------------------------------------------------------ the log */

static void log_must(struct world *world, enum ls_status status, const char *what) {
    if (status == LS_ERR_FULL) {
        world_wrong(world, "%s does not fit into the log, for which room was reserved", what);
    }
    if (status != LS_OK) {
        world_wrong(world, "%s cannot be appended: %s", what, ls_status_text(status));
    }
}

static void room_changed(struct sim_coord *c) {
    engine_set_log_room(c->engine, dlog_room(c->log));
}

static void push_ticket(struct sim_coord *c, uint64_t ticket, uint64_t end) {
    assert(c->ticket_count < TICKETS_MAX);
    c->tickets[(c->ticket_first + c->ticket_count++) % TICKETS_MAX] = (struct ticket){ticket, end};
}

/* The bytes by which the decision's record is known on the medium. */
static const char *first_listed(const struct txn *txn) {
    for (uint32_t i = 0; i < txn->branch_count; i++) {
        if (txn->branches[i].state == BR_YES) {
            return txn->branches[i].id.gid;
        }
    }
    assert(!"a decision without branches");
    return NULL;
}

static void take_copy(struct world *world, uint64_t started_after_us) {
    uint64_t chain;
    dlog_durable(world->coord->log, &world->stale_position, &chain);
    disk_clone(world, 0, SIM_STALE);
    world_trace(world, "world", "copy", "of the log, which ends at %llu", (unsigned long long)world->stale_position);
    world_after(world, rng_delay(&world->rng, started_after_us), stale_starts, 0, 0);
}

static void log_commit(struct world *world, const struct engine_effect *e) {
    struct sim_coord *c = world->coord;
    const struct txn *txn = e->txn;
    static uint8_t payload[LS_LOG_RECORD_MAX];
    size_t length = coordmsg_pack_decision(txn, "app/sim", wall_clock_ms(world), payload);
    uint64_t position, end;
    log_must(world, dlog_append_commit(c->log, txn->epoch, txn->sequence, payload, length, &position, &end),
             "a decision");
    check_decision_logged(world, txn->epoch, txn->sequence, first_listed(txn), position);
    engine_set_log_position(c->engine, txn->epoch, txn->sequence, position);
    room_changed(c);
    push_ticket(c, e->ticket, end);
    c->kick = true;
    if (world->copy_wanted && world->who == 0 && !world->healed) {
        world->copy_wanted = false;
        take_copy(world, 8 * world->options.net_us + 2 * world->options.disk_us);
    }
}

static void log_hazard(struct world *world, const struct engine_effect *e) {
    struct sim_coord *c = world->coord;
    uint8_t payload[COORDMSG_HAZARD_MAX];
    size_t length = coordmsg_pack_hazard(e, payload);
    uint64_t position, end;
    log_must(world, dlog_append(c->log, DLOG_HAZARD, payload, length, &position, &end), "a hazard");
    room_changed(c);
    push_ticket(c, e->ticket, end);
    c->kick = true;
    const struct registry_participant *entry = registry_by_number(c->registry, e->hazard.participant);
    check_hazard_reported(world, e->hazard.epoch, e->hazard.sequence, (uint32_t)(entry->name[1] - '1'));
}

static uint64_t log_room(struct sim_coord *c) {
    struct engine_stats stats;
    engine_stats(c->engine, &stats);
    uint64_t room = dlog_room(c->log);
    return room > stats.log_reserved_bytes ? room - stats.log_reserved_bytes : 0;
}

static bool log_participant(struct world *world, const struct registry_participant *p, uint64_t *ret_end) {
    struct sim_coord *c = world->coord;
    uint8_t payload[COORDMSG_PARTICIPANT_MAX];
    size_t length = coordmsg_pack_participant(p, payload);
    uint64_t position;
    if (log_room(c) < length + 64 ||
        dlog_append(c->log, DLOG_PARTICIPANT, payload, length, &position, ret_end) != LS_OK) {
        return false;
    }
    room_changed(c);
    c->kick = true;
    return true;
}

static void log_mark(struct world *world) {
    struct sim_coord *c = world->coord;
    uint64_t end;
    enum ls_status status = dlog_mark(c->log, (world->now_us - c->started_us) / MS, &end);
    if (status == LS_ERR_FULL) {
        return; /* the room left is promised to decisions */
    }
    log_must(world, status, "a mark");
    room_changed(c);
    c->kick = true;
}

/* The disk has failed, or the process was killed inside of a disk operation. */
static void die_of_disk(struct world *world, const char *what) {
    trace(world, disk_was_cut(world) ? "killed" : "exit 74", what);
    sim_coverage.sync_failures += disk_was_cut(world) ? 0u : 1u;
    sim_coverage.log_cuts += disk_was_cut(world) ? 1u : 0u;
    coord_crash(world, rng_permille(&world->rng, world->options.coord_machine_pm));
}

static void prepare_disk_faults(struct world *world) {
    if (world_fault(world, world->options.disk_cut_pm)) {
        disk_cut(world, rng_between(&world->rng, 1, 5));
    } else if (world_fault(world, world->options.disk_fail_pm)) {
        disk_fail_soon(world, 3);
    }
}

static void reading_may_fail(struct world *world, uint64_t within) {
    world->coord->reading_fails = world_fault(world, world->options.disk_read_pm);
    if (world->coord->reading_fails) {
        sim_coverage.read_errors++;
        disk_fail_read_soon(world, within);
    }
}

static void reading_is_over(struct world *world) {
    world->coord->reading_fails = false;
    disk_calm(world);
}

static void write_done(struct world *world, uint64_t life, uint64_t unused);

static void write_begin(struct world *world) {
    struct sim_coord *c = world->coord;
    if (!c->up || c->writing || !c->kick) {
        return;
    }
    c->kick = false;
    struct ls_error err;
    prepare_disk_faults(world);
    enum ls_status status = dlog_write(c->log, &err);
    if (disk_was_cut(world) || status != LS_OK) {
        die_of_disk(world, "writing the log");
        return;
    }
    disk_calm(world);
    check_log_written(world);
    c->writing = true;
    world_after(world, rng_delay(&world->rng, world->options.disk_us), write_done, c->life, 0);
}

static void write_done(struct world *world, uint64_t life, uint64_t unused) {
    if (still_paused(world, write_done, life, 0)) {
        return;
    }
    (void)unused;
    struct sim_coord *c = world->coord;
    if (!c->up || c->life != life) {
        return;
    }
    c->writing = false;
    dlog_durable(c->log, &c->fence_position, &c->fence_chain);
    check_log_position(world, c->fence_position, c->fence_chain);
    uint64_t ticket = 0;
    while (c->ticket_count > 0 && c->tickets[c->ticket_first].end <= c->fence_position) {
        ticket = c->tickets[c->ticket_first].ticket;
        c->ticket_first = (c->ticket_first + 1) % TICKETS_MAX;
        c->ticket_count--;
    }
    for (size_t i = 0; i < LINKS_MAX && c->up; i++) {
        if (c->links[i].state == LINK_WAITS_FOR_LOG && c->links[i].waits_for <= c->fence_position) {
            welcome(world, &c->links[i]);
        }
    }
    if (c->up) {
        sagas_host_durable(c->sagas, c->fence_position);
    }
    if (ticket != 0 && c->up) {
        struct engine_event event = {.kind = EV_LOG_DURABLE};
        event.log_durable.ticket = ticket;
        step(world, &event);
    } else if (c->up) {
        end_turn(world);
    }
    write_begin(world);
}

/* NULL: not durable yet, or the disk has failed. */
static Lockstep__LogCommit *read_commit(struct world *world, uint64_t position, bool *ret_failed) {
    struct dlog_record record;
    struct ls_error err;
    enum ls_status status = dlog_read(world->coord->log, position, &record, &err);
    if (status == LS_ERR_BUSY) {
        return NULL;
    }
    if (status != LS_OK && !world->coord->reading_fails) {
        world_wrong(world, "a decision that the index names cannot be read back: %s", err.text);
    }
    if (status != LS_OK) {
        *ret_failed = true; /* guessing would be worse than stopping */
        return NULL;
    }
    Lockstep__LogCommit *commit = lockstep__log_commit__unpack(NULL, record.length, record.payload);
    if (record.type != DLOG_COMMIT || commit == NULL) {
        world_wrong(world, "position %llu does not hold a decision", (unsigned long long)position);
    }
    return commit;
}

static void note_horizon(struct sim_coord *c) {
    struct dlog_stats stats;
    dlog_get_stats(c->log, &stats);
    if (c->horizon_most < stats.horizon_position) c->horizon_most = stats.horizon_position;
}

uint64_t coord_horizon(const struct world *world) {
    return world->coords[0]->horizon_most;
}

static uint64_t retention_ms(const struct world *world) {
    return world->options.retention_ms != 0 ? world->options.retention_ms : 86400000;
}

bool coord_window_over(const struct world *world, uint32_t epoch, uint64_t position, uint64_t logged_us) {
    struct dlog_stats stats;
    dlog_get_stats(world->coords[0]->log, &stats);
    /* the first and the last, and one that every start has left early */
    uint64_t segments = (world->coords[0]->epoch - epoch + 3) * (world->options.segment_kib << 10);
    return world->now_us - logged_us >= retention_ms(world) * MS ||
           stats.append_position - position + segments > world->options.log_kib << 10;
}

enum coord_kept coord_keeps(struct world *world, uint32_t epoch, uint64_t sequence) {
    struct sim_coord *c = world->coords[0];
    if (c == NULL || !c->up) {
        return COORD_DOWN;
    }
    uint64_t position;
    switch (dlog_find(c->log, epoch, sequence, &position)) {
    case DLOG_FOUND:
        return COORD_KEPT;
    case DLOG_BEYOND_HORIZON:
        return COORD_BEYOND;
    case DLOG_ABSENT:
    case DLOG_NEVER_ISSUED:
        break;
    }
    return COORD_ABSENT;
}

/* ------------------------------------------------------------------- frames */

static void send_frame(struct world *world, const struct coord_link *link, Lockstep__Frame *frame) {
    struct sim_coord *c = world->coord;
    Lockstep__Fence fence = LOCKSTEP__FENCE__INIT;
    fence.incarnation = text(dlog_incarnation(c->log));
    fence.epoch = c->epoch;
    fence.position = c->fence_position;
    fence.chain = c->fence_chain;
    frame->fence = &fence;
    net_send_to_agent(world, link->number, frame);
}

static struct coord_link *link_by_number(struct sim_coord *c, uint64_t number) {
    for (size_t i = 0; i < LINKS_MAX; i++) {
        if (c->links[i].state != LINK_FREE && c->links[i].number == number) {
            return &c->links[i];
        }
    }
    return NULL;
}

/* The link over which a participant is reached now. */
static struct coord_link *link_to(struct sim_coord *c, uint32_t number) {
    struct engine_participant_info info;
    if (!engine_participant_info(c->engine, number, &info) || !info.linked) {
        return NULL;
    }
    return link_by_number(c, info.link);
}

static void send_work(struct world *world, const struct engine_effect *e) {
    struct sim_coord *c = world->coord;
    const struct txn *txn = e->txn;
    uint32_t number = txn->branches[e->branch].participant;
    struct coord_link *link = link_to(c, number);
    struct engine_participant_info info;
    (void)engine_participant_info(c->engine, number, &info);
    if (link == NULL) {
        return;
    }
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    Lockstep__Work work = LOCKSTEP__WORK__INIT;
    Lockstep__SagaStep saga = LOCKSTEP__SAGA_STEP__INIT;
    Lockstep__Statement statements[SIM_STEPS_MAX];
    Lockstep__Statement *list[SIM_STEPS_MAX];
    char sql[SIM_STEPS_MAX][96];
    work.gtid = text(txn->gtid);
    work.part = e->work.part;
    work.last = e->work.last;
    work.has_one_phase = txn->one_participant;
    work.one_phase = txn->one_participant;
    work.app = text("app/sim");
    work.lock_timeout_ms = (uint32_t)world->options.lock_timeout_ms;
    uint64_t left = txn->deadline_us > world->now_us ? (txn->deadline_us - world->now_us) / MS : 0;
    work.deadline_ms = left > 0 ? (uint32_t)left : 1;
    work.has_gid_form = true;
    work.gid_form = txn->gid_form == LS_GID_XA ? LOCKSTEP__GID_FORM__XA : LOCKSTEP__GID_FORM__READABLE;
    uint32_t step;
    bool cancel;
    const struct pg_statement *attempt = sagas_host_work(c->sagas, txn, &saga, &step, &cancel);
    const struct sim_doc *doc = attempt == NULL ? txn->document : NULL;
    for (uint32_t i = 0; i < e->work.step_count; i++) {
        lockstep__statement__init(&statements[i]);
        statement_text(doc != NULL ? &doc->steps[e->work.steps[i]].statement : attempt, sql[i]);
        statements[i].step = doc != NULL ? e->work.steps[i] : step;
        statements[i].sql = sql[i];
        list[i] = &statements[i];
    }
    work.n_statements = attempt != NULL && cancel ? 0 : e->work.step_count;
    work.statements = list;
    work.saga = attempt != NULL ? &saga : NULL;
    if (txn->one_participant && txn->has_key) {
        work.key = text(doc->key);
        work.has_document_hash = true;
        work.document_hash = (ProtobufCBinaryData){sizeof doc->hash, (uint8_t *)(uintptr_t)doc->hash};
    }
    frame.body_case = LOCKSTEP__FRAME__BODY_WORK;
    frame.work = &work;
    world_trace(world, actor(world), "Work", "%s %s part %u%s", txn->gtid, info.name, e->work.part,
                e->work.last ? " last" : "");
    send_frame(world, link, &frame);
}

static uint32_t participant_index(struct sim_coord *c, uint32_t number) {
    return (uint32_t)(registry_by_number(c->registry, number)->name[1] - '1');
}

static void send_decide(struct world *world, const struct engine_effect *e) {
    struct sim_coord *c = world->coord;
    const struct txn *txn = e->txn;
    const struct txn_branch *branch = &txn->branches[e->branch];
    check_decide_sent(world, txn->epoch, txn->sequence, participant_index(c, branch->participant), e->decide.commit,
                      branch->id.xid);
    struct coord_link *link = link_to(c, branch->participant);
    if (link == NULL) {
        return;
    }
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    Lockstep__Decide decide;
    coordmsg_build_decide(e, &decide);
    if (decide.commit) {
        decide.lsn = coordmsg_lsn(link->entry, txn->epoch, txn->sequence, decide.lsn, c->fence_position);
    }
    frame.body_case = LOCKSTEP__FRAME__BODY_DECIDE;
    frame.decide = &decide;
    world_trace(world, actor(world), "Decide", "%s p%u %s", txn->gtid, participant_index(c, branch->participant) + 1,
                e->decide.commit ? "COMMIT" : "ABORT");
    send_frame(world, link, &frame);
}

static void send_settle(struct world *world, const struct engine_effect *e) {
    struct coord_link *link = link_to(world->coord, e->txn->branches[0].participant);
    if (link == NULL) {
        return;
    }
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    Lockstep__Settle settle = LOCKSTEP__SETTLE__INIT;
    settle.gtid = text(e->txn->gtid);
    frame.body_case = LOCKSTEP__FRAME__BODY_SETTLE;
    frame.settle = &settle;
    world_trace(world, actor(world), "Settle", "%s", e->txn->gtid);
    send_frame(world, link, &frame);
}

/* ------------------------------------------------------------------ the step */

static void on_outcome(struct world *world, const struct txn *txn) {
    world_trace(world, actor(world), "outcome", "%s %s %s", txn->gtid, txn_outcome_name(txn->outcome),
                txn->cause.reason);
    if (txn->outcome == OUTCOME_COMMITTED && !txn->one_participant && !txn->fully_read_only) {
        check_decision_announced(world, txn->epoch, txn->sequence);
    }
    if (!sagas_host_on_outcome(world, world->coord->sagas, txn)) {
        answer_requests(world, txn, false, false);
    }
}

static void on_refused(struct world *world, const struct engine_effect *e) {
    static const char *const names[] = {"busy",     "keys full", "no memory",   "offline",
                                        "draining", "log full",  "key mismatch"};
    trace(world, "refuses", names[e->refused.why]);
    if (sagas_host_owns(world->coord->sagas, e->ref)) {
        sagas_host_on_refused(world->coord->sagas);
        return;
    }
    struct request *request = &world->coord->requests[e->ref];
    respond(world, request, e->refused.why == REFUSE_KEY_MISMATCH ? SIM_MISMATCH : SIM_NOT_BEGUN);
}

static void look_up(struct world *world, struct request *request);

static void on_verdict(struct world *world, const struct engine_effect *e) {
    struct sim_coord *c = world->coord;
    assert(e->verdict.item < c->answer_count);
    c->answer_items[e->verdict.item].verdict = coordmsg_verdict(e->verdict.verdict);
}

static uint32_t number_of(const struct sim_coord *c, uint32_t participant) {
    char name[8];
    sim_participant_name(participant, name);
    return registry_by_name(c->registry, name)->number;
}

static void carry_out(struct world *world, const struct engine_effect *e) {
    struct sim_coord *c = world->coord;
    uint64_t end;
    switch (e->kind) {
    case EF_ACCEPTED: {
        c->documents_held++;
        if (sagas_host_owns(c->sagas, e->ref)) {
            sagas_host_on_accepted(world, c->sagas, e);
            return;
        }
        struct request *request = &c->requests[e->ref];
        request->has_txn = true;
        request->epoch = e->txn->epoch;
        request->sequence = e->txn->sequence;
        request->only = e->txn->one_participant ? e->txn->branches[0].participant : 0;
        world_trace(world, actor(world), "accepts", "%s c%u document %u", e->txn->gtid, request->doc->client,
                    request->doc->number);
        check_accepted(world, e->txn->epoch, e->txn->sequence, e->txn->gtid, request->doc);
        return;
    }
    case EF_JOINED: {
        struct request *request = &c->requests[e->ref];
        request->has_txn = true;
        request->epoch = e->joined.epoch;
        request->sequence = e->joined.sequence;
        request->only = request->doc->participant_count == 1 ? number_of(c, request->doc->participants[0]) : 0;
        sim_coverage.joined++;
        look_up(world, request);
        return;
    }
    case EF_REFUSED:
        on_refused(world, e);
        return;
    case EF_SEND_WORK:
        send_work(world, e);
        return;
    case EF_SEND_DECIDE:
        send_decide(world, e);
        return;
    case EF_SEND_SETTLE:
        send_settle(world, e);
        return;
    case EF_VERDICT:
        on_verdict(world, e);
        return;
    case EF_LOG_COMMIT:
        log_commit(world, e);
        return;
    case EF_LOG_END:
        log_must(world, dlog_append_end(c->log, e->txn->epoch, e->txn->sequence, &end), "an end");
        room_changed(c);
        push_ticket(c, e->ticket, end);
        return;
    case EF_LOG_HAZARD:
        log_hazard(world, e);
        return;
    case EF_OUTCOME:
        on_outcome(world, e->txn);
        return;
    case EF_APPLIED:
        answer_requests(world, e->txn, true, false);
        return;
    case EF_PENDING:
        answer_requests(world, e->txn, false, true);
        return;
    case EF_REPORT:
        trace(world, "reports", e->text);
        return;
    case EF_RELEASE:
        c->documents_held--;
        return;
    case EF_STOP:
        if (world->who != SIM_STALE || e->stop.exit_status != LS_EXIT_CONFIG) {
            world_wrong(world, "the coordinator stops with %d: %s", e->stop.exit_status, e->text);
        }
        trace(world, "exit 78", e->text);
        c->dying = c->refused = c->away = true;
        return;
    }
    assert(!"effect kind");
}

static void saga_tick(struct world *world, uint64_t life, uint64_t unused) {
    struct sim_coord *c = world->coord;
    if (still_paused(world, saga_tick, life, unused) || !c->up || c->life != life) {
        return;
    }
    c->saga_armed_us = SAGA_NEVER;
    sagas_host_tick(c->sagas);
    end_turn(world);
}

static void tick(struct world *world, uint64_t life, uint64_t unused) {
    if (still_paused(world, tick, life, 0)) {
        return;
    }
    (void)unused;
    struct sim_coord *c = world->coord;
    if (!c->up || c->life != life) {
        return;
    }
    c->armed_us = ENGINE_NEVER;
    struct engine_event event = {.kind = EV_TICK};
    step(world, &event);
}

static void credits_in_use(const struct sim_coord *c, uint32_t used[SIM_PARTICIPANTS_MAX + 1]) {
    struct engine_participant_info info;
    for (uint32_t number = 1; number <= SIM_PARTICIPANTS_MAX; number++) {
        used[number] = engine_participant_info(c->engine, number, &info) ? info.used : 0;
    }
}

/* No step takes more credits than there are (fewer may be granted while more are in use). */
static void check_credits(struct world *world, const uint32_t before[SIM_PARTICIPANTS_MAX + 1]) {
    struct engine_participant_info info;
    for (uint32_t number = 1; number <= SIM_PARTICIPANTS_MAX; number++) {
        if (engine_participant_info(world->coord->engine, number, &info) && info.used > before[number] &&
            info.used > info.credits) {
            world_wrong(world, "%u of %u credits of %s are taken", info.used, info.credits, info.name);
        }
    }
}

/* Hands the event to the engine and carries out what comes of it, unless the process dies on the way. */
static void step(struct world *world, struct engine_event *event) {
    struct sim_coord *c = world->coord;
    assert(c->up);
    event->now_us = world->now_us;
    uint32_t used[SIM_PARTICIPANTS_MAX + 1];
    credits_in_use(c, used);
    engine_step(c->engine, event, &c->effects);
    engine_check(c->engine);
    check_credits(world, used);
    for (size_t i = 0; i < c->effects.count && !c->dying; i++) {
        c->dying = world_fault(world, world->options.coord_cut_pm);
        if (!c->dying) {
            carry_out(world, &c->effects.list[i]);
        }
    }
    end_turn(world);
}

static void arm(struct world *world, uint64_t due, uint64_t *armed_us, world_call call) {
    if (due < *armed_us) {
        *armed_us = due;
        world_after(world, due > world->now_us ? due - world->now_us : 0, call, world->coord->life, 0);
    }
}

/* What sagas make of what has happened; then the process dies, or arms its timers and writes. */
static void end_turn(struct world *world) {
    struct sim_coord *c = world->coord;
    if (c->depth > 0) {
        return;
    }
    c->depth++;
    sagas_host_turn(world, c->sagas);
    c->depth--;
    if (c->dying) {
        coord_crash(world, !c->refused && rng_permille(&world->rng, world->options.coord_machine_pm));
        return;
    }
    arm(world, engine_next_timer(c->engine), &c->armed_us, tick);
    arm(world, sagas_host_next_timer(c->sagas), &c->saga_armed_us, saga_tick);
    write_begin(world);
}

/* ------------------------------------------- what the host of sagas needs (coord_saga.h) */

uint32_t coord_epoch(const struct world *world) {
    return world->coord->epoch;
}
struct dlog *coord_log(struct world *world) {
    return world->coord->log;
}
struct engine *coord_engine(struct world *world) {
    return world->coord->engine;
}
uint64_t coord_wall_clock_ms(struct world *world) {
    return wall_clock_ms(world);
}
uint32_t coord_number_of(const struct world *world, uint32_t participant) {
    char name[8];
    sim_participant_name(participant, name);
    const struct registry_participant *entry = registry_by_name(world->coord->registry, name);
    return entry == NULL ? 0 : entry->number;
}
uint32_t coord_participant_of(const struct world *world, uint32_t number) {
    return participant_index(world->coord, number);
}
bool coord_is_linked(const struct world *world, uint32_t number) {
    return link_to(world->coord, number) != NULL;
}
void coord_engine_step(struct world *world, struct engine_event *event) {
    step(world, event);
}
void coord_log_appended(struct world *world) {
    room_changed(world->coord);
    world->coord->kick = true;
}
bool coord_dies(struct world *world) {
    struct sim_coord *c = world->coord;
    c->dying = c->dying || world_fault(world, world->options.coord_cut_pm);
    return c->dying;
}

static void send_forget(struct world *world, const struct coord_link *link, Lockstep__Forget *forget) {
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    frame.body_case = LOCKSTEP__FRAME__BODY_FORGET;
    frame.forget = forget;
    world_trace(world, actor(world), "Forget", "p%u %zu sagas", link->participant + 1, forget->n_sagas);
    send_frame(world, link, &frame);
}

void coord_send_forget(struct world *world, uint32_t number, const char *saga) {
    struct coord_link *link = link_to(world->coord, number);
    if (link != NULL) {
        char *list[1] = {text(saga)};
        Lockstep__Forget forget = LOCKSTEP__FORGET__INIT;
        forget.n_sagas = 1;
        forget.sagas = list;
        send_forget(world, link, &forget);
    }
}

/* True: answered. */
static bool answer_saga(struct world *world, struct request *request, const struct saga *saga) {
    if (saga->state == SAGA_COMPLETED || saga->state == SAGA_COMPENSATED) {
        respond(world, request, saga->state == SAGA_COMPLETED ? SIM_APPLIED : SIM_ABORTED);
        return true;
    }
    bool enough = saga->state == SAGA_STUCK || (saga->state != SAGA_BEGUN && !request->wait_applied);
    if (enough) {
        respond(world, request, SIM_PENDING);
    }
    return enough;
}

void coord_on_saga(struct world *world, const struct saga *saga) {
    for (size_t i = 0; i < REQUESTS_MAX && world->who == 0; i++) {
        struct request *request = &world->coord->requests[i];
        if (request->used && request->saga && request->has_txn && !request->travelling &&
            request->epoch == saga->epoch && request->sequence == saga->sequence) {
            (void)answer_saga(world, request, saga);
        }
    }
}

/* ------------------------------------------------------------------ requests */

/* How a saga has ended, as the log knows it. */
static enum sim_status ended_saga(struct world *world, uint32_t epoch, uint64_t sequence) {
    struct dlog *log = world->coord->log;
    struct dlog_saga found;
    struct dlog_record record;
    struct ls_error err;
    if (!dlog_find_saga(log, epoch, sequence, &found) || found.end == 0) {
        return SIM_UNKNOWN;
    }
    enum ls_status status = dlog_read(log, found.end, &record, &err);
    if (status == LS_ERR_BUSY) {
        return SIM_PENDING;
    }
    Lockstep__LogSagaEnd *end =
        status == LS_OK ? lockstep__log_saga_end__unpack(NULL, record.length, record.payload) : NULL;
    if (end == NULL) {
        world_wrong(world, "the end of a saga that the index names cannot be read back");
    }
    enum sim_status answer = end->state == SAGA_COMPLETED ? SIM_APPLIED : SIM_ABORTED;
    lockstep__log_saga_end__free_unpacked(end, NULL);
    return answer;
}

static void look_up_saga(struct world *world, struct request *request) {
    const struct saga *saga = sagas_host_find(world->coord->sagas, request->epoch, request->sequence);
    if (saga == NULL) {
        respond(world, request, ended_saga(world, request->epoch, request->sequence));
    } else if (!answer_saga(world, request, saga)) {
        world_after(world, GET_WAIT_US, waited_long_enough, request->client, request->token);
    }
}

static void saga_arrives(struct world *world, struct request *request) {
    struct sim_coord *c = world->coord;
    const struct sim_doc *doc = request->doc;
    uint32_t numbers[SIM_PARTICIPANTS_MAX];
    struct engine_saga saga = {.participants = numbers, .participant_count = doc->participant_count};
    for (uint32_t i = 0; i < doc->participant_count; i++) {
        numbers[i] = coord_number_of(world, doc->participants[i]);
        if (numbers[i] == 0 || !engine_participant_info(c->engine, numbers[i], &(struct engine_participant_info){0})) {
            respond(world, request, SIM_NOT_BEGUN); /* 400: never heard of */
            return;
        }
    }
    XXH128_hash_t key = XXH3_128bits(doc->key, strlen(doc->key));
    saga.has_key = doc->has_key;
    memcpy(saga.key_digest, &key, sizeof saga.key_digest);
    memcpy(saga.document_digest, doc->hash, sizeof saga.document_digest);
    c->depth++;
    enum engine_saga_answer answer = sagas_host_begin(world, c->sagas, doc, &saga);
    c->depth--;
    request->saga = true;
    request->has_txn = answer != ENGINE_SAGA_REFUSED;
    request->epoch = saga.epoch;
    request->sequence = saga.sequence;
    if (answer == ENGINE_SAGA_REFUSED) {
        respond(world, request, saga.why == REFUSE_KEY_MISMATCH ? SIM_MISMATCH : SIM_NOT_BEGUN);
    } else if (answer == ENGINE_SAGA_JOINED) {
        sim_coverage.joined++;
        look_up_saga(world, request);
    } else {
        world_trace(world, actor(world), "begins", "saga %u.%llu c%u document %u", saga.epoch,
                    (unsigned long long)saga.sequence, doc->client, doc->number);
        world_after(world, GET_WAIT_US, waited_long_enough, request->client, request->token);
    }
    end_turn(world);
}

static void look_up(struct world *world, struct request *request) {
    struct sim_coord *c = world->coord;
    const struct txn *txn = engine_find(c->engine, request->epoch, request->sequence);
    if (txn != NULL) {
        if (!answer_from(world, request, txn, false)) {
            world_after(world, GET_WAIT_US, waited_long_enough, request->client, request->token);
        }
        return;
    }
    const struct txn_finished *finished = engine_find_finished(c->engine, request->epoch, request->sequence);
    if (finished != NULL) {
        enum sim_status status = finished->outcome == OUTCOME_COMMITTED ? SIM_APPLIED
                                 : finished->outcome == OUTCOME_ABORTED ? SIM_ABORTED
                                                                        : SIM_HAZARD;
        respond(world, request, status);
        return;
    }
    if (request->only != 0) {
        struct engine_event event = {.kind = EV_SETTLE};
        event.settle.epoch = request->epoch;
        event.settle.sequence = request->sequence;
        event.settle.participant = request->only;
        event.settle.app = 1;
        uint32_t client = request->client;
        uint64_t token = request->token;
        world_after(world, GET_WAIT_US, waited_long_enough, client, token);
        step(world, &event);
        return;
    }
    uint64_t position;
    bool kept = dlog_find(c->log, request->epoch, request->sequence, &position) == DLOG_FOUND;
    respond(world, request, kept ? SIM_APPLIED : SIM_UNKNOWN);
}

static void run_arrives(struct world *world, uint64_t client, uint64_t token) {
    if (still_paused(world, run_arrives, client, token)) {
        return;
    }
    struct sim_coord *c = world->coord;
    struct request *request = find_request(world, (uint32_t)client, token);
    if (request == NULL) {
        return;
    }
    request->travelling = false;
    if (!c->up) {
        respond(world, request, SIM_NOT_BEGUN);
        return;
    }
    const struct sim_doc *doc = request->doc;
    if (doc == NULL && request->incarnation != world->incarnation) {
        respond(world, request, SIM_UNKNOWN);
        return;
    }
    if (doc == NULL) {
        (request->saga ? look_up_saga : look_up)(world, request);
        return;
    }
    if (doc->saga) {
        saga_arrives(world, request);
        return;
    }
    uint32_t numbers[SIM_PARTICIPANTS_MAX];
    struct engine_step_spec steps[SIM_STEPS_MAX];
    for (uint32_t i = 0; i < doc->participant_count; i++) {
        char name[8];
        sim_participant_name(doc->participants[i], name);
        const struct registry_participant *entry = registry_by_name(c->registry, name);
        if (entry == NULL || !engine_participant_info(c->engine, entry->number, &(struct engine_participant_info){0})) {
            respond(world, request, SIM_NOT_BEGUN); /* 400: never heard of */
            return;
        }
        numbers[i] = entry->number;
    }
    for (uint32_t i = 0; i < doc->step_count; i++) {
        steps[i] = (struct engine_step_spec){doc->steps[i].branch, doc->steps[i].after_count, doc->steps[i].after};
    }
    struct engine_event event = {.kind = EV_RUN};
    event.run.ref = (uint64_t)(request - c->requests);
    event.run.document = (void *)(uintptr_t)doc;
    event.run.app = 1;
    event.run.participants = numbers;
    event.run.participant_count = doc->participant_count;
    event.run.steps = steps;
    event.run.step_count = doc->step_count;
    event.run.deadline_us = world->now_us + world->options.deadline_ms * MS;
    event.run.gid_form = doc->xa ? LS_GID_XA : LS_GID_READABLE;
    event.run.has_key = doc->has_key;
    XXH128_hash_t key = XXH3_128bits(doc->key, strlen(doc->key));
    memcpy(event.run.key_digest, &key, sizeof event.run.key_digest);
    memcpy(event.run.document_digest, doc->hash, sizeof event.run.document_digest);
    step(world, &event);
}

void coord_submit(struct world *world, uint32_t client, uint64_t token, const struct sim_doc *doc) {
    struct request *request = new_request(world, client, token);
    request->doc = doc;
    request->wait_applied = doc->wait_applied;
    request->travelling = true;
    world_after(world, rng_delay(&world->rng, 200), run_arrives, client, token);
}

void coord_get(struct world *world, uint32_t client, uint64_t token, const struct sim_response *what,
               bool wait_applied) {
    struct request *request = new_request(world, client, token);
    request->has_txn = true;
    request->epoch = what->epoch;
    request->sequence = what->sequence;
    request->only = what->only_participant;
    request->saga = what->saga;
    request->incarnation = what->incarnation;
    request->wait_applied = wait_applied;
    request->travelling = true;
    world_after(world, rng_delay(&world->rng, 200), run_arrives, client, token);
}

void coord_cancel(struct world *world, uint32_t client, uint64_t token) {
    struct request *request = find_request(world, client, token);
    if (request == NULL || !request->has_txn || !world->coord->up) {
        return;
    }
    sim_coverage.cancelled++;
    if (request->saga) {
        trace(world, "cancel", "a saga");
        sagas_host_cancel(world, world->coord->sagas, request->epoch, request->sequence);
        end_turn(world);
        return;
    }
    struct engine_event event = {.kind = EV_CANCEL};
    event.cancel.epoch = request->epoch;
    event.cancel.sequence = request->sequence;
    event.cancel.reason = "cancelled by the client";
    trace(world, "cancel", "");
    step(world, &event);
}

void coord_hang_up(struct world *world, uint32_t client, uint64_t token) {
    struct request *request = find_request(world, client, token);
    if (request != NULL && !request->travelling) {
        request->used = false;
    }
}

/* -------------------------------------------------------------------- links */

uint64_t coord_paused_until(const struct world *world) {
    return world->coord->up ? world->coord->paused_until_us : 0;
}

bool coord_listens(const struct world *world) {
    return world->coord->up;
}

void coord_link_open(struct world *world, uint64_t number, uint32_t participant) {
    struct sim_coord *c = world->coord;
    for (size_t i = 0; i < LINKS_MAX; i++) {
        if (c->links[i].state == LINK_FREE) {
            c->links[i] = (struct coord_link){.state = LINK_OPEN, .number = number, .participant = participant};
            return;
        }
    }
    net_close(world, number, true);
}

void coord_link_down(struct world *world, uint64_t number) {
    struct sim_coord *c = world->coord;
    struct coord_link *link = c->up ? link_by_number(c, number) : NULL;
    if (link == NULL) {
        return;
    }
    bool welcomed = link->state == LINK_WELCOMED;
    uint32_t participant = link->entry != NULL ? link->entry->number : 0;
    link->state = LINK_FREE;
    if (welcomed) {
        struct engine_event event = {.kind = EV_AGENT_DOWN};
        event.agent.participant = participant;
        event.agent.link = number;
        step(world, &event);
    }
}

static void drop_link(struct world *world, struct coord_link *link, const char *why) {
    uint64_t number = link->number;
    if (world->idle) {
        world_wrong(world, "the coordinator gives up an idle link: %s", why);
    }
    trace(world, "drops", why);
    net_close(world, number, true);
    coord_link_down(world, number);
}

static void on_hello(struct world *world, struct coord_link *link, const Lockstep__Frame *frame) {
    struct sim_coord *c = world->coord;
    const Lockstep__Hello *hello = frame->hello;
    char name[8];
    sim_participant_name(link->participant, name);
    char reason[LS_REASON_MAX + 1];
    if (link->state != LINK_OPEN && world->options.double_pm > 0) {
        drop_link(world, link, "a second Hello");
        return;
    }
    if (link->state != LINK_OPEN || strcmp(hello->participant, name) != 0 ||
        !coordmsg_hello_is_for(hello, SIM_COORDINATOR, reason)) {
        world_wrong(world, "p%u says a Hello that makes no sense", link->participant + 1);
    }
    link->system_id = hello->system_id;
    link->timeline = hello->timeline;
    link->credits = hello->credits;
    link->history_count = (uint32_t)hello->n_history;
    for (uint32_t i = 0; i < link->history_count; i++) {
        link->history[i] = *hello->history[i];
    }
    struct dlog_stats stats;
    dlog_get_stats(c->log, &stats);
    if (!coordmsg_within_window(frame->fence, dlog_incarnation(c->log), c->epoch, stats.oldest_position)) {
        sim_coverage.refusals++;
        if (world->who == 0) { /* nobody can be certain that a copy is the same log */
            agent_host_operator(world, link->participant);
        }
        drop_link(world, link, "away for longer than the log's window");
        return;
    }
    if (coordmsg_chain_at(frame->fence, c->log, c->epoch, &link->has_chain, &link->chain_at) != LS_OK) {
        drop_link(world, link, "the log cannot be read just now");
        return;
    }
    struct registry_participant *entry = registry_by_name(c->registry, name);
    struct ls_error err;
    link->waits_for = 0;
    if (entry == NULL) {
        struct registry_participant record = {
            .number = registry_next_number(c->registry), .system_id = link->system_id, .timeline = link->timeline};
        snprintf(record.name, sizeof record.name, "%s", name);
        if (!log_participant(world, &record, &link->waits_for)) {
            drop_link(world, link, "no room in the log for a new participant");
            return;
        }
        if (registry_add(c->registry, record.number, name, &entry, &err) != LS_OK) {
            world_wrong(world, "%s", err.text);
        }
        entry->system_id = link->system_id;
        entry->timeline = link->timeline;
    }
    link->history_changed = coordmsg_history_changed(entry, hello);
    link->entry = entry;
    link->state = LINK_WAITS_FOR_LOG;
    if (link->waits_for <= c->fence_position) {
        welcome(world, link);
    } else {
        write_begin(world);
    }
}

static void close_old_link(struct world *world, uint64_t number, uint64_t life) {
    struct sim_coord *c = world->coord;
    struct coord_link *link = c->up && c->life == life ? link_by_number(c, number) : NULL;
    if (link != NULL) {
        link->state = LINK_FREE;
        net_close(world, number, true);
    }
}

static void welcome(struct world *world, struct coord_link *link) {
    struct sim_coord *c = world->coord;
    for (size_t i = 0; i < LINKS_MAX; i++) { /* an older link of the same participant may still have frames under way */
        struct coord_link *other = &c->links[i];
        if (other != link && other->state == LINK_WELCOMED && other->participant == link->participant) {
            world_after(world, rng_below(&world->rng, 500 * MS), close_old_link, other->number, c->life);
        }
    }
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    Lockstep__Welcome welcome_body = LOCKSTEP__WELCOME__INIT;
    welcome_body.version = LS_PROTOCOL_VERSION;
    static char first[] = "0123456789ab";
    welcome_body.accepted_incarnation = world->accepted ? first : NULL;
    welcome_body.coordinator = text(SIM_COORDINATOR);
    welcome_body.number = link->entry->number;
    welcome_body.has_chain_at = link->has_chain;
    welcome_body.chain_at = link->chain_at;
    frame.body_case = LOCKSTEP__FRAME__BODY_WELCOME;
    frame.welcome = &welcome_body;
    send_frame(world, link, &frame);
    link->state = LINK_WELCOMED;
    world_trace(world, actor(world), "Welcome", "p%u link %llu timeline %u credits %u", link->participant + 1,
                (unsigned long long)link->number, link->timeline, link->credits);
    struct engine_event event = {.kind = EV_PARTICIPANT};
    event.participant.number = link->entry->number;
    event.participant.name = link->entry->name;
    step(world, &event);
    if (!c->up) {
        return;
    }
    uint64_t number = link->number;
    struct engine_event up = {.kind = EV_AGENT_UP};
    up.agent_up.participant = link->entry->number;
    up.agent_up.link = number;
    up.agent_up.credits = link->credits;
    up.agent_up.system_id = link->system_id;
    up.agent_up.timeline = link->timeline;
    step(world, &up);
}

struct proof_search {
    struct world *world;
    struct coord_link *link;
};

static enum ls_status on_kept(void *context, const struct dlog_record *record) {
    struct proof_search *search = context;
    struct coord_link *link = search->link;
    Lockstep__TimelineSwitch switches[32];
    memcpy(switches, link->history, sizeof switches);
    struct reprove_history history = {link->system_id, link->timeline, switches, link->history_count};
    Lockstep__LogCommit *commit = lockstep__log_commit__unpack(NULL, record->length, record->payload);
    assert(commit != NULL);
    for (size_t i = 0; i < commit->n_branches; i++) {
        const Lockstep__LogBranch *b = commit->branches[i];
        if (b->participant != link->entry->number || !reprove_needed(&history, b->system_id, b->timeline, b->lsn) ||
            coordmsg_is_driven(search->world->coord->engine, b->participant, commit->epoch, commit->sequence)) {
            continue;
        }
        assert(link->proof_count < PROOFS_MAX);
        link->proofs[link->proof_count].epoch = commit->epoch;
        link->proofs[link->proof_count++].sequence = commit->sequence;
        const struct registry_sighting *sighting = registry_sighting(link->entry, commit->epoch, commit->sequence);
        if (sighting != NULL && sighting->end > search->world->coord->fence_position) {
            continue; /* asked next time, as in agents.c */
        }
        Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
        Lockstep__Prove prove = LOCKSTEP__PROVE__INIT;
        Lockstep__Decide item = LOCKSTEP__DECIDE__INIT;
        Lockstep__Decide *list[1] = {&item};
        struct ls_gtid gtid = {.epoch = commit->epoch, .sequence = commit->sequence};
        char name[LS_GTID_MAX + 1];
        snprintf(gtid.coordinator, sizeof gtid.coordinator, SIM_COORDINATOR);
        snprintf(gtid.incarnation, sizeof gtid.incarnation, "%s", sim_incarnation(search->world));
        ls_gtid_format(&gtid, name);
        struct txn_branch_id id = {.timeline = b->timeline,
                                   .system_id = b->system_id,
                                   .xid = b->xid,
                                   .lsn = coordmsg_lsn(link->entry, commit->epoch, commit->sequence, b->lsn,
                                                       search->world->coord->fence_position),
                                   .gid = b->gid,
                                   .owner = b->owner};
        item.gtid = name;
        coordmsg_build_commit(&id, &item);
        prove.n_items = 1;
        prove.items = list;
        frame.body_case = LOCKSTEP__FRAME__BODY_PROVE;
        frame.prove = &prove;
        world_trace(search->world, actor(search->world), "Prove", "%s p%u", name, link->participant + 1);
        send_frame(search->world, link, &frame);
    }
    lockstep__log_commit__free_unpacked(commit, NULL);
    return LS_OK;
}

/* All are proved: from now on this is the history that the log knows. */
static void proofs_done(struct world *world, struct coord_link *link) {
    struct sim_coord *c = world->coord;
    struct registry_participant next = *link->entry;
    next.system_id = link->system_id;
    next.timeline = link->timeline;
    next.changed_epoch = c->epoch;
    uint64_t end;
    if (log_participant(world, &next, &end)) {
        *link->entry = next;
        link->history_changed = false;
        write_begin(world);
    }
}

/* Every kept decision whose branch there may be undone by the change of history is proved again. */
static void begin_proofs(struct world *world, struct coord_link *link) {
    struct proof_search search = {world, link};
    struct ls_error err;
    link->proof_count = 0;
    link->proof_us = world->now_us;
    reading_may_fail(world, 3);
    bool may_fail = world->coord->reading_fails;
    enum ls_status status = dlog_each_commit(world->coord->log, on_kept, &search, &err);
    reading_is_over(world);
    if (status != LS_OK && !may_fail) {
        world_wrong(world, "the kept decisions cannot be read: %s", err.text);
    }
    link->proofs_failed = status != LS_OK;
    if (link->proof_count == 0 && !link->proofs_failed) {
        proofs_done(world, link);
    }
}

static void proof_answered(struct world *world, struct coord_link *link, uint32_t epoch, uint64_t sequence) {
    for (uint32_t i = 0; i < link->proof_count; i++) {
        if (link->proofs[i].epoch == epoch && link->proofs[i].sequence == sequence) {
            link->proofs[i] = link->proofs[--link->proof_count];
            link->proof_us = world->now_us;
            if (link->proof_count == 0 && link->history_changed && !link->proofs_failed) {
                proofs_done(world, link);
            }
            return;
        }
    }
}

/* ------------------------------------------------------------ frames of agents */

static bool parse_ours(const struct world *world, const char *name, struct ls_gtid *gtid) {
    return ls_gtid_parse(name, gtid) == LS_OK && strcmp(gtid->coordinator, SIM_COORDINATOR) == 0 &&
           strcmp(gtid->incarnation, sim_incarnation(world)) == 0;
}

static void on_vote(struct world *world, const struct coord_link *link, const Lockstep__Vote *vote) {
    struct ls_gtid gtid, existing;
    if (!parse_ours(world, vote->gtid, &gtid)) {
        if (world->incarnation > 0) {
            return;
        }
        world_wrong(world, "p%u votes on %s", link->participant + 1, vote->gtid);
    }
    struct engine_event event = {0};
    coordmsg_read_vote(vote, link->entry->number, link->number, &gtid, &event);
    if (vote->kind == LOCKSTEP__VOTE_KIND__EXISTS) {
        bool ours = vote->existing_gtid != NULL && parse_ours(world, vote->existing_gtid, &existing);
        if (!ours && world->incarnation == 0) {
            world_wrong(world, "p%u names no earlier transaction of the key", link->participant + 1);
        }
        event.vote.existing_epoch = ours ? existing.epoch : 0;
        event.vote.existing_sequence = ours ? existing.sequence : 0;
        const struct txn *txn = engine_find(world->coord->engine, gtid.epoch, gtid.sequence);
        event.vote.existing_same_document =
            txn != NULL && vote->existing_hash.len == sizeof txn->document_digest &&
            memcmp(vote->existing_hash.data, txn->document_digest, sizeof txn->document_digest) == 0;
    }
    sagas_host_on_vote(world->coord->sagas, &gtid, vote);
    step(world, &event);
}

/* Which of the sagas that a database keeps may it forget? */
static void on_kept_sagas(struct world *world, const struct coord_link *link, const Lockstep__Kept *kept) {
    struct sim_coord *c = world->coord;
    char *list[LS_KEPT_PAGE_MAX];
    Lockstep__Forget forget = LOCKSTEP__FORGET__INIT;
    forget.has_token = true;
    forget.token = kept->token;
    forget.sagas = list;
    for (size_t i = 0; i < kept->n_sagas; i++) {
        struct ls_gtid gtid;
        if (parse_ours(world, kept->sagas[i], &gtid) && gtid.participant == 0 &&
            sagas_host_forgotten(world, c->sagas, &gtid)) {
            list[forget.n_sagas++] = kept->sagas[i];
        }
    }
    send_forget(world, link, &forget);
}

static void on_done(struct world *world, struct coord_link *link, const Lockstep__Done *done) {
    struct ls_gtid gtid;
    if (!parse_ours(world, done->gtid, &gtid)) {
        if (world->incarnation > 0) {
            return;
        }
        world_wrong(world, "p%u is done with %s", link->participant + 1, done->gtid);
    }
    struct engine_event event = {0};
    coordmsg_read_done(done, link->entry->number, link->number, &gtid, &event);
    step(world, &event);
    if (world->coord->up) {
        proof_answered(world, link, gtid.epoch, gtid.sequence);
    }
}

static enum check_verdict checked(Lockstep__Verdict verdict) {
    switch (verdict) {
    case LOCKSTEP__VERDICT__VERDICT_COMMIT:
        sim_coverage.verdict_commit++;
        return CHECK_VERDICT_COMMIT;
    case LOCKSTEP__VERDICT__VERDICT_ABORT:
        sim_coverage.verdict_abort++;
        return CHECK_VERDICT_ABORT;
    case LOCKSTEP__VERDICT__VERDICT_STRANGER:
        sim_coverage.verdict_stranger++;
        return CHECK_VERDICT_STRANGER;
    case LOCKSTEP__VERDICT__VERDICT_HUMAN:
        return CHECK_VERDICT_HUMAN;
    case LOCKSTEP__VERDICT__VERDICT_PENDING:
        sim_coverage.verdict_pending++;
        return CHECK_VERDICT_OTHER;
    case LOCKSTEP__VERDICT__VERDICT_FOREIGN:
    case LOCKSTEP__VERDICT__VERDICT_FORGOTTEN:
    case _LOCKSTEP__VERDICT_IS_INT_SIZE:
        break;
    }
    return CHECK_VERDICT_OTHER;
}

static void ask_engine(struct world *world, struct coord_link *link, const Lockstep__InquiryItem *item, uint32_t index,
                       const struct ls_gtid *gtid, bool *ret_live) {
    struct sim_coord *c = world->coord;
    struct engine_event event = {0};
    struct txn_branch_id ids[LS_PARTICIPANTS_PER_TXN_CEILING];
    Lockstep__LogCommit *commit = NULL;
    uint64_t position;
    coordmsg_read_inquiry(item, link->entry, link->number, link->history_changed, gtid, &event);
    event.inquiry.item = index;
    const struct txn *txn = engine_find(c->engine, gtid->epoch, gtid->sequence);
    if (coordmsg_ask_log(txn)) {
        event.inquiry.kept = coordmsg_kept(dlog_find(c->log, gtid->epoch, gtid->sequence, &position));
    }
    bool failed = false;
    reading_may_fail(world, 1);
    if (event.inquiry.kept == KEPT_COMMIT && (commit = read_commit(world, position, &failed)) == NULL) {
        event.inquiry.kept = KEPT_NOT_YET;
    }
    reading_is_over(world);
    if (failed) {
        die_of_disk(world, "reading a decision back");
        return;
    }
    if (commit != NULL) {
        event.inquiry.kept_branches = ids;
        event.inquiry.kept_branch_count = coordmsg_branches(commit, ids);
    }
    *ret_live = txn != NULL && (txn->state == TXN_ACTIVE || txn->state == TXN_PREPARING || txn->state == TXN_LOGGING);
    const struct txn_branch_id *asked = coordmsg_branch_asked(txn, &event);
    step(world, &event);
    if (c->up && asked != NULL && c->answer_items[index].verdict == LOCKSTEP__VERDICT__VERDICT_COMMIT) {
        Lockstep__TimelineSwitch *history[32];
        for (uint32_t i = 0; i < link->history_count; i++) {
            history[i] = &link->history[i];
        }
        Lockstep__Hello hello = LOCKSTEP__HELLO__INIT;
        hello.system_id = link->system_id;
        hello.timeline = link->timeline;
        hello.n_history = link->history_count;
        hello.history = history;
        if (log_room(c) < coordmsg_sight_room(link->entry) &&
            registry_sighting(link->entry, gtid->epoch, gtid->sequence) == NULL) {
            check_no_room_for_sighting(world, gtid->epoch, gtid->sequence, link->participant);
        }
        c->answer_items[index].verdict =
            coordmsg_verdict(coordmsg_sight(&hello, asked, item, gtid, c->fence_position, log_room(c), link->entry));
    }
    if (commit != NULL) {
        lockstep__log_commit__free_unpacked(commit, NULL);
    }
}

/* What is prepared on a later timeline than its vote's, as in agents.c. */
static void log_sightings(struct world *world, const struct coord_link *link) {
    uint64_t end;
    if (registry_sightings_new(link->entry)) {
        bool logged = log_participant(world, link->entry, &end);
        registry_sightings_logged(link->entry, logged ? end : 0);
        sim_coverage.sightings++;
        if (logged) {
            write_begin(world);
        }
    }
}

static void on_inquiry(struct world *world, struct coord_link *link, const Lockstep__Inquiry *inquiry) {
    struct sim_coord *c = world->coord;
    Lockstep__AnswerItem items[PG_SCAN_MAX];
    Lockstep__AnswerItem *list[PG_SCAN_MAX];
    assert(inquiry->n_items <= PG_SCAN_MAX);
    for (uint32_t i = 0; i < inquiry->n_items; i++) {
        const Lockstep__InquiryItem *item = inquiry->items[i];
        lockstep__answer_item__init(&items[i]);
        items[i].gid = item->gid;
        items[i].xid = item->xid;
        items[i].verdict = LOCKSTEP__VERDICT__VERDICT_FOREIGN;
        list[i] = &items[i];
    }
    for (uint32_t i = 0; i < inquiry->n_items; i++) {
        const Lockstep__InquiryItem *item = inquiry->items[i];
        struct ls_gtid gtid;
        enum ls_gid_form form;
        char participant[LS_PARTICIPANT_MAX + 1];
        if (ls_gid_parse(item->gid, &form, &gtid, participant) != LS_OK ||
            strcmp(gtid.coordinator, SIM_COORDINATOR) != 0 || strcmp(gtid.incarnation, sim_incarnation(world)) != 0 ||
            strcmp(participant, link->entry->name) != 0) {
            continue;
        }
        bool live = false;
        c->answer_items = items;
        c->answer_count = inquiry->n_items;
        ask_engine(world, link, item, i, &gtid, &live);
        if (!c->up) {
            return;
        }
        world_trace(world, actor(world), "verdict", "%s xid %llu: %d", item->gid, (unsigned long long)item->xid,
                    (int)items[i].verdict);
        check_verdict(world, gtid.epoch, gtid.sequence, link->participant, item->xid, live, checked(items[i].verdict));
    }
    log_sightings(world, link);
    if (!c->up) {
        return;
    }
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    Lockstep__Answer answer = LOCKSTEP__ANSWER__INIT;
    answer.token = inquiry->token;
    answer.n_items = inquiry->n_items;
    answer.items = list;
    frame.body_case = LOCKSTEP__FRAME__BODY_ANSWER;
    frame.answer = &answer;
    send_frame(world, link, &frame);
}

/* One refusal stops the coordinator (design 2.9). The operator looks for the newest log: a stale copy goes. What
 * agents remember of it is to be forgotten. */
static void on_refuse(struct world *world, const struct coord_link *link, const Lockstep__Refuse *refuse) {
    struct sim_coord *c = world->coord;
    if (world->incarnation > 0 && !world->accepted) {
        trace(world, "exit 78", refuse->reason);
        world_trace(world, "world", "operator", "accepts that the log is lost");
        world->accepted = c->refused = true;
        coord_crash(world, false);
        return;
    }
    if (!world->stale_seen) {
        world_wrong(world, "p%u refuses the coordinator: %s", link->participant + 1, refuse->reason);
    }
    trace(world, "exit 78", refuse->reason);
    if (world->who == SIM_STALE) {
        sim_coverage.stale_refused++;
        c->away = true;
    } else {
        take_stale_away(world);
        agent_host_operator(world, link->participant);
    }
    c->refused = true;
    coord_crash(world, false);
}

static void send_route(struct world *world, struct coord_link *link, Lockstep__Route *route) {
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    frame.body_case = LOCKSTEP__FRAME__BODY_ROUTE;
    frame.route = route;
    send_frame(world, link, &frame);
}

static void on_route(struct world *world, struct coord_link *link, Lockstep__Frame *frame) {
    struct sim_coord *c = world->coord;
    Lockstep__Route **kept = &c->routes[link->participant];
    if (*kept != NULL) {
        lockstep__route__free_unpacked(*kept, NULL);
    }
    *kept = frame->route;
    frame->route = NULL;
    frame->body_case = LOCKSTEP__FRAME__BODY__NOT_SET;
    for (size_t i = 0; i < LINKS_MAX; i++) {
        if (c->links[i].state == LINK_WELCOMED && &c->links[i] != link) {
            send_route(world, &c->links[i], *kept);
        }
    }
}

static void send_routes(struct world *world, struct coord_link *link) {
    for (uint32_t p = 0; p < SIM_PARTICIPANTS_MAX; p++) {
        if (world->coord->routes[p] != NULL && p != link->participant) {
            send_route(world, link, world->coord->routes[p]);
        }
    }
}

static void forget_routes(struct sim_coord *c) {
    for (uint32_t p = 0; p < SIM_PARTICIPANTS_MAX; p++) {
        if (c->routes[p] != NULL) {
            lockstep__route__free_unpacked(c->routes[p], NULL);
        }
        c->routes[p] = NULL;
    }
}

static void on_welcomed_frame(struct world *world, struct coord_link *link, Lockstep__Frame *frame) {
    struct engine_event event = {.kind = EV_AGENT_READY};
    switch (frame->body_case) {
    case LOCKSTEP__FRAME__BODY_READY:
        event.agent.participant = link->entry->number;
        event.agent.link = link->number;
        step(world, &event);
        if (world->coord->up && link->history_changed) {
            begin_proofs(world, link);
        }
        if (world->coord->up && link->state == LINK_WELCOMED) {
            sagas_host_up(world->coord->sagas, link->entry->number);
            send_routes(world, link);
            end_turn(world);
        }
        return;
    case LOCKSTEP__FRAME__BODY_KEPT:
        on_kept_sagas(world, link, frame->kept);
        return;
    case LOCKSTEP__FRAME__BODY_CREDIT:
        event.kind = EV_CREDIT;
        event.credit.participant = link->entry->number;
        event.credit.link = link->number;
        event.credit.credits = frame->credit->credits;
        step(world, &event);
        return;
    case LOCKSTEP__FRAME__BODY_VOTE:
        on_vote(world, link, frame->vote);
        return;
    case LOCKSTEP__FRAME__BODY_DONE:
        on_done(world, link, frame->done);
        return;
    case LOCKSTEP__FRAME__BODY_INQUIRY:
        on_inquiry(world, link, frame->inquiry);
        return;
    case LOCKSTEP__FRAME__BODY_ERROR:
        drop_link(world, link, frame->error->text);
        return;
    case LOCKSTEP__FRAME__BODY_REFUSE:
        on_refuse(world, link, frame->refuse);
        return;
    case LOCKSTEP__FRAME__BODY_ROUTE:
        on_route(world, link, frame);
        return;
    case LOCKSTEP__FRAME__BODY_HELLO:
    case LOCKSTEP__FRAME__BODY_WELCOME:
    case LOCKSTEP__FRAME__BODY_PING:
    case LOCKSTEP__FRAME__BODY_PONG:
    case LOCKSTEP__FRAME__BODY_WORK:
    case LOCKSTEP__FRAME__BODY_DECIDE:
    case LOCKSTEP__FRAME__BODY_ANSWER:
    case LOCKSTEP__FRAME__BODY_SETTLE:
    case LOCKSTEP__FRAME__BODY_PROVE:
    case LOCKSTEP__FRAME__BODY_FORGET:
    case LOCKSTEP__FRAME__BODY__NOT_SET:
    case LOCKSTEP__FRAME__BODY_ASK:
    case LOCKSTEP__FRAME__BODY_TELL:
    case LOCKSTEP__FRAME__BODY_GREET:
    case LOCKSTEP__FRAME__BODY_EVENTS:
    case LOCKSTEP__FRAME__BODY_STORED:
    case _LOCKSTEP__FRAME__BODY__CASE_IS_INT_SIZE:
        break;
    }
    world_wrong(world, "p%u sends a frame of kind %d", link->participant + 1, (int)frame->body_case);
}

void coord_ping(struct world *world, uint64_t number) {
    struct sim_coord *c = world->coord;
    const struct coord_link *link = c->up ? link_by_number(c, number) : NULL;
    if (link == NULL) {
        return;
    }
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    Lockstep__Ping body = LOCKSTEP__PING__INIT;
    body.token = ++c->ping_token;
    frame.body_case = LOCKSTEP__FRAME__BODY_PING;
    frame.ping = &body;
    send_frame(world, link, &frame);
}

static void pong(struct world *world, const struct coord_link *link, uint64_t token) {
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    Lockstep__Pong body = LOCKSTEP__PONG__INIT;
    body.token = token;
    frame.body_case = LOCKSTEP__FRAME__BODY_PONG;
    frame.pong = &body;
    send_frame(world, link, &frame);
}

void coord_frame(struct world *world, uint64_t number, const uint8_t *bytes, size_t length) {
    struct sim_coord *c = world->coord;
    struct coord_link *link = c->up ? link_by_number(c, number) : NULL;
    if (link == NULL) {
        return;
    }
    Lockstep__Frame *frame;
    struct ls_error err;
    if (frame_decode(bytes, length, &frame, &err) != LS_OK) {
        world_wrong(world, "a frame of p%u cannot be read: %s", link->participant + 1, err.text);
    }
    if (frame->body_case == LOCKSTEP__FRAME__BODY_HELLO) {
        on_hello(world, link, frame);
    } else if (frame->body_case == LOCKSTEP__FRAME__BODY_PING) {
        pong(world, link, frame->ping->token);
    } else if (frame->body_case == LOCKSTEP__FRAME__BODY_PONG) {
        /* heard */
    } else if (link->state == LINK_WELCOMED) {
        on_welcomed_frame(world, link, frame);
    } else if (frame->body_case == LOCKSTEP__FRAME__BODY_ERROR) {
        drop_link(world, link, frame->error->text);
    } else {
        world_wrong(world, "p%u sends a frame of kind %d before it is welcomed", link->participant + 1,
                    (int)frame->body_case);
    }
    lockstep__frame__free_unpacked(frame, NULL);
}

/* ------------------------------------------------------------- housekeeping */

static void maintain(struct world *world) {
    struct sim_coord *c = world->coord;
    struct ls_error err;
    prepare_disk_faults(world);
    reading_may_fail(world, 5);
    disk_set_full(world, world_fault(world, world->options.disk_full_pm));
    enum ls_status status = dlog_maintain(c->log, (world->now_us - c->started_us) / MS, &err);
    disk_set_full(world, false);
    if (disk_was_cut(world) || (status != LS_OK && status != LS_ERR_FULL)) {
        die_of_disk(world, "maintaining the log");
        return;
    }
    reading_is_over(world);
    c->kick = c->kick || dlog_dirty(c->log);
    room_changed(c);
    if (world->who == 0) {
        check_log_keeps(world);
    }
    struct dlog_stats stats;
    dlog_get_stats(c->log, &stats);
    if (stats.horizon_position > c->horizon_seen) {
        c->horizon_seen = stats.horizon_position;
        note_horizon(c);
        struct engine_event event = {.kind = EV_HORIZON};
        event.horizon.log_position = stats.horizon_position;
        event.horizon.sagas = sagas_host_machine(c->sagas);
        step(world, &event);
    }
}

static void housekeeping(struct world *world, uint64_t life, uint64_t unused) {
    if (still_paused(world, housekeeping, life, 0)) {
        return;
    }
    (void)unused;
    struct sim_coord *c = world->coord;
    if (!c->up || c->life != life) {
        return;
    }
    struct dlog_stats stats;
    dlog_get_stats(c->log, &stats);
    bool idle = stats.append_position == c->append_seen;
    c->append_seen = stats.append_position;
    if (idle && dlog_dirty(c->log)) {
        c->kick = true;
    } else if (idle && dlog_wants_mark(c->log)) {
        log_mark(world);
    }
    for (size_t i = 0; i < LINKS_MAX && c->up; i++) {
        struct coord_link *link = &c->links[i];
        if (link->state == LINK_WELCOMED && (link->proof_count > 0 || link->proofs_failed) &&
            world->now_us - link->proof_us >= 2 * world->options.resend_ms * MS) {
            begin_proofs(world, link);
        }
    }
    if (c->up && ++c->rounds % MAINTAIN_ROUNDS == 0) {
        maintain(world);
    }
    if (c->up && c->life == life) {
        write_begin(world);
        world_after(world, HOUSEKEEPING_US, housekeeping, life, 0);
    }
}

/* -------------------------------------------------------------------- life */

struct replay {
    struct recovery *recovery;
    struct saga_fold *sagas;
};

static enum ls_status on_replay(void *context, const struct dlog_record *record) {
    const struct replay *replay = context;
    struct ls_error err;
    enum ls_status status =
        saga_fold_record(replay->sagas, record->type, record->position, record->payload, record->length, &err);
    return status != LS_OK ? status
                           : recovery_record(replay->recovery, record->type, record->position, record->payload,
                                             record->length, &err);
}

static uint32_t app_number(void *context, const char *app) {
    (void)context;
    return app[0] != '\0' ? 1 : 0;
}

static enum ls_status open_log(struct world *world, struct replay *replay, struct ls_error *err) {
    struct sim_coord *c = world->coord;
    struct dlog_options options = {.dir = DISK_ROOT,
                                   .coordinator = SIM_COORDINATOR,
                                   .incarnation = sim_incarnation(world),
                                   .segment_bytes = (uint32_t)world->options.segment_kib << 10,
                                   .bytes_max = world->options.log_kib << 10,
                                   .retention_ms = retention_ms(world),
                                   .spares = 2,
                                   .io = disk_io(world)};
    enum ls_status status = dlog_open(&options, on_replay, replay, &c->log, err);
    if (status == LS_ERR_CORRUPT && !disk_was_cut(world) && !world->coord->damaged) {
        world_wrong(world, "the log is called corrupt: %s", err->text);
    }
    if (status == LS_OK) {
        note_horizon(c);
        status = claim_log(c->log, SIM_COORDINATOR, wall_clock_ms(world), &c->epoch, err);
    }
    return status;
}

static void fill_registry(struct world *world, const struct recovery *recovery) {
    struct sim_coord *c = world->coord;
    c->registry = registry_new();
    assert(c->registry != NULL);
    for (size_t i = 0; i < recovery_participant_count(recovery); i++) {
        const struct recovery_participant *from = recovery_participant(recovery, i);
        struct registry_participant *to;
        struct ls_error err;
        if (registry_add(c->registry, from->number, from->name, &to, &err) != LS_OK) {
            world_wrong(world, "recovery: %s", err.text);
        }
        to->system_id = from->system_id;
        to->timeline = from->timeline;
        to->changed_epoch = from->changed_epoch;
        for (size_t s = 0; s < from->sighting_count; s++) {
            const struct recovery_sighting *seen = &from->sightings[s];
            if (registry_sight(to, seen->epoch, seen->sequence, seen->lsn, 0) != LS_OK) {
                world_wrong(world, "recovery: out of memory");
            }
        }
    }
}

static void start_engine(struct world *world, const struct recovery *recovery) {
    struct sim_coord *c = world->coord;
    struct engine_config config = {.epoch = c->epoch,
                                   .in_flight_max = (uint32_t)world->options.in_flight_max,
                                   .waiting_max = (uint32_t)world->options.waiting_max,
                                   .finished_max = 64,
                                   .keys_max = 1024,
                                   .resend_us = world->options.resend_ms * MS,
                                   .presume_wait_us = world->options.presume_wait_ms * MS};
    snprintf(config.coordinator, sizeof config.coordinator, SIM_COORDINATOR);
    snprintf(config.incarnation, sizeof config.incarnation, "%s", sim_incarnation(world));
    c->engine = engine_new(&config);
    assert(c->engine != NULL);
    room_changed(c);
    recovery_apply(recovery, c->engine, app_number, NULL, world->now_us, &c->effects);
    engine_check(c->engine);
}

/* A sector in the middle of the log has rotted: the start must be refused. If it is not, what is missing is missed. */
static void damage(struct world *world) {
    struct sim_coord *c = world->coord;
    const char *bytes = NULL;
    if (world->who == 0 && c->epoch != 0 && world_fault(world, world->options.rot_pm)) {
        bytes = check_damageable(world, c->epoch);
    }
    c->damaged = bytes != NULL && disk_damage(world, bytes, strlen(bytes));
    sim_coverage.damaged += c->damaged ? 1u : 0u;
}

static void boot(struct world *world, uint64_t life, uint64_t unused) {
    (void)unused;
    struct sim_coord *c = world->coord;
    if (c->up || c->away || c->life >= life) {
        return;
    }
    c->life = life;
    c->started_us = world->now_us;
    struct recovery *recovery = recovery_new();
    struct replay replay = {recovery, saga_fold_new()};
    assert(recovery != NULL && replay.sagas != NULL);
    if (world_fault(world, world->options.disk_cut_pm)) {
        disk_cut(world, rng_between(&world->rng, 1, 60));
    }
    if (world_fault(world, world->options.disk_fail_pm)) {
        disk_fail_soon(world, 20);
    }
    reading_may_fail(world, 40);
    damage(world);
    disk_set_full(world, world_fault(world, world->options.disk_full_pm));
    struct ls_error err = {0};
    enum ls_status status = open_log(world, &replay, &err);
    bool cut = disk_was_cut(world);
    reading_is_over(world);
    disk_set_full(world, false);
    disk_mend(world);
    sim_coverage.damage_refused += c->damaged && status == LS_ERR_CORRUPT ? 1u : 0u;
    c->damaged = false;
    c->up = true; /* so that coord_crash() cleans up whatever is there */
    if (cut || status != LS_OK) {
        recovery_free(recovery);
        saga_fold_free(replay.sagas);
        if (world->healed) {
            world_wrong(world, "a healthy disk, and the log cannot be opened: %s %s", ls_status_text(status), err.text);
        }
        die_of_disk(world, "opening the log");
        return;
    }
    fill_registry(world, recovery);
    start_engine(world, recovery);
    world_trace(world, actor(world), "up", "epoch %u, %zu open decisions%s", c->epoch, recovery_open_count(recovery),
                world->options.presume_wait_ms == 0 ? ", presumes at once" : "");
    recovery_free(recovery);
    c->sagas = sagas_host_new(world, c->epoch);
    sagas_host_recover(world, c->sagas, replay.sagas);
    saga_fold_free(replay.sagas);
    dlog_durable(c->log, &c->fence_position, &c->fence_chain);
    check_log_position(world, c->fence_position, c->fence_chain);
    if (world->who == 0) {
        check_log_keeps(world);
    }
    world_after(world, HOUSEKEEPING_US, housekeeping, life, 0);
    struct engine_event event = {.kind = EV_TICK};
    step(world, &event);
}

void coord_crash(struct world *world, bool machine) {
    struct sim_coord *c = world->coord;
    if (!c->up) {
        if (machine) {
            disk_machine_gone(world);
        }
        return;
    }
    trace(world, "crash", machine ? "with its machine" : "");
    sim_coverage.coord_crashes++;
    sim_coverage.machine_crashes += machine ? 1u : 0u;
    c->up = c->dying = false;
    c->paused_until_us = 0;
    sagas_host_free(c->sagas);
    c->sagas = NULL;
    engine_free(c->engine);
    c->engine = NULL;
    dlog_close(c->log);
    c->log = NULL;
    registry_free(c->registry);
    c->registry = NULL;
    if (machine) {
        disk_machine_gone(world);
    } else {
        disk_process_gone(world);
    }
    c->draining = c->reading_fails = c->refused = false;
    c->ticket_first = c->ticket_count = 0;
    c->kick = c->writing = false;
    c->armed_us = ENGINE_NEVER;
    c->saga_armed_us = SAGA_NEVER;
    c->rounds = c->horizon_seen = c->append_seen = 0;
    c->documents_held = 0;
    memset(c->links, 0, sizeof c->links);
    forget_routes(c);
    net_coord_gone(world);
    for (size_t i = 0; i < REQUESTS_MAX; i++) {
        if (c->requests[i].used) {
            c->requests[i].has_txn = false;
            respond(world, &c->requests[i], SIM_GONE);
        }
    }
    if (!c->away) {
        world_after(world, rng_delay(&world->rng, world->options.restart_ms * MS), boot, c->life + 1, 0);
    }
}

void coord_crash_all(struct world *world) {
    for (uint32_t who = 0; who < SIM_COORDS; who++) {
        uint32_t was = world_as(world, who);
        if (world->coord != NULL) {
            coord_crash(world, true);
        }
        (void)world_as(world, was);
    }
}

/* ---------------------------------------------------------- an orderly stop */

static void stop_in_order(struct world *world) {
    struct sim_coord *c = world->coord;
    struct ls_error err;
    log_mark(world); /* ends and running time of this life */
    prepare_disk_faults(world);
    enum ls_status status = claim_write_all(c->log, &err);
    if (disk_was_cut(world) || status != LS_OK) {
        die_of_disk(world, "stopping");
        return;
    }
    disk_calm(world);
    trace(world, "stops", "");
    coord_crash(world, false);
}

static void look_whether_drained(struct world *world, uint64_t life, uint64_t unused) {
    struct sim_coord *c = world->coord;
    if (still_paused(world, look_whether_drained, life, unused) || !c->up || c->life != life) {
        return;
    }
    struct engine_stats stats;
    engine_stats(c->engine, &stats);
    if ((stats.in_flight == 0 && stats.waiting == 0) || world->now_us >= c->drain_until_us) {
        stop_in_order(world);
    } else {
        world_after(world, 50 * MS, look_whether_drained, life, unused);
    }
}

static void drain_timer(struct world *world, uint64_t a, uint64_t b) {
    struct sim_coord *c = world->coord;
    if (world->healed) {
        return;
    }
    if (c->up && !c->draining && c->paused_until_us <= world->now_us) {
        trace(world, "drains", "");
        sim_coverage.drains++;
        c->draining = true;
        c->drain_until_us = world->now_us + DRAIN_US;
        uint64_t life = c->life;
        struct engine_event event = {.kind = EV_DRAIN};
        step(world, &event);
        world_after(world, 50 * MS, look_whether_drained, life, 0);
    }
    world_after(world, rng_delay(&world->rng, world->options.drain_ms * MS), drain_timer, a, b);
}

/* ------------------------------------------------------------ the stale copy */

uint64_t coord_stale_position(const struct world *world) {
    return world->stale_position;
}

uint32_t coord_reached(struct world *world) {
    const struct sim_coord *stale = world->coords[SIM_STALE];
    if (stale == NULL || stale->away) {
        return 0;
    }
    return rng_permille(&world->rng, world->stale_reached_pm) ? SIM_STALE : 0;
}

/* Somebody has noticed that there are two. */
static void take_stale_away(struct world *world) {
    struct sim_coord *stale = world->coords[SIM_STALE];
    if (stale == NULL) {
        return;
    }
    uint32_t was = world_as(world, SIM_STALE);
    if (!stale->away) {
        trace(world, "is taken", "away");
        stale->away = true;
        coord_crash(world, false);
    }
    (void)world_as(world, 0);
    if (world->coord->away) {
        world->coord->away = false;
        world_after(world, rng_delay(&world->rng, world->options.restart_ms * MS), boot, world->coord->life + 1, 0);
    }
    (void)world_as(world, was);
}

static void stale_noticed(struct world *world, uint64_t a, uint64_t b) {
    (void)a;
    (void)b;
    take_stale_away(world);
}

/* The copy is started: instead of the coordinator, whose machine is away, or beside it. */
static void stale_starts(struct world *world, uint64_t a, uint64_t b) {
    (void)a;
    (void)b;
    if (world->healed) {
        return;
    }
    bool instead = rng_permille(&world->rng, world->options.clone_instead_pm);
    if (instead) {
        world->coord->away = true;
        coord_crash(world, rng_permille(&world->rng, world->options.coord_machine_pm));
    }
    world->stale_reached_pm = instead ? 1000 : rng_between(&world->rng, 100, 900);
    world->stale_seen = true;
    sim_coverage.stale_copies++;
    (void)world_as(world, SIM_STALE);
    world->coords[SIM_STALE] = world->coord = new_coord();
    trace(world, "copy", instead ? "starts instead of the coordinator" : "starts beside the coordinator");
    world_after(world, 0, boot, 1, 0);
    world_after(world, rng_delay(&world->rng, 10 * SECOND), stale_noticed, 0, 0);
}

/* A backup of the log is taken, which somebody will take for the newest one. */
static void copy_timer(struct world *world, uint64_t a, uint64_t b) {
    if (world->healed) {
        return;
    }
    if (!world->coord->up) {
        world_after(world, 100 * MS, copy_timer, a, b);
        return;
    }
    if (rng_permille(&world->rng, world->options.clone_early_pm)) {
        world->copy_wanted = true;
    } else {
        take_copy(world, 4 * SECOND);
    }
}

void coord_heal(struct world *world) {
    take_stale_away(world);
    for (uint32_t who = 0; who < SIM_COORDS; who++) {
        if (world->coords[who] != NULL) {
            world->coords[who]->reading_fails = false;
        }
    }
}

/* The machine is gone, and its log with it: a new one begins under a name of its own. */
static void lose_log(struct world *world, uint64_t a, uint64_t b) {
    (void)a;
    (void)b;
    struct sim_coord *c = world->coord;
    if (world->healed) {
        return;
    }
    coord_crash(world, true);
    disk_wipe(world);
    disk_on_durable(world, check_medium);
    world->incarnation = 1;
    c->epoch = 0;
    c->horizon_most = 0;
    world_trace(world, "world", "lost", "the coordinator's log");
    check_log_lost(world);
}

static void pause_timer(struct world *world, uint64_t a, uint64_t b) {
    if (world->healed) {
        return;
    }
    if (world->coord->up && world->coord->paused_until_us <= world->now_us) {
        uint64_t length = world_pause_length(world);
        world->coord->paused_until_us = world->now_us + length;
        world_trace(world, actor(world), "paused", "for %llu ms", (unsigned long long)(length / MS));
        sim_coverage.pauses++;
    }
    world_after(world, rng_delay(&world->rng, world->options.pause_ms * MS), pause_timer, a, b);
}

/* Somebody looks at the dead letters; when the faults are over, until there are none. */
static void operator_timer(struct world *world, uint64_t a, uint64_t b) {
    struct sim_coord *c = world->coord;
    if (c->up && c->paused_until_us <= world->now_us) {
        sagas_host_operate(world, c->sagas, !world->healed);
        end_turn(world);
    }
    world_after(world, world->healed ? SECOND : rng_delay(&world->rng, world->options.operate_ms * MS), operator_timer,
                a, b);
}

static void crash_timer(struct world *world, uint64_t a, uint64_t b) {
    (void)a;
    (void)b;
    if (world->healed) {
        return;
    }
    if (world_fault(world, world->options.all_crash_pm)) {
        world_power_failure(world);
    } else if (world->coord->up) {
        coord_crash(world, rng_permille(&world->rng, world->options.coord_machine_pm));
    }
    world_after(world, rng_delay(&world->rng, world->options.coord_crash_ms * MS), crash_timer, 0, 0);
}

static struct sim_coord *new_coord(void) {
    struct sim_coord *c = calloc(1, sizeof *c);
    assert(c != NULL);
    c->armed_us = ENGINE_NEVER;
    c->saga_armed_us = SAGA_NEVER;
    return c;
}

void coord_start(struct world *world) {
    world->coord = world->coords[0] = new_coord();
    disk_on_durable(world, check_medium);
    world_after(world, rng_below(&world->rng, 50 * MS), boot, 1, 0);
    if (world->options.saga_pm > 0) {
        world_after(world, rng_delay(&world->rng, world->options.operate_ms * MS), operator_timer, 0, 0);
    }
    if (world->options.pause_ms > 0) {
        world_after(world, rng_delay(&world->rng, world->options.pause_ms * MS), pause_timer, 0, 0);
    }
    if (world->options.coord_crash_ms > 0) {
        world_after(world, rng_delay(&world->rng, world->options.coord_crash_ms * MS), crash_timer, 0, 0);
    }
    if (world->options.drain_ms > 0) {
        world_after(world, rng_delay(&world->rng, world->options.drain_ms * MS), drain_timer, 0, 0);
    }
    if (world->options.clone_ms > 0) {
        world_after(world, rng_delay(&world->rng, world->options.clone_ms * MS), copy_timer, 0, 0);
    }
    if (world->options.lost_ms > 0) {
        world_after(world, rng_delay(&world->rng, world->options.lost_ms * MS), lose_log, 0, 0);
    }
}

void coord_stop(struct world *world) {
    for (uint32_t who = 0; who < SIM_COORDS; who++) {
        struct sim_coord *c = world->coords[who];
        if (c == NULL) {
            continue;
        }
        sagas_host_free(c->sagas);
        engine_free(c->engine);
        dlog_close(c->log);
        registry_free(c->registry);
        engine_effects_free(&c->effects);
        forget_routes(c);
        free(c);
        world->coords[who] = NULL;
    }
    world->coord = NULL;
}

const char *coord_unfinished(struct world *world) {
    struct sim_coord *c = world->coord;
    static char why[LS_GTID_MAX + 128];
    if (!c->up) {
        return "the coordinator is down";
    }
    if (c->paused_until_us > world->now_us) {
        return "the coordinator is paused";
    }
    struct engine_stats stats;
    engine_stats(c->engine, &stats);
    for (const struct txn *txn = engine_next(c->engine, NULL); txn != NULL; txn = engine_next(c->engine, txn)) {
        if (txn->state != TXN_HAZARD) {
            snprintf(why, sizeof why, "%s is %s", txn->gtid, txn_state_name(txn->state));
            return why;
        }
    }
    if (sagas_host_count(c->sagas) > 0) {
        return "a saga has not ended";
    }
    for (uint32_t number = 1; number <= registry_highest(c->registry); number++) {
        struct engine_participant_info info;
        if (!engine_participant_info(c->engine, number, &info) || !info.linked || !info.ready) {
            return "a participant is offline";
        }
        if (info.used != 0 || info.open_branches != 0) {
            snprintf(why, sizeof why, "%s: %u credits and %u branches are still in use", info.name, info.used,
                     info.open_branches);
            return why;
        }
    }
    if (stats.in_flight != 0 || stats.waiting != 0 || c->documents_held != 0 || stats.log_reserved_bytes != 0) {
        snprintf(why, sizeof why, "in flight %u, waiting %u, documents %llu, reserved %llu", stats.in_flight,
                 stats.waiting, (unsigned long long)c->documents_held, (unsigned long long)stats.log_reserved_bytes);
        return why;
    }
    for (size_t i = 0; i < LINKS_MAX; i++) {
        if (c->links[i].state == LINK_WELCOMED && (c->links[i].proof_count > 0 || c->links[i].proofs_failed)) {
            return "proofs are outstanding";
        }
    }
    return NULL;
}
