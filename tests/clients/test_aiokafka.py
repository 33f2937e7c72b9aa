"""aiokafka against two workers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import UnsupportedVersionError

from tests.clients.conftest import Cluster

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def producing(cluster: Cluster, **config: Any) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=cluster.bootstrap, max_request_size=2_000_000, **config)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


@asynccontextmanager
async def consuming(cluster: Cluster, *wanted: TopicPartition, **config: Any) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer without a group."""
    consumer = AIOKafkaConsumer(bootstrap_servers=cluster.bootstrap, enable_auto_commit=False, **config)
    await consumer.start()
    try:
        consumer.assign(list(wanted))
        yield consumer
    finally:
        await consumer.stop()


async def take(consumer: AIOKafkaConsumer, count: int) -> list[Any]:
    return [await asyncio.wait_for(consumer.getone(), 20) for _ in range(count)]


@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
async def test_keys_headers_null_values_and_large_records_come_back_under_every_codec(
    cluster: Cluster, topic: str, codec: str | None
) -> None:
    sent = [
        (b"k", b"v" * 500, [("a", b"1"), ("b", b"")]),
        (None, b"no key", []),
        (b"tombstone", None, []),
        (b"large", bytes(range(256)) * 3600, []),
    ]
    async with producing(cluster, compression_type=codec) as producer:
        for key, value, headers in sent:
            await producer.send_and_wait(topic, value, key=key, headers=headers, partition=1)
    partition = TopicPartition(topic, 1)
    async with consuming(cluster, partition) as consumer:
        await consumer.seek_to_beginning(partition)
        received = await take(consumer, len(sent))
    assert [(one.key, one.value, list(one.headers)) for one in received] == sent
    assert [one.offset for one in received] == list(range(len(sent)))


@pytest.mark.parametrize("idempotent", [False, True])
async def test_many_records_arrive_once_and_in_order(cluster: Cluster, topic: str, idempotent: bool) -> None:
    async with producing(cluster, enable_idempotence=idempotent, acks="all", linger_ms=2) as producer:
        futures = [await producer.send(topic, b"%d" % number, partition=number % 4) for number in range(2000)]
        await asyncio.wait_for(asyncio.gather(*futures), 60)
    partitions = [TopicPartition(topic, number) for number in range(4)]
    async with consuming(cluster, *partitions) as consumer:
        await consumer.seek_to_beginning(*partitions)
        received = await take(consumer, 2000)
    for number in range(4):
        values = [int(one.value) for one in received if one.partition == number]
        assert values == list(range(number, 2000, 4))


async def test_seek_by_time_start_and_end(cluster: Cluster, topic: str) -> None:
    start_ms = 1_700_000_000_000
    partition = TopicPartition(topic, 0)
    async with producing(cluster) as producer:
        for number in range(10):
            await producer.send_and_wait(topic, b"%d" % number, partition=0, timestamp_ms=start_ms + 1000 * number)
    async with consuming(cluster, partition) as consumer:
        found = await consumer.offsets_for_times({partition: start_ms + 4500})
        assert (found[partition].offset, found[partition].timestamp) == (5, start_ms + 5000)
        assert (await consumer.offsets_for_times({partition: start_ms + 10**6}))[partition] is None
        assert await consumer.beginning_offsets([partition]) == {partition: 0}
        assert await consumer.end_offsets([partition]) == {partition: 10}
        consumer.seek(partition, 5)
        assert [one.value for one in await take(consumer, 2)] == [b"5", b"6"]
        await consumer.seek_to_end(partition)
        assert await consumer.position(partition) == 10


async def test_a_waiting_consumer_is_woken_by_the_next_record(cluster: Cluster, topic: str) -> None:
    partition = TopicPartition(topic, 0)
    async with producing(cluster) as producer, consuming(cluster, partition, fetch_max_wait_ms=10_000) as consumer:
        await producer.send_and_wait(topic, b"old", partition=0)
        await consumer.seek_to_end(partition)
        assert await consumer.position(partition) == 1
        waiting = asyncio.ensure_future(consumer.getone())
        await asyncio.sleep(0.5)
        started_s = time.monotonic()
        await producer.send_and_wait(topic, b"new", partition=0)
        assert (await asyncio.wait_for(waiting, 10)).value == b"new"
        assert time.monotonic() - started_s < 2


async def test_a_transactional_producer_is_told_that_transactions_are_not_offered(cluster: Cluster, topic: str) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=cluster.bootstrap, transactional_id=topic)
    try:
        with pytest.raises(UnsupportedVersionError):
            await asyncio.wait_for(producer.start(), 20)
    finally:
        await producer.stop()
