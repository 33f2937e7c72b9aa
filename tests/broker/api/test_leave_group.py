"""LeaveGroup: one member, many members, and members that an operator removes."""

from __future__ import annotations

import pytest

from redbroker.broker.api.consumer_group_heartbeat import API as HEARTBEAT
from redbroker.broker.api.leave_group import API
from redbroker.errors import ErrorCode
from tests.support.door import Door
from tests.support.memberships import all_joined, joined

pytestmark = pytest.mark.anyio
Leaver = API.request.struct("members")


@pytest.mark.parametrize("version", range(3))
async def test_before_version_3_one_member_leaves(door: Door, version: int) -> None:
    member = await joined(door)
    for error in (ErrorCode.NONE, ErrorCode.UNKNOWN_MEMBER_ID):
        answer = await door.ask(API, version, group_id="group", member_id=member.id)
        assert answer.error_code == error


@pytest.mark.parametrize("version", range(3, 6))
async def test_from_version_3_on_each_member_has_its_own_error(doors: list[Door], version: int) -> None:
    first, second = await all_joined(doors)
    leavers = [Leaver(first.id), Leaver("who"), Leaver(second.id)]
    answer = await doors[0].ask(API, version, group_id="group", members=leavers)
    assert answer.error_code == ErrorCode.NONE
    assert [each.member_id for each in answer.members] == [first.id, "who", second.id]
    assert [each.error_code for each in answer.members] == [0, ErrorCode.UNKNOWN_MEMBER_ID, 0]
    group = await doors[1].engine.groups.get("group")
    assert group is None or group.phase == "Empty"


async def test_an_operator_removes_a_static_member_by_its_instance_id(door: Door) -> None:
    member = await joined(door, instance="pod-1")
    answer = await door.ask(API, 3, group_id="group", members=[Leaver("", "pod-1")])
    assert [(each.group_instance_id, each.error_code) for each in answer.members] == [("pod-1", 0)]
    assert await member.beat() == ErrorCode.UNKNOWN_MEMBER_ID


async def test_a_static_member_is_not_removed_under_a_wrong_member_id(door: Door) -> None:
    member = await joined(door, instance="pod-1")
    answer = await door.ask(API, 3, group_id="group", members=[Leaver("who", "pod-1")])
    assert answer.members[0].error_code == ErrorCode.FENCED_INSTANCE_ID
    assert await member.beat() == ErrorCode.NONE


@pytest.mark.parametrize("version", range(6))
async def test_a_group_without_a_name_is_refused(door: Door, version: int) -> None:
    answer = await door.ask(API, version, group_id="", member_id="who", members=[Leaver("who")])
    assert answer.error_code == ErrorCode.INVALID_GROUP_ID


async def test_an_operator_removes_members_of_the_consumer_protocol(door: Door) -> None:
    # Java's removeMembersFromConsumerGroup: named static members by their instance id, all others by their member id.
    await door.topic("orders", 2)
    for member, instance in (("a", "pod-1"), ("b", None)):
        answer = await door.ask(
            HEARTBEAT, 1, group_id="group", member_id=member, instance_id=instance, member_epoch=0,
            rebalance_timeout_ms=60_000, subscribed_topic_names=["orders"], topic_partitions=[],
        )  # fmt: skip
        assert answer.error_code == ErrorCode.NONE
    away = await door.ask(HEARTBEAT, 1, group_id="group", member_id="a", instance_id="pod-1", member_epoch=-2)
    assert away.error_code == ErrorCode.NONE
    answer = await door.ask(API, 5, group_id="group", members=[Leaver("", "pod-1"), Leaver("b"), Leaver("", "pod-2")])
    assert [each.error_code for each in answer.members] == [0, 0, ErrorCode.UNKNOWN_MEMBER_ID]
    group = await door.engine.groups.get("group")
    assert group is not None
    assert (group.phase, dict(group.members)) == ("Empty", {})


async def test_nobody_leaves_a_group_nobody_knows(door: Door) -> None:
    answer = await door.ask(API, 5, group_id="unheard of", members=[Leaver("who")])
    assert answer.members[0].error_code == ErrorCode.UNKNOWN_MEMBER_ID
