"""The real programs: lockstepd, lockstep-agent, lockstep. Found in $LOCKSTEP_BUILD, by default build/."""

import os
import random
import signal
import socket
import subprocess
import threading

from .api import App
from .base import alive, folder, processes, tail, wait_until
from .pki import Authority

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))
BUILD = os.path.abspath(os.path.join(ROOT, os.environ.get("LOCKSTEP_BUILD", "build")))


def program(name):
    path = os.path.join(BUILD, name)
    assert os.access(path, os.X_OK), f"{path} is missing: run make, or set LOCKSTEP_BUILD"
    return path


_ports = set()


def free_port():
    """A TCP port of loopback that a restarted coordinator can have again.

    Port 0 would do for the first life only: the agents dial the same address after a restart. The range lies below the kernel's
    ephemeral ports, so that no outgoing connection takes the port between two lives. (Port 0 has a test of its own.)
    """
    while True:
        port = random.randrange(12000, 32000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _ports:
            _ports.add(port)
            return port


def environment(extra=None):
    """What the programs see of our environment: nothing of ours that could change what they do."""
    env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": folder.path}
    for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS", "LLVM_PROFILE_FILE"):
        if name in os.environ:
            env[name] = os.environ[name]
    env.update(extra or {})
    return env


def yaml(value, indent=0):
    """A configuration tree as YAML; strings are always quoted."""
    lines = []
    for key, entry in value.items():
        if isinstance(entry, dict):
            lines += [f"{' ' * indent}{key}:"] + [yaml(entry, indent + 2)] if entry else []
        elif isinstance(entry, (list, tuple)):
            lines.append(f"{' ' * indent}{key}: [{', '.join(scalar(item) for item in entry)}]")
        else:
            lines.append(f"{' ' * indent}{key}: {scalar(entry)}")
    return "\n".join(lines)


def scalar(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def merge(base, changes):
    """A copy of the tree `base` with `changes` laid over it; None removes a key."""
    merged = dict(base)
    for key, entry in (changes or {}).items():
        if isinstance(entry, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], entry)
        elif entry is None:
            merged.pop(key, None)
        else:
            merged[key] = entry
    return merged


class Daemon:
    """What the two daemons have in common. Subclasses set `binary`, `directory`, `config`."""

    binary = None

    def __init__(self, directory, config):
        self.directory, self.config = directory, config
        self.file = os.path.join(directory, "conf.yaml")
        self.log = os.path.join(directory, "log.txt")
        self.process = None
        self.log_start = 0

    def write_config(self):
        with open(self.file, "w", encoding="utf-8") as file:
            file.write(yaml(self.config) + "\n")

    def arguments(self):
        return [program(self.binary), "--config", self.file]

    def spawn(self, fail=None, env=None):
        """Starts without waiting. `fail`: LOCKSTEP_FAIL for this life."""
        assert self.process is None, f"{self.binary} runs already"
        self.write_config()
        self.log_start = os.path.getsize(self.log) if os.path.exists(self.log) else 0
        extra = dict(env or {})
        if fail:
            extra["LOCKSTEP_FAIL"] = fail
        self.process = processes.start(self.arguments(), env=environment(extra), log=self.log, cwd="/")
        return self

    def start(self, fail=None, env=None, deadline=20):
        self.spawn(fail, env)
        self.wait_ready(deadline)
        return self

    def check_alive(self):
        assert self.process.poll() is None, f"{self.binary} ended with {self.process.returncode}; its log:\n{tail(self.log)}"

    def reap(self):
        code = self.process.wait()
        processes.forget(self.process)
        self.process = None
        return code

    def kill(self):
        """SIGKILL, also of a stopped process; returns when it is gone."""
        if self.process is not None:
            self.process.kill()
            self.reap()

    def wait_exit(self, deadline=20):
        """Waits until it has ended by itself; the exit status (negative: signal)."""
        wait_until(lambda: self.process.poll() is not None, deadline,
                   lambda: f"{self.binary} ends by itself; its log:\n{tail(self.log)}")
        return self.reap()

    def stop(self, deadline=20):
        """SIGTERM; returns the exit status."""
        if self.process is None:
            return None
        self.process.send_signal(signal.SIGTERM)
        return self.wait_exit(deadline)

    def freeze(self):
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self):
        os.kill(self.process.pid, signal.SIGCONT)

    def running(self):
        return self.process is not None and self.process.poll() is None and alive(self.process.pid)

    def log_text(self):
        """What the present (or last) life has logged."""
        with open(self.log, encoding="utf-8", errors="replace") as file:
            file.seek(self.log_start)
            return file.read()

    def log_has(self, *words):
        return any(all(word in line for word in words) for line in self.log_text().splitlines())


class Coordinator(Daemon):
    binary = "lockstepd"

    def __init__(self, authority, name="shop", *, settings=None):
        directory = folder.make("d")
        self.name, self.authority = name, authority
        self.data = os.path.join(directory, "data")
        self.socket = os.path.join(directory, "sock")
        self.files = authority.files(f"lockstep://coordinator/{name}")
        config = {
            "name": name,
            "data": self.data,
            "api": {"listen": f"127.0.0.1:{free_port()}", "socket": self.socket},
            "agents": {"listen": f"127.0.0.1:{free_port()}"},
            "tls": {"ca": self.files[0], "certificate": self.files[1], "key": self.files[2]},
            "faults": "enabled",
        }
        super().__init__(directory, merge(config, settings))
        self.admin = App(self)

    def address(self, name):
        """(host, port) of a listener, from the ports file that the program writes."""
        with open(os.path.join(self.data, "ports"), encoding="utf-8") as file:
            ports = dict(line.rstrip("\n").split("=", 1) for line in file)
        host, _, port = ports[name].rpartition(":")
        return host, int(port)

    def app(self, name="checkout", role="app"):
        return App(self, self.authority.files(f"lockstep://{role}/{name}"))

    def livez(self):
        try:
            return self.admin.request("GET", "/livez", timeout=2).status == 200
        except OSError:
            return False

    def wait_ready(self, deadline=20):
        def ready():
            self.check_alive()
            return self.livez()
        wait_until(ready, deadline, lambda: f"lockstepd answers /livez; its log:\n{tail(self.log)}")

    def restart(self, fail=None):
        self.kill()
        return self.start(fail)


class Agent(Daemon):
    binary = "lockstep-agent"

    def __init__(self, name, coordinator, conninfo, *, address=None, settings=None, roles=None):
        """`address`: (host, port) to dial instead of the coordinator's own, when a proxy stands between."""
        directory = folder.make("a")
        self.name, self.coordinator, self.dial = name, coordinator, address
        self.files = coordinator.authority.files(f"lockstep://agent/{name}")
        config = {
            "name": name,
            "coordinator": {"name": coordinator.name, "address": "127.0.0.1:0"},
            "database": {"conninfo": conninfo},
            "tls": {"ca": self.files[0], "certificate": self.files[1], "key": self.files[2]},
            "roles": roles or {"app/checkout": "checkout", "app/billing": "billing", "admin/root": "checkout"},
            "sweep": {"interval": "1s"},
            "lock_wait": "3s",
            "faults": "enabled",
        }
        super().__init__(directory, merge(config, settings))

    def spawn(self, fail=None, env=None):
        host, port = self.dial or self.coordinator.address("agents")
        self.config["coordinator"]["address"] = f"{host}:{port}"
        return super().spawn(fail, env)

    def info(self):
        """This participant in GET /v1/participants, or None."""
        answer = self.coordinator.admin.participants()
        for entry in (answer.body or {}).get("participants", []):
            if entry["name"] == self.name:
                return entry
        return None

    def is_ready(self):
        try:
            entry = self.info()
        except OSError:
            return False
        return bool(entry and entry.get("ready"))

    def wait_ready(self, deadline=20):
        def ready():
            self.check_alive()
            return self.is_ready()
        wait_until(ready, deadline, lambda: f"agent {self.name} is ready; its log:\n{tail(self.log)}")

    def restart(self, fail=None):
        self.kill()
        # until the coordinator has noticed, it would still say "ready" of the life before
        wait_until(lambda: not self.is_ready(), 10, f"the coordinator notices that agent {self.name} is gone")
        return self.start(fail)


def command(*arguments, coordinator=None, stdin=None, deadline=60, env=None):
    """Runs `lockstep`, to its end, as the local administrator of `coordinator`."""
    argv = [program("lockstep"), *arguments]
    extra = dict(env or {})
    if coordinator is not None:
        extra.setdefault("LOCKSTEP_URL", f"unix:{coordinator.socket}")
    return subprocess.run(argv, env=environment(extra), input=stdin, capture_output=True, text=True, timeout=deadline,
                          check=False, cwd=folder.path)


_authority_lock = threading.Lock()
_authority = None


def authority():
    """The one authority of the session."""
    global _authority
    with _authority_lock:
        if _authority is None:
            _authority = Authority()
        return _authority
