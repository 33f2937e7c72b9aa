"""The page of a run: faults and acknowledgements on one time line, the pauses each kind of fault cost, the verdict.

One HTML file with the drawing inside it; nothing is loaded from elsewhere.
"""

from __future__ import annotations

import html
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from tests.system.faults.history import read_history
from tests.system.faults.run import ALL, ONE, Outcome, Plan

WIDTH, LEFT, LANE, PLOT = 1100, 170, 15, 110
HELD = "nothing lost, doubled or hidden of what acks=all acknowledged"
COLOURS = {"worker": "#d97706", "master": "#dc2626", "replica": "#7c3aed", "failover": "#be185d"}
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1140px;margin:2em auto;padding:0 1em;color:#1f2937}
table{border-collapse:collapse;margin:1em 0}td,th{padding:.25em .8em;border-bottom:1px solid #e5e7eb;text-align:right}
td:first-child,th:first-child{text-align:left}.good{color:#15803d}.bad{color:#b91c1c}svg{width:100%;height:auto}
code{background:#f3f4f6;padding:0 .3em}h1{margin-bottom:0}"""


@dataclass
class Made:
    """One fault as it was: when it began and ended, and whether it was alone."""

    name: str
    target: str
    began: float
    ended: float
    healed: float = 0.0
    alone: bool = True


@dataclass
class Story:
    """What the page needs of a history."""

    seed: int = 0
    server: str = ""
    began: float = 0.0
    ended: float = 0.0
    node_timeout_s: float = 0.0
    codes: dict[str, int | None] = field(default_factory=dict)
    faults: list[Made] = field(default_factory=list)
    acks: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    counts: dict[str, dict[int, int]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(int)))


def story(operations: Any) -> Story:
    """Read a history for the page."""
    told = Story()
    open_: dict[int, Made] = {}
    round_: list[Made] = []
    for op in operations:
        match op["f"], op["type"]:
            case "run", _:
                told.began, told.node_timeout_s = op["at"], op["node_timeout_s"]
                told.seed, told.server = op["seed"], op["server"]
            case "send", "ok":
                told.acks[f"{op['log']} {op['by']}"].append(op["at"])
                told.counts[op["log"].partition(":")[0]][int(op["at"])] += len(op["values"])
            case "fault", "invoke":
                open_[op["id"]] = made = Made(op["name"], op["target"], op["at"], op["at"])
                round_.append(made)
            case "fault", "ok":
                open_[op["id"]].ended = op["at"]
            case "healed", _:
                for made in round_:
                    made.healed, made.alone = op["at"], len(round_) == 1
                told.faults += round_
                round_ = []
            case "ended", _:
                told.ended, told.codes = op["at"], op["codes"]
    return told


def pause(times: list[float], began: float, until: float) -> float:
    """The longest time without an acknowledgement that overlaps a span, counted from its begin."""
    at = max(0, bisect_right(times, began) - 1)
    longest = 0.0
    while at + 1 < len(times) and times[at] < until:
        longest = max(longest, times[at + 1] - max(times[at], began))
        at += 1
    return longest


def pauses(told: Story, made: Made) -> tuple[float, float, float]:
    """The worst pause of a writer in a partition: with acks=all, with acks=1, and with acks=all after healing."""

    def worst(topic: str, began: float, until: float) -> float:
        return max(
            (pause(times, began, until) for log, times in told.acks.items() if log.startswith(f"{topic}:")), default=0
        )

    end = max(made.ended, made.began + told.node_timeout_s) + 0.5
    after = max(
        (
            times[at] - made.healed
            for log, times in told.acks.items()
            if log.startswith(f"{ALL}:") and (at := bisect_right(times, made.healed)) < len(times)
        ),
        default=0.0,
    )
    return worst(ALL, made.began, end), worst(ONE, made.began, end), after


def limit_of(told: Story, made: Made) -> float | None:
    """The longest pause a fault may cost with acks=1; None where it takes every copy away, or the memory.

    None for a paused worker too: its clients learn nothing until their own request timeout, as of any silent broker.
    None for the master of a pair: nobody is promoted, so it is away for as long as the fault is held.
    """
    if made.name == "kill-worker":
        return 3.0
    if told.node_timeout_s and made.name in (
        "kill-master",
        "restart-master",
        "pause-master",
        "isolate-master",
        "failover",
        "failover-by-force",
    ):
        return told.node_timeout_s + 3.5
    return None


def drawing(told: Story) -> str:
    """The time line: a lane per kind of fault, and acknowledged records per second below."""
    names = sorted({made.name for made in told.faults})
    span = max(1.0, told.ended - told.began)
    height = LANE * len(names) + 2 * PLOT + 60

    def x(at: float) -> float:
        return LEFT + (WIDTH - LEFT - 10) * min(1.0, max(0.0, (at - told.began) / span))

    space = 'xmlns="http://www.w3.org/2000/svg"'
    parts = [f'<svg {space} viewBox="0 0 {WIDTH} {height}" font-size="11" font-family="system-ui">']
    for row, name in enumerate(names):
        y = 10 + row * LANE
        parts.append(f'<text x="{LEFT - 8}" y="{y + 10}" text-anchor="end">{name}</text>')
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{y + 7}" y2="{y + 7}" stroke="#eee"/>')
        colour = next((colour for word, colour in COLOURS.items() if word in name), "#2563eb")
        for made in told.faults:
            if made.name == name:
                wide = max(2.0, x(made.ended) - x(made.began))
                title = html.escape(f"{name} {made.target}: {made.ended - made.began:.1f} s")
                parts.append(
                    f'<rect x="{x(made.began):.1f}" y="{y + 2}" width="{wide:.1f}" height="10" fill="{colour}">'
                    f"<title>{title}</title></rect>"
                )
    top = 10 + LANE * len(names)
    for label, topic, colour in (("acks=all, records/s", ALL, "#15803d"), ("acks=1, records/s", ONE, "#2563eb")):
        counts = told.counts[topic]
        seconds = range(int(told.began), int(told.ended) + 1)
        highest = sorted(counts.values())[int(len(counts) * 0.98)] if counts else 1
        points = " ".join(
            f"{x(at + 0.5):.1f},{top + PLOT - (PLOT - 20) * min(1.0, counts.get(at, 0) / max(1, highest)):.1f}"
            for at in seconds
        )
        parts.append(f'<text x="{LEFT - 8}" y="{top + 30}" text-anchor="end">{label}</text>')
        parts.append(f'<text x="{LEFT - 8}" y="{top + 44}" text-anchor="end" fill="#6b7280">top: {highest}</text>')
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{top + PLOT}" y2="{top + PLOT}" stroke="#9ca3af"/>')
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.2"/>')
        top += PLOT + 8
    step = next(each for each in (5, 10, 30, 60, 120, 300, 600, 3600) if span / each <= 16)
    for at in range(0, int(span) + 1, step):
        label = f"{at} s" if step < 60 else f"{at // 60} min"
        anchor = "middle" if x(told.began + at) < WIDTH - 30 else "end"
        parts.append(f'<text x="{x(told.began + at):.1f}" y="{top + 12}" text-anchor="{anchor}">{label}</text>')
    return "\n".join([*parts, "</svg>"])


def pauses_rows(told: Story) -> tuple[list[list[str]], list[str]]:
    """The cells of a row per kind of fault, and in words what was too long."""
    rows, late = [], []
    kinds: dict[str, list[Made]] = defaultdict(list)
    for made in told.faults:
        kinds[made.name].append(made)
    for name, some in sorted(kinds.items()):
        alone = [made for made in some if made.alone]
        costs = [pauses(told, made) for made in alone]
        cells = [name, str(len(some)), str(len(alone))]
        for column in range(3):
            values = [cost[column] for cost in costs]
            cells += [f"{median(values):.1f}", f"{max(values):.1f}"] if values else ["", ""]
        limit = limit_of(told, some[0])
        cells.append("" if limit is None else f"{limit:.1f}")
        over = [cost[1] for cost in costs if limit is not None and cost[1] > limit]
        if over:
            late.append(f"{name}: {max(over):.1f} s without acks=1, the limit is {limit:.1f} s")
        rows.append(cells)
    return rows, late


def pauses_table(told: Story) -> tuple[str, list[str]]:
    """The same as a table."""
    rows, late = pauses_rows(told)
    head = (
        "<tr><th>fault</th><th>made</th><th>alone</th><th colspan=2>acks=all pause, s<br>median, longest</th>"
        "<th colspan=2>acks=1 pause, s<br>median, longest</th>"
        "<th colspan=2>acks=all, all copies back, s<br>median, longest</th><th>most allowed<br>with acks=1, s</th></tr>"
    )
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>" for cells in rows)
    return f"<table>{head}{body}</table>", late


def again(plan: Plan) -> str:
    """The command that chooses the same faults."""
    flags = " ".join([*(["--redis"] if plan.binary else []), *([] if plan.cluster else ["--single"])])
    return f"make faults SEED={plan.seed}" + (f' ARGS="{flags}"' if flags else "")


def conclusion(outcome: Outcome) -> str:
    """What a run has shown, in words: what must not be, what may be, and which clients did not end well."""
    verdict = outcome.verdict
    parts = [
        f"{verdict.counts['faults']} faults, {verdict.counts['acknowledged']:,} records acknowledged",
        HELD if verdict.valid else f"ANOMALIES: {_listed(verdict.fatal())}",
    ]
    if verdict.tolerated():
        parts.append(f"tolerated: {_listed(verdict.tolerated())}")
    parts += [f"{name} ended with {code}" for name, code in outcome.codes.items() if code != 0]
    return "; ".join(parts)


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def page(outcome: Outcome) -> tuple[str, list[str]]:
    """The report, and what took longer than it may."""
    told = story(read_history(outcome.history))
    plan, verdict, counts = outcome.plan, outcome.verdict, outcome.verdict.counts
    table, late = pauses_table(told)
    setup = f"{outcome.server}, " + (
        "three masters with a replica each" if plan.cluster else "a master and its replica"
    )
    word = f'<b class="good">{HELD}</b>' if outcome.valid else '<b class="bad">ANOMALIES</b>'
    found = "".join(
        f"<tr><td class={'bad' if each.fatal else ''}>{each.name}</td><td>{each.count}</td>"
        f"<td>{'forbidden' if each.fatal else 'tolerated'}</td>"
        f"<td style='text-align:left'>{'<br>'.join(map(html.escape, each.examples[:3]))}</td></tr>"
        for each in sorted(verdict.findings.values(), key=lambda each: not each.fatal)
    )
    bad = [f"{name} ended with {code}" for name, code in outcome.codes.items() if code != 0]
    notes = [*late, *bad, *(f"not made at times: {name}: {why}" for name, why in outcome.skipped.items())]
    return (
        f"""<!doctype html><meta charset=utf-8><title>Faults, seed {plan.seed}</title><style>{STYLE}</style>
<h1>Faults, seed {plan.seed}: {word}</h1>
<p>{setup}, {plan.workers} workers, {len(plan.clients)} clients, {told.ended - told.began:.0f} s,
<b>{counts["faults"]} faults</b>; {counts["acknowledged"]:,} records acknowledged, {counts["indefinite"]:,} sends
without a clear answer, {counts["stored"]:,} records in {counts["logs"]} logs at the end, {counts["read"]:,} read.
<code>{again(plan)}</code> chooses the same faults again.</p>
{drawing(told)}
<p>Red: a master, violet: a replica, orange: a worker, pink: a failover, blue: anything else. Below: records
acknowledged in each second; the highest two in a hundred are cut off at "top".</p>
<h2>How long it could not be written</h2>
<p>The worst pause of any writer in any partition, counted from the fault, where it was the only one of its round.
With acks=all and one
replica a shard that has lost a copy waits until it is back: the third pair of columns counts from there.</p>
{table}
<h2>Anomalies</h2>
<p>Tolerated is what a failover takes from the writer with acks=1, which has a topic of its own and was promised no
more, and what a member of a group passes over in its first poll after a rebalance.</p>
{f"<table><tr><th>name<th>count<th>policy<th>examples</tr>{found}</table>" if found else "<p>None.</p>"}
{"<h2>Notes</h2><ul>" + "".join(f"<li>{html.escape(each)}" for each in notes) + "</ul>" if notes else ""}
""",
        late,
    )
