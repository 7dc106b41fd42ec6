#!/usr/bin/python3
"""The kill matrix: SIGKILL at every crash point of common/failpoints.def, on real PostgreSQL, under load, again and again.

Hazard: a process dies between two steps, and what recovery does there is wrong: one database has a transaction, another has not; an
acknowledged commit is gone; an acknowledged abort appears; something stays prepared, open or locked.
Method: servers, coordinator and agents stay up from round to round. A round: clients work; the point's daemon is killed in the middle
of it and started again with the point armed, so that it comes back to unfinished business and dies at the n-th passing (n from
the seed), in its start or under load; then it is started without the point, the clients stop, everything must come to its end.
Some points need more to happen: a signal, a server on a new timeline, a new log; see SPECS. A point that is not reached is a failure.
Seen if wrong: the audit of workload.py, an orphan 10 s after, a transaction that stays pending, a daemon that ends by itself or with another
status than SIGKILL; at the end pg_amcheck.

    tests/crash/matrix.py --rounds 1 --seed 1                 every point once
    tests/crash/matrix.py --rounds 50 --state DIR             50 times each; what is done is kept in DIR, the same command goes on from there
    tests/crash/matrix.py --rounds 20 --point dlog_after_write
The last line is "N rounds, N points, N violations"; exit status 0: no violation, and every point was reached.
"""

import argparse
import collections
import datetime
import http.client
import json
import os
import random
import re
import shutil
import sys
import threading
import time

from workload import ROLES, Client, Deed, Line, Load, check_indexes, commit_name, keep_logs, wait_orphans

from harness.base import NotReached, wait_until
from harness.programs import ROOT, free_port
from harness.system import GRACE_S, System

with open(os.path.join(ROOT, "common", "failpoints.def"), encoding="utf-8") as source:
    # Without what this load does not come to: calls of sagas to services (tests/pg/test_saga_call.py), and a window shorter than the load
    # (test_horizon.py).
    POINTS = dict(re.findall(r'^FAILPOINT\(((?!saga_call_|coord_settled_)\w+), "([\w-]+)", ".*"\)$', source.read(), re.M))
LAYOUT = {"orders": 0, "balance": 1, "coupons": 1}
KINDS = {"transfer": 6, "order": 2, "too much": 1, "late no": 2, "slow": 2, "reader": 2, "chain": 2, "single": 2, "slow single": 1, "saga": 1, "saga no": 1, "event": 1}
EVENTS = {"event": 6, "transfer": 1}
SAGAS = {"saga": 3, "saga no": 3, "transfer": 1}
SINGLES = {"transfer": 2, "single": 3, "slow single": 5}
SLOW = {"transfer": 2, "slow": 6, "late no": 1, "slow single": 2}
# 64 KiB segments roll after some 150 transactions, and every start begins one: with 256 KiB the oldest goes every few rounds
LOGS = {"wide": {"segment_size": "64KiB", "max_size": "64MiB"}, "narrow": {"segment_size": "64KiB", "max_size": "256KiB"}}
REACH_S, HEALTHY_S = 30, 30


class Spec:
    """What a point needs. `most`: its last passing to die at; `how`: the method of Place that makes it happen; `log`: see LOGS;
    `patience`: seconds before the other side is killed to help it."""

    def __init__(self, how="under_load", most=6, kinds=None, log="wide", patience=1.5):
        self.how, self.most, self.kinds, self.log, self.patience = how, most, kinds or KINDS, log, patience


START = Spec(most=1)
SPECS = {
    **{name: START for name in ("coord_start_locked", "coord_start_replayed", "coord_claim_appended", "coord_start_claimed", "coord_start_listening",
                                "dlog_relog_written", "dlog_relog_synced", "agent_lock_taken", "agent_cleanup_started", "agent_cleanup_done")},
    **{name: Spec(most=2, log="narrow", patience=10) for name in ("dlog_roll_before_header", "dlog_roll_header_synced", "dlog_roll_renamed", "dlog_roll_done",
                                                     "dlog_spare_created", "dlog_spare_filled", "dlog_spare_named")},
    **{name: Spec(most=1, log="narrow", patience=10) for name in ("dlog_before_trim", "dlog_horizon_before_mark", "dlog_before_let_go", "dlog_before_removal",
                                                     "dlog_after_removal")},
    **{name: Spec(most=3) for name in ("coord_hello_received", "coord_welcome_sent", "agent_scan_done")},
    **{name: Spec(most=2, kinds=SLOW) for name in ("coord_inquiry_received", "coord_answer_sent")},
    **{name: Spec(most=1, kinds=SLOW) for name in ("agent_before_hello", "agent_welcome_received", "agent_before_inquiry", "agent_answer_received",
                                                   "agent_before_ready", "agent_proof_answered")},
    **{name: Spec("new_log", most=3) for name in ("coord_participant_appended", "coord_participant_durable")},
    **{name: Spec(most=3, kinds=SAGAS) for name in ("saga_before_begin", "saga_begin_durable", "saga_attempt_answered", "saga_before_phase",
                                                    "saga_passed_durable", "saga_turn_durable", "saga_before_end", "saga_end_durable",
                                                    "saga_before_forget")},
    **{name: Spec(most=4, kinds=EVENTS) for name in POINTS if name.startswith("relay_")},
    "relay_route_received": Spec(most=1, kinds=EVENTS),
    "agent_fence_stored": Spec("new_log", most=1),
    "coord_presume_waits": Spec("somebody_is_missing", most=1),
    "coord_key_joined": Spec(most=3),
    "coord_settle_sent": Spec("agents_die", most=1, kinds=SINGLES),
    "agent_settle_received": Spec(most=1, kinds=SINGLES),
    "agent_before_tombstone": Spec(most=1, kinds=SINGLES),
    "agent_after_tombstone": Spec(most=1, kinds=SINGLES),
    "agent_backend_ended": Spec("coordinator_dies", most=1, kinds=SLOW),
    "agent_key_read": Spec("key_again", most=1),
    "coord_mark_appended": Spec("idle", most=1),
    "coord_history_proved": Spec("new_timeline", most=2),
    "coord_sighting_appended": Spec("kept_by_a_failover", most=1),
    "coord_drain_started": Spec("sigterm", most=1),
    "coord_drained": Spec("sigterm", most=1),
    "agent_drain_started": Spec("sigterm", most=1),
    "agent_before_leave": Spec("sigterm", most=1),
}
assert set(SPECS) <= set(POINTS), set(SPECS) - set(POINTS)


class Violation(Exception):
    pass


class Unreached(Exception):
    pass


class Place:
    """Servers, daemons and clients of many rounds."""

    def __init__(self, log, told):
        self.system = System(LAYOUT, roles=ROLES, coordinator={"log": LOGS[log], "limits": {"resend": "1s"}}, start=False)
        self.load = Load(self.system, LAYOUT, KINDS, clients=4, line=lambda: Line(self.system.coordinator), repeats=0.2)
        self.load.subscribe()
        for agent in self.system.agents.values():
            agent.config["peers"] = {"listen": f"127.0.0.1:{free_port()}"}
        self.system.start()
        wait_until(self.load.events_known, HEALTHY_S, "every agent knows who wants what")
        self.line = Line(self.system.coordinator)
        self.daemon, self.fail, self.dice, self.told = None, None, None, told
        self.daemons = [self.system.coordinator, *self.system.agents.values()]

    def close(self):
        self.load.over.set()
        self.system.close()

    # -- looking

    def ask(self, path):
        """The body of an answer; None when there is none."""
        try:
            return self.line.request("GET", path, timeout=5).body
        except (OSError, http.client.HTTPException):
            return None

    def ready(self, names=LAYOUT):
        body = self.ask("/v1/participants") or {}
        return {entry["name"] for entry in body.get("participants", []) if entry.get("ready")} >= set(names)

    def dead(self):
        return self.daemon.process.poll() is not None

    def nobody_died(self):
        for daemon in self.daemons:
            if daemon.process.poll() is not None:
                raise Violation(f"{daemon.binary} {daemon.name} ended by itself with {daemon.process.returncode}")

    def wait_work(self, count=4):
        """The clients are in the middle of it."""
        wait_until(lambda: self.load.answered >= count, HEALTHY_S, "clients are answered")

    # -- making the point happen: each arms the daemon, and may return before or after its death

    def arm(self):
        self.daemon.kill()
        self.daemon.spawn(fail=self.fail)

    def die_and_return(self, daemon):
        if not self.dead():
            daemon.kill()
            daemon.spawn()

    def under_load(self):
        """It dies in the middle of work, comes back armed, and goes on."""
        self.wait_work(self.dice.randint(4, 12))
        self.arm()

    def agents_die(self):
        self.under_load()
        while not self.over_or_dead():
            self.die_and_return(self.system.agents[self.dice.choice(list(LAYOUT))])
            self.until_dead(1.5)

    def coordinator_dies(self):
        self.under_load()
        while not self.over_or_dead():
            self.until_ready_or_dead()
            self.load.answered = 0
            wait_until(lambda: self.dead() or self.load.answered >= 4, HEALTHY_S, "clients are answered")
            self.die_and_return(self.system.coordinator)

    def sigterm(self):
        self.arm()
        self.until_ready_or_dead()
        self.load.answered = 0
        wait_until(lambda: self.dead() or self.load.answered >= 4, HEALTHY_S, "clients are answered")
        if not self.dead():
            self.daemon.process.terminate()

    def idle(self):
        self.under_load()
        self.until_ready_or_dead()
        self.load.paused = True

    def new_log(self):
        """The log is gone on purpose, and so is what the agents remember of it: everybody meets for the first time."""
        self.settle(self.load.end())
        for daemon in self.daemons:
            daemon.kill()
        shutil.rmtree(self.system.coordinator.data)
        for database in self.system.db.values():
            database.execute("delete from lockstep.fence")
        self.load.begin(self.load.tag + "n", self.dice.random(), self.load.kinds)
        self.load.newcomers = True
        for daemon in self.daemons:
            if daemon is not self.system.coordinator and daemon is not self.daemon:
                wait_until(lambda: os.path.exists(os.path.join(self.system.coordinator.data, "ports")) or self.dead(), HEALTHY_S, "the coordinator listens")
            daemon.spawn(fail=self.fail if daemon is self.daemon else None)
            if daemon is self.system.coordinator:
                wait_until(lambda: os.path.exists(os.path.join(self.system.coordinator.data, "ports")), HEALTHY_S, "the coordinator listens")

    def new_timeline(self):
        """A server is stopped in order and comes back promoted: nothing is lost, and the history has changed."""
        self.under_load()
        self.until_ready_or_dead()
        cluster = self.dice.choice(self.system.clusters)
        cluster.stop()
        with open(os.path.join(cluster.data, "standby.signal"), "w", encoding="utf-8"):
            pass
        cluster.start()
        cluster.promote()

    def kept_by_a_failover(self):
        """The standby has a branch, and nothing of what the primary wrote between PREPARE and the position of the vote. All clients are waited for before,
        since such a failover may lose what they were told."""
        self.settle(self.load.end())
        cluster, orders = self.system.clusters[LAYOUT["orders"]], self.system.db["orders"]
        standby = cluster.make_standby()
        try:
            cluster.wait_streaming()
            self.daemon.kill()
            self.daemon.spawn(fail="coord_decision_durable=kill")
            wait_until(self.ready, HEALTHY_S, "all agents are ready")
            cluster.wait_for_nobody()
            client, key = Client(self.load, 9, 0), self.load.tag + "-kept"
            deed = Deed(key, "kept", *client.move(key, "kept", {"orders": 0, "balance": 0}), True)
            self.extra.append(deed)
            sender = threading.Thread(target=client.send, args=(deed,), daemon=True)
            sender.start()
            wait_until(orders.prepared, HEALTHY_S, "PREPARE waits for a standby that is not there")
            cluster.go_on_alone(standby)
            wait_until(self.dead, HEALTHY_S, "the decision is durable, and nobody was told")
            sender.join()
            cluster.become(standby)
        finally:
            standby.remove()
        self.end = time.monotonic() + REACH_S
        self.daemon.kill()
        self.daemon.spawn(fail=self.fail)
        self.load.begin(self.load.tag + "n", self.dice.random(), self.load.kinds)

    def somebody_is_missing(self):
        """An agent asks about a prepared transaction of an earlier life before all others are back."""
        self.load.paused = True
        patient, late = "orders", [self.system.agents[name] for name in ("balance", "coupons")]
        steps = Client(self.load, 9, 0).move(self.load.tag + "-orphan", "orphan", {"orders": 0, "balance": 0})[1]
        steps.append({"on": "balance", "do": {"sql": "select from pg_sleep(30)"}})
        future = self.system.admin.run_later(steps)
        wait_until(lambda: self.system.db[patient].prepared(), HEALTHY_S, "a branch is prepared")
        for daemon in (self.daemon, *late):
            daemon.kill()
        self.daemon.spawn(fail=self.fail)
        self.until_dead(REACH_S)
        future.exception()
        for agent in late:
            agent.spawn()

    def key_again(self):
        """A key of one database, whose first transaction the coordinator of another life ran."""
        self.arm()
        while not self.over_or_dead():
            self.until_ready_or_dead()
            client = Client(self.load, 8, 0)
            key = f"{self.load.tag}-again{len(self.extra)}"
            deed = Deed(key, "again", *client.make_single(key, "again"), True)
            self.extra.append(deed)
            client.send(deed)
            self.die_and_return(self.system.coordinator)
            self.until_ready_or_dead()
            client.line.close()
            client.send(deed)
            client.line.close()

    # -- waiting

    def over_or_dead(self):
        if time.monotonic() > self.end:
            raise Unreached(f"{self.fail} was not reached within {REACH_S} s")
        return self.dead()

    def until_dead(self, seconds):
        end = time.monotonic() + seconds
        while not self.dead() and time.monotonic() < end:
            time.sleep(0.002)
        return self.dead()

    def until_ready_or_dead(self):
        wait_until(lambda: self.dead() or self.ready(), HEALTHY_S, "all agents are ready, or the point was reached")

    def reach(self, spec):
        """The point's daemon is dead. What does not come by itself is helped: the other side is killed and comes back."""
        while not self.until_dead(spec.patience) and not self.over_or_dead():
            if self.daemon is self.system.coordinator:
                self.die_and_return(self.system.agents[self.dice.choice(list(LAYOUT))])
            elif self.ready(set(LAYOUT) - {self.daemon.name}):
                self.die_and_return(self.system.coordinator)
        code = self.daemon.reap()
        if code != -9:
            raise Violation(f"{self.daemon.binary} {self.daemon.name} ended with {code}, not at {self.fail}")

    # -- a round

    def play(self, point, spec, tag, dice):
        """Raises Violation or Unreached."""
        system, self.dice, self.extra = self.system, dice, []
        self.daemon = system.coordinator if POINTS[point] == "lockstepd" else system.agents[dice.choice(list(LAYOUT))]
        self.load.newcomers = False
        self.end = time.monotonic() + REACH_S
        self.fail = f"{point}=kill@{dice.randint(1, spec.most)}"
        self.load.begin(tag, dice.random(), spec.kinds, self.daemon.name if self.daemon is not system.coordinator else None)
        getattr(self, spec.how)()
        self.reach(spec)
        self.daemon.spawn()
        self.settle(self.load.end() + self.extra)

    def settle(self, deeds):
        """Everything comes to its end, and SQL agrees with what everybody was told."""
        self.load.over.set()
        wait_until(self.ready, HEALTHY_S, "all agents are ready")
        self.nobody_died()
        healed = time.monotonic()
        self.load.finish_known(deeds)
        orphans = wait_orphans(self.system, healed + GRACE_S - time.monotonic())
        if orphans:
            raise Violation(f"{orphans} prepared transactions {GRACE_S} s after everything runs")
        wait_until(self.nothing_pending, GRACE_S, "nothing is pending at the coordinator")
        wait_until(lambda: self.load.events_outstanding() == 0, HEALTHY_S, lambda: f"every event has had its effect: {self.load.events_outstanding()} have not")
        found = self.load.audit(deeds)
        self.told.update(deed.told for deed in deeds)
        if self.load.surprises:
            found["surprises"] = len(self.load.surprises)
            print("\n".join(f"  surprise: {text}" for text in self.load.surprises[:5]))
            self.load.surprises.clear()
        if sum(found.values()):
            raise Violation(", ".join(f"{count} {what}" for what, count in found.items() if count))

    def nothing_pending(self):
        body = self.ask("/v1/tx?state=pending")
        if body is None or body["transactions"]:
            return False
        return not any(database.value("select count(*) from pg_stat_activity where application_name like 'lockstep/%%' and xact_start is not null")
                       for database in self.system.db.values())


class Matrix:
    def __init__(self, options):
        self.options, self.places, self.told = options, {}, collections.Counter()
        self.names = options.point or list(POINTS)[::options.every]
        self.done, self.violations, self.unreached = collections.Counter(), 0, collections.Counter()
        self.file = os.path.join(options.state, "matrix.json") if options.state else None
        if self.file and os.path.exists(self.file):
            with open(self.file, encoding="utf-8") as file:
                kept = json.load(file)
            if kept["seed"] != options.seed:
                raise SystemExit(f"{self.file} belongs to seed {kept['seed']}")
            self.done, self.violations = collections.Counter(kept["done"]), kept["violations"]

    def save(self):
        if self.file:
            os.makedirs(self.options.state, exist_ok=True)
            with open(self.file + ".tmp", "w", encoding="utf-8") as file:
                json.dump({"seed": self.options.seed, "commit": commit_name(), "done": self.done, "violations": self.violations}, file, indent=1)
            os.replace(self.file + ".tmp", self.file)

    def place(self, log):
        if log not in self.places:
            self.places[log] = Place(log, self.told)
        return self.places[log]

    def drop(self, log):
        self.places.pop(log).close()

    def one(self, point, number):
        """One round of one point; a passing that this load does not come to is tried again as the first."""
        spec = SPECS.get(point, Spec())
        place = self.place(spec.log)
        for most in (spec.most, 1):
            begun = time.monotonic()
            try:
                place.play(point, Spec(spec.how, most, spec.kinds, spec.log, spec.patience), f"{point}-{number}-{most}", random.Random(f"{self.options.seed} {point} {number}"))
                if self.options.verbose:
                    print(f"{place.fail:40} {time.monotonic() - begun:5.2f} s", flush=True)
                self.done[point] += 1
                return
            except Unreached as error:
                print(f"round {number}, {point}: {error}", flush=True)
                self.drop(spec.log)
                place = self.place(spec.log)
                if most == 1:
                    break
            except (Violation, NotReached) as error:
                self.violations += 1
                print(f"VIOLATION in round {number} at {place.fail}: {error}", flush=True)
                if self.options.keep_logs:
                    keep_logs(place.system, os.path.join(self.options.keep_logs, f"{point}-{number}"))
                self.drop(spec.log)
                self.done[point] += 1
                return
        self.unreached[point] += 1

    def run(self):
        begun, shown = time.monotonic(), time.monotonic()
        for number in range(1, self.options.rounds + 1):
            for point in self.names:
                if self.done[point] >= number or time.monotonic() - begun > self.options.at_most:
                    continue
                self.one(point, number)
                self.save()
                if self.violations + sum(self.unreached.values()) >= self.options.give_up:
                    return
                if time.monotonic() - shown > 30:
                    shown = time.monotonic()
                    print(f"{sum(self.done.values())} of {self.options.rounds * len(self.names)} rounds, {self.violations} violations, "
                          f"{shown - begun:.0f} s", flush=True)
        for place in self.places.values():
            for wrong in check_indexes(place.system):
                self.violations += 1
                print(wrong)

    def close(self):
        for place in self.places.values():
            place.close()


def main():
    parser = argparse.ArgumentParser(description="SIGKILL at every crash point, audited in SQL.")
    parser.add_argument("--rounds", type=int, default=1, help="of each point")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--point", nargs="+", choices=POINTS, metavar="NAME", help="only these")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every Nth point")
    parser.add_argument("--at-most", type=float, default=float("inf"), metavar="S", help="no round begins later than this many seconds after the first")
    parser.add_argument("--state", metavar="DIR", help="keeps what is done there, and goes on from it")
    parser.add_argument("--keep-logs", metavar="DIR", help="copies the programs' logs there when something is wrong")
    parser.add_argument("--give-up", type=int, default=5, metavar="N", help="stops after so many failures")
    parser.add_argument("--verbose", action="store_true", help="a line for each round")
    options = parser.parse_args()
    begun = time.monotonic()
    matrix = Matrix(options)
    try:
        matrix.run()
    finally:
        matrix.close()
        rounds = {point: matrix.done[point] for point in matrix.names}
        missed = [point for point in matrix.names if not matrix.done[point]]
        if missed:
            print(f"never reached: {' '.join(missed)}")
        print(f"{datetime.date.today()} {commit_name()}: matrix --rounds {options.rounds} --seed {options.seed}: {min(rounds.values())} to "
              f"{max(rounds.values())} rounds per point, {matrix.told['committed']} committed, {matrix.told['aborted']} refused, {matrix.told[None]} unknown to their "
              f"clients, {time.monotonic() - begun:.0f} s")
        print(f"{sum(rounds.values())} rounds, {len(rounds) - len(missed)} points, {matrix.violations} violations", flush=True)
    return 1 if matrix.violations or missed or matrix.unreached else 0


if __name__ == "__main__":
    sys.exit(main())
