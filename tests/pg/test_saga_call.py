"""Hazard: a saga's step at an HTTP service is lost, done twice, undone without being done, or makes the coordinator call what nobody allowed.

Method: sagas whose steps are calls to a real HTTP service (harness/service.py, with lockstep.barrier in its database): it answers, refuses,
hangs, is down, answers too much, redirects, shows a bad certificate, does its work and loses the answer; the coordinator is killed between
call and answer (S2, S3, S5, S8, S17).
Seen if wrong: a payment twice, one that stays after `compensated`, another key for a repeated call, a call to another address.
"""

import json
import os
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.base import folder, stays_true, wait_until
from harness.programs import command, free_port
from harness.service import TABLE, PaymentService
from harness.system import System, fresh
from test_crash_points import settle, start_with
from test_saga_flow import JOURNAL, ended, fails, note, notes, saga


REFUSED = {"Lockstep-Refused": "1"}


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
    assert calm.service.seen(answer.saga, "do")[0][1]["Lockstep-App"] == "app/checkout"


def test_the_command_shows_calls_and_kinds_of_one_that_has_ended(calm):
    answer = saga(calm, [note("orders", fresh("w"), "a"), pay(kind="pivot", undo=False), note("orders", fresh("w"), "c", undo=False)])
    assert answer.state == "completed", answer
    shown = calm.app.request("GET", f"/v1/sagas/{answer.saga}")
    assert [step["kind"] for step in shown.body["steps"]] == ["compensatable", "pivot", "retriable"], shown
    lines = command("saga", "show", answer.saga, coordinator=calm.coordinator).stdout.splitlines()
    assert any("call pay" in line and "pivot" in line and "done" in line for line in lines), lines


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
    answer = saga(calm, [note("orders", word, "a"), pay(attempts=2, deadline="1s")], deadline="3s", wait=None)
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
            handler.answer(409, **REFUSED)
        return True
    name = []
    calm.service.before = before
    answer = saga(calm, [note("orders", word, "a"), pay(undo=False, kind="pivot"), note("orders", word, "r", undo=False)], wait=None, deadline="1s")
    name.append(answer.saga)
    final = ended(calm, answer.saga)
    assert final.state == "compensated" and "deadline" in final.reason and notes(calm, word) == ["do a", "undo a"], final


@pytest.mark.parametrize("header", [{"Retry-After": "1"}, {"Lockstep-Retry": "1"}])
def test_409_that_asks_to_be_tried_again(calm, header):
    asked = []

    def before(op, handler):
        asked.append(op)
        if len(asked) == 1:
            handler.answer(409, **header)
        return len(asked) == 1
    calm.service.before = before
    answer = saga(calm, [pay()])
    assert answer.state == "completed" and payments(calm, answer.saga) == [(30, "paid")] and asked == ["do", "do"], answer


def test_pivot_that_is_still_being_worked_on(calm):
    """Called again while the first call is at work, many services say 409: the saga must not turn while the money goes (S17)."""
    word, gate, asked = fresh("w"), threading.Event(), []

    def before(op, handler):
        asked.append(op)
        if len(asked) == 1:
            gate.wait(30)
        elif not payments(calm, handler.headers["Lockstep-Saga"]):
            handler.answer(409, b'{"error": "a request with this Idempotency-Key is in progress"}')
            if len(asked) == 4:
                gate.set()
            return True
    calm.service.before = before
    answer = saga(calm, [note("orders", word, "a"), pay(undo=False, kind="pivot", deadline="300ms", attempts=50), note("orders", word, "r", undo=False)], wait=None)
    final = ended(calm, answer.saga, 60)
    assert final.state == "completed" and notes(calm, word) == ["do a", "do r"] and payments(calm, answer.saga) == [(30, "paid")], final
    assert len(asked) >= 4


@pytest.mark.parametrize("word_,state", [("skip", "completed"), ("refuse", "compensated")])
def test_pivot_that_never_answers(calm, word_, state):
    """It wants to turn and its pivot never says what it did: an operator who has found out does."""
    word = fresh("w")

    def before(op, handler):
        handler.close_connection = True
        return True
    calm.service.before = before
    steps = [note("orders", word, "a"), pay(undo=False, kind="pivot", attempts=2), note("orders", word, "r", undo=False)]
    answer = saga(calm, steps, wait=None)
    assert ended(calm, answer.saga).state == "stuck"

    def say(what):
        return calm.admin.request("POST", f"/v1/dlq/{answer.saga}/{what}", {"reason": "asked there"})
    assert say("compensate").status in (200, 202)  # asked again: no word in the matter
    final = ended(calm, answer.saga)
    assert final.state == "stuck" and final.body["turning"], final
    assert say(word_).status in (200, 202)
    final = ended(calm, answer.saga)
    assert final.state == state and notes(calm, word) == (["do a", "do r"] if state == "completed" else ["do a", "undo a"]), final
    assert say("refuse").status == 404  # it is not open any more


def test_refuse_is_for_pivots_at_services_only(calm):
    answer = saga(calm, [fails("orders", kind="retriable", attempts=1)], wait=None)
    assert ended(calm, answer.saga).state == "stuck"
    refused = calm.admin.request("POST", f"/v1/dlq/{answer.saga}/refuse", {"reason": "test"})
    assert refused.status == 409 and refused.code == "not_possible", refused
    calm.admin.request("POST", f"/v1/dlq/{answer.saga}/skip", {"reason": "test"})


def test_reference_that_is_gone_after_a_start(calm):
    """The pivot was called by an earlier life. That this one cannot make its body is not the service's no."""
    word, paid, kept = fresh("w"), [], [b'{"id": 7}', b'{"status": "duplicate"}']

    def before(op, handler):
        if handler.path == "/ask":
            handler.answer(200, kept.pop(0))
            return True
        if op == "do":
            paid.append(handler.headers["Idempotency-Key"])
            calm.coordinator.process.kill()
            return True
    calm.service.before = before
    steps = [note("orders", word, "a"), {"call": "pay", "name": "ask", "do": {"path": "/ask"}, "undo": {"path": "/ask/undo"}},
             pay(body={"id": {"ref": "ask.result.id"}}, undo=False, kind="pivot")]
    answer = saga(calm, steps, wait=None)
    wait_until(lambda: paid, 20, "the pivot was called")
    calm.coordinator.process.wait()
    calm.heal()
    final = ended(calm, answer.saga)
    assert final.state == "stuck" and 'no "id"' in final.reason and notes(calm, word) == ["do a"], final
    calm.service.before = lambda op, handler: None
    assert calm.admin.request("POST", f"/v1/dlq/{answer.saga}/skip", {"reason": "it was paid"}).status in (200, 202)
    assert ended(calm, answer.saga).state == "completed" and notes(calm, word) == ["do a"]


def answering(calm, body):
    def before(op, handler):
        if op == "do" and handler.path == "/pay":
            handler.answer(200, body)
            return True
    calm.service.before = before


@pytest.mark.parametrize("field", ["price", "deep"])
def test_decimals_come_as_strings(calm, field):
    """30.10 is a double here, and would leave as 30.100000000000001."""
    word = fresh("w")
    answering(calm, b'{"price": 30.10, "deep": {"list": [1, 0.1]}, "text": "30.10"}')

    def refers(name):
        action = {"sql": "insert into journal(saga, what) values ($1, $2)", "args": [word, {"ref": f"pay.result.{name}"}]}
        return {"on": "orders", "do": action, "undo": {"sql": "select 1"}}
    answer = saga(calm, [note("orders", word, "a"), pay(), refers(field)])
    assert answer.state == "compensated" and "decimals have to come as strings" in answer.reason and notes(calm, word) == ["do a", "undo a"], answer
    answer = saga(calm, [pay(), refers("text")])
    assert answer.state == "completed" and notes(calm, word, "orders")[-1] == "30.10", answer


def test_body_that_references_make_too_large(calm):
    word = fresh("w")
    answering(calm, json.dumps({"x": "y" * 60000}).encode())
    body = {f"a{n}": {"ref": "pay.result.x"} for n in range(700)}
    answer = saga(calm, [note("orders", word, "a"), pay(), {"call": "pay", "do": {"path": "/large", "body": body}, "undo": {"path": "/pay/undo"}}])
    assert answer.state == "compensated" and "limits.body" in answer.reason and notes(calm, word) == ["do a", "undo a"], answer
    assert not [1 for _, headers, _ in calm.service.requests if headers["Idempotency-Key"] == f"{answer.saga}:2:do"]


def test_answers_are_kept_within_bounds(calm):
    """What nobody refers to is kept for the client up to limits.result_bytes; what is referred to must fit."""
    answering(calm, json.dumps({"x": "y" * 60000}).encode())
    calls = [{"call": "pay", "do": {"path": "/pay"}, "undo": {"path": "/pay/undo"}} for _ in range(30)]
    answer = saga(calm, calls)
    kept = [entry for entry in answer.body["results"] if "result" in entry]
    assert answer.state == "completed" and len(answer.body["results"]) == 30 and len(kept) == 1048576 // 60008, (answer.state, len(kept))
    refers = [{"call": "pay", "name": f"c{n}", "attempts": 1, "do": {"path": "/pay", "body": {"all": {"ref": f"c{n - 1}.result.x"}} if n else {}},
               "undo": {"path": "/pay/undo"}} for n in range(30)]
    answer = saga(calm, refers, wait=None)
    final = ended(calm, answer.saga)
    assert final.state == "stuck" and "limits.result_bytes" in final.reason, final
    assert calm.admin.request("POST", f"/v1/dlq/{answer.saga}/compensate", {"reason": "test"}).status in (200, 202)
    assert ended(calm, answer.saga).state == "compensated"


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
        ({"call": "pay", "do": {"path": "/pay", "body": {"a": {"json": {"b": [1, 30.10]}}}}}, "wrong_type", "steps[0].do.body.a"),
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


def reload(system, words):
    coordinator = system.coordinator
    before = coordinator.log_text().count(words)
    coordinator.write_config()
    coordinator.process.send_signal(signal.SIGHUP)
    wait_until(lambda: coordinator.log_text().count(words) > before, 20, f"the log says `{words}`")


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
        # the file has another content after SIGHUP: nothing of the old one is remembered
        file = os.path.join(folder.make("authorities"), "ca.pem")
        shutil.copy(other.ca, file)
        made.coordinator.config["calls"]["ca"] = file
        reload(made, "certificates and limits reloaded")
        assert saga(made, [{**pay(), "call": "stranger"}]).state == "completed"
        shutil.copy(made.authority.ca, file)
        reload(made, "certificates and limits reloaded")
        assert saga(made, [{**pay(), "call": "good"}]).state == "completed"
        answer = saga(made, [{**pay(attempts=1), "call": "stranger"}], wait=None)
        assert ended(made, answer.saga).state == "stuck"
        # one that cannot be read is refused, at the start as well
        os.unlink(file)
        reload(made, "not reloaded")
        assert saga(made, [{**pay(), "call": "good"}]).state == "completed"
        made.coordinator.stop()
        for key in ("ca", "certificate"):
            made.coordinator.config["calls"].update({key: file, **({"key": file} if key == "certificate" else {})})
            made.coordinator.spawn()
            assert made.coordinator.wait_exit() == 78 and file in made.coordinator.log_text(), made.coordinator.log_text()
            made.coordinator.config["calls"]["ca"] = made.authority.ca
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


def test_calls_wait_for_a_place(calm):
    """More calls than limits.calls: no more than that many leave, the rest wait in their order; other services are not held up by one that hangs."""
    limits, gate, other = calm.coordinator.config["limits"], threading.Event(), PaymentService(calm.service.conninfo)
    services = calm.coordinator.config["calls"]["services"]
    services["other"] = other.url()
    limits["calls"] = 8
    reload(calm, "certificates and limits reloaded")
    calm.service.before = lambda op, handler: gate.wait(60) and False
    try:
        before = len(calm.service.requests)
        names = [saga(calm, [pay(deadline="60s")], wait=None).saga for _ in range(30)]
        wait_until(lambda: len(calm.service.requests) == before + 8, 20, "as many as may have left")
        stays_true(lambda: len(calm.service.requests) == before + 8 and calm.coordinator.livez(), 0.5, "no more than that")
        gate.set()
        for name in names:
            assert ended(calm, name, 60).state == "completed"
        came = [headers["Lockstep-Saga"] for _, headers, _ in calm.service.requests[before:]]
        assert {name: came.index(name) // 8 for name in names[:16]} == {name: n // 8 for n, name in enumerate(names[:16])}, came
        # one hangs with all its connections: there is room for others
        limits["calls"] = 100
        reload(calm, "certificates and limits reloaded")
        gate.clear()
        names = [saga(calm, [pay(deadline="60s")], wait=None).saga for _ in range(120)]
        assert saga(calm, [{**pay(), "call": "other"}], deadline="30s").state == "completed"
        gate.set()
        for name in names:
            assert ended(calm, name, 60).state == "completed"
    finally:
        gate.set()
        other.stop()
        del limits["calls"], services["other"]
        reload(calm, "certificates and limits reloaded")


def test_thousands_of_calls(calm):
    """2,000 calls at a service that does not answer: the coordinator does, and their sagas can be given up."""
    gate, worst = threading.Event(), [0.0]
    calm.service.before = lambda op, handler: gate.wait(60)
    calls = [{"call": "pay", "after": [], "deadline": "30s", "do": {"path": "/pay"}, "undo": {"path": "/pay/undo"}} for _ in range(200)]

    def look():
        began = time.monotonic()
        calm.admin.request("GET", "/livez", timeout=60)
        worst[0] = max(worst[0], time.monotonic() - began)
    names = []
    for _ in range(10):
        names.append(saga(calm, calls, wait=None).saga)
        look()
    with ThreadPoolExecutor(len(names)) as pool:  # each waits for the end
        answers = [pool.submit(calm.admin.request, "POST", f"/v1/sagas/{name}/cancel") for name in names]
        wait_until(lambda: look() or all(calm.admin.request("GET", f"/v1/sagas/{name}").state == "compensating" for name in names), 30, "all turn")
        calm.service.before = lambda op, handler: handler.answer(200) or True
        gate.set()
        assert {answer.result().status for answer in answers} <= {200, 202}
    for name in names:
        assert ended(calm, name, 90).state == "compensated"
        look()
    assert worst[0] < 5, f"the loop stood still for {worst[0]:.1f} s"
