/* agent_host.c: see agent_host.h. */
#include "tests/sim/agent_host.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/frame.h"
#include "common/statement.h"
#include "participant/agentmsg.h"
#include "participant/core/branch.h"
#include "tests/sim/check.h"
#include "tests/sim/client.h"
#include "tests/sim/net.h"
#include "tests/sim/pg.h"
#include "tests/sim/relay.h"

#define WORKS_MAX 256u
#define DRAIN_US (3 * SECOND)

struct agent_host {
    bool alive;
    bool dying; /* at this effect: the rest of the step does not happen */
    uint32_t participant;
    uint64_t life;
    struct agent *core;
    struct agent_effects effects;
    uint64_t link, armed_us, paused_until_us;
    bool welcomed;      /* on this link */
    uint32_t timeline;  /* the newest that its server has shown it */
    bool knows_another; /* its database remembers the log that was lost */
    Lockstep__Work *works[WORKS_MAX];
    /* step results of the last run of a branch, kept for its vote */
    struct {
        uint64_t branch;
        uint32_t count;
        struct agent_step_rows rows[PG_STATEMENTS_MAX];
    } results[WORKS_MAX];
};

/* Somebody may start a second agent for a participant: it stands behind the first ones. Lives tell the two apart: odd
 * numbers are the first agent's, even ones the second's. */
struct sim_agents {
    struct agent_host list[2 * SIM_PARTICIPANTS_MAX];
};

static void crash(struct world *world, struct agent_host *host);
static void step(struct world *world, struct agent_host *host, struct agent_event *event);
static void start(struct world *world, uint64_t participant, uint64_t life);

void sim_participant_name(uint32_t participant, char name[8]) {
    snprintf(name, 8, "p%u", participant + 1);
}

static struct agent_host *host_slot(const struct world *world, uint32_t participant, uint64_t life) {
    return &world->agents->list[life % 2 == 1 ? participant : SIM_PARTICIPANTS_MAX + participant];
}

static struct agent_host *host_of(struct world *world, uint32_t participant, uint64_t life) {
    struct agent_host *host = host_slot(world, participant, life);
    return host->alive && host->life == life ? host : NULL;
}

uint64_t agent_host_paused_until(const struct world *world, uint32_t participant, uint64_t life) {
    return agent_host_alive(world, participant, life) ? host_slot(world, participant, life)->paused_until_us : 0;
}

bool agent_host_alive(const struct world *world, uint32_t participant, uint64_t life) {
    const struct agent_host *host = host_slot(world, participant, life);
    return host->alive && host->life == life;
}

bool agent_host_has_lock(const struct world *world, uint32_t participant, uint64_t life) {
    struct agent_stats stats;
    if (!agent_host_alive(world, participant, life)) return false;
    agent_stats(host_slot(world, participant, life)->core, &stats);
    return stats.state > AGENT_CLEANING;
}

static void trace(struct world *world, const struct agent_host *host, const char *word, const char *detail) {
    char name[16];
    snprintf(name, sizeof name, "p%u%s", host->participant + 1, host->life % 2 == 1 ? "" : "b");
    world_trace(world, name, word, "%s", detail);
}

bool agent_host_lists(const struct world *world, uint32_t participant, const char *gid) {
    (void)world;
    enum ls_gid_form form;
    struct ls_gtid gtid;
    char name[LS_PARTICIPANT_MAX + 1], own[8];
    sim_participant_name(participant, own);
    return ls_gid_parse(gid, &form, &gtid, name) == LS_OK && strcmp(gtid.coordinator, SIM_COORDINATOR) == 0 &&
           strcmp(name, own) == 0;
}

/* ------------------------------------------------------------------ frames */

static struct agentmsg message; /* under construction: one at a time */

static char *text(const char *from) {
    return (char *)(uintptr_t)(from != NULL ? from : "");
}

static void send_hello(struct world *world, const struct agent_host *host, const struct agent_effect *e) {
    char name[8], nonce[24];
    sim_participant_name(host->participant, name);
    snprintf(nonce, sizeof nonce, "%llu", (unsigned long long)host->life);
    agentmsg_build(&message, e);
    message.hello.participant = message.hello.database = name;
    message.hello.coordinator = text(SIM_COORDINATOR);
    message.hello.nonce = nonce;
    message.hello.server_version = text("150018");
    net_send_to_coord(world, e->link, &message.frame);
}

static void send_vote(struct world *world, const struct agent_host *host, const struct agent_effect *e) {
    Lockstep__StepResult results[PG_STATEMENTS_MAX];
    Lockstep__StepResult *list[PG_STATEMENTS_MAX];
    agentmsg_build(&message, e);
    for (size_t i = 0; e->vote.with_results && i < WORKS_MAX; i++) {
        if (host->results[i].branch != e->branch) {
            continue;
        }
        for (uint32_t r = 0; r < host->results[i].count; r++) {
            lockstep__step_result__init(&results[r]);
            results[r].step = host->results[i].rows[r].step;
            results[r].rows_affected = host->results[i].rows[r].rows_affected;
            list[r] = &results[r];
        }
        message.vote.n_results = host->results[i].count;
        message.vote.results = list;
    }
    net_send_to_coord(world, e->link, &message.frame);
}

static void send_other(struct world *world, const struct agent_effect *e) {
    agentmsg_build(&message, e);
    net_send_to_coord(world, e->link, &message.frame);
}

/* In lockstep-agent the transport answers pings (common/peer.c). */
static void send_pong(struct world *world, const struct agent_effect *e) {
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    Lockstep__Pong pong = LOCKSTEP__PONG__INIT;
    pong.token = e->pong.token;
    frame.body_case = LOCKSTEP__FRAME__BODY_PONG;
    frame.pong = &pong;
    net_send_to_coord(world, e->link, &frame);
}

void agent_host_ping(struct world *world, uint32_t participant, uint64_t life, uint64_t link) {
    if (host_of(world, participant, life) == NULL) {
        return;
    }
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    Lockstep__Ping ping = LOCKSTEP__PING__INIT;
    frame.body_case = LOCKSTEP__FRAME__BODY_PING;
    frame.ping = &ping;
    net_send_to_coord(world, link, &frame);
}

/* ------------------------------------------------------- requests to the server */

static void free_work(struct agent_host *host, void *work) {
    for (size_t i = 0; i < WORKS_MAX; i++) {
        if (host->works[i] == work) {
            lockstep__work__free_unpacked(host->works[i], NULL);
            host->works[i] = NULL;
            return;
        }
    }
    assert(!"a Work that nobody holds is given back");
}

static const Lockstep__Work *work_of(const struct agent_host *host, const void *work) {
    for (size_t i = 0; i < WORKS_MAX; i++) {
        if (host->works[i] == work) {
            return host->works[i];
        }
    }
    assert(!"a Work that was given back is used");
    return NULL;
}

static void fill_key(struct pg_op *op, const Lockstep__Work *work) {
    if (work->key != NULL) {
        snprintf(op->key, sizeof op->key, "%.*s/%.*s", LS_IDENTITY_MAX, work->app, LS_KEY_MAX, work->key);
        assert(work->has_document_hash && work->document_hash.len == sizeof op->hash);
        memcpy(op->hash, work->document_hash.data, sizeof op->hash);
    }
}

static void fill_saga(struct world *world, struct pg_saga *to, const Lockstep__SagaStep *from) {
    struct ls_gtid gtid;
    if (ls_gtid_parse(from->saga, &gtid) != LS_OK) {
        world_wrong(world, "an attempt at a step of %s, which is no saga", from->saga);
    }
    snprintf(to->name, sizeof to->name, "%s", from->saga);
    to->epoch = gtid.epoch;
    to->log = sim_incarnation_number(gtid.incarnation);
    to->sequence = gtid.sequence;
    to->step = (uint32_t)strtoul(from->step, NULL, 10);
    to->op = from->op == LOCKSTEP__SAGA_OP__SAGA_DO     ? SAGA_OP_DO
             : from->op == LOCKSTEP__SAGA_OP__SAGA_UNDO ? SAGA_OP_UNDO
                                                        : SAGA_OP_CANCEL;
}

static void submit_run(struct world *world, struct agent_host *host, const struct agent_effect *e, struct pg_op *op) {
    const Lockstep__Work *work = work_of(host, e->run.work);
    assert(work->n_statements <= PG_STATEMENTS_MAX);
    snprintf(op->gid, sizeof op->gid, "%s", e->run.gid != NULL ? e->run.gid : "");
    op->first = e->run.first;
    op->last = e->run.last;
    op->one_phase = e->run.one_phase;
    op->lock_timeout_ms = e->run.lock_timeout_ms;
    op->deadline_ms = e->run.deadline_ms;
    for (size_t i = 0; i < work->n_statements; i++) {
        struct pg_statement *statement = &op->statements[op->statement_count++];
        if (!statement_parse(work->statements[i]->sql, statement)) {
            world_wrong(world, "a statement came out garbled: %s", work->statements[i]->sql);
        }
        statement->step = work->statements[i]->step;
    }
    if (e->run.one_phase) {
        fill_key(op, work);
    }
    if (work->saga != NULL) {
        fill_saga(world, &op->saga, work->saga);
    }
    pg_submit(world, op);
}

static enum pg_op_kind op_kind(enum agent_effect_kind kind) {
    switch (kind) {
    case AEF_DB_LOCK:
        return PG_LOCK;
    case AEF_DB_CLEAN:
        return PG_CLEAN;
    case AEF_DB_IDENTITY:
        return PG_IDENTITY;
    case AEF_DB_FENCE:
        return PG_FENCE;
    case AEF_DB_SCAN:
        return PG_SCAN;
    case AEF_DB_RUN:
        return PG_RUN;
    case AEF_DB_COMMIT1:
        return PG_COMMIT1;
    case AEF_DB_ROLLBACK:
        return PG_ROLLBACK;
    case AEF_DB_STOP:
        return PG_STOP;
    case AEF_DB_RELEASE:
        return PG_RELEASE;
    case AEF_DB_FINISH:
        return PG_FINISH;
    case AEF_DB_PROVE:
        return PG_PROVE;
    case AEF_DB_READ_KEY:
        return PG_READ_KEY;
    case AEF_DB_SETTLE:
        return PG_SETTLE;
    case AEF_DB_KEPT:
        return PG_KEPT;
    case AEF_DB_FORGET:
        return PG_FORGET;
    case AEF_STOP:
    case AEF_REPORT:
    case AEF_DRAINED:
    case AEF_DIAL:
    case AEF_CLOSE:
    case AEF_SEND_HELLO:
    case AEF_SEND_READY:
    case AEF_SEND_REFUSE:
    case AEF_SEND_PONG:
    case AEF_SEND_CREDIT:
    case AEF_SEND_VOTE:
    case AEF_SEND_DONE:
    case AEF_SEND_INQUIRY:
    case AEF_SEND_KEPT:
    case AEF_FREE_WORK:
    case AEF_FORGET:
        break;
    }
    assert(!"not for the server");
    return PG_LOCK;
}

static void submit(struct world *world, struct agent_host *host, const struct agent_effect *e) {
    struct pg_op *op = pg_new_op(world, op_kind(e->kind), host->participant, host->life);
    op->op = e->op;
    op->branch = e->branch;
    snprintf(op->gtid, sizeof op->gtid, "%s", e->gtid != NULL ? e->gtid : "");
    switch (op->kind) {
    case PG_FENCE:
        op->fence = e->fence.fence;
        op->durable = e->fence.durable;
        break;
    case PG_SCAN:
        snprintf(op->after, sizeof op->after, "%s", e->scan.after);
        op->limit = e->scan.limit;
        break;
    case PG_RUN:
        submit_run(world, host, e, op);
        return;
    case PG_FINISH:
        check_tried(world, op->gtid, host->participant);
        snprintf(op->gid, sizeof op->gid, "%s", e->finish.gid);
        snprintf(op->owner, sizeof op->owner, "%s", e->finish.owner != NULL ? e->finish.owner : "");
        op->commit = e->finish.commit;
        op->xid = e->finish.xid;
        break;
    case PG_PROVE:
        check_tried(world, op->gtid, host->participant);
        snprintf(op->gid, sizeof op->gid, "%s", e->prove.gid);
        op->xid = e->prove.xid;
        sim_coverage.proofs++;
        break;
    case PG_READ_KEY:
        fill_key(op, work_of(host, e->read_key.work));
        break;
    case PG_SETTLE:
        sim_coverage.settles++;
        break;
    case PG_KEPT:
        snprintf(op->after, sizeof op->after, "%s", e->kept_page.after);
        op->limit = e->kept_page.limit;
        break;
    case PG_FORGET:
        assert(!e->forget.has_horizon);
        op->forget = calloc(e->forget.count + 1, sizeof *op->forget);
        assert(op->forget != NULL);
        op->forget_count = e->forget.count;
        for (uint32_t i = 0; i < e->forget.count; i++) {
            snprintf(op->forget[i], sizeof op->forget[i], "%s", e->forget.sagas[i]);
        }
        break;
    case PG_LOCK:
    case PG_CLEAN:
    case PG_IDENTITY:
    case PG_COMMIT1:
    case PG_ROLLBACK:
    case PG_STOP:
    case PG_RELEASE:
        break;
    }
    pg_submit(world, op);
}

/* ----------------------------------------------------------------- the step */

static void forget_results(struct agent_host *host, uint64_t branch) {
    for (size_t i = 0; i < WORKS_MAX; i++) {
        if (host->results[i].branch == branch) {
            host->results[i].branch = 0;
        }
    }
}

static const char *vote_name(enum agent_vote vote) {
    static const char *const names[] = {"YES", "NO", "READ_ONLY", "CONTINUE", "COMMITTED", "EXISTS", "BROKEN"};
    return names[vote];
}
static const char *done_name(enum agent_done done) {
    static const char *const names[] = {"COMMITTED", "ABORTED", "HAZARD"};
    return names[done];
}

static void note_greeting(struct world *world, struct agent_host *host, uint64_t link) {
    struct agent_fence stored;
    bool has = pg_stored_fence(world, host->participant, &stored);
    host->knows_another = has && sim_incarnation_number(stored.incarnation) != world->incarnation;
    if (net_leads_to_stale(world, link)) {
        check_stale_greeted(world, host->participant, link, has, &stored);
    }
}

static void carry_out(struct world *world, struct agent_host *host, const struct agent_effect *e) {
    char detail[LS_REASON_MAX + LS_GTID_MAX + 32];
    switch (e->kind) {
    case AEF_STOP:
        trace(world, host, "stops", e->text);
        host->dying = true;
        return;
    case AEF_REPORT:
        trace(world, host, e->report.alarm ? "ALARM" : "reports", e->text);
        return;
    case AEF_DRAINED:
        trace(world, host, "stops", "nothing runs any more");
        host->dying = true;
        return;
    case AEF_DIAL:
        net_dial(world, host->participant, host->life);
        return;
    case AEF_CLOSE:
        if (world->idle && e->text != NULL) { /* without: a link that it no longer looked for */
            world_wrong(world, "p%u gives up an idle link: %s", host->participant + 1, e->text);
        }
        host->link = e->link == host->link ? 0 : host->link;
        net_close(world, e->link, false);
        return;
    case AEF_SEND_HELLO:
        trace(world, host, "Hello", "");
        host->link = e->link; /* and not before: of two that come up the core closes one */
        host->welcomed = false;
        note_greeting(world, host, e->link);
        send_hello(world, host, e);
        return;
    case AEF_SEND_VOTE:
        snprintf(detail, sizeof detail, "%s %s %s", e->gtid, vote_name(e->vote.kind),
                 e->vote.reason != NULL ? e->vote.reason : "");
        trace(world, host, "Vote", detail);
        if (e->vote.kind == AGENT_VOTE_YES) {
            check_voted(world, e->gtid, host->participant);
        }
        send_vote(world, host, e);
        return;
    case AEF_SEND_DONE:
        snprintf(detail, sizeof detail, "%s %s %s", e->gtid, done_name(e->done.kind),
                 e->done.reason != NULL ? e->done.reason : "");
        trace(world, host, "Done", detail);
        if (e->done.kind == AGENT_DONE_COMMITTED) {
            check_done_said(world, e->gtid, host->participant, host->timeline);
        }
        send_other(world, e);
        return;
    case AEF_SEND_INQUIRY:
        snprintf(detail, sizeof detail, "%u gids", e->inquiry.count);
        trace(world, host, "Inquiry", detail);
        send_other(world, e);
        return;
    case AEF_SEND_READY:
    case AEF_SEND_REFUSE:
        if (e->kind == AEF_SEND_READY && pg_leftovers(world, host->participant, host->life) > 0) {
            world_wrong(world, "p%u is ready while backends of its earlier life are alive", host->participant + 1);
        }
        if (e->kind == AEF_SEND_READY && host->knows_another && !world->accepted) {
            world_wrong(world, "p%u serves another log than its database remembers, and no operator has accepted that",
                        host->participant + 1);
        }
        if (e->kind == AEF_SEND_READY && net_leads_to_stale(world, e->link)) {
            check_stale_served(world, host->participant, e->link);
        }
        trace(world, host, e->kind == AEF_SEND_READY ? "Ready" : "Refuse",
              e->kind == AEF_SEND_READY ? "" : e->refuse.reason);
        send_other(world, e);
        if (e->kind == AEF_SEND_READY) {
            relay_agent_ready(world, host->participant, host->life);
        }
        return;
    case AEF_SEND_CREDIT:
        send_other(world, e);
        return;
    case AEF_SEND_PONG:
        send_pong(world, e);
        return;
    case AEF_FREE_WORK:
        free_work(host, e->free_work.work);
        return;
    case AEF_FORGET:
        forget_results(host, e->branch);
        return;
    case AEF_SEND_KEPT:
        send_other(world, e);
        return;
    case AEF_DB_KEPT:
    case AEF_DB_FORGET:
    case AEF_DB_LOCK:
    case AEF_DB_CLEAN:
    case AEF_DB_IDENTITY:
    case AEF_DB_FENCE:
    case AEF_DB_SCAN:
    case AEF_DB_RUN:
    case AEF_DB_COMMIT1:
    case AEF_DB_ROLLBACK:
    case AEF_DB_STOP:
    case AEF_DB_RELEASE:
    case AEF_DB_FINISH:
    case AEF_DB_PROVE:
    case AEF_DB_READ_KEY:
    case AEF_DB_SETTLE:
        submit(world, host, e);
        return;
    }
    assert(!"effect kind");
}

static void step(struct world *world, struct agent_host *host, struct agent_event *event);

static void tick(struct world *world, uint64_t participant, uint64_t life) {
    struct agent_host *host = host_of(world, (uint32_t)participant, life);
    if (host == NULL) {
        return;
    }
    if (host->paused_until_us > world->now_us) {
        world_after(world, host->paused_until_us - world->now_us, tick, participant, life);
        return;
    }
    host->armed_us = AGENT_NEVER;
    struct agent_event event = {.kind = AEV_TICK};
    step(world, host, &event);
}

static void arm(struct world *world, struct agent_host *host) {
    uint64_t due = agent_next_timer(host->core);
    if (due == AGENT_NEVER || due >= host->armed_us) {
        return;
    }
    host->armed_us = due;
    world_after(world, due > world->now_us ? due - world->now_us : 0, tick, host->participant, host->life);
}

static void step(struct world *world, struct agent_host *host, struct agent_event *event) {
    event->now_us = world->now_us;
    agent_step(host->core, event, &host->effects);
    agent_check(host->core);
    for (size_t i = 0; i < host->effects.count && !host->dying; i++) {
        host->dying = world_fault(world, world->options.agent_cut_pm);
        if (!host->dying) {
            carry_out(world, host, &host->effects.list[i]);
        }
    }
    if (host->dying) {
        crash(world, host);
        return;
    }
    arm(world, host);
}

/* -------------------------------------------------------------- from the network */

void agent_host_link_up(struct world *world, uint32_t participant, uint64_t life, uint64_t link) {
    struct agent_host *host = host_of(world, participant, life);
    if (host != NULL) {
        struct agent_event event = {.kind = AEV_LINK_UP, .link = link};
        step(world, host, &event);
    }
}

void agent_host_link_down(struct world *world, uint32_t participant, uint64_t life, uint64_t link) {
    struct agent_host *host = host_of(world, participant, life);
    if (host != NULL) {
        host->welcomed = host->welcomed && host->link != link;
        host->link = host->link == link ? 0 : host->link;
        struct agent_event event = {.kind = AEV_LINK_DOWN, .link = link};
        step(world, host, &event);
    }
}

static void on_work(struct world *world, struct agent_host *host, const Lockstep__Frame *frame,
                    struct agent_event *event) {
    Lockstep__Work *work = frame_take_work(frame); /* what the event borrows is in there */
    struct ls_error err;
    for (size_t i = 0; i < work->n_statements && event->work.refused == NULL; i++) {
        if (statement_check(work->statements[i]->sql, strlen(work->statements[i]->sql), &err) != LS_OK) {
            event->work.refused = err.text;
            event->work.refused_sqlstate = "0A000";
        }
    }
    size_t slot = 0;
    while (slot < WORKS_MAX && host->works[slot] != NULL) {
        slot++;
    }
    assert(slot < WORKS_MAX);
    host->works[slot] = work;
    event->work.work = work;
    step(world, host, event);
}

static void on_prove(struct world *world, uint32_t participant, uint64_t life, const Lockstep__Prove *prove,
                     struct agent_event *event) {
    for (size_t i = 0; i < prove->n_items; i++) {
        struct agent_host *host = host_of(world, participant, life);
        if (host == NULL) {
            return; /* died between two items */
        }
        agentmsg_read_decide(prove->items[i], true, event);
        step(world, host, event);
    }
}

static void on_frame(struct world *world, struct agent_host *host, uint64_t link, const Lockstep__Frame *frame) {
    static struct agent_answer_item items[AGENT_INQUIRY_ITEMS_MAX];
    struct agent_event event = {0};
    agentmsg_read_fence(frame, link, &event);
    host->welcomed = host->welcomed || (frame->body_case == LOCKSTEP__FRAME__BODY_WELCOME && link == host->link);
    if (frame->body_case == LOCKSTEP__FRAME__BODY_ERROR) {
        trace(world, host, "is told", frame->error->text);
    } else if (frame->body_case == LOCKSTEP__FRAME__BODY_PROVE) {
        on_prove(world, host->participant, host->life, frame->prove, &event);
    } else if (!agentmsg_read(frame, LS_GID_READABLE, items, &event)) {
        world_wrong(world, "the coordinator sends p%u a frame of kind %d", host->participant + 1,
                    (int)frame->body_case);
    } else if (event.kind == AEV_WORK) {
        on_work(world, host, frame, &event);
    } else {
        struct agent_stats stats;
        agent_stats(host->core, &stats);
        if (event.kind == AEV_DECIDE && event.decide.commit && link == host->link && stats.state == AGENT_SERVING) {
            check_told(world, event.decide.gtid, host->participant, host->life);
        }
        uint32_t participant = host->participant;
        uint64_t life = host->life;
        step(world, host, &event);
        host = host_of(world, participant, life);
        if (frame->body_case == LOCKSTEP__FRAME__BODY_ROUTE && host != NULL && host->link == link)
            relay_route_received(world, participant, life, frame->route);
    }
}

void agent_host_frame(struct world *world, uint32_t participant, uint64_t life, uint64_t link, const uint8_t *bytes,
                      size_t length) {
    struct agent_host *host = host_of(world, participant, life);
    if (host == NULL) {
        return;
    }
    Lockstep__Frame *frame;
    struct ls_error err;
    if (frame_decode(bytes, length, &frame, &err) != LS_OK) {
        world_wrong(world, "p%u cannot read a frame of the coordinator: %s", participant + 1, err.text);
    }
    on_frame(world, host, link, frame);
    lockstep__frame__free_unpacked(frame, NULL);
}

/* --------------------------------------------------------------- from the servers */

static void keep_results(struct agent_host *host, const struct agent_event *event, uint64_t branch) {
    size_t slot = WORKS_MAX;
    for (size_t i = WORKS_MAX; i-- > 0;) {
        if (host->results[i].branch == branch) {
            slot = i;
            break;
        }
        if (host->results[i].branch == 0) {
            slot = i;
        }
    }
    assert(slot < WORKS_MAX);
    host->results[slot].branch = branch;
    host->results[slot].count = event->run.row_count;
    memcpy(host->results[slot].rows, event->run.rows, event->run.row_count * sizeof event->run.rows[0]);
}

void agent_host_answer(struct world *world, uint32_t participant, uint64_t life, uint64_t branch,
                       struct agent_event *event) {
    struct agent_host *host = host_of(world, participant, life);
    if (host == NULL) {
        return;
    }
    if (event->kind == AEV_DB_IDENTITY && event->identity.ok) {
        host->timeline = event->identity.server.timeline;
    }
    if (event->kind == AEV_DB_RUN && event->run.row_count > 0) {
        keep_results(host, event, branch);
    }
    bool ours = event->kind == AEV_DB_CLEAN && event->clean.ok;
    step(world, host, event);
    if (ours && host_of(world, participant, life) != NULL) {
        relay_agent_serves(world, participant, life);
    }
}

void agent_host_send(struct world *world, uint32_t participant, uint64_t life, const Lockstep__Frame *frame) {
    const struct agent_host *host = host_of(world, participant, life);
    if (host != NULL && host->welcomed) {
        net_send_to_coord(world, host->link, frame);
    }
}

void agent_host_control_lost(struct world *world, uint32_t participant, uint64_t life) {
    struct agent_host *host = host_of(world, participant, life);
    if (host != NULL) {
        trace(world, host, "loses", "its control session");
        struct agent_event event = {.kind = AEV_CONTROL_LOST};
        step(world, host, &event);
    }
}

/* --------------------------------------------------------------------- life */

static void crash(struct world *world, struct agent_host *host) {
    if (!host->alive) {
        return;
    }
    trace(world, host, "crash", "");
    sim_coverage.agent_crashes++;
    host->alive = false;
    host->dying = false;
    host->paused_until_us = 0;
    agent_free(host->core);
    host->core = NULL;
    for (size_t i = 0; i < WORKS_MAX; i++) {
        if (host->works[i] != NULL) {
            lockstep__work__free_unpacked(host->works[i], NULL);
            host->works[i] = NULL;
        }
        host->results[i].branch = 0;
    }
    pg_client_gone(world, host->participant, host->life);
    relay_agent_gone(world, host->participant, host->life);
    net_agent_gone(world, host->participant, host->life);
    if (host->life % 2 == 1 || !world->healed) {
        world_after(world, rng_delay(&world->rng, world->options.restart_ms * MS), start, host->participant,
                    host->life + 2);
    }
}

void agent_host_falls(struct world *world, uint32_t participant, uint64_t life) {
    struct agent_host *host = host_of(world, participant, life);
    if (host != NULL) {
        crash(world, host);
    }
}

/* ------------------------------------------------- orderly stops, second agents */

static void drain_ends(struct world *world, uint64_t participant, uint64_t life) {
    struct agent_host *host = host_of(world, (uint32_t)participant, life);
    if (host != NULL) {
        trace(world, host, "stops", "although branches still run");
        crash(world, host);
    }
}

static void drain_timer(struct world *world, uint64_t participant, uint64_t unused) {
    if (world->healed) {
        return;
    }
    struct agent_host *host = &world->agents->list[participant];
    if (host->alive && host->paused_until_us <= world->now_us) {
        trace(world, host, "drains", "");
        sim_coverage.drains++;
        world_after(world, DRAIN_US, drain_ends, participant, host->life);
        struct agent_event event = {.kind = AEV_DRAIN};
        step(world, host, &event);
    }
    world_after(world, rng_delay(&world->rng, world->options.drain_ms * MS), drain_timer, participant, unused);
}

static void twin_starts(struct world *world, uint64_t participant, uint64_t unused) {
    (void)unused;
    if (!world->healed) {
        sim_coverage.twins++;
        start(world, participant, 2);
    }
}

void agents_heal(struct world *world) {
    for (uint32_t p = 0; p < world->options.participants; p++) {
        crash(world, &world->agents->list[SIM_PARTICIPANTS_MAX + p]);
    }
}

static void pause_timer(struct world *world, uint64_t participant, uint64_t unused) {
    if (world->healed) {
        return;
    }
    struct agent_host *host = &world->agents->list[participant];
    if (host->alive && host->paused_until_us <= world->now_us) {
        uint64_t length = world_pause_length(world);
        host->paused_until_us = world->now_us + length;
        char detail[48];
        snprintf(detail, sizeof detail, "for %llu ms", (unsigned long long)(length / MS));
        trace(world, host, "paused", detail);
        sim_coverage.pauses++;
    }
    world_after(world, rng_delay(&world->rng, world->options.pause_ms * MS), pause_timer, participant, unused);
}

static void crash_timer(struct world *world, uint64_t participant, uint64_t unused) {
    (void)unused;
    if (world->healed) {
        return;
    }
    if (world_fault(world, world->options.all_crash_pm)) {
        world_power_failure(world);
    } else {
        crash(world, &world->agents->list[participant]);
    }
    world_after(world, rng_delay(&world->rng, world->options.agent_crash_ms * MS), crash_timer, participant, 0);
}

static void operator_acts(struct world *world, uint64_t participant, uint64_t unused) {
    if (!pg_forget_fence(world, (uint32_t)participant)) {
        world_after(world, SECOND, operator_acts, participant, unused); /* the server is down */
        return;
    }
    struct agent_host *host = &world->agents->list[participant];
    host->participant = (uint32_t)participant;
    trace(world, host, "operator", "deletes the row in lockstep.fence, restarts the agent");
    crash(world, host);
}

void agent_host_operator(struct world *world, uint32_t participant) {
    world_after(world, rng_delay(&world->rng, 500 * MS), operator_acts, participant, 0);
}

void agents_crash_all(struct world *world) {
    for (uint32_t p = 0; p < world->options.participants; p++) {
        crash(world, &world->agents->list[p]);
        crash(world, &world->agents->list[SIM_PARTICIPANTS_MAX + p]);
    }
}

static void start(struct world *world, uint64_t participant, uint64_t life) {
    struct agent_host *host = host_slot(world, (uint32_t)participant, life);
    if (life % 2 == 0 && world->healed) {
        return;
    }
    assert(!host->alive);
    host->participant = (uint32_t)participant;
    host->life = life;
    host->alive = true;
    host->armed_us = AGENT_NEVER;
    host->timeline = 0;
    struct agent_config config;
    agent_config_defaults(&config);
    sim_participant_name(host->participant, config.participant);
    snprintf(config.coordinator, sizeof config.coordinator, SIM_COORDINATOR);
    config.workers_max = (uint32_t)world->options.credits;
    config.prepared_share = world->options.shared_cluster != 0 && participant < 2 ? 50 : 100;
    config.recovered_max = 64;
    config.finished_max = 64;
    config.sweep_us = world_sweep_us(world);
    config.seed = rng_next(&world->rng);
    host->core = agent_new(&config);
    assert(host->core != NULL);
    char detail[32];
    snprintf(detail, sizeof detail, "life %llu", (unsigned long long)life);
    trace(world, host, "starts", detail);
    struct agent_event event = {.kind = AEV_START};
    step(world, host, &event);
}

void agents_start(struct world *world) {
    world->agents = calloc(1, sizeof *world->agents);
    assert(world->agents != NULL);
    for (uint32_t p = 0; p < world->options.participants; p++) {
        world_after(world, rng_below(&world->rng, 100 * MS), start, p, 1);
        if (world->options.pause_ms > 0) {
            world_after(world, rng_delay(&world->rng, world->options.pause_ms * MS), pause_timer, p, 0);
        }
        if (world->options.agent_crash_ms > 0) {
            world_after(world, rng_delay(&world->rng, world->options.agent_crash_ms * MS), crash_timer, p, 0);
        }
        if (world->options.drain_ms > 0) {
            world_after(world, rng_delay(&world->rng, world->options.drain_ms * MS), drain_timer, p, 0);
        }
    }
    if (world->options.twin_ms > 0) {
        uint64_t participant = rng_below(&world->rng, world->options.participants);
        world_after(world, rng_delay(&world->rng, world->options.twin_ms * MS), twin_starts, participant, 0);
    }
}

void agents_stop(struct world *world) {
    if (world->agents == NULL) {
        return;
    }
    for (uint32_t p = 0; p < 2 * SIM_PARTICIPANTS_MAX; p++) {
        struct agent_host *host = &world->agents->list[p];
        agent_free(host->core);
        for (size_t i = 0; i < WORKS_MAX; i++) {
            if (host->works[i] != NULL) {
                lockstep__work__free_unpacked(host->works[i], NULL);
            }
        }
        agent_effects_free(&host->effects);
    }
    free(world->agents);
    world->agents = NULL;
}

const char *agents_unfinished(struct world *world) {
    static char why[160];
    for (uint32_t p = 0; p < world->options.participants; p++) {
        const struct agent_host *host = &world->agents->list[p];
        struct agent_stats stats;
        if (!host->alive) {
            return "an agent is down";
        }
        if (host->paused_until_us > world->now_us) {
            return "an agent is paused";
        }
        agent_stats(host->core, &stats);
        if (stats.state != AGENT_SERVING) {
            snprintf(why, sizeof why, "agent p%u is %s%s", p + 1, agent_state_name(stats.state),
                     stats.quarantined ? ", quarantined" : "");
            return why;
        }
        for (const struct agent_branch *b = agent_next(host->core, NULL); b != NULL; b = agent_next(host->core, b)) {
            if (!check_left_to_human(world, b->gid, p) && !check_is_past(world, b->gtid)) {
                snprintf(why, sizeof why, "agent p%u: branch of %s is %s", p + 1, b->gtid,
                         agent_branch_state_name(b->state));
                return why;
            }
        }
    }
    return NULL;
}
