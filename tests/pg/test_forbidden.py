"""Hazard: a branch's own SQL ends its transaction, changes its owner, or blinds the agent (hazards 1.16, design 2.5, 2.6).

Method: statements that must be refused before anything begins (400 with the path), and functions and CALLs that try it from inside.
Seen if wrong: half of a transaction committed after 409; an owner that the finisher cannot finish for; a vote though a standby was skipped.
"""

import pytest

from harness.system import fresh, put, step

NOT_ALLOWED = [
    "begin", "start transaction", "commit", "commit and chain", "COMMIT", "  commit", "-- x\ncommit", "/* a /* nested */ b */ commit", "end",
    "rollback", "abort", "rollback and chain", "prepare transaction 'x'", "commit prepared 'x'", "rollback prepared 'x'",
    "set role postgres", "reset role", "reset all", "set session authorization default", "set transaction isolation level serializable",
    "set local synchronous_commit = off", "set session characteristics as transaction read only", "discard all", "discard temp",
    "copy item to stdout", "listen x", "unlisten *", "lock table item; commit", "load 'x'", "vacuum", "checkpoint",
    "declare c cursor with hold for select 1", "prepare p as select 1", "deallocate all", "",
    ";", "   ", "-- only a comment", "\ufeffcommit",
]


@pytest.mark.parametrize("sql", NOT_ALLOWED)
def test_refused_before_anything_began(shared, sql):
    key = fresh()
    answer = shared.app.run(put(key, "orders", "balance") + [step("orders", sql)])
    if sql == "lock table item; commit":
        # begins with an allowed or a forbidden word, as the list has it: two statements can never run either way
        assert answer.status in (400, 409), answer
    else:
        assert answer.status == 400, answer
        assert "steps[2].do.sql" in answer.raw.decode(), answer
    assert shared.where(key) == set()


@pytest.mark.parametrize("sql", ["notify x", "do $$ begin commit; end $$", "do $$ begin rollback; end $$", "release savepoint nobody"])
def test_refused_by_the_server(shared, sql):
    """Words the list lets through, since the server itself keeps them from ending the transaction."""
    key = fresh()
    answer = shared.app.run(put(key, "orders", "balance") + [step("orders", sql)])
    assert answer.status in (400, 409), answer
    shared.agree(key, ("orders", "balance"), "aborted")


@pytest.mark.parametrize("sql", ["select 1; commit", "select 1; select 2", "insert into item(k) values ('x'); commit; begin"])
def test_two_statements_in_one(shared, sql):
    key = fresh()
    answer = shared.app.run(put(key, "orders", "balance") + [step("orders", sql)])
    assert answer.status in (400, 409), answer
    shared.agree(key, ("orders", "balance"), "aborted")


ALLOWED = ["select 1", "(select 1)", "/* why */ select 1", "with x as (select 1) select * from x", "values (1)", "savepoint a",
           "table item", "lock table item in row exclusive mode"]


@pytest.mark.parametrize("sql", ALLOWED)
def test_allowed(shared, sql):
    """The list is not so narrow that ordinary work is refused."""
    key = fresh()
    answer = shared.app.run(put(key, "orders", "balance") + [step("orders", sql)])
    if sql.split()[0] in ("table", "lock"):
        assert answer.status in (200, 400), answer  # whether these words are in the list is the list's to say
    else:
        assert answer.status == 200, answer
    shared.agree(key, ("orders", "balance"), "committed" if answer.status == 200 else "aborted")


def function(system, body, kind="function", returns="returns int"):
    name = fresh("trick").replace("-", "_")
    system.db["orders"].execute(f"create {kind} {name}() {returns if kind == 'function' else ''} language plpgsql as $x$ {body} $x$")
    return name


@pytest.mark.parametrize("end", ["commit", "rollback", "commit and chain", "rollback and chain"])
def test_procedure_cannot_end_the_transaction(shared, end):
    """A procedure that commits: PostgreSQL itself refuses that inside an open transaction block."""
    key = fresh()
    name = function(shared, f"begin {end}; end", "procedure")
    answer = shared.app.run(put(key, "orders", "balance") + [step("orders", f"call {name}()")])
    assert answer.status == 409 and answer.sqlstate == "2D000", answer
    shared.agree(key, ("orders", "balance"), "aborted")


def test_function_cannot_spoof_the_marker(shared):
    """Whatever a function sets the marker to, the transaction is not taken for an ended or for another one."""
    key = fresh()
    settings = [row[0] for row in shared.db["orders"].query("select name from pg_settings where name like 'lockstep.%%'")]
    names = {"lockstep.marker", "lockstep.gtid", "lockstep.branch", *settings}
    body = "begin " + " ".join(f"perform set_config('{name}', 'spoofed', false);" for name in sorted(names)) + " return 1; end"
    answer = shared.app.run(put(key, "orders", "balance") + [step("orders", f"select {function(shared, body)}()")])
    # either outcome is safe as long as all agree; a marker that is gone is reported as a broken branch, never as a commit of half
    outcome = shared.agree(key, ("orders", "balance"), None)
    assert (answer.state == "committed") == (outcome == "committed"), answer
    shared.alive()


def test_changed_role_is_no(shared):
    """set_config('role', ...) inside: the prepared transaction would belong to another role, which the finisher is not."""
    shared.db["orders"].execute("grant billing to checkout")
    key = fresh()
    try:
        answer = shared.app.run(put(key, "orders", "balance") + [step("orders", "select set_config('role', 'billing', true)")])
    finally:
        shared.db["orders"].execute("revoke billing from checkout")
    assert answer.status == 409 and answer.participant == "orders", answer
    shared.agree(key, ("orders", "balance"), "aborted")
    shared.alive()


@pytest.mark.parametrize("local", ["true", "false"])
@pytest.mark.parametrize("setting,value", [("synchronous_commit", "off"), ("synchronous_commit", "local"),
                                           ("client_min_messages", "error"), ("lock_timeout", "0"), ("statement_timeout", "0"),
                                           ("session_replication_role", "replica"), ("constraint_exclusion", "off"),
                                           ("idle_in_transaction_session_timeout", "1ms")])
def test_settings_of_the_branch_do_not_matter(shared, setting, value, local):
    """Committed or refused, but the same everywhere, and the session is as good as new afterwards."""
    key = fresh()
    answer = shared.app.run(put(key, "orders", "balance") + [step("orders", f"select set_config('{setting}', '{value}', {local})")])
    outcome = shared.agree(key, ("orders", "balance"), None)
    assert answer.status in (200, 409), answer
    assert (answer.status == 200) == (outcome == "committed"), answer
    key = fresh()
    for _ in range(8):
        key = fresh()
        answer = shared.app.run(put(key, "balance") + [step("orders", "insert into item(k, v, note) values "
                                                            f"($1, 1, current_setting('{setting}'))", key)])
        assert answer.status == 200, answer
        note = shared.db["orders"].value("select note from item where k = %s", key)
        if setting == "synchronous_commit":
            assert note in ("on", "remote_apply"), f"{setting} stayed {note}"


def test_savepoints_are_fine(shared):
    key = fresh()
    steps = put(key, "orders", "balance") + [step("orders", "savepoint a"), step("orders", "insert into item(k, v) values ($1, 1)", key + "-sp"),
                                             step("orders", "release savepoint a")]
    answer = shared.app.run(steps)
    assert answer.status == 200, answer
    assert shared.count("orders", key + "-sp") == 1
