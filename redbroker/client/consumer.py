"""Consumer: records of topics, straight from Redis; alone, or sharing partitions with the other members of a group.

    async with Consumer("orders", storage="redis://localhost:6379", group_id="billing") as consumer:
        async for record in consumer:
            print(record.key, record.value)

A record counts as done when the caller asks for the next one, or leaves the block without an error; automatic commits
cover what is done, so a crash repeats records and never skips one. Members of a group may as well be Kafka clients.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import Any

import anyio

from redbroker.client.config import configure
from redbroker.client.connection import Connection, engine_of
from redbroker.client.consumer_config import ConsumerConfig, RebalanceListener
from redbroker.client.decoding import decoded
from redbroker.client.fetching import Fetcher, lag_s
from redbroker.client.health import Health
from redbroker.client.membership import Membership
from redbroker.client.positions import EARLIEST, LATEST, Position, not_assigned
from redbroker.client.types import ConsumerRecord, OffsetAndMetadata
from redbroker.engine import Engine
from redbroker.engine.offsets import NOTHING, Commit, Committed
from redbroker.errors import ErrorCode, KafkaError
from redbroker.types import TopicPartition

__all__ = ["Consumer", "RebalanceListener"]

log = logging.getLogger(__name__)

CHUNK_RECORDS = 500
"""Records decoded at once, unless a batch has more: the event loop is others' meanwhile and after it."""
COMMIT_ATTEMPTS = 20
STEP_S = 0.05
YIELD_S = 0.002
"""Whoever finds records at hand all the time still lets others run after this long."""


class Consumer:
    """A reader of topics; see the module and `ConsumerConfig` for its settings. Nothing is done before `async with`."""

    def __init__(
        self, *topics: str, storage: str | Connection | None = None, config: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:  # fmt: skip
        self._shared = storage if isinstance(storage, Connection) else None
        url = storage if isinstance(storage, str) else None
        self._config, own = configure(ConsumerConfig, url, config, settings)
        self._settings = self._shared.settings if self._shared else own
        self._topics: tuple[str, ...] = topics
        self._pattern: str | None = None
        self._listener = RebalanceListener()
        self._positions: dict[TopicPartition, Position] = {}
        self._chunk: Sequence[ConsumerRecord] = ()
        self._at = self._from = 0  # the next one to hand out; where `async for` took over from `getmany`
        self._of: Position | None = None
        self._end = 0  # the offset behind the chunk
        self._hand: set[Position] = set()
        self._yielded_s = 0.0
        self._engine_kept: Engine | None = None
        self._fetcher: Fetcher | None = None
        self._membership: Membership | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._pending: set[asyncio.Task[None]] = set()
        self._settled = asyncio.Event()  # the caller is done with something, or came back
        self._stack = contextlib.AsyncExitStack()

    # --- opening and closing -------------------------------------------------------------------------------------

    async def __aenter__(self) -> Consumer:
        if self._engine_kept is not None:
            raise RuntimeError("This consumer is open already.")
        engine = self._engine_kept = await self._stack.enter_async_context(engine_of(self._shared, self._settings))
        self._fetcher = Fetcher(engine, self._config, self._positions, self._last_committed)
        self._start("fetching", self._fetcher.run())
        if self._config.enable_auto_commit and self._config.group_id:
            self._start("committing", self._commit_now_and_then())
        if self._topics or self._pattern:
            self.subscribe(self._topics, pattern=self._pattern, listener=self._listener)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            try:
                with anyio.move_on_after(self._config.close_timeout_ms / 1000):
                    if error is None:
                        self._all_done()
                    await self._close()
                for name in list(self._tasks):
                    await self._stop(name)
                for task in self._pending:
                    task.cancel()
            finally:
                self._engine_kept = self._fetcher = self._membership = None
                self._positions.clear()
                self._chunk, self._at, self._from, self._of = (), 0, 0, None
                self._hand.clear()
                await self._stack.aclose()

    async def _close(self) -> None:
        """Commit, tell the listener, leave: as much of it as there is time for."""
        await self._stop("fetching")
        await self._stop("committing")
        if self._pending:
            await asyncio.wait(self._pending)
        await self._leave()

    async def _leave(self) -> None:
        owned, membership = sorted(self._positions), self._membership
        if membership is not None and owned:
            await self._listener.on_revoked(owned)
        await self._commit_done(owned)
        await self._stop("membership")
        self._membership = None
        if membership is not None:
            await membership.leave()

    # --- what to read --------------------------------------------------------------------------------------------

    def subscribe(
        self, topics: Collection[str] = (), *, pattern: str | None = None, listener: RebalanceListener | None = None
    ) -> None:
        """Share the partitions of topics, named or matched by a pattern (RE2, whole names), with the group.

        Without a `group_id`, this consumer alone reads all partitions of the topics, which must be named.
        """
        self._topics, self._pattern = tuple(dict.fromkeys(topics)), pattern
        self._listener = listener or self._listener
        if self._engine_kept is None:
            return
        if self._membership is not None or "membership" in self._tasks:
            raise RuntimeError("This consumer is subscribed: `await unsubscribe()` first.")
        if self._config.group_id is None:
            if pattern:
                raise KafkaError(ErrorCode.INVALID_GROUP_ID, "A pattern needs a group: set group_id.")
            self._adopt_all()
            self._start("membership", self._read_all())
            return
        self._membership = Membership(
            self._engine, self._config, self._topics, pattern, self._revoke, self._take, self._lose
        )
        self._start("membership", self._membership.run())

    async def unsubscribe(self) -> None:
        """Leave the group, or stop reading what was assigned."""
        await self._leave()
        await self._stop("membership")
        self._drop(frozenset(self._positions))
        self._topics, self._pattern = (), None

    def assign(self, partitions: Collection[TopicPartition]) -> None:
        """Read exactly these partitions, without sharing; committed offsets, if any, are of `group_id`."""
        if self._topics or self._pattern:
            raise RuntimeError("This consumer is subscribed: `await unsubscribe()` first.")
        wanted = {TopicPartition(*each) for each in partitions}
        self._drop(frozenset(self._positions.keys() - wanted))
        self._add(frozenset(wanted - self._positions.keys()))

    def assignment(self) -> frozenset[TopicPartition]:
        """The partitions this consumer reads now."""
        return frozenset(self._positions)

    def pause(self, *partitions: TopicPartition) -> None:
        """Hand out nothing of these until `resume`; what was fetched ahead is dropped."""
        for each in self._named(partitions):
            self._put_back(each)
            each.paused = True
            each.forget_buffer()
        self._nudge()

    def resume(self, *partitions: TopicPartition) -> None:
        """Go on with paused partitions."""
        for each in self._named(partitions):
            each.paused, each.moved_s = False, time.monotonic()
        self._nudge()

    # --- records -------------------------------------------------------------------------------------------------

    def __aiter__(self) -> Consumer:
        return self

    async def __anext__(self) -> ConsumerRecord:
        """The next record: nothing is awaited while decoded ones are at hand."""
        at = self._at
        if at < len(self._chunk):
            self._at = at + 1
            return self._chunk[at]
        self._all_done()
        await self._let_others_run()
        await self._more(None)
        self._at = 1
        return self._chunk[0]

    async def getmany(self, max_records: int = 500, timeout_ms: float = 1_000) -> list[ConsumerRecord]:
        """Up to so many records, in order per partition; an empty list when none came in time."""
        self._all_done()
        await self._let_others_run()
        found: list[ConsumerRecord] = []
        if not self._chunk and not await self._more(timeout_ms / 1000):
            return found
        while len(found) < max_records and (self._chunk or self._load(raising=False)):
            of, room = self._of, max_records - len(found)
            assert of is not None
            part = self._chunk[self._at : self._at + room]
            self._at = self._from = self._at + len(part)
            left = self._at < len(self._chunk)
            of.position = self._chunk[self._at].offset if left else self._end
            of.epoch = part[-1].leader_epoch
            self._hand.add(of)
            if not left:
                self._chunk, self._at, self._from, self._of = (), 0, 0, None
            found += part
        return found

    async def _more(self, timeout_s: float | None) -> bool:
        """Wait for a chunk; False when time is over. Raises what only the caller can decide."""
        arrived = self._opened.arrived
        try:
            async with asyncio.timeout(timeout_s):
                while not self._load():
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
        """Decode the next buffered batches of one partition, in turn; what stands in the way is raised, if wished."""
        if raising and (broken := self._broken()):
            raise broken
        for partition, each in list(self._positions.items()):
            if not each.readable or (each.error and not raising):
                continue
            if each.error is not None:
                raise each.error
            if not each.batches:
                continue
            self._positions[partition] = self._positions.pop(partition)  # the others come first next time
            if self._decode(each):
                return True
            if each.error is not None and raising:
                raise each.error
        return False

    def _decode(self, of: Position) -> bool:
        """Make the chunk of one partition's batches; False when they held no records."""
        half, before = self._opened.share // 2, of.buffered_bytes
        chunk: list[ConsumerRecord] = []
        end = of.position
        while of.batches and len(chunk) < CHUNK_RECORDS:
            stored = of.next_batch()
            records, end, of.error = decoded(stored, of.partition, end, self._config)
            chunk = chunk + records if chunk else records
            if of.error is not None:
                of.batches.clear()
                of.buffered_bytes = 0
                break
        if before >= half > of.buffered_bytes:
            self._opened.rest.end()
        of.moved_s = time.monotonic()
        if not chunk:
            of.position = of.done = end
            return False
        self._chunk, self._at, self._from, self._of, self._end = chunk, 0, 0, of, end
        return True

    def _broken(self) -> BaseException | None:
        """Why nothing will come any more, if so."""
        if self._membership is not None and self._membership.fatal is not None:
            return self._membership.fatal
        for task in self._tasks.values():
            if task.done() and not task.cancelled() and (error := task.exception()):
                return error
        return None

    # --- what the caller has in hand -----------------------------------------------------------------------------

    def _settle(self) -> None:
        """Bring the position up to what `async for` has taken of the chunk; the last record taken is in hand."""
        of, at = self._of, self._at
        if of is not None and at > self._from:
            of.position = self._chunk[at].offset if at < len(self._chunk) else self._end
            of.done, of.epoch = self._chunk[at - 1].offset, self._chunk[at - 1].leader_epoch
            self._hand.add(of)

    def _all_done(self) -> None:
        """The caller is done with everything that was handed out."""
        self._settle()
        self._from = self._at
        if self._at == len(self._chunk):
            self._chunk, self._at, self._from, self._of = (), 0, 0, None
        for each in self._hand:
            each.done = each.position
        if self._hand:
            self._hand.clear()
            self._settled.set()

    def _put_back(self, of: Position) -> None:
        """Hand out nothing more of this partition's chunk."""
        if self._of is of:
            self._settle()
            self._chunk, self._at, self._from, self._of = (), 0, 0, None

    # --- the partitions that come and go -------------------------------------------------------------------------

    def _add(self, partitions: Collection[TopicPartition], *, held: bool = False) -> None:
        for each in sorted(partitions):
            topic = self._engine_kept.topics.get(each.topic) if self._engine_kept else None
            self._positions[each] = Position(each, topic)
            self._positions[each].held = held
        self._nudge()

    def _drop(self, partitions: Collection[TopicPartition]) -> None:
        for each in partitions:
            gone = self._positions.pop(each, None)
            if gone is not None:
                self._put_back(gone)
                self._hand.discard(gone)
        self._nudge()

    async def _take(self, partitions: frozenset[TopicPartition]) -> None:
        self._add(partitions, held=True)
        try:
            await self._listener.on_assigned(sorted(partitions))
        finally:
            for each in partitions & self._positions.keys():
                self._positions[each].held = False
            self._nudge()

    async def _revoke(self, partitions: frozenset[TopicPartition]) -> None:
        """Give up partitions: the caller first gets to be done with what it has of them."""
        going = [self._positions[each] for each in sorted(partitions) if each in self._positions]
        try:
            for each in going:
                self._put_back(each)
                each.held = True
                each.forget_buffer()
            try:
                async with asyncio.timeout(self._config.rebalance_timeout_ms / 1000 / 2):
                    while any(each.in_hand for each in going):
                        self._settled.clear()
                        await self._settled.wait()
            except TimeoutError:
                log.warning("Records of %s are given up unfinished: rebalance_timeout_ms is too short.", going)
            await self._listener.on_revoked(sorted(partitions))
            if self._config.enable_auto_commit:
                await self._commit_done(partitions)
        finally:
            self._drop(partitions)

    async def _lose(self, partitions: frozenset[TopicPartition]) -> None:
        self._drop(partitions)
        await self._listener.on_lost(sorted(partitions))

    async def _read_all(self) -> None:
        """Without a group: every partition of the topics, also those to come."""
        assert self._engine_kept is not None
        changed = asyncio.Event()
        unwatch = self._engine_kept.topics.watch(changed.set)
        try:
            while True:
                changed.clear()
                self._adopt_all()
                await changed.wait()
        finally:
            unwatch()

    def _adopt_all(self) -> None:
        """Read what there is of the topics now."""
        assert self._engine_kept is not None
        topics = self._engine_kept.topics
        named = [topic for name in self._topics if (topic := topics.get(name)) is not None]
        wanted = {TopicPartition(topic.name, number) for topic in named for number in range(topic.partitions)}
        self._drop(self._positions.keys() - wanted)
        self._add(wanted - self._positions.keys())

    # --- positions -----------------------------------------------------------------------------------------------

    async def position(self, partition: TopicPartition) -> int:
        """The offset of the next record to hand out."""
        [each] = self._named((partition,))
        async with asyncio.timeout(self._config.default_api_timeout_ms / 1000):
            while not each.placed:
                if each.error is not None:
                    raise each.error
                await asyncio.sleep(0.005)
        self._settle()
        return each.position

    async def seek(self, partition: TopicPartition, offset: int) -> None:
        """Go on from an offset."""
        if offset < 0:
            raise KafkaError(ErrorCode.OFFSET_OUT_OF_RANGE, f"{offset} is no offset: seek to 0 or above.")
        for each in self._moved((partition,)):
            each.place(offset)
        self._nudge()

    async def seek_to_beginning(self, *partitions: TopicPartition) -> None:
        """Go on from the log start; of all partitions where none is named."""
        for each in self._moved(partitions):
            each.unplace(EARLIEST)
        self._nudge()

    async def seek_to_end(self, *partitions: TopicPartition) -> None:
        """Go on with what comes from now on."""
        for each in self._moved(partitions):
            each.unplace(LATEST)
        self._nudge()

    async def seek_to_time(self, time_ms: int, *partitions: TopicPartition) -> None:
        """Go on from the first record at or after a time (ms since 1970); from the end where none is that young."""
        for each in self._moved(partitions):
            each.unplace(time_ms=time_ms)
        self._nudge()

    def _named(self, partitions: Sequence[TopicPartition]) -> list[Position]:
        """The positions of these, of all where none is named."""
        for each in partitions:
            if each not in self._positions:
                raise not_assigned(each)
        return [self._positions[each] for each in partitions or tuple(self._positions)]

    def _moved(self, partitions: Sequence[TopicPartition]) -> list[Position]:
        found = self._named(partitions)
        for each in found:
            self._put_back(each)
            self._hand.discard(each)
        return found

    async def beginning_offsets(self, *partitions: TopicPartition) -> dict[TopicPartition, int]:
        """Where logs start."""
        return {each: bounds.log_start for each, bounds in (await self._bounds(partitions)).items()}

    async def end_offsets(self, *partitions: TopicPartition) -> dict[TopicPartition, int]:
        """Where logs end: the offsets of the next records to be written."""
        return {each: bounds.next for each, bounds in (await self._bounds(partitions)).items()}

    async def offsets_for_times(self, times: Mapping[TopicPartition, int]) -> dict[TopicPartition, int | None]:
        """The offset of the first record at or after a time each (ms since 1970); None where none is that young."""
        wants = [(await self._topic(each), each.partition, time_ms) for each, time_ms in times.items()]
        found = await self._engine.log.find_time(wants)
        return {each: hit if hit is None else _raised(hit)[0] for each, hit in zip(times, found, strict=True)}

    async def _bounds(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Any]:
        named = partitions or tuple(self._positions)
        found = await self._engine.log.bounds([(await self._topic(each), each.partition) for each in named])
        return {each: _raised(bounds) for each, bounds in zip(named, found, strict=True)}

    async def _topic(self, partition: TopicPartition) -> Any:
        topic = await self._engine.topics.find(partition.topic)
        if topic is None or not 0 <= partition.partition < topic.partitions:
            raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"{partition} does not exist.")
        return topic

    # --- commits -------------------------------------------------------------------------------------------------

    async def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata | int] | None = None) -> None:
        """Commit these offsets of next records, or the position after everything that was handed out.

        A commit of partitions that went to another member is refused (STALE_MEMBER_EPOCH), never stolen.
        """
        self._settle()
        if offsets is None:
            wanted = {
                each.partition: OffsetAndMetadata(each.position, "", each.epoch)
                for each in self._positions.values() if each.placed
            }  # fmt: skip
        else:
            wanted = {
                TopicPartition(*each): OffsetAndMetadata(given) if isinstance(given, int) else given
                for each, given in offsets.items()
            }
        async with asyncio.timeout(self._config.default_api_timeout_ms / 1000):
            await self._commit(wanted)

    def commit_nowait(
        self, offsets: Mapping[TopicPartition, OffsetAndMetadata | int] | None = None
    ) -> asyncio.Task[None]:
        """`commit` in the background; its error is logged where nobody awaits the task."""
        task = asyncio.create_task(self.commit(offsets))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)
        task.add_done_callback(_tell_failure)
        return task

    async def committed(self, *partitions: TopicPartition) -> dict[TopicPartition, OffsetAndMetadata | None]:
        """What the group has committed; None where nothing is."""
        found = await self._engine.offsets.fetch(self._group, partitions or tuple(self._positions))
        return {
            each: OffsetAndMetadata(what.offset, what.metadata, what.leader_epoch) if what.offset >= 0 else None
            for each, what in found.items()
        }

    @property
    def _group(self) -> str:
        if self._config.group_id is None:
            raise KafkaError(ErrorCode.INVALID_GROUP_ID, "Committed offsets belong to a group: set group_id.")
        return self._config.group_id

    async def _commit(self, wanted: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        """Commit, again while Redis is away or the member epoch has just moved on."""
        group = self._group
        commits = [
            Commit(each.topic, each.partition, at.offset, at.leader_epoch, at.metadata) for each, at in wanted.items()
        ]
        for attempt in range(COMMIT_ATTEMPTS + 1):
            membership = self._membership
            for each in wanted if membership is not None else ():
                if each not in self._positions:
                    raise not_assigned(each)
            if not commits:
                return
            member, epoch = (membership.member_id, membership.epoch) if membership else ("", -1)
            try:
                refusals = await self._engine.offsets.commit(
                    group, commits, member_id=member, epoch=epoch, instance_id=self._config.group_instance_id
                )
            except KafkaError as error:
                stale = error.code is ErrorCode.STALE_MEMBER_EPOCH and membership is not None
                if attempt == COMMIT_ATTEMPTS or not (stale or error.retriable):
                    raise
                if stale and membership is not None:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(1):
                            await membership.caught_up()
                else:
                    await asyncio.sleep(STEP_S * (attempt + 1))
                continue
            for refusal in refusals:
                if refusal is not None:
                    raise refusal
            self._note_committed(wanted)
            return

    def _note_committed(self, wanted: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        for partition, at in wanted.items():
            if (each := self._positions.get(partition)) is not None:
                each.committed = at.offset
                each.done = max(each.done, min(at.offset, each.position))
        self._settled.set()

    async def _commit_done(self, partitions: Collection[TopicPartition]) -> None:
        """Commit what the caller is done with; a failure is logged, for nobody waits for it."""
        if not (self._config.group_id and self._config.enable_auto_commit):
            return
        self._settle()
        due = {
            each.partition: OffsetAndMetadata(each.done, "", each.epoch)
            for each in map(self._positions.get, partitions)
            if each is not None and each.placed and each.done != each.committed
        }
        try:
            await self._commit(due)
        except KafkaError as error:
            log.warning("Group %r: offsets could not be committed automatically: %s", self._config.group_id, error)

    async def _commit_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(self._config.auto_commit_interval_ms / 1000)
            await self._commit_done(tuple(self._positions))

    async def _last_committed(self, partitions: list[TopicPartition]) -> dict[TopicPartition, Committed]:
        if self._config.group_id is None:
            return dict.fromkeys(partitions, NOTHING)
        return await self._engine.offsets.fetch(self._config.group_id, partitions)

    # --- how it is -----------------------------------------------------------------------------------------------

    def health(self) -> Health:
        """How this consumer is, without asking Redis; never raises."""
        self._settle()
        positions, membership = list(self._positions.values()), self._membership
        still_s = time.monotonic() - self._config.stuck_after_ms / 1000
        if membership is None and not positions:
            state = "unassigned"
        elif any(each.lag and each.readable and each.moved_s < still_s for each in positions):
            state = "stuck"
        elif membership is not None and membership.rebalancing:
            state = "rebalancing"
        else:
            state = "joined" if positions else "standby"
        now_ms = int(time.time() * 1000)
        behind_s = lag_s(positions, now_ms)
        if self._at < len(self._chunk):
            behind_s = max(behind_s, (now_ms - self._chunk[self._at].timestamp_ms) / 1000)
        error = (membership.fatal or membership.last_error) if membership else None
        error = error or (self._fetcher.last_error if self._fetcher else None)
        return Health(state, sum(each.lag for each in positions), behind_s, frozenset(self._positions), error)

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
        if self._fetcher is not None:
            self._fetcher.rest.end()

    def _start(self, name: str, work: Any) -> None:
        task = self._tasks[name] = asyncio.create_task(work)
        task.add_done_callback(self._ended)

    def _ended(self, _: asyncio.Task[None]) -> None:
        """Whoever waits for records learns why none will come."""
        if self._fetcher is not None:
            self._fetcher.arrived.set()

    async def _stop(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.wait({task})


def _raised(found: Any) -> Any:
    """The value, unless it is an error."""
    if isinstance(found, KafkaError):
        raise found
    return found


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.warning("A commit failed: %s", error)
