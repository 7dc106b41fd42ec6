"""Hazards S1 to S5, S8, S17 of sagas at the agent: a step's attempts come twice, too late, at once, or with their agent's death in between.

Method: the real agent and a real server; a test plays the coordinator, since it must say what a coordinator says rarely. The effects are counted in SQL.
Seen if wrong: an effect twice, one behind its cancellation, a kept result of something rolled back, a row that an application has written.
"""

import json
import types

import pytest

from harness.base import wait_until
from harness.cluster import Cluster
from harness.driver import LinkDriver
from harness.programs import Agent, authority, command
from harness.proxy import wire
from harness.system import TABLES, fresh

DONE, UNDONE, CANCELLED = range(3)
STATE = "select state from lockstep.barrier where saga = %s and step = %s and not service"


@pytest.fixture(scope="module")
def cluster():
    made = Cluster()
    with made.connect("postgres") as session:
        session.execute("create role checkout login; create role billing login; create role lockstep_agent login")
    yield made
    made.remove()


@pytest.fixture(scope="module")
def db(cluster):
    database = cluster.create_database("orders")
    database.execute(TABLES)
    done = command("init-participant", "--app-role", "checkout", "--app-role", "billing", "--apply", database.conninfo())
    assert done.returncode == 0, done
    yield database
    database.close()


@pytest.fixture(scope="module")
def pair(cluster, db):
    link = LinkDriver(authority())
    agent = Agent("orders", types.SimpleNamespace(name="shop", authority=authority()), cluster.conninfo("orders", "lockstep_agent"),
                  address=link.address)
    agent.spawn()
    link.wait_ready()
    yield link, agent
    agent.kill()
    link.close()


@pytest.fixture
def link(pair, db):
    driver, agent = pair
    if not agent.running():
        agent.reap() if agent.process is not None else None
        agent.spawn()
    driver.wait_ready()
    return driver


@pytest.fixture
def agent(pair):
    return pair[1]


def put(key, amount=1):
    return ("insert into item(k, v) values ($1, $2) returning k, v", (key, amount))


def take(key):
    return ("delete from item where k = $1", (key,), 1)


def check(vote, kind, sqlstate="", barrier=None):
    assert vote.kind == getattr(wire(), kind) and vote.sqlstate == sqlstate, vote
    assert (vote.barrier if vote.HasField("barrier") else None) == barrier, vote
    return [(result.step, result.rows_affected, json.loads(result.rows_json) if result.HasField("rows_json") else None) for result in vote.results]


def there(db, key):
    return db.value("select count(*) from item where k = %s", key) == 1


def test_done_once_and_undone_once(link, db):
    """S1: what comes again runs nothing, and a repeated step gives the very results of the first."""
    saga, key = link.gtid(attempt=False), fresh()
    results = check(link.attempt(saga, "pay", "do", put(key), "select 'x' as what, 12.50::numeric as much, null as gone"), "COMMITTED", barrier=DONE)
    assert results == [(0, 1, [{"k": key, "v": 1}]), (1, 1, [{"what": "x", "much": "12.50", "gone": None}])]
    for _ in range(2):
        assert check(link.attempt(saga, "pay", "do", put(key), "select 2"), "NO", "LS001", DONE) == results
    assert there(db, key)
    check(link.attempt(saga, "pay", "undo", take(key)), "COMMITTED", barrier=UNDONE)
    assert not there(db, key)
    for op in ("undo", "do"):
        assert check(link.attempt(saga, "pay", op, put(key)), "NO", "LS001", UNDONE) == []
    assert not there(db, key)


def test_cancel(link, db):
    """S2, S3: refused from now on; or what is there, with its results, since somebody must undo it."""
    saga, key = link.gtid(attempt=False), fresh()
    check(link.attempt(saga, "a", "cancel"), "COMMITTED", barrier=CANCELLED)
    check(link.attempt(saga, "a", "cancel"), "COMMITTED", barrier=CANCELLED)
    check(link.attempt(saga, "a", "do", put(key)), "NO", "LS001", CANCELLED)
    check(link.attempt(saga, "a", "undo", take(key)), "NO", "LS001", CANCELLED)
    assert not there(db, key)
    results = check(link.attempt(saga, "b", "do", put(key)), "COMMITTED", barrier=DONE)
    assert check(link.attempt(saga, "b", "cancel"), "COMMITTED", barrier=DONE) == results
    check(link.attempt(saga, "b", "undo", take(key)), "COMMITTED", barrier=UNDONE)
    assert check(link.attempt(saga, "b", "cancel"), "COMMITTED", barrier=UNDONE) == []


def test_nothing_to_undo(link, db):
    """S2: no row, so nothing is claimed; the coordinator sends `cancel` then."""
    saga, key = link.gtid(attempt=False), fresh()
    check(link.attempt(saga, "a", "undo", take(key)), "NO", "LS002")
    assert db.value(STATE, saga, "a") is None
    check(link.attempt(saga, "a", "do", put(key)), "COMMITTED", barrier=DONE)


@pytest.mark.parametrize("statements, sqlstate", [([("insert into item(k, v) values ($1, -1)", ("bad",))], "23514"),
                                                  ([("update item set v = v where k = $1", ("nobody",), 1)], ""),
                                                  ([("insert into child values ($1, $2)", ("c", "nobody"))], "23503")])
def test_a_step_that_fails_leaves_no_row(link, db, statements, sqlstate):
    """S5."""
    saga, key = link.gtid(attempt=False), fresh()
    check(link.attempt(saga, "a", "do", put(key), *statements), "NO", sqlstate)
    assert db.value(STATE, saga, "a") is None and not there(db, key)
    check(link.attempt(saga, "a", "cancel"), "COMMITTED", barrier=CANCELLED)


def test_a_compensation_that_fails_changes_nothing(link, db):
    saga, key = link.gtid(attempt=False), fresh()
    results = check(link.attempt(saga, "a", "do", put(key)), "COMMITTED", barrier=DONE)
    check(link.attempt(saga, "a", "undo", take(fresh())), "NO", "")
    assert db.value(STATE, saga, "a") == "done"
    assert check(link.attempt(saga, "a", "do", put(key)), "NO", "LS001", DONE) == results
    check(link.attempt(saga, "a", "undo", take(key)), "COMMITTED", barrier=UNDONE)


def test_a_result_that_cannot_be_kept_is_not_committed(link, db):
    """A duplicate could not answer with it."""
    saga, key = link.gtid(attempt=False), fresh()
    check(link.attempt(saga, "a", "do", put(key), result_max=20), "NO", "54000")
    assert db.value(STATE, saga, "a") is None and not there(db, key)
    check(link.attempt(saga, "a", "do", put(key), ("select repeat('x', 70000)", ())), "NO", "54000")
    assert not there(db, key)
    check(link.attempt(saga, "a", "do", put(key), ("select repeat('x', 60000)", ())), "COMMITTED", barrier=DONE)
    vote = link.attempt(saga, "a", "do", put(key))
    assert len(check(vote, "NO", "LS001", DONE)[1][2][0]["repeat"]) == 60000


def test_commit_and_kept_result_are_one(link, db, cluster):
    """What was kept is there if and only if the effect is: the row and its result were never without each other."""
    saga = link.gtid(attempt=False)
    for number in range(20):
        link.attempt(saga, f"s{number}", "do", put(fresh()))
    assert db.query("select count(*), count(result) from lockstep.barrier where saga = %s and state = 'done'", saga) == [(20, 20)]


ATTACKS = ["delete from lockstep.barrier", "update lockstep.barrier set state = 'undone'",
           "insert into lockstep.barrier(saga, step, service, state) values ('s', 't', false, 'done')",
           "select lockstep.saga_attempt('guess', 'app/checkout', 's', 't', 'cancel')", "select lockstep.barrier_forget(array['s'])",
           "select lockstep.saga_keep('guess', 's', 't', '[]', 10)", "select lockstep.barrier_step(false, 'app/checkout', 's', 't', 'cancel')",
           "select lockstep.horizon_store('orders', '0a1b2c3d4e5f', 9, 9)", "select lockstep.outcome_prune('orders', 9)"]


@pytest.mark.parametrize("sql", ATTACKS)
def test_a_branch_cannot_touch_the_barrier(link, db, sql):
    saga = link.gtid(attempt=False)
    check(link.attempt(saga, "a", "do", sql), "NO", "42501")


def test_a_branch_cannot_skip_or_forge_its_row(link, db):
    """Nor can a service of the same role: its rows are others, and nothing that it cancels stands in the agent's way."""
    saga, key = link.gtid(attempt=False), fresh()
    with db.connect(user="checkout") as session:
        assert session.execute("select lockstep.barrier(%s, 'a', 'cancel')", (saga,)).fetchone()[0] == "cancelled"
    check(link.attempt(saga, "a", "do", "savepoint s", put(key), ("select lockstep.barrier($1, 'a', 'undo')", (saga,))), "COMMITTED", barrier=DONE)
    check(link.attempt(saga, "a", "do", put(key)), "NO", "LS001", DONE)
    with db.connect(user="checkout") as session:
        assert session.execute("select lockstep.barrier(%s, 'a', 'undo')", (saga,)).fetchone()[0] == "cancelled"
    assert db.value(STATE, saga, "a") == "done" and there(db, key)


def test_another_application_is_refused(link, db):
    saga, key = link.gtid(attempt=False), fresh()
    check(link.attempt(saga, "a", "do", put(key)), "COMMITTED", barrier=DONE)
    for op, statements in (("do", [put(key)]), ("undo", [take(key)]), ("cancel", [])):
        check(link.attempt(saga, "a", op, *statements, app="app/billing"), "NO", "42501")
    assert db.value(STATE, saga, "a") == "done" and there(db, key)


def waits(db, count=1):
    return db.value("select count(*) from pg_stat_activity where wait_event_type = 'Lock' and usename = 'checkout'") >= count


def test_cancel_against_a_step_that_is_running(link, db):
    """S4: the cancellation waits for the step's end, whichever it is, and gives up at its lock timeout without a claim."""
    for end in ("commit", "rollback"):
        saga, key, row = link.gtid(attempt=False), fresh(), fresh()
        db.execute("insert into item values (%s)", row)
        with db.connect(autocommit=False) as holder:
            holder.execute("update item set v = 1 where k = %s", (row,))
            running = link.step(saga, "a", "do", put(key), ("update item set v = v + 1 where k = $1", (row,), 1))
            wait_until(lambda: waits(db), 10, "the step waits")
            check(link.attempt(saga, "a", "cancel", lock_timeout_ms=100), "NO", "55P03")
            cancelling = link.step(saga, "a", "cancel", lock_timeout_ms=20000)
            wait_until(lambda: waits(db, 2), 10, "the cancellation waits")
            if end == "rollback":
                holder.execute("delete from item where k = %s", (row,))  # the step will touch no row
            holder.commit()
        if end == "commit":
            results = check(link.wait("vote", running), "COMMITTED", barrier=DONE)
            assert check(link.wait("vote", cancelling), "COMMITTED", barrier=DONE) == results
        else:
            check(link.wait("vote", running), "NO")
            check(link.wait("vote", cancelling), "COMMITTED", barrier=CANCELLED)
        assert there(db, key) == (end == "commit")


def test_a_step_that_times_out_does_not_happen_later(link, db):
    """S17: its deadline passes while it waits; cancelled; then what it waited for is free."""
    saga, key, row = link.gtid(attempt=False), fresh(), fresh()
    db.execute("insert into item values (%s)", row)
    with db.connect(autocommit=False) as holder:
        holder.execute("update item set v = 1 where k = %s", (row,))
        late = link.step(saga, "a", "do", put(key), ("update item set v = v + 1 where k = $1", (row,)), deadline_ms=300, lock_timeout_ms=60000)
        vote = link.wait("vote", late)
        check(vote, "NO", "57014")
        assert vote.retryable
        check(link.attempt(saga, "a", "cancel"), "COMMITTED", barrier=CANCELLED)
        holder.commit()
    check(link.attempt(saga, "a", "do", put(key)), "NO", "LS001", CANCELLED)
    assert not there(db, key) and db.value("select v from item where k = %s", row) == 1


@pytest.mark.parametrize("point, committed", [("agent_before_one_phase_commit", False), ("agent_after_one_phase_commit", True), ("agent_before_vote", True),
                                              ("agent_after_pipeline_sent", False)])
@pytest.mark.parametrize("op", ["do", "undo"])
def test_agent_dies_within_a_step(link, agent, db, point, committed, op):
    """S8: settled by the outcome row or its tombstone, then the same operation again does what is left of it: one effect in all."""
    saga, key = link.gtid(attempt=False), fresh()
    statements = {"do": put(key), "undo": take(key)}
    if op == "undo":
        check(link.attempt(saga, "a", "do", put(key)), "COMMITTED", barrier=DONE)
    agent.kill()
    link.wait_gone()
    agent.spawn(fail=f"{point}=kill")
    link.wait_ready()
    attempt = link.step(saga, "a", op, statements[op])
    agent.wait_exit()
    link.wait_gone()
    agent.spawn()
    link.wait_ready()
    done = link.settle(attempt)
    happened = done.kind == wire().DONE_COMMITTED
    if point in ("agent_before_one_phase_commit", "agent_before_vote"):
        assert happened == committed, done  # the others are races between COMMIT and the death
    state = {"do": DONE, "undo": UNDONE}[op]
    again = link.attempt(saga, "a", op, statements[op])
    check(again, "NO" if happened else "COMMITTED", "LS001" if happened else "", state)
    assert there(db, key) == (op == "do")
    assert db.value(STATE, saga, "a") == {"do": "done", "undo": "undone"}[op]


@pytest.mark.parametrize("isolation", [1, 2])
def test_other_isolation_levels(link, db, isolation):
    saga, key = link.gtid(attempt=False), fresh()
    check(link.attempt(saga, "a", "do", put(key), isolation=isolation), "COMMITTED", barrier=DONE)
    check(link.attempt(saga, "a", "do", put(key), isolation=isolation), "NO", "LS001", DONE)
    check(link.attempt(saga, "a", "undo", take(key), isolation=isolation), "COMMITTED", barrier=UNDONE)


def test_barrier_rows_go_when_the_saga_has_ended(link, db):
    """S21: asked for page by page, for ever; what has not ended stays."""
    ended, open_, foreign = link.gtid(attempt=False), link.gtid(attempt=False), "shop.ffffffffffff.1.1"
    for saga in (ended, open_):
        check(link.attempt(saga, "a", "do", put(fresh())), "COMMITTED", barrier=DONE)
        check(link.attempt(saga, "b", "cancel"), "COMMITTED", barrier=CANCELLED)
    with db.connect(user="checkout") as session:
        session.execute("select lockstep.barrier(%s, 'service', 'do'), lockstep.barrier(%s, 'service', 'do'), lockstep.barrier('own-name', 'x', 'do')", (ended, foreign))
    kept = link.wait("kept")
    while not {ended, open_} <= set(kept.sagas):
        link.forget(token=kept.token)
        kept = link.wait("kept")
    assert foreign not in kept.sagas and "own-name" not in kept.sagas
    link.forget([ended], token=kept.token)
    wait_until(lambda: db.value("select count(*) from lockstep.barrier where saga = %s", ended) == 0, 10, "the rows of the ended saga go")
    assert db.value("select count(*) from lockstep.barrier where saga = any(%s)", [open_, foreign, "own-name"]) == 4


def test_outcome_rows_go_below_the_horizon(link, db):
    """And nothing below it can commit, or be called aborted, from then on."""
    low = [link.wait("vote", link.step(None, None, None, put(fresh()))).gtid for _ in range(3)]
    never, late = link.gtid(), link.gtid()
    tombstone = link.settle(never)
    assert tombstone.kind == wire().DONE_ABORTED
    high = link.wait("vote", link.step(None, None, None, put(fresh()))).gtid
    horizon = int(high.split(".")[3].split("-")[0]) - 1
    left = "select count(*) from lockstep.outcome where gtid = any(%s)"
    assert db.value(left, [*low, never, high]) == 5
    link.forget(up_to=horizon)
    wait_until(lambda: db.value(left, [*low, never]) == 0, 10, "what lies below the horizon goes")
    assert db.value(left, [high]) == 1 and link.settle(high).kind == wire().DONE_COMMITTED
    key = fresh()
    check(link.attempt(None, None, None, put(key), gtid=late), "NO", "LS003")
    with db.connect(user="checkout", autocommit=False) as session:  # nor a backend that wakes up after all of that
        with pytest.raises(Exception, match="only the agent"):
            session.execute("select lockstep.outcome_insert('guess', %s, 'app/checkout', null, null)", (link.gtid(horizon - 1),))
    assert not there(db, key)
    assert link.settle(low[0]).kind == wire().DONE_HAZARD
    link.forget(up_to=1)  # never back
    link.forget(up_to=horizon)
    assert db.value("select sequence from lockstep.horizon where participant = 'orders'") == horizon


def test_what_stays_is_not_read_to_prune(db):
    """The index finds what lies below the horizon, also when the table was never analyzed."""
    db.execute("insert into lockstep.outcome(gtid, participant, app, state) select 'shop.ffffffffffff.1.' || n || '-1', 'other', 'app/checkout', 'committed'"
               " from generate_series(1, 20000) n; insert into lockstep.horizon values ('other', 'ffffffffffff', 1, 10)")
    with db.connect(autocommit=False) as session:
        session.execute("select lockstep.outcome_prune('other', 1000)")
        rows = session.execute("select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables where schemaname = 'lockstep' and relname = 'outcome'").fetchone()[0]
        session.rollback()
    assert rows < 200, f"{rows} rows were read to delete 10"
    db.execute("delete from lockstep.outcome where participant = 'other'")


def test_outcome_rows_go_in_batches(link, db):
    """More than one batch."""
    db.execute("insert into lockstep.outcome(gtid, participant, app, state) select 'shop.0a1b2c3d4e5f.1.' || n || '-1', 'orders', 'app/checkout', 'committed'"
               " from generate_series(1000001, 1002500) n")
    link.forget(up_to=1002400)
    left = "select count(*) from lockstep.outcome where gtid like 'shop.0a1b2c3d4e5f.1.100____-1'"
    wait_until(lambda: db.value(left) == 100, 15, lambda: f"the batches go: {db.value(left)} are left")
    link.sequence = iter(range(1003000, 2000000))
