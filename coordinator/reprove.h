/*
 * reprove.h: after a change of a server's timeline or system id, finds the kept decisions whose branch there may be
 * prepared again.
 *
 * A participant may fail over to a point where a branch is still prepared that was committed long ago (design 2.8).
 * Every kept decision with a branch there beyond the switch is proved again: a thread of its own reads the log's files
 * (dlog_scan: it writes nothing and takes no lock) and hands branches over through a bounded queue, so that neither
 * memory nor the loop depends on how much is kept.
 *
 * Decisions appended while it reads need no proof: their votes come over the new link, from the new history.
 */
#ifndef LOCKSTEP_REPROVE_H
#define LOCKSTEP_REPROVE_H

#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lockstep.pb-c.h"
#include "lockstep/limits.h"
#include "lockstep/status.h"

#define REPROVE_QUEUE_MAX 512u

/* A kept branch that must be proved on the new history. */
struct reprove_item {
    uint32_t epoch, timeline;
    uint64_t sequence, system_id, xid, lsn;
    char gid[LS_GID_MAX + 1];
    char owner[LS_ROLE_MAX + 1];
};

struct reprove_history { /* the server as Hello shows it */
    uint64_t system_id;
    uint32_t timeline;
    Lockstep__TimelineSwitch *switches; /* where older timelines ended */
    size_t switch_count;
};

/* True unless a branch bound to (system_id, timeline, lsn) surely lies in the history. Pure. */
bool reprove_needed(const struct reprove_history *history, uint64_t system_id, uint32_t timeline, uint64_t lsn);

struct reprove;
enum reprove_state { REPROVE_RUNNING, REPROVE_DONE, REPROVE_FAILED };

/* Starts reading. `on_ready` is called from the loop when there are items or the state has changed. `data_dir` must
 * outlive it. */
enum ls_status reprove_start(struct event_base *base, const char *data_dir, uint32_t participant,
                             const Lockstep__Hello *hello, void (*on_ready)(void *context), void *context,
                             struct reprove **ret_reprove, struct ls_error *err) LS_MUST_CHECK;
/* Takes up to `max` items; returns how many. *ret_state says whether more may come. */
size_t reprove_take(struct reprove *reprove, struct reprove_item *ret_items, size_t max, enum reprove_state *ret_state);
/* Why the state is REPROVE_FAILED. */
const char *reprove_failure(const struct reprove *reprove);
/* Stops the thread and waits for it (one record's time). NULL is fine. */
void reprove_free(struct reprove *reprove);

#endif
