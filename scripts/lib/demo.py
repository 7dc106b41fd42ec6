"""The demo after the build: see scripts/demo."""

import argparse
import os
import shlex
import signal
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import audit  # noqa: E402
from place import Interrupted, Place, Problem, interrupt, on_ending, tail, wait_until  # noqa: E402
from shop import APP, COORDINATOR, FormsShop  # noqa: E402

CLIENTS = 16
SECONDS, SECONDS_QUICK = 10, 4
SETTLE_S = 20
GRACE_S = 10
OUTAGE_S = 0.5
LOOK_S = 0.2
VICTIM = "products"  # the agent that is killed


class Screen:
    """One moving progress line on a terminal, one line a second elsewhere; events stand above it."""

    def __init__(self):
        self.terminal = sys.stdout.isatty()
        self.open = False
        self.shown = 0.0

    def say(self, text):
        if self.open:
            sys.stdout.write("\n")
            self.open = False
        print(text, flush=True)

    def progress(self, text):
        if self.terminal:
            sys.stdout.write("\r" + text + " ")
            sys.stdout.flush()
            self.open = True
        elif time.monotonic() - self.shown >= 1:
            print(text, flush=True)
            self.shown = time.monotonic()


class Journal:
    """Counts what the load writes, as it grows; from the end of what is there now."""

    def __init__(self, path):
        self.path = path
        self.position = os.path.getsize(path) if os.path.exists(path) else 0
        self.counts = {"committed": 0, "aborted": 0, "unknown": 0}
        self.refused = set()
        self.latencies = []  # of committed orders, ms

    def read(self):
        try:
            with open(self.path, "rb") as file:
                file.seek(self.position)
                data = file.read()
        except FileNotFoundError:
            return self.counts
        whole = data.rfind(b"\n") + 1
        self.position += whole
        for line in data[:whole].splitlines():
            fields = line.split(b"\t")
            self.counts[fields[1].decode()] += 1
            if fields[1] == b"aborted":
                self.refused.add(int(fields[0]))
            if fields[1] == b"committed":
                self.latencies.append(int(fields[3]) / 1000)
        return self.counts

    def done(self):
        return sum(self.read().values())

    def percentile(self, part):
        latencies = sorted(self.latencies)
        return latencies[min(len(latencies) - 1, int(len(latencies) * part))] if latencies else 0.0


class Demo:
    """One form of the shop: load, two crashes on the way, and what came of it."""

    def __init__(self, shop, form, seconds):
        self.shop, self.form, self.seconds = shop, form, seconds
        self.screen = Screen()
        self.journal = Journal(os.path.join(shop.place.path, "journal"))
        self.begin = self.load = None
        self.before = (0.0, 0)
        self.held = self.finished_meanwhile = self.took = 0
        self.seen = set()  # orders that a reader saw in between

    def elapsed(self):
        return time.monotonic() - self.begin

    def look(self):
        """One progress line, and what a reader of "orders" sees at this moment."""
        counts, now = self.journal.read(), self.elapsed()
        if now - self.before[0] < LOOK_S:
            return
        rate = (sum(counts.values()) - self.before[1]) / (now - self.before[0])
        self.before = (now, sum(counts.values()))
        with self.shop.connect("orders") as session:
            self.seen.update(row[0] for row in session.execute("select id from orders"))
        self.screen.progress(f"  {now:5.1f} s   {counts['committed']:6d} orders complete   {counts['aborted']:5d} refused   {rate:6.0f}/s")

    def wait(self, condition, deadline, sentence):
        def reached():
            self.look()
            return condition()
        return wait_until(reached, deadline, sentence, 0.02)

    def load_until(self, part):
        """Waits for a part of the time and for orders since."""
        before = self.journal.done()
        self.wait(lambda: (self.elapsed() >= self.seconds * part and self.journal.done() > before + CLIENTS) or not self.load.running(),
                  self.seconds + 60, "orders are finished")

    def crash(self, process, what, restart, ready):
        """kill -9 in the middle; back when others have noticed; then as fast as it can. (Branches prepared, orders finished) meanwhile."""
        self.load_until(0.3 if what == "coordinator" else 0.65)
        process.kill()
        killed = time.monotonic()
        held = self.shop.prepared()
        self.screen.say(f"  {self.elapsed():5.1f} s   kill -9 {process.pid} ({what}); {held} prepared branches hold their locks meanwhile")
        before = self.journal.done()
        # a moment: long enough for every client to run into it
        self.wait(lambda: time.monotonic() - killed > OUTAGE_S, 5, "half a second has passed")
        meanwhile = self.journal.done() - before
        restart()
        self.wait(ready, 30, f"the {what} is back")
        before = self.journal.done()
        self.wait(lambda: self.journal.done() > before + CLIENTS or not self.load.running(), 60, f"orders are finished after the {what} is back")
        self.screen.say(f"  {self.elapsed():5.1f} s   {what} back as process {process.pid}, {meanwhile} orders finished while it was away; "
                        f"orders go on {time.monotonic() - killed:.1f} s after the kill")
        return held, meanwhile

    def run(self):
        shop = self.shop
        self.begin = time.monotonic()
        self.load = shop.start_load(self.journal.path, CLIENTS, self.seconds, "--settle", str(SETTLE_S), "--form", self.form)
        self.held, self.finished_meanwhile = self.crash(shop.coordinator, "coordinator", shop.start_coordinator, lambda: shop.ready_agents() >= set(shop.participants))
        agent = shop.agents[VICTIM]
        self.crash(agent, f"agent of {VICTIM}", agent.start, lambda: VICTIM in shop.ready_agents())
        self.wait(lambda: not self.load.running(), self.seconds + SETTLE_S + 30, "every order is finished")
        if self.load.process.returncode not in (0, 5):
            raise Problem(f"the load ended with {self.load.process.returncode}:\n{tail(self.load.log)}")
        counts = self.journal.read()
        self.took = self.elapsed()
        self.screen.say(f"  {self.took:5.1f} s   all {sum(counts.values())} orders finished: "
                        f"{counts['committed']} complete, {counts['aborted']} refused, {counts['unknown']} unknown")


def run_audit(shop):
    journal = os.path.join(shop.place.path, "journal")
    print("\nAudit of all of them, in SQL on the databases:")
    checks = audit.Audit(shop.connect, journal, GRACE_S, platform=True).run()
    audit.print_checks(checks)
    reasons = {}
    with open(journal, encoding="utf-8") as file:
        for fields in (line.rstrip("\n").split("\t") for line in file):
            if fields[1] == "aborted" and fields[5] != "":
                key = (fields[5], fields[4] or "-", fields[6][:60])
                reasons[key] = reasons.get(key, 0) + 1
    if reasons:
        print("\nWhy the coordinator refused orders (participant, SQLSTATE, reason):")
        for (participant, sqlstate, reason), count in sorted(reasons.items(), key=lambda item: -item[1])[:8]:
            print(f"  {count:6d}  {participant:<9} {sqlstate:<6} {reason}")
    return all(check.good for check in checks)


def print_side_by_side(demos):
    rows = (("orders complete", lambda d: f"{d.journal.counts['committed']}"),
            ("refused, nothing left of them", lambda d: f"{d.journal.counts['aborted']}"),
            (f"  of these seen by a reader who looked every {LOOK_S} s", lambda d: f"{len(d.journal.refused & d.seen)}"),
            ("finished per second, crashes included", lambda d: f"{sum(d.journal.counts.values()) / d.took:.0f}"),
            ("complete after, median", lambda d: f"{d.journal.percentile(0.5):.1f} ms"),
            ("complete after, 99 %", lambda d: f"{d.journal.percentile(0.99):.0f} ms"),
            ("branches that held locks when the coordinator died", lambda d: f"{d.held}"),
            (f"finished in the {OUTAGE_S} s without coordinator", lambda d: f"{d.finished_meanwhile}"))
    print(f"\n{'Side by side':<52}" + "".join(f"{demo.form:>22}" for demo in demos))
    for name, figure in rows:
        print(f"  {name:<50}" + "".join(f"{figure(demo):>22}" for demo in demos))


def running_words(process):
    """The two words of its command line that nobody else has: `--config FILE` or `-D FOLDER`."""
    option = "-D" if "-D" in process.argv else "--config"
    return f"{option} {shlex.quote(process.argv[process.argv.index(option) + 1])}"


def write_stop(place, kept):
    """A script that ends what was left running, also what has been started again since; by the command line, not by a pid that may be another's by now."""
    lines = ["#!/bin/sh", "# Ends the programs of this demo, and no others, and removes its folder.",
             "end() { # SIGNAL OPTION VALUE",
             "    for line in $(grep -lsF -e \"$3\" /proc/[0-9]*/cmdline); do",
             "        pid=${line#/proc/} pid=${pid%/cmdline}",
             "        tr '\\0' '\\n' 2>/dev/null <\"$line\" | grep -A1 -xF -e \"$2\" | grep -qxF -e \"$3\" || continue",
             "        kill -\"$1\" \"$pid\"",
             "        while grep -qs '^State:.[^Z]' \"/proc/$pid/status\"; do sleep 0.05; done",
             "    done",
             "}"]
    lines += [f"end {process.stop_signal.name.removeprefix('SIG')} {running_words(process)}" for process in reversed(kept)]
    lines.append(f"rm -rf {shlex.quote(place.path)}")
    return place.write("stop", "\n".join(lines) + "\n", 0o700)


def write_start(place, kept, client):
    """A script that starts one of them again, for the fault scripts. Without the client's variables: they would go before the daemon's own configuration."""
    lines = ["#!/bin/sh", "# start NAME [VARIABLE=VALUE...]: one program of this demo, as it was started; its process id goes to pid/NAME, what it says to log/NAME.",
             f"unset {' '.join(client)}", "name=$1", "shift", "case $name in"]
    for process in kept:
        account = process.account
        become = f"setpriv --reuid={account.pw_uid} --regid={account.pw_gid} --init-groups " if account else ""
        lines.append(f"{process.name}) set -- env \"$@\" {become}{' '.join(map(shlex.quote, process.argv))} ;;")
    lines += ["*)", f"    echo \"start: which of {', '.join(process.name for process in kept)}?\" >&2", "    exit 2", "    ;;", "esac",
              f"cd {shlex.quote(place.path)} || exit 1", "echo $$ >\"pid/$name\"", "exec \"$@\" >>\"log/$name\" 2>&1 </dev/null"]
    return place.write("start", "\n".join(lines) + "\n", 0o700)


def explain_keep(shop):
    place, lockstep = shop.place, shop.program("lockstep")
    kept = [process for process in place.processes if process.running()]
    stop, start = write_stop(place, kept), write_start(place, kept, shop.client_environment())
    exports = [f"export {name}={shlex.quote(value)}" for name, value in shop.client_environment().items()]
    environment = place.write("environment", "\n".join(exports) + "\n")
    print(f"\nEverything is left running in {place.path}. To look at it:")
    print(f"  . {environment}            # where the coordinator is, and the certificate of the application {APP}")
    for words in ("participants", "tx list"):
        print(f"  {lockstep} {words}")
    print(f"  {lockstep} log stat {place.path}/coordinator")
    print(f"  {shop.program('lockstep-bench')} order-flow --platform --seconds 5 --journal {place.path}/journal --form orchestrated")
    prefix = "runuser -u postgres -- " if place.server_account else ""
    for cluster, names in shop.layout:
        for name in names:
            print(f"  {prefix}psql -h {place.path}/{cluster} -U postgres {name}")
    words = " ".join(f"--db {name}={shlex.quote(shop.conninfo(name))}" for name in shop.participants)
    audit_script = place.write("audit", f"#!/bin/sh\nexec {os.path.dirname(os.path.abspath(__file__))}/audit.py {words} --journal {place.path}/journal\n", 0o700)
    print(f"  {audit_script}                  # the audit again")
    print(f"  ls {place.path}/log                # what they all wrote")
    faults = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "faults")
    print("To break something (docs/lab.md; each with --help):")
    print(f"  {faults}/pause --pid-file {place.path}/pid/agent-products --for 10")
    print(f"  {faults}/kill --pid-file {place.path}/pid/lockstepd --for 10 --restart '{start} lockstepd'")
    print(f"  {faults}/server-stop --data {place.path}/{shop.layout[1][0]}/data --for 10")
    print(f"To stop it and remove the folder:\n  {stop}")


FORMS = (
    ("2pc", "one transaction on four databases"),
    ("orchestrated", "the same document as a saga: the coordinator drives one local transaction after the other, and compensates"),
    ("choreographed", "a local transaction and an event; the others follow it up and answer with events: no coordinator in the path"),
)


def start_and_run(shop, seconds):
    began = time.monotonic()
    print(f"Starting in {shop.place.path}: three PostgreSQL clusters with five databases (fsync on), coordinator {COORDINATOR}, five agents ...", flush=True)
    shop.start()
    print(f"  up after {time.monotonic() - began:.1f} s\n")
    print("An order: create it, take the stock, take the money, use the coupon, each in a database of its own, and publish it to the data platform.\n"
          f"Some lack stock, money or coupon. {CLIENTS} clients order for {seconds} s in each form; coordinator and one agent are killed on the way.", flush=True)
    demos = []
    for form, what in FORMS:
        print(f"\n{form}: {what}", flush=True)
        demos.append(Demo(shop, form, seconds))
        demos[-1].run()
    print_side_by_side(demos)
    return run_audit(shop)


def main():
    parser = argparse.ArgumentParser(prog="scripts/demo", description="lockstep on real PostgreSQL servers, with crashes on the way.")
    parser.add_argument("--build", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help=f"{SECONDS_QUICK} s of orders instead of {SECONDS}")
    parser.add_argument("--keep", action="store_true", help="leave everything running and say how to look at it and how to stop it")
    arguments = parser.parse_args()
    on_ending(interrupt)
    place, status = None, 1
    try:
        place = Place("lockstep-demo", arguments.keep)
        faults = "faults: enabled\n" if arguments.keep else ""  # somebody may want to crash a daemon at a point of its way
        shop = FormsShop(place, os.path.abspath(arguments.build), faults, faults)
        good = start_and_run(shop, SECONDS_QUICK if arguments.quick else SECONDS)
        print("\nThe databases agree: every order is everywhere or nowhere, in each of its forms." if good else "\nTHE AUDIT FAILED.")
        status = 0 if good else 1
        if arguments.keep:
            explain_keep(shop)
            place = None
    except Problem as problem:
        print(f"\ndemo: {problem}", file=sys.stderr)
        status = 1
    except Interrupted as signal_name:
        print(f"\ndemo: {signal_name}: cleaning up", file=sys.stderr)
        status = 130
    finally:
        if place is not None:
            on_ending(signal.SIG_IGN)
            if status == 0:
                place.stop_all()
                for process in place.processes:
                    if process.stop_signal == signal.SIGTERM and process.process.returncode != 0:
                        print(f"demo: {process.name} did not stop in order, but with {process.process.returncode}:\n{tail(process.log)}", file=sys.stderr)
                        status = 1
            else:
                place.kill_all()
            place.leave(failed=status == 1)
    return status


if __name__ == "__main__":
    sys.exit(main())
