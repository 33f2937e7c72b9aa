"""One member of a consumer group as a process of its own, so that a test may kill it: `Member`.

    python -m tests.support.group_members confluent-kafka '{"bootstrap": …, "group": …, "topic": …}'

A member tells what happens to it as JSON lines on its standard output, each with the time `at` (seconds since 1970):
{"assigned": [partitions]} whenever that changes, {"record": [partition, offset, number]} for each record before it is
committed, {"committed": true} after a commit, or {"committed": {partition: offset}} where it covers a part of what was
told, {"refused": error} for a commit that was refused, {"left": true} at the end. It commits synchronously after each
batch it has processed, an app beside its handlers. A line on its standard input makes it leave the group in good order.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STARTED = time.time()
NODE_MEMBER = Path(__file__).with_name("group_member.cjs")


class Member:
    """A running member; what it told so far is in `assigned`, `records` (in its order) and `refused`."""

    def __init__(self, client: str, *, node_modules: Path | None = None, **config: Any) -> None:
        words = ["node", str(NODE_MEMBER)] if client == "kafkajs" else [sys.executable, "-m", __spec__.name, client]
        env = os.environ | ({"NODE_PATH": str(node_modules)} if node_modules else {})
        self.client = client
        self.assigned: list[int] = []
        self.assigned_at = 0.0
        self.assignments = 0
        self.records: list[tuple[int, int, int]] = []
        self.times: list[float] = []
        self.refused: list[str] = []
        self.doubtful: list[int] = []  # numbers of records whose commit was refused or is not known to have worked
        self.left = False
        self._uncommitted: list[tuple[int, int, int]] = []
        self._last_words: list[str] = []
        self.process = subprocess.Popen(
            [*words, json.dumps(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=Path(__file__).parents[2],
            env=env,
        )
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()

    def _listen(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            try:
                told = json.loads(line)
                at = told["at"]
            except (ValueError, TypeError, KeyError):
                self._last_words = [*self._last_words[-30:], line]
                continue
            if "record" in told:
                self.times.append(at)
                partition, offset, number = told["record"]
                self.records.append((partition, offset, number))
                self._uncommitted.append((partition, offset, number))
            elif "assigned" in told:
                self.assigned, self.assigned_at = told["assigned"], at
                self.assignments += 1
            elif "committed" in told:
                ends = told["committed"]
                self._uncommitted = [
                    one for one in self._uncommitted if ends is not True and one[1] >= ends.get(str(one[0]), 0)
                ]
            elif "refused" in told:
                self.refused.append(told["refused"])
                self._give_up()
            elif "left" in told:
                self.left, self.assigned = True, []

    def _give_up(self) -> None:
        self.doubtful += [number for _, _, number in self._uncommitted]
        self._uncommitted.clear()

    def leave(self, timeout_s: float = 20) -> None:
        """Ask it to leave in good order, and wait until it has."""
        if self.process.poll() is None:
            assert self.process.stdin
            self.process.stdin.write("leave\n")
            self.process.stdin.flush()
        self.process.wait(timeout_s)
        self._listening.join(5)
        assert self.left, f"{self.client} did not leave well:\n" + "".join(self._last_words)

    def kill(self) -> None:
        """SIGKILL: no good-bye."""
        self.process.kill()
        self.process.wait()
        self._listening.join(5)
        self._give_up()
        self.assigned = []

    def close(self) -> None:
        """End it whatever it does."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()

    def __repr__(self) -> str:
        words = "".join(self._last_words)
        return f"<{self.client} {self.assigned} {len(self.records)} records {self.refused} {words}>"


# --- inside the process -------------------------------------------------------------------------------------------


def tell(**what: Any) -> None:
    """One line to whoever started this process."""
    sys.stdout.write(json.dumps({**what, "at": time.time()}) + "\n")
    sys.stdout.flush()


class Telling:
    """Tells the assignment when it has changed."""

    def __init__(self) -> None:
        self.last: list[int] | None = None

    def assignment(self, partitions: Sequence[int]) -> None:
        """The partitions held now."""
        now = sorted(partitions)
        if now != self.last:
            self.last = now
            tell(assigned=now)


def asked_to_leave() -> threading.Event:
    """Set when a line comes, or the standard input is closed."""
    leaving = threading.Event()

    def listen() -> None:
        sys.stdin.readline()
        leaving.set()

    threading.Thread(target=listen, daemon=True).start()
    return leaving


def confluent(config: dict[str, Any], leaving: threading.Event) -> None:
    """librdkafka."""
    from confluent_kafka import Consumer, KafkaException, TopicPartition

    consumer = Consumer(
        {
            "bootstrap.servers": config["bootstrap"],
            "group.id": config["group"],
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "log_level": 0,
            **(
                {"group.protocol": "consumer"}
                if config.get("protocol") == "consumer"
                else {
                    "partition.assignment.strategy": config.get("strategy", "range"),
                    "session.timeout.ms": config["session_timeout_ms"],
                    "heartbeat.interval.ms": config["heartbeat_ms"],
                }
            ),
            **({"group.instance.id": config["instance"]} if config.get("instance") else {}),
        }
    )
    consumer.subscribe([config["topic"]])
    told = Telling()
    while not leaving.is_set():
        messages = [one for one in consumer.consume(200, timeout=0.05) if one.error() is None]
        told.assignment([one.partition for one in consumer.assignment()])
        for one in messages:
            tell(record=[one.partition(), one.offset(), int(one.value())])
        if messages:
            try:
                ends = {one.partition(): one.offset() + 1 for one in messages}
                offsets = [TopicPartition(config["topic"], index, offset) for index, offset in ends.items()]
                consumer.commit(offsets=offsets, asynchronous=False)
                tell(committed=True)
            except KafkaException as error:
                tell(refused=error.args[0].name())
    consumer.close()


async def aiokafka_member(config: dict[str, Any], leaving: threading.Event) -> None:
    """aiokafka."""
    from aiokafka import AIOKafkaConsumer
    from aiokafka.errors import IllegalStateError, KafkaError

    consumer = AIOKafkaConsumer(
        config["topic"],
        bootstrap_servers=config["bootstrap"],
        group_id=config["group"],
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        session_timeout_ms=config["session_timeout_ms"],
        heartbeat_interval_ms=config["heartbeat_ms"],
        metadata_max_age_ms=5_000,
    )
    await consumer.start()
    told = Telling()
    while not leaving.is_set():
        batches = await consumer.getmany(timeout_ms=50, max_records=200)
        told.assignment([one.partition for one in consumer.assignment()])
        for records in batches.values():
            for one in records:
                tell(record=[one.partition, one.offset, int(one.value)])
        if batches:
            try:
                await consumer.commit({partition: records[-1].offset + 1 for partition, records in batches.items()})
                tell(committed=True)
            except (KafkaError, IllegalStateError) as error:
                tell(refused=type(error).__name__)
    await consumer.stop()


def kafka_python(config: dict[str, Any], leaving: threading.Event) -> None:
    """kafka-python."""
    from kafka import KafkaConsumer, OffsetAndMetadata
    from kafka.errors import KafkaError

    consumer = KafkaConsumer(
        config["topic"],
        bootstrap_servers=config["bootstrap"].split(","),
        group_id=config["group"],
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        session_timeout_ms=config["session_timeout_ms"],
        heartbeat_interval_ms=config["heartbeat_ms"],
    )
    told = Telling()
    while not leaving.is_set():
        batches = consumer.poll(timeout_ms=50, max_records=200)
        told.assignment([one.partition for one in consumer.assignment()])
        for records in batches.values():
            for one in records:
                tell(record=[one.partition, one.offset, int(one.value)])
        if batches:
            try:
                consumer.commit(
                    {
                        partition: OffsetAndMetadata(records[-1].offset + 1, "", -1)
                        for partition, records in batches.items()
                    }
                )
                tell(committed=True)
            except KafkaError as error:
                tell(refused=type(error).__name__)
    consumer.close()


async def sdk(config: dict[str, Any], leaving: threading.Event) -> None:
    """RedBroker's own consumer, straight to the storage."""
    from redbroker.client.consumer import Consumer
    from redbroker.errors import KafkaError

    told = Telling()
    async with Consumer(
        config["topic"],
        storage=config["storage"],
        group_id=config["group"],
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        group_consumer_session_timeout_ms=config["session_timeout_ms"],
        group_consumer_heartbeat_interval_ms=config["heartbeat_ms"],
        **({"group_instance_id": config["instance"]} if config.get("instance") else {}),
    ) as consumer:
        while not leaving.is_set():
            records = await consumer.getmany(200, timeout_ms=50)
            told.assignment([one.partition for one in consumer.assignment()])
            for one in records:
                tell(record=[one.partition, one.offset, int(one.value)])
            if records:
                try:
                    await consumer.commit()
                    tell(committed=True)
                except KafkaError as error:
                    tell(refused=error.code.name)


async def sdk_app(config: dict[str, Any], leaving: threading.Event) -> None:
    """An app: handlers many at once, commits from time to time."""
    from redbroker.client.app import RedBroker
    from redbroker.client.context import Context
    from redbroker.client.types import OffsetAndMetadata
    from redbroker.errors import KafkaError
    from redbroker.types import TopicPartition

    app = RedBroker(
        config["storage"],
        group_consumer_session_timeout_ms=config["session_timeout_ms"],
        group_consumer_heartbeat_interval_ms=config["heartbeat_ms"],
    )

    @app.topic(config["topic"], value=int).subscribe(group=config["group"], parallel_by_key=8)
    async def handle(number: int, ctx: Context) -> None:
        await asyncio.sleep(config.get("handler_s", 0.002))
        tell(record=[ctx.record.partition, ctx.record.offset, number])

    told = Telling()
    async with app:
        [running] = app.running
        commit = running.consumer.commit

        async def telling(offsets: dict[TopicPartition, OffsetAndMetadata], **how: Any) -> None:
            try:
                await commit(offsets, **how)
            except KafkaError as error:
                tell(refused=error.code.name)
                raise
            tell(committed={place.partition: what.offset for place, what in offsets.items()})

        running.consumer.commit = telling  # type: ignore[method-assign,assignment]
        while not leaving.is_set():
            told.assignment([one.partition for one in running.consumer.assignment()])
            if app.failure is not None:
                raise app.failure
            await asyncio.sleep(0.02)


def main() -> None:
    """Be the member the command line names."""
    client, config = sys.argv[1], json.loads(sys.argv[2])
    leaving = asked_to_leave()
    if client == "aiokafka":
        asyncio.run(aiokafka_member(config, leaving))
    elif client == "sdk":
        asyncio.run(sdk(config, leaving))
    elif client == "sdk-app":
        asyncio.run(sdk_app(config, leaving))
    elif client == "kafka-python":
        kafka_python(config, leaving)
    else:
        confluent(config, leaving)
    tell(left=True)


if __name__ == "__main__":
    main()
