"""Hazard: what a prepared transaction keeps and what it cannot be: thousands of locks, a foreign table, a database that somebody drops.

Method: branches that need more than usual, next to an ordinary one.
Seen if wrong: one side committed, a session or a prepared transaction left behind, a database dropped under a prepared branch.
"""

import psycopg
import pytest

from harness.base import wait_until
from harness.system import fresh, put, step

NAMES = ("orders", "balance")
LOCKS = "insert into item(k) select $1 from (select count(pg_advisory_xact_lock(g)) from generate_series(1, %d) g) locks"


def test_thousands_of_locks(shared):
    """Prepared locks stay in the server's lock table, which has room for some 64 per connection and slot."""
    key = fresh()
    answer = shared.run([step("orders", LOCKS % 5000, key)] + put(key, "balance"))
    assert answer.status == 200, answer
    shared.agree(key, NAMES, "committed")
    wait_until(lambda: shared.db["orders"].value("select count(*) from pg_locks where locktype = 'advisory'") < 100, 10,
               "the locks are gone with the transaction")
    key = fresh()
    answer = shared.run([step("orders", LOCKS % 300000, key)] + put(key, "balance"))
    assert answer.status == 409 and answer.sqlstate == "53200", answer
    shared.agree(key, NAMES, "aborted")
    shared.alive(NAMES)


def test_foreign_table_cannot_be_prepared(shared):
    """postgres_fdw refuses PREPARE, after its statement has succeeded: NO, and the far side is rolled back with it."""
    orders, role = shared.db["orders"], shared.app_roles[0]
    far = psycopg.conninfo.conninfo_to_dict(shared.db["balance"].conninfo())
    orders.execute("create extension if not exists postgres_fdw")
    orders.execute(f"create server far foreign data wrapper postgres_fdw options (host '{far['host']}', port '{far['port']}', "
                   f"dbname '{far['dbname']}')")
    orders.execute(f"create user mapping for {role} server far options (user 'postgres', password_required 'false')")
    orders.execute("create foreign table far_item (k text) server far options (table_name 'item')")
    orders.execute(f"grant insert on far_item to {role}")
    try:
        key, there = fresh(), fresh()
        answer = shared.run(put(key, *NAMES) + [step("orders", "insert into far_item(k) values ($1)", there)])
        assert answer.status == 409 and answer.participant == "orders" and answer.sqlstate == "0A000", answer
        shared.agree(key, NAMES, "aborted")
        wait_until(lambda: shared.db["balance"].value("select count(*) from pg_locks l join pg_class c on c.oid = l.relation "
                                                      "where c.relname = 'item' and l.mode = 'RowExclusiveLock'") == 0, 10,
                   "the far session has let go")
        assert shared.count("balance", there) == 0
        shared.alive(NAMES)
    finally:
        orders.execute("drop server far cascade")


def test_database_is_dropped_after_a_drain_only(proxied):
    """The server refuses while a branch is prepared, even WITH (FORCE); an agent that has drained leaves none."""
    key, orders = fresh(), proxied.db["orders"]
    rule = proxied.pg["orders"].at("commit prepared", "hold")
    future = proxied.app.run_later(put(key, *NAMES), wait="decided")
    rule.wait_hit()
    with orders.cluster.connect("postgres") as admin:
        with pytest.raises(psycopg.errors.ObjectInUse, match="prepared transaction"):
            admin.execute(f"drop database {orders.name} with (force)")
    rule.release()
    assert future.result().status == 200
    proxied.no_orphans()
    assert proxied.agents["orders"].stop() == 0
    assert not orders.prepared()
    proxied.heal()
    proxied.agree(key, NAMES, "committed")
