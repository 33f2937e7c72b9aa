"""One XADD a record with redis-py's asyncio client, a thousand in a pipeline: what one would write without a broker.

Gives `records_per_s` as the SDK's client does.
"""

from __future__ import annotations

import time
from typing import Any

import uvloop
from redis.asyncio import Redis

from bench.clients import PARTITIONS, run

PIPELINE = 1_000


async def load(url: str, records: int, record_bytes: int) -> dict[str, Any]:
    """One run; see the module."""
    value, warm_up = b"x" * record_bytes, max(PIPELINE, records // 100)
    async with Redis.from_url(url) as redis:
        for count in (warm_up, records):
            started, cpu = time.perf_counter(), time.process_time()
            for first in range(0, count, PIPELINE):
                pipeline = redis.pipeline(transaction=False)
                for number in range(first, min(first + PIPELINE, count)):
                    pipeline.xadd(f"bulk:{number % PARTITIONS}", {"v": value})
                await pipeline.execute()
            seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    return {"records_per_s": records / seconds, "cpu_us": cpu_s / records * 1e6, "served": records + warm_up}


def produce(**arguments: Any) -> dict[str, Any]:
    """One run; see the module."""
    return uvloop.run(load(**arguments))


if __name__ == "__main__":
    run(produce)
