"""The producer: records in, their places out.

    async with Producer("redis://localhost:6379") as producer:
        sent = await producer.send("orders", b"value", key=b"key")      # Sent(topic, partition, offset, timestamp_ms)

The way of a record is `send -> batch of its partition -> Log.submit -> append.lua`, with no broker and no thread in
between. What is refused at once (too large, not serialisable, no such partition) is raised by the call; what fails
later is a `DeliveryError` that carries the record.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from pydantic import Field, field_validator

from redbroker.client.config import ClientConfig, configure
from redbroker.client.connection import Connection, engine_of
from redbroker.client.errors import BufferFullError, DeliveryError, ProducerRecord, SerializationError
from redbroker.client.outbox import Batch, Outbox, Way
from redbroker.client.partitioning import STICK_BYTES, Partitioner, keyed, next_sticky
from redbroker.client.room import Room
from redbroker.client.types import Sent
from redbroker.errors import ErrorCode, KafkaError
from redbroker.types import TopicPartition
from redbroker.wire.record_set import join_records
from redbroker.wire.records import HEADER_BYTES, Record

if TYPE_CHECKING:
    from redbroker.engine import Engine
    from redbroker.engine.topics import Topic

__all__ = ["Producer", "ProducerConfig"]

RECORD_BYTES = 33
"""Most that a record takes beside its key, value and headers: see `wire.record_set`."""

HEADER_OVERHEAD_BYTES = 10
FIND_PAUSE_S = 0.1
CLOSE_MARGIN_S = 5.0

Pairs = tuple[tuple[str, bytes | None], ...]
Headers = Sequence[tuple[str, bytes | str | None]] | Mapping[str, bytes | str | None]
ACKS: dict[Any, int] = {"all": -1, "-1": -1, -1: -1, "1": 1, 1: 1, "0": 0, 0: 0}


class ProducerConfig(ClientConfig):
    """A producer's settings; Kafka's spelling (`linger.ms`) is taken too."""

    kafka_names: ClassVar[Mapping[str, str]] = {
        "compression_type": "compression",
        "batch_size": "batch_bytes",
        "buffer_memory": "buffer_bytes",
        "max_in_flight_requests_per_connection": "max_in_flight",
    }

    acks: int = Field(-1, description="all: min.insync.replicas copies have it; 1: the master has; 0: nobody asks.")
    enable_idempotence: bool = Field(
        True, description="Each record is stored once, however often it is sent again; off with acks=0."
    )
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = Field("none", description="Codec of the batches.")
    linger_ms: float = Field(
        0, ge=0, le=60_000, description="How long a batch waits for more; it grows anyway while another is under way."
    )
    batch_bytes: int = Field(
        262_144, ge=0, description="A batch of this size is full; max.message.bytes of the topic bounds it, too."
    )
    buffer_bytes: int = Field(33_554_432, ge=1024, description="Most bytes of records taken and not yet settled.")
    max_in_flight: int = Field(5, ge=1, le=5, description="Batches under way per partition.")
    delivery_timeout_ms: int = Field(120_000, ge=1, description="After this a record is stored or has failed.")
    request_timeout_ms: int = Field(30_000, ge=1, description="How long acks=all waits for the replicas in one try.")
    retry_backoff_ms: int = Field(100, ge=1, description="Pause before a batch is sent again; it doubles.")
    retry_backoff_max_ms: int = Field(1_000, ge=1, description="Longest pause before a batch is sent again.")
    partitioner: Literal["murmur2"] | Partitioner = Field(
        "murmur2", description="murmur2, or a function (topic, key, partitions) -> partition."
    )
    key_serializer: Callable[[Any], bytes | None] | None = Field(None, description="Makes bytes of a key.")
    value_serializer: Callable[[Any], bytes | None] | None = Field(None, description="Makes bytes of a value.")

    @field_validator("acks", mode="before")
    @classmethod
    def _acks(cls, value: Any) -> int:
        if isinstance(value, bool) or value not in ACKS:
            raise ValueError("acks is all, 1 or 0")
        return ACKS[value]


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
        self.sticky = next_sticky(self.outboxes, 0)

    def keyless(self) -> Outbox:
        """The outbox for a record without a key."""
        outbox = self.outboxes[self.sticky]
        if outbox.left_bytes >= STICK_BYTES:
            self.sticky = next_sticky(self.outboxes, self.sticky)
            outbox = self.outboxes[self.sticky]
        return outbox


class Producer:
    """Sends records; one for a whole process is the fastest, since whatever it is given together travels together.

    `storage` is a URL as in `redbroker.config.Settings.storage_url`, or a `Connection` to share; settings are those of
    `ProducerConfig` and of the storage, as keywords or, in Kafka's spelling, as a mapping. Use it in one event loop.

        async with Producer("redis://localhost:6379", {"compression.type": "zstd"}, linger_ms=5) as producer:
            await producer.send("orders", b"1 x tea", key=b"table-4")
    """

    def __init__(
        self,
        storage: str | Connection | None = None,
        config: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        shared = storage if isinstance(storage, Connection) else None
        url = None if isinstance(storage, Connection) else storage
        self.config, self._settings = configure(ProducerConfig, url, config, settings)
        if shared is not None:
            self._settings = shared.settings
        self._shared = shared
        self._stack: contextlib.AsyncExitStack | None = None
        self._closed = True
        self._room = Room(self.config.buffer_bytes)
        self._refused_bytes = 0
        self._routes: dict[str, Route] = {}
        self._finding: dict[str, list[tuple[ProducerRecord, int, asyncio.Future[Sent]]]] = {}
        self._finders: set[asyncio.Task[None]] = set()
        self._version = -1
        partitioner = self.config.partitioner
        self._partitioner = None if isinstance(partitioner, str) else partitioner
        self._plain = self.config.key_serializer is None and self.config.value_serializer is None

    # --- opening and closing -----------------------------------------------------------------------------------

    async def __aenter__(self) -> Producer:
        if self._stack is not None:
            raise RuntimeError("This producer is open already.")
        config = self.config
        async with contextlib.AsyncExitStack() as stack:
            engine = await stack.enter_async_context(engine_of(self._shared, self._settings))
            self._stack = stack.pop_all()
        self._engine: Engine = engine
        self._topics = engine.topics
        self._create_future = asyncio.get_running_loop().create_future
        self._way = Way(
            engine,
            self._finished,
            acks=config.acks,
            codec=config.compression,
            idempotent=config.enable_idempotence and config.acks != 0,
            max_in_flight=config.max_in_flight,
            batch_bytes=config.batch_bytes,
            linger_s=config.linger_ms / 1000,
            delivery_timeout_s=config.delivery_timeout_ms / 1000,
            request_timeout_ms=config.request_timeout_ms,
            pause_s=config.retry_backoff_ms / 1000,
            pause_max_s=config.retry_backoff_max_ms / 1000,
        )
        self._routes, self._version = {}, -1
        self._closed = False
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self, timeout_s: float | None = None) -> None:
        """Take no more, deliver what was taken, close the connection if it is the producer's own.

        What is not delivered within `timeout_s` (default: `delivery_timeout_ms` and 5 s) fails with REQUEST_TIMED_OUT;
        so does everything at once when the closing itself is cancelled.
        """
        stack, self._stack = self._stack, None
        if stack is None:
            return
        self._closed = True
        bound_s = self.config.delivery_timeout_ms / 1000 + CLOSE_MARGIN_S if timeout_s is None else timeout_s
        try:
            with contextlib.suppress(KafkaError):
                await self.flush(bound_s)
        finally:
            for task in (*self._finders, *self._way.tasks):
                task.cancel()
            why = KafkaError(ErrorCode.REQUEST_TIMED_OUT, "The producer was closed before the record was stored.")
            for outbox in {batch.outbox for batch in self._way.unfinished}:
                outbox.give_up(why)
            await stack.aclose()

    # --- sending -----------------------------------------------------------------------------------------------

    async def send(
        self,
        topic: str,
        value: Any = None,
        *,
        key: Any = None,
        headers: Headers = (),
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> Sent:
        """Send one record and wait until it is stored as `acks` asks; gives its place.

        Waits for room where `buffer_bytes` are used up. A cancelled `send` takes nothing back: a record that was taken
        is still delivered, once. Raises `DeliveryError` (`.record`) when it could not be stored, and whatever
        `send_nowait` raises.

            sent = await producer.send("orders", b"1 x tea", key=b"table-4", headers=[("trace", b"7f")])
        """
        while True:
            try:
                future = self.send_nowait(
                    topic, value, key=key, headers=headers, partition=partition, timestamp_ms=timestamp_ms
                )
            except BufferFullError:
                await self.ready()
            else:
                return await future

    def send_nowait(
        self,
        topic: str,
        value: Any = None,
        *,
        key: Any = None,
        headers: Headers = (),
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> asyncio.Future[Sent]:
        """Take one record and return at once; the future gives its place or a `DeliveryError`.

        Records of one partition are stored in the order they are taken. Raises, with nothing taken: `BufferFullError`
        (wait with `await producer.ready()`), `SerializationError`, and DeliveryError with MESSAGE_TOO_LARGE,
        INVALID_RECORD (no key on a compacted topic), INVALID_TIMESTAMP or UNKNOWN_TOPIC_OR_PARTITION.

            futures = [producer.send_nowait("orders", line) for line in lines]
            await producer.flush()
        """
        if not self._plain or headers or type(value) is not bytes or (key is not None and type(key) is not bytes):
            key, value, headers = self._serialized(topic, key, value, headers)
            nbytes = RECORD_BYTES + len(value or b"") + len(key or b"")
            for name, header in cast(Pairs, headers):
                nbytes += HEADER_OVERHEAD_BYTES + len(name.encode()) + len(header or b"")
        else:
            nbytes = RECORD_BYTES + len(value) + (0 if key is None else len(key))
        room = self._room
        used = room.used + nbytes
        if used > room.most or self._closed:
            self._no_room(topic, key, value, headers, nbytes)
        if self._version != self._topics.version:
            self._look_again()
        route = self._routes.get(topic)
        if route is None or self._finding:
            return self._later(ProducerRecord(topic, value, key, cast(Pairs, headers), partition, timestamp_ms), nbytes)
        if partition is None and key is None and self._partitioner is None:
            outbox = route.keyless()
        else:
            outbox = self._chosen(route, key, value, headers, partition)
        if nbytes > route.room_bytes or timestamp_ms is not None or route.topic.compacted:
            record = ProducerRecord(topic, value, key, cast(Pairs, headers), outbox.partition, timestamp_ms)
            timestamp_ms = check(route.topic, record, nbytes)
        else:
            timestamp_ms = time.time_ns() // 1_000_000
        room.used = used
        return outbox.add(timestamp_ms, key, value, headers, nbytes)  # type: ignore[arg-type]

    async def ready(self) -> None:
        """Return when there is room for a record as large as the one that was last refused."""
        self._hurry(1)
        try:
            await self._room.wait(min(self._room.most, max(self._refused_bytes, 1)))
        finally:
            self._hurry(-1)

    async def flush(self, timeout_s: float | None = None) -> None:
        """Return when every record taken so far is stored or has failed; the futures tell which.

        REQUEST_TIMED_OUT after `timeout_s`; without it, `delivery_timeout_ms` is the bound. Batches leave at once.
        """
        self._hurry(1)
        try:
            async with asyncio.timeout(timeout_s):
                if self._finders:
                    await asyncio.wait(self._finders)
                if waiting := [batch.done for batch in self._way.unfinished]:
                    await asyncio.wait(waiting)
        except TimeoutError:
            left = sum(len(batch.records) for batch in self._way.unfinished)
            message = f"{left} records are not stored after {timeout_s} s; they are still being sent."
            raise KafkaError(ErrorCode.REQUEST_TIMED_OUT, message) from None
        finally:
            self._hurry(-1)

    async def partitions_for(self, topic: str) -> list[TopicPartition]:
        """The partitions of a topic, which is made where `auto_create_topics` allows it; else
        UNKNOWN_TOPIC_OR_PARTITION.

            [TopicPartition("orders", 0), TopicPartition("orders", 1)] == await producer.partitions_for("orders")
        """
        if self._closed:
            raise RuntimeError("This producer is not open: use it inside `async with`.")
        found = await self._find(topic)
        return [TopicPartition(topic, number) for number in range(found.partitions)]

    # --- inside ------------------------------------------------------------------------------------------------

    def _serialized(self, topic: str, key: Any, value: Any, headers: Any) -> tuple[Any, Any, Any]:
        """Key and value as bytes or None, headers as pairs; `SerializationError` names the part that is none."""
        part: Any = "key"
        try:
            made_key = to_bytes(key, self.config.key_serializer)
            part = "value"
            made_value = to_bytes(value, self.config.value_serializer)
            part = "headers"
            pairs = headers.items() if isinstance(headers, Mapping) else headers
            made_headers = tuple((name + "", to_bytes(header, None)) for name, header in pairs)
        except Exception as fault:
            record = ProducerRecord(topic, value, key, headers)
            raise SerializationError(
                ErrorCode.INVALID_RECORD, f"The {part} of a record for {topic} cannot be made bytes: {fault}", record
            ) from fault
        return made_key, made_value, made_headers

    def _no_room(self, topic: str, key: Any, value: Any, headers: Any, nbytes: int) -> None:
        """Refuse a record that does not fit now, or never will."""
        if self._closed:
            raise RuntimeError("This producer is not open: use it inside `async with`.")
        if nbytes > self._room.most:
            raise DeliveryError(
                ErrorCode.MESSAGE_TOO_LARGE,
                f"A record of {nbytes} bytes exceeds buffer_bytes, {self._room.most}.",
                ProducerRecord(topic, value, key, headers),
            )
        self._refused_bytes = nbytes
        raise BufferFullError(
            f"buffer_bytes ({self._room.most}) are taken and not yet stored; await producer.ready() before the next."
        )

    def _chosen(self, route: Route, key: Any, value: Any, headers: Any, partition: int | None) -> Outbox:
        """The outbox of a record that has a key, or names its partition, or leaves the choice to a function."""
        if partition is None:
            if self._partitioner is not None:
                partition = self._partitioner(route.topic.name, key, route.partitions)
            elif key is None:
                return route.keyless()
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

    def _finished(self, batch: Batch) -> None:
        self._room.give(batch.nbytes)

    def _hurry(self, by: int) -> None:
        """Batches leave as they are while somebody waits for all of them, or for room."""
        self._way.urgent += by
        if by > 0:
            for outbox in {batch.outbox for batch in self._way.unfinished}:
                outbox.pump()

    # --- topics ------------------------------------------------------------------------------------------------

    def _look_again(self) -> None:
        """Topics have changed: keep to their new configs and partitions, and forget those that are gone."""
        self._version = self._topics.version
        for name, route in list(self._routes.items()):
            topic = self._topics.get(name)
            if topic is None:
                del self._routes[name]  # what is under way finds out by itself
            elif topic is not route.topic:
                self._routes[name] = Route(topic, self._way, route)

    def _later(self, record: ProducerRecord, nbytes: int) -> asyncio.Future[Sent]:
        """Keep a record until its topic is known; the ones behind it wait too."""
        future: asyncio.Future[Sent] = self._create_future()
        waiting = self._finding.get(record.topic)
        if waiting is None:
            if (topic := self._topics.get(record.topic)) is not None:
                self._routes[record.topic] = Route(topic, self._way, self._routes.get(record.topic))
            if record.topic in self._routes:
                return self._take(record, nbytes, future)
            waiting = self._finding[record.topic] = []
            task = asyncio.get_running_loop().create_task(self._find_for(record.topic, waiting))
            self._finders.add(task)
            task.add_done_callback(self._finders.discard)
        waiting.append((record, nbytes, future))
        self._room.used += nbytes
        return future

    def _take(self, record: ProducerRecord, nbytes: int, future: asyncio.Future[Sent]) -> asyncio.Future[Sent]:
        """The long way of a record into its outbox."""
        route = self._routes[record.topic]
        outbox = self._chosen(route, record.key, record.value, record.headers, record.partition)
        timestamp_ms = check(route.topic, record, nbytes)
        self._room.used += nbytes
        return outbox.add(timestamp_ms, record.key, record.value, tuple(record.headers), nbytes, future)

    async def _find_for(self, name: str, waiting: list[tuple[ProducerRecord, int, asyncio.Future[Sent]]]) -> None:
        """Find a topic, then send what was waiting for it; where there is none, all of it fails."""
        failure = KafkaError(ErrorCode.REQUEST_TIMED_OUT, "The producer was closed before the record was stored.")
        try:
            topic = await self._find(name)
            self._routes[name] = Route(topic, self._way, None)
        except KafkaError as error:
            failure = error
        finally:
            del self._finding[name]
            found = name in self._routes
            for record, nbytes, future in waiting:
                self._room.used -= nbytes
                why = failure
                if found:
                    try:
                        self._take(record, nbytes, future)
                        continue
                    except KafkaError as refused:
                        why = refused
                if not future.done():
                    future.set_exception(DeliveryError(why.code, why.message, record))
                    future.exception()
            self._room.give(0)

    async def _find(self, name: str) -> Topic:
        """The topic, made if it may be; asks again, while Redis is away, until `delivery_timeout_ms` are over."""
        deadline = time.monotonic() + self.config.delivery_timeout_ms / 1000
        while True:
            try:
                if self._settings.auto_create_topics:
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


def to_bytes(value: Any, serializer: Callable[[Any], bytes | None] | None) -> bytes | None:
    """Bytes of a key or value: by its serializer, else bytes as they are and text as UTF-8."""
    made = value if serializer is None else serializer(value)
    if made is None or type(made) is bytes:
        return made
    if isinstance(made, str):
        return made.encode()
    if isinstance(made, (bytes, bytearray, memoryview)):
        return bytes(made)
    advice = "give bytes or str, or set key_serializer and value_serializer" if serializer is None else "not bytes"
    raise TypeError(f"{type(made).__name__}: {advice}.")


def check(topic: Topic, record: ProducerRecord, nbytes: int) -> int:
    """The timestamp of a record that its topic takes; DeliveryError for one it would refuse.

    `nbytes` is the most it may take in a batch; only where that is too much it is measured.
    """

    def refused(code: ErrorCode, why: str) -> DeliveryError:
        return DeliveryError(code, why, record)

    now_ms = time.time_ns() // 1_000_000
    timestamp_ms = now_ms if record.timestamp_ms is None else record.timestamp_ms
    nbytes += HEADER_BYTES
    if nbytes > topic.max_message_bytes:
        one = Record(0, timestamp_ms, record.key, record.value, record.headers)
        nbytes = HEADER_BYTES + len(join_records([one], 0)[0])
    if nbytes > topic.max_message_bytes:
        raise refused(
            ErrorCode.MESSAGE_TOO_LARGE,
            f"A record of {nbytes} bytes exceeds max.message.bytes of {topic.name}, {topic.max_message_bytes}.",
        )
    if topic.compacted and record.key is None:
        raise refused(ErrorCode.INVALID_RECORD, f"{topic.name} is compacted: it takes no record without a key.")
    if record.timestamp_ms is None or topic.log_append_time:
        return timestamp_ms
    if timestamp_ms < 0:
        raise refused(ErrorCode.INVALID_TIMESTAMP, f"Timestamp {timestamp_ms} is before 1970.")
    if timestamp_ms < now_ms - topic.timestamp_before_max_ms:
        raise refused(
            ErrorCode.INVALID_TIMESTAMP,
            f"Timestamp {timestamp_ms} is older than message.timestamp.before.max.ms of {topic.name} allows.",
        )
    if timestamp_ms > now_ms + topic.timestamp_after_max_ms:
        raise refused(
            ErrorCode.INVALID_TIMESTAMP,
            f"Timestamp {timestamp_ms} is later than message.timestamp.after.max.ms of {topic.name} allows.",
        )
    return timestamp_ms
