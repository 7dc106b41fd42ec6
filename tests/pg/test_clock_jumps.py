"""Hazard: somebody sets the clock, an hour forward or back, under running daemons: a deadline passes early or never, a link looks dead, an epoch
or a key of yesterday comes again (hazard D12).

Method: coordinator and agents run with libfaketime, which moves CLOCK_REALTIME alone, when a file says so; each jump is proved by the time in their
log lines. Servers and test keep the true time.
Seen if wrong: a transaction with time left is aborted; one without is not, or its backend goes on; an agent joins anew; an epoch that does not grow,
a key that runs twice, a duration in the metrics that is an hour too long.
"""

import datetime
import glob
import os
import random
import signal
import time

import pytest

from harness.base import alive, folder, wait_until
from harness.system import System, fresh, put, step

NAMES = ("orders", "balance")
HOUR = 3600
DIRECTIONS = pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["forward", "back"])


class Clock:
    """The clock of all daemons of a system."""

    def __init__(self, system):
        self.system, self.file, self.ahead = system, os.path.join(folder.make("clock"), "offset"), 0
        self.daemons = [system.coordinator, *system.agents.values()]
        self.write()
        found = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
        assert found, "libfaketime is missing: scripts/install-deps tests"
        for daemon in self.daemons:
            daemon.arguments = lambda usual=daemon.arguments: ["env", f"LD_PRELOAD={found[0]}", f"FAKETIME_TIMESTAMP_FILE={self.file}",
                                                               "FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1", *usual()]

    def write(self):
        with open(self.file + ".new", "w", encoding="ascii") as file:
            file.write(f"{self.ahead:+d}\n")
        os.replace(self.file + ".new", self.file)

    def shown_by(self, daemon):
        """How far ahead the clock was when it last wrote into its log."""
        lines = [line for line in daemon.log_text().splitlines() if line[:2] == "20"]
        last = datetime.datetime.strptime(lines[-1].split()[0], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=datetime.timezone.utc)
        return (last - datetime.datetime.now(datetime.timezone.utc)).total_seconds()

    def set(self, ahead):
        """The jump has happened when each daemon has logged something (it reads its files again) at the new time."""
        self.ahead = ahead
        self.write()
        for daemon in self.daemons:
            daemon.process.send_signal(signal.SIGHUP)
        for daemon in self.daemons:
            wait_until(lambda d=daemon: abs(self.shown_by(d) - ahead) < HOUR / 4, 20, f"{daemon.binary} has seen the clock jump")


def clear_shared_memory():
    """What libfaketime leaves of processes that were killed."""
    for name in glob.glob("/dev/shm/*faketime_*"):
        try:
            if os.stat(name).st_uid == os.geteuid() and not alive(int(name.rpartition("_")[2])):
                os.unlink(name)
        except (FileNotFoundError, ValueError):
            continue


@pytest.fixture(scope="module")
def made():
    system = System({"orders": 0, "balance": 1}, start=False)
    system.clock = Clock(system)
    system.start()
    yield system
    system.close()
    clear_shared_memory()


@pytest.fixture
def system(made):
    made.heal()
    if made.clock.ahead != 0:
        made.clock.set(0)
    return made


def hellos(system):
    return system.admin.metrics().value("lockstepd_messages_received_total", kind="hello")


def wait_timers(system):
    """What timers send has come: on links that are idle but for that, four messages."""
    def messages():
        return system.admin.metrics().value("lockstepd_messages_received_total")
    before = messages()
    wait_until(lambda: messages() >= before + 4, 30, "timers run")


class Obstacle:
    """A lock in a database, on which a transaction waits."""

    WAITING = "select count(*) from pg_locks where locktype = 'advisory' and objid = %s and not granted"

    def __init__(self, system, name):
        self.database, self.name, self.number = system.db[name], name, random.randrange(1, 1 << 30)
        self.session = self.database.connect()
        self.session.execute("select pg_advisory_lock(%s)", [self.number])

    def step(self):
        return step(self.name, "select from pg_advisory_xact_lock($1::bigint)", str(self.number))

    def waiting(self):
        return self.database.value(self.WAITING, self.number)

    def remove(self):
        self.session.close()


@pytest.fixture
def obstacle(system):
    made = Obstacle(system, "orders")
    yield made
    made.remove()


@DIRECTIONS
def test_time_that_is_left_is_left(system, obstacle, jump):
    key = fresh()
    future = system.app.run_later([obstacle.step(), *put(key, *NAMES)], deadline="5min", lock_timeout="5min", timeout=120)
    wait_until(obstacle.waiting, 20, "the transaction is on its way")
    system.clock.set(jump)
    wait_timers(system)
    assert obstacle.waiting() and not future.done(), f"it did not wait: {future.result(1)}"
    obstacle.remove()
    assert future.result().status == 200, future.result()
    system.agree(key, NAMES, "committed")


@DIRECTIONS
def test_deadline_passes_in_its_time(system, obstacle, jump):
    """At the coordinator, which answers, and at the agent, which ends the backend."""
    key, began = fresh(), time.monotonic()
    future = system.app.run_later([obstacle.step(), *put(key, *NAMES)], deadline="4s", lock_timeout="5min", timeout=120)
    wait_until(obstacle.waiting, 20, "the transaction is on its way")
    system.clock.set(jump)
    answer = future.result()
    assert answer.status == 409 and answer.state == "aborted", answer
    assert 3.5 < time.monotonic() - began < 60
    wait_until(lambda: not obstacle.waiting(), 30, "nothing waits for the lock any more")
    system.agree(key, NAMES, "aborted")


def test_links_stay(system):
    """Back and forth, with transactions in between: nobody joins anew."""
    joined = hellos(system)
    for ahead in (HOUR, -HOUR, HOUR, 0):
        system.clock.set(ahead)
        wait_timers(system)
        system.alive()
    assert hellos(system) == joined


@DIRECTIONS
def test_epochs_and_keys_across_starts(system, jump):
    """Everybody is killed and comes back in another hour, twice."""
    key, word = fresh(), fresh("idem")
    first = system.app.run(put(key, *NAMES), key=word)
    assert first.status == 200, first
    epochs = [int(first.gtid.split(".")[2])]
    for ahead in (jump, 0):
        system.clock.set(ahead)
        for daemon in system.clock.daemons:
            daemon.kill()
        system.coordinator.start()
        for agent in system.agents.values():
            agent.spawn()
        system.wait_ready(30)
        again = system.run(put(key, *NAMES), key=word)
        assert again.status == 200 and again.gtid == first.gtid, again
        later = system.run(put(fresh(), *NAMES))
        assert later.status == 200, later
        epochs.append(int(later.gtid.split(".")[2]))
    assert epochs == sorted(set(epochs)), f"epochs {epochs} do not grow"
    system.agree(key, NAMES, "committed")


def saga_seconds(system):
    return system.admin.metrics().value("lockstepd_saga_seconds_sum")


@DIRECTIONS
def test_a_saga_goes_on(system, obstacle, jump):
    key = fresh()
    before = saga_seconds(system)
    steps = [{**steps, "undo": {"sql": "delete from item where k = $1", "args": [key]}} for steps in put(key, "orders", "balance")]
    steps[0]["do"] = obstacle.step()["do"]
    future = system.app.run_later(steps, mode="saga", wait="end", deadline="5min", timeout=120)
    wait_until(obstacle.waiting, 20, "the saga is on its way")
    system.clock.set(jump)
    obstacle.remove()
    answer = future.result()
    assert answer.status == 200 and answer.state == "completed", answer
    assert 0 < saga_seconds(system) - before < 120
    assert system.count("balance", key) == 1


def test_a_retried_saga_has_its_time_anew(system):
    """Stuck for longer than its deadline; an operator lets it go on: a start reckons from that word, and does not turn what was to be tried again."""
    key = fresh()
    steps = [step("orders", "select 1", undo={"sql": "select 1"}),
             step("balance", "update item set v = v + 1 where k = $1", key, kind="pivot", attempts=1, expect_rows=1)]
    system.db["balance"].execute("insert into item(k) values (%s)", key)
    with system.db["balance"].connect(autocommit=False) as lock:
        lock.execute("update item set v = v where k = %s", (key,))
        name = system.app.run(steps, mode="saga", wait=None, deadline="5min", lock_timeout="5s").saga
        wait_until(lambda: system.app.request("GET", f"/v1/sagas/{name}").state == "stuck", 30, "it is stuck")
        system.clock.set(HOUR)
        assert system.admin.request("POST", f"/v1/dlq/{name}/retry", {"reason": "the lock goes"}).status == 202
        system.coordinator.kill()
    system.heal()
    wait_until(lambda: system.app.request("GET", f"/v1/sagas/{name}").state in ("completed", "compensated"), 30, "it ends")
    assert system.app.request("GET", f"/v1/sagas/{name}").state == "completed"
