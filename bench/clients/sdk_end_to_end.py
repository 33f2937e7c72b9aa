"""End to end with the SDK: one paced producer, one waiting consumer, each with connections of its own, in one process.

The producer writes its clock into each record; the consumer (a task of the same loop) subtracts on arrival.
Gives `p50_ms` and `p99_ms` over all records but a warm-up.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import uvloop

from bench.clients import PARTITIONS, percentile, run
from bench.clients.end_to_end import STAMP, WARM_UP
from redbroker import Admin, Consumer, Producer, TopicPartition

SILENCE_SECONDS_MAX = 10.0


async def receive(consumer: Consumer, wanted: int, times_ms: list[float]) -> None:
    """Collects the age of each record as it arrives, until `wanted` arrived."""
    while len(times_ms) < wanted:
        async with asyncio.timeout(SILENCE_SECONDS_MAX):
            record = await anext(consumer)
        times_ms.append((time.perf_counter() - STAMP.unpack_from(record.value)[0]) * 1e3)


async def paced(storage: str, topic: str, records: int, record_bytes: int, records_per_s: float) -> dict[str, Any]:
    """One run; see the module."""
    async with Admin(storage) as admin:
        await admin.create_topic(topic, PARTITIONS)
    wanted, times_ms = WARM_UP + records, list[float]()
    async with Producer(storage, acks="all") as producer, Consumer(storage=storage) as consumer:
        consumer.assign([TopicPartition(topic, partition) for partition in range(PARTITIONS)])
        await consumer.seek_to_beginning()
        receiver = asyncio.create_task(receive(consumer, wanted, times_ms))
        padding, cpu, due = b"x" * (record_bytes - STAMP.size), time.process_time(), time.perf_counter()
        for turn in range(wanted):
            due += 1 / records_per_s
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            producer.send_nowait(topic, STAMP.pack(time.perf_counter()) + padding, partition=turn & 3)
        await producer.flush()
        await receiver
        cpu_s = time.process_time() - cpu
    measured = times_ms[WARM_UP:]
    return {
        "p50_ms": percentile(measured, 0.50),
        "p99_ms": percentile(measured, 0.99),
        "cpu_us": cpu_s / wanted * 1e6,
        "served": wanted,
    }


def sdk_end_to_end(**arguments: Any) -> dict[str, Any]:
    """One run; see the module."""
    return uvloop.run(paced(**arguments))


if __name__ == "__main__":
    run(sdk_end_to_end)
