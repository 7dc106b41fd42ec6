#!/usr/bin/python3
"""Message-fault cells on real servers: every fault at every moment of the protocol, at both places where messages pass.

Hazard: a message is lost, doubled, late, cut off or cancelled at one particular moment, and what follows is wrong (hazards 1.1 to 1.5, C1 to
C10). A cell is (place, fault, moment); docs/failure-modes.md says what each means.
Method: one real transaction on one to three databases; the proxy does the fault exactly once at that moment and proves that it did; then
everything heals, and within 20 s the client must know the outcome, all databases must agree with it, each statement must have acted
once, no prepared transaction may be left, and the next transaction must commit. Small delays, the way a transaction ends, which of two
answers is seen: all drawn from the seed. Several pairs of databases work side by side, one cell each at a time.
Seen if wrong: a violation, with what was seen; the exit status is not 0.

    tests/crash/cells.py --repeat 10 --seed 1             every cell ten times
    tests/crash/cells.py --only 'link/drop-reply/*'       some of them; --list names them all
    tests/crash/cells.py --state FILE ...                 goes on where an earlier run with the same arguments was interrupted
"""

import argparse
import collections
import faulthandler
import fnmatch
import http.client
import json
import os
import queue
import random
import shutil
import signal
import socket
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "pg"))

from harness.api import App, background  # noqa: E402
from harness.base import NotReached, folder, remove_folder, wait_until  # noqa: E402
from harness.system import System, fresh, step  # noqa: E402

BOUND_S = 20  # after healing, everything is over within
DEADLINE, LATE_S = "3s", 4.5  # of transactions that a fault may stop before the decision; a delay beyond it and the agent's grace
UPSERT = "insert into item(k, v) values ($1, 1) on conflict (k) do update set v = item.v + 1"

SERVER_FAULTS = ("drop-request", "drop-reply", "duplicate", "delay-request", "delay-reply", "reset", "cancel")
LINK_FAULTS = ("drop-request", "drop-reply", "duplicate-request", "duplicate-reply", "delay-request", "delay-reply", "reset-request",
               "reset-reply", "cancel")

# moment: (story that leads to it, words the statement has, what makes the server wait there so that a cancel can hit)
SERVER_MOMENTS = {
    "prepare": ("commit", "prepare transaction", "standby"),
    "fence": ("commit", "lockstep.fence_ahead(", "lockstep.fence"),
    "commit-prepared": ("commit", "commit prepared", "standby"),
    "rollback-prepared": ("rollback", "rollback prepared", "standby"),
    "prove": ("lost_finish", "pg_catalog.pg_xact_status(", "pg_catalog.pg_prepared_xacts"),
    "scan": ("unheard", "x.gid collate", "pg_catalog.pg_prepared_xacts"),
    "identity": ("new_link", "left join lockstep.fence", "lockstep.fence"),
    "commit": ("single", "commit", "standby"),
    "tombstone": ("lost_commit", "insert into lockstep.outcome as o", "lockstep.outcome"),
}
# moment: (story, request, its direction, reply); "up" is towards the coordinator
LINK_MOMENTS = {
    "prepare": ("commit", "work", "down", "vote"),
    "commit": ("commit", "decide", "down", "done"),
    "rollback": ("rollback", "decide", "down", "done"),
    "inquiry": ("unheard", "inquiry", "up", "answer"),
    "single": ("single", "work", "down", "vote"),
    "single-abort": ("slow_single", "decide", "down", "done"),
    "settle": ("lost_vote", "settle", "down", "done"),
    "hello": ("new_link", "hello", "up", "welcome"),
    "prove": ("failover", "prove", "down", "done"),
}


class Cell(collections.namedtuple("Cell", "place fault moment")):
    def __str__(self):
        return "/".join(self)


CELLS = ([Cell("server", fault, moment) for moment in SERVER_MOMENTS for fault in SERVER_FAULTS] +
         [Cell("link", fault, moment) for moment in LINK_MOMENTS for fault in LINK_FAULTS])


class Violation(Exception):
    pass


def require(condition, text):
    if not condition:
        raise Violation(text() if callable(text) else text)


class Client(App):
    """An application that can hang up in the middle of a request."""

    def connection(self, timeout=None):
        self.last = super().connection(timeout)
        return self.last

    def leave(self):
        try:
            self.last.sock.shutdown(socket.SHUT_RDWR)
        except (OSError, AttributeError):
            pass  # the answer was faster


# ---------------------------------------------------------------- making a server wait


class Standby:
    """Commits of the cluster wait for a standby that does not exist: PREPARE, COMMIT and both FINISH PREPARED can be cancelled there."""

    def __init__(self, cluster):
        self.cluster = cluster

    def begin(self):
        self.admin = self.cluster.connect("postgres")
        self.cluster.set(synchronous_standby_names="'nobody'")
        with self.cluster.connect("postgres") as probe:
            # it holds once a commit waits; the server reads its settings when it likes
            future = None

            def waits():
                nonlocal future
                if future is None or future.done():
                    future = background.submit(probe.execute, "select pg_logical_emit_message(true, 'cells', 'probe')")
                return self.waits(probe.info.backend_pid)
            wait_until(waits, 20, "a commit waits for the standby")
            self.admin.execute("select pg_cancel_backend(%s)", (probe.info.backend_pid,))
            future.result(20)

    def waits(self, pid):
        return self.admin.execute("select 1 from pg_stat_get_activity(%s) where wait_event = 'SyncRep'", (pid,)).fetchone()

    def end(self):
        self.cluster.set(synchronous_standby_names="''")
        self.admin.close()


class TableLock:
    """Somebody holds a lock that the statement needs."""

    def __init__(self, database, table):
        self.database, self.table = database, table

    def begin(self):
        self.session = self.database.connect(autocommit=False)
        self.session.execute(f"lock table {self.table} in access exclusive mode")

    def waits(self, pid):
        return self.session.execute("select 1 from pg_locks where pid = %s and not granted", (pid,)).fetchone()

    def end(self):
        self.session.close()


# ---------------------------------------------------------------- one run of one cell


class Run:
    """One transaction, one fault. A story sets what leads to the moment; arm() puts the fault there."""

    def __init__(self, pair, cell, dice):
        self.pair, self.cell, self.dice = pair, cell, dice
        self.system, self.a, self.b = pair.system, pair.a, pair.b
        self.pg, self.pg_b, self.link = pair.system.pg[pair.a], pair.system.pg[pair.b], pair.system.link[pair.a]
        self.key = fresh("cell")
        self.client = Client(self.system.coordinator, self.system.app.files, timeout=60)
        self.names = [self.a, self.b] + ([pair.extra] if pair.extra and dice.random() < 0.33 else [])
        self.options = {"deadline": "10s", "lock_timeout": "1s"}
        self.more_steps, self.expected = [], {"committed", "aborted"}
        self.first = None    # a rule that must have acted before the fault may
        self.meanwhile = []  # what has to be done while the client waits
        self.stall, self.stalled, self.rule, self.left = None, False, None, False

    # -- stories

    def commit(self):
        if self.cell.moment != "prepare":
            self.expected = {"committed"}
        elif self.cell.fault in ("drop-request", "drop-reply", "reset", "reset-request", "reset-reply") or self.cell[:2] == ("server", "cancel"):
            self.expected = {"aborted"}
        if self.cell.moment == "prepare" and self.cell.fault != "cancel":
            self.options["deadline"] = DEADLINE

    def rollback(self):
        """The other branch fails once this one is prepared."""
        self.more_steps = [step(self.b, "select 1/0")]
        failing = self.pg_b.at("select 1/0", "hold")
        self.meanwhile.append(lambda: self.when_prepared(failing))
        self.expected = {"aborted"}

    def when_prepared(self, failing):
        wait_until(lambda: self.system.db[self.a].prepared(), BOUND_S, "the first branch is prepared")
        failing.release()

    def either(self):
        """Commit or rollback of two branches; its word for the statement that finishes."""
        if self.dice.random() < 0.5:
            self.expected = {"committed"}
            return "commit prepared"
        self.rollback()
        return "rollback prepared"

    def lost_finish(self):
        """COMMIT PREPARED or ROLLBACK PREPARED was not answered: only a proof can say how it ended."""
        self.first = self.pg.at(self.either(), self.dice.choice(["lose_reply", "reset"]))

    def unheard(self):
        """The agent never hears the decision: it must ask."""
        self.either()
        self.first = self.link.at("decide", "drop", up=False, match=self.ours, times=None)

    def new_link(self):
        """The link breaks at the decision: the agent looks who its server is and greets again."""
        self.either()
        self.first = self.link.at("decide", "reset", up=False, match=self.ours)

    def single(self):
        self.names = [self.a]
        if self.cell.place == "link":
            self.options["deadline"] = DEADLINE
            if "request" in self.cell.fault and self.cell.fault.startswith(("drop", "reset")):
                self.expected = {"aborted"}
            elif self.cell.fault.startswith(("drop", "reset", "duplicate")):
                self.expected = {"committed"}
        elif self.cell.fault in ("drop-reply", "duplicate", "delay-reply", "cancel"):
            self.expected = {"committed"}
        elif self.cell.fault == "drop-request":
            self.expected = {"aborted"}

    def lost_commit(self):
        """COMMIT never arrives: a tombstone must be committed before anybody is told "aborted"."""
        self.names, self.expected = [self.a], {"aborted"}
        self.first = self.pg.rule(is_commit, "reset")

    def lost_vote(self):
        """The link breaks at the vote of the only participant; sometimes its COMMIT was lost, too."""
        self.names, self.expected = [self.a], {"committed"}
        self.first = self.link.at("vote", "reset", up=True, match=self.ours)
        if self.dice.random() < 0.5:
            self.pg.rule(is_commit, "reset")
            self.expected = {"aborted"}

    def slow_single(self):
        """The deadline passes while the only participant still runs, or its COMMIT is on the way."""
        self.names, self.options["deadline"] = [self.a], "300ms"
        if self.dice.random() < 0.5:
            self.more_steps, self.expected = [step(self.a, "select pg_sleep(5)")], {"aborted"}
            self.link.at("vote", "hold", up=True, match=self.ours, delay=0.8)  # the agent may give up first, and no decision would be needed
        else:
            self.first = self.pg.rule(is_commit, "hold", delay=0.8)

    # -- faults

    def arm(self):
        if self.cell.place == "server":
            _, words, stall = SERVER_MOMENTS[self.cell.moment]
            there = is_commit if words == "commit" else lambda statement: words in statement.sql.lower()
            self.rule = self.arm_server(lambda statement: self.led_here() and there(statement), stall)
        else:
            _, request, direction, reply = LINK_MOMENTS[self.cell.moment]
            self.rule = self.arm_link((request, direction == "up"), (reply, direction != "up"))

    def led_here(self):
        """Such messages may pass at other times, too: the first one behind what the story did counts."""
        return self.first is None or self.first.seen

    def led_here_ours(self, body):
        return self.led_here() and self.ours(body)

    def short(self):
        return self.dice.uniform(0.02, 0.4)

    def arm_server(self, match, stall):
        fault = self.cell.fault
        if fault == "drop-request":
            return self.pg.rule(match, "drop", delay=self.dice.choice([self.short(), self.short(), self.short(), LATE_S]))
        if fault == "drop-reply":
            return self.pg.rule(match, "lose_reply", delay=self.short())
        if fault == "duplicate":
            return self.pg.rule(match, "duplicate", answer=self.dice.randrange(2))
        if fault == "delay-request":
            return self.pg.rule(match, "hold", delay=self.dice.choice([self.short(), self.short(), LATE_S]))
        if fault == "delay-reply":
            return self.pg.rule(match, "hold_reply", delay=self.dice.choice([self.short(), self.short(), LATE_S]))
        if fault == "reset":
            return self.pg.rule(match, self.dice.choice(["reset", "reset_sent"]))
        assert fault == "cancel"
        database = self.system.db[self.a]
        self.stall = Standby(database.cluster) if stall == "standby" else TableLock(database, stall)
        return self.pg.rule(match, "cancel", before=self.stall_begins, after=self.wait_stalled)

    def stall_begins(self):
        require(self.pair.stalls.acquire(timeout=BOUND_S), "another pair's server waits for ever")
        self.stalled = True
        self.stall.begin()

    def wait_stalled(self):
        pid = self.rule.batch.connection.pid
        wait_until(lambda: self.stall.waits(pid), BOUND_S, "the statement to be cancelled waits at the server")

    def end_stall(self):
        if self.stalled:
            self.stalled = False
            try:
                self.stall.end()
            finally:
                self.pair.stalls.release()

    def ours(self, body):
        """Frames of earlier runs may still pass: a repeated decision has a second Done."""
        return getattr(body, "gtid", "none") not in self.pair.past

    def arm_link(self, request, reply):
        kind, up = reply if self.cell.fault.endswith("-reply") else request
        fault = self.cell.fault.partition("-")[0]
        if fault == "cancel":
            way = self.dice.choice(["abort", "leave", "deadline"])
            if way == "deadline":
                self.options["deadline"] = DEADLINE if self.options["deadline"] == "10s" else self.options["deadline"]
                return self.link.at(kind, "hold", up=up, match=self.led_here_ours, delay=LATE_S)
            return self.link.at(kind, "pass", up=up, match=self.led_here_ours, before=self.ask_for_abort if way == "abort" else self.leave)
        delay = {"delay": self.dice.choice([self.short(), self.short(), LATE_S]), "duplicate": self.dice.choice([None, self.short()])}.get(fault)
        return self.link.at(kind, {"delay": "hold"}.get(fault, fault), up=up, match=self.led_here_ours, delay=delay)

    def gtid(self):
        """Of this run's transaction, from its first Work frame."""
        return next((m.body.gtid for m in self.link.log if m.kind == "work" and m.body.gtid not in self.pair.past), None)

    def ask_for_abort(self):
        answer = self.system.app.request("POST", f"/v1/tx/{self.gtid()}/abort", {})
        require(answer.status in (200, 202, 404, 409), f"abort asked for: {answer}")

    def leave(self):
        self.left = True
        self.client.leave()

    # -- play

    def play(self):
        """Returns the outcome; raises Violation."""
        self.link.log.clear()
        story = (SERVER_MOMENTS if self.cell.place == "server" else LINK_MOMENTS)[self.cell.moment][0]
        getattr(self, story)()
        self.arm()
        future = background.submit(self.call)
        for act in self.meanwhile:
            act()
        wait_until(self.rule.hit, BOUND_S, lambda: f"the message of this cell passes; before it: {self.first and self.first.seen}; "
                   f"the client {'was told ' + repr(future.result()) if future.done() else 'waits'}")
        if self.stall is not None:
            self.rule.wait_done(BOUND_S, "the cancelled statement is answered")
            self.end_stall()
        if self.rule.action in ("lose_reply", "hold_reply", "duplicate"):
            self.rule.wait_done(BOUND_S, "the fault is over")
        answer = future.result(60)
        return self.audit(answer)

    def call(self):
        """What was not begun is repeated, as a client would: a link of the run before may just be coming back."""
        steps, end = [step(name, UPSERT, self.key) for name in self.names] + self.more_steps, time.monotonic() + BOUND_S
        while True:
            try:
                answer = self.client.run(steps, **self.options)
            except (OSError, http.client.HTTPException) as error:
                return error
            if answer.begun is not False or time.monotonic() > end:
                return answer
            time.sleep(0.1)

    # -- audit

    def audit(self, answer):
        told = self.what_was_told(answer)
        self.pair.heal()
        again = self.link.at("hello", "pass") if self.cell.moment == "inquiry" and self.cell.fault.startswith("drop") else None
        healed = time.monotonic()
        require(len(self.rule.seen) == 1 and self.rule.hit(), f"the fault acted {len(self.rule.seen)} times")
        require(self.first is None or self.first.seen, "what leads to the moment did not happen")
        if self.cell[:2] == ("server", "cancel"):
            batch = self.rule.batch
            impatient = self.cell.moment == "fence" and "55P03" in batch.errors  # waits so shortly itself that it may give up first
            require(impatient or "57014" in batch.errors or "01000" in batch.notices, f"the cancel hit nothing: {batch} {batch.notices}")
        gtid = getattr(answer, "gtid", None) or self.gtid()
        state = self.wait_known(gtid, told)
        self.wait_quiet()
        require(state in self.expected, f"{state}, expected {' or '.join(sorted(self.expected))}; the client was told {answer}")
        require(told in (None, state), f"the client was told {told}, the outcome is {state}")
        self.compare(state)
        if again is not None:
            again.wait_hit(BOUND_S, "the agent gives up a link on which its Inquiry was not answered")
        self.pair.alive(healed, self.doubled_session)
        self.compare(state)
        return state

    def doubled_session(self, answer):
        """A second copy of BEGIN, statements, PREPARE that fails leaves its session in a failed transaction, of which the agent knows nothing: the
        next branch there is refused, and by that the session is clean again."""
        return self.cell == ("server", "duplicate", "prepare") and answer.sqlstate == "25P02"

    def what_was_told(self, answer):
        if isinstance(answer, Exception):
            require(self.left, f"the client got no answer: {answer!r}")
            return None
        require((answer.status, answer.state) in ((200, "committed"), (409, "aborted"), (202, "pending")), f"not an answer: {answer}")
        if answer.status == 200 and answer.applied:
            self.compare("committed")  # read your writes, before anything heals
        return {200: "committed", 409: "aborted"}.get(answer.status)

    def wait_known(self, gtid, told):
        """What the client finds out by asking."""
        last = [None]

        def known():
            last[0] = self.system.app.get(gtid)
            if last[0].state == "committed":
                return last[0].applied and "committed"
            return last[0].state if last[0].state in ("aborted", "hazard") else None
        return wait_until(known, BOUND_S, lambda: f"the outcome of {gtid} is known and applied (told: {told}); last answer: {last[0]}")

    def wait_quiet(self):
        """A second copy of a statement may still wait for the first one's locks; whatever it prepares must be gone, too."""
        batch = self.rule.batch if self.cell.fault == "duplicate" else None
        if batch is not None:
            wait_until(lambda: batch.answered or batch.connection not in self.pg.connections, BOUND_S, "the second copy is answered")
        left = {}

        def none_left():
            left.update({name: self.system.db[name].prepared() for name in self.pair.names()})
            return not any(left.values())
        wait_until(none_left, BOUND_S, lambda: f"no prepared transaction is left: {left}")

    def compare(self, state):
        there = {name: self.system.db[name].value("select v from item where k = %s", self.key) for name in self.names}
        want = 1 if state == "committed" else None
        require(all(value == want for value in there.values()), f"{state}, but the databases hold {there}")


def is_commit(statement):
    return statement.sql.lower() == "commit"


class Pair:
    """Two databases with an agent each; faults hit the first. Works on one cell at a time."""

    def __init__(self, system, a, b, extra, stalls):
        self.system, self.a, self.b, self.extra, self.stalls = system, a, b, extra, stalls
        self.past = set()  # gtids of earlier runs

    def names(self):
        return [self.a, self.b]

    def heal(self):
        for proxy in (self.system.pg[self.a], self.system.pg[self.b], self.system.link[self.a]):
            proxy.clear()
            proxy.heal()

    def alive(self, healed, excused=lambda answer: False):
        """The next transaction commits."""
        for name in self.names():
            self.system.agents[name].check_alive()
        key, last = fresh("alive"), [None]

        def commits():
            last[0] = self.system.app.run([step(name, UPSERT, key) for name in self.names()])
            if last[0].gtid:
                self.past.add(last[0].gtid)
            require(last[0].status == 200 or last[0].begun is False or last[0].retryable or excused(last[0]), f"the transaction behind the fault: {last[0]}")
            return last[0].status == 200
        wait_until(commits, max(1, healed + BOUND_S - time.monotonic()), lambda: f"a transaction commits after healing: {last[0]}")

    def play(self, cell, dice):
        run = Run(self, cell, dice)
        try:
            return run.play()
        finally:
            run.end_stall()
            self.past.update(m.body.gtid for m in list(run.link.log) if m.kind == "work")
            self.heal()


# ---------------------------------------------------------------- proofs after a failover


class FailoverRun(Run):
    """The server comes back, on a new timeline, from a copy that was made before the transaction. The kept decision must be proved again, the
    loss must be reported as a hazard, and no lost message may keep it silent."""

    def before(self):
        """Everything is over; then the agent dies together with its server."""
        answer = self.call()
        require(not isinstance(answer, Exception) and answer.status == 200 and answer.applied, f"a transaction without a fault: {answer}")
        self.gtid_known = answer.gtid
        self.rule = self.arm_prove(answer.gtid)

    def after(self):
        wait_until(self.rule.hit, 2 * BOUND_S, "the message of this cell passes")
        if self.rule.action == "duplicate":
            self.rule.wait_done(BOUND_S, "the fault is over")
        self.pair.heal()
        healed = time.monotonic()
        state = self.wait_known(self.gtid_known, "committed")
        require(len(self.rule.seen) == 1, f"the fault acted {len(self.rule.seen)} times")
        self.wait_quiet()
        there = {name: self.system.db[name].value("select v from item where k = %s", self.key) for name in self.names}
        require(there == {self.a: None, self.b: 1}, f"hazard, and the databases hold {there}")
        self.pair.alive(healed)
        return state

    def wait_known(self, gtid, told):
        """Committed until the proof has failed."""
        return self.client.wait_state(gtid, ("hazard",), BOUND_S).state

    def arm_prove(self, gtid):
        """Of several proofs only the message that bears this transaction's counts."""
        def ours(message):
            if message.kind == "prove":
                return any(item.gtid == gtid for item in message.body.items)
            return message.kind == "done" and message.body.gtid == gtid
        _, request, direction, reply = LINK_MOMENTS["prove"]
        kind = reply if self.cell.fault.endswith("-reply") else request
        up = (direction == "up") == (kind == request)
        fault = self.cell.fault.partition("-")[0]
        if fault == "cancel":
            # nobody waits for this any more: the client asks for an abort of what was committed long ago
            return self.link.rule(lambda m: m.kind == kind and m.up == up and ours(m), "pass", before=lambda: self.refused_abort(gtid))
        delay = {"delay": self.short(), "duplicate": self.dice.choice([None, self.short()])}.get(fault)
        return self.link.rule(lambda m: m.kind == kind and m.up == up and ours(m), {"delay": "hold"}.get(fault, fault), delay=delay)

    def refused_abort(self, gtid):
        answer = self.system.app.request("POST", f"/v1/tx/{gtid}/abort", {})
        require(answer.state in ("committed", "hazard"), f"abort of a committed transaction: {answer}")


class Failovers:
    """A system of its own, whose first server dies and comes back; three databases of it, so that each time serves three cells."""

    def __init__(self):
        names = ("a0", "a1", "a2")
        self.system = System({**dict.fromkeys(names, 0), "b": 1}, pg_proxies=(*names, "b"), link_proxies=names, **SETTINGS)
        self.pairs = [Pair(self.system, name, "b", None, threading.Lock()) for name in names]
        self.cluster = self.system.clusters[0]
        self.copied = self.cluster.data + ".copy"

    def play(self, cells, dice):
        """One failover. Returns an outcome or an exception per cell."""
        runs, ends = [FailoverRun(pair, cell, one) for pair, cell, one in zip(self.pairs, cells, dice)], []
        self.copy()
        for pair in self.pairs:
            pair.alive(time.monotonic())
        for run in runs:
            run.before()
            self.system.agents[run.a].kill()
        self.cluster.kill()
        self.restore()
        for run in runs:
            self.system.agents[run.a].spawn()
        for run in runs:
            try:
                ends.append(run.after())
            except (Violation, AssertionError) as error:
                ends.append(error)
        return ends

    def copy(self):
        self.close_sessions()
        self.cluster.stop()
        shutil.rmtree(self.copied, ignore_errors=True)
        shutil.copytree(self.cluster.data, self.copied)
        self.cluster.start()

    def restore(self):
        """As a standby that had not received the last transactions, promoted."""
        self.close_sessions()
        remove_folder(self.cluster.data)
        os.rename(self.copied, self.cluster.data)
        with open(os.path.join(self.cluster.data, "standby.signal"), "w", encoding="ascii"):
            pass
        folder.give_to_server(self.cluster.data)
        self.cluster.start()
        with self.cluster.connect("postgres") as session:
            session.execute("select pg_promote()")

    def close_sessions(self):
        for pair in self.pairs:
            self.system.db[pair.a].close()

    def close(self):
        self.system.close()


# ---------------------------------------------------------------- all of them

SETTINGS = {
    "coordinator": {"limits": {"resend": "500ms", "apply_wait": "1500ms"}},
    "agents": {"sweep": {"interval": "500ms"}, "pool": {"workers": 8}, "settle_lock_timeout": "3s"},
}


class Result(collections.namedtuple("Result", "cell count outcome seconds violation")):
    pass


class Bench:
    """`lanes` pairs on two servers for all cells but those of the failover, which have a system of their own."""

    def __init__(self, lanes, seed):
        self.seed, self.lanes = seed, lanes
        self.results, self.lock = [], threading.Lock()
        self.on_result = lambda result: None

    def run(self, work):
        """`work`: list of (cell, count). Every pair takes the next one when it is free."""
        usual, failover = queue.Queue(), queue.Queue()
        for cell, count in work:
            (failover if cell.moment == "prove" and cell.place == "link" else usual).put((cell, count))
        threads = []
        if failover.qsize():
            threads.append(threading.Thread(target=self.failover_lane, args=(failover,), name="failovers"))
            threads[0].start()
        system = None
        try:
            if usual.qsize():
                system, pairs = self.make_pairs()
                threads += [threading.Thread(target=self.lane, args=(pair, usual), name=pair.a) for pair in pairs]
                for thread in threads[-len(pairs):]:
                    thread.start()
            for thread in threads:
                thread.join()
            if system is not None:
                self.last_look(system)
        finally:
            for waiting in (usual, failover):
                with waiting.mutex:
                    waiting.queue.clear()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
            if system is not None:
                system.close()
        return self.results

    def make_pairs(self):
        names = [(f"a{n}", f"b{n}") for n in range(self.lanes)]
        layout = {name: side for pair in names for side, name in enumerate(pair)}
        layout["extra"] = 1
        system = System(layout, pg_proxies=tuple(name for pair in names for name in pair), link_proxies=tuple(a for a, _ in names), **SETTINGS)
        stalls = threading.Lock()
        return system, [Pair(system, a, b, "extra", stalls) for a, b in names]

    def dice(self, cell, count):
        return random.Random(f"{self.seed} {cell} {count}")

    def failover_lane(self, waiting):
        """Makes its system itself: what a thread has started ends with it."""
        failovers = Failovers()
        try:
            while not waiting.empty():
                work = [waiting.get() for _ in range(min(len(failovers.pairs), waiting.qsize()))]
                self.try_work(work, lambda: failovers.play([cell for cell, _ in work], [self.dice(*one) for one in work]))
        finally:
            failovers.close()

    def lane(self, pair, waiting):
        while True:
            try:
                work = waiting.get_nowait()
            except queue.Empty:
                return
            self.try_work([work], lambda: [pair.play(work[0], self.dice(*work))])

    def try_work(self, work, play):
        started = time.monotonic()
        try:
            ends = play()
        except Exception as error:  # a violation, or of the tests' own doing: it must be looked at
            ends = [error] * len(work)
        for (cell, count), end in zip(work, ends):
            violation = (str(end) or repr(end)) if isinstance(end, (Violation, AssertionError)) else repr(end)
            bad = isinstance(end, Exception)
            result = Result(cell, count, None if bad else end, time.monotonic() - started, violation if bad else None)
            with self.lock:
                self.results.append(result)
                self.on_result(result)

    def last_look(self, system):
        orphans = system.orphans()
        hazards = system.admin.metrics().value("lockstepd_transactions_total", outcome="hazard")
        if orphans or hazards:
            self.results.append(Result(Cell("all", "all", "end"), 0, None, 0, f"at the end: orphans {orphans}, hazards {hazards}"))


def table(results):
    """One line per place and moment, one column per fault: runs, and violations where there are any."""
    lines = []
    for place, faults, moments in (("server", SERVER_FAULTS, SERVER_MOMENTS), ("link", LINK_FAULTS, LINK_MOMENTS)):
        lines.append(f"{place:<6} {'moment':<18}" + "".join(f"{fault:>18}" for fault in faults))
        for moment in moments:
            texts = []
            for fault in faults:
                mine = [r for r in results if r.cell == (place, fault, moment)]
                bad = sum(1 for r in mine if r.violation)
                ends = collections.Counter(r.outcome[0] for r in mine if r.outcome)
                texts.append((f"{bad} BAD of " if bad else "") + f"{len(mine)} (" + " ".join(f"{n}{c}" for c, n in sorted(ends.items())) + ")" if mine else "-")
            lines.append(f"{place:<6} {moment:<18}" + "".join(f"{text:>18}" for text in texts))
    return "\n".join(lines + ["in brackets: how many ended committed (c), aborted (a), as the hazard that they are (h)"])


def chosen(patterns):
    return [cell for cell in CELLS if not patterns or any(fnmatch.fnmatchcase(str(cell), pattern) for pattern in patterns)]


def main():
    faulthandler.register(signal.SIGUSR1)  # shows where every thread is
    parser = argparse.ArgumentParser(description="Message-fault cells on real servers.")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lanes", type=int, default=4, help="pairs of databases that work side by side")
    parser.add_argument("--only", action="append", metavar="PLACE/FAULT/MOMENT", help="a pattern; may be given again")
    parser.add_argument("--state", metavar="FILE", help="results so far; runs that are in it are not repeated")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--keep-logs", metavar="DIR", help="copies the programs' logs there at the end")
    options = parser.parse_args()
    cells = chosen(options.only)
    if options.list or not cells:
        print("\n".join(map(str, cells)) or "no such cell")
        return 0 if cells else 2
    done = []
    if options.state and os.path.exists(options.state):
        with open(options.state, encoding="utf-8") as file:
            done = [Result(Cell(*entry[0]), *entry[1:]) for entry in map(json.loads, file)]
    known = {(result.cell, result.count) for result in done}
    work = [(cell, count) for count in range(options.repeat) for cell in cells if (cell, count) not in known]
    bench = Bench(options.lanes, options.seed)
    state = open(options.state, "a", encoding="utf-8") if options.state else None

    def on_result(result):
        if result.violation:
            print(f"violation: {result.cell}, run {result.count}, {result.seconds:.1f} s: {result.violation}", flush=True)
        if state:
            state.write(json.dumps(result) + "\n")
            state.flush()
    bench.on_result = on_result
    started = time.monotonic()
    results = [r for r in done if r.cell in cells and r.count < options.repeat] + (bench.run(work) if work else [])
    if options.keep_logs:
        keep_logs(options.keep_logs)
    print(table(results))
    slow = sorted(results, key=lambda r: -r.seconds)[:5]
    print("slowest: " + ", ".join(f"{r.cell} {r.seconds:.1f} s" for r in slow))
    bad = sum(1 for r in results if r.violation)
    print(f"seed {options.seed}, {time.monotonic() - started:.0f} s")
    print(f"{len(cells)} cells, {len(results)} runs, {bad} violations")
    return 1 if bad or len(results) < len(cells) * options.repeat else 0


def keep_logs(to):
    os.makedirs(to, exist_ok=True)
    for name in os.listdir(folder.path):
        for log in ("log.txt", "log"):
            path = os.path.join(folder.path, name, log)
            if os.path.isfile(path):
                shutil.copy(path, os.path.join(to, f"{name}-{log}"))


if __name__ == "__main__":
    sys.exit(main())
