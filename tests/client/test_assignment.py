"""Partitions that come and go: what a listener may count on, and what the caller may still finish."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

import pytest

from redbroker.client.assignment import Assignment
from redbroker.client.connection import Connection
from redbroker.client.consumer_config import ConsumerConfig, RebalanceListener
from redbroker.client.hand import Hand
from redbroker.client.positions import Position
from redbroker.errors import ErrorCode, KafkaError
from redbroker.types import TopicPartition
from tests.support.reading import FIRST, orders, reader, until, values

pytestmark = pytest.mark.anyio
SECOND = TopicPartition("orders", 1)


class Scene:
    """An assignment, and what happened around it, in order."""

    def __init__(self, **settings: Any) -> None:
        self.happened: list[Any] = []
        self.positions: dict[TopicPartition, Position] = {}
        self.hand = Hand()
        self.assignment = Assignment(
            ConsumerConfig(group_id="billing", **settings), self.positions, self.hand, self.commit, lambda: None
        )
        scene = self

        class Listener(RebalanceListener):
            async def on_revoked(self, partitions: Any) -> None:
                scene.happened.append(("revoked", partitions, [scene.positions[each].readable for each in partitions]))

            async def on_assigned(self, partitions: Any) -> None:
                scene.happened.append(("assigned", partitions, [scene.positions[each].readable for each in partitions]))

            async def on_lost(self, partitions: Any) -> None:
                scene.happened.append(("lost", partitions, [each in scene.positions for each in partitions]))

        self.assignment.listener = Listener()

    async def commit(self, partitions: Collection[TopicPartition]) -> None:
        self.happened.append(("committed", sorted(partitions), [self.positions[each].done for each in partitions]))

    def in_hand(self, partition: TopicPartition) -> Position:
        """The caller works on record 4 of a partition."""
        of = self.positions[partition]
        of.place(4)
        of.position = 5
        self.hand._working.add(of)
        return of


async def test_what_the_group_gave_is_held_until_the_listener_has_heard() -> None:
    scene = Scene()
    await scene.assignment.take(frozenset({FIRST, SECOND}))
    assert scene.happened == [("assigned", [FIRST, SECOND], [False, False])]
    assert all(each.readable for each in scene.positions.values())


async def test_what_is_revoked_is_finished_told_committed_and_then_gone() -> None:
    scene = Scene()
    await scene.assignment.take(frozenset({FIRST, SECOND}))
    of = scene.in_hand(FIRST)
    scene.happened.clear()
    giving_up = asyncio.create_task(scene.assignment.revoke(frozenset({FIRST})))
    await asyncio.sleep(0.02)
    assert not scene.happened
    assert not of.readable  # nothing more of it is handed out
    scene.hand.all_done()
    await asyncio.wait_for(giving_up, 5)
    assert scene.happened == [("revoked", [FIRST], [False]), ("committed", [FIRST], [5])]
    assert list(scene.positions) == [SECOND]


async def test_a_caller_that_does_not_finish_is_waited_for_so_long_and_repeats_its_record(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = Scene(rebalance_timeout_ms=40)
    await scene.assignment.take(frozenset({FIRST, SECOND}))
    scene.in_hand(FIRST)
    await asyncio.wait_for(scene.assignment.revoke(frozenset({FIRST, SECOND})), 5)
    assert "Records of orders-0 are given up unfinished: rebalance_timeout_ms is too short" in caplog.text
    committed = scene.happened[-1]
    assert committed[:2] == ("committed", [FIRST, SECOND])
    assert 5 not in committed[2]
    assert not scene.positions


async def test_a_listener_that_fails_keeps_no_partition() -> None:
    class Failing(RebalanceListener):
        async def on_revoked(self, partitions: Any) -> None:
            raise ValueError("mine")

        on_assigned = on_revoked

    scene = Scene()
    scene.assignment.listener = Failing()
    with pytest.raises(ValueError, match="mine"):
        await scene.assignment.take(frozenset({FIRST}))
    assert scene.positions[FIRST].readable
    with pytest.raises(ValueError, match="mine"):
        await scene.assignment.revoke(frozenset({FIRST}))
    assert not scene.positions


async def test_what_is_lost_is_gone_when_the_listener_hears_of_it() -> None:
    scene = Scene()
    await scene.assignment.take(frozenset({FIRST}))
    await scene.assignment.lose(frozenset({FIRST}))
    assert scene.happened[-1] == ("lost", [FIRST], [False])


def test_what_is_assigned_anew_goes_on_where_it_was() -> None:
    scene = Scene()
    scene.assignment.become({FIRST})
    scene.positions[FIRST].place(7)
    scene.assignment.become({FIRST, SECOND})
    assert scene.positions[FIRST].position == 7
    scene.assignment.become({SECOND})
    assert list(scene.positions) == [SECOND]
    with pytest.raises(KafkaError, match="orders-0 is not assigned to this consumer") as refused:
        scene.assignment.named([FIRST])
    assert refused.value.code is ErrorCode.STALE_MEMBER_EPOCH


async def test_a_listener_may_seek_before_anything_is_read(connection: Connection) -> None:
    await orders(connection, b"a", b"b", b"c")

    async with reader(connection, group_id="billing") as consumer:

        class Listener(RebalanceListener):
            async def on_assigned(self, partitions: Any) -> None:
                for each in partitions:
                    await consumer.seek(each, 2)

        consumer.subscribe(["orders"], listener=Listener())
        assert await values(consumer, 1) == [b"c"]


async def test_without_a_group_topics_that_are_made_grow_or_go_are_followed(connection: Connection) -> None:
    topics = connection.engine.topics
    async with reader(connection, "orders", "clicks") as consumer:
        await topics.create("orders", 1)
        await until(lambda: consumer.assignment() == {FIRST})
        await topics.grow("orders", 2)
        await until(lambda: consumer.assignment() == {FIRST, SECOND})
        await topics.create("clicks", 1)
        await until(lambda: len(consumer.assignment()) == 3)
        await topics.delete("orders")
        await until(lambda: consumer.assignment() == {TopicPartition("clicks", 0)})
