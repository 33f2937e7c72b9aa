"""DescribeTopicPartitions: sorted pages, each with a cursor to the next."""

from __future__ import annotations

from typing import Any

import pytest

from redbroker.broker.api.describe_topic_partitions import API
from redbroker.errors import ErrorCode
from tests.support.door import Door, only

pytestmark = pytest.mark.anyio

WANTED = API.request.struct("topics")
CURSOR = API.request.struct("cursor")


async def describe(door: Door, *names: str, limit: int = 2_000, cursor: tuple[str, int] | None = None) -> Any:
    return await door.ask(
        API,
        0,
        topics=[WANTED(name) for name in names],
        response_partition_limit=limit,
        cursor=CURSOR(*cursor) if cursor else None,
    )


def page(answer: Any) -> list[tuple[str, list[int]]]:
    return [(topic.name, [each.partition_index for each in topic.partitions]) for topic in answer.topics]


async def test_a_topic_tells_its_id_and_its_partitions_leaders(door: Door) -> None:
    made = await door.topic("orders", 2)
    answer = await describe(door, "orders")
    topic, here = only(answer, "topics"), door.broker.node_id
    assert (topic.topic_id, topic.is_internal, answer.next_cursor) == (made.id, False, None)
    for partition in topic.partitions:
        assert (partition.leader_id, partition.replica_nodes, partition.isr_nodes) == (here, [here], [here])
        assert (partition.leader_epoch, partition.offline_replicas) == (1, [])


async def test_no_names_means_all_sorted_by_name(door: Door) -> None:
    for name, partitions in (("c", 1), ("a", 2), ("b", 1)):
        await door.topic(name, partitions)
    assert page(await describe(door)) == [("a", [0, 1]), ("b", [0]), ("c", [0])]


async def test_pages_follow_each_other_without_gap_or_repetition(door: Door) -> None:
    for name in ("a", "b", "c"):
        await door.topic(name, 3)
    seen: list[tuple[str, int]] = []
    cursor, pages = None, 0
    while pages == 0 or cursor:
        answer = await describe(door, limit=2, cursor=cursor)
        seen += [(name, each) for name, indexes in page(answer) for each in indexes]
        cursor = (answer.next_cursor.topic_name, answer.next_cursor.partition_index) if answer.next_cursor else None
        pages += 1
    assert seen == [(name, index) for name in ("a", "b", "c") for index in range(3)]
    assert pages == 5


async def test_a_page_that_ends_with_a_topic_points_to_the_next_one(door: Door) -> None:
    await door.topic("a", 2)
    await door.topic("b", 2)
    answer = await describe(door, limit=2)
    assert page(answer) == [("a", [0, 1])]
    assert (answer.next_cursor.topic_name, answer.next_cursor.partition_index) == ("b", 0)


async def test_a_limit_below_one_counts_as_one(door: Door) -> None:
    await door.topic("orders", 2)
    for limit in (0, -1, -(2**31)):
        assert page(await describe(door, limit=limit)) == [("orders", [0])]


async def test_unknown_and_impossible_names_are_told(door: Door) -> None:
    await door.topic("orders")
    answer = await describe(door, "orders", "unknown", "not a name")
    assert {topic.name: ErrorCode(topic.error_code).name for topic in answer.topics} == {
        "orders": "NONE",
        "unknown": "UNKNOWN_TOPIC_OR_PARTITION",
        "not a name": "INVALID_TOPIC_EXCEPTION",
    }


async def test_a_cursor_must_name_a_partition_of_what_is_asked(door: Door) -> None:
    await door.topic("orders", 2)
    for cursor in (("other", 0), ("orders", -1)):
        answer = await describe(door, "orders", cursor=cursor)
        assert only(answer, "topics").error_code == ErrorCode.INVALID_REQUEST
    assert page(await describe(door, "orders", cursor=("orders", 2**31 - 1))) == [("orders", [])]
