"""`redbroker produce`: append lines as records, straight through the engine.

What is there is sent at once, so `tail -f app.log | redbroker produce logs` is live, and a file goes in large batches.
Every batch carries a producer id and a sequence, so a retried append is stored once.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redbroker.cli.output import print_json, progress
from redbroker.cli.shared import (
    Format,
    FormatOption,
    StorageOption,
    counted,
    pairs,
    settings_for,
    with_engine,
    wrong,
)

if TYPE_CHECKING:
    from redbroker.engine import Engine
    from redbroker.engine.topics import Topic
    from redbroker.wire.records import Record

READ_BYTES = 1 << 20
"""Most bytes taken from the input at once, which bounds what is in flight."""

BATCH_BYTES = 256 << 10
"""Record bytes per batch; a longer record makes a batch of its own."""

APPEND_TIMEOUT_MS = 30_000
RETRY_S = 0.1

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")


def command(
    name: Annotated[str, typer.Argument(metavar="TOPIC")],
    key: Annotated[
        str | None, typer.Option("--key-separator", "-k", help="What parts key from value in a line.")
    ] = None,
    header: Annotated[list[str], typer.Option("--header", "-H", metavar="NAME=VALUE", help="On every record.")] = [],  # noqa: B006
    codec: Annotated[str, typer.Option("--codec", "-z", help=", ".join(CODECS) + ".")] = "none",
    file: Annotated[
        Path | None, typer.Option("--file", exists=True, dir_okay=False, help="Instead of standard input.")
    ] = None,
    json: Annotated[
        bool,
        typer.Option("--json", "-J", help="Lines are objects: value, and key, headers, partition, timestamp if any."),
    ] = False,
    partition: Annotated[
        int | None, typer.Option("--partition", "-p", min=0, help="Default: by key, or spread.")
    ] = None,
    acks: Annotated[str, typer.Option("--acks", help="all or 1.")] = "all",
    storage: StorageOption = None,
    output: FormatOption = Format.TEXT,
) -> None:
    """Append each line of standard input, or of a file, as a record."""
    if codec not in CODECS:
        raise wrong(f"--codec takes {', '.join(CODECS)}, not {codec}")
    if acks not in ("all", "1"):
        raise wrong(f"--acks takes all or 1, not {acks}")
    if key == "":
        raise wrong("--key-separator takes at least one character")
    headers: list[tuple[str, bytes | None]] = [
        (name, value.encode()) for name, value in pairs(header, "--header").items()
    ]
    lines = Lines(key=key.encode() if key else None, json=json, headers=headers, partition=partition)

    async def work(engine: Engine) -> int:
        topic = engine.topics.get(name)
        if topic is None:  # said, or a misspelt name would take the records in silence
            topic = await engine.topics.ensure(name)
            print(f"created {name} with {counted(topic.partitions, 'partition')}", file=sys.stderr)
        if partition is not None and partition >= topic.partitions:
            raise wrong(f"{name} has partitions 0 to {topic.partitions - 1}, not {partition}")
        writer = Writer(engine, topic, codec, acks=-1 if acks == "all" else 1)
        source = file.open("rb", buffering=0) if file else sys.stdin.buffer
        total = file.stat().st_size if file else None
        with source, progress(f"produce {name}", total=total, unit="bytes") as advance:
            return await pump(source.fileno(), lines, writer, advance)

    started = time.monotonic()
    count = with_engine(settings_for(storage), work)
    if output is Format.JSON:
        print_json({"topic": name, "records": count, "seconds": round(time.monotonic() - started, 3)})
    elif sys.stderr.isatty():
        print(f"{counted(count, 'record')} to {name} in {time.monotonic() - started:.1f} s", file=sys.stderr)


async def pump(source: int, lines: Lines, writer: Writer, advance: Any) -> int:
    """Move everything from a file descriptor to the log; gives the number of records."""
    rest = b""
    while chunk := await _chunk(source):
        whole, newline, rest = (rest + chunk).rpartition(b"\n")
        if newline:
            await writer.write(list(lines.records(whole.split(b"\n"))))
        advance(len(chunk))
    if rest:
        await writer.write(list(lines.records([rest])))
    return writer.count


async def _chunk(source: int) -> bytes:
    """What is there, up to READ_BYTES; nothing at the end. A wait for a pipe or a person can be interrupted."""
    import anyio

    mode = os.fstat(source).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(source):
        await anyio.wait_readable(source)
        return os.read(source, READ_BYTES)
    return await anyio.to_thread.run_sync(os.read, source, READ_BYTES)


class Lines:
    """Turns input lines into records with the partition they ask for, if any."""

    def __init__(
        self, *, key: bytes | None, json: bool, headers: list[tuple[str, bytes | None]], partition: int | None
    ) -> None:
        self.separator = key
        self.json = json
        self.headers = headers
        self.partition = partition
        self.number = 0

    def records(self, lines: list[bytes]) -> Iterator[tuple[int | None, Record]]:
        """One record a line; a line that is none is refused with its number."""
        from redbroker.wire.records import Record

        for line in lines:
            self.number += 1
            if self.json:
                yield self._from_json(line)
                continue
            line = line.removesuffix(b"\r")
            key, value = None, line
            if self.separator is not None:
                key, found, value = line.partition(self.separator)
                if not found:
                    raise wrong(f"line {self.number} has no key separator {self.separator.decode()!r}")
            yield self.partition, Record(0, now_ms(), key, value, self.headers)

    def _from_json(self, line: bytes) -> tuple[int | None, Record]:
        import orjson

        from redbroker.wire.records import Record

        try:
            told = orjson.loads(line)
            if not isinstance(told, dict) or "value" not in told:
                raise ValueError('an object with "value" is expected')
            given = told.get("headers") or []
            headers = [
                (str(name), _bytes(value)) for name, value in (given.items() if isinstance(given, dict) else given)
            ]
            partition = told.get("partition", self.partition)
            timestamp = int(told.get("timestamp", now_ms()))
            record = Record(0, timestamp, _bytes(told.get("key")), _bytes(told["value"]), self.headers + headers)
            return (None if partition is None else int(partition)), record
        except (ValueError, TypeError) as fault:
            raise wrong(f"line {self.number} is no record: {fault}") from None


def _bytes(value: Any) -> bytes | None:
    """A JSON value as bytes: strings as they are, `{"base64": …}` decoded, null as null, anything else as JSON."""
    if value is None or isinstance(value, str):
        return None if value is None else value.encode()
    if isinstance(value, dict) and set(value) == {"base64"}:
        from base64 import b64decode

        return b64decode(value["base64"], validate=True)
    import orjson

    return orjson.dumps(value)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Writer:
    """Appends records to one topic: batches per partition, one producer id, retriable refusals tried again."""

    def __init__(self, engine: Engine, topic: Topic, codec: str, *, acks: int) -> None:
        self.engine = engine
        self.topic = topic
        self.codec = codec
        self.acks = acks
        self.count = 0
        self._producer_id = engine.new_producer_id()
        self._sequences = [0] * topic.partitions
        self._spread = 0
        self._batch_bytes = min(BATCH_BYTES, topic.max_message_bytes // 2)  # an estimate: batches have heads, too

    async def write(self, records: list[tuple[int | None, Record]]) -> None:
        """Append them all, each partition's in their order; returns when they are stored as `acks` asks."""
        from redbroker.wire.partitioner import partition_of

        waiting: dict[int, list[list[Record]]] = {}
        sizes: dict[int, int] = {}
        for partition, record in records:
            if partition is None:
                keyless = record.key is None
                partition = self._spread if keyless else partition_of(bytes(record.key or b""), self.topic.partitions)
            nbytes = len(record.key or b"") + len(record.value or b"") + 32
            batches = waiting.setdefault(partition, [[]])
            if batches[-1] and sizes[partition] + nbytes > self._batch_bytes:
                batches.append([])
                sizes[partition] = 0
            batches[-1].append(record)
            sizes[partition] = sizes.get(partition, 0) + nbytes
        self._spread = (
            self._spread + 1
        ) % self.topic.partitions  # keyless records: the next partition for the next write
        for turn in range(max(map(len, waiting.values()), default=0)):
            await self._append({index: batches[turn] for index, batches in waiting.items() if turn < len(batches)})
        self.count += len(records)

    async def _append(self, batches: dict[int, list[Record]]) -> None:
        """One append of one batch per partition, repeated for those refused with a retriable error."""
        import anyio

        from redbroker.engine.log import Append
        from redbroker.errors import ErrorCode, KafkaError
        from redbroker.wire.records import Record, build_batch, read_header

        left: list[Append] = []
        for index, records in batches.items():
            if not 0 <= index < self.topic.partitions:
                raise wrong(f"{self.topic.name} has partitions 0 to {self.topic.partitions - 1}, not {index}")
            batch = build_batch(
                [Record(offset, *record[1:]) for offset, record in enumerate(records)],
                codec=self.codec,
                producer_id=self._producer_id,
                producer_epoch=0,
                base_sequence=self._sequences[index],
            )
            if len(batch) > self.topic.max_message_bytes:
                raise KafkaError(
                    ErrorCode.MESSAGE_TOO_LARGE,
                    f"a batch of {counted(len(records), 'record')} has {counted(len(batch), 'byte')}, but"
                    f" max.message.bytes of {self.topic.name} is {self.topic.max_message_bytes:,}.",
                )
            self._sequences[index] = (self._sequences[index] + len(records)) & 0x7FFFFFFF
            left.append(Append(self.topic, index, batch, read_header(batch)))
        deadline = time.monotonic() + APPEND_TIMEOUT_MS / 1_000
        while left:
            answers = await self.engine.log.append(left, acks=self.acks, timeout_ms=APPEND_TIMEOUT_MS)
            again = []
            for entry, answer in zip(left, answers, strict=True):
                if isinstance(answer, KafkaError):
                    if not answer.retriable or time.monotonic() > deadline:
                        raise answer
                    again.append(entry)
            left = again
            if left:
                await anyio.sleep(RETRY_S)
