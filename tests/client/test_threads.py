"""Threads for handlers that are not async: used again, in the caller's context, and never waited for at the end."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
import time

import pytest

from redbroker.client.threads import Threads
from tests.support.servers import wait_until

pytestmark = pytest.mark.anyio

NAME: contextvars.ContextVar[str] = contextvars.ContextVar("NAME")


async def test_a_thread_that_is_idle_is_used_again_and_as_many_are_made_as_are_busy_at_once() -> None:
    threads, seen = Threads(), set[int]()

    def work() -> None:
        time.sleep(0.05)
        seen.add(threading.get_ident())

    for _ in range(3):
        await threads.run(work)
    assert len(seen) == 1
    await asyncio.gather(*(threads.run(work) for _ in range(4)))
    assert len(seen) == 4
    await asyncio.gather(*(threads.run(work) for _ in range(4)))
    assert len(seen) == 4
    threads.close()
    wait_until(lambda: not seen & {each.ident for each in threading.enumerate()}, 10, "the threads end")


async def test_a_call_returns_raises_and_sees_the_callers_context() -> None:
    threads = Threads()
    NAME.set("ann")
    assert await threads.run(lambda more: NAME.get() + more, "!") == "ann!"
    with pytest.raises(ZeroDivisionError):
        await threads.run(lambda: 1 / 0)
    with pytest.raises(RuntimeError, match="The handler raised StopIteration"):
        await threads.run(next, iter(()))
    with pytest.raises(RuntimeError, match=r"The handler raised SystemExit\(3\)"):
        await threads.run(sys.exit, 3)
    threads.close()


async def test_who_is_cancelled_waits_no_more_and_the_thread_is_used_again() -> None:
    threads, free = Threads(), threading.Event()
    waiting = asyncio.create_task(threads.run(free.wait, 30))
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(waiting, 5)
    assert await asyncio.wait_for(threads.run(threading.active_count), 5)
    free.set()
    async with asyncio.timeout(5):
        while threads._idle < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    threads.close()
