"""The batches of one partition on their way to its log: in order, each stored once, however often it is sent.

    add ─► the open batch ─► Log.submit ─► answered ─► its records' fate
              │ full, or nothing under way      │ refused, or nobody knows
              └──────────── queue ◄─────────────┘ pause, then all that is unanswered again, in order

* With nothing under way a batch leaves at the end of the loop's turn (or after `linger_ms`); else it grows until the
  one before is answered, or until it is full. When one fails, all that
  are under way are waited for before anything is sent again.
* A batch keeps its producer epoch and sequence when it is sent again, so the log recognises it. That holds for a
  producer's last five batches, hence no batch leaves that is `max_in_flight` or more behind the oldest unsettled one.
* The first batch goes alone: a log takes any sequence of a producer it does not know, so a second one that overtook it
  would make it out of order for good.
* While Redis fills up (`engine/pressure.py`) the outbox rests after each answer, as a throttled client does; once it is
  full, batches are refused and sent again until `delivery_timeout_ms`. Meanwhile `buffer_bytes` fill, and callers wait.
* When the log has not got what the oldest one follows (it was given up, or a failover lost it), it has none of the rest
  either: they are numbered from 0 again in the next epoch. A late copy of an old batch is then fenced by its epoch.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from redbroker.client.batch import Batch
from redbroker.client.clock import Clock
from redbroker.client.delivery import Delivery
from redbroker.engine.log import Append, Appended
from redbroker.errors import ErrorCode, KafkaError
from redbroker.wire.records import HEADER_BYTES, read_header

if TYPE_CHECKING:
    from redbroker.engine import Engine
    from redbroker.engine.topics import Topic

__all__ = ["Outbox", "Way"]

log = logging.getLogger(__name__)

NO_PRODUCER = -1
EPOCH_MAX = 32_767
SEQUENCE_MASK = 0x7FFFFFFF
DOUBLINGS_MAX = 10

TOPIC_CHANGED = frozenset({ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ErrorCode.UNKNOWN_TOPIC_ID})
"""Answers after which the topic is looked up again."""

GAP = frozenset({ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, ErrorCode.INVALID_PRODUCER_EPOCH})
"""Answers that tell for certain that a batch is not stored under its number, nor can be."""


@dataclass
class Way:
    """What all outboxes of a producer share; `finished` hears of every batch that is settled, `urgent` counts those
    who wait for everything to leave, `recall` ends what is lent of a batch that closes, `clock` is what timestamps are
    held against, `sent` and `failed` count records by topic."""

    engine: Engine
    finished: Callable[[Batch], None]
    acks: int
    codec: str
    idempotent: bool
    max_in_flight: int
    batch_bytes: int
    linger_s: float
    delivery_timeout_s: float
    request_timeout_ms: int
    pause_s: float
    pause_max_s: float
    recall: Callable[[], None] = lambda: None
    clock: Clock = field(default_factory=Clock)
    urgent: int = 0
    sent: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    unfinished: set[Batch] = field(default_factory=set)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)


class Outbox:
    """One partition's batches; not for use by more than one event loop."""

    def __init__(self, way: Way, topic: Topic, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.left_bytes = 0  # of batches that left, since somebody last set this to 0
        self._way = way
        self._loop = asyncio.get_running_loop()
        self.limit = min(way.batch_bytes, topic.max_message_bytes - HEADER_BYTES)
        self._queue: deque[Batch] = deque()  # every unsettled batch, oldest first; the last one may be open
        self.open: Batch | None = None
        self._underway = 0
        self._producer_id = way.engine.new_producer_id() if way.idempotent else NO_PRODUCER
        self._epoch = 0 if way.idempotent else -1
        self._sequence = 0
        self._count = 0
        self._known = not way.idempotent  # the log knows this producer in this epoch
        self._renumber = False
        self._failure: KafkaError | None = None  # why something is sent again
        self._failures = 0
        self._resting = False  # Redis fills up

    @property
    def waiting_bytes(self) -> int:
        """Bytes taken and not yet settled."""
        return sum(batch.nbytes for batch in self._queue)

    def add(
        self,
        timestamp_ms: int,
        key: bytes | None,
        value: bytes | None,
        headers: tuple[tuple[str, bytes | None], ...],
        nbytes: int,
    ) -> Delivery:
        """Put a record at the end; `nbytes` is the most it takes in a batch."""
        batch = self.open if self.fits(nbytes) else None
        if batch is None:
            batch = self._begin()
        return batch.add(timestamp_ms, key, value, headers, nbytes)

    def fits(self, nbytes: int) -> bool:
        """Whether the open batch, if there is one, takes so many bytes; it is closed if it does not."""
        batch = self.open
        if batch is None:
            return True
        if batch.left:
            self._way.recall()
        if batch.nbytes + nbytes <= self.limit:
            return True
        self._close(batch)
        self._loop.call_soon(self.pump)
        return False

    def _close(self, batch: Batch) -> None:
        """The open batch takes no more."""
        self.open = None
        if batch.left:
            self._way.recall()
        self.left_bytes += batch.nbytes

    def _begin(self) -> Batch:
        """Open the next batch."""
        way = self._way
        done = self._loop.create_future()
        batch = self.open = Batch(self, self._count, time.monotonic() + way.delivery_timeout_s, done)
        self._count += 1
        self._queue.append(batch)
        way.unfinished.add(batch)
        if not way.linger_s or way.urgent:
            self._loop.call_soon(self.pump)
        if way.linger_s:
            self._loop.call_later(way.linger_s, self._lingered, batch)
        return batch

    def _lingered(self, batch: Batch) -> None:
        if batch is self.open:
            self.pump(lingered=True)

    def follow(self, topic: Topic) -> None:
        """The topic has other configs now."""
        self.topic = topic
        self.limit = min(self._way.batch_bytes, topic.max_message_bytes - HEADER_BYTES)

    # --- sending -----------------------------------------------------------------------------------------------

    def pump(self, lingered: bool = False) -> None:
        """Send what may leave now."""
        if self._failure is not None or self._resting or not self._queue:
            return
        way = self._way
        most = way.max_in_flight if self._known else 1
        for batch in tuple(self._queue):
            if batch.underway:
                continue
            if self._underway >= most or batch.number >= self._queue[0].number + most:
                return  # with more behind the oldest one, the log might no longer recognise it
            if batch is self.open:
                waited = lingered or not way.linger_s or time.monotonic() >= self._lingers_until(batch)
                if not (way.urgent or (waited and not self._underway)):
                    return
                self._close(batch)
            self._send(batch)

    def _lingers_until(self, batch: Batch) -> float:
        return batch.deadline - self._way.delivery_timeout_s + self._way.linger_s

    def _send(self, batch: Batch) -> None:
        way = self._way
        if not batch.encoded:
            try:
                self._encode(batch)
            except Exception as fault:  # a codec's own failure must not stop the partition for good
                self._fail(batch, KafkaError(ErrorCode.UNKNOWN_SERVER_ERROR, f"The batch cannot be built: {fault!r}."))
                return
        batch.underway, batch.first = True, batch is self._queue[0]
        self._underway += 1
        entry = Append(self.topic, self.partition, batch.encoded, read_header(batch.encoded))
        (answer,) = way.engine.log.submit([entry], acks=way.acks, timeout_ms=way.request_timeout_ms)
        answer.add_done_callback(lambda answer: self._answered(batch, answer))
        if way.acks == 0:  # nobody waits for an answer
            self._settle(batch, NOWHERE)

    def _encode(self, batch: Batch) -> None:
        """Number the batch, the first time, and make its bytes."""
        if self._way.idempotent and batch.sequence < 0:
            batch.sequence = self._sequence
            self._sequence = (self._sequence + len(batch)) & SEQUENCE_MASK
        batch.encode(self.topic, self._way.codec, self._producer_id, self._epoch)

    # --- answers -----------------------------------------------------------------------------------------------

    def _answered(self, batch: Batch, answer: asyncio.Future[Appended | KafkaError]) -> None:
        batch.underway = False
        self._underway -= 1
        if answer.cancelled():
            result: Appended | KafkaError = KafkaError(ErrorCode.NETWORK_EXCEPTION, "The storage was closed.")
        else:
            result = answer.result()
        if batch.done.done():  # given up meanwhile, or acks=0
            if isinstance(result, KafkaError) and self._way.acks == 0:
                log.warning("Records for %s-%d were lost: %s", self.topic.name, self.partition, result)
        elif isinstance(result, Appended):
            self._known = True
            self._failures = 0
            self._settle(batch, result)
        else:
            self._refused(batch, result)
        if not self._way.engine.pressure.calm:
            self._rest()
        if self._failure is None:
            self.pump()
        elif not self._underway:
            self._recover()

    def _rest(self) -> None:
        """Pause as a client does that a broker throttles, while the master of this partition fills up."""
        engine = self._way.engine
        pause_ms = engine.pressure.throttle_ms(engine.log.partitions.get(self.topic, self.partition).keys.log)
        if pause_ms and not self._resting:
            self._resting = True
            self._loop.call_later(pause_ms / 1000, self._rested)

    def _rested(self) -> None:
        self._resting = False
        self.pump(lingered=True)

    def _refused(self, batch: Batch, error: KafkaError) -> None:
        """Send it again, with everything after it, or give it up."""
        if error.code in GAP:
            self._renumber |= batch.first  # else it may only be behind one that is sent again
        elif not error.retriable:
            self._fail(batch, error)
        # What the oldest one was told is what matters: those behind it are out of order because of it.
        if self._failure is None or batch.first:
            self._failure = error

    def _recover(self) -> None:
        """Nothing is under way, and something failed."""
        if not self._queue:
            self._go_on()
            return
        task = self._loop.create_task(self._try_again())
        self._way.tasks.add(task)
        task.add_done_callback(self._way.tasks.discard)

    async def _try_again(self) -> None:
        """Pause, see whether the topic still is, give up what is too late, and send the rest again."""
        failure, way = self._failure, self._way
        assert failure is not None
        await asyncio.sleep(min(way.pause_max_s, way.pause_s * 2 ** min(self._failures, DOUBLINGS_MAX)))
        self._failures += 1
        if failure.code not in TOPIC_CHANGED or await self._find_topic():
            self._expire(failure)
        self._go_on()

    def _go_on(self) -> None:
        if self._renumber:
            self._start_anew()
        self._failure = None
        self.pump()

    async def _find_topic(self) -> bool:
        """Whether the topic still exists, perhaps made anew; where it does not, everything for it is given up."""
        topics = self._way.engine.topics
        with contextlib.suppress(KafkaError):
            await topics.reload()
            topic = topics.get(self.topic.name)
            if topic is None or self.partition >= topic.partitions:
                gone = f"{self.topic.name}-{self.partition} was deleted before its records were stored."
                self.give_up(KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, gone))
                return False
            if topic.id != self.topic.id:
                self._known = not self._way.idempotent
            self.follow(topic)
        return True

    def _expire(self, failure: KafkaError) -> None:
        now = time.monotonic()
        while self._queue and self._queue[0].deadline <= now:
            batch = self._queue[0]
            bound_ms = self._way.delivery_timeout_s * 1000
            late = f"Not stored within delivery_timeout_ms ({bound_ms:.0f}); the last try: {failure}"
            self._fail(batch, KafkaError(ErrorCode.REQUEST_TIMED_OUT, late))

    def _start_anew(self) -> None:
        """Number what is unsettled from 0 in the next epoch."""
        self._renumber = False
        self._epoch += 1
        if self._epoch > EPOCH_MAX:
            self._producer_id, self._epoch = self._way.engine.new_producer_id(), 0
        self._sequence, self._known = 0, False
        for batch in self._queue:
            batch.sequence, batch.encoded = -1, b""

    # --- settling ----------------------------------------------------------------------------------------------

    def _settle(self, batch: Batch, appended: Appended) -> None:
        """Tell everybody who waits where the records are."""
        self._remove(batch)
        self._way.sent[self.topic.name] += len(batch)
        batch.settle(None if appended is NOWHERE else appended.base_offset)
        self._finish(batch)

    def _fail(self, batch: Batch, error: KafkaError) -> None:
        """Tell everybody who waits that it failed, and the log once, for those who never ask."""
        self._remove(batch)
        name, count = self.topic.name, len(batch)
        self._way.failed[name] += count
        log.error("%d records for %s-%d were not delivered: %s", count, name, self.partition, error)
        batch.fail(error)
        self._finish(batch)

    def give_up(self, error: KafkaError) -> None:
        """Fail all that is unsettled."""
        for batch in list(self._queue):
            self._fail(batch, error)

    def _remove(self, batch: Batch) -> None:
        if batch is self.open:
            self._close(batch)
        self._queue.remove(batch)

    def _finish(self, batch: Batch) -> None:
        batch.done.set_result(None)
        self._way.unfinished.discard(batch)
        self._way.finished(batch)


NOWHERE = Appended(-1, -1, -1, False)
"""What a record of acks=0 is told."""
