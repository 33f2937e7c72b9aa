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
from collections.abc import Mapping
from time import time_ns
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from redbroker.client.admission import RECORD_BYTES, Headers, Pairs, check, headers_nbytes, serialized
from redbroker.client.batch import NOTHING_LENT, Batch
from redbroker.client.config import configure
from redbroker.client.connection import Connection, engine_of
from redbroker.client.delivery import Delivery
from redbroker.client.errors import BufferFullError, DeliveryError, ProducerRecord
from redbroker.client.outbox import Outbox, Way
from redbroker.client.producer_config import ProducerConfig
from redbroker.client.room import Room
from redbroker.client.routes import Routes
from redbroker.client.tracing import Api, carried, injected, installed
from redbroker.client.types import Sent
from redbroker.errors import ErrorCode, KafkaError
from redbroker.types import TopicPartition

if TYPE_CHECKING:
    from redbroker.engine import Engine

__all__ = ["Producer", "ProducerConfig"]

CLOSE_MARGIN_S = 5.0


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
        self.config, self._settings = configure(ProducerConfig, url, config, settings, shared=shared is not None)
        if shared is not None:
            self._settings = shared.settings
        self._shared = shared
        self._stack: contextlib.AsyncExitStack | None = None
        self._closed = True
        self._in_line = 0  # sends that wait for room
        self._room = Room(self.config.buffer_bytes)
        self._refused_bytes = 0
        self._traces: Api | None = None
        partitioner = self.config.partitioner
        self._partitioner = None if isinstance(partitioner, str) else partitioner
        self._serializers = (self.config.key_serializer, self.config.value_serializer)
        self._plain = self._serializers == (None, None)
        self._lent: Batch = NOTHING_LENT

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
            recall=self._recall,
            clock=Connection.clock if self._shared is None else self._shared.clock,
        )
        self._routes = Routes(
            engine.topics, self._way, self._room, self._partitioner,
            self._settings.auto_create_topics, config.delivery_timeout_ms / 1000,
        )  # fmt: skip
        self._unwatch = engine.topics.watch(self._recall)
        self._turn = asyncio.Lock()  # of sends that wait for room, first come, first served
        self._traces = installed()
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
        bound_s = self.config.delivery_timeout_ms / 1000 + CLOSE_MARGIN_S if timeout_s is None else timeout_s
        try:
            with contextlib.suppress(TimeoutError, KafkaError):
                async with asyncio.timeout(bound_s):
                    if self._in_line:
                        await self._everybody_had_his_turn()
                    self._shut()
                    await self.flush()
        finally:
            self._shut()
            self._unwatch()
            for task in (*self._routes.finders, *self._way.tasks):
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

        Waits for room where `buffer_bytes` are used up, first come, first served. A cancelled `send` takes nothing
        back: a record that was taken is still delivered, once. Raises `DeliveryError` (`.record`) when it could not be
        stored, and whatever `send_nowait` raises.

            sent = await producer.send("orders", b"1 x tea", key=b"table-4", headers=[("trace", b"7f")])
        """
        delivery: Delivery | None = None
        if not self._in_line:
            try:
                delivery = self.send_nowait(
                    topic, value, key=key, headers=headers, partition=partition, timestamp_ms=timestamp_ms
                )
            except BufferFullError:
                delivery = None
        if delivery is None:
            delivery = await self._in_turn(
                topic, value, key=key, headers=headers, partition=partition, timestamp_ms=timestamp_ms
            )
        fate, place = delivery
        if not fate.settled:
            await fate.waiter(place)  # nobody else has this handle: what waits for it is simply left behind
        return delivery.result()

    def send_nowait(
        self,
        topic: str,
        value: Any = None,
        *,
        key: Any = None,
        headers: Headers = (),
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> Delivery:
        """Take one record and return at once; the `Delivery` gives its place or a `DeliveryError` when awaited.

        Records of one partition are stored in the order they are taken. Raises, with nothing taken: `BufferFullError`
        (wait with `await producer.ready()`), `SerializationError`, and DeliveryError with MESSAGE_TOO_LARGE,
        INVALID_RECORD (no key on a compacted topic), INVALID_TIMESTAMP or UNKNOWN_TOPIC_OR_PARTITION.

            deliveries = [producer.send_nowait("orders", line) for line in lines]
            await producer.flush()
        """
        added = () if self._traces is None else carried(self._traces)
        batch = self._lent
        if (
            batch.topic == topic
            and type(value) is bytes
            and key is None
            and partition is None
            and timestamp_ms is None
            and not headers
            and not added
            and (left := batch.left - RECORD_BYTES - len(value)) >= 0
        ):
            if (now_ns := time_ns()) >= batch.until_ns:
                batch.tick(now_ns)
            batch.left = left
            batch.append(value)
            return batch.take()
        return self._send_nowait(topic, value, key, headers, partition, timestamp_ms, added)

    def _send_nowait(
        self, topic: str, value: Any, key: Any, headers: Any, partition: int | None, timestamp_ms: int | None,
        added: Pairs,
    ) -> Delivery:  # fmt: skip
        """The long way, which may end with a batch lent to the short one."""
        if self._lent is not NOTHING_LENT:
            self._recall()
        if (
            not self._plain
            or headers
            or added
            or type(value) is not bytes
            or (key is not None and type(key) is not bytes)
        ):
            config = self.config
            key, value, headers, nbytes = serialized(
                topic, key, value, headers, config.key_serializer, config.value_serializer
            )
            if added:
                headers = injected(headers, added)
                nbytes += headers_nbytes(added)
        else:
            nbytes = RECORD_BYTES + len(value) + (0 if key is None else len(key))
        room = self._room
        used = room.used + nbytes
        if used > room.most or self._closed:
            self._no_room(topic, key, value, headers, nbytes)
        routes = self._routes
        if routes.version != self._topics.version:
            routes.look_again()
        route = routes.known.get(topic)
        if route is None:
            record = ProducerRecord(topic, value, key, cast(Pairs, headers), partition, timestamp_ms)
            return routes.later(record, nbytes)
        if partition is None and key is None and self._partitioner is None:
            outbox = route.keyless(nbytes)
        else:
            outbox = routes.choose(route, key, value, headers, partition, nbytes)
        if nbytes > route.room_bytes or timestamp_ms is not None or route.topic.compacted:
            record = ProducerRecord(topic, value, key, cast(Pairs, headers), outbox.partition, timestamp_ms)
            timestamp_ms = check(route.topic, record, nbytes, self._way.clock.now_ms())
        else:
            timestamp_ms = time_ns() // 1_000_000
        delivery = outbox.add(timestamp_ms, key, value, headers, nbytes)
        room.used = used
        if partition is None and key is None and self._plain and self._partitioner is None:
            self._lend(outbox, route.topic.compacted)
        return delivery

    async def ready(self) -> None:
        """Return when there is room for a record as large as the one that was last refused."""
        self._recall()
        self._hurry(1)
        try:
            await self._room.wait(min(self._room.most, max(self._refused_bytes, 1)))
        finally:
            self._hurry(-1)

    async def flush(self, timeout_s: float | None = None) -> None:
        """Return when every record sent so far is stored or has failed; the handles tell which.

        REQUEST_TIMED_OUT after `timeout_s`; without it, `delivery_timeout_ms` is the bound. Batches leave at once.
        """
        self._hurry(1)
        try:
            async with asyncio.timeout(timeout_s):
                if self._in_line:
                    await self._everybody_had_his_turn()
                if self._routes.finders:
                    await asyncio.wait(self._routes.finders)
                if waiting := [batch.done for batch in self._way.unfinished]:
                    await asyncio.wait(waiting)
        except TimeoutError:
            left = sum(len(batch) for batch in self._way.unfinished)
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
        found = await self._routes.find(topic)
        return [TopicPartition(topic, number) for number in range(found.partitions)]

    def counts(self) -> tuple[dict[str, int], dict[str, int]]:
        """Records by topic since the producer was opened: those that are stored, and those that failed.

        stored, failed = producer.counts()
        """
        return dict(self._way.sent), dict(self._way.failed)

    # --- inside ------------------------------------------------------------------------------------------------

    def _shut(self) -> None:
        """Take no more."""
        self._closed = True
        self._recall()

    async def _in_turn(self, *words: Any, **fields: Any) -> Delivery:
        """Take a record for which there is no room yet; those that come later wait behind it."""
        self._in_line += 1
        try:
            async with self._turn:
                while True:
                    try:
                        return self.send_nowait(*words, **fields)
                    except BufferFullError:
                        await self.ready()
        finally:
            self._in_line -= 1

    async def _everybody_had_his_turn(self) -> None:
        """Return when all that are in line now are taken."""
        async with self._turn:
            pass

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

    def _lend(self, outbox: Outbox, compacted: bool) -> None:
        """Let plain records to come into the open batch without more ado, for as long as nothing else happens.

        A batch that has only one record yet may stay alone: a loan would cost it more than it saves.
        What they may take is taken from the room beforehand; one batch at a time has such a loan.
        """
        batch, room = outbox.open, self._room
        if batch is None or len(batch) == 1 or not batch.plain or compacted or room.waited_for:
            return
        loan = min(outbox.limit - batch.held, room.most - room.used)
        if loan > 0:
            room.used += loan
            batch.lend(loan)
            self._lent = batch

    def _recall(self) -> None:
        """What was lent and not used is free again, and the next record goes the long way."""
        batch, self._lent = self._lent, NOTHING_LENT
        self._room.used -= batch.left
        batch.held -= batch.left
        batch.left = 0

    def _finished(self, batch: Batch) -> None:
        self._room.give(batch.held)

    def _hurry(self, by: int) -> None:
        """Batches leave as they are while somebody waits for all of them, or for room."""
        self._way.urgent += by
        if by > 0:
            for outbox in {batch.outbox for batch in self._way.unfinished}:
                outbox.pump()
