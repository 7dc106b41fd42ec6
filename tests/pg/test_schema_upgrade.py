"""Hazard: a database made by an earlier version is served by an agent that needs more than is there, or loses what it has when it is brought up.

Method: the schema as versions 2 and 4 made it (schema_v2.sql, schema_v4.sql, printed by that version's `lockstep init-participant`), filled; the agent must refuse it with the
words that mend; `lockstep init-participant` is run again; then everything is there, and the agent serves. Also what the start check says when single
rights are missing. Seen if wrong: an agent that says ready, a row that is gone.
"""

import os

import pytest

from harness.base import wait_until
from harness.cluster import Cluster
from harness.programs import Agent, Coordinator, authority, command
from harness.system import TABLES

V2 = os.path.join(os.path.dirname(os.path.abspath(__file__)), "schema_v2.sql")
V4 = os.path.join(os.path.dirname(os.path.abspath(__file__)), "schema_v4.sql")


@pytest.fixture(scope="module")
def coordinator():
    made = Coordinator(authority(), "shop").start()
    yield made
    made.kill()


@pytest.fixture(scope="module")
def cluster():
    made = Cluster()
    with made.connect("postgres") as session:
        session.execute("create role checkout login; create role lockstep_agent login")
    yield made
    made.remove()


def init(database):
    done = command("init-participant", "--agent-role", "lockstep_agent", "--app-role", "checkout", "--apply", database.conninfo())
    assert done.returncode == 0, done


def agent_for(coordinator, cluster, name):
    return Agent(name, coordinator, cluster.conninfo(name, "lockstep_agent"), roles={"app/checkout": "checkout"})


def refused_with(agent, *words):
    agent.spawn()
    assert agent.wait_exit(15) == 78, agent.log_text()
    assert any(all(word in line for word in words) for line in agent.log_text().splitlines()), f"no line with {words}:\n{agent.log_text()}"


def test_version_2_is_brought_up(coordinator, cluster):
    database = cluster.create_database("older")
    with open(V2, encoding="utf-8") as file:
        database.execute(file.read())
    database.execute("insert into lockstep.outcome(gtid, participant, app, key, state) values"
                     " ('shop.aaaaaaaaaaaa.1.7-1', 'older', 'app/checkout', 'k', 'committed'), ('shop.aaaaaaaaaaaa.1.8-1', 'older', null, null, 'aborted')")
    database.execute("insert into lockstep.fence values ('older', 'other', 'lockstep_agent', 'aaaaaaaaaaaa', 3, 4096, 5)")
    kept = "select array(select o::text from lockstep.outcome o order by gtid), array(select f::text from lockstep.fence f)"
    before = database.query(kept)
    refused_with(agent_for(coordinator, cluster, "older"), "version", "init-participant")
    for _ in range(2):  # again changes nothing
        init(database)
        assert database.query(kept) == before
    assert database.value("select lockstep.schema_version()") == 7
    with database.connect(user="checkout") as session:
        assert session.execute("select lockstep.barrier('s', 't', 'cancel')").fetchone()[0] == "cancelled"
    database.execute(TABLES)
    agent = agent_for(coordinator, cluster, "older").start()
    wait_until(agent.is_ready, 10, "the agent serves")
    agent.stop()


def test_version_4_keeps_its_events(coordinator, cluster):
    """What waits in the inbox goes on in its order, dead letters stay, no position is given out twice."""
    database = cluster.create_database("events")
    with open(V4, encoding="utf-8") as file:
        database.execute(file.read())
    with database.connect(user="checkout") as session:
        session.execute("select lockstep.emit('t.t', 'a', '{}'), lockstep.emit_later('t.t', 'a', '{}', '1 hour'), lockstep.keep_snapshot('a', 1, '{\"n\": 1}')")
    database.execute("select lockstep.relay_claim(10)")
    database.execute("insert into lockstep.subscription(type, handler, role) values ('t.t', 'public.handle', 'checkout')")
    database.execute("insert into lockstep.inbox(source, position, handler, type, key, version, saga, payload, state, retry_at) values"
                     " ('far', 1, 'public.handle', 't.t', 'k', 1, 's', '{}', 'dead', now()), ('far', 2, 'public.handle', 't.t', 'k', 2, 's', '{}', 'waiting', now()),"
                     " ('far', 3, 'public.handle', 't.t', 'j', 1, 's', '{}', 'waiting', now()), ('far', 4, 'public.handle', 't.t', 'i', 1, 's', '{}', 'done', null)")
    refused_with(agent_for(coordinator, cluster, "events"), "version", "init-participant")
    for _ in range(2):
        init(database)
    due = "select key, position from lockstep.inbox_due(10)"
    assert database.query(due) == [("j", 3)]
    assert database.value("select lockstep.letter_act('far/1/public.handle', 'skip', 'admin/root')") is True
    assert sorted(database.query(due)) == [("j", 3), ("k", 2)]
    with database.connect(user="checkout") as session:
        assert session.execute("select type from lockstep.load('a')").fetchall() == [("lockstep.snapshot",)]
        session.execute("select lockstep.emit('t.t', 'a', '{}')")
    assert database.query("select given, position from lockstep.relay_claim(10, 1)") == [(1, 2)]
    assert database.query("select holder, position from lockstep.relay_take('events')") == [("events", 2)]
    agent_for(coordinator, cluster, "events").start().stop()


@pytest.mark.parametrize("loss, word", [("revoke execute on function lockstep.barrier(text, text, text) from checkout", "--app-role checkout"),
                                        ("revoke execute on function lockstep.saga_attempt(bytea, text, text, text, text) from checkout", "--app-role checkout"),
                                        ("revoke execute on function lockstep.emit(text, text, jsonb) from checkout", "--app-role checkout"),
                                        ("revoke execute on function lockstep.relay_claim(int4, int8) from lockstep_agent", "--agent-role lockstep_agent"),
                                        ("revoke execute on function lockstep.outcome_prune(text, int4) from lockstep_agent", "--agent-role lockstep_agent"),
                                        ("drop function lockstep.horizon_store(text, text, int8, int8)", "--agent-role lockstep_agent")])
def test_what_is_missing_is_named(coordinator, cluster, loss, word):
    name = "lacks" + str(abs(hash(loss)) % 10**6)
    database = cluster.create_database(name)
    init(database)
    database.execute(loss)
    refused_with(agent_for(coordinator, cluster, name), "init-participant", word)
    init(database)
    agent_for(coordinator, cluster, name).start().stop()
