"""kafka-python 3 against two workers: it asks for the newest versions, topic ids and fetch sessions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from tests.clients.conftest import Cluster


@contextmanager
def producing(cluster: Cluster, **config: Any) -> Iterator[KafkaProducer]:
    producer = KafkaProducer(
        **{"bootstrap_servers": cluster.bootstrap.split(","), "max_request_size": 2_000_000, "linger_ms": 2} | config
    )
    try:
        yield producer
    finally:
        producer.close(timeout=5)


@contextmanager
def consuming(cluster: Cluster, *wanted: TopicPartition, **config: Any) -> Iterator[KafkaConsumer]:
    """A consumer without a group."""
    consumer = KafkaConsumer(bootstrap_servers=cluster.bootstrap.split(","), enable_auto_commit=False, **config)
    try:
        consumer.assign(list(wanted))
        yield consumer
    finally:
        consumer.close()


def take(consumer: KafkaConsumer, count: int) -> list[Any]:
    received: list[Any] = []
    deadline = time.monotonic() + 30
    while len(received) < count and time.monotonic() < deadline:
        for records in consumer.poll(timeout_ms=1000).values():
            received += records
    return received


@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
def test_keys_headers_null_values_and_large_records_come_back_under_every_codec(
    cluster: Cluster, topic: str, codec: str | None
) -> None:
    sent = [
        (b"k", b"v" * 500, [("a", b"1"), ("b", b"")]),
        (None, b"no key", []),
        (b"tombstone", None, []),
        (b"large", bytes(range(256)) * 3600, []),
    ]
    with producing(cluster, compression_type=codec) as producer:
        for key, value, headers in sent:
            producer.send(topic, value, key=key, headers=headers, partition=1).get(20)
    partition = TopicPartition(topic, 1)
    with consuming(cluster, partition) as consumer:
        consumer.seek_to_beginning(partition)
        received = take(consumer, len(sent))
    assert [(one.key, one.value, list(one.headers)) for one in received] == sent
    assert [one.offset for one in received] == list(range(len(sent)))


@pytest.mark.parametrize("idempotent", [False, True])
def test_many_records_arrive_once_and_in_order_over_incremental_fetch_sessions(
    cluster: Cluster, topic: str, idempotent: bool
) -> None:
    partitions = [TopicPartition(topic, number) for number in range(4)]
    with producing(cluster, enable_idempotence=idempotent, acks="all") as producer:
        producer.send(topic, b"-1", partition=0).get(20)
        with consuming(cluster, *partitions, fetch_max_bytes=20_000) as consumer:
            consumer.seek_to_beginning(*partitions)
            assert take(consumer, 1)[0].value == b"-1"
            futures = [producer.send(topic, b"%d" % number, partition=number % 4) for number in range(2000)]
            received = take(consumer, 2000)
            for future in futures:
                future.get(20)
    for number in range(4):
        values = [int(one.value) for one in received if one.partition == number]
        assert values == list(range(number, 2000, 4))


def test_seek_by_time_start_and_end(cluster: Cluster, topic: str) -> None:
    start_ms = 1_700_000_000_000
    partition = TopicPartition(topic, 0)
    with producing(cluster) as producer:
        for number in range(10):
            producer.send(topic, b"%d" % number, partition=0, timestamp_ms=start_ms + 1000 * number).get(20)
    with consuming(cluster, partition) as consumer:
        found = consumer.offsets_for_times({partition: start_ms + 4500})
        assert (found[partition].offset, found[partition].timestamp) == (5, start_ms + 5000)
        assert consumer.beginning_offsets([partition]) == {partition: 0}
        assert consumer.end_offsets([partition]) == {partition: 10}
        consumer.seek(partition, 5)
        assert [one.value for one in take(consumer, 5)] == [b"5", b"6", b"7", b"8", b"9"]
        consumer.seek_to_end(partition)
        assert consumer.position(partition) == 10


def test_it_takes_what_is_advertised_for_a_recent_kafka(cluster: Cluster, topic: str) -> None:
    with producing(cluster) as producer:
        producer.send(topic, b"v").get(20)
        assert producer.config["api_version"] >= (4, 0)


def test_a_transactional_producer_is_told_that_transactions_are_not_offered(cluster: Cluster, topic: str) -> None:
    with producing(cluster, transactional_id=topic, max_block_ms=5000) as producer, pytest.raises(KafkaError):
        producer.init_transactions()
