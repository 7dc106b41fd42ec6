/*
 * The coordinator's engine, event by event. Each test is a short story; the effects of every step are written as text
 * and compared. engine_check() asserts all invariants after every step. If the engine were wrong, the text would
 * differ: a COMMIT too early, a decision without its record, an answer that guesses.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "coordinator/core/engine.h"
#include "coordinator/core/saga.h"

#define SECOND UINT64_C(1000000)

struct world {
    struct engine *engine;
    struct engine_effects effects;
    uint64_t now_us;
    char text[16384]; /* effects of the last step */
    char document;    /* its address stands for a document */
};

static const char *refuse_name(enum refuse_why why) {
    switch (why) {
    case REFUSE_BUSY:
        return "busy";
    case REFUSE_KEYS_FULL:
        return "keys-full";
    case REFUSE_NOMEM:
        return "nomem";
    case REFUSE_OFFLINE:
        return "offline";
    case REFUSE_DRAINING:
        return "draining";
    case REFUSE_LOG_FULL:
        return "log-full";
    case REFUSE_KEY_MISMATCH:
        return "key-mismatch";
    }
    return "?";
}

static const char *verdict_name(enum verdict verdict) {
    switch (verdict) {
    case VERDICT_IS_PENDING:
        return "pending";
    case VERDICT_IS_COMMIT:
        return "commit";
    case VERDICT_IS_ABORT:
        return "abort";
    case VERDICT_IS_STRANGER:
        return "stranger";
    case VERDICT_IS_FOREIGN:
        return "foreign";
    case VERDICT_IS_HUMAN:
        return "human";
    case VERDICT_IS_FORGOTTEN:
        return "forgotten";
    }
    return "?";
}

static int describe(char *out, size_t size, const struct engine_effect *f) {
    unsigned long long s = f->txn != NULL ? (unsigned long long)f->txn->sequence : 0;
    unsigned at = f->txn != NULL ? f->txn->branches[f->branch].participant : 0;
    switch (f->kind) {
    case EF_ACCEPTED:
        return snprintf(out, size, "accepted t%llu; ", s);
    case EF_JOINED:
        return snprintf(out, size, "joined e%u t%llu; ", f->joined.epoch, (unsigned long long)f->joined.sequence);
    case EF_REFUSED:
        return snprintf(out, size, "refused %s %u; ", refuse_name(f->refused.why), f->refused.participant);
    case EF_SEND_WORK:
        return snprintf(out, size, "work t%llu p%u part %u steps %u%s; ", s, at, f->work.part, f->work.step_count,
                        f->work.last ? " last" : "");
    case EF_SEND_DECIDE:
        return snprintf(out, size, "%s t%llu p%u; ", f->decide.commit ? "COMMIT" : "ABORT", s, at);
    case EF_SEND_SETTLE:
        return snprintf(out, size, "settle t%llu p%u; ", s, at);
    case EF_VERDICT:
        return snprintf(out, size, "verdict %s; ", verdict_name(f->verdict.verdict));
    case EF_LOG_COMMIT:
        return snprintf(out, size, "log commit t%llu ticket %llu; ", s, (unsigned long long)f->ticket);
    case EF_LOG_END:
        return snprintf(out, size, "log end t%llu; ", s);
    case EF_LOG_HAZARD:
        return snprintf(out, size, "log hazard t%llu p%u; ", (unsigned long long)f->hazard.sequence,
                        f->hazard.participant);
    case EF_OUTCOME:
        return snprintf(out, size, "outcome t%llu %s; ", s, txn_outcome_name(f->txn->outcome));
    case EF_APPLIED:
        return snprintf(out, size, "applied t%llu; ", s);
    case EF_PENDING:
        return snprintf(out, size, "pending t%llu; ", s);
    case EF_REPORT:
        return snprintf(out, size, "report; ");
    case EF_RELEASE:
        return snprintf(out, size, "release; ");
    case EF_STOP:
        return snprintf(out, size, "STOP %d; ", f->stop.exit_status);
    }
    return 0;
}

static const char *step(struct world *w, struct engine_event *event) {
    event->now_us = w->now_us;
    engine_step(w->engine, event, &w->effects);
    engine_check(w->engine);
    int used = 0;
    w->text[0] = '\0';
    for (size_t i = 0; i < w->effects.count && used < (int)sizeof w->text - 128; i++) {
        used += describe(w->text + used, sizeof w->text - (size_t)used, &w->effects.list[i]);
    }
    if (used >= 2) {
        w->text[used - 2] = '\0';
    }
    return w->text;
}

/* ------------------------------------------------------------------ verbs */

static const char *join(struct world *w, uint32_t number, uint64_t link, uint32_t credits) {
    struct engine_event event = {.kind = EV_AGENT_UP};
    event.agent_up.participant = number;
    event.agent_up.link = link;
    event.agent_up.credits = credits;
    event.agent_up.system_id = 100 + number;
    event.agent_up.timeline = 1;
    return step(w, &event);
}

static const char *agent(struct world *w, enum event_kind kind, uint32_t number, uint64_t link) {
    struct engine_event event = {.kind = kind};
    event.agent.participant = number;
    event.agent.link = link;
    return step(w, &event);
}

static void setup_participants(struct world *w, uint32_t count, uint32_t credits) {
    static const char *names[] = {"", "orders", "stock", "money"};
    for (uint32_t n = 1; n <= count; n++) {
        struct engine_event event = {.kind = EV_PARTICIPANT};
        event.participant.number = n;
        event.participant.name = names[n];
        (void)step(w, &event);
        (void)join(w, n, n, credits);
        (void)agent(w, EV_AGENT_READY, n, n);
    }
}

static struct world *world_new(uint32_t participants, uint32_t credits) {
    struct world *w = calloc(1, sizeof *w);
    struct engine_config config = {.coordinator = "shop",
                                   .incarnation = "0a1b2c3d4e5f",
                                   .epoch = 3,
                                   .in_flight_max = 100,
                                   .waiting_max = 2,
                                   .finished_max = 100,
                                   .keys_max = 2,
                                   .resend_us = 5 * SECOND};
    w->engine = engine_new(&config);
    w->now_us = 1;
    engine_set_log_room(w->engine, 1u << 20);
    setup_participants(w, participants, credits);
    return w;
}

static void world_free(struct world *w) {
    engine_free(w->engine);
    engine_effects_free(&w->effects);
    free(w);
}

static const char *run_with(struct world *w, uint32_t count, const char *key, const char *document) {
    uint32_t numbers[] = {1, 2, 3};
    struct engine_step_spec steps[] = {{.branch = 0}, {.branch = 1}, {.branch = 2}};
    struct engine_event event = {.kind = EV_RUN};
    event.run.ref = 7;
    event.run.document = &w->document;
    event.run.participants = numbers;
    event.run.participant_count = count;
    event.run.steps = steps;
    event.run.step_count = count;
    event.run.deadline_us = w->now_us + 30 * SECOND;
    if (key != NULL) {
        event.run.has_key = true;
        memcpy(event.run.key_digest, key, strlen(key));
        memcpy(event.run.document_digest, document, strlen(document));
    }
    return step(w, &event);
}

static const char *run(struct world *w, uint32_t count) {
    return run_with(w, count, NULL, NULL);
}

static const char *gid_of(uint64_t sequence, uint32_t number) {
    static char gid[LS_GID_MAX + 1];
    static const char *names[] = {"", "orders", "stock", "money"};
    (void)snprintf(gid, sizeof gid, "lockstep:shop.0a1b2c3d4e5f.3.%llu:%s", (unsigned long long)sequence,
                   names[number]);
    return gid;
}

static const char *vote_on(struct world *w, uint64_t sequence, uint32_t number, uint64_t link, enum vote_kind kind) {
    struct engine_event event = {.kind = EV_VOTE};
    event.vote.participant = number;
    event.vote.link = link;
    event.vote.epoch = 3;
    event.vote.sequence = sequence;
    event.vote.kind = kind;
    event.vote.sqlstate = kind == VOTE_NO ? "23505" : NULL;
    event.vote.reason = kind == VOTE_NO ? "duplicate key" : NULL;
    event.vote.id = (struct txn_branch_id){.system_id = 100 + number,
                                           .xid = 1000 + sequence,
                                           .lsn = 5000,
                                           .timeline = 1,
                                           .gid = gid_of(sequence, number),
                                           .owner = "app"};
    return step(w, &event);
}

static const char *vote(struct world *w, uint64_t sequence, uint32_t number, enum vote_kind kind) {
    return vote_on(w, sequence, number, number, kind);
}

static const char *done(struct world *w, uint64_t sequence, uint32_t number, enum done_kind kind) {
    struct engine_event event = {.kind = EV_DONE};
    event.done.participant = number;
    event.done.link = number;
    event.done.epoch = 3;
    event.done.sequence = sequence;
    event.done.kind = kind;
    return step(w, &event);
}

static const char *durable(struct world *w, uint64_t ticket) {
    struct engine_event event = {.kind = EV_LOG_DURABLE};
    event.log_durable.ticket = ticket;
    return step(w, &event);
}

static const char *tick(struct world *w) {
    struct engine_event event = {.kind = EV_TICK};
    return step(w, &event);
}

static const char *cancel(struct world *w, uint64_t sequence) {
    struct engine_event event = {.kind = EV_CANCEL};
    event.cancel.epoch = 3;
    event.cancel.sequence = sequence;
    event.cancel.reason = "asked to";
    return step(w, &event);
}

static const char *inquire_about(struct world *w, uint32_t epoch, uint64_t sequence, uint32_t number, uint64_t xid,
                                 enum kept_kind kept, bool changed, bool vanished) {
    struct txn_branch_id kept_branch = {
        .participant = number, .system_id = 100 + number, .xid = 1000 + sequence, .gid = "x", .owner = "app"};
    struct engine_event event = {.kind = EV_INQUIRY};
    event.inquiry.participant = number;
    event.inquiry.epoch = epoch;
    event.inquiry.sequence = sequence;
    event.inquiry.gid = "lockstep:...";
    event.inquiry.xid = xid;
    event.inquiry.system_id = 100 + number;
    event.inquiry.kept = kept;
    event.inquiry.kept_branches = &kept_branch;
    event.inquiry.kept_branch_count = 1;
    event.inquiry.history_changed = changed;
    event.inquiry.vanished = vanished;
    return step(w, &event);
}

static const char *inquire(struct world *w, uint32_t epoch, uint64_t sequence, uint32_t number, uint64_t xid,
                           enum kept_kind kept, bool changed) {
    return inquire_about(w, epoch, sequence, number, xid, kept, changed, false);
}

/* ------------------------------------------------------------------ tests */

static void commit_waits_for_the_log(void **state) {
    (void)state;
    struct world *w = world_new(2, 10);
    assert_string_equal(run(w, 2), "accepted t1; work t1 p1 part 0 steps 1 last; work t1 p2 part 0 steps 1 last");
    assert_string_equal(vote(w, 1, 1, VOTE_YES), "");
    assert_string_equal(vote(w, 1, 2, VOTE_YES), "log commit t1 ticket 1");
    assert_int_equal(engine_find(w->engine, 3, 1)->outcome, OUTCOME_PENDING);
    assert_string_equal(tick(w), "");
    assert_string_equal(cancel(w, 1), ""); /* too late */
    w->now_us += 60 * SECOND;              /* its deadline is long past: no matter */
    assert_string_equal(tick(w), "");
    assert_string_equal(durable(w, 1), "COMMIT t1 p1; COMMIT t1 p2; outcome t1 committed");
    assert_string_equal(done(w, 1, 1, DONE_IS_COMMITTED), "");
    assert_string_equal(done(w, 1, 2, DONE_IS_COMMITTED), "log end t1; applied t1; release");
    assert_null(engine_find(w->engine, 3, 1));
    assert_int_equal(engine_find_finished(w->engine, 3, 1)->outcome, OUTCOME_COMMITTED);
    world_free(w);
}

static void one_sync_releases_a_group(void **state) {
    (void)state;
    struct world *w = world_new(2, 10);
    for (uint64_t t = 1; t <= 3; t++) {
        (void)run(w, 2);
        (void)vote(w, t, 1, VOTE_YES);
        (void)vote(w, t, 2, VOTE_YES);
    }
    assert_string_equal(
        durable(w, 2),
        "COMMIT t1 p1; COMMIT t1 p2; outcome t1 committed; COMMIT t2 p1; COMMIT t2 p2; outcome t2 committed");
    assert_int_equal(engine_find(w->engine, 3, 3)->outcome, OUTCOME_PENDING);
    assert_string_equal(durable(w, 3), "COMMIT t3 p1; COMMIT t3 p2; outcome t3 committed");
    world_free(w);
}

/* A client that is told "retryable" repeats: true of a deadline, not of what was asked for or can never be right. */
static void a_deadline_is_worth_repeating_a_cancel_is_not(void **state) {
    (void)state;
    struct world *w = world_new(2, 10);
    (void)run(w, 2);
    (void)cancel(w, 1);
    assert_int_equal(engine_find(w->engine, 3, 1)->outcome, OUTCOME_ABORTED);
    assert_false(engine_find(w->engine, 3, 1)->cause.retryable);
    (void)run(w, 2);
    w->now_us += 60 * SECOND;
    (void)tick(w);
    assert_int_equal(engine_find(w->engine, 3, 2)->outcome, OUTCOME_ABORTED);
    assert_true(engine_find(w->engine, 3, 2)->cause.retryable);
    world_free(w);
}

static void a_no_aborts_without_the_log(void **state) {
    (void)state;
    struct world *w = world_new(2, 10);
    (void)run(w, 2);
    (void)vote(w, 1, 1, VOTE_YES);
    assert_string_equal(vote(w, 1, 2, VOTE_NO), "ABORT t1 p1; outcome t1 aborted");
    assert_string_equal(engine_find(w->engine, 3, 1)->cause.sqlstate, "23505");
    assert_string_equal(done(w, 1, 1, DONE_IS_ABORTED), "applied t1; release");
    const struct txn_finished *f = engine_find_finished(w->engine, 3, 1);
    assert_int_equal(f->outcome, OUTCOME_ABORTED);
    assert_string_equal(f->cause->reason, "duplicate key");
    assert_true(f->cause->begun);
    struct engine_stats stats;
    engine_stats(w->engine, &stats);
    assert_int_equal(stats.log_reserved_bytes, 0);
    world_free(w);
}

static void read_only_branches_need_no_decision(void **state) {
    (void)state;
    struct world *w = world_new(2, 10);
    (void)run(w, 2);
    (void)vote(w, 1, 1, VOTE_READ_ONLY);
    assert_string_equal(vote(w, 1, 2, VOTE_READ_ONLY), "outcome t1 committed; applied t1; release");
    (void)run(w, 2);
    (void)vote(w, 2, 1, VOTE_READ_ONLY);
    assert_string_equal(vote(w, 2, 2, VOTE_YES), "log commit t2 ticket 1");
    assert_string_equal(durable(w, 1), "COMMIT t2 p2; outcome t2 committed");
    world_free(w);
}

static void link_lost_before_the_vote_aborts(void **state) {
    (void)state;
    struct world *w = world_new(2, 10);
    (void)run(w, 2);
    (void)vote(w, 1, 1, VOTE_YES);
    assert_string_equal(agent(w, EV_AGENT_DOWN, 2, 2), "ABORT t1 p1; outcome t1 aborted");
    (void)join(w, 2, 22, 10);
    (void)agent(w, EV_AGENT_READY, 2, 22);
    assert_string_equal(vote_on(w, 1, 2, 2, VOTE_YES), "");  /* late, on the old link */
    assert_string_equal(vote_on(w, 1, 2, 22, VOTE_YES), ""); /* late, after all */
    assert_string_equal(inquire(w, 3, 1, 2, 1001, KEPT_NONE, false), "verdict abort");
    world_free(w);
}

static void link_lost_after_the_vote_does_not(void **state) {
    (void)state;
    struct world *w = world_new(2, 10);
    (void)run(w, 2);
    (void)vote(w, 1, 2, VOTE_YES);
    assert_string_equal(agent(w, EV_AGENT_DOWN, 2, 2), "");
    assert_string_equal(vote(w, 1, 1, VOTE_YES), "log commit t1 ticket 1");
    assert_string_equal(durable(w, 1), "COMMIT t1 p1; outcome t1 committed");
    assert_string_equal(join(w, 2, 22, 10), "COMMIT t1 p2");
    assert_string_equal(inquire(w, 3, 1, 2, 1001, KEPT_NONE, false), "verdict commit");
    world_free(w);
}

static void a_live_transaction_is_never_presumed_aborted(void **state) {
    (void)state;
    struct world *w = world_new(2, 10);
    (void)run(w, 2);
    assert_string_equal(inquire(w, 3, 1, 1, 1001, KEPT_NONE, false), "verdict pending");
    (void)vote(w, 1, 1, VOTE_YES);
    (void)vote(w, 1, 2, VOTE_YES);
    assert_string_equal(inquire(w, 3, 1, 1, 1001, KEPT_NONE, false), "verdict pending");
    (void)durable(w, 1);
    assert_string_equal(inquire(w, 3, 1, 1, 1001, KEPT_NONE, false), "verdict commit");
    assert_string_equal(inquire(w, 3, 1, 1, 4711, KEPT_NONE, false),
                        "report; verdict stranger"); /* the gid, another xid */
    world_free(w);
}

static void inquiries_about_the_past(void **state) {
    (void)state;
    struct world *w = world_new(1, 10);
    assert_string_equal(inquire(w, 2, 9, 1, 1009, KEPT_NONE, false), "verdict abort");
    assert_string_equal(inquire(w, 2, 9, 1, 1009, KEPT_NONE, true), "verdict abort");
    assert_string_equal(inquire(w, 2, 9, 1, 1009, KEPT_COMMIT, false), "verdict commit");
    assert_string_equal(inquire(w, 2, 9, 1, 1, KEPT_COMMIT, false), "report; verdict stranger");
    assert_string_equal(inquire(w, 2, 9, 1, 1009, KEPT_BEYOND_HORIZON, false), "verdict abort");
    assert_string_equal(inquire(w, 2, 9, 1, 1009, KEPT_BEYOND_HORIZON, true), "report; verdict human");
    assert_string_equal(inquire(w, 4, 1, 1, 1001, KEPT_FUTURE, false), "STOP 78");
    assert_string_equal(inquire(w, 3, 1, 1, 1001, KEPT_NONE, false), "STOP 78"); /* a sequence not handed out yet */
    world_free(w);
}

/* An agent that was away, and votes that somebody else has seen to since: how they ended the log may not know any more. */
static void what_vanished_beyond_the_horizon_is_not_called_aborted(void **state) {
    (void)state;
    struct world *w = world_new(1, 10);
    assert_string_equal(inquire_about(w, 2, 9, 1, 1009, KEPT_BEYOND_HORIZON, false, true), "verdict forgotten");
    assert_string_equal(inquire_about(w, 2, 9, 1, 1009, KEPT_BEYOND_HORIZON, true, true), "report; verdict human");
    assert_string_equal(inquire_about(w, 2, 9, 1, 1009, KEPT_NONE, false, true), "verdict abort");
    assert_string_equal(inquire_about(w, 2, 9, 1, 1009, KEPT_COMMIT, false, true), "verdict commit");
    world_free(w);
}

/* A stale copy of the log must not abort anything before the agent that knows better was heard. */
static void nothing_is_presumed_before_all_have_joined(void **state) {
    (void)state;
    struct world *w = calloc(1, sizeof *w);
    struct engine_config config = {.coordinator = "shop",
                                   .incarnation = "0a1b2c3d4e5f",
                                   .epoch = 3,
                                   .in_flight_max = 10,
                                   .waiting_max = 2,
                                   .finished_max = 10,
                                   .keys_max = 2,
                                   .resend_us = 5 * SECOND,
                                   .presume_wait_us = 10 * SECOND};
    w->engine = engine_new(&config);
    w->now_us = 1;
    for (uint32_t n = 1; n <= 2; n++) {
        struct engine_event event = {.kind = EV_PARTICIPANT};
        event.participant.number = n;
        event.participant.name = n == 1 ? "orders" : "stock";
        (void)step(w, &event);
    }
    (void)join(w, 1, 1, 10);
    assert_string_equal(inquire(w, 2, 9, 1, 1009, KEPT_NONE, false), "verdict pending");
    assert_string_equal(inquire(w, 2, 9, 1, 1009, KEPT_COMMIT, false), "verdict commit"); /* a decision is a decision */
    (void)agent(w, EV_AGENT_READY, 1, 1);
    (void)join(w, 2, 2, 10); /* Hello only: it may be about to refuse this log */
    assert_string_equal(inquire(w, 2, 9, 1, 1009, KEPT_NONE, false), "verdict pending");
    assert_false(engine_has_heard(w->engine, 2)); /* a saga of then that is not known here may be open in a newer log */
    assert_true(engine_has_heard(w->engine, 3));
    (void)agent(w, EV_AGENT_READY, 2, 2);
    assert_true(engine_has_heard(w->engine, 2));
    (void)agent(w, EV_AGENT_DOWN, 2, 2);
    assert_string_equal(inquire(w, 2, 9, 1, 1009, KEPT_NONE, false), "verdict abort"); /* it has been heard */
    engine_free(w->engine);
    w->engine = engine_new(&config);
    for (uint32_t n = 1; n <= 2; n++) {
        struct engine_event event = {.kind = EV_PARTICIPANT};
        event.participant.number = n;
        event.participant.name = n == 1 ? "orders" : "stock";
        (void)step(w, &event);
    }
    (void)join(w, 1, 1, 10);
    w->now_us += 10 * SECOND - 1;
    assert_string_equal(inquire(w, 2, 9, 1, 1009, KEPT_NONE, false), "verdict pending");
    assert_false(engine_has_heard(w->engine, 2));
    w->now_us += 1;
    assert_string_equal(inquire(w, 2, 9, 1, 1009, KEPT_NONE, false),
                        "report; verdict abort"); /* one dead agent delays, it does not block */
    assert_true(engine_has_heard(w->engine, 2));
    world_free(w);
}

static void a_deadline_aborts_before_the_decision(void **state) {
    (void)state;
    struct world *w = world_new(2, 10);
    (void)run(w, 2);
    (void)vote(w, 1, 1, VOTE_YES);
    assert_int_equal(engine_next_timer(w->engine), w->now_us + 30 * SECOND);
    w->now_us += 30 * SECOND;
    assert_string_equal(tick(w), "ABORT t1 p1; ABORT t1 p2; outcome t1 aborted");
    assert_string_equal(vote(w, 1, 2, VOTE_NO), "");
    w->now_us += 5 * SECOND;
    assert_string_equal(tick(w), "ABORT t1 p1"); /* unanswered: said again */
    assert_string_equal(done(w, 1, 1, DONE_IS_ABORTED), "applied t1; release");
    world_free(w);
}

static void decisions_are_repeated_until_answered(void **state) {
    (void)state;
    struct world *w = world_new(2, 10);
    (void)run(w, 2);
    (void)vote(w, 1, 1, VOTE_YES);
    (void)vote(w, 1, 2, VOTE_YES);
    (void)durable(w, 1);
    (void)done(w, 1, 1, DONE_IS_COMMITTED);
    w->now_us += 5 * SECOND;
    assert_string_equal(tick(w), "COMMIT t1 p2");
    assert_string_equal(tick(w), "");
    assert_string_equal(done(w, 1, 2, DONE_IS_COMMITTED), "log end t1; applied t1; release");
    assert_string_equal(done(w, 1, 2, DONE_IS_COMMITTED), ""); /* twice */
    world_free(w);
}

static void the_decision_is_bound_to_what_voted(void **state) {
    (void)state;
    struct world *w = world_new(2, 10);
    (void)run(w, 2);
    struct engine_event event = {.kind = EV_VOTE};
    event.vote.participant = 1;
    event.vote.link = 1;
    event.vote.epoch = 3;
    event.vote.sequence = 1;
    event.vote.kind = VOTE_YES;
    event.vote.id = (struct txn_branch_id){
        .system_id = 101, .xid = 5, .gid = "lockstep:other.0a1b2c3d4e5f.3.1:orders", .owner = "app"};
    assert_string_equal(step(w, &event), "ABORT t1 p1; ABORT t1 p2; outcome t1 aborted");
    world_free(w);
}

static void credits_are_taken_all_at_once(void **state) {
    (void)state;
    struct world *w = world_new(3, 1);
    assert_string_equal(run(w, 2), "accepted t1; work t1 p1 part 0 steps 1 last; work t1 p2 part 0 steps 1 last");
    assert_string_equal(run(w, 3), "accepted t2"); /* p3 is free, but it takes nothing before it can take all */
    struct engine_participant_info info;
    assert_true(engine_participant_info(w->engine, 3, &info));
    assert_int_equal(info.used, 0);
    assert_string_equal(run(w, 2), "accepted t3");
    assert_string_equal(run(w, 2), "refused busy 0"); /* waiting_max 2 */
    (void)vote(w, 1, 1, VOTE_YES);
    assert_string_equal(vote(w, 1, 2, VOTE_NO), "ABORT t1 p1; outcome t1 aborted");
    assert_string_equal(done(w, 1, 1, DONE_IS_ABORTED), "applied t1; release; work t2 p1 part 0 steps 1 last; work t2 "
                                                        "p2 part 0 steps 1 last; work t2 p3 part 0 steps 1 last");
    world_free(w);
}

static void waiting_ends_with_the_deadline_or_the_link(void **state) {
    (void)state;
    struct world *w = world_new(2, 1);
    (void)run(w, 2);
    (void)run(w, 2);
    (void)vote(w, 1, 1, VOTE_YES);
    (void)vote(w, 1, 2, VOTE_YES);
    (void)durable(w, 1);
    w->now_us += 30 * SECOND;
    assert_non_null(strstr(tick(w), "outcome t2 aborted; applied t2; release"));
    assert_false(engine_find_finished(w->engine, 3, 2)->cause->begun);
    (void)run(w, 2);
    assert_string_equal(agent(w, EV_AGENT_DOWN, 2, 2), "outcome t3 aborted; applied t3; release");
    assert_string_equal(run(w, 2), "refused offline 2");
    world_free(w);
}

static void one_participant_decides_alone(void **state) {
    (void)state;
    struct world *w = world_new(1, 10);
    assert_string_equal(run(w, 1), "accepted t1; work t1 p1 part 0 steps 1 last");
    assert_string_equal(engine_find(w->engine, 3, 1)->gtid, "shop.0a1b2c3d4e5f.3.1-1");
    assert_string_equal(vote(w, 1, 1, VOTE_COMMITTED), "outcome t1 committed; applied t1; release");
    (void)run(w, 1);
    assert_string_equal(vote(w, 2, 1, VOTE_NO), "outcome t2 aborted; applied t2; release");
    world_free(w);
}

static void one_participant_lost_is_pending_until_settled(void **state) {
    (void)state;
    struct world *w = world_new(1, 10);
    (void)run(w, 1);
    assert_string_equal(agent(w, EV_AGENT_DOWN, 1, 1), "pending t1");
    assert_int_equal(engine_find(w->engine, 3, 1)->outcome, OUTCOME_PENDING);
    assert_string_equal(join(w, 1, 1, 10), "settle t1 p1");
    assert_string_equal(done(w, 1, 1, DONE_IS_COMMITTED), "outcome t1 committed; applied t1; release");
    (void)agent(w, EV_AGENT_READY, 1, 1);
    (void)run(w, 1);
    w->now_us += 30 * SECOND;
    assert_string_equal(tick(w), "ABORT t2 p1; pending t2"); /* its COMMIT may be under way: only the row can say */
    assert_string_equal(done(w, 2, 1, DONE_IS_ABORTED), "outcome t2 aborted; applied t2; release");
    (void)run(w, 1);
    w->now_us += 30 * SECOND;
    (void)tick(w);
    assert_string_equal(vote(w, 3, 1, VOTE_COMMITTED), "outcome t3 committed; applied t3; release"); /* it was */
    world_free(w);
}

static void an_old_one_participant_transaction_is_asked(void **state) {
    (void)state;
    struct world *w = world_new(1, 10);
    struct engine_event event = {.kind = EV_SETTLE};
    event.settle.epoch = 1;
    event.settle.sequence = 5;
    event.settle.participant = 1;
    assert_string_equal(step(w, &event), "settle t5 p1");
    assert_string_equal(step(w, &event), ""); /* asked already */
    struct engine_event answer = {.kind = EV_DONE};
    answer.done.participant = 1;
    answer.done.link = 1;
    answer.done.epoch = 1;
    answer.done.sequence = 5;
    answer.done.kind = DONE_IS_COMMITTED;
    assert_string_equal(step(w, &answer), "outcome t5 committed; applied t5");
    assert_int_equal(engine_find_finished(w->engine, 1, 5)->outcome, OUTCOME_COMMITTED);
    world_free(w);
}

static void keys(void **state) {
    (void)state;
    struct world *w = world_new(2, 10);
    (void)run_with(w, 2, "k1", "doc");
    assert_string_equal(run_with(w, 2, "k1", "doc"), "joined e3 t1");
    assert_string_equal(run_with(w, 2, "k1", "other"), "refused key-mismatch 0");
    (void)vote(w, 1, 1, VOTE_NO);
    (void)done(w, 1, 2, DONE_IS_ABORTED);
    assert_non_null(strstr(run_with(w, 2, "k1", "doc"), "accepted t2")); /* aborted: the key may run again */
    (void)vote(w, 2, 1, VOTE_YES);
    (void)vote(w, 2, 2, VOTE_YES);
    engine_set_log_position(w->engine, 3, 2, 5000);
    (void)durable(w, 1);
    (void)done(w, 2, 1, DONE_IS_COMMITTED);
    (void)done(w, 2, 2, DONE_IS_COMMITTED);
    assert_string_equal(run_with(w, 2, "k1", "doc"), "joined e3 t2");
    (void)run_with(w, 2, "k2", "doc");
    assert_string_equal(run_with(w, 2, "k3", "doc"), "refused keys-full 0");
    struct engine_event horizon = {.kind = EV_HORIZON};
    horizon.horizon.log_position = 5000;
    (void)step(w, &horizon);
    assert_string_equal(run_with(w, 2, "k1", "doc"), "joined e3 t2"); /* inside the window */
    horizon.horizon.log_position = 5001;
    (void)step(w, &horizon);
    assert_non_null(strstr(run_with(w, 2, "k3", "doc"), "accepted"));
    world_free(w);
}

/* The log carries an open decision beyond the window; its key must not run again meanwhile. */
static void the_key_of_an_open_decision_stays(void **state) {
    (void)state;
    struct world *w = world_new(2, 10);
    (void)run_with(w, 2, "k1", "doc");
    (void)vote(w, 1, 1, VOTE_YES);
    (void)vote(w, 1, 2, VOTE_YES);
    engine_set_log_position(w->engine, 3, 1, 5000);
    (void)durable(w, 1);
    struct engine_event horizon = {.kind = EV_HORIZON};
    horizon.horizon.log_position = 9000;
    (void)step(w, &horizon);
    assert_string_equal(run_with(w, 2, "k1", "doc"), "joined e3 t1");
    (void)done(w, 1, 1, DONE_IS_COMMITTED);
    (void)done(w, 1, 2, DONE_IS_COMMITTED);
    horizon.horizon.log_position = 9001;
    (void)step(w, &horizon);
    assert_non_null(strstr(run_with(w, 2, "k1", "doc"), "accepted t2"));
    world_free(w);
}

static void a_key_found_at_its_participant(void **state) {
    (void)state;
    struct world *w = world_new(1, 10);
    (void)run_with(w, 1, "k1", "doc");
    struct engine_event event = {.kind = EV_VOTE};
    event.vote.participant = 1;
    event.vote.link = 1;
    event.vote.epoch = 3;
    event.vote.sequence = 1;
    event.vote.kind = VOTE_EXISTS;
    event.vote.existing_epoch = 2;
    event.vote.existing_sequence = 77;
    event.vote.existing_same_document = true;
    assert_string_equal(step(w, &event), "outcome t1 aborted; applied t1; release");
    assert_string_equal(run_with(w, 1, "k1", "doc"), "joined e2 t77");
    world_free(w);
}

static void hazards_are_kept_and_said(void **state) {
    (void)state;
    struct world *w = world_new(2, 10);
    (void)run(w, 2);
    (void)vote(w, 1, 1, VOTE_YES);
    (void)vote(w, 1, 2, VOTE_YES);
    (void)durable(w, 1);
    assert_string_equal(done(w, 1, 1, DONE_IS_ABORTED), "log hazard t1 p1; report; outcome t1 hazard");
    assert_string_equal(done(w, 1, 2, DONE_IS_COMMITTED), "release"); /* the others are still driven to their end */
    assert_int_equal(engine_find(w->engine, 3, 1)->state, TXN_HAZARD);
    (void)run(w, 2);
    assert_string_equal(vote(w, 2, 1, VOTE_BROKEN), "log hazard t2 p1; report; ABORT t2 p2; outcome t2 hazard");
    assert_string_equal(done(w, 2, 2, DONE_IS_ABORTED), "release");
    (void)run(w, 2);
    (void)vote(w, 3, 1, VOTE_YES);
    (void)vote(w, 3, 2, VOTE_NO);
    assert_string_equal(done(w, 3, 1, DONE_IS_COMMITTED), "log hazard t3 p1; report; outcome t3 hazard; release");
    world_free(w);
}

/* A server failed over and lost a branch whose transaction had ended long ago: proved again, found lost, kept, and
 * still answered from the log when the branch rises again. */
static void a_finished_transaction_turns_into_a_hazard(void **state) {
    (void)state;
    struct world *w = world_new(2, 10);
    struct engine_event event = {.kind = EV_DONE};
    event.done.participant = 1;
    event.done.link = 1;
    event.done.epoch = 2;
    event.done.sequence = 9;
    event.done.kind = DONE_IS_HAZARD;
    event.done.reason = "lost";
    assert_string_equal(step(w, &event), "log hazard t9 p1; report; outcome t9 hazard");
    assert_int_equal(engine_find(w->engine, 2, 9)->state, TXN_HAZARD);
    assert_string_equal(inquire(w, 2, 9, 1, 1009, KEPT_COMMIT, true), "verdict commit");
    assert_string_equal(inquire(w, 2, 9, 1, 4711, KEPT_COMMIT, true), "report; verdict stranger");
    assert_string_equal(step(w, &event), ""); /* said once */
    world_free(w);
}

static void steps_wait_for_each_other(void **state) {
    (void)state;
    struct world *w = world_new(2, 10);
    uint32_t numbers[] = {1, 2};
    uint16_t after_first[] = {0}, after_second[] = {1};
    struct engine_step_spec steps[] = {{.branch = 0},
                                       {.branch = 1, .after_count = 1, .after = after_first},
                                       {.branch = 0, .after_count = 1, .after = after_second}};
    struct engine_event event = {.kind = EV_RUN};
    event.run.participants = numbers;
    event.run.participant_count = 2;
    event.run.steps = steps;
    event.run.step_count = 3;
    event.run.deadline_us = w->now_us + SECOND;
    assert_string_equal(step(w, &event), "accepted t1; work t1 p1 part 0 steps 1");
    assert_string_equal(vote(w, 1, 1, VOTE_CONTINUE), "work t1 p2 part 0 steps 1 last");
    /* p2 prepares at once, since nothing of it waits; p1 goes on only when p2's step is known done */
    assert_string_equal(vote(w, 1, 2, VOTE_YES), "work t1 p1 part 1 steps 1 last");
    assert_string_equal(vote(w, 1, 1, VOTE_YES), "log commit t1 ticket 1");
    world_free(w);
}

static void log_space_is_reserved_before_work(void **state) {
    (void)state;
    struct world *w = world_new(2, 10);
    engine_set_log_room(w->engine, 2 * engine_log_need(2) - 1);
    assert_non_null(strstr(run(w, 2), "accepted t1"));
    assert_string_equal(run(w, 2), "refused log-full 0");
    assert_non_null(strstr(run(w, 1), "accepted t2")); /* no record, no space needed */
    world_free(w);
}

/* ------------------------------------------------- what sagas need of it */

static enum engine_saga_answer saga_begin(struct world *w, const char *key, const char *document, uint64_t need,
                                          struct engine_saga *saga) {
    static const uint32_t numbers[] = {1, 2};
    *saga = (struct engine_saga){.participants = numbers, .participant_count = 2, .log_need = need};
    if (key != NULL) {
        saga->has_key = true;
        memcpy(saga->key_digest, key, strlen(key));
        memcpy(saga->document_digest, document, strlen(document));
    }
    enum engine_saga_answer answer = engine_saga_begin(w->engine, saga);
    engine_check(w->engine);
    return answer;
}

static void a_saga_is_named_like_a_transaction(void **state) {
    (void)state;
    struct world *w = world_new(2, 10);
    struct engine_saga saga;
    assert_non_null(strstr(run(w, 1), "accepted t1"));
    assert_int_equal(saga_begin(w, NULL, NULL, 100, &saga), ENGINE_SAGA_BEGUN);
    assert_true(saga.epoch == 3 && saga.sequence == 2);
    assert_non_null(strstr(run(w, 1), "accepted t3"));
    world_free(w);
}

/* Its key is in the table of all: whoever comes again gets the saga, whoever comes with another document nothing. */
static void the_key_of_a_saga(void **state) {
    (void)state;
    struct world *w = world_new(2, 10);
    struct engine_saga saga;
    assert_int_equal(saga_begin(w, "k", "d", 100, &saga), ENGINE_SAGA_BEGUN);
    uint64_t sequence = saga.sequence;
    assert_int_equal(saga_begin(w, "k", "d", 100, &saga), ENGINE_SAGA_JOINED);
    assert_true(saga.epoch == 3 && saga.sequence == sequence);
    assert_int_equal(saga_begin(w, "k", "other", 100, &saga), ENGINE_SAGA_REFUSED);
    assert_int_equal(saga.why, REFUSE_KEY_MISMATCH);
    assert_string_equal(run_with(w, 2, "k", "other"), "refused key-mismatch 0");
    assert_int_equal(saga_begin(w, "l", "d", 100, &saga), ENGINE_SAGA_BEGUN);
    uint64_t before = sequence + 2;
    assert_int_equal(saga_begin(w, "m", "d", 100, &saga), ENGINE_SAGA_REFUSED); /* keys_max is 2 */
    assert_int_equal(saga.why, REFUSE_KEYS_FULL);
    assert_int_equal(saga_begin(w, NULL, NULL, 100, &saga), ENGINE_SAGA_BEGUN);
    assert_true(saga.sequence == before); /* what was refused has used no name */
    const uint8_t unknown[16] = "x", durable[16] = "k";
    engine_saga_key_durable(w->engine, unknown, 1000);
    engine_saga_key_durable(w->engine, durable, 1000);
    struct engine_event event = {.kind = EV_HORIZON};
    event.horizon.log_position = 2000; /* the log has let go of its begin: so has the table of its key */
    (void)step(w, &event);
    assert_int_equal(saga_begin(w, "m", "d", 100, &saga), ENGINE_SAGA_BEGUN);
    world_free(w);
}

/* The log carries the begin of an open saga beyond the window; its key must not begin another one beside it. */
static void the_key_of_an_open_saga_stays(void **state) {
    (void)state;
    struct world *w = world_new(2, 10);
    struct saga_step_spec one = {.participant = 1, .kind = SAGA_RETRIABLE};
    struct saga_spec spec = {.steps = &one, .step_count = 1, .deadline_us = SECOND};
    struct sagas *open = sagas_new(3, 1);
    struct saga_effects effects = {0};
    struct engine_saga saga;
    const uint8_t key[16] = "k";
    assert_int_equal(saga_begin(w, "k", "d", 100, &saga), ENGINE_SAGA_BEGUN);
    struct saga_event begin = {.kind = SAGA_EV_BEGIN, .saga = saga_new(open, saga.epoch, saga.sequence, &spec)};
    saga_step(open, &begin, &effects);
    engine_saga_key_durable(w->engine, key, 1000);
    struct engine_event event = {.kind = EV_HORIZON};
    event.horizon.log_position = 2000;
    event.horizon.sagas = open;
    (void)step(w, &event);
    assert_int_equal(saga_begin(w, "k", "d", 100, &saga), ENGINE_SAGA_JOINED);
    struct sagas *none = sagas_new(3, 1); /* it has ended */
    event.horizon.log_position = 3000;
    event.horizon.sagas = none;
    (void)step(w, &event);
    assert_int_equal(saga_begin(w, "k", "d", 100, &saga), ENGINE_SAGA_BEGUN);
    saga_effects_free(&effects);
    sagas_free(open);
    sagas_free(none);
    world_free(w);
}

/* What is kept for sagas is not there for transactions, and comes back. */
static void room_for_sagas(void **state) {
    (void)state;
    struct world *w = world_new(2, 10);
    struct engine_saga saga;
    uint64_t need = engine_log_need(2);
    engine_set_log_room(w->engine, 2 * need);
    assert_int_equal(saga_begin(w, NULL, NULL, need + 1, &saga), ENGINE_SAGA_BEGUN);
    assert_string_equal(run(w, 2), "refused log-full 0");
    assert_int_equal(saga_begin(w, "k", "d", need, &saga), ENGINE_SAGA_REFUSED);
    assert_int_equal(saga.why, REFUSE_LOG_FULL);
    assert_false(engine_saga_reserve(w->engine, 3 * need));
    assert_true(engine_saga_reserve(w->engine, need - 1));
    engine_set_log_room(w->engine, 0); /* marks are not reserved for: until the next segment less is left than promised */
    assert_false(engine_saga_reserve(w->engine, 1));
    assert_true(engine_saga_reserve(w->engine, 0)); /* an operator, whose act has its room */
    engine_set_log_room(w->engine, 2 * need);
    engine_saga_release(w->engine, need - 1);
    engine_saga_release(w->engine, need + 1);
    engine_saga_adopt(w->engine, 3 * need); /* found in the log: more than there is */
    assert_string_equal(run(w, 2), "refused log-full 0");
    engine_saga_release(w->engine, 3 * need);
    assert_non_null(strstr(run(w, 2), "accepted"));
    world_free(w);
}

static void a_saga_begins_with_all_participants_and_not_at_the_end(void **state) {
    (void)state;
    struct world *w = world_new(2, 10);
    struct engine_saga saga;
    (void)agent(w, EV_AGENT_DOWN, 2, 2);
    assert_int_equal(saga_begin(w, "k", "d", 100, &saga), ENGINE_SAGA_REFUSED);
    assert_true(saga.why == REFUSE_OFFLINE && saga.participant == 2);
    (void)join(w, 2, 3, 10);
    assert_int_equal(saga_begin(w, "k", "d", 100, &saga), ENGINE_SAGA_BEGUN);
    struct engine_event event = {.kind = EV_DRAIN};
    (void)step(w, &event);
    assert_int_equal(saga_begin(w, NULL, NULL, 100, &saga), ENGINE_SAGA_REFUSED);
    assert_int_equal(saga.why, REFUSE_DRAINING);
    assert_int_equal(saga_begin(w, "k", "d", 100, &saga), ENGINE_SAGA_JOINED); /* what is there may be asked for */
    world_free(w);
}

static void draining_refuses_and_finishes(void **state) {
    (void)state;
    struct world *w = world_new(2, 10);
    (void)run(w, 2);
    struct engine_event event = {.kind = EV_DRAIN};
    (void)step(w, &event);
    assert_string_equal(run(w, 2), "refused draining 0");
    (void)vote(w, 1, 1, VOTE_YES);
    assert_string_equal(vote(w, 1, 2, VOTE_YES), "log commit t1 ticket 1");
    world_free(w);
}

static void recovered_decisions_are_driven(void **state) {
    (void)state;
    struct world *w = world_new(2, 10);
    (void)agent(w, EV_AGENT_DOWN, 1, 1);
    (void)agent(w, EV_AGENT_DOWN, 2, 2);
    struct txn_branch_id ids[] = {{.participant = 1, .system_id = 101, .xid = 11, .gid = "g1", .owner = "app"},
                                  {.participant = 2, .system_id = 102, .xid = 12, .gid = "g2", .owner = "app"}};
    struct engine_event event = {.kind = EV_RECOVER_TXN};
    event.recover_txn.epoch = 2;
    event.recover_txn.sequence = 9;
    event.recover_txn.branches = ids;
    event.recover_txn.branch_count = 2;
    assert_string_equal(step(w, &event), "");
    assert_string_equal(join(w, 1, 11, 10), "COMMIT t9 p1");
    assert_string_equal(join(w, 2, 12, 10), "COMMIT t9 p2");
    assert_string_equal(inquire(w, 2, 9, 1, 11, KEPT_COMMIT, false), "verdict commit");
    world_free(w);
}

static void a_long_backlog_is_sent_in_portions(void **state) {
    (void)state;
    struct world *w = world_new(1, 10);
    (void)agent(w, EV_AGENT_DOWN, 1, 1);
    for (uint64_t t = 1; t <= 20000; t++) {
        struct txn_branch_id id = {.participant = 1, .system_id = 101, .xid = t, .gid = "g", .owner = "app"};
        struct engine_event event = {.kind = EV_RECOVER_TXN, .now_us = w->now_us};
        event.recover_txn.epoch = 2;
        event.recover_txn.sequence = t;
        event.recover_txn.branches = &id;
        event.recover_txn.branch_count = 1;
        engine_step(w->engine, &event, &w->effects);
    }
    (void)join(w, 1, 9, 10);
    assert_int_equal(w->effects.count, 8192);
    for (uint64_t t = 1; t <= 20000; t++) {
        struct engine_event event = {.kind = EV_DONE, .now_us = w->now_us};
        event.done.participant = 1;
        event.done.link = 9;
        event.done.epoch = 2;
        event.done.sequence = t;
        event.done.kind = DONE_IS_COMMITTED;
        engine_step(w->engine, &event, &w->effects);
    }
    engine_check(w->engine);
    struct engine_stats stats;
    engine_stats(w->engine, &stats);
    assert_int_equal(stats.in_flight, 0);
    world_free(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(commit_waits_for_the_log),
        cmocka_unit_test(one_sync_releases_a_group),
        cmocka_unit_test(a_deadline_is_worth_repeating_a_cancel_is_not),
        cmocka_unit_test(a_no_aborts_without_the_log),
        cmocka_unit_test(read_only_branches_need_no_decision),
        cmocka_unit_test(link_lost_before_the_vote_aborts),
        cmocka_unit_test(link_lost_after_the_vote_does_not),
        cmocka_unit_test(a_live_transaction_is_never_presumed_aborted),
        cmocka_unit_test(inquiries_about_the_past),
        cmocka_unit_test(what_vanished_beyond_the_horizon_is_not_called_aborted),
        cmocka_unit_test(nothing_is_presumed_before_all_have_joined),
        cmocka_unit_test(a_deadline_aborts_before_the_decision),
        cmocka_unit_test(decisions_are_repeated_until_answered),
        cmocka_unit_test(the_decision_is_bound_to_what_voted),
        cmocka_unit_test(credits_are_taken_all_at_once),
        cmocka_unit_test(waiting_ends_with_the_deadline_or_the_link),
        cmocka_unit_test(one_participant_decides_alone),
        cmocka_unit_test(one_participant_lost_is_pending_until_settled),
        cmocka_unit_test(an_old_one_participant_transaction_is_asked),
        cmocka_unit_test(keys),
        cmocka_unit_test(the_key_of_an_open_decision_stays),
        cmocka_unit_test(a_key_found_at_its_participant),
        cmocka_unit_test(hazards_are_kept_and_said),
        cmocka_unit_test(a_finished_transaction_turns_into_a_hazard),
        cmocka_unit_test(steps_wait_for_each_other),
        cmocka_unit_test(log_space_is_reserved_before_work),
        cmocka_unit_test(a_saga_is_named_like_a_transaction),
        cmocka_unit_test(the_key_of_a_saga),
        cmocka_unit_test(the_key_of_an_open_saga_stays),
        cmocka_unit_test(room_for_sagas),
        cmocka_unit_test(a_saga_begins_with_all_participants_and_not_at_the_end),
        cmocka_unit_test(draining_refuses_and_finishes),
        cmocka_unit_test(recovered_decisions_are_driven),
        cmocka_unit_test(a_long_backlog_is_sent_in_portions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
