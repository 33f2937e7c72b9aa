"""JoinGroup: every version, the wait and its ends, and what clients trip over."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from redbroker.broker.api.join_group import API
from redbroker.broker.server import serving
from redbroker.config import Settings
from redbroker.errors import ErrorCode
from tests.support.door import Door
from tests.support.memberships import Membership, all_joined, joined
from tests.support.raw import API_VERSIONS, connected

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("version", range(4))
async def test_before_version_4_a_member_joins_without_an_id(door: Door, version: int) -> None:
    answer = await Membership(door, "group", version=version).ask_to_join()
    assert answer.error_code == ErrorCode.NONE
    assert answer.member_id.startswith("test-")
    assert answer.leader == answer.member_id
    assert answer.generation_id > 0
    assert answer.protocol_name == "range"


@pytest.mark.parametrize("version", range(4, 10))
async def test_from_version_4_on_a_member_is_given_an_id_to_come_back_with(door: Door, version: int) -> None:
    member = Membership(door, "group", version=version)
    first = await member.ask_to_join()
    assert first.error_code == ErrorCode.MEMBER_ID_REQUIRED
    assert first.member_id.startswith("test-")
    member.id = first.member_id
    second = await member.ask_to_join()
    assert second.error_code == ErrorCode.NONE
    assert second.member_id == first.member_id
    assert second.protocol_type == ("consumer" if version >= 7 else None)
    assert not second.skip_assignment


@pytest.mark.parametrize("version", range(5, 10))
async def test_a_static_member_needs_no_id(door: Door, version: int) -> None:
    answer = await Membership(door, "group", version=version, instance="pod-1").ask_to_join()
    assert answer.error_code == ErrorCode.NONE
    assert answer.member_id.startswith("pod-1-")
    assert [each.group_instance_id for each in answer.members] == ["pod-1"]


async def test_only_the_leader_is_told_the_members_and_their_metadata(doors: list[Door]) -> None:
    metadata = bytes(range(256)) * 256
    members = await all_joined([doors[0], doors[1], doors[0]], metadata=metadata)
    leader = next(each for each in members if each.id == each.join_answer.leader)
    assert {each.join_answer.leader for each in members} == {leader.id}
    told = {each.member_id: each.metadata for each in leader.join_answer.members}
    assert told == {each.id: metadata for each in members}
    assert all(not each.join_answer.members for each in members if each is not leader)


async def test_bytes_that_are_no_subscription_break_nothing(door: Door) -> None:
    member = await joined(door, metadata=b"\xff\x00\x7f")
    assert member.sync_answer.assignment == member.id.encode()
    assert await member.beat() == ErrorCode.NONE


async def test_members_of_two_workers_meet_in_one_generation(doors: list[Door]) -> None:
    members = await all_joined(doors)
    assert len({each.generation for each in members}) == 1
    assert len({each.id for each in members}) == 2


async def test_a_group_of_one_settles_within_a_second(door: Door) -> None:
    began = time.monotonic()
    member = await joined(door)
    assert time.monotonic() - began < 1
    assert member.sync_answer.assignment == member.id.encode()


async def test_a_clean_leave_settles_the_others_within_a_second(doors: list[Door]) -> None:
    leaver, stayer = await all_joined(doors)
    began = time.monotonic()
    await leaver.leave()
    assert await stayer.beat() == ErrorCode.REBALANCE_IN_PROGRESS
    await stayer.settle()
    assert time.monotonic() - began < 1
    assert stayer.generation > leaver.generation


async def test_leaving_ends_the_own_parked_join(doors: list[Door]) -> None:
    waiting, other = await all_joined(doors)
    join = asyncio.create_task(waiting.ask_to_join_with(b"another subscription"))
    await other.heard(ErrorCode.REBALANCE_IN_PROGRESS)
    assert not join.done()
    await waiting.leave()
    assert (await asyncio.wait_for(join, 2)).error_code == ErrorCode.UNKNOWN_MEMBER_ID


async def test_a_worker_that_drains_sends_parked_members_to_another(doors: list[Door]) -> None:
    waiting, other = await all_joined(doors)
    join = asyncio.create_task(waiting.ask_to_join_with(b"another subscription"))
    await other.heard(ErrorCode.REBALANCE_IN_PROGRESS)
    waiting.door.broker.drain()
    answer = await asyncio.wait_for(join, 2)
    assert answer.error_code == ErrorCode.NOT_COORDINATOR
    assert answer.member_id == waiting.id
    waiting.door = other.door
    await asyncio.wait_for(asyncio.gather(waiting.settle(), other.settle()), 5)
    assert waiting.generation == other.generation


async def test_a_parked_join_holds_up_only_its_own_connection_and_ends_by_a_leave_behind_it(doors: list[Door]) -> None:
    waiting, other = await all_joined([doors[1], doors[1]])
    waiting.metadata = b"another subscription"
    async with (
        serving(doors[0].engine, Settings(port=0)) as server,
        connected(server) as busy,
        connected(server) as idle,
    ):
        busy.send(waiting.frame_to_join(1))
        await other.heard(ErrorCode.REBALANCE_IN_PROGRESS)
        idle.send(API_VERSIONS)
        assert (await idle.answer())[0] == 99
        busy.send(waiting.frame_to_leave(2))
        correlation_id, body = await busy.answer()
        assert (correlation_id, int.from_bytes(body[5:7], "big")) == (1, ErrorCode.UNKNOWN_MEMBER_ID)
        assert (await busy.answer())[0] == 2


async def test_a_member_nobody_can_be_is_removed_when_its_client_leaves(doors: list[Door]) -> None:
    settled = await joined(doors[0])
    join = asyncio.create_task(Membership(doors[1], "group", version=3).ask_to_join())
    await settled.heard(ErrorCode.REBALANCE_IN_PROGRESS)
    join.cancel()
    await asyncio.wait([join])
    group = await doors[0].engine.groups.get("group")
    assert group is not None
    assert set(group.members) == {settled.id}


async def test_who_joins_is_written_down(door: Door) -> None:
    member = await joined(door)
    group = await door.engine.groups.get("group")
    assert group is not None
    stored = group.members[member.id]
    assert (stored.client_id, stored.client_host) == ("test", "127.0.0.1")


@pytest.mark.parametrize("version", range(10))
async def test_a_refusal_names_no_protocol_the_way_of_its_version(door: Door, version: int) -> None:
    answer = await Membership(door, "group", version=version, fields={"session_timeout_ms": 1}).ask_to_join()
    assert answer.error_code == ErrorCode.INVALID_SESSION_TIMEOUT
    assert answer.protocol_name == (None if version >= 7 else "")
    assert (answer.leader, answer.generation_id, answer.members) == ("", -1, [])


@pytest.mark.parametrize("group", ["", "a\0b", "x" * 40_000])
async def test_what_cannot_name_a_group_is_refused(door: Door, group: str) -> None:
    version = 9 if len(group) > 32_767 else 3
    assert (await Membership(door, group, version=version).ask_to_join()).error_code == ErrorCode.INVALID_GROUP_ID


@pytest.mark.parametrize("group", ["gruppe-ä-日本-🦊", "a}b{c", "{}", " ", "a:b\n\r*"])
async def test_any_other_text_names_a_group(door: Door, group: str) -> None:
    member = await joined(door, group)
    assert await member.beat() == ErrorCode.NONE


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"protocols": ()}, ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
        ({"protocols": ("sticky",)}, ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
        ({"id": "who"}, ErrorCode.UNKNOWN_MEMBER_ID),
    ],
)
async def test_members_that_do_not_fit_are_refused(door: Door, fields: dict[str, Any], error: ErrorCode) -> None:
    settled = await joined(door)
    assert (await Membership(door, "group", **fields).ask_to_join()).error_code == error
    assert await settled.beat() == ErrorCode.NONE


async def test_join_group_is_advertised_from_version_0() -> None:
    assert API.advertised == (0, 9)
