"""The table of loss windows: each scenario at acks=1 and acks=all, measured, beside what Kafka promises there."""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.system.faults.checker import Verdict
from tests.system.faults.scenarios import (
    ALWAYS,
    BURST,
    EVERYSEC,
    MEMORY,
    STRACE,
    killed_and_promoted,
    killed_and_restarted,
    stale_replica_promoted,
)

Scenario = Callable[[Path, int], Awaitable[Verdict]]

ROWS: list[tuple[str, Scenario, str]] = [
    (
        "master killed (-9) behind a burst, replica promoted",
        lambda path, acks: killed_and_promoted(path, acks=acks),
        "acks=1: what the followers had not fetched; acks=all: 0",
    ),
    (
        "replica cut off, then promoted; 2 copies, all waited for",
        lambda path, acks: stale_replica_promoted(path, acks=acks),
        "acks=1: everything since; acks=all with min.insync.replicas=2: 0",
    ),
    (
        "the same with 3 copies and `min.insync.replicas=2`",
        lambda path, acks: stale_replica_promoted(path, acks=acks, replicas=2, min_insync=2),
        "acks=all: 0, as only in-sync followers are elected (unclean election: as here)",
    ),
    (
        "killed and restarted at once, `appendfsync always`",
        lambda path, acks: killed_and_restarted(path, ALWAYS, acks=acks),
        "0, from the page cache; fsync is not waited for",
    ),
    (
        "the same, `appendfsync everysec`, slow disk",
        lambda path, acks: killed_and_restarted(path, EVERYSEC, acks=acks),
        "0, from the page cache",
    ),
    (
        "the same, `appendonly no`",
        lambda path, acks: killed_and_restarted(path, MEMORY, acks=acks),
        "no such setting",
    ),
]


async def table() -> str:
    """The Markdown table; every cell is what the checker counted: acknowledged and lost, of what was acknowledged."""
    lines = [
        "Acknowledged records lost, of those acknowledged, around one burst of"
        f" {BURST} (`python -m tests.system.faults windows`):",
        "",
        "| what happens | acks=1 | acks=all | Kafka |",
        "|---|---|---|---|",
    ]
    for what, scenario, kafka in ROWS:
        cells = []
        for acks in (1, -1):
            if "everysec" in what and not STRACE:
                cells.append("needs strace")
                continue
            with tempfile.TemporaryDirectory() as folder:
                verdict = await scenario(Path(folder) / "history.jsonl", acks)
            lost = verdict.fatal().get("lost-write", 0)
            cells.append(f"{lost} of {verdict.counts['acknowledged']}")
        lines.append(f"| {what} | {cells[0]} | {cells[1]} | {kafka} |")
    return "\n".join(lines)
