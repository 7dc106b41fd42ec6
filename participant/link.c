/*
 * link.c: see link.h.
 *
 * The number of a link is never used twice in one life: frames of an older link that are still in the loop are told apart by it. A link that
 * never came up (refused, wrong certificate, silent) is reported once, as AEV_LINK_DOWN with link 0.
 */
#include "participant/link.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/diag.h"
#include "common/failpoint.h"
#include "common/peer.h"
#include "common/statement.h"
#include "participant/functions.h"
#include "participant/host.h"

#define ANSWER_ITEMS_MAX AGENT_INQUIRY_ITEMS_MAX

struct uplink {
    struct agenthost *host;
    SSL_CTX *tls;
    struct peer *peer;      /* the one that is dialled, or up, or closing */
    uint64_t number;        /* of the present or last link */
    bool up;                /* the core knows of it */
    struct event *failed;   /* a dial that failed at once is told from the loop */
    void (*left)(struct agenthost *host);
};

static void on_open(void *context, struct peer *peer, const struct tls_identity *identity);
static void on_frame(void *context, struct peer *peer, const Lockstep__Frame *frame);
static void on_closed(void *context, struct peer *peer, const char *reason);

static const struct peer_callbacks callbacks = {on_open, on_frame, on_closed, NULL};

/* ---- life */

static void tell_down(struct uplink *uplink, uint64_t number)
{
    struct agent_event event = {.kind = AEV_LINK_DOWN, .link = number};
    agenthost_step(uplink->host, &event);
}

static void on_failed(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    tell_down(arg, 0);
}

static void dial(struct uplink *uplink)
{
    struct ls_error err;
    assert(!uplink->up);
    if (uplink->peer != NULL)
        peer_free(uplink->peer); /* one that was closing: the new one is what counts */
    uplink->peer = NULL;
    if (peer_dial(uplink->host->base, uplink->tls, uplink->host->conf.coordinator_address, &callbacks, uplink, &uplink->peer, &err) == LS_OK)
        return;
    diag(DIAG_WARN, "the coordinator cannot be dialled", "address", uplink->host->conf.coordinator_address, "error", err.text, NULL);
    event_active(uplink->failed, EV_TIMEOUT, 0);
}

static void on_open(void *context, struct peer *peer, const struct tls_identity *identity)
{
    struct uplink *uplink = context;
    const char *name = uplink->host->conf.coordinator_name;
    if (identity->role != TLS_ROLE_COORDINATOR || strcmp(identity->name, name) != 0) {
        diag(DIAG_ERROR, "somebody else answers at the coordinator's address", "role", tls_role_name(identity->role), "name", identity->name,
             "expected", name, NULL);
        peer_close(peer, "not the coordinator that this agent serves", true);
        return;
    }
    uplink->up = true;
    uplink->number++;
    diag(DIAG_INFO, "link up", "coordinator", name, "address", peer_address(peer), NULL);
    struct agent_event event = {.kind = AEV_LINK_UP, .link = uplink->number};
    agenthost_step(uplink->host, &event);
}

static void on_closed(void *context, struct peer *peer, const char *reason)
{
    struct uplink *uplink = context;
    bool up = uplink->up;
    if (uplink->peer != peer)
        return; /* closed by the core, and perhaps another was dialled since */
    uplink->peer = NULL;
    uplink->up = false;
    if (uplink->left != NULL) {
        uplink->left(uplink->host);
        return;
    }
    diag(up ? DIAG_WARN : DIAG_INFO, up ? "link down" : "the coordinator cannot be reached", "address",
         uplink->host->conf.coordinator_address, "reason", reason, NULL);
    tell_down(uplink, up ? uplink->number : 0);
}

enum ls_status uplink_new(struct agenthost *host, SSL_CTX *tls, struct uplink **ret_uplink, struct ls_error *err)
{
    struct uplink *uplink = calloc(1, sizeof(*uplink));
    if (uplink == NULL || (uplink->failed = event_new(host->base, -1, 0, on_failed, uplink)) == NULL) {
        free(uplink);
        return ls_fail(err, LS_ERR_NOMEM, "out of memory");
    }
    uplink->host = host;
    uplink_set_tls(uplink, tls);
    *ret_uplink = uplink;
    return LS_OK;
}

void uplink_free(struct uplink *uplink)
{
    if (uplink == NULL)
        return;
    peer_free(uplink->peer);
    event_free(uplink->failed);
    SSL_CTX_free(uplink->tls);
    free(uplink);
}

void uplink_set_tls(struct uplink *uplink, SSL_CTX *tls)
{
    (void)SSL_CTX_up_ref(tls);
    SSL_CTX_free(uplink->tls);
    uplink->tls = tls;
}

void uplink_leave(struct uplink *uplink, void (*done)(struct agenthost *host))
{
    uplink->left = done;
    if (uplink->peer != NULL)
        peer_close(uplink->peer, "the agent is stopping", false);
    else
        done(uplink->host);
}

/* What the action `error` of a crash point does here. */
static void break_link(struct uplink *uplink)
{
    if (uplink->peer != NULL)
        peer_close(uplink->peer, "fault asked for", false);
}

/* ---- frames become events */

/* Why the work may not run at all; false: it may. */
static bool refuse_work(const struct agenthost *host, const Lockstep__Work *work, struct agent_event *event, struct ls_error *err)
{
    const char *functions = agent_conf_functions(&host->conf, work->app);
    if (agent_conf_role(&host->conf, work->app) == NULL) {
        (void)ls_fail(err, LS_ERR_DENIED, "%s has no database role at participant %s", work->app, host->conf.name);
        event->work.refused_sqlstate = "42501";
        return true;
    }
    for (size_t i = 0; i < work->n_statements; i++) {
        const Lockstep__Statement *statement = work->statements[i];
        event->work.refused_step = statement->step;
        event->work.has_refused_step = true;
        if (statement_check(statement->sql, strlen(statement->sql), err) != LS_OK) {
            event->work.refused_sqlstate = "0A000";
            return true;
        }
        if (functions != NULL && !functions_allowed(statement->sql, functions)) {
            (void)ls_fail(err, LS_ERR_DENIED, "%s may only call named functions at participant %s", work->app, host->conf.name);
            event->work.refused_sqlstate = "42501";
            return true;
        }
    }
    event->work.has_refused_step = false;
    return false;
}

static void take_work(struct uplink *uplink, const Lockstep__Frame *frame, struct agent_event *event)
{
    struct ls_error err;
    if (failpoint_hit(FP_agent_work_received)) {
        break_link(uplink);
        return;
    }
    Lockstep__Work *work = frame_take_work(frame);
    event->kind = AEV_WORK;
    event->work.gtid = work->gtid;
    event->work.part = work->part;
    event->work.last = work->last;
    event->work.one_phase = work->one_phase;
    event->work.gid_form = work->gid_form == LOCKSTEP__GID_FORM__XA ? LS_GID_XA : uplink->host->conf.gid_form;
    event->work.lock_timeout_ms = work->lock_timeout_ms;
    event->work.deadline_ms = work->deadline_ms;
    event->work.work = work;
    if (refuse_work(uplink->host, work, event, &err))
        event->work.refused = err.text;
    agenthost_step(uplink->host, event);
}

static struct agent_decide read_decide(const Lockstep__Decide *decide)
{
    return (struct agent_decide){.gtid = decide->gtid,
                                 .commit = decide->commit,
                                 .one_phase = decide->one_phase,
                                 .gid = decide->gid,
                                 .identity = {decide->system_id, decide->timeline, decide->xid, decide->lsn},
                                 .owner = decide->owner};
}

static void take_answer(struct uplink *uplink, const Lockstep__Answer *answer, struct agent_event *event)
{
    static struct agent_answer_item items[ANSWER_ITEMS_MAX];
    if (answer->n_items > ANSWER_ITEMS_MAX) {
        peer_close(uplink->peer, "an answer to more than was asked", true);
        return;
    }
    for (size_t i = 0; i < answer->n_items; i++) {
        const Lockstep__AnswerItem *item = answer->items[i];
        items[i] = (struct agent_answer_item){item->gid, item->xid, (enum agent_verdict)item->verdict, item->reason};
    }
    if (failpoint_hit(FP_agent_answer_received)) {
        break_link(uplink);
        return;
    }
    event->kind = AEV_ANSWER;
    event->answer.token = answer->token;
    event->answer.items = items;
    event->answer.count = (uint32_t)answer->n_items;
    agenthost_step(uplink->host, event);
}

static void take_decide(struct uplink *uplink, const Lockstep__Decide *decide, struct agent_event *event)
{
    if (failpoint_hit(FP_agent_decide_received)) {
        break_link(uplink);
        return;
    }
    event->kind = AEV_DECIDE;
    event->decide = read_decide(decide);
    agenthost_step(uplink->host, event);
}

static void on_frame(void *context, struct peer *peer, const Lockstep__Frame *frame)
{
    struct uplink *uplink = context;
    struct agent_event event = {.link = uplink->number, .has_fence = frame->fence != NULL};
    if (!uplink->up || uplink->peer != peer)
        return;
    if (frame->fence != NULL) {
        snprintf(event.fence.incarnation, sizeof(event.fence.incarnation), "%s", frame->fence->incarnation);
        event.fence.epoch = frame->fence->epoch;
        event.fence.position = frame->fence->position;
        event.fence.chain = frame->fence->chain;
    }
    switch (frame->body_case) {
    case LOCKSTEP__FRAME__BODY_WORK:
        take_work(uplink, frame, &event);
        return;
    case LOCKSTEP__FRAME__BODY_DECIDE:
        take_decide(uplink, frame->decide, &event);
        return;
    case LOCKSTEP__FRAME__BODY_ANSWER:
        take_answer(uplink, frame->answer, &event);
        return;
    case LOCKSTEP__FRAME__BODY_PROVE:
        for (size_t i = 0; i < frame->prove->n_items && uplink->up; i++) {
            event.kind = AEV_PROVE;
            event.decide = read_decide(frame->prove->items[i]);
            event.decide.commit = true;
            agenthost_step(uplink->host, &event);
        }
        return;
    case LOCKSTEP__FRAME__BODY_SETTLE:
        event.kind = AEV_SETTLE;
        event.settle.gtid = frame->settle->gtid;
        break;
    case LOCKSTEP__FRAME__BODY_WELCOME:
        event.kind = AEV_WELCOME;
        event.welcome.version = frame->welcome->version;
        event.welcome.number = frame->welcome->number;
        event.welcome.coordinator = frame->welcome->coordinator;
        event.welcome.has_chain_at = frame->welcome->has_chain_at;
        event.welcome.chain_at = frame->welcome->chain_at;
        event.welcome.accepted_incarnation = frame->welcome->accepted_incarnation;
        break;
    case LOCKSTEP__FRAME__BODY_FORGET:
        event.kind = AEV_FORGET;
        event.forget.has_token = frame->forget->has_token;
        event.forget.token = frame->forget->token;
        event.forget.sagas = frame->forget->sagas;
        event.forget.count = (uint32_t)frame->forget->n_sagas;
        event.forget.has_horizon = frame->forget->has_outcome_epoch;
        event.forget.epoch = frame->forget->outcome_epoch;
        event.forget.sequence = frame->forget->outcome_sequence;
        break;
    case LOCKSTEP__FRAME__BODY_PING:
        event.kind = AEV_PING;
        event.ping.token = frame->ping->token;
        break;
    case LOCKSTEP__FRAME__BODY__NOT_SET:
    case LOCKSTEP__FRAME__BODY_HELLO:
    case LOCKSTEP__FRAME__BODY_PONG:
    case LOCKSTEP__FRAME__BODY_VOTE:
    case LOCKSTEP__FRAME__BODY_DONE:
    case LOCKSTEP__FRAME__BODY_INQUIRY:
    case LOCKSTEP__FRAME__BODY_CREDIT:
    case LOCKSTEP__FRAME__BODY_REFUSE:
    case LOCKSTEP__FRAME__BODY_ERROR:
    case LOCKSTEP__FRAME__BODY_READY:
    case LOCKSTEP__FRAME__BODY_KEPT:
    case _LOCKSTEP__FRAME__BODY__CASE_IS_INT_SIZE:
    default:
        peer_close(peer, "a frame that a coordinator does not send", true);
        return;
    }
    agenthost_step(uplink->host, &event);
}

/* ---- effects become frames */

static void send_frame(struct uplink *uplink, const struct agent_effect *effect, const Lockstep__Frame *frame)
{
    if (!uplink->up || effect->link != uplink->number || uplink->peer == NULL)
        return; /* of a link that is gone: the core is told, or knows */
    enum ls_status status = peer_send(uplink->peer, frame);
    if (status == LS_OK)
        return;
    /* Better no link than one on which something was left out: the coordinator counts the branch as lost, the sweep asks. */
    diag(DIAG_ERROR, "a frame cannot be sent", "gtid", effect->gtid != NULL ? effect->gtid : "", "error", ls_status_text(status), NULL);
    peer_close(uplink->peer, "a frame cannot be sent", false);
}

/* protobuf-c wants char *; it only reads. */
static char *text(const char *borrowed)
{
    return (char *)(uintptr_t)borrowed;
}

static void fill_fence(const struct agent_fence *from, Lockstep__Fence *to)
{
    lockstep__fence__init(to);
    to->incarnation = text(from->incarnation);
    to->epoch = from->epoch;
    to->position = from->position;
    to->chain = from->chain;
}

static void send_hello(struct uplink *uplink, const struct agent_effect *effect)
{
    struct agenthost *host = uplink->host;
    Lockstep__TimelineSwitch switches[AGENT_HISTORY_MAX], *list[AGENT_HISTORY_MAX];
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    Lockstep__Hello hello = LOCKSTEP__HELLO__INIT;
    Lockstep__Fence fence;
    struct pg_stats stats;
    pg_stats(host->pg, &stats);
    hello.version = LS_PROTOCOL_VERSION;
    hello.version_min = LS_PROTOCOL_VERSION_MIN;
    hello.participant = host->conf.name;
    hello.coordinator = host->conf.coordinator_name;
    hello.nonce = host->nonce;
    hello.system_id = effect->hello.server.system_id;
    hello.timeline = effect->hello.server.timeline;
    hello.insert_lsn = effect->hello.server.insert_lsn;
    hello.credits = effect->hello.credits;
    hello.server_version = text(stats.server_version);
    hello.database = text(stats.database);
    for (uint32_t i = 0; i < effect->hello.history_count; i++) {
        lockstep__timeline_switch__init(&switches[i]);
        switches[i].timeline = effect->hello.history[i].timeline;
        switches[i].lsn = effect->hello.history[i].lsn;
        list[i] = &switches[i];
    }
    hello.n_history = effect->hello.history_count;
    hello.history = list;
    if (effect->hello.has_fence) {
        fill_fence(&effect->hello.fence, &fence);
        frame.fence = &fence;
    }
    frame.body_case = LOCKSTEP__FRAME__BODY_HELLO;
    frame.hello = &hello;
    send_frame(uplink, effect, &frame);
}

static void send_refuse(struct uplink *uplink, const struct agent_effect *effect)
{
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    Lockstep__Refuse refuse = LOCKSTEP__REFUSE__INIT;
    Lockstep__Fence fence;
    refuse.reason = text(effect->refuse.reason);
    if (effect->refuse.has_fence) {
        fill_fence(&effect->refuse.fence, &fence);
        refuse.remembered = &fence;
    }
    frame.body_case = LOCKSTEP__FRAME__BODY_REFUSE;
    frame.refuse = &refuse;
    send_frame(uplink, effect, &frame);
}

/* The results of the branch's last run, as protobuf-c wants them; *ret_list is to be freed. */
static size_t make_results(struct agenthost *host, uint64_t branch, Lockstep__StepResult ***ret_list)
{
    uint32_t count;
    const struct pg_step_result *results = pg_results(host->pg, branch, &count);
    *ret_list = NULL;
    if (results == NULL || count == 0)
        return 0;
    Lockstep__StepResult **list = malloc(count * (sizeof(*list) + sizeof(**list)));
    if (list == NULL)
        abort(); /* bounded by the number of statements; a crash is what recovery is for */
    Lockstep__StepResult *items = (Lockstep__StepResult *)(void *)(list + count);
    for (uint32_t i = 0; i < count; i++) {
        lockstep__step_result__init(&items[i]);
        items[i].step = results[i].step;
        items[i].rows_affected = results[i].rows_affected;
        items[i].rows_json = results[i].has_rows ? text(results[i].json) : NULL;
        list[i] = &items[i];
    }
    *ret_list = list;
    return count;
}

static void send_vote(struct uplink *uplink, const struct agent_effect *effect)
{
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    Lockstep__Vote vote = LOCKSTEP__VOTE__INIT;
    Lockstep__StepResult **results = NULL;
    vote.gtid = text(effect->gtid);
    vote.kind = (Lockstep__VoteKind)effect->vote.kind;
    vote.has_part = effect->vote.kind == AGENT_VOTE_CONTINUE;
    vote.part = effect->vote.part;
    if (effect->vote.with_results)
        vote.n_results = make_results(uplink->host, effect->branch, &results);
    vote.results = results;
    if (effect->vote.kind == AGENT_VOTE_YES) {
        vote.gid = text(effect->vote.gid);
        vote.has_xid = vote.has_lsn = vote.has_system_id = vote.has_timeline = true;
        vote.xid = effect->vote.identity.xid;
        vote.lsn = effect->vote.identity.lsn;
        vote.system_id = effect->vote.identity.system_id;
        vote.timeline = effect->vote.identity.timeline;
        vote.owner = text(effect->vote.owner);
    }
    vote.sqlstate = text(effect->vote.sqlstate);
    vote.reason = text(effect->vote.reason);
    vote.has_step = effect->vote.has_step;
    vote.step = effect->vote.step;
    vote.has_retryable = effect->vote.retryable;
    vote.retryable = effect->vote.retryable;
    vote.existing_gtid = text(effect->vote.existing_gtid);
    vote.has_existing_hash = effect->vote.existing_hash != NULL && effect->vote.existing_hash_length > 0;
    vote.existing_hash.len = effect->vote.existing_hash_length;
    vote.existing_hash.data = (uint8_t *)(uintptr_t)effect->vote.existing_hash;
    vote.has_barrier = effect->vote.has_barrier;
    vote.barrier = (Lockstep__BarrierState)effect->vote.barrier;
    frame.body_case = LOCKSTEP__FRAME__BODY_VOTE;
    frame.vote = &vote;
    if (failpoint_hit(FP_agent_before_vote))
        break_link(uplink);
    send_frame(uplink, effect, &frame);
    free(results);
    if (uplink->host->conf.faults && uplink->peer != NULL)
        peer_flush(uplink->peer); /* or "after the vote" would not be after it */
    if (failpoint_hit(FP_agent_after_vote))
        break_link(uplink);
}

static void send_done(struct uplink *uplink, const struct agent_effect *effect)
{
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    Lockstep__Done done = LOCKSTEP__DONE__INIT;
    done.gtid = text(effect->gtid);
    done.kind = (Lockstep__DoneKind)effect->done.kind;
    done.reason = text(effect->done.reason);
    done.has_stranger = effect->done.stranger;
    done.stranger = effect->done.stranger;
    done.app = text(effect->done.app);
    frame.body_case = LOCKSTEP__FRAME__BODY_DONE;
    frame.done = &done;
    send_frame(uplink, effect, &frame);
}

static void send_inquiry(struct uplink *uplink, const struct agent_effect *effect)
{
    static Lockstep__InquiryItem items[AGENT_INQUIRY_ITEMS_MAX], *list[AGENT_INQUIRY_ITEMS_MAX];
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    Lockstep__Inquiry inquiry = LOCKSTEP__INQUIRY__INIT;
    assert(effect->inquiry.count <= AGENT_INQUIRY_ITEMS_MAX);
    for (uint32_t i = 0; i < effect->inquiry.count; i++) {
        const struct agent_prepared *from = &effect->inquiry.items[i];
        lockstep__inquiry_item__init(&items[i]);
        items[i].gid = text(from->gid);
        items[i].xid = from->xid;
        items[i].owner = text(from->owner);
        items[i].age_ms = from->age_ms;
        items[i].system_id = effect->inquiry.server.system_id;
        items[i].timeline = effect->inquiry.server.timeline;
        list[i] = &items[i];
    }
    inquiry.token = effect->inquiry.token;
    inquiry.n_items = effect->inquiry.count;
    inquiry.items = list;
    frame.body_case = LOCKSTEP__FRAME__BODY_INQUIRY;
    frame.inquiry = &inquiry;
    if (failpoint_hit(FP_agent_before_inquiry))
        break_link(uplink);
    send_frame(uplink, effect, &frame);
}

static void send_kept(struct uplink *uplink, const struct agent_effect *effect)
{
    char *list[LS_KEPT_PAGE_MAX];
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    Lockstep__Kept kept = LOCKSTEP__KEPT__INIT;
    assert(effect->kept.count <= LS_KEPT_PAGE_MAX);
    for (uint32_t i = 0; i < effect->kept.count; i++)
        list[i] = text(effect->kept.sagas[i]);
    kept.token = effect->kept.token;
    kept.n_sagas = effect->kept.count;
    kept.sagas = list;
    frame.body_case = LOCKSTEP__FRAME__BODY_KEPT;
    frame.kept = &kept;
    send_frame(uplink, effect, &frame);
}

static void send_small(struct uplink *uplink, const struct agent_effect *effect)
{
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    Lockstep__Ready ready = LOCKSTEP__READY__INIT;
    Lockstep__Credit credit = LOCKSTEP__CREDIT__INIT;
    if (effect->kind == AEF_SEND_READY) {
        frame.body_case = LOCKSTEP__FRAME__BODY_READY;
        frame.ready = &ready;
    } else {
        credit.credits = effect->credit.credits;
        frame.body_case = LOCKSTEP__FRAME__BODY_CREDIT;
        frame.credit = &credit;
    }
    send_frame(uplink, effect, &frame);
}

static void close_link(struct uplink *uplink, const struct agent_effect *effect)
{
    if (!uplink->up || effect->link != uplink->number)
        return;
    uplink->up = false; /* the core knows already: on_closed must not tell it again */
    struct peer *peer = uplink->peer;
    uplink->peer = NULL;
    if (effect->text != NULL)
        diag(DIAG_WARN, "link closed", "because", effect->text, NULL);
    peer_close(peer, effect->text != NULL ? effect->text : "closed", effect->text != NULL);
}

void uplink_carry_out(struct uplink *uplink, const struct agent_effect *effect)
{
    switch (effect->kind) {
    case AEF_DIAL:
        dial(uplink);
        return;
    case AEF_CLOSE:
        close_link(uplink, effect);
        return;
    case AEF_SEND_HELLO:
        send_hello(uplink, effect);
        return;
    case AEF_SEND_REFUSE:
        send_refuse(uplink, effect);
        return;
    case AEF_SEND_READY:
    case AEF_SEND_CREDIT:
        send_small(uplink, effect);
        return;
    case AEF_SEND_PONG:
        return; /* peer.c has answered */
    case AEF_SEND_VOTE:
        send_vote(uplink, effect);
        return;
    case AEF_SEND_DONE:
        send_done(uplink, effect);
        return;
    case AEF_SEND_INQUIRY:
        send_inquiry(uplink, effect);
        return;
    case AEF_SEND_KEPT:
        send_kept(uplink, effect);
        return;
    case AEF_STOP:
    case AEF_REPORT:
    case AEF_DRAINED:
    case AEF_FREE_WORK:
    case AEF_FORGET:
    case AEF_DB_LOCK:
    case AEF_DB_CLEAN:
    case AEF_DB_IDENTITY:
    case AEF_DB_FENCE:
    case AEF_DB_SCAN:
    case AEF_DB_KEPT:
    case AEF_DB_FORGET:
    case AEF_DB_RUN:
    case AEF_DB_COMMIT1:
    case AEF_DB_ROLLBACK:
    case AEF_DB_STOP:
    case AEF_DB_RELEASE:
    case AEF_DB_FINISH:
    case AEF_DB_PROVE:
    case AEF_DB_READ_KEY:
    case AEF_DB_SETTLE:
        break;
    }
    assert(false && "not an effect on the link");
}
