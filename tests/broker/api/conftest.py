"""Workers for the tests of single Kafka APIs: an open engine on a key space of its own, and its door."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from redbroker.broker.api import load
from redbroker.config import Settings
from redbroker.engine import Engine
from tests.support.door import Door

load()


@pytest.fixture
async def doors(valkey: Any) -> AsyncIterator[list[Door]]:
    """Two registered workers of one key space, nodes in different racks."""
    prefix = f"t{uuid.uuid4().hex[:12]}"
    async with AsyncExitStack() as stack:
        opened = []
        for number in range(2):
            settings = Settings(storage_url=valkey.url, key_prefix=prefix, num_partitions=2)
            engine = await stack.enter_async_context(Engine.open(settings))
            await engine.workers.register("127.0.0.1", 19_092 + number, f"rack{number}")
            opened.append(Door(engine, settings))
        await opened[0].engine.workers.refresh()
        yield opened


@pytest.fixture
async def door(valkey: Any) -> AsyncIterator[Door]:
    """One registered worker, alone in its key space."""
    settings = Settings(storage_url=valkey.url, key_prefix=f"t{uuid.uuid4().hex[:12]}", num_partitions=2)
    async with Engine.open(settings) as engine:
        await engine.workers.register("127.0.0.1", 19_092, "rack0")
        yield Door(engine, settings)
