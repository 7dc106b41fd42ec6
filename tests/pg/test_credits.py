"""Hazard: more transactions than the participants can hold: dead-lock over slots, memory without bound, or an error after something began
(design: admission, hazards 1.21).

Method: agents with few workers, a queue of few places, rows held by the tests so that nothing moves.
Seen if wrong: another status than 429 or a wait; something begun by a refused request; the cluster's slots exceeded.
"""

import pytest

from harness.base import wait_until
from harness.system import System, fresh, put, step

NAMES = ("orders", "balance")
WORKERS, WAITING = 3, 4


@pytest.fixture(scope="module")
def small():
    made = System({"orders": 0, "balance": 1}, coordinator={"limits": {"waiting": WAITING}}, agents={"pool": {"workers": WORKERS}})
    yield made
    made.close()


def test_queue_then_429(small):
    """All credits of one participant are used; the next wait; beyond the queue 429 and nothing begun; then all that waited commit."""
    row = fresh("row")
    small.db["orders"].execute("insert into item(k, v) values (%s, 0)", row)
    keys = [fresh() for _ in range(WORKERS + WAITING)]
    with small.db["orders"].connect(autocommit=False) as holder:
        holder.execute("update item set v = 0 where k = %s", (row,))
        futures = []
        for number, key in enumerate(keys):
            futures.append(small.app.run_later([step("orders", "update item set v = v + 1 where k = $1", row)] + put(key, *NAMES),
                                               lock_timeout="30s"))
            if number < WORKERS:
                wait_until(lambda n=number: small.db["orders"].value("select count(*) from pg_locks where not granted") == n + 1, 10,
                           "the branch waits for the row")
            else:
                wait_until(lambda n=number: small.admin.metrics().value("lockstepd_transactions_waiting") == n + 1 - WORKERS, 10, "the run waits in the queue")
        refused_key = fresh()
        refused = small.app.run(put(refused_key, *NAMES))
        assert refused.status == 429, refused
        assert refused.begun is False, refused
        elsewhere = small.db["orders"].value("select count(*) from pg_stat_activity where application_name like 'lockstep/orders/%%' "
                                             "and query ilike '%%update item%%' and state = 'active'")
        assert elsewhere == WORKERS
        holder.rollback()
    assert [future.result().status for future in futures] == [200] * len(futures)
    assert small.db["orders"].value("select v from item where k = %s", row) == len(keys)
    assert small.where(refused_key) == set()
    small.no_orphans()
    small.alive()


def test_waiting_run_meets_its_deadline(small):
    """A run that never got its credits is aborted at its deadline, with nothing begun."""
    row = fresh("row")
    small.db["orders"].execute("insert into item(k, v) values (%s, 0)", row)
    with small.db["orders"].connect(autocommit=False) as holder:
        holder.execute("update item set v = 0 where k = %s", (row,))
        futures = [small.app.run_later([step("orders", "update item set v = v + 1 where k = $1", row)] + put(fresh(), *NAMES),
                                       lock_timeout="30s") for _ in range(WORKERS)]
        wait_until(lambda: small.db["orders"].value("select count(*) from pg_locks where not granted") == WORKERS, 10, "all credits are used")
        key = fresh()
        answer = small.app.run(put(key, *NAMES), deadline="300ms")
        assert answer.status in (409, 429, 503), answer
        holder.rollback()
    assert [future.result().status for future in futures] == [200] * WORKERS
    assert small.where(key) == set()


def test_other_participants_are_not_held_up(small):
    """Those who wait for one participant hold nothing of another (no dead-lock over slots)."""
    row = fresh("row")
    small.db["orders"].execute("insert into item(k, v) values (%s, 0)", row)
    with small.db["orders"].connect(autocommit=False) as holder:
        holder.execute("update item set v = 0 where k = %s", (row,))
        futures = [small.app.run_later([step("orders", "update item set v = v + 1 where k = $1", row)] + put(fresh(), *NAMES),
                                       lock_timeout="30s") for _ in range(WORKERS + 1)]
        wait_until(lambda: small.db["orders"].value("select count(*) from pg_locks where not granted") == WORKERS, 10, "all credits are used")
        # the running ones hold credits of balance, too: it has none left either, but its rows are free once they end
        holder.rollback()
    assert [future.result().status for future in futures] == [200] * len(futures)
    small.alive()


def test_more_clients_than_credits(small):
    """Far more at once than fit: every one is either done or 429, and what was 429 has done nothing."""
    keys = [fresh() for _ in range(60)]
    answers = [future.result() for future in [small.app.run_later(put(key, *NAMES)) for key in keys]]
    assert {answer.status for answer in answers} <= {200, 429}, answers
    small.no_orphans()
    for key, answer in zip(keys, answers):
        assert small.where(key) == (set(NAMES) if answer.status == 200 else set())


@pytest.mark.parametrize("share,slots", [(50, 8), (100, 4)])
def test_share_of_the_slots(share, slots):
    """prepared.share of max_prepared_transactions bounds what one agent takes of a cluster."""
    system = System({"orders": 0, "balance": 1}, cluster_settings={"max_prepared_transactions": slots},
                    agents={"prepared": {"share": share}, "pool": {"workers": 32}})
    try:
        peak = 0
        futures = [system.app.run_later(put(fresh(), *NAMES) + [step("orders", "select pg_sleep(0.05)")]) for _ in range(40)]
        while not all(future.done() for future in futures):
            with system.db["orders"].cluster.connect("postgres") as session:
                peak = max(peak, session.execute("select count(*) from pg_prepared_xacts").fetchone()[0])
        assert [future.result().status for future in futures] == [200] * 40
        assert peak <= slots * share // 100
        assert system.agents["orders"].info()["credits"] <= slots * share // 100
    finally:
        system.close()
