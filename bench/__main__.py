"""`python -m bench`: run the benchmarks, print the table, keep the results.

A full run writes bench/results/<date>-<machine>.json and the table in docs/benchmarks.md; `--quick` and `--only` just
print, unless `--output` names a file. The exit code is 1 when a target was missed or a measurement failed.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import harness, machine, report
from bench.contenders import YARDSTICK, all_contenders
from bench.workloads import FULL, QUICK, WORKLOADS


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="RedBroker beside tansu, in one run.")
    parser.add_argument("--quick", action="store_true", help="one round, small sizes, tansu and Valkey: a few minutes")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="workloads or measures so named")
    parser.add_argument("--contender", action="append", default=[], metavar="NAME", help="only these (and not tansu)")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of each workload (3; quick: 1)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--note", default="", help="a sentence kept with the results")
    parser.add_argument("--docs", action="store_true", help="only write the newest results into docs/benchmarks.md")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Runs what was asked for; gives the exit code."""
    options = parse(arguments)
    if options.docs:
        report.write_docs()
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped
    contenders = all_contenders()
    if options.contender:
        contenders = [c for c in contenders if c.name in options.contender]
    elif options.quick:
        contenders = [c for c in contenders if c.name in (YARDSTICK, "valkey")]
    workloads = harness.choose(WORKLOADS, options.only)
    if not workloads or not contenders:
        sys.exit("bench: nothing is named so; workloads are " + ", ".join(w.name for w in WORKLOADS))
    console, began = Console(width=None if sys.stdout.isatty() else 160), time.monotonic()
    rounds = options.rounds or (1 if options.quick else 3)
    about, others = machine.describe(contenders), machine.Others()
    with console.status("starting") as status:
        sizes = QUICK if options.quick else FULL
        results, failures = harness.measure(workloads, contenders, sizes, rounds, status.update)
    run: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "mode": "quick" if options.quick else "full",
        "rounds": rounds,
        "seconds": round(time.monotonic() - began),
        "note": options.note,
        "commit": machine.commit(),
        "machine": about,
        "others_cpu_share": others.share(),
        "contenders": {contender.name: contender.title for contender in contenders},
        "measures": harness.as_json(results),
        "failures": [asdict(failure) for failure in failures],
    }
    report.print_table(run, console)
    keep(run, options, console)
    missed = any(found["passes"] is False for m in run["measures"].values() for found in m["contenders"].values())
    return 1 if missed or failures else 0


def keep(run: dict[str, Any], options: argparse.Namespace, console: Console) -> None:
    """Writes the files a run leaves behind."""
    path: Path | None = options.output
    full = not (options.quick or options.only or options.contender)
    if path is None and full:
        path = report.RESULTS / f"{run['date'][:10]}-{machine.slug()}.json"
    if path is None:
        return
    report.save(run, path)
    console.print(f"{run['seconds']} s; results in {path.name}")
    if full and options.output is None:
        report.write_docs()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
