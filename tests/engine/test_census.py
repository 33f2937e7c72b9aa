"""How many copies acks=all waits for when replicas come and go: a worker that starts while one is away remembers it."""

from __future__ import annotations

import asyncio
import logging

import pytest

from redbroker.config import Settings
from redbroker.engine import Engine
from redbroker.engine.checks import inspect
from redbroker.engine.discovery import discover
from redbroker.engine.log import Append, Appended
from redbroker.engine.target import parse_target
from redbroker.errors import ErrorCode, KafkaError
from redbroker.wire.records import Record, build_batch, read_header
from tests.support.clusters import Cluster
from tests.support.servers import Server, started, wait_until

pytestmark = pytest.mark.anyio
REPLICAS = "rb:{meta}:replicas"


async def put(engine: Engine) -> Appended | KafkaError:
    topic = await engine.topics.ensure("orders")
    batch = build_batch([Record(0, 1000, b"k", b"v", [])])
    [answer] = await engine.log.append([Append(topic, 0, batch, read_header(batch))], acks=-1, timeout_ms=5_000)
    return answer


def connected(master: Server) -> bool:
    return "state=online" in master.info("slave0")


async def test_a_worker_that_starts_while_the_replica_is_away_does_not_take_one_copy_for_all() -> None:
    master = Server()
    replica = Server("--replicaof", f"127.0.0.1 {master.port}")
    with started([master, replica]):
        wait_until(lambda: connected(master), what="replica connects")
        settings = Settings(storage_url=master.url)
        async with Engine.open(settings) as engine:
            assert (engine.durability.copies(), engine.durability.source) == (2, "seen")
            assert isinstance(await put(engine), Appended)
        replica.kill()
        wait_until(lambda: not connected(master), what="replica is gone")
        async with Engine.open(settings) as engine:
            assert (engine.durability.copies(), engine.durability.known_from) == (2, "1 replica seen so far")
            assert "0 of 1 replicas are connected" in {finding.sentence for finding in engine.checks}
            refused = await put(engine)
            assert isinstance(refused, KafkaError)
            assert refused.code is ErrorCode.NOT_ENOUGH_REPLICAS
            assert master.command("XLEN", "rb:{orders:0}:log") == 1
            replica.start()
            wait_until(lambda: connected(master), what="replica connects")
            assert isinstance(await put(engine), Appended)
            assert replica.command("XLEN", "rb:{orders:0}:log") == 2
        replica.kill()
        wait_until(lambda: not connected(master), what="replica is gone")
        async with Engine.open(Settings(storage_url=master.url, replicas=0)) as engine:
            assert (engine.durability.copies(), engine.durability.source) == (1, "setting")
        assert master.command("HGET", REPLICAS, "most") == b"1"  # a setting of one process is nobody else's business
        master.command("DEL", REPLICAS)
        async with Engine.open(settings) as engine:
            assert engine.durability.copies() == 1
            assert isinstance(await put(engine), Appended)


async def test_a_replica_that_is_added_counts_for_all_workers(caplog: pytest.LogCaptureFixture) -> None:
    with Server() as master:
        settings = Settings(storage_url=master.url, metadata_refresh_ms=100)
        async with Engine.open(settings) as here, Engine.open(settings) as there:
            assert (here.durability.copies(), there.durability.copies()) == (1, 1)
            assert isinstance(await put(here), Appended)
            with caplog.at_level(logging.WARNING), Server("--replicaof", f"127.0.0.1 {master.port}") as replica:
                await asyncio.to_thread(wait_until, lambda: here.durability.copies() == there.durability.copies() == 2)
                assert "acks=all waits for 2 copies from now on" in caplog.text
                assert isinstance(await put(there), Appended)
                assert replica.command("XLEN", "rb:{orders:0}:log") == 2
            answer = await put(here)
            assert isinstance(answer, KafkaError)
            assert answer.code in (ErrorCode.NOT_ENOUGH_REPLICAS, ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND)


async def test_what_was_seen_is_kept_on_a_full_server_too() -> None:
    master = Server()
    with started([master, Server("--replicaof", f"127.0.0.1 {master.port}")]):
        wait_until(lambda: connected(master), what="replica connects")
        async with Engine.open(Settings(storage_url=master.url)) as engine:
            await engine.topics.ensure("orders")
        master.command("DEL", REPLICAS)
        master.command("CONFIG", "SET", "maxmemory", "1")
        async with Engine.open(Settings(storage_url=master.url)) as engine:
            assert engine.durability.copies() == 2
        assert master.command("HGET", REPLICAS, "most") == b"1"


async def test_a_cluster_that_forbids_cluster_shards_tells_by_cluster_nodes_and_else_only_what_it_sees(
    cluster: Cluster,
) -> None:
    target = parse_target(Settings(storage_url=cluster.url))
    try:
        for node in cluster.nodes:
            node.command("ACL", "SETUSER", "default", "-cluster|shards")
        cluster.replica_of(cluster.master_of(0)).kill()
        topology = await discover(target)
        assert (topology.knows_the_away, {master.replicas for master in topology.masters}) == (True, {1})
        for node in cluster.nodes:
            if node.process is not None and node.process.poll() is None:
                node.command("ACL", "SETUSER", "default", "-cluster|nodes")
        topology = await discover(target)
        assert not topology.knows_the_away
        async with Engine.open(Settings(storage_url=cluster.url)) as engine:
            assert engine.durability.source == "seen"
            assert any("CLUSTER SHARDS" in each.sentence for each in await inspect(engine.storage, engine.settings))
    finally:
        for node in cluster.nodes:
            if node.process is not None and node.process.poll() is None:
                node.command("ACL", "SETUSER", "default", "+cluster|shards", "+cluster|nodes")
        cluster.heal()
