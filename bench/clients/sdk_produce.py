"""Batched produce with the SDK, straight to the storage: `send_nowait` and flush in one process, no keys, acks=all.

Gives `records_per_s` from the first call to the end of flush, after a warm-up; the log ends must tell every record.
"""

from __future__ import annotations

import time
from typing import Any

import uvloop

from bench.clients import PARTITIONS, run
from redbroker import Admin, Connection, Producer
from redbroker.client.errors import BufferFullError


async def send(producer: Producer, value: bytes, records: int) -> None:
    """Sends `records` times the same value; waits where the producer's buffer is full."""
    send_nowait = producer.send_nowait
    for _ in range(records):
        try:
            send_nowait("bulk", value)
        except BufferFullError:
            await producer.ready()
            send_nowait("bulk", value)
    await producer.flush()


async def load(url: str, records: int, record_bytes: int) -> dict[str, Any]:
    """One run; see the module."""
    value, warm_up = b"x" * record_bytes, max(1_000, records // 100)
    async with Connection(url) as connection, Admin(connection) as admin, Producer(connection) as producer:
        await admin.create_topic("bulk", PARTITIONS)
        await send(producer, value, warm_up)
        started, cpu = time.perf_counter(), time.process_time()
        await send(producer, value, records)
        seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu
        stored = sum(each.end for each in (await admin.describe_topic("bulk")).partitions)
    if stored != records + warm_up:
        raise AssertionError(f"{records + warm_up} records sent, {stored} stored")
    return {"records_per_s": records / seconds, "cpu_us": cpu_s / records * 1e6, "served": stored}


def produce(**arguments: Any) -> dict[str, Any]:
    """One run; see the module."""
    return uvloop.run(load(**arguments))


if __name__ == "__main__":
    run(produce)
