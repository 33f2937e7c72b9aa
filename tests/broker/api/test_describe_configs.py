"""DescribeConfigs: every config, its value, and where the value comes from."""

from __future__ import annotations

from typing import Any

import pytest

from redbroker.broker.api.describe_configs import API
from redbroker.errors import ErrorCode
from redbroker.topic_config import BROKER_CONFIGS, TOPIC_CONFIGS
from tests.support.door import Door, only

pytestmark = pytest.mark.anyio

RESOURCE = API.request.struct("resources")
TOPIC, BROKER, LOGGER, METRICS, GROUP = 2, 4, 8, 16, 32


async def describe(
    door: Door, kind: int, name: str, keys: list[str] | None = None, version: int = 4, **more: Any
) -> Any:
    answer = await door.ask(API, version, resources=[RESOURCE(kind, name, keys)], **more)
    return only(answer, "results")


def by_name(result: Any) -> dict[str, Any]:
    return {each.name: each for each in result.configs}


@pytest.mark.parametrize("version", range(API.low, API.high + 1))
async def test_every_topic_config_is_listed_set_or_not(door: Door, version: int) -> None:
    await door.topic("orders", retention_ms="5000")
    configs = by_name(await describe(door, TOPIC, "orders", version=version))
    assert set(configs) == set(TOPIC_CONFIGS)
    assert (configs["retention.ms"].value, configs["retention.ms"].config_source) == ("5000", 1)
    assert (configs["segment.bytes"].value, configs["segment.bytes"].config_source) == ("1073741824", 5)
    assert not any(each.read_only or each.is_sensitive for each in configs.values())


async def test_types_documentation_and_synonyms_come_when_asked_for(door: Door) -> None:
    await door.topic("orders", retention_ms="5000")
    plain = by_name(await describe(door, TOPIC, "orders"))["retention.ms"]
    assert (plain.config_type, plain.documentation, plain.synonyms) == (5, None, [])
    full = by_name(await describe(door, TOPIC, "orders", include_synonyms=True, include_documentation=True))
    assert all(each.documentation for each in full.values())
    synonyms = [(each.name, each.value, each.source) for each in full["retention.ms"].synonyms]
    assert synonyms[0] == ("retention.ms", "5000", 1)
    assert ("log.retention.hours", "168", 5) in synonyms


async def test_keys_filter_and_an_empty_list_means_all(door: Door) -> None:
    await door.topic("orders")
    assert set(by_name(await describe(door, TOPIC, "orders", ["retention.ms", "nonsense"]))) == {"retention.ms"}
    assert len((await describe(door, TOPIC, "orders", [])).configs) == len(TOPIC_CONFIGS)


async def test_a_resource_asked_for_twice_is_answered_once(door: Door) -> None:
    await door.topic("orders")
    twice = [RESOURCE(TOPIC, "orders", ["retention.ms"]), RESOURCE(TOPIC, "orders", ["segment.ms"])]
    answer = await door.ask(API, 4, resources=twice * 100)
    assert set(by_name(only(answer, "results"))) == {"retention.ms", "segment.ms"}


async def test_a_broker_lists_its_settings_and_what_only_it_has(door: Door) -> None:
    here = str(door.broker.node_id)
    configs = by_name(await describe(door, BROKER, here))
    assert set(configs) == set(BROKER_CONFIGS)
    assert (configs["node.id"].value, configs["broker.id"].value) == (here, here)
    assert configs["num.partitions"].value == str(door.engine.settings.num_partitions)
    assert configs["num.partitions"].config_source == 4 and configs["num.partitions"].read_only
    assert not configs["log.retention.ms"].read_only


async def test_a_dynamic_broker_config_shows_on_brokers_and_topics(door: Door) -> None:
    await door.topic("orders")
    assert (await describe(door, BROKER, "")).configs == []
    await door.engine.topics.configure_broker({"log.retention.ms": "777"})
    default = by_name(await describe(door, BROKER, ""))
    assert {name: (each.value, each.config_source) for name, each in default.items()} == {
        "log.retention.ms": ("777", 3)
    }
    broker = by_name(await describe(door, BROKER, str(door.broker.node_id)))["log.retention.ms"]
    assert (broker.value, broker.config_source) == ("777", 2)
    topic = by_name(await describe(door, TOPIC, "orders"))["retention.ms"]
    assert (topic.value, topic.config_source) == ("777", 3)


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        (TOPIC, "unknown", "UNKNOWN_TOPIC_OR_PARTITION"),
        (TOPIC, "not a name", "INVALID_TOPIC_EXCEPTION"),
        (TOPIC, "", "INVALID_TOPIC_EXCEPTION"),
        (BROKER, "9999", "INVALID_REQUEST"),
        (BROKER, "one", "INVALID_REQUEST"),
        (BROKER, "9" * 5_000, "INVALID_REQUEST"),
        (LOGGER, "1", "INVALID_REQUEST"),
        (METRICS, "subscription", "INVALID_REQUEST"),
        (GROUP, "group", "INVALID_REQUEST"),
        (77, "x", "INVALID_REQUEST"),
        (-1, "x", "INVALID_REQUEST"),
    ],
)
async def test_unknown_resources_are_refused_with_a_sentence(door: Door, kind: int, name: str, expected: str) -> None:
    result = await describe(door, kind, name)
    assert ErrorCode(result.error_code).name == expected and result.error_message
    assert (result.resource_type, result.resource_name, result.configs) == (kind, name, [])
