"""What tests of the SDK's consumers share: a topic with records in it, a reader of it, and waiting for something."""

from __future__ import annotations

import asyncio
from typing import Any

from redbroker.client.connection import Connection
from redbroker.client.consumer import Consumer
from redbroker.engine.log import Append
from redbroker.engine.topics import Topic
from redbroker.errors import ErrorCode, KafkaError
from redbroker.types import TopicPartition
from redbroker.wire.records import Record, build_batch, read_header

FIRST = TopicPartition("orders", 0)
STEP_S = 0.005


async def append(
    connection: Connection, topic: Topic, *values: bytes, partition: int = 0, at_ms: int = 1_000, **fields: Any
) -> None:
    records = [Record(place, at_ms + place, None, value) for place, value in enumerate(values)]
    batch = build_batch(records, **fields)
    entry = Append(topic, partition, batch, read_header(batch))
    for _ in range(100):
        [answer] = await connection.engine.log.append([entry], acks=1, timeout_ms=5_000)
        if not (isinstance(answer, KafkaError) and answer.code is ErrorCode.NOT_LEADER_OR_FOLLOWER):
            break
        await asyncio.sleep(0.05)  # a server that was restarted is not connected to yet; nothing was written
    assert not isinstance(answer, KafkaError), answer


async def orders(connection: Connection, *values: bytes, partitions: int = 1) -> Topic:
    topic = await connection.engine.topics.create("orders", partitions)
    if values:
        await append(connection, topic, *values)
    return topic


def reader(connection: Connection, *topics: str, **settings: Any) -> Consumer:
    return Consumer(*topics, storage=connection, **{"auto_offset_reset": "earliest", **settings})


async def until(condition: Any, within_s: float = 10) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(STEP_S)


async def values(consumer: Consumer, count: int) -> list[Any]:
    found: list[Any] = []
    async with asyncio.timeout(10):
        while len(found) < count:
            found += [each.value for each in await consumer.getmany(count - len(found))]
    return found
