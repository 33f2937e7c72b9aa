"""ListGroups: all groups from any worker, and the filters."""

from __future__ import annotations

import pytest

from redbroker.broker.api.list_groups import API
from redbroker.engine.offsets import Commit
from tests.support.door import Door
from tests.support.memberships import joined

pytestmark = pytest.mark.anyio


async def three_groups(door: Door) -> None:
    """`active` is stable, `idle` has lost its member, `simple` only has offsets."""
    await door.topic()
    await joined(door, "active")
    await (await joined(door, "idle")).leave()
    await door.engine.offsets.commit("simple", [Commit("orders", 0, 1)])
    await door.engine.offsets.commit("idle", [Commit("orders", 0, 1)])


@pytest.mark.parametrize("version", range(6))
async def test_every_worker_lists_every_group_in_every_version(doors: list[Door], version: int) -> None:
    await three_groups(doors[0])
    for door in doors:
        answer = await door.ask(API, version)
        assert answer.error_code == 0
        assert [each.group_id for each in answer.groups] == ["active", "idle", "simple"]
        assert answer.groups[0].protocol_type == "consumer"
        states = ["Stable", "Empty", "Empty"] if version >= 4 else [""] * 3
        assert [each.group_state for each in answer.groups] == states
        assert {each.group_type for each in answer.groups} == ({"classic"} if version >= 5 else {""})


@pytest.mark.parametrize(
    ("states", "types", "found"),
    [
        (["Stable"], [], ["active"]),
        (["empty", "DEAD"], [], ["idle", "simple"]),
        (["Unheard"], [], []),
        ([], ["Classic"], ["active", "idle", "simple"]),
        ([], ["consumer"], []),
        ([], ["share"], []),
        (["Stable", "Unheard"], ["classic", "consumer"], ["active"]),
    ],
)
async def test_filters_ignore_case_and_match_nothing_where_there_is_nothing(
    door: Door, states: list[str], types: list[str], found: list[str]
) -> None:
    await three_groups(door)
    answer = await door.ask(API, 5, states_filter=states, types_filter=types)
    assert [each.group_id for each in answer.groups] == found
