#!/usr/bin/python3
"""Chaos on real servers, the three forms beside each other: clients place the shop's orders as 2pc, as orchestrated and as choreographed sagas, while
coordinator, agents and servers are killed with SIGKILL at random moments; then everything is healed, ends, and is audited in SQL.

Hazard: crashes of several processes that overlap, in the middle of sagas: a step or an event twice or never, a saga that never ends, a key out of
order, a compensated order that leaves something, a row of barrier, inbox or outbox that stays open (S1 to S6, S8, S10 to S15, S17).
Method: the tables, handlers and audit of scripts/lib/shop. One order in four is refused by stock, balance or coupon. Each taken piece also emits
an event whose key, the product, all orders share. In some rounds the data platform refuses certain steps and events until it is healed: those
end as dead letters, and an operator retries, skips or compensates them.
Seen if wrong: after healing something does not end within SETTLE_S seconds, or one of the checks below says FAIL.

    tests/crash/saga_chaos.py --rounds 5 --seed 1                 exit status 0: nothing wrong
    tests/crash/saga_chaos.py --rounds 500 --state DIR --at-most 480    what is done is kept in DIR, the same command goes on from there
"""

import argparse
import collections
import datetime
import http.client
import json
import os
import random
import shutil
import subprocess
import sys
import time

import psycopg

from chaos import Chaos
from workload import ROLES, Client, Deed, Line, Load, check_indexes, commit_name, keep_logs, wait_orphans

from harness.base import NotReached, wait_until
from harness.cluster import find_server_programs
from harness.programs import ROOT, free_port
from harness.system import GRACE_S, System

sys.path.insert(0, os.path.join(ROOT, "scripts", "lib"))
from audit import Audit  # noqa: E402

SHOP = os.path.join(ROOT, "scripts", "lib", "shop")
LAYOUT = {"orders": 0, "platform": 0, "products": 1, "balance": 2, "coupons": 2}
KINDS = {"2pc": 3, "saga": 4, "flow": 4}
ROUND = 1_000_000  # an order's number: its round, its client, its count
SKUS, CUSTOMERS, COUPONS = 40, 200, 100
HEAL_S = 90  # a server that was killed recovers first, beside whatever else the machine does
SETTLE_S = 90  # for what waits between two attempts of a step or a handler (at most 30 s), one after another
STAMPED, TORN = 5, 3  # of 16 orders: a saga with a step at the platform; whose event the platform refuses while its gate is closed

# Each changed stock is told under the product's key: the platform writes down what it hears, without any unique key, so that SQL can see order and number.
MORE = {
    "products": """
create function shop_moved() returns trigger language plpgsql as $$ begin
  if tg_op = 'INSERT' then perform lockstep.emit('stock.moved', new.sku, jsonb_build_object('change', new.quantity));
  else perform lockstep.emit('stock.moved', old.sku, jsonb_build_object('change', -old.quantity)); end if;
  return null;
end $$;
create trigger moved after insert or delete on taken for each row execute function shop_moved();
""",
    "platform": """
create table gate(closed bool not null);
insert into gate values (false);
create table moved(n bigserial, sku text, version bigint, change int);
create table stamped(order_id bigint);
grant select on gate to checkout; grant select, insert, delete on moved, stamped to checkout; grant usage on sequence moved_n_seq to checkout;
create function shop_listen(e jsonb) returns void language plpgsql as $$ begin
  if e->>'key' = 's%(torn)d' and (select closed from gate) then raise exception 'the shelf is being moved'; end if;
  insert into moved(sku, version, change) values (e->>'key', (e->>'version')::bigint, (e->'payload'->>'change')::int);
end $$;
create function shop_refuse() returns trigger language plpgsql as $$ begin
  if new.order_id %% 16 = %(torn)d and (select closed from gate) then raise exception 'nothing is published now'; end if;
  return new;
end $$;
create trigger refuse before insert on published for each row execute function shop_refuse();
create function shop_stamp(id bigint) returns void language plpgsql as $$ begin
  if (select closed from gate) then raise exception 'no stamps now' using errcode = '55P03'; end if;
  insert into stamped values (id);
end $$;
set session authorization checkout;
select lockstep.on('stock.moved', 'public.shop_listen');
reset session authorization;
""" % {"torn": TORN},
}
TYPES = 9  # that are subscribed to
# What must come to nothing: of each database, and what it is called when it does not.
OPEN = {
    "prepared transactions": "select count(*) from pg_prepared_xacts where database = current_database()",
    "sessions within a transaction": "select count(*) from pg_stat_activity where application_name like 'lockstep/%' and xact_start is not null and datname = current_database()",
    "barrier rows": "select count(*) from lockstep.barrier",
    "events without a position": "select count(*) from lockstep.event where position is null",
    "events not acknowledged": "select behind from lockstep.relay_state()",
    "events of later": "select count(*) from lockstep.later",
    "inbox rows open": "select count(*) from lockstep.inbox where state in ('waiting', 'dead')",
    "unwanted events": "select count(*) from lockstep.letter",
}


class Order:
    def __init__(self, number, dice):
        self.id, self.quantity = number, dice.randint(1, 3)
        self.sku, self.customer, self.coupon = f"s{dice.randrange(SKUS)}", f"c{dice.randrange(CUSTOMERS)}", f"k{dice.randrange(COUPONS)}"
        self.amount = 700 * self.quantity
        self.stamped = number % 16 == STAMPED

    def steps(self, parallel):
        """As in bench/order_flow.c. `parallel`: stock, money and coupon at once."""
        def one(name, on, do, args, undo=None, expect_rows=1, **more):
            back = {"undo": {"sql": undo, "args": [self.id]}} if undo else {}
            return {"name": name, "on": on, "do": {"sql": do, "args": args, "expect_rows": expect_rows}, **back, **more}
        after = {"after": "order"} if parallel else {}
        return [
            one("order", "orders", "insert into orders(id, customer, sku, quantity, amount, coupon) values ($1, $2, $3, $4, $5, $6)",
                [self.id, self.customer, self.sku, self.quantity, self.amount, self.coupon], "delete from orders where id = $1"),
            one("stock", "products", "with t as (update product set stock = stock - $1 where sku = $2 and stock >= $1 returning sku) "
                "insert into taken(order_id, sku, quantity) select $3, sku, $1 from t", [self.quantity, self.sku, self.id],
                "with t as (delete from taken where order_id = $1 returning sku, quantity) "
                "update product p set stock = p.stock + t.quantity from t where p.sku = t.sku", **after),
            one("money", "balance", "with t as (update account set amount = amount - $1 where owner = $2 and amount >= $1 returning owner) "
                "insert into payment(order_id, owner, amount) select $3, owner, $1 from t", [self.amount, self.customer, self.id],
                "with t as (delete from payment where order_id = $1 returning owner, amount) "
                "update account a set amount = a.amount + t.amount from t where a.owner = t.owner", **after),
            one("coupon", "coupons", "with t as (update coupon set uses_left = uses_left - 1 where code = $1 and uses_left >= 1 returning code) "
                "insert into used(order_id, code) select $2, code from t", [self.coupon, self.id],
                "with t as (delete from used where order_id = $1 returning code) "
                "update coupon c set uses_left = c.uses_left + 1 from t where c.code = t.code", **after)]

    def publish(self, **more):
        return {"name": "publish", "on": "orders", **more,
                "do": {"sql": "select lockstep.emit('order.placed', $1, jsonb_build_object('id', $2::bigint))", "args": [str(self.id), self.id]}}

    def stamp(self, **more):
        return {"name": "stamp", "on": "platform", "attempts": 2, "do": {"sql": "select shop_stamp($1)", "args": [self.id]},
                "undo": {"sql": "delete from stamped where order_id = $1", "args": [self.id]}, **more}


class Buyer(Client):
    """Places one order after the other, each in one of the three forms."""

    session = None

    def make(self, count):
        order = Order(self.load.round * ROUND + self.number * 10_000 + count, self.random)
        kind = self.random.choices(list(self.load.kinds), list(self.load.kinds.values()))[0]
        parallel = kind == "saga" and self.random.random() < 0.5
        steps = order.steps(parallel)
        if kind == "saga" and order.stamped:
            steps.append(order.stamp(**({"after": ["stock", "money", "coupon"]} if parallel else {})))
        last = {"after": [step["name"] for step in steps[1:]]} if parallel else {}
        deed = Deed(f"order-{order.id}", kind, {}, steps + [order.publish(**last)], kind != "flow")
        deed.order, deed.stamped = order, kind == "saga" and order.stamped
        return deed

    def submit(self, deed):
        if deed.kind != "flow":
            super().submit(deed)
            return
        while not self.accepted(deed.order) and not self.load.over.wait(0.05):
            pass
        deed.told = "accepted" if deed.order.accepted else None

    def accepted(self, order):
        """The flow's first transaction; repeated, it does nothing."""
        order.accepted = False
        try:
            if self.session is None or self.session.closed:
                self.session = self.load.system.db["orders"].connect(user="checkout")
            self.session.execute("select shop_order(%s, %s, %s, %s, %s, %s)",
                                 (order.id, order.customer, order.sku, order.quantity, order.amount, order.coupon))
            order.accepted = True
        except psycopg.OperationalError:
            if self.session is not None:
                self.session.close()
        return order.accepted

    def work(self):
        super().work()
        if self.session is not None:
            self.session.close()


class ShopLoad(Load):
    client = Buyer

    def __init__(self, system, **options):
        super().__init__(system, (), KINDS, **options)
        self.round = 0

    def play(self, number, seed):
        self.round = number
        self.begin(f"r{number}", seed)


class SagaChaos(Chaos):
    """Who is killed and when is Chaos's; load, operator and audit are of the shop."""

    def __init__(self, options, state):
        self.options, self.state = options, state
        self.system = System(LAYOUT, roles=ROLES, start=False, agents={"relay": {"attempts": 3}})
        self.load = ShopLoad(self.system, clients=options.clients, line=lambda: Line(self.system.coordinator), pause_s=0.02, repeats=0.1)
        self.line = Line(self.system.coordinator)
        self.round, self.totals = 0, collections.Counter()
        self.outcomes, self.seen = {}, {name: 0 for name in LAYOUT}  # of all rounds; and up to which position events were looked at
        self.skipped, self.acts = set(), collections.Counter()
        try:
            for name in LAYOUT:
                self.make_tables(name)
            for agent in self.system.agents.values():
                agent.config["peers"] = {"listen": f"127.0.0.1:{free_port()}"}
            self.system.start()
            wait_until(self.routes_known, 30, "the agents know each other's subscriptions")
        except BaseException:
            self.system.close()
            raise

    def make_tables(self, name):
        for path in (f"{SHOP}/{name}.sql", f"{SHOP}/events/{name}.sql"):
            if os.path.exists(path):
                with open(path, encoding="utf-8") as file:
                    self.sql(name, file.read())
        if name in MORE:
            self.sql(name, MORE[name])

    def sql(self, name, text):
        with self.system.db[name].connect() as session:
            session.execute(text)

    def value(self, name, sql):
        return self.system.db[name].value(sql)

    def routes_known(self):
        return all(self.value(name, "select count(distinct type) from lockstep.route") == TYPES for name in LAYOUT)

    # -- the operator

    def ask(self, method, path, body=None):
        """None: no answer, or that it cannot be answered now."""
        try:
            answer = self.line.request(method, path, body, timeout=20)
        except (OSError, http.client.HTTPException):
            return None
        return answer if answer.status < 500 and answer.status != 429 else None

    def operate(self, dice):
        """A human's word about each dead letter."""
        for letter in self.listed("/v1/dlq", "dead_letters"):
            shown = self.ask("GET", f"/v1/sagas/{letter['saga']}")
            if shown is None or shown.state != "stuck":
                continue
            stamp = shown.body["stuck_in"] == "running" and any(step.get("name") == "stamp" for step in shown.body["document"]["steps"])
            act = dice.choice(["retry", "skip", "compensate"]) if stamp else "retry"
            order = shown.body["document"]["steps"][0]["do"]["args"][0]
            if act == "skip":
                self.skipped.add(order)
            self.tell(f"/v1/dlq/{letter['saga']}/{act}", {"reason": "the gate is open again"}, act)
        for letter in self.listed("/v1/dlq/events", "dead_letters"):
            self.tell("/v1/dlq/events/retry", {"id": letter["id"], "reason": "the gate is open again"}, "retry of an event")

    def listed(self, path, what):
        answer = self.ask("GET", path)
        return answer.body[what] if answer is not None and answer.status == 200 else []

    def tell(self, path, body, act):
        answer = self.ask("POST", path, body)
        if answer is not None and answer.status in (200, 202):
            self.acts[act] += 1
        elif answer is not None and answer.status not in (404, 409):
            self.load.surprises.append(f"{path}: {answer}")

    def outstanding(self):
        """What has not come to its end, in words."""
        found = [f"{count} {what} in {name}" for name in LAYOUT for what, sql in OPEN.items() if (count := self.value(name, sql))]
        for path, what in (("/v1/sagas", "sagas"), ("/v1/tx?state=pending", "transactions")):
            answer = self.ask("GET", path)
            if answer is None:
                found.append(f"no answer to {path}")
            elif answer.body[what]:
                found.append(f"{len(answer.body[what])} {what}: {answer.body[what][:3]}")
        return found

    def settle(self, dice, seconds=SETTLE_S):
        left = []

        def quiet():
            self.operate(dice)
            left[:] = self.outstanding()
            return not left
        wait_until(quiet, seconds, lambda: "; ".join(left))

    # -- a round

    def gate(self, closed):
        self.system.db["platform"].execute("update gate set closed = %s", closed)

    def restock(self):
        """What is short is refilled a little, so that it runs out in each round anew."""
        self.system.db["products"].execute("update product set initial = initial + 2, stock = stock + 2 where substr(sku, 2)::int % 10 = 7")
        self.system.db["coupons"].execute("update coupon set initial = initial + 1, uses_left = uses_left + 1 where substr(code, 2)::int % 20 = 11")

    def play(self, number):
        self.round = number
        seed = self.options.seed * 100003 + number
        dice = random.Random(seed)
        self.restock()
        self.gate(dice.random() < 0.5)
        self.acts.clear()
        self.load.play(number, seed)
        killed = self.torment(dice, time.monotonic() + self.options.seconds)
        self.load.over.set()
        self.system.heal(HEAL_S)
        healed = time.monotonic()
        deeds = self.load.end()
        wrong = [f"{GRACE_S} s after everything runs {orphans} prepared transactions" for orphans in [wait_orphans(self.system, GRACE_S)] if orphans]
        self.gate(False)
        try:
            self.settle(dice)
            self.load.finish_known(deeds)
            self.settle(dice)
            settled = time.monotonic() - healed
            wrong += self.audit(deeds)
        except NotReached as error:
            settled = time.monotonic() - healed
            wrong.append(str(error))
        wrong += self.load.surprises
        self.load.surprises.clear()
        for text in wrong:
            print(f"  WRONG in round {number}: {text}", flush=True)
        self.count(number, deeds, killed, settled)
        return not wrong

    def count(self, number, deeds, killed, settled):
        of = collections.Counter((deed.kind, self.outcomes.get(deed.order.id, "unknown")) for deed in deeds)
        for (kind, outcome), n in of.items():
            self.totals[f"{kind} {outcome}"] += n
        self.totals.update({f"kills {kind}": n for kind, n in killed.items()})
        self.totals.update({act: n for act, n in self.acts.items()})
        words = ", ".join(f"{kind} {of[kind, 'committed']}+{of[kind, 'aborted']}" for kind in KINDS)
        print(f"round {number}: {words} (done+refused); killed: coordinator {killed['coordinator']}, agents {killed['agent']}, servers {killed['server']}; "
              f"dead letters {sum(self.acts.values())}; ended {settled:.1f} s after healing", flush=True)

    # -- the audit

    def audit(self, deeds):
        """What is wrong, in words."""
        wrong = []
        new, self.seen = self.new_events()
        wrong += self.check_told(deeds, self.ends_of_flows(new, wrong))
        checks = Audit(lambda name: self.system.db[name].connect(), self.outcomes, GRACE_S, platform=True).run()
        wrong += [f"{check.name}: {check.detail}" for check in checks if not check.good]
        return wrong + self.check_stamps(deeds) + self.check_deliveries(new) + self.check_keys()

    def new_events(self):
        """{participant: [(position, type, key)]} since the last round."""
        new = {name: self.system.db[name].query("select position, type, key from lockstep.event where position > %s order by position", seen)
               for name, seen in self.seen.items()}
        return new, {name: max([self.seen[name], *(row[0] for row in rows)]) for name, rows in new.items()}

    def ends_of_flows(self, new, wrong):
        """{order: how its flow ended}: one event says so, and only one."""
        words = {"coupon.used": "committed", "stock.refused": "aborted", "money.refused": "aborted", "coupon.refused": "aborted"}
        ends = {}
        for _, kind, key in (row for rows in new.values() for row in rows):
            if kind in words:
                if int(key) in ends:
                    wrong.append(f"the flow of order {key} has ended twice")
                ends[int(key)] = words[kind]
        return ends

    def check_told(self, deeds, ends):
        """What each client was told; of flows, that what was accepted is there and has ended."""
        requests = {row[0] for row in self.system.db["orders"].query("select id from request where id >= %s", self.round * ROUND)}
        wrong = []
        for deed in deeds:
            number = deed.order.id
            if deed.kind != "flow":
                self.outcomes[number] = deed.told
                continue
            if deed.told == "accepted" and number not in requests:
                wrong.append(f"flow {number} was accepted and is lost")
            if (number in requests) != (number in ends):
                wrong.append(f"flow {number} was {'' if number in requests else 'not '}begun and has {'' if number in ends else 'not '}ended")
            if number in ends:
                self.outcomes[number] = ends[number]
        hazards = sum(deed.told == "hazard" for deed in deeds)
        return wrong + ([f"{hazards} hazards, though no outside hand touched anything"] if hazards else [])

    def check_stamps(self, deeds):
        """Exactly one stamp of each saga that was to have one and has completed; none that a human has skipped."""
        there = collections.Counter(row[0] for row in self.system.db["platform"].query("select order_id from stamped where order_id >= %s", self.round * ROUND))
        wanted = collections.Counter(deed.order.id for deed in deeds if deed.stamped and deed.told == "committed" and deed.order.id not in self.skipped)
        return [f"stamps: {dict(there - wanted)} too many, {dict(wanted - there)} missing"] if there != wanted else []

    def check_deliveries(self, new):
        """Each event has been done once by each handler that wants it."""
        wrong = []
        for name in LAYOUT:
            handlers = self.system.db[name].query("select type, handler from lockstep.subscription")
            wanted = collections.Counter((source, position, handler) for source, rows in new.items() for position, kind, _ in rows
                                         for wish, handler in handlers if wish == kind)
            done = collections.Counter(row for source, rows in new.items() if rows for row in self.system.db[name].query(
                "select source, position, handler from lockstep.inbox where source = %s and position >= %s and state = 'done'", source, rows[0][0]))
            if wanted != done:
                wrong.append(f"{name}: deliveries {dict(wanted - done)} missing, {dict(done - wanted)} too many")
        return wrong

    def check_keys(self):
        """No gap in a key; the platform has heard of each product in its order, each change once, and they add up to what is taken."""
        wrong = [f"{name}: keys with gaps: {gaps}" for name in LAYOUT for gaps in [self.system.db[name].query(
            "select key from lockstep.event group by key having count(*) <> max(version) limit 5")] if gaps]
        torn = self.system.db["platform"].query("select sku, version, before from (select sku, version, lag(version) over (partition by sku order by n) as before from moved) m "
                                                "where version <> coalesce(before, 0) + 1 limit 5")
        heard = dict(self.system.db["platform"].query("select sku, sum(change)::int from moved group by sku having sum(change) <> 0"))
        taken = dict(self.system.db["products"].query("select sku, sum(quantity)::int from taken group by sku"))
        if torn:
            wrong.append(f"the platform has heard out of order, twice or not at all: {torn}")
        if heard != taken:
            wrong.append(f"what the platform has heard of stock differs: {set(heard.items()) ^ set(taken.items())}")
        return wrong

    # -- for whoever looks for the cause

    def keep(self, folder):
        keep_logs(self.system, folder)
        shutil.copytree(self.system.coordinator.data, os.path.join(folder, "coordinator"), dirs_exist_ok=True, ignore=shutil.ignore_patterns("*sock*"))
        for name, database in self.system.db.items():
            with open(os.path.join(folder, f"{name}.sql"), "wb") as file:
                subprocess.run([os.path.join(find_server_programs(), "pg_dump"), "-d", database.conninfo()], stdout=file, check=False)


class State:
    """What is done, over interruptions."""

    def __init__(self, folder, seed):
        self.file, self.seed, self.done, self.totals, self.seconds = os.path.join(folder, "saga-chaos.json") if folder else None, seed, 0, collections.Counter(), 0
        if self.file and os.path.exists(self.file):
            with open(self.file, encoding="utf-8") as file:
                kept = json.load(file)
            if kept["seed"] != seed:
                raise SystemExit(f"{self.file} belongs to seed {kept['seed']}")
            self.done, self.totals, self.seconds = kept["done"], collections.Counter(kept["totals"]), kept["seconds"]

    def save(self):
        if self.file:
            os.makedirs(os.path.dirname(self.file), exist_ok=True)
            with open(self.file + ".tmp", "w", encoding="utf-8") as file:
                json.dump({"seed": self.seed, "commit": commit_name(), "done": self.done, "totals": self.totals, "seconds": round(self.seconds)}, file, indent=1)
            os.replace(self.file + ".tmp", self.file)


def play(options, state):
    """All rounds that are left, or as many as there is time for. True: nothing was wrong."""
    begun, before = time.monotonic(), state.seconds
    chaos = SagaChaos(options, state)
    try:
        while state.done < options.rounds and time.monotonic() - begun < options.at_most:
            good = chaos.play(state.done + 1)
            state.done += 1
            state.totals.update(chaos.totals)
            chaos.totals.clear()
            state.totals["violations"] += not good
            state.seconds = before + time.monotonic() - begun
            state.save()
            if not good:
                if options.keep_logs:
                    chaos.keep(os.path.join(options.keep_logs, f"round-{state.done}"))
                return False
        wrong = check_indexes(chaos.system)
        for text in wrong:
            print(text)
        return not wrong
    finally:
        chaos.load.over.set()
        chaos.system.close()


def main():
    parser = argparse.ArgumentParser(description="Chaos on real servers with the three forms of the order flow, audited in SQL.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.5, help="torment of one round")
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--state", metavar="DIR", help="keeps what is done there, and goes on from it")
    parser.add_argument("--at-most", type=float, default=1e9, metavar="SECONDS", help="begins no further round after so long")
    parser.add_argument("--keep-logs", metavar="DIR", help="copies logs and databases there when something is wrong")
    options = parser.parse_args()
    state = State(options.state, options.seed)
    good = play(options, state)
    t = state.totals
    orders = "; ".join(f"{kind}: {t[kind + ' committed']} done, {t[kind + ' aborted']} refused" for kind in KINDS)
    print(f"{datetime.date.today()} {commit_name()}: saga_chaos --rounds {options.rounds} --seed {options.seed}: {orders}; "
          f"killed: coordinator {t['kills coordinator']}, agents {t['kills agent']}, servers {t['kills server']}; "
          f"dead letters retried {t['retry'] + t['retry of an event']}, skipped {t['skip']}, compensated {t['compensate']}; {state.seconds:.0f} s")
    print(f"{state.done} of {options.rounds} rounds, {t['violations']} violations", flush=True)
    return 0 if good and not t["violations"] else 1


if __name__ == "__main__":
    sys.exit(main())
