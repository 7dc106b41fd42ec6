"""Hazard: docs/openapi.yaml and the server drift apart.

Method: every route and status of the document is provoked on the server (or named here as one that cannot be); every method that the
document does not have at a path is refused; and every answer that any test of this folder gets is checked against it (contract.py).
Seen if wrong: a documented status that never comes, an undocumented one that does, a body that its schema refuses.
"""

import jsonschema
import pytest

from harness.api import App
from harness.base import wait_until
from harness.contract import contract
from harness.system import System, fresh, put, step

NAMES = ("orders", "balance")
CONTRACT = contract()
DOCUMENTED = {(method, template, status) for method, template in CONTRACT.routes for status in CONTRACT.responses(method, template)}
# what comes only without memory: 500, the body of an answer cannot be built, and 429 where there is no queue
CANNOT = {entry for entry in DOCUMENTED if entry[2] == "500"} | {("GET", "/v1/tx/{gtid}", "429"), ("POST", "/v1/tx/{gtid}/abort", "429")}
CANNOT |= {entry for entry in DOCUMENTED if entry[2] == "429" and "{saga}" in entry[1]}
CANNOT |= {entry for entry in DOCUMENTED if entry[2] == "503" and "/dlq/{" in entry[1]}  # the log is full
CANNOT |= {("GET", "/v1/tx/{gtid}", "503")}  # needs a proxy: test_one_participant: test_who_asks_behind_a_202...
CANNOT |= {("POST", "/v1/dlq/{saga}/refuse", "202")}  # wants a service: test_saga_call, whose answers are compared, too
CANNOT |= {entry for entry in DOCUMENTED if entry[2] == "429" and ("events" in entry[1] or "flows" in entry[1])}
UNDOCUMENTED = [(method, template) for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")
                for template in sorted(CONTRACT.document["paths"]) if (method, template) not in CONTRACT.routes]


@pytest.fixture(scope="module")
def system():
    made = System({"orders": 0, "balance": 1}, coordinator={"limits": {"keys": 2}}, pg_proxies=("orders",), link_proxies=("orders",))
    yield made
    made.close()


@pytest.fixture
def calm(system):
    yield system
    system.heal()
    system.no_orphans()


def held(system):
    """A transaction that is not decided; its gtid and what lets it go."""
    rule = system.pg["orders"].at("prepare transaction", "hold")
    future = system.app.run_later(put(fresh(), *NAMES))
    rule.wait_hit()
    listed = wait_until(lambda: system.app.list(state="pending").body["transactions"], 5, "it is listed")
    return listed[0]["gtid"], lambda: (rule.release(), future.result())


def committed(system):
    return system.app.run(put(fresh(), *NAMES)).gtid


def aborted(system):
    return system.app.run(put(fresh(), *NAMES) + [step("balance", "select 1/0")]).gtid


def path_of(system, template, gtid=None):
    template = template.replace("{flow}", "flow-0")
    if "{saga}" in template:
        return template.replace("{saga}", completed(system))
    return template.replace("{gtid}", gtid or committed(system))


def letter(system):
    """A dead letter of choreography."""
    word = fresh("box")
    system.db["balance"].execute("select lockstep.emit('nobody.wants', %s, '{}')", word)
    found = []

    def dead():
        found[:] = [entry["id"] for entry in system.admin.request("GET", "/v1/dlq/events?limit=500").body["dead_letters"] if entry["key"] == word]
        return found
    wait_until(dead, 20, "nobody wants it")
    return found[0]


def act(system, word, body):
    return system.admin.request("POST", f"/v1/dlq/events/{word}", body)


def away(system, ask):
    """What `ask` gets while the agent of balance is not there."""
    name = letter(system)
    system.agents["balance"].stop()
    wait_until(lambda: not system.agents["balance"].is_ready(), 10, "the agent is gone")
    return ask(name)


def flow(system):
    system.db["balance"].execute("select set_config('lockstep.saga', 'flow-1', false), lockstep.emit('nobody.wants', 'k', '{}')")
    return system.admin.request("GET", "/v1/flows/flow-1")


NOBODY = "shop.aaaaaaaaaaaa.1.1"


def completed(system):
    return system.app.run(put(fresh(), "balance"), mode="saga", wait="end").saga


def compensated(system):
    back = {"undo": {"sql": "select 1"}}
    return system.app.run([step("balance", "select 1", **back), step("balance", "select 1/0", **back)], mode="saga", wait="end").saga


def sleeping(system):
    """On its way for some time, and may still be cancelled."""
    slow = "select pg_sleep(7)"
    name = system.app.run([step("balance", "select 1", undo={"sql": slow}), step("balance", slow, undo={"sql": "select 1"})], mode="saga").saga
    wait_until(lambda: system.app.request("GET", f"/v1/sagas/{name}").body["steps"][0]["state"] == "done", 10, "its first step is done")
    return name


def stuck(system):
    name = system.app.run([step("balance", "select 1/0", attempts=1)], mode="saga").saga
    wait_until(lambda: system.admin.request("GET", f"/v1/sagas/{name}").state == "stuck", 10, "it is stuck")
    return name


def dlq(system, name, word, body=None):
    return system.admin.request("POST", f"/v1/dlq/{name}/{word}", body)


def never_passed(system):
    """Stuck before its point of no return."""
    name = system.app.run([step("balance", "select pg_sleep(3)", undo={"sql": "select 1"}, attempts=1, deadline="200ms")], mode="saga").saga
    wait_until(lambda: system.admin.request("GET", f"/v1/sagas/{name}").state == "stuck", 15, "it is stuck")
    return name


def on_held(system, method, suffix):
    gtid, release = held(system)
    try:
        return system.app.request(method, f"/v1/tx/{gtid}{suffix}")
    finally:
        release()


def run_pending(system):
    """One participant whose server cannot be reached any more from the moment when COMMIT should leave."""
    proxy = system.pg["orders"]
    proxy.at("commit", "reset", before=proxy.partition)
    return system.app.run(put(fresh(), "orders"), deadline="1s")


def run_mismatch(system):
    word = fresh("idem")
    first = system.app.run(put(fresh(), "orders"), key=word)
    assert first.status == 200, first
    return system.app.run(put(fresh(), "orders"), key=word)


def run_busy(system):
    for _ in range(3):
        answer = system.app.run(put(fresh(), *NAMES), key=fresh("idem"))
    return answer


def run_unavailable(system):
    system.agents["balance"].stop()
    wait_until(lambda: not system.agents["balance"].is_ready(), 10, "the agent is gone")
    return system.app.run(put(fresh(), *NAMES))


def readyz_unavailable(system):
    """Draining: not ready any more, alive still."""
    _, release = held(system)
    try:
        system.coordinator.process.terminate()
        wait_until(lambda: system.coordinator.log_has("draining"), 5, "it drains")
        return system.admin.request("GET", "/readyz")
    finally:
        release()
        system.coordinator.wait_exit()


RUN = {
    "200": lambda s: s.app.run(put(fresh(), *NAMES)),
    "202": run_pending,
    "400": lambda s: s.app.run([]),
    "409": lambda s: s.app.run(put(fresh(), *NAMES) + [step("balance", "select 1/0")]),
    "413": lambda s: s.app.request("POST", "/v1/run", "x" * ((1 << 20) + 1)),
    "415": lambda s: s.app.request("POST", "/v1/run", "{}", {"Content-Type": "text/plain"}),
    "422": run_mismatch,
    "429": run_busy,
    "503": run_unavailable,
}
EVENTS = "/v1/events?participant=balance"
TRIGGERS = {("POST", "/v1/run", status): trigger for status, trigger in RUN.items()}
TRIGGERS.update({
    ("GET", "/v1/events", "200"): lambda s: s.app.request("GET", EVENTS),
    ("GET", "/v1/events", "400"): lambda s: s.app.request("GET", EVENTS + "&limit=0"),
    ("GET", "/v1/events", "404"): lambda s: s.app.request("GET", "/v1/events?participant=nowhere"),
    ("GET", "/v1/events", "503"): lambda s: away(s, lambda _: s.app.request("GET", EVENTS)),
    ("GET", "/v1/flows", "200"): lambda s: flow(s) and s.admin.request("GET", "/v1/flows"),
    ("GET", "/v1/flows", "400"): lambda s: s.admin.request("GET", "/v1/flows?limit=0"),
    ("GET", "/v1/flows/{flow}", "200"): flow,
    ("GET", "/v1/flows/{flow}", "400"): lambda s: s.admin.request("GET", "/v1/flows/flow-1?colour=red"),
    ("GET", "/v1/flows/{flow}", "404"): lambda s: s.admin.request("GET", "/v1/flows/nothing"),
    ("GET", "/v1/dlq/events", "200"): lambda s: s.admin.request("GET", f"/v1/dlq/events?id={letter(s)}"),
    ("GET", "/v1/dlq/events", "400"): lambda s: s.admin.request("GET", "/v1/dlq/events?limit=501"),
    ("GET", "/v1/dlq/events", "404"): lambda s: s.admin.request("GET", "/v1/dlq/events?id=nowhere/1"),
    ("GET", "/v1/tx", "200"): lambda s: s.app.list(),
    ("GET", "/v1/tx", "400"): lambda s: s.app.list(state="nonsense"),
    ("GET", "/v1/tx/{gtid}", "200"): lambda s: s.app.get(committed(s)),
    ("GET", "/v1/tx/{gtid}", "202"): lambda s: on_held(s, "GET", ""),
    ("GET", "/v1/tx/{gtid}", "400"): lambda s: s.app.get(committed(s), for_="nothing"),
    ("GET", "/v1/tx/{gtid}", "404"): lambda s: s.app.get("shop.aaaaaaaaaaaa.1.1"),
    ("GET", "/v1/tx/{gtid}", "409"): lambda s: s.app.get(aborted(s)),
    ("POST", "/v1/tx/{gtid}/abort", "200"): lambda s: s.app.request("POST", f"/v1/tx/{aborted(s)}/abort"),
    ("POST", "/v1/tx/{gtid}/abort", "202"): lambda s: s.app.request("POST", f"/v1/tx/{run_pending(s).gtid}/abort"),
    ("POST", "/v1/tx/{gtid}/abort", "400"): lambda s: s.app.request("POST", f"/v1/tx/{committed(s)}/abort?colour=red"),
    ("POST", "/v1/tx/{gtid}/abort", "404"): lambda s: s.app.request("POST", "/v1/tx/shop.aaaaaaaaaaaa.1.1/abort"),
    ("POST", "/v1/tx/{gtid}/abort", "409"): lambda s: s.app.request("POST", f"/v1/tx/{committed(s)}/abort"),
    ("GET", "/v1/sagas", "200"): lambda s: (stuck(s), s.app.request("GET", "/v1/sagas?state=stuck&limit=1"))[1],
    ("GET", "/v1/sagas", "400"): lambda s: s.app.request("GET", "/v1/sagas?state=ended"),
    ("GET", "/v1/sagas/{saga}", "200"): lambda s: s.app.request("GET", f"/v1/sagas/{completed(s)}"),
    ("GET", "/v1/sagas/{saga}", "202"): lambda s: s.app.request("GET", f"/v1/sagas/{stuck(s)}?timeout=5s"),
    ("GET", "/v1/sagas/{saga}", "400"): lambda s: s.app.request("GET", f"/v1/sagas/{completed(s)}?timeout=soon"),
    ("GET", "/v1/sagas/{saga}", "404"): lambda s: s.app.request("GET", f"/v1/sagas/{NOBODY}"),
    ("GET", "/v1/sagas/{saga}", "409"): lambda s: s.app.request("GET", f"/v1/sagas/{compensated(s)}"),
    ("POST", "/v1/sagas/{saga}/cancel", "200"): lambda s: s.app.request("POST", f"/v1/sagas/{compensated(s)}/cancel"),
    ("POST", "/v1/sagas/{saga}/cancel", "202"): lambda s: s.app.request("POST", f"/v1/sagas/{sleeping(s)}/cancel"),
    ("POST", "/v1/sagas/{saga}/cancel", "400"): lambda s: s.app.request("POST", f"/v1/sagas/{completed(s)}/cancel?colour=red"),
    ("POST", "/v1/sagas/{saga}/cancel", "404"): lambda s: s.app.request("POST", f"/v1/sagas/{NOBODY}/cancel"),
    ("POST", "/v1/sagas/{saga}/cancel", "409"): lambda s: s.app.request("POST", f"/v1/sagas/{completed(s)}/cancel"),
    ("GET", "/v1/dlq", "200"): lambda s: (stuck(s), s.admin.request("GET", "/v1/dlq"))[1],
    ("GET", "/v1/dlq", "400"): lambda s: s.admin.request("GET", "/v1/dlq?limit=0"),
    ("POST", "/v1/dlq/{saga}/retry", "202"): lambda s: dlq(s, stuck(s), "retry", {"reason": "again"}),
    ("POST", "/v1/dlq/{saga}/skip", "202"): lambda s: dlq(s, stuck(s), "skip"),
    ("POST", "/v1/dlq/{saga}/compensate", "202"): lambda s: dlq(s, never_passed(s), "compensate"),
    ("GET", "/v1/participants", "200"): lambda s: s.admin.participants(),
    ("GET", "/livez", "200"): lambda s: s.admin.request("GET", "/livez"),
    ("GET", "/readyz", "200"): lambda s: s.admin.request("GET", "/readyz"),
    ("GET", "/readyz", "503"): readyz_unavailable,
    ("GET", "/metrics", "200"): lambda s: s.admin.request("GET", "/metrics"),
})


for _word in ("retry", "skip", "compensate", "refuse"):
    TRIGGERS.update({
        ("POST", f"/v1/dlq/{{saga}}/{_word}", "400"): lambda s, word=_word: dlq(s, stuck(s), word, {"colour": "red"}),
        ("POST", f"/v1/dlq/{{saga}}/{_word}", "404"): lambda s, word=_word: dlq(s, NOBODY, word),
        ("POST", f"/v1/dlq/{{saga}}/{_word}", "409"): lambda s, word=_word: dlq(s, sleeping(s), word),
    })


for _word in ("retry", "skip", "compensate"):
    TRIGGERS.update({
        ("POST", f"/v1/dlq/events/{_word}", "200"): lambda s, word=_word: act(s, word, {"id": letter(s), "reason": "mended"}),
        ("POST", f"/v1/dlq/events/{_word}", "400"): lambda s, word=_word: act(s, word, {"colour": "red"}),
        ("POST", f"/v1/dlq/events/{_word}", "404"): lambda s, word=_word: act(s, word, {"id": "balance/orders/7/public.pack"}),
        ("POST", f"/v1/dlq/events/{_word}", "503"): lambda s, word=_word: away(s, lambda name: act(s, word, {"id": name})),
    })


def trigger_of(method, template, status):
    if (method, template, status) in TRIGGERS:
        return TRIGGERS[(method, template, status)]
    if status == "401":
        return lambda s: App(s.coordinator, (s.authority.ca, None, None)).request(method, path_of(s, template), "{}" if method == "POST" else None)
    if status == "403":
        # no agent may speak HTTP
        return lambda s: s.coordinator.app("orders", "agent").request(method, path_of(s, template), "{}" if method == "POST" else None)
    return None


@pytest.mark.parametrize("method,template,status", sorted(DOCUMENTED - CANNOT))
def test_documented_status_comes(calm, method, template, status):
    trigger = trigger_of(method, template, status)
    assert trigger is not None, f"no way is known to get {status} from {method} {template}"
    answer = trigger(calm)
    assert str(answer.status) == status, answer


@pytest.mark.parametrize("method,template", UNDOCUMENTED)
def test_undocumented_method_is_refused(calm, method, template):
    answer = calm.admin.request(method, path_of(calm, template), "{}" if method in ("POST", "PUT", "PATCH") else None)
    # POST /v1/tx is a path of the design that this version does not have: 404
    assert answer.status in (404, 405), answer
    if answer.status == 405:
        assert answer.headers.get("Allow"), answer.headers


def test_document_is_sound():
    document = CONTRACT.document
    assert document["openapi"].startswith("3.1")
    identifiers = [operation["operationId"] for operation in CONTRACT.routes.values()]
    assert len(identifiers) == len(set(identifiers))
    for name, schema in document["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema, name

    def references(node):
        if isinstance(node, dict):
            for key, value in node.items():
                if key == "$ref":
                    yield value
                else:
                    yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    used = set(references(document))
    for reference in used:
        CONTRACT.resolve({"$ref": reference})
    for part in ("schemas", "responses", "parameters", "requestBodies"):
        for name in document["components"].get(part, {}):
            assert f"#/components/{part}/{name}" in used, f"components/{part}/{name} is used nowhere"


def test_sent_documents_match_their_schema():
    """What the tests send as good documents is good by the schema, too; what the schema refuses is not sent as good."""
    schema = CONTRACT.document["components"]["schemas"]["Document"]
    resolver = jsonschema.RefResolver("", CONTRACT.document)
    validator = jsonschema.Draft202012Validator(schema, resolver=resolver)
    validator.validate({"mode": "2pc", "steps": put("k", *NAMES), "isolation": "serializable", "deadline": "1s", "lock_timeout": "5s"})
    validator.validate({"mode": "2pc", "steps": [step("orders", "select $1", None, True, 7, "x", {"json": [1]}, name="a"),
                                                 step("balance", "select $1", {"ref": "a.rows.0.x"}, expect_rows=1, after=["a", 0])]})
    for bad in ({"mode": "2pc"}, {"mode": "2pc", "steps": []}, {"mode": "2pc", "steps": put("k", "orders"), "colour": "red"},
                {"mode": "2pc", "steps": [step("orders", "select $1", 1.5)]}):
        assert list(validator.iter_errors(bad)), bad
