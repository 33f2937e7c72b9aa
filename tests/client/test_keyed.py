"""Lanes: in order per key, at once over keys, committed only up to what is wholly done."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redbroker.client.keyed import Lanes, LowWater
from redbroker.types import TopicPartition

pytestmark = pytest.mark.anyio

HERE, THERE = TopicPartition("orders", 0), TopicPartition("orders", 1)


@given(st.permutations(range(0, 40, 2)))
def test_the_low_water_mark_is_the_first_record_not_done(order: list[int]) -> None:
    mark, left = LowWater(), set(order)
    for offset in sorted(order):
        mark.begin(offset)
    for offset in order:
        mark.done(offset)
        left.discard(offset)
        before = [each for each in range(0, 40, 2) if each < min(left, default=40)]
        assert mark.committable == (before[-1] + 1 if before else -1)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


class Held:
    """A handler that keeps each record until it is let go."""

    def __init__(self) -> None:
        self.gates: dict[int, asyncio.Future[None]] = {}
        self.started: list[int] = []

    async def __call__(self, number: int) -> None:
        self.started.append(number)
        gate = self.gates[number] = asyncio.get_running_loop().create_future()
        await gate

    async def let_go(self, number: int) -> None:
        self.gates[number].set_result(None)
        await settle()


async def test_keys_go_side_by_side_and_each_in_order() -> None:
    seen: defaultdict[int, list[int]] = defaultdict(list)
    at_once = most = 0
    chance = random.Random(1)

    async def handle(number: int) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        for _ in range(chance.randrange(5)):
            await asyncio.sleep(0)
        seen[number % 7].append(number)
        at_once -= 1

    lanes = Lanes(handle, parallel=4, most=16)
    for number in range(500):
        await lanes.put(HERE, number, number % 7, number)
        assert lanes.in_flight <= 16
    await lanes.drained()
    assert all(numbers == sorted(numbers) for numbers in seen.values())
    assert sum(map(len, seen.values())) == 500
    assert most == 4
    assert lanes.committable() == {HERE: 500}


async def test_nothing_is_committable_past_a_record_that_is_not_done() -> None:
    held = Held()
    lanes = Lanes(held, parallel=3, most=3)
    for number in range(3):
        await lanes.put(HERE, number, number, number)
    await settle()
    await held.let_go(1)
    await held.let_go(2)
    assert lanes.committable() == {}
    await held.let_go(0)
    assert lanes.committable() == {HERE: 3}


async def test_a_full_house_holds_the_reader_back() -> None:
    held = Held()
    lanes = Lanes(held, parallel=1, most=2)
    await lanes.put(HERE, 0, "a", 0)
    await lanes.put(HERE, 1, "b", 1)
    third = asyncio.create_task(lanes.put(HERE, 2, "c", 2))
    await settle()
    assert not third.done()
    await held.let_go(0)
    assert third.done()
    await lanes.close(0)


async def test_giving_up_finishes_what_runs_and_forgets_what_waits() -> None:
    held = Held()
    lanes = Lanes(held, parallel=2, most=10)
    for number in range(3):
        await lanes.put(HERE, number, "key", number)
    await lanes.put(THERE, 0, "other", 100)
    await settle()
    assert held.started == [0, 100]
    giving_up = asyncio.create_task(lanes.give_up([HERE], 10))
    await settle()
    await held.let_go(0)
    assert await giving_up == {HERE: 1}
    await settle()
    assert held.started == [0, 100]
    assert lanes.in_flight == 1
    await lanes.put(HERE, 1, "key", 1)  # the partition came back, and its lane works
    await settle()
    assert held.started == [0, 100, 1]
    await lanes.close(0)


async def test_giving_up_cancels_what_does_not_end_and_commits_nothing_of_it() -> None:
    held = Held()
    lanes = Lanes(held, parallel=2, most=10)
    await lanes.put(HERE, 5, "a", 5)
    await lanes.put(HERE, 6, "b", 6)
    await settle()
    await held.let_go(6)
    assert await lanes.give_up([HERE], 0.01) == {}
    assert held.gates[5].cancelled()
    assert lanes.in_flight == 0


async def test_a_handler_that_fails_ends_the_work_and_is_not_committed() -> None:
    async def handle(number: int) -> None:
        if number == 1:
            raise ValueError("one")

    lanes = Lanes(handle, parallel=1, most=10)
    for number in range(3):
        await lanes.put(HERE, number, "key", number)
    with pytest.raises(ValueError, match="one"):
        await lanes.drained()
    with pytest.raises(ValueError, match="one"):
        await lanes.put(HERE, 3, "key", 3)
    assert await lanes.close(0) == {HERE: 1}


async def test_the_oldest_handler_counts_from_its_own_beginning() -> None:
    held, now_s = Held(), 100.0
    lanes = Lanes(held, parallel=2, most=10, now_s=lambda: now_s)
    assert lanes.oldest_s == 0
    await lanes.put(HERE, 1, "a", 1)
    await lanes.put(HERE, 2, "a", 2)  # waits behind it
    now_s = 103.0
    await lanes.put(HERE, 3, "b", 3)
    await settle()
    assert lanes.oldest_s == 3
    now_s = 105.0
    await held.let_go(1)
    assert lanes.oldest_s == 2
    await held.let_go(3)
    assert lanes.oldest_s == 0  # the second one has only now begun
    await lanes.close(0)
    assert lanes.oldest_s == 0


@pytest.mark.parametrize(("parallel", "most"), [(0, 1), (2, 1)])
def test_bounds_that_cannot_be_are_refused(parallel: int, most: int) -> None:
    with pytest.raises(ValueError, match="parallel"):
        Lanes(Held(), parallel=parallel, most=most)
