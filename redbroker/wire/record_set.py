"""The records inside a batch, once decompressed.

    length varint | attributes i8 = 0 | timestampDelta varlong | offsetDelta varint
    keyLength varint, -1 null | key | valueLength varint, -1 null | value
    headerCount varint | { keyLength varint | key | valueLength varint, -1 null | value } * headerCount

Varints are zig-zag coded (0, -1, 1, -2 ... become 0, 1, 2, 3 ...), seven bits a byte, lowest first.
Both directions handle one-byte varints in line: nearly all are.

What records mean is said by `split_records`. `_record_set.c` does the same for who wants all of a batch at once, where
it could be compiled.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain, repeat
from typing import Any, NamedTuple

from redbroker.errors import ErrorCode, KafkaError

try:  # optional: built where the package is installed, if there are a C compiler and Python's headers
    from redbroker.wire import _record_set as compiled
except ImportError:
    compiled = None  # type: ignore[assignment]

RECORD_BYTES_MIN = 7  # a byte each: length, attributes, two deltas, no key, no value, no headers
VARLONG_BYTES_MAX = 10
VARINTS_MAX = 1 << 12
INT64_MIN, INT64_MAX, UINT64_MAX = -(1 << 63), (1 << 63) - 1, (1 << 64) - 1
new_tuple = tuple.__new__  # skips the argument handling of a named tuple's own constructor
Buffer = bytes | bytearray | memoryview
Shape = tuple[type[Any], tuple[Any, ...], tuple[Any, ...]]


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
KEYLESS = tuple(NULL + size for size in VARINTS)  # no key, and the length of a value
FEW = 16
OFFSET_STEPS = (1 << 6, 1 << 13, 1 << 20, 1 << 27, 1 << 31)  # from here on an offset delta takes one more byte


def to_varint(value: int) -> bytes:
    """The zig-zag varint of any integer of 64 bits."""
    return VARINTS[value] if 0 <= value < VARINTS_MAX else _long_varint(value)


def read_varint(data: bytes, pos: int) -> tuple[int, int]:
    """(value, next position); IndexError at the end of the data, CORRUPT_MESSAGE above 64 bits."""
    low = data[pos]
    if low < 0x80:
        return low >> 1 ^ -(low & 1), pos + 1
    high = data[pos + 1]
    if high < 0x80:
        low += (high - 1) << 7
        return low >> 1 ^ -(low & 1), pos + 2
    rest = 0
    for shift in range(0, 7 * VARLONG_BYTES_MAX, 7):
        byte = data[pos]
        pos += 1
        rest |= (byte & 0x7F) << shift
        if byte < 0x80 and rest <= UINT64_MAX:
            return rest >> 1 ^ -(rest & 1), pos
    raise _corrupt("a varint exceeds 64 bits")


def _corrupt(why: str) -> KafkaError:
    return KafkaError(ErrorCode.CORRUPT_MESSAGE, f"The records of a batch are malformed: {why}.")


def join_records(records: Iterable[Record], base_offset: int) -> tuple[bytearray, int, int, int, int]:
    """(bytes, count, last offset delta, first timestamp, max timestamp) of records; -1 for each when there are none."""
    joined = bytearray()
    first_ms = max_ms = last_delta = -1
    count = 0
    for offset, timestamp, key, value, headers in records:
        if count == 0:
            first_ms = max_ms = timestamp
        elif timestamp > max_ms:
            max_ms = timestamp
        count += 1
        last_delta = offset - base_offset
        add_record(joined, timestamp - first_ms, last_delta, key, value, headers)
    return joined, count, last_delta, first_ms, max_ms


def add_record(
    records: bytearray,
    delta_ms: int,
    delta: int,
    key: bytes | None,
    value: bytes | None,
    headers: Sequence[tuple[str, bytes | None]],
) -> None:
    """Put one more behind the records; the deltas are from the batch's first timestamp and offset."""
    head = b"\0" + (VARINTS[delta_ms] if 0 <= delta_ms < VARINTS_MAX else _long_varint(delta_ms))
    head += VARINTS[delta] if delta < VARINTS_MAX else _long_varint(delta)
    head += NULL if key is None else to_varint(len(key)) + key
    if value is None:
        head += NULL
        value, nbytes = b"", 0
    else:
        nbytes = len(value)
        head += VARINTS[nbytes] if nbytes < VARINTS_MAX else _long_varint(nbytes)
    tail = _join_headers(headers) if headers else b"\0"
    nbytes += len(head) + len(tail)
    records += (VARINTS[nbytes] if nbytes < VARINTS_MAX else _long_varint(nbytes)) + head
    records += value
    records += tail


def join_columns(
    values: Sequence[bytes | None],
    keys: Sequence[bytes | None] | None,
    headers: Mapping[int, Sequence[tuple[str, bytes | None]]],
    since: Sequence[int],
    times_ms: Sequence[int],
) -> bytes | bytearray:
    """Records that stand in columns, the times in runs that begin at the places `since`.

    With `keys` None all have values, and neither keys nor headers: four times as fast, since nothing is done by hand.
    """
    joined = bytearray()
    if len(since) == 1 and keys is None and len(values) < FEW:
        for place, value in enumerate(values):
            add_record(joined, 0, place, None, value, ())
        return joined
    runs = zip(since, (*since[1:], len(values)), (each - times_ms[0] for each in times_ms), strict=True)
    if keys is None:
        parts: list[bytes] = []
        for first, end, delta_ms in runs:
            for step in OFFSET_STEPS:
                if first < min(step, end):
                    parts += _plain(values, first, min(step, end), delta_ms)  # type: ignore[arg-type]
                    first = min(step, end)
        return b"".join(parts)
    for first, end, delta_ms in runs:
        for place in range(first, end):
            add_record(joined, delta_ms, place, keys[place], values[place], headers.get(place, ()))
    return joined


def _plain(values: Sequence[bytes], first: int, end: int, delta_ms: int) -> list[bytes]:
    """The bytes of records with values only, in pieces, whose offset deltas take equally many bytes."""
    some = values[first:end]
    sizes = list(map(len, some))
    if end - first < FEW or max(sizes) >= VARINTS_MAX:
        joined = bytearray()
        for place, value in enumerate(some, first):
            add_record(joined, delta_ms, place, None, value, ())
        return [joined]  # type: ignore[list-item]
    times = b"\0" + to_varint(delta_ms)
    places = VARINTS[first:end] if end <= VARINTS_MAX else map(to_varint, range(first, end))
    lengths = _lengths(len(times) + len(to_varint(first)) + 2)
    parts = list(
        chain.from_iterable(
            zip(
                map(lengths.__getitem__, sizes), repeat(times), places, map(KEYLESS.__getitem__, sizes), some,
                strict=False,
            )
        )
    )  # fmt: skip
    parts[0] = parts[0][1:]
    parts.append(b"\0")
    return parts


@lru_cache(maxsize=64)
def _lengths(fixed: int) -> tuple[bytes, ...]:
    """By the size of its value, the length of a record of so many other bytes, behind the end of the one before."""
    return tuple(b"\0" + to_varint(fixed + len(VARINTS[size]) + size) for size in range(VARINTS_MAX))


def _join_headers(headers: Sequence[tuple[str, bytes | None]]) -> bytes:
    parts = [to_varint(len(headers))]
    for name, value in headers:
        key = name.encode()
        parts += to_varint(len(key)), key
        parts += (NULL,) if value is None else (to_varint(len(value)), value)
    return b"".join(parts)


def split_records(
    data: Buffer,
    count: int,
    base_offset: int,
    first_ms: int,
    append_time_ms: int | None = None,
    shape: Shape = (Record, (), ()),
) -> Iterator[Any]:
    """The `count` records that fill `data`, each at `append_time_ms` if given; CORRUPT_MESSAGE where they do not.

    `shape` is (type of named tuples, fields before the offset, fields behind the headers). One at a time: a batch may
    hold many more than a worker has room for.
    """
    kind, before, behind = shape
    data = bytes(data)
    pos, end = 0, len(data)
    if count > end // RECORD_BYTES_MIN:  # no list grows by what a header merely states
        raise _corrupt("there are fewer bytes than records take")
    try:
        for _ in range(count):
            size, pos = read_varint(data, pos)
            stop = pos + size
            if not pos < stop <= end:
                raise _corrupt("a record reaches past the end")
            delta_ms, pos = read_varint(data, pos + 1)  # the record's attributes are not in use
            delta, pos = read_varint(data, pos)
            size, pos = read_varint(data, pos)
            key = None if size < 0 else data[pos : (pos := pos + size)]
            size, pos = read_varint(data, pos)
            value = None if size < 0 else data[pos : (pos := pos + size)]
            headers: Sequence[tuple[str, bytes | None]] = ()
            if data[pos]:
                headers, pos = _read_headers(data, pos)
            else:
                pos += 1
            if pos != stop:  # positions only grow: this finds every length that reached past the record
                raise _corrupt("a record has not the size it states")
            offset = base_offset + delta
            timestamp = first_ms + delta_ms if append_time_ms is None else append_time_ms
            if not (INT64_MIN <= offset <= INT64_MAX and INT64_MIN <= timestamp <= INT64_MAX):
                raise _corrupt("an offset or a time exceeds 64 bits")
            yield new_tuple(kind, (*before, offset, timestamp, key, value, headers, *behind))
    except IndexError as error:
        raise _corrupt("they end early") from error
    if pos != end:
        raise _corrupt("there are more than it states")


def is_compiled() -> bool:
    """Whether `decode_records` runs in C here."""
    return compiled is not None


def decode_records(
    data: Buffer, count: int, base_offset: int, first_ms: int, append_time_ms: int | None, shape: Shape
) -> list[Any]:
    """As `split_records`, but at once: this is what limits a consumer."""
    if compiled is None:
        return list(split_records(data, count, base_offset, first_ms, append_time_ms, shape))
    try:
        return compiled.decode_records(data, count, base_offset, first_ms, append_time_ms, shape)
    except ValueError as error:
        raise _corrupt(str(error)) from None


def _read_headers(data: bytes, pos: int) -> tuple[Sequence[tuple[str, bytes | None]], int]:
    count, pos = read_varint(data, pos)
    if not 0 <= count <= len(data) - pos:
        raise _corrupt("there are more headers than bytes")
    headers = []
    for _ in range(count):
        name, pos = _read_nullable(data, pos)
        if name is None:
            raise _corrupt("a header has no key")
        try:
            key = name.decode()
        except UnicodeDecodeError as error:
            raise _corrupt("the key of a header is not UTF-8") from error
        value, pos = _read_nullable(data, pos)
        headers.append((key, value))
    return headers, pos


def _read_nullable(data: bytes, pos: int) -> tuple[bytes | None, int]:
    size, pos = read_varint(data, pos)
    if size > len(data) - pos:
        raise IndexError
    return (None, pos) if size < 0 else (data[pos : pos + size], pos + size)
