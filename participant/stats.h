/*
 * stats.h: the agent's metrics, and the Unix socket that answers GET /metrics.
 */
#ifndef LOCKSTEP_AGENT_STATS_H
#define LOCKSTEP_AGENT_STATS_H

#include "lockstep/status.h"

struct agenthost;
struct agentstats;

/* Registers the metrics; listens if the configuration names a socket. */
enum ls_status agentstats_new(struct agenthost *host, struct agentstats **ret_stats, struct ls_error *err) LS_MUST_CHECK;
/* NULL is fine. */
void agentstats_free(struct agentstats *stats);

#endif
