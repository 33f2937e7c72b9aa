"""Records as slices of their batch: what compaction needs to know of them, and a batch of those it keeps.

A kept record is copied byte for byte: its deltas stay right because base offset, first timestamp and lastOffsetDelta
of its batch stay. Only maxTimestamp, the count and the checksum are new.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from redbroker.errors import ErrorCode, KafkaError
from redbroker.wire.compression import compress
from redbroker.wire.record_set import read_varint
from redbroker.wire.records import AFTER_CRC, BEFORE_CRC, HEADER_BYTES, LENGTH_END, BatchHeader, crc32c

__all__ = ["Slice", "keep_slices", "slices"]

new_tuple = tuple.__new__


class Slice(NamedTuple):
    """One record of a decompressed batch: where it lies, offset and time in the batch, key; tombstone: no value."""

    start: int
    stop: int
    delta: int
    delta_ms: int
    key: bytes | None
    tombstone: bool


def slices(payload: bytes, count: int) -> Iterator[Slice]:
    """The `count` records that fill a payload; CORRUPT_MESSAGE where they do not."""
    pos, end = 0, len(payload)
    try:
        for _ in range(count):
            start = pos
            size, pos = read_varint(payload, pos)
            stop = pos + size
            if not pos < stop <= end:
                raise _corrupt("a record reaches past the end")
            delta_ms, pos = read_varint(payload, pos + 1)
            delta, pos = read_varint(payload, pos)
            size, pos = read_varint(payload, pos)
            key = None if size < 0 else payload[pos : (pos := pos + size)]
            size, pos = read_varint(payload, pos)
            if pos + max(0, size) >= stop:
                raise _corrupt("a record has not the size it states")
            yield new_tuple(Slice, (start, stop, delta, delta_ms, key, size < 0))
            pos = stop
    except IndexError as error:
        raise _corrupt(str(error)) from error
    if pos != end:
        raise _corrupt("there are more than it states")


def _corrupt(why: str) -> KafkaError:
    return KafkaError(ErrorCode.CORRUPT_MESSAGE, f"The records of a batch are malformed: {why}.")


def keep_slices(header: BatchHeader, payload: bytes, kept: Iterable[Slice]) -> bytes:
    """The batch with these of its records only, compressed as it was."""
    parts: list[bytes] = []
    youngest = -1
    for start, stop, _, delta_ms, _, _ in kept:
        parts.append(payload[start:stop])
        youngest = max(youngest, header.first_timestamp + delta_ms)
    body = compress(header.codec, b"".join(parts))
    head = AFTER_CRC.pack(
        header.attributes, header.last_offset_delta, header.first_timestamp,
        header.max_timestamp if header.log_append_time else youngest,
        header.producer_id, header.producer_epoch, header.base_sequence, len(parts),
    )  # fmt: skip
    length = HEADER_BYTES - LENGTH_END + len(body)
    front = BEFORE_CRC.pack(header.base_offset, length, header.partition_leader_epoch, 2, crc32c(body, crc32c(head)))
    return b"".join((front, head, body))
