"""Hazards S1, S6, S11, S14 of sagas, choreographed: what one bad handler, a second agent, lost WAL or a standby that is away do to everybody else's events.

Method: the order flow of test_choreography.py on real servers. Handlers that end their backend, catch their cancellation, or whose role may not log in; a
second agent on the same database; a database whose positions have gone back; commits whose wait for a standby is cancelled.
Seen if wrong: a source that stands still behind one event, an effect twice, an event that is acknowledged and nowhere, a log that floods.
"""

import os
import time

import pytest

from harness.api import Metrics, UnixConnection, background
from harness.base import stays_true, wait_until
from harness.programs import Agent, command, free_port
from harness.proxy import LinkProxy, wait_closed_on_pings
from harness.system import fresh
from test_choreography import Flow, notes, routes
from test_standby import waiting

HANDLERS = """
create function nothing(jsonb) returns void language sql as '';
create function end_backend(jsonb) returns void language plpgsql as $$ begin perform pg_terminate_backend(pg_backend_pid()); perform pg_sleep(10); end $$;
create function stubborn(e jsonb) returns void language plpgsql as $$ begin
  while exists (select from fail where key = e->>'key') loop
    begin perform pg_sleep(1000); exception when query_canceled then null; end;
  end loop;
end $$;
"""


@pytest.fixture(scope="module")
def system():
    made = Flow(agents={"relay": {"attempts": 3, "handler_timeout": "1s"}})
    made.db["stock"].execute(HANDLERS)
    yield made
    made.close()


@pytest.fixture
def flow(system):
    system.heal()
    yield system
    for cluster in system.clusters:
        cluster.set(synchronous_standby_names="''")
    system.heal()


def word(text):
    return text + "." + fresh("t").replace("-", "")


def subscribe(flow, kind, handler, user="checkout"):
    with flow.db["stock"].connect(user=user) as session:
        session.execute("select lockstep.on(%s, %s::text::regproc)", (kind, handler))
    wait_until(lambda: (kind, "stock") in routes(flow.db["orders"]), 20, "the source knows who wants it")


def unsubscribe(flow, kind, handler, user="checkout"):
    with flow.db["stock"].connect(user=user) as session:
        assert session.execute("select lockstep.off(%s, %s)", (kind, handler)).fetchone()[0]


def event(flow, key, name="orders"):
    """(position, version) of each event of a key."""
    return flow.db[name].query("select position, version from lockstep.event where key = %s order by id", key)


def acknowledged(flow, source, subscriber):
    return flow.db[source].value("select position from lockstep.forward where participant = %s", subscriber)


def dead_letter(flow, key, deadline=40):
    def found():
        return [letter for letter in flow.letters() if letter["key"] == key]
    return wait_until(found, deadline, lambda: f"{key} is a dead letter: {flow.path(key)}")[0]


# ---------------------------------------------------------------- handlers


def test_a_role_that_may_not_log_in(flow):
    """S6, S14: nobody knows what became of it, every time: it is counted like a failure, and others pass."""
    kind, key = word("role"), fresh("k")
    subscribe(flow, kind, "public.nothing", "billing")
    flow.db["stock"].execute("alter role billing nologin")
    try:
        flow.emit("orders", kind, key)
        order = flow.place()
        flow.wait_end(order, "confirmed")
        letter = dead_letter(flow, key)
        assert letter["sqlstate"] == "08001" and "billing" in letter["reason"] and letter["attempts"] == 3, letter
    finally:
        flow.db["stock"].execute("alter role billing login")
    assert command("dlq", "retry", letter["id"], coordinator=flow.coordinator).returncode == 0
    wait_until(lambda: flow.db["stock"].query("select state from lockstep.inbox where key = %s", key) == [("done",)], 20, "it is handled now")
    unsubscribe(flow, kind, "public.nothing", "billing")


def test_a_handler_that_ends_its_backend(flow):
    kind, key = word("end"), fresh("k")
    subscribe(flow, kind, "public.end_backend")
    flow.emit("orders", kind, key)
    flow.wait_end(flow.place(), "confirmed")
    letter = dead_letter(flow, key)
    assert letter["sqlstate"] == "57P01" and letter["attempts"] == 3, letter
    unsubscribe(flow, kind, "public.end_backend")


def test_a_handler_that_catches_its_cancellation(flow):
    """statement_timeout does not end it: the agent ends its backend, 10 s after its time."""
    kind, key = word("stubborn"), fresh("k")
    flow.db["stock"].execute("insert into fail values (%s, 1)", key)
    subscribe(flow, kind, "public.stubborn")
    try:
        flow.emit("orders", kind, key)
        flow.wait_end(flow.place(), "confirmed", 60)
        history = flow.db["stock"].value("select history from lockstep.inbox where key = %s", key)
        assert history[0]["sqlstate"] == "57014" and "ended" in history[0]["reason"], history
    finally:
        flow.db["stock"].execute("delete from fail where key = %s", key)
    wait_until(lambda: flow.db["stock"].query("select state from lockstep.inbox where key = %s", key) == [("done",)], 60, "it is handled when it lets itself be")
    unsubscribe(flow, kind, "public.stubborn")


# ---------------------------------------------------------------- two agents, lost WAL


def test_two_agents_of_one_database(flow):
    """S1: events are the same only under one participant's name: the second agent's relay rests, also while the first is away, and says so."""
    second = Agent("orders2", flow.coordinator, flow.clusters[0].conninfo("orders", "lockstep_agent"),
                   settings={"peers": {"listen": f"127.0.0.1:{free_port()}"}})
    second.config["metrics"] = {"socket": os.path.join(second.directory, "m")}

    def resting():
        connection = UnixConnection(second.config["metrics"]["socket"], 10)
        try:
            connection.request("GET", "/metrics")
            return Metrics(connection.getresponse().read().decode()).value("lockstep_agent_relay_resting")
        finally:
            connection.close()
    flow.agents["orders"].kill()
    second.spawn()
    try:
        wait_until(second.is_ready, 20, "it serves transactions")
        wait_until(lambda: second.log_has("this one's relay rests", "orders"), 20, "its relay says that it rests")
        assert resting() == 1
        key = fresh("box")
        for number in range(5):
            flow.emit("orders", "parcel.wanted", key, {"n": number})
        flow.agents["orders"].spawn()
        for number in range(5, 10):
            flow.emit("orders", "parcel.wanted", key, {"n": number})
        wait_until(lambda: len(notes(flow, key)) >= 10, 30, lambda: f"all arrive: {flow.path(key)}")
        assert notes(flow, key) == [str(number) for number in range(10)]
        assert flow.db["stock"].query("select distinct source from lockstep.inbox where key = %s", key) == [("orders",)]
        assert flow.db["stock"].query("select 1 from lockstep.peer where participant = 'orders2'") == []
    finally:
        second.kill()


@pytest.mark.parametrize("how", ["alive", "restarted"])
def test_positions_that_go_back(flow, how):
    """S11: a server that has lost WAL gives positions out again. A human is told, and the other events that bear them are dead letters, not silence."""
    orders, old, new, more = flow.agents["orders"], fresh("old"), fresh("new"), fresh("more")
    flow.emit("orders", "parcel.wanted", old, {"n": "old"})
    wait_until(lambda: notes(flow, old) == ["old"], 20, "it has arrived")
    position = event(flow, old)[0][0]
    wait_until(lambda: acknowledged(flow, "orders", "stock") >= position, 20, "and is acknowledged")
    if how == "restarted":
        orders.kill()
    with flow.db["orders"].connect(autocommit=False) as lost:
        lost.execute("update lockstep.relay set position = %s - 1", (position,))
        lost.execute("delete from lockstep.letter where position >= %s", (position,))
        lost.execute("delete from lockstep.event where position >= %s", (position,))
        lost.execute("delete from lockstep.stream where key = %s", (old,))
        lost.execute("update lockstep.forward set position = least(position, %s - 1)", (position,))
        lost.commit()
    flow.emit("orders", "parcel.wanted", new, {"n": "new"})
    flow.emit("orders", "parcel.wanted", more, {"n": "more"})
    if how == "restarted":
        orders.spawn()
    letter = dead_letter(flow, new)
    assert letter["sqlstate"] == "LS005" and letter["id"].startswith(f"stock/orders/-{event(flow, new)[0][0]}/"), (letter, event(flow, new))
    assert how == "restarted" or orders.log_has("needs a human", "lost WAL")
    assert flow.agents["stock"].log_has("needs a human", new)
    wait_until(lambda: notes(flow, more) == ["more"], 20, lambda: f"what bears a new position arrives: {flow.path(more)}")
    assert command("dlq", "retry", letter["id"], coordinator=flow.coordinator).returncode == 0
    wait_until(lambda: notes(flow, new) == ["new"], 20, lambda: f"and the other one at a human's word: {flow.path(new)}")
    assert notes(flow, old) == ["old"] and flow.db["stock"].query("select state from lockstep.inbox where key = %s", new) == [("done",)]


# ---------------------------------------------------------------- a standby that is away


def test_what_the_standby_may_not_have_is_not_acknowledged(flow):
    """The wait of a delivery's commit is cancelled: done here, perhaps nowhere after a failover."""
    key, stock = fresh("box"), flow.db["stock"]
    flow.clusters[1].wait_for_nobody()
    flow.emit("orders", "parcel.wanted", key, {"n": 1})
    pids = wait_until(lambda: waiting(stock, "commit"), 20, "the delivery waits for the standby")
    stock.execute("select pg_cancel_backend(%s)", pids[0])
    wait_until(lambda: flow.agents["stock"].log_has("what became of a delivery is not known", "01000"), 20, "its warning was heard")
    pids = wait_until(lambda: waiting(stock, "%inbox_park%"), 20, "whoever looks for it waits as well")
    stock.execute("select pg_cancel_backend(%s)", pids[0])
    wait_until(lambda: waiting(stock, "commit"), 20, "and so does the next delivery")
    assert notes(flow, key) == ["1"] and acknowledged(flow, "orders", "stock") < event(flow, key)[0][0]
    flow.clusters[1].set(synchronous_standby_names="''")
    wait_until(lambda: acknowledged(flow, "orders", "stock") >= event(flow, key)[0][0], 40, "it is acknowledged when the standby has it")
    assert notes(flow, key) == ["1"]


def test_positions_that_the_standby_may_not_have_are_not_sent(flow):
    key, orders = fresh("box"), flow.db["orders"]
    flow.clusters[0].wait_for_nobody()
    with orders.connect(user="checkout") as session:
        session.execute("set synchronous_commit = local")
        session.execute("select lockstep.emit('parcel.wanted', %s, '{\"n\": 1}')", (key,))
    for query, heard in (("%relay_claim%", "replication unknown"), ("%relay_take%", None)):
        pids = wait_until(lambda query=query: waiting(orders, query), 20, f"{query} waits for the standby")
        orders.execute("select pg_cancel_backend(%s)", pids[0])
        if heard:
            wait_until(lambda heard=heard: flow.agents["orders"].log_has(heard), 20, "its warning was heard")
    wait_until(lambda: waiting(orders, "%relay_take%"), 20, "it asks again")
    assert notes(flow, key) == [] and flow.db["stock"].query("select 1 from lockstep.inbox where key = %s", key) == []
    flow.clusters[0].set(synchronous_standby_names="''")
    wait_until(lambda: notes(flow, key) == ["1"], 30, "it arrives when the standby has its position")


def test_a_wish_that_the_standby_may_not_have_is_stored_again(flow):
    """Taken for stored, it would be gone after a failover, and events of the type with it."""
    kind, orders = word("wish"), flow.db["orders"]
    flow.clusters[0].wait_for_nobody()
    with flow.db["stock"].connect(user="checkout") as session:
        session.execute("select lockstep.on(%s, 'public.nothing')", (kind,))
    for _ in range(2):
        pids = wait_until(lambda: waiting(orders, "%route_store%"), 20, "it waits for the standby, again after it was cancelled")
        orders.execute("select pg_cancel_backend(%s)", pids[0])
        wait_until(lambda pids=pids: not set(pids) & set(waiting(orders, "%route_store%")), 20, "it waits no more")
    flow.clusters[0].set(synchronous_standby_names="''")
    wait_until(lambda: (kind, "stock") in routes(orders), 20, "it is stored")
    unsubscribe(flow, kind, "public.nothing")


# ---------------------------------------------------------------- what it costs others


def test_a_database_that_is_away_does_not_flood_the_log(flow):
    agent = flow.agents["balance"]
    flow.clusters[1].kill()
    wait_until(lambda: agent.log_has("control session lost"), 20, "it is noticed")
    before = len(agent.log_text().splitlines())
    time.sleep(4)  # as long as it lasts: there is nothing else to wait for
    lines = agent.log_text().splitlines()[before:]
    assert len(lines) <= 12, lines  # some hundred without a bound
    flow.heal()
    flow.wait_end(flow.place(), "confirmed", 40)


def test_a_link_that_does_not_say_who_it_is(flow):
    """It keeps no place, though it is an agent's and talks."""
    host, port = flow.agents["stock"].config["peers"]["listen"].split(":")
    wait_closed_on_pings((host, int(port)), flow.authority.files("lockstep://agent/elsewhere"))
    assert flow.agents["stock"].log_has("it has not said who it is")


@pytest.fixture
def between(flow):
    """A proxy that orders reaches stock through."""
    stock = flow.agents["stock"]
    listen = stock.config["peers"]["listen"]
    host, port = listen.split(":")
    proxy = LinkProxy((host, int(port)), stock.files, flow.agents["orders"].files)
    stock.config["peers"]["address"] = "%s:%d" % proxy.address
    stock.restart()
    proxy.wait_connected(20)
    yield proxy
    del stock.config["peers"]["address"]
    stock.restart()
    proxy.close()


@pytest.mark.parametrize("up", [True, False])
def test_greeting_is_swallowed(flow, between, up):
    """The link lives on, and pings are answered: it is given up all the same, and the events go over the next."""
    rule = between.at("greet", "drop", up=up)
    between.break_links()
    rule.wait_hit(20)
    flow.wait_end(flow.place(), "confirmed", 60)


HOLDER = "select pid, (classid::int8 << 32 | objid::int8) from pg_locks where locktype = 'advisory' and granted and database = (select oid from pg_database where datname = current_database())"
STORING = "select count(*) from pg_stat_activity where query like '%route_store%' and wait_event_type = 'Lock'"


def test_without_its_lock_an_agent_does_not_say_who_wants_what(flow):
    """What it was told and could not store is old: another agent of its participant may serve, and know better."""
    kind, orders = word("kept"), flow.db["orders"]
    subscribe(flow, kind, "nothing")
    dba, other = orders.connect(autocommit=False), orders.connect()
    try:
        dba.execute("lock table lockstep.route in access exclusive mode")
        unsubscribe(flow, kind, "public.nothing")
        wait_until(lambda: flow.agents["orders"].log_has("who wants what cannot be stored"), 30, "the agent has heard of it, and cannot store it")
        pid, key = orders.query(HOLDER)[0]
        taken = background.submit(other.execute, "select pg_advisory_lock(%s)", (key,))
        wait_until(lambda: orders.value("select count(*) from pg_locks where locktype = 'advisory' and not granted") > 0, 20, "somebody waits for the lock")
        orders.value("select pg_terminate_backend(%s, 10000)", pid)
        taken.result()
        wait_until(lambda: orders.value(STORING) == 0, 20, "what was on its way has given up")
        dba.rollback()
        stays_true(lambda: (kind, "stock") in routes(orders), 3, "what another agent may have stored was written over")
    finally:
        dba.close()
        other.close()
    wait_until(lambda: (kind, "stock") not in routes(orders), 30, "with its lock it stores what it was told")


def test_a_wish_that_waits_for_a_session_is_not_stored_without_the_lock(flow):
    """It was given to the finishers while the agent had its lock; another agent of its participant serves when its turn comes."""
    kind, agent, orders = word("queued"), flow.agents["orders"], flow.db["orders"]
    pool = agent.config.get("pool", {})
    agent.config["pool"] = {**pool, "finishers": 2}  # one for what may wait
    agent.restart()
    wait_until(agent.is_ready, 20, "it serves")
    flow.wait_end(flow.place(), "confirmed", 40)  # nothing else is to be stored
    other = orders.connect()
    try:
        flow.clusters[0].wait_for_nobody()
        with orders.connect(user="checkout") as session:
            session.execute("set synchronous_commit = local")
            session.execute("select lockstep.emit('parcel.wanted', %s, '{\"n\": 1}')", (fresh("box"),))
        wait_until(lambda: waiting(orders, "%relay_claim%"), 20, "that one waits for the standby")
        before = flow.coordinator.log_text().count("subscriptions announced")
        with flow.db["stock"].connect(user="checkout") as session:
            session.execute("select lockstep.on(%s, 'public.nothing')", (kind,))
        wait_until(lambda: flow.coordinator.log_text().count("subscriptions announced") > before, 20, "the agent is told")
        pid, key = orders.query(HOLDER)[0]
        taken = background.submit(other.execute, "select pg_advisory_lock(%s)", (key,))
        wait_until(lambda: orders.value("select count(*) from pg_locks where locktype = 'advisory' and not granted") > 0, 20, "somebody waits for the lock")
        orders.value("select pg_terminate_backend(%s, 10000)", pid)
        taken.result()
        wait_until(lambda: agent.log_has("control session lost"), 20, "the agent knows")
        flow.clusters[0].set(synchronous_standby_names="''")
        wait_until(lambda: not waiting(orders, "%relay_claim%"), 20, "the session is free")
        stays_true(lambda: (kind, "stock") not in routes(orders), 3, "what another agent may have stored was written over")
    finally:
        other.close()
    wait_until(lambda: (kind, "stock") in routes(orders), 30, "with its lock it stores what it was told")
    unsubscribe(flow, kind, "public.nothing")
    agent.config["pool"] = pool
    agent.restart()


def test_a_payload_is_cut_between_characters(flow):
    """In the column of `lockstep events`."""
    kind = word("cut")
    with flow.db["orders"].connect(user="checkout") as session:
        session.execute("select lockstep.declare_terminal(%s)", (kind,))
    for odd in ("", "x"):
        flow.emit("orders", kind, fresh("k"), {"n": odd + "\u00e4" * 100})

    def shown():
        return command("events", "orders", "--type", kind, coordinator=flow.coordinator).stdout.count("\u00e4...")
    wait_until(lambda: shown() == 2, 20, lambda: f"both payloads are shown: {command('events', 'orders', '--type', kind, coordinator=flow.coordinator)}")
