"""A small HTTP service as steps of sagas call it: the example of docs/sagas.md, and what can go wrong with one.

All that makes it safe stands in `PaymentService.act()`: the barrier row, the effect and the kept answer are one transaction. The barrier
makes a repeated call harmless, makes an `undo` that comes first win over its `do`, and makes the same answer come again.
"""

import json
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg

TABLE = """
create table payment(id bigserial primary key, saga text, step text, amount int check (amount > 0), state text default 'paid');
grant select, insert, update on payment to checkout; grant usage on sequence payment_id_seq to checkout;
"""


class PaymentService:
    """POST /pay {"amount": 30, ...} -> {"id": 17, "amount": 30}, and POST /pay/undo."""

    def __init__(self, conninfo, port=0, files=None):
        self.conninfo, self.files = conninfo, files
        self.requests = []  # (op, headers, body) of everything that came
        self.before = self.after = lambda op, handler: None  # what a test wants to happen; a true value: nothing more is done
        self.port = port
        self.server, self.connections = None, set()
        self.start()

    def act(self, saga, step, op, body):
        """(status, answer) of one call."""
        with psycopg.connect(self.conninfo) as db:  # one transaction
            found = db.execute("select lockstep.barrier(%s, %s, %s)", (saga, step, op)).fetchone()[0]
            if op == "undo":
                if found == "run":
                    db.execute("update payment set state = 'paid back' where saga = %s and step = %s", (saga, step))
                return 200, {"state": "undone" if found == "run" else found}
            if found == "run":
                if body["amount"] > 1000:
                    db.rollback()  # an expected error leaves nothing but a no that is final, also for an attempt that comes late
                    db.execute("select lockstep.barrier(%s, %s, 'cancel')", (saga, step))
                    return 409, {"error": "not enough money"}
                paid = db.execute("insert into payment(saga, step, amount) values (%s, %s, %s) returning id", (saga, step, body["amount"])).fetchone()[0]
                db.execute("select lockstep.barrier_keep(%s, %s, %s)", (saga, step, json.dumps({"id": paid, "amount": body["amount"]})))
            elif found != "done":
                return 409, {"error": f"this step is {found}"}
            return 200, db.execute("select lockstep.barrier_result(%s, %s)", (saga, step)).fetchone()[0]

    # -- HTTP

    def start(self):
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self):
                super().setup()
                service.connections.add(self.connection)

            def finish(self):
                service.connections.discard(self.connection)
                super().finish()

            def do_POST(self):  # noqa: N802
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"null")
                op = self.headers["Lockstep-Op"]
                service.requests.append((op, dict(self.headers), body))
                if service.before(op, self):
                    return
                status, answer = service.act(self.headers["Lockstep-Saga"], self.headers["Lockstep-Step"], op, body)
                final = {"Lockstep-Refused": "1"} if status == 409 else {}  # the barrier's no is that of every call under the key
                if not service.after(op, self):
                    self.answer(status, json.dumps(answer).encode(), **final)

            def answer(self, status, body=b"", **headers):
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    pass  # nobody waits any more

            def log_message(self, *args):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *args):
                pass  # a client that went away, or whose TLS was refused

        self.server = Server(("127.0.0.1", self.port), Handler)
        self.port = self.server.server_address[1]
        if self.files:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.files[1], self.files[2])
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self):
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            for connection in list(self.connections):  # kept ones, too
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
            self.server = None

    def url(self, scheme="http"):
        return f"{scheme}://localhost:{self.port}"

    def seen(self, saga, op):
        """The calls of a saga's `op` so far."""
        return [entry for entry in list(self.requests) if entry[0] == op and entry[1]["Lockstep-Saga"] == saga]
