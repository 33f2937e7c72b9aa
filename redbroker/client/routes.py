"""Where a producer's records go: what it knows of each topic, an outbox per partition, and how a topic is found.

A topic is looked for when its first record comes, in a task of its own; the records that come meanwhile wait in order.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from redbroker.client.admission import check
from redbroker.client.delivery import Delivery, Fate
from redbroker.client.errors import DeliveryError, ProducerRecord
from redbroker.client.outbox import Outbox, Way
from redbroker.client.partitioning import STICK_BYTES, Partitioner, keyed, next_sticky
from redbroker.client.room import Room
from redbroker.errors import ErrorCode, KafkaError
from redbroker.wire.records import HEADER_BYTES

if TYPE_CHECKING:
    from redbroker.engine.topics import Topic, Topics

__all__ = ["Route", "Routes", "Waiting"]

FIND_PAUSE_S = 0.1


class Route:
    """What a producer knows of a topic: the rules its records must keep, and an outbox per partition."""

    def __init__(self, topic: Topic, way: Way, before: Route | None) -> None:
        kept: list[Outbox] = before.outboxes if before is not None and before.topic.id == topic.id else []
        self.topic: Topic = topic
        self.partitions = topic.partitions
        self.outboxes: list[Outbox] = kept[: topic.partitions]
        for outbox in self.outboxes:
            outbox.follow(topic)
        self.outboxes += [Outbox(way, topic, number) for number in range(len(kept), topic.partitions)]
        self.room_bytes = topic.max_message_bytes - HEADER_BYTES
        self.sticky: Outbox = next_sticky(self.outboxes, 0)

    def keyless(self, nbytes: int) -> Outbox:
        """The outbox for a record without a key."""
        outbox = self.sticky
        if not outbox.fits(nbytes) or outbox.left_bytes >= STICK_BYTES:
            outbox = self.sticky = next_sticky(self.outboxes, outbox.partition)
        return outbox


class Waiting(NamedTuple):
    """A record whose topic is being looked for."""

    record: ProducerRecord
    nbytes: int
    fate: Fate


class Routes:
    """The topics a producer knows (`known`), as of `version`, and those it looks for."""

    def __init__(
        self, topics: Topics, way: Way, room: Room, partitioner: Partitioner | None, may_create: bool, timeout_s: float
    ) -> None:
        self.known: dict[str, Route] = {}
        self.version = -1
        self.finders: set[asyncio.Task[None]] = set()
        self._finding: dict[str, list[Waiting]] = {}
        self._topics, self._way, self._room = topics, way, room
        self._partitioner = partitioner
        self._may_create = may_create
        self._timeout_s = timeout_s

    def look_again(self) -> None:
        """Topics have changed: keep to their new configs and partitions, and forget those that are gone."""
        self.version = self._topics.version
        for name, route in list(self.known.items()):
            topic = self._topics.get(name)
            if topic is None:
                del self.known[name]  # what is under way finds out by itself
            elif topic is not route.topic:
                self.known[name] = Route(topic, self._way, route)

    def choose(self, route: Route, key: Any, value: Any, headers: Any, partition: int | None, nbytes: int) -> Outbox:
        """The outbox of a record that has a key, or names its partition, or leaves the choice to a function."""
        if partition is None:
            if self._partitioner is not None:
                partition = self._partitioner(route.topic.name, key, route.partitions)
            elif key is None:
                return route.keyless(nbytes)
            else:
                return route.outboxes[keyed(key, route.partitions)]
        if not (isinstance(partition, int) and 0 <= partition < route.partitions):
            name = route.topic.name
            raise DeliveryError(
                ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
                f"{name} has partitions 0 to {route.partitions - 1}, not {partition}.",
                ProducerRecord(name, value, key, headers, partition),
            )
        return route.outboxes[partition]

    # --- topics that are not known yet ---------------------------------------------------------------------------

    def later(self, record: ProducerRecord, nbytes: int) -> Delivery:
        """Take a record whose topic is not known: now, if it can be, else when it is found."""
        loop = asyncio.get_running_loop()
        name = record.topic
        if not isinstance(name, str):
            raise DeliveryError(ErrorCode.INVALID_TOPIC_EXCEPTION, f"A topic is a name (str), not {name!r}.", record)
        waiting = self._finding.get(name)
        if waiting is None:
            if (topic := self._topics.get(name)) is not None:
                self.known[name] = Route(topic, self._way, None)
                return self._take(record, nbytes)
            waiting = self._finding[name] = []
            task = loop.create_task(self._find_for(name, waiting))
            self.finders.add(task)
            task.add_done_callback(self.finders.discard)
        fate = Fate(loop, name, record.partition)
        waiting.append(Waiting(record, nbytes, fate))
        self._room.used += nbytes
        return Delivery((fate, 0))

    def _take(self, record: ProducerRecord, nbytes: int) -> Delivery:
        """The long way of a record into its outbox."""
        route = self.known[record.topic]
        outbox = self.choose(route, record.key, record.value, record.headers, record.partition, nbytes)
        timestamp_ms = check(route.topic, record, nbytes, self._way.clock.now_ms())
        self._room.used += nbytes
        return outbox.add(timestamp_ms, record.key, record.value, tuple(record.headers), nbytes)

    async def _find_for(self, name: str, waiting: list[Waiting]) -> None:
        """Find a topic, then send what was waiting for it; where there is none, all of it fails."""
        failure = KafkaError(ErrorCode.REQUEST_TIMED_OUT, "The producer was closed before the record was stored.")
        try:
            topic = await self.find(name)
            self.known[name] = Route(topic, self._way, None)
        except KafkaError as error:
            failure = error
        finally:
            del self._finding[name]
            found = name in self.known
            for record, nbytes, fate in waiting:
                self._room.used -= nbytes
                why = failure
                if found:
                    try:
                        taken, place = self._take(record, nbytes)
                        taken.watch(place, fate)
                        continue
                    except KafkaError as refused:
                        why = refused
                    except Exception as fault:  # the partitioner's; those behind must not wait for ever
                        why = KafkaError(ErrorCode.UNKNOWN_SERVER_ERROR, f"The partitioner failed: {fault!r}.")
                if record.timestamp_ms is not None:
                    fate.taken(0, record.timestamp_ms)
                fate.fail(why, ((record.value,), (record.key,), {0: tuple(record.headers)}))
            self._room.give(0)

    async def find(self, name: str) -> Topic:
        """The topic, made if it may be; asks again, while Redis is away, until `delivery_timeout_ms` are over."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                if self._may_create:
                    return await self._topics.ensure(name)
                topic = await self._topics.find(name)
            except KafkaError as away:
                if not away.retriable or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(FIND_PAUSE_S)
                continue
            if topic is None:
                why = f"There is no topic {name!r}, and auto_create_topics is off."
                raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, why)
            return topic
