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
        self.db["stock"].execute("insert into stock values ('tea', 1000000), ('gold', 1)")
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
        taken = "select 1000001 - sum(amount) = (select coalesce(sum(amount), 0) from reserved where state = 'reserved') from stock"
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
    poor = flow.place(amount=999999)
    rich = flow.place(sku="gold", amount=2)
    flow.db["balance"].execute("update balance set amount = amount")  # whatever is there
    flow.wait_end(rich, "cancelled")
    assert flow.db["stock"].value("select count(*) from reserved where id = %s", rich) == 0
    before = flow.db["balance"].value("select amount from balance where owner = 'kim'")
    assert before < 999999 or flow.state(poor) != "cancelled"
    wait_until(lambda: flow.state(poor) != "placed", 30, lambda: f"{flow.path(poor)}")
    keys = {rich: "cancelled", poor: flow.state(poor)}
    flow.audit(keys)
    third = flow.place(amount=999999)
    flow.wait_end(third, "cancelled")
    assert flow.db["stock"].query("select state from reserved where id = %s", third) == [("released",)]
    flow.audit({**keys, third: "cancelled"})
