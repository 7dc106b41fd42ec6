/*
 * agent.c: dispatch of events, start-up order, credits, timers.
 *
 *   NEW -> LOCKING -> CLEANING -> IDENTIFYING -> DIALLING -> GREETING -> [ACCEPTING] -> ASKING -> SERVING
 *             ^                                    ^   |
 *             |                                    +---+-- link lost, refused, silent
 *             +-- control session lost (from everywhere)
 *
 * Why this order: the lock comes first, for two agents of one name would each take the other's sessions for leftovers.
 * Backends of earlier lives are gone before anything is listed, or they would prepare behind the scan (hazards 1.5).
 * The fence is compared, and if it is new stored, before the coordinator is obeyed in anything (design 2.9). The first
 * scan is asked about before Work is taken, for its orphans hold locks that the Work would wait for.
 */
#include "participant/core/agent.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "participant/core/agent_internal.h"

/* ------------------------------------------------------------------ helpers */

struct agent_effect *agent_emit(struct agent *a, enum agent_effect_kind kind) {
    struct agent_effects *out = a->out;
    if (out->count == out->capacity) {
        size_t capacity = out->capacity == 0 ? 64 : out->capacity * 2;
        struct agent_effect *list = realloc(out->list, capacity * sizeof(*list));
        if (list == NULL) abort(); /* a half-made step must not be acted on: die and recover */
        out->list = list;
        out->capacity = capacity;
    }
    struct agent_effect *effect = &out->list[out->count++];
    memset(effect, 0, sizeof(*effect));
    effect->kind = kind;
    effect->link = a->link;
    return effect;
}

static const char *keep_text(struct agent *a, const char *from) {
    size_t size = strlen(from) + 1;
    struct agent_text *text = malloc(sizeof(*text) + size);
    if (text == NULL) abort(); /* as in agent_emit */
    memcpy(text->text, from, size);
    text->next = a->texts;
    a->texts = text;
    return text->text;
}

const char *agent_text(struct agent *a, const char *fmt, ...) {
    char buffer[LS_REASON_MAX + 1];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(buffer, sizeof(buffer), fmt, args); /* cut is fine: reasons are for humans */
    va_end(args);
    return keep_text(a, buffer);
}

void agent_report(struct agent *a, bool alarm, const char *gtid, const char *fmt, ...) {
    char buffer[LS_REASON_MAX + 1];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(buffer, sizeof(buffer), fmt, args);
    va_end(args);
    struct agent_effect *effect = agent_emit(a, AEF_REPORT);
    effect->text = keep_text(a, buffer);
    effect->gtid = gtid != NULL ? keep_text(a, gtid) : NULL;
    effect->report.alarm = alarm;
}

uint64_t agent_new_op(struct agent *a, uint32_t slot) {
    assert(slot <= SLOT_MASK);
    return ++a->serial << SLOT_BITS | slot;
}

/* splitmix64 (Steele, Lea, Flood 2014): the seed is data, so the same events give the same effects. */
static uint64_t next_random(struct agent *a) {
    uint64_t z = a->random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* Doubles with each attempt; between half of it and all of it, so that many do not come back at once. */
uint64_t agent_backoff_us(struct agent *a, uint32_t attempts, uint64_t min_us, uint64_t max_us) {
    uint64_t us = min_us;
    for (uint32_t i = 1; i < attempts && us < max_us; i++) us *= 2;
    if (us > max_us) us = max_us;
    return us / 2 + next_random(a) % (us / 2 + 1);
}

void agent_stop(struct agent *a, int exit_status, const char *text) {
    struct agent_effect *effect = agent_emit(a, AEF_STOP);
    effect->text = text;
    effect->stop.exit_status = exit_status;
    agent_become(a, AGENT_STOPPED);
}

void agent_become(struct agent *a, enum agent_state state) {
    assert(a->state != AGENT_STOPPED || state == AGENT_STOPPED);
    a->state = state;
}

/* ------------------------------------------------------------------ start-up */

static void start_step(struct agent *a, enum agent_state state, enum agent_effect_kind kind) {
    agent_become(a, state);
    a->retry_us = AGENT_NEVER;
    a->control_op = agent_new_op(a, SLOT_CONTROL);
    agent_emit(a, kind)->op = a->control_op;
}

static void start_again_later(struct agent *a) {
    a->control_op = 0;
    a->attempts++;
    a->retry_us = a->now_us + agent_backoff_us(a, a->attempts, a->config.backoff_min_us, a->config.backoff_max_us);
}

static void on_lock(struct agent *a, enum agent_lock_result result) {
    switch (result) {
    case AGENT_LOCK_TAKEN:
        a->attempts = 0;
        a->lock_held_us = AGENT_NEVER;
        start_step(a, AGENT_CLEANING, AEF_DB_CLEAN);
        return;
    case AGENT_LOCK_HELD:
        /* The backend of a life that ended a moment ago may still hold it; a living second agent holds it for ever. */
        if (a->lock_held_us == AGENT_NEVER) a->lock_held_us = a->now_us;
        if (a->now_us - a->lock_held_us >= a->config.lock_wait_us) {
            agent_stop(
                a, LS_EXIT_CONFIG,
                agent_text(a,
                           "another agent for participant %s is connected to this database: it holds the advisory lock",
                           a->config.participant));
            return;
        }
        start_again_later(a);
        return;
    case AGENT_LOCK_FAILED:
        a->lock_held_us = AGENT_NEVER;
        start_again_later(a);
        return;
    }
    assert(false && "lock result");
}

/* A newer stored fence than the one in memory: another agent served meanwhile, while the lock was not ours. */
static void learn_stored_fence(struct agent *a, bool has_fence, const struct agent_fence *fence) {
    a->has_stored = has_fence;
    a->has_handed = has_fence;
    a->fence_op = 0; /* a store still on its way may or may not be in what was read: it is handed out again */
    if (!has_fence) return;
    a->stored = a->handed = *fence;
    if (!a->has_fence || strcmp(a->fence.incarnation, fence->incarnation) != 0 || a->fence.epoch < fence->epoch ||
        a->fence.position < fence->position) {
        a->has_fence = true;
        a->fence = *fence;
    }
}

static void check_quarantine(struct agent *a) {
    const struct agent_server *s = &a->server;
    bool was = a->quarantined;

    if (a->voted_timeline != 0 && a->voted_system_id == s->system_id && a->voted_timeline == s->timeline &&
        s->insert_lsn < a->voted_lsn)
        a->lost_timeline = s->timeline; /* it grows again, so this is remembered: a later look would not show it */
    bool older = a->voted_timeline != 0 && a->voted_system_id == s->system_id && s->timeline < a->voted_timeline;
    a->quarantined = older || (a->lost_timeline != 0 && a->lost_timeline == s->timeline);
    if (a->quarantined && !was)
        agent_report(a, true, NULL,
                     "quarantine: the server (timeline %" PRIu32 ", WAL end %" PRIX64
                     ") has lost what this agent voted with (timeline %" PRIu32 ", %" PRIX64 "); it gets no work",
                     s->timeline, s->insert_lsn, a->voted_timeline, a->voted_lsn);
}

void agent_read_identity(struct agent *a) {
    a->retry_us = AGENT_NEVER;
    a->control_op = agent_new_op(a, SLOT_CONTROL);
    agent_emit(a, AEF_DB_IDENTITY)->op = a->control_op;
}

static void on_identity(struct agent *a, const struct agent_event *event) {
    if (!event->identity.ok) {
        start_again_later(a);
        return;
    }
    assert(event->identity.history_count <= AGENT_HISTORY_MAX);
    a->control_op = 0;
    a->attempts = 0;
    bool changed = a->server.system_id != 0 && (a->server.system_id != event->identity.server.system_id ||
                                                a->server.timeline != event->identity.server.timeline);
    a->server = event->identity.server;
    a->history_count = event->identity.history_count;
    if (a->history_count > 0) memcpy(a->history, event->identity.history, a->history_count * sizeof(*a->history));
    a->max_prepared = event->identity.max_prepared;
    a->history_serial += changed ? 1u : 0u;
    if (changed)
        agent_report(a, false, NULL, "the server is now system %" PRIu64 " on timeline %" PRIu32, a->server.system_id,
                     a->server.timeline);
    if (a->max_prepared == 0) {
        agent_stop(a, LS_EXIT_CONFIG,
                   "max_prepared_transactions is 0: alter system set max_prepared_transactions = 200, then restart the "
                   "server");
        return;
    }
    learn_stored_fence(a, event->identity.has_fence, &event->identity.fence);
    check_quarantine(a);
    if (a->state == AGENT_IDENTIFYING) {
        drive_on_server_back(a);
        link_dial(a);
    } else if (a->state == AGENT_GREETING)
        link_say_hello(a);
    else if (!a->quarantined || changed)
        link_drop(a, NULL); /* out of quarantine, or another history: begin with a new Hello */
    else
        a->retry_us = a->now_us + a->config.sweep_us;
}

static bool is_control_answer(const struct agent *a, const struct agent_event *event) {
    return a->control_op != 0 && event->op == a->control_op;
}

static void on_clean(struct agent *a, bool ok) {
    if (!ok) {
        start_again_later(a);
        return;
    }
    a->attempts = 0;
    start_step(a, AGENT_IDENTIFYING, AEF_DB_IDENTITY);
}

/* Somebody else may hold the lock now: no coordinator may think that this agent serves, and nothing is taken up before
 * it is ours again. */
static void on_control_lost(struct agent *a) {
    if (a->state == AGENT_NEW || a->state == AGENT_STOPPED) return;
    link_lose(a);
    a->dialling = false;
    a->lock_held_us = AGENT_NEVER;
    agent_become(a, AGENT_LOCKING);
    start_again_later(a);
}

static void control_retry(struct agent *a) {
    a->retry_us = AGENT_NEVER;
    switch (a->state) {
    case AGENT_LOCKING:
        start_step(a, AGENT_LOCKING, AEF_DB_LOCK);
        return;
    case AGENT_CLEANING:
        start_step(a, AGENT_CLEANING, AEF_DB_CLEAN);
        return;
    case AGENT_IDENTIFYING:
    case AGENT_GREETING:
    case AGENT_ASKING:
        agent_read_identity(a);
        return;
    case AGENT_DIALLING:
        link_dial(a);
        return;
    case AGENT_NEW:
    case AGENT_ACCEPTING:
    case AGENT_SERVING:
    case AGENT_STOPPED:
    case AGENT_STATE_COUNT:
        break;
    }
    assert(false && "nothing to try again in this state");
}

/* ------------------------------------------------------------------- credits */

static uint32_t slot_share(const struct agent *a) {
    uint64_t share = (uint64_t)a->max_prepared * a->config.prepared_share / 100;
    return share == 0 ? 1 : share > UINT32_MAX ? UINT32_MAX : (uint32_t)share;
}

/*
 * How many branches the coordinator may have here at once. It counts those it knows of; what it no longer counts (a NO
 * that is still being cleaned up, what an earlier link left prepared, what a verdict is about) is subtracted here: see
 * table_count().
 */
uint32_t agent_credits(const struct agent *a) {
    if (a->drained || a->quarantined) return 0;
    uint32_t workers = a->lingering_workers, slots = a->lingering_slots;
    uint32_t share = slot_share(a);
    uint32_t free_workers = workers >= a->config.workers_max ? 0 : a->config.workers_max - workers;
    uint32_t free_slots = slots >= share ? 0 : share - slots;
    return free_workers < free_slots ? free_workers : free_slots;
}

static void tell_credits(struct agent *a) {
    if (a->state != AGENT_SERVING) return;
    uint32_t credits = agent_credits(a);
    if (credits == a->credits_told) return;
    a->credits_told = credits;
    if (credits > a->credits_most) a->credits_most = credits;
    agent_emit(a, AEF_SEND_CREDIT)->credit.credits = credits;
}

static void tell_drained(struct agent *a) {
    if (!a->drained || a->drain_told) return;
    for (const struct agent_branch *b = a->order_first; b != NULL; b = b->order_next)
        if (b->state != AGB_PREPARED) return;
    a->drain_told = true;
    agent_emit(a, AEF_DRAINED);
}

/* -------------------------------------------------------------------- timers */

static void min_us(uint64_t *least, uint64_t us) {
    if (us < *least) *least = us;
}

uint64_t agent_next_timer(const struct agent *a) {
    uint64_t least = AGENT_NEVER;
    if (a->state == AGENT_STOPPED || a->state == AGENT_NEW) return least;
    const struct agent_branch *b = table_first_timer(a);
    if (b != NULL) min_us(&least, b->timer_us);
    min_us(&least, a->retry_us);
    if (a->state == AGENT_GREETING) min_us(&least, a->greet_due_us);
    min_us(&least, a->fence_us);
    min_us(&least, a->sweep_us);
    min_us(&least, a->kept_us);
    if (a->inquiry_token != 0) min_us(&least, a->inquiry_due_us);
    return least;
}

static void on_tick(struct agent *a) {
    /* A branch's timer moves forward when it fires (asserted), so this ends; its number is bounded by the table. */
    for (struct agent_branch *b; (b = table_first_timer(a)) != NULL && b->timer_us <= a->now_us;) {
        uint64_t fired_us = b->timer_us;
        drive_on_timer(a, b);
        assert(b->state == AGB_ENDED || b->timer_us > fired_us);
    }
    link_tick(a);
    if (a->retry_us <= a->now_us) control_retry(a);
    if (a->fence_us <= a->now_us) {
        a->fence_us = AGENT_NEVER;
        link_store_fence(a, false);
    }
    sweep_tick(a);
    kept_tick(a);
}

/* ------------------------------------------------------------------ dispatch */

/* The branch that waits for this answer, which is thereby no longer outstanding; NULL: nobody waits. */
static struct agent_branch *take_answer(struct agent *a, const struct agent_event *event) {
    struct agent_branch *b = table_find_op(a, event->op);
    if (b == NULL) return NULL;
    bool stop = event->op == b->stop_op;
    assert(stop == (event->kind == AEV_DB_STOP)); /* or the host mixed up two operations */
    *(stop ? &b->stop_op : &b->op) = 0;
    return b;
}

static bool is_frame(enum agent_event_kind kind) {
    return kind >= AEV_WELCOME && kind <= AEV_FORGET;
}

static bool is_branch_answer(enum agent_event_kind kind) {
    return kind >= AEV_DB_RUN && kind <= AEV_DB_SETTLE;
}

static void dispatch(struct agent *a, const struct agent_event *event) {
    struct agent_branch *b = NULL;

    if (is_frame(event->kind) && !link_take_frame(a, event)) {
        if (event->kind == AEV_WORK) agent_emit(a, AEF_FREE_WORK)->free_work.work = event->work.work;
        return;
    }
    if (is_branch_answer(event->kind) && (b = take_answer(a, event)) == NULL) return;
    switch (event->kind) {
    case AEV_START:
        assert(a->state == AGENT_NEW);
        start_step(a, AGENT_LOCKING, AEF_DB_LOCK);
        return;
    case AEV_TICK:
        on_tick(a);
        return;
    case AEV_DRAIN:
        a->drained = true;
        return;
    case AEV_CONTROL_LOST:
        on_control_lost(a);
        return;
    case AEV_LINK_UP:
        link_on_up(a, event);
        return;
    case AEV_LINK_DOWN:
        link_on_down(a, event);
        return;
    case AEV_WELCOME:
        link_on_welcome(a, event);
        return;
    case AEV_PONG:
    case AEV_RELAYED:
        return;
    case AEV_PING:
        agent_emit(a, AEF_SEND_PONG)->pong.token = event->ping.token;
        return;
    case AEV_WORK:
        drive_on_work(a, event);
        return;
    case AEV_DECIDE:
        drive_on_decide(a, &event->decide, false);
        return;
    case AEV_PROVE:
        drive_on_decide(a, &event->decide, true);
        return;
    case AEV_SETTLE:
        drive_on_settle(a, event->settle.gtid);
        return;
    case AEV_ANSWER:
        sweep_on_answer(a, event);
        return;
    case AEV_FORGET:
        kept_on_forget(a, event);
        return;
    case AEV_DB_LOCK:
        if (is_control_answer(a, event)) on_lock(a, event->lock.result);
        return;
    case AEV_DB_CLEAN:
        if (is_control_answer(a, event)) on_clean(a, event->clean.ok);
        return;
    case AEV_DB_IDENTITY:
        if (is_control_answer(a, event)) on_identity(a, event);
        return;
    case AEV_DB_FENCE:
        link_on_fence_stored(a, event);
        return;
    case AEV_DB_SCAN:
        if (a->scan_op != 0 && event->op == a->scan_op) sweep_on_scan(a, event);
        return;
    case AEV_DB_KEPT:
        if (a->kept_op != 0 && event->op == a->kept_op) kept_on_page(a, event);
        return;
    case AEV_DB_FORGET:
        if (a->forget_op != 0 && event->op == a->forget_op) kept_on_forgotten(a, event);
        return;
    case AEV_DB_RUN:
        drive_on_run(a, b, &event->run);
        return;
    case AEV_DB_COMMIT1:
        drive_on_commit1(a, b, event);
        return;
    case AEV_DB_ROLLBACK:
        drive_on_rollback(a, b, event->rollback.session);
        return;
    case AEV_DB_STOP:
        drive_on_stop(a, b, event->stop.gone);
        return;
    case AEV_DB_FINISH:
        drive_on_finish(a, b, &event->finish.answer);
        return;
    case AEV_DB_PROVE:
        drive_on_prove(a, b, event);
        return;
    case AEV_DB_READ_KEY:
        drive_on_key(a, b, event);
        return;
    case AEV_DB_SETTLE:
        drive_on_settled(a, b, event->settled.result, event->settled.app);
        return;
    }
    assert(false && "event kind");
}

void agent_step(struct agent *a, const struct agent_event *event, struct agent_effects *effects) {
    assert(event->now_us >= a->now_us);
    assert(event->kind == AEV_START || a->state != AGENT_NEW);
    while (a->texts != NULL) {
        struct agent_text *text = a->texts;
        a->texts = text->next;
        free(text);
    }
    table_bury(a);
    effects->count = 0;
    a->out = effects;
    a->now_us = event->now_us;
    if (a->state == AGENT_STOPPED) {
        if (event->kind == AEV_WORK) agent_emit(a, AEF_FREE_WORK)->free_work.work = event->work.work;
    } else {
        dispatch(a, event);
    }
    if (a->state != AGENT_STOPPED) {
        tell_credits(a);
        tell_drained(a);
    }
    a->out = NULL;
}

/* ------------------------------------------------------------- life and views */

void agent_config_defaults(struct agent_config *config) {
    memset(config, 0, sizeof(*config));
    config->workers_max = LS_DEFAULT_WORKERS_MAX;
    config->prepared_share = LS_DEFAULT_PREPARED_SHARE;
    config->recovered_max = AGENT_DEFAULT_RECOVERED_MAX;
    config->finished_max = AGENT_DEFAULT_FINISHED_MAX;
    config->sweep_us = LS_DEFAULT_SWEEP_S * UINT64_C(1000000);
    config->grace_us = AGENT_DEFAULT_GRACE_MS * UINT64_C(1000);
    config->lock_wait_us = AGENT_DEFAULT_LOCK_WAIT_MS * UINT64_C(1000);
    config->link_answer_us = LS_LINK_ANSWER_MS * UINT64_C(1000);
    config->backoff_min_us = UINT64_C(50000);
    config->backoff_max_us = UINT64_C(5000000);
    config->dial_min_us = LS_DIAL_BACKOFF_MS_MIN * UINT64_C(1000);
    config->dial_max_us = LS_DIAL_BACKOFF_MS_MAX * UINT64_C(1000);
}

static void assert_config(const struct agent_config *c) {
    assert(ls_name_valid(c->participant, LS_PARTICIPANT_MAX));
    assert(ls_name_valid(c->coordinator, LS_COORDINATOR_MAX));
    assert(c->workers_max >= 1 && c->workers_max <= SLOT_MASK / 4);
    assert(c->prepared_share >= 1 && c->prepared_share <= 100);
    assert(c->recovered_max >= 1 && c->recovered_max <= SLOT_MASK / 4);
    assert(c->finished_max >= 1 && c->finished_max <= 1u << 24);
    assert(c->sweep_us >= 1 && c->link_answer_us >= 1);
    assert(c->backoff_min_us >= 1 && c->backoff_max_us >= c->backoff_min_us);
    assert(c->dial_min_us >= 1 && c->dial_max_us >= c->dial_min_us);
}

struct agent *agent_new(const struct agent_config *config) {
    assert_config(config);
    struct agent *a = calloc(1, sizeof(*a));
    if (a == NULL) return NULL;
    a->config = *config;
    a->random = config->seed;
    a->retry_us = a->fence_us = a->sweep_us = a->kept_us = a->lock_held_us = AGENT_NEVER;
    a->history = calloc(AGENT_HISTORY_MAX, sizeof(*a->history));
    a->items = calloc(AGENT_INQUIRY_ITEMS_MAX, sizeof(*a->items));
    a->item_out = calloc(AGENT_INQUIRY_ITEMS_MAX, sizeof(*a->item_out));
    a->kept_sagas = calloc(LS_KEPT_PAGE_MAX, sizeof(*a->kept_sagas));
    if (!table_new(a) || a->history == NULL || a->items == NULL || a->item_out == NULL || a->kept_sagas == NULL) {
        agent_free(a);
        return NULL;
    }
    return a;
}

void agent_free(struct agent *a) {
    if (a == NULL) return;
    while (a->texts != NULL) {
        struct agent_text *text = a->texts;
        a->texts = text->next;
        free(text);
    }
    table_free(a);
    free(a->history);
    free(a->items);
    free(a->item_out);
    free(a->kept_sagas);
    free(a);
}

void agent_effects_free(struct agent_effects *effects) {
    free(effects->list);
    memset(effects, 0, sizeof(*effects));
}

const char *agent_state_name(enum agent_state state) {
    static const char *const names[AGENT_STATE_COUNT] = {
        [AGENT_NEW] = "new",
        [AGENT_LOCKING] = "locking",
        [AGENT_CLEANING] = "cleaning",
        [AGENT_IDENTIFYING] = "identifying",
        [AGENT_DIALLING] = "dialling",
        [AGENT_GREETING] = "greeting",
        [AGENT_ACCEPTING] = "accepting",
        [AGENT_ASKING] = "asking",
        [AGENT_SERVING] = "serving",
        [AGENT_STOPPED] = "stopped",
    };
    assert(state < AGENT_STATE_COUNT);
    return names[state];
}

void agent_stats(const struct agent *a, struct agent_stats *ret_stats) {
    *ret_stats = a->stats;
    ret_stats->state = a->state;
    ret_stats->link = a->link;
    ret_stats->quarantined = a->quarantined;
    ret_stats->drained = a->drained;
    ret_stats->credits = a->credits_told;
    ret_stats->branches = a->branch_count;
    for (const struct agent_branch *b = a->order_first; b != NULL; b = b->order_next) {
        ret_stats->running +=
            b->state == AGB_RUNNING || b->state == AGB_PREPARING || b->state == AGB_COMMITTING ? 1u : 0u;
        ret_stats->open += b->state == AGB_OPEN ? 1u : 0u;
        ret_stats->prepared += b->state == AGB_PREPARED ? 1u : 0u;
        ret_stats->finishing += b->state == AGB_FINISHING || b->state == AGB_PROVING ? 1u : 0u;
        ret_stats->lingering += b->holds_credit ? 0u : 1u;
    }
}

const struct agent_branch *agent_find(const struct agent *a, const char *gtid) {
    struct ls_gtid id;
    return ls_gtid_parse(gtid, &id) == LS_OK ? table_find(a, &id) : NULL;
}

const struct agent_branch *agent_next(const struct agent *a, const struct agent_branch *previous) {
    return previous == NULL ? a->order_first : previous->order_next;
}

void agent_check(const struct agent *a) {
    table_check(a);
    for (const struct agent_branch *b = a->order_first; b != NULL; b = b->order_next) drive_check(a, b);
    bool linked = a->state == AGENT_GREETING || a->state == AGENT_ACCEPTING || a->state == AGENT_ASKING ||
                  a->state == AGENT_SERVING;
    assert(linked == (a->link != 0) || a->state == AGENT_STOPPED);
    assert(!link_welcomed(a) || a->has_fence);
    assert(a->item_count <= AGENT_INQUIRY_ITEMS_MAX && a->history_count <= AGENT_HISTORY_MAX);
    assert(a->recovered_count <= a->config.recovered_max);
    assert(!a->has_stored || a->has_handed);
    /* Something always moves it on: an operation, a timer, or the peer. */
    if (a->state == AGENT_LOCKING || a->state == AGENT_CLEANING || a->state == AGENT_IDENTIFYING)
        assert((a->control_op != 0) != (a->retry_us != AGENT_NEVER));
    if (a->state == AGENT_DIALLING) assert(a->dialling != (a->retry_us != AGENT_NEVER));
    if (a->state == AGENT_SERVING && a->speaks_saga)
        assert(a->kept_us != AGENT_NEVER || a->kept_op != 0 || (a->forget_op != 0 && a->kept_cycle));
    if (a->state == AGENT_SERVING) assert(a->sweep_us != AGENT_NEVER || a->scan_op != 0 || a->inquiry_token != 0);
}
