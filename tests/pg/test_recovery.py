"""Hazard: recovery of many decided transactions stops half-way, repeats one, or needs a hand.

Method: 2 x 200 decided transactions whose COMMITs were lost; coordinator and agents are killed and started again (tests/crash/recovery.py, which also
measures it with 2 x 5,000).
Seen if wrong: a prepared transaction is left; a row is missing.
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "crash"))

import recovery  # noqa: E402

TRANSACTIONS = 200


def test_everything_decided_is_finished():
    system = recovery.make_system(TRANSACTIONS)
    try:
        tag = recovery.leave_decided(system, TRANSACTIONS)
        recovery.recover(system, TRANSACTIONS)
        recovery.check(system, tag, TRANSACTIONS)
    finally:
        system.close()
