"""The engine in memory tells what the real one tells: each scenario runs on both, so that it cannot drift."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from redbroker.config import Settings
from redbroker.engine import Engine
from redbroker.engine.log import Append, Read
from redbroker.engine.memory import memory_engine
from redbroker.engine.memory_scripts import SCRIPTS
from redbroker.engine.offsets import NOTHING, Commit
from redbroker.engine.scripts import all_scripts
from redbroker.engine.topics import Topic
from redbroker.errors import ErrorCode, KafkaError
from redbroker.machines.classic_group import Heartbeat, JoinGroup, Leave, LeaveGroup, SyncGroup
from redbroker.machines.consumer_group import ConsumerHeartbeat
from redbroker.types import TopicPartition
from redbroker.wire.records import Record, build_batch, read_header

pytestmark = pytest.mark.anyio

NOW_MS = 1_800_000_000_000
FIRST = TopicPartition("orders", 0)


@pytest.fixture(params=["memory", "valkey"])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    if request.param == "memory":
        async with memory_engine(Settings(), lambda: NOW_MS) as engine:
            yield engine
    else:
        url = request.getfixturevalue("valkey").url
        async with Engine.open(Settings(storage_url=url, group_initial_rebalance_delay_ms=0)) as engine:
            yield engine


def a_batch(count: int = 1, *, time: int = 1000, **producer: Any) -> bytes:
    return build_batch([Record(i, time + i, b"key%d" % i, b"value", []) for i in range(count)], **producer)


async def put(engine: Engine, topic: Topic, batch: bytes) -> Any:
    [answer] = await engine.log.append([Append(topic, 0, batch, read_header(batch))], acks=-1, timeout_ms=1000)
    return answer


async def get(engine: Engine, topic: Topic, offset: int, epoch: int = -1) -> Any:
    [result] = await engine.log.read([Read(topic, 0, offset, 1 << 20, epoch)], max_bytes=1 << 20)
    return result


def code(answer: Any) -> Any:
    return answer.code if isinstance(answer, KafkaError) else answer


async def refused(call: Any) -> ErrorCode:
    with pytest.raises(KafkaError) as caught:
        await call
    return caught.value.code


ELSEWHERE = {
    "beat", "register_worker", "deregister_worker",  # there are no workers
    "confirm", "settle", "note_replicas",  # and no replicas
    "retain", "look_dirty", "compact_copy", "compact_index", "compact_swap", "compact_write", "take_lease",
    "release_lease", "header_at",  # nothing is trimmed by itself, compacted or surveyed
}  # fmt: skip


def test_memory_has_every_operation_that_one_process_without_replicas_needs() -> None:
    assert {each.name for each in all_scripts()} - SCRIPTS.keys() == ELSEWHERE


# --- topics ---------------------------------------------------------------------------------------------------


async def test_topics_are_made_grown_configured_and_deleted(engine: Engine) -> None:
    topic = await engine.topics.create("orders", 2, {"retention.ms": "1000"})
    assert (topic.partitions, topic.retention_ms) == (2, 1000)
    assert await refused(engine.topics.create("orders")) is ErrorCode.TOPIC_ALREADY_EXISTS
    assert (await engine.topics.ensure("orders")) is topic
    assert (await engine.topics.grow("orders", 3)).partitions == 3
    assert await refused(engine.topics.grow("orders", 3)) is ErrorCode.INVALID_PARTITIONS
    assert (await engine.topics.configure("orders", {}, ["retention.ms"])).configs == {}
    await engine.topics.delete("orders")
    assert engine.topics.get("orders") is None
    assert await refused(engine.topics.delete("orders")) is ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


async def test_names_that_differ_in_dots_collide(engine: Engine) -> None:
    await engine.topics.create("my.orders")
    assert await refused(engine.topics.create("my_orders")) is ErrorCode.INVALID_TOPIC_EXCEPTION


async def test_a_topic_made_again_begins_empty_and_its_offsets_are_gone(engine: Engine) -> None:
    old = await engine.topics.create("orders", 1)
    await put(engine, old, a_batch(3))
    await engine.offsets.commit("g", [Commit("orders", 0, 3)])
    assert (await engine.offsets.fetch("g", [FIRST]))[FIRST].offset == 3
    await engine.topics.delete("orders")
    new = await engine.topics.create("orders", 1)
    assert code(await put(engine, old, a_batch())) is ErrorCode.UNKNOWN_TOPIC_ID
    assert (await get(engine, new, 0)).next == 0
    assert (await engine.offsets.fetch("g", [FIRST]))[FIRST] == NOTHING


# --- log ------------------------------------------------------------------------------------------------------


async def test_what_is_appended_is_read_back_from_any_offset(engine: Engine) -> None:
    topic = await engine.topics.create("orders", 1)
    batches = [a_batch(count) for count in (1, 10, 3)]
    assert [(await put(engine, topic, batch)).base_offset for batch in batches] == [0, 1, 11]
    result = await get(engine, topic, 0)
    assert [each.batch for each in result.batches] == batches
    assert (result.log_start, result.next, result.leader_epoch) == (0, 14, 1)
    assert [each.base_offset for each in (await get(engine, topic, 7)).batches] == [1, 11]
    assert code(await get(engine, topic, 15)) is ErrorCode.OFFSET_OUT_OF_RANGE
    assert code(await get(engine, topic, 0, epoch=2)) is ErrorCode.UNKNOWN_LEADER_EPOCH


async def test_an_idempotent_producer_is_held_to_its_sequence(engine: Engine) -> None:
    topic = await engine.topics.create("orders", 1)

    async def send(sequence: int, epoch: int = 0, count: int = 2) -> Any:
        batch = a_batch(count, producer_id=7, producer_epoch=epoch, base_sequence=sequence)
        return code(await put(engine, topic, batch))

    sent = [await send(sequence) for sequence in range(0, 14, 2)]
    again = [await send(sequence) for sequence in range(4, 14, 2)]
    assert [each.base_offset for each in again] == [each.base_offset for each in sent[2:]]
    assert all(each.duplicate for each in again)
    assert await send(0) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER  # no longer in the window
    assert await send(16) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert await send(2, epoch=1) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert (await send(0, epoch=1)).base_offset == 14
    assert await send(14) is ErrorCode.INVALID_PRODUCER_EPOCH
    assert (await get(engine, topic, 0)).next == 16


async def test_a_wait_ends_with_the_next_append(engine: Engine) -> None:
    topic = await engine.topics.create("orders", 1)
    read = Read(topic, 0, 0, 1 << 20)
    [before] = await engine.log.read([read], max_bytes=1 << 20)

    async def woken() -> None:
        while (await get(engine, topic, 0)).next == 0:
            assert list(await engine.log.wait([(read, before)], 1, 10)) == [0]

    waiting = asyncio.create_task(woken())
    await asyncio.sleep(0)
    await put(engine, topic, a_batch())
    await asyncio.wait_for(waiting, 5)
    [after] = await engine.log.read([read], max_bytes=1 << 20)
    assert not await engine.log.wait([(read, after)], 1 << 20, 0.02)


async def test_times_bounds_epochs_and_trims(engine: Engine) -> None:
    topic = await engine.topics.create("orders", 1)
    for time in (1000, 2000, 3000):
        await put(engine, topic, a_batch(5, time=time))
    log = engine.log
    assert await log.find_time([(topic, 0, at) for at in (0, 1003, 2500, 9000)]) == [
        (0, 1000, 1), (3, 1003, 1), (10, 3000, 1), None,
    ]  # fmt: skip
    assert await log.find_max_time([(topic, 0)]) == [(14, 3004, 1)]
    assert await log.epoch_end([(topic, 0, epoch) for epoch in (0, 1, 2)]) == [(0, 0, 1), (1, 15, 1), (-1, -1, 1)]
    assert await log.trim([(topic, 0, 7)]) == [7]
    assert code((await log.trim([(topic, 0, 16)]))[0]) is ErrorCode.OFFSET_OUT_OF_RANGE
    [bounds] = await log.bounds([(topic, 0)])
    assert not isinstance(bounds, KafkaError)
    assert (bounds.log_start, bounds.next, bounds.max_timestamp) == (7, 15, 3004)
    assert [each.base_offset for each in (await get(engine, topic, 7)).batches] == [5, 10]
    assert code(await get(engine, topic, 6)) is ErrorCode.OFFSET_OUT_OF_RANGE


# --- groups ---------------------------------------------------------------------------------------------------


def join(member_id: str = "", new_id: str = "a") -> JoinGroup:
    return JoinGroup(member_id, new_id, None, "client", "/host", 10_000, 60_000, "consumer", (("range", b""),), False)


async def test_a_classic_group_joins_syncs_beats_commits_and_leaves(engine: Engine) -> None:
    joined = await engine.groups.ask("g", join())
    me, generation = joined.member_id, joined.generation
    assert joined.leader == me
    commit = [Commit("orders", 0, 5, 1, "note")]
    waiting: dict[str, Any] = {"member_id": me, "epoch": generation}
    assert await refused(engine.offsets.commit("g", commit, **waiting)) is ErrorCode.REBALANCE_IN_PROGRESS
    synced = await engine.groups.ask("g", SyncGroup(me, generation, None, "consumer", "range", ((me, b"mine"),)))
    assert synced.assignment == b"mine"
    assert await engine.groups.beat("g", me, generation)
    assert await refused(engine.groups.beat("g", me, generation + 1)) is ErrorCode.ILLEGAL_GENERATION
    assert await refused(engine.groups.beat("g", "nobody", generation)) is ErrorCode.UNKNOWN_MEMBER_ID
    await engine.offsets.commit("g", commit, **waiting)
    assert (await engine.offsets.fetch("g", [FIRST]))[FIRST][:3] == (5, 1, "note")
    assert await refused(engine.offsets.commit("g", commit, member_id=me, epoch=0)) is ErrorCode.ILLEGAL_GENERATION
    assert await refused(engine.offsets.commit("g", commit)) is ErrorCode.UNKNOWN_MEMBER_ID
    assert [code(each) for each in await engine.groups.delete(["g"])] == [ErrorCode.NON_EMPTY_GROUP]
    await engine.groups.ask("g", LeaveGroup((Leave(me),)))
    assert [(each.name, each.phase) for each in await engine.groups.list()] == [("g", "Empty")]
    deleted = await engine.groups.delete(["g", "h"])
    assert [code(each) for each in deleted] == [None, ErrorCode.GROUP_ID_NOT_FOUND]


async def test_who_is_parked_wakes_when_the_others_have_joined(engine: Engine) -> None:
    first = await engine.groups.ask("g", join())
    me, generation = first.member_id, first.generation
    await engine.groups.ask("g", SyncGroup(me, generation, None, "consumer", "range", ((me, b"x"),)))
    second = asyncio.create_task(engine.groups.ask("g", join(new_id="b")))
    async with asyncio.timeout(5):
        while True:
            try:
                await engine.groups.ask("g", Heartbeat(me, generation))
            except KafkaError as told:
                assert told.code is ErrorCode.REBALANCE_IN_PROGRESS
                break
            await asyncio.sleep(0)
        again, other = await asyncio.gather(engine.groups.ask("g", join(me, me)), second)
    assert again.generation == other.generation == generation + 1
    assert again.leader == other.leader == me


async def test_members_of_the_consumer_protocol_share_partitions(engine: Engine) -> None:
    await engine.topics.create("orders", 2)

    async def beat(member_id: str, epoch: int, **fields: Any) -> Any:
        event = ConsumerHeartbeat(member_id, epoch, client_id="c", catalogue=engine.topics.all(), **fields)
        return await engine.groups.ask("g", event)

    begin: dict[str, Any] = {"rebalance_timeout_ms": 10_000, "topics": ("orders",), "owned": frozenset()}
    first = await beat("a", 0, **begin)
    assert len(first.assigned) == 2
    assert await refused(engine.offsets.commit("g", [Commit("orders", 0, 1)], member_id="a", epoch=99)) is (
        ErrorCode.STALE_MEMBER_EPOCH
    )
    await engine.offsets.commit("g", [Commit("orders", 0, 1)], member_id="a", epoch=first.member_epoch)
    fetched = await engine.offsets.fetch("g", [FIRST], member_id="a", epoch=first.member_epoch)
    assert fetched[FIRST].offset == 1
    await beat("b", 0, **begin)
    assert not await engine.groups.beat("g", "a", first.member_epoch)  # there is something to tell
    await beat("a", -1)
    await beat("b", -1)
    group = await engine.groups.get("g")
    assert group is not None
    assert not group.members


async def test_offsets_of_nobodys_group_are_kept_listed_and_deleted(engine: Engine) -> None:
    await engine.topics.create("orders", 2)
    second = TopicPartition("orders", 1)
    await engine.offsets.commit("g", [Commit("orders", 0, 5), Commit("orders", 1, 6)])
    assert {each: what.offset for each, what in (await engine.offsets.fetch("g")).items()} == {FIRST: 5, second: 6}
    assert [each.name for each in await engine.groups.list()] == ["g"]
    assert await engine.groups.delete(["g"]) == [None]
    assert await engine.offsets.fetch("g") == {}
    gone = Commit("orders", 0, 5)
    assert await refused(engine.offsets.commit("h", [gone], member_id="m", epoch=3)) is ErrorCode.GROUP_ID_NOT_FOUND
