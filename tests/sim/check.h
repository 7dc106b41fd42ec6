/*
 * check.h: what must be true, looked at whenever something happens that could break it.
 *
 * The checkers see the world from above: they know every document, every branch on every server, what the medium of the
 * log's disk holds, and what clients were told. They keep books of their own and ask neither engine nor agent what
 * happened.
 *
 *   atomicity     no branch is committed while another of the same transaction is rolled back, or ever will be
 *   decision      no COMMIT leaves, and no branch is committed, before the decision is on the medium; only the listed
 * xid is committed durability    what a client was told stays true: committed is there at the end, aborted never
 * appears presumption   a live transaction's branch is never answered with abort; a decided one never rolled back once
 * a branch is prepared at most once; a key executes at most one document, once strangers     a gid that is not ours is
 * never touched; a stranger under one of our gids is never committed hazards       a broken branch of a decided
 * transaction is reported, and nothing else ever is stale log     an agent whose database remembers a position of the
 * log beyond the end of a stale copy never serves that copy; what the copy presumes aborted is committed nowhere An
 * outside hand and a failover that lost WAL excuse the transactions they hit from atomicity, never from the report.
 */
#ifndef SIM_CHECK_H
#define SIM_CHECK_H

#include "tests/sim/world.h"

struct sim_doc;
struct agent_fence;

#define SIM_COORDINATOR "sim"
#define SIM_INCARNATIONS 2u
/* Of the log as it is now. */
const char *sim_incarnation(const struct world *world);
/* Which of the logs this is, SIM_INCARNATIONS: none of them. */
uint32_t sim_incarnation_number(const char *incarnation);

void check_start(struct world *world);
void check_stop(struct world *world);
void check_end(struct world *world);

/* ---- from the coordinator's host */
void check_accepted(struct world *world, uint32_t epoch, uint64_t sequence, const char *gtid,
                    const struct sim_doc *doc);
/* The same of an attempt at a step of a saga. */
void check_attempt(struct world *world, uint32_t epoch, uint64_t sequence, const char *gtid, uint32_t participant);
void check_decide_sent(struct world *world, uint32_t epoch, uint64_t sequence, uint32_t participant, bool commit,
                       uint64_t xid);
/* The decision goes into the log: these are the bytes that prove it on the medium. */
void check_decision_logged(struct world *world, uint32_t epoch, uint64_t sequence, const char *first_gid,
                           uint64_t position);
/* Bytes that reached the medium of the log's disk. */
void check_medium(struct world *world, const uint8_t *bytes, size_t length);
void check_decision_announced(struct world *world, uint32_t epoch, uint64_t sequence);
/* It is finished behind a failover though the log is too full to keep where it was seen: a false alarm may follow. */
void check_no_room_for_sighting(struct world *world, uint32_t epoch, uint64_t sequence, uint32_t participant);
void check_hazard_reported(struct world *world, uint32_t epoch, uint64_t sequence, uint32_t participant);
enum check_verdict {
    CHECK_VERDICT_COMMIT,
    CHECK_VERDICT_ABORT,
    CHECK_VERDICT_STRANGER,
    CHECK_VERDICT_HUMAN,
    CHECK_VERDICT_OTHER
};
void check_verdict(struct world *world, uint32_t epoch, uint64_t sequence, uint32_t participant, uint64_t xid,
                   bool live, enum check_verdict verdict);
/* The log is durable up to here, and this is its checksum there: what agents are shown. */
void check_log_position(struct world *world, uint64_t position, uint64_t chain);
/* An agent says Hello to, and serves, the stale copy of the coordinator. */
void check_stale_greeted(struct world *world, uint32_t participant, uint64_t link, bool has_fence,
                         const struct agent_fence *stored);
void check_stale_served(struct world *world, uint32_t participant, uint64_t link);
/* The log is gone, and nobody will ever know what stood in it. */
void check_log_lost(struct world *world);
/* The agent has voted YES. */
void check_voted(struct world *world, const char *gtid, uint32_t participant);
/* Is this a transaction of a log that is gone? */
bool check_is_past(const struct world *world, const char *gtid);
/* Every decision that somebody may still ask for must be found: the open ones, and all inside the window. */
void check_log_keeps(struct world *world);
/* A batch of the log has been written. */
void check_log_written(struct world *world);
/* Bytes of a decision of this epoch that was announced, with a batch behind it that holds another announced one:
 * damaged, they are no torn tail. NULL: there is none. */
const char *check_damageable(struct world *world, uint32_t epoch);

/* ---- from the servers */
void check_prepared(struct world *world, const char *gtid, uint32_t participant, uint64_t xid);
void check_committed(struct world *world, const char *gtid, uint32_t participant, uint64_t xid, bool prepared,
                     const char *how);
void check_rolled_back(struct world *world, const char *gtid, uint32_t participant, uint64_t xid, bool prepared,
                       const char *how);
void check_history_lost(struct world *world, const char *gtid, uint32_t participant, uint64_t xid, bool prepared_again,
                        uint32_t timeline);
void check_outside_hand(struct world *world, const char *gtid, uint32_t participant);
/* A statement of the branch has committed behind everybody's back. */
void check_ended_inside(struct world *world, const char *gtid, uint32_t participant);
/* The agent is told to commit; it asks the server to; a statement has waited in vain for a lock that the branch holds.
 */
void check_told(struct world *world, const char *gtid, uint32_t participant, uint64_t life);
void check_tried(struct world *world, const char *gtid, uint32_t participant);
/* The agent says that its branch is committed. `timeline` is the newest that the server has shown it. */
void check_done_said(struct world *world, const char *gtid, uint32_t participant, uint32_t timeline);
void check_waited_for(struct world *world, const char *gtid, uint32_t participant);
void check_stranger(struct world *world, const char *gid, uint32_t participant, bool ours);
void check_stranger_finished(struct world *world, const char *gid, uint32_t participant, bool committed,
                             const char *how);
bool check_gid_is_past(const struct world *world, const char *gid);
bool check_gid_is_ours(const struct world *world, const char *gid);
/* True when nobody but a human may finish this branch. */
bool check_left_to_human(const struct world *world, const char *gid, uint32_t participant);

/* ---- from the clients */
enum check_ack { CHECK_ACK_COMMITTED, CHECK_ACK_APPLIED, CHECK_ACK_ABORTED, CHECK_ACK_HAZARD };
void check_acknowledged(struct world *world, uint32_t epoch, uint64_t sequence, enum check_ack ack);

/* Counted over a run, for the report of main.c: what the seeds have covered. */
#define SIM_COVERAGE(X)                                                                                                \
    X(transactions)                                                                                                    \
    X(committed)                                                                                                       \
    X(aborted)                                                                                                         \
    X(one_phase)                                                                                                       \
    X(read_only)                                                                                                       \
    X(hazards)                                                                                                         \
    X(strangers)                                                                                                       \
    X(outside)                                                                                                         \
    X(history_lost)                                                                                                    \
    X(coord_crashes)                                                                                                   \
    X(machine_crashes)                                                                                                 \
    X(agent_crashes)                                                                                                   \
    X(server_crashes)                                                                                                  \
    X(failovers)                                                                                                       \
    X(links)                                                                                                           \
    X(resets)                                                                                                          \
    X(zombie_prepares)                                                                                                 \
    X(zombie_commits)                                                                                                  \
    X(verdict_abort)                                                                                                   \
    X(verdict_commit) X(verdict_pending) X(verdict_stranger) X(proofs) X(settles) X(joined) X(refused)                 \
        X(sync_failures) X(log_cuts) X(drops) X(cancelled) X(refusals) X(broken) X(pauses) X(partitions) X(doubles)    \
            X(read_errors) X(drains) X(twins) X(superseded) X(stale_copies) X(stale_refused) X(stale_served)           \
                X(stale_verdicts) X(damaged) X(damage_refused) X(sagas) X(completed) X(compensated) X(attempts)        \
                    X(barrier_answers) X(pruned) X(stuck) X(operated) X(recovered) X(turned) X(passed) X(stalls)       \
                        X(sightings) X(logs_lost) X(left_behind) X(flows) X(flows_completed) X(flows_compensated)      \
                            X(flows_dead) X(pages) X(events_handled) X(events_duplicate) X(events_parked)              \
                                X(events_dead) X(events_unwanted) X(events_operated) X(events_prepared) X(events_late) \
                                    X(events_pruned) X(events_lost)
struct sim_coverage {
#define X(name) uint64_t name;
    SIM_COVERAGE(X)
#undef X
};
extern struct sim_coverage sim_coverage;

#endif
