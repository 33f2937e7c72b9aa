"""Consumer groups as their users feel them: the first record of a new group, and how fast a change settles.

`first_…_ms`: from making a consumer of a new one-member group to its first record, the median of a few groups.
`join_ms` and `leave_ms`: from a second confluent-kafka member's subscribe, or close, until the partitions are shared
out anew, with a heartbeat interval of 100 ms, which is the client's own share of it. `consumer_…_ms`: the same with
KIP-848's protocol, where the broker tells the interval (its setting is to be 100 ms).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from aiokafka import AIOKafkaConsumer
from confluent_kafka import Consumer, Producer
from kafka import KafkaConsumer

from bench.clients import PARTITIONS, create_topic, run

SETTLE_S = 30.0


def first_by_confluent_kafka(bootstrap: str, topic: str, group: str) -> None:
    """The first record with librdkafka."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    if consumer.poll(SETTLE_S) is None:
        raise TimeoutError("no record")
    ended(consumer.close)


def first_by_aiokafka(bootstrap: str, topic: str, group: str) -> None:
    """The first record with aiokafka."""

    async def first() -> None:
        consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, group_id=group, auto_offset_reset="earliest")
        await consumer.start()
        await asyncio.wait_for(consumer.getone(), SETTLE_S)
        stop()
        await consumer.stop()

    asyncio.run(first())


def first_by_kafka_python(bootstrap: str, topic: str, group: str) -> None:
    """The first record with kafka-python."""
    consumer = KafkaConsumer(topic, bootstrap_servers=bootstrap, group_id=group, auto_offset_reset="earliest")
    next(consumer)
    ended(consumer.close)


class Clock:
    """When the measured part of a call began and ended."""

    began = ended = 0.0


def stop() -> None:
    """The measured part is over."""
    Clock.ended = time.perf_counter()


def ended(close: Callable[[], Any]) -> None:
    """Stop the clock, then close."""
    stop()
    close()


def timed(first: Callable[[str, str, str], None], bootstrap: str, topic: str, tries: int) -> float:
    """The median over new groups, in ms."""
    times = []
    for turn in range(tries):
        Clock.began = time.perf_counter()
        first(bootstrap, topic, f"{first.__name__}-{turn}-{time.time_ns()}")
        times.append((Clock.ended - Clock.began) * 1e3)
    return median(times)


def settled(*members: Consumer) -> float:
    """Poll until these members hold all partitions; gives the moment."""
    deadline = time.perf_counter() + SETTLE_S
    while True:
        for member in members:
            member.poll(0.002)
        held = [len(member.assignment()) for member in members]
        if sum(held) == PARTITIONS and all(held):
            return time.perf_counter()
        if time.perf_counter() > deadline:
            raise TimeoutError(f"the group did not settle: {held}")


def changes(bootstrap: str, topic: str, tries: int, protocol: dict[str, Any]) -> tuple[float, float]:
    """Medians of (join, leave), in ms."""
    joins, leaves = [], []
    config = {
        "bootstrap.servers": bootstrap, "group.id": f"changes-{time.time_ns()}", "auto.offset.reset": "earliest",
        **protocol,
    }  # fmt: skip
    first = Consumer(config)
    first.subscribe([topic])
    settled(first)
    for _ in range(tries):
        second = Consumer(config)
        began = time.perf_counter()
        second.subscribe([topic])
        joins.append((settled(first, second) - began) * 1e3)
        began = time.perf_counter()
        second.close()
        leaves.append((settled(first) - began) * 1e3)
    first.close()
    return median(joins), median(leaves)


def groups(bootstrap: str, topic: str, tries: int) -> dict[str, Any]:
    """One run; see the module."""
    create_topic(bootstrap, topic)
    producer = Producer({"bootstrap.servers": bootstrap})
    for partition in range(PARTITIONS):
        producer.produce(topic, b"first", partition=partition)
    producer.flush(10)
    cpu = time.process_time()
    first = {
        name: timed(by, bootstrap, topic, tries)
        for name, by in (
            ("first_confluent_ms", first_by_confluent_kafka),
            ("first_aiokafka_ms", first_by_aiokafka),
            ("first_kafka_python_ms", first_by_kafka_python),
        )
    }
    join_ms, leave_ms = changes(bootstrap, topic, tries, {"heartbeat.interval.ms": 100})
    consumer_join_ms, consumer_leave_ms = changes(bootstrap, topic, tries, {"group.protocol": "consumer"})
    served = 7 * tries
    return {
        **first, "join_ms": join_ms, "leave_ms": leave_ms, "served": served,
        "consumer_join_ms": consumer_join_ms, "consumer_leave_ms": consumer_leave_ms,
        "cpu_us": (time.process_time() - cpu) / served * 1e6,
    }  # fmt: skip


if __name__ == "__main__":
    run(groups)
