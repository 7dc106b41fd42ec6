/*
 * host.h: lockstep-agent around its pure core: one libevent loop in which the link to the coordinator, the database and the clock become events, and
 * effects become frames and SQL.
 *
 * The rule of this file: agenthost_step() is called from the loop only, never while effects are being carried out.
 */
#ifndef LOCKSTEP_AGENT_HOST_H
#define LOCKSTEP_AGENT_HOST_H

#include <event2/event.h>
#include <stdbool.h>

#include "common/daemon.h"
#include "participant/conf.h"
#include "participant/core/agent.h"
#include "participant/pg/pg.h"

struct uplink;
struct agentstats;
struct relayhost;

struct agenthost {
    struct agent_conf conf;
    const char *file;
    struct event_base *base;
    struct agent *core;
    struct agent_effects effects;
    struct pg *pg;
    struct uplink *uplink;
    struct agentstats *stats;
    struct relayhost *relay;
    struct daemon_signals *signals;
    struct event *timer, *drain_timer;
    char nonce[17];
    uint64_t timer_us; /* when the armed timer fires; 0: not armed */
    bool stepping, served, stop_asked, draining;
    int exit_status;
};

/* Everything but the loop. LS_ERR_CONFIG, LS_ERR_IO ...: what could not be had. agenthost_free() in any case. Takes conf over. */
enum ls_status agenthost_start(struct agenthost *host, struct agent_conf *conf, const char *file, struct ls_error *err) LS_MUST_CHECK;
/* Runs until it is told to stop; the exit status. */
int agenthost_run(struct agenthost *host);
void agenthost_free(struct agenthost *host);

/* Hands an event in (now_us is filled in) and carries the effects out. */
void agenthost_step(struct agenthost *host, struct agent_event *event);
/* Ends the loop. */
void agenthost_stop(struct agenthost *host, int exit_status);

#endif
