"""The proxy between agent and coordinator does what its rules say; without this a test with it could pass for nothing.

Hazard: a rule that never matches, or a drop that does not drop.
Method: a server and a client of the tests' own speak frames through the proxy with real certificates.
Seen if wrong: a frame missing, doubled or let through.
"""

import socket
import ssl
import threading

import pytest

from harness.programs import authority
from harness.proxy import LinkProxy, wire


def frame(token, kind="ping"):
    made = wire().Frame()
    getattr(made, kind).token = token
    return made


def send(link, made):
    payload = made.SerializeToString()
    link.sendall(len(payload).to_bytes(4, "big") + payload)


def receive(link):
    data = b""
    while len(data) < 4:
        data += link.recv(4 - len(data)) or (_ for _ in ()).throw(EOFError())
    need = int.from_bytes(data, "big")
    data = b""
    while len(data) < need:
        data += link.recv(need - len(data)) or (_ for _ in ()).throw(EOFError())
    made = wire().Frame()
    made.ParseFromString(data)
    return made


def context(files, server):
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH if server else ssl.Purpose.SERVER_AUTH, cafile=files[0])
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_cert_chain(*files[1:])
    return made


@pytest.fixture
def pair():
    """(proxy, the agent's end, the coordinator's end)"""
    coordinator = authority().files("lockstep://coordinator/proxytest")
    agent = authority().files("lockstep://agent/proxytest")
    listener = socket.create_server(("127.0.0.1", 0))
    proxy = LinkProxy(listener.getsockname(), coordinator, agent)
    ends = {}

    def accept():
        raw, _ = listener.accept()
        ends["server"] = context(coordinator, True).wrap_socket(raw, server_side=True)

    thread = threading.Thread(target=accept)
    thread.start()
    client = context(agent, False).wrap_socket(socket.create_connection(proxy.address))
    client.settimeout(5)
    thread.join(5)
    ends["server"].settimeout(5)
    yield proxy, client, ends["server"]
    client.close()
    ends["server"].close()
    proxy.close()
    listener.close()


def tokens(rule_kind):
    return lambda body: body.token == rule_kind


def test_passes_both_ways_and_with_the_right_names(pair):
    _, client, server = pair
    send(client, frame(1))
    assert receive(server).ping.token == 1
    send(server, frame(2))
    assert receive(client).ping.token == 2
    assert ("URI", "lockstep://agent/proxytest") in server.getpeercert()["subjectAltName"]
    assert ("URI", "lockstep://coordinator/proxytest") in client.getpeercert()["subjectAltName"]


def test_drop(pair):
    proxy, client, server = pair
    rule = proxy.at("ping", "drop", up=True, match=tokens(2))
    for token in (1, 2, 3):
        send(client, frame(token))
    assert [receive(server).ping.token for _ in range(2)] == [1, 3]
    assert rule.hit()


def test_duplicate(pair):
    proxy, client, server = pair
    proxy.at("ping", "duplicate", match=tokens(2))
    for token in (1, 2, 3):
        send(client, frame(token))
    assert [receive(server).ping.token for _ in range(4)] == [1, 2, 2, 3]


def test_hold(pair):
    proxy, client, server = pair
    rule = proxy.at("ping", "hold", match=tokens(2))
    for token in (1, 2, 3):
        send(client, frame(token))
    assert receive(server).ping.token == 1
    rule.wait_hit()
    send(server, frame(9))
    assert receive(client).ping.token == 9  # the other direction goes on
    server.settimeout(0.2)
    with pytest.raises(TimeoutError):
        receive(server)
    rule.release()
    server.settimeout(5)
    assert [receive(server).ping.token for _ in range(2)] == [2, 3]


def test_reset(pair):
    proxy, client, server = pair
    proxy.at("ping", "reset", match=tokens(2))
    send(client, frame(1))
    assert receive(server).ping.token == 1
    send(client, frame(2))
    for end in (server, client):
        with pytest.raises((EOFError, OSError)):
            receive(end)


def test_hooks_run_before_and_after(pair):
    proxy, client, server = pair
    order = []
    proxy.at("ping", "pass", before=lambda: order.append("before"), after=lambda: order.append("after"))
    send(client, frame(1))
    assert receive(server).ping.token == 1
    send(client, frame(2))
    assert receive(server).ping.token == 2
    assert order == ["before", "after"]


def test_inject(pair):
    proxy, client, server = pair
    proxy.inject(True, frame(7))
    proxy.inject(False, frame(8))
    assert (receive(server).ping.token, receive(client).ping.token) == (7, 8)
