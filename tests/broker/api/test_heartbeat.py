"""Heartbeat: alive or told why not, at any worker."""

from __future__ import annotations

import asyncio

import pytest

from redbroker.errors import ErrorCode
from tests.support.door import Door
from tests.support.memberships import Membership, joined

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("version", range(5))
async def test_a_member_is_alive_at_every_worker(doors: list[Door], version: int) -> None:
    member = await joined(doors[0])
    for member.door in doors:
        assert await member.beat(version=version) == ErrorCode.NONE


@pytest.mark.parametrize("version", range(5))
@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"group_id": ""}, ErrorCode.INVALID_GROUP_ID),
        ({"group_id": "unheard of"}, ErrorCode.UNKNOWN_MEMBER_ID),
        ({"member_id": "who"}, ErrorCode.UNKNOWN_MEMBER_ID),
        ({"member_id": ""}, ErrorCode.UNKNOWN_MEMBER_ID),
        ({"generation_id": 3}, ErrorCode.ILLEGAL_GENERATION),
        ({"generation_id": -1}, ErrorCode.ILLEGAL_GENERATION),
    ],
)
async def test_who_does_not_belong_is_refused(
    door: Door, version: int, fields: dict[str, object], error: ErrorCode
) -> None:
    member = await joined(door)
    assert await member.beat(version=version, **fields) == error


async def test_a_static_member_that_was_replaced_is_fenced(doors: list[Door]) -> None:
    old = await joined(doors[0], instance="pod-1")
    new = await joined(doors[1], instance="pod-1")
    assert await old.beat() == ErrorCode.FENCED_INSTANCE_ID
    assert await new.beat() == ErrorCode.NONE


async def test_a_rebalance_is_heard_at_the_other_worker(doors: list[Door]) -> None:
    settled = await joined(doors[0])
    newcomer = asyncio.create_task(Membership(doors[1], "group").settle())
    await settled.heard(ErrorCode.REBALANCE_IN_PROGRESS)
    await asyncio.gather(settled.settle(), newcomer)
    assert await settled.beat() == ErrorCode.NONE
