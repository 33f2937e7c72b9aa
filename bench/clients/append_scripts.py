"""Append scripts straight through the storage connection: many callers, each waiting for its own answer.

This is the ceiling of one worker's small appends: `redbroker.engine.connection.Storage.run` with the append script
and nothing above it. Gives `scripts_per_s` over the measured window; the answers' base offsets are checked at the end.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any
from uuid import uuid4

import uvloop
from redbroker.engine.connection import Storage

from bench.clients import PARTITIONS, run
from bench.frames import one_record_batch
from redbroker.config import Settings
from redbroker.engine.keys import PartitionKeys
from redbroker.engine.scripts import Script, script
from redbroker.types import TopicPartition

WARM_UP_SECONDS = 0.5
TOPIC_ID = uuid4().hex.encode()


def words(operation: Script, given: dict[str, Any]) -> list[Any]:
    """The arguments of an operation in its own order."""
    return [given[name] for name in operation.args]


async def open_partition(storage: Storage, keys: PartitionKeys) -> None:
    """Makes one empty log."""
    operation = script("open_partition")
    given = {"topic_id": TOPIC_ID, "created_ms": int(time.time() * 1000)}
    await storage.run(operation, [getattr(keys, name) for name in operation.keys], words(operation, given))


async def load(url: str, callers: int, seconds: float, record_bytes: int) -> dict[str, Any]:
    """Runs the callers through a warm-up and a window."""
    storage = await Storage.open(Settings.load(storage_url=url))
    partitions = [PartitionKeys("bench", TopicPartition("appends", number)) for number in range(PARTITIONS)]
    for keys in partitions:
        await open_partition(storage, keys)
    operation = script("append")
    given = {
        "topic_id": TOPIC_ID, "count": 1, "max_timestamp": int(time.time() * 1000), "producer_id": -1,
        "producer_epoch": -1, "first_sequence": -1, "copies": 1, "expiration_s": 86_400, "producers_max": 1_000,
        "batch": one_record_batch(b"x" * record_bytes),
    }  # fmt: skip
    args = words(operation, given)
    done, offsets = 0, [0] * PARTITIONS
    stopping = False

    async def caller(number: int) -> None:
        nonlocal done
        keys = [getattr(partitions[number], name) for name in operation.keys]
        while not stopping:
            answer = await storage.run(operation, keys, args)
            offsets[number] = max(offsets[number], answer[0] + 1)
            done += 1

    tasks = [asyncio.create_task(caller(number % PARTITIONS)) for number in range(callers)]
    await asyncio.sleep(WARM_UP_SECONDS)
    before, started, cpu = done, time.perf_counter(), time.process_time()
    await asyncio.sleep(seconds)
    scripts, window, cpu_s = done - before, time.perf_counter() - started, time.process_time() - cpu
    stopping = True
    await asyncio.gather(*tasks)
    if sum(offsets) != done:
        raise AssertionError(f"{done} appends answered, {sum(offsets)} records stored")
    await storage.close()
    return {"scripts_per_s": scripts / window, "cpu_us": cpu_s / scripts * 1e6, "served": done}


def append_scripts(**arguments: Any) -> dict[str, Any]:
    """One run; see the module."""
    return uvloop.run(load(**arguments))


if __name__ == "__main__":
    run(append_scripts)
