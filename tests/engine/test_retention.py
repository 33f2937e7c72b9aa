"""Retention: what is old or too much goes, batch by batch, and nothing else does."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from redbroker.config import Settings
from redbroker.engine import Engine
from redbroker.engine.log import Append
from redbroker.engine.retention import STEP_BYTES, STEP_ENTRIES
from redbroker.engine.topics import Topic
from redbroker.errors import KafkaError
from redbroker.wire.records import Record, build_batch, read_header

pytestmark = pytest.mark.anyio

HOUR_MS = 3_600_000


@pytest.fixture(params=["valkey", "redis7"])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    async with Engine.open(
        Settings(storage_url=request.getfixturevalue(request.param).url, num_partitions=1)
    ) as engine:
        yield engine


async def put(engine: Engine, topic: Topic, *times: int, size: int = 20) -> None:
    batches = [build_batch([Record(0, at, b"k", bytes(size), [])]) for at in times]
    for start in range(0, len(batches), 500):
        entries = [Append(topic, 0, batch, read_header(batch)) for batch in batches[start : start + 500]]
        assert not [each for each in await engine.log.append(entries, acks=1, timeout_ms=1_000)
                    if isinstance(each, KafkaError)]  # fmt: skip


async def bounds(engine: Engine, topic: Topic) -> tuple[int, int, int]:
    [found] = await engine.log.bounds([(topic, 0)])
    assert not isinstance(found, KafkaError)
    return found.log_start, found.next, found.nbytes


def ago(hours: float) -> int:
    return int(time.time() * 1000 - hours * HOUR_MS)


async def test_batches_older_than_retention_ms_go_and_the_log_start_is_exact(engine: Engine) -> None:
    topic = await engine.topics.create("t", configs={"retention.ms": str(HOUR_MS)})
    await put(engine, topic, *[ago(2)] * 70, ago(0.5), ago(3), ago(0))
    await engine.janitor.trim()
    assert (await bounds(engine, topic))[:2] == (70, 73), "the old batch behind a younger one stays, as in Kafka"
    assert engine.janitor.counts.trimmed_entries == 70


async def test_everything_may_go_and_the_log_goes_on(engine: Engine) -> None:
    topic = await engine.topics.create("t", configs={"retention.ms": str(HOUR_MS)})
    await put(engine, topic, *[ago(2)] * 70)
    await engine.janitor.trim()
    assert await bounds(engine, topic) == (70, 70, 0)
    await put(engine, topic, ago(0))
    assert (await bounds(engine, topic))[:2] == (70, 71)


async def test_seven_days_are_the_default_and_minus_one_means_never(engine: Engine) -> None:
    kept = await engine.topics.create("kept", configs={"retention.ms": "-1"})
    usual = await engine.topics.create("usual")
    compacted = await engine.topics.create("compacted", configs={"cleanup.policy": "compact", "retention.ms": "1"})
    for topic in (kept, usual, compacted):
        await put(engine, topic, ago(24 * 8), ago(24 * 6))
    await engine.janitor.trim()
    assert [(await bounds(engine, topic))[0] for topic in (kept, usual, compacted)] == [0, 1, 0]


async def test_batches_without_a_time_wait_for_one_that_has_one(engine: Engine) -> None:
    topic = await engine.topics.create("t", configs={"retention.ms": str(HOUR_MS)})
    await put(engine, topic, -1, -1)
    await engine.janitor.trim()
    assert (await bounds(engine, topic))[0] == 0
    await put(engine, topic, ago(2), ago(0))
    await engine.janitor.trim()
    assert (await bounds(engine, topic))[0] == 3


async def test_a_time_that_lies_ahead_keeps_what_is_behind_it(engine: Engine) -> None:
    topic = await engine.topics.create("t", configs={"retention.ms": str(HOUR_MS)})
    await put(engine, topic, ago(2), ago(-5), *[ago(2)] * 200)
    await engine.janitor.trim()
    assert (await bounds(engine, topic))[0] == 1
    await engine.log.trim([(topic, 0, 2)])  # when it is gone, the others follow, whatever the index remembers of it
    for _ in range(5):
        await engine.janitor.trim()
    assert (await bounds(engine, topic))[0] == 202


async def test_never_less_than_retention_bytes_is_kept_and_little_more(engine: Engine) -> None:
    topic = await engine.topics.create("t", configs={"retention.bytes": "100000", "retention.ms": "-1"})
    await put(engine, topic, *[ago(0)] * 2_000, size=500)
    await engine.janitor.trim()
    start, end, nbytes = await bounds(engine, topic)
    batch = len(build_batch([Record(0, ago(0), b"k", bytes(500), [])]))
    assert 100_000 <= (end - start) * batch <= 100_000 + 64 * batch
    assert nbytes == (end - start) * batch


async def test_a_large_trim_goes_in_steps(engine: Engine) -> None:
    topic = await engine.topics.create("t", configs={"retention.ms": str(HOUR_MS)})
    await put(engine, topic, *[ago(2)] * 3_000)
    partition = engine.log.partitions.get(topic, 0)
    freed, more = await engine.janitor.retention.step(partition)
    assert more
    assert 0 < freed <= STEP_ENTRIES
    assert (await bounds(engine, topic))[0] == 3_000
    left = await engine.storage.call(partition.keys.log, "XLEN", partition.keys.log)
    assert left == 3_000 - freed
    await engine.janitor.trim()
    assert await engine.storage.call(partition.keys.log, "XLEN", partition.keys.log) == 0


async def test_large_batches_go_a_few_at_a_time(engine: Engine) -> None:
    topic = await engine.topics.create("t", configs={"retention.ms": str(HOUR_MS)})
    await put(engine, topic, *[ago(2)] * 20, size=500_000)
    step = engine.janitor.retention.step(engine.log.partitions.get(topic, 0))
    assert await step == (STEP_BYTES // 500_100, True)
    await engine.log.trim([(topic, 0, 15)])
    assert (await bounds(engine, topic))[::2] == (20, 0)


@pytest.fixture
async def large_nodes(engine: Engine) -> AsyncIterator[None]:
    """Streams in nodes of 2,000 entries, whatever their size."""
    for nbytes, entries in ((0, 2_000), (4_096, 100)):
        words = ("stream-node-max-bytes", nbytes, "stream-node-max-entries", entries)
        await engine.storage.call(b"any", "CONFIG", "SET", *words)
        if not nbytes:
            yield


@pytest.mark.usefixtures("large_nodes")
async def test_a_stream_whose_nodes_are_larger_than_a_step_goes_by_nodes(engine: Engine) -> None:
    topic = await engine.topics.create("t", configs={"retention.ms": str(HOUR_MS)})
    await put(engine, topic, *[ago(2)] * 9_000)
    partition = engine.log.partitions.get(topic, 0)
    assert await engine.janitor.retention.step(partition) == (4_000, True)
    assert await engine.janitor.retention.step(partition) == (4_000, True)
    assert await engine.janitor.retention.step(partition) == (1_000, True)
    assert await engine.janitor.retention.step(partition) == (0, False)
    assert (await bounds(engine, topic))[2] == 0


async def test_what_a_trim_left_half_done_is_freed_later(engine: Engine) -> None:
    topic = await engine.topics.create("t", configs={"cleanup.policy": "compact"})
    await put(engine, topic, *[ago(0)] * 1_000)
    partition = engine.log.partitions.get(topic, 0)
    await engine.storage.call(partition.keys.state, "HSET", partition.keys.state, "start", 900)
    await engine.janitor.trim()
    assert await engine.storage.call(partition.keys.log, "XLEN", partition.keys.log) == 100


async def test_an_idle_partition_costs_no_write(engine: Engine) -> None:
    topic = await engine.topics.create("t")
    await put(engine, topic, ago(0))
    await engine.janitor.trim()
    [(_, before)] = await engine.storage.on_masters("INFO", "persistence")
    await engine.janitor.trim()
    [(_, after)] = await engine.storage.on_masters("INFO", "persistence")
    dirty = b"rdb_changes_since_last_save:"
    assert [line for line in after.splitlines() if line.startswith(dirty)] == [
        line for line in before.splitlines() if line.startswith(dirty)
    ]


async def test_a_new_retention_counts_from_the_next_round_on(engine: Engine) -> None:
    topic = await engine.topics.create("t")
    await put(engine, topic, ago(2), ago(0))
    await engine.janitor.trim()
    assert (await bounds(engine, topic))[0] == 0
    await engine.topics.configure("t", {"retention.ms": str(HOUR_MS)})
    await engine.janitor.trim()
    assert (await bounds(engine, topic))[0] == 1
