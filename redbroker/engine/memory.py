"""The engine without a server: for tests of services, in one process and nothing left behind.

    async with memory_engine(settings, now_ms=clock) as engine: ...

Everything is the real engine's (topics, log, groups, offsets, their caches and machines) except the lowest step: where
`Storage` sends a script to Redis, `MemoryStorage` runs the same operation in Python (`memory_scripts`), on the caller's
clock; where `Tail` subscribes, `MemoryTail` is told directly. Answers come in the next turn of the event loop, as from
a server that is very near. Time stands still unless the caller moves its clock; `moved` then wakes whoever waits.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, cast

from redbroker.engine import Engine, assemble
from redbroker.engine.durability import Durability
from redbroker.engine.memory_scripts import SCRIPTS
from redbroker.engine.memory_store import Memory
from redbroker.engine.scripts import Script
from redbroker.engine.tail import Channel, Tail
from redbroker.errors import ErrorCode, KafkaError

if TYPE_CHECKING:
    from redbroker.config import Settings
    from redbroker.engine.connection import Storage

CLUSTER_ID = "in-memory-cluster-0000"
NEVER_MS = 10**10


class MemoryStorage:
    """What the engine uses of `Storage`, over Python's own dictionaries."""

    replicas = 0
    knows_the_away = True

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self.memory = Memory(now_ms)

    def call(self, key: bytes, *words: Any, kind: object = None) -> asyncio.Future[Any]:
        """One of the few commands that the engine sends outside scripts."""
        return _answer(lambda: self.memory.command(*words))

    def run(
        self, script: Script, keys: tuple[bytes, ...], args: Any, *, once: bool = False, kind: object = None
    ) -> asyncio.Future[Any]:
        """One operation, whole or not at all."""
        named = dict(zip(script.keys, keys, strict=True))
        return _answer(lambda: SCRIPTS[script.name](self.memory, named, *args))

    async def run_acked(
        self, script: Script, keys: tuple[bytes, ...], args: Any, *, replicas: int, timeout_ms: int, once: bool = False
    ) -> tuple[Any, int]:
        """The same, with the count of replicas that have it: none, for there are none."""
        return await self.run(script, keys, args), 0

    def each_master(self, *words: Any, kind: object = None) -> dict[str, asyncio.Future[Any]]:
        """There are none to ask."""
        return {}

    def master_of(self, key: bytes) -> str:
        """All keys are here."""
        return "memory"

    def on_topology_change(self, callback: Callable[[], None]) -> None:
        """Nothing ever moves."""


def _answer(work: Callable[[], Any]) -> asyncio.Future[Any]:
    """Done at once, so that calls keep their order, and told in the next turn, so that nobody's loop starves others."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    try:
        result = work()
    except KafkaError as refused:
        loop.call_soon(_settle, future, None, refused)
    else:
        loop.call_soon(_settle, future, result, None)
    return future


def _settle(future: asyncio.Future[Any], result: Any, refused: KafkaError | None) -> None:
    if future.done():
        return
    if refused is None:
        future.set_result(result)
    else:
        future.set_exception(refused)


class MemoryTail(Tail):
    """Announcements without subscriptions: every channel is confirmed from its beginning."""

    def __init__(self, storage: MemoryStorage, settings: Settings) -> None:
        super().__init__(cast("Storage", storage), settings)
        storage.memory.publish = self.heard

    def moved_clock(self) -> None:
        """The clock was moved: who waits for a time looks again."""
        for channel in list(self._channels.values()):
            channel.uncertain()

    def _channel(self, name: bytes) -> Channel:
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = Channel(name)
            self._confirmations += 1
            channel.confirmed = self._confirmations
        return channel


@contextlib.asynccontextmanager
async def memory_engine(settings: Settings, now_ms: Callable[[], int]) -> AsyncIterator[Engine]:
    """An engine that forgets everything at the end of the block. `settings.storage_url` is not looked at."""
    if settings.replicas:
        raise KafkaError(ErrorCode.INVALID_CONFIG, "replicas: an engine in memory has none.")
    # Nobody else comes together with the members of a test, and its clock stands still: they need not wait.
    # What is stored stays for as long as the test lasts: nothing is trimmed or compacted.
    settings = settings.model_copy(
        update={
            "group_initial_rebalance_delay_ms": 0,
            "cluster_id": CLUSTER_ID,
            "retention_check_ms": NEVER_MS,
            "compaction_check_ms": NEVER_MS,
        }
    )
    async with contextlib.AsyncExitStack() as stack:
        storage = MemoryStorage(now_ms)
        tail = MemoryTail(storage, settings)
        stack.push_async_callback(tail.close)
        yield await assemble(settings, cast("Storage", storage), tail, Durability(settings, 0), [], stack)
