"""Metadata: workers, topics, leaders; what is created on the way, and what each version may ask."""

from __future__ import annotations

import time
import uuid
from typing import Any

import anyio
import pytest

from redbroker.broker.api.metadata import API
from redbroker.config import Settings
from redbroker.engine import Engine
from redbroker.errors import ErrorCode, KafkaError
from redbroker.wire.schema import NULL_UUID
from tests.support.door import Door, only
from tests.support.servers import Server

pytestmark = pytest.mark.anyio

Asked = API.request.struct("topics")
VERSIONS = range(API.low, API.high + 1)


async def ask(door: Door, *names: str, version: int = 12, create: bool = True) -> Any:
    topics = [Asked(name=name) for name in names]
    return await door.ask(API, version, topics=topics, allow_auto_topic_creation=create)


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_topic_is_described_in_every_version(doors: list[Door], version: int) -> None:
    door = doors[0]
    topic = await door.topic(partitions=3)
    answer = await ask(door, "orders", version=version)
    assert [each.port for each in answer.brokers] == [19_092, 19_093]
    assert [each.rack for each in answer.brokers] == (["rack0", "rack1"] if version >= 1 else [None, None])
    assert answer.controller_id == (answer.brokers[0].node_id if version >= 1 else -1)
    assert answer.cluster_id == (door.engine.cluster_id if version >= 2 else None)
    assert answer.cluster_authorized_operations == -2147483648
    told = only(answer, "topics")
    assert (told.error_code, told.name, told.is_internal) == (ErrorCode.NONE, "orders", False)
    assert told.topic_id == (topic.id if version >= 10 else NULL_UUID)
    assert told.topic_authorized_operations == -2147483648
    assert [part.partition_index for part in told.partitions] == [0, 1, 2]
    for part in told.partitions:
        assert part.error_code == ErrorCode.NONE
        assert part.replica_nodes == part.isr_nodes == [part.leader_id]
        assert not part.offline_replicas
        assert part.leader_epoch > 0 if version >= 7 else part.leader_epoch == -1


async def test_leaders_and_coordinators_are_nodes_that_metadata_lists_and_all_of_them_lead(doors: list[Door]) -> None:
    await doors[0].topic(partitions=50)
    answer = await ask(doors[0], "orders")
    nodes = {each.node_id for each in answer.brokers}
    assert len(nodes) == 2
    assert {part.leader_id for part in only(answer, "topics").partitions} == nodes


async def test_every_worker_tells_the_same_leaders_and_epochs(doors: list[Door]) -> None:
    await doors[0].topic(partitions=20)
    first, second = [only(await ask(each, "orders"), "topics") for each in doors]
    assert first == second


@pytest.mark.parametrize("version", VERSIONS)
async def test_all_topics_are_asked_for_by_an_empty_list_in_v0_and_by_null_later(door: Door, version: int) -> None:
    await door.topic("a")
    await door.topic("b")
    empty = await door.ask(API, version, topics=[])
    assert {each.name for each in empty.topics} == ({"a", "b"} if version == 0 else set())
    if version > 0:
        everything = await door.ask(API, version, topics=None)
        assert {each.name for each in everything.topics} == {"a", "b"}


@pytest.mark.parametrize("version", VERSIONS)
async def test_an_unknown_topic_is_created_at_once_and_has_leaders(door: Door, version: int) -> None:
    told = only(await ask(door, "fresh", version=version), "topics")
    assert (told.error_code, len(told.partitions)) == (ErrorCode.NONE, 2)
    assert {part.leader_id for part in told.partitions} == {door.broker.node_id}
    assert all(part.leader_epoch != 0 for part in told.partitions)


async def test_two_workers_asked_at_once_create_one_topic(doors: list[Door]) -> None:
    told: list[Any] = []

    async def one(door: Door) -> None:
        told.append(only(await ask(door, "fresh"), "topics"))

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            for door in doors:
                tasks.start_soon(one, door)
    assert {each.error_code for each in told} == {ErrorCode.NONE}
    assert len({each.topic_id for each in told}) == 1


async def test_a_request_may_forbid_creation(door: Door) -> None:
    told = only(await ask(door, "fresh", create=False), "topics")
    assert (told.error_code, told.name) == (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "fresh")
    assert await door.engine.topics.find("fresh") is None


async def test_a_topic_another_worker_made_is_known_without_creation(doors: list[Door]) -> None:
    await doors[0].topic()
    assert only(await ask(doors[1], "orders", create=False), "topics").error_code == ErrorCode.NONE


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "a/b", "ä", "x" * 250])
@pytest.mark.parametrize("create", [True, False])
async def test_a_bad_topic_name_is_invalid_whether_or_not_it_would_be_created(
    door: Door, name: str, create: bool
) -> None:
    told = only(await ask(door, name, create=create), "topics")
    assert (told.error_code, told.name) == (ErrorCode.INVALID_TOPIC_EXCEPTION, name)


async def test_a_topic_is_found_by_its_id_from_version_12(door: Door) -> None:
    topic = await door.topic()
    answer = await door.ask(API, 12, topics=[Asked(topic_id=topic.id, name=None)])
    told = only(answer, "topics")
    assert (told.error_code, told.name, told.topic_id) == (ErrorCode.NONE, "orders", topic.id)


async def test_an_unknown_topic_id_is_never_created(door: Door) -> None:
    topic_id = uuid.uuid4()
    answer = await door.ask(API, 12, topics=[Asked(topic_id=topic_id, name=None)])
    told = only(answer, "topics")
    assert (told.error_code, told.name, told.topic_id) == (ErrorCode.UNKNOWN_TOPIC_ID, None, topic_id)


async def test_a_recreated_topic_has_a_new_id(door: Door) -> None:
    before = only(await ask(door, "orders"), "topics")
    await door.engine.topics.delete("orders")
    after = only(await ask(door, "orders"), "topics")
    assert before.topic_id != after.topic_id
    assert all(part.leader_epoch > 0 for part in after.partitions)


@pytest.mark.parametrize("version", [10, 11])
async def test_versions_10_and_11_cannot_ask_by_id(door: Door, version: int) -> None:
    topic = await door.topic()
    answer = await door.ask(API, version, topics=[Asked(topic_id=topic.id, name=None)])
    told = only(answer, "topics")
    assert (told.error_code, told.name) == (ErrorCode.INVALID_REQUEST, "")


async def test_a_topic_asked_for_twice_is_told_once(door: Door) -> None:
    answer = await ask(door, "fresh", "fresh")
    assert len(answer.topics) == 1


async def test_leader_epochs_never_go_down_and_are_never_0(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redbroker.broker.leader_epochs.FRESH_S", 0.0)
    topic = await door.topic(partitions=1)
    [real] = await door.engine.log.bounds([(topic, 0)])
    assert not isinstance(real, KafkaError)
    answers: list[Any] = [KafkaError(ErrorCode.NOT_LEADER_OR_FOLLOWER)]

    async def bounds(partitions: Any) -> list[Any]:
        return answers

    monkeypatch.setattr(door.engine.log, "bounds", bounds)
    told = []
    for answer in (answers[0], real, real._replace(leader_epoch=real.leader_epoch - 1), answers[0]):
        answers[0] = answer
        told.append(only(await ask(door, "orders"), "topics", "partitions").leader_epoch)
    assert told == [-1, real.leader_epoch, real.leader_epoch, real.leader_epoch]


@pytest.mark.parametrize("fault", ["silent", "dead"])
async def test_while_redis_is_away_the_answer_comes_from_the_cache_soon(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redbroker.broker.leader_epochs.FRESH_S", 0.0)
    with Server() as storage:
        settings = Settings(storage_url=storage.url, storage_timeout_ms=2_000)
        async with Engine.open(settings) as engine:
            await engine.workers.register("127.0.0.1", 19_092)
            door = Door(engine, settings)
            await door.topic()
            before = only(await ask(door, "orders"), "topics")
            assert before.partitions[0].leader_epoch > 0
            storage.stop() if fault == "silent" else storage.kill()
            started_s = time.monotonic()
            during = await ask(door, "orders", "fresh")
            assert time.monotonic() - started_s < 4
            assert during.topics[0] == before
            assert during.topics[1].error_code == ErrorCode.LEADER_NOT_AVAILABLE
            assert len(during.brokers) == 1
            storage.cont() if fault == "silent" else storage.start()


async def test_one_topic_is_read_once_a_second_however_often_it_is_asked_for(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    await door.topic(partitions=5)
    reads = []
    real = door.engine.log.bounds

    async def bounds(partitions: Any) -> Any:
        reads.append(len(partitions))
        return await real(partitions)

    monkeypatch.setattr(door.engine.log, "bounds", bounds)
    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(ask, door, "orders")
    await ask(door, "orders")
    assert reads == [5]


async def test_a_topic_that_cannot_be_made_now_has_no_leader_yet(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ensure(name: str) -> Any:
        raise KafkaError(ErrorCode.NOT_LEADER_OR_FOLLOWER, "Redis is away.")

    monkeypatch.setattr(door.engine.topics, "ensure", ensure)
    assert only(await ask(door, "fresh"), "topics").error_code == ErrorCode.LEADER_NOT_AVAILABLE


async def test_without_a_live_worker_the_whole_answer_is_an_error(door: Door) -> None:
    await door.topic()
    await door.engine.workers.deregister()
    await door.engine.workers.refresh()
    answer = await ask(door, "orders", version=13)
    assert answer.error_code == ErrorCode.LEADER_NOT_AVAILABLE
    assert only(answer, "topics").error_code == ErrorCode.LEADER_NOT_AVAILABLE
    assert not answer.brokers
