/* agentmsg.c: see agentmsg.h. */
#include "participant/agentmsg.h"

#include <assert.h>
#include <stdio.h>

#include "lockstep/limits.h"

/* protobuf-c wants char *; it only reads. */
static char *text(const char *borrowed) {
    return (char *)(uintptr_t)borrowed;
}

/* ---- effects become frames */

static void fill_fence(const struct agent_fence *from, Lockstep__Fence *to) {
    lockstep__fence__init(to);
    to->incarnation = text(from->incarnation);
    to->epoch = from->epoch;
    to->position = from->position;
    to->chain = from->chain;
}

static void build_hello(struct agentmsg *m, const struct agent_effect *effect) {
    Lockstep__Hello *hello = &m->hello;
    lockstep__hello__init(hello);
    hello->version = LS_PROTOCOL_VERSION;
    hello->version_min = LS_PROTOCOL_VERSION_MIN;
    hello->system_id = effect->hello.server.system_id;
    hello->timeline = effect->hello.server.timeline;
    hello->insert_lsn = effect->hello.server.insert_lsn;
    hello->credits = effect->hello.credits;
    for (uint32_t i = 0; i < effect->hello.history_count; i++) {
        lockstep__timeline_switch__init(&m->switches[i]);
        m->switches[i].timeline = effect->hello.history[i].timeline;
        m->switches[i].lsn = effect->hello.history[i].lsn;
        m->switch_list[i] = &m->switches[i];
    }
    hello->n_history = effect->hello.history_count;
    hello->history = m->switch_list;
    if (effect->hello.has_fence) {
        fill_fence(&effect->hello.fence, &m->fence);
        m->frame.fence = &m->fence;
    }
    m->frame.body_case = LOCKSTEP__FRAME__BODY_HELLO;
    m->frame.hello = hello;
}

static void build_refuse(struct agentmsg *m, const struct agent_effect *effect) {
    lockstep__refuse__init(&m->refuse);
    m->refuse.reason = text(effect->refuse.reason);
    if (effect->refuse.has_fence) {
        fill_fence(&effect->refuse.fence, &m->fence);
        m->refuse.remembered = &m->fence;
    }
    m->frame.body_case = LOCKSTEP__FRAME__BODY_REFUSE;
    m->frame.refuse = &m->refuse;
}

static void build_vote(struct agentmsg *m, const struct agent_effect *effect) {
    Lockstep__Vote *vote = &m->vote;
    lockstep__vote__init(vote);
    vote->gtid = text(effect->gtid);
    vote->kind = (Lockstep__VoteKind)effect->vote.kind;
    vote->has_part = effect->vote.kind == AGENT_VOTE_CONTINUE;
    vote->part = effect->vote.part;
    if (effect->vote.kind == AGENT_VOTE_YES) {
        vote->gid = text(effect->vote.gid);
        vote->has_xid = vote->has_lsn = vote->has_system_id = vote->has_timeline = true;
        vote->xid = effect->vote.identity.xid;
        vote->lsn = effect->vote.identity.lsn;
        vote->system_id = effect->vote.identity.system_id;
        vote->timeline = effect->vote.identity.timeline;
        vote->owner = text(effect->vote.owner);
    }
    vote->sqlstate = text(effect->vote.sqlstate);
    vote->reason = text(effect->vote.reason);
    vote->has_step = effect->vote.has_step;
    vote->step = effect->vote.step;
    vote->has_retryable = effect->vote.retryable;
    vote->retryable = effect->vote.retryable;
    vote->has_key_free = effect->vote.key_free;
    vote->key_free = effect->vote.key_free;
    vote->existing_gtid = text(effect->vote.existing_gtid);
    vote->has_existing_hash = effect->vote.existing_hash != NULL && effect->vote.existing_hash_length > 0;
    vote->existing_hash.len = effect->vote.existing_hash_length;
    vote->existing_hash.data = (uint8_t *)(uintptr_t)effect->vote.existing_hash;
    vote->has_barrier = effect->vote.has_barrier;
    vote->barrier = (Lockstep__BarrierState)effect->vote.barrier;
    m->frame.body_case = LOCKSTEP__FRAME__BODY_VOTE;
    m->frame.vote = vote;
}

static void build_done(struct agentmsg *m, const struct agent_effect *effect) {
    Lockstep__Done *done = &m->done;
    lockstep__done__init(done);
    done->gtid = text(effect->gtid);
    done->kind = (Lockstep__DoneKind)effect->done.kind;
    done->reason = text(effect->done.reason);
    done->has_stranger = effect->done.stranger;
    done->stranger = effect->done.stranger;
    done->app = text(effect->done.app);
    m->frame.body_case = LOCKSTEP__FRAME__BODY_DONE;
    m->frame.done = done;
}

static void build_inquiry(struct agentmsg *m, const struct agent_effect *effect) {
    Lockstep__Inquiry *inquiry = &m->inquiry;
    lockstep__inquiry__init(inquiry);
    assert(effect->inquiry.count <= AGENT_INQUIRY_ITEMS_MAX);
    for (uint32_t i = 0; i < effect->inquiry.count; i++) {
        const struct agent_prepared *from = &effect->inquiry.items[i];
        lockstep__inquiry_item__init(&m->items[i]);
        m->items[i].gid = text(from->gid);
        m->items[i].xid = from->xid;
        m->items[i].owner = text(from->owner);
        m->items[i].age_ms = from->age_ms;
        m->items[i].system_id = effect->inquiry.server.system_id;
        m->items[i].timeline = effect->inquiry.server.timeline;
        m->items[i].has_vanished = from->vanished;
        m->items[i].vanished = from->vanished;
        m->item_list[i] = &m->items[i];
    }
    inquiry->token = effect->inquiry.token;
    inquiry->n_items = effect->inquiry.count;
    inquiry->items = m->item_list;
    m->frame.body_case = LOCKSTEP__FRAME__BODY_INQUIRY;
    m->frame.inquiry = inquiry;
}

static void build_kept(struct agentmsg *m, const struct agent_effect *effect) {
    Lockstep__Kept *kept = &m->kept;
    lockstep__kept__init(kept);
    assert(effect->kept.count <= LS_KEPT_PAGE_MAX);
    for (uint32_t i = 0; i < effect->kept.count; i++) {
        m->kept_list[i] = text(effect->kept.sagas[i]);
    }
    kept->token = effect->kept.token;
    kept->n_sagas = effect->kept.count;
    kept->sagas = m->kept_list;
    m->frame.body_case = LOCKSTEP__FRAME__BODY_KEPT;
    m->frame.kept = kept;
}

static void build_ready(struct agentmsg *m) {
    lockstep__ready__init(&m->ready);
    m->frame.body_case = LOCKSTEP__FRAME__BODY_READY;
    m->frame.ready = &m->ready;
}

static void build_credit(struct agentmsg *m, const struct agent_effect *effect) {
    lockstep__credit__init(&m->credit);
    m->credit.credits = effect->credit.credits;
    m->frame.body_case = LOCKSTEP__FRAME__BODY_CREDIT;
    m->frame.credit = &m->credit;
}

void agentmsg_build(struct agentmsg *message, const struct agent_effect *effect) {
    lockstep__frame__init(&message->frame);
    if (effect->kind == AEF_SEND_HELLO) {
        build_hello(message, effect);
    } else if (effect->kind == AEF_SEND_READY) {
        build_ready(message);
    } else if (effect->kind == AEF_SEND_REFUSE) {
        build_refuse(message, effect);
    } else if (effect->kind == AEF_SEND_CREDIT) {
        build_credit(message, effect);
    } else if (effect->kind == AEF_SEND_VOTE) {
        build_vote(message, effect);
    } else if (effect->kind == AEF_SEND_DONE) {
        build_done(message, effect);
    } else if (effect->kind == AEF_SEND_KEPT) {
        build_kept(message, effect);
    } else {
        assert(effect->kind == AEF_SEND_INQUIRY);
        build_inquiry(message, effect);
    }
}

/* ---- frames become events */

void agentmsg_read_fence(const Lockstep__Frame *frame, uint64_t link, struct agent_event *event) {
    event->link = link;
    event->has_fence = frame->fence != NULL;
    if (frame->fence != NULL) {
        snprintf(event->fence.incarnation, sizeof(event->fence.incarnation), "%s", frame->fence->incarnation);
        event->fence.epoch = frame->fence->epoch;
        event->fence.position = frame->fence->position;
        event->fence.chain = frame->fence->chain;
    }
}

void agentmsg_read_decide(const Lockstep__Decide *decide, bool prove, struct agent_event *event) {
    event->kind = prove ? AEV_PROVE : AEV_DECIDE;
    event->decide = (struct agent_decide){.gtid = decide->gtid,
                                          .commit = prove || decide->commit,
                                          .one_phase = decide->one_phase,
                                          .gid = decide->gid,
                                          .identity = {decide->system_id, decide->timeline, decide->xid, decide->lsn},
                                          .owner = decide->owner};
}

static void read_work(const Lockstep__Work *work, enum ls_gid_form usual_form, struct agent_event *event) {
    event->kind = AEV_WORK;
    event->work.gtid = work->gtid;
    event->work.part = work->part;
    event->work.last = work->last;
    event->work.one_phase = work->one_phase;
    event->work.saga = work->saga != NULL;
    event->work.gid_form = work->gid_form == LOCKSTEP__GID_FORM__XA ? LS_GID_XA : usual_form;
    event->work.lock_timeout_ms = work->lock_timeout_ms;
    event->work.deadline_ms = work->deadline_ms;
}

static bool read_answer(const Lockstep__Answer *answer, struct agent_answer_item *items, struct agent_event *event) {
    if (answer->n_items > AGENT_INQUIRY_ITEMS_MAX) {
        return false; /* an answer to more than was asked */
    }
    for (size_t i = 0; i < answer->n_items; i++) {
        const Lockstep__AnswerItem *item = answer->items[i];
        items[i] = (struct agent_answer_item){item->gid, item->xid, (enum agent_verdict)item->verdict, item->reason};
    }
    event->kind = AEV_ANSWER;
    event->answer.token = answer->token;
    event->answer.items = items;
    event->answer.count = (uint32_t)answer->n_items;
    return true;
}

static void read_welcome(const Lockstep__Welcome *welcome, struct agent_event *event) {
    event->kind = AEV_WELCOME;
    event->welcome.version = welcome->version;
    event->welcome.number = welcome->number;
    event->welcome.coordinator = welcome->coordinator;
    event->welcome.has_chain_at = welcome->has_chain_at;
    event->welcome.chain_at = welcome->chain_at;
    event->welcome.accepted_incarnation = welcome->accepted_incarnation;
}

static void read_forget(const Lockstep__Forget *forget, struct agent_event *event) {
    event->kind = AEV_FORGET;
    event->forget.has_token = forget->has_token;
    event->forget.token = forget->token;
    event->forget.sagas = forget->sagas;
    event->forget.count = (uint32_t)forget->n_sagas;
    event->forget.has_horizon = forget->has_outcome_epoch;
    event->forget.epoch = forget->outcome_epoch;
    event->forget.sequence = forget->outcome_sequence;
}

bool agentmsg_read(const Lockstep__Frame *frame, enum ls_gid_form usual_form, struct agent_answer_item *items,
                   struct agent_event *event) {
    switch (frame->body_case) {
    case LOCKSTEP__FRAME__BODY_WORK:
        read_work(frame->work, usual_form, event);
        return true;
    case LOCKSTEP__FRAME__BODY_DECIDE:
        agentmsg_read_decide(frame->decide, false, event);
        return true;
    case LOCKSTEP__FRAME__BODY_ANSWER:
        return read_answer(frame->answer, items, event);
    case LOCKSTEP__FRAME__BODY_SETTLE:
        event->kind = AEV_SETTLE;
        event->settle.gtid = frame->settle->gtid;
        return true;
    case LOCKSTEP__FRAME__BODY_WELCOME:
        read_welcome(frame->welcome, event);
        return true;
    case LOCKSTEP__FRAME__BODY_PING:
        event->kind = AEV_PING;
        event->ping.token = frame->ping->token;
        return true;
    case LOCKSTEP__FRAME__BODY_PONG:
        event->kind = AEV_PONG;
        return true;
    case LOCKSTEP__FRAME__BODY_ROUTE:
    case LOCKSTEP__FRAME__BODY_ASK:
        event->kind = AEV_RELAYED;
        return true;
    case LOCKSTEP__FRAME__BODY_FORGET:
        read_forget(frame->forget, event);
        return true;
    case LOCKSTEP__FRAME__BODY_PROVE:
    case LOCKSTEP__FRAME__BODY__NOT_SET:
    case LOCKSTEP__FRAME__BODY_HELLO:
    case LOCKSTEP__FRAME__BODY_VOTE:
    case LOCKSTEP__FRAME__BODY_DONE:
    case LOCKSTEP__FRAME__BODY_INQUIRY:
    case LOCKSTEP__FRAME__BODY_CREDIT:
    case LOCKSTEP__FRAME__BODY_REFUSE:
    case LOCKSTEP__FRAME__BODY_ERROR:
    case LOCKSTEP__FRAME__BODY_READY:
    case LOCKSTEP__FRAME__BODY_KEPT:
    case LOCKSTEP__FRAME__BODY_TELL:
    case LOCKSTEP__FRAME__BODY_GREET:
    case LOCKSTEP__FRAME__BODY_EVENTS:
    case LOCKSTEP__FRAME__BODY_STORED:
    case _LOCKSTEP__FRAME__BODY__CASE_IS_INT_SIZE:
        break;
    }
    return false;
}
