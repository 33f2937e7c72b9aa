"""OffsetFetch: every version, groups nobody has heard of, and everything at once."""

from __future__ import annotations

import uuid

import pytest

from redbroker.broker.api.offset_fetch import API
from redbroker.engine.offsets import Commit
from redbroker.errors import ErrorCode
from tests.support.door import Door
from tests.support.memberships import joined

pytestmark = pytest.mark.anyio
OldTopic = API.request.struct("topics")
Group, Topic = API.request.struct("groups"), API.request.struct("groups.topics")


async def committed(door: Door, group: str = "group") -> None:
    """Topic `orders` of three partitions; 5 committed in partition 0, 6 in partition 2."""
    await door.topic(partitions=3)
    await door.engine.offsets.commit(group, [Commit("orders", 0, 5, 2, "five"), Commit("orders", 2, 6)])


@pytest.mark.parametrize("version", range(1, 8))
async def test_one_group_is_answered_by_the_response_itself_before_version_8(door: Door, version: int) -> None:
    await committed(door)
    wanted = [OldTopic("orders", [0, 1]), OldTopic("nothing", [4])]
    answer = await door.ask(API, version, group_id="group", topics=wanted, require_stable=True)
    assert answer.error_code == ErrorCode.NONE
    assert [each.name for each in answer.topics] == ["orders", "nothing"]
    first, second = answer.topics[0].partitions
    assert (first.committed_offset, first.metadata, first.error_code) == (5, "five", 0)
    assert first.committed_leader_epoch == (2 if version >= 5 else -1)
    [third] = answer.topics[1].partitions
    for nothing in (second, third):
        assert (nothing.committed_offset, nothing.metadata, nothing.error_code) == (-1, "", 0)


@pytest.mark.parametrize("version", [8, 9])
async def test_many_groups_are_answered_in_the_order_asked(door: Door, version: int) -> None:
    await committed(door)
    groups = [Group("group", topics=[Topic("orders", partition_indexes=[0, 1])]), Group("other", topics=None)]
    answer = await door.ask(API, version, groups=groups)
    assert [(each.group_id, each.error_code) for each in answer.groups] == [("group", 0), ("other", 0)]
    offsets = [each.committed_offset for each in answer.groups[0].topics[0].partitions]
    assert offsets == [5, -1]
    assert answer.groups[1].topics == []


async def test_version_10_names_topics_by_id(door: Door) -> None:
    await committed(door)
    topic = door.engine.topics.get("orders")
    assert topic is not None
    unknown = uuid.uuid4()
    wanted = [Topic(topic_id=topic.id, partition_indexes=[2]), Topic(topic_id=unknown, partition_indexes=[0])]
    [told] = (await door.ask(API, 10, groups=[Group("group", topics=wanted)])).groups
    assert [each.topic_id for each in told.topics] == [topic.id, unknown]
    assert told.topics[0].partitions[0].committed_offset == 6
    gone = told.topics[1].partitions[0]
    assert (gone.committed_offset, gone.error_code) == (-1, ErrorCode.UNKNOWN_TOPIC_ID)


@pytest.mark.parametrize("version", range(2, 11))
async def test_null_topics_ask_for_everything(door: Door, version: int) -> None:
    await committed(door)
    answer = await door.ask(API, version, group_id="group", topics=None, groups=[Group("group", topics=None)])
    [topic] = answer.topics if version < 8 else answer.groups[0].topics
    assert {each.partition_index: each.committed_offset for each in topic.partitions} == {0: 5, 2: 6}


@pytest.mark.parametrize("version", range(1, 11))
async def test_a_group_nobody_knows_has_committed_nothing_and_that_is_no_error(door: Door, version: int) -> None:
    topic = await door.topic()
    wanted = Topic("orders", topic.id, [0])
    answer = await door.ask(
        API,
        version,
        group_id="unheard of",
        topics=[OldTopic("orders", [0])],
        groups=[Group("unheard of", topics=[wanted])],
    )
    told = answer if version < 8 else answer.groups[0]
    assert told.error_code == ErrorCode.NONE
    [partition] = told.topics[0].partitions
    assert (partition.committed_offset, partition.error_code) == (-1, 0)


@pytest.mark.parametrize("version", range(1, 11))
async def test_a_group_without_a_name_is_refused_where_the_version_tells_errors(door: Door, version: int) -> None:
    answer = await door.ask(
        API,
        version,
        group_id="",
        topics=[OldTopic("orders", [0])],
        groups=[Group("", topics=[]), Group("fine", topics=[])],
    )
    if version == 1:
        assert answer.topics[0].partitions[0].error_code == ErrorCode.INVALID_GROUP_ID
    elif version < 8:
        assert answer.error_code == ErrorCode.INVALID_GROUP_ID
    else:
        assert [each.error_code for each in answer.groups] == [ErrorCode.INVALID_GROUP_ID, 0]


async def test_offsets_of_a_topic_that_is_gone_are_left_out_where_topics_have_ids(door: Door) -> None:
    await committed(door)
    await door.topic("kept")
    await door.engine.offsets.commit("group", [Commit("kept", 0, 1)])
    await door.engine.topics.delete("orders")
    [told] = (await door.ask(API, 10, groups=[Group("group", topics=None)])).groups
    assert [len(each.partitions) for each in told.topics] == [1]


async def test_a_settled_member_reads_its_offsets_at_every_worker(doors: list[Door]) -> None:
    await committed(doors[0])
    await joined(doors[0])
    answer = await doors[1].ask(API, 7, group_id="group", topics=[OldTopic("orders", [0])])
    assert answer.topics[0].partitions[0].committed_offset == 5
