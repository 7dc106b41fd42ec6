"""Hazard: a process is paused (SIGSTOP, a frozen virtual machine) and goes on later as if nothing had happened: on a link the others have given
up, with answers nobody waits for, or as an old coordinator beside its own successor (hazards D9, D13).

Method: each role is stopped under load, longer than the dead timer of the links (5 s); what was blocked and for how long is measured; after
SIGCONT everything must settle and agree. PAUSE_S=60 is the long form, which prints its figures. Then the old coordinator: a second one on
the same data directory, on a copy of it, and on the very log while the first sleeps.
Seen if wrong: databases that differ, a prepared transaction left, a client told what is not so, two coordinators served at once.
"""

import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time

import pytest

from harness.base import folder, processes, tail, wait_until
from harness.programs import Coordinator, environment, program
from harness.system import System, fresh, put

NAMES = ("orders", "balance")
LONG = "PAUSE_S" in os.environ
PAUSE_S = float(os.environ.get("PAUSE_S", "6.5"))
CLIENTS = 6
TIMES = {"deadline": "4s", "lock_timeout": "1s"}


@pytest.fixture(scope="module")
def kept():
    made = System({"orders": 0, "balance": 1}, link_proxies=NAMES)
    yield made
    made.close()


@pytest.fixture
def system(kept):
    kept.heal()
    return kept


class Load(threading.Thread):
    """A client that puts one key after the other on both databases, and remembers what it was told and how long it waited."""

    def __init__(self, system, number):
        super().__init__(name=f"load {number}")
        self.system, self.random, self.over = system, random.Random(number), threading.Event()
        self.told, self.surprises, self.longest = {}, [], 0.0

    def run(self):
        while not self.over.wait(self.random.random() * 0.02):
            key = fresh("pause")
            started = time.monotonic()
            try:
                answer = self.system.app.run(put(key, *NAMES), key=key, timeout=90, **TIMES)
            except (OSError, http.client.HTTPException):
                self.told[key] = None  # cut off: a coordinator that slept for longer than limits.http_idle closes what it was about to read
                continue
            self.longest = max(self.longest, time.monotonic() - started)
            if answer.status in (200, 409):
                self.told[key] = answer.state
            elif answer.status in (429, 503) and answer.begun is False:
                self.told[key] = "aborted"
            elif answer.status == 202:
                self.told[key] = None
            else:
                self.surprises.append(f"{key}: {answer}")


class UnderLoad:
    """CLIENTS clients for the time of the block; afterwards every key is audited."""

    def __init__(self, system):
        self.system = system
        self.clients = [Load(system, number) for number in range(CLIENTS)]

    def __enter__(self):
        for client in self.clients:
            client.start()
        self.wait_progress()
        return self

    def committed(self):
        return sum(1 for client in self.clients for state in list(client.told.values()) if state == "committed")

    def wait_progress(self, deadline=30):
        """Commits happen. Returns how long that took."""
        before, started = self.committed(), time.monotonic()
        wait_until(lambda: self.committed() >= before + 2 * CLIENTS, deadline, "transactions commit")
        return time.monotonic() - started

    def stop(self):
        for client in self.clients:
            client.over.set()
        for client in self.clients:
            client.join(120)

    def __exit__(self, *exception):
        self.stop()

    def audit(self):
        """What was told is what is there; what was not told is agreed upon, and told when it is asked for again under its key."""
        self.stop()
        surprises = [text for client in self.clients for text in client.surprises]
        assert not surprises, surprises
        self.system.no_orphans(20)
        told = {key: state for client in self.clients for key, state in client.told.items()}
        there = {name: {row[0] for row in self.system.db[name].query("select k from item where k = any(%s)", list(told))} for name in NAMES}
        assert there["orders"] == there["balance"], f"databases differ about {there['orders'] ^ there['balance']}"
        wrong = {key: state for key, state in told.items() if state is not None and (state == "committed") != (key in there["orders"])}
        assert not wrong, f"told, and not so: {wrong}"
        for key in [key for key, state in told.items() if state is None]:
            again = self.system.app.run(put(key, *NAMES), key=key, **TIMES)
            assert again.status == 200 and self.system.count("orders", key) == 1, again
        self.system.alive()
        return len(told)

    def longest(self):
        return max(client.longest for client in self.clients)


def figures(role, load, count, back):
    text = (f"pause of {role}: {PAUSE_S:.0f} s, {count} transactions, {load.committed()} committed; longest wait of a client {load.longest():.1f} s, "
            f"commits again {back:.1f} s after SIGCONT")
    print(text)
    if LONG:
        with open(os.environ.get("PAUSE_FIGURES", "/dev/null"), "a", encoding="utf-8") as file:
            file.write(text + "\n")


def blocked_meanwhile(system, seconds):
    """What the pause blocks: the longest time that a branch has been prepared, seen in SQL on the server that is not paused."""
    worst, end = 0.0, time.monotonic() + seconds
    while time.monotonic() < end:
        worst = max(worst, float(system.db["balance"].value(
            "select coalesce(max(extract(epoch from clock_timestamp() - prepared)), 0) from pg_prepared_xacts")))
        time.sleep(0.1)
    return worst


@pytest.mark.parametrize("role", ["coordinator", "agent", "server"] + (["agent and its server"] if LONG else []))
def test_paused_under_load(system, role):
    victims = {"coordinator": [system.coordinator], "agent": [system.agents["orders"]], "server": [system.clusters[0]],
               "agent and its server": [system.agents["orders"], system.clusters[0]]}[role]
    with UnderLoad(system) as load:
        for victim in victims:
            victim.freeze()
        try:
            blocked = blocked_meanwhile(system, PAUSE_S)
        finally:
            for victim in reversed(victims):
                victim.thaw()
        back = load.wait_progress(40)
        count = load.audit()
    figures(f"{role} (a branch of the other database was prepared for {blocked:.1f} s)", load, count, back)
    if LONG and role != "coordinator":
        # a paused participant loses its transactions at their deadline; it does not keep the other's branches
        assert blocked < 20, f"a branch of the other database stayed prepared for {blocked:.1f} s"


def test_paused_client(system):
    """The client sleeps over its answer: nothing is held for it, and it finds the answer when it wakes."""
    key, word = fresh(), fresh("idem")
    rule = system.link["orders"].at("work", "hold", up=False)
    document = os.path.join(folder.make("doc"), "run.json")
    with open(document, "w", encoding="utf-8") as file:
        json.dump({"mode": "2pc", "steps": put(key, *NAMES)}, file)
    ca, certificate, private = system.app.files
    url = f"https://localhost:{system.coordinator.address('api')[1]}"
    client = processes.start([program("lockstep"), "run", document, "--key", word, "-o", "json", "--url", url, "--ca", ca, "--cert", certificate,
                              "--cert-key", private], env=environment(), stdout=subprocess.PIPE, cwd=folder.path)
    try:
        rule.wait_hit(20)
        os.kill(client.pid, signal.SIGSTOP)
        rule.release()
        wait_until(lambda: system.where(key) == set(NAMES), 20, "the transaction commits without its client")
        system.no_orphans()
        with UnderLoad(system) as load:
            time.sleep(PAUSE_S if LONG else 1)  # the pause itself: no timer of ours waits for a client that reads slowly
            load.audit()
        os.kill(client.pid, signal.SIGCONT)
        output, _ = client.communicate(timeout=30)
    finally:
        client.kill()
        processes.forget(client)
    again = system.app.run(put(key, *NAMES), key=word)
    assert again.status == 200 and system.count("orders", key) == 1, again
    # its connection may have been closed over the pause (limits.http_idle); then it asks again under its key, as this test just did
    assert not output.strip() or json.loads(output).get("state", "committed") == "committed", output


# ---------------------------------------------------------------- an old coordinator and its successor


class Twins:
    """A system, and what is needed to start a second coordinator beside a sleeping first one."""

    def __init__(self):
        self.system = System({"orders": 0, "balance": 1}, link_proxies=NAMES)
        self.first, self.second = self.system.coordinator, None

    def make_second(self, data):
        self.second = Coordinator(self.system.authority, "shop")
        self.second.config["data"] = self.second.data = data
        return self.second

    def copy(self, name):
        """Of a coordinator that sleeps, or files would come and go under the copy."""
        path = os.path.join(self.first.directory, name)
        shutil.copytree(self.first.data, path, ignore=shutil.ignore_patterns("lock", "*.sock", "ports"))
        os.chmod(path, 0o700)
        return path

    def point_agents_to(self, coordinator):
        """As when an address moves to another machine."""
        for name in NAMES:
            self.system.link[name].target = coordinator.address("agents")
            self.system.link[name].break_links()  # first: what a rule holds must not arrive any more
            self.system.link[name].clear()

    def wait_served(self, coordinator, deadline=30):
        def served():
            coordinator.check_alive()
            listed = (coordinator.admin.participants().body or {}).get("participants", [])
            return [entry["name"] for entry in listed if entry.get("ready")] == sorted(NAMES, key=[e["name"] for e in listed].index)
        wait_until(served, deadline, lambda: f"both agents are ready; log:\n{tail(coordinator.log)}")

    def close(self):
        if self.first.process is not None and self.first.process.poll() is None:
            self.first.thaw()
        if self.second is not None:
            self.second.kill()
        self.system.close()


@pytest.fixture
def twins():
    made = Twins()
    yield made
    made.close()


def test_second_on_the_directory_of_a_sleeping_one(system):
    """The lock outlives the sleep: the second is refused, the first goes on."""
    key = fresh()
    rule = system.link["orders"].at("vote", "hold", up=True)
    future = system.app.run_later(put(key, *NAMES))
    rule.wait_hit()
    second = Coordinator(system.authority, "shop", settings={"data": system.coordinator.data})
    system.coordinator.freeze()
    try:
        second.spawn()
        assert second.wait_exit() not in (0, None)
        assert str(system.coordinator.process.pid) in second.log_text()
    finally:
        system.coordinator.thaw()
    rule.release()
    answer = future.result()
    assert answer.state in ("committed", "aborted"), answer
    system.heal()
    system.agree(key, NAMES, answer.state)
    system.alive()


def test_stale_copy_beside_a_sleeping_one(twins):
    """A copy from before the last decisions is refused by the agents, whatever epoch it climbs to; the sleeper wakes and goes on."""
    system, key = twins.system, fresh()
    twins.first.freeze()
    copied = twins.copy("early")
    twins.first.thaw()
    rule = system.link["orders"].at("decide", "hold", up=False)
    answer = system.app.run(put(key, *NAMES), wait="decided")
    assert answer.status == 200, answer
    rule.wait_hit()
    wait_until(lambda: system.count("balance", key) == 1, 10, "one database has it")
    twins.first.freeze()
    second = twins.make_second(copied)
    second.start()
    twins.point_agents_to(second)
    assert second.wait_exit(30) == 78, second.log_text()
    assert system.db["orders"].prepared(), "the branch of a decision that the copy does not know was settled by it"
    twins.first.thaw()
    # An agent that the copy greeted first has accepted it, since that agent had seen nothing newer, and remembers it. What the documents say:
    # nothing was decided by the copy, so its trace is removed in that database, and the newest log goes on.
    for name in NAMES:
        system.agents[name].stop()
        system.db[name].execute("delete from lockstep.fence")
    twins.point_agents_to(twins.first)
    for name in NAMES:
        system.agents[name].spawn()
    twins.wait_served(twins.first)
    assert system.app.wait_state(answer.gtid, ("committed",)).state == "committed"
    system.agree(key, NAMES, "committed")
    system.alive()


@pytest.mark.parametrize("asleep", ["before a vote", "coord_decision_durable", "before Decide arrives"])
def test_successor_takes_over_and_the_old_one_wakes(twins, asleep):
    """A copy of everything is started beside the sleeper, gets its agents, works; then the sleeper wakes, and gets them back for a moment: they
    refuse it (78), and it has told its clients nothing that is not so."""
    system, key = twins.system, fresh()
    first = twins.first
    rule = None
    if asleep == "coord_decision_durable":
        first.kill()
        first.start(fail="coord_decision_durable=stop")
        system.wait_ready()
    elif asleep == "before a vote":
        rule = system.link["orders"].at("vote", "hold", up=True)
    else:
        rule = system.link["orders"].at("decide", "hold", up=False)
    future = system.app.run_later(put(key, *NAMES), deadline="20s")
    if rule is None:
        wait_until(lambda: stopped(first), 20, "the coordinator sleeps behind its sync")
    else:
        rule.wait_hit()
        first.freeze()
    second = twins.make_second(twins.copy("late"))
    second.start()
    twins.point_agents_to(second)
    twins.wait_served(second)
    expected = "aborted" if asleep == "before a vote" else "committed"
    system.agree(key, NAMES, expected)
    app = second.app("checkout")
    later = fresh()
    assert app.run(put(later, *NAMES)).status == 200
    first.thaw()
    answer = future.result()
    assert answer.state in (expected, "pending"), f"the sleeper woke and said {answer}; the truth is {expected}"
    twins.point_agents_to(first)
    assert first.wait_exit(30) == 78, first.log_text()
    twins.point_agents_to(second)
    twins.wait_served(second)
    system.agree(key, NAMES, expected)
    system.agree(later, NAMES, "committed")
    last = fresh()
    wait_until(lambda: app.run(put(last, *NAMES)).status == 200, 10, "the successor works")
    system.no_orphans()


def stopped(daemon):
    with open(f"/proc/{daemon.process.pid}/stat", encoding="utf-8") as file:
        return file.read().rpartition(")")[2].split()[0] == "T"
