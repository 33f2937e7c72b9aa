"""OffsetDelete: offsets go, unless somebody reads the topic."""

from __future__ import annotations

import struct

import pytest

from redbroker.broker.api.offset_delete import API
from redbroker.engine.offsets import Commit
from redbroker.errors import ErrorCode
from redbroker.types import TopicPartition
from tests.support.door import Door
from tests.support.memberships import joined

pytestmark = pytest.mark.anyio
Topic, Partition = API.request.struct("topics"), API.request.struct("topics.partitions")

READS_ORDERS = struct.pack(">hih6si", 0, 1, 6, b"orders", -1)
"""A consumer's subscription, version 0, to the topic `orders`, without user data."""


async def committed(door: Door) -> None:
    await door.topic(partitions=2)
    await door.topic("other")
    await door.engine.offsets.commit("group", [Commit("orders", 0, 5), Commit("orders", 1, 6), Commit("other", 0, 7)])


async def test_named_offsets_go_and_the_others_stay(door: Door) -> None:
    await committed(door)
    wanted = [Topic("orders", [Partition(0), Partition(9)]), Topic("nothing", [Partition(0)])]
    answer = await door.ask(API, 0, group_id="group", topics=wanted)
    assert answer.error_code == ErrorCode.NONE
    unknown = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert [[each.error_code for each in topic.partitions] for topic in answer.topics] == [[0, unknown], [unknown]]
    kept = await door.engine.offsets.fetch("group", None)
    assert set(kept) == {TopicPartition("orders", 1), TopicPartition("other", 0)}


async def test_offsets_of_a_topic_that_members_read_stay(door: Door) -> None:
    await committed(door)
    await joined(door, metadata=READS_ORDERS)
    wanted = [Topic("orders", [Partition(0)]), Topic("other", [Partition(0)])]
    answer = await door.ask(API, 0, group_id="group", topics=wanted)
    told = [topic.partitions[0].error_code for topic in answer.topics]
    assert told == [ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC, ErrorCode.NONE]


@pytest.mark.parametrize(("group", "error"), [("", ErrorCode.INVALID_GROUP_ID), ("no", ErrorCode.GROUP_ID_NOT_FOUND)])
async def test_a_group_that_is_not_there_is_the_whole_answer(door: Door, group: str, error: ErrorCode) -> None:
    await door.topic()
    answer = await door.ask(API, 0, group_id=group, topics=[Topic("orders", [Partition(0)])])
    assert (answer.error_code, answer.topics) == (error, [])
