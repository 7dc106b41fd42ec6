"""Hazard: a saga that leaves a step undone or done twice, undoes in the wrong order, or says an end that is not true (S1 to S8).

Method: sagas on real servers through the coordinator: to the end, turned by a business error, cancelled, past their deadline, stuck and
sent on by an operator; agents and servers that go away in between.
Seen if wrong: rows that are there after `compensated` or missing after `completed`; another order; a second execution.
"""

import concurrent.futures
import json

import pytest

from harness.base import wait_until
from harness.system import System, fresh, put, step

JOURNAL = """
create table journal(id bigserial primary key, saga text, what text);
grant select, insert on journal to public; grant usage on sequence journal_id_seq to public;
"""


@pytest.fixture(scope="module")
def system():
    made = System({"orders": 0, "balance": 1}, coordinator={"limits": {"deadline": "5s", "lock_timeout": "2s"}})
    for database in made.db.values():
        database.execute(JOURNAL)
    yield made
    made.close()


@pytest.fixture
def calm(system):
    system.heal()
    yield system
    system.heal()


def note(on, word, what, **more):
    """A step that writes down what it did."""
    def action(text):
        return {"sql": "insert into journal(saga, what) values ($1, $2)", "args": [word, text]}
    return {"on": on, "name": what, "do": action(f"do {what}"), **({"undo": action(f"undo {what}")} if more.pop("undo", True) else {}), **more}


def notes(system, word, *participants):
    """What was written down at each participant, in order."""
    return [row[0] for name in participants or ("orders", "balance")
            for row in system.db[name].query("select what from journal where saga = %s order by id", word)]


def saga(system, steps, wait="end", app=None, **more):
    return (app or system.app).run(steps, mode="saga", wait=wait, **more)


def ended(system, name, deadline=20):
    answer = {}

    def over():
        answer["last"] = system.admin.request("GET", f"/v1/sagas/{name}")
        return answer["last"].state in ("completed", "compensated", "stuck")
    wait_until(over, deadline, lambda: f"{name} has ended; last answer: {answer.get('last')}")
    return answer["last"]


def fails(on, **more):
    """A business error."""
    return step(on, "insert into item(k, v) values ($1, -1)", fresh(), **more)


def test_completed(calm):
    word = fresh("w")
    answer = saga(calm, [note("orders", word, "a"), note("balance", word, "b"), note("orders", word, "c", undo=False)])
    assert answer.status == 200 and answer.state == "completed", answer
    assert notes(calm, word, "orders") == ["do a", "do c"] and notes(calm, word, "balance") == ["do b"]
    shown = calm.app.request("GET", f"/v1/sagas/{answer.saga}")
    assert shown.status == 200 and [s["state"] for s in shown.body["steps"]] == ["done"] * 3, shown
    assert shown.body["document"]["mode"] == "saga"


def test_202_as_soon_as_it_has_begun(calm):
    word = fresh("w")
    answer = saga(calm, [note("orders", word, "a")], wait=None)
    assert answer.status == 202 and answer.saga and answer.headers["Location"] == f"/v1/sagas/{answer.saga}", answer
    assert ended(calm, answer.saga).state == "completed"
    assert notes(calm, word) == ["do a"]


def test_business_error_is_compensated_in_reverse(calm):
    word = fresh("w")
    answer = saga(calm, [note("orders", word, "a"), note("orders", word, "b"), fails("balance", undo={"sql": "select 1"}), note("orders", word, "d")])
    assert answer.status == 409 and answer.state == "compensated" and answer.sqlstate == "23514" and answer.body["step"] == 2, answer
    assert notes(calm, word) == ["do a", "do b", "undo b", "undo a"]
    shown = calm.app.request("GET", f"/v1/sagas/{answer.saga}")
    assert shown.status == 409 and [s["state"] for s in shown.body["steps"]] == ["undone", "undone", "cancelled", "unsent"], shown


def test_every_step_that_was_ever_sent_has_its_cancel_row(calm):
    """S5: also one that answered an error and left no row behind; and before the saga says that it is compensated. Seen by a trigger: the rows go with the end."""
    database = calm.db["balance"]
    database.execute("""create table if not exists barrier_seen(saga text, step text, state text); grant insert on barrier_seen to public;
        create or replace function barrier_see() returns trigger language plpgsql as $$ begin
          insert into public.barrier_seen values (new.saga, new.step, new.state); return new; end $$;
        create or replace trigger barrier_see after insert or update on lockstep.barrier for each row execute function barrier_see()""")
    try:
        answer = saga(calm, [note("balance", fresh("w"), "a"), fails("balance", undo={"sql": "select 1"})])
        assert answer.state == "compensated", answer
        seen = set(database.query("select step, state from barrier_seen where saga = %s", answer.saga))
    finally:
        database.execute("drop trigger barrier_see on lockstep.barrier")
    assert seen == {("a", "done"), ("1", "cancelled"), ("a", "undone")}, seen


def test_expect_rows_is_a_business_error(calm):
    word = fresh("w")
    answer = saga(calm, [note("orders", word, "a"),
                         step("balance", "update item set v = v - 1 where k = $1", fresh(), expect_rows=1, undo={"sql": "select 1"})])
    assert answer.status == 409 and "expected 1 rows" in answer.reason, answer
    assert notes(calm, word) == ["do a", "undo a"]


def test_references_forward_and_back(calm):
    word = fresh("w")
    first = {"on": "orders", "name": "first",
             "do": {"sql": "insert into journal(saga, what) values ($1, 'first') returning id", "args": [word]},
             "undo": {"sql": "insert into journal(saga, what) values ($1, 'gone ' || $2)", "args": [word, {"ref": "first.rows.0.id"}]}}
    second = {"on": "balance", "do": {"sql": "insert into journal(saga, what) values ($1, 'saw ' || $2)", "args": [word, {"ref": "first.rows.0.id"}]},
              "undo": {"sql": "insert into journal(saga, what) values ($1, 'unsaw ' || $2)", "args": [word, {"ref": "first.rows.0.id"}]}}
    answer = saga(calm, [first, second, fails("orders", undo={"sql": "select 1"})])
    assert answer.state == "compensated", answer
    number = calm.db["orders"].value("select id from journal where saga = %s and what = 'first'", word)
    assert notes(calm, word, "orders") == ["first", f"gone {number}"]
    assert notes(calm, word, "balance") == [f"saw {number}", f"unsaw {number}"]


def test_a_reference_to_nothing_is_a_business_error(calm):
    word = fresh("w")
    answer = saga(calm, [note("orders", word, "a"),
                         {"on": "balance", "do": {"sql": "select $1::text", "args": [{"ref": "a.rows.0.id"}]}, "undo": {"sql": "select 1"}}])
    assert answer.status == 409 and "no row 0" in answer.reason, answer
    assert notes(calm, word) == ["do a", "undo a"]


def test_branches_in_parallel(calm):
    """Two steps behind one, one behind both."""
    word = fresh("w")
    answer = saga(calm, [note("orders", word, "a"), note("balance", word, "b", after="a"), note("orders", word, "c", after="a"),
                         note("balance", word, "d", after=["b", "c"])])
    assert answer.state == "completed", answer
    assert notes(calm, word, "orders") == ["do a", "do c"] and notes(calm, word, "balance") == ["do b", "do d"]


def test_pivot(calm):
    word = fresh("w")
    good = saga(calm, [note("orders", word, "a"), note("balance", word, "p", undo=False, kind="pivot"), note("orders", word, "r", undo=False)])
    assert good.state == "completed", good
    bad = fresh("w")
    answer = saga(calm, [note("orders", bad, "a"), fails("balance", kind="pivot"), note("orders", bad, "r", undo=False)])
    assert answer.state == "compensated" and notes(calm, bad) == ["do a", "undo a"], answer


def test_key(calm):
    word, key = fresh("w"), fresh("idem")
    steps = [note("orders", word, "a")]
    first = saga(calm, steps, key=key)
    again = saga(calm, steps, key=key)
    assert first.saga == again.saga and again.body["replayed"] is True and again.state == "completed", (first, again)
    assert notes(calm, word) == ["do a"]
    other = saga(calm, [note("orders", word, "b")], key=key)
    assert other.status == 422 and other.code == "key_mismatch", other
    calm.coordinator.kill()
    calm.heal()
    later = calm.run(steps, key=key, mode="saga", wait="end")
    assert later.saga == first.saga and notes(calm, word) == ["do a"], later


def test_an_app_sees_its_own_only(calm):
    answer = saga(calm, [note("orders", fresh("w"), "a")])
    billing = calm.coordinator.app("billing")
    assert billing.request("GET", f"/v1/sagas/{answer.saga}").status == 403
    assert billing.request("POST", f"/v1/sagas/{answer.saga}/cancel").status == 403
    assert calm.admin.request("GET", f"/v1/sagas/{answer.saga}").status == 200
    for word in ("retry", "skip", "compensate"):
        assert calm.app.request("POST", f"/v1/dlq/{answer.saga}/{word}").status == 403
        assert calm.admin.request("POST", f"/v1/dlq/{answer.saga}/{word}").status == 404


def test_not_a_transaction(calm):
    answer = saga(calm, [note("orders", fresh("w"), "a")])
    got = calm.app.get(answer.saga)
    assert got.status == 404 and "saga" in got.message, got
    assert calm.app.request("GET", "/v1/sagas/nothing").code == "bad_saga"
    made_up = answer.saga.rsplit(".", 1)[0] + ".999999"
    assert calm.app.request("GET", f"/v1/sagas/{made_up}").code == "no_record"


class Locked:
    """Holds the row that a step wants to write."""

    def __init__(self, system, participant):
        self.key = fresh()
        self.database = system.db[participant]
        self.database.execute("insert into item(k, v) values (%s, 5)", self.key)
        self.session = self.database.connect(autocommit=False)
        self.session.execute("update item set v = v where k = %s", (self.key,))

    def free(self):
        self.session.rollback()
        self.session.close()


def takes(on, lock, **more):
    return {"on": on, "do": {"sql": "update item set v = v - 1 where k = $1", "args": [lock.key], "expect_rows": 1}, **more}


def test_cancel(calm):
    word, lock = fresh("w"), Locked(calm, "balance")
    back = {"undo": {"sql": "update item set v = v + 1 where k = $1", "args": [lock.key]}}
    answer = saga(calm, [note("orders", word, "a"), takes("balance", lock, **back)], wait=None)
    wait_until(lambda: notes(calm, word) == ["do a"], 10, "the first step is done")
    later = calm.app.request("POST", f"/v1/sagas/{answer.saga}/cancel")
    assert later.status in (200, 202), (later, calm.admin.request("GET", f"/v1/sagas/{answer.saga}"))
    lock.free()
    assert ended(calm, answer.saga).state == "compensated"
    assert notes(calm, word) == ["do a", "undo a"]
    assert calm.db["balance"].value("select v from item where k = %s", lock.key) == 5
    assert calm.app.request("POST", f"/v1/sagas/{answer.saga}/cancel").status == 200


def test_deadline_before_the_point_of_no_return(calm):
    """The pivot hangs on a lock when the deadline passes: it is cancelled at its participant before anything is undone (S17)."""
    word, lock = fresh("w"), Locked(calm, "balance")
    answer = saga(calm, [note("orders", word, "a"), takes("balance", lock, kind="pivot"), note("orders", word, "r", undo=False)], wait=None, deadline="1s")
    wait_until(lambda: calm.admin.request("GET", f"/v1/sagas/{answer.saga}").body.get("turning") or ended(calm, answer.saga), 10, "the deadline has passed")
    lock.free()
    final = ended(calm, answer.saga)
    value = calm.db["balance"].value("select v from item where k = %s", lock.key)
    if final.state == "compensated":
        assert "deadline" in final.reason and value == 5 and notes(calm, word) == ["do a", "undo a"], final
    else:  # the pivot got in before its cancel
        assert final.state == "completed" and value == 4 and notes(calm, word) == ["do a", "do r"], final


def test_too_late_to_cancel(calm):
    word, lock = fresh("w"), Locked(calm, "balance")
    answer = saga(calm, [note("orders", word, "p", undo=False, kind="pivot"), takes("balance", lock, attempts=100)], wait=None)
    wait_until(lambda: calm.admin.request("GET", f"/v1/sagas/{answer.saga}").state == "passed", 10, "it has passed its pivot")
    refused = calm.app.request("POST", f"/v1/sagas/{answer.saga}/cancel")
    assert refused.status == 409 and refused.code == "too_late", refused
    lock.free()
    assert ended(calm, answer.saga).state == "completed"


def stuck(system, word, steps):
    answer = saga(system, steps, wait=None)
    assert ended(system, answer.saga).state == "stuck"
    listed = [letter for letter in system.admin.request("GET", "/v1/dlq").body["dead_letters"] if letter["saga"] == answer.saga]
    assert len(listed) == 1 and listed[0]["failed_attempts"] >= 1 and listed[0]["reason"], listed
    shown = system.admin.request("GET", f"/v1/sagas/{answer.saga}")
    assert shown.body["failures"] and shown.body["document"]["steps"], shown
    return answer.saga


def wants(on, key, **more):
    """Fails until item `key` is there."""
    return {"on": on, "do": {"sql": "update item set v = v + 1 where k = $1", "args": [key], "expect_rows": 1}, "attempts": 2, **more}


def act(system, name, word, reason="looked at it"):
    answer = system.admin.request("POST", f"/v1/dlq/{name}/{word}", {"reason": reason})
    assert answer.status in (200, 202, 409), answer
    return answer


def test_stuck_and_retried(calm):
    word, key = fresh("w"), fresh()
    name = stuck(calm, word, [note("orders", word, "a"), wants("balance", key, kind="retriable")])
    assert act(calm, name, "compensate").code == "not_possible"
    calm.coordinator.kill()  # it is still there after a start
    calm.heal()
    assert ended(calm, name).state == "stuck"
    calm.db["balance"].execute("insert into item(k, v) values (%s, 1)", key)
    act(calm, name, "retry")
    assert ended(calm, name).state == "completed"
    assert notes(calm, word) == ["do a"] and calm.db["balance"].value("select v from item where k = %s", key) == 2


def test_stuck_and_skipped(calm):
    word, key = fresh("w"), fresh()
    name = stuck(calm, word, [note("orders", word, "a"), wants("balance", key, kind="retriable"), note("orders", word, "c", undo=False)])
    act(calm, name, "skip")
    final = ended(calm, name)
    assert final.state == "completed" and final.body["steps"][1]["skipped"] is True, final
    assert notes(calm, word) == ["do a", "do c"]


def test_stuck_and_compensated(calm):
    """A transient error used up its attempts before the point of no return."""
    word, lock = fresh("w"), Locked(calm, "balance")
    name = stuck(calm, word, [note("orders", word, "a"), takes("balance", lock, undo={"sql": "select 1"}, attempts=1)])
    act(calm, name, "compensate")
    lock.free()
    assert ended(calm, name).state == "compensated"
    assert notes(calm, word) == ["do a", "undo a"]


def test_a_compensation_that_fails_is_tried_again(calm):
    """S6: with growing pauses, whatever it says; test_saga.c has all twenty attempts."""
    word = fresh("w")
    bad = {"on": "orders", "do": {"sql": "insert into journal(saga, what) values ($1, 'do a')", "args": [word]}, "undo": {"sql": "select 1/0"}}
    answer = saga(calm, [bad, fails("balance", undo={"sql": "select 1"})], wait=None)
    shown = {}

    def tried():
        shown["last"] = calm.admin.request("GET", f"/v1/sagas/{answer.saga}")
        return shown["last"].body.get("failed_attempts", 0) >= 3
    wait_until(tried, 20, lambda: f"the compensation is tried again: {shown}")
    assert shown["last"].state == "compensating" and shown["last"].body["failures"][-1]["sqlstate"] == "22012", shown


def test_a_compensation_that_refers_to_nothing_is_a_dead_letter_at_once(calm):
    """What a step returned does not change: twenty attempts over minutes would end in the same."""
    lost = {"name": "a", "on": "orders", "do": {"sql": "select 1 as one"}, "undo": {"sql": "select $1::int", "args": [{"ref": "a.rows.5.one"}]}}
    answer = saga(calm, [lost, fails("balance", undo={"sql": "select 1"})], wait=None)

    def stuck():
        return calm.admin.request("GET", f"/v1/sagas/{answer.saga}").state == "stuck"
    wait_until(stuck, 20, "the saga is a dead letter")
    assert calm.admin.request("GET", f"/v1/sagas/{answer.saga}").body["failed_attempts"] == 2  # the step that turned it, and this


def test_a_compensation_that_cannot_succeed_waits_for_a_human(calm):
    """S6, S15: stuck also after a start; tried again it is stuck again; skipped, the rest is undone, and it says what was not."""
    word = fresh("w")
    lost = {"name": "lost", "on": "balance", "do": {"sql": "select 1 as one"}, "undo": {"sql": "select $1::int", "args": [{"ref": "lost.rows.5.one"}]}}
    name = stuck(calm, word, [note("orders", word, "a"), lost, fails("orders", kind="pivot")])
    shown = calm.admin.request("GET", f"/v1/sagas/{name}")
    assert shown.body["stuck_in"] == "compensating" and shown.body["error_class"] == "compensation" and notes(calm, word) == ["do a"], shown
    calm.coordinator.kill()
    calm.heal()
    assert ended(calm, name).state == "stuck" and act(calm, name, "compensate").code == "not_possible"
    act(calm, name, "retry")
    assert ended(calm, name).state == "stuck" and notes(calm, word) == ["do a"]
    act(calm, name, "skip")
    final = ended(calm, name)
    assert final.state == "compensated" and [step.get("skipped", False) for step in final.body["steps"]] == [False, True, False], final
    assert notes(calm, word) == ["do a", "undo a"]
    assert calm.admin.request("POST", f"/v1/dlq/{name}/skip").status == 404  # once


def test_bad_documents(calm):
    good = note("orders", "x", "a")
    cases = [
        ([note("orders", "x", "a", after="b"), note("orders", "x", "b", after="a")], "steps[0].after"),  # a cycle
        ([{**good, "on": "nowhere"}], "steps[0].on"),
        ([note("orders", "x", "a", undo=False), note("balance", "x", "b")], "steps[0].undo"),  # cannot be undone, and may have to be
        ([note("orders", "x", "a", undo=False, kind="compensatable")], "steps[0].undo"),
        ([note("orders", "x", "p", kind="pivot"), note("balance", "x", "b", kind="compensatable")], "steps[1].kind"),
        ([note("orders", "x", "p", kind="pivot"), note("balance", "x", "q", kind="pivot")], "steps[1].kind"),
        ([good, note("balance", "x", "p", kind="pivot", undo=False, after="a"), note("orders", "x", "c", after="a")], "steps[2].after"),
        ([good, {"on": "balance", "do": {"sql": "select $1", "args": [{"ref": "b.rows.0.x"}]}, "undo": {"sql": "select 1"}}], "steps[1].do.args[0]"),
        ([good, note("balance", "x", "b", after=[]), {"on": "orders", "after": "a", "do": {"sql": "select 1"},
          "undo": {"sql": "select $1", "args": [{"ref": "b.rows_affected"}]}}], "steps[2].undo.args[0]"),
        ([{**good, "attempts": 0}], "steps[0].attempts"),
        ([{**good, "name": "1"}, note("balance", "x", "b")], "steps[0].name"),  # so is the second one called if it has no name
        ([{"call": "payments", "do": {"path": "/charges"}}], "steps[0].call"),  # no service is configured
        ([good] * 1001, "steps"),
    ]
    before = calm.admin.metrics().value("lockstepd_sagas_begun_total")
    for steps, path in cases:
        answer = saga(calm, steps)
        assert answer.status == 400 and answer.path == path and answer.body["begun"] is False, (path, answer)
    assert calm.admin.metrics().value("lockstepd_sagas_begun_total") == before


def test_too_large(calm):
    answer = saga(calm, [step("orders", "select $1::text", "x" * 40000)])
    assert answer.status == 413 and answer.code == "too_large", answer


def test_too_many():
    made = System({"orders": 0}, coordinator={"limits": {"sagas": 1}})
    try:
        steps, key = [step("orders", "select 1/0", attempts=1)], fresh("idem")
        waiting = saga(made, steps, wait=None, key=key)
        assert ended(made, waiting.saga).state == "stuck"  # a dead letter is open, too
        again = saga(made, steps, wait=None, key=key)  # it has begun, whoever asks for how much room there is
        assert again.status == 202 and again.saga == waiting.saga and again.body["replayed"] is True, again
        answer = saga(made, [step("orders", "select 1")])
        assert answer.status == 429 and "limits.sagas" in answer.message and answer.body["begun"] is False, answer
        act(made, waiting.saga, "skip")
        assert ended(made, waiting.saga).state == "completed"
        assert saga(made, [step("orders", "select 1")]).state == "completed"
    finally:
        made.close()


def test_the_key_of_an_open_saga_outlives_the_window():
    """The log's window passes over its begin, whose record is carried along: so is its key. A repeat must not begin a second one beside it."""
    made = System({"orders": 0}, coordinator={"log": {"segment_size": "1MiB", "retention": "1s"}})
    try:
        key, passed = fresh("idem"), fresh("idem")
        steps, probe = [step("orders", "select 1/0", attempts=1)], [step("orders", "select 1")]
        waiting = saga(made, steps, wait=None, key=key)
        assert ended(made, waiting.saga).state == "stuck"
        first = saga(made, probe, key=passed)
        assert first.state == "completed", first

        def the_window_has_passed():
            assert saga(made, [step("orders", "select $1", "x" * 20000)]).state == "completed"
            return saga(made, probe, key=passed).body.get("saga", first.saga) != first.saga
        wait_until(the_window_has_passed, 30, "the log forgets the key of a saga that has ended")
        for _ in range(2):
            again = saga(made, steps, wait=None, key=key)
            assert again.status == 202 and again.saga == waiting.saga and again.body["replayed"] is True, again
            made.coordinator.restart()
            made.wait_ready()
        act(made, waiting.saga, "skip")
        assert ended(made, waiting.saga).state == "completed"
    finally:
        made.close()


def test_the_definition_is_pinned(calm):
    """S20: what runs after a restart is the document that was submitted, whatever the database is told meanwhile."""
    word, lock = fresh("w"), Locked(calm, "orders")
    answer = saga(calm, [takes("orders", lock, undo={"sql": "select 1"}, attempts=100), note("balance", word, "b")], wait=None)
    wait_until(lambda: calm.admin.request("GET", f"/v1/sagas/{answer.saga}").state == "running", 10, "it runs")
    calm.coordinator.kill()
    lock.free()
    calm.heal()
    assert ended(calm, answer.saga).state == "completed" and notes(calm, word) == ["do b"]
    assert calm.db["orders"].value("select v from item where k = %s", lock.key) == 4


def test_a_participant_that_is_away(calm):
    """Away at the begin: 503. Away later: the saga waits, and goes on when it comes back."""
    word, lock = fresh("w"), Locked(calm, "orders")
    answer = saga(calm, [takes("orders", lock, undo={"sql": "select 1"}, attempts=100), note("balance", word, "b")], wait=None)
    calm.agents["balance"].kill()
    wait_until(lambda: saga(calm, [note("balance", word, "x")]).status == 503, 10, "it is away")
    lock.free()
    wait_until(lambda: calm.admin.request("GET", f"/v1/sagas/{answer.saga}").body["steps"][0]["state"] == "done", 15, "the first step is done")
    calm.heal()
    assert ended(calm, answer.saga).state == "completed" and notes(calm, word) == ["do b"]


def test_who_waits_for_a_saga_does_not_hold_up_the_end(calm):
    """SIGTERM: no saga can come to its end while the daemon drains; its client is told where to ask, and the next life goes on with it."""
    word, lock = fresh("w"), Locked(calm, "balance")
    future = calm.app.run_later([note("orders", word, "a"), takes("balance", lock, undo={"sql": "select 1"}, attempts=100), note("orders", word, "c")],
                                mode="saga", wait="end")
    wait_until(lambda: notes(calm, word) == ["do a"], 10, "the first step is done")
    assert calm.coordinator.stop() == 0
    answer = future.result()
    assert answer.status == 202 and answer.state == "running" and answer.body["ask"], answer
    assert not calm.coordinator.log_has("drain time is over"), calm.coordinator.log_text()
    lock.free()
    calm.heal()
    assert ended(calm, answer.saga).state == "completed" and notes(calm, word) == ["do a", "do c"]


def test_finished_ones_are_listed(calm):
    """By state, in pages, each saga once; an application sees its own."""
    def listed(client, state):
        found, after = [], ""
        while after is not None:
            page = client.request("GET", f"/v1/sagas?state={state}&limit=2" + (f"&after={after}" if after else ""))
            assert page.status == 200 and len(page.body["sagas"]) <= 2, page
            found += [entry["saga"] for entry in page.body["sagas"]]
            after = page.body["next"]
        assert len(found) == len(set(found)), found
        return found
    word = fresh("w")
    good = [saga(calm, [note("orders", word, "a")]).saga for _ in range(3)]
    bad = [saga(calm, [note("orders", word, "a"), fails("balance", undo={"sql": "select 1"})]).saga for _ in range(3)]
    other = saga(calm, [note("orders", word, "a")], app=calm.coordinator.app("billing")).saga
    assert listed(calm.app, "completed")[-3:] == good and listed(calm.app, "compensated")[-3:] == bad
    assert listed(calm.admin, "completed")[-1] == other and other not in listed(calm.app, "completed")
    calm.coordinator.kill()  # they are in the log
    calm.heal()
    assert listed(calm.app, "completed")[-3:] == good and listed(calm.app, "compensated")[-3:] == bad
    assert calm.app.request("GET", "/v1/sagas?state=nothing").status == 400
    before = calm.admin.metrics().value("lockstepd_saga_step_seconds_count")
    saga(calm, [note("orders", word, "a")])
    assert calm.admin.metrics().value("lockstepd_saga_step_seconds_count") > before


def test_more_than_a_page_looks_at(calm):
    """Over 1,000 ended sagas: each listed once and in order, whatever ends meanwhile, and the walk goes on where it was after a restart; those of a
    state that only the last ones have are found behind empty pages."""
    counts, many = [0] * 6, 1020

    def work(number):
        connection = calm.app.connection()
        while sum(counts) < many:
            counts[number] += 1
            connection.request("POST", "/v1/run?wait=end", json.dumps({"mode": "saga", "steps": [step("orders", "select 1")]}),
                               {"Content-Type": "application/json"})
            assert json.loads(connection.getresponse().read())["state"] == "completed"
        connection.close()
    with concurrent.futures.ThreadPoolExecutor(len(counts)) as pool:
        for done in [pool.submit(work, number) for number in range(len(counts))]:
            done.result()
    last = saga(calm, [note("orders", fresh("w"), "a"), fails("balance", kind="pivot")])
    assert last.state == "compensated"

    def page(state, limit, after):
        answer = calm.app.request("GET", f"/v1/sagas?state={state}&limit={limit}" + (f"&after={after}" if after else ""))
        assert answer.status == 200, answer
        return [entry["saga"] for entry in answer.body["sagas"]], answer.body["next"]

    def walk(state, limit, between=lambda: None):
        found, after, pages = [], None, 0
        while pages == 0 or after is not None:
            names, after = page(state, limit, after)
            found, pages = found + names, pages + 1
            between() if pages == 2 else None
        return found, pages

    def again():
        saga(calm, [step("orders", "select 1")])
        calm.coordinator.kill()
        calm.heal()
    before = walk("completed", 500)[0]
    assert len(before) >= many and len(set(before)) == len(before)
    assert before == sorted(before, key=lambda name: [int(part) for part in name.split(".")[2:]])
    found, _ = walk("completed", 300, between=again)
    assert found[:len(before)] == before and len(found) == len(before) + 1, len(found)
    found, pages = walk("compensated", 100)
    assert found[-1] == last.saga and len(set(found)) == len(found) and pages > 1, (pages, len(found))


def test_barrier_rows_go_with_the_end(calm):
    answer = saga(calm, [note("orders", fresh("w"), "a"), note("balance", fresh("w"), "b")])
    rows = "select count(*) from lockstep.barrier where saga = %s"
    wait_until(lambda: all(calm.db[name].value(rows, answer.saga) == 0 for name in calm.db), 30, "its barrier rows are gone")


def test_the_same_document_as_2pc(calm):
    word = fresh("w")
    steps = [note("orders", word, "a"), note("balance", word, "b", kind="compensatable", attempts=3)]
    assert calm.app.run(steps).state == "committed"
    assert saga(calm, steps).state == "completed"
    assert notes(calm, word, "orders") == ["do a"] * 2
    assert calm.app.run(put(fresh(), "orders"), wait="end").status == 200
