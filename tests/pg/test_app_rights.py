"""Hazard: an application's SQL reads or forges what lockstep keeps in the database: outcome rows, fence, the agent's life.

Method: as the application's role, directly and through /v1/run. Seen if wrong: a row is there, or a value is shown.
"""

import hashlib
import re

import psycopg
import pytest

from harness.api import step


FORBIDDEN = ["select * from lockstep.outcome", "select * from lockstep.fence", "select * from lockstep.life",
             "insert into lockstep.outcome(gtid, participant, state) values ('x', 'orders', 'committed')",
             "update lockstep.fence set epoch = 99", "delete from lockstep.outcome", "select lockstep.timeline_history()",
             "select lockstep.outcome_insert('guess', 'shop.aaaaaaaaaaaa.1.1-1', 'app/billing', 'key', null)",
             "select lockstep.outcome_insert(null, 'shop.aaaaaaaaaaaa.1.1-1', 'app/billing', 'key', null)",
             "create table lockstep.mine(a int)", "drop function lockstep.outcome_insert(bytea, text, text, text, bytea)"]


@pytest.mark.parametrize("sql", FORBIDDEN)
def test_application_may_not(shared, sql):
    with shared.db["orders"].connect(user="checkout") as session:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute(sql)


@pytest.mark.parametrize("sql", FORBIDDEN)
def test_application_may_not_through_a_transaction(shared, sql):
    """One participant: there the agent itself has just used the secret in the same session."""
    answer = shared.app.run([step("orders", sql)])
    assert answer.status == 409 and answer.sqlstate == "42501", answer


def test_fence_is_moved_by_the_agent_only(shared):
    shared.app.run([step("orders", "select 1"), step("products", "select 1")])
    row = "select participant, coordinator, incarnation, epoch, log_position, chain from lockstep.fence where participant = 'orders'"
    fence = shared.db["orders"].query(row)[0]
    move = "select lockstep.fence_ahead(%s, %s, %s, %s, (1::int8 << 62), 7)"
    with shared.db["orders"].connect(user="checkout") as session:
        session.execute(move, fence[:4])
    assert shared.db["orders"].query(row)[0][4] < 1 << 62
    with shared.db["orders"].connect(user="lockstep_agent", autocommit=False) as session:
        session.execute("set role checkout")
        session.execute(move, fence[:4])
        session.execute("reset role")
        assert session.execute(row).fetchone()[4] == 1 << 62
        session.rollback()


def test_fence_obeys_no_operators_of_the_caller(shared):
    """The function has no search_path of its own: with names that are looked up, "agent = session_user" would be the caller's to answer."""
    shared.app.run([step("orders", "select 1"), step("products", "select 1")])
    row = "select participant, coordinator, incarnation, epoch, log_position, chain from lockstep.fence where participant = 'orders'"
    with shared.db["orders"].connect() as owner:
        owner.execute("create schema traps")
        try:
            for kind, sign in (("name", "="), ("text", "="), ("int8", "="), ("int8", "<")):
                function = f"traps.yes_{kind}({kind}, {kind})"
                owner.execute(f"create or replace function {function} returns bool language sql immutable as 'select true'")
                owner.execute(f"create operator traps.{sign} (leftarg = {kind}, rightarg = {kind}, function = traps.yes_{kind})")
            owner.execute("grant usage on schema traps to public")
            fence = shared.db["orders"].query(row)[0]
            with shared.db["orders"].connect(user="checkout") as session:
                session.execute("set search_path = traps, pg_catalog")
                assert session.execute("select 'a'::name = 'b'::name").fetchone()[0]  # the trap is set
                session.execute("select lockstep.fence_ahead(%s, %s, %s, %s, (1::int8 << 62), 7)", fence[:4])
            assert shared.db["orders"].query(row)[0][4] < 1 << 62
        finally:
            owner.execute("drop schema traps cascade")


def test_secret_is_in_no_catalogue(shared):
    """Neither pg_stat_activity nor pg_prepared_statements shows it to the session that it was used on."""
    seen = shared.app.run([step("orders", "select query from pg_stat_activity where pid = pg_backend_pid()"),
                           step("orders", "select name, statement from pg_prepared_statements")])
    assert seen.status == 200, seen
    digest = shared.db["orders"].value("select encode(secret_digest, 'hex') from lockstep.life where participant = 'orders'")
    assert len(digest) == 64
    for word in re.findall(r"[0-9a-f]{32}", seen.raw.decode()):
        assert hashlib.sha256(word.encode()).hexdigest() != digest
