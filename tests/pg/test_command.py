"""Hazard: a script takes the command's exit status for something it does not say.

Method: every outcome once through the real command: committed, aborted, refused, unreachable, unknown, hazard (test_hazard.py), usage.
Seen if wrong: 0 for anything but a commit, text on stdout that is no JSON with -o json.
"""

import json
import os

import pytest

from harness.api import background
from harness.base import folder, wait_until
from harness.programs import command
from harness.system import fresh, put, step

NAMES = ("orders", "balance")


def document(steps, **more):
    path = os.path.join(folder.make("doc"), "t.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"mode": "2pc", "steps": steps, **more}, file)
    return path


def tls(system, name="checkout", role="app"):
    """Options that make the command an application."""
    ca, certificate, key = system.authority.files(f"lockstep://{role}/{name}")
    port = system.coordinator.address("api")[1]
    return ("--url", f"https://localhost:{port}", "--ca", ca, "--cert", certificate, "--cert-key", key)


def run(system, *arguments, **options):
    return command("run", *arguments, *tls(system), **options)


def test_committed(shared):
    key = fresh()
    done = run(shared, document(put(key, *NAMES)))
    assert done.returncode == 0, done
    assert "committed" in done.stdout
    assert shared.where(key) == set(NAMES)


def test_json(shared):
    done = run(shared, document(put(fresh(), *NAMES)), "-o", "json")
    assert done.returncode == 0, done
    answer = json.loads(done.stdout)
    assert answer["state"] == "committed" and answer["applied"] is True and answer["gtid"], answer


def test_from_stdin_with_rows(shared):
    key = fresh()
    done = run(shared, "-", stdin=json.dumps({"mode": "2pc", "steps": put(key, "balance") + [step("orders", "select 42 as answer")]}))
    assert done.returncode == 0 and "42" in done.stdout and "answer" in done.stdout, done


def test_aborted(shared):
    key = fresh()
    done = run(shared, document(put(key, *NAMES) + [step("orders", "insert into item(k, v) values ($1, -1)", fresh())]))
    assert done.returncode == 4, done
    assert "23514" in done.stdout + done.stderr and "orders" in done.stdout + done.stderr
    assert shared.where(key) == set()


@pytest.mark.parametrize("steps", [[], [step("nowhere", "select 1")], [step("orders", "commit")]])
def test_refused(shared, steps):
    done = run(shared, document(steps))
    assert done.returncode == 1 and done.stderr.strip(), done


def test_key_is_repeatable(shared):
    key, word = fresh(), fresh("idem")
    path = document(put(key, *NAMES))
    first = run(shared, path, "--key", word, "-o", "json")
    again = run(shared, path, "--key", word, "-o", "json")
    assert (first.returncode, again.returncode) == (0, 0)
    assert json.loads(first.stdout)["gtid"] == json.loads(again.stdout)["gtid"]
    assert shared.count("orders", key) == 1
    other = run(shared, document(put(fresh(), *NAMES)), "--key", word)
    assert other.returncode == 1, other


def test_key_survives_a_crash_of_the_coordinator(proxied):
    """With --key the command goes on until the outcome is known, over the death of the coordinator."""
    key, word = fresh(), fresh("idem")
    rule = proxied.pg["orders"].at("prepare transaction", "hold")
    future = background.submit(run, proxied, document(put(key, *NAMES)), "--key", word, "-o", "json")
    rule.wait_hit()
    proxied.coordinator.kill()
    rule.release()
    proxied.heal()
    done = future.result()
    assert done.returncode == 0, done
    proxied.agree(key, NAMES, "committed")


def test_without_key_the_outcome_is_unknown(proxied):
    key = fresh()
    rule = proxied.pg["orders"].at("prepare transaction", "hold")
    future = background.submit(run, proxied, document(put(key, *NAMES)))
    rule.wait_hit()
    proxied.coordinator.kill()
    done = future.result()
    assert done.returncode == 5, done
    rule.release()
    proxied.heal()
    proxied.agree(key, NAMES, "aborted")


def test_unreachable(shared):
    done = command("run", document(put(fresh(), *NAMES)), "--url", f"unix:{folder.path}/nobody", "--timeout", "2s")
    assert done.returncode == 3, done


def test_show_wait_list(shared):
    answer = shared.app.run(put(fresh(), *NAMES))
    for arguments in (("tx", "show", answer.gtid), ("tx", "wait", answer.gtid), ("tx", "wait", answer.gtid, "--for", "decided")):
        done = command(*arguments, coordinator=shared.coordinator)
        assert done.returncode == 0 and "committed" in done.stdout, done
        done = command(*arguments, "-o", "json", coordinator=shared.coordinator)
        assert json.loads(done.stdout)["state"] == "committed", done
    aborted = shared.app.run(put(fresh(), *NAMES) + [step("orders", "select 1/0")])
    assert command("tx", "show", aborted.gtid, coordinator=shared.coordinator).returncode == 4
    assert command("tx", "show", "shop.aaaaaaaaaaaa.1.1", coordinator=shared.coordinator).returncode == 1
    done = command("tx", "list", "-o", "json", coordinator=shared.coordinator)
    assert done.returncode == 0 and isinstance(json.loads(done.stdout), (dict, list)), done


def test_pending_is_5(proxied):
    """Not decided within the time: exit status 5, the transaction goes on."""
    key = fresh()
    rule = proxied.pg["orders"].at("prepare transaction", "hold")
    future = proxied.app.run_later(put(key, *NAMES))
    rule.wait_hit()
    gtid = wait_until(lambda: [t for t in (proxied.admin.list(state="pending").body or {}).get("transactions", [])], 5, "it is listed")[0]["gtid"]
    done = command("tx", "wait", gtid, "--timeout", "500ms", coordinator=proxied.coordinator)
    assert done.returncode == 5, done
    rule.release()
    assert future.result().status == 200


def test_abort_by_command(proxied):
    key = fresh()
    rule = proxied.pg["orders"].at("prepare transaction", "hold")
    future = proxied.app.run_later(put(key, *NAMES))
    rule.wait_hit()
    gtid = wait_until(lambda: [t for t in (proxied.admin.list(state="pending").body or {}).get("transactions", [])], 5, "it is listed")[0]["gtid"]
    done = command("tx", "abort", gtid, coordinator=proxied.coordinator)
    rule.release()
    answer = future.result()
    assert answer.status == 409 and answer.state == "aborted", answer
    assert done.returncode in (4, 5), done
    proxied.heal()
    proxied.agree(key, NAMES, "aborted")


def test_abort_of_a_committed_one(shared):
    """After the decision nothing aborts."""
    key = fresh()
    gtid = shared.app.run(put(key, *NAMES)).gtid
    done = command("tx", "abort", gtid, coordinator=shared.coordinator)
    assert done.returncode == 0 and "committed" in done.stdout, done
    assert shared.where(key) == set(NAMES)


def test_participants(shared):
    done = command("participants", coordinator=shared.coordinator)
    assert done.returncode == 0 and all(name in done.stdout for name in shared.db), done
    done = command("participants", "-o", "json", coordinator=shared.coordinator)
    assert done.returncode == 0 and json.loads(done.stdout), done


@pytest.mark.parametrize("arguments", [(), ("nonsense",), ("run",), ("run", "a", "b"), ("tx",), ("tx", "nonsense"), ("tx", "show"), ("run", "x", "--nonsense"),
                                       ("tx", "wait", "x", "--for", "ever"), ("tx", "list", "--limit", "x"), ("log",), ("log", "nonsense"),
                                       ("tx", "list", "-o", "xml"), ("participants", "nonsense"), ("init-participant", "--nonsense")])
def test_usage(arguments):
    done = command(*arguments)
    assert done.returncode == 2 and done.stderr.strip() and not done.stdout, done


@pytest.mark.parametrize("arguments", [("--help",), ("run", "--help"), ("tx", "--help"), ("participants", "--help"), ("log", "--help"),
                                       ("init-participant", "--help"), ("pki", "--help"), ("--version",)])
def test_help(arguments):
    done = command(*arguments)
    assert done.returncode == 0 and done.stdout and not done.stderr, done


def test_log_offline(shared):
    """verify, dump and stat read the log of a running coordinator without touching it, and of a stopped one."""
    shared.app.run(put(fresh(), *NAMES))
    for verb in ("verify", "dump", "stat"):
        done = command("log", verb, shared.coordinator.data)
        assert done.returncode == 0 and done.stdout, done
        done = command("log", verb, shared.coordinator.data, "-o", "json")
        assert done.returncode == 0, done
        for line in done.stdout.splitlines() if verb == "dump" else [done.stdout]:
            json.loads(line)


def test_init_participant_twice_and_applied(shared):
    """Running the SQL again changes nothing; `--apply` does it itself."""
    for participant in ("orders", "coupons"):
        shared.init_participant(participant)
    shared.alive()


# ------------------------------------------------------------------- sagas

BACK = {"undo": {"sql": "select 1"}}


def saga(steps, **more):
    return document(steps, **{"mode": "saga", **more})


def local(system, *arguments):
    """As the administrator of the Unix socket."""
    return command(*arguments, "--url", f"unix:{system.coordinator.socket}")


def test_saga_completed_and_shown(shared):
    key = fresh()
    done = run(shared, saga(put(key, "balance") + [step("orders", "select 7 as seven")]))
    assert done.returncode == 0 and done.stdout.startswith("completed") and "seven" in done.stdout, done
    name = done.stdout.split()[1]
    shown = command("saga", "show", name, *tls(shared))
    assert shown.returncode == 0 and "completed" in shown.stdout and "balance" in shown.stdout, shown
    assert json.loads(command("saga", "show", name, "-o", "json", *tls(shared)).stdout)["state"] == "completed"
    assert command("saga", "wait", name, *tls(shared)).returncode == 0
    assert command("saga", "cancel", name, *tls(shared)).returncode != 4, "a completed saga is not cancelled"


def test_saga_compensated(shared):
    done = run(shared, saga([step("orders", "select 1", **BACK), step("balance", "select 1/0", **BACK)]))
    assert done.returncode == 4 and "compensated" in done.stdout and "22012" in done.stdout, done


def test_saga_begun(shared):
    done = run(shared, saga([step("balance", "select 1")]), "--wait", "decided", "--key", fresh("idem"))
    assert done.returncode == 0, done


def test_saga_stuck_and_decided_about(shared):
    done = run(shared, saga([step("balance", "select 1/0", attempts=1)]))
    assert done.returncode == 5 and "stuck" in done.stdout, done
    name = done.stdout.split()[1]
    assert name in command("saga", "list", "--state", "stuck", *tls(shared)).stdout
    listed = local(shared, "dlq", "list")
    assert listed.returncode == 0 and name in listed.stdout and "22012" in listed.stdout, listed
    shown = local(shared, "dlq", "show", name)
    assert shown.returncode == 5 and "failed attempts: 1" in shown.stdout, shown
    assert '"sql": "select 1/0"' in shown.stdout, "whoever decides is shown what was to be done"
    assert local(shared, "dlq", "show", "nothing").stderr.startswith("lockstep dlq show: ")
    assert command("dlq", "skip", name, *tls(shared)).returncode == 1, "an application may not"
    assert local(shared, "dlq", "compensate", name).returncode == 1, "there is no way back"
    assert local(shared, "dlq", "skip", name, "--reason", "done by hand").returncode == 0
    assert local(shared, "saga", "wait", name).returncode == 0
    dump = command("log", "dump", shared.coordinator.data, "-o", "json")
    audits = [json.loads(line) for line in dump.stdout.splitlines() if '"audit"' in line]
    assert [a for a in audits if a["act"] == "saga-skip" and a["subject"] == name and a["reason"] == "done by hand"], audits


def test_saga_refused(shared):
    done = run(shared, saga([step("balance", "select 1"), step("orders", "select 1", **BACK)]))
    assert done.returncode == 1 and "steps[0].undo" in done.stderr, done
    assert command("saga", "show", *tls(shared)).returncode == 2
    assert command("dlq", "dance", *tls(shared)).returncode == 2
