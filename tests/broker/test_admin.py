"""What the admin APIs share."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from redbroker.broker.admin import CHUNK, PARALLEL_MAX, chunks, for_each, repeated, sentence
from redbroker.errors import ErrorCode, KafkaError

pytestmark = pytest.mark.anyio


async def test_answers_come_in_the_order_of_the_items_whatever_finishes_first() -> None:
    async def work(item: int) -> int:
        await anyio.sleep(0.001 * (item % 3))
        return -item

    assert await for_each(list(range(50)), work) == [-item for item in range(50)]
    assert await for_each([], work) == []


async def test_only_so_many_items_are_worked_on_at_a_time() -> None:
    now, most = 0, 0

    async def work(item: int) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await anyio.lowlevel.checkpoint()
        now -= 1

    await for_each(list(range(200)), work)
    assert most == PARALLEL_MAX


async def test_work_that_never_waits_lets_others_run() -> None:
    turns, done = 0, False

    async def other() -> None:
        nonlocal turns
        while not done:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async def work(item: int) -> None:
        return None

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        await for_each(list(range(100_000)), work)
        done = True
    assert turns > 100


def test_chunks_hold_all_items_in_order() -> None:
    items = list(range(2 * CHUNK + 1))
    assert [len(chunk) for chunk in chunks(items)] == [CHUNK, CHUNK, 1]
    assert [item for chunk in chunks(items) for item in chunk] == items


def test_what_is_there_more_than_once_is_found() -> None:
    assert repeated("abca") == {"a"}


def test_a_sentence_fits_the_shortest_string_field() -> None:
    assert len(sentence(KafkaError(ErrorCode.INVALID_CONFIG, "é" * 40_000)).encode()) < 2**15
