"""The text form of message tables."""

from __future__ import annotations

from uuid import UUID

import pytest

from redbroker.wire.primitives import NULL_UUID
from redbroker.wire.tables import Versions, parse

TABLE = """
    -- a comment of its own line
    acks            i16          =-1
    strict          bool   2+    =true
    rack            str    1-3   ?2+ =null   -- and one behind a field
    topics          []           ?1+
        name        str
        partitions  []
            index   i32
    id              uuid
    cursor          {}     1+
        offset      i64          =0x10
    maybe           {}     1+    ?1+ #4
        offset      i64
"""


def test_every_option_is_read() -> None:
    acks, strict, rack, topics, _, cursor, maybe = parse(TABLE, "Sample").fields
    assert (acks.default, strict.default, rack.default) == (-1, True, None)
    assert 1 not in strict.versions and 2 in strict.versions
    assert rack.versions == Versions(1, 3)
    assert not rack.nullable(1) and rack.nullable(2)
    assert topics.array and topics.struct is not None
    assert [f.name for f in topics.struct.fields] == ["name", "partitions"]
    assert (cursor.tag, maybe.tag) == (None, 4)


def test_a_version_may_stand_alone() -> None:
    assert Versions.of("7") == Versions(7, 7)


def test_every_field_has_a_default() -> None:
    sample = parse(TABLE, "Sample").cls()
    assert (sample.acks, sample.strict, sample.rack, sample.id) == (-1, True, None, NULL_UUID)
    assert sample.topics == []
    assert sample.cursor.offset == 16
    assert sample.maybe is None


def test_structs_and_arrays_are_not_shared_between_objects() -> None:
    cls = parse(TABLE, "Sample").cls
    first = cls()
    first.cursor.offset = 99
    first.topics.append("orders")
    assert (cls().cursor.offset, cls().topics) == (16, [])


def test_classes_of_nested_structs_are_found_by_path() -> None:
    root = parse(TABLE, "Sample")
    assert root.struct("topics.partitions")(index=3).index == 3
    assert root.struct("cursor")() == root.cls().cursor


@pytest.mark.parametrize("path", ["nothing", "topics.nothing", "acks", "topics.name"])
def test_a_path_to_no_struct_is_a_key_error(path: str) -> None:
    with pytest.raises(KeyError):
        parse(TABLE, "Sample").struct(path)


def test_objects_have_slots() -> None:
    with pytest.raises(AttributeError):
        parse(TABLE, "Sample").cls().misspelt = 1


@pytest.mark.parametrize(
    "line",
    ["name", "name text", "name str 1..2", "name i32 =x", "name bool =yes", "name str #x", "a i8\na i8", "a [] =3"],
)
def test_a_wrong_line_is_named(line: str) -> None:
    with pytest.raises(ValueError, match=r"Sample: .*(name|a)"):
        parse(line, "Sample")


def test_defaults_are_of_the_type_of_their_field() -> None:
    fields = parse(
        "ratio f64 =1.5\nid uuid =00000000-0000-0000-0000-000000000001\nnone uuid =null\nword str =x", "S"
    ).fields
    assert [f.default for f in fields] == [1.5, UUID(int=1), NULL_UUID, "x"]
