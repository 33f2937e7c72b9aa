"""Remembered leader epochs: read together, told again, never lowered, forgotten with their topic."""

from __future__ import annotations

import uuid
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from redbroker.broker import leader_epochs
from redbroker.broker.leader_epochs import UNKNOWN, LeaderEpochs, check_claim
from redbroker.engine.log import Bounds
from redbroker.engine.topics import Topic
from redbroker.errors import ErrorCode, KafkaError

pytestmark = pytest.mark.anyio


class Log:
    """Tells every partition's epoch from a dict, odd partitions from a master of their own, which may be `silent`;
    `asked` holds the sizes of its calls.
    """

    def __init__(self) -> None:
        self.epochs: dict[tuple[str, int], int | KafkaError] = {}
        self.asked: list[int] = []
        self.silent: anyio.Event | None = None

    def by_master(self, partitions: Any) -> list[Any]:
        halves = [[each for each in partitions if each[1] % 2 == odd] for odd in (0, 1)]
        return [half for half in halves if half]

    async def bounds(self, partitions: Any) -> list[Any]:
        self.asked.append(len(partitions))
        await anyio.lowlevel.checkpoint()
        if self.silent and partitions[0][1] % 2:
            await self.silent.wait()
        told = [self.epochs.get((topic.name, index), 5) for topic, index in partitions]
        return [each if isinstance(each, KafkaError) else Bounds(0, 0, each, 0, -1) for each in told]


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def topics() -> dict[str, Topic]:
    return {}


@pytest.fixture
def epochs(log: Log, topics: dict[str, Topic], monkeypatch: pytest.MonkeyPatch) -> LeaderEpochs:
    monkeypatch.setattr(leader_epochs, "FRESH_S", 0.0)
    engine: Any = SimpleNamespace(log=log, topics=SimpleNamespace(all=lambda: topics))
    return LeaderEpochs(engine)


def a_topic(name: str = "orders", partitions: int = 2) -> Topic:
    return Topic(name, uuid.uuid4(), partitions)


@pytest.mark.parametrize(
    ("claimed", "current", "error"),
    [
        (-1, 5, ErrorCode.NONE),
        (5, 5, ErrorCode.NONE),
        (5, -1, ErrorCode.NONE),
        (4, 5, ErrorCode.FENCED_LEADER_EPOCH),
        (6, 5, ErrorCode.UNKNOWN_LEADER_EPOCH),
        (0, 5, ErrorCode.FENCED_LEADER_EPOCH),
    ],
)
def test_a_claim_is_fenced_when_older_and_unknown_when_newer(claimed: int, current: int, error: ErrorCode) -> None:
    assert check_claim(claimed, current) == error


async def test_an_unreadable_partition_is_told_as_before_and_at_first_as_unknown(
    epochs: LeaderEpochs, log: Log
) -> None:
    topic = a_topic()
    log.epochs["orders", 1] = KafkaError(ErrorCode.NOT_LEADER_OR_FOLLOWER)
    assert await epochs.of([topic]) == [(5, UNKNOWN)]
    log.epochs["orders", 1] = 7
    assert await epochs.of([topic]) == [(5, 7)]
    log.epochs["orders", 0] = log.epochs["orders", 1] = KafkaError(ErrorCode.NOT_LEADER_OR_FOLLOWER)
    assert await epochs.of([topic]) == [(5, 7)]


async def test_a_silent_master_hides_no_epoch_of_another(
    epochs: LeaderEpochs, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader_epochs, "PATIENCE_S", 0.05)
    monkeypatch.setattr(leader_epochs, "CHUNK", 2)
    topic, fresh = a_topic(partitions=7), a_topic("fresh", 3)
    await epochs.of([topic])
    log.silent = anyio.Event()
    log.epochs.update({("orders", index): 6 for index in range(7)})
    assert await epochs.of([topic, fresh]) == [(6, 5, 6, 5, 6, 5, 6), (5, UNKNOWN, 5)]
    log.silent.set()
    await anyio.wait_all_tasks_blocked()
    assert [epochs.told(each) for each in (topic, fresh)] == [(6,) * 7, (5,) * 3]


async def test_whoever_asks_for_a_topic_that_is_being_read_waits_for_it(epochs: LeaderEpochs, log: Log) -> None:
    topic = a_topic()
    log.silent = anyio.Event()
    told: list[Any] = []

    async def ask() -> None:
        told.extend(await epochs.of([topic]))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        assert told == []
        log.silent.set()
    assert told == [(5, 5), (5, 5)]
    assert log.asked == [1, 1]


async def test_a_topic_deleted_while_it_is_read_hurts_nobody(
    epochs: LeaderEpochs, log: Log, topics: dict[str, Topic]
) -> None:
    topic = a_topic()
    log.silent = anyio.Event()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(epochs.of, [topic])
        await anyio.wait_all_tasks_blocked()
        for _ in range(300):
            await epochs.of([a_topic(partitions=1)])
        log.silent.set()
    assert epochs.told(topic) == (UNKNOWN, 5)


async def test_an_epoch_is_never_lowered(epochs: LeaderEpochs, log: Log) -> None:
    topic = a_topic()
    log.epochs["orders", 0] = 9
    assert await epochs.of([topic]) == [(9, 5)]
    log.epochs["orders", 0] = 8
    assert await epochs.of([topic]) == [(9, 5)]


async def test_a_topic_made_again_starts_afresh(epochs: LeaderEpochs, log: Log) -> None:
    log.epochs["orders", 0] = 9
    await epochs.of([a_topic()])
    log.epochs["orders", 0] = 1
    assert await epochs.of([a_topic()]) == [(1, 5)]


async def test_what_was_read_a_moment_ago_is_not_read_again_unless_the_topic_grew(
    epochs: LeaderEpochs, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader_epochs, "FRESH_S", 60.0)
    topic = a_topic()
    await epochs.of([topic])
    assert await epochs.of([topic]) == [(5, 5)]
    assert log.asked == [1, 1]
    assert await epochs.of([Topic("orders", topic.id, 3)]) == [(5, 5, 5)]
    assert log.asked == [1, 1, 2, 1]


async def test_many_topics_are_read_in_bounded_calls(epochs: LeaderEpochs, log: Log) -> None:
    many = [a_topic(f"t{number}", 1400) for number in range(3)]
    assert await epochs.of(many) == [(5,) * 1400] * 3
    assert sorted(log.asked) == [100, 100, 1000, 1000, 1000, 1000]


async def test_deleted_topics_are_forgotten(epochs: LeaderEpochs, topics: dict[str, Topic]) -> None:
    living = a_topic("living")
    topics["living"] = living
    for _ in range(300):
        await epochs.of([a_topic(), living])
    assert len(epochs._told) < 150
    assert epochs.told(living) == (5, 5)


async def test_a_defect_in_the_reading_is_raised_not_hidden(epochs: LeaderEpochs, log: Log) -> None:
    log.epochs["orders", 0] = "not a number"  # type: ignore[assignment]
    with pytest.raises(TypeError):
        await epochs.of([a_topic()])
    log.epochs["orders", 0] = 6
    assert await epochs.of([a_topic()]) == [(6, 5)]


async def test_an_epoch_heard_elsewhere_makes_an_older_one_stale(
    epochs: LeaderEpochs, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader_epochs, "FRESH_S", 60.0)
    topic = a_topic()
    assert await epochs.of([topic]) == [(5, 5)]
    log.epochs["orders", 1] = 6
    epochs.heard(topic, 0, 5)
    assert await epochs.of([topic]) == [(5, 5)]
    epochs.heard(topic, 1, 6)
    assert await epochs.of([topic]) == [(5, 6)]
    assert log.asked == [1, 1, 1, 1]


async def test_an_epoch_heard_while_its_master_is_silent_is_told(
    epochs: LeaderEpochs, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader_epochs, "PATIENCE_S", 0.05)
    topic = a_topic()
    await epochs.of([topic])
    log.silent = anyio.Event()
    assert await epochs.of([topic]) == [(5, 5)]
    epochs.heard(topic, 1, 8)
    assert await epochs.of([topic]) == [(5, 8)]
    log.silent.set()


async def test_an_epoch_heard_while_older_ones_are_read_is_told(
    epochs: LeaderEpochs, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = a_topic()
    await epochs.of([topic])
    monkeypatch.setattr(leader_epochs, "FRESH_S", 60.0)
    epochs._told[topic.id].read_at = float("-inf")
    async with anyio.create_task_group() as group:
        group.start_soon(epochs.of, [topic])
        while len(log.asked) < 4:
            await anyio.lowlevel.checkpoint()
        epochs.heard(topic, 1, 8)  # by a Fetch whose answer came between
    assert await epochs.of([topic]) == [(5, 8)]
