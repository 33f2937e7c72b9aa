"""ConsumerGroupHeartbeat: from joining to leaving, over two workers, and everything a client can send wrongly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from redbroker.broker.api.consumer_group_describe import API as DESCRIBE
from redbroker.broker.api.consumer_group_heartbeat import API
from redbroker.errors import ErrorCode
from redbroker.machines.classic_group import JoinGroup, Leave, LeaveGroup
from redbroker.machines.consumer_group import ConsumerHeartbeat
from tests.support.door import Door, only

pytestmark = pytest.mark.anyio

Owned = API.request.struct("topic_partitions")
JOIN = {"member_epoch": 0, "rebalance_timeout_ms": 60_000, "topic_partitions": []}


async def join(door: Door, member: str, *topics: str, version: int = 1, **fields: Any) -> Any:
    """A join, by topic names unless fields say otherwise."""
    given = {**JOIN, "member_id": member, "subscribed_topic_names": list(topics), **fields}
    return await door.ask(API, version, group_id="g", **given)


async def beat(door: Door, member: str, epoch: int, **fields: Any) -> Any:
    return await door.ask(API, 1, group_id="g", member_id=member, member_epoch=epoch, **fields)


def partitions(answer: Any) -> list[int]:
    """The partitions of the one topic that was assigned."""
    assert answer.error_code == 0, answer.error_message
    return [number for each in answer.assignment.topic_partitions for number in each.partitions]


async def all_settled(door: Door, topic: Any, members: Sequence[str]) -> dict[str, tuple[int, list[int]]]:
    """Every member heartbeats and does as it is told, until nobody is told anything."""
    state: dict[str, tuple[int, list[int]]] = {}
    for _ in range(10):
        moved = False
        for member in members:
            group = await door.engine.groups.get("g")
            now = group.members[member]  # type: ignore[union-attr]
            owned = sorted(number for _, number in now.assigned)
            answer = await beat(
                door, member, now.epoch, topic_partitions=[Owned(topic_id=topic.id, partitions=owned)] if owned else []
            )
            assert answer.error_code == 0, answer.error_message
            moved = moved or answer.assignment is not None or answer.member_epoch != now.epoch
            state[member] = (answer.member_epoch, partitions(answer) if answer.assignment else owned)
        if not moved:
            return state
    raise AssertionError("the group does not settle")


@pytest.mark.parametrize("version", [0, 1])
async def test_the_first_member_reads_everything_at_once(door: Door, version: int) -> None:
    topic = await door.topic("orders", 3)
    answer = await join(door, "a", "orders", version=version)
    assert partitions(answer) == [0, 1, 2]
    assert answer.assignment.topic_partitions[0].topic_id == topic.id
    assert (answer.member_id, answer.member_epoch) == ("a", 1)
    assert answer.heartbeat_interval_ms == door.broker.settings.group_consumer_heartbeat_interval_ms


async def test_in_v0_the_coordinator_makes_the_member_id(door: Door) -> None:
    await door.topic("orders", 1)
    one, two = [await join(door, "", "orders", version=0) for _ in range(2)]
    assert one.member_id
    assert one.member_id != two.member_id


async def test_a_member_that_waits_is_told_to_come_back_soon(door: Door) -> None:
    await door.topic("orders", 2)
    await join(door, "a", "orders")
    answer = await join(door, "b", "orders")
    assert partitions(answer) == []
    assert answer.heartbeat_interval_ms == door.broker.settings.group_consumer_settle_interval_ms


async def test_partitions_move_between_members_of_two_workers(doors: list[Door]) -> None:
    topic = await doors[0].topic("orders", 6)
    assert partitions(await join(doors[0], "a", "orders")) == [0, 1, 2, 3, 4, 5]
    assert partitions(await join(doors[1], "b", "orders")) == []
    told = await beat(doors[0], "a", 1)
    assert partitions(told) == [0, 1, 2]
    assert (await beat(doors[1], "b", 2)).assignment is None
    done = await beat(doors[1], "a", 1, topic_partitions=[Owned(topic_id=topic.id, partitions=[0, 1, 2])])
    assert done.member_epoch == 2
    assert partitions(await beat(doors[0], "b", 2)) == [3, 4, 5]
    owners = await doors[0].engine.storage.call(
        b"rb", "HGETALL", f"{doors[0].engine.settings.key_prefix}:{{g:g}}:assignment"
    )
    assert dict(zip(owners[::2], owners[1::2], strict=True))[b"orders:3"] == b"b 2 test 127.0.0.1"


async def test_a_heartbeat_that_brings_nothing_new_never_loads_the_group(door: Door) -> None:
    await door.topic("orders", 1)
    await join(door, "a", "orders")
    await beat(door, "a", 1)  # the first one shows this worker's topics to the group
    groups = door.engine.groups
    asked: list[Any] = []
    ask, groups.ask = groups.ask, lambda name, event: asked.append(event) or ask(name, event)  # type: ignore[method-assign,assignment,func-returns-value]
    answer = await beat(door, "a", 1)
    assert (answer.error_code, answer.member_epoch, answer.assignment) == (0, 1, None)
    assert not asked
    await beat(door, "a", 1, topic_partitions=[])
    assert [type(event) for event in asked] == [ConsumerHeartbeat]


async def test_new_partitions_and_new_topics_come_with_the_next_heartbeat(doors: list[Door]) -> None:
    await doors[0].topic("orders", 1)
    await join(doors[0], "a", subscribed_topic_names=None, subscribed_topic_regex="ord.*")
    await doors[1].engine.topics.grow("orders", 2)
    await doors[0].engine.topics.reload()
    assert partitions(await beat(doors[0], "a", 1)) == [0, 1]
    await doors[1].topic("ordinary", 1)
    await doors[0].engine.topics.reload()
    assert len(partitions(await beat(doors[0], "a", 2))) == 3
    await doors[1].engine.topics.delete("ordinary")
    await doors[0].engine.topics.reload()
    assert partitions(await beat(doors[0], "a", 3)) == [0, 1]


async def test_a_join_sees_a_topic_that_another_worker_has_just_made(doors: list[Door]) -> None:
    await doors[1].topic("orders", 2)
    assert partitions(await join(doors[0], "a", "orders")) == [0, 1]


async def test_leaving_frees_everything_for_the_others(door: Door) -> None:
    topic = await door.topic("orders", 4)
    await join(door, "a", "orders")
    await join(door, "b", "orders")
    await all_settled(door, topic, "ab")
    left = await beat(door, "a", -1)
    assert (left.error_code, left.member_id, left.member_epoch, left.assignment) == (0, None, -1, None)
    assert (await all_settled(door, topic, "b"))["b"][1] == [0, 1, 2, 3]
    assert (await beat(door, "a", 2)).error_code == ErrorCode.UNKNOWN_MEMBER_ID


async def test_a_static_member_comes_back_to_what_it_had(door: Door) -> None:
    await door.topic("orders", 2)
    await join(door, "a1", "orders", instance_id="pod-0")
    assert (await join(door, "a2", "orders", instance_id="pod-0")).error_code == ErrorCode.UNRELEASED_INSTANCE_ID
    assert (await beat(door, "a1", -2, instance_id="pod-0")).member_epoch == -2
    back = await join(door, "a2", "orders", instance_id="pod-0")
    assert partitions(back) == [0, 1]
    assert back.member_epoch == 1
    assert (await beat(door, "a1", 1, instance_id="pod-0")).error_code == ErrorCode.FENCED_INSTANCE_ID


async def test_wrong_epochs_are_fenced_and_a_lost_answer_is_forgiven(door: Door) -> None:
    topic = await door.topic("orders", 2)
    await join(door, "a", "orders")
    await join(door, "b", "orders")
    await beat(door, "a", 1)
    await beat(door, "a", 1, topic_partitions=[Owned(topic_id=topic.id, partitions=[0])])
    assert (await beat(door, "a", 7)).error_code == ErrorCode.FENCED_MEMBER_EPOCH
    assert (await beat(door, "a", 1)).error_code == ErrorCode.FENCED_MEMBER_EPOCH
    again = await beat(door, "a", 1, topic_partitions=[Owned(topic_id=topic.id, partitions=[0])])
    assert (again.error_code, again.member_epoch) == (0, 2)


async def test_a_heartbeat_to_a_group_that_is_gone_makes_the_client_rejoin(door: Door) -> None:
    assert (await beat(door, "a", 3)).error_code == ErrorCode.UNKNOWN_MEMBER_ID
    assert (await beat(door, "a", -1)).error_code == ErrorCode.UNKNOWN_MEMBER_ID


@pytest.mark.parametrize(
    ("fields", "version", "code"),
    [
        ({"member_id": ""}, 1, ErrorCode.INVALID_REQUEST),
        ({"member_id": "", "member_epoch": 1}, 0, ErrorCode.INVALID_REQUEST),
        ({"member_id": "", "member_epoch": -1}, 0, ErrorCode.INVALID_REQUEST),
        ({"member_id": "a\0b"}, 1, ErrorCode.INVALID_REQUEST),
        ({"member_id": "a" * 5_000}, 1, ErrorCode.INVALID_REQUEST),
        ({"group_id": ""}, 1, ErrorCode.INVALID_REQUEST),
        ({"instance_id": ""}, 1, ErrorCode.INVALID_REQUEST),
        ({"rack_id": ""}, 1, ErrorCode.INVALID_REQUEST),
        ({"rebalance_timeout_ms": -1}, 1, ErrorCode.INVALID_REQUEST),
        ({"topic_partitions": None}, 1, ErrorCode.INVALID_REQUEST),
        ({"topic_partitions": [Owned(partitions=[0])]}, 1, ErrorCode.INVALID_REQUEST),
        ({"subscribed_topic_names": None}, 1, ErrorCode.INVALID_REQUEST),
        ({"subscribed_topic_names": ["t" * 300_000]}, 1, ErrorCode.INVALID_REQUEST),
        ({"member_epoch": -2}, 1, ErrorCode.INVALID_REQUEST),
        ({"member_epoch": -3}, 1, ErrorCode.INVALID_REQUEST),
        ({"server_assignor": "sticky"}, 1, ErrorCode.UNSUPPORTED_ASSIGNOR),
        ({"subscribed_topic_regex": "(unclosed"}, 1, ErrorCode.INVALID_REGULAR_EXPRESSION),
        ({"subscribed_topic_regex": "(?=ahead)"}, 1, ErrorCode.INVALID_REGULAR_EXPRESSION),
        ({"subscribed_topic_regex": "x" * 20_000}, 1, ErrorCode.INVALID_REGULAR_EXPRESSION),
    ],
)
async def test_what_is_wrong_is_refused_with_its_code_and_a_sentence(
    door: Door, fields: dict[str, Any], version: int, code: ErrorCode
) -> None:
    request = {"group_id": "g", "member_id": "a", **JOIN, "subscribed_topic_names": ["orders"], **fields}
    answer = await door.ask(API, version, **request)
    assert answer.error_code == code
    assert answer.error_message
    assert answer.assignment is None
    assert await door.engine.groups.get("g") is None


async def test_a_hostile_pattern_takes_no_time(door: Door) -> None:
    await door.topic("a" * 200, 1)
    answer = await join(door, "a", subscribed_topic_names=None, subscribed_topic_regex="(((a+)+)+)+b")
    assert partitions(answer) == []


async def test_an_id_that_librdkafka_would_read_too_far_is_left_out(door: Door) -> None:
    """It reads on to the next zero byte: the answer's next field is the epoch."""
    await door.topic("orders", 1)
    joining = {**JOIN, "subscribed_topic_names": ["orders"]}
    await door.engine.groups.ask(
        "g", JoinGroup("", "old", None, "c", "h", 10_000, 10_000, "consumer", (("range", b""),), False)
    )
    await door.engine.groups.ask("g", LeaveGroup((Leave("old"),)))
    answer = await door.ask(API, 1, group_id="g", member_id="a", **joining)
    assert answer.member_epoch >= 1 << 24
    assert answer.member_id is None
    assert (await beat(door, "a", answer.member_epoch)).member_id is None
    assert (await door.ask(API, 0, group_id="g", member_id="b", **joining)).member_id == "b"


async def test_a_group_of_classic_members_is_not_taken_over_by_force(door: Door) -> None:
    from redbroker.broker.api.join_group import API as JOIN_GROUP

    protocol = JOIN_GROUP.request.struct("protocols")(name="range", metadata=b"not a subscription")
    await door.ask(
        JOIN_GROUP, 3, group_id="g", session_timeout_ms=10_000, rebalance_timeout_ms=10_000, member_id="",
        protocol_type="consumer", protocols=[protocol],
    )  # fmt: skip
    assert (await join(door, "a", "orders")).error_code == ErrorCode.GROUP_ID_NOT_FOUND


async def test_describe_tells_members_epochs_and_both_assignments(door: Door) -> None:
    topic = await door.topic("orders", 2)
    await join(door, "a", "orders", rack_id="r1", instance_id="pod-0", subscribed_topic_regex="cl.*")
    await join(door, "b", "orders")
    described = only(await door.ask(DESCRIBE, 1, group_ids=["g"], include_authorized_operations=True), "groups")
    assert (described.error_code, described.group_state, described.assignor_name) == (0, "Reconciling", "uniform")
    assert (described.group_epoch, described.assignment_epoch) == (2, 2)
    assert described.authorized_operations > 0
    one, two = described.members
    assert (one.member_id, one.instance_id, one.rack_id, one.member_epoch) == ("a", "pod-0", "r1", 1)
    assert (one.client_id, one.client_host, one.member_type) == ("test", "127.0.0.1", 1)
    assert (one.subscribed_topic_names, one.subscribed_topic_regex) == (["orders"], "cl.*")
    assert (two.instance_id, two.subscribed_topic_regex) == (None, None)
    [has], [shall] = one.assignment.topic_partitions, one.target_assignment.topic_partitions
    assert (has.topic_id, has.topic_name, has.partitions) == (topic.id, "orders", [0, 1])
    assert shall.partitions == [0]
