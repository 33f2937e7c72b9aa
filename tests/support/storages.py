"""A storage under test, and a script whose effects a test can count."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator
from typing import Any

from redbroker.config import Settings
from redbroker.engine.connection import Storage
from redbroker.engine.scripts import Script


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
