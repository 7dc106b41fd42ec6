"""Hazard: an application's SQL, or anybody else who may log in at a database, keeps lockstep from finishing what it has begun.

Method: the attack on a real server, then a transaction on both databases.
Seen if wrong: the agent waits, spins or ends; what is prepared stays; the databases differ.
"""

import pytest

from harness.base import stays_true, wait_until
from harness.system import System, fresh, put, step

NAMES = ("orders", "balance")


@pytest.fixture(scope="module")
def keeper():
    made = System({"orders": 0, "balance": 1})
    with made.db["orders"].connect() as session:
        session.execute("create role stranger login")
    yield made
    made.close()


@pytest.fixture
def system(keeper):
    keeper.heal()
    return keeper


def prepare_as(system, user, gid):
    with system.db["orders"].connect(user=user, autocommit=False) as session:
        session.execute("select pg_current_xact_id()")
        session.execute(f"prepare transaction '{gid}'")


def test_branch_locks_what_the_agent_writes(system):
    """No lock on an object of schema lockstep can be taken along into a prepared branch: finishers would wait for it for ever."""
    objects = system.db["orders"].query("select c.oid::regclass::text from pg_class c where c.relnamespace = 'lockstep'::regnamespace "
                                        "and c.relkind in ('r', 'v', 'm', 'p', 'f')")
    assert objects
    for (name,) in objects:
        key = fresh()
        answer = system.app.run(put(key, *NAMES) + [step("orders", f"lock table {name} in access exclusive mode")])
        assert answer.status == 409 and answer.sqlstate == "42501", answer
        system.agree(key, NAMES, "aborted")
    system.alive()


def test_stranger_bears_a_gid_of_ours(system):
    """Anybody who may log in can prepare any gid, also one of the future: it is left alone, and nobody stops over it."""
    coordinator, incarnation, epoch, _ = system.app.run(put(fresh(), *NAMES)).gtid.split(".")
    gids = [f"lockstep:{coordinator}.{incarnation}.{number}:orders" for number in (f"{epoch}.1", f"{epoch}.99999999", "4000000000.1")]
    for gid in gids:
        prepare_as(system, "stranger", gid)
    agent = system.agents["orders"]
    wait_until(lambda: agent.log_has("3 prepared transactions bear gids of ours"), 10, "the strangers are reported")
    agent.restart()
    system.alive()
    assert system.coordinator.running()
    assert system.db["orders"].prepared() == sorted(gids)
    with system.db["orders"].connect(user="stranger") as session:
        for gid in gids:
            session.execute(f"rollback prepared '{gid}'")


def test_owner_of_a_prepared_transaction_is_dropped(system):
    """PostgreSQL drops a role over the head of what it has prepared, whose owner is null from then on."""
    gtid = system.app.run(put(fresh(), *NAMES)).gtid
    gid = f"lockstep:{gtid.rpartition('.')[0]}.7:orders"
    system.db["orders"].execute("create role passing login")
    prepare_as(system, "passing", gid)
    system.db["orders"].execute("drop role passing")
    system.agents["orders"].restart()
    system.alive()
    assert system.db["orders"].prepared() == [gid]
    system.db["orders"].execute(f"rollback prepared '{gid}'")


@pytest.mark.parametrize("user", ["stranger", "postgres"])
def test_stranger_calls_its_session_ours(system, user):
    """application_name is anybody's to choose: an agent that cannot end such a session starts all the same."""
    with system.db["orders"].connect(user=user, application_name="lockstep/orders/0123456789abcdef") as session:
        system.agents["orders"].restart()
        system.alive()
        assert session.execute("select 1").fetchone() == (1,)


@pytest.mark.parametrize("encoding,code", [("LATIN1", 233), ("SJIS", 12354)])
def test_branch_changes_the_encoding(system, encoding, code):
    """What is not UTF-8 goes into no answer: a NO, and not the end of the link, on which other transactions run."""
    link = system.agents["orders"].log_text().count("link up")
    key = fresh()
    answer = system.app.run(put(key, *NAMES) + [step("orders", f"select set_config('client_encoding', '{encoding}', true)"),
                                               step("orders", "select chr($1::int) as x", code)])
    assert answer.status == 409 and answer.participant == "orders", answer
    system.agree(key, NAMES, "aborted")
    for _ in range(4):
        assert system.app.run([step("orders", "select 'é' as x")]).body["results"][0]["rows"] == [{"x": "é"}]
        system.alive()
    assert system.agents["orders"].log_text().count("link up") == link


REPLACED = ("declare s record; begin for s in select name, parameter_types, array_length(parameter_types, 1) n from pg_prepared_statements loop "
            "execute 'deallocate ' || quote_ident(s.name); "
            "execute 'prepare ' || quote_ident(s.name) || case when s.n > 0 then '(' || array_to_string(s.parameter_types, ',') || ')' else '' end || ' as select 1'; "
            "end loop; end")


def test_branch_replaces_prepared_statements(system):
    """SQL in a function can drop and replace what the agent has prepared in its session. Later transactions on that session must not
    run without a transaction, and nothing may be shown to it that it can keep."""
    for _ in range(4):
        key = fresh()
        answer = system.app.run(put(key, *NAMES) + [step("orders", f"do $$ {REPLACED} $$")])
        assert answer.status in (200, 409), answer
        system.agree(key, NAMES, "committed" if answer.status == 200 else "aborted")
        for fails in (True, False):
            key = fresh()
            answer = system.app.run(put(key, *NAMES) + ([step("balance", "select 1/0")] if fails else []))
            system.agree(key, NAMES, "committed" if answer.status == 200 else "aborted")


def test_branch_cannot_learn_the_agents_secret(system):
    """The outcome row's statement carries the secret of the agent's life: were it a prepared one, a branch could put its own in its place."""
    system.db["orders"].execute("create table if not exists stolen(x text); grant all on stolen to public")
    replace = ("do $$ declare s record; begin for s in select name, parameter_types from pg_prepared_statements "
               "where array_length(parameter_types, 1) >= 1 loop "
               "execute 'deallocate ' || quote_ident(s.name); execute 'prepare ' || quote_ident(s.name) || '(' || "
               "(select string_agg('text', ',') from unnest(s.parameter_types)) || ') as insert into stolen values ($1)'; end loop; end $$")
    system.app.run([step("orders", replace)])
    for _ in range(4):
        system.app.run(put(fresh(), "orders"))
    system.alive()  # and the sessions that were tampered with are gone
    digest = system.db["orders"].value("select encode(secret_digest, 'hex') from lockstep.life where participant = 'orders'")
    assert not system.db["orders"].query("select x from stolen where encode(sha256(x::bytea), 'hex') = %s", digest)
    system.alive()


def test_results_of_a_read_only_branch_are_not_cut(system):
    """Too many rows are a NO, also where the branch has written nothing and its PREPARE is skipped."""
    answer = system.app.run([step("orders", "select n from generate_series(1, 1001) n")] + put(fresh(), "balance"))
    assert answer.status == 409 and answer.participant == "orders", answer
    answer = system.app.run([step("orders", "select n from generate_series(1, 1000) n")] + put(fresh(), "balance"))
    assert answer.status == 200 and len(answer.body["results"][0]["rows"]) == 1000, answer


def test_sessions_are_not_shared_between_applications(system):
    """What one application leaves behind in a session (here: a prepared statement) is seen by no other, though both have one role."""
    system.agents["orders"].kill()
    system.agents["orders"].config["roles"] = {"app/checkout": "checkout", "app/billing": "checkout"}
    system.agents["orders"].start()
    leave = "do $$ begin if not exists (select from pg_prepared_statements where name = 'mine') then execute 'prepare mine as select 1'; end if; end $$"
    look = step("orders", "select count(*)::int as n from pg_prepared_statements where name = 'mine'")
    billing = system.coordinator.app("billing")
    for _ in range(3):
        assert system.app.run([step("orders", leave), look]).body["results"][1]["rows"] == [{"n": 1}]
        assert billing.run([look]).body["results"][0]["rows"] == [{"n": 0}]


def test_no_storm_of_logins(system):
    """The agent's role may open no more sessions while its only finisher waits for a lock: it does not try all the time."""
    database, agent = system.db["orders"], system.agents["orders"]
    head, _, tail = system.app.run(put(fresh(), "orders")).gtid.rpartition(".")
    sequence, _, number = tail.partition("-")
    database.execute("alter role lockstep_agent connection limit 1")
    try:
        with database.connect(autocommit=False) as forger:
            forger.execute("insert into lockstep.outcome(gtid, participant, state) values (%s, 'orders', 'aborted')",
                           (f"{head}.{int(sequence) + 1}-{number}",))
            future = system.app.run_later(put(fresh(), "orders"), lock_timeout="20s", deadline="20s")
            waiting = "select pid from pg_stat_activity where usename = %s and wait_event_type = 'Lock'"
            pid = wait_until(lambda: database.value(waiting, "checkout"), 10, "the branch waits for its outcome row")
            database.execute("select pg_terminate_backend(%s)", pid)
            wait_until(lambda: database.value(waiting, "lockstep_agent"), 10, "the settlement waits")
            before = agent.log_text().count("no finisher session")
            stays_true(lambda: agent.log_text().count("no finisher session") - before < 15, 4, "a storm of logins")
    finally:
        database.execute("alter role lockstep_agent connection limit -1")
    assert future.result().status in (202, 409), future.result()
    system.alive()
