"""What the SDK wrote straight to Redis, read by confluent-kafka through a worker: every codec, keys, headers, nulls."""

from __future__ import annotations

import pytest
from confluent_kafka import Consumer, TopicPartition

from redbroker.blocking import Producer
from tests.clients.conftest import Cluster

RECORDS = 500


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_a_kafka_client_reads_what_the_sdk_wrote(cluster: Cluster, topic: str, codec: str) -> None:
    wrote = [
        (b"key-%d" % n if n % 3 else None, b"%d" % n * (n % 50) if n % 5 else None, [("h", b"%d" % n), ("null", None)])
        for n in range(RECORDS)
    ]
    with Producer(cluster.storage_url, compression=codec, batch_bytes=4_000) as producer:
        sent = [
            producer.send_nowait(topic, value, key=key, headers=headers, partition=0, timestamp_ms=1_000 + n)
            for n, (key, value, headers) in enumerate(wrote)
        ]
        producer.flush(30)
        assert [future.result(30).offset for future in sent] == list(range(RECORDS))
    consumer = Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": topic, "check.crcs": True})
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        read = []
        for _ in range(100):
            read += consumer.consume(RECORDS - len(read), 1.0)
            if len(read) == RECORDS:
                break
    finally:
        consumer.close()
    assert [message.error() for message in read] == [None] * RECORDS
    assert [(message.key(), message.value(), message.headers()) for message in read] == wrote
    assert [message.timestamp()[1] for message in read] == [1_000 + n for n in range(RECORDS)]
