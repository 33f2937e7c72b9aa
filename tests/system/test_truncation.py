"""A failover that cuts a log back, with librdkafka on it: what was read and is lost is told, never silent (KIP-320).

A topic that asks for one copy has no high watermark to protect its readers: they may read what only the master has. The
topic has two workers, so that metadata may come from one that has not yet heard of the new leader epoch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import pytest
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from examples.processes import Process, stop_all
from tests.support.servers import Server, free_port, started, wait_until

pytestmark = pytest.mark.system

KEPT = [b"kept 0", b"kept 1", b"kept 2", b"kept 3", b"kept 4"]
DOOMED = [b"doomed 5", b"doomed 6", b"doomed 7"]
NEW = [b"new 5", b"new 6", b"new 7", b"new 8", b"new 9"]


def produce(address: str, values: list[bytes]) -> None:
    producer = Producer({"bootstrap.servers": address, "acks": 1})
    delivered: list[KafkaError | None] = []
    for value in values:
        producer.produce("cut", value, partition=0, on_delivery=lambda error, _: delivered.append(error))
    assert producer.flush(15) == 0
    assert delivered == [None] * len(values)


def polled(consumer: Consumer, wanted: int) -> list[Message]:
    """So many records and lasting errors; errors that the client gets over by itself are not counted."""
    found: list[Message] = []
    deadline = time.monotonic() + 30
    while len(found) < wanted and time.monotonic() < deadline:
        message = consumer.poll(0.2)
        if message is not None and (message.error() is None or message.error().code() == KafkaError._AUTO_OFFSET_RESET):
            found.append(message)
    return found


@dataclass
class Pair:
    """Two workers on a master whose replica misses the last records."""

    address: str
    master: Server
    replica: Server

    def consumer(self, reset: str, start: TopicPartition) -> Consumer:
        settings = {"bootstrap.servers": self.address, "group.id": "g", "auto.offset.reset": reset}
        consumer = Consumer({**settings, "enable.auto.commit": False})
        consumer.assign([start])
        return consumer

    def fail_over(self) -> None:
        self.master.kill()
        self.replica.command("REPLICAOF", "NO", "ONE")


@contextmanager
def lagging_pair() -> Iterator[Pair]:
    master = Server()
    replica = Server("--replicaof", f"127.0.0.1 {master.port}")
    with started([master, replica]):
        wait_until(lambda: "state=online" in master.info("slave0"), what="replica connects")
        storage = f"redis://{master.address},{replica.address}"
        workers: list[Process] = []
        try:
            workers += [Process("worker", "--storage", storage, "--port", "0") for _ in range(2)]
            address = ",".join(worker.address for worker in workers)
            admin = AdminClient({"bootstrap.servers": address})
            admin.create_topics([NewTopic("cut", 1, 1, config={"min.insync.replicas": "1"})])["cut"].result(15)
            produce(address, KEPT)
            wait_until(lambda: replica.command("HGET", "rb:{cut:0}:state", "next") == b"5", what="replication")
            replica.command("REPLICAOF", "127.0.0.1", free_port())  # it hears of nothing more until it is promoted
            produce(address, DOOMED)
            yield Pair(address, master, replica)
        finally:
            stop_all(workers)


def test_a_reader_of_lost_records_rewinds_and_skips_nothing() -> None:
    with lagging_pair() as pair, closing(pair.consumer("earliest", TopicPartition("cut", 0, 0))) as consumer:
        assert [message.value() for message in polled(consumer, 8)] == KEPT + DOOMED
        pair.fail_over()
        produce(pair.address, NEW)  # these stand at the offsets of the lost ones, and beyond
        assert [(message.offset(), message.value()) for message in polled(consumer, 5)] == list(enumerate(NEW, 5))


def test_a_reader_of_lost_records_hears_of_it() -> None:
    with lagging_pair() as pair, closing(pair.consumer("error", TopicPartition("cut", 0, 0))) as consumer:
        assert [message.value() for message in polled(consumer, 8)] == KEPT + DOOMED
        pair.fail_over()  # and nobody writes: nothing but the failover itself can tell
        [told] = polled(consumer, 1)
        assert told.error() is not None
        assert "truncation detected at offset 8" in told.error().str()
        assert "end offset is 5" in told.error().str()


def test_a_reader_that_was_away_meanwhile_rewinds() -> None:
    """It comes back with the offset and the leader epoch it has committed elsewhere."""
    with lagging_pair() as pair:
        with closing(pair.consumer("earliest", TopicPartition("cut", 0, 0))) as consumer:
            last = polled(consumer, 8)[-1]
        pair.fail_over()
        produce(pair.address, NEW)
        start = TopicPartition("cut", 0, last.offset() + 1, leader_epoch=last.leader_epoch())
        with closing(pair.consumer("earliest", start)) as consumer:
            assert [(message.offset(), message.value()) for message in polled(consumer, 5)] == list(enumerate(NEW, 5))
