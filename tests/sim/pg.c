/* pg.c: clusters of the model: WAL, transactions, locks, crashes, failovers, outsiders. See pg.h. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/agent_host.h"
#include "tests/sim/check.h"
#include "tests/sim/check_saga.h"
#include "tests/sim/coord_host.h"
#include "tests/sim/pg_internal.h"
#include "tests/sim/relay.h"

#define LAG_RECORDS 24u /* a standby is never farther behind than this */

struct cluster *cluster_for(struct world *world, uint32_t participant) {
    return &world->pg->clusters[world->pg->cluster_of[participant]];
}

struct xact *xact_at(struct world *world, uint32_t participant, int xact) {
    struct cluster *c = cluster_for(world, participant);
    assert(xact >= 0 && xact < c->xact_count);
    return &c->xacts[xact];
}

uint64_t xact_xid(int xact) {
    return XID_FIRST + (uint64_t)xact;
}

/* --------------------------------------------------------------------- wal */

static struct wal_record *wal_append(struct world *world, uint32_t participant, enum wal_kind kind, int xact) {
    struct cluster *c = cluster_for(world, participant);
    if (c->wal_count == c->wal_capacity) {
        c->wal_capacity = c->wal_capacity == 0 ? 128 : c->wal_capacity * 2;
        c->wal = realloc(c->wal, c->wal_capacity * sizeof *c->wal);
        assert(c->wal != NULL);
    }
    c->lsn += 32 + rng_below(&world->rng, 200);
    struct wal_record *record = &c->wal[c->wal_count++];
    *record = (struct wal_record){.kind = kind, .lsn = c->lsn, .xact = xact, .participant = participant};
    return record;
}

static void wal_flush(struct cluster *c) {
    c->wal_flushed = c->wal_count;
}

uint64_t wal_flushed_lsn(const struct cluster *c) {
    return c->wal_flushed > 0 ? c->wal[c->wal_flushed - 1].lsn : c->first_lsn;
}

void wal_append_fence(struct world *world, uint32_t participant, const struct agent_fence *fence, bool durable) {
    wal_append(world, participant, WAL_FENCE, NO_XACT)->fence = *fence;
    struct database *db = &world->pg->databases[participant];
    db->fence = *fence;
    db->has_fence = true;
    if (durable) {
        wal_flush(cluster_for(world, participant));
    }
}

bool pg_forget_fence(struct world *world, uint32_t participant) {
    static const struct agent_fence none;
    if (!cluster_for(world, participant)->up) {
        return false;
    }
    wal_append_fence(world, participant, &none, true);
    world->pg->databases[participant].has_fence = false;
    return true;
}

bool pg_stored_fence(const struct world *world, uint32_t participant, struct agent_fence *ret_fence) {
    *ret_fence = world->pg->databases[participant].fence;
    return world->pg->databases[participant].has_fence;
}

/* ------------------------------------------------------------------- locks */

bool row_lock(struct world *world, uint32_t participant, uint32_t row, int xact, int session) {
    struct database *db = &world->pg->databases[participant];
    assert(row < PG_ROWS_MAX);
    if (db->holder[row] == xact) {
        return true;
    }
    if (db->holder[row] == NO_XACT && db->waiter_count[row] == 0) {
        db->holder[row] = xact;
        xact_at(world, participant, xact)->rows |= UINT64_C(1) << row;
        return true;
    }
    assert(db->waiter_count[row] < WAITERS_MAX);
    db->waiters[row][db->waiter_count[row]++] = session;
    return false;
}

/* Hands a free row to the first in its queue. */
static void row_grant(struct world *world, uint32_t participant, uint32_t row) {
    struct database *db = &world->pg->databases[participant];
    if (db->holder[row] != NO_XACT || db->waiter_count[row] == 0) {
        return;
    }
    int session = db->waiters[row][0];
    db->waiter_count[row]--;
    memmove(&db->waiters[row][0], &db->waiters[row][1], db->waiter_count[row] * sizeof db->waiters[row][0]);
    int xact = world->pg->sessions[session].xact;
    db->holder[row] = xact;
    xact_at(world, participant, xact)->rows |= UINT64_C(1) << row;
    session_row_granted(world, session, row);
}

void row_leave_queue(struct world *world, uint32_t participant, int row, int session) {
    struct database *db = &world->pg->databases[participant];
    for (uint32_t i = 0; i < db->waiter_count[row]; i++) {
        if (db->waiters[row][i] == session) {
            db->waiter_count[row]--;
            memmove(&db->waiters[row][i], &db->waiters[row][i + 1],
                    (db->waiter_count[row] - i) * sizeof db->waiters[row][0]);
            return;
        }
    }
}

static void rows_release(struct world *world, uint32_t participant, int xact) {
    struct database *db = &world->pg->databases[participant];
    for (uint32_t row = 0; row < PG_ROWS_MAX; row++) {
        if (db->holder[row] == xact) {
            db->holder[row] = NO_XACT;
            row_grant(world, participant, row);
        }
    }
}

/* ------------------------------------------------------------ transactions */

int xact_begin(struct world *world, uint32_t participant, const char *gtid, bool branch) {
    struct cluster *c = cluster_for(world, participant);
    if (c->xact_count == c->xact_capacity) {
        c->xact_capacity = c->xact_capacity == 0 ? 64 : c->xact_capacity * 2;
        c->xacts = realloc(c->xacts, (size_t)c->xact_capacity * sizeof *c->xacts);
        assert(c->xacts != NULL);
    }
    int index = c->xact_count++;
    struct xact *xact = &c->xacts[index];
    memset(xact, 0, sizeof *xact);
    xact->participant = participant;
    xact->branch = branch;
    snprintf(xact->gtid, sizeof xact->gtid, "%s", gtid);
    snprintf(xact->owner, sizeof xact->owner, "%s", PG_OWNER);
    wal_append(world, participant, WAL_ASSIGN, index);
    return index;
}

static void trace_xact(struct world *world, const struct xact *xact, int index, const char *word, const char *how) {
    char actor[8];
    snprintf(actor, sizeof actor, "db%u", xact->participant);
    world_trace(world, actor, word, "%s xid %llu%s %s", xact->gid[0] != '\0' ? xact->gid : xact->gtid,
                (unsigned long long)xact_xid(index), xact->branch ? "" : " (stranger)", how);
}

void xact_prepare(struct world *world, uint32_t participant, int index, const char *gid) {
    struct xact *xact = xact_at(world, participant, index);
    assert(xact->state == XACT_RUNNING);
    xact->state = XACT_PREPARED;
    xact->prepared_us = world->now_us;
    snprintf(xact->gid, sizeof xact->gid, "%s", gid);
    wal_append(world, participant, WAL_PREPARE, index);
    wal_flush(cluster_for(world, participant));
    trace_xact(world, xact, index, "prepared", "");
    if (xact->branch) {
        check_prepared(world, xact->gtid, participant, xact_xid(index));
    }
}

void xact_commit(struct world *world, uint32_t participant, int index, const char *how) {
    struct xact *xact = xact_at(world, participant, index);
    assert(xact->state == XACT_RUNNING || xact->state == XACT_PREPARED);
    bool prepared = xact->state == XACT_PREPARED;
    xact->state = XACT_COMMITTED;
    wal_append(world, participant, WAL_COMMIT, index);
    wal_flush(cluster_for(world, participant));
    trace_xact(world, xact, index, "committed", how);
    if (xact->branch && !xact->tombstone) {
        check_committed(world, xact->gtid, participant, xact_xid(index), prepared, how);
        if (xact->effect) {
            check_saga_effect(world, &xact->saga, participant, xact->kept);
        }
    } else if (!xact->branch && prepared) {
        check_stranger_finished(world, xact->gid, participant, true, how);
    }
    rows_release(world, participant, index);
}

void xact_abort(struct world *world, uint32_t participant, int index, const char *how) {
    struct xact *xact = xact_at(world, participant, index);
    assert(xact->state == XACT_RUNNING || xact->state == XACT_PREPARED);
    bool prepared = xact->state == XACT_PREPARED;
    xact->state = XACT_ABORTED;
    wal_append(world, participant, WAL_ABORT, index);
    if (prepared) {
        wal_flush(cluster_for(world, participant));
    }
    trace_xact(world, xact, index, "aborted", how);
    if (xact->branch) {
        check_rolled_back(world, xact->gtid, participant, xact_xid(index), prepared, how);
    } else if (prepared) {
        check_stranger_finished(world, xact->gid, participant, false, how);
    }
    rows_release(world, participant, index);
}

int xact_find_prepared(struct world *world, uint32_t participant, const char *gid) {
    struct cluster *c = cluster_for(world, participant);
    for (int i = c->xact_count; i-- > 0;) {
        if (c->xacts[i].state == XACT_PREPARED && strcmp(c->xacts[i].gid, gid) == 0) {
            return i;
        }
    }
    return NO_XACT;
}

static bool same_saga(const struct pg_saga *a, const struct pg_saga *b) {
    return a->epoch == b->epoch && a->sequence == b->sequence && a->log == b->log;
}

enum pg_barrier barrier_look(struct world *world, uint32_t participant, const struct pg_saga *saga, int own,
                             uint64_t *ret_kept, bool *ret_busy) {
    struct cluster *c = cluster_for(world, participant);
    const struct xact *newest = NULL;
    uint64_t kept = 0, kept_order = 0;
    *ret_busy = false;
    for (int i = 0; i < c->xact_count; i++) {
        const struct xact *x = &c->xacts[i];
        bool writes = x->barrier != PG_NO_ROW && x->saga.step == saga->step;
        if (i == own || x->participant != participant || (!writes && !x->prunes) || !same_saga(&x->saga, saga)) {
            continue;
        }
        if (x->state == XACT_RUNNING) {
            *ret_busy = true;
        } else if (x->state == XACT_COMMITTED) {
            newest = newest == NULL || x->barrier_order > newest->barrier_order ? x : newest;
            if (x->barrier == PG_DONE && x->barrier_order >= kept_order) {
                kept = x->kept;
                kept_order = x->barrier_order;
            }
        }
    }
    *ret_kept = kept;
    return newest == NULL || newest->prunes ? PG_NO_ROW : newest->barrier;
}

uint32_t cluster_prepared(struct world *world, uint32_t participant) {
    struct cluster *c = cluster_for(world, participant);
    uint32_t count = 0;
    for (int i = 0; i < c->xact_count; i++) {
        count += c->xacts[i].state == XACT_PREPARED ? 1u : 0u;
    }
    return count;
}

/* ------------------------------------------------------- crash and failover */

/* What a start finds: the state that the first `records` of the WAL describe. Running transactions are gone. */
static void replay(struct world *world, uint32_t number, size_t records) {
    struct sim_pg *pg = world->pg;
    struct cluster *c = &pg->clusters[number];
    enum xact_state before[4096];
    int had = c->xact_count;
    assert(had <= (int)(sizeof before / sizeof before[0]));
    for (int i = 0; i < had; i++) {
        before[i] = c->xacts[i].state;
    }
    for (uint32_t p = 0; p < world->options.participants; p++) {
        if (pg->cluster_of[p] == number) {
            struct database *db = &pg->databases[p];
            db->has_fence = false;
            for (uint32_t row = 0; row < PG_ROWS_MAX; row++) {
                db->holder[row] = NO_XACT;
                assert(db->waiter_count[row] == 0);
            }
        }
    }
    int count = 0;
    for (size_t i = 0; i < records; i++) {
        const struct wal_record *record = &c->wal[i];
        struct xact *xact = record->xact == NO_XACT ? NULL : &c->xacts[record->xact];
        switch (record->kind) {
        case WAL_ASSIGN:
            count = record->xact + 1;
            xact->state = XACT_RUNNING;
            break;
        case WAL_PREPARE:
            xact->state = XACT_PREPARED;
            break;
        case WAL_COMMIT:
            xact->state = XACT_COMMITTED;
            break;
        case WAL_ABORT:
            xact->state = XACT_ABORTED;
            break;
        case WAL_FENCE:
            pg->databases[record->participant].has_fence = record->fence.incarnation[0] != '\0';
            pg->databases[record->participant].fence = record->fence;
            break;
        }
    }
    c->wal_count = c->wal_flushed = records;
    c->lsn = records > 0 ? c->wal[records - 1].lsn : c->first_lsn;
    c->xact_count = count;
    for (int i = 0; i < had; i++) {
        struct xact *xact = &c->xacts[i];
        if (i < count && xact->state == XACT_RUNNING) {
            xact->state = XACT_ABORTED;
        }
        if (i < count && xact->state == XACT_PREPARED) {
            for (uint32_t row = 0; row < PG_ROWS_MAX; row++) {
                if ((xact->rows >> row & 1) != 0) {
                    pg->databases[xact->participant].holder[row] = i;
                }
            }
        }
        bool known = i < count;
        if (xact->branch && !xact->tombstone && (before[i] == XACT_PREPARED || before[i] == XACT_COMMITTED) &&
            (!known || xact->state != before[i])) {
            check_history_lost(world, xact->gtid, xact->participant, xact_xid(i), known && xact->state == XACT_PREPARED,
                               c->timeline);
            if (xact->saga.name[0] != '\0') {
                check_saga_lost(world, &xact->saga);
            }
        }
    }
}

static void trace_cluster(struct world *world, uint32_t number, const char *word, const char *detail) {
    char actor[8];
    snprintf(actor, sizeof actor, "pg%u", number);
    world_trace(world, actor, word, "%s", detail);
}

static void cluster_up(struct world *world, uint64_t number, uint64_t boot) {
    struct cluster *c = &world->pg->clusters[number];
    if (c->up || c->boot != boot) {
        return;
    }
    c->up = true;
    for (uint32_t p = 0; p < world->options.participants; p++) {
        if (world->pg->cluster_of[p] == number) {
            relay_server_up(world, p);
        }
    }
    trace_cluster(world, (uint32_t)number, "up", "");
}

static void cluster_crash(struct world *world, uint32_t number) {
    struct sim_pg *pg = world->pg;
    struct cluster *c = &pg->clusters[number];
    if (!c->up) {
        return;
    }
    c->up = false;
    c->boot++;
    for (uint32_t p = 0; p < world->options.participants; p++) {
        if (pg->cluster_of[p] == number) {
            sessions_server_gone(world, p);
            relay_server_crash(world, p);
        }
    }
    /* of what was not flushed some may have reached the disk */
    size_t survive = c->wal_flushed + (size_t)rng_below(&world->rng, c->wal_count - c->wal_flushed + 1);
    sim_coverage.server_crashes++;
    trace_cluster(world, number, "crash", "");
    replay(world, number, survive);
    world_after(world, rng_delay(&world->rng, world->options.restart_ms * MS), cluster_up, number, c->boot);
}

static void crash_timer(struct world *world, uint64_t number, uint64_t unused) {
    (void)unused;
    if (world->healed) {
        return;
    }
    if (world_fault(world, world->options.all_crash_pm)) {
        world_power_failure(world);
    } else {
        cluster_crash(world, (uint32_t)number);
    }
    world_after(world, rng_delay(&world->rng, world->options.server_crash_ms * MS), crash_timer, number, 0);
}

void pg_crash_all(struct world *world) {
    for (uint32_t number = 0; number < world->options.participants; number++) {
        cluster_crash(world, number);
    }
}

/* The standby takes over: same system, next timeline, and of the WAL only what it had received. */
static void failover_timer(struct world *world, uint64_t number, uint64_t unused) {
    (void)unused;
    struct cluster *c = &world->pg->clusters[number];
    if (world->healed || c->history_count == PG_HISTORY_MAX) {
        return;
    }
    if (c->up) {
        cluster_crash(world, (uint32_t)number);
        size_t keep = c->wal_count;
        if (world_fault(world, world->options.lossy_pm)) {
            size_t lag = (size_t)rng_below(&world->rng, LAG_RECORDS + 1);
            keep -= lag < keep ? lag : keep;
        }
        char detail[80];
        size_t lost = c->wal_count - keep;
        /* a standby that lags behind an earlier switch has never seen that timeline */
        uint64_t lsn = keep > 0 ? c->wal[keep - 1].lsn : c->first_lsn;
        uint32_t ended = c->timeline;
        while (c->history_count > 0 && c->history[c->history_count - 1].lsn > lsn) {
            ended = c->history[--c->history_count].timeline;
        }
        c->history[c->history_count++] = (struct agent_switch){.timeline = ended, .lsn = lsn};
        c->timeline++;
        replay(world, (uint32_t)number, keep);
        for (uint32_t p = 0; lost > 0 && p < world->options.participants; p++) {
            if (world->pg->cluster_of[p] == number) {
                relay_server_loses(world, p);
            }
        }
        snprintf(detail, sizeof detail, "timeline %u, %zu records lost, switch at %llu", c->timeline, lost,
                 (unsigned long long)c->history[c->history_count - 1].lsn);
        sim_coverage.failovers++;
        if (world_fault(world, world->options.together_pm)) {
            coord_crash(world, false);
        }
        trace_cluster(world, (uint32_t)number, "failover", detail);
    }
    world_after(world, rng_delay(&world->rng, world->options.failover_ms * MS), failover_timer, number, 0);
}

/* --------------------------------------------------------------- outsiders */

/* Somebody with psql finishes one of our branches. */
static void outside_timer(struct world *world, uint64_t a, uint64_t b) {
    (void)a;
    (void)b;
    if (world->healed) {
        return;
    }
    uint32_t participant = (uint32_t)rng_below(&world->rng, world->options.participants);
    struct cluster *c = cluster_for(world, participant);
    for (int i = c->xact_count; c->up && i-- > 0;) {
        struct xact *xact = &c->xacts[i];
        if (xact->state == XACT_PREPARED && xact->participant == participant && xact->branch) {
            check_outside_hand(world, xact->gtid, participant);
            xact->outside_us = world->now_us;
            if (rng_below(&world->rng, 2) == 0) {
                xact_commit(world, participant, i, "outside");
            } else {
                xact_abort(world, participant, i, "outside");
            }
            break;
        }
    }
    world_after(world, rng_delay(&world->rng, world->options.outside_ms * MS), outside_timer, 0, 0);
}

/* A gid that looks like ours and is not: another coordinator, another incarnation, another form. Must be left alone. */
static void foreign_gid(struct world *world, uint32_t participant, char gid[LS_GID_MAX + 1]) {
    unsigned long long number = rng_between(&world->rng, 1, 1000000);
    unsigned place = (unsigned)participant + 1;
    switch (rng_below(&world->rng, 4)) {
    case 0:
        snprintf(gid, LS_GID_MAX + 1, "lockstep:other.0123456789ab.1.%llu:p%u", number, place);
        break;
    case 1:
        snprintf(gid, LS_GID_MAX + 1, "lockstep:sim.ba9876543210.1.%llu:p%u", number, place);
        break;
    case 2:
        snprintf(gid, LS_GID_MAX + 1, "131077_%llu_cDE=", number);
        break;
    default:
        snprintf(gid, LS_GID_MAX + 1, "lockstep:sim.0123456789ab.01.%llu:p%u", number, place);
        break;
    }
}

/* What was prepared under a log that is lost, or lies beyond the log's horizon on a changed history, holds its locks
 * until a human looks whether it is committed elsewhere. */
static void human_timer(struct world *world, uint64_t a, uint64_t b) {
    for (uint32_t number = 0; world->healed && number < world->options.participants; number++) {
        struct cluster *c = &world->pg->clusters[number];
        for (int i = 0; c->up && world->pg->cluster_of[number] == number && i < c->xact_count; i++) {
            struct xact *x = &c->xacts[i];
            bool human = check_gid_is_past(world, x->gid) || check_left_to_human(world, x->gid, x->participant);
            if (x->state != XACT_PREPARED || !human) {
                continue;
            }
            bool committed = false;
            for (uint32_t p = 0; x->branch && p < world->options.participants; p++) {
                committed = committed || pg_branch_fate(world, x->gtid, p) == PG_COMMITTED;
            }
            sim_coverage.left_behind++;
            if (x->branch) {
                check_outside_hand(world, x->gtid, x->participant);
            }
            (committed ? xact_commit : xact_abort)(world, x->participant, i, "outside");
        }
    }
    world_after(world, 5 * SECOND, human_timer, a, b);
}

static void stranger_timer(struct world *world, uint64_t a, uint64_t b) {
    (void)a;
    (void)b;
    if (world->healed) {
        return;
    }
    uint32_t participant = (uint32_t)rng_below(&world->rng, world->options.participants);
    struct cluster *c = cluster_for(world, participant);
    char gid[LS_GID_MAX + 1] = "";
    bool ours = c->xact_count > 0 && rng_below(&world->rng, 4) != 0;
    if (ours) { /* a finished branch's name */
        const struct xact *xact = &c->xacts[rng_below(&world->rng, (uint64_t)c->xact_count)];
        /* COMMIT PREPARED names no xid: an agent that has just seen its branch cannot know that two others were quicker
         */
        bool race = xact->outside_us != 0 && world->now_us - xact->outside_us < SECOND;
        if (xact->participant == participant && xact->branch && !race) {
            snprintf(gid, sizeof gid, "%s", xact->gid);
        }
    } else {
        foreign_gid(world, participant, gid);
    }
    if (c->up && gid[0] != '\0' && xact_find_prepared(world, participant, gid) == NO_XACT &&
        cluster_prepared(world, participant) + 2 < c->max_prepared) {
        int index = xact_begin(world, participant, "", false);
        check_stranger(world, gid, participant, ours);
        xact_prepare(world, participant, index, gid);
        world->pg->strangers += ours ? 0u : 1u;
    }
    world_after(world, rng_delay(&world->rng, world->options.stranger_ms * MS), stranger_timer, 0, 0);
}

/* --------------------------------------------------------------------- life */

void pg_start(struct world *world) {
    struct sim_pg *pg = calloc(1, sizeof *pg);
    assert(pg != NULL);
    world->pg = pg;
    const struct sim_options *o = &world->options;
    for (uint32_t p = 0; p < o->participants; p++) {
        pg->cluster_of[p] = p == 1 && o->shared_cluster != 0 ? 0 : p;
        struct database *db = &pg->databases[p];
        db->advisory = -1;
        for (uint32_t row = 0; row < PG_ROWS_MAX; row++) {
            db->holder[row] = NO_XACT;
        }
        struct cluster *c = &pg->clusters[p];
        c->up = true;
        c->boot = 1;
        c->system_id = 7000000000 + p;
        c->timeline = 1;
        c->lsn = c->first_lsn = 0x1000000 + rng_below(&world->rng, 1000);
        c->max_prepared = (uint32_t)(o->credits * 2 + 8);
        if (pg->cluster_of[p] != p) {
            continue;
        }
        if (o->server_crash_ms > 0) {
            world_after(world, rng_delay(&world->rng, o->server_crash_ms * MS), crash_timer, p, 0);
        }
        if (o->failover_ms > 0) {
            world_after(world, rng_delay(&world->rng, o->failover_ms * MS), failover_timer, p, 0);
        }
    }
    if (o->outside_ms > 0) {
        world_after(world, rng_delay(&world->rng, o->outside_ms * MS), outside_timer, 0, 0);
    }
    world_after(world, 5 * SECOND, human_timer, 0, 0);
    if (o->stranger_ms > 0) {
        world_after(world, rng_delay(&world->rng, o->stranger_ms * MS), stranger_timer, 0, 0);
    }
}

void pg_stop(struct world *world) {
    struct sim_pg *pg = world->pg;
    if (pg == NULL) {
        return;
    }
    for (uint32_t i = 0; i < SIM_PARTICIPANTS_MAX; i++) {
        free(pg->clusters[i].wal);
        free(pg->clusters[i].xacts);
    }
    for (uint32_t i = 0; i < OPS_MAX; i++) {
        if (pg->ops[i] != NULL) {
            pg_op_free(pg->ops[i]);
        }
    }
    free(pg);
    world->pg = NULL;
}

/* A prepared transaction that should be gone. */
const char *pg_unfinished(struct world *world) {
    struct sim_pg *pg = world->pg;
    for (uint32_t number = 0; number < world->options.participants; number++) {
        struct cluster *c = &pg->clusters[number];
        if (pg->cluster_of[number] != number) {
            continue;
        }
        if (!c->up) {
            return "a server is down";
        }
        for (int i = 0; i < c->xact_count; i++) {
            if (c->xacts[i].state == XACT_PREPARED && check_gid_is_ours(world, c->xacts[i].gid) &&
                !check_left_to_human(world, c->xacts[i].gid, c->xacts[i].participant)) {
                static char why[LS_GID_MAX + 64];
                snprintf(why, sizeof why, "%s is still prepared, xid %llu", c->xacts[i].gid,
                         (unsigned long long)xact_xid(i));
                return why;
            }
            if (c->xacts[i].state == XACT_RUNNING) {
                return "a transaction is still open on a server";
            }
        }
    }
    return NULL;
}

enum pg_fate pg_branch_fate(const struct world *world, const char *gtid, uint32_t participant) {
    const struct cluster *c = &world->pg->clusters[world->pg->cluster_of[participant]];
    enum pg_fate fate = PG_NOTHING;
    for (int i = 0; i < c->xact_count; i++) {
        const struct xact *xact = &c->xacts[i];
        if (!xact->branch || xact->tombstone || xact->participant != participant || strcmp(xact->gtid, gtid) != 0) {
            continue;
        }
        switch (xact->state) {
        case XACT_COMMITTED:
            return PG_COMMITTED;
        case XACT_PREPARED:
            fate = PG_PREPARED;
            break;
        case XACT_RUNNING:
            fate = fate == PG_PREPARED ? fate : PG_RUNNING;
            break;
        case XACT_ABORTED:
            fate = fate == PG_NOTHING ? PG_ABORTED : fate;
            break;
        }
    }
    return fate;
}
