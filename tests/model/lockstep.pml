/*
 * lockstep.pml: the commit protocol as a model, checked exhaustively with spin.
 *
 * One transaction on N branches. Every process may die at any instant (a bounded number of times), links break and lose what is on
 * them, a dead agent's backend goes on by itself (zombie), a written but unsynced record may or may not be found by the next start, a
 * stale copy of the coordinator's log may be started beside or instead of the newest.
 *
 * What stands for what:
 *   disk       the decision record: NONE, WRITTEN (a page cache may show it, a power cut may take it), DURABLE
 *   srv[i]     what the server holds for branch i; `xid[i]` counts PREPAREs, so that a decision can be bound to one of them
 *   zombie     srv[i] == RUN && !attached[i]: nobody waits for the backend, it prepares all the same
 *   hazard     reported; nothing below may happen silently
 *
 * Each guard of the shipped code has a name here; defining NO_<guard> removes it, and the check must then fail (tests/model/run).
 *   DURABLE   no COMMIT before the record is durable            coordinator/core/decide.c, decide_on_durable
 *   RELOG     a start writes and syncs what it found, then acts coordinator/dlog, dlog_open
 *   PENDING   an inquiry about a live transaction is "pending"  coordinator/core/inquire.c, verdict_from_memory
 *   PROOF     "does not exist" is not "done"                    participant/core/proof.c
 *   BOUND     a decision commits one xid, not a name            coordinator/core/inquire.c, is_listed_branch
 *   SWEEP     the slow scan never stops                         participant/core/agent.c
 *   FORGET    a decision is open until every branch is proved   coordinator/core/decide.c, check_commit_finished
 *   FENCE     an agent serves only a log that contains what it has seen   participant/core/agent.c
 *   WAIT      a new start presumes nothing about earlier epochs before every participant it knows has accepted its log
 *                                                               coordinator/core/inquire.c, may_presume
 *   NOFLIP    after the record is handed to the log nothing aborts        coordinator/core/decide.c, check_votes
 */
#ifndef N
#define N 2
#endif
#ifndef CRASHES
#define CRASHES 2 /* of the coordinator */
#endif
#ifndef FAULTS
#define FAULTS 2  /* of links and agents, together */
#endif

#if N > 2
#define any_seen (seen[0] || seen[1] || seen[2])
#else
#define any_seen (seen[0] || seen[1])
#endif

mtype = { NONE, WRITTEN, DURABLE };                       /* disk */
mtype = { IDLE, RUN, PREPARED, COMMITTED, ABORTED };      /* srv */
mtype = { ACTIVE, LOGGING, COMMITTING, ABORTING, ENDED, UNKNOWN }; /* coordinator; UNKNOWN: no such transaction */
mtype = { WORK, COMMIT, ABORT, PENDING_, YES, NO, DONE, INQUIRY };

mtype disk = NONE;
mtype srv[N] = IDLE;
byte xid[N];      /* PREPAREs so far: the newest */
bool attached[N]; /* an agent waits for the backend */
bool voted[N];    /* attached agent has voted for it */
bool a_up[N] = true;
bool link[N] = true;
bool seen[N];     /* the agent has seen a log position behind the decision */
byte listed[N];   /* xid that the decision lists */

mtype coord = UNKNOWN;
bool c_up = true;
bool begun;
bool yes[N], finished[N];
bool joined[N];   /* the agent has accepted the log of this start */
byte voted_xid[N];
bool stopped;     /* a coordinator stopped by a fence (78) until an operator acts */

bool told_commit, told_abort, hazard;
bool outside;            /* an outside hand has rolled back a branch: to be reported, not to be prevented */
bool stranger[N];        /* somebody else prepared the finished gid again */
bool stranger_committed;
byte crashes, faults;

chan c2a[N] = [1] of { mtype, byte };
chan a2c[N] = [1] of { mtype, byte };

inline flush(i) {
    do
    :: c2a[i]?_,_
    :: a2c[i]?_,_
    :: empty(c2a[i]) && empty(a2c[i]) -> break
    od
}

inline say(ch, what, x) {
    if
    :: nfull(ch) -> ch!what,x
    :: full(ch) -> skip /* as good as lost: it is asked or sent again */
    fi
}

/* The agent's side of a lost link: what has not voted is rolled back, what has voted stays prepared. */
inline agent_lost_link(i) {
    if
    :: a_up[i] && attached[i] && srv[i] == RUN -> srv[i] = ABORTED; attached[i] = false /* it ends the session and waits until it is gone */
    :: a_up[i] && attached[i] && srv[i] != RUN -> attached[i] = false
    :: else -> skip
    fi
}

/* ------------------------------------------------------------- coordinator */

inline all_yes(r) {
    byte k1 = 0; r = true;
    do
    :: k1 < N -> r = r && yes[k1]; k1++
    :: else -> break
    od
}

inline all_finished(r) {
    byte k2 = 0; r = true;
    do
    :: k2 < N -> r = r && finished[k2]; k2++
    :: else -> break
    od
}

inline send_all(what) {
    byte k3 = 0;
    do
    :: k3 < N ->
        if
        :: link[k3] && !finished[k3] -> say(c2a[k3], what, listed[k3])
        :: else -> skip
        fi;
        k3++
    :: else -> break
    od
}

inline become_aborting() {
    coord = ABORTING;
    told_abort = true;
    send_all(ABORT)
}

inline commit_everywhere() {
    coord = COMMITTING;
    told_commit = true;
    send_all(COMMIT)
}

inline on_vote_yes(i, x) {
    if
    :: coord == ACTIVE && !yes[i] ->
        yes[i] = true;
        voted_xid[i] = x;
        all_yes(flag);
        if
        :: flag ->
            coord = LOGGING;
            byte k4 = 0;
            do
            :: k4 < N -> listed[k4] = voted_xid[k4]; k4++
            :: else -> break
            od;
#ifdef NO_DURABLE
            disk = WRITTEN;
            commit_everywhere();
#else
            disk = WRITTEN;
#endif
        :: else -> skip
        fi
    :: else -> skip
    fi
}

inline all_joined(r) {
    byte k5 = 0; r = true;
    do
    :: k5 < N -> r = r && joined[k5]; k5++
    :: else -> break
    od
}

/* x is the xid that is listed under the gid; 9 stands for a stranger's. */
inline on_inquiry(i, x) {
    if
    :: coord == ACTIVE || coord == LOGGING ->
#ifdef NO_PENDING
        say(c2a[i], ABORT, x)
#else
        say(c2a[i], PENDING_, x)
#endif
    :: coord == COMMITTING || ((coord == ENDED || coord == UNKNOWN) && disk == DURABLE) ->
#ifdef NO_BOUND
        say(c2a[i], COMMIT, x)
#else
        if
        :: listed[i] == x -> say(c2a[i], COMMIT, x)
        :: listed[i] != x -> say(c2a[i], ABORT, x) /* stranger: rolled back and reported */
        fi
#endif
    :: coord == ABORTING || coord == ENDED && disk != DURABLE -> say(c2a[i], ABORT, x)
    :: coord == UNKNOWN && disk != DURABLE ->
#ifdef NO_WAIT
        flag = true;
#else
        all_joined(flag);
#endif
        if
        :: flag -> say(c2a[i], ABORT, x) /* no record: presumed abort */
        :: !flag -> say(c2a[i], PENDING_, x)
        fi
    fi
}

active proctype coordinator() {
    bool flag; byte i;
    do
    :: atomic { c_up && !begun ->
        begun = true; coord = ACTIVE;
        i = 0;
        do
        :: i < N -> say(c2a[i], WORK, 0); i++
        :: else -> break
        od }
    :: atomic { c_up && coord == ACTIVE -> become_aborting() } /* deadline, client, operator */
    :: atomic { c_up && coord == LOGGING && disk == WRITTEN -> disk = DURABLE; commit_everywhere() }
#ifdef NO_NOFLIP
    :: atomic { c_up && coord == LOGGING -> become_aborting() }
#endif
#ifdef NO_DURABLE
    :: atomic { c_up && coord == COMMITTING && disk == WRITTEN -> disk = DURABLE }
#endif
    :: atomic { c_up && coord == COMMITTING ->
        all_finished(flag);
        if
#ifdef NO_FORGET
        :: true -> coord = ENDED; disk = NONE /* dropped from the log as soon as it was sent */
#endif
        :: flag -> coord = ENDED
        :: !flag -> send_all(COMMIT) /* again */
        fi }
    :: atomic { c_up && coord == ABORTING -> send_all(ABORT) }
    /* kill -9, power cut: what is not durable may be gone */
    :: atomic { c_up && crashes < CRASHES ->
        crashes++; c_up = false; coord = UNKNOWN;
        i = 0;
        do
        :: i < N -> flush(i); link[i] = false; yes[i] = false; finished[i] = false; joined[i] = false; agent_lost_link(i); i++
        :: else -> break
        od;
        if
        :: disk == WRITTEN -> disk = NONE
        :: true -> skip
        fi }
    :: atomic { !c_up && !stopped ->
        c_up = true;
        if
        :: disk == NONE -> skip /* no record: presumed abort */
        :: disk != NONE ->
#ifndef NO_RELOG
            disk = DURABLE;
#endif
            commit_everywhere()
        fi }
#ifdef STALE
    /* somebody starts a copy of the log from before the decision, which some agent has heard of */
    :: atomic { !c_up && !stopped && disk == DURABLE && any_seen -> c_up = true; coord = UNKNOWN; disk = NONE }
#endif
    od
}

/* The coordinator's ear for one link. */
active [N] proctype inbox() {
    byte i = _pid - 1; byte x; bool flag;
    do
    :: atomic { c_up && link[i] && a2c[i]?[YES,x] -> a2c[i]?YES,x; on_vote_yes(i, x) }
    :: atomic { c_up && link[i] && a2c[i]?[NO,x] -> a2c[i]?NO,x;
        if
        :: coord == ACTIVE -> become_aborting()
        :: else -> skip
        fi }
    :: atomic { c_up && link[i] && a2c[i]?[DONE,x] -> a2c[i]?DONE,x; finished[i] = true }
    :: atomic { c_up && link[i] && a2c[i]?[INQUIRY,x] -> a2c[i]?INQUIRY,x; on_inquiry(i, x) }
    od
}

/* ------------------------------------------------------------------ links */

inline link_lost(i) {
    flush(i); link[i] = false;
    if
    :: c_up && coord == ACTIVE && !yes[i] && begun ->
        become_aborting()
    :: else -> skip
    fi;
    agent_lost_link(i)
}

active [N] proctype network() {
    byte i = _pid - 1 - N;
    do
    :: atomic { link[i] && faults < FAULTS -> faults++; link_lost(i) }
    :: atomic { !link[i] && c_up && !stopped && a_up[i] ->
        /* Hello, Welcome: the agent compares what it has seen with the log */
        if
#ifndef NO_FENCE
        :: seen[i] && disk != DURABLE -> stopped = true; c_up = false; coord = UNKNOWN /* 78 */
        :: !(seen[i] && disk != DURABLE) ->
#else
        :: true ->
#endif
            link[i] = true; joined[i] = true;
            if
            :: coord == COMMITTING && !finished[i] -> say(c2a[i], COMMIT, listed[i])
            :: else -> skip
            fi
        fi }
    od
}

/* -------------------------------------------------------- agent and server */

inline on_commit(i, x) {
    seen[i] = true;
    if
    :: srv[i] == PREPARED && xid[i] == x -> srv[i] = COMMITTED; say(a2c[i], DONE, x)
#ifdef NO_BOUND
    :: srv[i] == PREPARED && xid[i] != x -> srv[i] = COMMITTED; say(a2c[i], DONE, x)
#else
    :: srv[i] == PREPARED && xid[i] != x -> srv[i] = ABORTED /* stranger */
#endif
    :: srv[i] == COMMITTED ->
        if
        :: stranger[i] ->
#ifdef NO_BOUND
            stranger_committed = true;
#endif
            stranger[i] = false
        :: else -> skip
        fi;
        say(a2c[i], DONE, x) /* proved by its xid */
    :: srv[i] == RUN -> skip
    :: srv[i] == ABORTED || srv[i] == IDLE ->
#ifdef NO_PROOF
        say(a2c[i], DONE, x) /* "does not exist": surely done */
#else
        hazard = true; say(a2c[i], DONE, x) /* proved not committed: said loudly */
#endif
    fi
}

inline on_abort(i, x) {
    if
    :: x == 9 -> stranger[i] = false
    :: x != 9 && srv[i] == PREPARED && (x == 0 || x == xid[i]) -> srv[i] = ABORTED; attached[i] = false; say(a2c[i], DONE, x)
    :: x != 9 && srv[i] == RUN && attached[i] -> srv[i] = ABORTED; attached[i] = false; say(a2c[i], DONE, x)
    :: else -> say(a2c[i], DONE, x)
    fi
}

active [N] proctype agent() {
    byte i = _pid - 1 - 2 * N; byte x;
    do
    :: atomic { a_up[i] && link[i] && c2a[i]?[WORK,x] -> c2a[i]?WORK,x;
        if
        :: srv[i] == IDLE -> srv[i] = RUN; attached[i] = true; voted[i] = false
        :: else -> skip
        fi }
    :: atomic { a_up[i] && link[i] && c2a[i]?[COMMIT,x] -> c2a[i]?COMMIT,x; on_commit(i, x) }
    :: atomic { a_up[i] && link[i] && c2a[i]?[ABORT,x] -> c2a[i]?ABORT,x; on_abort(i, x) }
    :: atomic { a_up[i] && link[i] && c2a[i]?[PENDING_,x] -> c2a[i]?PENDING_,x }
    :: atomic { a_up[i] && link[i] && attached[i] && !voted[i] && srv[i] == PREPARED && nfull(a2c[i]) ->
        voted[i] = true; a2c[i]!YES,xid[i] }
    :: atomic { a_up[i] && link[i] && attached[i] && !voted[i] && srv[i] == ABORTED && nfull(a2c[i]) ->
        voted[i] = true; attached[i] = false; a2c[i]!NO,0 }
#ifndef NO_SWEEP
    /* the sweep, and a starting agent: prepared, and nobody here waits for a decision on this link */
    :: atomic { a_up[i] && link[i] && srv[i] == PREPARED && !(attached[i] && !voted[i]) && empty(a2c[i]) && empty(c2a[i]) ->
        a2c[i]!INQUIRY,xid[i] }
    :: atomic { a_up[i] && link[i] && stranger[i] && empty(a2c[i]) && empty(c2a[i]) -> a2c[i]!INQUIRY,9 }
#endif
    /* kill -9 of the agent: the backend does not notice */
    :: atomic { a_up[i] && faults < FAULTS -> faults++; a_up[i] = false; attached[i] = false; link_lost(i) }
    :: atomic { !a_up[i] -> a_up[i] = true;
        if
        :: srv[i] == RUN -> srv[i] = ABORTED /* backends of the earlier life are ended, and waited for */
        :: srv[i] == RUN -> skip             /* ... it had escaped: prepared just before, or not seen */
        :: else -> skip
        fi }
#ifdef OUTSIDE
    /* an outside hand rolls back a prepared branch */
    :: atomic { srv[i] == PREPARED && faults < FAULTS -> faults++; srv[i] = ABORTED; outside = true }
#endif
#ifdef STRANGER
    /* somebody prepares the finished gid again: PostgreSQL accepts it */
    :: atomic { srv[i] == COMMITTED && !stranger[i] && faults < FAULTS -> faults++; stranger[i] = true }
#endif
    od
}

active [N] proctype server() {
    byte i = _pid - 1 - 3 * N;
    do
    :: atomic { srv[i] == RUN && xid[i] < 3 -> srv[i] = PREPARED; xid[i]++ }
    :: atomic { srv[i] == RUN -> srv[i] = ABORTED } /* constraint, deadlock, lock timeout: always possible */
    od
}

/* ------------------------------------------------------------- properties */

#define c0 (srv[0] == COMMITTED)
#define a0 (srv[0] == ABORTED)
#define c1 (srv[1] == COMMITTED)
#define a1 (srv[1] == ABORTED)
#if N > 2
#define c2 (srv[2] == COMMITTED)
#define a2 (srv[2] == ABORTED)
#define any_committed (c0 || c1 || c2)
#define any_aborted (a0 || a1 || a2)
#define any_in_doubt (srv[0] == PREPARED || srv[1] == PREPARED || srv[2] == PREPARED || srv[0] == RUN || srv[1] == RUN || srv[2] == RUN)
#else
#define any_committed (c0 || c1)
#define any_aborted (a0 || a1)
#define any_in_doubt (srv[0] == PREPARED || srv[1] == PREPARED || srv[0] == RUN || srv[1] == RUN)
#endif

/* Never one committed and another rolled back, what was acknowledged stays so, and no stranger is committed. What an outside hand breaks
 * cannot be prevented, but when the coordinator calls the transaction ended it has been reported. */
ltl safe { [] (!(any_committed && any_aborted && !hazard && !outside) && !(told_commit && any_aborted && !hazard && !outside) &&
               !(told_abort && any_committed && !hazard) && !(told_commit && told_abort) && !stranger_committed &&
               !(coord == ENDED && any_committed && any_aborted && !hazard)) }
/* Crashes end at last; then nothing stays in doubt, unless an operator was asked for. */
ltl live { <> [] (!any_in_doubt || stopped) }
