"""Throw-away PostgreSQL clusters: initdb once per session, copied; Unix socket only; fsync on.

A copy would carry the system identifier of the template, while lockstep tells servers apart by it. So each copy is given one of its
own: in pg_control (with its checksum), then pg_resetwal writes a WAL that agrees.
"""

import functools
import glob
import itertools
import os
import shutil
import signal
import struct
import subprocess
import threading
import time

import psycopg

from .base import SOCKET_PATH_MAX, alive, children, folder, processes, remove_folder, tail, wait_until

PORT = 5432  # names the socket file only; nothing listens on TCP


def find_server_programs():
    """The folder of initdb and postgres: the newest installed version, or $PG_BIN."""
    given = os.environ.get("PG_BIN")
    if given:
        if not os.access(os.path.join(given, "initdb"), os.X_OK):
            raise RuntimeError(f"no PostgreSQL server programs in PG_BIN={given}")
        return given
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), key=lambda p: int(p.split("/")[4]))
    if not found:
        raise RuntimeError("no PostgreSQL server programs found; install postgresql (or set PG_BIN)")
    return os.path.dirname(found[-1])


def run_as_server(argv, **options):
    """Runs a server program to its end as the account of the servers."""
    account = folder.server_account
    if account:
        argv = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--init-groups"] + argv
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/",
                          env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}, **options)


@functools.lru_cache(maxsize=None)
def template():
    """The data directory that all clusters are copies of."""
    path = folder.make("tpl")
    folder.give_to_server(path)
    run_as_server([os.path.join(find_server_programs(), "initdb"), "-D", path, "-U", "postgres", "-A", "trust",
                   "--no-sync", "--locale=C.UTF-8", "-E", "UTF8"])
    return path


@functools.lru_cache(maxsize=None)
def crc32c_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


def crc32c_prefixes(data, lengths):
    """{length: CRC-32C of data[:length]} for the given lengths."""
    table, crc, found = crc32c_table(), 0xFFFFFFFF, {}
    for position, byte in enumerate(data):
        if position in lengths:
            found[position] = crc ^ 0xFFFFFFFF
        crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
    return found


def give_own_identity(data):
    """A new system identifier for a copied, cleanly stopped data directory."""
    path = os.path.join(data, "global", "pg_control")
    with open(path, "r+b") as file:
        content = bytearray(file.read(8192))
        # the checksum's place depends on the version: it is where the checksum of everything before it stands
        places = range(160, 512, 4)
        for place, crc in crc32c_prefixes(content[:512], set(places)).items():
            if struct.unpack_from("<I", content, place)[0] == crc:
                break
        else:
            raise RuntimeError("no checksum found in pg_control")
        identifier = int.from_bytes(os.urandom(8), "little") >> 1
        struct.pack_into("<Q", content, 0, identifier)
        struct.pack_into("<I", content, place, crc32c_prefixes(content[:512], {place})[place])
        file.seek(0)
        file.write(content)
    run_as_server([os.path.join(find_server_programs(), "pg_resetwal"), "-f", "-D", data])


class Cluster:
    """One server. `directory` holds data, log and socket."""

    _names = itertools.count(1)

    def __init__(self, *, settings=None, start=True, source=None):
        self.directory = folder.make("c")
        self.data = os.path.join(self.directory, "data")
        self.log = os.path.join(self.directory, "log")
        self.process = None
        self.name = f"cluster{next(self._names)}"
        socket = os.path.join(self.directory, f".s.PGSQL.{PORT}")
        assert len(socket) <= SOCKET_PATH_MAX, socket
        shutil.copytree(source or template(), self.data)
        folder.give_to_server(self.directory)
        if source is None:
            give_own_identity(self.data)
        self.settings = {
            "listen_addresses": "''",
            "unix_socket_directories": f"'{self.directory}'",
            "port": PORT,
            "fsync": "on",
            "max_prepared_transactions": 100,
            "max_connections": 100,
            "shared_buffers": "32MB",
            "max_wal_size": "256MB",
            "log_line_prefix": "'%m [%p] %q%a %d '",
            "log_statement": "none",
            "deadlock_timeout": "200ms",
            "dynamic_shared_memory_type": "mmap",  # in the data directory: what a killed server leaves goes with it
        }
        self.settings.update(settings or {})
        self.write_settings()
        if start:
            self.start()

    def write_settings(self):
        path = os.path.join(self.data, "conf.test")
        with open(path, "w", encoding="utf-8") as file:
            for key, value in self.settings.items():
                file.write(f"{key} = {value}\n")
        if folder.server_account:
            os.chown(path, folder.server_account.pw_uid, folder.server_account.pw_gid)
        main = os.path.join(self.data, "postgresql.conf")
        with open(main, "r+", encoding="utf-8") as file:
            if "conf.test" not in file.read():
                file.write("\ninclude 'conf.test'\n")

    def set(self, restart=False, **settings):
        """Changes settings and has the server read them."""
        self.settings.update(settings)
        self.write_settings()
        if restart:
            self.stop()
            self.start()
        else:
            self.process.send_signal(signal.SIGHUP)

    # -- a standby

    def make_standby(self):
        """A server that streams from this one; it is called "second" here."""
        standby = Cluster(start=False)
        shutil.rmtree(standby.data)
        run_as_server([os.path.join(find_server_programs(), "pg_basebackup"), "-D", standby.data, "-R", "-X", "stream", "-c", "fast",
                       "-d", self.conninfo("postgres") + " application_name=second"])
        standby.write_settings()
        return standby.start()

    def wait_for_nobody(self):
        """From now on every commit here waits for a standby that does not exist."""
        self.set(synchronous_standby_names="'nobody'")
        with self.connect("postgres") as session:
            wait_until(lambda: session.execute("show synchronous_standby_names").fetchone()[0] == "nobody", 5, "the setting is read")

    def wait_streaming(self):
        self.wait_standby("state = 'streaming'", "the standby streams")

    def wait_replayed(self):
        self.wait_standby("replay_lsn = pg_current_wal_lsn()", "the standby has everything so far")

    def wait_standby(self, condition, what):
        with self.connect("postgres") as session:
            wait_until(lambda: session.execute(f"select count(*) from pg_stat_replication where {condition}").fetchone()[0] == 1, 10, what)

    def go_on_alone(self, standby):
        """Whoever waits for nobody here waits no more, and more is written, before it reads where it stands: the standby stops with
        what is there now, and has less than that."""
        self.wait_replayed()
        standby.stop()
        with self.connect("postgres") as session:
            session.execute("set synchronous_commit = local")
            session.execute("create table only_here as select generate_series(1, 1000)")
        self.set(synchronous_standby_names="''")

    def promote(self):
        with self.connect("postgres") as session:
            session.execute("select pg_promote(true, 30)")

    def become(self, standby):
        """This one dies for good; the standby, which is stopped, is promoted in its place and answers at its address."""
        self.kill()
        remove_folder(self.data)
        os.rename(standby.data, self.data)
        self.write_settings()
        self.start()
        self.promote()

    # -- life

    def spawn(self):
        """Starts the postmaster and does not wait."""
        assert self.process is None
        self.process = processes.start([os.path.join(find_server_programs(), "postgres"), "-D", self.data],
                                       log=self.log, account=folder.server_account, cwd="/",
                                       env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"})

    def reap(self):
        self.process.wait()
        processes.forget(self.process)
        self.process = None

    def start(self, deadline=20):
        """Starts the server and waits until it takes connections; a server that was killed may need a second attempt."""
        self.spawn()
        return self.wait_started(deadline)

    def wait_started(self, deadline=20):
        def ready():
            if self.process.poll() is not None:
                self.reap()
                self.spawn()
                time.sleep(0.05)
                return False
            try:
                with self.connect("postgres", timeout=2):
                    return True
            except psycopg.OperationalError:
                return False

        wait_until(ready, deadline, lambda: f"{self.name} takes connections; its log:\n{tail(self.log)}")
        return self

    def stop(self, how=signal.SIGINT, deadline=20):
        """Fast shutdown by default."""
        if self.process is None:
            return
        self.process.send_signal(how)
        wait_until(lambda: self.process.poll() is not None, deadline,
                   lambda: f"{self.name} stops; its log:\n{tail(self.log)}")
        self.reap()

    def kill(self):
        """SIGKILL to the postmaster and all its children at once: the server forgets what it did not flush to the kernel."""
        if self.process is None:
            return
        if self.process.poll() is not None:  # it has ended by itself, of a signal perhaps: its log says why
            print(f"{self.name} had ended with {self.process.returncode}; its log:\n{tail(self.log)}")
            self.reap()
            return
        postmaster = self.process.pid
        os.kill(postmaster, signal.SIGSTOP)
        victims = children(postmaster)
        os.kill(postmaster, signal.SIGKILL)
        for pid in victims:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.reap()
        wait_until(lambda: not any(alive(pid) for pid in victims), 10, f"the backends of {self.name} are gone")

    def freeze(self):
        """SIGSTOP to the whole server: connections stay, nothing answers."""
        os.kill(self.process.pid, signal.SIGSTOP)
        self.frozen = [self.process.pid] + children(self.process.pid)
        for pid in self.frozen[1:]:
            os.kill(pid, signal.SIGSTOP)

    def thaw(self):
        for pid in self.frozen:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                pass

    def remove(self):
        self.kill()
        remove_folder(self.directory)

    # -- use

    def conninfo(self, database, user="postgres"):
        return f"host={self.directory} port={PORT} dbname={database} user={user}"

    def connect(self, database, *, user="postgres", autocommit=True, timeout=5, **options):
        return psycopg.connect(self.conninfo(database, user), autocommit=autocommit, connect_timeout=timeout, **options)

    def create_database(self, name):
        with self.connect("postgres") as session:
            session.execute(f'create database "{name}" strategy file_copy')
        return Database(self, name)


class Database:
    """One database of a cluster."""

    def __init__(self, cluster, name):
        self.cluster = cluster
        self.name = name
        self._session = None
        self._lock = threading.Lock()

    def conninfo(self, user="postgres"):
        return self.cluster.conninfo(self.name, user)

    def connect(self, **options):
        return self.cluster.connect(self.name, **options)

    def query(self, sql, *args):
        """All rows, on a session of the tests' own that is opened again when it is broken."""
        with self._lock:
            for attempt in (1, 2):
                try:
                    if self._session is None or self._session.closed:
                        self._session = self.connect()
                    cursor = self._session.execute(sql, args or None)
                    return cursor.fetchall() if cursor.description else []
                except psycopg.OperationalError as error:
                    if attempt == 2 or error.sqlstate not in (None, "57P01", "57P02", "57P03"):
                        raise
                    self._session.close() if self._session else None
                    self._session = None

    def execute(self, sql, *args):
        self.query(sql, *args)

    def value(self, sql, *args):
        rows = self.query(sql, *args)
        return rows[0][0] if rows else None

    def prepared(self, like="%"):
        """gids of prepared transactions of this database."""
        return [row[0] for row in self.query(
            "select gid from pg_prepared_xacts where database = current_database() and gid like %s order by gid", like)]

    def close(self):
        with self._lock:
            if self._session is not None:
                self._session.close()
                self._session = None
