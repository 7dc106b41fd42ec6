"""Hazard: a saga's step at an HTTP service is lost, done twice, undone without being done, or makes the coordinator call what nobody allowed.

Method: sagas whose steps are calls to a real HTTP service (harness/service.py, with lockstep.barrier in its database): it answers, refuses,
hangs, is down, answers too much, redirects, shows a bad certificate, does its work and loses the answer; the coordinator is killed between
call and answer (S2, S3, S5, S8, S17).
Seen if wrong: a payment twice, one that stays after `compensated`, another key for a repeated call, a call to another address.
"""

import threading
import time

import pytest

from harness.base import stays_true, wait_until
from harness.programs import free_port
from harness.service import TABLE, PaymentService
from harness.system import System, fresh
from test_crash_points import settle, start_with
from test_saga_flow import JOURNAL, ended, fails, note, notes, saga


@pytest.fixture(scope="module")
def world():
    port = free_port()
    made = System({"orders": 0, "balance": 0}, coordinator={
        "limits": {"deadline": "5s", "lock_timeout": "2s"}, "diag": {"level": "debug"},
        "calls": {"services": {"pay": f"http://localhost:{port}/", "nobody": f"http://localhost:{free_port()}"}}},
        agents={"sweep": {"interval": "1s"}})
    for database in made.db.values():
        database.execute(JOURNAL)
    made.db["balance"].execute(TABLE)
    made.service = PaymentService(made.db["balance"].conninfo("checkout"), port)
    yield made
    made.service.stop()
    made.close()


@pytest.fixture
def calm(world):
    world.service.before = world.service.after = lambda op, handler: None
    world.heal()
    yield world
    world.service.before = world.service.after = lambda op, handler: None
    if world.service.server is None:
        world.service.start()
    world.heal()


def pay(amount=30, **more):
    action = {"path": "/pay", "body": {"amount": amount, **more.pop("body", {})}}
    return {"call": "pay", "name": "pay", "do": action, **({"undo": {"path": "/pay/undo"}} if more.pop("undo", True) else {}), **more}


def payments(system, name):
    return system.db["balance"].query("select amount, state from payment where saga = %s order by id", name)


def keys(calls):
    return {headers["Idempotency-Key"] for _, headers, _ in calls}


def test_completed_with_its_result(calm):
    """What an SQL step returned goes into the call with its type, what the call answered into an SQL step."""
    word = fresh("w")
    first = {"on": "orders", "name": "order", "do": {"sql": "insert into journal(saga, what) values ($1, 'order') returning id", "args": [word]},
             "undo": {"sql": "select 1"}}
    last = {"on": "orders", "do": {"sql": "insert into journal(saga, what) values ($1, $2)", "args": [word, {"ref": "pay.result.id"}]}}
    answer = saga(calm, [first, pay(body={"order": {"ref": "order.rows.0.id"}, "list": {"json": [1, {"a": None}]}}), last])
    assert answer.status == 200 and answer.state == "completed", answer
    number = calm.db["orders"].value("select id from journal where saga = %s and what = 'order'", word)
    paid = calm.db["balance"].value("select id from payment where saga = %s", answer.saga)
    assert calm.service.seen(answer.saga, "do")[0][2] == {"amount": 30, "order": number, "list": [1, {"a": None}]}
    assert notes(calm, word, "orders") == ["order", str(paid)]
    assert answer.body["results"][1]["result"] == {"id": paid, "amount": 30}
    shown = calm.app.request("GET", f"/v1/sagas/{answer.saga}")
    assert shown.body["steps"][1]["call"] == "pay" and shown.body["steps"][1]["state"] == "done", shown
    assert keys(calm.service.seen(answer.saga, "do")) == {f"{answer.saga}:pay:do"}


def test_409_is_a_business_error(calm):
    """Its `undo` is called too: a service may have done half of it (S5)."""
    word = fresh("w")
    answer = saga(calm, [note("orders", word, "a"), pay(5000), note("orders", word, "c", undo=False)])
    assert answer.status == 409 and answer.state == "compensated" and "not enough money" in answer.reason and answer.body["step"] == 1, answer
    assert notes(calm, word) == ["do a", "undo a"] and payments(calm, answer.saga) == []
    assert len(calm.service.seen(answer.saga, "do")) == 1 and len(calm.service.seen(answer.saga, "undo")) == 1


def test_undone_in_reverse(calm):
    word = fresh("w")
    answer = saga(calm, [note("orders", word, "a"), {**pay(), "undo": {"path": "/pay/undo", "body": {"id": {"ref": "pay.result.id"}}}},
                         note("orders", word, "b"), fails("orders", kind="pivot")])
    assert answer.state == "compensated", answer
    assert notes(calm, word) == ["do a", "do b", "undo b", "undo a"] and payments(calm, answer.saga) == [(30, "paid back")]
    number = calm.db["balance"].value("select id from payment where saga = %s", answer.saga)
    assert calm.service.seen(answer.saga, "undo")[0][2] == {"id": number}
    assert keys(calm.service.seen(answer.saga, "undo")) == {f"{answer.saga}:pay:undo"}


def test_errors_and_lost_answers_are_retried_with_the_same_key(calm):
    """500, then done with the answer lost, then a redirect, which is not followed: paid once (S1)."""
    count = []

    def before(op, handler):
        count.append(op)
        if len(count) == 1:
            handler.answer(500)
        if len(count) == 3:
            handler.answer(302, Location=calm.service.url() + "/elsewhere")
        return len(count) in (1, 3)

    def after(op, handler):
        handler.close_connection = True
        return len(count) == 2  # done, and nothing is said
    calm.service.before, calm.service.after = before, after
    answer = saga(calm, [pay()])
    assert answer.state == "completed" and payments(calm, answer.saga) == [(30, "paid")], answer
    calls = calm.service.seen(answer.saga, "do")
    assert len(calls) == 4 and len(keys(calls)) == 1, calls
    failures = calm.app.request("GET", f"/v1/sagas/{answer.saga}").body
    assert failures["steps"][0]["attempts"] >= 3, failures  # libcurl by itself repeats on a kept connection that was closed without a word
    assert "/elsewhere" not in str(calls)


def test_hung_service(calm):
    """The step's deadline ends the attempt; the attempt that hung acts behind the `undo`, and is refused (S3, S17)."""
    word, gate, hung = fresh("w"), threading.Event(), []

    def before(op, handler):
        if op == "do":
            hung.append(time.monotonic())
            gate.wait(30)
    calm.service.before = before
    answer = saga(calm, [note("orders", word, "a"), pay(attempts=2, deadline="200ms")], deadline="600ms", wait=None)
    final = ended(calm, answer.saga)
    if final.state == "stuck":  # the attempts were used up before the deadline
        assert calm.admin.request("POST", f"/v1/dlq/{answer.saga}/compensate", {"reason": "test"}).status in (200, 202)
        final = ended(calm, answer.saga)
    assert final.state == "compensated" and notes(calm, word) == ["do a", "undo a"], final
    gate.set()
    wait_until(lambda: calm.db["balance"].value("select count(*) from pg_stat_activity where usename = 'checkout' and state <> 'idle'") == 0, 10,
               "what hung has come to its end")
    assert hung and payments(calm, answer.saga) == []


def test_service_down(calm):
    """Nobody listens: no attempt is used up; it goes on when the service is back."""
    word = fresh("w")
    calm.service.stop()
    answer = saga(calm, [note("orders", word, "a"), pay(attempts=1)], wait=None)
    shown = {}

    def tried():
        shown["last"] = calm.app.request("GET", f"/v1/sagas/{answer.saga}").body
        return shown["last"]["steps"][1]["attempts"] >= 3
    wait_until(tried, 20, lambda: f"it was tried again and again: {shown}")
    assert shown["last"]["state"] == "running" and "did not answer" in shown["last"]["failures"][0]["reason"], shown
    calm.service.start()
    assert ended(calm, answer.saga, 40).state == "completed" and payments(calm, answer.saga) == [(30, "paid")]


def test_huge_answers(calm):
    """A body without end is cut at the limit. What nobody refers to is done all the same; what is referred to is no answer."""
    def after(op, handler):
        handler.send_response(200)
        handler.end_headers()
        handler.close_connection = True
        try:
            while True:
                handler.wfile.write(b"x" * 65536)
        except OSError:
            return True
    calm.service.after = after
    answer = saga(calm, [pay()])
    assert answer.state == "completed" and answer.body["results"] == [{"step": 0, "name": "pay"}], answer
    refers = {"on": "orders", "do": {"sql": "select $1::text", "args": [{"ref": "pay.result.id"}]}}
    answer = saga(calm, [pay(attempts=2), refers], wait=None)
    final = ended(calm, answer.saga)
    assert final.state == "stuck" and "limits.call_answer" in final.reason, final
    calm.service.after = lambda op, handler: None
    assert calm.admin.request("POST", f"/v1/dlq/{answer.saga}/retry", {"reason": "mended"}).status in (200, 202)
    assert ended(calm, answer.saga).state == "completed" and payments(calm, answer.saga) == [(30, "paid")]


def test_huge_headers(calm):
    def after(op, handler):
        handler.answer(200, **{f"X-{n}": "y" * 8000 for n in range(20)})
        return True
    calm.service.after = after
    assert saga(calm, [pay()]).state == "completed"  # 200 was heard


def test_pivot_without_an_answer_is_asked_again(calm):
    """The deadline passes while the pivot's answer is lost: whether it has happened decides where the saga goes (S17)."""
    word, lost = fresh("w"), []

    def after(op, handler):
        handler.close_connection = True
        lost.append(op)
        return len(lost) == 1
    calm.service.after = after

    def before(op, handler):
        if lost:  # asked again: not before the deadline has passed
            wait_until(lambda: calm.admin.request("GET", f"/v1/sagas/{name[0]}").body.get("turning"), 10, "it wants to turn")
    name = []
    calm.service.before = before
    answer = saga(calm, [note("orders", word, "a"), pay(undo=False, kind="pivot"), note("orders", word, "r", undo=False)], wait=None, deadline="1s")
    name.append(answer.saga)
    assert ended(calm, answer.saga).state == "completed" and notes(calm, word) == ["do a", "do r"]
    assert payments(calm, answer.saga) == [(30, "paid")]


def test_pivot_that_says_no_when_asked_again(calm):
    word, asked = fresh("w"), []

    def before(op, handler):
        asked.append(op)
        if len(asked) == 1:
            handler.close_connection = True  # nothing done, nothing said
        else:
            wait_until(lambda: calm.admin.request("GET", f"/v1/sagas/{name[0]}").body.get("turning"), 10, "it wants to turn")
            handler.answer(409)
        return True
    name = []
    calm.service.before = before
    answer = saga(calm, [note("orders", word, "a"), pay(undo=False, kind="pivot"), note("orders", word, "r", undo=False)], wait=None, deadline="1s")
    name.append(answer.saga)
    final = ended(calm, answer.saga)
    assert final.state == "compensated" and "deadline" in final.reason and notes(calm, word) == ["do a", "undo a"], final


def test_a_pivot_that_says_no(calm):
    word = fresh("w")
    answer = saga(calm, [note("orders", word, "a"), pay(5000, undo=False, kind="pivot"), note("orders", word, "r", undo=False)])
    assert answer.state == "compensated" and notes(calm, word) == ["do a", "undo a"], answer
    assert calm.service.seen(answer.saga, "undo") == []


def paid_once(calm, steps, key, word, way):
    """After the crash: asked again under the same key, the saga has ended its way, and the service was paid once. The calls of `do`."""
    calm.heal()
    answer = calm.run(steps, deadline=20, key=key, mode="saga", wait="end")
    assert answer.state == ("completed" if way == "forward" else "compensated"), answer
    assert notes(calm, word) == (["do a", "do b"] if way == "forward" else ["do a", "undo a"])
    assert payments(calm, answer.saga) == [(30, "paid" if way == "forward" else "paid back")]
    calls = calm.service.seen(answer.saga, "do")
    assert len(keys(calls)) == 1, calls
    return calls


@pytest.mark.parametrize("point", ["saga_call_sent", "saga_call_answered"])
@pytest.mark.parametrize("way", ["forward", "back"])
def test_coordinator_killed_between_call_and_answer(calm, point, way):
    """kill -9 with a call on its way, or answered and not noted: called again with the same key, paid once (S8)."""
    word, key = fresh("w"), fresh("idem")
    steps = [note("orders", word, "a"), pay(), note("orders", word, "b", undo=False) if way == "forward" else fails("orders", kind="pivot")]
    start_with(calm, calm.coordinator, point, "kill")
    future = calm.app.run_later(steps, key=key, mode="saga", wait="end")
    assert calm.coordinator.wait_exit() == -9, f"{point} was not reached"
    settle(future)
    calls = paid_once(calm, steps, key, word, way)
    assert len(calls) >= (1 if point == "saga_call_sent" else 2), calls


@pytest.mark.parametrize("way", ["forward", "back"])
def test_coordinator_killed_while_the_service_works(calm, way):
    word, key, gate, there = fresh("w"), fresh("idem"), threading.Event(), threading.Event()

    def before(op, handler):
        there.set()
        gate.wait(30)
    calm.service.before = before
    steps = [note("orders", word, "a"), pay(), note("orders", word, "b", undo=False) if way == "forward" else fails("orders", kind="pivot")]
    future = calm.app.run_later(steps, key=key, mode="saga", wait="end")
    assert there.wait(20), "the call has come"
    calm.coordinator.kill()
    settle(future)
    gate.set()
    calls = paid_once(calm, steps, key, word, way)
    assert len(calls) >= 2, calls


def test_killed_while_it_compensates(calm):
    """The next life calls `undo` for a step whose `do` it knows nothing about; of one that never came, too (S2)."""
    word, key = fresh("w"), fresh("idem")
    steps = [note("orders", word, "a"), pay(), {**pay(), "name": "again"}, fails("orders", kind="pivot")]
    start_with(calm, calm.coordinator, "saga_turn_durable", "kill")
    future = calm.app.run_later(steps, key=key, mode="saga", wait="end")
    assert calm.coordinator.wait_exit() == -9, "the turn was not reached"
    settle(future)
    calm.heal()
    answer = calm.run(steps, deadline=20, key=key, mode="saga", wait="end")
    assert answer.state == "compensated" and notes(calm, word) == ["do a", "undo a"], answer
    assert payments(calm, answer.saga) == [(30, "paid back")] * 2


def test_rows_of_the_service_go_with_the_end(calm):
    answer = saga(calm, [pay()])
    rows = "select count(*) from lockstep.barrier where saga = %s"
    wait_until(lambda: calm.db["balance"].value(rows, answer.saga) == 0, 30, "the service's barrier row is gone")


def test_bad_documents(calm):
    cases = [
        ({**pay(), "call": "elsewhere"}, "unknown_service", "steps[0].call"),
        ({**pay(), "call": "http://localhost/"}, "unknown_service", "steps[0].call"),
        ({**pay(), "call": {"url": "http://localhost/"}}, "wrong_type", "steps[0].call"),
        ({**pay(), "on": "orders"}, "invalid_value", "steps[0].on"),
        ({"call": "pay", "do": {"sql": "select 1"}}, "unknown_field", "steps[0].do.sql"),
        ({"call": "pay", "do": {}}, "missing_field", "steps[0].do.path"),
        ({"call": "pay", "do": {"path": "/pay", "body": [1]}}, "wrong_type", "steps[0].do.body"),
        ({"call": "pay", "do": {"path": "/pay", "body": {"a": 1.5}}}, "wrong_type", "steps[0].do.body.a"),
        ({"call": "pay", "do": {"path": "/pay", "body": {"a": {"ref": "b.result"}}}}, "invalid_value", "steps[0].do.body.a"),
        *[({"call": "pay", "do": {"path": path}}, "invalid_value", "steps[0].do.path")
          for path in ("", "pay", "//pay", "/pay/../x", "/./x", "/pay?x=1", "/pay#x", "/pay%2e", "/@localhost", "/pay\\x", "/pay\r\nX: y")],
    ]
    for step, code, path in cases:
        answer = saga(calm, [step])
        assert (answer.status, answer.code, answer.path) == (400, code, path), (step, answer)
    sql_undo = {"on": "orders", "do": {"sql": "select 1"}, "undo": {"sql": "select $1::text", "args": [{"ref": "pay.result.id"}]}}
    answer = saga(calm, [pay(), sql_undo])
    assert answer.status == 400 and answer.path == "steps[1].undo.args[0]" and "lost" in answer.message, answer
    answer = calm.app.run([pay()])
    assert answer.status == 400 and answer.path == "steps[0].call", answer


def test_a_service_that_was_taken_away(calm):
    """It is configured no more while a saga waits for it: a dead letter that says so, not a coordinator that does not start."""
    word = fresh("w")
    answer = saga(calm, [note("orders", word, "a"), {**pay(attempts=2), "call": "nobody"}], wait=None)
    wait_until(lambda: notes(calm, word) == ["do a"], 10, "the first step is done")
    services = calm.coordinator.config["calls"]["services"]
    gone = services.pop("nobody")
    calm.coordinator.kill()
    calm.heal()
    final = ended(calm, answer.saga)
    assert final.state == "stuck" and "configured any more" in final.reason, final
    services["nobody"] = gone
    calm.coordinator.kill()
    calm.heal()
    for word_ in ("skip", "compensate"):
        calm.admin.request("POST", f"/v1/dlq/{answer.saga}/{word_}", {"reason": "test"})


def test_certificates():
    """https: a service of our authority is called; one of another authority, of another name or past its time is not."""
    made = System({"orders": 0}, coordinator={"limits": {"deadline": "5s"}}, start=False)
    made.db["orders"].execute(TABLE)
    other = type(made.authority)("another authority")
    day = type(made.authority.certificate.not_valid_after - made.authority.certificate.not_valid_before)(days=1)
    certificates = {"good": made.authority.issue("good", []), "stranger": other.issue("stranger", []),
                    "misnamed": made.authority.issue("misnamed", [], dns=("example.org",)), "old": made.authority.issue("old", [], end=-day / 2)}
    services = {name: PaymentService(made.db["orders"].conninfo("checkout"), files=files) for name, files in certificates.items()}
    made.coordinator.config["calls"] = {"ca": made.authority.ca, "services": {name: service.url("https") for name, service in services.items()}}
    try:
        made.start()
        assert saga(made, [{**pay(), "call": "good"}]).state == "completed"
        for name in ("stranger", "misnamed", "old"):
            answer = saga(made, [{**pay(attempts=2), "call": name}], wait=None)
            final = ended(made, answer.saga)
            assert final.state == "stuck" and "SSL" in final.reason, (name, final)
            assert services[name].requests == [], name
    finally:
        for service in services.values():
            service.stop()
        made.close()


def test_one_hung_service_holds_up_no_other(calm):
    """As many calls as there are connections hang; a saga without that service goes its way, and so does the coordinator."""
    gate = threading.Event()
    calm.service.before = lambda op, handler: gate.wait(30) and False
    hung = [saga(calm, [pay(deadline="20s")], wait=None).saga for _ in range(70)]
    wait_until(lambda: len(calm.service.requests) >= 64, 20, "the connections are in use")
    word = fresh("w")
    assert saga(calm, [note("orders", word, "a")]).state == "completed"
    assert stays_true(calm.coordinator.livez, 0.3, "the coordinator answers") is None
    gate.set()
    for name in hung:
        assert ended(calm, name, 40).state == "completed"
