"""The log against a real Valkey: what is appended is read back, whole and in order."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from redbroker.config import Settings
from redbroker.engine.connection import Storage
from redbroker.engine.log import Append, Appended, Bounds, EpochEnd, Log, Read, ReadResult
from redbroker.engine.partition import Partition
from redbroker.engine.resp import Call
from redbroker.engine.slots import key_slot
from redbroker.engine.tail import Tail
from redbroker.engine.topics import Topic
from redbroker.errors import ErrorCode, KafkaError
from redbroker.wire.records import Record, build_batch, iter_records, read_header, stamp
from tests.support.clusters import Cluster

pytestmark = pytest.mark.anyio


def a_topic(name: str = "orders", partitions: int = 4) -> Topic:
    return Topic(name, uuid.uuid4(), partitions, {}, 1_700_000_000_000)


def a_batch(count: int = 1, *, size: int = 20, time: int = 1000, step: int = 1, **producer: Any) -> bytes:
    records = [Record(i, time + i * step, b"key%d" % i, bytes(size), []) for i in range(count)]
    return build_batch(records, **producer)


@pytest.fixture
async def storage(valkey: Any) -> AsyncIterator[Storage]:
    storage = await Storage.open(Settings(storage_url=valkey.url))
    yield storage
    await storage.close()


@pytest.fixture
async def log(storage: Storage) -> AsyncIterator[Log]:
    settings = Settings()
    tail = Tail(storage, settings)
    log = Log(storage, tail, settings)
    yield log
    await log.close()
    await tail.close()


async def put(log: Log, topic: Topic, batch: bytes, partition: int = 0, acks: int = 1) -> Appended | KafkaError:
    [answer] = await log.append([Append(topic, partition, batch, read_header(batch))], acks=acks, timeout_ms=1000)
    return answer


async def get(
    log: Log, topic: Topic, offset: int, max_bytes: int = 1 << 20, partition: int = 0, epoch: int = -1
) -> Any:
    [result] = await log.read([Read(topic, partition, offset, max_bytes, epoch)], max_bytes=max_bytes)
    return result


async def test_offsets_are_dense_and_a_read_gives_the_batches_as_they_were_sent(log: Log) -> None:
    topic = a_topic()
    batches = [a_batch(count) for count in (1, 10, 3)]
    answers = [await put(log, topic, batch) for batch in batches]
    assert [answer.base_offset for answer in answers if isinstance(answer, Appended)] == [0, 1, 11]
    result = await get(log, topic, 0)
    assert [stored.batch for stored in result.batches] == batches
    assert [stored.base_offset for stored in result.batches] == [0, 1, 11]
    assert (result.log_start, result.next, result.nbytes) == (0, 14, sum(map(len, batches)))


async def test_partitions_are_put_together_by_the_master_that_has_them(cluster: Cluster) -> None:
    settings = Settings(storage_url=cluster.url)
    storage = await Storage.open(settings)
    tail = Tail(storage, settings)
    log = Log(storage, tail, settings)
    topic = a_topic(partitions=20)
    everything = [(topic, number) for number in range(20)]
    groups = log.by_master(everything)
    homes = [{cluster.master_of(key_slot(b"rb:{orders:%d}:log" % number)) for _, number in group} for group in groups]
    assert len(groups) == 3
    assert [len(home) for home in homes] == [1, 1, 1]
    assert sorted((each for group in groups for each in group), key=lambda each: each[1]) == everything
    await log.close()
    await tail.close()
    await storage.close()


async def test_an_offset_inside_a_batch_gives_the_whole_batch(log: Log) -> None:
    topic = a_topic()
    await put(log, topic, a_batch(10))
    await put(log, topic, a_batch(10))
    result = await get(log, topic, 13)
    assert [stored.base_offset for stored in result.batches] == [10]


async def test_batches_of_one_turn_share_a_script_call_and_keep_their_order(log: Log, storage: Storage) -> None:
    topic = a_topic()
    await put(log, topic, a_batch())
    [(_, before)] = await storage.on_masters("INFO", "commandstats")
    answers = await asyncio.gather(*(put(log, topic, a_batch(i + 1)) for i in range(50)))
    [(_, after)] = await storage.on_masters("INFO", "commandstats")
    assert [answer.base_offset for answer in answers] == [1 + i * (i + 1) // 2 for i in range(50)]
    assert calls(after, b"evalsha") - calls(before, b"evalsha") == 1


def calls(stats: bytes, command: bytes) -> int:
    line = next((line for line in stats.splitlines() if line.startswith(b"cmdstat_" + command + b":")), b"calls=0,")
    return int(line.split(b"calls=")[1].split(b",")[0])


async def test_a_duplicate_batch_gets_its_first_offset(log: Log) -> None:
    topic = a_topic()
    sent = [a_batch(2, producer_id=7, producer_epoch=0, base_sequence=i * 2) for i in range(7)]
    first = [await put(log, topic, batch) for batch in sent]
    again = [await put(log, topic, batch) for batch in sent[2:]]
    assert [a.base_offset for a in again] == [a.base_offset for a in first[2:]]  # type: ignore[union-attr]
    assert all(a.duplicate for a in again)  # type: ignore[union-attr]
    too_old = await put(log, topic, sent[1])
    assert isinstance(too_old, KafkaError)
    assert too_old.code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert (await get(log, topic, 0)).next == 14


async def test_a_duplicate_still_writes_so_that_wait_covers_it(log: Log, storage: Storage) -> None:
    topic = a_topic()
    batch = a_batch(producer_id=7, producer_epoch=0, base_sequence=0)
    await put(log, topic, batch)
    [(_, before)] = await storage.on_masters("INFO", "replication")
    await put(log, topic, batch)
    assert await storage.call(b"x", "HGET", "rb:{orders:0}:state", "duplicates") == b"1"
    assert b"master_repl_offset" in before


async def test_sequences_wrap_to_zero_after_two_to_the_31(log: Log) -> None:
    topic = a_topic()
    top = 2**31 - 2
    for first, count, expected in ((top, 1, 0), (top + 1, 3, 1), (2, 1, 4)):
        answer = await put(log, topic, a_batch(count, producer_id=9, producer_epoch=0, base_sequence=first))
        assert isinstance(answer, Appended), answer
        assert answer.base_offset == expected


async def test_a_gap_in_the_sequence_is_refused_and_an_old_epoch_is_fenced(log: Log) -> None:
    topic = a_topic()

    async def code(epoch: int, sequence: int) -> ErrorCode | None:
        answer = await put(log, topic, a_batch(producer_id=5, producer_epoch=epoch, base_sequence=sequence))
        return answer.code if isinstance(answer, KafkaError) else None

    assert await code(1, 0) is None
    assert await code(1, 2) == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert await code(0, 1) == ErrorCode.INVALID_PRODUCER_EPOCH
    assert await code(2, 1) == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert await code(2, 0) is None
    assert await code(1, 1) == ErrorCode.INVALID_PRODUCER_EPOCH
    assert (await get(log, topic, 0)).next == 2


async def test_a_negative_producer_id_is_none_and_cannot_stop_the_script_half_way(log: Log) -> None:
    topic = a_topic()
    odd = a_batch(producer_id=-(2**40), producer_epoch=-1, base_sequence=-1)
    for first_offset in (0, 2, 4):
        batches = [a_batch(), odd]
        answers = await log.append([Append(topic, 0, b, read_header(b)) for b in batches], acks=1, timeout_ms=1000)
        assert [answer.base_offset for answer in answers] == [first_offset, first_offset + 1]  # type: ignore[union-attr]


async def test_a_refused_batch_leaves_the_others_of_its_group_alone(log: Log) -> None:
    topic = a_topic()
    good, bad = a_batch(2), a_batch(1, producer_id=5, producer_epoch=0, base_sequence=0)
    await put(log, topic, bad)
    gap = a_batch(1, producer_id=5, producer_epoch=0, base_sequence=5)
    answers = await log.append(
        [Append(topic, 0, batch, read_header(batch)) for batch in (good, gap, bad, good)], acks=1, timeout_ms=1000
    )
    assert [a.code.name if isinstance(a, KafkaError) else a.base_offset for a in answers] == [
        1,
        "OUT_OF_ORDER_SEQUENCE_NUMBER",
        0,
        3,
    ]


async def test_forgotten_producers_make_room_for_new_ones(valkey: Any) -> None:
    storage = await Storage.open(Settings(storage_url=valkey.url))
    settings = Settings(producers_max=20)
    tail = Tail(storage, settings)
    log = Log(storage, tail, settings)
    topic = a_topic()
    for producer in range(60):
        await put(log, topic, a_batch(producer_id=producer, producer_epoch=0, base_sequence=0))
    assert await storage.call(b"x", "HLEN", "rb:{orders:0}:producers") <= 20
    await log.close()
    await tail.close()
    await storage.close()


async def test_an_oversized_batch_is_delivered_alone(log: Log) -> None:
    topic = a_topic()
    await put(log, topic, a_batch(1, size=5000))
    await put(log, topic, a_batch(1, size=5000))
    result = await get(log, topic, 0, max_bytes=100)
    assert [stored.base_offset for stored in result.batches] == [0]


async def test_a_read_stops_at_its_budget_and_goes_on_from_there(log: Log) -> None:
    topic = a_topic()
    for size in (50, 3000, 100, 100, 9000, 50, 50) * 20:
        await put(log, topic, a_batch(1, size=size))
    offset, seen = 0, []
    while offset < 140:
        result = await get(log, topic, offset, max_bytes=4000)
        assert len(result.batches) == 1 or result.nbytes <= 4000
        seen += [stored.base_offset for stored in result.batches]
        offset = seen[-1] + 1
    assert seen == list(range(140))


async def test_a_reader_of_many_small_batches_gets_its_full_budget(log: Log) -> None:
    topic = a_topic()
    await asyncio.gather(*(put(log, topic, a_batch()) for _ in range(3000)))
    result = await get(log, topic, 0, max_bytes=100_000)
    assert 99_000 < result.nbytes <= 100_000


async def test_the_whole_budget_bounds_all_partitions_together(log: Log) -> None:
    topic = a_topic()
    for partition in range(4):
        for _ in range(10):
            await put(log, topic, a_batch(1, size=1000), partition)
    results = await log.read([Read(topic, p, 0, 5000) for p in range(4)], max_bytes=8000)
    got = [result.nbytes for result in results if isinstance(result, ReadResult)]
    assert len(got) == 4
    assert sum(got) <= 8000 + 1200
    assert got[0] > 0


@pytest.mark.parametrize(
    ("offset", "ok"), [(-1, False), (0, False), (4, False), (5, True), (9, True), (10, True), (11, False)]
)
async def test_an_offset_outside_the_log_is_refused(log: Log, offset: int, ok: bool) -> None:
    topic = a_topic()
    for _ in range(10):
        await put(log, topic, a_batch())
    assert await log.trim([(topic, 0, 5)]) == [5]
    result = await get(log, topic, offset)
    assert isinstance(result, ReadResult) if ok else result.code == ErrorCode.OFFSET_OUT_OF_RANGE


async def test_trimming_frees_entries_and_keeps_the_batch_that_holds_the_new_start(log: Log, storage: Storage) -> None:
    topic = a_topic()
    for _ in range(300):
        await put(log, topic, a_batch(10))
    assert await log.trim([(topic, 0, 2505)]) == [2505]
    assert await storage.call(b"x", "XLEN", "rb:{orders:0}:log") == 50
    [bounds] = await log.bounds([(topic, 0)])
    assert isinstance(bounds, Bounds)
    assert (bounds.log_start, bounds.next) == (2505, 3000)
    assert 50 <= bounds.nbytes / len(a_batch(10)) <= 50 + 64
    result = await get(log, topic, 2505)
    assert result.batches[0].base_offset == 2500
    assert await log.trim([(topic, 0, 100)]) == [2505]
    assert await log.trim([(topic, 0, -1)]) == [3000]
    assert await storage.call(b"x", "XLEN", "rb:{orders:0}:log") == 0
    [beyond] = await log.trim([(topic, 0, 3001)])
    assert isinstance(beyond, KafkaError)
    assert beyond.code == ErrorCode.OFFSET_OUT_OF_RANGE
    [bounds] = await log.bounds([(topic, 0)])
    assert isinstance(bounds, Bounds)
    assert bounds.nbytes == 0


async def test_a_time_finds_the_record_inside_its_batch(log: Log) -> None:
    topic = a_topic()
    for i in range(200):
        await put(log, topic, a_batch(5, time=1000 + i * 100, step=10, codec="gzip" if i % 2 else "none"))
    wants = [(topic, 0, t) for t in (0, 1000, 1011, 1040, 1041, 10_020, 20_940, 20_941)]
    found = await log.find_time(wants)
    assert [f and f[:2] for f in found] == [  # type: ignore[index]
        (0, 1000),
        (0, 1000),
        (2, 1020),
        (4, 1040),
        (5, 1100),
        (452, 10_020),
        (999, 20_940),
        None,
    ]


async def test_a_time_is_found_in_offset_order_when_clocks_disagree(log: Log) -> None:
    topic = a_topic()
    for i in range(300):
        await put(log, topic, a_batch(1, time=5000 if i == 150 else 1000 + i))
    assert [f and f[0] for f in await log.find_time([(topic, 0, 1150), (topic, 0, 1151), (topic, 0, 5001)])] == [  # type: ignore[index]
        150,
        150,
        None,
    ]
    await log.trim([(topic, 0, 200)])
    assert [f and f[0] for f in await log.find_time([(topic, 0, 1000), (topic, 0, 1250), (topic, 0, 1300)])] == [  # type: ignore[index]
        200,
        250,
        None,
    ]


async def test_the_largest_timestamp_names_its_record_also_after_trimming(log: Log) -> None:
    topic = a_topic()
    assert await log.find_max_time([(topic, 0)]) == [None]
    for i in range(100):
        await put(log, topic, a_batch(3, time=9000 if i == 50 else 1000 + i, step=-1))
    [found] = await log.find_max_time([(topic, 0)])
    assert found is not None
    assert found[:2] == (150, 9000)  # type: ignore[index]
    await log.trim([(topic, 0, 151)])
    [found] = await log.find_max_time([(topic, 0)])
    assert found is not None
    assert found[:2] == (151, 8999)  # type: ignore[index]
    await log.trim([(topic, 0, 153)])
    [found] = await log.find_max_time([(topic, 0)])
    assert found is not None
    assert found[:2] == (297, 1099)  # type: ignore[index]


async def test_the_largest_timestamp_is_found_when_its_batch_lies_half_before_the_start(log: Log) -> None:
    topic = a_topic()
    await log.open_partitions(topic)
    await put(log, topic, a_batch(5, time=2000, step=-10))
    await put(log, topic, a_batch(5, time=1900, step=20))
    assert await log.find_max_time([(topic, 0)]) == [(0, 2000, 1)]
    await log.trim([(topic, 0, 3)])
    assert await log.find_max_time([(topic, 0)]) == [(9, 1980, 1)]


async def test_a_leader_epoch_used_twice_misleads_no_reader(log: Log, storage: Storage) -> None:
    topic, stem = a_topic(), "rb:{orders:0}:"
    await log.open_partitions(topic)
    for _ in range(2):
        await put(log, topic, a_batch())
    keys = [stem + name for name in ("log", "state", "epochs")]
    copies = [await storage.call(b"x", "DUMP", key) for key in keys]
    await storage.call(b"x", "HSET", stem + "state", "rid", "0" * 40)  # as if another master had written
    lost = await put(log, topic, a_batch())
    assert isinstance(lost, Appended) and (await get(log, topic, 2)).nbytes
    for key, copy in zip(keys, copies, strict=True):  # that master died with it; the next one began its epoch later
        await storage.call(b"x", "RESTORE", key, 0, copy, "REPLACE")
    for _ in range(3):
        await put(log, topic, a_batch())
    await storage.call(b"x", "HSET", stem + "state", "epoch", lost.leader_epoch, "since", 5)
    await storage.call(b"x", "ZADD", stem + "epochs", 5, lost.leader_epoch)
    assert [stored[1:] for stored in (await get(log, topic, 2)).batches] == [(2, 1), (3, 1), (4, 1)]


async def test_another_replication_id_bumps_the_leader_epoch_for_writers_and_readers(
    log: Log, storage: Storage
) -> None:
    topic = a_topic()
    await log.open_partitions(topic)
    first = await put(log, topic, a_batch(3))
    assert isinstance(first, Appended)
    assert first.leader_epoch == 1
    await storage.call(b"x", "HSET", "rb:{orders:0}:state", "rid", "0" * 40)  # as if another master had written
    result = await get(log, topic, 0, epoch=-1)
    bumped = result.leader_epoch
    assert bumped > 10_000_000
    assert [stored.leader_epoch for stored in result.batches] == [1]
    second = await put(log, topic, a_batch(2))
    assert isinstance(second, Appended)
    assert second.leader_epoch == bumped
    result = await get(log, topic, 0)
    assert [(s.base_offset, s.leader_epoch) for s in result.batches] == [(0, 1), (3, bumped)]
    assert (await get(log, topic, 0, epoch=1)).code == ErrorCode.FENCED_LEADER_EPOCH
    assert (await get(log, topic, 0, epoch=bumped + 1)).code == ErrorCode.UNKNOWN_LEADER_EPOCH
    assert isinstance(await get(log, topic, 0, epoch=bumped), ReadResult)
    ends = await log.epoch_end([(topic, 0, e) for e in (-1, 0, 1, 2, bumped, bumped + 1)])
    assert ends == [
        EpochEnd(-1, -1, bumped),
        EpochEnd(0, 0, bumped),
        EpochEnd(1, 3, bumped),
        EpochEnd(1, 3, bumped),
        EpochEnd(bumped, 5, bumped),
        EpochEnd(-1, -1, bumped),
    ]


async def test_a_reader_whose_epoch_was_trimmed_away_is_told_where_it_ended(log: Log, storage: Storage) -> None:
    topic = a_topic()
    await put(log, topic, a_batch(3))
    await storage.call(b"x", "HSET", "rb:{orders:0}:state", "rid", "0" * 40)  # as if another master had written
    bumped = (await get(log, topic, 3)).leader_epoch
    assert await log.trim([(topic, 0, 3)]) == [3]
    assert await log.epoch_end([(topic, 0, 1)]) == [EpochEnd(1, 3, bumped)]


async def test_a_second_worker_learns_old_epochs_by_itself(log: Log, storage: Storage) -> None:
    topic = a_topic()
    for _ in range(4):
        await put(log, topic, a_batch(3))
        await storage.call(b"x", "HSET", "rb:{orders:0}:state", "rid", "0" * 40)
    tail = Tail(storage, Settings())
    other = Log(storage, tail, Settings())
    for offset in (10, 4, 0, 7):
        result = await get(other, topic, offset)
        assert result.batches[0].base_offset == offset // 3 * 3
        assert result.batches[-1].base_offset == 9
    await other.close()
    await tail.close()


async def test_a_leader_epoch_that_changes_while_a_read_looks_elsewhere_hides_no_record(
    log: Log, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = a_topic()
    await log.open_partitions(topic)
    await put(log, topic, a_batch(), 1)  # and never looked at
    await put(log, topic, a_batch())
    assert (await get(log, topic, 0)).next == 1
    await put(log, topic, a_batch())
    learn = log.partitions.learn

    async def overtaken(partition: Partition, offset: int, kind: type[Call]) -> None:
        """Another master has partition 0 before partition 1 is known, and another read of this worker hears of it."""
        monkeypatch.setattr(log.partitions, "learn", learn)
        await learn(partition, offset, kind)
        await storage.call(b"x", "HSET", "rb:{orders:0}:state", "rid", "0" * 40)
        assert isinstance(await put(log, topic, a_batch()), Appended)
        assert len((await get(log, topic, 2)).batches) == 1

    monkeypatch.setattr(log.partitions, "learn", overtaken)
    moved, other = await log.read([Read(topic, 0, 1, 1 << 20), Read(topic, 1, 0, 1 << 20)], max_bytes=1 << 21)
    assert isinstance(moved, ReadResult) and isinstance(other, ReadResult)
    assert [(stored.base_offset, stored.leader_epoch == 1) for stored in moved.batches] == [(1, True), (2, False)]
    assert [stored.base_offset for stored in other.batches] == [0]


async def test_an_append_wakes_a_waiting_reader_at_once(log: Log) -> None:
    topic = a_topic()
    await put(log, topic, a_batch())
    read = Read(topic, 0, 1, 1000)

    async def reader() -> float:
        began = asyncio.get_running_loop().time()
        while True:
            [result] = await log.read([read], max_bytes=1000)
            assert isinstance(result, ReadResult)
            if result.batches:
                return asyncio.get_running_loop().time() - began
            await log.wait([(read, result)], 1, 5.0)

    waiting = asyncio.ensure_future(reader())
    await asyncio.sleep(0.2)
    await put(log, topic, a_batch())
    assert 0.19 < await asyncio.wait_for(waiting, 2) < 0.5


async def test_a_deleted_topic_is_gone_and_a_new_one_of_its_name_starts_empty(log: Log, storage: Storage) -> None:
    old = a_topic()
    await log.open_partitions(old)
    await put(log, old, a_batch(5))
    new = Topic("orders", uuid.uuid4(), 4, {}, old.created_ms + 1000)
    await log.drop_partitions(old)
    gone = await put(log, old, a_batch())
    assert isinstance(gone, KafkaError)
    assert gone.code == ErrorCode.UNKNOWN_TOPIC_ID
    assert await storage.call(b"x", "EXISTS", "rb:{orders:0}:log") == 0
    await log.open_partitions(new)
    stale = await put(log, old, a_batch())
    assert isinstance(stale, KafkaError)
    assert stale.code == ErrorCode.UNKNOWN_TOPIC_ID
    assert (await put(log, new, a_batch())).base_offset == 0  # type: ignore[union-attr]
    await log.drop_partitions(old)
    assert (await get(log, new, 0)).next == 1


async def test_a_log_that_was_lost_begins_again_in_another_leader_epoch(log: Log, storage: Storage) -> None:
    topic = a_topic()
    await log.open_partitions(topic)
    assert (await put(log, topic, a_batch(5))).leader_epoch == 1  # type: ignore[union-attr]
    names = ("log", "state", "epochs", "producers", "times")
    await storage.call(b"x", "DEL", *(f"rb:{{orders:0}}:{name}" for name in names))  # a master died before it told
    again = await put(log, topic, a_batch(9))
    assert isinstance(again, Appended)
    assert again.base_offset == 0 and again.leader_epoch > 10_000_000
    assert (await get(log, topic, 5, epoch=1)).code == ErrorCode.FENCED_LEADER_EPOCH
    assert await log.epoch_end([(topic, 0, 1)]) == [EpochEnd(1, 0, again.leader_epoch)]


async def test_a_topic_that_no_longer_exists_is_not_opened_again(storage: Storage) -> None:
    async def exists(topic: Topic) -> bool:
        return False

    tail = Tail(storage, Settings())
    log = Log(storage, tail, Settings(), exists=exists)
    answer = await put(log, a_topic(), a_batch())
    assert isinstance(answer, KafkaError)
    assert answer.code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert (await get(log, a_topic(), 0)).code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    await log.close()
    await tail.close()


async def test_batches_of_a_partition_that_must_be_opened_first_keep_their_order(storage: Storage) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def exists(topic: Topic) -> bool:
        asked.set()
        await answer.wait()
        return True

    tail = Tail(storage, Settings())
    log = Log(storage, tail, Settings(), exists=exists)
    topic = a_topic()
    batches = [a_batch(producer_id=9, producer_epoch=0, base_sequence=n) for n in range(5)]
    puts = [asyncio.ensure_future(put(log, topic, batches[0]))]
    await asked.wait()
    await log.open_partitions(topic)  # as another worker might
    puts += [asyncio.ensure_future(put(log, topic, batch)) for batch in batches[1:]]
    await asyncio.sleep(0.05)
    answer.set()
    assert [put.base_offset for put in await asyncio.gather(*puts)] == [0, 1, 2, 3, 4]  # type: ignore[union-attr]
    await log.close()
    await tail.close()


async def test_acks_all_without_enough_replicas_writes_nothing(storage: Storage) -> None:
    tail = Tail(storage, Settings())
    log = Log(storage, tail, Settings(), copies=lambda topic, slot: 2)
    topic = a_topic()
    answer = await put(log, topic, a_batch(), acks=-1)
    assert isinstance(answer, KafkaError)
    assert answer.code == ErrorCode.NOT_ENOUGH_REPLICAS
    assert (await get(log, topic, 0)).next == 0
    assert isinstance(await put(log, topic, a_batch(), acks=1), Appended)
    await log.close()
    await tail.close()


async def test_what_was_read_can_be_stamped_and_opened(log: Log) -> None:
    topic = a_topic()
    await put(log, topic, a_batch(4))
    await put(log, topic, a_batch(4, codec="zstd"))
    result = await get(log, topic, 0)
    records = [
        record
        for stored in result.batches
        for record in iter_records(b"".join(stamp(stored.batch, stored.base_offset, stored.leader_epoch)))
    ]
    assert [record.offset for record in records] == list(range(8))


async def test_a_reader_at_the_end_asks_redis_nothing_and_misses_nothing(valkey: Any) -> None:
    """Two workers: what one appends must reach the other's readers, who trust their subscription."""
    settings = Settings(storage_url=valkey.url)
    storages = [await Storage.open(settings) for _ in range(2)]
    tails = [Tail(storage, settings) for storage in storages]
    here, there = (Log(storage, tail, settings) for storage, tail in zip(storages, tails, strict=True))
    topic = a_topic()
    offset, quiet = 0, 0
    for round_number in range(60):
        read = Read(topic, 0, offset, 1 << 20)
        before = calls((await storages[1].on_masters("INFO", "commandstats"))[0][1], b"evalsha")
        [result] = await here.read([read], max_bytes=1 << 20, trust=True)
        after = calls((await storages[1].on_masters("INFO", "commandstats"))[0][1], b"evalsha")
        assert isinstance(result, ReadResult)
        assert result.next == offset, "a trusting reader may be late only by what is announced meanwhile"
        quiet += after == before
        appended = asyncio.ensure_future(put(there if round_number % 2 else here, topic, a_batch(round_number % 3 + 1)))
        while not result.batches:
            assert await here.wait([(read, result)], 1, 2.0)
            [result] = await here.read([read], max_bytes=1 << 20)
            assert isinstance(result, ReadResult)
        await appended
        offset = result.next
    assert quiet > 50
    for log, tail, storage in zip((here, there), tails, storages, strict=True):
        await log.close()
        await tail.close()
        await storage.close()
