"""The log of a partition on a Redis Stream: append, read, wait, bounds, find_time, trim, epoch_end.

A stream entry is a whole Kafka RecordBatch v2, the bytes the producer sent, under `<leader epoch>-<last offset>`
(see `keys.py`). Every verb takes a list and gives a list in the same order: all calls of one loop turn travel in one
pipeline per Redis node, so a request costs one round trip however many partitions it names. What is refused for one
partition is a `KafkaError` value in its place and never harms the others.

    append ── group per partition and turn ── append.lua (+ WAIT on the acks connection)
    read   ── look.lua, XRANGE in one pipeline ── entries between log start and high watermark
    wait   ── sharded pub/sub, announced by the append script itself, held back until the high watermark follows
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from redbroker.config import Settings
from redbroker.engine.appends import Appended, Appends
from redbroker.engine.partitions import Partitions, StoredBatch, stored
from redbroker.engine.reading import Read, Reading, ReadResult
from redbroker.engine.resp import Call, ImpatientCall
from redbroker.engine.retention import STEP_BYTES, STEP_ENTRIES
from redbroker.engine.scripts import script
from redbroker.engine.times import first_at_or_after, latest_record
from redbroker.engine.watermark import Watermark
from redbroker.errors import ErrorCode, KafkaError

if TYPE_CHECKING:
    from redbroker.engine.connection import Storage
    from redbroker.engine.tail import Tail
    from redbroker.engine.topics import Topic
    from redbroker.wire.records import BatchHeader

__all__ = ["Append", "Appended", "Bounds", "EpochEnd", "Log", "Read", "ReadResult", "StoredBatch"]

FIND_ENTRIES = 64
OPEN_AT_ONCE = 1_000


class Append(NamedTuple):
    """One validated batch for one partition."""

    topic: Topic
    partition: int
    batch: bytes | memoryview
    header: BatchHeader


class Bounds(NamedTuple):
    """Where a log starts and, for readers, ends (the high watermark).

    `nbytes` is exact to 64 batches or one MiB; `max_timestamp` is -1 when empty.
    """

    log_start: int
    next: int
    leader_epoch: int
    nbytes: int
    max_timestamp: int


class EpochEnd(NamedTuple):
    """Where the newest epoch at or below the asked one ends, and the leader epoch now (-1, -1 where unknown)."""

    epoch: int
    end_offset: int
    leader_epoch: int


class Log:
    """The logs of all partitions, over one storage."""

    def __init__(
        self,
        storage: Storage,
        tail: Tail,
        settings: Settings,
        *,
        copies: Callable[[Topic, int], int] = lambda topic, slot: 1,
        exists: Callable[[Topic], Awaitable[bool]] | None = None,
        refusal: Callable[[bytes], KafkaError | None] = lambda key: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`copies` tells how many copies acks=all waits for; `exists` asks Redis whether a topic still is; `refusal`
        why the master of a key takes no records now.
        """
        self._refusal = refusal
        self._storage = storage
        self._tail = tail
        self._copies = copies
        self._overshoot = settings.read_overshoot_bytes
        self._watermark = Watermark(storage, tail, copies)
        self._partitions = self.partitions = Partitions(storage, settings, exists, self._watermark, now)
        self._appends = Appends(
            storage,
            self._watermark,
            self._partitions.reopen,
            settings.producer_id_expiration_ms // 1000,
            settings.producers_max,
        )

    def worker_gone(self) -> None:
        """A worker is gone: batches that come may follow some that were sent there."""
        self._appends.worker_gone()

    async def close(self) -> None:
        """Stop what runs in the background."""
        await self._appends.close()
        await self._watermark.close()

    # --- append ----------------------------------------------------------------------------------------------

    async def append(self, entries: Sequence[Append], *, acks: int, timeout_ms: int) -> list[Appended | KafkaError]:
        """Store batches; acks=-1 answers when `min.insync.replicas` copies have them, else when the master has.

        A duplicate of an idempotent producer's recent batch gets its first answer again. Refusals:
        OUT_OF_ORDER_SEQUENCE_NUMBER, INVALID_PRODUCER_EPOCH, NOT_ENOUGH_REPLICAS (nothing written),
        NOT_ENOUGH_REPLICAS_AFTER_APPEND (written, too few copies yet), REQUEST_TIMED_OUT (unknown whether written),
        NOT_LEADER_OR_FOLLOWER (not written), KAFKA_STORAGE_ERROR (Redis is full).
        """
        return [await answer for answer in self.submit(entries, acks=acks, timeout_ms=timeout_ms)]

    def submit(
        self, entries: Sequence[Append], *, acks: int, timeout_ms: int
    ) -> list[asyncio.Future[Appended | KafkaError]]:
        """The same without waiting: what is submitted first is stored first."""
        return [self._submit(entry, acks, timeout_ms) for entry in entries]

    def _submit(self, entry: Append, acks: int, timeout_ms: int) -> asyncio.Future[Appended | KafkaError]:
        partition = self._partitions.get(entry.topic, entry.partition)
        if (refusal := self._refusal(partition.keys.log)) is not None:
            self._appends.refused(partition)
            answer: asyncio.Future[Appended | KafkaError] = asyncio.get_running_loop().create_future()
            answer.set_result(refusal)
            return answer
        copies = self._copies(entry.topic, partition.slot) if acks == -1 else 1
        return self._appends.submit(partition, entry.batch, entry.header, copies, timeout_ms)

    # --- read ------------------------------------------------------------------------------------------------

    async def read(
        self, reads: Sequence[Read], *, max_bytes: int, trust: bool = False
    ) -> list[ReadResult | KafkaError]:
        """Whole batches from each offset on, in the order asked, until `max_bytes` are gathered.

        With `trust`, a reader at the end is told so without asking Redis, as long as a live subscription would have
        told of more: for a first read that a `wait` and another read follow.

        A partition gives at most its own `max_bytes`, but never less than one batch while anything of `max_bytes`
        is left, so an oversized batch cannot stall a reader. Refusals: OFFSET_OUT_OF_RANGE, FENCED_LEADER_EPOCH,
        UNKNOWN_LEADER_EPOCH, UNKNOWN_TOPIC_OR_PARTITION, UNKNOWN_TOPIC_ID, NOT_LEADER_OR_FOLLOWER,
        REQUEST_TIMED_OUT. Of several masters, one that is silent or away is waited for a tenth of
        `storage_timeout_ms`, and not again before it has said something.
        """
        results: list[ReadResult | KafkaError] = []
        at, left = 0, max_bytes
        while at < len(reads):
            end, asked = at, 0  # a wave: as many partitions as can be answered in full, in one round trip
            while end < len(reads) and (end == at or left <= 0 or asked + reads[end].max_bytes <= left):
                asked += reads[end].max_bytes
                end += 1
            readings = [Reading(self._partitions, read, min(read.max_bytes, left)) for read in reads[at:end]]
            wave = await self._read(readings, trust)
            results += wave
            left -= sum(result.nbytes for result in wave if isinstance(result, ReadResult))
            at = end
        return results

    async def _read(self, readings: Sequence[Reading], trust: bool) -> list[ReadResult | KafkaError]:
        """Rounds of one pipeline each, until every reading has its result."""
        results: dict[Reading, ReadResult | KafkaError] = {}
        if trust:
            results |= {reading: known for reading in readings if (known := reading.known(self._tail)) is not None}
        due = [reading for reading in readings if reading not in results]
        while due:
            cold = [reading for reading in due if reading.cold]
            if cold:
                refusals = await asyncio.gather(*(reading.learn() for reading in cold))
                results |= {reading: refusal for reading, refusal in zip(cold, refusals, strict=True) if refusal}
                due = [reading for reading in due if reading not in results]
            for reading in due:
                reading.begin(self._tail)
            for reading in due:
                result = await reading.take()
                if result is not None:
                    results[reading] = result
            due = [reading for reading in due if reading not in results]
        return [results[reading] for reading in readings]

    # --- wait ------------------------------------------------------------------------------------------------

    async def wait(
        self, reads: Sequence[tuple[Read, ReadResult]], missing_bytes: int, timeout_s: float
    ) -> Sequence[int]:
        """Which of these (by place) may have more to read: woken when `missing_bytes` were appended to all together.

        May be too early; empty when time ran out.
        """
        partitions = [self._partitions.get(read.topic, read.partition) for read, _ in reads]
        for partition in partitions:
            self._watermark.pursue_pending(partition)
        channels = [partition.keys.tail for partition in partitions]
        known = {channel: result.written for channel, (_, result) in zip(channels, reads, strict=True)}
        if not await self._tail.wait(known, missing_bytes, timeout_s):
            return ()
        moved = [place for place, channel in enumerate(channels) if self._tail.moved(channel, known[channel])]
        return moved or range(len(channels))  # woken without a reason: announcements may have been missed

    # --- where things are ------------------------------------------------------------------------------------

    async def bounds(
        self, partitions: Sequence[tuple[Topic, int]], *, impatient: bool = False
    ) -> list[Bounds | KafkaError]:
        """Log start, log end, leader epoch, size and largest timestamp of each partition.

        `impatient`, here and below: no longer than `read` would wait for a silent master.
        """
        kind = ImpatientCall if impatient else Call

        async def one(topic: Topic, number: int) -> Bounds:
            look = await self._partitions.look_confirmed(self._partitions.get(topic, number), kind)
            return Bounds(look.log_start, look.next, look.leader_epoch, look.written - look.trimmed, look.time)

        return await values(one(topic, number) for topic, number in partitions)

    def by_master(self, partitions: Iterable[tuple[Topic, int]]) -> list[list[tuple[Topic, int]]]:
        """The same, those of one Redis master together: who asks for each group by itself waits for no other master."""
        groups: dict[Any, list[tuple[Topic, int]]] = {}
        for each in partitions:
            groups.setdefault(self._storage.master_of(self._partitions.get(*each).keys.state), []).append(each)
        return list(groups.values())

    async def memory(self, topic: Topic) -> list[int]:
        """Bytes of Redis memory each partition takes, by MEMORY USAGE (large keys are sampled)."""

        async def one(number: int) -> int:
            keys = self._partitions.get(topic, number).keys
            names = (keys.log, keys.state, keys.epochs, keys.producers, keys.times, *keys.compaction)
            return sum([await self._storage.call(name, "MEMORY", "USAGE", name) or 0 for name in names])

        return list(await asyncio.gather(*(one(number) for number in range(topic.partitions))))

    async def find_time(
        self, wants: Sequence[tuple[Topic, int, int]], *, impatient: bool = False
    ) -> list[tuple[int, int, int] | KafkaError | None]:
        """(offset, timestamp, leader epoch) of the first record at or after a time; None: no record is that young."""
        kind = ImpatientCall if impatient else Call

        async def one(topic: Topic, number: int, timestamp: int) -> tuple[int, int, int] | None:
            partition = self._partitions.get(topic, number)
            keys = partition.keys
            look = await self._partitions.look_confirmed(partition, kind)
            go_on_from = look.log_start
            while True:
                found, go_on_from, _, *entry = await self._storage.run(
                    script("find_time"),
                    (keys.log, keys.state, keys.epochs, keys.times),
                    (partition.topic.hex, timestamp, go_on_from, FIND_ENTRIES),
                    kind=kind,
                )
                if found:
                    hit = first_at_or_after(stored(entry[0], entry[1]), timestamp, look.log_start)
                    if hit is not None:
                        return hit if hit[0] < look.next else None
                    go_on_from = int(entry[0].partition(b"-")[2]) + 1  # its young records lie before the log start
                elif go_on_from < 0:
                    return None

        return await values(one(topic, number, timestamp) for topic, number, timestamp in wants)

    async def find_max_time(
        self, partitions: Sequence[tuple[Topic, int]]
    ) -> list[tuple[int, int, int] | KafkaError | None]:
        """(offset, timestamp, leader epoch) of the record with the largest timestamp (KIP-734); None: no records."""

        async def one(topic: Topic, number: int) -> tuple[int, int, int] | None:
            partition = self._partitions.get(topic, number)
            look = await self._partitions.look_confirmed(partition)
            if look.log_start >= look.next:
                return None
            if look.log_start <= look.time_at < look.next:
                if not partition.knows(look.time_at):
                    await self._partitions.learn(partition, look.time_at)
                entries = await self._partitions.range(partition, look.time_at, 1, count=1)
                youngest = [stored(id_, batch) for id_, (_, batch) in entries]
                if all(each.base_offset >= look.log_start for each in youngest):
                    return latest_record(youngest, look.log_start)
            best = None  # the youngest record was trimmed away (perhaps): look through what is left
            offset = look.log_start
            while offset < look.next:
                if not partition.knows(offset):
                    await self._partitions.learn(partition, offset)
                entries = await self._partitions.range(partition, offset, self._overshoot)
                if not entries:
                    break
                ends = [int(id_.partition(b"-")[2]) for id_, _ in entries]
                visible = entries[: bisect_left(ends, look.next)]
                found = latest_record([stored(id_, batch) for id_, (_, batch) in visible], look.log_start)
                if found is not None and (best is None or found[1] > best[1]):
                    best = found
                offset = ends[-1] + 1
            return best

        return await values(one(topic, number) for topic, number in partitions)

    async def epoch_end(
        self, wants: Sequence[tuple[Topic, int, int]], *, impatient: bool = False
    ) -> list[EpochEnd | KafkaError]:
        """Where each asked leader epoch ends (KIP-320): clients compare it with what they hold."""
        kind = ImpatientCall if impatient else Call

        async def one(topic: Topic, number: int, epoch: int) -> EpochEnd:
            partition = self._partitions.get(topic, number)
            await self._partitions.look_opened(partition, kind)
            keys = (partition.keys.state, partition.keys.epochs)
            words = (partition.topic.hex, epoch, self._watermark.replicas(partition))
            return EpochEnd._make(await self._storage.run(script("epoch_end"), keys, words, kind=kind))

        return await values(one(topic, number, epoch) for topic, number, epoch in wants)

    # --- trim, open, drop ------------------------------------------------------------------------------------

    async def trim(self, wants: Sequence[tuple[Topic, int, int]]) -> list[int | KafkaError]:
        """Move each log start up to an offset (-1: the high watermark), free what lies below; gives the log starts."""

        async def one(topic: Topic, number: int, before: int) -> int:
            partition = self._partitions.get(topic, number)
            end = (await self._partitions.look_confirmed(partition)).next
            before = end if before == -1 else before
            if before > end:
                raise KafkaError(ErrorCode.OFFSET_OUT_OF_RANGE, f"{partition.name}: the high watermark is {end}.")
            keys = partition.keys
            named = (keys.log, keys.state, keys.epochs, keys.times)
            while True:
                log_start, freed = await self._storage.run(
                    script("trim"), named, (partition.topic.hex, before, STEP_ENTRIES, STEP_BYTES)
                )
                if not freed:
                    return int(log_start)

        return await values(one(topic, number, before) for topic, number, before in wants)

    async def open_partitions(self, topic: Topic, first: int = 0) -> None:
        """Make the logs of a new topic's partitions, or of those added to an old one (idempotent)."""
        numbers = range(first, topic.partitions)
        for at in range(0, len(numbers), OPEN_AT_ONCE):
            await asyncio.gather(*(self._partitions.open(topic, number) for number in numbers[at : at + OPEN_AT_ONCE]))

    async def drop_partitions(self, topic: Topic) -> None:
        """Delete the logs of a deleted topic (idempotent; a newer topic of the same name is left alone)."""
        for at in range(0, topic.partitions, OPEN_AT_ONCE):
            await asyncio.gather(
                *(
                    self._partitions.drop(topic, number)
                    for number in range(at, min(at + OPEN_AT_ONCE, topic.partitions))
                )
            )


async def values(work: Any) -> list[Any]:
    """Run all at once; a KafkaError is a value in its place, anything else is raised."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, KafkaError):
            raise result
    return results
