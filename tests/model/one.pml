/*
 * one.pml: transactions on one participant, as a model checked with spin. No decision record: plain COMMIT, an outcome row in the same
 * transaction, tombstones, keys. lockstep.pml has the transaction on several.
 *
 * Two runs under one key: run 1 begins when a later life of the coordinator knows nothing of run 0, or when run 0 was told aborted.
 * Two agents: A, and B, which starts when the lock is free (A is dead, or its server was), while A may go on with what its old link had
 * brought. What runs in a server outlives its agent.
 *
 * What stands for what:
 *   co[t]      what the coordinator knows of run t; it logs nothing, so a crash leaves UNKNOWN, and who asks makes it SETTLING
 *   cl, al[g]  the link as the coordinator sees it (0 none, else agent + 1), and as agent g sees it
 *   ag(g, t)   what agent g knows of run t;  want(g, t): it was told to settle it
 *   be[t]      the backend. CHECKED: its secret was good, now it waits for its row; ROW: it holds the uncommitted outcome row; DONE: its statements are done; COMMITTING: COMMIT was sent to it
 *   row[t]     the outcome row, committed. SOFT: a tombstone that a crash of the server may still take
 *   key_a[t]   its client was told: under this key nothing was done
 *
 * Each guard of the shipped code has a name here; defining NO_<guard> removes it, and the check must then fail (tests/model/run).
 *   SETTLE     link or time lost: pending, and the participant is asked       coordinator/core/decide.c, begin_settling
 *   TOMBSTONE  "aborted" is said behind a committed tombstone, whose insert waits for whoever holds the row   participant/pg/outcome.c
 *   INSIDE     the outcome row is in the same transaction                     participant/pg/execute.c
 *   ALONE      COMMIT goes out when the results have been judged, alone       participant/core/vote.c
 *   LINK       a run whose link is lost before its COMMIT was sent gets none  participant/core/drive.c, drive_on_link_lost
 *   KEY        one committed row for each key                                 participant/pg/schema.c, outcome_key
 *   LOOK       an abort says something about the key only if the run has come past its outcome row   coordinator/api/answer.c
 *   ENDS       an agent's start ends the backends of the life before          participant/pg/control.c
 *   SECRET     an outcome row is written by the present life only             participant/pg/schema.c, outcome_insert
 *   DURABLE    a tombstone is durable before anybody hears of it. SECRET stands behind it: only without both there is a counterexample
 */
#ifndef CRASHES
#define CRASHES 1 /* of the coordinator */
#endif
#ifndef FAULTS
#define FAULTS 2  /* links lost, crashes of agent A and of the server, together */
#endif
#define A 0
#define B 1
#define ag(g, t) agent_knows[2 * (g) + (t)]
#define want(g, t) to_settle[2 * (g) + (t)]

mtype = { DOWN, UNKNOWN, DELEGATED, SETTLING, ENDED };         /* co */
mtype = { IDLE, RUN, CHECKED, ROW, DONE, COMMITTING, OVER };   /* be */
mtype = { NONE, SOFT, TOMBSTONE, COMMITTED };                  /* row */
mtype = { NOTHING, RUNNING, COMMIT_SENT, STOPPING };           /* ag */
mtype = { WORK, SETTLE, VOTE_COMMITTED, VOTE_NO, VOTE_NO_FREE, VOTE_EXISTS, SETTLED_COMMITTED, SETTLED_ABORTED }; /* messages */

mtype co[2] = UNKNOWN;
bool up = true;
bool begun[2];
byte cl;
bool al[2];
bool dead;               /* A */
bool started;            /* B */
byte holder = A;         /* of the lock: 2 nobody */
bool life_b;             /* whose secret is good */
mtype agent_knows[4] = NOTHING;
bool to_settle[4];
mtype be[2] = IDLE;
bool of_b[2];            /* whose backend it is */
bool exists[2];          /* it met the key's row */
bool passed[2];          /* it had come past its outcome row */
mtype row[2] = NONE;
bool effect[2], told_c[2], told_a[2], told_exists[2], key_a[2];
byte crashes, faults;

chan c2a[2] = [2] of { mtype, byte };
chan a2c[2] = [2] of { mtype, byte };
hidden byte j;

inline flush(ch) {
    do
    :: ch?_, _
    :: empty(ch) -> break
    od
}

#define other(t) (1 - (t))
#define holds_row(t) (be[t] == ROW || be[t] == DONE || be[t] == COMMITTING)
#define can_fault (faults < FAULTS)

inline say(g, what, t) {
    if
    :: al[g] && cl == g + 1 && nfull(a2c[g]) -> a2c[g]!what, t
    :: !al[g] || cl != g + 1 -> skip
    :: full(a2c[g]) -> skip
    fi
}

/* ------------------------------------------------------------- coordinator */

inline link_lost() {
    flush(a2c[0]); flush(a2c[1]);
    cl = 0;
    j = 0;
    do
    :: j < 2 ->
        if
#ifdef NO_SETTLE
        :: co[j] == DELEGATED -> co[j] = ENDED; told_a[j] = true
#else
        :: co[j] == DELEGATED -> co[j] = SETTLING
#endif
        :: else -> skip
        fi;
        j++
    :: else -> break
    od;
    j = 0
}

inline end(t, committed, free) {
    if
    :: (co[t] == DELEGATED || co[t] == SETTLING) && committed -> co[t] = ENDED; told_c[t] = true
    :: (co[t] == DELEGATED || co[t] == SETTLING) && !committed -> co[t] = ENDED; told_a[t] = true;
#ifdef NO_LOOK
        key_a[t] = true
#else
        key_a[t] = free
#endif
    :: else -> skip
    fi
}

active [2] proctype client() {
    byte t = _pid;
    do
    :: atomic { up && !begun[t] && co[t] == UNKNOWN && cl != 0 && nfull(c2a[cl - 1]) &&
        (t == 0 || begun[0] && (co[0] == UNKNOWN || co[0] == ENDED && told_a[0])) ->
        begun[t] = true; co[t] = DELEGATED; c2a[cl - 1]!WORK, t }
    :: atomic { up && co[t] == DELEGATED && can_fault -> faults++; /* deadline, client */
#ifdef NO_SETTLE
        co[t] = ENDED; told_a[t] = true
#else
        co[t] = SETTLING
#endif
        }
    :: atomic { up && begun[t] && co[t] == UNKNOWN -> co[t] = SETTLING } /* somebody asks how it ended */
    :: atomic { up && co[t] == SETTLING && cl != 0 && empty(c2a[cl - 1]) && empty(a2c[cl - 1]) && !want(cl - 1, t) -> c2a[cl - 1]!SETTLE, t }
    od
}

active proctype coordinator() {
    byte t;
    do
    :: atomic { cl != 0 && a2c[cl - 1]?[VOTE_COMMITTED, _] -> a2c[cl - 1]?_, t; end(t, true, false); t = 0 }
    :: atomic { cl != 0 && a2c[cl - 1]?[SETTLED_COMMITTED, _] -> a2c[cl - 1]?_, t; end(t, true, false); t = 0 }
    :: atomic { cl != 0 && a2c[cl - 1]?[VOTE_NO_FREE, _] -> a2c[cl - 1]?_, t; end(t, false, true); t = 0 }
    :: atomic { cl != 0 && a2c[cl - 1]?[VOTE_NO, _] -> a2c[cl - 1]?_, t; end(t, false, false); t = 0 }
    :: atomic { cl != 0 && a2c[cl - 1]?[SETTLED_ABORTED, _] -> a2c[cl - 1]?_, t; end(t, false, false); t = 0 }
    :: atomic { cl != 0 && a2c[cl - 1]?[VOTE_EXISTS, _] -> a2c[cl - 1]?_, t;
        if
        :: co[t] == DELEGATED || co[t] == SETTLING -> co[t] = ENDED; told_a[t] = true; told_exists[t] = true
        :: else -> skip
        fi;
        t = 0 }
    :: atomic { up && crashes < CRASHES -> crashes++; up = false;
        flush(a2c[0]); flush(a2c[1]); cl = 0;
        co[0] = UNKNOWN; co[1] = UNKNOWN }
    :: atomic { !up -> up = true }
    od
}

/* ----------------------------------------------------- links, and the lock */

active [2] proctype network() {
    byte g = _pid - 3;
    do
    :: atomic { cl == g + 1 && (!al[g] || can_fault) -> faults = (al[g] -> faults + 1 : faults); link_lost() }
    :: atomic { al[g] && (cl != g + 1 || can_fault) -> faults = (cl == g + 1 -> faults + 1 : faults);
        al[g] = false; flush(c2a[g]);
        j = 0;
        do
        :: j < 2 ->
#ifndef NO_LINK
            ag(g, j) = (ag(g, j) == RUNNING -> STOPPING : ag(g, j));
#endif
            j++
        :: else -> break
        od;
        j = 0 }
    :: atomic { up && cl == 0 && !al[g] && holder == g -> flush(c2a[g]); flush(a2c[g]); cl = g + 1; al[g] = true }
    od
}

active proctype lock() {
    do
    :: atomic { holder == 2 && !dead && !started && !al[A] -> holder = A }
    :: atomic { holder == 2 && !started -> started = true; holder = B; life_b = true;
#ifndef NO_ENDS
        be[0] = (be[0] == IDLE || be[0] == OVER || of_b[0] -> be[0] : OVER);
        be[1] = (be[1] == IDLE || be[1] == OVER || of_b[1] -> be[1] : OVER);
#endif
        skip }
    :: atomic { holder == 2 && started -> holder = B }
    :: atomic { !dead && can_fault -> faults++; dead = true; al[A] = false; flush(c2a[A]);
        holder = (holder == A -> 2 : holder);
        ag(A, 0) = NOTHING; ag(A, 1) = NOTHING; want(A, 0) = false; want(A, 1) = false }
    :: atomic { can_fault -> faults++; holder = 2; /* the server crashes, and is back */
        be[0] = (be[0] == IDLE -> IDLE : OVER); be[1] = (be[1] == IDLE -> IDLE : OVER);
        row[0] = (row[0] == SOFT -> NONE : row[0]); row[1] = (row[1] == SOFT -> NONE : row[1]) }
    od
}

/* ------------------------------------------------------------------ agents */

/* Row or tombstone. A row that is not committed yet is waited for. */
inline settle(g, t) {
    if
    :: row[t] == COMMITTED -> say(g, SETTLED_COMMITTED, t)
    :: row[t] != COMMITTED ->
#ifndef NO_TOMBSTONE
#ifdef NO_DURABLE
        row[t] = (row[t] == NONE -> SOFT : row[t]);
#else
        row[t] = TOMBSTONE;
#endif
#endif
        say(g, SETTLED_ABORTED, t)
    fi
}

#ifdef NO_TOMBSTONE
#define can_settle(t) true
#else
#define can_settle(t) (!holds_row(t))
#endif

active [4] proctype agent() {
    byte g = (_pid - 6) / 2;
    byte t = (_pid - 6) % 2;
    do
    :: atomic { al[g] && c2a[g]?[WORK, eval(t)] -> c2a[g]?_, _;
        if
        :: be[t] == IDLE -> be[t] = RUN; of_b[t] = (g == B); ag(g, t) = RUNNING
        :: else -> skip
        fi }
    :: atomic { al[g] && c2a[g]?[SETTLE, eval(t)] -> c2a[g]?_, _; want(g, t) = true;
        ag(g, t) = (ag(g, t) == RUNNING -> STOPPING : ag(g, t)) }
    /* its results are here, and good or not */
    :: atomic { ag(g, t) == RUNNING && be[t] == DONE -> be[t] = COMMITTING; ag(g, t) = COMMIT_SENT }
    :: atomic { ag(g, t) == RUNNING && be[t] == DONE && nfull(a2c[g]) -> be[t] = OVER; ag(g, t) = NOTHING; say(g, VOTE_NO_FREE, t) }
#ifdef NO_ALONE
    :: atomic { ag(g, t) == RUNNING && be[t] == COMMITTING && nfull(a2c[g]) -> ag(g, t) = NOTHING; say(g, VOTE_NO_FREE, t) }
    :: atomic { ag(g, t) == RUNNING && be[t] == COMMITTING -> ag(g, t) = COMMIT_SENT }
#endif
    :: atomic { ag(g, t) == RUNNING && be[t] == OVER && nfull(a2c[g]) -> ag(g, t) = NOTHING;
        if
        :: exists[t] -> say(g, VOTE_EXISTS, t)
        :: else -> say(g, (passed[t] -> VOTE_NO_FREE : VOTE_NO), t)
        fi }
    :: atomic { ag(g, t) == COMMIT_SENT && be[t] == OVER && nfull(a2c[g]) -> ag(g, t) = NOTHING;
        if
        :: row[t] == COMMITTED -> say(g, VOTE_COMMITTED, t)
        :: row[t] != COMMITTED -> say(g, VOTE_NO_FREE, t)
        :: can_settle(t) -> settle(g, t) /* the answer was lost */
        fi }
    :: atomic { ag(g, t) == STOPPING -> ag(g, t) = NOTHING;
        be[t] = (be[t] == COMMITTING -> COMMITTING : OVER) }
    :: atomic { want(g, t) && al[g] && can_settle(t) && nfull(a2c[g]) -> want(g, t) = false; settle(g, t) }
    :: atomic { want(g, t) && !al[g] -> want(g, t) = false }
    od
}

/* ---------------------------------------------------------------- backends */

#ifdef NO_KEY
#define key_free(t) true
#define key_taken(t) false
#else
#define key_free(t) (row[other(t)] != COMMITTED && !holds_row(other(t)))
#define key_taken(t) (row[other(t)] == COMMITTED)
#endif
#ifdef NO_SECRET
#define good_life(t) true
#else
#define good_life(t) (of_b[t] == life_b)
#endif

active [2] proctype backend() {
    byte t = _pid - 10;
    do
    :: atomic { be[t] == RUN && !good_life(t) -> be[t] = OVER }
    :: atomic { be[t] == RUN && good_life(t) -> be[t] = CHECKED }
    :: atomic { be[t] == CHECKED && row[t] != NONE -> be[t] = OVER }
    :: atomic { be[t] == CHECKED && key_taken(t) -> be[t] = OVER; exists[t] = true }
    :: atomic { be[t] == CHECKED && row[t] == NONE && key_free(t) -> be[t] = ROW; passed[t] = true;
#ifdef NO_INSIDE
        row[t] = COMMITTED;
#endif
        skip }
    :: atomic { be[t] == ROW -> be[t] = DONE }
    :: atomic { be[t] == RUN || be[t] == CHECKED || be[t] == ROW || be[t] == DONE -> be[t] = OVER } /* an error; its client has gone */
#ifdef NO_ALONE
    :: atomic { be[t] == DONE -> be[t] = COMMITTING }
#endif
    :: atomic { be[t] == COMMITTING -> be[t] = OVER; row[t] = COMMITTED; effect[t] = true }
    :: atomic { be[t] == COMMITTING -> be[t] = OVER } /* a deferred constraint */
    :: atomic { row[t] == SOFT -> row[t] = TOMBSTONE }
    od
}

#ifdef LIVE
bool tick;
active proctype clock() {
    do
    :: tick = !tick
    od
}
#endif

/* What was told stays so; under one key at most one run is done; who was told that nothing was done under the key is not surprised by an earlier run. */
ltl safe { [] (!(told_c[0] && !effect[0]) && !(told_c[1] && !effect[1]) && !(told_a[0] && effect[0]) && !(told_a[1] && effect[1]) &&
               !(effect[0] && effect[1]) && !(told_exists[1] && !effect[0]) && !(told_exists[0] && !effect[1]) && !(key_a[1] && effect[0])) }
/* Whoever asks is answered, and no backend holds a lock for ever. */
ltl live { <> [] (!(holds_row(0) || holds_row(1) || be[0] == RUN || be[1] == RUN || be[0] == CHECKED || be[1] == CHECKED) && (!begun[0] || told_c[0] || told_a[0]) && (!begun[1] || told_c[1] || told_a[1])) }
