"""Hazard: one branch cannot be prepared, and the others commit all the same; or the refusal is not told, or leaves locks behind.

Method: each place where PostgreSQL can refuse, on the first, the second, or a branch of the same cluster; after each a new
transaction must commit on the same rows.
Seen if wrong: status other than 409, a row in the other database, a prepared transaction or lock left.
"""

import pytest

from harness.base import wait_until
from harness.system import fresh, put, step

PLACES = [("orders", "balance"), ("balance", "orders"), ("coupons", "balance")]
places = pytest.mark.parametrize("bad,good", PLACES, ids=lambda name: name)


def refused(system, bad, good, steps, sqlstate, key, **document):
    """Runs steps for `bad` together with an insert of `key` in `good`; all must be undone."""
    answer = system.app.run(put(key, good) + steps, **document)
    assert answer.status == 409, answer
    assert answer.state == "aborted", answer
    assert answer.participant == bad, answer
    assert answer.sqlstate == sqlstate, answer
    assert answer.reason, answer
    assert system.agree(key, (bad, good), "aborted")
    known = system.app.get(answer.gtid)
    assert known.state == "aborted", known
    system.alive((bad, good))
    return answer


@places
def test_constraint(shared, bad, good):
    key = fresh()
    refused(shared, bad, good, [step(bad, "insert into item(k, v) values ($1, -1)", key)], "23514", key)


@places
def test_unique_violation(shared, bad, good):
    key, taken = fresh(), fresh()
    shared.db[bad].execute("insert into item(k) values (%s)", taken)
    refused(shared, bad, good, put(key, bad) + [step(bad, "insert into item(k) values ($1)", taken)], "23505", key)


@places
def test_deferred_constraint(shared, bad, good):
    """Fires only when the transaction ends: at PREPARE, long after the statement was content."""
    key = fresh()
    refused(shared, bad, good, put(key, bad) + [step(bad, "insert into child values ($1, $2)", key, fresh("nobody"))], "23503", key)


@places
def test_deferred_unique(shared, bad, good):
    key = fresh()
    steps = put(key, bad) + [step(bad, "insert into unique_later values ($1), ($1)", key)]
    refused(shared, bad, good, steps, "23505", key)


@places
def test_serialization_failure(shared, bad, good):
    """The row changes between the branch's snapshot and its update: the snapshot is taken, then a trigger-like wait lets us in."""
    key, row = fresh(), fresh()
    shared.db[bad].execute("insert into item(k, v) values (%s, 1)", row)
    with shared.db[bad].connect(autocommit=False) as other:
        other.execute("update item set v = 2 where k = %s", (row,))
        future = shared.app.run_later(put(key, good, bad) + [step(bad, "update item set v = v + 1 where k = $1", row)],
                                      isolation="repeatable read")
        wait_until(lambda: shared.db[bad].value("select count(*) from pg_locks where not granted") > 0, 10,
                   "the branch waits for the row")
        other.commit()
    answer = future.result()
    assert answer.status == 409 and answer.sqlstate == "40001", answer
    assert answer.retryable is True, answer
    shared.agree(key, (bad, good), "aborted")


@places
def test_lock_timeout(shared, bad, good):
    key, row = fresh(), fresh()
    shared.db[bad].execute("insert into item(k, v) values (%s, 1)", row)
    with shared.db[bad].connect(autocommit=False) as other:
        other.execute("update item set v = 2 where k = %s", (row,))
        answer = shared.app.run(put(key, good, bad) + [step(bad, "update item set v = v + 1 where k = $1", row)], lock_timeout="200ms")
        assert answer.status == 409 and answer.sqlstate == "55P03" and answer.participant == bad, answer
        other.rollback()
    shared.agree(key, (bad, good), "aborted")
    shared.alive((bad, good))


@places
def test_statement_takes_longer_than_the_deadline(shared, bad, good):
    key = fresh()
    answer = shared.app.run(put(key, good, bad) + [step(bad, "select pg_sleep(30)")], deadline="400ms")
    assert answer.status == 409 and answer.state == "aborted", answer
    shared.agree(key, (bad, good), "aborted")
    wait_until(lambda: shared.db[bad].value("select count(*) from pg_stat_activity where query like '%%pg_sleep(30)%%' "
                                            "and pid <> pg_backend_pid() and state = 'active'") == 0, 10, "the sleeping statement is ended")


@places
def test_statement_timeout_of_the_role(shared, bad, good):
    """statement_timeout as the application's role has it in its database."""
    key = fresh()
    steps = put(key, bad) + [step(bad, "select set_config('statement_timeout', '100ms', true)"), step(bad, "select pg_sleep(5)")]
    refused(shared, bad, good, steps, "57014", key)


@places
def test_temporary_table(shared, bad, good):
    key = fresh()
    table = fresh("temp").replace("-", "_")
    shared.db[bad].execute(f"create function {table}() returns int language plpgsql as "
                           f"$$ begin create temp table {table}(a int); return 1; end $$")
    refused(shared, bad, good, put(key, bad) + [step(bad, f"select {table}()")], "0A000", key)


@places
def test_notify(shared, bad, good):
    key = fresh()
    refused(shared, bad, good, put(key, bad) + [step(bad, "select pg_notify('channel', 'x')")], "0A000", key)


@places
def test_wrong_row_count(shared, bad, good):
    key = fresh()
    answer = shared.app.run(put(key, good, bad) + [step(bad, "update item set v = 1 where k = $1", fresh("nobody"), expect_rows=1)])
    assert answer.status == 409 and answer.participant == bad, answer
    assert "1" in answer.reason and "0" in answer.reason, answer
    shared.agree(key, (bad, good), "aborted")


@places
def test_failed_transaction_never_votes_yes(shared, bad, good):
    """A statement fails in the middle: PREPARE would answer success with the tag ROLLBACK (hazards 1.2)."""
    key = fresh()
    steps = put(key, bad) + [step(bad, "select 1/(select count(*) from item where k = $1 and false)", key),
                             step(bad, "insert into item(k, v) values ($1, 1)", fresh())]
    refused(shared, bad, good, steps, "22012", key)


@places
def test_permission_denied(shared, bad, good):
    key = fresh()
    table = fresh("private").replace("-", "_")
    shared.db[bad].execute(f"create table {table}(a int)")
    refused(shared, bad, good, put(key, bad) + [step(bad, f"insert into {table} values (1)")], "42501", key)


@places
def test_deadlock_inside_one_server(shared, bad, good):
    """The branch and another session lock two rows crosswise; whoever is chosen, nothing is half done."""
    key, one, two = fresh(), fresh("one"), fresh("two")
    shared.db[bad].execute("insert into item(k, v) values (%s, 1), (%s, 1)", one, two)
    with shared.db[bad].connect(autocommit=False) as other:
        other.execute("update item set v = 2 where k = %s", (two,))
        other.execute("set local deadlock_timeout = '30s'")
        future = shared.app.run_later(put(key, good, bad) + [step(bad, "update item set v = v + 1 where k = $1", one),
                                                             step(bad, "update item set v = v + 1 where k = $1", two)])
        wait_until(lambda: shared.db[bad].value("select count(*) from pg_locks where not granted") > 0, 10, "the branch waits")
        other.execute("update item set v = 2 where k = %s", (one,))
        other.commit()
    answer = future.result()
    assert answer.status == 409 and answer.sqlstate == "40P01" and answer.retryable is True, answer
    shared.agree(key, (bad, good), "aborted")


def test_no_more_prepared_slots(shared):
    """Somebody else uses the last slots of max_prepared_transactions: 53200 is a refusal like any other."""
    key = fresh()
    cluster = shared.db["orders"].cluster
    free = 100
    database = cluster.create_database(fresh("filler").replace("-", "_"))
    database.execute("create table t(a int)")
    with database.connect() as session:
        for number in range(free):
            session.execute(f"begin; insert into t values ({number})")
            session.execute(f"prepare transaction 'filler-{number}'")
        try:
            answer = shared.app.run(put(key, "orders", "balance"))
            assert answer.status == 409 and answer.sqlstate == "53200" and answer.participant == "orders", answer
        finally:
            for number in range(free):
                session.execute(f"rollback prepared 'filler-{number}'")
    database.close()
    shared.agree(key, ("orders", "balance"), "aborted")
    shared.alive()


def test_both_say_no(shared):
    key = fresh()
    answer = shared.app.run([step("orders", "select 1/0"), step("balance", "select 1/0")] + put(key, "coupons"))
    assert answer.status == 409 and answer.sqlstate == "22012" and answer.participant in ("orders", "balance"), answer
    assert shared.where(key) == set()


def test_cross_database_deadlock_ends(shared):
    """Two transactions lock two rows of two databases crosswise; no server sees the cycle, lock_timeout ends it (hazards F2)."""
    one, two = fresh("one"), fresh("two")
    for name, row in (("orders", one), ("balance", two)):
        shared.db[name].execute("insert into item(k, v) values (%s, 0)", row)

    def crossing(first, second):
        rows = {"orders": one, "balance": two}
        return [step(first, "update item set v = v + 1 where k = $1 returning pg_sleep(0.3)", rows[first], name="first"),
                step(second, "update item set v = v + 1 where k = $1", rows[second], after="first")]

    futures = [shared.app.run_later(crossing(*pair), lock_timeout="1s") for pair in (("orders", "balance"), ("balance", "orders"))]
    answers = [future.result() for future in futures]
    assert all(answer.status in (200, 409) for answer in answers), answers
    committed = sum(answer.status == 200 for answer in answers)
    for name, row in (("orders", one), ("balance", two)):
        assert shared.db[name].value("select v from item where k = %s", row) == committed
    shared.no_orphans()
