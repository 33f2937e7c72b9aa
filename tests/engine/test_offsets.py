"""Committed offsets on real servers: who may commit what, what is kept of it, and when it is forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from redbroker.config import Settings
from redbroker.engine import Engine
from redbroker.engine.offsets import NOTHING, Commit, Committed
from redbroker.errors import ErrorCode, KafkaError
from redbroker.machines.classic_group import Leave, LeaveGroup
from redbroker.types import TopicPartition
from tests.support.members import Member
from tests.support.servers import Server

pytestmark = pytest.mark.anyio

FAST = {"group_initial_rebalance_delay_ms": 20, "group_min_session_timeout_ms": 100, "group_tend_ms": 50}
ORDERS = TopicPartition("orders", 0)


@contextlib.asynccontextmanager
async def opened(server: Any, **settings: Any) -> AsyncIterator[Engine]:
    async with Engine.open(Settings(storage_url=server.url, **(FAST | settings))) as engine:
        yield engine


@pytest.fixture
async def engine(valkey: Server) -> AsyncIterator[Engine]:
    async with opened(valkey) as engine:
        yield engine


async def refused(call: Any) -> ErrorCode:
    with pytest.raises(KafkaError) as caught:
        await call
    return caught.value.code


async def until(condition: Any, timeout_s: float = 5) -> None:
    async with asyncio.timeout(timeout_s):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def of(member: Member) -> dict[str, Any]:
    return {"member_id": member.member_id, "epoch": member.generation, "instance_id": member.instance_id}


# --- storing ------------------------------------------------------------------------------------------------


async def test_what_was_committed_is_fetched_with_epoch_metadata_and_time(engine: Engine, valkey: Server) -> None:
    assert await engine.offsets.commit("g", [Commit("orders", 0, 42, 7, "mañana \"'\\ ☃")]) == [None]
    found = await engine.offsets.fetch("g", [ORDERS])
    assert found[ORDERS][:3] == (42, 7, "mañana \"'\\ ☃")
    assert abs(found[ORDERS].commit_ms - int(valkey.command("TIME")[0]) * 1000) < 5_000
    assert json.loads(valkey.command("HGET", "rb:{g:g}:offsets", "orders:0"))[0] == 42


async def test_an_unknown_group_or_partition_has_no_offset_and_no_error(engine: Engine) -> None:
    assert await engine.offsets.fetch("nobody", [ORDERS]) == {ORDERS: NOTHING}
    assert await engine.offsets.fetch("nobody") == {}
    await engine.offsets.commit("g", [Commit("orders", 0, 42)])
    found = await engine.offsets.fetch("g", [TopicPartition("orders", 1), ORDERS, TopicPartition("x:y", 3)])
    assert [each.offset for each in found.values()] == [-1, 42, -1]


async def test_all_offsets_of_a_group_come_in_order(engine: Engine) -> None:
    commits = [Commit(topic, number, number) for topic in ("b.x", "a") for number in (10, 2)]
    await engine.offsets.commit("g", commits)
    found = await engine.offsets.fetch("g")
    assert list(found) == [("a", 2), ("a", 10), ("b.x", 2), ("b.x", 10)]


async def test_a_thousand_partitions_are_committed_and_fetched_at_once(engine: Engine) -> None:
    partitions = [TopicPartition("wide", number) for number in range(1_000)]
    await engine.offsets.commit("g", [Commit(*each, 5) for each in partitions])
    found = await engine.offsets.fetch("g", partitions)
    assert {each.offset for each in found.values()} == {5}


async def test_metadata_is_bounded_and_the_other_partitions_are_committed(engine: Engine) -> None:
    most = Settings().offset_metadata_bytes_max
    commits = [Commit("orders", 0, 1, metadata="x" * (most + 1)), Commit("orders", 1, 2, metadata="x" * most)]
    first, second = await engine.offsets.commit("g", commits)
    assert first is not None
    assert first.code is ErrorCode.OFFSET_METADATA_TOO_LARGE
    assert second is None
    assert [each.offset for each in (await engine.offsets.fetch("g")).values()] == [2]


async def test_offsets_are_not_found_for_another_topic_of_the_same_name(engine: Engine) -> None:
    await engine.topics.create("orders", 1)
    await engine.offsets.commit("g", [Commit("orders", 0, 42)])
    assert (await engine.offsets.fetch("g"))[ORDERS].offset == 42
    await engine.topics.delete("orders")
    await engine.topics.create("orders", 1)
    assert await engine.offsets.fetch("g") == {}
    assert await engine.offsets.fetch("g", [ORDERS]) == {ORDERS: NOTHING}


async def test_a_commit_waits_for_as_many_copies_as_acks_all(valkey: Server) -> None:
    async with opened(valkey, replicas=1, storage_timeout_ms=200) as engine:
        call = engine.offsets.commit("g", [Commit("orders", 0, 42)])
        assert await refused(call) is ErrorCode.COORDINATOR_NOT_AVAILABLE


async def test_commits_reach_the_replicas_of_a_cluster(cluster: Any) -> None:
    async with opened(cluster) as engine:
        assert engine.durability.copies_default == 2
        names = [f"g{n}" for n in range(9)]
        await asyncio.gather(*(engine.offsets.commit(name, [Commit("orders", 0, 1)]) for name in names))
        found = await asyncio.gather(*(engine.offsets.fetch(name, [ORDERS]) for name in names))
        assert [each[ORDERS].offset for each in found] == [1] * 9


# --- who may commit -----------------------------------------------------------------------------------------


async def test_members_commit_with_their_generation_only(engine: Engine) -> None:
    member = Member(engine.groups, "g", "a", instance_id="i")
    await member.enter()
    commits, commit = [Commit("orders", 0, 1)], engine.offsets.commit
    assert await commit("g", commits, **of(member)) == [None]
    assert await refused(commit("g", commits, member_id="x", epoch=member.generation)) is ErrorCode.UNKNOWN_MEMBER_ID
    assert await refused(commit("g", commits, **(of(member) | {"epoch": 1}))) is ErrorCode.ILLEGAL_GENERATION
    assert await refused(commit("g", commits, **(of(member) | {"member_id": "x"}))) is ErrorCode.FENCED_INSTANCE_ID
    assert await refused(commit("g", commits, **(of(member) | {"instance_id": "j"}))) is ErrorCode.UNKNOWN_MEMBER_ID
    assert await refused(commit("g", commits)) is ErrorCode.UNKNOWN_MEMBER_ID
    assert await refused(commit("", commits)) is ErrorCode.INVALID_GROUP_ID


async def test_a_group_that_is_not_there_refuses_members_and_takes_anybody_else(engine: Engine) -> None:
    commits, commit = [Commit("orders", 0, 1)], engine.offsets.commit
    assert await refused(commit("g", commits, member_id="a", epoch=1, version=9)) is ErrorCode.GROUP_ID_NOT_FOUND
    assert await refused(commit("g", commits, member_id="a", epoch=1, version=8)) is ErrorCode.ILLEGAL_GENERATION
    assert await commit("g", commits) == [None]
    [listed] = await engine.groups.list()
    assert listed[:] == ("g", "classic", "", "Empty")
    [described] = await engine.groups.describe(["g"])
    assert described is not None
    assert described.phase == "Empty"


async def test_nobody_commits_between_joining_and_the_assignment(engine: Engine) -> None:
    member = Member(engine.groups, "g", "a")
    joined = await member.join()
    commits, commit = [Commit("orders", 0, 1)], engine.offsets.commit
    assert await refused(commit("g", commits, **of(member))) is ErrorCode.REBALANCE_IN_PROGRESS
    assert await refused(commit("g", commits)) is ErrorCode.UNKNOWN_MEMBER_ID
    await member.sync(joined)
    assert await commit("g", commits, **of(member)) == [None]


async def test_members_may_commit_while_the_others_are_waited_for(engine: Engine) -> None:
    one, two = Member(engine.groups, "g", "one"), Member(engine.groups, "g", "two")
    await one.enter()
    entering = asyncio.create_task(two.enter())

    async def preparing() -> bool:
        group = await engine.groups.get("g")
        return group is not None and group.phase == "PreparingRebalance"

    await until(preparing)
    assert await engine.offsets.commit("g", [Commit("orders", 0, 1)], **of(one)) == [None]
    await one.enter()
    await entering


async def test_a_commit_is_a_sign_of_life(engine: Engine) -> None:
    member = Member(engine.groups, "g", "a", session_timeout_ms=300)
    await member.enter()
    for _ in range(6):
        await asyncio.sleep(0.1)
        await engine.offsets.commit("g", [Commit("orders", 0, 1)], **of(member))
    assert await member.beat()


async def test_an_admin_commits_to_a_group_without_members(engine: Engine) -> None:
    member = Member(engine.groups, "g", "a")
    await member.enter()
    await engine.groups.ask("g", LeaveGroup((Leave(member.member_id),)))
    assert await engine.offsets.commit("g", [Commit("orders", 0, 9)]) == [None]
    commit = engine.offsets.commit("g", [Commit("orders", 0, 1)], **of(member))
    assert await refused(commit) is ErrorCode.UNKNOWN_MEMBER_ID


# --- forgetting ---------------------------------------------------------------------------------------------


async def test_offsets_of_topics_nobody_reads_are_deleted(engine: Engine) -> None:
    await engine.offsets.commit("g", [Commit("orders", 0, 1), Commit("old", 0, 2)])
    member = Member(engine.groups, "g", "a", topics=["orders"])
    await member.enter()
    wanted = [ORDERS, TopicPartition("old", 0), TopicPartition("none", 0)]
    codes = [error and error.code for error in await engine.offsets.delete("g", wanted)]
    assert codes == [ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC, None, None]
    assert list(await engine.offsets.fetch("g")) == [ORDERS]
    await engine.groups.ask("g", LeaveGroup((Leave(member.member_id),)))
    assert await engine.offsets.delete("g", [ORDERS]) == [None]
    assert await engine.offsets.fetch("g") == {}


async def test_deleting_offsets_needs_a_group_and_no_strangers_in_it(engine: Engine) -> None:
    assert await refused(engine.offsets.delete("g", [ORDERS])) is ErrorCode.GROUP_ID_NOT_FOUND
    member = Member(engine.groups, "g", "a")
    await member.join(protocol_type="connect")
    assert await refused(engine.offsets.delete("g", [ORDERS])) is ErrorCode.NON_EMPTY_GROUP


async def test_an_unreadable_subscription_may_mean_any_topic(engine: Engine) -> None:
    await engine.offsets.commit("g", [Commit("orders", 0, 1)])
    member = Member(engine.groups, "g", "a")
    await member.join(protocols=(("range", b"?"),))
    [error] = await engine.offsets.delete("g", [ORDERS])
    assert error is not None
    assert error.code is ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC


async def test_deleting_a_group_deletes_its_offsets(engine: Engine) -> None:
    await engine.offsets.commit("g", [Commit("orders", 0, 1)])
    assert await engine.groups.delete(["g"]) == [None]
    assert await engine.offsets.fetch("g") == {}
    assert await engine.groups.list() == []
    assert await engine.offsets.commit("g", [Commit("orders", 0, 1)]) == [None]
    assert [each.name for each in await engine.groups.list()] == ["g"]


def age(server: Server, group: str, minutes: int) -> None:
    """Make a group's offsets, and its phase, older than they are."""
    key = f"rb:{{g:{group}}}:offsets"
    flat = server.command("HGETALL", key)
    for field, entry in zip(flat[::2], flat[1::2], strict=True):
        value = json.loads(entry)
        value[3] -= minutes * 60_000
        server.command("HSET", key, field, json.dumps(value))
    if since := server.command("HGET", f"rb:{{g:{group}}}:head", "since"):
        server.command("HSET", f"rb:{{g:{group}}}:head", "since", int(since) - minutes * 60_000)


EXPIRING = {"offsets_retention_minutes": 10, "offsets_retention_check_ms": 50, "group_tend_ms": 20}


async def test_a_group_empty_for_too_long_loses_its_offsets_and_then_itself(valkey: Server) -> None:
    async with opened(valkey, **EXPIRING) as engine:
        await engine.workers.register("h", 1)
        member = Member(engine.groups, "left", "a")
        await member.enter()
        await engine.offsets.commit("left", [Commit("orders", 0, 1)], **of(member))
        await engine.groups.ask("left", LeaveGroup((Leave(member.member_id),)))
        await engine.offsets.commit("simple", [Commit("orders", 0, 1)])
        await engine.offsets.commit("young", [Commit("orders", 0, 1)])
        age(valkey, "left", 11)
        age(valkey, "simple", 11)
        age(valkey, "young", 9)

        async def gone() -> bool:
            return [each.name for each in await engine.groups.list()] == ["young"]

        await until(gone, 12)
        assert valkey.command("KEYS", "rb:{g:left}*") == []
        assert (await engine.offsets.fetch("young"))[ORDERS].offset == 1


async def test_members_keep_the_offsets_of_what_they_read(valkey: Server) -> None:
    async with opened(valkey, **EXPIRING) as engine:
        await engine.workers.register("h", 1)
        await engine.offsets.commit("g", [Commit("orders", 0, 1), Commit("old", 0, 2)])
        await Member(engine.groups, "g", "a", topics=["orders"]).enter()
        age(valkey, "g", 11)

        async def old_is_gone() -> bool:
            return list(await engine.offsets.fetch("g")) == [ORDERS]

        await until(old_is_gone, 12)
        await asyncio.sleep(0.2)
        assert list(await engine.offsets.fetch("g")) == [ORDERS]


async def test_a_group_is_not_taken_for_empty_since_its_last_member_came(valkey: Server) -> None:
    async with opened(valkey, **EXPIRING | {"offsets_retention_check_ms": 20}) as engine:
        await engine.workers.register("h", 1)
        member = Member(engine.groups, "g", "a", session_timeout_ms=400)
        await member.enter()
        await engine.offsets.commit("g", [Commit("orders", 0, 1)], **of(member))
        age(valkey, "g", 11)  # nothing has come since to be committed

        async def expired() -> bool:
            group = await engine.groups.get("g")
            return group is None or not group.members

        await until(expired)
        await asyncio.sleep(0.2)
        assert (await engine.offsets.fetch("g"))[ORDERS].offset == 1


async def test_an_offset_is_a_plain_value() -> None:
    assert Committed(1) == (1, -1, "", -1)
    assert NOTHING.offset == -1
