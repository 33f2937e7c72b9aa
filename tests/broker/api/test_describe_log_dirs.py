"""DescribeLogDirs: sizes as Redis holds them."""

from __future__ import annotations

import pytest

from redbroker.broker.api.describe_log_dirs import API, memory_info
from redbroker.engine.log import Append
from redbroker.wire.records import read_header
from tests.support.door import Door, a_batch, only

pytestmark = pytest.mark.anyio

WANTED = API.request.struct("topics")


@pytest.mark.parametrize("version", range(API.low, API.high + 1))
async def test_sizes_are_the_bytes_that_were_appended(door: Door, version: int) -> None:
    topic = await door.topic("orders", 2)
    batch = a_batch(b"x" * 1_000)
    await door.engine.log.append([Append(topic, 1, batch, read_header(batch))], acks=1, timeout_ms=5_000)
    directory = only(await door.ask(API, version, topics=None), "results")
    sizes = {each.partition_index: each.partition_size for each in only(directory, "topics").partitions}
    assert sizes == {0: 0, 1: len(batch)}
    assert directory.error_code == 0 and directory.log_dir


async def test_only_what_is_asked_for_and_exists_is_told(door: Door) -> None:
    await door.topic("orders", 3)
    await door.topic("users", 1)
    asked = [WANTED("orders", [2, 2, 7, -1]), WANTED("unknown", [0])]
    directory = only(await door.ask(API, 4, topics=asked), "results")
    topic = only(directory, "topics")
    assert (topic.name, [each.partition_index for each in topic.partitions]) == ("orders", [2])
    assert only(await door.ask(API, 4, topics=[]), "results").topics == []


async def test_room_is_the_masters_memory_limit(door: Door) -> None:
    unlimited = only(await door.ask(API, 4, topics=[]), "results")
    assert (unlimited.total_bytes, unlimited.usable_bytes) == (-1, -1)
    await door.engine.storage.on_masters("CONFIG", "SET", "maxmemory", 1 << 30)
    try:
        limited = only(await door.ask(API, 4, topics=[]), "results")
    finally:
        await door.engine.storage.on_masters("CONFIG", "SET", "maxmemory", 0)
    assert limited.total_bytes == 1 << 30
    assert 0 < limited.usable_bytes < 1 << 30


def test_a_silent_info_answer_is_no_limit() -> None:
    assert memory_info(b"# Memory\r\nused_memory:5\r\nnonsense\r\n") == (5, 0)


async def test_the_workers_together_tell_every_partition_once(doors: list[Door]) -> None:
    await doors[0].topic("orders", 16)
    told: list[int] = []
    for door in doors:
        await door.engine.topics.reload()
        directory = only(await door.ask(API, 4, topics=None), "results")
        led = [each.partition_index for each in only(directory, "topics").partitions]
        assert led and all(door.engine.workers.leader("orders", index).node_id == door.broker.node_id for index in led)
        told += led
    assert sorted(told) == list(range(16))
