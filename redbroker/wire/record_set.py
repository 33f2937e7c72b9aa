"""The records inside a batch, once decompressed.

    length varint | attributes i8 = 0 | timestampDelta varlong | offsetDelta varint
    keyLength varint, -1 null | key | valueLength varint, -1 null | value
    headerCount varint | { keyLength varint | key | valueLength varint, -1 null | value } * headerCount

Varints are zig-zag coded (0, -1, 1, -2 ... become 0, 1, 2, 3 ...), seven bits a byte, lowest first.
Both directions handle one-byte varints in line: nearly all are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from redbroker.errors import ErrorCode, KafkaError

VARLONG_BYTES_MAX = 10
VARINTS_MAX = 1 << 12


class Record(NamedTuple):
    """One record: absolute offset, time in milliseconds, null keys and values as None, headers as pairs."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()


def _long_varint(value: int) -> bytes:
    rest = value << 1 if value >= 0 else (~value << 1) | 1
    out = bytearray()
    while rest >= 0x80:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


VARINTS = tuple(_long_varint(value) for value in range(VARINTS_MAX))
NULL = _long_varint(-1)


def to_varint(value: int) -> bytes:
    """The zig-zag varint of any integer of 64 bits."""
    return VARINTS[value] if 0 <= value < VARINTS_MAX else _long_varint(value)


def read_varint(data: bytes, pos: int) -> tuple[int, int]:
    """(value, next position); IndexError at the end of the data, CORRUPT_MESSAGE above ten bytes."""
    rest = 0
    for shift in range(0, 7 * VARLONG_BYTES_MAX, 7):
        byte = data[pos]
        pos += 1
        rest |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (rest >> 1) ^ -(rest & 1), pos
    raise _corrupt("a varint exceeds ten bytes")


def _corrupt(why: str) -> KafkaError:
    return KafkaError(ErrorCode.CORRUPT_MESSAGE, f"The records of a batch are malformed: {why}.")


def join_records(records: Iterable[Record], base_offset: int) -> tuple[bytes, int, int, int, int]:
    """(bytes, count, last offset delta, first timestamp, max timestamp) of records; -1 for each when there are none."""
    parts: list[bytes] = []
    first_ms = max_ms = last_delta = -1
    count = 0
    for offset, timestamp, key, value, headers in records:
        if count == 0:
            first_ms = max_ms = timestamp
        elif timestamp > max_ms:
            max_ms = timestamp
        count += 1
        last_delta = offset - base_offset
        head = b"\0" + to_varint(timestamp - first_ms) + to_varint(last_delta)
        head += NULL if key is None else to_varint(len(key)) + key
        head += NULL if value is None else to_varint(len(value))
        tail = _join_headers(headers) if headers else b"\0"
        nbytes = len(head) + len(tail) + (len(value) if value else 0)
        parts += to_varint(nbytes), head, value or b"", tail
    return b"".join(parts), count, last_delta, first_ms, max_ms


def _join_headers(headers: Sequence[tuple[str, bytes | None]]) -> bytes:
    parts = [to_varint(len(headers))]
    for name, value in headers:
        key = name.encode()
        parts += to_varint(len(key)), key
        parts += (NULL,) if value is None else (to_varint(len(value)), value)
    return b"".join(parts)


def split_records(
    data: bytes, count: int, base_offset: int, first_ms: int, append_time_ms: int | None = None
) -> Iterator[Record]:
    """The `count` records that fill `data`, each at `append_time_ms` if given; CORRUPT_MESSAGE where they do not."""
    pos, end = 0, len(data)
    try:
        for _ in range(count):
            size, pos = read_varint(data, pos)
            stop = pos + size
            if size < 0 or stop > end:
                raise _corrupt("a record reaches past the end")
            delta_ms, pos = read_varint(data, pos + 1)
            offset_delta, pos = read_varint(data, pos)
            key, pos = _read_bytes(data, pos, stop)
            value, pos = _read_bytes(data, pos, stop)
            headers, pos = _read_headers(data, pos, stop)
            if pos != stop:
                raise _corrupt("a record has not the size it states")
            timestamp = first_ms + delta_ms if append_time_ms is None else append_time_ms
            yield Record(base_offset + offset_delta, timestamp, key, value, headers)
    except (IndexError, UnicodeDecodeError) as error:
        raise _corrupt(str(error)) from error
    if pos != end:
        raise _corrupt("there are more than it states")


def _read_bytes(data: bytes, pos: int, stop: int) -> tuple[bytes | None, int]:
    size = data[pos]
    if size < 0x80:
        size, pos = (size >> 1) ^ -(size & 1), pos + 1
    else:
        size, pos = read_varint(data, pos)
    if size < 0:
        return None, pos
    if size > stop - pos:
        raise _corrupt("a key or value reaches past its record")
    return data[pos : pos + size], pos + size


def _read_headers(data: bytes, pos: int, stop: int) -> tuple[Sequence[tuple[str, bytes | None]], int]:
    if data[pos] == 0:
        return (), pos + 1
    count, pos = read_varint(data, pos)
    if not 0 <= count <= stop - pos:
        raise _corrupt("there are more headers than bytes")
    headers = []
    for _ in range(count):
        name, pos = _read_bytes(data, pos, stop)
        if name is None:
            raise _corrupt("a header has no key")
        value, pos = _read_bytes(data, pos, stop)
        headers.append((name.decode(), value))
    return headers, pos
