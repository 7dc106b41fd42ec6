"""Hazard: somebody holds a lock on lockstep's own tables (a DBA's LOCK TABLE, an open transaction that updated a row, a dump that waits with
ACCESS EXCLUSIVE), and every COMMIT PREPARED waits behind it for as long: decided branches keep their locks.

Method: such locks are held in one database while transactions run, and while a link comes up.
Seen if wrong: a decided transaction that is not applied until the lock is gone; an agent that waits without a word.
"""

import psycopg
import pytest

from harness.base import wait_until
from harness.system import fresh, put
from test_saga_flow import step

NAMES = ("orders", "balance")
LOCKS = {
    "whole table": "lock table lockstep.fence in access exclusive mode",
    "its row": "update lockstep.fence set agent = agent",
}


@pytest.fixture
def dba(proxied):
    session = proxied.db["orders"].connect(autocommit=False)
    yield session
    session.close()


@pytest.mark.parametrize("lock", list(LOCKS))
def test_decided_branches_finish_all_the_same(proxied, dba, lock):
    dba.execute(LOCKS[lock])
    for _ in range(3):
        key = fresh()
        answer = proxied.app.run(put(key, *NAMES), wait="decided")
        assert answer.status == 200, answer
        known = proxied.app.get(answer.gtid, for_="applied", timeout="10s")
        assert known.applied is True, f"applied while the fence is locked: {known}"
        proxied.agree(key, NAMES, "committed")
    wait_until(lambda: proxied.agents["orders"].log_has("the fence cannot be stored"), 10, "the agent says what it cannot do")
    dba.rollback()
    proxied.alive()


@pytest.mark.parametrize("lock", list(LOCKS))
def test_many_at_once_do_not_queue_for_it(proxied, dba, lock):
    """They share one attempt at the fence and its 250 ms, instead of waiting in turn for one each."""
    dba.execute(LOCKS[lock])
    keys = [fresh() for _ in range(24)]
    answers = [future.result() for future in [proxied.app.run_later(put(key, *NAMES), wait="applied") for key in keys]]
    assert [answer.status for answer in answers] == [200] * len(keys), answers
    for key in keys:
        proxied.agree(key, NAMES, "committed")
    # nothing else can tell the agent of its fence: had the session lost its lock, this would show nothing
    assert dba.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
    dba.rollback()
    proxied.alive()


def sagas_at_once(system, count):
    keys = [fresh() for _ in range(count)]
    steps = [[step(name, "insert into item(k, v) values ($1, 1)", key) for name in NAMES] for key in keys]
    return keys, [system.app.run_later(each, mode="saga", wait="end") for each in steps]


def all_completed(system, keys, futures):
    answers = [future.result() for future in futures]
    assert [answer.state for answer in answers] == ["completed"] * len(keys), answers
    for key in keys:
        system.agree(key, NAMES, "committed")


@pytest.mark.parametrize("lock", list(LOCKS))
def test_steps_of_sagas_commit_all_the_same(proxied, dba, lock):
    """Their COMMIT waits for the fence, too, on a connection of its own."""
    dba.execute(LOCKS[lock])
    all_completed(proxied, *sagas_at_once(proxied, 8))
    assert dba.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
    dba.rollback()
    proxied.alive()


def test_the_connection_that_carries_the_fence_is_lost(proxied, dba):
    """The COMMITs that wait for it do not wait for ever: it goes on another one."""
    dba.execute(LOCKS["its row"])
    keys, futures = sagas_at_once(proxied, 8)
    ended = "select pg_terminate_backend(pid) from pg_stat_activity where wait_event_type = 'Lock' and query like '%fence_ahead%' limit 1"
    wait_until(lambda: proxied.db["orders"].value(ended), 10, "a fence waits for its row, and its backend is ended")
    all_completed(proxied, keys, futures)
    dba.rollback()
    proxied.alive()


def test_a_link_that_comes_up_meanwhile(proxied, dba):
    """Without its fence an agent does not serve; it says so, tries again, and nobody has to wake it."""
    key = fresh()
    lost = proxied.link["orders"].at("decide", "reset", up=False)
    dba.execute(LOCKS["whole table"])
    answer = proxied.app.run(put(key, *NAMES), wait="decided")
    assert answer.status == 200, answer
    lost.wait_hit()
    wait_until(lambda: proxied.agents["orders"].log_has("canceling statement due to lock timeout"), 20, "the agent says what it waits for")
    assert dba.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
    dba.rollback()
    proxied.wait_ready()
    assert proxied.app.get(answer.gtid, for_="applied", timeout="10s").applied is True
    proxied.agree(key, NAMES, "committed")
    proxied.alive()
