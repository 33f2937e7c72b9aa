"""The janitor: who looks after which partitions, and when one is dirty enough."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from redbroker.config import Settings
from redbroker.engine import Engine
from redbroker.engine.log import Append
from redbroker.engine.slots import key_slot
from redbroker.engine.topics import Topic
from redbroker.wire.records import Record, build_batch, read_header
from tests.support.clusters import a_cluster

pytestmark = pytest.mark.anyio


async def put(engine: Engine, topic: Topic, count: int, partition: int = 0) -> None:
    now = int(time.time() * 1000)
    batches = [build_batch([Record(0, now, b"%d" % (number % 10), bytes(100), [])]) for number in range(count)]
    entries = [Append(topic, partition, batch, read_header(batch)) for batch in batches]
    await engine.log.append(entries, acks=1, timeout_ms=1_000)


async def entries(engine: Engine, topic: Topic, partition: int = 0) -> int:
    key = engine.log.partitions.get(topic, partition).keys.log
    return int(await engine.storage.call(key, "XLEN", key))


async def test_it_trims_and_compacts_by_itself(valkey: Any) -> None:
    settings = Settings(storage_url=valkey.url, retention_check_ms=20, compaction_check_ms=20,
                        compaction_dirty_bytes_min=0, num_partitions=1)  # fmt: skip
    async with Engine.open(settings) as engine:
        short = await engine.topics.create("short", configs={"retention.ms": "1"})
        compacted = await engine.topics.create("compacted", configs={"cleanup.policy": "compact"})
        await put(engine, short, 20)
        await put(engine, compacted, 200)
        async with asyncio.timeout(15):
            while await entries(engine, short) or await entries(engine, compacted) > 11:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert engine.janitor.counts.compactions >= 1


async def test_workers_share_the_partitions_and_one_takes_over(valkey: Any) -> None:
    settings = Settings(storage_url=valkey.url, num_partitions=16)
    async with Engine.open(settings) as one, Engine.open(settings) as two, Engine.open(settings) as bystander:
        await one.topics.create("t")
        assert len(list(one.janitor.ours())) == 16, "where no worker lives, everybody looks after all"
        await one.workers.register("127.0.0.1", 1)
        await two.workers.register("127.0.0.1", 2)
        for engine in (one, two, bystander):
            await engine.topics.reload()
            await engine.workers.refresh()
        shares = [{str(each.name) for each in engine.janitor.ours()} for engine in (one, two)]
        assert len(shares[0] | shares[1]) == 16
        assert not shares[0] & shares[1]
        assert not list(bystander.janitor.ours())
        await two.workers.deregister()
        await one.workers.refresh()
        assert len(list(one.janitor.ours())) == 16


async def test_a_partition_is_dirty_by_its_ratio_by_its_age_and_never_by_its_last_batch(valkey: Any) -> None:
    async with Engine.open(Settings(storage_url=valkey.url, num_partitions=1, compaction_dirty_bytes_min=0)) as engine:
        topic = await engine.topics.create("t", configs={"cleanup.policy": "compact"})
        partition = engine.log.partitions.get(topic, 0)
        assert await engine.janitor.dirtiness(partition) is None
        await put(engine, topic, 1)
        assert await engine.janitor.dirtiness(partition) is None, "the last batch alone"
        await put(engine, topic, 100)
        assert await engine.janitor.dirtiness(partition) == 1
        await engine.janitor.compact()
        assert await entries(engine, topic) == 11
        assert await engine.janitor.dirtiness(partition) is None
        await put(engine, topic, 5)
        assert await engine.janitor.dirtiness(partition) is None, "a third of it is dirty"
        await engine.topics.configure("t", {"min.cleanable.dirty.ratio": "0.1"})
        list(engine.janitor.ours())
        assert await engine.janitor.dirtiness(partition) is not None
        await engine.topics.configure("t", {"min.cleanable.dirty.ratio": "1", "max.compaction.lag.ms": "1"})
        list(engine.janitor.ours())
        assert await engine.janitor.dirtiness(partition) is not None, "it waits for longer than max.compaction.lag.ms"


async def test_what_a_killed_one_left_is_removed(valkey: Any) -> None:
    async with Engine.open(Settings(storage_url=valkey.url, num_partitions=1)) as engine:
        topic = await engine.topics.create("t", configs={"cleanup.policy": "compact"})
        await put(engine, topic, 3)
        keys = engine.log.partitions.get(topic, 0).keys
        await engine.storage.call(keys.compacted, "XADD", keys.compacted, "1-1", "b", "x")
        await engine.topics.configure("t", {"cleanup.policy": "delete"})
        await engine.janitor.trim()
        assert not await engine.storage.call(keys.log, "EXISTS", keys.compacted, keys.janitor)
        await engine.storage.call(keys.compacted, "XADD", keys.compacted, "1-1", "b", "x")
        await engine.topics.delete("t")
        assert not await engine.storage.call(keys.log, "EXISTS", keys.compacted)


async def test_memory_of_a_topic_is_told(valkey: Any) -> None:
    async with Engine.open(Settings(storage_url=valkey.url, num_partitions=2)) as engine:
        topic = await engine.topics.create("t")
        await put(engine, topic, 1_000)
        full, empty = await engine.log.memory(topic)
        assert full > 150_000 > 10_000 > empty > 0


async def test_a_silent_master_keeps_it_from_no_other_ones_partitions() -> None:
    with a_cluster(3, 0, "--cluster-node-timeout", "60000") as cluster:
        settings = Settings(storage_url=cluster.url, storage_timeout_ms=1_000, compaction_dirty_bytes_min=0,
                            compaction_check_ms=3_600_000)  # fmt: skip
        async with Engine.open(settings) as engine:
            topic = await engine.topics.create("compacted", 24, {"cleanup.policy": "compact"})
            for number in range(24):
                await put(engine, topic, 200, number)
            home = cluster.master_of(key_slot(b"rb:{meta}:workers"))
            silent = next(node for node in cluster.nodes if node is not home)
            places = [engine.log.partitions.get(topic, number) for number in range(24)]
            served = [at for at, each in enumerate(places) if cluster.master_of(each.slot) is not silent]
            assert 0 < len(served) < 24
            silent.stop()
            try:
                async with asyncio.timeout(3):
                    await engine.janitor.compact()
                assert all([await entries(engine, topic, number) < 200 for number in served])
            finally:
                silent.cont()
