"""A worker without storage, and clients that speak raw bytes to it: for tests of the Kafka door itself.

`serving_raw(settings)` serves the real registry and the APIs below, whose handlers the test steers through `Stage`.

    ECHO    answers `number` after the event `Stage.gates[number]`, at once without one; records start and end
    LARGE   answers `nbytes` bytes, in its turn
    PARKED  waits for ever, until the worker drains
    BROKEN  raises what `Stage.raises` holds; BARE the same, but has no refusal
    SILENT  answers nothing
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

from redbroker.broker.api import APIS, api
from redbroker.broker.context import Context
from redbroker.broker.server import Server, serving
from redbroker.config import Settings
from redbroker.engine.counts import JanitorCounts
from redbroker.errors import ErrorCode, KafkaError
from redbroker.metrics import StorageCells

NUMBER = "number i64"
STAGED_KEYS = ECHO_KEY, LARGE_KEY, PARKED_KEY, BROKEN_KEY, BARE_KEY, SILENT_KEY = tuple(range(10_001, 10_007))


class Stage:
    """What the handlers did, and what they are told to do."""

    def __init__(self) -> None:
        self.gates: dict[int, asyncio.Event] = {}
        self.started: list[int] = []
        self.ended: list[int] = []
        self.cancelled: list[int] = []
        self.running = self.running_max = 0
        self.raises: Exception = KafkaError(ErrorCode.POLICY_VIOLATION)

    def gate(self, number: int) -> asyncio.Event:
        """An event that request `number` of ECHO will wait for."""
        return self.gates.setdefault(number, asyncio.Event())


class RawWorkers:
    """The part of `engine.workers` that a server needs; remembers what it was told."""

    def __init__(self) -> None:
        self.node_id = 7
        self.registered: tuple[Any, ...] | None = None
        self.deregistered = 0
        self.deregister_fails: Exception | None = None

    async def register(self, host: str, port: int, rack: str | None = None) -> int:
        """Take node id 7."""
        self.registered = (host, port, rack)
        return self.node_id

    async def deregister(self) -> None:
        """Give it back, or fail as told."""
        self.deregistered += 1
        if self.deregister_fails:
            raise self.deregister_fails


class RawEngine:
    """An engine that stores nothing."""

    def __init__(self) -> None:
        self.workers = RawWorkers()
        self.topics = None
        self.groups = SimpleNamespace(rebalances={})
        self.storage = SimpleNamespace(cells=StorageCells())
        self.survey = RawSurvey()
        self.janitor = SimpleNamespace(counts=JanitorCounts())


class RawSurvey:
    """A survey of a Redis that is away."""

    async def nodes(self) -> Any:
        """Refuse, as the engine does."""
        raise KafkaError(ErrorCode.NOT_LEADER_OR_FOLLOWER, "Redis is away.")


@contextlib.contextmanager
def staged_apis(stage: Stage) -> Iterator[None]:
    """The steered APIs, registered for the time of the block."""
    _register(stage)
    try:
        yield
    finally:
        for key in STAGED_KEYS:
            del APIS[key]


def _register(stage: Stage) -> None:
    def plain(key: int, name: str, **options: Any) -> Any:
        return api(key=key, name=name, versions="0", flexible=None, request=NUMBER, response=NUMBER, **options)

    Echo, Parked, Silent = plain(ECHO_KEY, "Echo"), plain(PARKED_KEY, "Parked", parks=True), plain(SILENT_KEY, "Silent")
    Broken, Bare = plain(BROKEN_KEY, "Broken"), plain(BARE_KEY, "Bare")
    Large = api(
        key=LARGE_KEY, name="Large", versions="0", flexible=None, request=NUMBER, response="data bytes", parks=True,
        in_turn=True,
    )  # fmt: skip

    @Echo
    async def echo(request: Any, ctx: Context) -> Any:
        stage.started.append(request.number)
        stage.running += 1
        stage.running_max = max(stage.running, stage.running_max)
        try:
            if request.number in stage.gates:
                await stage.gates[request.number].wait()
        except asyncio.CancelledError:
            stage.cancelled.append(request.number)
            raise
        finally:
            stage.running -= 1
        stage.ended.append(request.number)
        return Echo.Response(number=request.number)

    @Large
    async def large(request: Any, ctx: Context) -> Any:
        stage.started.append(request.number)
        return Large.Response(data=bytes(request.number))

    @Parked
    async def parked(request: Any, ctx: Context) -> Any:
        stage.started.append(request.number)
        try:
            await ctx.server.parked(asyncio.Event().wait(), False)
        except asyncio.CancelledError:
            stage.cancelled.append(request.number)
            raise
        return Parked.Response(number=request.number)

    @Broken
    async def broken(request: Any, ctx: Context) -> Any:
        raise stage.raises

    @Broken.refuse
    def refusal(request: Any, error: KafkaError, version: int) -> Any:
        return Broken.Response(number=int(error.code))

    @Bare
    async def bare(request: Any, ctx: Context) -> Any:
        raise stage.raises

    @Silent
    async def silent(request: Any, ctx: Context) -> None:
        stage.started.append(request.number)


@contextlib.asynccontextmanager
async def serving_raw(stage: Stage | None = None, **settings: Any) -> AsyncIterator[Server]:
    """A ready server on a free port, over an engine that stores nothing."""
    given = {"port": 0, "drain_ms": 500, **settings}
    engine: Any = RawEngine()
    with staged_apis(stage or Stage()):
        async with serving(engine, Settings(**given)) as server:
            yield server


def request(
    key: int, number: int = 0, *, version: int = 0, correlation_id: int | None = None, body: bytes = b""
) -> bytes:
    """One framed request with a v1 header; without a body, `number` is the body and the correlation id."""
    correlation_id = number if correlation_id is None else correlation_id
    return framed(struct.pack(">hhih", key, version, correlation_id, 4) + b"test" + (body or struct.pack(">q", number)))


def framed(payload: bytes) -> bytes:
    """Any bytes with their size before them."""
    return struct.pack(">i", len(payload)) + payload


API_VERSIONS = framed(struct.pack(">hhih", 18, 0, 99, -1))
"""The smallest sensible request: every test that breaks something asks this of the others' connections."""


class Client:
    """One raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        """Hand bytes to the transport, as they are."""
        self.writer.write(data)

    async def answer(self, timeout_s: float = 5) -> tuple[int, bytes]:
        """(correlation id, body) of the next answer; `IncompleteReadError` when the connection is closed."""
        async with asyncio.timeout(timeout_s):
            size = int.from_bytes(await self.reader.readexactly(4), "big")
            frame = await self.reader.readexactly(size)
        return int.from_bytes(frame[:4], "big"), frame[4:]

    async def numbers(self, count: int) -> list[int]:
        """The correlation ids of the next answers."""
        return [(await self.answer())[0] for _ in range(count)]

    async def closed(self, timeout_s: float = 5) -> bool:
        """Read to the end: True when the server closed the connection (with whatever it still sent)."""
        try:
            async with asyncio.timeout(timeout_s):
                while await self.reader.read(1 << 16):
                    pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True


@contextlib.asynccontextmanager
async def connected(server: Server, *, receive_bytes: int | None = None) -> AsyncIterator[Client]:
    """A raw client of this server; a small `receive_bytes` keeps the kernel from buffering answers for it."""
    sock = socket.socket()
    if receive_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", server.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=1 << 16)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


async def until(condition: Any, timeout_s: float = 5) -> None:
    """Wait until a condition of the server holds; fails after `timeout_s`."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - conditions of plain data have no event
            await asyncio.sleep(0.005)
