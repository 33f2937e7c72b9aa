"""AlterConfigs: what is not named falls back to its default."""

from __future__ import annotations

from typing import Any

import pytest

from redbroker.broker.api import describe_configs
from redbroker.broker.api.alter_configs import API
from redbroker.errors import ErrorCode
from tests.support.door import Door, only

pytestmark = pytest.mark.anyio

RESOURCE = API.request.struct("resources")
ENTRY = API.request.struct("resources.configs")
TOPIC, BROKER, LOGGER = 2, 4, 8


def a_resource(kind: int, name: str, **configs: str | None) -> Any:
    return RESOURCE(kind, name, [ENTRY(key.replace("_", "."), value) for key, value in configs.items()])


async def alter(door: Door, *resources: Any, version: int = 2, validate_only: bool = False) -> list[str]:
    answer = await door.ask(API, version, resources=list(resources), validate_only=validate_only)
    assert [(each.resource_type, each.resource_name) for each in answer.responses] == [
        (each.resource_type, each.resource_name) for each in resources
    ]
    assert all(bool(each.error_code) == bool(each.error_message) for each in answer.responses)
    return [ErrorCode(each.error_code).name for each in answer.responses]


def configs(door: Door, name: str = "orders") -> dict[str, str]:
    topic = door.engine.topics.get(name)
    assert topic is not None
    return dict(topic.configs)


@pytest.mark.parametrize("version", range(API.low, API.high + 1))
async def test_the_named_configs_replace_all(door: Door, version: int) -> None:
    await door.topic("orders", retention_ms="1", segment_ms="2")
    assert await alter(door, a_resource(TOPIC, "orders", retention_ms="5", flush_ms="6"), version=version) == ["NONE"]
    assert configs(door) == {"retention.ms": "5", "flush.ms": "6"}


async def test_no_configs_at_all_means_all_defaults(door: Door) -> None:
    await door.topic("orders", retention_ms="1")
    assert await alter(door, RESOURCE(TOPIC, "orders", [])) == ["NONE"]
    assert configs(door) == {}


async def test_one_bad_resource_does_not_stop_the_others(door: Door) -> None:
    await door.topic("orders", retention_ms="1")
    await door.topic("users")
    outcome = await alter(
        door,
        a_resource(TOPIC, "orders", retention_ms="2", flush_ms="never"),
        a_resource(TOPIC, "unknown", retention_ms="2"),
        a_resource(TOPIC, "users", retention_ms="2"),
        a_resource(LOGGER, "1", root="DEBUG"),
        a_resource(BROKER, "9999", log_retention_ms="2"),
        a_resource(77, "x"),
    )
    assert outcome == [
        "INVALID_CONFIG", "UNKNOWN_TOPIC_OR_PARTITION", "NONE", "INVALID_REQUEST", "INVALID_REQUEST", "INVALID_REQUEST",
    ]  # fmt: skip
    assert (configs(door), configs(door, "users")) == ({"retention.ms": "1"}, {"retention.ms": "2"})


async def test_what_is_named_twice_or_null_is_refused(door: Door) -> None:
    await door.topic("orders")
    twice = RESOURCE(TOPIC, "orders", [ENTRY("retention.ms", "1"), ENTRY("retention.ms", "2")])
    assert await alter(door, twice) == ["INVALID_REQUEST"]
    assert await alter(door, *[a_resource(TOPIC, "orders", retention_ms="1")] * 2) == ["INVALID_REQUEST"] * 2
    assert await alter(door, a_resource(TOPIC, "orders", retention_ms=None)) == ["INVALID_REQUEST"]
    assert configs(door) == {}


async def test_validate_only_changes_nothing(door: Door) -> None:
    await door.topic("orders")
    good, bad = a_resource(TOPIC, "orders", retention_ms="5"), a_resource(BROKER, "", log_retention_ms="x")
    assert await alter(door, good, bad, validate_only=True) == ["NONE", "INVALID_CONFIG"]
    assert await alter(door, a_resource(BROKER, "", log_retention_ms="5"), validate_only=True) == ["NONE"]
    assert configs(door) == {} and not door.engine.topics.broker_configs


@pytest.mark.parametrize("through", ["the cluster", "a node"])
async def test_broker_configs_are_the_whole_clusters(door: Door, through: str) -> None:
    name = "" if through == "the cluster" else str(door.broker.node_id)
    assert await alter(door, a_resource(BROKER, name, log_retention_ms="5", log_cleanup_policy="compact")) == ["NONE"]
    assert await alter(door, a_resource(BROKER, name, log_retention_ms="6")) == ["NONE"]
    assert dict(door.engine.topics.broker_configs) == {"log.retention.ms": "6"}
    topic = await door.topic("orders")
    assert topic.retention_ms == 6


async def test_a_broker_takes_back_everything_it_told(door: Door) -> None:
    """Clients of the old form read all configs, change one and write all of them."""
    here = str(door.broker.node_id)
    asked = [describe_configs.API.request.struct("resources")(BROKER, here, None)]
    told = only(await door.ask(describe_configs.API, 4, resources=asked), "results").configs
    entries = [ENTRY(each.name, each.value) for each in told if each.value is not None]
    assert await alter(door, RESOURCE(BROKER, here, entries)) == ["NONE"]
    assert await alter(door, a_resource(BROKER, here, node_id="12345")) == ["INVALID_CONFIG"]


async def test_another_worker_tells_the_change_at_once(doors: list[Door]) -> None:
    await doors[0].topic("orders")
    asked = [describe_configs.API.request.struct("resources")(TOPIC, "orders", ["retention.ms"])]
    for number in range(20):
        assert await alter(doors[number % 2], a_resource(TOPIC, "orders", retention_ms=str(number))) == ["NONE"]
        answer = await doors[1 - number % 2].ask(describe_configs.API, 4, resources=asked)
        assert only(answer, "results", "configs").value == str(number)
