"""Hazard: an audit that finds nothing. The demo and the rounds of chaos believe scripts/lib/audit.py.

Method: the shop's four databases on a real server, filled with whole orders by hand; then one thing is broken at a time, as a lost commit, half a
transaction or a forgotten rollback would. Seen if wrong: a broken shop that passes, or a good one that does not.
"""

import os
import sys

import pytest

from harness.base import folder
from harness.cluster import Cluster

SCRIPTS = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", "scripts", "lib"))
sys.path.insert(0, SCRIPTS)

from audit import PARTICIPANTS, Audit  # noqa: E402

ORDERS = range(1, 6)


@pytest.fixture(scope="module")
def cluster():
    cluster = Cluster()
    with cluster.connect("postgres") as session:
        session.execute("create role checkout")
    for name in PARTICIPANTS:
        cluster.create_database(name)
    yield cluster
    cluster.remove()


@pytest.fixture
def shop(cluster):
    """Databases with five orders, journal of five committed and one refused; all in agreement."""
    for name in PARTICIPANTS:
        with open(os.path.join(SCRIPTS, "shop", f"{name}.sql"), encoding="utf-8") as sql, cluster.connect(name) as session:
            session.execute("drop schema public cascade; create schema public")
            session.execute(sql.read())
    shop = Shop(cluster)
    for order in ORDERS:
        shop.sql("orders", f"insert into orders(id, customer, sku, quantity, amount, coupon) values ({order}, 'c1', 's1', 2, 300, 'k1')")
        shop.sql("products", f"update product set stock = stock - 2 where sku = 's1'; insert into taken values ({order}, 's1', 2)")
        shop.sql("balance", f"update account set amount = amount - 300 where owner = 'c1'; insert into payment values ({order}, 'c1', 300)")
        shop.sql("coupons", f"update coupon set uses_left = uses_left - 1 where code = 'k1'; insert into used values ({order}, 'k1')")
        shop.journal(order, "committed")
    shop.journal(6, "aborted")
    return shop


class Shop:
    def __init__(self, cluster):
        self.cluster = cluster
        self.path = os.path.join(folder.make("audit"), "journal")

    def sql(self, participant, text):
        with self.cluster.connect(participant) as session:
            session.execute(text)

    def journal(self, order, outcome, end="\n"):
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(f"{order}\t{outcome}\tg\t1\t\t\t{end}")

    def failed(self):
        """Names of the checks that fail."""
        checks = Audit(self.cluster.connect, self.path, grace=0.2).run()
        return {check.name for check in checks if not check.good}


def test_agreement_passes(shop):
    assert shop.failed() == set()
    shop.journal(7, "committed", end="")  # cut by the death of the load: told to nobody
    assert shop.failed() == set()


@pytest.mark.parametrize("participant,broken,expected", [
    ("products", "update product set stock = stock + 1 where sku = 's2'", {"stock conserved"}),
    ("balance", "update account set amount = amount - 1 where owner = 'c1'", {"money conserved"}),
    # the sum is right, two rows are not
    ("balance", "update account set amount = amount + case owner when 'c1' then 1 else -1 end where owner in ('c1', 'c2')", {"money conserved"}),
    ("coupons", "update coupon set uses_left = 0 where code = 'k1'", {"coupons conserved"}),
    # half a transaction
    ("orders", "delete from orders where id = 3",
     {"orders and products agree", "orders and balance agree", "orders and coupons agree", "every acknowledged order present"}),
    ("products", "delete from taken where order_id = 3; update product set stock = stock + 2 where sku = 's1'", {"orders and products agree"}),
    ("coupons", "update used set code = 'k2' where order_id = 3; update coupon set uses_left = uses_left + case code when 'k1' then 1 else -1 end"
                " where code in ('k1', 'k2')", {"orders and coupons agree"}),
    # another amount than was ordered
    ("balance", "update payment set amount = 299 where order_id = 3; update account set amount = amount + 1 where owner = 'c1'",
     {"orders and balance agree"}),
])
def test_what_is_broken_is_found(shop, participant, broken, expected):
    shop.sql(participant, broken)
    assert shop.failed() == expected


def test_lost_order(shop):
    """Gone everywhere: the databases agree, the client's journal does not."""
    shop.sql("orders", "delete from orders where id = 3")
    shop.sql("products", "delete from taken where order_id = 3; update product set stock = stock + 2 where sku = 's1'")
    shop.sql("balance", "delete from payment where order_id = 3; update account set amount = amount + 300 where owner = 'c1'")
    shop.sql("coupons", "delete from used where order_id = 3; update coupon set uses_left = uses_left + 1 where code = 'k1'")
    assert shop.failed() == {"every acknowledged order present"}


@pytest.mark.parametrize("outcome,expected", [("aborted", {"no refused order present"}), ("unknown", {"every outcome known"})])
def test_journal_against_the_databases(shop, outcome, expected):
    with open(shop.path, encoding="utf-8") as file:
        lines = file.read().replace("3\tcommitted", f"3\t{outcome}")
    with open(shop.path, "w", encoding="utf-8") as file:
        file.write(lines)
    assert shop.failed() == expected


def test_two_outcomes_of_one_order(shop):
    shop.journal(3, "aborted")
    with pytest.raises(ValueError, match="order 3"):
        shop.failed()


def test_unknown_that_became_known(shop):
    """The load asks again with the same key until it knows; the last word counts."""
    shop.journal(6, "unknown")
    assert shop.failed() == set()


def test_prepared_transaction_left(shop):
    session = shop.cluster.connect("balance")
    session.execute("begin")
    session.execute("insert into payment values (99, 'c5', 1)")
    session.execute("prepare transaction 'lockstep:x:balance'")
    assert shop.failed() == {"no prepared transaction left within 0.2 s"}
    session.execute("rollback prepared 'lockstep:x:balance'")
    session.close()
    assert shop.failed() == set()
