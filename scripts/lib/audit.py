#!/usr/bin/python3
"""The audit of the shop: do four databases and the clients' journal agree?

    audit.py --db orders=CONNINFO --db products=CONNINFO --db balance=CONNINFO --db coupons=CONNINFO [--db platform=CONNINFO] [--journal FILE] [--grace 10]

Every figure comes from SQL on the databases themselves; nothing is asked of lockstep. Exit status 0: everything agrees; 1: it does not.
The journal is what `lockstep-bench order-flow` writes: what the coordinator acknowledged, order by order.

Also to be imported: Audit(connect, journal).run() returns a list of Check.
"""

import argparse
import collections
import sys
import time

import psycopg

PARTICIPANTS = ("orders", "products", "balance", "coupons")
SHOW_MAX = 5  # offending orders named in a failed check

Check = collections.namedtuple("Check", "good name detail")

# What is there now plus what the orders took must be what was there first, row by row: participant, what, unit, query.
CONSERVED = (
    ("products", "stock", "pieces", """
        select coalesce(sum(p.initial), 0), coalesce(sum(p.stock), 0), coalesce(sum(t.n), 0),
               count(*) filter (where p.initial - coalesce(t.n, 0) <> p.stock or p.stock < 0)
          from product p left join (select sku, sum(quantity) n from taken group by sku) t using (sku)"""),
    ("balance", "money", "cents", """
        select coalesce(sum(a.initial), 0), coalesce(sum(a.amount), 0), coalesce(sum(t.n), 0),
               count(*) filter (where a.initial - coalesce(t.n, 0) <> a.amount or a.amount < 0)
          from account a left join (select owner, sum(amount) n from payment group by owner) t using (owner)"""),
    ("coupons", "coupons", "uses", """
        select coalesce(sum(c.initial), 0), coalesce(sum(c.uses_left), 0), coalesce(sum(t.n), 0),
               count(*) filter (where c.initial - coalesce(t.n, 0) <> c.uses_left or c.uses_left < 0)
          from coupon c left join (select code, count(*) n from used group by code) t using (code)"""),
)

# The part of an order that each of the others must hold, in the same words: participant, query there, query on orders.
PARTS = (
    ("products", "select order_id, sku, quantity from taken", "select id, sku, quantity from orders"),
    ("balance", "select order_id, owner, amount from payment", "select id, customer, amount from orders"),
    ("coupons", "select order_id, code from used", "select id, coupon from orders"),
)


def read_journal(path):
    """{order: outcome}; an order that has two different outcomes on record is an error in itself."""
    outcomes = {}
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            fields = line.rstrip("\n").split("\t")
            if len(fields) < 2 or not line.endswith("\n"):
                continue  # the load was killed while it wrote: nothing was acknowledged to anybody who could tell
            order, outcome = int(fields[0]), fields[1]
            known = outcomes.get(order)
            if known not in (None, "unknown") and outcome not in (known, "unknown"):
                raise ValueError(f"order {order} is on record as {known} and as {outcome}")
            if known is None or known == "unknown":
                outcomes[order] = outcome
    return outcomes


def some(ids):
    """The first few, for people."""
    ids = sorted(ids)
    return ", ".join(str(i) for i in ids[:SHOW_MAX]) + (f" and {len(ids) - SHOW_MAX} more" if len(ids) > SHOW_MAX else "")


class Audit:
    """`connect(participant)` gives a psycopg session with autocommit."""

    def __init__(self, connect, journal=None, grace=10, platform=False):
        """`journal`: a file, or {order: outcome}. `platform`: there is a database of that name, to which every order is published."""
        self.connect, self.journal, self.grace, self.platform = connect, journal, grace, platform
        self.checks = []

    def check(self, good, name, detail):
        self.checks.append(Check(bool(good), name, detail))

    def query(self, participant, sql):
        with self.connect(participant) as session:
            return session.execute(sql).fetchall()

    def prepared(self):
        """{participant: number of prepared transactions}, without those that have none."""
        found = {name: self.query(name, "select count(*) from pg_prepared_xacts where database = current_database()")[0][0]
                 for name in PARTICIPANTS}
        return {name: count for name, count in found.items() if count}

    def check_prepared(self):
        begin = time.monotonic()
        left = self.prepared()
        while left and time.monotonic() - begin < self.grace:
            time.sleep(0.05)
            left = self.prepared()
        detail = ", ".join(f"{count} in {name}" for name, count in left.items()) or f"gone after {time.monotonic() - begin:.1f} s"
        self.check(not left, f"no prepared transaction left within {self.grace:g} s", detail)

    def check_conserved(self):
        for participant, what, unit, sql in CONSERVED:
            initial, now, taken, wrong = self.query(participant, sql)[0]
            self.check(not wrong and initial == now + taken, f"{what} conserved",
                       f"{initial} {unit} at first = {now} left + {taken} taken" + (f"; {wrong} rows differ" if wrong else ""))

    def check_parts(self):
        for participant, there, here in PARTS:
            held, wanted = set(self.query(participant, there)), set(self.query("orders", here))
            wrong = {row[0] for row in held ^ wanted}
            self.check(not wrong, f"orders and {participant} agree",
                       f"{len(wanted)} orders, {len(held)} parts" + (f"; they differ in {some(wrong)}" if wrong else ""))

    def check_published(self):
        """Published comes behind the order, in every form. What is on its way has `grace` from the last one that arrived: a backlog on a busy machine is no loss."""
        begin, before = time.monotonic(), None
        while True:
            wanted = {row[0] for row in self.query("orders", "select id from orders where state = 'complete'")}
            there = {row[0] for row in self.query("platform", "select order_id from published")}
            if len(there) != before:
                begin, before = time.monotonic(), len(there)
            if wanted == there or time.monotonic() - begin > self.grace:
                break
            time.sleep(0.05)
        self.check(wanted == there, "every order published once", f"{len(there)} of {len(wanted)}" + (f"; they differ in {some(wanted ^ there)}" if wanted != there else ""))
        pending = {row[0] for row in self.query("orders", "select id from orders where state = 'pending'")}
        self.check(not pending, "no order left half-way", f"{len(pending)}" + (f": {some(pending)}" if pending else ""))

    def check_journal(self):
        outcomes = self.journal if isinstance(self.journal, dict) else read_journal(self.journal)
        there = {row[0] for row in self.query("orders", "select id from orders")}
        committed = {order for order, outcome in outcomes.items() if outcome == "committed"}
        aborted = {order for order, outcome in outcomes.items() if outcome == "aborted"}
        unknown = set(outcomes) - committed - aborted
        lost, risen = committed - there, aborted & there
        self.check(not lost, "every acknowledged order present", f"{len(committed)} acknowledged" + (f"; missing: {some(lost)}" if lost else ""))
        self.check(not risen, "no refused order present", f"{len(aborted)} refused" + (f"; present: {some(risen)}" if risen else ""))
        self.check(not unknown, "every outcome known", f"{len(unknown)} unknown" + (f": {some(unknown)}" if unknown else ""))
        # Not an error where the load was ended by force: these committed and nobody was told.
        strangers = there - set(outcomes)
        self.check(not strangers, "no order that nobody asked about", f"{len(strangers)}" + (f": {some(strangers)}" if strangers else ""))

    def run(self):
        self.check_prepared()  # first: a branch still in doubt shows in none of the tables
        self.check_conserved()
        self.check_parts()
        if self.platform:
            self.check_published()
        if self.journal:
            self.check_journal()
        return self.checks


def print_checks(checks, out=sys.stdout):
    width = max(len(check.name) for check in checks)
    for check in checks:
        out.write(f"  {'ok  ' if check.good else 'FAIL'}  {check.name:<{width}}  {check.detail}\n")
    out.flush()


def main():
    parser = argparse.ArgumentParser(description="Audit of the shop's four databases.")
    parser.add_argument("--db", action="append", default=[], metavar="NAME=CONNINFO", help="once for each of " + ", ".join(PARTICIPANTS))
    parser.add_argument("--journal", help="what lockstep-bench order-flow wrote")
    parser.add_argument("--grace", type=float, default=10, help="seconds in which prepared transactions must be gone (10)")
    arguments = parser.parse_args()
    conninfos = dict(word.partition("=")[::2] for word in arguments.db)
    missing = [name for name in PARTICIPANTS if name not in conninfos]
    if missing:
        parser.error("no --db for " + ", ".join(missing))
    checks = Audit(lambda name: psycopg.connect(conninfos[name], autocommit=True), arguments.journal, arguments.grace,
                   "platform" in conninfos).run()
    print_checks(checks)
    return 0 if all(check.good for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
