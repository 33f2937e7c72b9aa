"""Two kinds of appends that take turns: how much dearer the first is, in time and in CPU time of engine and master.

Turns are short and many, so that other work of the machine meets both of a pair; the first pair warms up and does not
count. What is given is the median of the pairs, in percent.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from bench.clients import PARTITIONS
from redbroker.engine import Engine
from redbroker.engine.checks import parse_info
from redbroker.engine.log import Append, Appended
from redbroker.engine.topics import Topic
from redbroker.wire.records import read_header

TURNS = 40


class Cost(NamedTuple):
    """Seconds and CPU seconds per append of one turn, and how many appends there were."""

    time_s: float
    cpu_s: float
    appends: int


async def turn(engine: Engine, topic: Topic, callers: int, seconds: float, batch: bytes, acks: int) -> Cost:
    """Callers that append one batch after another."""
    header, done = read_header(batch), 0
    ends = time.perf_counter() + seconds

    async def caller(partition: int) -> None:
        nonlocal done
        entries = [Append(topic, partition, batch, header)]
        while time.perf_counter() < ends:
            (answer,) = await engine.log.append(entries, acks=acks, timeout_ms=30_000)
            if not isinstance(answer, Appended):
                raise answer
            done += 1

    began, cpu = time.perf_counter(), await cpu_seconds(engine)
    await asyncio.gather(*(caller(number % PARTITIONS) for number in range(callers)))
    return Cost((time.perf_counter() - began) / done, (await cpu_seconds(engine) - cpu) / done, done)


async def cpu_seconds(engine: Engine) -> float:
    """CPU time so far of this process and the storage's master."""
    ((_, text),) = await engine.storage.on_masters("INFO", "cpu")
    told = parse_info(text)
    return time.process_time() + float(told["used_cpu_user"]) + float(told["used_cpu_sys"])


async def compare(first: Callable[[], Awaitable[Cost]], second: Callable[[], Awaitable[Cost]]) -> dict[str, Any]:
    """All turns; they change places each time."""
    served, times, cpus, cpu = 0, [], [], time.process_time()
    for number in range(TURNS + 1):
        if number % 2:
            dear, cheap = await first(), await second()
        else:
            cheap, dear = await second(), await first()
        served += dear.appends + cheap.appends
        if number:
            times.append(dear.time_s / cheap.time_s)
            cpus.append(dear.cpu_s / cheap.cpu_s)
    return {
        "cost": (statistics.median(times) - 1) * 100, "cost_in_cpu": (statistics.median(cpus) - 1) * 100,
        "cpu_us": (time.process_time() - cpu) / served * 1e6, "served": served,
    }  # fmt: skip
