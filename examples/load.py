"""A steady load from real clients: one confluent-kafka producer, one consumer in a group, each in a thread."""

from __future__ import annotations

import os
import threading
import time

from confluent_kafka import Consumer

from examples.clients import QUIET, Producing, create_topic

AT_ONCE = 20
LAST_S = 60.0


class Load:
    """`with Load(addresses, topic, partitions) as load:`; at the end, everything that was sent has been waited for.

    `received` counts records that were new, `doubled` those that came again (a restart may read again what was not
    committed yet), `lost` those that were jumped over. `errors` are those that a client does not get over by itself.
    """

    def __init__(
        self,
        addresses: str,
        topic: str,
        partitions: int,
        *,
        per_second: int = 500,
        value_bytes: int = 16,
        configs: dict[str, str] | None = None,
    ) -> None:
        create_topic(addresses, topic, partitions, configs)
        self.pause_s = AT_ONCE / per_second
        self.values = [os.urandom(value_bytes) for _ in range(97)]
        self.producer = Producing(addresses, topic)
        self.received = self.doubled = self.lost = 0
        self.errors: list[str] = []
        self._next = [0] * partitions
        self._stopping = threading.Event()
        self._consumer = Consumer(
            {"bootstrap.servers": addresses, "group.id": "readers", "auto.offset.reset": "earliest",
             "auto.commit.interval.ms": 500, "session.timeout.ms": 10_000}, logger=QUIET,
        )  # fmt: skip
        self._consumer.subscribe([topic])
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._produce, self._consume)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop sending, read what is left, and stop. Safe to call twice."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._threads[0].join(LAST_S)
        self.producer.close()
        self._threads[1].join(2 * LAST_S)
        self._consumer.close()

    def goes_on(self, count: int, timeout_s: float = LAST_S) -> None:
        """Return when so many records have been received; TimeoutError when that stays out."""
        deadline_s = time.monotonic() + timeout_s
        while self.received < count:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{self.received} of {count} records after {timeout_s} s: {self.errors}")
            time.sleep(0.05)

    def _produce(self) -> None:
        number, due_s = 0, time.monotonic()
        while not self._stopping.is_set():
            for _ in range(AT_ONCE):
                self.producer.send(b"%d" % (number % 97), self.values[number % 97], int(time.time() * 1000))
                number += 1
            self.producer.catch_up(5_000)
            due_s = max(due_s + self.pause_s, time.monotonic() - 1)
            self._stopping.wait(max(0.0, due_s - time.monotonic()))

    def _consume(self) -> None:
        ends_s = float("inf")
        while time.monotonic() < ends_s:
            for message in self._consumer.consume(500, timeout=0.2):
                if error := message.error():
                    if error.fatal():
                        self.errors.append(str(error))
                    continue
                self._got(int(message.partition() or 0), int(message.offset() or 0))
            if self._stopping.is_set():
                self._threads[0].join(LAST_S)
                ends_s = min(ends_s, time.monotonic() + LAST_S)
                if self.received + self.lost >= self.producer.sent - len(self.producer.errors):
                    return

    def _got(self, partition: int, offset: int) -> None:
        ahead = offset - self._next[partition]
        if ahead < 0:
            self.doubled += 1
            return
        self.lost += ahead
        self.received += 1
        self._next[partition] = offset + 1
