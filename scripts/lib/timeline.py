"""A timeline of an experiment (docs/lab.md): what was sampled, what happened, what was claimed; as text while it grows, as JSON at its end."""

import datetime
import json
import os
import sys
import time

COLUMNS = (("t", "t", "{:5.1f}"), ("commits/s", "committed_per_s", "{:9.0f}"), ("in doubt", "in_doubt", "{:8d}"), ("oldest", "oldest_in_doubt_s", "{:6.1f}"),
           ("waiting", "waiting", "{:7d}"), ("longest", "oldest_wait_s", "{:7.1f}"), ("bystanders/s", "bystanders_per_s", "{:12.0f}"),
           ("worst", "bystander_worst_s", "{:6.2f}"), ("xmin age", "xmin_age", "{:8d}"), ("half seen", "half_seen", "{:9d}"), ("outbox", "outbox", "{:6d}"))


class Timeline:
    def __init__(self, name, mode, hypothesis, machine, options=(), out=sys.stdout):
        """`options`: further words of the command line that ran it."""
        self.out, self.started = out, time.monotonic()
        self.about = -1
        self.record = {"format": 1, "experiment": name, "mode": mode, "command": [f"{name}/{mode}", *options], "hypothesis": hypothesis, "held": None, "claims": [],
                       "begun": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), "seconds": None, "machine": machine,
                       "fault": [], "samples": [], "events": [], "rows": [], "ended": None, "audit": None}

    def now(self):
        return round(time.monotonic() - self.started, 2)

    def begin(self):
        """The load has begun."""
        self.started = time.monotonic()
        self.say("  " + "  ".join(title.rjust(len(form.format(0))) for title, _, form in COLUMNS))

    def say(self, text):
        print(text, file=self.out, flush=True)

    def sample(self, sample):
        self.record["samples"].append(sample)
        cells = []
        for title, key, form in COLUMNS:
            value = sample[key]
            width = max(len(form.format(0)), len(title))
            cells.append((form.format(value) if value is not None else "?").rjust(width))
        away = sample["unreachable"]
        self.say("  " + "  ".join(cells) + (f"  unreachable: {', '.join(away)}" if away else ""))

    def event(self, what):
        self.record["events"].append({"t": self.now(), "what": what})
        self.say(f"  {self.now():5.1f}  -- {what}")

    def begin_fault(self, what):
        self.record["fault"].append({"at": self.now(), "what": what, "until": None})
        self.event(what)

    def end_fault(self, what, number=-1):
        self.record["fault"][number]["until"] = self.now()
        self.event(what)

    def claim(self, claim, held, measured):
        self.record["claims"].append({"claim": claim, "held": bool(held), "measured": str(measured)})

    def rows(self, rows):
        self.record["rows"] += rows
        for row in rows[:5]:
            self.say(f"         in doubt at {row['participant']}: {row['gtid']}, {', '.join(row['rows']) or 'rows of other tables'}; {row['waiting']} sessions wait behind it")

    def ended(self, ended):
        """Of the orders that ended since the fault began."""
        self.record["ended"] = ended
        self.say(f"  since the fault {ended['complete']} orders became complete, the slowest after {ended['complete_longest_s']:.1f} s; {ended['undone']} ended with nothing left of them, "
                 f"the slowest after {ended['undone_longest_s']:.1f} s; the longest that one was seen half-way: {ended['half_seen_longest_s']:.1f} s")

    def main(self):
        """The fault that the experiment is about: the newest one that was begun, unless said otherwise."""
        return self.record["fault"][self.about]

    def during(self, key):
        """Values of `key` in the samples that look at nothing but the time of the main fault."""
        fault = self.main()
        until = fault["until"] if fault["until"] is not None else self.now()
        found = [sample[key] for sample in self.record["samples"] if fault["at"] <= sample["t"] - sample["since"] and sample["t"] <= until]
        return [value for value in found if value is not None]

    def end(self, checks):
        self.record["seconds"] = self.now()
        self.record["audit"] = {"good": all(check.good for check in checks),
                                "checks": [{"good": check.good, "name": check.name, "detail": check.detail} for check in checks]}
        self.record["held"] = all(claim["held"] for claim in self.record["claims"])
        for claim in self.record["claims"]:
            self.say(f"  {'held' if claim['held'] else 'NOT '}  {claim['claim']}: {claim['measured']}")
        for check in checks:
            if not check.good:
                self.say(f"  FAIL  {check.name}: {check.detail}")
        audit = "clean" if self.record["audit"]["good"] else "FAILED"
        self.say(f"  hypothesis {'held' if self.record['held'] else 'DID NOT HOLD'}; audit {audit}\n")
        return self.record["held"] and self.record["audit"]["good"]

    def write(self, folder):
        path = os.path.join(folder, f"{self.record['experiment']}-{self.record['mode']}.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(self.record, file, indent=1)
            file.write("\n")
        return path
