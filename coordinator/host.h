/*
 * host.h: the host of the engine inside lockstepd: hands it events with the time, and turns its effects into frames,
 * log records and answers.
 *
 * One thread owns everything here, in one libevent loop; the log's writer (coordinator/dlog/writer.h) is the only other
 * thread. A turn of the loop handles whatever is ready; at its end the frames of the turn leave, batched per link, and
 * the writer is woken once if something must become durable. So the cost of a wake-up, a write and a sync is shared by
 * all transactions of the turn.
 *
 * The log rules (design 2.3) live in three places: host_step() appends decisions in the order of the effects;
 * on_log_durable() is the only place that makes EV_LOG_DURABLE, out of what the writer reports as synced; the engine
 * sends COMMIT only for that event.
 *
 * The process stops without ceremony, status 74, as soon as the log has failed, and with the engine's status (78) on
 * EF_STOP: what is not durable was told to nobody.
 */
#ifndef LOCKSTEP_HOST_H
#define LOCKSTEP_HOST_H

#include <event2/event.h>
#include <openssl/ssl.h>

#include "coordinator/conf.h"
#include "coordinator/core/engine.h"
#include "coordinator/dlog/dlog.h"
#include "coordinator/horizon.h"
#include "coordinator/registry.h"
#include "lockstep.pb-c.h"

struct agents;
struct api;
struct dlog_writer;
struct saga_host;
struct web;
struct alerts;

/* A log effect that is not durable yet; durable in the order of appending. */
struct host_ticket {
    uint64_t ticket, end, appended_us;
    bool decision;
};

/* An abort that came up while effects were being carried out. */
struct host_cancel {
    struct host_cancel *next;
    uint32_t epoch;
    uint64_t sequence;
    char reason[LS_REASON_MAX + 1];
};

struct host {
    struct event_base *base;
    struct coordinator_conf conf;
    const char *conf_file;
    int lock_fd;
    struct registry *registry;
    struct apps *apps;
    struct dlog *log;
    struct dlog_writer *writer;
    struct engine *engine;
    struct engine_effects effects;
    struct agents *agents;
    struct api *api;
    struct saga_host *sagas;
    struct web *web;
    struct alerts *alerts;

    char incarnation[LS_INCARNATION_LEN + 1];
    uint32_t epoch;
    Lockstep__Fence fence; /* where the log is durable; strings point into conf and incarnation */

    struct host_ticket *tickets; /* ring */
    size_t ticket_first, ticket_count, ticket_capacity;
    struct host_cancel *cancel_first, **cancel_last;
    bool in_step;
    bool kick; /* something forced was appended in this turn */

    struct event *log_event, *engine_timer, *housekeeping_timer, *drain_timer;
    uint64_t armed_us; /* what engine_timer is set to */
    uint64_t started_us, maintained_us;
    uint64_t doubt_told_us; /* when a human was last told of something in doubt */
    uint64_t append_seen;   /* for marks */
    uint64_t horizon_seen;
    bool log_starved; /* said once */
    /* one-participant transactions: how far they are settled and forgotten; durable before anybody is told */
    struct horizon horizon;
    struct horizon_name settled, settling;
    uint64_t settling_end; /* log position that makes `settling` durable, 0: nothing is on its way */

    bool draining, stop;
    uint64_t drain_until_us;
    struct daemon_signals *signals;
};

/* Opens the log, recovers, opens the listeners. After an error the host is to be given to host_free(). The statuses
 * decide the exit: LS_ERR_CONFIG and LS_ERR_EXISTS 78, LS_ERR_IO and LS_ERR_CORRUPT 74, others 1. `conf` is taken over.
 */
enum ls_status host_start(struct host *host, struct coordinator_conf *conf, const char *conf_file,
                          struct ls_error *err) LS_MUST_CHECK;
/* Runs until drained; the exit status. */
int host_run(struct host *host);
void host_free(struct host *host);

/* Hands an event to the engine (now_us is set here) and carries out what comes of it. Not from inside of an effect. */
void host_step(struct host *host, struct engine_event *event);
/* Aborts a transaction before its decision, also from inside of an effect. */
void host_cancel(struct host *host, uint32_t epoch, uint64_t sequence, const char *reason);
/* Makes everything appended so far durable at the end of this turn. */
void host_force(struct host *host);
/* The log has failed: says so and ends the process with 74. */
void host_log_failed(const char *what, const struct ls_error *err) __attribute__((noreturn));
/* Bytes of the log that are not promised to anybody. */
uint64_t host_log_room(struct host *host);
/* Appends a registry record; *ret_end: it is durable once the log is durable up to there. Stops the process when the
 * log has failed. */
enum ls_status host_log_participant(struct host *host, const struct registry_participant *participant,
                                    uint64_t *ret_end, struct ls_error *err) LS_MUST_CHECK;

/* What the log knows of (epoch, sequence), which must not be in the engine's memory. KEPT_COMMIT: *ret_record is to be
 * freed with lockstep__log_commit__free_unpacked. */
enum kept_kind host_find_decision(struct host *host, uint32_t epoch, uint64_t sequence,
                                  Lockstep__LogCommit **ret_record);

/* Is it of a one-participant transaction so old that its participant may not be asked? */
bool host_is_gone(const struct host *host, uint32_t epoch, uint64_t sequence);
/* "lockstep:..." names of this coordinator and incarnation. */
bool host_gtid_is_ours(const struct host *host, const struct ls_gtid *gtid);
uint64_t host_running_ms(const struct host *host);
unsigned host_agents_linked(const struct host *host);

#endif
