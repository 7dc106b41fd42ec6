"""Hazard: a bound that exists on paper only, or that cuts one too early (include/lockstep/limits.h).

Method: each limit that the API shows, at its edge and one beyond.
Seen if wrong: one beyond is taken, or the edge is refused, or the refusal comes after something began.
"""

import pytest

from harness.base import wait_until
from harness.programs import Coordinator, authority
from harness.system import System, fresh, put, step

NAMES = ("orders", "balance")
LONG_NAME = "p" * 64
LONG_ROLE = "r" * 63


def test_statements(shared):
    """1000 statements are taken, 1001 are 400 with the path of the steps."""
    steps = put(fresh(), *NAMES) + [step("orders", "select 1") for _ in range(998)]
    assert shared.app.run(steps).status == 200
    answer = shared.app.run(steps + [step("orders", "select 1")])
    assert answer.status in (400, 413) and "steps" in answer.raw.decode(), answer


@pytest.mark.parametrize("rows,status", [(1000, 200), (1001, 409)])
def test_result_rows(shared, rows, status):
    key = fresh()
    answer = shared.app.run(put(key, *NAMES) + [step("orders", f"select n from generate_series(1, {rows}) n")])
    assert answer.status == status, answer.status
    shared.agree(key, NAMES, "committed" if status == 200 else "aborted")


@pytest.mark.parametrize("split", [(600, 400, 200), (600, 401, 409)])
def test_result_rows_count_over_all_participants(shared, split):
    key = fresh()
    steps = put(key, *NAMES) + [step(name, f"select n from generate_series(1, {rows}) n") for name, rows in zip(NAMES, split)]
    answer = shared.app.run(steps)
    assert answer.status == split[2], answer.status
    shared.agree(key, NAMES, "committed" if split[2] == 200 else "aborted")


@pytest.mark.parametrize("size,status", [(900_000, 200), ((1 << 20) + 1, 409)])
def test_result_bytes(shared, size, status):
    key = fresh()
    answer = shared.app.run(put(key, *NAMES) + [step("orders", f"select repeat('x', {size}) as big")])
    assert answer.status == status, answer.status
    shared.agree(key, NAMES, "committed" if status == 200 else "aborted")
    shared.alive()


@pytest.mark.parametrize("field,value,status", [("deadline", "9ms", 400), ("deadline", "3600s", 200), ("deadline", "3601s", 400), ("deadline", "1h", 200),
                                                ("lock_timeout", "0s", 400), ("lock_timeout", "1ms", 200), ("lock_timeout", "1h", 200),
                                                ("lock_timeout", "3600001ms", 400)])
def test_times(shared, field, value, status):
    answer = shared.app.run(put(fresh(), *NAMES), **{field: value})
    assert answer.status == status, answer


def test_shortest_deadline(shared):
    """10 ms is legal; whether it suffices or not, nothing is half done."""
    key = fresh()
    answer = shared.app.run(put(key, *NAMES), deadline="10ms")
    assert answer.status in (200, 409), answer
    shared.agree(key, NAMES, "committed" if answer.status == 200 else "aborted")


def test_long_reason_is_cut(shared):
    key = fresh()
    name = fresh("loud").replace("-", "_")
    shared.db["orders"].execute(f"create function {name}() returns int language plpgsql as "
                                "$$ begin raise exception '%', repeat('ä', 5000); end $$")
    answer = shared.app.run(put(key, *NAMES) + [step("orders", f"select {name}()")])
    assert answer.status == 409 and answer.sqlstate == "P0001", answer
    assert 0 < len(answer.reason.encode()) <= 512, len(answer.reason.encode())


def test_arguments(shared):
    """PostgreSQL counts parameters in 16 bits: 65,535 go through, one more is 400 before anything begins."""
    sql = "select 1 from (values " + ",".join(f"(${n}::int)" for n in range(1, 65536)) + ") v limit 1"
    small = [1] * 65535
    answer = shared.app.run([step("orders", sql, *small)] + put(fresh(), "balance"))
    assert answer.status in (200, 413), answer  # 413: the text of so many parameters comes near the body's limit
    key = fresh()
    answer = shared.app.run([step("orders", "select 1", *small, 1)] + put(key, "balance"))
    assert answer.status == 400 and "steps[0].do.args" in answer.raw.decode(), answer
    assert shared.where(key) == set()


@pytest.fixture(scope="module")
def tight():
    made = System({"orders": 0, "balance": 0, "coupons": 0},
                  coordinator={"limits": {"participants": 2, "keys": 3, "finished": 4, "apply_wait": "300ms", "in_flight": 4}},
                  link_proxies=("orders",))
    yield made
    made.close()


def test_participants(tight):
    assert tight.app.run(put(fresh(), "orders", "balance")).status == 200
    key = fresh()
    answer = tight.app.run(put(key, "orders", "balance", "coupons"))
    assert answer.status in (400, 413), answer
    assert tight.where(key) == set()


def test_finished(tight):
    """Outcomes leave the memory; what the log has is still known, and what it has not is never invented."""
    committed = tight.app.run(put(fresh(), *NAMES)).gtid
    aborted = tight.app.run(put(fresh(), *NAMES) + [step("orders", "select 1/0")]).gtid
    for _ in range(6):
        assert tight.app.run(put(fresh(), *NAMES)).status == 200
    assert tight.app.get(committed).state == "committed"
    answer = tight.app.get(aborted)
    assert answer.state != "committed" and answer.status in (200, 404), answer


def test_apply_wait(tight):
    """wait=applied gives up waiting, not the transaction: 200, committed, applied false, and the branch that is outstanding."""
    rule = tight.link["orders"].at("decide", "hold", up=False)
    key = fresh()
    answer = tight.app.run(put(key, *NAMES))
    assert answer.status == 200 and answer.state == "committed" and answer.applied is False, answer
    assert "orders" in answer.raw.decode(), answer
    rule.release()
    tight.agree(key, NAMES, "committed")


def test_in_flight(tight):
    rows = [fresh("row") for _ in range(4)]
    tight.db["balance"].execute("insert into item(k, v) select unnest(%s::text[]), 0", rows)
    with tight.db["balance"].connect(autocommit=False) as holder:
        holder.execute("update item set v = 1 where k = any(%s)", (rows,))
        futures = [tight.app.run_later([step("balance", "update item set v = v + 1 where k = $1", row)] + put(fresh(), "coupons"),
                                       lock_timeout="30s") for row in rows]
        wait_until(lambda: tight.db["balance"].value("select count(*) from pg_locks where not granted") == 4, 10, "four are in flight")
        key = fresh()
        answer = tight.app.run(put(key, "orders", "coupons"), deadline="500ms")  # waits, and nothing of it begins
        assert answer.status in (409, 429) and answer.begun is False, answer
        holder.rollback()
    assert [future.result().status for future in futures] == [200] * 4
    assert tight.where(key) == set()
    tight.alive(NAMES)


def test_keys(tight):
    """The table is full: new keyed requests get 429, unkeyed ones go on, and no remembered key is dropped."""
    words = [fresh("idem") for _ in range(3)]
    documents = [put(fresh(), *NAMES) for _ in words]
    first = [tight.app.run(steps, key=word) for steps, word in zip(documents, words)]
    assert [answer.status for answer in first] == [200] * 3, first
    assert tight.app.run(put(fresh(), *NAMES), key=fresh("idem")).status == 429
    assert tight.app.run(put(fresh(), *NAMES)).status == 200
    for steps, word, answer in zip(documents, words, first):
        again = tight.app.run(steps, key=word)
        assert again.status == 200 and again.gtid == answer.gtid, again


def test_longest_names():
    """Coordinator 18, participant 64, role 63 bytes: gtid and gid still fit, and everything works, also after a crash."""
    system = System({LONG_NAME: 0, "b": 0}, name="c" * 18, start=False, roles={"app/checkout": LONG_ROLE}, app_roles=(LONG_ROLE,))
    try:
        system.start()
        key = fresh()
        answer = system.app.run(put(key, LONG_NAME, "b"))
        assert answer.status == 200, answer
        assert len(answer.gtid) <= 64
        one = system.app.run(put(fresh(), LONG_NAME))
        assert one.status == 200 and len(one.gtid) <= 64, one
        system.coordinator.restart()
        system.wait_ready()
        assert system.app.get(answer.gtid).state == "committed"
        assert system.app.get(one.gtid).state == "committed"
        system.alive()
    finally:
        system.close()


@pytest.mark.parametrize("name", ["c" * 19, "", "a.b", "a b", "ä"])
def test_bad_coordinator_names(name):
    coordinator = Coordinator(authority(), "shop")
    coordinator.config["name"] = name
    coordinator.spawn()
    assert coordinator.wait_exit() == 78, coordinator.log_text()
    assert coordinator.log_has("name")
