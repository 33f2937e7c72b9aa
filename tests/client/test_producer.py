"""A producer against a real Valkey: places, order, refusals, room, closing."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from redbroker.client.connection import Connection
from redbroker.client.delivery import Delivery
from redbroker.client.errors import BufferFullError, DeliveryError, SerializationError
from redbroker.client.partitioning import STICK_BYTES
from redbroker.client.producer import Producer
from redbroker.config import SettingsError
from redbroker.engine.log import Read
from redbroker.errors import ErrorCode, KafkaError
from redbroker.types import TopicPartition
from redbroker.wire.partitioner import partition_of
from redbroker.wire.records import Record, iter_records
from tests.support.servers import Server, wait_until

pytestmark = pytest.mark.anyio

SMALL_BYTES = 12_000_000


async def stored(producer: Producer, topic: str, partition: int = 0) -> list[Record]:
    """Every record of a partition, as it lies in the log."""
    found = producer._engine.topics.get(topic)
    assert found is not None
    [read] = await producer._engine.log.read([Read(found, partition, 0, 1 << 30)], max_bytes=1 << 30)
    assert not isinstance(read, KafkaError), read
    return [
        record._replace(offset=record.offset + batch.base_offset)
        for batch in read.batches
        for record in iter_records(batch.batch)
    ]


async def test_a_record_is_stored_as_it_was_given_and_its_place_told(valkey: Server) -> None:
    async with Producer(valkey.unix_url) as producer:
        sent = await producer.send("t", b"v", key=b"k", headers={"a": b"1", "b": None}, partition=2, timestamp_ms=7)
        assert sent == ("t", 2, 0, 7)
        again = await producer.send("t", "é", key="k", headers=[("a", "1")], partition=2)
        assert again.offset == 1
        first, second = await stored(producer, "t", 2)
    assert first == Record(0, 7, b"k", b"v", [("a", b"1"), ("b", None)])
    assert (second.key, second.value, second.headers) == (b"k", "é".encode(), [("a", b"1")])
    assert second.timestamp == again.timestamp_ms


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_many_at_once_keep_the_order_of_their_partition(valkey: Server, codec: str) -> None:
    async with Producer(valkey.unix_url, compression=codec, batch_bytes=4_000, num_partitions=3) as producer:
        futures = [producer.send_nowait("t", b"%d" % n, key=b"%d" % (n % 10)) for n in range(3_000)]
        await producer.flush()
        places = [future.result() for future in futures]
        for partition in range(3):
            records = await stored(producer, "t", partition)
            values = [int(record.value or b"") for record in records]
            assert values == sorted(values)
            for record in records:
                assert partition == partition_of(record.key or b"", 3)
                assert places[int(record.value or b"")][:3] == ("t", partition, record.offset)
    assert {sent.partition for sent in places} == {0, 1, 2}


async def test_keyless_records_spread_over_the_partitions(valkey: Server) -> None:
    async with Producer(valkey.unix_url, num_partitions=3) as producer:
        # Each fills its partition's turn; that forty draws of one in two miss the third one will not happen.
        used = {(await producer.send("t", b"x" * STICK_BYTES)).partition for _ in range(40)}
    assert used == {0, 1, 2}


async def test_a_partitioner_of_ones_own_decides(valkey: Server) -> None:
    async with Producer(valkey.unix_url, partitioner=lambda topic, key, count: count - 1) as producer:
        assert (await producer.send("t", b"v", key=b"k")).partition == 3
        assert (await producer.send("t", b"v", partition=0)).partition == 0
    async with Producer(valkey.unix_url, partitioner=lambda topic, key, count: count) as producer:
        with pytest.raises(DeliveryError, match="t has partitions 0 to 3, not 4"):
            await producer.send("t", b"v")


async def test_what_cannot_be_stored_is_refused_with_the_record(valkey: Server) -> None:
    async with Producer(valkey.unix_url, message_bytes_max=1_000) as producer:
        await producer.send("t", b"x" * 920)
        with pytest.raises(DeliveryError, match=r"exceeds max\.message\.bytes of t, 1000") as large:
            await producer.send("t", b"x" * 1_000)
        assert large.value.code is ErrorCode.MESSAGE_TOO_LARGE and large.value.record.value == b"x" * 1_000
        with pytest.raises(SerializationError, match="value of a record for t cannot be made bytes: dict") as unfit:
            await producer.send("t", {"a": 1}, key=b"k")
        assert unfit.value.record.value == {"a": 1}
        for headers in ({1: b""}, {"a": 1}, [(b"a", b"1")], [("a",)]):
            with pytest.raises(SerializationError, match=r"headers of a record .*: each is a str with bytes, str"):
                await producer.send("t", b"", headers=headers)  # type: ignore[arg-type]
        with pytest.raises(DeliveryError, match="partitions 0 to 3, not -1"):
            await producer.send("t", b"", partition=-1)
        with pytest.raises(DeliveryError, match="before 1970"):
            await producer.send("t", b"", timestamp_ms=-5)
        with pytest.raises(DeliveryError, match="contains characters other than"):
            await producer.send("no/topic", b"")
        with pytest.raises(DeliveryError, match=r"A topic is a name \(str\), not b'topic'"):
            await producer.send(b"topic", b"")  # type: ignore[arg-type]


async def test_a_topic_is_made_where_that_is_allowed(valkey: Server) -> None:
    async with Producer(valkey.unix_url, auto_create_topics=False) as producer:
        futures = [producer.send_nowait("t", b"v"), producer.send_nowait("t", b"w")]
        told = await asyncio.gather(*futures, return_exceptions=True)
        assert {each.code for each in told if isinstance(each, DeliveryError)} == {ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}
        assert [each.record.value for each in told if isinstance(each, DeliveryError)] == [b"v", b"w"]
        with pytest.raises(KafkaError, match="auto_create_topics is off"):
            await producer.partitions_for("t")
    async with Producer(valkey.unix_url, num_partitions=2) as producer:
        futures = [producer.send_nowait("t", b"%d" % n, partition=1) for n in range(3)]
        assert [sent.offset for sent in await asyncio.gather(*futures)] == [0, 1, 2]
        assert await producer.partitions_for("t") == [TopicPartition("t", 0), TopicPartition("t", 1)]


async def test_the_rules_of_a_topic_are_kept(valkey: Server) -> None:
    async with Producer(valkey.unix_url) as producer:
        await producer._engine.topics.create("compact", 1, {"cleanup.policy": "compact"})
        await producer._engine.topics.create("stamped", 1, {"message.timestamp.type": "LogAppendTime"})
        await producer._engine.topics.create("young", 1, {"message.timestamp.before.max.ms": "1000"})
        with pytest.raises(DeliveryError, match="compact is compacted: it takes no record without a key"):
            await producer.send("compact", b"v")
        await producer.send("compact", None, key=b"k")
        sent = await producer.send("stamped", b"v", timestamp_ms=5)
        assert sent.timestamp_ms > 1_000_000
        assert [record.timestamp for record in await stored(producer, "stamped")] == [sent.timestamp_ms]
        with pytest.raises(DeliveryError, match=r"message\.timestamp\.before\.max\.ms of young"):
            await producer.send("young", b"v", timestamp_ms=5)


async def test_more_partitions_and_a_topic_made_anew_are_noticed(valkey: Server) -> None:
    async with Producer(valkey.unix_url) as producer:
        topics = producer._engine.topics
        await topics.create("t", 1)
        await producer.send("t", b"v")
        await topics.grow("t", 2)
        assert (await producer.send("t", b"v", partition=1)).offset == 0
        await topics.delete("t")
        assert (await producer.send("t", b"v", partition=3)).offset == 0


async def test_a_topic_made_anew_by_somebody_else_gets_what_was_under_way(valkey: Server) -> None:
    async with Producer(valkey.unix_url) as producer, Connection(valkey.unix_url) as other:
        await producer.send("t", b"old", partition=0)
        producer._engine.topics.changed = lambda: None  # type: ignore[method-assign]  # this one hears nothing
        await other.engine.topics.delete("t")
        await other.engine.topics.create("t", 1)
        assert (await producer.send("t", b"new", partition=0)).offset == 0
        assert [record.value for record in await stored(producer, "t")] == [b"new"]


async def test_a_full_buffer_refuses_and_send_waits_for_room(valkey: Server) -> None:
    async with Producer(valkey.unix_url, buffer_bytes=2_000, linger_ms=200) as producer:
        await producer.partitions_for("t")
        futures: list[Delivery] = []
        with pytest.raises(BufferFullError, match=r"buffer_bytes \(2000\)"):
            futures.extend(producer.send_nowait("t", b"x" * 100) for _ in range(100))
        assert 10 <= len(futures) <= 20
        assert await asyncio.gather(*(producer.send("t", b"y" * 100) for _ in range(50)))
        assert all(future.done() for future in futures)
        with pytest.raises(DeliveryError, match="exceeds buffer_bytes, 2000"):
            await producer.send("t", b"x" * 2_000)
        assert producer._room.used == 0


async def test_who_waits_for_room_is_not_overtaken_and_flushing_and_closing_wait_for_him(valkey: Server) -> None:
    async with Producer(valkey.unix_url, buffer_bytes=10_000, num_partitions=1) as producer:
        sizes = [50 + 997 * number % 3_000 for number in range(300)]
        sends = [asyncio.create_task(producer.send("t", bytes(size))) for size in sizes]
        await asyncio.sleep(0)
        sends[-1].cancel()
        await asyncio.wait({sends[-1]})
        await producer.flush()
        await asyncio.sleep(0)
        assert [send.result().offset for send in sends[:-1]] == list(range(299))
        sends = [asyncio.create_task(producer.send("t", bytes(size))) for size in sizes]
        await asyncio.sleep(0)
    assert [send.result().offset for send in sends] == list(range(299, 599))


async def test_a_partitioner_that_fails_fails_its_record_alone(valkey: Server) -> None:
    def first_byte(topic: str, key: bytes | None, partitions: int) -> int:
        assert key is not None
        return key[0] % partitions

    async with Producer(valkey.unix_url, partitioner=first_byte) as producer:
        without, with_key = (producer.send_nowait("new", b"v", key=key) for key in (None, b"\1"))
        with pytest.raises(DeliveryError, match="The partitioner failed: AssertionError"):
            await asyncio.wait_for(without, 10)
        assert (await asyncio.wait_for(with_key, 10)).partition == 1
        assert producer._room.used == 0


async def test_a_cancelled_send_takes_nothing_back_and_breaks_nothing(valkey: Server) -> None:
    async with Producer(valkey.unix_url) as producer:
        await producer.partitions_for("t")
        tasks = [asyncio.create_task(producer.send("t", b"%d" % n, partition=0)) for n in range(10)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        told = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(each, asyncio.CancelledError) for each in told] == [True, False] * 5
        assert (await producer.send("t", b"10", partition=0)).offset == 10
        assert [record.value for record in await stored(producer, "t")] == [b"%d" % n for n in range(11)]


async def test_closing_delivers_what_was_taken_and_then_takes_no_more(valkey: Server) -> None:
    async with Connection(valkey.unix_url) as connection:
        async with Producer(connection, {"linger.ms": 60_000}) as producer:
            future = producer.send_nowait("t", b"v")
        assert future.result().offset == 0
        with pytest.raises(RuntimeError, match="not open"):
            await producer.send("t", b"v")
        async with producer:
            again = producer.send_nowait("t", b"again")
        assert again.done()


async def test_closing_never_hangs_while_redis_stands_still() -> None:
    with Server() as server:
        producer = Producer(server.unix_url, storage_timeout_ms=300)
        async with producer:
            await producer.send("t", b"v", partition=0)
            server.stop()
            try:
                future = producer.send_nowait("t", b"w", partition=0)
                async with asyncio.timeout(30):
                    await producer.close(0.1)
            finally:
                server.cont()
            with pytest.raises(DeliveryError, match="closed before") as lost:
                future.result()
            assert lost.value.record.value == b"w"


async def test_nobody_waits_for_acks_0(valkey: Server) -> None:
    async with Producer(valkey.unix_url, acks=0) as producer:
        sent = await producer.send("t", b"v", partition=0)
        assert sent[:3] == ("t", 0, -1)
        await producer.flush()
        for _ in range(500):  # the log alone can tell
            if records := await stored(producer, "t"):
                break
            await asyncio.sleep(0.01)
        assert [record.value for record in records] == [b"v"]


async def test_serializers_make_bytes(valkey: Server) -> None:
    def refuse(value: Any) -> bytes:
        raise ValueError("not today")

    async with Producer(valkey.unix_url, value_serializer=lambda value: b"<%d>" % value) as producer:
        await producer.send("t", 7, partition=0)
        assert [record.value for record in await stored(producer, "t")] == [b"<7>"]
    async with Producer(valkey.unix_url, key_serializer=refuse) as producer:
        with pytest.raises(SerializationError, match="The key of a record for t cannot be made bytes: not today"):
            await producer.send("t", b"", key=7)


def test_wrong_settings_are_told_at_once() -> None:
    with pytest.raises(SettingsError, match="acks is all, 1 or 0"):
        Producer(acks=2)
    with pytest.raises(SettingsError, match="linger is not a setting of a producer; did you mean linger_ms"):
        Producer(None, {"linger": 1})
    assert Producer(None, {"compression.type": "zstd", "batch.size": 1}).config.compression == "zstd"


# --- storage that fails ----------------------------------------------------------------------------------------


@pytest.mark.system
async def test_a_redis_that_stands_still_gets_each_record_once() -> None:
    with Server() as server:
        settings = {"storage_timeout_ms": 300, "retry_backoff_ms": 20}
        async with Producer(server.unix_url, None, batch_bytes=500, **settings) as producer:
            await producer.send("t", b"0", partition=0)
            server.stop()
            futures = [producer.send_nowait("t", b"%d" % n, partition=0) for n in range(1, 200)]
            await asyncio.sleep(1)
            server.cont()
            await producer.flush(30)
            assert [future.result().offset for future in futures] == list(range(1, 200))
            assert [record.value for record in await stored(producer, "t")] == [b"%d" % n for n in range(200)]


def come_back(cluster: Any, slot: int) -> None:
    """Wait for the failover, then start the killed node as a replica: acks=all wants two copies."""

    def promoted() -> bool:
        with contextlib.suppress(AssertionError):
            return cluster.master_of(slot).command("ROLE")[0] == b"master"
        return False

    wait_until(promoted, 30, "failover")
    cluster.heal()


@pytest.mark.system
async def test_a_master_killed_in_the_middle_costs_no_record_and_doubles_none(cluster: Any) -> None:
    from redbroker.engine.slots import key_slot

    async with Producer(cluster.url, batch_bytes=2_000, num_partitions=3, storage_timeout_ms=1_000) as producer:
        await producer.partitions_for("t")
        found = producer._engine.topics.get("t")
        assert found is not None
        log_key = producer._engine.log._partitions.get(found, 0).keys.log
        futures = []
        for n in range(3_000):
            futures.append(producer.send_nowait("t", b"%d" % n, partition=n % 3))
            if n % 100 == 0:
                await asyncio.sleep(0.005)
            if n == 1_000:
                cluster.master_of(key_slot(log_key)).kill()
                back = asyncio.create_task(asyncio.to_thread(come_back, cluster, key_slot(log_key)))
        await back
        await producer.flush(60)
        for partition in range(3):
            numbers = [int(record.value or b"") for record in await stored(producer, "t", partition)]
            assert numbers == list(range(partition, 3_000, 3))
        for n, future in enumerate(futures):
            assert future.result().offset == n // 3


# --- the short way ----------------------------------------------------------------------------------------------------


async def test_plain_records_between_others_keep_their_order_and_their_times(valkey: Server) -> None:
    async with Producer(valkey.unix_url, num_partitions=1, batch_bytes=2_000) as producer:
        for name in ("t", "u"):
            await producer.partitions_for(name)
        told: dict[str, list[Delivery]] = {"t": [], "u": []}
        dice = random.Random(7)
        ways: list[dict[str, Any]] = [{}] * 6
        ways += [{"key": b"k"}, {"headers": [("h", b"v")]}, {"timestamp_ms": 1_000}, {"partition": 0}]
        for number in range(3_000):
            name = dice.choice("tttttu")
            told[name].append(producer.send_nowait(name, b"%d" % number, **dice.choice(ways)))
            if not number % 500:
                told[name].append(producer.send_nowait(name, None, key=b"gone"))
                await asyncio.sleep(0)
            if not number % 700:
                await producer.flush()
        await producer.flush()
        assert producer._room.used == 0
        for name, handles in told.items():
            records = await stored(producer, name)
            assert [(each.offset, each.timestamp) for each in records] == [
                (handle.result().offset, handle.result().timestamp_ms) for handle in handles
            ]
            numbers = [int(each.value) for each in records if each.value is not None]
            assert numbers == sorted(numbers)
            assert {each.timestamp for each in records} & {1_000}
            assert all(abs(each.timestamp - time.time() * 1_000) < 60_000 for each in records if each.timestamp > 1_000)


async def test_what_is_lent_is_taken_from_the_room_and_given_back(valkey: Server) -> None:
    async with Producer(valkey.unix_url, num_partitions=1, buffer_bytes=2_000, linger_ms=60_000) as producer:
        for name in ("t", "u"):
            await producer.partitions_for(name)
        taken = [producer.send_nowait("t", bytes(100)) for _ in range(3)]
        assert producer._room.used == 2_000  # the rest is lent,
        taken += [
            producer.send_nowait("u", bytes(100), key=b"k")
            for _ in range(11)  # but there for others
        ]
        assert producer._room.used == 11 * 134 + 3 * 133
        with pytest.raises(BufferFullError):
            producer.send_nowait("t", bytes(100))
        await producer.ready()
        taken.append(producer.send_nowait("t", bytes(100)))
        await producer.flush()
        assert taken[-1].result().offset == 3
        assert all(each.done() for each in taken) and producer._room.used == 0


async def test_a_topic_that_changed_is_looked_at_again(valkey: Server) -> None:
    async with Producer(valkey.unix_url, num_partitions=1, linger_ms=60_000) as producer:
        topics = producer._engine.topics
        await producer.partitions_for("t")
        first = [producer.send_nowait("t", b"v") for _ in range(2)]
        await topics.delete("t")
        await topics.create("t", 1, {"cleanup.policy": "compact"})
        with pytest.raises(DeliveryError, match="it takes no record without a key"):
            producer.send_nowait("t", b"v")
        await producer.flush(30)
        assert all(each.done() for each in first)


async def test_records_cost_no_objects_and_are_let_go_once_they_are_stored(valkey: Server) -> None:
    async with Producer(valkey.unix_url, num_partitions=1) as producer:
        await producer.send("t", b"first")
        value = bytes(1_000)
        alone = sys.getrefcount(value)
        gc.collect()
        gc.disable()
        try:
            before = len(gc.get_objects())
            for _ in range(5_000):
                producer.send_nowait("t", value)
            assert len(gc.get_objects()) - before < 1_000  # a few per batch
            held = producer.send_nowait("t", value)
            await producer.flush()
            assert held.result().offset == 5_001
            assert sys.getrefcount(value) == alone
        finally:
            gc.enable()


# --- a full Redis -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small() -> Iterator[Server]:
    with Server("--maxmemory", str(SMALL_BYTES), "--maxmemory-policy", "noeviction") as server:
        yield server


@pytest.mark.parametrize("refuse_share", [0.9, 1.0], ids=["refused by the engine", "refused by Redis"])
async def test_what_does_not_fit_into_redis_waits_bounded_and_is_stored_once(
    small: Server, refuse_share: float
) -> None:
    told: dict[str, Any] = {"memory_check_ms": 20, "memory_throttle_share": refuse_share}
    told |= {"memory_refuse_share": refuse_share, "retry_backoff_max_ms": 100}
    async with Producer(small.unix_url, num_partitions=1, buffer_bytes=3_000_000, **told) as producer:
        futures = []
        with pytest.raises(TimeoutError):  # nothing moves any more, and nobody takes more than buffer_bytes
            for number in range(1_000):
                while True:
                    try:
                        futures.append(producer.send_nowait("t", b"%6d" % number + bytes(100_000), partition=0))
                    except BufferFullError:
                        await asyncio.wait_for(producer.ready(), 2)
                    else:
                        break
        left = sum(not future.done() for future in futures)
        assert 0 < left <= 30
        assert len(futures) - left > 10
        small.command("CONFIG", "SET", "maxmemory", 10 * SMALL_BYTES)
        await producer.flush(30)
        assert [future.result().offset for future in futures] == list(range(len(futures)))
        records = await stored(producer, "t")
    assert [int((record.value or b"")[:6]) for record in records] == list(range(len(futures)))


async def test_a_producer_rests_while_redis_fills_up(small: Server) -> None:
    told: dict[str, Any] = {"memory_check_ms": 60_000, "memory_throttle_share": 0.01, "memory_refuse_share": 0.99}
    async with Producer(small.unix_url, num_partitions=1, throttle_ms_max=10_000, **told) as producer:
        pressure = producer._engine.pressure
        await pressure.look()
        assert not pressure.calm  # an empty server has used a tenth: rest for about a second
        await producer.send("t", b"1", partition=0)
        later = producer.send_nowait("t", b"2", partition=0)
        with pytest.raises(KafkaError, match="1 records are not stored"):
            await producer.flush(0.1)
        pressure.calm = True
        assert (await later).offset == 1


async def test_a_future_can_be_gathered_called_back_and_cancelled(valkey: Server) -> None:
    async with Producer(valkey.unix_url, num_partitions=1, linger_ms=50) as producer:
        await producer.send("t", b"0")
        futures = [producer.send_nowait("t", b"v") for _ in range(5)]
        called: list[Any] = []
        futures[0].add_done_callback(called.append)
        futures[2].cancel()
        told = await asyncio.gather(*futures, return_exceptions=True)
        assert [getattr(each, "offset", None) for each in told] == [1, 2, None, 4, 5]
        assert isinstance(told[2], asyncio.CancelledError)
        assert called == [futures[0]]
        for wrong in (1.5, 1 << 63):
            with pytest.raises(DeliveryError, match="no whole number of 64 bits"):
                producer.send_nowait("t", b"v", timestamp_ms=wrong)  # type: ignore[arg-type]
        with pytest.raises(SerializationError, match="headers"):
            producer.send_nowait("t", b"v", headers={"\ud800": b"1"})
