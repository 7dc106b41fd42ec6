#!/usr/bin/python3
"""A real lockstepd built with ThreadSanitizer, under load: its loop, the log's writer and its preparer side by side.

Hazard: two threads touch the same memory without a lock; the decision "durable" would then be a matter of luck.
Method: lockstepd (from a build with SAN=thread, see the Makefile) runs with two voters, `lockstep-bench decisions` drives it for some seconds with
small segments and a short retention, so that segments begin and leave all the time; it is stopped in an orderly way, started again on its log, stopped again.
Seen if wrong: a report of the sanitizer, or an exit status other than 0.

    tests/crash/tsan.py [--seconds 5] [--connections 16]
"""

import argparse
import glob
import os
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "pg"))

from harness.base import folder, on_sigterm, processes, tail, wait_until  # noqa: E402
from harness.programs import Coordinator, authority, environment, program  # noqa: E402

NAMES = ("orders", "balance")


def start_voter(name, coordinator):
    ca, certificate, key = authority().files(f"lockstep://agent/{name}")
    host, port = coordinator.address("agents")
    return processes.start([program("lockstep-bench"), "voter", "-p", name, "-c", coordinator.name, "-a", f"{host}:{port}",
                            "--ca", ca, "--cert", certificate, "--cert-key", key], env=environment(), log=os.path.join(folder.path, name + ".log"), cwd="/")


def wait_voters(coordinator):
    def ready():
        coordinator.check_alive()
        return sum(bool(p.get("ready")) for p in coordinator.admin.participants().body["participants"]) == len(NAMES)
    wait_until(ready, 120, "both voters are ready")


def load(coordinator, seconds, connections):
    arguments = [program("lockstep-bench"), "decisions", "--socket", coordinator.socket,
                 "--connections", str(connections), "--seconds", str(seconds), "--warm-up", "0"]
    for name in NAMES:
        arguments += ["--participant", name]
    log = os.path.join(folder.path, "decisions.log")
    process = processes.start(arguments, env=environment(), log=log, cwd="/")
    wait_until(lambda: process.poll() is not None, seconds + 120, "the load ends")
    processes.forget(process)
    if process.returncode != 0:
        sys.exit(f"the load ended with {process.returncode}:\n{tail(log)}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=16)
    arguments = parser.parse_args()
    reports = os.path.join(folder.path, "report")
    options = {"TSAN_OPTIONS": f"log_path={reports}:exitcode=66:second_deadlock_stack=1"}
    coordinator = Coordinator(authority(), settings={"log": {"segment_size": 65536, "max_size": 256 * 65536, "retention": "1s", "spares": 16}})
    coordinator.start(env=options, deadline=120)
    with open(f"/proc/{coordinator.process.pid}/maps") as maps:
        if "libtsan" not in maps.read():
            sys.exit("lockstepd is not built with SAN=thread")
    voters = [start_voter(name, coordinator) for name in NAMES]
    for life in range(2):
        if life == 1:
            coordinator.start(env=options, deadline=120)
        wait_voters(coordinator)
        load(coordinator, arguments.seconds, arguments.connections)
        coordinator.stop(deadline=120)
        found = glob.glob(reports + "*")
        if found:
            sys.exit("".join(open(name, errors="replace").read() for name in found)[:20000])
    for voter in voters:
        voter.kill()
    print(tail(os.path.join(folder.path, "decisions.log"), 2).strip())
    print("tsan: 1 passed, 0 failed")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, on_sigterm)
    try:
        main()
    finally:
        processes.end_all()
        folder.remove()
