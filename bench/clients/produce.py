"""Batched produce with confluent-kafka: as fast as the client can, acks=all, no keys.

Gives `records_per_s` from the first produce call to the end of flush, after a warm-up. The consume
client reads all `served` records back, so a lost record fails the run. (Log end offsets would not tell: tansu names
the first offset of the last batch.)
"""

from __future__ import annotations

import time
from typing import Any

from confluent_kafka import Producer

from bench.clients import create_topic, run

CONFIG = {
    "acks": "all",
    "linger.ms": 5,
    "queue.buffering.max.messages": 1_000_000,
    "queue.buffering.max.kbytes": 1_048_576,
    "delivery.report.only.error": True,
}


def send(producer: Producer, topic: str, value: bytes, records: int) -> None:
    """Produces `records` times the same value; waits where the client's own queue is full."""
    produce = producer.produce
    for _ in range(records):
        try:
            produce(topic, value)
        except BufferError:
            while producer.poll(0.01) or len(producer) > 900_000:
                pass
            produce(topic, value)
    if producer.flush(60) > 0:
        raise TimeoutError("records were not acknowledged within 60 s")


def produce(bootstrap: str, topic: str, records: int, record_bytes: int) -> dict[str, Any]:
    """One run; see the module."""
    create_topic(bootstrap, topic)
    failures: list[str] = []

    def failed(error: object, _message: object) -> None:
        failures.append(str(error))

    producer = Producer({**CONFIG, "bootstrap.servers": bootstrap, "on_delivery": failed})
    value = b"x" * record_bytes
    warm_up = max(1_000, records // 100)
    send(producer, topic, value, warm_up)
    started, cpu = time.perf_counter(), time.process_time()
    send(producer, topic, value, records)
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    if failures:
        raise RuntimeError(f"{len(failures)} records failed: {failures[0]}")
    return {"records_per_s": records / seconds, "cpu_us": cpu_s / records * 1e6, "served": records + warm_up}


if __name__ == "__main__":
    run(produce)
