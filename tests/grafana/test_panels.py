"""Every panel and every alert asks a real Prometheus, and gets an answer; it scrapes workers and an app under load."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.load import Load
from examples.processes import Process, stop_all
from grafana.__main__ import files
from grafana.panels import ALERTS, DASHBOARDS
from grafana.prometheus import Prometheus, prometheus_binary
from tests.support.app_load import AppLoad
from tests.support.servers import Server

ROOT = Path(__file__).parents[2]
QUERIES = {
    f"{board}: {panel.title} ({legend})": query
    for board, panels in DASHBOARDS.items()
    for panel in panels
    for legend, query in panel.queries.items()
}
EMPTY = {
    "overview: Errors told to clients ({{api}} {{error}})": "there are errors only where something goes wrong",
    "redis: Redirects and refusals ({{error}})": "one Redis redirects nobody",
    "workers: Closed by us ({{reason}})": "no client was idle for long",
    "redis: Replica lag ({{node}})": "there are no replicas here",
    "redis: Waits for replicas, p99 ({{instance}})": "there are no replicas here",
}
"""Panels that may be empty, and why."""


def test_generated_files_are_up_to_date() -> None:
    for path, text in files().items():
        assert path.read_text() == text, f"{path} is out of date: make dashboards"


def test_every_alert_has_its_runbook() -> None:
    headings = set(re.findall(r"^#+ (\w+)$", (ROOT / "docs" / "operating.md").read_text(), re.M))
    assert {alert.name for alert in ALERTS} <= headings


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool (Debian's package prometheus) is not installed")
def test_prometheus_takes_the_configuration_and_the_rules() -> None:
    for words in (["config", "grafana/prometheus.yml"], ["rules", "grafana/alerts.yml"]):
        done = subprocess.run(["promtool", "check", *words], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus, two workers, a producer and a group, and an app of the SDK, long enough for rates."""
    if prometheus_binary() is None:
        pytest.skip("prometheus (Debian's package) is not installed")
    processes: list[Process] = []
    with Server("--appendonly", "yes") as valkey:
        try:
            words = ("worker", "--storage", valkey.url, "--port", "0", "--http-port", "0")
            processes.append(Process(*words))
            processes.append(Process(*words))
            targets = [process.http for process in processes]
            folder = tmp_path_factory.mktemp("prometheus")
            with (
                AppLoad(valkey.url) as app,
                Prometheus(folder, targets, [app.http]) as running,
                Load(processes[0].address, "orders", 4) as load,
            ):
                running.wait_for("sum(rate(redbroker_client_records_retried_total[20s])) > 0", 60)
                running.wait_for("count(rate(redbroker_topic_records_out_total[20s]) > 0) > 0", 60)
                running.wait_for("count(redbroker_group_committed_offset > 0) > 0", 60)
                running.wait_for("min(count_over_time(redbroker_worker_ready[20s])) >= 5", 60)
                assert load.received
                yield running
        finally:
            stop_all(processes)


@pytest.mark.system
@pytest.mark.parametrize("name", QUERIES)
def test_a_panel_shows_something(prometheus: Prometheus, name: str) -> None:
    found = prometheus.values(QUERIES[name])
    assert name in EMPTY or [value for value in found if math.isfinite(value)], QUERIES[name]


@pytest.mark.system
@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_looks_at_something_that_is_there(prometheus: Prometheus, alert: Any) -> None:
    """Without its comparison an alert's query has data; with it, on a healthy cluster, it is silent."""
    prometheus.values(alert.query)
    for metric in set(re.findall(r"\b((?:redbroker|kafka)_\w+|up)\b(?=[{\[\s)]|$)", alert.query)):
        assert prometheus.values(f"count({metric})"), f"{alert.name} asks for {metric}, which nobody tells"


@pytest.mark.system
def test_a_healthy_cluster_is_silent(prometheus: Prometheus) -> None:
    rules = prometheus.get("rules")["groups"][0]["rules"]
    assert len(rules) == len(ALERTS)
    assert not [rule["name"] for rule in rules if rule["state"] == "firing" or rule["health"] == "err"]


@pytest.mark.system
def test_lag_is_not_multiplied_by_the_number_of_workers(prometheus: Prometheus) -> None:
    assert prometheus.values("count(redbroker_partition_end_offset)") == [4.0]
    assert prometheus.values("sum(kafka_brokers)") == [2.0]


RETRIES = [
    f'redbroker_client_records_{what}_total{{topic="t", group="g"}} 0+{each}x40'
    for what, each in (("retried", 2), ("handled", 8))
]


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool (Debian's package prometheus) is not installed")
@pytest.mark.parametrize(
    ("alert", "series", "minutes"),
    [
        ("AppDown", ['up{job="redbroker-apps", instance="a"} 1 0x20'], 5),
        ("AppDown", ['redbroker_client_up{instance="a"} 1 0x20'], 5),
        ("AppUnhealthy", ['redbroker_client_healthy{instance="a"} 1 0x20'], 5),
        ("AppLagsBehind", ['redbroker_client_lag_seconds{topic="t", group="g"} 0+60x40'], 30),
        ("AppBuriesRecords", ['redbroker_client_records_dead_total{topic="t", group="g"} 0x5 1x20'], 8),
        ("AppSkipsRecords", ['redbroker_client_records_skipped_total{topic="t", group="g"} 0x5 1x20'], 8),
        ("AppRetriesOften", RETRIES, 30),
        ("AppCannotSend", ['redbroker_client_records_failed_total{topic="t", instance="a"} 0x5 1x20'], 8),
    ],
)
def test_an_alert_about_apps_fires_when_it_should(tmp_path: Path, alert: str, series: list[str], minutes: int) -> None:
    """Silent in its first minutes, firing afterwards; told by Prometheus' own tester of rules."""
    several = []
    for each in series:
        name, values = each.split("} ", 1)
        several.append({"series": name + "}", "values": values})
    rules = {
        "rule_files": [str(ROOT / "grafana" / "alerts.yml")],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": several,
                "promql_expr_test": [
                    {"expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})', "eval_time": f"{at}m",
                     "exp_samples": [{"value": 1}] if at else []}
                    for at in (0, minutes)
                ],
            }
        ],
    }  # fmt: skip
    (tmp_path / "rules.yml").write_text(json.dumps(rules))
    words = ["promtool", "test", "rules", str(tmp_path / "rules.yml")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
