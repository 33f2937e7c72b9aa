"""Reading one partition: what is asked, what comes back, and the steps in between, without a task of its own.

    known  ── a reader at the end, as a live subscription tells, needs no call at all
    begin  ── look.lua (+ XRANGE, unless the reader is at the end as far as is known) ──► Redis
    take   ◄── finished, or another round: more batches fit, or the leader epoch was not the one believed

A Fetch of many partitions begins them all, so that they share one pipeline, then takes them one after another. All its
calls are impatient ones: a master that is silent soon refuses its own, and holds up nobody else's.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

from redbroker.engine.partitions import LAST_OFFSET_DELTA, Look, Partitions, StoredBatch
from redbroker.engine.resp import ImpatientCall
from redbroker.errors import ErrorCode, KafkaError

if TYPE_CHECKING:
    from redbroker.engine.partition import Partition
    from redbroker.engine.tail import Tail
    from redbroker.engine.topics import Topic


class Read(NamedTuple):
    """What to read of one partition; `leader_epoch` is what the client believes (-1: it does not say, KIP-320)."""

    topic: Topic
    partition: int
    offset: int
    max_bytes: int
    leader_epoch: int = -1


class ReadResult(NamedTuple):
    """Batches from the asked offset on (the first may begin before it), and the log around them.

    `next` is the high watermark, which is also last stable offset for now: without replicas the log end. `written`
    counts the bytes appended ever up to there and is what `wait` compares with.
    """

    log_start: int
    next: int
    leader_epoch: int
    written: int
    batches: list[StoredBatch]
    nbytes: int


class Reading:
    """One partition being read: `begin` a round, `await take()` it, until it gives a result."""

    __slots__ = ("_batches", "_believed", "_budget", "_looking", "_nbytes", "_offset", "_partitions", "_ranging",
                 "_subscription", "partition", "read")  # fmt: skip

    def __init__(self, partitions: Partitions, read: Read, budget: int) -> None:
        self.read = read
        self.partition = partitions.get(read.topic, read.partition)
        self._partitions = partitions
        self._budget = budget
        self._batches: list[StoredBatch] = []
        self._nbytes = 0
        self._offset = read.offset
        self._believed = (0, 0)  # leader epoch and its first offset, as of the last round

    @property
    def cold(self) -> bool:
        """True when `learn` must be awaited before `begin`."""
        return not self.partition.knows(self._offset)

    async def learn(self) -> KafkaError | None:
        """Find out which leader epoch holds the offset; a refusal is the result."""
        try:
            await self._partitions.learn(self.partition, self._offset, ImpatientCall)
        except KafkaError as error:
            return error
        return None

    def at_end(self, tail: Tail) -> bool:
        """Has the reader all that this worker has heard of?"""
        return self._offset == self.partition.end and tail.end(self.partition.keys.tail) <= self._offset

    def known(self, tail: Tail) -> ReadResult | None:
        """The result without asking Redis: nothing, while a subscription would have told of more."""
        partition = self.partition
        if (
            self.at_end(tail)
            and self.read.leader_epoch in (-1, partition.epoch)
            and partition.heard
            and partition.heard == tail.subscription(partition.keys.tail)
        ):
            return ReadResult(partition.log_start, partition.end, partition.epoch, partition.written, [], 0)
        return None

    def begin(self, tail: Tail) -> None:
        """Send one round; a reader at the end only looks, and so does one that has become cold again: another read may
        have heard of another master since `learn`.
        """
        believed = (self.partition.epoch, self.partition.since)
        if self._batches and believed != self._believed:
            self._begin_again()
        self._believed = believed
        caught_up = self.at_end(tail)
        self._subscription = tail.subscription(self.partition.keys.tail)
        self._looking = self._partitions.look(self.partition, ImpatientCall)
        self._ranging: asyncio.Future[Any] | None = None
        if self._budget > 0 and self._offset >= 0 and not caught_up and not self.cold:
            nbytes = self._budget - self._nbytes
            self._ranging = self._partitions.range(self.partition, self._offset, nbytes, kind=ImpatientCall)

    async def take(self) -> ReadResult | KafkaError | None:
        """The result, or None when another round is due."""
        try:
            look = self._partitions.take(self.partition, await self._looking)
            refusal = refuse_read(self.read, look, self.partition)
            entries = await self._ranging if self._ranging is not None else None
            if refusal is not None:
                return refusal
            self._partitions.note(self.partition, look)
            self.partition.heard = self._subscription
            changed = (look.leader_epoch, look.since) != self._believed
            if changed or (entries and epoch_of(entries[-1]) > look.leader_epoch):  # another master's, now or just then
                self._begin_again()
                return None
            if entries is None:
                return self._result(look) if self._offset >= look.next or self._budget <= 0 else None
            full = self._gather(entries, look)
            return self._result(look) if full or not entries or self._offset >= look.next else None
        except KafkaError as error:
            if self._ranging is not None:
                self._ranging.cancel()
            if error.code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION:  # never opened: its creator died in between
                return await self._open()
            return error

    def _begin_again(self) -> None:
        self._batches, self._nbytes, self._offset = [], 0, self.read.offset

    async def _open(self) -> KafkaError | None:
        try:
            await self._partitions.look_opened(self.partition, ImpatientCall)
        except KafkaError as error:
            return error
        return None

    def _gather(self, entries: list[Any], look: Look) -> bool:
        """Take over what fits of the entries; True when nothing more does."""
        for id_, (_, batch) in entries:
            epoch, _, last_text = id_.partition(b"-")
            last = int(last_text)
            if last < self._offset:
                continue
            if last >= look.next or (self._batches and self._nbytes + len(batch) > self._budget):
                return True
            self._batches.append(StoredBatch(batch, last - LAST_OFFSET_DELTA(batch, 23)[0], int(epoch)))
            self._nbytes += len(batch)
            self._offset = last + 1
        return self._nbytes >= self._budget

    def _result(self, look: Look) -> ReadResult:
        return ReadResult(look.log_start, look.next, look.leader_epoch, look.written, self._batches, self._nbytes)


def epoch_of(entry: Any) -> int:
    """The leader epoch a stream entry was written under: the last of a range has the newest."""
    return int(entry[0].partition(b"-")[0])


def refuse_read(read: Read, look: Look, partition: Partition) -> KafkaError | None:
    """Why this reader may not read here now (KIP-320, KIP-101), or nothing."""
    if read.leader_epoch >= 0 and read.leader_epoch < look.leader_epoch:
        return KafkaError(
            ErrorCode.FENCED_LEADER_EPOCH,
            f"{partition.name}: leader epoch {read.leader_epoch} is older than {look.leader_epoch}.",
        )
    if read.leader_epoch > look.leader_epoch:
        return KafkaError(
            ErrorCode.UNKNOWN_LEADER_EPOCH,
            f"{partition.name}: leader epoch {read.leader_epoch} is newer than {look.leader_epoch}.",
        )
    if not look.log_start <= read.offset <= look.end:
        return KafkaError(
            ErrorCode.OFFSET_OUT_OF_RANGE,
            f"{partition.name}: offset {read.offset} is outside {look.log_start} to {look.end}.",
        )
    return None
