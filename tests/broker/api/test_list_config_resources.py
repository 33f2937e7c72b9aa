"""ListConfigResources: topics and brokers have configs."""

from __future__ import annotations

import pytest

from redbroker.broker.api.list_config_resources import API
from redbroker.errors import ErrorCode
from tests.support.door import Door

pytestmark = pytest.mark.anyio

TOPIC, BROKER, LOGGER, METRICS, GROUP = 2, 4, 8, 16, 32


async def listed(door: Door, *types: int, version: int = 1) -> list[tuple[int, str]]:
    answer = await door.ask(API, version, resource_types=list(types))
    assert answer.error_code == 0
    return [(each.resource_type, each.resource_name) for each in answer.config_resources]


async def test_no_types_means_topics_and_brokers(door: Door) -> None:
    await door.topic("users")
    await door.topic("orders")
    here = (BROKER, str(door.broker.node_id))
    assert await listed(door) == [(TOPIC, "orders"), (TOPIC, "users"), here]
    assert await listed(door, BROKER) == [here]
    assert await listed(door, TOPIC, GROUP) == [(TOPIC, "orders"), (TOPIC, "users")]


async def test_there_are_no_loggers_client_metrics_and_group_configs(door: Door) -> None:
    assert await listed(door, LOGGER, METRICS, GROUP) == []
    assert await listed(door, version=0) == []


async def test_an_unknown_type_is_refused(door: Door) -> None:
    answer = await door.ask(API, 1, resource_types=[TOPIC, 77])
    assert (answer.error_code, answer.config_resources) == (ErrorCode.UNSUPPORTED_VERSION, [])
