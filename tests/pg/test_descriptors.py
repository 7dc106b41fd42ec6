"""Hazard: a daemon has no file descriptor left. What waits in a listener's backlog keeps its socket readable, and a listener that tries again at once
does nothing else any more: the links starve beside it (hazard D14).

Method: each daemon runs with few descriptors; silent connections to one listener take them all; one that was open before asks for the metrics.
Seen if wrong: accept() fails more often than once per rest (LS_ACCEPT_REST_MS), each failure is a line in the log, or nobody is accepted
any more when there is room again.
"""

import os
import select
import socket
import time

import pytest

from harness.api import Metrics, UnixConnection
from harness.base import folder, wait_until
from harness.system import System

DESCRIPTORS = 80
REST_S, LOG_S = 0.25, 60  # LS_ACCEPT_REST_MS, LS_ACCEPT_LOG_MS
LISTENERS = ("api", "api socket", "agents", "metrics")


@pytest.fixture(scope="module")
def scarce():
    path = os.path.join(folder.make("m"), "sock")
    made = System({"orders": 0}, agents={"metrics": {"socket": path}, "pool": {"workers": 4, "finishers": 2}}, start=False)
    made.metrics_path = path
    for daemon in (made.coordinator, made.agents["orders"]):
        daemon.arguments = lambda usual=daemon.arguments: ["prlimit", f"--nofile={DESCRIPTORS}", *usual()]
    made.start()
    yield made
    made.close()


def is_closed(one):
    """By the other side."""
    readable, _, _ = select.select([one], [], [], 0)
    return bool(readable)


class Crowd:
    """Silent connections to one listener."""

    def __init__(self, system, listener):
        local = {"api socket": system.coordinator.socket, "metrics": system.metrics_path}.get(listener)
        self.family, self.address = (socket.AF_UNIX, local) if local else (socket.AF_INET, system.coordinator.address(listener))
        self.members = []

    def come(self):
        one = socket.socket(self.family)
        one.settimeout(20)
        one.connect(self.address)
        self.members.append(one)
        return one

    def fill(self):
        """As many as there are descriptors stand in the backlog or are let in; some listeners close who keeps silent for long."""
        self.members = [one for one in self.members if not is_closed(one)]
        while len(self.members) < DESCRIPTORS + 10:
            self.come()

    def go(self):
        for one in self.members:
            one.close()
        self.members = []


class Watch:
    """A connection from before, kept."""

    def __init__(self, system, listener):
        path = system.metrics_path if listener == "metrics" else system.coordinator.socket
        self.name = "lockstep_agent_accept_failures_total" if listener == "metrics" else "lockstepd_accept_failures_total"
        self.connection = UnixConnection(path, 20)
        self.failures()

    def failures(self):
        self.connection.request("GET", "/metrics")
        return Metrics(self.connection.getresponse().read().decode()).value(self.name)


def is_served(system, listener, one):
    """It waited in the backlog, and gets what it came for."""
    if listener in ("api", "agents"):
        return system.app.context.wrap_socket(one).version() == "TLSv1.3"
    one.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    return one.recv(12) == b"HTTP/1.1 200"


@pytest.mark.parametrize("listener", LISTENERS)
def test_no_descriptor_left(scarce, listener):
    daemon = scarce.agents["orders"] if listener == "metrics" else scarce.coordinator
    watch, crowd = Watch(scarce, listener), Crowd(scarce, listener)
    before, lines, started = watch.failures(), daemon.log_text().count("cannot be accepted"), time.monotonic()

    def failed(times):
        crowd.fill()
        return watch.failures() >= before + times
    try:
        wait_until(lambda: failed(1), 30, "accept() fails")
        first, since = watch.failures(), time.monotonic()
        wait_until(lambda: failed(4), 30, "it is tried again")
        tried, elapsed = watch.failures() - first, time.monotonic() - since
        assert tried <= elapsed / REST_S + 2, f"{tried} attempts in {elapsed:.1f} s"
        said = [line for line in daemon.log_text().splitlines() if "cannot be accepted" in line][lines:]
        assert 1 <= len(said) <= 1 + (time.monotonic() - started) / LOG_S, said
        assert f'listener="{listener}"' in said[0] or f"listener={listener}" in said[0], said
        daemon.check_alive()
        last = crowd.come()
        crowd.members.remove(last)
        crowd.go()
        assert is_served(scarce, listener, last), "the one that waited is served"
        last.close()
    finally:
        crowd.go()
        watch.connection.close()
    wait_until(lambda: scarce.agents["orders"].is_ready(), 30, "the agent is linked")
    scarce.alive()
