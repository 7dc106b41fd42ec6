"""Hazard: a transaction on several databases is committed on some of them, or acknowledged before it is there.

Method: the plain path on 2, 3 and 4 databases, two of them in one cluster; the answer is compared with what SQL sees in every database.
Seen if wrong: a row missing or doubled after 200, a prepared transaction left behind.
"""

import itertools

import pytest

from harness.system import fresh, put, step

NAMES = ("orders", "products", "balance", "coupons")


@pytest.mark.parametrize("names", [c for n in (2, 3, 4) for c in itertools.combinations(NAMES, n)], ids="+".join)
def test_all_branches_commit(shared, names):
    key = fresh()
    answer = shared.app.run(put(key, *names))
    assert answer.status == 200, answer
    assert answer.state == "committed" and answer.applied is True, answer
    assert shared.where(key) == set(names)  # at once: wait=applied means read your writes
    assert shared.orphans() == {}


def test_two_databases_of_one_cluster(shared):
    """A gid is unique per cluster: the branches of one transaction in two databases of it must not collide."""
    key = fresh()
    answer = shared.app.run(put(key, "balance", "coupons"))
    assert answer.status == 200 and answer.state == "committed", answer
    assert shared.where(key) == {"balance", "coupons"}


def test_several_statements_run_in_order(shared):
    key = fresh()
    steps = put(key, "orders", "balance")
    steps += [step(name, "update item set v = v * 2 where k = $1", key, expect_rows=1) for name in ("orders", "balance")]
    steps += [step(name, "update item set v = v + 5 where k = $1", key, expect_rows=1) for name in ("orders", "balance")]
    assert shared.app.run(steps).status == 200
    for name in ("orders", "balance"):
        assert shared.db[name].value("select v from item where k = %s", key) == 7


def test_rows_come_back(shared):
    key = fresh()
    steps = [step("orders", "insert into item(k, v) values ($1, $2) returning k, v, v / 2.0 as half, null as nothing, true as yes", key, 3),
             step("balance", "insert into item(k, v) values ($1, 1)", key)]
    answer = shared.app.run(steps)
    assert answer.status == 200, answer
    rows = answer.body["results"][0]["rows"]
    assert rows == [{"k": key, "v": 3, "half": "1.5000000000000000", "nothing": None, "yes": True}], answer
    assert answer.body["results"][0]["rows_affected"] == 1
    assert answer.body["results"][1]["rows_affected"] == 1


def test_arguments_arrive_as_sent(shared):
    """Strings, integers, booleans, null and json are parameters: nothing in them is SQL."""
    key = fresh("it's \"quoted\" \\ $1 ; drop table item; -- ä€😀")
    shared.db["orders"].execute("create table if not exists typed(k text primary key, b bool, n bigint, t text, j jsonb, d numeric(10,2));"
                                "grant all on typed to checkout")
    steps = [step("orders", "insert into typed values ($1, $2, $3, $4, $5, $6)", key, True, 9223372036854775807, None,
                  {"json": {"a": [1, "x"]}}, "30.10"),
             step("balance", "insert into item(k, v) values ($1, 1)", key)]
    answer = shared.app.run(steps)
    assert answer.status == 200, answer
    row = shared.db["orders"].query("select b, n, t, j, d::text from typed where k = %s", key)
    assert row == [(True, 9223372036854775807, None, {"a": [1, "x"]}, "30.10")]


def test_step_uses_what_another_returned(shared):
    key = fresh()
    steps = [step("orders", "insert into item(k, v) values ($1, 41) returning v + 1 as answer", key, name="order"),
             step("balance", "insert into item(k, v) values ($1, $2)", key, {"ref": "order.rows.0.answer"})]
    answer = shared.app.run(steps)
    assert answer.status == 200, answer
    assert shared.db["balance"].value("select v from item where k = %s", key) == 42


def test_after_orders_branches(shared):
    """A step that says `after` runs when the other has run: clock_timestamp() of one server is not before that of the other
    only if they really ran one behind the other (both servers are on one machine)."""
    key = fresh()
    steps = [step("orders", "insert into item(k, v, note) select $1, 1, clock_timestamp()::text from pg_sleep(0.2)", key, name="first"),
             step("balance", "insert into item(k, v, note) values ($1, 1, clock_timestamp()::text)", key, after="first")]
    assert shared.app.run(steps).status == 200
    first, second = (shared.db[name].value("select note::timestamptz from item where k = %s", key) for name in ("orders", "balance"))
    assert first < second


def test_wait_decided_is_followed_by_applied(shared):
    key = fresh()
    answer = shared.app.run(put(key, *NAMES), wait="decided")
    assert answer.status == 200 and answer.state == "committed", answer
    applied = shared.app.get(answer.gtid, for_="applied", timeout="10s")
    assert applied.status == 200 and applied.applied is True, applied
    assert shared.where(key) == set(NAMES)


def test_known_afterwards(shared):
    answer = shared.app.run(put(fresh(), "orders", "balance"))
    again = shared.app.get(answer.gtid)
    assert again.status == 200 and again.state == "committed" and again.gtid == answer.gtid, again


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_isolation_is_what_was_asked_for(shared, isolation):
    key = fresh()
    steps = [step(name, "insert into item(k, v, note) values ($1, 1, current_setting('transaction_isolation'))", key)
             for name in ("orders", "balance")]
    assert shared.app.run(steps, isolation=isolation).status == 200
    for name in ("orders", "balance"):
        assert shared.db[name].value("select note from item where k = %s", key) == isolation


def test_many_at_once(shared):
    """32 transactions of all four databases at the same time; each is there exactly once."""
    keys = [fresh() for _ in range(32)]
    futures = [shared.app.run_later(put(key, *NAMES)) for key in keys]
    assert [future.result().status for future in futures] == [200] * len(keys)
    for name in NAMES:
        assert shared.db[name].value("select count(*) from item where k = any(%s)", keys) == len(keys)
    shared.no_orphans()


def test_sessions_are_clean_for_the_next(shared):
    """What one transaction SETs must not reach the next one on the same session (hazards 1.9)."""
    key = fresh()
    shared.db["orders"].execute("create or replace function leave_settings() returns int language plpgsql as $$ begin "
                                "perform set_config('search_path', 'pg_catalog', false); "
                                "perform set_config('work_mem', '77MB', false); return 1; end $$")
    answer = shared.app.run([step("orders", "insert into item(k, v) select $1, leave_settings()", key)] + put(key, "balance"))
    assert answer.status == 200, answer
    for _ in range(20):
        key = fresh()
        answer = shared.app.run([step("orders", "insert into item(k, v, note) values ($1, 1, current_setting('work_mem'))", key)]
                                + put(key, "balance"))
        assert answer.status == 200, answer
        assert shared.db["orders"].value("select note from item where k = %s", key) != "77MB"


def test_decided_and_not_applied_is_known_after_a_restart(proxied):
    """The decision is in the log, one branch is outstanding: the restarted coordinator says so, lists it, and drives it to its end."""
    key = fresh()
    proxied.link["orders"].at("decide", "drop", up=False, times=None)
    proxied.link["orders"].at("answer", "drop", up=False, times=None)
    gtid = proxied.app.run(put(key, "orders", "balance"), wait="decided").gtid
    proxied.coordinator.restart()
    answer = proxied.app.get(gtid)
    assert answer.status == 200 and answer.state == "committed" and answer.applied is False, answer
    assert gtid in proxied.admin.list(state="committed").raw.decode()
    proxied.heal()
    answer = proxied.app.get(gtid, for_="applied", timeout="20s")
    assert answer.state == "committed" and answer.applied is True, answer
    proxied.agree(key, ("orders", "balance"), "committed")
