"""Consumer: records of topics, straight from Redis; alone, or sharing partitions with the other members of a group.

    async with Consumer("orders", storage="redis://localhost:6379", group_id="billing") as consumer:
        async for record in consumer:
            print(record.key, record.value)

A record counts as done when the caller asks for the next one, or leaves the block without an error; automatic commits
cover what is done, so a crash repeats records and never skips one. Members of a group may as well be Kafka clients.
Where several tasks read, each record goes to one of them, and whoever asks for the next is done with all before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Coroutine, Mapping
from types import TracebackType
from typing import Any

import anyio

from redbroker.client import look_ups
from redbroker.client.assignment import Assignment
from redbroker.client.commits import Commits, Offsets
from redbroker.client.config import configure
from redbroker.client.connection import Connection, engine_of
from redbroker.client.consumer_config import ConsumerConfig, RebalanceListener, checked_topics
from redbroker.client.fetching import Fetcher
from redbroker.client.hand import Hand
from redbroker.client.health import Health, health_of
from redbroker.client.membership import Membership
from redbroker.client.pages import keep_pages
from redbroker.client.positions import EARLIEST, LATEST, Position
from redbroker.client.types import ConsumerRecord, OffsetAndMetadata
from redbroker.engine import Engine
from redbroker.errors import ErrorCode, KafkaError
from redbroker.types import TopicPartition

__all__ = ["Consumer", "RebalanceListener"]

YIELD_S = 0.002
"""Whoever finds records at hand all the time still lets others run after this long."""


class Consumer:
    """A reader of topics; see the module and `ConsumerConfig` for its settings.

    Nothing is done before `async with`. All there is, at once:

        async with Consumer(storage="redis://localhost:6379", group_id="g", auto_offset_reset="earliest") as consumer:
            consumer.subscribe(["orders"])  # or pattern="orders-.*", listener=RebalanceListener()
            records = await consumer.getmany(500, timeout_ms=5_000)
            await consumer.commit()  # or commit_nowait(), or let it commit by itself
            first, *_ = consumer.assignment()
            await consumer.committed(first)  # {first: OffsetAndMetadata(offset=…)}
            consumer.pause(first)  # nothing of it is handed out …
            consumer.resume(first)  # … until here
            print(consumer.health().lag_s, consumer.skipped())
            await consumer.unsubscribe()

            consumer.assign([TopicPartition("orders", 0)])  # without sharing
            await consumer.seek(TopicPartition("orders", 0), 41)
            await consumer.position(TopicPartition("orders", 0))
            await consumer.seek_to_time(1_700_000_000_000)  # ms since 1970; seek_to_beginning(), seek_to_end()
            await consumer.beginning_offsets(), await consumer.end_offsets()
            await consumer.offsets_for_times({TopicPartition("orders", 0): 1_700_000_000_000})
    """

    def __init__(
        self, *topics: str, storage: str | Connection | None = None, config: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:  # fmt: skip
        self._shared = storage if isinstance(storage, Connection) else None
        url = None if isinstance(storage, Connection) else storage
        self._config, own = configure(ConsumerConfig, url, config, settings, shared=self._shared is not None)
        self._settings = self._shared.settings if self._shared else own
        self._topics: tuple[str, ...] = checked_topics(topics)
        self._pattern: str | None = None
        self._positions: dict[TopicPartition, Position] = {}
        self._hand = Hand()
        self._commits = Commits(self._config, self._positions, self._hand, lambda: self._engine)
        self._assignment = Assignment(self._config, self._positions, self._hand, self._commits.commit_done, self._nudge)
        self._yielded_s = 0.0
        self._engine_kept: Engine | None = None
        self._fetcher: Fetcher | None = None
        self._membership: Membership | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stack = contextlib.AsyncExitStack()

    # --- opening and closing -------------------------------------------------------------------------------------

    async def __aenter__(self) -> Consumer:
        if self._engine_kept is not None:
            raise RuntimeError("This consumer is open already.")
        engine = self._engine_kept = await self._stack.enter_async_context(engine_of(self._shared, self._settings))
        self._assignment.topics = engine.topics
        keep_pages(self._config.prefetch_bytes)
        self._fetcher = Fetcher(engine, self._config, self._positions, self._commits.last, self._hand.put_back)
        self._start("fetching", self._fetcher.run())
        if self._config.enable_auto_commit and self._config.group_id:
            self._start("committing", self._commits.now_and_then())
        try:
            if self._topics or self._pattern:
                self.subscribe(self._topics, pattern=self._pattern)
        except BaseException as error:
            await self.__aexit__(type(error), error, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            try:
                with anyio.move_on_after(self._config.close_timeout_ms / 1000):
                    if error is None:
                        self._hand.all_done()
                    await self._close()
                for name in list(self._tasks):
                    await self._stop(name)
                self._commits.give_up()
            finally:
                for task in self._tasks.values():  # the closing itself was cancelled
                    task.cancel()
                self._tasks.clear()
                self._nudge()
                self._engine_kept = self._fetcher = self._assignment.topics = None
                self._membership = self._commits.membership = None
                self._positions.clear()
                self._hand.clear()
                await self._stack.aclose()

    async def _close(self) -> None:
        """Commit, tell the listener, leave: as much of it as there is time for."""
        await self._stop("fetching")
        await self._stop("committing")
        await self._commits.pending()
        await self._leave()

    async def _leave(self) -> None:
        owned, membership = sorted(self._positions), self._membership
        if membership is not None and owned:
            await self._assignment.listener.on_revoked(owned)
        await self._commits.commit_done(owned)
        await self._stop("membership")
        self._membership = self._commits.membership = None
        if membership is not None:
            await membership.leave()

    # --- what to read --------------------------------------------------------------------------------------------

    def subscribe(
        self, topics: Collection[str] = (), *, pattern: str | None = None, listener: RebalanceListener | None = None
    ) -> None:
        """Share the partitions of topics, named or matched by a pattern (RE2, whole names), with the group.

        Without a `group_id`, this consumer alone reads all partitions of the topics, which must be named.
        """
        self._topics, self._pattern = checked_topics(topics), pattern
        self._assignment.listener = listener or self._assignment.listener
        if self._engine_kept is None:
            return
        if self._membership is not None or "membership" in self._tasks:
            raise RuntimeError("This consumer is subscribed: `await unsubscribe()` first.")
        if self._config.group_id is None:
            if pattern:
                raise KafkaError(ErrorCode.INVALID_GROUP_ID, "A pattern needs a group: set group_id.")
            self._assignment.adopt(self._topics)
            self._start("membership", self._assignment.follow(self._topics))
            return
        changes = self._assignment
        self._membership = self._commits.membership = Membership(
            self._engine, self._config, self._topics, pattern, changes.revoke, changes.take, changes.lose
        )
        self._start("membership", self._membership.run())

    async def unsubscribe(self) -> None:
        """Leave the group, or stop reading what was assigned."""
        await self._leave()
        await self._stop("membership")
        self._assignment.become(frozenset())
        self._topics, self._pattern = (), None

    def assign(self, partitions: Collection[TopicPartition]) -> None:
        """Read exactly these partitions, without sharing; committed offsets, if any, are of `group_id`."""
        if self._topics or self._pattern:
            raise RuntimeError("This consumer is subscribed: `await unsubscribe()` first.")
        self._assignment.become({TopicPartition(*each) for each in partitions})

    def assignment(self) -> frozenset[TopicPartition]:
        """The partitions this consumer reads now."""
        return frozenset(self._positions)

    def pause(self, *partitions: TopicPartition) -> None:
        """Hand out nothing of these until `resume`; what was fetched ahead is dropped."""
        for each in self._assignment.named(partitions):
            self._hand.put_back(each)
            each.paused = True
            each.forget_buffer()
        self._nudge()

    def resume(self, *partitions: TopicPartition) -> None:
        """Go on with paused partitions."""
        for each in self._assignment.named(partitions):
            each.paused, each.moved_s = False, time.monotonic()
        self._nudge()

    # --- records -------------------------------------------------------------------------------------------------

    def __aiter__(self) -> Consumer:
        return self

    async def __anext__(self) -> ConsumerRecord:
        """The next record: nothing is awaited while decoded ones are at hand."""
        hand = self._hand
        at = hand.at
        try:  # cheaper than to compare: the chunk ends once in hundreds of records
            record = hand.chunk[at]
        except IndexError:
            pass
        else:
            hand.at = at + 1
            return record
        hand.all_done()
        await self._let_others_run()
        await self._more(None)
        hand.at = (at := hand.at) + 1
        return hand.chunk[at]

    async def getmany(self, max_records: int = 500, timeout_ms: float = 1_000) -> list[ConsumerRecord]:
        """Up to so many records, in order per partition; an empty list when none came in time."""
        hand = self._hand
        hand.all_done()
        await self._let_others_run()
        found: list[ConsumerRecord] = []
        if hand.at == len(hand.chunk) and not await self._more(timeout_ms / 1000):
            return found
        while len(found) < max_records and (hand.chunk or self._load(raising=False)):
            found += hand.take(max_records - len(found))
        return found

    async def _more(self, timeout_s: float | None) -> bool:
        """Wait for a chunk, which another task may bring; False when time is over. Raises what only the caller can
        decide."""
        hand = self._hand
        try:
            async with asyncio.timeout(timeout_s):
                while hand.at == len(hand.chunk):
                    hand.settle()  # for another task that has the last record of its chunk in hand
                    arrived = self._opened.arrived
                    if not self._load():
                        arrived.clear()
                        await arrived.wait()
        except TimeoutError:
            return False
        return True

    async def _let_others_run(self) -> None:
        """Records at hand must not starve the heartbeats and the fetching."""
        if time.monotonic() - self._yielded_s > YIELD_S:
            await asyncio.sleep(0)
            self._yielded_s = time.monotonic()

    def _load(self, *, raising: bool = True) -> bool:
        """Decode what is buffered, unless something stands in the way, which is raised, if wished."""
        if raising and (broken := self._broken()):
            raise broken
        return self._hand.load(self._positions, self._config, self._opened.taken, raising=raising)

    def _broken(self) -> BaseException | None:
        """Why nothing will come any more, if so."""
        if not (self._topics or self._pattern or self._positions):
            return RuntimeError("This consumer reads nothing: name topics, `subscribe` or `assign` first.")
        if self._membership is not None and self._membership.fatal is not None:
            return self._membership.fatal
        for task in self._tasks.values():
            if task.done() and not task.cancelled() and (error := task.exception()):
                return error
        return None

    # --- positions -----------------------------------------------------------------------------------------------

    async def position(self, partition: TopicPartition) -> int:
        """The offset of the next record to hand out; REQUEST_TIMED_OUT after `default_api_timeout_ms`."""
        [each] = self._assignment.named((partition,))
        bound_ms = self._config.default_api_timeout_ms
        try:
            async with asyncio.timeout(bound_ms / 1000):
                while not each.placed:
                    if each.error is not None:
                        raise each.error
                    await asyncio.sleep(0.005)
        except TimeoutError:
            late = f"{partition}: where to start is not known within default_api_timeout_ms ({bound_ms})."
            raise KafkaError(ErrorCode.REQUEST_TIMED_OUT, late) from None
        self._hand.settle()
        return each.position

    async def seek(self, partition: TopicPartition, offset: int) -> None:
        """Go on from an offset; OFFSET_OUT_OF_RANGE below 0. One that the log has not is found out when it is read."""
        if offset < 0:
            raise KafkaError(ErrorCode.OFFSET_OUT_OF_RANGE, f"{offset} is no offset: seek to 0 or above.")
        for each in self._assignment.let_go((partition,)):
            each.place(offset)
        self._nudge()

    async def seek_to_beginning(self, *partitions: TopicPartition) -> None:
        """Go on from the log start; of all partitions where none is named."""
        for each in self._assignment.let_go(partitions):
            each.unplace(EARLIEST)
        self._nudge()

    async def seek_to_end(self, *partitions: TopicPartition) -> None:
        """Go on with what comes from now on."""
        for each in self._assignment.let_go(partitions):
            each.unplace(LATEST)
        self._nudge()

    async def seek_to_time(self, time_ms: int, *partitions: TopicPartition) -> None:
        """Go on from the first record at or after a time (ms since 1970); from the end where none is that young."""
        for each in self._assignment.let_go(partitions):
            each.unplace(time_ms=time_ms)
        self._nudge()

    async def beginning_offsets(self, *partitions: TopicPartition) -> dict[TopicPartition, int]:
        """Where logs start."""
        found = await look_ups.bounds(self._engine, partitions or tuple(self._positions))
        return {each: bounds.log_start for each, bounds in found.items()}

    async def end_offsets(self, *partitions: TopicPartition) -> dict[TopicPartition, int]:
        """Where logs end: the offsets of the next records to be written."""
        found = await look_ups.bounds(self._engine, partitions or tuple(self._positions))
        return {each: bounds.next for each, bounds in found.items()}

    async def offsets_for_times(self, times: Mapping[TopicPartition, int]) -> dict[TopicPartition, int | None]:
        """The offset of the first record at or after a time each (ms since 1970); None where none is that young."""
        return await look_ups.offsets_for_times(self._engine, times)

    # --- commits -------------------------------------------------------------------------------------------------

    async def commit(self, offsets: Offsets | None = None, *, timeout_ms: float | None = None) -> None:
        """Commit these offsets of next records, or the position after everything that was handed out.

        A commit of partitions that went to another member is refused (STALE_MEMBER_EPOCH), never stolen. While Redis
        does not answer it is tried again for `timeout_ms` (default: `default_api_timeout_ms`), then REQUEST_TIMED_OUT.
        """
        await self._commits.commit(offsets, timeout_ms)

    def commit_nowait(self, offsets: Offsets | None = None) -> asyncio.Task[None]:
        """`commit` in the background; its error is logged where nobody awaits the task."""
        return self._commits.commit_nowait(offsets)

    async def committed(self, *partitions: TopicPartition) -> dict[TopicPartition, OffsetAndMetadata | None]:
        """What the group has committed; None where nothing is."""
        return await self._commits.committed(partitions or tuple(self._positions))

    # --- how it is -----------------------------------------------------------------------------------------------

    def health(self) -> Health:
        """How this consumer is, without asking Redis; never raises."""
        failed = self._fetcher.last_error if self._fetcher else None
        positions = self._positions.values()
        return health_of(positions, self._hand, self._membership, self._config.stuck_after_ms, failed)

    def skipped(self) -> dict[str, int]:
        """Records that could not be decoded and were passed over (`undecodable="skip"`), by topic."""
        return dict(self._hand.skipped)

    # --- inside --------------------------------------------------------------------------------------------------

    @property
    def _engine(self) -> Engine:
        if self._engine_kept is None:
            raise RuntimeError("This consumer is not open: use it inside `async with`.")
        return self._engine_kept

    @property
    def _opened(self) -> Fetcher:
        if self._fetcher is None:
            raise RuntimeError("This consumer is not open: use it inside `async with`.")
        return self._fetcher

    def _nudge(self) -> None:
        """Something has changed: the fetcher looks again, and so does who waits for records; perhaps none will come."""
        if self._fetcher is not None:
            self._fetcher.rest.end()
            self._fetcher.arrived.set()

    def _start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = self._tasks[name] = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._nudge())

    async def _stop(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
