"""Hazard: a comparison that compares nothing. Every subject of `lockstep-bench transfer` runs on real servers, and what it says it committed is
what the tables hold.

Method: the yard of the benchmarks (two clusters, coordinator, agents), each subject for a second, tables added up afterwards.
Seen if wrong: a subject that commits less than it says, half a transaction, or something left prepared.
"""

import os
import re
import subprocess
import sys

import pytest

from harness.programs import BUILD, ROOT

sys.path.insert(0, os.path.join(ROOT, "scripts", "lib"))

from place import Place  # noqa: E402
from yard import Yard  # noqa: E402


@pytest.fixture(scope="module")
def yard():
    place = Place("lockstep-yard")
    try:
        yard = Yard(place, BUILD)
        yard.start()
        yield yard
    finally:
        place.kill_all()
        place.remove()


def run(yard, *arguments):
    return subprocess.run(yard.bench(*arguments), text=True, capture_output=True, check=False, timeout=120)


BALANCE = 1000000


def moves(yard, rows):
    """How many moves each database has seen; what all of them hold together has not changed."""
    counts, total = [], 0
    for name in yard.participants:
        with yard.connect(name) as session:
            count, amount = session.execute("select sum(moves), sum(amount) from bench").fetchone()
            counts.append(int(count))
            total += int(amount)
    assert total == len(counts) * rows * BALANCE
    return counts


@pytest.mark.parametrize("subject", ["none", "bare", "limit", "2pc", "2pc-decided"])
def test_subject(yard, subject):
    done = run(yard, "--subjects", subject, "--clients", "1,4", "--rounds", "1", "--seconds", "1", "--warm-up", "0", "--rows", "1000")
    assert done.returncode == 0, done.stderr
    rows = re.findall(rf"^{subject} +([14]) +\S+ +\S+ +\S+ +\S+ +\S+ +(\d+) +(\d+)", done.stdout, re.MULTILINE)
    assert [clients for clients, _, _ in rows] == ["1", "4"], done.stdout
    committed = sum(int(count) for _, count, _ in rows)
    assert committed > 0
    if subject == "2pc-decided":
        yard.wait_settled()
    totals = moves(yard, 1000)
    assert totals[0] == totals[1]
    # what was under way when the time was over is done, and not counted
    assert committed <= totals[0] <= committed + 5
    assert yard.prepared() == 0


def test_one_hot_row(yard):
    done = run(yard, "--subjects", "limit,2pc", "--clients", "8", "--hot", "100", "--rounds", "1", "--seconds", "1", "--warm-up", "0",
               "--rows", "10")
    assert done.returncode == 0, done.stderr
    yard.wait_settled()  # an abort is told before the last branch is rolled back
    totals = moves(yard, 10)
    assert totals[0] == totals[1]  # however many of them waited for each other in a circle and gave up
    assert yard.prepared() == 0


@pytest.mark.parametrize("arguments, word", [
    (["--subjects", "magic"], "`magic` is unknown"),
    (["--clients", "0"], "`0` is not a number from 1 to 1024"),
    (["--clients", "4x"], "`4x`"),
    (["--subjects", ","], "no subject"),
    (["--participant", "third"], "one --participant for each --database"),
    (["--rounds", "0"], "--rounds"),
    (["surplus"], "`surplus`"),
])
def test_bad_use(yard, arguments, word):
    done = run(yard, *arguments)
    assert done.returncode == 2, done.stderr
    assert word in done.stderr


def test_no_server():
    done = subprocess.run([os.path.join(BUILD, "lockstep-bench"), "transfer", "--subjects", "bare", "--log", "/tmp", "--database",
                           "host=/nowhere dbname=x", "--database", "host=/nowhere dbname=y"], text=True, capture_output=True, check=False, timeout=60)
    assert done.returncode == 3
    assert "/nowhere" in done.stderr
