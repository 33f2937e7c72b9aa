"""DeleteRecords: the log start moves forward, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest

from redbroker.broker.api.delete_records import API
from redbroker.engine.log import Append, Appended
from redbroker.engine.topics import Topic
from redbroker.errors import ErrorCode
from redbroker.wire.records import read_header
from tests.support.door import Door, a_batch

pytestmark = pytest.mark.anyio

WANTED = API.request.struct("topics")
CUT = API.request.struct("topics.partitions")


async def fill(door: Door, topic: Topic, batches: int = 10, partition: int = 0) -> None:
    for _ in range(batches):
        batch = a_batch(b"value")
        entry = Append(topic, partition, batch, read_header(batch))
        (appended,) = await door.engine.log.append([entry], acks=1, timeout_ms=5_000)
        assert isinstance(appended, Appended)


async def cut(door: Door, topic: str, *cuts: tuple[int, int], version: int = 2) -> list[tuple[int, str]]:
    wanted = WANTED(topic, [CUT(partition, offset) for partition, offset in cuts])
    answer = await door.ask(API, version, topics=[wanted])
    results: list[Any] = answer.topics[0].partitions
    return [(result.low_watermark, ErrorCode(result.error_code).name) for result in results]


@pytest.mark.parametrize("version", range(API.low, API.high + 1))
async def test_records_before_the_offset_are_gone(door: Door, version: int) -> None:
    topic = await door.topic("orders")
    await fill(door, topic)
    assert await cut(door, "orders", (0, 4), version=version) == [(4, "NONE")]
    (bounds,) = await door.engine.log.bounds([(topic, 0)])
    assert (bounds.log_start, bounds.next) == (4, 10)  # type: ignore[union-attr]


async def test_minus_one_deletes_everything_and_the_log_goes_on(door: Door) -> None:
    topic = await door.topic("orders")
    await fill(door, topic)
    assert await cut(door, "orders", (0, -1)) == [(10, "NONE")]
    await fill(door, topic, 1)
    (bounds,) = await door.engine.log.bounds([(topic, 0)])
    assert (bounds.log_start, bounds.next) == (10, 11)  # type: ignore[union-attr]


async def test_the_log_start_never_moves_back(door: Door) -> None:
    await fill(door, await door.topic("orders"))
    assert await cut(door, "orders", (0, 6)) == [(6, "NONE")]
    assert await cut(door, "orders", (0, 2)) == [(6, "NONE")]


async def test_offsets_beyond_the_log_and_below_minus_one_are_out_of_range(door: Door) -> None:
    await fill(door, await door.topic("orders"))
    for offset in (11, 2**62, -2, -(2**63)):
        assert await cut(door, "orders", (0, offset)) == [(-1, "OFFSET_OUT_OF_RANGE")]


async def test_unknown_topics_and_partitions_do_not_stop_the_others(door: Door) -> None:
    await fill(door, await door.topic("orders", 2), partition=1)
    assert await cut(door, "unknown", (0, 1)) == [(-1, "UNKNOWN_TOPIC_OR_PARTITION")]
    assert await cut(door, "orders", (7, 1), (-1, 1), (1, 5)) == [
        (-1, "UNKNOWN_TOPIC_OR_PARTITION"),
        (-1, "UNKNOWN_TOPIC_OR_PARTITION"),
        (5, "NONE"),
    ]


async def test_a_partition_named_twice_is_left_alone(door: Door) -> None:
    topic = await door.topic("orders")
    await fill(door, topic)
    assert await cut(door, "orders", (0, 3), (0, 5)) == [(-1, "INVALID_REQUEST")] * 2
    (bounds,) = await door.engine.log.bounds([(topic, 0)])
    assert bounds.log_start == 0  # type: ignore[union-attr]


async def test_a_compacted_topic_refuses_unless_it_also_deletes(door: Door) -> None:
    await fill(door, await door.topic("state", cleanup_policy="compact"))
    await fill(door, await door.topic("both", cleanup_policy="compact,delete"))
    assert await cut(door, "state", (0, 3)) == [(-1, "POLICY_VIOLATION")]
    assert await cut(door, "both", (0, 3)) == [(3, "NONE")]
