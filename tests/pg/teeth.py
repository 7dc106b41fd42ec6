#!/usr/bin/python3
"""Do the tests on real servers bite? Plants one bug at a time into a copy of the sources and expects a test to fail.

Hazard: a test that cannot fail.
Method: each entry is a small change of the shipped code that breaks one promise, and the tests that must notice. The copy is built and those
tests run against its programs; they must pass without any change and fail with each.
Seen if wrong: "NOT FOUND" for a planted bug; "drifted" when the code it changes is no longer there: mend the entry.

    tests/pg/teeth.py [--only WORD] [--keep]      exit status 0: every planted bug was found
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
PROGRAMS = ("lockstepd", "lockstep-agent", "lockstep")

# name, file, what stands there, what is put in its place, tests that must fail, and a second change of the same file where one is not enough
BUGS = [
    ("does-not-exist-is-done", "participant/core/drive.c",
     "bool done = !answer->lost && (answer->sqlstate == NULL || answer->sqlstate[0] == '\\0');",
     "bool done = !answer->lost && (answer->sqlstate == NULL || answer->sqlstate[0] == '\\0' || answer->sqlstate[0] == '4');",
     "test_hazard.py -k rolled_back_by_hand_after"),
    ("zombies-are-left-alone", "participant/pg/sql.h",
     '" and pg_catalog.pg_has_role(a.usesysid, \'usage\')"',
     '" and false and pg_catalog.pg_has_role(a.usesysid, \'usage\')"',
     "test_zombies.py"),
    ("foreign-owner-votes-yes", "participant/pg/sql.h",
     "when current_user operator(pg_catalog.<>) session_user then", "when false then",
     "test_forbidden.py -k changed_role"),
    ("locks-do-not-matter", "participant/pg/sql.h",
     "(l.locktype operator(pg_catalog.=) 'advisory' or", "(false and l.locktype operator(pg_catalog.=) 'advisory' or false and",
     "test_read_only.py -k lock"),
    ("branch-may-skip-the-standby", "participant/pg/sql.h",
     "'remote_apply' then 'remote_apply' else $2::pg_catalog.text end, true)",
     "'remote_apply' then 'remote_apply' else pg_catalog.coalesce(pg_catalog.current_setting('synchronous_commit'), $2::pg_catalog.text) end, true)"
     .replace("pg_catalog.coalesce", "coalesce"),
     "test_standby.py -k no_vote_without"),
    ("warning-at-prepare-is-yes", "participant/core/vote.c",
     "} else if (run->prepare_warning) {", "} else if (run->prepare_warning && id->xid == 1) {",
     "test_standby.py -k cancelled_wait_at_prepare"),
    ("commit-before-durable", "coordinator/host.c",
     "while (host->ticket_count > 0 && host->tickets[host->ticket_first].end <= host->fence.position) {",
     "while (host->ticket_count > 0) {",
     "test_log_failures.py -k no_commit_leaves",
     "    host_force(host);\n    stats_phase(STATS_PREPARE", "    host_force(host);\n    event_active(host->log_event, EV_READ, 1);\n    stats_phase(STATS_PREPARE"),
    ("old-logs-are-served", "participant/core/link.c",
     "    if (mismatch != NULL && !by_operator) {", "    if (mismatch != NULL && !by_operator && a->number == 9999) {",
     "test_restored_coordinator.py -k old_copy or new_log"),
    ("name-is-enough", "participant/core/agent_internal.h",
     "#define LISTING_FRESH_US UINT64_C(100000)", "#define LISTING_FRESH_US UINT64_C(100000000000)",
     "test_hazard.py -k before_the_decision_arrives"),
    ("no-tombstone", "participant/pg/sql.h",
     "\"insert into lockstep.outcome as o (gtid, participant, state) values ($1, $2, 'aborted')\"",
     "\"insert into lockstep.outcome as o (gtid, participant, state) select 'x' || $1, $2, 'aborted'\"",
     "test_one_participant.py -k tombstone or zombie"),
    ("open-decisions-are-forgotten", "coordinator/core/recover.c",
     "    struct engine_event event = {.kind = EV_RECOVER_TXN, .now_us = now_us};\n    event.recover_txn.epoch = d->epoch;\n"
     "    event.recover_txn.sequence = d->sequence;\n    event.recover_txn.app",
     "    if (c->n_branches > 0) return;\n    struct engine_event event = {.kind = EV_RECOVER_TXN, .now_us = now_us};\n"
     "    event.recover_txn.epoch = d->epoch;\n    event.recover_txn.sequence = d->sequence;\n    event.recover_txn.app",
     "test_commit.py -k known_after_a_restart"),
    ("keys-are-not-logged", "coordinator/host.c",
     "record.has_key_digest = record.has_document_digest = true;", "record.has_key_digest = record.has_document_digest = false;",
     "test_client_gone.py -k restart"),
    ("live-transactions-are-swept", "coordinator/core/inquire.c",
     "    case TXN_PREPARING:\n    case TXN_LOGGING:\n        return VERDICT_IS_PENDING;",
     "    case TXN_PREPARING:\n    case TXN_LOGGING:\n        return VERDICT_IS_ABORT;",
     "test_hazard.py -k never_swept"),
    ("strangers-are-committed", "coordinator/core/inquire.c",
     "        if (is_listed_branch(&ids[i], event)) {", "        if (is_listed_branch(&ids[i], event) || ids[i].participant == event->inquiry.participant) {",
     "test_hazard.py -k prepared_again_after"),
    ("everybody-sees-everything", "coordinator/api/answer.c",
     "return conn_is_admin(conn) || (app != 0 && app == conn->app);", "return conn_is_admin(conn) || app != 0 || conn->app != 0;",
     "test_tls.py -k only_its_own"),
    ("agents-are-not-asked-who-they-are", "coordinator/agents.c",
     "if (identity->role != TLS_ROLE_AGENT || strcmp(identity->name, hello->participant) != 0) {", "if (identity->role != TLS_ROLE_AGENT) {",
     "test_tls.py -k speaks_only_for_itself"),
]


def copy_sources(target):
    names = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, names):
        source = os.path.join(ROOT, name)
        if os.path.isfile(source):
            os.makedirs(os.path.dirname(os.path.join(target, name)), exist_ok=True)
            shutil.copy2(source, os.path.join(target, name))


def build(source, target):
    wanted = [os.path.join(target, name) for name in PROGRAMS]
    return subprocess.run(["make", "-s", "-C", source, f"BUILD={target}", "-j2", *wanted], capture_output=True, text=True, check=False)


def run_tests(source, target, selection):
    file, *rest = selection.split(" -k ")
    argv = ["/usr/bin/python3", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--tb=line", os.path.join(source, "tests", "pg", file)]
    if rest:
        argv += ["-k", rest[0]]
    env = dict(os.environ, LOCKSTEP_BUILD=target)
    return subprocess.run(argv, capture_output=True, text=True, check=False, env=env, cwd=source)


def plant(source, bug):
    """Changes the copy; the original text, or None when it is not there exactly once."""
    path = os.path.join(source, bug[1])
    with open(path, encoding="utf-8") as file:
        text = file.read()
    changed = text
    for old, new in zip((bug[2], *bug[5:6]), (bug[3], *bug[6:7])):
        if text.count(old) != 1:
            return None
        changed = changed.replace(old, new)
    with open(path, "w", encoding="utf-8") as file:
        file.write(changed)
    return text


def try_bug(source, target, bug):
    text = plant(source, bug)
    if text is None:
        return "drifted: the text to change is not there exactly once"
    try:
        made = build(source, target)
        if made.returncode != 0:
            return "drifted: does not build: " + made.stderr.strip().splitlines()[-1]
        done = run_tests(source, target, bug[4])
        if done.returncode == 1:
            failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
            if not failed:
                return "NOT FOUND: the system did not come up: " + done.stdout.strip().splitlines()[-1]
            return "found by " + failed[0].split("::")[-1].split(" - ")[0]
        return f"NOT FOUND by {bug[4]}: {done.stdout.strip().splitlines()[-1:]}"
    finally:
        with open(os.path.join(source, bug[1]), "w", encoding="utf-8") as file:
            file.write(text)


def main():
    parser = argparse.ArgumentParser(description="Plants bugs and expects the tests on real servers to find them.")
    parser.add_argument("--only", default="", help="bugs whose name contains this")
    parser.add_argument("--keep", action="store_true", help="keep the folder of the copy and its build")
    options = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="lockstep-teeth-")
    os.chmod(folder, 0o755)
    source, target = os.path.join(folder, "src"), os.path.join(folder, "build")
    bad = 0
    try:
        copy_sources(source)
        made = build(source, target)
        if made.returncode != 0:
            print(made.stderr)
            return 1
        bugs = [bug for bug in BUGS if options.only in bug[0]]
        for bug in bugs:
            started = time.monotonic()
            said = try_bug(source, target, bug)
            bad += not said.startswith("found")
            print(f"{bug[0]}: {said} ({time.monotonic() - started:.0f} s)", flush=True)
        print(f"{len(bugs) - bad} of {len(bugs)} planted bugs found")
    finally:
        if options.keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
