"""The coordinator's end of a link, played by a test: for what the agent does with frames that the coordinator sends rarely, or not at that moment."""

import asyncio
import itertools
import queue
import ssl
import struct
import threading
import time

from .base import wait_until
from .proxy import on_loop, wire

INCARNATION = "0a1b2c3d4e5f"


class LinkDriver:
    """Listens where one agent dials; welcomes it, answers its inquiries with "abort", pings, and keeps what else it says."""

    def __init__(self, authority, name="shop", *, version=2, number=1):
        self.name, self.authority, self.version, self.number = name, authority, version, number
        self.frames = queue.Queue()  # votes, dones and kepts, as they come
        self.sequence = itertools.count(1)
        self.epoch, self.position = 1, 4096
        self.ready, self.writer = threading.Event(), None
        files = authority.files(f"lockstep://coordinator/{name}")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files[0])
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(files[1], files[2])
        wire()

        async def listen():
            self.pinging = asyncio.get_running_loop().create_task(self.ping())
            return await asyncio.start_server(self.serve, "127.0.0.1", 0, ssl=context)

        self.server = on_loop(listen())
        self.address = self.server.sockets[0].getsockname()[:2]

    # -- the link

    async def serve(self, reader, writer):
        self.writer = writer
        try:
            while True:
                frame = wire().Frame()
                frame.ParseFromString(await reader.readexactly(struct.unpack("!I", await reader.readexactly(4))[0]))
                self.take(frame)
        except (OSError, EOFError):
            pass
        finally:
            writer.close()
            if self.writer is writer:
                self.writer = None
                self.ready.clear()

    def take(self, frame):
        kind, answer = frame.WhichOneof("body"), wire().Frame()
        if kind == "hello":
            answer.welcome.version, answer.welcome.coordinator, answer.welcome.number = self.version, self.name, self.number
            if frame.HasField("fence"):
                answer.welcome.chain_at = frame.fence.position * 7
            self.put(answer)
        elif kind == "inquiry":
            answer.answer.token = frame.inquiry.token
            for item in frame.inquiry.items:
                answer.answer.items.add(gid=item.gid, xid=item.xid, verdict=wire().VERDICT_ABORT)
            self.put(answer)
        elif kind == "ping":
            answer.pong.token = frame.ping.token
            self.put(answer)
        elif kind == "ready":
            self.ready.set()
        elif kind in ("vote", "done", "kept"):
            self.frames.put(frame)

    def put(self, frame):
        """From the loop's own thread."""
        fence = frame.fence
        fence.incarnation, fence.epoch, fence.position, fence.chain = INCARNATION, self.epoch, self.position, self.position * 7
        payload = frame.SerializeToString()
        if self.writer is not None:
            self.writer.write(struct.pack("!I", len(payload)) + payload)

    def send(self, frame):
        async def work():
            self.put(frame)
        on_loop(work())

    async def ping(self):
        while True:
            frame = wire().Frame()
            frame.ping.token = 1
            self.put(frame)
            await asyncio.sleep(1)

    def close(self):
        async def work():
            self.pinging.cancel()
            self.server.close()
            if self.writer is not None:
                self.writer.close()
        on_loop(work())

    def wait_ready(self, deadline=20):
        assert self.ready.wait(deadline), "the agent is ready"

    def wait_gone(self, deadline=20):
        wait_until(lambda: self.writer is None, deadline, "the link is closed")

    # -- what is said

    def gtid(self, sequence=None, *, attempt=True):
        """Of a one-participant transaction, or (attempt=False) of a saga."""
        return f"{self.name}.{INCARNATION}.{self.epoch}.{next(self.sequence) if sequence is None else sequence}" + (f"-{self.number}" if attempt else "")

    def step(self, saga, step, op, *statements, app="app/checkout", gtid=None, deadline_ms=30000, lock_timeout_ms=5000, result_max=None, isolation=0):
        """Sends one attempt; its gtid. A statement is SQL, or (SQL, arguments) or (SQL, arguments, expected rows)."""
        frame = wire().Frame()
        work = frame.work
        work.gtid = gtid or self.gtid()
        work.part, work.last, work.one_phase, work.app, work.isolation = 0, True, True, app, isolation
        work.deadline_ms, work.lock_timeout_ms = deadline_ms, lock_timeout_ms
        if saga is not None:
            work.saga.saga, work.saga.step, work.saga.op = saga, step, {"do": 0, "undo": 1, "cancel": 2}[op]
            if result_max is not None:
                work.saga.result_max = result_max
        for index, statement in enumerate(statements):
            sql, arguments, expected = (statement, ()) + (None,) if isinstance(statement, str) else (*statement, None)[:3]
            entry = work.statements.add(step=index, sql=sql)
            for argument in arguments:
                value = entry.args.add()
                if argument is not None:
                    value.text = str(argument)
            if expected is not None:
                entry.expect_rows = expected
        self.send(frame)
        return work.gtid

    def wait(self, kind, gtid=None, deadline=20):
        """The next frame of that kind (about that gtid); others are passed over."""
        end = time.monotonic() + deadline
        while True:
            left = end - time.monotonic()
            assert left > 0, f"{kind} {gtid or ''} within {deadline} s"
            try:
                frame = self.frames.get(timeout=left)
            except queue.Empty:
                continue
            if frame.WhichOneof("body") == kind and gtid in (None, getattr(getattr(frame, kind), "gtid", None)):
                return getattr(frame, kind)

    def attempt(self, *words, **options):
        """One attempt's vote."""
        return self.wait("vote", self.step(*words, **options))

    def settle(self, gtid):
        frame = wire().Frame()
        frame.settle.gtid = gtid
        self.send(frame)
        return self.wait("done", gtid)

    def forget(self, sagas=(), up_to=None, token=None):
        frame = wire().Frame()
        frame.forget.SetInParent()
        frame.forget.sagas.extend(sagas)
        if token is not None:
            frame.forget.token = token
        if up_to is not None:
            frame.forget.outcome_epoch, frame.forget.outcome_sequence = self.epoch, up_to
        self.send(frame)
