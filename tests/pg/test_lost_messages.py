"""Hazard: a message between agent and server, or agent and coordinator, is lost, late or doubled, and the silence is taken for an answer
(hazards 1.1, 1.4, 1.5, C1, C2, C6).

Method: proxies lose requests or answers, hold them, deliver them twice, break the link, or swallow everything without closing.
Seen if wrong: "does not exist" taken for done; a prepared orphan; a branch committed after its transaction was aborted.
"""

import pytest

from harness.base import stays_true, wait_until
from harness.system import fresh, put, step

NAMES = ("orders", "balance")


def finished(system, answer, expected=None):
    """The outcome of an answer that may be 202."""
    if answer.status == 202:
        answer = system.app.wait_state(answer.gtid, ("committed", "aborted"))
    assert expected is None or answer.state == expected, answer
    return answer.state


def test_lost_reply_of_prepare(proxied):
    """Prepared, and nobody knows: the vote is lost, so the transaction aborts and the branch must not stay behind."""
    key = fresh()
    rule = proxied.pg["orders"].at("prepare transaction", "lose_reply")
    answer = proxied.app.run(put(key, *NAMES))
    rule.wait_done()
    assert finished(proxied, answer) == "aborted"
    proxied.agree(key, NAMES, "aborted")
    proxied.alive()


def test_lost_prepare(proxied):
    key = fresh()
    proxied.pg["orders"].at("prepare transaction", "reset")
    assert finished(proxied, proxied.app.run(put(key, *NAMES))) == "aborted"
    proxied.agree(key, NAMES, "aborted")


def test_lost_reply_of_commit_prepared(proxied):
    """Committed, and nobody knows; asked again PostgreSQL says "does not exist": only the proof may say done."""
    key = fresh()
    rule = proxied.pg["orders"].at("commit prepared", "lose_reply")
    answer = proxied.app.run(put(key, *NAMES))
    rule.wait_done()
    assert answer.status == 200 and answer.state == "committed", answer
    assert finished(proxied, proxied.app.get(answer.gtid, for_="applied", timeout="10s"), "committed")
    assert proxied.app.get(answer.gtid).applied is True
    proxied.agree(key, NAMES, "committed")


def test_lost_commit_prepared(proxied):
    key = fresh()
    rule = proxied.pg["orders"].at("commit prepared", "reset", times=3)
    answer = proxied.app.run(put(key, *NAMES))
    assert rule.hit() and answer.state == "committed", answer
    proxied.agree(key, NAMES, "committed")


def test_lost_reply_of_rollback_prepared(proxied):
    key = fresh()
    rule = proxied.pg["orders"].at("rollback prepared", "lose_reply")
    answer = proxied.app.run(put(key, *NAMES) + [step("balance", "select 1/0 from pg_sleep(0.3)")])
    assert answer.status == 409, answer
    rule.wait_done()
    proxied.agree(key, NAMES, "aborted")


@pytest.mark.parametrize("statement", ["prepare transaction", "commit prepared"])
def test_server_does_not_answer(proxied, statement):
    """Neither answer nor end of the connection: the agent's own timer must act, and after COMMIT nothing may be guessed."""
    key = fresh()
    rule = proxied.pg["orders"].at(statement, "hold_reply")
    future = proxied.app.run_later(put(key, *NAMES), deadline="1s")
    rule.wait_done()
    answer = future.result()
    if statement == "prepare transaction":
        assert answer.state == "aborted", answer
    else:
        assert answer.status == 200 and answer.state == "committed", answer
    rule.release()
    proxied.heal()
    proxied.agree(key, NAMES, "aborted" if statement == "prepare transaction" else "committed")


@pytest.mark.parametrize("kind,up", [("work", False), ("vote", True), ("decide", False), ("done", True)])
def test_link_breaks_at_message(proxied, kind, up):
    key = fresh()
    rule = proxied.link["orders"].at(kind, "reset", up=up)
    answer = proxied.app.run(put(key, *NAMES))
    rule.wait_hit()
    state = finished(proxied, answer)
    assert state == ("committed" if kind in ("decide", "done") else "aborted"), answer
    proxied.agree(key, NAMES, state)
    proxied.wait_ready()
    proxied.alive()


@pytest.mark.parametrize("kind,up,expected", [("work", False, "aborted"), ("vote", True, "aborted"), ("decide", False, "committed"),
                                              ("done", True, "committed")])
def test_message_is_swallowed(proxied, kind, up, expected):
    """A frame vanishes while the link lives on (a bug of the other side, a half-open path): deadline or repetition must heal it."""
    key = fresh()
    rule = proxied.link["orders"].at(kind, "drop", up=up)
    answer = proxied.app.run(put(key, *NAMES), deadline="1s")
    rule.wait_hit()
    assert finished(proxied, answer) == expected, answer
    proxied.agree(key, NAMES, expected)


@pytest.mark.parametrize("kind,up", [("hello", True), ("welcome", False), ("ready", True)])
def test_greeting_is_swallowed(proxied, kind, up):
    """The link lives on, and pings are answered: who waits for Welcome gives it up all the same, and so does who hears Kept in front of Ready."""
    rule = proxied.link["orders"].at(kind, "drop", up=up)
    proxied.link["orders"].break_links()
    rule.wait_hit(20)
    wait_until(lambda: not proxied.agents["orders"].is_ready(), 20, "the coordinator has lost the link")
    wait_until(proxied.agents["orders"].is_ready, 60, "the agent dials again")
    proxied.alive()


def test_slow_line(proxied):
    """A frame that needs longer than a link may be silent: what counts is that something comes."""
    key = fresh()
    rule = proxied.link["orders"].at("work", "trickle", delay=7)
    answer = proxied.app.run(put(key, *NAMES))
    assert rule.hit() and finished(proxied, answer) == "committed", answer
    proxied.agree(key, NAMES, "committed")


@pytest.mark.parametrize("kind,up", [("vote", True), ("decide", False), ("done", True), ("inquiry", True), ("answer", False), ("ready", True)])
def test_message_comes_twice(proxied, kind, up):
    key = fresh()
    late = proxied.pg["balance"].at("prepare transaction", "hold")  # so that orders is prepared while it is asked about
    rule = proxied.link["orders"].at(kind, "duplicate", up=up)
    if kind == "ready":
        proxied.link["orders"].break_links()
        rule.wait_hit(20)
        proxied.wait_ready()
    future = proxied.app.run_later(put(key, *NAMES))
    late.wait_hit()
    if kind in ("inquiry", "answer"):
        rule.wait_hit(20, "the sweep asks about the prepared branch")
    late.release()
    answer = future.result()
    rule.wait_hit()
    # a second Vote is a fault of the agent, which the coordinator may answer with an abort as long as nothing is decided
    assert answer.status == 200 or (kind == "vote" and answer.status == 409), answer
    proxied.agree(key, NAMES, "committed" if answer.status == 200 else "aborted")
    proxied.wait_ready()
    proxied.alive()


def test_same_prepare_delivered_twice(proxied):
    """PREPARE is sent at most once per gid: a second copy of Work must not run anything again."""
    key = fresh()
    rule = proxied.link["orders"].at("work", "duplicate", up=False)
    proxied.pg["orders"].batches.clear()
    answer = proxied.app.run([step(name, "insert into item(k, v) values ($1, 1) on conflict (k) do update set v = item.v + 1", key)
                              for name in NAMES])
    rule.wait_hit()
    state = finished(proxied, answer)
    proxied.agree(key, NAMES, state)
    if state == "committed":
        assert proxied.db["orders"].value("select v from item where k = %s", key) == 1
    prepared = [sql for batch in proxied.pg["orders"].batches for sql in batch.sql if sql.lower().startswith("prepare transaction")]
    assert len(prepared) == len(set(prepared)), prepared
    proxied.wait_ready()
    proxied.alive()


def test_old_work_after_the_end(proxied):
    """The frame comes again when its transaction is long over (a replayed network): nothing may run."""
    key = fresh()
    rule = proxied.link["orders"].at("work", "pass", up=False)
    assert proxied.app.run([step(name, "insert into item(k, v) values ($1, 1) on conflict (k) do update set v = item.v + 1", key)
                            for name in NAMES]).status == 200
    proxied.link["orders"].inject(False, rule.seen[0].frame)
    stays_true(lambda: proxied.db["orders"].value("select v from item where k = %s", key) == 1, 0.5, "an old Work ran again")
    proxied.wait_ready()
    proxied.no_orphans()
    assert proxied.db["orders"].value("select v from item where k = %s", key) == 1
    proxied.alive()


def test_work_is_held_until_the_transaction_is_aborted(proxied):
    """Zombie prepare by a late message: the coordinator has aborted, then Work arrives."""
    key = fresh()
    rule = proxied.link["orders"].at("work", "hold", up=False)
    answer = proxied.app.run(put(key, *NAMES), deadline="500ms")
    assert answer.status == 409, answer
    rule.release()
    proxied.heal()
    proxied.agree(key, NAMES, "aborted")
    proxied.agree(key, NAMES, "aborted")


def test_only_answers_to_pings(proxied):
    """While both are idle, the one whose frame was the last is pinged and never pings: what the agent hears is Pong. That is no silence."""
    link = proxied.link["orders"]
    connections = list(link.connections)
    lost = link.rule(lambda message: message.kind in ("ping", "forget") and not message.up, "drop", times=None)
    heard = link.at("pong", "pass", up=False, times=None)
    wait_until(lambda: len(heard.seen) >= 8, 60, lambda: f"eight seconds without a word but Pong: {heard.seen}, {lost.seen}")
    assert list(link.connections) == connections
    for rule in (lost, heard):
        rule.release()
    proxied.alive()


def test_link_silent(proxied):
    """Nothing passes and nothing is closed: the link is given up after its time, and found again."""
    key = fresh()
    rules = [proxied.link["orders"].rule(lambda message: True, "drop", times=None)]
    answer = proxied.app.run(put(key, *NAMES), deadline="3s")
    assert answer.status in (409, 503), answer
    wait_until(lambda: not proxied.agents["orders"].is_ready(), 15, "the coordinator notices the dead link")
    for rule in rules:
        rule.release()
    proxied.wait_ready()
    proxied.agree(key, NAMES, "aborted")
    proxied.alive()


def test_participant_offline_is_503_and_not_begun(proxied):
    proxied.link["orders"].partition()
    wait_until(lambda: not proxied.agents["orders"].is_ready(), 15, "the coordinator notices")
    key = fresh()
    answer = proxied.app.run(put(key, *NAMES))
    assert answer.status == 503 and answer.begun is False, answer
    proxied.heal()
    proxied.wait_ready()
    assert proxied.app.run(put(key, *NAMES)).status == 200


def test_one_dead_branch_delays_no_other(proxied):
    """Decided, and one participant cannot be reached: the other's rows are free at once."""
    key = fresh()
    rule = proxied.link["orders"].at("decide", "hold", up=False)
    answer = proxied.app.run(put(key, *NAMES), wait="decided")
    assert answer.status == 200 and answer.state == "committed", answer
    rule.wait_hit()
    wait_until(lambda: not proxied.db["balance"].prepared(), 5, "the other branch is committed")
    assert proxied.count("balance", key) == 1
    slow = proxied.app.run(put(fresh(), "balance"))
    assert slow.status == 200
    assert proxied.app.get(answer.gtid).applied is False
    rule.release()
    proxied.agree(key, NAMES, "committed")


def test_commit_does_not_queue_behind_a_waiting_statement(proxied):
    """Many branches wait for a row that a prepared transaction holds; its COMMIT PREPARED must get through at once."""
    row = fresh("row")
    for name in NAMES:
        proxied.db[name].execute("insert into item(k, v) values (%s, 0)", row)
    rule = proxied.pg["balance"].at("prepare transaction", "hold")
    first = proxied.app.run_later([step(name, "update item set v = v + 1 where k = $1", row) for name in NAMES])
    rule.wait_hit()
    wait_until(lambda: proxied.db["orders"].prepared(), 10, "the first is prepared")
    waiting = [proxied.app.run_later([step("orders", "update item set v = v + 1 where k = $1", row)] + put(fresh(), "balance"),
                                     lock_timeout="15s") for _ in range(20)]
    wait_until(lambda: proxied.db["orders"].value("select count(*) from pg_locks where not granted") >= 10, 10, "others wait")
    rule.release()
    assert first.result().status == 200
    assert [future.result().status for future in waiting] == [200] * len(waiting)
    assert proxied.db["orders"].value("select v from item where k = %s", row) == 21
    proxied.no_orphans()
