"""Hazard: with one participant there is no decision record; a lost answer is as unknown as anywhere, and the backend of a dead agent
may still commit after somebody said "aborted" (hazards 1.15, design 2.2).

Method: plain commits and refusals; the answer to COMMIT lost; agent killed while its statement waits for a lock; coordinator
restarted; the participant down while asked.
Seen if wrong: "aborted" for something committed or that commits later; a second execution under the same key.
"""

import pytest

from harness.base import stays_true, wait_until
from harness.system import fresh, put, step


def test_commits_without_prepare_and_without_decision_record(proxied):
    key, proxy = fresh(), proxied.pg["orders"]
    proxied.app.run(put(fresh(), "orders"))
    proxy.batches.clear()
    before = proxied.forced_writes()
    answer = proxied.app.run(put(key, "orders"))
    assert answer.status == 200 and answer.state == "committed", answer
    assert proxied.where(key) == {"orders"}
    tags = [tag for batch in proxy.batches for tag in batch.tags]
    assert "PREPARE TRANSACTION" not in tags and "COMMIT" in tags, tags
    assert proxied.forced_writes() == before


def test_commit_is_not_in_one_pipeline_with_statements(proxied):
    """COMMIT leaves only after the statements are answered (hazards 1.15)."""
    proxy = proxied.pg["orders"]
    proxy.batches.clear()
    key = fresh()
    assert proxied.app.run(put(key, "orders")).status == 200
    work = [batch for batch in proxy.batches if any("insert into item" in sql for sql in batch.sql)]
    assert len(work) == 1 and not any(sql.lower().startswith(("commit", "end")) for sql in work[0].sql), work
    commits = [batch for batch in proxy.batches if any(sql.lower().startswith("commit") for sql in batch.sql)]
    assert len(commits) == 1 and len(commits[0].sql) == 1, commits


def test_gtid_names_the_participant(shared):
    one, other = shared.app.run(put(fresh(), "orders")), shared.app.run(put(fresh(), "balance"))
    both = shared.app.run(put(fresh(), "orders", "balance"))
    assert "-" in one.gtid and "-" in other.gtid and "-" not in both.gtid.split(".")[-1]
    assert one.gtid.split("-")[-1] != other.gtid.split("-")[-1]


def test_refused(shared):
    key = fresh()
    answer = shared.app.run(put(key, "orders") + [step("orders", "insert into item(k, v) values ($1, -1)", fresh())])
    assert answer.status == 409 and answer.sqlstate == "23514" and answer.participant == "orders", answer
    assert shared.where(key) == set()
    assert shared.app.get(answer.gtid).state == "aborted"


def test_deferred_constraint_at_commit(shared):
    """Fires at COMMIT, or at the guards before it: aborted either way."""
    key = fresh()
    answer = shared.app.run(put(key, "orders") + [step("orders", "insert into child values ($1, $2)", key, fresh("nobody"))])
    assert answer.status == 409 and answer.sqlstate == "23503", answer
    assert shared.where(key) == set()


def test_lost_answer_to_commit_is_settled_by_the_outcome_row(proxied):
    key = fresh()
    rule = proxied.pg["orders"].at("commit", "lose_reply")
    answer = proxied.app.run(put(key, "orders"))
    rule.wait_done()
    assert answer.status in (200, 202), answer
    if answer.status == 202:
        answer = proxied.app.wait_state(answer.gtid, ("committed", "aborted"))
    assert answer.state == "committed", answer
    assert proxied.where(key) == {"orders"}


def test_lost_commit_is_settled_by_a_tombstone(proxied):
    """COMMIT never reached the server: aborted, but only once a tombstone makes sure that it cannot come late."""
    key = fresh()
    proxied.pg["orders"].at("commit", "reset")
    answer = proxied.app.run(put(key, "orders"))
    assert answer.status in (202, 409), answer
    if answer.status == 202:
        answer = proxied.app.wait_state(answer.gtid, ("committed", "aborted"))
    assert answer.state == "aborted", answer
    assert proxied.where(key) == set()


def test_zombie_commit(proxied):
    """The agent is killed while its update waits; the lock is freed afterwards. Its backend may not commit what was called aborted."""
    key, row = fresh(), fresh("row")
    proxied.db["orders"].execute("insert into item(k, v) values (%s, 1)", row)
    with proxied.db["orders"].connect(autocommit=False) as holder:
        holder.execute("update item set v = 5 where k = %s", (row,))
        future = proxied.app.run_later(put(key, "orders") + [step("orders", "update item set v = v + 10 where k = $1", row)],
                                       lock_timeout="30s")
        wait_until(lambda: proxied.db["orders"].value("select count(*) from pg_locks where not granted") > 0, 10, "the update waits")
        proxied.agents["orders"].kill()
        proxied.agents["orders"].start()
        holder.commit()
    answer = future.result()
    if answer.state not in ("committed", "aborted"):
        answer = proxied.app.wait_state(answer.gtid, ("committed", "aborted"))
    assert answer.state == "aborted", answer
    stays_true(lambda: proxied.count("orders", key) == 0, 1.5, "a branch called aborted appeared afterwards")
    assert proxied.db["orders"].value("select v from item where k = %s", row) == 5


def test_key_is_settled_by_the_row_after_restart(shared):
    """No decision record exists: after a restart the outcome row alone knows the key."""
    key, word = fresh(), fresh("idem")
    first = shared.app.run(put(key, "orders"), key=word)
    assert first.status == 200
    shared.coordinator.restart()
    shared.wait_ready()
    again = shared.app.run(put(key, "orders"), key=word)
    assert again.status == 200 and again.state == "committed" and again.gtid == first.gtid, again
    assert shared.count("orders", key) == 1
    other = shared.app.run(put(fresh(), "orders"), key=word)
    assert other.status == 422, other


def test_get_after_restart_while_the_participant_is_down(shared):
    """`pending` while it cannot be asked, and the truth once it can."""
    done = shared.app.run(put(fresh(), "orders"))
    refused = shared.app.run([step("orders", "insert into item(k, v) values ($1, -1)", fresh())])
    shared.agents["orders"].stop()
    shared.coordinator.restart()
    wait_until(shared.agents["balance"].is_ready, 20, "the other agents are back")
    for gtid in (done.gtid, refused.gtid):
        answer = shared.app.get(gtid)
        assert answer.status == 202 and answer.state == "pending", answer
    shared.agents["orders"].start()
    assert shared.app.wait_state(done.gtid, ("committed", "aborted")).state == "committed"
    assert shared.app.wait_state(refused.gtid, ("committed", "aborted")).state == "aborted"


def test_unknown_sequence_is_not_called_aborted_without_asking(shared):
    """A gtid of this coordinator and incarnation that it never handed out: 404 or settled at the participant, never invented."""
    gtid = shared.app.run(put(fresh(), "orders")).gtid
    head, sequence = gtid.rsplit(".", 1)
    number = sequence.split("-")[1]
    answer = shared.app.get(f"{head}.999999999-{number}")
    assert answer.status == 404, answer


@pytest.mark.parametrize("sql", ["select 1 as one", "select count(*) from item"])
def test_read_only(shared, sql):
    answer = shared.app.run([step("orders", sql)])
    assert answer.status == 200 and len(answer.body["results"][0]["rows"]) == 1, answer


@pytest.mark.parametrize("how", ["reset", "drop"])
def test_a_repeat_that_never_ran_says_nothing_about_its_key(proxied, how):
    """The coordinator of another life does not know the key, and the repeat is lost before the participant could look: an abort of the
    repeat must not be told as the end of what was asked for under the key."""
    key, word = fresh(), fresh("idem")
    first = proxied.app.run(put(key, "orders"), key=word)
    assert first.status == 200 and first.state == "committed", first
    proxied.coordinator.restart()
    proxied.wait_ready()
    rule = proxied.link["orders"].at("work", how, up=False)
    answer = proxied.app.run(put(key, "orders"), key=word, deadline="1s")
    rule.wait_hit()
    assert answer.status == 503 and answer.code == "key_unsettled" and answer.body["begun"] is False, answer
    proxied.wait_ready()
    again = proxied.run(put(key, "orders"), key=word)
    assert again.status == 200 and again.gtid == first.gtid, again
    assert proxied.count("orders", key) == 1


def test_who_asks_behind_a_202_is_not_told_the_end_of_another_run(proxied):
    """The same, where the repeat is answered 202 and its client follows the address: its run is aborted, what was asked for under the key is not."""
    key, word = fresh(), fresh("idem")
    first = proxied.app.run(put(key, "orders"), key=word)
    assert first.status == 200 and first.state == "committed", first
    proxied.coordinator.restart()
    proxied.wait_ready()
    proxied.link["orders"].at("work", "drop", up=False, before=proxied.link["orders"].partition)
    answer = proxied.app.run(put(key, "orders"), key=word, deadline="1s")
    assert answer.status == 202 and answer.gtid != first.gtid, answer
    proxied.link["orders"].heal()
    proxied.wait_ready()
    last = {}

    def told():
        last["answer"] = proxied.app.get(answer.gtid)
        return last["answer"].status != 202
    wait_until(told, 20, lambda: f"it is settled: {last}")
    assert last["answer"].status == 503 and last["answer"].code == "key_unsettled", last
    again = proxied.run(put(key, "orders"), key=word)
    assert again.status == 200 and again.gtid == first.gtid, again


def test_an_abort_behind_the_key_row_is_an_abort(proxied):
    """The key was free when the transaction ran: its abort is the last word, for the key too."""
    key, word = fresh(), fresh("idem")
    answer = proxied.app.run(put(key, "orders") + [step("orders", "select 1/0")], key=word)
    assert answer.status == 409 and answer.sqlstate == "22012", answer
    assert proxied.run(put(key, "orders"), key=word).status == 200  # the key was given back
