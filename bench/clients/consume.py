"""Consume with confluent-kafka from the start of an existing topic: four partitions assigned, no group.

Gives `records_per_s` from the first delivered message to the last, so that connecting is not counted.
"""

from __future__ import annotations

import time
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from bench.clients import PARTITIONS, run

CONFIG = {
    "group.id": "bench",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "queued.min.messages": 1_000_000,
    "queued.max.messages.kbytes": 262_144,
}
SILENCE_SECONDS_MAX = 20.0


def consume(bootstrap: str, topic: str, records: int) -> dict[str, Any]:
    """Reads `records` records; see the module."""
    consumer = Consumer({**CONFIG, "bootstrap.servers": bootstrap})
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
    first = len(consumer.consume(1, SILENCE_SECONDS_MAX))
    if first == 0:
        raise TimeoutError(f"no record within {SILENCE_SECONDS_MAX:g} s")
    started, cpu, seen = time.perf_counter(), time.process_time(), first
    while seen < records:
        messages = consumer.consume(10_000, 0.2)
        seen += len(messages)
        if time.perf_counter() - started > 60:
            raise TimeoutError(f"{seen} of {records} records within 60 s")
        for message in messages[:1]:
            if message.error():
                raise RuntimeError(str(message.error()))
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    consumer.close()
    return {"records_per_s": (seen - first) / seconds, "cpu_us": cpu_s / seen * 1e6, "served": seen}


if __name__ == "__main__":
    run(consume)
