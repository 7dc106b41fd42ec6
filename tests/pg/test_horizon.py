"""Hazard: outcome rows of one-participant transactions that stay for ever; or go while somebody may still ask, who is then told "aborted" (S21, D16).

Method: a coordinator whose window is one second, agents that sweep often: rows are pruned on its word. Then what is gone is asked for, repeated with its
key, asked for after kill -9 of the coordinator; and a transaction whose end is not known must hold everything behind it back.
Seen if wrong: rows that stay, an `aborted` or a hazard for what was committed, a horizon that passes what is not settled or goes back.
"""

import time

import pytest

from harness.base import stays_true, wait_until
from harness.system import System, fresh, put

ROWS = "select count(*) from lockstep.outcome where gtid = %s"
FOR_EVER = "1h"


@pytest.fixture(scope="module")
def world():
    made = System({"orders": 0, "balance": 0}, coordinator={"log": {"retention": "1s"}, "limits": {"finished": 1, "deadline": "2s", "lock_timeout": "20s"}},
                  agents={"sweep": {"interval": "300ms"}})
    yield made
    made.close()


@pytest.fixture
def calm(world):
    world.heal()
    yield world
    world.heal()


def committed(system, participant="orders", **more):
    answer = system.run(put(fresh(), participant), **more)
    assert answer.status == 200 and answer.state == "committed", answer
    return answer.gtid


def sequence(gtid):
    """(epoch, sequence) of a name."""
    epoch, number = gtid.split("-")[0].split(".")[2:]
    return int(epoch), int(number)


def horizon(system, participant="orders"):
    rows = system.db[participant].query("select epoch, sequence from lockstep.horizon where participant = %s", participant)
    return tuple(rows[0]) if rows else (0, 0)


def wait_gone(system, gtid, participant="orders"):
    wait_until(lambda: system.db[participant].value(ROWS, gtid) == 0, 30, lambda: f"the row of {gtid} goes; horizon {horizon(system, participant)}")


def is_gone(answer):
    return answer.status == 404 and answer.code == "no_record" and "older than" in answer.message


def test_rows_go_and_nobody_is_told_aborted(calm):
    names = [committed(calm) for _ in range(5)]
    newer = committed(calm)  # what is still in memory is answered from there: only one is
    for name in names:
        wait_gone(calm, name)
    assert horizon(calm) >= sequence(names[-1])
    for name in names:
        answer = calm.app.get(name)
        assert is_gone(answer), answer
        assert calm.db["orders"].value("select lockstep.beyond_horizon('orders', %s)", name), "nothing below it can commit any more"
    answer = calm.app.get(newer)
    assert answer.state == "committed" or is_gone(answer), answer


def test_a_restart_does_not_lower_it(calm):
    """kill -9: the next life asks nobody about what an earlier one has declared gone."""
    name = committed(calm)
    wait_gone(calm, name)
    before = horizon(calm)
    hazards = "lockstepd_transactions_total"
    for _ in range(2):
        calm.coordinator.kill()
        calm.heal()
        answer = calm.app.get(name)
        assert is_gone(answer), answer
        assert calm.admin.metrics().value(hazards, outcome="hazard") == 0
        assert horizon(calm) >= before
    later = committed(calm)
    committed(calm)
    wait_gone(calm, later)
    assert horizon(calm) > before


def test_a_repeated_key_behind_the_window(calm):
    """As long as the row is there, it answers; when it is gone, the key is free again."""
    key, item = fresh("idem"), fresh()
    calm.agents["balance"].stop()
    calm.agents["balance"].config["sweep"]["interval"] = FOR_EVER  # never asks what it may forget
    calm.agents["balance"].start()
    first = calm.run(put(item, "balance"), key=key)
    assert first.state == "committed", first
    other = committed(calm)
    committed(calm)
    wait_gone(calm, other)  # the horizon lies behind the first one
    assert calm.db["balance"].value(ROWS, first.gtid) == 1 and is_gone(calm.app.get(first.gtid))
    for _ in range(3):
        again = calm.app.run(put(item, "balance"), key=key)
        assert again.status == 200 and again.gtid == first.gtid and again.body["replayed"] is True, again
    calm.agents["balance"].stop()
    calm.agents["balance"].config["sweep"]["interval"] = "300ms"
    calm.agents["balance"].start()
    wait_gone(calm, first.gtid, "balance")
    calm.db["balance"].execute("delete from item where k = %s", item)
    last = calm.app.run(put(item, "balance"), key=key)
    assert last.state == "committed" and last.gtid != first.gtid, last


def test_what_is_not_settled_holds_it_back(calm):
    """Its participant is away before it has answered: nothing from there on is forgotten, anywhere, until it has."""
    item = fresh()
    calm.db["balance"].execute("insert into item(k, v) values (%s, 1)", item)
    with calm.db["balance"].connect(autocommit=False) as lock:
        lock.execute("update item set v = v where k = %s", (item,))
        future = calm.app.run_later([{"on": "balance", "do": {"sql": "update item set v = v + 1 where k = $1", "args": [item]}}])
        name = wait_until(lambda: calm.app.list(state="pending").body["transactions"], 10, "it waits for the lock")[0]["gtid"]
        calm.agents["balance"].kill()
        lock.rollback()
    assert future.result().status in (202, 409), future.result()
    epoch, number = sequence(name)
    later = [committed(calm) for _ in range(3)]
    wait_until(lambda: horizon(calm) == (epoch, number - 1), 30, lambda: f"everything before {name} is forgotten: {horizon(calm)}")
    stays_true(lambda: horizon(calm) == (epoch, number - 1), 1.5, lambda: f"it stays below {name}: {horizon(calm)}")
    assert calm.db["orders"].value(ROWS, later[0]) == 1
    calm.heal()
    wait_until(lambda: horizon(calm) >= sequence(later[-1]), 30, lambda: f"it is settled and the horizon goes on: {horizon(calm)}")
    wait_gone(calm, later[0])
    value = calm.db["balance"].value("select v from item where k = %s", item)
    answer = calm.app.get(name)
    assert is_gone(answer) or answer.state == ("committed" if value == 2 else "aborted"), (answer, value)


def test_the_window_begins_with_the_end(calm):
    """Keyed runs that take longer than the whole window: each is remembered for a window behind its end, not behind its beginning."""
    for _ in range(3):
        key, item = fresh("idem"), fresh()
        text = "insert into item(k, v, note) select $1, 1, extract(epoch from clock_timestamp())::text from pg_sleep(1.5)"
        long = [{"on": "orders", "do": {"sql": text, "args": [item]}}]
        first = calm.app.run(long, key=key, deadline="20s")
        assert first.state == "committed", first
        committed(calm)  # what is answered from memory is only one
        wait_gone(calm, first.gtid)
        kept = time.time() - float(calm.db["orders"].value("select note from item where k = %s", item))
        assert kept >= 1, f"its key was free again {kept:.2f} s after it had run: the window is 1 s"


def test_killed_as_it_becomes_durable(calm):
    """The coordinator dies before it could tell anybody; the next life tells."""
    calm.coordinator.kill()
    calm.coordinator.start(fail="coord_settled_durable=kill")
    calm.wait_ready()
    name = calm.run(put(fresh(), "orders")).gtid
    assert calm.coordinator.wait_exit() == -9, "the point was not reached"
    calm.heal()
    answer = calm.app.get(name)
    assert is_gone(answer) or answer.state == "committed", answer
    committed(calm)
    wait_gone(calm, name)


def test_attempts_of_sagas(calm):
    """Each is a one-participant transaction with a row of its own."""
    steps = [{"on": "orders", "do": {"sql": "select 1"}, "undo": {"sql": "select 1"}} for _ in range(3)]
    answer = calm.app.run(steps, mode="saga", wait="end")
    assert answer.state == "completed", answer
    committed(calm)
    number = sequence(committed(calm))
    wait_until(lambda: horizon(calm) >= number, 30, "the horizon has passed it")
    wait_until(lambda: calm.db["orders"].value("select count(*) from lockstep.outcome") <= 2, 30, "rows of its attempts are gone")
    assert calm.app.request("GET", f"/v1/sagas/{answer.saga}").state == "completed"
