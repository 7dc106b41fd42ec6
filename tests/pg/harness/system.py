"""A whole system: clusters, databases with test tables, coordinator, agents; and the audit that ends every test with a crash in it."""

import itertools
import uuid

from .api import put, step
from .base import wait_until
from .cluster import Cluster
from .programs import Agent, Coordinator, authority, command
from .proxy import LinkProxy, PgProxy

GRACE_S = 10  # orphans are gone this long after everything runs again

TABLES = """
create table item(k text primary key, v int not null default 0 check (v >= 0), note text);
create table child(k text primary key, parent text references item(k) deferrable initially deferred);
create table unique_later(k text constraint unique_k unique deferrable initially deferred);
grant select, insert, update, delete on item, child, unique_later to public;
"""

_keys = itertools.count(1)


def fresh(word="k"):
    """A key, table or word that no other test uses."""
    return f"{word}-{next(_keys)}-{uuid.uuid4().hex[:6]}"


class System:
    """`layout`: {participant: number of its cluster}. Participants and databases have the same name."""

    def __init__(self, layout, *, coordinator=None, agents=None, cluster_settings=None, pg_proxies=(), link_proxies=(),
                 start=True, name="shop", roles=None, app_roles=("checkout", "billing")):
        self.authority = authority()
        self.app_roles = app_roles
        self.clusters, self.db, self.agents, self.pg, self.link = [], {}, {}, {}, {}
        self.link_proxies = link_proxies
        self.coordinator = Coordinator(self.authority, name, settings=coordinator)
        self.app, self.admin = self.coordinator.app("checkout"), self.coordinator.admin
        try:
            self.make_clusters(max(layout.values()) + 1, cluster_settings)
            for participant, number in layout.items():
                self.make_participant(participant, self.clusters[number], participant in pg_proxies, settings=agents, roles=roles)
            if start:
                self.start()
        except BaseException:
            self.close()
            raise

    def make_clusters(self, count, settings):
        self.clusters = [Cluster(settings=settings, start=False) for _ in range(count)]
        for cluster in self.clusters:
            cluster.spawn()
        for cluster in self.clusters:
            cluster.wait_started()
            with cluster.connect("postgres") as session:
                session.execute("create role lockstep_agent login;" + ";".join(f"create role {role} login" for role in self.app_roles))

    def make_participant(self, participant, cluster, proxy, **options):
        self.db[participant] = database = cluster.create_database(participant)
        database.execute(TABLES)
        if proxy:
            self.pg[participant] = PgProxy(cluster)
        server = self.pg.get(participant) or cluster
        self.agents[participant] = Agent(participant, self.coordinator, server.conninfo(participant, "lockstep_agent"), **options)
        self.init_participant(participant)

    def init_participant(self, participant):
        """What a database needs, as `lockstep init-participant` prints it."""
        roles = [word for role in self.app_roles for word in ("--app-role", role)]
        done = command("init-participant", "--agent-role", "lockstep_agent", *roles)
        assert done.returncode == 0, done
        with self.db[participant].connect() as session:
            session.execute(done.stdout)

    def start(self):
        self.coordinator.start()
        for participant in self.link_proxies:
            agent = self.agents[participant]
            proxy = LinkProxy(self.coordinator.address("agents"), self.coordinator.files, agent.files)
            agent.dial = proxy.address
            self.link[participant] = proxy
        for agent in self.agents.values():
            agent.spawn()
        for agent in self.agents.values():
            agent.wait_ready()
        return self

    def forced_writes(self):
        """fdatasync calls of the decision log, without those of batches with nothing but ends and marks, which follow idleness: no transaction
        waits for them."""
        metrics = self.admin.metrics()
        return metrics.value("lockstepd_log_syncs_total") - metrics.value("lockstepd_log_idle_syncs_total")

    # -- after faults

    def heal(self, deadline=20):
        """Everything runs again: proxies forward, servers, coordinator and agents are up."""
        for proxy in [*self.pg.values(), *self.link.values()]:
            proxy.clear()
            proxy.heal()
        for cluster in self.clusters:
            if cluster.process is None or cluster.process.poll() is not None:
                if cluster.process is not None:
                    cluster.reap()
                cluster.start(deadline)
        dead = [daemon for daemon in [self.coordinator, *self.agents.values()] if not daemon.running()]
        for daemon in dead:
            if daemon.process is not None:
                daemon.reap()
        if self.coordinator in dead:
            self.coordinator.start(deadline=deadline)
        for agent in self.agents.values():
            if agent in dead:
                agent.spawn()
        self.wait_ready(deadline)

    def wait_ready(self, deadline=20):
        for agent in self.agents.values():
            agent.wait_ready(deadline)

    def orphans(self):
        """{participant: prepared transactions}, empty when there are none."""
        found = {name: database.prepared() for name, database in self.db.items()}
        return {name: gids for name, gids in found.items() if gids}

    def no_orphans(self, deadline=GRACE_S):
        wait_until(lambda: not self.orphans(), deadline, lambda: f"no prepared transaction is left: {self.orphans()}")

    def count(self, participant, key):
        return self.db[participant].value("select count(*) from item where k = %s", key)

    def where(self, key):
        """The participants that have item `key`."""
        return {name for name in self.db if self.count(name, key)}

    def agree(self, key, participants, outcome):
        """All of `participants` have item `key` (committed), or none has (aborted); None: whichever, but agreed."""
        self.no_orphans()
        there = self.where(key) & set(participants)
        everywhere = set(participants)
        assert there in (set(), everywhere), f"databases differ about {key}: only {there} of {everywhere} have it"
        if outcome is not None:
            assert bool(there) == (outcome == "committed"), f"{key} was {outcome}, but is {'there' if there else 'missing'}"
        return "committed" if there else "aborted"

    def run(self, steps, deadline=10, **options):
        """Repeats what the coordinator did not begin (429, 503), as a client would: an agent may just be meeting its restarted server."""
        last = []

        def begun():
            last[:] = [self.app.run(steps, **options)]
            return last[0].status not in (429, 503)
        wait_until(begun, deadline, lambda: f"a transaction is begun; last answer: {last}")
        return last[0]

    def alive(self, participants=None):
        """A new transaction commits everywhere: nothing is left blocked."""
        key = fresh("alive")
        names = list(participants or self.db)
        answer = self.run(put(key, *names))
        assert answer.status == 200 and answer.state == "committed", answer
        assert self.where(key) >= set(names)

    def close(self):
        for database in self.db.values():
            database.close()
        for daemon in [*self.agents.values(), self.coordinator]:
            daemon.kill()
        for proxy in [*self.pg.values(), *self.link.values()]:
            proxy.close()
        for cluster in self.clusters:
            cluster.remove()


__all__ = ["System", "fresh", "put", "step", "GRACE_S"]
