"""Places in a log as people write them: `start`, `end`, `-10` (the last ten), `1500`, `@2h`, `@2026-01-31T12:00`."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from redbroker.cli.shared import raised, wrong

if TYPE_CHECKING:
    from redbroker.engine import Engine
    from redbroker.engine.log import Bounds
    from redbroker.engine.topics import Topic

UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


@dataclass(frozen=True, slots=True)
class Position:
    """A place in every partition of a topic; `value` is an offset, a count from the end, or milliseconds since 1970."""

    kind: Literal["start", "end", "offset", "last", "time"]
    value: int = 0

    @classmethod
    def parse(cls, word: str) -> Position:
        """The position a word names; leaves with code 2 and one sentence when it names none."""
        if word in ("start", "beginning", "earliest"):
            return cls("start")
        if word in ("end", "latest"):
            return cls("end")
        if re.fullmatch(r"-\d{1,18}", word):
            return cls("last", int(word[1:]))
        if re.fullmatch(r"\d{1,18}", word):
            return cls("offset", int(word))
        if word.startswith("@"):
            return cls("time", _moment_ms(word[1:]))
        raise wrong(
            f"{word!r} is no place in a log: start, end, OFFSET, -N (the last N) or @TIME (@2h, @2026-01-31T12:00)"
        )


def _moment_ms(word: str) -> int:
    """`2h` ago, an ISO time (local unless it says otherwise), or milliseconds since 1970."""
    ago = re.fullmatch(r"(\d{1,9})(ms|s|m|h|d)", word)
    if ago:
        return time.time_ns() // 1_000_000 - int(ago[1]) * UNITS_MS[ago[2]]
    if re.fullmatch(r"\d{10,16}", word):
        # Ten digits are seconds: no log holds records of January 1970.
        return int(word) * (1_000 if len(word) == 10 else 1)
    try:
        return int(datetime.fromisoformat(word).timestamp() * 1_000)
    except ValueError:
        raise wrong(f"@{word} is no time: @2h, @2026-01-31T12:00 or milliseconds since 1970") from None


async def place(engine: Engine, topic: Topic, position: Position, partitions: Iterable[int]) -> dict[int, int]:
    """The offset of the position in each of these partitions, within the log's bounds."""
    wanted = list(partitions)
    for partition in wanted:
        if not 0 <= partition < topic.partitions:
            raise wrong(f"{topic.name} has partitions 0 to {topic.partitions - 1}, not {partition}")
    bounds = [raised(bound) for bound in await engine.log.bounds([(topic, partition) for partition in wanted])]
    if position.kind == "time":
        found = await engine.log.find_time([(topic, partition, position.value) for partition in wanted])
        offsets = []
        for answer, bound in zip(found, bounds, strict=True):
            hit = raised(answer)
            offsets.append(bound.next if hit is None else hit[0])  # nothing is that new: wait at the end
        return dict(zip(wanted, offsets, strict=True))
    at = [_within(position, bound) for bound in bounds]
    return dict(zip(wanted, at, strict=True))


def _within(position: Position, bound: Bounds) -> int:
    """The offset in one log; what lies outside of it becomes its nearest end."""
    if position.kind == "start":
        return bound.log_start
    if position.kind == "end":
        return bound.next
    offset = bound.next - position.value if position.kind == "last" else position.value
    return min(max(offset, bound.log_start), bound.next)
