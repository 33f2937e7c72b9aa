"""Tail against real servers: waiters wake by announcements, and look again whenever some may have been missed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping

import pytest

from redbroker.config import Settings
from redbroker.engine.connection import Storage
from redbroker.engine.slots import key_slot
from redbroker.engine.subscriber import Subscriber
from redbroker.engine.tail import Tail
from redbroker.engine.target import Access, Address
from redbroker.errors import KafkaError
from tests.support.clusters import Cluster
from tests.support.servers import Server
from tests.support.storages import opened, until

pytestmark = pytest.mark.anyio

ONE, TWO = b"rb:{one:0}:tail", b"rb:{two:0}:tail"


@contextlib.asynccontextmanager
async def a_tail(url: str, **settings: object) -> AsyncIterator[tuple[Storage, Tail]]:
    async with opened(url) as storage:
        tail = Tail(storage, Settings(**settings))  # type: ignore[arg-type]
        try:
            yield storage, tail
        finally:
            await tail.close()


async def settled(tail: Tail, *channels: bytes) -> None:
    """Wait until the subscriptions work: each confirmation wakes once."""
    for channel in channels:
        assert await tail.wait({channel: 0}, 1_000_000, 5)


async def announce(storage: Storage, channel: bytes, written: int) -> None:
    await storage.call(channel, "SPUBLISH", channel, f"1 {written}")


def waiting(tail: Tail, known: Mapping[bytes, int], missing: int, timeout_s: float = 5) -> asyncio.Task[bool]:
    return asyncio.create_task(tail.wait(known, missing, timeout_s))


async def test_a_waiter_wakes_when_enough_bytes_were_announced_over_all_its_channels(valkey: Server) -> None:
    async with a_tail(valkey.url) as (storage, tail):
        await settled(tail, ONE, TWO)
        wait = waiting(tail, {ONE: 100, TWO: 50}, 30)
        await asyncio.sleep(0)
        await announce(storage, ONE, 110)
        await announce(storage, TWO, 69)
        await asyncio.sleep(0.05)
        assert not wait.done()
        await announce(storage, TWO, 70)
        assert await wait is True


async def test_a_waiter_gives_up_at_its_time_out(valkey: Server) -> None:
    async with a_tail(valkey.url) as (_, tail):
        await settled(tail, ONE)
        start = time.monotonic()
        assert await tail.wait({ONE: 0}, 1, 0.1) is False
        assert 0.08 < time.monotonic() - start < 0.5


async def test_the_late_answer_of_an_append_does_not_hide_a_later_announcement(valkey: Server) -> None:
    async with a_tail(valkey.url) as (storage, tail):
        await settled(tail, ONE)
        other = waiting(tail, {ONE: 0}, 20)
        await asyncio.sleep(0)
        await storage.call(ONE, "SPUBLISH", ONE, "2 20")
        assert await other
        tail.announce(ONE, 1, 10)
        assert tail.end(ONE) == 2
        assert await tail.wait({ONE: 10}, 1, 0.1) is True


async def test_an_announcement_between_read_and_wait_is_not_missed(valkey: Server) -> None:
    async with a_tail(valkey.url) as (storage, tail):
        await settled(tail, ONE)
        other = waiting(tail, {ONE: 0}, 1)
        await asyncio.sleep(0)
        await announce(storage, ONE, 10)
        assert await other
        assert await tail.wait({ONE: 0}, 10, 0.1) is True
        assert await tail.wait({ONE: 10}, 1, 0.1) is False


async def test_the_same_workers_append_wakes_without_redis(valkey: Server) -> None:
    async with a_tail(valkey.url) as (_, tail):
        await settled(tail, ONE)
        wait = waiting(tail, {ONE: 5}, 1)
        await asyncio.sleep(0)
        tail.announce(ONE, 1, 6)
        tail.announce(b"nobody waits here", 1, 6)
        assert wait.done() is False and await wait is True


async def test_a_groups_announcement_of_phase_and_version_wakes_who_is_parked(valkey: Server) -> None:
    async with a_tail(valkey.url) as (storage, tail):
        wake = b"rb:{g:orders}:wake"
        await settled(tail, wake)
        before = 1_763_800_000_000_000  # versions are the server's microseconds
        parked = [waiting(tail, {wake: before}, 1) for _ in range(3)]
        later = waiting(tail, {wake: before + 5}, 1)
        await asyncio.sleep(0)
        await storage.call(wake, "SPUBLISH", wake, f"CompletingRebalance {before + 5}")
        assert await asyncio.gather(*parked) == [True, True, True]
        assert tail.end(wake) == -1
        assert not later.done()
        assert await tail.wait({wake: before}, 1, 0.1) is True  # it came between the step and the wait
        await storage.call(wake, "SPUBLISH", wake, f"Dead {before + 6}")
        assert await later is True


@pytest.mark.parametrize("message", [b"", b"topics", b"Stable", b"Stable x", b"7", b"1 2 3", b"\xff\xfe 9a"])
async def test_other_messages_wake_nobody_and_break_nothing(valkey: Server, message: bytes) -> None:
    async with a_tail(valkey.url) as (storage, tail):
        await settled(tail, ONE)
        wait = waiting(tail, {ONE: 5}, 1)
        await asyncio.sleep(0)
        assert await storage.call(ONE, "SPUBLISH", ONE, message) == 1
        await asyncio.sleep(0.02)
        assert not wait.done()
        await announce(storage, ONE, 6)
        assert await wait is True


async def test_a_counter_that_went_back_wakes_because_the_log_is_another(valkey: Server) -> None:
    async with a_tail(valkey.url) as (storage, tail):
        await settled(tail, ONE)
        wait = waiting(tail, {ONE: 500}, 1)
        await asyncio.sleep(0)
        await announce(storage, ONE, 0)
        assert await wait is True


async def test_idle_subscriptions_are_dropped_and_come_back(valkey: Server) -> None:
    async with a_tail(valkey.url, wait_idle_ms=1000) as (storage, tail):
        await settled(tail, ONE)
        assert await storage.call(ONE, "PUBSUB", "SHARDCHANNELS") == [ONE]
        await until(lambda: not valkey.command("PUBSUB", "SHARDCHANNELS"))
        await settled(tail, ONE)
        wait = waiting(tail, {ONE: 0}, 1)
        await asyncio.sleep(0)
        await announce(storage, ONE, 1)
        assert await wait is True


async def test_a_listener_hears_messages_and_is_told_when_it_may_have_missed_some() -> None:
    with Server() as server:
        async with a_tail(server.url) as (storage, tail):
            heard: list[bytes] = []
            await tail.listen(ONE, heard.append)
            await until(lambda: heard == [b""])
            await storage.call(ONE, "SPUBLISH", ONE, "topics")
            await until(lambda: heard == [b"", b"topics"])
            await asyncio.to_thread(server.restart)
            await until(lambda: heard[-2:] == [b"", b""])
            await storage.call(ONE, "SPUBLISH", ONE, "workers")
            await until(lambda: heard[-1] == b"workers")


async def test_a_lost_subscription_wakes_its_waiters_and_is_made_again() -> None:
    with Server() as server:
        async with a_tail(server.url) as (storage, tail):
            await settled(tail, ONE)
            wait = waiting(tail, {ONE: 0}, 1)
            await asyncio.sleep(0.01)
            server.kill()
            assert await wait is True
            again = waiting(tail, {ONE: 0}, 1)
            await asyncio.to_thread(server.start)
            assert await again is True
            last = waiting(tail, {ONE: 0}, 1)
            await asyncio.sleep(0)
            await announce(storage, ONE, 1)
            assert await last is True


async def test_a_channel_that_moves_while_its_connection_is_opened_is_listened_to_where_it_is(
    valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server() as other:
        async with a_tail(valkey.url) as (storage, tail):
            masters = [storage.master_of(ONE), Address("127.0.0.1", other.port)]
            monkeypatch.setattr(storage, "master_of", lambda key: masters[0])
            open_ = Subscriber.open

            async def slowly(self: Subscriber, access: Access, timeout_s: float) -> None:
                await open_(self, access, timeout_s)
                masters[:] = masters[1:] or masters

            monkeypatch.setattr(Subscriber, "open", slowly)
            await settled(tail, ONE)
            wait = waiting(tail, {ONE: 0}, 10)
            await asyncio.sleep(0)
            other.command("SPUBLISH", ONE.decode(), "1 10")
            assert await wait is True


async def test_subscriptions_follow_their_slots_through_migration_and_failover(cluster: Cluster) -> None:
    async with a_tail(cluster.url) as (storage, tail):
        channels = [b"rb:{tail:%d}:tail" % i for i in range(12)]
        await settled(tail, *channels)

        async def still_heard() -> None:
            async with asyncio.timeout(10):
                for written, channel in enumerate(channels, int(time.monotonic() * 1000)):
                    while not (wait := waiting(tail, {channel: written}, 1, 0.2)).done():
                        await asyncio.sleep(0)
                        await announce(storage, channel, written + 1)
                        if await wait:
                            break

        await still_heard()
        slot = key_slot(channels[0])
        owner = cluster.master_of(slot)
        target = next(master for master in map(cluster.master_of, (0, 8000, 16000)) if master is not owner)
        await asyncio.to_thread(cluster.migrate_atomically, slot, target)
        await still_heard()
        await asyncio.to_thread(cluster.failover, key_slot(channels[1]))
        await still_heard()
        cluster.master_of(key_slot(channels[2])).kill()
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(KafkaError):  # the announcements' own, until the failover is over
                    await still_heard()
                    break
