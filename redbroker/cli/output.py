"""How results look: tables for people, JSON for scripts, a progress line on the terminal while work is long."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from redbroker.cli.shared import Format

if TYPE_CHECKING:
    from rich.console import Console


def print_json(value: Any) -> None:
    """One JSON value on one line of standard output."""
    import orjson

    sys.stdout.write(orjson.dumps(value, default=str).decode() + "\n")


def console(*, stderr: bool = False) -> Console:
    """A rich console; no colours when the output is a file or a pipe, or when NO_COLOR is set."""
    from rich.console import Console

    # A pipe has no width to wrap to: scripts that read the text form get whole lines.
    stream = sys.stderr if stderr else sys.stdout
    return Console(
        stderr=stderr, highlight=False, width=None if stream.isatty() else 200, soft_wrap=not stream.isatty()
    )


def show(rows: Sequence[dict[str, Any]], output: Format, *, nothing: str = "nothing to show") -> None:
    """Rows of one shape as a table or as a JSON array; numbers stand right, names left."""
    if output is Format.JSON:
        print_json(list(rows))
        return
    if not rows:
        print(nothing)
        return
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for name, value in rows[0].items():
        number = isinstance(value, int | float)
        table.add_column(name.replace("_", " "), justify="right" if number else "left", no_wrap=number)
    for row in rows:
        table.add_row(*(_cell(name, value) for name, value in row.items()))
    console().print(table)


COUNTS = frozenset({"partitions", "records", "lag"})
"""Columns that count things; offsets, epochs and partitions are names, written the way one would type them."""


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if name in COUNTS else str(value)


def size(nbytes: float) -> str:
    """`1536` -> `1.5 KiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(nbytes) < 1024:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1024
    return f"{nbytes:.1f} TiB"


class Progress(Protocol):
    """Told how much more has been done."""

    def __call__(self, done: int, /) -> None: ...


@contextmanager
def progress(label: str, *, total: int | None, unit: str = "records") -> Iterator[Progress]:
    """A progress bar on standard error while a person watches; silent otherwise. `total` None: not known."""
    if not sys.stderr.isatty():
        yield lambda _done: None
        return
    from rich import progress as bars

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.TextColumn(f"{{task.completed:,.0f}} {unit}"),
        bars.TimeElapsedColumn(),
    )
    with bars.Progress(*columns, console=console(stderr=True), transient=True) as shown:
        task = shown.add_task(label, total=total)
        yield lambda done: shown.advance(task, done)
