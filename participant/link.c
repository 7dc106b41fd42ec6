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
#include "participant/agentmsg.h"
#include "participant/functions.h"
#include "participant/host.h"
#include "participant/relay_host.h"

struct uplink {
    struct agenthost *host;
    SSL_CTX *tls;
    struct peer *peer;      /* the one that is dialled, or up, or closing */
    uint64_t number;        /* of the present or last link */
    bool up;                /* the core knows of it */
    uint32_t version;       /* that was agreed on; 0: not yet */
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
    uplink->version = 0;
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
    /* Crash: nothing was begun. */
    if (failpoint_hit(FP_agent_work_received)) {
        break_link(uplink);
        return;
    }
    Lockstep__Work *work = frame_take_work(frame); /* what the event borrows is in there */
    event->work.work = work;
    if (refuse_work(uplink->host, work, event, &err))
        event->work.refused = err.text;
    agenthost_step(uplink->host, event);
}

static void take_prove(struct uplink *uplink, const Lockstep__Prove *prove, struct agent_event *event)
{
    for (size_t i = 0; i < prove->n_items && uplink->up; i++) {
        agentmsg_read_decide(prove->items[i], true, event);
        agenthost_step(uplink->host, event);
    }
}

/* The crash points of what arrives: known here, and nothing done about it. */
static bool fails_at(enum agent_event_kind kind)
{
    switch ((int)kind) {
    case AEV_WELCOME: /* Crash: nothing was compared, nobody is served. */
        return failpoint_hit(FP_agent_welcome_received);
    case AEV_DECIDE: /* Crash: still prepared; the next life asks, and the coordinator says it again. */
        return failpoint_hit(FP_agent_decide_received);
    case AEV_ANSWER: /* Crash: asked again, answered the same. */
        return failpoint_hit(FP_agent_answer_received);
    case AEV_SETTLE: /* Crash: asked again at the next link. */
        return failpoint_hit(FP_agent_settle_received);
    default:
        return false;
    }
}

/* What is not the core's, but the relay's. */
static void take_events(struct uplink *uplink, const Lockstep__Frame *frame)
{
    if (frame->body_case == LOCKSTEP__FRAME__BODY_ROUTE)
        relayhost_route(uplink->host->relay, frame->route);
    else if (frame->body_case == LOCKSTEP__FRAME__BODY_ASK)
        relayhost_ask(uplink->host->relay, frame->ask);
}

static void on_frame(void *context, struct peer *peer, const Lockstep__Frame *frame)
{
    struct uplink *uplink = context;
    static struct agent_answer_item items[AGENT_INQUIRY_ITEMS_MAX];
    struct agent_event event = {0};
    if (!uplink->up || uplink->peer != peer)
        return;
    if (frame->body_case == LOCKSTEP__FRAME__BODY_WELCOME)
        uplink->version = frame->welcome->version;
    agentmsg_read_fence(frame, uplink->number, &event);
    if (frame->body_case == LOCKSTEP__FRAME__BODY_PROVE) {
        take_prove(uplink, frame->prove, &event);
        return;
    }
    if (!agentmsg_read(frame, uplink->host->conf.gid_form, items, &event)) {
        peer_close(peer, "a frame that a coordinator does not send", true);
        return;
    }
    if (event.kind == AEV_WORK) {
        take_work(uplink, frame, &event);
        return;
    }
    if (fails_at(event.kind)) {
        break_link(uplink);
        return;
    }
    agenthost_step(uplink->host, &event);
    /* The core closes a link that may not say so, or whose fence is not the one it knows. */
    if (event.kind == AEV_RELAYED && uplink->up && uplink->peer == peer)
        take_events(uplink, frame);
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

void uplink_send(struct uplink *uplink, const Lockstep__Frame *frame)
{
    if (uplink->up && uplink->peer != NULL && uplink->version >= LS_PROTOCOL_VERSION_EVENT && peer_send(uplink->peer, frame) != LS_OK)
        peer_close(uplink->peer, "a frame cannot be sent", false);
}

/* protobuf-c wants char *; it only reads. */
static char *text(const char *borrowed)
{
    return (char *)(uintptr_t)borrowed;
}

static struct agentmsg message; /* under construction: one at a time */

static void send_hello(struct uplink *uplink, const struct agent_effect *effect)
{
    struct agenthost *host = uplink->host;
    struct pg_stats stats;
    pg_stats(host->pg, &stats);
    agentmsg_build(&message, effect);
    message.hello.participant = host->conf.name;
    message.hello.coordinator = host->conf.coordinator_name;
    message.hello.nonce = host->nonce;
    message.hello.server_version = text(stats.server_version);
    message.hello.database = text(stats.database);
    /* Crash: the coordinator does not know of this life. */
    (void)failpoint_hit(FP_agent_before_hello);
    send_frame(uplink, effect, &message.frame);
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
    Lockstep__StepResult **results = NULL;
    agentmsg_build(&message, effect);
    if (effect->vote.with_results)
        message.vote.n_results = make_results(uplink->host, effect->branch, &results);
    message.vote.results = results;
    /* Crash: prepared, and no vote: the coordinator aborts, the next life asks and rolls back. */
    if (failpoint_hit(FP_agent_before_vote))
        break_link(uplink);
    send_frame(uplink, effect, &message.frame);
    free(results);
    if (uplink->host->conf.faults && uplink->peer != NULL)
        peer_flush(uplink->peer); /* or "after the vote" would not be after it */
    /* Crash: after YES in doubt until the next life is told; between two parts open in a backend that will be ended. */
    if (failpoint_hit(FP_agent_after_vote) || (effect->vote.kind == AGENT_VOTE_CONTINUE && failpoint_hit(FP_agent_part_done)))
        break_link(uplink);
}

static void send_inquiry(struct uplink *uplink, const struct agent_effect *effect)
{
    agentmsg_build(&message, effect);
    /* Crash: what is listed stays prepared until the next life asks. */
    if (failpoint_hit(FP_agent_before_inquiry))
        break_link(uplink);
    send_frame(uplink, effect, &message.frame);
}

static void send_other(struct uplink *uplink, const struct agent_effect *effect)
{
    agentmsg_build(&message, effect);
    send_frame(uplink, effect, &message.frame);
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
    case AEF_SEND_READY:
    case AEF_SEND_CREDIT:
    case AEF_SEND_DONE:
    case AEF_SEND_KEPT:
        send_other(uplink, effect);
        return;
    case AEF_SEND_PONG:
        return; /* peer.c has answered */
    case AEF_SEND_VOTE:
        send_vote(uplink, effect);
        return;
    case AEF_SEND_INQUIRY:
        send_inquiry(uplink, effect);
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
