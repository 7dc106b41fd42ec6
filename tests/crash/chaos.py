#!/usr/bin/python3
"""Chaos on real servers: 8 clients move money and place orders across four databases while coordinator, agents and servers are
killed with SIGKILL at random moments; then everything is healed and audited in SQL.

Hazard: what no single planned crash shows: crashes of several processes that overlap, in the middle of real work, again and again.
Method: each round has a seed of its own for who is killed, when, and for how long. A client repeats what it got no answer for under
the same Idempotency-Key; what it did without a key stays unknown to it and must only be agreed upon. The system is the same through all
rounds, so that a later round also meets what an earlier one left.
Seen if wrong: one of the four numbers at the end of a round's line is not 0: keys the databases disagree about, acknowledged commits
that are missing, refused transactions that are there, prepared transactions 10 s after everything runs again. Or a sum is wrong.

    tests/crash/chaos.py --rounds 5 --seed 1          exit status 0: all zero
"""

import argparse
import collections
import datetime
import http.client
import os
import random
import shutil
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "pg"))

from harness.base import NotReached  # noqa: E402
from harness.cluster import find_server_programs, run_as_server  # noqa: E402
from harness.programs import ROOT  # noqa: E402
from harness.system import GRACE_S, System, step  # noqa: E402

LAYOUT = {"orders": 0, "products": 1, "balance": 2, "coupons": 2}
NAMES = tuple(LAYOUT)
ACCOUNTS, MONEY = 40, 1000
SCHEMA = """
create table account(id int primary key, amount bigint not null check (amount >= 0));
insert into account select n, %d from generate_series(1, %d) n;
create table ledger(key text primary key, client int not null, kind text not null, change bigint not null);
grant select, insert, update on account, ledger to checkout;
""" % (MONEY, ACCOUNTS)


class Deed:
    """One transaction of a client: what it should have done where, and what the client knows about it."""

    def __init__(self, key, kind, changes, steps, keyed):
        self.key, self.kind, self.changes, self.steps, self.keyed = key, kind, changes, steps, keyed
        self.told = None  # "committed", "aborted", "hazard", None: unknown


class Client(threading.Thread):
    def __init__(self, chaos, number, seed):
        super().__init__(name=f"client {number}")
        self.chaos, self.number, self.random = chaos, number, random.Random(seed)
        self.deeds = []

    def make(self, count):
        """A transfer between 2 to 4 databases, an order on all four, one that must fail, or one on a single database."""
        key = f"r{self.chaos.round}-c{self.number}-{count}"
        kind = self.random.choices(["transfer", "order", "too much", "single"], [6, 3, 1, 2])[0]
        if kind == "order":
            names, amounts = NAMES, [self.random.randint(1, 5)] * 4
            changes = dict(zip(names, [amounts[0] * 3, -amounts[0], -amounts[0], -amounts[0]]))
        elif kind == "single":
            names = (self.random.choice(NAMES),)
            changes = {names[0]: 0}
        else:
            names = tuple(self.random.sample(NAMES, self.random.randint(2, 4)))
            amount = self.random.randint(1, 9) if kind == "transfer" else ACCOUNTS * MONEY * 10
            changes = {name: amount for name in names}
            changes[names[-1]] = -amount * (len(names) - 1)
        steps = []
        for name in names:
            account = self.random.randint(1, ACCOUNTS)
            steps.append(step(name, "insert into ledger values ($1, $2, $3, $4)", key, self.number, kind, changes[name]))
            if kind == "single":
                steps.append(step(name, "update account set amount = amount - 1 where id = $1 and amount > 0", account))
                steps.append(step(name, "update account set amount = amount + 1 where id = $1", account))
            else:
                steps.append(step(name, "update account set amount = amount + $1 where id = $2 and amount + $1 >= 0", changes[name], account,
                                  expect_rows=1))
        return Deed(key, kind, changes, steps, self.random.random() < 0.6)

    def run(self):
        count = 0
        while not self.chaos.over.is_set():
            count += 1
            deed = self.make(count)
            self.deeds.append(deed)
            self.submit(deed)
            if self.chaos.over.wait(self.random.random() * 0.02):
                break

    def submit(self, deed):
        """Sends it; with a key again and again until something is known or the round is over."""
        while True:
            try:
                answer = self.chaos.system.app.run(deed.steps, key=deed.key if deed.keyed else None, timeout=15)
            except (OSError, http.client.HTTPException):
                answer = None
            if answer is not None:
                if answer.status in (200, 409) and answer.state in ("committed", "aborted", "hazard"):
                    deed.told = answer.state
                    return
                if answer.status in (429, 503) and answer.body and answer.body.get("begun") is False:
                    deed.told = "not begun"
                elif answer.status == 400 or answer.status >= 500 and answer.status != 503:
                    self.chaos.surprises.append(f"{deed.key}: {answer}")
                    return
                elif answer.status == 202:
                    deed.told = None
                    if self.follow(deed, answer.gtid):
                        return
            else:
                deed.told = None
            if not deed.keyed and deed.told is None:
                return
            if self.chaos.over.wait(0.05):
                return
            if deed.told == "not begun" and not deed.keyed:
                continue

    def follow(self, deed, gtid):
        """202: asks until the outcome is known. False: the round ended first."""
        while not self.chaos.over.wait(0.1):
            try:
                state = self.chaos.system.app.get(gtid).state
            except (OSError, http.client.HTTPException):
                continue
            if state in ("committed", "aborted", "hazard"):
                deed.told = state
                return True
        return False


class Chaos:
    def __init__(self, options):
        self.options = options
        self.system = System(LAYOUT, coordinator={"log": {"segment_size": "64KiB", "max_size": "1MiB"}} if options.small_log else None)
        for database in self.system.db.values():
            database.execute(SCHEMA)
        self.round, self.over = 0, threading.Event()
        self.surprises, self.deeds = [], []
        self.totals = collections.Counter()

    # -- who is killed

    def targets(self):
        system = self.system
        return ([("coordinator", system.coordinator)] * 3 + [("agent", agent) for agent in system.agents.values()] +
                [("server", cluster) for cluster in system.clusters])

    def torment(self, dice, end):
        """Kills and restarts until `end`. Runs in the main thread: what it starts dies with the thread that started it."""
        killed, back = collections.Counter(), []
        while time.monotonic() < end:
            time.sleep(dice.uniform(0.05, 1.2))
            for _ in range(dice.choice([1, 1, 1, 1, 2, 3])):
                kind, victim = dice.choice(self.targets())
                if victim.process is not None and victim.process.poll() is None:
                    victim.kill()
                    killed[kind] += 1
                    back.append((time.monotonic() + dice.choice([0, 0, 0.1, 0.5, 1.2]), victim))
            for due, victim in list(back):
                if due <= time.monotonic():
                    back.remove((due, victim))
                    victim.spawn()
            self.revive(back)
        return killed

    def revive(self, back):
        """What ended by itself is an event, too: agents that met a dead server go on by themselves, nothing else may end."""
        waiting = [victim for _, victim in back]
        for kind, victim in set(self.targets()):
            if victim not in waiting and victim.process is not None and victim.process.poll() is not None:
                code = victim.process.returncode
                victim.reap()
                # a postmaster started too early after its kill finds the old shared memory in use, and says so
                if kind != "server":
                    self.surprises.append(f"round {self.round}: {kind} {getattr(victim, 'name', '')} ended by itself with {code}")
                victim.spawn()

    # -- a round

    def play(self, number):
        self.round = number
        self.over.clear()
        dice = random.Random(self.options.seed * 100003 + number)
        clients = [Client(self, n, dice.random()) for n in range(self.options.clients)]
        for client in clients:
            client.start()
        killed = self.torment(dice, time.monotonic() + self.options.seconds)
        self.over.set()
        self.system.heal()
        healed = time.monotonic()
        for client in clients:
            client.join()
        deeds = [deed for client in clients for deed in client.deeds]
        self.deeds += deeds
        orphans = self.wait_orphans(healed)
        self.finish_known(deeds)
        found = self.audit(deeds)
        found["orphans"] = orphans
        told = collections.Counter(deed.told for deed in deeds)
        self.totals.update(found)
        self.totals.update({"committed": told["committed"], "refused": told["aborted"], "unknown": told[None], "kills": sum(killed.values())})
        print(f"round {number}: {told['committed']} committed, {told['aborted']} refused, {told[None]} unknown to their clients; killed: "
              f"coordinator {killed['coordinator']}, agents {killed['agent']}, servers {killed['server']}; "
              f"differences {found['differences']}, lost {found['lost']}, refused but there {found['ghosts']}, orphans {orphans}", flush=True)
        return not (sum(found.values()) or self.surprises)

    def wait_orphans(self, healed):
        try:
            self.system.no_orphans(max(0.1, healed + GRACE_S - time.monotonic()))
            return 0
        except NotReached as error:
            print(f"round {self.round}: {error}")
            return sum(len(gids) for gids in self.system.orphans().values())

    def finish_known(self, deeds):
        """A client with a key comes back once more now that everything runs, and must be told."""
        for deed in deeds:
            if deed.keyed and deed.told in (None, "not begun"):
                answer = self.system.app.run(deed.steps, key=deed.key)
                if answer.status == 202:
                    answer = self.system.app.wait_state(answer.gtid, ("committed", "aborted", "hazard"))
                if answer.state not in ("committed", "aborted"):
                    self.surprises.append(f"{deed.key} repeated after healing: {answer}")
                deed.told = answer.state

    def audit(self, deeds):
        """Compares what the clients know with what SQL sees."""
        there = {name: dict(self.system.db[name].query("select key, change from ledger where key like %s", f"r{self.round}-%"))
                 for name in NAMES}
        found = collections.Counter({"differences": 0, "lost": 0, "ghosts": 0, "sums": 0, "hazards": 0})
        for deed in deeds:
            where = {name for name in NAMES if deed.key in there[name]}
            everywhere = set(deed.changes)
            if where not in (set(), everywhere):
                found["differences"] += 1
                print(f"  difference: {deed.key} ({deed.kind}, client was told {deed.told}) is in {sorted(where)}, not in {sorted(everywhere - where)}")
            if deed.told == "committed" and where != everywhere:
                found["lost"] += 1
                print(f"  lost: {deed.key} ({deed.kind}) was acknowledged and is only in {sorted(where)}")
            if deed.told in ("aborted", "not begun") and where:
                found["ghosts"] += 1
                print(f"  ghost: {deed.key} ({deed.kind}) was {deed.told} and is in {sorted(where)}")
            if deed.told == "hazard":
                found["hazards"] += 1
                print(f"  hazard: {deed.key} ({deed.kind}), though no outside hand touched anything")
        total = 0
        for name in NAMES:
            database = self.system.db[name]
            money = database.value("select sum(amount)::bigint from account")
            changed = database.value("select coalesce(sum(change), 0)::bigint from ledger")
            total += money
            if money != ACCOUNTS * MONEY + changed:
                found["sums"] += 1
                print(f"  sum: {name} holds {money}, its ledger says {ACCOUNTS * MONEY + changed}")
        if total != len(NAMES) * ACCOUNTS * MONEY:
            found["sums"] += 1
            print(f"  sum: all databases together hold {total}, must be {len(NAMES) * ACCOUNTS * MONEY}")
        return found

    def check_indexes(self):
        """pg_amcheck on every database: crashes under prepared transactions have left broken indexes in the past (hazards A7)."""
        tool = os.path.join(find_server_programs(), "pg_amcheck")
        if not os.path.exists(tool):
            return
        for cluster in self.system.clusters:
            try:
                run_as_server([tool, "--all", "--install-missing", "-h", cluster.directory, "-U", "postgres"])
            except subprocess.CalledProcessError as error:
                self.surprises.append(f"pg_amcheck: {error.stdout.decode()[-2000:]}")


def commit_name():
    done = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def main():
    parser = argparse.ArgumentParser(description="Chaos on real servers, audited in SQL.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=8, help="torment of one round")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--small-log", action="store_true", help="64 KiB segments, so that the log turns over while it is tormented")
    parser.add_argument("--keep-logs", metavar="DIR", help="copies the programs' logs there when something is wrong")
    options = parser.parse_args()
    started = time.monotonic()
    chaos = Chaos(options)
    good = True
    try:
        for number in range(1, options.rounds + 1):
            good = chaos.play(number) and good
            if not good:
                break
        if good:
            chaos.check_indexes()
        for surprise in chaos.surprises:
            print(f"surprise: {surprise}")
        good = good and not chaos.surprises
        if not good and options.keep_logs:
            keep_logs(chaos, options.keep_logs)
        totals = chaos.totals
        print(f"{datetime.date.today()} {commit_name()}: chaos --rounds {options.rounds} --seed {options.seed}: {totals['committed']} committed, "
              f"{totals['refused']} refused, {totals['unknown']} unknown, {totals['kills']} kills; differences {totals['differences']}, lost {totals['lost']}, "
              f"refused but there {totals['ghosts']}, wrong sums {totals['sums']}, hazards {totals['hazards']}, orphans {totals['orphans']}; "
              f"{time.monotonic() - started:.0f} s: {'ok' if good else 'NOT OK'}")
    finally:
        chaos.over.set()
        chaos.system.close()
    return 0 if good else 1


def keep_logs(chaos, directory):
    os.makedirs(directory, exist_ok=True)
    for daemon in (chaos.system.coordinator, *chaos.system.agents.values()):
        shutil.copy(daemon.log, os.path.join(directory, f"{daemon.binary}-{daemon.name}.log"))
    for cluster in chaos.system.clusters:
        shutil.copy(cluster.log, os.path.join(directory, f"{cluster.name}.log"))


if __name__ == "__main__":
    sys.exit(main())
