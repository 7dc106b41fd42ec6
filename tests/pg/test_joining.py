"""Hazard: who joins for the first time goes away while its name is still being written to the log, and another joins in its stead.

Method: the log's disk stands still, the newcomer is killed or its link is cut, another participant comes; then the coordinator is started again.
Seen if wrong: two names under one number in the log, which the next start calls corrupt.
"""

import os

import pytest

from harness.base import wait_until
from harness.programs import BUILD, Coordinator, authority
from harness.proxy import wait_closed_on_pings
from harness.system import System

STILL_MS = 4000  # longer than it takes to notice that a link is closed


@pytest.fixture
def system():
    made = System({"orders": 0, "balance": 0}, start=False)
    yield made
    made.close()


def test_a_link_that_says_no_hello():
    """It keeps no place, though it is an agent's and talks."""
    coordinator = Coordinator(authority()).start()
    try:
        wait_closed_on_pings(coordinator.address("agents"), coordinator.authority.files("lockstep://agent/orders"))
        assert coordinator.log_has("link refused", "no Hello")
    finally:
        coordinator.kill()


def start_slow(coordinator):
    """On a disk that can be made to stand still; the file that says so."""
    control = os.path.join(coordinator.directory, "disk")
    coordinator.start(env={"LD_PRELOAD": os.path.join(BUILD, "libfault-disk.so"), "FAULT_DIR": coordinator.directory, "FAULT_CONTROL": control})
    return control


def stand_still(control, ms):
    with open(control, "w", encoding="ascii") as file:
        file.write(f"slow {ms}\n" if ms else "")


def appended(coordinator, name):
    wait_until(lambda: coordinator.log_has("new participant", name), 20, lambda: f"{name} is being registered:\n{coordinator.log_text()}")


def again(coordinator, *agents):
    coordinator.kill()
    coordinator.start()
    for agent in agents:
        agent.wait_ready()


def dies_while_its_name_is_written(coordinator, agent, name):
    """What lets the disk go on."""
    control = start_slow(coordinator)
    stand_still(control, STILL_MS)
    agent.spawn()
    appended(coordinator, name)
    agent.kill()
    return control


@pytest.mark.parametrize("first_is_back", [False, True])
def test_another_joins_in_its_stead(system, first_is_back):
    coordinator, first, second = system.coordinator, system.agents["orders"], system.agents["balance"]
    control = dies_while_its_name_is_written(coordinator, first, "orders")
    second.spawn()
    appended(coordinator, "balance")
    stand_still(control, 0)
    second.wait_ready()
    if first_is_back:
        first.start()
    again(coordinator, second)
    if not first_is_back:
        first.spawn()
    first.wait_ready()
    system.alive()


def test_it_comes_again_while_its_name_is_being_written(system):
    coordinator, first, second = system.coordinator, system.agents["orders"], system.agents["balance"]
    control = dies_while_its_name_is_written(coordinator, first, "orders")
    first.spawn()
    stand_still(control, 0)  # the write that is under way stands still all the same
    first.wait_ready()
    second.start()
    again(coordinator, first, second)
    system.alive()
