"""What one worker counts, and how Prometheus reads it.

The hot path only adds to plain integers in cells that are looked up once per API; a scrape turns the cells into
Prometheus' families. (`prometheus_client`'s own counters take a lock per call and cost ten times as much.) The library
is imported by the first scrape, so a worker without an HTTP port never loads it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from redbroker.errors import ErrorCode

if TYPE_CHECKING:
    from prometheus_client.core import Metric

__all__ = ["LATENCY_BOUNDS_S", "Metrics", "RequestCells"]

LATENCY_BOUNDS_S = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip


class RequestCells:
    """The counts of one API: requests by error code, and the histogram of their seconds."""

    __slots__ = ("buckets", "by_error", "seconds")

    def __init__(self) -> None:
        self.by_error: dict[int, int] = {}
        self.buckets = [0] * (len(LATENCY_BOUNDS_S) + 1)
        self.seconds = 0.0

    def done(self, error_code: int, seconds: float) -> None:
        """Count one answered request."""
        self.by_error[error_code] = self.by_error.get(error_code, 0) + 1
        self.buckets[bisect_left(LATENCY_BOUNDS_S, seconds)] += 1
        self.seconds += seconds


class Metrics:
    """All counts of one worker. `gauges` are read when scraped: name -> (help, function)."""

    def __init__(self) -> None:
        self.requests: dict[str, RequestCells] = {}
        self.bytes_received = 0
        self.bytes_sent = 0
        self.connections_accepted = 0
        self.connections_refused = 0
        self.connections_closed: dict[str, int] = {}
        self.loop_lag_s = 0.0
        self.gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "redbroker_event_loop_lag_seconds": ("Delay of a due timer, last seen.", lambda: self.loop_lag_s)
        }

    def api(self, name: str) -> RequestCells:
        """The cells of one API, made when first asked for."""
        cells = self.requests.get(name)
        if cells is None:
            cells = self.requests[name] = RequestCells()
        return cells

    def closed(self, reason: str) -> None:
        """Count one connection closed by us; `reason` is one of a few fixed words."""
        self.connections_closed[reason] = self.connections_closed.get(reason, 0) + 1

    def collect(self) -> Iterator[Metric]:
        """Prometheus' families of all counts (the collector protocol of `prometheus_client`)."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        requests = CounterMetricFamily("redbroker_requests", "Requests answered.", labels=["api", "error"])
        seconds = HistogramMetricFamily("redbroker_request_seconds", "From frame to answer.", labels=["api"])
        for name, cells in list(self.requests.items()):
            for code, count in list(cells.by_error.items()):
                requests.add_metric([name, error_name(code)], count)
            seconds.add_metric([name], list(cumulated(cells.buckets)), cells.seconds)
        yield requests
        yield seconds
        closed = CounterMetricFamily("redbroker_connections_closed", "Connections closed by us.", labels=["reason"])
        for reason, count in list(self.connections_closed.items()):
            closed.add_metric([reason], count)
        yield closed
        for name, text, value in (
            ("redbroker_bytes_received", "Bytes of request frames.", self.bytes_received),
            ("redbroker_bytes_sent", "Bytes of response frames.", self.bytes_sent),
            ("redbroker_connections_accepted", "Connections accepted.", self.connections_accepted),
            ("redbroker_connections_refused", "Connections refused at connections_max.", self.connections_refused),
        ):
            yield CounterMetricFamily(name, text, value=value)
        for name, (text, read) in self.gauges.items():
            yield GaugeMetricFamily(name, text, value=read())

    def text(self) -> bytes:
        """One scrape in Prometheus' text format, the process's own figures included."""
        from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

        registry: Any = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=registry)
        registry.register(self)
        return bytes(generate_latest(registry))


def cumulated(buckets: list[int]) -> Iterator[tuple[str, float]]:
    """Prometheus' form of a histogram: (upper bound, how many are not above it)."""
    total = 0
    for bound, count in zip((*map(str, LATENCY_BOUNDS_S), "+Inf"), buckets, strict=True):
        total += count
        yield bound, total


def error_name(code: int) -> str:
    """`NONE`, `NOT_COORDINATOR`, …; the number itself when it is no code of Kafka's."""
    try:
        return ErrorCode(code).name
    except ValueError:
        return str(code)
