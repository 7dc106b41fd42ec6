"""Hazard: a write or fsync of the decision log fails, and it is retried, or the decision is turned round (hazards D2, design 2.3).

Method: failpoints with the action `error` where the log writes and syncs; a full disk for new segments.
Seen if wrong: another exit status than 74, a commit acknowledged without a durable record, an abort of what is in the log.
"""

import http.client
import time

import pytest

from harness.base import stays_true, wait_until
from harness.system import fresh, put

NAMES = ("orders", "balance")


@pytest.mark.parametrize("name", ["dlog_before_write", "dlog_after_write", "dlog_after_sync"])
def test_failed_sync_stops_with_74(shared, name):
    """Passed at start as well, and by the marks of idleness, so the count is raised until the coordinator lives long enough for everybody to join."""
    coordinator = shared.coordinator
    coordinator.kill()
    for count in range(1, 20):
        coordinator.spawn(fail=f"{name}=error@{count}")
        wait_until(lambda: not coordinator.running() or (coordinator.livez() and all(agent.is_ready() for agent in shared.agents.values())), 30,
                   "everybody has joined, or the coordinator has stopped")
        if coordinator.running():
            break
        assert coordinator.wait_exit() == 74, coordinator.log_text()
    key = fresh()
    try:
        answer = shared.app.run(put(key, *NAMES))
    except (OSError, http.client.HTTPException):
        answer = None
    assert coordinator.wait_exit() == 74, coordinator.log_text()
    assert answer is None or answer.state != "aborted", f"a failed sync must not be told as an abort: {answer}"
    shared.heal()
    outcome = shared.agree(key, NAMES, None)
    assert answer is None or answer.state != "committed" or outcome == "committed"
    shared.alive()


def commits_seen(system):
    """COMMIT messages that have left the coordinator, and COMMIT PREPARED that have reached a server."""
    return (sum(message.kind == "decide" and message.body.commit for link in system.link.values() for message in link.log) +
            sum(sql.lower().startswith("commit prepared") for proxy in system.pg.values() for batch in proxy.batches for sql in batch.sql))


@pytest.mark.parametrize("name", ["dlog_before_write", "dlog_after_write"])
def test_no_commit_leaves_before_the_decision_is_durable(proxied, name):
    """The log's writer is slow (3 s before its write, or before its sync): all branches are prepared, and nobody is told anything.

    The point is also passed while the coordinator starts, so the count is raised until it lies in the transaction."""
    for count in range(1, 12):
        proxied.coordinator.kill()
        proxied.coordinator.start(fail=f"{name}=delay:3000@{count}")
        proxied.wait_ready()
        before, key = commits_seen(proxied), fresh()
        future = proxied.app.run_later(put(key, *NAMES), wait="decided")
        wait_until(lambda: future.done() or all(proxied.db[participant].prepared() for participant in NAMES), 10, "all branches are prepared")
        started = time.monotonic()
        wait_until(lambda: future.done() or time.monotonic() > started + 0.5, 10, "half a second passes")
        if not future.done():
            stays_true(lambda: commits_seen(proxied) == before and not future.done(), 1, "COMMIT left, or the client was told, before the sync")
            assert future.result().status == 200
            proxied.agree(key, NAMES, "committed")
            return
        assert future.result().status == 200
    raise AssertionError(f"{name} was not reached in a transaction")
