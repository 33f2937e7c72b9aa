"""Writes dashboards/*.json and alerts.yml from panels.py: `python -m grafana`. A test fails when one is out of date."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from grafana.panels import ALERTS, DASHBOARDS, Panel

HERE = Path(__file__).parent
RUNBOOK = "docs/operating.md#"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
VARIABLES = {
    "topic": "redbroker_partition_end_offset",
    "group": "redbroker_group_members",
    "instance": "redbroker_worker_ready",
}
OF_APPS = {
    "topic": "redbroker_client_records_sent_total",
    "group": "redbroker_client_partitions",
    "instance": "redbroker_client_up",
}


def dashboard(name: str) -> dict[str, Any]:
    """One dashboard as Grafana's JSON model: three panels a row, single figures four."""
    panels, x, y, row = [], 0, 0, 0
    variables = OF_APPS if name == "apps" else VARIABLES
    for number, each in enumerate(DASHBOARDS[name], 1):
        width, height = (6, 4) if each.stat else (8, 8)
        if x + width > 24:
            x, y, row = 0, y + row, 0
        panels.append(panel(each, number, {"x": x, "y": y, "w": width, "h": height}))
        x, row = x + width, max(row, height)
    return {
        "uid": f"redbroker-{name}",
        "title": f"RedBroker {name}",
        "tags": ["redbroker"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [SOURCE_VARIABLE, *(variable(*each) for each in variables.items())]},
        "links": [{"type": "dashboards", "tags": ["redbroker"], "title": "RedBroker", "asDropdown": False}],
        "panels": panels,
    }


SOURCE_VARIABLE = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}


def variable(name: str, metric: str) -> dict[str, Any]:
    """A variable with every value that a label has."""
    query = f"label_values({metric}, {name})"
    return {
        "name": name, "type": "query", "datasource": SOURCE, "query": {"query": query, "refId": name},
        "definition": query, "refresh": 2, "includeAll": True, "multi": True, "allValue": ".*",
        "current": {"text": "All", "value": "$__all"}, "sort": 1,
    }  # fmt: skip


def panel(each: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    """One panel."""
    return {
        "id": number,
        "type": "stat" if each.stat else "timeseries",
        "title": each.title,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {
            "defaults": {"unit": each.unit, "min": 0, "custom": {"fillOpacity": 8, "showPoints": "never"}},
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(65 + place), "datasource": SOURCE, "expr": query, "legendFormat": legend}
            for place, (legend, query) in enumerate(each.queries.items())
        ],
    }


def alerts() -> str:
    """alerts.yml; strings are written as JSON, which YAML reads."""
    lines = ["# Made from grafana/panels.py by `python -m grafana`.", "groups:", "  - name: redbroker", "    rules:"]
    for each in ALERTS:
        lines += [
            f"      - alert: {each.name}",
            f"        expr: {json.dumps(each.query)}",
            f"        for: {each.lasting}",
            f"        labels: {{severity: {each.severity}}}",
            f"        annotations: {{summary: {json.dumps(each.summary)}, runbook: {RUNBOOK}{each.name.lower()}}}",
        ]
    return "\n".join(lines) + "\n"


def files() -> dict[Path, str]:
    """Every generated file and what belongs in it."""
    made = {HERE / "dashboards" / f"{name}.json": json.dumps(dashboard(name), indent=1) + "\n" for name in DASHBOARDS}
    return made | {HERE / "alerts.yml": alerts()}


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text)
