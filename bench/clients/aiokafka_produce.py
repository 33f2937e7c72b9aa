"""Batched produce with aiokafka, what a Python service uses today: `send` and flush in one process, no keys, acks=all.

`send` only waits for room in a batch, so this is its counterpart of `send_nowait`. Its batches
may be as large as the SDK's, with a short linger. Gives `records_per_s` as the SDK's client does.
"""

from __future__ import annotations

import time
from typing import Any

import uvloop
from aiokafka import AIOKafkaProducer

from bench.clients import create_topic, run

BATCH_BYTES = 262_144
LINGER_MS = 5


async def load(bootstrap: str, records: int, record_bytes: int) -> dict[str, Any]:
    """One run; see the module."""
    value, warm_up = b"x" * record_bytes, max(1_000, records // 100)
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", linger_ms=LINGER_MS, max_batch_size=BATCH_BYTES
    )
    await producer.start()
    try:
        for count in (warm_up, records):
            started, cpu = time.perf_counter(), time.process_time()
            last = [await producer.send("bulk", value) for _ in range(count)][-1]
            await producer.flush()
            await last
            seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    finally:
        await producer.stop()
    return {"records_per_s": records / seconds, "cpu_us": cpu_s / records * 1e6, "served": records + warm_up}


def produce(bootstrap: str, **arguments: Any) -> dict[str, Any]:
    """One run; see the module."""
    create_topic(bootstrap, "bulk")
    return uvloop.run(load(bootstrap, **arguments))


if __name__ == "__main__":
    run(produce)
