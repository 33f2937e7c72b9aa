"""A picture of the overview dashboard, drawn from a Prometheus as SVG: `python -m grafana.picture --data FOLDER`.

For documents: no browser and no Grafana is needed. `--url` asks a running Prometheus, `--data` starts one on the data
that `python -m bench.soak --keep` left.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from grafana.panels import DASHBOARDS, Panel
from grafana.prometheus import Prometheus, filled

WIDTH, HEIGHT, STAT_HEIGHT, GAP, COLUMNS, STATS = 400, 200, 84, 12, 3, 4
INK, FAINT, GROUND, CARD = "#d8d9da", "#8e8e94", "#111217", "#181b1f"
COLOURS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#37872d", "#8ab8ff")
SERIES_MAX, POINTS = 8, 240

Series = tuple[str, list[tuple[float, float]]]


def ask(url: str, query: str, begin_s: float, end_s: float) -> list[Any]:
    """The series of a query over a time."""
    asked = urllib.parse.urlencode(
        {"query": filled(query), "start": begin_s, "end": end_s, "step": max(1, (end_s - begin_s) / POINTS)}
    )
    with urllib.request.urlopen(f"{url}/api/v1/query_range?{asked}", timeout=30) as answer:
        return list(json.load(answer)["data"]["result"])


def series_of(panel: Panel, url: str, begin_s: float, end_s: float) -> list[Series]:
    """Every line of a panel with its legend."""
    found = []
    for legend, query in panel.queries.items():
        for each in ask(url, query, begin_s, end_s):
            name = legend
            for label, value in each["metric"].items():
                name = name.replace("{{%s}}" % label, value)  # noqa: UP031
            points = [(float(at), float(value)) for at, value in each["values"]]
            found.append((name, [point for point in points if math.isfinite(point[1])]))
    highest = sorted((each for each in found if each[1]), key=lambda each: -max(value for _, value in each[1]))
    return highest[:SERIES_MAX] if len(found) > SERIES_MAX else [each for each in found if each[1]]


def shown(value: float, unit: str) -> str:
    """A number as people read it."""
    if unit == "s":
        return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"
    steps = ("B", "KiB", "MiB", "GiB") if unit in ("bytes", "Bps") else ("", "k", "M", "G")
    base = 1024 if steps[0] else 1000
    power = min(len(steps) - 1, int(math.log(abs(value), base))) if abs(value) >= base else 0
    return f"{value / base**power:.3g} {steps[power]}{'/s' if unit == 'Bps' else ''}".strip()


def chart(panel: Panel, lines: list[Series], x: float, y: float, begin_s: float, end_s: float) -> Iterator[str]:
    """One panel of lines."""
    yield f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="4" fill="{CARD}"/>'
    yield f'<text x="{x + 12}" y="{y + 22}" fill="{INK}" font-size="13" font-weight="600">{escape(panel.title)}</text>'
    left, top, wide, high = x + 62, y + 36, WIDTH - 76, HEIGHT - 84
    highest = max((value for _, points in lines for _, value in points), default=0) * 1.1 or 1
    for step in range(4):
        level = top + high * (1 - step / 3)
        yield f'<path d="M{left} {level:.1f}h{wide}" stroke="#2c3235"/>'
        label = shown(highest * step / 3, panel.unit)
        yield f'<text x="{left - 6}" y="{level + 4:.1f}" fill="{FAINT}" font-size="10" text-anchor="end">{label}</text>'
    if not lines:
        middle = f'x="{left + wide / 2}" y="{top + high / 2}"'
        yield f'<text {middle} fill="{FAINT}" font-size="12" text-anchor="middle">none</text>'
    place = left
    for colour, (name, points) in zip(COLOURS, lines, strict=False):
        path = " ".join(
            f"{left + wide * (at - begin_s) / (end_s - begin_s):.1f},{top + high * (1 - value / highest):.1f}"
            for at, value in points
        )
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        if place + 6 * len(name) + 24 < x + WIDTH:
            yield f'<rect x="{place}" y="{y + HEIGHT - 18}" width="10" height="3" fill="{colour}"/>'
            yield f'<text x="{place + 14}" y="{y + HEIGHT - 13}" fill="{FAINT}" font-size="10">{escape(name)}</text>'
        place += 6 * len(name) + 28
    for share, anchor in ((0, "start"), (1, "end")):
        told = time.strftime("%H:%M:%S", time.gmtime(begin_s + share * (end_s - begin_s)))
        at = f'x="{left + share * wide}" y="{top + high + 14}"'
        yield f'<text {at} fill="{FAINT}" font-size="10" text-anchor="{anchor}">{told}</text>'


def stat(panel: Panel, lines: list[Series], x: float, y: float, width: float) -> Iterator[str]:
    """One large figure."""
    value = shown(lines[0][1][-1][1], panel.unit) if lines else "none"
    yield f'<rect x="{x}" y="{y}" width="{width}" height="{STAT_HEIGHT}" rx="4" fill="{CARD}"/>'
    yield f'<text x="{x + 12}" y="{y + 22}" fill="{INK}" font-size="13" font-weight="600">{escape(panel.title)}</text>'
    middle = x + width / 2
    yield f'<text x="{middle}" y="{y + 66}" fill="{COLOURS[0]}" font-size="34" text-anchor="middle">{value}</text>'


def draw(url: str, begin_s: float, end_s: float, board: str = "overview") -> str:
    """The dashboard as SVG."""
    panels = DASHBOARDS[board]
    stats, charts = [each for each in panels if each.stat], [each for each in panels if not each.stat]
    whole = COLUMNS * WIDTH + (COLUMNS + 1) * GAP
    body: list[str] = []
    width = (whole - (STATS + 1) * GAP) / STATS
    for at, panel in enumerate(stats):
        body += stat(panel, series_of(panel, url, begin_s, end_s), GAP + at * (width + GAP), GAP, width)
    y = float(2 * GAP + STAT_HEIGHT if stats else GAP)
    for at, panel in enumerate(charts):
        x, row = GAP + at % COLUMNS * (WIDTH + GAP), at // COLUMNS
        place = y + row * (HEIGHT + GAP)
        body += chart(panel, series_of(panel, url, begin_s, end_s), x, place, begin_s, end_s)
    height = y + -(-len(charts) // COLUMNS) * (HEIGHT + GAP)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole} {height}" font-family="sans-serif">'
    return "\n".join([head, f'<rect width="100%" height="100%" fill="{GROUND}"/>', *body, "</svg>\n"])


def main() -> None:
    """Draw what the command line asks for."""
    parser = argparse.ArgumentParser(description="A picture of a dashboard.")
    parser.add_argument("--url", help="a running Prometheus")
    parser.add_argument("--data", type=Path, help="the folder that bench.soak kept")
    parser.add_argument("--board", default="overview", choices=DASHBOARDS)
    parser.add_argument("--out", type=Path, default=Path("docs/overview.svg"))
    asked = parser.parse_args()
    with contextlib.ExitStack() as stack:
        url = asked.url or stack.enter_context(Prometheus(asked.data, [])).url
        begin_s, end_s = seen(url)
        asked.out.write_text(draw(url, begin_s, end_s, asked.board))


def seen(url: str) -> tuple[float, float]:
    """The first and the last scrape of the last day."""
    now_s = time.time()
    found = ask(url, "timestamp(up)", now_s - 86_400, now_s)
    around = [float(at) for each in found for _, at in each["values"]]
    if not around:
        raise SystemExit("nothing was scraped within the last day")
    # A day in so few steps is coarse: look at its beginning once more, closely.
    first = ask(url, "timestamp(up)", min(around) - 86_400 / POINTS, min(around))
    return min(float(at) for each in first for _, at in each["values"]), max(around)


if __name__ == "__main__":
    main()
