"""The HTTP API as an application uses it: Answer, App, and builders of documents."""

import concurrent.futures
import http.client
import json
import re
import socket
import ssl
import urllib.parse

from .base import wait_until
from .contract import contract

background = concurrent.futures.ThreadPoolExecutor(max_workers=64, thread_name_prefix="app")


class Answer:
    """Status, headers and JSON body of one response."""

    def __init__(self, status, headers, raw):
        self.status, self.headers, self.raw = status, headers, raw
        try:
            self.body = json.loads(raw) if raw else None
        except ValueError:
            self.body = None

    def __getattr__(self, name):
        # gtid, state, applied, sqlstate, participant, reason ... of the body, or code, message, path of its error; None when it has none
        if name.startswith("_"):
            raise AttributeError(name)
        if not isinstance(self.body, dict):
            return None
        if name in self.body:
            return self.body[name]
        error = self.body.get("error")
        return error.get(name) if isinstance(error, dict) else None

    def __repr__(self):
        return f"<{self.status} {self.raw[:2000].decode(errors='replace')}>"


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def step(participant, sql, *args, expect_rows=None, **more):
    """One step of a document; `more`: name, after, undo ..."""
    do = {"sql": sql, "args": list(args)}
    if expect_rows is not None:
        do["expect_rows"] = expect_rows
    return {"on": participant, "do": do, **more}


def put(key, *participants, value=1):
    """Steps that insert item `key` on each participant."""
    return [step(name, "insert into item(k, v) values ($1, $2)", key, value) for name in participants]


class App:
    """A client of the API with one identity: (ca, certificate, key) over TLS, or the Unix socket."""

    def __init__(self, coordinator, files=None, timeout=40):
        self.coordinator, self.files, self.timeout = coordinator, files, timeout
        self.context = None
        if files:
            self.context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=files[0])
            self.context.check_hostname = False
            if files[1]:
                self.context.load_cert_chain(files[1], files[2])

    def connection(self, timeout=None):
        timeout = timeout or self.timeout
        if self.context is None:
            return UnixConnection(self.coordinator.socket, timeout)
        host, port = self.coordinator.address("api")
        return http.client.HTTPSConnection(host, port, timeout=timeout, context=self.context)

    def request(self, method, path, body=None, headers=None, timeout=None):
        """One request on a connection of its own. Raises OSError or HTTPException when no answer came."""
        connection = self.connection(timeout)
        try:
            if body is not None and not isinstance(body, (bytes, str)):
                body = json.dumps(body)
            sent = {"Content-Type": "application/json"} if body is not None else {}
            sent.update(headers or {})
            connection.request(method, path, body=body, headers=sent)
            response = connection.getresponse()
            answer = Answer(response.status, response.headers, response.read())
            contract().check(method, path, answer)
            return answer
        finally:
            connection.close()

    def run(self, steps, *, key=None, wait=None, timeout=None, **document):
        """POST /v1/run in mode 2pc."""
        body = {"mode": "2pc", "steps": steps, **document}
        path = "/v1/run" + (f"?wait={wait}" if wait else "")
        return self.request("POST", path, body, {"Idempotency-Key": key} if key else None, timeout)

    def run_later(self, steps, **options):
        """The same in the background: a future, whose result may be an exception when no answer came."""
        return background.submit(self.run, steps, **options)

    def get(self, gtid, **query):
        query = {key.rstrip("_"): value for key, value in query.items()}
        return self.request("GET", f"/v1/tx/{gtid}" + (f"?{urllib.parse.urlencode(query)}" if query else ""))

    def list(self, **query):
        return self.request("GET", "/v1/tx" + (f"?{urllib.parse.urlencode(query)}" if query else ""))

    def participants(self):
        return self.request("GET", "/v1/participants")

    def wait_state(self, gtid, states, deadline=15):
        """Asks until the transaction is in one of `states`."""
        last = [None]

        def reached():
            try:
                last[0] = self.get(gtid)
            except (OSError, http.client.HTTPException) as error:
                last[0] = error
                return None
            return last[0] if last[0].state in states else None

        return wait_until(reached, deadline, lambda: f"{gtid} is {' or '.join(states)}; last answer: {last[0]}")

    def metrics(self):
        return Metrics(self.request("GET", "/metrics").raw.decode())


class Metrics:
    """An exposition in Prometheus' text form, parsed strictly."""

    SAMPLE = re.compile(r'^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$')
    LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')

    def __init__(self, text):
        self.text, self.samples, self.types, self.helps = text, {}, {}, {}
        assert text.endswith("\n"), "an exposition ends with a line feed"
        for line in text.splitlines():
            if not line:
                continue
            if line.startswith("# HELP "):
                name, _, words = line[7:].partition(" ")
                assert name not in self.helps, f"HELP twice: {line}"
                self.helps[name] = words
            elif line.startswith("# TYPE "):
                name, _, kind = line[7:].partition(" ")
                assert name not in self.types, f"TYPE twice: {line}"
                assert kind in ("counter", "gauge", "histogram", "summary", "untyped"), line
                self.types[name] = kind
            elif not line.startswith("#"):
                found = self.SAMPLE.match(line)
                assert found, f"not a sample: {line!r}"
                labels, end = [], 0
                for label in self.LABEL.finditer(found[2] or ""):
                    assert label.start() == end, line
                    labels.append((label[1], label[2]))
                    end = label.end()
                assert end == len(found[2] or ""), f"bad labels: {line!r}"
                sample = (found[1], tuple(sorted(labels)))
                assert sample not in self.samples, f"the same sample twice: {line!r}"
                self.samples[sample] = float(found[3])

    def value(self, name, **labels):
        """One sample; the sum over all others' labels when there are several."""
        wanted = set(labels.items())
        found = [v for (n, ls), v in self.samples.items() if n == name and wanted <= set(ls)]
        assert found, f"no metric {name}{labels or ''}"
        return sum(found)
