"""The experiments of the laboratory (docs/lab.md). Each has a hypothesis for each mode it makes sense in, a play (what is done, in order), and a judge (claims with
figures about what is left when everything is over). Claims about an outage are made at its end (lasts). What they are made of is Run in lab.py.

    2pc             one transaction on four databases
    orchestrated    the same document as a saga: the coordinator drives one local transaction after the other
    choreographed   a local transaction and an event; the others follow it up: no coordinator in the path
"""

import json
import os
import signal
import subprocess
import threading
import time

from place import Problem, data_of, tail

VICTIM = "products"
VICTIM_CLUSTER = "c2"
SOME = 20  # orders
LONGEST = 30  # s that an outage is drawn out, at most, for what must come to be seen in it
# How often a point is passed for one order: it kills when the load is warm.
PER_ORDER = {"saga_attempt_answered": 4, "agent_after_one_phase_commit": 1, "relay_handler_sent": 1}


class Experiment:
    """`words`: {mode: hypothesis}."""

    def __init__(self, name, words, play, judge=lambda run: None):
        self.name, self.words, self.play, self.judge = name, words, play, judge

    @property
    def modes(self):
        return tuple(self.words)

    def hypothesis(self, mode):
        return self.words[mode]


# ---- claims that come again

def lasts(run, seconds, *claims):
    """The outage takes so long, and longer until all claims hold: on a busy machine somebody waits for a disk that stands still, or is looked at late, and that passes. What a
    hypothesis is wrong about does not pass as long as one waits for it, up to LONGEST."""
    run.rest(seconds)
    end = time.monotonic() + LONGEST
    run.wait(lambda: run.would_hold(*claims) or time.monotonic() > end, LONGEST + 60, "the outage has taken its time")
    for claim in claims:
        claim(run)


def outage(run):
    """Its length, so far."""
    fault = run.timeline.main()
    return (run.timeline.now() if fault["until"] is None else fault["until"]) - fault["at"]


def moment(run):
    """What anybody may wait on a busy machine without waiting for the end of the outage."""
    return max(0.5 * outage(run), 1.5)


def last_before_healing(run, key):
    values = run.timeline.during(key)
    return values[-1] if values else None


def claim_blocked(run):
    """Two-phase commit: what was in doubt stayed in doubt to the end, and somebody waited behind it for nearly as long."""
    doubt = last_before_healing(run, "in_doubt")
    run.claim("branches were in doubt to the end of the outage", doubt is not None and doubt > 0, f"{doubt} branches")
    claim_waited(run, "a bystander waited for most of the outage")


def claim_waited(run, claim):
    length, worst = outage(run), max(run.timeline.during("bystander_worst_s"), default=0)
    run.claim(claim, worst >= 0.6 * length, f"{worst:.1f} s; it took {length:.1f} s")


def claim_nobody_waits(run):
    """No lock is held for somebody who is away."""
    doubt, wait = last_before_healing(run, "in_doubt"), last_before_healing(run, "oldest_wait_s")
    run.claim("nothing was in doubt", doubt == 0, f"{doubt} branches")
    run.claim("nobody waited for the one who was away", wait is not None and wait < moment(run), f"the longest wait at the end of {outage(run):.1f} s: {wait} s")


def claim_half_seen(run):
    seen = run.timeline.during("half_seen")
    run.claim("a reader saw orders half-way", bool(seen) and max(seen) > 0, f"up to {max(seen, default=0)} at once")


def claim_frozen(run):
    """Sagas that stand still stay as they are, for everybody to see: two looks find the same orders; how many, is chance."""
    at = run.timeline.main()["at"]
    looks = [half for t, half in run.halves if t >= at][-2:]
    run.claim("what was half-way stayed half-way", len(looks) == 2 and looks[0] == looks[1], f"{len(looks[-1]) if looks else '?'} orders at its end")


def claim_goes_on(run):
    run.claim("orders went on meanwhile", run.committed_meanwhile > 0, f"{run.committed_meanwhile} became complete")


def claim_orders_stop(run):
    """An answer that had been sent may be read late, by a client that is not given the processor: one for each of them."""
    counts = [round(rate * since) for rate, since in zip(run.timeline.during("committed_per_s"), run.timeline.during("since"))]
    run.claim("no order became complete meanwhile", sum(counts) <= run.clients and counts[-2:] == [0, 0], f"{sum(counts)} answers read late, {sum(counts[-2:])} at its end")


# ---- the coordinator dies

def begin_and_die(run, point):
    """The load begins, and the coordinator dies at that point; without one, at any moment."""
    if point:
        run.shop.restart_coordinator(run.point(point, PER_ORDER.get(point, 1)))
    run.begin(armed=bool(point))
    if point:
        run.wait_death(run.shop.coordinator, point)
    else:
        run.script("kill", "--pid", run.shop.coordinator.pid)


def coordinator_dies(points):
    def play(run):
        begin_and_die(run, points.get(run.mode))
        if run.mode == "choreographed":
            run.wait_orders(1)
        lasts(run, run.scaled(10, 2), *COORDINATOR_CLAIMS[run.mode])
        run.back("lockstepd is started again")
        run.heal()
    return play


COORDINATOR_CLAIMS = {"2pc": (claim_blocked, claim_orders_stop), "orchestrated": (claim_nobody_waits, claim_orders_stop, claim_frozen), "choreographed": (claim_nobody_waits,)}


def judge_no_coordinator(run):
    """In the path of an event."""
    if run.mode == "choreographed":
        claim_goes_on(run)


def half_sent(run):
    """The decision has reached some participants when the coordinator dies: one of them has not heard anything for a moment."""
    if run.mode != "2pc":
        coordinator_dies({"orchestrated": "saga_attempt_answered"})(run)
        return
    run.begin()
    drop_link(run)
    run.script("kill", "--pid", run.shop.coordinator.pid)
    run.note_rows()
    lasts(run, run.scaled(10, 2), *COORDINATOR_CLAIMS["2pc"], claim_half_seen)
    run.shop.link.process.send_signal(signal.SIGUSR2)
    run.back("lockstepd is started again")
    run.heal()


SAGA_WAITS = "Nothing is locked while it is away; sagas stand still half-way, to be seen by everybody, and go on when it is back."
NO_COORDINATOR = "Nothing changes: no coordinator is in the path of an event."

# ---- an agent, a server, a link

AGENT_CLAIMS = {"2pc": (claim_blocked,), "orchestrated": (claim_nobody_waits, claim_half_seen), "choreographed": (claim_nobody_waits, claim_half_seen)}
AGENT_POINTS = {"2pc": "agent_after_vote", "orchestrated": "agent_after_one_phase_commit", "choreographed": "relay_handler_sent"}


def agent_dies(run):
    point = AGENT_POINTS[run.mode]
    run.shop.restart_agent(VICTIM, run.point(point, PER_ORDER.get(point, 1)))
    run.begin(armed=True)
    run.wait_death(run.shop.agents[VICTIM], point)
    lasts(run, run.scaled(10, 2), *AGENT_CLAIMS[run.mode])
    run.back(f"the agent of {VICTIM} is started again")
    run.heal()


def stay_prepared(run, seen=lambda: True, seconds=6):
    """Whether the victim comes to have branches that are left alone, and `seen` comes true. Nobody tells it anything any more, but what it had been told is finished first, and that
    takes its time on a slow disk: they are the same for a second, while no session is at work on one."""
    end, found, since = time.monotonic() + seconds, None, 0.0
    with run.shop.connect(VICTIM) as session:
        def alone():
            nonlocal found, since
            now = run.prepared(session)
            at_work = session.execute("""select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
                                                                                    and state = 'active' and query ~* '(commit|rollback) prepared'""").fetchone()[0]
            if now != found or not now or at_work:
                found, since = now, time.monotonic()
            return time.monotonic() - since >= 1 and seen()
        return run.wait(lambda: "alone" if alone() else "not" if time.monotonic() > end else None, seconds + 60, "branches are left alone") == "alone"


def hold_votes(run):
    """The coordinator stands still, and branches are prepared at the victim: what comes next hits transactions that have voted. Again, if it had told all of them what was decided."""
    for _ in range(10):
        pause = run.script("pause", "--pid", run.shop.coordinator.pid)
        if stay_prepared(run):
            return pause
        run.undo(pause)
        run.wait_orders(2)
    raise Problem(f"the pause met no transaction that has voted at {VICTIM}")


def server_dies(run):
    run.begin()
    pause = hold_votes(run) if run.mode == "2pc" else None
    before = len(run.in_doubt(VICTIM))
    run.script("kill", "--pid", run.shop.clusters[VICTIM_CLUSTER].pid, "--tree")
    if pause:
        run.undo(pause, -2)
    lasts(run, run.scaled(8, 2), claim_away)
    run.shop.revive_cluster(VICTIM_CLUSTER)
    after = len(run.in_doubt(VICTIM))
    run.back(f"the server of {VICTIM} is back; prepared there: {before} before, {after} after")
    run.found = before
    run.heal()


def claim_away(run):
    away, wait = last_before_healing(run, "unreachable"), last_before_healing(run, "oldest_wait_s")
    run.claim("its database could not be asked meanwhile", away is not None and VICTIM in away, "see `unreachable`")
    run.claim("nobody of other databases waited for it", wait is not None and wait < moment(run), f"{wait} s")


def judge_server(run):
    if run.mode == "2pc":
        run.claim("branches were prepared when it died", run.found > 0, run.found)


def history(run):
    """The victim's timeline."""
    with run.shop.connect(VICTIM) as session:
        return int(session.execute("select pg_walfile_name(pg_current_wal_insert_lsn())").fetchone()[0][:8], 16)


def failover(run):
    """The primary dies and its synchronous standby takes its place, on a new timeline and under the old address."""
    old, standby = run.shop.clusters[VICTIM_CLUSTER], run.shop.make_standby(VICTIM_CLUSTER)
    run.history = history(run)
    run.begin()
    pause = hold_votes(run) if run.mode == "2pc" else None
    before = run.in_doubt(VICTIM)
    fault = run.script("server-failover", "--data", data_of(old), "--standby", data_of(standby))
    run.shop.take_over(VICTIM_CLUSTER, standby)
    after = run.in_doubt(VICTIM)
    run.timeline.event(f"the standby has taken over; prepared there: {len(before)} before, {len(after)} after")
    if pause:
        run.undo(pause, -2)
    run.found = before, after
    run.wait_orders(SOME)
    run.undo(fault)
    run.rest(run.scaled(5, 0))
    run.heal()


def judge_failover(run):
    before, after = run.found
    run.claim("it runs on a new timeline", history(run) > run.history, f"{history(run)} after {run.history}")
    if run.mode == "2pc":
        run.claim("branches were prepared when it died", len(before) > 0, len(before))
        run.claim("the standby had each of them, with its xid", set(before) <= set(after), f"{len(set(before) & set(after))} of {len(before)}")
    run.claim("orders went on with the new server", run.committed_meanwhile >= SOME, f"{run.committed_meanwhile} became complete")
    hazards = run.shop.hazards()
    run.claim("nothing was lost: no hazard is reported", hazards == 0, f"{hazards} hazards")


def drop_link(run):
    """scripts/faults/link, told to drop what the coordinator sends: in two-phase commit again until it hits branches that are decided and
    have not heard it. That a branch is in doubt does not tell: another one of its transaction may have voted no. The others have committed,
    and a reader sees it."""
    for _ in range(10):
        run.shop.link.process.send_signal(signal.SIGUSR1)
        if run.mode != "2pc":
            return
        if stay_prepared(run, lambda: run.watch.reader.stuck(0.6, VICTIM)):
            return
        run.shop.link.process.send_signal(signal.SIGUSR2)
        run.wait_orders(2)
    raise Problem(f"the broken link met no transaction in phase 2 at {VICTIM}")


def unreachable(run):
    run.begin()
    if run.mode == "choreographed":  # events take links of their own: the one who is out of reach stands still
        fault = run.script("pause", "--pid", run.shop.agents[VICTIM].pid)
        lasts(run, run.scaled(10, 2), *AGENT_CLAIMS[run.mode])
        run.undo(fault)
        return
    drop_link(run)
    run.begin_fault(f"{VICTIM} hears nothing from the coordinator")
    run.note_rows()
    lasts(run, run.scaled(10, 2), *AGENT_CLAIMS[run.mode])
    run.shop.link.process.send_signal(signal.SIGUSR2)
    run.back("the link works again")


# ---- the disk of the log

def room(run):
    """Bytes of the log that may still be promised, or None."""
    done = run.shop.place.run(["curl", "-s", "--unix-socket", run.shop.socket(), "http://lockstep/metrics"], check=False)
    for line in done.stdout.splitlines():
        if line.startswith("lockstepd_log_room_bytes "):
            return float(line.split()[1])
    return None


def disk_full(run):
    run.begin()
    fault = run.script("disk-full", "--control", run.shop.control)
    if run.mode != "choreographed":
        run.wait(lambda: (room(run) or 1e9) < 65536, 180, "the decision log has no room for the largest transaction")
        run.timeline.event("the log is full: new work is refused")
    if run.mode == "choreographed":
        run.wait_orders(1)
    lasts(run, run.scaled(8, 2), claim_none_stranded)
    run.alive = run.shop.coordinator.running()
    run.undo(fault)


def claim_none_stranded(run):
    """Who is stranded stays so until the disk is in order."""
    doubt = last_before_healing(run, "oldest_in_doubt_s")
    run.claim("nothing was stranded", doubt is not None and doubt < 2, f"the oldest branch in doubt at the end of {outage(run):.1f} s: {doubt} s")


def judge_disk_full(run):
    run.claim("lockstepd lived through it", run.alive, run.alive)
    judge_no_coordinator(run)


def fsync_fails(run):
    run.begin()
    fault = run.script("failed-fsync", "--control", run.shop.control)
    if run.mode == "choreographed":  # its log is written only when it is idle, if at all
        run.rest(run.scaled(6, 2))
        run.wait_orders(1)
    else:
        run.wait(lambda: not run.shop.coordinator.running(), 60, "lockstepd stops at the sync that failed")
        # what was synced before the one that failed may be acknowledged until now, so the outage is told from here
        run.begin_fault(f"lockstepd has ended with {run.shop.coordinator.process.returncode}")
        run.note_rows()
        lasts(run, run.scaled(6, 2), claim_orders_stop, *((claim_nobody_waits,) if run.mode == "orchestrated" else ()))
        run.back("lockstepd is started again")
    run.code = run.shop.coordinator.process.poll()
    run.undo(fault, 0)
    run.heal()


def judge_fsync(run):
    judge_no_coordinator(run)
    if run.mode != "choreographed":
        run.claim("lockstepd stopped with 74 and did not try again", run.code == 74, run.code)


def slow_disk(run):
    run.begin()
    fault = run.script("slow-fsync", "--control", run.shop.control, "--ms", 100)
    run.wait_orders(1)
    lasts(run, run.scaled(8, 2), claim_none_stranded)
    run.undo(fault)


# ---- zombies

def zombies(run):
    """Three lives in a row die while their backends work: each leaves statements that may still prepare."""
    point = "relay_before_handler" if run.mode == "choreographed" else "agent_after_pipeline_sent"
    run.shop.restart_agent(VICTIM, run.point(point, PER_ORDER.get(point, 1)))
    run.begin(armed=True)
    agent = run.shop.agents[VICTIM]
    for life in range(3):
        run.wait(lambda: not agent.running(), 180, f"{point} is passed and kills the agent")
        if life == 0:
            run.begin_fault(f"the agent of {VICTIM} dies at {point}, three lives in a row")
        else:
            run.timeline.event(f"life {life + 1} dies as well")
        run.shop.start_agent(VICTIM, f"{point}=kill@1" if life < 2 else None)
    run.back("the fourth life stays")
    run.heal()
    run.quiet = run.timeline.now()
    run.wait_orders(SOME)
    lasts(run, 0, claim_no_orphan)


def claim_no_orphan(run):
    """Every branch is younger than the life that serves."""
    last = run.timeline.record["samples"][-1]
    since, oldest = last["t"] - run.quiet, last["oldest_in_doubt_s"]
    run.claim("no orphan is left over from a dead life", oldest < since, f"the oldest branch: {oldest} s, when the fourth life had served for {since:.1f} s")


# ---- VACUUM and the relay

def vacuum(run):
    """(Dead rows that could not be removed, text): VACUUM says so itself."""
    session = run.shop.connect("balance")
    said = []
    session.add_notice_handler(lambda diagnostic: said.append(diagnostic.message_primary))
    with session:
        session.execute("vacuum (verbose) account")
    text = "\n".join(said)
    line = next((line for line in text.splitlines() if "dead but not yet removable" in line), "")
    return int(line.split(" are dead but not yet removable")[0].split()[-1]) if line else 0


def emit_note(run, key):
    with run.shop.connect("orders", "checkout") as session:
        session.execute("select lockstep.emit('lab.note', %s, '{}')", (key,))
    began = time.monotonic()

    def placed():
        with run.shop.connect("orders") as session:
            return session.execute("select position is not null from lockstep.event where type = 'lab.note' and key = %s", (key,)).fetchone()[0]
    run.wait(lambda: placed() or time.monotonic() - began > LONGEST, LONGEST + 60, "the relay gives the event a position")
    return time.monotonic() - began


def long_doubt(run):
    begin_and_die(run, {"2pc": "coord_before_log_append", "orchestrated": "saga_attempt_answered"}.get(run.mode))
    run.rest(0.6)
    with run.shop.connect("balance") as session:
        run.held = session.execute("select count(*) from pg_prepared_xacts where database = current_database()").fetchone()[0]
        for _ in range(20):
            session.execute("update account set amount = amount where owner = 'c999'")  # nobody orders for this one
    run.kept = vacuum(run)
    if run.mode == "orchestrated":  # somebody may be looking at this moment; that passes
        end = time.monotonic() + LONGEST
        while run.kept and time.monotonic() < end:
            run.tick()
            run.kept = vacuum(run)
    run.timeline.event(f"VACUUM of account: {run.kept} dead rows cannot be removed yet")
    run.relay = emit_note(run, f"lab-{run.lab.next_seed()}")
    run.timeline.event(f"an event that was emitted meanwhile had its position after {run.relay:.2f} s")
    lasts(run, run.scaled(20, 2), *((claim_xmin_behind,) if run.mode == "2pc" else ()))
    run.back("lockstepd is started again")
    run.heal()
    run.end_load()
    run.wait(lambda: not run.in_doubt("balance"), 60, "nothing is in doubt any more")
    run.wait(lambda: vacuum(run) == 0, 60, "VACUUM removes all of them")
    run.timeline.event("VACUUM removes all dead rows again")


def claim_xmin_behind(run):
    age = last_before_healing(run, "xmin_age")
    run.claim("xmin stayed behind all that began meanwhile", age is not None and age >= 20, f"by {age} transactions at the end")


def judge_long_doubt(run):
    if run.mode == "2pc":
        run.claim("VACUUM could not remove what died meanwhile", run.kept > 0, f"{run.kept} rows, behind {run.held} branches")
    elif run.mode == "orchestrated":  # in the other form orders go on, and whoever works holds VACUUM back for that moment
        run.claim("VACUUM removed what died meanwhile", run.kept == 0, f"{run.kept} rows left")
    run.claim("the outbox did not starve behind it", run.relay < LONGEST, f"{run.relay:.2f} s, while the coordinator was away")


# ---- deadlock across two databases

PAIRS = 4
LOCK_MS = 700


def crossing(run, first, second, number):
    """A transaction or saga on two databases that takes its rows one after the other, in the order it is given."""
    sql = {"products": "update product set stock = stock where sku = $1", "balance": "update account set amount = amount where owner = $1"}
    row = {"products": f"s{number}", "balance": f"c{900 + number}"}
    steps = [{"name": "first", "on": first, "do": {"sql": sql[first], "args": [row[first]]}, "undo": {"sql": "select 1"}},
             {"name": "pause", "on": first, "do": {"sql": "select pg_sleep(0.2)"}, "undo": {"sql": "select 1"}, "after": ["first"]},
             {"name": "second", "on": second, "do": {"sql": sql[second], "args": [row[second]]}, "undo": {"sql": "select 1"}, "after": ["pause"]}]
    document = {"mode": "2pc" if run.mode == "2pc" else "saga", "steps": steps}
    if run.mode == "2pc":
        document["lock_timeout"] = f"{LOCK_MS}ms"
    return document


def submit(run, document, key, results):
    began = time.monotonic()
    done = subprocess.run([run.shop.program("lockstep"), "run", "-", "--key", key, "--url", f"unix:{run.shop.socket()}", "-o", "json"], input=json.dumps(document), text=True,
                          capture_output=True, check=False, env=run.shop.place.environment, cwd="/")
    results.append((time.monotonic() - began, done.returncode, done.stdout + done.stderr))


def deadlock(run):
    run.begin()
    run.results, run.rounds = [], 0
    run.begin_fault(f"{PAIRS} pairs of transactions take the same two rows of two databases in opposite order")
    while run.rounds < 10 and not (run.rounds and (run.mode != "2pc" or broken(run))):  # whether two of them meet is chance, on a busy machine
        run.rounds += 1
        threads = [threading.Thread(target=submit, args=(run, crossing(run, *order, number), f"lab-{run.lab.next_seed()}", run.results))
                   for number in range(PAIRS) for order in (("products", "balance"), ("balance", "products"))]
        for thread in threads:
            thread.start()
        run.wait(lambda: not any(thread.is_alive() for thread in threads), 120, "all of them have ended")
    run.back("all of them have ended")
    run.wait_orders(2)


def broken(run):
    """How many lock_timeout has ended."""
    return sum(1 for _, code, text in run.results if code == 4 and "55P03" in text)


def judge_deadlock(run):
    longest = max(took for took, _, _ in run.results)
    ends = sorted(code for _, code, _ in run.results)
    other = [text.strip() for _, code, text in run.results if code not in (0, 4)]
    run.claim("all of them ended", len(run.results) == 2 * PAIRS * run.rounds and not other, f"exit statuses {ends}" + (f": {' '.join(other[0].split())}" if other else ""))
    if run.mode == "2pc":
        run.claim("lock_timeout broke at least one, and nothing else did", 0 < broken(run) == ends.count(4), f"{broken(run)} of {ends.count(4)} aborted by it")
    else:
        run.claim("none was aborted: a saga holds no lock while it waits for the other database", set(ends) == {0}, f"{longest:.1f} s the longest")


# ---- the log is lost, a client is forgotten

def lost_log(run):
    run.begin()
    run.script("kill", "--pid", run.shop.coordinator.pid)
    fault = run.script("lost-log", "--data", os.path.join(run.shop.place.path, "coordinator"))
    api = run.shop.ports.pop("api")  # clients do not find it: it would say, truly, that it knows no participant
    run.shop.write_coordinator_config()
    run.shop.coordinator.start()
    run.shop.ports["api"] = api
    run.note_rows()
    run.wait(lambda: not run.shop.coordinator.running(), 60, lambda: f"lockstepd stops: its agents have seen another log\n{tail(run.shop.coordinator.log)}")
    run.code = run.shop.coordinator.process.returncode
    run.timeline.event(f"lockstepd with an empty log has ended with {run.code}")
    run.rest(run.scaled(3, 0.6))
    if run.mode == "choreographed":
        run.wait_orders(1)
    run.undo(fault)
    run.heal()


def judge_lost_log(run):
    run.claim("an agent refused the empty log, and lockstepd stopped with 78", run.code == 78, run.code)
    judge_no_coordinator(run)


def forgotten_client(run):
    run.begin()
    fault = run.script("forgotten-client", "--conninfo", run.shop.conninfo(VICTIM), "--sql", "update product set stock = stock where sku in ('s1', 's2', 's3')")
    run.refused = run.journal.locked_out
    lasts(run, run.scaled(10, 4), claim_forgotten, *((claim_locked_out,) if run.mode == "2pc" else ()))
    run.undo(fault)


def claim_forgotten(run):
    claim_waited(run, "a bystander waited for as long as the forgotten session was open")


def claim_locked_out(run):
    refused, doubt = run.journal.locked_out - run.refused, last_before_healing(run, "oldest_in_doubt_s")
    run.claim("lock_timeout (2 s) ended orders that met it", refused > 0, f"{refused} of them")
    run.claim("no branch stays in doubt for longer than lock_timeout and a little", doubt is not None and doubt < 2 + 5, f"the oldest at the end: {doubt} s")


ALL = [
    Experiment("coordinator-after-votes", {
        "2pc": "Every branch that has voted keeps its locks until the coordinator is back, and whoever wants those rows waits for as long. Then they are rolled back or committed.",
        "orchestrated": SAGA_WAITS, "choreographed": NO_COORDINATOR},
        coordinator_dies({"2pc": "coord_before_log_append", "orchestrated": "saga_attempt_answered"}), judge_no_coordinator),
    Experiment("coordinator-after-decision", {
        "2pc": "The decision is durable and nobody has heard it: the branches wait in doubt, and are committed as soon as the coordinator is back.",
        "orchestrated": SAGA_WAITS, "choreographed": NO_COORDINATOR},
        coordinator_dies({"2pc": "coord_decision_durable", "orchestrated": "saga_before_end"}), judge_no_coordinator),
    Experiment("coordinator-half-sent", {
        "2pc": "One participant has committed, the others wait in doubt: a reader sees the order here and not there until the coordinator is back.",
        "orchestrated": SAGA_WAITS, "choreographed": NO_COORDINATOR},
        half_sent, judge_no_coordinator),
    Experiment("agent-prepared", {
        "2pc": "Only its own branches stay in doubt, and block their rows until the agent is back; all others hear the decision.",
        "orchestrated": "The step that was under way is asked for again when the agent is back; the barrier says whether it was done. Nothing is locked.",
        "choreographed": "Events for it wait at their senders; those it had half-way come again and find their inbox row. Nothing is locked."},
        agent_dies),
    Experiment("server-prepared", {
        "2pc": "What was prepared is prepared after the crash, and is finished as decided. Nobody elsewhere waits for it.",
        "orchestrated": "Sagas wait for the server, and go on where they were.",
        "choreographed": "Events for it wait, and are handled once each when it is back."},
        server_dies, judge_server),
    Experiment("server-failover", {
        "2pc": "A synchronous standby has every branch that has voted: promoted, it finishes them as decided. Nothing is lost, and no hazard is reported.",
        "orchestrated": "Steps that were acknowledged are there, barrier rows included: sagas go on where they were.",
        "choreographed": "Events for it wait at their senders; what it had acknowledged is there with its inbox row, and nothing is done twice."},
        failover, judge_failover),
    Experiment("unreachable", {
        "2pc": "Branches that have voted stay in doubt behind the broken link, whoever wants their rows waits; the rest of the transaction is long committed.",
        "orchestrated": "The step is asked for again when the link is back. Nothing is locked meanwhile.",
        "choreographed": "Events for it wait at their senders. Nothing is locked meanwhile."},
        unreachable),
    Experiment("disk-full", {
        "2pc": "New transactions are refused, those admitted are finished: space was reserved for them. Nothing is in doubt for long.",
        "orchestrated": "New sagas are refused, those that run go on as far as the reserved space lets them. Nothing is locked.", "choreographed": NO_COORDINATOR},
        disk_full, judge_disk_full),
    Experiment("fsync-fails", {
        "2pc": "The coordinator stops at once (74); what was acknowledged is durable, what was not is settled by the next start.",
        "orchestrated": "The coordinator stops at once (74); sagas stand still and go on after the next start.", "choreographed": NO_COORDINATOR},
        fsync_fails, judge_fsync),
    Experiment("slow-fsync", {
        "2pc": "Every commit waits for the sync, many share one: throughput falls, nothing breaks.",
        "orchestrated": "Begin records wait for the sync, steps do not: throughput falls, nothing breaks.", "choreographed": NO_COORDINATOR},
        slow_disk, claim_goes_on),
    Experiment("zombies", {
        "2pc": "Statements of dead agents may still be running and would prepare late: each next life ends them before it serves, and no orphan stays.",
        "orchestrated": "Steps of dead agents may still commit: the barrier row lets each act once.",
        "choreographed": "Deliveries of dead agents may still commit: the inbox row lets each act once."},
        zombies),
    Experiment("long-doubt", {
        "2pc": "While a branch is in doubt VACUUM removes nothing that died since; the outbox relay does not starve behind it.",
        "orchestrated": "Nothing holds VACUUM back while the coordinator is away; the outbox relay does not need it.", "choreographed": NO_COORDINATOR},
        long_doubt, judge_long_doubt),
    Experiment("deadlock", {
        "2pc": "Neither server sees a deadlock across two of them: lock_timeout ends it, and at least one transaction is aborted.",
        "orchestrated": "There is none: each step commits by itself before the next begins."},
        deadlock, judge_deadlock),
    Experiment("lost-log", {
        "2pc": "A coordinator with an empty log is refused by the agents (78): nothing is presumed about branches of the other log. With the log back all is finished.",
        "orchestrated": "A coordinator with an empty log is refused (78); with the log back sagas go on.", "choreographed": NO_COORDINATOR},
        lost_log, judge_lost_log),
    Experiment("forgotten-client", {
        "2pc": "A session that is idle in transaction blocks rows: orders that meet it fail after lock_timeout, the others go on.",
        "orchestrated": "A session that is idle in transaction blocks rows: steps that meet it are tried again, the others go on.",
        "choreographed": "A session that is idle in transaction blocks rows: handlers that meet it wait, and hold up the events behind them."},
        forgotten_client),
]
