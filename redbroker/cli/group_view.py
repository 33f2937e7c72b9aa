"""What `redbroker group describe` shows: a snapshot of a group, its page, and the live view of `--watch`.

A snapshot is one JSON value:

    {group, type, state, epoch, protocol, coordinator, lag, lag_s,
     partitions: [{topic, partition, committed, end, lag, lag_s, member, host}], members: [{member, client, host, …}]}

`lag` counts the records from the committed offset to the log end; `lag_s` is the age of the oldest of them. Where
nothing is committed, or what was committed is trimmed away, both count from the log start.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from redbroker.cli.output import console, print_json
from redbroker.cli.shared import Format, counted, raised

if TYPE_CHECKING:
    from rich.console import RenderableType

    from redbroker.engine import Engine
    from redbroker.engine.log import ReadResult
    from redbroker.engine.offsets import Committed
    from redbroker.engine.topics import Topic

Snapshot = dict[str, Any]

CHANGES_SHOWN = 8
CHUNK = 200
"""Partitions read at a time to learn the age of their oldest unread record: a batch of each is in memory."""


async def committed_by(engine: Engine, name: str, *, new: bool = False) -> dict[tuple[str, int], Committed]:
    """Everything a group has committed; GROUP_ID_NOT_FOUND, with the name that is close, unless it may be `new`."""
    fetched = await engine.offsets.fetch(name, None)
    found = {(key.topic, key.partition): value for key, value in fetched.items()}
    if not (found or new) and await engine.groups.get(name) is None:
        await _not_found(engine, name)
    return found


async def _not_found(engine: Engine, name: str) -> None:
    import difflib

    from redbroker.errors import ErrorCode, KafkaError

    close = difflib.get_close_matches(name, [each.name for each in await engine.groups.list()], n=1)
    meant = f"; did you mean {close[0]}?" if close else "; `redbroker group list` shows those there are."
    raise KafkaError(ErrorCode.GROUP_ID_NOT_FOUND, f"there is no group {name}{meant}")


async def look(engine: Engine, name: str) -> Snapshot:
    """The group as it is now."""
    from redbroker.engine.group_values import owners_of

    committed = await committed_by(engine, name)
    group = await engine.groups.get(name)
    owners = owners_of(group) if group else {}
    members = list(group.members.values()) if group else []
    partitions = await _partitions(engine, committed, owners, members)
    protocol = getattr(group, "protocol", None) or getattr(group, "assignor", None)
    held = [row["member"] for row in partitions]
    return {
        "group": name,
        "type": group.type if group else "classic",
        "state": group.phase if group else "Empty",
        "epoch": group.epoch if group else None,
        "protocol": protocol,
        "coordinator": _coordinator(engine, name),
        "lag": sum(row["lag"] for row in partitions if row["lag"] is not None),
        "lag_s": max((row["lag_s"] for row in partitions if row["lag_s"] is not None), default=0.0),
        "partitions": partitions,
        "members": [
            {
                "member": each.id,
                "client": each.client_id,
                "host": each.client_host,
                "instance": each.instance_id,
                "partitions": held.count(each.id),
            }
            for each in sorted(members, key=lambda each: str(each.id))
        ],
    }


def _coordinator(engine: Engine, name: str) -> str | None:
    """The worker clients are sent to."""
    if not engine.workers.live():
        return None
    worker = engine.workers.coordinator(name)
    return f"{worker.host}:{worker.port}"


async def _partitions(
    engine: Engine, committed: Mapping[tuple[str, int], Committed], owners: Mapping[str, str], members: Sequence[Any]
) -> list[dict[str, Any]]:
    """A row for each partition that somebody holds or that has a committed offset, sorted."""
    held: dict[tuple[str, int], Any] = {}
    for key, owner in owners.items():
        topic, _, number = key.rpartition(":")
        held[topic, int(number)] = _member(owner, members)
    rows: list[dict[str, Any]] = []
    known: list[tuple[Topic, dict[str, Any]]] = []
    for name, index in sorted({*committed, *held}):
        at = committed.get((name, index))
        member = held.get((name, index))
        row = {
            "topic": name, "partition": index, "committed": at.offset if at else None, "end": None, "lag": None,
            "lag_s": None, "member": member.id if member else None, "client": member.client_id if member else None,
            "host": member.client_host if member else None,
        }  # fmt: skip
        rows.append(row)
        topic_now = engine.topics.get(name)
        if topic_now is not None and index < topic_now.partitions:
            known.append((topic_now, row))
    for start in range(0, len(known), CHUNK):
        await _add_lag(engine, known[start : start + CHUNK])
    return rows


def _member(owner: str, members: Iterable[Any]) -> Any:
    """The member that an owner's text (`member id epoch client host`) begins with; ids may hold spaces."""
    fitting = [each for each in members if owner.startswith(f"{each.id} ")]
    return max(fitting, key=lambda each: len(each.id), default=None)


async def _add_lag(engine: Engine, known: Sequence[tuple[Topic, dict[str, Any]]]) -> None:
    """Fill in `end`, `lag` and `lag_s`."""
    from redbroker.engine.log import Read
    from redbroker.errors import KafkaError

    bounds = [raised(each) for each in await engine.log.bounds([(topic, row["partition"]) for topic, row in known])]
    behind = []
    for (topic, row), bound in zip(known, bounds, strict=True):
        begin = min(max(bound.log_start, row["committed"] or 0), bound.next)
        row["end"], row["lag"], row["lag_s"] = bound.next, bound.next - begin, 0.0
        if row["lag"]:
            behind.append((row, Read(topic, row["partition"], begin, 1)))
    if not behind:
        return
    now_ms = time.time() * 1_000
    results = await engine.log.read([read for _, read in behind], max_bytes=1)
    for (row, read), result in zip(behind, results, strict=True):
        found = await _alone(engine, read) if isinstance(result, KafkaError) or not result.batches else result
        if found is not None and (oldest_ms := first_timestamp(found, read.offset)) is not None:
            row["lag_s"] = round(max(0.0, now_ms - oldest_ms) / 1_000, 1)


async def _alone(engine: Engine, read: Any) -> ReadResult | None:
    """The one batch at a place: a read of many gives only the first partition's, which alone may exceed the limit."""
    from redbroker.errors import KafkaError

    [result] = await engine.log.read([read], max_bytes=1)
    return None if isinstance(result, KafkaError) else result


def first_timestamp(result: ReadResult, offset: int) -> int | None:
    """The time of the first record from `offset` on."""
    from redbroker.wire.records import iter_records, read_header

    for stored in result.batches:
        shift = stored.base_offset - read_header(stored.batch).base_offset
        for record in iter_records(stored.batch):
            if record.offset + shift >= offset:
                return record.timestamp
    return None


# --- for people ---------------------------------------------------------------------------------------------------


def headline(seen: Snapshot) -> str:
    """One line on the whole group."""
    members = seen["members"]
    parts = [
        f"{seen['group']}  {seen['state']}",
        f"{seen['type']}" + (f", {seen['protocol']}" if seen["protocol"] else ""),
        *([f"{'generation' if seen['type'] == 'classic' else 'epoch'} {seen['epoch']}"] if seen["epoch"] else []),
        f"{counted(len(members), 'member')} on {counted(len({each['host'] for each in members}), 'host')}"
        if members
        else "no members",
        f"lag {counted(seen['lag'], 'record')}, {age(seen['lag_s'])}",
        *([f"coordinator {seen['coordinator']}"] if seen["coordinator"] else []),
    ]
    return "  ".join(parts)


def age(seconds: float | None) -> str:
    """`0.4 s`, `3 m 20 s`, `2 h 5 m`, `3 d 4 h`."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds else "0 s"
    whole = int(seconds)
    for unit, next_unit, size, part in (("d", "h", 86_400, 3_600), ("h", "m", 3_600, 60), ("m", "s", 60, 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {next_unit}"
    return f"{whole} s"


def table(seen: Snapshot) -> RenderableType:
    """The partitions, and below them the members that hold none."""
    from rich import box
    from rich.console import Group as Lines
    from rich.table import Table

    rows = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for name, side in (("topic", "left"), ("partition", "right"), ("committed", "right"), ("end", "right"),
                       ("lag", "right"), ("behind", "right"), ("member", "left"), ("host", "left")):  # fmt: skip
        # Where the terminal is narrow, names are shortened before numbers are.
        rows.add_column(name, justify="right" if side == "right" else "left", no_wrap=side == "right")
    for row in seen["partitions"]:
        lag = None if row["lag"] is None else f"{row['lag']:,}"
        cells = (row["topic"], row["partition"], row["committed"], row["end"], lag, age(row["lag_s"]))
        rows.add_row(*("-" if cell is None else str(cell) for cell in (*cells, row["member"], row["host"])))
    idle = [each for each in seen["members"] if not each["partitions"]]
    lines: list[RenderableType] = [rows] if seen["partitions"] else ["nothing assigned, nothing committed"]
    lines += [f"idle  {each['member']}  {each['host']}" for each in idle]
    return Lines(*lines)


def page(seen: Snapshot) -> None:
    """Print a snapshot for people."""
    screen = console()
    screen.print(headline(seen), markup=False)
    screen.print(table(seen))


def changes(before: Snapshot | None, now: Snapshot) -> list[str]:
    """What has happened between two snapshots, in sentences."""
    if before is None:
        return []
    told = []
    were, are = ({each["member"]: each for each in seen["members"]} for seen in (before, now))
    told += [f"{name} joined from {are[name]['host']}" for name in are if name not in were]
    told += [f"{name} is gone" for name in were if name not in are]
    if before["coordinator"] != now["coordinator"]:
        told.append(f"coordinator {before['coordinator']} -> {now['coordinator']}")
    if (before["state"], before["epoch"]) != (now["state"], now["epoch"]):
        told.append(f"{before['state']} {before['epoch']} -> {now['state']} {now['epoch']}")
    owned = [{(row["topic"], row["partition"]): row["member"] for row in seen["partitions"]} for seen in (before, now)]
    moved = sum(1 for key, member in owned[1].items() if member and owned[0].get(key) not in (None, member))
    if moved:
        told.append(f"{counted(moved, 'partition')} moved")
    return told


async def watching(engine: Engine, name: str, every_s: float, output: Format) -> None:
    """Look again and again: a live page on a terminal, a page after another in a pipe, or a JSON value a line."""
    import asyncio

    from rich.console import Group as Lines
    from rich.live import Live

    screen = console()
    before: Snapshot | None = None
    history: list[str] = []
    live = (
        Live(console=screen, screen=False, auto_refresh=False) if output is Format.TEXT and screen.is_terminal else None
    )
    with live or _Nothing():
        while True:
            seen = await look(engine, name)
            history += [f"{time.strftime('%H:%M:%S')}  {each}" for each in changes(before, seen)]
            del history[:-CHANGES_SHOWN]
            if output is Format.JSON:
                print_json(seen)
                import sys

                sys.stdout.flush()
            elif live:
                live.update(Lines(headline(seen), table(seen), "", *history), refresh=True)
            else:
                page(seen)
            before = seen
            await asyncio.sleep(every_s)


class _Nothing:
    """A block around nothing."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...
