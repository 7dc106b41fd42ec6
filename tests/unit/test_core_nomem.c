/*
 * test_core_nomem.c: every allocation of the coordinator's engine, of recovery and of the agent's core fails once
 * (hazard D14). Allowed: the operation is refused with nothing half done and succeeds when repeated; or, where a step
 * is half made, the process stops (abort(), never an assertion): a crash is what recovery is for. If the code were
 * wrong, an invariant of engine_check() or agent_check() would break, a transaction would be begun and refused at once,
 * a COMMIT would leave without its record, or memory would leak.
 */
#include "tests/unit/nomem.h"

#include "coordinator/core/engine.h"
#include "coordinator/core/recover.h"
#include "lockstep.pb-c.h"
#include "tests/unit/agent_rig.h"

#define SECOND UINT64_C(1000000)
#define EPOCH 3u

/* ---------------------------------------------------------------- engine */

enum { RUNS = 40, PARTICIPANTS = 3 };

static const char *const names[] = {"", "orders", "stock", "money"};

struct world {
    struct engine *engine;
    struct engine_effects effects;
    uint64_t now_us, ticket;
    uint64_t commits_sent, logged, durable;
    char document;
};

static void count_effects(struct world *w) {
    for (size_t i = 0; i < w->effects.count; i++) {
        const struct engine_effect *f = &w->effects.list[i];
        if (f->kind == EF_LOG_COMMIT) {
            w->ticket = f->ticket;
            w->logged++;
        } else if (f->kind == EF_SEND_DECIDE && f->decide.commit) {
            w->commits_sent++;
        }
    }
    nomem_check(w->commits_sent <= w->durable * PARTICIPANTS);
}

static void step(struct world *w, struct engine_event *event) {
    event->now_us = ++w->now_us;
    nomem_begin();
    engine_step(w->engine, event, &w->effects);
    nomem_end();
    engine_check(w->engine);
    count_effects(w);
}

static const struct engine_effect *effect(const struct world *w, enum effect_kind kind) {
    for (size_t i = 0; i < w->effects.count; i++) {
        if (w->effects.list[i].kind == kind) return &w->effects.list[i];
    }
    return NULL;
}

static void join(struct world *w, uint32_t number) {
    struct engine_event event = {.kind = EV_PARTICIPANT};
    event.participant.number = number;
    event.participant.name = names[number];
    step(w, &event);
    event = (struct engine_event){.kind = EV_AGENT_UP};
    event.agent_up.participant = event.agent_up.link = number;
    event.agent_up.credits = RUNS;
    event.agent_up.system_id = 100 + number;
    event.agent_up.timeline = 1;
    step(w, &event);
    event = (struct engine_event){.kind = EV_AGENT_READY};
    event.agent.participant = event.agent.link = number;
    step(w, &event);
}

/* One run with statements that wait for each other, and a key. Refused for lack of memory: nothing was begun, and the
 * next try is taken. */
static uint64_t run(struct world *w, uint64_t n, uint32_t count) {
    static const uint32_t numbers[] = {1, 2, 3};
    static const uint16_t first[] = {0};
    struct engine_step_spec steps[] = {{.branch = 0},
                                       {.branch = count > 1 ? 1 : 0, .after_count = 1, .after = first},
                                       {.branch = (uint16_t)(count - 1), .after_count = 1, .after = first}};
    struct engine_event event = {.kind = EV_RUN};
    event.run.ref = n;
    event.run.document = &w->document;
    event.run.participants = numbers;
    event.run.participant_count = count;
    event.run.steps = steps;
    event.run.step_count = 3;
    event.run.deadline_us = w->now_us + 30 * SECOND;
    event.run.has_key = true;
    memcpy(event.run.key_digest, &n, sizeof n);
    struct engine_stats before, after;
    engine_stats(w->engine, &before);
    step(w, &event);
    if (effect(w, EF_REFUSED) != NULL) {
        nomem_check(effect(w, EF_REFUSED)->refused.why == REFUSE_NOMEM);
        nomem_check(w->effects.count == 1);
        engine_stats(w->engine, &after);
        nomem_check(after.begun == before.begun && after.keys == before.keys &&
                    after.log_reserved_bytes == before.log_reserved_bytes);
        step(w, &event); /* the same key: it was not taken */
    }
    nomem_check(effect(w, EF_ACCEPTED) != NULL);
    return effect(w, EF_ACCEPTED)->txn->sequence;
}

static void vote(struct world *w, uint64_t sequence, uint32_t number, enum vote_kind kind) {
    char gid[LS_GID_MAX + 1];
    (void)snprintf(gid, sizeof gid, "lockstep:shop.0a1b2c3d4e5f.3.%llu:%s", (unsigned long long)sequence,
                   names[number]);
    struct engine_event event = {.kind = EV_VOTE};
    event.vote.participant = event.vote.link = number;
    event.vote.epoch = EPOCH;
    event.vote.sequence = sequence;
    event.vote.kind = kind;
    event.vote.sqlstate = kind == VOTE_NO ? "23505" : NULL;
    event.vote.reason = kind == VOTE_NO ? "duplicate key" : NULL;
    event.vote.id = (struct txn_branch_id){
        .system_id = 100 + number, .xid = 1000 + sequence, .lsn = 5000, .timeline = 1, .gid = gid, .owner = "app"};
    step(w, &event);
}

static void done(struct world *w, uint64_t sequence, uint32_t number, enum done_kind kind) {
    struct engine_event event = {.kind = EV_DONE};
    event.done.participant = event.done.link = number;
    event.done.epoch = EPOCH;
    event.done.sequence = sequence;
    event.done.kind = kind;
    event.done.reason = "by hand";
    step(w, &event);
}

static void engine_life(void) {
    struct world w = {.now_us = 1};
    struct engine_config config = {.coordinator = "shop",
                                   .incarnation = "0a1b2c3d4e5f",
                                   .epoch = EPOCH,
                                   .in_flight_max = RUNS,
                                   .waiting_max = RUNS,
                                   .finished_max = 8,
                                   .keys_max = 1000,
                                   .resend_us = 5 * SECOND};
    nomem_begin();
    w.engine = engine_new(&config);
    if (w.engine == NULL) w.engine = engine_new(&config); /* only one fails */
    nomem_end();
    nomem_check(w.engine != NULL);
    engine_set_log_room(w.engine, 1u << 24);
    for (uint32_t number = 1; number <= PARTICIPANTS; number++) join(&w, number);
    for (uint64_t n = 1; n <= RUNS; n++) {
        uint64_t s = run(&w, n, n % 8 == 7 ? 1 : PARTICIPANTS);
        if (n % 8 == 7) { /* one participant */
            vote(&w, s, 1, VOTE_COMMITTED);
            continue;
        }
        vote(&w, s, 1, VOTE_YES); /* the statements of the others have waited for it */
        if (n % 8 == 3) {         /* one says NO */
            vote(&w, s, 2, VOTE_NO);
            done(&w, s, 1, DONE_IS_ABORTED);
            done(&w, s, 3, DONE_IS_ABORTED);
            continue;
        }
        vote(&w, s, 2, VOTE_YES);
        vote(&w, s, 3, VOTE_YES);
        nomem_check(effect(&w, EF_LOG_COMMIT) != NULL && effect(&w, EF_SEND_DECIDE) == NULL);
        struct engine_event event = {.kind = EV_LOG_DURABLE};
        event.log_durable.ticket = w.ticket;
        w.durable = w.logged;
        step(&w, &event);
        nomem_check(engine_find(w.engine, EPOCH, s)->outcome == OUTCOME_COMMITTED);
        engine_set_log_position(w.engine, EPOCH, s, 100 * s);
        for (uint32_t number = 1; number <= PARTICIPANTS; number++) {
            done(&w, s, number, n % 8 == 5 && number == 2 ? DONE_IS_HAZARD : DONE_IS_COMMITTED);
        }
    }
    struct engine_event event = {.kind = EV_INQUIRY};
    event.inquiry.participant = event.inquiry.link = 1;
    event.inquiry.epoch = 2;
    event.inquiry.sequence = 9;
    event.inquiry.gid = "lockstep:...";
    event.inquiry.xid = 5;
    event.inquiry.system_id = 101;
    event.inquiry.kept = KEPT_BEYOND_HORIZON;
    event.inquiry.history_changed = true;
    step(&w, &event);
    event = (struct engine_event){.kind = EV_AGENT_DOWN};
    event.agent.participant = event.agent.link = 1;
    step(&w, &event);
    event = (struct engine_event){.kind = EV_TICK};
    w.now_us += 60 * SECOND;
    step(&w, &event);
    engine_free(w.engine);
    engine_effects_free(&w.effects);
}

static void test_engine(void **state) {
    (void)state;
    uint64_t stopped;
    nomem_each("engine", engine_life, &stopped);
    assert_true(stopped > 0); /* effects, texts */
}

/* -------------------------------------------------------------- recovery */

static uint64_t position;

/* Says NOMEM, and takes the same record when it comes again; a sound record is never called senseless. */
static void put(struct recovery *r, enum dlog_type type, const ProtobufCMessage *message) {
    uint8_t buffer[4096];
    size_t length = protobuf_c_message_pack(message, buffer);
    struct ls_error err = {.status = LS_OK};
    position += 100;
    nomem_begin();
    enum ls_status status = recovery_record(r, type, position, buffer, length, &err);
    nomem_end();
    nomem_check(status == LS_OK || status == LS_ERR_NOMEM);
    if (status == LS_OK) return;
    nomem_check(recovery_record(r, type, position, buffer, length, &err) == LS_OK);
}

static void put_commit(struct recovery *r, uint64_t sequence) {
    char owner[] = "app", gid[] = "lockstep:shop.0a1b2c3d4e5f.1.1:orders", app[] = "app/checkout";
    Lockstep__LogBranch branch = LOCKSTEP__LOG_BRANCH__INIT, *branches[] = {&branch};
    branch.participant = 1;
    branch.system_id = 7001;
    branch.xid = 500 + sequence;
    branch.lsn = branch.timeline = 1;
    branch.owner = owner;
    branch.gid = gid;
    uint8_t digest[16] = {(uint8_t)sequence}, document[16] = {9};
    Lockstep__LogCommit record = LOCKSTEP__LOG_COMMIT__INIT;
    record.epoch = 1;
    record.sequence = sequence;
    record.n_branches = 1;
    record.branches = branches;
    record.app = app;
    record.has_key_digest = record.has_document_digest = 1;
    record.key_digest = (ProtobufCBinaryData){16, digest};
    record.document_digest = (ProtobufCBinaryData){16, document};
    put(r, DLOG_COMMIT, &record.base);
}

static uint32_t app_number(void *context, const char *app) {
    (void)context;
    return strcmp(app, "app/checkout") == 0 ? 5 : 0;
}

static void put_everything(struct recovery *r) {
    char name[] = "shop", incarnation[] = "0a1b2c3d4e5f", version[] = "1", orders[] = "orders", reason[] = "vanished",
         who[] = "admin/kim", act[] = "accept", subject[] = "orders ffffffffffff";
    Lockstep__LogEpoch epoch = LOCKSTEP__LOG_EPOCH__INIT;
    epoch.coordinator = name;
    epoch.incarnation = incarnation;
    epoch.version = version;
    epoch.epoch = 1;
    put(r, DLOG_EPOCH, &epoch.base);
    Lockstep__LogParticipant participant = LOCKSTEP__LOG_PARTICIPANT__INIT;
    participant.number = 1;
    participant.name = orders;
    Lockstep__LogSighting sighting = LOCKSTEP__LOG_SIGHTING__INIT, *sightings[] = {&sighting};
    sighting.epoch = sighting.sequence = 1;
    participant.n_sightings = 1;
    participant.sightings = sightings;
    put(r, DLOG_PARTICIPANT, &participant.base);
    for (uint64_t s = 1; s <= 5; s++) put_commit(r, s);
    Lockstep__LogEnd end = LOCKSTEP__LOG_END__INIT;
    end.epoch = 1;
    end.sequence = 2;
    put(r, DLOG_END, &end.base);
    Lockstep__LogHazard hazard = LOCKSTEP__LOG_HAZARD__INIT;
    hazard.epoch = 1;
    hazard.sequence = 3;
    hazard.participant = 1;
    hazard.reason = reason;
    put(r, DLOG_HAZARD, &hazard.base);
    hazard.sequence = 9; /* without a decision */
    put(r, DLOG_HAZARD, &hazard.base);
    Lockstep__LogAudit audit = LOCKSTEP__LOG_AUDIT__INIT;
    audit.who = who;
    audit.act = act;
    audit.subject = subject;
    audit.reason = reason;
    put(r, DLOG_AUDIT, &audit.base);
    Lockstep__LogMark mark = LOCKSTEP__LOG_MARK__INIT;
    mark.running_ms = 77;
    put(r, DLOG_MARK, &mark.base);
}

static void recovery_life(void) {
    position = 0;
    nomem_begin();
    struct recovery *r = recovery_new();
    if (r == NULL) r = recovery_new();
    nomem_end();
    nomem_check(r != NULL);
    put_everything(r);
    nomem_check(recovery_last_epoch(r) == 1 && recovery_running_ms(r) == 77 && recovery_open_count(r) == 4);
    nomem_check(recovery_participant_count(r) == 1 && recovery_acceptance_count(r) == 1);
    nomem_check(strcmp(recovery_participant(r, 0)->accepted_incarnation, "ffffffffffff") == 0);
    struct engine_config config = {.coordinator = "shop",
                                   .incarnation = "0a1b2c3d4e5f",
                                   .epoch = 2,
                                   .in_flight_max = 10,
                                   .waiting_max = 10,
                                   .finished_max = 10,
                                   .keys_max = 10,
                                   .resend_us = SECOND};
    struct engine *engine = engine_new(&config);
    struct engine_effects effects = {0};
    nomem_begin();
    recovery_apply(r, engine, app_number, NULL, 1, &effects);
    nomem_end();
    engine_check(engine);
    for (uint64_t s = 1; s <= 5; s++) nomem_check((engine_find(engine, 1, s) != NULL) == (s != 2));
    engine_free(engine);
    engine_effects_free(&effects);
    recovery_free(r);
}

static void test_recovery(void **state) {
    (void)state;
    uint64_t stopped;
    nomem_each("recovery", recovery_life, &stopped);
    assert_true(stopped > 0); /* starting without a decision would be worse than not starting */
}

/* ----------------------------------------------------------------- agent */

static bool says(const struct rig *rig, const char *text) {
    return strstr(rig->trace, text) != NULL;
}

/* Work that finds no memory is a NO that may be repeated, and holds no credit. */
static uint64_t work(struct rig *rig, uint64_t sequence) {
    rig_work(rig, sequence, 0, true);
    if (says(rig, "vote no")) {
        nomem_check(says(rig, "53200 retryable"));
        nomem_check(agent_find(rig->agent, rig_gtid(sequence, 0)) == NULL);
        rig_work(rig, ++sequence, 0, true);
    }
    nomem_check(says(rig, "run "));
    return sequence;
}

static void agent_life(void) {
    struct rig rig;
    nomem_begin();
    struct agent_config config;
    agent_config_defaults(&config);
    strcpy(config.participant, "orders");
    strcpy(config.coordinator, "shop");
    struct agent *agent = agent_new(&config);
    if (agent == NULL) agent = agent_new(&config);
    nomem_check(agent != NULL);
    nomem_end();
    agent_check(agent);
    agent_free(agent);

    rig_around_step = NULL;
    rig_serve(&rig, NULL);
    rig_around_step = nomem_switch;
    uint64_t s = work(&rig, 1); /* prepared and committed */
    rig_ran(&rig, rig_run_prepared(10 + s));
    nomem_check(says(&rig, "vote yes"));
    rig_commit(&rig, s, 10 + s);
    rig_finished(&rig, NULL);
    nomem_check(says(&rig, "done committed"));
    s = work(&rig, s + 1); /* prepared and rolled back */
    rig_ran(&rig, rig_run_prepared(10 + s));
    rig_abort(&rig, s);
    rig_finished(&rig, NULL);
    nomem_check(says(&rig, "done aborted"));
    s = work(&rig, s + 1); /* a NO of the server */
    rig_ran(&rig, rig_run_failed("23505", AGENT_ITEM_STATEMENT));
    nomem_check(says(&rig, "vote no"));
    /* a decision about a branch of an earlier life: said again until there is memory for it */
    rig_commit(&rig, 900, 910);
    if (rig.trace[0] == '\0') rig_commit(&rig, 900, 910);
    nomem_check(says(&rig, "prove 900"));
    rig_proved(&rig, true, 910, AGENT_XACT_IN_PROGRESS);
    nomem_check(says(&rig, "finish commit 900"));
    rig_finished(&rig, NULL);
    nomem_check(says(&rig, "done committed 900"));
    /* the same, vanished: proved against the decision, and told as a hazard */
    rig_commit(&rig, 901, 911);
    if (rig.trace[0] == '\0') rig_commit(&rig, 901, 911);
    rig_proved(&rig, false, 0, AGENT_XACT_ABORTED);
    nomem_check(says(&rig, "done hazard 901"));
    for (uint64_t old = 1000; old < 1070; old++) { /* more branches at once than the first slots hold */
        rig_commit(&rig, old, 10 + old);
        if (rig.trace[0] == '\0') rig_commit(&rig, old, 10 + old);
        nomem_check(says(&rig, "prove"));
    }
    rig_link_down(&rig);
    rig_around_step = NULL;
    rig_free(&rig);
}

static void test_agent(void **state) {
    (void)state;
    uint64_t stopped;
    nomem_each("agent", agent_life, &stopped);
    assert_true(stopped > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_engine),
        cmocka_unit_test(test_recovery),
        cmocka_unit_test(test_agent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
