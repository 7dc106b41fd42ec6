"""Hazards S1, S6, S7, S10, S11b, S12, S13, S14, S15, S16, S21 of sagas, choreographed: events between real agents, over mutual TLS, without a coordinator in the path.

Method: the order flow (order, stock, balance) as SQL functions that subscribe to each other's events, on three databases of two servers. Agents, servers and
the coordinator go away in between; handlers fail. Every test ends by comparing what each participant has with what should have happened exactly once.
Seen if wrong: an effect twice or never, a key out of order, a flow that stands still although everybody it needs is there.
"""

import json
import os
import re

import pytest

from harness.api import Metrics, UnixConnection
from harness.base import stays_true, wait_until
from harness.programs import ROOT, command, free_port
from harness.system import System, fresh

ORDERS = """
create table orders(id text primary key, sku text, amount int, state text not null default 'placed', changes int not null default 0);
create function place(id text, sku text, amount int) returns void language plpgsql as $$ begin
  insert into orders values (id, sku, amount);
  perform lockstep.emit('order.created', id, jsonb_build_object('sku', sku, 'amount', amount));
end $$;
create function order_cancelled(e jsonb) returns void language plpgsql as $$ begin
  update orders set state = 'cancelled', changes = changes + 1 where id = e->>'key' and state = 'placed';
end $$;
create function order_confirmed(e jsonb) returns void language plpgsql as $$ begin
  update orders set state = 'confirmed', changes = changes + 1 where id = e->>'key' and state = 'placed';
  perform lockstep.emit('order.confirmed', e->>'key', '{}');
end $$;
grant all on orders to checkout;
"""
STOCK = """
create table stock(sku text primary key, amount int not null check (amount >= 0));
create table reserved(id text primary key, sku text, amount int, state text not null default 'reserved');
create table parcel(id text, note text);
create function reserve(e jsonb) returns void language plpgsql as $$ begin
  update stock set amount = amount - (e->'payload'->>'amount')::int where sku = e->'payload'->>'sku' and amount >= (e->'payload'->>'amount')::int;
  if not found then
    perform lockstep.emit('stock.rejected', e->>'key', e->'payload');
    return;
  end if;
  insert into reserved values (e->>'key', e->'payload'->>'sku', (e->'payload'->>'amount')::int);
  perform lockstep.emit('stock.reserved', e->>'key', e->'payload');
end $$;
create function release(e jsonb) returns void language plpgsql as $$ declare r reserved; begin
  update reserved set state = 'released' where id = e->>'key' and state = 'reserved' returning * into r;
  if found then
    update stock set amount = amount + r.amount where sku = r.sku;
    perform lockstep.emit('stock.released', e->>'key', e->'payload');
  end if;
end $$;
create table fail(key text primary key, times int);
create function pack(e jsonb) returns void language plpgsql as $$ begin
  if exists (select from fail f where f.key = e->>'key' and f.times > 0) then
    raise exception 'the parcel of % is torn', e->>'key';
  end if;
  insert into parcel values (e->>'key', e->'payload'->>'n');
end $$;
grant all on stock, reserved, parcel, fail to checkout;
"""
BALANCE = """
create table balance(owner text primary key, amount int not null check (amount >= 0));
create table used(id text primary key, amount int);
create function use_balance(e jsonb) returns void language plpgsql as $$ begin
  update balance set amount = amount - (e->'payload'->>'amount')::int where owner = 'kim' and amount >= (e->'payload'->>'amount')::int;
  if not found then
    perform lockstep.emit('balance.refused', e->>'key', e->'payload');
    return;
  end if;
  insert into used values (e->>'key', (e->'payload'->>'amount')::int);
  perform lockstep.emit('balance.used', e->>'key', e->'payload');
end $$;
grant all on balance, used to checkout;
"""
SUBSCRIPTIONS = {
    "orders": [("stock.rejected", "public.order_cancelled"), ("stock.released", "public.order_cancelled"), ("balance.used", "public.order_confirmed")],
    "stock": [("order.created", "public.reserve"), ("balance.refused", "public.release"), ("parcel.wanted", "public.pack")],
    "balance": [("stock.reserved", "public.use_balance")],
}
TABLES = {"orders": ORDERS, "stock": STOCK, "balance": BALANCE}


def wanted(subscriptions):
    return {(kind, name) for name, pairs in subscriptions.items() for kind, _ in pairs}


def routes(database):
    return set(database.query("select type, participant from lockstep.route"))


class Flow(System):
    """The system with the order flow in it; every agent knows who wants what."""

    def __init__(self, agents=None):
        super().__init__({"orders": 0, "stock": 1, "balance": 1}, start=False, agents=agents)
        for name, agent in self.agents.items():
            agent.config["peers"] = {"listen": f"127.0.0.1:{free_port()}"}
            agent.config["metrics"] = {"socket": os.path.join(agent.directory, "m")}
            self.db[name].execute(TABLES[name])
            self.subscribe(name, *SUBSCRIPTIONS[name])
        with self.db["orders"].connect(user="checkout") as session:
            session.execute("select lockstep.declare_terminal('order.confirmed')")
        self.db["stock"].execute("insert into stock values ('tea', 10000000), ('gold', 1)")
        self.db["balance"].execute("insert into balance values ('kim', 1000000)")
        try:
            self.start()
            self.all_know()
        except BaseException:
            self.close()
            raise

    def subscribe(self, name, *pairs):
        with self.db[name].connect(user="checkout") as session:
            for kind, handler in pairs:
                session.execute("select lockstep.on(%s, %s::text::regproc)", (kind, handler))

    def all_know(self, subscriptions=None):
        expected = wanted(subscriptions or SUBSCRIPTIONS)
        wait_until(lambda: all(routes(database) >= expected for database in self.db.values()), 20,
                   lambda: f"every agent knows who wants what: { {name: expected - routes(db) for name, db in self.db.items()} }")

    def emit(self, name, kind, key, payload=None, saga=None):
        with self.db[name].connect(user="checkout", autocommit=False) as session:
            if saga:
                session.execute("select set_config('lockstep.saga', %s, true)", (saga,))
            version = session.execute("select lockstep.emit(%s, %s, %s)", (kind, key, json.dumps(payload or {}))).fetchone()[0]
            session.commit()
        return version

    def place(self, sku="tea", amount=1, saga=None):
        key = fresh("order")
        with self.db["orders"].connect(user="checkout", autocommit=False) as session:
            if saga:
                session.execute("select set_config('lockstep.saga', %s, true)", (saga,))
            session.execute("select place(%s, %s, %s)", (key, sku, amount))
            session.commit()
        return key

    def state(self, key):
        return self.db["orders"].value("select state from orders where id = %s", key)

    def wait_end(self, key, state, deadline=30):
        wait_until(lambda: self.state(key) == state, deadline, lambda: f"{key} is {state}; it is {self.state(key)}: {self.path(key)}")

    def path(self, key):
        """What every participant has of a key, for the text of a failure."""
        return {name: (db.query("select position, type, version from lockstep.event where key = %s order by id", key),
                       db.query("select source, position, handler, state, attempts, history from lockstep.inbox where key = %s", key)) for name, db in self.db.items()}

    def audit(self, keys):
        """Each order ended once, and the books agree."""
        for key, state in keys.items():
            assert self.db["orders"].query("select state, changes from orders where id = %s", key) == [(state, 1)], self.path(key)
            assert self.db["balance"].value("select count(*) from used where id = %s", key) == (1 if state == "confirmed" else 0)
        self.books()

    def books(self):
        """Nothing was taken twice or lost, over all that ever ran here."""
        stock, balance = self.db["stock"], self.db["balance"]
        taken = "select 10000001 - sum(amount) = (select coalesce(sum(amount), 0) from reserved where state = 'reserved') from stock"
        assert stock.value(taken), stock.query("select * from stock")
        assert balance.value("select 1000000 - (select amount from balance where owner = 'kim') = (select coalesce(sum(amount), 0) from used)")

    def letters(self):
        answer = self.admin.request("GET", "/v1/dlq/events")
        assert answer.status == 200, answer
        return answer.body["dead_letters"]

    def agent_metrics(self, name):
        connection = UnixConnection(self.agents[name].config["metrics"]["socket"], 10)
        try:
            connection.request("GET", "/metrics")
            return Metrics(connection.getresponse().read().decode())
        finally:
            connection.close()


@pytest.fixture(scope="module")
def system():
    made = Flow(agents={"relay": {"attempts": 4}})
    yield made
    made.close()


@pytest.fixture
def flow(system):
    system.heal()
    yield system
    system.heal()


def test_a_flow_that_succeeds(flow):
    """S10, S13: three databases, three hops, each exactly once; the key's versions at each participant are its own."""
    keys = {flow.place(amount=n + 1): "confirmed" for n in range(5)}
    for key, state in keys.items():
        flow.wait_end(key, state)
    flow.audit(keys)


def test_failure_events_compensate(flow):
    """S7: a refusal at the second participant cancels the first; one at the third releases the second, which cancels the first."""
    second, third = flow.place(sku="gold", amount=2), flow.place(amount=1500000)
    for key in (second, third):
        flow.wait_end(key, "cancelled")
    assert flow.db["stock"].query("select state from reserved where id in (%s, %s)", second, third) == [("released",)]
    flow.audit({second: "cancelled", third: "cancelled"})


def test_without_the_coordinator(flow):
    """Nothing of a flow passes it; an agent that starts while it is away knows its peers from its own database."""
    flow.coordinator.kill()
    keys = {flow.place(): "confirmed"}
    flow.wait_end(next(iter(keys)), "confirmed")
    for name in ("stock", "orders"):
        flow.agents[name].kill()
        keys[flow.place()] = "confirmed"
        flow.agents[name].spawn()
        keys[flow.place(sku="gold", amount=2)] = "cancelled"
    for key, state in keys.items():
        flow.wait_end(key, state)
    flow.audit(keys)
    assert not flow.coordinator.running()


def test_a_transaction_on_several_databases_emits(flow):
    """Events of 2PC branches leave when the transaction is committed, on every participant, and not when it is aborted."""
    key, never = fresh("order"), fresh("order")
    place = {"on": "orders", "do": {"sql": "select place($1, $2, $3)", "args": [key, "tea", 3]}}
    other = {"on": "balance", "do": {"sql": "update balance set amount = amount where owner = 'kim'"}}
    answer = flow.run([place, other])
    assert answer.status == 200 and answer.state == "committed", answer
    flow.wait_end(key, "confirmed")
    place["do"]["args"][0] = never
    answer = flow.run([place, {"on": "balance", "do": {"sql": "update balance set amount = -1 where owner = 'kim'"}}])
    assert answer.state == "aborted", answer
    last = flow.place()
    flow.wait_end(last, "confirmed")
    assert flow.db["orders"].value("select count(*) from lockstep.event where key = %s", never) == 0
    flow.audit({key: "confirmed", last: "confirmed"})


def test_a_prepared_transaction_holds_up_its_own_only(flow):
    """S11b: an orphan of somebody else's holds xmin and an event; all others are relayed; its event too, when it ends."""
    held, gid = fresh("order"), fresh("orphan")
    with flow.db["orders"].connect(user="checkout", autocommit=False) as session:
        session.execute("select place(%s, 'tea', 1)", (held,))
        session.execute(f"prepare transaction '{gid}'")
    keys = {flow.place(): "confirmed" for _ in range(5)}
    for key, state in keys.items():
        flow.wait_end(key, state)
    assert flow.state(held) is None
    flow.db["orders"].execute(f"commit prepared '{gid}'")
    flow.wait_end(held, "confirmed")
    flow.audit({**keys, held: "confirmed"})


# ---------------------------------------------------------------- crashes

with open(os.path.join(ROOT, "common", "failpoints.def"), encoding="utf-8") as source:
    POINTS = re.findall(r'^FAILPOINT\((relay_\w+), "lockstep-agent"', source.read(), re.M)


@pytest.mark.parametrize("point", POINTS)
def test_killed_at(flow, point):
    """S1, S12: the agent in the middle, which receives and sends, kills itself there; the next life goes on, and nothing happens twice."""
    stock = flow.agents["stock"]
    stock.stop()
    torn = fresh("torn")
    flow.db["stock"].execute("insert into fail values (%s, 1)", torn)
    stock.spawn(fail=f"{point}=kill")
    keys = {flow.place(): "confirmed", flow.place(sku="gold", amount=2): "cancelled"}
    flow.emit("orders", "parcel.wanted", torn, {"n": 1})
    assert stock.wait_exit(30) == -9
    flow.db["stock"].execute("update fail set times = 0 where key = %s", torn)
    stock.spawn()
    for key, state in keys.items():
        flow.wait_end(key, state)

    def packed():
        for letter in flow.letters():  # it may have used up its attempts before the agent came to the point
            if letter["key"] == torn:
                command("dlq", "retry", letter["id"], "--reason", "mended", coordinator=flow.coordinator)
        return flow.db["stock"].query("select note from parcel where id = %s", torn) == [("1",)]
    wait_until(packed, 30, lambda: f"packed once: {flow.path(torn)}")
    flow.audit(keys)


def test_order_and_completeness_while_agents_die(flow):
    """S12, S13: each key's events arrive in its order, each once, whichever side is killed in between."""
    keys, last = [fresh("box") for _ in range(4)], 20
    for number in range(1, last + 1):
        for key in keys:
            assert flow.emit("orders", "parcel.wanted", key, {"n": number}) == number
        if number in (5, 12):
            victim = flow.agents["stock" if number == 5 else "orders"]
            victim.kill()
            victim.spawn()
    packed = "select note::int from parcel where id = %s order by ctid"
    for key in keys:
        wait_until(lambda key=key: len(flow.db["stock"].query(packed, key)) >= last, 30, lambda key=key: f"all of {key} has arrived: {flow.path(key)}")
        assert [row[0] for row in flow.db["stock"].query(packed, key)] == list(range(1, last + 1))


# ---------------------------------------------------------------- what fails


def subscribe(flow, name, kind):
    with flow.db[name].connect(user="checkout") as session:
        session.execute("select lockstep.on(%s, 'public.pack')", (kind,))


def test_a_new_wish_is_told_when_it_can_be_served(flow):
    """S11: an agent that announces what its core does not know yet would acknowledge events and drop them."""
    kind, key = fresh("early").replace("-", "."), fresh("box")
    with flow.db["stock"].connect(autocommit=False) as lock:
        lock.execute("select from lockstep.relay for update")  # the wish cannot be stored at its own participant
        subscribe(flow, "stock", kind)
        wait_until(lambda: flow.agents["stock"].log_has("who wants what cannot be stored"), 20, "the agent tries to store it")
        assert (kind, "stock") not in routes(flow.db["orders"])
        flow.emit("orders", kind, key, {"n": 1})
        lock.rollback()
    wait_until(lambda: notes(flow, key) == ["1"], 30, lambda: f"it arrives: {flow.path(key)}")


def test_a_wish_that_cannot_be_stored_now_is_stored_later(flow):
    kind, key = fresh("late").replace("-", "."), fresh("box")
    with flow.db["orders"].connect(autocommit=False) as lock:
        lock.execute("select from lockstep.relay for update")
        subscribe(flow, "stock", kind)
        wait_until(lambda: flow.agents["orders"].log_has("who wants what cannot be stored"), 20, "the source tries to store it")
        lock.rollback()
    wait_until(lambda: (kind, "stock") in routes(flow.db["orders"]), 20, "it is stored after all")
    flow.emit("orders", kind, key, {"n": 1})
    wait_until(lambda: notes(flow, key) == ["1"], 20, lambda: f"it arrives: {flow.path(key)}")


def test_a_wish_that_cannot_be_stored_does_not_come_behind_a_newer_one(flow):
    """S11: while the older one is tried, its participant wants more. Stored last, the older one would take the newer type away again."""
    older, newer, key = fresh("older").replace("-", "."), fresh("newer").replace("-", "."), fresh("box")
    announced = "subscriptions announced"
    with flow.db["orders"].connect(autocommit=False) as lock:
        lock.execute("select from lockstep.relay for update")
        subscribe(flow, "stock", older)
        storing = "select count(*) from pg_stat_activity where query like '%route_store%' and wait_event_type = 'Lock'"
        wait_until(lambda: flow.db["orders"].value(storing) > 0, 20, "the source tries to store it")
        before = flow.coordinator.log_text().count(announced)
        subscribe(flow, "stock", newer)
        wait_until(lambda: flow.coordinator.log_text().count(announced) > before, 20, "the source is told of the newer one")
        wait_until(lambda: flow.agents["orders"].log_has("who wants what cannot be stored"), 20, "the older one has failed")
        lock.rollback()
    wait_until(lambda: (newer, "stock") in routes(flow.db["orders"]), 20, "the newer one is stored")
    stays_true(lambda: {(older, "stock"), (newer, "stock")} <= routes(flow.db["orders"]), 3, "the older one was stored behind it")
    flow.emit("orders", newer, key, {"n": 1})
    wait_until(lambda: notes(flow, key) == ["1"], 20, lambda: f"it arrives: {flow.path(key)}")


def test_nothing_is_acknowledged_before_the_subscriptions_are_read(flow):
    """S11: at a start, with a source that has something waiting."""
    stock, key = flow.agents["stock"], fresh("box")
    stock.stop()
    flow.emit("orders", "parcel.wanted", key, {"n": 1})
    with flow.db["stock"].connect(autocommit=False) as lock:
        lock.execute("lock table lockstep.subscription in access exclusive mode")
        stock.spawn()
        wait_until(lambda: stock.log_has("subscriptions cannot be read"), 30, "the agent cannot read its subscriptions")
        lock.rollback()
    wait_until(lambda: notes(flow, key) == ["1"], 30, lambda: f"it arrives: {flow.path(key)}")


def torn(flow, count=3):
    """A key whose first event is poison, with others behind it; the dead letter's id."""
    key = fresh("torn")
    flow.db["stock"].execute("insert into fail values (%s, 1)", key)
    for number in range(1, count + 1):
        flow.emit("orders", "parcel.wanted", key, {"n": number})
    found = []

    def dead():
        found[:] = [letter for letter in flow.letters() if letter["key"] == key]
        return found
    wait_until(dead, 40, lambda: f"{key} is a dead letter: {flow.path(key)}")
    return key, found[0]


def notes(flow, key):
    return [row[0] for row in flow.db["stock"].query("select note from parcel where id = %s order by ctid", key)]


@pytest.mark.parametrize("act, expected", [("retry", ["1", "2", "3"]), ("skip", ["2", "3"])])
def test_a_poison_event_parks_its_key_only(flow, act, expected):
    """S6, S14, S15: tried again with pauses, then a dead letter, with its key behind it and nothing else; a human's word goes through the inbox, in order."""
    key, letter = torn(flow)
    assert letter["participant"] == "stock" and letter["handler"] == "public.pack" and letter["attempts"] == 4 and letter["sqlstate"] == "P0001"
    assert letter["behind"] == 2 and "torn" in letter["reason"], letter
    other = fresh("box")
    flow.emit("orders", "parcel.wanted", other, {"n": 1})
    wait_until(lambda: notes(flow, other) == ["1"], 20, "another key goes on")
    assert notes(flow, key) == []
    shown = flow.admin.request("GET", f"/v1/dlq/events?id={letter['id']}")
    assert [entry["payload"] for entry in shown.body["dead_letters"]] == [{"n": 1}] and len(shown.body["dead_letters"][0]["history"]) == 4, shown
    assert letter["id"] in command("dlq", "list", coordinator=flow.coordinator).stdout
    listed = json.loads(command("dlq", "list", "-o", "json", coordinator=flow.coordinator).stdout)  # one document, of both styles
    assert letter["id"] in [entry["id"] for entry in listed["dead_events"]] and listed["missing"] == [] and "dead_letters" in listed, listed
    assert '"sqlstate": "P0001"' in command("dlq", "show", letter["id"], coordinator=flow.coordinator).stdout
    flow.db["stock"].execute("delete from fail where key = %s", key)
    done = command("dlq", act, letter["id"], "--reason", "mended", coordinator=flow.coordinator)
    assert done.returncode == 0, done
    assert flow.admin.request("POST", f"/v1/dlq/events/{act}", {"id": letter["id"]}).status == 404  # not twice
    wait_until(lambda: notes(flow, key) == expected, 20, lambda: f"{expected} in order: {flow.path(key)}")
    assert letter["id"] not in [entry["id"] for entry in flow.letters()]


def test_a_dead_letter_is_compensated(flow):
    """S6, S7: what a handler refuses for good can be given up; those before it hear so in the same saga, and undo their part. One that nobody wants, too."""
    flow.db["balance"].execute("""
        create table torn(id text primary key);
        create function tear() returns trigger language plpgsql as $$ begin
          if exists (select from torn t where t.id = new.id) then raise exception 'the account of % is closed', new.id; end if;
          return new;
        end $$;
        grant select on torn to checkout;
        create trigger tear before insert on used for each row execute function tear();""")
    flow.subscribe("stock", ("stock.reserved.failed", "public.release"))
    wait_until(lambda: ("stock.reserved.failed", "stock") in routes(flow.db["balance"]), 20, "it knows who wants to hear of it")
    key, saga = fresh("order"), fresh("saga")
    flow.db["balance"].execute("insert into torn values (%s)", key)
    with flow.db["orders"].connect(user="checkout", autocommit=False) as session:
        session.execute("select set_config('lockstep.saga', %s, true)", (saga,))
        session.execute("select place(%s, 'tea', 3)", (key,))
        session.commit()
    found = []

    def dead():
        found[:] = [letter for letter in flow.letters() if letter["key"] == key]
        return found
    wait_until(dead, 40, lambda: f"{key} is a dead letter: {flow.path(key)}")
    assert flow.state(key) == "placed" and flow.db["stock"].value("select state from reserved where id = %s", key) == "reserved"
    letter = found[0]["id"]
    done = command("dlq", "compensate", letter, "--reason", "the account is closed", coordinator=flow.coordinator)
    assert done.returncode == 0, done
    flow.wait_end(key, "cancelled")
    flow.audit({key: "cancelled"})
    assert command("dlq", "compensate", letter, coordinator=flow.coordinator).returncode != 0 and dead() == []
    assert flow.db["balance"].query("select saga, cause, payload->>'amount', role from lockstep.event where key = %s and type = 'stock.reserved.failed'", key) == [
        (saga, "stock/" + letter.split("/")[2], "3", "checkout")]
    kind, lost = "lost." + fresh("t").replace("-", ""), fresh("box")
    flow.subscribe("stock", (kind + ".failed", "public.pack"))
    wait_until(lambda: (kind + ".failed", "stock") in routes(flow.db["orders"]), 20, "it knows who wants to hear of it")
    flow.emit("orders", kind, lost, {"n": 7})
    wait_until(lambda: [letter for letter in flow.letters() if letter["key"] == lost], 20, "nobody wants it")
    mine = [letter["id"] for letter in flow.letters() if letter["key"] == lost]
    assert command("dlq", "compensate", mine[0], coordinator=flow.coordinator).returncode == 0
    wait_until(lambda: notes(flow, lost) == ["7"], 20, lambda: f"its failure is heard of: {flow.path(lost)}")
    assert [letter for letter in flow.letters() if letter["key"] == lost] == []


def test_an_event_that_nobody_wants(flow):
    """S16: it is a dead letter, and reaches whoever subscribes after all, in the key's order."""
    key, kind = fresh("box"), "lost." + fresh("t").replace("-", "")
    for number in (1, 2):
        flow.emit("orders", kind, key, {"n": number})
    wait_until(lambda: len([entry for entry in flow.letters() if entry["key"] == key]) == 2, 20, "two dead letters")
    flow.subscribe("stock", (kind, "public.pack"))
    wait_until(lambda: notes(flow, key) == ["1", "2"], 30, lambda: f"delivered after all: {flow.path(key)}")
    assert [entry for entry in flow.letters() if entry["key"] == key] == []
    flow.emit("orders", "nobody.wants", key, {"n": 3})
    mine = []

    def unwanted():
        mine[:] = [entry["id"] for entry in flow.letters() if entry["key"] == key]
        return mine
    wait_until(unwanted, 20, "nobody wants the third one")
    flow.db["orders"].execute("insert into lockstep.terminal values ('nobody.wants') on conflict do nothing")
    assert command("dlq", "retry", mine[0], coordinator=flow.coordinator).returncode == 0  # a position anew, and now it is the end of something
    wait_until(lambda: not unwanted(), 20, "it is none any more")
    with flow.db["stock"].connect(user="checkout") as session:
        assert session.execute("select lockstep.off(%s, 'public.pack')", (kind,)).fetchone()[0]
    wait_until(lambda: (kind, "stock") not in routes(flow.db["orders"]), 20, "its subscription has ended")


def test_a_deadline_is_kept_where_the_saga_began(flow):
    """S16: a participant that is not there any more; the event of later cancels, in the same saga; and an own event reaches its own handler."""
    kind, saga = "overdue." + fresh("t").replace("-", ""), fresh("saga")
    flow.subscribe("orders", (kind, "public.order_cancelled"))
    wait_until(lambda: (kind, "orders") in routes(flow.db["orders"]), 20, "it knows that it wants it")
    flow.agents["stock"].kill()
    key = fresh("order")
    with flow.db["orders"].connect(user="checkout", autocommit=False) as session:
        session.execute("select set_config('lockstep.saga', %s, true)", (saga,))
        session.execute("select place(%s, 'tea', 1)", (key,))
        session.execute("select lockstep.emit_later(%s, %s, '{}', '500 ms')", (kind, key))
        session.rollback()
        assert session.execute("select place(%s, 'tea', 1), lockstep.emit_later(%s, %s, '{}', '500 ms')", (key, kind, key)).fetchone()
        session.commit()
    flow.wait_end(key, "cancelled")
    assert flow.db["orders"].value("select count(distinct saga) from lockstep.event where key = %s", key) == 1
    assert flow.db["orders"].value("select count(*) from lockstep.later") == 0
    flow.agents["stock"].spawn()
    wait_until(lambda: flow.db["balance"].value("select count(*) from used where id = %s", key) == 1, 30, "what was on its way arrives: the application's to undo")
    with flow.db["orders"].connect(user="checkout") as session:
        assert session.execute("select lockstep.off(%s, 'public.order_cancelled')", (kind,)).fetchone()[0]
    flow.books()


# ---------------------------------------------------------------- what is shown


def test_events_as_an_interface(flow):
    """Pages by offset, resumable, nothing missing; filters; an app sees what its database role has written."""
    kind, keys = "seen." + fresh("t").replace("-", ""), [fresh("k") for _ in range(7)]
    with flow.db["orders"].connect(user="checkout") as session:
        session.execute("select lockstep.declare_terminal(%s)", (kind,))
    for number, key in enumerate(keys):
        flow.emit("orders", kind, key, {"n": number})
    wait_until(lambda: flow.db["orders"].value("select count(*) from lockstep.event where position is null") == 0, 20, "all have positions")

    def page(app=flow.app, **query):
        text = "&".join(f"{name}={value}" for name, value in {"participant": "orders", **query}.items())
        return app.request("GET", f"/v1/events?{text}")
    seen, offset = [], 0
    while True:
        answer = page(type=kind, offset=offset, limit=3)
        assert answer.status == 200, answer
        seen += answer.body["events"]
        if not answer.body["events"]:
            break
        offset = answer.body["next"]
    assert [event["key"] for event in seen] == keys and [event["payload"]["n"] for event in seen] == list(range(7))
    assert page(type=kind, offset=answer.body["next"]).body["events"] == []
    flow.emit("orders", kind, keys[0], {"n": 7})
    wait_until(lambda: [e["version"] for e in page(type=kind, offset=answer.body["next"]).body["events"]] == [2], 20, "who goes on sees what is new")
    assert [event["version"] for event in page(key=keys[0]).body["events"]] == [1, 2]
    assert page(app=flow.coordinator.app("billing"), key=keys[0]).body["events"] == []
    assert page(app=flow.coordinator.app("nobody")).status == 403
    assert page(app=flow.admin, key=keys[0], limit=1).body["events"][0]["offset"] == seen[0]["offset"]
    for query, status in (({"participant": "nowhere"}, 404), ({"offset": "-1"}, 400), ({"limit": 0}, 400), ({"limit": 1001}, 400), ({"type": "a%20b"}, 400)):
        assert page(**query).status == status, query
    listed = command("events", "orders", "--type", kind, "--limit", "2", coordinator=flow.coordinator)
    assert listed.returncode == 0 and keys[0] in listed.stdout and keys[2] not in listed.stdout, listed
    assert json.loads(command("events", "orders", "--type", kind, "-o", "json", coordinator=flow.coordinator).stdout)["events"][0]["key"] == keys[0]


def test_the_path_of_a_flow(flow):
    """Assembled from the agents: events with their causes, deliveries with their attempts; and who could not be asked."""
    saga = fresh("saga")
    key = flow.place(saga=saga)
    flow.wait_end(key, "confirmed")
    answer = flow.admin.request("GET", f"/v1/flows/{saga}")
    assert answer.status == 200 and answer.body["missing"] == [], answer
    seen = {part["participant"]: part["seen"] for part in answer.body["participants"]}
    created = next(event for event in seen["orders"]["events"] if event["type"] == "order.created")
    reserved = next(event for event in seen["stock"]["events"] if event["type"] == "stock.reserved")
    assert reserved["cause"] == f"orders/{created['position']}"
    assert [(d["source"], d["handler"], d["state"]) for d in seen["balance"]["deliveries"]] == [("stock", "public.use_balance", "done")]
    shown = command("saga", "show", saga, coordinator=flow.coordinator)
    assert shown.returncode == 0, shown
    lines = shown.stdout.splitlines()
    order = [next(n for n, line in enumerate(lines) if word in line) for word in ("order.created", "stock.reserved", "balance.used", "order.confirmed")]
    assert order == sorted(order), shown.stdout
    assert flow.app.request("GET", f"/v1/flows/{saga}").status == 403
    ca, certificate, key = flow.app.files
    told = command("saga", "show", saga, "--url", f"https://localhost:{flow.coordinator.address('api')[1]}", "--ca", ca, "--cert", certificate, "--cert-key", key)
    assert told.returncode == 1 and "administrator" in told.stderr, told
    assert flow.admin.request("GET", f"/v1/flows/{fresh('none')}").status == 404
    flow.agents["balance"].kill()
    wait_until(lambda: [entry["participant"] for entry in flow.admin.request("GET", f"/v1/flows/{saga}").body["missing"]] == ["balance"], 20, "who is away is named")


def test_what_a_step_emits_belongs_to_its_saga(flow):
    """One path of both styles: the steps that the coordinator drove, and the events that one of them has set off."""
    key = fresh("order")
    emits = {"on": "orders", "do": {"sql": "select place($1, 'tea', 1)", "args": [key]}}
    answer = flow.app.run([{"on": "stock", "do": {"sql": "select 1"}, "undo": {"sql": "select 1"}}, emits], mode="saga", wait="end")
    assert answer.state == "completed", answer
    flow.wait_end(key, "confirmed")
    assert {row[0] for name in flow.db for row in flow.db[name].query("select saga from lockstep.event where key = %s", key)} == {answer.saga}
    shown = command("saga", "show", answer.saga, coordinator=flow.coordinator)
    assert shown.returncode == 0 and shown.stdout.index("completed") < shown.stdout.index("order.created") < shown.stdout.index("order.confirmed"), shown


def test_what_a_transaction_on_several_databases_emits_is_one_flow(flow):
    """The events of a 2PC transaction and all that follows bear the transaction's name, wherever they were written, and are drawn as one path."""
    key, other = fresh("order"), fresh("order")
    answer = flow.run([{"on": "orders", "do": {"sql": "select place($1, 'tea', 1)", "args": [key]}},
                       {"on": "balance", "do": {"sql": "select lockstep.emit('balance.refused', $1, '{}')", "args": [other]}}])
    assert answer.status == 200 and answer.state == "committed", answer
    flow.wait_end(key, "confirmed")
    sagas = {name: {row[0] for row in flow.db[name].query("select saga from lockstep.event where key in (%s, %s)", key, other)} for name in flow.db}
    assert sagas == {name: {answer.gtid} for name in flow.db}, (answer.gtid, sagas)
    shown = command("saga", "show", answer.gtid, coordinator=flow.coordinator)
    assert shown.returncode == 0 and all(word in shown.stdout for word in ("order.created", "order.confirmed", "balance.refused")), shown


def test_the_list_of_flows(flow):
    """Those of all participants under one name each, with what is open of them: in the end nothing is."""
    good, torn_one, lost = fresh("saga"), fresh("saga"), fresh("saga")

    def listed():
        answer = flow.admin.request("GET", "/v1/flows?limit=500")
        assert answer.status == 200 and answer.body["missing"] == [], answer
        return {entry["flow"]: entry for entry in answer.body["flows"]}

    def states():
        return [listed().get(saga, {}).get("state") for saga in (good, torn_one, lost)]
    flow.wait_end(flow.place(saga=good), "confirmed")
    key = fresh("torn")
    flow.db["stock"].execute("insert into fail values (%s, 1)", key)
    flow.emit("orders", "parcel.wanted", key, {"n": 1}, saga=torn_one)
    flow.emit("orders", "nobody.wants.this", fresh("box"), saga=lost)
    wait_until(lambda: states() == ["ended", "stuck", "stuck"], 40, lambda: f"two are stuck: {states()}")
    entry = listed()[good]
    assert entry["began_at"] == "orders" and entry["events"] == 4 and entry["first_unix_ms"] < entry["last_unix_ms"], entry
    assert [listed()[saga]["dead"] for saga in (torn_one, lost)] == [1, 1]
    shown = command("saga", "list", coordinator=flow.coordinator)
    assert shown.returncode == 0 and all(saga in shown.stdout for saga in (good, torn_one)) and "stuck" in shown.stdout, shown
    assert flow.app.request("GET", "/v1/flows").status == 403
    flow.agents["balance"].kill()  # what is on its way to somebody who is away
    waiting = fresh("saga")
    flow.place(saga=waiting)
    wait_until(lambda: flow.admin.request("GET", "/v1/flows").body["missing"], 20, "an agent is missing")

    def on_its_way():
        return {entry["flow"]: entry["state"] for entry in flow.admin.request("GET", "/v1/flows").body["flows"]}.get(waiting)
    wait_until(lambda: flow.db["stock"].value("select count(*) from lockstep.event where saga = %s and position is not null", waiting) == 1, 20, "it got there")
    wait_until(lambda: on_its_way() == "running", 20, lambda: f"it is running: {on_its_way()}")
    flow.heal()
    flow.db["stock"].execute("delete from fail where key = %s", key)
    for letter in flow.letters():
        if letter["saga"] in (torn_one, lost):
            assert command("dlq", "skip", letter["id"], coordinator=flow.coordinator).returncode == 0
    wait_until(lambda: states() == ["ended"] * 3 and on_its_way() == "ended", 40, lambda: f"all have ended: {states()}, {on_its_way()}")


def test_metrics(flow):
    key = flow.place()
    flow.wait_end(key, "confirmed")
    metrics = flow.agent_metrics("stock")
    assert metrics.value("lockstep_agent_deliveries_total", how="handled") > 0 and metrics.value("lockstep_agent_events_claimed_total") > 0
    flow.agents["balance"].kill()
    late = flow.place()
    wait_until(lambda: flow.agent_metrics("stock").value("lockstep_agent_outbox_lag_seconds") > 1, 30, "the lag of a peer that is away grows")
    assert flow.agent_metrics("stock").value("lockstep_agent_outbox_lag_events") >= 1
    flow.agents["balance"].spawn()
    flow.wait_end(late, "confirmed")
    wait_until(lambda: flow.agent_metrics("stock").value("lockstep_agent_outbox_lag_seconds") == 0, 30, "and goes")


# ---------------------------------------------------------------- bounds and rights


def test_only_agents_are_served(flow):
    """The peers' listener: an application's certificate is told so and closed; an agent's may speak for its own participant only."""
    import ssl
    import socket
    import struct

    from harness.proxy import wire
    host, port = flow.agents["stock"].config["peers"]["listen"].split(":")

    def talk(uri, name):
        files = flow.authority.files(uri)
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=files[0])
        context.check_hostname = False
        context.load_cert_chain(files[1], files[2])
        frame = wire().Frame()
        frame.greet.version, frame.greet.version_min, frame.greet.participant = 3, 3, name
        with socket.create_connection((host, int(port)), 10) as plain, context.wrap_socket(plain) as link:
            link.settimeout(10)
            payload = frame.SerializeToString()
            said = []
            try:
                link.sendall(struct.pack("!I", len(payload)) + payload)
                while True:
                    head = b""
                    while len(head) < 4:
                        part = link.recv(4 - len(head))
                        if not part:
                            return said
                        head += part
                    body, size = b"", struct.unpack("!I", head)[0]
                    while len(body) < size:
                        body += link.recv(size - len(body))
                    answer = wire().Frame()
                    answer.ParseFromString(body)
                    said.append(answer.WhichOneof("body"))
                    if said[-1] == "greet":
                        return said
            except OSError:
                return said
    assert talk("lockstep://app/checkout", "orders") in ([], ["error"])
    assert talk("lockstep://agent/elsewhere", "orders") in ([], ["error"])
    assert "greet" in talk("lockstep://agent/elsewhere", "elsewhere")
    key = flow.place()
    flow.wait_end(key, "confirmed")


def test_large_events_go_page_by_page(flow):
    """A page is bounded in bytes as well: ten of the largest payloads, and a small one behind them, in order."""
    key = fresh("big")
    with flow.db["orders"].connect(user="checkout", autocommit=False) as session:
        for number in range(1, 11):
            session.execute("select lockstep.emit('parcel.wanted', %s, jsonb_build_object('n', %s::int, 'x', repeat('x', 262000)))", (key, number))
        session.commit()
    flow.emit("orders", "parcel.wanted", key, {"n": 11})
    wait_until(lambda: len(notes(flow, key)) == 11, 40, lambda: f"all have arrived: {notes(flow, key)}")
    assert notes(flow, key) == [str(number) for number in range(1, 12)]


def test_what_is_acknowledged_is_not_read_again(flow):
    """An agent that stood still while another one served remembers less than the database: its subscribers may have let go of what it would send."""
    flow.wait_end(flow.place(), "confirmed")
    page = "select min(position), count(position) from lockstep.relay_page('stock', %s, (select position from lockstep.relay), 100, 1000000)"
    through = "select position from lockstep.forward where participant = 'stock'"
    wait_until(lambda: flow.db["orders"].value(through) > 0 and flow.db["orders"].query(page, 0)[0] == (None, 0), 20, "nothing that is acknowledged is read")
    before = flow.db["orders"].value(through)
    flow.agents["stock"].stop()
    try:
        flow.emit("orders", flow.db["orders"].value("select type from lockstep.route where participant = 'stock' limit 1"), fresh("key"), {})
        wait_until(lambda: flow.db["orders"].query(page, 0)[0][1] == 1, 20, "what is not acknowledged is")
        assert flow.db["orders"].query(page, 0)[0][0] > before
    finally:
        flow.agents["stock"].start()


def test_what_is_through_may_go():
    """S21: inbox rows go when they are old enough and will not be sent again; own events when everybody has them, but for dead letters and each key's last."""
    flow = Flow(agents={"relay": {"keep_inbox": "1s", "keep_events": "1s"}})
    try:
        keys = {flow.place(): "confirmed" for _ in range(3)}
        for key, state in keys.items():
            flow.wait_end(key, state)
        flow.audit(keys)
        flow.emit("orders", "nobody.wants", "letter")
        before = flow.place()  # the acknowledgement of a page is known with the next one
        flow.wait_end(before, "confirmed")
        old = "select count(*) from lockstep.inbox where key = any(%s)"

        def gone():
            flow.wait_end(flow.place(), "confirmed")
            return all(flow.db[name].value(old, list(keys)) == 0 for name in ("stock", "balance"))
        wait_until(gone, 60, lambda: f"inbox rows go: {flow.db['stock'].query('select source, position, state, at from lockstep.inbox')}")
        wait_until(lambda: flow.db["orders"].value("select count(*) from lockstep.event where key = any(%s) and version = 1", list(keys)) == 0, 60, "events go")
        assert flow.db["orders"].value("select count(*) from lockstep.event where key = any(%s)", list(keys)) == len(keys)
        assert flow.db["orders"].value("select count(*) from lockstep.event where key = 'letter'") == 1
        flow.audit(keys)
    finally:
        flow.close()
