"""A reader that is as far behind as can be, and slow: by how much its process grows, in a process of its own.

Gives `times`, the growth over `prefetch_bytes`, the setting that bounds what is fetched ahead.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import uvloop

from bench.clients import run
from bench.servers import resident_megabytes
from redbroker.client.consumer import Consumer

PREFETCH_BYTES = 33_554_432
BEHIND_S = 2.0
PAUSE_S = 0.005


async def behind(storage: str, topic: str) -> dict[str, Any]:
    """One run; see the module."""
    settings: dict[str, Any] = {"auto_offset_reset": "latest", "prefetch_bytes": PREFETCH_BYTES}
    async with Consumer(topic, storage=storage, **settings) as consumer:
        await consumer.getmany(timeout_ms=300)  # all that a consumer needs is loaded
        before_mb, cpu, seen = resident_megabytes(os.getpid()), time.process_time(), 0
        await consumer.seek_to_beginning()
        most_mb, until_s = before_mb, time.perf_counter() + BEHIND_S
        while time.perf_counter() < until_s:
            seen += len(await consumer.getmany(1))
            most_mb = max(most_mb, resident_megabytes(os.getpid()))
            await asyncio.sleep(PAUSE_S)
        lag = consumer.health().lag_records
    if not seen or lag <= seen:
        raise AssertionError(f"{seen} records read and {lag} left: it was not far behind")
    times = (most_mb - before_mb) * 1e6 / PREFETCH_BYTES
    return {"times": times, "cpu_us": (time.process_time() - cpu) / seen * 1e6, "served": seen}


def sdk_behind(**arguments: Any) -> dict[str, Any]:
    """One run; see the module."""
    return uvloop.run(behind(**arguments))


if __name__ == "__main__":
    run(sdk_behind)
