"""acks=all: WAIT speaks for every script before it, and a silent replica holds nobody longer than asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from redbroker.config import Settings
from redbroker.engine import Engine
from redbroker.engine.acks import WAIT_SLICE_MS
from redbroker.engine.slots import SLOTS, key_slot
from redbroker.errors import ErrorCode, KafkaError
from tests.support.clusters import a_cluster
from tests.support.servers import Server, redis_binary, started, valkey_binary, wait_until
from tests.support.storages import ONCE, Load, keys_of, opened, until

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Server, Server]]:
    """A master and its replica."""
    master = Server()
    replica = Server("--replicaof", f"127.0.0.1 {master.port}")
    with started([master, replica]):
        wait_until(lambda: "state=online" in master.info("slave0"), what="replica connects")
        wait_until(lambda: master.commands(("SET", "step", "1"), ("WAIT", 1, 500))[-1] == 1, what="replica is in step")
        yield master, replica


async def test_a_write_counts_the_replicas_that_have_it(pair: tuple[Server, Server]) -> None:
    async with opened(pair[0].url) as storage:
        keys = keys_of("counted")
        assert storage.replicas == 1
        assert await storage.run_acked(ONCE, keys, [1, b""], replicas=1, timeout_ms=1000) == (1, 1)
        assert await storage.run_acked(ONCE, keys, [2, b""], replicas=0, timeout_ms=1000) == (2, 0)
        assert pair[1].command("HGET", keys[1], "last") == b"2"


async def test_a_silent_replica_is_not_counted_and_calls_end_at_their_own_time(pair: tuple[Server, Server]) -> None:
    master, replica = pair
    async with opened(master.url) as storage:
        loop = asyncio.get_running_loop()
        await storage.run_acked(ONCE, keys_of("warm"), [1, b""], replicas=1, timeout_ms=1000)
        replica.stop()
        try:
            start = loop.time()
            short = [storage.run_acked(ONCE, keys_of(f"a{i}"), [1, b""], replicas=1, timeout_ms=100) for i in range(9)]
            long = storage.run_acked(ONCE, keys_of("long"), [1, b""], replicas=1, timeout_ms=5000)
            assert await asyncio.gather(*short) == [(1, 0)] * 9
            assert 0.09 < loop.time() - start < 0.5
            # Others are not held up by the calls that still wait, nor by the replica.
            assert await storage.run(ONCE, keys_of("other"), [1, b""]) == 1
            refused = storage.run_acked(ONCE, keys_of("refused"), [5, b""], replicas=1, timeout_ms=5000)
            with pytest.raises(KafkaError) as failed:
                await refused
            assert failed.value.code is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
            assert not long.done()
        finally:
            replica.cont()
        assert await long == (1, 1)


async def test_many_acked_calls_share_few_waits(pair: tuple[Server, Server]) -> None:
    master, _ = pair
    async with opened(master.url) as storage:
        master.command("CONFIG", "RESETSTAT")
        async with Load(storage, [f"group{i}" for i in range(50)], replicas=1) as load:
            await load.goes_on(5000)
        await load.check()
        waits = int(master.info("cmdstat_wait").partition("calls=")[2].partition(",")[0])
        assert waits < load.total / 10
        assert load.errors == []


async def test_acked_writes_survive_a_lost_connection(pair: tuple[Server, Server]) -> None:
    master, _ = pair
    async with opened(master.url) as storage:
        async with Load(storage, [f"cut{i}" for i in range(5)], replicas=1) as load:
            for _ in range(5):
                await load.goes_on(100)
                await asyncio.to_thread(master.command, "CLIENT", "KILL", "TYPE", "normal")
        await load.check()
        assert load.errors == []


async def test_a_write_nobody_confirmed_comes_back_before_the_one_refused_behind_it() -> None:
    """A slot that moves without its data, as a failover by force makes it: both must reach the new master in order."""
    with a_cluster(2, 0) as cluster:
        keys = keys_of("ordered")
        slot = key_slot(keys[0])
        home = cluster.master_of(slot)
        other = next(node for node in cluster.nodes if node is not home)
        async with opened(cluster.url, storage_retry_ms=2_000) as storage:
            first = storage.run_acked(ONCE, keys, [1, b""], replicas=1, timeout_ms=3000)
            await until(lambda: home.command("EXISTS", keys[1]) == 1)
            await asyncio.sleep(2 * WAIT_SLICE_MS / 1000)  # executed, and its own WAIT is over
            home.command("DEL", *keys)
            node_id = other.command("CLUSTER", "MYID").decode()
            for node in (other, home):
                node.command("CLUSTER", "SETSLOT", slot, "NODE", node_id)
            second = storage.run_acked(ONCE, keys, [2, b""], replicas=1, timeout_ms=500)
            assert await second == (2, 0)
            assert await first == (1, 0)
        assert other.command("HGET", keys[1], "last") == b"2"
        assert other.command("HGET", keys[1], "duplicates") is None


@pytest.mark.parametrize("binary", [valkey_binary(), redis_binary()])
async def test_a_master_that_followed_another_while_nobody_looked_confirms_nothing_of_before(
    binary: str | None,
) -> None:
    """WAIT counts replicas of the history a node has now, and a worker that was paused does not see it change."""
    if binary is None:
        pytest.skip("no redis-server here")
    master, other = Server(binary=binary), Server(binary=binary)
    replica = Server("--replicaof", f"127.0.0.1 {master.port}", binary=binary)
    with started([master, replica, other]):
        wait_until(lambda: "state=online" in master.info("slave0"), what="replica connects")
        wait_until(lambda: master.commands(("SET", "step", "1"), ("WAIT", 1, 500))[-1] == 1, what="replica is in step")
        async with opened(master.url) as storage:
            log, state = keys = keys_of("twice")
            replica.stop()
            written = storage.run_acked(ONCE, keys, [1, b""], replicas=1, timeout_ms=30_000)
            await until(lambda: master.command("EXISTS", log) == 1)
            await asyncio.sleep(2 * WAIT_SLICE_MS / 1000)  # its own WAIT is over
            time.sleep(2 * WAIT_SLICE_MS / 1000)  # noqa: ASYNC251 - and every other, while this process does nothing
            replica.kill()
            master.command("REPLICAOF", "127.0.0.1", other.port)
            wait_until(lambda: master.info("master_link_status") == "up" and not master.command("EXISTS", log))
            master.command("REPLICAOF", "NO", "ONE")
            other.command("REPLICAOF", "127.0.0.1", master.port)
            wait_until(lambda: "state=online" in master.info("slave0"), what="the other follows")
            master.commands(*([("SET", "more", bytes(100_000))] * 20), ("WAIT", 1, 500))
            assert await written == (1, 1)
            assert (master.command("XLEN", log), other.command("XLEN", log)) == (1, 1)
            assert master.command("HGET", state, "duplicates") is None


@pytest.mark.parametrize("binary", [valkey_binary(), redis_binary()])
async def test_a_replica_that_is_away_at_the_start_is_waited_for_all_the_same(binary: str | None) -> None:
    """A worker that starts after a failover, before the old master is back, must not take acks=all for acks=1."""
    if binary is None:
        pytest.skip("no redis-server here")
    with a_cluster(3, 1, binary=binary) as cluster:
        old = cluster.master_of(0)
        new, witness = cluster.replica_of(old), cluster.master_of(SLOTS - 1)
        old.stop()
        try:
            new.command("CLUSTER", "FAILOVER", "TAKEOVER")
            alone = [new.port]

            def replaced() -> bool:
                flags = witness.command("CLUSTER", "NODES").decode()
                first = next(span for span in witness.command("CLUSTER", "SLOTS") if span[0] == 0)
                return [node[1] for node in first[2:]] == alone and "fail " in flags

            wait_until(replaced, 20, what="the old master fails and its replica is alone")
            async with Engine.open(Settings(storage_url=witness.url)) as engine:
                assert (engine.durability.copies_default, engine.durability.replicas_max) == (2, 1)
        finally:
            old.cont()
