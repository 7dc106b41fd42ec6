"""Hazard: somebody without the right certificate takes part, or learns of others' transactions.

Method: certificates that are missing, of another authority, of another role, expired, without or with two names; TLS 1.2.
Seen if wrong: any answer but 401, 403 or 404 (or no connection where TLS itself refuses).
"""

import datetime
import os
import signal
import socket
import ssl
import subprocess

import pytest

from harness.api import App
from harness.base import wait_until
from harness.pki import DAY, Authority
from harness.programs import Agent, Coordinator
from harness.proxy import wire
from harness.system import fresh, put

NAMES = ("orders", "balance")


@pytest.fixture(scope="module")
def stranger():
    return Authority("another authority")


def bad_files(system, stranger, kind):
    own = system.authority
    if kind == "none":
        return (own.ca, None, None)
    if kind == "other authority":
        return (own.ca, *stranger.files("lockstep://app/checkout")[1:])
    if kind == "expired":
        return own.issue(fresh("expired"), ["lockstep://app/checkout"], start=-10 * DAY, end=-datetime.timedelta(minutes=5))
    if kind == "not yet valid":
        return own.issue(fresh("early"), ["lockstep://app/checkout"], start=DAY, end=2 * DAY)
    if kind == "no uri":
        return own.issue(fresh("nameless"), [])
    if kind == "two uris":
        return own.issue(fresh("two"), ["lockstep://app/checkout", "lockstep://admin/root"])
    if kind == "bad uri":
        return own.issue(fresh("bad"), ["lockstep://app/check/out"])
    if kind == "unknown role":
        return own.issue(fresh("role"), ["lockstep://god/checkout"])
    raise AssertionError(kind)


KINDS = ["none", "other authority", "expired", "not yet valid", "no uri", "two uris", "bad uri", "unknown role"]


@pytest.mark.parametrize("kind", KINDS)
def test_refused_with_the_reason(shared, stranger, kind):
    key = fresh()
    answer = App(shared.coordinator, bad_files(shared, stranger, kind)).run(put(key, *NAMES))
    assert answer.status == 401, answer
    assert answer.body and len(answer.raw) > 20, answer
    assert shared.where(key) == set()


@pytest.mark.parametrize("role,status", [("app", 200), ("admin", 200), ("agent", 403), ("coordinator", 403), ("monitor", 403)])
def test_who_may_run(shared, role, status):
    name = "orders" if role == "agent" else "checkout"
    answer = shared.coordinator.app(name, role).run(put(fresh(), *NAMES))
    if role == "admin":
        assert answer.status in (200, 403, 409), answer  # an admin may run only where the agents give it a database role
    else:
        assert answer.status == status, answer


def test_app_sees_only_its_own(shared):
    mine = shared.app.run(put(fresh(), *NAMES)).gtid
    one = shared.app.run(put(fresh(), "orders")).gtid
    other = shared.coordinator.app("billing")
    for gtid in (mine, one):
        assert shared.app.get(gtid).status == 200
        assert other.get(gtid).status in (403, 404)
        assert gtid not in other.list().raw.decode()
        assert shared.admin.get(gtid).status == 200
    shared.coordinator.restart()
    shared.wait_ready()
    for gtid in (mine, one):
        assert other.get(gtid).status in (403, 404)


def test_app_may_not_list_participants_or_metrics_of_others(shared):
    assert shared.coordinator.app("watch", "monitor").request("GET", "/metrics").status == 200
    assert shared.app.request("GET", "/metrics").status in (200, 403)


def test_identity_without_database_role_is_refused(shared):
    key = fresh()
    answer = shared.coordinator.app("unknown-app").run(put(key, *NAMES))
    assert answer.status in (403, 409), answer
    assert shared.where(key) == set()


@pytest.mark.parametrize("listener", ["api", "agents"])
def test_tls_1_2_is_refused(shared, listener):
    files = shared.app.files
    context = ssl.create_default_context(cafile=files[0])
    context.check_hostname = False
    context.load_cert_chain(*files[1:])
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        with socket.create_connection(shared.coordinator.address(listener), timeout=5) as raw:
            context.wrap_socket(raw)


@pytest.mark.parametrize("listener", ["api", "agents"])
def test_plain_text_is_refused(shared, listener):
    with socket.create_connection(shared.coordinator.address(listener), timeout=5) as raw:
        raw.settimeout(10)
        raw.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        try:
            answer = raw.recv(1000)
        except ConnectionError:
            answer = b""
    assert b"200" not in answer, answer


def frame_exchange(system, files, *frames, expect=None):
    """Speaks to the agents' listener by hand; the frames it answers until it closes."""
    context = ssl.create_default_context(cafile=system.authority.ca)
    context.check_hostname = False
    if files[1]:
        context.load_cert_chain(*files[1:])
    answers = []
    with socket.create_connection(system.coordinator.address("agents"), timeout=10) as raw:
        try:
            with context.wrap_socket(raw) as link:
                for frame in frames:
                    payload = frame if isinstance(frame, bytes) else frame.SerializeToString()
                    link.sendall(len(payload).to_bytes(4, "big") + payload)
                file = link.makefile("rb")
                while True:
                    head = file.read(4)
                    if len(head) < 4:
                        break
                    frame = wire().Frame()
                    frame.ParseFromString(file.read(int.from_bytes(head, "big")))
                    if frame.WhichOneof("body") not in ("ping", "pong"):
                        answers.append(frame)
                    if expect and frame.WhichOneof("body") == expect:
                        break
        except (ssl.SSLError, OSError):
            pass
    return answers


def hello(name, coordinator="shop"):
    frame = wire().Frame()
    body = frame.hello
    body.version, body.version_min, body.participant, body.coordinator, body.nonce = 1, 1, name, coordinator, "0011223344556677"
    body.system_id, body.timeline, body.insert_lsn, body.credits = 7, 1, 1, 5
    body.server_version, body.database = "150000", "x"
    return frame


@pytest.mark.parametrize("kind", KINDS)
def test_agents_listener_refuses(shared, stranger, kind):
    files = bad_files(shared, stranger, kind)
    answers = frame_exchange(shared, files, hello("intruder"))
    assert all(answer.WhichOneof("body") == "error" for answer in answers), answers
    assert "intruder" not in shared.admin.participants().raw.decode()


def test_app_certificate_is_no_agent(shared):
    answers = frame_exchange(shared, shared.app.files, hello("intruder"))
    assert all(answer.WhichOneof("body") == "error" for answer in answers), answers


def test_agent_speaks_only_for_itself(shared):
    """The certificate says orders, the frame says balance."""
    answers = frame_exchange(shared, shared.agents["orders"].files, hello("balance"))
    assert all(answer.WhichOneof("body") == "error" for answer in answers), answers
    shared.alive()


@pytest.mark.parametrize("payload", [b"", b"\xff" * 100, b"\x12\x00", os.urandom(5000)], ids=["empty", "junk", "half", "random"])
def test_junk_frames(shared, payload):
    frame_exchange(shared, shared.agents["orders"].files, payload)
    shared.wait_ready()
    shared.alive()


def test_frame_larger_than_allowed(shared):
    frame_exchange(shared, shared.authority.files("lockstep://agent/huge"), b"x" * ((1 << 20) + 1))
    shared.alive()


def test_other_than_hello_first(shared):
    frame = wire().Frame()
    frame.ready.SetInParent()
    answers = frame_exchange(shared, shared.authority.files("lockstep://agent/hasty"), frame)
    assert all(answer.WhichOneof("body") == "error" for answer in answers), answers


def test_unix_socket_is_the_administrators(shared):
    """Peer credentials: our own user may; the socket's mode keeps others out."""
    assert shared.admin.participants().status == 200
    assert os.stat(shared.coordinator.socket).st_mode & 0o077 == 0
    if os.geteuid() == 0:
        done = subprocess.run(["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "/usr/bin/python3", "-c",
                               f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({shared.coordinator.socket!r})"],
                              capture_output=True, check=False)
        assert done.returncode != 0 and b"PermissionError" in done.stderr, done


def test_certificates_are_read_again_on_sighup(shared):
    """A new certificate of the coordinator is used for new connections, without a restart and without losing links."""
    def serial():
        with socket.create_connection(shared.coordinator.address("api"), timeout=5) as raw:
            with shared.app.context.wrap_socket(raw) as link:
                return link.getpeercert()["serialNumber"]

    before = serial()
    new = shared.authority.issue(fresh("renewed"), ["lockstep://coordinator/shop"])
    for old, fresh_file in zip(shared.coordinator.files[1:], new[1:]):
        os.replace(fresh_file, old)
    shared.coordinator.process.send_signal(signal.SIGHUP)
    wait_until(lambda: serial() != before, 10, "the new certificate is served")
    shared.alive()


def test_bad_certificate_on_sighup_keeps_the_old(shared):
    with open(shared.coordinator.files[1], "rb") as file:
        good = file.read()
    try:
        with open(shared.coordinator.files[1], "wb") as file:
            file.write(b"not a certificate\n")
        lines = shared.coordinator.log_text().count("\n")
        shared.coordinator.process.send_signal(signal.SIGHUP)
        wait_until(lambda: shared.coordinator.log_text().count("\n") > lines, 10, "the failed reload is logged")
        shared.coordinator.check_alive()
        shared.alive()
    finally:
        with open(shared.coordinator.files[1], "wb") as file:
            file.write(good)


def test_agent_refuses_a_false_coordinator(shared, stranger):
    """The other direction: the agent checks authority, role and name of whom it dials."""
    port = socket.create_server(("127.0.0.1", 0))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*stranger.files("lockstep://coordinator/shop")[1:])
    agent = Agent("orders", shared.coordinator, shared.db["orders"].conninfo("lockstep_agent"), address=port.getsockname())
    shared.agents["orders"].stop()
    agent.spawn()
    port.settimeout(20)
    raw, _ = port.accept()
    received = b""
    try:
        link = context.wrap_socket(raw, server_side=True)
        link.settimeout(10)
        received = link.recv(1000)
    except (ssl.SSLError, OSError):
        pass
    assert b"orders" not in received, "Hello was sent to a stranger"
    agent.kill()
    port.close()
    shared.agents["orders"].start()


def test_somebody_elses_certificate_in_the_configuration(shared):
    """A daemon that runs with another's certificate (the client's variables in its shell) would be refused by everybody."""
    def with_files(uri):
        files = shared.authority.files("lockstep://" + uri)
        return {"tls": {"ca": files[0], "certificate": files[1], "key": files[2]}}

    conninfo = shared.db["orders"].conninfo("lockstep_agent")
    for daemon, own, other in ((Coordinator(shared.authority, "shop", settings=with_files("app/checkout")), "coordinator/shop", "app/checkout"),
                               (Coordinator(shared.authority, "shop", settings=with_files("coordinator/store")), "coordinator/shop", "coordinator/store"),
                               (Agent("orders", shared.coordinator, conninfo, settings=with_files("agent/balance")), "agent/orders", "agent/balance")):
        daemon.spawn()
        assert daemon.wait_exit() == 78, daemon.log_text()
        assert f"that of {other}, it must be that of {own}" in daemon.log_text()
