"""Offsets of logs on a real server: both ends, times, and what does not exist."""

from __future__ import annotations

import pytest

from redbroker.client.connection import Connection
from redbroker.errors import ErrorCode, KafkaError
from redbroker.types import TopicPartition
from tests.support.reading import FIRST, append, orders, reader

pytestmark = pytest.mark.anyio
SECOND = TopicPartition("orders", 1)


async def test_ends_and_times_of_partitions_that_need_not_be_assigned(connection: Connection) -> None:
    topic = await orders(connection, b"a", b"b", partitions=2)
    await append(connection, topic, b"c")
    await connection.engine.log.trim([(topic, 0, 2)])
    async with reader(connection) as consumer:
        assert await consumer.beginning_offsets(FIRST, SECOND) == {FIRST: 2, SECOND: 0}
        assert await consumer.end_offsets(SECOND, FIRST) == {SECOND: 0, FIRST: 3}
        assert await consumer.offsets_for_times({FIRST: 0, SECOND: 0}) == {FIRST: 2, SECOND: None}
        assert await consumer.offsets_for_times({FIRST: 9_999}) == {FIRST: None}
        assert await consumer.end_offsets() == {}


@pytest.mark.parametrize("partition", [
    TopicPartition("nothing", 0), TopicPartition("orders", 2), TopicPartition("orders", -1),
], ids=str)  # fmt: skip
async def test_what_does_not_exist_is_named(connection: Connection, partition: TopicPartition) -> None:
    await orders(connection, partitions=2)
    async with reader(connection) as consumer:
        for call in (consumer.end_offsets(FIRST, partition), consumer.offsets_for_times({partition: 0})):
            with pytest.raises(KafkaError, match=f"{partition} does not exist") as refused:
                await call
            assert refused.value.code is ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
