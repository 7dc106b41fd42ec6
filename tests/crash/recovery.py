#!/usr/bin/python3
"""How fast recovery is, on real servers and beside what the servers can do by themselves.

Two servers with 5,000 prepared transactions each: decided, in the log, and unfinished, since every COMMIT was lost on its way to the agents
(a proxy drops it). Coordinator and agents are killed and started again; measured is the time from their start until all 10,000 branches
are committed. In turn with that, the servers' own rate: as many transactions of the same shape, prepared by psql and finished by psql
sessions that do nothing but COMMIT PREPARED, with 1, 4 and 8 connections to each server; the best counts.

    tests/crash/recovery.py --transactions 5000 --rounds 3 --least 0.8       exit status 0: medians' ratio is at least that
    tests/crash/recovery.py --replay 100000 --rounds 3     the log alone: so many open decisions, left by voters that never say Done, and the
                                                           time of the next start, as the daemon logs it and until it answers
"""

import argparse
import datetime
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from workload import ROLES, Line, commit_name

from harness.base import folder, processes, wait_until
from harness.cluster import find_server_programs
from harness.programs import Coordinator, authority, environment, program
from harness.system import System, fresh, put

LAYOUT = {"orders": 0, "balance": 1}
CONNECTIONS = (1, 4, 8)  # 8 is what an agent has of finishers


def make_system(transactions):
    """Room for everything at once; what the proxy has dropped is neither sent again nor asked about before the restart."""
    prepared = transactions + 1000
    return System(LAYOUT, roles=ROLES, link_proxies=LAYOUT, coordinator={"limits": {"resend": "1h"}}, agents={"pool": {"workers": prepared}, "sweep": {"interval": "1h"}},
                  cluster_settings={"max_prepared_transactions": prepared, "max_wal_size": "1GB"})


def leave_decided(system, transactions, clients=12):
    """Decides `transactions` transactions on both servers and lets no COMMIT through."""
    for name in LAYOUT:
        system.link[name].at("decide", "drop", up=False, times=None)
    tag, left, lock, wrong = fresh("r"), iter(range(transactions)), threading.Lock(), []

    def work():
        line = Line(system.coordinator)
        while not wrong:
            with lock:
                number = next(left, None)
            if number is None:
                break
            answer = line.request("POST", "/v1/run?wait=decided", {"mode": "2pc", "steps": put(f"{tag}-{number}", *LAYOUT)}, timeout=60)
            if answer.status != 200:
                wrong.append(answer)
        line.close()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[0]
    for name, database in system.db.items():
        assert len(database.prepared()) == transactions, f"{name} has {len(database.prepared())} prepared transactions"
    return tag


def count_prepared(system):
    return sum(database.value("select count(*) from pg_prepared_xacts") for database in system.db.values())


def recover(system, transactions):
    """Kills coordinator and agents and starts them again; (seconds until everything is committed, of these until half of it was)."""
    for daemon in (system.coordinator, *system.agents.values()):
        daemon.kill()
    for name, agent in system.agents.items():
        system.link[name].clear()
        agent.dial = None
    assert count_prepared(system) == 2 * transactions
    for database in system.db.values():
        database.execute("checkpoint")
    begun = time.monotonic()
    system.coordinator.spawn()
    wait_until(lambda: os.path.exists(os.path.join(system.coordinator.data, "ports")), 60, "the coordinator listens")
    for agent in system.agents.values():
        agent.spawn()
    first = wait_until(lambda: count_prepared(system) < 2 * transactions and time.monotonic(), 120, "the first branch is finished")
    wait_until(lambda: count_prepared(system) == 0, 600, lambda: f"all are finished; {count_prepared(system)} are left")
    return time.monotonic() - begun, first - begun


def check(system, tag, transactions):
    for name, database in system.db.items():
        there = database.value("select count(*) from item where k like %s", tag + "-%")
        assert there == transactions, f"{there} of {transactions} are committed in {name}"
    system.wait_ready(60)
    system.alive()


# -- the servers' own rate

def psql(cluster, database, script):
    """psql on a script, as a process that runs by itself."""
    with tempfile.NamedTemporaryFile("w", suffix=".sql", dir=folder.path, delete=False) as file:
        file.write(script)
    return subprocess.Popen([os.path.join(find_server_programs(), "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", cluster.directory, "-U", "postgres", "-f",
                             file.name, database], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def on_all(system, transactions, connections, statement):
    """Runs `statement(number)` for all numbers on both servers, with so many sessions each; seconds."""
    scripts = ["\n".join(statement(n) for n in range(c, transactions, connections)) for c in range(connections)]
    begun = time.monotonic()
    running = [psql(system.clusters[LAYOUT[name]], name, script) for name in LAYOUT for script in scripts]
    for process in running:
        assert process.wait() == 0, "psql has failed"
    return time.monotonic() - begun


def own(system, transactions, connections):
    tag = fresh("own")
    on_all(system, transactions, 8, lambda n: f"begin; insert into item(k, v) values ('{tag}-{n}', 1); prepare transaction '{tag}-{n}';")
    for database in system.db.values():
        database.execute("checkpoint")
    return on_all(system, transactions, connections, lambda n: f"commit prepared '{tag}-{n}';")


# -- rounds

def play(transactions):
    """One round on servers of its own: (recovery, until its first commit, {connections: own})."""
    system = make_system(transactions)
    try:
        owns = {connections: own(system, transactions, connections) for connections in CONNECTIONS}
        tag = leave_decided(system, transactions)
        seconds, first = recover(system, transactions)
        check(system, tag, transactions)
        return seconds, first, owns
    finally:
        system.close()


# -- the log alone

def replay(decisions):
    """(open decisions found, seconds until the log was ready, seconds until /livez, of these of the daemon itself)."""
    coordinator = Coordinator(authority(), settings={"limits": {"in_flight": 2 * decisions, "resend": "1h"}, "log": {"spares": 8}})  # room for all ends
    voters = []
    try:
        coordinator.start()
        host, port = coordinator.address("agents")
        for name in LAYOUT:
            ca, certificate, key = coordinator.authority.files(f"lockstep://agent/{name}")
            voters.append(processes.start([program("lockstep-bench"), "voter", "--participant", name, "--coordinator", coordinator.name, "--address",
                                           f"{host}:{port}", "--ca", ca, "--cert", certificate, "--cert-key", key, "--credits", str(2 * decisions), "--silent"],
                                          env=environment(), log=coordinator.log))
        wait_until(lambda: sum(entry["ready"] for entry in coordinator.admin.participants().body["participants"]) == 2, 20, "the voters have joined")
        while coordinator.admin.metrics().value("lockstepd_open_decisions") < decisions:
            subprocess.run([program("lockstep-bench"), "decisions", "--socket", coordinator.socket, "--wait", "decided", "--seconds", "2", "--warm-up", "0",
                            *[word for name in LAYOUT for word in ("--participant", name)]], env=environment(), check=True, stdout=subprocess.DEVNULL)
        coordinator.kill()
        begun = time.monotonic()
        coordinator.start(deadline=60)
        seconds = time.monotonic() - begun
        found = re.search(r"decision log ready .*open_decisions=(\d+) records=\d+ ms=(\d+)", coordinator.log_text())
        with open(f"/proc/{coordinator.process.pid}/stat", encoding="utf-8") as file:
            times = file.read().rpartition(")")[2].split()
        return int(found[1]), int(found[2]) / 1000, seconds, (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")
    finally:
        for voter in voters:
            voter.kill()
            voter.wait()
            processes.forget(voter)
        coordinator.kill()


def main_replay(options):
    found = [replay(options.replay) for _ in range(options.rounds)]
    for count, log_ready, live, own_time in found:
        print(f"{count} open decisions: the log is ready after {log_ready:.2f} s, the daemon answers after {live:.2f} s, {own_time:.2f} s of them its own")
    print(f"{datetime.date.today()} {commit_name()}: recovery --replay {options.replay} --rounds {options.rounds}: median {statistics.median(f[1] for f in found):.2f} s")
    return 0


def main():
    parser = argparse.ArgumentParser(description="Recovery of decided transactions, beside the servers' own COMMIT PREPARED rate.")
    parser.add_argument("--transactions", type=int, default=5000, help="on each of two servers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--least", type=float, default=0.0, help="fail when the ratio is below this")
    parser.add_argument("--replay", type=int, metavar="N", help="only the log, with so many open decisions")
    options = parser.parse_args()
    if options.replay:
        return main_replay(options)
    branches, recoveries, owns = 2 * options.transactions, [], {connections: [] for connections in CONNECTIONS}
    for number in range(1, options.rounds + 1):
        seconds, first, own_seconds = play(options.transactions)
        recoveries.append(seconds)
        for connections, value in own_seconds.items():
            owns[connections].append(value)
        print(f"round {number}: recovered in {seconds:.2f} s ({branches / seconds:.0f}/s; the first after {first:.2f} s); the servers by themselves: " +
              ", ".join(f"{connections} connections {branches / value:.0f}/s" for connections, value in own_seconds.items()), flush=True)
    recovered = branches / statistics.median(recoveries)
    best = max(branches / statistics.median(values) for values in owns.values())
    print(f"{datetime.date.today()} {commit_name()}: recovery --transactions {options.transactions} --rounds {options.rounds}: medians {recovered:.0f}/s of "
          f"{best:.0f}/s: {recovered / best:.2f}")
    return 0 if recovered / best >= options.least else 1


if __name__ == "__main__":
    sys.exit(main())
