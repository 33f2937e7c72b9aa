"""Lines become records."""

from __future__ import annotations

import pytest

from redbroker.cli.consume import json_printer
from redbroker.cli.produce import Lines
from redbroker.cli.shared import Misuse
from redbroker.wire.records import Record


def lines(*, key: bytes | None = None, json: bool = False, partition: int | None = None) -> Lines:
    return Lines(key=key, json=json, headers=[("source", b"test")], partition=partition)


def test_a_line_is_a_value() -> None:
    [(partition, record)] = lines().records([b"hello\r"])
    assert (partition, record.key, record.value, record.headers) == (None, None, b"hello", [("source", b"test")])


def test_the_first_separator_parts_key_from_value() -> None:
    [(_, record)] = lines(key=b":").records([b"a:b:c"])
    assert (record.key, record.value) == (b"a", b"b:c")


def test_a_line_without_its_separator_is_refused_by_number() -> None:
    with pytest.raises(Misuse, match="line 2 has no key separator"):
        list(lines(key=b":").records([b"a:b", b"ab"]))


def test_what_consume_prints_as_json_is_taken_back() -> None:
    before = Record(9, 1_700_000_000_000, b"\xfe", None, [("a", b"1"), ("a", None)])
    [(partition, after)] = Lines(key=None, json=True, headers=[], partition=None).records(
        [json_printer("t")(2, before)]
    )
    assert partition == 2
    assert after._replace(offset=9) == before


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[]", b'{"key": 1}', b'{"value": 1, "timestamp": "x"}', b'{"value": {"base64": "?"}}']
)
def test_a_line_that_is_no_record_is_refused_by_number(line: bytes) -> None:
    with pytest.raises(Misuse, match="line 1 is no record"):
        list(lines(json=True).records([line]))
