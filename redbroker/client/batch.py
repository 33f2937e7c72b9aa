"""Records that travel together: they wait in columns, and become bytes when they leave, all at once.

Hundreds of thousands may wait, and each object of theirs that Python's garbage collector looks at, again and again,
costs more than making the bytes does. Columns of bytes are none of its business, and what is done for a whole batch at
once is done in C. What has no key, no header and a value, as most records of a bulk load, needs one column alone.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from redbroker.client.delivery import Delivery, Fate
from redbroker.errors import KafkaError
from redbroker.wire.record_set import join_columns
from redbroker.wire.records import seal_batch, stamp_append_time

if TYPE_CHECKING:
    from redbroker.client.outbox import Outbox
    from redbroker.engine.topics import Topic

__all__ = ["NOTHING_LENT", "Batch"]

NS_PER_MS = 1_000_000


class Batch:
    """One batch of one partition; `encoded` is what the log gets, empty until it first leaves.

    `held` bytes of the producer's room are its own, of which `left` are lent for records to come: while there are any,
    a producer may put plain ones in itself, by `tick` (once `until_ns` has come), `append` and `take`, the handle.
    """

    __slots__ = (
        "_headers", "_keys", "_values", "append", "deadline", "done", "encoded", "fate", "first", "held", "left",
        "number", "outbox", "sequence", "take", "topic", "underway", "until_ns",
    )  # fmt: skip

    def __init__(self, outbox: Outbox, number: int, deadline: float, done: asyncio.Future[None]) -> None:
        self.outbox = outbox
        self.topic = outbox.topic.name
        self.number = number
        self.deadline = deadline
        self.done = done
        self.underway = False
        self.first = False  # nothing older was unsettled when it was last sent
        self.sequence = -1
        self.encoded = b""
        self.held = self.left = self.until_ns = 0
        self.fate = Fate(done.get_loop(), self.topic, outbox.partition)
        self._values: list[bytes | None] = []
        self._keys: list[bytes | None] | None = None
        self._headers: dict[int, tuple[tuple[str, bytes | None], ...]] = {}

    def __len__(self) -> int:
        return len(self._values)

    @property
    def nbytes(self) -> int:
        """The most that its records take."""
        return self.held - self.left

    @property
    def plain(self) -> bool:
        """Whether no record has a key, a header or no value."""
        return self._keys is None

    def add(
        self,
        timestamp_ms: int,
        key: bytes | None,
        value: bytes | None,
        headers: tuple[tuple[str, bytes | None], ...],
        nbytes: int,
    ) -> Delivery:
        """Put a record at the end; `nbytes` is the most it takes."""
        place = len(self._values)
        self.fate.taken(place, timestamp_ms)
        self.until_ns = 0
        self._values.append(value)
        keys = self._keys
        if keys is None and (key is not None or headers or value is None):
            keys = self._keys = [None] * place
        if keys is not None:
            keys.append(key)
            if headers:
                self._headers[place] = headers
        self.held += nbytes
        return Delivery((self.fate, place))

    def lend(self, nbytes: int) -> None:
        """Take so many bytes of the producer's room for plain records to come."""
        self.held += nbytes
        self.left = nbytes
        self.append = self._values.append
        self.take = self.fate.handles(len(self._values))

    def tick(self, now_ns: int) -> None:
        """The next record is taken at this time, and those of the same millisecond.

        Where the clock is set back, they keep this time until the batch leaves.
        """
        now_ms = now_ns // NS_PER_MS
        self.fate.taken(len(self._values), now_ms)
        self.until_ns = (now_ms + 1) * NS_PER_MS

    def encode(self, topic: Topic, codec: str, producer_id: int, epoch: int) -> None:
        """Make its bytes, with its `sequence`; random bytes become more when compressed, then they are not."""
        fate, size = self.fate, len(self._values)
        first_ms, max_ms = fate.times_ms[0], max(fate.times_ms)
        payload = join_columns(self._values, self._keys, self._headers, fate.since, fate.times_ms)

        def seal(codec: str) -> bytes:
            return seal_batch(
                payload, size, size - 1, first_ms, max_ms, codec,
                producer_id=producer_id, producer_epoch=epoch, base_sequence=self.sequence,
            )  # fmt: skip

        encoded = seal(codec)
        if len(encoded) > topic.max_message_bytes and codec != "none":
            encoded = seal("none")
        if topic.log_append_time:
            now_ms = time.time_ns() // NS_PER_MS
            encoded = stamp_append_time(encoded, now_ms)
            fate.since, fate.times_ms = array("q", [0]), array("q", [now_ms])
        self.encoded = encoded

    def settle(self, base_offset: int | None) -> None:
        """Tell everybody who waits where the records are."""
        self.fate.settle(base_offset)

    def fail(self, error: KafkaError) -> None:
        """Tell everybody who waits that it failed; whoever still holds a handle may have the record back."""
        self.fate.fail(error, (self._values, self._keys, self._headers))


NOTHING_LENT = cast("Batch", SimpleNamespace(topic="", left=0, held=0))
"""Takes nothing."""
