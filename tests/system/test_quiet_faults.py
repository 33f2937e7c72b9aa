"""What a fault makes fail is told to those who wait for it, and to nobody else: asyncio has nothing to complain of."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from typing import Any

import pytest

from redbroker.config import Settings
from redbroker.engine import Engine
from redbroker.engine.log import Append, Appended, Read
from redbroker.errors import KafkaError
from redbroker.wire.records import Record, build_batch, read_header
from tests.support.clusters import Cluster

pytestmark = [pytest.mark.anyio, pytest.mark.system]
PARTITIONS = 12
FAULT_S = 2.5


async def test_nothing_is_left_unheard_when_two_masters_die_under_load(cluster: Cluster) -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
    settings = Settings(storage_url=cluster.url, storage_retry_ms=100, storage_timeout_ms=1_000, memory_check_ms=100)
    async with Engine.open(settings) as engine:
        topic = await engine.topics.create("t", PARTITIONS)
        batch = build_batch([Record(0, 1000, b"k", bytes(100), [])])
        entries = [Append(topic, number, batch, read_header(batch)) for number in range(PARTITIONS)]
        stored = refused = 0
        ends = time.monotonic() + 1_000

        async def append(acks: int) -> None:
            nonlocal stored, refused
            while time.monotonic() < ends:
                for answer in await engine.log.append(entries, acks=acks, timeout_ms=500):
                    stored += isinstance(answer, Appended)
                    refused += isinstance(answer, KafkaError)

        async def read() -> None:
            offset = 0
            while time.monotonic() < ends:
                reads = [Read(topic, number, offset, 10_000) for number in range(PARTITIONS)]
                await engine.log.read(reads, max_bytes=100_000)
                await engine.log.bounds([(topic, number) for number in range(PARTITIONS)])
                with contextlib.suppress(KafkaError):
                    await engine.storage.on_masters("INFO", "memory")

        async def hurried() -> None:
            """Callers that go away before they are answered."""
            while time.monotonic() < ends:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await engine.log.bounds([(topic, number) for number in range(PARTITIONS)])

        work = [asyncio.create_task(each) for each in (append(-1), append(1), read(), read(), hurried())]
        await asyncio.sleep(0.5)
        assert stored
        for slot in (0, 16_383):
            cluster.master_of(slot).kill()
        await asyncio.sleep(FAULT_S)
        ends = time.monotonic()
        await asyncio.gather(*work)
        assert refused
    gc.collect()
    await asyncio.sleep(0)
    assert [context["message"] for context in complaints] == []
