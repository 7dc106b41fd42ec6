"""What PostgreSQL itself does, on which the design stands; and that the harness shows it truly.

Hazard: a rule of lockstep rests on a belief about the server that is wrong, or a proxy of the harness does not do what its name says.
Method: by hand, with psycopg, without any program of lockstep.
Seen if wrong: the named behaviour differs on this version of PostgreSQL.
"""

import threading

import psycopg
import pytest

from harness.base import wait_until
from harness.cluster import Cluster
from harness.proxy import PgProxy


@pytest.fixture(scope="module")
def cluster():
    made = Cluster()
    yield made
    made.remove()


@pytest.fixture(scope="module")
def database(cluster):
    made = cluster.create_database("facts")
    made.execute("create table kv(k text primary key, v int not null)")
    yield made
    made.close()


def open_branch(database, key, **options):
    session = database.connect(autocommit=False, **options)
    session.execute("insert into kv values (%s, 1)", (key,))
    return session


def test_prepare_in_failed_transaction_says_rollback(database):
    with database.connect() as session:
        session.execute("begin")
        with pytest.raises(psycopg.errors.DivisionByZero):
            session.execute("select 1/0")
        assert session.execute("prepare transaction 'facts-failed'").statusmessage == "ROLLBACK"
    assert database.prepared("facts-failed") == []


def test_finished_gid_can_be_prepared_again(database):
    for key in ("again1", "again2"):
        session = open_branch(database, key)
        session.execute("prepare transaction 'facts-again'")
        session.rollback()
        session.close()
        with database.connect() as other:
            other.execute("commit prepared 'facts-again'")
    assert database.value("select count(*) from kv where k like 'again%%'") == 2


def test_future_xid_is_an_error(database):
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        database.query("select pg_xact_status('999999999999'::xid8)")


def test_commit_and_chain_hides_from_prepare(database):
    """Hazards 1.16: after `commit and chain` PREPARE succeeds though the first half is committed already."""
    with database.connect() as session:
        session.execute("begin; set local lockstep.marker = 'here'")
        session.execute("insert into kv values ('chain1', 1)")
        session.execute("commit and chain")
        assert session.execute("select current_setting('lockstep.marker', true)").fetchone()[0] != "here"
        session.execute("insert into kv values ('chain2', 1)")
        assert session.execute("prepare transaction 'facts-chain'").statusmessage == "PREPARE TRANSACTION"
        session.execute("rollback prepared 'facts-chain'")
    assert database.value("select count(*) from kv where k = 'chain1'") == 1


def test_prepared_survives_kill_of_the_server():
    """The template's settings really keep what was flushed: a prepared and a committed row survive SIGKILL, an open one does not."""
    cluster = Cluster()
    database = cluster.create_database("facts")
    database.execute("create table kv(k text primary key, v int not null)")
    database.execute("insert into kv values ('committed', 1)")
    open_branch(database, "prepared").execute("prepare transaction 'facts-kill'")
    still_open = open_branch(database, "open")
    cluster.kill()
    cluster.start()
    assert database.prepared() == ["facts-kill"]
    database.execute("commit prepared 'facts-kill'")
    assert database.query("select k from kv order by k") == [("committed",), ("prepared",)]
    still_open.close()
    cluster.remove()


def test_copies_have_their_own_identity(cluster):
    other = Cluster(start=False)
    other.start()
    query = "select system_identifier from pg_control_system()"
    with cluster.connect("postgres") as here, other.connect("postgres") as there:
        assert here.execute(query).fetchone() != there.execute(query).fetchone()
    other.remove()


def test_proxy_loses_a_reply(cluster, database):
    """The request arrives, the answer does not: prepared, and the client sees only a dead connection."""
    proxy = PgProxy(cluster)
    rule = proxy.at("prepare transaction", "lose_reply")
    session = psycopg.connect(proxy.conninfo("facts"), autocommit=True)
    session.execute("begin")
    session.execute("insert into kv values ('lost-reply', 1)")
    with pytest.raises(psycopg.OperationalError):
        session.execute("prepare transaction 'facts-lost-reply'")
    rule.wait_done()
    assert database.prepared("facts-lost-reply") == ["facts-lost-reply"]
    database.execute("rollback prepared 'facts-lost-reply'")
    proxy.close()


def test_proxy_loses_a_request(cluster, database):
    proxy = PgProxy(cluster)
    proxy.at("prepare transaction", "reset")
    session = psycopg.connect(proxy.conninfo("facts"), autocommit=True)
    session.execute("begin")
    session.execute("insert into kv values ('lost-request', 1)")
    with pytest.raises(psycopg.OperationalError):
        session.execute("prepare transaction 'facts-lost-request'")
    wait_until(lambda: database.value("select count(*) from pg_stat_activity where query like 'insert into kv values (''lost-request''%%'") == 0,
               5, "the server notices the closed connection")
    assert database.prepared("facts-lost-request") == []
    proxy.close()


def test_proxy_counts_batches(cluster, database):
    """One pipeline is one batch with one Sync; three statements without it are three."""
    proxy = PgProxy(cluster)
    session = psycopg.connect(proxy.conninfo("facts"), autocommit=True)
    proxy.batches.clear()
    with session.pipeline():
        session.execute("begin")
        session.execute("insert into kv values ('batch', 1)")
        session.execute("rollback")
    assert [batch.tags for batch in proxy.batches] == [["BEGIN", "INSERT 0 1", "ROLLBACK"]]
    proxy.batches.clear()
    for number in range(3):
        session.execute("select %s", (number,))
    assert len(proxy.batches) == 3
    session.close()
    proxy.close()


def test_proxy_holds_a_request(cluster, database):
    proxy = PgProxy(cluster)
    rule = proxy.at("insert", "hold")
    session = psycopg.connect(proxy.conninfo("facts"), autocommit=True)
    thread = threading.Thread(target=session.execute, args=("insert into kv values ('held', 1)",))
    thread.start()
    rule.wait_hit()
    assert database.value("select count(*) from kv where k = 'held'") == 0
    rule.release()
    thread.join(10)
    assert database.value("select count(*) from kv where k = 'held'") == 1
    session.close()
    proxy.close()


def test_zombie_prepare_exists(cluster, database):
    """Hazards 1.5: the client dies while its statement waits for a lock; when the lock is free its backend prepares all the same."""
    proxy = PgProxy(cluster)
    database.execute("insert into kv values ('zombie', 0)")
    holder = database.connect(autocommit=False)
    holder.execute("update kv set v = 1 where k = 'zombie'")
    session = psycopg.connect(proxy.conninfo("facts"), autocommit=True)

    def doomed():
        with pytest.raises(psycopg.OperationalError), session.pipeline():
            session.execute("begin")
            session.execute("update kv set v = 2 where k = 'zombie'")
            session.execute("prepare transaction 'facts-zombie'")

    thread = threading.Thread(target=doomed)
    thread.start()
    wait_until(lambda: database.value("select count(*) from pg_locks where not granted") == 1, 5, "the update waits for the lock")
    for connection in list(proxy.connections):
        connection.proxy.break_links()
    thread.join(10)
    holder.commit()
    holder.close()
    wait_until(lambda: database.prepared("facts-zombie"), 5, "the zombie prepares")
    database.execute("rollback prepared 'facts-zombie'")
    proxy.close()


def test_a_killed_server_that_is_removed_leaves_nothing_in_the_kernel():
    """The harness frees what the server would have freed at its next start: there are 4,096 segments for the whole machine."""
    def mine():
        with open("/proc/sysvipc/shm", encoding="ascii") as file:
            return [line.split()[1] for line in file if line.split()[4] == pid]
    made = Cluster()
    pid = str(made.process.pid)
    assert len(mine()) == 1
    made.kill()
    assert len(mine()) == 1, "the kernel keeps it"
    made.remove()
    assert not mine()
