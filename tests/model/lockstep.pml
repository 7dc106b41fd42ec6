/*
 * lockstep.pml: the commit protocol as a model, checked with spin. One transaction on N branches; one.pml has the transaction on one
 * participant. docs/protocol.md lists worlds, rules and guards.
 *
 * Every process may die at any instant (a bounded number of times), either end of a link may notice its loss before the other, what is
 * on it may be lost or arrive twice, a dead agent's backend and its finisher go on by themselves (zombies), a written but unsynced
 * record may or may not be found by the next start, a copy of the coordinator may be started beside the original and serve whoever
 * reaches it (SECOND).
 *
 * What stands for what:
 *   co[k]      coordinator k: 0 is the original, 1 the copy; disk[k]: the decision record in its log. WRITTEN: a page cache may show
 *              it, a power cut may take it
 *   cb[i]      what coordinator 0 knows of branch i;  listed[i]: the decision record names it
 *   cl[i] al[i]  the link of branch i as its coordinator and as its agent see it: 0 none, else number of the coordinator plus 1
 *   ag[i]      what the agent knows of branch i;  srv[i]: what the server holds
 *   zombie     srv[i] == RUN && ag[i] == NOTHING: nobody waits for the backend, it prepares all the same; late[i]: a finisher
 *   hazard     reported; nothing below may happen silently
 *
 * Each atomic step is a rule. With -DTRACE the rules that carry a SEE() fire only where the next event of a recorded trace says so, the
 * others are free, faults are not counted, and spin must find a way through the whole trace (tests/model/conform).
 *
 * Each guard of the shipped code has a name here; defining NO_<guard> removes it, and the check must then fail (tests/model/run).
 *   DURABLE   no COMMIT before the record is durable            coordinator/core/decide.c, decide_on_durable
 *   RELOG     a start writes and syncs what it found, then acts coordinator/dlog, dlog_open
 *   PENDING   an inquiry about a live transaction is "pending"  coordinator/core/inquire.c, verdict_from_memory
 *   PROOF     "does not exist" is not "done"                    participant/core/proof.c
 *   BOUND     a decision commits one xid, not a name            coordinator/core/inquire.c, is_listed_branch
 *   SWEEP     the slow scan never stops                         participant/core/sweep.c
 *   FORGET    a decision is open until every branch is proved   coordinator/core/decide.c, check_commit_finished
 *   FENCE     an agent serves only a log that contains what it has seen   participant/core/link.c
 *   STORE     ... and remembers it durably before it counts as having joined   participant/core/link.c, link_on_welcome
 *   RIDE      ... and no later than the COMMIT PREPARED that it orders         participant/core/drive.c, finish
 *   WAIT      a new start presumes nothing about earlier epochs before every participant it knows has accepted its log
 *                                                               coordinator/core/inquire.c, may_presume
 *   NOFLIP    after the record is handed to the log nothing aborts        coordinator/core/decide.c, check_votes
 *   VOTES     the record is written when all have voted, and no earlier   coordinator/core/decide.c, check_votes
 *   OWN       an agent rolls back by itself only what has not voted yes   participant/core/drive.c, drive_on_link_lost
 *   ENDS      an agent's start ends the backends of its earlier life, and waits until they are gone   participant/pg/control.c
 *   LISTED    a branch released as read-only is not in the record         coordinator/core/decide.c, vote_read_only
 */
#ifndef N
#define N 2
#endif
#ifndef CRASHES
#define CRASHES 2 /* of coordinators, together */
#endif
#ifndef FAULTS
#define FAULTS 2  /* of links and agents, and messages that arrive twice, together */
#endif
#ifdef SECOND
#define K 2
#else
#define K 1
#endif
#ifndef CAP
#define CAP 1     /* messages on one direction of a link */
#endif
#define B(k, i) ((k) * N + (i))

/* The rules that are seen in traces: tests/model/conform reads the names and numbers here. */
#define Begin 1
#define Work 2
#define Prepared 3
#define VoteYes 4
#define VoteNo 5
#define VoteReadOnly 6
#define SendCommit 7
#define SendAbort 8
#define ToldCommit 9
#define ToldAbort 10
#define Committed 11
#define Aborted 12
#define DoneCommitted 13
#define DoneAborted 14
#define VerdictPending 15
#define VerdictCommit 16
#define VerdictAbort 17
#define CoordCrash 18
#define CoordStart 19
#define AgentCrash 20
#define AgentStart 21
#define Released 22
#define Net 23
#define Presume 24
#define Again 25

#ifdef TRACE
/* The trace is read from standard input when the checker starts; it is no part of the state, how far the search has come in it is. With
 * LISTS each process has a list of its own, 0 the coordinator's and i + 1 the agent's, and no clock orders them; servers have none, and the
 * coordinator's has outcomes only. */
c_decl {
\#include <stdio.h>
\#include <stdlib.h>
static void note_how_far(void), say_how_far(void);
}
#define EVENTS_MAX 1000
hidden byte ev[EVENTS_MAX];
hidden byte who[EVENTS_MAX];
hidden short last[8];
short pos[8];
bool presumed;        /* the coordinator has waited long enough for those who have not joined */
c_code {
static short furthest[8];
static void note_how_far(void) {
    for (int list = 0; list < 8; list++)
        if (now.pos[list] > furthest[list]) furthest[list] = now.pos[list];
}
static void say_how_far(void) {
    for (int list = 0; list < 8; list++)
        if (last[list] > 0) printf("list %d: came to line %d of %d\n", list, furthest[list], last[list]);
}
}
inline read_trace() {
    c_code {
        static int count, list, rule, index, current = -1;
        static short starts[8];
        while (count < EVENTS_MAX && scanf("%d %d %d", &list, &rule, &index) == 3) {
            if (list != current) starts[list] = last[list] = count;
            current = list;
            ev[count] = rule;
            who[count++] = index;
            last[list] = count;
        }
        for (index = 0; index < 8; index++) now.pos[index] = starts[index];
        if (current >= 0) atexit(say_how_far);
        current = -1;
    }
}
#ifdef LISTS
#define LIST_OF(i) ((i) + 1)
#else
#define LIST_OF(i) 0
#endif
#define SEE(rule, i, list) (pos[list] < last[list] && ev[pos[list]] == rule && who[pos[list]] == (i))
#define STEP(list) pos[list]++; c_code { note_how_far(); }
#ifdef LISTS
#define SERVER_SEE(rule, i) true
#define SERVER_STEP(i) skip
#define COORD_SEE(rule, i) true
#define COORD_STEP skip
#else
#define COORD_SEE(rule, i) SEE(rule, i, 0)
#define COORD_STEP STEP(0)
#define SERVER_SEE(rule, i) SEE(rule, i, 0)
#define SERVER_STEP(i) STEP(0)
#endif
#define fault skip
#define can_crash true
#define may_crash true
#define crash skip
#define arrives_twice false
#ifdef LISTS
#define idle(ch) empty(ch)
#define may_ask(i) (srv[i] != IDLE && srv[i] != RUN && empty(a2c[i]) && empty(c2a[i]))
#else
#define idle(ch) nfull(ch)
/* An inquiry was sent if its answer follows, about what was listed when the agent looked; it may have died meanwhile. */
#define answer_follows (ev[pos[0]] >= VerdictPending && ev[pos[0]] <= VerdictAbort)
#define may_ask(i) (srv[i] != IDLE && srv[i] != RUN && pos[0] < last[0] && (answer_follows || ev[pos[0]] == AgentCrash) && who[pos[0]] == i && empty(a2c[i]))
#endif
/* Net: something has happened to a link. Which end has noticed what is free, but only there. */
#define net_of(i) (SEE(Net, i, 0) || SEE(Net, i, LIST_OF(i)))
#define can_fault net_of(i)
#else
#define LIST_OF(i) 0
#define SEE(rule, i, list) true
#define STEP(list) skip
#define SERVER_SEE(rule, i) true
#define SERVER_STEP(i) skip
#define COORD_SEE(rule, i) true
#define COORD_STEP skip
#define can_fault (faults < FAULTS)
#define fault faults++
#define can_crash (crashes < CRASHES)
#define may_crash (faults < FAULTS)
#define crash crashes++
#define arrives_twice (faults < FAULTS)
#define net_of(i) true
#define idle(ch) empty(ch)
#define may_ask(i) (srv[i] == PREPARED && (ag[i] == NOTHING || ag[i] == VOTED) && empty(a2c[i]) && empty(c2a[i]))
#endif

mtype = { NONE, WRITTEN, DURABLE };                                      /* disk */
mtype = { DOWN, UNKNOWN, ACTIVE, LOGGING, COMMITTING, ABORTING, ENDED, STOPPED }; /* co. UNKNOWN: up, and no such transaction */
mtype = { IDLE, WORKING, YES, READ_ONLY, GONE };                         /* cb, also messages */
mtype = { RUN, PREPARED, COMMITTED, ABORTED, RELEASED };                 /* srv, with IDLE */
mtype = { NOTHING, VOTED, UNDOING, COMMITS, ABORTS };                    /* ag, with WORKING. UNDOING: not voted yes, rolls back by itself */
mtype = { WORK, COMMIT, ABORT, PENDING, STRANGER_, NO, DONE_C, DONE_A, INQUIRY, INQUIRY_S }; /* messages */

mtype co[K] = DOWN;
mtype disk[K] = NONE;
mtype cb[N] = IDLE;
bool listed[N];
bool fin[K * N], joined[K * N];
bool begun;

byte cl[N], al[N];
bool up[N] = true;
mtype ag[N] = NOTHING;
mtype srv[N] = IDLE;
#ifdef TRACE
mtype word[N] = NONE;    /* COMMIT or ABORT, once said on this link: a copy of it may come behind other messages */
#endif
mtype late[N] = NONE;    /* a finisher of the agent's earlier life: COMMIT or ABORT */

#ifdef SECOND
bool copied;             /* a copy of coordinator 0's log was made */
bool ahead;              /* coordinator 0's log has grown since */
byte fence[N], stored[N]; /* whose log the agent has seen beyond the copy: 0 nobody's; in memory, in its database */
byte late_fence[N];      /* what the late finisher stores */
#else
#define copied false
#endif
#if defined(SECOND) && !defined(NO_STORE)
#define remembered(i) (stored[i] == fence[i])
#else
#define remembered(i) true
#endif

bool told_commit, told_abort, told_applied, hazard;
#ifdef OUTSIDE
bool outside;            /* an outside hand has rolled back a branch: to be reported, not to be prevented */
#else
#define outside false
#endif
#ifdef STRANGER
bool stranger[N];        /* somebody else prepared the finished gid again */
bool stranger_committed;
#else
#define stranger_committed false
#endif
byte crashes, faults;

chan c2a[N] = [CAP] of { mtype };
chan a2c[N] = [CAP] of { mtype };
hidden byte j, m;
hidden byte all, some;

inline flush(ch) {
    do
    :: ch?_
    :: empty(ch) -> break
    od
}

/* What does not fit, or has no other end any more, is lost: it is asked or sent again. */
inline say(ch, what, i) {
#ifdef TRACE
    if
    :: what == COMMIT || what == ABORT -> word[i] = what
    :: else -> skip
    fi;
#endif
    if
    :: cl[i] != 0 && cl[i] == al[i] && nfull(ch) -> ch!what
    :: cl[i] == 0 || cl[i] != al[i] -> skip
    :: full(ch) -> skip
    fi
}

/* Takes the message off the link, or leaves it there to arrive once more. */
inline take(ch) {
    if
    :: ch?_
    :: arrives_twice -> fault
    fi
}

/* ------------------------------------------------------------- coordinator */

inline become_aborting() {
    co[0] = ABORTING;
#ifndef TRACE
    told_abort = true
#endif
}

inline become_committing(k) {
    co[k] = COMMITTING;
#ifndef TRACE
    if
    :: k == 0 -> told_commit = true
    :: else -> skip
    fi
#endif
}

inline see_votes() {
    all = true; some = false; j = 0;
    do
    :: j < N -> all = all && (cb[j] == YES || cb[j] == READ_ONLY); some = some || cb[j] == YES; j++
    :: else -> break
    od;
    j = 0
}

inline see_finished(k) {
    all = true; j = 0;
    do
    :: j < N -> all = all && (fin[B(k, j)] || !listed[j]); j++
    :: else -> break
    od;
    j = 0
}

inline see_joined(k) {
    all = true; j = 0;
    do
    :: j < N -> all = all && joined[B(k, j)]; j++
    :: else -> break
    od;
    j = 0
}

inline write_record() {
    j = 0;
    do
#ifdef NO_LISTED
    :: j < N -> listed[j] = true; j++
#else
    :: j < N -> listed[j] = (cb[j] == YES); j++
#endif
    :: else -> break
    od;
    j = 0;
    disk[0] = WRITTEN;
    co[0] = LOGGING
}

inline forget_links(k) {
    j = 0;
    do
    :: j < N ->
        if
        :: cl[j] == k + 1 -> cl[j] = 0; flush(a2c[j])
        :: else -> skip
        fi;
        fin[B(k, j)] = false; joined[B(k, j)] = false;
        if
        :: k == 0 -> cb[j] = IDLE
        :: else -> skip
        fi;
        j++
    :: else -> break
    od;
    j = 0
}

active [K] proctype coordinator() {
    byte k = _pid;
#ifdef TRACE
    atomic { read_trace(); co[0] = UNKNOWN }
#endif
    do
#ifdef TRACE
    :: atomic { pos[0] == last[0] && pos[1] == last[1] && pos[2] == last[2] && pos[3] == last[3] && pos[4] == last[4] && pos[5] == last[5] &&
        pos[6] == last[6] && pos[7] == last[7] && last[0] > 0 -> c_code { printf("accepted\n"); exit(0); } }
#endif
    :: atomic { k == 0 && !begun && co[0] == UNKNOWN && COORD_SEE(Begin, 0) -> COORD_STEP; begun = true; co[0] = ACTIVE }
    :: atomic { k == 0 && co[0] == ACTIVE -> become_aborting() } /* deadline, client, operator */
    :: atomic { k == 0 && co[0] == ACTIVE ->                     /* the last vote */
        see_votes();
        if
        :: all && some -> write_record()
        :: all && !some -> co[0] = ENDED                         /* only reads: nothing is logged */
#ifdef NO_VOTES
        :: !all && some -> write_record()
#endif
        :: else -> skip
        fi;
        all = false; some = false }
    :: atomic { k == 0 && co[0] == LOGGING && disk[0] == WRITTEN ->
        disk[0] = DURABLE;
#ifdef SECOND
        if
        :: copied -> ahead = true
        :: else -> skip
        fi;
#endif
        become_committing(0) }
#ifdef NO_DURABLE
    :: atomic { k == 0 && co[0] == LOGGING -> become_committing(0) }
#endif
#ifdef NO_NOFLIP
    :: atomic { k == 0 && co[0] == LOGGING -> become_aborting() }
#endif
    :: atomic { co[k] == COMMITTING ->
        see_finished(k);
        if
        :: all -> co[k] = ENDED;
            if
            :: k == 0 -> told_applied = true
            :: else -> skip
            fi
#ifdef NO_FORGET
        :: true -> co[k] = ENDED; disk[k] = NONE /* dropped from the log as soon as it was sent */
#endif
        :: !all -> skip
        fi;
        all = false }
#ifdef TRACE
    :: atomic { k == 0 && (co[0] == COMMITTING || co[0] == ENDED) && SEE(ToldCommit, 0, 0) -> STEP(0) }
    :: atomic { k == 0 && co[0] == ABORTING && SEE(ToldAbort, 0, 0) -> STEP(0) }
    :: atomic { co[0] != DOWN && SEE(Presume, 0, 0) -> STEP(0); presumed = true }
#endif
    /* kill -9, power cut: what is not durable may be gone */
    :: atomic { co[k] != DOWN && co[k] != STOPPED && can_crash && SEE(CoordCrash, 0, 0) -> STEP(0);
        crash; co[k] = DOWN; forget_links(k);
#ifdef TRACE
        presumed = false;
#endif
        if
        :: disk[k] == WRITTEN -> disk[k] = NONE
        :: true -> skip
        fi }
#ifdef SECOND
    :: atomic { k == 1 && !copied -> /* its log, as it is now, also the part that is not synced */
        copied = true;
        if
        :: disk[0] != NONE -> disk[1] = WRITTEN
        :: disk[0] != DURABLE -> skip
        fi }
#endif
    :: atomic { co[k] == DOWN && (k == 0 || copied) && SEE(CoordStart, 0, 0) -> STEP(0);
#ifdef SECOND
        if
        :: k == 0 && copied -> ahead = true /* an epoch of its own */
        :: else -> skip
        fi;
#endif
        if
        :: disk[k] == NONE -> co[k] = UNKNOWN
        :: disk[k] != NONE ->
#ifndef NO_RELOG
            disk[k] = DURABLE;
#endif
            become_committing(k)
        fi }
    od
}

/* -------------------------------------- one link, as the coordinator sees it */

inline answer_inquiry(k, i) {
    if
    :: co[k] == ACTIVE || co[k] == LOGGING ->
#ifdef NO_PENDING
        m = ABORT
#else
        m = PENDING
#endif
    :: co[k] == COMMITTING || ((co[k] == ENDED || co[k] == UNKNOWN) && disk[k] == DURABLE) -> m = (listed[i] -> COMMIT : ABORT)
    :: co[k] == ABORTING || co[k] == ENDED && disk[k] != DURABLE -> m = ABORT
    :: co[k] == UNKNOWN && disk[k] != DURABLE ->
        see_joined(k);
#ifdef NO_WAIT
        all = true;
#endif
#ifdef TRACE
        if
        :: all = all || presumed
        :: all = false /* participants that have no branch here have to join, too */
        fi;
#endif
        m = (all -> ABORT : PENDING); /* no record: presumed abort */
        all = false
    fi
}

inline on_done(k, i, committed) {
    if
    :: co[k] == COMMITTING && !committed -> hazard = true; fin[B(k, i)] = true
    :: co[k] == COMMITTING && committed -> fin[B(k, i)] = true
    :: co[k] == ABORTING && committed -> hazard = true; cb[i] = GONE
    :: co[k] == ABORTING && !committed -> cb[i] = GONE
    :: else -> skip
    fi
}

active [N] proctype courier() {
    byte i = _pid - K;
    do
    :: atomic { cl[i] == 1 && co[0] == ACTIVE && cb[i] == IDLE && COORD_SEE(Work, i) -> COORD_STEP; cb[i] = WORKING; say(c2a[i], WORK, i) }
    :: atomic { cl[i] != 0 && co[cl[i] - 1] == COMMITTING && listed[i] && !fin[B(cl[i] - 1, i)] && idle(c2a[i]) &&
        COORD_SEE(SendCommit, i) -> COORD_STEP; say(c2a[i], COMMIT, i) }
    :: atomic { cl[i] == 1 && co[0] == ABORTING && (cb[i] == WORKING || cb[i] == YES) && idle(c2a[i]) &&
        COORD_SEE(SendAbort, i) -> COORD_STEP; say(c2a[i], ABORT, i) }
    :: atomic { cl[i] != 0 && a2c[i]?[YES] -> take(a2c[i]);
        if
        :: cl[i] == 1 && co[0] == ACTIVE && cb[i] == WORKING -> cb[i] = YES
        :: else -> skip /* aborting: the abort is on its way behind this vote */
        fi }
    :: atomic { cl[i] != 0 && a2c[i]?[READ_ONLY] -> take(a2c[i]);
        if
        :: cl[i] == 1 && co[0] == ACTIVE && cb[i] == WORKING -> cb[i] = READ_ONLY
        :: cl[i] == 1 && co[0] == ABORTING -> cb[i] = GONE
        :: else -> skip
        fi }
    :: atomic { cl[i] != 0 && a2c[i]?[NO] -> take(a2c[i]);
        if
        :: cl[i] == 1 && co[0] == ACTIVE -> become_aborting(); cb[i] = GONE
        :: cl[i] == 1 && co[0] == ABORTING -> cb[i] = GONE
        :: else -> skip
        fi }
    :: atomic { cl[i] != 0 && a2c[i]?[DONE_C] -> take(a2c[i]); on_done(cl[i] - 1, i, true) }
    :: atomic { cl[i] != 0 && a2c[i]?[DONE_A] -> take(a2c[i]); on_done(cl[i] - 1, i, false) }
    :: atomic { cl[i] != 0 && a2c[i]?[INQUIRY] -> answer_inquiry(cl[i] - 1, i);
        if
        :: m == PENDING && COORD_SEE(VerdictPending, i) -> COORD_STEP
        :: m == COMMIT && COORD_SEE(VerdictCommit, i) -> COORD_STEP
        :: m == ABORT && COORD_SEE(VerdictAbort, i) -> COORD_STEP
        fi;
        take(a2c[i]); say(c2a[i], m, i); m = 0 }
#ifdef STRANGER
    /* another xid under our gid */
    :: atomic { cl[i] != 0 && a2c[i]?[INQUIRY_S] -> answer_inquiry(cl[i] - 1, i); take(a2c[i]);
#ifndef NO_BOUND
        if
        :: m == COMMIT -> m = STRANGER_
        :: else -> skip
        fi;
#endif
        if
        :: m == ABORT -> m = STRANGER_
        :: m == COMMIT -> m = 0; stranger_committed = true
        :: else -> skip
        fi;
        if
        :: m != 0 -> say(c2a[i], m, i)
        :: else -> skip
        fi;
        m = 0 }
#endif
    od
}

/* ------------------------------------------------------------------ links */

active [N] proctype network() {
    byte i = _pid - K - N;
    do
#ifdef TRACE
    :: atomic { SEE(Net, i, 0) -> STEP(0) }
    :: atomic { LIST_OF(i) != 0 && SEE(Net, i, LIST_OF(i)) -> STEP(LIST_OF(i)) }
    :: atomic { SEE(Again, i, 0) -> STEP(0);
        if
        :: word[i] != NONE && nfull(c2a[i]) -> c2a[i]!word[i]
        :: true -> skip /* a message that changes nothing, or somebody else's */
        fi }
#endif
    :: atomic { cl[i] != 0 && net_of(i) && (al[i] != cl[i] || can_fault) ->
        if
        :: al[i] == cl[i] -> fault
        :: else -> skip
        fi;
        if
        :: cl[i] == 1 && co[0] == ACTIVE && (cb[i] == IDLE || cb[i] == WORKING) -> become_aborting(); cb[i] = GONE
        :: cl[i] == 1 && co[0] == ABORTING && cb[i] != IDLE -> cb[i] = GONE
        :: else -> skip /* a vote stands */
        fi;
        cl[i] = 0; flush(a2c[i]) }
    :: atomic { al[i] != 0 && net_of(i) && (al[i] != cl[i] || can_fault) ->
        if
        :: al[i] == cl[i] -> fault
        :: else -> skip
        fi;
        al[i] = 0; flush(c2a[i]);
        if
        :: ag[i] == WORKING -> ag[i] = UNDOING
#ifdef NO_OWN
        :: ag[i] == VOTED -> ag[i] = UNDOING
#endif
        :: else -> skip
        fi }
    /* Hello, Welcome: the agent compares what it has seen with the log that it is shown */
    :: atomic { cl[i] == 0 && al[i] == 0 && up[i] && net_of(i) && co[0] != DOWN && co[0] != STOPPED ->
        if
        :: can_fault -> fault; cl[i] = 1 /* the agent has gone meanwhile */
#if defined(SECOND) && !defined(NO_FENCE)
        :: fence[i] == 2 -> co[0] = STOPPED; forget_links(0) /* 78 */
        :: fence[i] != 2 ->
#else
        :: true ->
#endif
            cl[i] = 1; al[i] = 1;
#ifdef TRACE
            word[i] = NONE;
#endif
#ifdef SECOND
            fence[i] = (ahead -> 1 : fence[i]);
#endif
            skip
        fi }
#ifdef SECOND
    :: atomic { cl[i] == 0 && al[i] == 0 && up[i] && co[1] != DOWN && co[1] != STOPPED ->
        if
#ifndef NO_FENCE
        :: fence[i] == 1 -> co[1] = STOPPED; forget_links(1)
        :: fence[i] != 1 ->
#else
        :: true ->
#endif
            cl[i] = 2; al[i] = 2; fence[i] = 2
        fi }
    :: atomic { up[i] && stored[i] != fence[i] -> stored[i] = fence[i] }
#endif
    /* Ready: it has joined this life of the coordinator */
    :: atomic { cl[i] != 0 && cl[i] == al[i] && !joined[B(cl[i] - 1, i)] && remembered(i) -> joined[B(cl[i] - 1, i)] = true }
    od
}

/* -------------------------------------------------------- agent and server */

inline on_commit(i) {
#ifdef SECOND
    fence[i] = (al[i] == 1 && ahead -> 1 : fence[i]);
#endif
    ag[i] = COMMITS
}

inline on_abort(i) {
    if
    :: ag[i] != COMMITS -> ag[i] = ABORTS
    :: else -> skip /* a contradiction: kept as it is */
    fi
}

active [N] proctype agent() {
    byte i = _pid - K - 2 * N;
    do
    :: atomic { up[i] && al[i] != 0 && c2a[i]?[WORK] -> take(c2a[i]);
        if
        :: srv[i] == IDLE && ag[i] == NOTHING -> srv[i] = RUN; ag[i] = WORKING
        :: else -> skip /* PREPARE is sent at most once */
        fi }
    :: atomic { up[i] && al[i] != 0 && c2a[i]?[COMMIT] -> take(c2a[i]); on_commit(i) }
    :: atomic { up[i] && al[i] != 0 && c2a[i]?[ABORT] -> take(c2a[i]); on_abort(i) }
    :: atomic { up[i] && al[i] != 0 && c2a[i]?[PENDING] -> take(c2a[i]) }
#ifdef STRANGER
    :: atomic { up[i] && al[i] != 0 && c2a[i]?[STRANGER_] -> take(c2a[i]); stranger[i] = false }
#endif
    :: atomic { up[i] && al[i] != 0 && ag[i] == WORKING && srv[i] == PREPARED && nfull(a2c[i]) && SEE(VoteYes, i, LIST_OF(i)) ->
        STEP(LIST_OF(i)); ag[i] = VOTED; say(a2c[i], YES, i) }
    /* an error, or something that makes a prepared branch no good: what there is, is rolled back */
    :: atomic { up[i] && al[i] != 0 && ag[i] == WORKING && nfull(a2c[i]) && SEE(VoteNo, i, LIST_OF(i)) ->
        STEP(LIST_OF(i)); ag[i] = UNDOING; say(a2c[i], NO, i) }
    :: atomic { up[i] && al[i] != 0 && ag[i] == WORKING && srv[i] == RELEASED && nfull(a2c[i]) && SEE(VoteReadOnly, i, LIST_OF(i)) ->
        STEP(LIST_OF(i)); ag[i] = NOTHING; say(a2c[i], READ_ONLY, i) }
    /* the end of the branch is certain: proved */
    :: atomic { up[i] && ag[i] == COMMITS && srv[i] == COMMITTED && SEE(DoneCommitted, i, LIST_OF(i)) ->
        STEP(LIST_OF(i)); ag[i] = NOTHING; say(a2c[i], DONE_C, i) }
    :: atomic { up[i] && ag[i] == COMMITS && (srv[i] == ABORTED || srv[i] == IDLE || srv[i] == RELEASED) ->
        ag[i] = NOTHING;
#ifdef NO_PROOF
        say(a2c[i], DONE_C, i) /* "does not exist": surely done */
#else
        hazard = true; say(a2c[i], DONE_A, i) /* said loudly */
#endif
        }
    :: atomic { up[i] && ag[i] == ABORTS && (srv[i] == ABORTED || srv[i] == IDLE || srv[i] == RELEASED) && SEE(DoneAborted, i, LIST_OF(i)) ->
        STEP(LIST_OF(i)); ag[i] = NOTHING; say(a2c[i], DONE_A, i) }
    :: atomic { up[i] && ag[i] == ABORTS && srv[i] == COMMITTED -> ag[i] = NOTHING; hazard = true; say(a2c[i], DONE_C, i) }
    /* nobody has asked, or no link to answer on */
    :: atomic { up[i] && (ag[i] == UNDOING || ag[i] == ABORTS && al[i] == 0) && (srv[i] == ABORTED || srv[i] == IDLE || srv[i] == RELEASED) ->
        ag[i] = NOTHING }
    :: atomic { up[i] && ag[i] == COMMITS && al[i] == 0 && srv[i] == COMMITTED -> ag[i] = NOTHING }
#ifndef NO_SWEEP
    /* the sweep, and a starting agent: prepared, and nobody here waits for a decision on this link */
    :: atomic { up[i] && al[i] != 0 && may_ask(i) ->
        say(a2c[i], INQUIRY, i) }
#ifdef STRANGER
    :: atomic { up[i] && al[i] != 0 && stranger[i] && empty(a2c[i]) && empty(c2a[i]) -> say(a2c[i], INQUIRY_S, i) }
#endif
#endif
    /* kill -9 of the agent: neither backend nor finisher notices */
    :: atomic { up[i] && may_crash && SEE(AgentCrash, i, LIST_OF(i)) -> STEP(LIST_OF(i));
        fault; up[i] = false; al[i] = 0; flush(c2a[i]);
        if
        :: ag[i] == COMMITS && srv[i] == PREPARED -> late[i] = COMMIT;
#ifdef SECOND
            late_fence[i] = fence[i];
#endif
            skip
        :: (ag[i] == ABORTS || ag[i] == UNDOING) && srv[i] == PREPARED -> late[i] = ABORT
        :: true -> skip
        fi;
        ag[i] = NOTHING;
#ifdef SECOND
        fence[i] = stored[i];
#endif
        skip }
    /* its next life ends them and waits until they are gone; a backend that was not recognised does no harm */
    :: atomic { !up[i] && SEE(AgentStart, i, LIST_OF(i)) -> STEP(LIST_OF(i)); up[i] = true;
#ifndef NO_ENDS
        late[i] = NONE;
#endif
        skip }
#ifdef OUTSIDE
    :: atomic { srv[i] == PREPARED && can_fault -> fault; srv[i] = ABORTED; outside = true }
#endif
#ifdef STRANGER
    /* somebody prepares the finished gid again: PostgreSQL accepts it */
    :: atomic { srv[i] == COMMITTED && !stranger[i] && can_fault -> fault; stranger[i] = true }
#endif
    od
}

active [N] proctype server() {
    byte i = _pid - K - 3 * N;
    do
    :: atomic { srv[i] == RUN && SERVER_SEE(Prepared, i) -> SERVER_STEP(i); srv[i] = PREPARED }
    :: atomic { srv[i] == RUN && SERVER_SEE(Aborted, i) -> SERVER_STEP(i); srv[i] = ABORTED } /* an error, its backend ended */
    :: atomic { srv[i] == RUN && SERVER_SEE(Released, i) -> SERVER_STEP(i); srv[i] = RELEASED } /* it has only read */
    :: atomic { up[i] && ag[i] == COMMITS && srv[i] == PREPARED && SERVER_SEE(Committed, i) -> SERVER_STEP(i); srv[i] = COMMITTED; late[i] = NONE;
#if defined(SECOND) && !defined(NO_RIDE)
        stored[i] = fence[i]; /* the WAL flush carries it along */
#endif
        skip }
    :: atomic { up[i] && (ag[i] == ABORTS || ag[i] == UNDOING) && srv[i] == PREPARED && SERVER_SEE(Aborted, i) ->
        SERVER_STEP(i); srv[i] = ABORTED; late[i] = NONE }
    :: atomic { late[i] == COMMIT && srv[i] == PREPARED && SERVER_SEE(Committed, i) -> SERVER_STEP(i); srv[i] = COMMITTED; late[i] = NONE;
#if defined(SECOND) && !defined(NO_RIDE)
        stored[i] = late_fence[i];
        fence[i] = (up[i] -> fence[i] : late_fence[i]);
#endif
        skip }
    :: atomic { late[i] == ABORT && srv[i] == PREPARED && SERVER_SEE(Aborted, i) -> SERVER_STEP(i); srv[i] = ABORTED; late[i] = NONE }
    :: atomic { late[i] != NONE && srv[i] != PREPARED -> late[i] = NONE }
    od
}

#ifdef LIVE
/* Time goes on: where nothing else happens any more is a cycle too, and found as one. */
bool tick;
active proctype clock() {
    do
    :: tick = !tick
    od
}
#endif

/* ------------------------------------------------------------- properties */

#ifndef TRACE
#define is(i, s) (srv[i] == s)
#if N > 2
#define any(s) (is(0, s) || is(1, s) || is(2, s))
#else
#define any(s) (is(0, s) || is(1, s))
#endif
#ifdef SECOND
#define one_stopped (co[0] == STOPPED || co[1] == STOPPED)
/* A full copy that serves all agents knows nothing of what the original decides afterwards: only what was applied everywhere is certain. */
#ifdef TOLD_AT_DECISION
#define told told_commit
#else
#define told told_applied
#endif
#else
#define one_stopped false
#define told told_commit
#endif

/* Never one committed and another rolled back, what was acknowledged stays so, no stranger is committed, no false alarm. What an outside
 * hand breaks cannot be prevented, but when the coordinator calls the transaction ended it has been reported. */
ltl safe { [] ((outside || !(any(COMMITTED) && any(ABORTED))) && (outside || !(told && any(ABORTED))) && (outside || !hazard) &&
               !(told_abort && any(COMMITTED)) && !(told_commit && told_abort) && !stranger_committed &&
               !(co[0] == ENDED && any(COMMITTED) && any(ABORTED) && !hazard)) }
/* Crashes end at last; then nothing stays in doubt, unless an operator was asked for. */
ltl live { <> [] ((!any(RUN) && !any(PREPARED)) || one_stopped) }
#endif
