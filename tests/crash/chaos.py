#!/usr/bin/python3
"""Chaos on real servers: 8 clients move money and place orders across four databases while coordinator, agents and servers are
killed with SIGKILL at random moments; then everything is healed and audited in SQL.

Hazard: what no single planned crash shows: crashes of several processes that overlap, in the middle of real work, again and again.
Method: each round has a seed of its own for who is killed, when, and for how long. The clients and the audit are those of workload.py. The
system is the same through all rounds, so that a later round also meets what an earlier one left.
Seen if wrong: one of the four numbers at the end of a round's line is not 0: keys the databases disagree about, acknowledged commits
that are missing, refused transactions that are there, prepared transactions 10 s after everything runs again. Or a sum is wrong.

    tests/crash/chaos.py --rounds 5 --seed 1          exit status 0: all zero
"""

import argparse
import collections
import datetime
import random
import sys
import time

from workload import Load, check_indexes, commit_name, keep_logs, wait_orphans

from harness.system import GRACE_S, System

LAYOUT = {"orders": 0, "products": 1, "balance": 2, "coupons": 2}
KINDS = {"transfer": 6, "order": 3, "too much": 1, "single": 2}


class Chaos:
    def __init__(self, options):
        self.options = options
        self.system = System(LAYOUT, coordinator={"log": {"segment_size": "64KiB", "max_size": "1MiB"}} if options.small_log else None)
        self.load = Load(self.system, LAYOUT, KINDS, clients=options.clients, line=lambda: self.system.app, pause_s=0.02)
        self.round, self.totals = 0, collections.Counter()

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
                    self.load.surprises.append(f"round {self.round}: {kind} {getattr(victim, 'name', '')} ended by itself with {code}")
                victim.spawn()

    # -- a round

    def play(self, number):
        self.round = number
        seed = self.options.seed * 100003 + number
        dice = random.Random(seed)
        self.load.begin(f"r{number}", seed)
        killed = self.torment(dice, time.monotonic() + self.options.seconds)
        self.load.over.set()
        self.system.heal()
        healed = time.monotonic()
        deeds = self.load.end()
        orphans = wait_orphans(self.system, healed + GRACE_S - time.monotonic())
        self.load.finish_known(deeds)
        found = self.load.audit(deeds)
        found["orphans"] = orphans
        told = collections.Counter(deed.told for deed in deeds)
        self.totals.update(found)
        self.totals.update({"committed": told["committed"], "refused": told["aborted"], "unknown": told[None], "kills": sum(killed.values())})
        print(f"round {number}: {told['committed']} committed, {told['aborted']} refused, {told[None]} unknown to their clients; killed: "
              f"coordinator {killed['coordinator']}, agents {killed['agent']}, servers {killed['server']}; "
              f"differences {found['differences']}, lost {found['lost']}, refused but there {found['ghosts']}, orphans {orphans}", flush=True)
        return not (sum(found.values()) or self.load.surprises)


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
    surprises = chaos.load.surprises
    good = True
    try:
        for number in range(1, options.rounds + 1):
            good = chaos.play(number) and good
            if not good:
                break
        if good:
            surprises += check_indexes(chaos.system)
        for surprise in surprises:
            print(f"surprise: {surprise}")
        good = good and not surprises
        if not good and options.keep_logs:
            keep_logs(chaos.system, options.keep_logs)
        totals = chaos.totals
        print(f"{datetime.date.today()} {commit_name()}: chaos --rounds {options.rounds} --seed {options.seed}: {totals['committed']} committed, "
              f"{totals['refused']} refused, {totals['unknown']} unknown, {totals['kills']} kills; differences {totals['differences']}, lost {totals['lost']}, "
              f"refused but there {totals['ghosts']}, wrong sums {totals['sums']}, hazards {totals['hazards']}, orphans {totals['orphans']}; "
              f"{time.monotonic() - started:.0f} s: {'ok' if good else 'NOT OK'}")
    finally:
        chaos.load.over.set()
        chaos.system.close()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
