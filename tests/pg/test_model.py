"""Hazard: what really runs does something that the model of the protocol cannot do, so that checking the model proves nothing about it.

Method: transactions that commit, abort and only read, kills of an agent and of the coordinator between them, all logged at debug level; then
tests/model/conform asks spin for each transaction whether the model has a run with these votes, outcomes and ends.
Seen if wrong: a transaction that the model refuses, or hardly any that was checked.
"""

import os
import re
import shutil
import subprocess

from harness.base import folder
from harness.programs import ROOT
from harness.system import System, fresh, put, step

NAMES = ("orders", "balance")


def keep_logs(system, where):
    for name, daemon in [("coordinator", system.coordinator), *system.agents.items()]:
        shutil.copy(daemon.log, os.path.join(where, f"{name}.log"))


def test_real_runs_are_runs_of_the_model():
    system = System({"orders": 0, "balance": 1}, coordinator={"diag": {"level": "debug"}}, agents={"log": {"level": "debug"}})
    where = folder.make("model")
    try:
        for round_number in range(3):
            for _ in range(4):
                assert system.run(put(fresh(), *NAMES)).status == 200
                assert system.run([step("orders", "select 1")] + put(fresh(), "balance")).status == 200
                assert system.run(put(fresh(), "orders") + [step("balance", "select 1/0")]).status == 409
            (system.agents["orders"] if round_number == 0 else system.coordinator).restart()
            system.wait_ready()
        system.no_orphans()
        keep_logs(system, where)
    finally:
        system.close()
    done = subprocess.run([os.path.join(ROOT, "tests/model/conform"), "logs", where], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"(\d+) accepted", done.stdout)[1]) >= 30, done.stdout
