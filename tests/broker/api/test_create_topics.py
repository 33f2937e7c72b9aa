"""CreateTopics: each topic succeeds or fails by itself, and says why."""

from __future__ import annotations

from typing import Any

import pytest

from redbroker.broker.api.create_topics import API
from redbroker.errors import ErrorCode
from tests.support.door import Door, only

pytestmark = pytest.mark.anyio

NEW = API.request.struct("topics")
CONFIG = API.request.struct("topics.configs")
ASSIGNMENT = API.request.struct("topics.assignments")


def new(name: str, partitions: int = -1, factor: int = -1, **more: Any) -> Any:
    return NEW(name=name, num_partitions=partitions, replication_factor=factor, **more)


async def create(door: Door, *topics: Any, version: int = 7, validate_only: bool = False) -> list[Any]:
    answer = await door.ask(API, version, topics=list(topics), validate_only=validate_only)
    return list(answer.topics)


def codes(results: list[Any]) -> list[str]:
    return [ErrorCode(result.error_code).name for result in results]


async def test_a_created_topic_tells_its_partitions_copies_configs_and_id(door: Door) -> None:
    wanted = new("orders", 3, 1, configs=[CONFIG("retention.ms", "1000")])
    (made,) = await create(door, wanted)
    topic = door.engine.topics.get("orders")
    assert topic is not None and codes([made]) == ["NONE"]
    assert (made.num_partitions, made.replication_factor, made.topic_id) == (3, 1, topic.id)
    configs = {each.name: each for each in made.configs}
    assert (configs["retention.ms"].value, configs["retention.ms"].config_source) == ("1000", 1)
    assert (configs["cleanup.policy"].value, configs["cleanup.policy"].config_source) == ("delete", 5)


@pytest.mark.parametrize("version", range(API.low, API.high + 1))
async def test_every_version_makes_topics(door: Door, version: int) -> None:
    (made,) = await create(door, new(f"v{version}", 2, 1), version=version)
    topic = door.engine.topics.get(f"v{version}")
    assert codes([made]) == ["NONE"] and topic is not None and topic.partitions == 2


async def test_minus_one_takes_the_default_number_of_partitions(door: Door) -> None:
    (made,) = await create(door, new("orders"))
    assert made.num_partitions == door.engine.settings.num_partitions


async def test_one_bad_topic_does_not_stop_the_others(door: Door) -> None:
    results = await create(
        door,
        new("good", 1),
        new("no partitions", 1),
        new("zero", 0),
        new("negative", -2),
        new("factor-zero", 1, 0),
        new("factor-five", 1, 5),
        new("config", 1, configs=[CONFIG("retention.milliseconds", "1")]),
        new("value", 1, configs=[CONFIG("retention.ms", "soon")]),
        new("null", 1, configs=[CONFIG("retention.ms", None)]),
        new("huge", 2**31 - 1),
        new("x" * 250, 1),
        new("", 1),
        new("..", 1),
    )
    assert codes(results) == [
        "NONE", "INVALID_TOPIC_EXCEPTION", "INVALID_PARTITIONS", "INVALID_PARTITIONS", "INVALID_REPLICATION_FACTOR",
        "INVALID_REPLICATION_FACTOR", "INVALID_CONFIG", "INVALID_CONFIG", "INVALID_CONFIG", "POLICY_VIOLATION",
        "INVALID_TOPIC_EXCEPTION", "INVALID_TOPIC_EXCEPTION", "INVALID_TOPIC_EXCEPTION",
    ]  # fmt: skip
    assert all(result.error_message for result in results[1:])
    assert set(door.engine.topics.all()) == {"good"}


async def test_the_same_name_twice_is_refused_and_not_made(door: Door) -> None:
    results = await create(door, new("orders", 1), new("orders", 2), new("other", 1))
    assert sorted((result.name, result.error_code) for result in results) == [("orders", 42), ("other", 0)]
    assert set(door.engine.topics.all()) == {"other"}


async def test_an_existing_topic_is_left_as_it_is(door: Door) -> None:
    await create(door, new("orders", 1))
    (again,) = await create(door, new("orders", 5))
    topic = door.engine.topics.get("orders")
    assert codes([again]) == ["TOPIC_ALREADY_EXISTS"] and topic is not None and topic.partitions == 1
    assert again.num_partitions == -1


async def test_validate_only_checks_everything_and_makes_nothing(door: Door) -> None:
    results = await create(door, new("good", 2), new("zero", 0), validate_only=True)
    assert codes(results) == ["NONE", "INVALID_PARTITIONS"]
    assert results[0].num_partitions == 2 and results[0].configs
    assert not door.engine.topics.all()


async def test_the_factor_of_habit_is_accepted_and_answered_with_the_truth(door: Door) -> None:
    (made,) = await create(door, new("orders", 1, 3))
    assert (made.error_code, made.replication_factor) == (0, 1)


async def test_a_manual_assignment_of_live_nodes_gives_the_partitions(door: Door) -> None:
    here = door.broker.node_id
    (made,) = await create(door, new("orders", assignments=[ASSIGNMENT(1, [here]), ASSIGNMENT(0, [here])]))
    assert (made.error_code, made.num_partitions) == (0, 2)


@pytest.mark.parametrize(
    ("assignments", "partitions", "expected"),
    [
        ([(0, [9_999])], -1, "INVALID_REPLICA_ASSIGNMENT"),
        ([(0, [])], -1, "INVALID_REPLICA_ASSIGNMENT"),
        ([(0, [None, None])], -1, "INVALID_REPLICA_ASSIGNMENT"),
        ([(1, [None])], -1, "INVALID_REPLICA_ASSIGNMENT"),
        ([(0, [None]), (0, [None])], -1, "INVALID_REPLICA_ASSIGNMENT"),
        ([(0, [None])], 1, "INVALID_REQUEST"),
    ],
    ids=["dead node", "no node", "node twice", "gap", "partition twice", "count too"],
)
async def test_a_wrong_manual_assignment_is_refused(
    door: Door, assignments: list[tuple[int, list[int | None]]], partitions: int, expected: str
) -> None:
    here = door.broker.node_id
    wanted = [ASSIGNMENT(index, [here if node is None else node for node in nodes]) for index, nodes in assignments]
    assert codes(await create(door, new("orders", partitions, assignments=wanted))) == [expected]


async def test_a_hostile_name_is_answered_in_every_version(door: Door) -> None:
    for version in range(API.low, API.high + 1):
        answer = await door.ask(API, version, topics=[new("é" * 16_000, 1)])
        assert only(answer, "topics").error_code == ErrorCode.INVALID_TOPIC_EXCEPTION


async def test_many_topics_in_one_request_are_answered_in_order(door: Door) -> None:
    results = await create(door, *(new(f"topic-{number:03}", 1) for number in range(100)))
    assert [result.name for result in results] == [f"topic-{number:03}" for number in range(100)]
    assert set(codes(results)) == {"NONE"} and len(door.engine.topics.all()) == 100


async def test_a_name_is_free_at_once_when_another_worker_has_deleted_it(doors: list[Door]) -> None:
    for number in range(10):
        assert codes(await create(doors[number % 2], new("orders", 1))) == ["NONE"]
        assert codes(await create(doors[1 - number % 2], new("orders", 1))) == ["TOPIC_ALREADY_EXISTS"]
        await doors[number % 2].engine.topics.delete("orders")
