"""The runs that are kept in docs/: one Markdown page and a drawing per run, from their histories, checked anew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.system.faults.checker import Verdict, check
from tests.system.faults.history import read_history
from tests.system.faults.report import Story, drawing, pauses_rows, story

HEAD = """# Long runs of faults

Each of these runs was made by `make faults` ([how, and what is broken](faults.md)); the same seed chooses the same
faults again. `python -m tests.system.faults pages` writes this page from their histories, and checks them once more.

**Reading the tables.** A row per kind of fault: how often it was made, and how often alone in its round. Then, of those
that were alone, the worst pause of any writer in any partition, counted from the fault, as median and longest: with
acks=all, with acks=1, and with acks=all counted from when all copies were back (with one replica, a shard that has lost
a copy takes no acks=all until then). The last column is the most that acks=1 may pause, where there is a limit. What is
tolerated was lost, doubled or out of order in the topic that is written with acks=1 and without idempotence, which
promises nothing else.

**Reading the drawings.** A mark is a fault for as long as it was held: red for masters, purple for replicas, orange for
workers, pink for failovers, blue for the rest. Below, the records acknowledged each second, cut off at the top.
"""
COLUMNS = (
    "| fault | made | alone | acks=all, s | longest | acks=1, s | longest | copies back, s | longest | limit, s |",
    "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
)


def write_pages(histories: Sequence[Path], out: Path) -> bool:
    """Write `fault-runs.md` and its drawings; whether every run is valid."""
    sections, valid = [HEAD], True
    for history in histories:
        told, verdict = story(read_history(history)), check(read_history(history))
        name = f"fault-runs-{told.seed}.svg"
        (out / name).write_text(drawing(told) + "\n")
        sections.append(section(told, verdict, name))
        valid &= verdict.valid and not any(told.codes.values())
    (out / "fault-runs.md").write_text("\n".join(sections))
    return valid


def section(told: Story, verdict: Verdict, drawn: str) -> str:
    """One run."""
    counts = verdict.counts
    rows, late = pauses_rows(told)
    lines = [
        f"## Seed {told.seed}: {'nothing lost' if verdict.valid else 'ANOMALIES'}",
        "",
        f"{told.server}, {len(told.codes)} clients, {(told.ended - told.began) / 60:.0f} minutes,"
        f" **{counts['faults']} faults**;"
        f" {counts['acknowledged']:,} records acknowledged, {counts['indefinite']:,} sends without a clear answer,"
        f" {counts['read']:,} records read, {counts['stored']:,} there at the end.",
        "",
        f"![The faults on a time line, and what was acknowledged meanwhile]({drawn})",
        "",
        *COLUMNS,
        *(f"| {' | '.join(cells)} |" for cells in rows),
        "",
        told_of("Forbidden", verdict.fatal()),
        told_of("Tolerated", verdict.tolerated()),
    ]
    lines += [f"Longer than allowed: {each}." for each in late]
    return "\n".join(lines) + "\n"


def told_of(word: str, found: dict[str, int]) -> str:
    """One line of anomalies."""
    return f"{word}: " + (", ".join(f"{name} {count}" for name, count in sorted(found.items())) or "none") + ".  "
