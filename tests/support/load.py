"""A steady load from real clients: one confluent-kafka producer, one consumer in a group, each in a thread."""

from __future__ import annotations

import threading
import time

from confluent_kafka import Consumer

from examples.clients import QUIET, Producing, create_topic


class Load:
    """`with Load(addresses, topic, partitions) as load:`; `sent`, `received`, `errors` tell how it goes."""

    def __init__(
        self, addresses: str, topic: str, partitions: int, *, per_second: int = 500, group: str = "readers"
    ) -> None:
        create_topic(addresses, topic, partitions)
        self.pause_s = 10 / per_second
        self.producer = Producing(addresses, topic)
        self.received: list[tuple[int, int]] = []
        self.errors: list[str] = []
        self._stopping = threading.Event()
        self._consumer = Consumer(
            {"bootstrap.servers": addresses, "group.id": group, "auto.offset.reset": "earliest",
             "auto.commit.interval.ms": 500, "session.timeout.ms": 10_000}, logger=QUIET,
        )  # fmt: skip
        self._consumer.subscribe([topic])
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._produce, self._consume)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def _produce(self) -> None:
        number = 0
        while not self._stopping.is_set():
            for _ in range(10):
                self.producer.send(b"%d" % (number % 97), b"%d" % number, int(time.time() * 1000))
                number += 1
            self.producer.catch_up(2_000)
            self._stopping.wait(self.pause_s)

    def _consume(self) -> None:
        ended_s: float | None = None
        while ended_s is None or (time.monotonic() < ended_s and len(self.received) < self.producer.acknowledged):
            for message in self._consumer.consume(500, timeout=0.2):
                if error := message.error():
                    if not error.retriable() and error.code() >= 0:
                        self.errors.append(str(error))
                    continue
                self.received.append((int(message.partition() or 0), int(message.offset() or 0)))
            if self._stopping.is_set() and ended_s is None:
                ended_s = time.monotonic() + 30

    def __exit__(self, *_: object) -> None:
        """Stop sending, read what is left, and stop."""
        self._stopping.set()
        self._threads[0].join(60)
        self.producer.close()
        self._threads[1].join(60)
        self._consumer.close()
