/*
 * link.c: the link to the coordinator and the fence.
 *
 * An agent serves a coordinator only if its log contains what this agent has seen of it before (design 2.9): Hello
 * names the newest (position, chained checksum) seen, Welcome brings the coordinator's own checksum at that position. A
 * higher epoch alone proves nothing: a restored copy of the log climbs past it at its next start.
 *
 *   remembered   Welcome                                           answer
 *   ----------   -----------------------------------------------   ------------------------------------------
 *   nothing      any                                               store durably, then serve
 *   F            same incarnation, chain_at == F.chain, epoch and
 *                position not below F's                            serve (if the database has no fence of this
 *                                                                  incarnation and epoch yet: store durably, then serve)
 *   F            accepted_incarnation == F.incarnation             store durably, then serve (an operator said so)
 *   F            anything else                                     Refuse; the coordinator stops (78)
 *
 * On a link that serves, every frame's fence must be of the same incarnation and epoch and never go back.
 */
#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "participant/core/agent_internal.h"

static bool same_fence(const struct agent_fence *x, const struct agent_fence *y) {
    return strcmp(x->incarnation, y->incarnation) == 0 && x->epoch == y->epoch && x->position == y->position &&
           x->chain == y->chain;
}

bool link_welcomed(const struct agent *a) {
    return a->state == AGENT_ACCEPTING || a->state == AGENT_ASKING || a->state == AGENT_SERVING;
}

/* ------------------------------------------------------------------ up and down */

void link_dial(struct agent *a) {
    assert(a->link == 0 && !a->dialling);
    agent_become(a, AGENT_DIALLING);
    a->retry_us = AGENT_NEVER;
    a->dialling = true;
    agent_emit(a, AEF_DIAL);
}

static void dial_later(struct agent *a) {
    agent_become(a, AGENT_DIALLING);
    a->dials++;
    a->retry_us = a->now_us + agent_backoff_us(a, a->dials, a->config.dial_min_us, a->config.dial_max_us);
}

void link_lose(struct agent *a) {
    a->control_op = 0;
    a->retry_us = AGENT_NEVER;
    if (a->link == 0) return;
    agent_emit(a, AEF_CLOSE);
    a->link = 0;
    a->identified = false;
    a->credits_told = a->credits_most = 0;
    sweep_end_of_link(a);
    kept_end_of_link(a);
    drive_on_link_lost(a);
}

void link_drop(struct agent *a, const char *why) {
    assert(a->link != 0);
    size_t at = a->out->count;
    link_lose(a);
    assert(a->out->list[at].kind == AEF_CLOSE);
    a->out->list[at].text = why;
    dial_later(a);
}

void link_on_up(struct agent *a, const struct agent_event *event) {
    assert(event->link != 0 && event->link != a->link_last);
    a->link_last = event->link;
    if (a->state != AGENT_DIALLING || !a->dialling) {
        /* The lock was lost while the host was dialling. */
        agent_emit(a, AEF_CLOSE)->link = event->link;
        return;
    }
    a->dialling = false;
    a->link = event->link;
    a->greet_due_us = a->now_us + a->config.link_answer_us;
    agent_become(a, AGENT_GREETING);
    agent_read_identity(a); /* Hello must say what the server is now, not what it was when the last link came up */
}

void link_on_down(struct agent *a, const struct agent_event *event) {
    if (event->link == 0) {
        if (a->state == AGENT_DIALLING && a->dialling) {
            a->dialling = false;
            dial_later(a);
        }
        return;
    }
    if (event->link != a->link) return;
    link_lose(a);
    dial_later(a);
}

void link_say_hello(struct agent *a) {
    struct agent_effect *effect = agent_emit(a, AEF_SEND_HELLO);
    a->identified = true;
    a->credits_told = a->credits_most = agent_credits(a);
    effect->hello.has_fence = a->has_fence;
    effect->hello.fence = a->fence;
    effect->hello.server = a->server;
    effect->hello.history = a->history;
    effect->hello.history_count = a->history_count;
    effect->hello.credits = a->credits_told;
}

/* ----------------------------------------------------------------------- fence */

void link_store_fence(struct agent *a, bool durable) {
    if (!a->has_fence || (a->has_handed && same_fence(&a->handed, &a->fence))) return;
    struct agent_effect *effect = agent_emit(a, AEF_DB_FENCE);
    effect->op = a->fence_op = agent_new_op(a, SLOT_CONTROL);
    effect->fence.fence = a->fence;
    effect->fence.durable = durable;
    a->handed = a->fence;
    a->has_handed = true;
}

static void enter_asking(struct agent *a) {
    a->dials = 0;
    agent_become(a, AGENT_ASKING);
    if (a->quarantined)
        a->retry_us =
            a->now_us + a->config.sweep_us; /* no work, no sweep; decisions are still proved. Look again later. */
    else
        sweep_begin(a);
}

void link_on_fence_stored(struct agent *a, const struct agent_event *event) {
    if (event->op != a->fence_op) return; /* an older one: what counts is the newest */
    a->fence_op = 0;
    if (event->fence_stored.ok) {
        a->stored = a->handed;
        a->has_stored = true;
        if (a->state == AGENT_ACCEPTING) enter_asking(a);
        return;
    }
    a->has_handed = a->has_stored;
    a->handed = a->stored;
    if (a->state == AGENT_ACCEPTING)
        link_drop(a, "the position of the coordinator's log could not be stored");
    else
        a->fence_us = a->now_us + FENCE_STORE_INTERVAL_US;
}

static void refuse(struct agent *a, const char *reason) {
    struct agent_effect *effect = agent_emit(a, AEF_SEND_REFUSE);
    effect->refuse.reason = reason;
    effect->refuse.has_fence = a->has_fence;
    effect->refuse.fence = a->fence;
    agent_report(a, true, NULL, "coordinator refused: %s", reason);
    a->dials = UINT32_MAX / 2; /* it needs an operator: come back slowly */
    link_drop(a, NULL);
}

/* Why the coordinator's log is not known to contain what was seen; NULL when it is. */
static const char *fence_mismatch(struct agent *a, const struct agent_event *event) {
    const struct agent_fence *seen = &a->fence, *now = &event->fence;
    if (strcmp(now->incarnation, seen->incarnation) != 0)
        return agent_text(a, "its log is incarnation %s, this participant serves %s", now->incarnation,
                          seen->incarnation);
    if (!event->welcome.has_chain_at)
        return agent_text(a, "its log has no record boundary at position %" PRIu64 ", which this participant has seen",
                          seen->position);
    if (event->welcome.chain_at != seen->chain)
        return agent_text(a, "its log is another one at position %" PRIu64 " than this participant has seen",
                          seen->position);
    if (now->epoch < seen->epoch)
        return agent_text(a, "its epoch %" PRIu32 " is older than %" PRIu32 ", which this participant has seen",
                          now->epoch, seen->epoch);
    if (now->position < seen->position)
        return agent_text(a, "its log ends at %" PRIu64 ", this participant has seen %" PRIu64, now->position,
                          seen->position);
    return NULL;
}

void link_on_welcome(struct agent *a, const struct agent_event *event) {
    if (strcmp(event->welcome.coordinator, a->config.coordinator) != 0) {
        link_drop(a, agent_text(a, "this agent serves coordinator %s, not %s", a->config.coordinator,
                                event->welcome.coordinator));
        return;
    }
    if (event->welcome.number == 0 || event->welcome.number > LS_PARTICIPANT_NUMBER_MAX) {
        link_drop(a, "Welcome without a participant number");
        return;
    }
    const char *accepted = event->welcome.accepted_incarnation;
    const char *mismatch = a->has_fence ? fence_mismatch(a, event) : NULL;
    bool by_operator = mismatch != NULL && accepted != NULL && strcmp(accepted, a->fence.incarnation) == 0;
    if (mismatch != NULL && !by_operator) {
        refuse(a, mismatch);
        return;
    }
    if (by_operator) agent_report(a, true, NULL, "an operator accepted this coordinator although %s", mismatch);
    /* What only this life remembers is not enough to serve on. A store may have failed; and whoever is ready counts as
     * having joined this life of the coordinator, which presumes abort when all have: forgotten in a crash, the next
     * life here would obey another copy of the log that knows of a decision. */
    bool first = !a->has_fence || by_operator || !a->has_stored || a->stored.epoch != event->fence.epoch ||
                 strcmp(a->stored.incarnation, event->fence.incarnation) != 0;
    a->number = event->welcome.number;
    a->speaks_saga = event->welcome.version >= LS_PROTOCOL_VERSION_SAGA;
    a->has_fence = true;
    a->fence = event->fence;
    if (first) {
        agent_become(a, AGENT_ACCEPTING);
        link_store_fence(a, true);
        assert(a->fence_op != 0 || same_fence(&a->handed, &a->fence));
        if (a->fence_op == 0) enter_asking(a); /* it stands in the database already */
        return;
    }
    if (a->fence_us == AGENT_NEVER && !(a->has_handed && same_fence(&a->handed, &a->fence)))
        a->fence_us = a->now_us + FENCE_STORE_INTERVAL_US;
    enter_asking(a);
}

/* Remembers a newer fence; false (and the link is gone) when it cannot be. */
static bool take_fence(struct agent *a, const struct agent_fence *fence) {
    if (strcmp(fence->incarnation, a->fence.incarnation) != 0) {
        link_drop(a, "another incarnation on the same link");
    } else if (fence->epoch != a->fence.epoch) {
        link_drop(a, "another epoch on the same link");
    } else if (fence->position < a->fence.position) {
        link_drop(a, "the log's position went back");
    } else if (fence->position == a->fence.position && fence->chain != a->fence.chain) {
        link_drop(a, "another checksum at the same position");
    } else {
        if (fence->position != a->fence.position) {
            a->fence = *fence;
            if (a->fence_us == AGENT_NEVER) a->fence_us = a->now_us + FENCE_STORE_INTERVAL_US;
        }
        return true;
    }
    return false;
}

/* Hello or Welcome may have been lost, and the link lives on. */
void link_tick(struct agent *a) {
    if (a->state == AGENT_GREETING && a->greet_due_us <= a->now_us) link_drop(a, "no Welcome for too long");
}

bool link_take_frame(struct agent *a, const struct agent_event *event) {
    if (event->link != a->link || a->link == 0) return false;
    if (!event->has_fence) {
        link_drop(a, "a frame without a fence");
        return false;
    }
    if (event->kind == AEV_WELCOME) {
        if (a->state == AGENT_GREETING && a->identified) return true;
        link_drop(a, "an unexpected Welcome");
        return false;
    }
    if (a->state == AGENT_GREETING) {
        /* Ping and Pong are the link's own; the coordinator may still write our name to its log. */
        if (event->kind == AEV_PING || event->kind == AEV_PONG) return false;
        link_drop(a, "a frame before Welcome");
        return false;
    }
    if (!take_fence(a, &event->fence)) return false;
    /* While the first fence is being stored, decisions are looked into already: what they finish on the server goes
     * behind that store (see AEF_DB_FENCE). Work has to wait for Ready. */
    assert(link_welcomed(a));
    return true;
}
