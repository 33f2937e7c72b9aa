"""DeleteGroups: only groups without members go."""

from __future__ import annotations

import pytest

from redbroker.broker.api import list_groups
from redbroker.broker.api.delete_groups import API
from redbroker.engine.offsets import Commit
from redbroker.errors import ErrorCode
from tests.support.door import Door
from tests.support.memberships import joined

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("version", range(3))
async def test_each_group_has_its_own_answer(door: Door, version: int) -> None:
    await door.topic()
    await door.engine.offsets.commit("done", [Commit("orders", 0, 1)])
    await joined(door, "busy")
    names = ["done", "busy", "unheard of", "", "done"]
    results = (await door.ask(API, version, groups_names=names)).results
    assert {each.group_id: each.error_code for each in results} == {
        "done": ErrorCode.NONE,
        "busy": ErrorCode.NON_EMPTY_GROUP,
        "unheard of": ErrorCode.GROUP_ID_NOT_FOUND,
        "": ErrorCode.INVALID_GROUP_ID,
    }
    assert len(results) == 4
    assert not await door.engine.offsets.fetch("done", None)
    assert [each.group_id for each in (await door.ask(list_groups.API, 5)).groups] == ["busy"]


async def test_a_group_whose_members_have_left_goes_from_any_worker(doors: list[Door]) -> None:
    member = await joined(doors[0])
    await member.leave()
    await doors[0].topic()
    await doors[0].engine.offsets.commit("group", [Commit("orders", 0, 1)])
    [result] = (await doors[1].ask(API, 2, groups_names=["group"])).results
    assert result.error_code == ErrorCode.NONE
