"""The leader epochs this worker has told its clients: read together, remembered briefly, never lowered (KIP-320).

Clients throw away metadata whose epoch is lower than one they have seen, and take epoch 0 for a real one; so a
partition that could not be read is told as before, or as -1 (unknown), never as 0. The number itself comes from the
partition's state in Redis, which makes it the same on every worker.

Reading the bounds of 10,000 partitions for each Metadata request would cost far more than the rest of it. One topic
is read at most once per `FRESH_S`; many requests that come meanwhile share one read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from time import monotonic
from typing import TYPE_CHECKING
from uuid import UUID

from redbroker.errors import ErrorCode, KafkaError

if TYPE_CHECKING:
    from redbroker.engine import Engine
    from redbroker.engine.topics import Topic

__all__ = ["UNKNOWN", "LeaderEpochs", "check_claim"]

UNKNOWN = -1
FRESH_S = 1.0
"""How long epochs that were read are told without reading them again."""
PATIENCE_S = 0.4
"""How long an answer waits for epochs; beyond it the remembered ones are told, so that Metadata outlives Redis."""
CHUNK = 1_000
"""Partitions asked of the log in one call, so that a large cluster does not fill the storage connection."""


def check_claim(claimed: int, current: int) -> ErrorCode:
    """What Kafka answers to a client's `current_leader_epoch`: NONE when it is ours, or when either is unknown (-1)."""
    if claimed < 0 or current < 0 or claimed == current:
        return ErrorCode.NONE
    return ErrorCode.FENCED_LEADER_EPOCH if claimed < current else ErrorCode.UNKNOWN_LEADER_EPOCH


class Told:
    """One topic's epochs by partition, and when they were read last (seconds of the monotonic clock)."""

    __slots__ = ("epochs", "read_at")

    def __init__(self) -> None:
        self.epochs: tuple[int, ...] = ()
        self.read_at = float("-inf")


class LeaderEpochs:
    """The remembered leader epochs of one worker."""

    __slots__ = ("_engine", "_reading", "_told")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._told: dict[UUID, Told] = {}
        self._reading: dict[UUID, asyncio.Task[None]] = {}

    async def of(self, topics: Sequence[Topic]) -> list[tuple[int, ...]]:
        """The epochs of each topic by partition, `UNKNOWN` where none was ever read. Returns within `PATIENCE_S`."""
        reads = self._read_stale(topics)
        if reads:
            done, _ = await asyncio.wait(reads, timeout=PATIENCE_S)
            for read in done:
                read.result()
        return [self.told(topic) for topic in topics]

    def told(self, topic: Topic) -> tuple[int, ...]:
        """The same without reading anything."""
        told = self._told.get(topic.id)
        epochs = told.epochs if told else ()
        return epochs + (UNKNOWN,) * (topic.partitions - len(epochs))

    def heard(self, topic: Topic, partition: int, epoch: int) -> None:
        """The log just told this epoch: where an older one is remembered, the topic's others may be old, too.

        A client that was fenced asks for metadata at once; told the old epoch for another `FRESH_S`, as a read that is
        under way may bring it, it would be fenced again and again.
        """
        told = self._told.get(topic.id)
        if told is not None and partition < len(told.epochs) and told.epochs[partition] < epoch:
            told.epochs = (*told.epochs[:partition], epoch, *told.epochs[partition + 1 :])
            told.read_at = float("-inf")

    def _read_stale(self, topics: Iterable[Topic]) -> set[asyncio.Task[None]]:
        """The reads under way for these topics, one new one among them for those that nobody reads yet."""
        now = monotonic()
        stale = [topic for topic in topics if not self._fresh(topic, now)]
        unread = [topic for topic in stale if topic.id not in self._reading]
        if unread:
            # A task of its own: it serves whoever waits, also after the request that began it has given up.
            read = asyncio.create_task(self._read(unread))
            self._reading.update((topic.id, read) for topic in unread)
        return {self._reading[topic.id] for topic in stale}

    def _fresh(self, topic: Topic, now: float) -> bool:
        told = self._told.get(topic.id)
        return told is not None and now - told.read_at < FRESH_S and len(told.epochs) >= topic.partitions

    async def _read(self, topics: Sequence[Topic]) -> None:
        wanted = [(topic, partition) for topic in topics for partition in range(topic.partitions)]
        epochs: list[int] = []
        try:
            for first in range(0, len(wanted), CHUNK):
                bounds = await self._engine.log.bounds(wanted[first : first + CHUNK])
                epochs += [UNKNOWN if isinstance(each, KafkaError) else each.leader_epoch for each in bounds]
        except KafkaError:
            pass  # storage is away: what is known stays, and is told for another FRESH_S
        finally:
            for topic in topics:
                del self._reading[topic.id]
        epochs += [UNKNOWN] * (len(wanted) - len(epochs))
        self._remember(topics, epochs)

    def _remember(self, topics: Sequence[Topic], epochs: Sequence[int]) -> None:
        """Keeps the larger of what was told and what was read, and forgets deleted topics."""
        now, first = monotonic(), 0
        for topic in topics:
            read = epochs[first : first + topic.partitions]
            first += topic.partitions
            told = self._told.setdefault(topic.id, Told())
            told.epochs = tuple(map(max, self.told(topic), read)) + told.epochs[topic.partitions :]
            told.read_at = now
        known = self._engine.topics.all()
        if len(self._told) > 2 * len(known) + 100:
            living = {topic.id for topic in known.values()}
            self._told = {each: told for each, told in self._told.items() if each in living}
