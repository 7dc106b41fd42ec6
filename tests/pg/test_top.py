"""Hazard: the screen of an operator shows figures that are not so, or leaves the terminal unusable.

Method: `lockstep top` on a real system: one frame with a branch in doubt and somebody behind it; on a pseudo-terminal that is narrow, ended by `q` and by signals.
Seen if wrong: a blocked session that is not counted, a line longer than the terminal, a terminal without cursor or echo.
"""

import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
from fcntl import ioctl

import pytest

from harness.base import wait_until
from harness.programs import command, environment, program
from harness.system import fresh, put, step
from test_command import tls


def once(system):
    done = command("top", "--once", coordinator=system.coordinator)
    assert done.returncode == 0 and not done.stderr, done
    assert "\x1b" not in done.stdout
    return done.stdout


def test_figures(shared):
    assert shared.app.run(put(fresh(), "orders", "balance")).status == 200

    def quiet():
        said = once(shared)
        return said if re.search(r"agents linked 4 of 4", said) and re.search(r"in flight 0 +in doubt 0", said) else None
    text = wait_until(quiet, 30, lambda: f"all are linked and what was begun has ended: {once(shared)}")
    for word in ("prepare ", "decision log ", "commit ", "whole ", "Sagas   open 0", "dead letters 0", "orders ", "coupons "):
        assert word in text, text
    assert float(re.search(r"whole +([0-9.]+)", text)[1]) > 0
    listed = re.search(r"In doubt or not applied everywhere: ([0-9]+)$", text, re.M)
    assert int(listed[1]) == len(re.findall(r"^  \S+ +hazard ", text, re.M)), text  # a hazard that an earlier test has made stays


def test_in_doubt_and_blocked(shared):
    """A branch that is prepared while its sister waits for a lock: it is listed with the session behind it."""
    key = fresh()
    for name in ("orders", "balance"):
        shared.db[name].execute("insert into item(k, v) values (%s, 1)", key)
    holder, waiter = shared.db["balance"].connect(autocommit=False), shared.db["orders"].connect(autocommit=True)
    try:
        holder.execute("update item set v = v where k = %s", (key,))
        update = "update item set v = v + 1 where k = $1"
        answer = shared.app.run_later([step("orders", update, key), step("balance", update, key)], lock_timeout="25s", deadline="25s")
        gid = wait_until(lambda: shared.db["orders"].prepared(), 10, "it is prepared")[0]
        waiter.pgconn.send_query(f"update item set v = 7 where k = '{key}'".encode())
        gtid = gid.split(":")[1]
        line = wait_until(lambda: re.search(rf"^ +{re.escape(gtid)} +preparing .* blocked sessions: 1 .*$", once(shared), re.M), 10, "the session behind it is counted")
        assert "orders" in line[0] and "balance" in line[0]
    finally:
        holder.close()
        shared.db["orders"].execute("select pg_terminate_backend(%s)", waiter.info.backend_pid)
        waiter.close()
    assert answer.result(30).state == "committed"


def test_not_for_everybody(shared):
    done = command("top", "--once", *tls(shared))
    assert done.returncode != 0 and "may not" in done.stderr, done
    assert command("top", "--once", "--url", "unix:/nowhere").returncode == 3
    assert command("top", coordinator=shared.coordinator).returncode == 2, "no terminal"


class Terminal:
    """`lockstep top` on a pseudo-terminal."""

    def __init__(self, system, columns):
        self.master, self.slave = pty.openpty()
        ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 12, columns, 0, 0))
        self.before = termios.tcgetattr(self.slave)
        self.text = b""
        self.process = subprocess.Popen([program("lockstep"), "top", "--interval", "100ms"], stdin=self.slave, stdout=self.slave, stderr=self.slave,
                                        env=environment({"LOCKSTEP_URL": f"unix:{system.coordinator.socket}"}), start_new_session=True)

    def read(self):
        while select.select([self.master], [], [], 0)[0]:
            self.text += os.read(self.master, 65536)
        return self.text

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


def test_put_aside_and_taken_up(shared):
    """Ctrl-Z gives the terminal back as it was; `fg` brings the screen, and `q` is heard without Enter."""
    terminal = Terminal(shared, 40)

    def state():
        with open(f"/proc/{terminal.process.pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0]
    try:
        for _ in range(2):
            seen = len(terminal.read())
            wait_until(lambda: b"\x1b[H" in terminal.read()[seen:], 20, lambda: f"a frame: {terminal.text}")
            terminal.process.send_signal(signal.SIGTSTP)
            wait_until(lambda: state() == "T", 20, "it stands still")
            assert terminal.read().endswith(b"\x1b[?25h\x1b[?1049l"), terminal.text[-100:]
            assert termios.tcgetattr(terminal.slave) == terminal.before
            seen = len(terminal.read())
            terminal.process.send_signal(signal.SIGCONT)
            wait_until(lambda: terminal.read()[seen:].startswith(b"\x1b[?1049h\x1b[?25l"), 20, "the screen is back")
            assert termios.tcgetattr(terminal.slave)[3] & (termios.ECHO | termios.ICANON) == 0
        os.write(terminal.master, b"q")
        wait_until(lambda: terminal.read() is not None and terminal.process.poll() is not None, 20, "it ends")
        assert termios.tcgetattr(terminal.slave) == terminal.before
    finally:
        terminal.close()


@pytest.mark.parametrize("ending", ["q", signal.SIGINT, signal.SIGTERM])
def test_terminal_is_as_before(shared, ending):
    terminal = Terminal(shared, 40)
    try:
        wait_until(lambda: terminal.read().count(b"\x1b[H") >= 2, 20, lambda: f"two frames: {terminal.text}")
        assert termios.tcgetattr(terminal.slave)[3] & (termios.ECHO | termios.ICANON) == 0
        if ending == "q":
            os.write(terminal.master, b"q")
        else:
            terminal.process.send_signal(ending)
        wait_until(lambda: terminal.read() is not None and terminal.process.poll() is not None, 20, "it ends")
        text = terminal.read()
        assert terminal.process.returncode == 0
        assert text.endswith(b"\x1b[?25h\x1b[?1049l"), text[-100:]
        assert termios.tcgetattr(terminal.slave) == terminal.before
        frame = text.split(b"\x1b[H")[1].split(b"\x1b[J")[0].decode()
        lines = [re.sub(r"\x1b\[K", "", line) for line in frame.split("\r\n")]
        assert len(lines) <= 12 and max(map(len, lines)) == 40, lines
    finally:
        terminal.close()
