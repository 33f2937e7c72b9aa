"""`redbroker bench`: how fast this storage is from here, through the engine (no Kafka client, no worker in between).

`make bench` measures the Kafka door with real clients; this one tells what the storage itself gives.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redbroker.cli.output import progress, show, size
from redbroker.cli.shared import Format, FormatOption, StorageOption, settings_for, with_engine

if TYPE_CHECKING:
    from redbroker.engine import Engine

SERIAL = 500
"""Appends of one record, one after the other, for the latency rows."""


def command(
    records: Annotated[int, typer.Option("--records", "-n", min=1_000, help="Records of the batched run.")] = 200_000,
    record_bytes: Annotated[int, typer.Option("--bytes", "-b", min=1, help="Bytes of one value.")] = 1_024,
    partitions: Annotated[int, typer.Option("--partitions", "-p", min=1)] = 4,
    storage: StorageOption = None,
    output: FormatOption = Format.TEXT,
) -> None:
    """Measure appends and reads on this storage, in a topic that is deleted afterwards."""

    async def work(engine: Engine) -> list[dict[str, Any]]:
        topic = await engine.topics.create(f"redbroker-bench-{os.getpid()}-{time.time_ns() % 1_000_000}", partitions)
        try:
            return await measure(engine, topic, records, record_bytes, output)
        finally:
            await engine.topics.delete(topic.name)

    show(with_engine(settings_for(storage), work), output)


async def measure(engine: Engine, topic: Any, records: int, record_bytes: int, output: Format) -> list[dict[str, Any]]:
    """The rows of the table: batched append, read, serial append."""
    from redbroker.cli.consume import Reader
    from redbroker.cli.produce import Writer, now_ms
    from redbroker.wire.records import Record

    value = os.urandom(record_bytes)
    chunk = max(topic.partitions, (1 << 20) // record_bytes)
    writer = Writer(engine, topic, "none", acks=-1)
    began = time.perf_counter()
    with progress("append", total=records) as advance:
        for start in range(0, records, chunk):
            count = min(chunk, records - start)
            await writer.write([(at % topic.partitions, Record(0, now_ms(), None, value, [])) for at in range(count)])
            advance(count)
    rows = [_rate("append, batched", records, record_bytes, time.perf_counter() - began, output)]

    reader = Reader(engine, topic, engine.settings, dict.fromkeys(range(topic.partitions), 0))
    await reader.stop_at_end()
    began = time.perf_counter()
    read = 0
    with progress("read", total=records) as advance:
        while not reader.done:
            found = len(await reader.more())
            read += found
            advance(found)
    rows.append(_rate("read, decoded", read, record_bytes, time.perf_counter() - began, output))

    times_ms = []
    with progress("append one by one", total=SERIAL) as advance:
        for at in range(SERIAL):
            began = time.perf_counter()
            await writer.write([(at % topic.partitions, Record(0, now_ms(), None, value, []))])
            times_ms.append((time.perf_counter() - began) * 1_000)
            advance(1)
    times_ms.sort()
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        rows.append(
            {"measure": f"append one, {name}", "value": f"{times_ms[int(SERIAL * share)]:.2f} ms", "bytes": None}
        )
    return rows


def _rate(measure: str, records: int, record_bytes: int, seconds: float, output: Format) -> dict[str, Any]:
    nbytes = records * record_bytes / seconds
    return {
        "measure": measure,
        "value": f"{records / seconds:,.0f} records/s",
        "bytes": nbytes if output is Format.JSON else f"{size(nbytes)}/s",
    }
