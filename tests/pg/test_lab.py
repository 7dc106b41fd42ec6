"""Hazard: the laboratory shows something that is not so, cannot be run by a stranger, or leaves a mess behind.

Method: `lockstep lab` as a user calls it: every experiment once in its short form, the three modes taking turns, in two laboratories at once; bad command lines; an
interrupted run. The timelines are held against docs/lab.md.
Seen if wrong: an audit that is not clean, a hypothesis that does not hold, a timeline without its fault or with other fields, processes or files that are left.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from harness.base import alive, children, folder, wait_until
from harness.programs import BUILD, ROOT, environment, program

sys.path.insert(0, os.path.join(ROOT, "scripts", "lib"))
from place import Place, hold_port  # noqa: E402
from shm import segments  # noqa: E402
from shop import Shop  # noqa: E402

HALVES = (("coordinator-after-votes/2pc", "coordinator-half-sent/orchestrated", "agent-prepared/choreographed", "server-failover/2pc", "unreachable/2pc", "fsync-fails/2pc", "slow-fsync/2pc",
           "zombies/orchestrated"),
          ("coordinator-after-decision/choreographed", "coordinator-half-sent/2pc", "server-prepared/2pc", "disk-full/2pc", "long-doubt/2pc", "deadlock/2pc",
           "lost-log/2pc", "forgotten-client/orchestrated"))


def lab(*arguments, **options):
    return subprocess.Popen([program("lockstep"), "lab", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment({"TMPDIR": "/tmp"}), **options)


def call(*arguments):
    process = lab(*arguments)
    text, _ = process.communicate(timeout=60)
    return process.returncode, text


@pytest.fixture(scope="module")
def timelines():
    """{(experiment, mode): record} and what was printed."""
    out = folder.make("lab")
    running = [lab("run", *names, "--quick", "--out", out) for names in HALVES]
    texts = [process.communicate(timeout=500)[0] for process in running]
    for process, text in zip(running, texts):
        said = [line for line in text.splitlines() if re.match(r"  NOT |  FAIL |  hypothesis DID NOT|  not: |lockstep lab: |.*: not within|\S+ ERROR ", line)]
        assert process.returncode == 0, "\n".join([text, *said])
    records = {}
    for name in os.listdir(out):
        with open(os.path.join(out, name), encoding="utf-8") as file:
            record = json.load(file)
        assert name == f"{record['experiment']}-{record['mode']}.json"
        records[record["experiment"], record["mode"]] = record
    return records, "".join(texts)


def documented():
    """The example in docs/lab.md."""
    with open(os.path.join(ROOT, "docs", "lab.md"), encoding="utf-8") as file:
        return json.loads(re.search(r"```json\n(.*?)```", file.read(), re.S)[1])


def test_every_experiment_holds(timelines):
    records, text = timelines
    wanted = {tuple(word.split("/")) for half in HALVES for word in half}
    assert set(records) == wanted
    listed = re.findall(r"^(\S+)   \(", call("list")[1], re.M)
    assert {name for name, _ in wanted} == set(listed), "an experiment without a short form here"
    for record in records.values():
        assert record["held"] and record["audit"]["good"] and record["claims"], record
        assert record["fault"] and record["samples"] and record["events"], record
        assert all(check["good"] for check in record["audit"]["checks"])
    for path in re.findall(r"Starting in (\S+):", text):
        assert not os.path.exists(path), f"{path} is left behind"


def test_timelines_are_as_documented(timelines):
    example = documented()
    for record in timelines[0].values():
        assert set(record) == set(example)
        for name in ("claims", "fault", "events", "samples"):
            assert all(set(entry) == set(example[name][0]) for entry in record[name]), (record["experiment"], name)
        assert all(set(row) == set(example["rows"][0]) for row in record["rows"])
        times = [sample["t"] for sample in record["samples"]]
        assert times == sorted(times)
        assert all(0 <= fault["at"] <= (fault["until"] or record["seconds"]) <= record["seconds"] + 0.1 for fault in record["fault"])


def test_what_blocks_is_seen(timelines):
    """The figures are measured: in two-phase commit somebody waits behind rows that are named, in a saga nobody does."""
    votes = timelines[0]["coordinator-after-votes", "2pc"]
    assert any(row["participant"] == "products" and row["rows"][0].startswith("product s") for row in votes["rows"] if row["rows"]), votes["rows"]
    assert max(sample["in_doubt"] for sample in votes["samples"]) > 0
    assert max(sample["bystander_worst_s"] for sample in votes["samples"]) > 1
    assert not timelines[0]["coordinator-half-sent", "orchestrated"]["rows"]


@pytest.mark.parametrize("words, what", [
    (("run", "nothing"), "no experiment `nothing'"), (("run",), "NAME"), (("run", "deadlock/choreographed"), "none of these runs"), (("run", "deadlock/xa"), "no mode `xa'"),
    (("run", "all", "--mode", "xa"), "--mode"), (("fly",), "fly"), ((), "verb"), (("run", "deadlock", "--out", "/proc/nowhere"), "--out")])
def test_bad_command_lines(words, what):
    code, text = call(*words)
    assert code == 2 and what in text, text


@pytest.mark.parametrize("variable, what", [("PG_BIN", "no PostgreSQL server programs in PG_BIN=/nowhere"), ("LOCKSTEP_BUILD", "/nowhere/lockstep")])
def test_what_it_needs_is_missing(variable, what, tmp_path):
    """One line, and nothing is left but the logs, whose place is said when there is something in them."""
    words = [sys.executable, os.path.join(ROOT, "scripts", "lib", "lab.py"), "--build", "/nowhere" if variable == "LOCKSTEP_BUILD" else BUILD, "run", "deadlock/2pc", "--quick"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60, env=environment({"TMPDIR": str(tmp_path), variable: "/nowhere"}))
    assert done.returncode == 1 and what in done.stderr and "Traceback" not in done.stderr, done
    assert os.listdir(tmp_path) == [] or f"The logs are in {tmp_path}" in done.stderr


def test_interrupted():
    """In the middle of a fault: no process and no file is left."""
    process = lab("run", "unreachable/2pc", "--quick", bufsize=1)
    seen = []

    def reached():
        seen.append(process.stdout.readline())
        return "-- the link" in seen[-1] or not seen[-1]
    wait_until(reached, 120, lambda: f"the fault is injected: {seen}")
    started = children(process.pid)
    assert started and seen[-1], seen
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130, rest
    wait_until(lambda: not any(alive(pid) for pid in started), 10, "its processes are gone")
    path = re.search(r"Starting in (\S+):", "".join(seen))[1]
    assert not os.path.exists(path), f"{path} is left behind"


def test_what_is_kept_of_a_failure():
    """The logs stay; of the servers that were killed nothing does, nor in the kernel."""
    place = Place("lockstep-lab")
    try:
        shop = Shop(place, BUILD)
        shop.make_clusters()
        pids = {str(server.pid) for server in shop.clusters.values()}
        place.kill_all()
        place.leave(True)
        assert os.path.exists(os.path.join(place.path, "log", "postgres-c1")) and not os.path.exists(os.path.join(place.path, "c1"))
        assert not pids & set(segments().values())
    finally:
        place.kill_all()
        place.remove()


def test_a_port_is_kept_between_two_lives():
    """While a daemon is dead, nobody's outgoing connection or listener gets its port; its next life does."""
    with hold_port() as held:
        address = held.getsockname()
        for _ in range(2):
            with socket.socket() as stranger, pytest.raises(OSError, match="Address already in use"):
                stranger.bind(address)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address, 5)
            with socket.socket() as life:
                life.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                life.bind(address)
                life.listen()
                socket.create_connection(address, 5).close()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_signal_in_a_hook_around_a_fork(name):
    """Python ignores what is raised there: the signal comes again."""
    words = """
import os, signal, subprocess, sys, time
from place import Interrupted, interrupt, on_ending
on_ending(interrupt)
os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.{name}))
try:
    subprocess.run(["true"], preexec_fn=lambda: None, check=True)
    time.sleep(30)
except Interrupted as ended:
    sys.exit(f"ended by {{ended}}")
""".format(name=name)
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=False, timeout=60, cwd=os.path.join(ROOT, "scripts", "lib"))
    assert (done.returncode, done.stderr) == (1, f"ended by {name}\n"), done
