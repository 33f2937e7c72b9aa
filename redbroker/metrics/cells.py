"""What one worker counts: plain integers in cells that are looked up once.

The hot path only adds; a scrape turns the cells into text. (`prometheus_client`'s own counters take a lock per call
and cost ten times as much; the library is imported by the first scrape, for the process's figures alone.)
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Any

from redbroker.errors import ErrorCode
from redbroker.metrics.text import Text, labelled

LATENCY_BOUNDS_S = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip

OTHER_TOPICS = "_other"
"""Where topics beyond `metrics_topics_max` are counted together; no topic of a client's is called so by accident."""


class Histogram:
    """How long something took, in buckets."""

    __slots__ = ("buckets", "seconds")

    def __init__(self) -> None:
        self.buckets = [0] * (len(LATENCY_BOUNDS_S) + 1)
        self.seconds = 0.0

    def took(self, seconds: float) -> None:
        """Count one."""
        self.buckets[bisect_left(LATENCY_BOUNDS_S, seconds)] += 1
        self.seconds += seconds

    def told(self) -> tuple[Iterator[tuple[str, float]], float]:
        """What `Text.histogram` takes."""
        return cumulated(self.buckets), self.seconds


class RequestCells(Histogram):
    """The counts of one API: requests by error code, and the histogram of their seconds."""

    __slots__ = ("by_error",)

    def __init__(self) -> None:
        super().__init__()
        self.by_error: dict[int, int] = {}

    def done(self, error_code: int, seconds: float) -> None:
        """Count one answered request."""
        self.by_error[error_code] = self.by_error.get(error_code, 0) + 1
        self.buckets[bisect_left(LATENCY_BOUNDS_S, seconds)] += 1
        self.seconds += seconds


class TopicCells:
    """What went into a topic through this worker (duplicates are not counted again), and out of it."""

    __slots__ = ("batches_in", "bytes_in", "bytes_out", "records_in", "records_out")

    def __init__(self) -> None:
        self.batches_in = self.records_in = self.bytes_in = self.records_out = self.bytes_out = 0


class StorageCells:
    """What the engine's way to Redis counts: redirects, lost connections, waits for replicas."""

    __slots__ = ("connected", "lost", "refusals", "waits", "waits_short")

    def __init__(self) -> None:
        self.refusals: dict[str, int] = {}  # MOVED, ASK, NOSCRIPT, TRYAGAIN, … -> how many
        self.connected = self.lost = self.waits_short = 0
        self.waits = Histogram()

    def write(self, text: Text) -> None:
        """Append the families."""
        text.family(
            "redbroker_redis_refusals_total", "counter", "Calls that Redis redirected or refused, by its first word.",
            [(labelled(error=word), count) for word, count in list(self.refusals.items())],
        )  # fmt: skip
        text.family(
            "redbroker_redis_connections_opened_total", "counter", "Connections to Redis that were opened.",
            [("", self.connected)],
        )  # fmt: skip
        text.family(
            "redbroker_redis_connections_lost_total", "counter", "Connections to Redis that were lost.",
            [("", self.lost)],
        )  # fmt: skip
        text.histogram(
            "redbroker_replication_wait_seconds", "Waits for replicas (acks=all), from WAIT to its answer.",
            {"": self.waits.told()},
        )  # fmt: skip
        text.family(
            "redbroker_replication_waits_short_total", "counter", "Appends that too few replicas had in time.",
            [("", self.waits_short)],
        )  # fmt: skip


class Metrics:
    """All counts of one worker. `gauges` and `counters` are read when scraped: name -> (help, function)."""

    def __init__(self, topics_max: int = 1_000) -> None:
        self.requests: dict[str, RequestCells] = {}
        self.topics: dict[str, TopicCells] = {}
        self.topics_max = topics_max
        self.bytes_received = 0
        self.bytes_sent = 0
        self.connections_accepted = 0
        self.connections_refused = 0
        self.connections_closed: dict[str, int] = {}
        self.loop_lag_s = 0.0
        self.loop_lag = Histogram()
        self.gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "redbroker_event_loop_lag_seconds": ("Delay of a due timer, last seen.", lambda: self.loop_lag_s)
        }
        self.counters: dict[str, tuple[str, Callable[[], float]]] = {
            "redbroker_bytes_received_total": ("Bytes of request frames.", lambda: self.bytes_received),
            "redbroker_bytes_sent_total": ("Bytes of response frames.", lambda: self.bytes_sent),
            "redbroker_connections_accepted_total": ("Connections accepted.", lambda: self.connections_accepted),
            "redbroker_connections_refused_total": (
                "Connections refused at connections_max.", lambda: self.connections_refused,
            ),
        }  # fmt: skip

    def api(self, name: str) -> RequestCells:
        """The cells of one API, made when first asked for."""
        cells = self.requests.get(name)
        if cells is None:
            cells = self.requests[name] = RequestCells()
        return cells

    def topic(self, name: str) -> TopicCells:
        """The cells of one topic; all topics beyond `topics_max` share one."""
        cells = self.topics.get(name)
        if cells is None:
            if len(self.topics) >= self.topics_max:
                return self.topics.setdefault(OTHER_TOPICS, TopicCells())
            cells = self.topics[name] = TopicCells()
        return cells

    def late(self, seconds: float) -> None:
        """A timer of the event loop came so late."""
        self.loop_lag_s = seconds
        self.loop_lag.took(seconds)

    def closed(self, reason: str) -> None:
        """Count one connection closed by us; `reason` is one of a few fixed words."""
        self.connections_closed[reason] = self.connections_closed.get(reason, 0) + 1

    def write(self, text: Text) -> None:
        """Append all families."""
        requests = list(self.requests.items())
        text.family(
            "redbroker_requests_total", "counter", "Requests answered.",
            [
                (labelled(api=name, error=error_name(code)), count)
                for name, cells in requests
                for code, count in list(cells.by_error.items())
            ],
        )  # fmt: skip
        text.histogram(
            "redbroker_request_seconds", "From frame to answer.",
            {labelled(api=name): cells.told() for name, cells in requests},
        )  # fmt: skip
        topics = [(labelled(topic=name), cells) for name, cells in list(self.topics.items())]
        for field, help_ in TOPIC_FAMILIES.items():
            text.family(
                f"redbroker_topic_{field}_total", "counter", help_,
                [(labels, getattr(cells, field)) for labels, cells in topics],
            )  # fmt: skip
        text.family(
            "redbroker_connections_closed_total", "counter", "Connections closed by us.",
            [(labelled(reason=reason), count) for reason, count in list(self.connections_closed.items())],
        )  # fmt: skip
        text.histogram("redbroker_event_loop_delay_seconds", "Delay of due timers.", {"": self.loop_lag.told()})
        for name, (help_, read) in self.counters.items():
            text.family(name, "counter", help_, [("", read())])
        for name, (help_, read) in self.gauges.items():
            text.family(name, "gauge", help_, [("", read())])

    def text(self) -> bytes:
        """This worker's own figures in Prometheus' text format, the process's included."""
        text = Text()
        self.write(text)
        return text.encode() + process_text()


TOPIC_FAMILIES = {
    "batches_in": "Record batches stored.",
    "records_in": "Records stored.",
    "bytes_in": "Bytes of record batches stored.",
    "records_out": "Records in the batches that were fetched, by their offsets.",
    "bytes_out": "Bytes of record batches fetched.",
}


def process_text() -> bytes:
    """CPU, memory and open files of this process, as `prometheus_client` tells them."""
    from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

    registry: Any = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
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
