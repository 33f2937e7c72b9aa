"""IncrementalAlterConfigs: single configs are set, unset, and lists edited."""

from __future__ import annotations

from typing import Any

import pytest

from redbroker.broker.api.incremental_alter_configs import API
from redbroker.errors import ErrorCode
from tests.support.door import Door

pytestmark = pytest.mark.anyio

RESOURCE = API.request.struct("resources")
ENTRY = API.request.struct("resources.configs")
TOPIC, BROKER, LOGGER = 2, 4, 8
SET, DELETE, APPEND, SUBTRACT = range(4)


async def alter(door: Door, *resources: Any, version: int = 1, validate_only: bool = False) -> list[str]:
    answer = await door.ask(API, version, resources=list(resources), validate_only=validate_only)
    assert all(bool(each.error_code) == bool(each.error_message) for each in answer.responses)
    return [ErrorCode(each.error_code).name for each in answer.responses]


async def on_topic(door: Door, *edits: tuple[str, int, str | None], version: int = 1) -> str:
    (outcome,) = await alter(door, RESOURCE(TOPIC, "orders", [ENTRY(*edit) for edit in edits]), version=version)
    return outcome


def configs(door: Door) -> dict[str, str]:
    topic = door.engine.topics.get("orders")
    assert topic is not None
    return dict(topic.configs)


@pytest.mark.parametrize("version", range(API.low, API.high + 1))
async def test_set_and_delete_touch_only_what_they_name(door: Door, version: int) -> None:
    await door.topic("orders", retention_ms="1", segment_ms="2")
    edits = ("flush.ms", SET, "6"), ("segment.ms", DELETE, None), ("max.message.bytes", DELETE, "ignored")
    assert await on_topic(door, *edits, version=version) == "NONE"
    assert configs(door) == {"retention.ms": "1", "flush.ms": "6"}


async def test_lists_are_appended_to_and_subtracted_from(door: Door) -> None:
    await door.topic("orders")
    assert await on_topic(door, ("cleanup.policy", APPEND, "compact")) == "NONE"
    assert configs(door) == {"cleanup.policy": "delete,compact"}
    assert await on_topic(door, ("cleanup.policy", APPEND, "compact")) == "NONE"
    assert configs(door) == {"cleanup.policy": "delete,compact"}
    assert await on_topic(door, ("cleanup.policy", SUBTRACT, "delete")) == "NONE"
    assert configs(door) == {"cleanup.policy": "compact"}
    assert await on_topic(door, ("cleanup.policy", APPEND, "shred")) == "INVALID_CONFIG"


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (("retention.ms", APPEND, "5"), "INVALID_CONFIG"),
        (("retention.ms", SUBTRACT, "5"), "INVALID_CONFIG"),
        (("nonsense", APPEND, "5"), "INVALID_CONFIG"),
        (("nonsense", SET, "5"), "INVALID_CONFIG"),
        (("retention.ms", SET, "soon"), "INVALID_CONFIG"),
        (("retention.ms", SET, "9" * 5_000), "INVALID_CONFIG"),
        (("n" * 30_000, SET, "v" * 30_000), "INVALID_CONFIG"),
        (("retention.ms", SET, None), "INVALID_REQUEST"),
        (("cleanup.policy", APPEND, None), "INVALID_REQUEST"),
        (("retention.ms", 4, "5"), "INVALID_REQUEST"),
        (("retention.ms", -1, "5"), "INVALID_REQUEST"),
    ],
)
async def test_a_wrong_edit_changes_nothing(door: Door, edit: tuple[str, int, str | None], expected: str) -> None:
    await door.topic("orders", flush_ms="1")
    assert await on_topic(door, ("flush.ms", SET, "2"), edit) == expected
    assert await on_topic(door, ("flush.ms", SET, "2"), edit, version=0) == expected
    assert configs(door) == {"flush.ms": "1"}


async def test_what_is_named_twice_is_refused(door: Door) -> None:
    await door.topic("orders")
    assert await on_topic(door, ("retention.ms", SET, "1"), ("retention.ms", DELETE, None)) == "INVALID_REQUEST"
    once = RESOURCE(TOPIC, "orders", [ENTRY("retention.ms", SET, "1")])
    assert await alter(door, once, once) == ["INVALID_REQUEST"] * 2
    assert configs(door) == {}


async def test_validate_only_changes_nothing(door: Door) -> None:
    await door.topic("orders")
    resources = [RESOURCE(TOPIC, "orders", [ENTRY("retention.ms", SET, value)]) for value in ("1", "x")]
    assert await alter(door, resources[0], validate_only=True) == ["NONE"]
    assert await alter(door, resources[1], validate_only=True) == ["INVALID_CONFIG"]
    assert configs(door) == {}


async def test_broker_configs_are_the_whole_clusters(door: Door) -> None:
    here = str(door.broker.node_id)
    assert await alter(door, RESOURCE(BROKER, here, [ENTRY("log.cleanup.policy", APPEND, "compact")])) == ["NONE"]
    assert dict(door.engine.topics.broker_configs) == {"log.cleanup.policy": "delete,compact"}
    assert (await door.topic("orders")).compacted
    assert await alter(door, RESOURCE(BROKER, "", [ENTRY("log.cleanup.policy", DELETE, None)])) == ["NONE"]
    assert not door.engine.topics.broker_configs
    topic = door.engine.topics.get("orders")
    assert topic is not None and not topic.compacted


async def test_read_only_and_unknown_broker_resources_are_refused(door: Door) -> None:
    here = str(door.broker.node_id)
    refused = [
        RESOURCE(BROKER, here, [ENTRY("node.id", SET, "7")]),
        RESOURCE(BROKER, "9999", [ENTRY("log.retention.ms", SET, "7")]),
        RESOURCE(LOGGER, here, [ENTRY("root", SET, "DEBUG")]),
        RESOURCE(TOPIC, "unknown", [ENTRY("retention.ms", SET, "7")]),
    ]
    outcome = await alter(door, *refused)
    assert outcome == ["INVALID_CONFIG", "INVALID_REQUEST", "INVALID_REQUEST", "UNKNOWN_TOPIC_OR_PARTITION"]
