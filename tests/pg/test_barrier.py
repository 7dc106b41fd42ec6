"""Hazards S1 to S4 of sagas: a step that comes twice, an undo that comes without its step or before it, and all of them at once.

Method: psycopg, as a service in Python would use lockstep.barrier(); each "run" writes an effect (+1 for do, -1 for undo) in the same transaction,
and after every test the sum of a step's effects must be what its row says. All pairs of operations meet in two open transactions, with every end.
Seen if wrong: an effect twice, an undo of nothing, a step done behind its cancellation.
"""

import itertools
import threading

import psycopg
import pytest

from harness.base import wait_until
from harness.cluster import Cluster
from harness.programs import command
from harness.system import fresh

SAGA = "shop.0a1b2c3d4e5f.1.17"
STATE = "select state from lockstep.barrier where saga = %s and step = %s"
OPS = ("do", "undo", "cancel")
EFFECT = {"do": 1, "undo": -1}


@pytest.fixture(scope="module")
def cluster():
    made = Cluster()
    with made.connect("postgres") as session:
        session.execute("create role checkout login; create role billing login; create role stranger login")
    yield made
    made.remove()


@pytest.fixture(scope="module")
def db(cluster):
    database = cluster.create_database("service")
    done = command("init-participant", "--app-role", "checkout", "--app-role", "billing", "--apply", database.conninfo())
    assert done.returncode == 0, done
    database.execute("create table effect(saga text, step text, amount int); grant select, insert on effect to public")
    yield database
    database.close()


def barrier(session, step, op, saga=SAGA):
    """What the function says; what it asks for is done, in the same transaction."""
    answer = session.execute("select lockstep.barrier(%s, %s, %s)", (saga, step, op)).fetchone()[0]
    if answer == "run":
        session.execute("insert into effect values (%s, %s, %s)", (saga, step, EFFECT[op]))
    return answer


def once(db, step, op, user="checkout", saga=SAGA):
    with db.connect(user=user, autocommit=False) as session:
        return barrier(session, step, op, saga)


def check(db, step, state):
    """The row says `state`, and so do the effects."""
    assert db.value(STATE, SAGA, step) == state
    effects = sorted(row[0] for row in db.query("select amount from effect where saga = %s and step = %s", SAGA, step))
    assert effects == {None: [], "done": [1], "undone": [-1, 1], "cancelled": []}[state], effects


def test_duplicate_does_nothing_and_has_the_kept_result(db):
    """S1."""
    step = fresh()
    with db.connect(user="checkout", autocommit=False) as session:
        assert barrier(session, step, "do") == "run"
        session.execute("select lockstep.barrier_keep(%s, %s, %s)", (SAGA, step, '{"order": 17}'))
    for _ in range(3):
        with db.connect(user="checkout", autocommit=False) as session:
            assert barrier(session, step, "do") == "done"
            assert session.execute("select lockstep.barrier_result(%s, %s)", (SAGA, step)).fetchone()[0] == {"order": 17}
    check(db, step, "done")
    assert [once(db, step, "undo") for _ in range(3)] == ["run", "undone", "undone"]
    check(db, step, "undone")


def test_empty_compensation_and_late_forward_action(db):
    """S2, S3: the undo of what never ran does nothing, and what comes behind it is refused."""
    for op in ("undo", "cancel"):
        step = fresh()
        assert [once(db, step, op), once(db, step, "do"), once(db, step, "undo")] == ["cancelled"] * 3
        check(db, step, "cancelled")


def test_cancel_says_what_is_there(db):
    step = fresh()
    assert [once(db, step, op) for op in ("do", "cancel", "undo", "cancel", "do")] == ["run", "done", "run", "undone", "undone"]
    check(db, step, "undone")


def test_rollback_takes_all_of_it_back(db):
    """S5: what failed was not done, and its cancellation says so."""
    step = fresh()
    for op in ("do", "cancel"):
        with db.connect(user="checkout", autocommit=False) as session:
            barrier(session, step, op)
            session.rollback()
        check(db, step, None)
    assert once(db, step, "do") == "run"
    with db.connect(user="checkout", autocommit=False) as session:
        assert barrier(session, step, "undo") == "run"
        session.rollback()
    check(db, step, "done")
    with db.connect(user="checkout", autocommit=False) as session:  # to a savepoint, within one transaction
        session.execute("savepoint s")
        assert barrier(session, step, "undo") == "run"
        session.execute("rollback to s")
        assert barrier(session, step, "undo") == "run"
    check(db, step, "undone")


class Actor:
    """One transaction on a session of its own; the call may wait for another's end."""

    def __init__(self, session, step, op, level):
        self.op, self.step, self.session = op, step, session
        self.session.execute(f"set transaction isolation level {level}")
        self.session.execute("select 1")  # a snapshot, where the level keeps it
        self.pid = self.session.info.backend_pid
        self.answer = self.error = self.thread = None

    def call(self):
        try:
            self.answer = barrier(self.session, self.step, self.op)
        except psycopg.errors.SerializationFailure as error:
            self.error = error

    def begin(self):
        self.thread = threading.Thread(target=self.call)
        self.thread.start()

    def answered_or_waits(self, db):
        def known():
            return not self.thread.is_alive() or db.value("select cardinality(pg_blocking_pids(%s))", self.pid) > 0
        wait_until(known, 10, f"{self.op} is answered or waits")
        return not self.thread.is_alive()

    def end(self, commit):
        """True: it has committed."""
        self.thread.join()
        if commit and self.error is None:
            self.session.commit()
        else:
            self.session.rollback()
        return commit and self.error is None


def model(state, op):
    """The answer, and the state after it."""
    if op == "do":
        return ("run", "done") if state is None else (state, state)
    if op == "undo":
        return {None: ("cancelled", "cancelled"), "done": ("run", "undone")}.get(state, (state, state))
    return ("cancelled", "cancelled") if state is None else (state, state)


SETUP = {None: [], "done": ["do"], "undone": ["do", "undo"], "cancelled": ["cancel"]}


@pytest.mark.parametrize("level", ["read committed", "repeatable read", "serializable"])
def test_all_interleavings(db, level):
    """S4. Both transactions are open at once; whatever waits must wait, and what comes of it must be what one after the other would give."""
    waited, sessions = 0, [db.connect(user="checkout", autocommit=False) for _ in range(2)]
    all_ends = list(itertools.product((True, False), repeat=2)) if level == "read committed" else [(True, True), (False, True)]
    for before, first, second, ends, turned in itertools.product(SETUP, OPS, OPS, all_ends, (False, True)):
        step, name = fresh(), f"{before}: {first}, {second}, commits {ends}, {'second' if turned else 'first'} ends first"
        for op in SETUP[before]:
            barrier(sessions[0], step, op)
            sessions[0].commit()
        one, two = Actor(sessions[0], step, first, level), Actor(sessions[1], step, second, level)
        one.begin()
        one.thread.join()
        two.begin()
        answered = two.answered_or_waits(db)
        waited += not answered
        done = {}
        for actor, commit in [(two, ends[1]), (one, ends[0])] if turned and answered else [(one, ends[0]), (two, ends[1])]:
            done[actor] = actor.end(commit)
        if two.error is not None:
            assert level != "read committed", f"{name}: {two.error}"
        if one.error is not None:
            assert level == "serializable", f"{name}: {one.error}"
            check(db, step, db.value(STATE, SAGA, step))
            continue
        answer, state = model(before, first)
        assert one.answer == answer, name
        state = state if done[one] else before
        if two.error is None:
            answer, after = model(state, second)
            assert two.answer == answer, f"{name}: answered {two.answer}, not {answer}"
            state = after if done[two] else state
        check(db, step, state)
    assert waited > 40  # they did meet
    for session in sessions:
        session.close()



def test_many_at_once(db):
    """Eight sessions, every operation, again and again: one effect at most, one undo at most."""
    for _ in range(10):
        step, answers, lock = fresh(), [], threading.Lock()

        def work(op, step=step, answers=answers, lock=lock):
            answer = once(db, step, op)
            with lock:
                answers.append((op, answer))
        threads = [threading.Thread(target=work, args=(op,)) for op in OPS + OPS + ("do", "undo")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        check(db, step, db.value(STATE, SAGA, step))
        assert len(answers) == 8 and sum(answer == "run" for _, answer in answers) in (0, 1, 2), answers


def test_another_role_is_refused(db):
    """One application cannot settle, read or undo another's steps, nor by its services stand in the way of what the agent does for it."""
    step = fresh()
    assert once(db, step, "do") == "run"
    for op in OPS:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            once(db, step, op, user="billing")
    with db.connect(user="billing") as session:
        assert session.execute("select lockstep.barrier_result(%s, %s)", (SAGA, step)).fetchone()[0] is None
    check(db, step, "done")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        once(db, fresh(), "do", user="stranger")


@pytest.mark.parametrize("sql", ["select * from lockstep.barrier", "insert into lockstep.barrier(saga, step, service, state) values ('s', 't', true, 'done')",
                                 "delete from lockstep.barrier", "update lockstep.barrier set state = 'done'", "lock table lockstep.barrier",
                                 "select lockstep.barrier_step(false, 'app/checkout', 's', 't', 'cancel')",
                                 "select lockstep.barrier_write(false, 's', 't', '1', 10)",
                                 "select lockstep.saga_attempt('guess', 'app/checkout', 's', 't', 'cancel')",
                                 "select lockstep.saga_attempt(null, 'app/checkout', 's', 't', 'look')",
                                 "select lockstep.saga_keep('guess', 's', 't', '1', 10)"])
def test_may_not(db, sql):
    with db.connect(user="checkout", autocommit=False) as session:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute(sql)


def test_bounds(db):
    for saga, step, op in [("", "s", "do"), ("g" * 65, "s", "do"), (SAGA, "", "do"), (SAGA, "s" * 65, "do"), (SAGA, "s", "again"), (SAGA, "s", ""),
                           (None, "s", "do"), (SAGA, None, "do"), (SAGA, "s", None)]:
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            once(db, step, op, saga=saga)
    edge = fresh() + "s" * 64
    assert once(db, edge[:64], "do", saga="g" * 64) == "run"


def keep(session, step, text):
    session.execute("select lockstep.barrier_keep(%s, %s, %s)", (SAGA, step, text))


def test_kept_result(db):
    """Bounded, and only by the transaction that has done the step, before it commits."""
    step = fresh()
    with db.connect(user="checkout", autocommit=False) as session:
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            keep(session, step, "1")
        session.rollback()
        barrier(session, step, "do")
        with pytest.raises(psycopg.errors.ProgramLimitExceeded):
            keep(session, step, '"' + "x" * (65536 - 1) + '"')
        session.rollback()
        barrier(session, step, "do")
        keep(session, step, '"' + "x" * (65536 - 2) + '"')
        session.execute("savepoint s")
        keep(session, step, "2")
        session.commit()
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            keep(session, step, "3")
        session.rollback()
        assert session.execute("select lockstep.barrier_result(%s, %s)", (SAGA, step)).fetchone()[0] == 2


def test_search_path_and_look_alikes(db):
    """What a role puts into its own path does not become part of the barrier."""
    step = fresh()
    with db.connect(user="checkout", autocommit=False) as session:
        session.execute("create temp table barrier(saga text, step text, service bool, state text, app text, role name, xid xid8)")
        session.execute("create function pg_temp.equal(text, text) returns bool language sql as 'select false'")
        session.execute("create operator pg_temp.= (leftarg = text, rightarg = text, function = pg_temp.equal)")
        session.execute("create function pg_temp.octet_length(text) returns int4 language sql as 'select 1'")
        session.execute("create function pg_temp.clock_timestamp() returns timestamptz language plpgsql as $$begin raise 'run as %', current_user; end$$")
        session.execute("set search_path = pg_temp, pg_catalog, public")
        assert barrier(session, step, "do") == "run"
        assert barrier(session, step, "do") == "done"
        assert barrier(session, step, "undo") == "run"
        assert session.execute("select count(*) from pg_temp.barrier").fetchone()[0] == 0
    check(db, step, "undone")


def test_within_a_prepared_transaction(db):
    """The step of a service may itself be a branch: the row is as prepared as its effect."""
    step, gid = fresh(), fresh("gid")
    with db.connect(user="checkout", autocommit=False) as session:
        barrier(session, step, "do")
        session.execute(f"prepare transaction '{gid}'")
    with db.connect(user="checkout", autocommit=False) as session:
        session.execute("set local lock_timeout = '100ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            barrier(session, step, "cancel")
    db.execute(f"rollback prepared '{gid}'")
    assert once(db, step, "cancel") == "cancelled"
    check(db, step, "cancelled")
