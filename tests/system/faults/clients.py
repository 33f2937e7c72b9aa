"""The clients of a run, each a process of its own: `python -m tests.system.faults.clients KIND NAME HISTORY …`.

Writers send numbered values to every partition in turn at a steady rate; readers read everything from the start. All
stop when their standard input is closed (also when whoever started them died), end in good order and write down the
rest. A send whose answer is an error is `info`: with the clients' own retries nobody knows whether it was stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from redbroker.config import Settings
from redbroker.engine import Engine
from redbroker.engine.log import Append, Appended, Read, ReadResult
from redbroker.errors import ErrorCode, KafkaError
from redbroker.wire.records import build_batch, iter_records, read_header
from tests.system.faults.history import History, payload, value_of
from tests.system.faults.place import DELIVERY_S, END_S, FRESH_MS, IN_FLIGHT_MAX, QUIET, RETRY_S, Place
from tests.system.faults.sdk_clients import sdk_joins, sdk_reads, sdk_writes

# --- confluent-kafka ------------------------------------------------------------------------------------------


def confluent_writes(place: Place, acks: int = -1) -> None:
    """librdkafka, idempotent with acks=all; a producer that has ended itself is replaced by a new one."""
    from confluent_kafka import KafkaException, Producer

    place.writes(acks=acks, idempotent=acks == -1)
    idempotence = {"enable.idempotence": True} if acks == -1 else {"acks": acks, "retries": 0}
    settings = {
        "bootstrap.servers": place.bootstrap,
        "linger.ms": 5,
        "message.timeout.ms": int(DELIVERY_S * 1_000) if acks == -1 else 5_000,
        "retry.backoff.max.ms": 200,
        "reconnect.backoff.max.ms": 500,
        "socket.timeout.ms": 10_000,
        **idempotence,
    }
    answers: dict[int, list[tuple[str, int]]] = defaultdict(list)
    waiting = 0
    broken: list[str] = []

    def told(value: str, partition: int, error: Any, message: Any) -> None:
        nonlocal waiting
        waiting -= 1
        if error is None:
            answers[partition].append((value, message.offset()))
        else:
            place.history.add("send", "info", log=place.log(partition), values=[value], error=str(error))

    def write_down() -> None:
        for partition, some in answers.items():
            if some:
                values, offsets = zip(*some, strict=True)
                place.history.add("send", "ok", log=place.log(partition), values=values, offsets=offsets)
                some.clear()

    def failed(error: Any) -> None:
        if error.fatal():
            broken.append(str(error))

    def steadily(producer: Any) -> None:
        """Send to every partition in turn until it is time to end, or the producer is broken."""
        nonlocal waiting
        due = time.monotonic()
        while not (place.stop.is_set() or broken):
            for partition in range(place.partitions):
                if waiting < IN_FLIGHT_MAX:
                    (value,) = place.next_values(partition)
                    waiting += 1
                    producer.produce(
                        place.topic,
                        payload(value),
                        partition=partition,
                        on_delivery=lambda e, m, v=value, p=partition: told(v, p, e, m),
                    )
            due = max(due + place.partitions / place.rate, time.monotonic() - 1)
            producer.poll(max(0.001, due - time.monotonic()))
            while time.monotonic() < due:
                producer.poll(max(0.001, due - time.monotonic()))
            write_down()

    while not place.stop.is_set():
        producer = Producer({**settings, "error_cb": failed}, logger=QUIET)
        try:
            steadily(producer)
        except KafkaException as error:  # librdkafka ends an idempotent producer whose sequence it has lost
            broken.append(str(error))
        with contextlib.suppress(KafkaException):
            producer.flush(0.5 if broken else DELIVERY_S)
        write_down()
        if broken:
            place.history.add("error", "info", error=broken[0], fatal=True)
            broken.clear()
            waiting = 0


def confluent_reads(place: Place, group: bool = False) -> None:
    """librdkafka: partitions assigned by hand from the start on, or as a member of a group that commits."""
    from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

    group_id = f"{place.topic}-confluent"
    place.reads(group_id if group else None)
    consumer = Consumer(
        {
            "bootstrap.servers": place.bootstrap,
            "group.id": group_id,
            "enable.auto.commit": group,
            "auto.commit.interval.ms": 500,
            "auto.offset.reset": "earliest",
            "check.crcs": True,
            "fetch.wait.max.ms": 100,
            "session.timeout.ms": 10_000,
            "reconnect.backoff.max.ms": 500,
        },
        logger=QUIET,
    )

    def jumped(_: Any, partitions: list[Any]) -> None:
        for each in partitions:
            place.history.add("jump", "info", log=place.log(each.partition), why="rebalance")

    if group:
        consumer.subscribe([place.topic], on_assign=jumped)
    else:
        consumer.assign([TopicPartition(place.topic, each, OFFSET_BEGINNING) for each in range(place.partitions)])
    while not place.stop.is_set():
        records: dict[int, list[Any]] = defaultdict(list)
        for message in consumer.consume(1_000, timeout=0.1):
            if error := message.error():
                place.history.add("error", "info", error=str(error))
                continue
            epoch = message.leader_epoch()
            records[message.partition() or 0].append(
                (message.offset(), -1 if epoch is None else epoch, value_of(message.value()))
            )
        for partition, some in records.items():
            place.history.add("poll", "ok", log=place.log(partition), records=some)
    consumer.close()


# --- aiokafka -------------------------------------------------------------------------------------------------


async def aiokafka_writes(place: Place) -> None:
    """aiokafka, idempotent; a producer with a failed send is replaced, as its sequence has a hole."""
    from aiokafka import AIOKafkaProducer

    place.writes(acks=-1, idempotent=True)
    while not place.stop.is_set():
        try:
            producer = AIOKafkaProducer(
                bootstrap_servers=place.bootstrap,
                enable_idempotence=True,
                acks="all",
                request_timeout_ms=20_000,
                metadata_max_age_ms=FRESH_MS,
            )
            await producer.start()
        except Exception as error:
            place.history.add("error", "info", error=repr(error))
            await asyncio.sleep(RETRY_S)
            continue
        waiting: set[asyncio.Future[Any]] = set()
        broken = asyncio.Event()

        def told(future: asyncio.Future[Any], value: str, partition: int) -> None:
            waiting.discard(future)  # noqa: B023 - this round's
            log = place.log(partition)
            if future.cancelled() or future.exception():
                why = "cancelled" if future.cancelled() else repr(future.exception())
                place.history.add("send", "info", log=log, values=[value], error=why)
                broken.set()  # noqa: B023
            else:
                place.history.add("send", "ok", log=log, values=[value], offsets=[future.result().offset])

        while not (place.stop.is_set() or broken.is_set()):
            for partition in range(place.partitions):
                if len(waiting) >= IN_FLIGHT_MAX:
                    continue
                (value,) = place.next_values(partition)
                try:
                    async with asyncio.timeout(20):
                        future = await producer.send(place.topic, payload(value), partition=partition)
                except Exception as error:
                    place.history.add("send", "info", log=place.log(partition), values=[value], error=repr(error))
                    broken.set()
                    break
                waiting.add(future)
                future.add_done_callback(lambda f, v=value, p=partition: told(f, v, p))
            await asyncio.sleep(place.partitions / place.rate)
        try:
            async with asyncio.timeout(END_S):
                await producer.stop()
        except Exception as error:
            place.history.add("error", "info", error=repr(error))


async def aiokafka_reads(place: Place) -> None:
    """aiokafka as the member of a group."""
    from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener

    class Listener(ConsumerRebalanceListener):  # type: ignore[misc]
        async def on_partitions_revoked(self, revoked: Any) -> None:
            pass

        async def on_partitions_assigned(self, assigned: Any) -> None:
            for each in assigned:
                place.history.add("jump", "info", log=place.log(each.partition), why="rebalance")

    group_id = f"{place.topic}-aiokafka"
    place.reads(group_id)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=place.bootstrap,
        group_id=group_id,
        auto_offset_reset="earliest",
        auto_commit_interval_ms=500,
        fetch_max_wait_ms=100,
        metadata_max_age_ms=FRESH_MS,
    )
    consumer.subscribe([place.topic], listener=Listener())
    await consumer.start()
    while not place.stop.is_set():
        try:
            found = await consumer.getmany(timeout_ms=100, max_records=1_000)
        except Exception as error:
            place.history.add("error", "info", error=repr(error))
            await asyncio.sleep(RETRY_S)
            continue
        for partition, some in found.items():
            records = [(each.offset, -1, value_of(each.value)) for each in some]
            place.history.add("poll", "ok", log=place.log(partition.partition), records=records)
    async with asyncio.timeout(END_S):
        await consumer.stop()


# --- the engine itself ----------------------------------------------------------------------------------------


async def engine_writes(place: Place) -> None:
    """Straight to Redis: one batch per partition in flight, the same one sent again until it is answered."""

    async def one(partition: int) -> None:
        sequence, producer_id, turn = 0, engine.new_producer_id(), 0
        while not place.stop.is_set():
            count = 1 + (turn := turn + 1) % 5
            values = place.next_values(partition, count)
            now_ms = int(time.time() * 1_000)
            records = [(index, now_ms, None, payload(value), ()) for index, value in enumerate(values)]
            batch = build_batch(records, producer_id=producer_id, producer_epoch=0, base_sequence=sequence)
            began, answer = time.monotonic(), None
            while time.monotonic() - began < DELIVERY_S:
                (answer,) = await engine.log.append(
                    [Append(topic, partition, batch, read_header(batch))], acks=-1, timeout_ms=5_000
                )
                if isinstance(answer, Appended) or not answer.retriable:
                    break
                await asyncio.sleep(RETRY_S)
            log = place.log(partition)
            if isinstance(answer, Appended):
                offsets = list(range(answer.base_offset, answer.base_offset + count))
                told: dict[str, Any] = {} if answer.duplicate else {"epochs": [answer.leader_epoch] * count}
                place.history.add("send", "ok", log=log, values=values, offsets=offsets, **told)
                sequence += count
            else:
                place.history.add("send", "info", log=log, values=values, error=repr(answer))
                sequence, producer_id = 0, engine.new_producer_id()
            await asyncio.sleep(3 * place.partitions / place.rate)

    place.writes(acks=-1, idempotent=True)
    async with Engine.open(Settings(storage_url=place.storage, replicas=1)) as engine:
        topic = await engine.topics.ensure(place.topic)
        await asyncio.gather(*(one(partition) for partition in range(place.partitions)))


async def engine_reads(place: Place) -> None:
    """Straight from Redis: names the epoch it believes, and goes back to where that ended when it is told (KIP-320)."""

    async def one(partition: int) -> None:
        offset, epoch = 0, -1
        while not place.stop.is_set():
            read = Read(topic, partition, offset, 1 << 20, epoch)
            (result,) = await engine.log.read([read], max_bytes=1 << 20)
            if isinstance(result, ReadResult):
                records = []
                for batch in result.batches:
                    sent_base = read_header(batch.batch).base_offset
                    for record in iter_records(batch.batch):
                        at = batch.base_offset + record.offset - sent_base
                        if at >= offset:
                            records.append((at, batch.leader_epoch, value_of(bytes(record.value or b""))))
                if records:
                    offset, epoch = records[-1][0] + 1, records[-1][1]
                    place.history.add("poll", "ok", log=place.log(partition), records=records)
                else:
                    await engine.log.wait([(read, result)], 1, 0.2)
                continue
            if result.code in (ErrorCode.FENCED_LEADER_EPOCH, ErrorCode.OFFSET_OUT_OF_RANGE):
                (end,) = await engine.log.epoch_end([(topic, partition, epoch)])
                if not isinstance(end, KafkaError):
                    offset, epoch = min(offset, end.end_offset if end.end_offset >= 0 else 0), end.leader_epoch
                    place.history.add("cut", "info", log=place.log(partition), offset=offset, epoch=epoch)
            await asyncio.sleep(RETRY_S)

    place.reads()
    async with Engine.open(Settings(storage_url=place.storage, replicas=1)) as engine:
        topic = await engine.topics.ensure(place.topic)
        await asyncio.gather(*(one(partition) for partition in range(place.partitions)))


def acks_one_writes(place: Place) -> None:
    """librdkafka with acks=1: what it loses is counted, and its answers tell when a master takes writes again."""
    confluent_writes(place, acks=1)


def confluent_joins(place: Place) -> None:
    """librdkafka in a group."""
    confluent_reads(place, group=True)


KINDS = {
    "confluent-writes": confluent_writes,
    "confluent-reads": confluent_reads,
    "confluent-joins": confluent_joins,
    "acks-one-writes": acks_one_writes,
    "aiokafka-writes": aiokafka_writes,
    "aiokafka-joins": aiokafka_reads,
    "engine-writes": engine_writes,
    "engine-reads": engine_reads,
    "sdk-writes": sdk_writes,
    "sdk-reads": sdk_reads,
    "sdk-joins": sdk_joins,
}


def main(
    kind: str, name: str, history: str, bootstrap: str, storage: str, topic: str, partitions: str, rate: str
) -> None:
    """Run one client until standard input ends."""
    logging.basicConfig(format=f"%(asctime)s {name}: %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("aiokafka").addHandler(logging.NullHandler())
    logging.getLogger("aiokafka").propagate = False
    place = Place(name, History(Path(history), name), bootstrap, storage, topic, int(partitions), float(rate))
    threading.Thread(target=lambda: (sys.stdin.read(), place.stop.set()), daemon=True).start()
    run = KINDS[kind]
    if asyncio.iscoroutinefunction(run):
        asyncio.run(run(place))
    else:
        run(place)
    place.history.add("close", "ok")


if __name__ == "__main__":
    main(*sys.argv[1:])
