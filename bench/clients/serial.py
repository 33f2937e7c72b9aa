"""Serial produce latency with confluent-kafka: one record, wait for its acknowledgement (acks=all), the next one.

Gives `p50_ms` and `p99_ms` over all records but a warm-up.
"""

from __future__ import annotations

import time
from typing import Any

from confluent_kafka import Producer

from bench.clients import create_topic, percentile, run

WARM_UP = 300


def serial(bootstrap: str, topic: str, records: int, record_bytes: int) -> dict[str, Any]:
    """One run; see the module."""
    create_topic(bootstrap, topic)
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "linger.ms": 0, "socket.nagle.disable": True})
    value, failures, delivered = b"x" * record_bytes, [], 0

    def acknowledged(error: object, _message: object) -> None:
        nonlocal delivered
        delivered += 1
        if error is not None:
            failures.append(str(error))

    times_ms, cpu = [], time.process_time()
    for turn in range(WARM_UP + records):
        started = time.perf_counter()
        producer.produce(topic, value, partition=turn & 3, on_delivery=acknowledged)
        while delivered <= turn:
            producer.poll(1.0)
        times_ms.append((time.perf_counter() - started) * 1e3)
    if failures:
        raise RuntimeError(failures[0])
    measured = times_ms[WARM_UP:]
    return {
        "p50_ms": percentile(measured, 0.50),
        "p99_ms": percentile(measured, 0.99),
        "cpu_us": (time.process_time() - cpu) / len(times_ms) * 1e6,
        "served": len(times_ms),
    }


if __name__ == "__main__":
    run(serial)
