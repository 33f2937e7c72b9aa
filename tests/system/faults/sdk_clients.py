"""The SDK as a client of a run: its idempotent producer, and its consumer by itself and in a group.

It is held to the strictest rules there are: no record of the producer is lost, stored twice or out of order, and a
consumer that reads alone passes over nothing and goes back only where the log was cut.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from redbroker import Consumer, Producer, TopicPartition
from redbroker.client.consumer import RebalanceListener
from redbroker.errors import KafkaError
from tests.system.faults.history import payload, value_of
from tests.system.faults.place import DELIVERY_S, IN_FLIGHT_MAX, RETRY_S, Place


async def sdk_writes(place: Place) -> None:
    """One producer for the whole run: behind a record that it gave up it goes on by itself."""
    waiting: set[asyncio.Task[None]] = set()

    async def one(value: str, partition: int) -> None:
        log = place.log(partition)
        try:
            sent = await producer.send(place.topic, payload(value), partition=partition)
        except KafkaError as error:
            place.history.add("send", "info", log=log, values=[value], error=str(error))
        else:
            place.history.add("send", "ok", log=log, values=[value], offsets=[sent.offset])

    place.writes(acks=-1, idempotent=True)
    async with Producer(place.storage, replicas=1, delivery_timeout_ms=int(DELIVERY_S * 1_000)) as producer:
        while not place.stop.is_set():
            for partition in range(place.partitions):
                if len(waiting) < IN_FLIGHT_MAX:
                    (value,) = place.next_values(partition)
                    task = asyncio.create_task(one(value, partition))
                    waiting.add(task)
                    task.add_done_callback(waiting.discard)
            await asyncio.sleep(place.partitions / place.rate)
        await asyncio.gather(*waiting)


async def sdk_reads(place: Place) -> None:
    """Every partition from the start, by hand."""
    place.reads()
    async with Consumer(storage=place.storage, auto_offset_reset="earliest") as consumer:
        consumer.assign([TopicPartition(place.topic, each) for each in range(place.partitions)])
        await written_down(place, consumer)


async def sdk_joins(place: Place) -> None:
    """A member of a group, which commits what it is done with."""

    class Listener(RebalanceListener):
        async def on_assigned(self, partitions: Iterable[TopicPartition]) -> None:
            for each in partitions:
                place.history.add("jump", "info", log=place.log(each.partition), why="rebalance")

    group_id = f"{place.topic}-sdk"
    place.reads(group_id)
    settings: dict[str, Any] = {"auto_offset_reset": "earliest", "auto_commit_interval_ms": 500}
    async with Consumer(storage=place.storage, group_id=group_id, **settings) as consumer:
        consumer.subscribe([place.topic], listener=Listener())
        await written_down(place, consumer)


async def written_down(place: Place, consumer: Consumer) -> None:
    """Read until the run ends."""
    while not place.stop.is_set():
        try:
            found = await consumer.getmany(1_000, timeout_ms=100)
        except KafkaError as error:
            place.history.add("error", "info", error=repr(error))
            await asyncio.sleep(RETRY_S)
            continue
        records: dict[int, list[Any]] = defaultdict(list)
        for each in found:
            records[each.partition].append((each.offset, each.leader_epoch, value_of(each.value)))
        for partition, some in records.items():
            place.history.add("poll", "ok", log=place.log(partition), records=some)
