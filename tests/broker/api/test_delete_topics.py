"""DeleteTopics: by name and, from v6 on, by id."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from redbroker.broker.api.delete_topics import API
from redbroker.errors import ErrorCode
from tests.support.door import Door

pytestmark = pytest.mark.anyio

WANTED = API.request.struct("topics")


async def delete(door: Door, *wanted: Any) -> list[Any]:
    return list((await door.ask(API, 6, topics=list(wanted))).responses)


def codes(results: list[Any]) -> list[str]:
    return [ErrorCode(result.error_code).name for result in results]


@pytest.mark.parametrize("version", range(API.low, 6))
async def test_topics_are_deleted_by_name(door: Door, version: int) -> None:
    await door.topic("orders", 2)
    answer = await door.ask(API, version, topic_names=["orders", "unknown"])
    assert codes(answer.responses) == ["NONE", "UNKNOWN_TOPIC_OR_PARTITION"]
    assert [result.name for result in answer.responses] == ["orders", "unknown"]
    assert door.engine.topics.get("orders") is None


async def test_topics_are_deleted_by_id_and_by_name(door: Door) -> None:
    orders, users = await door.topic("orders"), await door.topic("users")
    results = await delete(door, WANTED(topic_id=orders.id), WANTED(name="users"))
    assert codes(results) == ["NONE", "NONE"]
    assert [(result.name, result.topic_id) for result in results] == [("orders", orders.id), ("users", users.id)]
    assert not door.engine.topics.all()


async def test_what_is_deleted_stays_deleted_in_redis(door: Door) -> None:
    await door.topic("orders", 3)
    await delete(door, WANTED(name="orders"))
    await door.engine.topics.reload()
    assert not door.engine.topics.all()
    again = await door.topic("orders", 1)
    (bounds,) = await door.engine.log.bounds([(again, 0)])
    assert bounds.next == 0  # type: ignore[union-attr]


async def test_unknown_names_and_ids_are_told_apart(door: Door) -> None:
    stranger = uuid4()
    results = await delete(door, WANTED(topic_id=stranger), WANTED(name="unknown"), WANTED(name="not a name"))
    assert codes(results) == ["UNKNOWN_TOPIC_ID", "UNKNOWN_TOPIC_OR_PARTITION", "INVALID_TOPIC_EXCEPTION"]
    assert results[0].topic_id == stranger and results[0].name is None
    assert all(result.error_message for result in results)


async def test_a_topic_must_be_named_in_exactly_one_way(door: Door) -> None:
    orders = await door.topic("orders")
    results = await delete(door, WANTED(), WANTED(name="orders", topic_id=orders.id))
    assert codes(results) == ["INVALID_REQUEST", "INVALID_REQUEST"]


async def test_a_topic_named_by_name_and_by_id_is_kept(door: Door) -> None:
    orders = await door.topic("orders")
    results = await delete(door, WANTED(name="orders"), WANTED(topic_id=orders.id))
    assert codes(results) == ["INVALID_REQUEST", "INVALID_REQUEST"]
    assert door.engine.topics.get("orders") is not None


async def test_a_worker_deletes_by_id_what_another_has_just_made(doors: list[Door]) -> None:
    made = await doors[0].topic("orders")
    assert codes(await delete(doors[1], WANTED(topic_id=made.id))) == ["NONE"]
    await doors[0].engine.topics.reload()
    assert not doors[0].engine.topics.all()
