"""CreatePartitions: only upwards."""

from __future__ import annotations

from typing import Any

import pytest

from redbroker.broker.api.create_partitions import API
from redbroker.errors import ErrorCode
from tests.support.door import Door

pytestmark = pytest.mark.anyio

WANTED = API.request.struct("topics")
ASSIGNMENT = API.request.struct("topics.assignments")


async def grow(door: Door, *wanted: Any, version: int = 3, validate_only: bool = False) -> list[str]:
    answer = await door.ask(API, version, topics=list(wanted), validate_only=validate_only)
    return [ErrorCode(result.error_code).name for result in answer.results]


def partitions(door: Door, name: str = "orders") -> int:
    topic = door.engine.topics.get(name)
    assert topic is not None
    return topic.partitions


@pytest.mark.parametrize("version", range(API.low, API.high + 1))
async def test_a_topic_grows(door: Door, version: int) -> None:
    await door.topic("orders", 2)
    assert await grow(door, WANTED("orders", 5, None), version=version) == ["NONE"]
    assert partitions(door) == 5
    topic = door.engine.topics.get("orders")
    assert topic is not None
    (bounds,) = await door.engine.log.bounds([(topic, 4)])
    assert bounds.next == 0  # type: ignore[union-attr]


async def test_equal_lower_zero_and_negative_counts_are_refused(door: Door) -> None:
    await door.topic("orders", 2)
    for count in (2, 1, 0, -1, -(2**31)):
        assert await grow(door, WANTED("orders", count, None)) == ["INVALID_PARTITIONS"]
    assert await grow(door, WANTED("orders", 2**31 - 1, None)) == ["POLICY_VIOLATION"]
    assert partitions(door) == 2


async def test_unknown_and_repeated_topics_do_not_stop_the_others(door: Door) -> None:
    await door.topic("orders", 1)
    await door.topic("users", 1)
    wanted = [WANTED("unknown", 2, None), WANTED("users", 2, None), WANTED("users", 3, None), WANTED("orders", 2, None)]
    assert await grow(door, *wanted) == ["UNKNOWN_TOPIC_OR_PARTITION", "INVALID_REQUEST", "NONE"]
    assert (partitions(door), partitions(door, "users")) == (2, 1)


async def test_validate_only_changes_nothing(door: Door) -> None:
    await door.topic("orders", 1)
    assert await grow(door, WANTED("orders", 4, None), validate_only=True) == ["NONE"]
    assert await grow(door, WANTED("orders", 1, None), validate_only=True) == ["INVALID_PARTITIONS"]
    assert partitions(door) == 1


async def test_assignments_must_fit_the_new_partitions_and_name_live_nodes(door: Door) -> None:
    await door.topic("orders", 1)
    here = door.broker.node_id
    for wrong in ([[here]], [[here], [here + 1_000]], [[here], []], []):
        assert await grow(door, WANTED("orders", 3, [ASSIGNMENT(ids) for ids in wrong])) == [
            "INVALID_REPLICA_ASSIGNMENT"
        ]
    assert await grow(door, WANTED("orders", 3, [ASSIGNMENT([here]), ASSIGNMENT([here])])) == ["NONE"]
    assert partitions(door) == 3
