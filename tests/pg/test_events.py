"""Hazards S1, S10, S11, S11b, S13, S14, S15 of sagas: events in SQL, as services and the relay use them.

Method: psycopg. Writers that commit in any order, roll back, or stay prepared; a reader that pages by position all the while; handlers that fail. Every test
ends by comparing what was read with what was committed. Seen if wrong: an event lost, one of a rolled back transaction, a key out of order, a reader
that stands still behind somebody else's transaction.
"""

import hashlib
import random
import threading
import time

import psycopg
import pytest

from harness.cluster import Cluster
from harness.programs import command
from harness.system import fresh

SECRET = b"0123456789abcdef"


@pytest.fixture(scope="module")
def cluster():
    made = Cluster()
    with made.connect("postgres") as session:
        session.execute("create role checkout login; create role billing login; create role stranger login; create role lockstep_agent login")
    yield made
    made.remove()


@pytest.fixture
def db(cluster):
    """A database of its own for each test: positions begin at 1."""
    database = cluster.create_database(fresh("ev"))
    done = command("init-participant", "--app-role", "checkout", "--app-role", "billing", "--apply", database.conninfo())
    assert done.returncode == 0, done
    database.execute("insert into lockstep.life(participant, agent, nonce, secret_digest) values ('here', 'lockstep_agent', 'n', %s)", hashlib.sha256(SECRET).digest())
    database.execute("create table effect(id text, note text); grant select, insert on effect to public")
    yield database
    database.close()


def session(db, user="checkout", **options):
    return db.connect(user=user, autocommit=False, **options)


def emit(connection, key, payload="{}", kind="order.created"):
    return connection.execute("select lockstep.emit(%s, %s, %s)", (kind, key, payload)).fetchone()[0]


class Relay:
    """What the agent's relay does, on one session of its role."""

    def __init__(self, db):
        self.session = db.connect(user="lockstep_agent")
        self.after, self.seen = 0, []

    def claim(self, limit=100):
        return self.session.execute("select given from lockstep.relay_claim(%s, 0)", (limit,)).fetchone()[0]

    def read(self, limit=100, participant=None):
        """The next page: (position, key, version)."""
        rows = self.session.execute("select position, key, version from lockstep.relay_read(%s, %s, %s)", (participant, self.after, limit)).fetchall()
        self.after = rows[-1][0] if rows else self.after
        self.seen += rows
        return rows


def check_order(seen):
    """Positions without gaps, versions of each key in order and without gaps."""
    assert [position for position, _, _ in seen] == list(range(1, len(seen) + 1))
    last = {}
    for _, key, version in seen:
        assert version == last.get(key, 0) + 1, f"{key}: {version} behind {last.get(key)}"
        last[key] = version


def test_an_event_is_there_if_and_only_if_its_transaction_is(db):
    """S10: no dual write. Rolled back: nothing, and no gap in the key."""
    relay = Relay(db)
    with session(db) as writer:
        assert emit(writer, "o1") == 1
        writer.execute("insert into effect values ('o1', '')")
        assert relay.claim() == 0
        writer.rollback()
        assert emit(writer, "o1") == 1
        writer.execute("savepoint s")
        assert emit(writer, "o1") == 2
        writer.execute("rollback to s")
        assert emit(writer, "o1") == 2
        writer.commit()
    assert relay.claim() == 2 and relay.read() == [(1, "o1", 1), (2, "o1", 2)]


def test_ids_that_become_visible_late_are_not_lost(db):
    """S11: the lower id commits after the higher one was read."""
    relay, early, late = Relay(db), session(db), session(db)
    emit(early, "a")
    emit(late, "b")
    late.commit()
    assert relay.claim() == 1 and relay.read() == [(1, "b", 1)]
    early.commit()
    assert relay.claim() == 1 and relay.read() == [(2, "a", 1)]
    ids = [row[0] for row in db.query("select id from lockstep.event order by position")]
    assert ids[0] > ids[1]  # it was such a case


def test_a_prepared_transaction_does_not_starve_the_relay(db):
    """S11b: it holds back the horizon of the whole server, and its own events, and nothing else."""
    relay, gid = Relay(db), fresh("orphan")
    with session(db) as writer:
        emit(writer, "held")
        writer.execute(f"prepare transaction '{gid}'")
    assert db.value("select count(*) from pg_prepared_xacts where gid = %s", gid) == 1
    with session(db) as writer:
        for number in range(50):
            emit(writer, f"free-{number}")
    xmin = db.value("select pg_snapshot_xmin(pg_current_snapshot())::text::int8 <= min(transaction::text::int8) from pg_prepared_xacts")
    assert xmin  # a fence on it would stand still
    assert relay.claim() == 50 and len(relay.read()) == 50
    with session(db) as writer:
        writer.execute("set local lock_timeout = '100ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            emit(writer, "held")
    db.execute(f"commit prepared '{gid}'")
    assert relay.claim() == 1 and relay.read() == [(51, "held", 1)]
    check_order(relay.seen)


def test_order_and_completeness_under_writers(db):
    """S11, S13: eight writers of a few keys, some rolling back, with a relay of small pages, and another one that tries to claim at the same time."""
    written, stop, errors = [], threading.Event(), []

    def write(seed):
        dice = random.Random(seed)
        with session(db) as writer:
            for number in range(40):
                try:
                    keys = [f"k{dice.randrange(6)}" for _ in range(dice.randrange(1, 4))]
                    versions = [(key, emit(writer, key, f'{{"by": {seed}, "n": {number}}}')) for key in sorted(set(keys))]
                    if dice.random() < 0.25:
                        writer.rollback()
                    else:
                        writer.commit()
                        written.extend(versions)
                except Exception as error:  # nothing of the kind is expected
                    errors.append(error)
                    writer.rollback()

    def claim():
        other = Relay(db)
        while not stop.is_set():
            other.claim(3)

    writers = [threading.Thread(target=write, args=(seed,)) for seed in range(8)]
    rival = threading.Thread(target=claim)
    for thread in writers + [rival]:
        thread.start()
    relay = Relay(db)
    while any(thread.is_alive() for thread in writers):
        relay.claim(7)
        relay.read(5)
    stop.set()
    rival.join()
    while relay.claim(100) or relay.read():
        pass
    assert not errors, errors
    check_order(relay.seen)
    assert sorted((key, version) for _, key, version in relay.seen) == sorted(written)


def test_append_refuses_a_conflict(db):
    """Two writers that have read the same version: one of them loses."""
    one, two = session(db), session(db)
    append = "select lockstep.append(%s, %s, 'account.debited', %s)"
    assert one.execute(append, ("kim", 0, '{"by": 1}')).fetchone()[0] == 1
    outcome = []

    def second():
        try:
            two.execute(append, ("kim", 0, '{"by": 2}'))
            two.commit()
            outcome.append("committed")
        except psycopg.Error as error:
            outcome.append(error.sqlstate)
            two.rollback()
    thread = threading.Thread(target=second)
    thread.start()
    one.commit()
    thread.join()
    assert outcome == ["LS004"]
    assert two.execute(append, ("kim", 1, '{"by": 2}')).fetchone()[0] == 2
    two.commit()
    for expected in (0, 1, 3):
        with pytest.raises(psycopg.Error) as caught:
            two.execute(append, ("kim", expected, "{}"))
        assert caught.value.sqlstate == "LS004"
        two.rollback()
    for key, expected in (("kim", -1), ("kim", None)):
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            two.execute(append, (key, expected, "{}"))
        two.rollback()


def test_load_and_snapshots(db):
    with session(db) as writer:
        for number in range(5):
            emit(writer, "kim", f'{{"n": {number}}}', "account.debited")
        load = "select version, type, payload from lockstep.load('kim')"
        assert [row[0] for row in writer.execute(load)] == [1, 2, 3, 4, 5]
        writer.execute("select lockstep.keep_snapshot('kim', 3, '{\"balance\": 7}')")
        assert list(writer.execute(load)) == [(3, "lockstep.snapshot", {"balance": 7}), (4, "account.debited", {"n": 3}), (5, "account.debited", {"n": 4})]
        writer.execute("select lockstep.keep_snapshot('kim', 2, '{\"balance\": 0}')")  # older: changes nothing
        assert writer.execute(load).fetchone()[2] == {"balance": 7}
        writer.commit()
        for version in (0, 6):
            with pytest.raises(psycopg.errors.InvalidParameterValue):
                writer.execute("select lockstep.keep_snapshot('kim', %s, '{}')", (version,))
            writer.rollback()
        assert list(writer.execute("select * from lockstep.load('nobody')")) == []


def test_no_subscriber_is_a_dead_letter(db):
    """S16: unless the type is declared terminal, or somebody wants it."""
    with session(db) as writer:
        writer.execute("select lockstep.declare_terminal('order.shipped')")
        for kind in ("order.created", "order.shipped", "order.paid"):
            emit(writer, "o1", kind=kind)
    relay = Relay(db)
    for who in ("bank", "post"):
        relay.session.execute("select lockstep.route_store(%s, '127.0.0.1:1', array['order.paid'])", (who,))
    assert relay.claim() == 3
    assert db.query("select position, reason from lockstep.letter") == [(1, "nobody subscribes to order.created")]
    assert relay.read(participant="bank") == [(3, "o1", 3)]
    for who in ("bank", "post"):
        relay.session.execute("select lockstep.route_store(%s, '127.0.0.1:1', '{}')", (who,))
    assert db.value("select count(*) from lockstep.route") == 0


def test_acknowledged_positions_do_not_go_back(db):
    relay = Relay(db)
    db.execute("update lockstep.relay set position = 9")
    for position in (5, 3, 9, 9):
        relay.session.execute("select lockstep.relay_acknowledge('bank', %s)", (position,))
    assert db.query("select participant, position from lockstep.forward") == [("bank", 9)]


# ---------------------------------------------------------------- the receiving side

TAKE = "select lockstep.inbox_take(%s, %s, %s, %s, 'order.created', %s, %s, 'saga-1', %s)"
PARK = "select lockstep.inbox_park(%s, %s, %s, %s, 'order.created', %s, %s, 'saga-1', %s, 'P0001', 'it does not like it', %s, 0)"


def deliver(db, position, key, version, fails=False, attempts_max=3, source="far", handler="public.handle"):
    """One delivery as the receiving agent does it: inbox row, handler, follow-up event in one transaction; parked when the handler fails."""
    with session(db) as worker:
        answer = worker.execute(TAKE, (SECRET, source, position, handler, key, version, '{"n": 1}')).fetchone()[0]
        if answer != "run":
            return answer
        if not fails:
            worker.execute("insert into effect values (%s, %s)", (key, version))
            emit(worker, key, kind="stock.reserved")
            return "done"
        worker.rollback()
        return worker.execute(PARK, (SECRET, source, position, handler, key, version, '{"n": 1}', attempts_max)).fetchone()[0]


def effects(db, key):
    return [int(row[0]) for row in db.query("select note from effect where id = %s order by note::int", key)]


def due(db):
    return [row[0] for row in db.query("select position from lockstep.inbox_due(10)")]


@pytest.fixture
def handling(db):
    """A handler that the superuser owns."""
    db.execute("create function public.handle(jsonb) returns void language sql as ''")
    with session(db) as subscriber:
        subscriber.execute("select lockstep.on('order.created', 'public.handle')")
    return db


def test_each_delivery_acts_once(handling):
    """S1, S12: any number of times, also at once."""
    db, answers = handling, []
    threads = [threading.Thread(target=lambda: answers.append(deliver(db, 7, "o1", 1))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == ["done"] + ["duplicate"] * 5 and effects(db, "o1") == [1]
    assert db.query("select saga, cause from lockstep.event") == [("saga-1", "far/7")]


def test_a_poison_event_parks_its_key_only(handling):
    """S14: what comes behind it on its key waits in order; others go on. After its attempts it is dead, and still holds its key."""
    db = handling
    assert deliver(db, 1, "bad", 1, fails=True) == "waiting"
    assert deliver(db, 2, "bad", 2) == "queued" and deliver(db, 3, "good", 1) == "done" and deliver(db, 4, "bad", 3) == "queued"
    assert due(db) == [1]
    assert deliver(db, 1, "bad", 1, fails=True) == "waiting" and deliver(db, 1, "bad", 1, fails=True) == "dead"
    assert due(db) == [] and effects(db, "bad") == [] and effects(db, "good") == [1]
    assert deliver(db, 5, "bad", 4) == "queued"
    state, history = db.query("select attempts, history from lockstep.inbox where position = 1")[0]
    assert state == 3 and [entry["sqlstate"] for entry in history] == ["P0001"] * 3


@pytest.mark.parametrize("act, expected", [("retry", [1, 2, 3]), ("skip", [2, 3])])
def test_replay_keeps_order_and_passes_the_inbox(handling, act, expected):
    """S15: twice, and nothing happens twice."""
    db = handling
    assert deliver(db, 1, "bad", 1, fails=True, attempts_max=1) == "dead"
    assert deliver(db, 2, "bad", 2) == "queued" and deliver(db, 3, "bad", 3) == "queued"
    acted = "select lockstep.inbox_act('far', 1, 'public.handle', %s, 'admin/root')"
    assert db.value(acted, act) is True
    assert db.value(acted, act) is False
    order = []
    while due(db):
        position = due(db)[0]
        order.append(position)
        assert deliver(db, position, "bad", position) == "done"
        assert deliver(db, position, "bad", position) == "duplicate"
    assert order == expected and effects(db, "bad") == expected
    assert deliver(db, 1, "bad", 1) == "duplicate"
    assert [db.value(acted, word) for word in ("retry", "skip", "compensate")] == [False] * 3, "what is through has no letter any more"
    assert due(db) == [] and effects(db, "bad") == expected


def test_the_inbox_row_falls_with_its_effect(handling):
    db = handling
    with session(db) as worker:
        assert worker.execute(TAKE, (SECRET, "far", 1, "public.handle", "o1", 1, "{}")).fetchone()[0] == "run"
        worker.execute("insert into effect values ('o1', '1')")
        worker.rollback()
    assert db.value("select count(*) from lockstep.inbox") == 0 and effects(db, "o1") == []
    assert deliver(db, 1, "o1", 1) == "done"


def test_a_position_that_was_another_event_before(handling):
    """A source that has lost WAL gives positions out again: a dead letter with its key behind it, and a human's word brings it through."""
    db = handling
    assert deliver(db, 5, "old", 1) == "done"
    with pytest.raises(psycopg.Error) as caught:
        deliver(db, 5, "new", 1)
    assert caught.value.sqlstate == "LS005"
    parked = (SECRET, "far", 5, "public.handle", "new", 1, '{"n": 1}', 10)
    with session(db) as worker:
        assert worker.execute(PARK, parked).fetchone()[0] == "dead"
        worker.commit()
    assert deliver(db, 5, "new", 1) == "queued"  # it comes again, and is known
    assert deliver(db, 5, "old", 1) == "duplicate"
    assert deliver(db, 6, "new", 2) == "queued" and due(db) == []
    assert db.value("select lockstep.letter_act('far/-5/public.handle', 'retry', 'admin/root')") is True
    assert due(db) == [-5] and deliver(db, -5, "new", 1) == "done"
    assert deliver(db, 5, "new", 1) == "duplicate"
    assert due(db) == [6] and deliver(db, 6, "new", 2) == "done"
    assert due(db) == [] and effects(db, "new") == [1, 2] and effects(db, "old") == [1]


def test_what_waits_before_a_dead_letter_is_tried_again(handling):
    """S14: a key waits behind its dead letter, not before it."""
    db = handling
    assert deliver(db, 5, "old", 1) == "done"
    assert deliver(db, 4, "k", 1, fails=True) == "waiting"
    with session(db) as worker:  # its position was another event before: dead at once
        assert worker.execute(PARK, (SECRET, "far", 5, "public.handle", "k", 2, '{"n": 1}', 10)).fetchone()[0] == "dead"
    assert due(db) == [4] and deliver(db, 4, "k", 1) == "done"
    assert due(db) == [] and effects(db, "k") == [1]
    assert db.value("select lockstep.inbox_act('far', -5, 'public.handle', 'retry', 'admin/root')") is True
    assert due(db) == [-5] and deliver(db, -5, "k", 2) == "done"
    assert effects(db, "k") == [1, 2] and due(db) == [] and db.value("select count(*) from lockstep.parked") == 0


def test_a_relay_that_knows_more_than_the_database_is_refused(db):
    """Before it gives positions out twice, and before an acknowledgement hides what gets them."""
    relay = Relay(db)
    with session(db) as writer:
        emit(writer, "k")
    for sql in ("select lockstep.relay_claim(1, 7)", "select lockstep.relay_acknowledge('bank', 7)"):
        with pytest.raises(psycopg.Error) as caught:
            relay.session.execute(sql)
        assert caught.value.sqlstate == "LS005"
    assert relay.claim() == 1 and db.query("select * from lockstep.forward") == []


def test_one_participant_relays(db):
    relay = Relay(db)
    take = "select holder, position from lockstep.relay_take(%s)"
    assert relay.session.execute(take, ("orders",)).fetchone() == ("orders", 0)
    assert relay.session.execute(take, ("orders2",)).fetchone() == ("orders", 0)


def test_many_behind_a_dead_letter_cost_nothing(handling):
    """Only the first of a key is looked at, however many stand behind it; and when it is through, the next one is due."""
    db = handling
    assert deliver(db, 1, "bad", 1, fails=True, attempts_max=1) == "dead"
    db.execute("insert into lockstep.inbox(source, position, handler, type, key, version, saga, payload, state, retry_at) select 'far', g, 'public.handle', 'order.created', 'bad',"
               " g, 's', '{}', 'waiting', now() from generate_series(2, 20000) g; analyze lockstep.inbox")
    assert due(db) == []

    def rows_looked_at():
        plan = db.value("explain (analyze, format json) select * from lockstep.inbox_due(10)")
        return plan[0]["Plan"]["Actual Rows"], plan[0]["Execution Time"]
    assert min(rows_looked_at()[1] for _ in range(5)) < 20  # 50,000 took 4.7 s
    assert db.value("select lockstep.inbox_act('far', 1, 'public.handle', 'skip', 'admin/root')") is True
    for position in range(2, 7):
        assert due(db) == [position]
        with session(db) as worker:
            assert worker.execute("select lockstep.inbox_take(%s, 'far', %s, 'public.handle', 'order.created', 'bad', %s, 's', '{}')",
                                  (SECRET, position, position)).fetchone()[0] == "run"


def test_who_comes_while_the_key_gets_through_is_not_forgotten(handling):
    """The head's transaction has not ended when the next of its key is queued behind it."""
    db = handling
    assert deliver(db, 1, "k", 1, fails=True) == "waiting"
    with session(db) as worker:
        assert worker.execute(TAKE, (SECRET, "far", 1, "public.handle", "k", 1, '{"n": 1}')).fetchone()[0] == "run"
        with session(db) as other:
            assert other.execute(TAKE, (SECRET, "far", 2, "public.handle", "k", 2, '{"n": 1}')).fetchone()[0] == "queued"
            worker.commit()
            assert due(db) == []  # not seen yet; and its key is not given up
        assert due(db) == [2] and deliver(db, 2, "k", 2) == "done"
    assert due(db) == [] and db.value("select count(*) from lockstep.parked") == 0


def test_what_nobody_handles_any_more_is_a_dead_letter(handling):
    """off() while something waits: it is shown, and can be retried once somebody subscribes again."""
    db = handling
    assert deliver(db, 1, "k", 1, fails=True) == "waiting" and deliver(db, 2, "k", 2) == "queued"
    with session(db) as subscriber:
        assert subscriber.execute("select lockstep.off('order.created', 'public.handle')").fetchone()[0] is True
    assert due(db) == []
    letters = db.value("select lockstep.show_letters(null, 10)::jsonb")
    assert [(letter["id"], letter["sqlstate"], letter["behind"]) for letter in letters] == [("far/1/public.handle", "42704", 1)]
    with session(db) as subscriber:
        subscriber.execute("select lockstep.on('order.created', 'public.handle')")
    assert db.value("select lockstep.letter_act('far/1/public.handle', 'retry', 'admin/root')") is True
    for position in (1, 2):
        assert due(db) == [position] and deliver(db, position, "k", position) == "done"


# ---------------------------------------------------------------- later


def later(db, key, sql="select lockstep.emit_later('over.due', %s, '{}', '0')", **settings):
    with session(db) as writer:
        for name, value in settings.items():
            writer.execute("select set_config(%s, %s, true)", (f"lockstep.{name}", value))
        writer.execute(sql, (key,))


def run_later(db):
    with db.connect(user="lockstep_agent") as agent:
        return agent.execute("select written, failed, reason, more from lockstep.relay_later(100)").fetchone()


def test_a_deadline_that_cannot_be_written_is_refused_when_it_is_set(db):
    for settings in ({"saga": "x" * 65}, {"cause": "x" * 129}):
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            later(db, "k", **settings)
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            later(db, "k", "select lockstep.emit('over.due', %s, '{}')", **settings)
    later(db, "k", saga="x" * 64, cause="x" * 128)
    assert run_later(db) == (1, 0, None, False)


def test_a_bad_deadline_holds_up_no_other(db):
    """Such a row may be there from before it was checked."""
    db.execute("insert into lockstep.later(type, key, payload, saga, role, due) values ('over.due', 'bad', '{}', repeat('x', 65), 'checkout', now() - interval '1 hour')")
    later(db, "good")
    written, failed, reason, more = run_later(db)
    assert (written, failed, more) == (1, 1, False) and "over.due of bad" in reason
    assert db.query("select key, failure is not null, due > now() from lockstep.later") == [("bad", True, True)]
    assert db.query("select key, role from lockstep.event") == [("good", "checkout")]


def test_deadlines_of_locked_keys_wait_and_lock_nothing_for_long(db):
    """S11b: sixty keys of one prepared transaction, half of them new; the free key is written, and its writer does not stand behind them."""
    with session(db) as writer:
        for number in range(30):
            emit(writer, f"old-{number}")
        writer.commit()
        for number in range(30):
            emit(writer, f"old-{number}")
            emit(writer, f"new-{number}")
        writer.execute("prepare transaction 'held'")
    later(db, "free")
    with session(db) as writer:
        for number in range(30):
            for word in ("old", "new"):
                writer.execute("select lockstep.emit_later('over.due', %s, '{}', '0')", (f"{word}-{number}",))
    written, rounds = 0, 0
    while written == 0 or rounds < 3:
        begun = time.monotonic()
        written += run_later(db)[0]
        rounds += 1
        assert time.monotonic() - begun < 3  # sixty waits of 100 ms were one call
    assert written == 1
    db.execute("rollback prepared 'held'")
    db.execute("update lockstep.later set due = now()")
    while db.value("select count(*) from lockstep.later"):
        assert run_later(db)[1] == 0
    assert db.value("select count(*) from lockstep.event where type = 'over.due'") == 61


# ---------------------------------------------------------------- rights and bounds


def test_a_definer_function_plants_no_handler(db):
    """SECURITY DEFINER functions of others are safe to call: none can make its owner's code run as the caller."""
    db.execute("create schema billing authorization billing; grant usage on schema billing to checkout; create table gold(x int); grant all on gold to checkout")
    with session(db, user="billing") as other:
        other.execute("create function billing.evil(jsonb) returns void language sql as 'insert into public.gold values (1)'")
        other.execute("create function billing.price() returns int language plpgsql security definer as"
                      " $$ begin perform lockstep.on('order.created', 'billing.evil'); return 7; end $$")
    with session(db) as caller:
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
            caller.execute("select billing.price()")
        assert "billing" in str(caught.value)
    assert db.query("select * from lockstep.subscriptions()") == []
    db.execute("grant billing to checkout")  # whoever is a member of its owner trusts it
    try:
        with session(db) as caller:
            caller.execute("select lockstep.on('order.created', 'billing.evil')")
        db.execute("revoke billing from checkout")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):  # looked at again when it is called
            deliver(db, 1, "k", 1, handler="billing.evil")
    finally:
        db.execute("revoke billing from checkout")


def test_only_functions_without_a_result_are_handlers(db):
    db.execute("create function public.large(jsonb) returns text language sql as $$ select repeat('x', 1000000) $$;"
               "create function public.many(jsonb) returns setof void language sql as $$ select from generate_series(1, 9) $$")
    with session(db) as subscriber:
        for name in ("public.large", "public.many"):
            with pytest.raises(psycopg.errors.UndefinedFunction):
                subscriber.execute("select lockstep.on('order.created', %s::text::regproc)", (name,))
            subscriber.rollback()


def test_state_belongs_to_who_has_written_it(db):
    """load() shows no other role's events, keep_snapshot() forges none of its states."""
    with session(db) as writer:
        emit(writer, "o1", '{"secret": 1}')
    with session(db, user="billing") as other:
        assert list(other.execute("select * from lockstep.load('o1')")) == []
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            other.execute("select lockstep.keep_snapshot('o1', 1, '{\"forged\": true}')")
    with session(db) as writer:
        writer.execute("select lockstep.keep_snapshot('o1', 1, '{\"n\": 1}')")
        assert [row[1] for row in writer.execute("select version, type from lockstep.load('o1')")] == ["lockstep.snapshot"]
    with session(db, user="billing") as other:
        assert list(other.execute("select * from lockstep.load('o1')")) == []


# ---------------------------------------------------------------- what it costs


def test_a_look_for_new_events_reads_no_whole_table(db):
    """Whatever the statistics say: they may be of a moment when everything was new."""
    relay = Relay(db)
    with session(db) as writer:
        writer.execute("select lockstep.declare_terminal('t.t')")
        writer.execute("select count(lockstep.emit('t.t', 'k' || g, '{}')) from generate_series(1, 3000) g")
    db.execute("alter table lockstep.event set (autovacuum_enabled = false); analyze lockstep.event")
    while relay.claim(1000):
        pass
    scans = "select seq_tup_read from pg_stat_get_xact_tuples_returned('lockstep.event'::regclass) x(seq_tup_read)"
    with db.connect(user="lockstep_agent", autocommit=False) as agent:
        agent.execute("select given from lockstep.relay_claim(1, 0)")
        assert agent.execute(scans).fetchone()[0] == 0


def test_a_page_is_found_in_bounded_steps(db):
    """Whoever goes on with `next` sees everything, also through stretches in which there is nothing for him."""
    with session(db) as writer:
        writer.execute("select lockstep.declare_terminal('t.t'), lockstep.declare_terminal('t.rare')")
        emit(writer, "first", kind="t.rare")
        writer.execute("select count(lockstep.emit('t.t', 'k' || g, '{}')) from generate_series(1, 12000) g")
        emit(writer, "last", kind="t.rare")
    relay = Relay(db)
    while relay.claim(5000):
        pass
    seen, offset, calls = [], 0, 0
    while True:
        page = db.value("select lockstep.show_events('checkout', 't.rare', null, %s, 1, 10000)::jsonb", offset)
        calls += 1
        seen += [event["key"] for event in page["events"]]
        if page["next"] == offset:
            break
        offset = page["next"]
    assert seen == ["first", "last"] and calls < 10
    page = db.value("select lockstep.show_events('checkout', null, 'k7', 0, 10, 10000)::jsonb")
    assert [event["key"] for event in page["events"]] == ["k7"] and page["next"] == 12002


def test_old_events_are_looked_for_in_bounded_steps(db):
    """A thousand keys whose newest event stays stand before what may go."""
    with session(db) as writer:
        writer.execute("select lockstep.declare_terminal('t.t')")
        writer.execute("select count(lockstep.emit('t.t', 'stays-' || g, '{}')) from generate_series(1, 1000) g")
        for _ in range(3):
            emit(writer, "k", kind="t.t")
    relay = Relay(db)
    relay.claim(5000)
    after, gone, steps = 0, 0, 0
    with db.connect(user="lockstep_agent") as agent:
        while after is not None:
            more, after = agent.execute("select gone, looked from lockstep.event_prune(0, %s, 100)", (after,)).fetchone()
            gone, steps = gone + more, steps + 1
    assert (gone, steps) == (2, 11)
    assert db.value("select count(*) from lockstep.event where key = 'k'") == 1


def test_subscriptions(handling):
    db = handling
    db.execute("create procedure public.no_function(jsonb) language sql as ''; create function public.other(text) returns void language sql as '';"
               "create function public.secret(jsonb) returns void language sql as ''; revoke execute on function public.secret(jsonb) from public")
    with session(db) as subscriber:
        for name, error in (("public.no_function", psycopg.errors.UndefinedFunction), ("public.other", psycopg.errors.UndefinedFunction),
                            ("public.secret", psycopg.errors.InsufficientPrivilege)):
            with pytest.raises(error):
                subscriber.execute("select lockstep.on('order.created', %s::text::regproc)", (name,))
            subscriber.rollback()
        subscriber.execute("select lockstep.on('order.created', 'public.handle')")  # again
    with session(db, user="billing") as other:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            other.execute("select lockstep.on('order.created', 'public.handle')")
        other.rollback()
        assert other.execute("select lockstep.off('order.created', 'public.handle')").fetchone()[0] is False
    assert db.query("select * from lockstep.subscriptions()") == [("order.created", "public.handle", "checkout")]
    with session(db) as subscriber:
        assert subscriber.execute("select lockstep.off('order.created', 'public.handle')").fetchone()[0] is True


@pytest.mark.parametrize("sql", ["select * from lockstep.event", "update lockstep.event set payload = '1'", "delete from lockstep.stream", "select lockstep.relay_claim(1, 0)", "select lockstep.relay_take('me')",
                                 "select * from lockstep.relay_read(null, 0, 1)", "select lockstep.relay_acknowledge('bank', 9)",
                                 "select lockstep.route_store('bank', '', '{}')", "select lockstep.inbox_act('far', 1, 'h', 'skip', 'me')",
                                 "select lockstep.event_write(null, 't', 'k', '1')", "select * from lockstep.inbox_due(1)",
                                 "select lockstep.inbox_take('guess', 'far', 1, 'h', 't', 'k', 1, 's', '1')",
                                 "select lockstep.inbox_park('guess', 'far', 1, 'h', 't', 'k', 1, 's', '1', 'P0001', 'x', 1, 1)"])
def test_may_not(db, sql):
    with session(db) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(sql)
    with session(db, user="stranger") as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            emit(connection, "k")


def test_bounds(db):
    with session(db) as writer:
        for kind, key, payload in [("", "k", "1"), ("t" * 65, "k", "1"), ("a b", "k", "1"), ("lockstep.x", "k", "1"), (None, "k", "1"), ("t", "", "1"),
                                   ("t", "k" * 201, "1"), ("t", None, "1"), ("t", "k", None), ("t", "k", '"' + "x" * 262143 + '"')]:
            with pytest.raises(psycopg.errors.InvalidParameterValue):
                emit(writer, key, payload, kind)
            writer.rollback()
        assert emit(writer, "k" * 200, '"' + "x" * 262142 + '"', "t" * 64) == 1
