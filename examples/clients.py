"""The demo's real Kafka clients: confluent-kafka as producer and live consumer, kcat as producer and second reader."""

from __future__ import annotations

import logging
import subprocess
import threading
import time
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

QUIET = logging.getLogger("quiet")
QUIET.addHandler(logging.NullHandler())
QUIET.propagate = False
"""librdkafka tells of each lost connection; here that is the point and not news."""

TIMEOUT_S = 60.0
SEPARATOR = b"\t"


def create_topic(addresses: str, topic: str, partitions: int, configs: dict[str, str] | None = None) -> None:
    """Create the topic. The demo's records carry times of 2013, so unless told otherwise it must not forget by age."""
    admin = AdminClient({"bootstrap.servers": addresses}, logger=QUIET)
    wanted = NewTopic(topic, num_partitions=partitions, replication_factor=-1, config=configs or {"retention.ms": "-1"})
    admin.create_topics([wanted])[topic].result(TIMEOUT_S)


def leaders(addresses: str, topic: str) -> dict[int, str]:
    """partition -> host:port of its leader."""
    metadata = AdminClient({"bootstrap.servers": addresses}, logger=QUIET).list_topics(topic, timeout=TIMEOUT_S)
    named = {broker.id: f"{broker.host}:{broker.port}" for broker in metadata.brokers.values()}
    return {index: named.get(each.leader, "none") for index, each in metadata.topics[topic].partitions.items()}


class Producing:
    """A confluent-kafka producer that counts what is acknowledged, and keeps the words of what is not."""

    def __init__(self, addresses: str, topic: str, *, idempotent: bool = True) -> None:
        self.topic = topic
        self.sent = 0
        self.acknowledged = 0
        self.errors: list[str] = []
        self.longest_pause_s = 0.0
        self._last_s: dict[int, float] = {}
        self._producer = Producer(
            {
                "bootstrap.servers": addresses,
                "enable.idempotence": idempotent,
                "linger.ms": 10,
                "compression.type": "lz4",
                "message.timeout.ms": int(TIMEOUT_S * 1_000),
            },
            logger=QUIET,
        )

    def _told(self, error: Any, message: Any) -> None:
        partition, now_s = message.partition(), time.monotonic()
        self.longest_pause_s = max(self.longest_pause_s, now_s - self._last_s.get(partition, now_s))
        self._last_s[partition] = now_s
        if error is None:
            self.acknowledged += 1
        else:
            self.errors.append(str(error))

    def send(self, key: bytes, value: bytes, time_ms: int) -> None:
        """Hand one record to the client; waits while its queue is full."""
        while True:
            try:
                self._producer.produce(self.topic, value, key, timestamp=time_ms, on_delivery=self._told)
                break
            except BufferError:
                self._producer.poll(0.05)
        self.sent += 1
        if self.sent % 200 == 0:
            self._producer.poll(0)

    def catch_up(self, unanswered: int) -> None:
        """Wait until at most so many records are without an answer: a steady load, whatever the client's queue."""
        deadline = time.monotonic() + TIMEOUT_S
        while self.sent - self.acknowledged - len(self.errors) > unanswered and time.monotonic() < deadline:
            self._producer.poll(0.01)

    def close(self) -> None:
        """Wait until every record is acknowledged or has failed."""
        self._producer.flush(TIMEOUT_S)
        self.errors += ["never answered"] * len(self._producer)


class KcatProducer:
    """kcat in producer mode, fed through its standard input."""

    def __init__(self, kcat: str, addresses: str, topic: str) -> None:
        self.sent = 0
        self._running = subprocess.Popen(
            [kcat, "-P", "-q", "-b", addresses, "-t", topic, "-K", "\\t", "-X", "enable.idempotence=true", "-X",
             f"message.timeout.ms={int(TIMEOUT_S * 1_000)}"],
            stdin=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def send(self, key: bytes, value: bytes) -> None:
        """One line, one record."""
        assert self._running.stdin
        self._running.stdin.write(key + SEPARATOR + value + b"\n")
        self.sent += 1

    def close(self) -> None:
        """End of input; kcat waits until everything is acknowledged. RuntimeError when it says otherwise."""
        _, errors = self._running.communicate(timeout=TIMEOUT_S)
        if self._running.returncode:
            raise RuntimeError(f"kcat could not send everything: {errors.decode()[-500:]}")


class Consuming:
    """A confluent-kafka consumer in a thread: reads all partitions from the start, and goes on reading."""

    def __init__(self, addresses: str, topic: str, partitions: int) -> None:
        self.values: dict[bytes, list[bytes]] = {}
        self.count = 0
        self.gaps = 0
        self.errors: list[str] = []
        self._next = [0] * partitions
        self._stopping = threading.Event()
        self._consumer = Consumer(
            {
                "bootstrap.servers": addresses,
                "group.id": "demo",  # librdkafka wants one even where partitions are assigned by hand
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 100,
            },
            logger=QUIET,
        )
        self._consumer.assign([TopicPartition(topic, index, OFFSET_BEGINNING) for index in range(partitions)])
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._stopping.is_set():
            for message in self._consumer.consume(2_000, timeout=0.1):
                if error := message.error():
                    self.errors.append(str(error))
                    continue
                partition, offset = int(message.partition() or 0), int(message.offset() or 0)
                self.gaps += offset != self._next[partition]
                self._next[partition] = offset + 1
                self.values.setdefault(message.key() or b"", []).append(message.value() or b"")
                self.count += 1

    def close(self) -> None:
        """Stop reading."""
        self._stopping.set()
        self._thread.join(TIMEOUT_S)
        self._consumer.close()


def kcat_read(kcat: str, addresses: str, topic: str) -> dict[bytes, list[bytes]]:
    """Everything in the topic as kcat reads it from the start: key -> values in order."""
    done = subprocess.run(
        [kcat, "-C", "-q", "-e", "-b", addresses, "-t", topic, "-o", "beginning", "-f", "%k\\t%s\\n"],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, check=True,
    )  # fmt: skip
    values: dict[bytes, list[bytes]] = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition(SEPARATOR)
        values.setdefault(key, []).append(value)
    return values
