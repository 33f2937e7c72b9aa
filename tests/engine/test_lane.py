"""Lanes to several masters, one of which says nothing: its own readers are refused, nobody else waits."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from statistics import median
from typing import Any

import pytest

from redbroker.config import Settings
from redbroker.engine.connection import Storage
from redbroker.engine.log import Append, Appended, Log, Read, ReadResult
from redbroker.engine.slots import key_slot
from redbroker.engine.tail import Tail
from redbroker.engine.topics import Topic
from redbroker.errors import KafkaError
from redbroker.wire.records import Record, build_batch, read_header
from tests.support.clusters import Cluster, a_cluster
from tests.support.servers import Server

pytestmark = pytest.mark.anyio

TIMEOUT_S = 2.0
PATIENCE_S = TIMEOUT_S / 10
TICK_S = 0.05
AT_ONCE_S = 0.75 * PATIENCE_S
"""Less than a wait: what does not wait takes a millisecond, on a busy machine somewhat more."""
PARTITIONS = 12


@pytest.fixture(scope="module")
def lonely_masters() -> Iterator[Cluster]:
    """Three masters without replicas, whose cluster takes a silent one for living."""
    options = ("--cluster-node-timeout", "60000", "--enable-debug-command", "yes")
    with a_cluster(3, 0, *options) as cluster:
        yield cluster


def offsets(result: ReadResult) -> list[int]:
    return [batch.base_offset for batch in result.batches]


class Place:
    """A topic with a record in each partition, and a way to read all of it at once."""

    def __init__(self, log: Log, topic: Topic, masters: list[Server]) -> None:
        self.log, self.topic, self.masters = log, topic, masters
        self.took_s = 0.0

    def of(self, server: Server) -> list[int]:
        """The partitions a master has."""
        return [number for number, master in enumerate(self.masters) if master is server]

    def others(self, server: Server) -> list[int]:
        """The partitions it does not have."""
        return [number for number, master in enumerate(self.masters) if master is not server]

    async def append(self, number: int) -> None:
        batch = build_batch([Record(0, 1_000, b"k", b"%d" % number, [])])
        entry = Append(self.topic, number, batch, read_header(batch))
        [answer] = await self.log.append([entry], acks=1, timeout_ms=1_000)
        assert isinstance(answer, Appended)

    async def read(self, offset: int = 0) -> list[ReadResult | KafkaError]:
        """All partitions from an offset on, in one read."""
        reads = [Read(self.topic, number, offset, 1 << 20) for number in range(PARTITIONS)]
        began_s = time.monotonic()
        results = await self.log.read(reads, max_bytes=PARTITIONS << 20)
        self.took_s = time.monotonic() - began_s
        return results

    async def answered(self, offset: int = 0) -> list[int]:
        """The partitions that gave exactly their one record; what others are told can be tried again."""
        results = await self.read(offset)
        assert all(result.retriable for result in results if isinstance(result, KafkaError))
        read = {number: each for number, each in enumerate(results) if isinstance(each, ReadResult)}
        assert all(offsets(each) == [offset] for each in read.values())
        return list(read)

    async def read_again(self, offset: int = 0) -> list[ReadResult]:
        """Read until no partition is refused any more."""
        until_s = time.monotonic() + 5
        while time.monotonic() < until_s:
            results = await self.read(offset)
            answered = [each for each in results if isinstance(each, ReadResult)]
            if len(answered) == PARTITIONS:
                return answered
            await asyncio.sleep(0.02)
        raise AssertionError(f"still refused: {results}")


@contextlib.asynccontextmanager
async def a_place(url: str, master_of: Any) -> AsyncIterator[Place]:
    settings = Settings(storage_url=url, storage_timeout_ms=int(TIMEOUT_S * 1_000))
    storage = await Storage.open(settings)
    tail = Tail(storage, settings)
    log = Log(storage, tail, settings)
    topic = Topic("spread", uuid.uuid4(), PARTITIONS, {}, 1_700_000_000_000)
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    await log.open_partitions(topic)
    place = Place(log, topic, [master_of(key_slot(f"rb:{{spread:{n}}}:log".encode())) for n in range(PARTITIONS)])
    for number in range(PARTITIONS):
        await place.append(number)
    yield place
    await log.close()
    await tail.close()
    await storage.close()
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []


@pytest.fixture
async def place(lonely_masters: Cluster) -> AsyncIterator[Place]:
    lonely_masters.heal()
    lonely_masters.flush()
    async with a_place(lonely_masters.url, lonely_masters.master_of) as place:
        yield place
    lonely_masters.heal()


@pytest.mark.parametrize("met", [True, False], ids=["met before", "never met"])
async def test_a_silent_master_holds_up_the_first_read_a_little_and_later_ones_not_at_all(
    place: Place, met: bool
) -> None:
    if met:
        assert await place.answered() == list(range(PARTITIONS))
    silent = place.masters[0]
    silent.stop()
    try:
        assert await place.answered() == place.others(silent)
        assert PATIENCE_S - TICK_S <= place.took_s < PATIENCE_S + 2 * TICK_S + AT_ONCE_S
        took_s = []
        until_s = time.monotonic() + 2 * TIMEOUT_S  # its connection is given up meanwhile, and another one hangs
        while time.monotonic() < until_s:
            assert await place.answered() == place.others(silent)
            took_s.append(place.took_s)
            await asyncio.sleep(0.01)
        assert max(took_s) < AT_ONCE_S
        assert median(took_s) < AT_ONCE_S / 10
        for number in place.others(silent):
            await place.append(number)
        assert await place.answered(1) == place.others(silent)
    finally:
        silent.cont()
    await place.read_again()
    for number in place.of(silent):
        await place.append(number)
    assert [offsets(result) for result in await place.read_again()] == [[0, 1]] * PARTITIONS


async def test_leader_epochs_are_told_without_waiting_for_a_silent_master(place: Place) -> None:
    silent = place.masters[0]
    silent.stop()
    wants = [(place.topic, number, 0) for number in range(PARTITIONS)]
    for longest_s in (PATIENCE_S + 2 * TICK_S + AT_ONCE_S, AT_ONCE_S):
        began_s = time.monotonic()
        ends = await place.log.epoch_end(wants, impatient=True)
        bounds = await place.log.bounds([(topic, number) for topic, number, _ in wants], impatient=True)
        assert time.monotonic() - began_s < longest_s
        for told in (ends, bounds):
            assert [n for n, each in enumerate(told) if not isinstance(each, KafkaError)] == place.others(silent)


async def test_an_append_waits_for_a_master_that_readers_have_given_up(place: Place) -> None:
    silent = place.masters[0]
    silent.stop()
    await place.answered()
    appending = asyncio.create_task(place.append(0))
    assert await place.answered() == place.others(silent)
    assert not appending.done()
    silent.cont()
    await appending
    assert [offsets(result) for result in await place.read_again()] == [[0, 1]] + [[0]] * (PARTITIONS - 1)


async def test_a_dead_master_holds_up_nobody_else(place: Place) -> None:
    await place.answered()
    dead = place.masters[0]
    dead.kill()
    assert await place.answered() == place.others(dead)
    assert place.took_s < PATIENCE_S + 2 * TICK_S + AT_ONCE_S
    await asyncio.sleep(PATIENCE_S)
    for _ in range(10):
        assert await place.answered() == place.others(dead)
        assert place.took_s < AT_ONCE_S
        await asyncio.sleep(0.02)


async def test_a_master_that_is_always_slow_is_read_all_the_same(place: Place) -> None:
    slow = place.masters[0]
    slow_s = 2.5 * PATIENCE_S
    stopping = asyncio.Event()

    async def keep_busy() -> None:
        while not stopping.is_set():
            await asyncio.to_thread(slow.command, "DEBUG", "SLEEP", slow_s)

    busy = asyncio.create_task(keep_busy())
    await asyncio.sleep(0.1)
    whole = 0
    began_s = time.monotonic()
    while time.monotonic() - began_s < 4 * TIMEOUT_S:
        whole += len(await place.answered()) == PARTITIONS
        await asyncio.sleep(0.02)
    stopping.set()
    await busy
    assert whole >= 6


async def test_while_nobody_is_silent_reading_takes_no_task_and_no_timer_of_its_own(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    await place.answered()
    loop = asyncio.get_running_loop()
    made: dict[str, int] = {}

    def counted(name: str) -> None:
        method = getattr(loop, name)

        def counting(*what: Any, **how: Any) -> Any:
            made[name] = made.get(name, 0) + 1
            return method(*what, **how)

        monkeypatch.setattr(loop, name, counting)

    for name in ("create_task", "call_later", "call_at"):
        counted(name)
    began_s = time.monotonic()
    for _ in range(50):
        await place.answered()
    monkeypatch.undo()
    ticks = (time.monotonic() - began_s) / TICK_S + 1
    assert made.get("create_task", 0) == 0
    assert made.get("call_later", 0) <= 3 * ticks  # one timer for each of three lanes, however much is read


async def test_a_single_master_is_waited_for_as_long_as_ever() -> None:
    with Server() as server:
        async with a_place(server.url, lambda slot: server) as place:
            server.stop()
            reading = asyncio.create_task(place.answered())
            await asyncio.sleep(0.6 * TIMEOUT_S)
            server.cont()
            assert await reading == list(range(PARTITIONS))
