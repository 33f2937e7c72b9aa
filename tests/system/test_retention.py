"""Compaction and retention by real workers: killed, paused and failed over in the middle, read by real clients."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from examples.processes import Process, stop_all
from redbroker.config import Settings
from redbroker.engine import Engine
from redbroker.engine.log import Append, Read
from redbroker.engine.slots import key_slot
from redbroker.engine.topics import Topic
from redbroker.errors import KafkaError
from redbroker.wire.records import Record, build_batch, iter_records, read_header
from tests.support.clusters import Cluster, a_cluster
from tests.support.servers import Server, wait_until

pytestmark = [pytest.mark.system, pytest.mark.anyio]

KEYS = 500
BATCHES, PER_BATCH = 600, 20
OFTEN = {
    "REDBROKER_COMPACTION_CHECK_MS": "50",
    "REDBROKER_COMPACTION_DIRTY_BYTES_MIN": "0",
    "REDBROKER_JANITOR_LEASE_MS": "300",
    "REDBROKER_RETENTION_CHECK_MS": "50",
    "REDBROKER_NUM_PARTITIONS": "1",
}


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers started from here keep house all the time."""
    for name, value in OFTEN.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def redis_cluster() -> Iterator[Cluster]:
    with a_cluster() as cluster:
        yield cluster


async def put(engine: Engine, topic: Topic, number: int) -> None:
    """One batch; each of its records is the newest of a key until that key's turn comes again."""
    rows = range(number * PER_BATCH, (number + 1) * PER_BATCH)
    batch = build_batch([Record(i, 1_000, b"%d" % (row % KEYS), b"%d" % row, []) for i, row in enumerate(rows)], "lz4",
                        producer_id=77, producer_epoch=0, base_sequence=number * PER_BATCH)  # fmt: skip
    for _ in range(300):
        [answer] = await engine.log.append([Append(topic, 0, batch, read_header(batch))], acks=-1, timeout_ms=2_000)
        if not isinstance(answer, KafkaError):
            return
        await asyncio.sleep(0.1)
    raise answer


async def rows(engine: Engine, topic: Topic) -> dict[int, tuple[bytes | None, bytes | None]]:
    """offset -> (key, value) of everything."""
    found: dict[int, tuple[bytes | None, bytes | None]] = {}
    offset = 0
    while True:
        [result] = await engine.log.read([Read(topic, 0, offset, 1 << 20)], max_bytes=1 << 20)
        assert not isinstance(result, KafkaError), result
        for each in result.batches:
            found |= {
                record.offset + each.base_offset: (record.key, record.value) for record in iter_records(each.batch)
            }
        if not result.batches:
            assert offset == result.next
            return found
        last = result.batches[-1]
        offset = last.base_offset + read_header(last.batch).last_offset_delta + 1


def check(found: dict[int, tuple[bytes | None, bytes | None]], appended: int) -> None:
    """Row n stands at offset n, whichever stayed; of each key the newest did."""
    assert all(value == (b"%d" % (offset % KEYS), b"%d" % offset) for offset, value in found.items())
    assert set(range(max(0, appended - KEYS), appended)) <= set(found)


async def settled(engine: Engine, topic: Topic, appended: int) -> dict[int, Any]:
    """All rows, once nothing but the newest of each key and the last batches is left."""
    async with asyncio.timeout(30):
        while len(found := await rows(engine, topic)) > KEYS + 2 * PER_BATCH:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    check(found, appended)
    return found


async def test_workers_killed_and_paused_while_they_compact_lose_no_newest_record(often: None, valkey: Server) -> None:
    processes: list[Process] = []
    try:
        async with Engine.open(Settings(storage_url=valkey.url, num_partitions=1)) as engine:
            topic = await engine.topics.create(
                "facts", configs={"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.01"}
            )
            chance = random.Random(5)
            for number in range(BATCHES):
                await put(engine, topic, number)
                if number % 60 == 0:
                    processes.append(await asyncio.to_thread(Process, "worker", "--storage", valkey.url, "--port", "0"))
                    await asyncio.sleep(chance.uniform(0, 0.2))
                    if len(processes) > 2:
                        victim = processes.pop(0)
                        if chance.random() < 0.5:
                            os.kill(victim.pid, signal.SIGSTOP)
                            await asyncio.sleep(0.5)
                            os.kill(victim.pid, signal.SIGCONT)
                            await asyncio.sleep(0.05)
                        victim.kill()
                    check(await rows(engine, topic), (number + 1) * PER_BATCH)
                if number == BATCHES // 2:
                    valkey.command("SCRIPT", "FLUSH")
            await put(engine, topic, BATCHES)
            found = await settled(engine, topic, (BATCHES + 1) * PER_BATCH)
        read_by_clients(processes[-1].address, found)
    finally:
        stop_all(processes)


def read_by_clients(address: str, found: dict[int, tuple[bytes | None, bytes | None]]) -> None:
    """librdkafka through confluent-kafka, and an older one through kcat, see the same offsets."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": "reader", "enable.partition.eof": True})
    try:
        consumer.assign([TopicPartition("facts", 0, OFFSET_BEGINNING)])
        seen, deadline = {}, time.monotonic() + 20
        while time.monotonic() < deadline:
            message = consumer.poll(1)
            if message is not None and message.error():
                break
            if message is not None:
                seen[message.offset()] = (message.key(), message.value())
    finally:
        consumer.close()
    assert seen == found
    if kcat := shutil.which("kcat"):
        words = (kcat, "-b", address, "-C", "-t", "facts", "-p", "0", "-o", "beginning", "-e", "-q", "-f", "%o %k %s\n")
        told = subprocess.run(words, capture_output=True, timeout=30, check=True).stdout
        assert told.splitlines() == [b"%d %b %b" % (offset, *pair) for offset, pair in sorted(found.items())]


def fail_over_to_the_replica(cluster: Cluster, slot: int, victim: Server) -> None:
    """Kill a master; it comes back, empty, when another has its place."""
    victim.kill()
    wait_until(lambda: serves(cluster, slot) not in (None, victim), what="failover")
    victim.restart()


def serves(cluster: Cluster, slot: int) -> Server | None:
    try:
        return cluster.master_of(slot)
    except AssertionError:  # nobody does yet
        return None


async def test_a_master_that_dies_while_its_log_is_compacted(redis_cluster: Cluster) -> None:
    settings = Settings(storage_url=redis_cluster.url, num_partitions=1, compaction_dirty_bytes_min=0,
                        janitor_lease_ms=300, storage_retry_ms=1_000)  # fmt: skip
    async with Engine.open(settings) as engine:
        topic = await engine.topics.create(
            "facts", configs={"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.01"}
        )
        partition = engine.log.partitions.get(topic, 0)
        slot = key_slot(partition.keys.log)
        stopping = False

        async def compacting() -> None:
            while not stopping:
                await engine.janitor.compact_one(partition)
                await asyncio.sleep(0.01)

        task = asyncio.create_task(compacting())
        for number in range(BATCHES):
            await put(engine, topic, number)
            if number == BATCHES // 3:
                victim = redis_cluster.master_of(slot)
                await asyncio.to_thread(fail_over_to_the_replica, redis_cluster, slot, victim)
            if number == 2 * BATCHES // 3:
                await asyncio.to_thread(redis_cluster.heal)
                await asyncio.to_thread(redis_cluster.failover, slot)
        stopping = True
        await task
        await engine.janitor.compact_one(partition)
        await settled(engine, topic, BATCHES * PER_BATCH)
        replica = redis_cluster.replica_of(redis_cluster.master_of(slot))
        async with asyncio.timeout(10):
            length = await engine.storage.call(partition.keys.log, "XLEN", partition.keys.log)
            while replica.commands(("READONLY",), ("XLEN", partition.keys.log))[-1] != length:  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def test_more_than_fits_goes_through_a_small_redis_and_nothing_fails(often: None) -> None:
    """Producers faster than retention: they are slowed down, none of their records fails, and memory stays bounded."""
    with Server("--maxmemory", "40mb") as small:
        async with Engine.open(Settings(storage_url=small.url)) as engine:
            await engine.topics.create("flood", 2, {"retention.ms": "1500"})
        worker = await asyncio.to_thread(Process, "worker", "--storage", small.url, "--port", "0")
        try:
            throttled, failed, most = await asyncio.to_thread(flood, worker.address, small)
        finally:
            stop_all([worker])
    assert not failed
    assert throttled, "it was never told to slow down"
    assert most < 50_000_000


def flood(address: str, small: Server) -> tuple[list[float], list[str], int]:
    """200 MB as fast as possible: the pauses asked for in seconds, errors, and the most memory that was seen in use."""
    throttled: list[float] = []
    failed: list[str] = []
    producer = Producer(
        {"bootstrap.servers": address, "enable.idempotence": True, "message.timeout.ms": 60_000, "linger.ms": 5,
         "queue.buffering.max.kbytes": 8_192, "throttle_cb": lambda event: throttled.append(event.throttle_time)}
    )  # fmt: skip
    most = 0
    for number in range(10_000):
        while True:
            try:
                producer.produce(
                    "flood", os.urandom(20_000), on_delivery=lambda e, _: failed.append(str(e)) if e else None
                )
                break
            except BufferError:
                producer.poll(0.05)
        if number % 100 == 0:
            producer.poll(0)
            most = max(most, int(small.info("used_memory")))
    assert producer.flush(60) == 0
    return throttled, failed, most
