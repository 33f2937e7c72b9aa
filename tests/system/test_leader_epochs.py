"""Leader epochs while a Redis master is away and leaders move, with librdkafka on them.

Clients pass over metadata whose leader epoch is older than one they know, the new leader with it. Workers that cannot
ask the master tell what they remember: older than what another worker told, or -1 where they never met the partition.
"""

from __future__ import annotations

import logging
import re
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from examples.clients import QUIET, create_topic, leaders
from examples.processes import Process, stop_all
from redbroker.broker.leader_epochs import FRESH_S
from redbroker.engine.slots import key_slot
from redbroker.engine.workers import Ring, Worker
from tests.support.clusters import Cluster, a_cluster
from tests.support.servers import Server, wait_until

pytestmark = pytest.mark.system

PARTITIONS = 12
SILENT_S = 8.0
"""storage_timeout_ms: how long a worker waits for a master that says nothing."""
LEADERS_MOVE_S = 5.5
"""worker_timeout_ms, the client's own pauses, and what a busy machine needs."""
METADATA_PER_S = 12
"""librdkafka asks for a partition without a leader after 100 ms at the soonest (retry.backoff.ms)."""
ONE_COPY = {"min.insync.replicas": "1"}


class Lines(logging.Handler):
    """What librdkafka says to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.logger = logging.Logger("librdkafka", logging.DEBUG)
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def count(self, pattern: str) -> int:
        return sum(1 for line in self.lines if re.search(pattern, line))


class Pair:
    """Two workers, `first` and `second` by node id, on a cluster whose masters fail one by one."""

    def __init__(self, cluster: Cluster, workers: list[Process]) -> None:
        self.cluster = cluster
        self.first, self.second = workers
        self.ring = Ring([Worker(1, "", 0), Worker(2, "", 0)])

    def master(self, topic: str, partition: int) -> Server:
        return self.cluster.master_of(key_slot(f"rb:{{{topic}:{partition}}}:state".encode()))

    def led_by(self, node_id: int, topic: str) -> list[int]:
        return [index for index in range(PARTITIONS) if self.ring.owner(f"{topic}:{index}").node_id == node_id]

    @property
    def home(self) -> Server:
        """The master that knows which workers live."""
        return self.cluster.master_of(key_slot(b"rb:{meta}:workers"))

    def asked(self, worker: Process) -> float:
        """How many Metadata requests a worker has answered."""
        with urllib.request.urlopen(f"http://{worker.http}/metrics", timeout=5) as page:
            lines = page.read().decode().splitlines()
        counts = [line for line in lines if line.startswith("redbroker_requests_total") and 'api="Metadata"' in line]
        return sum(float(line.rsplit(" ", 1)[1]) for line in counts)


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    monkeypatch.setenv("REDBROKER_STORAGE_TIMEOUT_MS", str(int(SILENT_S * 1_000)))
    workers: list[Process] = []
    with a_cluster(3, 1, "--cluster-require-full-coverage", "no") as cluster:
        try:
            words = ("worker", "--storage", cluster.url, "--port", "0", "--http-port", "0")
            workers += [Process(*words) for _ in range(2)]
            yield Pair(cluster, workers)
        finally:
            stop_all(workers)


def produce(address: str, topic: str, partition: int, values: list[bytes]) -> None:
    producer = Producer({"bootstrap.servers": address, "acks": 1}, logger=QUIET)
    delivered: list[Any] = []
    for value in values:
        producer.produce(topic, value, partition=partition, on_delivery=lambda error, _: delivered.append(error))
    assert producer.flush(20) == 0
    assert delivered == [None] * len(values)


def polled(consumer: Consumer, wanted: int, within_s: float = 20.0) -> list[tuple[int, bytes]]:
    """So many records by offset; errors that the client gets over by itself are not counted."""
    found: list[tuple[int, bytes]] = []
    deadline = time.monotonic() + within_s
    while len(found) < wanted and time.monotonic() < deadline:
        message = consumer.poll(0.1)
        if message is not None and message.error() is None:
            found.append((message.offset() or 0, message.value() or b""))
    return found


def test_a_silent_master_keeps_no_partition_of_another_from_its_new_leader(pair: Pair) -> None:
    """And what is told of its own, older than what the client knows, makes no storm of metadata requests."""
    create_topic(pair.first.address, "moved", PARTITIONS, ONE_COPY)
    leaders(pair.first.address, "moved")  # from now on the first worker remembers the epochs of today
    moving = pair.led_by(2, "moved")
    lost = next(index for index in moving if pair.master("moved", index) is not pair.home)
    silent = pair.master("moved", lost)
    served = next(index for index in moving if pair.master("moved", index) is not silent)
    near = next(index for index in pair.led_by(1, "moved") if pair.master("moved", index) is silent)
    for index in (lost, served):
        pair.cluster.failover(key_slot(f"rb:{{moved:{index}}}:state".encode()))
    wait_until(pair.cluster.healthy, what="the old masters follow")
    leaders(pair.second.address, "moved")  # a new epoch begins with the first look, and is settled a moment later
    time.sleep(FRESH_S + 0.5)

    said = Lines()
    settings = {"bootstrap.servers": pair.second.address, "debug": "topic,metadata"}
    producer = Producer({**settings, "enable.idempotence": False, "message.timeout.ms": 60_000}, logger=said.logger)
    acknowledged: list[Any] = []

    def send_one(partition: int) -> None:
        producer.produce("moved", b"x", partition=partition, on_delivery=lambda error, _: acknowledged.append(error))

    for index in (served, near):
        send_one(index)
    assert producer.flush(10) == 0
    assert said.count(rf"moved \[{served}\]: applying leader-id update -1 -> 2 \(epoch \d{{4,}}\)"), "no new epoch"

    master = pair.master("moved", lost)
    for server in (pair.cluster.replica_of(master), master):
        server.stop()
    asked, began = pair.asked(pair.first), time.monotonic()
    pair.second.kill()
    send_one(served)
    assert producer.flush(SILENT_S * 2) == 0
    taken_s = time.monotonic() - began
    send_one(lost)
    producer.flush(SILENT_S)
    asked_per_s = (pair.asked(pair.first) - asked) / (time.monotonic() - began)

    assert acknowledged == [None] * 3
    assert said.count(rf"moved \[{lost}\]: ignoring outdated metadata update"), "nothing here was older"
    assert taken_s < LEADERS_MOVE_S
    assert asked_per_s < METADATA_PER_S
    pair.cluster.heal()
    assert producer.flush(20) == 0
    assert acknowledged == [None] * 4


def test_a_reader_sent_to_a_worker_that_knows_no_epoch_hears_of_lost_records_all_the_same(pair: Pair) -> None:
    """Its leader and the master die together; the other worker has never asked the master, and tells -1."""
    create_topic(pair.first.address, "cut", PARTITIONS, ONE_COPY)
    partition = next(index for index in pair.led_by(1, "cut") if pair.master("cut", index) is not pair.home)
    master = pair.master("cut", partition)
    replica = pair.cluster.replica_of(master)
    kept, doomed, new = ([b"%s %d" % (what, i) for i in range(5)] for what in (b"kept", b"doomed", b"new"))
    produce(pair.first.address, "cut", partition, kept)
    wait_until(lambda: replica.info("master_repl_offset") == master.info("master_repl_offset"), what="replication")
    replica.stop()
    master.command("CLIENT", "KILL", "TYPE", "replica")
    produce(pair.first.address, "cut", partition, doomed)

    said = Lines()
    # No connection to the second worker: its coordinator, too, is the first.
    group = next(name for name in map("g{}".format, range(100)) if pair.ring.owner(name).node_id == 1)
    settings = {"bootstrap.servers": pair.first.address, "group.id": group, "auto.offset.reset": "earliest"}
    consumer = Consumer({**settings, "enable.auto.commit": False, "debug": "topic"}, logger=said.logger)
    with closing(consumer):
        consumer.assign([TopicPartition("cut", partition, 0)])
        assert [value for _, value in polled(consumer, 10)] == kept + doomed
        master.kill()
        pair.first.kill()
        moved = rf"cut \[{partition}\]: applying leader-id update 1 -> 2 \(epoch (-?\d+)\)"
        wait_until(lambda: polled(consumer, 1, 0.2) == [] and said.count(moved), what="the other worker leads")
        assert said.count(moved.replace(r"(-?\d+)", "-1")), "the other worker knew an epoch"
        replica.cont()
        produce(pair.second.address, "cut", partition, new)
        assert polled(consumer, 5) == list(enumerate(new, 5))
