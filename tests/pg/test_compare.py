"""Hazard: a comparison that compares different things, counts what it did not measure, or leaves something behind when it is ended.

Method: the yard of the benchmarks with handlers for the choreographed form; every subject of `lockstep-bench compare` does the same work for a second. What
the JSON says is held against the tables and against what design 5 promises to pay. Then bad use.
Seen if wrong: money gone, half a transaction, a cost that cannot be (no CPU, no message), latency in the open loop that does not know of those who waited.
"""

import csv
import html.parser
import json
import os
import re
import signal
import subprocess
import sys

import pytest

from harness.base import wait_until
from harness.programs import BUILD, ROOT

sys.path.insert(0, os.path.join(ROOT, "scripts", "lib"))

from audit import Audit  # noqa: E402
from place import Place  # noqa: E402
from yard import ShopYard, Yard  # noqa: E402

BENCH = os.path.join(BUILD, "lockstep-bench")
CLIENTS = 4
ALL = "none,bare,limit,2pc,2pc-decided,orchestrated,choreographed"
SHORT = ("--rounds", "1", "--seconds", "1", "--rows", "500", "--quiet")


@pytest.fixture(scope="module")
def yard():
    place = Place("lockstep-yard")
    try:
        yard = Yard(place, BUILD, 3, events=True)
        yard.start()
        yield yard
    finally:
        place.kill_all()
        place.remove()


def compare(yard, *arguments, participants=("d1", "d2"), deadline=150):
    return subprocess.run(yard.bench(*SHORT, *arguments, command="compare", participants=participants), text=True, capture_output=True, check=False, timeout=deadline)


def compared(yard, path, least, *arguments, participants=("d1", "d2")):
    """What the subjects did, each of which has committed so many. A disk that stands still leaves next to nothing for the subject whose second it was: then once more, for longer."""
    for seconds in (1, 2, 4, 8):
        done = compare(yard, "--seconds", str(seconds), *arguments, "--json", str(path), participants=participants, deadline=400)
        assert done.returncode == 0, done.stderr
        if all(cell["committed"] >= least for cell in cells(path).values()):
            break
    return done


def results(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def cells(path):
    return {cell["subject"]: cell for cell in results(path)["cells"]}


def money(yard, participants=("d1", "d2")):
    total = 0
    for name in participants:
        with yard.connect(name) as session:
            total += int(session.execute("select sum(amount) from bench").fetchone()[0])
    return total


@pytest.fixture(scope="module")
def everybody(yard, tmp_path_factory):
    """One call with all subjects, looked at by several tests."""
    folder = tmp_path_factory.mktemp("compare")
    done = compared(yard, folder / "r.json", 10 * CLIENTS, "--subjects", ALL, "--clients", str(CLIENTS), "--refused", "20", "--profile", "--watch", "20", "--csv", str(folder / "r.csv"))
    return folder, done.stdout


def test_every_subject(everybody):
    folder, said = everybody
    found = cells(folder / "r.json")
    assert list(found) == ALL.split(",")
    for name, cell in found.items():
        median = cell["median"]
        assert cell["committed"] > 0, (name, cell)
        assert 0 < median["p50_ms"] <= median["p95_ms"] <= median["p99_ms"] <= median["max_ms"], (name, median)
        assert median["cpu_us"] > 0 and median["wal_bytes"] > 0, (name, median)
        assert cell["reader"]["seen"] > 0, name
        assert (cell["half"] > 0) == (name == "none"), (name, cell["half"])  # one in five is refused by the last database
        if name != "none":
            assert set(cell["aborted_because"]) <= {"refused", "55P03", "40P01"}, cell["aborted_because"]
    assert "where the time goes" in said and "decision durable" in said


def total(cell, name):
    return cell["median"][name] * cell["measured_committed"]


def within(cell, name, each):
    """What was counted belongs to the committed ones, to those that were refused, and to those under way at begin or end."""
    count = cell["measured_committed"]
    return each * (count - CLIENTS) <= total(cell, name) <= each * (count + 2 * (cell["aborted"] + cell["half"]) + 3 * CLIENTS)


def test_what_is_promised_is_what_is_counted(everybody):
    """Design 5: at most one forced write of the coordinator for a commit, none for an abort; four messages and two round trips for each branch."""
    found = cells(everybody[0] / "r.json")
    for name in ("2pc", "2pc-decided"):
        cell, median = found[name], found[name]["median"]
        assert 0 < total(cell, "forced_writes_log") <= cell["measured_committed"] + 2 * CLIENTS, (name, cell)
        assert within(cell, "messages", 8) and within(cell, "round_trips", 4), (name, cell)
        assert 0 < median["prepare_ms"] and 0 < median["logging_ms"] and 0 < median["commit_ms"], (name, median)
    assert within(found["bare"], "round_trips", 4) and within(found["none"], "round_trips", 2)
    assert found["none"]["median"]["forced_writes_log"] == 0 and found["none"]["median"]["messages"] == 0
    assert total(found["choreographed"], "forced_writes_log") <= 3, "no coordinator in the path of events: only its marks of idleness"


def test_csv_and_json_agree(everybody):
    folder, _ = everybody
    with open(folder / "r.csv", encoding="utf-8", newline="") as file:
        rows = {row["subject"]: row for row in csv.DictReader(file)}
    for name, cell in cells(folder / "r.json").items():
        assert int(rows[name]["committed"]) == cell["committed"]
        assert float(rows[name]["p50_ms"]) == pytest.approx(cell["median"]["p50_ms"], rel=0.01)
        for column in ("aborted_because", "cpu_us_of"):
            named = dict(pair.rsplit(": ", 1) for pair in rows[name][column].split("; ") if pair)
            assert {key: float(value) for key, value in named.items()} == pytest.approx(cell[column], rel=0.01), (name, column)


@pytest.mark.parametrize("arguments, participants", [
    (("--workload", "n-way", "--participants", "2,3", "--subjects", "limit,2pc,choreographed", "--warm-up", "0"), ("d1", "d2", "d3")),
    (("--workload", "transfer", "--hot", "100", "--in-order", "--subjects", "bare,limit,2pc", "--payload", "2000", "--think", "1", "--warm-up", "0"), ("d1", "d2")),
])
def test_nothing_is_lost(yard, tmp_path, arguments, participants):
    """Whatever the work: afterwards all databases hold together what they held at first."""
    compared(yard, tmp_path / "r.json", 1, *arguments, "--clients", "4", "--refused", "10", participants=participants)
    yard.wait_settled()
    wait_until(lambda: money(yard, participants) == len(participants) * 500 * 1000000, 60,
               lambda: f"what was begun is done or undone everywhere; all databases together hold {money(yard, participants)}")
    for cell in results(tmp_path / "r.json")["cells"]:
        assert cell["committed"] > 0, cell
        assert "55P03" not in cell["aborted_because"] or "--in-order" not in arguments, "in order nobody waits in a circle"


def test_read_mostly_reads(yard, tmp_path):
    compared(yard, tmp_path / "r.json", 40, "--workload", "read-mostly", "--subjects", "limit,2pc,orchestrated", "--clients", "4", "--warm-up", "0")
    found = cells(tmp_path / "r.json")
    assert all(cell["committed"] > 0 for cell in found.values())
    assert found["2pc"]["median"]["forced_writes_log"] < 0.6, "nine of ten only read, and nothing is logged for them"


def test_open_loop_knows_who_waited(yard, tmp_path):
    """One client cannot serve 5,000 a second: those who wait for it wait longer and longer, and their latency says so."""
    compared(yard, tmp_path / "closed.json", 40, "--subjects", "bare", "--clients", "1", "--warm-up", "0")
    compared(yard, tmp_path / "open.json", 40, "--subjects", "bare,2pc", "--clients", "1", "--warm-up", "0", "--rate", "5000")
    closed = cells(tmp_path / "closed.json")["bare"]["median"]
    for name, cell in cells(tmp_path / "open.json").items():
        assert cell["unserved"] > 0, name
        assert cell["median"]["p50_ms"] > max(300, 2 * closed["p50_ms"]), (name, cell["median"], closed)


def test_the_shop(tmp_path):
    """The order flow in all its forms on one set of tables: what they leave is one consistent shop."""
    place = Place("lockstep-yard")
    try:
        yard = ShopYard(place, BUILD)
        yard.start()
        compared(yard, tmp_path / "r.json", 1, "--workload", "order-flow", "--subjects", "bare,2pc,orchestrated,choreographed", "--clients", "4", "--warm-up", "0", participants=None)
        found = cells(tmp_path / "r.json")
        assert all(cell["committed"] > 0 for cell in found.values())
        assert found["2pc"]["median"]["messages"] > found["bare"]["median"]["messages"] == 0
        yard.wait_settled()
        audit = Audit(yard.connect, grace=60)
        wait_until(lambda: open_orders(yard) == 0, 60, "no order is half-way")
        assert [check for check in audit.run() if not check.good] == []
    finally:
        place.kill_all()
        place.remove()


def open_orders(yard):
    with yard.connect("orders") as session:
        return session.execute("select count(*) from orders where state = 'pending'").fetchone()[0]


# -- bad use

@pytest.mark.parametrize("arguments, word", [
    (["--workload", "magic"], "`magic`"),
    (["--workload", "order-flow"], "2 given, order-flow needs 4\n"),
    (["--workload", "n-way", "--participants", "2,9"], "`9` is not a number from 2 to 2"),
    (["--subjects", "2pc,magic"], "`magic` is unknown"),
    (["--hot", "101"], "`101` is not a number from 0 to 100"),
    (["--payload", "70000"], "--payload"),
    (["--process", "x=999999999"], "x=999999999"),
    (["--lock-timeout", "0"], "--lock-timeout"),
    (["--participant", "third"], "one --participant for each --database"),
    (["surplus"], "`surplus`"),
])
def test_bad_words(yard, arguments, word):
    done = compare(yard, *arguments)
    assert done.returncode == 2, done.stderr
    assert word in done.stderr


def test_no_choreographed_reads(yard):
    done = compare(yard, "--workload", "read-mostly", "--subjects", "choreographed", "--clients", "1")
    assert done.returncode == 2 and "no such form" in done.stderr


def test_no_server():
    done = subprocess.run([BENCH, "compare", "--subjects", "bare", "--log", "/tmp", "--database", "host=/nowhere dbname=x", "--database", "host=/nowhere dbname=y"],
                          text=True, capture_output=True, check=False, timeout=60)
    assert done.returncode == 3 and "/nowhere" in done.stderr


def test_no_coordinator(yard):
    argv = [word if not word.endswith("lockstepd.sock") else "/nowhere/lockstepd.sock" for word in yard.bench(*SHORT, "--subjects", "2pc", command="compare", participants=("d1", "d2"))]
    done = subprocess.run(argv, text=True, capture_output=True, check=False, timeout=60)
    assert done.returncode == 3 and "/nowhere/lockstepd.sock" in done.stderr
    assert yard.prepared() == 0


def test_half_of_the_participants_are_missing(yard):
    agent = yard.agents["d2"]
    agent.kill()
    try:
        wait_until(lambda: "d2" not in yard.ready_agents(), 60, "the coordinator knows that d2 is away")
        argv = [word for word in yard.bench(*SHORT, "--subjects", "2pc", "--clients", "4", command="compare", participants=("d1", "d2"))]
        dead = argv.index(f"{agent.name}={agent.pid}")
        done = subprocess.run(argv[:dead - 1] + argv[dead + 1:], text=True, capture_output=True, check=False, timeout=60)
    finally:
        agent.start()
    assert done.returncode == 1, done.stderr
    assert "participant_offline" in done.stderr and "d2" in done.stderr
    yard.wait_agents()
    yard.wait_settled()


@pytest.mark.parametrize("how, subjects", [(signal.SIGINT, "limit,2pc"), (signal.SIGTERM, "bare,2pc")])
def test_interrupted(yard, tmp_path, how, subjects):
    """What is under way is ended, what is complete is told, nothing stays prepared."""
    log = open(tmp_path / "log", "w+", encoding="utf-8")
    argv = yard.bench("--subjects", subjects, "--rows", "500", "--clients", "8", "--rounds", "99", "--seconds", "1", "--warm-up", "0", "--json", str(tmp_path / "r.json"),
                      command="compare", participants=("d1", "d2"))
    with subprocess.Popen(argv, stdout=log, stderr=log) as load:
        try:
            wait_until(lambda: "round 1: 2pc" in (tmp_path / "log").read_text(), 60, "the first round is through")
            load.send_signal(how)
            assert load.wait(60) == 128 + how
        finally:
            load.kill()
    log.close()
    assert "interrupted" in (tmp_path / "log").read_text()
    assert {cell["rounds"]["per_second"] != [] for cell in results(tmp_path / "r.json")["cells"]} == {True}
    assert sorted(os.listdir(tmp_path)) == ["log", "r.json"]
    yard.wait_settled()
    wait_until(lambda: money(yard) == 2 * 500 * 1000000, 60, lambda: f"what was begun is done or undone everywhere; all databases together hold {money(yard)}")


def test_results_that_cannot_be_written(yard):
    for option, path in (("--json", "/nowhere/r"), ("--csv", "/nowhere/r"), ("--csv", "/tmp")):  # said before it runs, not after
        done = compare(yard, "--subjects", "none", "--clients", "1", "--seconds", "600", option, path, deadline=30)
        assert done.returncode == 1 and path in done.stderr and done.stdout == ""


def test_one_goes_away(yard, tmp_path):
    """A participant dies in the middle of a call: the runs that were complete are told, as text and in the file, and nothing of ours stays prepared."""
    path = tmp_path / "r.json"
    argv = yard.bench("--rounds", "1", "--seconds", "2", "--rows", "500", "--subjects", "none,2pc,bare", "--clients", "2", "--json", str(path), command="compare", participants=("d1", "d3"))
    process = subprocess.Popen(argv, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    said = []

    def first_is_complete():
        said.append(process.stderr.readline())
        return "none" in said[-1] and "tx/s" in said[-1] or not said[-1]
    try:
        wait_until(first_is_complete, 60, lambda: f"the first subject is complete: {said}")
        yard.clusters["c3"].kill()
        out, rest = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
        yard.revive_cluster("c3")
        wait_until(lambda: yard.ready_agents() >= {"d1", "d3"}, 60, "its agent is ready")
    assert process.returncode not in (0, 2) and "a run failed: these are the runs that were complete" in rest, rest
    assert re.search(r"^none +2 ", out, re.M) and "none" in cells(path), out
    yard.wait_settled()


# -- the report

class Page(html.parser.HTMLParser):
    """Every element is closed; nothing is fetched, nothing is run."""
    void = {"meta", "br"}

    def __init__(self, text):
        super().__init__()
        self.open, self.seen = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        assert tag not in ("script", "link", "img", "iframe", "object"), tag
        assert not [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


TIMELINE = {"format": 1, "experiment": "agent <dies>", "mode": "2pc", "hypothesis": "rows & sessions wait", "held": True,
            "claims": [{"claim": "they waited", "held": True, "measured": "3 s"}], "fault": [{"at": 1.0, "what": "kill -9", "until": 2.0}],
            "samples": [{"t": t / 2, "committed_per_s": None if t == 3 else 100.0 - t, "in_doubt": t, "waiting": 2 * t, "oldest_in_doubt_s": 0.1} for t in range(10)],
            "events": [{"t": 1.0, "what": "kill -9"}], "rows": [{"participant": "products", "gtid": "shop.1.1.1", "rows": ["product s3", "product s4"], "waiting": 4}],
            "ended": {"complete": 20, "complete_longest_s": 9.9, "undone": 3, "undone_longest_s": 11.2, "half_seen_longest_s": 8.8}, "audit": {"good": True, "checks": [{"good": True, "name": "x", "detail": "y"}]}}


def report(*arguments):
    return subprocess.run([BENCH, "report", *map(str, arguments)], text=True, capture_output=True, check=False, timeout=60)


def test_report(everybody, tmp_path):
    (tmp_path / "lab.json").write_text(json.dumps(TIMELINE), encoding="utf-8")
    whole = results(everybody[0] / "r.json")
    more = [dict(cell, clients=32) for cell in whole["cells"]]
    (tmp_path / "r.json").write_text(json.dumps(dict(whole, cells=whole["cells"] + more)), encoding="utf-8")
    done = report("--html", tmp_path / "r.html", "--text", tmp_path / "r.txt", tmp_path / "r.json", tmp_path / "lab.json")
    assert done.returncode == 0, done.stderr
    page, text = (tmp_path / "r.html").read_text(), (tmp_path / "r.txt").read_text()
    seen = Page(page).seen
    assert seen.count("svg") == 6 + 3, "six against clients, three for a timeline"
    assert "agent &lt;dies&gt;" in page and "agent <dies>" in text
    assert page.count("http") == page.count("http://www.w3.org/2000/svg")
    for name in ALL.split(","):
        assert name in page and name in text
    assert "the hypothesis held" in text and "clean" in text
    for what in (page, text):
        assert what.lower().count("when a human is needed") > 0 and "a dead letter" in what
        assert "product s3, product s4" in what and "slowest after 11.2 s" in what
        assert f"Each figure comes of 1 or more rounds of {whole['seconds']} s or more. So few" in what, "one round is no figure to quote"


def cell(subject, clients, rates, p50s, committed=100):
    return {"subject": subject, "clients": clients, "hot_percent": 0, "participants": 2, "committed": committed, "aborted": 0, "half": 0, "unserved": 7, "reader": {"seen": 10, "torn": 1},
            "median": {"per_second": sorted(rates)[1], "p50_ms": sorted(p50s)[1], "cpu_us": 13920.4}, "rounds": {"per_second": rates, "p50_ms": p50s}}


def test_report_quotes_ratios_units_and_commands(tmp_path):
    """The ratio is of each round and then the median; of nothing committed nothing is said; a long command can be typed again; the open loop is told; axes have units."""
    words = ["compare", *(f"--option-{number} value" for number in range(60)), "--the-last"]
    made = {"format": "lockstep-bench compare 1", "workload": "transfer", "command": words, "rate": 0, "refused_percent": 0, "payload_bytes": 0, "machine": {"memory": "16777216 kB"},
            "cells": [cell("bare", 1, [100, 200, 400], [1, 2, 4]), cell("2pc", 1, [50, 180, 200], [2, 3, 8]),
                      cell("bare", 32, [10, 20, 40], [1, 1, 1]), cell("2pc", 32, [0, 0, 0], [0, 0, 0], committed=0)]}
    (tmp_path / "closed.json").write_text(json.dumps(made), encoding="utf-8")
    (tmp_path / "open.json").write_text(json.dumps(dict(made, rate=500, cells=made["cells"][2:])), encoding="utf-8")
    (tmp_path / "lab.json").write_text(json.dumps(dict(TIMELINE, command=["agent/2pc", "--quick"])), encoding="utf-8")
    done = report("--html", tmp_path / "r.html", "--text", tmp_path / "r.txt", tmp_path / "closed.json", tmp_path / "open.json", tmp_path / "lab.json")
    assert done.returncode == 0, done.stderr
    page, text = (tmp_path / "r.html").read_text(), (tmp_path / "r.txt").read_text()
    Page(page)
    rows = [line.split() for line in text.partition("transfer against clients")[2].splitlines() if line.startswith("2pc")]
    assert rows[0][:5] == ["2pc", "1", "0.50", "2.00", "180"], rows
    assert rows[1][:6] == ["2pc", "32", "-", "-", "0.00", "-"], rows
    assert "13920" in text and "e+" not in text, "figures for people"
    assert "open loop, 500 begin a second" in text
    for what in (page, text):
        assert " ".join(["lockstep-bench", *words]) in what and "lockstep lab run agent/2pc --quick" in what
        assert "16.0 GiB" in what and "kill -9" in what
    plots = re.findall(r"<svg.*?</svg>", page, re.S)
    assert len(plots) == 6 + 3 - 3, "plots of figures that nobody has are left out"
    for plot in plots:
        assert re.search(r"rotate\(-90\)' class='middle'>[a-z]+", plot), "the unit at the upright axis"
        assert plot.count("stroke-width='2'") == plot.count("height='4'"), "each line has a legend"
    assert page.count(">the fault<") == 3


@pytest.mark.parametrize("text, word", [("{", "1:"), ("[]", "neither results"), ('{"experiment": 1}', "neither results")])
def test_report_of_nothing_sensible(tmp_path, text, word):
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    done = report("--html", tmp_path / "r.html", tmp_path / "x.json")
    assert done.returncode == 1 and word in done.stderr and "x.json" in done.stderr
    assert os.listdir(tmp_path) == ["x.json"]


def test_report_of_no_file():
    assert report().returncode == 2
    assert report("/nowhere/x.json").returncode == 1
