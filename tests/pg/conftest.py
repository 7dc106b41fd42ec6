"""Fixtures shared by all tests on real servers.

`shared` and `proxied` live as long as the session, since starting a system costs more than most tests. A test that ends, fails or
leaves something dead does not spoil the next one: the fixture heals the system first, or makes a new one.
"""

import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))

from harness import base  # noqa: E402
from harness.programs import BUILD  # noqa: E402
from harness.system import System  # noqa: E402

# orders and products on servers of their own; balance and coupons are two databases of one cluster
FOUR = {"orders": 0, "products": 1, "balance": 2, "coupons": 2}
TWO = {"orders": 0, "balance": 1}
# scripts/test must end within 15 minutes: these run with PG_MORE only, which `make pg` and .ci/run set
MORE = ["test_alert.py", "test_clock_jumps.py", "test_compare.py", "test_demo.py", "test_descriptors.py", "test_faults.py", "test_horizon.py", "test_joining.py",
        "test_limits.py", "test_log_failures.py", "test_model.py", "test_openapi.py", "test_pauses.py", "test_relay_faults.py", "test_restored_coordinator.py", "test_soak.py",
        "test_transfer.py"]
MORE_TESTS = ("test_http.py::test_junk_requests[tls-3]", "test_lost_messages.py::test_greeting_is_swallowed",
              "test_saga_call.py::test_thousands_of_calls")
collect_ignore = [] if "PG_MORE" in os.environ else MORE


def pytest_collection_modifyitems(config, items):
    if "PG_MORE" not in os.environ:
        left_out = [item for item in items if any(name in item.nodeid for name in MORE_TESTS)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_configure(config):
    missing = [name for name in ("lockstepd", "lockstep-agent", "lockstep") if not os.access(os.path.join(BUILD, name), os.X_OK)]
    if missing:
        pytest.exit(f"{', '.join(missing)} missing in {BUILD}: run make, or set LOCKSTEP_BUILD", returncode=2)


@pytest.fixture(scope="session", autouse=True)
def everything_ends():
    """Ends every process and removes the folder, whatever happened."""
    yield
    base.processes.end_all()
    base.folder.remove()


class Keeper:
    """Keeps one system alive across tests."""

    def __init__(self, make):
        self.make, self.system = make, None

    def get(self):
        if self.system is not None:
            try:
                self.system.heal()
                self.system.no_orphans()
            except Exception:  # whatever is wrong with it: the next test gets a new one
                self.close()
        if self.system is None:
            self.system = self.make()
        return self.system

    def close(self):
        if self.system is not None:
            self.system.close()
            self.system = None


def keep(make):
    keeper = Keeper(make)
    yield keeper
    keeper.close()


@pytest.fixture(scope="session")
def shared_keeper():
    yield from keep(lambda: System(FOUR))


@pytest.fixture
def shared(shared_keeper):
    """Four databases on three servers, nothing in between."""
    return shared_keeper.get()


@pytest.fixture(scope="session")
def proxied_keeper():
    yield from keep(lambda: System(TWO, pg_proxies=TWO, link_proxies=TWO))


@pytest.fixture
def proxied(proxied_keeper):
    """Two databases on two servers, with proxies before the servers and before the coordinator."""
    return proxied_keeper.get()
