"""Hazard: an outside hand finishes a branch the other way, or prepares a finished gid again; and lockstep guesses, or is silent, or
touches what is not its own (design 2.4, 2.7, 2.9).

Method: branches are held between vote and decision by the proxies, and SQL by the administrator does the rest.
Seen if wrong: state "committed" or "aborted" for a broken transaction, a stranger's work committed, a foreign gid rolled back.
"""

import pytest

from harness.base import stays_true, wait_until
from harness.programs import command
from harness.system import fresh, put, step

NAMES = ("orders", "balance")


def decided_but_not_applied(system, key):
    """A committed transaction whose decision has not reached `orders`; its answer, gid, and the rule to release."""
    rule = system.link["orders"].at("decide", "hold", up=False)
    answer = system.app.run(put(key, *NAMES), wait="decided")
    assert answer.status == 200 and answer.state == "committed", answer
    rule.wait_hit()
    gid = wait_until(lambda: system.db["orders"].prepared(), 5, "orders is prepared")[0]
    return answer, gid, rule


def test_rolled_back_by_hand_after_the_decision(proxied):
    """The log says commit, somebody rolled one branch back: hazard, said in state, list and exit status, and kept."""
    key = fresh()
    answer, gid, rule = decided_but_not_applied(proxied, key)
    proxied.db["orders"].execute(f"rollback prepared '{gid}'")
    rule.release()
    known = proxied.app.wait_state(answer.gtid, ("hazard",))
    assert known.status == 200, known  # the decision was to commit
    assert "orders" in known.raw.decode()
    assert proxied.count("balance", key) == 1 and proxied.count("orders", key) == 0
    shown = command("tx", "show", answer.gtid, coordinator=proxied.coordinator)
    assert shown.returncode == 7, shown
    assert answer.gtid in proxied.admin.list(state="hazard").raw.decode()
    assert proxied.admin.metrics().value("lockstepd_transactions_total", outcome="hazard") >= 1
    proxied.coordinator.restart()
    proxied.wait_ready()
    assert proxied.app.wait_state(answer.gtid, ("hazard", "committed", "aborted")).state == "hazard"
    proxied.alive()


def test_committed_by_hand_after_the_decision(proxied):
    """The outside hand did what was decided anyway: proof finds it, no alarm."""
    key = fresh()
    answer, gid, rule = decided_but_not_applied(proxied, key)
    proxied.db["orders"].execute(f"commit prepared '{gid}'")
    rule.release()
    known = proxied.app.get(answer.gtid, for_="applied", timeout="10s")
    assert known.state == "committed" and known.applied is True, known
    proxied.agree(key, NAMES, "committed")


def test_committed_by_hand_though_aborted(proxied):
    """One branch is committed by hand, the transaction is aborted: hazard, never "aborted" for good."""
    key = fresh()
    rule = proxied.link["orders"].at("decide", "hold", up=False)
    future = proxied.app.run_later(put(key, "orders") + [step("balance", "select 1/0 from pg_sleep(0.3)")])
    gid = wait_until(lambda: proxied.db["orders"].prepared(), 5, "orders is prepared")[0]
    rule.wait_hit()
    proxied.db["orders"].execute(f"commit prepared '{gid}'")
    rule.release()
    answer = future.result()
    assert answer.state in ("aborted", "hazard"), answer
    assert proxied.app.wait_state(answer.gtid, ("hazard",)).status == 409  # the decision was not to commit
    assert answer.gtid in proxied.admin.list(state="hazard").raw.decode()
    proxied.alive()


def test_rolled_back_by_hand_before_the_decision(proxied):
    """A voted branch vanishes before the others have voted."""
    key = fresh()
    rule = proxied.pg["balance"].at("prepare transaction", "hold")
    future = proxied.app.run_later(put(key, *NAMES))
    rule.wait_hit()
    gid = wait_until(lambda: proxied.db["orders"].prepared(), 5, "orders is prepared")[0]
    proxied.db["orders"].execute(f"rollback prepared '{gid}'")
    rule.release()
    answer = future.result()
    # the decision was commit, since all had voted: what is broken must be said
    assert answer.state in ("committed", "hazard"), answer
    assert proxied.app.wait_state(answer.gtid, ("hazard",)).state == "hazard"


def stranger(system, gid, key):
    """Prepares `gid` again, as another transaction, with the rights of the application."""
    with system.db["orders"].connect(user="checkout") as session:
        session.execute("begin")
        session.execute("insert into item(k, v) values (%s, 1)", (key,))
        session.execute(f"prepare transaction '{gid}'")


def test_gid_prepared_again_after_the_end(proxied):
    """PostgreSQL accepts a finished gid again (hazards 1.19): only the listed xid is committed, the stranger is rolled back and reported."""
    key, foreign = fresh(), fresh("stranger")
    rule = proxied.pg["orders"].at("commit prepared", "pass")
    answer = proxied.app.run(put(key, *NAMES))
    assert answer.status == 200
    gid = rule.seen[0].sql.split("'")[1]
    stranger(proxied, gid, foreign)
    wait_until(lambda: not proxied.db["orders"].prepared(), 30, "the sweep rolls the stranger back")
    assert proxied.count("orders", foreign) == 0
    assert proxied.count("orders", key) == 1
    assert proxied.admin.metrics().value("lockstepd_strangers_total") >= 1


def test_gid_prepared_again_before_the_decision_arrives(proxied):
    """The branch was committed by hand and a stranger bears its gid when COMMIT arrives."""
    key, foreign = fresh(), fresh("stranger")
    answer, gid, rule = decided_but_not_applied(proxied, key)
    # for a tenth of a second after its own PREPARE the agent does not look at the list again
    wait_until(lambda: proxied.db["orders"].value("select clock_timestamp() - prepared > '200ms' from pg_prepared_xacts where gid = %s", gid), 5,
               "the branch is old enough to be looked at")
    proxied.db["orders"].execute(f"commit prepared '{gid}'")
    stranger(proxied, gid, foreign)
    rule.release()
    proxied.no_orphans()
    assert proxied.count("orders", foreign) == 0, "a stranger's work was committed"
    assert proxied.app.wait_state(answer.gtid, ("committed", "hazard")).state == "committed"


FOREIGN = ["other-tool-1", "lockstep", "lockstep:", "lockstep:x:orders", "lockstep:other.aaaaaaaaaaaa.1.1:orders",
           "lockstep:shop.aaaaaaaaaaaa.1.1:balance", "lockstep:shop.aaaaaaaaaaaa.01.1:orders", "lockstep:shop.AAAAAAAAAAAA.1.1:orders",
           "lockstep:shop.aaaaaaaaaaaa.1.1:orders ", "1280004948_xx_yy", "lockstep:shop.aaaaaaaaaaaa.1.1:orders"]


def test_foreign_gids_are_left_alone(proxied):
    """Other forms, other coordinators, other participants, an unknown incarnation: never finished by us, also at a start of the agent."""
    database, agent = proxied.db["orders"], proxied.agents["orders"]
    for gid in FOREIGN:
        stranger(proxied, gid, fresh("foreign"))
    try:
        agent.restart()
        proxied.alive()
        stays_true(lambda: set(FOREIGN) <= set(database.prepared()), 1.5, "a foreign prepared transaction was finished")
    finally:
        for gid in FOREIGN:
            database.execute(f"rollback prepared '{gid}'")


def test_orphan_of_our_own_is_rolled_back(proxied):
    """A gid of this incarnation without a decision: presumed abort."""
    gtid = proxied.app.run(put(fresh(), *NAMES)).gtid
    head, sequence = gtid.rsplit(".", 1)
    aborted = proxied.app.run(put(fresh(), *NAMES) + [step("balance", "select 1/0")]).gtid
    assert aborted.startswith(head)
    proxied.no_orphans()  # its own branch may be rolled back after the answer
    stranger(proxied, f"lockstep:{aborted}:orders", fresh("orphan"))
    proxied.agents["orders"].restart()
    proxied.no_orphans()
    assert sequence


def test_live_transaction_is_never_swept(proxied):
    """The sweep meets a branch whose transaction is still undecided: the answer is pending, the branch stays (hazards 1.12)."""
    key = fresh()
    rule = proxied.pg["balance"].at("prepare transaction", "hold")
    future = proxied.app.run_later(put(key, *NAMES), deadline="60s")
    rule.wait_hit()
    wait_until(lambda: proxied.db["orders"].prepared(), 5, "orders is prepared")
    asked = proxied.link["orders"].at("answer", "pass", up=False)
    asked.wait_hit(30, "the sweep asks about the live branch")
    assert proxied.db["orders"].prepared()
    rule.release()
    assert future.result().status == 200
    proxied.agree(key, NAMES, "committed")


@pytest.mark.parametrize("answer_state", ["hazard"])
def test_hazard_is_a_state_not_an_http_error(proxied, answer_state):
    key = fresh()
    answer, gid, rule = decided_but_not_applied(proxied, key)
    proxied.db["orders"].execute(f"rollback prepared '{gid}'")
    rule.release()
    known = proxied.app.wait_state(answer.gtid, (answer_state,))
    assert known.status == 200
    waited = command("tx", "wait", answer.gtid, coordinator=proxied.coordinator)
    assert waited.returncode == 7, waited
