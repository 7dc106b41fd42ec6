"""What the laboratory sees while an experiment runs: a session per database that looks at prepared transactions and locks, a reader who looks at all of them
one after the other, and bystanders who update rows and know nothing of lockstep. Threads; none of them starts a process.
"""

import threading
import time

import psycopg

from audit import PARTICIPANTS

LOOK_S = 0.25
STALE_S = 1.5  # older than that: the server could not be asked
NEWEST = 400   # orders that the reader looks at
SKUS = 20      # the products that are ordered
PAUSE_S = 0.02

STATE_SQL = """
select (select count(*) from pg_prepared_xacts where database = current_database()),
       (select extract(epoch from clock_timestamp() - min(prepared))::float8 from pg_prepared_xacts where database = current_database()),
       (select count(distinct l.pid) from pg_locks l join pg_stat_activity a using (pid) where not l.granted and a.datname = current_database()),
       (select extract(epoch from clock_timestamp() - min(l.waitstart))::float8 from pg_locks l join pg_stat_activity a using (pid)
         where not l.granted and a.datname = current_database()),
       greatest((select max(age(transaction)) from pg_prepared_xacts where database = current_database()),
         (select max(age(backend_xmin)) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid())),
       (select count(*) from lockstep.event where position is null)"""
ORDERS = {"orders": "select id from orders order by id desc limit %s", "products": "select order_id from taken order by order_id desc limit %s",
          "balance": "select order_id from payment order by order_id desc limit %s", "coupons": "select order_id from used order by order_id desc limit %s"}


class Looker(threading.Thread):
    """Repeats act(session) on a session that is opened again when it breaks, until stop() is called."""

    def __init__(self, connect, pause):
        super().__init__(daemon=True)
        self.connect, self.pause = connect, pause
        self.over = threading.Event()
        self.session = None

    def run(self):
        while not self.over.is_set():
            try:
                if self.session is None or self.session.closed:
                    self.session = self.connect()
                self.act(self.session)
            except psycopg.Error:
                if self.session is not None:
                    self.session.close()
                self.session = None
                self.over.wait(0.05)
            self.over.wait(self.pause)
        if self.session is not None:
            self.session.close()

    def act(self, session):
        raise NotImplementedError

    def stop(self):
        self.over.set()


class DatabaseState(Looker):
    """The newest state of one database."""

    def __init__(self, connect):
        super().__init__(connect, LOOK_S)
        self.state, self.at = None, 0.0

    def act(self, session):
        began = time.monotonic()
        self.state = session.execute(STATE_SQL).fetchone()
        self.at = began

    def fresh(self):
        return self.state if time.monotonic() - self.at < STALE_S else None


class Reader(Looker):
    """Orders that are to be seen in some databases and not in others, of the newest. Asks one after the other, as a report would."""

    def __init__(self, connects):
        super().__init__(None, LOOK_S)
        self.connects, self.sessions = connects, {}
        self.half, self.at, self.lacking = None, 0.0, {}
        self.since = {}  # of those half-way: when they were seen so first
        self.longest = 0.0  # that one was seen half-way, s

    def run(self):
        while not self.over.is_set():
            try:
                self.look()
            except psycopg.Error:
                for session in self.sessions.values():
                    session.close()
                self.sessions = {}
            self.over.wait(self.pause)
        for session in self.sessions.values():
            session.close()

    def look(self):
        began = time.monotonic()
        seen = {}
        for name, connect in self.connects.items():
            if name not in self.sessions:
                self.sessions[name] = connect()
            seen[name] = {row[0] for row in self.sessions[name].execute(ORDERS[name], (NEWEST,))}
        # below the newest that every list reaches down to, nothing can be said
        floor = max((min(ids) for ids in seen.values() if len(ids) == NEWEST), default=0)
        everywhere = set.intersection(*seen.values())
        half = {order for order in set.union(*seen.values()) - everywhere if order >= floor}
        self.half, self.at, self.lacking = half, began, {name: half - ids for name, ids in seen.items()}
        self.since = {order: self.since.get(order, began) for order in half}
        self.longest = max([self.longest, *(began - first for first in self.since.values())])

    def fresh(self):
        return self.half if time.monotonic() - self.at < STALE_S else None

    def begun_at(self, start):
        """(when the newest look began, in seconds since `start`, orders half-way), or None."""
        half, at = self.half, self.at
        return None if half is None else (at - start, half)

    def stuck(self, seconds, name):
        """Orders that have been half-way in all looks for so long, and lack in that database: not caught between two commits."""
        since, lacking = self.since, self.lacking.get(name, set())
        return [order for order, began in since.items() if self.at - began >= seconds and order in lacking]


class Bystander(Looker):
    """Updates one ordered product after the other, and measures."""

    def __init__(self, connect, first):
        super().__init__(connect, PAUSE_S)
        self.sku = first
        self.lock = threading.Lock()
        self.began, self.done, self.worst = None, 0, 0.0

    def act(self, session):
        self.sku = (self.sku + 1) % SKUS
        with self.lock:
            self.began = time.monotonic()
        try:
            session.execute("update product set stock = stock where sku = %s", (f"s{self.sku}",))
            with self.lock:
                self.done += 1
        finally:
            with self.lock:
                self.note(time.monotonic())
                self.began = None

    def note(self, now):
        took = now - self.began if self.began is not None else 0.0
        self.worst = max(self.worst, took)

    def take(self):
        """(Updates since the last call, the longest of them, the one under way included)."""
        with self.lock:
            self.note(time.monotonic())
            taken = self.done, self.worst
            self.done, self.worst = 0, 0.0
        return taken


class Watch:
    """All of them together. sample() every half a second; figures that cannot be had are None."""

    BYSTANDERS = 3

    def __init__(self, shop):
        def connect(name):
            return psycopg.connect(shop.conninfo(name), autocommit=True, connect_timeout=2, application_name="lab")
        self.databases = {name: DatabaseState(lambda name=name: connect(name)) for name in shop.participants}
        self.reader = Reader({name: lambda name=name: connect(name) for name in PARTICIPANTS})
        self.bystanders = [Bystander(lambda: connect("products"), number * SKUS // self.BYSTANDERS) for number in range(self.BYSTANDERS)]
        self.threads = [*self.databases.values(), self.reader, *self.bystanders]
        for thread in self.threads:
            thread.start()

    def stop(self):
        for thread in self.threads:
            thread.stop()
        for thread in self.threads:
            thread.join(5)

    def sample(self, seconds):
        """`seconds`: since the sample before."""
        states = {name: database.fresh() for name, database in self.databases.items()}
        known = [state for state in states.values() if state is not None]
        taken = [bystander.take() for bystander in self.bystanders]
        half = self.reader.fresh()

        def most(column):
            return max((float(state[column]) for state in known if state[column] is not None), default=0.0)

        def total(column):
            return sum(int(state[column]) for state in known)
        return {"in_doubt": total(0), "oldest_in_doubt_s": round(most(1), 2), "waiting": total(2), "oldest_wait_s": round(most(3), 2),
                "bystanders_per_s": round(sum(done for done, _ in taken) / seconds, 1), "bystander_worst_s": round(max(worst for _, worst in taken), 2),
                "xmin_age": int(most(4)), "half_seen": len(half) if half is not None else None, "outbox": total(5),
                "unreachable": sorted(name for name, state in states.items() if state is None)}
