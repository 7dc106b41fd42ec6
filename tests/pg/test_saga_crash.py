"""Hazard: a process dies between two steps of a saga, and what the next life does is wrong (S2 to S5, S8, S12, S17).

Method: every saga_* name of common/failpoints.def with the real programs: the coordinator kills itself there, alone or together with
every agent and server, while a saga runs forward past its pivot, or turns and compensates; and the agents' own points while they run a
step. Then everything is started again, and the client repeats its request with the same key. At last, kill -9 of everything at
random under load.
Seen if wrong: a step done twice or not at all, an undo without its step or missing, a saga that never ends, another saga under the same
key, barrier rows that stay.
"""

import http.client
import os
import random
import re
import threading
import time

import pytest

from harness.base import wait_until
from harness.programs import ROOT
from harness.system import System, fresh
from test_crash_points import settle, start_with
from test_saga_flow import JOURNAL, fails, note, notes

with open(os.path.join(ROOT, "common", "failpoints.def"), encoding="utf-8") as source:
    POINTS = re.findall(r'^FAILPOINT\((\w+), "([\w-]+)", "(.*)"\)$', source.read(), re.M)
# those of calls: test_saga_call.py
COORDINATOR = [name for name, program, _ in POINTS if program == "lockstepd" and name.startswith("saga_") and not name.startswith("saga_call_")]
AGENT = ["agent_work_received", "agent_before_pipeline", "agent_after_pipeline_sent", "agent_before_one_phase_commit", "agent_after_one_phase_commit"]
ONLY_FORWARD, ONLY_BACK = {"saga_passed_durable"}, {"saga_turn_durable"}
CASES = [(name, way) for name in COORDINATOR for way in ("forward", "back")
         if not (name in ONLY_FORWARD and way == "back") and not (name in ONLY_BACK and way == "forward")]


@pytest.fixture(scope="module")
def system():
    made = System({"orders": 0, "balance": 1}, coordinator={"limits": {"deadline": "5s", "lock_timeout": "2s"}}, agents={"sweep": {"interval": "1s"}})
    for database in made.db.values():
        database.execute(JOURNAL)
    yield made
    made.close()


@pytest.fixture
def calm(system):
    system.heal()
    yield system
    system.heal()


def document(word, way):
    if way == "forward":
        return [note("orders", word, "a"), note("balance", word, "p", undo=False, kind="pivot"), note("orders", word, "r", undo=False)]
    return [note("orders", word, "a"), note("balance", word, "b"), fails("orders", kind="pivot")]


EXPECTED = {"forward": (["do a", "do r"], ["do p"]), "back": (["do a", "undo a"], ["do b", "undo b"])}


def audit(system, word, way, key, steps, told):
    """Everything runs again: the repeat is answered by the same saga, which ends as it must, every effect exactly once."""
    state = "completed" if way == "forward" else "compensated"
    answer = system.run(steps, deadline=20, key=key, mode="saga", wait="end")
    assert answer.state == state, answer
    if told is not None and told.saga:
        assert told.saga == answer.saga, (told, answer)
        assert told.state in (state, "running", "begun", "passed", "compensating"), told
    assert (notes(system, word, "orders"), notes(system, word, "balance")) == EXPECTED[way]
    rows = "select count(*) from lockstep.barrier where saga = %s"
    wait_until(lambda: all(system.db[name].value(rows, answer.saga) == 0 for name in system.db), 30, "its barrier rows are gone")
    open_ones = system.admin.request("GET", "/v1/sagas").body["sagas"]
    assert not [entry for entry in open_ones if entry["saga"] == answer.saga], open_ones


def begin(system, steps, key):
    return system.app.run_later(steps, key=key, mode="saga", wait="end")


# with everything else dead, too: each point once
TOGETHER = {name: way for name, way in CASES}


@pytest.mark.parametrize("name,way,also", [(*case, "alone") for case in CASES] + [(*case, "everything") for case in TOGETHER.items()])
def test_coordinator_killed(calm, name, way, also):
    word, key = fresh("w"), fresh("idem")
    steps = document(word, way)
    start_with(calm, calm.coordinator, name, "kill")
    future = begin(calm, steps, key)
    assert calm.coordinator.wait_exit() == -9, f"{name} was not reached"
    if also == "everything":
        for agent in calm.agents.values():
            agent.kill()
        for cluster in calm.clusters:
            cluster.kill()
    told = settle(future)
    calm.heal()
    audit(calm, word, way, key, steps, told)


@pytest.mark.parametrize("name,way", [(name, ("forward", "back")[number % 2]) for number, name in enumerate(AGENT)])
def test_agent_killed(calm, name, way):
    word, key = fresh("w"), fresh("idem")
    steps = document(word, way)
    start_with(calm, calm.agents["orders"], name, "kill")
    future = begin(calm, steps, key)
    assert calm.agents["orders"].wait_exit() == -9, f"{name} was not reached"
    calm.heal()
    audit(calm, word, way, key, steps, settle(future))


def test_killed_at_random_under_load(calm):
    """Coordinator, agents and servers die at random while clients run sagas and repeat them with their keys until they end."""
    seed = random.randrange(1 << 30)
    chance, stop, done, broken = random.Random(seed), threading.Event(), [], []

    def client(number):
        choice = random.Random(seed + number)
        while not stop.is_set() and not broken:
            word, key, way = fresh("w"), fresh("idem"), choice.choice(("forward", "back"))
            steps = document(word, way)
            until = time.monotonic() + 120
            while True:
                try:
                    answer = calm.app.run(steps, key=key, mode="saga", wait="end")
                    if answer.state in ("completed", "compensated"):
                        done.append((word, way, answer.state))
                        break
                except (OSError, http.client.HTTPException):
                    pass
                except AssertionError as error:
                    broken.append(error)
                    return
                if time.monotonic() > until:
                    broken.append(f"{word} {way} does not end")
                    return

    clients = [threading.Thread(target=client, args=(number,)) for number in range(4)]
    for thread in clients:
        thread.start()
    for _ in range(4):
        before = len(done)
        wait_until(lambda: len(done) >= before + 3 or broken, 60, "sagas end")
        victim = chance.choice([calm.coordinator, calm.coordinator, *calm.agents.values(), *calm.clusters])
        victim.kill()
        calm.heal()
    stop.set()
    for thread in clients:
        thread.join(150)
    assert not broken, (seed, broken)
    for word, way, state in done:
        assert state == ("completed" if way == "forward" else "compensated"), (seed, word)
        assert (notes(calm, word, "orders"), notes(calm, word, "balance")) == EXPECTED[way], (seed, word)
