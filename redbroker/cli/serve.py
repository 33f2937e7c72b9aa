"""A worker's life: open the engine, open the Kafka door, say `ready`, serve until a signal, drain.

`redbroker dev`, `redbroker worker` and `workers/broker.py` all come here; there is no logic beyond composing.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import anyio

from redbroker.cli.logs import configure
from redbroker.cli.shared import storage_name
from redbroker.cli.tuning import tune
from redbroker.config import SettingsError
from redbroker.engine import Engine
from redbroker.errors import ErrorCode, KafkaError

if TYPE_CHECKING:
    from redbroker.broker.server import Server
    from redbroker.config import Settings

log = logging.getLogger("redbroker")

STARTED = time.monotonic()
RETRY_S = 2.0


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends it at once. Raises what one sentence explains."""
    configure(settings)
    with anyio.CancelScope() as life:
        signals = Signals(life)
        door = asyncio.create_task(asyncio.to_thread(_import_door))  # meanwhile an embedded server boots
        async with _storage_awaited(settings) as engine:
            for finding in engine.checks:
                log.warning(str(finding))
            server = (await door)(engine, settings)
            signals.server = server
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(server.run)
                    await server.ready.wait()
                    print(ready_line(server, engine), flush=True)
                    tune()
                    await signals.first.wait()
                    await server.drain()
            except* OSError as group:
                http = server.http is None and settings.http_port is not None
                raise _explained(group.exceptions[0], settings, http=http) from None
    log.info("stopped")


@contextlib.asynccontextmanager
async def _storage_awaited(settings: Settings) -> AsyncIterator[Engine]:
    """The engine, as soon as Redis is there: containers start in any order, and a failover may be under way."""
    ends = time.monotonic() + settings.storage_start_ms / 1000
    async with contextlib.AsyncExitStack() as stack:
        while True:
            try:
                engine = await stack.enter_async_context(Engine.open(settings))
                break
            except KafkaError as away:
                left_s, embedded = ends - time.monotonic(), settings.storage_url.startswith("embedded:")
                passes = away.retriable or away.code is ErrorCode.BROKER_NOT_AVAILABLE
                if embedded or not passes or left_s <= 0:
                    raise
                log.warning("Waiting up to %.0f s more for the storage (storage_start_ms): %s", left_s, away.message)
                await asyncio.sleep(min(RETRY_S, left_s))
        yield engine


def _import_door() -> type[Server]:
    """Import the Kafka door and every API module, the larger half of a start."""
    from redbroker.broker.api import load
    from redbroker.broker.server import Server

    load()
    return Server


class Signals:
    """The first SIGTERM or SIGINT asks for a drain, the second ends everything; before `ready`, the first does."""

    def __init__(self, life: anyio.CancelScope) -> None:
        self.life = life
        self.server: Server | None = None
        self.first = anyio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._heard)

    def _heard(self) -> None:
        if self.server is None or not self.server.ready.is_set() or self.first.is_set():
            self.life.cancel()
        self.first.set()


def ready_line(server: Server, engine: Engine) -> str:
    """What a person, a script or a test waits for: where clients connect, where the data lies, how long it took."""
    host, port = server.advertised
    workers = len(engine.workers.live())
    parts = [
        "ready",
        f"kafka {host}:{port}",
        f"storage {storage_name(engine.settings)}",
        *([f"acks=all {engine.durability}"] if not engine.settings.storage_url.startswith("embedded:") else []),
        *([f"http {server.settings.http_host}:{server.http.port}"] if server.http else []),
        f"({workers} worker{'' if workers == 1 else 's'}, {_age_ms():.0f} ms)",
    ]
    return "  ".join(parts)


def _age_ms() -> float:
    """Milliseconds since this process was started, the interpreter's own start included where the system tells."""
    try:
        with open("/proc/self/stat") as stat:
            started_ticks = int(stat.read().rpartition(")")[2].split()[19])
        return (time.clock_gettime(time.CLOCK_BOOTTIME) - started_ticks / os.sysconf("SC_CLK_TCK")) * 1_000
    except (OSError, AttributeError):
        return (time.monotonic() - STARTED) * 1_000


def _explained(error: BaseException, settings: Settings, *, http: bool) -> BaseException:
    """What keeps a port, the HTTP or the Kafka one, from being opened, with the settings to change."""
    if not isinstance(error, OSError):
        return error
    host, port = (settings.http_host, settings.http_port) if http else (settings.host, settings.port)
    flag = "--http-port" if http else "--port"
    if error.errno == errno.EADDRINUSE:
        return SettingsError(f"port {port} on {host} is in use: choose another with {flag}.")
    if error.errno == errno.EACCES:
        return SettingsError(f"port {port} on {host} is for privileged users only: choose another with {flag}.")
    reason = error.strerror if isinstance(error, socket.gaierror) or not error.errno else os.strerror(error.errno)
    return SettingsError(f"host {host} cannot be listened on: {reason or error}.")
