"""The records inside a batch."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redbroker.errors import ErrorCode, KafkaError
from redbroker.wire import record_set
from redbroker.wire.record_set import (
    Record,
    decode_records,
    join_columns,
    join_records,
    read_varint,
    split_records,
    to_varint,
)

blobs = st.none() | st.binary(max_size=200)
records = st.builds(
    Record,
    offset=st.integers(0, 2**31 - 1),
    timestamp=st.integers(0, 2**42),
    key=blobs,
    value=blobs,
    headers=st.lists(st.tuples(st.text(max_size=20), blobs), max_size=3).map(lambda pairs: pairs or ()),
)


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_varint_is_read_back(value: int) -> None:
    data = to_varint(value)
    assert len(data) <= 10
    assert read_varint(b"x" + data + b"y", 1) == (value, 1 + len(data))


@pytest.mark.parametrize(
    ("value", "data"), [(0, "00"), (-1, "01"), (1, "02"), (-64, "7f"), (64, "8001"), (-65, "8101")]
)
def test_varints_are_zig_zag_coded(value: int, data: str) -> None:
    assert to_varint(value).hex() == data


@given(st.lists(records, max_size=5))
def test_records_are_read_back(batch: list[Record]) -> None:
    data, count, last_delta, first_ms, max_ms = join_records(batch, 0)
    assert list(split_records(data, count, 0, first_ms)) == batch
    assert (count, last_delta) == (len(batch), batch[-1].offset if batch else -1)
    assert max_ms == max((r.timestamp for r in batch), default=-1)


def test_offsets_count_from_the_base() -> None:
    data, count, last_delta, first_ms, _ = join_records([Record(105, 1000, None, b"v")], 100)
    assert last_delta == 5
    assert list(split_records(data, count, 200, first_ms)) == [Record(205, 1000, None, b"v")]


@given(
    st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=4),
    st.lists(st.integers(1, 90), min_size=1, max_size=4),
    st.lists(st.sampled_from([0, 1, 63, 64, 100, 4_085, 4_096, 9_000]), min_size=1, max_size=30),
)
def test_columns_become_the_same_bytes(times_ms: list[int], runs: list[int], sizes: list[int]) -> None:
    since = [sum(runs[:number]) for number in range(len(runs))][: len(times_ms)]
    times_ms = times_ms[: len(since)]
    values = [bytes(sizes[place % len(sizes)]) for place in range(sum(runs))]
    check_columns(values, None, since, times_ms)
    check_columns(values, [None if place % 3 else b"k" for place in range(len(values))], since, times_ms)


@pytest.mark.parametrize("count", [1, 15, 16, 63, 64, 65, 80, 4_095, 4_096, 4_097, 8_191, 8_192, 8_193, 8_300])
def test_columns_are_joined_however_long_their_offsets_are(count: int) -> None:
    check_columns([b"v"] * count, None, [0], [5])


def check_columns(values: list[bytes], keys: list[bytes | None] | None, since: list[int], times_ms: list[int]) -> None:
    headers = {} if keys is None else {place: [("h", b"")] for place in range(0, len(values), 7)}
    rows = [
        Record(
            place,
            times_ms[max(run for run, first in enumerate(since) if first <= place)],
            None if keys is None else keys[place],
            value,
            headers.get(place, ()),
        )
        for place, value in enumerate(values)
    ]
    assert join_columns(values, keys, headers, since, times_ms) == join_records(rows, 0)[0]


def test_append_time_hides_the_records_own() -> None:
    data, count, _, first_ms, _ = join_records([Record(0, 5, b"k", None), Record(1, 9, None, b"v")], 0)
    assert [r.timestamp for r in split_records(data, count, 0, first_ms, append_time_ms=77)] == [77, 77]


def test_broken_records_are_corrupt_and_nothing_else() -> None:
    dice = random.Random(3)
    data, count, _, first_ms, _ = join_records(
        [
            Record(i, i, b"key", dice.randbytes(dice.choice((3, 200))), [("name", b"value"), ("none", None)])
            for i in range(4)
        ],
        0,
    )
    for _ in range(3000):
        broken = bytearray(data)
        broken[dice.randrange(len(broken))] ^= 1 << dice.randrange(8)
        del broken[dice.randrange(1, 3 * len(broken)) :]
        try:
            list(split_records(bytes(broken), count, 0, first_ms))
        except KafkaError as error:
            assert error.code == ErrorCode.CORRUPT_MESSAGE


@pytest.mark.parametrize("count", [3, 5, 2**31 - 1, 0, -1])
def test_another_count_than_stated_is_corrupt(count: int) -> None:
    data, _, _, first_ms, _ = join_records([Record(i, i, b"key", b"value") for i in range(4)], 0)
    with pytest.raises(KafkaError):
        list(split_records(data, count, 0, first_ms))


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ("0c 00 00 00 01 01 01", "more headers"),
        ("0e 00 00 00 01 01 02 01", "no key"),
        ("0c 00 00 00 08 01 00", "they end early"),
        ("0e 00 00 00 01 01 00 00", "size it states"),
        ("7e 00 00 00 01 01 00", "past the end"),
        ("01 00 00 00 01 01 00", "past the end"),
        ("0c 00 ffffffffffffffffffffff", "exceeds 64 bits"),
    ],
)
def test_the_reason_is_told(record: str, why: str) -> None:
    with pytest.raises(KafkaError, match=why):
        list(split_records(bytes.fromhex(record), 1, 0, 0))


def test_a_count_beyond_the_bytes_costs_nothing() -> None:
    with pytest.raises(KafkaError, match="fewer bytes than records take"):
        decode_records(b"", 2**31 - 1, 0, 0, None, (Record, (), ()))


@pytest.mark.parametrize(("base_offset", "first_ms"), [(2**63 - 1, 0), (0, 2**63 - 1)])
def test_nothing_is_numbered_beyond_64_bits(base_offset: int, first_ms: int) -> None:
    data, *_ = join_records([Record(0, 1, None, b"v"), Record(1, 2, None, b"v")], 0)
    with pytest.raises(KafkaError, match="exceeds 64 bits"):
        list(split_records(data, 2, base_offset, first_ms))


def test_without_the_compiled_decoder_plain_python_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_set, "compiled", None)
    data, count, *_ = join_records([Record(0, 1, None, b"v", [("h", None)])], 0)
    shape = (Record, (), ())
    assert decode_records(data, count, 7, 1, None, shape) == [Record(7, 1, None, b"v", [("h", None)])]
    with pytest.raises(KafkaError, match="they end early"):
        decode_records(data[:-1] + b"\x80", count, 7, 1, None, shape)
