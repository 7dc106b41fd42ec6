#!/usr/bin/python3
"""Pauses on real servers: coordinator, agent, server, agent and server, or a client stand still (SIGSTOP, a frozen virtual machine) for 5, 20 and
60 s under load and go on as if nothing had happened; then everything is audited in SQL.

Hazard: who was given up by all others wakes and acts on what it knew: a COMMIT or a vote of long ago on a new link, an answer nobody waits for
(hazards D9, D13). Or a pause of one blocks the databases of the others for as long as it lasts.
Method: clients with a deadline of 4 s; the role is stopped in the middle of their work. While it sleeps the other servers are asked for how long
a branch has been prepared there. The system is the same through all rounds. tests/pg/test_pauses.py has the short form and old coordinators
beside their successors.
Seen if wrong: the audit of workload.py, an orphan 10 s after everything is ready, a daemon that ends by itself, no commits within 60 s after SIGCONT,
or, when it was not the coordinator that slept, a branch that stays prepared in another database for 20 s.

    tests/crash/pauses.py --seed 1                                 each role, 5, 20 and 60 s
    tests/crash/pauses.py --rounds 10 --state DIR                  ten times; what is done is kept in DIR, the same command goes on from there
    tests/crash/pauses.py --role coordinator --seconds 60
The last line is "N pauses of N s in all, N violations"; exit status 0: no violation.
"""

import argparse
import collections
import datetime
import json
import os
import random
import signal
import subprocess
import sys
import time

from workload import FINAL, ROLES as APP_ROLES, Client, Deed, Line, Load, check_indexes, commit_name, keep_logs, wait_orphans

from harness.base import NotReached, folder, processes, wait_until
from harness.programs import environment, program
from harness.system import GRACE_S, System, step

LAYOUT = {"orders": 0, "balance": 1, "coupons": 1}
KINDS = {"transfer": 6, "order": 2, "too much": 1, "slow": 2, "late no": 1, "chain": 1, "single": 2}
ROLES = ("coordinator", "agent", "server", "agent and server", "client")
SECONDS = (5, 20, 60)
BLOCKED_S, HEALTHY_S = 20, 60
PREPARED = "select coalesce(max(extract(epoch from clock_timestamp() - prepared)), 0) from pg_prepared_xacts where database = current_database()"
SLEEP = "select from pg_sleep(0.5)"


class Violation(Exception):
    pass


class Place:
    """Servers, daemons and clients of all rounds."""

    def __init__(self):
        self.system = System(LAYOUT, roles=APP_ROLES, coordinator={"limits": {"deadline": "4s", "lock_timeout": "1s"}})
        self.load = Load(self.system, LAYOUT, KINDS, clients=6, line=lambda: Line(self.system.coordinator), pause_s=0.02, repeats=0.2)
        self.line = Line(self.system.coordinator)
        self.daemons = [self.system.coordinator, *self.system.agents.values()]

    def close(self):
        self.load.over.set()
        self.system.close()

    def committed(self):
        return sum(deed.told == "committed" for client in self.load.clients for deed in list(client.deeds))

    def wait_commits(self, count, what):
        """Returns how long it took."""
        before, begun = self.committed(), time.monotonic()
        wait_until(lambda: self.committed() >= before + count, HEALTHY_S, what)
        return time.monotonic() - begun

    def ready(self):
        try:
            body = self.line.request("GET", "/v1/participants", timeout=5).body or {}
        except OSError:
            return False
        return {entry["name"] for entry in body.get("participants", []) if entry.get("ready")} >= set(LAYOUT)

    def nobody_died(self):
        for daemon in self.daemons:
            if daemon.process.poll() is not None:
                raise Violation(f"{daemon.binary} {daemon.name} ended by itself with {daemon.process.returncode}")

    # -- pausing

    def sleep(self, seconds, others):
        """The pause. Returns the longest time that a branch has been prepared in one of these databases meanwhile."""
        worst, end = 0.0, time.monotonic() + seconds
        while time.monotonic() < end:
            worst = max([worst] + [float(self.system.db[name].value(PREPARED)) for name in others])
            time.sleep(0.2)
        return worst

    def pause(self, role, seconds, dice):
        """Stops who is meant, and lets go again. Returns for how long others were blocked, and deeds of its own."""
        name = dice.choice(list(LAYOUT))
        if role == "client":
            return self.pause_client(seconds)
        agent, server = self.system.agents[name], self.system.clusters[LAYOUT[name]]
        victims = {"coordinator": [self.system.coordinator], "agent": [agent], "server": [server], "agent and server": [agent, server]}[role]
        others = [other for other, number in LAYOUT.items()
                  if not (agent in victims and other == name) and not (server in victims and number == LAYOUT[name])]
        for victim in victims:
            victim.freeze()
        try:
            return self.sleep(seconds, others), []
        finally:
            for victim in reversed(victims):
                victim.thaw()

    def pause_client(self, seconds):
        """`lockstep run`, stopped while its statements run; it finds its answer, or nothing, when it wakes."""
        key = self.load.tag + "-asleep"
        changes, steps = Client(self.load, 9, 0).move(key, "asleep", {"orders": 1, "balance": -1})
        deed = Deed(key, "asleep", changes, [*steps, step("balance", SLEEP)], True)
        path = os.path.join(folder.make("doc"), "run.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"mode": "2pc", "steps": deed.steps}, file)
        client = processes.start([program("lockstep"), "run", path, "--key", key, "-o", "json", "--url", f"unix:{self.system.coordinator.socket}"],
                                 env=environment(), stdout=subprocess.PIPE, cwd=folder.path)
        try:
            active = f"select count(*) from pg_stat_activity where state = 'active' and query = '{SLEEP}' and pid <> pg_backend_pid()"
            wait_until(lambda: self.system.db["balance"].value(active), HEALTHY_S, "the client's statements run")
            os.kill(client.pid, signal.SIGSTOP)
            blocked = self.sleep(seconds, LAYOUT)
            os.kill(client.pid, signal.SIGCONT)
            output, _ = client.communicate(timeout=HEALTHY_S)
        finally:
            client.kill()
            client.wait()
            processes.forget(client)
        state = (json.loads(output) if output.strip() else {}).get("state")
        deed.told = state if state in FINAL else None
        return blocked, [deed]

    # -- a round

    def play(self, role, seconds, tag, dice):
        """Returns the figures of the round; raises Violation or NotReached."""
        self.load.begin(tag, dice.random())
        self.wait_commits(12, "clients are at work")
        time.sleep(dice.random() * 0.2)  # anywhere in their work
        blocked, own = self.pause(role, seconds, dice)
        back = self.wait_commits(12, "transactions commit after the pause")
        deeds = self.load.end() + own
        wait_until(self.ready, HEALTHY_S, "all agents are ready")
        self.nobody_died()
        self.settle(deeds, time.monotonic())
        if role != "coordinator" and blocked > BLOCKED_S:
            raise Violation(f"a branch of another database stayed prepared for {blocked:.1f} s")
        return {"blocked": blocked, "back": back, "transactions": len(deeds), "told": collections.Counter(str(deed.told) for deed in deeds)}

    def settle(self, deeds, healed):
        """Everything comes to its end, and SQL agrees with what everybody was told."""
        self.load.finish_known(deeds)
        orphans = wait_orphans(self.system, healed + GRACE_S - time.monotonic())
        if orphans:
            raise Violation(f"{orphans} prepared transactions {GRACE_S} s after everything runs")
        found = self.load.audit(deeds)
        found["surprises"] = len(self.load.surprises)
        print("".join(f"  surprise: {text}\n" for text in self.load.surprises[:5]), end="")
        self.load.surprises.clear()
        if sum(found.values()):
            raise Violation(", ".join(f"{count} {what}" for what, count in found.items() if count))


class Pauses:
    def __init__(self, options):
        self.options, self.place = options, None
        self.done, self.slept, self.violations = {}, 0, 0
        self.file = os.path.join(options.state, "pauses.json") if options.state else None
        if self.file and os.path.exists(self.file):
            with open(self.file, encoding="utf-8") as file:
                kept = json.load(file)
            if kept["seed"] != options.seed:
                raise SystemExit(f"{self.file} belongs to seed {kept['seed']}")
            self.done, self.slept, self.violations = kept["done"], kept["slept"], kept["violations"]

    def save(self):
        if self.file:
            os.makedirs(self.options.state, exist_ok=True)
            with open(self.file + ".tmp", "w", encoding="utf-8") as file:
                json.dump({"seed": self.options.seed, "commit": commit_name(), "done": self.done, "slept": self.slept,
                           "violations": self.violations}, file, indent=1)
            os.replace(self.file + ".tmp", self.file)

    def one(self, role, seconds, number):
        self.place = self.place or Place()
        dice = random.Random(f"{self.options.seed} {role} {seconds} {number}")
        try:
            figures = self.place.play(role, seconds, f"{role[0]}{role[-1]}{seconds}-{number}", dice)
            print(f"round {number}: {role}, {seconds} s: {figures['transactions']} transactions, {figures['told']['committed']} committed; "
                  f"a branch of another database was prepared for at most {figures['blocked']:.1f} s, commits again {figures['back']:.1f} s after", flush=True)
        except (Violation, NotReached, subprocess.TimeoutExpired) as error:
            self.violations += 1
            print(f"VIOLATION in round {number}, {role}, {seconds} s: {error}", flush=True)
            if self.options.keep_logs:
                keep_logs(self.place.system, os.path.join(self.options.keep_logs, f"{role.replace(' ', '-')}-{seconds}-{number}"))
            self.close()
        self.done[f"{role}, {seconds} s"] = number
        self.slept += seconds
        self.save()

    def run(self):
        for number in range(1, self.options.rounds + 1):
            for seconds in self.options.seconds:
                for role in self.options.role:
                    if self.done.get(f"{role}, {seconds} s", 0) < number and self.violations < self.options.give_up:
                        self.one(role, seconds, number)
        for wrong in check_indexes(self.place.system) if self.place else []:
            self.violations += 1
            print(wrong)

    def close(self):
        if self.place:
            self.place.close()
            self.place = None


def main():
    parser = argparse.ArgumentParser(description="Each role stands still under load, audited in SQL.")
    parser.add_argument("--rounds", type=int, default=1, help="of each role and length")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--role", nargs="+", choices=ROLES, default=ROLES, metavar="NAME", help=f"only these: {', '.join(ROLES)}")
    parser.add_argument("--seconds", nargs="+", type=int, default=SECONDS, metavar="N", help="only so long")
    parser.add_argument("--state", metavar="DIR", help="keeps what is done there, and goes on from it")
    parser.add_argument("--keep-logs", metavar="DIR", help="copies the programs' logs there when something is wrong")
    parser.add_argument("--give-up", type=int, default=3, metavar="N", help="stops after so many violations")
    options = parser.parse_args()
    begun = time.monotonic()
    pauses = Pauses(options)
    try:
        pauses.run()
    finally:
        pauses.close()
        print(f"{datetime.date.today()} {commit_name()}: pauses --rounds {options.rounds} --seed {options.seed}: {time.monotonic() - begun:.0f} s")
        print(f"{sum(pauses.done.values())} pauses of {pauses.slept} s in all, {pauses.violations} violations", flush=True)
    return 1 if pauses.violations else 0


if __name__ == "__main__":
    sys.exit(main())
