"""Fetching ahead: rests that end early, room that is shared, and partitions that are not there yet."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from typing import Any

import pytest

from redbroker.client.connection import Connection
from redbroker.client.consumer_config import ConsumerConfig
from redbroker.client.fetching import Fetcher, Rest
from redbroker.client.positions import Position
from redbroker.engine.log import Log
from redbroker.errors import ErrorCode, KafkaError
from redbroker.types import TopicPartition
from tests.support.cuts import begin_epoch, cut_back, keep
from tests.support.reading import FIRST, append, orders, reader, until, values
from tests.support.servers import Server
from tests.support.slow import Slow

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
    fetcher = Fetcher(unused, ConsumerConfig(prefetch_bytes=400), positions, unused, unused)
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


async def test_a_topic_is_read_as_it_is_configured_now(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many copies a reader waits for is its topic's min.insync.replicas."""
    topic, log = await orders(connection, b"a"), connection.engine.log
    read, asked = log.read, []

    async def noting(reads: Any, **options: Any) -> Any:
        asked.append(reads[0].topic)
        return await read(reads, **options)

    monkeypatch.setattr(log, "read", noting)
    async with reader(connection) as consumer:
        consumer.assign([FIRST])
        assert await values(consumer, 1) == [b"a"]
        changed = await connection.engine.topics.configure("orders", {"min.insync.replicas": "1"})
        await append(connection, topic, b"b")
        assert await values(consumer, 1) == [b"b"]
        assert asked[-1] is changed


async def test_a_position_that_the_log_has_reached_by_the_time_it_is_looked_at_stays(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic, log = await orders(connection, b"a", b"b"), connection.engine.log

    async def bounds(partitions: Any, **how: Any) -> Any:
        monkeypatch.undo()
        await append(connection, topic, b"c", b"d")
        return await log.bounds(partitions, **how)

    async with reader(connection) as consumer:
        monkeypatch.setattr(log, "bounds", bounds)
        consumer.assign([FIRST])
        await consumer.seek(FIRST, 3)
        assert await values(consumer, 1) == [b"d"]


async def test_what_was_decoded_and_not_handed_out_before_a_log_was_cut_back_is_read_anew(
    connection: Connection,
) -> None:
    topic = await orders(connection, b"a", b"b")
    await keep(connection.engine.storage, FIRST)
    await append(connection, topic, b"c", b"d")
    async with reader(connection) as consumer:
        consumer.assign([FIRST])
        position = consumer._positions[FIRST]
        await until(lambda: position.fetch == 4)
        assert (await anext(consumer)).value == b"a"
        await cut_back(connection.engine.storage, FIRST)
        await append(connection, topic, b"e", b"f", b"g")
        await until(lambda: position.leader_epoch > 1)
        assert [(await anext(consumer)).value for _ in range(4)] == [b"b", b"e", b"f", b"g"]


@pytest.mark.parametrize("meanwhile", ["Redis is away", "the caller pauses"])
async def test_no_read_passes_a_cut_whose_check_came_to_nothing(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    topic, log = await orders(connection, b"a", b"b"), connection.engine.log
    await keep(connection.engine.storage, FIRST)
    await append(connection, topic, b"c", b"d")
    async with reader(connection) as consumer:
        consumer.assign([FIRST])
        assert await values(consumer, 4) == [b"a", b"b", b"c", b"d"]

        async def epoch_end(wants: Any, **how: Any) -> Any:
            monkeypatch.undo()
            if meanwhile == "Redis is away":
                return [KafkaError(ErrorCode.REQUEST_TIMED_OUT, "Redis is away.")] * len(wants)
            consumer.pause(FIRST)
            consumer.resume(FIRST)
            return await log.epoch_end(wants, **how)

        monkeypatch.setattr(log, "epoch_end", epoch_end)
        await cut_back(connection.engine.storage, FIRST)
        await append(connection, topic, b"e", b"f", b"g")
        assert await values(consumer, 3) == [b"e", b"f", b"g"]


async def test_whatever_comes_between_consumers_have_in_the_end_what_the_log_has(connection: Connection) -> None:
    """Consumers that take one or many, pause and are slow, while logs are cut back or only get new leader epochs."""
    chance, engine, changing, reading = random.Random(1), connection.engine, True, True
    places = [TopicPartition("orders", number) for number in range(4)]
    topic = await engine.topics.create("orders", len(places), {"retention.ms": "-1"})
    slow: Any = Slow(engine.storage, chance)
    engine.log = Log(slow, engine.tail, engine.settings)
    sent = itertools.count()

    async def pause(most_s: float) -> None:
        await asyncio.sleep(chance.random() * most_s)

    async def produce() -> None:
        while changing:
            values = [b"%d" % next(sent) for _ in range(chance.randint(1, 4))]
            await append(connection, topic, *values, partition=chance.randrange(len(places)))
            await pause(0.004)

    async def fail_over() -> None:
        while changing:
            await begin_epoch(engine.storage, chance.choice(places[2:]))
            await pause(0.1)

    async def cut() -> None:
        while changing:
            place = chance.choice(places[:2])
            await keep(engine.storage, place)
            await pause(0.2)
            await cut_back(engine.storage, place)
            await pause(0.2)

    async def consume(read: dict[tuple[int, int], Any]) -> None:
        """Note what was read last at each offset."""
        quiet = 0
        async with reader(connection, prefetch_bytes=chance.choice((2_000, 20_000, 1 << 20))) as consumer:
            consumer.assign(places)
            while quiet < 100:  # until 2 s after the last change
                some = []
                if chance.random() < 0.5:
                    some = await consumer.getmany(chance.choice((1, 7, 500)), timeout_ms=20)
                else:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.02):
                            for _ in range(chance.choice((3, 30, 300))):
                                some.append(await anext(consumer))
                                await pause(0.02 if chance.random() < 0.05 else 0)
                for each in some:
                    assert each.offset == 0 or (each.partition, each.offset - 1) in read, "records were skipped"
                    read[each.partition, each.offset] = each.value
                quiet = 0 if some or reading else quiet + 1
                if chance.random() < 0.1:
                    place = chance.choice(places)
                    consumer.pause(place)
                    await pause(0.02)
                    consumer.resume(place)

    reads: list[dict[tuple[int, int], Any]] = [{} for _ in range(6)]
    changes = [asyncio.create_task(each) for each in (produce(), produce(), fail_over(), cut())]
    consumers = [asyncio.create_task(consume(read)) for read in reads]
    await asyncio.wait([*changes, *consumers], timeout=5, return_when=asyncio.FIRST_COMPLETED)
    changing = False
    await asyncio.gather(*changes)
    for place in places:
        await append(connection, topic, b"the end", partition=place.partition)
    reading = False
    await asyncio.gather(*consumers)
    there: dict[tuple[int, int], Any] = {}
    async with reader(connection) as consumer:
        consumer.assign(places)
        ends = await consumer.end_offsets()
        while len(there) < sum(ends.values()):
            there |= {(each.partition, each.offset): each.value for each in await consumer.getmany()}
    for read in reads:
        assert {place: read.get(place) for place in there} == there
    await engine.log.close()
    await slow.close()


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
