"""OffsetCommit: what is kept, and who may commit."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from redbroker.broker.api import offset_fetch
from redbroker.broker.api.offset_commit import API
from redbroker.errors import ErrorCode
from redbroker.types import TopicPartition
from tests.support.door import Door
from tests.support.memberships import Membership, all_joined, joined

pytestmark = pytest.mark.anyio
Topic, Partition = API.request.struct("topics"), API.request.struct("topics.partitions")


async def commit(door: Door, version: int = 9, offset: int = 7, name: str = "orders", **fields: Any) -> ErrorCode:
    """Commit one offset of partition 0 of a topic; its error."""
    topic = door.engine.topics.get(name)
    wanted = Topic(name, topic.id if topic else uuid.uuid4(), [Partition(0, offset, 3, "meta")])
    answer = await door.ask(API, version, **{"group_id": "group", "topics": [wanted], **fields})
    [told] = answer.topics
    assert (told.name, told.topic_id) == ((wanted.name, uuid.UUID(int=0)) if version < 10 else ("", wanted.topic_id))
    return ErrorCode(told.partitions[0].error_code)


def by(member: Membership, **fields: Any) -> dict[str, Any]:
    """The fields that tell who commits."""
    return {"generation_id_or_member_epoch": member.generation, "member_id": member.id, **fields}


@pytest.mark.parametrize("version", range(2, 11))
async def test_a_member_commits_in_every_version(door: Door, version: int) -> None:
    await door.topic()
    member = await joined(door)
    assert await commit(door, version, **by(member)) == ErrorCode.NONE
    [kept] = (await door.engine.offsets.fetch("group", None)).items()
    assert kept[0] == TopicPartition("orders", 0)
    assert (kept[1].offset, kept[1].leader_epoch, kept[1].metadata) == (7, 3 if version >= 6 else -1, "meta")


@pytest.mark.parametrize("version", range(2, 11))
async def test_a_consumer_without_membership_commits_while_nobody_is_in_the_group(door: Door, version: int) -> None:
    await door.topic()
    assert await commit(door, version) == ErrorCode.NONE
    member = await joined(door)
    assert await commit(door, version) == ErrorCode.UNKNOWN_MEMBER_ID
    await member.leave()
    assert await commit(door, version) == ErrorCode.NONE


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"member_id": "who"}, ErrorCode.UNKNOWN_MEMBER_ID),
        ({"generation_id_or_member_epoch": 3}, ErrorCode.ILLEGAL_GENERATION),
        ({"group_instance_id": "pod-2"}, ErrorCode.UNKNOWN_MEMBER_ID),
        ({"group_id": ""}, ErrorCode.INVALID_GROUP_ID),
        ({"group_id": "unheard of"}, ErrorCode.GROUP_ID_NOT_FOUND),
    ],
)
async def test_who_does_not_belong_commits_nothing(door: Door, fields: dict[str, Any], error: ErrorCode) -> None:
    await door.topic()
    member = await joined(door)
    assert await commit(door, **by(member, **fields)) == error
    assert not await door.engine.offsets.fetch("group", None)


async def test_before_version_9_an_unknown_group_is_told_as_an_old_generation(door: Door) -> None:
    await door.topic()
    told = await commit(door, 8, generation_id_or_member_epoch=5, member_id="who")
    assert told == ErrorCode.ILLEGAL_GENERATION


async def test_a_static_member_that_was_replaced_commits_nothing(door: Door) -> None:
    await door.topic()
    old = await joined(door, instance="pod-1")
    await joined(door, instance="pod-1")
    assert await commit(door, **by(old, group_instance_id="pod-1")) == ErrorCode.FENCED_INSTANCE_ID


async def test_a_member_may_commit_while_the_others_join_but_not_before_it_has_synced(doors: list[Door]) -> None:
    await doors[0].topic()
    leaver, stayer = await all_joined(doors)
    await leaver.leave()
    assert await stayer.beat() == ErrorCode.REBALANCE_IN_PROGRESS
    assert await commit(doors[0], **by(stayer)) == ErrorCode.NONE
    await stayer.join()
    assert await commit(doors[0], **by(stayer)) == ErrorCode.REBALANCE_IN_PROGRESS
    await stayer.sync()
    assert await commit(doors[0], **by(stayer)) == ErrorCode.NONE


async def test_partitions_that_do_not_exist_are_refused_and_the_others_go_on(door: Door) -> None:
    topic = await door.topic()
    wanted = [
        Topic("orders", partitions=[Partition(0, 5), Partition(1, 5), Partition(-1, 5)]),
        Topic("nothing", partitions=[Partition(0, 5)]),
    ]
    answer = await door.ask(API, 9, group_id="group", topics=wanted)
    unknown = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert [[each.error_code for each in told.partitions] for told in answer.topics] == [
        [0, unknown, unknown],
        [unknown],
    ]
    kept = await door.engine.offsets.fetch("group", None)
    assert {key: value.offset for key, value in kept.items()} == {TopicPartition(topic.name, 0): 5}


async def test_an_unknown_topic_id_is_told_as_such(door: Door) -> None:
    assert await commit(door, 10, name="nothing") == ErrorCode.UNKNOWN_TOPIC_ID


async def test_too_much_metadata_is_refused_and_null_metadata_is_kept_as_none(door: Door) -> None:
    await door.topic(partitions=2)
    wanted = Topic("orders", partitions=[Partition(0, 5, -1, "x" * 5_000), Partition(1, 5, -1, None)])
    answer = await door.ask(API, 9, group_id="group", topics=[wanted])
    assert [each.error_code for each in answer.topics[0].partitions] == [ErrorCode.OFFSET_METADATA_TOO_LARGE, 0]
    [fetched] = (await door.ask(offset_fetch.API, 7, group_id="group", topics=None)).topics
    assert [(each.partition_index, each.metadata) for each in fetched.partitions] == [(1, "")]


async def test_a_generation_goes_on_committing_at_the_other_worker(doors: list[Door]) -> None:
    await doors[0].topic()
    member = await joined(doors[0])
    await doors[1].engine.topics.reload()
    assert await commit(doors[1], **by(member)) == ErrorCode.NONE
