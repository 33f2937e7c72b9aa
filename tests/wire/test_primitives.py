"""Varints and tagged sections."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redbroker.wire.primitives import MalformedMessage, read_uvarint, skip_tags, to_uuid, to_uvarint


@given(st.integers(0, 2**32 - 1))
def test_a_varint_is_read_back(value: int) -> None:
    data = to_uvarint(value)
    assert read_uvarint(b"x" + data + b"y", 1) == (value, 1 + len(data))


@pytest.mark.parametrize(
    ("value", "data"), [(0, "00"), (127, "7f"), (128, "8001"), (300, "ac02"), (2**32 - 1, "ffffffff0f")]
)
def test_varints_are_seven_bits_a_byte_lowest_first(value: int, data: str) -> None:
    assert to_uvarint(value).hex() == data


@pytest.mark.parametrize("data", ["ffffffff10", "ffffffffff01", "808080808000"])
def test_a_varint_above_32_bits_is_malformed(data: str) -> None:
    with pytest.raises(MalformedMessage):
        read_uvarint(bytes.fromhex(data), 0)


def test_unknown_tagged_fields_are_skipped() -> None:
    section = bytes([2, 0, 1, 9]) + to_uvarint(500) + to_uvarint(200) + bytes(200)
    assert skip_tags(b"x" + section + b"y", 1) == 1 + len(section)


@pytest.mark.parametrize("data", [bytes([1, 0, 5, 1]), bytes([1, 0]) + b"\xff\xff\xff\xff\x0f"])
def test_a_tagged_field_beyond_the_end_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        skip_tags(data, 0)


def test_a_uuid_keeps_its_bytes() -> None:
    assert to_uuid(bytes(range(16))).bytes == bytes(range(16))
