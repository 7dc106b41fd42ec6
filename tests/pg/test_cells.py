"""Hazard: a message between coordinator and agent, or agent and server, is lost, doubled, late, cut off or cancelled at one particular moment.

Method: every cell of tests/crash/cells.py once, several side by side; the long form (`make cells REPEAT=10`) runs each ten times. The proxies'
own new actions are tried first: a duplicate that is none would make a cell pass for nothing.
Seen if wrong: see cells.py.
"""

import os
import sys

import psycopg
import pytest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "crash"))

import cells  # noqa: E402
from harness.base import wait_until  # noqa: E402
from harness.system import fresh  # noqa: E402

LANES = 6


@pytest.fixture(scope="module")
def results():
    """{cell: its result}, of one run of all that were not deselected by name."""
    found = cells.Bench(LANES, os.environ.get("CELLS_SEED", "1")).run([(cell, 0) for cell in cells.CELLS])
    return {result.cell: result for result in found}


@pytest.mark.parametrize("cell", cells.CELLS + [cells.Cell("all", "all", "end")], ids=str)
def test_cell(results, cell):
    result = results.get(cell)
    assert result is not None or cell.moment == "end", "was not run"
    assert result is None or result.violation is None, result.violation


# ---------------------------------------------------------------- the proxy does what it says


@pytest.fixture
def session(proxied):
    """A session of the tests' own through the proxy; simple protocol and pipelines like the agent's."""
    with psycopg.connect(proxied.pg["orders"].conninfo("orders"), autocommit=True) as made:
        yield made


def test_statement_reaches_the_server_twice(proxied, session):
    key = fresh()
    rule = proxied.pg["orders"].at("insert into item", "duplicate")
    session.execute("insert into item(k) values (%s)", (key,))
    rule.wait_done()
    wait_until(lambda: rule.batch.answered, 10, "both are answered")
    assert rule.batch.errors == ["23505"] and rule.batch.tags == ["INSERT 0 1"], rule.batch
    assert session.execute("select count(*) from item where k = %s", (key,)).fetchone()[0] == 1  # the answers have not shifted


def test_second_answer_is_the_one_that_is_seen(proxied, session):
    key = fresh()
    proxied.pg["orders"].at("insert into item", "duplicate", answer=1)
    with pytest.raises(psycopg.errors.UniqueViolation):
        session.execute("insert into item(k) values (%s)", (key,))
    assert session.execute("select count(*) from item where k = %s", (key,)).fetchone()[0] == 1


def test_cancel_hits_the_statement(proxied, session):
    def sleeps():
        """A request that comes before the statement has begun cancels nothing."""
        with proxied.clusters[0].connect("orders") as other:
            wait_until(lambda: other.execute("select wait_event = 'PgSleep' from pg_stat_activity where pid = %s",
                                             (session.info.backend_pid,)).fetchone()[0], 20, "the statement sleeps")

    rule = proxied.pg["orders"].at("select pg_sleep", "cancel", after=sleeps)
    with pytest.raises(psycopg.errors.QueryCanceled):
        session.execute("select pg_sleep(20)")
    assert rule.batch.errors == ["57014"]


@pytest.mark.parametrize("action,arrives", [("drop", False), ("reset", False), ("lose_reply", True)])
def test_connection_ends_and_the_statement_has_or_has_not_acted(proxied, session, action, arrives):
    key = fresh()
    proxied.pg["orders"].at("insert into item", action, delay=0.1)
    with pytest.raises(psycopg.OperationalError):
        session.execute("insert into item(k) values (%s)", (key,))
    assert proxied.count("orders", key) == (1 if arrives else 0)
