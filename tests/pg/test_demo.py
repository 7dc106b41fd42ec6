"""Hazard: the first thing a stranger runs fails, or shows an agreement that is none.

Method: the demo after its build, short form: three forms of the same orders, coordinator and one agent killed in each, and the audit over all of them.
Seen if wrong: another exit status than 0, a form that finished nothing, processes or files that are left.
"""

import os
import re
import subprocess
import sys

from harness.programs import program

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def test_three_forms_agree():
    done = subprocess.run([sys.executable, os.path.join(ROOT, "scripts", "lib", "demo.py"), "--build", os.path.dirname(program("lockstepd")), "--quick"],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout
    assert "in each of its forms" in done.stdout
    complete = re.search(r"orders complete +(\d+) +(\d+) +(\d+)", done.stdout)
    assert complete and all(int(count) > 0 for count in complete.groups()), done.stdout
    folder = re.search(r"Starting in (\S+):", done.stdout)[1]
    assert not os.path.exists(folder), f"{folder} is left behind"
