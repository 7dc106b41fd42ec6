/*
 * test_relay.c: the relay's core. First its rules one by one, then worlds in which everything that can be lost is lost:
 * relays die, links break, pages come twice, answers of the database never arrive though the work was done. In the end
 * every event must have acted exactly once at each subscriber, in the order of its key, and nothing may have been
 * acknowledged that was not stored.
 */
#include "tests/unit/unit.h"

#include <inttypes.h>

#include "coordinator/core/saga_policy.h"
#include "participant/core/relay.h"

/* ------------------------------------------------------------------- a rig */

struct rig {
    struct relay *relay;
    struct relay_effects effects;
    uint64_t now_us;
    char trace[4096];
    uint64_t op; /* of the last effect that has one */
    int pages;   /* that the relay holds */
    bool mute;   /* claims are neither noted nor answered: the test is about something else */
};

static void note(struct rig *rig, const struct relay_effect *e) {
    static const char *const names[] = {"report", "send",   "ack",  "free", "claim", "read",
                                        "store",  "handle", "park", "due",  "look"};
    size_t n = strlen(rig->trace);
    if (e->kind == REF_DB_CLAIM && rig->mute) return;
    n += (size_t)snprintf(rig->trace + n, sizeof rig->trace - n, "%s", names[e->kind]);
    if (e->peer != NULL) n += (size_t)snprintf(rig->trace + n, sizeof rig->trace - n, " %s", e->peer);
    if (e->kind == REF_SEND_PAGE || e->kind == REF_SEND_ACK || e->kind == REF_DB_READ || e->kind == REF_DB_STORE)
        n += (size_t)snprintf(rig->trace + n, sizeof rig->trace - n, " %" PRId64, e->position);
    if (e->kind == REF_DB_HANDLE || e->kind == REF_DB_PARK)
        n += (size_t)snprintf(rig->trace + n, sizeof rig->trace - n, " %u %s", e->index, e->handler);
    (void)snprintf(rig->trace + n, sizeof rig->trace - n, "\n");
    if (e->kind == REF_FREE_PAGE || e->kind == REF_SEND_PAGE) rig->pages--;
    if (e->op != 0) rig->op = e->op;
}

static void step(struct rig *rig, struct relay_event event) {
    event.now_us = rig->now_us;
    relay_step(rig->relay, &event, &rig->effects);
    relay_check(rig->relay);
    rig->trace[0] = '\0';
    for (size_t i = 0; i < rig->effects.count; i++) note(rig, &rig->effects.list[i]);
}

#define expect(rig, text) assert_string_equal((rig)->trace, (text))

static void answer(struct rig *rig, struct relay_event event) {
    event.op = rig->op;
    step(rig, event);
}

static void next_timer(struct rig *rig) {
    uint64_t due = relay_next_timer(rig->relay);
    assert_true(due != RELAY_NEVER);
    if (due > rig->now_us) rig->now_us = due;
    step(rig, (struct relay_event){.kind = REV_TICK});
}

static char a_page;

static void read_answer(struct rig *rig, uint32_t count, int64_t upto) {
    rig->pages++;
    answer(rig, (struct relay_event){.kind = REV_DB_READ, .read = {true, &a_page, count, upto, false}});
}

static const struct relay_handler two_handlers[] = {{"paid", "public.ship"}, {"paid", "public.thank"}};

/* Routes known; the claims and the parked events of the start answered with nothing, and out of the way for long. */
static void rig_start(struct rig *rig, const char *subscriber, int64_t stored) {
    struct relay_config config;
    relay_config_defaults(&config);
    config.claim_us = config.due_us = UINT64_C(3600000000);
    config.page_max = 3;
    config.peers_max = 2;
    config.attempts_max = 3;
    memset(rig, 0, sizeof *rig);
    rig->relay = relay_new(&config);
    assert_non_null(rig->relay);
    rig->now_us = 1000000;
    struct relay_subscriber who = {subscriber, stored};
    struct relay_event routes = {.kind = REV_ROUTES,
                                 .routes = {&who, subscriber != NULL ? 1 : 0, two_handlers, 2, false, false}};
    step(rig, routes);
    expect(rig, "claim\ndue\n");
    uint64_t due = rig->op;
    rig->op = due - 1;
    answer(rig, (struct relay_event){.kind = REV_DB_CLAIM, .claim = {true, 0}});
    rig->op = due;
    answer(rig, (struct relay_event){.kind = REV_DB_DUE, .page = {.ok = true}});
    expect(rig, "");
    rig->mute = subscriber == NULL;
}

static void rig_end(struct rig *rig) {
    relay_free(rig->relay);
    relay_effects_free(&rig->effects);
}

static void up(struct rig *rig, const char *peer) {
    step(rig, (struct relay_event){.kind = REV_PEER_UP, .peer = peer});
}

static void ack(struct rig *rig, const char *peer, int64_t position) {
    step(rig, (struct relay_event){.kind = REV_ACK, .peer = peer, .position = position});
}

static void stored(struct rig *rig, bool ok) {
    answer(rig, (struct relay_event){.kind = REV_DB_STORE, .store = {ok}});
}

/* ----------------------------------------------------------------- sending */

static void nothing_is_claimed_before_it_is_known_who_subscribes(void **state) {
    (void)state;
    struct relay_config config;
    struct rig rig = {.now_us = 1};
    relay_config_defaults(&config);
    rig.relay = relay_new(&config);
    step(&rig, (struct relay_event){.kind = REV_TICK});
    up(&rig, "bank");
    expect(&rig, "");
    assert_true(relay_next_timer(rig.relay) == RELAY_NEVER);
    rig.pages = 1;
    step(&rig, (struct relay_event){.kind = REV_PAGE, .peer = "shop", .page = {.page = &a_page, .upto = 4}});
    expect(&rig, "free\n"); /* nor acknowledged: nobody knows yet which handlers want it */
    rig_end(&rig);
}

static void one_page_at_a_time_and_stored_when_acknowledged(void **state) {
    (void)state;
    struct rig rig;
    rig_start(&rig, "bank", 10);
    up(&rig, "bank");
    expect(&rig, "read bank 10\n");
    read_answer(&rig, 3, 14);
    expect(&rig, "send bank 14\n");
    ack(&rig, "bank", 15); /* never sent */
    expect(&rig, "");
    ack(&rig, "bank", 10); /* stored before */
    expect(&rig, "");
    ack(&rig, "bank", 14);
    expect(&rig, "store bank 14\n");
    ack(&rig, "bank", 14);
    expect(&rig, "");
    stored(&rig, true);
    expect(&rig, "read bank 14\n"); /* the page was full */
    read_answer(&rig, 0, 20);
    expect(&rig, "free\n");
    assert_int_equal(rig.pages, 0);
    rig_end(&rig);
}

static void what_a_claim_has_found_is_read(void **state) {
    (void)state;
    struct rig rig;
    rig_start(&rig, "bank", 0);
    up(&rig, "bank");
    read_answer(&rig, 0, 0);
    expect(&rig, "free\n");
    next_timer(&rig);
    expect(&rig, "claim\ndue\n");
    uint64_t due = rig.op;
    rig.op = due - 1;
    answer(&rig, (struct relay_event){.kind = REV_DB_CLAIM, .claim = {true, 2}});
    expect(&rig, "read bank 0\n");
    read_answer(&rig, 0, 1001); /* nothing for it in much: not to be looked over again after a restart */
    expect(&rig, "free\nstore bank 1001\n");
    rig_end(&rig);
}

/* It may have been committed, and a later one finds nothing new. Simulator, seed 1141. */
static void what_a_claim_has_found_is_read_though_its_answer_is_lost(void **state) {
    (void)state;
    struct rig rig;
    rig_start(&rig, "bank", 0);
    up(&rig, "bank");
    read_answer(&rig, 0, 0);
    next_timer(&rig);
    expect(&rig, "claim\ndue\n");
    rig.op--;
    answer(&rig, (struct relay_event){.kind = REV_DB_CLAIM, .claim = {false, 0}});
    expect(&rig, "read bank 0\n");
    read_answer(&rig, 0, 0);
    rig_end(&rig);
}

/* The read may have looked before the claim had found it. */
static void a_claim_during_a_read_is_not_forgotten(void **state) {
    (void)state;
    struct rig rig;
    rig_start(&rig, "bank", 0);
    up(&rig, "bank");
    read_answer(&rig, 0, 0);
    next_timer(&rig);
    uint64_t claim = rig.op - 1;
    step(&rig, (struct relay_event){.kind = REV_PEER_UP, .peer = "bank"});
    expect(&rig, "read bank 0\n");
    uint64_t read = rig.op;
    rig.op = claim;
    answer(&rig, (struct relay_event){.kind = REV_DB_CLAIM, .claim = {true, 2}});
    expect(&rig, "");
    rig.op = read;
    read_answer(&rig, 0, 0);
    expect(&rig, "free\nread bank 0\n");
    rig_end(&rig);
}

/* The sender was killed in between: what it has sent again is longer than what is still at work there. */
static void an_earlier_page_may_be_acknowledged(void **state) {
    (void)state;
    struct rig rig;
    rig_start(&rig, "bank", 0);
    up(&rig, "bank");
    read_answer(&rig, 3, 14);
    ack(&rig, "bank", 12);
    expect(&rig, "store bank 12\n");
    stored(&rig, true);
    expect(&rig, "read bank 12\n");
    rig_end(&rig);
}

/* Pauses double while nothing is found; what is known to be written is not waited for; a slow look rests the longer. */
static void looks_for_what_is_new(void **state) {
    (void)state;
    struct rig rig;
    rig_start(&rig, "bank", 0);
    relay_free(rig.relay);
    struct relay_config config;
    relay_config_defaults(&config);
    config.due_us = UINT64_C(3600000000);
    rig.relay = relay_new(&config);
    step(&rig, (struct relay_event){.kind = REV_ROUTES});
    uint64_t due = rig.op, pauses[8];
    rig.op = due - 1;
    for (int i = 0; i < 8; i++) {
        answer(&rig, (struct relay_event){.kind = REV_DB_CLAIM, .claim = {true, 0}});
        if (i == 0) {
            rig.op = due;
            answer(&rig, (struct relay_event){.kind = REV_DB_DUE, .page = {.ok = true}});
        }
        pauses[i] = relay_next_timer(rig.relay) - rig.now_us;
        next_timer(&rig);
        expect(&rig, "claim\n");
    }
    assert_int_equal(pauses[0], 100000);
    assert_int_equal(pauses[1], 200000);
    assert_int_equal(pauses[7], 1000000);
    answer(&rig, (struct relay_event){.kind = REV_DB_CLAIM, .claim = {true, 0}});
    step(&rig, (struct relay_event){.kind = REV_FRESH});
    assert_int_equal(relay_next_timer(rig.relay) - rig.now_us, 50000);
    next_timer(&rig);
    step(&rig, (struct relay_event){.kind = REV_FRESH}); /* while a look is under way: it may have looked before */
    rig.now_us += 30000;
    answer(&rig, (struct relay_event){.kind = REV_DB_CLAIM, .claim = {true, 0}});
    assert_int_equal(relay_next_timer(rig.relay) - rig.now_us, 300000); /* it took 30 ms */
    rig_end(&rig);
}

/* How long the next look is away after one that took so long. */
static uint64_t rest_after_us(struct rig *rig, uint64_t took_us) {
    rig->now_us += took_us;
    answer(rig, (struct relay_event){.kind = REV_DB_CLAIM, .claim = {true, 0}});
    step(rig, (struct relay_event){.kind = REV_FRESH});
    uint64_t rest_us = relay_next_timer(rig->relay) - rig->now_us;
    next_timer(rig);
    expect(rig, "claim\n");
    return rest_us;
}

/* An agent that stood still for minutes has not looked for minutes: what is new then does not wait for ten times that.
 */
static void the_rest_after_a_slow_look_has_an_end(void **state) {
    (void)state;
    struct rig rig;
    rig_start(&rig, NULL, 0);
    relay_free(rig.relay);
    struct relay_config config;
    relay_config_defaults(&config);
    config.due_us = UINT64_C(3600000000);
    rig.relay = relay_new(&config);
    rig.mute = false;
    step(&rig, (struct relay_event){.kind = REV_ROUTES});
    answer(&rig, (struct relay_event){.kind = REV_DB_DUE, .page = {.ok = true}});
    rig.op--; /* the claim's */
    assert_int_equal(rest_after_us(&rig, 999000), 9990000);
    assert_int_equal(rest_after_us(&rig, 1000000), 10000000);
    assert_int_equal(rest_after_us(&rig, 1001000), 10000000);
    assert_int_equal(rest_after_us(&rig, 72000000), 10000000);
    rig_end(&rig);
}

/* The database has lost WAL: what was acknowledged under a position may not be there, or be another event. */
static void positions_that_go_back(void **state) {
    (void)state;
    struct rig rig;
    rig_start(&rig, "bank", 10);
    struct relay_subscriber less = {"bank", 7};
    struct relay_event back = {.kind = REV_ROUTES, .routes = {&less, 1, two_handlers, 2, false, true}};
    step(&rig, back); /* while nothing is under way */
    up(&rig, "bank");
    expect(&rig, "read bank 7\n");
    less.position = 6;
    step(&rig, back); /* while it is read */
    expect(&rig, "");
    read_answer(&rig, 2, 9);
    expect(&rig, "free\nread bank 6\n");
    read_answer(&rig, 2, 9);
    less.position = 5;
    step(&rig, back); /* while it is waited for its acknowledgement */
    expect(&rig, "read bank 5\n");
    ack(&rig, "bank", 9);
    expect(&rig, "");
    read_answer(&rig, 2, 9);
    ack(&rig, "bank", 9);
    less.position = 4;
    step(&rig, back); /* while that is stored */
    expect(&rig, "");
    stored(&rig, true);
    expect(&rig, "read bank 4\n");
    rig_end(&rig);
}

/* Its bytes are bounded as well as its events. */
static void a_page_that_is_not_full_may_be_followed(void **state) {
    (void)state;
    struct rig rig;
    rig_start(&rig, "bank", 0);
    up(&rig, "bank");
    rig.pages++;
    answer(&rig, (struct relay_event){.kind = REV_DB_READ, .read = {true, &a_page, 1, 5, true}});
    expect(&rig, "send bank 5\n");
    ack(&rig, "bank", 5);
    stored(&rig, true);
    expect(&rig, "read bank 5\n");
    rig_end(&rig);
}

static void what_is_not_acknowledged_is_sent_again(void **state) {
    (void)state;
    struct rig rig;
    rig_start(&rig, "bank", 0);
    up(&rig, "bank");
    read_answer(&rig, 2, 2);
    step(&rig, (struct relay_event){.kind = REV_PEER_DOWN, .peer = "bank"});
    expect(&rig, "");
    ack(&rig, "bank", 2); /* too late: it is sent again, and acknowledged then */
    expect(&rig, "");
    up(&rig, "bank");
    expect(&rig, "read bank 0\n");
    read_answer(&rig, 2, 2);
    next_timer(&rig); /* no answer at all */
    expect(&rig, "");
    next_timer(&rig);
    expect(&rig, "read bank 0\n");
    read_answer(&rig, 2, 2);
    ack(&rig, "bank", 2);
    stored(&rig, false); /* acknowledged, but that is not kept */
    next_timer(&rig);
    expect(&rig, "read bank 0\n");
    rig_end(&rig);
}

static void backing_off_has_an_end_and_grows(void **state) {
    (void)state;
    struct rig rig;
    rig_start(&rig, "bank", 0);
    up(&rig, "bank");
    uint64_t longest = 0, shortest = UINT64_MAX;
    for (int i = 0; i < 20; i++) {
        answer(&rig, (struct relay_event){.kind = REV_DB_READ, .read = {.ok = false}});
        uint64_t pause = relay_next_timer(rig.relay) - rig.now_us;
        longest = pause > longest ? pause : longest;
        shortest = pause < shortest ? pause : shortest;
        next_timer(&rig);
        expect(&rig, "read bank 0\n");
    }
    assert_in_range(shortest, 50000, 100000);
    assert_in_range(longest, 15000000, 30000000);
    rig_end(&rig);
}

static void only_who_subscribes_is_sent_to(void **state) {
    (void)state;
    struct rig rig;
    rig_start(&rig, NULL, 0);
    up(&rig, "bank");
    expect(&rig, "");
    struct relay_subscriber who[] = {{"bank", 5}, {"post", 7}, {"third", 0}};
    step(&rig, (struct relay_event){.kind = REV_ROUTES, .routes = {who, 3, two_handlers, 2, false, false}});
    expect(&rig, "report\nread bank 5\n"); /* two peers are all that the configuration allows */
    rig_end(&rig);
}

/* --------------------------------------------------------------- receiving */

static void looked(struct rig *rig) {
    expect(rig, "look\n");
    step(rig, (struct relay_event){.kind = REV_ROUTES, .routes = {NULL, 0, two_handlers, 2, true, false}});
}

static const struct relay_item items[] = {
    {.position = 5, .type = "paid"}, {.position = 6, .type = "else"}, {.position = 8, .type = "paid"}};

static void page(struct rig *rig, uint32_t count, int64_t upto) {
    rig->pages++;
    step(rig, (struct relay_event){.kind = REV_PAGE,
                                   .peer = "shop",
                                   .page = {.page = &a_page, .items = items, .count = count, .upto = upto}});
}

static void handled(struct rig *rig, enum relay_handled result) {
    answer(rig, (struct relay_event){.kind = REV_DB_HANDLE, .handle = {result, "P0001", "no"}});
}

static void parked(struct rig *rig, enum relay_parked result) {
    answer(rig, (struct relay_event){.kind = REV_DB_PARK, .park = {result}});
}

/* Another agent of this participant may have told the source of a subscription that this one does not know yet.
 * Simulator, seed 20411. */
static void what_has_no_handler_is_not_passed_over_before_another_look(void **state) {
    (void)state;
    struct rig rig;
    rig_start(&rig, NULL, 0);
    page(&rig, 2, 6);
    handled(&rig, RELAY_DONE);
    handled(&rig, RELAY_DONE);
    expect(&rig, "look\n");
    step(&rig, (struct relay_event){.kind = REV_ROUTES, .routes = {NULL, 0, two_handlers, 2, false, false}});
    expect(&rig, ""); /* that may have been read before it came */
    struct relay_handler three[] = {{"else", "public.late"}, two_handlers[0], two_handlers[1]};
    step(&rig, (struct relay_event){.kind = REV_ROUTES, .routes = {NULL, 0, three, 3, true, false}});
    expect(&rig, "handle shop 1 public.late\n");
    handled(&rig, RELAY_DONE);
    expect(&rig, "ack shop 6\nfree\n");
    rig_end(&rig);
}

static void each_handler_of_each_event_then_the_acknowledgement(void **state) {
    (void)state;
    struct rig rig;
    rig_start(&rig, NULL, 0);
    page(&rig, 3, 9);
    expect(&rig, "handle shop 0 public.ship\n");
    handled(&rig, RELAY_DONE);
    expect(&rig, "handle shop 0 public.thank\n");
    page(&rig, 3, 9); /* sent again meanwhile */
    expect(&rig, "free\n");
    handled(&rig, RELAY_DUPLICATE);
    looked(&rig);
    expect(&rig, "handle shop 2 public.ship\n");
    handled(&rig, RELAY_QUEUED);
    handled(&rig, RELAY_DONE);
    expect(&rig, "ack shop 9\nfree\n");
    assert_int_equal(rig.pages, 0);
    page(&rig, 0, 12);
    expect(&rig, "ack shop 12\nfree\n");
    rig_end(&rig);
}

static void a_handler_that_fails_is_parked_and_the_page_goes_on(void **state) {
    (void)state;
    struct rig rig;
    rig_start(&rig, NULL, 0);
    page(&rig, 1, 5);
    handled(&rig, RELAY_FAILED);
    expect(&rig, "park shop 0 public.ship\n");
    parked(&rig, RELAY_WAITING);
    expect(&rig, "handle shop 0 public.thank\n");
    handled(&rig, RELAY_FAILED);
    parked(&rig, RELAY_DEAD);
    expect(&rig, "report\nack shop 5\nfree\n");
    rig_end(&rig);
}

static void what_is_not_known_to_be_stored_is_not_passed(void **state) {
    (void)state;
    struct rig rig;
    rig_start(&rig, NULL, 0);
    page(&rig, 1, 5);
    handled(&rig, RELAY_UNKNOWN);
    expect(&rig, "park shop 0 public.ship\n"); /* which waits for its inbox row */
    parked(&rig, RELAY_NOT_PARKED);
    expect(&rig, "");
    next_timer(&rig);
    expect(&rig, "handle shop 0 public.ship\n");
    handled(&rig, RELAY_FAILED);
    parked(&rig, RELAY_NOT_PARKED);
    expect(&rig, "");
    next_timer(&rig);
    expect(&rig, "handle shop 0 public.ship\n");
    handled(&rig, RELAY_DONE);
    handled(&rig, RELAY_DONE);
    expect(&rig, "ack shop 5\nfree\n");
    rig_end(&rig);
}

/* A page has come twice, and the first one's acknowledgement is stored while the second is at work: its rows may be
 * old, and without them the events would be handled again. Simulator, seed 5047955. */
static void what_is_at_work_stays_in_the_inbox(void **state) {
    (void)state;
    struct rig rig;
    rig_start(&rig, NULL, 0);
    assert_int_equal(relay_may_prune(rig.relay, "shop", 9), 9); /* it is not known yet */
    page(&rig, 3, 9);
    assert_int_equal(relay_may_prune(rig.relay, "shop", 9), 4);
    assert_int_equal(relay_may_prune(rig.relay, "shop", 3), 3);
    assert_int_equal(relay_may_prune(rig.relay, "bank", 9), 9);
    handled(&rig, RELAY_UNKNOWN);
    parked(&rig, RELAY_NOT_PARKED);
    assert_int_equal(relay_may_prune(rig.relay, "shop", 9), 4);
    next_timer(&rig);
    handled(&rig, RELAY_DUPLICATE);
    assert_int_equal(relay_may_prune(rig.relay, "shop", 9), 4); /* its second handler */
    handled(&rig, RELAY_DUPLICATE);
    looked(&rig);
    assert_int_equal(relay_may_prune(rig.relay, "shop", 9), 7);
    handled(&rig, RELAY_DUPLICATE);
    handled(&rig, RELAY_DUPLICATE);
    assert_int_equal(relay_may_prune(rig.relay, "shop", 9), 9);
    rig_end(&rig);
}

/* Else its source would stand still for ever behind a handler that ends its own backend. */
static void a_lost_answer_is_counted(void **state) {
    (void)state;
    struct rig rig;
    rig_start(&rig, NULL, 0);
    page(&rig, 1, 5);
    handled(&rig, RELAY_UNKNOWN);
    assert_string_equal(rig.effects.list[0].sqlstate, "P0001");
    assert_string_equal(rig.effects.list[0].reason, "no");
    parked(&rig, RELAY_WAITING);
    expect(&rig, "handle shop 0 public.thank\n");
    handled(&rig, RELAY_UNKNOWN);
    parked(&rig, RELAY_THROUGH); /* it was done after all */
    expect(&rig, "ack shop 5\nfree\n");
    rig_end(&rig);
}

/* A parked event is looked for when it is due, not at the next look. */
static void a_retry_comes_when_it_is_due(void **state) {
    (void)state;
    struct rig rig;
    rig_start(&rig, NULL, 0);
    page(&rig, 1, 5);
    handled(&rig, RELAY_FAILED);
    parked(&rig, RELAY_WAITING);
    handled(&rig, RELAY_DUPLICATE);
    uint64_t parked_us = rig.now_us;
    next_timer(&rig);
    expect(&rig, "due\n");
    assert_in_range(rig.now_us - parked_us, 50000, 100000);
    rig_end(&rig);
}

static void a_source_too_many_is_said(void **state) {
    (void)state;
    struct rig rig;
    rig_start(&rig, NULL, 0);
    static const char *const sources[] = {"one", "two", "three"};
    for (int i = 0; i < 3; i++) {
        rig.pages++;
        step(&rig, (struct relay_event){.kind = REV_PAGE, .peer = sources[i], .page = {.page = &a_page, .upto = 4}});
    }
    expect(&rig, "report\nfree\n");
    assert_non_null(strstr(rig.effects.list[0].text, "three"));
    rig_end(&rig);
}

static void changed_subscriptions_miss_no_handler(void **state) {
    (void)state;
    struct rig rig;
    rig_start(&rig, NULL, 0);
    page(&rig, 1, 5);
    handled(&rig, RELAY_DONE); /* the second of two is at work */
    struct relay_handler changed[] = {{"paid", "public.first"}, {"paid", "public.ship"}, {"paid", "public.thank"}};
    step(&rig, (struct relay_event){.kind = REV_ROUTES, .routes = {NULL, 0, changed, 3, false, false}});
    handled(&rig, RELAY_DONE);
    expect(&rig, "handle shop 0 public.first\n");
    handled(&rig, RELAY_DONE);
    expect(&rig, "handle shop 0 public.ship\n");
    handled(&rig, RELAY_DUPLICATE);
    handled(&rig, RELAY_DUPLICATE);
    expect(&rig, "ack shop 5\nfree\n");
    rig_end(&rig);
}

static void parked_events_are_tried_again(void **state) {
    (void)state;
    struct rig rig;
    rig_start(&rig, NULL, 0);
    static const struct relay_item waiting[] = {
        {.position = 5, .type = "paid", .handler = "public.ship", .source = "shop", .attempts = 1},
        {.position = 2, .type = "paid", .handler = "public.thank", .source = "tea", .attempts = 2}};
    while (strstr(rig.trace, "due") == NULL) {
        next_timer(&rig);
        if (strstr(rig.trace, "claim") != NULL && strstr(rig.trace, "due") == NULL)
            answer(&rig, (struct relay_event){.kind = REV_DB_CLAIM, .claim = {true, 0}});
    }
    rig.pages++;
    assert_true(relay_may_prune(rig.relay, "shop", 9) < 0); /* whatever the answer is, it may be through meanwhile */
    answer(&rig, (struct relay_event){.kind = REV_DB_DUE,
                                      .page = {.page = &a_page, .items = waiting, .count = 2, .ok = true}});
    expect(&rig, "handle shop 0 public.ship\n");
    assert_int_equal(relay_may_prune(rig.relay, "shop", 9), 4);
    assert_int_equal(relay_may_prune(rig.relay, "tea", 9), 1);
    handled(&rig, RELAY_DONE);
    expect(&rig, "handle tea 1 public.thank\n");
    assert_int_equal(relay_may_prune(rig.relay, "shop", 9), 9);
    handled(&rig, RELAY_FAILED);
    expect(&rig, "park tea 1 public.thank\n");
    assert_int_equal(relay_may_prune(rig.relay, "tea", 9), 1);
    parked(&rig, RELAY_DEAD);
    expect(&rig, "report\nfree\ndue\n"); /* something went through: what stood behind it may be due */
    rig_end(&rig);
}

/* ------------------------------------------------------------------- worlds */

enum { EVENTS = 60, KEYS = 5, SUBS = 3, QUEUE = 4096 };

struct w_event {
    int key, version;
    int64_t position; /* 0: not given */
    bool visible;
};
struct w_inbox {
    enum { NOT_THERE, W_DONE, W_WAITING, W_DEAD } state;
    int attempts, effects;
    uint64_t retry_us;
};
struct w_page {
    struct relay_item items[128];
    int events[128];
    uint32_t count;
};
/* Something that will happen later, if its relay is still the one that asked. */
struct w_later {
    uint64_t at_us;
    int node; /* 0: the source; 1..SUBS */
    uint32_t life;
    struct relay_event event;
    char peer[16];
};
struct world {
    uint64_t now_us, random;
    struct w_event events[EVENTS];
    int64_t last_position, offset[SUBS + 1];
    struct w_inbox inbox[SUBS + 1][EVENTS];
    int done_version[SUBS + 1][KEYS];
    struct relay *relays[SUBS + 1];
    void *held[SUBS + 1][8]; /* pages that the relay has and may never give back */
    uint32_t lives[SUBS + 1];
    struct relay_effects effects;
    struct w_later queue[QUEUE];
    int queued;
    bool calm;  /* no more faults */
    bool cured; /* handlers no longer fail */
};

static uint64_t dice(struct world *w, uint64_t n) {
    return unit_random(&w->random) % n;
}

static bool fault(struct world *w, uint64_t percent) {
    return !w->calm && dice(w, 100) < percent;
}

static void later(struct world *w, int node, struct relay_event event, const char *peer) {
    assert_in_range(w->queued, 0, QUEUE - 1);
    struct w_later *l = &w->queue[w->queued++];
    *l = (struct w_later){
        .at_us = w->now_us + 1000 + dice(w, 50000), .node = node, .life = w->lives[node], .event = event};
    if (peer != NULL) (void)snprintf(l->peer, sizeof l->peer, "%s", peer);
}

static const char *name_of(int node) {
    static const char *const names[] = {"source", "s1", "s2", "s3"};
    return names[node];
}

static int node_of(const char *name) {
    return name[0] == 's' && name[1] >= '1' && name[1] <= '3' && name[2] == '\0' ? name[1] - '0' : 0;
}

static int event_at(const struct world *w, int64_t position) {
    for (int i = 0; i < EVENTS; i++)
        if (w->events[i].position == position) return i;
    return -1;
}

/* Each subscriber wants every type but one: keys differ, types follow the key. */
static bool wants(int node, int event_key) {
    return event_key % SUBS != node - 1;
}

static const char *type_of(int key) {
    static const char *const types[] = {"t0", "t1", "t2"};
    return types[key % SUBS];
}

static struct w_page *new_page(void) {
    struct w_page *p = calloc(1, sizeof *p);
    assert_non_null(p);
    return p;
}

static void add_item(struct w_page *p, const struct world *w, int event, bool due, int attempts) {
    p->events[p->count] = event;
    p->items[p->count++] = (struct relay_item){.position = w->events[event].position,
                                               .type = type_of(w->events[event].key),
                                               .handler = due ? "h" : NULL,
                                               .source = due ? "source" : NULL,
                                               .attempts = (uint32_t)attempts};
}

/* The source's database. */
static uint32_t db_claim(struct world *w, uint32_t limit) {
    uint32_t given = 0;
    for (int i = 0; i < EVENTS && given < limit; i++)
        if (w->events[i].visible && w->events[i].position == 0) {
            w->events[i].position = ++w->last_position;
            given++;
        }
    return given;
}

static void db_read(struct world *w, const struct relay_effect *e, struct relay_event *answer_) {
    struct w_page *p = new_page();
    int node = node_of(e->peer);
    int64_t upto = w->last_position;
    for (int64_t position = e->position + 1; position <= w->last_position && p->count < e->limit; position++) {
        int event = event_at(w, position);
        if (wants(node, w->events[event].key)) add_item(p, w, event, false, 0);
    }
    if (p->count == e->limit) upto = p->items[p->count - 1].position;
    answer_->read.ok = true;
    answer_->read.page = p;
    answer_->read.count = p->count;
    answer_->read.upto = upto;
}

/* A subscriber's database: what lockstep.inbox_take() and the handler do, in one transaction. */
static bool blocked(const struct world *w, int node, int event) {
    for (int i = 0; i < EVENTS; i++)
        if (w->events[i].key == w->events[event].key && w->events[i].version < w->events[event].version &&
            (w->inbox[node][i].state == W_WAITING || w->inbox[node][i].state == W_DEAD))
            return true;
    return false;
}

static bool poisoned(const struct world *w, int event) {
    return !w->cured && event % 7 == 3;
}

static enum relay_handled db_handle(struct world *w, int node, int event) {
    struct w_inbox *row = &w->inbox[node][event];
    const struct w_event *e = &w->events[event];
    if (row->state == W_DONE || row->state == W_DEAD) return RELAY_DUPLICATE;
    if (blocked(w, node, event)) {
        if (row->state == NOT_THERE) {
            row->state = W_WAITING;
            row->retry_us = w->now_us;
        }
        return RELAY_QUEUED;
    }
    if (poisoned(w, event) || fault(w, 5)) return RELAY_FAILED;
    row->state = W_DONE;
    row->effects++;
    assert_int_equal(row->effects, 1);
    assert_int_equal(e->version, w->done_version[node][e->key] + 1); /* in the order of its key */
    w->done_version[node][e->key] = e->version;
    return RELAY_DONE;
}

static enum relay_parked db_park(struct world *w, int node, int event, const struct relay_effect *e) {
    struct w_inbox *row = &w->inbox[node][event];
    if (row->state == W_DONE || row->state == W_DEAD) return RELAY_THROUGH;
    row->attempts++;
    row->state = (uint32_t)row->attempts >= e->attempts_max ? W_DEAD : W_WAITING;
    row->retry_us = w->now_us + (uint64_t)e->wait_ms * 1000;
    return row->state == W_DEAD ? RELAY_DEAD : RELAY_WAITING;
}

static void db_due(struct world *w, int node, const struct relay_effect *e, struct relay_event *answer_) {
    struct w_page *p = new_page();
    for (int i = 0; i < EVENTS && p->count < e->limit; i++)
        if (w->inbox[node][i].state == W_WAITING && w->inbox[node][i].retry_us <= w->now_us && !blocked(w, node, i))
            add_item(p, w, i, true, w->inbox[node][i].attempts);
    answer_->page.ok = true;
    answer_->page.page = p;
    answer_->page.items = p->items;
    answer_->page.count = p->count;
}

static void carry_out(struct world *w, int node, const struct relay_effect *e) {
    struct relay_event a = {.op = e->op};
    struct w_page *p = e->page;
    switch (e->kind) {
    case REF_REPORT:
        return;
    case REF_LOOK:
        fail(); /* subscriptions stay as they are here */
        return;
    case REF_FREE_PAGE:
        for (int i = 0; i < 8; i++)
            if (w->held[node][i] == p) w->held[node][i] = NULL;
        free(p);
        return;
    case REF_SEND_PAGE:
        for (int copies = fault(w, 10) ? 0 : fault(w, 20) ? 2 : 1; copies > 0; copies--) {
            struct w_page *copy = new_page();
            *copy = *p;
            a = (struct relay_event){
                .kind = REV_PAGE,
                .page = {.page = copy, .items = copy->items, .count = copy->count, .upto = e->position}};
            later(w, node_of(e->peer), a, "source");
        }
        free(p);
        return;
    case REF_SEND_ACK:
        /* everything up to there stands in the inbox */
        for (int i = 0; i < EVENTS; i++)
            if (w->events[i].position != 0 && w->events[i].position <= e->position && wants(node, w->events[i].key))
                assert_int_not_equal(w->inbox[node][i].state, NOT_THERE);
        if (!fault(w, 10)) later(w, 0, (struct relay_event){.kind = REV_ACK, .position = e->position}, name_of(node));
        return;
    case REF_DB_CLAIM:
        a.kind = REV_DB_CLAIM;
        a.claim.ok = !fault(w, 10);
        a.claim.given = a.claim.ok ? db_claim(w, e->limit) : 0;
        break;
    case REF_DB_READ:
        a.kind = REV_DB_READ;
        if (!fault(w, 10)) db_read(w, e, &a);
        break;
    case REF_DB_STORE:
        a.kind = REV_DB_STORE;
        a.store.ok = !fault(w, 10);
        if (a.store.ok || fault(w, 50)) {
            assert_true(e->position >= w->offset[node_of(e->peer)]);
            w->offset[node_of(e->peer)] = e->position;
        }
        break;
    case REF_DB_HANDLE:
        a.kind = REV_DB_HANDLE;
        a.handle.sqlstate = "P0001";
        a.handle.result = fault(w, 5) ? RELAY_UNKNOWN : db_handle(w, node, p->events[e->index]);
        if (fault(w, 5)) a.handle.result = RELAY_UNKNOWN; /* done, and not heard of */
        break;
    case REF_DB_PARK:
        a.kind = REV_DB_PARK;
        a.park.result = fault(w, 5) ? RELAY_NOT_PARKED : db_park(w, node, p->events[e->index], e);
        if (fault(w, 5)) a.park.result = RELAY_NOT_PARKED;
        break;
    case REF_DB_DUE:
        a.kind = REV_DB_DUE;
        if (!fault(w, 10)) db_due(w, node, e, &a);
        break;
    }
    later(w, node, a, NULL);
}

static void hold(struct world *w, int node, void *page) {
    int i = 0;
    while (i < 8 && w->held[node][i] != NULL) i++;
    assert_true(i < 8);
    w->held[node][i] = page;
}

static void let_go(struct world *w, int node) {
    for (int i = 0; i < 8; i++) {
        free(w->held[node][i]);
        w->held[node][i] = NULL;
    }
    relay_free(w->relays[node]);
    w->relays[node] = NULL;
}

static void world_step(struct world *w, int node, struct relay_event event) {
    event.now_us = w->now_us;
    if ((event.kind == REV_PAGE || event.kind == REV_DB_DUE) && event.page.page != NULL) hold(w, node, event.page.page);
    relay_step(w->relays[node], &event, &w->effects);
    relay_check(w->relays[node]);
    struct relay_effects effects = w->effects;
    w->effects = (struct relay_effects){0};
    for (size_t i = 0; i < effects.count; i++) carry_out(w, node, &effects.list[i]);
    relay_effects_free(&effects);
}

/* A new life: what it knows is what its database has. */
static void birth(struct world *w, int node) {
    struct relay_config config;
    relay_config_defaults(&config);
    config.page_max = 4;
    config.claim_max = 5;
    config.attempts_max = 4;
    config.ack_wait_us = 500000;
    config.backoff_min_us = 1000;
    config.backoff_max_us = 100000;
    config.seed = dice(w, 1u << 30);
    let_go(w, node);
    w->relays[node] = relay_new(&config);
    assert_non_null(w->relays[node]);
    w->lives[node]++;
    struct relay_subscriber who[SUBS];
    struct relay_handler handlers[SUBS];
    uint32_t count = 0;
    for (int s = 1; s <= SUBS; s++) {
        who[s - 1] = (struct relay_subscriber){name_of(s), w->offset[s]};
        if (node != 0 && wants(node, s - 1)) handlers[count++] = (struct relay_handler){type_of(s - 1), "h"};
    }
    world_step(
        w, node,
        (struct relay_event){.kind = REV_ROUTES, .routes = {who, node == 0 ? SUBS : 0, handlers, count, false, false}});
    for (int s = 1; node == 0 && s <= SUBS; s++)
        world_step(w, 0, (struct relay_event){.kind = REV_PEER_UP, .peer = name_of(s)});
}

static void drop(const struct w_later *l) {
    if (l->event.kind == REV_PAGE || l->event.kind == REV_DB_DUE) free(l->event.page.page);
    if (l->event.kind == REV_DB_READ) free(l->event.read.page);
}

static void trouble(struct world *w) {
    if (fault(w, 2)) birth(w, (int)dice(w, SUBS + 1));
    if (fault(w, 3)) {
        const char *peer = name_of(1 + (int)dice(w, SUBS));
        world_step(w, 0, (struct relay_event){.kind = REV_PEER_DOWN, .peer = peer});
        later(w, 0, (struct relay_event){.kind = REV_PEER_UP}, peer);
    }
    /* a writer commits; those of one key one after the other */
    int i = (int)dice(w, EVENTS);
    while (i >= KEYS && !w->events[i - KEYS].visible) i -= KEYS;
    if (dice(w, 3) == 0 || w->calm) w->events[i].visible = true;
}

/* The earliest that is due, or a timer. */
static void turn(struct world *w) {
    uint64_t at = RELAY_NEVER;
    int first = -1, ringing = -1;
    for (int i = 0; i < w->queued; i++)
        if (w->queue[i].at_us < at) at = w->queue[i].at_us, first = i;
    for (int n = 0; n <= SUBS; n++)
        if (relay_next_timer(w->relays[n]) < at) at = relay_next_timer(w->relays[n]), ringing = n, first = -1;
    assert_true(at != RELAY_NEVER);
    if (at > w->now_us) w->now_us = at;
    if (first < 0) {
        world_step(w, ringing, (struct relay_event){.kind = REV_TICK});
        return;
    }
    struct w_later l = w->queue[first];
    w->queue[first] = w->queue[--w->queued];
    bool message = l.event.kind == REV_PAGE || l.event.kind == REV_ACK;
    if (!message && l.life != w->lives[l.node]) {
        drop(&l); /* whoever asked is dead */
        return;
    }
    l.event.peer = l.peer;
    world_step(w, l.node, l.event);
}

static bool finished(const struct world *w) {
    for (int i = 0; i < EVENTS; i++)
        for (int s = 1; s <= SUBS; s++)
            if (wants(s, w->events[i].key) && w->inbox[s][i].state != W_DONE) return false;
    return true;
}

/* A human's word about every dead letter. */
static void revive(struct world *w) {
    for (int s = 1; s <= SUBS; s++)
        for (int i = 0; i < EVENTS; i++)
            if (w->inbox[s][i].state == W_DEAD)
                w->inbox[s][i] = (struct w_inbox){.state = W_WAITING, .effects = w->inbox[s][i].effects};
}

static void run_world(uint64_t seed) {
    struct world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    w->random = seed;
    w->now_us = 1;
    for (int i = 0; i < EVENTS; i++) w->events[i] = (struct w_event){.key = i % KEYS, .version = i / KEYS + 1};
    for (int n = 0; n <= SUBS; n++) birth(w, n);
    for (int t = 0; t < 3000; t++) {
        trouble(w);
        turn(w);
    }
    w->calm = true;
    for (int t = 0; t < 3000; t++) {
        trouble(w);
        turn(w);
    }
    w->cured = true;
    int turns = 0;
    for (; !finished(w) && turns < 100000; turns++) {
        if (turns % 100 == 0) revive(w);
        trouble(w);
        turn(w);
    }
    if (!finished(w)) fail_msg("seed %" PRIu64 ": events are left that never acted", seed);
    for (int s = 1; s <= SUBS; s++) assert_true(w->offset[s] <= w->last_position);
    for (int i = 0; i < w->queued; i++) drop(&w->queue[i]);
    for (int n = 0; n <= SUBS; n++) let_go(w, n);
    free(w);
}

static void worlds(void **state) {
    (void)state;
    const char *given = getenv("RELAY_SEEDS");
    uint64_t count = given != NULL ? strtoull(given, NULL, 10) : 200;
    for (uint64_t seed = 1; seed <= count; seed++) run_world(seed);
}

/* The class "publish" stands in the coordinator's table; the agents carry it out. */
static void the_table_of_errors_says_what_is_done(void **state) {
    struct relay_config config;
    const struct saga_policy *policy = saga_policy(SAGA_ERROR_PUBLISH);
    (void)state;
    relay_config_defaults(&config);
    assert_int_equal(policy->attempts, config.attempts_max);
    assert_int_equal(policy->backoff_min_us, config.backoff_min_us);
    assert_int_equal(policy->backoff_max_us, config.backoff_max_us);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_table_of_errors_says_what_is_done),
        cmocka_unit_test(nothing_is_claimed_before_it_is_known_who_subscribes),
        cmocka_unit_test(one_page_at_a_time_and_stored_when_acknowledged),
        cmocka_unit_test(what_a_claim_has_found_is_read),
        cmocka_unit_test(what_a_claim_has_found_is_read_though_its_answer_is_lost),
        cmocka_unit_test(a_claim_during_a_read_is_not_forgotten),
        cmocka_unit_test(an_earlier_page_may_be_acknowledged),
        cmocka_unit_test(a_page_that_is_not_full_may_be_followed),
        cmocka_unit_test(what_is_not_acknowledged_is_sent_again),
        cmocka_unit_test(backing_off_has_an_end_and_grows),
        cmocka_unit_test(only_who_subscribes_is_sent_to),
        cmocka_unit_test(what_has_no_handler_is_not_passed_over_before_another_look),
        cmocka_unit_test(each_handler_of_each_event_then_the_acknowledgement),
        cmocka_unit_test(a_handler_that_fails_is_parked_and_the_page_goes_on),
        cmocka_unit_test(what_is_not_known_to_be_stored_is_not_passed),
        cmocka_unit_test(what_is_at_work_stays_in_the_inbox),
        cmocka_unit_test(a_lost_answer_is_counted),
        cmocka_unit_test(a_retry_comes_when_it_is_due),
        cmocka_unit_test(a_source_too_many_is_said),
        cmocka_unit_test(changed_subscriptions_miss_no_handler),
        cmocka_unit_test(looks_for_what_is_new),
        cmocka_unit_test(the_rest_after_a_slow_look_has_an_end),
        cmocka_unit_test(positions_that_go_back),
        cmocka_unit_test(parked_events_are_tried_again),
        cmocka_unit_test(worlds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
