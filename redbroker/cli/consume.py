"""`redbroker consume`: print records, straight from the engine (no group, nothing is committed)."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redbroker.cli.shared import Format, FormatOption, StorageOption, raised, settings_for, topic_named, with_engine

if TYPE_CHECKING:
    from redbroker.config import Settings
    from redbroker.engine import Engine
    from redbroker.engine.log import StoredBatch
    from redbroker.engine.topics import Topic
    from redbroker.wire.records import Record

READ_BYTES = 1 << 20
"""Bytes asked for in one read, over all partitions: decoding them must not keep the event loop for long."""

WAIT_S = 30.0
"""Longest wait for new records before looking again; the append wakes it, so this is only a backstop."""
RETRY_S = 0.1

Print = Callable[[int, "Record"], bytes]


def command(
    name: Annotated[str, typer.Argument(metavar="TOPIC")],
    offset: Annotated[
        str, typer.Option("--offset", "-o", metavar="WHERE", help="start, end, OFFSET, -N (last N each), @TIME (@2h).")
    ] = "start",
    count: Annotated[int | None, typer.Option("--count", "-n", min=1, help="Stop after so many records.")] = None,
    partition: Annotated[list[int], typer.Option("--partition", "-p", help="Default: all.")] = [],  # noqa: B006
    follow: Annotated[bool, typer.Option("--follow", "-F", help="Go on at the end; wait for more.")] = False,
    form: Annotated[
        str | None,
        typer.Option(
            "-f", metavar="FORMAT", help=r"%t topic %p partition %o offset %T time %k key %s value %h headers \n \t"
        ),
    ] = None,
    key: Annotated[bool, typer.Option("--key", "-k", help="Key, tab, value.")] = False,
    headers: Annotated[bool, typer.Option("--headers", "-H", help="Headers, tab, value.")] = False,
    storage: StorageOption = None,
    output: FormatOption = Format.TEXT,
) -> None:
    """Print the records of a topic: values, or key and headers too, or one JSON object a line."""
    from redbroker.cli.positions import Position

    position = Position.parse(offset)
    if output is Format.JSON:
        printer: Print = json_printer(name)
    else:
        columns = [*(["%k"] if key else []), *(["%h"] if headers else []), "%s"]
        printer = text_printer(name, form if form is not None else "\\t".join(columns) + "\\n")
    settings = settings_for(storage)

    async def work(engine: Engine) -> None:
        from redbroker.cli.positions import place

        topic = topic_named(engine, name)
        starts = await place(engine, topic, position, partition or range(topic.partitions))
        reader = Reader(engine, topic, settings, starts)
        if not follow:
            await reader.stop_at_end()
        left = count
        out = sys.stdout.buffer
        while left != 0 and not reader.done:
            lines = [printer(index, record) for index, record in await reader.more()]
            if left is not None:
                lines = lines[:left]
                left -= len(lines)
            out.writelines(lines)
            out.flush()

    with_engine(settings, work)


class Reader:
    """Reads some partitions of a topic from given offsets, in the order in which batches come back."""

    def __init__(self, engine: Engine, topic: Topic, settings: Settings, starts: dict[int, int]) -> None:
        self.engine = engine
        self.topic = topic
        self.next = starts
        self.ends: dict[int, int] | None = None
        self.bytes_max = settings.frame_bytes_max
        self.timeout_s = settings.storage_timeout_ms / 1_000
        self.refused_s: dict[int, float] = {}  # since when a partition's Redis master does not answer

    @property
    def done(self) -> bool:
        """True when an end was set and everything before it has been read."""
        return self.ends is not None and all(self.next[index] >= end for index, end in self.ends.items())

    async def stop_at_end(self) -> None:
        """Read up to what is the end now, and no further."""
        bounds = await self.engine.log.bounds([(self.topic, index) for index in self.next])
        self.ends = {index: raised(bound).next for index, bound in zip(self.next, bounds, strict=True)}

    async def more(self) -> list[tuple[int, Record]]:
        """The next records as (partition, record); waits when there are none and no end is set."""
        from redbroker.engine.log import Read, ReadResult
        from redbroker.errors import ErrorCode

        wanted = [index for index in self.next if self.ends is None or self.next[index] < self.ends[index]]
        reads = [Read(self.topic, index, self.next[index], READ_BYTES) for index in wanted]
        answered: list[tuple[Read, ReadResult]] = []
        found: list[tuple[int, Record]] = []
        for read, result in zip(reads, await self.engine.log.read(reads, max_bytes=READ_BYTES), strict=True):
            if isinstance(result, ReadResult):
                answered.append((read, result))
                self.refused_s.pop(read.partition, None)
                for stored in result.batches:
                    found += [(read.partition, record) for record in self._records(stored, read.partition)]
                    await asyncio.sleep(0)
            elif result.code == ErrorCode.OFFSET_OUT_OF_RANGE:  # trimmed away meanwhile: go on with what is left
                (bound,) = await self.engine.log.bounds([(self.topic, read.partition)])
                self.next[read.partition] = raised(bound).log_start
            elif not result.retriable or self._refused_for_s(read.partition) > self.timeout_s:
                raise result
        # The first partition read has the first claim on the bytes: let another one be first next time.
        first = next(iter(self.next))
        self.next[first] = self.next.pop(first)
        if not found and self.ends is None and len(answered) == len(reads):
            await self.engine.log.wait(answered, 1, WAIT_S)
        elif not found and self.refused_s:
            await asyncio.sleep(RETRY_S)
        return found

    def _refused_for_s(self, partition: int) -> float:
        now_s = time.monotonic()
        return now_s - self.refused_s.setdefault(partition, now_s)

    def _records(self, stored: StoredBatch, index: int) -> Iterator[Record]:
        """The records of one stored batch from the wanted offset on; in its own bytes they begin at 0."""
        from redbroker.wire.records import Record, iter_records, read_header

        header = read_header(stored.batch)
        shift = stored.base_offset - header.base_offset
        end = None if self.ends is None else self.ends[index]
        wanted = self.next[index]
        self.next[index] = max(wanted, stored.base_offset + header.last_offset_delta + 1)
        if header.control:
            return
        for record in iter_records(stored.batch, bytes_max=self.bytes_max):
            offset = record.offset + shift
            if offset >= wanted and (end is None or offset < end):
                yield Record(offset, *record[1:])


def text_printer(topic: str, form: str) -> Print:
    """A printer for a kcat-like format string; unknown letters after % or \\ are kept as they are."""
    values: dict[str, Print] = {
        "t": lambda index, record: topic.encode(),
        "p": lambda index, record: b"%d" % index,
        "o": lambda index, record: b"%d" % record.offset,
        "T": lambda index, record: b"%d" % record.timestamp,
        "k": lambda index, record: _shown(record.key),
        "s": lambda index, record: _shown(record.value),
        "h": lambda index, record: b",".join(name.encode() + b"=" + _shown(value) for name, value in record.headers),
    }
    if form == "%s\\n":
        return lambda index, record: _shown(record.value) + b"\n"  # by far the most used; three times as fast
    parts = [(part, None) if isinstance(part, bytes) else (b"", values[part]) for part in _parts(form)]
    return lambda index, record: b"".join(value(index, record) if value else part for part, value in parts)


def _shown(data: bytes | None) -> bytes:
    return b"NULL" if data is None else data


def _parts(form: str) -> Iterator[bytes | str]:
    """Literal bytes, and single letters where a value goes."""
    escapes = {"n": b"\n", "t": b"\t", "r": b"\r", "0": b"\0", "\\": b"\\"}
    at = 0
    while at < len(form):
        pair = form[at : at + 2]
        if pair[0] == "%" and pair[1:] in tuple("tpoTksh"):
            yield pair[1]
        elif pair == "%%":
            yield b"%"
        elif pair[0] == "\\" and pair[1:] in escapes:
            yield escapes[pair[1]]
        else:
            yield pair[0].encode()
            at -= 1
        at += 2


def json_printer(topic: str) -> Print:
    """A printer of one JSON object a line; bytes that are no UTF-8 stand as `{"base64": …}`."""
    import orjson

    def printed(index: int, record: Record) -> bytes:
        return orjson.dumps(
            {
                "topic": topic,
                "partition": index,
                "offset": record.offset,
                "timestamp": record.timestamp,
                "key": text_or_base64(record.key),
                "value": text_or_base64(record.value),
                "headers": [[name, text_or_base64(value)] for name, value in record.headers],
            },
            option=orjson.OPT_APPEND_NEWLINE,
        )

    return printed


def text_or_base64(data: Any) -> str | dict[str, str] | None:
    """Bytes as a string where they are UTF-8, else as `{"base64": …}`, which `produce --json` takes back."""
    if data is None:
        return None
    try:
        return bytes(data).decode()
    except UnicodeDecodeError:
        from base64 import b64encode

        return {"base64": b64encode(data).decode()}
