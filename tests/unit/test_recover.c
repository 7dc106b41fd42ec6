/*
 * Hazard: recovery drops an open decision, drives a finished one for ever, forgets a key or a hazard, or believes a
 * senseless record. Method: records in log order, then what the new engine holds. If the code were wrong the wrong set
 * would be open.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "coordinator/core/recover.h"
#include "lockstep.pb-c.h"

static uint64_t position;

static enum ls_status put(struct recovery *r, enum dlog_type type, const ProtobufCMessage *message) {
    uint8_t buffer[4096];
    size_t length = protobuf_c_message_pack(message, buffer);
    struct ls_error err = {0};
    return recovery_record(r, type, position += 100, buffer, length, &err);
}

static enum ls_status put_participant(struct recovery *r, uint32_t number, char *name) {
    Lockstep__LogParticipant record = LOCKSTEP__LOG_PARTICIPANT__INIT;
    record.number = number;
    record.name = name;
    record.has_system_id = record.has_timeline = 1;
    record.system_id = 7000 + number;
    record.timeline = 1;
    return put(r, DLOG_PARTICIPANT, &record.base);
}

static enum ls_status put_commit_with(struct recovery *r, uint32_t epoch, uint64_t sequence, uint64_t xid, bool key,
                                      bool copy) {
    char owner[] = "app", gid[] = "lockstep:shop.0a1b2c3d4e5f.1.1:orders", app[] = "app/checkout";
    Lockstep__LogBranch branch = LOCKSTEP__LOG_BRANCH__INIT, *branches[] = {&branch};
    branch.participant = 1;
    branch.system_id = 7001;
    branch.xid = xid;
    branch.lsn = 1;
    branch.timeline = 1;
    branch.owner = owner;
    branch.gid = gid;
    Lockstep__LogCommit record = LOCKSTEP__LOG_COMMIT__INIT;
    record.epoch = epoch;
    record.sequence = sequence;
    record.n_branches = 1;
    record.branches = branches;
    record.app = app;
    record.has_relogged = record.relogged = copy;
    uint8_t digest[16] = {(uint8_t)sequence}, document[16] = {9};
    if (key) {
        record.has_key_digest = record.has_document_digest = 1;
        record.key_digest = (ProtobufCBinaryData){16, digest};
        record.document_digest = (ProtobufCBinaryData){16, document};
    }
    return put(r, DLOG_COMMIT, &record.base);
}

static enum ls_status put_commit(struct recovery *r, uint64_t sequence) {
    return put_commit_with(r, 1, sequence, 500 + sequence, false, false);
}

static void put_end(struct recovery *r, uint64_t sequence) {
    Lockstep__LogEnd record = LOCKSTEP__LOG_END__INIT;
    record.epoch = 1;
    record.sequence = sequence;
    assert_int_equal(put(r, DLOG_END, &record.base), LS_OK);
}

static void put_epoch(struct recovery *r, uint32_t epoch) {
    char name[] = "shop", incarnation[] = "0a1b2c3d4e5f", version[] = "1";
    Lockstep__LogEpoch record = LOCKSTEP__LOG_EPOCH__INIT;
    record.coordinator = name;
    record.incarnation = incarnation;
    record.version = version;
    record.epoch = epoch;
    assert_int_equal(put(r, DLOG_EPOCH, &record.base), LS_OK);
}

static uint32_t app_number(void *context, const char *app) {
    (void)context;
    return strcmp(app, "app/checkout") == 0 ? 5 : 0;
}

static struct engine *engine_after(const struct recovery *r, struct engine_effects *effects) {
    struct engine_config config = {.coordinator = "shop",
                                   .incarnation = "0a1b2c3d4e5f",
                                   .epoch = recovery_last_epoch(r) + 1,
                                   .in_flight_max = 10,
                                   .waiting_max = 10,
                                   .finished_max = 10,
                                   .keys_max = 10,
                                   .resend_us = 1000000};
    struct engine *e = engine_new(&config);
    recovery_apply(r, e, app_number, NULL, 1, effects);
    engine_check(e);
    return e;
}

static void open_decisions_and_no_others(void **state) {
    (void)state;
    struct recovery *r = recovery_new();
    put_epoch(r, 1);
    assert_int_equal(put_participant(r, 1, (char[]){"orders"}), LS_OK);
    assert_int_equal(put_commit(r, 1), LS_OK);
    assert_int_equal(put_commit(r, 2), LS_OK);
    put_end(r, 1);
    put_end(r, 77); /* its decision left the window long ago */
    assert_int_equal(put_commit_with(r, 1, 2, 502, false, true), LS_OK);
    assert_int_equal(put_commit(r, 3), LS_OK);
    put_epoch(r, 2);
    assert_int_equal(recovery_open_count(r), 2);
    struct engine_effects effects = {0};
    struct engine *e = engine_after(r, &effects);
    assert_null(engine_find(e, 1, 1));
    assert_int_equal(engine_find(e, 1, 2)->state, TXN_COMMITTING);
    assert_int_equal(engine_find(e, 1, 2)->branches[0].id.xid, 502);
    assert_int_equal(engine_find(e, 1, 2)->app, 5);
    assert_int_equal(engine_find(e, 1, 3)->outcome, OUTCOME_COMMITTED);
    assert_int_equal(engine_next(e, NULL)->sequence, 2); /* oldest first */
    engine_free(e);
    engine_effects_free(&effects);
    recovery_free(r);
}

static void keys_come_back_also_of_ended_ones(void **state) {
    (void)state;
    struct recovery *r = recovery_new();
    put_epoch(r, 1);
    (void)put_participant(r, 1, (char[]){"orders"});
    assert_int_equal(put_commit_with(r, 1, 4, 504, true, false), LS_OK);
    put_end(r, 4);
    struct engine_effects effects = {0};
    struct engine *e = engine_after(r, &effects);
    struct engine_event up = {.kind = EV_AGENT_UP, .now_us = 2};
    up.agent_up.participant = up.agent_up.credits = 1;
    up.agent_up.link = 1;
    engine_step(e, &up, &effects);
    uint32_t number = 1;
    struct engine_step_spec step = {0};
    struct engine_event run = {.kind = EV_RUN, .now_us = 3};
    run.run.participants = &number;
    run.run.participant_count = run.run.step_count = 1;
    run.run.steps = &step;
    run.run.deadline_us = 1000;
    run.run.has_key = true;
    run.run.key_digest[0] = 4;
    run.run.document_digest[0] = 9;
    engine_step(e, &run, &effects);
    assert_int_equal(effects.list[0].kind, EF_JOINED);
    assert_int_equal(effects.list[0].joined.sequence, 4);
    engine_free(e);
    engine_effects_free(&effects);
    recovery_free(r);
}

static void hazards_are_not_driven_again(void **state) {
    (void)state;
    struct recovery *r = recovery_new();
    put_epoch(r, 1);
    (void)put_participant(r, 1, (char[]){"orders"});
    (void)put_commit(r, 1);
    char reason[] = "rolled back by hand";
    Lockstep__LogHazard hazard = LOCKSTEP__LOG_HAZARD__INIT;
    hazard.epoch = 1;
    hazard.sequence = 1;
    hazard.participant = 1;
    hazard.reason = reason;
    assert_int_equal(put(r, DLOG_HAZARD, &hazard.base), LS_OK);
    struct engine_effects effects = {0};
    struct engine *e = engine_after(r, &effects);
    assert_int_equal(engine_find(e, 1, 1)->state, TXN_HAZARD);
    assert_int_equal(engine_find(e, 1, 1)->outcome, OUTCOME_HAZARD);
    engine_free(e);
    engine_effects_free(&effects);
    recovery_free(r);
}

/* The decision had ended before its branch was found broken: the hazard is shown again after a restart all the same. */
static void hazards_without_an_open_decision(void **state) {
    (void)state;
    struct recovery *r = recovery_new();
    put_epoch(r, 1);
    (void)put_participant(r, 1, (char[]){"orders"});
    (void)put_commit(r, 1);
    put_end(r, 1);
    char reason[] = "lost in a failover";
    Lockstep__LogHazard hazard = LOCKSTEP__LOG_HAZARD__INIT;
    hazard.epoch = hazard.participant = 1;
    hazard.sequence = 1;
    hazard.reason = reason;
    assert_int_equal(put(r, DLOG_HAZARD, &hazard.base), LS_OK);
    assert_int_equal(put(r, DLOG_HAZARD, &hazard.base), LS_OK); /* and its copy */
    struct engine_effects effects = {0};
    struct engine *e = engine_after(r, &effects);
    assert_int_equal(engine_find(e, 1, 1)->state, TXN_HAZARD);
    assert_int_equal(engine_find(e, 1, 1)->branch_count, 1);
    engine_free(e);
    engine_effects_free(&effects);
    recovery_free(r);
}

static void acceptances_are_found(void **state) {
    (void)state;
    struct recovery *r = recovery_new();
    (void)put_participant(r, 1, (char[]){"orders"});
    (void)put_participant(r, 2, (char[]){"orders2"});
    char who[] = "admin/eve", act[] = "accept", reason[] = "disk lost",
         subject[LS_PARTICIPANT_MAX + LS_INCARNATION_LEN + 2];
    recovery_accept_subject("orders", "ffffffffffff", subject);
    Lockstep__LogAudit audit = LOCKSTEP__LOG_AUDIT__INIT;
    audit.who = who;
    audit.act = act;
    audit.subject = subject;
    audit.reason = reason;
    assert_int_equal(put(r, DLOG_AUDIT, &audit.base), LS_OK);
    assert_string_equal(recovery_participant(r, 0)->accepted_incarnation, "ffffffffffff");
    assert_string_equal(recovery_participant(r, 1)->accepted_incarnation, "");
    recovery_accept_subject("late", "eeeeeeeeeeee", subject);
    assert_int_equal(put(r, DLOG_AUDIT, &audit.base), LS_OK);
    (void)put_participant(r, 3, (char[]){"late"}); /* its record comes after the acceptance */
    assert_string_equal(recovery_participant(r, 2)->accepted_incarnation, "eeeeeeeeeeee");
    recovery_free(r);
}

static void senseless_records_are_refused(void **state) {
    (void)state;
    struct recovery *r = recovery_new();
    struct ls_error err = {0};
    const uint8_t garbage[] = {0xff, 0xff, 0xff, 0xff};
    for (int type = DLOG_EPOCH; type <= DLOG_SAGA_BEGIN; type++) {
        assert_int_equal(recovery_record(r, (enum dlog_type)type, 100, garbage, sizeof garbage, &err), LS_ERR_CORRUPT);
    }
    assert_int_equal(recovery_record(r, (enum dlog_type)99, 100, garbage, 0, &err), LS_ERR_CORRUPT);
    assert_int_equal(put_commit_with(r, 1, 1, 0, false, false), LS_ERR_CORRUPT); /* xid 0 */
    assert_int_equal(put_commit_with(r, 0, 1, 1, false, false), LS_ERR_CORRUPT); /* epoch 0 */
    assert_int_equal(put_participant(r, 1, (char[]){"orders"}), LS_OK);
    assert_int_equal(put_participant(r, 1, (char[]){"other"}), LS_ERR_CORRUPT); /* a number is never given to another */
    assert_int_equal(put_participant(r, 10000, (char[]){"orders"}), LS_ERR_CORRUPT);
    recovery_free(r);
}

/* Hazard: a sighting outlives its list, or is lost on the way through the log (docs/log-format.md). */
static void the_newest_record_holds_all_sightings(void **state) {
    (void)state;
    struct recovery *r = recovery_new();
    Lockstep__LogSighting first = LOCKSTEP__LOG_SIGHTING__INIT, second = first, *sightings[] = {&first, &second};
    Lockstep__LogParticipant record = LOCKSTEP__LOG_PARTICIPANT__INIT;
    char name[] = "orders";
    first.epoch = second.epoch = 1;
    first.sequence = 7;
    second.sequence = 9;
    first.lsn = second.lsn = 500;
    record.number = 1;
    record.name = name;
    record.n_sightings = 2;
    record.sightings = sightings;
    assert_int_equal(put(r, DLOG_PARTICIPANT, &record.base), LS_OK);
    assert_int_equal(recovery_participant(r, 0)->sighting_count, 2);
    record.sightings = &sightings[1];
    record.n_sightings = 1;
    assert_int_equal(put(r, DLOG_PARTICIPANT, &record.base), LS_OK);
    assert_int_equal(recovery_participant(r, 0)->sighting_count, 1);
    assert_int_equal(recovery_participant(r, 0)->sightings[0].sequence, 9);
    assert_int_equal(recovery_participant(r, 0)->sightings[0].lsn, 500);
    assert_int_equal(put_participant(r, 1, name), LS_OK); /* of a program that knows of none */
    assert_int_equal(recovery_participant(r, 0)->sighting_count, 0);
    recovery_free(r);
}

static void many_open_decisions(void **state) {
    (void)state;
    struct recovery *r = recovery_new();
    put_epoch(r, 1);
    (void)put_participant(r, 1, (char[]){"orders"});
    for (uint64_t s = 1; s <= 100000; s++) {
        assert_int_equal(put_commit(r, s), LS_OK);
    }
    struct engine_effects effects = {0};
    struct engine *e = engine_after(r, &effects);
    struct engine_stats stats;
    engine_stats(e, &stats);
    assert_int_equal(stats.in_doubt, 100000);
    engine_free(e);
    engine_effects_free(&effects);
    recovery_free(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(open_decisions_and_no_others),
        cmocka_unit_test(keys_come_back_also_of_ended_ones),
        cmocka_unit_test(hazards_are_not_driven_again),
        cmocka_unit_test(hazards_without_an_open_decision),
        cmocka_unit_test(acceptances_are_found),
        cmocka_unit_test(senseless_records_are_refused),
        cmocka_unit_test(the_newest_record_holds_all_sightings),
        cmocka_unit_test(many_open_decisions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
