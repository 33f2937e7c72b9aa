"""acks=all: WAIT speaks for every script before it, and a silent replica holds nobody longer than asked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from redbroker.errors import ErrorCode, KafkaError
from tests.support.servers import Server, started, wait_until
from tests.support.storages import ONCE, Load, keys_of, opened

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Server, Server]]:
    """A master and its replica."""
    master = Server()
    replica = Server("--replicaof", f"127.0.0.1 {master.port}")
    with started([master, replica]):
        wait_until(lambda: "state=online" in master.info("slave0"), what="replica connects")
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
