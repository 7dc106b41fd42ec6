"""Hazard: the backend of a dead agent lives on, waits for a lock, and prepares when it gets it (hazards 1.5): an orphan that holds the
lock the next zombie waits for.

Method: the agent, or everything, is killed while statements wait for a row; the row is freed afterwards, at different moments.
Seen if wrong: a prepared transaction or a lock 10 s later, a change of an aborted transaction.
"""

import http.client

import pytest

from harness.base import wait_until
from harness.system import fresh, put, step

NAMES = ("orders", "balance")


def result(future):
    try:
        return future.result()
    except (OSError, http.client.HTTPException):
        return None


@pytest.mark.parametrize("freed", ["before the agent returns", "while it starts", "after it is ready"])
@pytest.mark.parametrize("zombies", [1, 6])
def test_zombie_prepare(proxied, zombies, freed):
    row, agent = fresh("row"), proxied.agents["orders"]
    keys = [fresh() for _ in range(zombies)]
    proxied.db["orders"].execute("insert into item(k, v) values (%s, 0)", row)
    with proxied.db["orders"].connect(autocommit=False) as holder:
        holder.execute("update item set v = 1 where k = %s", (row,))
        futures = [proxied.app.run_later([step("orders", "update item set v = v + 10 where k = $1", row)] + put(key, *NAMES),
                                         lock_timeout="30s") for key in keys]
        wait_until(lambda: proxied.db["orders"].value("select count(*) from pg_locks where not granted") >= zombies, 10,
                   "all wait for the row")
        agent.kill()
        if freed == "before the agent returns":
            holder.commit()
            agent.start()
        elif freed == "while it starts":
            agent.spawn()
            holder.commit()
            agent.wait_ready()
        else:
            agent.start()
            holder.commit()
    answers = [result(future) for future in futures]
    assert all(answer is not None and answer.state == "aborted" for answer in answers), answers
    proxied.no_orphans()
    assert proxied.db["orders"].value("select v from item where k = %s", row) == 1
    for key in keys:
        proxied.agree(key, NAMES, "aborted")
    proxied.alive()


def test_earlier_lifes_backends_are_gone_before_work_is_taken(proxied):
    """When the agent says ready, no session of its earlier life is left, not even one that waits for a lock and has noticed nothing."""
    agent, database, row = proxied.agents["orders"], proxied.db["orders"], fresh("row")
    query = "select pid from pg_stat_activity where application_name like 'lockstep/orders/%%'"
    database.execute("insert into item(k, v) values (%s, 0)", row)
    with database.connect(autocommit=False) as holder:
        holder.execute("update item set v = 1 where k = %s", (row,))
        future = proxied.app.run_later([step("orders", "update item set v = v + 10 where k = $1", row)] + put(fresh(), *NAMES), lock_timeout="30s")
        wait_until(lambda: database.value("select count(*) from pg_locks where not granted") == 1, 10, "the branch waits for the row")
        old = {row[0] for row in database.query(query)}
        agent.kill()
        agent.start()
        left = {row[0] for row in database.query(query)} & old
        assert not left, f"backends of the earlier life are still there: {left}"
        assert database.query(query)
    assert future.result().state == "aborted"


def test_agent_killed_while_preparing_waits(proxied):
    """PREPARE itself waits (a deferred trigger that sleeps): the zombie prepares after its agent is gone."""
    key, agent = fresh(), proxied.agents["orders"]
    name = fresh("slow").replace("-", "_")
    proxied.db["orders"].execute(
        f"create table {name}(a int); grant all on {name} to checkout;"
        f"create function {name}_wait() returns trigger language plpgsql as $$ begin perform pg_sleep(2); return null; end $$;"
        f"create constraint trigger wait after insert on {name} deferrable initially deferred for each row execute function {name}_wait()")
    future = proxied.app.run_later(put(key, *NAMES) + [step("orders", f"insert into {name} values (1)")])
    wait_until(lambda: proxied.db["orders"].value("select count(*) from pg_stat_activity where wait_event = 'PgSleep'") > 0, 10,
               "the trigger sleeps")
    agent.kill()
    agent.start()
    answer = future.result()
    assert answer.state == "aborted", answer
    proxied.agree(key, NAMES, "aborted")
    proxied.alive()
