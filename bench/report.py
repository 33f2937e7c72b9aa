"""Results told: a table on the terminal, a JSON file, and the table in docs/benchmarks.md made from that file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.measures import MEASURES

RESULTS = Path(__file__).with_name("results")
DOCS = Path(__file__).parent.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
QUIET = 0.05  # share of the cores that other work may take before a run is called disturbed
MARKS = {True: "✓", False: "✗", None: ""}


def number(value: float, digits: int) -> str:
    """`268,431` or `0.21`."""
    return f"{value:,.{digits}f}"


def print_table(run: dict[str, Any], console: Console) -> None:
    """One row per measure and contender."""
    table = Table(title=f"RedBroker benchmarks, {run['mode']}, {run['rounds']} rounds, {run['machine']['cpu']}")
    for heading in ("measure", "target", "contender"):
        table.add_column(heading)
    for heading in ("median", "min … max", "× tansu", "", "CPU µs/record: client broker storage"):
        table.add_column(heading, justify="right")
    for name, measure in run["measures"].items():
        digits = MEASURES[name].digits
        for row, (contender, found) in enumerate(measure["contenders"].items()):
            passes = found["passes"]
            cpu = found["cpu_us_per_record"]
            table.add_row(
                f"{measure['title']} ({measure['unit']})" if row == 0 else "",
                measure["target"] if row == 0 else "",
                contender,
                number(found["median"], digits),
                f"{number(found['min'], digits)} … {number(found['max'], digits)}",
                "" if found["ratio"] is None else f"{found['ratio']:.2f}",
                MARKS[passes],
                " ".join(f"{cpu[role]:.2f}" for role in ("client", "broker", "storage") if role in cpu),
                style={True: "green", False: "red", None: ""}[passes],
                end_section=row == len(measure["contenders"]) - 1,
            )
    console.print(table)
    if run["others_cpu_share"] > QUIET:
        console.print(
            f"Other work took {run['others_cpu_share']:.0%} of the machine's cores meanwhile: only ratios and CPU"
            " times mean something, and they too are rough.",
            style="yellow",
        )
    for failure in run["failures"]:
        text = f"failed: {failure['workload']} on {failure['contender']}: {failure['reason']}"
        console.print(text, style="red", markup=False, highlight=False)


def save(run: dict[str, Any], path: Path) -> None:
    """Writes a results file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(run, indent=1, ensure_ascii=False) + "\n")


def newest() -> dict[str, Any] | None:
    """The results file with the latest date, or None when there is none."""
    runs = [json.loads(path.read_text()) for path in RESULTS.glob("*.json")]
    return max(runs, key=lambda run: str(run["date"]), default=None)


def markdown(run: dict[str, Any]) -> str:
    """The run as tables for people."""
    machine = run["machine"]
    servers = ", ".join([*machine["servers"].values(), f"confluent-kafka {machine['packages']['confluent-kafka']}"])
    contenders = list(run["contenders"])
    python = f"Python {machine['python']} (yardstick {machine['python_ns']} ns)"
    lines = [
        f"{run['date'][:10]}, {machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB,"
        f" {machine['system']}, {python}; {servers}; commit {run['commit']}; medians of"
        f" {run['rounds']} rounds; {run['others_cpu_share']:.0%} of the cores went to other work.",
        *(["", f"> {run['note']}"] if run.get("note") else []),
        "",
        "| measure | target | " + " | ".join(contenders) + " |",
        "|---|---|" + "---|" * len(contenders),
    ]
    for name, measure in run["measures"].items():
        cells = [cell(measure["contenders"].get(contender), MEASURES[name].digits) for contender in contenders]
        lines.append(f"| {measure['title']}, {measure['unit']} | {measure['target']} | " + " | ".join(cells) + " |")
    lines += ["", *(f"- **{name}**: {title}" for name, title in run["contenders"].items())]
    lines += ["", "CPU time per record in microseconds, client / broker / storage:", ""]
    lines += ["| measure | " + " | ".join(contenders) + " |", "|---|" + "---|" * len(contenders)]
    for measure in run["measures"].values():
        cpu = [cpu_cell(measure["contenders"].get(contender)) for contender in contenders]
        if any(cpu):
            lines.append(f"| {measure['title']} | " + " | ".join(cpu) + " |")
    return "\n".join(lines)


def cell(found: dict[str, Any] | None, digits: int) -> str:
    """`268,431 (0.91 ×) ✓`."""
    if found is None:
        return ""
    ratio = "" if found["ratio"] is None else f" ({found['ratio']:.2f} ×)"
    return f"{number(found['median'], digits)}{ratio} {MARKS[found['passes']]}".strip()


def cpu_cell(found: dict[str, Any] | None) -> str:
    """`3.10 / 0.52 / 0.31`."""
    cpu = found["cpu_us_per_record"] if found else {}
    return " / ".join(f"{cpu[role]:.2f}" for role in ("client", "broker", "storage") if role in cpu)


def write_docs(path: Path = DOCS) -> None:
    """Puts the newest results between the two marks of docs/benchmarks.md."""
    run = newest()
    if run is None:
        return
    text = path.read_text()
    head, rest = text.split(BEGIN)
    path.write_text(f"{head}{BEGIN}\n{markdown(run)}\n{END}{rest.split(END)[1]}")
