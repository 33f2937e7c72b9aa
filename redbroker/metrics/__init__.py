"""What is counted, and the text that Prometheus reads: plain integers on the hot path, formatted only when scraped."""

from __future__ import annotations

from redbroker.metrics.cells import LATENCY_BOUNDS_S, Histogram, Metrics, RequestCells, StorageCells, TopicCells
from redbroker.metrics.text import Text, labelled

__all__ = [
    "LATENCY_BOUNDS_S", "Histogram", "Metrics", "RequestCells", "StorageCells", "Text", "TopicCells", "labelled",
]  # fmt: skip
