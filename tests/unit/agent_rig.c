/* agent_rig.c: see agent_rig.h. */
#include "agent_rig.h"

#include <inttypes.h>

#include "unit.h"

static void out(struct rig *rig, const char *fmt, ...) LS_PRINTF(2, 3);
static void out(struct rig *rig, const char *fmt, ...) {
    size_t used = strlen(rig->trace);
    va_list args;
    va_start(args, fmt);
    int length = vsnprintf(rig->trace + used, sizeof(rig->trace) - used, fmt, args);
    va_end(args);
    assert_true(length >= 0 && (size_t)length < sizeof(rig->trace) - used);
}

/* "17" or "17/2". */
static const char *short_name(const char *gtid) {
    static char text[64];
    struct ls_gtid id;
    if (gtid == NULL) return "-";
    assert_int_equal(ls_gtid_parse(gtid, &id), LS_OK);
    int n = snprintf(text, sizeof(text), "%" PRIu64, id.sequence);
    if (id.participant != 0) snprintf(text + n, sizeof(text) - (size_t)n, "/%" PRIu32, id.participant);
    return text;
}

static const char *vote_name(enum agent_vote vote) {
    static const char *const names[] = {"yes", "no", "read-only", "continue", "committed", "exists", "broken"};
    return names[vote];
}

static const char *const barriers[] = {"done", "undone", "cancelled"};

static void out_vote(struct rig *rig, const struct agent_effect *e) {
    out(rig, "vote %s %s", vote_name(e->vote.kind), short_name(e->gtid));
    if (e->vote.kind == AGENT_VOTE_YES) {
        assert_int_not_equal(e->vote.identity.system_id, 0);
        out(rig, " xid=%" PRIu64 " owner=%s", e->vote.identity.xid, e->vote.owner);
    }
    if (e->vote.kind == AGENT_VOTE_CONTINUE) out(rig, " part=%" PRIu32, e->vote.part);
    if (e->vote.sqlstate != NULL) out(rig, " %s", e->vote.sqlstate);
    if (e->vote.has_step) out(rig, " step=%" PRIu32, e->vote.step);
    if (e->vote.retryable) out(rig, " retryable");
    if (e->vote.existing_gtid != NULL) out(rig, " existing=%s", short_name(e->vote.existing_gtid));
    if (e->vote.with_results) out(rig, " results");
    if (e->vote.has_barrier) out(rig, " %s", barriers[e->vote.barrier]);
    out(rig, "\n");
}

struct rig_owned {
    struct rig_owned *next;
};

static void *new_owned(struct rig *rig) {
    struct rig_owned *owned = malloc(sizeof *owned);
    assert_non_null(owned);
    owned->next = rig->owned;
    rig->owned = owned;
    rig->works++;
    return owned;
}

/* What is given back was lent, and once. */
static void free_owned(struct rig *rig, void *work) {
    struct rig_owned **at = &rig->owned;
    while (*at != NULL && *at != work) at = &(*at)->next;
    assert_non_null(*at);
    *at = (*at)->next;
    free(work);
    rig->works--;
}

static void out_effect(struct rig *rig, const struct agent_effect *e) {
    static const char *const done[] = {"committed", "aborted", "hazard"};
    switch (e->kind) {
    case AEF_STOP:
        out(rig, "stop %d: %s\n", e->stop.exit_status, e->text);
        return;
    case AEF_REPORT:
        out(rig, "%s\n", e->report.alarm ? "alarm" : "report");
        return;
    case AEF_DRAINED:
        out(rig, "drained\n");
        return;
    case AEF_DIAL:
        out(rig, "dial\n");
        return;
    case AEF_CLOSE:
        assert_int_not_equal(e->link, 0);
        out(rig, e->text != NULL ? "close: %s\n" : "close\n", e->text);
        return;
    case AEF_SEND_HELLO:
        out(rig, "hello %" PRIu32, e->hello.credits);
        out(rig, e->hello.has_fence ? " fence=%" PRIu64 "\n" : " fence=-\n", e->hello.fence.position);
        return;
    case AEF_SEND_READY:
        out(rig, "ready\n");
        return;
    case AEF_SEND_REFUSE:
        out(rig, "refuse: %s\n", e->refuse.reason);
        return;
    case AEF_SEND_PONG:
        out(rig, "pong %" PRIu64 "\n", e->pong.token);
        return;
    case AEF_SEND_CREDIT:
        out(rig, "credit %" PRIu32 "\n", e->credit.credits);
        return;
    case AEF_SEND_VOTE:
        out_vote(rig, e);
        return;
    case AEF_SEND_DONE:
        out(rig, "done %s %s%s\n", done[e->done.kind], short_name(e->gtid), e->done.stranger ? " stranger" : "");
        return;
    case AEF_SEND_INQUIRY:
        out(rig, "inquiry");
        for (uint32_t i = 0; i < e->inquiry.count && i < 4; i++) {
            struct ls_gtid id;
            enum ls_gid_form form;
            char participant[LS_PARTICIPANT_MAX + 1];
            assert_int_equal(ls_gid_parse(e->inquiry.items[i].gid, &form, &id, participant), LS_OK);
            out(rig, "%s %" PRIu64 " xid=%" PRIu64, i == 0 ? "" : ",", id.sequence, e->inquiry.items[i].xid);
        }
        out(rig, e->inquiry.count > 4 ? " and more: %" PRIu32 "\n" : "\n", e->inquiry.count);
        rig->token = e->inquiry.token;
        rig->asked_count = e->inquiry.count;
        for (uint32_t i = 0; i < e->inquiry.count && i < 8; i++) {
            snprintf(rig->asked[i].gid, sizeof(rig->asked[i].gid), "%s", e->inquiry.items[i].gid);
            rig->asked[i].xid = e->inquiry.items[i].xid;
            rig->asked[i].vanished = e->inquiry.items[i].vanished;
        }
        return;
    case AEF_SEND_KEPT:
        out(rig, "kept %" PRIu32 "\n", e->kept.count);
        rig->token = e->kept.token;
        return;
    case AEF_DB_KEPT:
        out(rig, "page after '%s'\n", e->kept_page.after);
        return;
    case AEF_DB_FORGET:
        out(rig, e->forget.prune ? "prune %" PRIu32 : "let go of %" PRIu32, e->forget.count);
        out(rig, e->forget.has_horizon ? " horizon=%" PRIu32 ".%" PRIu64 "\n" : "\n", e->forget.epoch,
            e->forget.sequence);
        assert_string_equal(e->forget.incarnation, RIG_INCARNATION);
        return;
    case AEF_FREE_WORK:
        assert_non_null(e->free_work.work);
        free_owned(rig, e->free_work.work);
        return; /* counted, not traced */
    case AEF_FORGET:
        out(rig, "forget %s\n", short_name(e->gtid));
        return;
    case AEF_DB_LOCK:
        out(rig, "lock\n");
        return;
    case AEF_DB_CLEAN:
        out(rig, "clean\n");
        return;
    case AEF_DB_IDENTITY:
        out(rig, "identity\n");
        return;
    case AEF_DB_FENCE:
        out(rig, "fence %" PRIu64 "%s\n", e->fence.fence.position, e->fence.durable ? " durable" : "");
        return;
    case AEF_DB_SCAN:
        out(rig, "scan\n");
        snprintf(rig->scan_after, sizeof(rig->scan_after), "%s", e->scan.after);
        return;
    case AEF_DB_RUN:
        out(rig, "run %s part=%" PRIu32 "%s%s%s\n", short_name(e->gtid), e->run.part, e->run.first ? " first" : "",
            e->run.last ? " last" : "", e->run.one_phase ? " one-phase" : "");
        assert_true(e->run.one_phase == (e->run.gid[0] == '\0'));
        snprintf(rig->gid, sizeof(rig->gid), "%s", e->run.gid);
        return;
    case AEF_DB_COMMIT1:
        out(rig, "commit1 %s\n", short_name(e->gtid));
        return;
    case AEF_DB_ROLLBACK:
        out(rig, "rollback %s\n", short_name(e->gtid));
        return;
    case AEF_DB_STOP:
        out(rig, "kill %s\n", short_name(e->gtid));
        return;
    case AEF_DB_RELEASE:
        out(rig, "release %s\n", short_name(e->gtid));
        return;
    case AEF_DB_FINISH:
        out(rig, "finish %s %s xid=%" PRIu64 "\n", e->finish.commit ? "commit" : "rollback", short_name(e->gtid),
            e->finish.xid);
        snprintf(rig->gid, sizeof(rig->gid), "%s", e->finish.gid);
        return;
    case AEF_DB_PROVE:
        out(rig, "prove %s xid=%" PRIu64 "\n", short_name(e->gtid), e->prove.xid);
        snprintf(rig->gid, sizeof(rig->gid), "%s", e->prove.gid);
        return;
    case AEF_DB_READ_KEY:
        assert_non_null(e->read_key.work);
        out(rig, "readkey %s\n", short_name(e->gtid));
        return;
    case AEF_DB_SETTLE:
        out(rig, "settle %s\n", short_name(e->gtid));
        return;
    }
    fail_msg("unknown effect %d", (int)e->kind);
}

/* Whatever is asked of the server has an operation to be answered, but for giving a session back. */
static void note_op(struct rig *rig, const struct agent_effect *e) {
    if (e->kind >= AEF_DB_LOCK) assert_true((e->op == 0) == (e->kind == AEF_DB_RELEASE));
    if (e->kind == AEF_DB_STOP)
        rig->stop_op = e->op;
    else if (e->op != 0)
        rig->op = e->op;
}

void (*rig_around_step)(bool begins);

void rig_step(struct rig *rig, struct agent_event *event) {
    event->now_us = rig->now_us;
    if (event->kind == AEV_WORK && event->work.work == NULL) {
        event->work.work = new_owned(rig);
    }
    if (rig_around_step != NULL) rig_around_step(true);
    agent_step(rig->agent, event, &rig->effects);
    if (rig_around_step != NULL) rig_around_step(false);
    rig->trace[0] = '\0';
    for (size_t i = 0; i < rig->effects.count; i++) {
        out_effect(rig, &rig->effects.list[i]);
        note_op(rig, &rig->effects.list[i]);
    }
    agent_check(rig->agent);
}

struct agent_event rig_event(enum agent_event_kind kind) {
    struct agent_event event;
    memset(&event, 0, sizeof(event));
    event.kind = kind;
    return event;
}

void rig_answer(struct rig *rig, enum agent_event_kind kind, struct agent_event event) {
    event.kind = kind;
    event.op = kind == AEV_DB_STOP ? rig->stop_op : rig->op;
    rig_step(rig, &event);
}

uint32_t rig_version = 1;

void rig_frame(struct rig *rig, struct agent_event event) {
    event.link = rig->link;
    event.has_fence = true;
    event.fence = rig->fence;
    rig_step(rig, &event);
}

void rig_tick(struct rig *rig, uint64_t later_us) {
    struct agent_event event = rig_event(AEV_TICK);
    rig->now_us += later_us;
    rig_step(rig, &event);
}

void rig_next_timer(struct rig *rig) {
    uint64_t at_us = agent_next_timer(rig->agent);
    assert_true(at_us != AGENT_NEVER);
    rig_tick(rig, at_us > rig->now_us ? at_us - rig->now_us : 0);
}

void rig_link_up(struct rig *rig) {
    struct agent_event event = rig_event(AEV_LINK_UP);
    event.link = ++rig->link;
    rig_step(rig, &event);
}

void rig_link_down(struct rig *rig) {
    struct agent_event event = rig_event(AEV_LINK_DOWN);
    event.link = rig->link;
    rig_step(rig, &event);
}

void rig_welcome(struct rig *rig, bool has_chain_at, uint64_t chain_at, const char *accepted) {
    struct agent_event event = rig_event(AEV_WELCOME);
    event.welcome.version = rig_version;
    event.welcome.number = RIG_NUMBER;
    event.welcome.coordinator = "shop";
    event.welcome.has_chain_at = has_chain_at;
    event.welcome.chain_at = chain_at;
    event.welcome.accepted_incarnation = accepted;
    rig_frame(rig, event);
}

void rig_verdict(struct rig *rig, enum agent_verdict verdict) {
    struct agent_answer_item items[8];
    struct agent_event event = rig_event(AEV_ANSWER);
    assert_in_range(rig->asked_count, 1, 8);
    for (uint32_t i = 0; i < rig->asked_count; i++)
        items[i] = (struct agent_answer_item){.gid = rig->asked[i].gid, .xid = rig->asked[i].xid, .verdict = verdict};
    event.answer.token = rig->token;
    event.answer.items = items;
    event.answer.count = rig->asked_count;
    rig_frame(rig, event);
}

void rig_forget(struct rig *rig, struct agent_event event) {
    event.kind = AEV_FORGET;
    rig_frame(rig, event);
}

void rig_identity(struct rig *rig) {
    struct agent_event event = rig_event(AEV_DB_IDENTITY);
    event.identity.ok = true;
    event.identity.server = rig->server;
    event.identity.max_prepared = rig->max_prepared;
    event.identity.has_fence = rig->has_stored;
    event.identity.fence = rig->stored;
    rig_answer(rig, AEV_DB_IDENTITY, event);
}

void rig_new(struct rig *rig, void (*change)(struct agent_config *config)) {
    memset(rig, 0, sizeof(*rig));
    agent_config_defaults(&rig->config);
    strcpy(rig->config.participant, "orders");
    strcpy(rig->config.coordinator, "shop");
    rig->config.seed = 1;
    if (change != NULL) change(&rig->config);
    rig->agent = agent_new(&rig->config);
    assert_non_null(rig->agent);
    rig->now_us = 1000000;
    rig->max_prepared = 100;
    rig->fence = (struct agent_fence){.incarnation = RIG_INCARNATION, .epoch = 3, .position = 100, .chain = 0xc0};
    rig->server = (struct agent_server){.system_id = RIG_SYSTEM, .timeline = 1, .insert_lsn = 5000, .flush_lsn = 5000};
}

void rig_free(struct rig *rig) {
    agent_free(rig->agent);
    agent_effects_free(&rig->effects);
    while (rig->owned != NULL) free_owned(rig, rig->owned);
}

void rig_serve(struct rig *rig, void (*change)(struct agent_config *config)) {
    struct agent_event event = rig_event(AEV_START);
    rig_new(rig, change);
    rig_step(rig, &event);
    event.lock.result = AGENT_LOCK_TAKEN;
    rig_answer(rig, AEV_DB_LOCK, event);
    event.clean.ok = true;
    rig_answer(rig, AEV_DB_CLEAN, event);
    rig_identity(rig);
    rig_link_up(rig);
    rig_identity(rig);
    rig_welcome(rig, false, 0, NULL);
    event.fence_stored.ok = true;
    rig_answer(rig, AEV_DB_FENCE, event);
    rig->has_stored = true;
    rig->stored = rig->fence;
    event = rig_event(AEV_DB_SCAN);
    event.scan.ok = true;
    event.scan.server = rig->server;
    rig_answer(rig, AEV_DB_SCAN, event);
    rig_expect(rig, "ready\n");
}

static void write_gtid(uint64_t sequence, uint32_t participant, char text[LS_GTID_MAX + 1]) {
    struct ls_gtid id = {.coordinator = "shop",
                         .incarnation = RIG_INCARNATION,
                         .epoch = 3,
                         .sequence = sequence,
                         .participant = participant};
    ls_gtid_format(&id, text);
}

const char *rig_gtid(uint64_t sequence, uint32_t participant) {
    static char texts[64][LS_GTID_MAX + 1];
    static unsigned at;
    char *text = texts[at++ % 64];
    write_gtid(sequence, participant, text);
    return text;
}

const char *rig_gid(uint64_t sequence) {
    static char texts[64][LS_GID_MAX + 1];
    static unsigned at;
    char *text = texts[at++ % 64];
    ls_gid_format(LS_GID_READABLE, rig_gtid(sequence, 0), "orders", text);
    return text;
}

struct agent_event rig_work_event(uint64_t sequence, uint32_t participant, uint32_t part, bool last) {
    struct agent_event event = rig_event(AEV_WORK);
    event.work.gtid = rig_gtid(sequence, participant);
    event.work.part = part;
    event.work.last = last;
    event.work.one_phase = participant != 0;
    event.work.lock_timeout_ms = 5000;
    event.work.deadline_ms = 30000;
    return event;
}

void rig_work(struct rig *rig, uint64_t sequence, uint32_t part, bool last) {
    rig_frame(rig, rig_work_event(sequence, 0, part, last));
}

void rig_work_one(struct rig *rig, uint64_t sequence, uint32_t part, bool last) {
    rig_frame(rig, rig_work_event(sequence, RIG_NUMBER, part, last));
}

struct agent_run rig_run_prepared(uint64_t xid) {
    return (struct agent_run){.session = AGENT_SESSION_IDLE,
                              .guard = AGENT_GUARD_OK,
                              .prepare_tag = "PREPARE TRANSACTION",
                              .identity = {.system_id = RIG_SYSTEM, .timeline = 1, .xid = xid, .lsn = 4000},
                              .owner = "app"};
}

struct agent_run rig_run_failed(const char *sqlstate, enum agent_item item) {
    return (struct agent_run){
        .session = AGENT_SESSION_IDLE, .failed = item, .sqlstate = sqlstate, .message = "the server's words"};
}

struct agent_run rig_run_lost(void) {
    return (struct agent_run){.session = AGENT_SESSION_LOST};
}

struct agent_run rig_run_open(void) {
    return (struct agent_run){.session = AGENT_SESSION_OPEN, .guard = AGENT_GUARD_OK};
}

void rig_ran_op(struct rig *rig, uint64_t op, struct agent_run run) {
    struct agent_event event = rig_event(AEV_DB_RUN);
    event.op = op;
    event.run = run;
    rig_step(rig, &event);
}

void rig_ran(struct rig *rig, struct agent_run run) {
    rig_ran_op(rig, rig->op, run);
}

void rig_prepare(struct rig *rig, uint64_t sequence, uint64_t xid) {
    rig_work(rig, sequence, 0, true);
    rig_ran(rig, rig_run_prepared(xid));
    assert_non_null(strstr(rig->trace, "vote yes"));
}

static void decide(struct rig *rig, struct agent_decide decide) {
    struct agent_event event = rig_event(AEV_DECIDE);
    event.decide = decide;
    rig_frame(rig, event);
}

void rig_commit(struct rig *rig, uint64_t sequence, uint64_t xid) {
    decide(rig, (struct agent_decide){.gtid = rig_gtid(sequence, 0),
                                      .commit = true,
                                      .gid = rig_gid(sequence),
                                      .identity = {.system_id = RIG_SYSTEM, .timeline = 1, .xid = xid, .lsn = 4000},
                                      .owner = "app"});
}

void rig_abort(struct rig *rig, uint64_t sequence) {
    decide(rig, (struct agent_decide){.gtid = rig_gtid(sequence, 0)});
}

void rig_settle(struct rig *rig, uint64_t sequence) {
    struct agent_event event = rig_event(AEV_SETTLE);
    event.settle.gtid = rig_gtid(sequence, RIG_NUMBER);
    rig_frame(rig, event);
}

void rig_finished(struct rig *rig, const char *sqlstate) {
    struct agent_event event = rig_event(AEV_DB_FINISH);
    event.finish.answer.sqlstate = sqlstate;
    rig_answer(rig, AEV_DB_FINISH, event);
}

void rig_stopped(struct rig *rig, bool gone) {
    struct agent_event event = rig_event(AEV_DB_STOP);
    event.stop.gone = gone;
    rig_answer(rig, AEV_DB_STOP, event);
}

void rig_proved(struct rig *rig, bool listed, uint64_t listed_xid, enum agent_xact_status status) {
    struct agent_event event = rig_event(AEV_DB_PROVE);
    event.prove.ok = true;
    event.prove.seen.listed = listed;
    event.prove.seen.listed_xid = listed_xid;
    event.prove.seen.listed_owner = listed ? "app" : NULL;
    event.prove.seen.status = status;
    event.prove.seen.server = rig->server;
    rig_answer(rig, AEV_DB_PROVE, event);
}

void rig_settled(struct rig *rig, enum agent_settle_result result) {
    struct agent_event event = rig_event(AEV_DB_SETTLE);
    event.settled.result = result;
    rig_answer(rig, AEV_DB_SETTLE, event);
}
