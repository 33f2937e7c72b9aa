"""What a handler gets beside the request: `Context`, one per request; `Broker`, one per worker.

A handler reaches storage through `ctx.engine` and nothing else. It never keeps state of its own: what must outlive
the request lives in Redis, except the fetch sessions of `ctx.server`, which a client recreates by itself when lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, TypeVar

import anyio

from redbroker.broker.leader_epochs import LeaderEpochs
from redbroker.broker.turnstile import Turnstile
from redbroker.metrics import Metrics

if TYPE_CHECKING:
    from redbroker.broker.sessions import FetchSessions
    from redbroker.config import Settings
    from redbroker.engine import Engine

T = TypeVar("T")


class Broker:
    """The worker as its handlers see it.

    `draining` is set when the worker begins to stop: from then on nothing may be parked. `fetch_sessions` are the
    KIP-227 sessions of this worker, `leader_epochs` what it told its clients,
    `metrics` what it counts.
    """

    __slots__ = (
        "_parked", "draining", "engine", "fetch_sessions", "leader_epochs", "metrics", "settings",
    )  # fmt: skip

    def __init__(self, engine: Engine, settings: Settings, fetch_sessions: FetchSessions) -> None:
        self.engine = engine
        self.settings = settings
        self.fetch_sessions = fetch_sessions
        self.metrics = Metrics(settings.metrics_topics_max)
        self.leader_epochs = LeaderEpochs(engine)
        self.draining = asyncio.Event()
        self._parked: set[anyio.CancelScope] = set()

    @property
    def node_id(self) -> int:
        """Kafka's broker id of this worker."""
        return self.engine.workers.node_id

    async def parked(self, wait: Awaitable[T], otherwise: T) -> T:
        """Await `wait`, but give `otherwise` at once when the worker is draining or begins to drain meanwhile.

        Every wait for something a client asked to be told of (more records, other members) belongs in here.
        """
        with anyio.CancelScope() as scope:
            if self.draining.is_set():
                scope.cancel()
            self._parked.add(scope)
            try:
                return await wait
            finally:
                self._parked.discard(scope)
        return otherwise

    def drain(self) -> None:
        """Set `draining` and end every parked wait."""
        self.draining.set()
        for scope in self._parked:
            scope.cancel()


class Context:
    """One request's surroundings. `version` is the request's API version; `client_id` is as the client sent it.

    `turnstile` keeps appends of one connection in order.

    A handler whose errors are values inside its response may set `error_code` to the first of them: it is only counted.
    One that answers with a throttle time sets `throttle_ms`: the client is not read from for so long (KIP-219).
    """

    __slots__ = (
        "client_host", "client_id", "correlation_id", "engine", "error_code", "server", "settings", "throttle_ms",
        "turnstile", "version",
    )  # fmt: skip

    def __init__(
        self,
        server: Broker,
        version: int,
        correlation_id: int,
        client_id: str | None,
        client_host: str,
        turnstile: Turnstile,
    ) -> None:
        self.engine = server.engine
        self.settings = server.settings
        self.server = server
        self.client_id = client_id
        self.client_host = client_host
        self.turnstile = turnstile
        self.version = version
        self.correlation_id = correlation_id
        self.error_code = 0
        self.throttle_ms = 0
