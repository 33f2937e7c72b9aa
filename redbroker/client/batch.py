"""Records that travel together: made bytes as they come, and a future for each.

A record is bytes of its batch from the moment it is taken, and its time a word in an array. Hundreds of thousands may
wait, and each object of theirs that Python's garbage collector looks at, again and again, costs more than making the
bytes does. Where a batch has failed, its records are read back out of it.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import deque
from itertools import count, repeat
from typing import TYPE_CHECKING

from redbroker.client.errors import DeliveryError, ProducerRecord
from redbroker.client.types import Sent
from redbroker.errors import KafkaError
from redbroker.wire.record_set import add_record, split_records
from redbroker.wire.records import seal_batch, stamp_append_time

if TYPE_CHECKING:
    from redbroker.client.outbox import Outbox
    from redbroker.engine.topics import Topic

__all__ = ["Batch"]

Future = asyncio.Future
new_tuple = tuple.__new__


class Batch:
    """One batch of one partition; `encoded` is what the log gets, empty until it first leaves."""

    __slots__ = (
        "_payload", "_times_ms", "deadline", "done", "encoded", "first", "futures", "nbytes", "number", "outbox",
        "sequence", "underway",
    )  # fmt: skip

    def __init__(self, outbox: Outbox, number: int, deadline: float, done: asyncio.Future[None]) -> None:
        self.outbox = outbox
        self.number = number
        self.futures: list[asyncio.Future[Sent]] = []
        self.nbytes = 0
        self.deadline = deadline
        self.done = done
        self.underway = False
        self.first = False  # nothing older was unsettled when it was last sent
        self.sequence = -1
        self.encoded = b""
        self._payload = bytearray()
        self._times_ms = array("q")

    def add(
        self,
        timestamp_ms: int,
        key: bytes | None,
        value: bytes | None,
        headers: tuple[tuple[str, bytes | None], ...],
        nbytes: int,
        future: asyncio.Future[Sent],
    ) -> None:
        """Put a record at the end; `nbytes` is the most it takes."""
        times_ms = self._times_ms
        place = len(times_ms)
        times_ms.append(timestamp_ms)
        add_record(self._payload, timestamp_ms - times_ms[0], place, key, value, headers)
        self.futures.append(future)
        self.nbytes += nbytes

    def encode(self, topic: Topic, codec: str, producer_id: int, epoch: int) -> None:
        """Make its bytes, with its `sequence`; random bytes become more when compressed, then they are not."""
        payload, times_ms = self._payload, self._times_ms
        size, first_ms, max_ms = len(times_ms), times_ms[0], max(times_ms)

        def seal(codec: str) -> bytes:
            return seal_batch(
                payload, size, size - 1, first_ms, max_ms, codec,
                producer_id=producer_id, producer_epoch=epoch, base_sequence=self.sequence,
            )  # fmt: skip

        encoded = seal(codec)
        if len(encoded) > topic.max_message_bytes and codec != "none":
            encoded = seal("none")
        if topic.log_append_time:
            now_ms = time.time_ns() // 1_000_000
            encoded = stamp_append_time(encoded, now_ms)
            self._times_ms = array("q", [now_ms]) * size
        self.encoded = encoded

    def settle(self, topic: str, partition: int, base_offset: int | None) -> None:
        """Tell everybody who waits where the records are; those who were cancelled wait no more."""
        offsets = repeat(-1) if base_offset is None else count(base_offset)
        places = zip(repeat(topic), repeat(partition), offsets, self._times_ms, strict=False)
        telling = map(Future.set_result, self.futures, map(new_tuple, repeat(Sent), places))
        while True:
            try:
                deque(telling, 0)
            except asyncio.InvalidStateError:  # this one was cancelled: `telling` goes on behind it
                continue
            return

    def fail(self, topic: str, partition: int, error: KafkaError) -> None:
        """Tell everybody who waits that it failed, and hand the records back."""
        times_ms = self._times_ms
        records = split_records(bytes(self._payload), len(times_ms), 0, times_ms[0])
        for future, timestamp_ms, (_, _, key, value, headers) in zip(self.futures, times_ms, records, strict=True):
            if not future.done():
                record = ProducerRecord(topic, value, key, tuple(headers), partition, timestamp_ms)
                future.set_exception(DeliveryError(error.code, error.message, record))
                future.exception()  # whoever fails a batch logs it: asyncio need not tell it for every record
