"""Trimming and compaction next to a producer: what they cost it, and what they take.

A process with an engine keeps house, another appends at a fixed pace and measures. `trim_p99_ratio` is the p99 of those
appends while a large topic is trimmed to nothing, over their p99 in quiet; `compaction_s` and `compaction_cpu_share`
are of one compaction of `records` records with `keys` keys, with the same producer going on.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from typing import Any

import uvloop

from bench.clients import percentile, run
from redbroker.config import Settings
from redbroker.engine import Engine
from redbroker.engine.log import Append, Appended
from redbroker.engine.topics import Topic
from redbroker.wire.records import Record, build_batch, read_header

APPENDS_PER_S = 400
QUIET_SECONDS = 3.0
FILL_AT_ONCE = 400
SILENT = {"retention_check_ms": 3_600_000, "compaction_check_ms": 3_600_000}


async def fill(engine: Engine, topic: Topic, records: int, per_batch: int, keys: int) -> None:
    """Appends records of a time long past; keys repeat every `keys` records."""
    for start in range(0, records, per_batch * FILL_AT_ONCE):
        entries = []
        for first in range(start, min(records, start + per_batch * FILL_AT_ONCE), per_batch):
            rows = range(first, min(records, first + per_batch))
            batch = build_batch(
                [Record(i, 1_000, b"key-%d" % (row % keys), b"x" * 50, []) for i, row in enumerate(rows)]
            )
            entries.append(Append(topic, 0, batch, read_header(batch)))
        for answer in await engine.log.append(entries, acks=1, timeout_ms=30_000):
            if not isinstance(answer, Appended):
                raise answer


async def pace(url: str, topic_name: str, seconds: float) -> list[float]:
    """Milliseconds of each append of a paced producer."""
    async with Engine.open(Settings.load(storage_url=url, **SILENT)) as engine:
        topic = await engine.topics.ensure(topic_name)
        batch = build_batch([Record(0, 1_000, b"k", b"x" * 100, [])])
        entry = [Append(topic, 0, batch, read_header(batch))]
        took, due, end = [], time.perf_counter(), time.perf_counter() + seconds
        while due < end:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            began = time.perf_counter()
            await engine.log.append(entry, acks=1, timeout_ms=30_000)
            took.append((time.perf_counter() - began) * 1e3)
            due += 1 / APPENDS_PER_S
        return took


def producer(url: str, seconds: float) -> subprocess.Popen[str]:
    """The paced producer as a process of its own; its p99 is what it prints."""
    arguments = json.dumps({"url": url, "pace_seconds": seconds})
    return subprocess.Popen([sys.executable, "-m", __spec__.name, arguments], stdout=subprocess.PIPE, text=True)


async def p99_of(process: subprocess.Popen[str]) -> float:
    """What a finished producer printed."""
    out, _ = await asyncio.to_thread(process.communicate)
    return float(json.loads(out.splitlines()[-1])["p99_ms"])


async def measure(url: str, trim_records: int, trim_per_batch: int, records: int, keys: int) -> dict[str, Any]:
    """Fills, then measures one after the other."""
    async with Engine.open(Settings.load(storage_url=url, **SILENT)) as engine:
        large = await engine.topics.create("large", 1, {"retention.ms": "-1"})
        await fill(engine, large, trim_records, trim_per_batch, 1_000)
        quiet = await p99_of(producer(url, QUIET_SECONDS))
        await engine.topics.configure("large", {"retention.ms": "1"})
        beside = producer(url, QUIET_SECONDS)
        await asyncio.sleep(1)  # its start
        began = time.perf_counter()
        await engine.janitor.trim()
        trim_s = time.perf_counter() - began
        busy = await p99_of(beside)

        facts = await engine.topics.create("facts", 1, {"cleanup.policy": "compact"})
        await fill(engine, facts, records, 100, keys)
        beside = producer(url, 5.0)
        await asyncio.sleep(1)
        began, cpu = time.perf_counter(), time.process_time()
        await engine.janitor.compact()
        took, cpu_s = time.perf_counter() - began, time.process_time() - cpu
        during = await p99_of(beside)
        counts = engine.janitor.counts
        if counts.compactions != 1 or counts.trimmed_entries < trim_records // trim_per_batch:
            raise AssertionError(f"the janitor has not done its work: {counts}")
        return {
            "served": records, "cpu_us": cpu_s / records * 1e6, "trim_s": trim_s, "quiet_p99_ms": quiet,
            "trim_p99_ms": busy, "trim_p99_ratio": busy / quiet, "compaction_s": took,
            "compaction_cpu_share": cpu_s / took, "compaction_p99_ms": during,
        }  # fmt: skip


def housekeeping(**arguments: Any) -> dict[str, Any]:
    """One run; see the module."""
    if "pace_seconds" in arguments:
        took = uvloop.run(pace(arguments["url"], "paced", arguments["pace_seconds"]))
        return {"p99_ms": percentile(took, 0.99)}
    return uvloop.run(measure(**arguments))


if __name__ == "__main__":
    run(housekeeping)
