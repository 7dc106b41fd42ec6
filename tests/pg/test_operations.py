"""Hazard: what an operator relies on does not hold: an orderly stop, configuration errors with their place, health, metrics.

Method: signals, bad configuration files, /livez, /readyz, /metrics in states that differ.
Seen if wrong: a transaction cut off by SIGTERM; an error without file, line or key; "ready" when it is not.
"""

import json
import os
import signal
import socket
import subprocess

import pytest

from harness.base import folder, wait_until
from harness.programs import Agent, Coordinator, authority, environment, program, yaml
from harness.system import fresh, put, step

NAMES = ("orders", "balance")


def test_sigterm_drains(proxied):
    """What runs ends well and is answered; what comes is 503; then status 0."""
    key = fresh()
    rule = proxied.pg["orders"].at("prepare transaction", "hold")
    future = proxied.app.run_later(put(key, *NAMES))
    rule.wait_hit()
    proxied.coordinator.process.send_signal(signal.SIGTERM)

    def refused():
        try:
            return proxied.app.run(put(fresh(), *NAMES), timeout=5).status == 503
        except OSError:
            return True  # the listener is closed already: nothing new is taken either way
    wait_until(refused, 5, "new transactions are refused")
    rule.release()
    assert future.result().status == 200
    assert proxied.coordinator.wait_exit() == 0, proxied.coordinator.log_text()
    proxied.heal()
    proxied.agree(key, NAMES, "committed")


def test_sigterm_twice_ends_at_once(proxied):
    key = fresh()
    rule = proxied.pg["orders"].at("prepare transaction", "hold")
    future = proxied.app.run_later(put(key, *NAMES))
    rule.wait_hit()
    proxied.coordinator.process.send_signal(signal.SIGTERM)
    wait_until(lambda: proxied.coordinator.log_has("drain") or proxied.coordinator.log_has("stopping"), 5, "it says that it stops")
    proxied.coordinator.process.send_signal(signal.SIGTERM)
    proxied.coordinator.wait_exit(5)
    rule.release()
    future.exception()
    proxied.heal()
    proxied.agree(key, NAMES, None)


def test_agent_sigterm_finishes_what_runs(proxied):
    key = fresh()
    rule = proxied.pg["orders"].at("commit prepared", "hold")
    future = proxied.app.run_later(put(key, *NAMES), wait="decided")
    rule.wait_hit()
    proxied.agents["orders"].process.send_signal(signal.SIGTERM)
    rule.release()
    assert proxied.agents["orders"].wait_exit() == 0
    assert future.result().status == 200
    proxied.heal()
    proxied.agree(key, NAMES, "committed")


def test_ready_and_live(shared):
    assert shared.admin.request("GET", "/livez").status == 200
    assert shared.admin.request("GET", "/readyz").status == 200


def test_sighup_reloads_limits(shared):
    coordinator = shared.coordinator
    coordinator.config.setdefault("limits", {})["statements"] = 3
    coordinator.write_config()
    try:
        coordinator.process.send_signal(signal.SIGHUP)
        wait_until(lambda: shared.app.run([step("orders", "select 1")] * 4).status in (400, 413), 10, "the new limit holds")
        assert shared.app.run([step("orders", "select 1")] * 3).status == 200
    finally:
        del coordinator.config["limits"]
        coordinator.write_config()
        coordinator.process.send_signal(signal.SIGHUP)
        wait_until(lambda: shared.app.run([step("orders", "select 1")] * 4).status == 200, 10, "the old limit is back")


def test_sighup_with_a_bad_file_keeps_the_old(shared):
    with open(shared.coordinator.file, "a", encoding="utf-8") as file:
        file.write("nonsense: 1\n")
    shared.coordinator.process.send_signal(signal.SIGHUP)
    wait_until(lambda: shared.coordinator.log_has("nonsense"), 10, "the error is logged")
    shared.coordinator.check_alive()
    shared.coordinator.write_config()
    shared.alive()


# ---- --check-config

def check(binary, text, env=None):
    path = os.path.join(folder.make("cc"), "conf.yaml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    done = subprocess.run([program(binary), "--config", path, "--check-config"], env=environment(env), capture_output=True, text=True,
                          timeout=20, check=False)
    return done, path


@pytest.fixture(scope="module")
def good():
    coordinator = Coordinator(authority(), "shop")
    return yaml(coordinator.config) + "\n"


def test_good_configuration(good):
    done, _ = check("lockstepd", good)
    assert done.returncode == 0, done


@pytest.mark.parametrize("line,key,value", [
    ("colour: red", "colour", "colour"), ("limits: {colour: 1}", "limits.colour", "colour"), ("limits: {statements: many}", "limits.statements", "many"),
    ("limits: {statements: 0}", "limits.statements", "0"), ("limits: {body: 5 apples}", "limits.body", "5 apples"),
    ("limits: {deadline: 5}", "limits.deadline", "5"), ("limits: {deadline: 5 s x}", "limits.deadline", "5 s x"),
    ("limits: {participants: 65}", "limits.participants", "65"), ("limits: {statements: 010}", "limits.statements", "010"),
    ("limits: 5", "limits", ""), ("log: {segment_size: 1KiB}", "log.segment_size", "1KiB"), ("faults: perhaps", "faults", "perhaps"),
    ("name: again", "name", ""), ("diag: {level: loud}", "diag.level", "loud"), ("limits: {deadline: }", "limits.deadline", ""),
    ("limits: [1, 2]", "limits", ""), ("log: {retention: -5s}", "log.retention", "-5s")])
def test_error_has_file_line_and_key(good, line, key, value):
    kept = good if line.startswith("name") else "".join(f"{had}\n" for had in good.splitlines() if not had.startswith(line.split(":")[0] + ":"))
    text = kept + line + "\n"
    done, path = check("lockstepd", text)
    assert done.returncode == 78, done
    number = text.count("\n")
    assert f"{path}:" in done.stderr, done
    assert key in done.stderr and value in done.stderr, done
    if line.split(":")[0] not in ("diag", "faults"):
        assert f"{path}:{number}" in done.stderr, f"line {number} is not named: {done.stderr}"


@pytest.mark.parametrize("text", ["", "just words", "- a\n- b\n", "a: [", "a: b: c", "\t\tx: 1", "name: &a x\ndata: *a\n", "%YAML 9.9\n---\na: 1", "a: 1\n---\nb: 2\n"])
def test_not_a_configuration(text):
    done, path = check("lockstepd", text)
    assert done.returncode == 78, done
    assert path in done.stderr, done


def test_environment_overrides(good):
    done, _ = check("lockstepd", good, {"LOCKSTEP_LIMITS_STATEMENTS": "0"})
    assert done.returncode == 78 and "LOCKSTEP_LIMITS_STATEMENTS" in done.stderr, done


def test_missing_file():
    done = subprocess.run([program("lockstepd"), "--config", "/nonexistent/x.yaml", "--check-config"], env=environment(), capture_output=True,
                          text=True, timeout=20, check=False)
    assert done.returncode == 78 and "/nonexistent/x.yaml" in done.stderr, done


@pytest.mark.parametrize("binary", ["lockstepd", "lockstep-agent"])
def test_no_memory_is_not_a_bad_configuration(binary):
    """78 is not tried again by the service manager: a shortage of memory is 1. Less and less address space, until the buffer of the file finds none."""
    coordinator = Coordinator(authority(), "shop")
    daemon = coordinator if binary == "lockstepd" else Agent("orders", coordinator, "host=/tmp user=agent dbname=x")
    daemon.write_config()

    def tried(limit):
        return subprocess.run(["prlimit", f"--as={limit}", program(binary), "--config", daemon.file, "--check-config"], env=environment(),
                              capture_output=True, text=True, timeout=20, check=False)
    step_bytes, limit = 128 << 10, 512 << 20
    good = tried(limit)
    if good.returncode != 0 and "AddressSanitizer" in good.stderr:
        pytest.skip("a sanitizer's shadow does not fit into any limit")
    assert good.returncode == 0, good
    low = 0
    while limit - low > step_bytes:  # the least with which it is good
        middle = (limit + low) // 2
        low, limit = (low, middle) if tried(middle).returncode == 0 else (middle, limit)
    done = [tried(limit - step_bytes * i) for i in range(1, 5)]
    assert {one.returncode for one in done} == {1} and all("memory" in one.stderr for one in done), done


@pytest.mark.parametrize("binary", ["lockstepd", "lockstep-agent"])
def test_wrong_usage(binary):
    for arguments in (["--nonsense"], ["x"]):
        done = subprocess.run([program(binary), *arguments], env=environment(), capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 2, done


@pytest.mark.parametrize("binary", ["lockstepd", "lockstep-agent"])
def test_failpoint_without_permission_is_refused(binary):
    """LOCKSTEP_FAIL set and faults not enabled: 78, so that production cannot be crashed by its environment."""
    coordinator = Coordinator(authority(), "shop")
    daemon = coordinator if binary == "lockstepd" else Agent("orders", coordinator, "host=/nowhere dbname=orders user=lockstep_agent")
    path = os.path.join(folder.make("cc"), "conf.yaml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(yaml({**daemon.config, "faults": "disabled"}) + "\n")
    point = "dlog_before_write" if binary == "lockstepd" else "agent_lock_taken"
    done = subprocess.run([program(binary), "--config", path], env=environment({"LOCKSTEP_FAIL": f"{point}=kill"}),
                          capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 78 and "LOCKSTEP_FAIL" in done.stderr, done
    listed = subprocess.run([program(binary), "--list-failpoints"], env=environment(), capture_output=True, text=True, timeout=20, check=False)
    assert listed.returncode == 0 and len(listed.stdout.splitlines()) >= 10, listed


@pytest.mark.parametrize("binary", ["lockstepd", "lockstep-agent"])
def test_sample_configuration_is_current(binary):
    """conf/<program>.yaml is what --help-config prints."""
    printed = subprocess.run([program(binary), "--help-config"], env=environment(), capture_output=True, text=True, timeout=20, check=True)
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    with open(os.path.join(root, "conf", f"{binary}.yaml"), encoding="utf-8") as file:
        assert file.read() == printed.stdout


# ---- metrics and logs

def test_metrics_parse(shared):
    shared.alive()
    metrics = shared.admin.metrics()
    for (name, labels) in metrics.samples:
        base = name
        for suffix in ("_bucket", "_sum", "_count"):
            if name.endswith(suffix) and metrics.types.get(name[:-len(suffix)]) == "histogram":
                base = name[:-len(suffix)]
        assert base in metrics.types and base in metrics.helps, f"{name} has no TYPE or HELP"
        assert name.startswith("lockstepd_"), name
        if metrics.types[base] == "counter":
            assert name.endswith("_total"), name
        if metrics.types[base] == "histogram":
            assert base.endswith("_seconds"), name
        assert all(not value.startswith("shop.") for _, value in labels), f"a gtid as a label: {name}{labels}"
    for name, kind in metrics.types.items():
        if kind == "histogram":
            buckets = [(float(dict(labels)["le"]), value) for (sample, labels), value in metrics.samples.items() if sample == name + "_bucket"]
            buckets.sort()
            assert buckets and buckets[-1][0] == float("inf") and [b[1] for b in buckets] == sorted(b[1] for b in buckets), name


def test_counters_count(shared):
    before = shared.admin.metrics()
    assert shared.app.run(put(fresh(), *NAMES)).status == 200
    assert shared.app.run([step("orders", "select 1/0"), step("balance", "select 1")]).status == 409
    after = shared.admin.metrics()
    for outcome in ("committed", "aborted"):
        assert after.value("lockstepd_transactions_total", outcome=outcome) == before.value("lockstepd_transactions_total", outcome=outcome) + 1


def test_log_lines_have_the_gtid_and_no_sql(shared):
    key = fresh("never-in-a-log")
    refused = shared.app.run(put(key, *NAMES) + [step("orders", "insert into item(k, v) values ($1, -1)", key)], key="secret-" + key)
    for daemon in (shared.coordinator, *shared.agents.values()):
        text = daemon.log_text()
        assert key not in text, "an argument or key was logged"
        assert "insert into item" not in text, "SQL was logged"
    assert refused.status == 409


def test_json_log():
    coordinator = Coordinator(authority(), "shop", settings={"diag": {"format": "json"}}).start()
    coordinator.stop()
    lines = coordinator.log_text().splitlines()
    assert lines
    for line in lines:
        assert {"time", "level", "message"} <= set(json.loads(line)), line


def test_sd_notify():
    """READY=1 once it serves, STOPPING=1 at the end."""
    path = os.path.join(folder.make("sd"), "s")
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(path)
    receiver.settimeout(10)
    coordinator = Coordinator(authority(), "shop")
    coordinator.spawn(env={"NOTIFY_SOCKET": path})
    seen = []
    while not any("READY=1" in text for text in seen):
        seen.append(receiver.recv(4096).decode())
    coordinator.wait_ready()
    coordinator.stop()
    receiver.setblocking(False)
    try:
        while True:
            seen.append(receiver.recv(4096).decode())
    except BlockingIOError:
        pass
    receiver.close()
    assert any("STOPPING=1" in text for text in seen), seen


def test_port_zero_and_ports_file():
    coordinator = Coordinator(authority(), "shop", settings={"api": {"listen": "127.0.0.1:0"}, "agents": {"listen": "127.0.0.1:0"}}).start()
    ports = {name: coordinator.address(name) for name in ("api", "agents")}
    assert all(port > 0 for _, port in ports.values()) and len(set(ports.values())) == 2
    assert coordinator.app("checkout").request("GET", "/livez").status == 200
    assert coordinator.stop() == 0
