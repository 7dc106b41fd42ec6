/*
 * agent_rig.h: an agent core on strings: events go in by short calls, effects come out as lines of text, so that a test
 * reads as a story.
 *
 * One line per effect, what matters of it:
 *   lock | clean | identity | dial | close: WHY | hello 64 fence=- | ready | refuse: WHY | pong 7 | credit 63 | stop
 * 78: TEXT | drained fence 200 durable | scan after= | inquiry GID xid, GID xid | run 1 part=0 last | commit1 1 |
 * rollback 1 | kill 1 | release 1 finish commit 1 xid=9 | prove 1 xid=9 | settle 1 | readkey 1 | vote yes 1 ... | done
 * committed 1 | free | forget 1 | report | alarm Transactions are written as their sequence number; "1/2" is the
 * one-participant form of sequence 1 at participant 2. After every step agent_check() runs.
 */
#ifndef LOCKSTEP_TESTS_AGENT_RIG_H
#define LOCKSTEP_TESTS_AGENT_RIG_H

#include "participant/core/agent.h"
#include "participant/core/branch.h"

#define RIG_INCARNATION "0a1b2c3d4e5f"
#define RIG_SYSTEM UINT64_C(7000)
#define RIG_NUMBER 2u

struct rig {
    struct agent *agent;
    struct agent_effects effects;
    struct agent_config config;
    uint64_t now_us, link;
    struct agent_fence fence;   /* what the coordinator's frames carry */
    struct agent_server server; /* what identity, scans and proofs see */
    struct agent_fence stored;  /* what identity reads back */
    bool has_stored;
    uint32_t max_prepared;
    uint64_t op;             /* of the last operation handed out in the last step */
    uint64_t stop_op, token; /* of the last DB_STOP, the last Inquiry */
    struct {
        char gid[LS_GID_MAX + 1];
        uint64_t xid;
        bool vanished;
    } asked[8]; /* the items of the last Inquiry */
    uint32_t asked_count;
    char gid[LS_GID_MAX + 1]; /* of the last run, finish or proof */
    char scan_after[LS_GID_MAX + 1];
    int works;               /* Work frames the core still owns */
    struct rig_owned *owned; /* those; freed with the rig, as a host that goes down does */
    char trace[16384];
};

/* Called before (true) and after each agent_step(), unless NULL: for a test that counts what happens inside it. */
extern void (*rig_around_step)(bool begins);
/* Of the protocol, in every Welcome. */
extern uint32_t rig_version;

/* A new agent; nothing has happened yet. `change` may adjust the configuration. */
void rig_new(struct rig *rig, void (*change)(struct agent_config *config));
void rig_free(struct rig *rig);
/* Through start-up to the point where Work is taken: fence stored, nothing found prepared. */
void rig_serve(struct rig *rig, void (*change)(struct agent_config *config));

/* One step; the trace holds its effects afterwards. */
void rig_step(struct rig *rig, struct agent_event *event);
/* The last step had exactly these effects. */
#define rig_expect(rig, text) assert_string_equal((rig)->trace, (text))

struct agent_event rig_event(enum agent_event_kind kind);
/* A frame of the coordinator, on this link and with its fence. */
void rig_frame(struct rig *rig, struct agent_event event);
void rig_answer(struct rig *rig, enum agent_event_kind kind, struct agent_event event);
void rig_tick(struct rig *rig, uint64_t later_us);
/* Waits for the agent's next timer. */
void rig_next_timer(struct rig *rig);
void rig_link_up(struct rig *rig);
void rig_link_down(struct rig *rig);
void rig_welcome(struct rig *rig, bool has_chain_at, uint64_t chain_at, const char *accepted);
void rig_identity(struct rig *rig);
void rig_forget(struct rig *rig, struct agent_event event);
/* Answers every item of the last Inquiry (at most 8) alike. */
void rig_verdict(struct rig *rig, enum agent_verdict verdict);

const char *rig_gtid(uint64_t sequence, uint32_t participant);
const char *rig_gid(uint64_t sequence);

void rig_work(struct rig *rig, uint64_t sequence, uint32_t part, bool last);
void rig_work_one(struct rig *rig, uint64_t sequence, uint32_t part, bool last);
struct agent_event rig_work_event(uint64_t sequence, uint32_t participant, uint32_t part, bool last);
struct agent_run rig_run_prepared(uint64_t xid); /* everything as it should be */
struct agent_run rig_run_failed(const char *sqlstate, enum agent_item item);
struct agent_run rig_run_lost(void);
struct agent_run rig_run_open(void);
void rig_ran(struct rig *rig, struct agent_run run); /* answers the last operation */
void rig_ran_op(struct rig *rig, uint64_t op, struct agent_run run);
/* Work and a YES vote. */
void rig_prepare(struct rig *rig, uint64_t sequence, uint64_t xid);
void rig_commit(struct rig *rig, uint64_t sequence, uint64_t xid);
void rig_abort(struct rig *rig, uint64_t sequence);
void rig_settle(struct rig *rig, uint64_t sequence);
void rig_finished(struct rig *rig, const char *sqlstate); /* NULL: success */
void rig_stopped(struct rig *rig, bool gone);
void rig_proved(struct rig *rig, bool listed, uint64_t listed_xid, enum agent_xact_status status);
void rig_settled(struct rig *rig, enum agent_settle_result result);

#endif
