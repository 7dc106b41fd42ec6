/* check.c: see check.h. */
#include "tests/sim/check.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "lockstep/ids.h"
#include "participant/core/agent.h"
#include "tests/sim/agent_host.h"
#include "tests/sim/check_saga.h"
#include "tests/sim/client.h"
#include "tests/sim/coord_host.h"
#include "tests/sim/disk.h"
#include "tests/sim/pg.h"

#define BUCKETS 256u

enum state { NOTHING, PREPARED, COMMITTED, ROLLED_BACK };

struct branch {
    bool takes_part, writes;
    enum state state;
    uint64_t xid; /* of the one that was prepared */
    bool prepared_once;
    bool excused; /* an outside hand finished it, or its history was lost */
    bool outside;
    bool risen;                  /* prepared again by a failover, then finished by an outside hand */
    bool human;                  /* the log cannot say any more: left to an operator */
    bool unsighted;              /* the log had no room to keep where it was seen behind a failover */
    bool hazard;                 /* reported */
    bool voted, abort_said;      /* YES by the agent; by the coordinator */
    uint32_t lost_timeline;      /* on which its commit is not there any more; 0: none */
    uint64_t told_us, told_life; /* to commit, and nothing was done about it since; 0: not told */
    bool tried;                  /* in that life */
};

struct txn_book {
    struct txn_book *next;
    uint32_t epoch;
    uint64_t sequence;
    char gtid[LS_GTID_MAX + 1];
    char proof[LS_GID_MAX + 1]; /* bytes of the decision record */
    const struct sim_doc *doc;
    bool one;          /* one participant */
    bool logged;       /* handed to the log */
    uint64_t position; /* there */
    uint64_t logged_us, batch;
    bool durable;   /* seen on the medium */
    bool announced; /* somebody was told that it is committed */
    bool acked_commit, acked_abort;
    bool excused;                                 /* any branch is */
    bool past;                                    /* its log is lost */
    struct branch branches[SIM_PARTICIPANTS_MAX]; /* by participant */
};

/* Where the coordinator's own log has been durable, since a copy of it was taken. */
struct log_position {
    uint64_t position, chain;
};

struct sim_check {
    uint64_t batches;
    struct txn_book *buckets[BUCKETS], *past;
    struct log_position *positions;
    size_t position_count, position_capacity;
    struct {
        uint64_t link, remembers; /* 0: nothing beyond the end of the copy */
    } greeting[SIM_PARTICIPANTS_MAX];
};

struct sim_coverage sim_coverage;

/* ------------------------------------------------------------------- books */

static struct txn_book *find(const struct world *world, uint32_t epoch, uint64_t sequence) {
    struct txn_book *t = world->check->buckets[(sequence * 31 + epoch) % BUCKETS];
    while (t != NULL && (t->epoch != epoch || t->sequence != sequence)) {
        t = t->next;
    }
    return t;
}

static struct txn_book *need(struct world *world, uint32_t epoch, uint64_t sequence, const char *what) {
    struct txn_book *t = find(world, epoch, sequence);
    if (t == NULL) {
        world_wrong(world, "%s of transaction %u.%llu, which nobody accepted", what, epoch,
                    (unsigned long long)sequence);
    }
    return t;
}

static struct txn_book *find_gtid(const struct world *world, const char *gtid) {
    struct ls_gtid parsed;
    if (ls_gtid_parse(gtid, &parsed) != LS_OK) {
        return NULL;
    }
    if (sim_incarnation_number(parsed.incarnation) == world->incarnation) {
        return find(world, parsed.epoch, parsed.sequence);
    }
    struct txn_book *t = world->check->past;
    while (t != NULL && (t->epoch != parsed.epoch || t->sequence != parsed.sequence)) {
        t = t->next;
    }
    return t;
}

static const char *const incarnations[SIM_INCARNATIONS] = {"0123456789ab", "1123456789ab"};

const char *sim_incarnation(const struct world *world) {
    return incarnations[world->incarnation];
}

uint32_t sim_incarnation_number(const char *incarnation) {
    uint32_t i = 0;
    while (i < SIM_INCARNATIONS && strcmp(incarnation, incarnations[i]) != 0) {
        i++;
    }
    return i;
}

void check_log_lost(struct world *world) {
    struct sim_check *check = world->check;
    for (size_t i = 0; i < BUCKETS; i++) {
        while (check->buckets[i] != NULL) {
            struct txn_book *t = check->buckets[i];
            check->buckets[i] = t->next;
            t->next = check->past;
            t->past = t->excused = true;
            check->past = t;
        }
    }
    check_saga_log_lost(world);
    sim_coverage.logs_lost++;
}

void check_voted(struct world *world, const char *gtid, uint32_t participant) {
    struct txn_book *t = find_gtid(world, gtid);
    if (t != NULL) {
        t->branches[participant].voted = true;
    }
}

bool check_is_past(const struct world *world, const char *gtid) {
    const struct txn_book *t = find_gtid(world, gtid);
    return t != NULL && t->past;
}

static struct txn_book *new_book(struct world *world, uint32_t epoch, uint64_t sequence, const char *gtid,
                                 const struct sim_doc *doc) {
    if (find(world, epoch, sequence) != NULL) {
        world_wrong(world, "%s was handed out twice", gtid);
    }
    struct txn_book *t = calloc(1, sizeof *t);
    assert(t != NULL);
    t->epoch = epoch;
    t->sequence = sequence;
    snprintf(t->gtid, sizeof t->gtid, "%s", gtid);
    t->doc = doc;
    struct txn_book **bucket = &world->check->buckets[(sequence * 31 + epoch) % BUCKETS];
    t->next = *bucket;
    *bucket = t;
    return t;
}

void check_attempt(struct world *world, uint32_t epoch, uint64_t sequence, const char *gtid, uint32_t participant) {
    static const struct sim_doc none;
    struct txn_book *t = new_book(world, epoch, sequence, gtid, &none);
    t->one = true;
    t->branches[participant].takes_part = true;
    sim_coverage.attempts++;
}

void check_accepted(struct world *world, uint32_t epoch, uint64_t sequence, const char *gtid,
                    const struct sim_doc *doc) {
    struct txn_book *t = new_book(world, epoch, sequence, gtid, doc);
    t->one = doc->participant_count == 1;
    for (uint32_t i = 0; i < doc->participant_count; i++) {
        struct branch *b = &t->branches[doc->participants[i]];
        b->takes_part = true;
        b->writes = doc_writes(doc, i);
    }
    sim_coverage.transactions++;
}

/* ---------------------------------------------------------------- decision */

void check_medium(struct world *world, const uint8_t *bytes, size_t length) {
    for (size_t i = 0; i < BUCKETS; i++) {
        for (struct txn_book *t = world->check->buckets[i]; t != NULL; t = t->next) {
            if (t->logged && !t->durable && memmem(bytes, length, t->proof, strlen(t->proof)) != NULL) {
                t->durable = true;
            }
        }
    }
    check_saga_medium(world, bytes, length);
}

void check_decision_logged(struct world *world, uint32_t epoch, uint64_t sequence, const char *first_gid,
                           uint64_t position) {
    struct txn_book *t = need(world, epoch, sequence, "decision");
    if (t->logged) {
        world_wrong(world, "%s was decided twice", t->gtid);
    }
    if (t->one) {
        world_wrong(world, "%s has one participant and was logged", t->gtid);
    }
    if (t->acked_abort) {
        world_wrong(world, "%s was acknowledged as aborted and is now decided", t->gtid);
    }
    t->logged = true;
    t->position = position;
    t->logged_us = world->now_us;
    t->batch = world->check->batches;
    snprintf(t->proof, sizeof t->proof, "%s", first_gid);
    for (uint32_t p = 0; p < world->options.participants; p++) {
        const struct branch *b = &t->branches[p];
        if (b->writes && !b->prepared_once) {
            world_wrong(world, "%s was decided although its branch at p%u was never prepared", t->gtid, p + 1);
        }
    }
}

void check_decision_announced(struct world *world, uint32_t epoch, uint64_t sequence) {
    struct txn_book *t = need(world, epoch, sequence, "announcement");
    if (t->one) {
        return;
    }
    if (t->logged && !t->durable) {
        world_wrong(world, "%s is called committed and its decision is not on the medium", t->gtid);
    }
    t->announced = true;
}

void check_decide_sent(struct world *world, uint32_t epoch, uint64_t sequence, uint32_t participant, bool commit,
                       uint64_t xid) {
    struct txn_book *t = need(world, epoch, sequence, "Decide");
    struct branch *b = &t->branches[participant];
    if (!commit) {
        b->abort_said = true;
        if (t->announced) {
            world_wrong(world, "%s is committed and abort is sent to p%u", t->gtid, participant + 1);
        }
        return;
    }
    if (!t->durable) {
        world_wrong(world, "COMMIT of %s leaves for p%u before the decision is on the medium", t->gtid,
                    participant + 1);
    }
    if (b->xid != xid) {
        world_wrong(world, "COMMIT of %s at p%u is bound to xid %llu, prepared was %llu", t->gtid, participant + 1,
                    (unsigned long long)xid, (unsigned long long)b->xid);
    }
    t->announced = true;
}

/* ---------------------------------------------------------------- a stale log */

void check_log_position(struct world *world, uint64_t position, uint64_t chain) {
    struct sim_check *check = world->check;
    if (world->who != 0 || world->stale_position == 0 || position <= world->stale_position) {
        return;
    }
    if (check->position_count == check->position_capacity) {
        check->position_capacity = check->position_capacity == 0 ? 64 : check->position_capacity * 2;
        check->positions = realloc(check->positions, check->position_capacity * sizeof *check->positions);
        assert(check->positions != NULL);
    }
    check->positions[check->position_count++] = (struct log_position){position, chain};
}

void check_stale_greeted(struct world *world, uint32_t participant, uint64_t link, bool has_fence,
                         const struct agent_fence *stored) {
    struct sim_check *check = world->check;
    check->greeting[participant].link = link;
    check->greeting[participant].remembers = 0;
    for (size_t i = 0; has_fence && i < check->position_count; i++) {
        if (check->positions[i].position == stored->position && check->positions[i].chain == stored->chain) {
            check->greeting[participant].remembers = stored->position;
        }
    }
}

void check_stale_served(struct world *world, uint32_t participant, uint64_t link) {
    struct sim_check *check = world->check;
    sim_coverage.stale_served++;
    if (check->greeting[participant].link == link && check->greeting[participant].remembers != 0) {
        world_wrong(world, "p%u serves a copy of the log that ends at %llu, and its database remembers position %llu",
                    participant + 1, (unsigned long long)world->stale_position,
                    (unsigned long long)check->greeting[participant].remembers);
    }
}

/* Nobody who takes part has seen more than the copy knows, so nobody can have committed. What clients were told is
 * lost, and the coordinator will find its decision broken: no log can help where another one was obeyed. */
static void stale_presumes(struct world *world, struct txn_book *t, uint32_t participant) {
    sim_coverage.stale_verdicts++;
    for (uint32_t p = 0; p < world->options.participants; p++) {
        if (t->branches[p].writes && t->branches[p].state == COMMITTED && !t->excused) {
            world_wrong(world, "a stale copy of the log presumes %s aborted at p%u, and it is committed at p%u",
                        t->gtid, participant + 1, p + 1);
        }
    }
    t->excused = t->branches[participant].excused = t->branches[participant].outside = true;
}

void check_verdict(struct world *world, uint32_t epoch, uint64_t sequence, uint32_t participant, uint64_t xid,
                   bool live, enum check_verdict verdict) {
    struct txn_book *t = find(world, epoch, sequence);
    struct branch *b = t != NULL ? &t->branches[participant] : NULL;
    bool listed = b != NULL && b->prepared_once && b->xid == xid;
    if (world->who == SIM_STALE && verdict == CHECK_VERDICT_ABORT && listed && (b->state != COMMITTED || b->outside)) {
        if (b->state == PREPARED) { /* else a failover has lost it, or an outside hand was first: nothing to break */
            stale_presumes(world, t, participant);
        }
        return;
    }
    switch (verdict) {
    case CHECK_VERDICT_COMMIT:
        if (t == NULL || !t->durable || !listed) {
            world_wrong(world,
                        "inquiry about %u.%llu at p%u, xid %llu: commit, without a durable decision that lists it",
                        epoch, (unsigned long long)sequence, participant + 1, (unsigned long long)xid);
        }
        t->announced = true;
        break;
    case CHECK_VERDICT_ABORT:
    case CHECK_VERDICT_STRANGER:
        if (b != NULL) {
            b->abort_said = true;
        }
        if (live && verdict == CHECK_VERDICT_ABORT) {
            world_wrong(world, "inquiry about %s at p%u: abort, and it is alive", t != NULL ? t->gtid : "?",
                        participant + 1);
        }
        if (t != NULL && t->announced && listed) {
            world_wrong(world, "inquiry about %s at p%u: not committed, and it is", t->gtid, participant + 1);
        }
        break;
    case CHECK_VERDICT_HUMAN:
        if (b != NULL) {
            b->human = true;
        }
        break;
    case CHECK_VERDICT_OTHER:
        break;
    }
}

void check_no_room_for_sighting(struct world *world, uint32_t epoch, uint64_t sequence, uint32_t participant) {
    struct txn_book *t = need(world, epoch, sequence, "sighting");
    t->branches[participant].unsighted = true;
}

void check_hazard_reported(struct world *world, uint32_t epoch, uint64_t sequence, uint32_t participant) {
    struct txn_book *t = need(world, epoch, sequence, "hazard");
    if (!t->excused) {
        world_wrong(world, "%s is called a hazard at p%u and nobody touched it", t->gtid, participant + 1);
    }
    const struct branch *b = &t->branches[participant];
    if (b->state == COMMITTED && !b->outside && !t->past &&
        !b->unsighted) { /* lost by a failover, prepared again, and committed */
        world_wrong(world, "%s is called a hazard at p%u, where it is committed", t->gtid, participant + 1);
    }
    t->branches[participant].hazard = true;
    sim_coverage.hazards++;
}

void check_log_keeps(struct world *world) {
    for (size_t i = 0; i < BUCKETS; i++) {
        for (const struct txn_book *t = world->check->buckets[i]; t != NULL; t = t->next) {
            bool open = false;
            for (uint32_t p = 0; p < world->options.participants; p++) {
                const struct branch *b = &t->branches[p];
                open = open || (b->prepared_once && b->state == PREPARED && !b->excused);
            }
            enum coord_kept kept = t->announced ? coord_keeps(world, t->epoch, t->sequence) : COORD_DOWN;
            if (kept == COORD_DOWN) {
                continue;
            }
            if (open && kept != COORD_KEPT) {
                world_wrong(world, "the log has dropped the open decision of %s", t->gtid);
            }
            if (kept == COORD_ABSENT) {
                world_wrong(world, "the log has lost the decision of %s", t->gtid);
            }
            if (kept == COORD_BEYOND && !coord_window_over(world, t->epoch, t->position, t->logged_us)) {
                world_wrong(world, "the log has dropped the decision of %s inside the window", t->gtid);
            }
        }
    }
}

void check_log_written(struct world *world) {
    world->check->batches += world->who == 0 ? 1u : 0u;
}

const char *check_damageable(struct world *world, uint32_t epoch) {
    const struct txn_book *first = NULL, *newest = NULL;
    for (size_t i = 0; i < BUCKETS; i++) {
        for (const struct txn_book *t = world->check->buckets[i]; t != NULL; t = t->next) {
            if (!t->announced || !t->logged || t->epoch != epoch) {
                continue;
            }
            first = first == NULL || t->position < first->position ? t : first;
            newest = newest == NULL || t->batch > newest->batch ? t : newest;
        }
    }
    return first != NULL && newest->batch > first->batch ? first->proof : NULL;
}

/* ----------------------------------------------------------------- servers */

#define TRIED_WITHIN_US (500 * MS)

void check_told(struct world *world, const char *gtid, uint32_t participant, uint64_t life) {
    struct txn_book *t = find_gtid(world, gtid);
    struct branch *b = t != NULL ? &t->branches[participant] : NULL;
    if (b == NULL || b->state != PREPARED || t->excused) {
        return;
    }
    if (b->told_life != life) {
        b->told_life = life;
        b->told_us = world->now_us;
        b->tried = false;
    }
}

void check_tried(struct world *world, const char *gtid, uint32_t participant) {
    struct txn_book *t = find_gtid(world, gtid);
    if (t != NULL) {
        t->branches[participant].tried = true;
    }
}

void check_done_said(struct world *world, const char *gtid, uint32_t participant, uint32_t timeline) {
    const struct txn_book *t = find_gtid(world, gtid);
    const struct branch *b = t != NULL ? &t->branches[participant] : NULL;
    if (b != NULL && b->lost_timeline != 0 && b->state != COMMITTED && !b->outside && timeline >= b->lost_timeline) {
        world_wrong(world,
                    "p%u says that %s is committed: timeline %u, which its server has shown, has lost that commit",
                    participant + 1, gtid, b->lost_timeline);
    }
}

void check_waited_for(struct world *world, const char *gtid, uint32_t participant) {
    const struct txn_book *t = find_gtid(world, gtid);
    const struct branch *b = t != NULL ? &t->branches[participant] : NULL;
    if (b != NULL && b->state == PREPARED && b->told_us != 0 && !b->tried &&
        world->now_us - b->told_us >= TRIED_WITHIN_US && agent_host_alive(world, participant, b->told_life) &&
        agent_host_paused_until(world, participant, b->told_life) < b->told_us) {
        world_wrong(world, "p%u was told %llu ms ago to commit %s, a statement waited in vain, and nothing was tried",
                    participant + 1, (unsigned long long)((world->now_us - b->told_us) / MS), gtid);
    }
}

void check_prepared(struct world *world, const char *gtid, uint32_t participant, uint64_t xid) {
    struct txn_book *t = find_gtid(world, gtid);
    if (t == NULL || !t->branches[participant].takes_part || t->one) {
        world_wrong(world, "p%u prepares %s, which has no such branch", participant + 1, gtid);
    }
    struct branch *b = &t->branches[participant];
    if (b->prepared_once) {
        world_wrong(world, "%s is prepared twice at p%u", gtid, participant + 1);
    }
    b->prepared_once = true;
    b->state = PREPARED;
    b->xid = xid;
}

/* The same key, the same document, carried out before? */
static void check_key(struct world *world, const struct txn_book *t) {
    for (size_t i = 0; t->doc->has_key && i < BUCKETS; i++) {
        for (const struct txn_book *other = world->check->buckets[i]; other != NULL; other = other->next) {
            bool done = false;
            for (uint32_t p = 0; p < world->options.participants; p++) {
                done = done || other->branches[p].state == COMMITTED;
            }
            bool in_window = other->one || other->position >= coord_horizon(world);
            if (other != t && done && in_window && other->doc == t->doc && !other->excused && !t->excused) {
                world_wrong(world, "key %s is executed twice: %s and %s", t->doc->key, other->gtid, t->gtid);
            }
        }
    }
}

void check_committed(struct world *world, const char *gtid, uint32_t participant, uint64_t xid, bool prepared,
                     const char *how) {
    struct txn_book *t = find_gtid(world, gtid);
    if (t == NULL || !t->branches[participant].takes_part) {
        world_wrong(world, "p%u commits %s, which has no such branch", participant + 1, gtid);
    }
    struct branch *b = &t->branches[participant];
    bool outside = b->outside;
    if (prepared && !outside) {
        if (!t->durable || !t->announced) {
            world_wrong(world, "%s is committed at p%u and nobody decided so", gtid, participant + 1);
        }
        if (b->xid != xid) {
            world_wrong(world, "%s at p%u: xid %llu is committed, the decision lists %llu", gtid, participant + 1,
                        (unsigned long long)xid, (unsigned long long)b->xid);
        }
    }
    if (!prepared && !t->one && !outside) {
        world_wrong(world, "%s is committed at p%u without having been prepared (%s)", gtid, participant + 1, how);
    }
    b->state = COMMITTED;
    if (t->acked_abort && !t->excused) {
        world_wrong(world, "%s was acknowledged as aborted and appears at p%u (%s)", gtid, participant + 1, how);
    }
    for (uint32_t p = 0; p < world->options.participants; p++) {
        if (t->branches[p].writes && t->branches[p].state == ROLLED_BACK && !t->excused) {
            world_wrong(world, "%s is committed at p%u and was rolled back at p%u", gtid, participant + 1, p + 1);
        }
    }
    check_key(world, t);
    sim_coverage.one_phase += t->one ? 1u : 0u;
}

void check_rolled_back(struct world *world, const char *gtid, uint32_t participant, uint64_t xid, bool prepared,
                       const char *how) {
    struct txn_book *t = find_gtid(world, gtid);
    if (t == NULL) {
        world_wrong(world, "p%u rolls back %s, which nobody accepted", participant + 1, gtid);
    }
    struct branch *b = &t->branches[participant];
    if (b->state == COMMITTED || !b->takes_part) {
        return; /* a late duplicate that never got anywhere */
    }
    b->state = ROLLED_BACK;
    if (b->outside) {
        return;
    }
    if (prepared && t->past && b->voted && !b->abort_said) {
        world_wrong(world, "%s is rolled back at p%u (%s): its log is lost, and nobody can know", gtid, participant + 1,
                    how);
    }
    if (prepared && t->announced && !b->human) {
        world_wrong(world, "%s is committed and rolled back at p%u, xid %llu (%s)", gtid, participant + 1,
                    (unsigned long long)xid, how);
    }
    for (uint32_t p = 0; p < world->options.participants; p++) {
        if (t->branches[p].state == COMMITTED && !t->excused) {
            world_wrong(world, "%s is committed at p%u and rolled back at p%u (%s)", gtid, p + 1, participant + 1, how);
        }
    }
}

void check_history_lost(struct world *world, const char *gtid, uint32_t participant, uint64_t xid, bool prepared_again,
                        uint32_t timeline) {
    struct txn_book *t = find_gtid(world, gtid);
    if (t == NULL) {
        return;
    }
    struct branch *b = &t->branches[participant];
    world_trace(world, "check", "lost", "%s p%u xid %llu%s", gtid, participant + 1, (unsigned long long)xid,
                prepared_again ? " (prepared again)" : "");
    sim_coverage.history_lost++;
    t->excused = b->excused = true;
    b->lost_timeline = timeline;
    b->state = prepared_again ? PREPARED : NOTHING;
}

void check_outside_hand(struct world *world, const char *gtid, uint32_t participant) {
    struct txn_book *t = find_gtid(world, gtid);
    assert(t != NULL);
    struct branch *b = &t->branches[participant];
    b->risen = b->excused && b->state == PREPARED;
    t->excused = b->excused = b->outside = true;
    sim_coverage.outside++;
}

void check_ended_inside(struct world *world, const char *gtid, uint32_t participant) {
    struct txn_book *t = find_gtid(world, gtid);
    assert(t != NULL);
    t->excused = t->branches[participant].excused = t->branches[participant].outside = true;
    sim_coverage.broken++;
}

void check_stranger(struct world *world, const char *gid, uint32_t participant, bool ours) {
    world_trace(world, "check", "stranger", "%s p%u%s", gid, participant + 1, ours ? " (a gid of ours)" : "");
    sim_coverage.strangers++;
}

bool check_gid_is_past(const struct world *world, const char *gid) {
    enum ls_gid_form form;
    struct ls_gtid gtid;
    char participant[LS_PARTICIPANT_MAX + 1];
    return check_gid_is_ours(world, gid) && ls_gid_parse(gid, &form, &gtid, participant) == LS_OK &&
           sim_incarnation_number(gtid.incarnation) != world->incarnation;
}

bool check_gid_is_ours(const struct world *world, const char *gid) {
    (void)world;
    enum ls_gid_form form;
    struct ls_gtid gtid;
    char participant[LS_PARTICIPANT_MAX + 1];
    return ls_gid_parse(gid, &form, &gtid, participant) == LS_OK && strcmp(gtid.coordinator, SIM_COORDINATOR) == 0 &&
           sim_incarnation_number(gtid.incarnation) < SIM_INCARNATIONS;
}

void check_stranger_finished(struct world *world, const char *gid, uint32_t participant, bool committed,
                             const char *how) {
    if (committed) {
        world_wrong(world, "a stranger's transaction %s at p%u was committed (%s)", gid, participant + 1, how);
    }
    if (!check_gid_is_ours(world, gid)) {
        world_wrong(world, "a stranger's transaction %s at p%u was touched (%s)", gid, participant + 1, how);
    }
}

bool check_left_to_human(const struct world *world, const char *gid, uint32_t participant) {
    enum ls_gid_form form;
    struct ls_gtid gtid;
    char name[LS_PARTICIPANT_MAX + 1];
    if (ls_gid_parse(gid, &form, &gtid, name) != LS_OK ||
        sim_incarnation_number(gtid.incarnation) != world->incarnation) {
        return false;
    }
    const struct txn_book *t = find(world, gtid.epoch, gtid.sequence);
    return t != NULL && t->branches[participant].human;
}

/* ----------------------------------------------------------------- clients */

void check_acknowledged(struct world *world, uint32_t epoch, uint64_t sequence, enum check_ack ack) {
    struct txn_book *t = need(world, epoch, sequence, "answer");
    switch (ack) {
    case CHECK_ACK_ABORTED:
        if ((t->announced || t->acked_commit) && !t->excused) {
            world_wrong(world, "%s is committed and a client is told aborted", t->gtid);
        }
        for (uint32_t p = 0; p < world->options.participants; p++) {
            if (t->branches[p].state == COMMITTED && !t->excused) {
                world_wrong(world, "%s is committed at p%u and a client is told aborted", t->gtid, p + 1);
            }
        }
        t->acked_abort = true;
        break;
    case CHECK_ACK_COMMITTED:
    case CHECK_ACK_APPLIED:
        if (t->acked_abort && !t->excused) {
            world_wrong(world, "%s was acknowledged as aborted, and now as committed", t->gtid);
        }
        for (uint32_t p = 0; p < world->options.participants; p++) {
            const struct branch *b = &t->branches[p];
            if (!b->writes || b->excused) {
                continue;
            }
            if (!t->one && !t->durable) {
                world_wrong(world, "%s is acknowledged and its decision is not on the medium", t->gtid);
            }
            if ((ack == CHECK_ACK_APPLIED || t->one) && b->state != COMMITTED) {
                world_wrong(world, "%s is acknowledged as applied and is not committed at p%u", t->gtid, p + 1);
            }
        }
        t->acked_commit = true;
        break;
    case CHECK_ACK_HAZARD:
        if (!t->excused) {
            world_wrong(world, "a client is told that %s is a hazard and nobody touched it", t->gtid);
        }
        break;
    }
}

/* ------------------------------------------------------------------ the end */

static void check_txn_end(struct world *world, const struct txn_book *t) {
    uint32_t committed = 0, missing = 0, broken_at = 0;
    bool reported = false, risen = false;
    for (uint32_t p = 0; p < world->options.participants; p++) {
        const struct branch *b = &t->branches[p];
        reported = reported || b->hazard;
        risen = risen || b->risen; /* back from the dead, and then finished by an outside hand: nobody can know */
        if (!b->takes_part || !b->writes) {
            continue;
        }
        if (pg_branch_fate(world, t->gtid, p) == PG_COMMITTED) {
            committed++;
        } else {
            missing++;
            broken_at = p + 1;
        }
    }
    sim_coverage.committed += missing == 0 && committed > 0 ? 1u : 0u;
    sim_coverage.aborted += committed == 0 && missing > 0 ? 1u : 0u;
    sim_coverage.read_only += committed + missing == 0 ? 1u : 0u;
    if (!t->excused) {
        if (committed > 0 && missing > 0) {
            world_wrong(world, "%s ends committed on %u and not on p%u", t->gtid, committed, broken_at);
        }
        if ((t->acked_commit || t->announced) && missing > 0) {
            world_wrong(world, "%s was committed and is not there at p%u at the end", t->gtid, broken_at);
        }
        if (t->acked_abort && committed > 0) {
            world_wrong(world, "%s was acknowledged as aborted and is there at the end", t->gtid);
        }
        return;
    }
    /* Broken from outside: whatever is missing of a decided transaction must have been said. */
    bool human = false;
    for (uint32_t p = 0; p < world->options.participants; p++) {
        human = human || t->branches[p].human;
    }
    if (t->announced && missing > 0 && !reported && !human && !risen &&
        coord_keeps(world, t->epoch, t->sequence) != COORD_BEYOND) {
        world_wrong(world, "%s was decided, is missing at p%u, and nobody reported a hazard", t->gtid, broken_at);
    }
}

void check_end(struct world *world) {
    check_saga_end(world);
    check_log_keeps(world);
    for (size_t i = 0; i < BUCKETS; i++) {
        for (const struct txn_book *t = world->check->buckets[i]; t != NULL; t = t->next) {
            check_txn_end(world, t);
        }
    }
}

void check_start(struct world *world) {
    world->check = calloc(1, sizeof *world->check);
    assert(world->check != NULL);
}

void check_stop(struct world *world) {
    if (world->check == NULL) {
        return;
    }
    for (size_t i = 0; i < BUCKETS; i++) {
        for (struct txn_book *t = world->check->buckets[i]; t != NULL;) {
            struct txn_book *next = t->next;
            free(t);
            t = next;
        }
    }
    while (world->check->past != NULL) {
        struct txn_book *t = world->check->past;
        world->check->past = t->next;
        free(t);
    }
    free(world->check->positions);
    check_saga_stop(world);
    free(world->check);
    world->check = NULL;
}
