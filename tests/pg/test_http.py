"""Hazard: input that no honest client sends makes the coordinator answer wrongly, grow, hang, or begin something.

Method: raw sockets over the Unix socket and TLS: bad JSON, unknown fields, too large bodies, pipelined requests, half requests, slow ones.
Seen if wrong: a 5xx or no answer where 4xx is due; a path missing from the text; another client held up; a crash.
"""

import json
import socket
import time

import pytest

from harness.base import stays_true, wait_until
from harness.system import System, fresh, put, step

NAMES = ("orders", "balance")


def raw_connection(system, tls=False):
    if tls:
        raw = socket.create_connection(system.coordinator.address("api"), timeout=20)
        return system.app.context.wrap_socket(raw)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(20)
    connection.connect(system.coordinator.socket)
    return connection


def exchange(system, data, tls=False):
    """Sends bytes, reads until the other side closes."""
    connection = raw_connection(system, tls)
    try:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR) if not tls else None
        received = b""
        while True:
            more = connection.recv(65536)
            if not more:
                return received
            received += more
            if tls and b"\r\n\r\n" in received:
                return received
    except (ConnectionError, socket.timeout):
        return received
    finally:
        connection.close()


DOCUMENT = {"mode": "2pc", "steps": put("k", *NAMES)}


def changed(path, value):
    """DOCUMENT with one value replaced; a value of ... removes it."""
    document = json.loads(json.dumps(DOCUMENT))
    place = document
    for part in path[:-1]:
        place = place[part]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return document


BAD_DOCUMENTS = [
    (["mode"], "3pc", "mode"), (["mode"], 2, "mode"), (["mode"], ..., "mode"), (["steps"], ..., "steps"), (["steps"], [], "steps"),
    (["steps"], {}, "steps"), (["steps", 1], 7, "steps[1]"), (["colour"], "red", "colour"), (["steps", 0, "colour"], "red", "steps[0].colour"),
    (["steps", 0, "do", "colour"], "red", "steps[0].do.colour"), (["steps", 0, "on"], "nowhere", "steps[0].on"),
    (["steps", 0, "on"], 5, "steps[0].on"), (["steps", 0, "on"], "", "steps[0].on"), (["steps", 0, "on"], "a b", "steps[0].on"),
    (["steps", 0, "on"], ..., "steps[0]"), (["steps", 0, "do"], ..., "steps[0]"), (["steps", 0, "do", "sql"], ..., "steps[0].do"),
    (["steps", 0, "do", "sql"], 7, "steps[0].do.sql"), (["steps", 0, "do", "args"], "x", "steps[0].do.args"),
    (["steps", 1, "do", "args", 1], 1.5, "steps[1].do.args[1]"), (["steps", 1, "do", "args", 1], 1e3, "steps[1].do.args[1]"),
    (["steps", 1, "do", "args", 1], [1], "steps[1].do.args[1]"), (["steps", 1, "do", "args", 1], {"yaml": 1}, "steps[1].do.args[1]"),
    (["steps", 1, "do", "args", 1], {"ref": "nobody.rows.0.x"}, "steps[1].do.args[1]"),
    (["steps", 0, "do", "expect_rows"], -1, "steps[0].do.expect_rows"), (["steps", 0, "do", "expect_rows"], "1", "steps[0].do.expect_rows"),
    (["steps", 0, "after"], 0, "steps[0].after"), (["steps", 1, "after"], "nobody", "steps[1].after"), (["steps", 1, "after"], 1, "steps[1].after"),
    (["isolation"], "chaos", "isolation"), (["deadline"], "forever", "deadline"), (["deadline"], 30, "deadline"), (["deadline"], "0s", "deadline"),
    (["deadline"], "9h", "deadline"), (["lock_timeout"], "0ms", "lock_timeout"), (["lock_timeout"], "2h", "lock_timeout"),
    (["steps", 0, "name"], 5, "steps[0].name"), (["steps", 0, "kind"], "sideways", "steps[0].kind"), (["steps", 0, "undo"], "x", "steps[0].undo"),
]


@pytest.mark.parametrize("path,value,named", BAD_DOCUMENTS, ids=lambda value: json.dumps(value) if value is not ... else "absent")
def test_bad_document_is_400_with_its_path(shared, path, value, named):
    answer = shared.app.request("POST", "/v1/run", changed(path, value))
    assert answer.status == 400, answer
    assert answer.path.startswith(named), answer
    assert answer.message, answer


@pytest.mark.parametrize("body", ["", "{", "[]", "null", "7", '"x"', '{"mode":"2pc","mode":"2pc"}', '{"mode": "2pc", "steps": [}', "{}x",
                                  '{"mode": "\\u0000"}', b'{"mode": "\xff"}', "[" * 5000 + "]" * 5000, '{"a":' * 3000 + "1" + "}" * 3000,
                                  '{"mode":"2pc","steps":[{"on":"orders","do":{"sql":"select 1","args":[99999999999999999999]}}]}'],
                         ids=lambda body: repr(body)[:24])
def test_bad_json(shared, body):
    answer = shared.app.request("POST", "/v1/run", body)
    assert answer.status == 400, answer
    assert answer.message, answer


def test_nul_in_a_string(shared):
    answer = shared.app.request("POST", "/v1/run", changed(["steps", 0, "do", "args", 0], "a\0b"))
    assert answer.status == 400, answer


@pytest.mark.parametrize("method,path,status", [
    ("GET", "/v1/run", 405), ("PUT", "/v1/run", 405), ("DELETE", "/v1/tx/x", 405), ("GET", "/", 404), ("GET", "/v1", 404), ("GET", "/v1/tx/", 404),
    ("GET", "/v1/tx/nonsense", 404), ("GET", "/v2/run", 404), ("GET", "/v1/tx/" + "a" * 500, 404), ("GET", "/livez/x", 404),
    ("GET", "/v1/tx?state=nonsense", 400), ("GET", "/v1/tx?limit=0", 400), ("GET", "/v1/tx?limit=-1", 400), ("GET", "/v1/tx?limit=x", 400),
    ("GET", "/v1/tx?colour=red", 400), ("POST", "/v1/run?wait=never", 400), ("HEAD", "/livez", (200, 405)), ("OPTIONS", "/v1/run", 405),
    ("GET", "/v1/tx/%00", 404), ("GET", "/v1/../livez", 404), ("PATCH", "/metrics", 405)])
def test_wrong_method_or_path(shared, method, path, status):
    answer = shared.admin.request(method, path, "{}" if method in ("POST", "PUT") else None)
    assert answer.status in (status if isinstance(status, tuple) else (status,)), answer


def test_get_with_bad_parameters(shared):
    gtid = shared.app.run(put(fresh(), *NAMES)).gtid
    for query in ("for=nothing", "timeout=x", "timeout=-1s", "timeout=99h", "colour=red"):
        assert shared.app.request("GET", f"/v1/tx/{gtid}?{query}").status == 400, query


def test_body_at_its_limit(shared):
    """1 MiB is taken, one byte more is 413; both keep the server well."""
    limit = 1 << 20
    document = json.dumps({"mode": "2pc", "steps": [step("orders", "select length($1::text)", ""), step("balance", "select 1")]})
    pad = limit - len(document)
    full = document.replace('"args": [""]', '"args": ["' + "x" * pad + '"]')
    assert len(full) == limit
    answer = shared.app.request("POST", "/v1/run", full)
    # the document is legal; whether a statement as large as a frame fits is another limit: never a 5xx
    assert answer.status in (200, 400, 413), answer
    answer = shared.app.request("POST", "/v1/run", full + " ")
    assert answer.status == 413, answer
    shared.alive()


def test_announced_body_too_large(shared):
    answer = exchange(shared, b"POST /v1/run HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
    assert b" 413 " in answer.split(b"\r\n")[0] or b" 400 " in answer.split(b"\r\n")[0], answer


@pytest.mark.parametrize("data", [b"\r\n\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x00" * 100, b"GET /livez HTTP/1.1\r\n" + b"A: b\r\n" * 20000,
                                  b"GET /livez HTTP/1.1\r\nA: " + b"x" * 300000 + b"\r\n\r\n", b"GET /" + b"a" * 200000 + b" HTTP/1.1\r\n\r\n",
                                  b"POST /v1/run HTTP/1.1\r\nContent-Length: -5\r\n\r\n", b"POST /v1/run HTTP/1.1\r\nContent-Length: x\r\n\r\n",
                                  b"POST /v1/run HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                                  b"POST /v1/run HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n"],
                         ids=range(11))
@pytest.mark.parametrize("tls", [False, True], ids=["unix", "tls"])
def test_junk_requests(shared, data, tls):
    answer = exchange(shared, data, tls)
    assert b" 200 " not in answer[:16] and b" 5" not in answer[8:11], answer[:200]
    assert shared.admin.request("GET", "/livez").status == 200


def test_chunked_body(shared):
    key = fresh()
    body = json.dumps({"mode": "2pc", "steps": put(key, *NAMES)}).encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:10], body[10:50], body[50:])) + b"0\r\n\r\n"
    answer = exchange(shared, b"POST /v1/run HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks,
                      tls=True)
    assert b" 200 " in answer.split(b"\r\n")[0], answer
    assert shared.where(key) == set(NAMES)


def test_pipelined_requests(shared):
    """Two requests in one write: both answered in order, or the second refused by closing; never mixed up, never hanging."""
    keys = [fresh(), fresh()]
    data = b""
    for key in keys:
        body = json.dumps({"mode": "2pc", "steps": put(key, *NAMES)}).encode()
        data += b"POST /v1/run HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    started = time.monotonic()
    connection = raw_connection(shared, tls=True)
    connection.sendall(data)
    connection.settimeout(8)
    received = b""
    try:
        while received.count(b"HTTP/1.1 ") < 2:
            more = connection.recv(65536)
            if not more:
                break
            received += more
    except (socket.timeout, ConnectionError):
        pass
    connection.close()
    assert received.startswith(b"HTTP/1.1 200"), received
    assert received.count(b"HTTP/1.1 ") == 2 or time.monotonic() - started < 8, f"the second request hangs: {received}"
    assert shared.where(keys[0]) == set(NAMES)
    shared.no_orphans()


def test_keep_alive(shared):
    connection = shared.app.connection()
    try:
        for _ in range(5):
            connection.request("GET", "/livez")
            response = connection.getresponse()
            assert response.status == 200
            response.read()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def hasty():
    """A coordinator with short times and few connections."""
    made = System({"orders": 0, "balance": 1}, coordinator={"limits": {"http_idle": "700ms", "connections": 8}})
    yield made
    made.close()


@pytest.mark.parametrize("tls", [False, True], ids=["unix", "tls"])
@pytest.mark.parametrize("part", ["nothing", "head", "body"])
def test_slow_client_is_closed(hasty, part, tls):
    """One byte every 50 ms restarts a naive timer each time: the whole request has a deadline."""
    data = {"nothing": b"", "head": b"GET /livez HTTP/1.1\r\nX-Slow: ", "body": b"POST /v1/run HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n"}[part]
    connection = raw_connection(hasty, tls)
    connection.sendall(data)
    connection.settimeout(0.05)
    started = time.monotonic()

    def closed():
        try:
            if part != "nothing":
                connection.sendall(b"x")
            return connection.recv(1000) == b"" or None
        except socket.timeout:
            return False
        except OSError:
            return True

    wait_until(closed, 10, "the slow connection is closed")
    assert time.monotonic() - started >= 0.5
    connection.close()


def test_too_many_connections(hasty):
    """Beyond the limit connections are closed; the earlier ones go on; afterwards there is room again."""
    held = []
    for _ in range(30):
        try:
            held.append(raw_connection(hasty, tls=False))
        except OSError:
            break
    stays_true(hasty.coordinator.running, 0.2, "the coordinator died")
    for connection in held:
        connection.close()
    wait_until(hasty.coordinator.livez, 10, "there is room again")
    hasty.alive()


def test_client_that_does_not_read(hasty):
    """The answer is large and nobody takes it: the memory is given back when its time is over."""
    body = json.dumps({"mode": "2pc", "steps": [step("orders", "select repeat('x', 900000) as big"), step("balance", "select 1")]}).encode()
    connection = raw_connection(hasty, tls=True)
    connection.sendall(b"POST /v1/run HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    stays_true(hasty.coordinator.running, 1.5, "the coordinator died")
    connection.close()
    hasty.alive()
