"""Hazard: a database made by an earlier version is served by an agent that needs more than is there, or loses what it has when it is brought up.

Method: the schema as version 2 made it (schema_v2.sql, printed by that version's `lockstep init-participant`), filled; the agent must refuse it with the
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
    assert database.value("select lockstep.schema_version()") == 5
    with database.connect(user="checkout") as session:
        assert session.execute("select lockstep.barrier('s', 't', 'cancel')").fetchone()[0] == "cancelled"
    database.execute(TABLES)
    agent = agent_for(coordinator, cluster, "older").start()
    wait_until(agent.is_ready, 10, "the agent serves")
    agent.stop()


@pytest.mark.parametrize("loss, word", [("revoke execute on function lockstep.barrier(text, text, text) from checkout", "--app-role checkout"),
                                        ("revoke execute on function lockstep.saga_attempt(bytea, text, text, text, text) from checkout", "--app-role checkout"),
                                        ("revoke execute on function lockstep.emit(text, text, jsonb) from checkout", "--app-role checkout"),
                                        ("revoke execute on function lockstep.relay_claim(int4) from lockstep_agent", "--agent-role lockstep_agent"),
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
