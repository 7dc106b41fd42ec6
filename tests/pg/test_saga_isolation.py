"""Hazard: sagas do not isolate. Between two steps others see, spend or overwrite what may still be undone (S7, S18), and the locks that applications
make against that wait for each other (S19).

Method: two sagas, or a saga and a plain client, on real servers, held apart at a chosen step by a row lock: each anomaly is shown as it happens, then
with its countermeasure: pending state, commutative update, reread value, order, deadline.
Seen if wrong: the exhibit does not show (then it shows nothing), or an anomaly in spite of the countermeasure; a balance below zero; a saga that waits for ever.
"""

import pytest

from harness.base import wait_until
from harness.system import System, fresh
from test_saga_flow import Locked, ended, saga, takes

TABLES = """
create table account(owner text primary key, amount int not null check (amount >= 0), pending int not null default 0 check (pending >= 0));
create table seat(name text primary key, taken_by text);
grant select, insert, update on account, seat to public;
create function take_seat(seat_name text, who text) returns void language plpgsql as $$
begin
  update seat set taken_by = who where name = seat_name and (taken_by is null or taken_by = who);
  if not found then
    raise exception 'seat % is taken', seat_name using errcode = '55P03';  -- may pass: tried again
  end if;
end $$;
"""


@pytest.fixture(scope="module")
def system():
    made = System({"orders": 0, "balance": 0}, coordinator={"limits": {"deadline": "5s", "lock_timeout": "4s"}})
    for database in made.db.values():
        database.execute(TABLES)
    yield made
    made.close()


def account(system, amount, on="balance"):
    owner = fresh("owner")
    system.db[on].execute("insert into account(owner, amount) values (%s, %s)", owner, amount)
    return owner


def amounts(system, owner, on="balance"):
    return system.db[on].query("select amount, pending from account where owner = %s", owner)[0]


def do(on, sql, *args, undo=None, **more):
    back = {"undo": {"sql": undo, "args": list(args)}} if undo else {}
    return {"on": on, "do": {"sql": sql, "args": list(args), **({"expect_rows": 1} if sql.startswith("update") else {})}, **back, **more}


def held(system, steps, lock, **more):
    """A saga that waits at the step behind `steps`: they are done when this returns."""
    answer = saga(system, [*steps, takes("orders", lock, undo={"sql": "select 1"}, attempts=100), *more.pop("then", [])], wait=None, **more)

    def there():
        shown = system.admin.request("GET", f"/v1/sagas/{answer.saga}").body["steps"]
        return all(entry["state"] == "done" for entry in shown[:len(steps)])
    wait_until(there, 15, "the steps before are done")
    return answer.saga


def refused():
    return do("orders", "insert into item(k, v) values ($1, -1)", fresh(), undo="select $1::text")


CREDIT = ("update account set amount = amount + 30 where owner = $1", "update account set amount = amount - 30 where owner = $1")
CREDIT_PENDING = ("update account set pending = pending + 30 where owner = $1", "update account set pending = pending - 30 where owner = $1")
SPEND = "update account set amount = amount - 30 where owner = %s and amount >= 30 returning 1"


def test_money_that_was_spent_cannot_be_taken_back(system):
    """S7: the credit is visible, spent, and then to be undone. The check holds; the compensation is tried until it is possible."""
    owner, lock = account(system, 0), Locked(system, "orders")
    name = held(system, [do("balance", CREDIT[0], owner, undo=CREDIT[1])], lock, then=[refused()])
    assert system.db["balance"].query(SPEND, owner) == [(1,)]
    lock.free()
    shown = {}

    def tried():
        shown["last"] = system.admin.request("GET", f"/v1/sagas/{name}").body
        return shown["last"]["state"] == "compensating" and shown["last"]["failed_attempts"] >= 3
    wait_until(tried, 20, lambda: f"the compensation is refused: {shown}")
    assert shown["last"]["failures"][-1]["sqlstate"] == "23514" and amounts(system, owner) == (0, 0)
    system.db["balance"].execute("update account set amount = amount + 30 where owner = %s", owner)  # somebody pays
    assert ended(system, name, 60).state == "compensated" and amounts(system, owner) == (0, 0)


def test_pending_money_cannot_be_spent(system):
    """S7 with the semantic lock: what may be undone is not there to be spent, so it can always be undone; the last step makes it real."""
    owner, lock = account(system, 0), Locked(system, "orders")
    name = held(system, [do("balance", CREDIT_PENDING[0], owner, undo=CREDIT_PENDING[1])], lock, then=[refused()])
    assert system.db["balance"].query(SPEND, owner) == []
    lock.free()
    assert ended(system, name).state == "compensated" and amounts(system, owner) == (0, 0)
    lock = Locked(system, "orders")
    real = do("balance", "update account set amount = amount + 30, pending = pending - 30 where owner = $1", owner)
    name = held(system, [do("balance", CREDIT_PENDING[0], owner, undo=CREDIT_PENDING[1])], lock, then=[real])
    lock.free()
    assert ended(system, name).state == "completed" and amounts(system, owner) == (30, 0)
    assert system.db["balance"].query(SPEND, owner) == [(1,)]


def total(system, a, b, with_pending):
    extra = " + pending" if with_pending else ""
    return sum(system.db[on].value(f"select amount{extra} from account where owner = %s", owner) for on, owner in (("orders", a), ("balance", b)))


def test_dirty_read(system):
    """S18: in the middle of a transfer the sum over both databases is wrong for who reads amounts, and right for who knows the pending state."""
    a, b = account(system, 100, "orders"), account(system, 100)
    take = "update account set amount = amount - 30 where owner = $1"
    take_back = "update account set amount = amount + 30 where owner = $1"
    lock = Locked(system, "orders")
    name = held(system, [do("orders", take, a, undo=take_back)], lock, then=[do("balance", CREDIT[0], b, undo=CREDIT[1]), refused()])
    assert total(system, a, b, False) == 170, "the exhibit: money is missing that was never lost"
    lock.free()
    assert ended(system, name).state == "compensated" and total(system, a, b, False) == 200
    set_aside = "update account set amount = amount - 30, pending = pending + 30 where owner = $1"
    put_back = "update account set amount = amount + 30, pending = pending - 30 where owner = $1"
    lock = Locked(system, "orders")
    name = held(system, [do("orders", set_aside, a, undo=put_back)], lock,
                then=[do("balance", CREDIT_PENDING[0], b, undo=CREDIT_PENDING[1]), refused()])
    assert total(system, a, b, True) == 200
    lock.free()
    assert ended(system, name).state == "compensated" and total(system, a, b, True) == 200 and amounts(system, a, "orders") == (100, 0)


# what the saga does with the amount that it read in its first step, and what becomes of 100 + 5 of another client + its own 30
WRITES = {
    "by_value": ("update account set amount = $1::int + 30 where owner = $2", "completed", 130),  # the exhibit: the other one's 5 are lost
    "reread": ("update account set amount = $1::int + 30 where owner = $2 and amount = $1::int", "compensated", 105),
    "commutative": ("update account set amount = amount + 30 where owner = $2 and $1::int >= 0", "completed", 135),
}


@pytest.mark.parametrize("how", list(WRITES))
def test_lost_update(system, how):
    sql, state, amount = WRITES[how]
    owner, lock = account(system, 100), Locked(system, "orders")
    read = {"on": "balance", "name": "read", "do": {"sql": "select amount from account where owner = $1", "args": [owner]}, "undo": {"sql": "select 1"}}
    write = {"on": "balance", "kind": "pivot", "do": {"sql": sql, "args": [{"ref": "read.rows.0.amount"}, owner], "expect_rows": 1}}
    name = held(system, [read], lock, then=[write])
    system.db["balance"].execute("update account set amount = amount + 5 where owner = %s", owner)
    lock.free()
    assert ended(system, name).state == state and amounts(system, owner) == (amount, 0)


def test_fuzzy_read(system):
    """S18: two steps of one saga read one value, and another client writes between: reading by value carries the first one on."""
    owner, lock = account(system, 100), Locked(system, "orders")
    read = {"on": "balance", "name": "first", "do": {"sql": "select amount from account where owner = $1", "args": [owner]}, "undo": {"sql": "select 1"}}
    note = {"on": "orders", "do": {"sql": "insert into account(owner, amount) values ($1, $2)", "args": [owner, {"ref": "first.rows.0.amount"}]},
            "undo": {"sql": "select 1"}}
    check = {"on": "balance", "kind": "pivot", "do": {"sql": "select 1 from account where owner = $1 and amount = $2", "expect_rows": 1,
                                                      "args": [owner, {"ref": "first.rows.0.amount"}]}}
    name = held(system, [read], lock, then=[note, check])
    system.db["balance"].execute("update account set amount = 90 where owner = %s", owner)
    lock.free()
    final = ended(system, name)
    assert final.state == "compensated" and "expected 1 rows" in final.reason, final  # with the pivot that rereads; without it it would go on
    assert amounts(system, owner, "orders")[0] == 100


def seat(on, name, who):
    return {"on": on, "do": {"sql": "select take_seat($1, $2)", "args": [name, who]}, "attempts": 1000,
            "undo": {"sql": "update seat set taken_by = null where name = $1 and taken_by = $2", "args": [name, who]}}


def test_crossing_semantic_locks_end_at_the_deadline(system):
    """S19: each holds what the other waits for. No database sees that deadlock; the deadline turns them, and the seats are free again."""
    one, two = fresh("seat"), fresh("seat")
    for on, name in (("orders", one), ("balance", two)):
        system.db[on].execute("insert into seat(name) values (%s)", name)
    lock_a, lock_b = Locked(system, "orders"), Locked(system, "orders")
    first = held(system, [seat("orders", one, "a")], lock_a, then=[seat("balance", two, "a")], deadline="3s")
    second = held(system, [seat("balance", two, "b")], lock_b, then=[seat("orders", one, "b")], deadline="3s")
    lock_a.free()
    lock_b.free()
    states = {ended(system, name, 30).state for name in (first, second)}
    assert "compensated" in states and states <= {"compensated", "completed"}, states
    for on, name in (("orders", one), ("balance", two)):
        holder = system.db[on].value("select taken_by from seat where name = %s", name)
        assert holder is None or "completed" in states, holder


def test_ordered_semantic_locks_do_not_wait_for_each_other(system):
    """S19 with the countermeasure: whoever takes the first seat takes the second, and the other waits its turn."""
    one, two = fresh("seat"), fresh("seat")
    for on, name in (("orders", one), ("balance", two)):
        system.db[on].execute("insert into seat(name) values (%s)", name)
    free = [{"on": on, "do": {"sql": "update seat set taken_by = null where name = $1 and taken_by = $2", "args": [name, "%"]}} for on, name in (("orders", one), ("balance", two))]
    names = []
    for who in ("a", "b", "c"):
        give = [{**step, "do": {**step["do"], "args": [step["do"]["args"][0], who]}} for step in free]
        names.append(saga(system, [seat("orders", one, who), seat("balance", two, who), *give], wait=None).saga)
    for name in names:
        assert ended(system, name, 60).state == "completed"
    assert system.db["orders"].value("select taken_by from seat where name = %s", one) is None
