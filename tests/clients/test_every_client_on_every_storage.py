"""What any client writes every client reads, over two workers, on an embedded Valkey and on a cluster of 3 + 3."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import anyio
import pytest
from aiokafka import TopicPartition as AioPartition
from confluent_kafka import OFFSET_BEGINNING
from confluent_kafka import TopicPartition as ConfluentPartition
from kafka import TopicPartition as PythonPartition

from tests.clients import test_aiokafka, test_confluent_kafka, test_kafka_python, test_kcat
from tests.clients.conftest import Cluster, two_workers

Pair = tuple[bytes, bytes | None]
Found = Sequence[tuple[int, bytes, bytes | None]]
PARTITIONS = range(4)
PAIRS: list[Pair] = [(b"k", b"v"), (b"gone", None), (b"large", b"x" * 900_000), (b"last", b"w")]


@pytest.fixture(scope="module", params=["embedded", "cluster of 3 + 3"])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers on the storage named; with replicas, acks=all waits for them."""
    if request.param == "embedded":
        url = f"embedded:{tmp_path_factory.mktemp('data')}"
    else:
        nodes = request.getfixturevalue("cluster_nodes")
        nodes.heal()
        nodes.flush()
        url = nodes.url
    with two_workers(url) as cluster:
        yield cluster


def confluent_writes(cluster: Cluster, topic: str, partition: int, codec: str) -> None:
    producer = test_confluent_kafka.producer_of(cluster, **{"acks": "all", "compression.type": codec})
    messages = [{"key": key, "value": value, "partition": partition} for key, value in PAIRS]
    test_confluent_kafka.send(producer, topic, messages)


def aiokafka_writes(cluster: Cluster, topic: str, partition: int, codec: str) -> None:
    async def write() -> None:
        compression = None if codec == "none" else codec
        async with test_aiokafka.producing(cluster, acks="all", compression_type=compression) as producer:
            for key, value in PAIRS:
                await producer.send_and_wait(topic, value, key=key, partition=partition)

    anyio.run(write)


def kafka_python_writes(cluster: Cluster, topic: str, partition: int, codec: str) -> None:
    compression = None if codec == "none" else codec
    with test_kafka_python.producing(cluster, acks="all", compression_type=compression) as producer:
        for future in [producer.send(topic, value, key=key, partition=partition) for key, value in PAIRS]:
            future.get(20)


def kcat_writes(cluster: Cluster, topic: str, partition: int, codec: str) -> None:
    lines = b"".join(key + b":" + (value or b"") + b"\n" for key, value in PAIRS)
    words = ("-P", "-t", topic, "-p", str(partition), "-z", codec, "-K", ":", "-Z", "-X", "acks=all")
    test_kcat.kcat(cluster, *words, stdin=lines)


def confluent_reads(cluster: Cluster, topic: str) -> Found:
    wanted = [ConfluentPartition(topic, number, OFFSET_BEGINNING) for number in PARTITIONS]
    received = test_confluent_kafka.read_to_end(cluster, *wanted, **{"check.crcs": True})
    return [(one.partition(), one.key(), one.value()) for one in received]


def aiokafka_reads(cluster: Cluster, topic: str) -> Found:
    async def read() -> Found:
        wanted = [AioPartition(topic, number) for number in PARTITIONS]
        async with test_aiokafka.consuming(cluster, *wanted) as consumer:
            await consumer.seek_to_beginning(*wanted)
            ends = await consumer.end_offsets(wanted)
            received = await test_aiokafka.take(consumer, sum(ends.values()))
            return [(one.partition, one.key, one.value) for one in received]

    return anyio.run(read)


def kafka_python_reads(cluster: Cluster, topic: str) -> Found:
    wanted = [PythonPartition(topic, number) for number in PARTITIONS]
    with test_kafka_python.consuming(cluster, *wanted) as consumer:
        consumer.seek_to_beginning(*wanted)
        received = test_kafka_python.take(consumer, sum(consumer.end_offsets(wanted).values()))
        return [(one.partition, one.key, one.value) for one in received]


def kcat_reads(cluster: Cluster, topic: str) -> Found:
    words = ("-C", "-t", topic, "-o", "beginning", "-e", "-q", "-J", "-X", "check.crcs=true")
    found = []
    for line in test_kcat.kcat(cluster, *words).splitlines():
        one = json.loads(line)
        value = one["payload"]
        found.append((one["partition"], one["key"].encode(), None if value is None else value.encode()))
    return found


WRITERS = [confluent_writes, aiokafka_writes, kafka_python_writes]
READERS = [confluent_reads, aiokafka_reads, kafka_python_reads]
if test_kcat.KCAT:  # without it, tests/clients/test_kcat.py shows as skipped
    WRITERS.append(kcat_writes)
    READERS.append(kcat_reads)


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_every_client_reads_what_every_client_wrote(cluster: Cluster, topic: str, codec: str) -> None:
    for partition, write in enumerate(WRITERS):
        write(cluster, topic, partition, codec)
    for read in READERS:
        found = read(cluster, topic)
        for partition, write in enumerate(WRITERS):
            pairs = [(key, value) for number, key, value in found if number == partition]
            assert pairs == PAIRS, f"{read.__name__} does not find what {write.__name__}"
