"""Hazard: a fault script breaks more than it says, or leaves something broken: when its time is over, when it is interrupted, when it is given nonsense.

Method: each script of scripts/faults on real processes, once to its end and once interrupted; what it says is compared with what is so. The laboratory
(test_lab.py) uses most of them under load.
Seen if wrong: a fault that is not there, one that stays, a process that is left.
"""

import glob
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import psycopg
import pytest

from harness.base import alive, folder, processes, tail, wait_until
from harness.cluster import Cluster, find_server_programs
from harness.programs import BUILD, ROOT, environment
from harness.system import System, fresh, put

FAULTS = os.path.join(ROOT, "scripts", "faults")
SCRIPTS = sorted(os.path.basename(path) for path in glob.glob(os.path.join(FAULTS, "*")) if not path.endswith(".c"))
TWO = {"orders": 0, "balance": 1}


class Fault:
    """A script that runs."""

    def __init__(self, name, *arguments, env=None):
        self.log = os.path.join(folder.make("fault"), "log")
        self.process = processes.start([os.path.join(FAULTS, name), *map(str, arguments)], log=self.log, env=environment({"TMPDIR": "/tmp", **(env or {})}), cwd="/")

    def said(self):
        return tail(self.log, 100)

    def injected(self, deadline=20):
        wait_until(lambda: "injected: " in self.said() or self.process.poll() is not None, deadline, lambda: f"it injects; it said: {self.said()}")
        assert "injected: " in self.said(), self.said()
        return self

    def ends(self, code=0, deadline=30):
        wait_until(lambda: self.process.poll() is not None, deadline, lambda: f"it ends; it said: {self.said()}")
        assert self.process.returncode == code, self.said()
        return self.said()

    def interrupt(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.ends()


@pytest.fixture(scope="module")
def system():
    made = System(TWO)
    yield made
    made.close()


@pytest.fixture(scope="module")
def cluster():
    made = Cluster()
    yield made
    made.remove()


@pytest.fixture
def sleeper():
    process = processes.start(["sleep", "1000"])
    yield process
    process.kill()
    process.wait()


def state_of(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return file.read().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_and_nonsense(name):
    done = subprocess.run([os.path.join(FAULTS, name), "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and name in done.stdout and not done.stderr, done
    for words in (["--nonsense"], []):
        done = subprocess.run([os.path.join(FAULTS, name), *words], capture_output=True, text=True, check=False, timeout=20)
        assert done.returncode == 2 and name in done.stderr, done


# A wrong value is named, and an option at the end of the line that lacks its value is missed.
WRONG = [
    ("kill", ["--pid"], "--pid"), ("kill", ["--pid", "12x"], "`12x'"), ("kill", ["--pid", "1", "--restart"], "--restart"), ("kill", ["--pid", "1", "--for", "soon"], "`soon'"),
    ("pause", ["--pid-file"], "--pid-file"), ("pause", ["--pid", "1", "--for"], "--for"), ("pause", ["--pid", "1", "--for", "-3"], "`-3'"),
    ("crash-at", ["--point"], "--point"), ("disk-full", ["--control"], "--control"), ("slow-fsync", ["--control", "/tmp/c", "--ms", "abc"], "`abc'"),
    ("server-stop", ["--data", "/tmp", "--mode", "smart"], "`smart'"), ("late-prepare", ["--agent-pid", "1", "--participant", "a b", "--conninfo", "x"], "`a b'"),
    ("link", ["--listen", "127.0.0.1:99999", "--to", "127.0.0.1:1"], "`127.0.0.1:99999'"), ("link", ["--listen", "127.0.0.1:0", "--to", "127.0.0.1:0"], "127.0.0.1:0"),
    ("link", ["--listen", "127.0.0.1:0", "--to", "127.0.0.1:1", "--for", "-3"], "`-3'"), ("link", ["--listen", "127.0.0.1:0", "--to", "127.0.0.1:1", "--ms", "-1"], "`-1'"),
    ("network", ["--to", "127.0.0.1:1", "--for", "nan", "--", "true"], "`nan'"), ("network", ["--to", "127.0.0.1:1", "--ms", "x", "--", "true"], "`x'"),
]


@pytest.mark.parametrize("name,words,named", WRONG, ids=[" ".join([name, *words]) for name, words, _ in WRONG])
def test_wrong_value(name, words, named):
    done = subprocess.run([os.path.join(FAULTS, name), *words], capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 2 and named in done.stderr and "injected" not in done.stdout, done


def test_nothing_there():
    """What is meant is not there: one line says so, and nothing was touched."""
    empty = folder.make("nothing")
    for name, words, named in (("pause", ["--pid-file", f"{empty}/pid"], f"cannot read {empty}/pid"), ("server-stop", ["--data", empty], f"{empty} is no data directory"),
                               ("server-failover", ["--data", empty, "--standby", empty], f"{empty} is no data directory"), ("lost-log", ["--data", f"{empty}/log"], f"there is no {empty}/log"),
                               ("disk-full", ["--control", f"{empty}/no/control"], f"cannot write {empty}/no/control"),
                               ("forgotten-client", ["--conninfo", f"host={empty} port=1", "--sql", "select 1"], f"{empty}/.s.PGSQL.1"),
                               ("late-prepare", ["--agent-pid", os.getpid(), "--participant", "orders", "--conninfo", f"host={empty} port=1"], f"{empty}/.s.PGSQL.1")):
        done = subprocess.run([os.path.join(FAULTS, name), *map(str, words)], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 1 and named in done.stderr and "injected" not in done.stdout and "undone" not in done.stdout, done
        assert len(done.stderr.splitlines()) <= 3, done.stderr
    assert os.listdir(empty) == []


def test_every_script_has_a_test():
    with open(__file__, encoding="utf-8") as file:
        text = file.read()
    missing = [name for name in SCRIPTS if f'Fault("{name}"' not in text and f'"{name}"' not in re.sub(r"SCRIPTS.*", "", text)]
    assert not missing


def test_kill(sleeper):
    marker = os.path.join(folder.make("kill"), "restarted")
    Fault("kill", "--pid", sleeper.pid, "--for", "0.2", "--restart", f"touch {marker}").injected()
    wait_until(lambda: not alive(sleeper.pid), 30, "it is dead")
    wait_until(lambda: os.path.exists(marker), 30, "its restart was run")
    assert "there is no process" in Fault("kill", "--pid", sleeper.pid).ends(1)


def test_what_is_restarted_can_be_ended(sleeper):
    """It outlives the script, and hears the signals that the script itself did not want to hear at its end."""
    for how in (signal.SIGTERM, signal.SIGINT):
        victim = processes.start(["sleep", "1000"])
        fault = Fault("kill", "--pid", victim.pid, "--restart", "exec sleep 1000").injected()
        fault.interrupt(how)
        restarted = int(re.search(r"started as process (\d+)", fault.said())[1])
        wait_until(lambda: alive(restarted), 30, "it runs")
        wait_until(lambda: "sleep" in open(f"/proc/{restarted}/comm", encoding="ascii").read(), 30, "it is the command")
        os.kill(restarted, how)
        wait_until(lambda: not alive(restarted), 30, "it ends")
        victim.wait()


def test_pid_file_without_a_newline(sleeper):
    path = os.path.join(folder.make("pid"), "pid")
    with open(path, "w", encoding="ascii") as file:
        file.write(str(sleeper.pid))
    Fault("pause", "--pid-file", path, "--for", "0.1").ends()


@pytest.mark.skipif(os.geteuid() != 0, reason="root drops its rights here")
@pytest.mark.parametrize("name", ["kill", "pause"])
def test_not_ours(sleeper, name):
    """Somebody else's process: refused at once."""
    done = subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", os.path.join(FAULTS, name), "--pid", str(sleeper.pid)], capture_output=True,
                          text=True, check=False, timeout=20, cwd="/")
    assert done.returncode == 1 and f"process {sleeper.pid} is not ours" in done.stderr and "injected" not in done.stdout, done
    assert state_of(sleeper.pid) == "S"


def test_pause_of_one_that_is_gone():
    victim = processes.start(["sleep", "1000"])
    fault = Fault("pause", "--pid", victim.pid).injected()
    victim.kill()
    victim.wait()
    assert "gone" in fault.interrupt() and "goes on" not in fault.said()


@pytest.mark.parametrize("how", ["to its end", signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_pause(sleeper, how):
    fault = Fault("pause", "--pid", sleeper.pid, *(("--for", "0.3") if how == "to its end" else ())).injected()
    if how != "to its end":
        wait_until(lambda: state_of(sleeper.pid) == "T", 30, "it stands still")
        fault.interrupt(how)
    fault.ends()
    wait_until(lambda: state_of(sleeper.pid) == "S", 30, "it goes on")


def test_a_whole_server(cluster):
    pid_file = os.path.join(cluster.data, "postmaster.pid")
    session = cluster.connect("postgres")
    fault = Fault("pause", "--pid-file", pid_file, "--tree").injected()
    wait_until(lambda: state_of(session.info.backend_pid) == "T", 30, "its backends stand still")
    fault.interrupt()
    assert session.execute("select 1").fetchone() == (1,)
    Fault("kill", "--pid-file", pid_file, "--tree").ends()
    wait_until(lambda: not alive(session.info.backend_pid), 30, "its backends are dead, too")
    cluster.reap()
    cluster.start()


def test_server_stop(cluster):
    cluster.stop()  # then it is nobody's child: the script starts it as a service would
    as_server = [] if os.geteuid() else ["setpriv", f"--reuid={folder.server_account.pw_uid}", f"--regid={folder.server_account.pw_gid}", "--init-groups"]
    pg_ctl = [*as_server, os.path.join(find_server_programs(), "pg_ctl"), "-D", cluster.data, "-w"]
    subprocess.run([*pg_ctl, "-l", os.path.join(cluster.data, "started.log"), "start"], check=True, stdout=subprocess.DEVNULL, cwd="/")
    try:
        for mode, how in (("fast", "to its end"), ("immediate", "interrupted")):
            fault = Fault("server-stop", "--data", cluster.data, "--mode", mode, *(("--for", "0.2") if how == "to its end" else ())).injected()
            if how == "interrupted":
                with pytest.raises(psycopg.OperationalError):
                    cluster.connect("postgres", timeout=2)
                fault.process.send_signal(signal.SIGINT)
            assert "undone" in fault.ends(deadline=60)
            cluster.connect("postgres").close()
    finally:
        subprocess.run([*pg_ctl, "-m", "immediate", "stop"], check=False, stdout=subprocess.DEVNULL)
        cluster.start()


def test_server_failover(cluster):
    """The standby takes over; the old primary follows it afterwards."""
    cluster.set(restart=True, wal_log_hints="on", wal_keep_size="'64MB'", wal_level="replica", max_wal_senders=4)
    with cluster.connect("postgres") as session:
        session.execute("create table kept(id int)")
        session.execute("insert into kept values (1)")
    as_server = [] if os.geteuid() else ["setpriv", f"--reuid={folder.server_account.pw_uid}", f"--regid={folder.server_account.pw_gid}", "--init-groups"]
    programs = find_server_programs()
    data = os.path.join(cluster.directory, "standby")
    subprocess.run([*as_server, os.path.join(programs, "pg_basebackup"), "-D", data, "-R", "-c", "fast", "-d", cluster.conninfo("postgres")], check=True, cwd="/")
    with open(os.path.join(data, "postgresql.conf"), "a", encoding="ascii") as file:
        file.write("\nport = 5433\n")
    pg_ctl = [*as_server, os.path.join(programs, "pg_ctl"), "-w"]
    subprocess.run([*pg_ctl, "-D", data, "-l", os.path.join(cluster.directory, "standby.log"), "start"], check=True, stdout=subprocess.DEVNULL, cwd="/")
    try:
        conninfo = f"host={cluster.directory} port=5433 user=postgres"
        fault = Fault("server-failover", "--data", cluster.data, "--standby", data, "--source", conninfo).injected(90)
        with psycopg.connect(conninfo + " dbname=postgres", autocommit=True) as session:
            assert session.execute("select pg_is_in_recovery(), count(*) from kept").fetchone() == (False, 1)
            session.execute("insert into kept values (2)")
        cluster.reap()
        fault.process.send_signal(signal.SIGTERM)
        assert "follows" in fault.ends(deadline=120)
        with cluster.connect("postgres") as session:
            wait_until(lambda: session.execute("select pg_is_in_recovery(), count(*) from kept").fetchone() == (True, 2), 30, "the old primary follows")
    finally:
        for path in (cluster.data, data):
            subprocess.run([*pg_ctl, "-D", path, "-m", "immediate", "stop"], check=False, capture_output=True)
    os.remove(os.path.join(cluster.data, "standby.signal"))
    cluster.start()


def test_a_server_that_does_not_run(cluster):
    """Neither stopped nor started, nor is another one stopped for its sake."""
    empty = folder.make("standby")
    for name in ("PG_VERSION", "standby.signal"):
        with open(os.path.join(empty, name), "w", encoding="ascii"):
            pass
    assert f"no server runs on {empty}" in Fault("server-failover", "--data", cluster.data, "--standby", empty).ends(1)
    with cluster.connect("postgres") as session:
        assert session.execute("select 1").fetchone() == (1,)
    cluster.stop()
    assert "no server runs on" in Fault("server-stop", "--data", cluster.data).ends(1)
    assert not os.path.exists(os.path.join(cluster.data, "postmaster.pid"))
    cluster.start()


# ---- the disk

WRITER = """
import os, sys, time, errno
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
os.pwrite(fd, b"a" * 4096, 0); os.fsync(fd)
print("ready", flush=True)
for line in sys.stdin:
    began = time.monotonic()
    try:
        if line == "grow\\n": os.pwrite(fd, b"b" * 4096, os.fstat(fd).st_size)
        elif line == "inside\\n": os.pwrite(fd, b"c" * 4096, 0)
        elif line == "sync\\n": os.fsync(fd)
        print("good", round(time.monotonic() - began, 3), os.pread(fd, 1, 0).decode(), flush=True)
    except OSError as error:
        print(errno.errorcode[error.errno], os.pread(fd, 1, 0) == bytes(1), flush=True)
"""


@pytest.fixture
def writer():
    """ask("grow"|"inside"|"sync") of a process whose disk obeys `control`."""
    place = folder.make("disk")
    control = os.path.join(place, "control")
    env = environment({"LD_PRELOAD": os.path.join(BUILD, "libfault-disk.so"), "FAULT_DIR": place, "FAULT_CONTROL": control})
    process = subprocess.Popen([sys.executable, "-c", WRITER, os.path.join(place, "file")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
    assert process.stdout.readline() == "ready\n"

    def ask(word):
        process.stdin.write(word + "\n")
        process.stdin.flush()
        return process.stdout.readline().split()
    ask.control = control
    yield ask
    process.stdin.close()
    process.wait(10)


def test_disk_full(writer):
    fault = Fault("disk-full", "--control", writer.control).injected()
    assert writer("grow")[0] == "ENOSPC" and writer("inside")[0] == "good" and writer("sync")[0] == "good"
    fault.interrupt()
    assert writer("grow")[0] == "good"


def test_slow_fsync(writer):
    fault = Fault("slow-fsync", "--control", writer.control, "--ms", "300").injected()
    assert float(writer("sync")[1]) >= 0.3
    fault.interrupt(signal.SIGINT)
    assert writer("sync")[0] == "good"
    with open(writer.control, encoding="ascii") as file:
        assert file.read() == ""


def test_failed_fsync(writer):
    """What was to be saved is lost, and stays lost."""
    fault = Fault("failed-fsync", "--control", writer.control).injected()
    assert writer("inside")[0] == "good"
    assert writer("sync") == ["EIO", "True"]
    fault.interrupt()
    assert writer("inside")[0] == "good" and writer("sync")[2] == "c"


# ---- links

@pytest.fixture
def echo():
    """A server that gives back what it is sent, and its address."""
    listening = socket.create_server(("127.0.0.1", 0))
    code = "import socket,sys,threading\ns=socket.socket(fileno=int(sys.argv[1]))\n" \
           "def serve(c):\n  while d:=c.recv(65536): c.sendall(d)\nwhile True: threading.Thread(target=serve,args=(s.accept()[0],),daemon=True).start()"
    process = subprocess.Popen([sys.executable, "-c", code, str(listening.fileno())], pass_fds=(listening.fileno(),))
    yield "127.0.0.1:%d" % listening.getsockname()[1]
    process.kill()
    process.wait()
    listening.close()


def dial(fault):
    line = wait_until(lambda: next((line for line in fault.said().splitlines() if line.startswith("listening: ")), None), 30, lambda: f"it listens: {fault.said()}")
    host, port = line.split()[1].rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=10)


def test_link_drops(echo):
    fault = Fault("link", "--listen", "127.0.0.1:0", "--to", echo)
    with dial(fault) as client:
        client.sendall(b"one")
        assert client.recv(10) == b"one"
        fault.process.send_signal(signal.SIGUSR1)
        fault.injected()
        client.sendall(b"two")
        client.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.recv(10)
        client.settimeout(10)
        fault.process.send_signal(signal.SIGUSR2)
        assert client.recv(10) == b"two", "what was held back passes"
        assert "works" in fault.said()
    fault.interrupt()


def test_link_drops_one_direction():
    """What goes the other way passes; nothing is lost once it is undone."""
    for direction in ("forth", "back"):
        with socket.create_server(("127.0.0.1", 0)) as listening:
            fault = Fault("link", "--direction", direction, "--listen", "127.0.0.1:0", "--to", "127.0.0.1:%d" % listening.getsockname()[1])
            with dial(fault) as dialler, listening.accept()[0] as listener:
                fault.process.send_signal(signal.SIGUSR1)
                fault.injected()
                from_, to = (dialler, listener) if direction == "back" else (listener, dialler)
                to.settimeout(10)
                from_.sendall(b"passes")
                assert to.recv(10) == b"passes"
                from_.settimeout(0.5)
                to.sendall(b"waits")
                with pytest.raises(TimeoutError):
                    from_.recv(10)
                from_.settimeout(10)
                fault.process.send_signal(signal.SIGUSR2)
                assert from_.recv(10) == b"waits"
            fault.interrupt()


def test_link_cuts_both_directions_or_none():
    done = subprocess.run([os.path.join(FAULTS, "link"), "--listen", "127.0.0.1:0", "--to", "127.0.0.1:1", "--mode", "cut", "--direction", "back"],
                          capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2 and "`back'" in done.stderr


def test_link_delays(echo):
    fault = Fault("link", "--listen", "127.0.0.1:0", "--to", echo, "--mode", "delay", "--ms", "150", "--for", "30").injected()
    with dial(fault) as client:
        began = time.monotonic()
        client.sendall(b"one")
        assert client.recv(10) == b"one" and time.monotonic() - began >= 0.3, "there and back"
    assert "undone" in fault.interrupt(signal.SIGINT)


def test_link_cuts(echo):
    fault = Fault("link", "--listen", "127.0.0.1:0", "--to", echo, "--mode", "cut")
    with dial(fault) as client:
        client.sendall(b"one")
        assert client.recv(10) == b"one"
        fault.process.send_signal(signal.SIGUSR1)
        with pytest.raises(ConnectionError):
            assert client.recv(10) == b"" and (_ for _ in ()).throw(ConnectionError)
    fault.process.send_signal(signal.SIGUSR2)
    wait_until(lambda: "undone" in fault.said(), 30, "it is undone")
    with dial(fault) as client:
        client.sendall(b"two")
        assert client.recv(10) == b"two"
    fault.interrupt()


def test_link_takes_nobodys_socket():
    """--listen and --to in the wrong order: the socket that somebody listens on stays."""
    path = os.path.join(folder.make("socket"), "s")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        assert f"{path} is there already" in Fault("link", "--listen", f"unix:{path}", "--to", "unix:/nowhere").ends(1)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)


# ---- a network namespace

class Cabled:
    """scripts/faults/network around a forwarder in its namespace; a Unix socket leads in."""

    def __init__(self, echo, *options):
        self.socket = os.path.join(folder.make("cable"), "in")
        self.fault = Fault("network", "--to", echo, *options, "--", os.path.join(FAULTS, "link"), "--listen", f"unix:{self.socket}", "--to", echo)
        wait_until(lambda: os.path.exists(self.socket) or self.fault.process.poll() is not None, 20, lambda: f"it runs: {self.fault.said()}")
        said = self.fault.said()
        if self.fault.process.poll() is not None and any(word in said for word in ("no network namespace", "Operation not permitted")):
            pytest.skip(f"not possible here: {said.strip()}")
        assert self.fault.process.poll() is None, said

    def dial(self):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(20)
        client.connect(self.socket)
        return client

    def gone(self):
        cable = f"lsf{self.fault.process.pid}"
        wait_until(lambda: not os.path.exists(f"/sys/class/net/{cable}"), 30, "the cable is gone, and the namespace with it")

        def answers():
            try:
                self.dial().close()
                return True
            except OSError:
                return False
        wait_until(lambda: not answers(), 30, "the command is gone")


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")


@as_root
def test_network_drops(echo):
    """Nothing arrives and nobody is refused; what was lost is sent again by TCP. INT ends command and namespace."""
    cabled = Cabled(echo)
    with cabled.dial() as client:
        client.sendall(b"one")
        assert client.recv(10) == b"one"
        cabled.fault.process.send_signal(signal.SIGUSR1)
        cabled.fault.injected()
        client.sendall(b"two")
        client.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.recv(10)
        cabled.fault.process.send_signal(signal.SIGUSR2)
        client.settimeout(30)
        assert client.recv(10) == b"two"
        assert "works" in cabled.fault.said()
    cabled.fault.interrupt(signal.SIGINT)
    cabled.gone()


@as_root
def test_network_loses_some(echo):
    """Packets are lost and counted, and every byte arrives; a script that is killed leaves nothing."""
    cabled, data, heard = Cabled(echo, "--mode", "loss", "--percent", "5", "--for", "60"), os.urandom(1 << 20) * 4, b""
    cabled.fault.injected()
    with cabled.dial() as client:
        sender = threading.Thread(target=client.sendall, args=(data,))
        sender.start()
        while len(heard) < len(data) and (more := client.recv(1 << 16)):
            heard += more
        sender.join(20)
    assert heard == data
    cabled.fault.process.send_signal(signal.SIGUSR2)
    wait_until(lambda: "undone: " in cabled.fault.said(), 30, "it is undone")
    assert int(re.search(r"(\d+) packets were lost", cabled.fault.said())[1]) > 0
    cabled.fault.process.kill()
    cabled.fault.process.wait()
    cabled.gone()


@as_root
def test_network_delays(echo):
    """Or says that this kernel cannot, and what can."""
    Cabled(echo).fault.interrupt()  # or skipped
    fault = Fault("network", "--to", echo, "--mode", "delay", "--ms", "150", "--for", "30", "--", sys.executable, "-c",
                  "import socket, sys, time; host, port = sys.argv[1].split(':'); c = socket.create_connection((host, int(port)))\n"
                  "began = time.monotonic(); c.sendall(b'x'); c.recv(1); print('took', time.monotonic() - began)", echo)
    said = fault.ends(1 if "sch_netem" in wait_until(fault.said, 30, "it says something") else 0)
    if "sch_netem" in said:
        assert "scripts/faults/link --mode delay" in said
    else:
        assert float(re.search("took ([0-9.]+)", said)[1]) >= 0.3, "there and back"


def test_network_refuses(echo):
    """Without root, and what is not on this machine: one line, and nothing was started."""
    words = [os.path.join(FAULTS, "network"), "--to", echo, "--", "true"]
    if os.geteuid() == 0:
        words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *words]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=20, cwd="/")
    assert done.returncode == 1 and "needs root" in done.stderr, done
    if os.geteuid() == 0:
        assert "no address of this machine" in Fault("network", "--to", "192.0.2.1:1", "--", "true").ends(1)
        assert "no-such-command" in Fault("network", "--to", echo, "--", "no-such-command").ends(1)
    for bad in (["--to", "orders:1"], ["--to", "127.0.0.1:1", "--percent", "0"], ["--to", "127.0.0.1:1", "--mode", "cut"]):
        done = subprocess.run([os.path.join(FAULTS, "network"), *bad, "--", "true"], capture_output=True, text=True, check=False, timeout=20)
        assert done.returncode == 2, done


# ---- the demo

def mentions(path):
    """Processes whose command line has the path in it."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if path.encode() in file.read() and int(pid) != os.getpid():
                    found.append(int(pid))
        except OSError:
            pass
    return found


def test_on_the_demo():
    """As the demo says it: what was left running is broken and is back, the books agree, and its `stop` ends also what was started since."""
    done = subprocess.run([sys.executable, os.path.join(ROOT, "scripts", "lib", "demo.py"), "--build", BUILD, "--quick", "--keep"], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout
    place = re.search(r"Starting in (\S+):", done.stdout)[1]
    try:
        env = dict(re.findall(r"^export (\w+)=(.*)$", open(os.path.join(place, "environment"), encoding="utf-8").read(), re.M))

        def all_ready():
            said = subprocess.run([os.path.join(BUILD, "lockstep"), "participants", "-o", "json"], env=environment(env), capture_output=True, text=True, check=False, timeout=30)
            return said.returncode == 0 and [one["state"] for one in json.loads(said.stdout)["participants"]] == ["ready"] * 5
        wait_until(all_ready, 60, "all is ready")
        pid, start = f"{place}/pid", f"{place}/start"
        Fault("pause", "--pid-file", f"{pid}/agent-products", "--for", "0.2", env=env).ends()
        for name in ("lockstepd", "agent-products"):
            Fault("kill", "--pid-file", f"{pid}/{name}", "--for", "0.2", "--restart", f"{start} {name}", env=env).ends()
            wait_until(all_ready, 30, f"all is ready after {name} was killed")
        Fault("server-stop", "--data", f"{place}/c2/data", "--for", "0.2", env=env).ends()
        wait_until(all_ready, 30, "all is ready after a server was stopped")
        control, library = f"{place}/control", os.path.join(BUILD, "libfault-disk.so")
        Fault("kill", "--pid-file", f"{pid}/lockstepd", "--for", "0.2", "--restart", f"{start} lockstepd LD_PRELOAD={library} FAULT_DIR={place}/coordinator FAULT_CONTROL={control}").ends()
        wait_until(all_ready, 30, "all is ready with a disk that obeys")
        load = [os.path.join(BUILD, "lockstep-bench"), "order-flow", "--platform", "--seconds", "3", "--clients", "4", "--journal", f"{place}/journal", "--quiet"]
        fault = Fault("slow-fsync", "--control", control, "--ms", "20", "--for", "60").injected()
        assert "no program" not in fault.said()
        subprocess.run(load, env=environment(env), check=True, capture_output=True, timeout=120)
        fault.interrupt()
        with open(f"{pid}/lockstepd", encoding="ascii") as file:
            os.kill(int(file.read()), signal.SIGTERM)
        wait_until(lambda: not mentions(f"{place}/lockstepd.yaml"), 30, "the coordinator has ended")
        lost = Fault("lost-log", "--data", f"{place}/coordinator", "--for", "0.1").ends()
        assert "is back" in lost
        fault = Fault("crash-at", "--point", "coord_decision_durable", "--", start, "lockstepd", env=env)
        wait_until(all_ready, 30, "all is ready")
        subprocess.run(load, env=environment(env), check=False, capture_output=True, timeout=120)
        fault.injected()
        wait_until(all_ready, 30, "all is ready after the crash")
        subprocess.run([f"{place}/audit"], check=True, capture_output=True, timeout=120)
        subprocess.run([f"{place}/stop"], check=True, capture_output=True, timeout=60)
        fault.ends()
        assert not os.path.exists(place) and not mentions(place)
    finally:
        if os.path.exists(f"{place}/stop"):
            subprocess.run([f"{place}/stop"], check=False, timeout=60)


# ---- lockstep's own

def test_crash_at(system):
    """The coordinator kills itself behind the decision, comes back without the point, and finishes."""
    coordinator = system.coordinator
    coordinator.stop()
    fault = Fault("crash-at", "--point", "coord_decision_durable", "--for", "0.3", "--", *coordinator.arguments())
    wait_until(coordinator.livez, 20, lambda: f"it runs: {fault.said()}")
    system.wait_ready()
    key = fresh()
    answer = system.app.run_later(put(key, *TWO))
    fault.injected(30)
    assert answer.exception(30) is not None, "nobody was told"
    wait_until(coordinator.livez, 30, "it is back")
    system.wait_ready()
    system.agree(key, TWO, "committed")
    fault.interrupt()
    coordinator.start()
    system.wait_ready()


def test_late_prepare(system):
    """The backend of a dead agent wakes when the next life is up: nothing stays prepared in nobody's name."""
    agent, database = system.agents["orders"], system.db["orders"]
    system.heal()
    key = fresh()
    working = "select count(*) from pg_stat_activity where query like '%%pg_sleep(10)%%' and application_name like 'lockstep/%%' and state <> 'idle'"
    # asleep for longer than the script may need to start
    answer = system.app.run_later([*put(key, "balance"), {"on": "orders", "do": {"sql": "insert into item(k, v) select $1, 1 from pg_sleep(10)", "args": [key]}}])
    wait_until(lambda: database.value(working), 30, "it works")
    fault = Fault("late-prepare", "--agent-pid", agent.process.pid, "--participant", "orders", "--conninfo", database.conninfo(), "--for", "1.5").injected()
    agent.wait_exit()
    agent.spawn()
    assert "go on" in fault.ends()
    system.wait_ready()
    assert answer.result(40).state == "aborted"
    wait_until(lambda: not database.value(working), 30, "the backend has ended, whatever it did at last")
    system.agree(key, TWO, "aborted")


def test_lost_log(system):
    """A coordinator without its log is refused by the agents; with the log back all is as before."""
    system.heal()
    coordinator = system.coordinator
    system.alive()
    assert "stop it first" in Fault("lost-log", "--data", coordinator.data).ends(1)
    coordinator.kill()
    fault = Fault("lost-log", "--data", coordinator.data).injected()
    coordinator.spawn()
    assert coordinator.wait_exit() == 78
    fault.interrupt()
    coordinator.start()
    system.wait_ready()
    system.alive()


def test_forgotten_client(system):
    key = fresh()
    system.db["orders"].execute("insert into item(k, v) values (%s, 1)", key)
    fault = Fault("forgotten-client", "--conninfo", system.db["orders"].conninfo(), "--sql", f"update item set v = 2 where k = '{key}'").injected()
    locked = "select count(*) from item where k = %s and xmax <> 0"
    assert system.db["orders"].value(locked, key) == 1
    idle = "select count(*) from pg_stat_activity where state = 'idle in transaction' and query like 'update item set v = 2 %%'"
    assert system.db["orders"].value(idle) == 1
    fault.interrupt()
    wait_until(lambda: not system.db["orders"].value(idle), 30, "it is rolled back")
    assert "syntax error" in Fault("forgotten-client", "--conninfo", system.db["orders"].conninfo(), "--sql", "update update").ends(1)
