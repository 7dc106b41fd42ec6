"""Hazard: nobody hears that a human is needed, or everybody hears it a thousand times, or calling for help holds up what still works.

Method: a real receiver of webhooks that checks each signature with the secret; it is down, slow, answers 500, starts again; dead letters, a
late saga, a hazard and a transaction in doubt are made on real servers.
Seen if wrong: an alert that does not come, two of one cause within a window, a signature that does not verify, a saga that waits for the receiver.
"""

import hashlib
import hmac
import json
import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from harness.base import folder, wait_until
from harness.programs import free_port
from harness.system import System, fresh, put, step
from test_saga_flow import JOURNAL, ended, note, saga

SECRET = b"a secret of at least sixteen bytes"
WINDOW_S = 0.5


class Receiver:
    """Takes what Slack takes: JSON with a `text`."""

    def __init__(self, port):
        self.port, self.letters, self.attempts = port, [], 0
        self.answers = []  # statuses of the next attempts; 200 when empty
        self.hold = None   # an event that answers wait for
        self.server = None
        self.start()

    def start(self):
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):  # noqa: N802
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.attempts += 1
                status = receiver.answers.pop(0) if receiver.answers else 200
                if receiver.hold:
                    receiver.hold.wait(30)
                signed = hmac.new(SECRET, self.headers["Lockstep-Timestamp"].encode() + b"." + body, hashlib.sha256).hexdigest()
                good = hmac.compare_digest(f"v1={signed}", self.headers["Lockstep-Signature"])
                fresh_enough = abs(time.time() - int(self.headers["Lockstep-Timestamp"])) < 60
                if status == 200:
                    receiver.letters.append((good and fresh_enough, json.loads(body)))
                try:
                    self.send_response(status)
                    self.send_header("Content-Length", "2")
                    self.end_headers()
                    self.wfile.write(b"ok")
                except OSError:
                    pass

            def log_message(self, *args):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args):
                pass

        self.server = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self):
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    def wait(self, cause, gtid=None, deadline=30):
        """The letter of that cause (and transaction), its signature checked."""
        def found():
            return [body for good, body in list(self.letters) if body["cause"] == cause and (gtid is None or body.get("gtid") == gtid) and good]
        return wait_until(found, deadline, lambda: f"an alert {cause} about {gtid} comes, signed: {self.letters}")[0]


@pytest.fixture(scope="module")
def world():
    secret = os.path.join(folder.make("secret"), "secret")
    with open(os.open(secret, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        file.write(SECRET + b"\n")
    receiver = Receiver(free_port())
    made = System({"orders": 0, "balance": 1}, link_proxies=("orders",), coordinator={
        "limits": {"deadline": "5s", "lock_timeout": "2s", "apply_wait": "100ms"},
        "alerts": {"webhook": f"http://127.0.0.1:{receiver.port}/hook?token=x", "secret_file": secret, "window": f"{int(WINDOW_S * 1000)}ms",
                   "in_doubt": "500ms", "timeout": "300ms"}}, agents={"relay": {"attempts": 2}})
    for database in made.db.values():
        database.execute(JOURNAL)
    made.receiver = receiver
    yield made
    receiver.stop()
    made.close()


@pytest.fixture
def calm(world):
    """No letter waits, no window is open that has something to tell."""
    world.heal()
    yield world
    world.receiver.hold, world.receiver.answers = None, []
    if world.receiver.server is None:
        world.receiver.start()
    world.heal()
    wait_until(lambda: world.admin.metrics().value("lockstepd_alerts_queued") == 0, 60, "all alerts are delivered")
    time.sleep(WINDOW_S + 0.2)  # windows have no state to ask for


def dead_letter(system):
    answer = saga(system, [step("orders", "select 1/0", attempts=1)], wait=None)
    assert ended(system, answer.saga).state == "stuck"
    return answer.saga


def test_a_dead_letter(calm):
    name = dead_letter(calm)
    letter = calm.receiver.wait("dead_letter", name)
    assert letter["text"].startswith("lockstep shop: a saga is stuck") and name in letter["text"] and "division by zero" in letter["text"], letter
    assert letter["sqlstate"] == "22012" and letter["step"] == "0" and letter["coordinator"] == "shop" and letter["id"], letter
    assert calm.admin.metrics().value("lockstepd_alerts_total", cause="dead_letter") >= 1


def test_one_per_cause_and_window(calm):
    """Ten dead letters in a row: one alert at once, one at the end of the window that counts the rest."""
    before, began = len(calm.receiver.letters), time.monotonic()
    first = dead_letter(calm)
    calm.receiver.wait("dead_letter", first)
    names = [saga(calm, [step("orders", "select 1/0", attempts=1)], wait=None).saga for _ in range(10)]
    for name in names:
        assert ended(calm, name).state == "stuck"
    wait_until(lambda: len(calm.receiver.letters) >= before + 2, 20, lambda: f"the second one comes: {calm.receiver.letters[before:]}")
    wait_until(lambda: sum(1 + body.get("more", 0) for _, body in calm.receiver.letters[before:]) == 11, 20,
               lambda: f"all are counted: {calm.receiver.letters[before:]}")
    windows = (time.monotonic() - began) / WINDOW_S
    assert len(calm.receiver.letters) - before <= windows + 1, calm.receiver.letters[before:]


def test_receiver_down(calm):
    """Nobody listens: sagas and transactions go their way; the alert comes when the receiver is back."""
    calm.receiver.stop()
    name = dead_letter(calm)
    wait_until(lambda: calm.admin.metrics().value("lockstepd_alert_deliveries_total", result="failed") >= 1, 20, "delivery has failed")
    calm.alive()
    assert saga(calm, [note("orders", fresh("w"), "a")]).state == "completed"
    calm.receiver.start()
    calm.receiver.wait("dead_letter", name, 60)


def test_receiver_says_500(calm):
    calm.receiver.answers = [500, 503, 302]
    before = calm.receiver.attempts
    name = dead_letter(calm)
    calm.receiver.wait("dead_letter", name, 60)
    assert calm.receiver.attempts - before >= 4
    assert len([body for _, body in calm.receiver.letters if body.get("gtid") == name]) == 1


def test_receiver_refuses(calm):
    """A letter that gets 4xx again and again is given up, and holds up no other."""
    refused = calm.admin.metrics().value("lockstepd_alerts_refused_total")
    calm.receiver.answers = [429, 404, 400, 404, 404, 404]
    name = dead_letter(calm)
    wait_until(lambda: calm.admin.metrics().value("lockstepd_alerts_refused_total") == refused + 1, 60, "it is given up")
    assert calm.coordinator.log_has("ERROR", "the receiver refuses it", name)
    time.sleep(WINDOW_S + 0.2)  # windows have no state to ask for
    later = dead_letter(calm)
    calm.receiver.wait("dead_letter", later)
    assert not [body for _, body in calm.receiver.letters if body.get("gtid") == name]


def test_webhook_taken_away_and_put_back(calm):
    """While it failed; what waited is delivered."""
    alerts = calm.coordinator.config["alerts"]
    webhook = alerts["webhook"]

    def reload():
        before = calm.coordinator.log_text().count("limits reloaded")
        calm.coordinator.write_config()
        calm.coordinator.process.send_signal(signal.SIGHUP)
        wait_until(lambda: calm.coordinator.log_text().count("limits reloaded") > before, 20, "it is reloaded")
    calm.receiver.answers = [500] * 1000
    before = calm.receiver.attempts
    name = dead_letter(calm)
    wait_until(lambda: calm.receiver.attempts >= before + 2, 20, "it has failed twice")
    alerts.pop("webhook")
    reload()
    at_rest = calm.receiver.attempts
    wait_until(lambda: calm.admin.metrics().value("lockstepd_alerts_queued") == 1, 10, "it waits")
    time.sleep(3)  # longer than the next attempt would wait: its timer finds no receiver
    assert calm.receiver.attempts <= at_rest + 1
    calm.receiver.answers = []
    alerts["webhook"] = webhook
    reload()
    calm.receiver.wait("dead_letter", name)
    time.sleep(WINDOW_S + 0.2)
    calm.receiver.wait("dead_letter", dead_letter(calm))


def test_receiver_slow(calm):
    """It takes the letter and does not answer in time: sent again, with the same id."""
    calm.receiver.hold = threading.Event()
    before = calm.receiver.attempts
    name = dead_letter(calm)
    wait_until(lambda: calm.receiver.attempts >= before + 2, 30, "it is sent again")
    calm.alive()
    calm.receiver.hold.set()
    calm.receiver.hold = None
    calm.receiver.wait("dead_letter", name, 60)
    wait_until(lambda: calm.admin.metrics().value("lockstepd_alerts_queued") == 0, 60, "it is delivered")
    assert len({body["id"] for _, body in calm.receiver.letters if body.get("gtid") == name}) == 1


def test_told_again_after_a_start(calm):
    """The coordinator dies before it could tell: what waits in the dead-letter queue is said by the next life."""
    calm.receiver.stop()
    dead_letter(calm)
    calm.coordinator.kill()
    calm.receiver.start()
    before = len(calm.receiver.letters)
    calm.heal()
    wait_until(lambda: [body for good, body in calm.receiver.letters[before:] if good and "dead letters wait" in body["text"]], 30, "it is told")


def test_a_dead_event(calm):
    """Choreography: the coordinator is not in its path, but hears of its dead letters from the agent, in each of its lives; each one more is said."""
    raised = lambda: calm.admin.metrics().value("lockstepd_alerts_total", cause="dead_event")  # noqa: E731
    calm.db["balance"].execute("create function refuse(e jsonb) returns void language plpgsql as $$ begin raise exception 'never'; end $$")
    with calm.db["balance"].connect(user="checkout") as session:
        session.execute("select lockstep.emit('nobody.wants', 'k', '{}')")
    letter = calm.receiver.wait("dead_event")
    assert letter["text"].startswith("lockstep shop: events at balance are dead letters, see `lockstep dlq list`"), letter
    assert letter["reason"] == "0 that a handler has refused, 1 that nobody wants" and "gtid" not in letter, letter
    calm.coordinator.kill()
    calm.receiver.letters.clear()
    calm.heal()
    assert "1 that nobody wants" in calm.receiver.wait("dead_event")["reason"]
    before = raised()
    with calm.db["balance"].connect(user="checkout") as session:
        session.execute("select lockstep.on('refused', 'public.refuse')")
        wait_until(lambda: calm.db["balance"].value("select count(*) from lockstep.route where type = 'refused'") == 1, 20, "it knows what it wants")
        session.execute("select lockstep.emit('refused', 'k', '{}')")
    wait_until(lambda: raised() > before and calm.admin.request("GET", "/v1/dlq/events").body["dead_letters"][-1]["type"] == "refused", 30, "it is told")
    for entry in calm.admin.request("GET", "/v1/dlq/events").body["dead_letters"]:
        assert calm.admin.request("POST", "/v1/dlq/events/skip", {"id": entry["id"]}).status == 200
    wait_until(lambda: calm.admin.request("GET", "/v1/dlq/events").body["dead_letters"] == [], 20, "none is left")


def test_a_late_saga(calm):
    """Its deadline passes behind the point of no return: it goes on, and a human hears of it."""
    key = fresh()
    wants = step("balance", "update item set v = v + 1 where k = $1", key, expect_rows=1, attempts=100)
    answer = saga(calm, [note("orders", fresh("w"), "p", undo=False, kind="pivot"), wants], wait=None, deadline="500ms")
    assert "goes on" in calm.receiver.wait("saga_deadline", answer.saga)["reason"]
    calm.db["balance"].execute("insert into item(k, v) values (%s, 1)", key)
    assert ended(calm, answer.saga, 60).state == "completed"


def test_in_doubt(calm):
    """A decision that one participant does not hear of, not even when it asks."""
    for kind in ("decide", "answer"):
        calm.link["orders"].at(kind, "drop", up=False, times=None)
    answer = calm.app.run(put(fresh(), "orders", "balance"))
    assert answer.state == "committed" and answer.body["applied"] is False, answer
    letter = calm.receiver.wait("in_doubt", answer.gtid)
    assert "in doubt" in letter["text"] and calm.coordinator.log_has("WARN", "in doubt for too long", answer.gtid)
    calm.link["orders"].clear()
    calm.no_orphans()


def test_hazard(calm):
    """Somebody rolls a prepared branch back by hand."""
    calm.link["orders"].at("decide", "drop", up=False, times=None)
    answer = calm.app.run(put(fresh(), "orders", "balance"))
    assert answer.state == "committed", answer
    gid, = [gid for gid in calm.db["orders"].prepared() if answer.gtid in gid]
    calm.db["orders"].execute(f"rollback prepared '{gid}'")
    calm.link["orders"].clear()
    letter = calm.receiver.wait("hazard", answer.gtid)
    assert letter["reason"], letter


def test_configuration():
    """A secret that others may read, or that is too short, is refused at the start; without a webhook there is only the metric."""
    made = System({"orders": 0}, start=False)
    path = os.path.join(folder.make("secret"), "secret")
    try:
        for content, mode, words in ((SECRET, 0o644, "others may read"), (b"short\n", 0o600, "at least 16 bytes")):
            with open(path, "wb") as file:
                file.write(content)
            os.chmod(path, mode)
            made.coordinator.config["alerts"] = {"secret_file": path}
            made.coordinator.spawn()
            assert made.coordinator.wait_exit() == 78 and words in made.coordinator.log_text(), made.coordinator.log_text()
        os.unlink(path)
        os.mkfifo(path, 0o600)  # nobody writes into it
        made.coordinator.spawn()
        assert made.coordinator.wait_exit() == 78 and "not a file" in made.coordinator.log_text(), made.coordinator.log_text()
        made.coordinator.config["alerts"] = {"webhook": "https://localhost/", "ca": path + ".nowhere"}
        made.coordinator.spawn()
        assert made.coordinator.wait_exit() == 78 and "alerts: CA" in made.coordinator.log_text(), made.coordinator.log_text()
        made.coordinator.config["alerts"] = {"webhook": "ftp://secret-token@example.org/"}
        made.coordinator.spawn()
        assert made.coordinator.wait_exit() == 78 and "alerts.webhook" in made.coordinator.log_text()
        assert "secret-token" not in made.coordinator.log_text()
        made.coordinator.config["alerts"] = {}
        made.start()
        dead_letter(made)
        assert made.admin.metrics().value("lockstepd_alerts_total", cause="dead_letter") == 1
        assert made.admin.metrics().value("lockstepd_alerts_queued") == 0
    finally:
        made.close()
