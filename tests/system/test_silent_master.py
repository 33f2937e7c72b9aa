"""Consumers of a topic on three Redis masters, one of which says nothing: what the others have goes on arriving."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

import redbroker
from examples.clients import QUIET, create_topic
from examples.processes import Process
from redbroker.engine.slots import key_slot
from tests.support.clusters import Cluster, a_cluster
from tests.support.servers import Server, wait_until

pytestmark = pytest.mark.system

PARTITIONS = 12
SILENT_S = 8.0
"""Longer than storage_timeout_ms (5 s): the connection is given up meanwhile, and another one hangs."""
LATE_S = 2.0
"""A tenth of storage_timeout_ms, the client's own pauses (fetch.error.backoff.ms), and what a busy machine needs."""


class Reader(threading.Thread):
    """A client that is open, reads all partitions from their start once it may, and remembers when each record came."""

    def __init__(self, read: Callable[[Reader], None], topic: str, where: str) -> None:
        super().__init__()
        self.read, self.topic, self.where = read, topic, where
        self.opened, self.may_begin, self.ended = threading.Event(), threading.Event(), threading.Event()
        self.values: dict[int, list[int]] = defaultdict(list)
        self.came_s: dict[tuple[int, int], float] = {}
        self.start()
        assert self.opened.wait(20)

    def run(self) -> None:
        self.read(self)

    def took(self, partition: int, value: bytes) -> None:
        self.values[partition].append(int(value))
        self.came_s[partition, int(value)] = time.monotonic()

    def close(self) -> None:
        self.may_begin.set()
        self.ended.set()
        self.join(20)
        assert not self.is_alive()


def with_librdkafka(reader: Reader) -> None:
    consumer = Consumer(
        {"bootstrap.servers": reader.where, "group.id": "alone", "enable.auto.commit": False}, logger=QUIET
    )
    reader.opened.set()
    reader.may_begin.wait()
    consumer.assign([TopicPartition(reader.topic, number, 0) for number in range(PARTITIONS)])
    while not reader.ended.is_set():
        message = consumer.poll(0.05)
        if message is not None and message.error() is None:
            reader.took(message.partition() or 0, message.value() or b"")
    consumer.close()


def with_the_sdk(reader: Reader) -> None:
    async def read() -> None:
        async with redbroker.Consumer(storage=reader.where, auto_offset_reset="earliest") as consumer:
            reader.opened.set()
            await asyncio.to_thread(reader.may_begin.wait)
            consumer.assign([redbroker.TopicPartition(reader.topic, number) for number in range(PARTITIONS)])
            while not reader.ended.is_set():
                for record in await consumer.getmany(1_000, timeout_ms=50):
                    reader.took(record.partition, record.value or b"")

    asyncio.run(read())


class Place:
    """The cluster, one worker, and what was sent when."""

    def __init__(self, cluster: Cluster, worker: Process) -> None:
        self.cluster, self.worker = cluster, worker
        self.producer = Producer({"bootstrap.servers": worker.address, "acks": 1, "linger.ms": 0}, logger=QUIET)
        self.sent_s: dict[tuple[int, int], float] = {}

    def master(self, topic: str, number: int) -> Server:
        return self.cluster.master_of(key_slot(f"rb:{{{topic}:{number}}}:state".encode()))

    def send(self, topic: str, partitions: list[int], value: int) -> None:
        """One record to each, acknowledged."""
        for number in partitions:
            self.producer.produce(topic, b"%d" % value, partition=number)
            self.sent_s[number, value] = time.monotonic()
        assert self.producer.flush(10) == 0


@pytest.fixture
def place() -> Iterator[Place]:
    with a_cluster(3, 0, "--cluster-node-timeout", "60000") as cluster:
        worker = Process("worker", "--storage", cluster.url, "--port", "0", "--http-port", "0")
        try:
            yield Place(cluster, worker)
        finally:
            worker.stop()


@pytest.mark.parametrize("client", [with_librdkafka, with_the_sdk], ids=["librdkafka", "sdk"])
def test_records_of_other_masters_come_as_ever(place: Place, client: Callable[[Reader], None]) -> None:
    """To a reader that had read everything, and to one that begins now; later both have all, once and in order."""
    create_topic(place.worker.address, "spread", PARTITIONS, {"min.insync.replicas": "1"})
    home = place.cluster.master_of(key_slot(b"rb:{meta}:workers"))
    masters = [place.master("spread", number) for number in range(PARTITIONS)]
    silent = next(master for master in masters if master is not home)
    served = [number for number in range(PARTITIONS) if masters[number] is not silent]
    where = place.worker.address if client is with_librdkafka else place.cluster.url
    place.send("spread", list(range(PARTITIONS)), 0)
    readers = [Reader(client, "spread", where) for _ in range(2)]
    try:
        readers[0].may_begin.set()
        wait_until(lambda: len(readers[0].came_s) == PARTITIONS, 20, "the reader is at the end")
        silent.stop()
        began_s = time.monotonic()
        readers[1].may_begin.set()
        value = 0
        while time.monotonic() < began_s + SILENT_S:
            value += 1
            place.send("spread", served, value)
            time.sleep(0.9)
        wait_until(lambda: all(len(each.values[served[0]]) > value for each in readers), 20, "records of other masters")
        late_s = [
            max(
                reader.came_s[sent] - max(sent_s, since_s)
                for sent, sent_s in place.sent_s.items()
                if sent in reader.came_s
            )
            for reader, since_s in zip(readers, (0.0, began_s), strict=True)
        ]
        silent.cont()
        place.send("spread", list(range(PARTITIONS)), value + 1)
        lost = [number for number in range(PARTITIONS) if number not in served]
        wanted = {number: list(range(value + 2)) for number in served} | {number: [0, value + 1] for number in lost}
        wait_until(lambda: all(each.values == wanted for each in readers), 20, "everything is read, once and in order")
        assert max(late_s) < LATE_S
    finally:
        silent.cont()
        for reader in readers:
            reader.close()


def test_who_starts_while_a_master_is_silent_serves_and_reads_what_the_others_have(place: Place) -> None:
    create_topic(place.worker.address, "spread", PARTITIONS, {"min.insync.replicas": "1"})
    home = place.cluster.master_of(key_slot(b"rb:{meta}:workers"))
    masters = [place.master("spread", number) for number in range(PARTITIONS)]
    silent = next(master for master in masters if master is not home)
    served = [number for number in range(PARTITIONS) if masters[number] is not silent]
    place.send("spread", served, 0)
    silent.stop()
    try:
        second = Process("worker", "--storage", place.cluster.url, "--port", "0", "--http-port", "0")
        try:
            reader = Reader(with_the_sdk, "spread", place.cluster.url)
            reader.may_begin.set()
            try:
                Place(place.cluster, second).send("spread", served, 1)
                wait_until(lambda: all(reader.values[number] == [0, 1] for number in served), 20, "all that is served")
            finally:
                reader.close()
        finally:
            second.stop()
    finally:
        silent.cont()
