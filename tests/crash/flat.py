#!/usr/bin/python3
"""The cost of a transaction does not grow: not with how many there have been, not with how many are in flight.

Hazard: what is fast in a benchmark of some seconds and slow after a week: an index that is searched, a list that is walked, a map that is full.
Method, two tables. How many there have been: the coordinator alone with voters as agents (lockstep-bench decisions), its CPU per transaction while the first
thousands run, and again when 10,000, 100,000 and 1,000,000 have gone through. How many are in flight: real servers (lockstep-bench compare, subject 2pc),
CPU of coordinator and agents per transaction with 1 to 256 clients.
Seen if wrong: a later figure that is more than 1.5 times the least one before it.

    tests/crash/flat.py [--quick]          exit status 0: flat; --quick: to 30,000 transactions, and 1, 16 and 64 clients
"""

import argparse
import datetime
import json
import os
import subprocess
import sys

from workload import commit_name  # noqa: F401  (sets the path to the harness)

from harness.base import processes, wait_until
from harness.programs import BUILD, ROOT, Coordinator, authority, environment, program

sys.path.insert(0, os.path.join(ROOT, "scripts", "lib"))

from yard import Yard, guarded  # noqa: E402

FACTOR = 1.5
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return sum(int(word) for word in file.read().rpartition(")")[2].split()[11:13]) / TICKS


def decide(coordinator, seconds):
    """A piece of load; how many were committed."""
    done = subprocess.run([program("lockstep-bench"), "decisions", "--socket", coordinator.socket, "--participant", "a", "--participant", "b", "--connections", "32",
                           "--warm-up", "0", "--seconds", str(seconds)], env=environment(), check=True, capture_output=True, text=True)
    return int(done.stdout.partition("decisions=")[2].split()[0])


def over_length(marks):
    """{transactions so far: CPU us per transaction there}."""
    coordinator, costs, count = Coordinator(authority()), {}, 0
    try:
        coordinator.start()
        host, port = coordinator.address("agents")
        for name in ("a", "b"):
            ca, certificate, key = coordinator.authority.files(f"lockstep://agent/{name}")
            processes.start([program("lockstep-bench"), "voter", "--participant", name, "--coordinator", coordinator.name, "--address", f"{host}:{port}", "--ca", ca,
                             "--cert", certificate, "--cert-key", key, "--credits", "10000"], env=environment(), log=coordinator.log)
        wait_until(lambda: sum(entry["ready"] for entry in coordinator.admin.participants().body["participants"]) == 2, 20, "the voters have joined")
        for mark in marks:
            while count < mark:
                count += decide(coordinator, 1 if mark - count < 50000 else 5)
            before = cpu_s(coordinator.process.pid)
            there = decide(coordinator, 2)
            costs[count] = (cpu_s(coordinator.process.pid) - before) * 1e6 / there
            count += there
            print(f"after {count - there} transactions: {costs[count - there]:.0f} us of the coordinator's CPU each", flush=True)
    finally:
        coordinator.stop()
        processes.end_all()
    return costs


def in_flight(clients, seconds):
    """{clients: CPU us of coordinator and agents per transaction}."""
    with guarded(lambda place: Yard(place, BUILD)) as yard:
        path = os.path.join(yard.place.path, "flat.json")
        subprocess.run(yard.bench("--subjects", "2pc", "--clients", ",".join(map(str, clients)), "--rounds", "1", "--seconds", str(seconds), "--watch", "0", "--quiet",
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
    options = parser.parse_args()
    length = over_length((0, 10000, 30000) if options.quick else (0, 10000, 100000, 1000000))
    flight = in_flight((1, 16, 64) if options.quick else (1, 4, 16, 64, 128, 256), 2 if options.quick else 5)
    good = growth(length) <= FACTOR and growth(flight) <= FACTOR
    print(f"{datetime.date.today()} {commit_name()}: flat: to {max(length)} transactions at most {growth(length):.2f} times the least before, {max(flight)} in flight at most "
          f"{growth(flight):.2f} times: {'ok' if good else 'NOT OK'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
