"""An app's figures for Prometheus; nothing is counted for them that is not counted anyway.

    registry = CollectorRegistry()
    app.metrics(registry)                       # prometheus_client.start_http_server(9100, registry=registry)

A scrape that comes in another thread than the app's is answered by the app's event loop, which alone may look at its
consumers; where that does not answer in time, `redbroker_client_up` is 0 and the other figures are left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from redbroker.client.app import RedBroker

__all__ = ["AppMetrics"]

Figures = tuple[dict[str, Any], tuple[dict[str, int], dict[str, int]]]

ANSWER_S = 2.0
"""A scrape waits this long for the app's event loop; Prometheus's own limit is 10 s."""

OF_SUBSCRIPTION = ("topic", "group")
COUNTERS = {
    "handled": "Records whose handler returned.",
    "retried": "Records put into a retry topic after their handler failed.",
    "dead": "Records put into the dead-letter topic.",
    "skipped": "Records that could not be decoded and were passed over.",
}
GAUGES = {
    "lag_records": ("lag_records", "Records behind the last ones taken up, by the log ends as last heard of."),
    "lag_s": ("lag_seconds", "Age of the oldest record not taken up."),
    "partitions": ("partitions", "Partitions this member has."),
    "in_flight": ("in_flight_records", "Records taken up and not done with."),
    "oldest_s": ("oldest_handler_seconds", "How long the oldest running handler has had its record."),
}


class AppMetrics(Collector):
    """What `RedBroker.metrics` registers: `redbroker_client_…`, by topic and group; one app per registry."""

    def __init__(self, app: RedBroker) -> None:
        self._app = app

    def describe(self) -> Iterable[Metric]:
        """The names, which need no running app."""
        return self._families(None)

    def collect(self) -> Iterable[Metric]:
        """The figures of this moment."""
        return self._families(self._read())

    def _read(self) -> Figures | None:
        loop = self._app.loop
        if loop is None:
            return None
        if running_loop() is loop:
            return self._figures()
        asked = self._ask()
        try:
            answer = asyncio.run_coroutine_threadsafe(asked, loop)
        except RuntimeError:  # closed meanwhile
            asked.close()
            return None
        try:
            return answer.result(ANSWER_S)
        except (TimeoutError, CancelledError):  # blocked, or closing
            answer.cancel()
            return None

    async def _ask(self) -> Figures:
        return self._figures()

    def _figures(self) -> Figures:
        """Every topic that is declared or was sent to has both counts from the start: a rise from nothing is none."""
        counts = self._app.counts()
        topics = sorted({*self._app.topics, *counts[0], *counts[1]})
        sent, failed = ({topic: each.get(topic, 0) for topic in topics} for each in counts)
        return self._app.health(), (sent, failed)

    def _families(self, figures: Figures | None) -> list[Metric]:
        up = GaugeMetricFamily("redbroker_client_up", "1 while the app runs and its event loop answers.")
        up.add_metric((), float(figures is not None))
        healthy = GaugeMetricFamily("redbroker_client_healthy", "1 while nothing has failed and nothing is stuck.")
        sent, failed = (
            CounterMetricFamily(f"redbroker_client_records_{name}", told, labels=("topic",))
            for name, told in (("sent", "Records stored."), ("failed", "Records that could not be delivered."))
        )
        counters = {
            name: CounterMetricFamily(f"redbroker_client_records_{name}", told, labels=OF_SUBSCRIPTION)
            for name, told in COUNTERS.items()
        }
        gauges = {
            name: GaugeMetricFamily(f"redbroker_client_{called}", told, labels=OF_SUBSCRIPTION)
            for name, (called, told) in GAUGES.items()
        }
        if figures is not None:
            health, counts = figures
            healthy.add_metric((), float(health["healthy"]))
            for family, by_topic in zip((sent, failed), counts, strict=True):
                for topic, count in by_topic.items():
                    family.add_metric((topic,), count)
            for each in health["subscriptions"]:
                labels = (each["topic"], each["group"])
                for name, metric in (counters | gauges).items():
                    metric.add_metric(labels, each[name])
        return [up, healthy, sent, failed, *counters.values(), *gauges.values()]


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop of this thread, if one runs."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
