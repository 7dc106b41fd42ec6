"""The shop on real servers: three PostgreSQL clusters with four databases, certificates, coordinator, four agents. Everything as a user would do
it: initdb, `lockstep pki`, `lockstep init-participant`, configuration files.
"""

import glob
import json
import os
import signal

import psycopg

from place import SOCKET_PATH_MAX, Problem, hold_port, tail, wait_until

COORDINATOR = "shop"
APP = "checkout"
PORT = 5432  # names the socket file only: the servers listen on no TCP port
LAYOUT = (("c1", ("orders",)), ("c2", ("products",)), ("c3", ("balance", "coupons")))
PEERS = "peers:\n  listen: 127.0.0.1:0\n"  # how agents find each other
LAYOUT_FORMS = (("c1", ("orders", "platform")), ("c2", ("products",)), ("c3", ("balance", "coupons")))
PARTICIPANTS = tuple(name for _, names in LAYOUT for name in names)
HERE = os.path.dirname(os.path.abspath(__file__))

CLUSTER_SETTINGS = """
listen_addresses = ''
unix_socket_directories = '{folder}'
unix_socket_permissions = 0700
port = {port}
fsync = on
synchronous_commit = on
max_prepared_transactions = 100
dynamic_shared_memory_type = mmap  # in the data directory: what a killed server leaves goes with it
max_connections = 200
shared_buffers = 64MB
log_line_prefix = '%m [%p] %q%a %d '
"""


def server_programs():
    """The folder of initdb and postgres: the newest installed version."""
    given = os.environ.get("PG_BIN")
    if given:
        if not os.access(os.path.join(given, "initdb"), os.X_OK):
            raise Problem(f"no PostgreSQL server programs in PG_BIN={given}")
        return given
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), key=lambda path: int(path.split("/")[4]))
    if not found:
        raise Problem("no PostgreSQL server programs found under /usr/lib/postgresql")
    return os.path.dirname(found[-1])


class Shop:
    layout = LAYOUT  # cluster, its databases; a participant is named like its database
    cluster_settings = CLUSTER_SETTINGS

    def __init__(self, place, build, settings=None, agent_settings=""):
        """`settings`, `agent_settings`: more lines for the configuration files."""
        self.place, self.build = place, build
        self.more, self.agent_more = settings or "", agent_settings
        self.programs = server_programs()
        self.clusters, self.agents, self.cluster_of = {}, {}, {}
        self.coordinator = None
        self.held = {name: hold_port() for name in ("api", "agents")}  # for all lives of the coordinator
        self.ports = {name: "127.0.0.1:%d" % port.getsockname()[1] for name, port in self.held.items()}

    def program(self, name):
        return os.path.join(self.build, name)

    def lockstep(self, *arguments, **options):
        return self.place.run([self.program("lockstep"), *arguments], **options)

    @property
    def participants(self):
        return tuple(name for _, names in self.layout for name in names)

    # -- servers

    def make_clusters(self):
        """initdb of all at once, then start of all at once."""
        initdbs = []
        for cluster, names in self.layout:
            folder = self.place.make(cluster, for_server=True)
            if len(f"{folder}/.s.PGSQL.{PORT}") > SOCKET_PATH_MAX:
                raise Problem(f"the path {folder} is too long for a Unix socket: set TMPDIR to a shorter one")
            argv = [os.path.join(self.programs, "initdb"), "-D", f"{folder}/data", "-U", "postgres", "-A", "trust", "--no-sync",
                    "--locale=C.UTF-8", "-E", "UTF8"]
            initdb = self.place.process(f"initdb-{cluster}", argv, account=self.place.server_account).start()
            initdbs.append(initdb)
            self.cluster_of.update({name: folder for name in names})
        for initdb, (cluster, _) in zip(initdbs, self.layout):
            wait_until(lambda: not initdb.running(), 120, f"initdb of {cluster}")
            if initdb.process.returncode != 0:
                raise Problem(f"initdb failed:\n{tail(initdb.log)}")
            self.place.processes.remove(initdb)
            self.start_cluster(cluster)
        for cluster, names in self.layout:
            server = self.clusters[cluster]

            def ready():
                server.check()
                try:
                    self.connect(names[0], database="postgres").close()
                    return True
                except psycopg.OperationalError:
                    return False
            wait_until(ready, 60, lambda: f"server {cluster} takes connections; its log:\n{tail(server.log)}")

    def start_cluster(self, cluster):
        folder = os.path.join(self.place.path, cluster)
        settings = self.cluster_settings.format(folder=folder, port=PORT)
        self.place.run(["tee", "-a", f"{folder}/data/postgresql.conf"], as_server=True, stdin=None, input=settings)
        argv = [os.path.join(self.programs, "postgres"), "-D", f"{folder}/data"]
        self.clusters[cluster] = self.place.process(f"postgres-{cluster}", argv, account=self.place.server_account,
                                                    stop_signal=signal.SIGQUIT).start()  # no checkpoint: the folder goes next

    def revive_cluster(self, cluster):
        """After a kill -9: a postmaster that comes too early finds the shared memory of the one before in use, and ends."""
        server, name = self.clusters[cluster], dict(self.layout)[cluster][0]

        def up():
            if not server.running():
                server.start()
            try:
                self.connect(name, database="postgres").close()
                return True
            except psycopg.OperationalError:
                return False
        wait_until(up, 60, lambda: f"server {cluster} takes connections; its log:\n{tail(server.log)}", 0.1)

    def conninfo(self, participant, user="postgres", database=None):
        return f"host={self.cluster_of[participant]} port={PORT} dbname={database or participant} user={user}"

    def connect(self, participant, user="postgres", database=None):
        return psycopg.connect(self.conninfo(participant, user, database), autocommit=True, connect_timeout=5)

    def make_databases(self):
        for _, names in self.layout:
            with self.connect(names[0], database="postgres") as session:
                session.execute(f"create role lockstep_agent login; create role {APP} login")
                for name in names:
                    session.execute(f"create database {name}")
        for name in self.participants:
            self.lockstep("init-participant", "--apply", self.conninfo(name), "--agent-role", "lockstep_agent",
                          "--app-role", APP)
            self.make_tables(name)

    def make_tables(self, name):
        with self.connect(name) as session, open(f"{HERE}/shop/{name}.sql", encoding="utf-8") as sql:
            session.execute(sql.read())

    # -- certificates and configuration

    def make_certificates(self):
        pki = os.path.join(self.place.path, "pki")
        self.lockstep("pki", "init", "--dir", pki)
        self.lockstep("pki", "issue", "coordinator", COORDINATOR, "--dir", pki)
        self.lockstep("pki", "issue", "app", APP, "--dir", pki)
        for name in self.participants:
            self.lockstep("pki", "issue", "agent", name, "--dir", pki)

    def tls(self, identity, indent="  "):
        pki = os.path.join(self.place.path, "pki")
        return f"{indent}ca: {pki}/ca.crt\n{indent}certificate: {pki}/{identity}.crt\n{indent}key: {pki}/{identity}.key\n"

    def client_environment(self):
        """How an application reaches the coordinator: certificates of its own, over TLS."""
        pki = os.path.join(self.place.path, "pki")
        return {"LOCKSTEP_URL": f"https://{self.ports['api']}", "LOCKSTEP_TLS_CA": f"{pki}/ca.crt",
                "LOCKSTEP_TLS_CERTIFICATE": f"{pki}/app-{APP}.crt", "LOCKSTEP_TLS_KEY": f"{pki}/app-{APP}.key"}

    def socket(self):
        return os.path.join(self.place.path, "coordinator", "lockstepd.sock")

    # -- daemons

    def write_coordinator_config(self):
        """The same ports in every life, so that the agents find it."""
        return self.place.write("lockstepd.yaml", f"""name: {COORDINATOR}
data: {self.place.path}/coordinator
api:
  listen: {self.ports.get('api', '127.0.0.1:0')}
agents:
  listen: {self.ports['agents']}
tls:
{self.tls('coordinator-' + COORDINATOR)}{self.more}""")

    def start_coordinator(self):
        config = self.write_coordinator_config()
        ports_file = os.path.join(self.place.path, "coordinator", "ports")
        if self.coordinator is None:
            self.coordinator = self.place.process("lockstepd", [self.program("lockstepd"), "--config", config])
        if os.path.exists(ports_file):
            os.unlink(ports_file)
        self.coordinator.start()

        def ready():
            self.coordinator.check()
            return os.path.exists(ports_file) and self.lockstep("participants", "--url", f"unix:{self.socket()}", check=False).returncode == 0
        wait_until(ready, 30, lambda: f"lockstepd answers; its log:\n{tail(self.coordinator.log)}", 0.05)

    def roles(self):
        return f"  app/{APP}: {APP}\n"

    def more_for(self, name):
        """More lines of that agent's configuration."""
        del name
        return self.agent_more

    def start_agent(self, name):
        if name not in self.agents:
            # max_prepared_transactions is the cluster's: agents that share one share it
            share = 100 // sum(1 for folder in self.cluster_of.values() if folder == self.cluster_of[name])
            config = self.place.write(f"agent-{name}.yaml", f"""name: {name}
coordinator:
  name: {COORDINATOR}
  address: {self.ports['agents']}
database:
  conninfo: "{self.conninfo(name, 'lockstep_agent')}"
roles:
{self.roles()}prepared:
  share: {share}
tls:
{self.tls('agent-' + name)}{self.more_for(name)}""")
            self.agents[name] = self.place.process(f"agent-{name}", [self.program("lockstep-agent"), "--config", config])
        self.agents[name].start()

    def ready_agents(self):
        """Names of the participants that take work now."""
        done = self.lockstep("participants", "-o", "json", "--url", f"unix:{self.socket()}", check=False)
        if done.returncode != 0:
            return set()
        return {entry["name"] for entry in json.loads(done.stdout)["participants"] if entry.get("ready")}

    def wait_agents(self, deadline=30):
        def ready():
            for agent in self.agents.values():
                agent.check()
            return self.ready_agents() >= set(self.agents)
        wait_until(ready, deadline, lambda: f"all agents are ready (ready: {sorted(self.ready_agents())})", 0.05)

    def start(self):
        self.make_clusters()
        self.make_certificates()
        self.make_databases()
        self.start_coordinator()
        for name in self.participants:
            self.start_agent(name)
        self.wait_agents()

    def wait_routes(self, types):
        """Until every agent knows who wants what, of so many types: an event that nobody wants would be a dead letter."""
        def known():
            for name in self.participants:
                with self.connect(name) as session:
                    if session.execute("select count(distinct type) from lockstep.route").fetchone()[0] < types:
                        return False
            return True
        wait_until(known, 30, "the agents know each other's subscriptions", 0.1)

    # -- looking

    def prepared(self):
        """Prepared transactions of all databases together."""
        total = 0
        for name in self.participants:
            with self.connect(name) as session:
                total += session.execute("select count(*) from pg_prepared_xacts where database = current_database()").fetchone()[0]
        return total

    def start_load(self, journal, clients, seconds, *more):
        """lockstep-bench order-flow, as a process that runs by itself."""
        argv = [self.program("lockstep-bench"), "order-flow", "--clients", str(clients), "--seconds", str(seconds), "--journal", journal,
                "--quiet", *more]
        return self.place.process("load", argv, environment=self.client_environment()).start()


class FormsShop(Shop):
    """The shop in which an order may also be a saga: the data platform is there, and everybody follows events."""
    layout = LAYOUT_FORMS

    def __init__(self, place, build, settings=None, agent_settings=""):
        super().__init__(place, build, settings, PEERS + agent_settings)

    def make_tables(self, name):
        if name != "platform":
            super().make_tables(name)
        with self.connect(name) as session, open(f"{HERE}/shop/events/{name}.sql", encoding="utf-8") as sql:
            session.execute(sql.read())

    def start(self):
        super().start()
        self.wait_routes(8)

    def start_load(self, journal, clients, seconds, *more):
        return super().start_load(journal, clients, seconds, "--platform", "--orders", self.conninfo("orders", APP), *more)
