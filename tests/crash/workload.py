"""Clients that move money, order, read and fail on all databases of a system; and the audit in SQL of what they were told.

Used by chaos.py and matrix.py. A client repeats what it got no answer for under the same Idempotency-Key; what it did without a key stays
unknown to it and must only be agreed upon. Each deed leaves one row in the ledger of each database it writes to, so that SQL can say
afterwards where it happened: everywhere or nowhere, and as its client was told.
"""

import collections
import http.client
import json
import os
import random
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "pg"))

from harness.api import Answer, UnixConnection  # noqa: E402
from harness.base import NotReached, wait_until  # noqa: E402
from harness.cluster import find_server_programs, run_as_server  # noqa: E402
from harness.programs import ROOT  # noqa: E402
from harness.system import step  # noqa: E402

ACCOUNTS, MONEY = 40, 1000
SCHEMA = """
create table account(id int primary key, amount bigint not null check (amount >= 0));
insert into account select n, %d from generate_series(1, %d) n;
create table ledger(key text primary key, client int not null, kind text not null, change bigint not null);
grant select, insert, update on account, ledger to checkout;
grant delete on ledger to checkout;
""" % (MONEY, ACCOUNTS) + """
-- money that is paid here and told in an event, and what somebody else's event brings; one of ten is refused at first
create function pay(key text, client int, change bigint, account int, other text, other_account int) returns void language plpgsql as $$ begin
  insert into ledger values (key, client, 'event', change);
  update account a set amount = a.amount + change where a.id = account;
  perform lockstep.emit('money.' || other, key, jsonb_build_object('client', client, 'change', -change, 'account', other_account));
end $$;
create function receive(e jsonb) returns void language plpgsql as $$ begin
  if random() < 0.1 then
    raise exception 'not now';
  end if;
  insert into ledger values (e->>'key', (e->'payload'->>'client')::int, 'event', (e->'payload'->>'change')::bigint);
  update account a set amount = a.amount + (e->'payload'->>'change')::bigint where a.id = (e->'payload'->>'account')::int;
end $$;
"""
ROLES = {"app/checkout": "checkout", "admin/local": "checkout"}  # who comes over the Unix socket is admin/local
FINAL = ("committed", "aborted", "hazard")
ENDS = {"completed": "committed", "compensated": "aborted"}  # of a saga, as the audit means it
ADD = "update account set amount = amount + $1 where id = $2 and amount + $1 >= 0"
# the same as one step of a saga, with its row in the ledger, and what takes it back
DO = "with noted as (insert into ledger values ($1, $2, $3, $4)) update account set amount = amount + $4 where id = $5 and amount + $4 >= 0"
UNDO = "with gone as (delete from ledger where key = $1 returning change) update account set amount = amount - gone.change from gone where id = $2"


class Deed:
    """One transaction of a client: what it should have done where, and what the client knows about it."""

    def __init__(self, key, kind, changes, steps, keyed):
        self.key, self.kind, self.changes, self.steps, self.keyed = key, kind, changes, steps, keyed
        self.saga = kind.startswith("saga")
        self.told = None  # "committed", "aborted", "hazard", "not begun", None: unknown
        self.gtid = None


class Line:
    """A client's connection over the Unix socket, kept until it breaks: a tenth of what a TLS connection per request costs."""

    def __init__(self, coordinator):
        self.coordinator, self.connection = coordinator, None

    def request(self, method, path, body=None, headers=None, timeout=15):
        if self.connection is None:
            self.connection = UnixConnection(self.coordinator.socket, timeout)
        try:
            self.connection.request(method, path, body=json.dumps(body) if body is not None else None,
                                    headers={"Content-Type": "application/json", **(headers or {})})
            response = self.connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        except BaseException:
            self.close()
            raise

    def run(self, steps, *, key=None, timeout=15, wait=None, **document):
        path = "/v1/run" + (f"?wait={wait}" if wait else "")
        return self.request("POST", path, {"mode": "2pc", "steps": steps, **document}, {"Idempotency-Key": key} if key else None, timeout)

    def get(self, gtid):
        return self.request("GET", f"/v1/tx/{gtid}")

    def close(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None


def run_deed(line, deed):
    more = {"mode": "saga", "wait": "end"} if deed.saga else {}
    return line.run(deed.steps, key=deed.key if deed.keyed else None, timeout=40 if deed.saga else 15, **more)


def state_of(answer):
    return ENDS.get(answer.state, answer.state)


def name_of(answer):
    return answer.gtid or answer.saga


class Client(threading.Thread):
    """Does one deed after the other until the load is over."""

    def __init__(self, load, number, seed):
        super().__init__(name=f"client {number}", daemon=True)
        self.load, self.number, self.random = load, number, random.Random(seed)
        self.line = load.line()
        self.deeds = []

    # -- deeds

    def make(self, count):
        key = f"{self.load.tag}-c{self.number}-{count}"
        kinds = self.load.kinds
        kind = self.random.choices(list(kinds), list(kinds.values()))[0]
        changes, steps = getattr(self, "make_" + kind.replace(" ", "_"))(key, kind)
        return Deed(key, kind, changes, steps, self.random.random() < 0.6 or kind.startswith("saga"))

    def account(self):
        return self.random.randint(1, ACCOUNTS)

    def note(self, where, key, kind, change, **more):
        return step(where, "insert into ledger values ($1, $2, $3, $4)", key, self.number, kind, change, **more)

    def some(self, least, most):
        names = self.load.names
        return tuple(self.random.sample(names, min(self.random.randint(least, most), len(names))))

    def move(self, key, kind, changes):
        steps = []
        for name, change in changes.items():
            steps += [self.note(name, key, kind, change), step(name, ADD, change, self.account(), expect_rows=1)]
        return changes, steps

    def spread(self, names, amount):
        """Each gets `amount`, the last one pays it all."""
        changes = {name: amount for name in names}
        changes[names[-1]] = -amount * (len(names) - 1)
        return changes

    def make_transfer(self, key, kind):
        """Money between 2 or more databases."""
        return self.move(key, kind, self.spread(self.some(2, 4), self.random.randint(1, 9)))

    def make_order(self, key, kind):
        """All databases: one gets what all others pay. Not always the same one: after half an hour the others would have nothing left."""
        names, amount = self.load.names, self.random.randint(1, 5)
        receiver = self.random.choice(names)
        return self.move(key, kind, {name: -amount if name != receiver else amount * (len(names) - 1) for name in names})

    def make_too_much(self, key, kind):
        """The last database has not enough: it says no."""
        return self.move(key, kind, self.spread(self.some(2, 4), ACCOUNTS * MONEY * 10))

    def make_late_no(self, key, kind):
        """One says no when the others have prepared."""
        changes, steps = self.move(key, kind, self.spread(self.some(2, 4), 1))
        return changes, steps + [step(self.random.choice(list(changes)), "select 1 / 0 from pg_sleep(0.01)")]

    def make_slow(self, key, kind):
        """One branch takes its time while the others are prepared."""
        changes, steps = self.make_transfer(key, kind)
        return changes, steps + [step(self.random.choice(list(changes)), "select from pg_sleep(0.05)")]

    def make_reader(self, key, kind):
        """Writes in some, only reads in one."""
        names = self.some(3, 3)
        changes, steps = self.move(key, kind, self.spread(names[:-1], 1) if len(names) > 2 else {names[0]: 0})
        return changes, steps + [step(names[-1], "select amount from account where id = $1", self.account())]

    def make_chain(self, key, kind):
        """The first database goes on when the second has done its part: its branch comes in two parts."""
        a, b = self.some(2, 2)
        changes = {a: 2, b: -2}
        return changes, [self.note(a, key, kind, 2, name="first"), step(b, ADD, -2, self.account(), expect_rows=1, after="first", name="second"),
                         self.note(b, key, kind, -2), step(a, ADD, 2, self.account(), expect_rows=1, after="second")]

    def make_single(self, key, kind):
        """One database only: one phase, an outcome row instead of a decision."""
        name, account = self.load.favour or self.random.choice(self.load.names), self.account()
        return {name: 0}, [self.note(name, key, kind, 0),
                           step(name, "update account set amount = amount - 1 where id = $1 and amount > 0", account, expect_rows=1),
                           step(name, "update account set amount = amount + 1 where id = $1", account)]

    def make_slow_single(self, key, kind):
        changes, steps = self.make_single(key, kind)
        return changes, steps + [step(next(iter(changes)), "select from pg_sleep(0.03)")]

    def make_event(self, key, kind):
        """One database pays in a transaction of its own, or in one with a third, and the other is paid by its event."""
        names = list(self.some(2, 3))
        if self.load.favour in names:
            names.remove(self.load.favour)
            names.insert(self.random.randint(0, 1), self.load.favour)
        change, steps = -self.random.randint(1, 9), []
        steps.append(step(names[0], "select pay($1, $2, $3, $4, $5, $6)", key, self.number, change, self.account(), names[1], self.account()))
        if len(names) > 2:
            steps.append(self.note(names[2], key, kind, 0))
        return {names[0]: change, names[1]: -change, **dict.fromkeys(names[2:], 0)}, steps

    def saga_steps(self, key, kind, one_way):
        """Who pays comes first: the others only receive, and cannot say no. `one_way`: the last two cannot be undone."""
        changes, steps = self.spread(self.some(2, 4), self.random.randint(1, 9)), []
        for name, change in reversed(changes.items()):
            account = self.account()
            steps.append({"on": name, "attempts": 1000, "do": {"sql": DO, "args": [key, self.number, kind, change, account], "expect_rows": 1},
                          "undo": {"sql": UNDO, "args": [key, account]}})
        for last, word in zip(steps[:-3:-1], ("retriable", "pivot")) if one_way else ():
            last["kind"] = word
            del last["undo"]
        return changes, steps

    def make_saga(self, key, kind):
        """Money between 2 or more databases, step by step."""
        return self.saga_steps(key, kind, self.random.random() < 0.5)

    def make_saga_no(self, key, kind):
        """Everything is done, then the pivot says no, and everything is undone."""
        changes, steps = self.saga_steps(key, kind, False)
        return changes, steps + [step(self.random.choice(list(changes)), "select 1 / 0", kind="pivot")]

    # -- the client's life

    def run(self):
        try:
            self.work()
        except Exception as error:  # a client that is broken proves nothing
            self.load.surprises.append(f"{self.name}: {error!r}")
            raise

    def work(self):
        count = 0
        while not self.load.over.is_set():
            count += 1
            deed = self.make(count)
            self.deeds.append(deed)
            self.submit(deed)
            if deed.told is not None:
                self.load.answered += 1
            if deed.keyed and deed.told == "committed" and self.random.random() < self.load.repeats:
                self.repeat(deed)
            while self.load.paused and not self.load.over.is_set():
                time.sleep(0.01)
            if self.load.over.wait(self.random.random() * self.load.pause_s):
                break
        if isinstance(self.line, Line):
            self.line.close()

    def send(self, deed):
        try:
            return run_deed(self.line, deed)
        except (OSError, http.client.HTTPException):
            return None

    def submit(self, deed):
        """Sends it; with a key again and again until something is known or the round is over."""
        while True:
            answer = self.send(deed)
            deed.told = None
            if answer is not None:
                deed.gtid = name_of(answer)
                if answer.status in (200, 409) and state_of(answer) in FINAL:
                    deed.told = state_of(answer)
                    return
                if deed.saga and answer.state == "stuck":
                    return  # nothing more is known before a human has looked at it
                newcomer = answer.code == "unknown_participant" and self.load.newcomers
                if (answer.status in (429, 503) or newcomer) and answer.body and answer.body.get("begun") is False:
                    deed.told = "not begun"
                elif answer.status == 400 or answer.status >= 500 and answer.status != 503:
                    self.load.surprises.append(f"{deed.key}: {answer}")
                    return
                elif answer.status == 202 and not deed.saga and self.follow(deed, answer.gtid):
                    return
            if not deed.keyed and deed.told is None:
                return
            if self.load.over.wait(0.02):
                return

    def follow(self, deed, gtid):
        """202: asks until the outcome is known. False: it is not known."""
        while not self.load.over.wait(0.05):
            try:
                answer = self.line.get(gtid)
            except (OSError, http.client.HTTPException):
                continue
            state = answer.state
            if answer.code == "key_unsettled" or state == "aborted" and deed.keyed and len(deed.changes) == 1:
                return False  # so this run was; only the key itself tells of runs in earlier lives of the coordinator
            if state in FINAL:
                deed.told = state
                return True
        return False

    def repeat(self, deed):
        """What was committed under a key is answered so for ever, under the same name, and is not done twice (the ledger would refuse it)."""
        answer = self.send(deed)
        if answer is not None and answer.status == 200 and name_of(answer) == deed.gtid or answer is None or answer.status in (202, 429, 503):
            return
        self.load.surprises.append(f"{deed.key} was committed as {deed.gtid}, and again: {answer}")


class Load:
    """All clients of one system, round by round."""

    client = Client

    def __init__(self, system, names, kinds, *, clients, line, pause_s=0.0, repeats=0.0):
        self.system, self.names, self.kinds, self.count = system, tuple(names), kinds, clients
        self.line, self.pause_s, self.repeats = line, pause_s, repeats
        self.tag, self.over, self.clients, self.surprises = "", threading.Event(), [], []
        self.favour, self.paused, self.answered = None, False, 0
        self.newcomers = False  # may a participant be unknown, since it joins for the first time?
        for name in self.names:
            system.db[name].execute(SCHEMA)

    def subscribe(self):
        """Each database hears of what is paid to it. Before the agents start: everybody knows who wants what then."""
        for name in self.names:
            with self.system.db[name].connect(user="checkout") as session:
                session.execute("select lockstep.on(%s, 'public.receive')", ("money." + name,))

    def events_known(self):
        wanted = len(self.names)
        return all(self.system.db[name].value("select count(*) from lockstep.route where type like 'money.%%'") == wanted for name in self.names)

    def events_outstanding(self):
        """Events that have not had their effect yet, dead letters included. All sources are asked before any inbox: what a source has been told to be
        stored meanwhile is then seen where it waits."""
        to_be_sent = """select (select count(*) from lockstep.event where position is null) + (select count(*) from lockstep.letter)
            + (select count(*) from lockstep.event e join lockstep.route r on r.type = e.type and r.start < e.position
               left join lockstep.forward f on f.participant = r.participant where e.position > coalesce(f.position, 0))"""
        to_be_handled = "select count(*) from lockstep.inbox where state in ('waiting', 'dead')"
        return sum(self.system.db[name].value(sql) for sql in (to_be_sent, to_be_handled) for name in self.names)

    def begin(self, tag, seed, kinds=None, favour=None):
        """From now on the clients work. The ledgers are empty again: what appears there later under another tag came late."""
        dice = random.Random(seed)
        self.tag, self.kinds, self.favour, self.paused, self.answered = tag, kinds or self.kinds, favour, False, 0
        self.base = {}
        for name in self.names:
            self.base[name] = self.system.db[name].value("with gone as (delete from ledger) select sum(amount)::bigint from account")
        self.over.clear()
        self.clients = [self.client(self, number, dice.random()) for number in range(self.count)]
        for client in self.clients:
            client.start()

    def end(self):
        """The clients stop; returns their deeds."""
        self.over.set()
        for client in self.clients:
            client.join()
        return [deed for client in self.clients for deed in client.deeds]

    def finish_known(self, deeds):
        """A client with a key comes back once more now that everything runs, and must be told."""
        line = self.line()
        for deed in deeds:
            if deed.keyed and deed.told in (None, "not begun"):
                answer = self.finish(line, deed)
                if state_of(answer) not in ("committed", "aborted"):
                    self.surprises.append(f"{deed.key} repeated after healing: {answer}")
                deed.told, deed.gtid = state_of(answer), name_of(answer)

    @staticmethod
    def finish(line, deed):
        """Repeats it under its key until it is known: an agent may just be meeting its restarted server."""
        last = []

        def known():
            last[:] = [run_deed(line, deed)]
            return state_of(last[0]) in FINAL or last[0].status not in (200, 202, 429, 503)
        wait_until(known, 45 if deed.saga else 15, lambda: f"{deed.key} is known; last answer: {last}")
        return last[0]

    def audit(self, deeds):
        """Compares what the clients know with what SQL sees."""
        there = {name: dict(self.system.db[name].query("select key, change from ledger")) for name in self.names}
        found = collections.Counter({"differences": 0, "lost": 0, "ghosts": 0, "sums": 0, "hazards": 0})
        known = {deed.key for deed in deeds}
        for name in self.names:
            for key in set(there[name]) - known:
                found["ghosts"] += 1
                print(f"  ghost: {key} of an earlier round has appeared in {name}")
        for deed in deeds:
            self.audit_deed(deed, there, found)
        self.audit_sums(there, found)
        return found

    def audit_deed(self, deed, there, found):
        where = {name for name in self.names if deed.key in there[name]}
        everywhere = set(deed.changes)
        about = f"{deed.key} ({deed.kind}, {deed.gtid})"
        if where not in (set(), everywhere):
            found["differences"] += 1
            print(f"  difference: {about}, its client was told {deed.told}, is in {sorted(where)}, not in {sorted(everywhere - where)}")
        if deed.told == "committed" and where != everywhere:
            found["lost"] += 1
            print(f"  lost: {about} was acknowledged and is only in {sorted(where)}")
        if deed.told in ("aborted", "not begun") and where:
            found["ghosts"] += 1
            print(f"  ghost: {about} was {deed.told} and is in {sorted(where)}")
        if deed.told == "hazard":
            found["hazards"] += 1
            print(f"  hazard: {about}, though no outside hand touched anything")

    def audit_sums(self, there, found):
        total = 0
        for name in self.names:
            money = self.system.db[name].value("select sum(amount)::bigint from account")
            total += money
            if money != self.base[name] + sum(there[name].values()):
                found["sums"] += 1
                print(f"  sum: {name} holds {money}, by its ledger it must be {self.base[name] + sum(there[name].values())}")
        if total != len(self.names) * ACCOUNTS * MONEY:
            found["sums"] += 1
            print(f"  sum: all databases together hold {total}, must be {len(self.names) * ACCOUNTS * MONEY}")


def wait_orphans(system, seconds):
    """How many prepared transactions are still there after `seconds`."""
    try:
        system.no_orphans(max(0.1, seconds))
        return 0
    except NotReached as error:
        print(error)
        return sum(len(gids) for gids in system.orphans().values())


def check_indexes(system):
    """pg_amcheck on every database: crashes under prepared transactions have left broken indexes in the past (hazards A7). Returns what is wrong."""
    tool, wrong = os.path.join(find_server_programs(), "pg_amcheck"), []
    for cluster in system.clusters:
        try:
            run_as_server([tool, "--all", "--install-missing", "--heapallindexed", "-h", cluster.directory, "-U", "postgres"])
        except subprocess.CalledProcessError as error:
            wrong.append(f"pg_amcheck: {error.stdout.decode()[-2000:]}")
    return wrong


def commit_name():
    done = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def keep_logs(system, directory):
    """The end of every program's log, for whoever looks for the cause."""
    os.makedirs(directory, exist_ok=True)
    logs = [(f"{daemon.binary}-{daemon.name}.log", daemon.log) for daemon in (system.coordinator, *system.agents.values())]
    for name, path in logs + [(f"{cluster.name}.log", cluster.log) for cluster in system.clusters]:
        with open(path, "rb") as source, open(os.path.join(directory, name), "wb") as target:
            source.seek(max(0, os.path.getsize(path) - (1 << 20)))
            target.write(source.read())
