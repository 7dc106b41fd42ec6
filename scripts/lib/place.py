"""A folder of its own for servers and daemons: processes by pid, waiting for conditions, clean-up. For the demo and the fault scripts.

Rules: only processes started here are ended, by their pid; everything lives in one folder under $TMPDIR; as root the PostgreSQL servers run as the
user postgres, everything else as the caller.
"""

import ctypes
import errno
import os
import pwd
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time

from shm import remove_folder

PR_SET_PDEATHSIG = 1
SOCKET_PATH_MAX = 107


class Problem(Exception):
    """Something the caller should read, in one line or a few."""


class Interrupted(Exception):
    """Ctrl-C, or somebody else who wants us to end: the signal's name."""


ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def interrupt(number, _frame):
    raise Interrupted(signal.Signals(number).name)


owner = None  # the process that the handlers are for; one that was forked from it may not have got to its exec yet


def again(ignored):
    """Python ignores what is raised in a finaliser or in a hook around a fork, and the signal would be lost: it comes again a little later."""
    if not isinstance(ignored.exc_value, Interrupted):
        sys.__unraisablehook__(ignored)
    elif os.getpid() == owner:
        number = signal.Signals[str(ignored.exc_value)]

        def come(*_):
            if signal.getsignal(number) is signal.SIG_IGN:  # while something is cleaned up
                signal.setitimer(signal.ITIMER_REAL, 0.01)
            else:
                os.kill(os.getpid(), number)
        signal.signal(signal.SIGALRM, come)
        signal.setitimer(signal.ITIMER_REAL, 0.01)


def on_ending(handler):
    global owner
    owner, sys.unraisablehook = os.getpid(), again
    for number in ENDING:
        signal.signal(number, handler)


def wait_until(condition, deadline, sentence, pause=0.01):
    """Polls until `condition()` is true and returns its value; after `deadline` seconds raises Problem with `sentence`."""
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Problem(f"not within {deadline:g} s: {sentence() if callable(sentence) else sentence}")
        time.sleep(pause)


def hold_port():
    """A socket bound to a TCP port of loopback, for a daemon that is to listen there: while it is open the kernel gives the port to nobody else, not even while that daemon is
    dead, when it would do for anybody's outgoing connection. Below the ephemeral ports, for daemons that outlive us."""
    while True:
        holder = socket.socket()
        try:
            holder.bind(("127.0.0.1", random.randrange(12000, 32000)))
        except OSError as error:
            holder.close()
            if error.errno != errno.EADDRINUSE:
                raise
            continue
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # whoever does so as well may listen beside it; set before bind, it could be bound twice
        return holder


def tail(path, lines=15):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return "".join(file.readlines()[-lines:])
    except OSError as error:
        return f"({error})\n"


class Process:
    """One started program with its log file; can be started again after its end."""

    def __init__(self, place, name, argv, account=None, stop_signal=signal.SIGTERM, environment=None):
        self.place, self.name, self.argv, self.account, self.stop_signal = place, name, argv, account, stop_signal
        self.environment = {**place.environment, **(environment or {})}
        self.log = os.path.join(place.path, "log", name)
        self.process = None

    def start(self):
        assert not self.running()
        # read before the fork: nothing but system calls happens between fork and exec
        libc, parent, place, account = ctypes.CDLL(None, use_errno=True), os.getpid(), self.place, self.account

        def prepare():
            if account:
                os.initgroups(account.pw_name, account.pw_gid)
                os.setgid(account.pw_gid)
                os.setuid(account.pw_uid)
            if not place.keep:  # should we be killed, nothing stays behind
                libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                if os.getppid() != parent:
                    os._exit(1)

        with open(self.log, "ab", buffering=0) as log:
            # a session of its own: Ctrl-C reaches only us, and we clean up
            try:
                self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                                                env=self.environment, preexec_fn=prepare, start_new_session=True)
            except OSError as error:
                raise Problem(f"{self.argv[0]}: {error.strerror}") from None
        with open(os.path.join(self.place.path, "pid", self.name), "w", encoding="ascii") as file:  # for the fault scripts
            file.write(f"{self.process.pid}\n")
        return self

    @property
    def pid(self):
        return self.process.pid

    def running(self):
        return self.process is not None and self.process.poll() is None

    def check(self):
        if not self.running():
            code = self.process.returncode if self.process else "nothing"
            raise Problem(f"{self.name} ended by itself with {code}; the end of {self.log}:\n{tail(self.log)}")

    def kill(self):
        """kill -9, and gone when this returns."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def begin_stop(self):
        if self.running():
            self.process.send_signal(self.stop_signal)

    def end_stop(self, deadline=15):
        if self.process is None:
            return
        try:
            self.process.wait(deadline)
        except subprocess.TimeoutExpired:
            self.kill()


def data_of(server):
    """The data directory of a PostgreSQL server that was started as a Process."""
    return server.argv[server.argv.index("-D") + 1]


class Place:
    """The folder and what runs in it."""

    def __init__(self, name, keep=False):
        self.keep = keep
        self.path = tempfile.mkdtemp(prefix=f"{name}.")
        self.processes = []
        self.server_account = None
        os.mkdir(os.path.join(self.path, "log"))
        os.mkdir(os.path.join(self.path, "pid"))
        self.environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": self.path}
        for name_ in ("ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS", "LLVM_PROFILE_FILE", "LOCKSTEP_FAIL"):
            if name_ in os.environ:
                self.environment[name_] = os.environ[name_]
        if os.geteuid() == 0:
            try:
                self.server_account = pwd.getpwnam("postgres")
            except KeyError:
                raise Problem("PostgreSQL does not run as root, and there is no user postgres: install postgresql") from None
            os.chmod(self.path, 0o711)  # the servers must get through, and no further

    def make(self, name, for_server=False):
        """A subfolder, 0700."""
        path = os.path.join(self.path, name)
        os.mkdir(path, 0o700)
        if for_server and self.server_account:
            os.chown(path, self.server_account.pw_uid, self.server_account.pw_gid)
        return path

    def process(self, name, argv, **options):
        made = Process(self, name, argv, **options)
        self.processes.append(made)
        return made

    def run(self, argv, as_server=False, check=True, **options):
        """Runs a program to its end; its output as text."""
        account = self.server_account if as_server else None
        if account:
            argv = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--init-groups", *argv]
        try:
            done = subprocess.run(argv, stdin=options.pop("stdin", subprocess.DEVNULL), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  cwd="/", env=self.environment, text=True, check=False, **options)
        except OSError as error:
            raise Problem(f"{argv[0]}: {error.strerror}") from None
        if check and done.returncode != 0:
            raise Problem(f"`{' '.join(argv)}` ended with {done.returncode}:\n{done.stdout}")
        return done

    def write(self, name, text, mode=0o600):
        path = os.path.join(self.path, name)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, mode)
        return path

    def stop_all(self):
        """Ends in reverse order of starting: daemons before the servers they use, servers all at once."""
        for process in reversed(self.processes):
            process.begin_stop()
            if process.stop_signal == signal.SIGTERM:
                process.end_stop()
        for process in self.processes:
            process.end_stop()

    def kill_all(self):
        for process in reversed(self.processes):
            process.kill()

    def remove_but(self, *names):
        for name in os.listdir(self.path):
            if name not in names:
                remove_folder(os.path.join(self.path, name))

    def leave(self, failed):
        """The folder goes; what tells why something `failed` stays, and where it is is said."""
        logs = os.path.join(self.path, "log")
        if not failed or not any(os.path.getsize(os.path.join(logs, name)) for name in os.listdir(logs)):
            self.remove()
            return
        self.remove_but("log", "journal")
        print(f"The logs are in {self.path}.", file=sys.stderr)

    def remove(self):
        remove_folder(self.path)
