"""Fetching ahead: rests that end early, room that is shared, and partitions that are not there yet."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from redbroker.client.connection import Connection
from redbroker.client.consumer_config import ConsumerConfig
from redbroker.client.fetching import Fetcher, Rest
from redbroker.client.positions import Position
from redbroker.errors import ErrorCode, KafkaError
from redbroker.types import TopicPartition
from tests.support.reading import FIRST, append, orders, reader, until, values
from tests.support.servers import Server

pytestmark = pytest.mark.anyio


async def test_a_rest_lasts_until_its_end_or_until_ended() -> None:
    rest, over = Rest(), asyncio.Event()
    resting = asyncio.create_task(rest.of(over.wait()))
    await asyncio.sleep(0)
    over.set()
    await asyncio.wait_for(resting, 5)
    resting = asyncio.create_task(rest.of(asyncio.sleep(60)))
    await asyncio.sleep(0)
    rest.end()
    await asyncio.wait_for(resting, 5)


async def test_a_rest_ended_before_it_began_is_none_at_all_and_only_once() -> None:
    rest = Rest()
    rest.end()
    await asyncio.wait_for(rest.of(asyncio.sleep(60)), 5)
    resting = asyncio.create_task(rest.of(asyncio.sleep(60)))
    done, _ = await asyncio.wait({resting}, timeout=0.02)
    assert not done
    resting.cancel()
    await asyncio.wait({resting})


async def test_a_cancelled_rest_ends_what_it_waited_for_and_an_error_comes_out() -> None:
    rest, ended = Rest(), asyncio.Event()

    async def wait() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    resting = asyncio.create_task(rest.of(wait()))
    await asyncio.sleep(0.01)
    resting.cancel()
    await asyncio.wait_for(ended.wait(), 5)

    async def fail() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await rest.of(fail())


def test_partitions_share_the_room_and_are_filled_again_when_half_empty() -> None:
    positions = {
        TopicPartition("orders", number): Position(TopicPartition("orders", number), None) for number in range(4)
    }
    unused: Any = None
    fetcher = Fetcher(unused, ConsumerConfig(prefetch_bytes=400), positions, unused)
    assert fetcher.share == 100
    ended: list[int] = []
    fetcher.rest.end = lambda: ended.append(1)  # type: ignore[method-assign]
    first = positions[FIRST]
    for before, after, times in ((100, 60, 0), (60, 49, 1), (49, 10, 1), (100, 0, 2)):
        first.buffered_bytes = after
        fetcher.taken(first, before)
        assert len(ended) == times


async def test_a_partition_that_is_not_there_yet_is_read_from_where_it_was_sought(connection: Connection) -> None:
    async with reader(connection) as consumer:
        consumer.assign([FIRST])
        await consumer.seek(FIRST, 1)  # nothing is known of the topic, and nothing has to be looked up
        await until(lambda: consumer.health().last_error is not None)
        assert "does not exist (yet)" in str(consumer.health().last_error)
        topic = await orders(connection)
        await append(connection, topic, b"a", b"b")
        assert await values(consumer, 1) == [b"b"]


async def test_what_was_fetched_before_a_seek_is_not_handed_out_after_it(connection: Connection) -> None:
    await orders(connection, *(b"%d" % number for number in range(50)))
    async with reader(connection) as consumer:
        consumer.assign([FIRST])
        for turn in range(50):
            for _ in range(turn % 7):
                await asyncio.sleep(0)
            await consumer.seek(FIRST, turn)
            assert await values(consumer, 1) == [b"%d" % turn]


async def test_a_start_so_long_ago_is_found_by_time_and_a_trimmed_reader_goes_there_too(connection: Connection) -> None:
    topic, now_ms = await orders(connection, partitions=2), int(time.time() * 1000)
    for hours, value in ((48, b"old"), (23, b"a"), (1, b"b")):
        await append(connection, topic, value, at_ms=now_ms - hours * 3_600_000)
    await append(connection, topic, b"old", partition=1, at_ms=now_ms - 48 * 3_600_000)
    async with reader(connection, "orders", auto_offset_reset="by_duration:P1D") as consumer:
        assert await values(consumer, 2) == [b"a", b"b"]
        assert await consumer.position(TopicPartition("orders", 1)) == 1  # nothing is that young: its end
        await connection.engine.log.trim([(topic, 0, 1)])
        await consumer.seek(FIRST, 0)
        assert await values(consumer, 2) == [b"a", b"b"]


@pytest.mark.parametrize("begun", [True, False], ids=["while it reads", "when it begins"])
async def test_a_log_cut_back_is_noticed_though_its_redis_does_not_answer_at_first(
    begun: bool, connection: Connection, valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = await orders(connection, b"a", b"b")
    keys = [f"rb:{{orders:0}}:{name}" for name in ("log", "state", "epochs")]
    copies = [valkey.command("DUMP", key) for key in keys]
    await append(connection, topic, b"c", b"d")
    epoch_end, refused = connection.engine.log.epoch_end, 0

    async def refused_at_first(wants: Any, **how: Any) -> list[Any]:
        nonlocal refused
        refused += 1
        if refused > 2:
            return list(await epoch_end(wants, **how))
        return [KafkaError(ErrorCode.REQUEST_TIMED_OUT, "Redis is silent.")] * len(wants)

    monkeypatch.setattr(connection.engine.log, "epoch_end", refused_at_first)

    async def cut_back() -> None:
        """A master takes over that lacks the last two records, and writes three others."""
        for key, copy in zip(keys, copies, strict=True):
            valkey.command("RESTORE", key, 0, copy, "REPLACE")
        valkey.command("HSET", keys[1], "rid", "0" * 40)
        await append(connection, topic, b"e", b"f", b"g")

    async with reader(connection, "orders", group_id="billing") as consumer:
        assert await values(consumer, 4) == [b"a", b"b", b"c", b"d"]
        await consumer.commit()
        if begun:
            await cut_back()
            assert await values(consumer, 3) == [b"e", b"f", b"g"]
    if not begun:
        await cut_back()
        async with reader(connection, "orders", group_id="billing") as consumer:
            assert await values(consumer, 3) == [b"e", b"f", b"g"]
    assert refused > 2


async def test_partitions_that_cannot_be_placed_keep_no_others_waiting(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = await orders(connection, b"a", partitions=2)
    await append(connection, topic, b"b", partition=1)
    bounds, answering = connection.engine.log.bounds, False

    async def one_refused(partitions: Any, **how: Any) -> list[Any]:
        if partitions[0][1] == 0 and not answering:
            return [KafkaError(ErrorCode.REQUEST_TIMED_OUT, "Redis is silent.")]
        return list(await bounds(partitions, **how))

    monkeypatch.setattr(connection.engine.log, "bounds", one_refused)
    async with reader(connection, "orders") as consumer:
        assert await values(consumer, 1) == [b"b"]
        answering = True
        assert await values(consumer, 1) == [b"a"]
