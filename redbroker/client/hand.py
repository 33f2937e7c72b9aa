"""What the caller has in hand: the chunk of decoded records it takes from, and what it is not done with yet.

    chunk   taken │ in hand │ to be handed out
                begin       at                 end

`getmany` moves a position at once; `async for` only counts in `at`, and `settle` moves the position when somebody asks.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from redbroker.client.decoding import decoded
from redbroker.client.types import ConsumerRecord

if TYPE_CHECKING:
    from redbroker.client.consumer_config import ConsumerConfig
    from redbroker.client.positions import Position
    from redbroker.types import TopicPartition

__all__ = ["Hand"]

CHUNK_RECORDS = 500
"""Records decoded at once, unless a batch has more: the event loop is others' meanwhile and after it."""


class Hand:
    """One chunk, of one partition; `of` is its position. `settled` is set when the caller is done with something."""

    __slots__ = ("_begin", "_end", "_working", "at", "chunk", "of", "settled", "skipped")

    def __init__(self) -> None:
        self._working: set[Position] = set()
        self.settled = asyncio.Event()
        self.skipped: Counter[str] = Counter()  # records that could not be decoded, by topic
        self._empty()

    def _empty(self) -> None:
        self.chunk: Sequence[ConsumerRecord] = ()
        self.at = self._begin = self._end = 0  # the next one to hand out; where `async for` took over; after the chunk
        self.of: Position | None = None

    def clear(self) -> None:
        """Forget everything."""
        self._empty()
        self._working.clear()

    def load(
        self, positions: dict[TopicPartition, Position], config: ConsumerConfig, taken: Callable[[Position, int], None],
        *, raising: bool = True,
    ) -> bool:  # fmt: skip
        """A new chunk of the next partition that has one, in turn; `taken` hears how many bytes its buffer had before.

        What only the caller can decide about a partition is raised when its turn has come, or passed by.
        """
        for partition, each in list(positions.items()):
            if not each.readable or (each.error and not raising):
                continue
            if each.error is not None:
                raise each.error
            if not each.batches:
                continue
            positions[partition] = positions.pop(partition)  # the others come first next time
            before = each.buffered_bytes
            filled = self._fill(each, config)
            each.moved_s = time.monotonic()
            taken(each, before)
            if filled:
                return True
            if each.error is not None and raising:
                raise each.error
        return False

    def _fill(self, of: Position, config: ConsumerConfig) -> bool:
        """Make the chunk of one partition's batches; False when they held no records."""
        chunk: list[ConsumerRecord] = []
        end = of.position
        while of.batches and len(chunk) < CHUNK_RECORDS:
            stored = of.next_batch()
            records, end, of.error = decoded(stored, of.partition, end, config, self.skipped)
            chunk += records
            if of.error is not None:
                of.batches.clear()
                of.buffered_bytes = 0
                break
        if not chunk:
            of.position = end
            if of not in self._working:
                of.done = end
            return False
        self.chunk, self.at, self._begin, self.of, self._end = chunk, 0, 0, of, end
        return True

    def take(self, room: int) -> Sequence[ConsumerRecord]:
        """Up to so many records of the chunk, which must not be empty."""
        of = self.of
        assert of is not None
        part = self.chunk[self.at : self.at + room]
        self.at = self._begin = self.at + len(part)
        left = self.at < len(self.chunk)
        of.position = self.chunk[self.at].offset if left else self._end
        of.epoch = part[-1].leader_epoch
        self._working.add(of)
        if not left:
            self._empty()
        return part

    def settle(self) -> None:
        """Bring the position up to what `async for` has taken of the chunk; the last record taken is in hand."""
        of, at = self.of, self.at
        if of is not None and at > self._begin:
            of.position = self.chunk[at].offset if at < len(self.chunk) else self._end
            of.done, of.epoch = self.chunk[at - 1].offset, self.chunk[at - 1].leader_epoch
            self._working.add(of)

    def all_done(self) -> None:
        """The caller is done with everything that was handed out."""
        self.settle()
        self._begin = self.at
        if self.at == len(self.chunk):
            self._empty()
        for each in self._working:
            each.done = each.position
        if self._working:
            self._working.clear()
            self.settled.set()

    def put_back(self, of: Position) -> None:
        """Hand out nothing more of this partition's chunk."""
        if self.of is of:
            self.settle()
            self._empty()

    def let_go(self, of: Position) -> None:
        """The partition is gone, or its position moved: what the caller has of it counts no more."""
        self.put_back(of)
        self._working.discard(of)
