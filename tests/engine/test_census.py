"""How many copies acks=all waits for when replicas come and go: a worker that starts while one is away remembers it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

import pytest

from redbroker.config import Settings
from redbroker.engine import Engine
from redbroker.engine.census import Census
from redbroker.engine.checks import inspect
from redbroker.engine.discovery import discover
from redbroker.engine.durability import Durability
from redbroker.engine.keys import GroupKeys, MetaKeys, PartitionKeys
from redbroker.engine.log import Append, Appended
from redbroker.engine.offsets import Commit
from redbroker.engine.slots import SLOTS, Master, Topology, key_slot
from redbroker.engine.target import Address, parse_target
from redbroker.errors import ErrorCode, KafkaError
from redbroker.types import TopicPartition
from redbroker.wire.records import Record, build_batch, read_header
from tests.support.clusters import Cluster, a_cluster, a_sentinel
from tests.support.servers import Server, redis_binary, started, valkey_binary, wait_until
from tests.support.storages import until

pytestmark = pytest.mark.anyio
REPLICAS = "rb:{meta}:replicas"
BINARIES = pytest.mark.parametrize(
    "binary",
    [valkey_binary(), pytest.param(redis_binary(), marks=pytest.mark.skipif(not redis_binary(), reason="no Redis"))],
)
TOO_FEW = (ErrorCode.NOT_ENOUGH_REPLICAS, ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND)


async def put(engine: Engine, partition: int = 0, timeout_ms: int = 5_000) -> Appended | KafkaError:
    topic = await engine.topics.ensure("orders")
    batch = build_batch([Record(0, 1000, b"k", b"v", [])])
    append = Append(topic, partition, batch, read_header(batch))
    [answer] = await engine.log.append([append], acks=-1, timeout_ms=timeout_ms)
    return answer


async def refused(engine: Engine, partition: int = 0) -> bool:
    """Whether too few copies have a batch, for a moment."""
    answer = await put(engine, partition, timeout_ms=300)
    assert isinstance(answer, Appended) or answer.code in TOO_FEW, answer
    return isinstance(answer, KafkaError)


async def accepted(engine: Engine, partition: int = 0) -> None:
    """Return when a batch is acknowledged."""
    async with asyncio.timeout(20):
        while await refused(engine, partition):
            pass


def slot_of(partition: int) -> int:
    return key_slot(PartitionKeys("rb", TopicPartition("orders", partition)).log)


def connected(master: Server) -> bool:
    return "state=online" in master.info("slave0")


async def test_a_worker_that_starts_while_the_replica_is_away_does_not_take_one_copy_for_all() -> None:
    master = Server()
    replica = Server("--replicaof", f"127.0.0.1 {master.port}")
    with started([master, replica]):
        wait_until(lambda: connected(master), what="replica connects")
        settings = Settings(storage_url=master.url)
        async with Engine.open(settings) as engine:
            assert (engine.durability.copies_default, engine.durability.source) == (2, "seen")
            assert isinstance(await put(engine), Appended)
        replica.kill()
        wait_until(lambda: not connected(master), what="replica is gone")
        async with Engine.open(settings) as engine:
            assert (engine.durability.copies_default, engine.durability.known_from) == (2, "1 replica seen so far")
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
            assert (engine.durability.copies_default, engine.durability.source) == (1, "setting")
        assert master.command("HGET", REPLICAS, "most") == b"1"  # a setting of one process is nobody else's business
        master.command("DEL", REPLICAS)
        async with Engine.open(settings) as engine:
            assert engine.durability.copies_default == 1
            assert isinstance(await put(engine), Appended)


async def test_a_replica_that_is_added_counts_for_all_workers(caplog: pytest.LogCaptureFixture) -> None:
    with Server() as master:
        settings = Settings(storage_url=master.url, metadata_refresh_ms=100)
        async with Engine.open(settings) as here, Engine.open(settings) as there:
            assert (here.durability.copies_default, there.durability.copies_default) == (1, 1)
            assert isinstance(await put(here), Appended)
            with caplog.at_level(logging.WARNING), Server("--replicaof", f"127.0.0.1 {master.port}") as replica:
                await asyncio.to_thread(
                    wait_until, lambda: here.durability.copies_default == there.durability.copies_default == 2
                )
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
            assert engine.durability.copies_default == 2
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


# --- followed live ----------------------------------------------------------------------------------------------


@BINARIES
async def test_a_replica_that_one_master_got_is_waited_for_by_its_partitions_once_it_has_its_copy(
    binary: str, caplog: pytest.LogCaptureFixture
) -> None:
    with a_cluster(3, 1, binary=binary) as cluster:
        rich, poor = cluster.master_of(0), cluster.master_of(SLOTS - 1)
        first_slots = range(SLOTS // 3)
        here = next(n for n in range(100) if slot_of(n) in first_slots)
        there = next(n for n in range(100) if slot_of(n) not in first_slots)
        g_here = next(f"g{n}" for n in range(100) if key_slot(GroupKeys("rb", f"g{n}").state) in first_slots)
        g_there = next(f"g{n}" for n in range(100) if key_slot(GroupKeys("rb", f"g{n}").state) not in first_slots)
        settings = Settings(storage_url=cluster.url, metadata_refresh_ms=100, storage_timeout_ms=1_000)
        async with Engine.open(settings) as engine:
            topic = await engine.topics.create("orders", 1 + max(here, there))
            durability = engine.durability
            assert str(durability) == "2 copies (1 replica by the cluster)"
            await asyncio.gather(accepted(engine, here), accepted(engine, there))
            rich.commands(*(("SET", f"{{orders:{here}}}:{n}", "x") for n in range(100)))
            rich.command("CONFIG", "SET", "rdb-key-save-delay", "20000")  # its copy takes two seconds and more
            second = await asyncio.to_thread(cluster.add_replica, rich)
            copying = 0
            async with asyncio.timeout(20):
                while durability.copies(topic, slot_of(here)) == 2:
                    copying += second.info("master_link_status") == "down"
                    assert isinstance(await put(engine, here), Appended)
            assert second.info("master_link_status") == "up"
            assert copying > 10
            assert (durability.copies(topic, slot_of(here)), durability.copies(topic, slot_of(there))) == (3, 2)
            assert str(durability) == "2 to 3 copies (1 to 2 replicas by the cluster)"
            assert f"{rich.address} got a replica: acks=all waits for 3 copies from now on" in caplog.text
            await asyncio.gather(accepted(engine, here), accepted(engine, there))
            log = PartitionKeys("rb", TopicPartition("orders", here)).log
            assert second.commands(("READONLY",), ("XLEN", log))[-1] == rich.command("XLEN", log)
            found = await inspect(engine.storage, settings, durability)
            assert not [each for each in found if "replicas are connected" in each.sentence]

            for _ in cluster.migrate_key_by_key(slot_of(here), poor):
                pass
            await until(lambda: durability.copies(topic, slot_of(here)) == 2)
            second.stop()
            await accepted(engine, here)
            second.cont()
            for _ in cluster.migrate_key_by_key(slot_of(here), rich):
                pass
            await until(lambda: durability.copies(topic, slot_of(here)) == 3)

            second.stop()
            assert await refused(engine, here)
            assert not await refused(engine, there)
            await engine.offsets.commit(g_there, [Commit("orders", 0, 1)])
            with pytest.raises(KafkaError, match="1 of 2 replicas have it"):
                await engine.offsets.commit(g_here, [Commit("orders", 0, 1)])
            second.cont()
            await accepted(engine, here)


@BINARIES
async def test_nothing_that_dies_lowers_what_is_waited_for(binary: str) -> None:
    with a_cluster(3, 1, binary=binary) as cluster:
        master, witness = cluster.master_of(0), cluster.master_of(SLOTS - 1)
        second = cluster.add_replica(master)
        wait_until(lambda: second.info("master_link_status") == "up", what="the replica has its copy")
        here = next(n for n in range(100) if slot_of(n) < SLOTS // 3)
        async with Engine.open(Settings(storage_url=cluster.url, metadata_refresh_ms=100)) as engine:
            await engine.topics.create("orders", 1 + here)
            await until(lambda: engine.durability.copies(None, 0) == 3)
            counts = set()
            engine.storage.on_refresh(lambda _: counts.add(engine.durability.copies(None, 0)))

            def dead(node: Server) -> bool:
                nodes = witness.command("CLUSTER", "NODES").decode().splitlines()
                return any(node.address in line and "fail" in line.split(" ")[2].split(",") for line in nodes)

            await accepted(engine, here)
            second.kill()
            await until(lambda: dead(second), 15)
            assert await refused(engine, here)
            second.start()
            await accepted(engine, here)
            master.kill()
            await until(lambda: dead(master), 15)
            await until(lambda: all(each.address.port != master.port for each in engine.storage.topology.masters), 15)
            assert await refused(engine, here)
            async with Engine.open(Settings(storage_url=cluster.url)) as late:
                # Redis 7.0 does not tell whom the old master will follow, and each of the others has one replica, too.
                assert late.durability.copies(None, 0) == (3 if binary == valkey_binary() else 2)
            master.start()
            await accepted(engine, here)
            assert (counts, engine.durability.replicas_min) == ({3}, 1)


async def test_a_replica_that_is_added_under_sentinel_is_waited_for() -> None:
    with a_sentinel() as servers:
        async with Engine.open(Settings(storage_url=servers.url, metadata_refresh_ms=100)) as engine:
            assert str(engine.durability) == "2 copies (1 replica by Sentinel)"
            await accepted(engine)
            servers.master.commands(*(("SET", f"k{n}", "x") for n in range(5_000)))
            slow = ("--key-load-delay", "200", "--loading-process-events-interval-bytes", "1024")
            with Server("--replicaof", f"127.0.0.1 {servers.master.port}", *slow) as second:
                copying = 0
                async with asyncio.timeout(20):
                    while engine.durability.copies_default == 2:
                        copying += second.info("master_link_status") == "down"
                        assert isinstance(await put(engine), Appended)
                assert second.info("master_link_status") == "up"
                assert copying > 10
                await accepted(engine)
                second.stop()
                assert await refused(engine)
                second.cont()
                await accepted(engine)
            assert await refused(engine)
            servers.master.kill()
            await until(lambda: engine.storage.masters[0].port == servers.replica.port, 15)
            assert str(engine.durability) == "3 copies (2 replicas by Sentinel)"
            assert await refused(engine)


# --- what counts of a view ----------------------------------------------------------------------------------------


class Views:
    """A census that is shown views, `a bc` being a master and its replicas, `a b c~` with one that copies."""

    def __init__(self) -> None:
        self.durability = Durability(Settings(), 0, "cluster")
        self._census = Census(cast(Any, None), MetaKeys("rb"), Settings(), self.durability)

    def see(self, *shards: str, lost: str = "") -> list[int]:
        """How many replicas are counted of each master."""
        masters = []
        for number, shard in enumerate(shards):
            nodes = tuple(shard.replace("~", "").replace(" ", ""))
            spans = ((number * 100, number * 100 + 99),)
            masters.append(Master(Address("h", number), spans, len(nodes) - 1, shard.count("~"), nodes))
        self._census.count(Topology(True, tuple(masters), lost=tuple(lost)))
        return [self.durability.replicas(number * 100) for number in range(len(shards))]


def test_a_count_rises_when_a_replica_has_its_copy_and_goes_with_the_master_through_a_failover() -> None:
    views = Views()
    assert views.see("a b", "d e", "f gh") == [1, 1, 2]
    assert views.see("a bc~", "d e", "f gh") == [1, 1, 2]
    assert views.see("a bc", "d e", "f gh") == [2, 1, 2]
    assert views.see("b c", "d e", "f h", lost="ag") == [2, 1, 2]  # as Redis 7.0 tells it
    assert views.see("b", "e d", "f") == [2, 1, 2]
    assert views.see("b ac", "e d", "f gh") == [2, 1, 2]
    assert views.see("c ab", "e d", "f gh") == [2, 1, 2]


def test_a_replica_that_moves_raises_its_new_master_and_takes_no_count_with_it() -> None:
    views = Views()
    assert views.see("a bcd", "e f") == [3, 1]
    assert views.see("a bc", "e fd") == [3, 2]
    assert views.see("a bc", "d ef") == [3, 2]
    assert Views().see("a bc", "d ef") == [2, 2]  # a process that starts now


def test_of_a_master_seen_for_the_first_time_all_replicas_count() -> None:
    views = Views()
    assert views.see("a b~") == [1]
    assert views.see("a b", "c d~") == [1, 1]


def test_masters_lost_before_the_start_count_where_replicas_are_fewest() -> None:
    assert Views().see("a", "c d", "e f", lost="b") == [1, 1, 1]
    assert Views().see("a b", "c d", "e f", lost="ghi") == [2, 2, 2]
    assert Views().see("a b", "c d", "e f", lost="g") == [1, 1, 1]  # nobody can tell whose it was
    assert Views().see("a bc", "d", "e f", lost="gh") == [2, 1, 1]
    assert Views().see("a", lost="b") == [1]
    views = Views()
    assert views.see("a b", "c") == [1, 0]
    assert views.see("a b", "c", lost="d") == [1, 0]  # a new master that died before it had slots
