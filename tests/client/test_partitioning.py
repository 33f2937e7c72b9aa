"""Keys go where the Java clients put them; keyless records stay for a while and then move on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from redbroker.client.partitioning import keyed, next_sticky
from redbroker.wire.partitioner import partition_of


def test_a_remembered_key_goes_where_the_hash_says() -> None:
    for key in (b"", b"21", b"foobar", b"x" * 65):
        assert [keyed(key, count) for count in (1, 7, 7)] == [partition_of(key, count) for count in (1, 7, 7)]


def test_the_next_one_is_another_and_rather_an_idle_one() -> None:
    boxes: list[Any] = [SimpleNamespace(waiting_bytes=0, left_bytes=9) for _ in range(3)]
    boxes[2].waiting_bytes = 1_000_000
    chosen = [boxes.index(next_sticky(boxes, 0)) for _ in range(200)]
    assert 0 not in chosen
    assert chosen.count(1) > chosen.count(2) > 0
    assert boxes[1].left_bytes == 0
    assert next_sticky(boxes[:1], 0) is boxes[0]
