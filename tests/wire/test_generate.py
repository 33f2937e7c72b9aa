"""The generated codecs, on a table that holds every feature, and on hostile bytes."""

from __future__ import annotations

import contextlib
import random
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redbroker.wire.schema import NULL_UUID, MalformedMessage, Struct, decoder, encoder, parse
from tests.wire.samples import EVERYTHING, broken, encoded, object_of

ROOT = parse(EVERYTHING, "Everything")
VERSIONS = [(0, False), (1, False), (2, True), (3, True)]
at_every_version = pytest.mark.parametrize(("version", "flexible"), VERSIONS)


def decoded(struct: Struct, version: int, flexible: bool, data: Any) -> Any:
    value, pos = decoder(struct, version, flexible)(data, 0)
    assert pos == len(data)
    return value


def one(table: str, data: str, flexible: bool = False) -> Any:
    """The only field of a message in hex."""
    struct = parse(table, "One")
    return getattr(decoded(struct, 0, flexible, bytes.fromhex(data)), struct.fields[0].name)


@at_every_version
def test_what_is_encoded_is_decoded(version: int, flexible: bool) -> None:
    dice = random.Random(version)
    for _ in range(100):
        message = object_of(dice, ROOT, version)
        assert decoded(ROOT, version, flexible, encoded(ROOT, version, flexible, message)) == message


@at_every_version
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_every_kind_of_buffer_is_read(version: int, flexible: bool, kind: Any) -> None:
    message = object_of(random.Random(9), ROOT, version)
    data = encoded(ROOT, version, flexible, message)
    assert decoded(ROOT, version, flexible, kind(data)) == message


@at_every_version
def test_decoding_starts_and_stops_where_it_is_told(version: int, flexible: bool) -> None:
    message = object_of(random.Random(5), ROOT, version)
    data = encoded(ROOT, version, flexible, message)
    assert decoder(ROOT, version, flexible)(b"head" + data + b"tail", 4) == (message, 4 + len(data))


@at_every_version
def test_a_message_cut_anywhere_is_malformed(version: int, flexible: bool) -> None:
    dice = random.Random(4)
    data = encoded(ROOT, version, flexible, object_of(dice, ROOT, version))
    decode = decoder(ROOT, version, flexible)
    for stop in range(len(data)):
        with pytest.raises(MalformedMessage):
            decode(data[:stop], 0)


def test_bytes_and_records_are_views_of_the_buffer() -> None:
    buffer = bytearray.fromhex("00000002 0102 00000001 03")
    value = decoded(parse("note bytes\nrecords records", "Views"), 0, False, buffer)
    assert all(type(view) is memoryview and view.obj is buffer for view in (value.note, value.records))
    buffer[4] = 9
    assert value.note[0] == 9


@pytest.mark.parametrize("flexible", [False, True])
def test_records_may_come_in_segments_that_are_passed_on(flexible: bool) -> None:
    struct = parse("records records", "Segments")
    segments = [b"ab", memoryview(b"cde"), bytearray(b"f")]
    parts: list[Any] = []
    encoder(struct, 0, flexible)(struct.cls(records=segments), parts.append)
    assert all(any(part is segment for part in parts) for segment in segments)
    assert b"".join(parts) == encoded(struct, 0, flexible, struct.cls(records=b"abcdef"))


def test_tagged_defaults_are_left_out() -> None:
    struct = parse("leader {} #3\n  id i32 =-1\n  words []str\nrack str ?0+ =null #4\nnumber i64 =7 #5", "Defaults")
    assert encoded(struct, 0, True, struct.cls()) == b"\0"
    leader = struct.struct("leader")
    assert encoded(struct, 0, True, struct.cls(leader=leader(id=4))).hex() == "010306000000040100"
    assert encoded(struct, 0, True, struct.cls(leader=leader(words=["a"])))[0] == 1
    assert encoded(struct, 0, True, struct.cls(rack="", number=0))[0] == 2


def test_a_tagged_null_that_is_no_default_is_written() -> None:
    struct = parse("hosts []str 0+ ?0+ #0\nrack str ?0+ #1", "Nulls")
    data = encoded(struct, 0, True, struct.cls(hosts=None, rack=None))
    assert data.hex() == "02000100010100"
    assert decoded(struct, 0, True, data) == struct.cls(hosts=None, rack=None)


def test_tagged_fields_are_written_by_rising_tag_and_read_in_any_order() -> None:
    struct = parse("late i8 #200\nearly i8 #1", "Order")
    assert encoded(struct, 0, True, struct.cls(late=2, early=3)).hex() == "02010103c8010102"
    assert decoded(struct, 0, True, bytes.fromhex("02c8010102010103")) == struct.cls(late=2, early=3)


def test_unknown_tagged_fields_are_skipped() -> None:
    struct = parse("known i8 #1", "Known")
    assert decoded(struct, 0, True, bytes.fromhex("030003aabbcc010105090100")) == struct.cls(known=5)
    assert decoded(parse("plain i8", "Plain"), 0, True, bytes.fromhex("07010902aabb")).plain == 7


def test_a_tagged_field_of_another_size_than_stated_is_malformed() -> None:
    with pytest.raises(MalformedMessage, match="size"):
        one("known i32 #1", "0101050000000100", flexible=True)


def test_a_tagged_field_is_an_ordinary_one_before_flexible_versions() -> None:
    assert one("known i8 #1", "05") == 5


def test_the_null_uuid_is_sixteen_zero_bytes() -> None:
    assert one("id uuid", "00" * 16) == NULL_UUID
    assert one("ids []uuid", "00000001" + "00" * 15 + "01")[0].int == 1


def test_a_nullable_struct_opens_with_a_byte() -> None:
    table = "maybe {} ?0+ =null\n    low i8"
    assert one(table, "ff") is None
    assert one(table, "0105").low == 5
    with pytest.raises(MalformedMessage, match="neither"):
        one(table, "0205")


def test_unsigned_numbers_use_their_whole_range() -> None:
    assert one("port u16", "ffff") == 65535
    assert one("serial u32", "ffffffff") == 2**32 - 1


@pytest.mark.parametrize(
    ("table", "data", "flexible"),
    [
        ("word str", "ffff", False),
        ("word str", "00", True),
        ("word bytes", "ffffffff", False),
        ("words []str", "ffffffff", False),
        ("words []str", "00", True),
    ],
)
def test_null_is_malformed_where_it_is_not_allowed(table: str, data: str, flexible: bool) -> None:
    with pytest.raises(MalformedMessage, match="null"):
        one(table, data + "00", flexible)


@pytest.mark.parametrize(
    ("table", "data"),
    [("word str ?0+", "fffe"), ("word bytes ?0+", "80000000"), ("w records", "fffffff0"), ("w []i8 ?0+", "fffffffe")],
)
def test_lengths_below_null_are_malformed(table: str, data: str) -> None:
    with pytest.raises(MalformedMessage, match="negative"):
        one(table, data)


def test_text_that_is_not_utf8_is_malformed() -> None:
    with pytest.raises(MalformedMessage):
        one("word str", "0002c328")


@pytest.mark.parametrize(
    "table", ["a []i8", "a []i64", "a []str", "a []uuid", "a []\n  b i32\n  c str", "a []\n  b []\n    c i8"]
)
@pytest.mark.parametrize(("claim", "flexible"), [("7fffffff", False), ("ffffffff07", True), ("ffffffff0f", True)])
def test_an_array_of_two_thousand_million_is_refused_before_it_is_built(table: str, claim: str, flexible: bool) -> None:
    data = claim + "00" * 40
    one_field = parse(table, "Claim")
    decode = decoder(one_field, 0, flexible)
    tracemalloc.start()
    try:
        with pytest.raises(MalformedMessage, match="more items than bytes"):
            decode(bytes.fromhex(data), 0)
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["str", "bytes", "records"])
@pytest.mark.parametrize("flexible", [False, True])
def test_a_length_beyond_the_end_is_malformed_not_cut_short(kind: str, flexible: bool) -> None:
    size = "05" if flexible else "0004" if kind == "str" else "00000004"
    with pytest.raises(MalformedMessage, match="past the end"):
        one(f"word {kind}", size + "616161", flexible)


@at_every_version
@given(data=st.binary(max_size=300))
def test_random_bytes_are_malformed_or_a_message(version: int, flexible: bool, data: bytes) -> None:
    with contextlib.suppress(MalformedMessage):
        _, pos = decoder(ROOT, version, flexible)(data, 0)
        assert pos <= len(data)


@at_every_version
def test_broken_messages_cost_no_more_memory_than_their_bytes_can_pay(version: int, flexible: bool) -> None:
    dice = random.Random(version)
    decode = decoder(ROOT, version, flexible)
    valid = [encoded(ROOT, version, flexible, object_of(dice, ROOT, version)) for _ in range(20)]
    tracemalloc.start()
    try:
        for _ in range(400):
            data = broken(dice, dice.choice(valid))
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            with contextlib.suppress(MalformedMessage):
                decode(data, 0)
            assert tracemalloc.get_traced_memory()[1] - before < 20_000 + 300 * len(data)
    finally:
        tracemalloc.stop()


def test_codecs_are_compiled_once() -> None:
    assert decoder(ROOT, 1, False) is decoder(ROOT, 1, False)
    assert encoder(ROOT, 1, False) is not encoder(ROOT, 2, True)


def test_a_message_of_very_many_tiny_items_is_refused_before_it_fills_memory() -> None:
    root = parse("topics []\n    name str\n    parts []\n        index i8", "Many")
    decode = decoder(root, 0, False)
    parts = b"\x00\x00\x00\x64" + bytes(100)
    message = (3_000).to_bytes(4, "big") + (b"\x00\x01x" + parts) * 3_000  # 303,000 items, none of them large
    with pytest.raises(MalformedMessage, match="more than 200000 items"):
        decode(message, 0)
    some = (1_900).to_bytes(4, "big") + (b"\x00\x01x" + parts) * 1_900
    assert len(decode(some, 0)[0].topics) == 1_900
