"""End to end with confluent-kafka: one paced producer, one waiting consumer, default fetch.wait.max.ms (500).

The producer writes its clock into each record; the consumer (a thread of the same process) subtracts on arrival.
Gives `p50_ms` and `p99_ms` over all records but a warm-up.
"""

from __future__ import annotations

import struct
import threading
import time
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from bench.clients import PARTITIONS, create_topic, percentile, run

WARM_UP = 100
STAMP = struct.Struct(">d")


def receive(consumer: Consumer, wanted: int, times_ms: list[float]) -> None:
    """Collects the age of each record as it arrives, until `wanted` arrived or ten seconds were silent."""
    while len(times_ms) < wanted:
        message = consumer.poll(10.0)
        now = time.perf_counter()
        if message is None:
            return
        if message.error():
            raise RuntimeError(str(message.error()))
        times_ms.append((now - STAMP.unpack_from(message.value() or b"")[0]) * 1e3)


def end_to_end(bootstrap: str, topic: str, records: int, record_bytes: int, records_per_s: float) -> dict[str, Any]:
    """One run; see the module."""
    create_topic(bootstrap, topic)
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "bench", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "linger.ms": 0, "socket.nagle.disable": True})
    wanted, times_ms = WARM_UP + records, list[float]()
    receiver = threading.Thread(target=receive, args=(consumer, wanted, times_ms))
    receiver.start()
    padding, cpu, due = b"x" * (record_bytes - STAMP.size), time.process_time(), time.perf_counter()
    for turn in range(wanted):
        due += 1 / records_per_s
        time.sleep(max(0.0, due - time.perf_counter()))
        producer.produce(topic, STAMP.pack(time.perf_counter()) + padding, partition=turn & 3)
        producer.poll(0)
    producer.flush(10)
    receiver.join(30)
    consumer.close()
    if len(times_ms) != wanted:
        raise TimeoutError(f"{len(times_ms)} of {wanted} records arrived")
    measured = times_ms[WARM_UP:]
    return {
        "p50_ms": percentile(measured, 0.50),
        "p99_ms": percentile(measured, 0.99),
        "cpu_us": (time.process_time() - cpu) / wanted * 1e6,
        "served": wanted,
    }


if __name__ == "__main__":
    run(end_to_end)
