"""SyncGroup: followers wait for the leader, and whoever asks again gets the same."""

from __future__ import annotations

import asyncio

import pytest

from redbroker.broker.api.sync_group import API
from redbroker.errors import ErrorCode
from tests.support.door import Door
from tests.support.memberships import Membership, all_joined, joined

pytestmark = pytest.mark.anyio


async def two_that_joined(doors: list[Door]) -> tuple[Membership, Membership]:
    """The leader and a follower of a group that waits for its assignment."""
    members = [Membership(door, "group") for door in doors]
    await asyncio.gather(*(each.join() for each in members))
    first, second = members
    return (first, second) if first.join_answer.leader == first.id else (second, first)


async def test_a_follower_waits_for_the_leader_of_another_worker(doors: list[Door]) -> None:
    leader, follower = await two_that_joined(doors)
    waiting = asyncio.create_task(follower.sync())
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await leader.sync()
    answer = await asyncio.wait_for(waiting, 1)
    assert answer.error_code == ErrorCode.NONE
    assert answer.assignment == follower.id.encode()


@pytest.mark.parametrize("version", range(6))
async def test_a_settled_member_gets_its_assignment_again_in_every_version(doors: list[Door], version: int) -> None:
    member = await joined(doors[0])
    member.door, member.join_answer = doors[1], None
    answer = await member.sync(version=version)
    assert answer.assignment == member.id.encode()
    assert (answer.protocol_type, answer.protocol_name) == (("consumer", "range") if version == 5 else (None, None))


async def test_a_rebalance_ends_the_wait(doors: list[Door]) -> None:
    leader, follower = await two_that_joined(doors)
    waiting = asyncio.create_task(follower.sync())
    await asyncio.sleep(0.05)
    await leader.leave()
    assert (await asyncio.wait_for(waiting, 2)).error_code == ErrorCode.REBALANCE_IN_PROGRESS


async def test_a_worker_that_drains_ends_the_wait(doors: list[Door]) -> None:
    leader, follower = await two_that_joined(doors)
    waiting = asyncio.create_task(follower.sync())
    await asyncio.sleep(0.05)
    follower.door.broker.drain()
    assert (await asyncio.wait_for(waiting, 2)).error_code == ErrorCode.NOT_COORDINATOR
    follower.door = leader.door
    again = asyncio.create_task(follower.sync())
    await leader.sync()
    assert (await asyncio.wait_for(again, 2)).assignment == follower.id.encode()


async def test_a_member_the_leader_forgot_gets_an_empty_assignment(doors: list[Door]) -> None:
    leader, follower = await two_that_joined(doors)
    leader.join_answer.members = []
    await leader.sync()
    assert (await follower.sync()).assignment == b""


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"group_id": ""}, ErrorCode.INVALID_GROUP_ID),
        ({"group_id": "unheard of"}, ErrorCode.UNKNOWN_MEMBER_ID),
        ({"member_id": "who"}, ErrorCode.UNKNOWN_MEMBER_ID),
        ({"generation_id": 3}, ErrorCode.ILLEGAL_GENERATION),
        ({"protocol_type": "connect", "protocol_name": "range"}, ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
        ({"protocol_type": "consumer", "protocol_name": "sticky"}, ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
    ],
)
async def test_who_does_not_belong_is_refused(door: Door, fields: dict[str, object], error: ErrorCode) -> None:
    member = await joined(door)
    given = {"group_id": "group", "generation_id": member.generation, "member_id": member.id, **fields}
    assert (await door.ask(API, 5, **given)).error_code == error


async def test_a_new_generation_gives_all_a_new_assignment(doors: list[Door]) -> None:
    members = await all_joined(doors)
    await members[0].leave()
    await members[1].settle()
    assert members[1].sync_answer.assignment == members[1].id.encode()
