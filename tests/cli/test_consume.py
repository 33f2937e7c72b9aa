"""How records are printed."""

from __future__ import annotations

import orjson

from redbroker.cli.consume import json_printer, text_printer
from redbroker.wire.records import Record

RECORD = Record(7, 1_700_000_000_000, b"k", b"v", [("a", b"1"), ("b", None)])


def test_a_format_names_every_part_of_a_record() -> None:
    assert text_printer("t", "%t %p %o %T %k %s %h\\n")(3, RECORD) == b"t 3 7 1700000000000 k v a=1,b=NULL\n"


def test_null_key_and_value_are_told_as_kcat_tells_them() -> None:
    assert text_printer("t", "%k\\t%s\\n")(0, RECORD._replace(key=None, value=None)) == b"NULL\tNULL\n"


def test_what_a_format_does_not_know_stays_as_it_is() -> None:
    assert text_printer("t", "100%% %q \\x é%")(0, RECORD) == "100% %q \\x é%".encode()


def test_json_keeps_bytes_that_are_no_text() -> None:
    told = orjson.loads(json_printer("t")(3, RECORD._replace(value=b"\xff\x00")))
    assert told["value"] == {"base64": "/wA="}
    assert (told["topic"], told["partition"], told["offset"], told["key"]) == ("t", 3, 7, "k")
    assert told["headers"] == [["a", "1"], ["b", None]]
