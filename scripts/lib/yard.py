"""The yard of the benchmarks: two or more PostgreSQL clusters with one database each, a coordinator and an agent for each, all on one file
system, and lockstep-bench beside them.

    yard.py --build FOLDER [--databases N] [--events] [--shop] -- [compare] ARGUMENTS OF lockstep-bench transfer (or compare)
"""

import argparse
import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from place import ENDING, Interrupted, Place, Problem, on_ending, wait_until  # noqa: E402
from shop import APP, CLUSTER_SETTINGS, PARTICIPANTS, PEERS, FormsShop, Shop  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))

# More than the clients of the largest load need; checkpoints do not fall into a run of some seconds.
YARD_SETTINGS = CLUSTER_SETTINGS + """
max_prepared_transactions = 600
max_connections = 700
max_wal_size = 4GB
checkpoint_timeout = 30min
"""


class Bench:
    """What a yard has besides servers and daemons: everything that lockstep-bench wants to look at."""
    cluster_settings = YARD_SETTINGS

    def roles(self):
        return super().roles() + f"  admin/local: {APP}\n"  # the load comes over the Unix socket

    def metrics_socket(self, name):
        return os.path.join(self.place.path, f"agent-{name}.sock")

    def more_for(self, name):
        return super().more_for(name) + f"metrics:\n  socket: {self.metrics_socket(name)}\n"

    def wait_settled(self):
        """Until nothing is prepared: what is answered when decided is applied a little later."""
        wait_until(lambda: self.prepared() == 0, 60, "nothing is prepared any more")

    def bench(self, *arguments, command="transfer", participants=None):
        """The command line of lockstep-bench transfer or compare on this yard, with all participants or with these."""
        argv = [self.program("lockstep-bench"), command, "--socket", self.socket(), "--log", self.place.path, "--prepare"]
        for name in participants or self.bench_participants():
            argv += ["--database", self.conninfo(name), "--participant", name, "--agent-metrics", self.metrics_socket(name)]
        for process in (self.coordinator, *self.agents.values(), *self.clusters.values()):
            argv += ["--process", f"{process.name}={process.pid}"]
        return [*argv, *arguments]


class Yard(Bench, Shop):
    """So many databases, a cluster for each. With `events` also the choreographed form of the work: agents that know each other."""

    def __init__(self, place, build, databases=2, settings=None, agent_settings="", events=False):
        super().__init__(place, build, settings, (PEERS if events else "") + agent_settings)
        self.layout = tuple((f"c{number}", (f"d{number}",)) for number in range(1, databases + 1))
        self.events = events

    def bench_participants(self):
        return self.participants

    def make_tables(self, name):
        """lockstep-bench makes its table itself; here are the handlers of the choreographed form."""
        if self.events:
            with self.connect(name) as session, open(os.path.join(HERE, "bench_events.sql"), encoding="utf-8") as sql:
                session.execute(sql.read().replace("@ME@", name.lstrip("d")))

    def start(self):
        super().start()
        if self.events:
            self.wait_routes(len(self.participants) + 1)


class ShopYard(Bench, FormsShop):
    """The shop: for the order flow."""

    def bench_participants(self):
        return PARTICIPANTS


class Ended(Problem, Interrupted):
    """By a signal; one of the things that end a run."""


def interrupt(number, _frame):
    raise Ended(signal.Signals(number).name)


class guarded:
    """A yard that is gone when we are done, however we end; signals are Problems meanwhile."""

    def __init__(self, make):
        self.make = make

    def __enter__(self):
        on_ending(interrupt)
        self.place = Place("lockstep-bench")
        try:
            yard = self.make(self.place)
            yard.start()
            return yard
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_):
        before = {number: signal.signal(number, signal.SIG_IGN) for number in ENDING}
        self.place.kill_all()
        self.place.remove()
        for number, handler in before.items():
            signal.signal(number, handler)


def run(argv, **options):
    """Runs a load to its end; when we are told to end, it is told, too, and ends cleanly first."""
    load = subprocess.Popen(argv, **options)
    try:
        return load.wait()
    except Problem:
        load.terminate()
        load.wait()
        raise


def main():
    parser = argparse.ArgumentParser(prog="yard", description=__doc__.split("\n\n")[0])
    parser.add_argument("--build", required=True)
    parser.add_argument("--databases", type=int, default=2)
    parser.add_argument("--events", action="store_true", help="handlers and routes for the subject choreographed")
    parser.add_argument("--shop", action="store_true", help="the four databases of the order flow instead")
    parser.add_argument("arguments", nargs="*")
    options = parser.parse_args()
    build, arguments = os.path.abspath(options.build), options.arguments
    command = arguments.pop(0) if arguments[:1] in (["compare"], ["transfer"]) else "transfer"
    try:
        with guarded(lambda place: ShopYard(place, build) if options.shop else Yard(place, build, options.databases, events=options.events)) as yard:
            return run(yard.bench(*arguments, command=command))
    except Problem as problem:
        print(f"yard: {problem}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
