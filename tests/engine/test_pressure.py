"""Back-pressure against a server that really fills up."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from redbroker.config import Settings
from redbroker.engine import Engine
from redbroker.engine.log import Append, Appended, Read, ReadResult
from redbroker.engine.pressure import memory_share
from redbroker.engine.slots import key_slot
from redbroker.engine.topics import Topic
from redbroker.errors import ErrorCode, KafkaError
from redbroker.wire.records import Record, build_batch, read_header
from tests.support.clusters import a_cluster
from tests.support.servers import Server

pytestmark = pytest.mark.anyio

LIMIT = 24_000_000


@pytest.fixture
def full() -> Iterator[Server]:
    with Server("--maxmemory", str(LIMIT)) as server:
        yield server


@pytest.fixture
async def engine(full: Server) -> AsyncIterator[Engine]:
    settings = Settings(storage_url=full.url, num_partitions=1, memory_throttle_share=0.7, memory_refuse_share=0.9,
                        memory_check_ms=60_000, throttle_ms_max=500)  # fmt: skip
    async with Engine.open(settings) as engine:
        yield engine


async def put(engine: Engine, topic: Topic) -> Appended | KafkaError:
    batch = build_batch([Record(0, 1_000, b"k", bytes(100_000), [])])
    [answer] = await engine.log.append([Append(topic, 0, batch, read_header(batch))], acks=1, timeout_ms=1_000)
    return answer


async def test_producers_are_slowed_down_then_refused_and_free_again_after_a_trim(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    topic = await engine.topics.create("t", configs={"retention.ms": "-1"})
    key = engine.log.partitions.get(topic, 0).keys.log
    await engine.pressure.look()
    assert engine.pressure.calm
    assert engine.pressure.throttle_ms(key) == 0
    pauses = []
    for _ in range(400):
        answer = await put(engine, topic)
        if isinstance(answer, KafkaError):
            break
        await engine.pressure.look()
        pauses.append(engine.pressure.throttle_ms(key))
    assert isinstance(answer, KafkaError)
    assert answer.code is ErrorCode.KAFKA_STORAGE_ERROR
    assert answer.retriable
    assert "memory_refuse_share" in answer.message
    slowed = [pause for pause in pauses if pause]
    assert len(slowed) > 5
    assert slowed == sorted(slowed)
    assert slowed[-1] <= 500
    # Everything else goes on: reads, metadata, commits, and the trimming that makes room.
    [result] = await engine.log.read([Read(topic, 0, 0, 1_000)], max_bytes=1_000)
    assert isinstance(result, ReadResult)
    await engine.topics.configure("t", {"retention.ms": "1"})
    await engine.janitor.trim()
    await engine.pressure.look()
    assert engine.pressure.calm
    assert isinstance(await put(engine, topic), Appended)
    said = [record.getMessage() for record in caplog.records if "maxmemory" in record.getMessage()]
    assert [line.partition(": ")[2] for line in said] == [
        "producers are slowed down.", "records are refused.", "producers are free again."
    ]  # fmt: skip


async def test_nothing_is_compacted_without_room_for_the_second_copy(engine: Engine) -> None:
    topic = await engine.topics.create("t", configs={"cleanup.policy": "compact"})
    while not isinstance(await put(engine, topic), KafkaError):
        await engine.pressure.look()
    await engine.janitor.compact()
    assert engine.janitor.counts.leases_taken == 0


def test_memory_is_counted_as_redis_counts_it() -> None:
    assert memory_share(b"used_memory:90\r\nmaxmemory:100\r\nmem_not_counted_for_evict:10\r\n") == 0.8
    assert memory_share(b"used_memory:90\r\nmaxmemory:0\r\n") is None


async def test_a_master_that_is_away_hides_no_other_ones_memory_and_is_as_full_as_it_was() -> None:
    with a_cluster(3, 0, "--cluster-node-timeout", "60000") as cluster:
        settings = Settings(storage_url=cluster.url, storage_timeout_ms=1_000, memory_check_ms=60_000)
        async with Engine.open(settings) as engine:
            pressure = engine.pressure
            home = cluster.master_of(key_slot(b"rb:{meta}:workers"))
            away, other = (node for node in cluster.nodes if node is not home)
            away.command("CONFIG", "SET", "maxmemory", 1_000)
            await pressure.look()
            assert pressure.levels == {away.address: 2}
            other.command("CONFIG", "SET", "maxmemory", 1_000)
            away.stop()
            try:
                began_s = time.monotonic()
                await pressure.look()
                assert time.monotonic() - began_s < 0.5
                assert pressure.levels == {away.address: 2, other.address: 2}
                other.command("CONFIG", "SET", "maxmemory", 0)
                await pressure.look()
                assert pressure.levels == {away.address: 2}
            finally:
                away.cont()
