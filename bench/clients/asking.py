"""What it costs writers that appends ask the server for its replication id, through the engine, no broker above.

Writers append with acks=all through two engines, one with the append script as it is, and one with a copy that is told
the replication id and its replicas instead of asking (INFO). They take turns, several times. How much dearer the first
is, in percent: `cost` in time per append, `cost_in_cpu` in CPU time per append of this process and the storage's
master, each the median of the turns. The second bounds throughput and is the one that is judged. What it costs the
script alone tells `replication_id.py`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import statistics
import time
from contextlib import AsyncExitStack
from typing import Any
from unittest.mock import patch

import uvloop

from bench.clients import PARTITIONS, run
from bench.clients.probes import cpu_seconds
from bench.clients.replication_id import ASKING
from bench.frames import one_record_batch
from redbroker.config import Settings
from redbroker.engine import Engine
from redbroker.engine.log import Append, Appended
from redbroker.engine.scripts import Script, script
from redbroker.engine.topics import Topic
from redbroker.wire.records import read_header

TURNS = 40
TOLD = "local info = 'master_replid:' .. field[2] .. 'state=online,offset=0,lag=0'\n"


def told() -> Script:
    """The append script that does not ask."""
    asking = script("append")
    source = asking.source.replace(ASKING.encode(), TOLD.encode())
    if source == asking.source:
        raise AssertionError("the append script asks for INFO in another way now: mend this copy of it")
    return dataclasses.replace(asking, source=source, sha=hashlib.sha1(source).hexdigest().encode())


async def turn(engine: Engine, topic: Topic, callers: int, seconds: float, batch: bytes) -> tuple[float, float, int]:
    """Time and CPU time per append, and how many appends there were."""
    header, done = read_header(batch), 0
    ends = time.perf_counter() + seconds

    async def caller(partition: int) -> None:
        nonlocal done
        entries = [Append(topic, partition, batch, header)]
        while time.perf_counter() < ends:
            (answer,) = await engine.log.append(entries, acks=-1, timeout_ms=30_000)
            if not isinstance(answer, Appended):
                raise answer
            done += 1

    began, cpu = time.perf_counter(), await cpu_seconds(engine)
    await asyncio.gather(*(caller(number % PARTITIONS) for number in range(callers)))
    return (time.perf_counter() - began) / done, (await cpu_seconds(engine) - cpu) / done, done


async def load(url: str, callers: int, seconds: float, record_bytes: int) -> dict[str, Any]:
    """All turns."""
    async with AsyncExitStack() as stack:
        settings = Settings.load(storage_url=url)
        engines = {"asking": await stack.enter_async_context(Engine.open(settings))}
        with patch("redbroker.engine.appends.script", lambda name: told()):
            engines["told"] = await stack.enter_async_context(Engine.open(settings))
        topic = await engines["asking"].topics.create("appends", PARTITIONS)
        batch = one_record_batch(b"x" * record_bytes)
        served, times, cpus, cpu = 0, [], [], time.process_time()
        for number in range(TURNS + 1):
            took = {}
            for name in ("asking", "told") if number % 2 else ("told", "asking"):
                took[name] = await turn(engines[name], topic, callers, seconds, batch)
                served += took[name][2]
            if number:  # the first was to warm up
                times.append(took["asking"][0] / took["told"][0])
                cpus.append(took["asking"][1] / took["told"][1])
        return {
            "cost": (statistics.median(times) - 1) * 100, "cost_in_cpu": (statistics.median(cpus) - 1) * 100,
            "cpu_us": (time.process_time() - cpu) / served * 1e6, "served": served,
        }  # fmt: skip


def asking(**arguments: Any) -> dict[str, Any]:
    """One run; see the module."""
    return uvloop.run(load(**arguments))


if __name__ == "__main__":
    run(asking)
