"""`python -m tests.system.faults run --minutes 30 --seed 7` breaks things for a while; exit code 1: it lost something.

`… pages HISTORY…` writes the page in docs/ of runs that were kept.
`… windows` measures what each level of acks and setting of the server can lose, and prints the table as Markdown.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from pathlib import Path
from typing import Annotated

import typer

from tests.support.servers import redis_binary
from tests.system.faults.checker import Policy
from tests.system.faults.report import conclusion, page
from tests.system.faults.run import Plan, run
from tests.system.faults.summary import write_pages
from tests.system.faults.windows import table

app = typer.Typer(help=__doc__, add_completion=False, pretty_exceptions_enable=False)


@app.command("run")
def long_run(
    minutes: Annotated[float, typer.Option(help="How long faults are made.")] = 30.0,
    seed: Annotated[int | None, typer.Option(help="Chooses the faults; unset: a new one.")] = None,
    single: Annotated[bool, typer.Option("--single", help="A master and its replica instead of a cluster.")] = False,
    redis: Annotated[bool, typer.Option("--redis", help="The system's redis-server instead of Valkey.")] = False,
    watermark: Annotated[bool, typer.Option(help="Forbid reads of what a failover takes back.")] = True,
    out: Annotated[Path, typer.Option(help="Where history and report go.")] = Path("build/faults"),
) -> None:
    """Break things, check the history, write the report."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("tests.system.faults").setLevel(logging.INFO)
    number = random.randrange(1_000_000) if seed is None else seed
    out.mkdir(parents=True, exist_ok=True)
    history, report = out / f"{number}.jsonl", out / f"{number}.html"
    history.unlink(missing_ok=True)
    plan = Plan(
        seed=number,
        seconds=60 * minutes,
        cluster=not single,
        binary=redis_binary() if redis else None,
        policy=Policy(high_watermark=watermark),
    )
    outcome = run(plan, history)
    text, late = page(outcome)
    report.write_text(text)
    print(f"seed {number}, {outcome.server}: {conclusion(outcome)} ({report})")
    for line in late:
        print(line)
    sys.exit(not outcome.valid)


@app.command("pages")
def pages(
    histories: Annotated[list[Path], typer.Argument(help="Histories of runs, as `run` leaves them.")],
    out: Annotated[Path, typer.Option(help="Where the page and its drawings go.")] = Path("docs"),
) -> None:
    """Check kept histories once more, and write docs/fault-runs.md from them."""
    sys.exit(not write_pages(histories, out))


@app.command("windows")
def windows() -> None:
    """Measure the loss windows."""
    print(asyncio.run(table()))


if __name__ == "__main__":
    app()
