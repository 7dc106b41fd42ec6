/* host.c: see host.h. */
#include "participant/host.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/diag.h"
#include "common/failpoint.h"
#include "common/hash.h"
#include "lockstep.pb-c.h"
#include "participant/link.h"
#include "participant/relay_host.h"
#include "participant/stats.h"

/* ---- effects */

static void carry_out_run(struct agenthost *host, const struct agent_effect *effect)
{
    const Lockstep__Work *work = effect->run.work;
    /* Work without a role was refused before the core saw it as runnable. */
    const char *role = agent_conf_role(&host->conf, work->app);
    assert(role != NULL);
    pg_carry_out(host->pg, effect, role);
}

static const char *vote_word(enum agent_vote vote)
{
    static const char *const words[] = {"yes", "no", "read-only", "continue", "committed", "exists", "broken"};
    return words[vote];
}

static void log_vote(const struct agent_effect *effect)
{
    if (effect->vote.kind == AGENT_VOTE_BROKEN || (effect->vote.kind == AGENT_VOTE_NO && diag_enabled(DIAG_DEBUG)))
        diag(effect->vote.kind == AGENT_VOTE_BROKEN ? DIAG_ERROR : DIAG_DEBUG, "vote", "gtid", effect->gtid, "vote",
             vote_word(effect->vote.kind), "sqlstate", effect->vote.sqlstate != NULL ? effect->vote.sqlstate : "", "reason",
             effect->vote.reason != NULL ? effect->vote.reason : "", NULL);
    else if (diag_enabled(DIAG_DEBUG))
        diag(DIAG_DEBUG, "vote", "gtid", effect->gtid, "vote", vote_word(effect->vote.kind), "gid",
             effect->vote.gid != NULL ? effect->vote.gid : "", "xid", diag_u64(effect->vote.identity.xid), NULL);
}

static void log_done(const struct agent_effect *effect)
{
    static const char *const words[] = {"committed", "aborted", "hazard"};
    bool hazard = effect->done.kind == AGENT_DONE_HAZARD;
    if (hazard || effect->done.stranger || diag_enabled(DIAG_DEBUG))
        diag(hazard ? DIAG_ERROR : effect->done.stranger ? DIAG_WARN : DIAG_DEBUG, "branch ended", "gtid", effect->gtid, "how",
             words[effect->done.kind], "stranger", effect->done.stranger ? "yes" : "no", "reason",
             effect->done.reason != NULL ? effect->done.reason : "", NULL);
}

static void carry_out(struct agenthost *host, const struct agent_effect *effect)
{
    switch (effect->kind) {
    case AEF_STOP:
        diag(effect->stop.exit_status == LS_EXIT_OK ? DIAG_INFO : DIAG_ERROR, "stopping", "reason", effect->text, NULL);
        agenthost_stop(host, effect->stop.exit_status);
        return;
    case AEF_REPORT:
        diag(effect->report.alarm ? DIAG_ERROR : DIAG_WARN, effect->report.alarm ? "needs a human" : "report", "what", effect->text,
             "gtid", effect->gtid != NULL ? effect->gtid : "", NULL);
        return;
    case AEF_DRAINED:
        host->draining = true;
        event_active(host->drain_timer, EV_TIMEOUT, 0);
        return;
    case AEF_SEND_READY:
        if (!host->served)
            daemon_notify("READY=1");
        host->served = true;
        /* Crash: all of its own was asked about; no work yet. */
        (void)failpoint_hit(FP_agent_before_ready);
        diag(DIAG_INFO, "serving", "participant", host->conf.name, "coordinator", host->conf.coordinator_name, NULL);
        uplink_carry_out(host->uplink, effect);
        relayhost_announce(host->relay);
        return;
    case AEF_SEND_VOTE:
        log_vote(effect);
        uplink_carry_out(host->uplink, effect);
        if (effect->vote.kind == AGENT_VOTE_COMMITTED)
            relayhost_fresh(host->relay);
        return;
    case AEF_SEND_DONE:
        log_done(effect);
        uplink_carry_out(host->uplink, effect);
        if (effect->done.kind == AGENT_DONE_COMMITTED)
            relayhost_fresh(host->relay);
        return;
    case AEF_DIAL:
    case AEF_CLOSE:
    case AEF_SEND_HELLO:
    case AEF_SEND_REFUSE:
    case AEF_SEND_PONG:
    case AEF_SEND_CREDIT:
    case AEF_SEND_INQUIRY:
    case AEF_SEND_KEPT:
        uplink_carry_out(host->uplink, effect);
        return;
    case AEF_FREE_WORK:
        lockstep__work__free_unpacked(effect->free_work.work, NULL);
        return;
    case AEF_DB_RUN:
        carry_out_run(host, effect);
        return;
    case AEF_FORGET:
    case AEF_DB_LOCK:
    case AEF_DB_CLEAN:
    case AEF_DB_IDENTITY:
    case AEF_DB_FENCE:
    case AEF_DB_SCAN:
    case AEF_DB_KEPT:
    case AEF_DB_FORGET:
    case AEF_DB_COMMIT1:
    case AEF_DB_ROLLBACK:
    case AEF_DB_STOP:
    case AEF_DB_RELEASE:
    case AEF_DB_FINISH:
    case AEF_DB_PROVE:
    case AEF_DB_READ_KEY:
    case AEF_DB_SETTLE:
        pg_carry_out(host->pg, effect, NULL);
        return;
    }
    assert(false && "an effect that does not exist");
}

static void set_timer(struct agenthost *host)
{
    uint64_t due = agent_next_timer(host->core);
    if (due == AGENT_NEVER) {
        event_del(host->timer);
        host->timer_us = 0;
        return;
    }
    if (host->timer_us == due)
        return; /* most steps change nothing */
    uint64_t now = daemon_now_us(), us = due > now ? due - now : 0;
    const struct timeval wait = {.tv_sec = (time_t)(us / 1000000), .tv_usec = (suseconds_t)(us % 1000000)};
    host->timer_us = due;
    event_add(host->timer, &wait);
}

void agenthost_step(struct agenthost *host, struct agent_event *event)
{
    assert(!host->stepping);
    host->stepping = true;
    event->now_us = daemon_now_us();
    agent_step(host->core, event, &host->effects);
    for (size_t i = 0; i < host->effects.count; i++)
        carry_out(host, &host->effects.list[i]);
    pg_flush(host->pg);
    host->stepping = false;
    set_timer(host);
}

void agenthost_stop(struct agenthost *host, int exit_status)
{
    host->exit_status = exit_status;
    event_base_loopbreak(host->base);
}

/* ---- callbacks of the loop */

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct agenthost *host = arg;
    struct agent_event event = {.kind = AEV_TICK};
    host->timer_us = 0;
    agenthost_step(host, &event);
}

static void on_pg_event(void *context, struct agent_event *event)
{
    struct agenthost *host = context;
    bool ours = event->kind == AEV_DB_CLEAN && event->clean.ok; /* the lock is held, earlier backends are gone */
    agenthost_step(host, event);
    if (ours)
        relayhost_start(host->relay);
}

static void on_pg_refused(void *context, const char *what, const char *mend)
{
    struct agenthost *host = context;
    diag(DIAG_ERROR, "this database cannot be served", "because", what, "mend", mend, NULL);
    /* At the start somebody is looking; later the server may come back as it was (a standby that is promoted, say). */
    if (!host->served)
        agenthost_stop(host, LS_EXIT_CONFIG);
}

/* Begun anew, it knows what the database knows. In place it could handle a page of events that the other one has handled, and let go of long ago. */
static void on_pg_superseded(void *context)
{
    diag(DIAG_WARN, "another agent of this participant has served its database since: ending, to be started anew", NULL);
    agenthost_stop(context, LS_EXIT_ERROR);
}

static void on_pg_report(void *context, int level, const char *what, const char *detail)
{
    (void)context;
    diag((enum diag_level)level, what, "detail", detail, NULL);
}

static void on_left(struct agenthost *host)
{
    agenthost_stop(host, LS_EXIT_OK);
}

/* Nothing runs any more, or it has taken too long. */
static void on_drain_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct agenthost *host = arg;
    diag(host->draining ? DIAG_INFO : DIAG_WARN, host->draining ? "stopping" : "stopping although branches still run", NULL);
    /* Crash: what is prepared here is the next life's. */
    (void)failpoint_hit(FP_agent_before_leave);
    uplink_leave(host->uplink, on_left);
}

static void on_stop(void *context, int signal)
{
    struct agenthost *host = context;
    struct agent_event event = {.kind = AEV_DRAIN};
    const struct timeval wait = {.tv_sec = (time_t)(host->conf.drain_ms / 1000), .tv_usec = (suseconds_t)(host->conf.drain_ms % 1000) * 1000};
    if (host->stop_asked) {
        diag(DIAG_WARN, "stopping at once", "signal", diag_u64((unsigned)signal), NULL);
        agenthost_stop(host, LS_EXIT_OK);
        return;
    }
    host->stop_asked = true;
    daemon_notify("STOPPING=1");
    diag(DIAG_INFO, "no new work", "signal", diag_u64((unsigned)signal), NULL);
    /* Crash: as without the signal. */
    (void)failpoint_hit(FP_agent_drain_started);
    event_add(host->drain_timer, &wait);
    agenthost_step(host, &event);
}

static void on_reload(void *context)
{
    struct agenthost *host = context;
    struct ls_error err;
    SSL_CTX *tls, *server;
    char notice[64];
    snprintf(notice, sizeof(notice), "RELOADING=1\nMONOTONIC_USEC=%llu", daemon_now_us());
    daemon_notify(notice);
    if (agent_conf_load_tls(&host->conf, &tls, &server, &err) != LS_OK) {
        diag(DIAG_ERROR, "certificates not reloaded, the old ones stay", "error", err.text, NULL);
    } else {
        uplink_set_tls(host->uplink, tls);
        relayhost_set_tls(host->relay, server, tls);
        SSL_CTX_free(tls);
        SSL_CTX_free(server);
        diag(DIAG_INFO, "certificates reloaded: the next link uses them", NULL);
    }
    daemon_notify("READY=1");
}

/* ---- start and end */

static enum ls_status start_pg(struct agenthost *host, struct ls_error *err)
{
    static const struct pg_callbacks callbacks = {on_pg_event, on_pg_refused, on_pg_superseded, on_pg_report};
    const struct pg_config config = {.target = &host->conf.target,
                                     .participant = host->conf.name,
                                     .coordinator = host->conf.coordinator_name,
                                     .workers_max = host->conf.workers + host->conf.relay_sessions,
                                     .finishers_max = host->conf.finishers,
                                     .statements_max = host->conf.statements,
                                     .connect_ms = (uint32_t)host->conf.connect_ms,
                                     .settle_lock_ms = (uint32_t)host->conf.settle_lock_ms,
                                     .roles = host->conf.database_roles,
                                     .role_count = host->conf.database_role_count};
    return pg_new(host->base, &config, &callbacks, host, &host->pg, err);
}

static enum ls_status start_core(struct agenthost *host, struct ls_error *err)
{
    struct agent_config config;
    agent_conf_core(&host->conf, random_u64(), &config);
    host->core = agent_new(&config);
    return host->core != NULL ? LS_OK : ls_fail(err, LS_ERR_NOMEM, "out of memory");
}

static enum ls_status start_loop(struct agenthost *host, struct ls_error *err)
{
    host->base = event_base_new();
    if (host->base != NULL) {
        host->timer = event_new(host->base, -1, 0, on_timer, host);
        host->drain_timer = event_new(host->base, -1, 0, on_drain_timer, host);
    }
    if (host->base == NULL || host->timer == NULL || host->drain_timer == NULL)
        return ls_fail(err, LS_ERR_NOMEM, "out of memory");
    return daemon_signals_new(host->base, on_stop, on_reload, host, &host->signals, err);
}

enum ls_status agenthost_start(struct agenthost *host, struct agent_conf *conf, const char *file, struct ls_error *err)
{
    SSL_CTX *tls = NULL, *server = NULL;
    host->conf = *conf;
    host->file = file;
    random_hex(sizeof(host->nonce) - 1, host->nonce);
    enum ls_status status = start_loop(host, err);
    if (status == LS_OK)
        status = agent_conf_load_tls(&host->conf, &tls, &server, err);
    if (status == LS_OK)
        status = uplink_new(host, tls, &host->uplink, err);
    if (status == LS_OK)
        status = relayhost_new(host, &host->relay, err);
    if (status == LS_OK)
        relayhost_set_tls(host->relay, server, tls);
    SSL_CTX_free(tls);
    SSL_CTX_free(server);
    if (status == LS_OK)
        status = start_pg(host, err);
    if (status == LS_OK)
        status = start_core(host, err);
    if (status == LS_OK)
        status = agentstats_new(host, &host->stats, err);
    return status;
}

int agenthost_run(struct agenthost *host)
{
    struct agent_event event = {.kind = AEV_START};
    diag(DIAG_INFO, "starting", "participant", host->conf.name, "coordinator", host->conf.coordinator_name, "version", LOCKSTEP_VERSION, NULL);
    agenthost_step(host, &event);
    if (event_base_dispatch(host->base) < 0)
        diag_fatal(LS_EXIT_ERROR, "the event loop has failed", NULL);
    return host->exit_status;
}

void agenthost_free(struct agenthost *host)
{
    agentstats_free(host->stats);
    uplink_free(host->uplink);
    pg_free(host->pg);
    relayhost_free(host->relay); /* behind pg: nothing answers any more */
    agent_free(host->core);
    agent_effects_free(&host->effects);
    daemon_signals_free(host->signals);
    if (host->timer != NULL)
        event_free(host->timer);
    if (host->drain_timer != NULL)
        event_free(host->drain_timer);
    if (host->base != NULL)
        event_base_free(host->base);
    agent_conf_free(&host->conf);
}
