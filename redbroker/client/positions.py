"""Where a consumer is in each of its partitions: what is fetched, what was handed out, what the caller is done with.

    log start … done ──── position ──────── fetch ──── log end
                  in hand           buffered

`position` is the offset of the next record to hand out; before it lies what the caller has in hand; `done` is what an
automatic commit may cover. Buffers hold batches as Redis has them; they are decoded when they are handed out.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from redbroker.errors import ErrorCode, KafkaError
from redbroker.types import TopicPartition

if TYPE_CHECKING:
    from redbroker.engine.log import StoredBatch
    from redbroker.engine.topics import Topic

__all__ = ["EARLIEST", "LATEST", "LogTruncated", "Position", "not_assigned"]

UNPLACED = -1
"""The offset of a partition whose committed offset, or start, has still to be looked up."""
EARLIEST, LATEST = -2, -1
"""Kafka's numbers for the log start and the log end."""


class LogTruncated(KafkaError):
    """Records that were read are gone from the log: a failover cut it back to `end_offset` (KIP-320)."""

    def __init__(self, partition: TopicPartition, position: int, end_offset: int) -> None:
        self.partition, self.position, self.end_offset = partition, position, end_offset
        super().__init__(
            ErrorCode.OFFSET_OUT_OF_RANGE,
            f"{partition}: read up to {position}, but the log was cut back to {end_offset}; seek, or set"
            " auto_offset_reset to go on by itself.",
        )


class Position:
    """One assigned partition. It starts at `wanted_time_ms` or `wanted_reset`, else at what is committed."""

    __slots__ = (
        "batches", "buffered_bytes", "committed", "done", "epoch", "error", "fetch", "held", "leader_epoch", "log_end",
        "log_start", "moved_s", "partition", "paused", "position", "topic", "version", "wait_until_s", "wanted_reset",
        "wanted_time_ms",
    )  # fmt: skip

    def __init__(self, partition: TopicPartition, topic: Topic | None) -> None:
        self.partition, self.topic = partition, topic
        self.position = self.fetch = self.done = UNPLACED
        self.epoch = -1  # of the last record handed out
        self.leader_epoch = -1  # of the log, as last read: what reads claim
        self.log_start = self.log_end = -1
        self.batches: deque[StoredBatch] = deque()
        self.buffered_bytes = 0
        self.paused = False  # by the caller
        self.held = False  # coming or going: nothing is fetched or handed out
        self.committed = UNPLACED  # what this consumer committed last
        self.error: KafkaError | None = None  # told to the caller when it comes to this partition
        self.moved_s = time.monotonic()  # when it last went on, or had nothing to read
        self.wait_until_s = 0.0
        self.wanted_reset: int | None = None  # EARLIEST or LATEST
        self.wanted_time_ms: int | None = None
        self.version = 0  # counts the seeks, so that what was fetched before one is recognised

    @property
    def placed(self) -> bool:
        """Whether it is known where to read."""
        return self.fetch >= 0

    @property
    def readable(self) -> bool:
        """Whether its records may be handed out."""
        return not (self.paused or self.held)

    @property
    def in_hand(self) -> bool:
        """Whether the caller may still be working on a record."""
        return self.placed and self.done < self.position

    @property
    def lag(self) -> int:
        """Records up to the log end, as last heard of."""
        return max(0, self.log_end - self.position) if self.placed and self.log_end >= 0 else 0

    def place(self, offset: int, epoch: int = -1) -> None:
        """Go on from an offset; what was fetched is forgotten."""
        self.forget_buffer()
        self.position = self.fetch = self.done = offset
        self.epoch = self.leader_epoch = epoch
        self.wanted_reset = self.wanted_time_ms = self.error = None
        self.wait_until_s = 0.0
        self.version += 1
        self.moved_s = time.monotonic()

    def unplace(self, reset: int | None = None, time_ms: int | None = None) -> None:
        """Look up where to go on: at a start, an end, a time, or what is committed."""
        self.place(UNPLACED)
        self.wanted_reset, self.wanted_time_ms = reset, time_ms

    def forget_buffer(self) -> None:
        """Fetch again what was not handed out yet."""
        self.batches.clear()
        self.buffered_bytes = 0
        self.fetch = self.position
        self.version += 1

    def take_in(self, batches: Iterable[StoredBatch], end: int, nbytes: int) -> None:
        """Buffer what was fetched: the log is read up to `end` by it."""
        self.batches.extend(batches)
        self.buffered_bytes += nbytes
        self.fetch = end

    def next_batch(self) -> StoredBatch:
        """The oldest buffered batch, taken out of the buffer."""
        stored = self.batches.popleft()
        self.buffered_bytes -= len(stored.batch)
        return stored


def not_assigned(partition: TopicPartition) -> KafkaError:
    """The refusal of whatever needs an assigned partition."""
    return KafkaError(
        ErrorCode.STALE_MEMBER_EPOCH, f"{partition} is not assigned to this consumer (any more): nothing was changed."
    )
