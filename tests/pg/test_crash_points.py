"""Hazard: a process dies between two steps of the protocol, and what recovery does there is wrong.

Method: the crash points of a transaction (common/failpoints.def), one by one, with the real programs: the process kills itself (SIGKILL) at the point while
a transaction runs; alone, together with every other process, or stopped there while its server is killed. Then everything is
started again. Before that, `lockstep log dump` says offline whether the decision is in the log: that, and nothing else, is the outcome.
Seen if wrong: the databases differ; an acknowledged commit is missing or a refused one there; a prepared transaction 10 s
after; another outcome than the log has; a repeat with the same key that runs twice.
"""

import http.client
import json

import pytest

from harness.base import alive, wait_until
from harness.programs import command
from harness.system import System, fresh, put, step

# The points of a transaction, each a story of its own; tests/crash/matrix.py kills at these and at all others.
COORDINATOR = ["coord_run_accepted", "coord_work_sent", "coord_vote_received", "coord_before_log_append", "coord_after_log_append", "dlog_before_write",
               "dlog_after_write", "dlog_after_sync", "coord_decision_durable", "coord_commit_sent", "coord_before_reply", "coord_done_received",
               "coord_before_end_append"]
AGENT = ["agent_work_received", "agent_before_pipeline", "agent_after_pipeline_sent", "agent_before_vote", "agent_after_vote", "agent_decide_received",
         "agent_before_finish", "agent_after_finish_sent", "agent_before_done", "agent_before_one_phase_commit", "agent_after_one_phase_commit",
         "agent_before_tombstone", "agent_after_tombstone"]
# passed by a starting agent that finds a prepared branch
AT_START = {"agent_cleanup_started", "agent_before_inquiry", "agent_answer_received"}
FIRST_CONTACT = {"agent_fence_before_store"}  # passed by an agent that meets its coordinator for the first time
ONE_PHASE = {"agent_before_one_phase_commit", "agent_after_one_phase_commit", "agent_before_tombstone", "agent_after_tombstone"}
TOMBSTONE = {"agent_before_tombstone", "agent_after_tombstone"}
NAMES = ("orders", "balance")
STARTS_MAX = 8


def settle(future):
    """The answer the client got, or None when it got none."""
    try:
        return future.result()
    except (OSError, http.client.HTTPException):
        return None


def start_with(system, daemon, name, action):
    """Starts `daemon` so that it acts at `name` while the transaction runs: a point that is also passed at start, or when the agents
    join and open decisions are sent again, is skipped by count. Each death on the way is a test of its own: the next life must cope."""
    kill_and_be_missed(system, daemon)
    for count in range(1, STARTS_MAX + 1):
        daemon.spawn(fail=f"{name}={action}@{count}")
        wait_until(lambda: ended(daemon) or (system.coordinator.livez() and all(agent.is_ready() for agent in system.agents.values())), 20,
                   f"{daemon.binary} is ready or dead")
        if not ended(daemon):
            return
        kill_and_be_missed(system, daemon)
    raise AssertionError(f"{name} is passed {STARTS_MAX} times before {daemon.binary} is ready")


def kill_and_be_missed(system, daemon):
    """Until the coordinator has noticed, it would still say "ready" of the agent's life before, and the transaction would die with that one."""
    daemon.kill()
    if daemon in system.agents.values():
        wait_until(lambda: not daemon.is_ready(), 20, f"the coordinator notices that agent {daemon.name} is gone")


def ended(daemon):
    return daemon.process.poll() is not None or stopped(daemon)


def stopped(daemon):
    with open(f"/proc/{daemon.process.pid}/stat", encoding="utf-8") as file:
        return file.read().rpartition(")")[2].split()[0] == "T"


def commits_logged(system):
    """How many different transactions the decision log, read offline, has decisions of."""
    done = command("log", "dump", system.coordinator.data, "-o", "json")
    assert done.returncode == 0, done
    records = [json.loads(line) for line in done.stdout.splitlines()]
    return len({(record["epoch"], record["sequence"]) for record in records if record["type"] == "commit"})


def start_workload(system, name, key, word):
    if name in TOMBSTONE:
        system.pg["orders"].at("commit", "reset")
    return system.app.run_later(put(key, *(("orders",) if name in ONE_PHASE else NAMES)), key=word)


def audit(system, key, word, names, answer):
    """Everything runs again: agreement, promises kept, the same key gives the same transaction."""
    outcome = system.agree(key, names, None)
    if answer is not None and answer.state in ("committed", "aborted"):
        assert outcome == answer.state, f"the client was told {answer}, the databases say {outcome}"
    if answer is not None and answer.gtid:
        known = system.app.get(answer.gtid, for_="decided", timeout="10s")
        # nothing is logged for an abort: a coordinator that was restarted says that it has no record, and not "aborted"
        assert known.state == outcome or (known.code == "no_record" and outcome == "aborted"), known
    again = system.run(put(key, *names), key=word)
    assert again.status == 200, f"a repeat with the same key: {again}; before: {outcome}"
    assert system.agree(key, names, "committed")
    for participant in names:
        assert system.count(participant, key) == 1
    system.alive()
    return outcome


@pytest.mark.parametrize("also", ["alone", "everything"])
@pytest.mark.parametrize("name", COORDINATOR)
def test_coordinator_killed(proxied, name, also):
    key, word = fresh(), fresh("idem")
    start_with(proxied, proxied.coordinator, name, "kill")
    before = commits_logged(proxied)
    future = start_workload(proxied, name, key, word)
    assert proxied.coordinator.wait_exit() == -9, f"{name} was not reached"
    if also == "everything":
        for agent in proxied.agents.values():
            agent.kill()
        for cluster in proxied.clusters:
            cluster.kill()
    answer = settle(future)
    decided = commits_logged(proxied) > before
    proxied.heal()
    outcome = audit(proxied, key, word, NAMES, answer)
    assert outcome == ("committed" if decided else "aborted"), f"the log has {'a' if decided else 'no'} decision, the databases say {outcome}"


@pytest.mark.parametrize("also", ["alone", "everything", "server"])
@pytest.mark.parametrize("name", AGENT)
def test_agent_killed(proxied, name, also):
    """"server": the agent is stopped at the point, its server killed and restarted, then the agent goes on."""
    key, word = fresh(), fresh("idem")
    agent = proxied.agents["orders"]
    start_with(proxied, agent, name, "stop" if also == "server" else "kill")
    future = start_workload(proxied, name, key, word)
    if also == "server":
        wait_until(lambda: stopped(agent), 20, f"the agent stops at {name}")
        proxied.clusters[0].kill()
        proxied.clusters[0].start()
        agent.thaw()
    else:
        assert agent.wait_exit() == -9, f"{name} was not reached"
        if also == "everything":
            proxied.coordinator.kill()
            for cluster in proxied.clusters:
                cluster.kill()
    if also != "everything":
        proxied.heal()
    answer = settle(future)
    proxied.heal()
    audit(proxied, key, word, ("orders",) if name in ONE_PHASE else NAMES, answer)


@pytest.mark.parametrize("also", ["alone", "everything"])
@pytest.mark.parametrize("verdict", ["commit", "abort", "pending"])
@pytest.mark.parametrize("name", sorted(AT_START))
def test_starting_agent_killed(proxied, name, verdict, also):
    """A branch is prepared when its agent dies; the next life dies at its clean-up, before it asks, or with the answer in hand.

    Decisions are dropped on the way, so that only the agent's own question can tell it."""
    key, word = fresh(), fresh("idem")
    agent = proxied.agents["orders"]
    lost = proxied.link["orders"].at("decide", "drop", up=False, times=None)
    late = proxied.pg["balance"].at("prepare transaction", "hold") if verdict == "pending" else None
    fails = [step("balance", "select 1/0 from pg_sleep(0.2)")] if verdict == "abort" else []
    future = proxied.app.run_later(put(key, *NAMES) + fails, key=word, wait="decided")
    wait_until(lambda: proxied.db["orders"].prepared(), 10, "the branch is prepared")
    (late or lost).wait_hit()
    agent.kill()
    agent.spawn(fail=f"{name}=kill")
    assert agent.wait_exit() == -9, f"{name} was not reached"
    if also == "everything":
        proxied.coordinator.kill()
        for cluster in proxied.clusters:
            cluster.kill()
    proxied.heal()
    answer = settle(future)
    if verdict == "abort":
        proxied.agree(key, NAMES, "aborted")
        proxied.alive()
    else:
        outcome = audit(proxied, key, word, NAMES, answer)
        assert verdict == "pending" or outcome == "committed"


@pytest.mark.parametrize("name", sorted(FIRST_CONTACT))
def test_agent_killed_at_first_contact(name):
    system = System({"orders": 0, "balance": 0}, start=False)
    try:
        system.coordinator.start()
        system.agents["orders"].spawn(fail=f"{name}=kill")
        assert system.agents["orders"].wait_exit() == -9, f"{name} was not reached"
        system.heal()
        system.alive()
    finally:
        system.close()


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("statement", ["begin", "prepare transaction", "commit prepared", "rollback prepared"])
def test_server_killed_at_statement(proxied, statement, moment):
    """The server dies as the statement is about to reach it, or has just answered it."""
    key, word = fresh(), fresh("idem")
    cluster = proxied.clusters[0]
    if moment == "before":
        rule = proxied.pg["orders"].at(statement, "hold")
    else:
        rule = proxied.pg["orders"].at(statement, "hold_reply")
    steps = put(key, *NAMES)
    if statement == "rollback prepared":
        steps.append(step("balance", "select 1/0 from pg_sleep(0.3)"))
    future = proxied.app.run_later(steps, key=word)
    rule.wait_hit()
    if moment == "after":
        rule.wait_done()
    cluster.kill()
    proxied.heal()
    answer = settle(future)
    outcome = proxied.agree(key, NAMES, None)
    if answer is not None and answer.state in ("committed", "aborted"):
        assert outcome == answer.state, answer
    if statement == "commit prepared":
        assert outcome == "committed"
    if statement == "rollback prepared":
        assert outcome == "aborted"
    proxied.alive()


# every message of the protocol between coordinator and agent; `up` is towards the coordinator
MESSAGES = [("hello", True), ("welcome", False), ("ready", True), ("work", False), ("vote", True), ("decide", False), ("done", True),
            ("inquiry", True), ("answer", False)]


@pytest.mark.parametrize("victim", ["coordinator", "agent", "server"])
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("kind,up", MESSAGES, ids=lambda value: value if isinstance(value, str) else "")
def test_killed_at_message(proxied, kind, up, moment, victim):
    """A process dies just before or just after a message has left the other's hands: every message, every process."""
    key, word = fresh(), fresh("idem")
    link, agent = proxied.link["orders"], proxied.agents["orders"]
    kill = {"coordinator": proxied.coordinator.kill, "agent": agent.kill, "server": proxied.clusters[0].kill}[victim]
    future = None
    if kind in ("hello", "welcome", "ready", "inquiry", "answer"):
        # these pass when an agent comes back and finds a prepared branch
        lost = link.at("decide", "drop", up=False, times=None)
        future = proxied.app.run_later(put(key, *NAMES), key=word, wait="decided")
        lost.wait_hit()
        agent.kill()
        rule = link.at(kind, "pass", up=up, **{moment: kill})
        agent.spawn()
    else:
        rule = link.at(kind, "pass", up=up, **{moment: kill})
        future = proxied.app.run_later(put(key, *NAMES), key=word)
    rule.wait_hit()
    wait_until(lambda: not {"coordinator": proxied.coordinator, "agent": agent, "server": proxied.clusters[0]}[victim].process, 10,
               "the process is gone")
    proxied.heal()
    answer = settle(future)
    audit(proxied, key, word, NAMES, answer)
    assert alive(proxied.coordinator.process.pid)
