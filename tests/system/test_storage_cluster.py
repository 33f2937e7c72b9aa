"""Two workers over three masters and their replicas: a master dies, slots move, and real clients lose nothing.

What counts is a read from the start when all is over: with acks=all every acknowledged record stands in the log once
and in its producer's order. (A reader that runs along may see, for a moment, a record that a failover takes back.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from examples.clients import Consuming, Producing, create_topic
from examples.processes import Process, stop_all
from redbroker.engine.slots import key_slot
from tests.support.clusters import Cluster, a_cluster

pytestmark = pytest.mark.system

PARTITIONS = 6
RECORDS = 20_000


@pytest.fixture(scope="module")
def redis_cluster() -> Iterator[Cluster]:
    with a_cluster() as cluster:
        yield cluster


@pytest.fixture
def workers(redis_cluster: Cluster) -> Iterator[list[Process]]:
    redis_cluster.heal()
    redis_cluster.flush()
    processes: list[Process] = []
    try:
        processes.append(Process("worker", "--storage", redis_cluster.url, "--port", "0"))
        processes.append(Process("worker", "--storage", redis_cluster.url, "--port", "0"))
        yield processes
    finally:
        stop_all(processes)


def slot_of(topic: str, partition: int) -> int:
    return key_slot(f"rb:{{{topic}:{partition}}}:log".encode())


def produce_through(addresses: str, topic: str, trouble: Callable[[], None]) -> dict[bytes, list[bytes]]:
    """Send under steady load with trouble in the middle; what was sent, by key. Everything must be acknowledged."""
    create_topic(addresses, topic, PARTITIONS)
    producer = Producing(addresses, topic)
    sent: dict[bytes, list[bytes]] = {}
    troubled = False
    for number in range(RECORDS):
        key, value = b"%d" % (number % 97), b"%d" % number
        sent.setdefault(key, []).append(value)
        producer.send(key, value, int(time.time() * 1_000))
        producer.catch_up(2_000)
        if not troubled and producer.acknowledged >= RECORDS // 3:
            troubled = True
            trouble()
    assert troubled, "the load was over before the trouble began"
    producer.close()
    assert not producer.errors
    assert producer.acknowledged == RECORDS
    return sent


def stored(addresses: str, topic: str) -> dict[bytes, list[bytes]]:
    """Everything in the topic, by key, read by a fresh consumer from the start; offsets must be dense."""
    consumer = Consuming(addresses, topic, PARTITIONS)
    deadline = time.monotonic() + 30
    while consumer.count < RECORDS and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)  # a record too many would come now
    consumer.close()
    assert consumer.gaps == 0
    return consumer.values


def addresses_of(workers: list[Process]) -> str:
    return ",".join(worker.address for worker in workers)


def test_a_killed_master_costs_no_acknowledged_record_and_doubles_none(
    redis_cluster: Cluster, workers: list[Process]
) -> None:
    def kill_a_master() -> None:
        victim = redis_cluster.master_of(slot_of("killed", 0))
        victim.kill()
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            try:
                if redis_cluster.master_of(slot_of("killed", 0)) is not victim:
                    break
            except AssertionError:  # nobody serves it yet
                pass
            time.sleep(0.05)
        victim.restart()  # acks=all wants its copy: two were configured

    sent = produce_through(addresses_of(workers), "killed", kill_a_master)
    assert stored(addresses_of(workers), "killed") == sent


def test_slots_that_move_under_load_lose_and_double_nothing(redis_cluster: Cluster, workers: list[Process]) -> None:
    def move_every_partition() -> None:
        for partition in range(PARTITIONS):
            slot = slot_of("moved", partition)
            home = redis_cluster.master_of(slot)
            masters = {redis_cluster.master_of(each) for each in (0, 6_000, 16_000)}
            redis_cluster.migrate_atomically(slot, next(node for node in masters if node is not home))

    sent = produce_through(addresses_of(workers), "moved", move_every_partition)
    assert stored(addresses_of(workers), "moved") == sent


def test_slots_that_move_key_by_key_lose_and_double_nothing(redis_cluster: Cluster, workers: list[Process]) -> None:
    def move_two_partitions() -> None:
        for partition in range(2):
            slot = slot_of("asked", partition)
            home = redis_cluster.master_of(slot)
            masters = {redis_cluster.master_of(each) for each in (0, 6_000, 16_000)}
            for _ in redis_cluster.migrate_key_by_key(slot, next(node for node in masters if node is not home)):
                time.sleep(0.01)

    sent = produce_through(addresses_of(workers), "asked", move_two_partitions)
    assert stored(addresses_of(workers), "asked") == sent
