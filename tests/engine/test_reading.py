"""Reading while everything else goes on: many workers and readers, new leader epochs, logs cut back, slow answers.

What a worker remembers of a partition is shared by all its coroutines, so each may find it changed after an `await`.
Random pauses around every call bring about what happens rarely otherwise. Whatever comes between, a reader that goes
on where it ended has in the end what the log has: nothing skipped, nothing twice, nothing of what was cut off.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest

from redbroker.config import Settings
from redbroker.engine.connection import Storage
from redbroker.engine.keys import PartitionKeys
from redbroker.engine.log import Append, Appended, EpochEnd, Log, Read, ReadResult
from redbroker.engine.tail import Tail
from redbroker.engine.topics import Topic
from redbroker.errors import ErrorCode, KafkaError
from redbroker.types import TopicPartition
from redbroker.wire.records import Record, build_batch, read_header, record_count
from tests.support.cuts import begin_epoch, cut_back, keep
from tests.support.slow import Slow

pytestmark = pytest.mark.anyio

SECONDS = 3.5
WORKERS, APPENDERS, READERS = 3, 3, 8
PARTITIONS = 6
CUT = (0, 1)
"""The partitions whose logs are cut back now and then; the others only get new leader epochs."""
WHOLE = range(len(CUT), PARTITIONS)


class Seen(NamedTuple):
    """One batch, as a reader got it or the log has it."""

    base: int
    count: int
    epoch: int
    batch: bytes


class World:
    """One topic, and all that happens to it at once for a while."""

    def __init__(self, storage: Storage, tails: list[Tail], slow: list[Slow], chance: random.Random) -> None:
        self.storage, self.tails, self.slow, self.chance = storage, tails, slow, chance
        self.topic = Topic("orders", uuid.uuid4(), PARTITIONS, {}, 1_700_000_000_000)
        self.logs = [self.worker(number) for number in range(WORKERS)]
        self.changing = self.reading = True
        self.counts: Counter[str] = Counter()
        self.stored: list[dict[int, int]] = [{} for _ in range(PARTITIONS)]  # first offset -> largest timestamp

    def worker(self, number: int) -> Log:
        """A worker that remembers nothing yet."""
        slow: Any = self.slow[number]
        return Log(slow, self.tails[number], self.storage.settings)

    async def run(self, seconds: float) -> None:
        await self.logs[0].open_partitions(self.topic)
        readers = [Reader(self, worker) for worker in range(WORKERS) for _ in range(READERS)]
        changes = self.start(*(self.append(self.logs[0]) for _ in range(APPENDERS)), self.fail_over(), self.cut_back())
        changes += self.start(self.begin_again())
        reads = self.start(*(reader.run() for reader in readers), *(self.search(number) for number in range(WORKERS)))
        done, _ = await asyncio.wait([*changes, *reads], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for broken in done:
            broken.result()
        self.changing = False
        await asyncio.gather(*changes)
        self.reading = False
        await asyncio.wait_for(asyncio.gather(*reads), 20)
        for partition in range(PARTITIONS):
            log = await self.entries(partition)
            for reader in readers:
                reader.agree(partition, log)

    def start(self, *work: Coroutine[Any, Any, None]) -> list[asyncio.Task[None]]:
        return [asyncio.ensure_future(each) for each in work]

    async def pause(self, most_s: float) -> None:
        await asyncio.sleep(self.chance.random() * most_s)

    async def entries(self, partition: int) -> list[Seen]:
        key = PartitionKeys(self.storage.settings.key_prefix, TopicPartition("orders", partition)).log
        found = []
        for id_, (_, batch) in await self.storage.call(key, "XRANGE", key, "-", "+"):
            epoch, _, last = id_.partition(b"-")
            count = record_count(batch)
            found.append(Seen(int(last) - count + 1, count, int(epoch), batch))
        return found

    # --- what changes ----------------------------------------------------------------------------------------

    async def append(self, log: Log) -> None:
        while self.changing:
            partition, time = self.chance.randrange(PARTITIONS), self.chance.randrange(100_000)
            self.counts["appended"] += 1
            key, size = b"%d" % self.counts["appended"], self.chance.randrange(400)
            records = [Record(i, time + i, key, bytes(size), []) for i in range(self.chance.randint(1, 4))]
            batch = build_batch(records)
            entry = Append(self.topic, partition, batch, read_header(batch))
            [answer] = await log.append([entry], acks=1, timeout_ms=1000)
            assert isinstance(answer, Appended), answer
            self.stored[partition][answer.base_offset] = time + len(records) - 1
            await self.pause(0.004)

    async def fail_over(self) -> None:
        while self.changing:
            await begin_epoch(self.storage, TopicPartition("orders", self.chance.choice(WHOLE)))
            self.counts["epochs"] += 1
            await self.pause(0.04)

    async def cut_back(self) -> None:
        while self.changing:
            partition = TopicPartition("orders", self.chance.choice(CUT))
            await keep(self.storage, partition)
            await self.pause(0.1)
            await cut_back(self.storage, partition)
            self.counts["cuts"] += 1
            await self.pause(0.1)

    async def begin_again(self) -> None:
        while self.changing:
            number = self.chance.randrange(WORKERS)
            self.logs[number] = self.worker(number)
            self.counts["workers"] += 1
            await self.pause(0.06)

    # --- who looks -------------------------------------------------------------------------------------------

    async def search(self, worker: int) -> None:
        """What was stored before somebody asked for times is found."""
        while self.reading:
            partition = self.chance.choice(WHOLE)
            known = dict(self.stored[partition])
            [found] = await self.logs[worker].find_max_time([(self.topic, partition)])
            if known:
                assert isinstance(found, tuple), found
                assert found[1] >= max(known.values())
                self.counts["searches"] += 1
            await self.pause(0.05)


class Reader:
    """A client: reads partitions together, each from where it is, and follows what it is told of leader epochs.

    Many clients do not say which epoch they believe in; only those that do can find out that a log was cut back.
    """

    def __init__(self, world: World, worker: int) -> None:
        self.world, self.worker, self.chance = world, worker, world.chance
        self.claims = self.chance.random() < 0.25
        self.seen: list[list[Seen]] = [[] for _ in range(PARTITIONS)]
        self.offset = [0] * PARTITIONS
        self.epoch = [-1] * PARTITIONS

    async def run(self) -> None:
        while self.world.reading:
            if self.chance.random() < 0.1:
                self.begin_again(self.chance.randrange(PARTITIONS))
            some = self.chance.sample(range(PARTITIONS), self.chance.randint(1, PARTITIONS))
            await self.read(some, self.chance.choice((600, 3_000, 30_000)), trust=self.chance.random() < 0.5)
        while await self.read(range(PARTITIONS), 1 << 20, trust=False):
            pass

    def begin_again(self, partition: int) -> None:
        """As a new client, somewhere in the log."""
        self.seen[partition] = []
        self.epoch[partition] = -1
        self.offset[partition] = int(self.offset[partition] * self.chance.random())

    async def read(self, partitions: Any, max_bytes: int, *, trust: bool) -> bool:
        """One Fetch, and a wait where it brought nothing; whether it brought anything."""
        log, topic = self.world.logs[self.worker], self.world.topic
        reads = [Read(topic, each, self.offset[each], max_bytes, self.epoch[each]) for each in partitions]
        results = await log.read(reads, max_bytes=max_bytes * self.chance.randint(1, PARTITIONS), trust=trust)
        quiet = []
        for read, result in zip(reads, results, strict=True):
            if isinstance(result, KafkaError):
                await self.refused(read.partition, result, log)
            else:
                self.take(read.partition, result)
                if result.next <= read.offset:
                    quiet.append((read, result))
        if len(quiet) == len(reads) and self.world.reading:
            await log.wait(quiet, 1, 0.02)
        return len(quiet) < len(reads)

    def take(self, partition: int, result: ReadResult) -> None:
        if self.claims or partition in CUT:
            self.epoch[partition] = result.leader_epoch
        seen = self.seen[partition]
        for batch, base, epoch in result.batches:
            at, count = self.offset[partition], record_count(batch)
            assert (base == at) if seen else (base <= at < base + count), f"{partition}: {base}, {count} long, at {at}"
            assert (seen[-1].epoch if seen else 0) <= epoch <= result.leader_epoch
            seen.append(Seen(base, count, epoch, batch))
            self.offset[partition] = base + count
            self.world.counts["read"] += 1

    async def refused(self, partition: int, refusal: KafkaError, log: Log) -> None:
        self.world.counts[refusal.code.name] += 1
        seen = self.seen[partition]
        if refusal.code == ErrorCode.NOT_LEADER_OR_FOLLOWER:
            return
        if not seen:
            assert refusal.code in (ErrorCode.FENCED_LEADER_EPOCH, ErrorCode.OFFSET_OUT_OF_RANGE)
            assert partition in CUT or refusal.code == ErrorCode.FENCED_LEADER_EPOCH
            self.begin_again(partition)
            return
        assert refusal.code == ErrorCode.FENCED_LEADER_EPOCH
        [end] = await log.epoch_end([(self.world.topic, partition, seen[-1].epoch)])
        assert isinstance(end, EpochEnd) and end.epoch >= 0
        while seen and (seen[-1].base >= end.end_offset or seen[-1].epoch > end.epoch):
            seen.pop()
        self.world.counts["went back"] += self.offset[partition] > end.end_offset
        self.offset[partition] = min(self.offset[partition], end.end_offset)
        self.epoch[partition] = end.leader_epoch

    def agree(self, partition: int, log: list[Seen]) -> None:
        seen = self.seen[partition]
        there = [each for each in log if seen and each.base >= seen[0].base]
        wrong = next((place for place, (one, other) in enumerate(zip(seen, there, strict=False)) if one != other), None)
        assert wrong is None, f"{partition}: {seen[wrong][:3]} was read where {there[wrong][:3]} is"
        assert len(seen) == len(there), f"{partition}: {len(seen)} batches were read, {len(there)} are there"


@asynccontextmanager
async def a_world(url: str, chance: random.Random) -> AsyncIterator[World]:
    settings = Settings(storage_url=url)
    storage = await Storage.open(settings)
    tails = [Tail(storage, settings) for _ in range(WORKERS)]
    slow = [Slow(storage, chance) for _ in range(WORKERS)]
    world = World(storage, tails, slow, chance)
    yield world
    for each in (*world.logs, *tails, *slow, storage):
        await each.close()


@pytest.mark.parametrize("seed", [1, 2])
async def test_whatever_comes_between_readers_have_in_the_end_what_the_log_has(valkey: Any, seed: int) -> None:
    async with a_world(valkey.url, random.Random(seed)) as world:
        await world.run(SECONDS)
    assert world.counts["read"] > 100 and world.counts["went back"], world.counts


async def test_a_log_cut_back_between_the_two_calls_of_a_read_is_read_again(
    valkey: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the connection is lost behind the first answer, and the second call is sent again to another master."""
    async with a_world(valkey.url, random.Random(1)) as world:
        first, storage = TopicPartition("orders", 0), world.storage
        log, other = (Log(storage, tail, storage.settings) for tail in world.tails[:2])
        await log.open_partitions(world.topic)

        async def append(through: Log, times: int) -> None:
            batch = build_batch([Record(0, 1_000, None, b"", [])])
            for _ in range(times):
                await through.append([Append(world.topic, 0, batch, read_header(batch))], acks=1, timeout_ms=1000)

        await append(log, 7)
        await keep(storage, first)
        await append(log, 3)
        call = storage.call

        def late(key: bytes, command: str, *words: Any, **options: Any) -> asyncio.Future[Any]:
            async def after_a_failover() -> Any:
                await cut_back(storage, first)
                await append(other, 5)
                return await call(key, command, *words, **options)

            if command != "XRANGE":
                return call(key, command, *words, **options)
            monkeypatch.undo()
            return asyncio.ensure_future(after_a_failover())

        monkeypatch.setattr(storage, "call", late)
        [result] = await log.read([Read(world.topic, 0, 9, 1 << 20, 1)], max_bytes=1 << 20)
        assert isinstance(result, KafkaError) and result.code == ErrorCode.FENCED_LEADER_EPOCH
        await other.close()
        await log.close()
