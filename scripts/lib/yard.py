"""The yard of the benchmarks: two or more PostgreSQL clusters with one database each, a coordinator and an agent for each, all on one file
system, and lockstep-bench beside them.

    yard.py --build FOLDER [--databases N] -- ARGUMENTS OF lockstep-bench transfer
"""

import argparse
import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from place import Place, Problem, wait_until  # noqa: E402
from shop import APP, CLUSTER_SETTINGS, Shop  # noqa: E402

# More than the clients of the largest load need; checkpoints do not fall into a run of some seconds.
YARD_SETTINGS = CLUSTER_SETTINGS + """
max_prepared_transactions = 600
max_connections = 700
max_wal_size = 4GB
checkpoint_timeout = 30min
"""


class Yard(Shop):
    cluster_settings = YARD_SETTINGS

    def __init__(self, place, build, databases=2, settings=None, agent_settings=""):
        super().__init__(place, build, settings, agent_settings)
        self.layout = tuple((f"c{number}", (f"d{number}",)) for number in range(1, databases + 1))

    def roles(self):
        return super().roles() + f"  admin/local: {APP}\n"  # the load comes over the Unix socket

    def make_tables(self, name):
        pass  # lockstep-bench makes its own

    def wait_settled(self):
        """Until nothing is prepared: what is answered when decided is applied a little later."""
        wait_until(lambda: self.prepared() == 0, 20, "nothing is prepared any more")

    def bench(self, *arguments):
        """The command line of lockstep-bench transfer on this yard."""
        argv = [self.program("lockstep-bench"), "transfer", "--socket", self.socket(), "--log", self.place.path, "--prepare"]
        for name in self.participants:
            argv += ["--database", self.conninfo(name), "--participant", name]
        return [*argv, *arguments]


def interrupt(number, _frame):
    raise Problem(signal.Signals(number).name)


def main():
    parser = argparse.ArgumentParser(prog="yard", description=__doc__.split("\n\n")[0])
    parser.add_argument("--build", required=True)
    parser.add_argument("--databases", type=int, default=2)
    parser.add_argument("arguments", nargs="*")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    place = None
    try:
        place = Place("lockstep-bench")
        yard = Yard(place, os.path.abspath(options.build), options.databases)
        yard.start()
        return subprocess.run(yard.bench(*options.arguments), check=False).returncode
    except Problem as problem:
        print(f"yard: {problem}", file=sys.stderr)
        return 1
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if place is not None:
            place.kill_all()
            place.remove()


if __name__ == "__main__":
    sys.exit(main())
