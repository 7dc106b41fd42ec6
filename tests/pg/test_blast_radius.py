"""Hazard: at 3 a.m. nobody knows what an in-doubt branch blocks: who waits behind it, through whom, what it holds, and what may be done about it.

Method: one branch of a transaction is prepared while the other waits for a lock; sessions queue up behind it, each behind the one before, for rows and for
whole tables, beside bystanders. Then a decided branch whose agent is dead; callers without the right; nothing in doubt.
Seen if wrong: a session that waits and is not listed or listed at the wrong distance, a bystander that is listed, a request that hangs with its agent.
"""

import json

import psycopg
import pytest

from harness.base import wait_until
from harness.programs import command
from harness.system import System, fresh, put, step
from test_command import tls

NAMES = ("orders", "balance")


@pytest.fixture(scope="module")
def system():
    made = System({"orders": 0, "balance": 1})
    yield made
    made.close()


class Waiter:
    """A session with an open transaction that sends a statement and does not wait for its answer."""

    def __init__(self, database):
        self.database = database
        self.session = database.connect(autocommit=False)
        self.pid = self.session.info.backend_pid

    def run(self, sql):
        self.session.execute(sql)
        return self

    def waits(self, sql):
        self.session.execute("select")  # opens its transaction
        self.session.pgconn.send_query(sql.encode())
        wait_until(lambda: self.database.value("select exists (select from pg_locks where pid = %s and not granted)", self.pid), 10,
                   f"session {self.pid} waits")
        return self


@pytest.fixture
def session(system):
    """Makes sessions; ends them."""
    made = []

    def make(participant="orders"):
        made.append(Waiter(system.db[participant]))
        return made[-1]

    yield make
    for waiter in made:
        system.db["orders"].execute("select pg_terminate_backend(%s)", waiter.pid)
        waiter.session.close()


@pytest.fixture
def branch(system, session):
    """A transaction whose branch at "orders" is prepared, while the one at "balance" waits for a lock of ours: (gtid, key of the row it holds)."""
    made, holders = [], []

    def prepare(sql="update item set v = v + 1 where k = $1"):
        key = fresh()
        for name in NAMES:
            system.db[name].execute("insert into item(k, v) values (%s, 1)", key)
        holders.append(session("balance").run(f"update item set v = v where k = '{key}'"))
        made.append(system.app.run_later([step("orders", sql, key), step("balance", "update item set v = v + 1 where k = $1", key)],
                                         lock_timeout="25s", deadline="25s"))
        gid = wait_until(lambda: set(system.db["orders"].prepared()) - {gid for gid, _ in known}, 10, "it is prepared").pop()
        known.append((gid, key))
        return gid.split(":")[1], key

    known = []
    yield prepare
    for gid, _ in known:
        system.admin.request("POST", f"/v1/tx/{gid.split(':')[1]}/abort")
    for future in made:
        assert future.result().state == "aborted"
    system.no_orphans()


def ask(system, gtid, participant="orders"):
    answer = system.admin.get(gtid, blocking="true")
    return next(one for one in answer.body["branches"] if one["participant"] == participant)


def distances(shown):
    return {entry["pid"]: entry["distance"] for entry in shown["blocking"]["sessions"]}


def rows(system, count):
    keys = [fresh() for _ in range(count)]
    for key in keys:
        system.db["orders"].execute("insert into item(k, v) values (%s, 1)", key)
    return keys


def test_a_chain_of_three(system, branch, session):
    gtid, key = branch()
    second, third, other = rows(system, 3)

    def update(k):
        return f"update item set v = 7 where k = '{k}'"
    first = session().run(update(second)).waits(update(key))
    middle = session().run(update(third)).waits(update(second))
    last = session().waits(update(third))
    session().run(update(other))
    session().waits(update(other))  # a bystander behind a bystander

    shown = ask(system, gtid)
    blocking = shown["blocking"]
    assert distances(shown) == {first.pid: 1, middle.pid: 2, last.pid: 3}
    assert blocking["prepared"] is True and blocking["waiting"] == 3 and blocking["oldest_wait_ms"] >= 0
    assert blocking["sessions"][0]["behind"] == [0] and blocking["sessions"][1]["behind"] == [first.pid]
    assert "row (" in blocking["sessions"][0]["on"] and "of public.item" in blocking["sessions"][0]["on"], "the row is named"
    assert {"type": "relation", "on": "public.item", "mode": "RowExclusiveLock"} in blocking["locks"]
    assert blocking["slots_used"] == 1 and blocking["slots"] == 100
    assert blocking["xmin_age"] >= 1 and blocking["held_ms"] >= 0 and blocking["owner"] == "checkout"
    assert "tx abort" in shown["safe"]
    assert "blocking" not in ask(system, gtid, "balance"), "not prepared: nothing to ask about"

    text = command("tx", "show", gtid, coordinator=system.coordinator)
    assert text.returncode == 5, text
    for word in ("3 sessions wait", "public.item", "1 of 100 prepared", "tx abort", str(last.pid)):
        assert word in text.stdout, text.stdout
    body = json.loads(command("tx", "show", gtid, "-o", "json", coordinator=system.coordinator).stdout)
    assert body["branches"][0]["blocking"]["waiting"] == 3


def test_one_row_in_a_queue(system, branch, session):
    gtid, key = branch()
    update = f"update item set v = 7 where k = '{key}'"
    first, second, third = [session().waits(update) for _ in range(3)]
    shown = ask(system, gtid)
    assert distances(shown)[first.pid] == 1 and set(distances(shown)) == {first.pid, second.pid, third.pid}
    assert all("of public.item" in entry["on"] for entry in shown["blocking"]["sessions"]), shown


def test_a_whole_table(system, branch, session):
    """ALTER TABLE waits for the branch; a reader, whom the branch would not stop, waits behind ALTER TABLE."""
    gtid, _ = branch()
    alter = session().waits("alter table item add column later int")
    reader = session().waits("select count(*) from item")
    shown = ask(system, gtid)
    assert distances(shown) == {alter.pid: 1, reader.pid: 2}
    assert shown["blocking"]["sessions"][0]["wants"] == "AccessExclusiveLock" and shown["blocking"]["sessions"][0]["on"] == "public.item"


def test_only_the_branch_that_blocks(system, branch, session):
    """Two branches hold the table, one of them only for reading: CREATE INDEX waits for the writer."""
    writes, _ = branch()
    reads, _ = branch("with seen as (select count(*) from item) insert into child(k) select $1::text || count from seen")
    index = session().waits("create index on item (v)")
    assert distances(ask(system, writes)) == {index.pid: 1}
    assert distances(ask(system, reads)) == {}
    assert ask(system, reads)["blocking"]["waiting"] == 0 and ask(system, reads)["blocking"]["slots_used"] == 2


def test_agent_is_gone(system, session):
    """Decided, and the agent dies before COMMIT PREPARED: what it blocks cannot be said, what is safe can; and the DBA asks the database."""
    agent = system.agents["orders"]
    agent.restart("agent_decide_received=kill")
    key = fresh()
    answer = system.run(put(key, *NAMES), wait="decided")
    assert answer.status == 200
    agent.wait_exit()
    wait_until(lambda: not agent.is_ready(), 10, "the coordinator notices")
    gid, = system.db["orders"].prepared()
    waiter = session().waits(f"insert into item(k, v) values ('{key}', 2)")

    shown = ask(system, answer.gtid)
    assert "not linked" in shown["blocking"]["unknown"]
    assert "ROLLBACK PREPARED breaks" in shown["safe"]
    text = command("tx", "show", answer.gtid, coordinator=system.coordinator)
    assert "cannot be said: its agent is not linked" in text.stdout, text

    seen = system.db["orders"].value("select lockstep.show_blocking(%s)", gid)
    assert [entry["pid"] for entry in seen["sessions"]] == [waiter.pid] and seen["sessions"][0]["on"] == "the end of a transaction"
    # what it says is safe is safe: committed by hand, and nobody is the worse for it
    system.db["orders"].execute(f"commit prepared '{gid}'")
    system.heal()
    assert system.admin.wait_state(answer.gtid, {"committed"}).state == "committed"
    system.agree(key, NAMES, "committed")
    assert system.db["orders"].value("select lockstep.show_blocking(%s)", gid) == {"prepared": False}


def test_agent_may_not_look(system, branch):
    """A schema that somebody has tampered with costs the answer, not the request."""
    gtid, _ = branch()
    revoke = "revoke execute on function lockstep.show_blocking(text, int4) from lockstep_agent"
    system.db["orders"].execute(revoke)
    try:
        assert "permission denied" in ask(system, gtid)["blocking"]["unknown"]
    finally:
        system.db["orders"].execute(revoke.replace("revoke", "grant").replace("from", "to"))


def test_who_may_ask(system, branch):
    gtid, _ = branch()
    refused = system.app.get(gtid, blocking="true")
    assert (refused.status, refused.code) == (403, "role_not_allowed")
    for query in ({"blocking": "yes"}, {"blocking": "true", "timeout": "1s"}, {"blocking": "true", "for_": "applied"}):
        assert system.admin.get(gtid, **query).status == 400, query
    # an application sees its transaction, and not who waits behind it
    text = command("tx", "show", gtid, *tls(system))
    assert text.returncode == 5 and "sessions wait" not in text.stdout and "preparing" in text.stdout + text.stderr, text


def test_nothing_in_doubt(system):
    answer = system.run(put(fresh(), *NAMES))
    asked = system.admin.get(answer.gtid, blocking="true")
    assert asked.status == 200 and not any("blocking" in one for one in asked.body.get("branches", [])), asked
    assert system.admin.get(answer.gtid[:-1] + "999999", blocking="true").status == 404
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        with system.db["orders"].connect(user="checkout") as session:
            session.execute("select lockstep.show_blocking('x')")
