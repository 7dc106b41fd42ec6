#!/usr/bin/python3
"""Each system call of the real lockstepd on its data directory fails, once and for ever, with each error it can have; so do accept, threads and memory.

    calls.py [--seed K] [--kind NAME] [--sample N | --from I --count N] [--malloc N] [--verbose]

Method: lockstepd runs with tests/crash/shim.c preloaded, two voters (`lockstep-bench voter --tell`) take the place of agents, a few clients submit. A run
without failures counts the calls of each kind; then each (kind, n-th, error, once or for ever) is a case: start, load, kill -9 if it lives, start without the
shim, audit. Seen if wrong: an answer "committed" or "aborted" that a later start denies, COMMIT and ABORT told about one transaction, a log position that a voter
was shown and that is gone, another exit status than 74 (1 where memory or threads are short), a log that `lockstep log verify` calls corrupt.

The last line is "calls: N passed, N failed"; before it a table of kinds, sites and answers.
"""

import argparse
import collections
import errno
import http.client
import os
import random
import struct
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "pg"))

from harness.base import NotReached, folder, processes, wait_until  # noqa: E402
from harness.programs import Coordinator, authority, command, environment, program  # noqa: E402

KINDS = ("open", "create", "pread", "pwrite", "write", "fdatasync", "fsync", "rename", "unlink", "ftruncate", "mkdir", "opendir", "flock",
         "fstat", "close", "accept", "eventfd", "pthread_create", "malloc")  # in the order of the shim
SHORT = 0
E = errno
ERRORS = {"open": (E.EIO, E.EMFILE, E.EINTR), "create": (E.ENOSPC, E.EDQUOT, E.EMFILE, E.EIO), "pread": (E.EIO, E.EINTR, SHORT),
          "pwrite": (E.EIO, E.ENOSPC, E.EDQUOT, E.EINTR, SHORT), "write": (E.EIO, E.ENOSPC, SHORT), "fdatasync": (E.EIO, E.ENOSPC, E.EDQUOT, E.EINTR),
          "fsync": (E.EIO, E.EINTR), "rename": (E.EIO, E.ENOSPC, E.EDQUOT), "unlink": (E.EIO,), "ftruncate": (E.EIO, E.EINTR), "mkdir": (E.ENOSPC, E.EIO),
          "opendir": (E.EMFILE, E.EIO), "flock": (E.ENOLCK, E.EINTR), "fstat": (E.EIO,), "close": (E.EIO, E.EINTR), "accept": (E.EMFILE, E.ECONNABORTED),
          "eventfd": (E.EMFILE,), "pthread_create": (E.EAGAIN,), "malloc": (E.ENOMEM,)}
SERVING = ("open", "create", "pread", "fsync", "rename", "unlink", "ftruncate", "close")
NAMES = ("orders", "balance")
CLIENTS, RUNS = 4, 6
STEPS = [{"on": name, "do": {"sql": "update t set v=v+$1", "args": [1]}} for name in NAMES]


class Wrong(AssertionError):
    """A promise was broken."""


def build_shim():
    path = os.path.join(folder.path, "shim.so")
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "shim.c")
    subprocess.run([os.environ.get("CC", "gcc"), "-shared", "-fPIC", "-O1", "-o", path, source, "-ldl"], check=True)
    return path


class Voter:
    """An agent without a database, all lives long; what it was told."""

    def __init__(self, name, coordinator):
        ca, certificate, key = authority().files(f"lockstep://agent/{name}")
        host, port = coordinator.address("agents")
        self.name, self.log, self.read = name, os.path.join(folder.make("v"), name), 0
        self.commits, self.aborts = set(), set()
        with open(self.log, "ab") as out:
            self.process = processes.start([program("lockstep-bench"), "voter", "-p", name, "-c", coordinator.name, "-a", f"{host}:{port}", "--tell",
                                            "--ca", ca, "--cert", certificate, "--cert-key", key],
                                           env=environment(), log=self.log + ".err", cwd="/", stdout=out)

    def hear(self):
        with open(self.log, "rb") as file:
            file.seek(self.read)
            text = file.read()
        whole = text[:text.rfind(b"\n") + 1]
        self.read += len(whole)
        for line in whole.decode().splitlines():
            words = line.split()
            if words[:2] == ["told", "stale"]:
                raise Wrong(f"the log has lost a position that {self.name} was shown")
            if words[0] == "told":
                (self.commits if words[1] == "commit" else self.aborts).add(words[2])


class Rig:
    """One coordinator with its data directory, two voters, and all that clients were ever answered."""

    def __init__(self):
        self.shim = build_shim()
        self.coordinator = Coordinator(authority(), settings={
            "log": {"segment_size": 65536, "max_size": 4 * 65536, "retention": "1h"}, "limits": {"presume_wait": "200ms", "resend": "200ms"}})
        self.state = os.path.join(folder.path, "state")
        self.coordinator.start()
        self.voters = [Voter(name, self.coordinator) for name in NAMES]
        self.wait_voters()
        self.answers = []  # of the present case: (key, "committed" | "aborted" | None, gtid)
        self.number = 0

    def wait_voters(self):
        def ready():
            self.coordinator.check_alive()
            entries = self.coordinator.admin.participants().body["participants"]
            return sum(bool(entry.get("ready")) for entry in entries if entry["name"] in NAMES) == 2
        wait_until(ready, 30, "both voters are ready")

    def counts(self):
        with open(self.state, "rb") as file:
            return struct.unpack(f"{len(KINDS) + 1}Q", file.read(8 * (len(KINDS) + 1)))

    def spawn(self, case=None, serving=False):
        env = {"LD_PRELOAD": self.shim, "SHIM_DIR": self.coordinator.data, "SHIM_STATE": self.state}
        if case is not None:
            kind, at, error, forever, serving = case
            env.update(SHIM_CALL=kind, SHIM_AT=str(at), SHIM_ERROR=str(error))
            if forever:
                env["SHIM_FOREVER"] = "1"
        if serving:
            env["SHIM_SERVING"] = "1"
        if os.path.exists(self.state):
            os.unlink(self.state)
        self.coordinator.spawn(env=env)

    def wait_started(self, deadline=20):
        """False: it has ended, or answers nobody (accept fails for ever)."""
        def answers():
            try:
                return len([e for e in self.coordinator.admin.participants().body["participants"] if e.get("ready") and e["name"] in NAMES]) == 2
            except (OSError, http.client.HTTPException, TypeError, KeyError):
                return False
        try:
            wait_until(lambda: self.coordinator.process.poll() is not None or answers(), deadline, "lockstepd starts or ends")
        except NotReached:
            return False
        return self.coordinator.process.poll() is None

    def run_one(self, key):
        """What a client is told: "committed", "aborted", "refused" or None (nothing it could rely on)."""
        try:
            answer = self.coordinator.admin.run(STEPS, key=key, timeout=5, deadline="2s")
        except (OSError, http.client.HTTPException, AssertionError):  # without memory libevent itself may answer, in HTML
            return None, None
        if answer.status == 200:
            return "committed", answer.gtid
        if answer.status == 409:
            return "aborted", answer.gtid
        if answer.status in (429, 503) and answer.body and answer.body.get("error", {}).get("begun") is False:
            return "refused", None
        return None, answer.gtid

    def load(self):
        lock, self.number = threading.Lock(), self.number + 1

        def client(me):
            for n in range(RUNS):
                if self.coordinator.process.poll() is not None:
                    return
                key = f"c{self.number}-{me}-{n}"
                told, gtid = self.run_one(key)
                with lock:
                    self.answers.append((key, told, gtid))
        clients = [threading.Thread(target=client, args=(me,)) for me in range(CLIENTS)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()

    def audit(self):
        """After a start without the shim: everything that was said stands."""
        self.wait_voters()
        admin = self.coordinator.admin
        committed = set()
        for key, told, gtid in self.answers:
            if told == "committed":
                committed.add(gtid)
                answer = admin.wait_state(gtid, ("committed", "hazard"), 20)
                if answer.state != "committed":
                    raise Wrong(f"{key} {gtid} was answered committed and is {answer}")
            elif told == "aborted" and gtid is not None:
                state = admin.get(gtid).state
                if state == "committed":
                    raise Wrong(f"{key} {gtid} was answered aborted and is committed")
            elif told is None:  # the same key again: once, whatever it was
                again, gtid_again = self.run_one(key)
                if again == "committed":
                    committed.add(gtid_again)

        def all_told():
            for voter in self.voters:
                voter.hear()
            return all(committed <= voter.commits for voter in self.voters)
        wait_until(all_told, 20, lambda: f"both voters are told to commit {[gtid for gtid in committed if not all(gtid in v.commits for v in self.voters)]}")
        commits = set().union(*(voter.commits for voter in self.voters))
        aborts = set().union(*(voter.aborts for voter in self.voters))
        if commits & aborts:
            raise Wrong(f"told to commit and to abort: {sorted(commits & aborts)}")
        said_aborted = {gtid for _, told, gtid in self.answers if told == "aborted"}
        if said_aborted & commits:
            raise Wrong(f"answered aborted and told to commit: {sorted(said_aborted & commits)}")
        self.answers = []

    def verify(self):
        result = command("log", "verify", self.coordinator.data)
        if result.returncode != 0:
            raise Wrong(f"log verify: {result.stdout}{result.stderr}")

    def case(self, case):
        """(what lockstepd did, whether the failing call was reached)"""
        if case[4] and case[0] in ("open", "pread"):
            # a mark follows soon, and the voters may not have heard of it when lockstepd is killed: then it must read their position back
            self.load()
            self.answers = []
            time.sleep(random.uniform(0.3, 1.2))
        self.coordinator.kill()
        self.spawn(case)
        started = self.wait_started(8 if case[3] else 20)
        if started:
            self.load()
        code = self.coordinator.process.poll()
        try:
            reached = self.counts()[len(KINDS)] > 0
        except (OSError, struct.error):
            reached = False
        if code is None:
            self.coordinator.kill()
        else:
            self.coordinator.reap()
        allowed = (74, 1) if case[0] not in ("malloc", "pthread_create", "eventfd") else (74, 1, 78, -6)
        if code is not None and code not in allowed:
            raise Wrong(f"ended with {code}:\n{self.coordinator.log_text()[-3000:]}")
        if self.number % 8 == 0:
            self.verify()
        self.coordinator.start()
        self.audit()
        if code is not None:
            return f"exit {code}", reached
        return "goes on" if started else "answers nobody", reached


def all_cases(counts, options, serving, dice):
    """Every site; of accept and malloc, which are the same few places again and again, some. How many files a start reads depends on the lives
    before: those that come after the start are counted from there."""
    cases, most = [], {"malloc": options.malloc, "accept": 12}
    for kind, count in zip(KINDS, counts):
        if serving and kind not in SERVING:
            continue
        sites = range(1, count + (3 if serving else 1))
        if options.kind and kind != options.kind:
            continue
        if kind in most:
            sites = sorted(dice.sample(sites, min(most[kind], count)))
        for at in sites:
            for error in ERRORS[kind]:
                cases += [(kind, at, error, False, serving)] + ([(kind, at, error, True, serving)] if kind != "malloc" else [])
    return cases


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sample", type=int, help="so many cases, drawn; at least one of each kind and error")
    parser.add_argument("--from", dest="first", type=int, default=0)
    parser.add_argument("--count", type=int)
    parser.add_argument("--malloc", type=int, default=200, help="sites of malloc, drawn")
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    dice = random.Random(options.seed)
    rig = Rig()
    cases = []
    for serving in (False, True):
        rig.coordinator.kill()
        rig.spawn(serving=serving)
        assert rig.wait_started(), rig.coordinator.log_text()
        rig.load()
        counted = rig.counts()[:len(KINDS)]
        counts = counts if serving else counted
        cases += all_cases(counted, options, serving, dice)
        rig.coordinator.kill()
        rig.coordinator.start()
        rig.audit()
    total = len(cases)
    if options.sample:
        dice.shuffle(cases)
        seen = set()
        first = [case for case in cases if (case[0], case[2], case[4]) not in seen and not seen.add((case[0], case[2], case[4]))]
        rest = [case for case in cases if case not in set(first)]
        cases = (first + rest)[:options.sample]
    else:
        cases = cases[options.first:options.first + options.count if options.count else None]
    table, failed, began = collections.defaultdict(collections.Counter), 0, time.monotonic()
    for number, case in enumerate(cases):
        name = f"{case[0]} {case[1]}{' of serving' if case[4] else ''} answers {os.strerror(case[2]) if case[2] else 'short'}{', for ever' if case[3] else ''}"
        try:
            what, reached = rig.case(case)
        except Exception as problem:  # noqa: BLE001: whatever it is, the other cases go on with a directory of their own
            failed += 1
            what, reached = "WRONG", True
            print(f"WRONG: {name}: {problem}", flush=True)
            rig.coordinator.kill()
            for voter in rig.voters:
                voter.process.kill()
                voter.process.wait()
                processes.forget(voter.process)
            rig = Rig()
        table[case[0], case[4]][what if reached else "not reached"] += 1
        if options.verbose:
            print(f"{number + options.first} {name}: {what}{'' if reached else ' (not reached)'}", flush=True)
    for (kind, serving), row in sorted(table.items(), key=lambda item: (item[0][1], KINDS.index(item[0][0]))):
        sites = "" if serving else f"{counts[KINDS.index(kind)]} sites"
        print(f"  {kind + (' while serving' if serving else ''):28} {sites:12} {sum(row.values()):5} cases  "
              + ", ".join(f"{what}: {n}" for what, n in sorted(row.items())))
    print(f"{len(cases)} of {total} cases, {time.monotonic() - began:.0f} s")
    rig.coordinator.kill()
    print(f"calls: {len(cases) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
