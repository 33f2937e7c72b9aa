"""The compiled decoder of records against the plain one, which says what is right; and what only C can get wrong."""

from __future__ import annotations

import copy
import gc
import pickle
import random
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from redbroker.client.types import ConsumerRecord
from redbroker.errors import ErrorCode, KafkaError
from redbroker.wire.record_set import Record, Shape, decode_records, join_records, split_records, to_varint

pytest.importorskip(
    "redbroker.wire._record_set", reason="the decoder was not compiled: no C compiler or no Python headers"
)
from redbroker.wire import _record_set

SHAPE: Shape = (ConsumerRecord, ("flights", 2), (9,))
BARE: Shape = (Record, (), ())
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
EDGES = sorted(
    {
        sign * (1 << bits) + near
        for bits in (0, 6, 7, 13, 14, 20, 21, 27, 28, 31, 32, 34, 35, 41, 48, 55, 62, 63)
        for sign in (1, -1)
        for near in (-1, 0, 1)
    }
)
"""Where a varint takes one more byte, and where an integer of C ends."""

blobs = st.none() | st.binary(max_size=200)
int64s = st.integers(INT64_MIN, INT64_MAX)
headers = st.lists(st.tuples(st.text(max_size=20), blobs), max_size=3).map(lambda pairs: pairs or ())
records = st.builds(
    Record,
    offset=st.integers(-(2**31), 2**31 - 1),
    timestamp=st.integers(0, 100) | int64s,
    key=blobs,
    value=blobs | st.integers(0, 20_000).map(bytes),
    headers=headers,
)


def tried(decode: Callable[[], list[Any]]) -> list[tuple[Any, ...]] | tuple[ErrorCode, str]:
    try:
        return [tuple(each) for each in decode()]
    except KafkaError as refused:
        return refused.code, refused.message


def agreed(
    data: bytes, count: int, base_offset: int = 100, first_ms: int = 1_000, append_time_ms: int | None = None,
    shape: Shape = SHAPE,
) -> list[tuple[Any, ...]] | tuple[ErrorCode, str]:  # fmt: skip
    """What both decoders make of bytes: records, or the words they are refused with."""
    plain = tried(lambda: list(split_records(data, count, base_offset, first_ms, append_time_ms, shape)))
    assert tried(lambda: decode_records(data, count, base_offset, first_ms, append_time_ms, shape)) == plain
    view = memoryview(b"\0" + data)[1:]
    assert tried(lambda: decode_records(view, count, base_offset, first_ms, append_time_ms, shape)) == plain
    return plain


def varint(value: int) -> bytes:
    """Also of a value that no varint of ours may have."""
    rest, out = value << 1 if value >= 0 else (~value << 1) | 1, bytearray()
    while rest >= 0x80:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes(out) + bytes([rest])


def framed(body: bytes) -> bytes:
    return to_varint(len(body)) + body


def nullable(value: bytes | None) -> bytes:
    return b"\x01" if value is None else framed(value)


def joined(batch: list[Record]) -> bytes:
    """As `join_records` with offsets and times as deltas, which may be what no producer would send."""
    return b"".join(
        framed(
            b"\0" + varint(each.timestamp) + varint(each.offset) + nullable(each.key) + nullable(each.value)
            + to_varint(len(each.headers))
            + b"".join(nullable(name.encode()) + nullable(value) for name, value in each.headers)
        )
        for each in batch
    )  # fmt: skip


# --- the same records -----------------------------------------------------------------------------------------


@given(
    st.lists(records, max_size=5), int64s, int64s, st.none() | st.integers(0, INT64_MAX), st.sampled_from([SHAPE, BARE])
)
def test_valid_batches_give_the_same_records(
    batch: list[Record], base_offset: int, first_ms: int, append_time_ms: int | None, shape: Shape
) -> None:
    data = joined(batch)
    found = agreed(data, len(batch), 100, 0, None, BARE)
    assert found == [tuple(each._replace(offset=100 + each.offset)) for each in batch]
    agreed(data, len(batch), base_offset, first_ms, append_time_ms, shape)


def test_what_a_record_is_made_of_has_the_same_types() -> None:
    data, count, *_ = join_records([Record(0, 5, b"k", None, [("h", b"v"), ("n", None)]), Record(1, 5, None, b"")], 0)
    data += framed(b"\0\0\x04\x01\x01\x80\0")  # a count of headers that is zero, and longer than it need be
    for one, other in zip(
        decode_records(data, count + 1, 0, 5, None, SHAPE),
        split_records(data, count + 1, 0, 5, None, SHAPE),
        strict=True,
    ):
        assert type(one) is type(other) is ConsumerRecord
        assert list(map(type, one)) == list(map(type, other))
        assert list(map(type, one.headers)) == list(map(type, other.headers))


def test_a_record_is_as_good_as_one_made_by_hand() -> None:
    data, count, *_ = join_records([Record(0, 5, b"k", b"v"), Record(1, 5, b"k", b"v", [("h", b"v")])], 0)
    plain, other = decode_records(data, count, 0, 5, None, SHAPE)
    made = ConsumerRecord("flights", 2, 0, 5, b"k", b"v", (), 9)
    assert plain == made
    assert hash(plain) == hash(tuple(made)) == hash(made) != hash(plain._replace(value=b"w"))
    assert {plain: 1}[made] == 1
    for each in (plain, other):
        assert pickle.loads(pickle.dumps(each)) == copy.copy(each) == copy.deepcopy(each) == each
        assert each._replace(value=None).value is None
        assert isinstance(each, tuple)
        assert each._asdict()["topic"] == "flights"
        assert repr(each).startswith("ConsumerRecord(topic='flights', partition=2, offset=")


# --- the same refusals ----------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(st.binary(max_size=60), st.integers(-2, 9))
@example(b"", 0)
@example(b"", -1)
@example(b"\0" * 7, -1)
def test_any_bytes_mean_the_same(data: bytes, count: int) -> None:
    agreed(data, count)


@given(st.lists(records, max_size=4), st.randoms(use_true_random=False))
def test_broken_batches_mean_the_same(batch: list[Record], dice: random.Random) -> None:
    data, count = joined(batch), len(batch)
    for wrong in (count - 1, count + 1, -1, 0, 2**31 - 1, 2**62):
        agreed(data, wrong)
    for cut in range(min(8, len(data))):
        agreed(data[: -1 - cut], count)
    for _ in range(8):
        broken = bytearray(data)
        for _ in range(dice.randrange(1, 4)):
            place = dice.randrange(len(broken) + 1)
            some = varint(dice.choice(EDGES)) if dice.random() < 0.5 else dice.randbytes(1)
            broken[place : place + dice.randrange(3)] = some
        agreed(bytes(broken), count)


@pytest.mark.parametrize("edge", EDGES)
def test_a_length_at_any_edge_means_the_same(edge: int) -> None:
    length = varint(edge)
    rest = bytes(300)
    for data in (
        length + rest,
        framed(b"\0" + length + b"\0\x01\x01\0"),
        framed(b"\0\0" + length + b"\x01\x01\0"),
        framed(b"\0\0\0" + length + rest),
        framed(b"\0\0\0\x01" + length + rest),
        framed(b"\0\0\0\x01\x01" + length + rest),
        framed(b"\0\0\0\x01\x01\x02" + length + rest),
        framed(b"\0\0\0\x01\x01\x02\x02h" + length + rest),
        framed(b"\0\0\0\x01\x01\x02\x02h" + length),
    ):
        for base in (0, INT64_MAX, INT64_MIN):
            agreed(data, 1, base, base)
            agreed(data, 2, base, base, 5)


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ("0c 00 00 00 01 01 01", "there are more headers than bytes"),
        ("0e 00 00 00 01 01 02 01", "a header has no key"),
        ("12 00 00 00 01 01 02 02 ff 01", "the key of a header is not UTF-8"),
        ("0c 00 00 00 08 01 00", "they end early"),
        ("0c 00 00 00 01 02 00", "they end early"),
        ("0e 00 00 00 01 01 00 00", "a record has not the size it states"),
        ("0c 00 00 00 01 02 00 00 0c 00 00 00 01 01 00", "a record has not the size it states"),
        ("7e 00 00 00 01 01 00", "a record reaches past the end"),
        ("00 00 00 00 01 01 00", "a record reaches past the end"),
        ("01 00 00 00 01 01 00", "a record reaches past the end"),
        ("1c 00 ffffffffffffffffff7f 00 01 01 00", "a varint exceeds 64 bits"),
        ("1e 00 ffffffffffffffffffff00 00 01 01 00", "a varint exceeds 64 bits"),
        ("0c 00 00 00 01 01 00 00", "there are more than it states"),
        ("0c 00 00 00 01 01", "there are fewer bytes than records take"),
        ("1e 00 00 feffffffffffffffff01 01 01 00", "an offset or a time exceeds 64 bits"),
        ("1e 00 feffffffffffffffff01 00 01 01 00", "an offset or a time exceeds 64 bits"),
    ],
)
def test_the_same_reason_is_told(record: str, why: str) -> None:
    told = (ErrorCode.CORRUPT_MESSAGE, f"The records of a batch are malformed: {why}.")
    assert agreed(bytes.fromhex(record), 1) == told


# --- what only C can get wrong ----------------------------------------------------------------------------------


class Fields(NamedTuple):
    """Of as many fields as a record, and nothing else about it."""

    a: Any
    b: Any
    c: Any
    d: Any
    e: Any


class WithDict(Fields):
    """Has room for attributes, which no record may have."""


class WithFinalizer(Fields):
    """Would be asked about records that never became whole."""

    __slots__ = ()

    def __del__(self) -> None:
        raise AssertionError("nobody made one")


@pytest.mark.parametrize(
    "wrong",
    [
        (),
        (b"", 1, 0, 0, None),
        (b"", 1, 0, 0, None, BARE, 1),
        ("text", 1, 0, 0, None, BARE),
        (b"", "1", 0, 0, None, BARE),
        (b"", 1, None, 0, None, BARE),
        (b"", 1, 0, 0.5, None, BARE),
        (b"", 1, 0, 0, "now", BARE),
        (b"", 1, 0, 0, None, None),
        (b"", 1, 0, 0, None, (Record, ())),
        (b"", 1, 0, 0, None, [Record, (), ()]),
        (b"", 1, 0, 0, None, (Record, [], ())),
        (b"", 1, 0, 0, None, (Record, (), None)),
        (b"", 1, 0, 0, None, (Record(0, 0, None, None), (), ())),
        *(
            (b"", 1, 0, 0, None, (kind, (), ()))
            for kind in (None, int, list, dict, tuple, object, WithDict, WithFinalizer)
        ),
    ],
)
def test_arguments_of_a_wrong_type_are_told(wrong: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        _record_set.decode_records(*wrong)


@pytest.mark.parametrize("place", [1, 2, 3])
def test_arguments_beyond_64_bits_are_told(place: int) -> None:
    wrong: list[Any] = [b"", 1, 0, 0, None, BARE]
    wrong[place] = 2**63
    with pytest.raises(OverflowError):
        _record_set.decode_records(*wrong)


def test_a_view_with_holes_is_not_read() -> None:
    with pytest.raises(BufferError):
        _record_set.decode_records(memoryview(bytes(40))[::2], 1, 0, 0, None, BARE)


@pytest.mark.parametrize("record", ["0c 00 00 00 01 01 00", "0c 00 00 00 01 01 01"])
def test_the_bytes_are_let_go(record: str) -> None:
    data = bytearray.fromhex(record)
    tried(lambda: decode_records(data, 1, 0, 0, None, BARE))
    data += b"no bytearray grows while somebody has its buffer"


def many() -> tuple[bytes, int]:
    data, count, *_ = join_records(
        [Record(i, i // 3, b"key%d" % i, bytes(300), [(f"h{i}", b"%d" % i)] * (i % 3)) for i in range(60)], 0
    )
    return bytes(data), count


def test_nothing_is_leaked() -> None:
    data, count = many()
    when = 2**40
    dice = random.Random(5)
    bad = []
    for _ in range(80):
        broken = bytearray(data)
        broken[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        bad.append(bytes(broken))
    bad += [data[:-1], data + b"x", data[: len(data) // 2], framed(b"\0\0\0\x01\x01\x02\x02\xff\x01")]

    def work() -> None:
        for each in (data, *bad):
            for append_time_ms in (None, when):
                tried(lambda: decode_records(each, count, 2**40, 2**40, append_time_ms, SHAPE))  # noqa: B023

    shared = (None, (), when, *SHAPE, *SHAPE[1], *SHAPE[2], data)
    work()
    gc.collect()
    before = [sys.getrefcount(each) for each in shared]
    tracemalloc.start()
    try:
        work()
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
        for _ in range(5):
            work()
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - held < 4_000
    finally:
        tracemalloc.stop()
    after = [sys.getrefcount(each) for each in shared]
    assert all(abs(now - then) < 50 for now, then in zip(after, before, strict=True)), (before, after)


def test_records_without_headers_are_none_of_the_garbage_collectors_business() -> None:
    data, count = many()
    found = decode_records(data, count, 0, 0, None, SHAPE)
    assert gc.is_tracked(found)
    assert [gc.is_tracked(each) for each in found] == [bool(each.headers) for each in found]
    gc.collect()
    assert found == list(split_records(data, count, 0, 0, None, SHAPE))


def test_a_cycle_through_a_record_is_collected() -> None:
    class Canary:
        pass

    data, count, *_ = join_records([Record(0, 0, None, b"v", [("h", b"v")]), Record(1, 0, None, b"v")], 0)
    through_headers = Canary()
    (record, _) = decode_records(data, count, 0, 0, None, SHAPE)
    record.headers.extend([record, through_headers])
    through_shape = Canary()
    cycle: list[Any] = [through_shape]
    cycle += decode_records(data, count, 0, 0, None, (Record, (), (cycle,)))
    seen = [weakref.ref(through_headers), weakref.ref(through_shape)]
    del record, through_headers, through_shape, cycle
    gc.collect()
    assert [each() for each in seen] == [None, None]


def test_what_the_garbage_collector_shows_meanwhile_is_whole() -> None:
    data, count = many()

    def look(phase: str, info: dict[str, int]) -> None:
        for each in gc.get_objects():
            if type(each) in (list, ConsumerRecord) and len(each) in (count, len(ConsumerRecord._fields)):
                list(each)  # an empty place would end the process

    before = gc.get_threshold()
    gc.callbacks.append(look)
    gc.set_threshold(40, 2, 2)
    try:
        for _ in range(3):
            assert len(decode_records(data, count, 0, 0, None, SHAPE)) == count
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(look)


def test_threads_decode_side_by_side() -> None:
    data, count = many()
    wanted = list(split_records(data, count, 0, 0, None, SHAPE))
    buffer = bytearray(data)
    results: list[bool] = []

    def work() -> None:
        results.append(all(decode_records(data, count, 0, 0, None, SHAPE) == wanted for _ in range(40)))

    def disturb() -> None:
        dice = random.Random(1)
        for _ in range(400):
            buffer[dice.randrange(len(buffer))] = dice.randrange(256)
            tried(lambda: decode_records(buffer, count, 0, 0, None, SHAPE))
        results.append(True)

    threads = [threading.Thread(target=each) for each in (work, work, work, disturb, disturb)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert results == [True] * 5
