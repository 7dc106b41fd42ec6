"""Hazard: the soak (tests/crash/soak.py) is only run by those who have half an hour, and nobody sees when it breaks.

Method: its short form, ten seconds of load with kills.
Seen if wrong: its exit status; a process that grows already now, an audit that is not clean.
"""

import os
import re
import subprocess
import sys

from harness.programs import BUILD, ROOT


def test_short_form():
    done = subprocess.run([sys.executable, os.path.join(ROOT, "tests", "crash", "soak.py"), "--seconds", "10"], text=True, capture_output=True, check=False, timeout=240,
                          env={**os.environ, "LOCKSTEP_BUILD": BUILD})
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"^part \d: \d+ committed", done.stdout, re.MULTILINE)) == 5
    assert "differences 0, lost 0, refused but there 0, wrong sums 0, orphans 0" in done.stdout
