"""A storage that takes its time, so that whatever may come between two calls does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

from redbroker.engine.connection import Storage
from redbroker.errors import KafkaError


class Slow:
    """Calls of one partition stay in order, and pause before Redis has them and after it has answered."""

    def __init__(self, storage: Storage, chance: random.Random) -> None:
        self._storage, self._chance = storage, chance
        self._queues: dict[bytes, asyncio.Queue[Any]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def call(self, key: bytes, *words: Any, **options: Any) -> asyncio.Future[Any]:
        return self._later(key, lambda: self._storage.call(key, *words, **options))

    def run(self, script: Any, keys: Any, args: Any, **options: Any) -> asyncio.Future[Any]:
        return self._later(keys[0], lambda: self._storage.run(script, keys, args, **options))

    def _later(self, key: bytes, send: Callable[[], Awaitable[Any]]) -> asyncio.Future[Any]:
        place = key[: key.index(b"}")]
        queue = self._queues.get(place)
        if queue is None:
            queue = self._queues[place] = asyncio.Queue()
            self._tasks.append(asyncio.ensure_future(self._serve(queue)))
        answer = asyncio.get_running_loop().create_future()
        queue.put_nowait((send, answer))
        return answer

    async def _serve(self, queue: asyncio.Queue[Any]) -> None:
        while True:
            send, answer = await queue.get()
            await self._pause()
            try:
                result = await send()
                await self._pause()
                if not answer.done():
                    answer.set_result(result)
            except KafkaError as error:
                if not answer.done():
                    answer.set_exception(error)

    async def _pause(self) -> None:
        chance = self._chance.random()
        if chance < 0.25:
            await asyncio.sleep(self._chance.random() * 0.002)
        elif chance < 0.28:
            await asyncio.sleep(self._chance.random() * 0.03)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
