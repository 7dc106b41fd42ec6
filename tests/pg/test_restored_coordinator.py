"""Hazard: a coordinator comes back from an old copy of its data directory, or with an empty one, or runs twice, and settles branches by
what its log no longer knows (hazards 1.14, D7, D8, D9, design 2.9).

Method: the data directory is copied, transactions go on, the copy is put back and started.
Seen if wrong: it goes on; a branch of the forgotten time is rolled back by presumption.
"""

import os
import shutil

import pytest

from harness.base import stays_true, wait_until
from harness.programs import Coordinator, command
from harness.system import System, fresh, put
from test_saga_flow import JOURNAL, Locked, ended, note, notes, saga, takes

NAMES = ("orders", "balance")


@pytest.fixture
def system():
    made = System({"orders": 0, "balance": 1}, link_proxies=NAMES)
    yield made
    made.close()


def snapshot(system):
    path = system.coordinator.data + ".copy"
    shutil.copytree(system.coordinator.data, path, ignore=shutil.ignore_patterns("lock", "*.sock"))
    return path


def restore(system, path):
    shutil.rmtree(system.coordinator.data)
    shutil.copytree(path, system.coordinator.data)
    os.chmod(system.coordinator.data, 0o700)


def test_old_copy_is_refused_until_an_operator_accepts(system):
    key = fresh()
    assert system.app.run(put(fresh(), *NAMES)).status == 200
    system.coordinator.kill()
    copy = snapshot(system)
    system.coordinator.start()
    system.wait_ready()
    # the forgotten time: a decision whose COMMIT has not reached one database, while the other agent has seen it
    rule = system.link["orders"].at("decide", "drop", up=False, times=None)
    answer = system.app.run(put(key, *NAMES), wait="decided")
    assert answer.status == 200
    rule.wait_hit()
    wait_until(lambda: system.count("balance", key) == 1, 10, "the other branch is committed")
    system.coordinator.kill()
    restore(system, copy)
    system.coordinator.spawn()
    assert system.coordinator.wait_exit() == 78, system.coordinator.log_text()
    assert system.coordinator.log_has("balance") or system.coordinator.log_has("orders")
    # a second start does not climb past the fence either (a higher epoch proves nothing)
    system.coordinator.spawn()
    assert system.coordinator.wait_exit() == 78
    prepared = system.db["orders"].prepared()
    assert len(prepared) == 1, "the branch of the forgotten decision must stay"
    incarnation = answer.gtid.split(".")[1]

    def accept(name):
        return command("participants", "accept", name, "--incarnation", incarnation, "--reason", "test: the log is lost",
                       "--data", system.coordinator.data)

    # a copy of the past cannot be accepted: it would hand out names again that its lost future has used
    refused = accept("orders")
    assert refused.returncode != 0 and "copy of its past" in refused.stderr, refused
    shutil.rmtree(os.path.join(system.coordinator.data, "log"))
    system.coordinator.spawn()
    assert system.coordinator.wait_exit() == 78
    for name in NAMES:
        done = accept(name)
        assert done.returncode == 0, done
    system.coordinator.start()
    system.wait_ready()
    # accepted means it is served again; the branch of the lost time is never answered by presumption
    system.alive()
    stays_true(lambda: system.db["orders"].prepared() == prepared, 1.5, "a branch of the lost time was settled by presumption")


def test_old_copy_of_a_saga_is_refused(system):
    """S9: two orchestrators of one saga. The one with the older log, in which the saga is still open, is refused and does nothing."""
    for database in system.db.values():
        database.execute(JOURNAL)
    word, lock = fresh("w"), Locked(system, "balance")
    answer = saga(system, [note("orders", word, "a"), takes("balance", lock, undo={"sql": "select 1"}, attempts=1000), note("orders", word, "c")], wait=None)
    wait_until(lambda: notes(system, word, "orders") == ["do a"], 20, "the first step is done")
    system.coordinator.kill()
    copy = snapshot(system)
    system.coordinator.start()
    system.wait_ready()
    lock.free()
    assert ended(system, answer.saga).state == "completed"
    rows = "select count(*) from lockstep.barrier where saga = %s"
    wait_until(lambda: all(system.db[name].value(rows, answer.saga) == 0 for name in NAMES), 30, "nobody remembers its steps")
    system.coordinator.kill()
    restore(system, copy)
    for _ in range(2):
        system.coordinator.spawn()
        assert system.coordinator.wait_exit() == 78, system.coordinator.log_text()
    assert notes(system, word, "orders") == ["do a", "do c"] and system.db["balance"].value("select v from item where k = %s", lock.key) == 4
    assert [system.db[name].value("select count(*) from lockstep.barrier") for name in NAMES] == [0, 0]


@pytest.fixture
def alone():
    """One database: there is nobody else who could have seen more of the log."""
    made = System({"orders": 0})
    made.db["orders"].execute(JOURNAL)
    yield made
    made.close()


def refuses(system, copy):
    """The copy takes the place of the log, and its participant comes back, of which no later life has seen anything."""
    system.coordinator.kill()
    restore(system, copy)
    system.agents["orders"].spawn()
    system.coordinator.spawn()
    assert system.coordinator.wait_exit() == 78, system.coordinator.log_text()


def test_committed_step_remembers_its_saga(alone):
    """A copy of a running machine lacks the saga; the agent dies as soon as it has committed the first step. What it knew of the log stands in its database."""
    word, agent = fresh("w"), alone.agents["orders"]
    agent.kill()
    agent.start(fail="agent_after_one_phase_commit=kill")
    alone.wait_ready()
    copy = snapshot(alone)
    answer = saga(alone, [note("orders", word, "a"), note("orders", word, "b")], wait=None)
    agent.wait_exit()
    wait_until(lambda: notes(alone, word, "orders") == ["do a"], 10, "the COMMIT that was sent is carried out")
    refuses(alone, copy)
    assert alone.db["orders"].value("select count(*) from lockstep.barrier where saga = %s", answer.saga) == 1


def test_forgotten_saga_is_not_done_again(alone):
    """A copy of a running machine has the saga begun, not ended; the agent dies as soon as the rows are gone that would answer for the step."""
    lock, rows = Locked(alone, "orders"), "select count(*) from lockstep.barrier"
    answer = saga(alone, [takes("orders", lock)], wait=None)
    wait_until(lambda: alone.db["orders"].value("select count(*) from pg_stat_activity where wait_event_type = 'Lock'") == 1, 10, "the step is there")
    copy = snapshot(alone)
    lock.free()
    assert ended(alone, answer.saga).state == "completed"
    wait_until(lambda: alone.db["orders"].value(rows) == 0, 30, "the step is forgotten")
    alone.agents["orders"].kill()
    refuses(alone, copy)
    assert alone.db["orders"].value("select v from item where k = %s", lock.key) == 4


def test_new_log_of_the_same_name_is_refused(system):
    assert system.app.run(put(fresh(), *NAMES)).status == 200
    system.coordinator.kill()
    shutil.rmtree(system.coordinator.data)
    system.coordinator.spawn()
    assert system.coordinator.wait_exit() == 78, system.coordinator.log_text()


def test_two_on_one_data_directory(system):
    second = Coordinator(system.authority, "shop")
    second.config["data"] = system.coordinator.data
    second.config["api"]["socket"] = second.socket
    second.spawn()
    assert second.wait_exit() not in (0, None)
    assert str(system.coordinator.process.pid) in second.log_text()
    system.alive()


def test_log_of_another_coordinator(system):
    """The name in the configuration must be the one in the log."""
    system.coordinator.kill()
    system.coordinator.config["name"] = "other"
    system.coordinator.spawn()
    assert system.coordinator.wait_exit() == 78, system.coordinator.log_text()
    assert system.coordinator.log_has("shop")
    system.coordinator.config["name"] = "shop"


def test_thawed_coordinator(system):
    """SIGSTOP between decision and send (a paused machine): it goes on where it was, nothing is lost or doubled (hazards D13)."""
    key = fresh()
    rule = system.link["orders"].at("decide", "hold", up=False)
    answer = system.app.run(put(key, *NAMES), wait="decided")
    rule.wait_hit()
    system.coordinator.freeze()
    try:
        wait_until(lambda: system.agents["balance"].log_has("link down", "nothing heard"),
                   15, "the agents notice the silence")
    finally:
        system.coordinator.thaw()
    rule.release()
    system.heal()
    assert system.app.wait_state(answer.gtid, ("committed",)).state == "committed"
    system.agree(key, NAMES, "committed")


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_damaged_log_refuses_to_start(system, damage):
    """A byte in the middle of what was acted upon: 78 or 74 with the place, never a silent abort."""
    for _ in range(5):
        assert system.app.run(put(fresh(), *NAMES)).status == 200
    system.coordinator.kill()
    directory = os.path.join(system.coordinator.data, "log")
    sizes = {name: os.path.getsize(os.path.join(directory, name)) for name in os.listdir(directory)}
    first = sorted(sizes)[0]
    path = os.path.join(directory, first)
    with open(path, "r+b") as file:
        content = file.read()
        place = content.rstrip(b"\0").__len__() // 2
        if damage == "flip":
            file.seek(place)
            file.write(bytes([content[place] ^ 0x40]))
        else:
            file.truncate(place)
    system.coordinator.spawn()
    code = system.coordinator.wait_exit()
    assert code not in (0, None) and code > 0, system.coordinator.log_text()
    assert system.coordinator.log_has(first.split(".")[0]) or system.coordinator.log_has("corrupt"), system.coordinator.log_text()
    verify = command("log", "verify", system.coordinator.data)
    assert verify.returncode != 0, verify


def test_what_was_seen_after_a_restart_is_remembered(system):
    """The stored fence moves on in every epoch: agents that start anew refuse a copy of what lies between two restarts of the coordinator."""
    assert system.app.run(put(fresh(), *NAMES)).status == 200
    system.coordinator.restart()
    system.wait_ready()
    assert system.app.run(put(fresh(), *NAMES)).status == 200
    system.coordinator.kill()
    copy = snapshot(system)
    system.coordinator.start()
    system.wait_ready()
    assert system.run(put(fresh(), *NAMES)).status == 200
    for daemon in (system.coordinator, *system.agents.values()):
        daemon.kill()
    restore(system, copy)
    system.coordinator.spawn()
    wait_until(system.coordinator.livez, 20, "the copy runs")
    for agent in system.agents.values():
        agent.spawn()
    assert system.coordinator.wait_exit() == 78, system.coordinator.log_text()
