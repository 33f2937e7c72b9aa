"""The consumer on real servers: reading, seeking, committing, sharing, and what must never be lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from redbroker.client.connection import Connection
from redbroker.client.consumer import Consumer, RebalanceListener
from redbroker.client.positions import LogTruncated
from redbroker.config import SettingsError
from redbroker.errors import ErrorCode, KafkaError
from redbroker.machines.consumer_group import ConsumerHeartbeat
from redbroker.machines.reconciliation import LEAVE
from redbroker.types import TopicPartition
from tests.support.clusters import Cluster
from tests.support.reading import FIRST, append, orders, reader, until, values
from tests.support.servers import Server

pytestmark = pytest.mark.anyio


async def test_records_come_in_order_and_new_ones_wake_the_reader(connection: Connection) -> None:
    topic = await orders(connection, b"a", b"b", b"c")
    async with reader(connection, "orders") as consumer:
        assert await values(consumer, 1) == [b"a"]
        assert (await anext(consumer)).value == b"b"
        assert await values(consumer, 1) == [b"c"]
        waiting = asyncio.create_task(anext(consumer))
        await asyncio.sleep(0.05)
        await append(connection, topic, b"d")
        record = await asyncio.wait_for(waiting, 5)
        assert (record.topic, record.partition, record.offset, record.value) == ("orders", 0, 3, b"d")
        assert record.timestamp_ms == 1_000


async def test_a_cancelled_wait_loses_nothing(connection: Connection) -> None:
    topic = await orders(connection)
    async with reader(connection, "orders") as consumer:
        for turn in range(20):
            waiting = asyncio.create_task(consumer.getmany(10, timeout_ms=5_000))
            await asyncio.sleep(0.001 * (turn % 3))
            waiting.cancel()
            await asyncio.wait({waiting})
        await append(connection, topic, b"a", b"b")
        assert await values(consumer, 2) == [b"a", b"b"]


async def test_seeks_go_to_offsets_times_and_both_ends(connection: Connection) -> None:
    topic = await orders(connection, b"a", b"b", b"c")
    async with reader(connection) as consumer:
        consumer.assign([FIRST])
        assert await values(consumer, 1) == [b"a"]
        await consumer.seek(FIRST, 2)
        assert await values(consumer, 1) == [b"c"]
        await consumer.seek_to_time(1_001)
        assert await values(consumer, 2) == [b"b", b"c"]
        await consumer.seek_to_beginning()
        assert await values(consumer, 3) == [b"a", b"b", b"c"]
        await consumer.seek_to_end(FIRST)
        assert await consumer.position(FIRST) == 3
        await append(connection, topic, b"d")
        assert await values(consumer, 1) == [b"d"]
        assert await consumer.offsets_for_times({FIRST: 1_001}) == {FIRST: 1}
        assert await consumer.end_offsets() == {FIRST: 4}
        assert await consumer.beginning_offsets(FIRST) == {FIRST: 0}


async def test_a_seek_wins_over_a_start_that_is_being_looked_up(connection: Connection) -> None:
    await orders(connection, b"a", b"b", b"c")
    async with reader(connection, auto_offset_reset="latest") as consumer:
        for turn in range(20):
            consumer.assign([FIRST])
            for _ in range(turn % 4):
                await asyncio.sleep(0)
            await consumer.seek_to_time(1_001)
            assert await values(consumer, 2) == [b"b", b"c"]
            consumer.assign([])


async def test_a_paused_partition_holds_nobody_up(connection: Connection) -> None:
    topic = await orders(connection, b"a", b"b", partitions=2)
    await append(connection, topic, b"c", partition=1)
    async with reader(connection) as consumer:
        consumer.assign([FIRST])
        assert await values(consumer, 1) == [b"a"]
        consumer.pause(FIRST)
        consumer.assign([FIRST, TopicPartition("orders", 1)])
        assert await values(consumer, 1) == [b"c"]
        assert await consumer.getmany(timeout_ms=50) == []
        consumer.resume(FIRST)
        assert await values(consumer, 1) == [b"b"]


async def test_what_was_done_is_committed_and_the_record_in_hand_is_not(connection: Connection) -> None:
    await orders(connection, b"a", b"b", b"c")
    settings = {"group_id": "billing", "auto_commit_interval_ms": 20}
    with pytest.raises(RuntimeError, match="mine"):
        async with reader(connection, "orders", **settings) as consumer:
            assert (await anext(consumer)).value == b"a"
            assert (await anext(consumer)).value == b"b"
            raise RuntimeError("mine")
    async with reader(connection, "orders", **settings) as consumer:
        assert (await anext(consumer)).value == b"b"
    async with reader(connection, "orders", **settings) as consumer:  # the last one left without an error
        assert (await anext(consumer)).value == b"c"
        await consumer.commit()
        committed = (await consumer.committed(FIRST))[FIRST]
        assert committed is not None
        assert (committed.offset, committed.leader_epoch) == (3, 1)


async def test_trimming_ahead_of_a_reader_is_told_or_follows_the_setting(connection: Connection) -> None:
    topic = await orders(connection, b"a", b"b")
    await append(connection, topic, b"c")
    await connection.engine.log.trim([(topic, 0, 2)])
    async with reader(connection, auto_offset_reset="none") as consumer:
        consumer.assign([FIRST])
        await consumer.seek(FIRST, 0)
        with pytest.raises(KafkaError, match="auto_offset_reset is none") as refused:
            await consumer.getmany()
        assert refused.value.code is ErrorCode.OFFSET_OUT_OF_RANGE
        await consumer.seek_to_beginning(FIRST)
        assert await values(consumer, 1) == [b"c"]
    async with reader(connection) as consumer:
        consumer.assign([FIRST])
        await consumer.seek(FIRST, 0)
        assert await values(consumer, 1) == [b"c"]


async def test_a_record_that_cannot_be_decoded_is_named_or_skipped(connection: Connection) -> None:
    await orders(connection, b"1", b"x", b"3")
    async with reader(connection, "orders", value_deserializer=int) as consumer:
        assert await values(consumer, 1) == [1]
        for _ in range(2):
            with pytest.raises(KafkaError, match="orders-0, offset 1") as refused:
                await consumer.getmany()
            assert refused.value.code is ErrorCode.CORRUPT_MESSAGE
        await consumer.seek(FIRST, 2)
        assert await values(consumer, 1) == [3]
    async with reader(connection, "orders", value_deserializer=int, undecodable="skip") as consumer:
        assert await values(consumer, 2) == [1, 3]
        assert consumer.skipped() == {"orders": 1}


async def test_a_consumer_far_behind_keeps_to_its_prefetch(connection: Connection) -> None:
    topic = await orders(connection, partitions=3)
    for turn in range(60):
        await append(connection, topic, bytes(20_000), partition=turn % 3)
    async with reader(connection, "orders", prefetch_bytes=200_000) as consumer:
        seen, most = 0, 0
        while seen < 60:
            await asyncio.sleep(0.01)
            most = max(most, sum(each.buffered_bytes for each in consumer._positions.values()))
            seen += len(await consumer.getmany(1))
        assert 60_000 < most <= 200_000 + 21_000


async def test_a_commit_of_what_went_to_another_member_is_refused(connection: Connection) -> None:
    await orders(connection, b"a", b"b")
    settings = {"group_id": "billing", "enable_auto_commit": False}
    async with reader(connection, "orders", **settings) as first, reader(connection, **settings) as second:
        assert await values(first, 1) == [b"a"]
        second.subscribe(["orders"])
        lost: list[TopicPartition] = []

        class Listener(RebalanceListener):
            async def on_lost(self, partitions: Any) -> None:
                lost.extend(partitions)

        first._assignment.listener = Listener()
        await until(lambda: second.health().state == "standby")
        assert first._membership is not None
        out = ConsumerHeartbeat(first._membership.member_id, LEAVE)  # as an administrator removes a member
        await connection.engine.groups.ask("billing", out)
        await until(lambda: second.assignment())
        with pytest.raises(KafkaError) as refused:
            await first.commit({FIRST: 1})
        assert refused.value.code in (ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.STALE_MEMBER_EPOCH)
        assert await values(second, 2) == [b"a", b"b"]
        assert await second.committed(FIRST) == {FIRST: None}
        await until(lambda: first.health().state == "standby")
        assert lost == [FIRST]


async def test_it_reads_from_a_cluster(cluster: Cluster) -> None:
    async with Connection(cluster.url) as connection:
        topic = await orders(connection, partitions=6)
        for number in range(6):
            await append(connection, topic, b"%d" % number, partition=number)
        async with reader(connection, "orders", group_id="billing") as consumer:
            assert sorted(await values(consumer, 6)) == [b"%d" % number for number in range(6)]


@pytest.mark.system
async def test_redis_being_away_is_waited_out_and_nothing_is_lost_or_read_twice() -> None:
    with Server("--appendonly", "yes") as server:
        async with Connection(server.unix_url) as connection:
            topic = await orders(connection, b"a")
            async with reader(connection, "orders", group_id="billing") as consumer:
                assert await values(consumer, 1) == [b"a"]
                await consumer.commit()
                server.kill()
                waiting = asyncio.create_task(values(consumer, 1))
                await asyncio.sleep(0.5)
                server.restart()
                await append(connection, topic, b"b")
                assert await waiting == [b"b"]
                await consumer.commit()
                committed = (await consumer.committed(FIRST))[FIRST]
                assert committed is not None and committed.offset == 2


@pytest.mark.system
async def test_closing_ends_in_time_while_redis_is_silent() -> None:
    with Server() as server:
        async with Connection(server.unix_url, storage_timeout_ms=1_000) as connection:
            await orders(connection, b"a")
            async with asyncio.timeout(5):
                async with reader(connection, "orders", group_id="billing", close_timeout_ms=200) as consumer:
                    assert await values(consumer, 1) == [b"a"]
                    server.stop()
            server.cont()


@pytest.mark.system
@pytest.mark.parametrize("reset", ["earliest", "none"])
async def test_a_log_cut_back_by_a_failover_is_noticed(reset: str, caplog: pytest.LogCaptureFixture) -> None:
    with Server() as server:
        async with Connection(server.unix_url) as connection:
            topic = await orders(connection, b"a", b"b")
            server.command("SAVE")
            await append(connection, topic, b"c", b"d")
            async with reader(connection, auto_offset_reset=reset) as consumer:
                consumer.assign([FIRST])
                await consumer.seek(FIRST, 0)
                assert await values(consumer, 4) == [b"a", b"b", b"c", b"d"]
                server.restart()  # c and d are gone, as after a failover to a replica without them
                async with asyncio.timeout(10):
                    while (await connection.engine.log.bounds([(topic, 0)]))[0].leader_epoch == 1:  # type: ignore[union-attr]  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
                await append(connection, topic, b"e")
                if reset == "none":
                    with pytest.raises(LogTruncated, match="read up to 4, but the log was cut back to 2"):
                        await values(consumer, 1)
                    await consumer.seek(FIRST, 2)
                else:
                    assert await values(consumer, 1) == [b"e"]
                    assert "cut back to 2" in caplog.text
                    await consumer.seek(FIRST, 2)
                assert await values(consumer, 1) == [b"e"]


async def test_a_consumer_that_does_not_go_on_is_stuck(connection: Connection) -> None:
    await orders(connection, b"a", b"b")
    async with reader(connection, "orders", stuck_after_ms=50) as consumer:
        assert (await anext(consumer)).value == b"a"
        await until(lambda: consumer.health().state == "stuck")
        health = consumer.health()
        assert health.lag_records == 1
        assert health.lag_s > 0
        assert not health.healthy
        assert (await anext(consumer)).value == b"b"
        await consumer.getmany(timeout_ms=20)
        assert consumer.health().lag_records == 0
        assert consumer.health().state == "joined"


async def test_what_can_be_no_topic_and_no_setting_is_refused_at_once(connection: Connection) -> None:
    with pytest.raises(KafkaError, match="A URL is no topic: name it as storage"):
        Consumer("orders", "redis://:secret@localhost:6379")
    with pytest.raises(KafkaError, match="'no/topic' contains characters other than"):
        Consumer("no/topic")
    with pytest.raises(SettingsError, match=r"storage_url = 5 is wrong"):
        Consumer("orders", storage=5)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="key_prefix is a setting of the connection that a consumer shares"):
        Consumer("orders", storage=connection, key_prefix="other")
    async with Consumer(storage=connection, group_id="billing") as consumer:
        with pytest.raises(KafkaError, match="contains characters other than"):
            consumer.subscribe(["no/topic"])
        with pytest.raises(TypeError, match=r"Topics are a list: subscribe\(\['orders'\]\)"):
            consumer.subscribe("orders")


async def test_who_reads_nothing_is_told_and_does_not_wait_for_ever(connection: Connection) -> None:
    await orders(connection, b"a")
    async with reader(connection, default_api_timeout_ms=100) as consumer:
        for read in (consumer.getmany, consumer.__anext__):
            with pytest.raises(RuntimeError, match="This consumer reads nothing: name topics, `subscribe` or `assign`"):
                await asyncio.wait_for(read(), 5)
        consumer.assign([FIRST])
        assert await values(consumer, 1) == [b"a"]
        nowhere = TopicPartition("nowhere", 0)
        consumer.assign([nowhere])
        with pytest.raises(KafkaError, match=r"nowhere-0: where to start is not known within .* \(100\)") as late:
            await consumer.position(nowhere)
        assert late.value.code is ErrorCode.REQUEST_TIMED_OUT


@pytest.mark.parametrize("way", ["one by one", "many"])
async def test_each_record_goes_to_one_of_several_tasks(connection: Connection, way: str) -> None:
    topic = await orders(connection)
    found: list[int] = []
    async with reader(connection, "orders") as consumer:

        async def work() -> None:
            while True:
                records = [await anext(consumer)] if way == "one by one" else await consumer.getmany(3)
                found.extend(each.offset for each in records)
                await asyncio.sleep(0.001)

        tasks = [asyncio.create_task(work()) for _ in range(3)]
        for _ in range(10):
            await append(connection, topic, *[b"v"] * 20)
        await until(lambda: len(found) >= 200)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    assert sorted(found) == list(range(200))


async def test_who_waits_for_records_is_told_that_the_consumer_is_closed(connection: Connection) -> None:
    await orders(connection)
    for topics in (("orders",), ()):
        async with reader(connection, *topics) as consumer:
            if not topics:
                consumer.assign([FIRST])
            waiting = [asyncio.create_task(anext(consumer)), asyncio.create_task(consumer.getmany(1, 60_000))]
            await asyncio.sleep(0.05)
        done, late = await asyncio.wait(waiting, timeout=10)
        assert not late
        assert {str(task.exception()) for task in done} == {"This consumer is not open: use it inside `async with`."}


async def test_who_waits_for_records_is_told_that_nothing_is_read_any_more(connection: Connection) -> None:
    await orders(connection)
    async with reader(connection, "orders", group_id="g") as consumer:
        await until(consumer.assignment)
        for turn in range(2):
            waiting = asyncio.create_task(anext(consumer))
            await asyncio.sleep(0.05)
            if turn:
                consumer.assign([])
            else:
                await consumer.unsubscribe()
            with pytest.raises(RuntimeError, match="This consumer reads nothing"):
                await asyncio.wait_for(waiting, 10)
            consumer.assign([FIRST])


async def test_nothing_goes_on_after_an_opening_that_failed_or_a_closing_that_was_cancelled(
    connection: Connection, valkey: Server
) -> None:
    await orders(connection)
    before = asyncio.all_tasks()
    consumer = Consumer(storage=valkey.unix_url)
    consumer.subscribe(pattern="ord.*")
    with pytest.raises(KafkaError, match="A pattern needs a group: set group_id"):
        await consumer.__aenter__()
    await until(lambda: asyncio.all_tasks() <= before)

    async def read() -> None:
        async with reader(connection, "orders", group_id="g") as consumer:
            opened.set()
            await anext(consumer)

    opened = asyncio.Event()
    reading = asyncio.create_task(read())
    await opened.wait()
    await asyncio.sleep(0.05)
    reading.cancel()
    await asyncio.sleep(0)
    reading.cancel()  # the closing has begun
    await asyncio.wait({reading})
    await until(lambda: asyncio.all_tasks() <= before)


async def test_a_listener_may_ask_where_its_new_partitions_begin(connection: Connection) -> None:
    await orders(connection, b"a", b"b")

    class Listener(RebalanceListener):
        async def on_assigned(self, partitions: Any) -> None:
            for each in partitions:
                await consumer.seek(each, await consumer.position(each) + 1)

    async with reader(connection, group_id="g", default_api_timeout_ms=5_000) as consumer:
        consumer.subscribe(["orders"], listener=Listener())
        assert await values(consumer, 1) == [b"b"]


async def test_records_in_hand_are_not_done_because_what_follows_is_broken(connection: Connection) -> None:
    topic = await orders(connection, *[b"v"] * 500)
    await append(connection, topic, b"broken")
    settings = {"group_id": "g", "value_deserializer": {b"v": 1}.__getitem__}
    with pytest.raises(RuntimeError, match="mine"):
        async with reader(connection, "orders", **settings) as consumer:
            await until(lambda: consumer.health().lag_records == 501)
            assert len(await consumer.getmany(300)) == 300
            assert len(await consumer.getmany(300)) == 200  # the broken one was found behind them
            raise RuntimeError("mine")
    async with reader(connection, "orders", **settings) as consumer:
        assert (await anext(consumer)).offset == 300
