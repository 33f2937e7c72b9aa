"""The engine as a whole: opening, closing, and what several processes over one storage see of each other."""

from __future__ import annotations

import base64
import os
import re
import signal
import time
from typing import Any

import anyio
import pytest

from redbroker.config import Settings
from redbroker.engine import Engine, new_cluster_id
from redbroker.engine.log import Append, Read
from redbroker.engine.target import StorageError
from redbroker.errors import ErrorCode, KafkaError
from redbroker.wire.records import Record, build_batch, read_header
from tests.support.servers import Server, redis_binary, valkey_binary

pytestmark = pytest.mark.anyio


async def until(condition: Any) -> None:
    with anyio.fail_after(5):
        while True:
            if condition():
                return
            await anyio.sleep(0.005)


async def test_one_cluster_id_is_made_and_kept(valkey):
    settings = Settings(storage_url=valkey.unix_url)
    async with Engine.open(settings) as one, Engine.open(settings) as two:
        assert one.cluster_id == two.cluster_id
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{21}", one.cluster_id)
    async with Engine.open(Settings(storage_url=valkey.unix_url, cluster_id="mine")) as named:
        assert named.cluster_id == "mine"


async def test_topics_and_workers_of_another_process_are_heard_of_at_once(valkey):
    settings = Settings(storage_url=valkey.unix_url, metadata_refresh_ms=60_000, worker_heartbeat_ms=60_000)
    async with Engine.open(settings) as one, Engine.open(settings) as two:
        await one.workers.register("h", 1)
        topic = await one.topics.create("orders")
        await until(lambda: two.topics.get("orders") == topic)
        await two.workers.register("h", 2)
        await until(lambda: len(one.workers.live()) == 2)
        await two.workers.deregister()
        await until(lambda: len(one.workers.live()) == 1)
        await two.topics.delete("orders")
        await until(lambda: one.topics.get("orders") is None)


async def test_a_created_topics_partitions_are_open_and_a_deleted_ones_gone(valkey):
    async with Engine.open(Settings(storage_url=valkey.unix_url)) as engine:
        topic = await engine.topics.create("orders", 3)
        assert valkey.command("EXISTS", *(f"rb:{{orders:{n}}}:state" for n in range(3))) == 3
        assert [bounds.next for bounds in await engine.log.bounds([(topic, n) for n in range(3)])] == [0, 0, 0]
        await engine.topics.delete("orders")
        [gone] = await engine.log.bounds([(topic, 0)])
        assert isinstance(gone, KafkaError)


@pytest.mark.skipif(redis_binary() is None, reason="no redis-server on this machine")
async def test_redis_7_runs_every_script_of_topics_and_workers(redis7):
    async with Engine.open(Settings(storage_url=redis7.unix_url)) as engine:
        await engine.workers.register("h", 1)
        await engine.workers.refresh()
        await engine.topics.create("a.b", 2, {"retention.ms": "5"})
        await engine.topics.grow("a.b", 3)
        topic = await engine.topics.configure("a.b", {"retention.ms": "6"})
        assert (topic.partitions, topic.retention_ms) == (3, 6)
        await engine.topics.configure_broker({"log.retention.ms": "7"})
        await engine.topics.delete("a.b")
        await engine.workers.deregister()
        assert redis7.command("KEYS", "rb:{meta}:*") != []


async def test_a_cluster_spreads_partitions_and_keeps_metadata_together(cluster):
    settings = Settings(storage_url=cluster.url)
    async with Engine.open(settings) as one, Engine.open(settings) as two:
        assert one.durability.copies_default == 2  # a master and its replica
        await one.workers.register("h", 1)
        topic = await one.topics.create("orders", 12)
        await until(lambda: two.topics.get("orders") == topic)
        await until(lambda: len(two.workers.live()) == 1)
        keys = [f"rb:{{orders:{n}}}:state".encode() for n in range(12)]
        assert [await one.storage.call(key, "EXISTS", key) for key in keys] == [1] * 12
        assert len({one.storage.master_of(key) for key in keys}) == 3
        await two.topics.delete("orders")
        assert [await one.storage.call(key, "HLEN", key) for key in keys] == [1] * 12  # the marker of the deletion
        await one.workers.deregister()


async def test_producer_ids_grow_and_fit_63_bits(valkey):
    async with Engine.open(Settings(storage_url=valkey.unix_url)) as engine:
        ids = [engine.new_producer_id() for _ in range(1_000)]
    assert ids == sorted(set(ids))
    assert 0 < ids[0] < 2**63
    assert all(producer_id >> 62 in (0, 1) for producer_id in ids)


async def test_an_embedded_engine_keeps_its_data_and_leaves_nothing_running(tmp_path):
    settings = Settings(storage_url=f"embedded:{tmp_path / 'data'}")
    async with Engine.open(settings) as engine:
        topic = await engine.topics.create("orders")
        cluster_id = engine.cluster_id
        assert engine.checks == []
    assert not (tmp_path / "data" / "valkey.sock").exists()
    async with Engine.open(settings) as engine, Engine.open(settings) as other:
        assert engine.topics.get("orders") == other.topics.get("orders") == topic
        assert engine.cluster_id == cluster_id
    assert not (tmp_path / "data" / "valkey.sock").exists()


async def test_a_cancelled_engine_stops_its_server_too(tmp_path):
    settings = Settings(storage_url=f"embedded:{tmp_path / 'data'}")
    with anyio.CancelScope() as scope:
        async with Engine.open(settings):
            scope.cancel()
            await anyio.sleep(1)
    assert not (tmp_path / "data" / "valkey.sock").exists()


async def test_an_embedded_engine_outlives_the_death_of_its_server(tmp_path):
    settings = Settings(storage_url=f"embedded:{tmp_path / 'data'}", storage_retry_ms=5_000)
    async with Engine.open(settings) as engine:
        await engine.topics.create("before")
        pid = int(re.search(rb"process_id:(\d+)", (await engine.storage.on_masters("INFO", "server"))[0][1])[1])
        await engine.storage.on_masters("CONFIG", "SET", "appendfsync", "always")
        os.kill(pid, signal.SIGKILL)
        topic = await engine.topics.create("after")
        await engine.topics.reload()
        assert set(engine.topics.all()) == {"before", "after"}
        assert engine.topics.get("after") == topic


async def test_a_risky_server_is_told_of_and_refused_when_strict(valkey):
    with Server("--maxmemory-policy", "allkeys-lru", "--appendonly", "yes") as server:
        async with Engine.open(Settings(storage_url=server.url)) as engine:
            assert [finding.sentence for finding in engine.checks] == ["maxmemory-policy is allkeys-lru"]
        with pytest.raises(StorageError, match="strict is set"):
            async with Engine.open(Settings(storage_url=server.url, strict=True)):
                pass


@pytest.mark.parametrize("binary", [valkey_binary(), redis_binary()], ids=["valkey", "redis 7"])
async def test_a_full_server_is_joined_read_after_a_failover_and_trimmed(binary):
    if binary is None:
        pytest.skip("no redis-server on this machine")

    async def put(size):
        batch = build_batch([Record(0, 1, b"k", bytes(size))])
        return (await engine.log.append([Append(topic, 0, batch, read_header(batch))], acks=1, timeout_ms=1000))[0]

    with Server(binary=binary) as server:
        settings = Settings(storage_url=server.url, num_partitions=1)
        async with Engine.open(settings) as engine:
            topic = await engine.topics.create("orders")
            for offset in range(20):
                assert (await put(500_000)).base_offset == offset
        server.command("HSET", "rb:{orders:0}:state", "rid", "0" * 40)  # as if another master had written
        server.command("CONFIG", "SET", "maxmemory", 9_000_000)
        async with Engine.open(settings) as engine:
            await engine.workers.register("127.0.0.1", 9092)
            assert (await put(1)).code == ErrorCode.KAFKA_STORAGE_ERROR
            [read] = await engine.log.read([Read(topic, 0, 7, 1000)], max_bytes=1000)
            assert read.leader_epoch > 1 and len(read.batches) == 1
            assert (await put(1)).code == ErrorCode.KAFKA_STORAGE_ERROR
            await engine.topics.configure("orders", {"retention.ms": "1000"})
            assert await engine.log.trim([(topic, 0, 10)]) == [10]
            await engine.pressure.look()  # it has room again
            assert await put(1) == (20, 10, read.leader_epoch, False)
            await engine.workers.refresh()
            assert [worker.port for worker in engine.workers.live()] == [9092]


async def test_opening_is_quick(tmp_path):
    async with Engine.open(Settings(storage_url=f"embedded:{tmp_path / 'data'}")):
        pass  # everything is imported now
    started = time.perf_counter()
    async with Engine.open(Settings(storage_url=f"embedded:{tmp_path / 'data'}")):
        assert time.perf_counter() - started < 2  # about 0.06 s; the machine may be busy


def test_a_cluster_id_is_kafkas_22_characters():
    made = {new_cluster_id() for _ in range(200)}
    assert len(made) == 200
    assert all(len(base64.urlsafe_b64decode(each + "==")) == 16 and each[0] != "-" for each in made)
