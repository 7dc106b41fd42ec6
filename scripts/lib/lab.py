"""The failure laboratory (docs/lab.md): `lockstep lab list`, `lockstep lab run NAME|all`.

lab.py holds what an experiment is made of: the shop with its faults, the load, samples, healing, audit. The experiments are in experiments.py.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True  # nothing of ours stays in the checkout

import psycopg  # noqa: E402

import audit  # noqa: E402
import experiments  # noqa: E402
from fault import positive  # noqa: E402
from place import Interrupted, Place, Problem, data_of, interrupt, on_ending, tail, wait_until  # noqa: E402
from shop import APP, PORT, FormsShop  # noqa: E402
from timeline import Timeline  # noqa: E402
from watch import SKUS, Watch  # noqa: E402

FAULTS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "faults")
MODES = ("2pc", "orchestrated", "choreographed")
CLIENTS, CLIENTS_QUICK = 12, 6
WARM = {"2pc": 500, "orchestrated": 250, "choreographed": 100}  # orders, before a fault comes: some seconds of each form, and not minutes on a slow machine
SAMPLE_S = 0.5
GRACE_S = 60
LINKED = "products"  # its link to the coordinator goes through a proxy


class LabShop(FormsShop):
    """The shop with its weak spots laid open: crash points, a disk that obeys, a link that can be pulled."""

    def __init__(self, place, build):
        super().__init__(place, build, settings="faults: enabled\nlog:\n  segment_size: 64KiB\n  spares: 6\n", agent_settings="faults: enabled\nsweep:\n  interval: 1s\n")
        self.control = os.path.join(place.path, "disk-control")
        self.link = None

    def roles(self):
        return super().roles() + f"  admin/local: {APP}\n"

    def start_coordinator(self, fail=None):
        if self.coordinator is None:
            data = place_make(self.place, "coordinator")
            self.disk = {"LD_PRELOAD": disk_library(self.build), "FAULT_DIR": data, "FAULT_CONTROL": self.control}
            self.place.environment.update(self.disk)
            try:
                super().start_coordinator()
            finally:
                for name in self.disk:
                    del self.place.environment[name]
            return
        set_fail(self.coordinator, fail)
        super().start_coordinator()

    def start_agent(self, name, fail=None):
        if name == LINKED and self.link is None:
            self.link = self.place.process("link", [os.path.join(FAULTS, "link"), "--direction", "back", "--listen", "127.0.0.1:0", "--to", self.ports["agents"]]).start()
            where = wait_until(lambda: next((line.split(": ")[1].strip() for line in tail(self.link.log).splitlines() if line.startswith("listening")), None), 10,
                               lambda: f"the link listens; its log:\n{tail(self.link.log)}")
            direct, self.ports["agents"] = self.ports["agents"], where
            try:
                super().start_agent(name)
            finally:
                self.ports["agents"] = direct
            return
        if name in self.agents:
            set_fail(self.agents[name], fail)
        super().start_agent(name)

    def start(self):
        super().start()
        with self.connect("orders", APP) as session:
            session.execute("select lockstep.declare_terminal('lab.note')")

    def make_standby(self, cluster):
        """A synchronous standby of the cluster, streaming; as a process, its data directory beside it."""
        name = f"{cluster}s{sum(1 for process in self.place.processes if process.name.startswith('postgres-'))}"
        folder, participant = self.place.make(name, for_server=True), dict(self.layout)[cluster][0]
        self.place.run([os.path.join(self.programs, "pg_basebackup"), "-D", f"{folder}/data", "-R", "-X", "stream", "-c", "fast", "--no-sync",
                        "-d", self.conninfo(participant, database="postgres")], as_server=True)
        argv = [os.path.join(self.programs, "postgres"), "-D", f"{folder}/data", "-c", f"unix_socket_directories={folder}"]
        standby = self.place.process(f"postgres-{name}", argv, account=self.place.server_account, stop_signal=signal.SIGQUIT).start()
        with self.connect(participant, database="postgres") as session:
            session.execute("alter system set synchronous_standby_names = '*'")
            session.execute("select pg_reload_conf()")
            wait_until(lambda: session.execute("select count(*) from pg_stat_replication where sync_state = 'sync'").fetchone()[0], 60,
                       lambda: f"the standby of {cluster} streams; its log:\n{tail(standby.log)}")
        return standby

    def take_over(self, cluster, standby):
        """The address moves to the server that was promoted: everybody who dials the old socket reaches it."""
        folder = self.cluster_of[dict(self.layout)[cluster][0]]
        socket = f".s.PGSQL.{PORT}"
        beside = os.path.join(folder, "moving")
        os.symlink(os.path.join(os.path.dirname(data_of(standby)), socket), beside)
        os.replace(beside, os.path.join(folder, socket))
        self.clusters[cluster] = standby

    def hazards(self):
        """How many transactions an outside hand or lost WAL broke, as lockstep says."""
        listed = self.lockstep("tx", "list", "--state", "hazard", "-o", "json", "--url", f"unix:{self.socket()}")
        return len(json.loads(listed.stdout)["transactions"])

    def restart_agent(self, name, fail=None):
        """In order, if it runs. Ready again when this returns."""
        stop_process(self.agents[name])
        self.start_agent(name, fail)
        wait_until(lambda: name in self.ready_agents(), 60, lambda: f"agent {name} is ready; its log:\n{tail(self.agents[name].log)}", 0.05)

    def restart_coordinator(self, fail=None):
        stop_process(self.coordinator)
        self.start_coordinator(fail)
        self.wait_agents()


def disk_library(build):
    """Built with the rest, or installed beside the fault scripts."""
    for folder in (build, os.path.dirname(os.path.abspath(FAULTS))):
        path = os.path.join(folder, "libfault-disk.so")
        if os.path.exists(path):
            return path
    raise Problem(f"libfault-disk.so is missing in {build}: run make")


def place_make(place, name):
    path = os.path.join(place.path, name)
    return path if os.path.isdir(path) else place.make(name)


def set_fail(process, fail):
    process.environment.pop("LOCKSTEP_FAIL", None)
    if fail:
        process.environment["LOCKSTEP_FAIL"] = fail


def stop_process(process):
    if process.running():
        process.begin_stop()
        process.end_stop(20)


class Run:
    """One experiment in one mode. Everything that starts a process is called from the main thread."""

    def __init__(self, lab, experiment, mode):
        self.lab, self.shop, self.mode, self.quick = lab, lab.shop, mode, lab.quick
        self.timeline = Timeline(experiment.name, mode, experiment.hypothesis(mode), lab.machine, ["--quick"] if lab.quick else [])
        self.journal = lab.journal
        self.load = self.watch = None
        self.loading = False
        self.clients = self.scaled(CLIENTS, CLIENTS_QUICK)
        self.faults = []  # scripts that run
        self.halves = []  # (t, orders that a reader found half-way) for each of its looks that was sampled
        self.committed_before = lab.journal.counts["committed"]
        self.sampled = 0.0
        self.committed_at_fault = self.committed_meanwhile = 0
        self.ended_before = None  # orders, when the fault began

    # -- time

    def scaled(self, seconds, quick):
        return quick if self.quick else seconds

    def tick(self):
        """Called all the time while something is waited for: samples, and load that goes on."""
        if self.loading and not self.load.running():
            if self.load.process.returncode not in (0, 5):
                raise Problem(f"the load ended with {self.load.process.returncode}:\n{tail(self.load.log)}")
            self.start_load()
        now = time.monotonic()
        if self.watch is not None and now - self.sampled >= SAMPLE_S:
            committed = self.journal.read()["committed"]
            sample = self.watch.sample(now - self.sampled)
            rate = round((committed - self.committed_before) / (now - self.sampled), 1)
            self.timeline.sample({"t": self.timeline.now(), "since": round(now - self.sampled, 2), "committed_per_s": rate, **sample})
            self.sampled, self.committed_before = now, committed
            look = self.watch.reader.begun_at(self.timeline.started)
            if look is not None and look[0] not in [t for t, _ in self.halves[-1:]]:
                self.halves.append(look)

    def wait(self, condition, deadline, sentence):
        def reached():
            self.tick()
            return condition()
        return wait_until(reached, deadline, sentence, 0.02)

    def rest(self, seconds):
        """The time of a fault: there is nothing to wait for but the clock, and two looks at least."""
        end, fault = time.monotonic() + seconds, self.timeline.record["fault"]

        def over():
            return time.monotonic() >= end and (not fault or fault[-1]["until"] is not None or len(self.timeline.during("t")) >= 2)
        self.wait(over, seconds + 60, "time passes, with two samples")

    # -- load

    def start_load(self):
        self.load = self.shop.start_load(self.journal.path, self.clients, self.scaled(24, 3), "--settle", "60", "--form", self.mode, "--skus", str(SKUS), "--seed", str(self.lab.next_seed()))
        self.lab.loads.append(self.load)

    def begin(self, armed=False):
        """The load begins. `armed`: a crash point will kill somebody soon; else some orders are complete when this returns."""
        self.start_load()
        self.loading = True
        self.watch = Watch(self.shop)
        self.sampled = time.monotonic()
        self.timeline.begin()
        if not armed:
            self.wait_orders(self.scaled(WARM[self.mode], 3 * CLIENTS_QUICK), 180)

    def point(self, name, per_order):
        """LOCKSTEP_FAIL for a crash point that is passed so often for one order: the load is warm by then."""
        return f"{name}=kill@{per_order * self.scaled(WARM[self.mode], 6 * CLIENTS_QUICK)}"

    def wait_orders(self, count, deadline=60):
        before = self.journal.read()["committed"]
        self.wait(lambda: self.journal.read()["committed"] >= before + count, deadline, f"{count} more orders are complete")

    def end_load(self):
        self.loading = False
        self.wait(lambda: not self.load.running(), 120, "every order that was begun has ended")
        self.note_ends()

    def note_ends(self):
        """How long the orders took that the fault met: until they were complete, or until nothing was left of them (rolled back, compensated)."""
        self.journal.read()
        took = {outcome: all_[(self.ended_before or {}).get(outcome, 0):] for outcome, all_ in self.journal.took.items()}
        self.timeline.ended({"complete": len(took["committed"]), "complete_longest_s": round(max(took["committed"], default=0), 2),
                             "undone": len(took["aborted"]), "undone_longest_s": round(max(took["aborted"], default=0), 2),
                             "half_seen_longest_s": round(self.watch.reader.longest, 2)})

    # -- faults

    def begin_fault(self, what):
        self.committed_at_fault = self.journal.read()["committed"]
        if self.ended_before is None:
            self.ended_before = {outcome: len(took) for outcome, took in self.journal.took.items()}
        self.timeline.begin_fault(what)

    def script(self, name, *arguments):
        """Starts scripts/faults/NAME and waits until it has injected. It undoes itself when it is told to (undo) or by its own --for."""
        process = self.shop.place.process(f"fault-{name}-{len(self.shop.place.processes)}", [os.path.join(FAULTS, name), *map(str, arguments)]).start()
        self.faults.append(process)

        def injected():
            if "injected: " in tail(process.log, 100):
                return True
            if not process.running():
                raise Problem(f"scripts/faults/{name} ended with {process.process.returncode}:\n{tail(process.log)}")
            return False
        self.wait(injected, 60, lambda: f"scripts/faults/{name} injects; it said:\n{tail(process.log)}")
        self.begin_fault(next(line for line in tail(process.log, 100).splitlines() if line.startswith("injected: "))[10:])
        if name == "kill":  # nothing of it is to be undone: we start what we have started
            self.wait(lambda: not process.running(), 10, "the script ends")
            self.faults.remove(process)
        return process

    def undo(self, process, number=-1):
        self.committed_meanwhile = self.journal.read()["committed"] - self.committed_at_fault
        process.process.send_signal(signal.SIGTERM)
        self.wait(lambda: not process.running(), 60, lambda: f"{process.name} undoes itself; it said:\n{tail(process.log)}")
        if process.process.returncode != 0:
            raise Problem(f"{process.name} ended with {process.process.returncode}:\n{tail(process.log)}")
        self.timeline.end_fault(next((line[8:] for line in tail(process.log, 100).splitlines() if line.startswith("undone: ")), "undone"), number)
        self.faults.remove(process)

    def wait_death(self, process, what, deadline=180):
        """It was started with a crash point in it."""
        self.wait(lambda: not process.running(), deadline, f"{what} is passed and kills {process.name}")
        self.begin_fault(f"kill -9 {process.name} at {what}")
        self.note_rows()

    def back(self, what):
        self.committed_meanwhile = self.journal.read()["committed"] - self.committed_at_fault
        self.timeline.end_fault(what)

    # -- looking

    def in_doubt(self, name):
        with self.shop.connect(name) as session:
            return self.prepared(session)

    @staticmethod
    def prepared(session):
        return session.execute("select gid, transaction::text from pg_prepared_xacts where database = current_database() order by gid").fetchall()

    def note_rows(self):
        """Which rows the branches that are in doubt hold, and how many sessions wait behind them."""
        found = []
        for name, table, key in (("products", "product", "sku"), ("balance", "account", "owner"), ("coupons", "coupon", "code")):
            try:
                with self.shop.connect(name) as session:
                    for gid, rows, waiting in session.execute(f"""
                            select gid, array(select {key}::text from {table} where xmax::text = p.transaction::text), (lockstep.show_blocking(gid)->>'waiting')::int
                              from pg_prepared_xacts p where database = current_database() order by 3 desc, prepared limit 10"""):
                        found.append({"participant": name, "gtid": gid.split(":")[1], "rows": [f"{table} {row}" for row in rows], "waiting": waiting or 0})
                    self.tick()
            except psycopg.OperationalError as error:
                self.timeline.event(f"{name} cannot be asked: {str(error).splitlines()[0]}")
        self.timeline.rows(found)
        return found

    def claim(self, claim, held, measured):
        self.timeline.claim(claim, held, measured)

    def would_hold(self, *claims):
        """Whether all these would hold if they were made now."""
        record = self.timeline.record
        made, record["claims"] = record["claims"], []
        try:
            for claim in claims:
                claim(self)
            return all(claim["held"] for claim in record["claims"])
        finally:
            record["claims"] = made

    # -- the end of it

    def heal(self):
        """Whatever the experiment has left: everything runs, is linked and without crash points."""
        for process in list(self.faults):
            self.undo(process)
        shop = self.shop
        for process in (shop.coordinator, *shop.agents.values()):
            set_fail(process, None)
        for cluster, _ in shop.layout:
            if not shop.clusters[cluster].running():
                shop.revive_cluster(cluster)
        if not shop.coordinator.running():
            shop.start_coordinator()
        for name, agent in shop.agents.items():
            if not agent.running():
                shop.start_agent(name)
        self.wait(lambda: shop.ready_agents() >= set(shop.agents), 120, lambda: f"all agents are ready (ready: {sorted(shop.ready_agents())})")

    def play(self, experiment):
        self.timeline.say(f"{experiment.name}, {self.mode}\n  {experiment.hypothesis(self.mode)}")
        try:
            experiment.play(self)
            self.heal()
            before = self.journal.read()["committed"]
            if self.loading:
                self.wait(lambda: self.journal.read()["committed"] > before, 120, "orders are complete after everything was healed")
                self.timeline.event("orders go on")
                self.rest(self.lab.afterwards)
                self.end_load()
        finally:
            if self.watch is not None:
                self.watch.stop()
        experiment.judge(self)
        checks = audit.Audit(self.shop.connect, self.journal.path, GRACE_S, platform=True).run()
        good = self.timeline.end(checks)
        if self.lab.out:
            self.timeline.say(f"  {self.timeline.write(self.lab.out)}")
        return good


class Journal:
    """Counts what the load writes, as it grows."""

    def __init__(self, path):
        self.path, self.position = path, 0
        self.counts = {"committed": 0, "aborted": 0, "unknown": 0}
        self.locked_out = 0  # orders that lock_timeout ended
        self.took = {"committed": [], "aborted": []}  # seconds that each order took to its end

    def read(self):
        try:
            with open(self.path, "rb") as file:
                file.seek(self.position)
                data = file.read()
        except FileNotFoundError:
            return self.counts
        whole = data.rfind(b"\n") + 1
        self.position += whole
        for line in data[:whole].splitlines():
            fields = line.split(b"\t")
            outcome = fields[1].decode()
            self.counts[outcome] += 1
            self.locked_out += fields[4] == b"55P03"
            if outcome in self.took:
                self.took[outcome].append(int(fields[3]) / 1e6)
        return self.counts


class Lab:
    def __init__(self, place, options):
        self.place, self.quick, self.out = place, options.quick, options.out
        self.afterwards = options.afterwards if options.afterwards is not None else 0 if options.quick else 3
        self.journal = Journal(os.path.join(place.path, "journal"))
        self.shop = LabShop(place, os.path.abspath(options.build))
        self.loads, self.seed, self.failed = [], 0, False  # failed: something did not hold, and its logs are wanted
        self.machine = {"cores": os.cpu_count(), "lockstep": self.version(options.build), "postgres": None}

    @staticmethod
    def version(build):
        try:
            done = subprocess.run([os.path.join(build, "lockstep"), "--version"], capture_output=True, text=True, check=False)
        except OSError as error:
            raise Problem(f"{build}/lockstep: {error.strerror}: run make") from None
        return done.stdout.split()[-1] if done.stdout.split() else None

    def next_seed(self):
        self.seed += 1
        return self.seed

    def start(self):
        began = time.monotonic()
        print(f"Starting in {self.place.path}: three PostgreSQL clusters with five databases (fsync on), coordinator, five agents ...", flush=True)
        self.shop.start()
        with self.shop.connect("orders") as session:
            self.machine["postgres"] = session.execute("show server_version_num").fetchone()[0]
        print(f"  up after {time.monotonic() - began:.1f} s\n", flush=True)

    def run(self, experiment, mode):
        return Run(self, experiment, mode).play(experiment)


def list_experiments():
    for experiment in experiments.ALL:
        print(f"{experiment.name}   ({', '.join(experiment.modes)})")
        for mode in experiment.modes:
            print(f"  {mode + ':':<15} {experiment.hypothesis(mode)}")


def choose(parser, names, mode):
    known = {experiment.name: experiment for experiment in experiments.ALL}
    chosen = []
    for word in names:
        name, _, own = word.partition("/")
        if name != "all" and name not in known:
            parser.error(f"there is no experiment `{name}' (lockstep lab list)")
        if own not in ("", *MODES):
            parser.error(f"there is no mode `{own}'")
        for experiment in experiments.ALL if name == "all" else [known[name]]:
            chosen += [(experiment, one) for one in MODES if one in experiment.modes and (own or mode) in (one, "all")]
    if not chosen:
        parser.error(f"none of these runs in mode {mode} (lockstep lab list)")
    return chosen


def parse():
    parser = argparse.ArgumentParser(prog="lockstep lab", description="The failure laboratory: faults on real servers under load, measured (docs/lab.md).")
    parser.add_argument("--build", required=True, help=argparse.SUPPRESS)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list", help="the experiments and what each one says will happen")
    run = verbs.add_parser("run", help="run experiments; each ends with an audit and says whether its hypothesis held")
    run.add_argument("names", nargs="+", metavar="NAME[/MODE]", help="of an experiment, or `all'")
    run.add_argument("--mode", choices=(*MODES, "all"), default="all", help="all unless given")
    run.add_argument("--quick", action="store_true", help="a few seconds each")
    run.add_argument("--afterwards", type=positive(float), metavar="SECONDS", help="the load goes on for so long when everything is healed (3, with --quick 0)")
    run.add_argument("--out", metavar="FOLDER", help="writes each timeline there as JSON")
    options = parser.parse_args()
    if options.verb == "run":
        options.chosen = choose(run, options.names, options.mode)
        if options.out:
            try:
                os.makedirs(options.out, exist_ok=True)
            except OSError as error:
                run.error(f"--out: {error}")
    return options


def run_all(options):
    """Every experiment that was chosen, whatever becomes of the others: after one that could not be brought to its end the rest has servers and daemons of its own."""
    left, good, bad = list(options.chosen), [], []
    while left:
        with laboratory(options) as lab:
            while left:
                experiment, mode = left.pop(0)
                bad.append((experiment, mode))
                if lab.run(experiment, mode):
                    good.append(bad.pop())
                else:
                    lab.failed = True
    print(f"{len(good)} of {len(options.chosen)} experiments held with a clean audit" + "".join(f"\n  not: {experiment.name}, {mode}" for experiment, mode in bad), flush=True)
    return not bad


@contextlib.contextmanager
def laboratory(options):
    """Servers and daemons; they are gone when this is left, and a Problem in an experiment ends there, told."""
    place, failed, started = Place("lockstep-lab"), True, False
    try:
        lab = Lab(place, options)
        lab.start()
        started = True
        yield lab
        failed = lab.failed
    except (Problem, psycopg.Error) as problem:
        if not started:
            raise
        print(f"\nlockstep lab: {problem}", file=sys.stderr, flush=True)
    except (Interrupted, BrokenPipeError):
        failed = False
        raise
    finally:
        on_ending(signal.SIG_IGN)
        place.kill_all()
        place.leave(failed)
        on_ending(interrupt)


def main():
    options = parse()
    if options.verb == "list":
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `lockstep lab list | head`
        list_experiments()
        return 0
    on_ending(interrupt)
    try:
        return 0 if run_all(options) else 1
    except Problem as problem:
        print(f"\nlockstep lab: {problem}", file=sys.stderr)
        return 1
    except Interrupted as name:
        print(f"\nlockstep lab: {name}: cleaned up", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still to be said would fail again
        print("\nlockstep lab: nobody reads any more: cleaned up", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
