"""Hazard: the client does not hear the answer and repeats: twice done, or told something else (design 4, Idempotency-Key).

Method: the connection is closed before the answer; the same key again with the same and with another document; after a restart
of the coordinator; after an abort; two at the same moment.
Seen if wrong: the effect twice; 200 for another document; another gtid for the same key.
"""

import json
import socket

import pytest

from harness.base import wait_until
from harness.system import fresh, put, step

NAMES = ("orders", "balance")


def send_and_leave(system, steps, word):
    """Writes the request and closes the connection without reading."""
    body = json.dumps({"mode": "2pc", "steps": steps}).encode()
    host, port = system.coordinator.address("api")
    raw = socket.create_connection((host, port))
    connection = system.app.context.wrap_socket(raw)
    connection.sendall(b"POST /v1/run HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nIdempotency-Key: " + word.encode() +
                       b"\r\nContent-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body)
    return connection


@pytest.mark.parametrize("restart", [False, True], ids=["same life", "after a restart"])
def test_client_gone_before_the_answer(proxied, restart):
    key, word = fresh(), fresh("idem")
    rule = proxied.pg["orders"].at("prepare transaction", "hold")
    connection = send_and_leave(proxied, put(key, *NAMES), word)
    rule.wait_hit()
    connection.close()
    rule.release()
    wait_until(lambda: proxied.count("orders", key) == 1, 10, "the transaction goes on without its client")
    proxied.agree(key, NAMES, "committed")
    if restart:
        proxied.coordinator.restart()
        proxied.wait_ready()
    again = proxied.app.run(put(key, *NAMES), key=word)
    assert again.status == 200 and again.state == "committed", again
    assert proxied.count("orders", key) == 1
    same = proxied.app.run(put(key, *NAMES), key=word)
    assert same.gtid == again.gtid


@pytest.mark.parametrize("restart", [False, True], ids=["same life", "after a restart"])
def test_same_key_other_document(shared, restart):
    word = fresh("idem")
    first = shared.app.run(put(fresh(), *NAMES), key=word)
    assert first.status == 200
    if restart:
        shared.coordinator.restart()
        shared.wait_ready()
    key = fresh()
    other = shared.app.run(put(key, *NAMES), key=word)
    assert other.status == 422, other
    assert shared.where(key) == set()


def test_key_belongs_to_the_identity(shared):
    """Another certificate may use the same key for its own."""
    word, key = fresh("idem"), fresh()
    assert shared.app.run(put(fresh(), *NAMES), key=word).status == 200
    other = shared.coordinator.app("billing").run(put(key, *NAMES), key=word)
    assert other.status == 200, other
    assert shared.where(key) == set(NAMES)


def test_key_of_an_aborted_run_may_run_again(shared):
    key, word, row = fresh(), fresh("idem"), fresh("row")
    steps = put(key, *NAMES) + [step("orders", "update item set v = v - 1 where k = $1", row, expect_rows=1)]
    first = shared.app.run(steps, key=word)
    assert first.status == 409, first
    shared.db["orders"].execute("insert into item(k, v) values (%s, 1)", row)
    second = shared.app.run(steps, key=word)
    assert second.status == 200, second
    assert shared.where(key) == set(NAMES)


def test_same_key_at_the_same_moment(proxied):
    """The second joins the first: one execution, one gtid."""
    key, word = fresh(), fresh("idem")
    rule = proxied.pg["orders"].at("prepare transaction", "hold")
    futures = [proxied.app.run_later(put(key, *NAMES), key=word)]
    rule.wait_hit()
    futures += [proxied.app.run_later(put(key, *NAMES), key=word) for _ in range(4)]
    other = proxied.app.run(put(fresh(), *NAMES), key=word)
    assert other.status == 422, other
    rule.release()
    answers = [future.result() for future in futures]
    assert {answer.status for answer in answers} == {200}, answers
    assert len({answer.gtid for answer in answers}) == 1, answers
    assert [proxied.count(name, key) for name in NAMES] == [1, 1]


def test_same_key_at_the_same_moment_one_participant(shared):
    key, word = fresh(), fresh("idem")
    steps = [step("orders", "insert into item(k, v) select $1, 1 from pg_sleep(0.3)", key)]
    futures = [shared.app.run_later(steps, key=word) for _ in range(5)]
    answers = [future.result() for future in futures]
    assert {answer.status for answer in answers} == {200}, answers
    assert len({answer.gtid for answer in answers}) == 1, answers
    assert shared.count("orders", key) == 1


def test_replay_gives_outcome_and_gtid_not_rows(shared):
    key, word = fresh(), fresh("idem")
    steps = [step(name, "insert into item(k, v) values ($1, 1) returning k", key) for name in NAMES]
    first = shared.app.run(steps, key=word)
    again = shared.app.run(steps, key=word)
    assert (again.status, again.gtid, again.state) == (200, first.gtid, "committed"), again
    assert not (again.body.get("results") or []), again


def test_key_of_a_read_only_run(shared):
    """Nothing is logged for it: a repeat may run again, and is content either way."""
    word = fresh("idem")
    steps = [step(name, "select 1 as one") for name in NAMES]
    assert shared.app.run(steps, key=word).status == 200
    assert shared.app.run(steps, key=word).status == 200


@pytest.mark.parametrize("word,status", [("a", 200), ("k" * 255, 200), ("k" * 256, 400), ("", 400), ("ä", 400), ("a\tb", 400)])
def test_key_at_its_edges(shared, word, status):
    answer = shared.app.request("POST", "/v1/run", {"mode": "2pc", "steps": put(fresh(), *NAMES)},
                                {"Idempotency-Key": word.encode("utf-8").decode("latin-1")})
    assert answer.status == status, answer


def test_spelling_of_the_document_decides(shared):
    """The hash is of the document as sent: a client that repeats sends the same bytes."""
    key, word = fresh(), fresh("idem")
    body = json.dumps({"mode": "2pc", "steps": put(key, *NAMES)})
    headers = {"Idempotency-Key": word}
    assert shared.app.request("POST", "/v1/run", body, headers).status == 200
    assert shared.app.request("POST", "/v1/run", body, headers).status == 200
    assert shared.count("orders", key) == 1
