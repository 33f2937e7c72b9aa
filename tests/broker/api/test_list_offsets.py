"""ListOffsets: by special times, by timestamps inside batches, and everything that is refused."""

from __future__ import annotations

from typing import Any

import pytest

from redbroker.broker.api import produce
from redbroker.broker.api.list_offsets import API
from redbroker.errors import ErrorCode
from tests.support.door import Door, a_batch, only

pytestmark = pytest.mark.anyio

Topic, Partition = API.request.struct("topics"), API.request.struct("topics.partitions")
START_MS = 1_700_000_000_000


async def ask(
    door: Door, version: int, timestamp: int, current: int = -1, topic: str = "orders", index: int = 0
) -> Any:
    wanted = Partition(partition_index=index, timestamp=timestamp, current_leader_epoch=current)
    answer = await door.ask(API, version, replica_id=-1, topics=[Topic(name=topic, partitions=[wanted])])
    return only(answer, "topics", "partitions")


async def put(door: Door, batch: bytes) -> None:
    data = produce.API.request.struct("topic_data")
    part = produce.API.request.struct("topic_data.partition_data")
    answer = await door.ask(
        produce.API, 9, acks=1, timeout_ms=1000, topic_data=[data("orders", partition_data=[part(0, batch)])]
    )
    assert only(answer, "responses", "partition_responses").error_code == ErrorCode.NONE


@pytest.mark.parametrize("version", range(API.low, API.high + 1))
async def test_latest_is_the_last_offset_plus_one_not_the_base_offset_of_the_last_batch(
    door: Door, version: int
) -> None:
    await door.topic()
    await put(door, a_batch(b"a"))
    await put(door, a_batch(b"b", b"c", b"d"))
    answer = await ask(door, version, -1)
    assert (answer.error_code, answer.offset, answer.timestamp) == (ErrorCode.NONE, 4, -1)
    assert (answer.leader_epoch > 0) == (version >= 4)


async def test_latest_under_read_committed_is_the_last_stable_offset(door: Door) -> None:
    await door.topic()
    await put(door, a_batch(b"a", b"b"))
    wanted = Topic("orders", [Partition(partition_index=0, timestamp=-1)])
    answer = await door.ask(API, 7, isolation_level=1, topics=[wanted])
    assert only(answer, "topics", "partitions").offset == 2


@pytest.mark.parametrize(("timestamp", "version"), [(-2, 1), (-4, 8)])
async def test_earliest_is_the_log_start_also_after_a_trim(door: Door, timestamp: int, version: int) -> None:
    topic = await door.topic()
    assert (await ask(door, version, timestamp)).offset == 0
    for _ in range(3):
        await put(door, a_batch(b"a", b"b"))
    assert await door.engine.log.trim([(topic, 0, 4)]) == [4]
    answer = await ask(door, version, timestamp)
    assert (answer.offset, answer.leader_epoch) == (4, -1)


async def test_a_timestamp_finds_the_record_inside_its_batch(door: Door) -> None:
    await door.topic()
    await put(door, a_batch(b"a", b"b", b"c", timestamp=START_MS, step=10, codec="zstd"))
    await put(door, a_batch(b"d", b"e", timestamp=START_MS + 100, step=10))
    for wanted, offset, found in [(0, 0, 0), (1, 1, 10), (10, 1, 10), (15, 2, 20), (21, 3, 100), (105, 4, 110)]:
        answer = await ask(door, 5, START_MS + wanted)
        assert (answer.offset, answer.timestamp) == (offset, START_MS + found)
        assert answer.leader_epoch > 0


async def test_a_timestamp_after_all_records_has_no_offset(door: Door) -> None:
    await door.topic()
    assert (await ask(door, 5, START_MS)).offset == -1
    await put(door, a_batch(b"a", timestamp=START_MS))
    answer = await ask(door, 5, START_MS + 1)
    assert (answer.error_code, answer.offset, answer.timestamp) == (ErrorCode.NONE, -1, -1)


async def test_the_maximum_timestamp_names_the_record_not_the_batch_end(door: Door) -> None:
    await door.topic()
    assert (await ask(door, 7, -3)).offset == -1
    await put(door, a_batch(b"a", b"b", b"c", timestamp=START_MS, step=-10))
    answer = await ask(door, 7, -3)
    assert (answer.offset, answer.timestamp) == (0, START_MS)
    await put(door, a_batch(b"d", b"e", timestamp=START_MS + 5, step=5))
    answer = await ask(door, 11, -3)
    assert (answer.offset, answer.timestamp) == (4, START_MS + 10)


@pytest.mark.parametrize(("timestamp", "version"), [(-5, 9), (-6, 11)])
async def test_nothing_is_tiered(door: Door, timestamp: int, version: int) -> None:
    await door.topic()
    await put(door, a_batch(b"a"))
    answer = await ask(door, version, timestamp)
    assert (answer.error_code, answer.offset, answer.timestamp) == (ErrorCode.NONE, -1, -1)


@pytest.mark.parametrize(("timestamp", "version"), [(-3, 6), (-4, 7), (-5, 8), (-6, 10), (-7, 11)])
async def test_a_special_time_before_its_version_is_unsupported(door: Door, timestamp: int, version: int) -> None:
    await door.topic()
    assert (await ask(door, version, timestamp)).error_code == ErrorCode.UNSUPPORTED_VERSION


async def test_a_stale_leader_epoch_is_fenced_and_a_newer_one_unknown(door: Door) -> None:
    await door.topic()
    await put(door, a_batch(b"a"))
    epoch = (await ask(door, 4, -1)).leader_epoch
    assert (await ask(door, 4, -1, current=epoch)).error_code == ErrorCode.NONE
    for timestamp in (-1, -2, START_MS):
        fenced = await ask(door, 4, timestamp, current=epoch - 1)
        assert (fenced.error_code, fenced.offset) == (ErrorCode.FENCED_LEADER_EPOCH, -1)
        assert (await ask(door, 4, timestamp, current=epoch + 1)).error_code == ErrorCode.UNKNOWN_LEADER_EPOCH


async def test_what_is_unknown_does_not_harm_its_neighbours(door: Door) -> None:
    await door.topic()
    wanted = [Partition(partition_index=index, timestamp=-1) for index in (0, 1, -1)]
    answer = await door.ask(API, 5, topics=[Topic("orders", wanted), Topic("nobody", wanted)])
    unknown = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert [part.error_code for part in answer.topics[0].partitions] == [0, unknown, unknown]
    assert [part.error_code for part in answer.topics[1].partitions] == [unknown] * 3


async def test_a_partition_named_twice_is_an_invalid_request(door: Door) -> None:
    await door.topic(partitions=2)
    wanted = [Partition(partition_index=index, timestamp=-1) for index in (0, 1, 0)]
    answer = await door.ask(API, 5, topics=[Topic("orders", wanted)])
    errors = [part.error_code for part in answer.topics[0].partitions]
    assert errors == [ErrorCode.INVALID_REQUEST, ErrorCode.NONE, ErrorCode.INVALID_REQUEST]
