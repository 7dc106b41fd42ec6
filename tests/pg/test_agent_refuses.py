"""Hazard: an agent serves a database where its promises cannot hold, or two agents serve the same branch names.

Method: each such database; the agent must end with 78 (or wait, where the trouble may pass), and its log must have the statement that mends.
Seen if wrong: it says ready; or it says only that something is wrong.
"""

import os
import shutil
import signal
import time

import pytest

from harness.base import folder, processes, wait_until
from harness.cluster import Cluster
from harness.programs import Agent, Coordinator, authority, command
from harness.system import TABLES

MENDS_S = 15


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


def make_database(cluster, name, init=True):
    database = cluster.create_database(name)
    database.execute(TABLES)
    if init:
        database.execute(init_sql())
    return database


def init_sql(*arguments):
    done = command("init-participant", "--agent-role", "lockstep_agent", "--app-role", "checkout", *arguments)
    assert done.returncode == 0, done
    return done.stdout


def refuses(agent, *words):
    """The agent ends with 78, and one line of its log has all the words (letter case does not count)."""
    agent.spawn()
    assert agent.wait_exit(MENDS_S) == 78, agent.log_text()
    lines = agent.log_text().lower().splitlines()
    assert any(all(word.lower() in line for word in words) for line in lines), f"no line with {words}:\n{agent.log_text()}"


def agent_for(coordinator, cluster, name, database, user="lockstep_agent", roles=None):
    return Agent(name, coordinator, cluster.conninfo(database, user), roles=roles or {"app/checkout": "checkout"})


def test_max_prepared_transactions_is_zero(coordinator):
    bare = Cluster(settings={"max_prepared_transactions": 0})
    with bare.connect("postgres") as session:
        session.execute("create role checkout login; create role lockstep_agent login")
    make_database(bare, "zero")
    refuses(agent_for(coordinator, bare, "zero", "zero"), "alter system set max_prepared_transactions")
    bare.remove()


def test_schema_is_missing(coordinator, cluster):
    make_database(cluster, "bare", init=False)
    refuses(agent_for(coordinator, cluster, "bare", "bare"), "init-participant")


@pytest.mark.parametrize("loss", ["revoke all on all tables in schema lockstep from lockstep_agent, public",
                                  "revoke usage on schema lockstep from lockstep_agent, checkout, public"])
def test_rights_are_missing(coordinator, cluster, loss):
    name = "norights" + str(len(loss))
    make_database(cluster, name).execute(loss)
    refuses(agent_for(coordinator, cluster, name, name), "grant")


def test_app_role_is_missing(coordinator, cluster):
    make_database(cluster, "norole")
    refuses(agent_for(coordinator, cluster, "norole", "norole", roles={"app/checkout": "nobody_here"}), "nobody_here")


def test_app_role_is_the_agents_own(coordinator, cluster):
    """Statements of that application could write lockstep's own tables."""
    make_database(cluster, "ownrole")
    refuses(agent_for(coordinator, cluster, "ownrole", "ownrole", roles={"app/checkout": "checkout", "app/billing": "lockstep_agent"}), "own role")


def test_standby(coordinator, cluster):
    """A server in recovery cannot prepare."""
    make_database(cluster, "primary")
    standby = cluster.make_standby()
    refuses(agent_for(coordinator, standby, "primary", "primary"), "standby")
    standby.remove()


@pytest.mark.skipif(not shutil.which("pgbouncer", path="/usr/sbin:/usr/bin"), reason="pgbouncer is not installed")
def test_pooler(coordinator, cluster):
    """Through a pooler in transaction mode SET, advisory locks and sessions are not the agent's own."""
    make_database(cluster, "pooled")
    directory = folder.make("b")
    file = os.path.join(directory, "pgbouncer.ini")
    with open(file, "w", encoding="utf-8") as out:
        out.write(f"[databases]\npooled = host={cluster.directory} port=5432 dbname=pooled user=lockstep_agent\n[pgbouncer]\nlisten_addr =\nlisten_port = 6432\n"
                  f"unix_socket_dir = {directory}\nauth_type = any\npool_mode = transaction\nlogfile = {directory}/log\n"
                  f"ignore_startup_parameters = extra_float_digits,options\n")
    folder.give_to_server(directory)
    pooler = processes.start([shutil.which("pgbouncer", path="/usr/sbin:/usr/bin"), file], account=folder.server_account, cwd="/",
                             log=os.path.join(directory, "out"))
    wait_until(lambda: os.path.exists(os.path.join(directory, ".s.PGSQL.6432")), 10, "the pooler listens")
    agent = Agent("pooled", coordinator, f"host={directory} port=6432 dbname=pooled user=lockstep_agent", roles={"app/checkout": "checkout"})
    refuses(agent, "pooler")
    pooler.kill()
    pooler.wait()
    processes.forget(pooler)


def test_second_agent_of_the_name(coordinator, cluster):
    make_database(cluster, "double")
    first = agent_for(coordinator, cluster, "double", "double").start()
    second = agent_for(coordinator, cluster, "double", "double")
    second.spawn()
    wait_until(lambda: "double" in second.log_text() and ("held" in second.log_text() or "another" in second.log_text()), MENDS_S,
               second.log_text)
    assert first.is_ready()
    code = second.wait_exit(30)
    assert code == 78, second.log_text()
    assert first.is_ready()
    first.stop()


def test_successor_takes_over_when_the_first_is_gone(coordinator, cluster):
    """The lock belongs to a session: when the first dies, the next start gets it at once."""
    make_database(cluster, "heir")
    first = agent_for(coordinator, cluster, "heir", "heir").start()
    first.kill()
    second = agent_for(coordinator, cluster, "heir", "heir").start()
    second.stop()


def test_another_agent_has_served_meanwhile(coordinator, cluster):
    """One that stood still while another one served ends, whatever it remembers is old; begun anew it serves."""
    make_database(cluster, "still")
    first = agent_for(coordinator, cluster, "still", "still").start()
    os.kill(first.process.pid, signal.SIGSTOP)
    with cluster.connect("still") as session:
        session.execute("select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = 'still' and usename = 'lockstep_agent'")
    second = agent_for(coordinator, cluster, "still", "still").spawn()
    wait_until(lambda: "serving" in second.log_text(), 30, second.log_text)
    second.kill()
    os.kill(first.process.pid, signal.SIGCONT)
    assert first.wait_exit(30) == 1, first.log_text()
    assert "another agent of this participant has served" in first.log_text()
    first.start()
    served = first.log_text().count("serving")
    with cluster.connect("still") as session:  # a session that is lost for another reason is opened again
        session.execute("select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = 'still' and usename = 'lockstep_agent'")
    wait_until(lambda: first.log_text().count("serving") > served, MENDS_S, first.log_text)
    first.check_alive()
    first.stop()


def test_database_down_at_start(coordinator, cluster):
    """No server yet is not a refusal: the agent waits and comes up with it."""
    late = Cluster()
    with late.connect("postgres") as session:
        session.execute("create role checkout login; create role lockstep_agent login")
    make_database(late, "late")
    late.stop()
    agent = agent_for(coordinator, late, "late", "late").spawn()
    time.sleep(0.3)
    agent.check_alive()
    late.start()
    agent.wait_ready()
    agent.stop()
    late.remove()


def test_coordinator_down_at_start(cluster):
    other = Coordinator(authority(), "shop").start()
    make_database(cluster, "early")
    agent = agent_for(other, cluster, "early", "early")
    other.stop()
    agent.spawn()
    wait_until(lambda: agent.log_text().count("\n") > 0, 10, "the agent says something")
    agent.check_alive()
    other.start()
    agent.wait_ready()
    agent.stop()
    other.kill()


@pytest.mark.parametrize("conninfo,word", [("host=/tmp dbname=x user=y password=secret", "passfile"), ("host=/tmp dbname=x", "user"),
                                           ("dbname=x user=y application_name=z host=/tmp", "application_name"), ("nonsense", "conninfo")])
def test_conninfo_that_cannot_be(coordinator, conninfo, word):
    agent = Agent("wrong", coordinator, conninfo)
    refuses(agent, word)
    assert "secret" not in agent.log_text()


def test_coordinator_of_another_name(cluster):
    """The certificate's URI is checked against the configured name."""
    other = Coordinator(authority(), "elsewhere").start()
    make_database(cluster, "lost")
    agent = agent_for(other, cluster, "lost", "lost")
    agent.config["coordinator"]["name"] = "shop"
    agent.spawn()
    wait_until(lambda: "elsewhere" in agent.log_text(), 10, lambda: f"the agent says whose certificate it met: {agent.log_text()}")
    assert not agent.is_ready()
    agent.kill()
    other.kill()


def test_sigterm_is_clean(coordinator, cluster):
    make_database(cluster, "clean")
    agent = agent_for(coordinator, cluster, "clean", "clean").start()
    agent.process.send_signal(signal.SIGTERM)
    assert agent.wait_exit() == 0
