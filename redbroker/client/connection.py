"""The way of the SDK's clients to the storage: one engine, their own or one they share.

    async with Connection("redis://localhost:6379") as connection:          # one set of sockets for all three
        async with Producer(connection) as producer, Consumer("orders", storage=connection) as consumer: ...

    async with Producer("redis://localhost:6379") as producer: ...          # or one of its own

No constructor does I/O: it begins with `async with`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any

from redbroker.client.clock import Clock
from redbroker.client.config import ClientConfig, configure
from redbroker.config import Settings
from redbroker.engine import Engine

__all__ = ["Connection", "engine_of"]


class ConnectionConfig(ClientConfig):
    """Nothing but what all clients have, and the storage's settings."""


class Connection:
    """One engine shared by the clients of a process.

    `storage_url` is as in `redbroker.config.Settings` (None: `REDBROKER_STORAGE_URL`, else `embedded:`).
    Entering raises `StorageError`, in one sentence that names the setting, where the storage cannot be used.

        >>> connection = Connection("embedded:./data", key_prefix="shop")
        >>> connection.settings.key_prefix
        'shop'
    """

    clock = Clock()

    def __init__(self, storage_url: str | None = None, **settings: Any) -> None:
        _, self.settings = configure(ConnectionConfig, storage_url, None, settings)
        self._context: contextlib.AbstractAsyncContextManager[Engine] | None = None
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        """The open engine; RuntimeError outside `async with`."""
        if self._engine is None:
            raise RuntimeError("This connection is not open: use it inside `async with`.")
        return self._engine

    async def __aenter__(self) -> Connection:
        if self._engine is not None:
            raise RuntimeError("This connection is open already.")
        context = Engine.open(self.settings)
        self._engine = await context.__aenter__()
        self._context = context
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        context, self._context, self._engine = self._context, None, None
        if context is not None:
            await context.__aexit__(kind, error, trace)


@contextlib.asynccontextmanager
async def engine_of(shared: Connection | None, settings: Settings) -> AsyncIterator[Engine]:
    """The shared connection's engine, which stays open, or one of the client's own for the time of the block."""
    if shared is not None:
        yield shared.engine
        return
    async with Engine.open(settings) as engine:
        yield engine
