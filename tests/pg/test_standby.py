"""Hazard: a wait for a synchronous standby that is cancelled looks like success (hazards 1.3, 1.16, 1.18, 1.20); a failover keeps a branch
on another timeline, or loses it (design 2.4, 2.8, E1).

Method: a primary that waits for a standby which is not there, or is; waits cancelled by hand; promotion with and without loss.
Seen if wrong: a vote YES that no standby has; a lost branch called committed; a branch on the new timeline left behind.
"""

import glob
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.base import wait_until
from harness.system import System, fresh, put, step

NAMES = ("orders", "balance")


@pytest.fixture(scope="module")
def system_kept():
    made = System({"orders": 0, "balance": 1}, link_proxies=("orders",))
    yield made
    made.close()


@pytest.fixture
def system(system_kept):
    yield system_kept
    system_kept.clusters[0].set(synchronous_standby_names="''")
    system_kept.heal()
    system_kept.no_orphans(20)


def waiting(database, query):
    return [row[0] for row in database.query("select pid from pg_stat_activity where wait_event = 'SyncRep' and query ilike %s", query)]


@pytest.mark.parametrize("trick", ["", "select set_config('synchronous_commit', 'local', true)", "select set_config('synchronous_commit', 'off', false)"])
def test_no_vote_without_the_standby(system, trick):
    """PREPARE waits for the standby whatever the branch sets; at the deadline it is an abort, and nothing stays."""
    key = fresh()
    system.clusters[0].wait_for_nobody()
    answer = system.app.run(put(key, *NAMES) + ([step("orders", trick)] if trick else []), deadline="1s")
    assert answer.status == 409 and answer.state == "aborted", answer
    system.clusters[0].set(synchronous_standby_names="''")
    system.agree(key, NAMES, "aborted")


@pytest.mark.parametrize("how", ["pg_cancel_backend", "pg_terminate_backend"])
def test_cancelled_wait_at_prepare_is_no(system, how):
    """The answer is PREPARE TRANSACTION with a WARNING (or the connection ends): prepared here, perhaps nowhere else."""
    key = fresh()
    system.clusters[0].wait_for_nobody()
    future = system.app.run_later(put(key, *NAMES), deadline="20s")
    pids = wait_until(lambda: waiting(system.db["orders"], "%"), 10, "PREPARE waits for the standby")
    system.db["orders"].execute(f"select {how}(%s)", pids[0])
    system.clusters[0].set(synchronous_standby_names="''")
    answer = future.result()
    assert answer.state == "aborted", answer
    system.agree(key, NAMES, "aborted")


def test_cancelled_wait_at_commit_is_committed(system):
    """At COMMIT PREPARED the same WARNING means committed, replication unknown."""
    key = fresh()
    rule = system.link["orders"].at("decide", "hold", up=False)
    answer = system.app.run(put(key, *NAMES), wait="decided")
    rule.wait_hit()
    system.clusters[0].wait_for_nobody()
    rule.release()
    pids = wait_until(lambda: waiting(system.db["orders"], "%commit prepared%"), 10, "COMMIT PREPARED waits for the standby")
    system.db["orders"].execute("select pg_cancel_backend(%s)", pids[0])
    known = system.app.get(answer.gtid, for_="applied", timeout="10s")
    assert known.state == "committed" and known.applied is True, known
    system.clusters[0].set(synchronous_standby_names="''")
    system.agree(key, NAMES, "committed")


def test_listed_while_it_waits_is_not_a_vote(system):
    """A gid is listed in pg_prepared_xacts while its PREPARE still waits: the sweep may not make a vote of it (hazards 1.18)."""
    key = fresh()
    system.clusters[0].wait_for_nobody()
    future = system.app.run_later(put(key, *NAMES), deadline="2s")
    wait_until(lambda: system.db["orders"].prepared(), 10, "the waiting branch is listed")
    assert not future.done()
    answer = future.result()
    assert answer.state == "aborted", answer
    system.clusters[0].set(synchronous_standby_names="''")
    system.agree(key, NAMES, "aborted")


def test_one_participant_waits_too(system):
    """Plain COMMIT without the standby: never acknowledged as replicated; pending or committed, and the truth afterwards."""
    key = fresh()
    system.clusters[0].wait_for_nobody()
    future = system.app.run_later(put(key, "orders"), deadline="1s", timeout=30)
    wait_until(lambda: waiting(system.db["orders"], "%"), 10, "COMMIT waits for the standby")
    assert not future.done() or future.result().status == 202
    system.clusters[0].set(synchronous_standby_names="''")
    answer = future.result()
    answer = system.app.wait_state(answer.gtid, ("committed", "aborted"))
    assert (answer.state == "committed") == (system.count("orders", key) == 1), answer


class Pair:
    """A primary with a streaming standby, and an agent that finds whichever takes writes."""

    def __init__(self, synchronous, coordinator=None):
        self.system = System({"orders": 0, "balance": 1}, link_proxies=("orders",), start=False, coordinator=coordinator)
        self.primary = self.system.clusters[0]
        self.standby = self.primary.make_standby()
        if synchronous:
            self.primary.set(synchronous_standby_names="'second'")
        self.primary.wait_streaming()
        agent = self.system.agents["orders"]
        agent.config["database"]["conninfo"] = (f"host={self.primary.directory},{self.standby.directory} port=5432 dbname=orders "
                                                "user=lockstep_agent target_session_attrs=read-write")
        self.system.start()

    def fail_over(self):
        """The primary dies for good, the standby is promoted."""
        self.primary.kill()
        self.standby.promote()
        self.system.clusters[0] = self.standby
        self.system.db["orders"].close()
        self.system.db["orders"].cluster = self.standby

    def close(self):
        self.system.close()
        self.primary.remove()
        self.standby.remove()


def decided(system, key):
    """Committed, and the decision has not reached orders."""
    rule = system.link["orders"].at("decide", "hold", up=False)
    answer = system.app.run(put(key, *NAMES), wait="decided")
    assert answer.status == 200, answer
    rule.wait_hit()
    return answer, rule


def test_failover_without_loss():
    """The branch is prepared on the new primary as well: it is committed there, after a proof on the new timeline."""
    pair = Pair(synchronous=True)
    try:
        system, keys = pair.system, [fresh(), fresh()]
        assert system.app.run(put(keys[0], *NAMES)).status == 200
        answer, rule = decided(system, keys[1])
        pair.fail_over()
        rule.release()
        system.wait_ready(30)
        known = system.app.get(answer.gtid, for_="applied", timeout="10s")
        assert known.state == "committed" and known.applied is True, known
        for key in keys:
            system.agree(key, NAMES, "committed")
        system.alive()
    finally:
        pair.close()


def test_failover_that_lost_the_prepare():
    """The standby never got the branch: the decision cannot be kept. Hazard, said loudly, and never "committed" or "aborted"."""
    pair = Pair(synchronous=False)
    try:
        system, key = pair.system, fresh()
        system.alive()
        pair.primary.wait_replayed()
        pair.standby.stop()  # from here on it gets nothing more
        answer, rule = decided(system, key)
        pair.primary.kill()
        pair.standby.start()
        pair.fail_over()
        rule.release()
        known = system.app.wait_state(answer.gtid, ("hazard",), 40)
        assert known.state == "hazard", known
        assert system.count("orders", key) == 0 and system.count("balance", key) == 1
    finally:
        pair.close()


def test_failover_that_lost_a_finished_branch():
    """Everything was over, then the failover goes back behind PREPARE: the hazard is shown to whose transaction it was, also after a restart."""
    pair = Pair(synchronous=False)
    try:
        system, key = pair.system, fresh()
        system.alive()
        pair.primary.wait_replayed()
        pair.standby.stop()
        answer = system.app.run(put(key, *NAMES))
        assert answer.status == 200 and answer.applied is True, answer
        pair.primary.kill()
        pair.standby.start()
        pair.fail_over()
        assert system.app.wait_state(answer.gtid, ("hazard",), 40).participant == "orders"
        system.coordinator.restart()
        assert system.app.wait_state(answer.gtid, ("hazard",), 10).state == "hazard"
        assert system.coordinator.app("billing").get(answer.gtid).status == 403
    finally:
        pair.close()


def applied_behind_the_standby(pair, key):
    """A commit that is applied and acknowledged, of which the standby has only the prepared branch: it stands still."""
    answer, rule = decided(pair.system, key)
    pair.primary.wait_replayed()
    pair.standby.stop()
    rule.release()
    assert pair.system.app.get(answer.gtid, for_="applied", timeout="10s").applied is True


def test_failover_that_lost_a_commit():
    """Applied everywhere and acknowledged, then the failover goes back behind COMMIT PREPARED: the branch is prepared again, and is
    committed again from the kept decision (design 2.8)."""
    pair = Pair(synchronous=False)
    try:
        system, key = pair.system, fresh()
        applied_behind_the_standby(pair, key)
        assert system.count("orders", key) == 1
        pair.primary.kill()
        pair.standby.start()
        pair.fail_over()
        system.wait_ready(40)
        system.no_orphans(20)
        assert system.count("orders", key) == 1, "an acknowledged commit was lost though its branch came back prepared"
    finally:
        pair.close()


@pytest.mark.parametrize("point", ["coord_sighting_appended", "coord_history_proved"])
def test_failover_between_prepare_and_the_position_of_its_vote(point):
    """A vote's position is read behind PREPARE, when others have flushed more: an upper bound. The failover keeps the branch, but by that position it
    would be lost. The coordinator dies before what it has seen of it is durable; or the branch is committed there, and the coordinator dies before it
    has noted the new timeline, and proves the branch again: no hazard."""
    pair = Pair(synchronous=False)
    try:
        system, key = pair.system, fresh()
        system.alive()
        pair.primary.wait_for_nobody()
        rule = system.link["orders"].at("decide", "hold", up=False)
        future = system.app.run_later(put(key, *NAMES), wait="decided", deadline="30s")
        wait_until(lambda: system.db["orders"].prepared(), 10, "PREPARE waits for a standby that is not there")
        pair.primary.go_on_alone(pair.standby)
        answer = future.result()
        assert answer.status == 200, answer
        rule.wait_hit()
        system.coordinator.restart(fail=f"{point}=kill")  # at the failover that follows
        pair.primary.kill()
        pair.standby.start()
        pair.fail_over()
        rule.release()
        wait_until(lambda: system.coordinator.process.poll() is not None, 40, f"the coordinator dies at {point}")
        system.coordinator.reap()
        system.agents["orders"].kill()  # and with it what it remembers
        system.coordinator.start()
        system.agents["orders"].start()
        system.wait_ready(30)
        wait_until(lambda: system.coordinator.log_has("INFO", "are proved on the server's new history"), 30, "all is proved again")
        known = system.app.get(answer.gtid, for_="applied", timeout="10s")
        assert known.state == "committed" and known.applied is True, known
        assert not system.coordinator.log_has("ERROR", "hazard") and not system.coordinator.log_has("WARN", "hazard")
        system.agree(key, NAMES, "committed")
        system.alive()
    finally:
        pair.close()


def test_failover_while_the_log_cannot_be_read():
    """Proving the kept decisions on the new history fails at first (an old segment of the log cannot be read): it is tried again by itself."""
    pair = Pair(synchronous=False, coordinator={"log": {"segment_size": "64KiB"}})
    try:
        system, key = pair.system, fresh()
        with ThreadPoolExecutor(8) as pool:  # into the second segment, where what an agent says of the log at its Hello is looked for
            list(pool.map(lambda _: system.app.run(put(fresh(), *NAMES)), range(260)))
        applied_behind_the_standby(pair, key)
        first = sorted(glob.glob(os.path.join(system.coordinator.data, "log", "*.seg")))[0]
        os.rename(first, first + ".away")
        os.mkdir(first)  # whoever reads the log gets EISDIR
        pair.primary.kill()
        pair.standby.start()
        pair.fail_over()
        wait_until(lambda: system.coordinator.log_has("ERROR", "cannot be proved on the server's new history"), 40, "proving has failed")
        os.rmdir(first)
        os.rename(first + ".away", first)
        wait_until(lambda: system.coordinator.log_has("INFO", "are proved on the server's new history"), 40, "it was tried again")
        system.no_orphans(20)
        assert system.count("orders", key) == 1
    finally:
        pair.close()
