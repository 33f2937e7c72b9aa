"""The high watermark and the barrier of a new leader epoch, on real masters and replicas that are paused and killed."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from redbroker.config import Settings
from redbroker.engine.connection import Storage
from redbroker.engine.log import Append, Appended, EpochEnd, Log, Read, ReadResult
from redbroker.engine.tail import Tail
from redbroker.engine.topics import Topic
from redbroker.engine.watermark import BUSY_ROUND_S, NO_ROUND, ROUND_S
from redbroker.errors import ErrorCode, KafkaError
from redbroker.wire.records import Record, build_batch, read_header
from tests.support.servers import Server, redis_binary, started, valkey_binary, wait_until

pytestmark = pytest.mark.anyio


def a_topic() -> Topic:
    return Topic("orders", uuid.uuid4(), 1, {}, 1_700_000_000_000)


@contextlib.contextmanager
def a_pair(binary: str | None) -> Iterator[tuple[Server, Server]]:
    master = Server(binary=binary)
    replica = Server("--replicaof", f"127.0.0.1 {master.port}", binary=binary)
    with started([master, replica]):
        in_step(master)
        yield master, replica


def in_step(master: Server) -> None:
    wait_until(lambda: "state=online" in master.info("slave0"), what="replica connects")
    wait_until(lambda: master.commands(("SET", "step", "1"), ("WAIT", 1, 500))[-1] == 1, what="replica is in step")


@pytest.fixture(scope="module", params=["valkey", "redis"])
def shared(request: pytest.FixtureRequest) -> Iterator[tuple[Server, Server]]:
    """A master and its replica, of either kind."""
    binary = valkey_binary() if request.param == "valkey" else redis_binary()
    if binary is None:
        pytest.skip("no redis-server on this machine")
    with a_pair(binary) as pair:
        yield pair


@pytest.fixture
def pair(shared: tuple[Server, Server]) -> Iterator[tuple[Server, Server]]:
    """The pair, empty and in step before and after, whatever a test does to the replica."""
    master, replica = shared
    master.flush()
    yield shared
    replica.cont()
    in_step(master)


@contextlib.asynccontextmanager
async def a_log(server: Server, copies: int = 2) -> AsyncIterator[Log]:
    """What one process has of a log."""
    settings = Settings(storage_url=server.url)
    storage = await Storage.open(settings)
    tail = Tail(storage, settings)
    log = Log(storage, tail, settings, copies=lambda topic, slot: copies)
    try:
        yield log
    finally:
        await log.close()
        await tail.close()
        await storage.close()


async def put(log: Log, topic: Topic, count: int = 1, acks: int = 1, timeout_ms: int = 10_000) -> Appended | KafkaError:
    batch = build_batch([Record(i, 1000 + i, b"k", b"v", []) for i in range(count)])
    [answer] = await log.append([Append(topic, 0, batch, read_header(batch))], acks=acks, timeout_ms=timeout_ms)
    return answer


async def get(log: Log, read: Read) -> ReadResult:
    [result] = await log.read([read], max_bytes=1 << 20)
    assert isinstance(result, ReadResult), result
    return result


async def followed(log: Log, read: Read, timeout_s: float = 5.0) -> ReadResult:
    """Wait as a Fetch does, until there are records."""
    async with asyncio.timeout(timeout_s):
        while not (result := await get(log, read)).batches:
            await log.wait([(read, result)], 1, timeout_s)
    return result


async def test_acknowledged_by_all_is_readable_at_once(pair: tuple[Server, Server]) -> None:
    topic = a_topic()
    async with a_log(pair[0]) as log:
        for number in range(20):
            assert isinstance(await put(log, topic, acks=-1), Appended)
            result = await get(log, Read(topic, 0, number, 1 << 20))
            assert (len(result.batches), result.next) == (1, number + 1)


@pytest.mark.system
async def test_a_replica_is_good_also_when_a_second_begins(pair: tuple[Server, Server]) -> None:
    """The lag that Redis tells is -1 then, for a moment: appends back to back for two seconds meet it."""
    topic = a_topic()
    async with a_log(pair[0]) as log:
        end = time.monotonic() + 2.2
        while time.monotonic() < end:
            assert isinstance(answer := await put(log, topic, acks=-1), Appended), answer


async def test_a_waiting_reader_gets_unacknowledged_records_as_soon_as_the_replica_has_them(
    pair: tuple[Server, Server],
) -> None:
    """Also through another process than the one that wrote; never only when the replica speaks by itself (1 s)."""
    topic = a_topic()
    async with a_log(pair[0]) as here, a_log(pair[0]) as there:
        assert isinstance(await put(here, topic), Appended)
        await followed(there, Read(topic, 0, 0, 1 << 20))
        took: list[float] = []
        for number in range(1, 21):
            reading = asyncio.ensure_future(followed(there, Read(topic, 0, number, 1 << 20)))
            await asyncio.sleep(0.02)
            begin = time.monotonic()
            assert isinstance(await put(here if number % 2 else there, topic), Appended)
            assert (await reading).next == number + 1
            took.append(time.monotonic() - begin)
        assert sorted(took)[10] < 0.1


async def test_what_somebody_else_proved_wakes_those_who_wait_here(pair: tuple[Server, Server]) -> None:
    """A look takes over another process's high watermark, and a waiting reader of the same process must hear of it."""
    topic = a_topic()
    async with a_log(pair[0]) as here, a_log(pair[0]) as there:
        await put(here, topic, acks=-1)
        await followed(here, Read(topic, 0, 0, 1 << 20))
        for number in range(1, 30):
            reading = asyncio.ensure_future(followed(here, Read(topic, 0, number, 1 << 20), 5))
            await put(there, topic, acks=-1)
            await asyncio.gather(*(log.bounds([(topic, 0)]) for log in (there, here)))
            assert (await reading).next == number + 1


async def test_a_changed_number_of_copies_counts_at_once(pair: tuple[Server, Server]) -> None:
    topic, (master, replica) = a_topic(), pair
    settings = Settings(storage_url=master.url)
    storage = await Storage.open(settings)
    tail = Tail(storage, settings)
    log = Log(storage, tail, settings, copies=lambda topic, slot: int(topic.configs.get("min.insync.replicas", "2")))
    try:
        await put(log, topic, acks=-1)
        replica.stop()
        await put(log, topic)
        assert (await get(log, Read(topic, 0, 0, 1 << 20))).next == 1
        relaxed = Topic(topic.name, topic.id, 1, {"min.insync.replicas": "1"}, topic.created_ms)
        assert (await get(log, Read(relaxed, 0, 0, 1 << 20))).next == 2
    finally:
        await log.close()
        await tail.close()
        await storage.close()


async def test_what_a_silent_replica_lacks_is_not_read(pair: tuple[Server, Server]) -> None:
    topic, (master, replica) = a_topic(), pair
    async with a_log(master) as log, a_log(master) as other:
        assert isinstance(await put(log, topic, 3, acks=-1), Appended)
        replica.stop()
        assert isinstance(await put(log, topic, 4), Appended)
        late = await put(log, topic, 2, acks=-1, timeout_ms=300)
        assert isinstance(late, KafkaError)
        assert late.code is ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND
        read = Read(topic, 0, 3, 1 << 20)
        for reader in (log, other):
            result = await get(reader, read)
            assert (result.batches, result.next) == ([], 3)
            [bounds] = await reader.bounds([(topic, 0)])
            [found] = await reader.find_time([(topic, 0, 1003)])
            [largest] = await reader.find_max_time([(topic, 0)])
            assert not isinstance(bounds, KafkaError)
            assert (bounds.next, found) == (3, None)
            assert isinstance(largest, tuple)
            assert largest[0] == 2
            # An offset between the high watermark and the log end is no error; beyond the log end it is.
            assert (await get(reader, Read(topic, 0, 9, 1 << 20))).batches == []
            [outside] = await reader.read([Read(topic, 0, 10, 1 << 20)], max_bytes=1)
            assert isinstance(outside, KafkaError)
        waits = [asyncio.ensure_future(followed(reader, read, 20)) for reader in (log, other)]
        assert not (await asyncio.wait(waits, timeout=0.5))[0]
        replica.cont()
        for result in await asyncio.gather(*waits):
            assert result.next == 9


async def test_a_process_that_comes_later_knows_the_high_watermark_although_no_replica_is_left() -> None:
    topic = a_topic()
    with a_pair(None) as (master, replica):
        async with a_log(master) as log:
            for _ in range(3):
                await put(log, topic, acks=-1)
            await get(log, Read(topic, 0, 0, 1))
            await put(log, topic)
            await followed(log, Read(topic, 0, 3, 1 << 20))
            await put(log, topic)
        replica.kill()
        async with a_log(master) as log:
            assert (await get(log, Read(topic, 0, 0, 1 << 20))).next >= 3


async def test_without_replicas_to_wait_for_the_log_end_is_read_at_once(pair: tuple[Server, Server]) -> None:
    topic, (master, replica) = a_topic(), pair
    replica.stop()
    async with a_log(master, copies=1) as log:
        await put(log, topic, 4)
        assert (await get(log, Read(topic, 0, 0, 1 << 20))).next == 4
        assert master.command("HGET", f"rb:{{{topic.name}:0}}:state", "confirmed") is None


async def test_readers_pass_on_a_full_server(pair: tuple[Server, Server]) -> None:
    topic, (master, _) = a_topic(), pair
    async with a_log(master) as log, a_log(master) as other:
        await put(log, topic, 2)
        master.command("CONFIG", "SET", "maxmemory", "1")
        try:
            assert (await followed(other, Read(topic, 0, 0, 1 << 20))).next == 2
        finally:
            master.command("CONFIG", "SET", "maxmemory", "0")


@pytest.mark.system
async def test_a_silent_replica_is_soon_known_before_writing_and_comes_back_by_itself(
    pair: tuple[Server, Server],
) -> None:
    topic, (master, replica) = a_topic(), pair
    async with a_log(master) as log:
        assert isinstance(await put(log, topic, acks=-1), Appended)
        replica.stop()
        begin = time.monotonic()
        codes = set()
        while time.monotonic() < begin + 10:
            refused = await put(log, topic, acks=-1, timeout_ms=100)
            assert isinstance(refused, KafkaError)
            codes.add(refused.code)
            if refused.code is ErrorCode.NOT_ENOUGH_REPLICAS:
                break
        assert time.monotonic() - begin < 5
        assert codes == {ErrorCode.NOT_ENOUGH_REPLICAS, ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND}
        assert "state=online" in master.info("slave0")
        replica.cont()
        async with asyncio.timeout(10):
            while isinstance(await put(log, topic, acks=-1, timeout_ms=500), KafkaError):
                pass


async def test_records_a_failover_takes_back_were_never_read_and_the_cut_is_told() -> None:
    topic = a_topic()
    with a_pair(None) as (master, replica):
        async with a_log(master) as log:
            kept = await put(log, topic, 5, acks=-1)
            assert isinstance(kept, Appended)
            replica.command("REPLICAOF", "NO", "ONE")  # promoted, and the old master knows nothing of it
            doomed = await put(log, topic, 7)
            assert isinstance(doomed, Appended)
            assert doomed.base_offset == 5
            result = await get(log, Read(topic, 0, 5, 1 << 20, kept.leader_epoch))
            assert (result.batches, result.next) == ([], 5)
        async with a_log(replica) as log:
            begin = time.monotonic()
            async with asyncio.timeout(10):
                while True:
                    [answer] = await log.read([Read(topic, 0, 5, 1 << 20, kept.leader_epoch)], max_bytes=1 << 20)
                    assert isinstance(answer, KafkaError)
                    if answer.code is not ErrorCode.NOT_LEADER_OR_FOLLOWER:
                        break
            # Nothing could have the new epoch: it served nothing before a second had passed.
            assert time.monotonic() - begin > 0.9
            assert answer.code is ErrorCode.FENCED_LEADER_EPOCH
            [end] = await log.epoch_end([(topic, 0, kept.leader_epoch)])
            assert isinstance(end, EpochEnd)
            assert (end.epoch, end.end_offset) == (kept.leader_epoch, 5)
            [newer] = await log.read([Read(topic, 0, 5, 1 << 20, end.leader_epoch + 1)], max_bytes=1)
            assert isinstance(newer, KafkaError)
            assert newer.code is ErrorCode.UNKNOWN_LEADER_EPOCH


async def test_a_new_epoch_that_replicas_have_serves_without_delay(pair: tuple[Server, Server]) -> None:
    topic, (master, _) = a_topic(), pair
    async with a_log(master) as log:
        first = await put(log, topic, acks=-1)
        assert isinstance(first, Appended)
        state = f"rb:{{{topic.name}:0}}:state"
        master.command("HSET", state, "rid", "0" * 40)  # as if it had been another master's
        begin = time.monotonic()
        second = await put(log, topic, acks=-1)
        assert isinstance(second, Appended), second
        assert second.leader_epoch > first.leader_epoch
        assert time.monotonic() - begin < 0.9
        assert master.command("HGET", state, "bumped") is None


async def test_a_new_epoch_that_no_replica_has_serves_nothing_for_a_second(pair: tuple[Server, Server]) -> None:
    topic, (master, replica) = a_topic(), pair
    async with a_log(master) as log:
        first = await put(log, topic, acks=-1)
        assert isinstance(first, Appended)
        replica.stop()
        master.command("HSET", f"rb:{{{topic.name}:0}}:state", "rid", "0" * 40)
        begin = time.monotonic()
        answers: list[Any] = []
        async with asyncio.timeout(10):
            while not answers or isinstance(answers[-1], KafkaError):
                answers.append(await put(log, topic))
        assert time.monotonic() - begin > 0.9
        assert {answer.code for answer in answers[:-1]} == {ErrorCode.NOT_LEADER_OR_FOLLOWER}


async def test_one_question_proves_all_that_was_appended_here_and_nothing_another_master_told(
    pair: tuple[Server, Server],
) -> None:
    topic, (master, _) = Topic("many", uuid.uuid4(), 8, {}, 1_700_000_000_000), pair
    async with a_log(master) as log:
        partitions = [log.partitions.get(topic, number) for number in range(8)]
        batch = build_batch([Record(0, 1000, b"k", b"v", [])])
        entries = [Append(topic, number, batch, read_header(batch)) for number in range(8)]
        for _ in range(2):
            assert all(isinstance(answer, Appended) for answer in await log.append(entries, acks=1, timeout_ms=5_000))
        assert all(partition.proved == 0 for partition in partitions)  # nobody reads
        stranger = partitions[5]
        assert stranger.told is not None
        stranger.told = stranger.told._replace(rid=b"0" * 40)
        before = waits(master)
        assert await log._watermark._confirm_all(partitions) == [stranger]
        asked = [each for each in partitions if master.command("HGET", each.keys.state, "confirmed") is not None]
        assert (waits(master) - before, len(asked)) == (1, 1)
        assert [partition.proved for partition in partitions] == [2, 2, 2, 2, 2, 0, 2, 2]
        assert await log._watermark._confirm_all([stranger]) == []
        assert stranger.proved == 2


def waits(server: Server) -> int:
    """How many WAITs it has answered."""
    return int(server.info("cmdstat_wait").partition("calls=")[2].partition(",")[0] or 0)


async def test_an_end_told_before_a_failover_is_not_proved_by_the_next_master(pair: tuple[Server, Server]) -> None:
    """The log was cut meanwhile: what the old master told of its end says nothing about the new one's."""
    topic, (master, _) = a_topic(), pair
    async with a_log(master) as log:
        assert isinstance(await put(log, topic, 3, acks=-1), Appended)
        assert isinstance(await put(log, topic, 2), Appended)
        partition = log.partitions.get(topic, 0)
        assert partition.told is not None
        assert partition.told.end == 5
        master.command("HSET", partition.keys.state, "rid", "0" * 40, "next", 3)  # as a replica without the two has it
        partition.told = partition.told._replace(rid=b"0" * 40)
        await log._watermark._confirm_all([partition])
        assert partition.proved == 3


def test_rounds_become_rarer_under_load_and_are_dense_again_after_it() -> None:
    idle = NO_ROUND.next(10.0, 3)
    assert idle.period_s == ROUND_S
    busy = idle.next(10.005, 1_000)
    assert busy.period_s == BUSY_ROUND_S
    assert ROUND_S < busy.next(10.025, 1_020).period_s < BUSY_ROUND_S
    assert busy.next(12.0, 1_001).period_s == ROUND_S


async def test_records_that_no_replica_has_are_not_deleted(pair: tuple[Server, Server]) -> None:
    """DeleteRecords ends at the high watermark: a failover may put other records where it has not been proved."""
    master, replica = pair
    topic = a_topic()
    async with a_log(master) as log:
        assert isinstance(await put(log, topic, 3, acks=-1), Appended)
        replica.stop()
        assert isinstance(await put(log, topic, 2), Appended)
        assert await log.trim([(topic, 0, -1)]) == [3]
        [beyond] = await log.trim([(topic, 0, 4)])
        assert isinstance(beyond, KafkaError)
        assert beyond.code is ErrorCode.OFFSET_OUT_OF_RANGE
        replica.cont()
        in_step(master)
        await followed(log, Read(topic, 0, 3, 1 << 20), 10)
        assert await log.trim([(topic, 0, -1)]) == [5]
