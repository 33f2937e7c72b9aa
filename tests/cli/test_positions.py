"""Places in a log as people write them."""

from __future__ import annotations

import time

import pytest

from redbroker.cli.positions import Position
from redbroker.cli.shared import Misuse


@pytest.mark.parametrize(
    ("word", "position"),
    [
        ("start", Position("start")),
        ("end", Position("end")),
        ("0", Position("offset", 0)),
        ("1500", Position("offset", 1500)),
        ("-10", Position("last", 10)),
        ("@1769860800000", Position("time", 1769860800000)),
        ("@1769860800", Position("time", 1769860800000)),
        ("@2026-01-31T12:00:00+00:00", Position("time", 1769860800000)),
    ],
)
def test_a_word_names_a_place(word: str, position: Position) -> None:
    assert Position.parse(word) == position


def test_a_span_counts_back_from_now() -> None:
    two_hours_ago = (time.time() - 7200) * 1000
    assert abs(Position.parse("@2h").value - two_hours_ago) < 2000


@pytest.mark.parametrize("word", ["", "begin", "@", "@yesterday", "1.5", "-", "--3", "@2y"])
def test_anything_else_is_refused_with_examples(word: str) -> None:
    with pytest.raises(Misuse, match="@2h"):
        Position.parse(word)
