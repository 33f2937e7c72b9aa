"""Threads for handlers that are not async: a process that ends does not wait for one that hangs.

Those of `asyncio.to_thread` are joined at the end of the process, however long they take. These are daemons: who is
idle is used again, as many are made as are busy at once, and what still runs when the process ends goes with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import queue
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["Threads"]

Job = Callable[[], None]


class Threads:
    """Used from one event loop; whoever calls bounds how many run at once."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._made = self._idle = 0

    async def run(self, call: Callable[..., Any], *words: Any) -> Any:
        """What the call returns or raises, in the caller's context; after a cancellation the call goes on by itself."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        inside = functools.partial(contextvars.copy_context().run, call, *words)

        def job() -> None:
            result, error = None, None
            try:
                result = inside()
            except BaseException as raised:
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(self._ended, answer, result, error)

        if self._idle:
            self._idle -= 1
        else:
            self._made += 1
            threading.Thread(target=self._work, name="redbroker-handler", daemon=True).start()
        self._jobs.put(job)
        return await answer

    def close(self) -> None:
        """Let the threads go, each as soon as its call has ended; nothing is run any more."""
        for _ in range(self._made):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _ended(self, answer: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        self._idle += 1
        if answer.done():
            return
        if error is None:
            answer.set_result(result)
        elif isinstance(error, Exception) and not isinstance(error, StopIteration):
            answer.set_exception(error)
        else:  # what a future cannot carry, or ends more than a handler
            answer.set_exception(RuntimeError(f"The handler raised {error!r}."))
