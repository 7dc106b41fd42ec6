"""make report: every comparison and every experiment of the laboratory, and one page of them all.

    report.py --build FOLDER [--quick] [--out FOLDER] [--keep FOLDER] [--only PART]...

Results go to BUILD/report (JSON and CSV of each comparison, timelines of the laboratory, report.html, report.txt); --keep copies the page and its figures
to a folder, docs/report. Takes at most 35 minutes on 2 cores, with --quick at most 10. Interrupted: servers and daemons are gone, what is complete stays.
A comparison that breaks off is not in the page; the others are, its logs and what was complete of it lie in BUILD/report/logs, nothing is kept, and the exit
status is 1.
"""

import argparse
import glob
import os
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from place import Problem, on_ending  # noqa: E402
from yard import ShopYard, Yard, guarded, interrupt, run  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
ALL = "none,bare,limit,2pc,2pc-decided,orchestrated,choreographed"
FORMS = "none,bare,2pc,orchestrated,choreographed"
ATOMIC = "bare,limit,2pc"
# Those that show the difference between the forms; without --quick all of them run.
QUICK_EXPERIMENTS = ("coordinator-after-votes", "agent-prepared", "unreachable")


class Part:
    """One comparison: its name, on which yard, how many databases of it, and the words for lockstep-bench compare."""

    def __init__(self, name, yard, full, quick, databases=2):
        self.name, self.yard, self.full, self.quick, self.databases = name, yard, full, quick, databases

    def words(self, quick):
        return (self.quick if quick else self.full).split()


# Contention: few accounts with little on them, so that some are refused and what is given back is missed. In order: those who lock one database after the
# other never wait for each other in a circle; in parallel, a hot row makes circles that only lock_timeout ends.
HOT = "--workload transfer --rows 1000 --balance 100 --refused 5 --lock-timeout 1s --clients 16 --hot"
PARTS = (
    Part("transfer", "two", f"--subjects {ALL} --clients 1,8,32,64 --rounds 5 --seconds 2", f"--subjects {ALL} --clients 1,32 --rounds 1 --seconds 2"),
    Part("contention", "two", f"--subjects {FORMS} {HOT} 0,20,50,100 --rounds 2 --seconds 4", f"--subjects {FORMS} {HOT} 0,50,100 --rounds 1 --seconds 2"),
    Part("contention-in-order", "two", f"--subjects bare,2pc {HOT} 0,20,50,100 --rounds 2 --seconds 4 --in-order",
         f"--subjects bare,2pc {HOT} 0,50,100 --rounds 1 --seconds 2 --in-order"),
    Part("read-mostly", "two", f"--workload read-mostly --subjects none,{ATOMIC},orchestrated --clients 1,16 --rounds 2 --seconds 4",
         f"--workload read-mostly --subjects none,{ATOMIC},orchestrated --clients 16 --rounds 1 --seconds 2"),
    Part("open-loop", "two", f"--subjects {ATOMIC} --clients 256 --rate 500 --rounds 2 --seconds 5", f"--subjects {ATOMIC} --clients 128 --rate 200 --rounds 1 --seconds 2"),
    Part("n-way", "eight", f"--workload n-way --subjects {FORMS} --participants 2,4,6,8 --clients 8 --rounds 2 --seconds 4",
         f"--workload n-way --subjects {FORMS} --participants 2,4,8 --clients 8 --rounds 1 --seconds 2", 8),
    Part("order-flow", "shop", "--workload order-flow --subjects bare,2pc,orchestrated,choreographed --clients 1,8,32 --rounds 3 --seconds 4",
         "--workload order-flow --subjects bare,2pc,orchestrated,choreographed --clients 8,32 --rounds 1 --seconds 2"),
)
YARDS = {"two": lambda place, build: Yard(place, build, 2, events=True), "eight": lambda place, build: Yard(place, build, 8, events=True), "shop": ShopYard}


class Report:
    def __init__(self, options):
        self.options, self.build = options, os.path.abspath(options.build)
        self.out = os.path.abspath(options.out or os.path.join(self.build, "report"))
        self.begun = time.monotonic()
        self.failed = []

    def say(self, text):
        print(f"{time.monotonic() - self.begun:6.0f} s  {text}", flush=True)

    def wanted(self, name):
        return not self.options.only or name in self.options.only

    def compare(self, yard, part):
        path = os.path.join(self.out, part.name)
        argv = yard.bench(*part.words(self.options.quick), "--json", path + ".json", "--csv", path + ".csv", command="compare")
        self.say(f"{part.name}: lockstep-bench compare {' '.join(part.words(self.options.quick))}")
        with open(path + ".txt", "w", encoding="utf-8") as out:
            status = run(argv, stdout=out)
        if status != 0:
            self.failed.append(part.name)
            logs = os.path.join(self.out, "logs", part.name)
            shutil.copytree(os.path.join(yard.place.path, "log"), logs)
            for name in glob.glob(path + ".*"):  # of the runs that were complete, and what it said
                shutil.move(name, logs)
            self.say(f"{part.name}: lockstep-bench ended with {status}; logs: {logs}")

    def comparisons(self):
        for kind, make in YARDS.items():
            parts = [part for part in PARTS if part.yard == kind and self.wanted(part.name)]
            if parts:
                self.say(f"servers and daemons: {kind}")
                with guarded(lambda place, make=make: make(place, self.build)) as yard:
                    for part in parts:
                        self.compare(yard, part)

    def laboratory(self):
        """What did not hold is in the page, too: the report tells, it does not judge."""
        names = QUICK_EXPERIMENTS if self.options.quick else ("all",)
        self.say(f"lockstep lab run {' '.join(names)}")
        status = run([sys.executable, os.path.join(HERE, "lab.py"), "--build", self.build, "run", *names, "--quick", "--afterwards", "2", "--out", os.path.join(self.out, "lab")])
        if status not in (0, 1):
            raise Problem(f"the laboratory ended with {status}")

    def page(self):
        """Comparisons in the order of PARTS, then the laboratory."""
        results = [os.path.join(self.out, part.name + ".json") for part in PARTS]
        results += sorted(glob.glob(os.path.join(self.out, "lab", "*.json")))
        results = [path for path in results if os.path.exists(path)]
        if not results:
            raise Problem(f"there is nothing to report in {self.out}")
        html, text = os.path.join(self.out, "report.html"), os.path.join(self.out, "report.txt")
        subprocess.run([os.path.join(self.build, "lockstep-bench"), "report", "--html", html, "--text", text, *results], check=True)
        self.say(f"written: {html}, {text}")
        if self.options.keep and not self.failed:
            for path in (html, text, *results):
                shutil.copy(path, self.options.keep)
            self.say(f"copied to {self.options.keep}")

    def make(self):
        shutil.rmtree(os.path.join(self.out, "logs"), ignore_errors=True)
        # what is left from an earlier call must not pass for this one's
        for part in PARTS:
            if self.wanted(part.name) and os.path.exists(os.path.join(self.out, part.name + ".json")):
                os.unlink(os.path.join(self.out, part.name + ".json"))
        self.comparisons()
        if self.wanted("lab"):
            shutil.rmtree(os.path.join(self.out, "lab"), ignore_errors=True)
            try:
                self.laboratory()
            finally:
                self.page()
        else:
            self.page()


def main():
    parser = argparse.ArgumentParser(prog="report", description=__doc__.split("\n\n")[0])
    parser.add_argument("--build", required=True)
    parser.add_argument("--quick", action="store_true", help="at most 10 minutes: fewer points, one round, three experiments")
    parser.add_argument("--out", help="folder of the results (BUILD/report)")
    parser.add_argument("--keep", metavar="FOLDER", help="copies page and figures there")
    parser.add_argument("--only", action="append", choices=[part.name for part in PARTS] + ["lab"], help="this part only; what is there of others is in the page, too")
    options = parser.parse_args()
    for folder in (options.out or os.path.join(options.build, "report"), options.keep):
        try:
            if folder:
                os.makedirs(folder, exist_ok=True)
        except OSError as error:
            parser.error(f"{folder}: {error.strerror}")
    on_ending(interrupt)
    report = Report(options)
    try:
        report.make()
    except Problem as problem:
        print(f"report: {problem}", file=sys.stderr)
        return 1
    if report.failed:
        print(f"report: broke off: {', '.join(report.failed)}", file=sys.stderr)
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
