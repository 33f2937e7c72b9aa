"""The smallest pieces of Kafka's wire format: unsigned varints, tagged sections, and the one decoding error.

An unsigned varint carries seven bits a byte, lowest first, top bit set on all but the last byte; Kafka never
writes one above 32 bits, so five bytes are the longest that is read.

A tagged section (KIP-482) closes every struct of a flexible version:

    count uvarint   { tag uvarint   size uvarint   value: size bytes } * count
"""

from __future__ import annotations

from functools import lru_cache
from typing import NoReturn
from uuid import UUID

UVARINT_BYTES_MAX = 5
NULL_UUID = UUID(int=0)
"""Kafka has no null uuid: sixteen zero bytes mean "none"."""


class MalformedMessage(ValueError):
    """The bytes are not what Kafka's format allows here; the connection they came by should be closed."""


def refuse(why: str) -> NoReturn:
    """Raises `MalformedMessage`; a function, so that generated code stays one line a check."""
    raise MalformedMessage(why)


def read_uvarint(buf: bytes | bytearray | memoryview, pos: int) -> tuple[int, int]:
    """(value, next position). IndexError at the end of the buffer, `MalformedMessage` above 32 bits."""
    low = buf[pos]
    if low < 0x80:
        return low, pos + 1
    high = buf[pos + 1]
    if high < 0x80:
        return low + (high - 1 << 7), pos + 2
    value = 0
    for shift in range(0, 7 * UVARINT_BYTES_MAX, 7):
        byte = buf[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 32:
                break
            return value, pos
    raise MalformedMessage("a varint exceeds 32 bits")


def _long_uvarint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


SHORT_UVARINTS = tuple(_long_uvarint(value) for value in range(1 << 10))


def to_uvarint(value: int) -> bytes:
    """The bytes of a value >= 0; small ones come from a table."""
    return SHORT_UVARINTS[value] if value < 1 << 10 else _long_uvarint(value)


def skip_tags(buf: bytes | bytearray | memoryview, pos: int) -> int:
    """The position behind a tagged section whose every field is unknown."""
    count, pos = read_uvarint(buf, pos)
    for _ in range(count):
        _, pos = read_uvarint(buf, pos)
        size, pos = read_uvarint(buf, pos)
        pos += size
        if pos > len(buf):
            raise MalformedMessage("a tagged field reaches past the end")
    return pos


@lru_cache(maxsize=4096)
def to_uuid(raw: bytes) -> UUID:
    """The UUID of sixteen bytes; cached, since the same topic ids come with every request."""
    return UUID(bytes=raw)
