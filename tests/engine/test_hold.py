"""Holds, on a real cluster: order and promises are kept while slots and masters move under load."""

from __future__ import annotations

import asyncio
import contextlib

import hiredis
import pytest

from redbroker.engine.slots import key_slot
from redbroker.errors import ErrorCode, KafkaError
from tests.support.clusters import Cluster
from tests.support.servers import Server
from tests.support.storages import ONCE, Load, keys_of, opened

pytestmark = pytest.mark.anyio

NAMES = [f"c{i}" for i in range(30)]


def slot_of(name: str) -> int:
    return key_slot(keys_of(name)[0])


def other_master(cluster: Cluster, slot: int) -> Server:
    owner = cluster.master_of(slot)
    others = [cluster.master_of(s) for s in (0, 8000, 16000)]
    return next(master for master in others if master is not owner)


async def test_calls_find_the_master_of_their_key(cluster: Cluster) -> None:
    async with opened(cluster.url) as storage:
        assert storage.cluster
        assert await asyncio.gather(*(storage.run(ONCE, keys_of(name), [1, b""]) for name in NAMES)) == [1] * 30
        for name in NAMES:
            log = keys_of(name)[0]
            assert storage.master_of(log) == ("127.0.0.1", cluster.master_of(key_slot(log)).port)
        sizes = await storage.on_masters("DBSIZE")
        assert len(sizes) == 3 and sum(size for _, size in sizes) == 60
        assert await storage.run_acked(ONCE, keys_of("c0"), [2, b""], replicas=1, timeout_ms=1000) == (2, 1)


async def test_a_graceful_failover_under_load_is_not_noticed_by_callers(cluster: Cluster) -> None:
    async with opened(cluster.url, storage_retry_ms=2000) as storage:
        async with Load(storage, NAMES) as calls, Load(storage, [f"acked{i}" for i in range(9)], replicas=1) as acked:
            await asyncio.to_thread(cluster.failover, slot_of("c1"))
            await calls.goes_on(1000)
            await acked.goes_on(300)
        assert calls.errors == [] and acked.errors == []
        await acked.check()


async def test_a_killed_master_under_load_loses_and_doubles_no_acknowledged_write(cluster: Cluster) -> None:
    async with opened(cluster.url) as storage:
        async with Load(storage, NAMES, replicas=1) as load:
            cluster.master_of(slot_of("c2")).kill()
            # Its replica, now master, has no replica: writes there are not acknowledged until the dead one is back.
            await asyncio.sleep(3)
            await asyncio.to_thread(cluster.heal)
            await load.goes_on(1000)
        await load.check()
        allowed = {ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.REQUEST_TIMED_OUT}
        assert {error.code for error in load.errors} <= allowed


async def test_a_stopped_master_is_left_for_its_successor_before_its_calls_time_out(cluster: Cluster) -> None:
    async with opened(cluster.url, storage_timeout_ms=8000) as storage:
        await storage.run(ONCE, keys_of("c3"), [1, b""])
        cluster.master_of(slot_of("c3")).stop()
        start = asyncio.get_running_loop().time()
        assert await storage.run(ONCE, keys_of("c3"), [2, b""]) == 2
        assert asyncio.get_running_loop().time() - start < 7


class Unsteady:
    """A server whose `bad` connections refuse script call 1 as LOADING, answer no other, and end;
    the others answer each script with its number, remembered in `executed`."""

    def __init__(self) -> None:
        self.connections = 0
        self.bad: set[int] = set()
        self.loading = False  # refuses every script
        self.executed: list[int] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        own, parser = self.connections, hiredis.Reader()
        with contextlib.suppress(ConnectionError), contextlib.closing(writer):
            while data := await reader.read(65_536):
                parser.feed(data)
                while words := parser.gets():
                    if words[0] == b"INFO":
                        writer.write(b"$32\r\ncluster_enabled:0\r\nrole:master\r\n\r\n")
                    elif words[0] != b"EVALSHA":
                        writer.write(b"" if own in self.bad else b"+OK\r\n")
                    elif self.loading:
                        writer.write(b"-LOADING data\r\n")
                    elif own not in self.bad:
                        self.executed.append(int(words[5]))
                        writer.write(b":%b\r\n" % words[5])
                    elif words[5] == b"1":
                        writer.write(b"-LOADING data\r\n")
                        await asyncio.sleep(0.05)
                        return


async def test_calls_of_a_connection_that_is_lost_behind_a_refused_one_keep_their_order() -> None:
    server = Unsteady()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with opened(f"redis://127.0.0.1:{port}") as storage:
        server.bad.add(server.connections)
        calls = [storage.run(ONCE, keys_of("unsteady"), [number, b""]) for number in (1, 2, 3)]
        await asyncio.sleep(0.02)
        calls += [storage.run(ONCE, keys_of("unsteady"), [number, b""]) for number in (4, 5)]
        assert await asyncio.gather(*calls) == [1, 2, 3, 4, 5]
    assert server.executed == [1, 2, 3, 4, 5]
    listening.close()


async def test_a_refused_call_that_is_given_up_takes_those_behind_it_along() -> None:
    server = Unsteady()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with opened(f"redis://127.0.0.1:{port}", storage_retry_ms=100) as storage:
        server.loading = True
        calls = [storage.run(ONCE, keys_of("loading"), [1, b""])]
        await asyncio.sleep(0.1)
        calls.append(storage.run(ONCE, keys_of("loading"), [2, b""]))
        while not calls[0].done():  # noqa: ASYNC110
            await asyncio.sleep(0)
        server.loading = False
        for call in calls:
            with pytest.raises(KafkaError) as failed:
                await call
            assert failed.value.code is ErrorCode.NOT_LEADER_OR_FOLLOWER
        assert await storage.run(ONCE, keys_of("loading"), [3, b""]) == 3
    assert server.executed == [3]
    listening.close()


async def test_slots_that_move_at_once_keep_every_producer_in_order(cluster: Cluster) -> None:
    async with opened(cluster.url, storage_retry_ms=2000) as storage:
        async with Load(storage, NAMES) as load:
            for name in NAMES[:3]:
                slot = slot_of(name)
                await asyncio.to_thread(cluster.migrate_atomically, slot, other_master(cluster, slot))
                await load.goes_on()
        await load.check()
        assert load.errors == []


async def test_slots_that_move_key_by_key_keep_every_producer_in_order(cluster: Cluster) -> None:
    async with opened(cluster.url, storage_retry_ms=2000) as storage:
        async with Load(storage, NAMES[::2]) as load, Load(storage, NAMES[1::2], replicas=1) as acked:
            for name in NAMES[:4]:
                slot = slot_of(name)
                for _ in cluster.migrate_key_by_key(slot, other_master(cluster, slot)):
                    await asyncio.sleep(0.05)
                await load.goes_on()
                await acked.goes_on()
        await load.check()
        await acked.check()
        assert load.errors == [] and acked.errors == []
    assert any(node.info("errorstat_ASK") for node in cluster.nodes), "no call met a half-moved slot"
