"""Hazard: a read-only branch leaves a prepared entry, or is released though it protects something (hazards 1.10); forced writes for nothing.

Method: transactions that read on all or some of their databases; with advisory locks, LOCK TABLE, SERIALIZABLE.
Seen if wrong: COMMIT of a NOTIFY, an advisory lock gone before the decision, a prepared transaction for a plain read.
"""

import pytest

from harness.base import wait_until
from harness.system import fresh, put, step


def prepares(proxy):
    return sum(any(sql.lower().startswith("prepare transaction") for sql in batch.sql) and "PREPARE TRANSACTION" in batch.tags
               for batch in proxy.batches)


@pytest.fixture
def counted(proxied):
    for proxy in proxied.pg.values():
        proxy.batches.clear()
    return proxied


def test_all_read_only(counted):
    before = counted.forced_writes()
    answer = counted.app.run([step(name, "select 42 as answer") for name in ("orders", "balance")])
    assert answer.status == 200 and answer.state == "committed", answer
    assert [result["rows"] for result in answer.body["results"]] == [[{"answer": 42}], [{"answer": 42}]]
    assert [prepares(proxy) for proxy in counted.pg.values()] == [0, 0]
    assert counted.forced_writes() == before


def test_one_reads_one_writes(counted):
    key = fresh()
    answer = counted.app.run(put(key, "orders") + [step("balance", "select count(*) from item")])
    assert answer.status == 200, answer
    assert counted.where(key) == {"orders"}
    assert (prepares(counted.pg["orders"]), prepares(counted.pg["balance"])) == (1, 0)
    counted.no_orphans()


@pytest.mark.parametrize("sql", ["select pg_advisory_xact_lock(4711)", "select 1 from pg_advisory_xact_lock(4712, 1)"])
def test_advisory_lock_is_kept_until_the_decision(counted, sql):
    """No xid, but released early it would let through what the application excluded: prepared like the others."""
    key = fresh()
    answer = counted.app.run(put(key, "orders") + [step("balance", sql)])
    assert answer.status == 200, answer
    assert prepares(counted.pg["balance"]) == 1
    counted.no_orphans()
    assert counted.db["balance"].value("select count(*) from pg_locks where locktype = 'advisory' and objid in (4711, 4712, 1)") == 0


@pytest.mark.parametrize("mode", ["share", "exclusive", "access exclusive"])
def test_table_lock_is_kept_until_the_decision(counted, mode):
    """The lock must be there while the other branch's vote is still out."""
    key = fresh()
    name = fresh("locker").replace("-", "_")
    counted.db["balance"].execute(f"create function {name}() returns int language plpgsql security definer as "
                                  f"$$ begin lock table child in {mode} mode; return 1; end $$")
    rule = counted.pg["orders"].at("prepare transaction", "hold")
    future = counted.app.run_later(put(key, "orders") + [step("balance", f"select {name}()")])
    rule.wait_hit()
    wait_until(lambda: counted.db["balance"].prepared(), 5, "the branch with only a lock is prepared")
    held = counted.db["balance"].value("select count(*) from pg_locks where relation = 'child'::regclass and mode <> 'AccessShareLock'")
    assert held == 1
    rule.release()
    assert future.result().status == 200
    counted.no_orphans()


def test_serializable_reader_is_prepared(counted):
    """A released reader would let through what 40001 would have stopped."""
    key = fresh()
    answer = counted.app.run(put(key, "orders") + [step("balance", "select count(*) from item")], isolation="serializable")
    assert answer.status == 200, answer
    assert prepares(counted.pg["balance"]) == 1


def test_write_skew_is_stopped(counted):
    """Two serializable transactions each read what the other writes, on two databases: at most one may commit per database's rule."""
    key = fresh("skew")
    for name in ("orders", "balance"):
        counted.db[name].execute("insert into item(k, v) values (%s, 1), (%s, 1)", key + "a", key + "b")

    def crossing(mine, other):
        return [step(name, "update item set v = 0 where k = $1 and (select sum(v) from item where k in ($1, $2)) > 1 "
                     "returning pg_sleep(0.2)", key + mine, key + other, expect_rows=1) for name in ("orders", "balance")]

    futures = [counted.app.run_later(crossing(*pair), isolation="serializable") for pair in ("ab", "ba")]
    answers = [future.result() for future in futures]
    for name in ("orders", "balance"):
        total = counted.db[name].value("select sum(v) from item where k in (%s, %s)", key + "a", key + "b")
        assert total >= 1, f"write skew in {name}: {answers}"
    counted.no_orphans()


def test_lone_notify_is_not_lost_silently(counted):
    """pg_notify alone has no xid: released by COMMIT it would be sent before the decision, so the branch is refused or rolled back."""
    with counted.db["balance"].connect() as listener:
        heard = []
        listener.add_notify_handler(heard.append)
        listener.execute("listen news")
        key = fresh()
        answer = counted.app.run([step("orders", "select 1/0"), step("balance", "select pg_notify('news', 'x')")] + put(key, "orders"))
        assert answer.status == 409, answer
        listener.execute("select 1")  # what was sent by now has been delivered with this answer
        assert heard == []
