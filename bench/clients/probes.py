"""What it costs writers to prove a high watermark for a reader that waits, no broker above.

Writers append with acks=1 to a topic whose records are shown once a replica has them, and to one that asks for a single
copy (`min.insync.replicas=1`), where nothing has to be proved. Beside both stands the same reader, caught up, waiting
for more than comes. `cost` and `cost_in_cpu` are those of `turns.py`; the second bounds throughput and is the one that
is judged: the first tells as much of whatever else the machine does.
"""

from __future__ import annotations

import asyncio
from typing import Any

import uvloop

from bench.clients import PARTITIONS, run
from bench.clients.turns import Cost, compare, turn
from bench.frames import one_record_batch
from redbroker.config import Settings
from redbroker.engine import Engine
from redbroker.engine.log import Read, ReadResult
from redbroker.engine.topics import Topic

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


async def watched(engine: Engine, topic: Topic, callers: int, seconds: float, batch: bytes) -> Cost:
    """A turn beside a waiting reader."""
    reader = asyncio.create_task(watch(engine, topic))
    cost = await turn(engine, topic, callers, seconds, batch, acks=1)
    if reader.done():
        reader.result()
    reader.cancel()
    return cost


async def load(url: str, callers: int, seconds: float, record_bytes: int) -> dict[str, Any]:
    """All turns."""
    async with Engine.open(Settings.load(storage_url=url)) as engine:
        proved = await engine.topics.create("proved", PARTITIONS)
        plain = await engine.topics.create("plain", PARTITIONS, {"min.insync.replicas": "1"})
        if (engine.durability.copies(proved, 0), engine.durability.copies(plain, 0)) != (2, 1):
            raise AssertionError("one replica is needed, in step from the start")
        batch = one_record_batch(b"x" * record_bytes)
        return await compare(
            lambda: watched(engine, proved, callers, seconds, batch),
            lambda: watched(engine, plain, callers, seconds, batch),
        )


def probes(**arguments: Any) -> dict[str, Any]:
    """One run; see the module."""
    return uvloop.run(load(**arguments))


if __name__ == "__main__":
    run(probes)
