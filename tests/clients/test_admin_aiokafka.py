"""aiokafka's admin client against two workers: it asks for old versions of the admin APIs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import NotLeaderForPartitionError

from tests.clients.conftest import Cluster

pytestmark = pytest.mark.anyio


@pytest.fixture
async def admin(cluster: Cluster) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=cluster.bootstrap)
    await client.start()
    yield client
    await client.close()


async def eventually(look: Callable[[], Awaitable[bool]]) -> bool:
    """Metadata is told from every worker's cache, which hears of other workers' changes milliseconds later."""
    for _ in range(250):
        if await look():
            return True
        await anyio.sleep(0.02)
    return False


async def test_a_topic_is_made_grown_and_deleted(admin: AIOKafkaAdminClient, topic: str) -> None:
    made = await admin.create_topics([NewTopic(topic, 2, 1, topic_configs={"retention.ms": "60000"})])
    assert made.topic_errors[0][1] == 0
    again = await admin.create_topics([NewTopic(topic, 2, 1)])
    assert again.topic_errors[0][1] == 36
    grown = await admin.create_partitions({topic: NewPartitions(5)})
    assert grown.topic_errors[0][1] == 0

    async def has_grown() -> bool:
        (described,) = await admin.describe_topics([topic])
        return len(described["partitions"]) == 5

    assert await eventually(has_grown)
    deleted = await admin.delete_topics([topic])
    assert deleted.topic_error_codes[0][1] == 0

    async def is_gone() -> bool:
        return topic not in await admin.list_topics()

    assert await eventually(is_gone)


async def test_configs_are_read_and_replaced(admin: AIOKafkaAdminClient, topic: str) -> None:
    await admin.create_topics([NewTopic(topic, 1, 1, topic_configs={"retention.ms": "60000"})])
    changed = await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs={"flush.ms": "7"})])
    assert changed[0].resources[0][0] == 0
    (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    values = {config[0]: config[1] for config in answer.resources[0][4]}
    assert (values["flush.ms"], values["retention.ms"]) == ("7", "604800000")


async def test_the_cluster_is_described(cluster: Cluster, admin: AIOKafkaAdminClient) -> None:
    described = await admin.describe_cluster()
    assert sorted(broker["port"] for broker in described["brokers"]) == sorted(cluster.ports)


async def test_records_are_deleted(cluster: Cluster, admin: AIOKafkaAdminClient, topic: str) -> None:
    await admin.create_topics([NewTopic(topic, 1, 1)])
    producer = AIOKafkaProducer(bootstrap_servers=cluster.bootstrap)
    await producer.start()
    try:
        for _ in range(5):
            await producer.send_and_wait(topic, b"x", partition=0)
    finally:
        await producer.stop()
    zero = TopicPartition(topic, 0)

    async def are_deleted() -> bool:
        with contextlib.suppress(
            NotLeaderForPartitionError
        ):  # the Metadata it has just read did not list the topic yet
            return await admin.delete_records({zero: RecordsToDelete(before_offset=3)}) == {zero: 3}
        return False

    assert await eventually(are_deleted)
