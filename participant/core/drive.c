/*
 * drive.c: what happens to one branch.
 *
 * Three rules stand behind everything here:
 *   - A branch that has not voted YES is ours to roll back, and nobody else's to commit.
 *   - A branch that has voted YES is moved by the coordinator's word about this very (gid, xid, system id) only.
 *   - "Done" and "aborted" are said when nothing that could still prepare or commit is left, and no earlier.
 *
 * One participant only: a NO without a tombstone is said only when COMMIT was never sent and the session is known to
 * have rolled back (or nothing was sent at all): nothing is left that could commit. In every other case the backend is
 * ended first and the outcome row or a committed tombstone decides (hazards 1.15).
 */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "participant/core/agent_internal.h"
#include "participant/core/proof.h"
#include "participant/core/sqlstate.h"

/* ------------------------------------------------------------------- helpers */

static void become(struct agent *a, struct agent_branch *b, enum agent_branch_state to) {
    agent_branch_become(b, to);
    table_count(a, b);
}

static void give_credit_back(struct agent *a, struct agent_branch *b) {
    if (b->holds_credit) {
        assert(a->credits_held > 0);
        a->credits_held--;
    }
    b->holds_credit = false;
    table_count(a, b);
}

static struct agent_effect *emit(struct agent *a, struct agent_branch *b, enum agent_effect_kind kind) {
    struct agent_effect *effect = agent_emit(a, kind);
    effect->branch = b->number;
    effect->gtid = b->gtid;
    return effect;
}

/* An operation on the server that will be answered. */
static struct agent_effect *emit_op(struct agent *a, struct agent_branch *b, enum agent_effect_kind kind) {
    assert(b->op == 0);
    struct agent_effect *effect = emit(a, b, kind);
    effect->op = b->op = agent_new_op(a, (uint32_t)(b->number & SLOT_MASK));
    return effect;
}

static void free_work(struct agent *a, void **work) {
    if (*work != NULL) agent_emit(a, AEF_FREE_WORK)->free_work.work = *work;
    *work = NULL;
}

static void release_session(struct agent *a, struct agent_branch *b, enum agent_session session) {
    if (b->bound_session && session == AGENT_SESSION_IDLE) emit(a, b, AEF_DB_RELEASE);
    b->bound_session = false;
}

static bool on_its_link(const struct agent *a, const struct agent_branch *b) {
    return b->link != 0 && b->link == a->link && link_welcomed(a);
}

static void try_later(struct agent *a, struct agent_branch *b) {
    b->attempts++;
    b->retried = true;
    a->stats.retries++;
    table_count(a, b);
    table_set_timer(a, b,
                    a->now_us + agent_backoff_us(a, b->attempts, a->config.backoff_min_us, a->config.backoff_max_us));
}

/* Something that must not happen between coordinator and agent: keep the evidence, do nothing, begin a new link. */
static void contradiction(struct agent *a, const char *gtid, const char *what) {
    agent_report(a, true, gtid, "%s", what);
    link_drop(a, what);
}

/* --------------------------------------------------------------------- voting */

static struct agent_effect *vote(struct agent *a, struct agent_branch *b, enum agent_vote kind) {
    struct agent_effect *effect = emit(a, b, AEF_SEND_VOTE);
    effect->vote.kind = kind;
    effect->vote.part = b->part;
    return effect;
}

/* The barrier row had an answer already: that is what the vote is about, the transaction itself was rolled back. */
static bool was_answered(const struct agent_branch *b) {
    return b->has_barrier && strcmp(b->cause.sqlstate, "LS001") == 0;
}

static void vote_barrier(struct agent_effect *effect, const struct agent_branch *b) {
    effect->vote.has_barrier = b->has_barrier;
    effect->vote.barrier = b->barrier;
}

static void vote_no(struct agent *a, struct agent_branch *b) {
    a->stats.votes_no++;
    b->voted = true;
    if (b->cause.report)
        agent_report(a, false, b->gtid, "%s%s%s", b->cause.sqlstate, b->cause.sqlstate[0] != '\0' ? ": " : "",
                     b->cause.reason);
    if (on_its_link(a, b)) {
        struct agent_effect *effect = vote(a, b, AGENT_VOTE_NO);
        effect->vote.sqlstate = b->cause.sqlstate[0] != '\0' ? agent_text(a, "%s", b->cause.sqlstate) : NULL;
        effect->vote.reason = agent_text(a, "%s", b->cause.reason);
        effect->vote.has_step = b->cause.has_step;
        effect->vote.step = b->cause.step;
        effect->vote.retryable = b->cause.retryable;
        effect->vote.key_free = b->one_phase && b->cause.key_free;
        if (was_answered(b)) {
            effect->vote.with_results = b->barrier == AGENT_BARRIER_DONE;
            vote_barrier(effect, b);
        }
    }
    give_credit_back(a, b);
}

static void set_cause(struct agent_branch *b, const char *sqlstate, const char *reason, bool retryable) {
    memset(&b->cause, 0, sizeof(b->cause));
    b->cause.judgement = AGENT_JUDGE_NO;
    snprintf(b->cause.sqlstate, sizeof(b->cause.sqlstate), "%s", sqlstate);
    snprintf(b->cause.reason, sizeof(b->cause.reason), "%s", reason);
    b->cause.retryable = retryable;
}

/* ---------------------------------------------------------------------- ending */

static void forget(struct agent *a, struct agent_branch *b, enum ended_kind kind) {
    assert(b->op == 0 && b->stop_op == 0);
    free_work(a, &b->work);
    free_work(a, &b->first_work);
    give_credit_back(a, b);
    become(a, b, AGB_ENDED);
    emit(a, b, AEF_FORGET);
    if (!b->nameless) table_remember(a, &b->id, kind, kind == ENDED_COMMITTED ? b->bound.xid : 0);
    table_remove(a, b);
}

static void send_done(struct agent *a, const char *gtid, enum agent_done kind, bool stranger, const char *reason) {
    if (!link_welcomed(a)) return; /* it will be asked again, and answered from memory or by proof */
    struct agent_effect *effect = agent_emit(a, AEF_SEND_DONE);
    effect->gtid = agent_text(a, "%s", gtid);
    effect->done.kind = kind;
    effect->done.stranger = stranger;
    effect->done.reason = reason;
    effect->done.app = a->settled_app == NULL ? NULL : agent_text(a, "%s", a->settled_app);
}

static enum ended_kind ended_kind(enum agent_done done) {
    switch (done) {
    case AGENT_DONE_COMMITTED:
        return ENDED_COMMITTED;
    case AGENT_DONE_ABORTED:
        return ENDED_ABORTED;
    case AGENT_DONE_HAZARD:
        break;
    }
    return ENDED_HAZARD;
}

/* One participant, its vote still owed on the very link: what Done would say is said as the vote. */
static void vote_the_end(struct agent *a, struct agent_branch *b, enum agent_done kind, const char *reason) {
    if (kind == AGENT_DONE_ABORTED) {
        vote_no(a, b);
        return;
    }
    b->voted = true;
    struct agent_effect *effect = vote(a, b, kind == AGENT_DONE_COMMITTED ? AGENT_VOTE_COMMITTED : AGENT_VOTE_BROKEN);
    effect->vote.with_results = kind == AGENT_DONE_COMMITTED;
    effect->vote.reason = reason;
    if (kind == AGENT_DONE_COMMITTED) vote_barrier(effect, b);
}

/* The branch has ended, and it is certain how. */
static void end(struct agent *a, struct agent_branch *b, enum agent_done kind, const char *why) {
    const char *reason = agent_text(a, "%s", why);

    if (kind == AGENT_DONE_HAZARD) {
        a->stats.hazards++;
        agent_report(a, true, b->gtid, "hazard: %s", why);
    } else if (kind == AGENT_DONE_COMMITTED) {
        a->stats.committed += b->one_phase ? 0u : 1u;
        a->stats.one_phase_committed += b->one_phase ? 1u : 0u;
    } else {
        a->stats.rolled_back++;
    }
    /* Of a stranger nothing is said: the coordinator has called it so itself, and its end is not the transaction's. */
    if (b->one_phase && !b->voted && !b->tell && on_its_link(a, b))
        vote_the_end(a, b, kind, reason);
    else if (!b->nameless && (b->tell || b->stranger || (kind == AGENT_DONE_HAZARD && !(b->voted && b->broken))))
        send_done(a, b->gtid, kind, b->stranger, reason);
    forget(a, b, ended_kind(kind));
}

/* ----------------------------------------------------- stopping, proving, finishing */

static void emit_stop(struct agent *a, struct agent_branch *b) {
    assert(b->stop_op == 0 && !b->stopped);
    struct agent_effect *effect = emit(a, b, AEF_DB_STOP);
    effect->op = b->stop_op = agent_new_op(a, (uint32_t)(b->number & SLOT_MASK));
    table_set_timer(a, b, AGENT_NEVER);
}

/* Never voted YES. Ends the backend; what it did is looked at when it is gone, for until then it may still do it
 * (hazards 1.5). */
static void stop(struct agent *a, struct agent_branch *b) {
    become(a, b, AGB_STOPPING);
    b->goal = AGENT_GOAL_ABORT;
    b->stopped = false;
    b->attempts = 0;
    b->bound_session = false;
    emit_stop(a, b);
}

static void emit_prove(struct agent *a, struct agent_branch *b) {
    assert(b->state == AGB_PROVING);
    table_set_timer(a, b, AGENT_NEVER);
    b->parked = false;
    a->stats.proofs++;
    struct agent_effect *effect = emit_op(a, b, AEF_DB_PROVE);
    effect->prove.gid = b->gid;
    effect->prove.xid = b->bound.xid;
}

static void prove(struct agent *a, struct agent_branch *b) {
    become(a, b, AGB_PROVING);
    emit_prove(a, b);
}

/* A page of the sweep will show it. */
static void park(struct agent *a, struct agent_branch *b) {
    become(a, b, AGB_PROVING);
    b->parked = true;
    table_set_timer(a, b, a->now_us + PARK_US);
}

void drive_prove_parked(struct agent *a, struct agent_branch *b) {
    assert(b->parked && b->op == 0);
    emit_prove(a, b);
}

static void emit_settle(struct agent *a, struct agent_branch *b) {
    assert(b->state == AGB_SETTLING);
    table_set_timer(a, b, AGENT_NEVER);
    (void)emit_op(a, b, AEF_DB_SETTLE);
}

static void settle(struct agent *a, struct agent_branch *b) {
    assert(b->one_phase);
    become(a, b, AGB_SETTLING);
    b->attempts = 0;
    emit_settle(a, b);
}

static void emit_read_key(struct agent *a, struct agent_branch *b) {
    table_set_timer(a, b, AGENT_NEVER);
    emit_op(a, b, AEF_DB_READ_KEY)->read_key.work = b->first_work;
}

static void roll_back_open(struct agent *a, struct agent_branch *b) {
    become(a, b, AGB_ROLLING_BACK);
    b->goal = AGENT_GOAL_ABORT;
    table_set_timer(a, b, AGENT_NEVER);
    (void)emit_op(a, b, AEF_DB_ROLLBACK);
}

/*
 * COMMIT PREPARED or ROLLBACK PREPARED. The fence goes first: the WAL flush of a COMMIT PREPARED carries it along, so
 * that no commit can be remembered by the server whose log position this agent has forgotten (design 2.9).
 */
static void finish(struct agent *a, struct agent_branch *b, bool commit, uint64_t xid, const char *owner) {
    assert(xid != 0);
    assert(!commit || (b->goal == AGENT_GOAL_COMMIT && xid == b->bound.xid));
    become(a, b, AGB_FINISHING);
    table_set_timer(a, b, AGENT_NEVER);
    if (commit) link_store_fence(a, false);
    struct agent_effect *effect = emit_op(a, b, AEF_DB_FINISH);
    effect->finish.gid = b->gid;
    effect->finish.owner = owner != NULL && owner[0] != '\0' ? owner : NULL;
    effect->finish.commit = commit;
    effect->finish.xid = xid;
}

/* The backend is gone and has given its last answer. */
static void stopping_check(struct agent *a, struct agent_branch *b) {
    if (b->op != 0 || !b->stopped) return;
    b->attempts = 0;
    if (b->broken && !b->voted)
        end(a, b, AGENT_DONE_HAZARD, "the branch's marker is gone: a statement ended its transaction");
    else if (b->one_phase)
        settle(a, b);
    else if (b->last_sent)
        prove(a, b);
    else
        end(a, b, b->broken ? AGENT_DONE_HAZARD : AGENT_DONE_ABORTED, "its backend was ended before PREPARE was sent");
}

void drive_on_stop(struct agent *a, struct agent_branch *b, bool gone) {
    assert(b->state == AGB_STOPPING);
    if (!gone) {
        try_later(a, b);
        return;
    }
    b->stopped = true;
    stopping_check(a, b);
}

void drive_on_rollback(struct agent *a, struct agent_branch *b, enum agent_session session) {
    assert(b->state == AGB_ROLLING_BACK && session != AGENT_SESSION_OPEN);
    if (session == AGENT_SESSION_LOST) {
        stop(a, b);
        return;
    }
    release_session(a, b, session);
    end(a, b, b->broken ? AGENT_DONE_HAZARD : AGENT_DONE_ABORTED, "rolled back");
}

/* -------------------------------------------------------------------- the runs */

/* What the judgement asks for; the vote goes out first, so that the client need not wait for the cleaning up. */
static void carry_out_no(struct agent *a, struct agent_branch *b, const struct agent_run *run) {
    switch (b->cause.judgement) {
    case AGENT_JUDGE_NO:
        vote_no(a, b);
        if (run->session == AGENT_SESSION_LOST && !(run->nothing_sent && b->part == 0)) {
            stop(a, b); /* an earlier part left its transaction open there */
            return;
        }
        release_session(a, b, run->session);
        end(a, b, AGENT_DONE_ABORTED, "rolled back");
        return;
    case AGENT_JUDGE_NO_OPEN:
        vote_no(a, b);
        roll_back_open(a, b);
        return;
    case AGENT_JUDGE_NO_PREPARED:
        vote_no(a, b);
        if (b->bound.xid == 0) {
            stop(a, b); /* the proof will find its xid in the list */
            return;
        }
        release_session(a, b, run->session);
        b->goal = AGENT_GOAL_ABORT;
        finish(a, b, false, b->bound.xid, b->owner);
        return;
    case AGENT_JUDGE_NO_UNKNOWN:
        if (!b->one_phase) vote_no(a, b);
        stop(a, b);
        return;
    case AGENT_JUDGE_KEY_TAKEN:
        release_session(a, b, run->session);
        become(a, b, AGB_READING_KEY);
        emit_read_key(a, b);
        return;
    case AGENT_JUDGE_CONTINUE:
    case AGENT_JUDGE_YES:
    case AGENT_JUDGE_READ_ONLY:
    case AGENT_JUDGE_COMMIT:
    case AGENT_JUDGE_BROKEN:
    case AGENT_JUDGE_COUNT:
        break;
    }
    assert(false && "not a no");
}

static void carry_out_broken(struct agent *a, struct agent_branch *b, const struct agent_run *run) {
    b->broken = true;
    b->voted = true;
    a->stats.hazards++;
    agent_report(a, true, b->gtid, "hazard: %s", b->cause.reason);
    if (on_its_link(a, b)) vote(a, b, AGENT_VOTE_BROKEN)->vote.reason = agent_text(a, "%s", b->cause.reason);
    give_credit_back(a, b);
    if (run->session == AGENT_SESSION_LOST) {
        stop(a, b);
    } else if (run->session == AGENT_SESSION_OPEN) {
        roll_back_open(a, b);
    } else {
        release_session(a, b, run->session);
        forget(a, b, ENDED_HAZARD);
    }
}

static void carry_out_yes(struct agent *a, struct agent_branch *b, const struct agent_run *run) {
    a->stats.votes_yes++;
    become(a, b, AGB_PREPARED);
    table_set_timer(a, b, AGENT_NEVER);
    b->prepared_us = a->now_us;
    b->voted = true;
    a->voted_system_id = b->bound.system_id;
    if (b->bound.timeline != a->voted_timeline || b->bound.lsn > a->voted_lsn) {
        a->voted_timeline = b->bound.timeline;
        a->voted_lsn = b->bound.lsn;
    }
    struct agent_effect *effect = vote(a, b, AGENT_VOTE_YES);
    effect->vote.with_results = true;
    effect->vote.gid = b->gid;
    effect->vote.identity = b->bound;
    effect->vote.owner = b->owner;
    release_session(a, b, run->session);
}

/* YES on a server that is not the one Hello spoke of: the coordinator's records would mix two histories. */
static void refuse_changed_server(const struct agent *a, struct agent_branch *b) {
    if (b->cause.judgement != AGENT_JUDGE_YES ||
        (b->bound.system_id == a->server.system_id && b->bound.timeline == a->server.timeline))
        return;
    set_cause(b, "", "the server failed over while the branch was prepared", true);
    b->cause.judgement = AGENT_JUDGE_NO_PREPARED;
}

static void learn_identity(struct agent_branch *b, const struct agent_run *run) {
    b->bound = run->identity;
    if (run->owner != NULL) snprintf(b->owner, sizeof(b->owner), "%s", run->owner);
}

static void run_answered(struct agent *a, struct agent_branch *b, const struct agent_run *run) {
    agent_vote_judge(run, b->last_sent, b->one_phase, &b->cause);
    learn_identity(b, run);
    b->has_barrier = run->has_barrier;
    b->barrier = run->barrier;
    refuse_changed_server(a, b);
    switch (b->cause.judgement) {
    case AGENT_JUDGE_CONTINUE:
        become(a, b, AGB_OPEN);
        vote(a, b, AGENT_VOTE_CONTINUE)->vote.with_results = true;
        return;
    case AGENT_JUDGE_YES:
        carry_out_yes(a, b, run);
        return;
    case AGENT_JUDGE_READ_ONLY:
        a->stats.votes_read_only++;
        b->voted = true;
        vote(a, b, AGENT_VOTE_READ_ONLY)->vote.with_results = true;
        release_session(a, b, run->session);
        forget(a, b, ENDED_READ_ONLY);
        return;
    case AGENT_JUDGE_COMMIT:
        become(a, b, AGB_COMMITTING);
        b->commit_sent = true;
        (void)emit_op(a, b, AEF_DB_COMMIT1);
        return;
    case AGENT_JUDGE_BROKEN:
        carry_out_broken(a, b, run);
        return;
    case AGENT_JUDGE_NO:
    case AGENT_JUDGE_NO_OPEN:
    case AGENT_JUDGE_NO_PREPARED:
    case AGENT_JUDGE_NO_UNKNOWN:
    case AGENT_JUDGE_KEY_TAKEN:
        carry_out_no(a, b, run);
        return;
    case AGENT_JUDGE_COUNT:
        break;
    }
    assert(false && "judgement");
}

void drive_on_run(struct agent *a, struct agent_branch *b, const struct agent_run *run) {
    if (b->one_phase && b->part == 0) {
        b->first_work = b->work; /* names the key, which may still have to be read */
        b->work = NULL;
    }
    free_work(a, &b->work);
    if (b->state == AGB_STOPPING) {
        /* Aborted meanwhile, whatever this says; but what it says about the branch's identity helps to prove its end.
         */
        if (run->prepare_tag != NULL && run->identity.xid != 0) learn_identity(b, run);
        b->broken = b->broken || run->guard == AGENT_GUARD_MARKER_LOST;
        stopping_check(a, b);
        return;
    }
    assert(b->state == AGB_RUNNING || b->state == AGB_PREPARING);
    assert(on_its_link(a, b)); /* a lost link stops every run */
    run_answered(a, b, run);
}

/* --------------------------------------------------------------------- one phase */

void drive_on_commit1(struct agent *a, struct agent_branch *b, const struct agent_event *event) {
    const struct agent_answer *answer = &event->commit1.answer;
    bool has_code = answer->sqlstate != NULL && answer->sqlstate[0] != '\0';

    if (b->state == AGB_STOPPING) {
        stopping_check(a, b); /* stopped by the agent's own timer: the outcome row says what came of it */
        return;
    }
    assert(b->state == AGB_COMMITTING);
    table_set_timer(a, b, AGENT_NEVER);
    if (!answer->lost && !has_code && !answer->rolled_back) {
        if (answer->warning)
            agent_report(a, false, b->gtid,
                         "committed, but the wait for a synchronous standby was cancelled: replication unknown");
        release_session(a, b, event->commit1.session);
        end(a, b, AGENT_DONE_COMMITTED, "committed");
        return;
    }
    bool certain = !answer->lost && event->commit1.session == AGENT_SESSION_IDLE &&
                   (answer->rolled_back || agent_sqlstate(answer->sqlstate)->build != AGENT_SQL_UNKNOWN);
    set_cause(b,
              has_code              ? answer->sqlstate
              : answer->rolled_back ? "25P02"
                                    : "",
              answer->message != NULL ? answer->message : "COMMIT was not answered",
              !certain || (has_code && agent_sqlstate(answer->sqlstate)->build == AGENT_SQL_NO_RETRYABLE));
    if (certain) {
        release_session(a, b, event->commit1.session);
        end(a, b, AGENT_DONE_ABORTED, "rolled back by COMMIT");
        return;
    }
    stop(a, b);
}

void drive_on_key(struct agent *a, struct agent_branch *b, const struct agent_event *event) {
    struct ls_gtid other;

    assert(b->state == AGB_READING_KEY);
    if (!event->key.ok) {
        try_later(a, b);
        return;
    }
    if (!event->key.found || strcmp(event->key.gtid, b->gtid) == 0 || ls_gtid_parse(event->key.gtid, &other) != LS_OK) {
        settle(a, b); /* our own row, or a tombstone */
        return;
    }
    if (b->tell) {
        end(a, b, AGENT_DONE_ABORTED, "rolled back: its key belongs to an earlier transaction");
        return;
    }
    b->voted = true;
    if (on_its_link(a, b)) {
        struct agent_effect *effect = vote(a, b, AGENT_VOTE_EXISTS);
        effect->vote.existing_gtid = agent_text(a, "%s", event->key.gtid);
        effect->vote.existing_hash = event->key.hash;
        effect->vote.existing_hash_length = event->key.hash_length;
    }
    forget(a, b, ENDED_ABORTED);
}

void drive_on_settled(struct agent *a, struct agent_branch *b, enum agent_settle_result result, const char *app) {
    assert(b->state == AGB_SETTLING);
    switch (result) {
    case AGENT_SETTLE_COMMITTED:
        a->settled_app = app;
        end(a, b, AGENT_DONE_COMMITTED, "its outcome row is committed");
        a->settled_app = NULL;
        return;
    case AGENT_SETTLE_ABORTED:
        if (b->was_committed) {
            end(a, b, AGENT_DONE_HAZARD, "it was committed, and the server has lost it in a failover");
            return;
        }
        if (b->cause.reason[0] == '\0') set_cause(b, "", "not committed; a tombstone keeps it so", true);
        end(a, b, AGENT_DONE_ABORTED, "a tombstone is committed in the place of its outcome row");
        return;
    case AGENT_SETTLE_FORGOTTEN:
        end(a, b, AGENT_DONE_HAZARD,
            "older than what is remembered of its like: how it ended is not known here any more");
        return;
    case AGENT_SETTLE_BUSY:
    case AGENT_SETTLE_FAILED:
        try_later(a, b);
        return;
    }
    assert(false && "settle result");
}

/* ------------------------------------------------------------------------- proof */

void drive_on_finish(struct agent *a, struct agent_branch *b, const struct agent_answer *answer) {
    const struct agent_sqlstate_row *row = agent_sqlstate(answer->sqlstate);
    bool done = !answer->lost && (answer->sqlstate == NULL || answer->sqlstate[0] == '\0');

    assert(b->state == AGB_FINISHING);
    if (done && b->finish_stranger) {
        b->finish_stranger = false;
        prove(a, b);
        return;
    }
    if (done) {
        if (answer->warning)
            agent_report(a, false, b->gtid,
                         "finished, but the wait for a synchronous standby was cancelled: replication unknown");
        if (b->goal == AGENT_GOAL_COMMIT)
            end(a, b, AGENT_DONE_COMMITTED, "committed");
        else
            end(a, b, AGENT_DONE_ABORTED, "rolled back");
        return;
    }
    /* An internal error, not one of those that say why it was not begun: it may have come behind the commit. */
    b->finish_broke =
        !b->finish_stranger && !answer->lost && row->build == AGENT_SQL_NO_REPORT && row->finish == AGENT_SQL_REPORT;
    b->finish_stranger = false;
    become(a, b, AGB_PROVING);
    if (!answer->lost && row->finish == AGENT_SQL_PROVE) {
        emit_prove(a, b);
        return;
    }
    /* The 1st, 2nd, 4th, 8th ... time: an operator needs to see it, not to drown in it. */
    if (!answer->lost && row->finish != AGENT_SQL_RETRY && (b->attempts & (b->attempts + 1)) == 0)
        agent_report(a, true, b->gtid, "cannot finish %s: %s %s", b->gid, answer->sqlstate,
                     answer->message != NULL ? answer->message : row->why);
    try_later(a, b);
}

static void finish_listed(struct agent *a, struct agent_branch *b, const struct agent_proof_seen *seen) {
    if (seen->listed_owner != NULL) snprintf(b->owner, sizeof(b->owner), "%s", seen->listed_owner);
    /* Prepared here and now: from now on it is bound to where it was seen, or a later proof on this newer timeline
     * would call it lost. */
    b->bound.xid = seen->listed_xid;
    b->bound.system_id = seen->server.system_id;
    if (b->bound.timeline != seen->server.timeline || b->bound.lsn == 0) {
        b->bound.timeline = seen->server.timeline;
        b->bound.lsn = seen->server.flush_lsn;
    }
    finish(a, b, b->goal == AGENT_GOAL_COMMIT, b->bound.xid, b->owner);
}

/* A transaction that no decision lists bears the gid of a decided one. */
static void finish_stranger(struct agent *a, struct agent_branch *b, const struct agent_proof_seen *seen) {
    if (!b->stranger) {
        a->stats.strangers++;
        agent_report(a, true, b->gtid, "another transaction (xid %" PRIu64 ") bears the gid %s: it is rolled back",
                     seen->listed_xid, b->gid);
    }
    b->stranger = true;
    b->finish_stranger = true;
    finish(a, b, false, seen->listed_xid, seen->listed_owner != NULL ? agent_text(a, "%s", seen->listed_owner) : NULL);
}

static void proved_for_commit(struct agent *a, struct agent_branch *b, const struct agent_proven *proven,
                              const struct agent_proof_seen *seen) {
    switch (proven->proof) {
    case AGENT_PROOF_PREPARED:
        finish_listed(a, b, seen);
        return;
    case AGENT_PROOF_COMMITTED:
        /* PostgreSQL has had errors between the commit and the release of its locks; only a restart clears those. */
        if (b->finish_broke)
            agent_report(a, true, b->gtid,
                         "committed, but the server failed over it: its locks may stay until a restart");
        end(a, b, AGENT_DONE_COMMITTED, proven->why);
        return;
    case AGENT_PROOF_ABORTED:
        end(a, b, AGENT_DONE_HAZARD, "decided to commit, but an outside hand has rolled it back");
        return;
    case AGENT_PROOF_LOST:
        end(a, b, AGENT_DONE_HAZARD, proven->why);
        return;
    case AGENT_PROOF_RETRY:
        try_later(a, b);
        return;
    case AGENT_PROOF_ABSENT:
        break;
    }
    assert(false && "a commit always names its transaction");
}

static void proved_for_abort(struct agent *a, struct agent_branch *b, const struct agent_proven *proven,
                             const struct agent_proof_seen *seen) {
    switch (proven->proof) {
    case AGENT_PROOF_PREPARED:
        finish_listed(a, b, seen);
        return;
    case AGENT_PROOF_COMMITTED:
        if (b->forgotten)
            end(a, b, AGENT_DONE_COMMITTED,
                "committed by another agent, longer ago than the coordinator's log remembers");
        else
            end(a, b, AGENT_DONE_HAZARD, "aborted, but an outside hand has committed it");
        return;
    case AGENT_PROOF_ABORTED:
    case AGENT_PROOF_LOST: /* not there, and should it rise again, the scan finds it and asks */
        end(a, b, AGENT_DONE_ABORTED, proven->why);
        return;
    case AGENT_PROOF_RETRY:
        try_later(a, b);
        return;
    case AGENT_PROOF_ABSENT:
        if (b->other_form) {
            b->other_form = false;
            ls_gid_format(LS_GID_XA, b->gtid, a->config.participant, b->gid);
            emit_prove(a, b);
            return;
        }
        end(a, b, AGENT_DONE_ABORTED, "nothing is prepared under its name, and nothing is left that could");
        return;
    }
    assert(false && "proof");
}

static void enter_quarantine(struct agent *a, const struct agent_proof_seen *seen, const char *why) {
    agent_report(a, true, NULL, "quarantine: %s; this participant gets no work", why);
    a->lost_timeline = seen->server.timeline;
    a->quarantined = true;
    if (a->link != 0) link_drop(a, "the server's history lacks what it has answered for");
}

/*
 * Prepared on a timeline on which, by its recorded position, it could not be: that position is an upper bound. Once it
 * is finished here nobody could tell it from one that was lost. So it is not finished on the word that names that
 * position; the sweep asks, and the coordinator, which keeps in its log where it was seen, says so again.
 */
static void ask_first(struct agent *a, struct agent_branch *b) {
    b->nameless = true; /* nothing has ended */
    forget(a, b, ENDED_ABORTED);
    a->sweep_left = true;
    if (!a->sweeping && a->sweep_us != AGENT_NEVER && a->sweep_us > a->now_us + SWEEP_AGAIN_US)
        a->sweep_us = a->now_us + SWEEP_AGAIN_US;
}

/* False: it is not acted upon but asked about. */
static bool proof_seen(struct agent *a, struct agent_branch *b, const struct agent_proof_seen *seen) {
    struct agent_proven proven = agent_proof_judge(&b->bound, seen);
    bool quarantine = proven.quarantine && !a->quarantined;
    bool said_here = b->from_verdict && b->verdict_timeline == seen->server.timeline;
    if (proven.behind && b->goal == AGENT_GOAL_COMMIT && !said_here) {
        ask_first(a, b);
        return false;
    }
    if (proven.stranger && !b->from_verdict) /* a verdict is not about the stranger: the sweep will ask */
        finish_stranger(a, b, seen);
    else if (b->goal == AGENT_GOAL_COMMIT)
        proved_for_commit(a, b, &proven, seen);
    else
        proved_for_abort(a, b, &proven, seen);
    if (quarantine) enter_quarantine(a, seen, proven.why);
    return true;
}

void drive_on_prove(struct agent *a, struct agent_branch *b, const struct agent_event *event) {
    assert(b->state == AGB_PROVING && !b->parked);
    if (event->prove.ok)
        (void)proof_seen(a, b, &event->prove.seen);
    else
        try_later(a, b);
}

bool drive_on_listed(struct agent *a, struct agent_branch *b, const struct agent_prepared *row,
                     const struct agent_server *server) {
    struct agent_proof_seen seen = {.listed = true,
                                    .listed_xid = row->xid,
                                    .listed_owner = row->owner,
                                    .status = AGENT_XACT_UNKNOWN,
                                    .server = *server,
                                    .history = a->history,
                                    .history_count = a->history_count};
    assert(b->state == AGB_PROVING && b->parked && (b->bound.xid == 0 || b->bound.xid == row->xid));
    b->parked = false;
    return proof_seen(a, b, &seen);
}

/* -------------------------------------------------------------------------- Work */

static void protocol_error(struct agent *a, void *work, const char *what) {
    agent_emit(a, AEF_FREE_WORK)->free_work.work = work;
    link_drop(a, what);
}

/* NO without a branch: nothing was begun. */
static void refuse_work(struct agent *a, const struct agent_event *event, const char *sqlstate, const char *reason,
                        bool retryable) {
    a->stats.votes_no++;
    struct agent_effect *effect = agent_emit(a, AEF_SEND_VOTE);
    effect->gtid = event->work.gtid;
    effect->vote.kind = AGENT_VOTE_NO;
    effect->vote.part = event->work.part;
    effect->vote.sqlstate = sqlstate;
    effect->vote.reason = reason;
    effect->vote.retryable = retryable;
    effect->vote.has_step = event->work.has_refused_step;
    effect->vote.step = event->work.refused_step;
    agent_emit(a, AEF_FREE_WORK)->free_work.work = event->work.work;
}

static void run_part(struct agent *a, struct agent_branch *b, const struct agent_event *event) {
    assert(b->work == NULL);
    b->part = event->work.part;
    b->last_sent = event->work.last;
    b->work = event->work.work;
    b->bound_session = true;
    become(a, b, event->work.last && !b->one_phase ? AGB_PREPARING : AGB_RUNNING);
    b->deadline_us = a->now_us + (uint64_t)event->work.deadline_ms * 1000 + a->config.grace_us;
    table_set_timer(a, b, b->deadline_us);
    /* A saga stands in the log before any of its steps is sent: whoever has committed one must not serve a log without
     * it. Other work of one participant rests on no record. */
    if (event->work.saga && event->work.last) link_store_fence(a, false);
    struct agent_effect *effect = emit_op(a, b, AEF_DB_RUN);
    effect->run.gid = b->gid;
    effect->run.part = b->part;
    effect->run.first = b->part == 0;
    effect->run.last = b->last_sent;
    effect->run.one_phase = b->one_phase;
    effect->run.work = b->work;
    effect->run.lock_timeout_ms = event->work.lock_timeout_ms;
    effect->run.deadline_ms = event->work.deadline_ms;
}

static void first_work(struct agent *a, const struct agent_event *event, const struct ls_gtid *id) {
    const struct ended *ended = table_ended(a, id);
    if (ended != NULL) {
        agent_emit(a, AEF_FREE_WORK)->free_work.work = event->work.work; /* a duplicate: its vote was given */
        return;
    }
    if (a->credits_held >= a->credits_most) {
        protocol_error(a, event->work.work, "more branches than were granted");
    } else if (table_below_floor(a, id)) {
        refuse_work(a, event, "57014", "its name is older than what this agent remembers", true);
    } else if (a->drained) {
        refuse_work(a, event, "57P03", "the agent is being stopped", true);
    } else if (event->work.refused != NULL) {
        refuse_work(a, event, event->work.refused_sqlstate, event->work.refused, false);
    } else if (event->work.deadline_ms == 0) {
        refuse_work(a, event, "57014", "its deadline had passed when it arrived", true);
    } else {
        struct agent_branch *b = table_add(a, id, false);
        if (b == NULL) {
            refuse_work(a, event, "53200", "the agent is out of memory", true);
            return;
        }
        b->link = a->link;
        b->holds_credit = true;
        a->credits_held++;
        if (!b->one_phase) ls_gid_format(event->work.gid_form, b->gtid, a->config.participant, b->gid);
        run_part(a, b, event);
    }
}

static void later_work(struct agent *a, struct agent_branch *b, const struct agent_event *event) {
    if (b->link != a->link || event->work.part <= b->part || (b->state != AGB_OPEN && b->voted)) {
        /* A duplicate, or it crossed our NO. Never run twice. */
        agent_emit(a, AEF_FREE_WORK)->free_work.work = event->work.work;
        return;
    }
    if (b->state != AGB_OPEN || event->work.part != b->part + 1 || event->work.one_phase != b->one_phase) {
        protocol_error(a, event->work.work, "Work out of order");
        return;
    }
    if (event->work.refused != NULL || event->work.deadline_ms == 0) {
        const char *reason =
            event->work.refused != NULL ? event->work.refused : "its deadline had passed when it arrived";
        const char *sqlstate = event->work.refused != NULL ? event->work.refused_sqlstate : "57014";
        set_cause(b, sqlstate != NULL ? sqlstate : "", reason, event->work.refused == NULL);
        b->cause.has_step = event->work.has_refused_step;
        b->cause.step = event->work.refused_step;
        agent_emit(a, AEF_FREE_WORK)->free_work.work = event->work.work;
        vote_no(a, b);
        roll_back_open(a, b);
        return;
    }
    run_part(a, b, event);
}

void drive_on_work(struct agent *a, const struct agent_event *event) {
    struct ls_gtid id;
    void *work = event->work.work;

    if (a->state != AGENT_SERVING) {
        protocol_error(a, work, "Work before Ready");
        return;
    }
    if (ls_gtid_parse(event->work.gtid, &id) != LS_OK || strcmp(id.coordinator, a->config.coordinator) != 0 ||
        strcmp(id.incarnation, a->fence.incarnation) != 0 || id.epoch != a->fence.epoch) {
        protocol_error(a, work, "Work for a transaction that is not of this life of the coordinator");
        return;
    }
    if (event->work.one_phase != (id.participant != 0) || (id.participant != 0 && id.participant != a->number)) {
        protocol_error(a, work, "Work whose gtid does not fit its participants");
        return;
    }
    if (event->work.lock_timeout_ms == 0) {
        protocol_error(a, work, "Work without a lock timeout");
        return;
    }
    struct agent_branch *b = table_find(a, &id);
    if (b != NULL)
        later_work(a, b, event);
    else if (event->work.part == 0)
        first_work(a, event, &id);
    else
        agent_emit(a, AEF_FREE_WORK)->free_work.work = work; /* crossed our NO, or its beginning was refused */
}

/* ---------------------------------------------------------------------- decisions */

static bool parse_own(struct agent *a, const char *gtid, struct ls_gtid *ret_id) {
    if (ls_gtid_parse(gtid, ret_id) == LS_OK && strcmp(ret_id->coordinator, a->config.coordinator) == 0 &&
        strcmp(ret_id->incarnation, a->fence.incarnation) == 0)
        return true;
    link_drop(a, "a decision about a transaction that is not this coordinator's");
    return false;
}

/* The gid must be the one that this gtid and participant make, in one of the two forms. */
static bool gid_fits(const struct agent *a, const char *gid, const struct ls_gtid *id) {
    enum ls_gid_form form;
    struct ls_gtid parsed;
    char participant[LS_PARTICIPANT_MAX + 1];
    return gid != NULL && strlen(gid) <= LS_GID_MAX && ls_gid_parse(gid, &form, &parsed, participant) == LS_OK &&
           ls_gtid_equal(&parsed, id) && strcmp(participant, a->config.participant) == 0;
}

/* A branch known only from what somebody says about it. NULL: no room; whoever said it says it again. */
static struct agent_branch *recover(struct agent *a, const struct ls_gtid *id, enum agent_goal goal) {
    struct agent_branch *b = table_add(a, id, true);
    if (b != NULL) {
        b->goal = goal;
        table_count(a, b);
    }
    return b;
}

static void bind(struct agent_branch *b, const struct agent_identity *identity, const char *gid, const char *owner) {
    b->bound = *identity;
    snprintf(b->gid, sizeof(b->gid), "%s", gid);
    snprintf(b->owner, sizeof(b->owner), "%s", owner != NULL ? owner : "");
}

/* How it ended here, if the server still has the history on which it did: a failover may have undone it. */
static const struct ended *ended_for_certain(const struct agent *a, const struct ls_gtid *id) {
    const struct ended *ended = table_ended(a, id);
    return ended != NULL && ended->history == a->history_serial ? ended : NULL;
}

/* On a new link everything prepared is about to be listed anyway. */
static void park_or_prove(struct agent *a, struct agent_branch *b) {
    bool scan_ahead = (a->state == AGENT_ACCEPTING || a->state == AGENT_ASKING) && !a->quarantined;
    if (scan_ahead)
        park(a, b);
    else
        prove(a, b);
}

static void commit_unknown(struct agent *a, const struct agent_decide *decide, const struct ls_gtid *id, bool again) {
    const struct ended *ended = again ? NULL : ended_for_certain(a, id);
    if (ended != NULL && ended->kind == ENDED_COMMITTED && ended->xid == decide->identity.xid) {
        send_done(a, decide->gtid, AGENT_DONE_COMMITTED, false, NULL);
        return;
    }
    struct agent_branch *b = recover(a, id, AGENT_GOAL_COMMIT);
    if (b == NULL) return;
    b->tell = true;
    bind(b, &decide->identity, decide->gid, decide->owner);
    park_or_prove(a, b);
}

/*
 * The coordinator's word about what this life has prepared. COMMIT PREPARED goes by the name, and a finished gid can be
 * prepared again by anybody (hazards 1.19): the list is looked at first, unless the server's own answer to our PREPARE,
 * which named our xid, is as young as such a look would be useful.
 */
static void finish_ours(struct agent *a, struct agent_branch *b) {
    assert(b->state == AGB_PREPARED && b->goal != AGENT_GOAL_NONE);
    bool same_timeline = b->bound.timeline == a->server.timeline;
    if (same_timeline && a->now_us - b->prepared_us <= LISTING_FRESH_US)
        finish(a, b, b->goal == AGENT_GOAL_COMMIT, b->bound.xid, b->owner);
    else
        prove(a, b);
}

/* The coordinator knows by now that the branch lies farther in front. */
static void learn_position(struct agent_branch *b, const struct agent_identity *identity) {
    if (b->bound.xid == identity->xid && b->bound.system_id == identity->system_id &&
        b->bound.timeline == identity->timeline && identity->lsn != 0 && identity->lsn < b->bound.lsn)
        b->bound.lsn = identity->lsn;
}

static void commit_prepared(struct agent *a, struct agent_branch *b, const struct agent_decide *decide) {
    b->goal = AGENT_GOAL_COMMIT;
    b->tell = true;
    if (b->bound.xid == decide->identity.xid && b->bound.system_id == decide->identity.system_id &&
        strcmp(b->gid, decide->gid) == 0) {
        learn_position(b, &decide->identity);
        finish_ours(a, b);
        return;
    }
    /* What is prepared here is not what was decided: the proof will see a stranger under the gid. */
    bind(b, &decide->identity, decide->gid, decide->owner);
    prove(a, b);
}

static void on_commit(struct agent *a, const struct agent_decide *decide, const struct ls_gtid *id, bool again) {
    struct agent_branch *b = table_find(a, id);
    if (b == NULL) {
        commit_unknown(a, decide, id, again);
        return;
    }
    switch (b->state) {
    case AGB_PREPARED:
        commit_prepared(a, b, decide);
        return;
    case AGB_PROVING:
    case AGB_FINISHING:
        if (b->goal == AGENT_GOAL_COMMIT) {
            b->tell = true;
            learn_position(b, &decide->identity);
        } else if (!b->from_verdict || b->bound.xid == decide->identity.xid)
            contradiction(a, b->gtid, "told to commit a branch that was aborted");
        /* else: a stranger under this gid is being rolled back first; the decision is repeated. */
        return;
    case AGB_RUNNING:
    case AGB_OPEN:
    case AGB_PREPARING:
    case AGB_ROLLING_BACK:
    case AGB_STOPPING:
        contradiction(a, b->gtid, "told to commit a branch that has not voted yes");
        return;
    case AGB_COMMITTING:
    case AGB_READING_KEY:
    case AGB_SETTLING:
        contradiction(a, b->gtid, "told to commit a branch that commits by itself");
        return;
    case AGB_NEW:
    case AGB_ENDED:
    case AGB_STATE_COUNT:
        break;
    }
    assert(false && "branch state");
}

static void abort_ended(struct agent *a, const struct ended *ended, const char *gtid, bool one_phase) {
    assert(ended != NULL);
    switch (ended->kind) {
    case ENDED_ABORTED:
    case ENDED_READ_ONLY:
        send_done(a, gtid, AGENT_DONE_ABORTED, false, NULL);
        return;
    case ENDED_COMMITTED:
        send_done(a, gtid, one_phase ? AGENT_DONE_COMMITTED : AGENT_DONE_HAZARD, false,
                  one_phase ? NULL : "told to abort a branch that it was told to commit before");
        if (!one_phase) agent_report(a, true, gtid, "told to abort a branch that it was told to commit before");
        return;
    case ENDED_HAZARD:
        send_done(a, gtid, AGENT_DONE_HAZARD, false, "broken from outside before");
        return;
    }
    assert(false && "ended kind");
}

static void abort_unknown(struct agent *a, const char *gtid, const char *gid, const struct ls_gtid *id) {
    const struct ended *ended = table_ended(a, id);
    bool was_committed = ended != NULL && ended->kind == ENDED_COMMITTED;
    if (ended_for_certain(a, id) != NULL) {
        abort_ended(a, ended, gtid, id->participant != 0);
        return;
    }
    /* No worker of this life has it, and those of earlier lives are gone (DB_CLEAN): it is prepared, or it never will
     * be. */
    struct agent_branch *b = recover(a, id, AGENT_GOAL_ABORT);
    if (b == NULL) return;
    b->tell = true;
    if (b->one_phase) {
        b->was_committed = was_committed;
        settle(a, b);
        return;
    }
    b->other_form = gid == NULL;
    if (gid != NULL)
        snprintf(b->gid, sizeof(b->gid), "%s", gid);
    else
        ls_gid_format(LS_GID_READABLE, b->gtid, a->config.participant, b->gid);
    park_or_prove(a, b);
}

static void on_abort(struct agent *a, const char *gtid, const char *gid, const struct ls_gtid *id) {
    struct agent_branch *b = table_find(a, id);
    if (b == NULL) {
        abort_unknown(a, gtid, gid, id);
        return;
    }
    switch (b->state) {
    case AGB_RUNNING:
    case AGB_PREPARING:
        b->tell = true;
        stop(a, b);
        return;
    case AGB_OPEN:
        b->tell = true;
        roll_back_open(a, b);
        return;
    case AGB_PREPARED:
        b->tell = true;
        b->goal = AGENT_GOAL_ABORT;
        finish_ours(a, b);
        return;
    case AGB_PROVING:
    case AGB_FINISHING:
        if (b->goal == AGENT_GOAL_COMMIT) {
            contradiction(a, b->gtid, "told to abort a branch that it was told to commit");
            return;
        }
        b->tell = b->tell || !b->from_verdict;
        return;
    case AGB_COMMITTING: /* its COMMIT is on its way: the answer, or the outcome row, decides */
    case AGB_READING_KEY:
    case AGB_SETTLING:
    case AGB_STOPPING:
    case AGB_ROLLING_BACK:
        b->tell = true;
        return;
    case AGB_NEW:
    case AGB_ENDED:
    case AGB_STATE_COUNT:
        break;
    }
    assert(false && "branch state");
}

void drive_on_decide(struct agent *a, const struct agent_decide *decide, bool again) {
    struct ls_gtid id;
    if (!parse_own(a, decide->gtid, &id)) return;
    if (!decide->commit) {
        if (decide->gid != NULL && !gid_fits(a, decide->gid, &id))
            link_drop(a, "a decision whose gid does not fit its gtid");
        else
            on_abort(a, decide->gtid, decide->gid, &id);
        return;
    }
    if (id.participant != 0 || decide->one_phase) {
        link_drop(a, "told to commit a transaction that commits by itself");
    } else if (!gid_fits(a, decide->gid, &id) || decide->identity.xid == 0 || decide->identity.system_id == 0 ||
               decide->identity.timeline == 0 || (decide->owner != NULL && strlen(decide->owner) > LS_ROLE_MAX)) {
        link_drop(a, "a commit that is not bound to a transaction");
    } else {
        on_commit(a, decide, &id, again);
    }
}

/* Committed, and remembered: the row is read all the same, for it also says whose it is, and who asks has forgotten
 * that. */
static bool settle_remembered(struct agent *a, const struct ls_gtid *id) {
    const struct ended *ended = table_find(a, id) == NULL ? table_ended(a, id) : NULL;
    if (ended == NULL || ended->kind != ENDED_COMMITTED) return false;
    struct agent_branch *b = recover(a, id, AGENT_GOAL_ABORT);
    if (b == NULL) return false;
    b->tell = b->was_committed = true;
    settle(a, b);
    return true;
}

void drive_on_settle(struct agent *a, const char *gtid) {
    struct ls_gtid id;
    if (!parse_own(a, gtid, &id)) return;
    if (id.participant == 0 || id.participant != a->number)
        link_drop(a, "told to settle a transaction that is not this participant's alone");
    else if (!settle_remembered(a, &id))
        on_abort(a, gtid, NULL, &id);
}

/* ------------------------------------------------------------------------ verdicts */

static void verdict_on_ours(struct agent *a, struct agent_branch *b, const struct sweep_item *item,
                            enum agent_verdict verdict) {
    if (b->state != AGB_PREPARED || b->bound.xid != item->xid || strcmp(b->gid, item->gid) != 0)
        return; /* something is being done about it already */
    b->goal = verdict == AGENT_VERDICT_COMMIT ? AGENT_GOAL_COMMIT : AGENT_GOAL_ABORT;
    b->tell = verdict == AGENT_VERDICT_COMMIT;
    b->from_verdict = true;
    b->verdict_timeline = item->vanished ? 0 : a->scan_server.timeline;
    b->nameless = verdict == AGENT_VERDICT_STRANGER;
    b->forgotten = verdict == AGENT_VERDICT_FORGOTTEN;
    park(a, b); /* its page is about to be read again */
}

void drive_on_verdict(struct agent *a, const struct sweep_item *item, enum agent_verdict verdict) {
    enum ls_gid_form form;
    struct ls_gtid id;
    char participant[LS_PARTICIPANT_MAX + 1];
    enum ls_status status = ls_gid_parse(item->gid, &form, &id, participant);
    assert(status == LS_OK); /* only such are asked about */

    struct agent_branch *b = table_find(a, &id);
    if (b == NULL && item->vanished) return; /* it has ended meanwhile, and there is nothing under its name */
    if (verdict == AGENT_VERDICT_STRANGER) {
        a->stats.strangers++;
        agent_report(a, true, NULL,
                     "no decision lists transaction %" PRIu64 " that bears the gid %s: it is rolled back", item->xid,
                     item->gid);
    }
    if (b != NULL) {
        verdict_on_ours(a, b, item, verdict);
        return;
    }
    b = recover(a, &id, verdict == AGENT_VERDICT_COMMIT ? AGENT_GOAL_COMMIT : AGENT_GOAL_ABORT);
    if (b == NULL) {
        a->sweep_left = true;
        return;
    }
    struct agent_identity identity = {.system_id = a->scan_server.system_id,
                                      .timeline = a->scan_server.timeline,
                                      .xid = item->xid,
                                      .lsn = a->scan_server.flush_lsn};
    bind(b, &identity, item->gid, item->owner);
    b->from_verdict = true;
    b->verdict_timeline = a->scan_server.timeline;
    b->nameless = verdict == AGENT_VERDICT_STRANGER;
    b->tell = verdict == AGENT_VERDICT_COMMIT;
    park(a, b); /* its page is about to be read again */
}

/* ------------------------------------------------------------------ timers and links */

static void deadline_passed(struct agent *a, struct agent_branch *b) {
    if (b->state == AGB_COMMITTING) {
        /* COMMIT waits for a standby, or for nothing at all: nothing bounds that but this timer (hazards 1.20). */
        set_cause(b, "57014", "COMMIT was not answered in time", true);
        stop(a, b);
        return;
    }
    set_cause(b, "57014", "the deadline passed while the branch was running", true);
    if (b->state == AGB_OPEN) {
        vote_no(a, b);
        roll_back_open(a, b);
        return;
    }
    if (!b->one_phase)
        vote_no(a, b); /* PREPARE may still happen: the coordinator aborts on this NO, and the backend is ended */
    stop(a, b);
}

void drive_on_timer(struct agent *a, struct agent_branch *b) {
    switch (b->state) {
    case AGB_RUNNING:
    case AGB_OPEN:
    case AGB_PREPARING:
    case AGB_COMMITTING:
        deadline_passed(a, b);
        return;
    case AGB_STOPPING:
        emit_stop(a, b);
        return;
    case AGB_PROVING:
        emit_prove(a, b);
        return;
    case AGB_READING_KEY:
        emit_read_key(a, b);
        return;
    case AGB_SETTLING:
        emit_settle(a, b);
        return;
    case AGB_NEW:
    case AGB_PREPARED:
    case AGB_ROLLING_BACK:
    case AGB_FINISHING:
    case AGB_ENDED:
    case AGB_STATE_COUNT:
        break;
    }
    assert(false && "no timer in this state");
}

/* Does nothing but wait out the pause before the server is tried again. */
static bool pauses(const struct agent_branch *b) {
    bool tries =
        b->state == AGB_PROVING || b->state == AGB_STOPPING || b->state == AGB_READING_KEY || b->state == AGB_SETTLING;

    return tries && !b->parked && b->timer_us != AGENT_NEVER;
}

/* The server answers again: pauses that grew while it was away would only hold the locks longer. */
void drive_on_server_back(struct agent *a) {
    for (struct agent_branch *b = a->order_first; b != NULL; b = b->order_next) {
        if (!pauses(b)) continue;
        b->attempts = 0;
        table_set_timer(a, b, a->now_us);
    }
}

/* The coordinator aborts what has not voted; what has voted YES stays until it is asked about. */
void drive_on_link_lost(struct agent *a) {
    assert(a->link == 0);
    for (struct agent_branch *b = a->order_first, *next; b != NULL; b = next) {
        next = b->order_next;
        give_credit_back(a, b);
        if (b->state == AGB_RUNNING || b->state == AGB_PREPARING)
            stop(a, b);
        else if (b->state == AGB_OPEN)
            roll_back_open(a, b);
    }
}

/* -------------------------------------------------------------------------- checks */

void drive_check(const struct agent *a, const struct agent_branch *b) {
    bool waits = b->timer_us != AGENT_NEVER;
    bool alive = b->state == AGB_RUNNING || b->state == AGB_OPEN || b->state == AGB_PREPARING;

    assert(!b->holds_credit || (b->link != 0 && b->link == a->link));
    assert(!alive || (on_its_link(a, b) && b->goal == AGENT_GOAL_NONE && !b->voted && waits));
    switch (b->state) {
    case AGB_RUNNING:
    case AGB_PREPARING:
        assert(b->op != 0 && b->stop_op == 0 && b->work != NULL && b->bound_session);
        assert(b->one_phase ? b->state == AGB_RUNNING : (b->state == AGB_PREPARING) == b->last_sent);
        break;
    case AGB_OPEN:
        assert(b->op == 0 && !b->last_sent && b->bound_session);
        break;
    case AGB_PREPARED:
        assert(b->op == 0 && !waits && b->voted && !b->one_phase && b->goal == AGENT_GOAL_NONE);
        assert(b->bound.xid != 0 && b->bound.lsn != 0 && b->bound.system_id != 0 && b->gid[0] != '\0');
        break;
    case AGB_ROLLING_BACK:
        assert(b->op != 0 && !waits && b->goal == AGENT_GOAL_ABORT);
        break;
    case AGB_STOPPING:
        assert(b->goal == AGENT_GOAL_ABORT);
        assert((b->stop_op != 0 ? 1 : 0) + (waits ? 1 : 0) + (b->stopped ? 1 : 0) == 1);
        assert(!b->stopped || b->op != 0);
        break;
    case AGB_PROVING:
        assert(!b->parked || waits);
        assert((b->op != 0) != waits && b->goal != AGENT_GOAL_NONE && !b->one_phase && b->gid[0] != '\0');
        break;
    case AGB_FINISHING:
        assert(b->op != 0 && !waits && b->goal != AGENT_GOAL_NONE && !b->one_phase);
        break;
    case AGB_COMMITTING:
        assert(b->op != 0 && waits && b->one_phase && b->commit_sent && !b->voted);
        break;
    case AGB_READING_KEY:
    case AGB_SETTLING:
        assert((b->op != 0) != waits && b->one_phase);
        break;
    case AGB_NEW:
    case AGB_ENDED:
    case AGB_STATE_COUNT:
        assert(false && "a branch in the table is in no such state");
    }
    assert(b->state == AGB_STOPPING || b->stop_op == 0);
    assert(b->state == AGB_PROVING || !b->parked);
}
