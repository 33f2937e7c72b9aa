"""Consume with aiokafka, what a Python service uses today, from the start of an existing topic, no group.

It may fetch as much at once as it likes. Gives `records_per_s` of `getmany` and of `async for`, as the SDK's client.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import uvloop
from aiokafka import AIOKafkaConsumer, TopicPartition

from bench.clients import PARTITIONS, run

SECONDS_MAX = 60.0
FETCH = {"fetch_max_bytes": 64 << 20, "max_partition_fetch_bytes": 16 << 20}


async def read(bootstrap: str, topic: str, records: int, *, batches: bool) -> tuple[float, float]:
    """(seconds, CPU seconds) for all records."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", **FETCH)
    await consumer.start()
    try:
        async with asyncio.timeout(SECONDS_MAX):
            consumer.assign([TopicPartition(topic, number) for number in range(PARTITIONS)])
            await consumer.getone()
            started, cpu, seen = time.perf_counter(), time.process_time(), 1
            if batches:
                while seen < records:
                    found = await consumer.getmany(timeout_ms=1_000, max_records=10_000)
                    seen += sum(map(len, found.values()))
            else:
                async for _ in consumer:
                    seen += 1
                    if seen == records:
                        break
            return time.perf_counter() - started, time.process_time() - cpu
    finally:
        await consumer.stop()


def consume(bootstrap: str, topic: str, records: int) -> dict[str, Any]:
    """Reads `records` records twice; see the module."""
    many_s, cpu_s = uvloop.run(read(bootstrap, topic, records, batches=True))
    one_s, _ = uvloop.run(read(bootstrap, topic, records, batches=False))
    return {
        "records_per_s": records / many_s,
        "async_for_per_s": records / one_s,
        "cpu_us": cpu_s / records * 1e6,
        "served": 2 * records,
    }


if __name__ == "__main__":
    run(consume)
