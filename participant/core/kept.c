/*
 * kept.c: what the database keeps for others' sake, and when it may go: barrier rows of sagas, and outcome rows.
 *
 * Both answer questions that somebody may still ask, so they go on the coordinator's word alone. One cycle each sweep
 * interval, beginning one interval after Ready, page by page (LS_KEPT_PAGE_MAX sagas, ordered by id): DB_KEPT -> Kept
 * -> Forget -> DB_FORGET (those sagas' rows, and the horizon), again until no outcome row below the horizon is left.
 * An answer that never comes costs nothing but the next try. A Forget that was not asked for (of a saga that has just
 * ended) is carried out too, if nothing else is on its way and the last one has had its rest: one saga at a time costs
 * as much as a page of them, and what was passed over is in the next page.
 *
 * The horizon is never moved over a one-participant transaction that is still in the table here.
 */
#include <assert.h>
#include <string.h>

#include "participant/core/agent_internal.h"

static void next_cycle(struct agent *a) {
    a->kept_after[0] = '\0';
    a->kept_token = 0;
    a->kept_us = a->now_us + a->config.sweep_us;
}

void kept_begin(struct agent *a) {
    if (a->speaks_saga) next_cycle(a);
}

void kept_end_of_link(struct agent *a) {
    a->kept_op = a->forget_op = 0;
    a->kept_token = 0;
    a->kept_cycle = false;
    a->kept_us = AGENT_NEVER;
    a->forget_rest_us = 0;
}

static void read_page(struct agent *a) {
    a->kept_us = AGENT_NEVER;
    struct agent_effect *effect = agent_emit(a, AEF_DB_KEPT);
    effect->op = a->kept_op = agent_new_op(a, SLOT_CONTROL);
    effect->kept_page.after = a->kept_after;
    effect->kept_page.limit = LS_KEPT_PAGE_MAX;
}

/* Of this coordinator's present log: nobody else can say that it has ended. */
static bool is_ours(const struct agent *a, const char *saga) {
    struct ls_gtid id;
    return ls_gtid_parse(saga, &id) == LS_OK && strcmp(id.coordinator, a->config.coordinator) == 0 &&
           strcmp(id.incarnation, a->fence.incarnation) == 0;
}

static void ask(struct agent *a, const struct agent_event *event) {
    struct agent_effect *effect = agent_emit(a, AEF_SEND_KEPT);
    effect->kept.token = a->kept_token = ++a->serial;
    for (uint32_t i = 0; i < event->kept.count; i++)
        if (is_ours(a, event->kept.sagas[i])) a->kept_sagas[effect->kept.count++] = event->kept.sagas[i];
    effect->kept.sagas = a->kept_sagas;
    a->kept_us = a->now_us + a->config.sweep_us; /* if no answer comes */
}

void kept_on_page(struct agent *a, const struct agent_event *event) {
    a->kept_op = 0;
    if (!event->kept.ok) {
        next_cycle(a);
        return;
    }
    uint32_t count = event->kept.count;
    assert(count <= LS_KEPT_PAGE_MAX);
    bool first = a->kept_after[0] == '\0';
    a->kept_more = count == LS_KEPT_PAGE_MAX;
    if (count > 0) {
        const char *last = event->kept.sagas[count - 1];
        assert(strlen(last) < sizeof(a->kept_after) && strcmp(last, a->kept_after) > 0);
        memcpy(a->kept_after, last, strlen(last) + 1);
    }
    if (first || count > 0)
        ask(a, event); /* an empty first page too: the answer says how far outcome rows may go */
    else
        next_cycle(a);
}

static bool below(const struct ls_gtid *id, uint32_t epoch, uint64_t sequence) {
    return id->epoch < epoch || (id->epoch == epoch && id->sequence <= sequence);
}

/* Something here may still ask for its outcome row, or write it. */
static bool horizon_is_busy(const struct agent *a, uint32_t epoch, uint64_t sequence) {
    for (const struct agent_branch *b = a->order_first; b != NULL; b = b->order_next)
        if (b->one_phase && strcmp(b->id.incarnation, a->fence.incarnation) == 0 && below(&b->id, epoch, sequence))
            return true;
    return false;
}

static void emit_forget(struct agent *a, const struct agent_event *event) {
    /* A log that does not know of a saga's end would have its steps done once more without their rows. */
    if (event != NULL) link_store_fence(a, false);
    struct agent_effect *effect = agent_emit(a, AEF_DB_FORGET);
    effect->op = a->forget_op = agent_new_op(a, SLOT_CONTROL);
    effect->forget.incarnation = a->fence.incarnation;
    effect->forget.prune = a->kept_cycle || event == NULL || event->forget.has_horizon;
    if (event == NULL) return; /* only what lies below the stored horizon */
    effect->forget.sagas = event->forget.sagas;
    effect->forget.count = event->forget.count;
    effect->forget.has_horizon =
        event->forget.has_horizon && !horizon_is_busy(a, event->forget.epoch, event->forget.sequence);
    effect->forget.epoch = event->forget.epoch;
    effect->forget.sequence = event->forget.sequence;
}

void kept_on_forget(struct agent *a, const struct agent_event *event) {
    if (event->forget.count > LS_KEPT_PAGE_MAX || (event->forget.has_horizon && event->forget.epoch > a->fence.epoch)) {
        link_drop(a, "a Forget about more than was or can be asked");
        return;
    }
    for (uint32_t i = 0; i < event->forget.count; i++)
        if (!is_ours(a, event->forget.sagas[i])) {
            link_drop(a, "a Forget about a saga that is not this coordinator's");
            return;
        }
    bool answer = event->forget.has_token && event->forget.token == a->kept_token && a->kept_token != 0;
    if (a->forget_op != 0 || (event->forget.has_token && !answer)) return;
    if (answer) {
        a->kept_token = 0;
        a->kept_us = AGENT_NEVER;
        a->kept_cycle = true;
    } else if (!event->forget.has_horizon) {
        if (event->forget.count == 0 || a->now_us < a->forget_rest_us) return;
        a->forget_rest_us = a->now_us + AGENT_FORGET_REST_US;
    }
    emit_forget(a, event);
}

void kept_on_forgotten(struct agent *a, const struct agent_event *event) {
    a->forget_op = 0;
    if (event->forgotten.ok && event->forgotten.more) {
        emit_forget(a, NULL);
        return;
    }
    bool cycle = a->kept_cycle;
    a->kept_cycle = false;
    if (!cycle) return;
    if (event->forgotten.ok && a->kept_more)
        read_page(a);
    else
        next_cycle(a);
}

void kept_tick(struct agent *a) {
    if (a->kept_us > a->now_us) return;
    next_cycle(a); /* whatever was asked and not answered is asked again */
    if (a->state == AGENT_SERVING && a->forget_op == 0) read_page(a);
}
