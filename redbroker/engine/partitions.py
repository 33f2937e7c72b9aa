"""All partitions a worker has met: finding one, looking at it, reading a range of it, opening and dropping its log.

`look` travels ahead of every read and tells where the log starts and ends and under which leader epoch; what it tells
is kept in the `Partition` as a hint for the next read. A partition whose creator died before opening it is opened
by whoever meets it first, after asking whether the topic still exists.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple

from redbroker.config import Settings
from redbroker.engine.partition import Partition
from redbroker.engine.resp import Call
from redbroker.engine.scripts import script
from redbroker.errors import ErrorCode, KafkaError

if TYPE_CHECKING:
    from redbroker.engine.connection import Storage
    from redbroker.engine.topics import Topic
    from redbroker.engine.watermark import Watermark

LAST_OFFSET_DELTA = Struct(">i").unpack_from  # at byte 23 of a batch
DROPPED_MARKER_MS = 600_000
PARTITIONS_CACHED_MAX = 200_000


class Look(NamedTuple):
    """The answer of look.lua; where there are replicas, `Partitions.take` moves `next` back to the high watermark."""

    log_start: int
    next: int
    leader_epoch: int
    since: int
    written: int
    batches: int
    trimmed: int
    largest: int
    time: int
    time_at: int
    confirmed: bytes
    end: int


class StoredBatch(NamedTuple):
    """A batch as the producer sent it, and what belongs in its baseOffset and partitionLeaderEpoch."""

    batch: bytes
    base_offset: int
    leader_epoch: int


def stored(id_: bytes, batch: bytes) -> StoredBatch:
    """A stream entry with the offsets its ID tells."""
    epoch, _, last = id_.partition(b"-")
    return StoredBatch(batch, int(last) - LAST_OFFSET_DELTA(batch, 23)[0], int(epoch))


class Partitions:
    """The partitions of one key space, cached, and the calls about one of them that write no records."""

    def __init__(
        self,
        storage: Storage,
        settings: Settings,
        exists: Callable[[Topic], Awaitable[bool]] | None,
        watermark: Watermark,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._storage = storage
        self._prefix = settings.key_prefix
        self._overshoot = settings.read_overshoot_bytes
        self._exists = exists
        self._watermark = watermark
        self._now = now
        self._cached: dict[tuple[bytes, int], Partition] = {}
        self._look_script = script("look")

    def get(self, topic: Topic, number: int) -> Partition:
        """One partition of a topic; whether it exists is found out later."""
        partition = self._cached.get((topic.hex, number))
        if partition is None:
            if len(self._cached) >= PARTITIONS_CACHED_MAX:
                self._cached.clear()  # hints only: they are learnt again
            partition = self._cached[topic.hex, number] = Partition(self._prefix, topic, number)
        elif partition.topic is not topic:
            partition.topic = topic  # its configuration has changed
        return partition

    def look(self, partition: Partition, kind: type[Call] = Call) -> asyncio.Future[Any]:
        """Ask where the log starts and ends; `take` understands the answer, `note` keeps it.

        Here and below, `kind` is `ImpatientCall` for those who would keep other masters' readers waiting.
        """
        keys = partition.keys
        words = (partition.topic.hex, self._watermark.replicas(partition))
        return self._storage.run(self._look_script, (keys.state, keys.epochs), words, kind=kind)

    def take(self, partition: Partition, answer: Sequence[Any]) -> Look:
        """The answer of a look, as readers may have it."""
        return self._watermark.visible(partition, Look._make(answer))

    def range(
        self, partition: Partition, offset: int, nbytes: int, count: int = 0, kind: type[Call] = Call
    ) -> asyncio.Future[Any]:
        """Entries from the batch that holds `offset` on: `count`, or about `nbytes`; only where `knows(offset)`."""
        log = partition.keys.log
        count = count or partition.count(nbytes, self._overshoot, self._now())
        return self._storage.call(log, "XRANGE", log, partition.first_id(offset), "+", "COUNT", count, kind=kind)

    def note(self, partition: Partition, look: Look) -> None:
        """Keep what a look told."""
        typical = look.written // max(1, look.batches)
        partition.learn(look.leader_epoch, look.since, typical, look.largest, self._now())
        partition.place(look.log_start, look.next, look.written)

    async def look_opened(self, partition: Partition, kind: type[Call] = Call) -> Look:
        """Look; where the partition was never opened, open it and look again."""
        try:
            look = self.take(partition, await self.look(partition, kind))
        except KafkaError as error:
            if error.code != ErrorCode.UNKNOWN_TOPIC_OR_PARTITION:
                raise
            await self.reopen(partition)
            look = self.take(partition, await self.look(partition, kind))
        self.note(partition, look)
        return look

    async def look_confirmed(self, partition: Partition, kind: type[Call] = Call) -> Look:
        """Look; where the high watermark is behind the log end, try once to prove that it need not be."""
        look = await self.look_opened(partition, kind)
        if look.next < look.end and await self._watermark.confirm(partition):
            look = await self.look_opened(partition, kind)
        return look

    async def prove(self, partition: Partition) -> bool:
        """Prove that replicas have all that is in the log; False when they did not tell so in time."""
        return not self._watermark.replicas(partition) or await self._watermark.confirm(partition)

    def proof(self, partition: Partition) -> tuple[int, int, int]:
        """How many replicas must have what may go, and up to which offset they had it, in which leader epoch."""
        return self._watermark.replicas(partition), partition.proved_in, partition.proved

    async def learn(self, partition: Partition, offset: int, kind: type[Call] = Call) -> None:
        """Make `partition.knows(offset)` true: look, and fetch the table of epochs for an older one's offset."""
        look = await self.look_opened(partition, kind)
        if not partition.knows(offset):
            epochs = partition.keys.epochs
            rows = await self._storage.call(epochs, "ZRANGE", epochs, 0, -1, "WITHSCORES", kind=kind)
            partition.learn_table(look.leader_epoch, look.since, rows)

    async def open(self, topic: Topic, number: int, *, again: bool = False) -> None:
        """Make an empty log, or leave the one this topic has; `again`: there should have been one."""
        keys = self.get(topic, number).keys
        await self._storage.run(
            script("open_partition"),
            (keys.log, keys.state, keys.epochs, keys.producers, keys.times, *keys.compaction),
            (topic.hex, topic.created_ms, int(again)),
        )

    async def drop(self, topic: Topic, number: int) -> None:
        """Delete the log if it still is this topic's."""
        keys = self.get(topic, number).keys
        await self._storage.run(
            script("drop_partition"),
            (keys.log, keys.state, keys.epochs, keys.producers, keys.times, keys.tail, *keys.compaction),
            (topic.hex, topic.created_ms, DROPPED_MARKER_MS),
        )
        self._cached.pop((topic.hex, number), None)

    async def reopen(self, partition: Partition) -> None:
        """Open a partition that should be; UNKNOWN_TOPIC_OR_PARTITION when it should not."""
        topic = partition.topic
        if partition.name.partition >= topic.partitions or (self._exists is not None and not await self._exists(topic)):
            raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"{partition.name} does not exist.")
        await self.open(topic, partition.name.partition, again=True)
