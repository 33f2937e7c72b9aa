"""Small appends through the storage connection: many callers, each waiting for its own answer, no broker above.

`Log.append` as the broker calls it: one batch of one record a call; the batches that one turn of the event loop brings
to a partition share an append script. Gives `appends_per_s`, answers in the measured window, and `p50_ms`, from call to
answer in it; every offset must have been given out once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from bench.clients import PARTITIONS, percentile, run
from bench.frames import one_record_batch
from redbroker.config import Settings
from redbroker.engine import Engine
from redbroker.engine.log import Append, Appended
from redbroker.engine.topics import Topic
from redbroker.wire.records import read_header

WARM_UP_SECONDS = 0.5

#: Appends one batch to a partition and gives its offset.
Appender = Callable[[int], Awaitable[int]]


def through_log(engine: Engine, topic: Topic, batch: bytes) -> Appender:
    """Appends as the broker does."""
    header = read_header(batch)
    entries = [[Append(topic, number, batch, header)] for number in range(PARTITIONS)]

    async def append(partition: int) -> int:
        (answer,) = await engine.log.append(entries[partition], acks=-1, timeout_ms=30_000)
        if not isinstance(answer, Appended):
            raise answer
        return answer.base_offset

    return append


async def load(url: str, callers: int, seconds: float, record_bytes: int) -> dict[str, Any]:
    """Runs the callers through a warm-up and a window."""
    async with Engine.open(Settings.load(storage_url=url)) as engine:
        topic = await engine.topics.create("appends", PARTITIONS)
        append = through_log(engine, topic, one_record_batch(b"x" * record_bytes))
        done, ends, took, stopping = 0, [0] * PARTITIONS, [], False

        async def caller(partition: int) -> None:
            nonlocal done
            while not stopping:
                began = time.perf_counter()
                ends[partition] = max(ends[partition], await append(partition) + 1)
                took.append(time.perf_counter() - began)
                done += 1

        tasks = [asyncio.create_task(caller(number % PARTITIONS)) for number in range(callers)]
        await asyncio.sleep(WARM_UP_SECONDS)
        before, started, cpu = done, time.perf_counter(), time.process_time()
        await asyncio.sleep(seconds)
        counted, window, cpu_s = done - before, time.perf_counter() - started, time.process_time() - cpu
        stopping = True
        await asyncio.gather(*tasks)
        if sum(ends) != done:
            raise AssertionError(f"{done} appends answered, {sum(ends)} records stored")
        p50_ms = percentile(took[before : before + counted], 0.5) * 1e3
        return {"appends_per_s": counted / window, "p50_ms": p50_ms, "cpu_us": cpu_s / counted * 1e6, "served": done}


def appends(**arguments: Any) -> dict[str, Any]:
    """One run; see the module."""
    return uvloop.run(load(**arguments))


if __name__ == "__main__":
    run(appends)
