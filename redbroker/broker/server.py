"""One broker worker: listens, admits clients, watches over their connections, and leaves without dropping an answer.

    run()    listen -> register with the cluster -> `ready` … until drain() is done
    drain()  deregister, so that clients learn of the others -> stop accepting -> parked requests are answered at once
             -> what is in flight is answered, for at most drain_ms -> close

A worker holds no state that is not in Redis (but fetch sessions, which clients recreate), so killing it is safe too:
draining only spares clients the reconnect with requests in flight. Redis going away does not stop a worker: requests
are refused with retriable errors until it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import anyio

from redbroker.broker.api import load
from redbroker.broker.connection import Connection
from redbroker.broker.context import Broker
from redbroker.broker.frames import SCRATCH_BYTES, FrameBudget
from redbroker.broker.observer import Observer
from redbroker.broker.sessions import FetchSessions
from redbroker.errors import KafkaError

if TYPE_CHECKING:
    from redbroker.broker.http import HttpServer
    from redbroker.config import Settings
    from redbroker.engine import Engine

__all__ = ["Server", "serving"]

log = logging.getLogger(__name__)

WATCH_S = 0.25  # how often time-outs and the loop's lag are looked at
BACKLOG = 1_024
REGISTER_RETRY_S = 2.0


class Server:
    """The Kafka door of one worker. `ready` is set when clients can connect; `port` is then the real one."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine = engine
        self.settings = settings
        self.broker = Broker(engine, settings, FetchSessions(settings.fetch_sessions_max))
        self.metrics = self.broker.metrics
        self.observer = Observer(self.broker)
        self.connections: set[Connection] = set()
        self.budget = FrameBudget(settings.frame_bytes_in_flight_max, self.connections)
        self.scratch = memoryview(bytearray(SCRATCH_BYTES))
        self.ready = anyio.Event()
        self.port = settings.port
        self.http: HttpServer | None = None
        self._listener: asyncio.Server | None = None
        self._drained = anyio.Event()
        self._left: anyio.Event | None = None  # set when draining, and all clients are gone
        self._admission_warned_s = float("-inf")
        gauges = self.metrics.gauges
        gauges["redbroker_worker_ready"] = ("Whether clients are accepted.", lambda: int(self.accepting))
        gauges["redbroker_connections"] = ("Open client connections.", lambda: len(self.connections))
        gauges["redbroker_frame_bytes"] = ("Bytes of request frames held.", lambda: self.budget.held_bytes)
        gauges["redbroker_fetch_sessions"] = ("Fetch sessions held.", lambda: len(self.broker.fetch_sessions))

    # --- life -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until `drain` has been called and is done; cancelling closes everything at once."""
        try:
            self._take_http_port()
            await self._listen()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch)
                if self.http is not None:
                    tasks.start_soon(self.http.run_here)
                    await self.http.listening.wait()
                self.ready.set()
                await self._drained.wait()
                if self.http is not None:
                    self.http.should_exit = True
                tasks.cancel_scope.cancel()
        finally:
            self._close()

    async def drain(self) -> None:
        """Leave in good order; returns when the last answer has left or `drain_ms` is over. Safe to call twice."""
        if self.broker.draining.is_set():
            await self._drained.wait()
            return
        patience_s = self.settings.drain_ms / 1_000
        with anyio.move_on_after(patience_s):
            await self._deregister()
        if self._listener is not None:
            self._listener.close()
        self.broker.drain()
        for connection in list(self.connections):
            connection.drain()
        if self.connections:
            self._left = anyio.Event()
            with anyio.move_on_after(patience_s):
                await self._left.wait()
        self._drained.set()

    async def _listen(self) -> None:
        load()
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            lambda: Connection(self), self.settings.host, self.settings.port, backlog=BACKLOG
        )
        for listening in self._listener.sockets:  # accepted sockets inherit it: half-open clients are found out
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.port = int(self._listener.sockets[0].getsockname()[1])
        await self._register()

    async def _register(self) -> None:
        """Join the workers. A Redis that takes no write now (its disk is full, no replica is in step) is waited for."""
        host, port = self.advertised
        ends = time.monotonic() + self.settings.storage_start_ms / 1000
        while True:
            try:
                await self.engine.workers.register(host, port, self.settings.rack)
                return
            except KafkaError as refused:
                left_s = ends - time.monotonic()
                if not refused.retriable or left_s <= 0:
                    raise
                log.warning("Waiting up to %.0f s more for the storage (storage_start_ms): %s", left_s, refused.message)
                await asyncio.sleep(min(REGISTER_RETRY_S, left_s))

    def _take_http_port(self) -> None:
        """First of all: clients must not hear of a worker that ends because this port is taken."""
        if self.settings.http_port is not None:
            from redbroker.broker.http import HttpServer  # only a worker with an HTTP port pays for this import

            self.http = HttpServer(self)

    async def _deregister(self) -> None:
        """Tell the cluster that this worker leaves; without Redis its registration merely times out."""
        try:
            await self.engine.workers.deregister()
        except KafkaError as error:
            log.warning("The worker could not deregister and will time out instead: %s", error)

    def _close(self) -> None:
        self._drained.set()
        self.observer.close()
        if self.http is not None:
            self.http.close()
        if self._listener is not None:
            self._listener.close()
        for connection in list(self.connections):
            connection.close("stopped")

    # --- what others ask --------------------------------------------------------------------------------------

    @property
    def advertised(self) -> tuple[str, int]:
        """(host, port) that clients are told: `advertise`, or where we listen."""
        if self.settings.advertise:
            host, _, port = self.settings.advertise.rpartition(":")
            return host.strip("[]"), int(port) or self.port
        wildcard = self.settings.host in ("", "0.0.0.0", "::")
        return (socket.gethostname() if wildcard else self.settings.host), self.port

    @property
    def accepting(self) -> bool:
        """True from `ready` to the beginning of `drain`."""
        return self.ready.is_set() and not self.broker.draining.is_set()

    def figures(self) -> dict[str, Any]:
        """What /healthz shows."""
        return {
            "accepting": self.accepting,
            "node_id": self.broker.node_id if self.ready.is_set() else None,
            "connections": len(self.connections),
            "frame_bytes": self.budget.held_bytes,
            "event_loop_lag_s": round(self.metrics.loop_lag_s, 6),
        }

    def admit(self, connection: Connection) -> bool:
        """Whether a new client may stay."""
        if len(self.connections) >= self.settings.connections_max:
            self.metrics.connections_refused += 1
            now_s = asyncio.get_running_loop().time()
            if now_s - self._admission_warned_s > 1:
                self._admission_warned_s = now_s
                log.warning("Clients are refused: connections_max = %d are open.", self.settings.connections_max)
            return False
        if self.broker.draining.is_set():
            return False
        self.metrics.connections_accepted += 1
        self.connections.add(connection)
        return True

    def forget(self, connection: Connection) -> None:
        """A client is gone."""
        self.connections.discard(connection)
        if self._left is not None and not self.connections:
            self._left.set()

    # --- watching over connections ----------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Measure how late the loop is, and close the connections that time out."""
        loop = asyncio.get_running_loop()
        while True:
            due_s = loop.time() + WATCH_S
            await anyio.sleep(WATCH_S)
            now_s = loop.time()
            self.metrics.late(max(0.0, now_s - due_s))
            self._close_silent(now_s)

    def _close_silent(self, now_s: float) -> None:
        """Close who has been idle too long, and sooner who stopped in the middle of something.

        While memory is short a frame must come to its end in that time, not merely trickle on.
        """
        idle_s, stalled_s = self.settings.idle_connection_ms / 1_000, self.settings.stalled_connection_ms / 1_000
        short = self.budget.crowded or self.budget.full
        for connection in list(self.connections):
            if connection.stalled_s(now_s) > stalled_s or (short and connection.unfinished_s(now_s) > stalled_s):
                connection.close("stalled")
            elif connection.idle_s(now_s) > idle_s:
                connection.close("idle")


@contextlib.asynccontextmanager
async def serving(engine: Engine, settings: Settings) -> AsyncIterator[Server]:
    """A ready server for the time of the `async with` block; it drains at the end."""
    server = Server(engine, settings)
    # A plain task, not a task group: what the block raises must leave it as it is, not wrapped in an ExceptionGroup.
    running = asyncio.create_task(server.run())
    ready = asyncio.create_task(server.ready.wait())
    try:
        await asyncio.wait((running, ready), return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        yield server
    finally:
        ready.cancel()
        with anyio.CancelScope(shield=True):
            await server.drain()
            await asyncio.wait((running,))
