"""Folder, processes and waiting. See the package's paragraph for the rules."""

import atexit
import ctypes
import glob
import os
import pwd
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "scripts", "lib"))
from shm import remove_folder  # noqa: E402
sys.path.pop(0)

PR_SET_PDEATHSIG = 1
POLL_S = 0.005
SOCKET_PATH_MAX = 107


class NotReached(AssertionError):
    """A condition that did not become true before its deadline."""


def wait_until(condition, deadline, sentence):
    """Polls until `condition()` is true and returns its value; after `deadline` seconds fails with `sentence`.

    `sentence` may be a function, for a text that shows the last state seen.
    """
    end = time.monotonic() + deadline
    pause = POLL_S
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            text = sentence() if callable(sentence) else sentence
            raise NotReached(f"not within {deadline} s: {text}")
        time.sleep(pause)
        pause = min(pause * 1.3, 0.1)


def stays_true(condition, duration, sentence):
    """Polls `condition()` for `duration` seconds and fails with `sentence` the moment it is false.

    For what must NOT happen; there is no event to wait for.
    """
    end = time.monotonic() + duration
    while time.monotonic() < end:
        if not condition():
            raise AssertionError(sentence() if callable(sentence) else sentence)
        time.sleep(0.02)


class Folder:
    """The one folder of a test session; short, since Unix socket paths are bounded by 107 bytes."""

    def __init__(self):
        self.remove_left_behind()
        self.path = tempfile.mkdtemp(prefix="lst-", dir="/tmp")
        with open(os.path.join(self.path, "owner"), "w", encoding="ascii") as file:
            file.write(str(os.getpid()))
        self.server_account = None
        if os.geteuid() == 0:
            # PostgreSQL refuses to run as root: servers run as postgres and must be able to enter the folder
            self.server_account = pwd.getpwnam("postgres")
            os.chown(self.path, 0, self.server_account.pw_gid)
            os.chmod(self.path, 0o770)
        self._count = 0
        self._lock = threading.Lock()
        atexit.register(self.remove)

    @staticmethod
    def remove_left_behind():
        """Folders of tests that were killed with SIGKILL: their processes have died with them, their files have not."""
        for owner in glob.glob("/tmp/lst-*/owner"):
            try:
                with open(owner, encoding="ascii") as file:
                    pid = int(file.read())
                if os.stat(owner).st_uid == os.geteuid() and not alive(pid):
                    remove_folder(os.path.dirname(owner))
            except (OSError, ValueError):
                continue

    def make(self, name):
        """A new empty subfolder, `name` plus a number."""
        with self._lock:
            self._count += 1
            path = os.path.join(self.path, f"{name}{self._count}")
        os.mkdir(path, 0o700)
        return path

    def give_to_server(self, path):
        """Makes a file or folder belong to the account that runs the servers."""
        if self.server_account:
            for folder, _, files in os.walk(path):
                os.chown(folder, self.server_account.pw_uid, self.server_account.pw_gid)
                for name in files:
                    os.chown(os.path.join(folder, name), self.server_account.pw_uid, self.server_account.pw_gid,
                             follow_symlinks=False)

    def remove(self):
        if os.path.isdir(self.path):
            remove_folder(self.path)


class Processes:
    """Every process started by the harness; the last resort of clean-up."""

    def __init__(self):
        self._running = set()
        self._lock = threading.Lock()
        atexit.register(self.end_all)

    def start(self, argv, *, env=None, log=None, account=None, cwd=None, stdin=subprocess.DEVNULL, stdout=None):
        """Starts `argv` in a session of its own (Ctrl-C in the terminal reaches only the tests, which then clean up)."""
        libc = ctypes.CDLL(None, use_errno=True)
        parent = os.getpid()

        def prepare():
            if account:
                os.initgroups(account.pw_name, account.pw_gid)
                os.setgid(account.pw_gid)
                os.setuid(account.pw_uid)
            # should the tests themselves be killed, nothing stays behind; set after the change of account, which clears it
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

        output = open(log, "ab", buffering=0) if log else subprocess.DEVNULL
        try:
            process = subprocess.Popen(argv, env=env, stdin=stdin, stdout=stdout or output, stderr=output, cwd=cwd,
                                       preexec_fn=prepare, start_new_session=True)
        finally:
            if log:
                output.close()
        with self._lock:
            self._running.add(process)
        return process

    def forget(self, process):
        with self._lock:
            self._running.discard(process)

    def end_all(self):
        with self._lock:
            running, self._running = list(self._running), set()
        for process in running:
            if process.poll() is None:
                process.kill()
        for process in running:
            process.wait()


def children(pid):
    """Pids of the direct children of `pid`."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as stat:
                    if int(stat.read().rpartition(")")[2].split()[1]) == pid:
                        found.append(int(name))
            except OSError:
                continue
    return found


def alive(pid):
    """True while `pid` runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def tail(path, lines=30):
    """The end of a log file, for the text of a failure."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return "".join(file.readlines()[-lines:])
    except OSError as error:
        return f"({error})"


def on_sigterm(number, frame):
    raise SystemExit(128 + number)  # so that everything is cleaned up as after any other end


if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGTERM, on_sigterm)
folder = Folder()
processes = Processes()
