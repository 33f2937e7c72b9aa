"""A subscription at work: one member of a group reads a topic and its retry topics, and hands records to a handler.

    Consumer.getmany ──► not due yet: the partition rests until then
                    └──► Lanes: in order per partition or key ──► decode ──► handler ──► done
                                                                     └── fails ──► retry topic, or dead letters
    committed: per partition up to the first record that is not done

A record is done when its handler has returned, or when the retry or dead-letter record that stands for it is stored.
Where neither is configured, or cannot be stored, the subscription stops and commits nothing of it: nothing is skipped
that nobody allowed to skip.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from redbroker.client.config import configure
from redbroker.client.consumer import Consumer
from redbroker.client.consumer_config import ConsumerConfig, RebalanceListener
from redbroker.client.context import Context
from redbroker.client.keyed import Lanes
from redbroker.client.retries import NEVER, Failure, Retry, failure_of, headers_after, retry_topic
from redbroker.client.threads import Threads
from redbroker.client.tracing import failed, processing
from redbroker.client.types import ConsumerRecord, OffsetAndMetadata
from redbroker.errors import KafkaError
from redbroker.types import TopicPartition

if TYPE_CHECKING:
    from redbroker.client.app import RedBroker, TypedTopic

__all__ = ["Counts", "Running", "Subscription"]

log = logging.getLogger(__name__)

TAKEN_BY = {
    "group_id": "its group is `group`",
    "enable_auto_commit": "it commits what is done with, by itself",
    "key_deserializer": "the topic's types decode",
    "value_deserializer": "the topic's types decode",
}
Undecodable = Literal["raise", "skip", "dead-letter"]
READ_RECORDS = 500
READ_MS = 1_000
LAST_COMMIT_MS = 5_000
"""How long a stop waits for Redis to take the last commit; what it does not take is handled again."""


@dataclass
class Counts:
    """What one subscription has done in this process."""

    handled: int = 0
    retried: int = 0
    dead: int = 0
    skipped: int = 0


@dataclass(frozen=True)
class Subscription:
    """What `@topic.subscribe(…)` was told, and the handler."""

    topic: TypedTopic[Any, Any]
    group: str
    handler: Callable[..., Any]
    parallel_by_key: int = 1
    retry: Retry = NEVER
    dlq: str | None = None
    undecodable: Undecodable = "raise"
    to: str | None = None
    drain_s: float = 10.0
    stuck_after_s: float = 300.0
    commit_interval_s: float = 0.2
    in_flight_max: int = 1_000
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.undecodable not in ("raise", "skip", "dead-letter"):
            raise ValueError(f"undecodable = {self.undecodable!r} is wrong: raise, skip or dead-letter.")
        if self.undecodable == "dead-letter" and self.dlq is None:
            raise ValueError("undecodable = 'dead-letter' needs dlq: the name of the dead-letter topic.")
        if not 1 <= self.parallel_by_key <= self.in_flight_max:
            raise ValueError(
                f"parallel_by_key = {self.parallel_by_key} is wrong: 1 to in_flight_max, {self.in_flight_max}."
            )
        if not isinstance(self.retry, Retry):
            raise TypeError(f"retry = {self.retry!r} is wrong: say how, as in Retry(attempts=3).")
        if self.stuck_after_s <= 0:
            raise ValueError(f"stuck_after_s = {self.stuck_after_s} is wrong: above 0.")
        if self.dlq == self.topic.name:
            raise ValueError(f"dlq = {self.dlq!r} is wrong: dead letters would be handled again at once, for ever.")
        own = {each.name for each in fields(self)} - {"settings"}
        configure(ConsumerConfig, None, None, self.settings, shared=True, beside=own)
        for name in TAKEN_BY.keys() & {each.replace(".", "_").replace("-", "_") for each in self.settings}:
            raise ValueError(f"{name} is no setting of a subscription: {TAKEN_BY[name]}.")

    @property
    def topics(self) -> list[str]:
        """The topic, and its retry topics."""
        again = [retry_topic(self.topic.name, self.group, attempt) for attempt in range(1, self.retry.attempts)]
        return [self.topic.name, *again]


class Running(RebalanceListener):
    """One subscription that runs, until it is stopped or fails."""

    def __init__(self, subscription: Subscription, app: RedBroker) -> None:
        self.subscription, self._app = subscription, app
        self.counts = Counts()
        self.failures: list[tuple[ConsumerRecord, Exception]] | None = None  # kept by tests
        self.taken: dict[TopicPartition, int] = {}  # per partition, the offset behind what was taken up
        self.resting: dict[TopicPartition, asyncio.Task[None]] = {}
        self._left_out: set[TopicPartition] = set()  # what was read of these and not taken up is read again
        self.lanes: Lanes[ConsumerRecord] = Lanes(
            self._handle, parallel=self._width(), most=max(self._width(), subscription.in_flight_max)
        )
        self.consumer = Consumer(
            storage=app.connection, group_id=subscription.group, enable_auto_commit=False,
            undecodable="skip" if subscription.undecodable == "skip" else "raise",  # of batches that are broken
            **{"auto_offset_reset": "earliest", **subscription.settings},
        )  # fmt: skip
        self._committed: dict[TopicPartition, int] = {}
        self._threads = Threads()  # of a handler that is not async
        handler = subscription.handler
        self._async = inspect.iscoroutinefunction(handler)
        self._with_context = len(inspect.signature(handler).parameters) > 1

    def _width(self) -> int:
        """How many handlers run at once; without keys, one for each of some partitions."""
        return max(self.subscription.parallel_by_key, 1 if self.subscription.parallel_by_key > 1 else 16)

    @property
    def hangs(self) -> bool:
        """Whether a handler has had its record for more than `stuck_after_s`."""
        return self.lanes.oldest_s > self.subscription.stuck_after_s

    # --- reading and committing ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Read until cancelled, which finishes what runs, commits and leaves the group; raises what ended it."""
        async with self.consumer as consumer:
            consumer.subscribe(self.subscription.topics, listener=self)
            work = [
                asyncio.create_task(each) for each in (self._read(), self._commit_now_and_then(), self.lanes.broken())
            ]
            try:
                done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                rests = list(self.resting.values())
                for task in (*work, *rests):
                    task.cancel()
                await asyncio.wait([*work, *rests])
                done_with = await self.lanes.close(self.subscription.drain_s)
                self._threads.close()
                with contextlib.suppress(KafkaError):
                    await self._commit(done_with, LAST_COMMIT_MS)

    async def _read(self) -> None:
        while True:
            records = await self.consumer.getmany(max_records=READ_RECORDS, timeout_ms=READ_MS)
            self._left_out.clear()
            for record in records:
                await self._take(record)

    async def _take(self, record: ConsumerRecord) -> None:
        place = TopicPartition(record.topic, record.partition)
        if place in self._left_out:
            return
        if record.topic != self.subscription.topic.name:
            due_ms = failure_of(record).due_ms
            if due_ms > self._app.clock.now_ms():
                await self._rest(place, record.offset, due_ms)
                return
        lane: Hashable = place
        if self.subscription.parallel_by_key > 1:
            lane = (place, record.key) if record.key is not None else (place, record.offset, None)
        taken = self.lanes.put(place, record.offset, lane, record, wanted=lambda: place not in self._left_out)
        if await taken:
            self.taken[place] = record.offset + 1

    async def _rest(self, place: TopicPartition, offset: int, due_ms: int) -> None:
        """Read no more of a retry topic's partition until its first record is due."""
        self._left_out.add(place)
        self.consumer.pause(place)
        await self.consumer.seek(place, offset)

        async def wake() -> None:
            await self._app.clock.until(due_ms)
            self.resting.pop(place, None)
            if place in self.consumer.assignment():
                self.consumer.resume(place)

        self.resting[place] = asyncio.create_task(wake())

    async def _commit_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(self.subscription.commit_interval_s)
            try:
                await self._commit(self.lanes.committable())
            except KafkaError as refused:
                log.info("Group %r: not committed now: %s", self.subscription.group, refused)

    async def _commit(self, offsets: dict[TopicPartition, int], timeout_ms: float | None = None) -> None:
        """Commit what has moved, of partitions that are still ours: of others it would be refused."""
        ours = self.consumer.assignment()
        moved = {
            place: offset for place, offset in offsets.items()
            if place in ours and self._committed.get(place) != offset
        }  # fmt: skip
        if moved:
            named = {place: OffsetAndMetadata(offset) for place, offset in moved.items()}
            await self.consumer.commit(named, timeout_ms=timeout_ms)
            self._committed |= moved

    # --- rebalances ----------------------------------------------------------------------------------------------

    async def on_revoked(self, partitions: Iterable[TopicPartition]) -> None:
        """Hand nothing more out, finish what runs within `drain_s`, commit it."""
        await self._commit(await self._forget(partitions, self.subscription.drain_s))

    async def on_lost(self, partitions: Iterable[TopicPartition]) -> None:
        """Somebody else has them already: stop at once, commit nothing."""
        await self._forget(partitions, 0)

    async def _forget(self, partitions: Iterable[TopicPartition], drain_s: float) -> dict[TopicPartition, int]:
        gone = list(partitions)
        self._left_out.update(gone)
        for place in gone:
            if rest := self.resting.pop(place, None):
                rest.cancel()
        done = await self.lanes.give_up(gone, drain_s)
        for place in gone:
            self.taken.pop(place, None)
            self._committed.pop(place, None)
        return done

    # --- one record ----------------------------------------------------------------------------------------------

    async def _handle(self, record: ConsumerRecord) -> None:
        with processing(record, self.subscription.group) as span:
            await self._attempt(record, span)

    async def _attempt(self, record: ConsumerRecord, span: Any) -> None:
        subscription = self.subscription
        try:
            decoded = subscription.topic.decode(record)
        except Exception as wrong:
            await self._undecodable(record, wrong)
            failed(span, wrong)
            return
        context = Context(decoded, self._before(record), subscription.group, self._app.send)
        try:
            result = await self._call(decoded.value, context)
            if subscription.to is not None and result is not None:
                await self._app.send(subscription.to, result, key=decoded.key)
        except Exception as error:
            await self._failed(record, context.attempt, error)
            failed(span, error)
            return
        self.counts.handled += 1

    async def _call(self, value: Any, context: Context) -> Any:
        words = (value, context) if self._with_context else (value,)
        if self._async:
            return await self.subscription.handler(*words)
        result = await self._threads.run(self.subscription.handler, *words)
        return await result if inspect.isawaitable(result) else result  # an async one that does not look it

    def _before(self, record: ConsumerRecord) -> Failure:
        """The attempts so far; in the topic itself there was none, though others may have sent a dead letter there."""
        found = failure_of(record)
        return found._replace(attempts=0, due_ms=0) if record.topic == self.subscription.topic.name else found

    async def _failed(self, record: ConsumerRecord, attempt: int, error: Exception) -> None:
        """Another try later, the dead letters, or the end of the subscription."""
        subscription, retry = self.subscription, self.subscription.retry
        if self.failures is not None:
            self.failures.append((record, error))
        if retry.again(attempt, error):
            due_ms = self._app.clock.now_ms() + round(retry.pause_s(attempt) * 1000)
            headers = headers_after(record, error, subscription.group, due_ms, self._before(record))
            topic = retry_topic(subscription.topic.name, subscription.group, attempt)
            await self._app.send_bytes(topic, record.value, key=record.key, headers=headers)
            self.counts.retried += 1
            log.info("%s: %r is tried again in %s s.", place_of(record), error, retry.pause_s(attempt))
        elif subscription.dlq is not None:
            await self._bury(record, error)
        else:
            raise error

    async def _undecodable(self, record: ConsumerRecord, error: Exception) -> None:
        policy = self.subscription.undecodable
        if policy == "raise":
            error.add_note("subscribe(undecodable=...) may let such records be skipped or go to the dead letters.")
            raise error
        if self.failures is not None:
            self.failures.append((record, error))
        if policy == "dead-letter":
            await self._bury(record, error)
        else:
            self.counts.skipped += 1
            log.warning("%s cannot be decoded and is skipped: %s", place_of(record), error)

    async def _bury(self, record: ConsumerRecord, error: Exception) -> None:
        assert self.subscription.dlq is not None
        headers = headers_after(record, error, self.subscription.group, before=self._before(record))
        await self._app.send_bytes(self.subscription.dlq, record.value, key=record.key, headers=headers)
        self.counts.dead += 1
        log.warning("%s goes to %s: %r", place_of(record), self.subscription.dlq, error)


def place_of(record: ConsumerRecord) -> str:
    """`orders-3@41`: where a record lies, for people."""
    return f"{record.topic}-{record.partition}@{record.offset}"
