"""DescribeGroups: what a group is told as, and the bounds of an answer."""

from __future__ import annotations

import pytest

from redbroker.broker.api.describe_groups import API
from redbroker.errors import ErrorCode
from tests.support.door import Door
from tests.support.memberships import Membership, joined

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("version", range(7))
async def test_a_stable_group_is_told_with_its_members_at_every_worker(doors: list[Door], version: int) -> None:
    member = await joined(doors[0], instance="pod-1", metadata=b"\xffanything")
    [told] = (await doors[1].ask(API, version, groups=["group"], include_authorized_operations=version >= 3)).groups
    assert (told.error_code, told.group_id, told.group_state) == (0, "group", "Stable")
    assert (told.protocol_type, told.protocol_data) == ("consumer", "range")
    [one] = told.members
    assert one.group_instance_id == ("pod-1" if version >= 4 else None)
    assert (one.member_id, one.client_id, one.client_host) == (member.id, "test", "127.0.0.1")
    assert (one.member_metadata, one.member_assignment) == (b"\xffanything", member.id.encode())
    assert told.authorized_operations == (3400 if version >= 3 else -(2**31))


async def test_members_in_motion_are_told_without_their_bytes(door: Door) -> None:
    member = Membership(door, "group")
    await member.join()
    [told] = (await door.ask(API, 6, groups=["group"])).groups
    assert told.group_state == "CompletingRebalance"
    assert [(each.member_metadata, each.member_assignment) for each in told.members] == [(b"", b"")]


@pytest.mark.parametrize("version", range(7))
async def test_a_group_nobody_knows_is_dead(door: Door, version: int) -> None:
    [told] = (await door.ask(API, version, groups=["unheard of"])).groups
    assert told.group_state == "Dead"
    assert told.error_code == (ErrorCode.GROUP_ID_NOT_FOUND if version >= 6 else ErrorCode.NONE)
    assert (told.error_message or "").startswith("Group unheard of" if version >= 6 else "")


async def test_each_group_has_its_own_error_and_repeated_names_one_answer(door: Door) -> None:
    await joined(door)
    told = (await door.ask(API, 6, groups=["group", "", "group", "a\0b"])).groups
    assert [(each.group_id, each.error_code) for each in told] == [
        ("group", 0), ("", ErrorCode.INVALID_GROUP_ID), ("a\0b", ErrorCode.INVALID_GROUP_ID),
    ]  # fmt: skip


async def test_thousands_of_groups_are_described_in_one_answer(door: Door) -> None:
    await joined(door)
    names = [f"group-{number}" for number in range(3_000)]
    told = (await door.ask(API, 6, groups=["group", *names])).groups
    assert len(told) == 3_001
    assert told[0].group_state == "Stable"


async def test_an_answer_ends_where_answers_are_large_enough(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    from redbroker.broker.api import describe_groups

    monkeypatch.setattr(describe_groups, "CHUNK", 1)
    for name in ("one", "two", "three"):
        await joined(door, name, metadata=bytes(60_000))
    door.broker.settings = door.broker.settings.model_copy(update={"fetch_bytes_max": 100_000})
    told = (await door.ask(API, 6, groups=["one", "two", "three"])).groups
    assert [each.error_code for each in told] == [0, 0, ErrorCode.INVALID_REQUEST]
