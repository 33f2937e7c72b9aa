"""Consume with RedBroker's own consumer, straight from the storage, from the start of an existing topic, no group.

Gives `records_per_s` of `getmany` and of `async for`, from the first record to the last, decoded.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import uvloop

from bench.clients import run
from redbroker.client.consumer import Consumer

SECONDS_MAX = 60.0


async def read(storage: str, topic: str, records: int, *, batches: bool) -> tuple[float, float]:
    """(seconds, CPU seconds) for all records."""
    async with asyncio.timeout(SECONDS_MAX), Consumer(topic, storage=storage, auto_offset_reset="earliest") as consumer:
        await anext(consumer)
        started, cpu, seen = time.perf_counter(), time.process_time(), 1
        if batches:
            while seen < records:
                seen += len(await consumer.getmany(10_000))
        else:
            async for _ in consumer:
                seen += 1
                if seen == records:
                    break
        return time.perf_counter() - started, time.process_time() - cpu


def sdk_consume(storage: str, topic: str, records: int) -> dict[str, Any]:
    """Reads `records` records twice; see the module."""
    many_s, cpu_s = uvloop.run(read(storage, topic, records, batches=True))
    one_s, _ = uvloop.run(read(storage, topic, records, batches=False))
    return {
        "records_per_s": records / many_s,
        "async_for_per_s": records / one_s,
        "cpu_us": cpu_s / records * 1e6,
        "served": 2 * records,
    }


if __name__ == "__main__":
    run(sdk_consume)
