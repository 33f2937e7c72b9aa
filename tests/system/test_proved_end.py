"""Nothing is deleted or compacted by records that replicas are not known to have: a failover may take those back."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from redbroker.config import Settings
from redbroker.engine import Engine
from redbroker.engine.log import Append, Appended
from redbroker.engine.topics import Topic
from redbroker.wire.records import Record, build_batch, read_header
from tests.support.servers import Server, redis_binary, started, valkey_binary, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.system]
OLD_MS = 3_600_000


@contextlib.asynccontextmanager
async def a_pair(kind: str) -> AsyncIterator[tuple[Engine, Server]]:
    """An engine over a master and its replica."""
    binary = valkey_binary() if kind == "valkey" else redis_binary()
    if binary is None:
        pytest.skip("no redis-server on this machine")
    master = Server(binary=binary)
    replica = Server("--replicaof", f"127.0.0.1 {master.port}", binary=binary)
    with started([master, replica]):
        wait_until(lambda: "state=online" in master.info("slave0"), what="replica connects")
        async with Engine.open(
            Settings(storage_url=master.url, num_partitions=1, compaction_dirty_bytes_min=1)
        ) as engine:
            assert engine.durability.copies_default == 2
            yield engine, replica


async def put(engine: Engine, topic: Topic, key: bytes, count: int, age_ms: int = 0) -> None:
    batch = build_batch([Record(0, int(time.time() * 1000) - age_ms, key, b"v" * 50, [])])
    for _ in range(count):
        [answer] = await engine.log.append([Append(topic, 0, batch, read_header(batch))], acks=1, timeout_ms=1_000)
        assert isinstance(answer, Appended)


async def in_step(engine: Engine, topic: Topic) -> None:
    partition = engine.log.partitions.get(topic, 0)
    ends = time.monotonic() + 20
    while not await engine.log.partitions.prove(partition):
        assert time.monotonic() < ends


@pytest.mark.parametrize("kind", ["valkey", "redis"])
async def test_old_records_that_no_replica_has_stay_until_one_has_them(kind: str) -> None:
    async with a_pair(kind) as (engine, replica):
        topic = await engine.topics.create("t", configs={"retention.ms": "60000"})
        await put(engine, topic, b"k", 70, OLD_MS)
        await engine.janitor.trim()  # nobody has read or asked for replicas: the janitor proves that they have it
        [found] = await engine.log.bounds([(topic, 0)])
        assert (found.log_start, found.next) == (70, 70)  # type: ignore[union-attr]
        replica.stop()
        try:
            await put(engine, topic, b"k", 70, OLD_MS)
            await engine.janitor.trim()
            state = engine.log.partitions.get(topic, 0).keys.state
            assert await engine.storage.call(state, "HMGET", state, "start", "next") == [b"70", b"140"]
        finally:
            replica.cont()
        await in_step(engine, topic)
        await engine.janitor.trim()
        [found] = await engine.log.bounds([(topic, 0)])
        assert (found.log_start, found.next) == (140, 140)  # type: ignore[union-attr]


async def test_a_record_that_no_replica_has_does_not_take_an_older_one_of_its_key_with_it() -> None:
    async with a_pair("valkey") as (engine, replica):
        topic = await engine.topics.create("t", configs={"cleanup.policy": "compact"})
        partition = engine.log.partitions.get(topic, 0)

        async def lasts() -> list[int]:
            entries = await engine.storage.call(partition.keys.log, "XRANGE", partition.keys.log, "-", "+")
            return [int(id_.partition(b"-")[2]) for id_, _ in entries]

        await put(engine, topic, b"a", 2)
        await put(engine, topic, b"b", 1)
        await in_step(engine, topic)
        replica.stop()
        try:
            await put(engine, topic, b"a", 3)
            assert await engine.janitor.compact_one(partition)
            assert await lasts() == [1, 2, 3, 4, 5]  # the newest of what the replica has stays
        finally:
            replica.cont()
        await in_step(engine, topic)
        assert await engine.janitor.compact_one(partition)
        assert await lasts() == [2, 4, 5]
