"""Hazard: the promises about cost (design 5) are assumed, not kept.

Method: the coordinator's own counter of fdatasync before and after; the proxies count what the servers are sent.
Seen if wrong: a sync for an abort, more than one for a commit, no sharing among many clients, a second round trip before the vote.
"""

import pytest

from harness.system import fresh, put, step

NAMES = ("orders", "balance")


@pytest.fixture
def quiet(proxied):
    """Registered, warmed up, nothing under way."""
    assert proxied.app.run(put(fresh(), *NAMES)).status == 200
    proxied.no_orphans()
    for proxy in proxied.pg.values():
        proxy.batches.clear()
    return proxied


@pytest.mark.parametrize("what", ["aborted", "read-only", "one participant", "one participant aborted"])
def test_no_forced_write(quiet, what):
    def steps():
        return {"aborted": put(fresh(), *NAMES) + [step("orders", "select 1/0")],
                "read-only": [step(name, "select 1") for name in NAMES],
                "one participant": put(fresh(), "orders"),
                "one participant aborted": put(fresh(), "orders") + [step("orders", "select 1/0")]}[what]

    before = quiet.forced_writes()
    for _ in range(5):
        answer = quiet.app.run(steps())
        assert answer.status == (409 if "aborted" in what else 200), answer
    assert quiet.forced_writes() == before


def test_at_most_one_for_a_commit(quiet):
    before = quiet.forced_writes()
    for _ in range(10):
        assert quiet.app.run(put(fresh(), *NAMES)).status == 200
    assert quiet.forced_writes() <= before + 10


def test_shared_among_many_clients(quiet):
    before = quiet.forced_writes()
    count = 200
    futures = [quiet.app.run_later(put(fresh(), *NAMES)) for _ in range(count)]
    assert [future.result().status for future in futures] == [200] * count
    assert quiet.forced_writes() - before < count * 0.9, "group commit does not share"


def test_one_round_trip_to_the_vote(quiet):
    """BEGIN, statements, guards and PREPARE TRANSACTION are one batch that ends in one Sync."""
    steps = put(fresh(), *NAMES) + [step(name, "select 1") for name in NAMES] + put(fresh(), *NAMES)
    assert quiet.app.run(steps).status == 200
    for name, proxy in quiet.pg.items():
        work = [batch for batch in proxy.batches if any(tag == "PREPARE TRANSACTION" for tag in batch.tags)]
        assert len(work) == 1, proxy.batches
        assert not work[0].simple
        tags = work[0].tags
        assert tags.count("BEGIN") == 1 and tags.index("BEGIN") < tags.index("INSERT 0 1") < tags.index("PREPARE TRANSACTION"), work
        assert sum("insert into item" in sql for sql in work[0].sql) == 2, work
        strays = [batch for batch in proxy.batches if batch is not work[0] and any("item" in sql for sql in batch.sql)]
        assert strays == [], f"{name}: {strays}"
        begins = [batch for batch in proxy.batches if "BEGIN" in batch.tags and batch.connection is work[0].connection]
        assert len(begins) == 1, begins


def test_commit_prepared_has_a_sync_of_its_own(quiet):
    """Hazards 1.11: behind another statement since the last Sync it is refused, and one failure would skip the rest."""
    futures = [quiet.app.run_later(put(fresh(), *NAMES)) for _ in range(40)]
    assert [future.result().status for future in futures] == [200] * 40
    for proxy in quiet.pg.values():
        finishes = [batch for batch in proxy.batches if "COMMIT PREPARED" in batch.tags]
        assert len(finishes) == 40
        assert all(batch.tags.count("COMMIT PREPARED") == 1 for batch in finishes), finishes
        workers = {batch.connection for batch in proxy.batches if "PREPARE TRANSACTION" in batch.tags}
        assert not workers & {batch.connection for batch in finishes}, "COMMIT PREPARED on a worker's connection can queue behind a statement"
