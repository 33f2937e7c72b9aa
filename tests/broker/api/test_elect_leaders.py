"""ElectLeaders: there is nothing to elect."""

from __future__ import annotations

from typing import Any

import pytest

from redbroker.broker.api.elect_leaders import API
from redbroker.errors import ErrorCode
from tests.support.door import Door

pytestmark = pytest.mark.anyio

WANTED = API.request.struct("topic_partitions")


def told(answer: Any) -> list[tuple[str, int, str]]:
    return [
        (topic.topic, each.partition_id, ErrorCode(each.error_code).name)
        for topic in answer.replica_election_results
        for each in topic.partition_result
    ]


@pytest.mark.parametrize("version", range(API.low, API.high + 1))
async def test_no_partition_needs_an_election_and_unknown_ones_are_told(door: Door, version: int) -> None:
    await door.topic("orders", 2)
    wanted = [WANTED("orders", [0, 1, 2, -1]), WANTED("unknown", [0])]
    answer = await door.ask(API, version, topic_partitions=wanted)
    unknown = "UNKNOWN_TOPIC_OR_PARTITION"
    assert answer.error_code == 0
    assert told(answer) == [
        ("orders", 0, "ELECTION_NOT_NEEDED"),
        ("orders", 1, "ELECTION_NOT_NEEDED"),
        ("orders", 2, unknown),
        ("orders", -1, unknown),
        ("unknown", 0, unknown),
    ]


async def test_asking_for_all_partitions_finds_nothing_to_say(door: Door) -> None:
    await door.topic("orders", 2)
    answer = await door.ask(API, 2, topic_partitions=None)
    assert (answer.error_code, told(answer)) == (0, [])


async def test_an_unknown_election_type_is_refused(door: Door) -> None:
    answer = await door.ask(API, 2, election_type=7, topic_partitions=[WANTED("orders", [0])])
    assert answer.error_code == ErrorCode.INVALID_REQUEST
    assert told(answer) == [("orders", 0, "INVALID_REQUEST")]
