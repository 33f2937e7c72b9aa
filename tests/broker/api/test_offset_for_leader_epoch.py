"""OffsetForLeaderEpoch: the end of an epoch, and who is fenced."""

from __future__ import annotations

from typing import Any

import pytest

from redbroker.broker.api import produce
from redbroker.broker.api.offset_for_leader_epoch import API
from redbroker.errors import ErrorCode
from tests.support.door import Door, a_batch, only

pytestmark = pytest.mark.anyio

Topic, Partition = API.request.struct("topics"), API.request.struct("topics.partitions")


async def ask(
    door: Door, version: int, epoch: int, current: int = -1, topic: str = "orders", partition: int = 0
) -> Any:
    wanted = Partition(partition=partition, leader_epoch=epoch, current_leader_epoch=current)
    answer = await door.ask(API, version, topics=[Topic(topic=topic, partitions=[wanted])])
    return only(answer, "topics", "partitions")


async def written(door: Door, count: int = 3) -> int:
    """A topic of `count` records; gives its leader epoch."""
    topic = await door.topic()
    data = produce.API.request.struct("topic_data")
    part = produce.API.request.struct("topic_data.partition_data")
    batch = a_batch(*[b"v"] * count)
    answer = await door.ask(
        produce.API, 9, acks=1, timeout_ms=1000, topic_data=[data("orders", partition_data=[part(0, batch)])]
    )
    assert only(answer, "responses", "partition_responses").error_code == ErrorCode.NONE
    [bounds] = await door.engine.log.bounds([(topic, 0)])
    return bounds.leader_epoch  # type: ignore[union-attr]


@pytest.mark.parametrize("version", range(API.low, API.high + 1))
async def test_the_current_epoch_ends_at_the_log_end_also_in_librdkafkas_version_2(door: Door, version: int) -> None:
    epoch = await written(door)
    assert epoch > 0
    answer = await ask(door, version, epoch, current=epoch)
    assert (answer.error_code, answer.leader_epoch, answer.end_offset) == (ErrorCode.NONE, epoch, 3)


async def test_an_epoch_nobody_led_in_yet_has_no_end(door: Door) -> None:
    epoch = await written(door)
    answer = await ask(door, 4, epoch + 5)
    assert (answer.error_code, answer.leader_epoch, answer.end_offset) == (ErrorCode.NONE, -1, -1)


async def test_an_older_current_epoch_is_fenced_and_a_newer_one_unknown(door: Door) -> None:
    epoch = await written(door)
    assert (await ask(door, 3, epoch, current=epoch - 1)).error_code == ErrorCode.FENCED_LEADER_EPOCH
    assert (await ask(door, 3, epoch, current=epoch + 1)).error_code == ErrorCode.UNKNOWN_LEADER_EPOCH


async def test_unknown_topics_and_partitions_are_told_one_by_one(door: Door) -> None:
    await written(door)
    assert (await ask(door, 4, 1, topic="nobody")).error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert (await ask(door, 4, 1, partition=1)).error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert (await ask(door, 4, 1, partition=-1)).error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
