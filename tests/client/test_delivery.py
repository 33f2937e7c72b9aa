"""A handle is as good as a future for whatever asyncio offers, and costs nothing once it is dropped."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
from collections.abc import Callable
from typing import Any

import pytest

from redbroker.client.delivery import Delivery, Fate
from redbroker.client.errors import DeliveryError
from redbroker.errors import ErrorCode, KafkaError

pytestmark = pytest.mark.anyio

WHY = KafkaError(ErrorCode.REQUEST_TIMED_OUT, "nobody answered")


def some(count: int) -> tuple[Fate, list[Delivery]]:
    """Records on their way, the first two of them taken a millisecond before the others."""
    fate = Fate(asyncio.get_running_loop(), "t", 3)
    fate.taken(0, 7)
    fate.taken(1, 7)
    fate.taken(2, 8)
    take = fate.handles(0)
    return fate, [take() for _ in range(count)]


def stored(fate: Fate) -> None:
    fate.settle(100)


def lost(fate: Fate) -> None:
    fate.fail(WHY, ([b"0", b"1", b"2", b"3"], [None, b"k", None, None], {1: (("h", b"v"),)}))


async def test_each_is_told_its_own_place() -> None:
    fate, handles = some(4)
    assert not any(handle.done() for handle in handles)
    with pytest.raises(asyncio.InvalidStateError):
        handles[0].result()
    stored(fate)
    assert [await handle for handle in handles] == [
        ("t", 3, 100, 7),
        ("t", 3, 101, 7),
        ("t", 3, 102, 8),
        ("t", 3, 103, 8),
    ]
    assert all(handle.done() and handle.exception() is None and not handle.cancelled() for handle in handles)
    assert repr(handles[0]).startswith("<Delivery Sent(topic='t'")


async def test_nobody_asked_where() -> None:
    fate, handles = some(4)
    fate.settle(None)
    assert handles[3].result() == ("t", 3, -1, 8)


async def test_a_failure_hands_each_its_own_record_back() -> None:
    fate, handles = some(4)
    waiting = [asyncio.create_task(asyncio.wait_for(handle, 10)) for handle in handles]
    await asyncio.sleep(0)
    lost(fate)
    for number, told in enumerate(await asyncio.gather(*waiting, return_exceptions=True)):
        assert isinstance(told, DeliveryError) and told.code is ErrorCode.REQUEST_TIMED_OUT
        assert told.record.value == b"%d" % number and told.record.partition == 3
        assert told.record.timestamp_ms == (7 if number < 2 else 8)
    second = handles[1].exception()
    assert second is not None and (second.record.key, second.record.headers) == (b"k", (("h", b"v"),))
    with pytest.raises(DeliveryError, match="nobody answered"):
        handles[0].result()
    assert "nobody answered" in repr(handles[0])


@pytest.mark.parametrize("tell", [stored, lost])
@pytest.mark.parametrize("late", [False, True], ids=["told while they wait", "told before"])
async def test_all_of_asyncio_takes_it_for_a_future(tell: Callable[[Fate], None], late: bool) -> None:
    fate, handles = some(4)
    assert asyncio.isfuture(handles[0]) and asyncio.ensure_future(handles[0]) is handles[0]  # type: ignore[comparison-overlap]
    if late:
        tell(fate)
    else:
        asyncio.get_running_loop().call_later(0.01, tell, fate)
    gathered = await asyncio.gather(*handles, handles[0], return_exceptions=True)
    assert [type(each) for each in gathered] == [type(gathered[0])] * 5
    done, pending = await asyncio.wait(handles)  # type: ignore[type-var]
    assert done == set(handles) and not pending
    for wait in (asyncio.shield, lambda handle: asyncio.wait_for(handle, 10)):
        if tell is stored:
            assert (await wait(handles[2])).offset == 102  # type: ignore[operator]
        else:
            with pytest.raises(DeliveryError):
                await wait(handles[2])  # type: ignore[operator]
    told = 0
    for each in asyncio.as_completed(handles):
        try:
            await each
        except DeliveryError:
            assert tell is lost
        told += 1
    assert told == 4


async def test_the_first_of_some_is_waited_for() -> None:
    one, [first] = some(1)
    _, [second] = some(1)
    waiting = asyncio.create_task(asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED))  # type: ignore[type-var]
    await asyncio.sleep(0)
    stored(one)
    assert await waiting == ({first}, {second})


async def test_one_that_is_cancelled_leaves_the_others_waiting() -> None:
    fate, [handle, *_] = some(2)

    async def wait() -> Any:
        return await handle

    one, two = asyncio.create_task(wait()), asyncio.create_task(wait())
    await asyncio.sleep(0)
    one.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one
    assert not two.done() and not handle.cancelled()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await handle
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(handle), 0.001)
    stored(fate)
    assert (await two).offset == 100 == handle.result().offset


async def test_who_cancels_it_ends_the_waiting_for_this_record_alone() -> None:
    fate, [first, second] = some(2)
    called: list[Any] = []
    first.add_done_callback(called.append)

    async def wait(handle: Delivery) -> Any:
        return await handle

    waiting = [asyncio.create_task(wait(handle)) for handle in (first, second)]
    await asyncio.sleep(0)
    assert first.cancel("enough")
    assert first.cancelled() and first.done() and not second.done()
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await waiting[0]
    assert called == [first]
    stored(fate)
    assert (await waiting[1]).offset == 101
    assert not first.cancel() and not second.cancel()
    for ask in (first.result, first.exception):
        with pytest.raises(asyncio.CancelledError):
            ask()
    assert repr(first) == "<Delivery cancelled>"


async def test_gathering_ends_at_once_where_it_is_cancelled() -> None:
    _, handles = some(3)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.gather(*handles), 0.001)
    assert all(handle.cancelled() for handle in handles)
    assert all(
        isinstance(each, asyncio.CancelledError) for each in await asyncio.gather(*handles, return_exceptions=True)
    )


async def test_callbacks_come_in_the_next_turn_in_their_context() -> None:
    which = contextvars.ContextVar("which", default="none")
    fate, [handle, *_] = some(2)
    called: list[Any] = []

    def call(told: Any) -> None:
        called.append((told, which.get()))

    context = contextvars.copy_context()
    context.run(which.set, "given")
    handle.add_done_callback(call, context=context)
    handle.add_done_callback(called.append)
    handle.add_done_callback(called.append)
    assert handle.remove_done_callback(called.append) == 2
    assert handle.remove_done_callback(called.append) == 0
    which.set("of the caller")
    handle.add_done_callback(call)
    which.set("later")
    stored(fate)
    assert called == []
    await asyncio.sleep(0)
    assert called == [(handle, "given"), (handle, "of the caller")]
    handle.add_done_callback(call)
    await asyncio.sleep(0)
    assert called[2:] == [(handle, "later")]
    assert handle.get_loop() is asyncio.get_running_loop()


@pytest.mark.parametrize("tell", [stored, lost])
async def test_what_follows_another_shares_its_fate(tell: Callable[[Fate], None]) -> None:
    fate, handles = some(4)
    early, late = (Fate(asyncio.get_running_loop(), "t", None) for _ in range(2))
    fate.watch(1, early)
    tell(fate)
    fate.watch(1, late)
    for each in (early, late):
        told = Delivery((each, 0))
        if tell is stored:
            assert await told == handles[1].result()
        else:
            mine, its = told.exception(), handles[1].exception()
            assert mine is not None and its is not None and mine.record == its.record


async def test_what_is_dropped_is_gone_without_the_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        fate = Fate(asyncio.get_running_loop(), "t", 0)
        take = fate.handles(0)
        before = len(gc.get_objects())
        for _ in range(1_000):
            take()
        assert len(gc.get_objects()) <= before + 2
        handle, value = take(), bytes(1_000)
        alone = sys.getrefcount(value)
        fate.fail(WHY, ([value] * 1_001, None, {}))
        del fate, take
        assert sys.getrefcount(value) > alone and handle.done()  # while a handle lives, so does its record
        assert isinstance(handle.exception(), DeliveryError)
        del handle
        assert sys.getrefcount(value) == alone
    finally:
        gc.enable()
