"""Fetching ahead: one task reads every assigned partition that has room, straight from the log, and waits at the ends.

    place ── where to start: committed, a time, a start or an end
    read  ── Log.read into the partitions' buffers, at most `prefetch_bytes` in all
    rest  ── Log.wait, woken by the append itself; or until somebody takes records out, seeks, pauses, assigns

Redis being away is waited out. What only the caller can decide (no offset and no reset, a log cut back) is kept in
`Position.error` and raised when the caller comes for records.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from redbroker.client.positions import EARLIEST, LATEST, LogTruncated, Position
from redbroker.engine.log import Bounds, Read, ReadResult
from redbroker.errors import ErrorCode, KafkaError
from redbroker.types import TopicPartition

if TYPE_CHECKING:
    from redbroker.client.consumer_config import ConsumerConfig
    from redbroker.engine import Engine
    from redbroker.engine.offsets import Committed

__all__ = ["Fetcher", "Rest"]

log = logging.getLogger(__name__)

WAIT_S = 5.0
"""How long a wake-up is trusted before the log is looked at all the same."""
RETRY_S = 0.1
GONE = frozenset({ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ErrorCode.UNKNOWN_TOPIC_ID})
LastWord = Callable[[list[TopicPartition]], Awaitable["dict[TopicPartition, Committed]"]]


class Rest:
    """A wait that somebody else may end early; ended before it began, it does not wait at all."""

    def __init__(self) -> None:
        self._ended = False
        self._waiting: asyncio.Task[Any] | None = None

    def end(self) -> None:
        """Something has changed: look again."""
        self._ended = True
        if self._waiting is not None:
            self._waiting.cancel()

    async def of(self, wait: Coroutine[Any, Any, Any]) -> None:
        """Wait, unless and until ended."""
        if self._ended:
            self._ended = False
            wait.close()
            return
        self._waiting = asyncio.ensure_future(wait)
        try:
            await asyncio.wait({self._waiting})
            if not self._waiting.cancelled():
                self._waiting.result()
        finally:
            self._waiting.cancel()
            self._waiting, self._ended = None, False


class Fetcher:
    """Fills the buffers of `positions`; `arrived` is set whenever the caller may find something new.

    `put_back` takes away what was decoded of a partition and not handed out.
    """

    def __init__(
        self, engine: Engine, config: ConsumerConfig, positions: dict[TopicPartition, Position], committed: LastWord,
        put_back: Callable[[Position], None],
    ) -> None:  # fmt: skip
        self._engine, self._config, self._positions, self._committed = engine, config, positions, committed
        self._put_back = put_back
        self.arrived = asyncio.Event()
        self.rest = Rest()
        self.last_error: KafkaError | None = None
        self._first = 0

    async def run(self) -> None:
        """Fetch until cancelled."""
        while True:
            try:
                await self._place()
                await self._read()
            except KafkaError as error:
                self.last_error = error
                log.debug("Fetching goes on in a moment: %s", error)
                await asyncio.sleep(RETRY_S * random.uniform(0.5, 1.5))

    @property
    def share(self) -> int:
        """The part of `prefetch_bytes` each partition may use; it is filled again once half empty."""
        return max(2, self._config.prefetch_bytes // max(1, len(self._positions)))

    def taken(self, of: Position, before: int) -> None:
        """Batches were taken out of a buffer that held `before` bytes: fetch again when it is half empty by that."""
        if before >= self.share // 2 > of.buffered_bytes:
            self.rest.end()

    # --- where to start ------------------------------------------------------------------------------------------

    async def _place(self) -> None:
        """Find the start of every partition that has none."""
        now_s = time.monotonic()
        due = [
            each for each in self._positions.values()
            if not each.placed and each.error is None and each.wait_until_s <= now_s
        ]  # fmt: skip
        if not due:
            return
        known = [each for each in due if self._known(each)]
        asked = [each for each in known if each.wanted_reset is None and each.wanted_time_ms is None]
        versions = {id(each): each.version for each in known}
        committed = await self._committed([each.partition for each in asked]) if asked else {}
        for each in known:
            if each.version != versions[id(each)]:
                continue
            try:
                await self._place_one(each, committed.get(each.partition))
            except KafkaError as error:  # another one's Redis master may well answer
                self._put_off(each, error)
        self.arrived.set()

    async def _place_one(self, each: Position, committed: Committed | None) -> None:
        if each.wanted_time_ms is not None:
            await self._place_by_time(each, each.wanted_time_ms)
        elif each.wanted_reset is not None:
            await self._place_at(each, each.wanted_reset)
        elif committed is not None and committed.offset >= 0:
            each.place(committed.offset, committed.leader_epoch)
            await self._check_truncation(each)
        else:
            await self.reset(each, "nothing is committed for it")

    def _put_off(self, each: Position, error: KafkaError) -> None:
        """Leave a partition alone for a moment."""
        self.last_error = error
        each.wait_until_s = time.monotonic() + RETRY_S

    def _known(self, each: Position) -> bool:
        """Whether the partition exists; one that does not is looked for again in a moment."""
        topic = self._engine.topics.get(each.partition.topic)
        if topic is not None and 0 <= each.partition.partition < topic.partitions:
            each.topic = topic
            return True
        each.wait_until_s = time.monotonic() + RETRY_S
        self.last_error = KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"{each.partition} does not exist (yet).")
        self._engine.topics.changed()
        return False

    async def reset(self, each: Position, why: str) -> None:
        """Go where `auto_offset_reset` says; with `none`, the caller is told."""
        policy, ago_ms = self._config.auto_offset_reset, self._config.reset_duration_ms
        if policy == "none":
            each.error = KafkaError(
                ErrorCode.OFFSET_OUT_OF_RANGE, f"{each.partition}: {why}, and auto_offset_reset is none: seek first."
            )
            self.arrived.set()
        elif ago_ms is not None:
            await self._place_by_time(each, max(0, int(time.time() * 1000) - ago_ms))
        else:
            await self._place_at(each, EARLIEST if policy == "earliest" else LATEST)

    async def _place_at(self, each: Position, reset: int) -> None:
        version = each.version
        bounds = await self._bounds(each)
        if each.version != version:  # the caller has sought elsewhere meanwhile
            return
        each.place(bounds.log_start if reset == EARLIEST else bounds.next)
        each.log_start, each.log_end, each.leader_epoch = bounds.log_start, bounds.next, bounds.leader_epoch

    async def _place_by_time(self, each: Position, time_ms: int) -> None:
        assert each.topic is not None
        version = each.version
        [found] = await self._engine.log.find_time([(each.topic, each.partition.partition, time_ms)], impatient=True)
        if isinstance(found, KafkaError):
            raise found
        if each.version != version:
            return
        if found is None:
            await self._place_at(each, LATEST)
        else:
            each.place(found[0])

    async def _bounds(self, each: Position) -> Bounds:
        assert each.topic is not None
        [bounds] = await self._engine.log.bounds([(each.topic, each.partition.partition)], impatient=True)
        if isinstance(bounds, KafkaError):
            raise bounds
        return bounds

    # --- reading -------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        """One round over all that have room; rest when it brought nothing."""
        now_s = time.monotonic()
        share = self.share
        room = self._config.prefetch_bytes - sum(each.buffered_bytes for each in self._positions.values())
        ready = [
            each for each in self._positions.values()
            if each.placed and each.readable and each.error is None and 2 * each.buffered_bytes < share
            and each.wait_until_s <= now_s and (each.topic is not None or self._known(each))
        ]  # fmt: skip
        if not ready or room <= 0:
            await self.rest.of(asyncio.sleep(self._longest_rest_s(now_s)))
            return
        self._first = (self._first + 1) % len(ready)  # the first has the first claim on the room: take turns
        ready = ready[self._first :] + ready[: self._first]
        most = self._config.max_partition_fetch_bytes
        by_id = self._engine.topics.by_id  # its configs may have changed
        reads = [
            Read(by_id(each.topic.id) or each.topic, each.partition.partition, each.fetch,
                 min(most, share - each.buffered_bytes), each.leader_epoch)
            for each in ready if each.topic is not None
        ]  # fmt: skip
        versions = [each.version for each in ready]
        results = await self._engine.log.read(reads, max_bytes=room, trust=True)
        at_end: list[tuple[Read, ReadResult]] = []
        found = False
        for each, version, read, result in zip(ready, versions, reads, results, strict=True):
            if each.version != version or self._positions.get(each.partition) is not each:
                found = True
            elif isinstance(result, KafkaError):
                try:
                    await self._refused(each, result)
                except KafkaError as error:
                    self._put_off(each, error)
                found = True
            elif result.batches:
                self._take_in(each, result)
                found = True
            else:
                each.log_start, each.log_end, each.leader_epoch = result.log_start, result.next, result.leader_epoch
                at_end.append((read, result))
        if found:
            self.last_error = None
            self.arrived.set()
        elif at_end:
            await self.rest.of(self._engine.log.wait(at_end, 1, self._longest_rest_s(now_s)))

    def _longest_rest_s(self, now_s: float) -> float:
        held_up = any(not each.placed or each.wait_until_s > now_s for each in self._positions.values())
        return RETRY_S if held_up else WAIT_S

    def _take_in(self, each: Position, result: ReadResult) -> None:
        last = result.batches[-1]
        end = last.base_offset + int.from_bytes(last.batch[23:27], "big") + 1
        each.log_start, each.log_end, each.leader_epoch = result.log_start, result.next, result.leader_epoch
        each.take_in(result.batches, end, result.nbytes)

    async def _refused(self, each: Position, error: KafkaError) -> None:
        """What a refused read means for the partition."""
        self.last_error = error
        if error.code is ErrorCode.FENCED_LEADER_EPOCH:
            await self._check_truncation(each)
        elif error.code is ErrorCode.UNKNOWN_LEADER_EPOCH:
            each.leader_epoch = -1
        elif error.code is ErrorCode.OFFSET_OUT_OF_RANGE:
            await self._out_of_range(each)
        elif error.code in GONE:
            each.wait_until_s = time.monotonic() + RETRY_S
            version = each.version
            await self._engine.topics.reload()
            topic = self._engine.topics.get(each.partition.topic)
            if topic is not None and each.topic is not None and topic.id != each.topic.id and each.version == version:
                log.warning("%s was deleted and made again: its offsets begin anew.", each.partition)
                each.unplace(EARLIEST)
        else:
            self._put_off(each, error)

    async def _out_of_range(self, each: Position) -> None:
        if each.position < each.fetch:  # what was fetched is still good; look again when it was handed out
            each.wait_until_s = time.monotonic() + RETRY_S
            return
        version = each.version
        bounds = await self._bounds(each)
        if each.version != version:
            return
        each.wait_until_s = time.monotonic() + RETRY_S
        if each.position > bounds.next and each.epoch >= 0:
            await self._check_truncation(each)
            return
        if each.position < bounds.log_start:
            why = f"the log was trimmed to {bounds.log_start}, past its position {each.position}"
        elif each.position > bounds.next:
            why = f"position {each.position} lies behind the log end {bounds.next}"
        else:
            return  # the log has grown since, or become another: read again
        log.warning("%s: %s.", each.partition, why)
        await self.reset(each, why)

    async def _check_truncation(self, each: Position) -> None:
        """After a failover: where the log was cut back before what was handed out (KIP-320), go back, or tell.

        What was fetched and not handed out is fetched again: it may be of what was cut off. Until it is known that
        nothing was, the old leader epoch stays what reads claim, so that none of them passes the cut.
        """
        assert each.topic is not None
        self._put_back(each)
        each.forget_buffer()
        if each.epoch < 0:
            each.leader_epoch = -1
            return
        version = each.version
        asked = [(each.topic, each.partition.partition, each.epoch)]
        [end] = await self._engine.log.epoch_end(asked, impatient=True)
        if isinstance(end, KafkaError):
            raise end
        if each.version != version:
            return
        each.leader_epoch = end.leader_epoch
        if end.end_offset >= each.position:
            return
        cut = LogTruncated(each.partition, each.position, end.end_offset)
        log.warning("%s", cut)
        if self._config.auto_offset_reset == "none":
            each.error = cut
            self.arrived.set()
        elif end.end_offset >= 0:
            each.place(end.end_offset, end.epoch)
            each.leader_epoch = end.leader_epoch
        else:
            await self.reset(each, "its epoch is unknown to the log")
