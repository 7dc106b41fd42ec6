"""Hazard: a statement that is prepared once and used again means something else than its text does now: other types, another schema, or
nothing any more; or the session waits to prepare it and holds up a branch that has nothing to do with it (pool.statements).

Method: one worker session per agent, so that what is prepared is met again; tables that change between two transactions.
Seen if wrong: a wrong sum; a text that is refused again and again where the server would take it; a branch that waits behind another's lock.
"""

import pytest

from harness.base import wait_until
from harness.system import System, fresh, put, step

NAMES = ("orders", "balance")
ADD = "update counted set n = n + $1 where id = $2"
PREPARED = "select statement from pg_prepared_statements where name ~ '^ls_[0-9]+$' order by 1"


def make(**pool):
    made = System({"orders": 0, "balance": 1}, agents={"pool": {"workers": 1, **pool}})
    for name in NAMES:
        made.db[name].execute("create table counted (id int primary key, n int not null); insert into counted select g, 0 from generate_series(1, 9) g;"
                              "grant select, insert, update, delete on counted to checkout, billing")
    return made


@pytest.fixture(scope="module")
def one():
    made = make()
    yield made
    made.close()


@pytest.fixture
def table(one):
    """Of its own for each test: a name that no other test has prepared anything for."""
    name = fresh("t").replace("-", "_")
    one.db["orders"].execute(f"create table {name} (id int primary key, n int not null); insert into {name} values (1, 0);"
                             f"grant all on {name} to checkout, billing")
    return name


def prepared(system):
    answer = system.run([step("orders", PREPARED)])
    assert answer.status == 200, answer
    return [row["statement"] for row in answer.body["results"][0]["rows"]]


def add(system, table, by, row=1, key=None):
    return system.run([step("orders", f"update {table} set n = n + $1 where id = $2", by, row)] + put(key or fresh(), "balance"))


def value(system, table):
    return system.db["orders"].value(f"select n from {table} where id::text = '1'")


def test_prepared_when_it_comes_again(one, table):
    for count in range(1, 9):
        assert add(one, table, 2).status == 200
        assert value(one, table) == 2 * count
    assert f"update {table} set n = n + $1 where id = $2" in prepared(one)


def test_texts_that_never_come_again_are_not_prepared(one, table):
    for number in range(70):
        assert one.run([step("orders", f"update {table} set n = {number} where id = 1")] + put(fresh(), "balance")).status == 200
    assert not [text for text in prepared(one) if f"update {table} set n = " in text]


def test_rows_are_never_prepared(one, table):
    """The type of a result may change under a plan, and the server would refuse it."""
    for _ in range(4):
        assert one.run([step("orders", f"update {table} set n = n + 1 where id = 1 returning n"), step("orders", f"select n from {table}")]).status == 200
    assert not [text for text in prepared(one) if table in text]


def test_apps_do_not_share(one, table):
    for _ in range(4):
        assert add(one, table, 1).status == 200
    billing = one.coordinator.app("billing")
    answer = billing.run([step("orders", PREPARED)])
    assert answer.status == 200 and not [row for row in answer.body["results"][0]["rows"] if table in row["statement"]], answer


def test_a_column_grows(one, table):
    """The parameter was an integer when it was prepared; the value of now is none. One refusal at most, then the text is taken as it is."""
    for _ in range(4):
        assert add(one, table, 1).status == 200
    one.db["orders"].execute(f"alter table {table} alter n type bigint")
    answers = [add(one, table, 5_000_000_000) for _ in range(5)]
    refused = [answer for answer in answers if answer.status != 200]
    assert len(refused) <= 1 and all(answer.sqlstate == "22003" for answer in refused), answers
    assert value(one, table) == 4 + 5_000_000_000 * (5 - len(refused))
    assert not [text for text in prepared(one) if table in text]


def test_dropped_and_made_again(one, table):
    for _ in range(4):
        assert add(one, table, 1).status == 200
    one.db["orders"].execute(f"drop table {table}")
    assert add(one, table, 1).sqlstate == "42P01"
    one.db["orders"].execute(f"create table {table} (id text primary key, n numeric not null); insert into {table} values ('1', 0.5);"
                             f"grant all on {table} to checkout")
    for _ in range(4):
        assert add(one, table, "0.25", row="1").status == 200
    assert str(value(one, table).normalize()) == "1.5"


def test_another_schema_first(one, table):
    """search_path decides at each run, also of what is prepared."""
    for _ in range(4):
        assert add(one, table, 1).status == 200
    one.db["orders"].execute(f"create schema s_{table}; create table s_{table}.{table} (id int, n int); insert into s_{table}.{table} values (1, 100);"
                             f"grant usage on schema s_{table} to checkout; grant all on s_{table}.{table} to checkout")
    there = step("orders", "select set_config('search_path', $1, true)", f"s_{table}, public")
    for _ in range(3):
        assert one.run([there, step("orders", f"update {table} set n = n + $1 where id = $2", 1, 1)] + put(fresh(), "balance")).status == 200
    assert value(one, table) == 4
    assert one.db["orders"].value(f"select n from s_{table}.{table}") == 103
    assert add(one, table, 1).status == 200 and value(one, table) == 5


def test_a_branch_deallocates_everything(one, table):
    """Whatever it harms is its own app's: refused, a new session, and on."""
    for _ in range(4):
        assert add(one, table, 1).status == 200
    key = fresh()
    answer = one.run([step("orders", "do $$ begin execute 'deallocate all'; end $$")] + put(key, *NAMES))
    one.agree(key, NAMES, "committed" if answer.status == 200 else "aborted")
    answers = [add(one, table, 1) for _ in range(4)]
    assert [answer.status for answer in answers][1:] == [200] * 3, answers
    assert value(one, table) == 4 + sum(answer.status == 200 for answer in answers)


def test_a_locked_table_holds_up_nobody_else(one, table):
    """To prepare takes a lock on the table: where that is not to be had at once, the next branch of the session comes first."""
    with one.db["orders"].connect(autocommit=False) as holder:
        assert add(one, table, 1).status == 200  # seen once
        future = one.app.run_later([step("orders", f"update {table} set n = n + $1 where id = $2", 1, 1)] + put(fresh(), "balance"))
        assert future.result().status == 200  # to be prepared now, or with the next
        holder.execute(f"lock table {table} in access exclusive mode")
        for _ in range(3):
            answer = one.run([step("orders", ADD, 1, 2)] + put(fresh(), "balance"), lock_timeout="1s")
            assert answer.status == 200, answer
        holder.rollback()
    for _ in range(3):
        assert add(one, table, 1).status == 200
    assert value(one, table) == 5


def test_switched_off():
    system = make(statements=0)
    try:
        for _ in range(4):
            assert system.run([step(name, ADD, 1, 1) for name in NAMES]).status == 200
        assert prepared(system) == []
    finally:
        system.close()


def test_more_than_are_kept():
    """The ones not used for longest go; the newest are prepared all the same."""
    system = make(statements=3)
    try:
        texts = [f"update counted set n = n + $1 where id = $2 and {number} = {number}" for number in range(5)]
        for text in texts:
            for _ in range(3):
                assert system.run([step("orders", text, 1, 3), step("balance", ADD, 1, 3)]).status == 200
        wait_until(lambda: texts[-1] in prepared(system), 10, "the newest is prepared")
        assert len(prepared(system)) <= 3
        for name in NAMES:
            assert system.db[name].value("select n from counted where id = 3") == 15
    finally:
        system.close()
