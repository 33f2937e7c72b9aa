"""The picture of a dashboard: figures as people read them, and well-formed SVG whatever the labels hold."""

from __future__ import annotations

import xml.etree.ElementTree as xml

import pytest

from grafana import picture
from grafana.panels import DASHBOARDS


@pytest.mark.parametrize(
    ("value", "unit", "told"),
    [
        (0, "short", "0"),
        (1_234, "short", "1.23 k"),
        (1_048_576, "Bps", "1 MiB/s"),
        (0.0123, "s", "12.3 ms"),
        (90, "s", "90 s"),
    ],
)
def test_figures_are_short(value: float, unit: str, told: str) -> None:
    assert picture.shown(value, unit) == told


@pytest.mark.parametrize("board", DASHBOARDS)
def test_every_dashboard_can_be_drawn(monkeypatch: pytest.MonkeyPatch, board: str) -> None:
    labels = dict.fromkeys(("group", "api", "error", "node", "topic", "instance"), "<&>")
    monkeypatch.setattr(picture, "ask", lambda *_: [{"metric": labels, "values": [[1, "1"], [2, "NaN"], [3, "5"]]}])
    drawn = picture.draw("http://nowhere", 1, 3, board)
    titles = {each.text for each in xml.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")}
    assert {panel.title for panel in DASHBOARDS[board]} <= titles
