"""What a scrape shows is what was counted."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from redbroker.metrics import Metrics


def scraped(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of one scrape, by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def test_requests_are_told_by_api_and_error_name() -> None:
    metrics = Metrics()
    for code in (0, 0, 16, 9_999):
        metrics.api("Fetch").done(code, 0.001)
    samples = scraped(metrics)
    for error, count in (("NONE", 2), ("NOT_COORDINATOR", 1), ("9999", 1)):
        assert samples["redbroker_requests_total", (("api", "Fetch"), ("error", error))] == count


def test_the_latency_histogram_is_cumulative() -> None:
    metrics = Metrics()
    for seconds in (0.0001, 0.0002, 0.3, 99.0):
        metrics.api("Produce").done(0, seconds)
    samples = scraped(metrics)

    def bucket(bound: str) -> float:
        return samples["redbroker_request_seconds_bucket", (("api", "Produce"), ("le", bound))]

    assert [bucket("0.0001"), bucket("0.00025"), bucket("0.25"), bucket("0.5"), bucket("+Inf")] == [1, 2, 2, 3, 4]
    assert samples["redbroker_request_seconds_count", (("api", "Produce"),)] == 4
    assert abs(samples["redbroker_request_seconds_sum", (("api", "Produce"),)] - 99.3003) < 1e-9


def test_gauges_are_read_when_scraped() -> None:
    metrics = Metrics()
    level = [1.0]
    metrics.gauges["redbroker_connections"] = ("Open.", lambda: level[0])
    assert scraped(metrics)["redbroker_connections", ()] == 1
    level[0] = 5
    assert scraped(metrics)["redbroker_connections", ()] == 5


def test_bytes_connections_and_closings_are_told() -> None:
    metrics = Metrics()
    metrics.bytes_received, metrics.bytes_sent, metrics.connections_refused = 10, 20, 3
    metrics.closed("idle")
    metrics.closed("idle")
    samples = scraped(metrics)
    assert samples["redbroker_bytes_received_total", ()] == 10
    assert samples["redbroker_bytes_sent_total", ()] == 20
    assert samples["redbroker_connections_refused_total", ()] == 3
    assert samples["redbroker_connections_closed_total", (("reason", "idle"),)] == 2
