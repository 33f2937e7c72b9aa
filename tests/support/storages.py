"""A storage under test, and a script whose effects a test can count."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from redbroker.config import Settings
from redbroker.engine.connection import Storage
from redbroker.engine.scripts import Script
from redbroker.errors import KafkaError


def make_script(name: str, keys: int, source: str) -> Script:
    """A script of a test's own."""
    code = source.encode()
    names = tuple(f"key{i}" for i in range(keys))
    return Script(name, names, (), frozenset(), code, hashlib.sha1(code).hexdigest().encode())


# Like an idempotent append: number n of a producer is written once, in order, and told apart when it comes again.
ONCE = make_script(
    "once",
    2,
    """
    local number, value = tonumber(ARGV[1]), ARGV[2]
    local last = tonumber(redis.call('HGET', KEYS[2], 'last') or '0')
    if number <= last then redis.call('HINCRBY', KEYS[2], 'duplicates', 1) return number end
    if number ~= last + 1 then return redis.error_reply('OUT_OF_ORDER_SEQUENCE_NUMBER after ' .. last) end
    redis.call('XADD', KEYS[1], '1-' .. number, 'b', value)
    redis.call('HSET', KEYS[2], 'last', number)
    return number
    """,
)


def keys_of(name: str) -> tuple[bytes, bytes]:
    """The two keys `ONCE` takes for one name."""
    return f"rb:{{{name}}}:log".encode(), f"rb:{{{name}}}:state".encode()


@contextlib.asynccontextmanager
async def opened(url: str, **settings: Any) -> AsyncIterator[Storage]:
    """A storage on a server's URL, closed at the end."""
    storage = await Storage.open(Settings(storage_url=url, **settings))
    try:
        yield storage
    finally:
        await storage.close()


async def until(condition: Callable[[], bool], timeout_s: float = 5) -> None:
    """Wait for a change in another process, which no event can tell; TimeoutError when it stays out."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


class Load:
    """Idempotent producers that keep a window of numbered writes in flight, and remember what was acknowledged."""

    def __init__(self, storage: Storage, names: list[str], *, window: int = 5, replicas: int = 0) -> None:
        self.storage, self.names, self.window, self.replicas = storage, names, window, replicas
        self.acknowledged = dict.fromkeys(names, 0)
        self.errors: list[KafkaError] = []
        self.slowest_s = 0.0
        self._tasks: list[asyncio.Task[None]] = []
        self._ending = False

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._produce(name)) for name in self.names]
        await asyncio.sleep(0.1)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ending = True
        await asyncio.wait_for(asyncio.gather(*self._tasks), 20)

    @property
    def total(self) -> int:
        """Writes acknowledged so far."""
        return sum(self.acknowledged.values())

    async def goes_on(self, count: int = 200, timeout_s: float = 15) -> None:
        """Return when every producer has had `count / producers` more writes acknowledged."""
        goals = {name: done + count // len(self.names) for name, done in self.acknowledged.items()}
        await until(lambda: all(self.acknowledged[name] >= goal for name, goal in goals.items()), timeout_s)

    def _send(self, name: str, number: int) -> asyncio.Future[Any]:
        words = [number, f"{name}-{number}"]
        if self.replicas:
            return self.storage.run_acked(ONCE, keys_of(name), words, replicas=self.replicas, timeout_ms=2000)
        return self.storage.run(ONCE, keys_of(name), words)

    async def _produce(self, name: str) -> None:
        loop = asyncio.get_running_loop()
        while not self._ending:
            start = loop.time()
            first = self.acknowledged[name] + 1
            calls = [self._send(name, number) for number in range(first, first + self.window)]
            for number, reply in enumerate(await asyncio.gather(*calls, return_exceptions=True), first):
                if isinstance(reply, KafkaError):
                    self.errors.append(reply)
                    await asyncio.sleep(0.02)
                    break
                if isinstance(reply, BaseException):
                    raise reply
                if self.replicas and reply[1] < self.replicas:
                    break
                self.acknowledged[name] = number
            self.slowest_s = max(self.slowest_s, loop.time() - start)

    async def check(self) -> None:
        """Every acknowledged write is there, once, in order."""
        for name in self.names:
            log, _ = keys_of(name)
            entries = await self.storage.call(log, "XRANGE", log, "-", "+")
            found = [fields[1].decode() for _, fields in entries]
            assert found == [f"{name}-{number}" for number in range(1, len(found) + 1)]
            assert len(found) >= self.acknowledged[name], f"{name} lost acknowledged writes"
