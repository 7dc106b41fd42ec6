#!/usr/bin/python3
"""The cost of a transaction does not grow: not with how many there have been, not with how many are in flight.

Hazard: what is fast in a benchmark of some seconds and slow after a week: an index that is searched, a list that is walked, a map that is full.
Method, two tables. How many there have been: the coordinator alone with voters as agents (lockstep-bench decisions), its CPU per transaction while the first
thousands run, and again when 10,000, 100,000 and 1,000,000 have gone through: each time beside a new coordinator, in turn, since the machine is not the same an hour
later. How many are in flight: real servers (lockstep-bench compare, subject 2pc), CPU of coordinator and agents per transaction with 1 to 256 clients, in three rounds.
Seen if wrong: a coordinator that needs more than 1.5 times what a new one needs; more clients that need more than 1.5 times the least of fewer. One client alone has nobody to
share wake-ups and syncs with; what it costs more than the least is told, and is no growth.

    tests/crash/flat.py [--quick]          exit status 0: flat; --quick: to 30,000 transactions, and 1, 16 and 64 clients
    tests/crash/flat.py --decisions N      the coordinator alone: durable decisions a second, N rounds of 5 s with 64 requests under way
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys

from workload import commit_name  # noqa: F401  (sets the path to the harness)

from harness.base import processes, wait_until
from harness.programs import BUILD, ROOT, Coordinator, authority, environment, program

sys.path.insert(0, os.path.join(ROOT, "scripts", "lib"))

from place import Problem  # noqa: E402
from yard import Yard, guarded  # noqa: E402

FACTOR = 1.5
PIECES = 3
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return sum(int(word) for word in file.read().rpartition(")")[2].split()[11:13]) / TICKS


class Alone:
    """A coordinator with two voters."""

    def __init__(self):
        # crash points make a link write each message by itself
        self.coordinator, self.count, self.voters = Coordinator(authority(), settings={"faults": "disabled"}), 0, []
        self.coordinator.start()
        host, port = self.coordinator.address("agents")
        for name in ("a", "b"):
            ca, certificate, key = self.coordinator.authority.files(f"lockstep://agent/{name}")
            self.voters.append(processes.start([program("lockstep-bench"), "voter", "--participant", name, "--coordinator", self.coordinator.name, "--address", f"{host}:{port}",
                                                "--ca", ca, "--cert", certificate, "--cert-key", key, "--credits", "10000"], env=environment(), log=self.coordinator.log))
        wait_until(lambda: sum(entry["ready"] for entry in self.coordinator.admin.participants().body["participants"]) == 2, 20, "the voters have joined")

    def decide(self, seconds, connections=32):
        """A piece of load; CPU us of the coordinator for each that was committed."""
        before = cpu_s(self.coordinator.process.pid)
        done = subprocess.run([program("lockstep-bench"), "decisions", "--socket", self.coordinator.socket, "--participant", "a", "--participant", "b", "--connections", str(connections),
                               "--warm-up", "0", "--seconds", str(seconds)], env=environment(), check=True, capture_output=True, text=True)
        committed = int(done.stdout.partition("decisions=")[2].split()[0])
        self.count += committed
        return (cpu_s(self.coordinator.process.pid) - before) * 1e6 / committed

    def end(self):
        for voter in self.voters:
            voter.kill()
            voter.wait()
        self.coordinator.stop()


def beside_a_new_one(old):
    """(CPU us of each), medians of pieces that ran in turn."""
    new = Alone()
    try:
        new.decide(1)
        pairs = [(old.decide(1), new.decide(1)) for _ in range(PIECES)]
    finally:
        new.end()
    return tuple(statistics.median(costs) for costs in zip(*pairs))


def over_length(marks):
    """{transactions so far: what one costs, in units of what it costs a new coordinator}."""
    old, costs = Alone(), {}
    try:
        for mark in marks:
            while old.count < mark:
                old.decide(1 if mark - old.count < 50000 else 5)
            count = old.count
            ours, new = beside_a_new_one(old)
            costs[count] = ours / new
            print(f"after {count} transactions: {ours:.0f} us of the coordinator's CPU each, {new:.0f} of a new one's: {costs[count]:.2f} times", flush=True)
    finally:
        old.end()
        processes.end_all()
    return costs


def stolen_s():
    """Processor time that this machine's host gave to others."""
    with open("/proc/stat", encoding="ascii") as file:
        return int(file.readline().split()[8]) / TICKS


def decisions(rounds, seconds=5):
    """Prints each round and the median."""
    alone, rates = Alone(), []
    try:
        alone.decide(1, 64)
        for _ in range(rounds):
            before, stolen = alone.count, stolen_s()
            cost = alone.decide(seconds, 64)
            rates.append((alone.count - before) / seconds)
            print(f"{rates[-1]:.0f} durable decisions a second, {cost:.0f} us of the coordinator's CPU each; of {seconds * os.cpu_count()} s of processor the host took {stolen_s() - stolen:.1f}", flush=True)
    finally:
        alone.end()
        processes.end_all()
    print(f"{datetime.date.today()} {commit_name()}: durable decisions a second: median {statistics.median(rates):.0f} of {rounds} rounds, {min(rates):.0f} to {max(rates):.0f}")


def in_flight(clients, seconds):
    """{clients: CPU us of coordinator and agents per transaction}."""
    with guarded(lambda place: Yard(place, BUILD)) as yard:
        path = os.path.join(yard.place.path, "flat.json")
        subprocess.run(yard.bench("--subjects", "2pc", "--clients", ",".join(map(str, clients)), "--rounds", str(PIECES), "--seconds", str(seconds), "--watch", "0", "--quiet",
                                  "--json", path, command="compare"), check=True, stdout=subprocess.DEVNULL)
        with open(path, encoding="utf-8") as file:
            cells = json.load(file)["cells"]
    costs = {}
    for cell in cells:
        ours = sum(us for name, us in cell["cpu_us_of"].items() if name == "lockstepd" or name.startswith("agent-"))
        costs[cell["clients"]] = ours
        print(f"{cell['clients']} in flight: {ours:.0f} us of coordinator and agents each, {cell['median']['per_second']:.0f} a second", flush=True)
    return costs


def growth(costs):
    """The worst that a figure is above the least before it."""
    worst, least = 1.0, None
    for cost in costs.values():
        if least is not None:
            worst = max(worst, cost / least)
        least = cost if least is None else min(least, cost)
    return worst


def main():
    parser = argparse.ArgumentParser(description="CPU per transaction stays flat.")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--decisions", type=int, metavar="N", help="only how many the coordinator alone makes durable, in N rounds")
    options = parser.parse_args()
    if options.decisions is not None and options.decisions < 1:
        parser.error(f"--decisions: at least one round, not {options.decisions}")
    try:
        if options.decisions is not None:
            decisions(options.decisions)
            return 0
        length = over_length((10000, 30000) if options.quick else (10000, 100000, 1000000))
        flight = in_flight((1, 16, 64) if options.quick else (1, 4, 16, 64, 128, 256), 1 if options.quick else 3)
    except (AssertionError, RuntimeError, Problem) as error:  # no build, no PostgreSQL
        print(f"flat: {error}", file=sys.stderr)
        return 1
    longest = max(length.values())
    good = longest <= FACTOR and growth(flight) <= FACTOR
    print(f"{datetime.date.today()} {commit_name()}: flat: to {max(length)} transactions at most {longest:.2f} times a new coordinator's cost; to {max(flight)} in flight at most "
          f"{growth(flight):.2f} times the least of fewer, one alone {flight[1] / min(flight.values()):.2f} times the least: {'ok' if good else 'NOT OK'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
