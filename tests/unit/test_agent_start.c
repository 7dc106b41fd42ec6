/*
 * Hazards: an agent that obeys the wrong coordinator or the wrong log (2.9), takes Work while leftovers of its earlier
 * life can still prepare (1.5), races live transactions with its sweep (1.12), or rolls back what is not its own.
 * Method: scripts. Each step is an event, and the lines that follow are all effects of that step; agent_check() runs
 * after each.
 */
#include "unit.h"

#include "agent_rig.h"

static void start(struct rig *rig) {
    struct agent_event event = rig_event(AEV_START);
    rig_step(rig, &event);
}

static void lock(struct rig *rig, enum agent_lock_result result) {
    struct agent_event event = rig_event(AEV_DB_LOCK);
    event.lock.result = result;
    rig_answer(rig, AEV_DB_LOCK, event);
}

static void cleaned(struct rig *rig, bool ok) {
    struct agent_event event = rig_event(AEV_DB_CLEAN);
    event.clean.ok = ok;
    rig_answer(rig, AEV_DB_CLEAN, event);
}

static void fence_stored(struct rig *rig, bool ok) {
    struct agent_event event = rig_event(AEV_DB_FENCE);
    event.fence_stored.ok = ok;
    rig_answer(rig, AEV_DB_FENCE, event);
    if (ok) {
        rig->has_stored = true;
        rig->stored = rig->fence;
    }
}

static void scanned(struct rig *rig, const struct agent_prepared *rows, uint32_t count, bool more) {
    struct agent_event event = rig_event(AEV_DB_SCAN);
    event.scan.ok = true;
    event.scan.server = rig->server;
    event.scan.rows = rows;
    event.scan.count = count;
    event.scan.more = more;
    rig_answer(rig, AEV_DB_SCAN, event);
}

static void answer(struct rig *rig, const struct agent_answer_item *items, uint32_t count) {
    struct agent_event event = rig_event(AEV_ANSWER);
    event.answer.token = rig->token;
    event.answer.items = items;
    event.answer.count = count;
    rig_frame(rig, event);
}

static void ping(struct rig *rig) {
    struct agent_event event = rig_event(AEV_PING);
    event.ping.token = 7;
    rig_frame(rig, event);
}

/* So much time passes, with a ping now and then; the last step is the tick at the end. */
static void wait_us(struct rig *rig, uint64_t us) {
    while (us > 3000000) {
        rig_tick(rig, 3000000);
        ping(rig);
        us -= 3000000;
    }
    rig_tick(rig, us);
}

/* Up to Hello. */
static void greet(struct rig *rig) {
    start(rig);
    lock(rig, AGENT_LOCK_TAKEN);
    cleaned(rig, true);
    rig_identity(rig);
    rig_link_up(rig);
    rig_identity(rig);
}

/* Link lost, and a new one up to Hello. */
static void greet_again(struct rig *rig) {
    rig_next_timer(rig);
    rig_expect(rig, "dial\n");
    rig_link_up(rig);
    rig_expect(rig, "identity\n");
    rig_identity(rig);
}

/* ------------------------------------------------------------------ start-up order */

static void the_order_of_starting(void **state) {
    (void)state;
    struct rig rig;
    rig_new(&rig, NULL);
    start(&rig);
    rig_expect(&rig, "lock\n");
    lock(&rig, AGENT_LOCK_TAKEN);
    rig_expect(&rig, "clean\n");
    cleaned(&rig, true);
    rig_expect(&rig, "identity\n");
    rig_identity(&rig);
    rig_expect(&rig, "dial\n");
    rig_link_up(&rig);
    rig_expect(&rig, "identity\n");
    rig_identity(&rig);
    rig_expect(&rig, "hello 64 fence=-\n");
    rig_welcome(&rig, false, 0, NULL);
    rig_expect(&rig, "fence 100 durable\n");
    fence_stored(&rig, true);
    rig_expect(&rig, "scan\n");
    scanned(&rig, NULL, 0, false);
    rig_expect(&rig, "ready\n");
    rig_free(&rig);
}

static void a_second_agent_stops(void **state) {
    (void)state;
    struct rig rig;
    rig_new(&rig, NULL);
    start(&rig);
    uint64_t began_us = rig.now_us;
    lock(&rig, AGENT_LOCK_HELD);
    rig_expect(&rig, "");
    for (;;) {
        rig_next_timer(&rig);
        rig_expect(&rig, "lock\n");
        lock(&rig, AGENT_LOCK_HELD);
        if (rig.trace[0] != '\0') break;
    }
    rig_expect(
        &rig,
        "stop 78: another agent for participant orders is connected to this database: it holds the advisory lock\n");
    assert_true(rig.now_us - began_us >= rig.config.lock_wait_us &&
                rig.now_us - began_us < 2 * rig.config.lock_wait_us);
    assert_true(agent_next_timer(rig.agent) == AGENT_NEVER);
    rig_free(&rig);
}

static void a_dead_life_gives_the_lock_back(void **state) {
    (void)state;
    struct rig rig;
    rig_new(&rig, NULL);
    start(&rig);
    lock(&rig, AGENT_LOCK_HELD);
    rig_next_timer(&rig);
    lock(&rig, AGENT_LOCK_TAKEN);
    rig_expect(&rig, "clean\n");
    rig_free(&rig);
}

static void without_a_server_it_waits_for_one(void **state) {
    (void)state;
    struct rig rig;
    rig_new(&rig, NULL);
    start(&rig);
    uint64_t last_us = 0;
    for (int i = 0; i < 20; i++) {
        uint64_t before_us = rig.now_us;
        lock(&rig, AGENT_LOCK_FAILED);
        rig_expect(&rig, "");
        rig_next_timer(&rig);
        rig_expect(&rig, "lock\n");
        last_us = rig.now_us - before_us;
        assert_true(last_us >= 25000 && last_us <= 5000000);
    }
    assert_true(last_us >= 2500000);
    lock(&rig, AGENT_LOCK_TAKEN);
    cleaned(&rig, false);
    rig_next_timer(&rig);
    rig_expect(&rig, "clean\n");
    cleaned(&rig, true);
    struct agent_event event = rig_event(AEV_DB_IDENTITY);
    rig_answer(&rig, AEV_DB_IDENTITY, event);
    rig_expect(&rig, "");
    rig_next_timer(&rig);
    rig_expect(&rig, "identity\n");
    rig_free(&rig);
}

static void no_prepared_transactions_stop_it(void **state) {
    (void)state;
    struct rig rig;
    rig_new(&rig, NULL);
    rig.max_prepared = 0;
    start(&rig);
    lock(&rig, AGENT_LOCK_TAKEN);
    cleaned(&rig, true);
    rig_identity(&rig);
    rig_expect(&rig, "stop 78: max_prepared_transactions is 0: alter system set max_prepared_transactions = 200, then "
                     "restart the server\n");
    rig_free(&rig);
}

static void dialling_backs_off(void **state) {
    (void)state;
    struct rig rig;
    rig_new(&rig, NULL);
    start(&rig);
    lock(&rig, AGENT_LOCK_TAKEN);
    cleaned(&rig, true);
    rig_identity(&rig);
    uint64_t waited_us = 0;
    for (int i = 0; i < 12; i++) {
        uint64_t before_us = rig.now_us;
        struct agent_event event = rig_event(AEV_LINK_DOWN);
        rig_step(&rig, &event);
        rig_expect(&rig, "");
        rig_next_timer(&rig);
        rig_expect(&rig, "dial\n");
        waited_us = rig.now_us - before_us;
        assert_true(waited_us >= 50000 && waited_us <= 5000000);
    }
    assert_true(waited_us >= 2500000);
    rig_free(&rig);
}

static void a_lost_control_session_begins_again(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    rig_prepare(&rig, 1, 11);
    rig_work(&rig, 2, 0, true);
    struct agent_event event = rig_event(AEV_CONTROL_LOST);
    rig_step(&rig, &event);
    rig_expect(&rig, "close\nkill 2\n"); /* branch 1 has voted yes: it stays */
    rig_next_timer(&rig);
    rig_expect(&rig, "lock\n");
    lock(&rig, AGENT_LOCK_TAKEN);
    rig_expect(&rig, "clean\n");
    cleaned(&rig, true);
    rig_identity(&rig);
    rig_expect(&rig, "dial\n");
    assert_int_equal(agent_find(rig.agent, rig_gtid(1, 0))->state, AGB_PREPARED);
    rig_free(&rig);
}

/* Pauses grow while the server is away; once it is back they would only hold the locks longer. */
static void pauses_end_when_the_server_is_back(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    rig_prepare(&rig, 1, 11);
    rig_commit(&rig, 1, 11);
    struct agent_event lost = rig_event(AEV_DB_FINISH);
    lost.finish.answer.lost = true;
    rig_answer(&rig, AEV_DB_FINISH, lost);
    for (int i = 0; i < 5; i++) {
        while (strstr(rig.trace, "prove 1 xid=11\n") == NULL) rig_next_timer(&rig);
        rig_proved(&rig, false, 0, AGENT_XACT_IN_PROGRESS);
    }
    struct agent_event event = rig_event(AEV_CONTROL_LOST);
    rig_step(&rig, &event);
    rig_expect(&rig, "close\n");
    rig_next_timer(&rig);
    rig_expect(&rig, "lock\n");
    lock(&rig, AGENT_LOCK_TAKEN);
    cleaned(&rig, true);
    rig_identity(&rig);
    rig_expect(&rig, "dial\n");
    rig_tick(&rig, 0);
    rig_expect(&rig, "prove 1 xid=11\n");
    rig_free(&rig);
}

static void what_waits_for_the_server_goes_on_when_it_is_back(void **state) {
    (void)state;
    struct rig rig;
    struct agent_event event = rig_event(AEV_DB_FINISH);
    rig_serve(&rig, NULL);
    rig_prepare(&rig, 1, 11);
    rig_commit(&rig, 1, 11);
    event.finish.answer.lost = true;
    rig_answer(&rig, AEV_DB_FINISH, event);
    event = rig_event(AEV_CONTROL_LOST);
    rig_step(&rig, &event);
    for (int i = 0; i < 40; i++) { /* away for a while: both the lock and the proof are tried less and less often */
        rig_next_timer(&rig);
        if (strstr(rig.trace, "prove") != NULL) {
            event = rig_event(AEV_DB_PROVE);
            rig_answer(&rig, AEV_DB_PROVE, event);
        } else if (strstr(rig.trace, "lock") != NULL) {
            lock(&rig, AGENT_LOCK_FAILED);
        }
    }
    while (strstr(rig.trace, "lock") == NULL) {
        rig_next_timer(&rig);
        if (strstr(rig.trace, "prove") != NULL) {
            event = rig_event(AEV_DB_PROVE);
            rig_answer(&rig, AEV_DB_PROVE, event);
        }
    }
    lock(&rig, AGENT_LOCK_TAKEN);
    cleaned(&rig, true);
    rig_identity(&rig);
    rig_expect(&rig, "dial\n");
    assert_true(agent_next_timer(rig.agent) <= rig.now_us);
    rig_tick(&rig, 0);
    rig_expect(&rig, "prove 1 xid=11\n");
    rig_free(&rig);
}

/* What the link itself carries, and what is for the relay, shows the coordinator's fence. */
static void the_fence_of_frames_that_say_nothing_else(void **state) {
    (void)state;
    const enum agent_event_kind kinds[] = {AEV_PING, AEV_PONG, AEV_RELAYED};
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        struct rig rig;
        rig_serve(&rig, NULL);
        rig_frame(&rig, rig_event(kinds[i]));
        rig_expect(&rig, kinds[i] == AEV_PING ? "pong 0\n" : "");
        rig.fence.epoch++;
        rig_frame(&rig, rig_event(kinds[i]));
        rig_expect(&rig, "close: another epoch on the same link\n");
        rig_free(&rig);
    }
}

/* It may take a while until a new name is in the log, and links are pinged meanwhile. */
static void a_ping_before_welcome(void **state) {
    (void)state;
    struct rig rig;
    rig_new(&rig, NULL);
    greet(&rig);
    rig_tick(&rig, 4000000);
    ping(&rig);
    rig_expect(&rig, "");
    rig_tick(&rig, 4000000);
    rig_frame(&rig, rig_event(AEV_PONG));
    rig_expect(&rig, "");
    rig_welcome(&rig, false, 0, NULL);
    assert_null(strstr(rig.trace, "close"));
    rig_tick(&rig, 5000000); /* Welcome is no longer waited for */
    assert_null(strstr(rig.trace, "close"));
    ping(&rig);
    rig_expect(&rig, "pong 7\n");
    rig_free(&rig);
}

/* Silence is judged by the link (common/peer.c). A link that lives on without Welcome is given up, whatever it carries. */
static void no_welcome(void **state) {
    (void)state;
    struct rig rig;
    rig_new(&rig, NULL);
    greet(&rig);
    rig_tick(&rig, 5000000);
    rig_frame(&rig, rig_event(AEV_PONG));
    rig_tick(&rig, 4999999);
    rig_expect(&rig, "");
    rig_tick(&rig, 1);
    rig_expect(&rig, "close: no Welcome for too long\n");
    greet_again(&rig);
    rig_expect(&rig, "hello 64 fence=-\n");
    rig_free(&rig);
}

/* -------------------------------------------------------------------------- fence */

static void serve_again(struct rig *rig, const char *want) {
    greet_again(rig);
    rig_welcome(rig, true, 0xc0, NULL);
    rig_expect(rig, want);
}

static void a_log_that_contains_what_was_seen(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    rig_link_down(&rig);
    rig_expect(&rig, "close\n");
    rig.fence.position = 900;
    rig.fence.chain = 0xd0;
    serve_again(&rig, "scan\n");
    rig_free(&rig);
}

/* Whoever is ready counts as having joined this life of the coordinator, and "aborted" is presumed when all have. If the agent could
 * forget it, its next life would obey a copy of the log that its sisters have turned away from (model: "joined, and not remembered"). */
static void a_new_life_of_the_coordinator_is_remembered_first(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    rig_link_down(&rig);
    rig.fence.epoch = 4;
    rig.fence.position = 900;
    rig.fence.chain = 0xd0;
    serve_again(&rig, "fence 900 durable\n");
    fence_stored(&rig, true);
    rig_expect(&rig, "scan\n");
    rig_free(&rig);
}

static void refused(struct rig *rig, bool has_chain_at, uint64_t chain_at, const char *accepted, const char *why) {
    char want[512];
    greet_again(rig);
    rig_welcome(rig, has_chain_at, chain_at, accepted);
    snprintf(want, sizeof(want), "refuse: %s\nalarm\nclose\n", why);
    rig_expect(rig, want);
    assert_true(agent_next_timer(rig->agent) - rig->now_us >= rig->config.dial_max_us / 2);
}

static void logs_that_do_not_are_refused(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    rig_link_down(&rig);
    rig.fence.epoch = 9; /* a restored copy climbs past every epoch: that proves nothing */
    refused(&rig, true, 0xc1, NULL, "its log is another one at position 100 than this participant has seen");
    refused(&rig, false, 0, NULL, "its log has no record boundary at position 100, which this participant has seen");
    rig.fence.epoch = 2;
    refused(&rig, true, 0xc0, NULL, "its epoch 2 is older than 3, which this participant has seen");
    rig.fence.epoch = 3;
    rig.fence.position = 99;
    refused(&rig, true, 0xc0, NULL, "its log ends at 99, this participant has seen 100");
    strcpy(rig.fence.incarnation, "ffffffffffff");
    rig.fence.position = 5000;
    refused(&rig, true, 0xc0, NULL, "its log is incarnation ffffffffffff, this participant serves 0a1b2c3d4e5f");
    refused(&rig, true, 0xc0, "eeeeeeeeeeee",
            "its log is incarnation ffffffffffff, this participant serves 0a1b2c3d4e5f");
    /* An operator has accepted it: stored durably before anybody is served. */
    greet_again(&rig);
    rig_welcome(&rig, false, 0, RIG_INCARNATION);
    rig_expect(&rig, "alarm\nfence 5000 durable\n");
    uint64_t op = rig.op;
    struct agent_event event = rig_event(AEV_DECIDE);
    event.decide.gtid = "shop.ffffffffffff.3.1";
    rig_frame(&rig, event);
    rig_expect(&rig, ""); /* looked up in the scan that follows */
    rig.op = op;
    fence_stored(&rig, true);
    rig_expect(&rig, "scan\n");
    rig_free(&rig);
}

static void a_fence_that_cannot_be_stored_serves_nobody(void **state) {
    (void)state;
    struct rig rig;
    rig_new(&rig, NULL);
    greet(&rig);
    rig_welcome(&rig, false, 0, NULL);
    fence_stored(&rig, false);
    rig_expect(&rig, "close: the position of the coordinator's log could not be stored\n");
    greet_again(&rig);
    rig_welcome(&rig, true, 0xc0, NULL);
    rig_expect(&rig, "fence 100 durable\n"); /* that this life remembers it is not enough */
    fence_stored(&rig, true);
    rig_expect(&rig, "scan\n");
    rig_free(&rig);
}

/* A store that was on its way when the link broke is answered after the database was read again. */
static void a_late_answer_about_the_fence(void **state) {
    (void)state;
    struct rig rig;
    rig_new(&rig, NULL);
    greet(&rig);
    rig_welcome(&rig, false, 0, NULL);
    rig_expect(&rig, "fence 100 durable\n");
    uint64_t op = rig.op;
    rig_link_down(&rig);
    greet_again(&rig);
    struct agent_event event = rig_event(AEV_DB_FENCE);
    event.op = op;
    event.fence_stored.ok = true;
    rig_step(&rig, &event);
    rig_welcome(&rig, true, 0xc0, NULL);
    rig_expect(&rig, "fence 100 durable\n");
    rig_free(&rig);
}

static void the_stored_fence_is_what_a_new_life_says(void **state) {
    (void)state;
    struct rig rig;
    rig_new(&rig, NULL);
    rig.has_stored = true;
    rig.stored = rig.fence;
    rig.stored.position = 77;
    greet(&rig);
    rig_expect(&rig, "hello 64 fence=77\n");
    rig_welcome(&rig, true, 0xc0, NULL);
    rig_expect(&rig, "scan\n");
    rig_free(&rig);
}

static void frames_whose_fence_goes_wrong(void **state) {
    (void)state;
    static const struct {
        struct agent_fence fence;
        const char *why;
    } cases[] = {
        {{RIG_INCARNATION, 3, 99, 0xc0}, "the log's position went back"},
        {{RIG_INCARNATION, 3, 100, 0xc1}, "another checksum at the same position"},
        {{RIG_INCARNATION, 2, 200, 0xc0}, "another epoch on the same link"},
        {{RIG_INCARNATION, 4, 200, 0xc0}, "another epoch on the same link"},
        {{"ffffffffffff", 3, 200, 0xc0}, "another incarnation on the same link"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct rig rig;
        char want[128];
        rig_serve(&rig, NULL);
        rig.fence = cases[i].fence;
        ping(&rig);
        snprintf(want, sizeof(want), "close: %s\n", cases[i].why);
        rig_expect(&rig, want);
        rig_free(&rig);
    }
}

static void frames_out_of_place(void **state) {
    (void)state;
    struct rig rig;
    struct agent_event event;
    rig_serve(&rig, NULL);
    event = rig_event(AEV_PING);
    event.link = rig.link;
    rig_step(&rig, &event);
    rig_expect(&rig, "close: a frame without a fence\n");
    rig_free(&rig);

    rig_serve(&rig, NULL);
    rig_welcome(&rig, true, 0xc0, NULL);
    rig_expect(&rig, "close: an unexpected Welcome\n");
    rig_free(&rig);

    rig_new(&rig, NULL);
    greet(&rig);
    event = rig_event(AEV_SETTLE);
    event.settle.gtid = "shop.00000000000c.1.7-5";
    rig_frame(&rig, event);
    rig_expect(&rig, "close: a frame before Welcome\n");
    rig_free(&rig);

    rig_new(&rig, NULL);
    greet(&rig);
    rig_frame(&rig, rig_event(AEV_RELAYED));
    rig_expect(&rig, "close: a frame before Welcome\n");
    rig_free(&rig);

    rig_new(&rig, NULL);
    greet(&rig);
    rig_welcome(&rig, false, 0, NULL);
    fence_stored(&rig, true);
    rig_work(&rig, 1, 0, true);
    rig_expect(&rig, "close: Work before Ready\n");
    assert_int_equal(rig.works, 0);
    rig_free(&rig);

    /* Frames of a link that is no more. */
    rig_serve(&rig, NULL);
    rig_link_down(&rig);
    rig_work(&rig, 1, 0, true);
    rig_expect(&rig, "");
    assert_int_equal(rig.works, 0);
    rig_free(&rig);
}

static void another_coordinators_name(void **state) {
    (void)state;
    struct rig rig;
    rig_new(&rig, NULL);
    greet(&rig);
    struct agent_event event = rig_event(AEV_WELCOME);
    event.welcome.coordinator = "store";
    event.welcome.number = 1;
    rig_frame(&rig, event);
    rig_expect(&rig, "close: this agent serves coordinator shop, not store\n");
    rig_free(&rig);
}

static void the_fence_goes_ahead_of_the_commit(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    rig_prepare(&rig, 1, 11);
    rig.fence.position = 300;
    rig.fence.chain = 0xe0;
    rig_commit(&rig, 1, 11);
    rig_expect(&rig, "fence 300\nfinish commit 1 xid=11\n");
    rig_finished(&rig, NULL);
    rig_expect(&rig, "done committed 1\nforget 1\n");
    /* An abort needs no fence; the timer brings what is newer, at most once a second. */
    rig_prepare(&rig, 2, 12);
    rig.fence.position = 400;
    rig_abort(&rig, 2);
    rig_expect(&rig, "finish rollback 2 xid=12\n");
    rig_tick(&rig, 1000000);
    rig_expect(&rig, "fence 400\n");
    fence_stored(&rig, false);
    rig_tick(&rig, 999999);
    rig_expect(&rig, "");
    rig_tick(&rig, 1);
    rig_expect(&rig, "fence 400\n");
    fence_stored(&rig, true);
    rig_tick(&rig, 1000000);
    rig_expect(&rig, "");
    rig_free(&rig);
}

/* -------------------------------------------------------------------- credits, drain */

static void few(struct agent_config *config) {
    config->workers_max = 2;
}

static void credits_are_the_lesser_of_workers_and_share(void **state) {
    (void)state;
    struct rig rig;
    rig_new(&rig, NULL);
    rig.max_prepared = 10;
    rig.config.prepared_share = 100;
    greet(&rig);
    rig_expect(&rig, "hello 10 fence=-\n");
    rig_free(&rig);
}

static void more_than_granted_is_a_protocol_error(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, few);
    rig_work(&rig, 1, 0, true);
    rig_work(&rig, 2, 0, true);
    rig_work(&rig, 3, 0, true);
    rig_expect(&rig, "close: more branches than were granted\nkill 1\nkill 2\n");
    rig_free(&rig);
}

static void a_vote_no_gives_the_credit_back_and_a_lingering_worker_takes_it(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, few);
    rig_work(&rig, 1, 0, true);
    rig_ran(&rig, rig_run_lost());
    rig_expect(&rig, "vote no 1 retryable\nkill 1\ncredit 1\n");
    rig_work(&rig, 2, 0, true);
    rig_expect(&rig, "run 2 part=0 first last\n");
    rig_stopped(&rig, true);
    rig_expect(&rig, "prove 1 xid=0\ncredit 2\n");
    rig_proved(&rig, false, 0, AGENT_XACT_UNKNOWN);
    rig_expect(&rig, "forget 1\n");
    rig_free(&rig);
}

static void one_slot(struct agent_config *config) {
    config->workers_max = 1;
}

static void prepared_branches_of_a_lost_link_take_slots(void **state) {
    (void)state;
    struct rig rig;
    rig_new(&rig, one_slot);
    rig_free(&rig);
    rig_serve(&rig, one_slot);
    rig.max_prepared = 1;
    rig_prepare(&rig, 1, 11);
    rig_link_down(&rig);
    rig_next_timer(&rig);
    rig_link_up(&rig);
    rig_identity(&rig);
    rig_expect(&rig, "hello 0 fence=100\n");
    rig_welcome(&rig, true, 0xc0, NULL);
    struct agent_prepared row = {.gid = rig_gid(1), .xid = 11, .owner = "app"};
    scanned(&rig, &row, 1, false);
    rig_expect(&rig, "inquiry 1 xid=11\n");
    struct agent_answer_item item = {.gid = rig_gid(1), .xid = 11, .verdict = AGENT_VERDICT_ABORT};
    answer(&rig, &item, 1);
    rig_expect(&rig, "scan\n");
    scanned(&rig, &row, 1, false);
    rig_expect(&rig, "finish rollback 1 xid=11\nready\n");
    rig_finished(&rig, NULL);
    rig_expect(&rig, "forget 1\ncredit 1\n");
    rig_free(&rig);
}

static void draining(void **state) {
    (void)state;
    struct rig rig;
    struct agent_event event = rig_event(AEV_DRAIN);
    rig_serve(&rig, NULL);
    rig_prepare(&rig, 1, 11);
    rig_work(&rig, 2, 0, true);
    uint64_t op = rig.op;
    rig_step(&rig, &event);
    rig_expect(&rig, "credit 0\n");
    rig_work(&rig, 3, 0, true);
    rig_expect(&rig, "vote no 3 57P03 retryable\n");
    rig_ran_op(&rig, op, rig_run_prepared(12));
    rig_expect(&rig, "vote yes 2 xid=12 owner=app results\nrelease 2\ndrained\n");
    rig_commit(&rig, 2, 12);
    rig_expect(&rig, "finish commit 2 xid=12\n");
    rig_free(&rig);
}

/* -------------------------------------------------------------------------- sweep */

static void the_first_scan_is_asked_and_acted_upon(void **state) {
    (void)state;
    struct rig rig;
    rig_new(&rig, NULL);
    greet(&rig);
    rig_welcome(&rig, false, 0, NULL);
    fence_stored(&rig, true);
    char foreign[LS_GID_MAX + 1];
    ls_gid_format(LS_GID_READABLE, rig_gtid(9, 0), "balance", foreign);
    struct agent_prepared rows[] = {
        {.gid = rig_gid(1), .xid = 11, .owner = "app"}, {.gid = rig_gid(2), .xid = 12, .owner = "app"},
        {.gid = rig_gid(3), .xid = 13, .owner = "app"}, {.gid = rig_gid(4), .xid = 14, .owner = "app"},
        {.gid = rig_gid(5), .xid = 15, .owner = "app"}, {.gid = rig_gid(6), .xid = 16, .owner = "app"},
        {.gid = foreign, .xid = 17, .owner = "app"},    {.gid = "somebody else's", .xid = 18, .owner = "app"},
    };
    scanned(&rig, rows, 8, false);
    rig_expect(&rig, "inquiry 1 xid=11, 2 xid=12, 3 xid=13, 4 xid=14 and more: 6\n");
    struct agent_answer_item items[] = {
        {.gid = rig_gid(1), .xid = 11, .verdict = AGENT_VERDICT_COMMIT},
        {.gid = rig_gid(2), .xid = 12, .verdict = AGENT_VERDICT_ABORT},
        {.gid = rig_gid(3), .xid = 13, .verdict = AGENT_VERDICT_PENDING},
        {.gid = rig_gid(4), .xid = 14, .verdict = AGENT_VERDICT_STRANGER},
        {.gid = rig_gid(5), .xid = 15, .verdict = AGENT_VERDICT_FOREIGN},
        {.gid = rig_gid(6), .xid = 16, .verdict = AGENT_VERDICT_HUMAN},
    };
    answer(&rig, items, 6);
    rig_expect(&rig, "alarm\nalarm\nscan\n");
    assert_string_equal(rig.scan_after, "");
    /* Listed, asked, listed again: then finished. What is gone by now is proved. Ready does not wait for them. */
    struct agent_prepared again[] = {rows[0], rows[2], rows[3]};
    scanned(&rig, again, 3, false);
    rig_expect(&rig, "finish commit 1 xid=11\nfinish rollback 4 xid=14\nprove 2 xid=12\nalarm\nready\n");
    rig_free(&rig);
}

/* One row, one verdict; returns with its proof outstanding. */
static void verdict(struct rig *rig, uint64_t sequence, uint64_t xid, enum agent_verdict verdict) {
    rig_new(rig, NULL);
    greet(rig);
    rig_welcome(rig, false, 0, NULL);
    fence_stored(rig, true);
    struct agent_prepared row = {.gid = rig_gid(sequence), .xid = xid, .owner = "app"};
    scanned(rig, &row, 1, false);
    struct agent_answer_item item = {.gid = rig_gid(sequence), .xid = xid, .verdict = verdict};
    answer(rig, &item, 1);
}

static void listed(struct rig *rig, uint64_t sequence, uint64_t xid) {
    struct agent_prepared row = {.gid = rig_gid(sequence), .xid = xid, .owner = "app"};
    scanned(rig, &row, 1, false);
}

/* A coordinator that waits for somebody else can answer from one moment to the next; locks are held until it is asked.
 */
static void what_is_pending_is_asked_about_every_second(void **state) {
    (void)state;
    struct rig rig;
    struct agent_prepared row = {.gid = rig_gid(1), .xid = 11, .owner = "app"};
    struct agent_answer_item item = {.gid = rig_gid(1), .xid = 11, .verdict = AGENT_VERDICT_PENDING};
    verdict(&rig, 1, 11, AGENT_VERDICT_PENDING);
    rig_expect(&rig, "ready\n");
    for (int i = 0; i < 10; i++) {
        rig_tick(&rig, 1000000);
        rig_expect(&rig, "scan\n");
        scanned(&rig, &row, 1, false);
        rig_expect(&rig, "inquiry 1 xid=11\n");
        answer(&rig, &item, 1);
        ping(&rig);
    }
    rig_free(&rig);
}

static void a_verdict_acts_on_the_listed_transaction_only(void **state) {
    (void)state;
    struct rig rig;
    verdict(&rig, 1, 11, AGENT_VERDICT_COMMIT);
    listed(&rig, 1, 11);
    rig_expect(&rig, "finish commit 1 xid=11\nready\n");
    rig_finished(&rig, NULL);
    rig_expect(&rig, "done committed 1\nforget 1\n");
    rig_free(&rig);

    verdict(&rig, 1, 11, AGENT_VERDICT_ABORT);
    listed(&rig, 1, 11);
    rig_expect(&rig, "finish rollback 1 xid=11\nready\n");
    rig_finished(&rig, NULL);
    rig_expect(&rig, "forget 1\n");
    rig_free(&rig);

    /* Another transaction bears the gid now: not what was asked about. */
    verdict(&rig, 1, 11, AGENT_VERDICT_ABORT);
    listed(&rig, 1, 99);
    rig_expect(&rig, "prove 1 xid=11\nready\n");
    rig_proved(&rig, true, 99, AGENT_XACT_ABORTED);
    rig_expect(&rig, "forget 1\n");
    rig_free(&rig);

    verdict(&rig, 1, 11, AGENT_VERDICT_COMMIT);
    listed(&rig, 1, 99);
    rig_proved(&rig, true, 99, AGENT_XACT_COMMITTED);
    rig_expect(&rig, "done committed 1\nforget 1\n");
    rig_free(&rig);

    verdict(&rig, 1, 11, AGENT_VERDICT_STRANGER);
    listed(&rig, 1, 11);
    rig_expect(&rig, "finish rollback 1 xid=11\nready\n");
    rig_finished(&rig, NULL);
    rig_expect(&rig, "forget 1\n"); /* no Done: it is not the transaction's end */
    rig_free(&rig);

    /* Decided, and an outside hand rolled it back between scan and verdict. */
    verdict(&rig, 1, 11, AGENT_VERDICT_COMMIT);
    scanned(&rig, NULL, 0, false);
    rig_expect(&rig, "prove 1 xid=11\nready\n");
    rig_proved(&rig, false, 0, AGENT_XACT_ABORTED);
    rig_expect(&rig, "alarm\ndone hazard 1\nforget 1\n");
    rig_free(&rig);
}

/* A new life is told thousands of decisions at once: the pages it lists anyway are the proof, not one look at the list
 * for each. */
static void decisions_on_a_new_link_wait_for_its_scan(void **state) {
    (void)state;
    struct rig rig;
    rig_new(&rig, NULL);
    greet(&rig);
    rig_welcome(&rig, false, 0, NULL);
    fence_stored(&rig, true);
    uint64_t scan_op = rig.op;
    for (uint64_t i = 1; i <= 4; i++) {
        rig_commit(&rig, i, 10 + i);
        rig_expect(&rig, "");
    }
    rig_abort(&rig, 5);
    rig_expect(&rig, "");
    rig.op = scan_op;
    struct agent_prepared rows[] = {{.gid = rig_gid(1), .xid = 11, .owner = "app"},
                                    {.gid = rig_gid(2), .xid = 99, .owner = "app"},
                                    {.gid = rig_gid(5), .xid = 15, .owner = "app"}};
    scanned(&rig, rows, 3, false);
    rig_expect(&rig, "finish commit 1 xid=11\nfinish rollback 5 xid=15\n"
                     "prove 2 xid=12\nprove 3 xid=13\nprove 4 xid=14\nready\n");
    rig_commit(&rig, 6, 16);
    rig_expect(&rig, "prove 6 xid=16\n");
    rig_free(&rig);

    /* Without a scan they look for themselves. */
    rig_new(&rig, NULL);
    greet(&rig);
    rig_welcome(&rig, false, 0, NULL);
    fence_stored(&rig, true);
    rig_commit(&rig, 1, 11);
    rig_link_down(&rig);
    rig_expect(&rig, "close\n");
    while (strstr(rig.trace, "prove 1 xid=11") == NULL) {
        rig_next_timer(&rig);
        if (strstr(rig.trace, "dial") != NULL) {
            struct agent_event event = rig_event(AEV_LINK_DOWN);
            rig_step(&rig, &event);
        }
    }
    rig_free(&rig);
}

/* A decision names a position that the server no longer reaches: no more sweeping, a new Hello, no Ready. */
static void lost_wal_found_by_a_scan(void **state) {
    (void)state;
    struct rig rig;
    rig_new(&rig, NULL);
    rig.server.insert_lsn = rig.server.flush_lsn = 3999; /* decisions of this rig say 4000 */
    greet(&rig);
    rig_welcome(&rig, false, 0, NULL);
    fence_stored(&rig, true);
    uint64_t scan_op = rig.op;
    rig_commit(&rig, 1, 11);
    rig.op = scan_op;
    struct agent_prepared rows[] = {{.gid = rig_gid(1), .xid = 11, .owner = "app"},
                                    {.gid = rig_gid(2), .xid = 12, .owner = "app"}};
    scanned(&rig, rows, 2, false);
    rig_expect(&rig,
               "alarm\ndone hazard 1\nforget 1\nalarm\nclose: the server's history lacks what it has answered for\n");
    rig_free(&rig);
}

static void live_branches_are_not_asked_about(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    wait_us(&rig, 9999990);
    rig_work(&rig, 1, 0, true); /* its PREPARE waits for a standby and is listed already */
    rig_prepare(&rig, 2, 12);   /* voted yes a moment ago */
    rig_tick(&rig, 10);
    rig_expect(&rig, "scan\n");
    struct agent_prepared rows[] = {{.gid = rig_gid(1), .xid = 11, .owner = "app"},
                                    {.gid = rig_gid(2), .xid = 12, .owner = "app"}};
    scanned(&rig, rows, 2, false);
    rig_expect(&rig, "");
    wait_us(&rig, 10000000);
    scanned(&rig, rows, 2, false);
    rig_expect(&rig, "inquiry 2 xid=12\n"); /* undecided for a whole interval */
    struct agent_answer_item item = {.gid = rig_gid(2), .xid = 12, .verdict = AGENT_VERDICT_PENDING};
    answer(&rig, &item, 1);
    rig_expect(&rig, "");
    assert_int_equal(agent_find(rig.agent, rig_gtid(2, 0))->state, AGB_PREPARED);
    rig_free(&rig);
}

static void a_long_list_is_asked_page_by_page(void **state) {
    (void)state;
    struct rig rig;
    rig_new(&rig, NULL);
    greet(&rig);
    rig_welcome(&rig, false, 0, NULL);
    fence_stored(&rig, true);
    struct agent_prepared row = {.gid = rig_gid(1), .xid = 11, .owner = "app"};
    scanned(&rig, &row, 1, true);
    struct agent_answer_item item = {.gid = rig_gid(1), .xid = 11, .verdict = AGENT_VERDICT_PENDING};
    answer(&rig, &item, 1);
    rig_expect(&rig, "scan\n");
    assert_string_equal(rig.scan_after, rig_gid(1));
    struct agent_event event = rig_event(AEV_DB_SCAN);
    rig_answer(&rig, AEV_DB_SCAN, event);
    rig_expect(&rig, "");
    rig_next_timer(&rig);
    rig_expect(&rig, "scan\n"); /* could not be read: the same page again */
    assert_string_equal(rig.scan_after, rig_gid(1));
    scanned(&rig, NULL, 0, false);
    rig_expect(&rig, "ready\n");
    rig_free(&rig);
}

static void one_recovered(struct agent_config *config) {
    config->recovered_max = 1;
}

static void what_does_not_fit_is_left_for_the_next_sweep(void **state) {
    (void)state;
    struct rig rig;
    rig_new(&rig, one_recovered);
    greet(&rig);
    rig_welcome(&rig, false, 0, NULL);
    fence_stored(&rig, true);
    struct agent_prepared rows[] = {{.gid = rig_gid(1), .xid = 11, .owner = "app"},
                                    {.gid = rig_gid(2), .xid = 12, .owner = "app"}};
    scanned(&rig, rows, 2, false);
    struct agent_answer_item items[] = {{.gid = rig_gid(1), .xid = 11, .verdict = AGENT_VERDICT_ABORT},
                                        {.gid = rig_gid(2), .xid = 12, .verdict = AGENT_VERDICT_ABORT}};
    answer(&rig, items, 2);
    rig_expect(&rig, "scan\n");
    scanned(&rig, rows, 2, false);
    rig_expect(&rig, "finish rollback 1 xid=11\nready\n");
    rig_tick(&rig, 1000000);
    rig_expect(&rig, "scan\n"); /* soon, not after a whole interval */
    rig_free(&rig);
}

static void an_answer_must_answer_the_question(void **state) {
    (void)state;
    struct rig rig;
    rig_new(&rig, NULL);
    greet(&rig);
    rig_welcome(&rig, false, 0, NULL);
    fence_stored(&rig, true);
    struct agent_prepared row = {.gid = rig_gid(1), .xid = 11, .owner = "app"};
    scanned(&rig, &row, 1, false);
    struct agent_answer_item item = {.gid = rig_gid(1), .xid = 12, .verdict = AGENT_VERDICT_ABORT};
    rig.token++;
    answer(&rig, &item, 1);
    rig_expect(&rig, ""); /* of another inquiry */
    rig.token--;
    answer(&rig, &item, 1);
    rig_expect(&rig, "close: an Answer that does not answer the Inquiry\n");
    greet_again(&rig);
    rig_welcome(&rig, true, 0xc0, NULL);
    scanned(&rig, &row, 1, false);
    wait_us(&rig, 10000000);
    rig_expect(&rig, "close: an Inquiry was not answered\n");
    rig_free(&rig);
}

/* --------------------------------------------------------------- another server history */

static void a_failover_is_told_by_a_new_hello(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    rig_prepare(&rig, 1, 11);
    rig.server.timeline = 2;
    wait_us(&rig, 10000000);
    scanned(&rig, NULL, 0, false);
    rig_expect(&rig, "close: the server's history has changed\n");
    rig_next_timer(&rig);
    rig_link_up(&rig);
    rig_identity(&rig);
    rig_expect(&rig, "report\nhello 64 fence=100\n");
    rig_free(&rig);
}

static void a_server_that_lost_wal_gets_no_work(void **state) {
    (void)state;
    struct rig rig;
    rig_serve(&rig, NULL);
    rig_prepare(&rig, 1, 11); /* voted with LSN 4000 */
    rig_link_down(&rig);
    rig.server.insert_lsn = rig.server.flush_lsn = 3999;
    rig_next_timer(&rig);
    rig_link_up(&rig);
    rig_identity(&rig);
    rig_expect(&rig, "alarm\nhello 0 fence=100\n");
    rig_welcome(&rig, true, 0xc0, NULL);
    rig_expect(&rig, ""); /* no scan, no Ready */
    /* Its WAL grows past the point again: that mends nothing. */
    rig.server.insert_lsn = rig.server.flush_lsn = 9000;
    wait_us(&rig, 10000000);
    rig_expect(&rig, "identity\n");
    rig_identity(&rig);
    rig_expect(&rig, "");
    /* A decision is still proved. */
    rig_commit(&rig, 2, 12);
    rig_expect(&rig, "prove 2 xid=12\n");
    rig_proved(&rig, false, 0, AGENT_XACT_FUTURE);
    rig_expect(&rig, "alarm\ndone hazard 2\nforget 2\n");
    /* The right server is back, on a newer timeline. */
    rig.server.timeline = 2;
    wait_us(&rig, 10000000);
    rig_identity(&rig);
    rig_expect(&rig, "report\nclose\n");
    greet_again(&rig);
    rig_expect(&rig, "hello 64 fence=100\n");
    rig_free(&rig);
}

static void an_old_primary_gets_no_work_until_the_right_one_is_back(void **state) {
    (void)state;
    struct rig rig;
    rig_new(&rig, NULL);
    rig.server.timeline = 5;
    greet(&rig);
    rig_welcome(&rig, false, 0, NULL);
    fence_stored(&rig, true);
    scanned(&rig, NULL, 0, false);
    struct agent_run run = rig_run_prepared(11);
    run.identity.timeline = 5;
    rig_work(&rig, 1, 0, true);
    rig_ran(&rig, run);
    rig_link_down(&rig);
    rig.server.timeline = 4;
    rig_next_timer(&rig);
    rig_link_up(&rig);
    rig_identity(&rig);
    rig_expect(&rig, "report\nalarm\nhello 0 fence=100\n");
    rig_free(&rig);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_order_of_starting),
        cmocka_unit_test(a_second_agent_stops),
        cmocka_unit_test(a_dead_life_gives_the_lock_back),
        cmocka_unit_test(without_a_server_it_waits_for_one),
        cmocka_unit_test(no_prepared_transactions_stop_it),
        cmocka_unit_test(dialling_backs_off),
        cmocka_unit_test(a_lost_control_session_begins_again),
        cmocka_unit_test(pauses_end_when_the_server_is_back),
        cmocka_unit_test(what_waits_for_the_server_goes_on_when_it_is_back),
        cmocka_unit_test(the_fence_of_frames_that_say_nothing_else),
        cmocka_unit_test(a_ping_before_welcome),
        cmocka_unit_test(no_welcome),
        cmocka_unit_test(a_log_that_contains_what_was_seen),
        cmocka_unit_test(a_new_life_of_the_coordinator_is_remembered_first),
        cmocka_unit_test(logs_that_do_not_are_refused),
        cmocka_unit_test(a_fence_that_cannot_be_stored_serves_nobody),
        cmocka_unit_test(a_late_answer_about_the_fence),
        cmocka_unit_test(the_stored_fence_is_what_a_new_life_says),
        cmocka_unit_test(frames_whose_fence_goes_wrong),
        cmocka_unit_test(frames_out_of_place),
        cmocka_unit_test(another_coordinators_name),
        cmocka_unit_test(the_fence_goes_ahead_of_the_commit),
        cmocka_unit_test(credits_are_the_lesser_of_workers_and_share),
        cmocka_unit_test(more_than_granted_is_a_protocol_error),
        cmocka_unit_test(a_vote_no_gives_the_credit_back_and_a_lingering_worker_takes_it),
        cmocka_unit_test(prepared_branches_of_a_lost_link_take_slots),
        cmocka_unit_test(draining),
        cmocka_unit_test(the_first_scan_is_asked_and_acted_upon),
        cmocka_unit_test(what_is_pending_is_asked_about_every_second),
        cmocka_unit_test(a_verdict_acts_on_the_listed_transaction_only),
        cmocka_unit_test(decisions_on_a_new_link_wait_for_its_scan),
        cmocka_unit_test(lost_wal_found_by_a_scan),
        cmocka_unit_test(live_branches_are_not_asked_about),
        cmocka_unit_test(a_long_list_is_asked_page_by_page),
        cmocka_unit_test(what_does_not_fit_is_left_for_the_next_sweep),
        cmocka_unit_test(an_answer_must_answer_the_question),
        cmocka_unit_test(a_failover_is_told_by_a_new_hello),
        cmocka_unit_test(a_server_that_lost_wal_gets_no_work),
        cmocka_unit_test(an_old_primary_gets_no_work_until_the_right_one_is_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
