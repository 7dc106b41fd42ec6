#!/usr/bin/python3
"""Half load with kills now and then, for half an hour: memory and cost per transaction stay what they are.

Hazard: what only time shows: memory that grows with what was done, a list that gets longer, work that is repeated for what is long over.
Method: the clients and the audit of workload.py, at half the rate that they reach without pauses, in five equal parts. Servers and agents of two
participants are killed now and then and come back. The coordinator, the agent of the first participant and its server live through all of it: their memory
(VmRSS) and their CPU per transaction of the last fifth are held against those of the first. CPU is counted in the seconds in which nobody is away (what
waits costs, and commits nothing), and judged in runs of five minutes or more: in shorter ones it says more about the machine. Log and memory of
outcomes are kept small (`log.max_size`, `limits.finished`), so that what is bounded by configuration reaches its bound soon. After each part everything is healed and audited in SQL.
Seen if wrong: a process that has grown, a transaction that costs more than 1.5 times as much at the end, or one of the audit's numbers not 0.

    tests/crash/soak.py --seconds 1800 --seed 1          exit status 0: all of it holds
"""

import argparse
import collections
import datetime
import os
import random
import sys
import time

from workload import ROLES, Line, Load, commit_name, wait_orphans

from harness.base import children
from harness.system import GRACE_S, System

LAYOUT = {"orders": 0, "products": 1, "balance": 2}
KINDS = {"transfer": 6, "order": 3, "too much": 1, "single": 2, "saga": 1}
PARTS = 5
CLIENTS = 8
MEMORY_FACTOR, MEMORY_KIB = 1.1, 2048  # the last part's most may be so much more than the first's
CPU_FACTOR, CPU_SECONDS = 1.5, 300  # judged in runs that are at least so long
QUIET_S = 2  # after somebody's return
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid):
    """Of a process, its children that have ended, and those that live."""
    def fields(number):
        with open(f"/proc/{number}/stat", encoding="ascii", errors="replace") as file:
            return [int(word) for word in file.read().rpartition(")")[2].split()[11:15]]
    total = sum(fields(pid))
    for child in children(pid):
        try:
            total += sum(fields(child)[:2])
        except (OSError, ValueError):
            continue  # ended meanwhile: counted with its parent next time
    return total / TICKS


def memory_kib(pid):
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS:"))


class Part:
    """What a fifth of the time came to."""

    def __init__(self):
        self.memory, self.cpu = collections.Counter(), collections.Counter()  # KiB at most; seconds
        self.transactions = self.kills = 0  # transactions: answered while nobody was away

    def cost(self, name):
        return self.cpu[name] * 1e6 / max(1, self.transactions)


class Soak:
    def __init__(self, options):
        self.options = options
        self.system = System(LAYOUT, roles=ROLES, agents={"limits": {"finished": 1024}},
                             coordinator={"log": {"segment_size": "256KiB", "max_size": "2MiB"}, "limits": {"finished": 1024}})
        self.load = Load(self.system, LAYOUT, KINDS, clients=CLIENTS, line=lambda: Line(self.system.coordinator))
        self.watched = {"lockstepd": self.system.coordinator, "agent": self.system.agents["orders"], "server": self.system.clusters[0]}
        self.victims = [self.system.agents["products"], self.system.agents["balance"], *self.system.clusters[1:]]
        self.wrong, self.totals = [], collections.Counter()

    def halve(self):
        """Pauses as long as the work takes give half the rate."""
        seconds = min(5, self.options.seconds / 12)
        self.load.begin("full", self.options.seed)
        self.load.over.wait(seconds)
        rate = len(self.load.end()) / seconds
        self.load.pause_s = 2 * CLIENTS / rate  # each pauses for half of that on average
        return rate

    def torment(self, dice, end, part):
        """Kills and revives, and looks at the watched ones once a second."""
        gone, quiet_from = {}, 0.0
        pause = min(20, max(2, self.options.seconds / 15))
        kill_at = time.monotonic() + pause * dice.uniform(0.5, 1.5)
        while time.monotonic() < end:
            before, cpu, answered = time.monotonic(), self.cpu(), self.load.answered
            time.sleep(min(1, max(0.05, end - before)))
            now = time.monotonic()
            if not gone and before >= quiet_from:
                part.transactions += self.load.answered - answered
                part.cpu.update({name: used - cpu[name] for name, used in self.cpu().items()})
            for victim in [victim for victim, back_at in gone.items() if back_at <= now]:
                del gone[victim]
                victim.spawn()
                quiet_from = time.monotonic() + QUIET_S
            if now >= kill_at and not gone:
                victim = dice.choice(self.victims)
                victim.kill()
                part.kills += 1
                gone[victim] = now + dice.choice([0, 0.5, 1.5])
                kill_at = now + pause * dice.uniform(0.5, 1.5)
            self.revive(gone)
            for name, process in self.watched.items():
                part.memory[name] = max(part.memory[name], memory_kib(process.process.pid))

    def cpu(self):
        return {name: cpu_s(process.process.pid) for name, process in self.watched.items()}

    def revive(self, gone):
        """An agent that met a dead server, or a server started too early after its kill, has ended by itself; those that are watched may not."""
        for victim in self.victims:
            if victim not in gone and victim.process is not None and victim.process.poll() is not None:
                victim.reap()
                victim.spawn()
        for name, process in self.watched.items():
            if process.process.poll() is not None:
                raise AssertionError(f"{name} has ended by itself with {process.process.returncode}")

    def play(self, number):
        """One fifth, and its audit."""
        dice, part = random.Random(self.options.seed * 1009 + number), Part()
        self.load.begin(f"p{number}", dice.random())
        self.torment(dice, time.monotonic() + self.options.seconds / PARTS, part)
        self.load.over.set()
        self.system.heal()
        healed = time.monotonic()
        deeds = self.load.end()
        found = collections.Counter(orphans=wait_orphans(self.system, healed + GRACE_S - time.monotonic()))
        self.load.finish_known(deeds)
        found.update(self.load.audit(deeds))
        committed = sum(deed.told == "committed" for deed in deeds)
        self.totals.update(found, committed=committed, kills=part.kills)
        print(f"part {number}: {committed} committed, {part.kills} kills; " +
              ", ".join(f"{name} {part.memory[name] / 1024:.1f} MiB, {part.cost(name):.0f} us" for name in self.watched) + f"; wrong: {sum(found.values())}", flush=True)
        if sum(found.values()) or self.load.surprises:
            self.wrong.append(f"part {number}: {dict(found)}, {self.load.surprises}")
        return part

    def judge(self, name, first, last):
        if last.memory[name] > first.memory[name] * MEMORY_FACTOR + MEMORY_KIB:
            self.wrong.append(f"{name} has grown from {first.memory[name]} to {last.memory[name]} KiB")
        if self.options.seconds >= CPU_SECONDS and last.cost(name) > first.cost(name) * CPU_FACTOR:
            self.wrong.append(f"a transaction costs {name} {last.cost(name):.0f} us at the end, {first.cost(name):.0f} at first")
        return f"{name} {first.memory[name] / 1024:.1f} -> {last.memory[name] / 1024:.1f} MiB, {first.cost(name):.0f} -> {last.cost(name):.0f} us"

    def run(self):
        rate = self.halve()
        print(f"{rate:.0f} a second without pauses; half of that from now on", flush=True)
        parts = [self.play(number) for number in range(1, PARTS + 1)]
        return ", ".join(self.judge(name, parts[0], parts[-1]) for name in self.watched)


def main():
    parser = argparse.ArgumentParser(description="Half load with kills: memory and CPU per transaction stay flat.")
    parser.add_argument("--seconds", type=float, default=1800, help="of load, in five parts")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.seconds < 5:
        parser.error("--seconds: 5 at least, a second for each part")
    try:
        soak = Soak(options)
    except (AssertionError, RuntimeError) as error:  # no build, no PostgreSQL
        print(f"soak: {error}", file=sys.stderr)
        return 1
    begun = time.monotonic()
    try:
        figures = soak.run()
        for line in soak.wrong:
            print(f"wrong: {line}")
        totals = soak.totals
        print(f"{datetime.date.today()} {commit_name()}: soak --seconds {options.seconds:g} --seed {options.seed}: {totals['committed']} committed, {totals['kills']} kills, "
              f"differences {totals['differences']}, lost {totals['lost']}, refused but there {totals['ghosts']}, wrong sums {totals['sums']}, orphans {totals['orphans']}; "
              f"first to last fifth: {figures}; {time.monotonic() - begun:.0f} s: {'NOT OK' if soak.wrong else 'ok'}")
    finally:
        soak.load.over.set()
        soak.system.close()
    return 1 if soak.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
