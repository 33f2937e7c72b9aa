"""A real Prometheus on a free port, with the rules of grafana/alerts.yml; stopped by its process id."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ALERTS = Path(__file__).with_name("alerts.yml")
INTERVAL = {"$__rate_interval": "20s", "$__range": "60s", "$topic": ".*", "$group": ".*", "$instance": ".*"}
"""What Grafana puts in place of its variables."""


def filled(query: str) -> str:
    """A query with something in place of Grafana's variables."""
    for name, value in INTERVAL.items():
        query = query.replace(name, value)
    return query


def free_port() -> int:
    """A port nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def prometheus_binary() -> str | None:
    """Debian's package `prometheus`, if it is installed."""
    return shutil.which("prometheus")


class Prometheus:
    """`with Prometheus(folder, ["127.0.0.1:9644"]) as prometheus:` scrapes these every second."""

    def __init__(self, folder: Path, targets: Sequence[str], apps: Sequence[str] = ()) -> None:
        self.folder, self.targets, self.apps, self.port = folder, list(targets), list(apps), free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Prometheus:
        self.scrape(self.targets)
        configuration = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(ALERTS)],
            "scrape_configs": [
                {"job_name": "redbroker", "file_sd_configs": [{"files": [str(self.folder / "targets.json")]}]},
                {"job_name": "redbroker-apps", "static_configs": [{"targets": self.apps}]},
            ],
        }
        (self.folder / "prometheus.yml").write_text(json.dumps(configuration))
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [prometheus_binary() or "prometheus", f"--config.file={self.folder}/prometheus.yml",
                 f"--storage.tsdb.path={self.folder}/data", f"--web.listen-address=127.0.0.1:{self.port}"],
                stdout=log, stderr=log,
            )  # fmt: skip
        self.wait_for("vector(1)", 30)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)

    def scrape(self, targets: Sequence[str]) -> None:
        """Scrape these from now on."""
        (self.folder / "targets.json").write_text(json.dumps([{"targets": list(targets)}]))

    def get(self, what: str, **asked: object) -> Any:
        """One call of Prometheus' API."""
        url = f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(asked)}"
        with urllib.request.urlopen(url, timeout=20) as answer:
            return json.load(answer)["data"]

    def values(self, query: str) -> list[float]:
        """The values of a query now."""
        return [float(each["value"][1]) for each in self.get("query", query=filled(query))["result"]]

    def over(self, query: str, begin_s: float, end_s: float) -> list[float]:
        """The values of a query over a time, a second apart."""
        found = self.get("query_range", query=filled(query), start=begin_s, end=end_s, step=1)["result"]
        return [float(value) for each in found for _, value in each["values"]]

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def wait_for(self, query: str, timeout_s: float) -> None:
        """Wait until a query gives something."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                if self.values(query):
                    return
            except OSError:
                pass
            time.sleep(0.3)
        raise TimeoutError(f"{query} gave nothing within {timeout_s} s; see {self.folder}/log")
