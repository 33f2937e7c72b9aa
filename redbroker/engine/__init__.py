"""The engine: Kafka's model on Redis. The only code that knows Redis; the Kafka door and the SDK both stand on it.

    async with Engine.open(settings) as engine:
        topic = await engine.topics.ensure("orders")
        await engine.log.append([Append(topic, 0, batch, header)], acks=-1, timeout_ms=5_000)

Nouns: `topics`, `log`, `groups`, `heartbeats`, `offsets`, `workers`, `durability`, `survey`, `pressure` (is Redis
full?), `janitor` (retention and compaction); beneath them `storage` (calls and scripts) and `tail` (wake-ups).
Opening starts the embedded server where `storage_url` asks for one, finds the masters and checks their settings.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio

if TYPE_CHECKING:
    from redbroker.config import Settings
    from redbroker.engine.checks import Finding
    from redbroker.engine.connection import Storage
    from redbroker.engine.durability import Durability
    from redbroker.engine.groups import Groups
    from redbroker.engine.heartbeats import Heartbeats
    from redbroker.engine.janitor import Janitor
    from redbroker.engine.log import Log
    from redbroker.engine.offsets import Offsets
    from redbroker.engine.pressure import Pressure
    from redbroker.engine.survey import Survey
    from redbroker.engine.tail import Tail
    from redbroker.engine.topics import Topic, Topics
    from redbroker.engine.workers import Workers

__all__ = ["Engine"]

logger = logging.getLogger(__name__)  # not `log`: importing the submodule of that name would replace it

PRODUCER_EPOCH_MS = 1_767_225_600_000
"""2026-01-01: 41 bits of milliseconds from here reach to 2095."""


@dataclass(kw_only=True, eq=False, repr=False)
class Engine:
    """One process's engine, made by `Engine.open`. `checks` are the risks found in the servers' settings."""

    settings: Settings
    storage: Storage
    tail: Tail
    topics: Topics
    log: Log
    workers: Workers
    durability: Durability
    groups: Groups
    heartbeats: Heartbeats
    offsets: Offsets
    survey: Survey
    pressure: Pressure
    janitor: Janitor
    cluster_id: str
    checks: list[Finding]
    _producer_id: int = field(default=0, init=False)

    def new_producer_id(self) -> int:
        """A producer id nobody else has: 41 bits of milliseconds and 22 random bits, never below the last one.

        No counter in Redis: an increment lost in a failover would hand an id out twice, and the second producer's
        records would be dropped as duplicates of the first one's.
        """
        since = int(time.time() * 1000) - PRODUCER_EPOCH_MS
        self._producer_id = max((since & (2**41 - 1)) << 22 | secrets.randbits(22), self._producer_id + 1)
        return self._producer_id

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncIterator[Engine]:
        """A working engine for the time of the `async with` block; `StorageError` says in one sentence why not."""
        async with contextlib.AsyncExitStack() as stack:
            yield await _open(settings, stack)


async def _open(settings: Settings, stack: contextlib.AsyncExitStack) -> Engine:
    """Open from the storage upwards; each step leaves its undoing on the stack."""
    if settings.storage_url.startswith("embedded:"):
        storage_settings = settings.model_copy(update={"storage_url": await _embedded(settings, stack)})
    else:
        storage_settings = settings
    # Imported only here: the embedded server loads its log meanwhile, and importing the engine's name costs nothing.
    from redbroker.engine.census import Census
    from redbroker.engine.checks import inspect, refuse_risks
    from redbroker.engine.connection import Storage
    from redbroker.engine.durability import Durability
    from redbroker.engine.keys import MetaKeys
    from redbroker.engine.tail import Tail

    storage = await Storage.open(storage_settings)
    stack.push_async_callback(_shielded, storage.close)
    durability = Durability(settings, storage.replicas, storage.source)
    census = Census(storage, MetaKeys(settings.key_prefix), settings, durability)
    if census.needed:
        await census.start()
    findings = await inspect(storage, settings, durability)
    if settings.strict:
        refuse_risks(findings)
    tail = Tail(storage, settings)
    stack.push_async_callback(_shielded, tail.close)
    engine = await assemble(settings, storage, tail, durability, findings, stack)
    if census.needed:
        _background(census.run(), stack)
    return engine


async def assemble(
    settings: Settings,
    storage: Storage,
    tail: Tail,
    durability: Durability,
    findings: list[Finding],
    stack: contextlib.AsyncExitStack,
) -> Engine:
    """The nouns over an open storage, and what keeps them fresh in the background."""
    from redbroker.engine.groups import Groups
    from redbroker.engine.heartbeats import Heartbeats
    from redbroker.engine.janitor import Janitor
    from redbroker.engine.keys import MetaKeys
    from redbroker.engine.log import Log
    from redbroker.engine.offsets import Offsets
    from redbroker.engine.pressure import Pressure
    from redbroker.engine.survey import Survey
    from redbroker.engine.tending import Tender
    from redbroker.engine.topics import Topics
    from redbroker.engine.workers import Workers
    from redbroker.machines.mixed_group import Outside
    from redbroker.wire.consumer_protocol import read_assignment, read_subscription, write_assignment

    keys = MetaKeys(settings.key_prefix)

    async def open_partitions(topic: Topic, first: int) -> None:
        await logs.open_partitions(topic, first)

    async def drop_partitions(topic: Topic) -> None:
        await logs.drop_partitions(topic)

    topics = Topics(storage, keys, settings, durability, open_partitions, drop_partitions)
    pressure = Pressure(storage, settings)
    logs = Log(storage, tail, settings, copies=durability.copies, exists=topics.exists, refusal=pressure.refusal)
    stack.push_async_callback(_shielded, logs.close)
    workers = Workers(storage, keys, settings, gone=logs.worker_gone)
    groups = Groups(storage, tail, settings, durability)
    groups.outside = Outside(topics.all(), read_subscription, read_assignment, write_assignment)
    stack.push_async_callback(_shielded, groups.close)
    offsets = Offsets(groups, settings, topics.get)
    tender = Tender(groups, offsets, workers, settings)
    janitor = Janitor(storage, logs.partitions, topics, workers, settings, pressure)

    def heard(message: bytes) -> None:
        if message != b"workers":
            topics.changed()
        if message != b"topics":
            workers.changed()

    _, cluster_id, *_ = await asyncio.gather(
        tail.listen(keys.changes, heard), _cluster_id(storage, keys, settings), topics.reload(), workers.refresh()
    )
    for work in (topics.run(), workers.run(), tender.run(), pressure.run(), janitor.run()):
        _background(work, stack)
    return Engine(
        settings=settings,
        storage=storage,
        tail=tail,
        topics=topics,
        log=logs,
        workers=workers,
        durability=durability,
        groups=groups,
        heartbeats=Heartbeats(groups, topics),
        offsets=offsets,
        survey=Survey(storage, settings, topics),
        pressure=pressure,
        janitor=janitor,
        cluster_id=cluster_id,
        checks=[finding for finding in findings if finding.level == "risk"],
    )


async def _embedded(settings: Settings, stack: contextlib.AsyncExitStack) -> str:
    """Start or join the embedded server and watch over it; gives the URL it answers at."""
    from redbroker.engine.embedded import EmbeddedServer, embedded_directory

    server = EmbeddedServer(embedded_directory(settings.storage_url))
    stack.push_async_callback(_shielded, server.leave)
    starting = asyncio.create_task(server.start())
    await asyncio.sleep(0)  # far enough to have spawned the server, which boots while the rest is imported
    import redbroker.engine.connection
    import redbroker.engine.log
    import redbroker.engine.topics  # noqa: F401

    await starting
    _background(server.watch(), stack)
    return server.url


def _background(work: Coroutine[Any, Any, None], stack: contextlib.AsyncExitStack) -> None:
    """Run until the engine closes. What nobody foresaw is logged; the caches then only get older."""
    task = asyncio.create_task(work)

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            logger.error("%s has stopped unexpectedly.", task.get_coro(), exc_info=error)

    async def stop() -> None:
        task.cancel()
        await asyncio.wait([task])

    task.add_done_callback(ended)
    stack.push_async_callback(_shielded, stop)


async def _shielded(close: Any) -> None:
    """Close even when the surrounding scope is cancelled, or a half-closed engine would keep its server running."""
    with anyio.CancelScope(shield=True):
        await close()


async def _cluster_id(storage: Any, keys: Any, settings: Settings) -> str:
    """The id all workers of a key space tell their clients: made by the first of them."""
    if settings.cluster_id:
        return settings.cluster_id
    made = new_cluster_id()
    kept = await storage.call(keys.cluster, "GET", keys.cluster)  # the only one a full server answers
    if kept is None:
        kept = await storage.call(keys.cluster, "SET", keys.cluster, made, "NX", "GET")
    return made if kept is None else str(kept.decode())


def new_cluster_id() -> str:
    """22 characters of URL-safe base64, as Kafka's; never beginning with `-` (command lines)."""
    while (made := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return made
