"""What it costs writers to prove a high watermark for a reader that waits, no broker above.

Writers append with acks=1 to a topic whose records are shown once a replica has them, and to one that asks for a single
copy (`min.insync.replicas=1`), where nothing has to be proved. Beside both stands the same reader, caught up, waiting
for more than comes. They take turns, several times. How much dearer the first is, in percent: `cost` in time per
append, `cost_in_cpu` in CPU time per append of this process and the storage's master, each the median of the turns. The
second bounds throughput and is the one that is judged: the first tells as much of whatever else the machine does. Turns
are short and many, so that other work meets both of a pair.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

import uvloop

from bench.clients import PARTITIONS, run
from bench.frames import one_record_batch
from redbroker.config import Settings
from redbroker.engine import Engine
from redbroker.engine.checks import parse_info
from redbroker.engine.log import Append, Appended, Read, ReadResult
from redbroker.engine.topics import Topic
from redbroker.wire.records import read_header

TURNS = 40
MORE_THAN_COMES = 1 << 50
READ_BYTES = 1 << 20


async def watch(engine: Engine, topic: Topic) -> None:
    """One reader of all partitions that stays at the end: it is woken by its time-out alone."""
    while True:
        ends = await engine.log.bounds([(topic, partition) for partition in range(PARTITIONS)])
        reads = [Read(topic, number, end.next, READ_BYTES) for number, end in enumerate(ends)]  # type: ignore[union-attr]
        found = await engine.log.read(reads, max_bytes=1)
        pairs = [(read, each) for read, each in zip(reads, found, strict=True) if isinstance(each, ReadResult)]
        await engine.log.wait(pairs, MORE_THAN_COMES, 0.5)


async def cpu_seconds(engine: Engine) -> float:
    """CPU time so far of this process and the storage's master."""
    ((_, text),) = await engine.storage.on_masters("INFO", "cpu")
    told = parse_info(text)
    return time.process_time() + float(told["used_cpu_user"]) + float(told["used_cpu_sys"])


async def turn(
    engine: Engine, topic: Topic, callers: int, seconds: float, batch: bytes
) -> tuple[float, float, int]:  # fmt: skip
    """Time and CPU time per append beside a waiting reader, and how many appends there were."""
    header, done = read_header(batch), 0
    ends = time.perf_counter() + seconds
    reader = asyncio.create_task(watch(engine, topic))

    async def caller(partition: int) -> None:
        nonlocal done
        entries = [Append(topic, partition, batch, header)]
        while time.perf_counter() < ends:
            (answer,) = await engine.log.append(entries, acks=1, timeout_ms=30_000)
            if not isinstance(answer, Appended):
                raise answer
            done += 1

    began, cpu = time.perf_counter(), await cpu_seconds(engine)
    await asyncio.gather(*(caller(number % PARTITIONS) for number in range(callers)))
    took, used = time.perf_counter() - began, await cpu_seconds(engine) - cpu
    if reader.done():
        reader.result()
    reader.cancel()
    return took / done, used / done, done


async def load(url: str, callers: int, seconds: float, record_bytes: int) -> dict[str, Any]:
    """All turns."""
    async with Engine.open(Settings.load(storage_url=url)) as engine:
        proved = await engine.topics.create("proved", PARTITIONS)
        plain = await engine.topics.create("plain", PARTITIONS, {"min.insync.replicas": "1"})
        if (engine.durability.copies(proved, 0), engine.durability.copies(plain, 0)) != (2, 1):
            raise AssertionError("one replica is needed, in step from the start")
        batch = one_record_batch(b"x" * record_bytes)
        served, times, cpus, cpu = 0, [], [], time.process_time()
        for number in range(TURNS + 1):
            took = {}
            for topic in (proved, plain) if number % 2 else (plain, proved):
                took[topic.name] = await turn(engine, topic, callers, seconds, batch)
                served += took[topic.name][2]
            if number:  # the first was to warm up
                times.append(took["proved"][0] / took["plain"][0])
                cpus.append(took["proved"][1] / took["plain"][1])
        return {
            "cost": (statistics.median(times) - 1) * 100, "cost_in_cpu": (statistics.median(cpus) - 1) * 100,
            "cpu_us": (time.process_time() - cpu) / served * 1e6, "served": served,
        }  # fmt: skip


def probes(**arguments: Any) -> dict[str, Any]:
    """One run; see the module."""
    return uvloop.run(load(**arguments))


if __name__ == "__main__":
    run(probes)
