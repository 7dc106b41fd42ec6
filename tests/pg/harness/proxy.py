"""Proxies that read what passes: PgProxy between agent and server, LinkProxy between agent and coordinator.

A Rule says at which message to act and how. Everything runs on one event loop in a thread; tests talk to it through Rule and the
proxies' methods, which may be called from any thread.

Actions of a rule:
  pass        forward (for counting, and for `before` and `after` hooks)
  drop        frames: this one is not forwarded. PostgreSQL, where a stream with a hole is no stream: nothing of the client passes any more, and
              after `delay` seconds of that silence both sides are closed
  duplicate   frames: forwarded twice, the second time `delay` seconds later. PostgreSQL: the server gets the whole batch a second time, as
              from a pooler that repeats what it believes lost; the client sees the first answer, or with `answer=1` the second
  hold        this message and what follows it in its direction waits for release(), or `delay` seconds
  reset       both sides are closed; the message is not forwarded
  reset_sent  (PostgreSQL) both sides are closed as soon as the whole batch was forwarded
  lose_reply  (PostgreSQL) forwarded; when the server has answered the whole batch, and after `delay`, both sides are closed, nothing of the
              answer passes
  hold_reply  (PostgreSQL) forwarded; the answer waits for release(), or `delay` seconds
  cancel      (PostgreSQL) forwarded; once the hook `after` has returned, the server gets a CancelRequest for this session
  cut         the client's side is closed, the server's side stays open and silent until the proxy closes: a server that has not noticed
"""

import asyncio
import contextlib
import functools
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading

from .base import folder, wait_until

PROTO = os.path.join(os.path.dirname(__file__), "..", "..", "..", "include", "lockstep", "lockstep.proto")
SSL_REQUEST, GSS_REQUEST, CANCEL_REQUEST = 80877103, 80877104, 80877102


@functools.lru_cache(maxsize=None)
def wire():
    """The module generated from lockstep.proto."""
    path = folder.make("proto")
    subprocess.run(["protoc", f"--python_out={path}", f"--proto_path={os.path.dirname(PROTO)}", PROTO], check=True)
    sys.path.insert(0, path)
    try:
        import lockstep_pb2
    finally:
        sys.path.remove(path)
    return lockstep_pb2


@functools.lru_cache(maxsize=None)
def event_loop():
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="proxies", daemon=True).start()
    return loop


def on_loop(coroutine, deadline=10):
    return asyncio.run_coroutine_threadsafe(coroutine, event_loop()).result(deadline)


class Rule:
    """One thing to do at messages for which match(message) is true, `times` times (None: always), after `skip` matches."""

    def __init__(self, match, action="pass", *, times=1, skip=0, before=None, after=None, delay=None, answer=0):
        self.match, self.action, self.left, self.skip = match, action, times, skip
        self.before, self.after = before, after
        self.delay, self.answer = delay, answer
        self.batch = None
        self.seen = []
        self._hit, self._done = threading.Event(), threading.Event()
        self._released = asyncio.Event()
        self.removed = False

    def takes(self, message):
        if self.removed or self.left == 0 or not self.match(message):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.left is not None:
            self.left -= 1
        self.seen.append(message)
        return True

    def hit(self):
        return self._hit.is_set()

    def wait_hit(self, deadline=10, what="the message the rule waits for passes"):
        assert self._hit.wait(deadline), f"not within {deadline} s: {what}"
        return self.seen[-1]

    def wait_done(self, deadline=10, what="the server answers the held message"):
        """lose_reply, hold_reply, cancel: the server has answered. duplicate: the copy was sent."""
        assert self._done.wait(deadline), f"not within {deadline} s: {what}"

    async def pause(self):
        """Until release(), or for the rule's delay."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._released.wait(), self.delay)

    def release(self):
        self.removed = True
        event_loop().call_soon_threadsafe(self._released.set)


class Connection:
    """One proxied connection; both proxies derive theirs from it."""

    def __init__(self, proxy, client_reader, client_writer):
        self.proxy = proxy
        self.client_reader, self.client_writer = client_reader, client_writer
        self.server_reader = self.server_writer = None
        self.tasks = []
        self.cut = False

    def close(self):
        for writer in (self.client_writer, self.server_writer):
            if writer is not None:
                writer.transport.abort()
        for task in self.tasks:
            task.cancel()
        self.proxy.connections.discard(self)

    def close_client_only(self):
        self.cut = True
        self.client_writer.transport.abort()

    async def run(self):
        try:
            await self.open()
            self.tasks = [asyncio.ensure_future(self.upwards()), asyncio.ensure_future(self.downwards())]
            await asyncio.wait(self.tasks, return_when=asyncio.FIRST_COMPLETED)
            if self.cut:
                await asyncio.Event().wait()
        except (OSError, asyncio.IncompleteReadError, ssl.SSLError) as error:
            self.proxy.errors.append(error)
        finally:
            self.close()

    async def hook(self, function, then=None):
        """Runs a test's function in a thread. `then` is set there too: what the function kills may end this very task."""
        if function is None:
            if then is not None:
                then.set()
            return

        def work():
            try:
                function()
            finally:
                if then is not None:
                    then.set()
        await asyncio.get_running_loop().run_in_executor(None, work)


class Proxy:
    """Listener, rules and open connections."""

    def __init__(self):
        self.rules, self.connections, self.errors = [], set(), []
        self.refusing = False
        self.server = None
        self._tasks = set()

    def rule(self, match, action="pass", **options):
        rule = Rule(match, action, **options)
        self.rules.append(rule)
        return rule

    def find(self, message):
        for rule in self.rules:
            if rule.takes(message):
                return rule
        return None

    async def accept(self, reader, writer):
        if self.refusing:
            writer.transport.abort()
            return
        connection = self.make_connection(reader, writer)
        self.connections.add(connection)
        task = asyncio.ensure_future(connection.run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([task])

    def break_links(self):
        """Closes every open connection."""
        async def work():
            for connection in list(self.connections):
                connection.close()
        on_loop(work())

    def partition(self):
        """Closes every connection and refuses new ones until heal()."""
        self.refusing = True
        self.break_links()

    def heal(self):
        self.refusing = False

    def clear(self):
        for rule in self.rules:
            rule.release()
        self.rules = []

    def close(self):
        self.clear()

        async def work():
            self.server.close()
            for task in list(self._tasks):
                task.cancel()
            for connection in list(self.connections):
                connection.close()
        on_loop(work())


# ---------------------------------------------------------------- PostgreSQL


class Statement:
    """A statement on its way to the server, as rules see it."""

    def __init__(self, connection, kind, sql):
        self.connection, self.kind, self.sql = connection, kind, sql

    def __repr__(self):
        return f"<{self.kind} {self.sql[:60]!r}>"


class Batch:
    """What a client sent up to one Sync, or one simple query, and what came back."""

    def __init__(self, connection):
        self.connection = connection
        self.sql, self.tags, self.errors, self.notices = [], [], [], []
        self.simple = False
        self.complete = self.answered = False
        self.rule = None
        self.raw = b""  # as it was forwarded
        self.copies, self.copy, self.shown = 1, 0, 0  # sent how often; which answer comes now; which one the client sees

    def __repr__(self):
        return f"<batch of {self.connection.parameters.get('user')}: {self.sql} -> {self.tags} {self.errors}>"


class PgConnection(Connection):
    """Speaks protocol 3.0 just well enough to know which statement passes and which answer belongs to it."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.parameters, self.named = {}, {}
        self.batches, self.answered = [], 0
        self.login_done = False
        self.pid, self.cancel_key = None, None

    async def open(self):
        self.server_reader, self.server_writer = await asyncio.open_unix_connection(self.proxy.target)
        while True:
            head = await self.client_reader.readexactly(8)
            length, code = struct.unpack("!II", head)
            rest = await self.client_reader.readexactly(length - 8)
            if code in (SSL_REQUEST, GSS_REQUEST):
                self.client_writer.write(b"N")
                continue
            self.server_writer.write(head + rest)
            if code != CANCEL_REQUEST:
                words = [word.decode() for word in rest.split(b"\0")]
                self.parameters = dict(zip(words[0::2], words[1::2]))
            return

    async def upwards(self):
        batch, parsed = Batch(self), b""
        while True:
            head = await self.client_reader.readexactly(5)
            kind, (length,) = head[:1].decode(), struct.unpack("!I", head[1:])
            payload = await self.client_reader.readexactly(length - 4)
            data, parsed = parsed + head + payload, b""
            statement = self.statement_of(kind, payload)
            rule = None
            if statement is not None:
                batch.sql.append(statement.sql)
                batch.simple = kind == "Q"
                rule = self.proxy.find(statement)
            if kind in "QS":
                batch.complete = True
                self.batches.append(batch)
                self.proxy.batches.append(batch)
            if kind == "P" and payload[:1] == b"\0":
                parsed = data  # goes with the Bind that follows: a rule acts before the server has seen anything of the statement
                continue
            if rule is not None and not await self.obey(rule, batch):
                return
            self.server_writer.write(data)
            await self.server_writer.drain()
            batch.raw += data
            if rule is not None and rule.action != "cancel":
                await self.hook(rule.after)
            if kind in "QS":
                if batch.rule is not None and not await self.obey_behind(batch.rule, batch):
                    return
                batch = Batch(self)

    async def obey(self, rule, batch):
        """False: do not forward, the connection ends."""
        rule.batch = batch
        if rule.action in ("lose_reply", "hold_reply", "duplicate", "cancel", "reset_sent"):
            batch.rule = rule
        if rule.action == "duplicate":
            batch.copies, batch.shown = 2, rule.answer
        await self.hook(rule.before, rule._hit)
        if rule.action == "hold":
            await rule.pause()
        elif rule.action == "drop":
            await rule.pause()
            self.close()
            return False
        elif rule.action == "reset":
            self.close()
            return False
        elif rule.action == "cut":
            self.close_client_only()
            return False
        return True

    async def obey_behind(self, rule, batch):
        """What a rule does when the whole batch is with the server. False: the connection ends."""
        if rule.action == "duplicate":
            self.server_writer.write(batch.raw)
            await self.server_writer.drain()
            rule._done.set()
        elif rule.action == "cancel":
            await self.hook(rule.after)
            await self.send_cancel()
        elif rule.action == "reset_sent":
            self.close()
            return False
        return True

    async def send_cancel(self):
        _, writer = await asyncio.open_unix_connection(self.proxy.target)
        writer.write(struct.pack("!II", 16, CANCEL_REQUEST) + self.cancel_key)
        await writer.drain()
        writer.close()

    def statement_of(self, kind, payload):
        """The statement that a message brings to execution, else None. A named statement counts when it is bound."""
        if kind == "Q":
            return Statement(self, kind, payload[:-1].decode())
        if kind == "P":
            name, sql = payload.split(b"\0", 2)[:2]
            self.named[name] = sql.decode()
        if kind == "B":
            return Statement(self, kind, self.named.get(payload.split(b"\0", 2)[1], "?"))
        return None

    async def downwards(self):
        held = b""
        while True:
            head = await self.server_reader.readexactly(5)
            kind, (length,) = head[:1].decode(), struct.unpack("!I", head[1:])
            payload = await self.server_reader.readexactly(length - 4)
            batch = self.batches[self.answered] if self.login_done and self.answered < len(self.batches) else None
            shown = batch is None or batch.copy == batch.shown
            self.note(batch, kind, payload)
            rule = batch.rule if batch is not None else None
            if rule is not None and rule.action in ("lose_reply", "hold_reply"):
                held += head + payload
                if kind != "Z":
                    continue
                rule._done.set()
                if rule.action == "hold_reply" or rule.delay:
                    await rule.pause()
                if rule.action == "lose_reply":
                    self.close()
                    return
                self.client_writer.write(held)
                held = b""
            elif shown:
                self.client_writer.write(head + payload)
            if rule is not None and rule.action == "cancel" and batch.answered:
                rule._done.set()
            await self.client_writer.drain()

    def note(self, batch, kind, payload):
        """Keeps what rules and tests want to know of an answer."""
        if kind == "K":
            self.cancel_key = payload
            (self.pid,) = struct.unpack("!I", payload[:4])
        if kind == "Z" and not self.login_done:
            self.login_done = True
        elif batch is not None and kind == "C":
            batch.tags.append(payload[:-1].decode())
        elif batch is not None and kind in "EN":
            fields = {part[:1]: part[1:].decode(errors="replace") for part in payload.split(b"\0") if part}
            (batch.errors if kind == "E" else batch.notices).append(fields.get(b"C"))
        elif batch is not None and kind == "Z":
            batch.copy += 1
            batch.answered = batch.copy == batch.copies
            self.answered += batch.answered
            if batch.answered:
                batch.raw = b""


class PgProxy(Proxy):
    """Stands before a cluster: a socket of the same file name in a folder of its own."""

    def __init__(self, cluster, port=5432):
        super().__init__()
        self.directory = folder.make("p")
        self.target = os.path.join(cluster.directory, f".s.PGSQL.{port}")
        self.path = os.path.join(self.directory, f".s.PGSQL.{port}")
        self.port = port
        self.batches = []

        async def listen():
            return await asyncio.start_unix_server(self.accept, self.path)

        self.server = on_loop(listen())

    def make_connection(self, reader, writer):
        return PgConnection(self, reader, writer)

    def conninfo(self, database, user="postgres"):
        return f"host={self.directory} port={self.port} dbname={database} user={user}"

    def at(self, beginning, action, **options):
        """A rule at statements that begin with the given words (letter case and leading white space do not count)."""
        words = beginning.lower()
        return self.rule(lambda s: s.sql.lstrip().lower().startswith(words), action, **options)


# ---------------------------------------------------------------- coordinator and agent


def wait_closed_on_pings(address, files, deadline=40):
    """A link that is an agent's by its certificate and says nothing but Ping: returns when the other side has closed it."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=files[0])
    context.check_hostname = False
    context.load_cert_chain(files[1], files[2])
    frame = wire().Frame()
    frame.ping.token = 1
    payload = frame.SerializeToString()
    with socket.create_connection(address, 10) as plain, context.wrap_socket(plain) as link:
        def closed():
            try:
                link.sendall(struct.pack("!I", len(payload)) + payload)
                link.settimeout(0.5)
                return link.recv(65536) == b""
            except (TimeoutError, ssl.SSLWantReadError):
                return False
            except OSError:
                return True
        wait_until(closed, deadline, "the other side closes the link")


class LinkMessage:
    """A frame on its way, as rules see it. `up` is towards the coordinator."""

    def __init__(self, connection, up, frame):
        self.connection, self.up, self.frame = connection, up, frame
        self.kind = frame.WhichOneof("body")
        self.body = getattr(frame, self.kind) if self.kind else None

    def __repr__(self):
        return f"<{'up' if self.up else 'down'} {self.kind}>"


class LinkConnection(Connection):
    async def open(self):
        self.server_reader, self.server_writer = await asyncio.open_connection(
            self.proxy.target[0], self.proxy.target[1], ssl=self.proxy.agent_context, server_hostname="localhost")

    async def upwards(self):
        await self.pump(True, self.client_reader, lambda: self.server_writer)

    async def downwards(self):
        await self.pump(False, self.server_reader, lambda: self.client_writer)

    async def pump(self, up, reader, writer):
        while True:
            head = await reader.readexactly(4)
            payload = await reader.readexactly(struct.unpack("!I", head)[0])
            frame = wire().Frame()
            frame.ParseFromString(payload)
            message = LinkMessage(self, up, frame)
            if message.kind not in ("ping", "pong"):
                self.proxy.log.append(message)
            rule = self.proxy.find(message)
            copies = 1
            if rule is not None:
                await self.hook(rule.before, rule._hit)
                if rule.action == "hold":
                    await rule.pause()
                elif rule.action == "reset":
                    self.close()
                    return
                elif rule.action == "drop":
                    copies = 0
                elif rule.action == "duplicate" and rule.delay:
                    self.send_again_later(rule, writer(), head + payload)
                elif rule.action == "duplicate":
                    copies = 2
                    rule._done.set()
            if writer().is_closing():
                return
            if rule is not None and rule.action == "trickle":
                await self.trickle(rule, writer(), head + payload)
            else:
                writer().write((head + payload) * copies)
                await writer().drain()
            if rule is not None:
                await self.hook(rule.after)


    async def trickle(self, rule, writer, data):
        """As over a slow line: the frame needs the rule's delay, and there is never silence."""
        pieces = 10 * rule.delay
        size = len(data) // pieces + 1
        for begin in range(0, len(data), size):
            writer.write(data[begin:begin + size])
            await writer.drain()
            await asyncio.sleep(rule.delay / pieces)

    def send_again_later(self, rule, writer, data):
        """Not more than the link itself would lose: a copy whose link is gone is gone."""
        async def again():
            await rule.pause()
            if not writer.is_closing():
                writer.write(data)
            rule._done.set()
        task = asyncio.ensure_future(again())
        self.proxy._tasks.add(task)
        task.add_done_callback(self.proxy._tasks.discard)


class LinkProxy(Proxy):
    """Stands between one agent and the coordinator, with the certificates of both."""

    def __init__(self, target, coordinator_files, agent_files):
        """`target`: (host, port) of the coordinator's agent listener, may be changed later; files: (ca, certificate, key)."""
        super().__init__()
        self.target = target
        self.log = []
        self.agent_context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=agent_files[0])
        self.agent_context.check_hostname = False
        self.agent_context.load_cert_chain(agent_files[1], agent_files[2])
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=coordinator_files[0])
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(coordinator_files[1], coordinator_files[2])
        wire()

        async def listen():
            return await asyncio.start_server(self.accept, "127.0.0.1", 0, ssl=context)

        self.server = on_loop(listen())
        self.address = self.server.sockets[0].getsockname()[:2]

    def make_connection(self, reader, writer):
        return LinkConnection(self, reader, writer)

    def at(self, kind, action, *, up=None, match=None, **options):
        """A rule at frames of one kind ("work", "vote", ...), of one direction where a kind goes both ways."""
        def matches(message):
            return (message.kind == kind and up in (None, message.up) and (match is None or match(message.body)))
        return self.rule(matches, action, **options)

    def inject(self, up, frame):
        """Sends a frame of the tests' own on the newest connection."""
        payload = frame.SerializeToString()

        async def work():
            connection = max(self.connections, key=id) if len(self.connections) > 1 else next(iter(self.connections))
            writer = connection.server_writer if up else connection.client_writer
            writer.write(struct.pack("!I", len(payload)) + payload)
            await writer.drain()
        on_loop(work())

    def wait_connected(self, deadline=10):
        wait_until(lambda: any(c.server_writer for c in list(self.connections)), deadline, "an agent has connected through the proxy")


